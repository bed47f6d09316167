package natsbus_test

import (
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/pubsub/natsbus"
)

type nobody struct{}

func (nobody) Receive([]byte, bool) {}
func (nobody) Lost(int)             {}

// All told: here, in nats.go and in the server, which is in this process, too.
func TestAChannelCostsUnder2kB(t *testing.T) {
	const channels, workers = 30_000, 100
	for _, way := range []struct {
		name     string
		o        natsbus.Options
		channel  string
		bytesMax int
	}{
		{"nobody else may connect", natsbus.Options{}, "user-%d", 2000},
		{"server inside", listening, "user-%d", 2000},
		{"server inside, three parts", listening, "chat.user-%d.inbox", 3000},
	} {
		t.Run(way.name, func(t *testing.T) {
			bus := open(t, way.o)
			var all [workers][]pubsub.Subscription
			goroutines := runtime.NumGoroutine()
			before := heap()
			var working sync.WaitGroup
			for w := range workers {
				working.Go(func() {
					for i := range channels / workers {
						s, err := bus.Subscribe(t.Context(), fmt.Sprintf(way.channel, i*workers+w), nobody{})
						if err != nil {
							t.Error(err)
							return
						}
						all[w] = append(all[w], s)
					}
				})
			}
			working.Wait()
			perChannel := int(heap()-before) / channels
			t.Logf("%d bytes a channel, %d goroutines more", perChannel, runtime.NumGoroutine()-goroutines)
			if perChannel > way.bytesMax && !race {
				t.Errorf("%d bytes a channel, want at most %d", perChannel, way.bytesMax)
			}
			if got := runtime.NumGoroutine() - goroutines; got > 10 {
				t.Errorf("%d goroutines more for %d channels", got, channels)
			}
			for w := range all {
				for _, s := range all[w] {
					s.Unsubscribe()
				}
			}
			eventually(t, "all channels are forgotten", func() bool { return bus.Stats().Channels == 0 })
			left := int(heap()-before) / channels
			t.Logf("%d bytes left of a channel that was left", left)
		})
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
