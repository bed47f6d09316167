// Package hub brings published items to this node's subscribers.
//
// The bus tells it of every item of a channel that somebody here follows. Each
// item is parsed once and becomes a Publication, whose bytes for each kind of
// client are made on first use and shared by all. Subscribers are spread over
// shards; a shard's one goroutine hands each of its subscribers what is due,
// without blocking and without a lock. Items that wait together are handed over
// together, as a Run: one write for many items when the node is busy, no delay
// when it is not.
//
// The hub knows nothing of connections: a Receiver does.
package hub

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
)

const (
	// firstUpdateDefault is how long after a channel's first subscription its
	// subscribers are told to ask again: what was published before this node
	// heard the channel was missed (grip: "first-sub update").
	firstUpdateDefault = time.Second

	// lingerDefault is how long a channel stays subscribed after the last long
	// poll has left it: the next one usually comes at once.
	lingerDefault = 60 * time.Second

	// lingeringMax bounds the channels that are subscribed without a subscriber.
	lingeringMax = 1 << 16

	// queueLenDefault bounds the publications that wait for one shard. When they
	// do, the bus is not read, and says so to its publishers or counts what is lost.
	queueLenDefault = 1 << 14

	// queueBytesDefault is the same in bytes: as much again as may wait in a lane of
	// the bus. What is being delivered does not count.
	queueBytesDefault = 32 << 20

	// stripeCount is how many locks share the table of channels.
	stripeCount = 64
)

// ErrLeft answers a Subscribe that comes after Leave.
var ErrLeft = errors.New("hub: subscriber has left")

// Options describe a Hub.
type Options struct {
	// Bus is where items come from. It is not closed with the hub.
	Bus pubsub.Bus

	// Shards is how many goroutines deliver. Zero means GOMAXPROCS.
	Shards int

	// Frame makes the WebSocket frame of a message, compressed for clients that
	// negotiated that. It is called in one goroutine at a time for an item.
	Frame func(m *grip.MessageItem, deflated bool) []byte

	// FirstUpdate is how long after a channel's first subscription a
	// NoticeUpdate is sent. Zero means 1 s, negative means never.
	FirstUpdate time.Duration

	// Linger is how long a channel that a lingering subscriber left stays
	// subscribed. Zero means 60 s, negative means not at all.
	Linger time.Duration

	// MessageWait is how long an item waits for the one before it. Zero means 5 s.
	MessageWait time.Duration

	// IDTTL is how long an item's id is remembered, to drop the same one sent
	// again. Zero means 60 s, negative means never.
	IDTTL time.Duration

	// History says which channels keep their latest items, and how many, to fill
	// gaps of clients: see Between. Nil, and nil of a channel, keeps none.
	History func(channel string) *History

	// QueueLen and QueueBytes bound the publications waiting for one shard; while
	// they do, the bus is not read. Zero means 16384, and 32 MiB (or one item, however
	// long).
	QueueLen   int
	QueueBytes int

	// Watch is told who follows what. Nil is nobody.
	Watch Watcher

	// Metrics counts; nil does not.
	Metrics *metrics.Registry

	// Log is told of items that cannot be read; nil is silent.
	Log *slog.Logger
}

// Hub is one node's subscriptions. It may be used concurrently.
type Hub struct {
	opts    Options
	log     *slog.Logger
	shards  []*shard
	seed    maphash.Seed
	stripes [stripeCount]stripe

	received      metrics.Counter
	refused       metrics.Counter
	lost          metrics.Counter
	breaks        metrics.Counter
	duplicates    metrics.Counter
	outOfOrder    metrics.Counter
	gaps          metrics.Counter
	channels      metrics.Gauge
	subscriptions metrics.Gauge
	delivered     map[string]metrics.Counter // by grip format
	lingering     metrics.Gauge

	warned       atomic.Int64 // when an item was last refused aloud, in Unix seconds
	patternCount atomic.Int32
	historyBytes atomic.Int64
	replayed     metrics.Counter

	receipts receipts
	given    given

	lingerMu    sync.Mutex
	lingerCount int
}

type stripe struct {
	mu       sync.Mutex
	channels map[string]*channel
	patterns map[string]*channel
}

func (st *stripe) table(patterns bool) map[string]*channel {
	if patterns {
		return st.patterns
	}
	return st.channels
}

// New returns a Hub that delivers until Close.
func New(opts Options) *Hub {
	if opts.Shards == 0 {
		opts.Shards = runtime.GOMAXPROCS(0)
	}
	if opts.FirstUpdate == 0 {
		opts.FirstUpdate = firstUpdateDefault
	}
	if opts.Linger == 0 {
		opts.Linger = lingerDefault
	}
	if opts.MessageWait == 0 {
		opts.MessageWait = messageWaitDefault
	}
	if opts.IDTTL == 0 {
		opts.IDTTL = idTTLDefault
	}
	if opts.QueueLen == 0 {
		opts.QueueLen = queueLenDefault
	}
	if opts.QueueBytes == 0 {
		opts.QueueBytes = queueBytesDefault
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	m := opts.Metrics
	h := &Hub{
		opts: opts,
		log:  opts.Log,
		seed: maphash.MakeSeed(),

		received:      m.Counter("items_received_total", "Items that came over the bus for channels with a subscriber on this node."),
		refused:       m.Counter("items_refused_total", "Items from the bus that could not be read."),
		lost:          m.Counter("items_lost_total", "Items that the bus says it dropped before this node had them."),
		breaks:        m.Counter("channel_breaks_total", "Times that a channel's items may have been missed because the bus's connection broke."),
		duplicates:    m.Counter("items_duplicate_total", "Items dropped because their id, or one that follows the same item, was there before."),
		outOfOrder:    m.Counter("items_out_of_order_total", "Items that waited for the one before them."),
		gaps:          m.Counter("items_gaps_total", "Items that waited in vain for the one before them."),
		replayed:      m.Counter("items_replayed_total", "Items that clients were given again out of a channel's history."),
		channels:      m.Gauge("channels", "Channels this node listens to."),
		subscriptions: m.Gauge("subscriptions", "Subscriptions of this node's clients."),
		lingering:     m.Gauge("channels_lingering", "Channels this node still listens to although their last long poll has left."),
		delivered: m.Counters("items_delivered_total", "Items handed to clients, by format.", "format",
			FormatResponse.String(), FormatStream.String(), FormatMessage.String()),
	}
	for i := range h.stripes {
		h.stripes[i].channels, h.stripes[i].patterns = make(map[string]*channel), make(map[string]*channel)
	}
	for i := range opts.Shards {
		s := newShard(h, i)
		h.shards = append(h.shards, s)
		go s.run()
	}
	return h
}

// Close stops delivering and waits until nothing is being delivered.
func (h *Hub) Close() {
	for _, s := range h.shards {
		s.close()
	}
	for i := range h.stripes {
		st := &h.stripes[i]
		st.mu.Lock()
		for _, table := range []map[string]*channel{st.channels, st.patterns} {
			for name, ch := range table {
				delete(table, name)
				ch.stopLocked()
				select {
				case <-ch.ready:
					if ch.sub != nil {
						ch.sub.Unsubscribe()
					}
				default: // subscribe sees that it is gone
				}
			}
		}
		st.mu.Unlock()
	}
}

// limits says how much of the channel is kept; nil for nothing.
func (h *Hub) limits(name string) *History {
	if h.opts.History == nil {
		return nil
	}
	limits := h.opts.History(name)
	if limits != nil {
		own := *limits
		own.defaults()
		limits = &own
	}
	return limits
}

func (h *Hub) stripe(name string) *stripe {
	return &h.stripes[maphash.String(h.seed, name)%stripeCount]
}

// Format is the kind of client, and so the part of an item it is sent.
type Format uint8

// The formats of GRIP.
const (
	FormatResponse Format = iota // http-response: a held response, answered once
	FormatStream                 // http-stream: a held response, appended to
	FormatMessage                // ws-message: a WebSocket
)

func (f Format) String() string {
	return [...]string{"http-response", "http-stream", "ws-message"}[f]
}

// Notice tells a Receiver something that is not an item.
type Notice uint8

const (
	// NoticeUpdate: the channel has just been subscribed on this node, or the bus
	// was away: items may have been missed. Only for those who asked for it.
	NoticeUpdate Notice = iota

	// NoticeLost: the bus dropped items of the channel.
	NoticeLost
)

// Receiver is one client as the hub sees it. Its methods are called in the
// shard's goroutine and must not block; calls for one Receiver come one at a time.
type Receiver interface {
	// Deliver hands over items of a channel, in order, and returns how many of
	// them were for this client. The run may not be kept; its bytes may.
	Deliver(run *Run) int

	// Notify tells of a channel what no item says.
	Notify(notice Notice, channel string)
}

// Subscriber is one client's place in the hub. It is part of its owner's struct:
// Join makes it ready.
type Subscriber struct {
	// Fixed after Join.
	receiver Receiver
	shard    *shard
	format   Format
	lingers  bool

	updates atomic.Bool

	// Guarded by shard.mu.
	left bool
	subs []subscription
	some *following // nil for a subscriber that has never followed a pattern
}

// subscription is a subscriber's place in a channel.
type subscription struct {
	ch    *channel
	index int // in the shard's members of ch
}

// Manner says how a subscriber follows its channels.
type Manner struct {
	Format Format

	// Updates asks for NoticeUpdate.
	Updates bool

	// Lingers keeps channels subscribed for a while after it has left.
	Lingers bool
}

// Join makes s ready, in the given shard (counted modulo their number).
func (h *Hub) Join(s *Subscriber, r Receiver, shard int, manner Manner) {
	s.receiver, s.shard = r, h.shards[shard%len(h.shards)]
	s.format, s.lingers = manner.Format, manner.Lingers
	s.updates.Store(manner.Updates)
}

// WantUpdates asks for NoticeUpdate, as Manner.Updates does, from now on.
func (s *Subscriber) WantUpdates() { s.updates.Store(true) }

// Subscribe returns once this node hears the channel; items that other nodes
// publish in the moment before may be missed. Subscribing twice is once. Errors
// are the bus's, ErrLeft, or the context's.
func (s *Subscriber) Subscribe(ctx context.Context, name string) error {
	if s.Subscribed(name) || s.alias(name) {
		return nil
	}
	return s.join(ctx, name, false)
}

// join follows a channel or a pattern.
func (s *Subscriber) join(ctx context.Context, name string, isPattern bool) error {
	h := s.shard.hub
	ch, err := h.acquire(ctx, name, isPattern, s.updates.Load())
	if err != nil {
		return err
	}
	s.shard.mu.Lock()
	if s.left {
		s.shard.mu.Unlock()
		h.release(ch, s.lingers)
		return ErrLeft
	}
	if s.findIn(name, isPattern) >= 0 {
		// Somebody else was quicker. Two places would be taken for one another when
		// they are left.
		s.shard.mu.Unlock()
		h.release(ch, s.lingers)
		return nil
	}
	m := &ch.members[s.shard.index]
	s.subs = append(s.subs, subscription{ch: ch, index: len(m.list)})
	if isPattern && s.some == nil {
		s.some = new(following)
	}
	if s.some != nil {
		s.joinedLocked(name, isPattern)
	}
	m.list = append(m.list, s)
	s.shard.mu.Unlock()
	h.subscriptions.Inc()
	h.followed(s, name)
	return nil
}

// Subscribed says whether s follows the channel.
func (s *Subscriber) Subscribed(name string) bool {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	return s.find(name) >= 0 || s.some != nil && slices.Contains(s.some.aliases, name)
}

// Channels returns the names of the channels that s follows by their names.
func (s *Subscriber) Channels() []string {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	names := make([]string, 0, len(s.subs))
	for i := range s.subs {
		if s.subs[i].ch.pattern == nil {
			names = append(names, s.subs[i].ch.name)
		}
	}
	if s.some != nil {
		names = append(names, s.some.aliases...)
	}
	return names
}

// Len returns how many channels and patterns s follows.
func (s *Subscriber) Len() int {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	n := len(s.subs)
	if s.some != nil {
		n += len(s.some.aliases)
	}
	return n
}

func (s *Subscriber) find(name string) int { return s.findIn(name, false) }

func (s *Subscriber) findIn(name string, isPattern bool) int {
	for i := range s.subs {
		if s.subs[i].ch.name == name && (s.subs[i].ch.pattern != nil) == isPattern {
			return i
		}
	}
	return -1
}

// Delivered counts items that were handed to the client after Deliver had
// returned.
func (s *Subscriber) Delivered(items int) {
	if items > 0 {
		s.shard.hub.delivered[s.format.String()].Add(float64(items))
	}
}

// Unsubscribe ends following a channel. A delivery that has begun may still come.
func (s *Subscriber) Unsubscribe(name string) { s.quit(name, false) }

// quit leaves a channel or a pattern.
func (s *Subscriber) quit(name string, isPattern bool) {
	s.shard.mu.Lock()
	i := s.findIn(name, isPattern)
	if i < 0 {
		if s.some != nil && !isPattern {
			if i := slices.Index(s.some.aliases, name); i >= 0 {
				s.some.aliases = slices.Delete(s.some.aliases, i, i+1)
				defer s.shard.hub.unfollowed(s, name)
			}
		}
		s.shard.mu.Unlock()
		return
	}
	sub := s.subs[i]
	s.shard.removeLocked(sub)
	last := len(s.subs) - 1
	s.subs[i] = s.subs[last]
	s.subs[last] = subscription{}
	s.subs = s.subs[:last]
	s.shard.mu.Unlock()
	s.shard.hub.subscriptions.Dec()
	s.shard.hub.unfollowed(s, name)
	s.shard.hub.release(sub.ch, s.lingers)
}

// Leave ends following all channels, for good. A delivery that has begun may
// still come. It may be called more than once, and together with Subscribe.
func (s *Subscriber) Leave() {
	s.shard.mu.Lock()
	s.left = true
	subs := s.subs
	var aliases []string
	if s.some != nil {
		aliases = s.some.aliases
	}
	s.subs, s.some = nil, nil
	for _, sub := range subs {
		s.shard.removeLocked(sub)
	}
	s.shard.mu.Unlock()
	for _, sub := range subs {
		s.shard.hub.subscriptions.Dec()
		s.shard.hub.unfollowed(s, sub.ch.name)
		s.shard.hub.release(sub.ch, s.lingers)
	}
	for _, alias := range aliases {
		s.shard.hub.unfollowed(s, alias)
	}
}
