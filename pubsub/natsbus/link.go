package natsbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/pubsub/internal/lanes"
)

const (
	// dialMax is how long one try to connect may take.
	dialMax = 5 * time.Second

	// writeMax is how long a server may refuse to take bytes before the
	// connection is given up.
	writeMax = 5 * time.Second

	// pingEvery and pingsMax notice within half a minute that the other end is gone
	// without a word.
	pingEvery = 10 * time.Second
	pingsMax  = 2

	// retryMin and retryMax are the waits between tries to connect, growing from one
	// to the other; a random half is added so that nodes do not come all at once.
	retryMin = 100 * time.Millisecond
	retryMax = 2 * time.Second

	// confirmMax is how long a server may take to confirm subscriptions before it is
	// asked again.
	confirmMax = 5 * time.Second

	// refusalMax is how long nats.go may take to tell of a refusal it has read;
	// usually microseconds.
	refusalMax = 100 * time.Millisecond

	// closeMax is how long Close waits for the server to take what was accepted.
	closeMax = time.Second

	// arrivedMax is more than can be parsed between two reads: a read is 32 KiB and
	// the shortest item on the wire is some 20 bytes (TLS and WebSocket may
	// bring two or three reads at once).
	arrivedMax = 8192

	// warnEvery bounds how often the log is told of items that are dropped or denied.
	warnEvery = 10 * time.Second
)

// link is the connection to the NATS server: what this node listens to there, and
// what comes from there.
//
// nats.go gives each subscription a goroutine or a channel, and drops what the
// channel does not hold. Here all subscriptions share one channel, arrived, and
// nats.go's own reader empties it: each time it comes back for more bytes (Read
// of wire) it takes what it has parsed to the lanes. So there is no goroutine
// for a channel, no step from goroutine to goroutine for an item, and nothing is
// dropped but in a lane, where the place of the hole is known.
type link struct {
	// Fixed after openLink.
	urls     string
	options  []nats.Option // of the bus's own connection
	reach    []nats.Option // those of them that say how the server is reached, and as whom
	lanes    *lanes.Set
	items    string    // what an item's subject begins with
	talk     *talk     // takes all else
	embedded *embedded // nil: the server is elsewhere
	log      *slog.Logger
	arrived  chan *nats.Msg // never closed; emptied by deliver
	wake     chan struct{}  // of size 1, never closed
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup

	conn       atomic.Pointer[nats.Conn] // replaced by run
	up         atomic.Bool               // connected, as far as is known
	wire       atomic.Pointer[wire]      // the latest
	lived      atomic.Bool               // since the last break somebody got or sent something
	reconnects atomic.Uint64
	confirms   atomic.Uint64 // round trips for subscriptions
	patterns   sync.Map      // of those whose subjects have wildcards: *nats.Subscription to *lanes.Pattern
	warned     atomic.Int64  // when last, in Unix nanoseconds

	// Owned by run.
	unconfirmed []*round

	// Guarded by mu.
	mu       sync.Mutex
	changed  map[*lanes.Channel]struct{} // may need more or less interest than they have
	round    *round                      // of those who wait for their interest; nil = nobody
	mend     bool                        // receivers are to be told once all is heard again
	dead     bool                        // nats.go gave the connection up
	answered error                       // the latest refusal that onError was called with
	denied   map[string]error            // by subject
	full     error                       // the server takes no more subscriptions
}

// round is the subscriptions that one round trip to the server confirms.
type round struct {
	done chan struct{} // closed by run
	err  error         // of all; written before done is closed
}

var (
	_ nats.CustomDialer          = (*link)(nil)
	_ nats.InProcessConnProvider = (*link)(nil)
)

// openLink connects to the embedded server, or to o.URL if there is none.
func (b *Bus) openLink(o Options) error {
	l := &link{
		urls:     o.URL,
		lanes:    b.lanes,
		items:    b.begin,
		talk:     b.talk,
		embedded: b.embedded,
		log:      o.Log,
		arrived:  make(chan *nats.Msg, arrivedMax),
		wake:     make(chan struct{}, 1),
		changed:  make(map[*lanes.Channel]struct{}),
		denied:   make(map[string]error),
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	var err error
	if l.reach, err = l.reachOptions(o); err != nil {
		l.cancel()
		return err
	}
	l.options = append(l.ownOptions(o.Name), l.reach...)
	conn, err := l.connect()
	if err != nil {
		l.cancel()
		return err
	}
	l.conn.Store(conn)
	l.up.Store(true)
	b.link = l // before the first word of another node, which may be answered
	l.talk.subscribe(conn, l.arrived)
	// Whoever speaks NATS can ask this node once Open has returned. A server that does
	// not answer in time makes it known by itself.
	_ = conn.FlushTimeout(confirmMax)
	if bytes := conn.MaxPayload(); l.embedded == nil && bytes < pubsub.ItemBytesMax {
		l.log.Info("NATS server limits items", "server", conn.ConnectedUrlRedacted(), "max_payload", bytes)
	}
	l.running.Go(l.run)
	return nil
}

func (l *link) connect() (*nats.Conn, error) { return l.to(l.options) }

// dial makes a connection that is not this link's.
func (l *link) dial(options []nats.Option) (*nats.Conn, error) {
	reach := l.reach
	if l.embedded != nil {
		reach = append(reach[:len(reach):len(reach)], nats.InProcessServer(l.embedded.server))
	}
	return l.to(append([]nats.Option{nats.Name("gripway"), nats.Timeout(dialMax)}, append(reach, options...)...))
}

func (l *link) to(options []nats.Option) (*nats.Conn, error) {
	conn, err := nats.Connect(l.urls, options...)
	if err != nil && l.embedded == nil {
		return nil, fmt.Errorf("NATS server at %q: %w", redact(l.urls), err)
	}
	return conn, err
}

// ownOptions are what the bus asks of its own connection.
func (l *link) ownOptions(name string) []nats.Option {
	if name == "" {
		name = "gripway"
	}
	options := []nats.Option{
		nats.Name(name),
		nats.NoEcho(), // what is published here goes to this node's receivers directly
		nats.Timeout(dialMax),
		nats.PingInterval(pingEvery),
		nats.MaxPingsOutstanding(pingsMax),
		nats.ReconnectBufSize(-1), // Publish says that there is no connection
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // an account may come back
		nats.CustomReconnectDelay(retryAfter),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { l.onDown(err) }),
		nats.ReconnectHandler(func(conn *nats.Conn) { l.onUp(conn) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { l.onError(err) }),
		nats.ClosedHandler(l.onClosed),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { l.onError(err) }),
	}
	if l.embedded != nil {
		// A pipe's writer waits for its reader anyhow; a deadline would be a timer a write.
		return append(options, nats.InProcessServer(l), nats.FlusherTimeout(0))
	}
	return append(options, nats.SetCustomDialer(l), nats.FlusherTimeout(writeMax))
}

// reachOptions say how the server is reached, and as whom.
func (l *link) reachOptions(o Options) ([]nats.Option, error) {
	if l.embedded != nil {
		return []nats.Option{nats.Token(l.embedded.token)}, nil
	}
	var options []nats.Option
	ways := 0
	for _, way := range []string{o.CredsFile, o.NKeyFile, o.Token, o.User} {
		if way != "" {
			ways++
		}
	}
	if ways > 1 {
		return nil, errors.New("more than one of creds file, nkey file, token and user is given: only one can be used")
	}
	switch {
	case o.CredsFile != "":
		options = append(options, nats.UserCredentials(o.CredsFile))
	case o.NKeyFile != "":
		option, err := nats.NkeyOptionFromSeed(o.NKeyFile)
		if err != nil {
			return nil, fmt.Errorf("nkey file %q: %w", o.NKeyFile, err)
		}
		options = append(options, option)
	case o.Token != "":
		options = append(options, nats.Token(o.Token))
	case o.User != "":
		options = append(options, nats.UserInfo(o.User, o.Password))
	}
	config, err := o.TLS.client()
	if err != nil {
		return nil, err
	}
	if config != nil {
		options = append(options, nats.Secure(config))
	}
	return options, nil
}

func retryAfter(tries int) time.Duration {
	wait := retryMax
	if tries < 6 { // beyond that, the shift is past retryMax
		wait = min(retryMin<<max(tries-1, 0), retryMax)
	}
	return wait + rand.N(wait/2)
}

// wire is the connection below nats.go.
type wire struct {
	net.Conn
	link *link
	stop func() bool
}

// Dial is nats.CustomDialer.
func (l *link) Dial(network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialMax}
	conn, err := dialer.DialContext(l.ctx, network, address)
	if err != nil {
		return nil, err
	}
	return l.wired(conn), nil
}

// InProcessConn is nats.InProcessConnProvider.
func (l *link) InProcessConn() (net.Conn, error) {
	conn, err := l.embedded.server.InProcessConn()
	if err != nil {
		return nil, err
	}
	return l.wired(conn), nil
}

// wired comes before the first byte of a connection and after the last of the one
// before it, so this is where the hole between them is.
func (l *link) wired(conn net.Conn) net.Conn {
	w := &wire{Conn: conn, link: l}
	w.stop = context.AfterFunc(l.ctx, func() { conn.Close() }) // ends a handshake that close meets
	if before := l.wire.Swap(w); before != nil {
		before.Close()
	}
	if l.lived.Swap(false) {
		l.lanes.Break()
	}
	l.mu.Lock()
	clear(l.denied) // the server will say so again
	l.mu.Unlock()
	return w
}

// Close is for nats.go, and for wired.
func (w *wire) Close() error {
	w.stop()
	return w.Conn.Close()
}

// Read is called by nats.go's reader, which by then has parsed all it read before.
func (w *wire) Read(p []byte) (int, error) {
	w.link.deliver()
	return w.Conn.Read(p)
}

// Write gives the connection up if it fails: nats.go forgets what it could not
// write and would go on.
func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	if err != nil {
		w.Close()
	}
	return n, err
}

// deliver takes what has arrived to the lanes. It does not wait for receivers.
func (l *link) deliver() {
	dropped := 0
	for {
		select {
		case m := <-l.arrived:
			l.live()
			if !strings.HasPrefix(m.Subject, l.items) {
				l.talk.take(m)
				continue
			}
			if l.push(m) {
				dropped++
			}
		default:
			if dropped > 0 && l.mayWarn() {
				l.log.Warn("bus drops items: this node's receivers are slower than what comes", "items", dropped)
			}
			return
		}
	}
}

// push takes an item to the lanes. A server sends it once for each subscription that
// matches, so each is for its own.
func (l *link) push(m *nats.Msg) (dropped bool) {
	lane := l.lanes.Lane(m.Subject)
	if m.Sub == nil || m.Sub.Subject == m.Subject {
		return lane.Push(m.Subject, m.Data)
	}
	p, ok := l.patterns.Load(m.Sub)
	return ok && lane.PushMatched(p.(*lanes.Pattern), m.Subject, m.Data)
}

// live notes that from now on, items missed are missed after others.
func (l *link) live() {
	if !l.lived.Load() {
		l.lived.Store(true)
	}
}

// publish hands data to the server. subject is not kept.
func (l *link) publish(subject string, data []byte) error {
	if !l.up.Load() {
		return pubsub.ErrDisconnected // nats.go would wait for a dial that is under way
	}
	l.live()
	conn := l.conn.Load()
	return l.sent(conn, conn.Publish(subject, data), data)
}

// request is publish with where the answers go.
func (l *link) request(subject, reply string, data []byte) error {
	if !l.up.Load() {
		return pubsub.ErrDisconnected
	}
	conn := l.conn.Load()
	return l.sent(conn, conn.PublishRequest(subject, reply, data), data)
}

func (l *link) sent(conn *nats.Conn, err error, data []byte) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrReconnectBufExceeded): // broken, and onDown not called yet
		return pubsub.ErrDisconnected
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: %d bytes, at most %d (max_payload of the NATS server)", pubsub.ErrItemTooLong, len(data), conn.MaxPayload())
	}
	return fmt.Errorf("%w: %w", pubsub.ErrDisconnected, err)
}

// join waits until the server knows that this node listens to the channel.
func (l *link) join(ctx context.Context, channel *lanes.Channel) error {
	l.mu.Lock()
	l.changed[channel] = struct{}{}
	if l.round == nil {
		l.round = &round{done: make(chan struct{})}
	}
	round := l.round
	l.mu.Unlock()
	l.kick()
	select {
	case <-round.done:
		if round.err != nil {
			return round.err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.denied[channel.Key]
	case <-l.ctx.Done():
		return pubsub.ErrClosed
	case <-ctx.Done():
		if !l.up.Load() {
			return fmt.Errorf("%w: %w", pubsub.ErrDisconnected, ctx.Err())
		}
		return ctx.Err()
	}
}

// leave has the server told that nobody here listens to the channel.
func (l *link) leave(channel *lanes.Channel) {
	l.mu.Lock()
	l.changed[channel] = struct{}{}
	l.mu.Unlock()
	l.kick()
}

func (l *link) kick() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run alone talks to nats.go about subscriptions: it is the one that may have to
// wait for its lock, and it makes one round trip for all that came meanwhile.
func (l *link) run() {
	for tries := 0; ; {
		wake, again := l.wake, (<-chan time.Time)(nil)
		if l.settle() {
			tries = 0
		} else {
			tries++
			wake, again = nil, time.After(retryAfter(tries))
		}
		select {
		case <-wake:
		case <-again:
		case <-l.ctx.Done():
			return
		}
	}
}

// settle brings the server's view of this node up to date; false asks to be
// called again in a while.
func (l *link) settle() bool {
	l.mu.Lock()
	changed, mend, dead := l.changed, l.mend, l.dead
	l.changed = make(map[*lanes.Channel]struct{})
	l.mend = false
	if l.round != nil {
		l.unconfirmed = append(l.unconfirmed, l.round)
		l.round = nil
	}
	l.mu.Unlock()

	done := true
	if dead {
		if done = l.reopen(changed); done {
			mend = true
		}
	}
	conn := l.conn.Load()
	for channel := range changed {
		l.adjust(conn, channel)
	}
	if !l.up.Load() {
		if mend {
			l.mendLater()
		}
		return done // onUp wakes us
	}
	if len(l.unconfirmed) == 0 && !mend {
		return true
	}
	generation := l.lanes.Generation()
	if err := conn.FlushTimeout(confirmMax); err != nil {
		if mend {
			l.mendLater()
		}
		return false
	}
	l.live()
	l.confirms.Add(1)
	err := l.refusals(conn)
	for _, round := range l.unconfirmed {
		round.err = err
		close(round.done)
	}
	l.unconfirmed = nil
	if mend {
		l.lanes.Mend(generation)
	}
	return true
}

func (l *link) mendLater() {
	l.mu.Lock()
	l.mend = true
	l.mu.Unlock()
}

// adjust makes the channel's interest what it should be.
func (l *link) adjust(conn *nats.Conn, channel *lanes.Channel) {
	if channel.Heard() {
		if channel.Interest != nil {
			return
		}
		interest, err := conn.ChanSubscribe(channel.Key, l.arrived)
		switch {
		case err == nil:
			channel.Interest = interest
			if p := channel.Pattern(); p != nil {
				l.patterns.Store(interest, p)
			}
		case errors.Is(err, nats.ErrConnectionClosed):
			// reopen takes up every channel.
		default:
			l.mu.Lock()
			l.denied[channel.Key] = fmt.Errorf("%w: %w", pubsub.ErrDenied, err)
			l.mu.Unlock()
		}
		return
	}
	if !channel.Forget() {
		return // somebody came, and put it in the next round
	}
	if interest, ok := channel.Interest.(*nats.Subscription); ok {
		// It fails only on a connection that is closed, which has no interest.
		_ = interest.Unsubscribe()
		l.patterns.Delete(interest)
		channel.Interest = nil
	}
	l.mu.Lock()
	delete(l.denied, channel.Key)
	l.mu.Unlock()
}

// refusals waits until what the server refused before its answer to Flush is
// noted (nats.go tells of it in another goroutine), and returns what concerns all.
func (l *link) refusals(conn *nats.Conn) error {
	for end := time.Now().Add(refusalMax); ; time.Sleep(refusalMax / 1000) {
		last := conn.LastError()
		refused := errors.Is(last, nats.ErrPermissionViolation) || errors.Is(last, nats.ErrMaxSubscriptionsExceeded)
		l.mu.Lock()
		if !refused || last == l.answered || time.Now().After(end) {
			full := l.full
			l.full = nil
			l.mu.Unlock()
			return full
		}
		l.mu.Unlock()
	}
}

// reopen makes a new connection in place of one that nats.go has given up, which it
// does when a server sends an error it does not know. All channels are put in
// changed.
func (l *link) reopen(changed map[*lanes.Channel]struct{}) bool {
	conn, err := l.connect()
	if err != nil {
		if l.ctx.Err() == nil && l.mayWarn() {
			l.log.Warn("NATS connection: another try", "error", err)
		}
		l.mu.Lock()
		maps.Copy(l.changed, changed) // for the next try
		l.mu.Unlock()
		clear(changed)
		return false
	}
	l.patterns.Clear()
	for _, channel := range l.lanes.Channels() {
		channel.Interest = nil
		changed[channel] = struct{}{}
	}
	l.mu.Lock()
	l.dead = false
	l.mu.Unlock()
	l.talk.subscribe(conn, l.arrived)
	l.conn.Store(conn)
	l.reconnects.Add(1)
	l.up.Store(true)
	l.log.Info("NATS connection is back", "server", conn.ConnectedUrlRedacted())
	return true
}

func (l *link) onDown(err error) {
	if l.lived.Swap(false) { // wired does it, too, but a while later
		l.lanes.Break()
	}
	l.up.Store(false)
	if l.ctx.Err() == nil {
		l.log.Warn("NATS connection broke: items from other nodes are missed until it is back", "error", err)
	}
}

func (l *link) onUp(conn *nats.Conn) {
	l.up.Store(true)
	l.reconnects.Add(1)
	l.log.Info("NATS connection is back", "server", conn.ConnectedUrlRedacted())
	l.mendLater()
	l.kick()
}

func (l *link) onClosed(conn *nats.Conn) {
	if l.ctx.Err() != nil {
		return
	}
	l.up.Store(false)
	l.log.Warn("NATS connection was given up, another is made", "error", conn.LastError())
	l.mu.Lock()
	l.dead = true
	l.mu.Unlock()
	l.kick()
}

// onError hears what the server refuses, in the order of its answers.
func (l *link) onError(err error) {
	switch {
	case errors.Is(err, nats.ErrSlowConsumer):
		// Cannot be, by the size of arrived. If it is: nobody knows what is missing.
		l.log.Error("NATS client dropped items before they were taken up", "error", err)
		l.lanes.Break()
		l.mendLater()
		l.kick()
	case errors.Is(err, nats.ErrPermissionViolation):
		if subject, ok := deniedSubscription(err); ok {
			l.mu.Lock()
			l.denied[subject] = fmt.Errorf("%w: %w", pubsub.ErrDenied, err)
			l.mu.Unlock()
		}
		if l.mayWarn() {
			l.log.Warn("NATS server refuses", "error", err)
		}
	case errors.Is(err, nats.ErrMaxSubscriptionsExceeded):
		l.mu.Lock()
		l.full = fmt.Errorf("%w: %w", pubsub.ErrDenied, err)
		l.mu.Unlock()
		if l.mayWarn() {
			l.log.Error("NATS server takes no more subscriptions: channels stay silent", "error", err)
		}
	default:
		if l.ctx.Err() == nil && l.mayWarn() {
			l.log.Warn("NATS connection", "error", err)
		}
	}
	l.mu.Lock()
	l.answered = err
	l.mu.Unlock()
}

// deniedSubscription finds the subject in what a server says:
//
//	nats: permissions violation: Permissions Violation for Subscription to "gripway.item.a"
func deniedSubscription(err error) (subject string, ok bool) {
	_, rest, ok := strings.Cut(err.Error(), `Subscription to "`)
	subject, _, closed := strings.Cut(rest, `"`)
	return subject, ok && closed
}

func (l *link) mayWarn() bool {
	last, now := l.warned.Load(), time.Now().UnixNano()
	return now-last > int64(warnEvery) && l.warned.CompareAndSwap(last, now)
}

// close sends what was accepted, and ends what openLink began.
func (l *link) close() {
	conn := l.conn.Load()
	if l.up.Load() {
		// Whoever is to hear more than "accepted" gives items ids; nothing to report.
		_ = conn.FlushTimeout(closeMax)
	}
	l.cancel()
	conn.Close()
	l.running.Wait()
	l.conn.Load().Close() // of a reopen that met us
}

// redact hides passwords and tokens in a list of URLs.
func redact(urls string) string {
	list := strings.Split(urls, ",")
	for i, s := range list {
		u, err := url.Parse(strings.TrimSpace(s))
		switch {
		case err != nil:
			list[i] = "(not a URL)"
		case u.User != nil:
			u.User = url.User("xxxxx")
			list[i] = u.String()
		}
	}
	return strings.Join(list, ",")
}
