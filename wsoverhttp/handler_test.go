package wsoverhttp_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/wsoverhttp"
)

// post is a gateway's request to h; fields are "Name: value", and an empty value
// removes what is there by default.
func post(h http.Handler, body string, fields ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/chat?room=7", strings.NewReader(body))
	r.Header = http.Header{
		"Accept":                   {wsoverhttp.ContentType},
		"Content-Type":             {wsoverhttp.ContentType},
		"Connection-Id":            {"b5ea0e11"},
		"Sec-Websocket-Extensions": {"grip"},
	}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		if r.Header.Set(name, value); value == "" {
			r.Header.Del(name)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// quiet returns a Handler's log and where its lines end up.
func quiet() (*slog.Logger, *bytes.Buffer) {
	lines := new(bytes.Buffer)
	return slog.New(slog.NewTextHandler(lines, nil)), lines
}

func TestTheZeroHandlerIsPolite(t *testing.T) {
	for _, c := range []struct{ why, body, want string }{
		{"accepts", "OPEN\r\n", "OPEN\r\n"},
		{"understands no message", "TEXT 2\r\nhi\r\nTEXT 2\r\nho\r\n", "CLOSE 2\r\n\x03\xeb\r\n"},
		{"answers pings", "PING\r\nPING 2\r\nhi\r\nPONG\r\n", "PONG\r\nPONG 2\r\nhi\r\n"},
		{"closes as it is told", "CLOSE 5\r\n\x0f\xa2bye\r\n", "CLOSE 2\r\n\x0f\xa2\r\n"},
		{"closes without a code if told none", "CLOSE\r\n", "CLOSE\r\n"},
		{"closes without a code if told an impossible one", "CLOSE 2\r\n\x03\xed\r\n", "CLOSE\r\n"},
		{"says nothing to who is gone", "DISCONNECT\r\n", ""},
		{"is there", "", ""},
	} {
		t.Run(c.why, func(t *testing.T) {
			w := post(&wsoverhttp.Handler{}, c.body)
			if got := w.Body.String(); w.Code != 200 || got != c.want {
				t.Errorf("answer to %q = %d %q, want %q", c.body, w.Code, got, c.want)
			}
			if got := w.Header().Get("Content-Type"); got != wsoverhttp.ContentType {
				t.Errorf("Content-Type = %q", got)
			}
			if got, want := w.Header().Get("Content-Length"), fmt.Sprint(len(c.want)); got != want {
				t.Errorf("Content-Length = %q, want %q", got, want)
			}
		})
	}
}

func TestRequestsThatAreNone(t *testing.T) {
	called := false
	h := &wsoverhttp.Handler{
		RequestBytesMax: 100,
		Open:            func(*wsoverhttp.Conn) { called = true },
		Refresh:         func(*wsoverhttp.Conn) { called = true },
	}
	for _, c := range []struct {
		why, body string
		fields    []string
		want      int
		text      string
	}{
		{"another content type", "OPEN\r\n", []string{"Content-Type: text/plain"}, 415, "Content-Type must be application/websocket-events.\n"},
		{"no content type", "OPEN\r\n", []string{"Content-Type: "}, 415, ""},
		{"answer not acceptable", "OPEN\r\n", []string{"Accept: text/html, application/websocket-events;q=0, ;"}, 406, "Accept must include application/websocket-events.\n"},
		{"no connection", "OPEN\r\n", []string{"Connection-Id: "}, 400, "Connection-Id is missing.\n"},
		{"malformed", "OPEN\r\nTEXT z\r\n", nil, 400, "Body is malformed: event 2 at byte 6: size is not a hexadecimal number: \"z\".\n"},
		{"cut short", "TEXT a\r\nhi", nil, 400, "Body is malformed: event 1 at byte 0: content is shorter than its size: 2 bytes of 10.\n"},
		{"too long", "OPEN\r\n" + strings.Repeat("\r\n", 50), nil, 413, "Body must not exceed 100 bytes.\n"},
	} {
		t.Run(c.why, func(t *testing.T) {
			w := post(h, c.body, c.fields...)
			if got := w.Body.String(); w.Code != c.want || c.text != "" && got != c.text {
				t.Errorf("answer = %d %q, want %d %q", w.Code, got, c.want, c.text)
			}
		})
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/chat", nil))
	if got := w.Header().Get("Allow"); w.Code != 405 || got != "POST" {
		t.Errorf("answer to GET = %d, Allow %q, want 405, POST", w.Code, got)
	}
	r := httptest.NewRequest("POST", "/chat", broken{})
	r.Header = http.Header{"Content-Type": {wsoverhttp.ContentType}, "Connection-Id": {"1"}}
	w = httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != 400 {
		t.Errorf("answer to a body that breaks off = %d, want 400", w.Code)
	}
	if called {
		t.Error("the app was called")
	}
}

func TestRequestsThatOtherGatewaysSend(t *testing.T) {
	for _, c := range []struct {
		why    string
		fields []string
	}{
		{"no Accept", []string{"Accept: "}},
		{"any Accept", []string{"Accept: text/html, */*;q=0.1"}},
		{"any application", []string{"Accept: application/*"}},
		{"content type with a parameter", []string{"Content-Type: Application/WebSocket-Events; charset=utf-8"}},
	} {
		t.Run(c.why, func(t *testing.T) {
			if w := post(&wsoverhttp.Handler{}, "OPEN\r\n", c.fields...); w.Code != 200 {
				t.Errorf("answer = %d %q, want 200", w.Code, w.Body)
			}
		})
	}
}

func TestIsRequest(t *testing.T) {
	for _, c := range []struct {
		method, kind string
		want         bool
	}{
		{"POST", "application/websocket-events", true},
		{"POST", "application/websocket-events ; x=1", true},
		{"POST", "application/json", false},
		{"GET", "application/websocket-events", false},
	} {
		r := httptest.NewRequest(c.method, "/", nil)
		r.Header.Set("Content-Type", c.kind)
		if got := wsoverhttp.IsRequest(r); got != c.want {
			t.Errorf("IsRequest(%s, %s) = %t, want %t", c.method, c.kind, got, c.want)
		}
	}
}

func TestWhatAnAppCanSay(t *testing.T) {
	for _, c := range []struct {
		why  string
		say  func(c *wsoverhttp.Conn)
		want string
	}{
		{"text", func(c *wsoverhttp.Conn) { c.SendText("hi") }, `TEXT "m:hi"`},
		{"empty text", func(c *wsoverhttp.Conn) { c.SendText("") }, `TEXT "m:"`},
		{"text that looks like an instruction", func(c *wsoverhttp.Conn) { c.SendText(`c:{"type":"detach"}`) }, `TEXT "m:c:{\"type\":\"detach\"}"`},
		{"binary", func(c *wsoverhttp.Conn) { c.SendBinary([]byte{0, 0xff}) }, `BINARY "m:\x00\xff"`},
		{"message", func(c *wsoverhttp.Conn) { c.Send(wsoverhttp.Message{Content: []byte("hi")}) }, `TEXT "m:hi"`},
		{"binary message", func(c *wsoverhttp.Conn) { c.Send(wsoverhttp.Message{Binary: true}) }, `BINARY "m:"`},
		{"ping", func(c *wsoverhttp.Conn) { c.Ping([]byte("x")) }, `PING "x"`},
		{"ping without content", func(c *wsoverhttp.Conn) { c.Ping(nil) }, `PING`},
		{"pong", func(c *wsoverhttp.Conn) { c.Pong([]byte{}) }, `PONG`},
		{"close", func(c *wsoverhttp.Conn) { c.Close(4002, "bye") }, `CLOSE "\x0f\xa2bye"`},
		{"close without a code", func(c *wsoverhttp.Conn) { c.Close(0, "") }, `CLOSE`},
		{"disconnect", func(c *wsoverhttp.Conn) { c.Disconnect() }, `DISCONNECT`},
		{"subscribe", func(c *wsoverhttp.Conn) { c.Subscribe("room") }, `TEXT "c:{\"type\":\"subscribe\",\"channel\":\"room\"}"`},
		{"subscribe with filters", func(c *wsoverhttp.Conn) { c.Subscribe("room", "skip-self") },
			`TEXT "c:{\"type\":\"subscribe\",\"channel\":\"room\",\"filters\":[\"skip-self\"]}"`},
		{"subscribe to a pattern", func(c *wsoverhttp.Conn) { c.SubscribePattern("news.*") }, `TEXT "c:{\"type\":\"subscribe\",\"channel\":\"news.*\",\"pattern\":true}"`},
		{"unsubscribe from a pattern", func(c *wsoverhttp.Conn) { c.UnsubscribePattern("news.*") }, `TEXT "c:{\"type\":\"unsubscribe\",\"channel\":\"news.*\",\"pattern\":true}"`},
		{"subscribe from an id", func(c *wsoverhttp.Conn) { c.SubscribeFrom("room", "7", "skip-self") },
			`TEXT "c:{\"type\":\"subscribe\",\"channel\":\"room\",\"prev-id\":\"7\",\"filters\":[\"skip-self\"]}"`},
		{"unsubscribe", func(c *wsoverhttp.Conn) { c.Unsubscribe("room") }, `TEXT "c:{\"type\":\"unsubscribe\",\"channel\":\"room\"}"`},
		{"detach", func(c *wsoverhttp.Conn) { c.Detach() }, `TEXT "c:{\"type\":\"detach\"}"`},
		{"grip meta", func(c *wsoverhttp.Conn) { c.SetGripMeta("user", "ann") }, `TEXT "c:{\"type\":\"set-meta\",\"name\":\"user\",\"value\":\"ann\"}"`},
		{"grip meta off", func(c *wsoverhttp.Conn) { c.SetGripMeta("user", "") }, `TEXT "c:{\"type\":\"set-meta\",\"name\":\"user\"}"`},
		{"keep-alive ping", func(c *wsoverhttp.Conn) {
			c.KeepAlive(wsoverhttp.KeepAlive{Event: wsoverhttp.Event{Type: wsoverhttp.Ping}, Timeout: 1500 * time.Millisecond, Interval: true})
		}, `TEXT "c:{\"type\":\"keep-alive\",\"message-type\":\"ping\",\"content\":\"\",\"timeout\":2,\"mode\":\"interval\"}"`},
		{"keep-alive text", func(c *wsoverhttp.Conn) { c.KeepAlive(wsoverhttp.KeepAlive{Event: text("still here")}) },
			`TEXT "c:{\"type\":\"keep-alive\",\"content\":\"still here\"}"`},
		{"keep-alive off", func(c *wsoverhttp.Conn) { c.KeepAlive(wsoverhttp.KeepAlive{}) }, `TEXT "c:{\"type\":\"keep-alive\"}"`},
		{"delayed binary", func(c *wsoverhttp.Conn) {
			c.SendDelayed(wsoverhttp.Event{Type: wsoverhttp.Binary, Content: []byte{0xff}}, 2*time.Second)
		}, `TEXT "c:{\"type\":\"send-delayed\",\"message-type\":\"binary\",\"content-bin\":\"/w==\",\"timeout\":2}"`},
		{"auto-reply", func(c *wsoverhttp.Conn) { c.AutoReply("ping", text("pong")) },
			`TEXT "c:{\"type\":\"auto-reply\",\"match\":\"ping\",\"content\":\"pong\"}"`},
		{"auto-reply off", func(c *wsoverhttp.Conn) { c.AutoReply("ping", wsoverhttp.Event{}) }, `TEXT "c:{\"type\":\"auto-reply\",\"match\":\"ping\"}"`},
		{"flush", func(c *wsoverhttp.Conn) { c.FlushDelayed() }, `TEXT "c:{\"type\":\"flush-delayed\"}"`},
		{"an instruction to come", func(c *wsoverhttp.Conn) { c.Instruct(map[string]any{"type": "new"}) }, `TEXT "c:{\"type\":\"new\"}"`},
	} {
		t.Run(c.why, func(t *testing.T) {
			h := &wsoverhttp.Handler{Message: func(conn *wsoverhttp.Conn, _ wsoverhttp.Message) { c.say(conn) }}
			w := post(h, "TEXT 2\r\ngo\r\n")
			events, err := wsoverhttp.Decode(w.Body.Bytes())
			if got, want := show(events), c.want+"\n"; w.Code != 200 || err != nil || got != want {
				t.Errorf("answer = %d %s (%v), want %s", w.Code, got, err, want)
			}
		})
	}
}

func TestWhatAnAppCannotSay(t *testing.T) {
	long := bytes.Repeat([]byte("x"), 126)
	for _, c := range []struct {
		why  string
		on   string // the event
		say  func(c *wsoverhttp.Conn)
		want error
		text string // in the log
	}{
		{"text that is not UTF-8", "TEXT", func(c *wsoverhttp.Conn) { c.SendText("\xff") }, wsoverhttp.ErrMisuse, "SendText: not possible"},
		{"ping too large", "TEXT", func(c *wsoverhttp.Conn) { c.Ping(long) }, wsoverhttp.ErrMisuse, "Ping: not possible: 126 bytes, at most 125"},
		{"code no frame carries", "TEXT", func(c *wsoverhttp.Conn) { c.Close(1006, "") }, wsoverhttp.ErrMisuse, "Close: not possible: no frame may carry code 1006"},
		{"message after Close", "TEXT", func(c *wsoverhttp.Conn) { c.Close(1000, ""); c.SendText("wait") }, wsoverhttp.ErrEnded, "SendText: nothing can be sent any more after Close"},
		{"two ends", "TEXT", func(c *wsoverhttp.Conn) { c.Disconnect(); c.Close(0, "") }, wsoverhttp.ErrEnded, "Close: nothing can be sent any more after Disconnect"},
		{"message to who is gone", "DISCONNECT", func(c *wsoverhttp.Conn) { c.SendText("wait") }, wsoverhttp.ErrEnded, "after the client's disconnect"},
		{"message after Refuse", "OPEN", func(c *wsoverhttp.Conn) { c.Refuse(403, "no"); c.SendText("wait") }, wsoverhttp.ErrEnded, "after Refuse"},
		{"refusal after a message", "OPEN", func(c *wsoverhttp.Conn) { c.SendText("hi"); c.Refuse(403, "no") }, wsoverhttp.ErrMisuse, "something was sent already"},
		{"refusal that is none", "OPEN", func(c *wsoverhttp.Conn) { c.Refuse(200, "no") }, wsoverhttp.ErrMisuse, "Refuse: not possible: status 200"},
		{"refusal of an open WebSocket", "TEXT", func(c *wsoverhttp.Conn) { c.Refuse(403, "no") }, wsoverhttp.ErrMisuse, "only Open may refuse"},
		{"postponement of an open WebSocket", "TEXT", func(c *wsoverhttp.Conn) { c.Postpone(time.Minute) }, wsoverhttp.ErrMisuse, "only Open may postpone"},
		{"postponement to the past", "OPEN", func(c *wsoverhttp.Conn) { c.Postpone(0) }, wsoverhttp.ErrMisuse, "Postpone: not possible: 0s"},
		{"postponement after a message", "OPEN", func(c *wsoverhttp.Conn) { c.SendText("hi"); c.Postpone(time.Minute) }, wsoverhttp.ErrMisuse, "something was sent already"},
		{"header that nobody will see", "TEXT", func(c *wsoverhttp.Conn) { c.Header().Set("Set-Cookie", "a=1") }, wsoverhttp.ErrMisuse, "only the answer to Open has a header"},
		{"meta that is no header", "TEXT", func(c *wsoverhttp.Conn) { c.SetMeta("a", "x\r\ny") }, wsoverhttp.ErrMeta, "SetMeta: meta cannot be kept"},
		{"channel without a name", "TEXT", func(c *wsoverhttp.Conn) { c.Subscribe("") }, wsoverhttp.ErrMisuse, "Subscribe: not possible"},
		{"no channel to leave", "TEXT", func(c *wsoverhttp.Conn) { c.Unsubscribe("") }, wsoverhttp.ErrMisuse, "Unsubscribe: not possible"},
		{"grip meta without a name", "TEXT", func(c *wsoverhttp.Conn) { c.SetGripMeta("", "x") }, wsoverhttp.ErrMisuse, "SetGripMeta: not possible"},
		{"keep-alive by closing", "TEXT", func(c *wsoverhttp.Conn) {
			c.KeepAlive(wsoverhttp.KeepAlive{Event: wsoverhttp.Event{Type: wsoverhttp.Close}})
		}, wsoverhttp.ErrMisuse, "CLOSE is no message"},
		{"nothing, delayed", "TEXT", func(c *wsoverhttp.Conn) { c.SendDelayed(wsoverhttp.Event{}, 0) }, wsoverhttp.ErrMisuse, "SendDelayed: not possible"},
		{"an instruction that is none", "TEXT", func(c *wsoverhttp.Conn) { c.Instruct("detach") }, wsoverhttp.ErrMisuse, "is not an object"},
		{"an instruction that cannot be written", "TEXT", func(c *wsoverhttp.Conn) { c.Instruct(func() {}) }, nil, "Instruct: json"},
		{"too much", "TEXT", func(c *wsoverhttp.Conn) { c.SendText(strings.Repeat("x", 1_000_000)) }, wsoverhttp.ErrTooLarge, "answer is too large"},
		{"to fail", "TEXT", func(c *wsoverhttp.Conn) { c.Fail(errBroken) }, errBroken, "Fail: cable cut"},
	} {
		t.Run(c.why, func(t *testing.T) {
			var conn *wsoverhttp.Conn
			say := func(on *wsoverhttp.Conn) { conn = on; c.say(on) }
			log, lines := quiet()
			h := &wsoverhttp.Handler{Log: log, Open: say, Disconnect: say, Message: func(c *wsoverhttp.Conn, _ wsoverhttp.Message) { say(c) }}
			body := c.on + "\r\n"
			if c.on == "TEXT" {
				body = "TEXT 2\r\ngo\r\n"
			}
			w := post(h, body)
			if got := w.Body.String(); w.Code != 500 || got != "Internal Server Error\n" {
				t.Errorf("answer = %d %q, want 500 that says no more", w.Code, got)
			}
			if c.want != nil && !errors.Is(conn.Err(), c.want) {
				t.Errorf("Err() = %v, want %v", conn.Err(), c.want)
			}
			if got := lines.String(); !strings.Contains(got, c.text) || !strings.Contains(got, "connection=b5ea0e11") {
				t.Errorf("log = %s, want %q in it", got, c.text)
			}
		})
	}
}

func TestOpenDecides(t *testing.T) {
	for _, c := range []struct {
		why    string
		open   func(c *wsoverhttp.Conn)
		status int
		body   string
		header http.Header // among others
	}{
		{"granted, with greetings", func(c *wsoverhttp.Conn) {
			c.Header().Set("Sec-WebSocket-Protocol", "chat")
			c.SetMeta("user", "ann")
			c.SendText("hi")
		}, 200, "OPEN\r\nTEXT 4\r\nm:hi\r\n", http.Header{"Sec-Websocket-Protocol": {"chat"}, "Set-Meta-User": {"ann"}, "Sec-Websocket-Extensions": {"grip"}}},
		{"granted and closed", func(c *wsoverhttp.Conn) { c.Close(4001, "") }, 200, "OPEN\r\nCLOSE 2\r\n\x0f\xa1\r\n", nil},
		{"refused", func(c *wsoverhttp.Conn) {
			c.Header().Set("WWW-Authenticate", "Basic")
			c.Refuse(401, "who are you?")
		}, 401, "who are you?", http.Header{"Www-Authenticate": {"Basic"}, "Content-Type": {"text/plain; charset=utf-8"}, "Sec-Websocket-Extensions": nil}},
		{"refused with a page", func(c *wsoverhttp.Conn) {
			c.Header().Set("Content-Type", "text/html")
			c.Refuse(403, "<p>no")
		}, 403, "<p>no", http.Header{"Content-Type": {"text/html"}}},
		{"postponed", func(c *wsoverhttp.Conn) { c.Postpone(1500 * time.Millisecond) }, 200, "",
			http.Header{"Keep-Alive-Interval": {"2"}, "Content-Type": {wsoverhttp.ContentType}, "Sec-Websocket-Extensions": nil}},
	} {
		t.Run(c.why, func(t *testing.T) {
			w := post(&wsoverhttp.Handler{Open: c.open}, "OPEN\r\n")
			if got := w.Body.String(); w.Code != c.status || got != c.body {
				t.Errorf("answer = %d %q, want %d %q", w.Code, got, c.status, c.body)
			}
			for name, want := range c.header {
				if got := w.Header()[name]; fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%s = %q, want %q", name, got, want)
				}
			}
		})
	}
}

func TestWithoutGripMessagesGoAsTheyAre(t *testing.T) {
	h := &wsoverhttp.Handler{Message: func(c *wsoverhttp.Conn, m wsoverhttp.Message) { c.Send(m) }}
	w := post(h, "TEXT 2\r\nhi\r\n", "Sec-WebSocket-Extensions: permessage-deflate")
	if got, want := w.Body.String(), "TEXT 2\r\nhi\r\n"; got != want {
		t.Errorf("answer = %q, want %q", got, want)
	}
	w = post(h, "OPEN\r\n", "Sec-WebSocket-Extensions: ")
	if got, ok := w.Header()["Sec-Websocket-Extensions"]; ok {
		t.Errorf("Sec-WebSocket-Extensions = %q, want it absent", got)
	}
	log, lines := quiet()
	h = &wsoverhttp.Handler{Log: log, Open: func(c *wsoverhttp.Conn) { c.Subscribe("room") }}
	w = post(h, "OPEN\r\n", "Sec-WebSocket-Extensions: ")
	if w.Code != 500 || !strings.Contains(lines.String(), wsoverhttp.ErrNoGrip.Error()) {
		t.Errorf("answer to an instruction = %d, log %s, want 500 and ErrNoGrip", w.Code, lines)
	}
}

func TestAnotherMessagePrefix(t *testing.T) {
	h := &wsoverhttp.Handler{MessagePrefix: "z", Message: func(c *wsoverhttp.Conn, m wsoverhttp.Message) { c.Send(m) }}
	if got, want := post(h, "OPEN\r\n").Header().Get("Sec-WebSocket-Extensions"), `grip; message-prefix="z"`; got != want {
		t.Errorf("Sec-WebSocket-Extensions = %q, want %q", got, want)
	}
	if got, want := post(h, "TEXT 2\r\nhi\r\n").Body.String(), "TEXT 3\r\nzhi\r\n"; got != want {
		t.Errorf("answer = %q, want %q", got, want)
	}
	for _, prefix := range []string{"c", "c:", "c:x"} {
		log, lines := quiet()
		w := post(&wsoverhttp.Handler{MessagePrefix: prefix, Log: log}, "OPEN\r\n")
		if w.Code != 500 || !strings.Contains(lines.String(), "makes messages instructions") {
			t.Errorf("prefix %q: answer = %d, log %s, want 500: a client could give instructions", prefix, w.Code, lines)
		}
	}
}

func TestMetaIsWhatWasSetLast(t *testing.T) {
	var seen []string
	h := &wsoverhttp.Handler{Message: func(c *wsoverhttp.Conn, m wsoverhttp.Message) {
		seen = append(seen, c.Meta("USER"))
		c.SetMeta("user", m.String())
		seen = append(seen, c.Meta("User"))
	}}
	w := post(h, "TEXT 3\r\nbob\r\nTEXT\r\n", "Meta-User: ann")
	if got, want := fmt.Sprintf("%q", seen), `["ann" "bob" "bob" ""]`; got != want {
		t.Errorf("seen = %s, want %s", got, want)
	}
	if got, ok := w.Header()["Set-Meta-User"]; !ok || fmt.Sprintf("%q", got) != `[""]` {
		t.Errorf("Set-Meta-User = %q, want an empty one, which removes", got)
	}
}

func TestEachEventHasItsFunction(t *testing.T) {
	var seen []string
	say := func(format string, args ...any) { seen = append(seen, fmt.Sprintf(format, args...)) }
	h := &wsoverhttp.Handler{
		Open: func(c *wsoverhttp.Conn) { say("open %s %s", c.ID, c.Request.URL.RawQuery) },
		Message: func(c *wsoverhttp.Conn, m wsoverhttp.Message) {
			say("message %t %s", m.Binary, m)
			if m.Binary {
				c.Close(4000, "")
			}
		},
		Ping:       func(c *wsoverhttp.Conn, content []byte) { say("ping %s", content) },
		Pong:       func(c *wsoverhttp.Conn, content []byte) { say("pong %s", content) },
		Close:      func(c *wsoverhttp.Conn, code int, reason string) { say("close %d %s", code, reason) },
		Disconnect: func(c *wsoverhttp.Conn) { say("disconnect") },
		Refresh:    func(c *wsoverhttp.Conn) { say("refresh"); c.KeepAliveInterval(0) },
	}
	w := post(h, "OPEN\r\nTEXT 2\r\nhi\r\nPING 1\r\na\r\nPONG 1\r\nb\r\nCLOSE 5\r\n\x03\xe8bye\r\nDISCONNECT\r\n")
	if got, want := w.Body.String(), "OPEN\r\nCLOSE 2\r\n\x03\xe8\r\n"; got != want {
		t.Errorf("answer = %q, want %q: no pong but what Ping sends", got, want)
	}
	w = post(h, "")
	if got := w.Header().Get("Keep-Alive-Interval"); got != "0" {
		t.Errorf("Keep-Alive-Interval = %q, want 0", got)
	}
	w = post(h, "BINARY 1\r\nx\r\nTEXT 4\r\nlate\r\nPING\r\nCLOSE\r\n")
	if got, want := w.Body.String(), "CLOSE 2\r\n\x0f\xa0\r\n"; got != want {
		t.Errorf("answer = %q, want %q: after its own Close an app hears only how it ends", got, want)
	}
	want := []string{"open b5ea0e11 room=7", "message false hi", "ping a", "pong b", "close 1000 bye", "disconnect",
		"refresh", "message true x", "close 0 "}
	if fmt.Sprintf("%q", seen) != fmt.Sprintf("%q", want) {
		t.Errorf("seen = %q, want %q", seen, want)
	}
}

func TestUnknownEventsAreSkippedButNotSilently(t *testing.T) {
	log, lines := quiet()
	h := &wsoverhttp.Handler{Log: log, Refresh: func(*wsoverhttp.Conn) { t.Error("Refresh was called") }}
	w := post(h, "NEWS 2\r\nhi\r\n")
	if got := lines.String(); w.Code != 200 || w.Body.Len() != 0 || !strings.Contains(got, "unknown") || !strings.Contains(got, "events=1") {
		t.Errorf("answer = %d %q, log %s", w.Code, w.Body, got)
	}
}

// lines takes whole lines of a stream, and leaves the rest.
func lines(got *[]string) func(*wsoverhttp.Conn, []byte) int {
	return func(c *wsoverhttp.Conn, data []byte) int {
		end := bytes.LastIndexByte(data, '\n') + 1
		for line := range bytes.Lines(data[:end]) {
			*got = append(*got, fmt.Sprintf("%s after %d", bytes.TrimSpace(line), c.Replayed()))
		}
		return end
	}
}

func TestAStreamComesAgainUntilItIsTaken(t *testing.T) {
	var got []string
	server := httptest.NewServer(&wsoverhttp.Handler{Stream: lines(&got)})
	defer server.Close()
	c := wsoverhttp.NewClient(wsoverhttp.ClientOptions{URL: server.URL})
	if _, err := c.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, messages := range [][]string{{"a\nbc"}, {"d"}, {"\nef\n", "", "g", "h\ni"}, {"j"}} {
		var events []wsoverhttp.Event
		for _, m := range messages {
			events = append(events, text(m))
		}
		if _, err := c.Send(t.Context(), events...); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := fmt.Sprintf("%q", got), `["a after 0" "bcd after 3" "ef after 3" "gh after 3"]`; got != want {
		t.Errorf("lines = %s, want %s", got, want)
	}
	if got, want := show(c.Pending()), "TEXT \"i\"\nTEXT \"j\"\n"; got != want {
		t.Errorf("pending = %s, want %s", got, want)
	}
	answer, err := c.Send(t.Context(), wsoverhttp.Event{Type: wsoverhttp.Close})
	if err != nil || show(answer.Events) != "CLOSE\n" || len(c.Pending()) != 0 {
		t.Errorf("Send(CLOSE) = %+v, %v, pending %s, want it closed: no more will come", answer, err, show(c.Pending()))
	}
}

func TestHowMuchOfAStreamIsAccepted(t *testing.T) {
	for _, c := range []struct {
		why, body, accepted, answer string
	}{
		{"all", "TEXT 2\r\na\n\r\n", "", ""},
		{"nothing", "TEXT 1\r\na\r\n", "0", ""},
		{"part of the second message", "TEXT 1\r\na\r\nBINARY 3\r\nb\nc\r\nTEXT 1\r\nd\r\n", "3", ""},
		{"a ping before the rest is answered", "TEXT 2\r\na\n\r\nPING 1\r\nx\r\nTEXT 1\r\nb\r\n", "3", "PONG 1\r\nx\r\n"},
		{"a ping after the rest comes again", "TEXT 3\r\na\nb\r\nPING 1\r\nx\r\n", "2", ""},
		{"no bytes at all", "TEXT\r\nBINARY 0\r\n\r\n", "", ""},
		{"all, because the client closed", "TEXT 1\r\na\r\nCLOSE\r\n", "", "CLOSE\r\n"},
		{"all, because the client is gone", "TEXT 1\r\na\r\nDISCONNECT\r\n", "", ""},
	} {
		t.Run(c.why, func(t *testing.T) {
			var got []string
			w := post(&wsoverhttp.Handler{Stream: lines(&got)}, c.body)
			if got := w.Header().Get("Content-Bytes-Accepted"); got != c.accepted {
				t.Errorf("Content-Bytes-Accepted = %q, want %q", got, c.accepted)
			}
			if got := w.Body.String(); w.Code != 200 || got != c.answer {
				t.Errorf("answer = %d %q, want %q", w.Code, got, c.answer)
			}
		})
	}
	for _, taken := range []int{-1, 3} {
		log, _ := quiet()
		h := &wsoverhttp.Handler{Log: log, Stream: func(*wsoverhttp.Conn, []byte) int { return taken }}
		if w := post(h, "TEXT 2\r\nhi\r\n"); w.Code != 500 {
			t.Errorf("answer to %d bytes taken of 2 = %d, want 500", taken, w.Code)
		}
	}
}

// Client and Handler, over a real connection.
func TestAConversation(t *testing.T) {
	server := httptest.NewServer(&wsoverhttp.Handler{
		Open: func(c *wsoverhttp.Conn) {
			cookie, err := c.Request.Cookie("user")
			if err != nil {
				c.Refuse(401, "who are you?")
				return
			}
			c.SetMeta("User", cookie.Value)
			c.KeepAliveInterval(time.Minute)
			c.Subscribe("room")
		},
		Message: func(c *wsoverhttp.Conn, m wsoverhttp.Message) {
			if m.String() == "bye" {
				c.Close(4000, c.Meta("User"))
				return
			}
			c.SendText(c.Meta("User") + ": " + m.String())
		},
	})
	defer server.Close()

	stranger := wsoverhttp.NewClient(wsoverhttp.ClientOptions{URL: server.URL})
	var rejection *wsoverhttp.Rejection
	if _, err := stranger.Open(t.Context()); !errors.As(err, &rejection) || rejection.Status != 401 || string(rejection.Body) != "who are you?" {
		t.Errorf("Open without a cookie = %v, want a refusal", err)
	}

	ann := wsoverhttp.NewClient(wsoverhttp.ClientOptions{URL: server.URL, Header: http.Header{"Cookie": {"user=ann"}}, Strict: true})
	answer, err := ann.Open(t.Context())
	if err != nil || !answer.Extension.On || answer.KeepAlive != time.Minute {
		t.Fatalf("Open = %+v, %v", answer, err)
	}
	if got, want := show(answer.Events), "TEXT \"c:{\\\"type\\\":\\\"subscribe\\\",\\\"channel\\\":\\\"room\\\"}\"\n"; got != want {
		t.Errorf("events = %s, want %s", got, want)
	}
	answer, err = ann.Send(t.Context(), text("hello"), wsoverhttp.Event{Type: wsoverhttp.Ping}, text("bye"), text("late"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := show(answer.Events), "TEXT \"m:ann: hello\"\nPONG\nCLOSE \"\\x0f\\xa0ann\"\n"; got != want {
		t.Errorf("events = %s, want %s", got, want)
	}
}

// Whatever comes, the Handler answers, and what it answers is well-formed.
func FuzzHandler(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.bytes(f, "wire"), "grip")
	}
	log := slog.New(slog.DiscardHandler)
	h := &wsoverhttp.Handler{
		Log:  log,
		Open: func(c *wsoverhttp.Conn) { c.Subscribe("room") },
		Message: func(c *wsoverhttp.Conn, m wsoverhttp.Message) {
			c.SendBinary(m.Content)
		},
	}
	var got []string
	streams := &wsoverhttp.Handler{Log: log, Stream: lines(&got)}
	f.Fuzz(func(t *testing.T, body []byte, extension string) {
		got = got[:0]
		w := post(streams, string(body))
		if accepted := w.Header().Get("Content-Bytes-Accepted"); w.Code == 200 && accepted != "" {
			events, _ := wsoverhttp.Decode(body)
			size := 0
			for _, event := range events {
				size += len(event.Content)
			}
			if n, err := strconv.Atoi(accepted); err != nil || n < 0 || n >= size {
				t.Fatalf("Content-Bytes-Accepted %s of %d", accepted, size)
			}
		}
		w = post(h, string(body), "Sec-WebSocket-Extensions: "+extension)
		switch w.Code {
		case 200:
			if _, err := wsoverhttp.Decode(w.Body.Bytes()); err != nil {
				t.Fatalf("answer %q: %v", w.Body, err)
			}
		case 400, 413, 500:
		default:
			t.Fatalf("status %d", w.Code)
		}
	})
}

func BenchmarkHandler(b *testing.B) {
	h := &wsoverhttp.Handler{Message: func(c *wsoverhttp.Conn, m wsoverhttp.Message) { c.Send(m) }}
	body := "TEXT 64\r\n" + strings.Repeat("x", 100) + "\r\n"
	b.ReportAllocs()
	for b.Loop() {
		if w := post(h, body); w.Code != 200 {
			b.Fatal(w.Code)
		}
	}
}

func TestWhatTheClientHasIsForRecover(t *testing.T) {
	var got map[string]string
	refreshed := 0
	h := &wsoverhttp.Handler{
		Refresh: func(*wsoverhttp.Conn) { refreshed++ },
		Recover: func(c *wsoverhttp.Conn, last map[string]string) {
			got = last
			c.SendText("eight")
			c.SubscribeFrom("room", "8")
		},
	}
	w := post(h, "", `Grip-Last: room; last-id=7, a b;last-id="x, \"y\"; z", none, torn; last-id="`)
	if want := map[string]string{"room": "7", "a b": `x, "y"; z`}; !maps.Equal(got, want) {
		t.Errorf("last = %v, want %v", got, want)
	}
	if want := "TEXT 7\r\nm:eight\r\n"; !strings.HasPrefix(w.Body.String(), want) {
		t.Errorf("answer = %q, want %q first", w.Body, want)
	}
	got = nil
	post(h, "")
	post(h, "TEXT 2\r\nhi\r\n", "Grip-Last: room; last-id=7")
	if got != nil || refreshed != 1 {
		t.Errorf("without Grip-Last, and with a message: last = %v, refreshed %d times; want neither to recover, the first to refresh", got, refreshed)
	}
	h.Recover = nil
	if post(h, "", "Grip-Last: room; last-id=7"); refreshed != 2 {
		t.Errorf("a handler that cannot recover is not refreshed")
	}
}
