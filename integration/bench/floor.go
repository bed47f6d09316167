//go:build linux

// The floor: what the kernel alone charges. A loop of non-blocking writes on
// open sockets, which looks for no more in a publish body than where the names
// and contents are, asks no origin, and promises nothing.

package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// floorPatience is how long the floor waits for a client whose buffer is full.
	floorPatience = time.Second

	// floorTidy is how long nothing must have happened before the floor gives
	// back the memory that opening connections took.
	floorTidy = 300 * time.Millisecond
)

// floor is owned by one goroutine, on one thread.
type floor struct {
	loop        *loop
	subscribers map[string][]int32 // descriptors by channel
}

// serveFloor serves until the process is killed.
func serveFloor(front, control string) error {
	runtime.LockOSThread()
	l, err := newLoop()
	if err != nil {
		return err
	}
	f := &floor{loop: l, subscribers: map[string][]int32{}}
	for _, door := range []struct {
		addr    string
		connect func(*peer)
	}{{front, f.connected}, {control, f.publisher}} {
		addr, err := netip.ParseAddrPort(door.addr)
		if err != nil {
			return err
		}
		if _, err := l.listen(addr, door.connect); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	collected := l.births
	for {
		begun := time.Now()
		if err := l.turn(floorTidy); err != nil {
			return err
		}
		// Requests parsed while clients came are not what holding them costs.
		if collected != l.births && time.Since(begun) >= floorTidy {
			collected = l.births
			debug.FreeOSMemory()
		}
	}
}

var (
	streamHead = []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
	socketHead = []byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + handshakeAccept + "\r\n\r\n")
	published  = []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nPublished\n")
)

func (f *floor) connected(p *peer) {
	p.got = func(b []byte) {
		r, used, err := takeRequest(b)
		if err != nil || used == 0 { // requests of this tool's clients come in one piece
			p.close()
			return
		}
		if r.path() == "/ws" {
			p.write(socketHead)
		} else {
			p.write(streamHead)
		}
		// From here on the descriptor is all there is of a client.
		p.release()
		f.subscribers[r.channelOf()] = append(f.subscribers[r.channelOf()], int32(p.fd))
	}
}

func (f *floor) publisher(p *peer) {
	serveRequests(p, func(r request) []byte {
		f.publish(r.body)
		return published
	})
}

// publish delivers the items of a body written by publishBody. Items in a row
// for one channel leave in one write.
func (f *floor) publish(body []byte) {
	var out []byte
	var channel []byte
	for {
		name, rest, ok := quoted(body, `"channel":"`)
		if !ok {
			break
		}
		content, rest, ok := quoted(rest, `"content":"`)
		if !ok {
			break
		}
		if !bytes.Equal(name, channel) {
			f.deliver(channel, out)
			channel, out = name, out[:0]
		}
		if bytes.Contains(body[:len(body)-len(rest)], []byte(`"ws-message"`)) {
			out = append(out, frame(opText, content)...)
		} else {
			out = fmt.Appendf(out, "%x\r\n%s\r\n", len(content), content)
		}
		body = rest
	}
	f.deliver(channel, out)
}

// quoted finds the string behind key.
func quoted(b []byte, key string) (value, rest []byte, ok bool) {
	_, b, ok = bytes.Cut(b, []byte(key))
	if !ok {
		return nil, nil, false
	}
	return bytes.Cut(b, []byte{'"'})
}

func (f *floor) deliver(channel, out []byte) {
	if len(out) == 0 {
		return
	}
	fds := f.subscribers[string(channel)]
	for i := 0; i < len(fds); i++ {
		if f.write(int(fds[i]), out) {
			continue
		}
		unix.Close(int(fds[i]))
		fds[i] = fds[len(fds)-1]
		fds = fds[:len(fds)-1]
		i--
		f.subscribers[string(channel)] = fds
	}
}

// write tells whether the client is still there.
func (f *floor) write(fd int, b []byte) bool {
	for len(b) > 0 {
		// Raw: a write that cannot block need not tell Go's scheduler.
		n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		switch {
		case errno == 0:
			b = b[n:]
		case errno == syscall.EAGAIN:
			ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
			if n, _ := unix.Poll(ready, int(floorPatience.Milliseconds())); n == 0 {
				return false
			}
		default:
			return false
		}
	}
	return true
}
