package guest

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/gripway/gripway/guest/internal/wasi"
)

// System is what a guest sees of WASI: its arguments and environment, its clocks,
// where its output goes. An instance's Configure fills it.
type System = wasi.System

// Lines is a writer that gives whole lines to a function.
type Lines = wasi.Lines

// Sandbox is one instance of a program and all that it holds. But for what is
// said, its methods belong to the goroutine that the guest runs in.
type Sandbox struct {
	// Fixed before the guest runs.
	Program  *Program
	Log      *slog.Logger
	System   System
	instance Instance
	seat     *seat

	ctx     context.Context // ends the guest when it does
	cancel  context.CancelCauseFunc
	stopped atomic.Bool // ctx has ended: for check, which cannot afford to ask it
	wall    *time.Timer // ends the guest at Limits.Wall; nil: never

	// Owned by the guest's goroutine.
	ran       time.Duration // until resumed
	resumed   time.Time     // when it last had nothing to wait for any more
	waits     int           // nested ones
	base      time.Duration // what it had run when its request came
	napped    time.Time     // when it last let others run
	turn      time.Time     // when its turn began
	crunching bool          // it has a turn
	calls     uint32        // of host functions
	over      overtime      // since it was over its limit by the clock

	fresh atomic.Bool // a request has come, and base is not that yet

	// Guarded by the pool's mu.
	exchanges []*Exchange    // given to it and not given back
	given     *Exchange      // one that it has not received yet
	inbox     chan *Exchange // of capacity 1: the same; never closed
	state     sandboxState
	asked     int  // how often it has asked for one
	way       Way  // how it came to its request
	early     bool // it is on its way to being parked
}

// sandboxState is what a sandbox does.
type sandboxState uint8

const (
	stateRunning sandboxState = iota
	stateParked               // for its first request
	stateWaiting              // for a further one
	stateEnded
)

// seatKey finds the seat in the context of a host function.
type seatKey struct{}

// FromContext returns the sandbox that a host function was called by.
func FromContext(ctx context.Context) *Sandbox { return ctx.Value(seatKey{}).(*seat).sandbox }

// Instance is the ABI's side of the sandbox.
func (s *Sandbox) Instance() Instance { return s.instance }

// Context ends when the guest is to be stopped: at its limits, when whoever asked has
// gone, with the program. Its cause is then what host functions end the guest with, by
// panic. Those that wait have to watch it; the context they are called with is not
// it. Any goroutine may call it.
func (s *Sandbox) Context() context.Context { return s.ctx }

// stop ends the guest.
func (s *Sandbox) stop(cause error) { s.cancel(cause) }

// furtherMax bounds how many requests a sandbox is given after its first: Viceroy's
// number.
const furtherMax = 5

// waitingMax bounds how many sandboxes of a program wait for a further request:
// Viceroy's number. There may be parked ones besides.
const waitingMax = 5

// Next returns the next request that the guest shall see. The first time, it waits
// until there is one or the guest is to be stopped. A guest that is done with a request
// may ask for a further one: then Next waits until there is one, ctx ends, or no more
// is to come; but for the first it returns nil, and an error if one of the contexts
// has ended.
//
// For a further request any goroutine may call Next, one at a time. A request that the
// guest does not get to see after all has to be given back with Return.
func (s *Sandbox) Next(ctx context.Context) (*Exchange, error) {
	p := &s.Program.pool
	x, place := p.ask(s)
	switch place {
	case placeParked:
		s.Wait(func() { x = p.receive(s, s.ctx) })
		if x == nil {
			panic(context.Cause(s.ctx))
		}
	case placeWaiting:
		if x = p.receive(s, ctx); x == nil {
			if s.ctx.Err() != nil {
				return nil, context.Cause(s.ctx)
			}
			return nil, ctx.Err()
		}
	}
	if x == nil {
		return nil, nil
	}
	s.fresh.Store(true)
	s.startWall()
	s.Program.started(s, x)
	return x, nil
}

// Return gives back a request that Next returned and the guest has not seen. Another
// sandbox gets it. Any goroutine may call it.
func (s *Sandbox) Return(x *Exchange) { s.Program.pool.giveBack(s, x) }

// startWall begins the time that the guest may take.
func (s *Sandbox) startWall() {
	if s.wall != nil {
		s.wall.Reset(s.Program.opts.Limits.Wall)
	}
}

// wallOver is called when that time is over.
func (s *Sandbox) wallOver() {
	switch s.Program.pool.stateOf(s) {
	case stateParked:
	case stateWaiting: // whoever asked for a further request waits for a time that it chose
		s.wall.Reset(time.Second)
	default:
		s.stop(&Fault{Kind: FaultWall, Text: "it took longer than " + s.Program.opts.Limits.Wall.String()})
	}
}

// Wait runs a function that waits for somebody else. The guest's time does not
// pass meanwhile.
func (s *Sandbox) Wait(wait func()) {
	if s.waits == 0 {
		s.ran += time.Since(s.resumed)
		s.endTurn()
	}
	s.waits++
	defer func() {
		if s.waits--; s.waits == 0 {
			s.resumed = time.Now()
			s.over.resume(s.resumed)
		}
	}()
	wait()
}

// CPUTime is how long the guest has run, without what it waited for.
func (s *Sandbox) CPUTime() time.Duration {
	if s.waits > 0 {
		return s.ran
	}
	return s.ran + time.Since(s.resumed)
}
