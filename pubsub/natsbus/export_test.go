package natsbus

import (
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Names for the tests outside the package.

func init() { watchEvery, helloEvery = 5*time.Millisecond, 100*time.Millisecond }

// ID is what other nodes know this one by.
func (b *Bus) ID() string { return b.talk.id }

// Knows reports whether the embedded server knows of somebody, on any node, who
// listens to the channel.
func (b *Bus) Knows(channel string) bool {
	return b.embedded.server.GlobalAccount().SubscriptionInterest(string(appendSubject(nil, b.begin, channel)))
}

// ServerAddr is the embedded server's port for clients, meant for them or not; "" if
// it has none.
func (b *Bus) ServerAddr() string {
	if addr := b.embedded.server.Addr(); addr != nil {
		return addr.String()
	}
	return ""
}

// Confirms is how many round trips confirmed subscriptions.
func (b *Bus) Confirms() uint64 { return b.link.confirms.Load() }

// RoutesTold is of how many connections to other nodes the receivers were told.
func (b *Bus) RoutesTold() int { return int(b.embedded.told.Load()) }

// RoutesToAPeer is how many connections two servers keep between them: a pool, and
// one of the system account's own.
const RoutesToAPeer = server.DEFAULT_ROUTE_POOL_SIZE + 1

// OtherDoors is what the embedded server serves besides clients.
func (b *Bus) OtherDoors() (doors []string) {
	ports := b.embedded.server.PortsInfo(time.Second)
	if ports != nil { // nil: it has none at all
		doors = slices.Concat(ports.Monitoring, ports.Cluster, ports.Profile, ports.WebSocket)
	}
	if b.embedded.server.JetStreamEnabled() {
		doors = append(doors, "JetStream")
	}
	return doors
}
