package zmq

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"github.com/gripway/gripway/gateway/metrics"
)

// pubQueueMax is how many messages may wait for one subscriber of a PUB socket;
// what comes beyond is dropped for it, as ZeroMQ's high-water mark does.
const pubQueueMax = 1000

// prefixesMax bounds what one subscriber of a PUB socket subscribes to.
const prefixesMax = 10_000

const typePub = "PUB"

// PubOptions describe a Pub.
type PubOptions struct {
	Endpoint string // to bind to
	Mode     uint32 // permissions of an ipc endpoint's file; 0 leaves them

	Metrics *metrics.Registry
	Log     *slog.Logger
}

// Pub is a bound PUB socket. It may be used concurrently.
type Pub struct {
	in       *Intake // does the accepting
	endpoint string
	sent     metrics.Counter
	dropped  metrics.Counter
	peers    atomic.Int32

	mu   sync.Mutex
	subs map[*pubPeer]struct{}
}

// pubPeer is a subscriber.
type pubPeer struct {
	messages chan [][]byte // bounded; never closed

	// Guarded by Pub.mu.
	prefixes map[string]int
}

// NewPub checks the endpoint and opens nothing.
func NewPub(options PubOptions) (*Pub, error) {
	if _, _, err := address(options.Endpoint); err != nil {
		return nil, err
	}
	in := &Intake{options: Options{MessageBytes: messageBytesDefault, Mode: options.Mode}, log: options.Log, stats: newStats(options.Metrics)}
	if in.log == nil {
		in.log = slog.New(slog.DiscardHandler)
	}
	in.ctx, in.cancel = context.WithCancel(context.Background())
	m := options.Metrics
	return &Pub{
		in: in, endpoint: options.Endpoint, subs: make(map[*pubPeer]struct{}),
		sent:    m.Counter("zmq_stats_sent_total", "Messages of statistics handed to subscribers over ZeroMQ."),
		dropped: m.Counter("zmq_stats_dropped_total", "Messages of statistics that a subscriber over ZeroMQ did not get because it was behind."),
	}, nil
}

// Start binds the endpoint. It is called once.
func (p *Pub) Start() error {
	l, url, err := bind(p.endpoint, p.in.options.Mode)
	if err != nil {
		return err
	}
	p.in.bound = []Endpoint{{typePub, url}}
	s := socket{typePub, []string{"SUB", "XSUB"}, p.serve, make(chan struct{}, connectionsMax)}
	p.in.running.Go(func() { p.in.accept(l, s) })
	return nil
}

// Endpoints returns what is bound.
func (p *Pub) Endpoints() []Endpoint { return p.in.Endpoints() }

// Close ends the socket.
func (p *Pub) Close() error { return p.in.Close() }

// Heard says whether anybody listens at all.
func (p *Pub) Heard() bool { return p.peers.Load() > 0 }

// Send hands a message of one part to all who subscribed to a prefix of it. It
// does not block.
func (p *Pub) Send(message []byte) {
	if !p.Heard() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for peer := range p.subs {
		if !peer.wants(message) {
			continue
		}
		select {
		case peer.messages <- [][]byte{message}:
			p.sent.Inc()
		default:
			p.dropped.Inc()
		}
	}
}

func (peer *pubPeer) wants(message []byte) bool {
	for prefix := range peer.prefixes {
		if bytes.HasPrefix(message, []byte(prefix)) {
			return true
		}
	}
	return false
}

var errPrefixes = errors.New("too many subscriptions")

// serve reads what a peer subscribes to; its child writes what there is.
func (p *Pub) serve(c *peerConn, _ bool) error {
	peer := &pubPeer{messages: make(chan [][]byte, pubQueueMax), prefixes: make(map[string]int)}
	ctx, cancel := context.WithCancel(p.in.ctx)
	p.mu.Lock()
	p.subs[peer] = struct{}{}
	p.mu.Unlock()
	p.peers.Add(1)
	var writer sync.WaitGroup
	var writeErr error
	writer.Go(func() {
		defer c.conn.Close() // ends the reader
		for {
			select {
			case message := <-peer.messages:
				if writeErr = c.writeMessage(message); writeErr != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	err := p.readSubscriptions(c, peer)
	p.mu.Lock()
	delete(p.subs, peer)
	p.mu.Unlock()
	p.peers.Add(-1)
	cancel()
	c.conn.Close() // ends a write that hangs
	writer.Wait()
	if errors.Is(err, net.ErrClosed) && writeErr != nil {
		return writeErr // which is why
	}
	return err
}

// readSubscriptions follows what a peer wants: 01 prefix, or 00 prefix no more.
func (p *Pub) readSubscriptions(c *peerConn, peer *pubPeer) error {
	for {
		parts, err := c.read()
		if reason := reasonOf(err); reason != "" {
			p.in.refuse(typePub, reason, err)
			continue
		}
		if err != nil {
			return err
		}
		if len(parts) != 1 || len(parts[0]) == 0 || parts[0][0] > 1 {
			continue // a message of an XSUB, which is nobody's here
		}
		prefix := string(parts[0][1:])
		p.mu.Lock()
		if parts[0][0] == 1 {
			peer.prefixes[prefix]++
		} else if peer.prefixes[prefix]--; peer.prefixes[prefix] <= 0 {
			delete(peer.prefixes, prefix)
		}
		over := len(peer.prefixes) > prefixesMax
		p.mu.Unlock()
		if over {
			return errPrefixes
		}
	}
}
