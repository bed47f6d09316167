//go:build linux

// The load generator: a child process with the clients, the publishers and the
// origin. It keeps its own cost low (raw sockets, one thread for the clients)
// and stays out of the account: only the processes under test are measured.

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"time"
)

const (
	// roundPatience is how long one item may take to reach everybody, or one
	// request to be answered, before it counts as lost.
	roundPatience = 20 * time.Second

	// openPatience is how long opening may take without one client more.
	openPatience = 20 * time.Second

	// warmShare of a budget is spent before the measuring starts.
	warmShare = 0.25

	// subscribeSettle lets a gateway finish a subscription after it told the
	// client that it stands: the origin's control messages are not acknowledged.
	subscribeSettle = 200 * time.Millisecond

	// reachPatience is how long one item may take until every subscriber has
	// it, before another one is tried.
	reachPatience = 10 * time.Second

	// sourceAddresses is how many loopback addresses clients come from, and
	// sourceStride how many connections in a row share one: no address runs out
	// of ports, closed connections that linger included.
	sourceAddresses = 200
	sourceStride    = 250

	// latenciesMax bounds the list an outcome carries.
	latenciesMax = 100_000

	benchHost    = "bench.example"
	benchChannel = "bench"
)

var markerBytes = []byte{marker}

// load is the state of a load generator. One goroutine owns it; the origin
// runs on another and shares only its counters.
type load struct {
	// Fixed after aim.
	loop    *loop
	origin  *origin
	front   netip.AddrPort
	control netip.AddrPort
	pids    []int

	clients    []*client
	publishers []*publisher
	dialled    int

	// Of the order being carried out.
	received int       // messages, over all clients
	expected int       // received when the round is complete
	reached  time.Time // when that was
	failure  error     // the first thing that went wrong
	seq      int       // of the last message published
	mending  bool      // a client that goes is opened again instead of failing the order
	dropped  int       // clients that went while mending
}

// client is one subscriber: a held HTTP response or a WebSocket.
type client struct {
	kind    string
	channel string
	checked bool // its every byte is compared with what was published

	peer   *peer
	open   bool
	lost   bool   // the gateway closed it; mend opens it again
	head   []byte // as long as it is not complete
	count  int    // messages received
	frames frames
	wire   *response   // of checked streams
	tape   []byte      // content received, of checked clients
	echoed func(n int) // what to do for n messages, if not counting
}

var orders = map[string]func(*load, order) outcome{
	"aim":      (*load).aim,
	"probe":    (*load).probe,
	"open":     (*load).open,
	"close":    (*load).closeAll,
	"rest":     (*load).rest,
	"deliver":  (*load).deliver,
	"channels": (*load).channels,
	"one":      (*load).one,
	"proxy":    (*load).proxy,
	"exchange": (*load).exchange,
	"poll":     (*load).poll,
	"intake":   (*load).intake,
}

// serveLoad carries out orders from in until it ends.
func serveLoad(in io.Reader, out io.Writer) error {
	runtime.LockOSThread()
	debug.SetGCPercent(800) // few bytes live, and collecting would disturb the clients' thread
	answers := json.NewEncoder(out)
	l := &load{}
	var err error
	if l.loop, err = newLoop(); err == nil {
		l.origin, err = startOrigin()
	}
	if err != nil {
		return answers.Encode(hello{Error: err.Error()})
	}
	if err := answers.Encode(hello{Origin: l.origin.addr.String()}); err != nil {
		return err
	}
	lines := json.NewDecoder(bufio.NewReader(in))
	for {
		var o order
		if err := lines.Decode(&o); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("order: %w", err)
		}
		do, known := orders[o.Do]
		result := outcome{Error: fmt.Sprintf("no such order %q", o.Do)}
		if known {
			l.failure, l.received, l.expected, l.mending, l.dropped = nil, 0, 0, false, 0
			result = do(l, o)
		}
		if err := answers.Encode(result); err != nil {
			return err
		}
	}
}

// failed is the outcome of an order that did not work out.
func (l *load) failed(err error) outcome {
	if text := l.origin.fault.Load(); text != nil {
		err = fmt.Errorf("%w (%s)", err, *text)
	}
	return outcome{Error: err.Error()}
}

// fail remembers the first failure; the order in work ends with it.
func (l *load) fail(err error) {
	if l.failure == nil {
		l.failure = err
	}
}

// until turns the loop until done, a failure, or the end of patience.
func (l *load) until(patience time.Duration, what string, done func() bool) error {
	deadline := time.Now().Add(patience)
	for !done() {
		if l.failure != nil {
			return l.failure
		}
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("%s: not within %s", what, patience)
		}
		if err := l.loop.turn(left); err != nil {
			return err
		}
	}
	return l.failure
}

// turnFor serves the sockets for a while.
func (l *load) turnFor(d time.Duration) error {
	for end := time.Now().Add(d); ; {
		left := time.Until(end)
		if left <= 0 || l.failure != nil {
			return l.failure
		}
		if err := l.loop.turn(left); err != nil {
			return err
		}
	}
}

// source is the address the next client comes from.
func (l *load) source() netip.Addr {
	n := l.dialled / sourceStride % sourceAddresses
	l.dialled++
	return netip.AddrFrom4([4]byte{127, 1, 1, byte(n + 1)})
}

// meter measures from now on.
type meter struct {
	load  *load
	cpu   time.Duration
	begun time.Time
}

func (l *load) measure() meter {
	cpu, err := cpuTime(l.pids)
	if err != nil {
		l.fail(err)
	}
	return meter{l, cpu, time.Now()}
}

func (m meter) outcome(units int) outcome {
	wall := time.Since(m.begun)
	cpu, err := cpuTime(m.load.pids)
	if err == nil {
		err = m.load.failure
	}
	if err != nil {
		return m.load.failed(err)
	}
	return outcome{Units: units, CPU: cpu - m.cpu, Wall: wall, Dropped: m.load.dropped}
}

func (l *load) aim(o order) outcome {
	var err error
	if l.front, err = netip.ParseAddrPort(o.Front); err == nil {
		l.control, err = netip.ParseAddrPort(o.Control)
	}
	if err != nil {
		return l.failed(err)
	}
	l.pids = o.Pids
	return outcome{}
}

// probe holds a stream and a WebSocket on a channel of their own and publishes
// to them: a gateway of several processes takes requests before its parts have
// all found each other.
func (l *load) probe(o order) outcome {
	const patience = 500 * time.Millisecond
	defer l.closeAll(o)
	for _, kind := range []string{kindStream, kindWS} {
		standing := false
		c := &client{kind: kind, channel: "probe"}
		l.clients = []*client{c}
		if err := l.connect(c, func() { standing = true }); err != nil {
			return l.failed(err)
		}
		if err := l.until(patience, "open", func() bool { return standing }); err != nil {
			return l.failed(fmt.Errorf("%s: %w", kind, err))
		}
		if err := l.reach(formatOf(kind), 0, patience); err != nil {
			return l.failed(fmt.Errorf("%s: %w", kind, err))
		}
		l.closeAll(o)
	}
	return outcome{Units: 1}
}

// open connects clients and waits until each stands. Units are connections.
func (l *load) open(o order) outcome {
	var clients []*client
	for i := range o.Clients {
		c := &client{kind: o.Kind, checked: i == 0}
		switch o.Channels {
		case oneChannel:
			c.channel = benchChannel
		case channelEach:
			c.channel = fmt.Sprintf("%s-%d", benchChannel, i)
		}
		clients = append(clients, c)
	}
	l.clients = clients
	m := l.measure()
	if err := l.connectAll(clients, o.InFlight); err != nil {
		return l.failed(err)
	}
	return m.outcome(len(clients))
}

// connectAll starts clients, so many at once, and waits until each stands.
func (l *load) connectAll(clients []*client, inFlight int) error {
	standing, started := 0, 0
	for standing < len(clients) {
		for started-standing < inFlight && started < len(clients) {
			if err := l.connect(clients[started], func() { standing++ }); err != nil {
				return fmt.Errorf("after %d clients: %w", standing, err)
			}
			started++
		}
		before := standing
		if err := l.until(openPatience, "open", func() bool { return standing > before }); err != nil {
			return fmt.Errorf("%d of %d stand: %w", standing, len(clients), err)
		}
	}
	return nil
}

// connect starts one client; stands is called once the hold or the WebSocket stands.
func (l *load) connect(c *client, stands func()) error {
	p, err := l.loop.dial(l.source(), l.front)
	if err != nil {
		return err
	}
	c.peer, c.open, c.lost, c.frames, c.wire = p, false, false, frames{}, nil
	if c.checked {
		c.frames.tape = &c.tape
		if c.kind == kindStream {
			c.wire = &response{tape: &c.tape}
		}
	}
	p.gone = func(err error) { l.lost(c, err) }
	p.got = func(b []byte) {
		if err := l.welcome(c, b); err != nil {
			l.fail(err)
		} else if c.open {
			stands()
		}
	}
	target := "/" + c.kind
	if c.channel != "" {
		target += "?c=" + c.channel
	}
	if c.kind == kindWS {
		p.write(handshake(target, benchHost))
	} else {
		p.write(get(target, benchHost))
	}
	return nil
}

// lost: the gateway closed a client that it should have kept.
func (l *load) lost(c *client, err error) {
	c.peer.close()
	if c.lost {
		return
	}
	c.lost = true
	if !l.mending || !c.open {
		l.fail(fmt.Errorf("a %s client was closed: %w", c.kind, err))
		return
	}
	l.dropped++
}

// welcome reads a client's response head, and what comes with it.
func (l *load) welcome(c *client, b []byte) error {
	c.head = append(c.head, b...)
	h, rest, ok, err := takeHead(c.head)
	if err != nil || !ok {
		return err
	}
	if c.kind == kindWS {
		if h.status() != 101 || h.field("Sec-WebSocket-Accept") != handshakeAccept {
			return fmt.Errorf("WebSocket handshake answered with %.300q", c.head)
		}
		c.peer.got = func(b []byte) { l.gotFrames(c, b) }
	} else {
		if h.status() != 200 {
			return fmt.Errorf("stream answered with %.300q", c.head)
		}
		if c.wire != nil {
			if _, _, err := c.wire.feed(h); err != nil {
				return err
			}
		}
		c.peer.got = func(b []byte) { l.gotStream(c, b) }
	}
	c.open, c.head = true, nil
	if len(rest) > 0 {
		c.peer.got(rest)
	}
	return nil
}

func (l *load) gotFrames(c *client, b []byte) {
	n, reply, closed, err := c.frames.feed(b)
	if err != nil {
		l.fail(err)
		return
	}
	if closed {
		l.lost(c, errors.New("Close frame"))
		return
	}
	if reply != nil {
		c.peer.write(reply)
	}
	l.count(c, n)
}

func (l *load) gotStream(c *client, b []byte) {
	if c.wire != nil {
		_, done, err := c.wire.feed(b)
		if err != nil {
			l.fail(err)
			return
		}
		if done {
			l.lost(c, errors.New("last chunk"))
			return
		}
	}
	l.count(c, bytes.Count(b, markerBytes))
}

func (l *load) count(c *client, n int) {
	c.count += n
	if c.echoed != nil {
		c.echoed(n)
		return
	}
	l.received += n
	if n > 0 && l.received >= l.expected {
		l.reached = time.Now()
	}
}

// closeAll drops every connection. Units are connections.
func (l *load) closeAll(order) outcome {
	n := len(l.clients)
	for _, c := range l.clients {
		c.peer.close()
	}
	for _, p := range l.publishers {
		p.drop()
	}
	l.clients, l.publishers = nil, nil
	return outcome{Units: n}
}

// rest does nothing but answer pings. Units are connections held.
func (l *load) rest(o order) outcome {
	m := l.measure()
	if err := l.turnFor(o.Budget); err != nil {
		return l.failed(err)
	}
	return m.outcome(len(l.clients))
}

// repeat does rounds of work until the budget is spent, at least atLeast times.
func (l *load) repeat(budget time.Duration, atLeast int, round func() error) (rounds int, err error) {
	begun := time.Now()
	for rounds < atLeast || time.Since(begun) < budget {
		if err := round(); err != nil {
			return rounds, fmt.Errorf("round %d: %w", rounds+1, err)
		}
		rounds++
	}
	return rounds, nil
}

// reach publishes one message to all clients again and again until one arrives
// everywhere: only then every subscription stands. Clients that the gateway
// drops meanwhile are opened again and counted; later it is a failure. It waits
// for settle first, and for patience after each attempt.
func (l *load) reach(format string, settle, patience time.Duration) error {
	l.mending = true
	defer func() { l.mending = false }()
	channels := map[string]bool{}
	for _, c := range l.clients {
		channels[c.channel] = true
	}
	const (
		attempts   = 8
		afterFirst = 100 * time.Millisecond // for drops that follow a client's first item
	)
	for range attempts {
		var lost []*client
		for _, c := range l.clients {
			if c.lost {
				lost = append(lost, c)
			}
		}
		if err := l.connectAll(lost, openInFlight); err != nil {
			return fmt.Errorf("open again: %w", err)
		}
		if err := l.turnFor(settle); err != nil {
			return err
		}
		l.received, l.expected = 0, len(l.clients)
		l.seq++
		var bodies [][]byte
		for channel := range channels {
			bodies = append(bodies, publishBody(format, item{channel, l.seq}))
		}
		if err := l.publishAll(bodies, publishersMax); err != nil {
			return err
		}
		before := l.dropped
		err := l.until(patience, "delivery", func() bool { return l.received+l.dropped-before >= l.expected })
		if l.failure != nil {
			return err
		}
		if err == nil && l.received >= l.expected {
			if err := l.turnFor(afterFirst); err != nil || l.dropped == before {
				return err
			}
		}
	}
	return fmt.Errorf("%d of %d clients were reached, after %d items", l.received, len(l.clients), attempts)
}

// publishAll posts the bodies over n publishers and waits for their answers.
func (l *load) publishAll(bodies [][]byte, n int) error {
	for len(l.publishers) < n {
		l.publishers = append(l.publishers, &publisher{load: l})
	}
	next, answered := 0, 0
	var more func(*publisher)
	more = func(p *publisher) {
		if next < len(bodies) {
			next++
			p.post(bodies[next-1], func() { answered++; more(p) })
		}
	}
	for _, p := range l.publishers[:n] {
		more(p)
	}
	return l.until(roundPatience, "publish", func() bool { return answered == len(bodies) })
}

// exactly checks that each client got just n messages since the counts were
// cleared, and that the first client's are those between the numbers, in order.
func (l *load) exactly(n, seqFrom, seqTo int) error {
	const drain = 20 * time.Millisecond
	if err := l.turnFor(drain); err != nil {
		return err
	}
	for i, c := range l.clients {
		if c.count != n {
			return fmt.Errorf("client %d received %d messages, want %d", i, c.count, n)
		}
	}
	if len(l.clients) == 0 || l.clients[0].channel == "" {
		return nil
	}
	tape := l.clients[0].tape
	for seq := seqFrom; seq <= seqTo; seq++ {
		if want := message(seq); len(tape) < len(want) || string(tape[:len(want)]) != want {
			return fmt.Errorf("message %d arrived as %.*q", seq, messageBytes, tape)
		}
		tape = tape[messageBytes:]
	}
	if len(tape) > 0 {
		return fmt.Errorf("%d bytes more than published: %.*q", len(tape), messageBytes, tape)
	}
	return nil
}

// clear forgets what was received.
func (l *load) clear() {
	for _, c := range l.clients {
		c.count, c.tape = 0, c.tape[:0]
	}
}

// deliver publishes to the one channel, each POST only when the one before it
// has reached everybody. Units are deliveries; latencies are from the POST's
// first byte to the last subscriber's.
func (l *load) deliver(o order) outcome {
	format := formatOf(o.Kind)
	if err := l.reach(format, subscribeSettle, reachPatience); err != nil {
		return l.failed(err)
	}
	p := l.publishers[0]
	var latencies []float64
	round := func() error {
		items := make([]item, o.Items)
		for i := range items {
			l.seq++
			items[i] = item{benchChannel, l.seq}
		}
		body := publishBody(format, items...)
		l.received, l.expected = 0, len(l.clients)*o.Items
		answered := false
		begun := time.Now()
		p.post(body, func() { answered = true })
		err := l.until(roundPatience, "delivery", func() bool { return answered && l.received >= l.expected })
		if err != nil {
			return fmt.Errorf("%d of %d received: %w", l.received, l.expected, err)
		}
		if len(latencies) < latenciesMax {
			latencies = append(latencies, milliseconds(l.reached.Sub(begun)))
		}
		return nil
	}
	if _, err := l.repeat(time.Duration(warmShare*float64(o.Budget)), 1, round); err != nil {
		return l.failed(err)
	}
	l.clear()
	latencies = nil
	seqFrom := l.seq + 1
	m := l.measure()
	rounds, err := l.repeat(o.Budget, o.Rounds, round)
	if err != nil {
		return l.failed(err)
	}
	result := m.outcome(rounds * o.Items * len(l.clients))
	result.Latencies = latencies
	if err := l.exactly(rounds*o.Items, seqFrom, l.seq); err != nil {
		return l.failed(err)
	}
	return result
}

// channels publishes one item to each client's own channel, o.Items channels a
// POST, o.InFlight POSTs at once; then again. Units are deliveries.
func (l *load) channels(o order) outcome {
	format := formatOf(o.Kind)
	if err := l.reach(format, subscribeSettle, reachPatience); err != nil {
		return l.failed(err)
	}
	round := func() error {
		l.seq++
		var bodies [][]byte
		for from := 0; from < len(l.clients); from += o.Items {
			var items []item
			for _, c := range l.clients[from:min(from+o.Items, len(l.clients))] {
				items = append(items, item{c.channel, l.seq})
			}
			bodies = append(bodies, publishBody(format, items...))
		}
		l.received, l.expected = 0, len(l.clients)
		if err := l.publishAll(bodies, o.InFlight); err != nil {
			return err
		}
		return l.until(roundPatience, "delivery", func() bool { return l.received >= l.expected })
	}
	if _, err := l.repeat(time.Duration(warmShare*float64(o.Budget)), 1, round); err != nil {
		return l.failed(err)
	}
	l.clear()
	seqFrom := l.seq + 1
	m := l.measure()
	rounds, err := l.repeat(o.Budget, o.Rounds, round)
	if err != nil {
		return l.failed(err)
	}
	result := m.outcome(rounds * len(l.clients))
	if err := l.exactly(rounds, seqFrom, l.seq); err != nil {
		return l.failed(err)
	}
	return result
}

// one publishes at a steady rate to whoever is there. Units are items.
func (l *load) one(o order) outcome {
	format := formatOf(o.Kind)
	if err := l.reach(format, subscribeSettle, reachPatience); err != nil {
		return l.failed(err)
	}
	p := l.publishers[0]
	var latencies []float64
	period := time.Second / time.Duration(o.Rate)
	due := time.Now()
	round := func() error {
		due = due.Add(period)
		if err := l.turnFor(time.Until(due)); err != nil {
			return err
		}
		l.seq++
		body := publishBody(format, item{benchChannel, l.seq})
		l.received, l.expected = 0, len(l.clients)
		answered := false
		begun := time.Now()
		p.post(body, func() { answered = true })
		err := l.until(roundPatience, "delivery", func() bool { return answered && l.received >= l.expected })
		if err == nil && len(latencies) < latenciesMax {
			latencies = append(latencies, milliseconds(l.reached.Sub(begun)))
		}
		return err
	}
	const warmRounds = 10
	if _, err := l.repeat(0, warmRounds, round); err != nil {
		return l.failed(err)
	}
	l.clear()
	latencies = nil
	seqFrom := l.seq + 1
	m := l.measure()
	rounds, err := l.repeat(o.Budget, o.Rounds, round)
	if err != nil {
		return l.failed(err)
	}
	result := m.outcome(rounds)
	result.Latencies = latencies
	if err := l.exactly(rounds, seqFrom, l.seq); err != nil {
		return l.failed(err)
	}
	return result
}

// window lets work that repeats itself run, and counts what it did in the
// measured time. count must grow.
func (l *load) window(budget time.Duration, count *int) outcome {
	if err := l.turnFor(time.Duration(warmShare * float64(budget))); err != nil {
		return l.failed(err)
	}
	before := *count
	m := l.measure()
	if err := l.turnFor(budget); err != nil {
		return l.failed(err)
	}
	done := *count - before
	if done == 0 {
		return l.failed(fmt.Errorf("nothing was answered within %s", budget))
	}
	return m.outcome(done)
}

// proxy asks for the plain kilobyte, o.InFlight requests at once, each on its
// own connection. Units are requests.
func (l *load) proxy(o order) outcome {
	answers := 0
	stopped := false
	var askers []*asker
	defer func() {
		for _, a := range askers {
			a.stop()
		}
	}()
	for range o.InFlight {
		var body []byte
		a, err := l.asker(get("/plain", benchHost), func(r *response) bool {
			if r.status != 200 || len(body) != plainBytes {
				l.fail(fmt.Errorf("plain request answered with %d and %d bytes, want 200 and %d", r.status, len(body), plainBytes))
				return false
			}
			body = body[:0]
			answers++
			return !stopped
		})
		if err != nil {
			return l.failed(err)
		}
		a.response.tape = &body
		askers = append(askers, a)
		a.ask()
	}
	result := l.window(o.Budget, &answers)
	stopped = true
	return result
}

// exchange sends a text message from every WebSocket and the next when its echo
// is there. Units are round trips; latencies are those of the measured time
// and a little before it.
func (l *load) exchange(o order) outcome {
	text := maskedFrame(opText, []byte(message(0)))
	echoes, stopped := 0, false
	var latencies []float64
	for _, c := range l.clients {
		c.count, c.tape = 0, c.tape[:0]
		sent := time.Now()
		c.echoed = func(n int) {
			if n == 0 || stopped {
				return
			}
			if n > 1 {
				l.fail(fmt.Errorf("%d echoes to one message", n))
			}
			if now := time.Now(); len(latencies) < latenciesMax {
				latencies = append(latencies, milliseconds(now.Sub(sent)))
				sent = now
			}
			echoes++
			c.peer.write(text)
		}
		c.peer.write(text)
	}
	result := l.window(o.Budget, &echoes)
	stopped = true
	result.Latencies = latencies
	const lastEchoes = 200 * time.Millisecond
	if err := l.turnFor(lastEchoes); err != nil {
		return l.failed(err)
	}
	for _, c := range l.clients {
		c.echoed = nil
	}
	first := l.clients[0]
	for i := 0; i < len(first.tape); i += messageBytes {
		if got, want := string(first.tape[i:]), message(0); len(got) < len(want) || got[:len(want)] != want {
			return l.failed(fmt.Errorf("echo %d arrived as %.*q", i/messageBytes, messageBytes, got))
		}
	}
	return result
}

// poll has o.Clients long polls answered together by one item, then again.
// Units are answers.
func (l *load) poll(o order) outcome {
	const (
		// held is what a gateway gets to hold a response after the origin gave
		// it: nothing tells the outside when it does.
		held = 20 * time.Millisecond
		// again is when an item that missed someone is published once more.
		again = 500 * time.Millisecond
	)
	answers, repeated := 0, 0
	bodies := make([][]byte, o.Clients)
	askers := make([]*asker, o.Clients)
	defer func() {
		for _, a := range askers {
			if a != nil {
				a.stop()
			}
		}
	}()
	for i := range o.Clients {
		a, err := l.asker(get("/poll?c="+benchChannel, benchHost), func(r *response) bool {
			body := bodies[i]
			bodies[i] = body[:0]
			if r.status >= 500 { // the gateway's own trouble: ask again, and tell
				l.dropped++
				return true
			}
			if r.status != 200 || len(body) != messageBytes {
				l.fail(fmt.Errorf("long poll answered with %d and %.*q", r.status, messageBytes, body))
			}
			answers++
			return false
		})
		if err != nil {
			return l.failed(err)
		}
		a.response.tape = &bodies[i]
		askers[i] = a
	}
	round := func() error {
		answers = 0
		before := l.origin.polls.Load()
		for _, a := range askers {
			a.ask()
		}
		// The origin counts on another thread: look again each millisecond.
		for deadline := time.Now().Add(roundPatience); l.origin.polls.Load()-before < int64(o.Clients); {
			if time.Now().After(deadline) {
				return fmt.Errorf("the origin was asked %d times by %d clients", l.origin.polls.Load()-before, o.Clients)
			}
			if err := l.turnFor(time.Millisecond); err != nil {
				return err
			}
		}
		for deadline := time.Now().Add(roundPatience); ; repeated++ {
			if err := l.turnFor(held); err != nil {
				return err
			}
			l.seq++
			if err := l.publishAll([][]byte{publishBody("http-response", item{benchChannel, l.seq})}, 1); err != nil {
				return err
			}
			err := l.until(again, "answers", func() bool { return answers == o.Clients })
			if err == nil || l.failure != nil {
				return err
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%d of %d answered", answers, o.Clients)
			}
		}
	}
	// The first cycle, and the seconds after it, are dearer wherever a fresh
	// channel makes the gateway ask the origin twice.
	if _, err := l.repeat(max(2*time.Second, time.Duration(warmShare*float64(o.Budget))), 2, round); err != nil {
		return l.failed(err)
	}
	repeated, l.dropped = 0, 0
	m := l.measure()
	rounds, err := l.repeat(o.Budget, o.Rounds, round)
	if err != nil {
		return l.failed(err)
	}
	result := m.outcome(rounds * o.Clients)
	result.Repeated = repeated
	return result
}

// intake publishes to a channel without subscribers, o.InFlight POSTs at once
// with o.Items items each. Units are items.
func (l *load) intake(o order) outcome {
	var items []item
	for range o.Items {
		l.seq++
		items = append(items, item{"nobody", l.seq})
	}
	body := publishBody(formatOf(kindWS), items...)
	taken, stopped := 0, false
	for len(l.publishers) < o.InFlight {
		l.publishers = append(l.publishers, &publisher{load: l})
	}
	for _, p := range l.publishers[:o.InFlight] {
		var more func()
		more = func() {
			if taken += o.Items; !stopped {
				p.post(body, more)
			}
		}
		p.post(body, more)
	}
	result := l.window(o.Budget, &taken)
	stopped = true
	if err := l.until(roundPatience, "last answers", func() bool {
		for _, p := range l.publishers {
			if p.answered != nil {
				return false
			}
		}
		return true
	}); err != nil {
		return l.failed(err)
	}
	return result
}

// runChild is the tool in one of its other roles.
func runChild(role string, args []string) error {
	switch {
	case role == "load" && len(args) == 0:
		return serveLoad(os.Stdin, os.Stdout)
	case role == "floor" && len(args) == 2:
		return serveFloor(args[0], args[1])
	case role == "naive" && len(args) == 2:
		return serveNaive(args[0], args[1])
	}
	return fmt.Errorf("no such role: %q %q", role, args)
}
