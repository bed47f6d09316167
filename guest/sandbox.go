package guest

import (
	"context"
	"log/slog"
	"time"

	"github.com/tetratelabs/wazero/api"
)

// Sandbox is one instance of a program and all that it holds. But for what is
// said, its methods belong to the goroutine that the guest runs in.
type Sandbox struct {
	// Fixed before the guest runs.
	Program  *Program
	Log      *slog.Logger
	instance Instance

	ctx     context.Context // ends the guest when it does
	cancel  context.CancelCauseFunc
	module  api.Module
	first   *Exchange
	current *Exchange
	started time.Time
	waited  time.Duration
}

// sandboxKey finds the Sandbox in the context of a host function.
type sandboxKey struct{}

// FromContext returns the sandbox that a host function was called by.
func FromContext(ctx context.Context) *Sandbox { return ctx.Value(sandboxKey{}).(*Sandbox) }

// Instance is the ABI's side of the sandbox.
func (s *Sandbox) Instance() Instance { return s.instance }

// Context ends when the guest is to be stopped: at its limits, or when whoever
// asked has gone. Host functions that wait have to watch it.
func (s *Sandbox) Context() context.Context { return s.ctx }

// Next returns the next request that the guest shall see. It waits until there is
// one, ctx ends, or no more is to come (nil).
func (s *Sandbox) Next(ctx context.Context) (*Exchange, error) {
	x := s.first
	s.first = nil
	s.current = x
	return x, nil
}

// Wait runs a function that waits for somebody else. The guest's time does not
// pass meanwhile.
func (s *Sandbox) Wait(wait func()) {
	begin := time.Now()
	wait()
	s.waited += time.Since(begin)
}

// CPUTime is how long the guest has run, without what it waited for.
func (s *Sandbox) CPUTime() time.Duration { return time.Since(s.started) - s.waited }
