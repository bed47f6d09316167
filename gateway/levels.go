package gateway

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// Levels is a slog.Handler that lets routes have a level of their own: a line that
// names a route (the attribute "route") is kept or not as that route says. It may be
// used concurrently.
type Levels struct {
	next    slog.Handler
	usual   slog.Level
	routes  *atomic.Pointer[levels] // shared by all that come of WithAttrs
	decided bool                    // an attribute has named a route already
	own     slog.Level              // its level, if decided
}

// levels are those that differ from the usual one.
type levels struct {
	byRoute map[string]slog.Level
	least   slog.Level
}

// NewLevels returns a handler that gives next what is at least as bad as usual. next
// should take everything.
func NewLevels(next slog.Handler, usual slog.Level) *Levels {
	return &Levels{next: next, usual: usual, routes: new(atomic.Pointer[levels])}
}

// Set sets the levels of routes, by the names that they have in logs.
func (l *Levels) Set(byRoute map[string]slog.Level) {
	if len(byRoute) == 0 {
		l.routes.Store(nil)
		return
	}
	least := l.usual
	for _, level := range byRoute {
		least = min(least, level)
	}
	l.routes.Store(&levels{byRoute, least})
}

// Name is what logs call the route.
func (r *Route) Name() string { return r.name() }

// Enabled implements slog.Handler. Which route a line is of is not known yet.
func (l *Levels) Enabled(_ context.Context, level slog.Level) bool {
	if set := l.routes.Load(); set != nil {
		return level >= set.least
	}
	return level >= l.usual
}

// Handle implements slog.Handler.
func (l *Levels) Handle(ctx context.Context, record slog.Record) error {
	wanted := l.usual
	if l.decided {
		wanted = l.own
	} else if set := l.routes.Load(); set != nil {
		record.Attrs(func(a slog.Attr) bool {
			if a.Key != "route" {
				return true
			}
			if level, ok := set.byRoute[a.Value.String()]; ok {
				wanted = level
			}
			return false
		})
	}
	if record.Level < wanted {
		return nil
	}
	return l.next.Handle(ctx, record)
}

// WithAttrs implements slog.Handler.
func (l *Levels) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *l
	with.next = l.next.WithAttrs(attrs)
	if set := l.routes.Load(); set != nil {
		for _, a := range attrs {
			if level, ok := set.byRoute[a.Value.String()]; ok && a.Key == "route" {
				with.decided, with.own = true, level
			}
		}
	}
	return &with
}

// WithGroup implements slog.Handler.
func (l *Levels) WithGroup(name string) slog.Handler {
	with := *l
	with.next = l.next.WithGroup(name)
	return &with
}
