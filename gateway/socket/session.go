package socket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"

	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/gateway/wire"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/wsoverhttp"
)

// Close codes that the gateway sends (RFC 6455, section 7.4.1).
const (
	closeNormal       = websocket.CloseNormalClosure
	closeGoingAway    = websocket.CloseGoingAway
	closeProtocol     = websocket.CloseProtocolError
	closeInvalidUTF8  = websocket.CloseInvalidFramePayloadData
	closeTooBig       = websocket.CloseMessageTooBig
	closeOriginFailed = websocket.CloseInternalServerErr
	closeUnreachable  = websocket.CloseServiceRestart
	closeTryAgain     = websocket.CloseTryAgainLater
)

// upstream is the origin's side of a session. Calls come one at a time.
type upstream interface {
	// Send passes on what happened. The answer is nil if the origin answers in its
	// own time. An error that is wsoverhttp.ErrNotSent may be tried again.
	Send(ctx context.Context, events ...wsoverhttp.Event) (*wsoverhttp.Answer, error)

	// Recover asks the origin with header what the client lacks, if it is asked by
	// HTTP.
	Recover(ctx context.Context, header http.Header) (*wsoverhttp.Answer, error)

	// Close lets go of the origin without a word.
	Close()
}

// session is one WebSocket client. It is a wire.Handler and a hub.Receiver.
type session struct {
	// Fixed after Serve.
	keeper   *Keeper
	conn     *wire.Conn
	up       upstream
	terms    *Terms
	id       string
	client   string // for terms.Asker
	marker   string // what the origin's messages begin with
	grip     bool   // the origin speaks GRIP: marker and control messages count
	deflated bool
	native   bool

	// Guarded by its shard's lock, in the hub.
	sub hub.Subscriber

	// Guarded by the Keeper's lock.
	counted bool // as one that has left

	// alive is nil without keep-alive messages, filters without filters, reliable
	// if no channel is kept track of. Stored by whoever acts on the origin's
	// events: one at a time.
	alive    atomic.Pointer[keepAlive]
	filters  atomic.Pointer[hub.Filters]
	reliable atomic.Pointer[reliable]
	replies  atomic.Pointer[Replies] // nil without; the map does not change

	// Owned by whoever calls Data: one at a time.
	unread *unread // nil: all that came was whole

	// Guarded by mu.
	mu           sync.Mutex
	waiting      []wsoverhttp.Event // for the origin; at most waitingBytesMax, then the client is paused
	waitingBytes int
	exchanging   bool // a goroutine is asking the origin
	more         bool // part of the last request is still to be sent
	refresh      bool // the origin is to be asked although nothing happened
	missing      bool // and what the client lacks
	paused       bool // the client is not read until waiting is empty
	detached     bool
	clientClosed bool // the client's Close has come
	closeSent    bool // ours has gone
	sealing      bool // or is going this moment
	endSealed    bool // and the connection is to end after it
	closeTold    bool // the origin was or will be told that it is over
	originDone   bool // the origin is not asked any more
	gone         bool // the connection has ended
	pings        int  // the origin's that the client has not answered
	reason       Reason
	echo         int // the code of the client's Close; 0 without
	interval     time.Duration
	ask          *wire.Timer // for interval
	closing      *wire.Timer // for closeTimeout
	delayed      *delayed

	// Owned by whoever acts on the origin's events: one at a time.
	meta    map[string]string // for filters
	refused *refused          // of the answer that is being acted on; nil: nothing
}

// unread is what has come of a client's message that is not whole.
type unread struct {
	partial []byte // the beginning of a frame
	message []byte // the frames of an unfinished message
	payload int    // bytes of payload in message
}

// refused is what was refused of one answer: a line of the log, however much it is.
type refused struct {
	controls, subscriptions int
	err                     error  // the first of controls
	channel                 string // the first of subscriptions
}

// keepAlive is a message that is sent to a quiet client.
type keepAlive struct {
	frame    []byte
	timeout  time.Duration
	interval bool         // regardless of other messages
	last     atomic.Int64 // when the client was last sent something, Unix nanoseconds
	timer    *wire.Timer
}

// delayed is a message that is sent later unless it is replaced.
type delayed struct {
	frame []byte
	timer *wire.Timer
}

// Data implements wire.Handler: it finds messages in what the client sent.
func (s *session) Data(_ *wire.Conn, p []byte) {
	limit := s.keeper.opts.MessageBytes
	rest := p
	var whole unread // which has nothing that stays, nearly always
	u := s.unread
	if u == nil {
		u = &whole
	} else if len(u.partial) > 0 {
		u.partial = append(u.partial, p...)
		rest = u.partial
	}
	for len(rest) > 0 {
		h, ok := parseHeader(rest, limit)
		if !ok {
			break
		}
		if !h.control() && u.payload+h.payload > limit {
			s.close(ReasonTooBig, closeTooBig, "message too big")
			s.forget()
			return
		}
		if !h.refuse && len(rest) < h.size {
			break
		}
		raw := rest[:min(h.size, len(rest))]
		rest = rest[len(raw):]
		if s.deflated && raw[0]&rsv1 != 0 && !h.begins() {
			// gorilla takes it for compressed, whatever it is (RFC 7692, section 6).
			s.close(ReasonProtocol, closeProtocol, "RSV1 on a frame that begins no message")
			s.forget()
			return
		}
		switch {
		case h.refuse || h.control():
			if !s.readControl(raw) {
				s.forget()
				return
			}
		case h.fin && u.message == nil:
			if !s.readMessage(raw, h.payload) {
				s.forget()
				return
			}
		case h.payload == 0 && !h.fin && raw[0] == 0 && u.message != nil:
			// It says nothing, and without end it would be kept without end.
		default:
			u.message = append(u.message, raw...)
			u.payload += h.payload
			// A frame that has no business here is refused now, not after the last.
			if first := u.message[0] & 0x0f; first == 0 || h.opcode != 0 && len(u.message) > len(raw) || first > websocket.BinaryMessage {
				s.readMessage(u.message, u.payload)
				s.close(ReasonProtocol, closeProtocol, "fragment out of order")
				s.forget()
				return
			}
			if h.fin {
				message, payload := u.message, u.payload
				u.message, u.payload = nil, 0
				if !s.readMessage(message, payload) {
					s.forget()
					return
				}
			}
		}
	}
	if len(rest) == 0 {
		u.partial = nil
	} else if len(u.partial) == 0 {
		u.partial = append([]byte(nil), rest...)
	} else if len(rest) < len(u.partial) { // else it is there already
		u.partial = append(u.partial[:0], rest...)
	}
	switch {
	case u.partial == nil && u.message == nil:
		s.unread = nil
	case s.unread == nil:
		kept := whole
		s.unread = &kept
	}
}

// forget drops what was read of a message: nothing more is wanted.
func (s *session) forget() { s.unread = nil }

// readMessage passes a whole message on; false means that it is refused.
func (s *session) readMessage(raw []byte, payload int) bool {
	text, content, refusal, err := readMessage(raw, payload, s.keeper.opts.MessageBytes, s.deflated)
	switch {
	case err == errTooBig:
		s.close(ReasonTooBig, closeTooBig, "message too big")
	case err == errUTF8:
		s.close(ReasonProtocol, closeInvalidUTF8, "text is not UTF-8")
	case err != nil:
		s.keeper.log.Debug("frame refused", "conn", s.id, "error", err)
		s.closeWith(ReasonProtocol, refusal)
	default:
		s.keeper.received.Inc()
		if watcher := s.keeper.opts.Hub.Watcher(); watcher != nil {
			watcher.Spoke(s.id)
		}
		event := wsoverhttp.Event{Type: wsoverhttp.Binary, Content: content}
		if text {
			event.Type = wsoverhttp.Text
			if s.reply(content) {
				return true
			}
		}
		s.fromClient(event)
		return true
	}
	return false
}

// readControl acts on a control frame; false means that nothing more is read.
func (s *session) readControl(raw []byte) bool {
	event, refusal, err := readControl(raw)
	if err != nil {
		s.keeper.log.Debug("frame refused", "conn", s.id, "error", err)
		s.closeWith(ReasonProtocol, refusal)
		return false
	}
	switch event.Type {
	case wsoverhttp.Ping:
		s.send(frame(websocket.PongMessage, event.Content, false))
	case wsoverhttp.Pong:
		// Only an origin that asked wants to know.
		s.mu.Lock()
		asked := s.pings > 0
		if asked {
			s.pings--
		}
		s.mu.Unlock()
		if asked {
			s.fromClient(event)
		}
	case wsoverhttp.Close:
		s.clientClose(event.Content)
		return false
	}
	return true
}

// fromClient passes an event to the origin.
func (s *session) fromClient(event wsoverhttp.Event) {
	s.mu.Lock()
	if s.detached || s.clientClosed || s.closeSent {
		s.mu.Unlock()
		return
	}
	pause := s.offerLocked(event)
	s.mu.Unlock()
	if pause {
		s.conn.Pause()
		// The origin may have answered meanwhile.
		s.mu.Lock()
		late := !s.paused
		s.mu.Unlock()
		if late {
			s.conn.Resume()
		}
	}
}

// offerLocked queues an event for the origin, sees to it that it is asked, and
// returns whether the client has to be paused.
func (s *session) offerLocked(event wsoverhttp.Event) (pause bool) {
	if s.originDone {
		return false
	}
	if !s.exchanging {
		// It goes alone, as soon as can be; what comes meanwhile goes together.
		s.startLocked(event)
		return false
	}
	s.waiting = append(s.waiting, event)
	s.waitingBytes += len(event.Content)
	if !s.paused && (s.waitingBytes > waitingBytesMax || len(s.waiting) > waitingEventsMax) {
		s.paused = true
		return true
	}
	return false
}

// startLocked sees to it that somebody asks the origin, with first events first
// if nobody does already.
func (s *session) startLocked(first ...wsoverhttp.Event) {
	if !s.exchanging && !s.originDone {
		if s.ask != nil {
			s.ask.Stop() // until it is idle again
		}
		s.exchanging = true
		go s.exchange(first)
	}
}

// exchange asks the origin as long as there is something to ask.
func (s *session) exchange(first []wsoverhttp.Event) {
	if len(first) > 0 {
		s.sendToOrigin(first)
	}
	for {
		s.mu.Lock()
		if s.originDone || len(s.waiting) == 0 && !s.refresh && !s.more && !s.missing {
			s.exchanging = false
			s.waiting, s.waitingBytes = nil, 0
			gone := s.gone
			if s.interval > 0 && !gone && !s.originDone {
				if s.ask == nil {
					s.ask = s.conn.Timers().New(s.askAgain)
				}
				s.ask.Set(s.interval)
			}
			paused, reason := s.paused, s.reason
			s.paused = false
			s.mu.Unlock()
			if paused {
				s.conn.Resume()
			}
			if gone {
				s.up.Close()
				s.keeper.remove(s, reason)
			}
			return
		}
		if s.missing {
			s.missing = false
			gone := s.gone
			s.mu.Unlock()
			if !gone {
				s.askMissing()
			}
			continue
		}
		events := s.waiting
		s.refresh = false
		if s.more {
			// The origin gets what did not fit in the last request first.
			s.more = false
			s.mu.Unlock()
			s.sendToOrigin(nil)
			continue
		}
		s.waiting, s.waitingBytes = nil, 0
		paused := s.paused
		s.paused = false
		s.mu.Unlock()
		if paused {
			s.conn.Resume()
		}
		s.sendToOrigin(events)
	}
}

// sendToOrigin makes one request, again if it did not reach the origin, and acts
// on the answer.
func (s *session) sendToOrigin(events []wsoverhttp.Event) {
	delay := retryFirst
	for try := 0; ; try++ {
		ctx, cancel := context.WithTimeout(s.keeper.ctx, s.keeper.opts.ExchangeTimeout)
		start := time.Now()
		answer, err := s.up.Send(ctx, events...)
		cancel()
		if err == nil {
			s.keeper.exchangeTime.Observe(time.Since(start).Seconds())
			if closes(events) && s.letGo() {
				return
			}
			if answer != nil {
				s.answered(answer)
			}
			if !s.native && closes(events) {
				s.finishClose(nil) // the origin had its chance to answer with a code
			}
			s.waitForClient()
			return
		}
		if !errors.Is(err, wsoverhttp.ErrNotSent) {
			s.originFailed(ReasonOriginError, err)
			return
		}
		if try == retriesMax || s.keeper.ctx.Err() != nil || s.keeper.isDraining() && s.isGone() {
			s.originFailed(ReasonUnreachable, err)
			return
		}
		s.keeper.retried.Inc()
		s.keeper.log.Debug("origin unreachable, will try again", "conn", s.id, "route", s.terms.Route, "after", delay, "error", err)
		timer := time.NewTimer(delay + rand.N(retryJitter))
		select {
		case <-timer.C:
		case <-s.keeper.ctx.Done():
			timer.Stop()
		}
		delay *= 2
	}
}

// isGone says whether the client's connection has ended.
func (s *session) isGone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// letGo ends a detached client's origin, which has just been told so: what it
// says to that is nobody's business any more.
func (s *session) letGo() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.originDone = s.originDone || s.detached && !s.native
	return s.detached
}

// closes says whether the events tell the origin that it is over.
func closes(events []wsoverhttp.Event) bool {
	return len(events) > 0 && events[len(events)-1].Type == wsoverhttp.Close
}

// waitForClient waits while the client is behind with what the origin answered,
// so that an origin's answers do not pile up here. The wait is bounded: a client
// that takes nothing is closed by package wire.
func (s *session) waitForClient() {
	for s.conn.Queued() > behindBytesMax {
		time.Sleep(behindStep)
	}
}

// behindStep is how often a client that is behind is looked at.
const behindStep = 5 * time.Millisecond

// originFailed closes the client after the origin has failed.
func (s *session) originFailed(reason Reason, err error) {
	s.mu.Lock()
	s.originDone = true
	gone := s.gone
	s.mu.Unlock()
	level := s.keeper.log.Warn
	if gone {
		level = s.keeper.log.Debug
	}
	level("WebSocket origin failed", "conn", s.id, "route", s.terms.Route, "reason", string(reason), "error", err)
	if s.keeper.opts.Drop {
		s.mu.Lock()
		s.setReasonLocked(reason)
		s.mu.Unlock()
		s.conn.Close(nil)
		return
	}
	if reason == ReasonUnreachable {
		s.closeAndEnd(reason, closeUnreachable, "origin is unreachable")
	} else {
		s.closeAndEnd(reason, closeOriginFailed, "origin failed")
	}
}

// answered acts on an origin's answer.
func (s *session) answered(answer *wsoverhttp.Answer) {
	s.mu.Lock()
	s.interval = answer.KeepAlive
	if s.interval == 0 && s.ask != nil {
		s.ask.Stop()
	}
	s.more = answer.More
	s.mu.Unlock()
	for _, event := range answer.Events {
		if !s.fromOrigin(event) {
			s.tellRefused()
			return
		}
	}
	s.settle()
}

func (s *session) refusals() *refused {
	if s.refused == nil {
		s.refused = new(refused)
	}
	return s.refused
}

// tellRefused logs what was refused of an answer.
func (s *session) tellRefused() {
	r := s.refused
	if r == nil {
		return
	}
	s.refused = nil
	if r.controls > 0 {
		s.keeper.log.Warn("control messages refused", "conn", s.id, "route", s.terms.Route, "count", r.controls, "error", r.err)
	}
	if r.subscriptions > 0 {
		s.keeper.log.Warn("subscriptions beyond the limit ignored", "conn", s.id, "route", s.terms.Route, "count", r.subscriptions,
			"channel", r.channel, "limit", s.keeper.opts.Subscriptions)
	}
}

// fromOrigin acts on an event of the origin; false means that it is the last.
func (s *session) fromOrigin(event wsoverhttp.Event) bool {
	switch event.Type {
	case wsoverhttp.Text, wsoverhttp.Binary:
		content := event.Content
		if s.grip {
			if event.Type == wsoverhttp.Text && bytes.HasPrefix(content, []byte("c:")) {
				s.control(content[2:])
				return true
			}
			if !bytes.HasPrefix(content, []byte(s.marker)) {
				s.keeper.unprefixed.Inc()
				s.keeper.log.Debug("origin's message dropped: no message prefix", "conn", s.id, "prefix", s.marker)
				return true
			}
			content = content[len(s.marker):]
		}
		kind := websocket.TextMessage
		if event.Type == wsoverhttp.Binary {
			kind = websocket.BinaryMessage
		} else if !utf8.Valid(content) {
			// No client may be sent that (RFC 6455, section 5.6).
			s.originFailed(ReasonOriginError, errors.New("text message is not UTF-8"))
			return false
		}
		s.send(frame(kind, content, s.deflated))
	case wsoverhttp.Ping:
		s.mu.Lock()
		s.pings++
		s.mu.Unlock()
		s.send(frame(websocket.PingMessage, event.Content, false))
	case wsoverhttp.Pong:
		s.send(frame(websocket.PongMessage, event.Content, false))
	case wsoverhttp.Close:
		code, reason, ok := wsoverhttp.ParseClose(event.Content)
		if !ok {
			code = closeNormal
		}
		if !utf8.ValidString(reason) {
			// Nor that (section 5.5.1).
			s.originFailed(ReasonOriginError, errors.New("reason of CLOSE is not UTF-8"))
			return false
		}
		s.originClose(closeFrame(code, reason))
		return false
	case wsoverhttp.Disconnect, wsoverhttp.Open:
		s.mu.Lock()
		s.originDone = true
		s.setReasonLocked(ReasonOrigin)
		s.mu.Unlock()
		s.conn.Close(nil)
		return false
	}
	return true
}

// send sends a frame to the client.
func (s *session) send(b []byte) {
	if len(b) == 0 {
		s.keeper.log.Debug("control frame too long, dropped", "conn", s.id)
		return
	}
	s.sendFrames(b)
}

// touch notes that the client was sent something.
func (s *session) touch() {
	if alive := s.alive.Load(); alive != nil {
		alive.last.Store(time.Now().UnixNano())
	}
}

// slow closes a client that does not take what it is sent: it would miss
// something, and it could not know.
func (s *session) slow() {
	s.mu.Lock()
	s.setReasonLocked(ReasonSlow)
	s.closeSent = true
	s.mu.Unlock()
	s.keeper.log.Info("WebSocket client is too slow, closing", "conn", s.id, "route", s.terms.Route)
	s.conn.CloseNow(closeFrame(closeTryAgain, "too slow"))
}

func (s *session) setReasonLocked(reason Reason) {
	if s.reason == "" {
		s.reason = reason
	}
}

// originClose passes the origin's Close on.
func (s *session) originClose(b []byte) {
	s.mu.Lock()
	if s.clientClosed {
		s.mu.Unlock()
		s.finishClose(b)
		return
	}
	s.mu.Unlock()
	s.sealAndWait(ReasonOrigin, b)
}

// close begins the closing handshake from our side. The origin is told when the
// client has answered.
func (s *session) close(reason Reason, code int, text string) {
	s.sealAndWait(reason, closeFrame(code, text))
}

func (s *session) closeWith(reason Reason, b []byte) {
	if len(b) == 0 {
		b = closeFrame(closeProtocol, "")
	}
	s.sealAndWait(reason, b)
}

// sealAndWait sends a Close frame as the last one and gives the client
// closeTimeout to answer.
func (s *session) sealAndWait(reason Reason, b []byte) {
	s.mu.Lock()
	s.sealLocked(reason, b)
}

// sealLocked is sealAndWait for who holds the lock, which it releases.
func (s *session) sealLocked(reason Reason, b []byte) {
	if s.closeSent || s.gone {
		s.mu.Unlock()
		return
	}
	s.closeSent = true
	s.setReasonLocked(reason)
	s.closingLocked()
	if reason == ReasonProtocol || reason == ReasonTooBig {
		// What else such a client sends cannot be read.
		s.mu.Unlock()
		s.conn.Close(b)
		return
	}
	s.sealing = true
	s.mu.Unlock()
	s.conn.Seal(b)
	s.mu.Lock()
	s.sealing = false
	end := s.endSealed
	s.mu.Unlock()
	if end {
		s.conn.Close(nil)
	}
}

// endSealedLocked ends a connection that has been sent its Close frame, or is
// just being sent it. It unlocks.
func (s *session) endSealedLocked() {
	if s.sealing {
		s.endSealed = true
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.conn.Close(nil)
}

// closingLocked sets the limit for the closing handshake.
func (s *session) closingLocked() {
	if s.closing == nil {
		s.closing = s.conn.Timers().New(s.closeTimedOut)
		s.closing.Set(closeTimeout)
	}
}

// closeAndEnd sends a Close frame and ends the connection without waiting for
// the client's.
func (s *session) closeAndEnd(reason Reason, code int, text string) {
	s.mu.Lock()
	s.setReasonLocked(reason)
	if s.closeSent {
		s.endSealedLocked()
		return
	}
	s.closeSent = true
	s.mu.Unlock()
	s.conn.Close(closeFrame(code, text))
}

// clientClose acts on the client's Close frame.
func (s *session) clientClose(content []byte) {
	s.mu.Lock()
	if s.clientClosed {
		s.mu.Unlock()
		return
	}
	s.clientClosed = true
	s.setReasonLocked(ReasonClient)
	s.echo, _, _ = wsoverhttp.ParseClose(content)
	answered := s.closeSent
	wait := false
	if !s.closeTold && !s.originDone {
		s.closeTold = true
		s.offerLocked(wsoverhttp.Event{Type: wsoverhttp.Close, Content: content})
		wait = !answered
	}
	if wait {
		s.closingLocked()
	}
	s.mu.Unlock()
	if !wait {
		s.finishClose(nil)
	}
}

// finishClose ends a connection whose client has closed: with the origin's Close
// frame, or with the client's own, unless one has gone already.
func (s *session) finishClose(b []byte) {
	s.mu.Lock()
	if !s.clientClosed {
		s.mu.Unlock()
		return
	}
	if s.closeSent {
		s.endSealedLocked()
		return
	}
	s.closeSent = true
	if b == nil {
		b = closeFrame(s.echo, "")
	}
	s.mu.Unlock()
	s.conn.Close(b)
}

// closeTimedOut ends a closing handshake that one of the others did not finish.
func (s *session) closeTimedOut() {
	s.finishClose(nil)
	s.conn.Close(nil)
}

// Closed implements wire.Handler.
func (s *session) Closed(_ *wire.Conn, err error) {
	s.sub.Leave()
	s.filters.Load().End()
	s.mu.Lock()
	s.gone = true
	switch {
	case errors.Is(err, wire.ErrStalled):
		s.setReasonLocked(ReasonSlow)
	case errors.Is(err, io.EOF):
		s.setReasonLocked(ReasonGone)
	}
	s.setReasonLocked(ReasonGone)
	reason := s.reason
	for _, timer := range []*wire.Timer{s.ask, s.closing} {
		if timer != nil {
			timer.Stop()
		}
	}
	if alive := s.alive.Load(); alive != nil {
		alive.timer.Stop()
	}
	if r := s.reliable.Load(); r != nil {
		r.timer.Stop()
	}
	if s.delayed != nil {
		s.delayed.timer.Stop()
	}
	if !s.closeTold && !s.originDone {
		s.closeTold = true
		s.offerLocked(wsoverhttp.Event{Type: wsoverhttp.Disconnect})
	}
	idle := !s.exchanging
	s.mu.Unlock()
	s.keeper.left(s, reason)
	s.keeper.log.Debug("WebSocket closed", "conn", s.id, "route", s.terms.Route, "reason", string(reason), "error", err)
	if idle {
		s.up.Close()
		s.keeper.remove(s, reason)
	}
}

// askAgain asks the origin although nothing happened.
func (s *session) askAgain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone || s.native {
		return
	}
	s.refresh = true
	s.startLocked()
}

// Deliver implements hub.Receiver.
func (s *session) Deliver(run *hub.Run) int {
	if r := s.reliable.Load(); r != nil && !run.One() { // one's own item is not part of what the channel's ids follow
		return r.deliver(run)
	}
	return s.deliver(run)
}

func (s *session) deliver(run *hub.Run) int {
	filters := s.filters.Load()
	if run.Len() == 1 {
		if m := run.Item(0).Message; m != nil && (m.Action != grip.ActionSend || m.HasContentFilters) {
			return s.deliverEach(run, filters)
		}
	}
	if filters.Any(run.Channel) {
		return s.deliverEach(run, filters)
	}
	b, n := run.Frames(s.deflated)
	if len(b) == 0 || !s.sendFrames(b) {
		return 0
	}
	return n
}

// deliverEach sends what filters leave of each item.
func (s *session) deliverEach(run *hub.Run, filters *hub.Filters) int {
	n := 0
	for i := range run.Len() {
		if item := run.Item(i); item.Message != nil {
			n += s.deliverItem(run.Channel, item, filters)
		}
	}
	return n
}

// deliverItem sends what filters leave of an item, or does what it says, and
// returns 1 if that is something.
func (s *session) deliverItem(channel string, item *grip.Item, filters *hub.Filters) int {
	m := item.Message
	if filters.Asks(channel) && m.Action != grip.ActionRefresh {
		s.deliverLater(channel, item, filters)
		return 0
	}
	if m.Action != grip.ActionSend {
		return s.deliverAction(m)
	}
	content, ok, err := filters.Pass(channel, item, m.Content, m.ContentFilters, m.HasContentFilters)
	return s.passed(channel, m, content, ok, err)
}

// deliverLater delivers an item in its turn: a filter asks a URL about it, or
// about one before it.
func (s *session) deliverLater(channel string, item *grip.Item, filters *hub.Filters) {
	m, room := item.Message, true
	switch m.Action {
	case grip.ActionSend:
		room = filters.Later(channel, item, m.Content, m.ContentFilters, m.HasContentFilters, func(content []byte, ok bool, err error) {
			s.sub.Delivered(s.passed(channel, m, content, ok, err))
		})
	case grip.ActionClose:
		room = filters.Turn(func() { s.sub.Delivered(s.deliverAction(m)) })
	}
	if !room {
		s.keeper.log.Info("too many items wait for a filter's URL", "conn", s.id, "route", s.terms.Route, "channel", channel)
		s.slow()
	}
}

// errNotText says that a filter made of a text what is none.
var errNotText = errors.New("filters left no UTF-8")

// passed sends what filters left of an item, and returns 1 if that is something.
func (s *session) passed(channel string, m *grip.MessageItem, content []byte, ok bool, err error) int {
	if ok && m.Type == grip.Text && !utf8.Valid(content) {
		ok, err = false, errNotText
	}
	if err != nil {
		s.keeper.filterErrors.Inc()
		s.keeper.log.Debug("item skipped", "conn", s.id, "channel", channel, "error", err)
	}
	if !ok {
		return 0
	}
	b := Frame(&grip.MessageItem{Type: m.Type, Content: content}, s.deflated)
	if len(b) == 0 || !s.sendFrames(b) {
		return 0
	}
	return 1
}

// sendFrames sends published frames; false means that the client does not get them.
func (s *session) sendFrames(b []byte) bool {
	switch s.conn.Send(b) {
	case nil:
		s.touch()
		return true
	case wire.ErrSlow:
		s.slow()
	}
	return false
}

// deliverAction acts on a published close or refresh.
func (s *session) deliverAction(m *grip.MessageItem) int {
	switch m.Action {
	case grip.ActionClose:
		s.endFromOutside(ReasonPublished, m.Code, m.Reason)
		return 1
	case grip.ActionRefresh:
		s.askAgain()
		return 1
	}
	return 0
}

// endFromOutside closes the client because somebody who is neither client nor
// origin wants it closed. The origin is told at once, and what it answers does
// not change what the client is told.
func (s *session) endFromOutside(reason Reason, code int, text string) {
	if code == 0 {
		code = closeNormal
	}
	s.mu.Lock()
	if !s.closeSent && !s.closeTold && !s.originDone {
		s.closeTold = true
		s.offerLocked(wsoverhttp.Event{Type: wsoverhttp.Close})
	}
	s.sealLocked(reason, closeFrame(code, text))
}

// End implements hub.Client.
func (s *session) End(code int, text string) bool {
	s.mu.Lock()
	ending := s.closeSent || s.clientClosed || s.gone
	s.mu.Unlock()
	if !ending {
		s.endFromOutside(ReasonCommand, code, text)
	}
	return !ending
}

// Refresh implements hub.Client.
func (s *session) Refresh() bool {
	s.mu.Lock()
	refreshable := !s.native && !s.gone && !s.originDone
	s.mu.Unlock()
	if refreshable {
		s.askAgain()
	}
	return refreshable
}

// Stand implements hub.Client.
func (s *session) Stand(channel string) hub.Stand {
	s.mu.Lock()
	ending, reason := s.closeSent || s.clientClosed || s.gone, s.reason
	s.mu.Unlock()
	switch {
	case ending && reason == ReasonSlow:
		return hub.StandSlow
	case ending || s.conn.Ended():
		return hub.StandClosed
	case s.filters.Load().Asks(channel):
		return hub.StandLater
	}
	if r := s.reliable.Load(); r != nil && r.waits() {
		return hub.StandLater
	}
	if s.conn.Queued() > 0 {
		return hub.StandBehind
	}
	return hub.StandReady
}

// ID implements hub.Client.
func (s *session) ID() string { return s.id }

// Format implements hub.Client.
func (s *session) Format() hub.Format { return hub.FormatMessage }

// Notify implements hub.Receiver.
func (s *session) Notify(notice hub.Notice, channel string) {
	if r := s.reliable.Load(); r != nil && r.notify(notice, channel) {
		return
	}
	if notice == hub.NoticeLost {
		s.lost(channel)
	}
}

// lost closes a client that lacks items.
func (s *session) lost(channel string) {
	s.keeper.log.Info("items were lost, closing a WebSocket client", "conn", s.id, "channel", channel)
	s.close(ReasonLost, closeTryAgain, "messages were lost")
}

// subscribe follows a channel or a pattern, named with the route's prefix. It
// returns false if there are too many.
func (s *session) subscribe(name string, pattern bool) bool {
	known := s.sub.Subscribed(name)
	if pattern {
		known = slices.Contains(s.sub.Patterns(), name)
	}
	if !known && s.sub.Len()-len(s.terms.Channels) >= s.keeper.opts.Subscriptions {
		s.keeper.subsDropped.Inc()
		r := s.refusals()
		if r.subscriptions++; r.channel == "" {
			r.channel = name
		}
		return false
	}
	if pattern {
		s.followAs(name, s.sub.SubscribePattern)
	} else {
		s.follow(name)
	}
	return true
}

func (s *session) follow(name string) { s.followAs(name, s.sub.Subscribe) }

func (s *session) followAs(name string, subscribe func(context.Context, string) error) {
	ctx, cancel := context.WithTimeout(s.keeper.ctx, subscribeTimeout)
	defer cancel()
	if err := subscribe(ctx, name); err != nil && !errors.Is(err, hub.ErrLeft) {
		s.keeper.log.Warn("subscribe", "conn", s.id, "channel", name, "error", err)
		s.close(ReasonLost, closeTryAgain, "subscription failed")
	}
}

// subscribeTimeout bounds the wait for the bus.
const subscribeTimeout = 10 * time.Second

// control acts on a control message.
func (s *session) control(text []byte) {
	c, err := grip.ParseControl(text)
	if err != nil {
		s.keeper.badControl.Inc()
		r := s.refusals()
		if r.controls++; r.err == nil {
			r.err = err
		}
		return
	}
	switch c.Type {
	case grip.ControlSubscribe:
		if len(c.Filters) > filtersMax {
			s.close(ReasonOriginError, closeOriginFailed, "too many filters")
			return
		}
		name := s.terms.Prefix + c.Channel
		if c.Pattern {
			var err error
			if name, err = hub.Pattern(s.terms.Prefix, c.Channel); err == nil && c.PrevID != "" {
				err = errPatternID
			}
			if err != nil {
				s.keeper.badControl.Inc()
				s.keeper.log.Warn("subscription refused", "conn", s.id, "route", s.terms.Route, "error", err)
				s.close(ReasonOriginError, closeOriginFailed, "bad pattern")
				return
			}
		}
		if len(name) > pubsub.ChannelBytesMax {
			s.keeper.badControl.Inc()
			s.keeper.log.Warn("subscription refused", "conn", s.id, "route", s.terms.Route, "bytes", len(name), "error", pubsub.ErrChannelTooLong)
			s.close(ReasonOriginError, closeOriginFailed, "channel name is too long")
			return
		}
		filters := s.filters.Load().WithChannel(&s.sub, s.terms.Prefix, grip.Channel{Name: c.Channel, Filters: c.Filters, Pattern: c.Pattern}).WithMeta(s.meta)
		if s.terms.Asker != nil {
			filters = filters.WithAsk(s.askURL)
		}
		s.filters.Store(filters)
		if !c.Pattern {
			s.track(name, c.PrevID) // items wait from now on
		}
		if !s.subscribe(name, c.Pattern) && !c.Pattern {
			s.track(name, "")
		}
	case grip.ControlUnsubscribe:
		name := s.terms.Prefix + c.Channel
		s.filters.Store(s.filters.Load().WithChannel(&s.sub, s.terms.Prefix, grip.Channel{Name: c.Channel, Pattern: c.Pattern}))
		if c.Pattern {
			s.sub.UnsubscribePattern(name)
			return
		}
		s.track(name, "")
		for _, implicit := range s.terms.Channels {
			if name == implicit {
				return
			}
		}
		s.sub.Unsubscribe(name)
	case grip.ControlDetach:
		s.mu.Lock()
		s.detached = true
		if !s.closeTold {
			s.closeTold = true
			s.offerLocked(wsoverhttp.Event{Type: wsoverhttp.Close})
		}
		s.mu.Unlock()
	case grip.ControlSetMeta:
		s.setMeta(c)
	case grip.ControlKeepAlive:
		s.setKeepAlive(c)
	case grip.ControlSendDelayed:
		s.sendDelayed(c)
	case grip.ControlFlushDelayed:
		s.flushDelayed()
	case grip.ControlAutoReply:
		s.setReply(c)
	}
}

// errPatternID says that a position in a pattern's channels cannot be one id.
var errPatternID = errors.New("a pattern has no prev-id")

// askURL asks a URL about an item.
func (s *session) askURL(ctx context.Context, q *hub.Question) ([]byte, bool, error) {
	return s.terms.Asker.Ask(ctx, s.client, q)
}

// setMeta changes what filters know of the connection. Meta is replaced, not
// changed: a delivery may be reading it.
func (s *session) setMeta(c grip.Control) {
	meta := maps.Clone(s.meta)
	if c.Delete {
		delete(meta, c.Name)
	} else {
		if meta == nil {
			meta = make(map[string]string)
		}
		if _, known := meta[c.Name]; !known && len(meta) == metaMax {
			s.keeper.badControl.Inc()
			s.keeper.log.Warn("meta beyond the limit ignored", "conn", s.id, "route", s.terms.Route, "name", c.Name, "limit", metaMax)
			return
		}
		meta[c.Name] = c.Value
	}
	s.meta = meta
	s.filters.Store(s.filters.Load().WithMeta(meta))
	if c.Name == hub.UserMeta {
		s.keeper.setUser(s, meta[hub.UserMeta])
	}
}

// metaMax bounds the names a connection's meta may have.
const metaMax = 64

// controlFrame makes the frame of a control message's content.
func (s *session) controlFrame(c grip.Control) []byte {
	return Frame(&grip.MessageItem{Type: c.MessageType, Content: c.Content}, s.deflated)
}

// setKeepAlive begins, changes or ends keep-alive messages.
func (s *session) setKeepAlive(c grip.Control) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.alive.Swap(nil); old != nil {
		old.timer.Stop()
	}
	if !c.HasContent || s.gone {
		return
	}
	frame := s.controlFrame(c)
	if frame == nil {
		return
	}
	alive := &keepAlive{frame: frame, timeout: c.Timeout, interval: c.Mode == grip.KeepAliveInterval}
	alive.last.Store(time.Now().UnixNano())
	alive.timer = s.conn.Timers().New(func() { s.keepAlive(alive) })
	s.alive.Store(alive)
	alive.timer.Set(jittered(alive.timeout))
}

// jittered takes up to a second off, so that clients that came together are not
// all sent to together forever.
func jittered(d time.Duration) time.Duration { return d - rand.N(min(time.Second, d/10)+1) }

// keepAlive is called when alive may be due.
func (s *session) keepAlive(alive *keepAlive) {
	s.mu.Lock()
	current := s.alive.Load() == alive && !s.gone && !s.closeSent
	s.mu.Unlock()
	if !current {
		return
	}
	if !alive.interval {
		quiet := time.Since(time.Unix(0, alive.last.Load()))
		if left := alive.timeout - quiet; left > time.Second || left > alive.timeout/10 {
			alive.timer.Set(left)
			return
		}
	}
	if s.conn.Send(alive.frame) == wire.ErrSlow {
		s.slow()
		return
	}
	alive.last.Store(time.Now().UnixNano())
	alive.timer.Set(jittered(alive.timeout))
}

// sendDelayed sends later; what was to be sent later before is sent now.
func (s *session) sendDelayed(c grip.Control) {
	s.flushDelayed()
	b := s.controlFrame(c)
	if b == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return
	}
	s.delayed = &delayed{frame: b, timer: s.conn.Timers().New(s.flushDelayed)}
	s.delayed.timer.Set(c.Timeout)
}

// flushDelayed sends now what was to be sent later.
func (s *session) flushDelayed() {
	s.mu.Lock()
	d := s.delayed
	s.delayed = nil
	s.mu.Unlock()
	if d != nil {
		d.timer.Stop()
		s.send(d.frame)
	}
}
