package lanes

import (
	"strings"
	"sync"
	"sync/atomic"
)

// PatternReceiver is pubsub.PatternReceiver, but for the key, which is the one of
// the owner of the set.
type PatternReceiver interface {
	ReceiveKey(key string, data []byte)
	Lost(items int)
}

// Pattern is one receiver of all keys that match: parts between dots, where * is
// any one and > is all that follow, at least one. Items of one key go through its
// lane like those of a Channel, so they come one at a time and in order; those of
// different keys may come at once.
type Pattern struct {
	// Channel stands for the pattern where the owner of the set looks for what to
	// hold elsewhere: its Key is the pattern. It receives nothing itself.
	Channel

	set      *Set
	receiver PatternReceiver
	ended    atomic.Bool
	lost     atomic.Int32    // how many were dropped since the open mark
	behind   []atomic.Uint32 // by lane: the generation that was told there last
}

// patterns are those of a set, found by the keys they match.
type patterns struct {
	count atomic.Int32 // so that a set without any pays one look

	mu   sync.RWMutex
	root branch
}

// branch is a place in the tree of parts.
type branch struct {
	next map[string]*branch
	here []*Pattern // that end here
	rest []*Pattern // that end here with >
}

// matched, as what is lost, is a mark that is an item of a pattern: its channel has
// the item's key, and the pattern as its Interest. matchedHole is a hole in all
// keys of a pattern.
const (
	matched     = -2
	matchedHole = -3
)

// AddPattern makes r a receiver of all keys that match, or returns nil if the set
// is closed.
func (set *Set) AddPattern(key string, r PatternReceiver) *Pattern {
	p := &Pattern{set: set, receiver: r, behind: make([]atomic.Uint32, len(set.lanes))}
	p.Key, p.lane, p.pattern = key, set.Lane(key), p
	generation := set.generation.Load()
	for i := range p.behind {
		p.behind[i].Store(generation)
	}
	p.Channel.first.Store(new(Subscription)) // heard
	ps := &set.patterns
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if set.closed.Load() {
		return nil
	}
	place, rest := ps.root.find(key, true)
	if rest {
		place.rest = append(place.rest, p)
	} else {
		place.here = append(place.here, p)
	}
	ps.count.Add(1)
	return p
}

// End takes the pattern from its set; ended says that it had been before.
func (p *Pattern) End() (ended bool) {
	if p.ended.Swap(true) {
		return true
	}
	p.Channel.first.Store(nil)
	ps := &p.set.patterns
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.root.remove(p.Key, p)
	ps.count.Add(-1)
	return false
}

// Patterns is every pattern there is.
func (set *Set) Patterns() []*Pattern {
	if set.patterns.count.Load() == 0 {
		return nil
	}
	set.patterns.mu.RLock()
	defer set.patterns.mu.RUnlock()
	return set.patterns.root.all(nil)
}

// Matching is the patterns that match a key. Without any patterns it costs
// nothing.
func (set *Set) Matching(key string, partsMax int) []*Pattern {
	if set.patterns.count.Load() == 0 {
		return nil
	}
	set.patterns.mu.RLock()
	defer set.patterns.mu.RUnlock()
	return set.patterns.root.match(key, partsMax, nil)
}

// find goes to where a pattern ends, and makes the way there if it is not.
func (b *branch) find(key string, grow bool) (place *branch, rest bool) {
	for more := true; more; {
		var part string
		part, key, more = strings.Cut(key, ".")
		if part == ">" {
			return b, true
		}
		next := b.next[part]
		if next == nil {
			if !grow {
				return nil, false
			}
			if b.next == nil {
				b.next = make(map[string]*branch)
			}
			next = new(branch)
			b.next[strings.Clone(part)] = next
		}
		b = next
	}
	return b, false
}

// remove takes a pattern out, and the branches that have none any more.
func (b *branch) remove(key string, p *Pattern) (empty bool) {
	part, after, more := strings.Cut(key, ".")
	switch next := b.next[part]; {
	case part == ">":
		b.rest = without(b.rest, p)
	case next == nil:
	case more:
		if next.remove(after, p) {
			delete(b.next, part)
		}
	default:
		if next.here = without(next.here, p); next.empty() {
			delete(b.next, part)
		}
	}
	return b.empty()
}

func (b *branch) empty() bool { return len(b.next) == 0 && len(b.here) == 0 && len(b.rest) == 0 }

// without returns a new list: the old one may be in use.
func without(list []*Pattern, p *Pattern) []*Pattern {
	var left []*Pattern
	for _, other := range list {
		if other != p {
			left = append(left, other)
		}
	}
	return left
}

// match adds those that match the parts of key; the last of partsMax parts is all
// that is left (0: there is no such number).
func (b *branch) match(key string, partsMax int, found []*Pattern) []*Pattern {
	found = append(found, b.rest...)
	part, after, more := strings.Cut(key, ".")
	if partsMax == 1 {
		part, more = key, false
	}
	step := func(next *branch) {
		switch {
		case next == nil:
		case more:
			found = next.match(after, partsMax-1, found)
		default:
			found = append(found, next.here...)
		}
	}
	step(b.next["*"])
	if part != "*" { // a key may have a star as a part of its own
		step(b.next[part])
	}
	return found
}

func (b *branch) all(found []*Pattern) []*Pattern {
	found = append(append(found, b.here...), b.rest...)
	for _, next := range b.next {
		found = next.all(found)
	}
	return found
}

// PutMatched is Put for a pattern that Matching has found.
func (lane *Lane) PutMatched(p *Pattern, key string, data []byte) {
	lane.mu.Lock()
	defer lane.mu.Unlock()
	if !lane.set.closed.Load() {
		lane.putMatched(p, key, data)
	}
}

// PushMatched is Push for a pattern.
func (lane *Lane) PushMatched(p *Pattern, key string, data []byte) (dropped bool) {
	lane.mu.Lock()
	defer lane.mu.Unlock()
	if p.ended.Load() || lane.set.closed.Load() {
		return false
	}
	if lane.full(len(data)) {
		lane.lost++
		if p.lost.Add(1) == 1 { // else a mark is in a queue
			lane.append(item{channel: &p.Channel, mark: true, lost: matchedHole, pattern: p})
		}
		return true
	}
	lane.putMatched(p, key, data)
	return false
}

// Full says that no item of so many bytes fits into the lane.
func (lane *Lane) Full(bytes int) bool { return lane.full(bytes) }

// putMatched is called under mu.
func (lane *Lane) putMatched(p *Pattern, key string, data []byte) {
	if generation := lane.set.generation.Load(); p.behind[lane.index].Load() != generation {
		p.behind[lane.index].Store(generation)
		lane.append(item{channel: &p.Channel, mark: true, lost: matchedHole, pattern: p})
	}
	lane.received++
	lane.waiting.Add(int64(len(data)) + itemOverhead)
	lane.append(item{channel: &Channel{Key: key}, data: data, mark: true, lost: matched, pattern: p})
}

// deliverMatched takes an item to its pattern's receiver.
func (lane *Lane) deliverMatched(it *item) {
	if !it.pattern.ended.Load() {
		it.pattern.receiver.ReceiveKey(it.channel.Key, it.data)
	}
	lane.waiting.Add(-int64(len(it.data)) - itemOverhead)
}

// loseMatched tells a pattern's receiver of a hole.
func (p *Pattern) loseMatched() {
	if lost := p.lost.Swap(0); !p.ended.Load() {
		p.receiver.Lost(int(lost))
	}
}

// losePatterns is loseAll for patterns.
func (lane *Lane) losePatterns(generation uint32) {
	for _, p := range lane.set.Patterns() {
		if behind := p.behind[lane.index].Load(); int32(generation-behind) > 0 && p.behind[lane.index].CompareAndSwap(behind, generation) {
			p.loseMatched()
		}
	}
}
