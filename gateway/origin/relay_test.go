package origin_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/origin"
)

// relayer is the least a gateway can be.
type relayer struct {
	rules *origin.Rules
	pool  http.RoundTripper
	hints bool
	errs  chan error // what became of each request; nil drops it
}

func (g *relayer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := g.serve(w, r)
	if g.errs != nil {
		g.errs <- err
	}
	if err != nil && w.Header().Get("X-Refused") == "" {
		panic(http.ErrAbortHandler)
	}
}

func (g *relayer) serve(w http.ResponseWriter, r *http.Request) error {
	var call origin.Call
	if g.hints {
		call.Hints = w
	}
	request, _, err := g.rules.Prepare(r, call)
	if err == nil {
		var response *http.Response
		if response, err = g.pool.RoundTrip(request); err == nil {
			return origin.Relay(w, r, response)
		}
	}
	w.Header().Set("X-Refused", "yes")
	w.WriteHeader(http.StatusBadGateway)
	io.WriteString(w, err.Error())
	return err
}

// newGateway serves clients over plain TCP and returns its address.
func newGateway(t testing.TB, g *relayer) string {
	t.Helper()
	if g.rules == nil {
		g.rules = &origin.Rules{}
	}
	server := httptest.NewUnstartedServer(g)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// raw sends bytes to addr and returns the answer's head and body. The connection
// is closed with the test.
func raw(t testing.TB, addr, request string) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("answer to %.60q: %v", request, err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("answer's body: %v, after %q", err, body)
	}
	return response, string(body)
}

func TestPathAndQueryReachTheOriginAsTheClientWroteThem(t *testing.T) {
	lines := make(chan string, 1)
	answer := func(r *rawRequest) bool { lines <- r.line(); return ok(r, "") }
	plain := newRawOrigin(t, answer)
	cert := issue(t, "x")
	secure := newRawOrigin(t, answer)
	secureAddr := terminateTLS(t, secure.addr, cert)
	overPlain := newGateway(t, &relayer{pool: poolOf(t, plain.addr)})
	overTLS := newGateway(t, &relayer{pool: newPool(t, origin.Options{
		Targets: []origin.Target{{Addr: secureAddr, TLS: true}},
		Network: origin.NewNetwork(origin.NetworkOptions{RootCAs: cert.roots}),
	})})
	for _, c := range []struct{ name, target, want string }{
		{"plain", "/", "/"},
		{"two slashes", "//a//b/", "//a//b/"},
		{"only slashes", "//", "//"},
		{"escaped slash", "/a%2Fb%2f", "/a%2Fb%2f"},
		{"escaped letters", "/%61%7E~", "/%61%7E~"},
		{"dots", "/a/../b/./c", "/a/../b/./c"},
		{"empty query", "/a?", "/a?"},
		{"query as it is", "/a?b=c+d%20e&&=;?/x#y", "/a?b=c+d%20e&&=;?/x#y"},
		{"signs that net/url would escape", "/a\"<>[]{}|\\^`'!$&(),;=:@b", "/a\"<>[]{}|\\^`'!$&(),;=:@b"},
		{"bytes beyond ASCII", "/\xc3\xa4\xff?\xff", "/\xc3\xa4\xff?\xff"},
		{"escaped zero", "/%00", "/%00"},
		{"number sign", "/a#b", "/a#b"},
		{"a proxy's form", "http://x/a%2F?b", "/a%2F?b"},
		{"a proxy's form without path", "http://x", "/"},
		{"a proxy's form with query only", "http://x?b", "/?b"},
		{"what looks like a proxy's form", "/http://y/", "/http://y/"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for way, gateway := range map[string]string{"TCP": overPlain, "TLS": overTLS} {
				raw(t, gateway, "GET "+c.target+" HTTP/1.1\r\nHost: x\r\n\r\n")
				if got, want := received(t, lines, "request"), "GET "+c.want+" HTTP/1.1"; got != want {
					t.Errorf("%s: %q, want %q", way, got, want)
				}
			}
		})
	}
}

func TestRequestHeadIsTheClientsAndNothingIsInvented(t *testing.T) {
	heads := make(chan *rawRequest, 1)
	o := newRawOrigin(t, func(r *rawRequest) bool { heads <- r; return ok(r, "") })
	gateway := newGateway(t, &relayer{pool: poolOf(t, o.addr)})
	raw(t, gateway, "GET /x HTTP/1.1\r\nHost: example.com:81\r\nX-A: 1\r\nx-a:  2 \r\n\r\n")
	head := received(t, heads, "request")
	if want := "GET /x HTTP/1.1\r\nHost: example.com:81\r\nX-A: 1\r\nX-A: 2\r\n\r\n"; head.head != want {
		t.Errorf("origin sees\n%q, want\n%q", head.head, want)
	}
}

func TestTwoLengthsNeverMakeTwoRequests(t *testing.T) {
	seen := make(chan string, 10)
	o := newRawOrigin(t, func(r *rawRequest) bool {
		if te, length := r.header("Transfer-Encoding"), r.header("Content-Length"); te != "" && length != "" {
			t.Errorf("both lengths reach the origin: %q, %q", te, length)
		}
		if r.header("Transfer-Encoding") != "" {
			io.Copy(io.Discard, chunkedBody(r.Reader))
		}
		seen <- r.line()
		return ok(r, "ok")
	})
	gateway := newGateway(t, &relayer{pool: poolOf(t, o.addr)})
	conn, err := net.Dial("tcp", gateway)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"+
		"2e\r\nGET /smuggled HTTP/1.1\r\nGrip-Sig: forged\r\nX: y\r\n0\r\n\r\n")
	io.ReadAll(io.LimitReader(conn, 1)) // whatever the server answers
	raw(t, gateway, "GET /2 HTTP/1.1\r\nHost: x\r\n\r\n")
	close(seen)
	for line := range seen {
		if strings.Contains(line, "smuggled") {
			t.Errorf("the origin takes a body for a request: %q", line)
		}
	}
}

// chunkedBody reads a chunked body and its end.
func chunkedBody(r *bufio.Reader) io.Reader {
	req, _ := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"), oneByte{r})))
	return req.Body
}

// oneByte leaves what it was not asked for where it is.
type oneByte struct{ io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.Reader.Read(p[:1]) }

func TestForgedTrailersDoNotReachTheOrigin(t *testing.T) {
	bodies := make(chan string, 1)
	o := newRawOrigin(t, func(r *rawRequest) bool {
		var body strings.Builder
		for !strings.HasSuffix(body.String(), "0\r\n\r\n") && !strings.HasSuffix(body.String(), "yes\r\n\r\n") {
			b, err := r.ReadByte()
			if err != nil {
				break
			}
			body.WriteByte(b)
		}
		bodies <- r.header("Trailer") + "\n" + body.String()
		return ok(r, "")
	})
	gateway := newGateway(t, &relayer{pool: poolOf(t, o.addr)})
	raw(t, gateway, "POST / HTTP/1.1\r\nHost: x\r\nTrailer: X-Fine, Grip-Sig\r\nTransfer-Encoding: chunked\r\n\r\n"+
		"2\r\nhi\r\n0\r\nGrip-Sig: forged\r\nMeta-User: forged\r\nX-Fine: yes\r\n\r\n")
	if got, want := received(t, bodies, "body"), "X-Fine\n2\r\nhi\r\n0\r\nX-Fine: yes\r\n\r\n"; got != want {
		t.Errorf("origin sees %q, want %q", got, want)
	}
}

func TestLengthOfABodyStaysKnown(t *testing.T) {
	heads := make(chan *rawRequest, 1)
	o := newRawOrigin(t, func(r *rawRequest) bool {
		if r.header("Transfer-Encoding") != "" {
			io.Copy(io.Discard, chunkedBody(r.Reader))
		} else if r.header("Content-Length") == "5" {
			io.CopyN(io.Discard, r, 5)
		}
		heads <- r
		return ok(r, "")
	})
	gateway := newGateway(t, &relayer{pool: poolOf(t, o.addr)})
	for _, c := range []struct{ name, request, length, coding string }{
		{"known", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", "5", ""},
		{"known, GET", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", "5", ""},
		{"chunked", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "", "chunked"},
		{"chunked, GET", "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "", "chunked"},
		{"empty chunked", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "", "chunked"},
		{"none, POST", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "0", ""},
		{"none, GET", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "", ""},
	} {
		raw(t, gateway, c.request)
		head := received(t, heads, "request")
		if length, coding := head.header("Content-Length"), head.header("Transfer-Encoding"); length != c.length || coding != c.coding {
			t.Errorf("%s: Content-Length %q, Transfer-Encoding %q, want %q, %q", c.name, length, coding, c.length, c.coding)
		}
	}
}

func TestGoAheadIsGivenHere(t *testing.T) {
	heads := make(chan *rawRequest, 1)
	o := newRawOrigin(t, func(r *rawRequest) bool {
		io.CopyN(io.Discard, r, 5)
		heads <- r
		return ok(r, "done")
	})
	gateway := newGateway(t, &relayer{pool: poolOf(t, o.addr)})
	conn, err := net.Dial("tcp", gateway)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	reader := bufio.NewReader(conn)
	if response, err := http.ReadResponse(reader, nil); err != nil || response.StatusCode != 100 {
		t.Fatalf("first answer: %v, %v, want 100", response, err)
	}
	io.WriteString(conn, "hello")
	if response, err := http.ReadResponse(reader, nil); err != nil || response.StatusCode != 200 {
		t.Fatalf("second answer: %v, %v, want 200", response, err)
	}
	if got := received(t, heads, "request").header("Expect"); got != "" {
		t.Errorf("the origin sees Expect: %q", got)
	}
}

func TestAnswerIsRelayedWithoutWhatIsOfItsConnection(t *testing.T) {
	o := newRawOrigin(t, func(r *rawRequest) bool {
		io.WriteString(r.conn, "HTTP/1.1 203 Whatever\r\nContent-Length: 2\r\nDate: yesterday\r\nConnection: keep-alive, X-Private\r\nX-Private: yes\r\n"+
			"Keep-Alive: timeout=5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nGrip-Foo: relayed\r\nContent-Encoding: br\r\n\r\nhi")
		return true
	})
	gateway := newGateway(t, &relayer{pool: poolOf(t, o.addr)})
	response, body := raw(t, gateway, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	want := http.Header{
		"Content-Length": {"2"}, "Date": {"yesterday"}, "Set-Cookie": {"a=1", "b=2"}, "Grip-Foo": {"relayed"}, "Content-Encoding": {"br"},
	}
	if response.StatusCode != 203 || body != "hi" || len(response.Header) != len(want) {
		t.Errorf("answer %d %q with %v, want\n%v", response.StatusCode, body, response.Header, want)
	}
	for name, values := range want {
		if !slices.Equal(response.Header[name], values) {
			t.Errorf("%s: %q, want %q", name, response.Header[name], values)
		}
	}

	header := http.Header{"Connection": {"close, X-Private"}, "X-Private": {"1"}, "Transfer-Encoding": {"chunked"}, "Trailer": {"X"}, "X-Fine": {"1"}}
	if origin.CleanHeader(header); len(header) != 1 || header.Get("X-Fine") != "1" {
		t.Errorf("CleanHeader leaves %v", header)
	}
}

func TestAnswersOfAllShapes(t *testing.T) {
	o := newRawOrigin(t, func(r *rawRequest) bool {
		switch _, path, _ := strings.Cut(r.line(), " "); path {
		case "/head HTTP/1.1":
			io.WriteString(r.conn, "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")
		case "/304 HTTP/1.1":
			io.WriteString(r.conn, "HTTP/1.1 304 Not Modified\r\nEtag: \"a\"\r\n\r\n")
		case "/204 HTTP/1.1":
			io.WriteString(r.conn, "HTTP/1.1 204 No Content\r\n\r\n")
		case "/chunked HTTP/1.1":
			io.WriteString(r.conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n")
		case "/untilclose HTTP/1.1":
			io.WriteString(r.conn, "HTTP/1.1 200 OK\r\n\r\nuntil the end")
			return false
		case "/moved HTTP/1.1":
			io.WriteString(r.conn, "HTTP/1.1 302 Found\r\nLocation: /x?y\r\nContent-Length: 3\r\n\r\nsee")
		case "/empty HTTP/1.1":
			io.WriteString(r.conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
		return true
	})
	gateway := newGateway(t, &relayer{pool: poolOf(t, o.addr)})
	for _, c := range []struct {
		method, path string
		status       int
		body, header string // header: "Name: value"
	}{
		{"HEAD", "/head", 200, "", "Content-Length: 12345"},
		{"GET", "/304", 304, "", `Etag: "a"`},
		{"GET", "/204", 204, "", "Content-Length: "},
		{"GET", "/chunked", 200, "abc", "Content-Type: "},
		{"GET", "/untilclose", 200, "until the end", "Content-Type: "},
		{"GET", "/moved", 302, "see", "Location: /x?y"},
		{"GET", "/empty", 200, "", "Content-Length: 0"},
	} {
		req := request(t, t.Context(), c.method, "http://"+gateway+c.path, "")
		response, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatalf("%s: %v", c.path, err)
		}
		body := readAll(t, response)
		name, value, _ := strings.Cut(c.header, ": ")
		if response.StatusCode != c.status || body != c.body || response.Header.Get(name) != value {
			t.Errorf("%s: %d %q %v, want %d %q %s", c.path, response.StatusCode, body, response.Header, c.status, c.body, c.header)
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func TestPiecesArriveWhenTheyAreSent(t *testing.T) {
	cert := issue(t, "127.0.0.1")
	const small = "piece\n"
	large := strings.Repeat("x", 40<<10) // longer than the buffers on the way
	for _, way := range []string{"TCP", "TLS", "HTTP/2"} {
		for _, shape := range []string{"chunked", "events", "known length"} {
			for _, piece := range []string{small, large, large[:32<<10]} {
				t.Run(fmt.Sprintf("%s %s, pieces of %d", way, shape, len(piece)), func(t *testing.T) {
					next := make(chan struct{})
					handler := func(w http.ResponseWriter, r *http.Request) {
						switch shape {
						case "events":
							w.Header().Set("Content-Type", "text/event-stream")
						case "known length":
							w.Header().Set("Content-Length", fmt.Sprint(3*len(piece)))
						}
						w.WriteHeader(200)
						if shape != "known length" || way == "TCP" {
							w.(http.Flusher).Flush() // the head alone
							<-next
						}
						for range 3 {
							io.WriteString(w, piece)
							w.(http.Flusher).Flush()
							<-next
						}
					}
					var pool *origin.Pool
					if way == "TCP" {
						server := httptest.NewServer(http.HandlerFunc(handler))
						t.Cleanup(server.Close)
						pool = poolOf(t, server.Listener.Addr().String())
					} else {
						server := newSecureOrigin(t, &tls.Config{Certificates: []tls.Certificate{cert.Certificate}}, way == "HTTP/2", handler)
						pool = newPool(t, origin.Options{
							Targets: []origin.Target{{Addr: server.Listener.Addr().String(), TLS: true, TrustConnectHost: true}},
							Network: origin.NewNetwork(origin.NetworkOptions{RootCAs: cert.roots}),
						})
					}
					gateway := newGateway(t, &relayer{pool: pool})
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					response, err := http.DefaultTransport.RoundTrip(request(t, ctx, "GET", "http://"+gateway+"/", ""))
					if err != nil {
						t.Fatalf("head: %v", err)
					}
					if shape != "known length" || way == "TCP" {
						next <- struct{}{}
					}
					for i := range 3 {
						got := make([]byte, len(piece))
						if _, err := io.ReadFull(response.Body, got); err != nil || string(got) != piece {
							t.Fatalf("piece %d: %d bytes, %v", i+1, len(got), err)
						}
						next <- struct{}{}
					}
					if rest := readAll(t, response); rest != "" {
						t.Errorf("%q follows", rest)
					}
				})
			}
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func TestLargeAnswersArriveWhole(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB
	for _, known := range []bool{true, false} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if known {
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			}
			for rest := body; len(rest) > 0; {
				n := min(len(rest), 77_777)
				w.Write(rest[:n])
				rest = rest[n:]
			}
		}))
		gateway := newGateway(t, &relayer{pool: poolOf(t, server.Listener.Addr().String())})
		response, got := raw(t, gateway, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if got != string(body) || (response.ContentLength >= 0) != known {
			t.Errorf("known length %t: %d bytes of %d, Content-Length %d", known, len(got), len(body), response.ContentLength)
		}
		server.Close()
	}
}

func TestAnswerThatBreaksOffIsNotMadeToLookWhole(t *testing.T) {
	o := newRawOrigin(t, func(r *rawRequest) bool {
		head := "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
		if strings.Contains(r.line(), "chunked") {
			head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n"
		}
		io.WriteString(r.conn, head+"half")
		return false
	})
	errs := make(chan error, 1)
	gateway := newGateway(t, &relayer{pool: poolOf(t, o.addr), errs: errs})
	for _, path := range []string{"/", "/chunked"} {
		conn, err := net.Dial("tcp", gateway)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err == nil || string(body) != "half" {
			t.Errorf("%s: the client takes %q for all", path, body)
		}
		if err := received(t, errs, "error"); err == nil {
			t.Errorf("%s: Relay sees nothing wrong", path)
		}
		conn.Close()
	}
}

func TestClientThatLeavesEndsTheStream(t *testing.T) {
	gone := make(chan struct{})
	o := newRawOrigin(t, func(r *rawRequest) bool {
		io.WriteString(r.conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: x\n\n")
		r.ReadByte()
		close(gone)
		return false
	})
	errs := make(chan error, 1)
	gateway := newGateway(t, &relayer{pool: poolOf(t, o.addr), errs: errs})
	conn, err := net.Dial("tcp", gateway)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := bufio.NewReader(conn).ReadString('x'); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	received(t, gone, "end of the origin's connection")
	if err := received(t, errs, "error"); !errors.Is(err, context.Canceled) {
		t.Errorf("Relay = %v, want it canceled", err)
	}
}

func TestTrailersOfAnAnswerAreRelayed(t *testing.T) {
	o := newRawOrigin(t, func(r *rawRequest) bool {
		announced := "Trailer: X-Sum\r\n"
		if strings.Contains(r.line(), "unannounced") {
			announced = ""
		}
		io.WriteString(r.conn, "HTTP/1.1 200 OK\r\n"+announced+"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 5\r\nGrip-Hold: stream\r\nContent-Length: 7\r\n\r\n")
		return true
	})
	gateway := newGateway(t, &relayer{pool: poolOf(t, o.addr)})
	for _, path := range []string{"/", "/unannounced"} {
		response, body := raw(t, gateway, "GET "+path+" HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n")
		if path == "/unannounced" && len(response.Trailer) == 0 {
			continue // the body was short enough for its length: that is allowed
		}
		if body != "hi" || response.Trailer.Get("X-Sum") != "5" || len(response.Trailer) != 1 {
			t.Errorf("%s: %q, trailers %v", path, body, response.Trailer)
		}
	}
}

func TestEarlyHintsAreRelayedIfWanted(t *testing.T) {
	cert := issue(t, "127.0.0.1")
	handler := func(w http.ResponseWriter, r *http.Request) {
		for _, link := range []string{"</a.css>", "</b.css>"} {
			w.Header().Set("Link", link)
			w.Header().Set("Grip-Foo", "secret")
			w.WriteHeader(http.StatusEarlyHints)
		}
		w.Header().Del("Link")
		w.Header().Del("Grip-Foo")
		io.WriteString(w, "page")
	}
	plain := httptest.NewServer(http.HandlerFunc(handler))
	defer plain.Close()
	secure := newSecureOrigin(t, &tls.Config{Certificates: []tls.Certificate{cert.Certificate}}, true, handler)
	for _, target := range []origin.Target{
		{Addr: plain.Listener.Addr().String()},
		{Addr: secure.Listener.Addr().String(), TLS: true, TrustConnectHost: true},
	} {
		for _, wanted := range []bool{true, false} {
			pool := newPool(t, origin.Options{Targets: []origin.Target{target}, Network: origin.NewNetwork(origin.NetworkOptions{RootCAs: cert.roots})})
			gateway := newGateway(t, &relayer{pool: pool, hints: wanted})
			var hints []string
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
				hints = append(hints, fmt.Sprint(code, header["Link"], header["Grip-Foo"]))
				return nil
			}})
			response, err := http.DefaultTransport.RoundTrip(request(t, ctx, "GET", "http://"+gateway+"/", ""))
			if err != nil {
				t.Fatal(err)
			}
			if body := readAll(t, response); body != "page" || response.Header.Get("Link") != "" {
				t.Errorf("answer %q with %v", body, response.Header)
			}
			want := []string{"103[</a.css>][]", "103[</b.css>][]"}
			if !wanted {
				want = nil
			}
			for i := range hints {
				hints[i] = strings.ReplaceAll(hints[i], " ", "")
			}
			if !slices.Equal(hints, want) {
				t.Errorf("TLS %t, wanted %t: hints %q, want %q", target.TLS, wanted, hints, want)
			}
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}
