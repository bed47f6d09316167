// Package control is the gateway's private API over HTTP: publishing, recovery,
// metrics, health, and listening in. It is for the port that only operators and
// origins reach.
//
//	POST /publish/       {"items":[…]}; answers "Published\n" once the bus accepted all
//	POST /service/{id}/publish/
//	                     the same, where Fastly's API has it
//	POST /service/{id}/purge/{key}, /service/{id}/purge, /service/{id}/purge_all
//	                     take objects out of the caches of guests, on all nodes, as Fastly's
//	                     API has it: by one surrogate key, by those in the header
//	                     Surrogate-Key or in a body, or all. Fastly-Soft-Purge: 1 has them
//	                     stay, and be stale. If id is a guest's name, only of that one
//	POST /publish/?wait=2s
//	                     the same; answers what became of the items, as JSON, when all
//	                     nodes have said so or the time is up (also Prefer: wait=2)
//	POST /api/close      {"connection":…} or {"user":…} or {"channel":…}, with code and
//	                     reason: ends these clients on all nodes; answers how many
//	POST /api/refresh    {"connection":…} or {"channel":…}: WebSockets over HTTP ask
//	                     their origins
//	POST /recover/       have all held responses and streams ask their origins again
//	GET  /api/subscribe?channel=a&channel=b
//	                     every item published to these channels, a line of JSON each
//	GET  /metrics        Prometheus
//	GET  /healthz        200 while the process runs
//	GET  /readyz         200 while clients are welcome, else 503 and why
//	     /               says who is here
//
// A slash at the end and slashes in a row make no difference, and there is no
// redirect: libraries post to //publish/, and a redirect would lose the body.
//
// # Who may
//
// Without Options.Access nobody is asked: Authorization of any kind is accepted
// and not looked at, as by Pushpin. With it, all but /, /healthz, /readyz and
// /metrics needs a key: Authorization: Bearer or Basic, or Fastly-Key.
//
//	401   no key, or none of ours; WWW-Authenticate says what there is
//	403   the key is not for a channel, which is named; nothing is published. Or it
//	      is for some channels only, and nothing is purged, nor recovered
//	429   the key's rate is used up; Retry-After says until when
//	400   more items at once than the key's burst: waiting would not help
//	503   the keys of a token's issuer cannot be read at present
//
// Channels that a key may not publish to it may not listen to either.
//
// # Differences
//
// The API is that of Pushpin's push_in_http port, texts included. It differs in
// this:
//
//   - Connections are kept alive. Pushpin closes each after its answer.
//   - A bus that does not accept an item is told to the publisher: 503 (or 400
//     and 403, if trying again cannot help). Pushpin's 200 says nothing.
//   - /recover/ needs no Content-Length.
//   - A query after the path is ignored; Pushpin answers 404.
//   - An empty Accept header counts as none.
//   - A request header that is too long is the server's business, which answers
//     431: set [HeaderBytesMax] there.
//
// # Looks wrong, is not
//
//   - A publish does not end with its request. A publisher that hangs up after
//     sending its body has published: half of a body would be worse.
//   - The last matching entry of Accept wins, and q is not read: as in Pushpin.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gripway/gripway/gateway/access"
	"github.com/gripway/gripway/gateway/cluster"
	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/pubsub"
)

const (
	// HeaderBytesMax is how long the header of a request may be, for the server
	// that Control is the handler of. Pushpin's limit.
	HeaderBytesMax = 10_000

	// publishBytesDefault is how long a publish body may be: Pushpin's limit.
	publishBytesDefault = 1_000_000

	// publishingDefault bounds the publish requests that are worked on at once,
	// and with the body limit the memory they take. Pushpin's limit.
	publishingDefault = 128

	// waitersMax bounds the publish requests that wait for what becomes of their items,
	// and keep their bodies meanwhile.
	waitersMax = 1024

	// publishingWait is how long a publish waits for its turn among them before
	// it is answered 503: long enough for a burst, too short for a pile.
	publishingWait = 2 * time.Second

	// bodyWait is how long a publish body may take to arrive, so that slow
	// senders do not hold all turns.
	bodyWait = 10 * time.Second

	// bodyDrained is how much of a body that is too long is read and thrown away, in
	// bytes: clients that only read the answer after writing all would not get it
	// otherwise.
	bodyDrained = 8 << 20

	// retryAfter is what a publisher is told to wait, in seconds. A full bus
	// empties in less.
	retryAfter = "1"
)

// Options say what the API is connected to.
type Options struct {
	// Bus takes what is published. Required. It stays the caller's.
	Bus pubsub.Bus

	// Cluster is what asks nodes. Nil means one of Bus's nodes.
	Cluster *cluster.Cluster

	// Recover is called by POST /recover/ and should return soon. Nil: the API
	// answers 501.
	Recover func()

	// Purge takes objects out of the caches of guests, on all nodes. Nil: there are
	// none, and the API answers 501.
	Purge func(ctx context.Context, p Purge) (Purged, error)

	// PurgesGuest says whether a name is a guest's. Nil: none is.
	PurgesGuest func(name string) bool

	// Ready returns why clients are not welcome now, in words for the operator.
	// Nil: always ready.
	Ready func() error

	// Access says who may use the API. It stays the caller's. Nil: anybody.
	Access *access.List

	// LoopbackOpen lets requests from a loopback address that show no key do
	// all. One that shows a key is held to it.
	LoopbackOpen bool

	// MetricsKey has /metrics need a key as well.
	MetricsKey bool

	// ServiceID is the only id that /service/{id}/publish/ takes; others are 404.
	// Empty: any. Purges take names of guests as well.
	ServiceID string

	// PublishBytes is how long a publish body may be. Zero means 1 000 000.
	PublishBytes int

	// Publishing is how many publish requests are worked on at once. Zero means 128.
	Publishing int

	// Waiters is how many of them may wait for what becomes of their items. Zero means
	// 1024.
	Waiters int

	// ListenerBytes is how much may wait for one listener of /api/subscribe.
	// Zero means 1 MiB.
	ListenerBytes int

	// Heartbeat is how often a listener that gets nothing gets a blank line. Zero
	// means 15 s.
	Heartbeat time.Duration

	Metrics *metrics.Registry // nil counts nothing; /metrics is 404 then
	Log     *slog.Logger      // nil discards
}

// Control is the private API. It is an http.Handler and may be used
// concurrently.
type Control struct {
	// Fixed after New.
	bus           pubsub.Bus
	cluster       *cluster.Cluster
	recoverAll    func()
	purge         func(context.Context, Purge) (Purged, error)
	purgesGuest   func(string) bool
	ready         func() error
	access        *access.List // nil: nobody is asked
	loopbackOpen  bool
	metricsKey    bool
	serviceID     string
	publishBytes  int
	listenerBytes int
	heartbeat     time.Duration
	showMetrics   http.Handler
	log           *slog.Logger
	stats         stats

	// publishing has a token for each publish that is worked on, until the bus has its
	// items; waiters one for each that asks what became of them. Never closed.
	publishing, waiters chan struct{}

	// ctx ends with Close: listeners end with it, and publishes that still wait
	// for the bus.
	ctx    context.Context
	cancel context.CancelFunc

	// When these were last logged, Unix seconds.
	warned     atomic.Int64 // the bus refusing
	warnedKeys atomic.Int64 // somebody without a right key

	// Guarded by mu.
	mu        sync.Mutex
	closed    bool
	listening int
	listeners sync.WaitGroup // Add only under mu and before closed
}

// New returns the API; Close ends it.
func New(options Options) *Control {
	c := &Control{
		bus:           options.Bus,
		cluster:       options.Cluster,
		recoverAll:    options.Recover,
		purge:         options.Purge,
		purgesGuest:   options.PurgesGuest,
		ready:         options.Ready,
		access:        options.Access,
		loopbackOpen:  options.LoopbackOpen,
		metricsKey:    options.MetricsKey,
		serviceID:     options.ServiceID,
		publishBytes:  orDefault(options.PublishBytes, publishBytesDefault),
		listenerBytes: orDefault(options.ListenerBytes, listenerBytesDefault),
		heartbeat:     orDefault(options.Heartbeat, heartbeatDefault),
		showMetrics:   options.Metrics.Handler(),
		log:           options.Log,
		stats:         newStats(options.Metrics),
		publishing:    make(chan struct{}, orDefault(options.Publishing, publishingDefault)),
		waiters:       make(chan struct{}, orDefault(options.Waiters, waitersMax)),
	}
	if c.bus == nil {
		panic("control: Options.Bus is nil")
	}
	if c.cluster == nil {
		c.cluster = cluster.New(c.bus)
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

func orDefault[T int | time.Duration](value, def T) T {
	if value == 0 {
		return def
	}
	return value
}

// Close ends the listeners, each with a last line that says so, and waits for
// them. Call it before the server's Shutdown, which waits for listeners too but
// does not end them. What else the API can do, it still does.
func (c *Control) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.listeners.Wait()
	return nil
}

// ServeHTTP is the API.
func (c *Control) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if path != "/publish/" { // nearly all requests are
		path = c.servicePath(plainPath(path))
	}
	var key *access.Key // nil may do all
	if c.access != nil && c.needsKey(path) {
		var ok bool
		if key, ok = c.admit(w, r, path); !ok {
			return
		}
	}
	switch path {
	case "/publish/", "/publish":
		c.publish(w, r, key)
	case "/recover":
		c.recover(w, r, key)
	case "/api/subscribe":
		c.subscribe(w, r, key)
	case "/api/close":
		c.close(w, r, key)
	case "/api/refresh":
		c.refresh(w, r, key)
	case "/metrics":
		if reading(w, r) {
			c.showMetrics.ServeHTTP(w, r)
		}
	case "/healthz":
		if reading(w, r) {
			answer(w, http.StatusOK, "ok")
		}
	case "/readyz":
		c.readiness(w, r)
	default:
		if p, ok := c.purgePath(path); ok {
			c.purgeCaches(w, r, p, key)
			return
		}
		format := negotiate(r.Header)
		switch {
		case format == formatNone:
			c.unacceptable(w)
		case path == "/" && r.Method != http.MethodGet && r.Method != http.MethodHead:
			// A publisher whose URL was put together wrong must not think that it has published.
			notAllowed(w, r, "GET, HEAD")
		case path == "/":
			answer(w, http.StatusOK, "Gripway API")
		default:
			answer(w, http.StatusNotFound, "Not Found")
		}
	}
}

// plainPath makes slashes in a row one, and takes that at the end away.
func plainPath(path string) string {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	if len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	return path
}

func (c *Control) recover(w http.ResponseWriter, r *http.Request, key *access.Key) {
	format := negotiate(r.Header)
	switch {
	case format == formatNone:
		c.unacceptable(w)
	case r.Method != http.MethodPost:
		notAllowed(w, r, "POST")
	case c.recoverAll == nil:
		answer(w, http.StatusNotImplemented, "Recovery is not supported here.")
	case !key.MayAll():
		answer(w, http.StatusForbidden, fmt.Sprintf("The key %q is for some channels only, and all would be asked about.", key.Name()))
	default:
		c.recoverAll()
		updated.write(w, format)
	}
}

func (c *Control) readiness(w http.ResponseWriter, r *http.Request) {
	if !reading(w, r) {
		return
	}
	if c.ready != nil {
		if err := c.ready(); err != nil {
			answer(w, http.StatusServiceUnavailable, "not ready: "+err.Error())
			return
		}
	}
	answer(w, http.StatusOK, "ready")
}

// stats are the metrics of the API.
type stats struct {
	items    metrics.Counter
	refused  map[string]metrics.Counter // by refusals
	intake   metrics.Histogram
	listened metrics.Gauge
	left     map[string]metrics.Counter // by leavings
}

// refusals are why publish requests are refused.
const (
	refusedMethod       = "method"       // 405
	refusedUnacceptable = "unacceptable" // 406
	refusedNoLength     = "no_length"    // 411
	refusedTooLarge     = "too_large"    // 400, by the body's length
	refusedCutShort     = "cut_short"    // the body did not arrive
	refusedInvalid      = "invalid"      // 400, by what it says
	refusedBusy         = "busy"         // 503, no turn
	refusedByBus        = "bus"          // 503, 403, 400: the bus did not accept an item
	refusedUnauthorized = "unauthorized" // 401
	refusedForbidden    = "forbidden"    // 403, by the key's channels
	refusedRate         = "rate"         // 429, and 400 beyond the burst
	refusedKeysAway     = "keys_away"    // 503, the keys of an issuer cannot be read
)

func newStats(m *metrics.Registry) stats {
	return stats{
		items: m.Counter("published_items_total", "Items that came over the private API and that the bus accepted."),
		refused: m.Counters("publish_refused_total", "Publish requests that were refused, by reason.", "reason",
			refusedMethod, refusedUnacceptable, refusedNoLength, refusedTooLarge, refusedCutShort, refusedInvalid, refusedBusy, refusedByBus,
			refusedUnauthorized, refusedForbidden, refusedRate, refusedKeysAway),
		intake: m.Histogram("publish_intake_seconds", "From the header of a publish request to the bus having accepted its last item.",
			0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
		listened: m.Gauge("listeners", "Readers of /api/subscribe."),
		left: m.Counters("listeners_left_total", "Readers of /api/subscribe that ended, by reason.", "reason",
			leftGone, leftSlow, leftShutdown),
	}
}

// warnBus logs that the bus refuses, at most once a second: a publisher that
// tries again and again must not fill the log.
func (c *Control) warnBus(channel string, err error) {
	now, last := time.Now().Unix(), c.warned.Load()
	if errors.Is(err, context.Canceled) || now == last || !c.warned.CompareAndSwap(last, now) {
		return
	}
	c.log.Warn("the bus did not accept an item", "channel", channel, "error", err)
}
