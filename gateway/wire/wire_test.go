package wire_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/wire"
)

const patience = 20 * time.Second

// recorder is a Handler that remembers.
type recorder struct {
	mu     sync.Mutex
	data   bytes.Buffer
	more   chan struct{}
	closed chan error
	onData func(c *wire.Conn, p []byte)
}

func newRecorder() *recorder {
	return &recorder{more: make(chan struct{}, 100), closed: make(chan error, 10)}
}

func (r *recorder) Data(c *wire.Conn, p []byte) {
	r.mu.Lock()
	r.data.Write(p)
	r.mu.Unlock()
	if r.onData != nil {
		r.onData(c, p)
	}
	select {
	case r.more <- struct{}{}:
	default:
	}
}

func (r *recorder) Closed(c *wire.Conn, err error) { r.closed <- err }

func (r *recorder) waitData(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		r.mu.Lock()
		got := r.data.String()
		r.mu.Unlock()
		if got == want {
			return
		}
		select {
		case <-r.more:
		case <-deadline:
			t.Fatalf("data: got %q, want %q", got, want)
		}
	}
}

func (r *recorder) waitClosed(t *testing.T, want error) {
	t.Helper()
	select {
	case err := <-r.closed:
		if !errors.Is(err, want) {
			t.Fatalf("closed: got %v, want %v", err, want)
		}
	case <-time.After(patience):
		t.Fatalf("not closed, want %v", want)
	}
}

func newGroup(t *testing.T, opts wire.GroupOptions) *wire.Group {
	t.Helper()
	group, err := wire.NewGroup(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(group.Close)
	return group
}

// tcpPair returns both ends of a TCP connection.
func tcpPair(t *testing.T) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return server, client
}

// pipePair is a connection that cannot be polled.
func pipePair(t *testing.T) (server, client net.Conn) {
	t.Helper()
	server, client = net.Pipe()
	t.Cleanup(func() { client.Close() })
	return server, client
}

func eachKind(t *testing.T, test func(t *testing.T, pair func(*testing.T) (net.Conn, net.Conn))) {
	t.Run("polled", func(t *testing.T) { test(t, tcpPair) })
	t.Run("blocking", func(t *testing.T) { test(t, pipePair) })
}

func readString(t *testing.T, nc net.Conn, want string) {
	t.Helper()
	nc.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, len(want))
	if _, err := io.ReadFull(nc, got); err != nil || string(got) != want {
		t.Fatalf("read: got %q, %v; want %q", got, err, want)
	}
}

func TestWhatIsSentBeforeStartFollowsTheHead(t *testing.T) {
	eachKind(t, func(t *testing.T, pair func(*testing.T) (net.Conn, net.Conn)) {
		group := newGroup(t, wire.GroupOptions{})
		server, client := pair(t)
		h := newRecorder()
		c, err := group.Adopt(server, wire.Options{Handler: h})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Send([]byte("item")); err != nil {
			t.Fatal(err)
		}
		c.Start([]byte("head,"))
		readString(t, client, "head,item")
		if err := c.Send([]byte("more")); err != nil {
			t.Fatal(err)
		}
		readString(t, client, "more")
		io.WriteString(client, "hello")
		h.waitData(t, "hello")
		client.Close()
		h.waitClosed(t, io.EOF)
		if err := c.Send([]byte("x")); err != wire.ErrClosed {
			t.Fatalf("Send after the end: got %v, want %v", err, wire.ErrClosed)
		}
	})
}

func TestCloseWritesWhatWaitsFirst(t *testing.T) {
	eachKind(t, func(t *testing.T, pair func(*testing.T) (net.Conn, net.Conn)) {
		group := newGroup(t, wire.GroupOptions{QueueBytes: 64 << 20})
		server, client := pair(t)
		h := newRecorder()
		c, _ := group.Adopt(server, wire.Options{Handler: h})
		c.Start(nil)
		piece := bytes.Repeat([]byte("0123456789"), 10_000)
		for range 200 {
			if err := c.Send(piece); err != nil {
				t.Fatal(err)
			}
		}
		c.Close([]byte("bye"))
		client.SetReadDeadline(time.Now().Add(patience))
		got, err := io.ReadAll(client)
		if err != nil {
			t.Fatal(err)
		}
		if want := 200*len(piece) + 3; len(got) != want || !bytes.HasSuffix(got, []byte("bye")) {
			t.Fatalf("got %d bytes, want %d ending in bye", len(got), want)
		}
		client.Close()
		h.waitClosed(t, wire.ErrClosed)
	})
}

func TestSlowClientIsToldApartWithoutBlocking(t *testing.T) {
	eachKind(t, func(t *testing.T, pair func(*testing.T) (net.Conn, net.Conn)) {
		group := newGroup(t, wire.GroupOptions{QueueBytes: 100_000, StallMax: 100 * time.Millisecond})
		server, _ := pair(t)
		h := newRecorder()
		c, _ := group.Adopt(server, wire.Options{Handler: h})
		c.Start(nil)
		piece := make([]byte, 10_000)
		var err error
		for range 10_000 {
			if err = c.Send(piece); err != nil {
				break
			}
		}
		if err != wire.ErrSlow {
			t.Fatalf("got %v, want %v", err, wire.ErrSlow)
		}
		if q := c.Queued(); q > 100_000 {
			t.Fatalf("%d bytes are queued, the limit is 100000", q)
		}
		h.waitClosed(t, wire.ErrStalled)
	})
}

func TestCloseNowKeepsOnlyTheRestOfWhatIsHalfWritten(t *testing.T) {
	group := newGroup(t, wire.GroupOptions{QueueBytes: 50 << 20})
	server, client := tcpPair(t)
	h := newRecorder()
	c, _ := group.Adopt(server, wire.Options{Handler: h})
	c.Start(nil)
	var sent int
	piece := bytes.Repeat([]byte("a"), 1_000_001)
	for c.Queued() < 5_000_000 {
		c.Send(piece)
		sent++
	}
	c.CloseNow([]byte("bye"))
	client.SetReadDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(client)
	if err != nil {
		t.Fatal(err)
	}
	whole := len(got) - 3
	if whole%len(piece) != 0 || whole/len(piece) >= sent || !bytes.HasSuffix(got, []byte("abye")) {
		t.Fatalf("got %d bytes: want whole pieces of %d, fewer than %d, then bye", len(got), len(piece), sent)
	}
}

func TestEndingWhileSendingIsHarmless(t *testing.T) {
	eachKind(t, func(t *testing.T, pair func(*testing.T) (net.Conn, net.Conn)) {
		group := newGroup(t, wire.GroupOptions{QueueBytes: 1 << 20})
		piece := make([]byte, 5000)
		for i := range 200 {
			server, client := pair(t)
			h := newRecorder()
			c, err := group.Adopt(server, wire.Options{Handler: h})
			if err != nil {
				t.Fatal(err)
			}
			c.Start(nil)
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					for c.Send(piece) != wire.ErrClosed {
					}
				})
			}
			wg.Go(func() { io.CopyN(io.Discard, client, int64(1000*i)); io.Copy(io.Discard, client) })
			switch i % 3 {
			case 0:
				client.Close()
			case 1:
				c.CloseNow([]byte("bye"))
				client.Close()
			case 2:
				c.Abort()
				client.Close()
			}
			wg.Wait()
			select {
			case <-h.closed:
			case <-time.After(patience):
				t.Fatal("Closed was not called")
			}
		}
	})
}

func TestConcurrentSendsStayWhole(t *testing.T) {
	eachKind(t, func(t *testing.T, pair func(*testing.T) (net.Conn, net.Conn)) {
		group := newGroup(t, wire.GroupOptions{QueueBytes: 64 << 20})
		server, client := pair(t)
		c, _ := group.Adopt(server, wire.Options{Handler: newRecorder()})
		c.Start(nil)
		const senders, each = 8, 500
		var wg sync.WaitGroup
		for s := range senders {
			wg.Go(func() {
				for i := range each {
					line := fmt.Sprintf("%d %d %s\n", s, i, strings.Repeat("x", 300))
					if err := c.Send([]byte(line)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		next := make([]int, senders)
		scanner := bufio.NewScanner(client)
		client.SetReadDeadline(time.Now().Add(patience))
		for range senders * each {
			if !scanner.Scan() {
				t.Fatal(scanner.Err())
			}
			var s, i int
			var rest string
			if _, err := fmt.Sscanf(scanner.Text(), "%d %d %s", &s, &i, &rest); err != nil || len(rest) != 300 {
				t.Fatalf("mixed up: %q", scanner.Text())
			}
			if i != next[s] {
				t.Fatalf("sender %d: got %d, want %d", s, i, next[s])
			}
			next[s]++
		}
		wg.Wait()
	})
}

func TestPausedConnectionIsReadAfterResume(t *testing.T) {
	eachKind(t, func(t *testing.T, pair func(*testing.T) (net.Conn, net.Conn)) {
		group := newGroup(t, wire.GroupOptions{})
		server, client := pair(t)
		h := newRecorder()
		h.onData = func(c *wire.Conn, p []byte) { c.Pause() }
		c, _ := group.Adopt(server, wire.Options{Handler: h})
		c.Start(nil)
		io.WriteString(client, "one")
		h.waitData(t, "one")
		go io.WriteString(client, "two")
		time.Sleep(50 * time.Millisecond) // nothing may come, and nothing tells
		h.waitData(t, "one")
		c.Resume()
		h.waitData(t, "onetwo")
		go client.Close()
		c.Resume()
		h.waitClosed(t, io.EOF)
	})
}

func TestReleasedConnectionServesTheNextRequest(t *testing.T) {
	group := newGroup(t, wire.GroupOptions{})
	h := newRecorder()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := wire.Listen(inner)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/hold" {
			fmt.Fprintf(w, "plain %s", r.URL.Path)
			return
		}
		nc, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		buffered, _ := rw.Reader.Peek(rw.Reader.Buffered())
		c, err := group.Adopt(nc, wire.Options{Handler: h, Unread: true, Buffered: buffered})
		if err != nil {
			t.Error(err)
			return
		}
		release := func() { c.Release([]byte("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nheld"), l) }
		switch r.URL.RawQuery { // somebody may have it end before it has begun
		case "before":
			release()
		case "meanwhile":
			go release()
		default:
			defer release()
		}
		c.Start(nil)
	})}
	go server.Serve(l)
	defer server.Close()

	client, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	client.SetDeadline(time.Now().Add(patience))
	br := bufio.NewReader(client)
	for i := range 60 {
		hold := "GET /hold?" + []string{"after", "before", "meanwhile"}[i%3] + " HTTP/1.1\r\nHost: x\r\n\r\n"
		next := fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: x\r\n\r\n", i)
		if i%2 == 0 {
			// The second request is sent before the first is answered.
			hold, next = hold+next, ""
		}
		io.WriteString(client, hold)
		for _, want := range []string{"held", fmt.Sprintf("plain /%d", i)} {
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			if string(body) != want {
				t.Fatalf("got %q, want %q", body, want)
			}
			io.WriteString(client, next)
			next = ""
		}
	}
}

func TestHeldResponseNoticesThatItsClientLeft(t *testing.T) {
	group := newGroup(t, wire.GroupOptions{})
	server, client := tcpPair(t)
	h := newRecorder()
	c, _ := group.Adopt(server, wire.Options{Handler: h, Unread: true})
	c.Start([]byte("head"))
	readString(t, client, "head")
	io.WriteString(client, "pipelined")
	client.Close()
	h.waitClosed(t, io.EOF)
}

func TestTLSConnectionIsKept(t *testing.T) {
	group := newGroup(t, wire.GroupOptions{})
	h := newRecorder()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nc, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		h.onData = func(c *wire.Conn, p []byte) { c.Send(append([]byte(nil), p...)) }
		c, _ := group.Adopt(nc, wire.Options{Handler: h})
		c.Start([]byte("hello"))
	}))
	defer server.Close()
	client, err := tls.Dial("tcp", server.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	readString(t, client, "hello")
	io.WriteString(client, "echo")
	readString(t, client, "echo")
	client.Close()
	h.waitClosed(t, io.EOF)
}

func TestHTTP2ResponseIsKept(t *testing.T) {
	group := newGroup(t, wire.GroupOptions{})
	h := newRecorder()
	conns := make(chan *wire.Conn, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		c := group.Respond(w, r, wire.Options{Handler: h, Unread: true})
		c.Start([]byte("first"))
		conns <- c
		c.Wait()
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	resp, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if resp.ProtoMajor != 2 {
		t.Fatalf("got HTTP/%d, want 2", resp.ProtoMajor)
	}
	c := <-conns
	c.Send([]byte(" second"))
	c.Close([]byte(" last"))
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "first second last" {
		t.Fatalf("got %q, %v", body, err)
	}
	h.waitClosed(t, wire.ErrClosed)
}

func TestIdleConnectionCostsNoGoroutineAndUnder256Bytes(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("connections are polled on Linux only")
	}
	if size := wire.ConnBytes; size > 256 {
		t.Errorf("a Conn takes %d bytes, want at most 256", size)
	}
	group := newGroup(t, wire.GroupOptions{})
	server, client := tcpPair(t)
	c, err := group.Adopt(server, wire.Options{Handler: newRecorder(), Unread: true})
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	c.Start([]byte("head"))
	readString(t, client, "head")
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines before, %d after", before, after)
	}
	item := []byte("item")
	if allocs := testing.AllocsPerRun(100, func() { c.Send(item) }); allocs > 0 {
		t.Errorf("Send allocates %v times, want 0", allocs)
	}
}

func TestTimersFireInOrderAndStop(t *testing.T) {
	var timers wire.Timers
	fired := make(chan int, 10)
	mk := func(n int) *wire.Timer { return timers.New(func() { fired <- n }) }
	a, b, c, d := mk(1), mk(2), mk(3), mk(4)
	c.Set(30 * time.Millisecond)
	a.Set(10 * time.Millisecond)
	b.Set(time.Hour)
	b.Set(20 * time.Millisecond)
	d.Set(5 * time.Millisecond)
	d.Stop()
	for want := 1; want <= 3; want++ {
		select {
		case got := <-fired:
			if got != want {
				t.Fatalf("got %d, want %d", got, want)
			}
		case <-time.After(patience):
			t.Fatalf("timer %d did not fire", want)
		}
	}
	select {
	case got := <-fired:
		t.Fatalf("timer %d fired", got)
	case <-time.After(20 * time.Millisecond):
	}
}

func BenchmarkSend(b *testing.B) {
	group, err := wire.NewGroup(wire.GroupOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer group.Close()
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	defer l.Close()
	client, _ := net.Dial("tcp", l.Addr().String())
	server, _ := l.Accept()
	go io.Copy(io.Discard, client)
	c, _ := group.Adopt(server, wire.Options{Handler: newRecorder()})
	c.Start(nil)
	frame := make([]byte, 102)
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Send(frame); err != nil && err != wire.ErrSlow {
			b.Fatal(err)
		}
	}
	client.Close()
}
