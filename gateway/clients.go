package gateway

import "github.com/gripway/gripway/gateway/hub"

// Who names held clients: by one of these.
type Who struct {
	Connection string // a WebSocket's Connection-Id, or the id of a held response
	User       string // whose clients: the meta "user" that the origin gave them
	Channel    string // who follows it, by its whole name
}

// Find returns the clients of this node that are meant.
func (g *Gateway) Find(who Who) []hub.Client {
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

// Ended counts clients that were ended, by kind.
type Ended struct {
	WebSockets int `json:"websockets"`
	Streams    int `json:"streams"`
	Responses  int `json:"responses"`
}

// End ends the clients of this node that are meant; see hub.Client.
func (g *Gateway) End(who Who, code int, reason string) (ended Ended) {
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
func (g *Gateway) Refresh(who Who) (refreshed int) {
	for _, client := range g.Find(who) {
		if client.Refresh() {
			refreshed++
		}
	}
	return refreshed
}
