package zmq

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// ZMTP 3.0 (rfc.zeromq.org/spec/23) with the mechanism NULL is what ZeroMQ's
// sockets have spoken since libzmq 4.0; 3.1 (spec/37) adds nothing we need, and its
// peers speak 3.0 to us.
//
//	greeting    ff 8*any 7f  03 00  "NULL" 16*00  00 31*00      both, at once
//	command     04 size      or 06 size64: name size, name, body
//	message     frames:  00 size  or  02 size64 (size above 255); 01 and 03 if more follow
//	handshake   READY from both: name size, name, value size32, value, …
//	subscribe   message 01 prefix, unsubscribe: message 00 prefix     SUB to PUB

const (
	greetingBytes = 64
	mechanismNull = "NULL"

	flagMore    = 1
	flagLong    = 2
	flagCommand = 4
)

const (
	// handshakeWait is how long a peer may take to say who it is. ZeroMQ gives 30 s;
	// greeting and READY are one packet each.
	handshakeWait = 10 * time.Second

	// messageWait is how long the rest of a message may take once it has begun.
	messageWait = 30 * time.Second

	// writeWait is how long a peer may leave a write standing.
	writeWait = 10 * time.Second

	// commandBytesMax bounds a command: READY has two or three short properties, a PING
	// up to 16 bytes.
	commandBytesMax = 4 << 10

	// partsMax bounds the parts of a message: two of an item, or the way back that each
	// proxy adds to a request.
	partsMax = 16

	// skipBytesMax is how much of a message that is too large is read and thrown
	// away so that the next one can be read. A larger one ends the connection.
	skipBytesMax = 1 << 30

	// grownBytes is how much memory a peer gets for a length before it has sent it.
	grownBytes = 64 << 10
)

// errProtocol is what a peer did wrong; it comes wrapped and ends the connection.
var errProtocol = errors.New("not ZMTP 3 as agreed")

// errTooLarge and errParts tell of a message that was passed over.
var (
	errTooLarge = errors.New("the message is too large")
	errParts    = errors.New("the message has another number of parts")
)

// peerConn is a connection after its handshake. One goroutine reads; any may write.
type peerConn struct {
	// Fixed after the handshake.
	conn     net.Conn
	bytesMax int
	peer     string // its socket type

	// Owned by who reads.
	in *bufio.Reader

	// Guarded by mu.
	mu  sync.Mutex
	out *bufio.Writer
}

// shakeHands greets the peer and returns once both know what the other is.
func shakeHands(conn net.Conn, own string, peers []string, bytesMax int) (*peerConn, error) {
	c := &peerConn{conn: conn, bytesMax: bytesMax, in: bufio.NewReader(conn), out: bufio.NewWriter(conn)}
	if err := conn.SetDeadline(time.Now().Add(handshakeWait)); err != nil {
		return nil, err
	}
	greeting := make([]byte, greetingBytes)
	greeting[0], greeting[9], greeting[10] = 0xff, 0x7f, 3
	copy(greeting[12:32], mechanismNull)
	if _, err := conn.Write(greeting); err != nil {
		return nil, err
	}
	if err := c.readGreeting(); err != nil {
		return nil, err
	}
	ready := appendProperty([]byte("\x05READY"), "Socket-Type", own)
	if err := c.write(flagCommand, ready); err != nil {
		return nil, err
	}
	if err := c.readReady(peers); err != nil {
		if errors.Is(err, errProtocol) {
			_ = c.write(flagCommand, appendShort([]byte("\x05ERROR"), "Invalid socket type")) // it is closed now anyway
		}
		return nil, err
	}
	return c, conn.SetDeadline(time.Time{})
}

func (c *peerConn) readGreeting() error {
	greeting := make([]byte, greetingBytes)
	// Of an older version the rest would never come.
	if _, err := io.ReadFull(c.in, greeting[:11]); err != nil {
		return err
	}
	switch {
	case greeting[0] != 0xff || greeting[9]&1 == 0:
		return fmt.Errorf("%w: it began with % x", errProtocol, greeting[:10])
	case greeting[10] < 3:
		return fmt.Errorf("%w: the peer speaks version %d", errProtocol, greeting[10])
	}
	if _, err := io.ReadFull(c.in, greeting[11:]); err != nil {
		return err
	}
	if mechanism := string(bytes.TrimRight(greeting[12:32], "\x00")); mechanism != mechanismNull {
		return fmt.Errorf("%w: the peer wants mechanism %q", errProtocol, mechanism)
	}
	return nil
}

func (c *peerConn) readReady(peers []string) error {
	flags, size, err := c.readHeader()
	if err != nil {
		return err
	}
	if flags&flagCommand == 0 || size > commandBytesMax {
		return fmt.Errorf("%w: a message before READY", errProtocol)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c.in, body); err != nil {
		return err
	}
	name, rest, ok := cutShort(body)
	if !ok || name != "READY" {
		return fmt.Errorf("%w: command %.20q before READY", errProtocol, name)
	}
	for len(rest) > 0 {
		var property string
		if property, rest, ok = cutShort(rest); !ok || len(rest) < 4 {
			return fmt.Errorf("%w: READY is cut short", errProtocol)
		}
		length := binary.BigEndian.Uint32(rest)
		if rest = rest[4:]; uint64(length) > uint64(len(rest)) {
			return fmt.Errorf("%w: READY is cut short", errProtocol)
		}
		if strings.EqualFold(property, "Socket-Type") {
			c.peer = string(rest[:length])
		}
		rest = rest[length:]
	}
	if !slices.Contains(peers, c.peer) {
		return fmt.Errorf("%w: the peer is %.20q, want %s", errProtocol, c.peer, strings.Join(peers, " or "))
	}
	return nil
}

// cutShort takes a text off whose length is one byte before it.
func cutShort(data []byte) (text string, rest []byte, ok bool) {
	if len(data) == 0 || len(data)-1 < int(data[0]) {
		return "", nil, false
	}
	end := 1 + int(data[0])
	return string(data[1:end]), data[end:], true
}

func appendShort(dst []byte, text string) []byte {
	return append(append(dst, byte(len(text))), text...)
}

func appendProperty(dst []byte, name, value string) []byte {
	dst = binary.BigEndian.AppendUint32(appendShort(dst, name), uint32(len(value)))
	return append(dst, value...)
}

// read returns the parts of the next message. After errTooLarge and errParts the
// message has been passed over and the next can be read; any other error is the
// end of the connection. Pings are answered meanwhile.
func (c *peerConn) read() ([][]byte, error) {
	var parts [][]byte
	total, skipped := 0, uint64(0)
	var skip error
	begun, timed := false, false
	untimed := func() {
		if timed {
			timed = false
			_ = c.conn.SetReadDeadline(time.Time{}) // a broken connection says so at the next read
		}
	}
	defer untimed()
	for {
		flags, size, err := c.readHeader()
		if err != nil {
			if begun && err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if !timed && (flags&flagMore != 0 || size > uint64(c.in.Buffered())) {
			timed = true
			if err := c.conn.SetReadDeadline(time.Now().Add(messageWait)); err != nil {
				return nil, err
			}
		}
		if flags&flagCommand != 0 {
			if err := c.readCommand(size); err != nil {
				return nil, err
			}
			if !begun {
				untimed()
			}
			continue
		}
		begun = true
		switch {
		case size > skipBytesMax || skipped+size > skipBytesMax:
			return nil, fmt.Errorf("%w: a message of %d bytes", errProtocol, skipped+size)
		case skip == nil && size > uint64(c.bytesMax-total):
			skip = fmt.Errorf("%w: over %d bytes", errTooLarge, c.bytesMax)
		case skip == nil && len(parts) == partsMax:
			skip = fmt.Errorf("%w: over %d", errParts, partsMax)
		}
		if skip != nil {
			parts = nil
			skipped += size
			if _, err := io.CopyN(io.Discard, c.in, int64(size)); err != nil {
				return nil, err
			}
		} else {
			part, err := c.readBytes(int(size))
			if err != nil {
				return nil, err
			}
			parts = append(parts, part)
			total += len(part)
		}
		if flags&flagMore == 0 {
			return parts, skip
		}
	}
}

// readBytes reads n bytes. Memory comes as they do, so that a length alone costs
// little.
func (c *peerConn) readBytes(n int) ([]byte, error) {
	if n <= grownBytes {
		data := make([]byte, n)
		_, err := io.ReadFull(c.in, data)
		return data, err
	}
	var data bytes.Buffer
	data.Grow(grownBytes)
	_, err := io.CopyN(&data, c.in, int64(n))
	return data.Bytes(), err
}

func (c *peerConn) readHeader() (flags byte, size uint64, err error) {
	if flags, err = c.in.ReadByte(); err != nil {
		return 0, 0, err
	}
	if flags&^(flagMore|flagLong|flagCommand) != 0 || flags&(flagMore|flagCommand) == flagMore|flagCommand {
		return 0, 0, fmt.Errorf("%w: a frame with flags %02x", errProtocol, flags)
	}
	var length [8]byte
	if flags&flagLong != 0 {
		_, err = io.ReadFull(c.in, length[:])
	} else {
		_, err = io.ReadFull(c.in, length[7:])
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return flags, binary.BigEndian.Uint64(length[:]), err
}

// readCommand answers a PING (its time to live aside, PONG is its context) and
// passes over what else comes, as the specification says.
func (c *peerConn) readCommand(size uint64) error {
	if size > commandBytesMax {
		return fmt.Errorf("%w: a command of %d bytes", errProtocol, size)
	}
	body, err := c.readBytes(int(size))
	if err != nil {
		return err
	}
	name, rest, ok := cutShort(body)
	switch {
	case !ok:
		return fmt.Errorf("%w: a command without a name", errProtocol)
	case name == "ERROR":
		return fmt.Errorf("%w: the peer reports %.80q", errProtocol, rest)
	case name == "PING" && len(rest) >= 2 && len(rest) <= 18:
		return c.write(flagCommand, append([]byte("\x04PONG"), rest[2:]...))
	}
	return nil
}

// write sends one frame.
func (c *peerConn) write(flags byte, body []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.begin(); err != nil {
		return err
	}
	c.frame(flags, len(body))
	c.out.Write(body)
	return c.out.Flush()
}

// writeMessage sends a message of these parts.
func (c *peerConn) writeMessage(parts [][]byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.begin(); err != nil {
		return err
	}
	for i, part := range parts {
		var flags byte
		if i < len(parts)-1 {
			flags = flagMore
		}
		c.frame(flags, len(part))
		c.out.Write(part)
	}
	return c.out.Flush()
}

func (c *peerConn) begin() error {
	return c.conn.SetWriteDeadline(time.Now().Add(writeWait))
}

// frame writes the header of a frame. The writer keeps an error for Flush.
func (c *peerConn) frame(flags byte, size int) {
	if size <= 255 {
		c.out.Write([]byte{flags, byte(size)})
		return
	}
	c.out.Write(binary.BigEndian.AppendUint64([]byte{flags | flagLong}, uint64(size)))
}
