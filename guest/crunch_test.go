package guest

import (
	"context"
	"testing"
	"time"
)

// wait has somebody wait in c until the number of those who do is n.
func (c *crunchers) wait(t *testing.T, ctx context.Context, young bool, n int, then func(has bool)) {
	t.Helper()
	go func() { then(c.take(ctx, young)) }()
	for end := time.Now().Add(10 * time.Second); int(c.waiting.Load()) != n; time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			t.Fatalf("%d wait, want %d", c.waiting.Load(), n)
		}
	}
}

func TestWhoHasComputedLittleGoesFirst(t *testing.T) {
	var c crunchers
	c.init(1)
	if !c.take(t.Context(), false) {
		t.Fatal("there is no turn")
	}
	order := make(chan byte, 9)
	for i := range 9 {
		young := i >= 3
		name := byte('o')
		if young {
			name = 'y'
		}
		c.wait(t, t.Context(), young, i+1, func(has bool) {
			if !has {
				name = '-'
			}
			order <- name
		})
	}
	got := ""
	for range 9 {
		c.give()
		got += string(<-order)
	}
	if want := "yyyyoyyoo"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	c.give()
	if c.free != 1 {
		t.Errorf("%d turns are free, want 1", c.free)
	}
}

func TestWhoGivesUpTakesNoTurn(t *testing.T) {
	var c crunchers
	c.init(1)
	c.take(t.Context(), true)
	ctx, cancel := context.WithCancel(t.Context())
	had := make(chan bool, 1)
	c.wait(t, ctx, true, 1, func(has bool) { had <- has })
	cancel()
	if <-had {
		t.Error("it had a turn")
	}
	second := make(chan bool, 1)
	c.wait(t, t.Context(), false, 1, func(has bool) { second <- has })
	c.give()
	if !<-second {
		t.Error("the next one had none")
	}
	c.give()
	if c.free != 1 {
		t.Errorf("%d turns are free, want 1", c.free)
	}
	// At any moment: nothing may be lost.
	for range 2000 {
		c.take(t.Context(), true)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			if c.take(ctx, true) {
				c.give()
			}
			had <- true
		}()
		go cancel()
		c.give()
		<-had
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.free != 1 || c.waiting.Load() != 0 {
		t.Errorf("%d turns are free, %d wait", c.free, c.waiting.Load())
	}
}
