package wsoverhttp

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// handlerBytesMax bounds a request's body at the origin: gateways put at most
// about 200 000 bytes of content in one, and the lines around it.
const handlerBytesMax = 1_000_000

// Handler is an http.Handler for origins: what to do when something happens on a
// WebSocket. It keeps nothing between requests, so any process of the origin may
// answer any of them; what belongs to a connection goes into its meta.
//
// A function is called for each event of a request, in order, and says what
// shall happen through the Conn. The zero Handler accepts every WebSocket, closes
// it at the first message with 1003, answers pings and ends politely.
//
// Whoever can reach the Handler can say to be anyone: check Grip-Sig before it.
//
// What an app does wrong (say, to send after Close) makes the answer a 500, with
// the reason in the log; so does Conn.Fail. A gateway then drops the client.
type Handler struct {
	// Open is called when a client wants a WebSocket. It gets one unless Open
	// calls Refuse or Postpone. Nil accepts.
	Open func(c *Conn)

	// Message is called with each message. Nil closes with 1003, unsupported
	// data.
	Message func(c *Conn, m Message)

	// Stream, if set, is called instead of Message, by origins to which messages
	// are pieces of one stream of bytes: once for a request, with all its messages
	// in one. It returns how many bytes it has taken; the others come again, with
	// what the client sends next. It must take something of 200 000 bytes, which
	// is all that gateways keep. If the client has closed or gone, nothing comes
	// again. Gateways that do not know this (Pushpin before 1.41) lose what is
	// not taken.
	Stream func(c *Conn, data []byte) (taken int)

	// Ping is called with each ping, if the gateway passes pings on, and may call
	// Pong. Nil answers with a pong of the same content.
	Ping func(c *Conn, content []byte)

	// Pong is called with each pong. Nil does nothing: a pong wants no answer.
	Pong func(c *Conn, content []byte)

	// Close is called when the client closes; code is zero if it gave none. What
	// Close does not do itself, follows: the closing is answered with the same
	// code. Nil only answers.
	Close func(c *Conn, code int, reason string)

	// Disconnect is called when the client is gone without having closed. Nothing
	// can be sent any more. Nil does nothing.
	Disconnect func(c *Conn)

	// Refresh is called by a request without events: a keep-alive (see
	// Conn.KeepAliveInterval), or somebody told the gateway to ask. Nil does
	// nothing.
	Refresh func(c *Conn)

	// Recover is called by a request without events in which the gateway says what
	// the client has of its reliable subscriptions (see Conn.SubscribeFrom): it may
	// have missed something. It sends what is missing and calls SubscribeFrom for each
	// of those channels, with the id of the last item that the client has then. Nil
	// calls Refresh, which may use Conn.Last.
	Recover func(c *Conn, last map[string]string)

	// MessagePrefix precedes messages on their way to the gateway, which takes it
	// off; what does not begin with it can only be an instruction, which begins
	// with "c:". Empty means "m:". A prefix that could make a message look like
	// an instruction ("c", "c:…") is the app's mistake.
	MessagePrefix string

	// RequestBytesMax is how long a request's body may be. Zero means 1 000 000.
	RequestBytesMax int

	// Log gets what the app did wrong. Nil means slog.Default().
	Log *slog.Logger
}

// Message is a text or binary message.
type Message struct {
	Binary  bool
	Content []byte
}

// String returns the content as a string.
func (m Message) String() string { return string(m.Content) }

// IsRequest tells whether r is a WebSocket-over-HTTP request, for origins that
// answer others at the same address, and for gateways that must not relay one.
func IsRequest(r *http.Request) bool {
	return r.Method == http.MethodPost && mediaType(r.Header.Get(headerContentType)) == ContentType
}

func mediaType(value string) string {
	kind, _, _ := strings.Cut(value, ";")
	return strings.ToLower(trim(kind))
}

// What an app can do wrong with a Conn; the log says which call it was.
var (
	// ErrNoGrip: an instruction to a gateway that did not offer the grip
	// extension, and would show it to the client.
	ErrNoGrip = errors.New("the gateway does not take instructions")

	// ErrEnded: something is to be sent after Close, Disconnect, Refuse or
	// Postpone, or to a client that is gone.
	ErrEnded = errors.New("nothing can be sent any more")

	// ErrMisuse: an argument or a moment that cannot be.
	ErrMisuse = errors.New("not possible")
)

// ServeHTTP answers one request of a gateway:
//
//	400  the body is malformed, or Connection-Id is missing
//	405  not a POST: a WebSocket client came here and not to the gateway
//	406  the Accept header excludes the answer
//	413  the body is longer than RequestBytesMax
//	415  the content type is another
//	500  the app did wrong
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "A gateway's POST with "+ContentType+" is expected. WebSocket clients connect to the gateway.", http.StatusMethodNotAllowed)
		return
	}
	if !IsRequest(r) {
		http.Error(w, "Content-Type must be "+ContentType+".", http.StatusUnsupportedMediaType)
		return
	}
	if !acceptable(r.Header.Values(headerAccept)) {
		http.Error(w, "Accept must include "+ContentType+".", http.StatusNotAcceptable)
		return
	}
	id := r.Header.Get(headerConnectionID)
	if id == "" {
		http.Error(w, "Connection-Id is missing.", http.StatusBadRequest)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(or(h.RequestBytesMax, handlerBytesMax))))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		http.Error(w, fmt.Sprintf("Body must not exceed %d bytes.", tooLarge.Limit), http.StatusRequestEntityTooLarge)
		return
	} else if err != nil {
		http.Error(w, "Body broke off.", http.StatusBadRequest)
		return
	}
	found, err := check(body, true)
	if err != nil {
		http.Error(w, "Body is malformed: "+err.Error()+".", http.StatusBadRequest)
		return
	}

	offered, _ := ParseGripExtension(r.Header[headerExtensions])
	c := &Conn{Request: r, ID: id, grip: offered.On, prefix: h.MessagePrefix}
	if c.prefix == "" {
		c.prefix = messagePrefixDefault
	}
	if strings.HasPrefix(c.prefix, controlPrefix) || strings.HasPrefix(controlPrefix, c.prefix) {
		c.wrong("MessagePrefix", fmt.Errorf("%w: %q makes messages instructions", ErrMisuse, c.prefix))
	}
	if found.unknown > 0 {
		h.log().Warn("wsoverhttp: events of unknown type skipped", "connection", id, "events", found.unknown)
	}
	if last := c.Last(); found.empty() && len(last) > 0 && h.Recover != nil {
		h.Recover(c, last)
	} else if found.empty() && h.Refresh != nil {
		h.Refresh(c)
	}
	events := found.events(body)
	if h.Stream != nil {
		c.collect(events)
	}
	for _, event := range events {
		h.dispatch(c, event)
		c.before += len(event.Content)
	}

	answer := c.answer()
	if c.err != nil {
		h.log().Error("wsoverhttp: the app went wrong", "connection", id, "err", c.err)
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	header := w.Header()
	for name, values := range c.header {
		header[name] = values
	}
	if c.refused != 0 {
		if header.Get(headerContentType) == "" {
			header.Set(headerContentType, "text/plain; charset=utf-8")
		}
		w.WriteHeader(c.refused)
		io.WriteString(w, c.refusal)
		return
	}
	for name, value := range c.set {
		header[name] = []string{value}
	}
	header.Set(headerContentType, ContentType)
	header.Set("Content-Length", strconv.Itoa(len(answer)))
	w.Write(answer)
}

// dispatch calls the function that is there for the event.
func (h *Handler) dispatch(c *Conn, event Event) {
	c.current = event
	switch {
	case event.Type == Disconnect:
		c.ended = "the client's disconnect"
		if h.Disconnect != nil {
			h.Disconnect(c)
		}
		return
	case c.held || c.refused != 0:
		return // the gateway sends it again, or there is no connection
	case event.Type == Close:
		code, reason, _ := ParseClose(event.Content)
		if h.Close != nil {
			h.Close(c, code, reason)
		}
		if c.ended == "" {
			if !ValidCloseCode(code) {
				code = 0
			}
			c.Close(code, "")
		}
		return
	case c.ended != "":
		return // the app has closed: it is past caring
	}
	switch event.Type {
	case Open:
		c.opening = true
		if h.Open != nil {
			h.Open(c)
		}
	case Text, Binary:
		if h.Stream != nil {
			h.stream(c)
			return
		}
		if h.Message == nil {
			c.Close(1003, "")
			return
		}
		h.Message(c, Message{Binary: event.Type == Binary, Content: event.Content})
	case Ping:
		if h.Ping == nil {
			c.Pong(event.Content)
			return
		}
		h.Ping(c, event.Content)
	case Pong:
		if h.Pong != nil {
			h.Pong(c, event.Content)
		}
	}
}

// stream accounts for one message; the app is given the whole stream at the
// first.
func (h *Handler) stream(c *Conn) {
	if len(c.data) > 0 {
		c.taken = h.Stream(c, c.data)
		if c.taken < 0 || c.taken > len(c.data) {
			c.wrong("Stream", fmt.Errorf("%w: %d bytes taken of %d", ErrMisuse, c.taken, len(c.data)))
		}
		if c.last {
			c.taken = len(c.data)
		}
		c.data = nil
	}
	size := len(c.current.Content)
	if c.taken < size {
		c.held = true
		c.setHeader(headerBytesAccepted, strconv.Itoa(c.before+c.taken))
	}
	c.taken -= size
}

func (h *Handler) log() *slog.Logger {
	if h.Log == nil {
		return slog.Default()
	}
	return h.Log
}

// acceptable tells whether one of the Accept header's ranges covers ContentType.
// No header covers everything.
func acceptable(values []string) bool {
	if len(values) == 0 {
		return true
	}
	for _, value := range values {
		for element := range strings.SplitSeq(value, ",") {
			kind, params, err := mime.ParseMediaType(element)
			if err != nil || params["q"] == "0" {
				continue
			}
			if kind == ContentType || kind == "*/*" || kind == "application/*" {
				return true
			}
		}
	}
	return false
}

// Conn is one WebSocket during one request. It must not be used after the
// Handler's function has returned, nor by two goroutines at once.
//
// Its methods return nothing: the first thing that goes wrong is kept, see Err,
// and becomes a 500 and a line in the log.
type Conn struct {
	// Request is the gateway's, with the headers of the client's handshake: its
	// cookies, its path. The body has been read.
	Request *http.Request

	// ID tells connections apart.
	ID string

	// Fixed during the request.
	grip   bool // the gateway takes instructions
	prefix string

	// Where the Handler is.
	current Event
	before  int    // bytes of content before current
	data    []byte // the stream's, until it is taken
	last    bool   // no more of the stream will come
	taken   int    // bytes of the stream taken from current on
	held    bool   // from current on everything comes again

	// What the app said.
	opening bool
	out     []byte // events
	ended   string // what forbids to send, "" if nothing
	refused int    // status, 0 if not
	refusal string
	waiting bool              // the decision is postponed
	header  http.Header       // for the client
	set     map[string]string // for the gateway
	err     error
}

// Err is the first thing that went wrong.
func (c *Conn) Err() error { return c.err }

// Fail gives up: the answer is a 500, err is logged. A client that is being
// opened sees the 500, another is dropped.
func (c *Conn) Fail(err error) { c.wrong("Fail", err) }

// Meta returns what SetMeta has bound to the connection, in this request or in
// an earlier one; "" if nothing.
func (c *Conn) Meta(name string) string {
	if value, ok := c.set[http.CanonicalHeaderKey(prefixSetMeta+name)]; ok {
		return value
	}
	return c.Request.Header.Get(prefixMeta + name)
}

// SetMeta binds a value to the connection: it comes with every later request.
// Names are case-insensitive. An empty value removes it. Gateways keep a few kB.
func (c *Conn) SetMeta(name, value string) {
	if err := checkMeta(name, value); err != nil {
		c.wrong("SetMeta", err)
		return
	}
	c.setHeader(http.CanonicalHeaderKey(prefixSetMeta+name), value)
}

// Header is what the client shall see in the answer to its handshake, or in the
// refusal: Set-Cookie, Sec-WebSocket-Protocol. Only Open may use it.
func (c *Conn) Header() http.Header {
	if c.header == nil {
		c.header = http.Header{}
	}
	return c.header
}

// Refuse makes the answer to Open no WebSocket but a plain one, with a status
// from 300 to 599 and a text.
func (c *Conn) Refuse(status int, text string) {
	switch {
	case c.current.Type != Open:
		c.wrong("Refuse", fmt.Errorf("%w: only Open may refuse", ErrMisuse))
	case status < 300 || status > 599:
		c.wrong("Refuse", fmt.Errorf("%w: status %d", ErrMisuse, status))
	case len(c.out) > 0 || c.ended != "":
		c.wrong("Refuse", fmt.Errorf("%w: something was sent already", ErrMisuse))
	default:
		c.refused, c.refusal, c.ended = status, text, "Refuse"
	}
}

// Postpone leaves the client waiting for its WebSocket: Open is called again
// after a while. Gateways wait at least 20 seconds.
func (c *Conn) Postpone(while time.Duration) {
	switch {
	case c.current.Type != Open:
		c.wrong("Postpone", fmt.Errorf("%w: only Open may postpone", ErrMisuse))
	case while <= 0:
		c.wrong("Postpone", fmt.Errorf("%w: %v", ErrMisuse, while))
	case len(c.out) > 0 || c.ended != "":
		c.wrong("Postpone", fmt.Errorf("%w: something was sent already", ErrMisuse))
	default:
		c.KeepAliveInterval(while)
		c.waiting, c.ended = true, "Postpone"
	}
}

// SendText sends the client a text, which must be UTF-8.
func (c *Conn) SendText(text string) {
	if !utf8.ValidString(text) {
		c.wrong("SendText", fmt.Errorf("%w: %s is not UTF-8", ErrMisuse, excerpt(text)))
		return
	}
	c.send("SendText", Text, c.prefixed(text))
}

// SendBinary sends the client binary data.
func (c *Conn) SendBinary(data []byte) {
	c.send("SendBinary", Binary, c.prefixed(string(data)))
}

// Send sends a message of either kind.
func (c *Conn) Send(m Message) {
	if m.Binary {
		c.SendBinary(m.Content)
	} else {
		c.SendText(string(m.Content))
	}
}

// Ping sends the client a ping with at most 125 bytes.
func (c *Conn) Ping(content []byte) { c.sendControl("Ping", Ping, content) }

// Pong sends the client a pong with at most 125 bytes.
func (c *Conn) Pong(content []byte) { c.sendControl("Pong", Pong, content) }

// Close closes the WebSocket politely, with a code or 0 for none. It is the last
// thing to be sent. A reason of more than 123 bytes is cut.
func (c *Conn) Close(code int, reason string) {
	if code != 0 && !ValidCloseCode(code) {
		c.wrong("Close", fmt.Errorf("%w: no frame may carry code %d", ErrMisuse, code))
		return
	}
	c.send("Close", Close, CloseContent(code, reason))
	c.end("Close")
}

// Disconnect drops the client without closing. It is the last thing to be sent.
func (c *Conn) Disconnect() {
	c.send("Disconnect", Disconnect, nil)
	c.end("Disconnect")
}

// KeepAliveInterval makes the gateway send a request without events (see
// Handler.Refresh) whenever so long there was none, until it is changed. Whole
// seconds, rounded up; gateways take at least 20. Zero or less turns it off.
func (c *Conn) KeepAliveInterval(interval time.Duration) {
	c.setHeader(headerKeepAlive, strconv.Itoa(max(0, seconds(interval))))
}

// Replayed is how many bytes of the request's content were offered before, and
// not taken; see Handler.Stream.
func (c *Conn) Replayed() int {
	n, err := strconv.Atoi(c.Request.Header.Get(headerBytesReplayed))
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// Subscribe makes the gateway send the client what is published to channel.
// What is published within the next moment may be missed.
func (c *Conn) Subscribe(channel string, filters ...string) {
	if channel == "" {
		c.wrong("Subscribe", fmt.Errorf("%w: the channel has no name", ErrMisuse))
		return
	}
	c.instruct("Subscribe", instruction{Type: "subscribe", Channel: channel, Filters: filters})
}

// SubscribePattern is Subscribe for all channels like pattern, such as "news.*" or
// "news.>": * is one part of a name, between dots, > all that follow. Only
// Gripway knows it; to Pushpin it is a channel of that name.
func (c *Conn) SubscribePattern(pattern string, filters ...string) {
	if pattern == "" {
		c.wrong("SubscribePattern", fmt.Errorf("%w: the pattern is empty", ErrMisuse))
		return
	}
	c.instruct("SubscribePattern", instruction{Type: "subscribe", Channel: pattern, Pattern: true, Filters: filters})
}

// UnsubscribePattern ends what SubscribePattern began.
func (c *Conn) UnsubscribePattern(pattern string) {
	if pattern == "" {
		c.wrong("UnsubscribePattern", fmt.Errorf("%w: the pattern is empty", ErrMisuse))
		return
	}
	c.instruct("UnsubscribePattern", instruction{Type: "unsubscribe", Channel: pattern, Pattern: true})
}

// SubscribeFrom is Subscribe for a client that is to miss nothing: prevID is the
// id of the channel's last item that it has, with all that is sent in this answer.
// The gateway sends items only if each names the one before it (prev-id), and asks
// Handler.Recover where one is missing. Gateways that do not know this (Pushpin)
// take it for Subscribe.
func (c *Conn) SubscribeFrom(channel, prevID string, filters ...string) {
	switch {
	case channel == "":
		c.wrong("SubscribeFrom", fmt.Errorf("%w: the channel has no name", ErrMisuse))
	case prevID == "":
		c.wrong("SubscribeFrom", fmt.Errorf("%w: channel %s has no previous id", ErrMisuse, excerpt(channel)))
	default:
		c.instruct("SubscribeFrom", instruction{Type: "subscribe", Channel: channel, PrevID: prevID, Filters: filters})
	}
}

// Last is what the gateway says the client has, if it asks for what is missing:
// the id of the last item of each channel. Otherwise it is nil.
func (c *Conn) Last() map[string]string { return parseLast(c.Request.Header[headerLast]) }

// Unsubscribe ends what Subscribe began.
func (c *Conn) Unsubscribe(channel string) {
	if channel == "" {
		c.wrong("Unsubscribe", fmt.Errorf("%w: the channel has no name", ErrMisuse))
		return
	}
	c.instruct("Unsubscribe", instruction{Type: "unsubscribe", Channel: channel})
}

// Detach makes the gateway go on without the origin: messages from the client
// are dropped, published ones still reach it. The origin is sent one more Close.
func (c *Conn) Detach() { c.instruct("Detach", instruction{Type: "detach"}) }

// SetGripMeta tells the gateway's filters about the connection, such as the user
// whose own messages shall be skipped. Unlike SetMeta's it does not come back. An
// empty value removes it.
func (c *Conn) SetGripMeta(name, value string) {
	if name == "" {
		c.wrong("SetGripMeta", fmt.Errorf("%w: the meta has no name", ErrMisuse))
		return
	}
	set := instruction{Type: "set-meta", Name: name}
	if value != "" {
		set.Value = &value
	}
	c.instruct("SetGripMeta", set)
}

// KeepAlive is what a gateway sends a client by itself.
type KeepAlive struct {
	// Event is a Text, Binary, Ping or Pong. The zero Event means off.
	Event Event

	// Timeout is how long nothing was sent before, in whole seconds, rounded up.
	// Zero leaves it to the gateway (55 seconds).
	Timeout time.Duration

	// Interval sends every Timeout, no matter what was sent meanwhile.
	Interval bool
}

// KeepAlive makes the gateway keep the client's connection busy by itself, until
// it is changed. (KeepAliveInterval is about requests to the origin.)
func (c *Conn) KeepAlive(k KeepAlive) {
	keep := instruction{Type: "keep-alive"}
	if k.Event.Type != 0 {
		if !keep.carry(k.Event) {
			c.wrong("KeepAlive", fmt.Errorf("%w: %v is no message", ErrMisuse, k.Event.Type))
			return
		}
		keep.Timeout = seconds(k.Timeout)
		if k.Interval {
			keep.Mode = "interval"
		}
	}
	c.instruct("KeepAlive", keep)
}

// SendDelayed makes the gateway send a Text, Binary, Ping or Pong after a while,
// in whole seconds, rounded up; zero is one. Another one sends this at once.
func (c *Conn) SendDelayed(event Event, after time.Duration) {
	send := instruction{Type: "send-delayed", Timeout: seconds(after)}
	if !send.carry(event) {
		c.wrong("SendDelayed", fmt.Errorf("%w: %v is no message", ErrMisuse, event.Type))
		return
	}
	c.instruct("SendDelayed", send)
}

// AutoReply makes the gateway answer a text of the client by itself, without a
// request, as for pings in an app's own protocol; the zero Event ends that. At most
// 16 texts of 4 kB. Only Gripway knows it.
func (c *Conn) AutoReply(match string, answer Event) {
	reply := instruction{Type: "auto-reply", Match: match}
	switch {
	case match == "":
		c.wrong("AutoReply", fmt.Errorf("%w: there is nothing to match", ErrMisuse))
	case answer.Type != 0 && !reply.carry(answer):
		c.wrong("AutoReply", fmt.Errorf("%w: %v is no message", ErrMisuse, answer.Type))
	default:
		c.instruct("AutoReply", reply)
	}
}

// FlushDelayed makes the gateway send at once what SendDelayed delayed.
func (c *Conn) FlushDelayed() { c.instruct("FlushDelayed", instruction{Type: "flush-delayed"}) }

// Instruct sends the gateway an instruction that has no method here: any value
// that encoding/json writes as an object.
func (c *Conn) Instruct(instruction any) { c.instruct("Instruct", instruction) }

// instruction is what follows "c:".
type instruction struct {
	Type        string   `json:"type"`
	Channel     string   `json:"channel,omitempty"`
	Pattern     bool     `json:"pattern,omitempty"`
	PrevID      string   `json:"prev-id,omitempty"`
	Filters     []string `json:"filters,omitempty"`
	Match       string   `json:"match,omitempty"`
	Name        string   `json:"name,omitempty"`
	Value       *string  `json:"value,omitempty"`
	MessageType string   `json:"message-type,omitempty"`
	Content     *string  `json:"content,omitempty"`
	ContentBin  *string  `json:"content-bin,omitempty"`
	Timeout     int      `json:"timeout,omitempty"` // seconds
	Mode        string   `json:"mode,omitempty"`
}

// carry puts a message into the instruction.
func (i *instruction) carry(event Event) bool {
	switch event.Type {
	case Text:
	case Binary, Ping, Pong:
		i.MessageType = strings.ToLower(event.Type.String())
	default:
		return false
	}
	if event.Type != Binary && utf8.Valid(event.Content) {
		content := string(event.Content)
		i.Content = &content
	} else {
		content := base64.StdEncoding.EncodeToString(event.Content)
		i.ContentBin = &content
	}
	return true
}

// collect puts the pieces of the stream together.
func (c *Conn) collect(events []Event) {
	for _, event := range events {
		switch event.Type {
		case Text, Binary:
			c.data = append(c.data, event.Content...)
		case Close, Disconnect:
			c.last = true
		}
	}
}

func (c *Conn) instruct(call string, instruction any) {
	if !c.grip {
		c.wrong(call, ErrNoGrip)
		return
	}
	object, err := json.Marshal(instruction)
	if err != nil {
		c.wrong(call, err)
		return
	}
	if object[0] != '{' {
		c.wrong(call, fmt.Errorf("%w: %s is not an object", ErrMisuse, excerpt(object)))
		return
	}
	c.send(call, Text, append([]byte(controlPrefix), object...))
}

// prefixed marks a message as one, if the gateway makes a difference.
func (c *Conn) prefixed(message string) []byte {
	if c.grip {
		message = c.prefix + message
	}
	return []byte(message)
}

func (c *Conn) sendControl(call string, kind EventType, content []byte) {
	if len(content) > controlBytesMax {
		c.wrong(call, fmt.Errorf("%w: %d bytes, at most %d", ErrMisuse, len(content), controlBytesMax))
		return
	}
	if len(content) == 0 {
		content = nil
	}
	c.send(call, kind, content)
}

func (c *Conn) send(call string, kind EventType, content []byte) {
	if c.ended != "" {
		c.wrong(call, fmt.Errorf("%w after %s", ErrEnded, c.ended))
		return
	}
	c.out = appendEvent(c.out, Event{kind, content})
}

func (c *Conn) end(by string) {
	if c.ended == "" {
		c.ended = by
	}
}

func (c *Conn) setHeader(name, value string) {
	if c.set == nil {
		c.set = map[string]string{}
	}
	c.set[name] = value
}

func (c *Conn) wrong(call string, err error) {
	if c.err == nil {
		c.err = fmt.Errorf("%s: %w", call, err)
	}
}

// answer returns the body, and puts what goes with it into c.set.
func (c *Conn) answer() []byte {
	answer := c.out
	switch {
	case c.waiting || c.refused != 0:
	case c.opening:
		answer = slices.Concat([]byte("OPEN\r\n"), answer)
		if c.grip {
			c.setHeader(headerExtensions, GripExtension{On: true, MessagePrefix: c.prefix}.String())
		}
	case len(c.header) > 0:
		c.wrong("Header", fmt.Errorf("%w: only the answer to Open has a header", ErrMisuse))
	}
	if len(answer) > responseBytesMax {
		c.wrong("answer", fmt.Errorf("%w: %d bytes, gateways take at most %d", ErrTooLarge, len(answer), responseBytesMax))
	}
	return answer
}

// seconds rounds up.
func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }
