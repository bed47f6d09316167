package harness

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Origin is an HTTP/1.1 server on a raw TCP socket: it answers exactly as its
// replies say and remembers every request as it stood on the wire.
type Origin struct {
	// Requests is what it was asked, each put there once its body is complete.
	Requests Feed[Request]

	// Fixed after start.
	addr string
	tls  *tls.Config

	// Guarded by mu.
	mu       sync.Mutex
	listener net.Listener // nil while down
	conns    map[net.Conn]struct{}
	connSeq  int
	replies  []*Reply
	gates    map[string]chan struct{}
	closed   bool // all gates are open

	running sync.WaitGroup
}

// Request is what an origin received.
type Request struct {
	Method, Target, Proto string
	Header                Header
	Body                  []byte
	Trailer               Header
	Conn                  int   // which connection it came on, counted from 1
	Err                   error // the body did not come whole
}

func (r Request) String() string {
	text := fmt.Sprintf("%s %s %s (connection %d)\n%s\n%s", r.Method, r.Target, r.Proto, r.Conn, r.Header, Quote(r.Body))
	if r.Err != nil {
		text += fmt.Sprintf("\nbody: %v", r.Err)
	}
	return text
}

// Reply is what an Origin does with requests that match. Of several replies
// that match the first declared one is taken, unless it has been used up.
type Reply struct {
	Method string // "*" is any
	Target string // with query; without one, any query; a last * is any rest
	Has    string // must be within the body
	Times  int    // how often it may be used; 0 is without end

	Status int
	Reason string
	Header Header
	Steps  []Step

	used int
}

// Step is one thing a Reply does, in order.
type Step struct {
	Do     Deed
	Bytes  []byte
	Wait   time.Duration
	Gate   string
	Socket *Socket
}

// Deed is a kind of Step.
type Deed int

const (
	Body    Deed = iota // write bytes; alone, they decide Content-Length
	Chunk               // write bytes as one chunk of a chunked body
	Raw                 // write bytes as they are, with no head of ours
	Echo                // write the request's events back
	Pause               // wait for a time
	Gate                // wait until the script opens a gate
	Cut                 // reset the connection
	Hangup              // close the connection
	Silence             // say nothing more, until the gateway gives up
	Upgrade             // become a WebSocket
)

// StartOrigin starts an origin on a free port of loopback, with TLS if
// certificate is not nil.
func StartOrigin(certificate *tls.Certificate) (*Origin, error) {
	listener, _, err := listenFree()
	if err != nil {
		return nil, err
	}
	o := &Origin{
		addr:  listener.Addr().String(),
		conns: map[net.Conn]struct{}{},
		gates: map[string]chan struct{}{},
	}
	if certificate != nil {
		o.tls = &tls.Config{Certificates: []tls.Certificate{*certificate}}
	}
	o.listen(listener)
	return o, nil
}

// WantCertificate has an origin with TLS refuse clients that show no certificate.
func (o *Origin) WantCertificate() { o.tls.ClientAuth = tls.RequireAnyClientCert }

// Addr is host:port, also while the origin is down.
func (o *Origin) Addr() string { return o.addr }

// Up listens again after Down.
func (o *Origin) Up() error {
	listener, err := net.Listen("tcp", o.addr)
	if err == nil {
		o.listen(listener)
	}
	return err
}

func (o *Origin) listen(listener net.Listener) {
	o.mu.Lock()
	o.listener = listener
	o.mu.Unlock()
	o.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			o.mu.Lock()
			if o.listener != listener {
				o.mu.Unlock()
				conn.Close()
				return
			}
			o.connSeq++
			number := o.connSeq
			o.conns[conn] = struct{}{}
			o.mu.Unlock()
			o.running.Go(func() { o.serve(conn, number) })
		}
	})
}

// Down refuses new connections and resets those there are.
func (o *Origin) Down() {
	o.mu.Lock()
	listener := o.listener
	o.listener = nil
	o.mu.Unlock()
	if listener != nil {
		listener.Close()
		untilRefused(o.addr)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for conn := range o.conns {
		reset(conn)
	}
}

// refusedMax bounds the wait for a port to refuse connections.
const refusedMax = 5 * time.Second

// untilRefused waits until nobody listens any more: a process that a parallel script
// is just starting has the socket too, until it becomes another program.
func untilRefused(addr string) {
	for end := time.Now().Add(refusedMax); time.Now().Before(end); time.Sleep(time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		reset(conn)
	}
}

// Close ends the origin and waits for its connections' goroutines.
func (o *Origin) Close() {
	o.Down()
	o.mu.Lock()
	o.closed = true
	for name := range o.gates {
		o.openLocked(name)
	}
	o.mu.Unlock()
	o.running.Wait()
}

// On adds a reply.
func (o *Origin) On(reply Reply) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.replies = append(o.replies, &reply)
}

// Forget removes all replies.
func (o *Origin) Forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.replies = nil
}

// Open lets pass all who wait, or will wait, at the gate.
func (o *Origin) Open(gate string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.openLocked(gate)
}

func (o *Origin) openLocked(name string) {
	gate := o.gateLocked(name)
	select {
	case <-gate:
	default:
		close(gate)
	}
}

func (o *Origin) gateLocked(name string) chan struct{} {
	gate := o.gates[name]
	if gate == nil {
		gate = make(chan struct{})
		o.gates[name] = gate
		if o.closed {
			close(gate)
		}
	}
	return gate
}

func (o *Origin) serve(conn net.Conn, number int) {
	raw := conn
	defer func() {
		raw.Close()
		o.mu.Lock()
		delete(o.conns, raw)
		o.mu.Unlock()
	}()
	if o.tls != nil {
		conn = tls.Server(raw, o.tls)
	}
	r := bufio.NewReader(conn)
	for {
		request, err := readRequest(r, conn)
		if err != nil {
			return
		}
		request.Conn = number
		o.Requests.Put(request)
		if request.Err != nil || !o.answer(conn, raw, r, request) {
			return
		}
	}
}

// readRequest fails only if there was no head; what went wrong with the body is in the Request.
func readRequest(r *bufio.Reader, w io.Writer) (Request, error) {
	first, header, err := readHead(r)
	if err != nil {
		return Request{}, err
	}
	request := Request{Header: header}
	parts := strings.Split(first, " ")
	if len(parts) != 3 {
		return Request{}, fmt.Errorf("request line %q", first)
	}
	request.Method, request.Target, request.Proto = parts[0], parts[1], parts[2]
	if header.Has("Expect") {
		if _, err := io.WriteString(w, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return Request{}, err
		}
	}
	length, _ := strconv.ParseInt(header.Get("Content-Length"), 10, 64)
	chunked := strings.EqualFold(header.Get("Transfer-Encoding"), "chunked")
	request.Trailer, request.Err = readBody(r, chunked, length, func(piece []byte) { request.Body = append(request.Body, piece...) })
	return request, nil
}

// reply finds what to do with request; without a reply it is a 404.
func (o *Origin) reply(request Request) Reply {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, reply := range o.replies {
		if reply.Times > 0 && reply.used >= reply.Times {
			continue
		}
		if reply.Method != "*" && reply.Method != request.Method || !SameTarget(reply.Target, request.Target) || !bytes.Contains(request.Body, []byte(reply.Has)) {
			continue
		}
		reply.used++
		return *reply
	}
	return Reply{Status: 404, Steps: []Step{{Do: Body, Bytes: []byte("the script has no reply to this\n")}}}
}

// SameTarget says whether pattern, as in [Reply], fits target.
func SameTarget(pattern, target string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(target, prefix)
	}
	if !strings.Contains(pattern, "?") {
		target, _, _ = strings.Cut(target, "?")
	}
	return pattern == target
}

// answer does what the script said and returns whether the connection is for further requests.
func (o *Origin) answer(conn, raw net.Conn, r *bufio.Reader, request Request) (again bool) {
	reply := o.reply(request)
	headed := false
	chunked := false
	for _, step := range reply.Steps {
		chunked = chunked || step.Do == Chunk
	}
	head := func() {
		if headed {
			return
		}
		headed = true
		header := slices.Clip(reply.Header) // shared by all who are answered so
		switch {
		case header.Has("Content-Length") || header.Has("Transfer-Encoding") || reply.Status == 204 || reply.Status == 304 || reply.Status < 200:
		case chunked:
			header = append(header, Field{"Transfer-Encoding", "chunked"})
		default:
			length := 0
			for _, step := range reply.Steps {
				switch step.Do {
				case Body:
					length += len(step.Bytes)
				case Echo:
					events, _ := ReadEvents(request.Body)
					length += len(echo(events))
				}
			}
			header = append(header, Field{"Content-Length", strconv.Itoa(length)})
		}
		reason := reply.Reason
		if reason == "" {
			reason = http.StatusText(reply.Status)
		}
		fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\n%s\r\n", reply.Status, reason, header.wire())
	}
	for _, step := range reply.Steps {
		switch step.Do {
		case Body:
			head()
			if request.Method != "HEAD" {
				conn.Write(step.Bytes)
			}
		case Chunk:
			head()
			fmt.Fprintf(conn, "%x\r\n%s\r\n", len(step.Bytes), step.Bytes)
		case Raw:
			headed = true
			conn.Write(step.Bytes)
		case Echo:
			events, err := ReadEvents(request.Body)
			if err != nil {
				return false
			}
			head()
			conn.Write(echo(events))
		case Pause:
			time.Sleep(step.Wait) // the script asks for a slow origin
		case Gate:
			o.mu.Lock()
			gate := o.gateLocked(step.Gate)
			o.mu.Unlock()
			<-gate
		case Cut:
			reset(raw)
			return false
		case Hangup:
			return false
		case Silence:
			io.Copy(io.Discard, r)
			return false
		case Upgrade:
			fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n%s\r\n",
				acceptKey(request.Header.Get("Sec-WebSocket-Key")), reply.Header.wire())
			step.Socket.serve(conn, raw, r, request.Header)
			return false
		}
	}
	head()
	if chunked {
		io.WriteString(conn, "0\r\n\r\n")
	}
	return !strings.EqualFold(reply.Header.Get("Connection"), "close")
}

// reset closes conn so that its peer sees a reset, not an end.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}
