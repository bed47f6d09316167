package zmq

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/gripway/gripway/pubsub"
)

// changesMax bounds the subscriptions and unsubscriptions that wait for one
// publisher to read them, in number. One that is further behind is cut off: when
// it comes again it is told what is subscribed then.
const changesMax = 1 << 17

// subscriptions is a bus with publishers beside it: what is subscribed at the bus is
// subscribed at them too, and their items come to the same receivers.
type subscriptions struct {
	bus pubsub.Bus // takes the rest

	// Guarded by mu.
	mu         sync.RWMutex
	closed     bool
	receivers  map[string]*joined // by channel; the first of a list
	patterns   map[*joinedPattern]struct{}
	begins     map[string]int // how many patterns begin so
	publishers map[*publisher]struct{}
}

// joined is a receiver with two sources. To the bus it is the receiver, to the
// receiver's owner the subscription.
type joined struct {
	subs     *subscriptions
	channel  string
	receiver pubsub.Receiver
	inner    pubsub.Subscription

	// Guarded by subs.mu.
	next  *joined
	ended bool

	turn sync.Mutex // held during a call of receiver: calls come one at a time
}

// publisher is a connection of the SUB socket.
type publisher struct {
	wake chan struct{} // has room for one; never closed

	// Guarded by subscriptions.mu.
	changes []change
	slow    bool
}

// change is a subscription or unsubscription that a publisher is to be told.
type change struct {
	channel   string
	subscribe bool
}

func newSubscriptions(bus pubsub.Bus) *subscriptions {
	return &subscriptions{bus: bus, receivers: map[string]*joined{}, patterns: map[*joinedPattern]struct{}{}, begins: map[string]int{}, publishers: map[*publisher]struct{}{}}
}

// Publish is Bus.Publish; publishers are not told.
func (s *subscriptions) Publish(ctx context.Context, channel string, data []byte) error {
	return s.bus.Publish(ctx, channel, data)
}

// Subscribe is Bus.Subscribe. Publishers are told soon; when they know, nobody can
// say.
func (s *subscriptions) Subscribe(ctx context.Context, channel string, r pubsub.Receiver) (pubsub.Subscription, error) {
	j := &joined{subs: s, channel: strings.Clone(channel), receiver: r}
	inner, err := s.bus.Subscribe(ctx, j.channel, j)
	if err != nil {
		return nil, err
	}
	j.inner = inner
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return j, nil // the bus has ended it, or will now
	}
	first := s.receivers[j.channel]
	j.next = first
	s.receivers[j.channel] = j
	if first == nil && s.begins[j.channel] == 0 {
		s.tellLocked(change{j.channel, true})
	}
	return j, nil
}

// Unsubscribe is Subscription.Unsubscribe.
func (j *joined) Unsubscribe() error {
	s := j.subs
	s.mu.Lock()
	if !j.ended {
		j.ended = true
		s.removeLocked(j)
	}
	s.mu.Unlock()
	return j.inner.Unsubscribe()
}

func (s *subscriptions) removeLocked(j *joined) {
	first := s.receivers[j.channel]
	switch {
	case first == nil: // closed
	case first != j:
		for ; first != nil; first = first.next {
			if first.next == j {
				first.next = j.next
				return
			}
		}
	case j.next != nil:
		s.receivers[j.channel] = j.next
	default:
		delete(s.receivers, j.channel)
		if s.begins[j.channel] == 0 {
			s.tellLocked(change{j.channel, false})
		}
	}
}

// Close is Bus.Close.
func (s *subscriptions) Close() error {
	s.mu.Lock()
	s.closed = true
	all := s.allLocked()
	clear(s.receivers)
	for _, j := range all {
		j.ended = true
	}
	var patterns []*joinedPattern
	for j := range s.patterns {
		j.ended = true
		patterns = append(patterns, j)
	}
	clear(s.patterns)
	clear(s.begins)
	s.mu.Unlock()
	err := s.bus.Close()
	for _, j := range all {
		j.turn.Lock() // waits for a call that is running
		j.turn.Unlock()
	}
	for _, j := range patterns {
		j.turn.Lock()
		j.turn.Unlock()
	}
	return err
}

func (s *subscriptions) allLocked() []*joined {
	all := make([]*joined, 0, len(s.receivers))
	for _, j := range s.receivers {
		for ; j != nil; j = j.next {
			all = append(all, j)
		}
	}
	return all
}

// Receive takes an item from the bus.
func (j *joined) Receive(data []byte, more bool) {
	j.turn.Lock()
	defer j.turn.Unlock()
	j.receiver.Receive(data, more)
}

// Lost takes word of a hole from the bus.
func (j *joined) Lost(items int) {
	j.turn.Lock()
	defer j.turn.Unlock()
	j.receiver.Lost(items)
}

// deliver gives an item of a publisher to who follows its channel.
func (j *joined) deliver(data []byte) {
	j.turn.Lock()
	defer j.turn.Unlock()
	j.subs.mu.RLock()
	ended := j.ended
	j.subs.mu.RUnlock()
	if !ended {
		j.receiver.Receive(data, false)
	}
}

// heard returns who follows a channel.
func (s *subscriptions) heard(channel []byte) []*joined {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []*joined
	for j := s.receivers[string(channel)]; j != nil; j = j.next {
		all = append(all, j)
	}
	return all
}

// lost tells everybody that a publisher was away.
func (s *subscriptions) lost() {
	s.mu.RLock()
	all := s.allLocked()
	var patterns []*joinedPattern
	for j := range s.patterns {
		patterns = append(patterns, j)
	}
	s.mu.RUnlock()
	for _, j := range all {
		j.Lost(0)
	}
	for _, j := range patterns {
		j.Lost(0)
	}
}

// join makes a publisher known that is to be told all that is subscribed.
func (s *subscriptions) join() *publisher {
	p := &publisher{wake: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	p.changes = make([]change, 0, len(s.receivers))
	for channel := range s.receivers {
		if channel != "" {
			p.changes = append(p.changes, change{channel, true})
		}
	}
	for begin := range s.begins {
		if s.receivers[begin] == nil || begin == "" {
			p.changes = append(p.changes, change{begin, true})
		}
	}
	s.publishers[p] = struct{}{}
	p.wake <- struct{}{}
	return p
}

func (s *subscriptions) leave(p *publisher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.publishers, p)
}

func (s *subscriptions) tellLocked(c change) {
	if c.channel == "" {
		return // to ZeroMQ that is all channels
	}
	s.tellAllLocked(c)
}

func (s *subscriptions) tellAllLocked(c change) {
	for p := range s.publishers {
		if len(p.changes) >= changesMax+len(s.receivers) {
			p.slow, p.changes = true, nil
		}
		if !p.slow {
			p.changes = append(p.changes, c)
		}
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// take returns what a publisher is to be told next.
func (s *subscriptions) take(p *publisher) (changes []change, slow bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changes, p.changes = p.changes, nil
	return changes, p.slow
}

// sub is the SUB socket.
func (in *Intake) sub() socket {
	return socket{typeSub, []string{"PUB", "XPUB"}, in.serveSub, make(chan struct{}, connectionsMax)}
}

// serveSub reads items; its child writes subscriptions.
func (in *Intake) serveSub(c *peerConn, dialed bool) error {
	p := in.subs.join()
	ctx, cancel := context.WithCancel(in.ctx)
	var writer sync.WaitGroup
	var writeErr error
	writer.Go(func() {
		defer c.conn.Close() // ends the reader
		writeErr = in.tell(ctx, c, p, dialed)
	})
	err := in.readItems(c)
	in.subs.leave(p)
	cancel()
	c.conn.Close() // ends a write that hangs
	writer.Wait()
	if errors.Is(err, net.ErrClosed) && writeErr != nil {
		return writeErr // which is why
	}
	return err
}

// tell writes what a publisher is to know. With holes, everybody who followed a
// channel before the publisher knew hears that items may have been missed.
func (in *Intake) tell(ctx context.Context, c *peerConn, p *publisher, holes bool) error {
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
		changes, slow := in.subs.take(p)
		if slow {
			return errSlow
		}
		if err := c.writeChanges(changes); err != nil {
			return err
		}
		if holes {
			holes = false
			in.subs.lost()
		}
	}
}

// writeChanges sends subscriptions as ZMTP 3.0 does: messages, 01 or 00 and the
// prefix.
func (c *peerConn) writeChanges(changes []change) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, change := range changes {
		if i%1024 == 0 { // the time is for a piece, not for however many there are
			if err := c.begin(); err != nil {
				return err
			}
		}
		c.frame(0, 1+len(change.channel))
		if change.subscribe {
			c.out.WriteByte(1)
		} else {
			c.out.WriteByte(0)
		}
		if _, err := c.out.WriteString(change.channel); err != nil {
			return err
		}
	}
	return c.out.Flush()
}

// readItems delivers what a publisher sends, to the connection's end.
func (in *Intake) readItems(c *peerConn) error {
	for {
		parts, err := c.read()
		if reason := reasonOf(err); reason != "" {
			in.refuse(typeSub, reason, err)
			continue
		}
		if err != nil {
			return err
		}
		if len(parts) != 2 {
			in.refuse(typeSub, refusedParts, fmt.Errorf("%w: got %d, want 2", errParts, len(parts)))
			continue
		}
		heard, matching := in.subs.heard(parts[0]), in.subs.matching(parts[0])
		if len(heard)+len(matching) == 0 {
			in.stats.unheard.Inc()
			continue
		}
		item, err := readItem(parts[1], false)
		if err != nil {
			in.refuse(typeSub, refusedInvalid, fmt.Errorf("channel %.80q: %w", parts[0], err))
			continue
		}
		in.stats.items[typeSub].Inc()
		for _, j := range heard {
			j.deliver(item.Raw())
		}
		for _, j := range matching {
			j.deliver(string(parts[0]), item.Raw())
		}
	}
}
