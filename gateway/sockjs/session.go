package sockjs

import (
	"bufio"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/gripway/gripway/gateway/socket"
)

// Close codes of SockJS, and those of WebSockets that sessions end with.
const (
	codeNormal      = 1000
	codeInterrupted = 1002 // a poll was given up
	codeBinary      = 1003 // SockJS has no bytes
	codeSecond      = 2010 // another connection is still open
	codeGoAway      = 3000 // it is over already
)

// session is one SockJS connection: what waits for its client, and the far end
// of a WebSocket.
type session struct {
	server *Server
	id     key
	wake   chan struct{} // one place: there is something for who waits; never closed

	// Fixed once opened is closed.
	opened chan struct{}
	peer   *socket.Peer // nil if the origin refused
	header http.Header  // of the origin's answer

	// Guarded by mu.
	mu         sync.Mutex
	room       sync.Cond // there is room in queue, or it is over
	queue      [][]byte
	queueBytes int
	receiving  bool   // a request of the client waits for frames
	end        string // the last frame; "" until it is over
	expiry     *time.Timer
	gone       bool // nobody finds it any more
}

// newSession takes a client's request to the origin as a handshake for path, and
// returns the session that comes of it, or nil: then the client has been answered.
// Refused answers a client that has another poll open already.
func (c *client) newSession(path string, refused func()) *session {
	s := &session{server: c.server, id: c.id, wake: make(chan struct{}, 1), opened: make(chan struct{}), receiving: true}
	s.room.L = &s.mu
	switch c.server.add(s) {
	case errFull:
		c.server.refused[refusedFull].Inc()
		c.plain(http.StatusServiceUnavailable, "Too many sessions.\n")
		return nil
	case errTaken:
		refused()
		return nil
	}
	near, far := net.Pipe()
	w := &handshakeWriter{header: make(http.Header), conn: near}
	defer func() {
		close(s.opened)
		if s.peer == nil { // refused, or the client has gone: what asked the origin says so by a panic
			near.Close()
			far.Close()
			c.server.forget(s)
		}
	}()
	var peer *socket.Peer
	var header http.Header
	var err error
	joined := make(chan struct{}) // closed when these are set
	go func() {                   // ends with near, or the answer; the answer may be written before Open returns
		defer close(joined)
		peer, header, err = socket.JoinPeer(far)
	}()
	c.call.Open(w, c.handshake(path))
	if !w.hijacked {
		c.refuse(w)
		return nil
	}
	<-joined
	if err != nil {
		c.server.log.Warn("SockJS session", "path", c.call.Path, "error", err)
		c.plain(http.StatusBadGateway, "Error while proxying to origin.\n")
		return nil
	}
	s.peer, s.header = peer, header
	go s.read() // ends with the WebSocket, which the gateway, the client or time ends
	return s
}

// handshake is a request for a WebSocket made of the client's.
func (c *client) handshake(path string) *http.Request {
	if c.call.As != "" {
		path = c.call.As
	}
	r := c.r.Clone(c.r.Context())
	r.Method, r.Body, r.ContentLength, r.TransferEncoding, r.Trailer = http.MethodGet, http.NoBody, 0, nil, nil
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, 1
	target := path
	if query := c.query(); query != "" {
		target += "?" + query
	}
	r.RequestURI = target
	if u, err := url.ParseRequestURI(target); err == nil {
		r.URL = u
	}
	if c.upgrade() {
		return r
	}
	for _, name := range []string{"Content-Type", "Content-Length", "Content-Encoding", "Transfer-Encoding", "Te", "Trailer", "Expect", "Sec-Websocket-Protocol", "Sec-Websocket-Extensions"} {
		r.Header.Del(name)
	}
	r.Header["Connection"] = []string{"Upgrade"}
	r.Header["Upgrade"] = []string{"websocket"}
	r.Header["Sec-Websocket-Version"] = []string{"13"}
	r.Header["Sec-Websocket-Key"] = []string{"U29ja0pTIHNlc3Npb24hIQ=="} // 16 bytes; nobody looks at the answer to it
	return r
}

// query is the request's, without what names a function.
func (c *client) query() string {
	_, query, _ := strings.Cut(c.r.RequestURI, "?")
	var kept []string
	for part := range strings.SplitSeq(query, "&") {
		if name, _, _ := strings.Cut(part, "="); name != "c" && name != "callback" && part != "" {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, "&")
}

// refuse passes on what the origin, or the gateway, answered to the handshake.
func (c *client) refuse(w *handshakeWriter) {
	if w.over {
		c.server.log.Warn("SockJS session", "path", c.call.Path, "error", errRefusal)
		c.plain(http.StatusBadGateway, "Error while proxying to origin.\n")
		return
	}
	h := c.head()
	for name, values := range w.header {
		if _, ours := h[name]; !ours {
			h[name] = values
		}
	}
	if w.status == 0 {
		w.status = http.StatusBadGateway
	}
	c.w.WriteHeader(w.status)
	if c.r.Method != http.MethodHead {
		c.w.Write(w.body)
	}
}

// handshakeWriter is the client that a handshake comes from: it is answered, or
// taken over.
type handshakeWriter struct {
	conn     net.Conn
	hijacked bool
	header   http.Header
	status   int
	body     []byte
	over     bool // there was more than refusalBytesMax
}

// refusalBytesMax bounds the body of an answer that refuses a session: it is kept until
// it is whole. Those to WebSockets have the same.
const refusalBytesMax = 100_000

var errRefusal = errors.New("an answer to a SockJS handshake is longer than may be")

func (w *handshakeWriter) Header() http.Header { return w.header }

func (w *handshakeWriter) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
		w.header = maps.Clone(w.header)
	}
}

func (w *handshakeWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.over = w.over || len(w.body)+len(b) > refusalBytesMax; w.over {
		return 0, errRefusal
	}
	w.body = append(w.body, b...)
	return len(b), nil
}

func (w *handshakeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.hijacked = true
	return w.conn, bufio.NewReadWriter(bufio.NewReaderSize(w.conn, 16), bufio.NewWriterSize(w.conn, 16)), nil
}

// Why a session is not begun.
var (
	errFull  = errors.New("too many sessions")
	errTaken = errors.New("another request has begun it")
)

// add makes a session known.
func (s *Server) add(session *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.sessions[session.id] != nil:
		return errTaken
	case len(s.sessions) >= s.opts.Sessions:
		return errFull
	}
	s.sessions[session.id] = session
	s.open.Inc()
	return nil
}

// find returns a session, or nil.
func (s *Server) find(id key) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[id]
}

func (s *Server) forget(session *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[session.id] == session {
		delete(s.sessions, session.id)
		s.open.Dec()
	}
}

// read takes what comes from the origin and from publishers.
func (s *session) read() {
	for {
		content, text, err := s.peer.Read()
		if err != nil {
			code, reason := codeNormal, ""
			var closed *socket.PeerClosed
			switch {
			case !errors.As(err, &closed):
				code, reason = 1006, "Connection lost"
			case closed.Code != 0:
				code, reason = closed.Code, closed.Reason
			}
			s.finish(closeFrame(code, reason))
			s.peer.Drop()
			return
		}
		if !text && !utf8.Valid(content) {
			// A frame of SockJS is text, and to leave it out would be a hole.
			s.peer.Close(codeBinary, "binary message")
			s.finish(closeFrame(codeBinary, "binary message"))
			s.peer.Drop()
			return
		}
		s.mu.Lock()
		for s.queueBytes > 0 && s.queueBytes+len(content) > s.server.opts.QueueBytes && s.end == "" {
			s.room.Wait()
		}
		if s.end != "" {
			// The last frame has been decided, and nobody comes for another.
			s.mu.Unlock()
			s.peer.Drop()
			return
		}
		s.queue = append(s.queue, content)
		s.queueBytes += len(content)
		s.mu.Unlock()
		s.tell()
	}
}

// tell wakes who waits for frames.
func (s *session) tell() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// finish ends the session with a last frame, unless there is one already.
func (s *session) finish(frame string) {
	s.mu.Lock()
	if s.end == "" {
		s.end = frame
	}
	if !s.receiving {
		s.expireLocked()
	}
	s.room.Broadcast()
	s.mu.Unlock()
	s.tell()
}

// expireLocked gives the client reconnectMax to come again.
func (s *session) expireLocked() {
	if s.expiry != nil {
		s.expiry.Stop()
	}
	if s.gone {
		return
	}
	s.expiry = time.AfterFunc(reconnectMax, func() {
		s.mu.Lock()
		s.gone = !s.receiving
		gone := s.gone
		s.mu.Unlock()
		if !gone {
			return // the client came as the time was up
		}
		s.server.forget(s)
		s.finish(closeFrame(codeGoAway, "Go away!"))
		s.peer.Drop() // the origin sees a client that has gone
	})
}

// attach makes the caller the one who waits for frames; false means that somebody
// else does.
func (s *session) attach() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.receiving {
		return false
	}
	s.receiving = true
	if s.expiry != nil {
		s.expiry.Stop()
	}
	return true
}

// release follows attach, and the session's beginning: somebody else may wait for
// frames. left is to follow.
func (s *session) release() {
	s.mu.Lock()
	s.receiving = false
	s.mu.Unlock()
}

// left is called when the client has what it waited for, and may be waiting again. Cut
// says that it has not taken it.
func (s *session) left(cut bool) {
	s.mu.Lock()
	if !s.receiving {
		s.expireLocked()
	}
	over := s.end != ""
	s.mu.Unlock()
	if cut && !over {
		s.finish(closeFrame(codeInterrupted, "Connection interrupted"))
		s.peer.Drop()
	}
}

// next waits for the next frame. Last says that none follows. An error is the
// context's.
func (s *session) next(ctx context.Context) (frame []byte, last bool, err error) {
	timer := time.NewTimer(heartbeatEvery)
	defer timer.Stop()
	for {
		s.mu.Lock()
		if len(s.queue) > 0 {
			frame = appendMessages(make([]byte, 0, s.queueBytes+len(s.queue)*3+3), s.queue)
			s.queue, s.queueBytes = nil, 0
			s.room.Broadcast()
			s.mu.Unlock()
			return frame, false, nil
		}
		end := s.end
		s.mu.Unlock()
		if end != "" {
			return []byte(end), true, nil
		}
		select {
		case <-s.wake:
		case <-timer.C:
			return []byte(frameHeartbeat), false, nil
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// isOpen says whether the origin has agreed to the session.
func (s *session) isOpen() bool {
	select {
	case <-s.opened:
		return s.peer != nil
	default:
		return false
	}
}

// say passes on what the client says.
func (s *session) say(messages []string) error {
	for _, message := range messages {
		if err := s.peer.Write([]byte(message)); err != nil {
			return err
		}
	}
	return nil
}

// serveWebSocket talks to a client with a WebSocket in frames.
func (c *client) serveWebSocket() {
	c.id = key{c.call.Realm, c.call.Base, "websocket " + uuid.NewString()} // nobody else finds it: a blank is in no name
	s := c.newSession(c.call.Base+"/websocket", nil)
	if s == nil {
		return
	}
	defer c.server.forget(s)
	defer s.peer.Drop()
	c.w.Header().Del("Content-Type")
	outer, err := socket.AcceptPeer(c.w, c.r, s.header, c.server.opts.SendBytes)
	if err != nil {
		c.server.log.Debug("SockJS handshake", "error", err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	var reading sync.WaitGroup
	defer reading.Wait()
	defer outer.Drop()
	defer cancel()
	reading.Go(func() {
		defer cancel()
		c.readWebSocket(s, outer)
	})
	frame, last := []byte(frameOpen), false
	for {
		if err := outer.Write(frame); err != nil {
			return
		}
		if last {
			outer.Close(codeNormal, "")
			waitClosed(ctx)
			return
		}
		if frame, last, err = s.next(ctx); err != nil {
			return
		}
	}
}

// waitClosed gives a client a moment to answer our Close.
func waitClosed(ctx context.Context) {
	timer := time.NewTimer(reconnectMax)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// readWebSocket passes on what the client says until it ends.
func (c *client) readWebSocket(s *session, outer *socket.Peer) {
	for {
		payload, _, err := outer.Read()
		if err != nil {
			var closed *socket.PeerClosed
			if errors.As(err, &closed) {
				s.peer.Close(closed.Code, closed.Reason)
			}
			return
		}
		if len(payload) == 0 {
			continue
		}
		messages, err := readSocketMessages(payload)
		if err != nil {
			c.server.refused[refusedPayload].Inc()
			outer.Close(1007, "broken framing")
			return
		}
		if s.say(messages) != nil {
			return
		}
	}
}

// send takes what a client says in a request.
func (c *client) send(transport string) {
	s := c.server.find(c.id)
	if s == nil || !s.isOpen() {
		c.notFound()
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, int64(c.server.opts.SendBytes)))
	if err != nil {
		var tooLong *http.MaxBytesError
		if errors.As(err, &tooLong) {
			c.server.refused[refusedPayload].Inc()
			c.plain(http.StatusRequestEntityTooLarge, "Payload is too long.")
		}
		return
	}
	if transport == transportJSONPSend && strings.HasPrefix(c.r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		values, err := url.ParseQuery(string(body))
		if err != nil {
			values = nil
		}
		body = []byte(values.Get("d"))
	}
	if len(body) == 0 {
		c.server.refused[refusedPayload].Inc()
		c.plain(http.StatusInternalServerError, "Payload expected.")
		return
	}
	messages, err := readMessages(body)
	if err != nil {
		c.server.refused[refusedPayload].Inc()
		c.plain(http.StatusInternalServerError, "Broken JSON encoding.")
		return
	}
	if err := s.say(messages); err != nil {
		c.notFound() // it has ended, and its next poll tells why
		return
	}
	if transport == transportJSONPSend {
		c.plain(http.StatusOK, "ok")
		return
	}
	c.head().Set("Content-Type", "text/plain; charset=UTF-8") // some browsers want one
	c.w.WriteHeader(http.StatusNoContent)
}
