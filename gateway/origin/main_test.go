package origin_test

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain is also the benchmark's other process, and finds goroutines that were
// left behind.
func TestMain(m *testing.M) {
	if runAsPeer() {
		return
	}
	goleak.VerifyTestMain(m)
}
