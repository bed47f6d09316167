package zmq

import (
	"fmt"
	"testing"

	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/pubsub/bustest"
)

func TestAPublisherThatDoesNotReadIsCutNotRemembered(t *testing.T) {
	subs := newSubscriptions(pubsub.NewMemory())
	defer subs.Close()
	stays := bustest.Subscribe(t, subs, "stays", bustest.Record())
	defer stays.Unsubscribe()
	slow := subs.join()
	for i := range changesMax/2 + 1 {
		bustest.Subscribe(t, subs, fmt.Sprint(i), bustest.Record()).Unsubscribe()
	}
	if changes, cut := subs.take(slow); !cut || len(changes) > 0 {
		t.Errorf("got %d changes, cut %v: want it cut", len(changes), cut)
	}
	// When it comes again it is told what there is.
	subs.leave(slow)
	if changes, cut := subs.take(subs.join()); cut || len(changes) != 1 || changes[0] != (change{"stays", true}) {
		t.Errorf("got %v, cut %v", changes, cut)
	}
}

// BenchmarkSubscribe is what a publisher beside the bus adds to a subscription.
func BenchmarkSubscribe(b *testing.B) {
	for _, sub := range []bool{false, true} {
		b.Run(fmt.Sprintf("sub=%v", sub), func(b *testing.B) {
			var bus pubsub.Bus = pubsub.NewMemory()
			if sub {
				bus = newSubscriptions(bus)
			}
			defer bus.Close()
			r := bustest.Record()
			b.ReportAllocs()
			for b.Loop() {
				subscription, err := bus.Subscribe(b.Context(), "room", r)
				if err != nil {
					b.Fatal(err)
				}
				subscription.Unsubscribe()
			}
		})
	}
}
