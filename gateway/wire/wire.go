// Package wire keeps clients' connections that have nothing to do most of the
// time: held responses and WebSockets.
//
// A Conn takes over a connection whose request has been read. From then on bytes
// go out with Send, which never blocks, and come in through a Handler. On Linux a
// plain TCP connection costs no goroutine and no buffer while it is idle: it is
// watched by an epoll instance, and Send tries the socket at once, in the
// caller's goroutine. TLS connections, HTTP/2 streams and other systems get a
// goroutine that reads and, while something waits to be written, one that writes.
//
//	conn, err := group.Adopt(hijacked, wire.Options{Handler: session})
//	conn.Send(frame)        // frame may be shared by ten thousand connections
//	conn.Close(goodbye)     // after what still waits
//
// A Conn knows neither HTTP nor WebSocket: it carries bytes. What stands between
// connections and an http.Server is here as well, and what can be seen there of
// clients that the server does not tell: see Listener, Unserved, HeadFrom, FramesFrom
// and ServeTLS.
package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrClosed says that the connection has ended or is ending.
	ErrClosed = errors.New("wire: connection closed")

	// ErrSlow says that the client reads more slowly than it is sent to: what was
	// to be sent would have exceeded GroupOptions.QueueBytes and is not queued.
	ErrSlow = errors.New("wire: client too slow")

	// ErrStalled is the reason a connection ends with when its client took nothing
	// for GroupOptions.StallMax although bytes were waiting.
	ErrStalled = errors.New("wire: client stalled")
)

const (
	// queueBytesDefault bounds what may wait for one client: about what a browser
	// on a bad network catches up with in a few seconds.
	queueBytesDefault = 1 << 20

	// stallMaxDefault bounds how long bytes may wait for a client that takes none.
	stallMaxDefault = 10 * time.Second

	// lingerMax bounds how long a closing connection is read after its last byte
	// was written, so that the kernel does not reset it before the client has
	// that byte (RFC 9112, section 9.6).
	lingerMax = 2 * time.Second

	// readBytes is the size of the buffer a connection is read with.
	readBytes = 32 << 10

	// roundsMax is how often a connection is read before others have their turn.
	roundsMax = 16

	// queueKeep is how many empty places a drained queue may keep.
	queueKeep = 4
)

// Handler is told what happens on a connection. Calls for one connection come
// one at a time, and none comes after Closed.
type Handler interface {
	// Data is called with bytes from the client; p is only valid during the call.
	// It must not block: it runs where many connections are read.
	Data(c *Conn, p []byte)

	// Closed is called once, when the connection has ended: because the client
	// left (io.EOF), on an error, or after Close or Abort (ErrClosed).
	Closed(c *Conn, err error)
}

// Options describe one connection to be kept.
type Options struct {
	// Handler is told what happens; it must not be nil.
	Handler Handler

	// Unread leaves what the client sends in the kernel: Handler.Data is not
	// called, only the client's leaving is noticed. A connection that will be
	// released to an HTTP server again is kept this way.
	Unread bool

	// Buffered holds bytes that were read from the client already.
	Buffered []byte
}

// GroupOptions describe what all connections of a group share.
type GroupOptions struct {
	// Loops is how many pollers share the connections. Zero means GOMAXPROCS.
	Loops int

	// QueueBytes is how many bytes may wait for one client before Send answers
	// ErrSlow. Zero means 1 MiB.
	QueueBytes int

	// StallMax is how long bytes may wait for a client that takes none before it
	// is closed with ErrStalled. Zero means 10 s.
	StallMax time.Duration
}

// Group is a set of connections that are watched together.
type Group struct {
	opts  GroupOptions
	loops []*Loop
	next  atomic.Uint32
}

// NewGroup returns a Group whose pollers run until Close.
func NewGroup(opts GroupOptions) (*Group, error) {
	if opts.Loops == 0 {
		opts.Loops = runtime.GOMAXPROCS(0)
	}
	if opts.QueueBytes == 0 {
		opts.QueueBytes = queueBytesDefault
	}
	if opts.StallMax == 0 {
		opts.StallMax = stallMaxDefault
	}
	g := &Group{opts: opts}
	for i := range opts.Loops {
		loop := &Loop{group: g, index: i}
		if err := loop.open(); err != nil {
			g.Close()
			return nil, err
		}
		g.loops = append(g.loops, loop)
	}
	return g, nil
}

// Loops says how many pollers the group has.
func (g *Group) Loops() int { return len(g.loops) }

// Next returns a poller's index, another each time, for what is not a connection
// of the group but belongs to its load.
func (g *Group) Next() int { return int(g.next.Add(1)) % len(g.loops) }

// Timers returns the timers of the poller with that index.
func (g *Group) Timers(loop int) *Timers { return &g.loops[loop].timers }

// Close stops the pollers. Connections should have been closed before: those
// that are left are no longer watched.
func (g *Group) Close() {
	for _, loop := range g.loops {
		loop.close()
	}
}

// Adopt takes nc over: nobody else may use it afterwards. The connection starts
// corked: what is sent waits until Start.
func (g *Group) Adopt(nc net.Conn, opts Options) (*Conn, error) {
	loop := g.loops[int(g.next.Add(1))%len(g.loops)]
	c := &Conn{loop: loop, handler: opts.Handler, unread: opts.Unread, corked: true, fd: -1}
	tcp, buffered := unwrap(nc)
	if len(opts.Buffered) > 0 {
		// A copy: the buffer belongs to the HTTP server's reader.
		buffered = append(append([]byte(nil), opts.Buffered...), buffered...)
	}
	if tcp != nil {
		ok, err := c.detach(tcp)
		if err != nil {
			nc.Close()
			return nil, err
		}
		if ok {
			if len(buffered) > 0 {
				c.extra = &extra{buffered: buffered}
			}
			return c, nil
		}
	}
	c.extra = &extra{nc: nc, buffered: buffered, done: make(chan struct{}), resume: make(chan struct{}, 1)}
	return c, nil
}

// Respond returns a connection that writes into an HTTP response whose header
// has been written, for responses that cannot be taken over from their server
// (HTTP/2, TLS). The caller must not return from its http.Handler before Wait
// has returned.
func (g *Group) Respond(w http.ResponseWriter, r *http.Request, opts Options) *Conn {
	loop := g.loops[int(g.next.Add(1))%len(g.loops)]
	ctx, cancel := context.WithCancel(r.Context())
	nc := &responseConn{w: w, rc: http.NewResponseController(w), ctx: ctx, cancel: cancel}
	return &Conn{
		loop: loop, handler: opts.Handler, corked: true, fd: -1,
		extra: &extra{nc: nc, done: make(chan struct{}), resume: make(chan struct{}, 1)},
	}
}

// Conn is one client's connection. It may be used concurrently.
type Conn struct {
	// Fixed after Adopt.
	handler Handler
	loop    *Loop
	extra   *extra // nil for a polled connection without anything out of the ordinary; Release may make one, under mu
	fd      int32  // -1 unless polled
	serial  uint32 // tells this use of a file descriptor from the next
	unread  bool

	// Guarded by mu, which is never held during a system call or a call of handler.
	mu       sync.Mutex
	corked   bool // nothing is written before Start
	writing  bool // somebody is in a write call and will look at queue afterwards
	room     bool // the socket may have become writable during that call
	reading  bool // somebody is in a read call
	again    bool // the socket became readable while it was being read
	hup      bool // the client has shut down its side
	paused   bool // reading waits for Resume
	sealed   bool // no Send is accepted: the last bytes are on their way
	ending   bool // no Send is accepted; what waits is written, then the connection ends
	shut     bool // our side has been shut down
	dead     bool // ended: the file is closed as soon as nobody uses it
	reset    bool // what the kernel still has to send is dropped as well
	told     bool // Closed has been called or is about to be
	started  bool
	release  bool // goes back to its listener when ending is done
	reason   error
	queue    [][]byte // what waits; the first may have been written in part
	queued   int      // bytes in queue
	inflight int      // so many of queue are in a write call
	partial  bool     // the first of queue has been written in part
	stalling *time.Timer
}

// extra is what only some connections need.
type extra struct {
	nc       net.Conn       // not polled: read and written by goroutines
	buffered []byte         // read before the connection was adopted
	done     chan struct{}  // closed after Handler.Closed has returned
	resume   chan struct{}  // one place: says that paused or dead has changed; never closed
	listener *Listener      // where to release the connection to
	wg       sync.WaitGroup // goroutines that use nc
}

// Loop returns the index of the poller that watches c, from 0 to Group.Loops.
func (c *Conn) Loop() int { return c.loop.index }

// Timers returns the timers that belong to c's poller.
func (c *Conn) Timers() *Timers { return &c.loop.timers }

// Start writes head before anything that was sent meanwhile, and begins to
// watch the client. Calling it again does nothing.
func (c *Conn) Start(head []byte) {
	c.mu.Lock()
	if c.started {
		c.mu.Unlock()
		return
	}
	if len(head) > 0 {
		c.queue = append([][]byte{head}, c.queue...)
		c.queued += len(head)
	}
	c.corked = false
	c.started = true
	c.reading = c.fd >= 0 // so that the descriptor is ours, and Data ours to call
	c.again = false
	var buffered []byte
	if c.fd >= 0 && c.extra != nil && !c.unread {
		buffered, c.extra.buffered = c.extra.buffered, nil
	}
	c.mu.Unlock()
	if c.fd >= 0 {
		c.flush()
		if len(buffered) > 0 {
			c.handler.Data(c, buffered)
		}
		err := c.loop.watch(c)
		c.mu.Lock()
		c.reading = false
		again := c.again
		c.settleLocked()
		if err != nil {
			c.fail(err)
		} else if again {
			c.read()
		}
		return
	}
	c.extra.wg.Add(1)
	go c.readBlocking()
	c.flush()
}

// Send sends b, or queues what the client does not take at once. The connection
// keeps b until it is written: nobody may change it. Errors are ErrClosed and
// ErrSlow, and nothing of b is sent then.
func (c *Conn) Send(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	return c.send(b, false)
}

// Seal sends b as the last bytes: later Sends answer ErrClosed, while the client
// is still read, until Close or Abort.
func (c *Conn) Seal(b []byte) error { return c.send(b, true) }

func (c *Conn) send(b []byte, last bool) error {
	c.mu.Lock()
	if c.ending || c.dead || c.sealed {
		c.mu.Unlock()
		return ErrClosed
	}
	c.sealed = last
	if c.corked || c.writing || len(c.queue) > 0 || c.fd < 0 {
		// One item larger than the bound may wait alone: it was allowed to be published.
		if c.queued > 0 && c.queued+len(b) > c.loop.group.opts.QueueBytes && !last {
			c.mu.Unlock()
			return ErrSlow
		}
		c.queue = append(c.queue, b)
		c.queued += len(b)
		start := c.fd < 0 && !c.writing && !c.corked
		c.mu.Unlock()
		if start {
			c.flush()
		}
		return nil
	}
	c.writing = true
	c.mu.Unlock()
	n, err := writeFD(int(c.fd), b)
	c.mu.Lock()
	c.writing = false
	if n == len(b) && len(c.queue) == 0 && !c.ending && !c.dead {
		c.mu.Unlock()
		return nil
	}
	if c.dead {
		c.buryLocked() // whoever ended it left that to us
		return ErrClosed
	}
	if n < len(b) {
		c.queue = append([][]byte{b[n:]}, c.queue...)
		c.queued += len(b) - n
		c.partial = n > 0
		if err == nil {
			c.stallLocked()
		}
	}
	c.mu.Unlock()
	if err != nil {
		c.fail(err)
	} else {
		c.flush()
	}
	return nil
}

// Queued returns how many bytes wait for the client.
func (c *Conn) Queued() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queued
}

// Ended says whether the connection takes nothing more: a Send would answer
// ErrClosed.
func (c *Conn) Ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ending || c.dead || c.sealed
}

// Close writes what waits, then last, and ends the connection. A client that
// does not take it within GroupOptions.StallMax loses the rest. Before Start,
// all that waits for Start.
func (c *Conn) Close(last []byte) { c.end(last, false, false) }

// CloseNow drops what waits, except the rest of what has been written in part,
// then does as Close. It is for clients that are too slow to be sent it all.
func (c *Conn) CloseNow(last []byte) { c.end(last, true, false) }

// Release writes what waits, then last, and gives the connection to l, whose
// server reads the client's next request from it. It ends the connection where
// that is impossible.
func (c *Conn) Release(last []byte, l *Listener) {
	if l != nil && c.fd >= 0 {
		c.mu.Lock()
		if c.extra == nil {
			c.extra = &extra{}
		}
		c.extra.listener = l
		c.mu.Unlock()
	}
	c.end(last, false, l != nil && c.fd >= 0)
}

// Abort ends the connection at once, without what still waits, here and in the
// kernel: the client sees a reset, and megabytes of buffers are free.
func (c *Conn) Abort() { c.failReset(ErrClosed) }

// Wait returns after Handler.Closed has. It is only for connections made with
// Respond.
func (c *Conn) Wait() { <-c.extra.done }

// end begins the end: see Close, CloseNow and Release.
func (c *Conn) end(last []byte, drop, release bool) {
	c.mu.Lock()
	if c.ending || c.dead {
		c.mu.Unlock()
		return
	}
	if drop {
		// What is being written, or has been in part, cannot be taken back.
		kept := c.inflight
		if c.partial {
			kept = max(kept, 1)
		}
		kept = min(kept, len(c.queue))
		c.queue = append([][]byte(nil), c.queue[:kept]...)
		c.queued = 0
		for _, b := range c.queue {
			c.queued += len(b)
		}
	}
	if len(last) > 0 {
		c.queue = append(c.queue, last)
		c.queued += len(last)
	}
	c.ending = true
	c.release = release
	if c.reason == nil {
		c.reason = ErrClosed
	}
	c.stallLocked()
	c.mu.Unlock()
	c.flush()
}

// stallLocked makes sure that bytes do not wait forever.
func (c *Conn) stallLocked() {
	if c.stalling == nil && !c.dead {
		c.stalling = time.AfterFunc(c.loop.group.opts.StallMax, func() { c.failReset(ErrStalled) })
	}
}

// progressLocked is called when the client took something.
func (c *Conn) progressLocked() {
	if c.stalling == nil {
		return
	}
	if len(c.queue) == 0 && !c.ending {
		c.stalling.Stop()
		c.stalling = nil
		return
	}
	c.stalling.Reset(c.loop.group.opts.StallMax)
}

// flush writes what waits, unless somebody else is about to.
func (c *Conn) flush() {
	c.mu.Lock()
	if c.writing || c.corked || c.dead {
		c.room = true
		c.mu.Unlock()
		return
	}
	if c.fd < 0 {
		if len(c.queue) > 0 || c.ending {
			c.writing = true
			c.stallLocked()
			c.extra.wg.Add(1)
			go c.writeBlocking()
		}
		c.mu.Unlock()
		return
	}
	c.writing = true
	for len(c.queue) > 0 && !c.dead {
		batch := c.queue
		if len(batch) > writevMax {
			batch = batch[:writevMax]
		}
		c.inflight = len(batch)
		c.room = false
		c.mu.Unlock()
		n, err := writevFD(int(c.fd), batch)
		c.mu.Lock()
		c.inflight = 0
		if c.dead {
			break // and what was queued is gone
		}
		if err != nil {
			c.writing = false
			c.mu.Unlock()
			c.fail(err)
			return
		}
		c.wroteLocked(n)
		if n > 0 {
			c.progressLocked()
		}
		if len(c.queue) > 0 && n == 0 {
			c.stallLocked()
			if !c.room {
				break
			}
			// The event that would have us write came before we knew that we need it.
		}
	}
	c.writing = false
	c.settleLocked()
}

// wroteLocked takes n written bytes off the queue.
func (c *Conn) wroteLocked(n int) {
	c.queued -= n
	done := 0
	c.partial = c.partial && n == 0
	for n > 0 {
		if first := len(c.queue[done]); n < first {
			c.queue[done] = c.queue[done][n:]
			c.partial = true
			break
		} else {
			n -= first
			c.queue[done] = nil
			done++
		}
	}
	if done == len(c.queue) {
		if cap(c.queue) > queueKeep {
			c.queue = nil
		} else {
			c.queue = c.queue[:0]
		}
		if c.fd >= 0 {
			c.queue = nil // an idle connection keeps nothing
		}
		return
	}
	c.queue = c.queue[done:]
}

// settleLocked finishes what was waiting for the last write: an end, or a death.
// It unlocks.
func (c *Conn) settleLocked() {
	switch {
	case c.dead:
		c.buryLocked()
	case c.writing || c.corked:
		c.mu.Unlock() // who writes comes here, and so does Start
	case c.ending && len(c.queue) == 0 && c.release && !c.reading:
		c.release = false
		c.leaveLocked()
	case c.ending && len(c.queue) == 0 && !c.release && !c.shut:
		c.shut = true
		if c.stalling != nil {
			c.stalling.Stop()
		}
		c.stalling = time.AfterFunc(lingerMax, func() { c.fail(ErrClosed) })
		c.writing = true // nobody closes the descriptor meanwhile: it could be another's by then
		c.mu.Unlock()
		shutdownFD(int(c.fd))
		c.mu.Lock()
		c.writing = false
		if c.dead {
			c.buryLocked()
			return
		}
		c.mu.Unlock()
		c.read() // what is there already; the end comes as an event
	default:
		c.mu.Unlock()
	}
}

// failReset is fail, with a reset.
func (c *Conn) failReset(reason error) {
	c.mu.Lock()
	c.reset = true
	c.mu.Unlock()
	c.fail(reason)
}

// fail ends the connection for reason, at once.
func (c *Conn) fail(reason error) {
	c.mu.Lock()
	if c.dead {
		c.mu.Unlock()
		return
	}
	c.dead = true
	if c.reason == nil || reason != ErrClosed && !c.ending {
		c.reason = reason
	}
	c.queue, c.queued = nil, 0
	if c.stalling != nil {
		c.stalling.Stop()
		c.stalling = nil
	}
	c.buryLocked()
}

// buryLocked closes a dead connection unless somebody still uses its file, and
// tells the handler. It unlocks.
func (c *Conn) buryLocked() {
	if c.fd < 0 {
		// Closing makes blocked reads and writes return; the reader tells.
		started := c.started
		c.mu.Unlock()
		c.extra.nc.Close()
		c.wakeReader()
		if !started {
			c.tell()
		}
		return
	}
	if c.writing || c.reading || c.told {
		c.mu.Unlock()
		return
	}
	c.told = true
	reason, reset := c.reason, c.reset
	c.mu.Unlock()
	c.loop.forget(c)
	if reset {
		resetFD(int(c.fd))
	}
	closeFD(int(c.fd))
	// In a goroutine: whoever noticed the end may hold what Closed wants.
	go c.handler.Closed(c, reason)
}

// tell is the end of a connection that is not polled.
func (c *Conn) tell() {
	c.mu.Lock()
	if c.told {
		c.mu.Unlock()
		return
	}
	c.told = true
	reason := c.reason
	c.mu.Unlock()
	go func() {
		c.handler.Closed(c, reason)
		close(c.extra.done)
	}()
}

// Pause stops reading: the client's bytes stay in the kernel, and the client
// notices, until Resume. It is called from Handler.Data.
func (c *Conn) Pause() {
	c.mu.Lock()
	c.paused = true
	c.mu.Unlock()
}

// Resume reads again after Pause.
func (c *Conn) Resume() {
	c.mu.Lock()
	if !c.paused {
		c.mu.Unlock()
		return
	}
	c.paused = false
	c.mu.Unlock()
	if c.fd >= 0 {
		c.read()
		return
	}
	c.wakeReader()
}

// wakeReader lets a paused reading goroutine look again.
func (c *Conn) wakeReader() {
	select {
	case c.extra.resume <- struct{}{}:
	default:
	}
}

// readBuffers are what connections are read with, one for each read at a time.
var readBuffers = sync.Pool{New: func() any { return new([readBytes]byte) }}

// read gives the handler all there is to read. Polled connections only.
func (c *Conn) read() {
	c.mu.Lock()
	if c.dead || c.reading || c.paused {
		c.again = true
		c.mu.Unlock()
		return
	}
	if c.unread && !c.shut {
		c.mu.Unlock()
		return
	}
	c.reading = true
	c.again = false
	buffer := readBuffers.Get().(*[readBytes]byte)
	for rounds := 0; ; rounds++ {
		if rounds == roundsMax {
			// A client that sends as fast as it is read would have the poller for
			// itself: it is read on in a goroutine of its own.
			c.reading = false
			c.mu.Unlock()
			readBuffers.Put(buffer)
			go c.read()
			return
		}
		shut := c.shut
		c.mu.Unlock()
		n, err := readFD(int(c.fd), buffer[:])
		if n > 0 && !shut {
			c.handler.Data(c, buffer[:n])
		}
		c.mu.Lock()
		if c.dead {
			break
		}
		if err != nil {
			c.reading = false
			c.mu.Unlock()
			readBuffers.Put(buffer)
			c.fail(err)
			return
		}
		if c.paused {
			break
		}
		// A short read has emptied the socket: what comes later is a new event.
		// After a hang-up the end of the stream is still to be read.
		if n == 0 || n < len(buffer) && !c.hup {
			if !c.again {
				break
			}
			c.again = false
		}
	}
	c.reading = false
	readBuffers.Put(buffer)
	if c.dead {
		c.buryLocked()
		return
	}
	c.mu.Unlock()
}

// readBlocking reads a connection that is not polled until it ends.
func (c *Conn) readBlocking() {
	buffered := c.extra.buffered
	c.extra.buffered = nil
	if len(buffered) > 0 && !c.unread {
		c.handler.Data(c, buffered)
	}
	buffer := make([]byte, 4<<10)
	for {
		n, err := c.extra.nc.Read(buffer)
		c.mu.Lock()
		quiet := c.shut || c.unread || c.dead
		c.mu.Unlock()
		if n > 0 && !quiet {
			c.handler.Data(c, buffer[:n])
		}
		if err != nil {
			c.fail(err)
			break
		}
		c.waitResumed()
	}
	c.extra.wg.Done()
	c.extra.wg.Wait() // the writer has gone too
	c.tell()
}

// waitResumed blocks the reading goroutine while reading is paused.
func (c *Conn) waitResumed() {
	for {
		c.mu.Lock()
		wait := c.paused && !c.dead
		c.mu.Unlock()
		if !wait {
			return
		}
		<-c.extra.resume
	}
}

// writeBytes is how much a blocking write is given at once.
const writeBytes = 64 << 10

// pieces returns the first of queue, up to so many bytes.
func pieces(queue [][]byte, bytes int) net.Buffers {
	var batch net.Buffers
	for _, b := range queue {
		if len(b) >= bytes {
			return append(batch, b[:bytes])
		}
		batch = append(batch, b)
		bytes -= len(b)
	}
	return batch
}

// writeBlocking writes what waits, then goes.
func (c *Conn) writeBlocking() {
	defer c.extra.wg.Done()
	c.mu.Lock()
	for len(c.queue) > 0 && !c.dead {
		// In pieces, so that a client that reads slowly is seen to read.
		batch := pieces(c.queue, writeBytes)
		c.inflight = len(batch)
		c.mu.Unlock()
		n, err := batch.WriteTo(c.extra.nc)
		if f, ok := c.extra.nc.(interface{ Flush() error }); ok && err == nil {
			err = f.Flush()
		}
		c.mu.Lock()
		c.inflight = 0
		if c.dead {
			break
		}
		if err != nil {
			c.writing = false
			c.mu.Unlock()
			c.fail(err)
			return
		}
		c.wroteLocked(int(n))
		c.progressLocked()
	}
	c.writing = false
	if c.dead || !c.ending {
		c.mu.Unlock()
		return
	}
	c.shut = true
	c.mu.Unlock()
	if half, ok := c.extra.nc.(interface{ CloseWrite() error }); ok {
		if half.CloseWrite() == nil {
			c.mu.Lock()
			if c.stalling != nil {
				c.stalling.Stop()
			}
			if !c.dead {
				c.stalling = time.AfterFunc(lingerMax, func() { c.fail(ErrClosed) })
			}
			c.mu.Unlock()
			return // the client closes, or the timer does
		}
	}
	c.fail(ErrClosed)
}

// responseConn lets an HTTP response be written like a connection.
type responseConn struct {
	w      http.ResponseWriter
	rc     *http.ResponseController
	ctx    context.Context
	cancel context.CancelFunc
	whole  atomic.Bool // all has been written
}

func (c *responseConn) Write(p []byte) (int, error) { return c.w.Write(p) }
func (c *responseConn) Flush() error                { return c.rc.Flush() }

// Read blocks until the client has gone or Close was called.
func (c *responseConn) Read([]byte) (int, error) {
	<-c.ctx.Done()
	return 0, io.EOF
}

// CloseWrite ends Read; the response is whole.
func (c *responseConn) CloseWrite() error {
	c.whole.Store(true)
	c.cancel()
	return nil
}

// Close ends Read. A write that is blocked by a client that does not read is
// ended by the deadline, which also tells the client that the response is cut.
func (c *responseConn) Close() error {
	c.cancel()
	if !c.whole.Load() {
		c.rc.SetWriteDeadline(time.Now())
	}
	return nil
}

func (c *responseConn) LocalAddr() net.Addr              { return nil }
func (c *responseConn) RemoteAddr() net.Addr             { return nil }
func (c *responseConn) SetDeadline(time.Time) error      { return nil }
func (c *responseConn) SetReadDeadline(time.Time) error  { return nil }
func (c *responseConn) SetWriteDeadline(time.Time) error { return nil }
