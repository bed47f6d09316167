// Package demo is the origin behind gripway demo: a page to chat on, to watch a
// ticker and to answer a question, and beside it what travels between the gateway
// and this origin while one does so.
//
// It is for somebody who has the program and ten minutes, and for whoever wants to
// see an origin written with the packages grip and wsoverhttp:
//
//	browser ─── gateway ──────────────── this origin
//	  WebSocket    POST /chat              chat.go      OPEN, TEXT …, a Conn per request
//	  EventSource  GET /ticker             ticker.go    Grip-Hold: stream
//	  fetch        GET /poll               question.go  Grip-Hold: response
//	  GET /        GET /                   page.go      plain files
//	               POST /publish/ ◄─────── outlet.go    grip.Publisher
//	  EventSource  GET /wire               tap.go       all of the above, as a stream
//
// The gateway proxies everything to it over HTTP and is published to over HTTP, so
// what is shown is what any origin would do. Nothing here knows that both are one
// process.
//
// # Looks wrong, is not
//
//   - The page has one EventSource for ticker and wire, lets go of it while nobody
//     sees it, and of its long-poll when an answer does not get through: a browser
//     opens six HTTP connections to an address, all windows together.
//   - That the gateway asks for a quiet WebSocket does not keep somebody in the list
//     of who is here. It only says that the gateway lives; the client's pong counts.
//   - The ticker is published when nobody listens. The origin does not know who does.
//   - Requests to the channel demo-wire leave no record: it would be published there,
//     and leave the next.
//   - A text that begins with "c:" is passed on like any other. Handler puts "m:"
//     before it, so that the gateway does not take it for an instruction.
//
// It is no example of an application: it forgets everything when it ends, and
// believes whoever reaches it. A real origin would check Grip-Sig
// (grip.Publisher.VerifyRequest); this one listens on loopback only.
package demo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gripway/gripway/pubsub"
)

// Options say how the demo is to publish.
type Options struct {
	// Log gets what somebody who runs the demo should know. Nil discards.
	Log *slog.Logger

	// ControlAddr is the host:port of the gateway's private API. A host that
	// stands for all addresses, as in ":5561", is reached through loopback.
	ControlAddr string

	// Bus takes the items if there is no ControlAddr. It is not closed.
	Bus pubsub.Bus
}

// Demo is a running origin.
type Demo struct {
	// Fixed after New.
	listener net.Listener
	server   *http.Server
	outlet   *outlet
	stop     context.CancelFunc

	// Guarded by closing.
	closing sync.Once
	err     error

	running sync.WaitGroup
}

const (
	// beat is the ticker's pace, and how often it is looked whether somebody is
	// gone or a question is over.
	beat = time.Second

	// headerTimeout and requestTimeout bound how long a request may take to
	// arrive: it comes from a gateway on this machine.
	headerTimeout  = 10 * time.Second
	requestTimeout = 30 * time.Second

	// idleTimeout is longer than the gateway keeps a connection, so that it never
	// meets one that is just being closed.
	idleTimeout = 5 * time.Minute

	// headerBytesMax bounds a request's header.
	headerBytesMax = 64 << 10
)

// New listens on a free port of loopback and serves the origin until Close.
func New(options Options) (*Demo, error) {
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	tap := newTap()
	outlet, err := newOutlet(options, tap)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		outlet.close()
		return nil, fmt.Errorf("demo: %w", err)
	}
	origin := newOrigin(options.Log, tap, outlet)
	d := &Demo{
		listener: listener, outlet: outlet,
		server: &http.Server{
			Handler: origin.handler(), ReadHeaderTimeout: headerTimeout, ReadTimeout: requestTimeout,
			IdleTimeout: idleTimeout, MaxHeaderBytes: headerBytesMax,
			ErrorLog: slog.NewLogLogger(options.Log.Handler(), slog.LevelDebug),
		},
	}
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	d.running.Go(func() { outlet.run(ctx) })
	d.running.Go(func() { tap.run(ctx, outlet.publishRecords) })
	d.running.Go(func() { origin.run(ctx) })
	d.running.Go(func() {
		if err := d.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			options.Log.Error("demo", "error", err)
		}
	})
	return d, nil
}

// Addr is the origin's host:port.
func (d *Demo) Addr() string { return d.listener.Addr().String() }

// Close ends the origin and waits until all of it has ended. What was said and
// not yet published is not published any more.
func (d *Demo) Close() error {
	d.closing.Do(func() {
		d.stop()
		d.err = d.server.Close()
		d.running.Wait()
		d.outlet.close()
	})
	return d.err
}

// Hello prints what to open and what to type, given the addresses at which
// clients and publishers reach the gateway. The latter may be "".
func (d *Demo) Hello(w io.Writer, clientAddr, controlAddr string) {
	client := named(clientAddr)
	fmt.Fprintf(w, `
Open http://%[1]s/ in two windows: they see each other.

Follow it without a browser:
  curl -N http://%[1]s/ticker        server-sent events
  curl -N http://%[1]s/wire          what gateway and origin say to each other
  curl 'http://%[1]s/poll?wait'      answered when somebody presses a button
  ws://%[1]s/chat                    for websocat or wscat; a line of text is a message
`, client)
	if controlAddr == "" {
		return
	}
	api := named(controlAddr)
	spec := " --spec http://" + api
	if _, port, _ := net.SplitHostPort(controlAddr); port == "5561" {
		spec = "" // what publish takes by itself
	}
	fmt.Fprintf(w, `
Publish to it:
  gripway publish%[1]s chat 'hello'
  gripway publish%[1]s ticker $'data: hello\n'
  curl -d '{"items":[{"channel":"chat","formats":{"ws-message":{"content":"hello"}}}]}' http://%[2]s/publish/

`, spec, api)
}

// named is an address as a person on this machine would type it.
func named(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if everywhere(host) {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

// everywhere tells whether a host stands for all addresses of the machine.
func everywhere(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

// origin is what answers the gateway.
type origin struct {
	tap      *tap
	chat     *chat
	ticker   *ticker
	question *question
}

func newOrigin(log *slog.Logger, tap *tap, outlet *outlet) *origin {
	// instance tells this run from the one before: numbers begin again with it.
	var random [4]byte
	rand.Read(random[:])
	instance := hex.EncodeToString(random[:])
	return &origin{
		tap:      tap,
		chat:     newChat(instance, outlet, log),
		ticker:   newTicker(instance, outlet, tap),
		question: newQuestion(instance, outlet),
	}
}

// handler routes requests. Those that can change something are refused if a
// browser says that another site's page makes them, WebSockets included: they
// arrive as POST, with the headers of their handshake.
func (o *origin) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/chat", o.tap.watch(panelChat, o.chat.handler()))
	mux.Handle("GET /ticker", o.tap.watch(panelTicker, http.HandlerFunc(o.ticker.serve)))
	mux.Handle("GET /poll", o.tap.watch(panelPoll, http.HandlerFunc(o.question.serve)))
	mux.Handle("POST /poll", o.tap.watch(panelPoll, http.HandlerFunc(o.question.vote)))
	mux.Handle("GET /wire", o.tap.watch(panelWire, http.HandlerFunc(o.tap.serve)))
	mux.Handle("/", newPage())
	return http.NewCrossOriginProtection().Handler(mux)
}

// run does what happens by itself, until ctx ends.
func (o *origin) run(ctx context.Context) {
	ticks := time.NewTicker(beat)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticks.C:
			o.ticker.tick(now)
			o.question.tick(now)
			o.chat.sweep(now)
		}
	}
}
