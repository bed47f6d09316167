package zmq

import (
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"
)

// scripted is a connection on which these bytes come, and nothing more.
type scripted struct {
	net.Conn
	rest []byte
}

func (s *scripted) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *scripted) Write(p []byte) (int, error)      { return len(p), nil }
func (s *scripted) Close() error                     { return nil }
func (s *scripted) SetDeadline(time.Time) error      { return nil }
func (s *scripted) SetReadDeadline(time.Time) error  { return nil }
func (s *scripted) SetWriteDeadline(time.Time) error { return nil }

// FuzzZMTP has a peer say anything: it ends, and no message is over the limit.
func FuzzZMTP(f *testing.F) {
	const bytesMax = 100
	greeting := make([]byte, greetingBytes)
	greeting[0], greeting[9], greeting[10] = 0xff, 0x7f, 3
	copy(greeting[12:], mechanismNull)
	ready := "\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH"
	for _, seed := range []string{
		"", ready, ready + "\x00\x01x", ready + "\x01\x01x\x00\x00", ready + "\x02\x00\x00\x00\x00\x00\x00\x01\x00x", ready + "\x04\x09\x04PING\x00\x01hi",
		ready + "\x01\x40" + string(make([]byte, 64)) + "\x00\x40" + string(make([]byte, 64)) + "\x00\x01x", ready + "\x02\x3f\xff\xff\xff\xff\xff\xff\xff",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := shakeHands(&scripted{rest: slices.Concat(greeting, data)}, typePull, []string{"PUSH"}, bytesMax)
		if err != nil {
			return
		}
		for {
			parts, err := c.read()
			if err != nil && !errors.Is(err, errTooLarge) && !errors.Is(err, errParts) {
				return
			}
			total := 0
			for _, part := range parts {
				total += len(part)
			}
			if total > bytesMax || len(parts) > partsMax || err == nil && len(parts) == 0 || err != nil && parts != nil {
				t.Fatalf("got %d parts of %d bytes, %v", len(parts), total, err)
			}
		}
	})
}
