package harness

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// ZMQ is one ZeroMQ socket with one connection to a gateway: a publisher, or
// who sends commands. It speaks ZMTP 3.0 with NULL (rfc.zeromq.org/spec/23) and
// nothing of it that a conversation does not need.
type ZMQ struct {
	conn net.Conn
	in   *bufio.Reader
	done chan struct{} // closed when read has ended

	// Seen are the messages that came, a subscription's too.
	Seen Feed[[][]byte]
}

// zmqDialEvery is how often a connection is tried: a gateway may bind after it is ready.
const zmqDialEvery = 20 * time.Millisecond

// DialZMQ connects a socket of a type, like PUSH, to an endpoint, and returns once
// it is connected.
func DialZMQ(kind, endpoint string) (*ZMQ, error) {
	network, addr := "tcp", strings.TrimPrefix(endpoint, "tcp://")
	if path, ok := strings.CutPrefix(endpoint, "ipc://"); ok {
		network, addr = "unix", path
	}
	var conn net.Conn
	var err error
	for deadline := time.Now().Add(dialTimeout); ; time.Sleep(zmqDialEvery) { // a poll: nobody tells when it is bound
		conn, err = net.DialTimeout(network, addr, dialTimeout)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			return nil, err
		}
	}
	z := &ZMQ{conn: conn, in: bufio.NewReader(conn), done: make(chan struct{})}
	if err := z.shakeHands(kind); err != nil {
		conn.Close()
		return nil, fmt.Errorf("%s: %w", endpoint, err)
	}
	go z.read() // ends with the connection, which Close ends
	return z, nil
}

func (z *ZMQ) shakeHands(kind string) error {
	z.conn.SetDeadline(time.Now().Add(dialTimeout))
	defer z.conn.SetDeadline(time.Time{})
	property := "\x0bSocket-Type" + string(binary.BigEndian.AppendUint32(nil, uint32(len(kind)))) + kind
	ready := "\x05READY" + property
	hello := "\xff" + strings.Repeat("\x00", 8) + "\x7f\x03\x00NULL" + strings.Repeat("\x00", 48)
	if _, err := io.WriteString(z.conn, hello+"\x04"+string([]byte{byte(len(ready))})+ready); err != nil {
		return err
	}
	if _, err := io.ReadFull(z.in, make([]byte, len(hello))); err != nil {
		return err
	}
	command, _, _, err := z.frame()
	if err == nil && !command {
		err = fmt.Errorf("a message before READY")
	}
	return err
}

func (z *ZMQ) frame() (command, more bool, body []byte, err error) {
	flags, err := z.in.ReadByte()
	if err != nil {
		return false, false, nil, err
	}
	length := make([]byte, 8)
	if flags&2 != 0 {
		_, err = io.ReadFull(z.in, length)
	} else {
		_, err = io.ReadFull(z.in, length[7:])
	}
	if err != nil {
		return false, false, nil, err
	}
	n := binary.BigEndian.Uint64(length)
	if n > zmqBytesMax {
		return false, false, nil, fmt.Errorf("a frame of %d bytes", n)
	}
	body = make([]byte, n)
	_, err = io.ReadFull(z.in, body)
	return flags&4 != 0, flags&1 != 0, body, err
}

// zmqBytesMax is more than any conversation has in one frame, in bytes.
const zmqBytesMax = 64 << 20

func (z *ZMQ) read() {
	defer close(z.done)
	var parts [][]byte
	for {
		command, more, body, err := z.frame()
		switch {
		case err != nil:
			return
		case command:
		case more:
			parts = append(parts, body)
		default:
			z.Seen.Put(append(parts, body))
			parts = nil
		}
	}
}

// Send sends a message of these parts.
func (z *ZMQ) Send(parts ...[]byte) error {
	var message []byte
	for i, part := range parts {
		var flags byte
		if i < len(parts)-1 {
			flags = 1
		}
		if len(part) > 255 {
			message = binary.BigEndian.AppendUint64(append(message, flags|2), uint64(len(part)))
		} else {
			message = append(message, flags, byte(len(part)))
		}
		message = append(message, part...)
	}
	z.conn.SetWriteDeadline(time.Now().Add(dialTimeout))
	_, err := z.conn.Write(message)
	return err
}

// Close ends the connection.
func (z *ZMQ) Close() {
	z.conn.Close()
	<-z.done
}
