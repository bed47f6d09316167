package hub

import (
	"context"
	"sync"
	"time"

	"github.com/gripway/gripway/grip"
)

const (
	// receiptTTL is how long it is remembered what became of an item that nobody has
	// asked about: who asks does so at once.
	receiptTTL = 2 * time.Minute

	// receiptsMax bounds the receipts that are remembered. Whoever may publish over
	// NATS may make some.
	receiptsMax = 10_000
)

// Stand is how a client stands to a channel's items.
type Stand uint8

// How clients stand.
const (
	StandReady  Stand = iota // an item would be sent at once
	StandBehind              // bytes wait for the client's socket already
	StandLater               // an item would be decided about later: a URL is being asked about it, or the origin about what was missed
	StandSlow                // the client is being closed, because it was too slow
	StandEnding              // the client has had its last, which waits for its socket
	StandClosed              // the client is leaving, or has left
)

// Counts is what became of an item at those of a node who follow its channel.
type Counts struct {
	Receivers int     `json:"receivers"` // who follow the channel with a kind of client the item has something for
	Delivered int     `json:"delivered"` // written to the client's socket, or taken by its queue
	Queued    int     `json:"queued"`    // those of Delivered for whom bytes still wait in the queue
	Waiting   int     `json:"waiting"`   // for whom it is not decided yet
	Dropped   Dropped `json:"dropped"`   // who do not get it
}

// Dropped are those who do not get an item, by reason.
type Dropped struct {
	Slow      int `json:"slow,omitempty"`      // did not take what was sent before, and is closed
	Closed    int `json:"closed,omitempty"`    // was leaving
	Filtered  int `json:"filtered,omitempty"`  // a filter kept it away
	Duplicate int `json:"duplicate,omitempty"` // its id, or its prev-id, was there before
	Lost      int `json:"lost,omitempty"`      // it did not reach the node: the channel was subscribed just then, or the node was too busy
}

// Add adds other's counts.
func (c *Counts) Add(other Counts) {
	c.Receivers += other.Receivers
	c.Delivered += other.Delivered
	c.Queued += other.Queued
	c.Waiting += other.Waiting
	c.Dropped.Slow += other.Dropped.Slow
	c.Dropped.Closed += other.Dropped.Closed
	c.Dropped.Filtered += other.Dropped.Filtered
	c.Dropped.Duplicate += other.Dropped.Duplicate
	c.Dropped.Lost += other.Dropped.Lost
}

// add counts one receiver, who got n items and stands so afterwards.
func (c *Counts) add(n int, stand Stand) {
	c.Receivers++
	switch {
	case n > 0:
		c.Delivered++
		if stand == StandBehind || stand == StandEnding {
			c.Queued++
		}
	case stand == StandLater:
		c.Waiting++
	case stand == StandSlow:
		c.Dropped.Slow++
	case stand == StandClosed, stand == StandEnding:
		c.Dropped.Closed++
	default:
		c.Dropped.Filtered++
	}
}

// Formats is a set of formats.
type Formats uint8

// FormatsOf returns those that an item has.
func FormatsOf(item *grip.Item) (formats Formats) {
	if item.Response != nil {
		formats |= 1 << FormatResponse
	}
	if item.Stream != nil {
		formats |= 1 << FormatStream
	}
	if item.Message != nil {
		formats |= 1 << FormatMessage
	}
	return formats
}

// Has says whether f is in the set.
func (fs Formats) Has(f Format) bool { return fs&(1<<f) != 0 }

// receipt is what becomes of one item on this node. Who passes the item on takes
// hold of it for each to whom it is passed; when nobody holds it, it is decided.
type receipt struct {
	name  string
	since time.Time

	// Guarded by mu.
	mu        sync.Mutex
	holds     int
	decided   chan struct{} // closed when holds is 0 again
	counts    Counts
	duplicate bool
}

// hold and release do nothing without a receipt.
func (r *receipt) hold() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.holds == 0 {
		r.decided = make(chan struct{})
	}
	r.holds++
}

func (r *receipt) release(counts Counts) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Add(counts)
	r.holds--
	if r.holds == 0 {
		close(r.decided)
	}
}

// twice notes that the item was there before.
func (r *receipt) twice() {
	if r != nil {
		r.mu.Lock()
		r.duplicate = true
		r.mu.Unlock()
	}
}

// receipts are those that nobody has asked for yet.
type receipts struct {
	mu     sync.Mutex
	byName map[string]*receipt
	order  []*receipt // oldest first; may have some that were taken
}

// of returns the receipt of that name, held by the caller: an item comes once for
// itself and once for each pattern.
func (rs *receipts) of(name string) *receipt {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.byName[name]
	if r == nil {
		r = rs.addLocked(name)
	}
	r.hold()
	return r
}

func (rs *receipts) addLocked(name string) *receipt {
	r := &receipt{name: name, since: time.Now()}
	for len(rs.order) > 0 && (len(rs.order) >= receiptsMax || r.since.Sub(rs.order[0].since) > receiptTTL) {
		if oldest := rs.order[0]; rs.byName[oldest.name] == oldest {
			delete(rs.byName, oldest.name)
		}
		rs.order[0] = nil
		rs.order = rs.order[1:]
	}
	if rs.byName == nil {
		rs.byName = make(map[string]*receipt)
	}
	rs.byName[name] = r
	rs.order = append(rs.order, r)
	return r
}

// take returns a receipt and forgets it; nil if there is none.
func (rs *receipts) take(name string) *receipt {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.byName[name]
	delete(rs.byName, name)
	if len(rs.byName) == 0 {
		rs.order = nil
	}
	return r
}

// Receipt names an item that was published to a channel with one.
type Receipt struct {
	Name    string  `json:"receipt"`
	Channel string  `json:"channel"`
	Formats Formats `json:"formats"` // that the item has
}

// Became returns what became of an item on this node. It waits until that is
// decided, or ctx ends. It is asked once for an item, after the item has come, or
// would have.
func (h *Hub) Became(ctx context.Context, asked Receipt) Counts {
	r := h.receipts.take(asked.Name)
	if r == nil {
		n := h.following(asked.Channel, asked.Formats)
		return Counts{Receivers: n, Dropped: Dropped{Lost: n}}
	}
	r.mu.Lock()
	decided := r.decided
	r.mu.Unlock()
	select {
	case <-decided:
	case <-ctx.Done():
	}
	r.mu.Lock()
	counts, duplicate, undecided := r.counts, r.duplicate, r.holds > 0
	r.mu.Unlock()
	if n := h.following(asked.Channel, asked.Formats) - counts.Receivers; n > 0 {
		switch {
		case duplicate:
			counts.Receivers += n
			counts.Dropped.Duplicate += n
		case undecided:
			counts.Receivers += n
			counts.Waiting += n
		}
	}
	return counts
}

// following returns how many follow the channel with one of the formats.
func (h *Hub) following(name string, formats Formats) (n int) {
	for _, ch := range h.bringing(name) {
		for i, s := range h.shards {
			s.mu.Lock()
			for _, sub := range ch.members[i].list {
				if formats.Has(sub.format) && !sub.left && (ch.pattern == nil || sub.hearsLocked(ch.name, name)) {
					n++
				}
			}
			s.mu.Unlock()
		}
	}
	return n
}

// handCounted is hand's work for an item with a receipt.
func (s *shard) handCounted(r *Run, list []*Subscriber, taken *[3]int) {
	pub := s.now.pubs[0]
	formats := FormatsOf(pub.Item)
	var counts Counts
	for _, sub := range list {
		if !formats.Has(sub.format) {
			continue // it has nothing for it
		}
		n := sub.receiver.Deliver(r)
		taken[sub.format] += n
		counts.add(n, sub.stand(r.Channel))
	}
	pub.receipt.release(counts)
}

// stand is how the subscriber stands; who does not say is ready.
func (s *Subscriber) stand(channel string) Stand {
	if client, ok := s.receiver.(Client); ok {
		return client.Stand(channel)
	}
	return StandReady
}
