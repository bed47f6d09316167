// Package hold keeps HTTP responses open that an origin asked to hold (GRIP):
// streams, to which published items are appended, and long polls, which the first
// published item answers.
//
// A plain HTTP/1 connection is taken over from its server and belongs to package
// wire while it is held: no goroutine, no buffer. After a long poll it goes back
// to its server, for the client's next request. HTTP/2 and TLS responses stay
// with their server and its goroutine.
package hold

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/gateway/wire"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
)

const (
	// subscriptionsDefault bounds the channels of one client (Pushpin's number).
	subscriptionsDefault = 20

	// timeoutDefault is how long a response is held if its origin does not say
	// (GRIP's default).
	timeoutDefault = 55 * time.Second

	// subscribeTimeout bounds the wait for the bus.
	subscribeTimeout = 10 * time.Second

	// againTimeout bounds asking the origin again for a held response.
	againTimeout = 60 * time.Second
)

// copyTimeout bounds the wait for a client while an initial body is written. Tests
// cannot wait so long.
var copyTimeout = 30 * time.Second

// Reason says why a hold ended. The values are those of the metric
// gripway_holds_ended_total.
type Reason string

// The reasons.
const (
	ReasonTimeout   Reason = "timeout"   // a long poll's time was up
	ReasonPublished Reason = "published" // an item answered a long poll, or closed a stream
	ReasonOrigin    Reason = "origin"    // the origin, asked again, answered a long poll or ended a stream
	ReasonGone      Reason = "gone"      // the client left
	ReasonSlow      Reason = "slow"      // the client did not take what it was sent
	ReasonLost      Reason = "lost"      // the bus lost items, so the client must start anew
	ReasonLink      Reason = "link"      // a stream's next link could not be fetched
	ReasonError     Reason = "error"     // a channel could not be subscribed
	ReasonCommand   Reason = "command"   // an operator or backend ended it
	ReasonShutdown  Reason = "shutdown"  // the gateway drains
)

var reasons = []string{
	string(ReasonTimeout), string(ReasonPublished), string(ReasonOrigin), string(ReasonGone),
	string(ReasonSlow), string(ReasonLost), string(ReasonLink), string(ReasonError),
	string(ReasonCommand), string(ReasonShutdown),
}

// Options describe a Keeper. Hub and Group are needed.
type Options struct {
	Hub   *hub.Hub
	Group *wire.Group

	// Subscriptions bounds the channels of one client; more are ignored and
	// counted. Zero means 20.
	Subscriptions int

	// TimeoutMin is the shortest time a long poll is held, whatever the origin
	// says. Pushpin's is 5 s. Zero means none.
	TimeoutMin time.Duration

	Metrics *metrics.Registry
	Log     *slog.Logger
}

// Keeper keeps the held responses of a gateway. It may be used concurrently.
type Keeper struct {
	opts Options
	log  *slog.Logger

	ctx    context.Context // ends when the gateway gives up waiting
	cancel context.CancelFunc

	mu       sync.Mutex
	held     map[uint64]held // by id
	users    hub.Users[held]
	lastID   uint64
	draining bool
	empty    chan struct{} // closed when draining and nothing is held

	open        map[string]metrics.Gauge
	ended       map[string]metrics.Counter
	retries     metrics.Counter
	subsDropped metrics.Counter

	filterErrors metrics.Counter
	linkFetches  metrics.Counter
	gonePosts    map[string]metrics.Counter // by outcome

	fetches    fetches
	gonePlaces chan struct{} // has a token for each gone link that is being told
}

// held is a stream or a response.
type held interface {
	hub.Client
	drain()
	abort()
	at() *place
}

// place is a hold's in its Keeper.
type place struct {
	id    uint64 // stays while a long poll becomes a stream
	added bool   // guarded by Keeper.mu
}

func (p *place) at() *place { return p }

// ID implements hub.Client.
func (p *place) ID() string { return formatID(p.id) }

// NewKeeper returns a Keeper.
func NewKeeper(opts Options) *Keeper {
	if opts.Subscriptions == 0 {
		opts.Subscriptions = subscriptionsDefault
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	m := opts.Metrics
	k := &Keeper{
		opts: opts, log: opts.Log, held: make(map[uint64]held), lastID: rand.Uint64(), empty: make(chan struct{}),

		open:        m.Gauges("holds_open", "HTTP responses held, by mode.", "mode", "response", "stream"),
		ended:       m.Counters("holds_ended_total", "Holds that ended, by reason.", "reason", reasons...),
		retries:     m.Counter("hold_retries_total", "Requests to origins that were made again for a held response."),
		subsDropped: m.Counter("hold_subscriptions_refused_total", "Channels of held responses beyond the limit for one client."),

		linkFetches:  m.Counter("hold_link_fetches_total", "Next links of streams that were fetched."),
		gonePosts:    m.Counters("hold_gone_links_total", "Gone links that origins were told, by outcome.", "outcome", "ok", "failed"),
		gonePlaces:   make(chan struct{}, fetchesMax),
		fetches:      fetches{flying: make(map[fetchKey]*flight), places: make(map[string]*places)},
		filterErrors: m.Counter("hold_filter_errors_total", "Items that held responses did not get because a filter failed."),
	}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	return k
}

// Answer is what an origin answered, Grip-* headers removed.
type Answer struct {
	Status int
	Reason string // empty means the usual one
	Header http.Header
	Body   []byte

	// Rest follows Body if the origin has more; nil if not. The hold begins after
	// it, and closes it. Only streams may have it.
	Rest io.ReadCloser

	// Instruction says what the origin asks for; nil if it asks for nothing.
	Instruction *grip.Instruction
}

// Last names a channel's last id for an origin that is asked again (Grip-Last).
type Last struct{ Channel, ID string }

// Call is one response to be held.
type Call struct {
	W http.ResponseWriter
	R *http.Request
	Answer

	// Route is the route's name in logs, Prefix precedes its channels, Channels
	// are those it subscribes by itself (unprefixed).
	Route    string
	Prefix   string
	Channels []string

	// About is what a watcher is told of the client; the Keeper adds id and format. Nil
	// where there is no watcher.
	About *hub.About

	// Debug tells the client why a stream ends that its origin asked for wrongly.
	Debug bool

	// id is that of the hold before, which goes on; 0 without.
	id uint64

	// Again asks the origin again for the same request, with what is known of its
	// channels. Needed for response holds. An answer whose Rest is not nil is
	// read to its end and closed.
	Again func(ctx context.Context, last []Last) (*Answer, error)

	// Finish has the last word about an answer, before the client is sent its head.
	// It may change all of it, and read Rest; nil changes nothing. A stream it sees
	// before the hold begins; it has an Instruction then.
	Finish func(*Answer)

	// URI is where the request went, which links are relative to. Fetch gets a
	// next link for the same client; needed for streams that have one. Post tells
	// a gone link that the client is not held any more.
	URI   *url.URL
	Fetch func(ctx context.Context, uri *url.URL, last []Last) (*Answer, error)
	Post  func(ctx context.Context, uri *url.URL) error

	// Ask asks a URL about an item for the same client, relative to base; needed
	// for filters that do.
	Ask func(ctx context.Context, base *url.URL, q *hub.Question) (content []byte, deliver bool, err error)
}

// filters are those of the instruction, of an answer that came from base, for
// items of the channels that s follows.
func (call *Call) filters(s *hub.Subscriber, instruction *grip.Instruction, base *url.URL) *hub.Filters {
	filters := hub.NewFilters(s, call.Prefix, instruction.Channels, instruction.Meta)
	if filters == nil || call.Ask == nil {
		return filters
	}
	ask := call.Ask
	return filters.WithAsk(func(ctx context.Context, q *hub.Question) ([]byte, bool, error) { return ask(ctx, base, q) })
}

// finish lets Finish have its word. Others may be reading the header.
func (call *Call) finish(answer *Answer) {
	if call.Finish == nil {
		return
	}
	if answer.Header = answer.Header.Clone(); answer.Header == nil {
		answer.Header = make(http.Header)
	}
	call.Finish(answer)
}

// gone returns what tells the origin's gone link, or nil without one.
func (k *Keeper) gone(call *Call) func() {
	link := call.Instruction.Gone
	if link == nil || call.Post == nil {
		return nil
	}
	uri, err := call.URI.Parse(link.URI)
	if err != nil {
		k.log.Warn("gone link", "route", call.Route, "uri", link.URI, "error", err)
		return nil
	}
	post, route := call.Post, call.Route
	return func() {
		k.gonePlaces <- struct{}{}
		defer func() { <-k.gonePlaces }()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(k.ctx), againTimeout)
		defer cancel()
		if err := post(ctx, uri); err != nil {
			k.gonePosts["failed"].Inc()
			k.log.Warn("gone link", "route", route, "uri", uri, "error", err)
			return
		}
		k.gonePosts["ok"].Inc()
	}
}

// Filter runs the filters that an answer's instruction asks for over the answer
// itself (build-id). An error means that the origin asked for what cannot be.
func Filter(prefix string, answer *Answer) error {
	in := answer.Instruction
	if in == nil {
		return nil
	}
	if err := checkNames(prefix, in); err != nil {
		return err
	}
	return filter(hub.NewFilters(nil, prefix, in.Channels, in.Meta), answer, true)
}

// checkNames refuses channels whose names are too long, and patterns that are none.
func checkNames(prefix string, in *grip.Instruction) error {
	for _, ch := range in.Channels {
		if n := len(prefix) + len(ch.Name); n > pubsub.ChannelBytesMax {
			return &grip.InstructError{Text: fmt.Sprintf("channel '%.32s…' is too long: %d bytes, at most %d", ch.Name, n, pubsub.ChannelBytesMax)}
		}
		if ch.Pattern {
			if _, err := hub.Pattern(prefix, ch.Name); err != nil {
				return &grip.InstructError{Text: err.Error()}
			}
		}
	}
	return nil
}

// Serve holds the response as the answer's instruction says. It returns when the
// hold is over or belongs to the Keeper; W and R may not be used afterwards.
func (k *Keeper) Serve(call Call) {
	if call.Instruction.Hold != grip.HoldResponse {
		call.finish(&call.Answer)
		k.serveStream(call)
		return
	}
	k.serveResponse(call)
}

// Whole answers at once, with the answer's own words for its status, which
// net/http cannot send. It returns false, and has done nothing, where the client
// cannot be sent them either. Answer.Rest must be nil.
func (k *Keeper) Whole(w http.ResponseWriter, r *http.Request, answer *Answer) bool {
	c, err := take(w, r)
	if err != nil || c.hijacked == nil {
		return err != nil
	}
	b, listener := c.whole(answer, true)
	conn, err := k.opts.Group.Adopt(c.hijacked, wire.Options{Handler: nobody{}, Unread: true, Buffered: c.buffered})
	if err == nil {
		conn.Start(b)
		conn.Release(nil, listener)
	}
	return true
}

// knowsLength says whether the answer's length can be told: an origin's answer to
// HEAD has no body here, and a GET would get another length than 0 (RFC 9110,
// section 8.6).
func (c *client) knowsLength(answer *Answer) bool { return !c.head || len(answer.Body) > 0 }

// whole is an answer as bytes, and where its connection goes afterwards.
func (c *client) whole(answer *Answer, reuse bool) ([]byte, *wire.Listener) {
	b := appendHead(make([]byte, 0, 512+len(answer.Body)), answer.Status, answer.Reason, answer.Header)
	body := hasBody(answer.Status, false)
	if body && c.knowsLength(answer) {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(len(answer.Body)), 10)
		b = append(b, "\r\n"...)
	}
	listener := c.listener
	if !reuse {
		listener = nil
	}
	if listener == nil {
		b = append(b, "Connection: close\r\n"...)
	}
	b = append(b, "\r\n"...)
	if body && !c.head {
		b = append(b, answer.Body...)
	}
	return b, listener
}

// add takes a hold up, in place of the one with its id. It gives it one unless it
// has one, and tells a watcher, unless about is nil.
func (k *Keeper) add(h held, mode, user string, about *hub.About) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.draining {
		return false
	}
	p := h.at()
	if p.id == 0 {
		// They begin anywhere, so that no two nodes of a cluster give the same.
		k.lastID++
		p.id = k.lastID
	}
	p.added = true
	k.held[p.id] = h
	k.users.Set(h, user)
	k.open[mode].Inc()
	if about != nil {
		client := *about
		client.ID, client.Format = h.ID(), h.Format()
		k.opts.Hub.Watcher().Came(client)
	}
	return true
}

func (k *Keeper) remove(h held, mode string, reason Reason) {
	p := h.at()
	k.mu.Lock()
	added := p.added
	p.added = false
	k.users.Set(h, "")
	last := k.held[p.id] == h // and not a stream that a long poll has become
	if last {
		delete(k.held, p.id)
	}
	if watcher := k.opts.Hub.Watcher(); watcher != nil && added && last {
		watcher.Left(p.ID(), string(reason)) // before anybody thinks that all have gone
	}
	if added && k.draining && len(k.held) == 0 {
		close(k.empty)
	}
	k.mu.Unlock()
	if added {
		k.open[mode].Dec()
		k.ended[string(reason)].Inc()
	}
}

// setUser says whose a hold is.
func (k *Keeper) setUser(h held, user string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h.at().added {
		k.users.Set(h, user)
	}
}

// idPrefix and 16 hexadecimal digits are the id of a held response. A WebSocket's
// is its Connection-Id, a UUID.
const idPrefix = "http-"

// Client returns the held response with that id, or nil if there is none, or none
// any more.
func (k *Keeper) Client(id string) hub.Client {
	digits, ok := strings.CutPrefix(id, idPrefix)
	n, err := strconv.ParseUint(digits, 16, 64)
	if !ok || err != nil || formatID(n) != id {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if h := k.held[n]; h != nil {
		return h
	}
	return nil
}

func formatID(id uint64) string { return fmt.Sprintf("%s%016x", idPrefix, id) }

// ClientsOf returns the held responses that an origin said are the user's
// (Grip-Set-Meta).
func (k *Keeper) ClientsOf(user string) []hub.Client {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []hub.Client
	for _, h := range k.users.Of(user) {
		all = append(all, h)
	}
	return all
}

// Len returns how many responses are held.
func (k *Keeper) Len() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.held)
}

// Drain ends all holds as if their time were up, and waits for the clients to
// have taken that, or ctx to end: then it drops what is left and returns ctx's
// error.
func (k *Keeper) Drain(ctx context.Context) error {
	all := k.all(true)
	for _, h := range all {
		h.drain()
	}
	select {
	case <-k.empty:
	case <-ctx.Done():
	}
	k.cancel()
	for _, h := range k.all(false) {
		h.abort()
	}
	return ctx.Err()
}

func (k *Keeper) all(begin bool) []held {
	k.mu.Lock()
	defer k.mu.Unlock()
	if begin && !k.draining {
		k.draining = true
		if len(k.held) == 0 {
			close(k.empty)
		}
	}
	all := make([]held, 0, len(k.held))
	for _, h := range k.held {
		all = append(all, h)
	}
	return all
}

// names are the channels and patterns that a hold follows.
type names struct{ channels, patterns []string }

// channels returns the names a hold follows: the route's own, then the
// instruction's, prefixed, each once, within the limit.
func (k *Keeper) channels(call *Call, instruction *grip.Instruction) names {
	all := names{channels: append([]string(nil), call.Channels...)}
	added, over, first := 0, 0, ""
	for _, ch := range instruction.Channels {
		name := call.Prefix + ch.Name
		list := &all.channels
		if ch.Pattern {
			list = &all.patterns
		}
		if slices.Contains(*list, name) {
			continue
		}
		if added == k.opts.Subscriptions {
			if over++; over == 1 {
				first = name
			}
			continue
		}
		added++
		*list = append(*list, name)
	}
	if over > 0 {
		k.subsDropped.Add(float64(over))
		k.log.Warn("channels beyond the limit ignored", "route", call.Route, "channel", first, "ignored", over, "limit", k.opts.Subscriptions)
	}
	return all
}

// follow subscribes s to the channels and leaves those it should no longer follow.
func (k *Keeper) follow(s *hub.Subscriber, all names) error {
	ctx, cancel := context.WithTimeout(k.ctx, subscribeTimeout)
	defer cancel()
	for _, name := range s.Channels() {
		if !slices.Contains(all.channels, name) {
			s.Unsubscribe(name)
		}
	}
	for _, name := range s.Patterns() {
		if !slices.Contains(all.patterns, name) {
			s.UnsubscribePattern(name)
		}
	}
	for _, name := range all.channels {
		if err := s.Subscribe(ctx, name); err != nil {
			return err
		}
	}
	for _, name := range all.patterns {
		if err := s.SubscribePattern(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// client is how a held response reaches its client: a connection taken over, or
// a response that stays with its server.
type client struct {
	hijacked net.Conn // nil if the response stays with its server
	buffered []byte
	listener *wire.Listener // where the connection may go back to; nil if nowhere
	chunked  bool           // HTTP/1.1
	head     bool           // the request's method is HEAD
}

// take takes the client from its server if that pays: plain HTTP/1.
func take(w http.ResponseWriter, r *http.Request) (client, error) {
	c := client{head: r.Method == http.MethodHead}
	if r.ProtoMajor != 1 || r.TLS != nil {
		return c, nil
	}
	nc, rw, err := http.NewResponseController(w).Hijack()
	if errors.Is(err, http.ErrNotSupported) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	nc.SetDeadline(time.Time{})
	c.hijacked = nc
	c.chunked = r.ProtoAtLeast(1, 1)
	if n := rw.Reader.Buffered(); n > 0 {
		c.buffered, _ = rw.Reader.Peek(n)
	}
	if c.chunked && !r.Close {
		c.listener = wire.ListenerFrom(r.Context())
	}
	return c, nil
}

// appendHead appends an HTTP/1.1 head without its last line.
func appendHead(b []byte, status int, reason string, header http.Header) []byte {
	if reason == "" {
		reason = grip.Reason(status)
	}
	b = append(b, "HTTP/1.1 "...)
	b = append(b, statusText(status)...)
	b = append(b, ' ')
	b = appendLine(b, reason)
	date := false
	for name, values := range header {
		switch name {
		case "Content-Length", "Transfer-Encoding", "Connection", "Trailer":
			continue // of the connection, which is ours to say
		case "Date":
			date = true
		}
		for _, value := range values {
			b = append(b, name...)
			b = append(b, ": "...)
			b = appendLine(b, value)
		}
	}
	if !date {
		b = append(b, "Date: "...)
		b = time.Now().UTC().AppendFormat(b, http.TimeFormat)
		b = append(b, "\r\n"...)
	}
	return b
}

// statusText writes a status as three digits, as a status line needs it.
func statusText(status int) string {
	text := strconv.Itoa(status)
	return strings.Repeat("0", max(0, 3-len(text))) + text
}

// appendLine appends text and a line's end; what would begin a new line becomes a
// blank (RFC 9110, section 5.5).
func appendLine(b []byte, text string) []byte {
	for i := range len(text) {
		c := text[i]
		if c == '\r' || c == '\n' || c == 0 {
			c = ' '
		}
		b = append(b, c)
	}
	return append(b, "\r\n"...)
}

// hasBody says whether a response of this status and method may have a body.
func hasBody(status int, head bool) bool {
	return !head && status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// copyRest writes the rest of an initial body to a hijacked connection.
func copyRest(c *client, head, body []byte, rest io.ReadCloser) error {
	defer rest.Close()
	w := bufio.NewWriterSize(deadlineWriter{c.hijacked}, 32<<10)
	w.Write(head)
	w.Write(c.encode(body))
	buffer := make([]byte, 32<<10)
	for {
		n, err := rest.Read(buffer)
		w.Write(c.encode(buffer[:n]))
		if e := w.Flush(); e != nil { // it has the error of each write before
			return e
		}
		if err == io.EOF {
			c.hijacked.SetWriteDeadline(time.Time{})
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (c *client) encode(content []byte) []byte {
	if c.chunked {
		return hub.AppendChunk(nil, content)
	}
	return content
}

// deadlineWriter gives each write its time.
type deadlineWriter struct{ nc net.Conn }

func (w deadlineWriter) Write(p []byte) (int, error) {
	w.nc.SetWriteDeadline(time.Now().Add(copyTimeout))
	return w.nc.Write(p)
}
