package hub

import "github.com/gripway/gripway/grip"

// Watcher is told who comes and goes on this node, and what they are handed. A
// hub without one tells nobody, at the price of a comparison. Its methods are
// called from anywhere, also with locks held: they must not block, nor call back.
type Watcher interface {
	// Came: a client is held from now on. One of an id that is known already is the
	// same client held in another way.
	Came(client About)

	// Left: it is not held any more, in the words of the metric that counts reasons.
	Left(id, reason string)

	// Followed and Unfollowed: a client follows a channel, by its whole name, or does
	// so no longer. They come between Came and Left.
	Followed(id string, format Format, channel string)
	Unfollowed(id string, format Format, channel string)

	// Received: an item came for a channel that is followed here. Delivered: so many
	// clients of a kind were handed it, and maybe more will be.
	Received(channel string, item *grip.Item)
	Delivered(channel string, item *grip.Item, format Format, clients int)

	// Counts says whether each item is to be counted for itself. If not, Delivered
	// names the first of several and counts them all.
	Counts() bool

	// Spoke: a WebSocket client sent a message.
	Spoke(id string)
}

// About is what is known of a held client.
type About struct {
	ID     string
	Format Format
	Route  string // the id that the route was given; "" = none
	Client string // its address, without port
	TLS    bool
}

// Watcher is Options.Watch.
func (h *Hub) Watcher() Watcher { return h.opts.Watch }

// watched is a Receiver with a name.
type watched interface{ ID() string }

// followed tells the watcher, if there is one.
func (h *Hub) followed(s *Subscriber, channel string) {
	if h.opts.Watch == nil {
		return
	}
	if client, ok := s.receiver.(watched); ok {
		h.opts.Watch.Followed(client.ID(), s.format, channel)
	}
}

func (h *Hub) unfollowed(s *Subscriber, channel string) {
	if h.opts.Watch == nil {
		return
	}
	if client, ok := s.receiver.(watched); ok {
		h.opts.Watch.Unfollowed(client.ID(), s.format, channel)
	}
}
