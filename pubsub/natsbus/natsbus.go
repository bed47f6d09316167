// Package natsbus is a pubsub.Bus over NATS: items reach every gateway node and
// every program that speaks NATS.
//
//	bus, err := natsbus.Open(natsbus.Options{})                             // one node, nothing to install or to reach
//	bus, err := natsbus.Open(natsbus.Options{URL: "nats://nats.internal"})  // a NATS server that is there already
//	bus, err := natsbus.Open(natsbus.Options{Embedded: natsbus.Embedded{    // nodes that are the NATS cluster themselves
//		ClusterListen: ":6222", Peers: []string{"node-b:6222", "node-c:6222"}, ClusterSecret: "…",
//	}})
//
// # Where the server is
//
// There always is one: elsewhere, at URL, or inside this process, reached through a
// pipe. The one inside opens no port unless somebody else is to connect to it
// (Embedded.Listen, Embedded.ClusterListen), and is ready in a few milliseconds. Items
// go one way whatever the options are, so what works on one node works on many. Other
// rooms of the process can have a connection of their own: [Bus.Connect]. With
// Embedded.StoreDir it has JetStream, whose buckets are keys and values that all nodes
// share: [Bus.Buckets].
//
// # Publishing with NATS alone
//
// A program needs a connection (Embedded.Listen, or the server at URL), the
// channel's subject, and the item as JSON, as in the items list of POST /publish/; the
// subject decides the channel, the item need not name it:
//
//	nats pub gripway.item.news.sport '{"formats":{"ws-message":{"content":"goal"}}}'
//
// The subject is "gripway.item." and the channel with every byte but letters, digits
// and - _ ~ . percent-encoded (capital digits), as URL encoders do; see [Subject]
// for the rest. Any other way of writing a channel reaches nobody. No reply is
// sent and headers are ignored. To see what is published, subscribe to
// "gripway.item.>".
//
// Nodes speak to each other on "gripway.ask", "gripway.answer.>" and "gripway.hello" (see
// ask.go); where an account has permissions, it needs those as well, or nodes
// know nothing of each other.
//
// # What is promised
//
// All of package pubsub. In particular: an item published here is put before this
// node's receivers directly and sent to the others once, in one order for each
// channel; it does not come back. While there is no connection, Publish returns
// pubsub.ErrDisconnected and Subscribe waits; the connection is tried again
// forever, and once it is back every receiver's Lost is called, after the channels
// are heard again. An embedded server's peers may go and come: every receiver's
// Lost is called within a second after either. Between servers elsewhere
// (a NATS cluster at URL) this node cannot see what happens.
//
// An item may have [pubsub.ItemBytesMax] bytes with an embedded server, and what
// the server at URL allows otherwise: its max_payload, 1 MiB unless it was told
// otherwise, against publish bodies of up to 1 000 000 bytes, whose items may grow when
// they are encoded again. What is too long is refused with both numbers.
package natsbus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/nats-io/nats.go"

	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/pubsub/internal/lanes"
)

// Options say which NATS and how. The zero value is a bus of one node.
type Options struct {
	// URL is a NATS server elsewhere, or several separated by commas:
	// nats://host:4222, tls://…, with user:password@ if need be. Empty means
	// what Embedded says.
	URL string

	// Name is what people call this node: in other nodes' logs and answers, and where
	// NATS lists connections or servers, there with a random end. Empty means "gripway"
	// for NATS, and the host's name for nodes. Of a longer name 200 bytes count.
	Name string

	// SubjectPrefix is what subjects begin with, so that several gateways can share a
	// NATS: letters, digits, - _ ~ and dots between parts. Empty means "gripway".
	SubjectPrefix string

	// Who this node is for the server at URL: at most one of these.
	CredsFile string // path of a .creds file (JWT and seed), read again at each connection
	NKeyFile  string // path of a file with an nkey seed
	Token     string
	User      string // and Password
	Password  string

	// TLS for the connection to URL; its zero value uses TLS if the URL or the server
	// ask for it, with the system's authorities.
	TLS TLS

	// Embedded is the server inside this process. Not together with URL.
	Embedded Embedded

	// Lanes is in how many parts, each in its own goroutine, items are taken to
	// receivers. Zero means one for each processor Go may use, from 2 to 16.
	Lanes int

	// LaneBytes is how many bytes may wait in one lane, each item counted with 64
	// bytes more. Beyond that Publish returns pubsub.ErrBusy for this
	// node's channels, and items from elsewhere are dropped and told as Lost. Zero
	// means 32 MiB.
	LaneBytes int

	// Log hears when connections and peers go and come, and what an embedded server
	// warns of. Nil discards.
	Log *slog.Logger
}

// Bus is a pubsub.Bus over NATS. Make it with [Open].
type Bus struct {
	// Fixed after Open.
	lanes    *lanes.Set
	begin    string // prefix and "item" of every subject
	link     *link
	embedded *embedded // nil: the server is elsewhere
	talk     *talk
	closing  sync.Once

	closed    atomic.Bool
	published atomic.Uint64
	refused   atomic.Uint64
}

var _ pubsub.Bus = (*Bus)(nil)

// Open starts what Options ask for and connects to it. Errors: an option that is
// wrong, a port that is taken, a server that does not answer (it is tried once; a
// connection that was there is made again forever).
func Open(o Options) (*Bus, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := checkPrefix(prefixOr(o.SubjectPrefix)); err != nil {
		return nil, fmt.Errorf("natsbus: %w", err)
	}
	o.Name = strings.ToValidUTF8(o.Name[:min(len(o.Name), nameMax)], "")
	b := &Bus{begin: prefixOr(o.SubjectPrefix) + itemPart, lanes: lanes.New(o.Lanes, o.LaneBytes)}
	b.talk = newTalk(b, o)
	if err := b.open(o); err != nil {
		b.Close()
		return nil, fmt.Errorf("natsbus: %w", err)
	}
	b.talk.begin()
	return b, nil
}

func (b *Bus) open(o Options) (err error) {
	switch {
	case o.URL != "" && !o.Embedded.isZero():
		return fmt.Errorf("a server at %q and an embedded one: only one of them can be used", redact(o.URL))
	case o.URL != "":
		err = b.openLink(o)
	case o.Embedded.unreachable() && o.Embedded.saysWhom():
		return errors.New("options of an embedded server without a listener: nobody could reach it")
	default:
		if b.embedded, err = startEmbedded(o); err == nil {
			err = b.openLink(o)
		}
		if err == nil {
			b.embedded.watchRoutes(o, b.lanes, b.talk)
		}
	}
	return err
}

// subjects are buffers for the subjects of Publish.
var subjects = sync.Pool{New: func() any { return new(make([]byte, 0, 256)) }}

// Publish is Bus.Publish. For a channel without receivers on this node it does not
// allocate. While a server elsewhere does not take bytes, it may block for up to
// five seconds beyond ctx.
func (b *Bus) Publish(ctx context.Context, channel string, data []byte) error {
	if err := pubsub.CheckChannel(ctx, channel); err != nil {
		return err
	}
	if err := pubsub.CheckItem(channel, len(data), pubsub.ItemBytesMax); err != nil {
		return err
	}
	if b.closed.Load() {
		return pubsub.ErrClosed
	}
	err := b.publish(channel, data)
	switch {
	case err == nil:
		b.published.Add(1)
		return nil
	case errors.Is(err, pubsub.ErrBusy):
		b.refused.Add(1)
	case b.closed.Load():
		return pubsub.ErrClosed
	}
	return fmt.Errorf("channel %q: %w", channel, err)
}

func (b *Bus) publish(channel string, data []byte) error {
	buffer := subjects.Get().(*[]byte)
	defer subjects.Put(buffer)
	*buffer = appendSubject((*buffer)[:0], b.begin, channel)
	// nats.go and the lane's map read the subject while they are called and do not
	// keep it, so that it may lie in a buffer that is used again. A test watches.
	subject := unsafe.String(unsafe.SliceData(*buffer), len(*buffer))

	// Out keeps items of a channel in one order on this node and on the others.
	lane := b.lanes.Lane(subject)
	lane.Out.Lock()
	defer lane.Out.Unlock()
	heard, full := lane.Admit(subject, len(data))
	patterns := b.lanes.Matching(subject, 0)
	if full || len(patterns) > 0 && lane.Full(len(data)) {
		return pubsub.ErrBusy
	}
	if err := b.link.publish(subject, data); err != nil {
		return err
	}
	if heard == nil && len(patterns) == 0 {
		return nil
	}
	data = bytes.Clone(data)
	if heard != nil {
		lane.Put(heard, data)
	}
	for _, p := range patterns {
		lane.PutMatched(p, strings.Clone(subject), data)
	}
	return nil
}

// Subscribe is Bus.Subscribe.
func (b *Bus) Subscribe(ctx context.Context, channel string, r pubsub.Receiver) (pubsub.Subscription, error) {
	if err := pubsub.CheckChannel(ctx, channel); err != nil {
		return nil, err
	}
	if b.closed.Load() {
		return nil, pubsub.ErrClosed
	}
	added := b.lanes.Add(string(appendSubject(nil, b.begin, channel)), r)
	if added == nil {
		return nil, pubsub.ErrClosed
	}
	s := &subscription{added, b.link}
	if err := b.link.join(ctx, added.Channel()); err != nil {
		s.Unsubscribe()
		return nil, fmt.Errorf("channel %q: %w", channel, err)
	}
	return s, nil
}

// Connect returns a connection of the caller's own to the NATS that carries this
// bus, for what else NATS can do: through a pipe if the server is inside this process,
// else to URL, as whom Options say. It has nats.go's ways, which options change; what
// it sends, this bus hears like anybody else's. The caller closes it, before the bus.
func (b *Bus) Connect(options ...nats.Option) (*nats.Conn, error) {
	if b.closed.Load() {
		return nil, fmt.Errorf("natsbus: %w", pubsub.ErrClosed)
	}
	conn, err := b.link.dial(options)
	if err != nil {
		return nil, fmt.Errorf("natsbus: %w", err)
	}
	return conn, nil
}

// SubscribePattern is Bus.SubscribePattern: a subscription with the same wildcards,
// which mean the same to NATS.
func (b *Bus) SubscribePattern(ctx context.Context, pattern string, r pubsub.PatternReceiver) (pubsub.Subscription, error) {
	if err := pubsub.CheckPattern(ctx, pattern); err != nil {
		return nil, err
	}
	if b.closed.Load() {
		return nil, pubsub.ErrClosed
	}
	added := b.lanes.AddPattern(string(appendPattern(nil, b.begin, pattern)), &patternReceiver{r, b.begin})
	if added == nil {
		return nil, pubsub.ErrClosed
	}
	s := &patternSubscription{added, b.link}
	if err := b.link.join(ctx, &added.Channel); err != nil {
		s.Unsubscribe()
		return nil, fmt.Errorf("pattern %q: %w", pattern, err)
	}
	return s, nil
}

// patternReceiver is a receiver whose keys are subjects.
type patternReceiver struct {
	pubsub.PatternReceiver
	begin string
}

// ReceiveKey passes over what is no channel's subject: other programs may publish
// to any that a wildcard matches.
func (r *patternReceiver) ReceiveKey(key string, data []byte) {
	if channel, ok := channelOf(r.begin, key); ok {
		r.ReceiveFrom(channel, data)
	}
}

type patternSubscription struct {
	added *lanes.Pattern
	link  *link
}

func (s *patternSubscription) Unsubscribe() error {
	if ended := s.added.End(); !ended {
		s.link.leave(&s.added.Channel)
	}
	return nil
}

// Close is Bus.Close. Items that were accepted are sent first, for up to a second.
func (b *Bus) Close() error {
	b.closing.Do(func() {
		b.closed.Store(true)
		b.talk.close()
		if b.link != nil { // nil: Open failed
			b.link.close()
		}
		if b.embedded != nil {
			b.embedded.close()
		}
		b.lanes.Close()
	})
	return nil
}

// Stats is how it stands; the numbers count from Open.
type Stats struct {
	Connected  bool   // to the server
	Peers      int    // other nodes connected to the embedded server now
	Nodes      int    // other nodes that are known, wherever the server is
	Channels   int    // subscribed on this node now
	Published  uint64 // items accepted by Publish
	Refused    uint64 // items refused because this node was busy
	Received   uint64 // items for channels of this node, from here or elsewhere
	Lost       uint64 // items from elsewhere dropped because this node was busy
	Reconnects uint64 // connections to the server made again
	Breaks     uint64 // times that all receivers had to be told of a hole
}

// Stats takes its numbers one after the other, not at one moment.
func (b *Bus) Stats() Stats {
	counts := b.lanes.Counts()
	s := Stats{
		Connected:  !b.closed.Load() && b.link.up.Load(),
		Channels:   counts.Channels,
		Published:  b.published.Load(),
		Refused:    b.refused.Load(),
		Received:   counts.Received,
		Lost:       counts.Lost,
		Reconnects: b.link.reconnects.Load(),
		Breaks:     uint64(b.lanes.Generation()),
	}
	if b.embedded != nil {
		s.Peers = b.embedded.peers()
	}
	s.Nodes = b.talk.others()
	return s
}

// ClientAddr is where Embedded.Listen listens, with the port it got; "" if it does not.
func (b *Bus) ClientAddr() string {
	if b.embedded == nil || !b.embedded.open {
		return ""
	}
	return b.embedded.server.Addr().String()
}

// ClusterAddr is where Embedded.ClusterListen listens, with the port it got; "" if
// it does not.
func (b *Bus) ClusterAddr() string {
	if b.embedded == nil || b.embedded.server.ClusterAddr() == nil {
		return ""
	}
	return b.embedded.server.ClusterAddr().String()
}

type subscription struct {
	added *lanes.Subscription
	link  *link
}

func (s *subscription) Unsubscribe() error {
	if ended := s.added.End(); ended {
		return nil
	}
	if channel := s.added.Channel(); !channel.Heard() {
		s.link.leave(channel)
	}
	return nil
}
