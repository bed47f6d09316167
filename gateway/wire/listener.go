package wire

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
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

// Waiting are connections that have not begun a request. http.Server.Shutdown
// gives each of them five seconds, also those that were released to be used
// again. The zero value is ready to use.
type Waiting struct {
	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// State is for http.Server.ConnState.
func (w *Waiting) State(nc net.Conn, state http.ConnState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if state != http.StateNew {
		delete(w.conns, nc)
		return
	}
	if w.closed {
		nc.Close()
		return
	}
	if w.conns == nil {
		w.conns = make(map[net.Conn]struct{})
	}
	w.conns[nc] = struct{}{}
}

// Close closes them, and those that come later.
func (w *Waiting) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for nc := range w.conns {
		nc.Close()
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

// bufferedConn gives bytes that were read before to its first readers.
type bufferedConn struct {
	*net.TCPConn
	buffered []byte
}

func (c *bufferedConn) Read(p []byte) (int, error) {
	if len(c.buffered) > 0 {
		n := copy(p, c.buffered)
		c.buffered = c.buffered[n:]
		return n, nil
	}
	return c.TCPConn.Read(p)
}

// unwrap returns the TCP connection below nc, if it is a plain one, and what was
// read from it before.
func unwrap(nc net.Conn) (*net.TCPConn, []byte) {
	switch nc := nc.(type) {
	case *net.TCPConn:
		return nc, nil
	case *bufferedConn:
		return nc.TCPConn, nc.buffered
	}
	return nil, nil
}
