// Package zmq takes items in over ZeroMQ, as Pushpin does beside HTTP: for
// programs that publish with a PUSH, PUB or XPUB socket, and for those that use
// Pushpin's command socket. It is off unless an endpoint is configured.
//
//	intake, err := zmq.New(zmq.Options{Bus: bus, Pull: []string{"tcp://127.0.0.1:5560"}})
//	…                                   // the gateway subscribes at intake.Bus()
//	err = intake.Start(zmq.Actions{Recover: gateway.Recover})
//	defer intake.Close()
//
// # Sockets
//
//   - PULL: a message is one item with its channel. It goes to the bus, so all
//     nodes have it. A bus that is busy or away is waited for, and its publishers
//     with it, up to their own high-water mark: nothing is dropped here.
//   - SUB: a message is a channel and an item, whose own channel is not looked at.
//     Each channel is subscribed exactly while this node subscribes it at the
//     bus. ZeroMQ matches by prefix; only items of exactly the channel are
//     delivered.
//   - REP: commands; see command.go.
//
// An item is a tnetstring, with or without T before it, or JSON with J before it
// ([grip.ParseItem]). In a tnetstring body and content are any bytes, and so is
// content-bin of ws-message; all other text is UTF-8.
//
// A message that cannot be taken is counted by reason, logged (at most one a second,
// with how many were not) and skipped.
//
// # Nodes
//
// What comes by PULL or the command publish is published to the bus. What comes by
// SUB is delivered on this node only and does not go to the bus: each node
// subscribes for itself, so a publisher that all nodes are connected to reaches
// each client once, and would reach it once per node otherwise. A publisher that
// connects to one node's SUB endpoint reaches that node's clients.
//
// # Looks wrong, is not
//
//   - ZMTP is spoken here and not by github.com/go-zeromq/zmq4. Version 0.17.0 of
//     that makes a slice as long as the peer says: nine bytes end the process. It
//     has no limit on a message, on the time for a handshake (one silent peer keeps
//     all others waiting) or on connections either. What we need of ZMTP is small.
//   - A connection that a SUB socket makes tells all channels that there are by then
//     of a possible hole (Receiver.Lost). One that a publisher makes does not:
//     publishers come and go.
//   - The channel "" is not subscribed at publishers: in ZeroMQ that is all channels.
//   - PUB drops what its peer does not read in time, and tells nobody. Who cannot
//     lose items uses PUSH, or ids.
package zmq

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gripway/gripway/gateway/cluster"
	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
)

const (
	// messageBytesDefault is how long a message may be: what a bus carries at most.
	messageBytesDefault = pubsub.ItemBytesMax

	// connectionsMax bounds the connections at one socket, and so the messages that
	// are in memory at once: each connection has at most one.
	connectionsMax = 1024

	// busWaitMin and busWaitMax bound how long a PULL connection waits before it asks a
	// busy bus again.
	busWaitMin = 5 * time.Millisecond
	busWaitMax = 500 * time.Millisecond

	// dialWaitMin and dialWaitMax bound how long a SUB socket waits before it
	// tries to connect again. ZeroMQ's own default is 100 ms, always.
	dialWaitMin = 100 * time.Millisecond
	dialWaitMax = 5 * time.Second

	// dialTimeout is how long a connection may take to be made.
	dialTimeout = 5 * time.Second
)

// Socket types of ZMTP.
const (
	typePull = "PULL"
	typeSub  = "SUB"
	typeRep  = "REP"
)

// ErrEndpoint: an endpoint is not one of ours. It comes wrapped.
var ErrEndpoint = errors.New("want an endpoint like tcp://127.0.0.1:5560 or ipc:///run/gripway/pull")

// Options say where to listen and where items go. Without an endpoint nothing
// is done.
type Options struct {
	// Bus takes items and is where the gateway's channels come from. Required. It
	// stays the caller's.
	Bus pubsub.Bus

	Pull       []string // endpoints to bind PULL to
	Sub        []string // endpoints to bind SUB to
	SubConnect []string // endpoints to connect SUB to, for as long as it takes
	Command    string   // endpoint to bind REP to; "" for none

	// Mode is the permissions of the files of ipc endpoints that are bound. Zero
	// leaves what the process' umask gives them.
	Mode uint32

	// MessageBytes is how long a message may be, all parts together. Zero means
	// 4 MiB.
	MessageBytes int

	Metrics *metrics.Registry // nil counts nothing
	Log     *slog.Logger      // nil discards
}

// Actions are what commands do besides publishing. A command whose action is nil
// is answered method-not-found.
type Actions struct {
	// Recover has what is held ask its origin again.
	Recover func()

	// Alive returns those of the connections that are there.
	Alive func(ids []string) []string

	// Refresh has a WebSocket-over-HTTP connection send an empty request; false
	// means there is none of that id.
	Refresh func(id string) bool
}

// Endpoint is a socket that is bound.
type Endpoint struct {
	Socket string // PULL, SUB or REP
	URL    string // with the port that was chosen for port 0
}

// Intake is all sockets. Its methods may be used concurrently.
type Intake struct {
	// Fixed after New.
	options Options
	cluster *cluster.Cluster
	log     *slog.Logger
	stats   stats
	subs    *subscriptions // nil without SUB

	// Fixed after Start.
	actions Actions
	bound   []Endpoint

	// ctx ends with Close, and everything with it.
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	lastLog  atomic.Int64 // Unix seconds of the last refusal logged
	unlogged atomic.Int64 // refusals since
}

// New checks the endpoints and opens none. The error wraps ErrEndpoint.
func New(options Options) (*Intake, error) {
	if options.Bus == nil {
		panic("zmq: Options.Bus is nil")
	}
	if options.MessageBytes == 0 {
		options.MessageBytes = messageBytesDefault
	}
	in := &Intake{options: options, cluster: cluster.New(options.Bus), log: options.Log, stats: newStats(options.Metrics)}
	if in.log == nil {
		in.log = slog.New(slog.DiscardHandler)
	}
	for _, endpoints := range [][]string{options.Pull, options.Sub, options.SubConnect, in.command()} {
		for _, endpoint := range endpoints {
			if _, _, err := address(endpoint); err != nil {
				return nil, err
			}
		}
	}
	if len(options.Sub)+len(options.SubConnect) > 0 {
		in.subs = newSubscriptions(options.Bus)
	}
	in.ctx, in.cancel = context.WithCancel(context.Background())
	return in, nil
}

func (in *Intake) command() []string {
	if in.options.Command == "" {
		return nil
	}
	return []string{in.options.Command}
}

// Bus is where the gateway is to subscribe: Options.Bus, and with a SUB socket what
// comes there as well. Closing it closes Options.Bus.
func (in *Intake) Bus() pubsub.Bus {
	if in.subs == nil {
		return in.options.Bus
	}
	return in.subs
}

// Start binds all endpoints, or none, and begins to take items in. It is called
// once.
func (in *Intake) Start(actions Actions) error {
	in.actions = actions
	type open struct {
		net.Listener
		socket socket
	}
	var listeners []open
	for _, s := range []struct {
		socket    socket
		endpoints []string
	}{{in.pull(), in.options.Pull}, {in.sub(), in.options.Sub}, {in.rep(), in.command()}} {
		for _, endpoint := range s.endpoints {
			l, url, err := bind(endpoint, in.options.Mode)
			if err != nil {
				for _, l := range listeners {
					l.Close()
				}
				in.bound = nil
				return err
			}
			listeners = append(listeners, open{l, s.socket})
			in.bound = append(in.bound, Endpoint{s.socket.kind, url})
		}
	}
	for _, l := range listeners {
		in.running.Go(func() { in.accept(l.Listener, l.socket) })
	}
	for _, endpoint := range in.options.SubConnect {
		in.running.Go(func() { in.connect(endpoint, in.sub()) })
	}
	return nil
}

// Endpoints returns what is bound, in the order of Options.
func (in *Intake) Endpoints() []Endpoint { return in.bound }

// Close ends all sockets and waits for what is being delivered. A message that
// a PULL connection was waiting with is lost, as on any connection that breaks.
func (in *Intake) Close() error {
	in.cancel()
	in.running.Wait()
	return nil
}

// socket is what is done with the connections of one socket.
type socket struct {
	kind  string   // its type in ZMTP
	peers []string // types it talks to
	serve func(c *peerConn, dialed bool) error
	slots chan struct{} // has a token for each connection that was accepted; never closed
}

// accept serves all connections that come.
func (in *Intake) accept(l net.Listener, s socket) {
	defer context.AfterFunc(in.ctx, func() { l.Close() })()
	defer l.Close()
	var connections sync.WaitGroup
	defer connections.Wait()
	for {
		conn, err := l.Accept()
		switch {
		case in.ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return
		case err != nil:
			in.log.Error("zmq: accept", "socket", s.kind, "endpoint", l.Addr(), "error", err)
			if !in.sleep(dialWaitMin) { // most likely too many files are open
				return
			}
			continue
		}
		select {
		case s.slots <- struct{}{}:
		default:
			conn.Close()
			in.ended(s, conn, errFull)
			continue
		}
		connections.Go(func() {
			defer func() { <-s.slots }()
			in.ended(s, conn, in.talk(conn, s, nil))
		})
	}
}

// connect keeps a connection to a publisher.
func (in *Intake) connect(endpoint string, s socket) {
	network, addr, _ := address(endpoint) // New has read it
	dialer := net.Dialer{Timeout: dialTimeout}
	for wait := dialWaitMin; ; wait = min(2*wait, dialWaitMax) {
		conn, err := dialer.DialContext(in.ctx, network, addr)
		if err == nil {
			err = in.talk(conn, s, func() { wait = dialWaitMin })
			in.ended(s, conn, err)
		} else if in.ctx.Err() == nil {
			in.log.Debug("zmq: cannot connect", "endpoint", endpoint, "error", err)
		}
		if !in.sleep(wait) {
			return
		}
	}
}

// talk serves one connection to its end. met, for one that we made, is called once
// the peer is known.
func (in *Intake) talk(conn net.Conn, s socket, met func()) error {
	defer context.AfterFunc(in.ctx, func() { conn.Close() })()
	defer conn.Close()
	c, err := shakeHands(conn, s.kind, s.peers, in.options.MessageBytes)
	if err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	if met != nil {
		met()
	}
	in.stats.connections[s.kind].Inc()
	defer in.stats.connections[s.kind].Dec()
	return s.serve(c, met != nil)
}

// sleep returns false if the intake was closed meanwhile.
func (in *Intake) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-in.ctx.Done():
		return false
	}
}

// Why connections end that do not end well.
var (
	errFull = errors.New("too many connections")
	errSlow = errors.New("the publisher does not read its subscriptions")
)

// ended counts and logs a connection's end, if it was not the peer's wish or ours.
func (in *Intake) ended(s socket, conn net.Conn, err error) {
	reason := cutBroken
	switch {
	case in.ctx.Err() != nil || errors.Is(err, io.EOF):
		return
	case errors.Is(err, errFull):
		reason = cutFull
	case errors.Is(err, errSlow):
		reason = cutSlow
	case errors.Is(err, errProtocol):
		reason = cutProtocol
	case errors.Is(err, os.ErrDeadlineExceeded):
		reason = cutTimeout
	}
	in.stats.cut[reason].Inc()
	if reason == cutBroken { // processes that are killed end so
		in.log.Debug("zmq: connection broke", "socket", s.kind, "peer", conn.RemoteAddr(), "error", err)
		return
	}
	in.warn("zmq: connection ended", "socket", s.kind, "peer", conn.RemoteAddr(), "reason", reason, "error", err)
}

// refuse counts and logs a message that is skipped.
func (in *Intake) refuse(kind, reason string, err error) {
	in.stats.refused[reason].Inc()
	in.warn("zmq: message skipped", "socket", kind, "reason", reason, "error", err)
}

// warn logs at most one line a second: a peer must not be able to fill the log.
func (in *Intake) warn(text string, args ...any) {
	now, last := time.Now().Unix(), in.lastLog.Load()
	if now == last || !in.lastLog.CompareAndSwap(last, now) {
		in.unlogged.Add(1)
		return
	}
	if n := in.unlogged.Swap(0); n > 0 {
		args = append(args, "unlogged", n)
	}
	in.log.Warn(text, args...)
}

// reasonOf says why read passed a message over, "" if it did not.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, errTooLarge):
		return refusedTooLarge
	case errors.Is(err, errParts):
		return refusedParts
	}
	return ""
}

// pull is the PULL socket.
func (in *Intake) pull() socket {
	return socket{typePull, []string{"PUSH"}, in.servePull, make(chan struct{}, connectionsMax)}
}

func (in *Intake) servePull(c *peerConn, _ bool) error {
	for {
		parts, err := c.read()
		if reason := reasonOf(err); reason != "" {
			in.refuse(typePull, reason, err)
			continue
		}
		if err != nil {
			return err
		}
		if len(parts) != 1 {
			in.refuse(typePull, refusedParts, fmt.Errorf("%w: got %d, want 1", errParts, len(parts)))
			continue
		}
		item, err := readItem(parts[0], true)
		if err == nil && item.Channel == "" && len(item.Channels) == 0 {
			err = errors.New("the item has no channel")
		}
		if err != nil {
			in.refuse(typePull, refusedInvalid, err)
			continue
		}
		switch err := in.publishPatiently(item); {
		case in.ctx.Err() != nil:
			return in.ctx.Err()
		case err != nil:
			in.refuse(typePull, refusedByBus, err)
		default:
			in.stats.items[typePull].Inc()
		}
	}
}

// publishPatiently waits for the bus for as long as waiting can help.
func (in *Intake) publishPatiently(item *grip.Item) error {
	if item.One {
		return in.patiently(item.Channel, func() error { return in.cluster.Publish(in.ctx, item) })
	}
	for _, name := range item.Names() {
		if err := in.patiently(name, func() error { return in.options.Bus.Publish(in.ctx, name, item.Raw()) }); err != nil {
			return err
		}
	}
	return nil
}

func (in *Intake) patiently(channel string, publish func() error) error {
	err := publish()
	if !waitable(err) {
		return err
	}
	in.stats.waiting.Inc()
	defer in.stats.waiting.Dec()
	in.warn("zmq: waiting for the bus", "channel", channel, "error", err)
	for wait := busWaitMin; waitable(err); wait = min(2*wait, busWaitMax) {
		if !in.sleep(wait) {
			return in.ctx.Err()
		}
		err = publish()
	}
	return err
}

func waitable(err error) bool {
	return errors.Is(err, pubsub.ErrBusy) || errors.Is(err, pubsub.ErrDisconnected)
}

// address is what an endpoint is to package net.
func address(endpoint string) (network, addr string, err error) {
	if addr, ok := strings.CutPrefix(endpoint, "tcp://"); ok {
		addr = strings.TrimPrefix(addr, "*") // ZeroMQ's word for all addresses
		if _, _, err := net.SplitHostPort(addr); err == nil {
			return "tcp", addr, nil
		}
	}
	if path, ok := strings.CutPrefix(endpoint, "ipc://"); ok && path != "" {
		return "unix", path, nil
	}
	return "", "", fmt.Errorf("%q: %w", endpoint, ErrEndpoint)
}

// bind listens at an endpoint and returns its URL. A file that a dead process left
// is replaced, as ZeroMQ does; one that somebody listens at is not.
func bind(endpoint string, mode uint32) (net.Listener, string, error) {
	network, addr, err := address(endpoint)
	if err != nil {
		return nil, "", err
	}
	if network == "unix" {
		if info, err := os.Stat(addr); err == nil && info.Mode()&os.ModeSocket != 0 {
			if conn, err := net.DialTimeout(network, addr, dialTimeout); err == nil {
				conn.Close()
				return nil, "", fmt.Errorf("%q: somebody listens there already", endpoint)
			}
			os.Remove(addr)
		}
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		return nil, "", fmt.Errorf("%q: %w", endpoint, err)
	}
	if network == "unix" {
		if mode != 0 {
			if err := os.Chmod(addr, os.FileMode(mode)); err != nil {
				l.Close()
				return nil, "", fmt.Errorf("%q: %w", endpoint, err)
			}
		}
		return l, endpoint, nil
	}
	return l, "tcp://" + l.Addr().String(), nil
}

// stats are the metrics of the intake.
type stats struct {
	items       map[string]metrics.Counter // by socket
	refused     map[string]metrics.Counter // by refusals
	connections map[string]metrics.Gauge   // by socket
	cut         map[string]metrics.Counter // by cuts
	unheard     metrics.Counter
	waiting     metrics.Gauge
	commands    metrics.Counter
}

// refusals are why messages are skipped.
const (
	refusedParts    = "parts"     // another number of parts than the socket takes
	refusedTooLarge = "too_large" // over MessageBytes
	refusedInvalid  = "invalid"   // not an item, not a command
	refusedByBus    = "bus"       // the bus does not take it, however long one waits
)

// cuts are why connections end that their peers did not end.
const (
	cutProtocol = "protocol" // not ZMTP 3, or another kind of socket
	cutTimeout  = "timeout"  // handshake, message or write took too long
	cutBroken   = "broken"   // the network's, or the peer vanished within a message
	cutFull     = "full"     // there were connectionsMax already
	cutSlow     = "slow"     // a publisher that does not read subscriptions
)

func newStats(m *metrics.Registry) stats {
	return stats{
		items: m.Counters("zmq_items_total", "Items taken in over ZeroMQ, by socket.", "socket", typePull, typeSub, typeRep),
		refused: m.Counters("zmq_refused_total", "Messages over ZeroMQ that were skipped, by reason.", "reason",
			refusedParts, refusedTooLarge, refusedInvalid, refusedByBus),
		connections: m.Gauges("zmq_connections", "ZeroMQ connections, by socket.", "socket", typePull, typeSub, typeRep, typePub),
		cut: m.Counters("zmq_connections_cut_total", "ZeroMQ connections that ended otherwise than by the peer's wish, by reason.", "reason",
			cutProtocol, cutTimeout, cutBroken, cutFull, cutSlow),
		unheard:  m.Counter("zmq_unheard_total", "Items that came to the SUB socket for a channel nobody follows: ZeroMQ matches by prefix."),
		waiting:  m.Gauge("zmq_waiting", "PULL connections that wait with an item for the bus."),
		commands: m.Counter("zmq_commands_total", "Commands answered over ZeroMQ."),
	}
}
