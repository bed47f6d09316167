package demo_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gripway/gripway/gateway/demo"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/wsoverhttp"
)

// secret is what a window calls itself, and its person's id:
//
//	printf 'gripway demo\n0123456789abcdef0123456789abcdef' | sha256sum | cut -c1-12
const (
	secret   = "0123456789abcdef0123456789abcdef"
	personID = "249b809118cd"
)

func TestOpeningSubscribesAndWelcomes(t *testing.T) {
	o := startOrigin(t)
	response := o.exchange("c1", "OPEN\r\n", nil)
	want := http.Header{
		"Content-Type":             {"application/websocket-events"},
		"Keep-Alive-Interval":      {"20"},
		"Set-Meta-Person":          {personID},
		"Sec-Websocket-Extensions": {"grip"},
	}
	for name, values := range want {
		if got := response.header[name]; fmt.Sprint(got) != fmt.Sprint(values) {
			t.Errorf("%s: got %q, want %q", name, got, values)
		}
	}
	const begin = "OPEN\r\n" +
		"TEXT 3a\r\n" + `c:{"type":"set-meta","name":"user","value":"` + personID + `"}` + "\r\n" +
		"TEXT 27\r\n" + `c:{"type":"subscribe","channel":"chat"}` + "\r\n" +
		"TEXT 43\r\n" + `c:{"type":"subscribe","channel":"presence","filters":["skip-self"]}` + "\r\n"
	if !strings.HasPrefix(response.body, begin) {
		t.Errorf("answer: got\n%q\nwant it to begin with\n%q", response.body, begin)
	}
	welcome := response.message(t, "welcome")
	if got := welcome["you"].(map[string]any)["id"]; got != personID {
		t.Errorf("you: got %q, want %q", got, personID)
	}
	if got := welcome["history"].([]any); len(got) != 0 {
		t.Errorf("history: got %v, want none", got)
	}
}

func TestOneWindowIsOnePersonAgainAndAgain(t *testing.T) {
	o := startOrigin(t)
	first := o.exchange("c1", "OPEN\r\n", nil).message(t, "welcome")["you"]
	again := o.exchange("c2", "OPEN\r\n", nil).message(t, "welcome")["you"]
	if fmt.Sprint(first) != fmt.Sprint(again) {
		t.Errorf("got %v and then %v", first, again)
	}
	other := o.exchangeAs("anotherwindow0123456789", "c3", "OPEN\r\n", nil).message(t, "welcome")["you"]
	if other.(map[string]any)["id"] == first.(map[string]any)["id"] {
		t.Error("two windows are one person")
	}
	for _, bad := range []string{"", "short", strings.Repeat("x", 100), "<script>alert(1)</script>"} {
		you := o.exchangeAs(bad, "c4", "OPEN\r\n", nil).message(t, "welcome")["you"].(map[string]any)
		if !regexp.MustCompile(`^[0-9a-f]{12}$`).MatchString(you["id"].(string)) {
			t.Errorf("who=%q: got id %q", bad, you["id"])
		}
	}
}

func TestWhatIsSaidIsPublishedAndKept(t *testing.T) {
	o := startOrigin(t)
	o.exchange("c1", "OPEN\r\n", nil)
	if got := o.say("c1", `{"type":"say","text":"hello","tag":"t1"}`).body; got != "" {
		t.Errorf("answer: got %q, want none: the message comes by publishing", got)
	}
	item := o.control.next(t, "chat")
	var said struct {
		Type, Text, Tag string
		N               int
		From            struct{ ID, Name string }
	}
	if err := json.Unmarshal(item.Message.Content, &said); err != nil {
		t.Fatal(err)
	}
	if said.Type != "said" || said.Text != "hello" || said.Tag != "t1" || said.N != 1 || said.From.ID != personID || said.From.Name == "" {
		t.Errorf("published: got %+v", said)
	}
	o.say("c1", "from a terminal") // no JSON: a line of text
	o.control.next(t, "chat")

	history := o.exchange("c2", "OPEN\r\n", nil).message(t, "welcome")["history"].([]any)
	if len(history) != 2 || history[1].(map[string]any)["text"] != "from a terminal" {
		t.Errorf("history for who comes later: got %v", history)
	}
	synced := o.say("c2", `{"type":"sync","last":1,"version":0,"t":12.5}`).message(t, "synced")
	if missed := synced["messages"].([]any); len(missed) != 1 || synced["asked"] != 12.5 || synced["roster"] == nil {
		t.Errorf("synced from 1: got %v", synced)
	}
}

func TestWhoAsksTooOftenIsAnsweredInShort(t *testing.T) {
	o := startOrigin(t)
	o.exchange("c1", "OPEN\r\n", nil)
	for i := range 10 {
		synced := o.say("c1", `{"type":"sync","last":0,"version":0,"t":1}`).message(t, "synced")
		if got, want := synced["roster"] != nil, i < 4; got != want {
			t.Errorf("time %d: with a roster: %v, want %v", i+1, got, want)
		}
	}
}

func TestHistoryIsBounded(t *testing.T) {
	o := startOrigin(t)
	for i := range 60 {
		id := fmt.Sprintf("c%d", i) // each may say something at once
		o.exchange(id, "OPEN\r\n", nil)
		o.say(id, fmt.Sprintf("message %d", i))
		o.control.next(t, "chat")
	}
	history := o.exchange("late", "OPEN\r\n", nil).message(t, "welcome")["history"].([]any)
	if len(history) != 50 || history[0].(map[string]any)["text"] != "message 10" {
		t.Errorf("got %d messages from %v, want 50 from message 10", len(history), history[0])
	}
}

func TestHostileTextIsTamedOrRefused(t *testing.T) {
	o := startOrigin(t)
	for i, test := range []struct{ name, text, want, refused string }{
		{"markup stays as it is: the page shows text", `<b onclick="x">&lt;`, `<b onclick="x">&lt;`, ""},
		{"an instruction to the gateway is a text", `c:{"type":"detach"}`, `c:{"type":"detach"}`, ""},
		{"lines become one", "a\nb\tc\u2028d", "a b c d", ""},
		{"space around it goes", "  a  ", "a", ""},
		{"controls go", "a\x00\x1b[31mb\u0085", "a[31mb", ""},
		{"directions go: they would turn the rest of the line", "a\u202eb\u2066c", "abc", ""},
		{"marks are few", "e" + strings.Repeat("\u0301", 40), "e" + strings.Repeat("\u0301", 4), ""},
		{"emoji stay whole", "\U0001F469\u200D\U0001F4BB \u2764\uFE0F", "\U0001F469\u200D\U0001F4BB \u2764\uFE0F", ""},
		{"other scripts stay", "مرحبا שלום नमस्ते こんにちは", "مرحبا שלום नमस्ते こんにちは", ""},
		{"500 characters are enough", strings.Repeat("ü", 500), strings.Repeat("ü", 500), ""},
		{"501 are not", strings.Repeat("ü", 501), "", "That is too long."},
		{"nothing is not a message", " \u200b\u200d ", "", "There is nothing to say."},
		{"marks alone are nothing", "\u0301\u0301", "", "There is nothing to say."},
	} {
		t.Run(test.name, func(t *testing.T) {
			id := fmt.Sprintf("c%d", i)
			o.exchange(id, "OPEN\r\n", nil)
			message, _ := json.Marshal(map[string]string{"type": "say", "text": test.text, "tag": "t"})
			response := o.say(id, string(message))
			if test.refused != "" {
				if got := response.message(t, "refused"); got["why"] != test.refused || got["tag"] != "t" {
					t.Errorf("got %v, want why %q", got, test.refused)
				}
				return
			}
			var said struct{ Text string }
			if err := json.Unmarshal(o.control.next(t, "chat").Message.Content, &said); err != nil {
				t.Fatal(err)
			}
			if said.Text != test.want {
				t.Errorf("got %q, want %q", said.Text, test.want)
			}
		})
	}
}

func TestMessagesThatAreNoneAreRefused(t *testing.T) {
	o := startOrigin(t)
	o.exchange("c1", "OPEN\r\n", nil)
	for _, test := range []struct {
		name  string
		event wsoverhttp.Event
		why   string
	}{
		{"binary", wsoverhttp.Event{Type: wsoverhttp.Binary, Content: []byte{1, 2}}, "Only text, please."},
		{"longer than is read", text(strings.Repeat("x", 5000)), "That is too long."},
		{"broken JSON", text(`{"type":`), "That is not JSON."},
		{"a type that does not fit", text(`{"type":5}`), "That is not JSON."},
		{"an unknown type", text(`{"type":"shout"}`), "There is no such type of message."},
		{"empty", text(""), "There is nothing to say."},
		{"not UTF-8", text("{\xff"), "That is not JSON."},
	} {
		t.Run(test.name, func(t *testing.T) {
			response := o.exchange("c1", string(wsoverhttp.AppendEvents(nil, test.event)), nil)
			if got := response.message(t, "refused")["why"]; got != test.why {
				t.Errorf("got %q, want %q", got, test.why)
			}
		})
	}
}

func TestWhoTalksTooFastIsAskedToSlowDown(t *testing.T) {
	o := startOrigin(t)
	o.exchange("c1", "OPEN\r\n", nil)
	var events []wsoverhttp.Event
	for range 8 {
		events = append(events, text("spam"))
	}
	response := o.exchange("c1", string(wsoverhttp.AppendEvents(nil, events...)), nil)
	if got := strings.Count(response.body, "A little slower, please."); got != 3 {
		t.Errorf("of 8 messages at once: %d refused, want 3", got)
	}
}

func TestTypingIsToldToTheOthersOnly(t *testing.T) {
	o := startOrigin(t)
	o.exchange("c1", "OPEN\r\n", nil)
	o.control.next(t, "presence")
	for range 5 {
		o.say("c1", `{"type":"typing"}`)
	}
	item := o.control.next(t, "presence")
	if got := item.Meta["sender"]; got != personID || !strings.Contains(string(item.Message.Content), `"typing"`) {
		t.Errorf("got %s of sender %q, want the filter skip-self to know the sender", item.Message.Content, got)
	}
	o.say("c1", "done")
	o.control.next(t, "chat")
	if got := len(o.control.presence); got != 0 {
		t.Errorf("%d more typing hints within a second, want none", got)
	}
}

func TestPresenceFollowsTheConnections(t *testing.T) {
	o := startOrigin(t)
	here := func() (total, windows int) {
		t.Helper()
		var roster struct {
			Total  int
			People []struct{ Windows int }
		}
		if err := json.Unmarshal(o.control.next(t, "presence").Message.Content, &roster); err != nil {
			t.Fatal(err)
		}
		for _, p := range roster.People {
			windows += p.Windows
		}
		return roster.Total, windows
	}
	want := func(what string, total, windows int) {
		t.Helper()
		if gotTotal, gotWindows := here(); gotTotal != total || gotWindows != windows {
			t.Errorf("%s: got %d people in %d windows, want %d in %d", what, gotTotal, gotWindows, total, windows)
		}
	}
	o.exchange("c1", "OPEN\r\n", nil)
	want("one came", 1, 1)
	o.exchangeAs("anotherwindow0123456789", "c2", "OPEN\r\n", nil)
	want("another came", 2, 2)
	o.exchange("c3", "OPEN\r\n", nil)
	want("the first came again", 2, 3)
	if got := o.exchange("c3", "CLOSE 2\r\n\x03\xe9\r\n", nil).body; got != "CLOSE 2\r\n\x03\xe9\r\n" {
		t.Errorf("answer to CLOSE: got %q", got)
	}
	want("a window was closed", 2, 2)
	o.exchange("c1", "DISCONNECT\r\n", nil)
	want("a connection was lost", 1, 1)
	o.exchange("c1", "DISCONNECT\r\n", nil)
	o.exchange("c2", "DISCONNECT\r\n", nil)
	want("told twice, and the other", 0, 0)
}

func TestQuietConnectionIsPinged(t *testing.T) {
	o := startOrigin(t)
	o.exchange("c1", "OPEN\r\n", nil)
	if got := o.exchange("c1", "", nil).body; got != "PING\r\n" {
		t.Errorf("a request without events: got %q, want a ping", got)
	}
	if got := o.exchange("c1", "PONG\r\n", nil).body; got != "" {
		t.Errorf("pong: got %q, want nothing", got)
	}
}

// The origin may have begun anew, or another process may answer: what it needs to
// know comes with the request.
func TestUnknownConnectionIsTakenUpByItsMeta(t *testing.T) {
	o := startOrigin(t)
	meta := http.Header{"Meta-Person": {"a0b1c2d3e4f5"}}
	o.exchangeAs("", "c9", "PONG\r\n", meta)
	item := o.control.next(t, "presence")
	if !strings.Contains(string(item.Message.Content), `"a0b1c2d3e4f5"`) {
		t.Errorf("got %s, want the person of Meta-Person", item.Message.Content)
	}
	if got := o.exchangeAs("", "c8", "", http.Header{"Meta-Person": {"<b>"}}).body; got != "PING\r\n" {
		t.Errorf("a quiet connection nobody knows: got %q, want a ping", got)
	}
}

func TestTickerIsHeldAsAStream(t *testing.T) {
	o := startOrigin(t)
	response := o.get("/ticker")
	for name, want := range map[string]string{
		"Content-Type": "text/event-stream", "Cache-Control": "no-store",
		"Grip-Hold": "stream", "Grip-Channel": "ticker",
		"Grip-Keep-Alive": `:\n\n; format=cstring; timeout=20`,
	} {
		if got := response.header.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if !strings.HasPrefix(response.body, "retry: 1000\n\nevent: past\ndata: {\"instance\":") || !strings.HasSuffix(response.body, "\n\n") {
		t.Errorf("body: got %q", response.body)
	}
	tick := string(o.control.next(t, "ticker").Stream.Content)
	if !regexp.MustCompile(`^data: \{"n":\d+,"t":[\d.]+,"v":[\d.]+\}\n\n$`).MatchString(tick) {
		t.Errorf("published: got %q", tick)
	}
	if got := o.get("/ticker?with=wire").header["Grip-Channel"]; strings.Join(got, ", ") != "ticker, demo-wire" {
		t.Errorf("with the wire: got channels %q", got)
	}
	if got := o.get("/wire").header.Get("Grip-Channel"); got != "demo-wire" {
		t.Errorf("the wire alone: got channels %q", got)
	}
}

func TestLongPollIsHeldUntilSomethingChanges(t *testing.T) {
	o := startOrigin(t)
	first := o.get("/poll")
	if got := first.header.Get("Grip-Hold"); got != "" {
		t.Errorf("who knows nothing is held: %q", got)
	}
	id := first.json(t)["id"].(string)
	for _, path := range []string{"/poll?after=" + id, "/poll?wait"} {
		held := o.get(path)
		if hold, channel, timeout := held.header.Get("Grip-Hold"), held.header.Get("Grip-Channel"), held.header.Get("Grip-Timeout"); hold != "response" || channel != "poll; prev-id="+id || timeout != "25" {
			t.Errorf("%s: got %q on %q for %q, want it held on poll after %s", path, hold, channel, timeout, id)
		}
	}

	voted := o.vote(url.Values{"choice": {"1"}, "who": {secret}})
	item := o.control.next(t, "poll")
	next := voted.json(t)["id"].(string)
	if item.ID != next || item.PrevID != id || item.Response.Code != 200 || item.Response.Header.Get("Content-Type") != "application/json" {
		t.Errorf("published: got id %q after %q (%d, %v), want %q after %q", item.ID, item.PrevID, item.Response.Code, item.Response.Header, next, id)
	}
	if got := o.get("/poll?after=" + id); got.header.Get("Grip-Hold") != "" || got.json(t)["id"] != next {
		t.Errorf("who has an old answer: got %v, want the new one at once", got)
	}

	// The gateway asks again for a client that waits, with the id it knows of.
	again := o.request(http.MethodGet, "/poll?wait", nil, http.Header{"Grip-Last": {"poll; last-id=" + id}})
	if got := again.header.Get("Grip-Hold"); got != "" {
		t.Errorf("asked again with an old id: held, want the answer")
	}
	again = o.request(http.MethodGet, "/poll?after="+id, nil, http.Header{"Grip-Last": {"poll; last-id=" + next}})
	if got := again.header.Get("Grip-Channel"); got != "poll; prev-id="+next {
		t.Errorf("asked again with the newest id: got %q, want it held", got)
	}
}

func TestEveryWindowHasOneAnswer(t *testing.T) {
	o := startOrigin(t)
	counts := func(r response) string {
		t.Helper()
		var s string
		for _, option := range r.json(t)["options"].([]any) {
			s += fmt.Sprint(option.(map[string]any)["count"])
		}
		return s
	}
	mine := func(choice string) response { return o.vote(url.Values{"choice": {choice}, "who": {secret}}) }
	for _, test := range []struct {
		what string
		got  response
		want string
	}{
		{"an answer", mine("1"), "010"},
		{"the same again", mine("1"), "010"},
		{"another", mine("0"), "100"},
		{"somebody without a name", o.vote(url.Values{"choice": {"0"}}), "200"},
		{"and again", o.vote(url.Values{"choice": {"0"}}), "300"},
		{"about this question", o.vote(url.Values{"choice": {"2"}, "question": {"1"}}), "301"},
	} {
		if got := counts(test.got); got != test.want {
			t.Errorf("%s: got %s, want %s", test.what, got, test.want)
		}
	}
	for _, test := range []struct {
		name   string
		form   url.Values
		status int
	}{
		{"no choice", url.Values{}, 400},
		{"not a number", url.Values{"choice": {"x"}}, 400},
		{"one too many", url.Values{"choice": {"3"}}, 400},
		{"negative", url.Values{"choice": {"-1"}}, 400},
		{"a question that is over", url.Values{"choice": {"0"}, "question": {"0"}}, 409},
		{"a form without end", url.Values{"choice": {"0"}, "x": {strings.Repeat("x", 5000)}}, 400},
	} {
		if got := o.vote(test.form).status; got != test.status {
			t.Errorf("%s: got %d, want %d", test.name, got, test.status)
		}
	}
	for range 100 {
		o.vote(url.Values{"choice": {"0"}})
	}
	if got := o.vote(url.Values{"choice": {"0"}}); got.status != 429 || got.header.Get("Retry-After") == "" {
		t.Errorf("after a hundred answers at once: got %d, want 429", got.status)
	}
}

func TestAnotherSitesPageMayNotTakePart(t *testing.T) {
	o := startOrigin(t)
	for _, header := range []http.Header{
		{"Sec-Fetch-Site": {"cross-site"}},
		{"Sec-Fetch-Site": {"same-site"}}, // another port of this machine
		{"Origin": {"http://example.com"}},
	} {
		if got := o.exchange("c1", "OPEN\r\n", header).status; got != 403 {
			t.Errorf("WebSocket with %v: got %d, want 403", header, got)
		}
		header["Content-Type"] = []string{"application/x-www-form-urlencoded"}
		if got := o.request(http.MethodPost, "/poll", strings.NewReader("choice=0"), header).status; got != 403 {
			t.Errorf("answer with %v: got %d, want 403", header, got)
		}
	}
	if got := o.exchange("c1", "OPEN\r\n", http.Header{"Origin": {"http://" + o.demo.Addr()}}).status; got != 200 {
		t.Errorf("our own page: got %d, want 200", got)
	}
}

func TestBrokenRequestsAreRefused(t *testing.T) {
	o := startOrigin(t)
	for _, test := range []struct {
		name, method, path, body string
		header                   http.Header
		status                   int
	}{
		{"a WebSocket client that missed the gateway", "GET", "/chat", "", nil, 405},
		{"events that are none", "POST", "/chat", "OPEN", wohHeader("c1"), 400},
		{"a size that is none", "POST", "/chat", "TEXT x\r\n\r\n", wohHeader("c1"), 400},
		{"no connection", "POST", "/chat", "OPEN\r\n", wohHeader(""), 400},
		{"a file that is not there", "GET", "/secret", "", nil, 404},
		{"a file by its folder", "GET", "/page/index.html", "", nil, 404},
		{"a method that is none of ours", "DELETE", "/", "", nil, 405},
		{"a stream cannot be posted to", "POST", "/ticker", "", nil, 405},
	} {
		if got := o.request(test.method, test.path, strings.NewReader(test.body), test.header).status; got != test.status {
			t.Errorf("%s: got %d, want %d", test.name, got, test.status)
		}
	}
}

func TestPageIsWholeAndStrict(t *testing.T) {
	o := startOrigin(t)
	index := o.get("/")
	if got := index.header.Get("Content-Type"); got != "text/html; charset=utf-8" {
		t.Errorf("type: got %q", got)
	}
	policy := index.header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("policy: got %q, want it to contain %q", policy, want)
		}
	}
	if strings.Contains(policy, "unsafe") {
		t.Errorf("policy: got %q", policy)
	}
	if inline := regexp.MustCompile(`(?i)<style|\sstyle=|\son\w+=|<script[^>]*>[^<]|https?://`).FindString(index.body); inline != "" {
		t.Errorf("index.html has %q, which the policy forbids", inline)
	}

	// Everything that is named is there.
	seen := map[string]bool{}
	var follow func(path string)
	follow = func(path string) {
		if seen[path] {
			return
		}
		seen[path] = true
		r := o.get(path)
		if r.status != 200 || r.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: got %d, %v", path, r.status, r.header)
		}
		again := o.request(http.MethodGet, path, nil, http.Header{"If-None-Match": {r.header.Get("Etag")}})
		if again.status != 304 || again.body != "" {
			t.Errorf("%s again: got %d with %d bytes, want 304", path, again.status, len(again.body))
		}
		for _, match := range regexp.MustCompile(`(?:src="|href="|from ")\.?(/[\w.]+)"`).FindAllStringSubmatch(r.body, -1) {
			follow(match[1])
		}
		if strings.HasSuffix(path, ".js") && regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function`).MatchString(r.body) {
			t.Errorf("%s makes HTML or code of text", path)
		}
	}
	follow("/index.html")
	files, err := os.ReadDir("page")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !seen["/"+file.Name()] {
			t.Errorf("nothing on the page leads to %s", file.Name())
		}
	}
}

func TestWireShowsExchangesAndKeepsSecrets(t *testing.T) {
	o := startOrigin(t)
	const connection = "5e3d8a1c-0000-4000-8000-123456789abc"
	private := http.Header{"Cookie": {"session=verysecret"}, "Authorization": {"Bearer verysecret"}, "Grip-Sig": {"eyJ.verysecret"}}
	o.exchange(connection, "OPEN\r\n", private)
	o.exchange(connection, "TEXT 5\r\nhello\r\n", private)
	o.vote(url.Values{"choice": {"1"}, "who": {secret}})
	records := o.control.records(t, 6)
	all := strings.Join(records, "\n")
	for _, want := range []string{
		`"line":"POST /chat?who=…"`, `"type":"OPEN","size":-1`, `"type":"TEXT","size":5,"content":"hello"`,
		`c:{\"type\":\"subscribe\",\"channel\":\"chat\"}`, `["Connection-Id","5e3d8a1c…"]`, `["Keep-Alive-Interval","20"]`,
		`"line":"POST /publish/"`, `\"ws-message\"`, `"line":"POST /poll"`, `"body":"choice=1&who=…"`, `["Grip-Sig","eyJ.very…"]`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("the records lack %s:\n%s", want, all)
		}
	}
	for _, leak := range []string{secret, "verysecret", "session=", connection} {
		if strings.Contains(all, leak) {
			t.Errorf("the records tell %q", leak)
		}
	}
}

// Publishing a record must not be something to be recorded.
func TestWireDoesNotWatchItself(t *testing.T) {
	o := startOrigin(t)
	o.get("/wire")
	o.get("/ticker?with=wire")
	for _, record := range o.control.records(t, 4) { // the two above, and the ticker's next seconds
		if strings.Contains(record, `"kind":"publish"`) && strings.Contains(record, "demo-wire") {
			t.Errorf("recorded: %s", record)
		}
	}
	if got := o.control.count("demo-wire"); got > 6 {
		t.Errorf("%d publishes of a few records: they are the reason for each other", got)
	}
}

func TestHelloSaysWhatToOpenAndType(t *testing.T) {
	for _, test := range []struct {
		name, client, control string
		want                  []string
		not                   string
	}{
		{"the defaults", "[::]:7999", "127.0.0.1:5561", []string{
			"Open http://localhost:7999/ ", "curl -N http://localhost:7999/ticker", "ws://localhost:7999/chat",
			"gripway publish chat 'hello'\n", "http://127.0.0.1:5561/publish/",
		}, "--spec"},
		{"other ports", "0.0.0.0:8080", "[::]:6000", []string{
			"http://localhost:8080/", "gripway publish --spec http://localhost:6000 chat 'hello'\n", "http://localhost:6000/publish/",
		}, "0.0.0.0"},
		{"one address", "192.0.2.1:80", "", []string{"http://192.0.2.1:80/"}, "publish"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var b bytes.Buffer
			new(demo.Demo).Hello(&b, test.client, test.control)
			for _, want := range test.want {
				if !strings.Contains(b.String(), want) {
					t.Errorf("got\n%s\nwant it to contain %q", b.String(), want)
				}
			}
			if strings.Contains(b.String(), test.not) {
				t.Errorf("got\n%s\nwant it not to contain %q", b.String(), test.not)
			}
		})
	}
}

func TestWithoutPrivateAPIItPublishesOnTheBus(t *testing.T) {
	bus := &pubsub.Memory{}
	defer bus.Close()
	heard := make(receiver, 10)
	if _, err := bus.Subscribe(t.Context(), "chat", heard); err != nil {
		t.Fatal(err)
	}
	o := start(t, demo.Options{Bus: bus})
	o.exchange("c1", "OPEN\r\n", nil)
	o.say("c1", "hello")
	select {
	case data := <-heard:
		if item, err := grip.ParseItem(data); err != nil || !strings.Contains(string(item.Message.Content), `"hello"`) {
			t.Errorf("got %s, %v", data, err)
		}
	case <-time.After(patience):
		t.Error("nothing arrived on the bus")
	}
}

func TestAddressForEverywhereIsReachedThroughLoopback(t *testing.T) {
	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	published := make(chan struct{}, 100)
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { published <- struct{}{} })}
	go server.Serve(listener)
	defer server.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	for _, addr := range []string{":" + port, "0.0.0.0:" + port, "[::]:" + port} {
		if strings.HasPrefix(addr, "[") && !hasIPv6() {
			t.Log("SKIPPED: no IPv6 here, [::] is not tested")
			continue
		}
		o := start(t, demo.Options{ControlAddr: addr})
		o.exchange("c1", "OPEN\r\n", nil)
		select {
		case <-published:
		case <-time.After(patience):
			t.Errorf("%s: nothing arrived", addr)
		}
	}
}

func hasIPv6() bool {
	listener, err := net.Listen("tcp", "[::1]:0")
	if err == nil {
		listener.Close()
	}
	return err == nil
}

func TestItSaysWhatItNeeds(t *testing.T) {
	for _, options := range []demo.Options{{}, {ControlAddr: "nowhere"}, {ControlAddr: "localhost:5561:1"}} {
		if d, err := demo.New(options); err == nil {
			d.Close()
			t.Errorf("%+v: no error", options)
		} else if !strings.HasPrefix(err.Error(), "demo: ") {
			t.Errorf("%+v: got %q", options, err)
		}
	}
}

func TestCloseEndsAllOfIt(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	// A private API that never answers, and a client that is just being answered.
	stuck := make(chan struct{})
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-stuck:
		case <-r.Context().Done():
		}
	}))
	defer api.Close()
	defer close(stuck)
	d, err := demo.New(demo.Options{ControlAddr: api.Listener.Addr().String(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Get("http://" + d.Addr() + "/ticker")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, response.Body)
	response.Body.Close()
	begun := time.Now()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("Close took %v while a publish hung", took)
	}
	if err := d.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
	http.DefaultClient.CloseIdleConnections()
}

// A gateway's own face speaks to it: what both packages understand of the protocol
// is one thing.
func TestGatewaysFaceUnderstandsIt(t *testing.T) {
	o := startOrigin(t)
	client := wsoverhttp.NewClient(wsoverhttp.ClientOptions{URL: "ws://" + o.demo.Addr() + "/chat?who=" + secret})
	answer, err := client.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !answer.Opened || answer.KeepAlive != 20*time.Second || !answer.Extension.On || client.Meta()["Person"] != personID {
		t.Errorf("opened %v, keep-alive %v, extension %v, meta %v", answer.Opened, answer.KeepAlive, answer.Extension, client.Meta())
	}
	for _, event := range answer.Events[:3] {
		if _, err := grip.ParseControl(bytes.TrimPrefix(event.Content, []byte(grip.ControlPrefix))); err != nil {
			t.Errorf("%s: %v", event.Content, err)
		}
	}
	if answer, err = client.Send(t.Context(), text("hello")); err != nil || len(answer.Events) != 0 {
		t.Errorf("got %v, %v", answer, err)
	}
	o.control.next(t, "chat")
	if answer, err = client.Send(t.Context(), wsoverhttp.Event{Type: wsoverhttp.Close, Content: wsoverhttp.CloseContent(1001, "bye")}); err != nil ||
		len(answer.Events) != 1 || answer.Events[0].Type != wsoverhttp.Close {
		t.Errorf("close: got %v, %v", answer, err)
	}
}

// origin is a demo and the gateway that this test is to it.
type origin struct {
	t       *testing.T
	demo    *demo.Demo
	control *control
}

// startOrigin starts a demo with a private API that notes what is published.
func startOrigin(t *testing.T) *origin {
	t.Helper()
	c := &control{
		chat: make(chan *grip.Item, 200), presence: make(chan *grip.Item, 200), ticker: make(chan *grip.Item, 200),
		poll: make(chan *grip.Item, 200), wire: make(chan *grip.Item, 200),
	}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	o := start(t, demo.Options{ControlAddr: server.Listener.Addr().String()})
	o.control = c
	return o
}

func start(t *testing.T, options demo.Options) *origin {
	t.Helper()
	d, err := demo.New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return &origin{t: t, demo: d}
}

// response is an answer that was read.
type response struct {
	status int
	header http.Header
	body   string
}

func (r response) json(t *testing.T) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		t.Fatalf("%q: %v", r.body, err)
	}
	return v
}

// message is the first message for the client with a type.
func (r response) message(t *testing.T, kind string) map[string]any {
	t.Helper()
	events, err := wsoverhttp.Decode([]byte(r.body))
	if err != nil {
		t.Fatalf("%d %q: %v", r.status, r.body, err)
	}
	for _, event := range events {
		var v map[string]any
		if content, ok := strings.CutPrefix(string(event.Content), "m:"); ok && json.Unmarshal([]byte(content), &v) == nil && v["type"] == kind {
			return v
		}
	}
	t.Fatalf("no message %q in %d %q", kind, r.status, r.body)
	return nil
}

func (o *origin) request(method, path string, body io.Reader, header http.Header) response {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "http://"+o.demo.Addr()+path, body)
	if err != nil {
		o.t.Fatal(err)
	}
	for name, values := range header {
		r.Header[name] = values
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		o.t.Fatal(err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	return response{answer.StatusCode, answer.Header, string(content)}
}

func (o *origin) get(path string) response {
	o.t.Helper()
	return o.request(http.MethodGet, path, nil, nil)
}

func (o *origin) vote(form url.Values) response {
	o.t.Helper()
	return o.request(http.MethodPost, "/poll", strings.NewReader(form.Encode()), http.Header{"Content-Type": {"application/x-www-form-urlencoded"}})
}

// wohHeader is what a gateway sends for a connection.
func wohHeader(id string) http.Header {
	h := http.Header{
		"Accept": {"application/websocket-events"}, "Content-Type": {"application/websocket-events"},
		"Sec-Websocket-Extensions": {"grip"},
	}
	if id != "" {
		h["Connection-Id"] = []string{id}
	}
	return h
}

// exchange is a request of a gateway for a connection of the window secret.
func (o *origin) exchange(id, body string, header http.Header) response {
	o.t.Helper()
	return o.exchangeAs(secret, id, body, header)
}

func (o *origin) exchangeAs(who, id, body string, header http.Header) response {
	o.t.Helper()
	all := wohHeader(id)
	for name, values := range header {
		all[name] = values
	}
	return o.request(http.MethodPost, "/chat?who="+url.QueryEscape(who), strings.NewReader(body), all)
}

func (o *origin) say(id, message string) response {
	o.t.Helper()
	return o.exchange(id, string(wsoverhttp.AppendEvents(nil, text(message))), nil)
}

func text(s string) wsoverhttp.Event {
	return wsoverhttp.Event{Type: wsoverhttp.Text, Content: []byte(s)}
}

// control is a private API. Channels have room for all that a test publishes.
type control struct {
	chat, presence, ticker, poll, wire chan *grip.Item
	wires                              int // taken from wire
}

func (c *control) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	items, err := grip.ParseItems(body)
	if err != nil || r.URL.Path != "/publish/" {
		http.Error(w, fmt.Sprint(r.URL.Path, err), http.StatusBadRequest)
		return
	}
	for _, item := range items {
		c.channel(item.Channel) <- item
	}
	io.WriteString(w, "Published\n")
}

func (c *control) channel(name string) chan *grip.Item {
	return map[string]chan *grip.Item{"chat": c.chat, "presence": c.presence, "ticker": c.ticker, "poll": c.poll, "demo-wire": c.wire}[name]
}

// next is the next item on a channel.
func (c *control) next(t *testing.T, channel string) *grip.Item {
	t.Helper()
	select {
	case item := <-c.channel(channel):
		return item
	case <-time.After(patience):
		t.Fatalf("nothing was published on %s", channel)
		return nil
	}
}

// records are the next so many records on the wire, as JSON.
func (c *control) records(t *testing.T, count int) []string {
	t.Helper()
	var records []string
	for len(records) < count {
		lines := bufio.NewScanner(bytes.NewReader(c.next(t, "demo-wire").Stream.Content))
		lines.Buffer(nil, 1<<20)
		c.wires++
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				records = append(records, data)
			}
		}
	}
	return records
}

// count is how many items were published on the wire.
func (c *control) count(string) int { return c.wires + len(c.wire) }

// receiver is a pubsub.Receiver.
type receiver chan []byte

func (r receiver) Receive(data []byte, _ bool) { r <- bytes.Clone(data) }
func (r receiver) Lost(int)                    {}
