package gateway

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"

	"github.com/google/uuid"

	"github.com/gripway/gripway/gateway/origin"
	"github.com/gripway/gripway/gateway/socket"
	"github.com/gripway/gripway/gateway/sockjs"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/wsoverhttp"
)

// eventsBytesMin is how long an origin's answer of events may be, at least
// (Pushpin's number). It may be longer where clients' messages may.
const eventsBytesMin = 1_000_000

// serveWebSocket asks the origin about a WebSocket client and, if the origin
// agrees, keeps the client.
func (g *Gateway) serveWebSocket(w http.ResponseWriter, r *http.Request, route *Route) {
	if !socket.CheckHandshake(w, r) {
		g.refusals[refusedHandshake].Inc()
		return
	}
	if g.full() {
		g.refuse(w, r, refusedFull, http.StatusServiceUnavailable, "Too many clients are held.")
		return
	}
	request, trusted, err := route.Rules.Prepare(r, origin.Call{WebSocket: true})
	if err != nil {
		g.prepareFailed(w, r, route, err)
		return
	}
	route.eachPart(func(part *Route, failed func(error)) {
		request := request
		if part != route { // another part may need the header as it is
			request = request.Clone(request.Context())
		}
		g.askAboutWebSocket(w, r, part, request, trusted, failed)
	}, func(err error) { g.originFailed(w, r, route, err) })
}

// askAboutWebSocket asks the origin of a route without parts, with a request that
// has been made for it. A failure is told to failed, and the client not answered then.
func (g *Gateway) askAboutWebSocket(w http.ResponseWriter, r *http.Request, route *Route, request *http.Request, trusted bool, failed func(error)) {
	call := socket.Call{
		W: w, R: r, ID: uuid.NewString(), Terms: route.terms, Client: g.askingClient(r),
		About:  g.about(r, route),
		Failed: failed,
		Reject: func(status int, header http.Header, body []byte) {
			header = header.Clone()
			origin.CleanHeader(header)
			if !trusted && !route.NoGrip {
				grip.StripHeader(header)
			}
			header.Del("Content-Length")
			maps.Copy(w.Header(), header)
			w.WriteHeader(status)
			w.Write(body)
		},
	}
	if !route.OverHTTP {
		g.serveNative(call, route, request)
		return
	}
	options := wsoverhttp.ClientOptions{
		Transport:        route.Pool,
		URL:              request.URL.String(),
		Host:             request.Host,
		Header:           request.Header,
		ConnectionID:     call.ID,
		NoGrip:           trusted || route.NoGrip,
		ResponseBytesMax: max(eventsBytesMin, 2*g.opts.WebSocketBytes),
	}
	if route.OneEvent {
		options.EventsMax = 1
	}
	if !trusted && !route.NoGrip {
		// Signed anew each time, and not kept between.
		request.Header.Del("Grip-Sig")
		request.Header.Del("Grip-Feature")
		options.Decorate = route.sign
	}
	g.sockets.Serve(call, wsoverhttp.NewClient(options))
}

// sockJSFactor is how many bytes of JSON a byte of a message may take, escaped.
const sockJSFactor = 2

// serveSockJS answers a SockJS client's request; false means that it is another's.
func (g *Gateway) serveSockJS(w http.ResponseWriter, r *http.Request, route *Route) bool {
	path := encodedPath(r)
	if !sockjs.Takes(path, route.SockJS) {
		return false
	}
	g.sockjs.Serve(sockjs.Call{
		W: w, R: r, Path: path, Base: route.SockJS, As: route.SockJSAs, Realm: route.Domain,
		Open: func(w http.ResponseWriter, r *http.Request) {
			if route.Guest != nil {
				g.serveGuest(w, r, route, nil)
				return
			}
			g.serveWebSocket(w, r, route)
		},
	})
	return true
}

// webSocketDialer is a Route's Pool that reaches origins that speak WebSocket.
type webSocketDialer interface {
	DialWebSocket(ctx context.Context, request *http.Request) (*http.Response, net.Conn, *origin.Target, error)
}

// serveNative takes the client to an origin that speaks WebSocket itself.
func (g *Gateway) serveNative(call socket.Call, route *Route, request *http.Request) {
	dialer, speaks := route.Pool.(webSocketDialer)
	if !speaks {
		call.Failed(errors.New("the origin is asked about WebSockets by HTTP only"))
		return
	}
	response, nc, _, err := dialer.DialWebSocket(call.R.Context(), request)
	if err != nil {
		call.Failed(err)
		return
	}
	if nc == nil {
		body, err := io.ReadAll(io.LimitReader(response.Body, acceptBytesMax))
		response.Body.Close()
		if err != nil {
			call.Failed(err)
			return
		}
		call.Reject(response.StatusCode, response.Header, body)
		return
	}
	g.sockets.ServeNative(call, nc, response)
}
