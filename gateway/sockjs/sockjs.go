// Package sockjs speaks SockJS (protocol 0.3.3) to clients that cannot have a
// WebSocket, or whose library wants to begin so:
//
//	GET  /sj/info                    what there is
//	GET  /sj/iframe….html            a page for transports across sites
//	GET  /sj/websocket               a WebSocket as it is
//	GET  /sj/SERVER/SESSION/websocket    a WebSocket of SockJS frames
//	POST /sj/SERVER/SESSION/xhr      one frame, later: a long poll
//	POST /sj/SERVER/SESSION/xhr_streaming   frames, until enough bytes are sent
//	GET  /sj/SERVER/SESSION/eventsource | htmlfile | jsonp
//	POST /sj/SERVER/SESSION/xhr_send | jsonp_send    what the client says: ["…", …]
//
// A frame is o (open), h (heartbeat), a["…", …] (messages) or c[code, "reason"]
// (closed).
//
// A session is an ordinary WebSocket to all that lies behind: it is opened by a
// handshake, made of the client's first request, and the package sits at the far
// end of a connection within this process. So origins, channels, filters, limits
// and the closing handshake are those of package socket, and an origin cannot
// tell. The price is three goroutines for a session; clients that can have a
// WebSocket cost no more than that of one where it matters.
//
// # Looks wrong, is not
//
//   - github.com/igm/sockjs-go is not used. It tells the application of a session
//     after the client was told that it is open, so an origin could refuse nobody;
//     what waits for a client, and a request's body, have no limit in it.
//   - The session's part of the path decides alone which session a request is of;
//     SERVER is there for load balancers, as the protocol says. A session lives on
//     one node: send the requests of one path's beginning to one node.
//   - A poll that its client gives up ends the session (1002): what was on its way
//     may be lost, and the client could not know.
package sockjs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gripway/gripway/gateway/metrics"
)

const (
	// heartbeatEvery is after how much silence a client is sent h: proxies cut what
	// is silent for half a minute.
	heartbeatEvery = 25 * time.Second

	// reconnectMax is how long a session waits for its client's next poll, and how
	// long one that has ended is remembered to say so.
	reconnectMax = 5 * time.Second

	// streamBytesMax is after how many bytes a streaming response ends and the client
	// asks for another: browsers keep all of it in memory.
	streamBytesMax = 128 << 10

	// writeTimeout bounds each write to a client that does not read.
	writeTimeout = 30 * time.Second

	// sendBytesDefault bounds what a client says in one request.
	sendBytesDefault = 1 << 20

	// queueBytesDefault bounds what waits for a client between two polls. Behind it
	// the session's own queue fills, and a client that does not come is closed as slow.
	queueBytesDefault = 1 << 20

	// sessionBytesMax bounds a session's name.
	sessionBytesMax = 256

	// sessionsDefault bounds the sessions of this node.
	sessionsDefault = 50_000

	// yearSeconds is how long what never changes may be cached.
	yearSeconds = 31_536_000
)

// ClientURL is where the page for iframes has the client library from, unless
// Options say.
const ClientURL = "https://cdn.jsdelivr.net/npm/sockjs-client@1/dist/sockjs.min.js"

// Options describe a Server. The zero value is useful.
type Options struct {
	// ClientURL is the client library for the page for iframes. Empty means ClientURL.
	ClientURL string

	// SendBytes bounds a request's body, and a WebSocket message. Zero means 1 MiB.
	SendBytes int

	// QueueBytes bounds what waits for one client. Zero means 1 MiB.
	QueueBytes int

	// Sessions bounds the sessions at once; one more is answered with 503. Zero means
	// 50 000.
	Sessions int

	Metrics *metrics.Registry
	Log     *slog.Logger
}

// Server keeps the sessions of a gateway. It may be used concurrently.
type Server struct {
	opts Options
	log  *slog.Logger
	page string // for iframes
	etag string

	mu       sync.Mutex
	sessions map[key]*session

	open     metrics.Gauge
	requests map[string]metrics.Counter // by transport
	refused  map[string]metrics.Counter // by reason
}

// key is what a session is found by.
type key struct{ realm, base, id string }

// Transports, and what is not one.
const (
	transportInfo        = "info"
	transportIframe      = "iframe"
	transportWebSocket   = "websocket"
	transportXHR         = "xhr"
	transportStreaming   = "xhr_streaming"
	transportEventSource = "eventsource"
	transportHTMLFile    = "htmlfile"
	transportJSONP       = "jsonp"
	transportXHRSend     = "xhr_send"
	transportJSONPSend   = "jsonp_send"
	transportRaw         = "raw"
)

// Why a request is refused.
const (
	refusedNotFound = "notFound"   // no such thing, or no such session
	refusedPayload  = "payload"    // what the client says is not a list of texts, or too long
	refusedCallback = "callback"   // no function's name
	refusedMethod   = "method"     // another method than the transport's
	refusedOpen     = "secondPoll" // another connection is still open
	refusedFull     = "full"       // too many sessions
)

// New returns a Server without sessions.
func New(opts Options) *Server {
	if opts.ClientURL == "" {
		opts.ClientURL = ClientURL
	}
	if opts.SendBytes == 0 {
		opts.SendBytes = sendBytesDefault
	}
	if opts.QueueBytes == 0 {
		opts.QueueBytes = queueBytesDefault
	}
	if opts.Sessions == 0 {
		opts.Sessions = sessionsDefault
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	page := fmt.Sprintf(iframePage, template.HTMLEscapeString(opts.ClientURL))
	sum := sha256.Sum256([]byte(page))
	m := opts.Metrics
	return &Server{
		opts: opts, log: opts.Log, page: page, etag: `"` + hex.EncodeToString(sum[:16]) + `"`,
		sessions: make(map[key]*session),
		open:     m.Gauge("sockjs_sessions", "SockJS sessions, those that have just ended as well."),
		requests: m.Counters("sockjs_requests_total", "Requests of SockJS clients, by transport.", "transport",
			transportInfo, transportIframe, transportWebSocket, transportXHR, transportStreaming, transportEventSource,
			transportHTMLFile, transportJSONP, transportXHRSend, transportJSONPSend, transportRaw),
		refused: m.Counters("sockjs_refused_total", "Requests of SockJS clients that were refused, by reason.", "reason",
			refusedNotFound, refusedPayload, refusedCallback, refusedMethod, refusedOpen, refusedFull),
	}
}

// Call is one request to a path below Base.
type Call struct {
	W http.ResponseWriter
	R *http.Request

	// Path is the request's path as the client encoded it; it begins with Base.
	Path string

	// Base is where SockJS begins, without a slash at its end. As is the path that
	// the origin is asked for instead; empty means Base, or Base/websocket for a
	// client with a WebSocket, as Pushpin has it.
	Base, As string

	// Realm tells sessions of one name and Base apart that are not the same.
	Realm string

	// Open takes a handshake to the origin and keeps its client, or answers it.
	Open func(w http.ResponseWriter, r *http.Request)
}

// Takes says whether a path, as the client encoded it, lies below base.
func Takes(path, base string) bool {
	rest, ok := strings.CutPrefix(path, base)
	return ok && (rest == "" || rest[0] == '/')
}

// Serve answers the request.
func (s *Server) Serve(call Call) {
	c := &client{server: s, call: call, w: call.W, r: call.R}
	rest := strings.TrimPrefix(call.Path, call.Base)
	upgrade := c.upgrade()
	parts := strings.Split(strings.TrimPrefix(rest, "/"), "/")
	switch {
	case rest == "/websocket" && upgrade:
		s.requests[transportRaw].Inc()
		call.Open(c.w, c.handshake(call.Base+"/websocket"))
	case upgrade && len(parts) == 3 && parts[2] == transportWebSocket && validSession(parts):
		s.requests[transportWebSocket].Inc()
		c.serveWebSocket()
	case upgrade:
		c.notFound()
	case rest == "" || rest == "/":
		c.greet()
	case rest == "/info":
		s.requests[transportInfo].Inc()
		c.info()
	case isIframe.MatchString(rest):
		s.requests[transportIframe].Inc()
		c.iframe()
	case len(parts) == 3 && validSession(parts):
		c.id = key{call.Realm, call.Base, parts[1]}
		c.transport(parts[2])
	default:
		c.notFound()
	}
}

// isIframe is what the page for iframes may be called.
var isIframe = regexp.MustCompile(`^/iframe[0-9a-zA-Z._-]*\.html$`)

// validSession says whether server and session are names: not empty, without
// dots, so that nobody takes them for a file.
func validSession(parts []string) bool {
	for _, part := range parts[:2] {
		if part == "" || len(part) > sessionBytesMax || strings.Contains(part, ".") {
			return false
		}
	}
	return true
}

// client is one request.
type client struct {
	server *Server
	call   Call
	w      http.ResponseWriter
	r      *http.Request
	id     key
}

func (c *client) upgrade() bool {
	return c.r.ProtoMajor == 1 && strings.EqualFold(c.r.Header.Get("Upgrade"), "websocket")
}

// transport answers a request of a session.
func (c *client) transport(name string) {
	requests := c.server.requests[name]
	if requests == nil || name == transportInfo || name == transportIframe || name == transportRaw {
		c.notFound()
		return
	}
	requests.Inc()
	method := http.MethodGet
	switch name {
	case transportXHR, transportStreaming, transportXHRSend, transportJSONPSend:
		method = http.MethodPost
	case transportWebSocket:
		// It came here because it asks for no WebSocket.
		c.server.refused[refusedMethod].Inc()
		c.plain(http.StatusBadRequest, `Can "Upgrade" only to "WebSocket".`)
		return
	}
	switch c.r.Method {
	case http.MethodOptions:
		c.preflight(method)
		return
	case method:
	default:
		c.server.refused[refusedMethod].Inc()
		c.w.Header().Set("Allow", "OPTIONS, "+method)
		c.plain(http.StatusMethodNotAllowed, "Method not allowed.")
		return
	}
	switch name {
	case transportXHRSend, transportJSONPSend:
		c.send(name)
	default:
		c.receive(name)
	}
}

// head sets what all answers have: they are for other sites, too, and never kept.
func (c *client) head() http.Header {
	h := c.w.Header()
	h.Set("Cache-Control", "no-store, no-cache, no-transform, must-revalidate, max-age=0")
	origin := c.r.Header.Get("Origin")
	h.Add("Vary", "Origin")
	if origin == "" || origin == "null" {
		h.Set("Access-Control-Allow-Origin", "*")
		return h
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Credentials", "true")
	return h
}

// plain answers with a text.
func (c *client) plain(status int, text string) {
	h := c.head()
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	if status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodHead {
		io.WriteString(c.w, text)
	}
}

func (c *client) notFound() {
	c.server.refused[refusedNotFound].Inc()
	c.plain(http.StatusNotFound, "Not found.\n")
}

// get says whether the request is a GET, and answers it if it is not.
func (c *client) get() bool {
	switch c.r.Method {
	case http.MethodGet, http.MethodHead:
		return true
	case http.MethodOptions:
		c.preflight(http.MethodGet)
	default:
		c.server.refused[refusedMethod].Inc()
		c.w.Header().Set("Allow", "OPTIONS, GET")
		c.plain(http.StatusMethodNotAllowed, "Method not allowed.")
	}
	return false
}

// greet says what this is.
func (c *client) greet() {
	if c.get() {
		c.plain(http.StatusOK, "Welcome to SockJS!\n")
	}
}

// info tells a client what there is. A different number each time keeps browsers
// without randomness from naming sessions alike.
func (c *client) info() {
	if !c.get() {
		return
	}
	c.head().Set("Content-Type", "application/json; charset=UTF-8")
	fmt.Fprintf(c.w, `{"websocket":true,"origins":["*:*"],"cookie_needed":false,"entropy":%d}`, rand.Uint32())
}

// iframePage is the page that talks for a page of another site.
const iframePage = `<!DOCTYPE html>
<html>
<head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
  <script src="%s"></script>
  <script>
    document.domain = document.domain;
    SockJS.bootstrap_iframe();
  </script>
</head>
<body>
  <h2>Don't panic!</h2>
  <p>This is a SockJS hidden iframe. It's used for cross domain magic.</p>
</body>
</html>
`

func (c *client) iframe() {
	if !c.get() {
		return
	}
	h := c.w.Header()
	h.Set("ETag", c.server.etag)
	forAYear(h)
	if c.r.Header.Get("If-None-Match") == c.server.etag {
		c.w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", "text/html; charset=UTF-8")
	h.Set("Content-Length", strconv.Itoa(len(c.server.page)))
	if c.r.Method != http.MethodHead {
		io.WriteString(c.w, c.server.page)
	}
}

func forAYear(h http.Header) {
	h.Set("Cache-Control", fmt.Sprintf("public, max-age=%d", yearSeconds))
	h.Set("Expires", time.Now().Add(yearSeconds*time.Second).UTC().Format(http.TimeFormat))
}

// preflight answers OPTIONS.
func (c *client) preflight(method string) {
	h := c.head()
	h.Set("Access-Control-Allow-Methods", "OPTIONS, "+method)
	h.Set("Access-Control-Max-Age", strconv.Itoa(yearSeconds))
	if headers := c.r.Header.Get("Access-Control-Request-Headers"); headers != "" {
		h.Set("Access-Control-Allow-Headers", headers)
	}
	forAYear(h)
	c.w.WriteHeader(http.StatusNoContent)
}
