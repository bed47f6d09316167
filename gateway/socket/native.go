package socket

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/gripway/gripway/wsoverhttp"
)

// nativeWriteTimeout bounds a write to an origin that speaks WebSocket.
const nativeWriteTimeout = 30 * time.Second

// ServeNative keeps a client whose origin speaks WebSocket itself: nc is the
// connection to it after response, its 101. It returns when the client is kept or
// has been refused.
func (k *Keeper) ServeNative(call Call, nc net.Conn, response *http.Response) {
	extension, err := wsoverhttp.ParseGripExtension(response.Header.Values("Sec-Websocket-Extensions"))
	var ws *websocket.Conn
	if err == nil {
		ws, err = adoptOrigin(nc)
	}
	if err != nil {
		nc.Close()
		call.Failed(err)
		return
	}
	ws.SetReadLimit(int64(k.opts.MessageBytes))
	origin := &native{ws: ws, ended: make(chan struct{})}
	s := &session{
		keeper: k, id: call.ID, terms: call.Terms, client: call.Client, native: true,
		up: origin, grip: extension.On, marker: extension.MessagePrefix,
	}
	header := response.Header.Clone()
	for _, name := range []string{"Connection", "Upgrade", "Sec-Websocket-Accept", "Sec-Websocket-Extensions"} {
		header.Del(name)
	}
	if err := k.keep(s, call, header, nil); err != nil {
		k.refused.Inc()
		k.log.Debug("WebSocket handshake", "conn", call.ID, "error", err)
		origin.Close()
		return
	}
	go origin.read(s)
}

// native is an origin that speaks WebSocket.
type native struct {
	ws    *websocket.Conn
	ended chan struct{} // closed by Close
	once  sync.Once
}

// Send implements upstream. The origin answers through read.
func (n *native) Send(ctx context.Context, events ...wsoverhttp.Event) (*wsoverhttp.Answer, error) {
	for _, event := range events {
		n.ws.SetWriteDeadline(time.Now().Add(nativeWriteTimeout))
		var err error
		switch event.Type {
		case wsoverhttp.Text:
			err = n.ws.WriteMessage(websocket.TextMessage, event.Content)
		case wsoverhttp.Binary:
			err = n.ws.WriteMessage(websocket.BinaryMessage, event.Content)
		case wsoverhttp.Ping:
			err = n.control(websocket.PingMessage, event.Content)
		case wsoverhttp.Pong:
			err = n.control(websocket.PongMessage, event.Content)
		case wsoverhttp.Close:
			err = n.control(websocket.CloseMessage, event.Content)
		case wsoverhttp.Disconnect:
			n.Close()
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// Recover implements upstream.
func (n *native) Recover(context.Context, http.Header) (*wsoverhttp.Answer, error) {
	panic("an origin that speaks WebSocket cannot be asked")
}

func (n *native) control(kind int, content []byte) error {
	return n.ws.WriteControl(kind, content, time.Now().Add(nativeWriteTimeout))
}

// Close implements upstream.
func (n *native) Close() {
	n.once.Do(func() { close(n.ended) })
	n.ws.Close()
}

// read passes on what the origin says until it ends.
func (n *native) read(s *session) {
	pass := func(t wsoverhttp.EventType) func(string) error {
		return func(data string) error {
			s.fromOrigin(wsoverhttp.Event{Type: t, Content: []byte(data)})
			return nil
		}
	}
	n.ws.SetPingHandler(pass(wsoverhttp.Ping))
	n.ws.SetPongHandler(pass(wsoverhttp.Pong))
	n.ws.SetCloseHandler(func(int, string) error { return nil })
	for {
		kind, content, err := n.ws.ReadMessage()
		if err != nil {
			event := wsoverhttp.Event{Type: wsoverhttp.Disconnect}
			var closed *websocket.CloseError
			if errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure {
				event.Type = wsoverhttp.Close
				if closed.Code != websocket.CloseNoStatusReceived {
					event.Content = wsoverhttp.CloseContent(closed.Code, closed.Text)
				}
			}
			s.nativeEnded(event)
			return
		}
		event := wsoverhttp.Event{Type: wsoverhttp.Binary, Content: content}
		if kind == websocket.TextMessage {
			event.Type = wsoverhttp.Text
		}
		if !s.fromOrigin(event) {
			return
		}
		s.settle()
		s.waitForClient()
	}
}

// nativeEnded acts on the end of a native origin's connection. An origin that
// was detached may go without its client.
func (s *session) nativeEnded(event wsoverhttp.Event) {
	s.mu.Lock()
	detached := s.detached
	s.mu.Unlock()
	if detached {
		s.mu.Lock()
		s.originDone = true
		s.mu.Unlock()
		s.up.Close()
		return
	}
	s.fromOrigin(event)
}

// adoptOrigin makes a gorilla client Conn of a connection whose handshake is
// over: gorilla writes its handshake into memory and reads an answer made for it.
func adoptOrigin(nc net.Conn) (*websocket.Conn, error) {
	replay := &replayConn{Conn: nc}
	ws, _, err := websocket.NewClient(replay, &url.URL{Scheme: "ws", Host: "origin", Path: "/"}, nil, 4<<10, 4<<10)
	return ws, err
}

// replayConn is a connection whose first request is answered here.
type replayConn struct {
	net.Conn
	request []byte
	answer  *bytes.Reader
	done    bool
}

func (c *replayConn) Write(p []byte) (int, error) {
	if c.done {
		return c.Conn.Write(p)
	}
	c.request = append(c.request, p...)
	return len(p), nil
}

func (c *replayConn) Read(p []byte) (int, error) {
	if c.done {
		return c.Conn.Read(p)
	}
	if c.answer == nil {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(c.request)))
		if err != nil {
			return 0, err
		}
		sum := sha1.Sum([]byte(r.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455, section 1.3
		c.answer = bytes.NewReader([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
			base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n"))
	}
	n, err := c.answer.Read(p)
	if c.answer.Len() == 0 || err == io.EOF {
		c.done = true
	}
	return n, nil
}
