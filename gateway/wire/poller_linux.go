package wire

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// writevMax is how many waiting items one system call takes.
	writevMax = 64

	// eventsMax is how many events one system call fetches.
	eventsMax = 256

	// interest is what a connection is watched for. Edge-triggered, so that it is
	// said once: neither a client that reads slowly nor one whose bytes are left
	// unread makes work.
	interest = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET
)

// Loop is one epoll instance and the goroutine that waits for it.
type Loop struct {
	group  *Group
	index  int
	timers Timers
	epfd   int
	file   *os.File // epfd, so that the Go runtime's own poller wakes us
	done   chan struct{}
}

// table finds a connection by its file descriptor. Descriptors are small and
// dense, so it is an array, made in pages of pageLen.
var table struct {
	mu    sync.Mutex // guards growing
	pages atomic.Pointer[[]*page]
}

const pageLen = 1024

type page [pageLen]atomic.Pointer[Conn]

var serials atomic.Uint32

// slot returns where the connection of fd is kept.
func slot(fd int) *atomic.Pointer[Conn] {
	number := fd / pageLen
	if pages := table.pages.Load(); pages != nil && number < len(*pages) {
		return &(*pages)[number][fd%pageLen]
	}
	table.mu.Lock()
	defer table.mu.Unlock()
	var pages []*page
	if old := table.pages.Load(); old != nil {
		pages = append(pages, *old...)
	}
	for len(pages) <= number {
		pages = append(pages, new(page))
	}
	table.pages.Store(&pages)
	return &pages[number][fd%pageLen]
}

func (l *Loop) open() error {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(epfd, true); err != nil {
		unix.Close(epfd)
		return os.NewSyscallError("fcntl", err)
	}
	l.epfd = epfd
	l.file = os.NewFile(uintptr(epfd), "epoll")
	l.done = make(chan struct{})
	raw, err := l.file.SyscallConn()
	if err != nil {
		l.file.Close()
		return err
	}
	go l.run(raw)
	return nil
}

func (l *Loop) close() {
	if l.file == nil {
		return
	}
	l.file.Close()
	<-l.done
	l.timers.close()
}

// run waits for events and passes them on until the loop is closed.
func (l *Loop) run(raw syscall.RawConn) {
	defer close(l.done)
	events := make([]unix.EpollEvent, eventsMax)
	for {
		var n int
		err := raw.Read(func(fd uintptr) bool {
			var err error
			n, err = unix.EpollWait(int(fd), events, 0)
			return n > 0 || err != nil && err != unix.EINTR
		})
		if err != nil {
			return // closed
		}
		for i := range max(n, 0) {
			ev := &events[i]
			c := slot(int(ev.Fd)).Load()
			if c == nil || c.serial != uint32(ev.Pad) {
				continue // its descriptor was closed, or means another by now
			}
			c.event(ev.Events)
		}
	}
}

// event acts on what epoll reported.
func (c *Conn) event(events uint32) {
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		c.fail(io.EOF)
		return
	}
	if events&unix.EPOLLRDHUP != 0 {
		c.mu.Lock()
		c.hup = true
		gone := c.unread && !c.ending
		c.mu.Unlock()
		if gone {
			c.fail(io.EOF)
			return
		}
	}
	if events&unix.EPOLLOUT != 0 {
		c.mu.Lock()
		waiting := len(c.queue) > 0
		c.mu.Unlock()
		if waiting {
			c.flush()
		}
	}
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP) != 0 {
		c.read()
	}
}

// detach takes the socket out of the Go runtime's hands: a descriptor of our own
// for the same connection, without Go's buffers and poll state.
func (c *Conn) detach(tcp *net.TCPConn) (bool, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false, err
	}
	fd := -1
	var dupErr error
	if err := raw.Control(func(p uintptr) {
		fd, dupErr = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return false, err
	}
	if dupErr != nil {
		return false, os.NewSyscallError("fcntl", dupErr)
	}
	tcp.Close()
	c.fd = int32(fd)
	c.serial = serials.Add(1)
	slot(fd).Store(c)
	return true, nil
}

// watch begins to report events of c.
func (l *Loop) watch(c *Conn) error {
	c.mu.Lock()
	if c.dead || c.told {
		c.mu.Unlock()
		return nil
	}
	c.mu.Unlock()
	ev := unix.EpollEvent{Events: interest, Fd: c.fd, Pad: int32(c.serial)}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, int(c.fd), &ev); err != nil && err != unix.EBADF {
		return os.NewSyscallError("epoll_ctl", err)
	}
	return nil
}

// forget ends reports of c, before its descriptor is closed.
func (l *Loop) forget(c *Conn) { slot(int(c.fd)).CompareAndSwap(c, nil) }

// leaveLocked gives the connection back to its listener. It unlocks.
func (c *Conn) leaveLocked() {
	c.dead, c.told = true, true
	if c.stalling != nil {
		c.stalling.Stop()
		c.stalling = nil
	}
	c.mu.Unlock()
	unix.EpollCtl(c.loop.epfd, unix.EPOLL_CTL_DEL, int(c.fd), nil)
	c.loop.forget(c)
	file := os.NewFile(uintptr(c.fd), "")
	nc, err := net.FileConn(file)
	file.Close()
	if err == nil {
		c.extra.listener.back(&clientConn{TCPConn: nc.(*net.TCPConn), buffered: c.extra.buffered})
	}
	go c.handler.Closed(c, ErrClosed)
}

// writeFD writes what the socket takes at once. Zero and no error means that it
// takes nothing now.
func writeFD(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Write(fd, b)
		switch {
		case err == nil:
			return n, nil
		case err == unix.EAGAIN:
			return 0, nil
		case err == unix.EINTR:
		default:
			return 0, os.NewSyscallError("write", err)
		}
	}
}

// writevFD is writeFD for several pieces.
func writevFD(fd int, batch [][]byte) (int, error) {
	if len(batch) == 1 {
		return writeFD(fd, batch[0])
	}
	for {
		n, err := unix.Writev(fd, batch)
		switch {
		case err == nil:
			return n, nil
		case err == unix.EAGAIN:
			return 0, nil
		case err == unix.EINTR:
		default:
			return 0, os.NewSyscallError("writev", err)
		}
	}
}

// readFD reads what is there. Zero and no error means that nothing is.
func readFD(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		switch {
		case err == nil && n > 0:
			return n, nil
		case err == nil:
			return 0, io.EOF
		case err == unix.EAGAIN:
			return 0, nil
		case errors.Is(err, unix.EINTR):
		default:
			return 0, os.NewSyscallError("read", err)
		}
	}
}

func shutdownFD(fd int) { unix.Shutdown(fd, unix.SHUT_WR) }

// resetFD makes closing drop what was not sent yet.
func resetFD(fd int) {
	unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

func closeFD(fd int) { unix.Close(fd) }
