package hold

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"

	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/gateway/origin"
	"github.com/gripway/gripway/gateway/wire"
	"github.com/gripway/gripway/grip"
)

// againMin and againSpread are after how long an origin is asked again for what
// a channel's new subscription may have missed.
const (
	againMin    = 20 * time.Millisecond
	againSpread = 100 * time.Millisecond
)

// behindBytesMax is how much of an answer may wait for the client before more of
// it is read from the origin.
const behindBytesMax = 256 << 10

// response is a long poll: one answer, later.
type response struct {
	place

	// Fixed after serveResponse.
	keeper *Keeper
	conn   *wire.Conn  // nil if the response stays with its server
	out    chan Answer // takes the one answer of a response without conn; never closed
	client client
	sub    hub.Subscriber
	call   Call   // W is only used without conn
	gone   func() // tells the origin of the end; nil if it does not want to know
	timer  *wire.Timer
	since  time.Time // when the client began to be held

	// Guarded by mu.
	mu       sync.Mutex
	stored   Answer // what is answered when time is up
	filters  *hub.Filters
	ids      map[string]string // last id the client has, by channel; only those kept track of
	done     bool
	asking   bool // the origin is being asked again
	askNext  bool // and is to be asked once more
	reason   Reason
	became   *stream // what the response turned into when the origin was asked again
	retryEnd context.CancelFunc

	// turning is held while the response becomes a stream: the end of the
	// connection is told to one that has begun.
	turning sync.Mutex
}

// serveResponse begins a long poll.
func (k *Keeper) serveResponse(call Call) {
	c, err := take(call.W, call.R)
	if err != nil {
		k.log.Debug("response hold", "route", call.Route, "error", err)
		return
	}
	s := &response{keeper: k, client: c, call: call, stored: call.Answer, gone: k.gone(&call), since: time.Now()}
	loop := 0
	if c.hijacked != nil {
		s.conn, err = k.opts.Group.Adopt(c.hijacked, wire.Options{Handler: s, Unread: true, Buffered: c.buffered})
		if err != nil {
			k.log.Warn("response hold", "route", call.Route, "error", err)
			return
		}
		loop = s.conn.Loop()
		s.call.W, s.call.R = nil, nil // the server's buffers are not kept
		s.client.hijacked, s.client.buffered = nil, nil
	} else {
		s.out = make(chan Answer, 1)
		loop = k.opts.Group.Next()
	}
	s.timer = k.opts.Group.Timers(loop).New(s.timeout)
	k.opts.Hub.Join(&s.sub, s, loop, hub.Manner{Format: hub.FormatResponse, Updates: true, Lingers: true})
	if !k.add(s, "response", call.Instruction.Meta[hub.UserMeta], call.About) {
		s.finish(s.stored, ReasonShutdown)
	}
	if s.conn != nil {
		s.conn.Start(nil)
	}
	s.hold(call.Instruction)
	if s.conn == nil {
		s.wait(call.W, call.R)
	}
}

// End implements hub.Client; a long poll has no place for code and reason.
func (s *response) End(int, string) bool { return s.timeoutAs(ReasonCommand) }

// Refresh implements hub.Client.
func (s *response) Refresh() bool { return false }

// Stand implements hub.Client.
func (s *response) Stand(channel string) hub.Stand {
	s.mu.Lock()
	done, reason, later := s.done, s.reason, s.asking || s.filters.Asks(channel)
	s.mu.Unlock()
	switch {
	case done && reason == ReasonSlow:
		return hub.StandSlow
	case done && reason == ReasonPublished && (s.conn == nil || s.conn.Queued() > 0):
		return hub.StandEnding
	case done:
		return hub.StandClosed
	case later:
		return hub.StandLater
	}
	return hub.StandReady
}

// Format implements hub.Client.
func (s *response) Format() hub.Format { return hub.FormatResponse }

// hold follows the instruction's channels and sets its time.
func (s *response) hold(instruction *grip.Instruction) {
	timeout := instruction.Timeout
	if timeout == 0 {
		timeout = timeoutDefault
	}
	timeout = max(timeout, s.keeper.opts.TimeoutMin)
	s.mu.Lock()
	if s.done {
		s.mu.Unlock()
		return
	}
	// A client waits from its own request on, however often the origin is asked.
	s.timer.Set(max(timeout-time.Since(s.since), 0))
	s.ids = nil
	for _, ch := range instruction.Channels {
		if ch.PrevID != "" {
			if s.ids == nil {
				s.ids = make(map[string]string)
			}
			s.ids[s.call.Prefix+ch.Name] = ch.PrevID
		}
	}
	s.filters.End() // what waits is from before the origin's answer
	s.filters = s.call.filters(&s.sub, instruction, s.call.URI).WithIDs(func() map[string]string {
		ids := make(map[string]string)
		for _, ch := range instruction.Channels {
			if ch.PrevID != "" {
				ids[ch.Name] = ch.PrevID
			}
		}
		return ids
	})
	s.mu.Unlock()
	if err := s.keeper.follow(&s.sub, s.keeper.channels(&s.call, instruction)); err != nil && !errors.Is(err, hub.ErrLeft) {
		s.keeper.log.Warn("response hold: subscribe", "route", s.call.Route, "error", err)
		s.finish(Answer{
			Status: http.StatusServiceUnavailable, Header: http.Header{"Content-Type": {"text/plain"}, "Retry-After": {"1"}},
			Body: []byte("Subscription failed.\n"),
		}, ReasonError)
		return
	}
	// An id that the channel is past already: the origin has news.
	for _, ch := range instruction.Channels {
		name := s.call.Prefix + ch.Name
		if last, ok := s.keeper.opts.Hub.LastID(name); ok && ch.PrevID != "" && last != ch.PrevID {
			s.keeper.opts.Hub.ForgetID(name)
			s.again(0)
			return
		}
	}
}

// wait is where the server's goroutine waits for the answer.
func (s *response) wait(w http.ResponseWriter, r *http.Request) {
	var answer Answer
	select {
	case answer = <-s.out:
	case <-r.Context().Done():
		s.claim(ReasonGone)
		s.leave()
		return
	}
	s.leave()
	if answer.Instruction != nil && answer.Instruction.Hold == grip.HoldStream {
		call := s.call
		call.Answer = answer
		call.id = s.id
		s.keeper.serveStream(call)
		return
	}
	header := w.Header()
	copyHeader(header, answer.Header)
	whole := hasBody(answer.Status, false)
	if whole && answer.Rest == nil && s.client.knowsLength(&answer) {
		header["Content-Length"] = []string{strconv.Itoa(len(answer.Body))}
	}
	w.WriteHeader(answer.Status)
	if whole && !s.client.head {
		w.Write(answer.Body)
	}
	if answer.Rest != nil {
		defer answer.Rest.Close()
		if _, err := io.Copy(w, answer.Rest); err != nil && whole && !s.client.head {
			panic(http.ErrAbortHandler) // the client must see that it is not whole
		}
	}
}

// claim makes the caller the one who ends the hold; false means that somebody
// else has.
func (s *response) claim(reason Reason) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return false
	}
	s.done = true
	s.reason = reason
	s.timer.Stop()
	if s.retryEnd != nil && reason != ReasonOrigin {
		s.retryEnd()
	}
	return true
}

// leave ends what is left of the hold, after claim.
func (s *response) leave() {
	s.sub.Leave()
	s.mu.Lock()
	s.filters.End()
	s.mu.Unlock()
	gone := s.gone
	s.gone = nil
	if gone == nil {
		s.keeper.remove(s, "response", s.reason)
		return
	}
	go func() {
		gone()
		s.keeper.remove(s, "response", s.reason)
	}()
}

// finish answers the client, once.
func (s *response) finish(answer Answer, reason Reason) bool {
	if !s.claim(reason) {
		return false
	}
	s.call.finish(&answer)
	if s.conn == nil {
		s.out <- answer
		return true
	}
	if answer.Rest != nil && hasBody(answer.Status, s.client.head) {
		s.finishLong(answer)
		return true
	}
	closeRest(&answer)
	b, listener := s.client.whole(&answer, reason != ReasonShutdown)
	s.conn.Release(b, listener)
	return true
}

// finishLong answers with a body whose length is not known.
func (s *response) finishLong(answer Answer) {
	defer answer.Rest.Close()
	b := appendHead(nil, answer.Status, answer.Reason, answer.Header)
	listener := s.client.listener
	if s.client.chunked {
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	} else {
		listener = nil
	}
	if listener == nil {
		b = append(b, "Connection: close\r\n"...)
	}
	b = append(b, "\r\n"...)
	body := answer.Body
	for {
		b = append(b, s.client.encode(body)...)
		if s.conn.Send(b) != nil {
			s.conn.Abort()
			return
		}
		for s.conn.Queued() > behindBytesMax {
			time.Sleep(5 * time.Millisecond) // package wire bounds how long
		}
		buffer := make([]byte, 32<<10)
		n, err := answer.Rest.Read(buffer)
		b, body = nil, buffer[:n]
		if err == io.EOF {
			last := s.client.encode(body)
			if s.client.chunked {
				last = append(append([]byte(nil), last...), lastChunk...)
			}
			s.conn.Release(last, listener)
			return
		}
		if err != nil {
			s.conn.Abort()
			return
		}
	}
}

// timeout answers when time is up.
func (s *response) timeout() {
	s.timeoutAs(ReasonTimeout)
}

// Deliver implements hub.Receiver.
func (s *response) Deliver(run *hub.Run) int {
	for i := range run.Len() {
		item := run.Item(i).Response
		if item == nil {
			continue
		}
		switch item.Action {
		case grip.ActionHint:
			s.again(0)
		case grip.ActionSend:
			s.mu.Lock()
			stored, filters := s.stored, s.filters
			follows := s.followsLocked(run.Channel, run.Item(i))
			s.mu.Unlock()
			if !follows {
				s.again(rand.N(againSpread))
				return 0
			}
			if filters.Asks(run.Channel) {
				channel := run.Channel
				room := filters.Later(channel, run.Item(i), item.Body, item.ContentFilters, item.HasContentFilters, func(body []byte, ok bool, err error) {
					_, n := s.passed(&stored, channel, item, body, ok, err)
					s.sub.Delivered(n)
				})
				if !room {
					s.keeper.log.Info("too many items wait for a filter's URL, ending a held response", "route", s.call.Route, "channel", channel)
					s.finish(Answer{
						Status: http.StatusServiceUnavailable, Header: http.Header{"Content-Type": {"text/plain"}, "Retry-After": {"1"}},
						Body: []byte("Too many items wait.\n"),
					}, ReasonSlow)
					return 0
				}
				continue
			}
			body, ok, err := filters.Pass(run.Channel, run.Item(i), item.Body, item.ContentFilters, item.HasContentFilters)
			if done, n := s.passed(&stored, run.Channel, item, body, ok, err); done {
				return n
			}
		}
	}
	return 0
}

// passed answers with what filters left of an item. Unless done, the response is
// still held; n is 1 if the client gets the item.
func (s *response) passed(stored *Answer, channel string, item *grip.ResponseItem, body []byte, ok bool, err error) (done bool, n int) {
	if err != nil {
		s.keeper.filterErrors.Inc()
		s.keeper.log.Debug("item skipped", "route", s.call.Route, "channel", channel, "error", err)
	}
	if !ok {
		return false, 0
	}
	answer, err := published(stored, item, body)
	if err != nil {
		s.keeper.log.Warn("published patch does not fit the held response", "route", s.call.Route, "channel", channel, "error", err)
	}
	if s.finish(answer, ReasonPublished) {
		return true, 1
	}
	return true, 0
}

// followsLocked says whether the item comes next for the client, as far as the
// origin named what it has, and takes it as the last if so.
func (s *response) followsLocked(channel string, item *grip.Item) bool {
	id, tracked := s.ids[channel]
	if !tracked || item.One {
		return true
	}
	if item.PrevID != id {
		return false
	}
	if item.ID == "" {
		delete(s.ids, channel)
	} else {
		s.ids[channel] = item.ID
	}
	return true
}

// published makes an answer of an item: the stored one's headers, those of the
// item in place of the same ones, its status, and its body after filters.
func published(stored *Answer, item *grip.ResponseItem, body []byte) (Answer, error) {
	header := stored.Header.Clone()
	if header == nil {
		header = make(http.Header)
	}
	for name, values := range item.Header {
		header[http.CanonicalHeaderKey(name)] = values
	}
	expose := header.Values("Grip-Expose-Headers")
	grip.StripHeader(header)
	origin.CleanHeader(header) // what the publisher has heard about a connection of its own
	if expose != nil {
		Expose(header, splitList(expose))
	}
	status := item.Code
	if status < 200 {
		status = http.StatusOK // no answer may have less
	}
	answer := Answer{Status: status, Reason: item.Reason, Header: header, Body: body}
	if item.Patch == nil {
		return answer, nil
	}
	patch, err := jsonpatch.DecodePatch(item.Patch)
	if err == nil {
		// The document's last line end is kept; package jsonpatch drops it.
		doc := strings.TrimRight(string(stored.Body), "\r\n")
		answer.Body, err = patch.Apply([]byte(doc))
		answer.Body = append(answer.Body, stored.Body[len(doc):]...)
	}
	if err != nil {
		answer.Body = nil
	}
	return answer, err
}

// Expose keeps only the named headers (Grip-Expose-Headers).
func Expose(header http.Header, names []string) {
	keep := make(map[string]bool, len(names))
	for _, name := range names {
		keep[http.CanonicalHeaderKey(name)] = true
	}
	for name := range header {
		if !keep[name] {
			delete(header, name)
		}
	}
}

func splitList(values []string) []string {
	var names []string
	for _, value := range values {
		for name := range strings.SplitSeq(value, ",") {
			names = append(names, strings.TrimSpace(name))
		}
	}
	return names
}

// Notify implements hub.Receiver.
func (s *response) Notify(notice hub.Notice, channel string) {
	// Whatever happened, the origin knows more. Its channels' other notices, and
	// those of other clients, come at the same time: one request will do, and not
	// all at once.
	s.again(againMin + rand.N(againSpread))
}

// again asks the origin, after a while, whether to go on holding.
func (s *response) again(after time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done || s.call.Again == nil {
		return
	}
	if s.asking {
		s.askNext = true
		return
	}
	s.asking = true
	go s.askAgain(after)
}

// askAgain asks until nobody wants it any more.
func (s *response) askAgain(after time.Duration) {
	for ; ; after = againMin {
		time.Sleep(after)
		ctx, cancel := context.WithTimeout(s.keeper.ctx, againTimeout)
		s.mu.Lock()
		if s.done {
			s.mu.Unlock()
			cancel()
			return
		}
		s.retryEnd = cancel
		s.askNext = false
		last := lastIDs(s.stored.Instruction)
		s.mu.Unlock()

		s.keeper.retries.Inc()
		answer, err := s.call.Again(ctx, last)
		if err != nil {
			s.keeper.log.Debug("origin asked again for a held response", "route", s.call.Route, "error", err)
		} else if s.answered(answer) {
			if answer.Rest == nil || s.conn != nil {
				cancel()
			}
			return
		}
		cancel()

		s.mu.Lock()
		s.retryEnd = nil
		if s.done || !s.askNext {
			s.asking = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
	}
}

// lastIDs lists what is known of the channels.
func lastIDs(instruction *grip.Instruction) []Last {
	var last []Last
	for _, ch := range instruction.Channels {
		if ch.PrevID != "" {
			last = append(last, Last{ch.Name, ch.PrevID})
		}
	}
	return last
}

// answered acts on what the origin said when asked again; true means that the
// hold is over.
func (s *response) answered(answer *Answer) bool {
	if answer.Instruction == nil || answer.Instruction.Hold == grip.HoldNone {
		answer.Instruction = nil
		return s.finish(*answer, ReasonOrigin)
	}
	if answer.Instruction.Hold == grip.HoldStream {
		return s.become(answer)
	}
	s.mu.Lock()
	s.stored = *answer
	s.mu.Unlock()
	s.keeper.setUser(s, answer.Instruction.Meta[hub.UserMeta])
	s.hold(answer.Instruction)
	return false
}

// become turns the long poll into a stream.
func (s *response) become(answer *Answer) bool {
	if s.conn == nil {
		return s.finish(*answer, ReasonOrigin) // its server's goroutine goes on
	}
	if !hasBody(answer.Status, s.client.head) {
		return s.finish(*answer, ReasonOrigin) // nothing can be appended
	}
	s.turning.Lock()
	defer s.turning.Unlock()
	if !s.claim(ReasonOrigin) {
		return true
	}
	s.call.finish(answer)
	k := s.keeper
	st := &stream{place: place{id: s.id}, keeper: k, conn: s.conn, route: s.call.Route, listener: s.client.listener, chunked: s.client.chunked}
	head := appendHead(nil, answer.Status, answer.Reason, answer.Header)
	if st.chunked {
		head = append(head, "Transfer-Encoding: chunked\r\n"...)
	}
	if st.listener == nil {
		head = append(head, "Connection: close\r\n"...)
	}
	head = append(head, "\r\n"...)
	s.mu.Lock()
	s.became = st
	s.mu.Unlock()
	call := s.call
	call.Answer = *answer
	st.gone = s.gone
	s.gone = nil
	s.conn.Send(append(head, s.client.encode(answer.Body)...))
	st.begin(&call, nil)
	s.leave()
	return true
}

func (s *response) drain() { s.timeoutAs(ReasonShutdown) }

func (s *response) timeoutAs(reason Reason) bool {
	s.mu.Lock()
	stored := s.stored
	s.mu.Unlock()
	return s.finish(stored, reason)
}

func (s *response) abort() {
	if s.conn != nil {
		s.conn.Abort()
	}
}

// Data implements wire.Handler; nothing is read.
func (s *response) Data(*wire.Conn, []byte) {}

// Closed implements wire.Handler.
func (s *response) Closed(c *wire.Conn, err error) {
	s.turning.Lock()
	s.mu.Lock()
	became := s.became
	s.mu.Unlock()
	s.turning.Unlock()
	if became != nil {
		became.Closed(c, err)
		return
	}
	s.claim(ReasonGone)
	s.leave()
}
