package hub

// Client is a Receiver whose connection can be spoken to from outside. Its methods
// may be called from anywhere and do not block.
type Client interface {
	Receiver

	// End ends what the client is held with, properly: a WebSocket with the code and
	// reason (0: 1000), a stream as if it were complete, a long poll with what it
	// would be answered when its time is up. False means that it is ending already.
	End(code int, reason string) bool

	// Refresh has the origin asked although nothing happened. False means that this
	// is no client whose origin can be asked so: only a WebSocket over HTTP is.
	Refresh() bool

	// Stand is how the client stands to items of a channel that it follows.
	Stand(channel string) Stand

	// ID names the client, on all nodes: a WebSocket's Connection-Id, or "http-" and
	// a number.
	ID() string

	// Format is the kind of client.
	Format() Format
}

// Clients returns those who follow the channel on this node, at this moment. They
// may be gone by the time they are spoken to.
func (h *Hub) Clients(name string) []Client {
	st := h.stripe(name)
	st.mu.Lock()
	ch := st.channels[name]
	st.mu.Unlock()
	all := h.aliased(name)
	if ch == nil {
		return all
	}
	for i, s := range h.shards {
		s.mu.Lock()
		for _, sub := range ch.members[i].list {
			// While the list is walked, those who have left are still in it.
			if client, ok := sub.receiver.(Client); ok && !sub.left {
				all = append(all, client)
			}
		}
		s.mu.Unlock()
	}
	return all
}

// UserMeta is the name of the meta that says whose connection it is (GRIP's
// filters skip-self and skip-users read the same).
const UserMeta = "user"

// Users finds held clients by whose they are. Only clients that have the meta are
// in it, so that the others cost nothing. Its zero value is ready to use; whoever
// owns it sees to it that one call comes at a time.
type Users[T comparable] struct {
	clients map[string]map[T]struct{}
	names   map[T]string
}

// Set says whose the client is; "" takes it out.
func (u *Users[T]) Set(client T, name string) {
	before, known := u.names[client]
	if before == name {
		return
	}
	if known {
		delete(u.names, client)
		delete(u.clients[before], client)
		if len(u.clients[before]) == 0 {
			delete(u.clients, before)
		}
	}
	if name == "" {
		return
	}
	if u.clients == nil {
		u.clients, u.names = make(map[string]map[T]struct{}), make(map[T]string)
	}
	if u.clients[name] == nil {
		u.clients[name] = make(map[T]struct{}, 1)
	}
	u.clients[name][client] = struct{}{}
	u.names[client] = name
}

// Of returns the clients of a user.
func (u *Users[T]) Of(name string) []T {
	all := make([]T, 0, len(u.clients[name]))
	for client := range u.clients[name] {
		all = append(all, client)
	}
	return all
}
