package hub

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gripway/gripway/grip"
)

// givenMax bounds the ids that are remembered of items that were for one receiver.
const givenMax = 100_000

// turnsCount is how many counters channels share that say whose turn it is.
const turnsCount = 256

// given is what was given to one of all: whose turn it is, and which ids were.
type given struct {
	turns [turnsCount]atomic.Uint32

	// Guarded by mu.
	mu    sync.Mutex
	until map[string]time.Time // by channel and id; when it may be forgotten
	order []string             // the keys of until, oldest first
}

func givenKey(channel, id string) string { return channel + "\x00" + id }

// has says whether the id was given lately; add notes that it is, unless it was.
func (g *given) has(channel, id string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Now().Before(g.until[givenKey(channel, id)])
}

func (g *given) add(channel, id string, ttl time.Duration) (added bool) {
	key, now := givenKey(channel, id), time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.order) > 0 && (len(g.order) >= givenMax || now.After(g.until[g.order[0]])) {
		delete(g.until, g.order[0])
		g.order = g.order[1:]
	}
	if _, known := g.until[key]; known {
		return false
	}
	if g.until == nil {
		g.until = make(map[string]time.Time)
	}
	g.until[key] = now.Add(ttl)
	g.order = append(g.order, key)
	return true
}

// undo forgets an id that was added and not given after all. It is among the latest.
func (g *given) undo(channel, id string) {
	key := givenKey(channel, id)
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := len(g.order) - 1; i >= 0; i-- {
		if g.order[i] == key {
			g.order = append(g.order[:i], g.order[i+1:]...)
			delete(g.until, key)
			return
		}
	}
}

// attempt is an item on its way to one subscriber of a shard, whoever is the first
// to take it.
type attempt struct {
	channel string
	start   int       // where in the list to begin
	behind  bool      // those for whom bytes wait already may have it, too
	done    chan bool // takes whether somebody took it; of size 1, never closed

	// begun is who was first: the shard, or the caller who gives it up.
	begun atomic.Bool
}

// Candidates returns how many of this node could be given an item that is for one of
// all, and whether one with this id was given to somebody lately.
func (h *Hub) Candidates(name string, formats Formats, id string) (n int, seen bool) {
	return h.following(name, formats), id != "" && h.given.has(name, id)
}

// DeliverOne gives an item to one who follows its channel on this node, in turn, and
// returns whether somebody took it. Those for whom bytes wait already are passed over,
// unless behind; those who are leaving, who do not want it, or of whom that cannot be
// said yet, always are. If ctx ends, nobody will have it after that.
func (h *Hub) DeliverOne(ctx context.Context, name string, item *grip.Item, behind bool) (taken bool) {
	remembers := item.ID != "" && h.opts.IDTTL > 0
	if remembers && !h.given.add(name, item.ID, h.opts.IDTTL) {
		h.duplicates.Inc()
		return true // somebody took it before
	}
	taken = h.deliverOne(ctx, name, item, behind)
	if remembers && !taken {
		h.given.undo(name, item.ID)
	}
	return taken
}

func (h *Hub) deliverOne(ctx context.Context, name string, item *grip.Item, behind bool) bool {
	type place struct {
		ch    *channel
		shard *shard
		size  int
	}
	var places []place
	total := 0
	for _, ch := range h.bringing(name) {
		for i, s := range h.shards {
			s.mu.Lock()
			size := len(ch.members[i].list)
			s.mu.Unlock()
			if size > 0 {
				places = append(places, place{ch, s, size})
				total += size
			}
		}
	}
	if total == 0 {
		return false
	}
	at := int((h.given.turns[maphash.String(h.seed, name)%turnsCount].Add(1) - 1) % uint32(total))
	first := 0
	for at >= places[first].size {
		at -= places[first].size
		first++
	}
	for i := range places {
		to := places[(first+i)%len(places)]
		pub := &Publication{Item: item, frame: h.opts.Frame, channel: name}
		a := &attempt{channel: name, start: at, behind: behind, done: make(chan bool, 1)}
		at = 0
		if to.shard.try(ctx, delivery{ch: to.ch, pub: pub, one: a}) {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
	}
	return false
}

// try has the shard try, and returns whether somebody took it.
func (s *shard) try(ctx context.Context, d delivery) bool {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false
	}
	s.queue = append(s.queue, d) // as many as there are callers, which are bounded
	if len(s.queue) == 1 {
		s.some.Signal()
	}
	s.mu.Unlock()
	select {
	case taken := <-d.one.done:
		return taken
	case <-s.done:
	case <-ctx.Done():
	}
	if !d.one.begun.Swap(true) {
		return false // and nobody will take it
	}
	select {
	case taken := <-d.one.done: // it was just being given
		return taken
	case <-s.done:
		select {
		case taken := <-d.one.done:
			return taken
		default:
			return false
		}
	}
}

// deliverOne gives s.now to one of those to whom ch brings the item.
func (s *shard) deliverOne(ch *channel, a *attempt) {
	if a.begun.Swap(true) {
		return // given up
	}
	var list []*Subscriber
	if ch.pattern == nil {
		list = s.walk(ch)
	} else {
		s.hear(ch, a.channel)
		list = s.hearing
	}
	r := Run{Channel: a.channel, run: &s.now}
	formats := FormatsOf(s.now.pubs[0].Item)
	taken := false
	for i := range list {
		sub := list[(a.start+i)%len(list)]
		if !formats.Has(sub.format) {
			continue
		}
		if stand := sub.stand(a.channel); stand != StandReady && (stand != StandBehind || !a.behind) {
			continue
		}
		if n := sub.receiver.Deliver(&r); n > 0 {
			s.hub.delivered[sub.format.String()].Add(float64(n))
			if s.hub.opts.Watch != nil {
				s.hub.opts.Watch.Delivered(a.channel, s.now.pubs[0].Item, sub.format, n)
			}
			taken = true
			break
		}
	}
	if ch.pattern == nil {
		s.walked(ch)
	} else {
		clear(s.hearing)
	}
	a.done <- taken
}
