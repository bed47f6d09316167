package pubsub_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/pubsub/bustest"
)

func TestMemoryIsABus(t *testing.T) {
	bustest.Run(t, func(*testing.T) pubsub.Bus { return new(pubsub.Memory) })
}

func TestMemoryWithOneLaneIsABus(t *testing.T) {
	bustest.Run(t, func(*testing.T) pubsub.Bus { return &pubsub.Memory{Lanes: 1, LaneBytes: 1 << 20} })
}

func TestMemoryThatWasNeverUsedCloses(t *testing.T) {
	bus := pubsub.NewMemory()
	if err := bus.Close(); err != nil {
		t.Fatal(err)
	}
	if err := bus.Publish(t.Context(), "room", nil); !errors.Is(err, pubsub.ErrClosed) {
		t.Errorf("got %v, want %v", err, pubsub.ErrClosed)
	}
}

func TestAnItemLongerThanTheLaneIsTakenWhenNothingWaits(t *testing.T) {
	bus := &pubsub.Memory{LaneBytes: 1000}
	defer bus.Close()
	r := bustest.Record()
	bustest.Subscribe(t, bus, "room", r)
	long := fmt.Sprintf("%5000s", "x")
	for range 3 {
		bustest.Publish(t, bus, "room", long)
		r.Want(t, long)
	}
}

type nobody struct{}

func (nobody) Receive([]byte, bool) {}
func (nobody) Lost(int)             {}

func BenchmarkMemoryPublish(b *testing.B) {
	for _, receivers := range []int{0, 1} {
		b.Run(fmt.Sprintf("receivers=%d/bytes=200", receivers), func(b *testing.B) {
			bus := new(pubsub.Memory)
			defer bus.Close()
			for range receivers {
				if _, err := bus.Subscribe(b.Context(), "room", nobody{}); err != nil {
					b.Fatal(err)
				}
			}
			data := make([]byte, 200)
			b.ReportAllocs()
			for b.Loop() {
				if err := bus.Publish(b.Context(), "room", data); err != nil && !errors.Is(err, pubsub.ErrBusy) {
					b.Fatal(err)
				}
			}
		})
	}
}
