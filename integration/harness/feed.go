package harness

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// Feed is what one party saw, in order, and not yet taken by the script. It may
// be used concurrently; its zero value is an empty feed.
type Feed[E any] struct {
	mu      sync.Mutex
	pending []Seen[E]
	changed chan struct{} // closed, and replaced, by each Put
}

// Seen is one thing with the time it was seen at.
type Seen[E any] struct {
	At   time.Time
	What E
}

// ErrSilence is part of the error of a Wait that ended because its time was over.
var ErrSilence = errors.New("time is over")

// Put adds what at the end, seen now.
func (f *Feed[E]) Put(what E) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = append(f.pending, Seen[E]{time.Now(), what})
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

// Wait shows look what is pending, again whenever something was added, until it
// says done, or returns an error, or timeout is over. look may change and remove
// what it is shown: it returns what is to stay pending.
func (f *Feed[E]) Wait(timeout time.Duration, look func(pending []Seen[E]) (rest []Seen[E], done bool, err error)) error {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for over := false; ; {
		f.mu.Lock()
		rest, done, err := look(f.pending)
		f.pending = rest
		if f.changed == nil {
			f.changed = make(chan struct{})
		}
		changed := f.changed
		f.mu.Unlock()
		if done || err != nil {
			return err
		}
		if over {
			return fmt.Errorf("%w after %v", ErrSilence, timeout)
		}
		select {
		case <-changed:
		case <-timer.C:
			over = true
		}
	}
}

// Pending returns a copy of what was seen and not taken.
func (f *Feed[E]) Pending() []Seen[E] {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Seen[E](nil), f.pending...)
}
