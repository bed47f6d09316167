package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// ServeTLS is server.ServeTLS with the certificates of server.TLSConfig, and all is
// seen that clients say: see SeenFrom, HeadFrom and FramesFrom. The server has
// ContextSeen for connections, and serves nothing but this.
//
// net/http reads from the *tls.Conn itself, where nobody can listen. Here it is given
// connections of another type and takes them for clear ones: they shake hands when
// they are first read, and what it would have done about TLS is done here. A request
// that says over HTTP/2 that its scheme is http has come over TLS all the same.
func ServeTLS(server *http.Server, l net.Listener) error {
	config := server.TLSConfig.Clone()
	config.NextProtos = []string{"h2", "http/1.1"}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server.Protocols = &protocols
	outer := server.ConnContext
	server.ConnContext = func(ctx context.Context, nc net.Conn) context.Context {
		if outer != nil {
			ctx = outer(ctx, nc)
		}
		return context.WithValue(ctx, secureKey{}, nc)
	}
	handler := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(secureKey{}).(*secureConn); ok {
			r.TLS = c.state
		}
		handler.ServeHTTP(w, r)
	})
	return server.Serve(&secureListener{l, config, server})
}

type secureKey struct{}

type secureListener struct {
	net.Listener
	config *tls.Config
	server *http.Server
}

// Accept returns connections whose clients have not been heard yet.
func (l *secureListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	below := &seenConn{Conn: nc, seen: new(Seen)}
	return &secureConn{tls: tls.Server(below, l.config), seen: below.seen, server: l.server}, nil
}

// secureConn is a client's connection over TLS. It has no method ConnectionState: by
// that net/http would know it for TLS, and speak only HTTP/1 over it.
type secureConn struct {
	tls    *tls.Conn
	seen   *Seen
	server *http.Server
	notes  notes

	// Set by shake.
	shaken sync.Once
	state  *tls.ConnectionState
	err    error

	// Owned by the reader.
	greeted int  // octets of HTTP/2's preface that there were; negative: what was agreed on is spoken
	refused bool // it is not, and nothing more is read
}

func (c *secureConn) noted() *notes { return &c.notes }

func (c *secureConn) Read(p []byte) (int, error) {
	if c.shake() != nil {
		return 0, io.EOF // it is told already, and nobody is to be answered
	}
	if c.refused {
		return 0, io.EOF
	}
	n, err := c.tls.Read(p)
	if n > 0 && c.greeted >= 0 {
		n = c.greet(p[:n])
	}
	if n == 0 && c.refused {
		return 0, io.EOF
	}
	c.notes.heard(p[:n])
	return n, err
}

func (c *secureConn) Write(p []byte) (int, error) {
	if err := c.shake(); err != nil {
		return 0, err
	}
	c.notes.said(p)
	return c.tls.Write(p)
}

func (c *secureConn) Close() error                       { return c.tls.Close() }
func (c *secureConn) CloseWrite() error                  { return c.tls.CloseWrite() }
func (c *secureConn) LocalAddr() net.Addr                { return c.tls.LocalAddr() }
func (c *secureConn) RemoteAddr() net.Addr               { return c.tls.RemoteAddr() }
func (c *secureConn) SetDeadline(t time.Time) error      { return c.tls.SetDeadline(t) }
func (c *secureConn) SetReadDeadline(t time.Time) error  { return c.tls.SetReadDeadline(t) }
func (c *secureConn) SetWriteDeadline(t time.Time) error { return c.tls.SetWriteDeadline(t) }

// shake shakes hands, once. The server has set a deadline for what is read: that of
// the first request's header.
func (c *secureConn) shake() error {
	c.shaken.Do(func() {
		if d := c.server.ReadHeaderTimeout; d > 0 {
			c.tls.SetWriteDeadline(time.Now().Add(d))
		}
		if c.err = c.tls.HandshakeContext(context.Background()); c.err != nil {
			c.failed()
			return
		}
		state := c.tls.ConnectionState()
		c.state = &state
		if state.NegotiatedProtocol == "h2" {
			if c.err = fitForHTTP2(&state); c.err != nil {
				c.tls.Write(inadequate)
				c.log(c.err)
			}
		}
		c.tls.SetWriteDeadline(time.Time{})
	})
	return c.err
}

// failed says what went wrong. A client that speaks HTTP without TLS is answered.
func (c *secureConn) failed() {
	why := c.err
	var record tls.RecordHeaderError
	if errors.As(c.err, &record) && record.Conn != nil && slices.Contains(likeHTTP, string(record.RecordHeader[:])) {
		io.WriteString(record.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
		record.Conn.Close()
		why = errors.New("client sent an HTTP request to an HTTPS server")
	}
	c.log(why)
}

func (c *secureConn) log(err error) {
	printf := log.Printf
	if c.server.ErrorLog != nil {
		printf = c.server.ErrorLog.Printf
	}
	printf("http: TLS handshake error from %s: %v", c.RemoteAddr(), err)
}

// likeHTTP is how a request without TLS begins, where a record's header should be.
var likeHTTP = []string{"GET /", "HEAD ", "POST ", "PUT /", "OPTIO"}

// fitForHTTP2 says whether TLS is good enough (RFC 9113, section 9.2): of what Go has,
// that are TLS 1.3 and these.
func fitForHTTP2(state *tls.ConnectionState) error {
	switch state.CipherSuite {
	case tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256:
		return nil
	}
	if state.Version >= tls.VersionTLS13 {
		return nil
	}
	return fmt.Errorf("HTTP/2 over %s with %s", tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite))
}

// inadequate is the frame that ends such a connection: GOAWAY for INADEQUATE_SECURITY.
var inadequate = []byte("\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0c")

// greetingOne is how much of the preface net/http looks at first.
const greetingOne = len("PRI * HTTP/2.0")

// greet finds out whether the client speaks what was agreed on: net/http goes by the
// preface, and would not mind. It says how much the server may read. One that has
// agreed on nothing speaks HTTP/1, and is answered that its request is bad.
func (c *secureConn) greet(p []byte) int {
	n := min(len(preface)-c.greeted, len(p))
	same := string(p[:n]) == preface[c.greeted:c.greeted+n]
	c.greeted += n
	switch {
	case c.state.NegotiatedProtocol == "h2" && !same:
		c.refused = true
		return 0
	case c.state.NegotiatedProtocol != "h2" && same:
		c.refused = c.greeted >= greetingOne
	case !same, c.greeted == len(preface):
		c.greeted = -1
	}
	return len(p)
}
