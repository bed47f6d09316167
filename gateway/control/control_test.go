package control_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gripway/gripway/gateway/control"
	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/pubsub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// api is a Control at a port, over a bus in memory unless options bring one.
func api(t *testing.T, options control.Options) (c *control.Control, url string) {
	t.Helper()
	if options.Bus == nil {
		bus := pubsub.NewMemory()
		t.Cleanup(func() { bus.Close() })
		options.Bus = bus
	}
	c = control.New(options)
	server := httptest.NewServer(c)
	t.Cleanup(func() {
		c.Close()
		server.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return c, server.URL
}

// ask sends a request and returns status and body.
func ask(t *testing.T, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r, err := http.NewRequest(method, url, reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(text)
}

// heard collects what a bus carries on some channels.
type heard struct {
	mu    sync.Mutex
	items []string
}

func (h *heard) Receive(data []byte, _ bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.items = append(h.items, string(data))
}

func (h *heard) Lost(int) {}

// wait returns the items once there are n of them.
func (h *heard) wait(t *testing.T, n int) []string {
	t.Helper()
	for range 1000 {
		h.mu.Lock()
		items := slices.Clone(h.items)
		h.mu.Unlock()
		if len(items) >= n {
			return items
		}
		time.Sleep(time.Millisecond) // the bus has goroutines of its own
	}
	t.Fatalf("got %d items, want %d", len(h.items), n)
	return nil
}

func hear(t *testing.T, bus pubsub.Bus, channels ...string) *heard {
	t.Helper()
	h := new(heard)
	for _, channel := range channels {
		if _, err := bus.Subscribe(t.Context(), channel, h); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

const oneItem = `{"items":[{"channel":"a","formats":{"http-stream":{"content":"x"}}}]}`

func TestAPublishReachesTheBusAsItWasWritten(t *testing.T) {
	bus := pubsub.NewMemory()
	defer bus.Close()
	h := hear(t, bus, "a", "b c")
	_, url := api(t, control.Options{Bus: bus})
	items := []string{
		`{"channel":"a","id":"1","formats":{"http-stream":{"content":"x"},"telegram":{"n":1}}}`,
		`{"channel":"a", "http-stream":{"content":"legacy"}}`,
		`{"channel":"b c","prev-id":"1","formats":{"ws-message":{"content-bin":"AA=="}}}`,
	}
	answer, body := ask(t, "POST", url+"/publish/", `{"items":[`+strings.Join(items, ",\n")+`]}`)
	if answer.StatusCode != 200 || body != "Published\n" || answer.Header.Get("Content-Type") != "text/plain" {
		t.Errorf("got %d %q %q, want 200, Published", answer.StatusCode, answer.Header.Get("Content-Type"), body)
	}
	got := h.wait(t, 3)
	slices.Sort(got)
	slices.Sort(items)
	if !slices.Equal(got, items) {
		t.Errorf("got  %q\nwant %q", got, items)
	}
}

func TestEveryAnswerOfThePublishPort(t *testing.T) {
	recovered := 0
	_, url := api(t, control.Options{Recover: func() { recovered++ }})
	for _, test := range []struct {
		name, method, path, body, header string
		status                           int
		want                             string // the whole body; a type before it in parentheses
	}{
		{"publish", "POST", "/publish/", oneItem, "", 200, "(text/plain)Published\n"},
		{"without the slash", "POST", "/publish", oneItem, "", 200, "(text/plain)Published\n"},
		{"two slashes, as go-pubcontrol", "POST", "//publish/", oneItem, "", 200, "(text/plain)Published\n"},
		{"slashes all over", "POST", "///publish///", oneItem, "", 200, "(text/plain)Published\n"},
		{"a query of the control URI", "POST", "/publish/?realm=x", oneItem, "", 200, "(text/plain)Published\n"},
		{"no items", "POST", "/publish/", `{"items":[]}`, "", 200, "(text/plain)Published\n"},
		{"empty channel", "POST", "/publish/", `{"items":[{"channel":"","http-stream":{"content":""}}]}`, "", 200, "(text/plain)Published\n"},
		{"unknown format", "POST", "/publish/", `{"items":[{"channel":"a","formats":{"telegram":1}}]}`, "", 200, "(text/plain)Published\n"},
		{"empty authorization", "POST", "/publish/", oneItem, "Authorization: ", 200, "(text/plain)Published\n"},
		{"some authorization", "POST", "/publish/", oneItem, "Authorization: Basic b'eDp5'", 200, "(text/plain)Published\n"},

		{"JSON", "POST", "/publish/", oneItem, "Accept: application/json", 200, "(application/json){\"message\":\"Published\"}\n"},
		{"the last entry of Accept wins", "POST", "/publish/", oneItem, "Accept: text/plain, application/json;q=0.1", 200, "(application/json){\"message\":\"Published\"}\n"},
		{"and text may be last", "POST", "/publish/", oneItem, "Accept: application/*,image/png , */*;q=0.1", 200, "(text/plain)Published\n"},
		{"neither", "POST", "/publish/", oneItem, "Accept: image/png", 406, "(text/plain)Not Acceptable. Supported formats are text/plain and application/json.\n"},
		{"neither, elsewhere", "GET", "/", "", "Accept: image/png", 406, "(text/plain)Not Acceptable. Supported formats are text/plain and application/json.\n"},

		{"GET", "GET", "/publish/", "", "", 405, "(text/plain)Method not allowed: GET.\n"},
		{"PUT", "PUT", "/publish", oneItem, "", 405, "(text/plain)Method not allowed: PUT.\n"},
		{"no JSON", "POST", "/publish/", `{"items":`, "", 400, "(text/plain)Body is not valid JSON.\n"},
		{"a list", "POST", "/publish/", `[]`, "", 400, "(text/plain)Invalid format.\n"},
		{"no items member", "POST", "/publish/", `{}`, "", 400, "(text/plain)Invalid format: object does not contain 'items'\n"},
		{"items of another type", "POST", "/publish/", `{"items":{}}`, "", 400, "(text/plain)Invalid format: object contains 'items' with wrong type\n"},
		{"no channel", "POST", "/publish/", `{"items":[{"http-stream":{"content":"x"}}]}`, "", 400, "(text/plain)Invalid format: publish item object does not contain 'channel'\n"},
		{"no formats", "POST", "/publish/", `{"items":[{"channel":"a"}]}`, "", 400, "(text/plain)Invalid format: no formats specified\n"},
		{"too large", "POST", "/publish/", strings.Repeat("x", 1_000_001), "", 400, "(text/plain)Request body too large.\n"},
		{"as large as may be", "POST", "/publish/", oneItem + strings.Repeat(" ", 1_000_000-len(oneItem)), "", 200, "(text/plain)Published\n"},
		{"a channel no bus takes", "POST", "/publish/", `{"items":[{"channel":"` + strings.Repeat("x", 1025) + `","http-stream":{"content":"x"}}]}`, "", 400, "(text/plain)Invalid format: 'channel' is longer than 1024 bytes\n"},

		{"recover", "POST", "/recover/", "", "", 200, "(text/plain)Updated\n"},
		{"recover, JSON", "POST", "/recover", "{}", "Accept: application/json", 200, "(application/json){\"message\":\"Updated\"}\n"},
		{"recover by GET", "GET", "/recover/", "", "", 405, "(text/plain)Method not allowed: GET.\n"},
		{"root", "GET", "/", "", "", 200, "(text/plain)Gripway API\n"},
		{"root by POST: nothing is published there", "POST", "/?verify-iss=a/publish/", oneItem, "", 405, "(text/plain)Method not allowed: POST.\n"},
		{"elsewhere", "GET", "/x", "", "", 404, "(text/plain)Not Found\n"},
		{"elsewhere below", "POST", "/publish/x", oneItem, "", 404, "(text/plain)Not Found\n"},
		{"health", "GET", "/healthz", "", "Accept: image/png", 200, "(text/plain)ok\n"},
		{"ready", "GET", "/readyz", "", "", 200, "(text/plain)ready\n"},
		{"health by POST", "POST", "/healthz", "x", "", 405, "(text/plain)Method not allowed: POST.\n"},
		{"no metrics given", "GET", "/metrics", "", "", 404, "(text/plain; charset=utf-8)404 page not found\n"},
		{"no channel to hear", "GET", "/api/subscribe", "", "", 400, "(text/plain)No channel: want /api/subscribe?channel=NAME, repeated for several.\n"},
		{"hearing by POST", "POST", "/api/subscribe?channel=a", "x", "", 405, "(text/plain)Method not allowed: POST.\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var headers []string
			if test.header != "" {
				headers = append(headers, test.header)
			}
			answer, body := ask(t, test.method, url+test.path, test.body, headers...)
			got := "(" + answer.Header.Get("Content-Type") + ")" + body
			if answer.StatusCode != test.status || got != test.want {
				t.Errorf("got  %d %q\nwant %d %q", answer.StatusCode, got, test.status, test.want)
			}
			if allow := answer.Header.Get("Allow"); (answer.StatusCode == 405) != (allow != "") {
				t.Errorf("got Allow %q with status %d", allow, answer.StatusCode)
			}
		})
	}
	if recovered != 2 {
		t.Errorf("recovered %d times, want twice", recovered)
	}
}

func TestRecoveryThatIsNotThereIsAdmitted(t *testing.T) {
	_, url := api(t, control.Options{})
	if answer, body := ask(t, "POST", url+"/recover/", ""); answer.StatusCode != 501 || body != "Recovery is not supported here.\n" {
		t.Errorf("got %d %q, want 501", answer.StatusCode, body)
	}
}

func TestNotBeingReadyHasAReason(t *testing.T) {
	_, url := api(t, control.Options{Ready: func() error { return errors.New("draining") }})
	if answer, body := ask(t, "GET", url+"/readyz", ""); answer.StatusCode != 503 || body != "not ready: draining\n" {
		t.Errorf("got %d %q, want 503 and why", answer.StatusCode, body)
	}
	if answer, _ := ask(t, "GET", url+"/healthz", ""); answer.StatusCode != 200 {
		t.Errorf("got %d for health, want 200: the process runs", answer.StatusCode)
	}
}

// raw speaks HTTP by hand and returns the answers' first lines.
func raw(t *testing.T, url string, requests ...string) []string {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	reader := bufio.NewReader(conn)
	var lines []string
	for _, request := range requests {
		io.WriteString(conn, request)
		answer, err := http.ReadResponse(reader, nil)
		if err != nil {
			lines = append(lines, err.Error())
			break
		}
		body, _ := io.ReadAll(answer.Body)
		lines = append(lines, fmt.Sprintf("%d %s", answer.StatusCode, body))
	}
	return lines
}

func TestConnectionsAreKeptAliveAndLengthsRequired(t *testing.T) {
	_, url := api(t, control.Options{})
	post := fmt.Sprintf("POST /publish/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(oneItem), oneItem)
	got := raw(t, url,
		post, post,
		"POST /publish/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /publish/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"POST /publish/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
		post,
		"POST /recover/ HTTP/1.1\r\nHost: x\r\n\r\n")
	want := []string{"200 Published\n", "200 Published\n", "411 Request requires Content-Length.\n", "411 Request requires Content-Length.\n",
		"400 Body is not valid JSON.\n", "200 Published\n", "501 Recovery is not supported here.\n"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestAPublisherThatHangsUpHasPublished(t *testing.T) {
	bus := pubsub.NewMemory()
	defer bus.Close()
	h := hear(t, bus, "a")
	_, url := api(t, control.Options{Bus: bus})
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /publish/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(oneItem), oneItem)
	conn.Close()
	h.wait(t, 1)
}

func TestHalfABodyPublishesNothing(t *testing.T) {
	registry := metrics.New()
	bus := pubsub.NewMemory()
	defer bus.Close()
	h := hear(t, bus, "a")
	_, url := api(t, control.Options{Bus: bus, Metrics: registry})
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /publish/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(oneItem)+1, oneItem)
	conn.Close()
	waitMetric(t, url, `gripway_publish_refused_total{reason="cut_short"} 1`)
	if got := h.wait(t, 0); len(got) != 0 {
		t.Errorf("got %q, want nothing published", got)
	}
}

// waitMetric waits for a line of the metrics.
func waitMetric(t *testing.T, url, want string) {
	t.Helper()
	text := ""
	for range 1000 {
		if _, text = ask(t, "GET", url+"/metrics", ""); strings.Contains(text, want+"\n") {
			return
		}
		time.Sleep(time.Millisecond) // what is counted ends in another goroutine
	}
	t.Errorf("metrics lack %s:\n%s", want, text)
}

// fullBus accepts some items and refuses the rest.
type fullBus struct {
	pubsub.Bus
	mu     sync.Mutex
	accept int
	err    error
}

func (b *fullBus) Publish(context.Context, string, []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.accept > 0 {
		b.accept--
		return nil
	}
	return b.err
}

func TestABusThatRefusesIsToldToThePublisher(t *testing.T) {
	three := `{"items":[{"channel":"a","http-stream":{"content":"1"}},{"channel":"b","http-stream":{"content":"2"}},{"channel":"c","http-stream":{"content":"3"}}]}`
	for _, test := range []struct {
		name   string
		err    error
		status int
		why    string
	}{
		{"busy", pubsub.ErrBusy, 503, "too many items are waiting"},
		{"disconnected", pubsub.ErrDisconnected, 503, "the connection to the other nodes is down"},
		{"closed", pubsub.ErrClosed, 503, "this node is shutting down"},
		{"denied", pubsub.ErrDenied, 403, "the bus does not allow this channel"},
		{"too long for this bus", pubsub.ErrItemTooLong, 400, "the bus takes no item as long"},
		{"channel too long for this bus", pubsub.ErrChannelTooLong, 400, "the bus takes no name as long"},
		{"anything else, whose text is not for publishers", errors.New("secret detail"), 503, "the bus did not accept it"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, url := api(t, control.Options{Bus: &fullBus{accept: 1, err: fmt.Errorf("wrapped: %w", test.err)}})
			answer, body := ask(t, "POST", url+"/publish/", three)
			want := fmt.Sprintf("Not published: channel \"b\": %s. 1 of 3 items were accepted before it.\n", test.why)
			if answer.StatusCode != test.status || body != want {
				t.Errorf("got  %d %q\nwant %d %q", answer.StatusCode, body, test.status, want)
			}
			if retry := answer.Header.Get("Retry-After"); (retry != "") != (test.status == 503) {
				t.Errorf("got Retry-After %q with status %d", retry, test.status)
			}
		})
	}
}

// stuckBus holds every publish until it is let go.
type stuckBus struct {
	pubsub.Bus
	begun, let chan struct{}
}

func (b *stuckBus) Publish(context.Context, string, []byte) error {
	b.begun <- struct{}{}
	<-b.let
	return nil
}

func TestOnlySoManyPublishesAreWorkedOnAtOnce(t *testing.T) {
	bus := &stuckBus{begun: make(chan struct{}, 9), let: make(chan struct{})}
	_, url := api(t, control.Options{Bus: bus, Publishing: 2})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if answer, _ := ask(t, "POST", url+"/publish/", oneItem); answer.StatusCode != 200 {
				t.Errorf("got %d, want 200 for those that had a turn", answer.StatusCode)
			}
		})
	}
	<-bus.begun
	<-bus.begun
	answer, body := ask(t, "POST", url+"/publish/", oneItem)
	if answer.StatusCode != 503 || answer.Header.Get("Retry-After") == "" || body != "Not published: too many publish requests at once.\n" {
		t.Errorf("got %d %q, want 503", answer.StatusCode, body)
	}
	close(bus.let)
	wg.Wait()
}

// silentBus takes items, and nobody answers what became of them until it lets.
type silentBus struct {
	*pubsub.Memory
	asked, let chan struct{}
}

func (b *silentBus) Ask(context.Context, string, []byte) (pubsub.Answers, error) {
	b.asked <- struct{}{}
	<-b.let
	return pubsub.Answers{}, nil
}

// TestWhoWaitsForAReportKeepsNobodyElse: what it publishes has left already.
func TestWhoWaitsForAReportKeepsNobodyElse(t *testing.T) {
	bus := &silentBus{pubsub.NewMemory(), make(chan struct{}, 9), make(chan struct{})}
	defer bus.Close()
	_, url := api(t, control.Options{Bus: bus, Publishing: 1, Waiters: 3})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if answer, body := ask(t, "POST", url+"/publish/?wait=20s", oneItem); answer.StatusCode != 200 {
				t.Errorf("got %d %q, want 200 for those that wait", answer.StatusCode, body)
			}
		})
	}
	for range 3 {
		<-bus.asked
	}
	if answer, body := ask(t, "POST", url+"/publish/", oneItem); answer.StatusCode != 200 {
		t.Errorf("got %d %q, want 200 for one that does not wait", answer.StatusCode, body)
	}
	answer, body := ask(t, "POST", url+"/publish/?wait=1s", oneItem)
	if answer.StatusCode != 503 || answer.Header.Get("Retry-After") == "" || body != "Not published: too many publish requests wait for their report.\n" {
		t.Errorf("got %d %q, want 503 for one more that waits", answer.StatusCode, body)
	}
	close(bus.let)
	wg.Wait()
}

func TestMetricsHaveEveryReasonFromTheStart(t *testing.T) {
	_, url := api(t, control.Options{Metrics: metrics.New()})
	ask(t, "POST", url+"/publish/", oneItem)
	ask(t, "POST", url+"/publish/", "{")
	_, text := ask(t, "GET", url+"/metrics", "")
	for _, want := range []string{
		"gripway_published_items_total 1",
		`gripway_publish_refused_total{reason="invalid"} 1`,
		`gripway_publish_refused_total{reason="bus"} 0`,
		`gripway_publish_refused_total{reason="busy"} 0`,
		`gripway_publish_refused_total{reason="too_large"} 0`,
		"gripway_publish_intake_seconds_count 1",
		"gripway_listeners 0",
		`gripway_listeners_left_total{reason="slow"} 0`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("metrics lack %s", want)
		}
	}
}

// listen reads lines of a subscription that has begun.
type listening struct {
	t      *testing.T
	answer *http.Response
	lines  *bufio.Reader
}

func listen(t *testing.T, url string, channels ...string) *listening {
	t.Helper()
	r, _ := http.NewRequestWithContext(t.Context(), "GET", url+"/api/subscribe?channel="+strings.Join(channels, "&channel="), nil)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	l := &listening{t, answer, bufio.NewReader(answer.Body)}
	l.want("")
	return l
}

func (l *listening) want(want string) {
	l.t.Helper()
	line, err := l.lines.ReadString('\n')
	if line != want+"\n" {
		l.t.Errorf("got line %q (%v), want %q", line, err, want)
	}
}

func TestAListenerHearsEveryItemOfItsChannels(t *testing.T) {
	bus := pubsub.NewMemory()
	defer bus.Close()
	_, url := api(t, control.Options{Bus: bus})
	l := listen(t, url, "a", "b%20c", "a")
	if got := l.answer.Header.Get("Content-Type"); got != "application/x-ndjson" {
		t.Errorf("got type %q, want lines of JSON", got)
	}
	if !l.answer.Close {
		t.Error("the connection would be used again, with a write deadline that has passed")
	}
	for _, test := range []struct{ channel, data, want string }{
		{"a", `{"channel":"a","formats":{"http-stream":{"content":"<x>\n"},"telegram":1}}`, `{"channel":"a","formats":{"http-stream":{"content":"<x>\n"},"telegram":1}}`},
		{"other", `{"channel":"other"}`, ""},
		{"a", "{\n  \"id\": \"1\"\n}", `{"channel":"a","id":"1"}`},
		{"a", `{}`, `{"channel":"a"}`},
		{"b c", `{"channel":"a","id":"2"}`, `{"channel":"b c","id":"2"}`},
		{"b c", `{"channel":5}`, `{"channel":"b c"}`},
		{"a", `no JSON`, `{"channel":"a","error":"unreadable"}`},
		{"a", `[]`, `{"channel":"a","error":"unreadable"}`},
		{"a", `null`, `{"channel":"a","error":"unreadable"}`},
		{"a", ``, `{"channel":"a","error":"unreadable"}`},
	} {
		if err := bus.Publish(t.Context(), test.channel, []byte(test.data)); err != nil {
			t.Fatal(err)
		}
		if test.want != "" {
			l.want(test.want)
		}
	}
}

func TestAListenerGetsSignsOfLife(t *testing.T) {
	_, url := api(t, control.Options{Heartbeat: 10 * time.Millisecond})
	l := listen(t, url, "a")
	l.want("")
	l.want("")
}

// holeBus tells its receivers of a hole at once.
type holeBus struct{ pubsub.Bus }

func (holeBus) Subscribe(_ context.Context, _ string, r pubsub.Receiver) (pubsub.Subscription, error) {
	r.Lost(3)
	r.Lost(0)
	return noSubscription{}, nil
}

type noSubscription struct{}

func (noSubscription) Unsubscribe() error { return nil }

func TestHolesAreToldToListeners(t *testing.T) {
	_, url := api(t, control.Options{Bus: holeBus{}})
	l := listen(t, url, "a")
	l.want(`{"channel":"a","error":"lost","items":3}`)
	l.want(`{"channel":"a","error":"lost","items":0}`)
}

func TestASlowListenerIsToldAndClosed(t *testing.T) {
	registry := metrics.New()
	bus := pubsub.NewMemory()
	defer bus.Close()
	_, url := api(t, control.Options{Bus: bus, ListenerBytes: 100_000, Metrics: registry})
	l := listen(t, url, "a")
	item := []byte(`{"channel":"a","ws-message":{"content":"` + strings.Repeat("x", 50_000) + `"}}`)
	publish := func() {
		t.Helper()
		if err := bus.Publish(t.Context(), "a", item); err != nil && !errors.Is(err, pubsub.ErrBusy) {
			t.Fatal(err)
		}
	}
	publish()
	l.want(string(item))
	for range 400 { // more than sockets take
		publish()
	}
	last := ""
	for {
		line, err := l.lines.ReadString('\n')
		if err != nil {
			if line != "" || err != io.EOF {
				t.Errorf("got half a line of %d bytes and %v at the end, want a clean end", len(line), err)
			}
			break
		}
		last = line
	}
	if last != "{\"error\":\"slow\"}\n" {
		t.Errorf("got %.40q last, want to be told slow", last)
	}
	waitMetric(t, url, `gripway_listeners_left_total{reason="slow"} 1`)
}

func TestCloseEndsListenersWithALastLine(t *testing.T) {
	c, url := api(t, control.Options{})
	l := listen(t, url, "a")
	c.Close()
	l.want(`{"error":"shutdown"}`)
	if answer, body := ask(t, "GET", url+"/api/subscribe?channel=a", ""); answer.StatusCode != 503 || body != "This node is shutting down.\n" {
		t.Errorf("got %d %q, want 503", answer.StatusCode, body)
	}
}

// farBus never hears a channel.
type farBus struct{ pubsub.Bus }

func (farBus) Subscribe(ctx context.Context, _ string, _ pubsub.Receiver) (pubsub.Subscription, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestCloseDoesNotWaitForABusThatIsAway(t *testing.T) {
	c, url := api(t, control.Options{Bus: farBus{}})
	done := make(chan int, 1)
	go func() {
		answer, err := http.Get(url + "/api/subscribe?channel=a")
		if err != nil {
			done <- 0
			return
		}
		answer.Body.Close()
		done <- answer.StatusCode
	}()
	time.Sleep(20 * time.Millisecond) // until it waits for the bus; sooner proves less, not wrong
	c.Close()
	if status := <-done; status != 503 {
		t.Errorf("got %d, want 503", status)
	}
}

func TestTheClientReadsWhatIsPublished(t *testing.T) {
	bus := pubsub.NewMemory()
	defer bus.Close()
	c, url := api(t, control.Options{Bus: bus, Heartbeat: 5 * time.Millisecond})
	client, err := control.NewClient(url + "/?x=1&key=token")
	if err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	client.Ready = func() { bus.Publish(t.Context(), "b c", []byte(`{"id":"1"}`)) }
	err = client.Subscribe(t.Context(), []string{"a", "b c"}, func(line json.RawMessage) error {
		var item struct{ Channel, ID string }
		if err := json.Unmarshal(line, &item); err != nil || item.Channel != "b c" || item.ID != "1" {
			t.Errorf("got %s, %v, want the item", line, err)
		}
		return enough
	})
	if !errors.Is(err, enough) {
		t.Errorf("got %v, want the error of the one who listens", err)
	}

	client.Ready = func() { go c.Close() }
	err = client.Subscribe(t.Context(), []string{"a"}, func(json.RawMessage) error { return nil })
	if !errors.Is(err, control.ErrShutdown) {
		t.Errorf("got %v, want ErrShutdown", err)
	}
	err = client.Subscribe(t.Context(), []string{"a"}, func(json.RawMessage) error { return nil })
	if err == nil || !strings.HasSuffix(err.Error(), "503 Service Unavailable: This node is shutting down.") {
		t.Errorf("got %v, want what the gateway says", err)
	}
}

func TestTheClientTellsHowASubscriptionEnded(t *testing.T) {
	for _, test := range []struct {
		name, lines string
		want        error
	}{
		{"slow", "\n{\"error\":\"slow\"}\n", control.ErrSlow},
		{"shutdown", "\n{\"error\":\"shutdown\"}\n", control.ErrShutdown},
		{"cut", "\n{\"channel\":\"a\"}\n", io.ErrUnexpectedEOF},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if got := r.Header.Get("Authorization"); got != "Basic bWU6cHc=" {
					t.Errorf("got Authorization %q, want the user of the URL", got)
				}
				io.WriteString(w, test.lines)
			}))
			defer server.Close()
			client, err := control.NewClient(strings.Replace(server.URL, "http://", "http://me:pw@", 1))
			if err != nil {
				t.Fatal(err)
			}
			if err := client.Subscribe(t.Context(), []string{"a"}, func(json.RawMessage) error { return nil }); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}
