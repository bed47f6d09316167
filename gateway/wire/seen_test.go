package wire_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/gripway/gripway/gateway/wire"
)

// seer is a server whose handlers know what their clients said.
type seer struct {
	addr     string
	server   *http.Server
	unserved *wire.Unserved
	served   chan error // takes what Serve returned

	mu  sync.Mutex
	log bytes.Buffer
}

// certificates are of a server for tests.
var certificates = sync.OnceValue(func() []tls.Certificate {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	return server.TLS.Certificates
})

func newSeer(t testing.TB, secure bool, handler http.HandlerFunc, adapt ...func(*http.Server)) *seer {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &seer{addr: inner.Addr().String(), unserved: &wire.Unserved{}, served: make(chan error, 1)}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s.server = &http.Server{
		Handler: s.unserved.Handler(handler), Protocols: &protocols, ConnState: s.unserved.State,
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			return wire.ContextSeen(s.unserved.Context(ctx, nc), nc)
		},
		HTTP2:     &http.HTTP2Config{MaxConcurrentStreams: 1000, MaxDecoderHeaderTableSize: wire.HeaderTableBytes},
		ErrorLog:  log.New(s, "", 0),
		TLSConfig: &tls.Config{Certificates: certificates()},
	}
	for _, adapt := range adapt {
		adapt(s.server)
	}
	listener := wire.Listen(inner)
	go func() {
		if secure {
			s.served <- wire.ServeTLS(s.server, listener)
		} else {
			s.served <- s.server.Serve(listener)
		}
	}()
	t.Cleanup(func() {
		s.server.Close()
		if err := <-s.served; err != http.ErrServerClosed {
			t.Errorf("serving ended: %v", err)
		}
	})
	return s
}

// Write takes the server's log.
func (s *seer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

func (s *seer) waitLog(t *testing.T, want string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		got := s.log.String()
		s.mu.Unlock()
		if strings.Contains(got, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("log: got %q, want %q", got, want)
		}
	}
}

// dial connects, with TLS if protocol is not empty.
func (s *seer) dial(t testing.TB, config *tls.Config) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	if config != nil {
		config.InsecureSkipVerify = true
		nc = tls.Client(nc, config)
	}
	nc.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { nc.Close() })
	return nc
}

// says answers with the header's lines as they were sent, by blanks; a line that is
// not known is a question mark.
func says(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	lines := wire.HeadFrom(r)
	if lines == nil {
		io.WriteString(w, "?")
	}
	var texts []string
	for _, line := range lines {
		texts = append(texts, line.Name+"="+line.Value)
	}
	io.WriteString(w, strings.Join(texts, " "))
}

// peer is an HTTP/2 client that sends what it is told to.
type peer struct {
	t       testing.TB
	nc      net.Conn
	framer  *http2.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder
	answers map[uint32]*answered
}

type answered struct {
	status string
	body   []byte
	ended  bool
}

// newPeer begins the conversation, with settings that ask for nothing.
func newPeer(t testing.TB, nc net.Conn) *peer {
	t.Helper()
	p := rawPeer(t, nc, nc)
	io.WriteString(nc, http2.ClientPreface)
	p.framer.WriteSettings()
	return p
}

// rawPeer has not said anything yet, and will to to.
func rawPeer(t testing.TB, nc net.Conn, to io.Writer) *peer {
	p := &peer{t: t, nc: nc, framer: http2.NewFramer(to, nc), answers: make(map[uint32]*answered)}
	p.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.encoder = hpack.NewEncoder(&p.block)
	return p
}

// encode is a header block of fields by ": ", pseudo-headers first.
func (p *peer) encode(fields ...string) []byte {
	p.block.Reset()
	for _, field := range fields {
		at := 1 + strings.Index(field[1:], ":")
		p.encoder.WriteField(hpack.HeaderField{Name: field[:at], Value: strings.TrimPrefix(field[at+1:], " ")})
	}
	return p.block.Bytes()
}

// get is the pseudo-headers of a request, and more fields.
func get(path string, fields ...string) []string {
	return append([]string{":method: GET", ":authority: example.com", ":scheme: https", ":path: " + path}, fields...)
}

func (p *peer) ask(id uint32, fields ...string) {
	p.t.Helper()
	if err := p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.encode(fields...), EndHeaders: true, EndStream: true}); err != nil {
		p.t.Fatal(err)
	}
}

// answer waits for that of a stream.
func (p *peer) answer(id uint32) *answered {
	p.t.Helper()
	for {
		if a := p.answers[id]; a != nil && a.ended {
			return a
		}
		if err := p.read(); err != nil {
			p.t.Fatalf("stream %d: %v", id, err)
		}
	}
}

// read reads a frame.
func (p *peer) read() error {
	frame, err := p.framer.ReadFrame()
	if err != nil {
		return err
	}
	id := frame.Header().StreamID
	a := p.answers[id]
	if a == nil {
		a = &answered{}
		p.answers[id] = a
	}
	switch frame := frame.(type) {
	case *http2.SettingsFrame:
		if !frame.IsAck() {
			p.framer.WriteSettingsAck()
		}
	case *http2.MetaHeadersFrame:
		a.status = frame.PseudoValue("status")
		a.ended = frame.StreamEnded()
	case *http2.DataFrame:
		a.body = append(a.body, frame.Data()...)
		a.ended = frame.StreamEnded()
	case *http2.RSTStreamFrame:
		a.status, a.ended = frame.ErrCode.String(), true
	case *http2.GoAwayFrame:
		return fmt.Errorf("GOAWAY %s", frame.ErrCode)
	}
	return nil
}

// want wants that answer of a stream.
func (p *peer) want(id uint32, want string) {
	p.t.Helper()
	if a := p.answer(id); a.status != "200" || string(a.body) != want {
		p.t.Errorf("stream %d: got %s %.200q, want %.200q", id, a.status, a.body, want)
	}
}

// h2 is TLS that agrees on HTTP/2.
func h2() *tls.Config { return &tls.Config{NextProtos: []string{"h2"}} }

func TestHeadersAreSeenInOrderOverEachProtocol(t *testing.T) {
	for _, secure := range []bool{false, true} {
		s := newSeer(t, secure, says)
		var one, two *tls.Config
		if secure {
			one, two = &tls.Config{}, h2()
		}
		t.Run(fmt.Sprintf("HTTP/1.1, TLS %t", secure), func(t *testing.T) {
			nc := s.dial(t, one)
			answers := bufio.NewReader(nc)
			for range 2 {
				io.WriteString(nc, "GET /a HTTP/1.1\r\nx-B: 1\r\nHOST: x\r\nX-a:2\r\nCookie: a\r\nx-b:  3 \r\nCookie: b\r\n\r\n")
				response, err := http.ReadResponse(answers, nil)
				if err != nil {
					t.Fatal(err)
				}
				if got, _ := io.ReadAll(response.Body); string(got) != "x-B=1 HOST=x X-a=2 Cookie=a x-b=3 Cookie=b" {
					t.Errorf("got %q", got)
				}
			}
		})
		t.Run(fmt.Sprintf("HTTP/2, TLS %t", secure), func(t *testing.T) {
			p := newPeer(t, s.dial(t, two))
			// The second time the names come out of the table.
			for id := uint32(1); id < 5; id += 2 {
				p.ask(id, get("/a", "x-b: 1", "accept: */*", "x-a: 2", "cookie: a", "x-b: 3", "cookie: b")...)
				p.want(id, "x-b=1 accept=*/* x-a=2 cookie=a x-b=3 cookie=b")
			}
		})
	}
}

func TestNetHTTPsChangesDoNotHideAHeader(t *testing.T) {
	s := newSeer(t, false, says)
	p := newPeer(t, s.dial(t, nil))
	id := uint32(1)
	for _, test := range []struct {
		name   string
		fields []string
	}{
		{"no header", get("/")},
		{"an empty value", get("/", "a: ")},
		{"cookies are joined", get("/", "cookie: a=1", "x: y", "cookie: b=2")},
		{"one cookie", get("/", "cookie: a=1; b=2")},
		{"expectations are met", get("/", "expect: 100-continue", "x: y")},
		{"trailers are announced elsewhere", get("/", "trailer: x-sum, x-more", "x: y")},
		{"a host besides the authority", get("/", "host: other.example")},
		{"a host instead of the authority", []string{":method: GET", ":scheme: http", ":path: /", "host: example.com"}},
		{"a length", get("/", "content-length: 0")},
		{"names that net/http writes its own way", get("/", "dnt: 1", "www-authenticate: a", "x_y: 2")},
		{"pseudo-headers in another order", []string{":path: /?q=%20", ":scheme: https", ":authority: a:80", ":method: POST", "te: trailers"}},
		{"another method", []string{":method: MKCOL", ":scheme: https", ":path: *", ":authority: a", "b: 1"}},
		{"a tunnel", []string{":method: CONNECT", ":authority: a:80", "b: 1"}},
	} {
		var want []string
		for _, field := range test.fields {
			if field[0] != ':' {
				want = append(want, strings.Replace(field, ": ", "=", 1))
			}
		}
		p.ask(id, test.fields...)
		if a := p.answer(id); a.status != "200" || string(a.body) != strings.Join(want, " ") {
			t.Errorf("%s: got %s %q, want %q", test.name, a.status, a.body, want)
		}
		id += 2
	}
}

func TestBlocksAreReadAcrossFrames(t *testing.T) {
	s := newSeer(t, false, says)
	p := newPeer(t, s.dial(t, nil))
	long := strings.Repeat("y", 3000)
	want := "x-long=" + long + " a=1"

	block := bytes.Clone(p.encode(get("/", "x-long: "+long, "a: 1")...))
	p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:1], EndStream: true, PadLength: 7,
		Priority: http2.PriorityParam{StreamDep: 0, Weight: 3}})
	for i := 1; i < len(block); i += 100 {
		rest := block[i:min(i+100, len(block))]
		p.framer.WriteContinuation(1, i+100 >= len(block), rest)
	}
	p.want(1, want)

	// Padding and priority alone, an empty fragment, and a body with trailers.
	p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, PadLength: 255, Priority: http2.PriorityParam{StreamDep: 1, Exclusive: true}})
	p.framer.WriteContinuation(3, false, nil)
	p.framer.WriteContinuation(3, true, p.encode(append([]string{":method: POST"}, get("/", "trailer: b", "x-long: "+long)[1:]...)...))
	p.framer.WriteDataPadded(3, false, bytes.Repeat([]byte("z"), 5000), make([]byte, 9))
	p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: p.encode("b: 2"), EndHeaders: true, EndStream: true})
	p.want(3, "trailer=b x-long="+long)

	// The trailers' names are in the table now, and nobody's request.
	p.ask(5, get("/", "b: 2", "a: 1")...)
	p.want(5, "b=2 a=1")
	// Frames of types that nobody knows.
	p.framer.WriteRawFrame(0xfa, 0xff, 7, []byte("grease"))
	p.framer.WritePing(false, [8]byte{})
	p.ask(7, get("/", "a: 1", "b: 2")...)
	p.want(7, "a=1 b=2")
}

func TestBytesMayComeOneByOne(t *testing.T) {
	s := newSeer(t, true, says)
	for _, protocol := range []string{"h2", "http/1.1"} {
		nc := s.dial(t, &tls.Config{NextProtos: []string{protocol}})
		var all bytes.Buffer
		p := rawPeer(t, nc, &all)
		if protocol == "h2" {
			all.WriteString(http2.ClientPreface)
			p.framer.WriteSettings()
			p.ask(1, get("/", "b: 1", "a: 2")...)
		} else {
			all.WriteString("GET / HTTP/1.1\r\nHost: x\r\nb: 1\r\n\r\n")
		}
		for _, b := range all.Bytes() {
			if _, err := nc.Write([]byte{b}); err != nil {
				t.Fatal(err)
			}
		}
		if protocol == "h2" {
			p.want(1, "b=1 a=2")
			continue
		}
		response, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(response.Body); string(got) != "Host=x b=1" {
			t.Errorf("got %q", got)
		}
	}
}

// Requests at once that differ only in the order of their names each get an order
// that was sent; those that differ otherwise get their own.
func TestStreamsAtOnceAreToldApart(t *testing.T) {
	const n = 200
	var all sync.WaitGroup
	all.Add(2 * n)
	s := newSeer(t, true, func(w http.ResponseWriter, r *http.Request) {
		all.Done()
		all.Wait() // so that all are there before the first is asked about
		says(w, r)
	})
	p := newPeer(t, s.dial(t, h2()))
	orders := [][]string{{"a: 1", "b: 2", "c: 3"}, {"c: 3", "b: 2", "a: 1"}, {"b: 2", "a: 1", "c: 3"}, {"b: 2", "c: 3", "a: 1"}}
	want := make(map[string]int)
	for i := range uint32(n) {
		order := orders[i%4]
		p.ask(1+4*i, get("/", order...)...)
		want[strings.ReplaceAll(strings.Join(order, " "), ": ", "=")]++
		p.ask(3+4*i, get("/", append([]string{fmt.Sprint("x: ", i)}, order...)...)...)
	}
	got := make(map[string]int)
	for i := range uint32(n) {
		got[string(p.answer(1+4*i).body)]++
		p.want(3+4*i, fmt.Sprintf("x=%d ", i)+strings.ReplaceAll(strings.Join(orders[i%4], " "), ": ", "="))
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// However requests come and go at once, each that asks is told what it sent.
func TestEachOfManyRequestsIsKnown(t *testing.T) {
	s := newSeer(t, true, func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Do") {
		case "wait":
			w.WriteHeader(200)
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case "ask":
			says(w, r)
		}
	})
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	var all sync.WaitGroup
	for n := range 16 {
		all.Go(func() {
			for i := range 60 {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				do := []string{"ask", "wait", "ask", "leave"}[(n+i)%4]
				request, _ := http.NewRequestWithContext(ctx, "POST", "https://"+s.addr+"/"+fmt.Sprint(n%4), strings.NewReader(strings.Repeat("z", 1000*(i%3))))
				request.Header = http.Header{"Do": {do}, "N": {fmt.Sprint(n), fmt.Sprint(i)}}
				response, err := transport.RoundTrip(request)
				if err != nil {
					t.Error(err)
					cancel()
					return
				}
				if do == "ask" {
					got, err := io.ReadAll(response.Body)
					if want := fmt.Sprintf("n=%d n=%d", n, i); err != nil || !strings.Contains(string(got), want) {
						t.Errorf("got %q, %v; want %q in it", got, err, want)
					}
				}
				response.Body.Close()
				cancel()
			}
		})
	}
	all.Wait()
}

// The form and the first example are those of the paper that proposed it, from
// Firefox 53's frames.
func TestClientsAreToldApartByTheirFirstFrames(t *testing.T) {
	s := newSeer(t, false, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, wire.FramesFrom(r)) })
	for _, test := range []struct {
		name, frames string // hexadecimal, after the preface
		fields       []string
		want         string
	}{
		{"Firefox 53", `
			000012 04 00 00000000  0001 00010000  0004 00020000  0005 00004000
			000004 08 00 00000000  00bf0001
			000005 02 00 00000003  00000000 c8
			000005 02 00 00000005  00000000 64
			000005 02 00 00000007  00000000 00
			000005 02 00 00000009  00000007 00
			000005 02 00 0000000b  00000003 00`,
			[]string{":method: GET", ":path: /", ":authority: a", ":scheme: http"},
			"1:65536;4:131072;5:16384|12517377|3:0:0:201,5:0:0:101,7:0:0:1,9:0:7:1,11:0:3:1|m,p,a,s"},
		{"Chrome", `
			000018 04 00 00000000  0001 00010000  0002 00000000  0004 00600000  0006 00040000
			000004 08 00 00000000  00ef0001`,
			get("/"), "1:65536;2:0;4:6291456;6:262144|15663105|0|m,a,s,p"},
		{"nothing but what must be", "000000 04 00 00000000", []string{":path: /", ":method: GET", ":scheme: http"}, "|00|0|p,m,s"},
		{"settings that nobody knows; an exclusive priority; other windows", `
			00000c 04 00 00000000  0a0a ffffffff  0003 00000064
			000005 02 00 00000001  80000003 0f
			000004 08 00 00000000  00000005
			000004 08 00 00000000  00000006
			000006 04 00 00000000  0003 00000001`,
			get("/"), "2570:4294967295;3:100|5|1:1:3:16|m,a,s,p"},
	} {
		t.Run(test.name, func(t *testing.T) {
			frames, err := hex.DecodeString(strings.Join(strings.Fields(test.frames), ""))
			if err != nil {
				t.Fatal(err)
			}
			nc := s.dial(t, nil)
			p := rawPeer(t, nc, nc)
			nc.Write(append([]byte(http2.ClientPreface), frames...))
			p.ask(13, test.fields...)
			p.want(13, test.want)
			// What comes later changes nothing.
			p.framer.WritePriority(15, http2.PriorityParam{StreamDep: 1})
			p.framer.WriteWindowUpdate(0, 9)
			p.ask(17, ":scheme: http", ":path: /", ":method: GET")
			p.want(17, test.want)
		})
	}
	response, err := http.Get("http://" + s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got, _ := io.ReadAll(response.Body); len(got) > 0 {
		t.Errorf("HTTP/1.1: got %q", got)
	}
}

// What cannot be followed is unknown; the connection goes on as it would.
func TestWhatIsTooLongIsServedAndNotKnown(t *testing.T) {
	s := newSeer(t, false, says, func(server *http.Server) { server.MaxHeaderBytes = 1 << 20 })
	fields := []string{"a: 1"}
	for i := range 100 {
		fields = append(fields, fmt.Sprintf("x-%d: %s", i, strings.Repeat("y", 1000)))
	}
	for _, test := range []struct {
		name, next string // what is said of the one after
		fields     []string
	}{
		{"many fields", "b=2", fields},
		{"a long one", "?", []string{"x: " + strings.Repeat("y", 100_000)}},
	} {
		p := newPeer(t, s.dial(t, nil))
		block := bytes.Clone(p.encode(get("/", test.fields...)...))
		p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, BlockFragment: block[:100]})
		for block = block[100:]; len(block) > 16<<10; block = block[16<<10:] {
			p.framer.WriteContinuation(1, false, block[:16<<10])
		}
		p.framer.WriteContinuation(1, true, block)
		p.want(1, "?")
		p.ask(3, get("/", "b: 2")...)
		p.want(3, test.next)
	}
}

// A connection that breaks the protocol ends as it does without being seen: the
// server says why.
func TestWhatBreaksTheProtocolIsTheServersBusiness(t *testing.T) {
	for _, test := range []struct {
		name   string
		frames string // hexadecimal
		want   string
	}{
		{"a block that is no header", "000001 01 05 00000003 c0", "GOAWAY COMPRESSION_ERROR"},
		{"a block that ends too early", "000002 01 05 00000003 4005", "GOAWAY COMPRESSION_ERROR"},
		{"a continuation of nothing", "000000 09 04 00000003", "GOAWAY PROTOCOL_ERROR"},
		{"a frame within a block", "000000 01 00 00000003 000008 06 00 00000000 0000000000000000", "GOAWAY PROTOCOL_ERROR"},
		{"more padding than there is room", "000002 01 0d 00000003 0500", "RST_STREAM PROTOCOL_ERROR"},
		{"a header too short for its priority", "000001 01 25 00000003 00", "EOF"},
		{"an even stream", "000000 01 05 00000002", "GOAWAY PROTOCOL_ERROR"},
		{"a header without stream", "000000 01 05 00000000", "GOAWAY PROTOCOL_ERROR"},
		{"a frame that is too long", "ffffff 00 00 00000003", "GOAWAY FRAME_SIZE_ERROR"},
	} {
		for _, secure := range []bool{false, true} {
			s := newSeer(t, secure, says)
			var config *tls.Config
			if secure {
				config = h2()
			}
			p := newPeer(t, s.dial(t, config))
			p.ask(1, get("/", "a: 1")...)
			p.want(1, "a=1")
			frames, err := hex.DecodeString(strings.Join(strings.Fields(test.frames), ""))
			if err != nil {
				t.Fatal(err)
			}
			p.nc.Write(frames)
			for err == nil {
				if a := p.answers[3]; a != nil && a.ended {
					err = errors.New("RST_STREAM " + a.status)
					p.ask(5, get("/", "a: 1")...)
					p.want(5, "?")
					break
				}
				err = p.read()
			}
			if err.Error() != test.want {
				t.Errorf("%s, TLS %t: got %v, want %s", test.name, secure, err, test.want)
			}
		}
	}
}

// Nothing is kept of requests that were answered, whether somebody asked about them,
// nobody did, or their client has gone.
func TestNothingIsKeptOfRequestsThatAreOver(t *testing.T) {
	s := newSeer(t, false, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/known":
			says(w, r)
		case "/wait":
			<-r.Context().Done()
		case "/kept":
			streams, size := wire.StreamsUnder(r)
			fmt.Fprint(w, streams, " ", size)
		}
	})
	p := newPeer(t, s.dial(t, nil))
	id := uint32(1)
	for range 20 {
		p.ask(id, get("/known", "a: 1")...)
		p.ask(id+2, get("/unasked", "a: 1")...)
		p.ask(id+4, get("/wait", "a: 1")...)
		p.framer.WriteRSTStream(id+4, http2.ErrCodeCancel)
		p.want(id, "a=1")
		p.want(id+2, "")
		id += 6
	}
	p.ask(id, get("/kept")...)
	p.want(id, "1 181") // itself
}

// A client that has many requests wait at once has the first not known, and no more
// memory than there is for them.
func TestRequestsThatWaitAreBounded(t *testing.T) {
	hold := make(chan struct{})
	s := newSeer(t, false, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/kept" {
			streams, size := wire.StreamsUnder(r)
			fmt.Fprint(w, streams, " ", size <= 256<<10)
			close(hold)
			return
		}
		<-hold
		io.WriteString(w, fmt.Sprint(wire.HeadFrom(r) != nil))
	})
	p := newPeer(t, s.dial(t, nil))
	const n = 100
	for i := range uint32(n) {
		p.ask(1+2*i, get(fmt.Sprint("/", i), "x: "+strings.Repeat("y", 4000))...)
	}
	p.ask(1+2*n, get("/kept")...)
	p.want(1+2*n, fmt.Sprint(n+1, " ", true))
	known := 0
	for i := range uint32(n) {
		if string(p.answer(1+2*i).body) == "true" {
			known++
			if i < n/3 {
				t.Errorf("request %d is known", i)
			}
		}
	}
	if known < n/2 {
		t.Errorf("got %d of %d known", known, n)
	}
}

func TestTLSIsServedAsNetHTTPDoes(t *testing.T) {
	var seen sync.Map // states by protocol
	handler := func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.Proto, r.TLS)
		switch r.URL.Path {
		case "/hints":
			w.Header().Set("Link", "</a>")
			w.WriteHeader(http.StatusEarlyHints)
		case "/hijack":
			nc, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer nc.Close()
			io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
			io.CopyN(nc, rw, 4)
			nc.(interface{ CloseWrite() error }).CloseWrite()
			io.Copy(io.Discard, nc)
			return
		}
		says(w, r)
	}

	for _, test := range []struct {
		name   string
		config *tls.Config
		proto  string
	}{
		{"HTTP/2", &tls.Config{NextProtos: []string{"h2", "http/1.1"}}, "HTTP/2.0"},
		{"HTTP/2 over TLS 1.2", &tls.Config{NextProtos: []string{"h2"}, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}}, "HTTP/2.0"},
		{"HTTP/1.1 by name", &tls.Config{NextProtos: []string{"http/1.1"}}, "HTTP/1.1"},
		{"HTTP/1.1 without agreement", &tls.Config{}, "HTTP/1.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSeer(t, true, handler)
			nc := s.dial(t, test.config).(*tls.Conn)
			if err := nc.Handshake(); err != nil {
				t.Fatal(err)
			}
			if test.proto == "HTTP/2.0" {
				p := newPeer(t, nc)
				p.ask(1, get("/hints", "b: 1", "a: 2")...)
				p.want(1, "b=1 a=2")
			} else {
				io.WriteString(nc, "GET /hints HTTP/1.1\r\nhost: x\r\nb: 1\r\n\r\nGET /hijack HTTP/1.1\r\nHost: x\r\n\r\necho")
				br := bufio.NewReader(nc)
				for _, want := range []int{103, 200, 101} {
					response, err := http.ReadResponse(br, nil)
					if err != nil || response.StatusCode != want {
						t.Fatalf("got %v, %v; want %d", response, err, want)
					}
					if body, _ := io.ReadAll(io.LimitReader(response.Body, response.ContentLength)); want == 200 && string(body) != "host=x b=1" {
						t.Errorf("got %q", body)
					}
				}
				if rest, err := io.ReadAll(br); err != nil || string(rest) != "echo" {
					t.Errorf("got %q, %v after the takeover, want echo and the end", rest, err)
				}
			}
			state, _ := seen.Load(test.proto)
			got, want := state.(*tls.ConnectionState), nc.ConnectionState()
			if got == nil || !got.HandshakeComplete || got.Version != want.Version || got.CipherSuite != want.CipherSuite || got.NegotiatedProtocol != want.NegotiatedProtocol {
				t.Errorf("got %+v, want that of %+v", got, want)
			}
		})
	}
}

// What is agreed on in TLS is what is spoken.
func TestProtocolsThatWereNotAgreedOnAreNotSpoken(t *testing.T) {
	for _, test := range []struct {
		name   string
		config *tls.Config
		said   string
		want   string // of the answer's beginning; empty: it only ends
	}{
		{"HTTP/2 to HTTP/1.1", &tls.Config{NextProtos: []string{"http/1.1"}}, http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00", "HTTP/1.1 400 Bad Request\r\n"},
		{"HTTP/2 to nothing", &tls.Config{}, http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00", "HTTP/1.1 400 Bad Request\r\n"},
		{"HTTP/1.1 to HTTP/2", h2(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n", ""},
		{"almost HTTP/2 to HTTP/2", h2(), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r!", "HTTP/1.1 400"},
	} {
		s := newSeer(t, true, func(w http.ResponseWriter, r *http.Request) {
			t.Errorf("%s: a handler has %s %s", test.name, r.Method, r.Proto)
		})
		nc := s.dial(t, test.config)
		io.WriteString(nc, test.said)
		got, err := io.ReadAll(nc)
		if err != nil && !errors.Is(err, syscall.ECONNRESET) || !strings.HasPrefix(string(got), test.want) || test.want == "" && len(got) > 0 {
			t.Errorf("%s: got %q, %v, want %q", test.name, got, err, test.want)
		}
	}
}

func TestHandshakesThatFail(t *testing.T) {
	s := newSeer(t, true, says)
	malformed := make(chan wire.Refusal, 10)
	s.unserved.Refused = func(r wire.Refusal) { malformed <- r }

	nc := s.dial(t, nil)
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if got, _ := io.ReadAll(nc); string(got) != "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n" {
		t.Errorf("HTTP without TLS: got %q", got)
	}
	s.waitLog(t, fmt.Sprintf("http: TLS handshake error from %s: client sent an HTTP request to an HTTPS server", nc.LocalAddr()))

	for _, test := range []struct {
		name   string
		config *tls.Config
		log    string
	}{
		{"another protocol", &tls.Config{NextProtos: []string{"h3"}}, "client requested unsupported application protocols"},
		{"an old version", &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}, "client offered only unsupported versions"},
	} {
		nc := s.dial(t, test.config).(*tls.Conn)
		if err := nc.Handshake(); err == nil {
			t.Errorf("%s: the handshake went well", test.name)
		}
		s.waitLog(t, fmt.Sprintf("http: TLS handshake error from %s: tls: %s", nc.LocalAddr(), test.log))
	}

	select {
	case r := <-malformed:
		t.Errorf("counted as a malformed request: %+v", r)
	default:
	}
	// Over TLS, too, it is known what was wrong with a request.
	nc = s.dial(t, &tls.Config{})
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n bad\r\n\r\n")
	io.ReadAll(nc)
	select {
	case r := <-malformed:
		if r.Client.String() != nc.LocalAddr().String() || r.Sent != "GET / HTTP/1.1" || r.Why == "" {
			t.Errorf("got %+v", r)
		}
	case <-time.After(patience):
		t.Error("a malformed request is not told")
	}
}

// A client has so long for its handshake and its first request's header together.
func TestClientsThatSayNothingInTLSAreClosed(t *testing.T) {
	s := newSeer(t, true, says, func(server *http.Server) { server.ReadHeaderTimeout = 2 * time.Second })
	nc := s.dial(t, nil)
	io.WriteString(nc, "\x16\x03\x01") // and nothing more
	if got, err := io.ReadAll(nc); len(got) > 0 || err != nil {
		t.Errorf("silence: got %q, %v, want the end", got, err)
	}
	s.waitLog(t, fmt.Sprintf("http: TLS handshake error from %s: read tcp", nc.LocalAddr()))

	// The handshake is over; the request does not come.
	secure := s.dial(t, h2()).(*tls.Conn)
	if err := secure.Handshake(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(secure); len(got) > 0 || err != nil {
		t.Errorf("silence in TLS: got %q, %v, want the end", got, err)
	}
}

// RFC 9113, section 9.2: ciphers that HTTP/2 must not have.
func TestHTTP2WantsGoodCiphers(t *testing.T) {
	s := newSeer(t, true, says)
	config := h2()
	config.MaxVersion, config.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}
	p := newPeer(t, s.dial(t, config))
	if err := p.read(); err == nil || err.Error() != "GOAWAY INADEQUATE_SECURITY" {
		t.Errorf("got %v", err)
	}
	s.waitLog(t, "HTTP/2 over TLS 1.2 with TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA")
	config.NextProtos = []string{"http/1.1"}
	nc := s.dial(t, config)
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if response, err := http.ReadResponse(bufio.NewReader(nc), nil); err != nil || response.StatusCode != 200 {
		t.Errorf("HTTP/1.1: got %v, %v", response, err)
	}
}

func TestClientCertificatesAreKnown(t *testing.T) {
	subjects := make(chan int, 1)
	s := newSeer(t, true, func(w http.ResponseWriter, r *http.Request) { subjects <- len(r.TLS.PeerCertificates) }, func(server *http.Server) {
		server.TLSConfig.ClientAuth = tls.RequireAnyClientCert
	})
	for _, protocols := range [][]string{nil, {"h2"}} {
		client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: protocols != nil,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: certificates(), NextProtos: protocols}}}
		response, err := client.Get("https://" + s.addr)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		client.CloseIdleConnections()
		if n := <-subjects; n != 1 {
			t.Errorf("%s: got %d certificates, want 1", response.Proto, n)
		}
	}
	nc := s.dial(t, &tls.Config{})
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := io.ReadAll(nc); err == nil {
		t.Error("a client without a certificate got an answer")
	}
	s.waitLog(t, "tls: client didn't provide a certificate")
}

// Shutdown and Unserved see these connections as others.
func TestSeenConnectionsEndWithTheirServer(t *testing.T) {
	under := make(chan struct{}, 2)
	goOn := make(chan struct{})
	s := newSeer(t, true, func(w http.ResponseWriter, r *http.Request) {
		under <- struct{}{}
		<-goOn
		says(w, r)
	})
	silent := s.dial(t, nil) // has not shaken hands
	shaken := s.dial(t, h2()).(*tls.Conn)
	if err := shaken.Handshake(); err != nil {
		t.Fatal(err)
	}
	p := newPeer(t, s.dial(t, h2()))
	p.ask(1, get("/", "a: 1")...)
	one := s.dial(t, &tls.Config{})
	io.WriteString(one, "GET / HTTP/1.1\r\nb: 1\r\nHost: x\r\n\r\n")
	<-under
	<-under
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		done <- s.server.Shutdown(ctx)
	}()
	s.unserved.Close()
	for _, nc := range []net.Conn{silent, shaken} {
		if _, err := io.ReadAll(nc); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v, want the end", err)
		}
	}
	close(goOn)
	for p.answers[1] == nil || !p.answers[1].ended {
		if err := p.read(); err != nil && err.Error() != "GOAWAY NO_ERROR" {
			t.Fatal(err)
		}
	}
	p.want(1, "a=1")
	response, err := http.ReadResponse(bufio.NewReader(one), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(response.Body); string(got) != "b=1 Host=x" {
		t.Errorf("got %q", got)
	}
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// However its bytes are cut, a conversation is understood alike.
func FuzzStreams(f *testing.F) {
	var client, server bytes.Buffer
	p := rawPeer(f, nil, &client)
	p.framer.WriteSettings(http2.Setting{ID: 1, Val: 65536}, http2.Setting{ID: 0xa0a, Val: 7})
	p.framer.WriteWindowUpdate(0, 12517377)
	p.framer.WritePriority(3, http2.PriorityParam{StreamDep: 1, Exclusive: true, Weight: 200})
	p.ask(1, get("/", "b: 1", "a: 2", "b: 3", "cookie: x", "cookie: y")...)
	block := bytes.Clone(p.encode(get("/a", "b: 1", "c: "+strings.Repeat("d", 50))...))
	p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: block[:3], PadLength: 9, Priority: http2.PriorityParam{Weight: 1}})
	p.framer.WriteContinuation(3, true, block[3:])
	p.framer.WriteDataPadded(3, false, []byte("body"), make([]byte, 5))
	p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: p.encode("e: 4"), EndHeaders: true, EndStream: true})
	p.ask(5, get("/b")...)
	p.framer.WriteRSTStream(5, http2.ErrCodeCancel)
	p.ask(7, get("/", "a: 2", "b: 1", "b: 3", "cookie: x; y")...)
	answers := http2.NewFramer(&server, nil)
	answers.WriteSettings()
	answers.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x88}, EndHeaders: true})
	answers.WriteData(1, true, []byte("hello"))
	f.Add(client.Bytes(), server.Bytes(), byte(1))
	f.Add(client.Bytes(), server.Bytes(), byte(13))
	f.Add(client.Bytes()[:client.Len()-5], []byte(nil), byte(200))
	f.Fuzz(func(t *testing.T, client, server []byte, piece byte) {
		whole := wire.Follow(client, server, max(len(client), len(server), 1))
		if got := wire.Follow(client, server, max(int(piece), 1)); got != whole {
			t.Errorf("in pieces of %d: got %s want %s", piece, got, whole)
		}
	})
}

// What is written in one go stays when the server ends the stream: a story of the
// fuzz test's first seed.
func TestFollowedStreams(t *testing.T) {
	var client, server bytes.Buffer
	p := rawPeer(t, nil, &client)
	p.framer.WriteSettings()
	p.ask(1, get("/", "b: 1", "a: 2")...)
	p.ask(3, get("/c")...)
	answers := http2.NewFramer(&server, nil)
	answers.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x88}, EndHeaders: true, EndStream: true})
	want := "lost false, last 3, |00|0|m,a,s,p\n3 &{method:GET path:/c authority:example.com lines:[] bytes:178}\n"
	if got := wire.Follow(client.Bytes(), server.Bytes(), 7); got != want {
		t.Errorf("got %s want %s", got, want)
	}
}

// BenchmarkRequest is a request over one connection with a browser's header, and its
// answer, where nobody wants to know what clients say, where it is seen, and where a
// handler asks.
func BenchmarkRequest(b *testing.B) {
	header := http.Header{
		"Accept": {"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}, "Accept-Language": {"en-US,en;q=0.5"}, "Accept-Encoding": {"gzip, deflate, br"},
		"User-Agent": {"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}, "Referer": {"https://example.com/where/it/was"}, "Cookie": {"session=0123456789abcdef0123456789abcdef; theme=dark"},
		"Sec-Fetch-Dest": {"document"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Site": {"same-origin"}, "Priority": {"u=0, i"},
	}
	for _, protocol := range []string{"http1", "h2c", "https1", "h2"} {
		secure := protocol == "https1" || protocol == "h2"
		for _, seen := range []string{"no", "yes", "asked"} {
			b.Run(protocol+"/seen="+seen, func(b *testing.B) {
				inner, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					b.Fatal(err)
				}
				listener := wire.Listen(inner)
				var unserved wire.Unserved
				var protocols http.Protocols
				protocols.SetHTTP1(true)
				protocols.SetHTTP2(secure)
				protocols.SetUnencryptedHTTP2(!secure)
				server := &http.Server{
					Handler: unserved.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if seen == "asked" && wire.HeadFrom(r) == nil {
							b.Error("the header is not known")
						}
					})),
					Protocols: &protocols, ConnState: unserved.State, ConnContext: unserved.Context, TLSConfig: &tls.Config{Certificates: certificates()},
				}
				serve := func() error { return server.Serve(listener) }
				if secure {
					serve = func() error { return server.ServeTLS(listener, "", "") }
				}
				if seen != "no" {
					server.ConnContext = func(ctx context.Context, nc net.Conn) context.Context {
						return wire.ContextSeen(unserved.Context(ctx, nc), nc)
					}
					if secure {
						serve = func() error { return wire.ServeTLS(server, listener) }
					}
				}
				go serve()
				defer server.Close()
				var clients http.Protocols
				clients.SetHTTP1(protocol == "http1" || protocol == "https1")
				clients.SetHTTP2(protocol == "h2")
				clients.SetUnencryptedHTTP2(protocol == "h2c")
				transport := &http.Transport{Protocols: &clients, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
				defer transport.CloseIdleConnections()
				scheme := "http"
				if secure {
					scheme = "https"
				}
				request, err := http.NewRequest("GET", scheme+"://"+inner.Addr().String()+"/a/path?with=query", nil)
				if err != nil {
					b.Fatal(err)
				}
				request.Header = header
				b.ReportAllocs()
				for b.Loop() {
					response, err := transport.RoundTrip(request)
					if err != nil {
						b.Fatal(err)
					}
					io.Copy(io.Discard, response.Body)
					response.Body.Close()
				}
			})
		}
	}
}
