package guest

import (
	"context"
	"time"

	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/sys"
)

// seat is a goroutine that runs a guest's code, and the instance it runs it in. It has
// one sandbox, or one after another.
//
// The latter is how guests are started from a snapshot. When a guest is about to ask
// for its first request, its memory and its globals are kept, and so is, by wazero, the
// stack of the call that it is in. When the guest exits, or returns from _start, all
// three are made what they were, and the call goes on where it was going to ask for a
// request: with another sandbox, for which nothing has happened yet. No code of the
// guest's runs between one sandbox's end and the next one's begin.
//
//	_start ──► the guest's own start ──► park ──► next request ──► … ──► exit
//	                                      ▲  keeps                        │
//	                                      └───────────────────────────────┘  restores
//
// wazero lets a kept stack be used once. So code is prepared to call park in a loop,
// and each time round it is kept anew.
type seat struct {
	sandbox  *Sandbox
	instance *instance

	snapshot experimental.Snapshot // nil: it cannot be restored
	held     any                   // what the guest held then, if its ABI is a Keeper
	restored bool                  // it has been; guarded by the pool's mu
	uses     int
}

// snapshotUsesMax is how often a seat is restored before it makes way for a new one:
// each time, the stack that is kept is a little longer.
const snapshotUsesMax = 10000

// run is the seat's goroutine.
func (t *seat) run(ctx context.Context) {
	p := t.sandbox.Program
	l := &p.pool
	defer l.live.Done()
	var err error = &Fault{Kind: FaultHost, Text: "the sandbox was given up"}
	defer func() {
		// Also when the goroutine is ended, as tests do.
		fault := t.sandbox.end(err)
		l.put(t.instance, fault)
	}()
	t.sandbox.begin()
	if t.instance, err = l.take(ctx); err != nil {
		err = &Fault{Kind: FaultHost, Text: err.Error()}
		return
	}
	if start := p.prepared.Start; start != "" {
		if _, err = t.instance.module.ExportedFunction(start).Call(ctx); err != nil {
			return
		}
	}
	err = &Fault{Kind: FaultHost, Text: "the sandbox was given up"}
	err = t.sandbox.instance.Run(ctx, t.instance.module)
	t.sandbox.finish()
}

// finish has the ABI's side finish what the guest has left.
func (s *Sandbox) finish() {
	if f, ok := s.instance.(Finisher); ok {
		f.Finish()
	}
}

// park is called by prepared code before each function that may be the first to want
// a request; when it returns 0 it is called again.
func park(ctx context.Context, stack []uint64) {
	t := ctx.Value(seatKey{}).(*seat)
	t.keep(ctx)
	stack[0] = 1
}

// keep keeps what there is, if the sandbox has had no request yet.
func (t *seat) keep(ctx context.Context) {
	s := t.sandbox
	p := s.Program
	if p.pool.askedBy(s) > 0 || p.prepared.Fresh != "" {
		return
	}
	if t.instance.saved == nil {
		if err := t.instance.save(); err != nil {
			p.log.Warn("a guest cannot be started from a snapshot", "error", err)
			return
		}
		if k, ok := s.instance.(Keeper); ok {
			t.held = k.Keep()
		}
	}
	t.snapshot = experimental.GetSnapshotter(ctx).Snapshot()
}

// exit is called when the guest exits or is about to return from _start. If it can,
// it goes on with the next sandbox and does not return.
func (s *Sandbox) exit(code uint32) {
	t := s.seat
	l := &s.Program.pool
	if t.snapshot == nil || t.uses >= snapshotUsesMax || l.askedBy(s) == 0 {
		return
	}
	l.mu.Lock()
	if l.closed || len(l.parked)+l.starting+l.coming >= max(s.Program.opts.Parked, 1) {
		l.mu.Unlock()
		return
	}
	l.coming++
	l.mu.Unlock()

	var err error
	if code != 0 {
		err = sys.NewExitError(code)
	}
	s.finish()
	s.end(err)
	restored := t.instance.restore()

	l.mu.Lock()
	l.coming--
	next := l.sandbox(t, true)
	t.sandbox, t.restored = next, true
	l.mu.Unlock()
	t.uses++
	next.begin()
	if k, ok := next.instance.(Keeper); ok {
		k.Kept(t.held)
	}
	if !restored {
		panic(&Fault{Kind: FaultHost, Text: "the snapshot could not be restored"})
	}
	t.snapshot.Restore([]uint64{0})
}

// begin makes the ABI's side of the sandbox.
func (s *Sandbox) begin() {
	s.resumed = time.Now()
	s.System.Wait, s.System.Stopped, s.System.CPU, s.System.Exit = s.Wait, s.Context, s.CPUTime, s.exit
	s.instance = s.Program.abi.abi.Open(s)
	s.instance.Configure(&s.System)
}
