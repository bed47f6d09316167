package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gripway/gripway/gateway/origin"
	"github.com/gripway/gripway/gateway/wire"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/guest"
)

// This file is a guest's place: it decides about a client's request before any
// origin is asked. It may answer, and is an origin then, whose answer may be held;
// or hand off, and the request goes on as if it had come to a route to that backend.
//
//	client ─► ServeHTTP ─► guest ─┬─ answer ──────► GRIP, or relayed as it is
//	                              └─ hands off ───► serveHTTP, serveWebSocket, or
//	                                   passThrough, with the backend's route

// bodyKeptMax bounds what is kept of a request's body that a guest reads and may
// hand off afterwards, for the backend to read again. A guest that reads more has
// no way back.
const bodyKeptMax = 1 << 20

// selfHopsMax is how often a request may come back from a guest to its own
// gateway, by itself or as what the guest makes of it. Each hop is a sandbox that
// waits for the next.
const selfHopsMax = 8

// Program decides about requests, like a *guest.Program.
type Program interface {
	Serve(ctx context.Context, x *guest.Exchange) (guest.Outcome, error)
}

// Guest is a program that decides about the requests of routes. It may be used
// concurrently; the fields are fixed before it is.
type Guest struct {
	// Name is what logs call it.
	Name string

	// Handoff finds the route to the backend that requests are handed off to. Nil:
	// there is no backend of that name.
	Handoff func(h *guest.Handoff) *Route

	// Backends are those that WebSockets are passed through to.
	Backends guest.Backends

	// Proxy, if it is set, takes what is handed off to a GRIP proxy elsewhere, with
	// the backend's name: nothing is held here.
	Proxy func(backend string) http.RoundTripper

	// Verifier returns nil for a Grip-Sig of this gateway's own: such a request has
	// been handed off, and the guest is asked as an origin. Nil: none is.
	Verifier func(token string, now time.Time) error

	program atomic.Pointer[program]
}

// program is a Program and what has to be known of it.
type program struct {
	Program
	handsOff bool // it can, so that a body it has read must be there again
}

// SetProgram gives the guest new code. Requests under way stay with the old.
func (u *Guest) SetProgram(p Program) {
	handsOff := true
	if module, ok := p.(interface{ Module() *guest.Module }); ok {
		m := module.Module()
		handsOff = false
		for _, name := range []string{
			"redirect_to_grip_proxy", "redirect_to_grip_proxy_v2", "redirect_to_websocket_proxy", "redirect_to_websocket_proxy_v2",
		} {
			handsOff = handsOff || m.Imported("fastly_http_req", name) || m.Imported("env", "xqd_req_"+name)
		}
	}
	u.program.Store(&program{p, handsOff})
}

// signed says whether the request was handed off by this gateway and came back
// over the network.
func (u *Guest) signed(r *http.Request) bool {
	tokens := r.Header["Grip-Sig"]
	return u.Verifier != nil && len(tokens) == 1 && u.Verifier(tokens[0], time.Now()) == nil
}

// guestStats are what is counted of guests.
type guestStats struct {
	decisions map[string]counter
	faults    map[guest.FaultKind]counter
	seconds   interface{ Observe(float64) }
}

type counter interface{ Inc() }

// What becomes of a request that a guest is asked about.
const (
	guestAnswered  = "answer"
	guestHandoff   = "handoff"
	guestWebSocket = "websocket" // handed off to a backend that speaks it
	guestEmpty     = "empty"     // it ended and said nothing: 200
	guestFailed    = "failed"
	guestLoop      = "loop" // handed off what had been handed off, or asked itself too often
	guestGone      = "gone" // the client left before
)

func (g *Gateway) newGuestStats() guestStats {
	m := g.opts.Metrics
	s := guestStats{decisions: make(map[string]counter), faults: make(map[guest.FaultKind]counter)}
	for name, c := range m.Counters("guest_decisions_total", "What guests did with the requests they were asked about.", "decision",
		guestAnswered, guestHandoff, guestWebSocket, guestEmpty, guestFailed, guestLoop, guestGone) {
		s.decisions[name] = c
	}
	var kinds []string
	for _, kind := range guest.FaultKinds {
		kinds = append(kinds, string(kind))
	}
	for kind, c := range m.Counters("guest_faults_total", "Requests that a guest failed at before it had decided, by what went wrong.", "kind", kinds...) {
		s.faults[guest.FaultKind(kind)] = c
	}
	s.seconds = m.Histogram("guest_decision_seconds", "From a request to the guest's decision about it.",
		.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120)
	return s
}

// errLoop says that a guest handed off a request that had been handed off.
var errLoop = errors.New("the request had been handed off already: a guest that is its own backend has to answer what is signed (Grip-Sig)")

// errAround says that a guest asked itself too often.
var errAround = fmt.Errorf("the guest asks itself: the request has come back %d times", selfHopsMax)

func (g *Gateway) looped(r *http.Request, u *Guest) {
	g.guests.decisions[guestLoop].Inc()
	g.log.Error("guest asks itself", "guest", u.Name, "path", encodedPath(r), "times", selfHopsMax)
}

// serveGuest asks a guest about a client's request and does what it decides.
// client is as for serveHTTP.
func (g *Gateway) serveGuest(w http.ResponseWriter, r *http.Request, route *Route, client *outside) {
	own := route.Guest.signed(r)
	trusted := own || route.Rules.Trusts(r)
	if guest.Hops(r.Header) >= selfHopsMax {
		g.looped(r, route.Guest)
		g.refuse(w, r, refusedGuest, http.StatusLoopDetected, "The request goes around in a loop.")
		return
	}
	early := &earlyAnswer{w: w}
	x, body := g.exchange(r, route.Guest, early)
	outcome, err := g.ask(r, route.Guest, x)
	early.end()
	switch {
	case err != nil:
		body.detach()
		g.guestFailed(w, r, route, err)
	case outcome.Handoff == nil:
		if !checkAnswer(outcome.Response) {
			outcome.Response.Body.Close()
			g.answerFailed(w, r, route, fmt.Errorf("status %d cannot be the client's", outcome.Response.StatusCode))
			return
		}
		settled := g.settleBody(w, r, body, outcome.Response)
		defer settled()
		if outcome.Response.Close { // the guest wants no other request over the connection
			w.Header().Set("Connection", "close")
		}
		g.answer(w, r, route, outcome.Response, !trusted && !route.NoGrip, body.rest, client)
	case own:
		body.detach()
		g.guests.decisions[guestLoop].Inc()
		g.guestFailed(w, r, route, errLoop)
	case body.lost() != nil:
		g.guestFailed(w, r, route, body.lost())
	case outcome.Handoff.WebSocket:
		g.passThrough(w, body.request(r, outcome.Handoff), route, outcome.Handoff, true)
	case route.Guest.Proxy != nil:
		g.passThrough(w, body.request(r, outcome.Handoff), route, outcome.Handoff, false)
	default:
		g.handOff(w, body.request(r, outcome.Handoff), route, outcome.Handoff, client)
	}
}

// settleWait is how long an answer waits for the end of a request's body that nobody
// reads: as long as it takes what is on its way already.
const settleWait = 100 * time.Millisecond

// settleBytesMax bounds what is read of it, as net/http does.
const settleBytesMax = 256 << 10

// leftWait bounds the wait for a body once its answer has been sent: the connection is
// closed then.
const leftWait = time.Second

// settleBody sees to a body of HTTP/1 of which something is still to come when a guest
// answers. Nothing of it may be left in a connection that is used again: net/http would
// take it for the next request. If the answer is whole the guest needs no more of it.
// Otherwise the guest may go on to read while the client reads, and the connection
// ends with the answer. What it returns is to be called when that has been sent.
func (g *Gateway) settleBody(w http.ResponseWriter, r *http.Request, body *guestBody, answer *http.Response) (sent func()) {
	sent = func() {}
	if r.ProtoMajor != 1 || r.ContentLength == 0 || body.ended.Load() {
		return sent
	}
	control := http.NewResponseController(w)
	whole, ok := answer.Body.(interface{ Whole() bool })
	switch {
	case !ok, !whole.Whole():
	case grip.IsInstruction(answer.Header): // what is held may be asked again, with its body
	case r.Header.Get("Expect") != "": // a client that waits to be asked for it
	default:
		body.detach()
		if settled(control, r.Body) {
			return sent
		}
	}
	return lastAnswer(control, w)
}

// settled reads what is left of a body if that is on its way already, and says whether
// it was all. Who is reading it meanwhile is stopped.
func settled(control *http.ResponseController, body io.Reader) bool {
	control.SetReadDeadline(time.Now().Add(settleWait))
	_, err := io.CopyN(io.Discard, body, settleBytesMax)
	control.SetReadDeadline(time.Time{})
	return err == io.EOF
}

// lastAnswer has the connection end with the answer that is about to be written: net/http
// would first read what is left of the request. What it returns is to be called when the
// answer has been written.
func lastAnswer(control *http.ResponseController, w http.ResponseWriter) (sent func()) {
	control.EnableFullDuplex()
	w.Header().Set("Connection", "close")
	return func() {
		// Not as a deadline now: net/http takes it away if somebody is reading.
		time.AfterFunc(leftWait, func() { control.SetReadDeadline(time.Now()) })
	}
}

// letGo has an answer of the gateway's own not wait for a body that nobody reads any more,
// and that its client may never send. What it returns is to be called when the answer
// has been written.
func letGo(w http.ResponseWriter, r *http.Request) (sent func()) {
	if r.ProtoMajor != 1 || r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return func() {}
	}
	control := http.NewResponseController(w)
	if r.Header.Get("Expect") == "" && settled(control, r.Body) {
		return func() {}
	}
	return lastAnswer(control, w)
}

// handOff goes on with a request at the line where one without guest would be.
func (g *Gateway) handOff(w http.ResponseWriter, r *http.Request, route *Route, h *guest.Handoff, client *outside) {
	to := route.Guest.Handoff(h)
	if to == nil {
		g.log.Warn("guest hands off to a backend that does not exist", "guest", route.Guest.Name, "backend", h.Backend, "path", encodedPath(r))
		text := "Route not found"
		if route.Debug {
			text = fmt.Sprintf("Backend %q not found", h.Backend)
		}
		g.refuse(w, r, refusedRoute, http.StatusBadGateway, text)
		return
	}
	to = g.onTerms(to, route)
	if client == nil && isWebSocket(r) {
		g.serveWebSocket(w, r, to)
		return
	}
	g.serveHTTP(w, r, to, client)
}

// onTerms is a backend's route with what the guest's own says of channels and of
// telling clients.
func (g *Gateway) onTerms(to, route *Route) *Route {
	if route.Prefix == to.Prefix && (to.Debug || !route.Debug) && len(route.Channels) == 0 {
		return to
	}
	copied := *to
	copied.Prefix, copied.Channels, copied.Debug = route.Prefix, route.Channels, to.Debug || route.Debug
	return g.Backend(&copied, func() *Route { return g.onTerms(to.now(), route) })
}

// ServeBackend serves a request as if a guest had handed it off to a backend with
// this route.
func (g *Gateway) ServeBackend(w http.ResponseWriter, r *http.Request, route *Route) {
	if isWebSocket(r) {
		g.serveWebSocket(w, r, route)
		return
	}
	g.serveHTTP(w, r, route, nil)
}

// checkAnswer says whether a guest's answer can be one, and completes it.
func checkAnswer(response *http.Response) bool {
	if response.StatusCode < 200 || response.StatusCode > 999 {
		return false
	}
	if response.Header == nil {
		response.Header = make(http.Header)
	}
	if response.Body == nil {
		response.Body = http.NoBody
	}
	if response.StatusCode == http.StatusNoContent || response.StatusCode == http.StatusNotModified {
		response.Body.Close() // whatever the guest wrote: these have none
		response.Body, response.ContentLength, response.Trailer = http.NoBody, 0, nil
		delete(response.Header, "Content-Length")
	}
	if _, said := response.Header["Content-Length"]; !said && response.ContentLength > 0 {
		response.Header["Content-Length"] = []string{strconv.FormatInt(response.ContentLength, 10)}
	}
	return true
}

// exchange makes what the guest sees of a request.
func (g *Gateway) exchange(r *http.Request, u *Guest, early *earlyAnswer) (*guest.Exchange, *guestBody) {
	seen := r.WithContext(r.Context())
	body := &guestBody{body: r.Body, limit: -1}
	if p := u.program.Load(); p != nil && p.handsOff {
		body.limit = bodyKeptMax
	} else if r.ContentLength != 0 {
		body.limit = acceptBytesMax // an answer may be held, and asked for again
	}
	if r.Body != nil && r.Body != http.NoBody {
		seen.Body = (*guestView)(body)
	}
	x := guest.NewExchange(seen)
	body.client = clientOf(r)
	x.Client = body.client
	if early != nil && r.ProtoAtLeast(1, 1) && !isWebSocket(r) {
		x.Early = early.send
	}
	return x, body
}

// clientKey finds the guest.Client of a request that was handed off, in its
// context.
type clientKey struct{}

// clientOf is what is known of a request's client. It is asked once: see wire.HeadFrom.
func clientOf(r *http.Request) guest.Client {
	if c, ok := r.Context().Value(clientKey{}).(*guest.Client); ok {
		return *c
	}
	c := guest.Client{TLS: r.TLS}
	c.Remote, _ = netip.ParseAddrPort(r.RemoteAddr)
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		c.Local, _ = netip.ParseAddrPort(local.String())
	}
	c.Remote, c.Local = known(c.Remote), known(c.Local)
	if seen := wire.SeenFrom(r.Context()); seen != nil {
		c.Hello = seen.Hello()
	}
	if lines := wire.HeadFrom(r); lines != nil {
		c.Header = make([]guest.Field, len(lines))
		for i, line := range lines {
			c.Header[i] = guest.Field{Name: line.Name, Value: line.Value}
		}
	}
	c.HTTP2 = wire.FramesFrom(r)
	return c
}

// known is an address as guests want it: there always is one. A request that nobody
// sent comes from here.
func known(a netip.AddrPort) netip.AddrPort {
	if !a.IsValid() {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// ask has the guest decide. It is not stopped by its client's leaving once it has
// decided: what it does then is its own business, within its limits.
func (g *Gateway) ask(r *http.Request, u *Guest, x *guest.Exchange) (guest.Outcome, error) {
	p := u.program.Load()
	if p == nil {
		return guest.Outcome{}, errors.New("the guest has no code")
	}
	began := time.Now()
	outcome, err := p.Serve(r.Context(), x)
	g.guests.seconds.Observe(time.Since(began).Seconds())
	decision := guestAnswered
	var fault *guest.Fault
	switch {
	case errors.Is(err, guest.ErrUndecided):
		decision, err = guestEmpty, nil
		outcome.Response = &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: http.NoBody}
	case err != nil && r.Context().Err() != nil:
		decision = guestGone
	case err != nil:
		decision = guestFailed
	case outcome.Handoff != nil && outcome.Handoff.WebSocket:
		decision = guestWebSocket
	case outcome.Handoff != nil:
		decision = guestHandoff
	}
	if errors.As(err, &fault) {
		if c := g.guests.faults[fault.Kind]; c != nil {
			c.Inc()
		}
	}
	g.guests.decisions[decision].Inc()
	return outcome, err
}

// guestFailed answers a client whose guest did not decide.
func (g *Gateway) guestFailed(w http.ResponseWriter, r *http.Request, route *Route, err error) {
	if g.over(w, r) {
		return
	}
	var fault *guest.Fault
	status, text := http.StatusInternalServerError, "The service failed."
	if errors.As(err, &fault) {
		switch fault.Kind {
		case guest.FaultCPU, guest.FaultWall, guest.FaultMemory, guest.FaultBusy:
			status, text = http.StatusServiceUnavailable, "The service reached a limit."
		}
		// What went wrong is in the log already: the runtime saw it.
		g.log.Debug("request failed with its guest", "guest", route.Guest.Name, "path", encodedPath(r), "kind", fault.Kind)
	} else {
		g.log.Error("guest failed", "guest", route.Guest.Name, "path", encodedPath(r), "error", err)
	}
	if route.Debug {
		text = err.Error()
	}
	g.refuse(w, r, refusedGuest, status, text)
}

// guestAnswer is what a route with a guest answers a request that no client waits
// for with its own connection: a held poll that is asked about again, or a link. If
// the guest hands it off, the answer is the backend's, and so are the route and
// whether it may instruct.
func (g *Gateway) guestAnswer(r *http.Request, route *Route, sign func(http.Header)) (*http.Response, *Route, bool, error) {
	x, body := g.exchange(r, route.Guest, nil)
	sign(x.Request.Header)
	outcome, err := g.ask(r, route.Guest, x)
	if err != nil {
		return nil, nil, false, err
	}
	if outcome.Handoff == nil {
		if !checkAnswer(outcome.Response) {
			outcome.Response.Body.Close()
			return nil, nil, false, fmt.Errorf("status %d cannot be the client's", outcome.Response.StatusCode)
		}
		return outcome.Response, route, !route.NoGrip, nil
	}
	to := route.Guest.Handoff(outcome.Handoff)
	if to == nil || outcome.Handoff.WebSocket {
		return nil, nil, false, fmt.Errorf("handed off to %q, which is no GRIP backend", outcome.Handoff.Backend)
	}
	request, trusted, err := to.Rules.Prepare(body.request(r, outcome.Handoff), origin.Call{})
	if err != nil {
		return nil, nil, false, err
	}
	sign(request.Header)
	response, err := to.Pool.RoundTrip(request)
	return response, to, !trusted && !to.NoGrip, err
}

// Origin is the guest as an origin: requests that were handed off to a backend
// that is the service itself. Handing them off again is an error.
func (g *Gateway) Origin(u *Guest) http.RoundTripper { return &guestOrigin{g, u} }

type guestOrigin struct {
	g     *Gateway
	guest *Guest
}

// RoundTrip implements http.RoundTripper.
func (o *guestOrigin) RoundTrip(req *http.Request) (*http.Response, error) {
	g := o.g
	r := req.WithContext(req.Context())
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, 1
	if r.RequestURI == "" {
		r.RequestURI = req.URL.RequestURI()
	}
	if r.Host == "" {
		r.Host = req.URL.Host
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	if guest.Hops(r.Header) >= selfHopsMax {
		r.Body.Close()
		g.looped(r, o.guest)
		return nil, errAround
	}
	client := clientOf(r)
	r.TLS = client.TLS
	r.RemoteAddr = client.Remote.String()
	x := guest.NewExchange(r)
	x.Client = client
	x.Client.Header = nil // that of another request
	outcome, err := g.ask(r, o.guest, x)
	if err != nil {
		r.Body.Close()
		return nil, err
	}
	if outcome.Handoff != nil {
		r.Body.Close()
		g.guests.decisions[guestLoop].Inc()
		return nil, errLoop
	}
	response := outcome.Response
	if !checkAnswer(response) {
		response.Body.Close()
		return nil, fmt.Errorf("status %d cannot be an answer's", response.StatusCode)
	}
	response.Body = &bothBodies{response.Body, r.Body}
	response.Request = req
	return response, nil
}

// bothBodies closes the request's body with the answer's: the guest may read the
// one while it writes the other.
type bothBodies struct {
	io.ReadCloser
	request io.Closer
}

func (b *bothBodies) Close() error {
	b.request.Close()
	return b.ReadCloser.Close()
}

// protected are the headers that a guest cannot change in what it hands off: they
// belong to the client's connection, or to gateways.
var protected = []string{
	"Host", "Connection", "Sec-Websocket-Version", "Sec-Websocket-Key", "Upgrade", "Pushpin-Route", "Content-Length", "Content-Range",
	"Expect", "Fastly-Ff", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Cdn-Loop",
}

// guestBody is a client's body that a guest reads and others may have to read
// again.
type guestBody struct {
	client guest.Client // whose request it is
	body   io.ReadCloser
	limit  int // bytes that are kept; negative: none

	mu       sync.Mutex // held while body is read
	kept     []byte
	over     bool // more was read than is kept
	detached atomic.Bool
	ended    atomic.Bool // the guest has read all of it
}

// guestView is a guestBody as the guest reads it.
type guestView guestBody

var errHandedOff = errors.New("the body is not the guest's any more")

func (v *guestView) Read(p []byte) (int, error) {
	if v.detached.Load() {
		return 0, errHandedOff
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.detached.Load() {
		return 0, errHandedOff
	}
	return (*guestBody)(v).read(p)
}

// Close leaves the client's body open: the gateway may need it.
func (v *guestView) Close() error { return nil }

// read reads on and keeps what may be needed again.
func (b *guestBody) read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if err == io.EOF {
		b.ended.Store(true)
	}
	switch {
	case b.over:
	case len(b.kept)+n > b.limit:
		b.over, b.kept = n > 0 || b.over, nil
	default:
		b.kept = append(b.kept, p[:n]...)
	}
	return n, err
}

// detach ends the guest's reading. It does not wait for a read under way.
func (b *guestBody) detach() { b.detached.Store(true) }

// lost says why the body cannot be had from its beginning; nil if it can, or if that is
// not known while somebody reads it.
func (b *guestBody) lost() error {
	b.detach()
	if !b.mu.TryLock() {
		return nil
	}
	defer b.mu.Unlock()
	return b.lostLocked()
}

func (b *guestBody) lostLocked() error {
	if !b.over {
		return nil
	}
	return fmt.Errorf("the guest has read more than %d bytes of the body before it handed off", b.limit)
}

// rest is the whole body, for an answer that is held.
func (b *guestBody) rest() ([]byte, error) {
	b.detach()
	if b.body == nil || b.body == http.NoBody {
		return nil, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	buffer := make([]byte, 4<<10)
	for !b.over && len(b.kept) <= acceptBytesMax {
		if _, err := b.read(buffer); err != nil {
			return b.kept, nil // its end, or the client has stopped sending: that is all there is
		}
	}
	return nil, errAnswerTooLarge
}

// request is the client's request as the guest handed it off: method, target and
// header are the guest's but for what is protected, the body is the client's, from
// its beginning.
func (b *guestBody) request(r *http.Request, h *guest.Handoff) *http.Request {
	b.detach()
	out := r.WithContext(context.WithValue(r.Context(), clientKey{}, &b.client))
	if h.Request != nil && h.Request != r {
		out.Method, out.URL, out.RequestURI = h.Request.Method, h.Request.URL, h.Request.RequestURI
		if out.RequestURI == "" {
			out.RequestURI = out.URL.RequestURI()
		}
		out.Header = make(http.Header, len(h.Request.Header))
		maps.Copy(out.Header, h.Request.Header)
		for _, name := range protected {
			if values, there := r.Header[name]; there {
				out.Header[name] = values
			} else {
				delete(out.Header, name)
			}
		}
	}
	if r.Body != nil && r.Body != http.NoBody {
		out.Body = &again{b: b}
	}
	return out
}

// again reads a guestBody from its beginning.
type again struct {
	b  *guestBody
	at int
}

func (a *again) Read(p []byte) (int, error) {
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	if err := a.b.lostLocked(); err != nil {
		return 0, err
	}
	switch {
	case a.at < len(a.b.kept):
		n := copy(p, a.b.kept[a.at:])
		a.at += n
		return n, nil
	}
	return a.b.body.Read(p)
}

func (a *again) Close() error { return a.b.body.Close() }

// earlyBytesMax bounds the interim answers to one request: about what a socket takes
// from a writer whose reader does not read. Beyond that a guest would wait for its
// client where nothing can stop it; they are only hints, so that the rest is left
// out.
const earlyBytesMax = 16 << 10

// earlyAnswer sends interim answers while the handler waits for the guest, and
// nothing afterwards.
type earlyAnswer struct {
	w http.ResponseWriter

	mu    sync.Mutex
	ended bool
	bytes int // of the answers so far, about
}

func (e *earlyAnswer) send(status int, header http.Header) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended || status <= http.StatusSwitchingProtocols || status > 199 {
		return
	}
	e.bytes += len("HTTP/1.1 103 Early Hints\r\n\r\n")
	for name, values := range header {
		for _, value := range values {
			e.bytes += len(name) + len(value) + len(": \r\n")
		}
	}
	if e.bytes > earlyBytesMax {
		return
	}
	to := e.w.Header()
	before := maps.Clone(to)
	maps.Copy(to, header)
	e.w.WriteHeader(status)
	clear(to)
	maps.Copy(to, before)
}

func (e *earlyAnswer) end() {
	e.mu.Lock()
	e.ended = true
	e.mu.Unlock()
}

// Guest returns the guest that a request from outside would be asked about, or
// nil. tls says whether it would come over TLS.
func (g *Gateway) Guest(r *http.Request, secure bool) *Guest {
	asked := *r
	if asked.RequestURI == "" {
		asked.RequestURI = r.URL.RequestURI()
	}
	if secure {
		asked.TLS = &tls.ConnectionState{}
	}
	if asked.Host == "" {
		asked.Host = r.URL.Host
	}
	if route := g.route(&asked, isWebSocket(r)); route != nil {
		return route.Guest
	}
	return nil
}
