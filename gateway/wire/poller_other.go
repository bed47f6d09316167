//go:build !linux

package wire

import (
	"errors"
	"net"
)

// Without epoll every connection is kept by goroutines: see readBlocking and
// writeBlocking.

const writevMax = 64

// Loop only keeps timers here.
type Loop struct {
	group  *Group
	index  int
	timers Timers
}

var errNotPolled = errors.New("wire: connections are not polled on this system")

func (l *Loop) open() error       { return nil }
func (l *Loop) close()            { l.timers.close() }
func (l *Loop) watch(*Conn) error { return errNotPolled }
func (l *Loop) forget(*Conn)      {}

func (c *Conn) detach(*net.TCPConn) (bool, error) { return false, nil }
func (c *Conn) leaveLocked()                      { c.mu.Unlock() }

func writeFD(int, []byte) (int, error)    { return 0, errNotPolled }
func writevFD(int, [][]byte) (int, error) { return 0, errNotPolled }
func readFD(int, []byte) (int, error)     { return 0, errNotPolled }
func shutdownFD(int)                      {}
func resetFD(int)                         {}
func closeFD(int)                         {}
