package zmq

import (
	"context"
	"strings"
	"sync"

	"github.com/gripway/gripway/pubsub"
)

// joinedPattern is joined for a pattern. Publishers are told what all its channels
// begin with, and what of theirs does not match is passed over.
type joinedPattern struct {
	subs     *subscriptions
	pattern  string
	begin    string // before the first wildcard; "" is all
	receiver pubsub.PatternReceiver
	inner    pubsub.Subscription

	// Guarded by subs.mu.
	ended bool

	turn sync.Mutex // held during a call of receiver: publishers and bus take turns
}

// SubscribePattern is Bus.SubscribePattern.
func (s *subscriptions) SubscribePattern(ctx context.Context, pattern string, r pubsub.PatternReceiver) (pubsub.Subscription, error) {
	j := &joinedPattern{subs: s, pattern: strings.Clone(pattern), receiver: r}
	j.begin = j.pattern[:max(strings.IndexAny(j.pattern, "*>"), 0)]
	inner, err := s.bus.SubscribePattern(ctx, pattern, j)
	if err != nil {
		return nil, err
	}
	j.inner = inner
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return j, nil // the bus has ended it, or will now
	}
	s.patterns[j] = struct{}{}
	s.begins[j.begin]++
	if s.begins[j.begin] == 1 && (s.receivers[j.begin] == nil || j.begin == "") {
		s.tellAllLocked(change{j.begin, true})
	}
	return j, nil
}

// Unsubscribe is Subscription.Unsubscribe.
func (j *joinedPattern) Unsubscribe() error {
	s := j.subs
	s.mu.Lock()
	if _, there := s.patterns[j]; there {
		delete(s.patterns, j)
		s.begins[j.begin]--
		if s.begins[j.begin] == 0 {
			delete(s.begins, j.begin)
			if s.receivers[j.begin] == nil || j.begin == "" {
				s.tellAllLocked(change{j.begin, false})
			}
		}
	}
	j.ended = true
	s.mu.Unlock()
	return j.inner.Unsubscribe()
}

// ReceiveFrom takes an item from the bus.
func (j *joinedPattern) ReceiveFrom(channel string, data []byte) {
	j.turn.Lock()
	defer j.turn.Unlock()
	j.receiver.ReceiveFrom(channel, data)
}

// Lost takes word of a hole from the bus.
func (j *joinedPattern) Lost(items int) {
	j.turn.Lock()
	defer j.turn.Unlock()
	j.receiver.Lost(items)
}

// deliver gives an item of a publisher to who follows a pattern.
func (j *joinedPattern) deliver(channel string, data []byte) {
	j.turn.Lock()
	defer j.turn.Unlock()
	j.subs.mu.RLock()
	ended := j.ended
	j.subs.mu.RUnlock()
	if !ended {
		j.receiver.ReceiveFrom(channel, data)
	}
}

// matching returns who follows a channel by a pattern.
func (s *subscriptions) matching(channel []byte) []*joinedPattern {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []*joinedPattern
	for j := range s.patterns {
		if pubsub.Match(j.pattern, string(channel)) {
			all = append(all, j)
		}
	}
	return all
}
