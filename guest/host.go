package guest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/gripway/gripway/guest/internal/wasm"
)

// defineHost adds what prepared code calls.
func defineHost(ctx context.Context, r wazero.Runtime) error {
	i32 := []api.ValueType{api.ValueTypeI32}
	_, err := r.NewHostModuleBuilder(wasm.HostModule).
		NewFunctionBuilder().WithGoFunction(api.GoFunc(func(ctx context.Context, stack []uint64) {
		FromContext(ctx).check()
		stack[0] = wasm.Budget
	}), nil, i32).Export(wasm.HostCheck).
		NewFunctionBuilder().WithGoFunction(api.GoFunc(func(ctx context.Context, stack []uint64) {
		FromContext(ctx).unknown(uint32(stack[0]))
	}), i32, nil).Export(wasm.HostUnknown).
		NewFunctionBuilder().WithGoFunction(api.GoFunc(park), nil, i32).Export(wasm.HostPark).
		NewFunctionBuilder().WithGoFunction(api.GoFunc(func(ctx context.Context, _ []uint64) {
		FromContext(ctx).exit(0)
	}), nil, nil).Export(wasm.HostOver).
		Instantiate(ctx)
	return err
}

// unknown ends a guest that called what is not known here.
func (s *Sandbox) unknown(n uint32) {
	text := "an import that is not known here was called"
	if list := s.Program.module.Unknown; uint64(n) < uint64(len(list)) {
		text = fmt.Sprintf("the import %q %q was called, which is not known here", list[n].Module, list[n].Name)
	}
	panic(&Fault{Kind: FaultImport, Text: text})
}

// A guest that computes for long has to leave room for others. It shares all
// processors but one with others of its kind, in turns: Go's scheduler does not look
// at the network while there is something to run, and with all processors busy it was
// seen to leave a client alone for a second. It naps besides, for the same reason, where
// there is one processor.
const (
	crunchAfter = 5 * time.Millisecond // of computing without a wait
	crunchTurn  = 10 * time.Millisecond
	napEvery    = 2 * time.Millisecond
	nap         = 10 * time.Microsecond

	// crunchYoung is what a guest may have computed for its request to be let go first:
	// one that starts, or has a page to make, does not wait behind all that spin.
	crunchYoung = 50 * time.Millisecond

	// crunchInARow is how often it is, before one of the others has its turn.
	crunchInARow = 4
)

// crunchers are the turns of guests that compute for long.
type crunchers struct {
	waiting atomic.Int32

	mu    sync.Mutex
	free  int         // turns that nobody has
	young []*cruncher // who wait, the first one longest, and have computed little
	old   []*cruncher // and the others
	inRow int         // how many young ones have gone before an old one
}

// cruncher is who waits for a turn.
type cruncher struct {
	has  chan struct{} // closed when it has one
	gone bool          // it waits no more. Guarded by the crunchers' mu
}

func (c *crunchers) init(n int) { c.free = n }

// take waits for a turn; false means that ctx has ended before.
func (c *crunchers) take(ctx context.Context, young bool) bool {
	c.mu.Lock()
	if c.free > 0 { // so nobody waits
		c.free--
		c.mu.Unlock()
		return true
	}
	me := &cruncher{has: make(chan struct{})}
	if young {
		c.young = append(c.young, me)
	} else {
		c.old = append(c.old, me)
	}
	c.waiting.Add(1)
	c.mu.Unlock()
	defer c.waiting.Add(-1)
	select {
	case <-me.has:
		return true
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-me.has:
		c.giveLocked()
	default:
		me.gone = true
	}
	return false
}

// give gives a turn back.
func (c *crunchers) give() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.giveLocked()
}

func (c *crunchers) giveLocked() {
	c.young, c.old = present(c.young), present(c.old)
	switch {
	case len(c.young) > 0 && (len(c.old) == 0 || c.inRow < crunchInARow):
		close(c.young[0].has)
		c.young = c.young[1:]
		c.inRow++
	case len(c.old) > 0:
		close(c.old[0].has)
		c.old = c.old[1:]
		c.inRow = 0
	default:
		c.free++
	}
}

// present leaves out who has gone at the head of a queue.
func present(queue []*cruncher) []*cruncher {
	for len(queue) > 0 && queue[0].gone {
		queue = queue[1:]
	}
	return queue
}

// check is called by guests that have used up their budget. It ends them at their
// limits, and gives others their turn.
func (s *Sandbox) check() {
	if s.stopped.Load() {
		panic(context.Cause(s.ctx)) // wazero unwinds the guest with it
	}
	now := time.Now()
	cpu := s.ran + now.Sub(s.resumed)
	if s.fresh.Swap(false) {
		s.base, s.over = cpu, overtime{}
	}
	if max := s.Program.opts.Limits.CPU; cpu-s.base > max && s.over.spend(now) > min(max, overtimeMax) {
		panic(&Fault{Kind: FaultCPU, Text: fmt.Sprintf("it ran for more than %v", max)})
	}
	c := &s.Program.runtime.crunch
	switch {
	case !s.crunching:
		if now.Sub(s.resumed) < crunchAfter {
			return
		}
		s.Wait(func() { s.takeTurn(c) })
	case now.Sub(s.napped) < napEvery:
		return
	case c.waiting.Load() > 0 && now.Sub(s.turn) > crunchTurn:
		s.Wait(func() { s.takeTurn(c) })
	default:
		time.Sleep(nap)
		slept := time.Since(now)
		s.resumed = s.resumed.Add(slept)
		s.over.resume(now.Add(slept))
	}
	s.napped = time.Now()
}

// overtimeMax is what a guest may compute when its time is over by the clock, if its limit
// is not less. The clock also counts while other programs have the processor, which
// nobody but the system knows; from here on the thread's own time counts.
const overtimeMax = 50 * time.Millisecond

// overtime is what a guest computes beyond its limit. The zero value is none.
type overtime struct {
	spent time.Duration
	at    time.Time // when it was last looked at; zero: never
	then  processorTime
}

// processorTime is how long a thread has had a processor, and how long all threads of
// the process together.
type processorTime struct {
	thread   int
	own, all time.Duration
}

// spend counts what has been computed since it was last looked at, and returns the sum.
// It begins with the first call.
func (o *overtime) spend(now time.Time) time.Duration {
	t, known := readProcessorTime()
	switch {
	case !known:
		return overtimeMax + 1 // there is no other clock
	case o.at.IsZero():
	case t.thread == o.then.thread:
		o.spent += t.own - o.then.own
	default: // it was moved, as who does not come to run is: it has had no more than all together
		o.spent += min(now.Sub(o.at), t.all-o.then.all)
	}
	o.at, o.then = now, t
	return o.spent
}

// resume is called where the guest has waited, perhaps to go on in another thread.
func (o *overtime) resume(now time.Time) {
	if !o.at.IsZero() {
		o.at = now
		o.then, _ = readProcessorTime()
	}
}

// callsPerCheck is how many host functions a guest calls between two looks at the clock,
// which would be half of what a short one takes. One call may copy the whole memory:
// the budget, which counts the guest's own instructions, would buy thousands of them.
const callsPerCheck = 32

// Called is called by host functions before they do anything: what they do is the
// guest's time as well.
func (s *Sandbox) Called() {
	if s.calls++; s.calls%callsPerCheck == 0 {
		s.check()
	}
}

// takeTurn waits for a turn. Wait has given back the one there was.
func (s *Sandbox) takeTurn(c *crunchers) {
	if c.take(s.ctx, s.ran-s.base < crunchYoung) {
		s.crunching, s.turn = true, time.Now()
	}
}

// endTurn gives the turn back.
func (s *Sandbox) endTurn() {
	if s.crunching {
		s.crunching = false
		s.Program.runtime.crunch.give()
	}
}
