package origin

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gripway/gripway/gateway/metrics"
)

const (
	// dialTimeoutDefault is how long one target may take to accept a connection
	// before the next is tried: one lost SYN is sent again after 1 s and 3 s.
	dialTimeoutDefault = 5 * time.Second

	// tlsTimeoutDefault bounds a TLS handshake.
	tlsTimeoutDefault = 10 * time.Second

	// idleTimeoutDefault is how long an unused connection is kept, unless the
	// origin says less (Keep-Alive: timeout). Servers keep theirs 5 to 75 s.
	idleTimeoutDefault = 60 * time.Second

	// idleConnsMaxDefault bounds unused connections to one target: a burst of so
	// many requests at once can come again without a new connection.
	idleConnsMaxDefault = 1024

	// answerHeadBytesMax bounds the head of an answer, hints included. Servers
	// accept 8 to 64 kB in requests and send less in answers.
	answerHeadBytesMax = 1 << 20

	// keepAlivePeriod is when a silent connection is probed: an origin's host that
	// vanished ends a stream it left within about two minutes.
	keepAlivePeriod = 15 * time.Second

	// http2PingAfter and http2PingTimeout find out the same for HTTP/2, where one
	// dead connection would swallow all requests.
	http2PingAfter   = 30 * time.Second
	http2PingTimeout = 15 * time.Second

	// tlsSessionsMax is how many TLS sessions per target can be resumed.
	tlsSessionsMax = 64
)

// NetworkOptions describe how targets are reached. The zero value is ready to use.
type NetworkOptions struct {
	// DialTimeout bounds connecting to one target, and looking up its name. Zero
	// means 5 s.
	DialTimeout time.Duration

	// TLSTimeout bounds a TLS handshake. Zero means 10 s.
	TLSTimeout time.Duration

	// ResponseHeaderTimeout bounds the wait for an answer's head once the request
	// is sent. Zero means no bound: long polls wait.
	ResponseHeaderTimeout time.Duration

	// IdleTimeout is how long an unused connection is kept. Zero means 60 s.
	IdleTimeout time.Duration

	// IdleConnsMax is how many unused connections to one target are kept. Zero
	// means 1024.
	IdleConnsMax int

	// RootCAs are the authorities that origins' certificates may come from. Nil
	// means the system's.
	RootCAs *x509.CertPool

	Metrics *metrics.Registry
	Log     *slog.Logger // nil discards
}

// Network holds the connections to targets. Pools that share one share them, so
// that new routes to known targets find connections open. It may be used
// concurrently.
type Network struct {
	opts NetworkOptions
	log  *slog.Logger

	requests     map[outcome]metrics.Counter
	dialFailures map[dialFailure]metrics.Counter
	dials        metrics.Counter
	fallbacks    metrics.Counter
	stale        metrics.Counter

	mu        sync.Mutex
	endpoints map[endpointKey]*endpoint // those that a pool uses
}

// outcome is how a request ended; the values are those of the metric.
type outcome string

const (
	answered    outcome = "answered"
	unreachable outcome = "unreachable" // no target could be connected to
	blocked     outcome = "blocked"     // an untrusted target's address is private
	failed      outcome = "failed"      // no answer, or none that can be used
	canceled    outcome = "canceled"    // the client left before the answer
)

// NewNetwork returns a Network without connections.
func NewNetwork(opts NetworkOptions) *Network {
	opts.DialTimeout = cmp.Or(opts.DialTimeout, dialTimeoutDefault)
	opts.TLSTimeout = cmp.Or(opts.TLSTimeout, tlsTimeoutDefault)
	opts.IdleTimeout = cmp.Or(opts.IdleTimeout, idleTimeoutDefault)
	opts.IdleConnsMax = cmp.Or(opts.IdleConnsMax, idleConnsMaxDefault)
	n := &Network{opts: opts, log: opts.Log, endpoints: make(map[endpointKey]*endpoint)}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	m := opts.Metrics
	n.requests = counters(m, "origin_requests_total", "Requests to origins, by outcome.", "outcome",
		answered, unreachable, blocked, failed, canceled)
	n.dialFailures = counters(m, "origin_dial_failures_total", "Connections to origins that could not be made, by reason.", "reason",
		dialRefused, dialTimeout, dialLookup, dialTLS, dialBlocked, dialOther)
	n.dials = m.Counter("origin_connections_total", "Connections made to origins.")
	n.fallbacks = m.Counter("origin_fallbacks_total", "Requests that went to a further target because the one before was unreachable.")
	n.stale = m.Counter("origin_stale_retries_total", "Requests sent again because the origin had closed the connection meanwhile.")
	return n
}

// counters is Registry.Counters for the values of an enumeration.
func counters[T ~string](m *metrics.Registry, name, help, label string, values ...T) map[T]metrics.Counter {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = string(v)
	}
	made := make(map[T]metrics.Counter, len(values))
	for text, counter := range m.Counters(name, help, label, texts...) {
		made[T(text)] = counter
	}
	return made
}

// dialer makes connections to targets.
type dialer interface {
	// roundTrip sends a request with the given Host. A *dialError says that there
	// was no connection; the body has then neither been read nor closed. Any other
	// way the body will be closed.
	roundTrip(req *http.Request, host string) (*http.Response, error)

	// dialUpgrade returns a connection that will carry something else than
	// HTTP after one request. The error is a *dialError or ctx's.
	dialUpgrade(ctx context.Context, host string) (net.Conn, error)

	closeIdle()
}

// endpoint is a target's address and how it is spoken to. Pools share it.
type endpoint struct {
	dialer
	key  endpointKey
	down atomic.Bool // the last attempt to connect failed

	refs int // guarded by Network.mu
}

// endpointKey is what makes connections interchangeable.
type endpointKey struct {
	addr                                       string
	tls, insecure, trustConnectHost, untrusted bool
	cert                                       [sha256.Size]byte // zero without
	test                                       string            // path to be cut, for the test origin
	isTest                                     bool
}

// endpoint returns the endpoint for a target, which release gives back.
func (n *Network) endpoint(t *Target, pathBeg string) (*endpoint, error) {
	key := endpointKey{addr: t.Addr, tls: t.TLS, untrusted: t.Untrusted}
	var cert *tls.Certificate
	switch {
	case t.Test:
		key = endpointKey{isTest: true, test: pathBeg}
	case t.TLS:
		key.insecure, key.trustConnectHost = t.Insecure, t.TrustConnectHost
		if t.ClientCert != "" {
			keyFile := cmp.Or(t.ClientKey, t.ClientCert)
			loaded, err := tls.LoadX509KeyPair(t.ClientCert, keyFile)
			if err != nil {
				return nil, fmt.Errorf("client certificate %q, key %q: %w", t.ClientCert, keyFile, err)
			}
			cert = &loaded
			sum := sha256.New()
			for _, der := range loaded.Certificate {
				sum.Write(der)
			}
			sum.Sum(key.cert[:0])
		}
	}

	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.endpoints[key]
	if e == nil {
		e = &endpoint{key: key}
		switch {
		case key.isTest:
			e.dialer = testOrigin{pathBeg}
		case key.tls:
			e.dialer = newSecure(n, key, cert)
		default:
			e.dialer = &plain{network: n, addr: key.addr, untrusted: key.untrusted}
		}
		n.endpoints[key] = e
	}
	e.refs++
	return e, nil
}

// release closes what nobody uses any more. Requests that still come through a
// pool that was closed are served.
func (n *Network) release(e *endpoint) {
	n.mu.Lock()
	e.refs--
	last := e.refs == 0
	if last {
		delete(n.endpoints, e.key)
	}
	n.mu.Unlock()
	if last {
		e.closeIdle()
	}
}

// dial connects to addr. The error is a *dialError or ctx's.
func (n *Network) dial(ctx context.Context, addr string, untrusted bool) (net.Conn, error) {
	d := net.Dialer{Timeout: n.opts.DialTimeout, KeepAlive: keepAlivePeriod}
	if untrusted {
		d.Control = BlockPrivate
	}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, n.countDial(failedDial(err, false))
	}
	n.dials.Inc()
	return conn, nil
}

func (n *Network) countDial(err *dialError) *dialError {
	n.dialFailures[err.why].Inc()
	return err
}

// note remembers whether an endpoint can be reached, and says so when that
// changes: a target that is down is news once.
func (n *Network) note(e *endpoint, addr string, err error) {
	down := err != nil
	if e.down.Load() == down || !e.down.CompareAndSwap(!down, down) {
		return
	}
	if down {
		n.log.Warn("origin target is unreachable", "target", addr, "error", err)
	} else {
		n.log.Info("origin target is reachable again", "target", addr)
	}
}
