package hub_test

import (
	"context"
	"sync"
	"testing"

	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/pubsub"
)

// Two who subscribe the same client at once make one subscription, and what they
// leave does not take another client's place.
func TestSubscribingTwiceAtOnceIsOnce(t *testing.T) {
	bus := pubsub.NewMemory()
	defer bus.Close()
	h := hub.New(hub.Options{Bus: bus, Shards: 1, FirstUpdate: -1})
	defer h.Close()
	for range 200 {
		twice, other := newClient(h, 0, hub.Manner{Format: hub.FormatStream}), newClient(h, 0, hub.Manner{Format: hub.FormatStream})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { twice.sub.Subscribe(context.Background(), "a") })
		}
		wg.Wait()
		if got := twice.sub.Len(); got != 1 {
			t.Fatalf("subscriptions: got %d, want 1", got)
		}
		other.sub.Subscribe(context.Background(), "a")
		twice.sub.Leave()
		other.sub.Leave()
	}
}
