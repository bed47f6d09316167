package socket

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/gripway/gripway/wsoverhttp"
)

// peerWriteTimeout bounds a write to a peer that does not read.
const peerWriteTimeout = 30 * time.Second

// Peer is one end of a WebSocket for somebody who thinks in messages: it frames
// them, and answers pings. Read is for one goroutine; the rest may be used
// concurrently.
type Peer struct {
	ws *websocket.Conn
	mu sync.Mutex // one writes at a time
}

// PeerClosed is how a WebSocket ended that was closed in order. Code is 0 if the
// Close had none.
type PeerClosed struct {
	Code   int
	Reason string
}

func (c *PeerClosed) Error() string { return fmt.Sprintf("closed with %d %q", c.Code, c.Reason) }

// AcceptPeer answers a client's handshake, with header in the answer, and returns
// our end. The client has been answered if there is an error.
func AcceptPeer(w http.ResponseWriter, r *http.Request, header http.Header, messageBytes int) (*Peer, error) {
	upgrader := websocket.Upgrader{
		ReadBufferSize: framerBuffer, WriteBufferSize: framerBuffer,
		CheckOrigin: func(*http.Request) bool { return true }, // the origin decides
	}
	header = header.Clone()
	for _, name := range []string{"Connection", "Upgrade", "Sec-Websocket-Accept", "Sec-Websocket-Extensions"} {
		header.Del(name)
	}
	ws, err := upgrader.Upgrade(w, r, header)
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(int64(messageBytes))
	return &Peer{ws: ws}, nil
}

// JoinPeer returns the client's end of a connection at whose other end a handshake
// is being accepted, and the answer to that, which it reads. No request is sent.
func JoinPeer(nc net.Conn) (*Peer, http.Header, error) {
	in := bufio.NewReaderSize(nc, framerBuffer)
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		return nil, nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return nil, nil, fmt.Errorf("status %d, want 101", response.StatusCode)
	}
	ws, err := adoptOrigin(readAheadConn{nc, in})
	if err != nil {
		return nil, nil, err
	}
	return &Peer{ws: ws}, response.Header, nil
}

// readAheadConn is a connection of which more may have been read than its
// handshake.
type readAheadConn struct {
	net.Conn
	in *bufio.Reader
}

func (c readAheadConn) Read(p []byte) (int, error) { return c.in.Read(p) }

// Read returns the next message. The error is a *PeerClosed if the other end said
// goodbye.
func (p *Peer) Read() (content []byte, text bool, err error) {
	kind, content, err := p.ws.ReadMessage()
	var closed *websocket.CloseError
	if errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure {
		code := closed.Code
		if code == websocket.CloseNoStatusReceived {
			code = 0
		}
		return nil, false, &PeerClosed{code, closed.Text}
	}
	return content, kind == websocket.TextMessage, err
}

// Write sends a text message.
func (p *Peer) Write(text []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ws.SetWriteDeadline(time.Now().Add(peerWriteTimeout))
	return p.ws.WriteMessage(websocket.TextMessage, text)
}

// Close says goodbye, with a code unless it is 0. The connection stays until the
// other end has answered, or Drop.
func (p *Peer) Close(code int, reason string) error {
	var content []byte
	if wsoverhttp.ValidCloseCode(code) {
		for len(reason) > controlBytesMax-2 {
			reason = reason[:len(reason)-1]
		}
		content = websocket.FormatCloseMessage(code, reason)
	}
	return p.ws.WriteControl(websocket.CloseMessage, content, time.Now().Add(peerWriteTimeout))
}

// Drop ends the connection without a word.
func (p *Peer) Drop() { p.ws.Close() }
