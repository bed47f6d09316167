package wire

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// backMax bounds how many connections wait to be accepted again.
const backMax = 4096

// Listener is a net.Listener to which a Conn can be released: its server then
// reads the client's next request as if nothing had happened.
type Listener struct {
	net.Listener
	fresh  chan accepted // from the inner listener; never closed
	again  chan net.Conn // released connections; never closed
	done   chan struct{} // closed by Close
	closed sync.Once
}

type accepted struct {
	nc  net.Conn
	err error
}

// Listen wraps inner, which is closed together with the Listener.
func Listen(inner net.Listener) *Listener {
	l := &Listener{
		Listener: inner,
		fresh:    make(chan accepted),
		again:    make(chan net.Conn, backMax),
		done:     make(chan struct{}),
	}
	go l.acceptLoop()
	return l
}

// acceptLoop ends when the inner listener is closed.
func (l *Listener) acceptLoop() {
	for {
		nc, err := l.Listener.Accept()
		select {
		case l.fresh <- accepted{nc, err}:
		case <-l.done:
			if nc != nil {
				nc.Close()
			}
			return
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// Accept returns a new connection or one that was released.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case a := <-l.fresh:
		if tcp, ok := a.nc.(*net.TCPConn); ok {
			return &clientConn{TCPConn: tcp}, a.err
		}
		return a.nc, a.err
	case nc := <-l.again:
		return nc, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close stops accepting. Connections released later are closed.
func (l *Listener) Close() error {
	err := net.ErrClosed
	l.closed.Do(func() {
		err = l.Listener.Close()
		close(l.done)
		l.dropAgain()
	})
	return err
}

// dropAgain closes the released connections that nobody will accept.
func (l *Listener) dropAgain() {
	for {
		select {
		case nc := <-l.again:
			nc.Close()
		default:
			return
		}
	}
}

// back takes a released connection.
func (l *Listener) back(nc net.Conn) {
	select {
	case <-l.done:
		nc.Close()
		return
	default:
	}
	select {
	case l.again <- nc:
	default:
		nc.Close() // the server does not keep up; the client connects anew
		return
	}
	select {
	case <-l.done:
		l.dropAgain() // Close may have looked before
	default:
	}
}

// Unserved follows the connections of an http.Server for what it does not tell
// its handler: those that have not begun a request, to which Shutdown gives five
// seconds each, and those whose request could not be understood.
type Unserved struct {
	// Refused is called for a connection that ends with a request that no handler
	// saw: malformed, too long, or not finished. Fixed before use; nil is silent.
	Refused func(Refusal)

	mu     sync.Mutex
	conns  map[net.Conn]*request
	closed bool
}

// Refusal is a request that no handler saw. More than the client is known of
// connections without TLS, and of those of ServeTLS.
type Refusal struct {
	Client net.Addr
	Sent   string // its first line, as far as lineMax
	Why    string // what was wrong with it
}

// request is where a connection is.
type request struct {
	fresh  bool        // none has begun
	begun  bool        // bytes of one have come
	served atomic.Bool // a handler has it
}

type requestKey struct{}

// Context is for http.Server.ConnContext.
func (u *Unserved) Context(ctx context.Context, nc net.Conn) context.Context {
	at := &request{fresh: true}
	u.mu.Lock()
	if u.conns == nil {
		u.conns = make(map[net.Conn]*request)
	}
	u.conns[nc] = at
	u.mu.Unlock()
	if c, ok := nc.(noted); ok {
		c.noted().at = at
	}
	return context.WithValue(ctx, requestKey{}, at)
}

// Handler is h, noting what it is given.
func (u *Unserved) Handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if at, ok := r.Context().Value(requestKey{}).(*request); ok {
			at.served.Store(true)
		}
		h.ServeHTTP(w, r)
	})
}

// State is for http.Server.ConnState.
func (u *Unserved) State(nc net.Conn, state http.ConnState) {
	u.mu.Lock()
	at := u.conns[nc]
	refused := false
	if at != nil {
		switch state {
		case http.StateNew:
			if u.closed {
				nc.Close()
			}
		case http.StateActive:
			at.fresh, at.begun = false, true
			at.served.Store(false)
		case http.StateIdle:
			at.begun = false
			at.served.Store(false)
			if c, ok := nc.(noted); ok {
				c.noted().forget()
			}
		case http.StateClosed:
			refused = at.begun && !at.served.Load()
			delete(u.conns, nc)
		case http.StateHijacked:
			delete(u.conns, nc)
			if c, ok := nc.(noted); ok {
				c.noted().end()
			}
		}
	}
	u.mu.Unlock()
	if refused && u.Refused != nil {
		refusal := Refusal{Client: nc.RemoteAddr()}
		if c, ok := nc.(noted); ok {
			c.noted().why(&refusal)
		}
		u.Refused(refusal)
	}
}

// Close closes connections that have not begun a request, and those that come
// later.
func (u *Unserved) Close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	for nc, at := range u.conns {
		if at.fresh {
			nc.Close()
		}
	}
}

type listenerKey struct{}

// Context marks ctx with l, for http.Server.BaseContext, so that a response held
// on one of its connections knows where to release it.
func (l *Listener) Context(ctx context.Context) context.Context {
	return context.WithValue(ctx, listenerKey{}, l)
}

// ListenerFrom returns the Listener that ctx was marked with, or nil.
func ListenerFrom(ctx context.Context) *Listener {
	l, _ := ctx.Value(listenerKey{}).(*Listener)
	return l
}

// clientConn is a client's connection at an http.Server. It gives bytes that were
// read before to its first readers, and takes notes.
type clientConn struct {
	*net.TCPConn
	buffered []byte
	notes    notes
}

func (c *clientConn) noted() *notes { return &c.notes }

func (c *clientConn) Read(p []byte) (n int, err error) {
	if len(c.buffered) > 0 {
		n = copy(p, c.buffered)
		c.buffered = c.buffered[n:]
	} else {
		n, err = c.TCPConn.Read(p)
	}
	c.notes.heard(p[:n])
	return n, err
}

func (c *clientConn) Write(p []byte) (int, error) {
	c.notes.said(p)
	return c.TCPConn.Write(p)
}

// noted is a connection that notes are taken of.
type noted interface{ noted() *notes }

// What notes remember, at most, in bytes, and what a log line takes of it.
const (
	sentMax   = 512
	answerMax = 256
	lineMax   = 120
)

// notes remember how a request begins and is answered until a handler has it: the
// server does not say what it refused.
type notes struct {
	// Set before the first read.
	at   *request
	talk *talk // nil if nobody wants to know

	// Guarded by mu: HTTP/2 reads, writes and changes state in goroutines of its own.
	mu     sync.Mutex
	sent   []byte
	answer []byte
}

// heard takes what the client sent.
func (n *notes) heard(p []byte) {
	if n.talk != nil && len(p) > 0 {
		n.talk.heard(p)
	}
	if n.at != nil && !n.at.served.Load() {
		n.mu.Lock()
		n.sent = append(n.sent, p[:min(len(p), sentMax-len(n.sent))]...)
		n.mu.Unlock()
	}
}

// said takes what the server sends.
func (n *notes) said(p []byte) {
	if n.talk != nil {
		n.talk.said(p)
	}
	if n.at != nil && !n.at.served.Load() {
		n.mu.Lock()
		n.answer = append(n.answer, p[:min(len(p), answerMax-len(n.answer))]...)
		n.mu.Unlock()
	}
}

// why says what was wrong: in the words of the answer, which net/http ends with them
// for some mistakes, or else in those of reading the request again.
func (n *notes) why(refusal *Refusal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	line, _, _ := bytes.Cut(n.sent, []byte("\n"))
	refusal.Sent = short(bytes.TrimRight(line, "\r"))
	answer := n.answer[bytes.LastIndexByte(n.answer, '\n')+1:]
	if _, why, ok := bytes.Cut(answer, []byte(": ")); ok {
		refusal.Why = short(why)
	} else if _, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(n.sent))); err != nil && len(n.sent) < sentMax {
		refusal.Why = short([]byte(err.Error()))
	} else {
		refusal.Why = short(answer)
	}
}

func short(b []byte) string { return string(b[:min(len(b), lineMax)]) }

// forget begins anew with the next request.
func (n *notes) forget() {
	n.mu.Lock()
	n.sent, n.answer = n.sent[:0], n.answer[:0]
	n.mu.Unlock()
	if n.talk != nil {
		n.talk.next()
	}
}

// end takes no more: the connection was taken over.
func (n *notes) end() {
	if n.talk != nil {
		n.talk.end()
	}
}

// unwrap returns the TCP connection below nc, if it is a plain one, and what was
// read from it before.
func unwrap(nc net.Conn) (*net.TCPConn, []byte) {
	switch nc := nc.(type) {
	case *net.TCPConn:
		return nc, nil
	case *clientConn:
		return nc.TCPConn, nc.buffered
	}
	return nil, nil
}
