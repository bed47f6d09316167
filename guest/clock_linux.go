package guest

import (
	"time"

	"golang.org/x/sys/unix"
)

// threadTime is how long the calling thread has had a processor, and which one it is.
func threadTime() (thread int, clock time.Duration, known bool) {
	var t unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return unix.Gettid(), time.Duration(t.Nano()), err == nil
}
