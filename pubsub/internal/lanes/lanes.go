// Package lanes takes items to the receivers of one node: what every bus does
// the same way, whatever carries the items between nodes.
//
// A channel belongs to one of a few lanes, by a hash of its key. A lane is a bounded
// queue and one goroutine, so a channel's calls come in order and one
// at a time, and a hundred thousand channels cost no goroutine.
//
//	items from here ──┐          ┌─ lane 0: queue ─ goroutine ─► receivers of "a", "d", …
//	                  ├─ by key ─┤
//	items from there ─┘          └─ lane 1: queue ─ goroutine ─► receivers of "b", "c", …
//
// An item from this node is refused when its lane is full: the publisher
// is here and can be told. An item from elsewhere is dropped and the hole is
// marked in the queue at that very place, so that Lost is called between the
// items on its two sides.
package lanes

import (
	"hash/maphash"
	"runtime"
	"sync"
	"sync/atomic"
)

const (
	// countMax bounds how many lanes there are if nobody says how many: one for each
	// processor, at least two so that one slow receiver does not stop everything.
	countMin = 2
	countMax = 16

	// bytesDefault is how much may wait in a lane if nobody says how much: a
	// burst of some thousand items of 10 kB on one channel, while all sixteen
	// lanes full are half a gigabyte.
	bytesDefault = 32 << 20

	// itemOverhead is what an item in a queue costs besides its bytes: its slot,
	// and the header of its allocation. It also bounds how many empty items wait.
	itemOverhead = 64

	// queueKept is how many slots (of 56 bytes) a lane keeps for the next burst
	// once a longer queue has drained.
	queueKept = 1024
)

// Receiver is pubsub.Receiver, whose comment holds the promises.
type Receiver interface {
	Receive(data []byte, more bool)
	Lost(items int)
}

// Set is all lanes of one bus.
type Set struct {
	// Fixed after New.
	seed     maphash.Seed
	lanes    []*Lane
	bytesMax int64
	running  sync.WaitGroup

	closed   atomic.Bool
	patterns patterns

	// generation grows whenever items may have been missed on every channel.
	generation atomic.Uint32
}

// Lane is a queue and the goroutine that empties it.
type Lane struct {
	// Out is for the owner of the set: whoever holds it while it both sends an
	// item away and puts it here keeps the two orders the same. Taken before mu.
	Out sync.Mutex

	set   *Set
	index int // in set.lanes

	// waiting is the cost of all items queued or being delivered: added to by
	// whoever puts (under mu), subtracted from by run.
	waiting atomic.Int64

	// Guarded by mu.
	mu       sync.Mutex
	wake     sync.Cond
	asleep   bool
	channels map[string]*Channel
	queue    []item
	before   uint64 // items and marks put before the queue's first
	epoch    uint32 // of queue; the next one begins when run takes it
	received uint64
	lost     uint64
}

// Channel is one key that somebody here receives.
type Channel struct {
	// Key is the name the owner of the set gave it.
	Key string

	// Interest is what the owner of the set holds elsewhere for this channel.
	// The set never looks at it.
	Interest any

	lane *Lane

	// first is a list of subscriptions, read without a lock, changed under lane.mu.
	first atomic.Pointer[Subscription]

	// queued is how many of its items wait; what more is made from.
	queued atomic.Int32

	// pattern is what the channel stands for, nil for a channel.
	pattern *Pattern

	// Guarded by lane.mu.
	generation uint32
	markAt     int32  // where in lane.queue its open mark is, plus 1
	markEpoch  uint32 // of which queue
}

// Subscription is one receiver of a channel.
type Subscription struct {
	channel  *Channel
	receiver Receiver
	since    uint64 // how many items and marks of the lane it came too late for
	next     atomic.Pointer[Subscription]
	ended    atomic.Bool
}

// item is an item in a queue, or a mark that there is a hole.
type item struct {
	channel    *Channel // nil: a hole in every channel that is behind generation
	data       []byte
	lost       int32  // of a mark; 0 = unknown
	generation uint32 // of a mark for all channels
	mark       bool
	pattern    *Pattern // of a mark that is for one
}

// New starts count lanes, each of which holds up to bytesMax (or one item,
// however long); zeros mean the defaults. Close ends them.
func New(count, bytesMax int) *Set {
	if count <= 0 {
		count = min(max(runtime.GOMAXPROCS(0), countMin), countMax)
	}
	if bytesMax <= 0 {
		bytesMax = bytesDefault
	}
	set := &Set{seed: maphash.MakeSeed(), bytesMax: int64(bytesMax)}
	for range count {
		lane := &Lane{set: set, index: len(set.lanes), channels: make(map[string]*Channel)}
		lane.wake.L = &lane.mu
		set.lanes = append(set.lanes, lane)
		set.running.Go(lane.run)
	}
	return set
}

// Lane is where a key's items go.
func (set *Set) Lane(key string) *Lane {
	return set.lanes[maphash.String(set.seed, key)%uint64(len(set.lanes))]
}

// Closed reports whether Close was called.
func (set *Set) Closed() bool { return set.closed.Load() }

// Close drops what waits, ends the goroutines and waits for running calls.
func (set *Set) Close() {
	set.closed.Store(true)
	for _, lane := range set.lanes {
		lane.mu.Lock()
		lane.queue, lane.channels = nil, nil
		lane.wake.Signal()
		lane.mu.Unlock()
	}
	set.running.Wait()
}

// Counts are sums over all lanes since New.
type Counts struct {
	Channels int    // subscribed now
	Received uint64 // items put in a queue
	Lost     uint64 // items dropped because a queue was full
}

// Counts adds up the lanes one after the other.
func (set *Set) Counts() (counts Counts) {
	for _, lane := range set.lanes {
		lane.mu.Lock()
		counts.Channels += len(lane.channels)
		counts.Received += lane.received
		counts.Lost += lane.lost
		lane.mu.Unlock()
	}
	return counts
}

// Break begins a new generation: whatever is put from now on comes after a
// hole. Each channel's Lost is called before its next item, or by Mend.
func (set *Set) Break() { set.generation.Add(1) }

// Generation is how many breaks there were, for Mend.
func (set *Set) Generation() uint32 { return set.generation.Load() }

// Mend calls Lost for every channel that was not told since the breaks up to
// generation. It comes once the channels are heard again, so that a receiver that
// goes and asks what it missed leaves no second hole behind; a break after
// generation was read is left for another Mend.
func (set *Set) Mend(generation uint32) {
	for _, lane := range set.lanes {
		lane.mu.Lock()
		if !set.closed.Load() {
			lane.append(item{mark: true, generation: generation})
		}
		lane.mu.Unlock()
	}
}

// After calls fn once all that waits in the lanes now has been taken to its
// receivers, in the goroutine of a lane: fn must not block. It is not called if the
// set is closed before.
func (set *Set) After(fn func()) {
	left := new(atomic.Int32)
	left.Store(int32(len(set.lanes)))
	passed := &Channel{Interest: func() {
		if left.Add(-1) == 0 {
			fn()
		}
	}}
	for _, lane := range set.lanes {
		lane.mu.Lock()
		if !set.closed.Load() {
			lane.append(item{channel: passed, mark: true, lost: passing})
		}
		lane.mu.Unlock()
	}
}

// passing, as what is lost, is a mark of After: its channel is none, and Interest is
// what to call.
const passing = -1

// Channels is every channel now subscribed, and those that stand for patterns.
func (set *Set) Channels() []*Channel {
	var all []*Channel
	for _, lane := range set.lanes {
		lane.mu.Lock()
		for _, channel := range lane.channels {
			all = append(all, channel)
		}
		lane.mu.Unlock()
	}
	for _, p := range set.Patterns() {
		all = append(all, &p.Channel)
	}
	return all
}

// Add makes r a receiver of key, or returns nil if the set is closed. It keeps key.
func (set *Set) Add(key string, r Receiver) *Subscription {
	lane := set.Lane(key)
	lane.mu.Lock()
	defer lane.mu.Unlock()
	if set.closed.Load() {
		return nil
	}
	channel := lane.channels[key]
	if channel == nil {
		channel = &Channel{Key: key, lane: lane, generation: set.generation.Load()}
		lane.channels[key] = channel
	}
	subscription := &Subscription{channel: channel, receiver: r, since: lane.before + uint64(len(lane.queue))}
	subscription.next.Store(channel.first.Load())
	channel.first.Store(subscription)
	return subscription
}

// Channel is what the subscription is on.
func (s *Subscription) Channel() *Channel { return s.channel }

// End takes the receiver from its channel; ended says that it had been before.
// The channel stays until Forget, also when this was its last receiver.
func (s *Subscription) End() (ended bool) {
	if s.ended.Swap(true) {
		return true
	}
	lane := s.channel.lane
	lane.mu.Lock()
	defer lane.mu.Unlock()
	// The goroutine of the lane may be walking this list; it is left able to.
	place := &s.channel.first
	for at := place.Load(); at != nil; at = place.Load() {
		if at == s {
			place.Store(s.next.Load())
			break
		}
		place = &at.next
	}
	return false
}

// Heard reports whether anybody receives the channel.
func (c *Channel) Heard() bool { return c.first.Load() != nil }

// Pattern is what the channel stands for, or nil.
func (c *Channel) Pattern() *Pattern { return c.pattern }

// Forget removes the channel from its set if nobody receives it any more, and
// reports whether it did. Afterwards the channel is dead: the same key
// subscribed again is another one.
func (c *Channel) Forget() bool {
	c.lane.mu.Lock()
	defer c.lane.mu.Unlock()
	if c.first.Load() != nil {
		return false
	}
	if c.lane.channels[c.Key] == c {
		delete(c.lane.channels, c.Key)
	}
	return true
}

// Admit is the first half of publishing on this node: where the item is to be
// put after it was sent elsewhere (nil: nobody here receives it), or full.
func (lane *Lane) Admit(key string, bytes int) (channel *Channel, full bool) {
	lane.mu.Lock()
	channel = lane.channels[key]
	lane.mu.Unlock()
	if channel == nil || !channel.Heard() {
		return nil, false
	}
	return channel, lane.full(bytes)
}

// Put is the second half: it puts data, which is the lane's from now on, also
// if the lane filled up since Admit.
func (lane *Lane) Put(channel *Channel, data []byte) {
	lane.mu.Lock()
	defer lane.mu.Unlock()
	if lane.set.closed.Load() {
		return
	}
	lane.put(channel, data)
}

// Push puts an item that came from elsewhere, or drops it and marks the hole.
// data is the lane's from now on.
func (lane *Lane) Push(key string, data []byte) (dropped bool) {
	lane.mu.Lock()
	defer lane.mu.Unlock()
	channel := lane.channels[key]
	if channel == nil || !channel.Heard() {
		return false // a last one for a channel that was just left
	}
	if lane.full(len(data)) {
		lane.lost++
		lane.mark(channel, 1)
		return true
	}
	lane.put(channel, data)
	return false
}

// full says that an item of so many bytes does not fit; an empty lane takes any.
func (lane *Lane) full(bytes int) bool {
	waiting := lane.waiting.Load()
	return waiting > 0 && waiting+int64(bytes)+itemOverhead > lane.set.bytesMax
}

// put is called under mu.
func (lane *Lane) put(channel *Channel, data []byte) {
	if generation := lane.set.generation.Load(); channel.generation != generation {
		channel.generation = generation
		lane.mark(channel, 0)
	}
	channel.markAt = 0
	channel.queued.Add(1)
	lane.received++
	lane.waiting.Add(int64(len(data)) + itemOverhead)
	lane.append(item{channel: channel, data: data})
}

// mark is called under mu. Marks are not counted as waiting: a channel has at
// most one open mark in a queue.
func (lane *Lane) mark(channel *Channel, lost int32) {
	if channel.markAt > 0 && channel.markEpoch == lane.epoch {
		lane.queue[channel.markAt-1].lost += lost
		return
	}
	lane.append(item{channel: channel, lost: lost, mark: true})
	channel.markAt, channel.markEpoch = int32(len(lane.queue)), lane.epoch
}

// append is called under mu.
func (lane *Lane) append(it item) {
	lane.queue = append(lane.queue, it)
	if lane.asleep {
		lane.asleep = false
		lane.wake.Signal()
	}
}

// run is the lane's goroutine. It takes the whole queue at once, so that lock and
// wake are paid per burst and not per item.
func (lane *Lane) run() {
	var taken []item
	for {
		lane.mu.Lock()
		for len(lane.queue) == 0 && !lane.set.closed.Load() {
			lane.asleep = true
			lane.wake.Wait()
		}
		if lane.set.closed.Load() {
			lane.mu.Unlock()
			return
		}
		taken, lane.queue = lane.queue, taken[:0]
		at := lane.before
		lane.before += uint64(len(taken))
		lane.epoch++
		lane.mu.Unlock()

		for i := range taken {
			if lane.set.closed.Load() {
				return
			}
			lane.deliver(&taken[i], at+uint64(i))
			taken[i] = item{}
		}
		if cap(taken) > queueKept {
			taken = nil
		}
	}
}

// deliver takes one item or mark, the at-th of the lane, to whom it is for.
func (lane *Lane) deliver(it *item, at uint64) {
	switch {
	case it.channel == nil:
		lane.loseAll(it.generation, at)
	case it.mark && it.lost == passing:
		it.channel.Interest.(func())()
	case it.mark && it.lost == matched:
		lane.deliverMatched(it)
	case it.mark && it.lost == matchedHole:
		it.pattern.loseMatched()
	case it.mark:
		it.channel.lose(int(it.lost), at)
	default:
		more := it.channel.queued.Add(-1) > 0
		for s := it.channel.first.Load(); s != nil; s = s.next.Load() {
			if s.since <= at && !s.ended.Load() {
				s.receiver.Receive(it.data, more)
			}
		}
		lane.waiting.Add(-int64(len(it.data)) - itemOverhead)
	}
}

// loseAll leaves alone who was told since; who is told here stays behind if
// there was another break meanwhile, and is told again when that is mended.
func (lane *Lane) loseAll(generation uint32, at uint64) {
	lane.losePatterns(generation)
	var behind []*Channel
	lane.mu.Lock()
	for _, channel := range lane.channels {
		if int32(generation-channel.generation) > 0 {
			channel.generation = generation
			behind = append(behind, channel)
		}
	}
	lane.mu.Unlock()
	for _, channel := range behind {
		if lane.set.closed.Load() {
			return
		}
		channel.lose(0, at)
	}
}

func (c *Channel) lose(items int, at uint64) {
	for s := c.first.Load(); s != nil; s = s.next.Load() {
		if s.since <= at && !s.ended.Load() {
			s.receiver.Lost(items)
		}
	}
}
