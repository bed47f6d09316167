package socket

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"

	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/wsoverhttp"
)

// gorilla's Conn wants to own a connection and to block on it. Here frames come
// from and go to memory instead: a framer is a gorilla Conn between two buffers.
// Between messages it has no state, so a few of them serve every client.

const (
	// controlBytesMax is the most a control frame may carry (RFC 6455, section 5.5).
	controlBytesMax = 125

	// framerBuffer is the size of a framer's buffers: a frame's head fits, and
	// larger payloads are copied past them.
	framerBuffer = 1 << 10
)

// framer reads and writes frames with gorilla's Conn.
type framer struct {
	ws  *websocket.Conn
	in  []byte // what the Conn will read
	out []byte // what the Conn wrote

	// The last control frame read.
	control     bool
	controlType wsoverhttp.EventType
	controlData string
}

// A framer is the net.Conn below its gorilla Conn.
func (f *framer) Read(p []byte) (int, error) {
	if len(f.in) == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(p, f.in)
	f.in = f.in[n:]
	return n, nil
}

func (f *framer) Write(p []byte) (int, error) {
	f.out = append(f.out, p...)
	return len(p), nil
}

func (f *framer) Close() error                     { return nil }
func (f *framer) LocalAddr() net.Addr              { return nil }
func (f *framer) RemoteAddr() net.Addr             { return nil }
func (f *framer) SetDeadline(time.Time) error      { return nil }
func (f *framer) SetReadDeadline(time.Time) error  { return nil }
func (f *framer) SetWriteDeadline(time.Time) error { return nil }

// hijackable lets gorilla's Upgrader take a framer for a client.
type hijackable struct {
	http.ResponseWriter
	f *framer
}

func (h hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.f, bufio.NewReadWriter(bufio.NewReaderSize(h.f, 16), bufio.NewWriterSize(h.f, 16)), nil
}

// framers are kept by what was negotiated: deflated or not.
var framers = map[bool]*sync.Pool{
	false: {New: func() any { return newFramer(false) }},
	true:  {New: func() any { return newFramer(true) }},
}

func newFramer(deflated bool) *framer {
	f := &framer{}
	request := &http.Request{Method: http.MethodGet, Header: http.Header{
		"Connection":            {"Upgrade"},
		"Upgrade":               {"websocket"},
		"Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key":     {"AAAAAAAAAAAAAAAAAAAAAA=="},
	}}
	upgrader := websocket.Upgrader{ReadBufferSize: framerBuffer, WriteBufferSize: framerBuffer, EnableCompression: deflated}
	if deflated {
		request.Header["Sec-Websocket-Extensions"] = []string{"permessage-deflate"}
	}
	ws, err := upgrader.Upgrade(hijackable{f: f}, request, nil)
	if err != nil {
		panic("socket: gorilla refuses its own handshake: " + err.Error())
	}
	note := func(t wsoverhttp.EventType) func(string) error {
		return func(data string) error {
			f.control, f.controlType, f.controlData = true, t, data
			return nil
		}
	}
	ws.SetPingHandler(note(wsoverhttp.Ping))
	ws.SetPongHandler(note(wsoverhttp.Pong))
	ws.SetCloseHandler(func(int, string) error { return nil })
	f.ws, f.out = ws, nil
	return f
}

// put returns f for further use, unless its Conn has failed, which it remembers.
func (f *framer) put(deflated bool, err error) {
	if err != nil {
		return
	}
	f.in = nil
	framers[deflated].Put(f)
}

// Frame returns the frame of a published message, or nil if there is no such
// frame. It is what the hub wants.
func Frame(m *grip.MessageItem, deflated bool) []byte {
	switch m.Type {
	case grip.Text:
		return frame(websocket.TextMessage, m.Content, deflated)
	case grip.Binary:
		return frame(websocket.BinaryMessage, m.Content, deflated)
	case grip.Ping:
		return frame(websocket.PingMessage, m.Content, false)
	case grip.Pong:
		return frame(websocket.PongMessage, m.Content, false)
	}
	return nil
}

// frame returns a server's frame with content, or nil if gorilla refuses it: a
// control frame that is too long.
func frame(messageType int, content []byte, deflated bool) []byte {
	f := framers[deflated].Get().(*framer)
	f.out = make([]byte, 0, len(content)+10)
	var err error
	switch messageType {
	case websocket.TextMessage, websocket.BinaryMessage:
		err = f.ws.WriteMessage(messageType, content)
	default:
		err = f.ws.WriteControl(messageType, content, time.Time{})
	}
	out := f.out
	f.out = nil
	if err != nil {
		return nil
	}
	if messageType != websocket.CloseMessage { // gorilla writes nothing after a Close
		f.put(deflated, nil)
	}
	return out
}

// closeFrame returns a Close frame. Codes that may not be sent, among them the 0
// that GRIP libraries send for "none", make an empty one (RFC 6455, section 7.4).
func closeFrame(code int, reason string) []byte {
	if !wsoverhttp.ValidCloseCode(code) {
		return frame(websocket.CloseMessage, nil, false)
	}
	// 123 bytes of whole characters.
	for len(reason) > controlBytesMax-2 {
		_, size := utf8.DecodeLastRuneInString(reason)
		reason = reason[:len(reason)-size]
	}
	return frame(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), false)
}

// header is what a frame's first bytes say.
type header struct {
	fin     bool
	opcode  byte
	size    int  // of the frame, with its head
	payload int  // of the payload
	refuse  bool // gorilla will refuse it by its head alone
}

// parseHeader reads a frame's head and says whether it is all there. It only
// finds where frames end; what they may look like is gorilla's business.
func parseHeader(p []byte, payloadMax int) (h header, ok bool) {
	if len(p) < 2 {
		return h, false
	}
	h.fin = p[0]&0x80 != 0
	h.opcode = p[0] & 0x0f
	masked := p[1]&0x80 != 0
	length := uint64(p[1] & 0x7f)
	head := 2
	switch length {
	case 126:
		head = 4
	case 127:
		head = 10
	}
	if !masked || h.control() && (length > controlBytesMax || !h.fin) {
		h.size, h.refuse = 2, true
		return h, true
	}
	if len(p) < head {
		return h, false
	}
	switch head {
	case 4:
		length = uint64(p[2])<<8 | uint64(p[3])
	case 10:
		length = 0
		for _, b := range p[2:10] {
			length = length<<8 | uint64(b)
		}
	}
	if length > uint64(payloadMax) {
		h.payload = payloadMax + 1
		h.size = head
		return h, true
	}
	h.payload = int(length)
	h.size = head + 4 + h.payload
	return h, true
}

func (h header) control() bool { return h.opcode >= 8 }

// begins says whether it is a message's first frame.
func (h header) begins() bool {
	return h.opcode == websocket.TextMessage || h.opcode == websocket.BinaryMessage
}

// rsv1 is the bit that says that a message is compressed.
const rsv1 = 0x40

var (
	errTooBig = errors.New("message too big")
	errUTF8   = errors.New("text is not UTF-8")
)

// readMessage reads a whole message, in one frame or several, with payload bytes
// before inflation. The content is the caller's. Errors are errTooBig, errUTF8,
// or a refusal whose Close frame is returned.
func readMessage(raw []byte, payload, payloadMax int, deflated bool) (text bool, content, refusal []byte, err error) {
	f := framers[deflated].Get().(*framer)
	f.in, f.out = raw, nil
	f.control = false
	defer func() {
		if err == nil && deflated {
			// Deflate may end before its message does: the rest must not be left to
			// the next client's message. gorilla skips it on its way to another one.
			f.in = append(f.in[:len(f.in):len(f.in)], terminator...)
			if _, _, e := f.ws.NextReader(); e != nil || len(f.in) > 0 {
				return
			}
		}
		f.put(deflated, err)
	}()
	kind, r, err := f.ws.NextReader()
	if err != nil {
		return false, nil, f.out, err
	}
	if deflated {
		// The bound is on what comes out: a small message may inflate a thousandfold.
		buffer := bytes.NewBuffer(make([]byte, 0, payload*2))
		_, err = buffer.ReadFrom(io.LimitReader(r, int64(payloadMax)+1))
		if err == nil && buffer.Len() > payloadMax {
			err = errTooBig
		}
		content = buffer.Bytes()
	} else {
		content = make([]byte, payload)
		_, err = io.ReadFull(r, content)
		if err == nil {
			var end [1]byte
			if n, e := r.Read(end[:]); n != 0 || e != io.EOF {
				err = io.ErrUnexpectedEOF
			}
		}
	}
	if err != nil {
		return false, nil, f.out, err
	}
	text = kind == websocket.TextMessage
	if text && !utf8.Valid(content) {
		return true, nil, nil, errUTF8
	}
	return text, content, nil, nil
}

// terminator is an empty message of a client. It follows a control frame, since
// gorilla goes on reading after one until it finds a message.
var terminator = []byte{0x81, 0x80, 0, 0, 0, 0}

// readControl reads one control frame. A Close is returned as an event whose
// content is the code and reason, or nil; a refused frame as an error with the
// Close frame to answer it.
func readControl(raw []byte) (event wsoverhttp.Event, refusal []byte, err error) {
	if raw[0]&0x0f == websocket.CloseMessage && raw[1]&0x7f == 1 {
		// Half a code: RFC 6455, section 5.5.1. gorilla lets it pass.
		return event, closeFrame(websocket.CloseProtocolError, "bad close payload"), errors.New("close with half a code")
	}
	f := framers[false].Get().(*framer)
	f.in = append(append(make([]byte, 0, len(raw)+len(terminator)), raw...), terminator...)
	f.out, f.control = nil, false
	_, _, err = f.ws.NextReader()
	var closed *websocket.CloseError
	if errors.As(err, &closed) && len(f.out) == 0 {
		event = wsoverhttp.Event{Type: wsoverhttp.Close}
		if closed.Code != websocket.CloseNoStatusReceived {
			event.Content = wsoverhttp.CloseContent(closed.Code, closed.Text)
		}
		return event, nil, nil
	}
	if err != nil || !f.control {
		return event, f.out, errors.Join(err, errors.New("bad control frame"))
	}
	event = wsoverhttp.Event{Type: f.controlType}
	if f.controlData != "" {
		event.Content = []byte(f.controlData)
	}
	f.put(false, nil)
	return event, nil, nil
}
