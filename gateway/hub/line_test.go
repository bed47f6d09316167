package hub

import (
	"context"
	"slices"
	"testing"
	"time"
)

func TestALineKeepsItsOrderAndItsBounds(t *testing.T) {
	var l line
	var done []int
	gate, began := make(chan struct{}), make(chan struct{})
	l.do(0, func(context.Context) { close(began); <-gate })
	<-began
	for i := range lineItemsMax {
		if !l.do(1, func(context.Context) { done = append(done, i) }) {
			t.Fatalf("%d of %d was refused", i, lineItemsMax)
		}
	}
	if l.do(1, func(context.Context) { t.Error("was done") }) {
		t.Error("one too many was taken")
	}
	close(gate)
	l.wait(nil)
	if len(done) != lineItemsMax || !slices.IsSorted(done) {
		t.Errorf("got %d things done, in order: %v; want %d in order", len(done), slices.IsSorted(done), lineItemsMax)
	}
	if l.busy() {
		t.Error("a line that has done everything is busy")
	}
}

func TestALineTakesOneLargeThing(t *testing.T) {
	var l line
	gate := make(chan struct{})
	defer close(gate)
	began := make(chan struct{})
	l.do(0, func(context.Context) { close(began); <-gate })
	<-began
	if !l.do(2*lineBytesMax, func(context.Context) {}) {
		t.Error("one thing above the bound was refused: it was allowed to be published")
	}
	if l.do(1, func(context.Context) {}) {
		t.Error("more was taken above the bound")
	}
}

func TestAnEndedLineGivesUp(t *testing.T) {
	var l line
	began, ended := make(chan struct{}), make(chan struct{})
	l.do(0, func(ctx context.Context) {
		close(began)
		<-ctx.Done()
		close(ended)
	})
	<-began
	l.do(0, func(context.Context) { t.Error("what waited was done") })
	l.end()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("what was being done did not hear of the end")
	}
	l.wait(nil)
	l.do(0, func(context.Context) { t.Error("was done after the end") })
}
