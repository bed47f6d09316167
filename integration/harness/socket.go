package harness

import (
	"bufio"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Socket is one end of a WebSocket, client or origin, that shows every frame
// and does nothing by itself: no pong, no Close in return.
type Socket struct {
	// Seen is what came from the other side.
	Seen Feed[SocketEvent]

	// Fixed after start.
	server bool

	// Guarded by mu.
	mu   sync.Mutex
	conn net.Conn // nil before the handshake
	raw  net.Conn // conn, or what is below its TLS
	gone bool

	stall   stall
	running sync.WaitGroup
}

// SocketEvent is one thing a Socket saw; exactly one field is set.
type SocketEvent struct {
	Open     *Response // 101, or for a server the request's header
	Rejected *Response
	Frame    *Frame
	End      error // io.EOF if the other side closed the connection in order
}

func (e SocketEvent) String() string {
	switch {
	case e.Open != nil:
		return "open"
	case e.Rejected != nil:
		return fmt.Sprintf("answer %d %s", e.Rejected.Status, Quote(e.Rejected.Body))
	case e.Frame != nil:
		return e.Frame.String()
	}
	return fmt.Sprintf("end of connection (%v)", e.End)
}

// Response is a whole answer, or the head of one.
type Response struct {
	Proto  string
	Status int
	Reason string
	Header Header
	Body   []byte
}

// NewServerSocket is for [Step.Socket]: it shows nothing until the gateway connects.
func NewServerSocket() *Socket { return &Socket{server: true} }

// DialSocket connects and asks for a WebSocket; what the answer is will be Seen.
// header replaces the usual lines of the same names; a line with an empty value
// takes the usual one away.
func DialSocket(addr string, tlsConfig *tls.Config, target string, header Header, small bool) (*Socket, error) {
	raw, conn, err := dial(addr, tlsConfig, small)
	if err != nil {
		return nil, err
	}
	var nonce [16]byte
	rand.Read(nonce[:])
	key := base64.StdEncoding.EncodeToString(nonce[:])
	lines := Header{}
	for _, usual := range (Header{{"Host", addr}, {"Upgrade", "websocket"}, {"Connection", "Upgrade"}, {"Sec-WebSocket-Version", "13"}, {"Sec-WebSocket-Key", key}}) {
		if !header.Has(usual.Name) {
			lines = append(lines, usual)
		}
	}
	for _, field := range header {
		if field.Value != "" {
			lines = append(lines, field)
		}
	}
	s := &Socket{conn: conn, raw: raw}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\n%s\r\n", target, lines.wire()); err != nil {
		raw.Close()
		return nil, err
	}
	s.running.Go(func() { s.readClient(key) })
	return s, nil
}

func (s *Socket) readClient(key string) {
	r := bufio.NewReader(s.stall.reader(s.conn))
	response, err := readResponse(r)
	switch {
	case err != nil:
		s.Seen.Put(SocketEvent{End: err})
		return
	case response.Status != 101:
		s.Seen.Put(SocketEvent{Rejected: response})
		s.Seen.Put(SocketEvent{End: drain(r)})
		return
	}
	if got, want := response.Header.Get("Sec-WebSocket-Accept"), acceptKey(key); got != want {
		s.Seen.Put(SocketEvent{End: fmt.Errorf("Sec-WebSocket-Accept: got %q, want %q", got, want)})
		return
	}
	s.Seen.Put(SocketEvent{Open: response})
	s.readFrames(r)
}

// serve takes over a connection of an origin; it returns when the connection ends.
func (s *Socket) serve(conn, raw net.Conn, r *bufio.Reader, header Header) {
	s.mu.Lock()
	s.conn, s.raw = conn, raw
	s.mu.Unlock()
	s.Seen.Put(SocketEvent{Open: &Response{Status: 101, Header: header}})
	s.readFrames(r)
}

func (s *Socket) readFrames(r *bufio.Reader) {
	for {
		frame, err := ReadFrame(r)
		if err != nil {
			s.Seen.Put(SocketEvent{End: err})
			return
		}
		if frame.Masked != s.server {
			s.Seen.Put(SocketEvent{End: fmt.Errorf("%v: masked is %t", frame, frame.Masked)})
			return
		}
		s.Seen.Put(SocketEvent{Frame: &frame})
	}
}

// SendFrame writes one frame as it is.
func (s *Socket) SendFrame(frame Frame) error { return s.SendBytes(frame.Append(nil)) }

// Send writes a whole message in one frame, masked as it should be.
func (s *Socket) Send(op byte, payload []byte) error {
	return s.SendFrame(Frame{Fin: true, Op: op, Masked: !s.server, Payload: payload})
}

// SendBytes writes bytes that need not be a frame.
func (s *Socket) SendBytes(b []byte) error {
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	if conn == nil {
		return errors.New("not connected yet")
	}
	conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := conn.Write(b)
	return err
}

// Stall stops reading until Resume; the kernel's buffers fill up.
func (s *Socket) Stall() { s.stall.set(true) }

// Resume reads again.
func (s *Socket) Resume() { s.stall.set(false) }

// Drop resets the connection.
func (s *Socket) Drop() {
	s.mu.Lock()
	raw := s.raw
	s.mu.Unlock()
	if raw != nil {
		reset(raw)
	}
	s.Resume()
}

// Close drops the connection and waits for the reader.
func (s *Socket) Close() {
	s.Drop()
	s.running.Wait()
}

// acceptKey is Sec-WebSocket-Accept of RFC 6455 4.2.2.
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// readResponse reads a response to a GET with its body.
func readResponse(r *bufio.Reader) (*Response, error) {
	response, err := readResponseHead(r)
	if err != nil || response.Status == 101 {
		return response, err
	}
	chunked, length := framing("GET", response)
	_, err = readBody(r, chunked, length, func(piece []byte) { response.Body = append(response.Body, piece...) })
	return response, err
}

func readResponseHead(r *bufio.Reader) (*Response, error) {
	first, header, err := readHead(r)
	if err != nil {
		return nil, err
	}
	response := &Response{Header: header}
	proto, rest, _ := strings.Cut(first, " ")
	code, reason, _ := strings.Cut(rest, " ")
	response.Proto, response.Reason = proto, reason
	if response.Status, err = strconv.Atoi(code); err != nil || !strings.HasPrefix(proto, "HTTP/") {
		return nil, fmt.Errorf("status line %q", first)
	}
	return response, nil
}

// framing says how a response's body ends, by RFC 9112 6.3; length -1 is with the connection.
func framing(method string, response *Response) (chunked bool, length int64) {
	switch header := response.Header; {
	case method == "HEAD" || response.Status < 200 || response.Status == 204 || response.Status == 304:
		return false, 0
	case strings.EqualFold(header.Get("Transfer-Encoding"), "chunked"):
		return true, 0
	case header.Has("Content-Length"):
		length, err := strconv.ParseInt(header.Get("Content-Length"), 10, 64)
		if err == nil {
			return false, length
		}
	}
	return false, -1
}

// drain reads to the end and says which it was: io.EOF, or what went wrong.
func drain(r io.Reader) error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	return io.EOF
}
