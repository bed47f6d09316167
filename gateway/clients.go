package gateway

import (
	"context"

	"github.com/gripway/gripway/gateway/cluster"
	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/grip"
)

var _ cluster.Node = (*Gateway)(nil)

// Became returns what became of an item on this node.
func (g *Gateway) Became(ctx context.Context, asked hub.Receipt) hub.Counts {
	return g.hub.Became(ctx, asked)
}

// Candidates returns how many of this node could be given an item for one.
func (g *Gateway) Candidates(channel string, formats hub.Formats, id string) (n int, seen bool) {
	return g.hub.Candidates(channel, formats, id)
}

// DeliverOne gives an item to one client of this node.
func (g *Gateway) DeliverOne(ctx context.Context, channel string, item *grip.Item, behind bool) (taken bool) {
	return g.hub.DeliverOne(ctx, channel, item, behind)
}

// Find returns the clients of this node that are meant.
func (g *Gateway) Find(who cluster.Who) []hub.Client {
	switch {
	case who.Connection != "":
		if client := g.client(who.Connection); client != nil {
			return []hub.Client{client}
		}
		return nil
	case who.User != "":
		return append(g.sockets.ClientsOf(who.User), g.holds.ClientsOf(who.User)...)
	}
	return g.hub.Clients(who.Channel)
}

func (g *Gateway) client(id string) hub.Client {
	if client := g.sockets.Client(id); client != nil {
		return client
	}
	return g.holds.Client(id)
}

// Alive returns those of the ids that are held on this node.
func (g *Gateway) Alive(ids []string) []string {
	alive := []string{}
	for _, id := range ids {
		if g.client(id) != nil {
			alive = append(alive, id)
		}
	}
	return alive
}

// End ends the clients of this node that are meant; see hub.Client.
func (g *Gateway) End(who cluster.Who, code int, reason string) (ended cluster.Ended) {
	for _, client := range g.Find(who) {
		if !client.End(code, reason) {
			continue
		}
		switch client.Format() {
		case hub.FormatMessage:
			ended.WebSockets++
		case hub.FormatStream:
			ended.Streams++
		default:
			ended.Responses++
		}
	}
	return ended
}

// Refresh has the origins of the WebSockets over HTTP that are meant asked, and
// returns how many they are.
func (g *Gateway) Refresh(who cluster.Who) (refreshed int) {
	for _, client := range g.Find(who) {
		if client.Refresh() {
			refreshed++
		}
	}
	return refreshed
}
