package harness

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// Gorilla is a WebSocket client that somebody else wrote, shown like a Socket:
// a message is one frame, and the library answers pings and Closes by itself.
type Gorilla struct {
	Seen Feed[SocketEvent]

	conn    *websocket.Conn // nil if the answer was not 101
	mu      sync.Mutex      // guards writes
	running sync.WaitGroup
}

// DialGorilla asks for a WebSocket; what the answer is will be Seen.
func DialGorilla(addr string, tlsConfig *tls.Config, target string, header Header, compress bool) (*Gorilla, error) {
	dialer := websocket.Dialer{TLSClientConfig: tlsConfig, HandshakeTimeout: dialTimeout, EnableCompression: compress}
	scheme := "ws"
	if tlsConfig != nil {
		scheme = "wss"
	}
	lines := http.Header{}
	for _, field := range header {
		if http.CanonicalHeaderKey(field.Name) == "Sec-Websocket-Protocol" {
			dialer.Subprotocols = append(dialer.Subprotocols, field.Value)
			continue
		}
		lines.Add(field.Name, field.Value)
	}
	g := &Gorilla{}
	conn, answer, err := dialer.Dial(scheme+"://"+addr+target, lines)
	if answer == nil {
		return nil, err
	}
	response := &Response{Proto: answer.Proto, Status: answer.StatusCode}
	for name, values := range answer.Header {
		for _, value := range values {
			response.Header = append(response.Header, Field{name, value})
		}
	}
	if err != nil {
		response.Body, _ = io.ReadAll(answer.Body) // the library keeps the first 1024 bytes
		g.Seen.Put(SocketEvent{Rejected: response})
		return g, nil
	}
	g.conn = conn
	g.Seen.Put(SocketEvent{Open: response})
	g.running.Go(g.read)
	return g, nil
}

func (g *Gorilla) read() {
	for {
		op, data, err := g.conn.ReadMessage()
		var closed *websocket.CloseError
		switch {
		case errors.As(err, &closed):
			frame := Frame{Fin: true, Op: OpClose}
			if closed.Code != websocket.CloseNoStatusReceived {
				frame.Payload = CloseContent(closed.Code, closed.Text)
			}
			g.Seen.Put(SocketEvent{Frame: &frame})
			g.Seen.Put(SocketEvent{End: io.EOF})
			g.conn.Close()
			return
		case err != nil:
			g.Seen.Put(SocketEvent{End: err})
			return
		}
		g.Seen.Put(SocketEvent{Frame: &Frame{Fin: true, Op: byte(op), Payload: data}})
	}
}

// Send writes one message or control frame.
func (g *Gorilla) Send(op byte, payload []byte) error {
	if g.conn == nil {
		return errors.New("the handshake was refused")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if op >= OpClose {
		return g.conn.WriteControl(int(op), payload, time.Now().Add(writeTimeout))
	}
	g.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	return g.conn.WriteMessage(int(op), payload)
}

// Drop resets the connection.
func (g *Gorilla) Drop() {
	if g.conn != nil {
		if secured, ok := g.conn.NetConn().(*tls.Conn); ok {
			reset(secured.NetConn())
			return
		}
		reset(g.conn.NetConn())
	}
}

// Close drops the connection and waits for the reader.
func (g *Gorilla) Close() {
	g.Drop()
	g.running.Wait()
}
