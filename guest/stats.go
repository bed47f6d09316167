package guest

import (
	"sync/atomic"
	"time"
)

// Way is how a sandbox came to a request.
type Way string

// The ways there are.
const (
	WayFresh    Way = "fresh"    // it was started for it
	WayParked   Way = "parked"   // it had been started before
	WaySnapshot Way = "snapshot" // it was started from a snapshot
	WayFurther  Way = "further"  // it had had others, and asked for more
)

// Ways are all there are.
var Ways = []Way{WayFresh, WayParked, WaySnapshot, WayFurther}

// Observer is told what happens to a program's sandboxes. Nil functions are not
// called; the others may be called at once by many goroutines, and do not wait.
type Observer struct {
	// Started is called when a guest has got a request: how long after it came.
	Started func(way Way, after time.Duration)

	// Ended is called when a sandbox has ended; an empty kind is well.
	Ended func(kind FaultKind)
}

// Stats is what a program has done, and has.
type Stats struct {
	Starts map[Way]uint64       // requests that a guest has got
	Faults map[FaultKind]uint64 // sandboxes that failed
	Ended  uint64               // sandboxes that ended well

	Sandboxes int // those there are, the following included
	Parked    int // wait for their first request
	Waiting   int // wait for a further one
	Spare     int // instances that no sandbox uses
}

// counts are kept of a program.
type counts struct {
	starts map[Way]*atomic.Uint64 // fixed after init
	faults map[FaultKind]*atomic.Uint64
	well   atomic.Uint64
}

func (c *counts) init() {
	c.starts, c.faults = make(map[Way]*atomic.Uint64), make(map[FaultKind]*atomic.Uint64)
	for _, w := range Ways {
		c.starts[w] = new(atomic.Uint64)
	}
	for _, k := range FaultKinds {
		c.faults[k] = new(atomic.Uint64)
	}
}

// started counts a request that a guest has got.
func (p *Program) started(s *Sandbox, x *Exchange) {
	way := p.pool.wayOf(s)
	p.starts[way].Add(1)
	if p.opts.Observer.Started != nil {
		p.opts.Observer.Started(way, time.Since(x.arrived))
	}
}

// ended counts a sandbox that has ended.
func (p *Program) ended(fault *Fault) {
	kind := FaultKind("")
	if fault != nil {
		kind = fault.Kind
		p.faults[kind].Add(1)
	} else {
		p.well.Add(1)
	}
	if p.opts.Observer.Ended != nil {
		p.opts.Observer.Ended(kind)
	}
}

// Stats is what the program has done so far.
func (p *Program) Stats() Stats {
	s := Stats{Starts: make(map[Way]uint64), Faults: make(map[FaultKind]uint64), Ended: p.well.Load()}
	for w, n := range p.starts {
		s.Starts[w] = n.Load()
	}
	for k, n := range p.faults {
		s.Faults[k] = n.Load()
	}
	l := &p.pool
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Sandboxes, s.Parked, s.Waiting, s.Spare = l.sandboxes, len(l.parked), len(l.waiting), len(l.spare)
	return s
}
