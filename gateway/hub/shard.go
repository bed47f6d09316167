package hub

import (
	"runtime"
	"slices"
	"sync"
	"time"
)

const (
	// gatherMax bounds how long a shard waits for items that are known to follow
	// the first.
	gatherMax = 100 * time.Microsecond

	// runItemsMax and runBytesMax bound what is handed to a client at once.
	runItemsMax = 256
	runBytesMax = 128 << 10
)

// shard delivers to its part of the subscribers.
type shard struct {
	hub   *Hub
	index int
	done  chan struct{} // closed when run has ended

	mu     sync.Mutex
	some   sync.Cond // queue is not empty, or closed
	room   sync.Cond // queue is not full, or closed
	queue  []delivery
	bytes  int  // of queue
	expect bool // the bus has more for us
	closed bool

	// Owned by run.
	now     run
	spare   []delivery
	hearing []*Subscriber
}

// delivery is an item, or a notice, on its way to a channel's subscribers.
type delivery struct {
	ch     *channel
	pub    *Publication // nil for a notice
	one    *attempt     // nil unless it is for one subscriber only
	notice Notice
}

func newShard(h *Hub, index int) *shard {
	s := &shard{hub: h, index: index, done: make(chan struct{})}
	s.some.L = &s.mu
	s.room.L = &s.mu
	return s
}

func (s *shard) close() {
	s.mu.Lock()
	s.closed = true
	s.some.Broadcast()
	s.room.Broadcast()
	s.mu.Unlock()
	<-s.done
}

// push queues d if anybody here follows its channel. It blocks while the queue
// is full.
func (s *shard) push(d delivery, more bool) {
	s.mu.Lock()
	s.expect = more
	if len(d.ch.members[s.index].list) == 0 {
		s.mu.Unlock()
		return
	}
	if d.pub != nil {
		d.pub.receipt.hold()
	}
	size := 0
	if d.pub != nil {
		size = d.pub.weight()
	}
	for s.fullLocked(size) && !s.closed {
		s.room.Wait()
	}
	s.queue = append(s.queue, d)
	s.bytes += size
	if len(s.queue) == 1 {
		s.some.Signal()
	}
	s.mu.Unlock()
}

// fullLocked says whether so many bytes more have to wait until the queue is taken.
func (s *shard) fullLocked(size int) bool {
	n := len(s.queue)
	return n >= s.hub.opts.QueueLen || n > 0 && s.bytes+size > s.hub.opts.QueueBytes
}

// run delivers until the shard is closed.
func (s *shard) run() {
	defer close(s.done)
	for {
		batch := s.take()
		if batch == nil {
			return
		}
		for len(batch) > 0 {
			n := s.gather(batch)
			if one := batch[0].one; one != nil {
				s.deliverOne(batch[0].ch, one)
			} else {
				s.deliver(batch[0].ch, batch[0].notice)
			}
			batch = batch[n:]
		}
	}
}

// take waits for deliveries and returns all there are, or nil at the end.
func (s *shard) take() []delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 && !s.closed {
		s.some.Wait()
	}
	if s.closed {
		return nil
	}
	if s.expect {
		for start := time.Now(); s.expect && len(s.queue) < runItemsMax && time.Since(start) < gatherMax; {
			s.mu.Unlock()
			runtime.Gosched()
			s.mu.Lock()
		}
	}
	batch := s.queue
	clear(s.spare)
	s.queue, s.spare = s.spare[:0], batch
	s.bytes = 0
	s.room.Broadcast()
	return batch
}

// gather makes s.now of the deliveries that can be handed over together, from
// the first on, and returns how many they are.
func (s *shard) gather(batch []delivery) int {
	first := batch[0]
	s.now = run{pubs: s.now.pubs[:0]}
	if first.pub == nil {
		return 1
	}
	s.now.pubs = append(s.now.pubs, first.pub)
	if first.one != nil || first.pub.special() || s.hub.opts.Watch != nil && s.hub.opts.Watch.Counts() {
		return 1
	}
	size := first.pub.size()
	n := 1
	for n < len(batch) && n < runItemsMax {
		next := batch[n]
		if next.ch != first.ch || next.pub == nil || next.one != nil || next.pub.special() || next.pub.channel != first.pub.channel {
			break
		}
		size += next.pub.size()
		if size > runBytesMax {
			break
		}
		s.now.pubs = append(s.now.pubs, next.pub)
		n++
	}
	return n
}

// deliver hands s.now, or the notice if it is empty, to the channel's
// subscribers. No lock is held meanwhile.
func (s *shard) deliver(ch *channel, notice Notice) {
	if ch.pattern != nil {
		s.deliverPattern(ch, notice)
		return
	}
	list := s.walk(ch)
	s.hand(&Run{Channel: ch.name, run: &s.now}, list, notice, ch.name)
	s.walked(ch)
}

// walk returns the channel's subscribers here, none of which moves until walked.
func (s *shard) walk(ch *channel) []*Subscriber {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &ch.members[s.index]
	m.busy = true
	return m.list
}

// walked fills the places of those who have left meanwhile.
func (s *shard) walked(ch *channel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &ch.members[s.index]
	m.busy = false
	if len(m.leaving) > 0 {
		// From the end, so that what is moved into a free place is there to stay.
		slices.SortFunc(m.leaving, func(a, b int) int { return b - a })
		for _, index := range m.leaving {
			m.remove(ch, index)
		}
		m.leaving = nil
	}
}

// hand hands s.now, or the notice about name if it is empty, to subscribers.
func (s *shard) hand(r *Run, list []*Subscriber, notice Notice, name string) {
	var taken [3]int
	switch {
	case len(s.now.pubs) == 0:
		for _, sub := range list {
			if sub.updates.Load() || notice != NoticeUpdate {
				sub.receiver.Notify(notice, name)
			}
		}
	case s.now.pubs[0].receipt != nil:
		s.handCounted(r, list, &taken)
	default:
		for _, sub := range list {
			taken[sub.format] += sub.receiver.Deliver(r)
		}
	}
	for f, n := range taken {
		if n > 0 {
			s.hub.delivered[Format(f).String()].Add(float64(n))
			if s.hub.opts.Watch != nil {
				s.hub.opts.Watch.Delivered(r.Channel, s.now.pubs[0].Item, Format(f), n)
			}
		}
	}
}

// removeLocked takes a subscription out of its channel, or notes that it is to
// be taken out when the channel is no longer being delivered to.
func (s *shard) removeLocked(sub subscription) {
	m := &sub.ch.members[s.index]
	if m.busy {
		m.leaving = append(m.leaving, sub.index)
		return
	}
	m.remove(sub.ch, sub.index)
}

// remove fills the place at index with the last member.
func (m *members) remove(ch *channel, index int) {
	last := len(m.list) - 1
	moved := m.list[last]
	m.list[last] = nil
	m.list = m.list[:last]
	if index == last {
		return
	}
	m.list[index] = moved
	for i := range moved.subs {
		if moved.subs[i].ch == ch {
			moved.subs[i].index = index
		}
	}
}
