package compute

import (
	"context"
	"encoding/binary"
	"math"
	"sync/atomic"
	"time"
)

// Everything that takes time goes on in goroutines of its own, while the guest runs
// in one. They tell it by signal that something became ready, and it looks for
// itself what that is: an item keeps no list of who waits for it.
//
// For a hostcall that starts something and another that waits for it:
//
//	f := start(b, func(ctx context.Context) (value, error) { … }, nil)   // lookup
//	h, st := b.items.add(f)                                              // what the guest gets
//
//	f, st := takeItem[*future[value]](c.sandbox, c.u32(0))               // lookup_wait
//	v, err := f.wait(c.sandbox)

var asyncCalls = map[string]hostcall{
	"select":   asyncSelect,
	"is_ready": asyncIsReady,
}

// item is what the shared table holds. Its methods are called by the guest's
// goroutine.
type item interface {
	// ready says whether the action that the ABI associates with it would no longer
	// wait, and sets about it if nobody has: a body reads ahead. When this may have
	// changed, b.signal has to be called.
	ready(b *sandbox) bool

	// drop lets go of it: the sandbox ends and nobody took it.
	drop(b *sandbox)
}

// signal makes the guest's goroutine look again, if it waits. Any goroutine may
// call it, also after the sandbox has ended.
func (b *sandbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default: // it has been told and has not looked yet
	}
}

// await waits until an item is ready.
func (b *sandbox) await(i item) {
	if !i.ready(b) {
		b.waitUntil(0, func() bool { return i.ready(b) })
	}
}

// waitUntil waits until ready says so, or the timeout is over: false. A timeout of
// zero is none. If the guest is to be stopped meanwhile, it stops here: waitUntil
// does not return.
func (b *sandbox) waitUntil(timeout time.Duration, ready func() bool) bool {
	if ready() {
		return true
	}
	var over <-chan time.Time
	if timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		over = timer.C
	}
	is, ctx := false, b.Context()
	b.Wait(func() {
		for !is {
			select {
			case <-b.wake:
				is = ready()
			case <-over:
				is = ready()
				return
			case <-ctx.Done():
				return
			}
		}
	})
	if !is && ctx.Err() != nil {
		panic(context.Cause(ctx)) // wazero unwinds the guest with it
	}
	return is
}

// future is a result that another goroutine works out.
type future[T any] struct {
	// Fixed after start.
	cancel  context.CancelFunc
	discard func(T)       // of a value that nobody took; nil: nothing to do
	done    chan struct{} // closed once value and err are set

	dropped, disposed atomic.Bool

	value T
	err   error
}

// start works out a result in a goroutine. Its context ends when the guest has
// ended without having waited for it. A value of which nobody heard is given to
// discard, if there is one.
func start[T any](b *sandbox, do func(ctx context.Context) (T, error), discard func(T)) *future[T] {
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	f := &future[T]{cancel: cancel, discard: discard, done: make(chan struct{})}
	go func() {
		f.value, f.err = do(ctx)
		close(f.done)
		if f.dropped.Load() {
			f.dispose()
		}
		b.signal()
	}()
	return f
}

// settled is a future that needed no time.
func settled[T any](value T, err error) *future[T] {
	f := &future[T]{cancel: func() {}, done: make(chan struct{}), value: value, err: err}
	close(f.done)
	return f
}

// wait returns the result once it is there. The context that it was made with does
// not end by it: a value may live on it.
func (f *future[T]) wait(b *sandbox) (T, error) {
	came := false
	defer func() {
		if !came { // the guest is stopped
			f.drop(b)
		}
	}()
	b.await(f)
	came = true
	return f.value, f.err
}

// ready is item.ready.
func (f *future[T]) ready(*sandbox) bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// drop is item.drop.
func (f *future[T]) drop(*sandbox) {
	f.cancel()
	f.dropped.Store(true)
	if f.ready(nil) {
		f.dispose()
	}
}

// dispose gives the value to discard, once.
func (f *future[T]) dispose() {
	if f.err == nil && f.discard != nil && f.disposed.CompareAndSwap(false, true) {
		f.discard(f.value)
	}
}

// noIndex is the place in a list of what was not there in time.
const noIndex = math.MaxUint32

// asyncSelect waits for the first of a list of handles that is ready.
func asyncSelect(c *call) status {
	list, n, timeout := c.u32(0), c.u32(1), c.u32(2)
	if n == 0 && timeout == 0 {
		return statusInvalid
	}
	items, st := c.itemList(list, n)
	if st != statusOK {
		return st
	}
	at, ok := c.first(items, time.Duration(timeout)*time.Millisecond)
	if !ok {
		return c.put32(3, noIndex)
	}
	return c.put32(3, uint32(at))
}

// itemList is the items of a list of handles. It is valid until the next call.
func (c *call) itemList(address, n uint32) ([]item, status) {
	if n > handlesMax {
		return nil, statusInvalid
	}
	if address%4 != 0 {
		return nil, statusBadAlign
	}
	list, st := c.at(address, 4*n)
	if st != statusOK {
		return nil, st
	}
	c.selected = c.selected[:0]
	for ; len(list) > 0; list = list[4:] {
		i, st := c.items.get(binary.LittleEndian.Uint32(list))
		if st != statusOK {
			return nil, st
		}
		c.selected = append(c.selected, i)
	}
	return c.selected, statusOK
}

// first waits for the first of the items that is ready; false after the timeout.
func (b *sandbox) first(items []item, timeout time.Duration) (int, bool) {
	defer clear(items)
	if at := b.firstReady(items); at >= 0 {
		return at, true
	}
	at := -1
	b.waitUntil(timeout, func() bool {
		at = b.firstReady(items)
		return at >= 0
	})
	return at, at >= 0
}

// firstReady is the first of the items that is ready, or -1.
func (b *sandbox) firstReady(items []item) int {
	for i, item := range items {
		if item.ready(b) {
			return i
		}
	}
	return -1
}

// asyncIsReady asks without waiting.
func asyncIsReady(c *call) status {
	i, st := c.items.get(c.u32(0))
	if st != statusOK {
		return st
	}
	if i.ready(c.sandbox) {
		return c.put32(1, 1)
	}
	return c.put32(1, 0)
}
