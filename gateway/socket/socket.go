// Package socket keeps WebSocket clients and translates between them and an
// origin that is asked by HTTP (WebSocket-over-HTTP) or speaks WebSocket itself.
//
// Serve asks the origin before it upgrades: a refusal reaches the client as the
// plain HTTP answer it is. Then the client belongs to package wire, and a session
// is a small struct without a goroutine: it is called when bytes arrive, when an
// item is published, and when a timer fires. A goroutine exists only while the
// origin is being asked; what the client says meanwhile waits in a bounded list
// and leaves together with the next request.
//
// gorilla/websocket does the framing, between two pieces of memory: see frame.go.
package socket

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/gateway/wire"
)

const (
	// messageBytesDefault bounds a client's message, inflated.
	messageBytesDefault = 1 << 20

	// subscriptionsDefault bounds a client's channels (Pushpin's number).
	subscriptionsDefault = 20

	// filtersMax bounds the filters of a subscription (Pushpin's number).
	filtersMax = 5

	// waitingBytesMax is how much may wait for the origin before the client is no
	// longer read (Pushpin's number). The kernel's buffers slow the client down.
	waitingBytesMax = 200_000

	// waitingEventsMax is waitingBytesMax for events without content.
	waitingEventsMax = 512

	// behindBytesMax is how much may wait for the client before the origin is
	// asked again (Pushpin's number).
	behindBytesMax = 200_000

	// exchangeTimeoutDefault bounds one request to the origin.
	exchangeTimeoutDefault = 5 * time.Minute

	// closeTimeout bounds the wait for the client's Close after ours.
	closeTimeout = 10 * time.Second

	// retriesMax and retryFirst are how often and how soon a request that did not
	// reach the origin is sent again: after 1, 2, 4, 8 and 16 s, and up to
	// retryJitter more.
	retriesMax  = 5
	retryFirst  = time.Second
	retryJitter = time.Second
)

// Reason says why a client's WebSocket ended. The values are those of the metric
// gripway_websockets_closed_total.
type Reason string

// The reasons.
const (
	ReasonClient      Reason = "client"      // the client sent Close
	ReasonGone        Reason = "gone"        // the client's connection ended without a Close
	ReasonOrigin      Reason = "origin"      // the origin sent Close or DISCONNECT
	ReasonPublished   Reason = "published"   // a published item closed it
	ReasonOriginError Reason = "originError" // the origin answered wrong
	ReasonUnreachable Reason = "unreachable" // the origin could not be reached any more
	ReasonProtocol    Reason = "protocol"    // the client broke the WebSocket protocol
	ReasonTooBig      Reason = "tooBig"      // the client's message exceeded the limit
	ReasonSlow        Reason = "slow"        // the client did not take what it was sent
	ReasonLost        Reason = "lost"        // the bus lost items, so the client must start anew
	ReasonCommand     Reason = "command"     // an operator or backend closed it
	ReasonShutdown    Reason = "shutdown"    // the gateway drains
)

var reasons = []string{
	string(ReasonClient), string(ReasonGone), string(ReasonOrigin), string(ReasonPublished), string(ReasonOriginError),
	string(ReasonUnreachable), string(ReasonProtocol), string(ReasonTooBig), string(ReasonSlow), string(ReasonLost),
	string(ReasonCommand), string(ReasonShutdown),
}

// Options describe a Keeper. Hub and Group are needed.
type Options struct {
	Hub   *hub.Hub
	Group *wire.Group

	// MessageBytes bounds a client's message; longer ones are closed with 1009.
	// Zero means 1 MiB.
	MessageBytes int

	// Subscriptions bounds the channels of one client; more are ignored and
	// counted. Zero means 20.
	Subscriptions int

	// ExchangeTimeout bounds one request to the origin. Zero means 5 minutes.
	ExchangeTimeout time.Duration

	// Drop ends the connection of a client whose origin has failed without a Close
	// frame, as Pushpin does.
	Drop bool

	// Compression offers permessage-deflate (RFC 7692), without context takeover.
	Compression bool

	Metrics *metrics.Registry
	Log     *slog.Logger
}

// Keeper keeps the WebSocket clients of a gateway. It may be used concurrently.
type Keeper struct {
	opts Options
	log  *slog.Logger

	// ctx ends when the gateway gives up waiting for sessions.
	ctx    context.Context
	cancel context.CancelFunc

	mu         sync.Mutex
	sessions   map[string]*session // by id
	users      hub.Users[*session]
	recovering map[string]int // by route: how many of its clients are
	draining   bool
	empty      chan struct{} // closed when draining and no session is left

	exchanges atomic.Int64 // running

	open         metrics.Gauge
	closed       map[string]metrics.Counter
	refused      metrics.Counter
	received     metrics.Counter
	badControl   metrics.Counter
	subsDropped  metrics.Counter
	unprefixed   metrics.Counter
	exchangeTime metrics.Histogram
	retried      metrics.Counter
	filterErrors metrics.Counter
	gaps         metrics.Counter
	replied      metrics.Counter
	recovered    map[string]metrics.Counter // by outcome
}

// NewKeeper returns a Keeper.
func NewKeeper(opts Options) *Keeper {
	if opts.MessageBytes == 0 {
		opts.MessageBytes = messageBytesDefault
	}
	if opts.Subscriptions == 0 {
		opts.Subscriptions = subscriptionsDefault
	}
	if opts.ExchangeTimeout == 0 {
		opts.ExchangeTimeout = exchangeTimeoutDefault
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	m := opts.Metrics
	k := &Keeper{
		opts: opts, log: opts.Log,
		sessions: make(map[string]*session),
		empty:    make(chan struct{}),

		open:         m.Gauge("websockets_open", "WebSocket clients held."),
		closed:       m.Counters("websockets_closed_total", "WebSocket clients that ended, by reason.", "reason", reasons...),
		refused:      m.Counter("websockets_refused_total", "WebSocket handshakes that an origin refused or that failed."),
		received:     m.Counter("websocket_messages_received_total", "Messages from WebSocket clients."),
		badControl:   m.Counter("websocket_control_refused_total", "Control messages of origins that could not be read."),
		subsDropped:  m.Counter("websocket_subscriptions_refused_total", "Subscriptions beyond the limit for one client."),
		unprefixed:   m.Counter("websocket_origin_messages_dropped_total", "Messages of origins without the message prefix."),
		exchangeTime: m.Histogram("websocket_exchange_seconds", "Time of WebSocket-over-HTTP requests.", .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60),
		filterErrors: m.Counter("websocket_filter_errors_total", "Items that WebSocket clients did not get because a filter failed."),
		replied:      m.Counter("websocket_auto_replies_total", "Messages of WebSocket clients that were answered without their origin."),
		gaps:         m.Counter("websocket_gaps_total", "Times that a WebSocket client lacked items, or may have, and its origin was to be asked for them."),
		recovered:    m.Counters("websocket_recoveries_total", "Requests to origins for what WebSocket clients lacked, by outcome.", "outcome", "ok", "failed"),
		retried:      m.Counter("websocket_exchange_retries_total", "WebSocket-over-HTTP requests sent again because the origin was unreachable."),
	}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	return k
}

// add registers a session; false means that the gateway drains.
func (k *Keeper) add(s *session, about *hub.About) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.draining {
		return false
	}
	k.sessions[s.id] = s
	k.open.Inc()
	if about != nil {
		client := *about
		client.ID, client.Format = s.id, hub.FormatMessage
		k.opts.Hub.Watcher().Came(client)
	}
	return true
}

// left counts a session whose client has gone, unless it was never counted.
func (k *Keeper) left(s *session, reason Reason) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.leftLocked(s, reason)
}

func (k *Keeper) leftLocked(s *session, reason Reason) {
	k.users.Set(s, "")
	if k.sessions[s.id] != s || s.counted {
		return
	}
	s.counted = true
	k.open.Dec()
	k.closed[string(reason)].Inc()
	if watcher := k.opts.Hub.Watcher(); watcher != nil {
		watcher.Left(s.id, string(reason))
	}
}

// remove forgets a session that has ended and whose origin knows. It may come
// before left, from who asked the origin last.
func (k *Keeper) remove(s *session, reason Reason) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sessions[s.id] != s {
		return
	}
	k.leftLocked(s, reason)
	delete(k.sessions, s.id)
	if k.draining && len(k.sessions) == 0 {
		close(k.empty)
	}
}

// Drain closes all clients with 1001 and waits until they have gone and their
// origins know, or ctx ends: then it drops what is left and returns ctx's error.
func (k *Keeper) Drain(ctx context.Context) error {
	k.mu.Lock()
	if k.draining {
		k.mu.Unlock()
		return nil
	}
	k.draining = true
	sessions := make([]*session, 0, len(k.sessions))
	for _, s := range k.sessions {
		sessions = append(sessions, s)
	}
	if len(sessions) == 0 {
		close(k.empty)
	}
	k.mu.Unlock()
	for _, s := range sessions {
		s.close(ReasonShutdown, closeGoingAway, "going away")
	}
	select {
	case <-k.empty:
	case <-ctx.Done():
	}
	k.cancel()
	k.mu.Lock()
	left := make([]*session, 0, len(k.sessions))
	for _, s := range k.sessions {
		left = append(left, s)
	}
	k.mu.Unlock()
	for _, s := range left {
		s.conn.Abort()
	}
	return ctx.Err()
}

// isDraining says whether clients are being told to go.
func (k *Keeper) isDraining() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.draining
}

// Len returns how many clients are held.
func (k *Keeper) Len() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.sessions)
}

// Client returns the client with that Connection-Id, or nil if there is none, or
// none any more.
func (k *Keeper) Client(id string) hub.Client {
	k.mu.Lock()
	s := k.sessions[id]
	k.mu.Unlock()
	if s == nil || s.isGone() { // its origin may still be told
		return nil
	}
	return s
}

// ClientsOf returns the clients that the origin said are the user's (set-meta).
func (k *Keeper) ClientsOf(user string) []hub.Client {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []hub.Client
	for _, s := range k.users.Of(user) {
		all = append(all, s)
	}
	return all
}

// setUser says whose a session is.
func (k *Keeper) setUser(s *session, name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sessions[s.id] == s && !s.isGone() { // else nobody would take it out again
		k.users.Set(s, name)
	}
}

// CheckHandshake answers a client whose WebSocket handshake is wrong (RFC 6455,
// section 4.2.1) and returns whether it is right. The origin is not bothered
// with wrong ones.
func CheckHandshake(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodGet {
		http.Error(w, "WebSocket handshake must be a GET", http.StatusMethodNotAllowed)
		return false
	}
	if r.ContentLength != 0 {
		// It would be taken for frames.
		w.Header().Set("Connection", "close")
		http.Error(w, "WebSocket handshake must have no body", http.StatusBadRequest)
		return false
	}
	if v := r.Header.Values("Sec-Websocket-Version"); len(v) != 1 || v[0] != "13" {
		w.Header().Set("Sec-WebSocket-Version", "13")
		http.Error(w, "Sec-WebSocket-Version must be 13", http.StatusUpgradeRequired)
		return false
	}
	if !validKey(r.Header.Values("Sec-Websocket-Key")) {
		http.Error(w, "Sec-WebSocket-Key must be 16 bytes in base64", http.StatusBadRequest)
		return false
	}
	return true
}
