// Package gateway is what clients connect to: it takes each request to the
// origin of its route, holds what the origin asks to be held, and gives held
// clients what is published.
//
// # The plan
//
//	gateway.go ─► socket ─┐         (sockjs: a socket for who cannot have one)
//	     │   └──► hold ───┴► hub      who holds clients, who gives them items
//	     │          └──────────► wire who keeps connections
//	     ├──► origin                  requests to origins
//	     ├──► metrics
//	     └──► cluster                 what nodes ask each other; main asks, Gateway answers
//
// Below these rooms stand grip, wsoverhttp, pubsub and guest, which know nothing of
// them. Rooms next door, which only main enters: config, control, demo, guests,
// outbound, watch, zmq.
//
// # Words
//
//   - origin: whoever answers a request; route: which origin, and on what terms
//   - hold: a response kept open, as a stream or for one answer (a long poll)
//   - item: what is published to a channel; subscriber: a client that follows it
//
// # Promises
//
//   - Nothing that a client sends can reach an origin as Grip-*, Meta-*,
//     Connection-Id or Pushpin-Route, unless the client is a trusted gateway.
//   - A client that is held has no hole in what it is sent: it is closed first,
//     with a reason that is counted.
//   - No lock is held while a client is written to.
//
// # Looks wrong, is not
//
//   - A route is found before the request's WebSocket handshake is checked: a
//     client that is not one of ours learns nothing of the rest.
//   - A guest sees its client's request as it is, a forged Grip-Sig as well: it is
//     no origin then, and those that are their own origin verify it. What it hands
//     off is cleaned like any request.
//   - Answers of origins that are no GRIP answers are passed on even if their
//     request was too large to be held: only GRIP needs the request again.
package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gripway/gripway/gateway/hold"
	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/gateway/origin"
	"github.com/gripway/gripway/gateway/socket"
	"github.com/gripway/gripway/gateway/sockjs"
	"github.com/gripway/gripway/gateway/wire"
	"github.com/gripway/gripway/pubsub"
)

// Options describe a Gateway. Bus is needed; zero values are the defaults of the
// rooms they belong to.
type Options struct {
	// Bus brings items. It is not closed with the gateway.
	Bus pubsub.Bus

	// AcceptPushpinRoute lets a request choose its route by id (Pushpin-Route).
	AcceptPushpinRoute bool

	// AcceptXForwardedProto believes a client that says it came over TLS.
	AcceptXForwardedProto bool

	// CrossOrigin answers requests without a route as if they had one with CrossOrigin.
	CrossOrigin bool

	// Network is where links to hosts without a route are fetched from, and
	// LinkRules how. Nil means one of its own, and unsigned.
	Network   *origin.Network
	LinkRules *origin.Rules

	// HeaderBytes bounds a request's head; a longer one is answered with 431. Zero
	// leaves it to the server.
	HeaderBytes int

	// HoldsMax bounds the clients held at once; one more is answered with 503.
	// Zero means no bound but the system's.
	HoldsMax int

	// SockJSURL is the client library that pages for iframes load (see sockjs.Options).
	SockJSURL string

	QueueBytes           int           // see wire.GroupOptions
	ItemQueueBytes       int           // see hub.Options.QueueBytes
	StallMax             time.Duration // see wire.GroupOptions
	WebSocketBytes       int           // see socket.Options.MessageBytes
	WebSocketCompression bool          // see socket.Options.Compression
	WebSocketDrop        bool          // see socket.Options.Drop
	Subscriptions        int           // see socket.Options and hold.Options
	TimeoutMin           time.Duration // see hold.Options
	FirstUpdate          time.Duration // see hub.Options
	Linger               time.Duration // see hub.Options
	MessageWait          time.Duration // see hub.Options
	IDTTL                time.Duration // see hub.Options

	// History says which channels keep their latest items; see hub.Options.
	History func(channel string) *hub.History
	// Watch is told who comes and goes. Nil is nobody, and costs nothing.
	Watch Watcher

	Metrics *metrics.Registry
	Log     *slog.Logger
}

// Watcher is told who is held, and of requests to a route with an id.
type Watcher interface {
	hub.Watcher
	Requested(route string)
}

// Gateway is an http.Handler for clients.
type Gateway struct {
	opts    Options
	log     *slog.Logger
	routes  atomic.Pointer[table]
	group   *wire.Group
	hub     *hub.Hub
	holds   *hold.Keeper
	sockets *socket.Keeper
	asks    *asks
	sockjs  *sockjs.Server

	guests  guestStats
	tunnels *tunnels

	requests map[string]metrics.Counter // by kind
	refusals map[string]metrics.Counter // by reason
}

// Kinds of requests, and reasons for which the gateway answers itself.
const (
	kindHTTP      = "http"
	kindWebSocket = "websocket"

	refusedRoute     = "noRoute"
	refusedOrigin    = "originFailed"
	refusedInstruct  = "badInstruction"
	refusedTooLarge  = "tooLarge"
	refusedFull      = "full"
	refusedHandshake = "badHandshake"
	refusedEnding    = "ending"
	refusedEvents    = "websocketEvents"
	refusedRequest   = "badRequest"
	refusedGuest     = "guestFailed"
)

// New returns a Gateway without routes.
func New(opts Options) (*Gateway, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	group, err := wire.NewGroup(wire.GroupOptions{QueueBytes: opts.QueueBytes, StallMax: opts.StallMax})
	if err != nil {
		return nil, err
	}
	m := opts.Metrics
	g := &Gateway{
		opts: opts, log: opts.Log, group: group, asks: newAsks(m),
		requests: m.Counters("requests_total", "Requests of clients, by kind.", "kind", kindHTTP, kindWebSocket),
		refusals: m.Counters("requests_refused_total", "Requests that the gateway answered itself, by reason.", "reason",
			refusedRoute, refusedOrigin, refusedInstruct, refusedTooLarge, refusedFull, refusedHandshake, refusedEnding, refusedEvents, refusedRequest, refusedGuest),
	}
	g.guests = g.newGuestStats()
	g.tunnels = newTunnels(m.Gauge("tunnels", "WebSockets that guests handed off to backends that speak it: bytes are passed through."))
	g.hub = hub.New(hub.Options{
		Bus: opts.Bus, Shards: group.Loops(), QueueBytes: opts.ItemQueueBytes, Frame: socket.Frame,
		FirstUpdate: opts.FirstUpdate, Linger: opts.Linger, MessageWait: opts.MessageWait, IDTTL: opts.IDTTL, History: opts.History, Watch: watcher(opts.Watch), Metrics: m, Log: opts.Log,
	})
	g.holds = hold.NewKeeper(hold.Options{
		Hub: g.hub, Group: group, Subscriptions: opts.Subscriptions, TimeoutMin: opts.TimeoutMin, Metrics: m, Log: opts.Log,
	})
	g.sockets = socket.NewKeeper(socket.Options{
		Hub: g.hub, Group: group, MessageBytes: opts.WebSocketBytes, Subscriptions: opts.Subscriptions,
		Compression: opts.WebSocketCompression, Drop: opts.WebSocketDrop, Metrics: m, Log: opts.Log,
	})
	g.sockjs = sockjs.New(sockjs.Options{
		ClientURL: opts.SockJSURL, SendBytes: sockJSFactor * opts.WebSocketBytes, QueueBytes: opts.QueueBytes, Metrics: m, Log: opts.Log,
	})
	g.SetRoutes(nil)
	return g, nil
}

// watcher is a Watcher as the hub knows it: a nil one is nil there, too.
func watcher(w Watcher) hub.Watcher {
	if w == nil {
		return nil
	}
	return w
}

// about is what a watcher is told of a client; nil without one.
func (g *Gateway) about(r *http.Request, route *Route) *hub.About {
	if g.opts.Watch == nil {
		return nil
	}
	client, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		client = r.RemoteAddr
	}
	return &hub.About{Route: route.id(), Client: client, TLS: g.isTLS(r)}
}

// SetRoutes replaces all routes, which belong to the gateway from now on.
// Clients that are held stay as they are.
func (g *Gateway) SetRoutes(routes []*Route) {
	for _, route := range routes {
		g.prepareRoute(route)
	}
	g.routes.Store(newTable(routes))
}

func (g *Gateway) prepareRoute(route *Route) {
	route.terms = &socket.Terms{
		Route: route.name(), Prefix: route.Prefix, Channels: route.Channels, Replies: route.Replies, Asker: &socketAsker{g, route},
	}
	route.sign = func(request *http.Request) {
		if err := route.Rules.SignHeader(request.Header); err != nil {
			g.log.Error("signing", "route", route.name(), "error", err)
		}
	}
	for _, part := range route.Parts {
		g.prepareRoute(part)
	}
}

// Recover has all held long polls ask their origins again.
func (g *Gateway) Recover() { g.hub.Update() }

// Held returns how many clients are held.
func (g *Gateway) Held() int { return g.holds.Len() + g.sockets.Len() + g.tunnels.len() }

// Drain ends all holds and closes all WebSockets, with words, and waits until
// they have gone or ctx ends. Requests should not come any more.
func (g *Gateway) Drain(ctx context.Context) error {
	done := make(chan error, 2)
	go func() { done <- g.holds.Drain(ctx) }()
	go func() { done <- g.sockets.Drain(ctx) }()
	g.tunnels.drain()
	return errors.Join(<-done, <-done)
}

// Close ends everything, after Drain.
func (g *Gateway) Close() {
	g.hub.Close()
	g.group.Close()
}

// ServeHTTP takes a client's request to its origin.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	upgrade := isWebSocket(r)
	kind := kindHTTP
	if upgrade {
		kind = kindWebSocket
	}
	g.requests[kind].Inc()
	if g.opts.HeaderBytes > 0 && headBytes(r) > g.opts.HeaderBytes {
		w.Header().Set("Connection", "close")
		g.refuse(w, r, refusedTooLarge, http.StatusRequestHeaderFieldsTooLarge, "Request header is too large.")
		return
	}
	route := g.route(r, upgrade)
	if g.opts.Watch != nil {
		g.opts.Watch.Requested(route.id())
	}
	if route != nil && route.SockJS != "" && g.serveSockJS(w, r, route) {
		return
	}
	crossOrigin := route == nil && g.opts.CrossOrigin || route != nil && route.CrossOrigin
	switch {
	case crossOrigin && !upgrade: // browsers do not ask about WebSockets
		g.serveCrossOrigin(w, r, route)
	case route == nil:
		g.noRoute(w, r)
	case route.Guest != nil:
		g.serveGuest(w, r, route, nil)
	case upgrade:
		g.serveWebSocket(w, r, route)
	default:
		g.serveHTTP(w, r, route, nil)
	}
}

// noRoute answers a client whose request goes nowhere.
func (g *Gateway) noRoute(w http.ResponseWriter, r *http.Request) {
	g.log.Info("no route", "host", r.Host, "path", encodedPath(r), "websocket", isWebSocket(r))
	g.refuse(w, r, refusedRoute, http.StatusBadGateway, "Route not found")
}

// headBytes is how long the request's head was, about: net/http reads four
// kilobytes more than it is told to before it refuses one.
func headBytes(r *http.Request) int {
	n := len(r.Method) + len(r.RequestURI) + len(r.Host)
	for name, values := range r.Header {
		for _, value := range values {
			n += len(name) + len(value) + len(": \r\n")
		}
	}
	return n
}

// isWebSocket says whether the request asks for a WebSocket (RFC 6455, section 4.1).
// HTTP/1.0 cannot (RFC 9110, section 7.8).
func isWebSocket(r *http.Request) bool {
	return r.ProtoMajor == 1 && r.ProtoMinor > 0 && hasToken(r.Header["Upgrade"], "websocket") && hasToken(r.Header["Connection"], "upgrade")
}

// hasToken says whether a list of tokens has one, in any case of letters.
func hasToken(values []string, token string) bool {
	for _, value := range values {
		for part := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// route finds the request's route.
func (g *Gateway) route(r *http.Request, upgrade bool) *Route {
	t := g.routes.Load()
	proto := "http"
	if upgrade {
		proto = "ws"
	}
	tls := g.isTLS(r)
	path := encodedPath(r)
	if g.opts.AcceptPushpinRoute {
		if id := r.Header.Get("Pushpin-Route"); id != "" {
			if route := t.byID[id]; route != nil && strings.HasPrefix(path, route.PathBeg) {
				return route
			}
			return nil
		}
	}
	return t.find(r.Host, path, proto, tls)
}

// isTLS says whether the client's connection counts as TLS.
func (g *Gateway) isTLS(r *http.Request) bool {
	return r.TLS != nil || g.opts.AcceptXForwardedProto && origin.SaysTLS(r.Header)
}

// full says whether no more clients can be held.
func (g *Gateway) full() bool { return g.opts.HoldsMax > 0 && g.Held() >= g.opts.HoldsMax }

// refuse answers a client in the gateway's own name.
func (g *Gateway) refuse(w http.ResponseWriter, r *http.Request, reason string, status int, text string) {
	g.refusals[reason].Inc()
	defer letGo(w, r)()
	header := w.Header()
	header.Set("Content-Type", "text/plain")
	if status == http.StatusServiceUnavailable {
		header.Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		w.Write([]byte(text + "\n"))
	}
}
