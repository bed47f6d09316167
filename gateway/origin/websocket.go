package origin

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
)

// acceptGUID is what a server mixes into its answer to a handshake (RFC 6455,
// section 1.3).
const acceptGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// DialWebSocket asks the first target that can be connected to for a WebSocket.
// request is what Prepare makes of a client's handshake; the key is made anew, and
// every other header is relayed. ctx bounds the handshake, and reading the body of
// a refusal.
//
// If the target agrees, conn is set and the caller's: frames come next. Unless
// some came along with the answer, it is the *net.TCPConn or *tls.Conn itself. If
// it refuses, conn is nil and the response's Body must be closed.
//
// The error is as that of Do; ErrAnswer also tells of a 101 that does not belong
// to this handshake.
func (p *Pool) DialWebSocket(ctx context.Context, request *http.Request) (response *http.Response, conn net.Conn, target *Target, err error) {
	req := request.WithContext(ctx)
	req.Method, req.Body, req.ContentLength, req.TransferEncoding, req.Trailer = http.MethodGet, http.NoBody, 0, nil, nil
	req.Header = make(http.Header, len(request.Header))
	for name, values := range request.Header {
		switch name {
		case "Upgrade", "Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Accept":
		default:
			req.Header[name] = values
		}
	}
	return p.try(req, true)
}

// handshake asks one target for a WebSocket. The error is a *dialError if it
// could not be connected to.
func (n *Network) handshake(req *http.Request, host string, e *endpoint) (*http.Response, net.Conn, error) {
	nc, err := e.dialUpgrade(req.Context(), host)
	if err != nil {
		return nil, nil, err
	}
	var nonce [16]byte
	rand.Read(nonce[:]) // never fails
	key := base64.StdEncoding.EncodeToString(nonce[:])
	x := &exchange{conn: newConn(nc), ctx: req.Context(), limit: n.opts.ResponseHeaderTimeout}
	response, err := x.do(req, host, "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "+key+"\r\n")
	if err != nil {
		return nil, nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		x.deliver(response)
		return response, nil, nil
	}
	if err := checkAgreement(response.Header, key); err != nil {
		return nil, nil, x.fail(req, err)
	}
	if x.stop != nil && !x.stop() {
		x.stop = nil
		return nil, nil, x.fail(req, context.Cause(req.Context()))
	}
	if left := x.reader.Buffered(); left > 0 {
		ahead, _ := x.reader.Peek(left)
		nc = &aheadConn{Conn: nc, ahead: bytes.Clone(ahead)}
	}
	x.release()
	response.Body = http.NoBody
	return response, nc, nil
}

// checkAgreement says whether a 101 agrees to the handshake with this key.
func checkAgreement(h http.Header, key string) error {
	sum := sha1.Sum([]byte(key + acceptGUID))
	want := base64.StdEncoding.EncodeToString(sum[:])
	switch {
	case !hasToken(h["Upgrade"], "websocket"):
		return fmt.Errorf("%w: 101 with Upgrade %q", ErrAnswer, h["Upgrade"])
	case !hasToken(h["Connection"], "upgrade"):
		return fmt.Errorf("%w: 101 with Connection %q", ErrAnswer, h["Connection"])
	case h.Get("Sec-WebSocket-Accept") != want:
		return fmt.Errorf("%w: Sec-WebSocket-Accept %q is not for our key", ErrAnswer, h["Sec-Websocket-Accept"])
	}
	return nil
}

// aheadConn is a connection of which some bytes were read already.
type aheadConn struct {
	net.Conn
	ahead []byte
}

func (c *aheadConn) Read(p []byte) (int, error) {
	if len(c.ahead) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.ahead)
	c.ahead = c.ahead[n:]
	return n, nil
}
