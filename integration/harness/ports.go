package harness

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Ports for processes of ours come from below the range the kernel gives to
// outgoing connections (32768 on Linux), so that no connection of a parallel
// script takes one between our asking and the process' listening.
const (
	portFirst = 12000
	portLast  = 32000
)

var ports struct {
	mu   sync.Mutex
	next int
}

// FreePort returns a TCP port of loopback that nobody listens on, and that it
// will not return again for long.
func FreePort() (int, error) {
	listener, port, err := listenFree()
	if err != nil {
		return 0, err
	}
	return port, listener.Close()
}

// listenFree listens on a port as FreePort returns.
func listenFree() (net.Listener, int, error) {
	ports.mu.Lock()
	defer ports.mu.Unlock()
	if ports.next == 0 {
		ports.next = portFirst + rand.IntN(portLast-portFirst) // two test processes at once start at different places
	}
	for range portLast - portFirst {
		port := ports.next
		if ports.next++; ports.next >= portLast {
			ports.next = portFirst
		}
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		return listener, port, nil
	}
	return nil, 0, fmt.Errorf("no free port between %d and %d", portFirst, portLast)
}

// shortDir makes a directory with a name short enough for Unix sockets in it.
func shortDir(name string) (string, error) {
	dir, err := os.MkdirTemp("", "gw-"+name+"-")
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(dir)
}

// listening waits until somebody accepts connections at addr.
func listening(addr string, timeout time.Duration, gone <-chan struct{}) error {
	for deadline := time.Now().Add(timeout); ; {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return err
		}
		select {
		case <-gone:
			return fmt.Errorf("process ended before it listened on %s", addr)
		case <-time.After(5 * time.Millisecond): // a poll: the kernel does not tell who began to listen
		}
	}
}
