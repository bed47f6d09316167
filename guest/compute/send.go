package compute

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"

	"github.com/gripway/gripway/guest"
)

// pending is a request that was sent, and whose response is not the guest's yet.
type pending struct {
	*future[*arrival]
	method string

	// What is done to the response before the client gets it, or to the one that is
	// made up when there is none. Owned by the guest's goroutine until it is
	// forwarded.
	onResponse, onError []change

	forwarded chan struct{} // nil unless it is for the client; closed once that has its answer
}

// arrival is a backend's answer.
type arrival struct {
	response *http.Response
	from     netip.AddrPort
}

func (a *arrival) discard() { a.response.Body.Close() }

// ready and drop are the future's: item.

// exchangesMax bounds the requests to backends that a sandbox has under way at once,
// and the answers whose bodies it has not closed: each may have a connection. Fastly
// allows 32 in all.
const exchangesMax = 256

// errUnknownBackend answers a request to a backend that is not there.
var errUnknownBackend = errors.New("compute: no such backend")

// errURI answers a request to what is no URI.
var errURI = errors.New("compute: the URI of the request cannot be sent")

// backend finds one by name: those that the guest described, and the service's own.
func (b *sandbox) backend(name string) guest.Backend {
	if d := b.dynamic[name]; d != nil {
		return d
	}
	if b.service.Backends == nil {
		return nil
	}
	return b.service.Backends.Lookup(name)
}

// send sends the request and the body that parameters 0 and 1 are handles of to the
// backend that parameters 2 and 3 name. Both are used up, also if that fails; a body
// that streams remains to be written.
func (c *call) send(cached, streaming bool) (*pending, error, status) {
	name, st := c.text(2)
	if st != statusOK {
		return nil, nil, st
	}
	r, st := c.requestOf(0)
	if st != statusOK {
		return nil, nil, st
	}
	b, st := itemOf[*body](c.sandbox, c.u32(1))
	if st != statusOK {
		return nil, nil, st
	}
	c.requests.remove(c.u32(0))
	c.spent.backendRequests++
	if !c.mayGive(b.held) || c.exchanges.Load() >= exchangesMax ||
		!c.within(LimitBackendRequests, c.spent.backendRequests, c.service.Limits.BackendRequests) {
		c.items.remove(c.u32(1))
		b.drop(c.sandbox)
		return nil, nil, statusLimit
	}

	var out content
	if streaming {
		w, reader := newStream(c.sandbox, b)
		c.items.set(c.u32(1), w)
		out = content{reader: reader, length: -1}
	} else {
		c.items.remove(c.u32(1))
		held := b.held
		b.leave(c.sandbox)
		out = wholeOf(b)
		reader := out.reader.(*streamReader).s
		reader.given = &c.given
		reader.count(held)
	}
	if out.length < 0 && out.trailer == nil {
		out.trailer = make(http.Header) // something may come
	}
	backend := c.backend(name)
	if backend == nil {
		out.reader.Close()
		c.Log.Warn("guest names a backend that does not exist", "backend", name)
		return nil, errUnknownBackend, statusOK
	}
	outward, err := r.outward(out)
	if err != nil {
		out.reader.Close()
		return nil, err, statusOK
	}
	var override *cacheOverride
	if cached {
		override = r.cache
	}
	// As on Fastly, who answered is only told of what no cache can have answered.
	direct := !cached || override != nil && override.Pass
	sandbox, addressed, decompress, cause := c.sandbox, c.wantsAddresses && direct, r.decompress, c.current
	c.exchanges.Add(1)
	f := start(sandbox, func(ctx context.Context) (*arrival, error) {
		a := new(arrival)
		ctx, cancel := context.WithCancel(ctx)
		if cause != nil {
			ctx = guest.WithCause(ctx, cause.exchange.Request)
		}
		var mu sync.Mutex
		if addressed {
			ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
				mu.Lock()
				defer mu.Unlock()
				if tcp, ok := info.Conn.RemoteAddr().(*net.TCPAddr); ok {
					a.from = tcp.AddrPort()
				}
			}})
		}
		response, err := sandbox.fetch(outward.WithContext(ctx), backend, cached, override)
		if err != nil {
			cancel()
			sandbox.exchanges.Add(-1)
			out.reader.Close() // if the backend did not
			return nil, err
		}
		mu.Lock()
		defer mu.Unlock()
		a.response = response
		if response.Body == nil {
			response.Body = http.NoBody
		}
		if decompress && gzipped(response) {
			response.Header.Del("Content-Encoding")
			response.Header.Del("Content-Length")
			response.ContentLength = -1
			if outward.Method != http.MethodHead {
				response.Body = &unzipped{from: response.Body}
			}
		}
		none := response.Body == http.NoBody
		body := &backendBody{ReadCloser: response.Body, cancel: cancel, open: &sandbox.exchanges}
		if none {
			body.end()
		}
		response.Body = body
		return a, nil
	}, (*arrival).discard)
	return &pending{future: f, method: r.method}, nil, statusOK
}

// gzipped tells whether a body is gzip, and nothing else (RFC 9110, 8.4.1.3).
func gzipped(response *http.Response) bool {
	values := response.Header["Content-Encoding"]
	return len(values) == 1 && (equalFold(values[0], "gzip") || equalFold(values[0], "x-gzip"))
}

// outward makes a request for a backend.
func (r *request) outward(content content) (*http.Request, error) {
	u, ok := parseURI(r.uri)
	if !ok {
		return nil, errURI
	}
	out := &http.Request{
		Method: r.method, RequestURI: u.path, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: r.header.http(), ContentLength: content.length, Trailer: content.trailer, Body: content.reader,
	}
	out.URL = targetURL(u)
	out.Host, _ = r.header.get("host")
	delete(out.Header, "Host")
	if n, chunked, manual := framing(&r.header); r.framing && manual {
		if out.ContentLength = n; chunked {
			out.ContentLength = -1
		} else {
			out.Trailer = nil
		}
	}
	delete(out.Header, "Content-Length")
	delete(out.Header, "Transfer-Encoding")
	if out.ContentLength == 0 {
		out.Body.Close()
		out.Body = http.NoBody
	} else {
		out.Body = &requestBody{trailing: content.reader, request: out}
	}
	return out, nil
}

// targetURL is a URI for net/http. RequestURI has it as it was written.
func targetURL(u uriParts) *url.URL {
	to := &url.URL{Scheme: u.scheme, Host: u.authority}
	if parsed, err := url.ParseRequestURI(u.path); err == nil {
		to.Path, to.RawPath, to.RawQuery, to.ForceQuery = parsed.Path, parsed.RawPath, parsed.RawQuery, parsed.ForceQuery
	} else {
		to.Opaque = u.path
	}
	return to
}

// requestBody puts what follows the body where net/http looks for it.
type requestBody struct {
	trailing
	request *http.Request
}

func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.trailing.Read(p)
	if err == io.EOF && b.request.Trailer != nil {
		for name, values := range b.Trailer() {
			b.request.Trailer[name] = values
		}
	}
	return n, err
}

// backendBody is an answer's body. Its context ends with it.
type backendBody struct {
	io.ReadCloser
	cancel context.CancelFunc
	open   *atomic.Int32 // of the sandbox; it counts until its end or Close
	ended  atomic.Bool
}

func (b *backendBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.end()
	}
	return n, err
}

// end is told that the answer keeps no connection any more.
func (b *backendBody) end() {
	if !b.ended.Swap(true) {
		b.open.Add(-1)
	}
}

func (b *backendBody) Close() error {
	err := b.ReadCloser.Close()
	b.cancel()
	b.end()
	return err
}

// Stop ends a Read that waits.
func (b *backendBody) Stop() { b.cancel() }

// Rest is wholeBody's.
func (b *backendBody) Rest() (parts [][]byte, ok bool) {
	if stored, is := b.ReadCloser.(wholeBody); is {
		return stored.Rest()
	}
	return nil, false
}

// unzipped is a body without its gzip.
type unzipped struct {
	from io.ReadCloser
	zip  *gzip.Reader
	err  error
}

func (u *unzipped) Read(p []byte) (int, error) {
	if u.zip == nil && u.err == nil {
		u.zip, u.err = gzip.NewReader(u.from)
	}
	if u.err != nil {
		return 0, u.err
	}
	return u.zip.Read(p)
}

func (u *unzipped) Close() error { return u.from.Close() }

// guestBody makes a body for a guest of an answer's.
func (a *arrival) guestBody(method string) *body {
	r := a.response
	length := r.ContentLength
	if method == http.MethodHead || r.StatusCode == http.StatusNoContent || r.StatusCode == http.StatusNotModified {
		r.Body.Close()
		return &body{}
	}
	if stored, ok := r.Body.(wholeBody); ok {
		if parts, ok := stored.Rest(); ok {
			r.Body.Close()
			return bodyOfParts(parts)
		}
	}
	return bodyFrom(r.Body, length, func() http.Header { return r.Trailer })
}

// wholeBody is a body whose bytes may all be there, in a cache.
type wholeBody interface{ Rest() ([][]byte, bool) }

func (a *arrival) guestResponse() *response {
	r := a.response
	return &response{status: r.StatusCode, version: versionOf(r.ProtoMajor, r.ProtoMinor), header: headerOf(r.Header, nil), from: a.from}
}

// noDetail is the parameter of calls that tell nothing about errors.
const noDetail = -1

// deliver gives the guest what became of a request: handles at parameter i, details
// of an error at parameter detail.
func (c *call) deliver(p *pending, a *arrival, err error, detail, i int) status {
	if err != nil {
		return c.sendFailed(err, detail)
	}
	r := a.guestResponse()
	apply(p.onResponse, &r.header)
	return c.addResponse(i, r, a.guestBody(p.method))
}

// sendAndWait sends and waits for the response.
func (c *call) sendAndWait(cached bool, detail, i int) status {
	p, err, st := c.send(cached, false)
	switch {
	case st != statusOK:
		return st
	case err != nil:
		return c.sendFailed(err, detail)
	}
	a, err := p.wait(c.sandbox)
	return c.deliver(p, a, err, detail, i)
}

// sendAsync sends: what comes of it has a handle, at parameter i.
func (c *call) sendAsync(cached, streaming bool, i int) status {
	p, err, st := c.send(cached, streaming)
	switch {
	case st != statusOK:
		return st
	case err != nil:
		return c.sendFailed(err, noDetail)
	}
	h, st := c.items.add(p)
	if st != statusOK {
		p.drop(c.sandbox)
		return st
	}
	return c.put32(i, h)
}

func requestSendAsyncV2(c *call) status {
	if c.u32(4) > 1 {
		return statusInvalid
	}
	return c.sendAsync(false, c.u32(4) == 1, 5)
}

// pendingPoll looks whether the response is there, without waiting.
func (c *call) pendingPoll(detail, i int) status {
	p, st := itemOf[*pending](c.sandbox, c.u32(0))
	if st != statusOK {
		return st
	}
	if !p.ready(c.sandbox) {
		for j, v := range []uint32{0, noHandle, noHandle} {
			if st := c.put32(i+j, v); st != statusOK {
				return st
			}
		}
		return statusOK
	}
	c.items.remove(c.u32(0))
	if st := c.put32(i, 1); st != statusOK {
		p.drop(c.sandbox)
		return st
	}
	a, err := p.wait(c.sandbox)
	return c.deliver(p, a, err, detail, i+1)
}

// pendingWait waits for the response.
func (c *call) pendingWait(detail, i int) status {
	p, st := takeItem[*pending](c.sandbox, c.u32(0))
	if st != statusOK {
		return st
	}
	a, err := p.wait(c.sandbox)
	return c.deliver(p, a, err, detail, i)
}

// pendingSelect waits for the first of several. That it failed is told by handles
// of nothing: which one it was is a result too.
func (c *call) pendingSelect(detail, i int) status {
	list, n := c.u32(0), c.u32(1)
	if n == 0 {
		return statusInvalid
	}
	items, st := c.itemList(list, n)
	if st != statusOK {
		return st
	}
	for _, item := range items {
		if _, ok := item.(*pending); !ok {
			return statusBadHandle
		}
	}
	at, _ := c.first(items, 0)
	one, st := c.at(list+4*uint32(at), 4)
	if st != statusOK {
		return st
	}
	p, st := takeItem[*pending](c.sandbox, little32(one, 0))
	if st != statusOK {
		return st
	}
	if st := c.put32(i, uint32(at)); st != statusOK {
		p.drop(c.sandbox)
		return st
	}
	a, err := p.wait(c.sandbox)
	if err == nil {
		return c.deliver(p, a, nil, detail, i+1)
	}
	if detail != noDetail {
		if st := c.putDetail(detail, detailOf(err)); st != statusOK {
			return st
		}
	}
	if st := c.put32(i+1, noHandle); st != statusOK {
		return st
	}
	return c.put32(i+2, noHandle)
}

// change is one of a header.
type change struct {
	how   func(h *header, name, value string)
	name  string
	value string
}

func apply(changes []change, h *header) {
	for _, c := range changes {
		c.how(h, c.name, c.value)
	}
}

// changesMax bounds what is remembered for one response.
const changesMax = 1024

func pendingHeaderInsert(c *call) status {
	return c.changePending(5, true, func(h *header, name, value string) { h.set(name, value) })
}

func pendingHeaderAppend(c *call) status {
	return c.changePending(5, true, func(h *header, name, value string) { h.append(name, value) })
}

func pendingHeaderRemove(c *call) status {
	return c.changePending(3, false, func(h *header, name, _ string) { h.remove(name) })
}

// Responses that a change is for.
const (
	forAny      = 0
	forResponse = 1 // of the backend
	forError    = 2 // made up, as there was none
)

// changePending remembers a change; parameter i says which responses it is for.
func (c *call) changePending(i int, hasValue bool, how func(h *header, name, value string)) status {
	p, st := itemOf[*pending](c.sandbox, c.u32(0))
	if st != statusOK {
		return st
	}
	ch := change{how: how}
	if ch.name, st = c.fieldName(1); st != statusOK {
		return st
	}
	if hasValue {
		if ch.value, st = c.fieldValue(3); st != statusOK {
			return st
		}
	}
	target := c.u32(i)
	switch {
	case target > forError:
		return statusInvalid
	case len(p.onResponse)+len(p.onError) >= changesMax:
		return statusLimit
	}
	if target != forError {
		p.onResponse = append(p.onResponse, ch)
	}
	if target != forResponse {
		p.onError = append(p.onError, ch)
	}
	return statusOK
}

// forward answers a client with what a backend answers, whenever that is. The guest
// goes on; its sandbox ends only afterwards.
func (b *sandbox) forward(d *downstream, p *pending) {
	b.forwarded = append(b.forwarded, p)
	p.forwarded = make(chan struct{})
	go func() {
		defer close(p.forwarded)
		<-p.done
		var outcome guest.Outcome
		if p.err != nil {
			b.Log.Warn("the client gets no answer of a backend that its guest sent it to", "error", p.err)
			r := response{status: statusForClient(p.err), version: http11}
			apply(p.onError, &r.header)
			outcome.Response = d.outward(&r, wholeOf(&body{}))
		} else {
			r := p.value.guestResponse()
			apply(p.onResponse, &r.header)
			outcome.Response = d.outward(r, wholeOf(p.value.guestBody(p.method)))
		}
		if d.exchange.Decide(outcome) != nil {
			outcome.Response.Body.Close()
		}
	}()
}

// statusForClient is what a client gets in place of a backend's answer.
func statusForClient(err error) int {
	switch detailOf(err).tag {
	case detailResponseTimeout, detailConnectionTimeout, detailDNSTimeout:
		return http.StatusGatewayTimeout
	case detailUnavailable, detailConnectionRefused, detailUnroutable, detailDNSError:
		return http.StatusServiceUnavailable
	}
	return http.StatusBadGateway
}

// awaitForwarded waits for the answers that are still to come.
func (b *sandbox) awaitForwarded() {
	ctx := b.Context()
	for _, p := range b.forwarded {
		b.Wait(func() {
			select {
			case <-p.forwarded:
			case <-ctx.Done():
				p.cancel()
				<-p.forwarded
			}
		})
	}
	b.forwarded = nil
}
