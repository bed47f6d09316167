package origin_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/gateway/origin"
)

func TestNextTargetIsTriedIfOneCannotBeConnectedTo(t *testing.T) {
	heard := make(chan string, 1)
	up := newRawOrigin(t, func(r *rawRequest) bool {
		body := make([]byte, 5)
		io.ReadFull(r, body)
		heard <- string(body)
		return ok(r, "second")
	})
	notTLS, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer notTLS.Close()
	go func() {
		for {
			conn, err := notTLS.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
			conn.Close()
		}
	}()
	for _, c := range []struct {
		name  string
		first origin.Target
	}{
		{"it refuses", origin.Target{Addr: unused(t)}},
		{"it refuses, TLS", origin.Target{Addr: unused(t), TLS: true}},
		{"it has no TLS", origin.Target{Addr: notTLS.Addr().String(), TLS: true}},
		{"its name is unknown", origin.Target{Addr: "no-such-host.invalid:80"}},
	} {
		for _, body := range []struct {
			name string
			of   func() *http.Request
		}{
			{"in memory", func() *http.Request { return request(t, t.Context(), "POST", "http://x/", "hello") }},
			{"streamed", func() *http.Request {
				r := request(t, t.Context(), "POST", "http://x/", "hello")
				r.GetBody = nil
				return r
			}},
		} {
			t.Run(c.name+", body "+body.name, func(t *testing.T) {
				pool := newPool(t, origin.Options{Targets: []origin.Target{c.first, {Addr: up.addr}}})
				response, target, err := pool.Do(body.of())
				if err != nil {
					t.Fatalf("Do: %v", err)
				}
				if got := readAll(t, response); got != "second" || target.Addr != up.addr {
					t.Errorf("answer %q from %s", got, target)
				}
				if got := received(t, heard, "request"); got != "hello" {
					t.Errorf("second target got body %q", got)
				}
			})
		}
	}
}

func TestTargetThatAnswersWrongIsNotPassedOver(t *testing.T) {
	second := newRawOrigin(t, func(r *rawRequest) bool { return ok(r, "second") })
	for _, c := range []struct{ name, answer string }{
		{"no answer", ""},
		{"no HTTP", "HELLO\r\n\r\n"},
		{"half a head", "HTTP/1.1 200 OK\r\nContent-Le"},
		{"status below 100", "HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n"},
		{"an upgrade nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhi"},
		{"a head without end", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 1100)},
		{"hints without end", strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: <"+strings.Repeat("a", 1000)+">\r\n\r\n", 1100)},
	} {
		t.Run(c.name, func(t *testing.T) {
			first := newRawOrigin(t, func(r *rawRequest) bool { io.WriteString(r.conn, c.answer); return false })
			pool := poolOf(t, first.addr, second.addr)
			response, err := pool.RoundTrip(request(t, t.Context(), "GET", "http://x/", ""))
			if err == nil {
				t.Fatalf("answer %q", readAll(t, response))
			}
			if errors.Is(err, origin.ErrConnect) {
				t.Errorf("RoundTrip = %v: not so, something was sent", err)
			}
			if c.answer != "" && !errors.Is(err, origin.ErrAnswer) {
				t.Errorf("RoundTrip = %v, want ErrAnswer", err)
			}
		})
	}
	if n := second.connections(); n != 0 {
		t.Errorf("second target was connected to %d times", n)
	}
}

func TestAllTargetsUnreachable(t *testing.T) {
	a, b := unused(t), unused(t)
	body := &closeCounter{Reader: strings.NewReader("hello")}
	registry := metrics.New()
	pool := newPool(t, origin.Options{
		Targets: []origin.Target{{Addr: a}, {Addr: b, TLS: true}},
		Network: origin.NewNetwork(origin.NetworkOptions{Metrics: registry}),
	})
	req := request(t, t.Context(), "POST", "http://x/", "")
	req.Body, req.ContentLength = body, 5
	_, err := pool.RoundTrip(req)
	if want := fmt.Sprintf("Unable to connect to any targets. Tried: %s, %s", a, b); !errors.Is(err, origin.ErrConnect) || err.Error() != want {
		t.Errorf("RoundTrip = %v, want %q", err, want)
	}
	var sent interface{ NotSent() bool }
	if !errors.As(err, &sent) || !sent.NotSent() {
		t.Errorf("%v does not say that nothing was sent", err)
	}
	if body.closed.Load() != 1 || body.read.Load() {
		t.Errorf("body closed %d times, read %t; want once, unread", body.closed.Load(), body.read.Load())
	}
	for _, want := range []string{
		`gripway_origin_requests_total{outcome="unreachable"} 1`, `gripway_origin_requests_total{outcome="answered"} 0`,
		`gripway_origin_dial_failures_total{reason="refused"} 2`, `gripway_origin_fallbacks_total 1`,
	} {
		if got := scrape(registry); !strings.Contains(got, want+"\n") {
			t.Errorf("metrics lack %s", want)
		}
	}
}

func scrape(registry *metrics.Registry) string {
	recorder := httptest.NewRecorder()
	registry.Handler().ServeHTTP(recorder, httptest.NewRequest("GET", "/metrics", nil))
	return recorder.Body.String()
}

type closeCounter struct {
	io.Reader
	read   atomic.Bool
	closed atomic.Int32
}

func (c *closeCounter) Read(p []byte) (int, error) { c.read.Store(true); return c.Reader.Read(p) }
func (c *closeCounter) Close() error               { c.closed.Add(1); return nil }

func TestUntrustedTargetsMayNotBePrivate(t *testing.T) {
	o := newRawOrigin(t, func(r *rawRequest) bool { return ok(r, "inside") })
	_, port, _ := net.SplitHostPort(o.addr)
	for _, addr := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "127.1.2.3"} {
		for _, tls := range []bool{false, true} {
			pool := newPool(t, origin.Options{Targets: []origin.Target{{Addr: addr + ":" + port, Untrusted: true, TLS: tls}, {Addr: o.addr}}})
			_, err := pool.RoundTrip(request(t, t.Context(), "GET", "http://x/", ""))
			if !errors.Is(err, origin.ErrBlocked) || err.Error() != "Error: Origin host/IP blocked." {
				t.Errorf("%s, TLS %t: RoundTrip = %v, want it blocked", addr, tls, err)
			}
		}
	}
	if n := o.connections(); n != 0 {
		t.Errorf("%d connections were made", n)
	}
	// The same address, trusted, shares nothing with the untrusted one.
	network := origin.NewNetwork(origin.NetworkOptions{})
	trusted := newPool(t, origin.Options{Targets: []origin.Target{{Addr: o.addr}}, Network: network})
	untrusted := newPool(t, origin.Options{Targets: []origin.Target{{Addr: o.addr, Untrusted: true}}, Network: network})
	response, err := trusted.RoundTrip(request(t, t.Context(), "GET", "http://x/", ""))
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, response)
	if _, err := untrusted.RoundTrip(request(t, t.Context(), "GET", "http://x/", "")); !errors.Is(err, origin.ErrBlocked) {
		t.Errorf("untrusted after trusted: RoundTrip = %v, want it blocked", err)
	}
}

func TestTargetsAreCheckedAtOnce(t *testing.T) {
	for _, c := range []struct {
		name   string
		target origin.Target
		want   string
	}{
		{"no port", origin.Target{Addr: "example.com"}, "missing port"},
		{"no host", origin.Target{Addr: ":80"}, "host is missing"},
		{"port 0", origin.Target{Addr: "x:0"}, `"0"`},
		{"port too high", origin.Target{Addr: "x:65536"}, `"65536"`},
		{"port is a name", origin.Target{Addr: "x:http"}, `"http"`},
		{"IPv6 without brackets", origin.Target{Addr: "::1:80"}, "too many colons"},
		{"bad host", origin.Target{Addr: "x:80", Host: "a b"}, `"a b"`},
		{"certificate that is not there", origin.Target{Addr: "x:443", TLS: true, ClientCert: "no-such.pem"}, "no-such.pem"},
	} {
		_, err := origin.NewPool(origin.Options{Targets: []origin.Target{{Addr: "a:1"}, c.target}})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "target 2") {
			t.Errorf("%s: NewPool = %v, want an error that says target 2 and %s", c.name, err, c.want)
		}
	}
	if _, err := origin.NewPool(origin.Options{}); err == nil {
		t.Error("a pool without targets was made")
	}
}

func TestHostIsTheTargetsOrTheRequests(t *testing.T) {
	heads := make(chan *rawRequest, 1)
	o := newRawOrigin(t, func(r *rawRequest) bool { heads <- r; return ok(r, "") })
	for _, c := range []struct{ name, target, host, want string }{
		{"the request's", "", "example.com:7999", "example.com:7999"},
		{"the target's", "other.example", "example.com", "other.example"},
		{"neither", "", "", o.addr},
	} {
		pool := newPool(t, origin.Options{Targets: []origin.Target{{Addr: o.addr, Host: c.target}}})
		r := get("/")
		r.Host = c.host
		out, _, err := (&origin.Rules{}).Prepare(r, origin.Call{})
		if err != nil {
			t.Fatal(err)
		}
		response, err := pool.RoundTrip(out)
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, response)
		if got := received(t, heads, "request").header("Host"); got != c.want {
			t.Errorf("%s: Host %q, want %q", c.name, got, c.want)
		}
	}
}

func TestWhatCannotBeSentIsRefused(t *testing.T) {
	o := newRawOrigin(t, func(r *rawRequest) bool { return ok(r, "") })
	pool := poolOf(t, o.addr)
	for _, c := range []struct {
		name  string
		spoil func(*http.Request)
	}{
		{"method with a line end", func(r *http.Request) { r.Method = "GET /\r\nX: y" }},
		{"no method", func(r *http.Request) { r.Method = "" }},
		{"target with a space", func(r *http.Request) { r.RequestURI = "/ HTTP/1.1" }},
		{"target with a line end", func(r *http.Request) { r.RequestURI = "/\r\nX: y" }},
		{"query with a space", func(r *http.Request) { r.URL.RawQuery = "a b" }},
		{"host with a line end", func(r *http.Request) { r.Host = "x\r\nX: y" }},
		{"host of the URL", func(r *http.Request) { r.Host, r.URL.Host = "", "x\nX: y" }},
		{"header name", func(r *http.Request) { r.Header["X: y\r\nZ"] = []string{"v"} }},
		{"header value", func(r *http.Request) { r.Header["X"] = []string{"y\r\nZ: v"} }},
		{"trailer name", func(r *http.Request) { r.Trailer = http.Header{"X\r\n": nil} }},
		{"no URL", func(r *http.Request) { r.URL = nil }},
	} {
		req := request(t, t.Context(), "GET", "http://x/", "")
		c.spoil(req)
		if response, err := pool.RoundTrip(req); err == nil {
			t.Errorf("%s: sent", c.name)
			response.Body.Close()
		}
	}
	if n := o.connections(); n != 0 {
		t.Errorf("%d connections were made", n)
	}
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	o := newRawOrigin(t, func(r *rawRequest) bool {
		switch r.line() {
		case "GET /chunked HTTP/1.1":
			io.WriteString(r.conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
		case "HEAD /head HTTP/1.1":
			io.WriteString(r.conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
		case "GET /204 HTTP/1.1":
			io.WriteString(r.conn, "HTTP/1.1 204 No Content\r\n\r\n")
		case "GET /old HTTP/1.1":
			io.WriteString(r.conn, "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi")
		case "POST /post HTTP/1.1":
			io.CopyN(io.Discard, r, 5)
			return ok(r, "posted")
		default:
			return ok(r, "plain")
		}
		return true
	})
	pool := poolOf(t, o.addr)
	for _, line := range []string{"GET /", "GET /chunked", "HEAD /head", "GET /204", "GET /old", "POST /post", "GET /"} {
		method, path, _ := strings.Cut(line, " ")
		body := ""
		if method == "POST" {
			body = "hello"
		}
		req := request(t, t.Context(), method, "http://x"+path, body)
		req.GetBody = nil // so that it is streamed
		response, err := pool.RoundTrip(req)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		readAll(t, response)
		for begin := time.Now(); origin.IdleConns(pool) != 1; time.Sleep(time.Millisecond) { // the upload may end a moment later
			if time.Since(begin) > patience {
				t.Fatalf("%s: %d idle connections afterwards, want 1", line, origin.IdleConns(pool))
			}
		}
	}
	if n := o.connections(); n != 1 {
		t.Errorf("%d connections were made, want 1", n)
	}
}

func TestConnectionsAreNotUsedAgainIfSomethingIsLeft(t *testing.T) {
	o := newRawOrigin(t, func(r *rawRequest) bool {
		switch r.line() {
		case "GET /close HTTP/1.1":
			io.WriteString(r.conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")
		case "GET /more HTTP/1.1":
			io.WriteString(r.conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
		case "GET /moreof204 HTTP/1.1":
			io.WriteString(r.conn, "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
		case "GET /0 HTTP/1.1":
			io.WriteString(r.conn, "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=0\r\nContent-Length: 2\r\n\r\nhi")
		case "GET /late HTTP/1.1":
			io.WriteString(r.conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
			time.Sleep(20 * time.Millisecond) // what comes later cannot be told to come by anything
			io.WriteString(r.conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
		default:
			return ok(r, "fine")
		}
		return true
	})
	for _, path := range []string{"/close", "/more", "/moreof204", "/0", "/late"} {
		pool := poolOf(t, o.addr)
		response, err := pool.RoundTrip(request(t, t.Context(), "GET", "http://x"+path, ""))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		readAll(t, response)
		if path == "/late" {
			time.Sleep(50 * time.Millisecond)
		}
		response, err = pool.RoundTrip(request(t, t.Context(), "GET", "http://x/", ""))
		if err != nil {
			t.Fatalf("after %s: %v", path, err)
		}
		if got := readAll(t, response); got != "fine" {
			t.Errorf("after %s: the next request got %q", path, got)
		}
	}
	// A body that is not read to its end.
	pool := poolOf(t, o.addr)
	response, err := pool.RoundTrip(request(t, t.Context(), "GET", "http://x/", ""))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if n := origin.IdleConns(pool); n != 0 {
		t.Errorf("%d idle connections after a body was left unread", n)
	}
	if _, err := response.Body.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("Read after Close = %v, want an error that is not EOF", err)
	}
}

func TestIdleConnectionThatTheOriginClosedIsFoundOut(t *testing.T) {
	closed := make(chan struct{}, 10)
	o := newRawOrigin(t, func(r *rawRequest) bool {
		io.CopyN(io.Discard, r, 5)
		ok(r, "")
		closed <- struct{}{}
		return false
	})
	pool := poolOf(t, o.addr)
	for range 3 {
		// POST: it could not be sent again if it were found out too late.
		response, err := pool.RoundTrip(request(t, t.Context(), "POST", "http://x/", "hello"))
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, response)
		received(t, closed, "close")
		time.Sleep(20 * time.Millisecond) // the FIN is on its way
	}
	if n := o.connections(); n != 3 {
		t.Errorf("%d connections, want 3", n)
	}
}

func TestRequestThatMetAClosingConnectionIsSentAgainIfItIsSafe(t *testing.T) {
	// Every connection answers once and closes when it hears of a second request.
	var requests atomic.Int32
	var seen sync.Map
	o := newRawOrigin(t, func(r *rawRequest) bool {
		requests.Add(1)
		if _, before := seen.LoadOrStore(r.number, true); before {
			return false
		}
		if length := r.header("Content-Length"); length == "5" {
			io.CopyN(io.Discard, r, 5)
		}
		return ok(r, "ok")
	})
	for _, c := range []struct {
		method, body string
		again        bool
	}{{"GET", "", true}, {"HEAD", "", true}, {"GET", "hello", true}, {"POST", "hello", false}, {"DELETE", "", false}} {
		pool := poolOf(t, o.addr)
		response, err := pool.RoundTrip(request(t, t.Context(), c.method, "http://x/", c.body))
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, response)
		requests.Store(0)
		response, err = pool.RoundTrip(request(t, t.Context(), c.method, "http://x/", c.body))
		if (err == nil) != c.again {
			t.Errorf("%s %q: RoundTrip = %v, want it sent again: %t", c.method, c.body, err, c.again)
		}
		if err == nil {
			readAll(t, response)
		} else if errors.Is(err, origin.ErrConnect) {
			t.Errorf("%s: %v: not so, the origin may have seen it", c.method, err)
		}
	}
}

func TestConnectionIsGivenUpBeforeTheOriginDoes(t *testing.T) {
	o := newRawOrigin(t, func(r *rawRequest) bool {
		io.WriteString(r.conn, "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1, max=100\r\nContent-Length: 0\r\n\r\n")
		return true
	})
	pool := poolOf(t, o.addr)
	send := func() {
		response, err := pool.RoundTrip(request(t, t.Context(), "GET", "http://x/", ""))
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, response)
	}
	send()
	send()
	if n := o.connections(); n != 1 {
		t.Fatalf("%d connections at once, want 1", n)
	}
	time.Sleep(600 * time.Millisecond) // over half of the origin's second
	send()
	if n := o.connections(); n != 2 {
		t.Errorf("%d connections, want 2: the first was too old", n)
	}
}

func TestIdleConnectionsAreClosedInTime(t *testing.T) {
	gone := make(chan struct{}, 10)
	o := newRawOrigin(t, func(r *rawRequest) bool {
		ok(r, "")
		_, err := r.Peek(1)
		if err == io.EOF {
			gone <- struct{}{}
		}
		return err == nil
	})
	network := origin.NewNetwork(origin.NetworkOptions{IdleTimeout: 40 * time.Millisecond})
	pool := newPool(t, origin.Options{Targets: []origin.Target{{Addr: o.addr}}, Network: network})
	response, err := pool.RoundTrip(request(t, t.Context(), "GET", "http://x/", ""))
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, response)
	received(t, gone, "close")
	if n := origin.IdleConns(pool); n != 0 {
		t.Errorf("%d idle connections", n)
	}
}

func TestIdleConnectionsAreBounded(t *testing.T) {
	all := make(chan struct{})
	var waiting atomic.Int32
	o := newRawOrigin(t, func(r *rawRequest) bool {
		if waiting.Add(1) == 5 {
			close(all)
		}
		<-all
		return ok(r, "")
	})
	network := origin.NewNetwork(origin.NetworkOptions{IdleConnsMax: 2})
	pool := newPool(t, origin.Options{Targets: []origin.Target{{Addr: o.addr}}, Network: network})
	var requests sync.WaitGroup
	for range 5 {
		requests.Go(func() {
			response, err := pool.RoundTrip(request(t, t.Context(), "GET", "http://x/", ""))
			if err != nil {
				t.Error(err)
				return
			}
			readAll(t, response)
		})
	}
	requests.Wait()
	if n := origin.IdleConns(pool); n != 2 {
		t.Errorf("%d idle connections, want 2", n)
	}
}

func TestPoolsOfOneNetworkShareConnections(t *testing.T) {
	o := newRawOrigin(t, func(r *rawRequest) bool { return ok(r, "") })
	network := origin.NewNetwork(origin.NetworkOptions{})
	opts := origin.Options{Targets: []origin.Target{{Addr: o.addr}}, Network: network}
	before := newPool(t, opts)
	send := func(p *origin.Pool) {
		response, err := p.RoundTrip(request(t, t.Context(), "GET", "http://x/", ""))
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, response)
	}
	send(before)
	after := newPool(t, opts) // new routes, same target
	before.Close()
	before.Close()
	send(after)
	send(before) // a request that had chosen the old route
	if n := o.connections(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	after.Close()
	if n := origin.IdleConns(after); n != 0 {
		t.Errorf("%d idle connections although nobody uses the target", n)
	}
	send(after)
}

func TestClientThatLeavesEndsTheRequest(t *testing.T) {
	for _, c := range []struct{ name, answer string }{
		{"before the answer", ""},
		{"within the answer", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"},
	} {
		t.Run(c.name, func(t *testing.T) {
			heard, gone := make(chan struct{}), make(chan error, 1)
			o := newRawOrigin(t, func(r *rawRequest) bool {
				io.WriteString(r.conn, c.answer)
				close(heard)
				_, err := r.ReadByte()
				gone <- err
				return false
			})
			pool := poolOf(t, o.addr)
			ctx, leave := context.WithCancelCause(t.Context())
			left := errors.New("client left")
			go func() { <-heard; time.Sleep(10 * time.Millisecond); leave(left) }() // some time for the answer to be read
			response, err := pool.RoundTrip(request(t, ctx, "GET", "http://x/", ""))
			if err == nil {
				_, err = io.ReadAll(response.Body)
				response.Body.Close()
			}
			if !errors.Is(err, left) {
				t.Errorf("error %v, want the context's cause", err)
			}
			if err := received(t, gone, "end of the origin's connection"); err == nil {
				t.Error("the origin read something")
			}
		})
	}
}

func TestClientThatLeavesWhileConnectingIsNoFailureOfTheTarget(t *testing.T) {
	ctx, leave := context.WithCancel(t.Context())
	leave()
	for _, tls := range []bool{false, true} {
		pool := newPool(t, origin.Options{Targets: []origin.Target{{Addr: unused(t), TLS: tls}}})
		body := &closeCounter{Reader: strings.NewReader("hello")}
		req := request(t, ctx, "POST", "http://x/", "")
		req.Body, req.ContentLength = body, 5
		_, err := pool.RoundTrip(req)
		if !errors.Is(err, context.Canceled) || errors.Is(err, origin.ErrConnect) {
			t.Errorf("TLS %t: RoundTrip = %v, want it canceled", tls, err)
		}
		if body.closed.Load() == 0 {
			t.Errorf("TLS %t: the body was not closed", tls)
		}
	}
}

func TestOriginMayAnswerBeforeItHasTheBody(t *testing.T) {
	o := newRawOrigin(t, func(r *rawRequest) bool {
		io.WriteString(r.conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nmuch")
		r.ReadByte()
		return false
	})
	for _, chunked := range []bool{false, true} {
		pool := poolOf(t, o.addr)
		reader, writer := io.Pipe()
		req := request(t, t.Context(), "POST", "http://x/", "")
		req.Body, req.ContentLength = reader, 1000
		if chunked {
			req.ContentLength = -1
		}
		response, err := pool.RoundTrip(req)
		if err != nil {
			t.Fatalf("RoundTrip: %v", err)
		}
		if got := readAll(t, response); got != "much" || response.StatusCode != 413 {
			t.Errorf("answer %d %q", response.StatusCode, got)
		}
		// Nobody wants the rest: soon the body is closed.
		for begin := time.Now(); ; time.Sleep(time.Millisecond) {
			if _, err := writer.Write([]byte("x")); err != nil {
				break
			}
			if time.Since(begin) > patience {
				t.Fatal("the body goes on being read")
			}
		}
		if n := origin.IdleConns(pool); n != 0 {
			t.Errorf("a connection is kept that waits for the rest of a body")
		}
	}
}

func TestBodyThatBreaksOffIsNotMadeToLookWhole(t *testing.T) {
	type seen struct {
		body string
		err  error
	}
	heard := make(chan seen, 1)
	o := newRawOrigin(t, func(r *rawRequest) bool {
		req, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(r.head), r)))
		if err != nil {
			t.Error(err)
			return false
		}
		body, err := io.ReadAll(req.Body)
		heard <- seen{string(body), err}
		return false
	})
	broken := errors.New("client is gone")
	for _, c := range []struct {
		name   string
		length int64
		end    error
		want   error
	}{
		{"known length", 10, broken, broken},
		{"chunked", -1, broken, broken},
		{"shorter than announced", 10, io.EOF, io.ErrUnexpectedEOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := request(t, t.Context(), "POST", "http://x/", "")
			req.Body, req.ContentLength = io.NopCloser(io.MultiReader(strings.NewReader("half"), failing{c.end})), c.length
			_, err := poolOf(t, o.addr).RoundTrip(req)
			if !errors.Is(err, c.want) {
				t.Errorf("RoundTrip = %v, want %v", err, c.want)
			}
			if got := received(t, heard, "request"); got.err == nil {
				t.Errorf("the origin takes %q for all", got.body)
			}
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestBodiesArriveWhole(t *testing.T) {
	received := make(chan []byte, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		received <- body
		w.Header().Set("X-Length", fmt.Sprint(r.ContentLength))
		w.Header().Set("X-Trailer", r.Trailer.Get("X-Sum"))
	}))
	defer server.Close()
	addr := server.Listener.Addr().String()
	for _, size := range []int{1, 100, 32<<10 - 1, 32 << 10, 64 << 10, 64<<10 + 1, 3 << 20} {
		body := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
		for _, c := range []struct {
			name  string
			shape func(*http.Request)
			want  string
		}{
			{"in memory", func(r *http.Request) {}, fmt.Sprint(size)},
			{"streamed", func(r *http.Request) { r.GetBody = nil }, fmt.Sprint(size)},
			{"chunked", func(r *http.Request) {
				r.GetBody, r.ContentLength, r.Trailer = nil, -1, http.Header{"X-Sum": {"5"}}
			}, "-1"},
		} {
			req := request(t, t.Context(), "POST", "http://x/", string(body))
			c.shape(req)
			response, err := poolOf(t, addr).RoundTrip(req)
			if err != nil {
				t.Fatalf("%d bytes %s: %v", size, c.name, err)
			}
			readAll(t, response)
			if got := <-received; !bytes.Equal(got, body) {
				t.Errorf("%d bytes %s: %d bytes arrived, or others", size, c.name, len(got))
			}
			if got := response.Header.Get("X-Length"); got != c.want {
				t.Errorf("%d bytes %s: Content-Length %s, want %s", size, c.name, got, c.want)
			}
			if c.want == "-1" && response.Header.Get("X-Trailer") != "5" {
				t.Errorf("%d bytes %s: no trailer", size, c.name)
			}
		}
	}
}

func TestAnswersHeadMayBeBounded(t *testing.T) {
	o := newRawOrigin(t, func(r *rawRequest) bool { io.Copy(io.Discard, r); return false })
	network := origin.NewNetwork(origin.NetworkOptions{ResponseHeaderTimeout: 30 * time.Millisecond})
	pool := newPool(t, origin.Options{Targets: []origin.Target{{Addr: o.addr}}, Network: network})
	for _, body := range []string{"", "hello"} {
		req := request(t, t.Context(), "POST", "http://x/", body)
		req.GetBody = nil
		_, err := pool.RoundTrip(req)
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() || errors.Is(err, origin.ErrConnect) {
			t.Errorf("body %q: RoundTrip = %v, want a timeout", body, err)
		}
	}
	// The bound ends with the head.
	slow := newRawOrigin(t, func(r *rawRequest) bool {
		io.WriteString(r.conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
		time.Sleep(60 * time.Millisecond) // longer than the bound
		io.WriteString(r.conn, "slow")
		return true
	})
	pool = newPool(t, origin.Options{Targets: []origin.Target{{Addr: slow.addr}}, Network: network})
	response, err := pool.RoundTrip(request(t, t.Context(), "GET", "http://x/", ""))
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, response); got != "slow" {
		t.Errorf("body %q", got)
	}
}

func TestOneTargetOfAPoolCanBeAskedAlone(t *testing.T) {
	a := newRawOrigin(t, func(r *rawRequest) bool { return ok(r, "a") })
	b := newRawOrigin(t, func(r *rawRequest) bool { return ok(r, "b") })
	pool := poolOf(t, a.addr, b.addr)
	if got := pool.Targets(); len(got) != 2 || got[1].Addr != b.addr {
		t.Errorf("Targets = %v", got)
	}
	for i, want := range []string{"a", "b"} {
		response, err := pool.Only(i).RoundTrip(request(t, t.Context(), "GET", "http://x/", ""))
		if err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, response); got != want {
			t.Errorf("Only(%d) = %q, want %q", i, got, want)
		}
	}
}

func TestManyRequestsAtOnce(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // before the answer begins: net/http's server does not do both at once
		w.Write(append(body, r.URL.Path...))
	}))
	defer server.Close()
	pool := poolOf(t, server.Listener.Addr().String())
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			for j := range 50 {
				path, body := fmt.Sprintf("/%d/%d", i, j), strings.Repeat("x", j*100)
				req := request(t, t.Context(), "POST", "http://x"+path, body)
				if j%2 == 0 {
					req.GetBody = nil
				}
				response, err := pool.RoundTrip(req)
				if err != nil {
					t.Error(err)
					return
				}
				if got := readAll(t, response); got != body+path {
					t.Errorf("%s: %d bytes, another's answer", path, len(got))
				}
			}
		})
	}
	clients.Wait()
}

func TestTargetThatIsDownIsNewsOnce(t *testing.T) {
	var text bytes.Buffer
	var mu sync.Mutex
	log := slog.New(slog.NewTextHandler(&lockedWriter{w: &text, mu: &mu}, nil))
	addr := unused(t)
	pool := newPool(t, origin.Options{Targets: []origin.Target{{Addr: addr}}, Network: origin.NewNetwork(origin.NetworkOptions{Log: log})})
	for range 3 {
		pool.RoundTrip(request(t, t.Context(), "GET", "http://x/", ""))
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("the port was taken meanwhile: %v", err)
	}
	server := &http.Server{Handler: http.NotFoundHandler()}
	go server.Serve(ln)
	defer server.Close()
	for range 3 {
		response, err := pool.RoundTrip(request(t, t.Context(), "GET", "http://x/", ""))
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, response)
	}
	mu.Lock()
	defer mu.Unlock()
	lines := strings.Split(strings.TrimSpace(text.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "level=WARN") || !strings.Contains(lines[1], "again") {
		t.Errorf("log:\n%s", text.String())
	}
}

type lockedWriter struct {
	w  io.Writer
	mu *sync.Mutex
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
