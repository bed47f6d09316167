// Package pubsub is what lies between the nodes of a gateway: an item
// published on one node reaches every node that subscribed to its channel.
//
// It is for whoever holds clients (the gateway's hub) and for whoever brings
// another carrier. The bytes of an item are opaque here, so a bus can be tested
// with three-byte items and replaced without touching what they mean.
//
//	var bus pubsub.Memory
//	defer bus.Close()
//	subscription, err := bus.Subscribe(ctx, "room", receiver)
//	…
//	err = bus.Publish(ctx, "room", []byte("hello"))
//
// [Memory] is a bus of one node. Package natsbus is a bus of many. Package
// bustest holds the promises below as tests; every bus passes them.
//
// What it is not: a queue or a log. Nothing is stored and nothing is sent twice;
// who comes later hears at most what was on its way just then. A bus tells of
// every hole it knows of ([Receiver.Lost]); closing holes is the business of
// the origin, by ids and recovery.
package pubsub

import (
	"context"
	"errors"
	"fmt"
)

// Limits that every bus shares, so that what works on one node works on many.
const (
	// ChannelBytesMax is how long a channel's name may be. Three times this, a
	// prefix and two numbers have to fit into one line of the NATS protocol,
	// which is 4096 bytes on a server that was not told otherwise.
	ChannelBytesMax = 1024

	// ItemBytesMax is how long an item may be: a publish body of 1 000 000 bytes
	// whose content grows when it is encoded again (base64, escapes), and
	// less than the 8 MiB from which NATS calls a payload too large. A bus may
	// allow less; a NATS server that was not told otherwise takes 1 MiB.
	ItemBytesMax = 4 << 20
)

// Errors a caller may decide on. They come wrapped, with the value that was wrong.
var (
	// ErrClosed: the bus was closed.
	ErrClosed = errors.New("bus is closed")

	// ErrBusy: this node has more items waiting for its own receivers than it
	// may keep. Nothing was sent to any node; publish again a moment later.
	ErrBusy = errors.New("bus is busy")

	// ErrDisconnected: the bus has no connection to the other nodes right now
	// and goes on trying. Nothing was sent.
	ErrDisconnected = errors.New("bus is disconnected")

	// ErrDenied: whoever carries the items does not allow this channel.
	ErrDenied = errors.New("channel is denied by the bus")

	// ErrChannelTooLong: the channel's name is over [ChannelBytesMax].
	ErrChannelTooLong = errors.New("channel name is too long")

	// ErrItemTooLong: the item is over what this bus carries, at most [ItemBytesMax].
	ErrItemTooLong = errors.New("item is too long")
)

// Bus carries items to every node that subscribed to their channel. All methods
// may be called concurrently, also from within a Receiver, except that Close
// then waits for itself.
//
// A channel's name is any bytes, none at all included, up to [ChannelBytesMax].
// No name has a meaning: ">" and "*" are channels like "room". Patterns are
// something else, and have a method of their own.
type Bus interface {
	// Publish hands data to the bus, which keeps no reference to it. A nil error
	// means accepted, not delivered. Items that one caller publishes to a channel one
	// after the other arrive in that order everywhere. Errors: [ErrClosed],
	// [ErrBusy], [ErrDisconnected], [ErrChannelTooLong], [ErrItemTooLong], ctx's.
	Publish(ctx context.Context, channel string, data []byte) error

	// Subscribe returns once this node hears the channel: what is published here
	// afterwards is heard. Another node may publish for a moment longer without
	// reaching us (in a NATS cluster about a millisecond): an origin that cannot
	// lose an item gives it a previous id. r may be called before Subscribe
	// returns, and until then items may be missed without a call of Lost. Several
	// receivers of one channel each get every item.
	// Subscribe waits while the bus is disconnected; ctx ends the wait.
	// Errors: [ErrClosed], [ErrDenied], [ErrChannelTooLong], ctx's.
	Subscribe(ctx context.Context, channel string, r Receiver) (Subscription, error)

	// SubscribePattern is Subscribe for all channels that a pattern matches (see
	// [CheckPattern]), also those that nobody has named yet. r gets each of their
	// items once, whoever else receives it. Errors besides: [ErrPattern].
	SubscribePattern(ctx context.Context, pattern string, r PatternReceiver) (Subscription, error)

	// Close ends all subscriptions, items still waiting included, and waits for
	// running calls of receivers. Closing again waits as well and returns nil.
	Close() error
}

// Receiver is where a subscription's items go. The calls for one channel come
// one at a time and in order; calls for different channels may come at once. A
// receiver that dawdles holds up the channels that share its lane, so it
// hands on and returns.
type Receiver interface {
	// Receive takes one item. data is shared by all receivers and never changes
	// again: keep it as long as you like, do not write to it. more means another item
	// of this channel waits already and follows at once (unless the subscription
	// or the bus ends first), so what is done once for several items
	// may wait for it.
	Receive(data []byte, more bool)

	// Lost tells of a hole: since the last Receive, items of this channel may
	// have been missed. items is how many are known to be lost; 0 means nobody
	// can say how many, maybe none (a connection broke and was made again).
	Lost(items int)
}

// Subscription is one receiver's place on one channel.
type Subscription interface {
	// Unsubscribe ends it. Nothing published after it returns reaches the
	// receiver; one call that is already under way may still be finishing.
	// Again is harmless, also after Close.
	Unsubscribe() error
}

// CheckChannel is the first thing a Bus asks of every call: ctx still wanted, and
// the channel's name within [ChannelBytesMax].
func CheckChannel(ctx context.Context, channel string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(channel) > ChannelBytesMax {
		return fmt.Errorf("channel %q…: %w: %d bytes, at most %d", channel[:32], ErrChannelTooLong, len(channel), ChannelBytesMax)
	}
	return nil
}

// CheckItem is what a Bus asks of an item that it carries up to bytesMax.
func CheckItem(channel string, bytes, bytesMax int) error {
	if bytes > bytesMax {
		return fmt.Errorf("channel %q: %w: %d bytes, at most %d", channel, ErrItemTooLong, bytes, bytesMax)
	}
	return nil
}
