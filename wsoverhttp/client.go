package wsoverhttp

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// responseBytesMax bounds an answer's body, which is read as a whole before
	// the first of its events is delivered. Pushpin has the same limit.
	responseBytesMax = 1_000_000

	// rejectBytesMax bounds a refusal's body. Pushpin has the same limit, and
	// cuts what is longer; here it is an error, because half a page with a whole
	// page's headers helps nobody.
	rejectBytesMax = 100_000

	// requestBytesMax bounds the content of one request's events, unless a single
	// one is longer: origins read the body as a whole. Pushpin has the same limit.
	requestBytesMax = 200_000

	// pendingBytesMax bounds what is kept for an origin that holds back: two full
	// requests, one that is replayed and one that goes with it.
	pendingBytesMax = 2 * requestBytesMax

	// pendingEventBytes is what an event counts besides its content, so that
	// events without content do not pile up.
	pendingEventBytes = 64

	// metaBytesMax bounds the names and values of one connection's meta. They are
	// headers of every request, and servers take 8 to 64 kB of those in all.
	metaBytesMax = 16 << 10

	// keepAliveMin is the shortest keep-alive interval, whatever the origin says:
	// with 100 000 idle clients one second less is 5 000 requests a second more
	// for it. Pushpin has the same limit.
	keepAliveMin = 20 * time.Second
)

// ClientOptions describe one WebSocket and its origin.
type ClientOptions struct {
	// Transport sends the requests. Each is made for one RoundTrip, which may
	// change and keep it; its body is of a type net/http knows to be in memory,
	// so that head and body leave in one write. Nil means http.DefaultTransport.
	Transport http.RoundTripper

	// URL is the client's, scheme ws, wss, http or https, and goes to the origin
	// as http or https.
	URL string

	// Host is the Host header. Empty means the URL's.
	Host string

	// Header is the handshake's, as the origin shall see it in every request.
	// Fields about the client's own connection, and those that gateway and origin
	// use between themselves, are left out: no client can send Connection-Id or
	// Meta-*. Grip-* are passed on, the caller knows whom it trusts. It is copied.
	Header http.Header

	// ConnectionID tells the origin which requests belong together. Empty means
	// a random UUID.
	ConnectionID string

	// NoGrip leaves out the offer of the grip extension.
	NoGrip bool

	// Decorate adds what differs from request to request, such as a signature.
	// Nil means nothing.
	Decorate func(*http.Request)

	// EventsMax is how many events one request may carry. Zero means any number.
	EventsMax int

	// RequestBytesMax is how much content the events of one request may have; a
	// single event may have more. Zero means 200 000.
	RequestBytesMax int

	// PendingBytesMax is how much may wait for an origin that accepts less than
	// it is offered, content plus 64 bytes for each event. Zero means 400 000.
	PendingBytesMax int

	// ResponseBytesMax is how long an answer may be. Zero means 1 000 000.
	ResponseBytesMax int

	// RejectBytesMax is how long a refusal may be. Zero means 100 000.
	RejectBytesMax int

	// KeepAliveMin is the shortest keep-alive interval; shorter ones become it.
	// Zero means 20 seconds.
	KeepAliveMin time.Duration

	// Strict refuses answers whose content is not as long as it says, or not
	// followed by CRLF. Other gateways take such content as it is.
	Strict bool
}

// Client is one WebSocket as requests to its origin. Its methods must be called
// one at a time; that is also how the protocol keeps events in order.
//
// Between requests it holds a few hundred bytes: the handshake's headers in one
// string, the origin's meta in another, and nothing of earlier requests.
type Client struct {
	// Fixed after NewClient.
	transport http.RoundTripper
	decorate  func(*http.Request)
	handshake packed  // URL, Host, ConnectionID; then name and value of each header
	limits    *limits // which others have too

	// Owned by the one call.
	opened    bool
	keepAlive time.Duration // 0: off
	meta      packed        // header name and value of each
	pending   []Event       // not accepted or not yet offered; contents are ours
	replay    int           // how many bytes of pending's content were offered
}

type limits struct {
	events, request, pending, response, reject int
	keepAlive                                  time.Duration
	noGrip, strict                             bool
}

// lastLimits are those of the Client that was made last: many have the same.
var lastLimits atomic.Pointer[limits]

// shared returns limits like these, which are not to be changed.
func (l limits) shared() *limits {
	if last := lastLimits.Load(); last != nil && *last == l {
		return last
	}
	own := l
	lastLimits.Store(&own)
	return &own
}

// NewClient returns a Client that has not asked its origin anything.
func NewClient(options ClientOptions) *Client {
	c := &Client{
		transport: options.Transport,
		decorate:  options.Decorate,
		limits: limits{
			events:    options.EventsMax,
			request:   or(options.RequestBytesMax, requestBytesMax),
			pending:   or(options.PendingBytesMax, pendingBytesMax),
			response:  or(options.ResponseBytesMax, responseBytesMax),
			reject:    or(options.RejectBytesMax, rejectBytesMax),
			keepAlive: or(options.KeepAliveMin, keepAliveMin),
			noGrip:    options.NoGrip,
			strict:    options.Strict,
		}.shared(),
	}
	if c.transport == nil {
		c.transport = http.DefaultTransport
	}
	id := options.ConnectionID
	if id == "" {
		id = newID()
	}
	target := options.URL
	if scheme, rest, ok := strings.Cut(target, ":"); ok {
		switch strings.ToLower(scheme) {
		case "ws":
			target = "http:" + rest
		case "wss":
			target = "https:" + rest
		}
	}

	keep := appendPacked(make([]byte, 0, 512), target, options.Host, id)
	header := canonical(options.Header)
	private := slices.Collect(hop(header))
	for name, values := range header {
		if withheld(name) || slices.Contains(private, name) {
			continue
		}
		for _, value := range values {
			keep = appendPacked(keep, name, value)
		}
	}
	c.handshake = packed(keep)
	return c
}

// Answer is what an origin said to one request. All of it belongs to the caller.
type Answer struct {
	// Opened tells that this answer grants the WebSocket.
	Opened bool

	// Header is set if Opened: what the origin wants the client to see in the
	// 101, without the fields that are the gateway's own business.
	Header http.Header

	// Extension is set if Opened: how to read the messages from now on.
	Extension GripExtension

	// Events are what the client shall see, in order, without the OPEN that
	// grants. An Open among them is a second one, which ends the connection as
	// Disconnect does. What follows Open, Close or Disconnect is left out. Text
	// is not checked to be UTF-8; control events fit in a control frame.
	Events []Event

	// KeepAlive is the keep-alive interval in force now: after so long without a
	// request, Send without events is due. Zero means never.
	KeepAlive time.Duration

	// Accepted is how many bytes of content the origin took, if HasAccepted; else
	// it took all.
	Accepted    int
	HasAccepted bool

	// More tells that events did not fit in this request: Send, without or with
	// new ones, is due at once.
	More bool
}

// Open asks the origin for the WebSocket.
//
// If the answer is not Opened the origin has not decided yet; it is asked again
// by Open or by Send without events, when KeepAlive says so.
//
// The error is a *Rejection if the origin refuses, a *ResponseError if it
// answers neither so nor so, or wraps ErrNotSent. After an error the Client is
// as before.
func (c *Client) Open(ctx context.Context) (*Answer, error) {
	if c.opened {
		return nil, ErrOpened
	}
	return c.exchange(ctx, []Event{{Type: Open}}, nil)
}

// Send offers the origin what is pending, then events, in one request. Without
// any, the request is a keep-alive.
//
// Events that do not fit, and what the origin does not accept, stay pending and
// go first the next time: more was offered already (Content-Bytes-Replayed), or
// Answer.More is true. What the origin holds back waits for new events; do not
// call Send because of it alone, unless no more will come after a Close.
//
// Contents are not kept after Send has returned; what stays pending is copied.
//
// The error wraps ErrNotSent if nothing reached the origin and the same call may
// be made again; is ErrPendingFull; is a *ResponseError if the origin answered
// wrongly; or else it is not known whether the origin acted on the events. After
// an error the Client is as before: events are not taken over. ctx should have a
// deadline, an origin may answer without end.
func (c *Client) Send(ctx context.Context, events ...Event) (*Answer, error) {
	if len(events) == 0 && !c.opened {
		return c.Open(ctx)
	}
	return c.exchange(ctx, events, nil)
}

// Recover is Send without events in a request that has the fields of header
// besides: by them a gateway says what its client has (Grip-Last), and the origin
// answers with what it lacks.
func (c *Client) Recover(ctx context.Context, header http.Header) (*Answer, error) {
	if !c.opened {
		return c.Open(ctx)
	}
	return c.exchange(ctx, nil, header)
}

// ID is the connection's id.
func (c *Client) ID() string {
	_, rest := c.handshake.next()
	_, rest = rest.next()
	id, _ := rest.next()
	return id
}

// Opened tells whether the origin has granted the WebSocket.
func (c *Client) Opened() bool { return c.opened }

// KeepAlive is the keep-alive interval in force; zero means none.
func (c *Client) KeepAlive() time.Duration { return c.keepAlive }

// Pending is what was offered and not accepted, then what was not yet offered.
// It must not be changed, and is valid until the next call.
func (c *Client) Pending() []Event { return c.pending }

// Meta returns what the origin bound to the connection, by name in the spelling
// of net/http.
func (c *Client) Meta() map[string]string {
	meta := map[string]string{}
	for rest := c.meta; rest != ""; {
		var header, value string
		header, rest = rest.next()
		value, rest = rest.next()
		meta[header[len(prefixMeta):]] = value
	}
	return meta
}

// SetMeta binds a value to the connection, as the origin's Set-Meta-<name> does;
// an empty one removes it. The error wraps ErrMeta.
func (c *Client) SetMeta(name, value string) error {
	meta, err := setMeta(c.meta, name, value)
	if err == nil {
		c.meta = meta
	}
	return err
}

// exchange is one request and its answer.
func (c *Client) exchange(ctx context.Context, events []Event, header http.Header) (*Answer, error) {
	if len(c.pending) > 0 && len(events) > 0 && cost(c.pending)+cost(events) > c.limits.pending {
		return nil, fmt.Errorf("%w: %d bytes wait, %d more come", ErrPendingFull, cost(c.pending), cost(events))
	}
	offer := c.offer(events)
	request, err := c.request(ctx, offer)
	if err != nil {
		return nil, err
	}
	maps.Copy(request.Header, header)
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return nil, tripError(err)
	}
	if response.Body == nil {
		response.Body = http.NoBody
	}
	defer response.Body.Close()
	return c.take(offer, response)
}

// offer is what one request carries.
type offer struct {
	all        []Event // pending ones, then new ones
	n          int     // so many of them fit
	content    int     // bytes of their content
	disconnect bool    // one of them is Disconnect: nothing will follow
}

func (c *Client) offer(events []Event) offer {
	o := offer{all: events}
	if len(c.pending) > 0 {
		o.all = slices.Concat(c.pending, events)
	}
	for _, event := range o.all {
		fits := o.n == 0 || o.content+len(event.Content) <= c.limits.request
		if !fits || c.limits.events > 0 && o.n == c.limits.events {
			break
		}
		o.n++
		o.content += len(event.Content)
		o.disconnect = o.disconnect || event.Type == Disconnect
	}
	return o
}

// body encodes the offer. Empty content travels as none: origins must accept
// both, and this is what Pushpin sends.
func (o offer) body() []byte {
	size := 0
	for _, event := range o.all[:o.n] {
		size += encodedLen(event)
	}
	body := make([]byte, 0, size)
	for _, event := range o.all[:o.n] {
		if len(event.Content) == 0 {
			event.Content = nil
		}
		body = appendEvent(body, event)
	}
	return body
}

// accept takes n bytes of content off the offer. What is left is a copy; replay
// is how much of its content was offered, as the next request declares it: that
// of CLOSE does not count.
func (o offer) accept(n int) (left []Event, replay int, err error) {
	taken := 0
	for ; taken < o.n && len(o.all[taken].Content) <= n; taken++ {
		n -= len(o.all[taken].Content)
	}
	if taken == len(o.all) {
		return nil, 0, nil
	}
	left = slices.Clone(o.all[taken:])
	if first := &left[0]; taken < o.n {
		if first.Type == Close {
			// To hold back is to wait for more, and after CLOSE there is no more.
			return nil, 0, fmt.Errorf("%w: all before CLOSE, but of it only %d bytes of %d", ErrAccepted, n, len(first.Content))
		}
		first.Content = first.Content[n:]
	}
	for i := range left {
		left[i].Content = bytes.Clone(left[i].Content)
		if taken+i < o.n && left[i].Type != Close {
			replay += len(left[i].Content)
		}
	}
	return left, replay, nil
}

// request builds the request that carries the offer.
func (c *Client) request(ctx context.Context, offer offer) (*http.Request, error) {
	target, rest := c.handshake.next()
	host, rest := rest.next()
	id, rest := rest.next()
	to, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	if host == "" {
		host = to.Host
	}

	fields := (rest.count()+c.meta.count())/2 + 5
	header := make(http.Header, fields+1)
	values := make([]string, 0, fields) // of all headers, so that they are one allocation
	set := func(name, value string) {
		values = append(values, value)
		header[name] = values[len(values)-1 : len(values) : len(values)]
	}
	header[headerUserAgent] = nil // the client's or none, not net/http's
	for last, first := "", 0; rest != ""; {
		var name, value string
		name, rest = rest.next()
		value, rest = rest.next()
		if name != last {
			last, first = name, len(values)
		}
		values = append(values, value)
		header[name] = values[first:len(values):len(values)]
	}
	for rest := c.meta; rest != ""; {
		var name, value string
		name, rest = rest.next()
		value, rest = rest.next()
		set(name, value)
	}
	set(headerAccept, ContentType)
	set(headerContentType, ContentType)
	set(headerConnectionID, id)
	if !c.limits.noGrip {
		set(headerExtensions, extensionGrip)
	}
	if c.replay > 0 {
		set(headerBytesReplayed, strconv.Itoa(c.replay))
	}

	template := http.Request{
		Method: http.MethodPost, URL: to, Host: host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if body := offer.body(); len(body) == 0 {
		template.Body = http.NoBody
	} else {
		template.ContentLength = int64(len(body))
		template.Body = io.NopCloser(bytes.NewReader(body))
		// A connection that the origin closed while idle is found out only now,
		// and net/http then needs the body once more.
		template.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	}
	request := template.WithContext(ctx)
	if c.decorate != nil {
		c.decorate(request)
	}
	return request, nil
}

// take reads the answer and, if nothing is wrong with it, moves the Client on.
func (c *Client) take(offer offer, response *http.Response) (*Answer, error) {
	wrong := func(err error) (*Answer, error) {
		return nil, &ResponseError{Status: response.StatusCode, Err: err}
	}
	opening := !c.opened && !offer.disconnect
	kind, coding := response.Header.Get(headerContentType), response.Header.Get("Content-Encoding")
	switch {
	case opening && response.StatusCode >= 200 && (response.StatusCode != http.StatusOK || kind != ContentType):
		body, err := readBody(response, c.limits.reject)
		if errors.Is(err, ErrTooLarge) {
			return wrong(fmt.Errorf("refusal: %w", err))
		} else if err != nil {
			return nil, fmt.Errorf("origin's refusal: %w", err)
		}
		return nil, &Rejection{Status: response.StatusCode, Header: response.Header, Body: body}
	case response.StatusCode != http.StatusOK:
		return wrong(fmt.Errorf("%w%s", ErrStatus, said(response)))
	case kind != ContentType:
		return wrong(fmt.Errorf("%w: %s", ErrContentType, excerpt(kind)))
	case coding != "" && coding != "identity":
		return wrong(fmt.Errorf("%w: %s", ErrEncoded, excerpt(coding)))
	}

	body, err := readBody(response, c.limits.response)
	if errors.Is(err, ErrTooLarge) {
		return wrong(err)
	} else if err != nil {
		return nil, fmt.Errorf("origin's answer: %w", err)
	}
	found, err := check(body, c.limits.strict)
	if err != nil {
		return wrong(err)
	}
	answer := &Answer{KeepAlive: keepAlive(response.Header, c.keepAlive, c.limits.keepAlive)}
	answer.Accepted, answer.HasAccepted, err = bytesAccepted(response.Header, offer.content)
	if err != nil {
		return wrong(err)
	}
	left, replay, err := offer.accept(answer.Accepted)
	if err != nil {
		return wrong(err)
	}
	answer.More = offer.n < len(offer.all)
	full := answer.More || offer.content >= c.limits.request
	if full && answer.Accepted == 0 && len(left) == len(offer.all) {
		return wrong(fmt.Errorf("%w: %d bytes", ErrStalled, offer.content))
	}
	if offer.disconnect {
		left, replay, answer.More = nil, 0, false
	}
	meta, err := metaAfter(c.meta, response.Header)
	if err != nil {
		return wrong(err)
	}

	events := found.events(body)
	if opening {
		switch {
		case found.first == Open:
			answer.Opened = true
			answer.Header = granted(response.Header)
			if !c.limits.noGrip {
				answer.Extension, err = ParseGripExtension(response.Header[headerExtensions])
			}
			if err != nil {
				return wrong(fmt.Errorf("%w: %w", ErrExtension, err))
			}
			events = events[1:]
		case !found.empty():
			return wrong(fmt.Errorf("%w but with %s", ErrNotOpened, excerpt(body)))
		case answer.KeepAlive == 0:
			return wrong(fmt.Errorf("%w and has no keep-alive interval", ErrNotOpened))
		}
	}
	for i, event := range events {
		if event.Type.isControl() && len(event.Content) > controlBytesMax {
			return wrong(fmt.Errorf("%w: %s of %d bytes, at most %d", ErrControl, event.Type, len(event.Content), controlBytesMax))
		}
		if event.Type == Open || event.Type == Close || event.Type == Disconnect {
			events = events[:i+1]
			break
		}
	}
	answer.Events = events

	c.opened = c.opened || answer.Opened
	c.keepAlive, c.meta, c.pending, c.replay = answer.KeepAlive, meta, left, replay
	return answer, nil
}

// granted copies those of an answer's headers that are for the client.
func granted(header http.Header) http.Header {
	kept := make(http.Header, len(header))
	hidden := slices.Collect(hop(header))
	for name, values := range header {
		if !private(name) && !slices.Contains(hidden, name) {
			kept[name] = slices.Clone(values)
		}
	}
	return kept
}

// metaAfter returns the meta that is in force after an answer.
func metaAfter(meta packed, answer http.Header) (packed, error) {
	for header, values := range answer {
		name, ok := setMetaName(header)
		if !ok || len(values) == 0 {
			continue
		}
		var err error
		if meta, err = setMeta(meta, name, values[len(values)-1]); err != nil {
			return "", err
		}
	}
	return meta, nil
}

func setMeta(meta packed, name, value string) (packed, error) {
	if err := checkMeta(name, value); err != nil {
		return "", err
	}
	header := http.CanonicalHeaderKey(prefixMeta + name)
	changed := make([]byte, 0, len(meta)+len(header)+len(value)+4)
	size := 0
	for rest := meta; rest != ""; {
		var other, kept string
		other, rest = rest.next()
		kept, rest = rest.next()
		if other != header {
			changed = appendPacked(changed, other, kept)
			size += len(other) + len(kept)
		}
	}
	if value != "" {
		changed = appendPacked(changed, header, value)
		if size += len(header) + len(value); size > metaBytesMax {
			return "", fmt.Errorf("%w: %s makes it %d bytes, at most %d", ErrMeta, header, size, metaBytesMax)
		}
	}
	return packed(changed), nil
}

// readBody reads an answer's body, of which at most max bytes are allowed.
func readBody(response *http.Response, max int) ([]byte, error) {
	length := response.ContentLength
	switch {
	case length > int64(max):
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, length, max)
	case length == 0:
		return nil, nil
	case length > 0:
		body := make([]byte, length)
		if n, err := io.ReadFull(response.Body, body); err != nil {
			return nil, fmt.Errorf("broken off after %d of %d bytes: %w", n, length, err)
		}
		return body, nil
	}

	// The length is not known: many origins answer in chunks.
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	read := (*buffer)[:0]
	for {
		read = slices.Grow(read, 1)
		n, err := response.Body.Read(read[len(read):min(cap(read), max+1)])
		read = read[:len(read)+n]
		if len(read) > max {
			return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, max)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("broken off after %d bytes: %w", len(read), err)
		}
	}
	if cap(read) <= bufferKeep {
		*buffer = read[:0]
	}
	if len(read) == 0 {
		return nil, nil
	}
	return bytes.Clone(read), nil
}

const (
	// bufferBytes is what the buffer for an answer in chunks begins with.
	bufferBytes = 4 << 10

	// bufferKeep is how large such a buffer may be to be kept for another answer.
	bufferKeep = 64 << 10
)

var buffers = sync.Pool{New: func() any { buffer := make([]byte, 0, bufferBytes); return &buffer }}

// said returns the beginning of what a wrong answer says, if that is at hand.
func said(response *http.Response) string {
	if response.ContentLength <= 0 {
		return ""
	}
	text := make([]byte, min(response.ContentLength, 2*excerptMax))
	n, _ := io.ReadFull(response.Body, text)
	if n == 0 {
		return ""
	}
	return ": " + strconv.Quote(string(text[:n]))
}

// cost is what events count towards PendingBytesMax.
func cost(events []Event) int {
	n := len(events) * pendingEventBytes
	for _, event := range events {
		n += len(event.Content)
	}
	return n
}

func or[T int | time.Duration](value, instead T) T {
	if value == 0 {
		return instead
	}
	return value
}

// newID returns a random UUID (RFC 9562, version 4).
func newID() string {
	var id [16]byte
	rand.Read(id[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
