package hold

import "time"

// SetCopyTimeout sets how long a client may take for a piece of an initial body,
// and returns what sets it back.
func SetCopyTimeout(d time.Duration) (restore func()) {
	old := copyTimeout
	copyTimeout = d
	return func() { copyTimeout = old }
}
