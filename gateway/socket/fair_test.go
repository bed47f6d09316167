package socket

import "testing"

func TestRecoveriesOfOneRouteHoldUpNoOther(t *testing.T) {
	k := NewKeeper(Options{})
	for i := range recoveriesMax {
		if !k.beginRecovery("hangs") {
			t.Fatalf("recovery %d has no place, want %d at once", i, recoveriesMax)
		}
	}
	if k.beginRecovery("hangs") {
		t.Error("one recovery too many has a place")
	}
	if !k.beginRecovery("other") {
		t.Error("another route has no place because of this one")
	}
	k.endRecovery("hangs")
	if !k.beginRecovery("hangs") {
		t.Error("a place that is free again is not given")
	}
	for range recoveriesMax {
		k.endRecovery("hangs")
	}
	k.endRecovery("other")
	if len(k.recovering) != 0 {
		t.Errorf("routes are remembered that nothing is asked of: %v", k.recovering)
	}
}
