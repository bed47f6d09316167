package gateway

import (
	"bytes"
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/gripway/gripway/gateway/hold"
	"github.com/gripway/gripway/grip"
)

// This file lets pages of other sites read answers: it adds what browsers ask for
// (CORS, Fetch standard, section 3.2) wherever the origin has not said it.

// crossOrigin is what a request said of where it comes from.
type crossOrigin struct {
	origin  string // empty if it did not say
	method  string // that it asks leave for (preflight)
	headers string
}

func newCrossOrigin(header http.Header) crossOrigin {
	return crossOrigin{
		origin:  header.Get("Origin"),
		method:  header.Get("Access-Control-Request-Method"),
		headers: strings.Join(header["Access-Control-Request-Headers"], ", "),
	}
}

// add adds to the header of an answer what it does not have.
func (c *crossOrigin) add(header http.Header) {
	set := func(name, value string) {
		if _, there := header[name]; !there && value != "" {
			header[name] = []string{value}
		}
	}
	set("Access-Control-Allow-Methods", cmp.Or(c.method, "OPTIONS, HEAD, GET, POST, PUT, DELETE"))
	set("Access-Control-Allow-Headers", c.headers)
	set("Access-Control-Expose-Headers", exposed(header))
	set("Access-Control-Allow-Credentials", "true")
	set("Access-Control-Max-Age", "3600")
	if _, there := header["Access-Control-Allow-Origin"]; !there {
		set("Access-Control-Allow-Origin", cmp.Or(c.origin, "*"))
		// A cache must not give one site the answer of another.
		if vary := header["Vary"]; !hasToken(vary, "Origin") && !hasToken(vary, "*") {
			header["Vary"] = append(slices.Clip(vary), "Origin")
		}
	}
}

// exposed lists the headers that a page cannot read unless they are named.
func exposed(header http.Header) string {
	var names []string
	for name, values := range header {
		switch name {
		case "Cache-Control", "Content-Language", "Content-Length", "Content-Type", "Expires", "Last-Modified", "Pragma":
			continue // can be read anyway
		case "Set-Cookie", "Set-Cookie2":
			continue // can be read never
		case "Connection", "Trailer", "Transfer-Encoding", "Vary":
			continue // for what is on the way
		}
		if len(values) == 0 || strings.HasPrefix(name, "Grip-") || strings.HasPrefix(name, "Access-Control-") || strings.HasPrefix(name, http.TrailerPrefix) {
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// dress is what is done to the answers for one client before they are written. It
// is kept as long as the client is held.
type dress struct {
	cors  crossOrigin
	jsonp *jsonp // nil if the answer is not to be a script
}

// finish dresses an answer. Its Rest may be read.
func (d *dress) finish(answer *hold.Answer) {
	streams := answer.Instruction != nil && answer.Instruction.Hold != grip.HoldResponse
	if d.jsonp != nil && !streams {
		d.jsonp.wrap(answer)
		return
	}
	d.cors.add(answer.Header)
}

// outside is a client of a route with CrossOrigin.
type outside struct {
	w http.ResponseWriter // its own, which dresses nothing
	r *http.Request       // as it came
	dress
}

// serveCrossOrigin serves a request whose answer pages of other sites may read.
// route is nil if there is none.
func (g *Gateway) serveCrossOrigin(w http.ResponseWriter, r *http.Request, route *Route) {
	client := &outside{w: w, r: r, dress: dress{cors: newCrossOrigin(r.Header)}}
	var options JSONP
	if route != nil {
		options = route.JSONP
	}
	asked, script, err := options.read(r)
	if err != nil {
		g.refuse(&corsWriter{w, &client.cors}, r, refusedRequest, http.StatusBadRequest, err.Error())
		return
	}
	var dressed http.ResponseWriter = &corsWriter{w, &client.cors}
	if script != nil {
		client.jsonp = script
		own := &ownWriter{header: make(http.Header)}
		defer func() {
			if own.status != 0 {
				client.write(&hold.Answer{Status: own.status, Header: own.header, Body: own.body.Bytes()})
			}
		}()
		dressed = own
	}
	if route == nil {
		g.noRoute(dressed, r)
		return
	}
	if route.Guest != nil {
		g.serveGuest(dressed, asked, route, client)
		return
	}
	g.serveHTTP(dressed, asked, route, client)
}

// write gives the client an answer, dressed.
func (c *outside) write(answer *hold.Answer) {
	c.finish(answer)
	writeAnswer(c.w, c.r, answer)
}

// corsWriter adds to the head of whatever is written.
type corsWriter struct {
	http.ResponseWriter
	cors *crossOrigin
}

func (w *corsWriter) WriteHeader(status int) {
	if status >= 200 {
		w.cors.add(w.Header())
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach what it needs.
func (w *corsWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// ownWriter takes what the gateway says itself, which is short.
type ownWriter struct {
	header http.Header
	status int // 0 if nothing was said
	body   bytes.Buffer
}

func (w *ownWriter) Header() http.Header { return w.header }

func (w *ownWriter) Write(b []byte) (int, error) { return w.body.Write(b) }

func (w *ownWriter) WriteHeader(status int) {
	if status >= 200 && w.status == 0 {
		w.status = status
	}
}
