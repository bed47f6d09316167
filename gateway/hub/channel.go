package hub

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
)

// channel is a channel that this node listens to.
type channel struct {
	hub     *Hub
	name    string
	pattern *pattern // nil for a channel; name is its pattern otherwise

	history *history // nil unless items are kept

	// ready is closed when sub or err is set.
	ready chan struct{}
	sub   pubsub.Subscription
	err   error
	since time.Time

	// Guarded by the stripe's lock.
	refs   int
	linger *time.Timer // set while nobody but time holds the channel
	update *time.Timer

	// members[i] is guarded by shard i's lock.
	members []members

	// seq is nil until an item has an id. Set in Receive.
	seq atomic.Pointer[sequence]
}

// members are a channel's subscribers in one shard.
type members struct {
	list []*Subscriber

	// busy is set while list is walked without the lock. Nothing is moved then:
	// the places of those who leave are noted, and filled after the walk.
	busy    bool
	leaving []int
}

// acquire returns the channel, or what stands for a pattern, subscribed, with one
// more reference.
func (h *Hub) acquire(ctx context.Context, name string, isPattern, updates bool) (*channel, error) {
	st := h.stripe(name)
	st.mu.Lock()
	table := st.table(isPattern)
	ch := table[name]
	if ch == nil {
		if isPattern && h.patternCount.Add(1) > patternsMax {
			h.patternCount.Add(-1)
			st.mu.Unlock()
			return nil, fmt.Errorf("pattern %q: %w", name, ErrTooManyPatterns)
		}
		ch = &channel{
			hub: h, name: name, refs: 2, since: time.Now(), // the caller's, and that of subscribe
			ready: make(chan struct{}), members: make([]members, len(h.shards)),
		}
		if isPattern {
			ch.pattern = &pattern{sequences: make(map[string]*sequence)}
		} else if limits := h.limits(name); limits != nil {
			ch.history = &history{limits: *limits, total: &h.historyBytes}
		}
		table[name] = ch
		ch.updateLocked(updates)
		st.mu.Unlock()
		// The channel may soon have others waiting, so the first one's leaving does not
		// end the subscription.
		go h.subscribe(st, ch)
	} else {
		ch.refs++
		if ch.linger != nil {
			ch.linger.Stop()
			ch.linger = nil
			h.lingers(-1)
		}
		ch.updateLocked(updates)
		st.mu.Unlock()
	}
	select {
	case <-ch.ready:
		return ch, ch.err
	case <-ctx.Done():
		h.release(ch, false)
		return nil, ctx.Err()
	}
}

// subscribeMax bounds the wait for the bus to take a subscription. It is longer than
// callers wait: while the bus is away, who comes last has its time as well.
const subscribeMax = 15 * time.Second

// subscribe has the bus bring a new channel's items, and gives back the reference that
// keeps the channel meanwhile.
func (h *Hub) subscribe(st *stripe, ch *channel) {
	ctx, cancel := context.WithTimeout(context.Background(), subscribeMax)
	defer cancel()
	if ch.pattern != nil {
		ch.sub, ch.err = h.opts.Bus.SubscribePattern(ctx, ch.name, ch)
	} else {
		ch.sub, ch.err = h.opts.Bus.Subscribe(ctx, ch.name, ch)
	}
	table := st.table(ch.pattern != nil)
	st.mu.Lock()
	close(ch.ready) // whoever waits has to have the lock to leave
	ch.refs--
	switch {
	case table[ch.name] != ch: // the hub has been closed
		st.mu.Unlock()
		if ch.sub != nil {
			ch.sub.Unsubscribe()
		}
	case ch.err != nil:
		delete(table, ch.name)
		if ch.pattern != nil {
			h.patternCount.Add(-1)
		}
		ch.stopLocked()
		st.mu.Unlock()
	case ch.refs == 0: // nobody waited as long
		h.channels.Inc()
		h.drop(st, ch)
	default:
		h.channels.Inc()
		st.mu.Unlock()
	}
}

// updateLocked sees to it that a new channel's subscribers are told to look
// again.
func (ch *channel) updateLocked(wanted bool) {
	delay := ch.hub.opts.FirstUpdate
	if !wanted || delay < 0 || ch.update != nil {
		return
	}
	left := delay - time.Since(ch.since)
	if left <= 0 {
		return
	}
	ch.update = time.AfterFunc(left, func() { ch.notify(NoticeUpdate) })
}

// Update forgets what items were last and tells all subscribers who asked for
// it to look again (NoticeUpdate).
func (h *Hub) Update() {
	for i := range h.stripes {
		st := &h.stripes[i]
		st.mu.Lock()
		channels := make([]*channel, 0, len(st.channels)+len(st.patterns))
		for _, table := range []map[string]*channel{st.channels, st.patterns} {
			for _, ch := range table {
				channels = append(channels, ch)
			}
		}
		st.mu.Unlock()
		for _, ch := range channels {
			if ch.pattern == nil {
				h.ForgetID(ch.name)
			} else {
				ch.pattern.forget()
			}
			ch.notify(NoticeUpdate)
		}
	}
}

// notify tells the channel's subscribers.
func (ch *channel) notify(notice Notice) {
	for _, s := range ch.hub.shards {
		s.push(delivery{ch: ch, notice: notice}, false)
	}
}

// stopLocked stops the channel's timers.
func (ch *channel) stopLocked() {
	if q := ch.seq.Load(); q != nil {
		go q.end() // it may be waiting for room in a shard
	}
	if ch.pattern != nil {
		go ch.pattern.end()
	}
	if ch.update != nil {
		ch.update.Stop()
	}
	if ch.history != nil {
		ch.history.end()
	}
	if ch.linger != nil {
		ch.linger.Stop()
		ch.linger = nil
		ch.hub.lingers(-1)
	}
}

// release gives back a reference. Without any left, the channel is unsubscribed,
// now or after a while.
func (h *Hub) release(ch *channel, lingers bool) {
	st := h.stripe(ch.name)
	st.mu.Lock()
	ch.refs--
	if ch.refs > 0 || st.table(ch.pattern != nil)[ch.name] != ch {
		st.mu.Unlock()
		return
	}
	linger := time.Duration(0)
	if lingers {
		linger = h.opts.Linger
	}
	if ch.history != nil {
		linger = max(linger, ch.history.limits.Age)
	}
	if linger > 0 && h.lingers(1) {
		ch.linger = time.AfterFunc(linger, func() {
			st.mu.Lock()
			if ch.refs > 0 || ch.linger == nil || st.table(ch.pattern != nil)[ch.name] != ch {
				st.mu.Unlock()
				return
			}
			h.drop(st, ch)
		})
		st.mu.Unlock()
		return
	}
	h.drop(st, ch)
}

// drop unsubscribes a channel without references. It unlocks st.
func (h *Hub) drop(st *stripe, ch *channel) {
	delete(st.table(ch.pattern != nil), ch.name)
	if ch.pattern != nil {
		h.patternCount.Add(-1)
	}
	ch.stopLocked()
	st.mu.Unlock()
	<-ch.ready
	if ch.sub == nil {
		return
	}
	h.channels.Dec()
	if err := ch.sub.Unsubscribe(); err != nil {
		h.log.Debug("unsubscribe", "channel", ch.name, "error", err)
	}
}

// lingers counts channels that stay without a subscriber; false means that there
// are too many.
func (h *Hub) lingers(n int) bool {
	h.lingerMu.Lock()
	defer h.lingerMu.Unlock()
	if h.lingerCount+n > lingeringMax {
		return false
	}
	h.lingerCount += n
	h.lingering.Set(float64(h.lingerCount))
	return true
}

// Receive implements pubsub.Receiver.
func (ch *channel) Receive(data []byte, more bool) {
	ch.hub.received.Inc()
	item, err := grip.ParseItem(data)
	if err != nil {
		ch.hub.refuse("item refused", "channel", ch.name, "error", err)
		return
	}
	pub := ch.publication(ch.name, item)
	if pub == nil {
		return
	}
	q := ch.seq.Load()
	if q == nil && sequenced(item) {
		q = &sequence{ch: ch}
		ch.seq.Store(q)
	}
	if q != nil {
		q.take(pub, more)
	} else {
		ch.spread(pub, more)
	}
	pub.receipt.release(Counts{})
}

// refuse counts an item that is refused and logs why, at most once a second:
// whoever publishes such items over NATS does not see it, and must not fill the log.
func (h *Hub) refuse(text string, args ...any) {
	h.refused.Inc()
	now, last := time.Now().Unix(), h.warned.Load()
	if now != last && h.warned.CompareAndSwap(last, now) {
		h.log.Warn(text, args...)
	}
}

// publication returns what an item of a channel becomes, held by its receipt, or nil
// if it is refused.
func (ch *channel) publication(name string, item *grip.Item) *Publication {
	if item.One {
		// All nodes that follow the channel have it, and each would find one.
		ch.hub.refuse("item refused: one that is for one receiver has to be published through a node", "channel", name)
		return nil
	}
	if ch.hub.opts.Watch != nil {
		ch.hub.opts.Watch.Received(name, item)
	}
	pub := &Publication{Item: item, frame: ch.hub.opts.Frame}
	if item.Receipt != "" {
		pub.receipt = ch.hub.receipts.of(item.Receipt)
	}
	return pub
}

// spread hands the publication to the shards.
func (ch *channel) spread(pub *Publication, more bool) {
	for _, s := range ch.hub.shards {
		s.push(delivery{ch: ch, pub: pub}, more)
	}
}

// Lost implements pubsub.Receiver. Where items are known to be lost, nobody is
// left with the hole. Where only the bus's connection broke, those who can ask
// their origins do.
func (ch *channel) Lost(items int) {
	notice := NoticeLost
	if items == 0 {
		notice = NoticeUpdate
		ch.hub.breaks.Inc()
		ch.hub.log.Debug("the bus may have lost items", "channel", ch.name)
	} else {
		ch.hub.lost.Add(float64(items))
		ch.hub.log.Warn("the bus lost items", "channel", ch.name, "items", items)
	}
	ch.notify(notice)
}
