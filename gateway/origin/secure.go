package origin

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
)

// secure speaks HTTP/1.1 or HTTP/2 over TLS to one address, through an
// http.Transport. That keeps connections by the URL's host, which is made the name
// the certificate is checked against: a connection that was checked for one name
// is not used for another.
type secure struct {
	network   *Network
	key       endpointKey
	name      string // of the address
	port      string
	config    *tls.Config // for HTTP
	upgrade   *tls.Config // for what begins as HTTP/1.1
	transport *http.Transport
}

func newSecure(n *Network, key endpointKey, cert *tls.Certificate) *secure {
	name, port, _ := net.SplitHostPort(key.addr) // NewPool has checked it
	e := &secure{network: n, key: key, name: name, port: port}
	e.config = &tls.Config{
		RootCAs:            n.opts.RootCAs,
		InsecureSkipVerify: key.insecure,
		NextProtos:         []string{"h2", "http/1.1"},
		ClientSessionCache: tls.NewLRUClientSessionCache(tlsSessionsMax),
	}
	if cert != nil {
		e.config.Certificates = []tls.Certificate{*cert}
	}
	e.upgrade = e.config.Clone()
	e.upgrade.NextProtos = []string{"http/1.1"}

	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	e.transport = &http.Transport{
		DialTLSContext:         func(ctx context.Context, _, addr string) (net.Conn, error) { return e.dial(ctx, addr, e.config) },
		DisableCompression:     true,
		MaxIdleConns:           n.opts.IdleConnsMax, // over all names: a client can make up many
		MaxIdleConnsPerHost:    n.opts.IdleConnsMax,
		IdleConnTimeout:        n.opts.IdleTimeout,
		ResponseHeaderTimeout:  n.opts.ResponseHeaderTimeout,
		MaxResponseHeaderBytes: answerHeadBytesMax,
		Protocols:              protocols,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: http2PingAfter, PingTimeout: http2PingTimeout},
	}
	return e
}

// dial connects and shakes hands; addr is the name to be checked, and a port.
// The error is a *dialError or ctx's.
func (e *secure) dial(ctx context.Context, addr string, config *tls.Config) (net.Conn, error) {
	nc, err := e.network.dial(ctx, e.key.addr, e.key.untrusted)
	if err != nil {
		return nil, err
	}
	name, _, err := net.SplitHostPort(addr)
	if err != nil {
		name = addr
	}
	config = config.Clone()
	config.ServerName = name
	conn := tls.Client(nc, config)
	handshake, cancel := context.WithTimeout(ctx, e.network.opts.TLSTimeout)
	defer cancel()
	if err := conn.HandshakeContext(handshake); err != nil {
		nc.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, e.network.countDial(failedDial(fmt.Errorf("TLS with %q: %w", name, err), true))
	}
	return conn, nil
}

// checkedName is the name the certificate must be for.
func (e *secure) checkedName(host string) string {
	if e.key.trustConnectHost {
		return e.name
	}
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	return cmp.Or(strings.ToLower(strings.Trim(name, "[]")), e.name)
}

func (e *secure) closeIdle() { e.transport.CloseIdleConnections() }

func (e *secure) dialUpgrade(ctx context.Context, host string) (net.Conn, error) {
	return e.dial(ctx, net.JoinHostPort(e.checkedName(host), e.port), e.upgrade)
}

func (e *secure) roundTrip(req *http.Request, host string) (*http.Response, error) {
	ctx := req.Context()
	var early *earlyHints
	if h, ok := ctx.Value(hintsKey{}).(*hints); ok {
		early = &earlyHints{hints: h}
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: early.got})
	}
	out := req.WithContext(ctx)
	out.Host = host
	out.URL = e.url(req, host)
	out.RequestURI = ""
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header = maps.Clone(out.Header)
		if out.Header == nil {
			out.Header = make(http.Header)
		}
		out.Header["User-Agent"] = nil // else net/http invents one
	}
	var lent *lentBody
	switch {
	case framing(req) == bodyless:
	case req.GetBody != nil:
		copied, err := req.GetBody()
		if err != nil {
			closeBody(req)
			return nil, fmt.Errorf("%w: %w", ErrBody, err)
		}
		out.Body = copied // the Transport sends what is in memory together with the head
	default:
		lent = &lentBody{body: req.Body}
		out.Body = lent
	}
	response, err := e.transport.RoundTrip(out)
	early.end()
	if lent == nil {
		var undialed *dialError
		if !errors.As(err, &undialed) {
			closeBody(req)
		}
		return response, err
	}
	if err != nil {
		var undialed *dialError
		if errors.As(err, &undialed) && !lent.wasRead() {
			return nil, err // the body goes to the next target
		}
		lent.settle()
		if undialed != nil {
			// A connection that was lost had taken some of the body.
			return nil, fmt.Errorf("origin %s: connection lost: %w", e.key.addr, undialed.err)
		}
		return nil, err
	}
	lent.settle()
	return response, nil
}

// url is the request's URL for the Transport: the connection's name as host, and
// path and query as they are. Opaque carries the path untouched, except one that
// begins with "//", which net/url would take for a host: there, bytes that do not
// belong in a path are escaped.
func (e *secure) url(req *http.Request, host string) *url.URL {
	path, query, hasQuery := strings.Cut(requestTarget(req), "?")
	u := &url.URL{
		Scheme: "https", Host: net.JoinHostPort(e.checkedName(host), e.port),
		RawQuery: query, ForceQuery: hasQuery && query == "",
	}
	if !strings.HasPrefix(path, "//") {
		u.Opaque = path
		return u
	}
	u.Path, u.RawPath = path, path
	if plain, err := url.PathUnescape(path); err == nil {
		u.Path = plain
	}
	return u
}

// earlyHints relays what comes before the answer, and nothing once the answer is
// there: the Transport calls from a goroutine of its own.
type earlyHints struct {
	hints *hints

	mu    sync.Mutex
	ended bool
}

func (e *earlyHints) got(status int, header textproto.MIMEHeader) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.ended {
		e.hints.relay(status, http.Header(header))
	}
	return nil
}

func (e *earlyHints) end() {
	if e == nil {
		return
	}
	e.mu.Lock()
	e.ended = true
	e.mu.Unlock()
}

// lentBody keeps the Transport from closing a body that the next target will
// need: it closes it also if it could not connect.
type lentBody struct {
	body io.ReadCloser

	mu      sync.Mutex
	read    bool
	settled bool // closing is meant
	closing bool // was asked for
}

func (b *lentBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.read = true
	b.mu.Unlock()
	return b.body.Read(p)
}

func (b *lentBody) Close() error {
	b.mu.Lock()
	b.closing = true
	settled := b.settled
	b.mu.Unlock()
	if settled {
		return b.body.Close()
	}
	return nil
}

func (b *lentBody) wasRead() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.read
}

// settle closes the body if that was asked for, or lets it be closed.
func (b *lentBody) settle() {
	b.mu.Lock()
	b.settled = true
	closing := b.closing
	b.mu.Unlock()
	if closing {
		b.body.Close()
	}
}
