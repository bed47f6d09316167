//go:build unix

package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/pubsub/natsbus"
)

// ways are how an item goes from Publish to Receive.
var ways = []struct {
	name string
	open func(b *testing.B) (from, to *natsbus.Bus)
}{
	{"same node, nobody else may connect", func(b *testing.B) (from, to *natsbus.Bus) {
		bus := benchOpen(b, natsbus.Options{})
		return bus, bus
	}},
	{"same node, others may connect", func(b *testing.B) (from, to *natsbus.Bus) {
		bus := benchOpen(b, listening)
		return bus, bus
	}},
	{"node to node, cluster", func(b *testing.B) (from, to *natsbus.Bus) {
		from = benchOpen(b, natsbus.Options{Embedded: natsbus.Embedded{ClusterListen: "127.0.0.1:0"}})
		to = benchOpen(b, natsbus.Options{Embedded: natsbus.Embedded{
			ClusterListen: "127.0.0.1:0", Peers: []string{from.ClusterAddr()},
		}})
		for from.Stats().Peers == 0 || to.Stats().Peers == 0 {
			time.Sleep(time.Millisecond)
		}
		return from, to
	}},
	{"node to node, server elsewhere", func(b *testing.B) (from, to *natsbus.Bus) {
		url := benchServer(b)
		return benchOpen(b, natsbus.Options{URL: url}), benchOpen(b, natsbus.Options{URL: url})
	}},
	{"same node, server elsewhere", func(b *testing.B) (from, to *natsbus.Bus) {
		bus := benchOpen(b, natsbus.Options{URL: benchServer(b)})
		return bus, bus
	}},
}

func benchOpen(b *testing.B, o natsbus.Options) *natsbus.Bus {
	b.Helper()
	bus, err := natsbus.Open(o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { bus.Close() })
	return bus
}

// benchServer is in this process, too: its work counts.
func benchServer(b *testing.B) (url string) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		b.Fatal(err)
	}
	s.Start()
	b.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s.ClientURL()
}

// counter lets as many items be on their way as come holds.
type counter struct {
	count atomic.Int64
	come  chan bool // never closed
}

func (c *counter) Receive([]byte, bool) {
	c.count.Add(1)
	select {
	case c.come <- true:
	default:
	}
}

func (c *counter) Lost(int) {}

// BenchmarkPublishToReceive is items one after the other; inflight=1 is latency.
func BenchmarkPublishToReceive(b *testing.B) {
	for _, way := range ways {
		for _, flight := range []int{1, 100} {
			b.Run(fmt.Sprintf("way=%s/inflight=%d", way.name, flight), func(b *testing.B) {
				from, to := way.open(b)
				c := &counter{come: make(chan bool, flight)}
				benchSubscribe(b, from, to, c)
				data := make([]byte, 200)
				begin := cpu()
				b.ResetTimer()
				for i := range b.N {
					benchPublish(b, from, data)
					if i >= flight-1 {
						<-c.come
					}
				}
				b.ReportMetric(float64(cpu()-begin)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// BenchmarkSubscribe is one channel after the other, each confirmed.
func BenchmarkSubscribe(b *testing.B) {
	for _, way := range ways[:4] {
		b.Run("way="+way.name, func(b *testing.B) {
			_, to := way.open(b)
			c := new(counter)
			b.ResetTimer()
			for i := range b.N {
				if _, err := to.Subscribe(b.Context(), fmt.Sprint("user-", i), c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// benchSubscribe returns once items come through.
func benchSubscribe(b *testing.B, from, to *natsbus.Bus, c *counter) {
	b.Helper()
	if _, err := to.Subscribe(b.Context(), "room", c); err != nil {
		b.Fatal(err)
	}
	for c.count.Load() == 0 {
		benchPublish(b, from, nil)
		time.Sleep(10 * time.Millisecond)
	}
	for len(c.come) > 0 {
		<-c.come
	}
}

func benchPublish(b *testing.B, bus *natsbus.Bus, data []byte) {
	err := bus.Publish(context.Background(), "room", data)
	if err != nil && !errors.Is(err, pubsub.ErrBusy) {
		b.Fatal(err)
	}
}

// BenchmarkNATSItself is the floor: nats.go and the server without a bus, an
// item to its own connection and back.
func BenchmarkNATSItself(b *testing.B) {
	for _, way := range []struct {
		name    string
		options []nats.Option
	}{
		{"pipe", nil},
		{"pipe, no flusher", []nats.Option{func(o *nats.Options) error { o.WriteBufferSize = 1; return nil }}},
		{"TCP", nil},
		{"TCP, no flusher", []nats.Option{func(o *nats.Options) error { o.WriteBufferSize = 1; return nil }}},
	} {
		for _, flight := range []int{1, 100} {
			b.Run(fmt.Sprintf("way=%s/inflight=%d", way.name, flight), func(b *testing.B) {
				s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
				if err != nil {
					b.Fatal(err)
				}
				s.Start()
				b.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
				options := way.options
				if way.name[0] == 'p' {
					options = append(options, nats.InProcessServer(s))
				}
				conn, err := nats.Connect(s.ClientURL(), options...)
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(conn.Close)
				arrived := make(chan *nats.Msg, 1000)
				if _, err := conn.ChanSubscribe("gripway.item.room", arrived); err != nil {
					b.Fatal(err)
				}
				conn.Flush()
				data := make([]byte, 200)
				begin := cpu()
				b.ResetTimer()
				for i := range b.N {
					if err := conn.Publish("gripway.item.room", data); err != nil {
						b.Fatal(err)
					}
					if i >= flight-1 {
						<-arrived
					}
				}
				b.ReportMetric(float64(cpu()-begin)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// cpu is what the process has used, user and system, in nanoseconds.
func cpu() int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}

// BenchmarkOpen is how long a node waits for its bus, from nothing to connected,
// and how long it takes to end.
func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		bus, err := natsbus.Open(natsbus.Options{})
		if err != nil {
			b.Fatal(err)
		}
		bus.Close()
	}
}
