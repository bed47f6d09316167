package outbound

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gripway/gripway/guest"
)

// Fastly's defaults of a health check.
const (
	checkEveryDefault     = 60 * time.Second
	checkTimeoutDefault   = 5 * time.Second
	checkWindowDefault    = 5
	checkThresholdDefault = 3
	checkInitialDefault   = 2

	// checkEveryMin bounds how often a guest may have a backend asked.
	checkEveryMin = time.Second

	// checkWindowMax bounds what is remembered.
	checkWindowMax = 100
)

// health asks a backend how it is, again and again.
type health struct {
	healthy atomic.Bool
	asked   atomic.Bool // it has answered, or not, at least once
	cancel  context.CancelFunc
	asking  sync.WaitGroup
}

// newHealth begins to ask.
func newHealth(transport http.RoundTripper, o *guest.BackendOptions, log *slog.Logger) *health {
	check := *o.Check
	check.Every = max(cmp.Or(check.Every, checkEveryDefault), checkEveryMin)
	check.Timeout = cmp.Or(check.Timeout, checkTimeoutDefault)
	check.Method = cmp.Or(check.Method, http.MethodHead)
	check.Path = cmp.Or(check.Path, "/")
	check.Status = cmp.Or(check.Status, http.StatusOK)
	check.Window = min(cmp.Or(check.Window, checkWindowDefault), checkWindowMax)
	check.Threshold = min(cmp.Or(check.Threshold, min(checkThresholdDefault, check.Window)), check.Window)
	if check.Initial == 0 {
		check.Initial = checkInitialDefault
	}
	check.Initial = min(max(check.Initial, 0), check.Window)

	h := new(health)
	answers := make([]bool, check.Window) // a ring
	good := check.Initial
	for i := range check.Initial {
		answers[i] = true
	}
	h.healthy.Store(good >= check.Threshold)
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	b := &Backend{options: *o}
	h.asking.Go(func() {
		at := check.Initial % check.Window
		for {
			ok := ask(ctx, transport, b, &check)
			if ctx.Err() != nil {
				return
			}
			if answers[at] {
				good--
			}
			if answers[at] = ok; ok {
				good++
			}
			at = (at + 1) % check.Window
			if healthy := good >= check.Threshold; h.healthy.Swap(healthy) != healthy {
				log.Warn("backend changed", "backend", o.Name, "healthy", healthy, "good", good, "of", check.Window)
			}
			h.asked.Store(true)
			select {
			case <-ctx.Done():
				return
			case <-time.After(check.Every):
			}
		}
	})
	return h
}

// ask asks once.
func ask(ctx context.Context, transport http.RoundTripper, b *Backend, check *guest.HealthCheck) bool {
	ctx, cancel := context.WithTimeout(ctx, check.Timeout)
	defer cancel()
	r := (&http.Request{
		Method: check.Method, URL: b.url(check.Path), Host: cmp.Or(check.Host, b.options.HostOverride, b.authority()),
		Header: http.Header{"User-Agent": nil},
	}).WithContext(ctx)
	response, err := transport.RoundTrip(r)
	if err != nil {
		return false
	}
	io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10))
	response.Body.Close()
	return response.StatusCode == check.Status
}

func (h *health) now() guest.Health {
	if h.healthy.Load() {
		return guest.HealthHealthy
	}
	return guest.HealthUnhealthy
}

// fails says that requests are not to be sent. What a backend is taken for before it has
// been asked keeps nothing back: settings are read again while requests come.
func (h *health) fails() bool { return h.asked.Load() && !h.healthy.Load() }

// stop ends the asking and waits for it.
func (h *health) stop() {
	h.cancel()
	h.asking.Wait()
}
