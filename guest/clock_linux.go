package guest

import (
	"time"

	"golang.org/x/sys/unix"
)

// readProcessorTime tells how long the calling thread has had a processor, and all
// threads together.
func readProcessorTime() (t processorTime, known bool) {
	var own, all unix.Timespec
	known = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &own) == nil && unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &all) == nil
	return processorTime{unix.Gettid(), time.Duration(own.Nano()), time.Duration(all.Nano())}, known
}
