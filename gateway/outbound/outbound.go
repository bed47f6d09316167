// Package outbound is where guests send requests: the named backends of a service
// and those that guests describe themselves.
//
//	backends, err := outbound.New(outbound.Options{Static: options})
//	response, err := backends.Lookup("api").RoundTrip(request)
//
// A request's method, path, header and body are the guest's; the backend adds its
// path prefix and decides about the Host. No redirect is followed, nothing is
// decoded, no header is invented.
//
//   - Host is HostOverride, or else the request's own, or else that of its URL, or
//     else the backend's address.
//   - Connections are kept between requests, also those of a backend that is made
//     anew for each by the guest: what was described alike is reached alike.
//
// Errors are those of net, crypto/tls and net/http, and os.ErrDeadlineExceeded
// where a timeout of the backend ends an answer.
package outbound

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/gateway/origin"
	"github.com/gripway/gripway/guest"
)

const (
	// connectTimeoutDefault bounds connecting, and the TLS handshake after it.
	// Fastly's number is 1 s, which a backend on the other side of the world
	// exceeds on a bad day.
	connectTimeoutDefault = 10 * time.Second

	// firstByteTimeoutDefault bounds the wait for an answer's head once the request
	// is sent. Fastly's number is 15 s.
	firstByteTimeoutDefault = 60 * time.Second

	// keepAliveDefault is how long an unused connection is kept.
	keepAliveDefault = 60 * time.Second

	// idleConnsMax bounds unused connections to one backend.
	idleConnsMax = 256

	// answerHeadBytesMax bounds the head of an answer.
	answerHeadBytesMax = 1 << 20

	// http2PingAfter and http2PingTimeout find out that an HTTP/2 connection is dead.
	http2PingAfter   = 30 * time.Second
	http2PingTimeout = 15 * time.Second

	// wayLinger is how long the connections of backends that guests described are
	// kept for the next guest that describes one alike.
	wayLinger = keepAliveDefault

	// waysMax bounds what guests may have described differently at once: each has
	// connections of its own. Fastly allows 200 to a service.
	waysMax = 1000
)

// Options describe Backends.
type Options struct {
	// Static are the backends there are by name.
	Static []guest.BackendOptions

	// DenyPrivate keeps backends that guests describe from private and loopback
	// addresses, whatever name leads to them.
	DenyPrivate bool

	// Inside answers requests that need not leave the process: to the service
	// itself, and to its publish API. It is asked with the request as it would be
	// sent, and may change its header; nil sends it. A nil Inside is never asked.
	Inside func(o *guest.BackendOptions, r *http.Request) http.RoundTripper

	Metrics *metrics.Registry
	Log     *slog.Logger // nil discards
}

// Backends are those of one service. They implement guest.Backends and may be used
// concurrently.
type Backends struct {
	opts   Options
	log    *slog.Logger
	static map[string]*Backend
	counts map[outcome]metrics.Counter

	linger time.Duration // wayLinger, but in tests; fixed before use

	mu       sync.Mutex
	ways     map[wayKey]*way
	sweeping *time.Timer // sweeps once a way has lingered; nil: none lingers
	closed   bool
}

var _ guest.Backends = (*Backends)(nil)

// outcome is how a request ended; the values are those of the metric.
type outcome string

const (
	answered    outcome = "answered"
	unreachable outcome = "unreachable" // no connection
	blocked     outcome = "blocked"     // the address is private
	failed      outcome = "failed"      // no answer, or none that can be used
	canceled    outcome = "canceled"    // the guest does not want it any more
)

// New checks the static backends. Nothing is connected before the first request,
// but for health checks.
func New(opts Options) (*Backends, error) {
	b := &Backends{opts: opts, linger: wayLinger, log: opts.Log, static: make(map[string]*Backend), counts: make(map[outcome]metrics.Counter), ways: make(map[wayKey]*way)}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	for text, counter := range opts.Metrics.Counters("guest_backend_requests_total", "Requests of guests to backends, by outcome.", "outcome",
		string(answered), string(unreachable), string(blocked), string(failed), string(canceled)) {
		b.counts[outcome(text)] = counter
	}
	var errs []error
	for _, o := range opts.Static {
		if b.static[o.Name] != nil {
			errs = append(errs, fmt.Errorf("backend %q: there is one of this name", o.Name))
			continue
		}
		backend, err := b.open(o)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		b.static[o.Name] = backend
	}
	if len(errs) > 0 {
		b.Close()
		return nil, errors.Join(errs...)
	}
	return b, nil
}

// Lookup implements guest.Backends: it finds static backends.
func (b *Backends) Lookup(name string) guest.Backend {
	if backend := b.static[name]; backend != nil {
		return backend
	}
	return nil
}

// Names are those of the static backends, in order.
func (b *Backends) Names() []string {
	names := make([]string, 0, len(b.static))
	for name := range b.static {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Open implements guest.Backends.
func (b *Backends) Open(options guest.BackendOptions) (guest.Backend, error) {
	options.Dynamic = true
	backend, err := b.open(options)
	if err != nil {
		return nil, err
	}
	return backend, nil
}

// Close ends all: connections that no request uses, and health checks.
func (b *Backends) Close() error {
	b.mu.Lock()
	b.closed = true
	ways := make([]*way, 0, len(b.ways))
	for _, w := range b.ways {
		ways = append(ways, w)
	}
	clear(b.ways)
	if b.sweeping != nil {
		b.sweeping.Stop()
	}
	b.mu.Unlock()
	for _, w := range ways {
		w.end()
	}
	return nil
}

// wayKey is what makes connections interchangeable: the options without the name.
type wayKey [sha256.Size]byte

func keyOf(o guest.BackendOptions) wayKey {
	o.Name = ""
	var check guest.HealthCheck
	if o.Check != nil {
		check = *o.Check
	}
	checked := o.Check != nil
	o.Check = nil
	return sha256.Sum256(fmt.Appendf(nil, "%#v %t %#v", o, checked, check))
}

// way is how backends of the same options are reached. Backends share it.
type way struct {
	transport *http.Transport
	health    *health // nil without check

	// Guarded by Backends.mu.
	refs   int
	unused time.Time // since when refs is 0
}

func (w *way) end() {
	if w.health != nil {
		w.health.stop()
	}
	w.transport.CloseIdleConnections()
}

// errFull says that there are waysMax of them, all in use.
var errFull = fmt.Errorf("more than %d different backends at once", waysMax)

// open makes a backend.
func (b *Backends) open(o guest.BackendOptions) (*Backend, error) {
	host, err := check(&o)
	if err != nil {
		return nil, fmt.Errorf("backend %q: %w", o.Name, err)
	}
	key := keyOf(o)
	now := time.Now()
	b.mu.Lock()
	w := b.ways[key]
	if w != nil {
		w.refs++
	}
	ended := b.sweep(now)
	full := w == nil && len(b.ways) >= waysMax
	b.mu.Unlock()
	for _, w := range ended {
		w.end()
	}
	if full {
		return nil, fmt.Errorf("backend %q: %w", o.Name, errFull)
	}
	if w == nil {
		made, err := b.newWay(&o, host)
		if err != nil {
			return nil, fmt.Errorf("backend %q: %w", o.Name, err)
		}
		b.mu.Lock()
		switch w = b.ways[key]; {
		case b.closed:
			w = made
		case w == nil:
			w, b.ways[key] = made, made
			if o.Check != nil {
				w.health = newHealth(w.transport, &o, b.log)
			}
		}
		w.refs++
		b.mu.Unlock()
	}
	return &Backend{of: b, options: o, host: host, way: w}, nil
}

// sweep forgets the ways that have not been used for a while, and returns them.
func (b *Backends) sweep(now time.Time) []*way {
	var ended []*way
	for key, w := range b.ways {
		if w.refs == 0 && now.Sub(w.unused) >= b.linger {
			delete(b.ways, key)
			ended = append(ended, w)
		}
	}
	return ended
}

// sweepLater has ways that linger forgotten in time, also if nobody opens a backend
// any more: their health checks go on until then. It is called with mu held.
func (b *Backends) sweepLater() {
	if b.sweeping != nil || b.closed {
		return
	}
	b.sweeping = time.AfterFunc(b.linger, func() {
		b.mu.Lock()
		b.sweeping = nil
		ended := b.sweep(time.Now())
		for _, w := range b.ways {
			if w.refs == 0 {
				b.sweepLater()
				break
			}
		}
		b.mu.Unlock()
		for _, w := range ended {
			w.end()
		}
	})
}

// check looks at what can be wrong without trying, and returns the address's host.
func check(o *guest.BackendOptions) (string, error) {
	host, port, err := net.SplitHostPort(o.Address)
	if err != nil {
		return "", fmt.Errorf("address: %w", err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	switch {
	case err != nil || number == 0:
		return "", fmt.Errorf("address: port %q is not a number from 1 to 65535", port)
	case host == "":
		return "", errors.New("address: host is missing")
	case !httpguts.ValidHostHeader(o.HostOverride):
		return "", fmt.Errorf("host override %q cannot be a Host header", o.HostOverride)
	case o.TLSMin != 0 && o.TLSMax != 0 && o.TLSMin > o.TLSMax:
		return "", errors.New("the lowest version of TLS is above the highest")
	case o.PathPrefix != "" && !validPath(o.PathPrefix):
		return "", fmt.Errorf("path prefix %q cannot begin a path", o.PathPrefix)
	}
	return host, nil
}

func validPath(path string) bool {
	for i := range len(path) {
		if c := path[i]; c <= ' ' || c == 0x7f || c == '?' || c == '#' {
			return false
		}
	}
	return path[0] == '/'
}

// newWay makes the transport.
func (b *Backends) newWay(o *guest.BackendOptions, host string) (*way, error) {
	config, err := tlsConfig(o, host)
	if err != nil {
		return nil, err
	}
	protocols := new(http.Protocols)
	switch {
	case o.GRPC && o.TLS:
		protocols.SetHTTP2(true)
	case o.GRPC:
		protocols.SetUnencryptedHTTP2(true)
	default:
		protocols.SetHTTP1(true)
		// What is counted or timed is a connection that carries one request at a time.
		protocols.SetHTTP2(o.TLS && o.ConnectionUsesMax == 0 && o.ConnectionAgeMax == 0)
	}
	connect := cmp.Or(o.ConnectTimeout, connectTimeoutDefault)
	d := &dialer{
		net:   net.Dialer{Timeout: connect, KeepAliveConfig: keepAlive(o)},
		ipv4:  o.PreferIPv4,
		count: o.ConnectionUsesMax, age: o.ConnectionAgeMax,
	}
	if b.opts.DenyPrivate && o.Dynamic {
		d.net.Control = origin.BlockPrivate
	}
	transport := &http.Transport{
		DialContext:            d.dial,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    connect,
		DisableCompression:     true,
		DisableKeepAlives:      o.NoPool || o.KeepAlive < 0 || o.ConnectionUsesMax == 1,
		MaxIdleConnsPerHost:    idleConnsMax,
		MaxConnsPerHost:        o.ConnectionsMax,
		IdleConnTimeout:        cmp.Or(max(o.KeepAlive, 0), keepAliveDefault),
		ResponseHeaderTimeout:  cmp.Or(o.FirstByteTimeout, firstByteTimeoutDefault),
		MaxResponseHeaderBytes: answerHeadBytesMax,
		Protocols:              protocols,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: http2PingAfter, PingTimeout: http2PingTimeout},
	}
	return &way{transport: transport}, nil
}

func keepAlive(o *guest.BackendOptions) net.KeepAliveConfig {
	if !o.TCPKeepAlive && !o.Dynamic {
		return net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second}
	}
	return net.KeepAliveConfig{
		Enable: true, Idle: o.TCPKeepAliveTime, Interval: o.TCPKeepAliveEvery, Count: o.TCPKeepAliveProbes, // zero: Go's own
	}
}

// Backend is one of Backends.
type Backend struct {
	of      *Backends
	options guest.BackendOptions
	host    string // of the address
	way     *way
	closing sync.Once
}

// Options implements guest.Backend.
func (b *Backend) Options() guest.BackendOptions { return b.options }

// Health implements guest.Backend.
func (b *Backend) Health() guest.Health {
	switch {
	case b.options.Health != guest.HealthUnknown:
		return b.options.Health
	case b.way.health != nil:
		return b.way.health.now()
	}
	return guest.HealthUnknown
}

// Close implements guest.Backend. Its connections stay a while for the next
// backend that is described alike.
func (b *Backend) Close() error {
	b.closing.Do(func() {
		b.of.mu.Lock()
		b.way.refs--
		b.way.unused = time.Now()
		if b.way.refs == 0 {
			b.of.sweepLater()
		}
		closed := b.of.closed
		b.of.mu.Unlock()
		if closed {
			b.way.end()
		}
	})
	return nil
}

// RoundTrip implements guest.Backend. Like every RoundTripper it leaves the
// request as it is, and closes its body.
func (b *Backend) RoundTrip(req *http.Request) (*http.Response, error) {
	out, err := b.request(req)
	if err == nil && b.way.health != nil && b.way.health.fails() {
		err = fmt.Errorf("backend %q: %w", b.options.Name, guest.ErrUnhealthy)
	}
	if err != nil {
		closeBody(req)
		b.of.counts[failed].Inc()
		return nil, err
	}
	if b.of.opts.Inside != nil {
		if inside := b.of.opts.Inside(&b.options, out); inside != nil {
			response, err := inside.RoundTrip(out)
			b.count(req.Context(), err)
			return response, err
		}
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	out = b.outward(out, ctx)
	response, err := b.way.transport.RoundTrip(out)
	if err == nil && response.StatusCode < 100 { // net/http takes any three digits
		response.Body.Close()
		err = fmt.Errorf("malformed HTTP status code %03d", response.StatusCode)
	}
	b.count(req.Context(), err)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	response.Request = req
	if response.StatusCode == http.StatusSwitchingProtocols {
		// The connection is the caller's now; cancel belongs to the request.
		context.AfterFunc(req.Context(), func() { cancel(nil) })
		return response, nil
	}
	origin.CleanHeader(response.Header)
	response.Body = &answerBody{ReadCloser: response.Body, cancel: cancel, limit: b.options.BetweenBytesTimeout, name: b.options.Name}
	return response, nil
}

func (b *Backend) count(ctx context.Context, err error) {
	why := failed
	var op *net.OpError
	var lookup *net.DNSError
	switch {
	case err == nil:
		why = answered
	case ctx.Err() != nil:
		why = canceled
	case errors.Is(err, origin.ErrBlocked):
		why = blocked
	case errors.As(err, &op) && op.Op == "dial", errors.As(err, &lookup):
		why = unreachable
	}
	b.of.counts[why].Inc()
}

// request is the request as it will be sent: its URL and RequestURI are what stands
// on the wire.
func (b *Backend) request(req *http.Request) (*http.Request, error) {
	switch {
	case req.URL == nil:
		return nil, errors.New("request has no URL")
	case !httpguts.ValidHeaderFieldName(cmp.Or(req.Method, "GET")):
		return nil, fmt.Errorf("method %q is not a token", req.Method)
	case !httpguts.ValidHostHeader(req.Host):
		return nil, fmt.Errorf("host %q cannot be a Host header", req.Host)
	}
	out := req.WithContext(req.Context())
	out.Host = cmp.Or(b.options.HostOverride, req.Host, req.URL.Host, b.authority())
	target := cmp.Or(req.RequestURI, req.URL.RequestURI())
	if b.options.PathPrefix != "" && strings.HasPrefix(target, "/") {
		target = strings.TrimSuffix(b.options.PathPrefix, "/") + target
	}
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c == 0x7f {
			return nil, fmt.Errorf("request target has byte %#x", c)
		}
	}
	out.RequestURI = target
	out.URL = b.url(target)
	out.Header = header(req)
	return out, nil
}

// authority is the address without a port that goes without saying.
func (b *Backend) authority() string {
	port := ":80"
	if b.options.TLS {
		port = ":443"
	}
	return strings.TrimSuffix(b.options.Address, port)
}

// header is the request's without what belongs to one connection.
func header(req *http.Request) http.Header {
	h := make(http.Header, len(req.Header)+1)
	connection := req.Header["Connection"]
	upgrade := hasToken(connection, "upgrade") && hasToken(req.Header["Upgrade"], "websocket")
	for name, values := range req.Header {
		switch name {
		case "Connection", "Upgrade":
			if upgrade {
				h[name] = values
			}
			continue
		case "Keep-Alive", "Proxy-Connection", "Trailer", "Transfer-Encoding", "Content-Length", "Host":
			continue
		case "Te":
			if hasToken(values, "trailers") {
				h[name] = []string{"trailers"}
			}
			continue
		}
		if !hasToken(connection, name) || upgrade {
			h[name] = values[:len(values):len(values)]
		}
	}
	return h
}

// outward is the request for the transport.
func (b *Backend) outward(r *http.Request, ctx context.Context) *http.Request {
	out := r.WithContext(b.counted(ctx))
	out.RequestURI = ""
	if _, there := out.Header["User-Agent"]; !there {
		out.Header["User-Agent"] = nil // else net/http invents one
	}
	if out.Body == http.NoBody || out.Body == nil {
		out.Body, out.ContentLength = nil, 0
	}
	return out
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
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
