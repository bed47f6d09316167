package gateway

import (
	"cmp"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/gripway/gripway/gateway/origin"
	"github.com/gripway/gripway/gateway/socket"
)

// Route says which requests go where, and how. It is read-only once set.
type Route struct {
	// ID names the route in logs, and in Pushpin-Route requests. May be empty.
	ID string

	// Domain is the host a request must name, without port, lower case; "*" is
	// any, and empty is none: such a route is found by its ID only. Routes of an
	// exact domain hide those of "*".
	Domain string

	// PathBeg is what a request's path, as the client encoded it, must begin with.
	PathBeg string

	// Proto is "http", "ws", or empty for both.
	Proto string

	// TLS is what the client's connection must be; nil is either.
	TLS *bool

	// Prefix precedes the name of every channel an origin names.
	Prefix string

	// Channels are followed by every held client of the route, unprefixed.
	Channels []string

	// Debug tells clients why an origin's answer could not be used.
	Debug bool

	// NoGrip passes answers on as they are: no holds.
	NoGrip bool

	// OverHTTP asks the origin about WebSocket clients by HTTP; OneEvent sends it
	// one event in a request.
	OverHTTP bool
	OneEvent bool

	// CrossOrigin lets pages of other sites read answers (CORS), and ask for them as
	// scripts in the ways of JSONP.
	CrossOrigin bool
	JSONP       JSONP

	// SockJS is the path below which clients speak SockJS, without a slash at its
	// end; SockJSAs is the path that their WebSockets have for the origin. Empty is
	// none, and SockJS' own.
	SockJS   string
	SockJSAs string

	// Replies are texts of WebSocket clients that the gateway answers itself.
	Replies *socket.Replies

	// Untrusted keeps links of answers from private addresses, as the option of
	// that name does the targets.
	Untrusted bool

	// Rules make the client's request one for the origin, Pool brings it there. A
	// Pool that has DialWebSocket, like *origin.Pool, reaches origins that speak
	// WebSocket.
	Rules *origin.Rules
	Pool  http.RoundTripper

	// Parts are the route once for each run of targets that differ from the others in
	// how clients are held; empty if none does. See UsePool.
	Parts []*Route

	// Guest decides about the requests first; Pool is not used then.
	Guest *Guest

	sign  func(*http.Request) // one for all of the route's WebSockets
	terms *socket.Terms       // the same

	// Of a route that requests are handed off to.
	handedOff bool
	current   func() *Route // what it is at present
}

// Backend completes a route for requests that a guest hands off. current returns
// the route of that backend at present, for requests that are asked again; nil is
// this one.
func (g *Gateway) Backend(route *Route, current func() *Route) *Route {
	g.prepareRoute(route)
	route.handedOff, route.current = true, current
	for _, part := range route.Parts {
		part.handedOff, part.current = true, current
	}
	return route
}

// now is what the route is at present, or nil for one that has to be found by the
// request.
func (r *Route) now() *Route {
	if !r.handedOff {
		return nil
	}
	if r.current != nil {
		if now := r.current(); now != nil {
			return now
		}
	}
	return r
}

// id is ID, also of no route.
func (r *Route) id() string {
	if r == nil {
		return ""
	}
	return r.ID
}

// name is what logs call the route.
func (r *Route) name() string {
	if r.ID != "" {
		return r.ID
	}
	return r.Domain + r.PathBeg
}

// table finds routes.
type table struct {
	byDomain map[string][]*Route // the best match of a request is the first
	byID     map[string]*Route   // nil for an id that is used more than once
}

func newTable(routes []*Route) *table {
	t := &table{byDomain: make(map[string][]*Route), byID: make(map[string]*Route)}
	for _, r := range routes {
		if r.Domain != "" {
			t.byDomain[r.Domain] = append(t.byDomain[r.Domain], r)
		}
		if r.ID != "" {
			if _, used := t.byID[r.ID]; used {
				t.byID[r.ID] = nil
			} else {
				t.byID[r.ID] = r
			}
		}
	}
	for _, list := range t.byDomain {
		slices.SortStableFunc(list, func(a, b *Route) int {
			return cmp.Or(
				given(b.Proto != "")-given(a.Proto != ""),
				len(b.PathBeg)-len(a.PathBeg),
				given(b.TLS != nil)-given(a.TLS != nil),
			)
		})
	}
	return t
}

func given(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// find returns the route of a request, or nil.
func (t *table) find(host, path, proto string, tls bool) *Route {
	list, exact := t.byDomain[domain(host)]
	if !exact {
		list = t.byDomain["*"]
	}
	for _, r := range list {
		if r.matches(path, proto, tls) {
			return r
		}
	}
	return nil
}

func (r *Route) matches(path, proto string, tls bool) bool {
	return (r.Proto == "" || r.Proto == proto) && strings.HasPrefix(path, r.PathBeg) && (r.TLS == nil || *r.TLS == tls)
}

// domain is a Host header's name, lower case, without port.
func domain(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.Trim(host, "[]"))
}

// encodedPath is the path as the client encoded it.
func encodedPath(r *http.Request) string {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	if i := strings.Index(path, "://"); i >= 0 && !strings.HasPrefix(path, "/") {
		// A proxy's form: scheme and host come first.
		path = path[i+3:]
		if j := strings.IndexByte(path, '/'); j >= 0 {
			return path[j:]
		}
		return "/"
	}
	return path
}
