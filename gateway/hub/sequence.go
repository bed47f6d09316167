package hub

import (
	"slices"
	"sync"
	"time"

	"github.com/gripway/gripway/grip"
)

const (
	// messageWaitDefault is how long an item waits for the one before it (GRIP's
	// message_wait).
	messageWaitDefault = 5 * time.Second

	// waitingMax bounds the items of a channel that wait for others (Pushpin's
	// number). One more means that the one before the first is not coming.
	waitingMax = 100

	// idTTLDefault is how long an id is remembered, to drop the same item sent
	// again (Pushpin's shipped id_cache_ttl).
	idTTLDefault = 60 * time.Second

	// idsMax bounds the ids that are remembered of a channel.
	idsMax = 10_000
)

// sequence puts a channel's items in order by their ids and drops those that
// came before. It exists only for channels whose items have ids.
type sequence struct {
	ch *channel

	mu      sync.Mutex // held while items are passed on, so that they stay in order
	last    string     // id of the item passed on last
	known   bool       // there is one
	waiting []waitingItem
	timer   *time.Timer
	seen    map[string]time.Time // ids, and when they may be forgotten
	order   []string             // the keys of seen, oldest first
	ended   bool
}

type waitingItem struct {
	pub   *Publication
	until time.Time
}

// take passes the publication on, now, later, or never. It returns false, and does
// nothing, if the sequence has ended.
func (q *sequence) take(pub *Publication, more bool) bool {
	item := pub.Item
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return false
	}
	if item.ID != "" && q.twice(item.ID) {
		q.ch.hub.duplicates.Inc()
		pub.receipt.twice()
		return true
	}
	if item.NoSeq {
		q.ch.spread(pub, more)
		return true
	}
	if item.PrevID == "" || !q.known || item.PrevID == q.last {
		q.pass(pub, more)
		q.passWaiting()
		return true
	}
	for _, w := range q.waiting {
		if w.pub.Item.PrevID == item.PrevID {
			q.ch.hub.duplicates.Inc()
			pub.receipt.twice()
			return true
		}
	}
	pub.receipt.hold()
	q.waiting = append(q.waiting, waitingItem{pub, time.Now().Add(q.ch.hub.opts.MessageWait)})
	q.ch.hub.outOfOrder.Inc()
	if len(q.waiting) > waitingMax {
		q.passFirst()
	}
	q.arm()
	return true
}

// twice says whether the id was seen lately, and remembers it.
func (q *sequence) twice(id string) bool {
	ttl := q.ch.hub.opts.IDTTL
	if ttl < 0 {
		return false
	}
	now := time.Now()
	for len(q.order) > 0 && (len(q.order) >= idsMax || now.After(q.seen[q.order[0]])) {
		delete(q.seen, q.order[0])
		q.order = q.order[1:]
	}
	if _, ok := q.seen[id]; ok {
		return true
	}
	if q.seen == nil {
		q.seen = make(map[string]time.Time)
	}
	q.seen[id] = now.Add(ttl)
	q.order = append(q.order, id)
	return false
}

// pass passes on the publication and remembers its id as the last.
func (q *sequence) pass(pub *Publication, more bool) {
	q.last, q.known = pub.Item.ID, pub.Item.ID != ""
	if q.ch.history != nil {
		q.ch.history.add(pub.Item, time.Now())
	}
	q.ch.spread(pub, more)
}

// passWaiting passes on what waited for the item that is now the last.
func (q *sequence) passWaiting() {
	for again := true; again; {
		again = false
		for i, w := range q.waiting {
			if !q.known || w.pub.Item.PrevID == q.last {
				q.waiting = append(q.waiting[:i:i], q.waiting[i+1:]...)
				q.pass(w.pub, false)
				w.pub.receipt.release(Counts{})
				again = true
				break
			}
		}
	}
}

// passFirst gives up waiting for what is before the oldest item, and begins with
// what is before that among those that wait.
func (q *sequence) passFirst() {
	first := 0
	for range q.waiting {
		before := slices.IndexFunc(q.waiting, func(w waitingItem) bool { return w.pub.Item.ID == q.waiting[first].pub.Item.PrevID })
		if before < 0 {
			break
		}
		first = before
	}
	pub := q.waiting[first].pub
	q.waiting = append(q.waiting[:first:first], q.waiting[first+1:]...)
	q.ch.hub.gaps.Inc()
	q.pass(pub, false)
	pub.receipt.release(Counts{})
	q.passWaiting()
}

// arm sets the timer for the oldest item that waits.
func (q *sequence) arm() {
	if len(q.waiting) == 0 {
		return
	}
	left := time.Until(q.waiting[0].until)
	if q.timer == nil {
		q.timer = time.AfterFunc(left, q.expire)
		return
	}
	q.timer.Reset(left)
}

// expire passes on what has waited long enough.
func (q *sequence) expire() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting) > 0 && !q.ended && !time.Now().Before(q.waiting[0].until) {
		q.passFirst()
	}
	q.arm()
}

// idle says whether nothing waits, and ends the sequence if so.
func (q *sequence) idle() bool {
	if !q.mu.TryLock() {
		return false // an item is being passed on
	}
	defer q.mu.Unlock()
	if len(q.waiting) > 0 {
		return false
	}
	q.ended = true
	return true
}

func (q *sequence) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	q.waiting = nil
	if q.timer != nil {
		q.timer.Stop()
	}
}

// sequenced says whether an item needs a sequence.
func sequenced(item *grip.Item) bool { return item.ID != "" || item.PrevID != "" }

// LastID returns the id of the item of the channel that was passed on last, if
// the channel is followed here and the item had one.
func (h *Hub) LastID(name string) (string, bool) {
	for _, q := range h.sequences(name) {
		q.mu.Lock()
		last, known := q.last, q.known
		q.mu.Unlock()
		if known {
			return last, true
		}
	}
	return "", false
}

// ForgetID forgets the last id of the channel, so that the next item is passed on
// whatever was before it.
func (h *Hub) ForgetID(name string) {
	for _, q := range h.sequences(name) {
		q.forget()
	}
}

// forget forgets the last id.
func (q *sequence) forget() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.known = false
}

// sequences returns the orders of the channel: its own, and those of patterns that
// bring it.
func (h *Hub) sequences(name string) (all []*sequence) {
	for _, ch := range h.bringing(name) {
		q := ch.seq.Load()
		if ch.pattern != nil {
			ch.pattern.mu.Lock()
			q = ch.pattern.sequences[name]
			ch.pattern.mu.Unlock()
		}
		if q != nil {
			all = append(all, q)
		}
	}
	return all
}
