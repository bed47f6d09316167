package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/gripway/gripway/gateway"
	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/gateway/origin"
	"github.com/gripway/gripway/gateway/wire"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/guest"
	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/wsoverhttp"
)

// program is a guest in Go.
type program func(ctx context.Context, x *guest.Exchange) (guest.Outcome, error)

func (p program) Serve(ctx context.Context, x *guest.Exchange) (guest.Outcome, error) {
	return p(ctx, x)
}

// answer is an outcome of status and body, and header lines by ": ".
func answer(status int, body string, lines ...string) (guest.Outcome, error) {
	header := make(http.Header)
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		header.Add(name, value)
	}
	return guest.Outcome{Response: &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}}, nil
}

// handoff hands the client's request off as it came.
func handoff(x *guest.Exchange, backend string) (guest.Outcome, error) {
	return guest.Outcome{Handoff: &guest.Handoff{Backend: backend, Request: x.Request}}, nil
}

// backends are guest.Backends of test servers.
type backends map[string]*httptest.Server

func (b backends) Lookup(name string) guest.Backend {
	if server := b[name]; server != nil {
		return backend{server}
	}
	return nil
}

func (b backends) Open(guest.BackendOptions) (guest.Backend, error) { return nil, errors.New("none") }

type backend struct{ server *httptest.Server }

func (b backend) RoundTrip(r *http.Request) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.RequestURI = ""
	out.URL, _ = url.Parse(b.server.URL + r.URL.RequestURI())
	return (&http.Transport{DisableKeepAlives: true}).RoundTrip(out)
}
func (backend) Options() guest.BackendOptions { return guest.BackendOptions{} }
func (backend) Health() guest.Health          { return guest.HealthUnknown }
func (backend) Close() error                  { return nil }

// house is a gateway with one route, to a guest.
type house struct {
	t       *testing.T
	g       *gateway.Gateway
	guest   *gateway.Guest
	bus     *pubsub.Memory
	metrics *metrics.Registry
	addr    string
	url     string
}

var testKey, _ = grip.ParseKey("a key of the house", "")

// newHouse starts a gateway whose guest is p, with GRIP backends.
func newHouse(t *testing.T, p program, debug bool, origins backends) *house {
	t.Helper()
	h := &house{t: t, bus: pubsub.NewMemory(), metrics: metrics.New()}
	t.Cleanup(func() { h.bus.Close() })
	var err error
	h.g, err = gateway.New(gateway.Options{Bus: h.bus, Metrics: h.metrics, FirstUpdate: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.g.Close)
	rules := &origin.Rules{Feature: gateway.Feature, Signer: grip.NewSigner("gripway", testKey).Sign}
	routes := make(map[string]*gateway.Route)
	h.guest = &gateway.Guest{
		Name: "test", Backends: origins, Verifier: grip.NewVerifier("gripway", testKey).Verify,
		Handoff: func(h *guest.Handoff) *gateway.Route { return routes[h.Backend] },
	}
	for name, server := range origins {
		pool, err := origin.NewPool(origin.Options{Targets: []origin.Target{{Addr: server.Listener.Addr().String()}}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { pool.Close() })
		routes[name] = h.g.Backend(&gateway.Route{ID: name, OverHTTP: true, Rules: rules, Pool: pool}, nil)
	}
	routes["self"] = h.g.Backend(&gateway.Route{ID: "self", OverHTTP: true, Rules: rules, Pool: h.g.Origin(h.guest)}, nil)
	h.guest.SetProgram(p)
	h.g.SetRoutes([]*gateway.Route{{Domain: "*", Debug: debug, Rules: &origin.Rules{}, Guest: h.guest}})
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := wire.Listen(inner)
	server := &http.Server{Handler: h.g, BaseContext: func(net.Listener) context.Context { return listener.Context(context.Background()) }}
	go server.Serve(listener)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		h.g.Drain(ctx)
		server.Close()
	})
	h.addr = inner.Addr().String()
	h.url = "http://" + h.addr
	return h
}

// get asks and reads the whole answer.
func (h *house) do(method, path, body string, lines ...string) (*http.Response, string) {
	h.t.Helper()
	r, err := http.NewRequest(method, h.url+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return response, string(text)
}

// publish publishes until done is closed: nobody tells when a client is held.
func (h *house) publish(item *grip.Item, done <-chan struct{}) {
	data := item.AppendJSON(nil)
	for {
		h.bus.Publish(context.Background(), item.Channel, data)
		select {
		case <-done:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// metric is a line of the metrics.
func (h *house) metric(line string) bool {
	w := httptest.NewRecorder()
	h.metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return strings.Contains(w.Body.String(), line+"\n")
}

func TestAGuestAnswersWhileItReads(t *testing.T) {
	h := newHouse(t, func(ctx context.Context, x *guest.Exchange) (guest.Outcome, error) {
		pr, pw := io.Pipe()
		go func() {
			_, err := io.Copy(pw, x.Request.Body)
			pw.CloseWithError(err)
		}()
		return guest.Outcome{Response: &http.Response{StatusCode: 201, Header: http.Header{"X-Seen": {x.Request.Header.Get("X-A")}}, Body: pr, ContentLength: -1}}, nil
	}, false, nil)
	pr, pw := io.Pipe()
	r, _ := http.NewRequest("POST", h.url+"/echo", pr)
	r.Header.Set("X-A", "1")
	answers := make(chan *http.Response, 1)
	go func() {
		response, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Error(err)
		}
		answers <- response
	}()
	pw.Write([]byte("one "))
	response := <-answers
	if response == nil {
		return
	}
	defer response.Body.Close()
	if response.StatusCode != 201 || response.Header.Get("X-Seen") != "1" {
		t.Errorf("got %d %v", response.StatusCode, response.Header)
	}
	first := make([]byte, 4)
	if _, err := io.ReadFull(response.Body, first); err != nil || string(first) != "one " {
		t.Fatalf("got %q, %v before the request has ended", first, err)
	}
	pw.Write([]byte("two"))
	pw.Close()
	if rest, err := io.ReadAll(response.Body); string(rest) != "two" || err != nil {
		t.Errorf("got %q, %v", rest, err)
	}
}

// wholeAnswer is a body that is there already.
type wholeAnswer struct{ io.ReadCloser }

func (wholeAnswer) Whole() bool { return true }

func TestABodyThatAGuestDoesNotReadIsNotTheNextRequest(t *testing.T) {
	h := newHouse(t, func(_ context.Context, x *guest.Exchange) (guest.Outcome, error) {
		outcome, err := answer(200, x.Request.URL.Path)
		switch x.Request.Header.Get("X-How") {
		case "whole":
			outcome.Response.Body = wholeAnswer{outcome.Response.Body}
		case "reading":
			go x.Request.Body.Read(make([]byte, 100))
			time.Sleep(20 * time.Millisecond) // it has begun
			outcome.Response.ContentLength = -1
		}
		return outcome, err
	}, false, nil)
	const next = "GET /next HTTP/1.1\r\nHost: h\r\n\r\n"
	hidden := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(next), next)
	for _, test := range []struct {
		name, how, head, first, then string
		kept                         bool // the connection: then is a request
	}{
		{"all of it has come", "whole", "Content-Length: 3", "abc", next, true},
		{"all chunks have come", "whole", "Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n", next, true},
		{"a part is missing", "whole", "Content-Length: 100", "abc", next, false},
		{"a chunk is missing", "whole", "Transfer-Encoding: chunked", "3\r\nabc\r\n", hidden, false},
		{"too much to wait for", "whole", "Content-Length: 9000000", "abc", next, false},
		{"the client would send it", "whole", "Expect: 100-continue\r\nContent-Length: 3", "", next, false},
		{"the answer streams", "", "Content-Length: 3", "abc", next, false},
		{"the guest reads, and a chunk is missing", "reading", "Transfer-Encoding: chunked", "", hidden, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", h.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			fmt.Fprintf(conn, "POST /first HTTP/1.1\r\nHost: h\r\nX-How: %s\r\n%s\r\n\r\n%s", test.how, test.head, test.first)
			reader := bufio.NewReader(conn)
			response, err := http.ReadResponse(reader, nil)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(response.Body)
			if response.StatusCode != 200 || string(text) != "/first" || err != nil || response.Close == test.kept {
				t.Errorf("got %d %q %v, close %v, want it to be %v", response.StatusCode, text, err, response.Close, !test.kept)
			}
			io.WriteString(conn, test.then) // fails if the connection is closed by now
			second, err := http.ReadResponse(reader, nil)
			if (err == nil) != test.kept {
				t.Errorf("got another answer %v, %v", second, err)
			}
		})
	}
}

// A client may never send the body that it has announced. What the gateway has to say
// does not wait for it, and neither does the end of a broken answer.
func TestABodyThatNeverComesKeepsNoAnswer(t *testing.T) {
	failed := errors.New("the guest failed")
	h := newHouse(t, func(ctx context.Context, x *guest.Exchange) (guest.Outcome, error) {
		switch x.Request.URL.Path {
		case "/reads":
			go x.Request.Body.Read(make([]byte, 100))
			time.Sleep(20 * time.Millisecond) // it has begun
		case "/handoff":
			return handoff(x, "nobody")
		case "/breaks":
			go x.Request.Body.Read(make([]byte, 100))
			time.Sleep(20 * time.Millisecond)
			body := io.MultiReader(strings.NewReader("half"), failing{})
			return guest.Outcome{Response: &http.Response{StatusCode: 200, Body: io.NopCloser(body), ContentLength: -1}}, nil
		}
		return guest.Outcome{}, failed
	}, false, nil)
	for _, test := range []struct {
		path, head string
		status     int
	}{
		{"/", "Content-Length: 10", 500},
		{"/", "Transfer-Encoding: chunked", 500},
		{"/", "Content-Length: 10\r\nExpect: 100-continue", 500},
		{"/reads", "Content-Length: 10", 500},
		{"/handoff", "Content-Length: 10", 502},
		{"/breaks", "Content-Length: 10", 200},
		{"/breaks", "Transfer-Encoding: chunked", 200},
	} {
		t.Run(test.path+" "+test.head, func(t *testing.T) {
			conn, err := net.Dial("tcp", h.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: h\r\n%s\r\n\r\n", test.path, test.head)
			reader := bufio.NewReader(conn)
			response, err := http.ReadResponse(reader, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.ReadAll(response.Body)
			if response.StatusCode != test.status || (err != nil) != (test.path == "/breaks") {
				t.Errorf("got %d, %v", response.StatusCode, err)
			}
			if _, err := reader.ReadByte(); err != io.EOF {
				t.Errorf("the connection goes on: %v", err)
			}
		})
	}
}

func TestWhatAGuestBreaksOffIsNotWhole(t *testing.T) {
	h := newHouse(t, func(ctx context.Context, x *guest.Exchange) (guest.Outcome, error) {
		body := io.MultiReader(strings.NewReader("half"), failing{})
		return guest.Outcome{Response: &http.Response{StatusCode: 200, Body: io.NopCloser(body), ContentLength: -1}}, nil
	}, false, nil)
	response, err := http.Get(h.url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text, err := io.ReadAll(response.Body); err == nil {
		t.Errorf("got %q, whole", text)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("broken off") }

func TestAStatusWithoutContentHasNone(t *testing.T) {
	closed := make(chan struct{}, 1)
	h := newHouse(t, func(_ context.Context, x *guest.Exchange) (guest.Outcome, error) {
		status, _ := strconv.Atoi(x.Request.URL.Query().Get("status"))
		outcome, err := answer(status, "a body", "Etag: \"x\"", "Content-Length: 6")
		outcome.Response.Body = &tellsItsEnd{outcome.Response.Body, closed}
		return outcome, err
	}, false, nil)
	for _, status := range []int{204, 304} {
		response, text := h.do("GET", "/?status="+strconv.Itoa(status), "")
		if response.StatusCode != status || text != "" || response.Header.Get("Etag") == "" || response.Header.Get("Content-Length") != "" {
			t.Errorf("got %d %v %q, want %d", response.StatusCode, response.Header, text, status)
		}
		<-closed
	}
}

// tellsItsEnd is a body that tells of its Close.
type tellsItsEnd struct {
	io.ReadCloser
	closed chan<- struct{}
}

func (b *tellsItsEnd) Close() error {
	b.closed <- struct{}{}
	return b.ReadCloser.Close()
}

func TestAGuestIsAnOrigin(t *testing.T) {
	var asked sync.Map
	h := newHouse(t, func(ctx context.Context, x *guest.Exchange) (guest.Outcome, error) {
		n, _ := asked.LoadOrStore(x.Request.URL.Path, new(int))
		*n.(*int)++
		switch x.Request.URL.Path {
		case "/stream":
			return answer(200, "hello\n", "Content-Type: text/plain", "Grip-Hold: stream", "Grip-Channel: room")
		case "/poll":
			body, _ := io.ReadAll(io.LimitReader(x.Request.Body, 2))
			if string(body) != "on" {
				t.Errorf("guest read %q", body)
			}
			return answer(200, "nothing", "Grip-Hold: response", "Grip-Channel: poll", "Grip-Timeout: 60")
		}
		return answer(200, "", "Grip-Channel: no-hold")
	}, false, nil)

	response, err := http.Get(h.url + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	if line, _ := lines.ReadString('\n'); line != "hello\n" || response.Header.Get("Grip-Hold") != "" {
		t.Fatalf("got %q, %v", line, response.Header)
	}
	done := make(chan struct{})
	go h.publish(&grip.Item{Channel: "room", Stream: &grip.StreamItem{Content: []byte("news\n")}}, done)
	if line, err := lines.ReadString('\n'); line != "news\n" {
		t.Errorf("got %q, %v", line, err)
	}
	close(done)

	done = make(chan struct{})
	go h.publish(&grip.Item{Channel: "poll", Response: &grip.ResponseItem{Code: 200, Body: []byte("polled")}}, done)
	if _, text := h.do("POST", "/poll", "one"); text != "polled" {
		t.Errorf("poll: got %q", text)
	}
	close(done)
	for h.g.Held() > 1 {
		time.Sleep(time.Millisecond) // nobody tells
	}
}

func TestAHandedOffRequestGoesOnAtTheBackend(t *testing.T) {
	type seen struct {
		*http.Request
		body string
	}
	requests := make(chan seen, 10)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		requests <- seen{r, string(body)}
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", "room")
		io.WriteString(w, "hello\n")
	}))
	defer app.Close()
	h := newHouse(t, func(ctx context.Context, x *guest.Exchange) (guest.Outcome, error) {
		read, err := io.ReadAll(io.LimitReader(x.Request.Body, 3))
		if string(read) != "the" {
			t.Errorf("guest read %q, %v", read, err)
		}
		r := x.Request.Clone(ctx)
		r.Method, r.RequestURI = "PUT", ""
		r.URL, _ = url.Parse("http://elsewhere/other%2Fpath?q=1")
		r.Host = "elsewhere"
		r.Header = http.Header{"X-Guest": {"added"}, "Content-Length": {"1"}, "Grip-Sig": {"forged"}, "Expect": {"100-continue"}, "Cdn-Loop": {"x"},
			"Upgrade": {"h2c"}, "Sec-Websocket-Key": {"k"}, "Pushpin-Route": {"x"}, "Host": {"elsewhere"}, "Te": {"gzip"}}
		return guest.Outcome{Handoff: &guest.Handoff{Backend: "app", Request: r}}, nil
	}, false, backends{"app": app})
	r, _ := http.NewRequest("POST", h.url+"/path", strings.NewReader("the client's body"))
	r.Host = "www.example"
	r.Header.Set("X-Client", "removed")
	r.Header.Set("Grip-Sig", "forged")
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got := <-requests
	if got.Method != "PUT" || got.RequestURI != "/other%2Fpath?q=1" || got.Host != "www.example" {
		t.Errorf("got %s %s of %s", got.Method, got.RequestURI, got.Host)
	}
	if got.body != "the client's body" {
		t.Errorf("body: got %q", got.body)
	}
	for _, name := range []string{"X-Client", "Expect", "Cdn-Loop", "Upgrade", "Sec-Websocket-Key", "Pushpin-Route", "Host", "Te"} {
		if values := got.Header[name]; values != nil {
			t.Errorf("%s: got %q, want none", name, values)
		}
	}
	if got.Header.Get("X-Guest") != "added" || got.Header.Get("Grip-Feature") == "" {
		t.Errorf("got %v", got.Header)
	}
	if err := grip.NewVerifier("gripway", testKey).Verify(got.Header.Get("Grip-Sig"), time.Now()); err != nil {
		t.Errorf("Grip-Sig: %v", err)
	}
	lines := bufio.NewReader(response.Body)
	lines.ReadString('\n')
	done := make(chan struct{})
	defer close(done)
	go h.publish(&grip.Item{Channel: "room", Stream: &grip.StreamItem{Content: []byte("news\n")}}, done)
	if line, err := lines.ReadString('\n'); line != "news\n" {
		t.Errorf("got %q, %v", line, err)
	}
	if !h.metric(`gripway_guest_decisions_total{decision="handoff"} 1`) {
		t.Error("not counted")
	}
}

func TestAHandedOffPollIsAskedAgainAtTheBackend(t *testing.T) {
	asked := make(chan string, 10)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.URL.Path
		if len(asked) > 1 {
			io.WriteString(w, "changed")
			return
		}
		w.Header().Set("Grip-Hold", "response")
		w.Header().Set("Grip-Channel", "room")
	}))
	defer app.Close()
	guests := 0
	h := newHouse(t, func(ctx context.Context, x *guest.Exchange) (guest.Outcome, error) {
		guests++
		return handoff(x, "app")
	}, false, backends{"app": app})
	answers := make(chan string, 1)
	go func() {
		_, text := h.do("GET", "/poll", "")
		answers <- text
	}()
	got := ""
	for got == "" {
		h.g.Recover() // nobody tells when the poll follows its channel
		select {
		case got = <-answers:
		case <-time.After(10 * time.Millisecond):
		}
	}
	if got != "changed" {
		t.Errorf("got %q", got)
	}
	if guests != 1 {
		t.Errorf("guest was asked %d times", guests)
	}
}

func TestThePrefixOfTheGuestsRouteHoldsForHandoffs(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Grip-Hold", "response")
		w.Header().Set("Grip-Channel", "room")
	}))
	defer app.Close()
	h := newHouse(t, func(ctx context.Context, x *guest.Exchange) (guest.Outcome, error) { return handoff(x, "app") }, false, backends{"app": app})
	h.g.SetRoutes([]*gateway.Route{{Domain: "*", Prefix: "mine-", Rules: &origin.Rules{}, Guest: h.guest}})
	answers := make(chan string, 1)
	go func() {
		_, text := h.do("GET", "/poll", "")
		answers <- text
	}()
	for h.g.Held() == 0 {
		time.Sleep(time.Millisecond) // nobody tells
	}
	h.g.Recover() // and still when it has been asked again
	done := make(chan struct{})
	defer close(done)
	go h.publish(&grip.Item{Channel: "room", Response: &grip.ResponseItem{Code: 200, Body: []byte("somebody else's")}}, done)
	go h.publish(&grip.Item{Channel: "mine-room", Response: &grip.ResponseItem{Code: 200, Body: []byte("mine")}}, done)
	if got := <-answers; got != "mine" {
		t.Errorf("got %q", got)
	}
}

func TestAWebSocketIsHandedOff(t *testing.T) {
	chat := &wsoverhttp.Handler{
		Open:    func(c *wsoverhttp.Conn) { c.Subscribe("room") },
		Message: func(c *wsoverhttp.Conn, m wsoverhttp.Message) { c.SendText("you said " + m.String()) },
	}
	app := httptest.NewServer(chat)
	defer app.Close()
	for _, backend := range []string{"app", "self"} {
		t.Run(backend, func(t *testing.T) {
			h := newHouse(t, func(ctx context.Context, x *guest.Exchange) (guest.Outcome, error) {
				if x.Request.Header.Get("Grip-Sig") != "" {
					// It is asked as an origin.
					w := httptest.NewRecorder()
					chat.ServeHTTP(w, x.Request)
					return guest.Outcome{Response: w.Result()}, nil
				}
				return handoff(x, backend)
			}, false, backends{"app": app})
			ws, _, err := websocket.DefaultDialer.Dial("ws://"+h.addr+"/chat", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer ws.Close()
			ws.WriteMessage(websocket.TextMessage, []byte("hi"))
			if _, data, err := ws.ReadMessage(); string(data) != "you said hi" {
				t.Errorf("got %q, %v", data, err)
			}
			h.bus.Publish(context.Background(), "room", (&grip.Item{Channel: "room", Message: &grip.MessageItem{Content: []byte("news")}}).AppendJSON(nil))
			if _, data, err := ws.ReadMessage(); string(data) != "news" {
				t.Errorf("got %q, %v", data, err)
			}
		})
	}
}

func TestWhatWasHandedOffIsNotHandedOffAgain(t *testing.T) {
	h := newHouse(t, func(ctx context.Context, x *guest.Exchange) (guest.Outcome, error) { return handoff(x, "self") }, false, nil)
	if response, text := h.do("GET", "/", ""); response.StatusCode != 502 || strings.Contains(text, "Grip-Sig") {
		t.Errorf("in process: got %d %q", response.StatusCode, text)
	}
	token, _ := grip.NewSigner("gripway", testKey).Sign(time.Now())
	if response, _ := h.do("GET", "/", "", "Grip-Sig: "+token); response.StatusCode != 500 {
		t.Errorf("over the network: got %d", response.StatusCode)
	}
	if !h.metric(`gripway_guest_decisions_total{decision="loop"} 2`) {
		t.Error("not counted")
	}
	around := make(http.Header)
	for range 8 {
		guest.CountHop(around, nil)
	}
	if response, _ := h.do("GET", "/", "", "CDN-Loop: "+strings.Join(around["Cdn-Loop"], ", ")); response.StatusCode != 508 {
		t.Errorf("around: got %d", response.StatusCode)
	}
}

func TestWhatComesBackSignedIsAnsweredWithItsInstruction(t *testing.T) {
	h := newHouse(t, func(ctx context.Context, x *guest.Exchange) (guest.Outcome, error) {
		return answer(200, "held elsewhere", "Grip-Hold: stream", "Grip-Channel: room")
	}, false, nil)
	token, _ := grip.NewSigner("gripway", testKey).Sign(time.Now())
	response, text := h.do("GET", "/", "", "Grip-Sig: "+token)
	if response.Header.Get("Grip-Hold") != "stream" || text != "held elsewhere" {
		t.Errorf("got %v %q", response.Header, text)
	}
}

func TestAWebSocketIsPassedThrough(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			http.Error(w, "not for you", http.StatusForbidden)
			return
		}
		if r.Header.Get("Grip-Sig") != "" {
			t.Error("signed")
		}
		up := websocket.Upgrader{EnableCompression: true, CheckOrigin: func(*http.Request) bool { return true }}
		ws, err := up.Upgrade(w, r, http.Header{"X-App": {"1"}})
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.Close()
		ws.WriteMessage(websocket.TextMessage, []byte("c:{\"type\":\"subscribe\"}")) // no GRIP: an app may say so
		for {
			kind, data, err := ws.ReadMessage()
			if err != nil {
				return
			}
			ws.WriteMessage(kind, data)
		}
	}))
	defer app.Close()
	h := newHouse(t, func(ctx context.Context, x *guest.Exchange) (guest.Outcome, error) {
		return guest.Outcome{Handoff: &guest.Handoff{WebSocket: true, Backend: "app", Request: x.Request}}, nil
	}, true, backends{"app": app})
	dialer := websocket.Dialer{EnableCompression: true}
	ws, response, err := dialer.Dial("ws://"+h.addr+"/chat", http.Header{"Grip-Sig": {"forged"}})
	if err != nil {
		t.Fatal(err)
	}
	if response.Header.Get("X-App") != "1" || response.Header.Get("Sec-Websocket-Extensions") == "" {
		t.Errorf("got %v", response.Header)
	}
	if _, data, err := ws.ReadMessage(); string(data) != `c:{"type":"subscribe"}` {
		t.Fatalf("got %q, %v", data, err)
	}
	big := strings.Repeat("0123456789", 20_000)
	ws.WriteMessage(websocket.BinaryMessage, []byte(big))
	if _, data, err := ws.ReadMessage(); string(data) != big {
		t.Errorf("got %d bytes, %v", len(data), err)
	}
	if h.g.Held() != 1 || !h.metric("gripway_tunnels 1") {
		t.Errorf("%d held", h.g.Held())
	}
	ws.Close()
	for h.g.Held() > 0 {
		time.Sleep(time.Millisecond) // nobody tells
	}
	if _, response, _ := dialer.Dial("ws://"+h.addr+"/no", nil); response == nil || response.StatusCode != 403 {
		t.Errorf("refused: got %v", response)
	}
}

func TestAGuestThatFailsIsToldToTheLogOnly(t *testing.T) {
	for _, test := range []struct {
		name   string
		err    error
		debug  bool
		status int
		text   string
		metric string
	}{
		{"a trap", &guest.Fault{Kind: guest.FaultTrap, Text: "secret"}, false, 500, "The service failed.\n", `gripway_guest_faults_total{kind="trap"} 1`},
		{"a limit", &guest.Fault{Kind: guest.FaultCPU, Text: "secret"}, false, 503, "The service reached a limit.\n", `gripway_guest_faults_total{kind="cpu"} 1`},
		{"memory", &guest.Fault{Kind: guest.FaultMemory, Text: "secret"}, false, 503, "The service reached a limit.\n", `gripway_guest_faults_total{kind="memory"} 1`},
		{"debug", &guest.Fault{Kind: guest.FaultAbort, Text: "panic: no"}, true, 500, "guest failed (abort): panic: no\n", `gripway_guest_faults_total{kind="abort"} 1`},
		{"no answer", guest.ErrUndecided, false, 200, "", `gripway_guest_decisions_total{decision="empty"} 1`},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHouse(t, func(ctx context.Context, x *guest.Exchange) (guest.Outcome, error) { return guest.Outcome{}, test.err }, test.debug, nil)
			response, text := h.do("GET", "/", "")
			if response.StatusCode != test.status || text != test.text {
				t.Errorf("got %d %q, want %d %q", response.StatusCode, text, test.status, test.text)
			}
			if !h.metric(test.metric) {
				t.Errorf("no %s", test.metric)
			}
		})
	}
}

func TestABackendThatIsNotThere(t *testing.T) {
	h := newHouse(t, func(ctx context.Context, x *guest.Exchange) (guest.Outcome, error) {
		return guest.Outcome{Handoff: &guest.Handoff{WebSocket: x.Request.URL.Path == "/ws", Backend: "nowhere", Request: x.Request}}, nil
	}, false, backends{})
	if response, _ := h.do("GET", "/", ""); response.StatusCode != 502 {
		t.Errorf("GRIP: got %d", response.StatusCode)
	}
	if response, _ := h.do("GET", "/ws", ""); response.StatusCode != 500 {
		t.Errorf("WebSocket: got %d", response.StatusCode)
	}
}

func TestAGuestIsToldThatItsClientHasGone(t *testing.T) {
	ended := make(chan error, 1)
	h := newHouse(t, func(ctx context.Context, x *guest.Exchange) (guest.Outcome, error) {
		<-ctx.Done()
		ended <- ctx.Err()
		return guest.Outcome{}, &guest.Fault{Kind: guest.FaultEnded, Text: "gone"}
	}, false, nil)
	ctx, cancel := context.WithCancel(context.Background())
	r, _ := http.NewRequestWithContext(ctx, "GET", h.url+"/slow", nil)
	go func() {
		for !h.metric(`gripway_requests_total{kind="http"} 1`) {
			time.Sleep(time.Millisecond) // nobody tells
		}
		cancel()
	}()
	if _, err := http.DefaultTransport.RoundTrip(r); err == nil {
		t.Error("the client got an answer")
	}
	if err := <-ended; err == nil {
		t.Error("the guest was not told")
	}
}

func TestEarlyHintsComeFirst(t *testing.T) {
	var late func(int, http.Header)
	h := newHouse(t, func(ctx context.Context, x *guest.Exchange) (guest.Outcome, error) {
		x.Early(103, http.Header{"Link": {"</a.css>; rel=preload"}})
		x.Early(101, nil) // is none
		late = x.Early
		return answer(200, "page")
	}, false, nil)
	var hints []string
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, header.Get("Link")))
		return nil
	}}
	r, _ := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), "GET", h.url, nil)
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if len(hints) != 1 || hints[0] != "103</a.css>; rel=preload" && hints[0] != "103 </a.css>; rel=preload" {
		t.Errorf("got %q", hints)
	}
	if response.StatusCode != 200 || response.Header.Get("Link") != "" {
		t.Errorf("got %d %v", response.StatusCode, response.Header)
	}
	late(103, http.Header{"Link": {"too late"}})
}

// The guest is not stopped while it writes to a client, so that it must not wait there.
func TestAClientThatReadsNoEarlyHintsDoesNotHoldTheGuest(t *testing.T) {
	decided := make(chan struct{})
	h := newHouse(t, func(ctx context.Context, x *guest.Exchange) (guest.Outcome, error) {
		defer close(decided)
		hint := http.Header{"Link": {"<" + strings.Repeat("/a", 4000) + ">; rel=preload"}}
		for range 10000 {
			x.Early(103, hint)
		}
		return answer(200, "page")
	}, false, nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	select {
	case <-decided:
	case <-time.After(20 * time.Second):
		t.Fatal("the guest waits for a client that does not read")
	}
}

func TestAGuestClosesItsClientsConnection(t *testing.T) {
	for _, closes := range []bool{true, false} {
		h := newHouse(t, func(ctx context.Context, x *guest.Exchange) (guest.Outcome, error) {
			outcome, err := answer(200, "page")
			outcome.Response.Close = closes
			return outcome, err
		}, false, nil)
		response, err := http.Get(h.url)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.Close != closes {
			t.Errorf("got Connection: close %t, want %t", response.Close, closes)
		}
	}
}

func TestClientFacts(t *testing.T) {
	clients := make(chan guest.Client, 1)
	h := newHouse(t, func(ctx context.Context, x *guest.Exchange) (guest.Outcome, error) {
		clients <- x.Client
		return answer(200, "")
	}, false, nil)
	h.do("GET", "/", "")
	c := <-clients
	if !c.Remote.Addr().IsLoopback() || c.Remote.Port() == 0 || c.Local.String() != h.addr || c.TLS != nil || c.Hello != nil {
		t.Errorf("got %+v", c)
	}

	for _, secure := range []bool{false, true} {
		addr := h.serveSeen(secure)
		dial := func(protocol string) net.Conn {
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			if secure {
				nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}})
			}
			t.Cleanup(func() { nc.Close() })
			return nc
		}
		check := func(c guest.Client, protocol, frames string, names ...string) {
			t.Helper()
			var got []string
			for _, f := range c.Header {
				got = append(got, f.Name)
			}
			if !slices.Equal(got, names) || c.HTTP2 != frames {
				t.Errorf("TLS %t, %s: got %q and %q", secure, protocol, got, c.HTTP2)
			}
			if !secure {
				if c.TLS != nil || c.Hello != nil {
					t.Errorf("%s: got %+v", protocol, c)
				}
				return
			}
			if c.TLS == nil || c.TLS.NegotiatedProtocol != protocol {
				t.Fatalf("got %+v", c)
			}
			want := int(c.Hello[1])<<16 + int(c.Hello[2])<<8 + int(c.Hello[3]) + 4
			if c.Hello[0] != 1 || len(c.Hello) != want || !bytes.Contains(c.Hello, []byte(protocol)) {
				t.Errorf("hello of %d bytes, want %d: % x", len(c.Hello), want, c.Hello[:8])
			}
		}

		one := dial("http/1.1")
		for range 2 {
			io.WriteString(one, "GET /old HTTP/1.1\r\nx-B: 1\r\nHost: x\r\nX-a: 2\r\nx-b: 3\r\n\r\n")
			check(<-clients, "http/1.1", "", "x-B", "Host", "X-a", "x-b")
		}

		two := dial("h2")
		io.WriteString(two, http2.ClientPreface)
		framer := http2.NewFramer(two, two)
		framer.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0})
		framer.WriteWindowUpdate(0, 100)
		var block bytes.Buffer
		encoder := hpack.NewEncoder(&block)
		for id := uint32(1); id < 5; id += 2 {
			block.Reset()
			for _, field := range [][2]string{
				{":method", "GET"}, {":path", "/new"}, {":scheme", "https"}, {":authority", "x"}, {"x-b", "1"}, {"cookie", "a"}, {"x-a", "2"}, {"x-b", "3"}, {"cookie", "b"},
			} {
				encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
			}
			framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
			check(<-clients, "h2", "2:0|100|0|m,p,s,a", "x-b", "cookie", "x-a", "x-b", "cookie")
		}
	}
}

// A handed-off request's client is who it was: the guest that is its own origin hears
// of it, too.
func TestClientFactsOutliveAHandoff(t *testing.T) {
	clients := make(chan guest.Client, 2)
	h := newHouse(t, func(ctx context.Context, x *guest.Exchange) (guest.Outcome, error) {
		clients <- x.Client
		if x.Request.Header.Get("Grip-Sig") == "" {
			return handoff(x, "self")
		}
		return answer(200, "page")
	}, false, nil)
	addr := h.serveSeen(true)
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	response, err := client.Get("https://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	first, second := <-clients, <-clients
	if first.HTTP2 == "" || len(first.Header) == 0 || second.HTTP2 != first.HTTP2 || second.Header != nil || !bytes.Equal(first.Hello, second.Hello) {
		t.Errorf("got %+v, then %+v", first, second)
	}
}

// serveSeen serves the house's gateway so that what clients say is seen.
func (h *house) serveSeen(secure bool) string {
	h.t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	model := httptest.NewTLSServer(nil) // has a certificate
	config := model.TLS
	model.Close()
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: h.g, ConnContext: wire.ContextSeen, Protocols: &protocols, TLSConfig: config}
	if secure {
		go wire.ServeTLS(server, wire.Listen(inner))
	} else {
		go server.Serve(wire.Listen(inner))
	}
	h.t.Cleanup(func() { server.Close() })
	return inner.Addr().String()
}

func TestABodyThatTheGuestHasUsedUpIsNotHandedOff(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		io.Copy(w, r.Body)
	}))
	defer server.Close()
	h := newHouse(t, func(_ context.Context, x *guest.Exchange) (guest.Outcome, error) {
		io.Copy(io.Discard, x.Request.Body)
		return handoff(x, "app")
	}, true, backends{"app": server})
	for _, test := range []struct {
		bytes, status int
		asked         int32
	}{{1 << 20, 200, 1}, {1<<20 + 1, 500, 1}} {
		response, err := http.Post(h.url, "text/plain", bytes.NewReader(make([]byte, test.bytes)))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != test.status || asked.Load() != test.asked || test.status == 500 && !strings.Contains(string(text), "more than 1048576 bytes of the body") {
			t.Errorf("%d bytes: got %d, %.100q; the backend was asked %d times", test.bytes, response.StatusCode, text, asked.Load())
		}
	}
}
