package guest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tetratelabs/wazero/experimental"
)

// pool is a program's sandboxes, and who gets which request. A request goes to a
// sandbox that waits for a further one, or to one that is parked, or has one started
// for it. As many are kept parked as requests have been coming at once, so that the
// guest's own start is over when its request comes.
type pool struct {
	program *Program

	ctx    context.Context // ends all sandboxes
	cancel context.CancelCauseFunc
	live   sync.WaitGroup // sandboxes and keep

	mu        sync.Mutex
	closed    bool
	sandboxes int
	parked    []*Sandbox // the last one came last
	waiting   []*Sandbox
	spare     []*instance // as new
	starting  int         // sandboxes on their way to being parked
	coming    int         // seats between two sandboxes

	// How many to keep parked.
	target  int       // now
	missed  int       // requests that found none, since the last look
	lowest  int       // parked ones, since then
	parks   bool      // a guest has been seen to wait for its request
	failed  int       // starts in a row that ended before they were parked
	resting time.Time // until then none is started, because of that
	keeping bool      // keep runs
	soon    bool      // refillSoon is under way
	never   bool      // none is parked
}

const (
	// keepEvery is how often it is looked whether there are too many parked.
	keepEvery = time.Second

	// startsFailedMax is how many starts in a row may fail before the pool rests for
	// restFor: a guest that cannot start is asked only when somebody wants it.
	startsFailedMax = 3
	restFor         = 10 * time.Second

	// spareMax bounds the instances that are kept for sandboxes to come. They cost
	// address space, and what pages their tables are.
	spareMax = 64

	// usesMax is how often an instance is used before a new one takes its place.
	usesMax = 10000
)

func (l *pool) init(p *Program) {
	l.program = p
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	p.counts.init()
}

// single has none parked from now on.
func (l *pool) single() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.never = true
}

// close ends all and waits for it. False: it was closed already.
func (l *pool) close() bool {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return false
	}
	l.closed = true
	l.mu.Unlock()
	l.cancel(&Fault{Kind: FaultEnded, Text: errClosed.Error()})
	l.live.Wait()
	for _, i := range l.spare {
		i.close()
	}
	l.spare = nil
	return true
}

// assign finds a sandbox for an exchange.
func (l *pool) assign(x *Exchange) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return &Fault{Kind: FaultEnded, Text: errClosed.Error()}
	}
	x.pool = l
	if n := len(l.waiting); n > 0 {
		s := l.waiting[0]
		l.waiting = slices.Delete(l.waiting, 0, 1)
		s.way = WayFurther
		l.give(s, x)
		return nil
	}
	if n := len(l.parked); n > 0 {
		s := l.parked[n-1] // its memory is more likely to be in the caches
		l.parked = l.parked[:n-1]
		l.lowest = min(l.lowest, n-1)
		s.way = WayParked
		if s.seat.restored {
			s.way = WaySnapshot
		}
		l.give(s, x)
		l.refillSoon()
		return nil
	}
	l.missed++
	if l.sandboxes >= l.program.opts.Limits.Sandboxes {
		f := &Fault{Kind: FaultBusy, Text: fmt.Sprintf("%d sandboxes are running, more may not", l.sandboxes)}
		l.program.faults[f.Kind].Add(1)
		return f
	}
	s := l.start(false)
	l.give(s, x)
	if l.target < l.program.opts.Parked {
		l.target++
	}
	l.refill()
	return nil
}

// give gives an exchange to a sandbox that has none to receive.
func (l *pool) give(s *Sandbox, x *Exchange) {
	s.exchanges = append(s.exchanges, x)
	x.sandbox = s
	s.state, s.given = stateRunning, x
	s.inbox <- x
}

// giveBack takes an exchange from a sandbox that does not want it, for another.
func (l *pool) giveBack(s *Sandbox, x *Exchange) {
	l.mu.Lock()
	i := slices.Index(s.exchanges, x)
	if i < 0 { // the sandbox has ended, and the exchange with it
		l.mu.Unlock()
		return
	}
	s.exchanges = slices.Delete(s.exchanges, i, i+1)
	l.mu.Unlock()
	if err := l.assign(x); err != nil {
		x.end(err)
	}
}

// start starts a sandbox, early or for a request. The pool is locked.
func (l *pool) start(early bool) *Sandbox {
	t := &seat{}
	s := l.sandbox(t, early)
	t.sandbox = s
	ctx := context.WithValue(l.ctx, seatKey{}, t)
	if l.program.prepared.Parks {
		ctx = experimental.WithSnapshotter(ctx)
	}
	l.live.Add(1)
	go t.run(ctx)
	return s
}

// sandbox makes a sandbox for a seat. The pool is locked.
func (l *pool) sandbox(t *seat, early bool) *Sandbox {
	p := l.program
	s := &Sandbox{Program: p, Log: p.log, seat: t, inbox: make(chan *Exchange, 1), way: WayFresh, early: early}
	s.ctx, s.cancel = context.WithCancelCause(l.ctx)
	context.AfterFunc(s.ctx, func() { s.stopped.Store(true) })
	if wall := p.opts.Limits.Wall; wall > 0 {
		s.wall = time.AfterFunc(wall, s.wallOver)
	}
	l.sandboxes++
	if early {
		l.starting++
	}
	return s
}

// refill starts sandboxes to be parked. The pool is locked.
func (l *pool) refill() {
	if !l.parks || l.closed || l.never || l.failed >= startsFailedMax && time.Now().Before(l.resting) {
		return
	}
	for l.sandboxes < l.program.opts.Limits.Sandboxes {
		have := len(l.parked) + l.starting
		if l.program.prepared.Parks {
			have = l.sandboxes + l.coming // those that run are parked again afterwards
		}
		if have >= l.target {
			break
		}
		l.start(true)
	}
	if !l.keeping && l.target > 0 {
		l.keeping = true
		l.live.Add(1)
		go l.keep()
	}
}

// refillSoon starts what is missing a little later, when the request that it is
// missing for has had its processor. The pool is locked.
func (l *pool) refillSoon() {
	if l.soon {
		return
	}
	l.soon = true
	time.AfterFunc(refillAfter, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.soon = false
		l.refill()
	})
}

// refillAfter is about what a guest takes for a short answer.
const refillAfter = 2 * time.Millisecond

// keep looks from time to time whether there are more parked than are needed. It ends
// when none is wanted.
func (l *pool) keep() {
	defer l.live.Done()
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	idle := 0
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
		}
		l.mu.Lock()
		if l.missed == 0 && l.lowest > 0 {
			idle++
		} else {
			idle = 0
		}
		l.missed, l.lowest = 0, len(l.parked)
		if idle >= parkedIdle && l.target > 1 {
			idle = 0
			l.target--
			if n := len(l.parked); n > l.target { // the oldest
				l.parked[0].stop(errParked)
				l.parked = slices.Delete(l.parked, 0, 1)
			}
		}
		l.refill()
		l.mu.Unlock()
	}
}

// parkedIdle is for how many looks in a row there have to be too many parked before
// one of them goes.
const parkedIdle = 10

// errParked ends a sandbox that was parked for nothing.
var errParked = &Fault{Kind: FaultEnded, Text: "parked, and not needed"}

// place is what becomes of a sandbox that asks for a request.
type place uint8

const (
	placeNone    place = iota // it has got one, or gets none
	placeParked               // it waits to be given its first one
	placeWaiting              // it waits to be given a further one
)

// ask is called when a sandbox wants a request.
func (l *pool) ask(s *Sandbox) (*Exchange, place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.asked++
	if s.asked == 1 {
		l.parks = true
		if s.early {
			l.starting--
			l.failed = 0
		}
		select {
		case x := <-s.inbox:
			s.given = nil
			l.refill()
			return x, placeNone
		default:
		}
		s.state = stateParked
		l.parked = append(l.parked, s)
		return nil, placeParked
	}
	if l.closed || s.state == stateEnded || s.asked > 1+furtherMax || len(l.waiting) >= waitingMax {
		return nil, placeNone
	}
	s.state = stateWaiting
	l.waiting = append(l.waiting, s)
	return nil, placeWaiting
}

// receive waits for the exchange that a sandbox has asked for. Nil: it gets none.
func (l *pool) receive(s *Sandbox, ctx context.Context) *Exchange {
	var x *Exchange
	select {
	case x = <-s.inbox:
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.state == stateEnded {
		return nil // and another sandbox has got what this one was given
	}
	l.forget(s)
	if x == nil && s.given != nil {
		x = <-s.inbox // it was given one just before
	}
	if x != nil && s.ctx.Err() != nil { // which shall not be the request's fault
		s.inbox <- x
		return nil
	}
	s.given, s.state = nil, stateRunning
	return x
}

// forget takes a sandbox from the lists. The pool is locked.
func (l *pool) forget(s *Sandbox) {
	for _, list := range []*[]*Sandbox{&l.parked, &l.waiting} {
		if i := slices.Index(*list, s); i >= 0 {
			*list = slices.Delete(*list, i, i+1)
		}
	}
}

func (l *pool) stateOf(s *Sandbox) sandboxState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.state
}

func (l *pool) askedBy(s *Sandbox) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.asked
}

func (l *pool) wayOf(s *Sandbox) Way {
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.way
}

// abandon is called when nobody will get the answer any more: a sandbox that was made
// for this request alone ends.
func (x *Exchange) abandon(cause error) {
	if x.Decided() {
		return
	}
	fault := &Fault{Kind: FaultEnded, Text: cause.Error()}
	l := x.pool
	l.mu.Lock()
	s := x.sandbox
	alone := s != nil && s.asked <= 1
	l.mu.Unlock()
	if alone {
		s.stop(fault)
		return
	}
	x.end(fault)
}

// end is called once no sandbox has the exchange any more.
func (x *Exchange) end(err error) {
	x.endOnce.Do(func() {
		x.err = err
		close(x.ended)
	})
}

// end lets go of all that the sandbox held, and says whether it failed. Nobody uses
// its instance for it any more afterwards.
func (s *Sandbox) end(err error) *Fault {
	p, l, i := s.Program, &s.Program.pool, s.seat.instance
	fault := classify(s.ctx, err)
	if fault != nil && i != nil && i.memory != nil && i.memory.refused && memoryMayBe(fault.Kind) {
		fault = &Fault{Kind: FaultMemory, Text: fmt.Sprintf("it wanted more than its %d bytes of memory: %s", i.memory.max, fault.Text)}
	}
	if s.waits == 0 {
		s.endTurn()
	}
	if s.wall != nil {
		s.wall.Stop()
	}
	if s.instance != nil {
		s.instance.Close()
	}
	s.stop(errEnded)

	l.mu.Lock()
	l.sandboxes--
	if s.asked == 0 && s.early {
		l.starting--
		if l.failed++; l.failed >= startsFailedMax {
			l.resting = time.Now().Add(restFor)
		}
	}
	exchanges, unseen := s.exchanges, s.given
	s.exchanges, s.given, s.state = nil, nil, stateEnded
	l.forget(s)
	closed := l.closed
	l.mu.Unlock()

	quiet := fault != nil && fault.Kind == FaultEnded
	if !quiet || len(exchanges) > 0 {
		p.ended(fault)
	}
	if fault != nil && !quiet {
		p.log.Error("guest failed", "reason", fault.Kind, "error", fault)
	}
	for _, x := range exchanges {
		switch {
		case x == unseen && s.asked > 0 && !closed: // another sandbox may see it
			if err := l.assign(x); err != nil {
				x.end(err)
			}
		case fault != nil:
			x.end(fault)
		default:
			x.end(ErrUndecided)
		}
	}
	return fault
}

// errEnded is why the context of a sandbox that has ended is done.
var errEnded = &Fault{Kind: FaultEnded, Text: "the sandbox has ended"}

// memoryMayBe says whether a guest that was refused memory can end so.
func memoryMayBe(kind FaultKind) bool {
	return kind == FaultTrap || kind == FaultAbort || kind == FaultExit
}

// take returns an instance that is as new.
func (l *pool) take(ctx context.Context) (*instance, error) {
	l.mu.Lock()
	if n := len(l.spare); n > 0 {
		i := l.spare[n-1]
		l.spare = l.spare[:n-1]
		l.mu.Unlock()
		return i, nil
	}
	l.mu.Unlock()
	return newInstance(ctx, l.program)
}

// put takes an instance back. One whose guest did something odd is not used again.
func (l *pool) put(i *instance, fault *Fault) {
	if i == nil {
		return
	}
	i.uses++
	if fault != nil && fault.Kind == FaultHost || i.uses >= usesMax || !i.reset() {
		i.close()
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.spare) >= spareMax {
		i.close()
		return
	}
	l.spare = append(l.spare, i)
}
