package guest_test

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gripway/gripway/guest"
)

// stall holds the thread: Go does not know of it, as it does not know of other programs.
func stall(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	unix.Nanosleep(&t, nil)
}

// The system may give the processor to others for longer than a guest may compute. That
// is not the guest's time.
func TestTimeOfOtherProgramsIsNotTheGuests(t *testing.T) {
	p, _ := load(t, `(func $work (local $i i32)
			(local.set $i (i32.const 3000000))
			(loop $l (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1))))))
		(func (export "_start")
			(drop (call $next))
			(call $work)
			(call $stall (i32.const 120))
			(call $work)
			(call $answer (i32.const 204)))`, guest.LoadOptions{Limits: guest.Limits{CPU: 50 * time.Millisecond}})
	for range 5 {
		if got, err := status(t, p); err != nil || got != 204 {
			t.Fatalf("got %d, %v", got, err)
		}
	}
}
