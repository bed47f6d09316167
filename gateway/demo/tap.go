package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/wsoverhttp"
)

// wireChannel carries the records to whoever watches. What is published on it is
// not recorded, or every record would be the reason for another.
const wireChannel = "demo-wire"

const (
	// pendingMax is how many records may wait to be published.
	pendingMax = 200

	// pastMax is how many records somebody who comes later is shown, as far as
	// firstBytesMax allows.
	pastMax = 60

	// firstBytesMax bounds those in bytes: what a gateway takes as the body of a
	// hold is 100 000, and the ticker's past wants some of it.
	firstBytesMax = 64 << 10

	// batchPause collects records for one item. It is shorter than one notices.
	batchPause = 40 * time.Millisecond

	// batchBytesMax bounds one item of records.
	batchBytesMax = 32 << 10

	// bodyShownMax is how much of a body a record has, in bytes.
	bodyShownMax = 1200

	// eventsShownMax and eventShownMax bound the events of a record and the bytes
	// of one's content.
	eventsShownMax = 12
	eventShownMax  = 400

	// bodyTappedMax is how much of a body is looked at for events, in bytes.
	bodyTappedMax = 32 << 10

	// fieldsShownMax and fieldShownMax bound the header fields of a record and the
	// bytes of one's value.
	fieldsShownMax = 24
	fieldShownMax  = 160
)

// panel is the part of the page that something belongs to.
type panel string

const (
	panelChat   panel = "chat"
	panelTicker panel = "ticker"
	panelPoll   panel = "poll"
	panelWire   panel = "wire"
)

type panelKey struct{}

func withPanel(ctx context.Context, p panel) context.Context {
	return context.WithValue(ctx, panelKey{}, p)
}

func panelOf(ctx context.Context) panel {
	p, _ := ctx.Value(panelKey{}).(panel)
	return p
}

// The kinds of a record.
const (
	kindExchange = "exchange" // the gateway asked, the origin answered
	kindPublish  = "publish"  // the origin published
)

// record is one request and its answer, made fit to be looked at: bounded, and
// without what is nobody else's business. It is JSON for the page.
type record struct {
	N        int64   `json:"n"` // counts from 1; a hole means that some were dropped
	Time     int64   `json:"t"` // Unix milliseconds at the end
	Panel    panel   `json:"panel"`
	Kind     string  `json:"kind"`
	Who      *person `json:"who,omitempty"`
	Took     int64   `json:"took"` // microseconds
	Request  half    `json:"request"`
	Response half    `json:"response"`
}

// half is a request or an answer.
type half struct {
	Line   string      `json:"line"` // "POST /chat", "200 OK"
	Header [][2]string `json:"header,omitempty"`
	Bytes  int         `json:"bytes"` // of the whole body
	Body   string      `json:"body,omitempty"`
	Events []event     `json:"events,omitempty"` // instead of Body
	More   int         `json:"more,omitempty"`   // events that are not shown
}

// event is a wsoverhttp.Event to look at.
type event struct {
	Type    string `json:"type"`
	Size    int    `json:"size"` // -1 without content
	Content string `json:"content,omitempty"`
}

// tap sees what passes and shows it to whoever watches.
type tap struct {
	wake chan struct{} // has room for one; never closed

	mu      sync.Mutex
	last    int64    // n of the newest record
	pending [][]byte // as JSON, to be published; at most pendingMax
	past    []kept   // the newest is last; at most pastMax
}

// kept is a record as JSON.
type kept struct {
	record []byte
	tick   bool // one of the ticker's, of which one in a row is enough
}

func newTap() *tap { return &tap{wake: make(chan struct{}, 1)} }

// add takes a record; it does not wait for anybody.
func (t *tap) add(r record) {
	r.Time = time.Now().UnixMilli()
	t.mu.Lock()
	t.last++
	r.N = t.last
	k := kept{compact(r), r.Panel == panelTicker && r.Kind == kindPublish}
	if len(t.pending) == pendingMax {
		t.pending = slices.Delete(t.pending, 0, 1)
	}
	t.pending = append(t.pending, k.record)
	if n := len(t.past); n > 0 && k.tick && t.past[n-1].tick {
		t.past[n-1] = k
	} else {
		if n == pastMax {
			t.past = slices.Delete(t.past, 0, 1)
		}
		t.past = append(t.past, k)
	}
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// run publishes records until ctx ends. Those that come faster than they can be
// published are dropped; their numbers are missing then.
func (t *tap) run(ctx context.Context, publish func(context.Context, *grip.Item) error) {
	pause := time.NewTimer(0)
	<-pause.C
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		}
		pause.Reset(batchPause)
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		for batch := t.take(); len(batch) > 0 && ctx.Err() == nil; batch = t.take() {
			// An error is not for here: what fails for records fails for items,
			// and the outlet says so.
			publish(ctx, &grip.Item{Channel: wireChannel, Stream: &grip.StreamItem{Content: batch}})
		}
	}
}

// take returns records that were not published, as events, at most batchBytesMax
// of them.
func (t *tap) take() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	var batch []byte
	taken := 0
	for _, r := range t.pending {
		if taken > 0 && len(batch)+len(r) > batchBytesMax {
			break
		}
		batch = appendEvent(batch, "wire", r)
		taken++
	}
	t.pending = slices.Delete(t.pending, 0, taken)
	return batch
}

// before returns the newest records that fit, as events with a name of their own:
// that numbers are missing among them means nothing.
func (t *tap) before() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	size, first := 0, len(t.past)
	for first > 0 && size+len(t.past[first-1].record) < firstBytesMax {
		first--
		size += len(t.past[first].record)
	}
	var events []byte
	for _, k := range t.past[first:] {
		events = appendEvent(events, "before", k.record)
	}
	return events
}

// serve is GET /wire.
func (t *tap) serve(w http.ResponseWriter, r *http.Request) {
	holdStream(w, t.before(), wireChannel)
}

// watch records the exchanges of a handler.
func (t *tap) watch(p panel, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := &sample{source: r.Body}
		r.Body = body
		answer := &watched{ResponseWriter: w, status: http.StatusOK}
		var who *person
		begun := time.Now()
		next.ServeHTTP(answer, r.WithContext(context.WithValue(r.Context(), whoKey{}, &who)))
		entry := record{Panel: p, Kind: kindExchange, Took: time.Since(begun).Microseconds(), Who: who}
		entry.Request = newHalf(requestLine(r), r.Header, &body.taken)
		entry.Response = newHalf(statusLine(answer.status), w.Header(), &answer.taken)
		t.add(entry)
	})
}

type whoKey struct{}

// noteWho tells the record of a request whose it is.
func noteWho(r *http.Request, who person) {
	if noted, ok := r.Context().Value(whoKey{}).(**person); ok {
		*noted = &who
	}
}

// taken is the beginning of a body.
type taken struct {
	bytes int
	begin []byte
}

func (t *taken) take(p []byte) {
	t.bytes += len(p)
	t.begin = append(t.begin, p[:min(len(p), bodyTappedMax-len(t.begin))]...)
}

// sample is a request's body of which the beginning is noted.
type sample struct {
	source io.ReadCloser
	taken
}

func (s *sample) Read(p []byte) (int, error) {
	n, err := s.source.Read(p)
	s.take(p[:n])
	return n, err
}

func (s *sample) Close() error { return s.source.Close() }

// watched is an answer of which status and beginning are noted. No handler here
// needs more than an http.ResponseWriter.
type watched struct {
	http.ResponseWriter
	taken
	status int
}

func (w *watched) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *watched) Write(p []byte) (int, error) {
	w.take(p)
	return w.ResponseWriter.Write(p)
}

func newHalf(line string, header http.Header, body *taken) half {
	h := half{Line: line, Header: shownHeader(header), Bytes: body.bytes}
	if header.Get("Content-Type") == wsoverhttp.ContentType && body.bytes == len(body.begin) {
		if events, err := wsoverhttp.Decode(body.begin); err == nil {
			h.Events, h.More = shownEvents(events)
			return h
		}
	}
	if strings.HasPrefix(header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		h.Body = cut(withoutSecret(string(body.begin)), bodyShownMax)
		return h
	}
	h.Body = shown(body.begin)
	return h
}

func shownEvents(events []wsoverhttp.Event) (list []event, more int) {
	for i, e := range events {
		if i == eventsShownMax {
			return list, len(events) - i
		}
		entry := event{Type: e.Type.String(), Size: -1}
		if e.Content != nil {
			entry.Size = len(e.Content)
			entry.Content = shownContent(e)
		}
		list = append(list, entry)
	}
	return list, 0
}

func shownContent(e wsoverhttp.Event) string {
	if code, reason, ok := wsoverhttp.ParseClose(e.Content); ok && e.Type == wsoverhttp.Close {
		return strings.TrimSpace(fmt.Sprintf("%d %s", code, cut(reason, eventShownMax)))
	}
	if !utf8.Valid(e.Content) {
		return fmt.Sprintf("% x", e.Content[:min(len(e.Content), eventShownMax/3)])
	}
	return cut(string(e.Content), eventShownMax)
}

// shown is a body as text, cut.
func shown(body []byte) string {
	return cut(string(body[:min(len(body), bodyShownMax+1)]), bodyShownMax)
}

// cut makes s UTF-8 of about max bytes.
func cut(s string, max int) string {
	if len(s) <= max {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	for back := 0; back < utf8.UTFMax && !utf8.RuneStart(s[max]); back++ {
		max--
	}
	return strings.ToValidUTF8(s[:max], "\uFFFD") + "…"
}

// fieldsShown are the header fields that tell something about the protocol. All
// others, cookies among them, are not for everybody.
var fieldsShown = []string{
	"Accept", "Content-Type", "Cache-Control", "Connection-Id", "Keep-Alive-Interval", "Last-Event-Id",
	"Content-Bytes-Accepted", "Content-Bytes-Replayed", "Sec-Websocket-Extensions", "Grip-", "Meta-", "Set-Meta-",
}

// shownHeader lists fields in the order of their names.
func shownHeader(header http.Header) [][2]string {
	var names []string
	for name := range header {
		if slices.ContainsFunc(fieldsShown, func(shown string) bool {
			return name == shown || strings.HasSuffix(shown, "-") && strings.HasPrefix(name, shown)
		}) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var fields [][2]string
	for _, name := range names {
		for _, value := range header[name] {
			if len(fields) == fieldsShownMax {
				return fields
			}
			if name == "Connection-Id" || name == "Grip-Sig" {
				value = cut(value, 8) // enough to recognise it, too little to use it
			}
			name = strings.Replace(name, "Websocket", "WebSocket", 1)
			fields = append(fields, [2]string{name, cut(value, fieldShownMax)})
		}
	}
	return fields
}

// requestLine is a request's method and path, without a window's secret.
func requestLine(r *http.Request) string {
	line := r.Method + " " + r.URL.EscapedPath()
	if r.URL.RawQuery != "" {
		line += "?" + withoutSecret(r.URL.RawQuery)
	}
	return cut(line, fieldShownMax)
}

// withoutSecret is a query or a form without what a window calls itself by.
func withoutSecret(query string) string {
	pairs := strings.Split(query, "&")
	for i, pair := range pairs {
		name, _, _ := strings.Cut(pair, "=")
		if name, err := url.QueryUnescape(name); err != nil || name == "who" {
			pairs[i] = "who=…"
		}
	}
	return strings.Join(pairs, "&")
}

func statusLine(status int) string {
	return strconv.Itoa(status) + " " + grip.Reason(status)
}

// streamKeepAlive is what a quiet stream is sent: a comment, so that a client that
// is gone is noticed.
var streamKeepAlive = grip.KeepAlive{Content: []byte(":\n\n"), Timeout: 20 * time.Second}

// holdStream answers with a stream of events that begins with first.
func holdStream(w http.ResponseWriter, first []byte, channels ...string) {
	in := &grip.Instruction{Hold: grip.HoldStream, KeepAlive: &streamKeepAlive}
	for _, name := range channels {
		in.Channels = append(in.Channels, grip.Channel{Name: name})
	}
	if err := grip.Hold(w, in); err != nil {
		panic(err) // the names are ours
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(append([]byte("retry: 1000\n\n"), first...))
}

// appendEvent appends one event of a stream. data is one line; name may be "".
//
//	event: wire\n
//	data: {…}\n
//	\n
func appendEvent(dst []byte, name string, data []byte) []byte {
	if name != "" {
		dst = append(append(append(dst, "event: "...), name...), '\n')
	}
	return append(append(append(dst, "data: "...), data...), "\n\n"...)
}

// compact writes JSON in one line, with < and > as they are: it goes into streams
// and messages, never into HTML.
func compact(v any) []byte {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(err) // our own types
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
