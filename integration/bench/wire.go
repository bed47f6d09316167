// The bytes that go over the wire: publish bodies, requests and responses of
// HTTP/1.1, WebSocket frames, WebSocket-over-HTTP events. Written for this tool
// alone, so that a fault in the gateway's own codecs cannot hide from it.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	// messageBytes is the content of every published message and every echo.
	messageBytes = 100

	// marker ends every message and appears nowhere else after a response's
	// head: counting it counts messages, however they are chunked.
	marker = '#'

	// headBytesMax bounds a request or response head.
	headBytesMax = 16 << 10

	// frameBytesMax bounds one WebSocket message that a client of this tool
	// accepts; all it asks for are messageBytes.
	frameBytesMax = 1 << 20
)

// What a subscriber is, as the scenarios name it.
const (
	kindStream = "stream"
	kindWS     = "ws"
)

// message returns the content of the seq-th message: messageBytes of text, no
// two alike, so that a lost, doubled or swapped one shows.
func message(seq int) string {
	number := fmt.Sprintf("%010d", seq)
	return number + strings.Repeat("x", messageBytes-len(number)-1) + string(rune(marker))
}

// item is one item of a publish body.
type item struct {
	channel string
	seq     int
}

// publishBody is the body of POST /publish/ with the items in the one format
// that subscribers of this kind receive.
func publishBody(format string, items ...item) []byte {
	var b bytes.Buffer
	b.WriteString(`{"items":[`)
	for i, it := range items {
		if i > 0 {
			b.WriteByte(',')
		}
		field := "content"
		if format == "http-response" {
			field = "body"
		}
		fmt.Fprintf(&b, `{"channel":"%s","formats":{"%s":{"%s":"%s"}}}`, it.channel, format, field, message(it.seq))
	}
	b.WriteString(`]}`)
	return b.Bytes()
}

// formatOf is the item format that a subscriber of this kind receives.
func formatOf(kind string) string {
	if kind == kindWS {
		return "ws-message"
	}
	return "http-stream"
}

// post is a whole POST request.
func post(target, host string, body []byte) []byte {
	return append(fmt.Appendf(nil,
		"POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n",
		target, host, len(body)), body...)
}

// get is a whole GET request with the header fields of a plain client.
func get(target, host string) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: curl/8.11.0\r\nAccept: */*\r\n\r\n", target, host)
}

// The key and answer of RFC 6455 section 1.3.
const (
	handshakeKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	handshakeAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// handshake is a whole WebSocket opening request.
func handshake(target, host string) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: curl/8.11.0\r\nAccept: */*\r\n"+
		"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n",
		target, host, handshakeKey)
}

// head is the first part of a message, up to and with the empty line.
type head []byte

// takeHead cuts the head off b; ok is false as long as it is not complete.
func takeHead(b []byte) (h head, rest []byte, ok bool, err error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		if len(b) > headBytesMax {
			return nil, nil, false, fmt.Errorf("head longer than %d bytes", headBytesMax)
		}
		return nil, nil, false, nil
	}
	return head(b[:end+4]), b[end+4:], true, nil
}

// status is the code of a response's first line; 0 if it is not one.
func (h head) status() int {
	if len(h) < len("HTTP/1.1 200") || !bytes.HasPrefix(h, []byte("HTTP/1.")) {
		return 0
	}
	code, err := strconv.Atoi(string(h[9:12]))
	if err != nil {
		return 0
	}
	return code
}

// field is the trimmed value of the first header field of that name, "" if
// there is none. Names compare without case.
func (h head) field(name string) string {
	lines := []byte(h)
	for {
		_, after, found := bytes.Cut(lines, []byte("\r\n"))
		if !found || len(after) <= len(name) {
			return ""
		}
		if lines = after; lines[len(name)] == ':' && bytes.EqualFold(lines[:len(name)], []byte(name)) {
			value, _, _ := bytes.Cut(lines[len(name)+1:], []byte("\r\n"))
			return string(bytes.TrimSpace(value))
		}
	}
}

// response reads one HTTP response as its bytes arrive. The zero value is
// ready; after done it is ready for the next one.
type response struct {
	// tape, if not nil, receives the body.
	tape *[]byte

	status int
	last   bool // the connection ends with this response

	part    responsePart
	left    int    // bytes of the body or chunk still to come
	pending []byte // of a head or chunk line that came in pieces
}

type responsePart int

const (
	inHead responsePart = iota
	inLength
	inChunkLine
	inChunk
	inChunkEnd
	inTrailer
	inUntilClose
)

var errBadResponse = errors.New("bad HTTP response")

// feed takes the next bytes and returns those that belong to what follows. The
// response is complete when done is true.
func (r *response) feed(b []byte) (rest []byte, done bool, err error) {
	for {
		switch r.part {
		case inHead:
			h, rest, ok, err := takeHead(r.joined(b))
			if err != nil || !ok {
				r.keep(b)
				return nil, false, err
			}
			r.pending = nil
			if done, err := r.begin(h); done || err != nil {
				return rest, done, err
			}
			b = rest
		case inLength, inChunk:
			n := min(r.left, len(b))
			r.record(b[:n])
			r.left -= n
			if b = b[n:]; r.left > 0 {
				return nil, false, nil
			}
			if r.part == inLength {
				r.part = inHead
				return b, true, nil
			}
			r.part = inChunkEnd
		case inChunkLine, inChunkEnd, inTrailer:
			line, rest, found := bytes.Cut(r.joined(b), []byte("\r\n"))
			if !found {
				if r.keep(b); len(r.pending) > headBytesMax {
					return nil, false, fmt.Errorf("%w: chunk line longer than %d bytes", errBadResponse, headBytesMax)
				}
				return nil, false, nil
			}
			done, err := r.line(line)
			r.pending = nil
			if done || err != nil {
				return rest, done, err
			}
			b = rest
		case inUntilClose:
			r.record(b)
			return nil, false, nil
		}
		if len(b) == 0 {
			return nil, false, nil
		}
	}
}

// ended is what the end of the connection means: true if it completes the response.
func (r *response) ended() bool { return r.part == inUntilClose }

// joined is b behind the piece kept before it, which is mostly nothing.
func (r *response) joined(b []byte) []byte {
	if len(r.pending) == 0 {
		return b
	}
	return append(r.pending[:len(r.pending):len(r.pending)], b...)
}

// keep remembers a piece that is not complete yet.
func (r *response) keep(b []byte) { r.pending = append(r.pending, b...) }

func (r *response) begin(h head) (done bool, err error) {
	r.status = h.status()
	if r.status == 0 {
		return false, fmt.Errorf("%w: first line %.40q", errBadResponse, []byte(h))
	}
	r.last = strings.EqualFold(h.field("Connection"), "close") || bytes.HasPrefix(h, []byte("HTTP/1.0"))
	length := h.field("Content-Length")
	switch {
	case strings.EqualFold(h.field("Transfer-Encoding"), "chunked"):
		r.part = inChunkLine
	case r.status == 101 || r.status == 204 || r.status == 304 || length == "0":
		return true, nil
	case length != "":
		r.left, err = strconv.Atoi(length)
		if err != nil || r.left < 0 {
			return false, fmt.Errorf("%w: Content-Length %q", errBadResponse, length)
		}
		r.part = inLength
		if r.left == 0 {
			r.part = inHead
			return true, nil
		}
	default:
		r.part, r.last = inUntilClose, true
	}
	return false, nil
}

func (r *response) line(line []byte) (done bool, err error) {
	switch {
	case r.part == inChunkLine:
		size, _, _ := bytes.Cut(line, []byte(";"))
		n, err := strconv.ParseUint(string(bytes.TrimSpace(size)), 16, 31)
		if err != nil {
			return false, fmt.Errorf("%w: chunk size %.40q", errBadResponse, line)
		}
		if r.left, r.part = int(n), inChunk; n == 0 {
			r.part = inTrailer
		}
	case r.part == inChunkEnd && len(line) > 0:
		return false, fmt.Errorf("%w: chunk longer than its size: %.40q", errBadResponse, line)
	case r.part == inChunkEnd:
		r.part = inChunkLine
	case len(line) == 0: // the trailer's end
		r.part = inHead
		return true, nil
	}
	return false, nil
}

func (r *response) record(b []byte) {
	if r.tape != nil {
		*r.tape = append(*r.tape, b...)
	}
}

// request is one complete HTTP request; its parts alias the buffer it was cut from.
type request struct {
	method, target []byte
	head           head
	body           []byte
}

// takeRequest cuts one request off b. used is 0 as long as it is not complete.
func takeRequest(b []byte) (r request, used int, err error) {
	h, rest, ok, err := takeHead(b)
	if err != nil || !ok {
		return request{}, 0, err
	}
	first, _, _ := bytes.Cut(h, []byte("\r\n"))
	parts := bytes.SplitN(first, []byte(" "), 3)
	if len(parts) != 3 {
		return request{}, 0, fmt.Errorf("bad request line %.40q", first)
	}
	r = request{method: parts[0], target: parts[1], head: h}
	if strings.EqualFold(h.field("Transfer-Encoding"), "chunked") {
		body, used, err := unchunk(rest)
		if err != nil || used == 0 {
			return request{}, 0, err
		}
		r.body = body
		return r, len(h) + used, nil
	}
	length := 0
	if field := h.field("Content-Length"); field != "" {
		if length, err = strconv.Atoi(field); err != nil || length < 0 {
			return request{}, 0, fmt.Errorf("bad Content-Length %q", field)
		}
	}
	if len(rest) < length {
		return request{}, 0, nil
	}
	r.body = rest[:length]
	return r, len(h) + length, nil
}

// unchunk decodes a whole chunked body; used is 0 as long as it is not complete.
func unchunk(b []byte) (body []byte, used int, err error) {
	r := response{tape: &body, part: inChunkLine}
	rest, done, err := r.feed(b)
	if err != nil || !done {
		return nil, 0, err
	}
	return body, len(b) - len(rest), nil
}

// channelOf is the value of the query's c parameter.
func (r request) channelOf() string {
	_, channel, _ := bytes.Cut(r.target, []byte("?c="))
	return string(channel)
}

// path is the target without its query.
func (r request) path() string {
	path, _, _ := bytes.Cut(r.target, []byte("?"))
	return string(path)
}

// WebSocket opcodes.
const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

// frame is one unmasked WebSocket frame, as servers send it.
func frame(op byte, content []byte) []byte {
	return append(frameHead(op, len(content), 0), content...)
}

// maskedFrame is one frame as clients send it. The mask is constant: what it
// protects against (RFC 6455 section 10.3) is not at stake here.
func maskedFrame(op byte, content []byte) []byte {
	mask := [4]byte{0x9a, 0x3c, 0x51, 0xe7}
	b := append(frameHead(op, len(content), 0x80), mask[:]...)
	for i, c := range content {
		b = append(b, c^mask[i%4])
	}
	return b
}

func frameHead(op byte, n int, maskBit byte) []byte {
	if n < 126 {
		return []byte{0x80 | op, maskBit | byte(n)}
	}
	return []byte{0x80 | op, maskBit | 126, byte(n >> 8), byte(n)} // nothing here is longer than 64 KiB
}

// frames reads a server's WebSocket frames as their bytes arrive. The zero
// value is ready.
type frames struct {
	// tape, if not nil, receives the content of text messages.
	tape *[]byte

	header  []byte // of a frame whose header came in pieces; at most 10 bytes
	op      byte
	fin     bool
	inside  bool // the header is complete, left bytes of content are to come
	left    int
	control []byte // content of the control frame being read
}

var errBadFrame = errors.New("bad WebSocket frame")

// feed takes the next bytes. messages counts the text messages that ended in
// them; reply is what must be sent back (pongs), nil mostly; closed tells that
// the server sent a Close.
func (f *frames) feed(b []byte) (messages int, reply []byte, closed bool, err error) {
	for len(b) > 0 || (f.inside && f.left == 0) {
		if !f.inside {
			n, err := f.begin(b)
			if err != nil {
				return messages, reply, closed, err
			}
			b = b[n:]
			continue
		}
		n := min(f.left, len(b))
		content := b[:n]
		b, f.left = b[n:], f.left-n
		if f.op >= opClose {
			f.control = append(f.control, content...)
		} else if f.tape != nil {
			*f.tape = append(*f.tape, content...)
		}
		if f.left > 0 {
			break
		}
		f.inside = false
		switch {
		case f.op == opPing:
			reply = append(reply, maskedFrame(opPong, f.control)...)
		case f.op == opClose:
			closed = true
		case f.op < opClose && f.fin:
			messages++
		}
		f.control = f.control[:0]
	}
	return messages, reply, closed, nil
}

// begin reads a frame header, whole or the next piece of one, and returns how
// many bytes of b it took.
func (f *frames) begin(b []byte) (int, error) {
	had := len(f.header)
	h := append(f.header, b[:min(len(b), 10-had)]...)
	need := 2
	if len(h) >= 2 {
		switch h[1] & 0x7f {
		case 126:
			need = 4
		case 127:
			need = 10
		}
	}
	if len(h) < need {
		f.header = h
		return len(b), nil
	}
	if h[1]&0x80 != 0 || h[0]&0x70 != 0 {
		return 0, fmt.Errorf("%w: header % x", errBadFrame, h[:2])
	}
	length := uint64(h[1] & 0x7f)
	if need > 2 {
		length = 0
		for _, c := range h[2:need] {
			length = length<<8 | uint64(c)
		}
	}
	if length > frameBytesMax {
		return 0, fmt.Errorf("%w: %d bytes announced", errBadFrame, length)
	}
	f.op, f.fin = h[0]&0x0f, h[0]&0x80 != 0
	f.left, f.inside = int(length), true
	f.header = f.header[:0]
	return need - had, nil
}

// event is one WebSocket-over-HTTP event.
type event struct {
	kind    string
	content []byte
}

// takeEvents decodes a WebSocket-over-HTTP request body.
func takeEvents(b []byte) ([]event, error) {
	var events []event
	for len(b) > 0 {
		line, rest, found := bytes.Cut(b, []byte("\r\n"))
		if !found {
			return nil, fmt.Errorf("event line without end: %.40q", b)
		}
		kind, size, sized := bytes.Cut(line, []byte(" "))
		e := event{kind: string(kind)}
		if sized {
			n, err := strconv.ParseUint(string(size), 16, 31)
			if err != nil || len(rest) < int(n)+2 {
				return nil, fmt.Errorf("event %.40q: bad size", line)
			}
			e.content, rest = rest[:n], rest[n+2:]
		}
		events, b = append(events, e), rest
	}
	return events, nil
}

// appendEvent adds one event in its wire form.
func appendEvent(b []byte, kind string, content []byte) []byte {
	if content == nil {
		return append(append(b, kind...), "\r\n"...)
	}
	b = fmt.Appendf(b, "%s %x\r\n", kind, len(content))
	return append(append(b, content...), "\r\n"...)
}
