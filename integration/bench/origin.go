//go:build linux

// The origin that every gateway under test asks: GRIP holds, long polls,
// WebSocket-over-HTTP and a plain kilobyte, from one thread and canned bytes.

package main

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
)

// plainBytes is the body of the plain answer.
const plainBytes = 1024

// messagePrefix marks content in WebSocket messages from the origin.
const messagePrefix = "m:"

// GET  /plain        1 KiB of text
// GET  /stream?c=X   a stream hold on channel X
// GET  /poll?c=X     a response hold on channel X
// POST /ws?c=X       WebSocket-over-HTTP: accepts, subscribes to X if given, echoes text
type origin struct {
	// Fixed after start.
	addr netip.AddrPort
	loop *loop

	// Counts that the load generator reads from its own thread.
	polls  atomic.Int64 // response holds handed out
	faults atomic.Int64 // requests it could not make sense of
	fault  atomic.Pointer[string]
}

var plainAnswer = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s",
	plainBytes, strings.Repeat("p", plainBytes))

// startOrigin serves on a free port of 127.0.0.1 until the process ends.
func startOrigin() (*origin, error) {
	l, err := newLoop()
	if err != nil {
		return nil, err
	}
	o := &origin{loop: l}
	o.addr, err = l.listen(netip.MustParseAddrPort("127.0.0.1:0"), o.connected)
	if err != nil {
		return nil, err
	}
	go func() { // ends with the process: a child of this tool lives for one scenario
		runtime.LockOSThread()
		for l.turn(time.Second) == nil {
		}
	}()
	return o, nil
}

func (o *origin) connected(p *peer) {
	serveRequests(p, func(r request) []byte {
		answer, err := o.answer(r)
		if err != nil {
			o.faults.Add(1)
			text := fmt.Sprintf("origin: %s %s: %v", r.method, r.target, err)
			o.fault.CompareAndSwap(nil, &text)
			return []byte("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
		}
		return answer
	})
}

// serveRequests answers the requests of one connection in order.
func serveRequests(p *peer, answer func(request) []byte) {
	var pending []byte // of a request that came in pieces
	p.got = func(b []byte) {
		if len(pending) > 0 {
			pending = append(pending, b...)
			b = pending
		}
		for len(b) > 0 {
			r, used, err := takeRequest(b)
			if err != nil {
				p.close()
				return
			}
			if used == 0 {
				break
			}
			if out := answer(r); out != nil {
				p.write(out)
			}
			b = b[used:]
		}
		pending = append(pending[:0], b...)
	}
}

func (o *origin) answer(r request) ([]byte, error) {
	switch r.path() {
	case "/plain":
		return plainAnswer, nil
	case "/stream":
		return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nGrip-Hold: stream\r\nGrip-Channel: %s\r\nContent-Length: 0\r\n\r\n", r.channelOf()), nil
	case "/poll":
		o.polls.Add(1)
		return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nGrip-Hold: response\r\nGrip-Channel: %s\r\nGrip-Timeout: 120\r\nContent-Length: 8\r\n\r\ntimeout\n", r.channelOf()), nil
	case "/ws":
		return o.converse(r)
	}
	return []byte("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), nil
}

// converse is one exchange of WebSocket-over-HTTP.
func (o *origin) converse(r request) ([]byte, error) {
	if string(r.method) != "POST" {
		return nil, fmt.Errorf("a WebSocket must come as POST with events (target option over_http)")
	}
	events, err := takeEvents(r.body)
	if err != nil {
		return nil, err
	}
	var body []byte
	extension := ""
	for _, e := range events {
		switch e.kind {
		case "OPEN":
			extension = "Sec-WebSocket-Extensions: grip; message-prefix=\"" + messagePrefix + "\"\r\n"
			body = appendEvent(body, "OPEN", nil)
			if channel := r.channelOf(); channel != "" {
				body = appendEvent(body, "TEXT", fmt.Appendf(nil, `c:{"type":"subscribe","channel":"%s"}`, channel))
			}
		case "TEXT":
			body = appendEvent(body, "TEXT", append([]byte(messagePrefix), e.content...))
		case "CLOSE":
			body = appendEvent(body, "CLOSE", e.content)
		}
	}
	return append(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/websocket-events\r\n%sContent-Length: %d\r\n\r\n",
		extension, len(body)), body...), nil
}
