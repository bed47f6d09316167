package gateway

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gripway/gripway/gateway/hold"
	"github.com/gripway/gripway/gateway/origin"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/wsoverhttp"
)

// Feature is the value of Grip-Feature: what this gateway does of what an origin
// may ask for, in the order in which libraries expect it.
const Feature = "status, link:next, link:gone, " +
	"filter:skip-self, filter:skip-users, filter:require-sub, filter:build-id, filter:var-subst, " +
	"filter:http-check, filter:http-modify"

// acceptBytesMax bounds the request's and the answer's body of what is to be
// held (Pushpin's number): both are kept.
const acceptBytesMax = 100_000

// serveHTTP takes a request to its origin and passes the answer on, or holds it.
// Unless client is nil, it is whom answers are dressed for, and r may differ from
// what it sent.
func (g *Gateway) serveHTTP(w http.ResponseWriter, r *http.Request, route *Route, client *outside) {
	call := origin.Call{}
	if r.ProtoMajor > 1 {
		call.Hints = w
	}
	request, trusted, err := route.Rules.Prepare(r, call)
	if err != nil {
		g.prepareFailed(w, r, route, err)
		return
	}
	if !trusted && route.OverHTTP && wsoverhttp.IsRequest(r) {
		g.refuse(w, r, refusedEvents, http.StatusForbidden, "Client not allowed to send WebSocket events directly.")
		return
	}
	grips := !trusted && !route.NoGrip
	var kept *keptBody
	if grips && request.Body != nil && request.Body != http.NoBody {
		kept = &keptBody{body: request.Body, closed: make(chan struct{})}
		request.Body = kept
	}
	response, route, err := route.roundTrip(request)
	if err != nil {
		g.originFailed(w, r, route, err)
		return
	}
	var rest func() ([]byte, error)
	if kept != nil {
		rest = kept.rest
	}
	g.answer(w, r, route, response, grips, rest, client)
}

// answer passes an origin's answer on, or does what it instructs if it may. rest
// returns the request's whole body, reading what the origin has not; nil for one
// without.
func (g *Gateway) answer(w http.ResponseWriter, r *http.Request, route *Route, response *http.Response, grips bool, rest func() ([]byte, error), client *outside) {
	if !grips || !grip.IsInstruction(response.Header) {
		if client != nil && client.jsonp != nil {
			client.relay(response)
			return
		}
		if err := origin.Relay(w, r, response); err != nil {
			g.log.Debug("answer cut short", "route", route.name(), "error", err)
			panic(http.ErrAbortHandler) // the client must see that it is not whole
		}
		return
	}
	answer, err := readAnswer(response)
	if err == nil {
		err = hold.Filter(route.Prefix, answer)
	}
	if err != nil {
		g.answerFailed(w, r, route, err)
		return
	}
	if answer.Instruction == nil {
		if client != nil {
			w, r = client.w, client.r
			client.finish(answer)
		}
		ownWords := answer.Reason != "" && answer.Reason != http.StatusText(answer.Status)
		if !ownWords || answer.Rest != nil || !g.holds.Whole(w, r, answer) {
			writeAnswer(w, r, answer)
		}
		return
	}
	var body []byte
	if rest != nil {
		// The client's connection is going to be taken over: nothing of its request
		// may be left in it.
		body, err = rest()
	}
	if err != nil {
		g.log.Info("request cannot be held", "route", route.name(), "path", encodedPath(r), "error", err)
		closeRest(answer)
		g.refuse(w, r, refusedTooLarge, http.StatusBadRequest, "Request too large to accept GRIP instruct.")
		return
	}
	if g.full() {
		closeRest(answer)
		g.refuse(w, r, refusedFull, http.StatusServiceUnavailable, "Too many clients are held.")
		return
	}
	held := hold.Call{
		W: w, R: r, Answer: *answer, Route: route.name(), Prefix: route.Prefix, Channels: route.Channels,
		About: g.about(r, route),
		Debug: route.Debug, URI: requestURI(r, g.isTLS(r)),
	}
	if client != nil {
		held.W, held.R = client.w, client.r
		dress := client.dress // all of the client that is kept
		held.Finish = dress.finish
	}
	if linked(answer.Instruction) || answer.Instruction.Hold == grip.HoldResponse { // asked again, it may name links
		links := &linkClient{
			g: g, route: route, chosen: route.handedOff || g.opts.AcceptPushpinRoute && r.Header.Get("Pushpin-Route") != "",
			host: r.Host, secure: g.isTLS(r), tls: r.TLS, remote: r.RemoteAddr, untrusted: route.Untrusted,
		}
		held.Fetch, held.Post, held.Ask = links.fetch, links.post, links.ask
	}
	if answer.Instruction.Hold == grip.HoldResponse {
		held.Again = g.again(r, body, route)
	}
	g.holds.Serve(held)
}

// prepareFailed answers a client whose request cannot be taken to any origin.
func (g *Gateway) prepareFailed(w http.ResponseWriter, r *http.Request, route *Route, err error) {
	switch {
	case errors.Is(err, origin.ErrMethod):
		g.refuse(w, r, refusedRequest, http.StatusMethodNotAllowed, "Method is not relayed.")
	case errors.Is(err, origin.ErrTarget):
		g.refuse(w, r, refusedRequest, http.StatusBadRequest, "Request target is not a path.")
	default:
		g.originFailed(w, r, route, err)
	}
}

// again returns a function that asks the origin of a client's request again, as
// if the request had come anew. One that a guest handed off goes to that backend:
// the guest is not asked again.
func (g *Gateway) again(r *http.Request, body []byte, route *Route) func(context.Context, []hold.Last) (*hold.Answer, error) {
	// The server's own request must not be kept: it holds its buffers.
	saved := &http.Request{
		Method: r.Method, URL: r.URL, Proto: r.Proto, ProtoMajor: r.ProtoMajor, ProtoMinor: r.ProtoMinor,
		Header: r.Header, Host: r.Host, RemoteAddr: r.RemoteAddr, RequestURI: r.RequestURI, TLS: r.TLS,
		ContentLength: int64(len(body)),
	}
	return func(ctx context.Context, last []hold.Last) (*hold.Answer, error) {
		r := saved.Clone(ctx)
		r.Body = http.NoBody
		if len(body) > 0 {
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		route := route.now()
		if route == nil {
			route = g.route(r, false)
		}
		if route == nil {
			return nil, errors.New("no route any more")
		}
		response, route, grips, err := g.askOrigin(r, route, last)
		if err != nil {
			return nil, err
		}
		if !grips || !grip.IsInstruction(response.Header) {
			header := response.Header
			origin.CleanHeader(header)
			return &hold.Answer{Status: response.StatusCode, Header: header, Rest: response.Body}, nil
		}
		answer, err := readAnswer(response)
		if err == nil {
			err = hold.Filter(route.Prefix, answer)
		}
		return answer, err
	}
}

// askOrigin asks whoever answers a route's requests, in a client's name. It tells
// whose answer that is, and whether it may instruct the gateway.
func (g *Gateway) askOrigin(r *http.Request, route *Route, last []hold.Last) (*http.Response, *Route, bool, error) {
	addLast := func(header http.Header) {
		for _, l := range last {
			grip.AddLast(header, l.Channel, l.ID)
		}
	}
	if route.Guest != nil {
		return g.guestAnswer(r, route, addLast)
	}
	request, trusted, err := route.Rules.Prepare(r, origin.Call{})
	if err != nil {
		return nil, nil, false, err
	}
	addLast(request.Header)
	response, route, err := route.roundTrip(request)
	return response, route, !trusted && !route.NoGrip, err
}

// errAnswerTooLarge says that an origin's GRIP answer cannot be kept.
var errAnswerTooLarge = fmt.Errorf("GRIP instruct response too large: more than %d bytes", acceptBytesMax)

// readAnswer reads a GRIP answer. Its Instruction is nil if nothing is to be
// held. Only a stream may have more body than is kept, in Rest.
func readAnswer(response *http.Response) (*hold.Answer, error) {
	body, rest, err := readBody(response)
	if err != nil {
		response.Body.Close()
		return nil, err
	}
	instruction, err := grip.ParseInstruction(response.StatusCode, response.Header, body)
	if err != nil {
		response.Body.Close()
		return nil, err
	}
	coding := response.Header.Get("Content-Encoding")
	if held := instruction.Hold != grip.HoldNone || instruction.Next != nil; held && instruction.Response == nil && coding != "" && !strings.EqualFold(coding, "identity") {
		// What is published is in no coding: the client could not read it behind this,
		// nor in its place.
		response.Body.Close()
		return nil, fmt.Errorf("GRIP instruct response has Content-Encoding %q: want gzip or none", coding)
	}
	if rest != nil && (instruction.Hold == grip.HoldResponse || instruction.Response != nil) {
		response.Body.Close()
		return nil, errAnswerTooLarge
	}
	answer := &hold.Answer{Status: response.StatusCode, Header: response.Header, Body: body, Rest: rest}
	if in := instruction.Response; in != nil {
		answer.Status, answer.Reason, answer.Header, answer.Body = in.Code, in.Reason, in.Header.Clone(), in.Body
		if answer.Header == nil {
			answer.Header = make(http.Header)
		}
	} else if instruction.Status != 0 {
		answer.Status, answer.Reason = instruction.Status, instruction.Reason
	}
	if answer.Status < 200 {
		response.Body.Close()
		return nil, fmt.Errorf("status %d cannot be the client's", answer.Status)
	}
	grip.StripHeader(answer.Header)
	origin.CleanHeader(answer.Header)
	if instruction.ExposeHeaders != nil {
		hold.Expose(answer.Header, instruction.ExposeHeaders)
	}
	if instruction.Hold != grip.HoldNone || instruction.Next != nil {
		answer.Instruction = instruction
	}
	return answer, nil
}

// readBody reads as much of a GRIP answer's body as can be kept; rest is what
// follows, or nil. A gzip coding is undone: items are appended to the body, or
// take its place.
func readBody(response *http.Response) (body []byte, rest io.ReadCloser, err error) {
	var from io.Reader = response.Body
	if strings.EqualFold(response.Header.Get("Content-Encoding"), "gzip") {
		from, err = gzip.NewReader(response.Body)
		if err == io.EOF { // nothing at all, as for HEAD
			from, err = response.Body, nil
		}
		if err != nil {
			return nil, nil, fmt.Errorf("gzip of the GRIP answer: %w", err)
		}
		response.Header.Del("Content-Encoding")
		response.Header.Del("Content-Length")
	}
	body, err = io.ReadAll(io.LimitReader(from, acceptBytesMax+1))
	if err != nil {
		return nil, nil, fmt.Errorf("body of the GRIP answer: %w", err)
	}
	if len(body) > acceptBytesMax {
		return body, readCloser{from, response.Body}, nil
	}
	response.Body.Close()
	return body, nil, nil
}

type readCloser struct {
	io.Reader
	io.Closer
}

// writeAnswer passes on a GRIP answer that is not to be held.
func writeAnswer(w http.ResponseWriter, r *http.Request, answer *hold.Answer) {
	header := w.Header()
	maps.Copy(header, answer.Header)
	if _, ok := answer.Header["Content-Type"]; !ok {
		header["Content-Type"] = nil // net/http would guess one
	}
	if answer.Rest == nil && (r.Method != http.MethodHead || len(answer.Body) > 0) { // that of a HEAD is not known
		header["Content-Length"] = []string{strconv.Itoa(len(answer.Body))}
	}
	w.WriteHeader(answer.Status)
	if r.Method != http.MethodHead {
		w.Write(answer.Body)
		if answer.Rest != nil {
			if _, err := io.Copy(w, answer.Rest); err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
				closeRest(answer)
				panic(http.ErrAbortHandler) // the client must see that it is not whole
			}
		}
	}
	closeRest(answer)
}

func closeRest(answer *hold.Answer) {
	if answer.Rest != nil {
		answer.Rest.Close()
	}
}

// ErrEnding is the cause with which whoever ends a gateway cancels the requests that
// their origins have not answered by the end of the drain: their clients are told so.
var ErrEnding = errors.New("the gateway ends")

// over ends a request whose context has ended, and says whether it has: with words if
// the gateway ends, without if the client has gone.
func (g *Gateway) over(w http.ResponseWriter, r *http.Request) bool {
	switch {
	case r.Context().Err() == nil:
		return false
	case context.Cause(r.Context()) != ErrEnding:
		panic(http.ErrAbortHandler) // there is nobody to answer
	}
	g.log.Warn("request unanswered at the end of the drain", "path", encodedPath(r))
	w.Header().Set("Connection", "close")
	g.refuse(w, r, refusedEnding, http.StatusServiceUnavailable, "The gateway is about to end.")
	return true
}

// originFailed answers a client whose origin could not be asked.
func (g *Gateway) originFailed(w http.ResponseWriter, r *http.Request, route *Route, err error) {
	if g.over(w, r) {
		return
	}
	if errors.Is(err, origin.ErrBody) {
		g.log.Info("request body cannot be read", "route", route.name(), "path", encodedPath(r), "client", r.RemoteAddr, "error", err)
		g.refuse(w, r, refusedRequest, http.StatusBadRequest, "Request body is malformed or not whole.")
		return
	}
	g.log.Warn("origin failed", "route", route.name(), "path", encodedPath(r), "error", err)
	text := "Error while proxying to origin."
	if route.Debug {
		text = err.Error()
	}
	g.refuse(w, r, refusedOrigin, http.StatusBadGateway, text)
}

// answerFailed answers a client whose origin gave an instruction that cannot be
// followed.
func (g *Gateway) answerFailed(w http.ResponseWriter, r *http.Request, route *Route, err error) {
	g.log.Warn("GRIP answer refused", "route", route.name(), "path", encodedPath(r), "error", err)
	text := "Error while proxying to origin."
	if route.Debug {
		text = err.Error()
		var instruct *grip.InstructError
		if errors.As(err, &instruct) {
			text = "Failed to parse accept instructions: " + instruct.Text
		}
	}
	g.refuse(w, r, refusedInstruct, http.StatusBadGateway, text)
}

// keptBody remembers a request's body while it is sent, as far as it may be kept.
// Closing it does not close the client's: what the origin did not want may still
// be needed.
type keptBody struct {
	body   io.Reader
	kept   []byte
	over   bool
	closed chan struct{}
	once   sync.Once
}

func (b *keptBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if !b.over {
		b.kept = append(b.kept, p[:n]...)
		if len(b.kept) > acceptBytesMax {
			b.over, b.kept = true, nil
		}
	}
	return n, err
}

func (b *keptBody) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

// sentMax bounds the wait for a body that is still being sent when its answer is
// there already.
const sentMax = 30 * time.Second

// rest returns the whole body, reading what the origin has not.
func (b *keptBody) rest() ([]byte, error) {
	timer := time.NewTimer(sentMax)
	defer timer.Stop()
	select {
	case <-b.closed: // nobody else reads any more
	case <-timer.C:
		return nil, errors.New("request's body is still being sent")
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(b, acceptBytesMax+1)); err != nil {
		return b.kept, nil // the client has stopped sending: what came is all there is
	}
	if b.over {
		return nil, errAnswerTooLarge
	}
	return b.kept, nil
}
