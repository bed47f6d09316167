package wire

import (
	"context"
	"net"
	"sync"
)

// helloBytesMax bounds what is kept of a client's first TLS message: with
// post-quantum key shares they are under two kilobytes.
const helloBytesMax = 16 << 10

// Seen is what a client has sent over TLS before its server understood it.
type Seen struct {
	mu    sync.Mutex
	first []byte // records as they came; nil once hello was taken from it
	hello []byte
}

// seenConn is a connection below TLS.
type seenConn struct {
	net.Conn
	seen *Seen
	done bool // owned by the reader
}

func (c *seenConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.done {
		c.done = c.seen.take(p[:n])
	}
	return n, err
}

// take keeps what was read, and says whether that is all that is wanted.
func (s *Seen) take(p []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.first = append(s.first, p[:min(len(p), helloBytesMax-len(s.first))]...)
	hello, complete := clientHello(s.first)
	if complete || len(s.first) == helloBytesMax {
		s.first, s.hello = nil, hello
		return true
	}
	return false
}

// Hello is the client's TLS ClientHello, without record headers, or nil.
func (s *Seen) Hello() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hello
}

// clientHello takes the handshake message out of records (RFC 8446, sections 5.1
// and 4):
//
//	16 03 01 02 00   handshake, version, length of the record
//	01 00 01 fc      ClientHello, length; then the rest, which may go on in
//	                 further records
//
// complete is false if more is needed to know; a message that is none is nil.
func clientHello(b []byte) (hello []byte, complete bool) {
	var message []byte
	for {
		if len(b) < 5 {
			return nil, len(b) > 0 && b[0] != 0x16
		}
		n := int(b[3])<<8 | int(b[4])
		if b[0] != 0x16 || n == 0 {
			return nil, true
		}
		record := b[5:min(len(b), 5+n)]
		message = append(message, record...)
		if len(message) >= 4 {
			if message[0] != 1 {
				return nil, true
			}
			want := 4 + int(message[1])<<16 + int(message[2])<<8 + int(message[3])
			if want > helloBytesMax {
				return nil, true
			}
			if len(message) >= want {
				return message[:want:want], true
			}
		}
		if len(record) < n {
			return nil, false
		}
		b = b[5+n:]
	}
}

type seenKey struct{}

// ContextSeen marks ctx with what is seen of a server's connection, for
// http.Server.ConnContext: heads of requests and frames (see HeadFrom and FramesFrom),
// and of a client over TLS its first words. The server serves a Listener's connections
// without TLS, or those of ServeTLS.
func ContextSeen(ctx context.Context, nc net.Conn) context.Context {
	if c, ok := nc.(noted); ok {
		n := c.noted()
		n.talk = new(talk)
		ctx = context.WithValue(ctx, talkKey{}, n.talk)
	}
	if c, ok := nc.(*secureConn); ok {
		ctx = context.WithValue(ctx, seenKey{}, c.seen)
	}
	return ctx
}

// SeenFrom returns what ctx was marked with; nil for a client without TLS.
func SeenFrom(ctx context.Context) *Seen {
	s, _ := ctx.Value(seenKey{}).(*Seen)
	return s
}
