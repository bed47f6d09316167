package compute

import (
	"github.com/gripway/gripway/guest"
)

// handoffNameMax bounds the name of a backend in a handoff, as SDKs do.
const handoffNameMax = 254

// keptHeaders are taken from the client's request, whatever the guest made of them:
// they belong to the client's connection, or to proxies on the way.
var keptHeaders = []string{
	"Host", "Connection", "Upgrade", "Sec-Websocket-Key", "Sec-Websocket-Version", "Pushpin-Route", "Cdn-Loop", "Content-Length",
	"Content-Range", "Expect", "Te", "Trailer", "Transfer-Encoding", "Proxy-Authenticate", "Proxy-Authorization", "Fastly-Ff",
}

// handOffRequest is handOff with the request that parameter 0 is a handle of.
func (c *call) handOffRequest(webSocket bool) status {
	r, st := c.requestOf(0)
	if st != statusOK {
		return st
	}
	return c.handOff(webSocket, r, 1)
}

// handOff leaves the client to the gateway. Parameters i and i+1 name the backend. What
// goes on is the client's request, or r: then method, path and header are its, but
// for those that stay. The body is the client's in any case; the gateway has kept
// what the guest has read of it.
func (c *call) handOff(webSocket bool, r *request, i int) status {
	name, st := c.text(i)
	switch {
	case st != statusOK:
		return st
	case name == "" || len(name) > handoffNameMax:
		return statusInvalid
	}
	d := c.arrived()
	original := d.exchange.Request
	out := original.WithContext(original.Context())
	out.Header = original.Header.Clone()
	if r != nil {
		u, ok := parseURI(r.uri)
		if !ok {
			return statusHTTPUser
		}
		header := r.header.http()
		for _, name := range keptHeaders {
			if values := original.Header[name]; len(values) > 0 {
				header[name] = values
			} else {
				delete(header, name)
			}
		}
		out.Method, out.Header, out.RequestURI = r.method, header, u.path
		to := targetURL(u)
		to.Scheme, to.Host = original.URL.Scheme, original.URL.Host
		out.URL = to
	}
	if d.decide(guest.Outcome{Handoff: &guest.Handoff{WebSocket: webSocket, Backend: name, Request: out}}) != nil {
		return statusError
	}
	// The client's body is the gateway's from here on.
	if b, st := itemOf[*body](c.sandbox, d.body); st == statusOK {
		c.items.set(d.body, &body{})
		b.drop(c.sandbox)
	}
	return statusOK
}
