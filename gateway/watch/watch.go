// Package watch knows who is held on this node, and tells it: to backends, as
// events in a channel or at a URL (events.go), and to programs that speak ZeroMQ,
// as Pushpin's statistics (stats.go).
//
//	w := watch.New(watch.Options{Node: "a", Listeners: []watch.Listener{events, stats}})
//	…                                  // hub.Options.Watch, and the keepers', is w
//
// Nothing of it exists unless somebody asked for it: rooms that have no watcher
// compare a pointer and go on. With one, each coming and going takes one lock for a
// moment; what is slow (a bus, a URL) has a bounded queue of its own.
package watch

import (
	"sync"
	"time"

	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/grip"
)

// Kind is what happened.
type Kind int

// The kinds.
const (
	Connect Kind = iota
	Disconnect
	Subscribe
	Unsubscribe
)

var kinds = []string{"connect", "disconnect", "subscribe", "unsubscribe"}

func (k Kind) String() string { return kinds[k] }

// Kinds are the names of all kinds.
func Kinds() []string { return kinds }

// Event is something that happened to a client.
type Event struct {
	Kind   Kind
	Time   time.Time
	Client hub.About

	Channel     string // Subscribe, Unsubscribe
	Subscribers int    // the clients of this kind that follow Channel here now

	Reason   string        // Disconnect
	Duration time.Duration // Disconnect: how long it was held
	Clients  int           // held on this node now
}

// Listener is told all that happens, in order and one at a time. It must not block.
type Listener interface {
	Event(e *Event)

	// Counts, Received, Delivered, Spoke and Requested are what hub.Watcher says; they come
	// from anywhere, at once.
	Counts() bool
	Received(channel string, item *grip.Item)
	Delivered(channel string, item *grip.Item, format hub.Format, clients int)
	Spoke(route string)
	Requested(route string)
}

// Watch is a hub.Watcher. It may be used concurrently.
type Watch struct {
	listeners []Listener
	now       func() time.Time

	// Guarded by mu.
	mu          sync.Mutex
	clients     map[string]*client
	subscribers map[followed]int
}

// client is one that is held.
type client struct {
	about    hub.About
	since    time.Time
	channels map[followed]struct{} // nil while there are none
}

// followed is a channel as clients of one kind follow it.
type followed struct {
	format  hub.Format
	channel string
}

// New returns a Watch without clients.
func New(listeners ...Listener) *Watch {
	return &Watch{listeners: listeners, now: time.Now, clients: make(map[string]*client), subscribers: make(map[followed]int)}
}

// tellLocked tells the listeners. The lock keeps what they hear in order.
func (w *Watch) tellLocked(e Event) {
	e.Time, e.Clients = w.now(), len(w.clients)
	for _, l := range w.listeners {
		l.Event(&e)
	}
}

// Came implements hub.Watcher.
func (w *Watch) Came(about hub.About) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.clients[about.ID]; c != nil {
		c.about.Format = about.Format
		return
	}
	w.clients[about.ID] = &client{about: about, since: w.now()}
	w.tellLocked(Event{Kind: Connect, Client: about})
}

// Left implements hub.Watcher.
func (w *Watch) Left(id, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.clients[id]
	if c == nil {
		return
	}
	for f := range c.channels { // usually none: it has left them all
		w.unfollowLocked(c, f)
	}
	delete(w.clients, id)
	w.tellLocked(Event{Kind: Disconnect, Client: c.about, Reason: reason, Duration: w.now().Sub(c.since)})
}

// Followed implements hub.Watcher.
func (w *Watch) Followed(id string, format hub.Format, channel string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, f := w.clients[id], followed{format, channel}
	if c == nil {
		return // it has left already
	}
	if _, already := c.channels[f]; already {
		return
	}
	if c.channels == nil {
		c.channels = make(map[followed]struct{}, 1)
	}
	c.channels[f] = struct{}{}
	w.subscribers[f]++
	w.tellLocked(Event{Kind: Subscribe, Client: c.about, Channel: channel, Subscribers: w.subscribers[f]})
}

// Unfollowed implements hub.Watcher.
func (w *Watch) Unfollowed(id string, format hub.Format, channel string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.clients[id]; c != nil {
		w.unfollowLocked(c, followed{format, channel})
	}
}

func (w *Watch) unfollowLocked(c *client, f followed) {
	if _, follows := c.channels[f]; !follows {
		return
	}
	delete(c.channels, f)
	left := w.subscribers[f] - 1
	if w.subscribers[f] = left; left == 0 {
		delete(w.subscribers, f)
	}
	about := c.about
	about.Format = f.format // what it was held as
	w.tellLocked(Event{Kind: Unsubscribe, Client: about, Channel: f.channel, Subscribers: left})
}

// Received implements hub.Watcher.
func (w *Watch) Received(channel string, item *grip.Item) {
	for _, l := range w.listeners {
		l.Received(channel, item)
	}
}

// Counts implements hub.Watcher.
func (w *Watch) Counts() bool {
	for _, l := range w.listeners {
		if l.Counts() {
			return true
		}
	}
	return false
}

// Delivered implements hub.Watcher.
func (w *Watch) Delivered(channel string, item *grip.Item, format hub.Format, clients int) {
	for _, l := range w.listeners {
		l.Delivered(channel, item, format, clients)
	}
}

// Spoke implements hub.Watcher.
func (w *Watch) Spoke(id string) {
	w.mu.Lock()
	route := ""
	if c := w.clients[id]; c != nil {
		route = c.about.Route
	}
	w.mu.Unlock()
	for _, l := range w.listeners {
		l.Spoke(route)
	}
}

// Requested tells of a client's request for a route with that id.
func (w *Watch) Requested(route string) {
	for _, l := range w.listeners {
		l.Requested(route)
	}
}
