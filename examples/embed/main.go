// Command embed is an app with its own gateway inside: one program that pushes,
// and nothing to be installed beside it. It pushes the time to whoever reads
// /clock.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/gripway/gripway/gateway"
	"github.com/gripway/gripway/gateway/origin"
	"github.com/gripway/gripway/gateway/wire"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
)

// drainTimeout is how long clients have to go when the program ends.
const drainTimeout = 5 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	// The app: handlers like any, on a port of this machine that nobody is told of.
	app := http.NewServeMux()
	app.HandleFunc("GET /clock", clock)
	inside, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		return err
	}
	defer inside.Close()
	go http.Serve(inside, app) // ends with inside

	// The gateway in front of it. Memory is the bus of one process; natsbus.Open
	// returns one that several share.
	var bus pubsub.Memory
	defer bus.Close()
	g, err := gateway.New(gateway.Options{Bus: &bus, Log: slog.Default()})
	if err != nil {
		return err
	}
	defer g.Close()
	pool, err := origin.NewPool(origin.Options{Targets: []origin.Target{{Addr: inside.Addr().String()}}})
	if err != nil {
		return err
	}
	defer pool.Close()
	g.SetRoutes([]*gateway.Route{{
		Domain:   "*",
		OverHTTP: true, // WebSockets come as WebSocket-over-HTTP
		Rules:    &origin.Rules{Feature: gateway.Feature},
		Pool:     pool,
	}})

	// Clients come to the gateway.
	outside, err := net.Listen("tcp", "localhost:"+cmp.Or(os.Getenv("PORT"), "8000"))
	if err != nil {
		return err
	}
	listener := wire.Listen(outside) // keeps connections of clients whose long poll is over
	server := &http.Server{
		Handler:           g,
		ReadHeaderTimeout: 30 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return listener.Context(context.Background()) },
	}
	fmt.Println("app: http://" + outside.Addr().String())
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }() // ends with Shutdown

	err = tell(ctx, &bus, failed)

	// The end: nobody new, and those who are held are told.
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	var ending sync.WaitGroup
	ending.Go(func() { server.Shutdown(ctx) })
	err = errors.Join(err, g.Drain(ctx))
	ending.Wait()
	return err
}

// tell tells the time until ctx ends or the server fails.
func tell(ctx context.Context, bus pubsub.Bus, failed <-chan error) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			if err := publish(ctx, bus, now); err != nil {
				return err
			}
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// clock answers a reader, as an origin does.
func clock(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	err := grip.Hold(w, &grip.Instruction{Hold: grip.HoldStream, Channels: []grip.Channel{{Name: "clock"}}})
	if err != nil {
		http.Error(w, "no stream", http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, "data: tick\n\n")
}

// publish puts the time on the bus: not over HTTP, since the bus is ours.
func publish(ctx context.Context, bus pubsub.Bus, now time.Time) error {
	item := &grip.Item{
		Channel: "clock",
		Stream:  &grip.StreamItem{Content: fmt.Appendf(nil, "data: %s\n\n", now.Format(time.TimeOnly))},
	}
	data, err := item.MarshalJSON()
	if err != nil {
		return err
	}
	return bus.Publish(ctx, item.Channel, data)
}
