package wsoverhttp_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gripway/gripway/wsoverhttp"
)

// origin is a RoundTripper that answers by hand.
type origin struct {
	answer func(r *http.Request, body string) *http.Response
	bodies []string
	heads  []http.Header
}

func (o *origin) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	o.bodies, o.heads = append(o.bodies, string(body)), append(o.heads, r.Header)
	return o.answer(r, string(body)), nil
}

// answers makes an origin that gives these answers in turn.
func answers(list ...*http.Response) *origin {
	return &origin{answer: func(*http.Request, string) *http.Response {
		next := list[0]
		list = list[1:]
		return next
	}}
}

// ok is a well-formed answer; fields are "Name: value".
func ok(body string, fields ...string) *http.Response {
	return reply(200, body, append([]string{"Content-Type: application/websocket-events"}, fields...)...)
}

func reply(status int, body string, fields ...string) *http.Response {
	header := http.Header{}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		header.Add(name, value)
	}
	return &http.Response{StatusCode: status, Header: header, ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body))}
}

func client(transport http.RoundTripper) *wsoverhttp.Client {
	return wsoverhttp.NewClient(wsoverhttp.ClientOptions{Transport: transport, URL: "ws://example.com/chat"})
}

// opened returns a Client whose origin has granted the WebSocket and now gives
// the answers in turn.
func opened(t testing.TB, options wsoverhttp.ClientOptions, list ...*http.Response) (*wsoverhttp.Client, *origin) {
	t.Helper()
	o := answers(append([]*http.Response{ok("OPEN\r\n")}, list...)...)
	options.Transport, options.URL = o, "ws://example.com/chat"
	c := wsoverhttp.NewClient(options)
	if answer, err := c.Open(t.Context()); err != nil || !answer.Opened {
		t.Fatalf("Open = %+v, %v, want it opened", answer, err)
	}
	o.bodies, o.heads = nil, nil
	return c, o
}

func text(s string) wsoverhttp.Event {
	return wsoverhttp.Event{Type: wsoverhttp.Text, Content: []byte(s)}
}

func TestRequestOnTheWire(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	got := make(chan string, 2)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		reader := bufio.NewReader(conn)
		for range 2 {
			var seen strings.Builder
			r, err := http.ReadRequest(bufio.NewReader(io.TeeReader(reader, &seen)))
			if err != nil {
				got <- err.Error()
				return
			}
			io.Copy(io.Discard, r.Body)
			got <- seen.String()
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/websocket-events\r\nSet-Meta-User: ann\r\nContent-Length: 6\r\n\r\nOPEN\r\n")
		}
	}()

	var signed atomic.Int32
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	c := wsoverhttp.NewClient(wsoverhttp.ClientOptions{
		Transport: transport,
		URL:       "ws://" + listener.Addr().String() + "/a%2Fb?q=1&q=2",
		Host:      "chat.example.com",
		Header: http.Header{
			"Accept":                   {"*/*"},
			"Accept-Encoding":          {"gzip"},
			"Connection":               {"Upgrade, X-Hop"},
			"Connection-Id":            {"forged"},
			"Content-Bytes-Replayed":   {"99"},
			"Content-Length":           {"0"},
			"Cookie":                   {"a=1", "b=2"},
			"Meta-User":                {"forged"},
			"Origin":                   {"https://example.com"},
			"Sec-Websocket-Extensions": {"permessage-deflate"},
			"Sec-Websocket-Key":        {"dGhlIHNhbXBsZSBub25jZQ=="},
			"Sec-Websocket-Version":    {"13"},
			"Upgrade":                  {"websocket"},
			"User-Agent":               {"curl/8.14.1"},
			"X-Hop":                    {"for you only"},
		},
		ConnectionID: "b5ea0e11",
		Decorate: func(r *http.Request) {
			r.Header.Set("Grip-Sig", fmt.Sprint("token", signed.Add(1)))
		},
	})

	if _, err := c.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"POST /a%2Fb?q=1&q=2 HTTP/1.1",
		"Host: chat.example.com",
		"User-Agent: curl/8.14.1",
		"Content-Length: 6",
		"Accept: application/websocket-events",
		"Connection-Id: b5ea0e11",
		"Content-Type: application/websocket-events",
		"Cookie: a=1",
		"Cookie: b=2",
		"Grip-Sig: token1",
		"Origin: https://example.com",
		"Sec-Websocket-Extensions: grip",
		"Sec-Websocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
		"Sec-Websocket-Version: 13",
		"", "OPEN\r\n",
	}, "\r\n")
	if got := <-got; got != want {
		t.Errorf("first request:\n%s\nwant:\n%s", got, want)
	}

	if _, err := c.Send(t.Context()); err != nil {
		t.Fatal(err)
	}
	want = strings.NewReplacer("token1", "token2", "Length: 6", "Length: 0",
		"Origin:", "Meta-User: ann\r\nOrigin:", "\r\n\r\nOPEN\r\n", "\r\n\r\n").Replace(want)
	if got := <-got; got != want {
		t.Errorf("keep-alive request:\n%s\nwant:\n%s", got, want)
	}
}

func TestHeadAndBodyLeaveInOneWrite(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", wsoverhttp.ContentType)
		io.Copy(w, r.Body)
	}))
	defer server.Close()
	var writes atomic.Int32
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		return countedConn{conn, &writes}, err
	}}
	defer transport.CloseIdleConnections()
	c := wsoverhttp.NewClient(wsoverhttp.ClientOptions{Transport: transport, URL: server.URL})
	if _, err := c.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := writes.Load(); got != 1 {
		t.Errorf("the request took %d writes, want 1", got)
	}
}

type countedConn struct {
	net.Conn
	writes *atomic.Int32
}

func (c countedConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func TestAHandshakeMayBeSpelledAnyWay(t *testing.T) {
	o := answers(ok("OPEN\r\n"))
	c := wsoverhttp.NewClient(wsoverhttp.ClientOptions{Transport: o, URL: "wss://example.com/", Header: http.Header{
		"cookie": {"a"}, "Cookie": {"b"}, "meta-user": {"forged"}, "META-Role": {"forged"}, "upgrade": {"websocket"},
		"Meta_user": {"forged"}, "Connection_id": {"forged"}, "X_a": {"1"},
	}})
	if _, err := c.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	head := o.heads[0]
	if got := len(head["Cookie"]); got != 2 {
		t.Errorf("Cookie = %q, want both", head["Cookie"])
	}
	if got := len(head["X_a"]); got != 1 {
		t.Errorf("X_a = %q, want it passed on", head["X_a"])
	}
	for name := range head {
		if low := strings.ToLower(name); strings.HasPrefix(low, "meta") || low == "upgrade" || low == "connection_id" {
			t.Errorf("the origin was sent %s", name)
		}
	}
}

func TestAConnectionHasAnIDAndNoUserAgentOfOurs(t *testing.T) {
	o := answers(ok("OPEN\r\n"))
	c := client(o)
	if _, err := c.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	id := o.heads[0].Get("Connection-Id")
	if len(id) != 36 || id[14] != '4' || id != c.ID() {
		t.Errorf("Connection-Id = %q, ID() = %q, want one random UUID", id, c.ID())
	}
	if agent, ok := o.heads[0]["User-Agent"]; !ok || len(agent) != 0 {
		t.Errorf("User-Agent = %q, %t, want it present and empty, so that net/http adds none", agent, ok)
	}
}

func TestTheAnswerToOpen(t *testing.T) {
	for _, c := range []struct {
		why    string
		answer *http.Response
		want   string // "open", "pending", "refused <status>" or how the error ends
	}{
		{"granted", ok("OPEN\r\n"), "open"},
		{"granted, a blank line after it", ok("OPEN\r\n\r\n"), "open"},
		{"not decided yet", ok("", "Keep-Alive-Interval: 30"), "pending"},
		{"empty, and never asked again", ok(""), "(200): answer to OPEN does not begin with OPEN and has no keep-alive interval"},
		{"empty, keep-alive off", ok("", "Keep-Alive-Interval: 0"), "and has no keep-alive interval"},
		{"message before it", ok("TEXT 2\r\nhi\r\nOPEN\r\n"), `does not begin with OPEN but with "TEXT 2\r\nhi\r\nOPEN\r\n"`},
		{"unknown event before it", ok("HELLO\r\nOPEN\r\n"), `but with "HELLO\r\nOPEN\r\n"`},
		{"lower case", ok("open\r\n", "Keep-Alive-Interval: 30"), `but with "open\r\n"`},
		{"bad size", ok("OPEN\r\nTEXT x\r\n"), `event 2 at byte 6: size is not a hexadecimal number: "x"`},
		{"refused", reply(403, "no", "Content-Type: text/plain"), "refused 403"},
		{"refused with events' content type", reply(401, "OPEN\r\n", "Content-Type: application/websocket-events"), "refused 401"},
		{"an ordinary page", reply(200, "<html>", "Content-Type: text/html"), "refused 200"},
		{"content type with a parameter", reply(200, "OPEN\r\n", "Content-Type: application/websocket-events; charset=utf-8"), "refused 200"},
		{"content type in capitals", reply(200, "OPEN\r\n", "Content-Type: Application/Websocket-Events"), "refused 200"},
		{"no content type", reply(200, "OPEN\r\n"), "refused 200"},
		{"an upgrade nobody asked for", reply(101, ""), "(101): status is not 200"},
		{"refused at too great length", reply(403, strings.Repeat("x", 100_001)), "refusal: answer is too large: 100001 bytes, at most 100000"},
		{"refused at great length", reply(403, strings.Repeat("x", 100_000)), "refused 403"},
		{"compressed", ok("OPEN\r\n", "Content-Encoding: gzip"), `answer has a content encoding: "gzip"`},
		{"said not to be compressed", ok("OPEN\r\n", "Content-Encoding: identity"), "open"},
		{"extension that cannot be read", ok("OPEN\r\n", `Sec-WebSocket-Extensions: grip; message-prefix="m`), "quoted string does not end"},
	} {
		t.Run(c.why, func(t *testing.T) {
			client := client(answers(c.answer))
			answer, err := client.Open(t.Context())
			var rejection *wsoverhttp.Rejection
			got := ""
			switch {
			case errors.As(err, &rejection):
				got = fmt.Sprint("refused ", rejection.Status)
			case err != nil:
				got = err.Error()
				var wrong *wsoverhttp.ResponseError
				if !errors.As(err, &wrong) || wrong.Status != c.answer.StatusCode {
					t.Errorf("Open = %v, want a ResponseError with the status", err)
				}
			case answer.Opened:
				got = "open"
			default:
				got = "pending"
			}
			if !strings.HasSuffix(got, c.want) {
				t.Errorf("Open = %s, want %s", got, c.want)
			}
			if client.Opened() != (c.want == "open") {
				t.Errorf("Opened() = %t", client.Opened())
			}
		})
	}
}

func TestARefusalIsForTheClientAsItIs(t *testing.T) {
	c := client(answers(reply(401, "who are you?", "WWW-Authenticate: Basic", "Content-Type: text/plain", "Set-Meta-A: b")))
	_, err := c.Open(t.Context())
	var rejection *wsoverhttp.Rejection
	if !errors.As(err, &rejection) {
		t.Fatalf("Open = %v, want a Rejection", err)
	}
	if got := rejection.Header.Get("WWW-Authenticate"); got != "Basic" || string(rejection.Body) != "who are you?" {
		t.Errorf("rejection has header %q and body %q", got, rejection.Body)
	}
	if got := c.Meta(); len(got) != 0 {
		t.Errorf("meta = %v, want none of a refusal", got)
	}
}

func TestWhatTheClientSeesIn101(t *testing.T) {
	c := client(answers(ok("OPEN\r\nTEXT 2\r\nhi\r\n",
		"Set-Cookie: a=1", "Set-Cookie: b=2", "Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Extensions: grip",
		"Sec-WebSocket-Accept: forged", "Keep-Alive-Interval: 30", "Set-Meta-User: ann", "Content-Bytes-Accepted: 0",
		"Connection: X-Hop", "X-Hop: for you only", "Content-Length: 18", "Upgrade: h2c")))
	answer, err := c.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := http.Header{"Set-Cookie": {"a=1", "b=2"}, "Sec-Websocket-Protocol": {"chat"}}
	if got := answer.Header; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("Header = %v, want %v", got, want)
	}
	if want := (wsoverhttp.GripExtension{On: true, MessagePrefix: "m:"}); answer.Extension != want {
		t.Errorf("Extension = %+v, want %+v", answer.Extension, want)
	}
	if got, want := show(answer.Events), "TEXT \"hi\"\n"; got != want {
		t.Errorf("Events = %s, want %s: the OPEN that grants is not among them", got, want)
	}
	if got := answer.KeepAlive; got != 30*time.Second || c.KeepAlive() != got {
		t.Errorf("KeepAlive = %v and %v, want 30 s", got, c.KeepAlive())
	}
}

func TestAnExtensionThatWasNotOfferedIsNotTaken(t *testing.T) {
	o := answers(ok("OPEN\r\n", "Sec-WebSocket-Extensions: grip"))
	c := wsoverhttp.NewClient(wsoverhttp.ClientOptions{Transport: o, URL: "ws://example.com", NoGrip: true})
	answer, err := c.Open(t.Context())
	if err != nil || answer.Extension.On {
		t.Errorf("Open = %+v, %v, want the extension off", answer, err)
	}
	if got, ok := o.heads[0]["Sec-Websocket-Extensions"]; ok {
		t.Errorf("Sec-WebSocket-Extensions = %q, want it absent", got)
	}
}

func TestAPendingHandshakeAsksAgain(t *testing.T) {
	o := answers(ok("", "Keep-Alive-Interval: 20", "Set-Meta-Try: 1"), ok(""), ok("OPEN\r\n", "Set-Cookie: a=1"))
	c := client(o)
	for range 2 {
		if answer, err := c.Send(t.Context()); err != nil || answer.Opened || answer.KeepAlive != 20*time.Second {
			t.Fatalf("Send = %+v, %v, want it pending", answer, err)
		}
	}
	answer, err := c.Send(t.Context())
	if err != nil || !answer.Opened || answer.Header.Get("Set-Cookie") != "a=1" {
		t.Fatalf("Send = %+v, %v, want it opened, with that answer's header", answer, err)
	}
	if got, want := fmt.Sprintf("%q", o.bodies), `["OPEN\r\n" "OPEN\r\n" "OPEN\r\n"]`; got != want {
		t.Errorf("bodies = %s, want %s", got, want)
	}
	if got := o.heads[2].Get("Meta-Try"); got != "1" {
		t.Errorf("Meta-Try = %q, want 1", got)
	}
	if _, err := c.Open(t.Context()); !errors.Is(err, wsoverhttp.ErrOpened) {
		t.Errorf("Open again = %v, want ErrOpened", err)
	}
}

func TestAClientThatLeavesBeforeTheOriginDecides(t *testing.T) {
	o := answers(ok("", "Keep-Alive-Interval: 20"), ok(""))
	c := client(o)
	if _, err := c.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Send(t.Context(), wsoverhttp.Event{Type: wsoverhttp.Disconnect}); err != nil {
		t.Fatal(err)
	}
	if got, want := o.bodies[1], "DISCONNECT\r\n"; got != want {
		t.Errorf("body = %q, want %q", got, want)
	}
}

func TestEventsOfTheClientOnTheWire(t *testing.T) {
	c, o := opened(t, wsoverhttp.ClientOptions{}, ok(""))
	_, err := c.Send(t.Context(),
		text("hello"),
		wsoverhttp.Event{Type: wsoverhttp.Text, Content: []byte{}},
		wsoverhttp.Event{Type: wsoverhttp.Binary, Content: []byte{0, '\r', '\n'}},
		wsoverhttp.Event{Type: wsoverhttp.Ping},
		wsoverhttp.Event{Type: wsoverhttp.Ping, Content: []byte{}},
		wsoverhttp.Event{Type: wsoverhttp.Pong, Content: []byte("x")},
		wsoverhttp.Event{Type: wsoverhttp.Close, Content: wsoverhttp.CloseContent(4002, "")},
	)
	if err != nil {
		t.Fatal(err)
	}
	want := "TEXT 5\r\nhello\r\nTEXT\r\nBINARY 3\r\n\x00\r\n\r\nPING\r\nPING\r\nPONG 1\r\nx\r\nCLOSE 2\r\n\x0f\xa2\r\n"
	if got := o.bodies[0]; got != want {
		t.Errorf("body = %q, want %q", got, want)
	}
}

func TestTheAnswerToALaterRequest(t *testing.T) {
	long := strings.Repeat("x", 126)
	for _, c := range []struct {
		why    string
		answer *http.Response
		want   string // events, or how the error ends
		is     error
	}{
		{"nothing", ok(""), "", nil},
		{"messages", ok("TEXT 2\r\nhi\r\nBINARY 1\r\n\x00\r\nPING\r\nPONG 1\r\nx\r\n"), "TEXT \"hi\"\nBINARY \"\\x00\"\nPING\nPONG \"x\"\n", nil},
		{"what follows CLOSE", ok("CLOSE\r\nTEXT 2\r\nhi\r\n"), "CLOSE\n", nil},
		{"what follows DISCONNECT", ok("TEXT 2\r\nhi\r\nDISCONNECT\r\nTEXT\r\n"), "TEXT \"hi\"\nDISCONNECT\n", nil},
		{"what follows a second OPEN", ok("OPEN\r\nTEXT 2\r\nhi\r\n"), "OPEN\n", nil},
		{"content cut short", ok("TEXT a\r\nhi"), "TEXT \"hi\"\n", nil},
		{"another status", reply(500, "boom"), `(500): status is not 200: "boom"`, wsoverhttp.ErrStatus},
		{"gone", reply(404, ""), "(404): status is not 200", wsoverhttp.ErrStatus},
		{"another content type", reply(200, "", "Content-Type: text/plain"), `: "text/plain"`, wsoverhttp.ErrContentType},
		{"malformed", ok("TEXT"), `event 1 at byte 0: event line does not end in CRLF: "TEXT"`, wsoverhttp.ErrNoLineEnd},
		{"ping too large for a frame", ok("PING 7e\r\n" + long + "\r\n"), "PING of 126 bytes, at most 125", wsoverhttp.ErrControl},
		{"close too large for a frame", ok("CLOSE 7e\r\n" + long + "\r\n"), "CLOSE of 126 bytes, at most 125", wsoverhttp.ErrControl},
		{"close that is ignored, too large", ok("DISCONNECT\r\nCLOSE 7e\r\n" + long + "\r\n"), "DISCONNECT\n", nil},
		{"too large", ok(strings.Repeat("x", 1_000_001)), "answer is too large: 1000001 bytes, at most 1000000", wsoverhttp.ErrTooLarge},
		{"meta of control characters", ok("", "Set-Meta-A: a\x00b"), `meta cannot be kept: A has the value "a\x00b"`, wsoverhttp.ErrMeta},
		{"meta with a name no header has", &http.Response{StatusCode: 200, Body: http.NoBody,
			Header: http.Header{"Content-Type": {wsoverhttp.ContentType}, "Set-Meta-A b": {"c"}}}, `name "A b"`, wsoverhttp.ErrMeta},
		{"meta too large", ok("", "Set-Meta-A: "+strings.Repeat("x", 20_000)), "Meta-A makes it 20006 bytes, at most 16384", wsoverhttp.ErrMeta},
		{"accepted is not a number", ok("", "Content-Bytes-Accepted: some"), `Content-Bytes-Accepted "some" is not a number of bytes`, wsoverhttp.ErrAccepted},
		{"accepted is negative", ok("", "Content-Bytes-Accepted: -1"), "is not a number of bytes", wsoverhttp.ErrAccepted},
		{"accepted is more than offered", ok("", "Content-Bytes-Accepted: 6"), "Content-Bytes-Accepted 6, but 5 were offered", wsoverhttp.ErrAccepted},
	} {
		t.Run(c.why, func(t *testing.T) {
			client, _ := opened(t, wsoverhttp.ClientOptions{}, c.answer)
			answer, err := client.Send(t.Context(), text("hello"))
			if c.is != nil {
				var wrong *wsoverhttp.ResponseError
				if !errors.As(err, &wrong) || !errors.Is(err, c.is) || !strings.HasSuffix(err.Error(), c.want) {
					t.Errorf("Send = %v, want a ResponseError of %v that ends %q", err, c.is, c.want)
				}
				return
			}
			if err != nil || show(answer.Events) != c.want {
				t.Errorf("Send = %+v, %v, want %s", answer, err, c.want)
			}
		})
	}
}

func TestAStrictClientTakesNoContentCutShort(t *testing.T) {
	c, _ := opened(t, wsoverhttp.ClientOptions{Strict: true}, ok("TEXT a\r\nhi"))
	if _, err := c.Send(t.Context()); !errors.Is(err, wsoverhttp.ErrTruncated) {
		t.Errorf("Send = %v, want ErrTruncated", err)
	}
}

func TestAnAnswerOfUnknownLengthIsReadUpToTheLimit(t *testing.T) {
	for _, c := range []struct {
		why    string
		length int
		want   error
	}{
		{"empty", 0, nil},
		{"longer than one buffer", 100_000, nil},
		{"at the limit", 1_000_000, nil},
		{"over the limit", 1_000_001, wsoverhttp.ErrTooLarge},
		{"without end", 1 << 62, wsoverhttp.ErrTooLarge},
	} {
		t.Run(c.why, func(t *testing.T) {
			answer := ok("")
			answer.ContentLength = -1
			answer.Body = io.NopCloser(io.LimitReader(&blankLines{}, int64(c.length)))
			client, _ := opened(t, wsoverhttp.ClientOptions{}, answer)
			if _, err := client.Send(t.Context()); !errors.Is(err, c.want) {
				t.Errorf("Send = %v, want %v", err, c.want)
			}
		})
	}
}

// blankLines is a body of events of unknown type, without end.
type blankLines struct{ at int }

func (b *blankLines) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = "\r\n"[b.at&1]
		b.at++
	}
	return len(p), nil
}

func TestAnAnswerThatBreaksOffIsNoAnswer(t *testing.T) {
	for _, length := range []int64{20, -1} {
		answer := ok("")
		answer.ContentLength = length
		answer.Body = io.NopCloser(io.MultiReader(strings.NewReader("TEXT 2\r\n"), broken{}))
		c, _ := opened(t, wsoverhttp.ClientOptions{}, answer)
		_, err := c.Send(t.Context(), text("hello"))
		var wrong *wsoverhttp.ResponseError
		if !errors.Is(err, errBroken) || errors.As(err, &wrong) || errors.Is(err, wsoverhttp.ErrNotSent) {
			t.Errorf("Send = %v, want the transport's error, neither a ResponseError nor ErrNotSent", err)
		}
	}
}

type broken struct{}

var errBroken = errors.New("cable cut")

func (broken) Read([]byte) (int, error) { return 0, errBroken }

func TestKeepAliveIsStickyAndNotTooShort(t *testing.T) {
	for _, c := range []struct {
		why, value string
		want       time.Duration
	}{
		{"absent", "", 45 * time.Second},
		{"another", "60", 60 * time.Second},
		{"shorter than the least", "1", 20 * time.Second},
		{"off", "0", 0},
		{"negative", "-5", 0},
		{"garbage", "soon", 0},
		{"more seconds than 32 bits hold", "4294967296", 0},
	} {
		t.Run(c.why, func(t *testing.T) {
			answer := ok("")
			if c.value != "" {
				answer.Header.Set("Keep-Alive-Interval", c.value)
			}
			client, _ := opened(t, wsoverhttp.ClientOptions{}, ok("", "Keep-Alive-Interval: 45"), answer)
			for range 2 {
				if _, err := client.Send(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if got := client.KeepAlive(); got != c.want {
				t.Errorf("KeepAlive = %v, want %v", got, c.want)
			}
		})
	}
	c, _ := opened(t, wsoverhttp.ClientOptions{KeepAliveMin: time.Second}, ok("", "Keep-Alive-Interval: 1"))
	if answer, err := c.Send(t.Context()); err != nil || answer.KeepAlive != time.Second {
		t.Errorf("Send = %+v, %v, want the least to be an option", answer, err)
	}
}

func TestMetaIsSetReplacedAndDeleted(t *testing.T) {
	c, o := opened(t, wsoverhttp.ClientOptions{},
		ok("", "Set-Meta-User: ann", "Set-Meta-Role: guest", "Set-Meta-: nobody"),
		ok("", "SET-META-uSER: bob", "Set-Meta-Role: "),
		ok("", "Set-Meta-User: one", "Set-Meta-User: two"),
		ok(""))
	var got []string
	for range 4 {
		if _, err := c.Send(t.Context()); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(c.Meta()))
	}
	want := []string{"map[Role:guest User:ann]", "map[User:bob]", "map[User:two]", "map[User:two]"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("meta = %v, want %v", got, want)
	}
	for i, want := range []string{"", "ann", "bob", "two"} {
		if got := o.heads[i].Get("Meta-User"); got != want {
			t.Errorf("request %d: Meta-User = %q, want %q", i, got, want)
		}
	}
}

func TestMetaCanBeSetByTheGateway(t *testing.T) {
	c, o := opened(t, wsoverhttp.ClientOptions{}, ok(""))
	if err := c.SetMeta("user", "ann"); err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][2]string{{"", "x"}, {"a b", "x"}, {"a", "x\r\nGrip-Sig: forged"}, {"a", strings.Repeat("x", 20_000)}} {
		if err := c.SetMeta(bad[0], bad[1]); !errors.Is(err, wsoverhttp.ErrMeta) {
			t.Errorf("SetMeta(%q, %.30q) = %v, want ErrMeta", bad[0], bad[1], err)
		}
	}
	if _, err := c.Send(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := o.heads[0].Get("Meta-User"); got != "ann" || len(c.Meta()) != 1 {
		t.Errorf("Meta-User = %q, meta = %v, want ann alone", got, c.Meta())
	}
	changed := c.Meta()
	clear(changed)
	if got := c.Meta()["User"]; got != "ann" {
		t.Errorf("meta after changing the copy = %q, want ann", got)
	}
}

// The conversation of Pushpin's own test, websocketoverhttptest replay.
func TestWhatTheOriginHoldsBackComesAgain(t *testing.T) {
	c, o := opened(t, wsoverhttp.ClientOptions{},
		ok("", "Content-Bytes-Accepted: 5"), ok("TEXT 4\r\n[ok]\r\n"), ok("CLOSE\r\n"))
	buffer := []byte("[foo][hello")
	answer, err := c.Send(t.Context(), wsoverhttp.Event{Type: wsoverhttp.Text, Content: buffer})
	if err != nil || answer.Accepted != 5 || !answer.HasAccepted || answer.More {
		t.Fatalf("Send = %+v, %v, want 5 bytes accepted and nothing due at once", answer, err)
	}
	copy(buffer, "overwritten")
	if got, want := show(c.Pending()), "TEXT \"[hello\"\n"; got != want {
		t.Errorf("Pending = %s, want %s", got, want)
	}
	answer, err = c.Send(t.Context(), text(" world]"))
	if err != nil || show(answer.Events) != "TEXT \"[ok]\"\n" || answer.Accepted != 13 || answer.HasAccepted {
		t.Fatalf("Send = %+v, %v, want all 13 bytes accepted", answer, err)
	}
	if got, want := o.bodies[1], "TEXT 6\r\n[hello\r\nTEXT 7\r\n world]\r\n"; got != want {
		t.Errorf("body = %q, want %q", got, want)
	}
	if got := o.heads[1].Get("Content-Bytes-Replayed"); got != "6" {
		t.Errorf("Content-Bytes-Replayed = %q, want 6", got)
	}
	if _, err = c.Send(t.Context(), wsoverhttp.Event{Type: wsoverhttp.Close}); err != nil || len(c.Pending()) != 0 {
		t.Fatalf("Send = %v, Pending = %s", err, show(c.Pending()))
	}
	if got, ok := o.heads[2]["Content-Bytes-Replayed"]; ok {
		t.Errorf("Content-Bytes-Replayed = %q, want it absent", got)
	}
}

func TestARecoveryIsARequestWithoutEvents(t *testing.T) {
	c, o := opened(t, wsoverhttp.ClientOptions{}, ok("TEXT 1\r\nx\r\n"), ok(""))
	answer, err := c.Recover(t.Context(), http.Header{"Grip-Last": {"a; last-id=1", "b; last-id=2"}})
	if err != nil || len(answer.Events) != 1 {
		t.Fatalf("answer = %v, %v", answer, err)
	}
	last := len(o.heads) - 1
	if got, want := o.heads[last]["Grip-Last"], []string{"a; last-id=1", "b; last-id=2"}; !slices.Equal(got, want) || o.bodies[last] != "" {
		t.Errorf("request has Grip-Last %q and %q, want %q and nothing", got, o.bodies[last], want)
	}
	if _, err := c.Send(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := o.heads[last+1]["Grip-Last"]; got != nil {
		t.Errorf("the request after it has Grip-Last %q as well", got)
	}
}

func TestHowMuchIsAccepted(t *testing.T) {
	ping := wsoverhttp.Event{Type: wsoverhttp.Ping}
	bye := wsoverhttp.Event{Type: wsoverhttp.Close, Content: wsoverhttp.CloseContent(1000, "")}
	bare := wsoverhttp.Event{Type: wsoverhttp.Close}
	gone := wsoverhttp.Event{Type: wsoverhttp.Disconnect}
	for _, c := range []struct {
		why      string
		offered  []wsoverhttp.Event
		accepted int
		pending  string
		replayed string
		want     error
	}{
		{"nothing", []wsoverhttp.Event{text("abc"), text("de")}, 0, "TEXT \"abc\"\nTEXT \"de\"\n", "5", nil},
		{"part of the first", []wsoverhttp.Event{text("abc"), text("de")}, 2, "TEXT \"c\"\nTEXT \"de\"\n", "3", nil},
		{"the first", []wsoverhttp.Event{text("abc"), text("de")}, 3, "TEXT \"de\"\n", "2", nil},
		{"part of the second", []wsoverhttp.Event{text("abc"), text("de")}, 4, "TEXT \"e\"\n", "1", nil},
		{"all", []wsoverhttp.Event{text("abc"), text("de")}, 5, "", "", nil},
		{"an event without content goes with what is before it", []wsoverhttp.Event{text("abc"), ping, text("de")}, 3, "TEXT \"de\"\n", "2", nil},
		{"an event without content waits for what is before it", []wsoverhttp.Event{text("abc"), ping}, 2, "TEXT \"c\"\nPING\n", "1", nil},
		{"CLOSE waits", []wsoverhttp.Event{text("abc"), bye}, 2, "TEXT \"c\"\nCLOSE \"\\x03\\xe8\"\n", "1", nil},
		{"CLOSE without code waits", []wsoverhttp.Event{text("abc"), bare}, 2, "TEXT \"c\"\nCLOSE\n", "1", nil},
		{"CLOSE without code goes with what is before it", []wsoverhttp.Event{text("abc"), bare}, 3, "", "", nil},
		{"all but CLOSE", []wsoverhttp.Event{text("abc"), bye}, 3, "", "", wsoverhttp.ErrAccepted},
		{"part of CLOSE", []wsoverhttp.Event{text("abc"), bye}, 4, "", "", wsoverhttp.ErrAccepted},
		{"CLOSE too", []wsoverhttp.Event{text("abc"), bye}, 5, "", "", nil},
		{"after DISCONNECT nothing comes again", []wsoverhttp.Event{text("abc"), gone}, 1, "", "", nil},
	} {
		t.Run(c.why, func(t *testing.T) {
			client, o := opened(t, wsoverhttp.ClientOptions{}, ok("", fmt.Sprintf("Content-Bytes-Accepted: %d", c.accepted)), ok(""))
			if _, err := client.Send(t.Context(), c.offered...); !errors.Is(err, c.want) {
				t.Fatalf("Send = %v, want %v", err, c.want)
			}
			if got := show(client.Pending()); got != c.pending {
				t.Errorf("Pending = %s, want %s", got, c.pending)
			}
			if c.want != nil {
				return
			}
			if _, err := client.Send(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := o.heads[1].Get("Content-Bytes-Replayed"); got != c.replayed {
				t.Errorf("Content-Bytes-Replayed = %q, want %q", got, c.replayed)
			}
		})
	}
}

func TestOneEventARequest(t *testing.T) {
	c, o := opened(t, wsoverhttp.ClientOptions{EventsMax: 1}, ok("TEXT 1\r\n1\r\n"), ok("TEXT 1\r\n2\r\n"), ok("TEXT 1\r\n3\r\n"))
	answer, err := c.Send(t.Context(), text("a"), text(""), text("c"))
	seen := ""
	for ; err == nil; answer, err = c.Send(t.Context()) {
		seen += show(answer.Events)
		if !answer.More {
			break
		}
	}
	if got, want := fmt.Sprintf("%q", o.bodies), `["TEXT 1\r\na\r\n" "TEXT\r\n" "TEXT 1\r\nc\r\n"]`; err != nil || got != want {
		t.Errorf("bodies = %s, %v, want %s", got, err, want)
	}
	if want := "TEXT \"1\"\nTEXT \"2\"\nTEXT \"3\"\n"; seen != want {
		t.Errorf("events = %s, want %s", seen, want)
	}
	for i, head := range o.heads {
		if got, ok := head["Content-Bytes-Replayed"]; ok {
			t.Errorf("request %d: Content-Bytes-Replayed = %q, but nothing was offered twice", i, got)
		}
	}
}

func TestARequestIsFullByContent(t *testing.T) {
	c, o := opened(t, wsoverhttp.ClientOptions{RequestBytesMax: 10}, ok("", "Content-Bytes-Accepted: 4"), ok(""), ok(""))
	big := strings.Repeat("x", 20)
	answer, err := c.Send(t.Context(), text("abcdef"), text("ghi"), text("jk"), text(big))
	if err != nil || !answer.More {
		t.Fatalf("Send = %+v, %v, want more", answer, err)
	}
	if answer, err = c.Send(t.Context()); err != nil || !answer.More {
		t.Fatalf("Send = %+v, %v, want more", answer, err)
	}
	if answer, err = c.Send(t.Context()); err != nil || answer.More {
		t.Fatalf("Send = %+v, %v, want no more", answer, err)
	}
	want := fmt.Sprintf("%q", []string{"TEXT 6\r\nabcdef\r\nTEXT 3\r\nghi\r\n", "TEXT 2\r\nef\r\nTEXT 3\r\nghi\r\nTEXT 2\r\njk\r\n", "TEXT 14\r\n" + big + "\r\n"})
	if got := fmt.Sprintf("%q", o.bodies); got != want {
		t.Errorf("bodies = %s, want %s: one event may exceed the limit, two may not", got, want)
	}
	if got := o.heads[1].Get("Content-Bytes-Replayed"); got != "5" {
		t.Errorf("Content-Bytes-Replayed = %q, want 5: what was offered, not what waited", got)
	}
}

func TestAnOriginThatTakesNothingOfAFullRequestIsStalled(t *testing.T) {
	for _, c := range []struct {
		why     string
		options wsoverhttp.ClientOptions
		events  []wsoverhttp.Event
		want    error
	}{
		{"full by content", wsoverhttp.ClientOptions{RequestBytesMax: 3}, []wsoverhttp.Event{text("abc")}, wsoverhttp.ErrStalled},
		{"more waits", wsoverhttp.ClientOptions{EventsMax: 1}, []wsoverhttp.Event{text("a"), text("b")}, wsoverhttp.ErrStalled},
		{"not full", wsoverhttp.ClientOptions{}, []wsoverhttp.Event{text("abc")}, nil},
		{"an event without content is progress", wsoverhttp.ClientOptions{EventsMax: 1}, []wsoverhttp.Event{text(""), text("b")}, nil},
		{"no events", wsoverhttp.ClientOptions{}, nil, nil},
	} {
		t.Run(c.why, func(t *testing.T) {
			client, _ := opened(t, c.options, ok("", "Content-Bytes-Accepted: 0"))
			if _, err := client.Send(t.Context(), c.events...); !errors.Is(err, c.want) {
				t.Errorf("Send = %v, want %v", err, c.want)
			}
		})
	}
}

func TestOnlySoMuchIsKeptForAnOriginThatHoldsBack(t *testing.T) {
	hold := func() *http.Response { return ok("", "Content-Bytes-Accepted: 0") }
	c, o := opened(t, wsoverhttp.ClientOptions{PendingBytesMax: 300}, hold(), hold(), ok(""))
	for i, want := range []error{nil, nil, wsoverhttp.ErrPendingFull} {
		if _, err := c.Send(t.Context(), text(strings.Repeat("x", 50))); !errors.Is(err, want) {
			t.Fatalf("Send %d = %v, want %v", i, err, want)
		}
	}
	if len(o.bodies) != 2 || len(c.Pending()) != 2 {
		t.Errorf("%d requests, %d events pending, want 2 and 2", len(o.bodies), len(c.Pending()))
	}
	if _, err := c.Send(t.Context()); err != nil || len(c.Pending()) != 0 {
		t.Errorf("Send without events = %v, %d pending, want it to go on", err, len(c.Pending()))
	}
}

func TestAfterAnErrorTheClientIsAsBefore(t *testing.T) {
	fails := &origin{}
	c := client(fails)
	steps := []*http.Response{
		ok("OPEN\r\n", "Keep-Alive-Interval: 30", "Set-Meta-User: ann"),
		ok("", "Content-Bytes-Accepted: 1"),
		reply(500, "", "Set-Meta-User: bob"),
		ok("TEXT x\r\n", "Set-Meta-User: bob", "Keep-Alive-Interval: 60"),
		ok("", "Set-Meta-User: bob", "Keep-Alive-Interval: 60", "Content-Bytes-Accepted: 99"),
		ok(""),
	}
	fails.answer = func(*http.Request, string) *http.Response {
		next := steps[0]
		steps = steps[1:]
		return next
	}
	if _, err := c.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Send(t.Context(), text("ab")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := c.Send(t.Context(), text("cd")); err == nil {
			t.Fatal("Send succeeded")
		}
		if got := fmt.Sprint(show(c.Pending()), c.Meta(), " ", c.KeepAlive()); got != "TEXT \"b\"\nmap[User:ann] 30s" {
			t.Errorf("the client has %s, want it as before", got)
		}
	}
	if _, err := c.Send(t.Context(), text("cd")); err != nil {
		t.Fatal(err)
	}
	if got, want := fails.bodies[5], "TEXT 1\r\nb\r\nTEXT 2\r\ncd\r\n"; got != want {
		t.Errorf("body = %q, want %q", got, want)
	}
}

type tripError struct{ notSent bool }

func (tripError) Error() string   { return "trip" }
func (e tripError) NotSent() bool { return e.notSent }

type failing struct{ err error }

func (f failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, f.err }

func TestWhetherAnythingWasSent(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := listener.Addr().String()
	listener.Close()
	_, refused := new(http.Transport).RoundTrip(httptest.NewRequest("POST", "http://"+closed, nil))

	for _, c := range []struct {
		why  string
		err  error
		want bool
	}{
		{"the transport says nothing was", tripError{true}, true},
		{"the transport says something was", tripError{false}, false},
		{"deep within", fmt.Errorf("pool: %w", tripError{true}), true},
		{"connection refused", refused, true},
		{"something else", io.ErrUnexpectedEOF, false},
	} {
		t.Run(c.why, func(t *testing.T) {
			_, err := client(failing{c.err}).Open(t.Context())
			if got := errors.Is(err, wsoverhttp.ErrNotSent); got != c.want || !errors.Is(err, c.err) {
				t.Errorf("Open = %v: ErrNotSent %t, want %t, and the transport's error in it", err, got, c.want)
			}
		})
	}
}

func TestABodyCanBeSentOnceMore(t *testing.T) {
	o := &origin{answer: func(r *http.Request, body string) *http.Response {
		again, err := r.GetBody()
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(again); string(got) != body || r.ContentLength != int64(len(body)) {
			t.Errorf("GetBody = %q, Content-Length %d, want %q", got, r.ContentLength, body)
		}
		return ok("OPEN\r\n")
	}}
	if _, err := client(o).Open(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestAURLThatIsNone(t *testing.T) {
	c := wsoverhttp.NewClient(wsoverhttp.ClientOptions{URL: "ws://exa mple/"})
	if _, err := c.Open(t.Context()); err == nil || errors.Is(err, wsoverhttp.ErrNotSent) {
		t.Errorf("Open = %v, want an error that no retry mends", err)
	}
}

func TestATransportThatForgetsTheBody(t *testing.T) {
	answer := ok("")
	answer.Body, answer.ContentLength = nil, 0
	if _, err := client(answers(answer)).Open(t.Context()); !errors.Is(err, wsoverhttp.ErrNotOpened) {
		t.Errorf("Open = %v, want ErrNotOpened", err)
	}
}

func TestGripExtension(t *testing.T) {
	for _, c := range []struct {
		why    string
		values []string
		want   string // as String writes it, or "error"
	}{
		{"absent", nil, ""},
		{"default prefix", []string{"grip"}, "grip"},
		{"no prefix, as older libraries answer", []string{`grip; message-prefix=""`}, `grip; message-prefix=""`},
		{"prefix that is the default", []string{`grip; message-prefix="m:"`}, "grip"},
		{"prefix without quotes", []string{"grip;message-prefix=z"}, `grip; message-prefix="z"`},
		{"prefix without quotes that should have some", []string{"grip; message-prefix=m:"}, "grip"},
		{"prefix without value", []string{"grip; message-prefix="}, `grip; message-prefix=""`},
		{"parameter without value", []string{"grip; message-prefix"}, `grip; message-prefix=""`},
		{"separators within quotes", []string{`grip; message-prefix="a,b;c"`}, `grip; message-prefix="a,b;c"`},
		{"escapes", []string{`grip; message-prefix="\"\\"`}, `grip; message-prefix="\"\\"`},
		{"another parameter", []string{"grip; x=1; message-prefix=z; y"}, `grip; message-prefix="z"`},
		{"another extension before", []string{`x; p=",grip;", grip; message-prefix=z`}, `grip; message-prefix="z"`},
		{"in a second header", []string{"permessage-deflate", "grip"}, "grip"},
		{"only others", []string{"permessage-deflate; grip, gripper"}, ""},
		{"in capitals", []string{"GRIP"}, ""},
		{"quote that does not end", []string{`grip; message-prefix="m`}, "error"},
		{"escape that does not end", []string{`grip; message-prefix="\`}, "error"},
		{"something after the quote", []string{`grip; message-prefix="m"x`}, "error"},
	} {
		t.Run(c.why, func(t *testing.T) {
			extension, err := wsoverhttp.ParseGripExtension(c.values)
			got := extension.String()
			if err != nil {
				got = "error"
			}
			if got != c.want {
				t.Errorf("ParseGripExtension(%q) = %q, %v, want %q", c.values, got, err, c.want)
			}
		})
	}
}

func FuzzGripExtension(f *testing.F) {
	f.Add(`grip; message-prefix="\"a,b;\\"`)
	f.Add(`x;y="z",grip;message-prefix=m:`)
	f.Fuzz(func(t *testing.T, value string) {
		extension, err := wsoverhttp.ParseGripExtension([]string{value})
		if err != nil {
			return
		}
		again, err := wsoverhttp.ParseGripExtension([]string{extension.String()})
		if err != nil || again != extension {
			t.Fatalf("%q is %+v, written as %q is %+v, %v", value, extension, extension, again, err)
		}
	})
}

// What a handshake says reaches the origin as it was said, or not at all; never
// as another field.
func FuzzHandshake(f *testing.F) {
	f.Add("X-A", "1", "2", "chat.example.com")
	f.Add("Cookie", "a=\x00b", strings.Repeat("x", 300), "")
	f.Add("meta-user", "forged", "", "")
	f.Fuzz(func(t *testing.T, name, first, second, host string) {
		o := answers(ok("OPEN\r\n"))
		c := wsoverhttp.NewClient(wsoverhttp.ClientOptions{Transport: o, URL: "ws://example.com/", Host: host,
			Header: http.Header{name: {first, second}, "X-Z": {first}}, ConnectionID: "id"})
		if _, err := c.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		own := map[string]bool{"Accept": true, "Content-Type": true, "Connection-Id": true, "Sec-Websocket-Extensions": true, "User-Agent": true}
		for key, values := range o.heads[0] {
			canonical := http.CanonicalHeaderKey(name)
			switch {
			case key == "X-Z" && canonical != "X-Z":
				if len(values) != 1 || values[0] != first {
					t.Fatalf("X-Z = %q, want %q", values, first)
				}
			case key == canonical && !(own[key] && key != "User-Agent"):
				if strings.HasPrefix(key, "Meta-") || !slices.Contains(values, first) || !slices.Contains(values, second) {
					t.Fatalf("%q = %q, want %q and %q", key, values, first, second)
				}
			case !own[key]:
				t.Fatalf("%q = %q, which nobody said", key, values)
			}
		}
	})
}

// Whatever an origin answers, the Client neither panics nor loses a byte that was
// not accepted.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("OPEN\r\n"), []byte("TEXT 2\r\nhi\r\n"), "grip", "a", "30", "3", 0)
	f.Add([]byte(""), []byte("OPEN\r\nCLOSE\r\n"), `grip; message-prefix="`, "", "20", "", 1)
	f.Add([]byte("OPEN\r\nCLOSE 2\r\n\x00\x00\r\n"), []byte("TEXT"), "", "a b", "-1", "9", 2)
	f.Fuzz(func(t *testing.T, first, second []byte, extension, meta, interval, accepted string, eventsMax int) {
		if eventsMax < 0 {
			return
		}
		o := answers(ok(string(first), "Sec-WebSocket-Extensions: "+extension, "Keep-Alive-Interval: "+interval),
			ok(string(second), "Set-Meta-A"+meta+": "+meta, "Content-Bytes-Accepted: "+accepted))
		c := wsoverhttp.NewClient(wsoverhttp.ClientOptions{Transport: o, URL: "ws://example.com", EventsMax: eventsMax})
		if _, err := c.Open(t.Context()); err != nil {
			return
		}
		answer, err := c.Send(t.Context(), text("abc"), text("def"))
		if err != nil {
			return
		}
		left := ""
		for _, event := range c.Pending() {
			left += string(event.Content)
		}
		if want := "abcdef"[answer.Accepted:]; left != want {
			t.Fatalf("pending = %q, want %q", left, want)
		}
		for i, event := range answer.Events {
			switch event.Type {
			case wsoverhttp.Open, wsoverhttp.Close, wsoverhttp.Disconnect:
				if i+1 < len(answer.Events) {
					t.Fatalf("events go on after %v: %s", event.Type, show(answer.Events))
				}
			}
		}
	})
}

// curl is the handshake of a command-line client, as the gateway sees it.
func curl() http.Header {
	return http.Header{
		"User-Agent":            {"curl/8.14.1"},
		"Accept":                {"*/*"},
		"Connection":            {"Upgrade"},
		"Upgrade":               {"websocket"},
		"Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key":     {"dGhlIHNhbXBsZSBub25jZQ=="},
	}
}

// idleBytes is what one of n Clients costs that wait for something to do. What
// they came from is gone; Transport and Decorate are the route's.
func idleBytes(tb testing.TB, n int) int {
	o := &origin{}
	decorate := func(*http.Request) {}
	clients := make([]*wsoverhttp.Client, n)
	before := heap()
	for i := range clients {
		o.answer = func(*http.Request, string) *http.Response { return ok("OPEN\r\n", "Set-Meta-User: ann") }
		o.bodies, o.heads = nil, nil
		c := wsoverhttp.NewClient(wsoverhttp.ClientOptions{
			Transport: o, Decorate: decorate, Host: strings.Clone("chat.example.com"), Header: curl(),
			URL: fmt.Sprintf("ws://127.0.0.1:8000/chat?room=%d", i), ConnectionID: fmt.Sprintf("b5ea0e11-0000-4000-8000-%012d", i),
		})
		if _, err := c.Open(context.Background()); err != nil {
			tb.Fatal(err)
		}
		clients[i] = c
	}
	after := heap()
	runtime.KeepAlive(clients)
	return int(after-before) / n
}

func heap() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

func TestAnIdleClientIsSmall(t *testing.T) {
	const most = 500
	if got := idleBytes(t, 5000); got > most {
		t.Errorf("an idle client costs %d bytes, want at most %d", got, most)
	}
}

func BenchmarkIdle(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(float64(idleBytes(b, 10_000)), "bytes/client")
	}
}

// BenchmarkExchange sends a message of 100 bytes and gets one back.
func BenchmarkExchange(b *testing.B) {
	message := strings.Repeat("x", 100)
	wire := "TEXT 64\r\n" + message + "\r\n"
	event := text(message)

	b.Run("origin=none", func(b *testing.B) {
		header := http.Header{"Content-Type": {wsoverhttp.ContentType}}
		body := "OPEN\r\n"
		transport := roundTrip(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: header, ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body))}, nil
		})
		c := wsoverhttp.NewClient(wsoverhttp.ClientOptions{Transport: transport, URL: "ws://example.com/chat", Header: curl()})
		if _, err := c.Open(b.Context()); err != nil {
			b.Fatal(err)
		}
		body = wire
		exchange(b, c, event)
	})

	for _, length := range []string{"known", "chunked"} {
		b.Run("origin=loopback/length="+length, func(b *testing.B) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var in bytes.Buffer
				in.ReadFrom(r.Body)
				w.Header().Set("Content-Type", wsoverhttp.ContentType)
				if length == "chunked" {
					w.(http.Flusher).Flush()
				}
				w.Write(in.Bytes())
			}))
			defer server.Close()
			c := wsoverhttp.NewClient(wsoverhttp.ClientOptions{URL: server.URL, Header: curl()})
			if _, err := c.Open(b.Context()); err != nil {
				b.Fatal(err)
			}
			exchange(b, c, event)
		})
	}

	// What net/http alone costs with the same bytes: the floor of the above.
	b.Run("origin=loopback/client=net-http", func(b *testing.B) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var in bytes.Buffer
			in.ReadFrom(r.Body)
			w.Header().Set("Content-Type", wsoverhttp.ContentType)
			w.Write(in.Bytes())
		}))
		defer server.Close()
		header := curl()
		maps.Copy(header, http.Header{"Content-Type": {wsoverhttp.ContentType}, "Connection-Id": {"b5ea0e11"}})
		header.Del("Upgrade")
		header.Del("Connection")
		b.ReportAllocs()
		for b.Loop() {
			r, err := http.NewRequest("POST", server.URL, strings.NewReader(wire))
			if err != nil {
				b.Fatal(err)
			}
			r.Header = header
			response, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadAll(response.Body); err != nil {
				b.Fatal(err)
			}
			response.Body.Close()
		}
	})
}

func exchange(b *testing.B, c *wsoverhttp.Client, event wsoverhttp.Event) {
	b.ReportAllocs()
	for b.Loop() {
		answer, err := c.Send(b.Context(), event)
		if err != nil || len(answer.Events) != 1 || len(answer.Events[0].Content) != len(event.Content) {
			b.Fatalf("Send = %+v, %v", answer, err)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
