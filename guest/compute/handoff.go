package compute

import (
	"github.com/gripway/gripway/guest"
)

// handoffNameMax bounds the name of a backend in a handoff, as SDKs do.
const handoffNameMax = 254

// handOffRequest is handOff with the request that parameter 0 is a handle of.
func (c *call) handOffRequest(webSocket bool) status {
	r, st := c.requestOf(0)
	if st != statusOK {
		return st
	}
	return c.handOff(webSocket, r, 1)
}

// handOff leaves the client to the gateway. Parameters i and i+1 name the backend. What
// goes on is the client's request, or r: then method, path and header are its; the
// gateway puts back what belongs to the client's connection. The body is the client's
// in any case; the gateway has kept what the guest has read of it.
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
		out.Method, out.Header, out.RequestURI = r.method, r.header.http(), u.path
		to := targetURL(u)
		to.Scheme, to.Host = original.URL.Scheme, original.URL.Host
		out.URL = to
		delete(out.Header, keyHeader)
	}
	handoff := &guest.Handoff{WebSocket: webSocket, Backend: name, Request: out}
	if backend := c.dynamic[name]; backend != nil { // it ends with the sandbox, the client does not
		o := backend.Options()
		handoff.Described = &o
	}
	if d.decide(guest.Outcome{Handoff: handoff}) != nil {
		return statusError
	}
	// The client's body is the gateway's from here on.
	if b, st := itemOf[*body](c.sandbox, d.body); st == statusOK {
		c.items.set(d.body, &body{})
		b.drop(c.sandbox)
	}
	return statusOK
}
