//go:build !linux

package guest

import "time"

// threadTime is unknown here.
func threadTime() (thread int, clock time.Duration, known bool) { return 0, 0, false }
