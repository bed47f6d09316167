package guests

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/gripway/gripway/gateway/config"
	"github.com/gripway/gripway/gateway/metrics"
)

const (
	// logBurst is how long a guest may log at its rate at once.
	logBurst = 10 * time.Second

	// logLineBytes is what a line counts besides its text: its attributes.
	logLineBytes = 100

	// logToldEvery is how often, at most, the log is told of lines that are dropped.
	logToldEvery = 10 * time.Second
)

// logBudget is what a guest may log, whichever code it has at the moment.
type logBudget struct {
	guest   string
	log     *slog.Logger
	dropped metrics.Counter // of lines
	limit   *rate.Limiter   // of bytes

	untold atomic.Int64 // lines dropped since the log was told
	told   atomic.Int64 // when it was, in Unix nanoseconds
}

// newLogBudget returns nil for a guest without a limit.
func (all *Guests) newLogBudget(c *config.Guest) *logBudget {
	if c.LogRate == 0 {
		return nil
	}
	return &logBudget{
		guest: c.Name, log: all.log, limit: rate.NewLimiter(rate.Limit(c.LogRate), c.LogRate*int(logBurst/time.Second)),
		dropped: all.opts.Metrics.Counter("guest_log_dropped_total", "Lines of guests that were not logged, because a guest logs more than it may (log-rate)."),
	}
}

// take says whether a line may be logged.
func (b *logBudget) take(bytes int) bool {
	now := time.Now()
	ok := b.limit.AllowN(now, bytes+logLineBytes)
	if !ok {
		b.dropped.Inc()
		b.untold.Add(1)
	}
	if told := b.told.Load(); b.untold.Load() > 0 && now.UnixNano()-told > int64(logToldEvery) && b.told.CompareAndSwap(told, now.UnixNano()) {
		b.log.Warn("guest logs more than its log-rate: lines are dropped", "guest", b.guest, "lines", b.untold.Swap(0))
	}
	return ok
}

// limitedLog is a slog.Handler for what a guest logs.
type limitedLog struct {
	slog.Handler
	budget *logBudget
}

// Handle implements slog.Handler.
func (l limitedLog) Handle(ctx context.Context, record slog.Record) error {
	if !l.budget.take(len(record.Message)) {
		return nil
	}
	return l.Handler.Handle(ctx, record)
}

// WithAttrs implements slog.Handler.
func (l limitedLog) WithAttrs(attributes []slog.Attr) slog.Handler {
	return limitedLog{l.Handler.WithAttrs(attributes), l.budget}
}

// WithGroup implements slog.Handler.
func (l limitedLog) WithGroup(name string) slog.Handler {
	return limitedLog{l.Handler.WithGroup(name), l.budget}
}
