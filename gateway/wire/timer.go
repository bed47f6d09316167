package wire

import (
	"container/heap"
	"sync"
	"time"
)

// Timers keeps the deadlines of many connections in one heap behind one runtime
// timer. The zero value is ready to use.
type Timers struct {
	mu     sync.Mutex
	heap   timerHeap
	wake   *time.Timer
	at     time.Time // when wake fires; zero if it will not
	closed bool
}

// Timer calls a function at a time. It belongs to one Timers.
type Timer struct {
	timers *Timers
	call   func()
	at     time.Time
	index  int // in the heap, or -1
}

// New returns a Timer that is not set. call runs in the goroutine that serves
// all timers and must not block.
func (t *Timers) New(call func()) *Timer { return &Timer{timers: t, call: call, index: -1} }

// Set makes the timer fire once, after d, instead of when it was set to before.
func (timer *Timer) Set(d time.Duration) {
	t := timer.timers
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	timer.at = time.Now().Add(d)
	if timer.index >= 0 {
		heap.Fix(&t.heap, timer.index)
	} else {
		heap.Push(&t.heap, timer)
	}
	t.armLocked()
}

// Stop makes sure that the timer does not fire, unless it does already.
func (timer *Timer) Stop() {
	t := timer.timers
	t.mu.Lock()
	defer t.mu.Unlock()
	if timer.index >= 0 && !t.closed {
		heap.Remove(&t.heap, timer.index)
	}
}

// armLocked sets the runtime timer for the earliest deadline. One that is set
// too early is left: it finds nothing and sets itself again.
func (t *Timers) armLocked() {
	if len(t.heap) == 0 {
		return
	}
	first := t.heap[0].at
	if !t.at.IsZero() && !first.Before(t.at) {
		return
	}
	t.at = first
	d := time.Until(first)
	if t.wake == nil {
		t.wake = time.AfterFunc(d, t.fire)
		return
	}
	t.wake.Reset(d)
}

// fire calls what is due.
func (t *Timers) fire() {
	t.mu.Lock()
	t.at = time.Time{}
	now := time.Now()
	for len(t.heap) > 0 && !t.heap[0].at.After(now) && !t.closed {
		timer := heap.Pop(&t.heap).(*Timer)
		t.mu.Unlock()
		timer.call()
		t.mu.Lock()
	}
	t.armLocked()
	t.mu.Unlock()
}

func (t *Timers) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	t.heap = nil
	if t.wake != nil {
		t.wake.Stop()
	}
}

type timerHeap []*Timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *timerHeap) Push(x any) {
	timer := x.(*Timer)
	timer.index = len(*h)
	*h = append(*h, timer)
}
func (h *timerHeap) Pop() any {
	old := *h
	timer := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	timer.index = -1
	return timer
}
