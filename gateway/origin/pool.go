package origin

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"

	"golang.org/x/net/http/httpguts"
)

// Target is one origin of a route. OverHTTP, OneEvent and Sub are for whoever
// uses the Pool; the Pool itself does not look at them.
type Target struct {
	// Addr is host:port; [host]:port if the host is an IPv6 address. Not used for
	// Test.
	Addr string

	// TLS speaks HTTP/1.1 or HTTP/2 over TLS, as the target chooses. Its
	// certificate is checked against the host that the request asks for or, with
	// TrustConnectHost, against that of Addr; Insecure does not check it.
	TLS              bool
	Insecure         bool
	TrustConnectHost bool

	// ClientCert and ClientKey name PEM files to show the target who we are. The
	// key may be in the certificate's file.
	ClientCert, ClientKey string

	// Host is the Host of requests to this target; empty leaves it.
	Host string

	// Untrusted refuses private addresses, whatever name leads to them.
	Untrusted bool

	// Test is the test origin: it answers here. Targets says OverHTTP for it, too.
	Test bool

	OverHTTP bool
	OneEvent bool
	Sub      []string
}

// String is how messages call the target.
func (t *Target) String() string {
	if t.Test {
		return "test"
	}
	return t.Addr
}

// Options describe a Pool.
type Options struct {
	// Targets are tried in this order. At least one.
	Targets []Target

	// PathBeg is what the paths of the route begin with; the test origin does not
	// want it.
	PathBeg string

	// Network is where connections come from. Nil means one of the Pool's own,
	// with the defaults.
	Network *Network
}

// Pool takes requests to the first of its targets that can be connected to. It
// is an http.RoundTripper and may be used concurrently.
type Pool struct {
	network *Network
	members []member
	only    []*Pool // each of several members alone; shares their endpoints

	closeOnce sync.Once
}

type member struct {
	target   Target
	endpoint *endpoint
}

// NewPool checks the targets and loads their certificates. Nothing is connected
// before the first request.
func NewPool(opts Options) (*Pool, error) {
	if len(opts.Targets) == 0 {
		return nil, errors.New("no targets")
	}
	p := &Pool{network: opts.Network}
	if p.network == nil {
		p.network = NewNetwork(NetworkOptions{})
	}
	for i, target := range opts.Targets {
		err := checkTarget(&target)
		var e *endpoint
		if err == nil {
			e, err = p.network.endpoint(&target, opts.PathBeg)
		}
		if err != nil {
			p.Close()
			return nil, fmt.Errorf("target %d, %q: %w", i+1, target.String(), err)
		}
		p.members = append(p.members, member{target, e})
	}
	for i := range p.members {
		one := &Pool{network: p.network, members: p.members[i : i+1]}
		one.only = []*Pool{one}
		p.only = append(p.only, one)
	}
	return p, nil
}

func checkTarget(t *Target) error {
	if t.Test {
		t.OverHTTP = true
		return nil
	}
	host, port, err := net.SplitHostPort(t.Addr)
	if err != nil {
		return err
	}
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
		return fmt.Errorf("port %q is not a number from 1 to 65535", port)
	}
	if host == "" {
		return errors.New("host is missing")
	}
	if !httpguts.ValidHostHeader(t.Host) {
		return fmt.Errorf("host=%q cannot be a Host header", t.Host)
	}
	return nil
}

// Targets returns the targets in order. It belongs to the Pool.
func (p *Pool) Targets() []Target {
	targets := make([]Target, len(p.members))
	for i := range p.members {
		targets[i] = p.members[i].target
	}
	return targets
}

// Only returns a Pool of target i alone. It lives as long as p and need not be
// closed.
func (p *Pool) Only(i int) *Pool { return p.only[i] }

// Part returns a Pool of the targets from i up to j. It lives as long as p and need
// not be closed.
func (p *Pool) Part(i, j int) *Pool {
	return &Pool{network: p.network, members: p.members[i:j], only: p.only[i:j]}
}

// Has says whether a target that Do has returned, of p or of one that p is part of
// or has as its part, is one of p's.
func (p *Pool) Has(t *Target) bool {
	for i := range p.members {
		if &p.members[i].target == t {
			return true
		}
	}
	return false
}

// Close closes connections that no request uses, unless another Pool of the same
// Network uses their target. Requests under way go on, and the Pool still serves
// those that come.
func (p *Pool) Close() error {
	p.closeOnce.Do(func() {
		for _, m := range p.members {
			p.network.release(m.endpoint)
		}
	})
	return nil
}

// RoundTrip implements http.RoundTripper. See Do.
func (p *Pool) RoundTrip(req *http.Request) (*http.Response, error) {
	response, _, err := p.Do(req)
	return response, err
}

// Do sends a request to the first target that can be connected to, and tells
// which that was. What req.URL says of scheme and host does not matter, Host
// does; the target is RequestURI, or what URL says if that is empty.
//
// Redirects are not followed and bodies are as the origin coded them. The
// answer's Body must be closed; read to its end, the connection can be used
// again. The request's Body may be read after Do has returned, and is closed
// when it no longer is.
//
// The error is a *ConnectError or *BlockedError if nothing was sent; the
// context's if that has ended; and another if there was no answer or none that
// can be used (over TCP an ErrAnswer), or if the request cannot be sent or its
// body not read.
func (p *Pool) Do(req *http.Request) (*http.Response, *Target, error) {
	response, _, target, err := p.try(req, false)
	return response, target, err
}

// try takes a request, or a WebSocket handshake, to the first target that can be
// connected to. The net.Conn is set if that agrees to the handshake.
func (p *Pool) try(req *http.Request, handshake bool) (*http.Response, net.Conn, *Target, error) {
	n := p.network
	if err := checkRequest(req); err != nil {
		closeBody(req)
		n.requests[failed].Inc()
		return nil, nil, nil, err
	}
	var tried *ConnectError
	for i := range p.members {
		m := &p.members[i]
		host := cmp.Or(m.target.Host, req.Host, req.URL.Host, m.target.Addr)
		var response *http.Response
		var conn net.Conn
		var err error
		if handshake {
			response, conn, err = n.handshake(req, host, m.endpoint)
		} else {
			response, err = m.endpoint.roundTrip(req, host)
		}
		if err == nil && response.StatusCode < http.StatusOK && conn == nil {
			response.Body.Close()
			err = fmt.Errorf("%w: status %d", ErrAnswer, response.StatusCode)
		}
		if err == nil {
			n.note(m.endpoint, m.target.Addr, nil)
			n.requests[answered].Inc()
			return response, conn, &m.target, nil
		}
		var undialed *dialError
		switch {
		case !errors.As(err, &undialed):
			why := failed
			if req.Context().Err() != nil {
				why = canceled
			}
			n.requests[why].Inc()
			return nil, nil, nil, err
		case undialed.why == dialBlocked:
			closeBody(req)
			n.requests[blocked].Inc()
			return nil, nil, nil, &BlockedError{Addr: m.target.Addr}
		}
		n.note(m.endpoint, m.target.Addr, err)
		if tried == nil {
			tried = &ConnectError{}
		} else {
			n.fallbacks.Inc()
		}
		tried.Tried = append(tried.Tried, m.target.String())
		tried.Causes = append(tried.Causes, fmt.Errorf("%s: %w", m.target.String(), err))
	}
	closeBody(req)
	n.requests[unreachable].Inc()
	return nil, nil, nil, tried
}

// checkRequest refuses what could be read as something else on the way: requests
// are not only those that net/http received, guests make some.
func checkRequest(req *http.Request) error {
	switch {
	case req.URL == nil:
		return errors.New("request has no URL")
	case !httpguts.ValidHeaderFieldName(req.Method):
		return fmt.Errorf("method %q is not a token", req.Method)
	case !httpguts.ValidHostHeader(req.Host), !httpguts.ValidHostHeader(req.URL.Host):
		return fmt.Errorf("host %q, %q cannot be a Host header", req.Host, req.URL.Host)
	}
	target := requestTarget(req)
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c == 0x7f {
			return fmt.Errorf("request target has byte %#x", c)
		}
	}
	if err := checkHeader(req.Header); err != nil {
		return err
	}
	return checkHeader(req.Trailer)
}

func checkHeader(h http.Header) error {
	for name, values := range h {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("header name %q is not a token", name)
		}
		for _, value := range values {
			if !httpguts.ValidHeaderFieldValue(value) {
				return fmt.Errorf("value of header %q has a byte that it must not have", name)
			}
		}
	}
	return nil
}

// requestTarget is what stands between method and version.
func requestTarget(req *http.Request) string {
	if req.RequestURI != "" {
		return req.RequestURI
	}
	return req.URL.RequestURI()
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}
