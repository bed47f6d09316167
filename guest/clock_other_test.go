//go:build !linux

package guest_test

import "time"

func stall(d time.Duration) { time.Sleep(d) }
