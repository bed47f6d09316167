package hold

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/gateway/wire"
	"github.com/gripway/gripway/grip"
)

// lastChunk ends a chunked body.
var lastChunk = []byte("0\r\n\r\n")

// stream is a response to which items are appended.
type stream struct {
	place

	// Fixed after serveStream.
	keeper   *Keeper
	conn     *wire.Conn
	sub      hub.Subscriber
	route    string
	listener *wire.Listener
	chunked  bool
	linked   *linked       // nil without next link and ids
	gone     func()        // tells the origin of the end; nil if it does not want to know
	ended    chan struct{} // closed by Closed; nil without linked

	alive   atomic.Pointer[keepAlive]   // nil without keep-alive
	filters atomic.Pointer[hub.Filters] // nil without filters

	reason atomic.Pointer[Reason] // why it ends; the first counts
}

// keepAlive is what a quiet stream is sent.
type keepAlive struct {
	content  []byte // encoded
	timeout  time.Duration
	interval bool         // regardless of items
	last     atomic.Int64 // when the client was last sent something, Unix nanoseconds
	timer    *wire.Timer
}

// serveStream begins a stream.
func (k *Keeper) serveStream(call Call) {
	c, err := take(call.W, call.R)
	if err != nil {
		k.log.Debug("stream hold", "route", call.Route, "error", err)
		return
	}
	s := &stream{place: place{id: call.id}, keeper: k, route: call.Route, listener: c.listener, chunked: c.chunked, gone: k.gone(&call)}
	opts := wire.Options{Handler: s, Unread: true, Buffered: c.buffered}

	if !hasBody(call.Status, c.head) {
		// Nothing can be appended: the answer is whole with its head.
		k.plain(&c, &call)
		return
	}
	var first []byte // what the client is sent when the channels are subscribed
	if c.hijacked != nil {
		head := appendHead(make([]byte, 0, 512), call.Status, call.Reason, call.Header)
		if c.chunked {
			head = append(head, "Transfer-Encoding: chunked\r\n"...)
		}
		if c.listener == nil {
			head = append(head, "Connection: close\r\n"...)
		}
		first = append(head, "\r\n"...)
		if call.Rest != nil {
			if err := copyRest(&c, first, call.Body, call.Rest); err != nil {
				k.log.Debug("stream hold: initial body", "route", call.Route, "error", err)
				c.hijacked.Close()
				return
			}
			first = nil
		} else if c.chunked {
			first = hub.AppendChunk(first, call.Body)
		} else {
			first = append(first, call.Body...)
		}
		if s.conn, err = k.opts.Group.Adopt(c.hijacked, opts); err != nil {
			k.log.Warn("stream hold", "route", call.Route, "error", err)
			return
		}
	} else {
		rest, err := writeFirst(&call)
		if err != nil {
			k.log.Debug("stream hold: initial body", "route", call.Route, "error", err)
			panic(http.ErrAbortHandler) // the client must see that it is not whole
		}
		first = rest
		s.conn = k.opts.Group.Respond(call.W, call.R, opts)
	}

	s.begin(&call, first)
	if c.hijacked == nil {
		s.conn.Wait()
	}
}

// begin subscribes the stream's channels and sends what the client is to have
// first.
func (s *stream) begin(call *Call, first []byte) {
	k, instruction := s.keeper, call.Instruction
	s.setKeepAlive(instruction.KeepAlive)
	if s.linked = newLinked(s, call, instruction); s.linked != nil {
		s.ended = make(chan struct{})
	}
	k.opts.Hub.Join(&s.sub, s, s.conn.Loop(), hub.Manner{Format: hub.FormatStream, Updates: s.linked != nil})
	filters := call.filters(&s.sub, instruction, call.URI)
	if s.linked != nil {
		filters = filters.WithIDs(s.linked.unprefixed)
	}
	s.filters.Store(filters)
	if !k.add(s, "stream", instruction.Meta[hub.UserMeta], call.About) {
		s.conn.Start(first)
		s.end(ReasonShutdown)
		return
	}
	err := k.follow(&s.sub, k.channels(call, instruction))
	s.conn.Start(first)
	if err != nil {
		k.log.Warn("stream hold: subscribe", "route", s.route, "error", err)
		s.fail(ReasonError)
		return
	}
	if s.linked != nil {
		s.linked.begin(instruction.Hold)
	}
}

// plain writes an answer that is whole with its head.
func (k *Keeper) plain(c *client, call *Call) {
	if call.Rest != nil {
		call.Rest.Close()
	}
	if c.hijacked == nil {
		copyHeader(call.W.Header(), call.Header)
		call.W.WriteHeader(call.Status)
		return
	}
	b := appendHead(nil, call.Status, call.Reason, call.Header)
	if c.listener == nil {
		b = append(b, "Connection: close\r\n"...)
	}
	conn, err := k.opts.Group.Adopt(c.hijacked, wire.Options{Handler: nobody{}, Unread: true, Buffered: c.buffered})
	if err != nil {
		return
	}
	conn.Start(append(b, "\r\n"...))
	conn.Release(nil, c.listener)
}

// nobody is told nothing.
type nobody struct{}

func (nobody) Data(*wire.Conn, []byte)  {}
func (nobody) Closed(*wire.Conn, error) {}

// writeFirst writes head and initial body of a response that stays with its
// server, except for a small body, which it returns. The client has copyTimeout for
// each piece.
func writeFirst(call *Call) ([]byte, error) {
	copyHeader(call.W.Header(), call.Header)
	call.W.WriteHeader(call.Status)
	rc := http.NewResponseController(call.W)
	if call.Rest == nil {
		if len(call.Body) > 0 {
			return call.Body, nil
		}
		return nil, rc.Flush()
	}
	defer call.Rest.Close()
	write := func(b []byte) error {
		rc.SetWriteDeadline(time.Now().Add(copyTimeout))
		if _, err := call.W.Write(b); err != nil {
			return err
		}
		return rc.Flush()
	}
	if err := write(call.Body); err != nil {
		return nil, err
	}
	buffer := make([]byte, 32<<10)
	for {
		n, err := call.Rest.Read(buffer)
		if n > 0 {
			if e := write(buffer[:n]); e != nil {
				return nil, e
			}
		}
		if err == io.EOF {
			return nil, rc.SetWriteDeadline(time.Time{})
		}
		if err != nil {
			return nil, err
		}
	}
}

func copyHeader(dst, src http.Header) {
	for name, values := range src {
		switch name {
		case "Content-Length", "Transfer-Encoding", "Connection", "Trailer":
			continue
		}
		dst[name] = values
	}
	if _, ok := src["Content-Type"]; !ok {
		dst["Content-Type"] = nil // net/http would guess one
	}
}

// setKeepAlive begins, changes or ends keep-alive messages.
func (s *stream) setKeepAlive(ka *grip.KeepAlive) {
	var a *keepAlive
	if ka != nil && len(ka.Content) > 0 {
		a = &keepAlive{content: s.encode(ka.Content), timeout: ka.Timeout, interval: ka.Mode == grip.KeepAliveInterval}
		a.last.Store(time.Now().UnixNano())
		a.timer = s.conn.Timers().New(func() { s.keepAlive(a) })
	}
	if old := s.alive.Swap(a); old != nil {
		old.timer.Stop()
	}
	if a != nil {
		a.timer.Set(jittered(a.timeout))
	}
}

// encode makes content what the client is sent.
func (s *stream) encode(content []byte) []byte {
	if s.chunked {
		return hub.AppendChunk(nil, content)
	}
	return content
}

// jittered takes up to a second off, so that clients that came together are not
// all sent to together forever.
func jittered(d time.Duration) time.Duration { return d - rand.N(min(time.Second, d/10)+1) }

// keepAlive is called when the client may be due.
func (s *stream) keepAlive(a *keepAlive) {
	if s.alive.Load() != a {
		return
	}
	if !a.interval {
		quiet := time.Since(time.Unix(0, a.last.Load()))
		if left := a.timeout - quiet; left > time.Second || left > a.timeout/10 {
			a.timer.Set(left)
			return
		}
	}
	switch s.conn.Send(a.content) {
	case wire.ErrSlow:
		s.fail(ReasonSlow)
		return
	case wire.ErrClosed:
		return
	}
	a.last.Store(time.Now().UnixNano())
	a.timer.Set(jittered(a.timeout))
}

// Deliver implements hub.Receiver.
func (s *stream) Deliver(run *hub.Run) int {
	if s.linked != nil && !run.One() { // one's own item is not part of what the channel's ids follow
		return s.linked.deliver(run)
	}
	if run.Len() == 1 {
		if st := run.Item(0).Stream; st != nil && (st.Action != grip.ActionSend || st.HasContentFilters) {
			return s.deliverEach(run)
		}
	}
	if s.filters.Load().Any(run.Channel) {
		return s.deliverEach(run)
	}
	var b []byte
	var n int
	if s.chunked {
		b, n = run.Chunks()
	} else {
		b, n = run.Stream()
	}
	if !s.send(b) {
		return 0
	}
	return n
}

// deliverEach sends what filters leave of each item.
func (s *stream) deliverEach(run *hub.Run) int {
	n := 0
	for i := range run.Len() {
		if item := run.Item(i); item.Stream != nil {
			n += s.deliverItem(run.Channel, item)
		}
	}
	return n
}

// deliverItem sends what filters leave of an item, and returns 1 if that is
// something.
func (s *stream) deliverItem(channel string, item *grip.Item) int {
	st, filters := item.Stream, s.filters.Load()
	if filters.Asks(channel) {
		s.deliverLater(filters, channel, item)
		return 0
	}
	switch st.Action {
	case grip.ActionSend:
		content, ok, err := filters.Pass(channel, item, st.Content, st.ContentFilters, st.HasContentFilters)
		return s.passed(channel, content, ok, err)
	case grip.ActionClose:
		s.end(ReasonPublished)
		return 1
	}
	return 0
}

// passed sends what filters left of an item, and returns 1 if that is something.
func (s *stream) passed(channel string, content []byte, ok bool, err error) int {
	if err != nil {
		s.keeper.filterErrors.Inc()
		s.keeper.log.Debug("item skipped", "route", s.route, "channel", channel, "error", err)
	}
	if !ok || !s.send(s.encode(content)) {
		return 0
	}
	return 1
}

// deliverLater delivers an item in its turn: a filter asks a URL about it, or
// about one before it.
func (s *stream) deliverLater(filters *hub.Filters, channel string, item *grip.Item) {
	st, room := item.Stream, true
	switch st.Action {
	case grip.ActionSend:
		room = filters.Later(channel, item, st.Content, st.ContentFilters, st.HasContentFilters, func(content []byte, ok bool, err error) {
			s.sub.Delivered(s.passed(channel, content, ok, err))
		})
	case grip.ActionClose:
		room = filters.Turn(func() {
			s.end(ReasonPublished)
			s.sub.Delivered(1)
		})
	}
	if !room {
		s.keeper.log.Info("too many items wait for a filter's URL, closing a stream client", "route", s.route, "channel", channel)
		s.fail(ReasonSlow)
	}
}

// send sends b; false means that the client does not get it.
func (s *stream) send(b []byte) bool {
	switch s.conn.Send(b) {
	case nil:
		if alive := s.alive.Load(); alive != nil {
			alive.last.Store(time.Now().UnixNano())
		}
		return true
	case wire.ErrSlow:
		s.keeper.log.Info("stream client is too slow, closing", "route", s.route)
		s.fail(ReasonSlow)
	}
	return false
}

// Notify implements hub.Receiver.
func (s *stream) Notify(notice hub.Notice, channel string) {
	if s.linked != nil {
		s.linked.update(rand.N(updateSpread))
		return
	}
	if notice == hub.NoticeLost {
		s.keeper.log.Info("items were lost, closing a stream client", "route", s.route, "channel", channel)
		s.fail(ReasonLost)
	}
}

// End implements hub.Client; a stream has no place for code and reason.
func (s *stream) End(int, string) bool {
	if s.reason.Load() != nil {
		return false
	}
	s.end(ReasonCommand)
	return *s.reason.Load() == ReasonCommand
}

// Refresh implements hub.Client.
func (s *stream) Refresh() bool { return false }

// Stand implements hub.Client.
func (s *stream) Stand(channel string) hub.Stand {
	if reason := s.reason.Load(); reason != nil && *reason == ReasonSlow {
		return hub.StandSlow
	} else if reason != nil || s.conn.Ended() {
		return hub.StandClosed
	}
	if s.linked != nil && s.linked.isFetching() || s.filters.Load().Asks(channel) {
		return hub.StandLater
	}
	if s.conn.Queued() > 0 {
		return hub.StandBehind
	}
	return hub.StandReady
}

// Format implements hub.Client.
func (s *stream) Format() hub.Format { return hub.FormatStream }

func (s *stream) setReason(reason Reason) { s.reason.CompareAndSwap(nil, &reason) }

// end ends the response properly.
func (s *stream) end(reason Reason) {
	s.setReason(reason)
	switch {
	case s.chunked && reason == ReasonShutdown:
		s.conn.Close(lastChunk)
	case s.chunked:
		s.conn.Release(lastChunk, s.listener)
	default:
		s.conn.Close(nil)
	}
}

// fail cuts the response, so that the client knows that it is not whole.
func (s *stream) fail(reason Reason) {
	s.setReason(reason)
	s.conn.Abort()
}

func (s *stream) drain() { s.end(ReasonShutdown) }
func (s *stream) abort() { s.fail(ReasonShutdown) }

// Data implements wire.Handler; nothing is read.
func (s *stream) Data(*wire.Conn, []byte) {}

// Closed implements wire.Handler.
func (s *stream) Closed(_ *wire.Conn, err error) {
	s.sub.Leave()
	if errors.Is(err, wire.ErrStalled) {
		s.setReason(ReasonSlow)
	}
	s.setReason(ReasonGone)
	s.setKeepAlive(nil)
	s.filters.Load().End()
	if s.linked != nil {
		s.linked.timer.Stop()
		close(s.ended)
	}
	if s.gone != nil {
		s.gone() // before the gateway may end
	}
	s.keeper.remove(s, "stream", *s.reason.Load())
}
