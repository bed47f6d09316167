//go:build unix

package origin

import "syscall"

// watch prepares alive and readable.
func (c *conn) watch() {
	socket, ok := c.Conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	c.raw = raw
	c.peek = func(fd uintptr) bool {
		var one [1]byte
		_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK)
		c.quiet = err == syscall.EAGAIN // the socket does not block
		return true
	}
}

// alive says whether the origin has neither closed an unused connection nor said
// something on it.
func (c *conn) alive() bool { return c.raw == nil || c.raw.Read(c.peek) == nil && c.quiet }

// readable says whether Read would return at once.
func (c *conn) readable() bool { return c.raw != nil && (c.raw.Read(c.peek) != nil || !c.quiet) }
