package hub

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
)

const (
	// patternsMax bounds the patterns that this node follows, each once: they are
	// looked for with every item, and each is a subscription at the bus.
	patternsMax = 10_000

	// patternChannelsMax bounds the channels of one pattern whose items are put in
	// order: beyond it those that nothing waits for are forgotten.
	patternChannelsMax = 10_000

	// aliasTimeout bounds the wait for the bus when a pattern is left behind which
	// channels were followed.
	aliasTimeout = 10 * time.Second
)

// ErrTooManyPatterns answers a SubscribePattern beyond what a node may follow.
var ErrTooManyPatterns = fmt.Errorf("hub: more than %d patterns are followed on this node", patternsMax)

// pattern is what a channel that stands for a pattern has besides: its items are of
// many channels, each of which has its own order.
type pattern struct {
	mu        sync.Mutex
	sequences map[string]*sequence // of channels whose items have ids
	ended     bool
}

// following is what a subscriber to patterns has besides.
type following struct {
	// aliases are channels that it follows by name and hears by a pattern: it was
	// there first, so that no item could come twice or get lost between the two.
	aliases []string

	// later are channels that it has joined while a pattern that brought them is being
	// left: there the pattern counts, too.
	later []string
}

// Pattern is a pattern that a route's origin named, under its prefix. Error: what
// cannot be meant.
func Pattern(prefix, name string) (string, error) {
	if prefix != "" {
		first, _, _ := strings.Cut(name, ".")
		switch {
		case strings.ContainsAny(prefix, "*>"):
			return "", fmt.Errorf("pattern %q: the route's prefix %q has * or > in it, which would be wildcards here", name, prefix)
		case (first == "*" || first == ">") && !strings.HasSuffix(prefix, "."):
			return "", fmt.Errorf("pattern %q: the route's prefix %q does not end with a dot, so that a wildcard cannot follow it", name, prefix)
		}
	}
	err := pubsub.CheckPattern(context.Background(), name)
	if err == nil {
		err = pubsub.CheckPattern(context.Background(), prefix+name)
	}
	return prefix + name, err
}

// SubscribePattern is Subscribe for all channels that a pattern matches. Items of a
// channel that s follows by name as well come once.
func (s *Subscriber) SubscribePattern(ctx context.Context, name string) error {
	s.shard.mu.Lock()
	found := s.findIn(name, true) >= 0
	s.shard.mu.Unlock()
	if found {
		return nil
	}
	return s.join(ctx, name, true)
}

// UnsubscribePattern ends following a pattern. Channels that were followed by name
// meanwhile are followed on; what is published to them in this very moment may
// come twice.
func (s *Subscriber) UnsubscribePattern(name string) {
	s.shard.mu.Lock()
	var left []string
	if s.some != nil {
		for _, alias := range s.some.aliases {
			if pubsub.Match(name, alias) && !s.matchedLocked(alias, name) {
				left = append(left, alias)
			}
		}
	}
	s.shard.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), aliasTimeout)
	defer cancel()
	for _, alias := range left {
		s.shard.hub.unfollowed(s, alias)
		if err := s.join(ctx, alias, false); err != nil && !errors.Is(err, ErrLeft) {
			// It would be left with a hole that nobody sees.
			s.receiver.Notify(NoticeLost, alias)
		}
	}
	s.quit(name, true)
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	if s.some != nil {
		s.some.later = slices.DeleteFunc(s.some.later, func(channel string) bool {
			return pubsub.Match(name, channel) && !s.matchedLocked(channel, name)
		})
	}
}

// Patterns returns the patterns that s follows.
func (s *Subscriber) Patterns() []string {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	if s.some == nil {
		return nil
	}
	var names []string
	for i := range s.subs {
		if s.subs[i].ch.pattern != nil {
			names = append(names, s.subs[i].ch.name)
		}
	}
	return names
}

// alias notes that s follows a channel that it hears by a pattern, and returns
// whether it does.
func (s *Subscriber) alias(name string) bool {
	s.shard.mu.Lock()
	if s.some == nil || !s.matchedLocked(name, "") {
		s.shard.mu.Unlock()
		return false
	}
	s.some.aliases = append(s.some.aliases, name)
	var bringing []*channel
	for i := range s.subs {
		if ch := s.subs[i].ch; ch.pattern != nil && pubsub.Match(ch.name, name) {
			bringing = append(bringing, ch)
		}
	}
	s.shard.mu.Unlock()
	if s.updates.Load() { // what was missed before the pattern was heard was so of this channel, too
		for _, ch := range bringing {
			st := s.shard.hub.stripe(ch.name)
			st.mu.Lock()
			if st.patterns[ch.name] == ch {
				ch.updateLocked(true)
			}
			st.mu.Unlock()
		}
	}
	s.shard.hub.followed(s, name)
	return true
}

// matchedLocked says whether s follows a pattern that matches, other than but.
func (s *Subscriber) matchedLocked(channel, but string) bool {
	for i := range s.subs {
		if ch := s.subs[i].ch; ch.pattern != nil && ch.name != but && pubsub.Match(ch.name, channel) {
			return true
		}
	}
	return false
}

// joinedLocked notes what s follows from now on.
func (s *Subscriber) joinedLocked(name string, isPattern bool) {
	f := s.some
	if isPattern {
		f.later = slices.DeleteFunc(f.later, func(channel string) bool { return pubsub.Match(name, channel) })
		return
	}
	f.aliases = slices.DeleteFunc(f.aliases, func(alias string) bool { return alias == name })
	if s.matchedLocked(name, "") {
		f.later = append(f.later, name)
	}
}

// hearsLocked says whether an item of a channel is to come to s by this pattern: not
// if s follows the channel by its name, nor if another pattern brings it.
func (s *Subscriber) hearsLocked(pattern, channel string) bool {
	if s.find(channel) >= 0 && !slices.Contains(s.some.later, channel) {
		return false
	}
	for i := range s.subs {
		if ch := s.subs[i].ch; ch.pattern != nil && ch.name < pattern && pubsub.Match(ch.name, channel) {
			return false
		}
	}
	return true
}

// ReceiveFrom implements pubsub.PatternReceiver.
func (ch *channel) ReceiveFrom(name string, data []byte) {
	ch.hub.received.Inc()
	item, err := grip.ParseItem(data)
	if err != nil {
		ch.hub.refuse("item refused", "channel", name, "pattern", ch.name, "error", err)
		return
	}
	pub := ch.publication(name, item)
	if pub == nil {
		return
	}
	pub.channel = name
	ch.takeMatched(pub, name)
	pub.receipt.release(Counts{})
}

// takeMatched passes the publication on in the order of its channel. That one may just
// have been forgotten to make room for others, and then begins anew: its items come one
// at a time, so that twice is enough.
func (ch *channel) takeMatched(pub *Publication, name string) {
	for range 2 {
		q := ch.pattern.sequence(ch, name, sequenced(pub.Item))
		if q == nil {
			ch.spread(pub, false)
			return
		}
		if q.take(pub, false) {
			return
		}
	}
}

// sequence returns the order of one of the channels, or nil if it has none and
// needs none.
func (p *pattern) sequence(ch *channel, name string, needed bool) *sequence {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.sequences[name]
	if q != nil || !needed || p.ended {
		return q
	}
	if len(p.sequences) >= patternChannelsMax {
		maps.DeleteFunc(p.sequences, func(_ string, q *sequence) bool { return q.idle() })
	}
	if len(p.sequences) >= patternChannelsMax {
		return nil // as it comes
	}
	q = &sequence{ch: ch}
	p.sequences[name] = q
	return q
}

func (p *pattern) end() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	for _, q := range p.all() {
		q.end()
	}
}

// forget forgets the last ids of all channels.
func (p *pattern) forget() {
	for _, q := range p.all() {
		q.forget()
	}
}

func (p *pattern) all() []*sequence {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.sequences))
}

// deliverPattern is deliver for what stands for a pattern. Who hears it is looked up
// for each run.
func (s *shard) deliverPattern(ch *channel, notice Notice) {
	name := ""
	if len(s.now.pubs) > 0 {
		name = s.now.pubs[0].channel
	}
	s.hear(ch, name)
	s.hand(&Run{Channel: name, run: &s.now}, s.hearing, notice, ch.name)
	if len(s.now.pubs) == 0 && notice == NoticeUpdate {
		s.updateAliases(ch.name)
	}
	clear(s.hearing)
}

// updateAliases tells those of s.hearing who asked for it to look again at the channels
// that they follow by name and hear by the pattern.
func (s *shard) updateAliases(pattern string) {
	for _, sub := range s.hearing {
		if !sub.updates.Load() {
			continue
		}
		var aliases []string
		s.mu.Lock()
		if sub.some != nil {
			for _, alias := range sub.some.aliases {
				if pubsub.Match(pattern, alias) {
					aliases = append(aliases, alias)
				}
			}
		}
		s.mu.Unlock()
		for _, alias := range aliases {
			sub.receiver.Notify(NoticeUpdate, alias)
		}
	}
}

// hear makes s.hearing of those who hear a channel by a pattern; all if there is
// no item.
func (s *shard) hear(ch *channel, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hearing = s.hearing[:0]
	for _, sub := range ch.members[s.index].list {
		if name == "" && len(s.now.pubs) == 0 || sub.hearsLocked(ch.name, name) {
			s.hearing = append(s.hearing, sub)
		}
	}
}

// bringing returns what brings the items of a channel on this node: what stands for
// itself, and for patterns that match it.
func (h *Hub) bringing(name string) (all []*channel) {
	st := h.stripe(name)
	st.mu.Lock()
	if ch := st.channels[name]; ch != nil {
		all = append(all, ch)
	}
	st.mu.Unlock()
	return append(all, h.matching(name)...)
}

// matching returns what stands for the patterns that match a channel.
func (h *Hub) matching(name string) (all []*channel) {
	if h.patternCount.Load() == 0 {
		return nil
	}
	for i := range h.stripes {
		st := &h.stripes[i]
		st.mu.Lock()
		for _, ch := range st.patterns {
			if pubsub.Match(ch.name, name) {
				all = append(all, ch)
			}
		}
		st.mu.Unlock()
	}
	return all
}

// aliased returns the clients that follow a channel by its name and hear it by a
// pattern.
func (h *Hub) aliased(name string) (all []Client) {
	for _, ch := range h.matching(name) {
		for i, s := range h.shards {
			s.mu.Lock()
			for _, sub := range ch.members[i].list {
				client, ok := sub.receiver.(Client)
				if ok && !sub.left && sub.some != nil && slices.Contains(sub.some.aliases, name) && !slices.Contains(all, client) {
					all = append(all, client)
				}
			}
			s.mu.Unlock()
		}
	}
	return all
}
