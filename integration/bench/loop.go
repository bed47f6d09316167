//go:build linux

// One epoll set and the thread that serves it: the load generator, the origin
// and the floor all stand on this. It does as little per byte as Go allows, so
// that ten thousand clients leave the machine to the gateway under test.

package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// readBytesMax is what one read may bring. One buffer serves all peers of a
	// loop, so it is large enough for a burst and small enough for the cache.
	readBytesMax = 256 << 10

	// turnEventsMax is how many ready peers one turn serves before it looks at
	// the clock again.
	turnEventsMax = 1024

	// listenBacklog holds the connections of one opening burst.
	listenBacklog = 4096
)

// loop serves many peers from one goroutine. It is not safe for concurrent use:
// peers are only touched from inside turn or between turns.
type loop struct {
	epfd   int
	peers  []*peer // by descriptor; nil where there is none
	births uint32  // generation of the last peer, told apart from a reused descriptor
	events []unix.EpollEvent
	buf    []byte
}

// peer is one descriptor of a loop: a connection, or a listener.
type peer struct {
	loop *loop
	fd   int
	born uint32

	accept func(*peer)  // listeners only: a connection came
	got    func([]byte) // bytes came; they are only lent for the call
	gone   func(error)  // the other side went, or the connection broke; at most once, never after close

	dialing bool
	closed  bool
	waiting bool   // EPOLLOUT is asked for
	out     []byte // what the kernel did not take yet
}

func newLoop() (*loop, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &loop{
		epfd:   epfd,
		events: make([]unix.EpollEvent, turnEventsMax),
		buf:    make([]byte, readBytesMax),
	}, nil
}

// turn waits at most wait for something to happen and serves what did.
func (l *loop) turn(wait time.Duration) error {
	millis := int((wait + time.Millisecond - 1) / time.Millisecond)
	n, err := unix.EpollWait(l.epfd, l.events, max(millis, 0))
	if err == unix.EINTR {
		return nil
	}
	if err != nil {
		return fmt.Errorf("epoll wait: %w", err)
	}
	for i := range l.events[:n] {
		event := &l.events[i]
		p := l.peers[event.Fd]
		if p == nil || p.born != uint32(event.Pad) {
			continue // closed earlier in this turn, perhaps already someone else
		}
		p.ready(event.Events)
	}
	return nil
}

// listen opens a listener on addr; port 0 picks a free one.
func (l *loop) listen(addr netip.AddrPort, accept func(*peer)) (netip.AddrPort, error) {
	fd, err := socket()
	if err != nil {
		return addr, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil {
		err = unix.Bind(fd, sockaddr(addr))
		if err == nil {
			err = unix.Listen(fd, listenBacklog)
		}
		if err != nil {
			unix.Close(fd)
			return addr, fmt.Errorf("listen on %s: %w", addr, err)
		}
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		unix.Close(fd)
		return addr, fmt.Errorf("listen on %s: %w", addr, err)
	}
	if inet, ok := name.(*unix.SockaddrInet4); ok {
		addr = netip.AddrPortFrom(netip.AddrFrom4(inet.Addr), uint16(inet.Port))
	}
	_, err = l.add(fd, unix.EPOLLIN, accept)
	return addr, err
}

// dial starts a connection from one loopback address to another. What is
// written before it stands is kept and sent then.
func (l *loop) dial(from netip.Addr, to netip.AddrPort) (*peer, error) {
	fd, err := socket()
	if err != nil {
		return nil, err
	}
	// The kernel chooses the port at connect, when it knows the whole
	// four-tuple: ports in use towards another address stay usable.
	unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(from, 0))); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind %s: %w", from, err)
	}
	err = unix.Connect(fd, sockaddr(to))
	if err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return nil, fmt.Errorf("connect %s: %w", to, err)
	}
	dialing := err == unix.EINPROGRESS
	events := uint32(unix.EPOLLIN)
	if dialing {
		events |= unix.EPOLLOUT
	}
	p, err := l.add(fd, events, nil)
	if err != nil {
		return nil, err
	}
	p.dialing, p.waiting = dialing, dialing
	return p, nil
}

func (l *loop) add(fd int, events uint32, accept func(*peer)) (*peer, error) {
	for fd >= len(l.peers) {
		l.peers = append(l.peers, make([]*peer, 1024)...)
	}
	l.births++
	p := &peer{loop: l, fd: fd, born: l.births, accept: accept}
	err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd,
		&unix.EpollEvent{Events: events, Fd: int32(fd), Pad: int32(p.born)})
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("epoll add: %w", err)
	}
	l.peers[fd] = p
	return p, nil
}

func (p *peer) ready(events uint32) {
	const broken = unix.EPOLLERR | unix.EPOLLHUP
	if p.accept != nil {
		p.acceptAll()
		return
	}
	if p.dialing {
		errno, err := unix.GetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && errno != 0 {
			err = syscall.Errno(errno)
		}
		if err != nil {
			p.fail(fmt.Errorf("connect: %w", err))
			return
		}
		p.dialing = false
	}
	if events&unix.EPOLLOUT != 0 {
		p.flush()
	}
	if !p.closed && events&(unix.EPOLLIN|broken) != 0 {
		p.read()
	}
}

func (p *peer) acceptAll() {
	for range turnEventsMax {
		fd, _, err := unix.Accept4(p.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return // nothing more, or no descriptor left: the client sees it
		}
		if conn, err := p.loop.add(fd, unix.EPOLLIN, nil); err == nil {
			p.accept(conn)
		}
	}
}

// read takes one buffer; the set is level-triggered and tells of more.
func (p *peer) read() {
	n, err := unix.Read(p.fd, p.loop.buf)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
	case err != nil:
		p.fail(err)
	case n == 0:
		p.fail(io.EOF)
	case p.got != nil:
		p.got(p.loop.buf[:n])
	}
}

// write sends b now as far as the kernel takes it and keeps the rest.
func (p *peer) write(b []byte) {
	if p.closed {
		return
	}
	if p.dialing || len(p.out) > 0 {
		p.out = append(p.out, b...)
		return
	}
	n, err := unix.Write(p.fd, b)
	if err != nil && err != unix.EAGAIN {
		return // the next read tells why
	}
	if n = max(n, 0); n < len(b) {
		p.out = append(p.out, b[n:]...)
		p.await(true)
	}
}

func (p *peer) flush() {
	if len(p.out) > 0 {
		n, err := unix.Write(p.fd, p.out)
		if err != nil && err != unix.EAGAIN {
			p.fail(err)
			return
		}
		p.out = p.out[max(n, 0):]
	}
	if len(p.out) == 0 {
		p.out = nil
		p.await(false)
	}
}

// await asks to be told when the kernel takes bytes again, or no longer.
func (p *peer) await(writable bool) {
	if p.waiting == writable {
		return
	}
	p.waiting = writable
	events := uint32(unix.EPOLLIN)
	if writable {
		events |= unix.EPOLLOUT
	}
	unix.EpollCtl(p.loop.epfd, unix.EPOLL_CTL_MOD, p.fd,
		&unix.EpollEvent{Events: events, Fd: int32(p.fd), Pad: int32(p.born)})
}

func (p *peer) fail(err error) {
	if p.closed {
		return
	}
	p.close()
	if p.gone != nil {
		p.gone(err)
	}
}

// close ends the connection at once; gone is not called.
func (p *peer) close() {
	if p.closed {
		return
	}
	p.closed = true
	p.loop.peers[p.fd] = nil
	unix.Close(p.fd)
}

// release takes the peer out of the loop and leaves its descriptor open.
func (p *peer) release() {
	if p.closed {
		return
	}
	p.closed = true
	p.loop.peers[p.fd] = nil
	unix.EpollCtl(p.loop.epfd, unix.EPOLL_CTL_DEL, p.fd, nil)
}

func socket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EMFILE) {
		return -1, errors.New("no file descriptor left: raise the limit (ulimit -n) or lower -held")
	}
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	return fd, nil
}

func sockaddr(addr netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
}
