package socket

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/gateway/wire"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/wsoverhttp"
)

const (
	// recoverItemsMax and recoverBytesMax bound the items that wait for one client
	// while its origin is asked what is missing (streams have the same numbers).
	// What is beyond is found out as another gap.
	recoverItemsMax = 100
	recoverBytesMax = 1 << 20

	// recoverSpread is over how long the requests of many clients are spread that
	// miss the same item.
	recoverSpread = 100 * time.Millisecond

	// recoverAgain is how long after a recovery that seems to have left something out
	// there is another one: what is on its way arrives meanwhile.
	recoverAgain = time.Second

	// recoveriesMax bounds the clients of one route for which the origin is asked at
	// once. The others try again in a moment, and talk to it meanwhile.
	recoveriesMax = 64

	// recoverTimeout bounds one such request.
	recoverTimeout = 60 * time.Second
)

// reliable is what a session keeps track of when its origin has said what its
// client has of a channel (prev-id). Items are sent if they come next; if one is
// missing, the origin is asked by a request that names what the client has, and
// says what it lacks and, with a new prev-id, where it stands then.
type reliable struct {
	s     *session
	timer *wire.Timer

	mu         sync.Mutex
	ids        map[string]string   // last id the client has, by channel; only those kept track of
	gaps       map[string]struct{} // channels about which the origin has to say something
	look       map[string]bool     // channels to look at again in a moment; true if items were left out
	acting     bool                // an answer is being acted on: its items come first
	recovering bool                // the origin is to be asked, or is being asked
	again      bool                // and is to be asked once more
	draining   bool                // what waits is being sent
	waiting    []waitingItem       // while one of these four is set
	bytes      int                 // of waiting
	over       bool                // something did not fit there
	retries    int
}

type waitingItem struct {
	channel string
	item    *grip.Item
}

// errUnrepaired says that an origin answered and did not say where a client
// stands.
var errUnrepaired = errors.New("origin's answer subscribes to none of the channels that have a gap")

// track begins, changes or, with an empty id, ends keeping track of a channel.
func (s *session) track(channel, prevID string) {
	r := s.reliable.Load()
	if r == nil {
		if prevID == "" {
			return
		}
		r = &reliable{s: s, ids: make(map[string]string), gaps: make(map[string]struct{}), look: make(map[string]bool)}
		r.timer = s.conn.Timers().New(r.due)
		s.reliable.Store(r)
		s.sub.WantUpdates()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.gaps, channel)
	if prevID == "" {
		delete(r.ids, channel)
		return
	}
	r.ids[channel] = prevID
	r.look[channel] = r.look[channel]
	r.acting = true
}

// settle is called when all of an origin's answer has been acted on.
func (s *session) settle() {
	s.tellRefused()
	r := s.reliable.Load()
	if r == nil {
		return
	}
	r.mu.Lock()
	r.acting = false
	if r.recovering {
		clear(r.look) // what arrives meanwhile waits
	}
	look := len(r.look) > 0
	r.mu.Unlock()
	r.drain()
	if look {
		r.timer.Set(recoverSpread/2 + rand.N(recoverSpread))
	}
}

// due is called by the timer.
func (r *reliable) due() {
	r.mu.Lock()
	if r.recovering {
		r.mu.Unlock()
		r.ask()
		return
	}
	look := r.look
	r.look = make(map[string]bool)
	ids := maps.Clone(r.ids)
	r.mu.Unlock()
	// What was published between the origin's answer and its subscription was
	// missed, if others on this node heard it. And what was left out after a
	// recovery was told by the origin, if the channel is not past that.
	h := r.s.keeper.opts.Hub
	for channel, leftOut := range look {
		last, known := h.LastID(channel)
		if id, tracked := ids[channel]; tracked && last != id && (known || leftOut) {
			if n, known := r.replay(channel, ""); known {
				r.s.sub.Delivered(n)
				continue
			}
			h.ForgetID(channel)
			r.recover(channel, false, 0)
		}
	}
}

// deliver is session.Deliver for a session that keeps track of something.
func (r *reliable) deliver(run *hub.Run) int {
	r.mu.Lock()
	id, tracked := r.ids[run.Channel]
	if !tracked {
		r.mu.Unlock()
		return r.s.deliver(run)
	}
	next := 0
	if !r.waitsLocked() {
		for next < run.Len() && run.Item(next).PrevID == id && run.Item(next).ID != "" {
			id = run.Item(next).ID
			next++
		}
		if next == run.Len() {
			r.ids[run.Channel] = id
			r.mu.Unlock()
			return r.s.deliver(run)
		}
	}
	r.mu.Unlock()
	n := 0
	for i := range run.Len() {
		n += r.deliverItem(run.Channel, run.Item(i))
	}
	return n
}

// waitsLocked says whether items have to wait.
func (r *reliable) waitsLocked() bool { return r.acting || r.recovering || r.draining }

func (r *reliable) waits() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waitsLocked()
}

// deliverItem sends an item if it comes next, and has it wait or asks the origin
// if not. It returns 1 if it was sent.
func (r *reliable) deliverItem(channel string, item *grip.Item) int {
	if m := item.Message; m != nil && m.Action == grip.ActionRefresh {
		return r.s.deliverAction(m) // it shows the client nothing
	}
	r.mu.Lock()
	if r.waitsLocked() {
		r.waitLocked(channel, item)
		r.mu.Unlock()
		return 0
	}
	id := r.ids[channel]
	if r.followsLocked(channel, item) {
		r.mu.Unlock()
		return r.send(channel, item)
	}
	if item.ID != "" && item.ID == id {
		r.mu.Unlock()
		return 0 // the client has it
	}
	r.mu.Unlock()
	if n, known := r.replay(channel, item.ID); known {
		return n
	}
	r.mu.Lock()
	r.waitLocked(channel, item) // it may be the one after what is missing
	r.mu.Unlock()
	r.recover(channel, true, rand.N(recoverSpread))
	return 0
}

// replay sends what the channel's history has after what the client has, up to an
// item and with it, or to the last. It returns false, and has sent nothing, if the
// history does not have all of that.
func (r *reliable) replay(channel, upTo string) (n int, known bool) {
	r.mu.Lock()
	id, tracked := r.ids[channel]
	if !tracked || r.waitsLocked() {
		r.mu.Unlock()
		return 0, false
	}
	r.draining = true
	r.mu.Unlock()
	items, known := r.s.keeper.opts.Hub.Between(channel, id, upTo)
	for _, item := range items {
		n += r.send(channel, item)
	}
	r.mu.Lock()
	r.draining = false
	if _, tracked := r.ids[channel]; tracked && len(items) > 0 && r.ids[channel] == id {
		r.ids[channel] = items[len(items)-1].ID
	}
	r.mu.Unlock()
	r.drain()
	return n, known
}

// waitLocked has an item wait, if there is room.
func (r *reliable) waitLocked(channel string, item *grip.Item) {
	size := contentLen(item)
	if len(r.waiting) == recoverItemsMax || r.bytes+size > recoverBytesMax && len(r.waiting) > 0 {
		r.over = true
		return
	}
	r.waiting = append(r.waiting, waitingItem{channel, item})
	r.bytes += size
}

func contentLen(item *grip.Item) int {
	if item.Message == nil {
		return 0
	}
	return len(item.Message.Content)
}

// followsLocked says whether the item comes next for the client, and takes it as
// the last if so.
func (r *reliable) followsLocked(channel string, item *grip.Item) bool {
	id, tracked := r.ids[channel]
	switch {
	case !tracked:
		return true
	case item.ID == "" && item.PrevID == "" && item.Message != nil && item.Message.Action == grip.ActionClose:
		return true // nothing comes after it
	case item.PrevID != id || item.ID == "":
		return false
	}
	r.ids[channel] = item.ID
	return true
}

// send sends an item. One that is not for WebSockets only counts as had.
func (r *reliable) send(channel string, item *grip.Item) int {
	if item.Message == nil || !r.s.sub.Subscribed(channel) {
		return 0
	}
	return r.s.deliverItem(channel, item, r.s.filters.Load())
}

// recover has the origin asked what is missing. With gap, something is for sure.
func (r *reliable) recover(channel string, gap bool, after time.Duration) {
	r.mu.Lock()
	if _, tracked := r.ids[channel]; !tracked {
		r.mu.Unlock()
		return
	}
	if gap {
		r.gaps[channel] = struct{}{}
	}
	if r.recovering {
		r.again = true
		r.mu.Unlock()
		return
	}
	if r.s.cannotAsk() {
		r.mu.Unlock()
		if gap {
			r.s.lost(channel)
		}
		return
	}
	r.recovering = true
	r.mu.Unlock()
	r.s.keeper.gaps.Inc()
	r.timer.Set(after)
}

// cannotAsk says that nobody can say what is missing: an origin that speaks
// WebSocket itself has no way to be asked, and one that was detached is gone.
func (s *session) cannotAsk() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.native || s.detached || s.originDone
}

// ask has the exchange ask.
func (r *reliable) ask() {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.missing = true
	r.s.startLocked()
}

// askMissing asks the origin what the client lacks, and acts on the answer.
func (s *session) askMissing() {
	r, k := s.reliable.Load(), s.keeper
	// What the origin says comes after the items before it, about which a filter may
	// be asking. The client talks to the origin meanwhile.
	if s.filters.Load().Busy() || !k.beginRecovery(s.terms.Route) {
		r.timer.Set(recoverSpread/2 + rand.N(recoverSpread))
		return
	}
	defer k.endRecovery(s.terms.Route)
	header := make(http.Header)
	r.mu.Lock()
	r.again = false
	for _, channel := range slices.Sorted(maps.Keys(r.ids)) {
		grip.AddLast(header, strings.TrimPrefix(channel, s.terms.Prefix), r.ids[channel])
	}
	r.mu.Unlock()

	ctx, cancel := context.WithTimeout(k.ctx, min(recoverTimeout, k.opts.ExchangeTimeout))
	answer, err := s.up.Recover(ctx, header)
	cancel()
	if err != nil {
		k.recovered["failed"].Inc()
		r.retry(err)
		return
	}
	if s.isGone() {
		return
	}
	s.answered(answer)
	s.waitForClient()
	r.recovered()
}

// beginRecovery takes a place among a route's recoveries, if there is one.
func (k *Keeper) beginRecovery(route string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.recovering[route] == recoveriesMax {
		return false
	}
	if k.recovering == nil {
		k.recovering = make(map[string]int)
	}
	k.recovering[route]++
	return true
}

func (k *Keeper) endRecovery(route string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.recovering[route]--; k.recovering[route] == 0 {
		delete(k.recovering, route)
	}
}

// retry asks again after a while, or closes the client if that was the last time.
func (r *reliable) retry(err error) {
	s := r.s
	r.mu.Lock()
	retries := r.retries
	r.retries++
	r.mu.Unlock()
	if retries < retriesMax && s.keeper.ctx.Err() == nil {
		delay := retryFirst << retries
		s.keeper.log.Info("origin was asked what a WebSocket client lacks", "conn", s.id, "route", s.terms.Route, "after", delay, "error", err)
		r.timer.Set(delay + rand.N(retryJitter))
		return
	}
	switch {
	case errors.Is(err, errUnrepaired):
		s.keeper.log.Warn("WebSocket client lacks items", "conn", s.id, "route", s.terms.Route, "error", err)
		s.close(ReasonLost, closeOriginFailed, "messages were lost")
	case errors.Is(err, wsoverhttp.ErrNotSent):
		s.originFailed(ReasonUnreachable, err)
	default:
		s.originFailed(ReasonOriginError, err)
	}
}

// recovered is called when the origin has answered, and that has been acted on.
func (r *reliable) recovered() {
	r.mu.Lock()
	if len(r.gaps) > 0 {
		r.mu.Unlock()
		r.s.keeper.recovered["failed"].Inc()
		r.retry(errUnrepaired)
		return
	}
	r.retries = 0
	if r.again {
		r.mu.Unlock()
		r.timer.Set(recoverAgain)
		return
	}
	r.recovering = false
	r.mu.Unlock()
	r.s.keeper.recovered["ok"].Inc()
	r.drain()
}

// drain sends what has waited, as far as it comes next. What the origin has told
// already is left out.
func (r *reliable) drain() {
	left := make(map[string]string) // what was left out last, by channel
	r.mu.Lock()
	if r.waitsLocked() {
		r.mu.Unlock()
		return
	}
	r.draining = true
	for len(r.waiting) > 0 && !r.acting && !r.recovering {
		w := r.waiting[0]
		r.waiting[0] = waitingItem{}
		r.waiting = r.waiting[1:]
		r.bytes -= contentLen(w.item)
		if !r.followsLocked(w.channel, w.item) {
			left[w.channel] = w.item.ID
			continue
		}
		r.mu.Unlock()
		delete(left, w.channel)
		r.s.sub.Delivered(r.send(w.channel, w.item))
		r.mu.Lock()
	}
	r.draining = false
	if len(r.waiting) == 0 {
		r.waiting = nil
	}
	// Whether an item that was left out is one that the origin has told, only the
	// last shows: it is the one where the client stands. The origin may have
	// answered before it was published.
	doubt := false
	for channel, id := range r.ids {
		if last, any := left[channel]; r.over || any && last != id {
			r.look[channel], doubt = true, true
		}
	}
	r.over = false
	r.mu.Unlock()
	if doubt {
		r.timer.Set(recoverAgain)
	}
}

// notify acts on a notice about a channel that is kept track of, and returns
// whether it is.
func (r *reliable) notify(notice hub.Notice, channel string) bool {
	r.mu.Lock()
	_, tracked := r.ids[channel]
	r.mu.Unlock()
	if tracked {
		r.recover(channel, notice == hub.NoticeLost, rand.N(recoverSpread))
	}
	return tracked
}
