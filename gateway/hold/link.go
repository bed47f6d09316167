package hold

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/gateway/wire"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
)

const (
	// linkTimeoutDefault is after how long a quiet stream's next link is fetched
	// (GRIP's default); linkTimeoutMin keeps a timeout of zero from becoming a
	// loop.
	linkTimeoutDefault = grip.LinkTimeoutDefault
	linkTimeoutMin     = time.Second

	// linkQueueMax bounds the items that wait while a next link is fetched
	// (Pushpin's number). What is beyond is found out as a gap.
	linkQueueMax = 100

	// linkRetriesMax and linkRetryFirst are how often and how soon a next link
	// that failed is fetched again: after 1, 2, 4, 8 and 16 s, and up to
	// linkRetryJitter more.
	linkRetriesMax  = 5
	linkRetryFirst  = time.Second
	linkRetryJitter = time.Second

	// chainQuick is how many answers without hold may follow each other at once;
	// after that linkPause lies between two, so that a link to itself does not
	// keep an origin busy.
	chainQuick = 10
	linkPause  = time.Second

	// activeMax bounds the channels of patterns that are noted as alive.
	activeMax = 1000

	// fetchesMax bounds the next links that are fetched at once for one route, so
	// that a slow origin holds up no other's.
	fetchesMax = 64

	// updateSpread is over how long fetches that many streams want are spread.
	updateSpread = 100 * time.Millisecond
)

// linked is what a stream with a next link, or with ids, keeps track of.
type linked struct {
	stream *stream
	call   Call
	timer  *wire.Timer

	mu       sync.Mutex
	uri      *url.URL // what the link is relative to: where the last answer came from
	link     *grip.Link
	ids      map[string]string // last id the client has, by channel; only those kept track of
	names    names             // what the stream follows
	active   map[string]bool   // had an item since the timer was set
	fetching bool
	again    bool // and fetch once more
	waiting  []waitingItem
	quick    int // answers without hold in a row
}

type waitingItem struct {
	channel string
	item    *grip.Item
}

// newLinked returns nil if the instruction needs nothing to be kept track of.
func newLinked(s *stream, call *Call, instruction *grip.Instruction) *linked {
	needed := instruction.Next != nil
	for _, ch := range instruction.Channels {
		needed = needed || ch.PrevID != ""
	}
	if !needed || call.Fetch == nil {
		return nil
	}
	l := &linked{stream: s, call: *call, uri: call.URI}
	l.call.W, l.call.R, l.call.Answer = nil, nil, Answer{}
	l.timer = s.conn.Timers().New(l.timeout)
	l.take(instruction)
	return l
}

// take remembers what an instruction says.
func (l *linked) take(instruction *grip.Instruction) {
	l.link = instruction.Next
	l.ids = make(map[string]string)
	l.names = l.stream.keeper.channels(&l.call, instruction)
	l.active = make(map[string]bool)
	for _, ch := range instruction.Channels {
		if ch.PrevID != "" {
			l.ids[l.call.Prefix+ch.Name] = ch.PrevID
		}
	}
}

// begin is called when the stream's channels are subscribed.
func (l *linked) begin(hold grip.HoldMode) {
	if hold == grip.HoldNone {
		l.update(0)
		return
	}
	l.mu.Lock()
	link := l.link
	ids := maps.Clone(l.ids)
	l.mu.Unlock()
	if link == nil {
		for name := range ids {
			text := fmt.Sprintf("channel '%s' specifies prev-id, but no next link found", strings.TrimPrefix(name, l.call.Prefix))
			l.stream.keeper.log.Warn("stream ends", "route", l.stream.route, "error", text)
			if l.call.Debug {
				l.stream.send(l.stream.encode([]byte(text)))
			}
			l.stream.end(ReasonOrigin)
			break
		}
		return
	}
	l.setTimer(link)
	h := l.stream.keeper.opts.Hub
	for name, id := range ids {
		if last, ok := h.LastID(name); ok && last != id {
			if n, known := l.replay(name, ""); known {
				l.stream.sub.Delivered(n)
				continue
			}
			h.ForgetID(name)
			l.update(0)
			return
		}
	}
}

func (l *linked) setTimer(link *grip.Link) {
	timeout := link.Timeout
	if timeout == 0 {
		timeout = linkTimeoutDefault
	}
	l.timer.Set(max(timeout, linkTimeoutMin))
}

// timeout fetches the next link unless every channel shows that it is alive.
func (l *linked) timeout() {
	l.mu.Lock()
	quiet := l.quietLocked()
	clear(l.active)
	link := l.link
	l.mu.Unlock()
	if link == nil {
		return
	}
	if !quiet {
		l.setTimer(link)
		return
	}
	l.update(rand.N(updateSpread))
}

// quietLocked says whether a channel had no item since the timer was set, or none
// of those that a pattern matches.
func (l *linked) quietLocked() bool {
	for _, name := range l.names.channels {
		if !l.active[name] {
			return true
		}
	}
	for _, pattern := range l.names.patterns {
		heard := false
		for name := range l.active {
			heard = heard || pubsub.Match(pattern, name)
		}
		if !heard {
			return true
		}
	}
	return len(l.names.channels)+len(l.names.patterns) == 0
}

// deliver sends the items that follow what the client has, and fetches the next
// link if some are missing. It returns how many were sent.
func (l *linked) deliver(run *hub.Run) int {
	n := 0
	for i := range run.Len() {
		item := run.Item(i)
		if item.Stream == nil {
			continue
		}
		switch item.Stream.Action {
		case grip.ActionHint:
			l.mu.Lock()
			l.waiting = nil
			l.mu.Unlock()
			l.update(0)
			continue
		case grip.ActionSend, grip.ActionClose: // each in its turn
		default:
			continue
		}
		l.mu.Lock()
		if len(l.active) < activeMax {
			l.active[run.Channel] = true
		}
		if l.fetching {
			if len(l.waiting) < linkQueueMax {
				l.waiting = append(l.waiting, waitingItem{run.Channel, item})
			}
			l.mu.Unlock()
			continue
		}
		follows := l.followsLocked(run.Channel, item)
		l.mu.Unlock()
		if !follows {
			replayed, known := l.replay(run.Channel, item.ID)
			if n += replayed; !known {
				l.update(rand.N(updateSpread))
			}
			continue
		}
		n += l.stream.deliverItem(run.Channel, item)
	}
	return n
}

// isFetching says whether items have to wait.
func (l *linked) isFetching() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fetching
}

// followsLocked says whether the item comes next for the client, and takes it as
// the last if so.
func (l *linked) followsLocked(channel string, item *grip.Item) bool {
	id, tracked := l.ids[channel]
	if !tracked {
		return true
	}
	if item.PrevID != id {
		return false
	}
	if item.ID == "" {
		delete(l.ids, channel)
	} else {
		l.ids[channel] = item.ID
	}
	return true
}

// update fetches the next link, after a while.
func (l *linked) update(after time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.link == nil {
		return
	}
	if l.fetching {
		l.again = true
		return
	}
	l.fetching = true
	go l.fetch(after)
}

// fetch fetches next links until the stream is held again, or has ended.
func (l *linked) fetch(after time.Duration) {
	retries := 0
	for {
		select {
		case <-time.After(after):
		case <-l.stream.ended:
			return
		}
		l.mu.Lock()
		l.again = false
		base, link, last := l.uri, l.link, l.lastLocked()
		l.mu.Unlock()

		uri, err := base.Parse(link.URI)
		var answer *Answer
		if err == nil {
			answer, err = l.stream.keeper.fetch(l, uri, last)
		}
		if err == nil && (answer.Status < 200 || answer.Status > 299) {
			closeRest(answer)
			err = fmt.Errorf("next link answered %d", answer.Status)
		}
		if err != nil {
			l.stream.keeper.log.Info("next link", "route", l.stream.route, "uri", uri, "retries", retries, "error", err)
			if retries == linkRetriesMax {
				l.stream.end(ReasonLink)
				return
			}
			after = linkRetryFirst<<retries + rand.N(linkRetryJitter)
			retries++
			continue
		}
		retries = 0
		again, done := l.fetched(uri, answer)
		if done {
			return
		}
		after = again
	}
}

// lastLocked lists the ids the client has, for Grip-Last.
func (l *linked) lastLocked() []Last {
	last := make([]Last, 0, len(l.ids))
	for _, name := range slices.Sorted(maps.Keys(l.ids)) {
		last = append(last, Last{strings.TrimPrefix(name, l.call.Prefix), l.ids[name]})
	}
	return last
}

// fetched acts on the answer of a next link. Unless done, the next one is to be
// fetched after a while.
func (l *linked) fetched(uri *url.URL, answer *Answer) (again time.Duration, done bool) {
	s := l.stream
	in := answer.Instruction
	if in != nil && in.Hold == grip.HoldResponse {
		closeRest(answer)
		s.keeper.log.Warn("next link asks for a response hold", "route", s.route, "uri", uri)
		s.end(ReasonOrigin)
		return 0, true
	}
	if in != nil {
		if err := checkNames(l.call.Prefix, in); err != nil {
			closeRest(answer)
			s.keeper.log.Warn("next link", "route", s.route, "uri", uri, "error", err)
			s.end(ReasonOrigin)
			return 0, true
		}
		// What the answer says is what its own body is written with.
		l.mu.Lock()
		l.uri = uri
		l.take(in)
		l.mu.Unlock()
		own := *answer // others may share it, with filters of their own
		answer = &own
		filters := l.call.filters(&s.sub, in, uri).WithIDs(l.unprefixed)
		if err := filter(filters, answer, false); err != nil {
			s.keeper.log.Warn("next link", "route", s.route, "uri", uri, "error", err)
			s.fail(ReasonLink)
			return 0, true
		}
	}
	s.filters.Load().Wait(s.ended) // what the origin says comes after the items before it
	if !s.append(answer) {
		return 0, true
	}
	if in == nil || in.Hold == grip.HoldNone && in.Next == nil {
		s.end(ReasonOrigin)
		return 0, true
	}
	l.mu.Lock()
	names := l.names
	if in.Hold == grip.HoldNone {
		l.quick++
		quick := l.quick
		l.mu.Unlock()
		if quick > chainQuick {
			return linkPause, false
		}
		return 0, false
	}
	l.quick = 0
	l.mu.Unlock()

	s.filters.Store(l.call.filters(&s.sub, in, uri).WithIDs(l.unprefixed))
	s.keeper.setUser(s, in.Meta[hub.UserMeta])
	if err := s.keeper.follow(&s.sub, names); err != nil {
		if !errors.Is(err, hub.ErrLeft) {
			s.keeper.log.Warn("stream hold: subscribe", "route", s.route, "error", err)
			s.fail(ReasonError)
		}
		return 0, true
	}
	s.setKeepAlive(in.KeepAlive)
	if in.Next == nil {
		l.begin(grip.HoldStream)
		if len(l.idsNow()) > 0 {
			return 0, true
		}
	}

	if again := l.catchUp(); again {
		return rand.N(updateSpread), false
	}
	return 0, true
}

// catchUp sends what came while the next link was fetched, but for what the origin
// has told already. It returns true if the link is to be fetched once more.
func (l *linked) catchUp() (again bool) {
	s := l.stream
	for {
		l.mu.Lock()
		if len(l.waiting) == 0 {
			link := l.link
			again := l.again && link != nil
			if !again {
				l.fetching = false
			}
			l.mu.Unlock()
			if !again && link != nil {
				l.setTimer(link)
			}
			return again
		}
		w := l.waiting[0]
		l.waiting = l.waiting[1:]
		follows := l.followsLocked(w.channel, w.item)
		l.mu.Unlock()
		if follows {
			s.deliverItem(w.channel, w.item)
		}
	}
}

// replay sends what the channel's history has after what the client has, up to an
// item and with it, or to the last. It returns false, and has sent nothing, if the
// history does not have all of that.
func (l *linked) replay(channel, upTo string) (n int, known bool) {
	l.mu.Lock()
	id, tracked := l.ids[channel]
	if !tracked || l.fetching {
		l.mu.Unlock()
		return 0, false
	}
	items, known := l.stream.keeper.opts.Hub.Between(channel, id, upTo)
	if !known {
		l.mu.Unlock()
		return 0, false
	}
	if len(items) > 0 {
		l.ids[channel] = items[len(items)-1].ID
	}
	l.fetching = true // what comes meanwhile waits
	l.mu.Unlock()
	for _, item := range items {
		if item.Stream != nil {
			n += l.stream.deliverItem(channel, item)
		}
	}
	if again := l.catchUp(); again {
		go l.fetch(rand.N(updateSpread))
	}
	return n, true
}

// unprefixed returns the ids the client has, by the names the origin uses.
func (l *linked) unprefixed() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := make(map[string]string, len(l.ids))
	for name, id := range l.ids {
		ids[strings.TrimPrefix(name, l.call.Prefix)] = id
	}
	return ids
}

func (l *linked) idsNow() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.ids)
}

// filter runs the filters meant for answers over one. The body must be whole.
func filter(filters *hub.Filters, answer *Answer, first bool) error {
	if !filters.RewritesResponse() {
		return nil
	}
	if answer.Rest != nil {
		closeRest(answer)
		return errors.New("answer is too long for filter build-id")
	}
	body, err := filters.Response(answer.Body, first)
	if err == nil {
		answer.Body = body
	}
	return err
}

// append sends what an answer's body has; false means that the stream has ended.
func (s *stream) append(answer *Answer) bool {
	if !s.send(s.encode(answer.Body)) {
		closeRest(answer)
		return false
	}
	if answer.Rest == nil {
		return true
	}
	defer answer.Rest.Close()
	for {
		buffer := make([]byte, 32<<10)
		n, err := answer.Rest.Read(buffer)
		if !s.send(s.encode(buffer[:n])) {
			return false
		}
		if err == io.EOF {
			return true
		}
		if err != nil {
			s.keeper.log.Info("next link's body", "route", s.route, "error", err)
			s.fail(ReasonLink)
			return false
		}
		for s.conn.Queued() > behindBytesMax {
			time.Sleep(5 * time.Millisecond) // package wire bounds how long
		}
	}
}

func closeRest(answer *Answer) {
	if answer.Rest != nil {
		answer.Rest.Close()
	}
}

// fetches are next links under way. Streams that want the same share one.
type fetches struct {
	mu     sync.Mutex
	flying map[fetchKey]*flight
	places map[string]*places // by route, while it has some under way
}

type fetchKey struct{ route, prefix, uri, last string }

type flight struct {
	done   chan struct{}
	answer *Answer
	err    error
}

// places are a route's share of what may be fetched at once.
type places struct {
	taken chan struct{} // has a token for each that is under way
	users int           // that wait or fetch; guarded by fetches.mu
}

// fetch fetches a next link, or takes part in one that is being fetched with the
// same ids. An answer that is not kept as a whole is not shared. The fetch is
// nobody's own: it goes on for the others if the stream that began it has ended.
func (k *Keeper) fetch(l *linked, uri *url.URL, last []Last) (*Answer, error) {
	var ids strings.Builder
	for _, one := range last {
		ids.WriteString(strconv.Quote(one.Channel) + strconv.Quote(one.ID))
	}
	key := fetchKey{l.call.Route, l.call.Prefix, uri.String(), ids.String()}
	f := &k.fetches
	f.mu.Lock()
	fl := f.flying[key]
	own := fl == nil
	if own {
		fl = &flight{done: make(chan struct{})}
		f.flying[key] = fl
		go func() {
			fl.answer, fl.err = k.fetchAlone(l, uri, last)
			f.mu.Lock()
			delete(f.flying, key)
			f.mu.Unlock()
			close(fl.done)
		}()
	}
	f.mu.Unlock()
	select {
	case <-fl.done:
	case <-l.stream.ended:
		if own {
			go func() { // what cannot be shared is nobody's now
				if <-fl.done; fl.err == nil {
					closeRest(fl.answer)
				}
			}()
		}
		return nil, context.Canceled
	}
	if own || fl.err != nil || fl.answer.Rest == nil {
		return fl.answer, fl.err
	}
	return k.fetchAlone(l, uri, last)
}

func (k *Keeper) fetchAlone(l *linked, uri *url.URL, last []Last) (*Answer, error) {
	defer k.fetches.place(l.call.Route)()
	k.linkFetches.Inc()
	ctx, cancel := context.WithTimeout(k.ctx, againTimeout)
	answer, err := l.call.Fetch(ctx, uri, last)
	if err != nil || answer.Rest == nil {
		cancel()
		return answer, err
	}
	answer.Rest = &cancelBody{answer.Rest, cancel}
	return answer, nil
}

// place waits for one of the route's places; what it returns gives it back. The
// wait ends: each fetch before it has againTimeout.
func (f *fetches) place(route string) (leave func()) {
	f.mu.Lock()
	p := f.places[route]
	if p == nil {
		p = &places{taken: make(chan struct{}, fetchesMax)}
		f.places[route] = p
	}
	p.users++
	f.mu.Unlock()
	p.taken <- struct{}{}
	return func() {
		<-p.taken
		f.mu.Lock()
		if p.users--; p.users == 0 {
			delete(f.places, route)
		}
		f.mu.Unlock()
	}
}

// cancelBody ends its request's context when it is closed.
type cancelBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *cancelBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}
