package origin_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/gripway/gripway/gateway/origin"
	"github.com/gripway/gripway/wsoverhttp"
)

func testPool(t *testing.T, pathBeg string) *origin.Pool {
	return newPool(t, origin.Options{Targets: []origin.Target{{Test: true}}, PathBeg: pathBeg})
}

func TestTestOriginHoldsWhatIsAskedFor(t *testing.T) {
	for _, c := range []struct {
		pathBeg, target string
		status          int
		hold            string
		channels        []string
		body            string
	}{
		{"", "/", 200, "", nil, "Hello from the Gripway test origin!\n"},
		{"", "/response", 200, "response", []string{"test"}, "nothing for now\n"},
		{"", "/stream/?channel=a&channel=b%20c&x=y", 200, "stream", []string{"a", "b c"}, "[stream opened]\n"},
		{"", "/nothing", 404, "", nil, "no such test resource\n"},
		{"", "/ws", 404, "", nil, "no such test resource\n"},
		{"/test", "/test/stream", 200, "stream", []string{"test"}, "[stream opened]\n"},
		{"/test/", "/test/stream", 200, "stream", []string{"test"}, "[stream opened]\n"},
		{"/test", "/test", 200, "", nil, "Hello from the Gripway test origin!\n"},
		{"/test", "/tester", 404, "", nil, "no such test resource\n"},
	} {
		response, target, err := testPool(t, c.pathBeg).Do(request(t, t.Context(), "GET", "http://x"+c.target, ""))
		if err != nil {
			t.Fatal(err)
		}
		body := readAll(t, response)
		if response.StatusCode != c.status || body != c.body || response.Header.Get("Grip-Hold") != c.hold || !slices.Equal(response.Header["Grip-Channel"], c.channels) {
			t.Errorf("%s: %d %q with %v", c.target, response.StatusCode, body, response.Header)
		}
		if !target.Test || !target.OverHTTP {
			t.Errorf("target %+v", target)
		}
	}
	response, err := testPool(t, "").RoundTrip(request(t, t.Context(), "HEAD", "http://x/", ""))
	if err != nil || readAll(t, response) != "" || response.Header.Get("Content-Length") == "" {
		t.Errorf("HEAD: %v, %v", response, err)
	}
}

func TestTestOriginTakesWebSockets(t *testing.T) {
	client := wsoverhttp.NewClient(wsoverhttp.ClientOptions{Transport: testPool(t, ""), URL: "ws://x/ws?channel=room"})
	answer, err := client.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !answer.Opened || !answer.Extension.On || len(answer.Events) != 1 || string(answer.Events[0].Content) != `c:{"channel":"room","type":"subscribe"}` {
		t.Fatalf("answer to OPEN: %+v", answer)
	}
	answer, err = client.Send(t.Context(),
		wsoverhttp.Event{Type: wsoverhttp.Text, Content: []byte("hello")},
		wsoverhttp.Event{Type: wsoverhttp.Text, Content: []byte(`c:{"type":"detach"}`)},
		wsoverhttp.Event{Type: wsoverhttp.Ping, Content: []byte("p")},
		wsoverhttp.Event{Type: wsoverhttp.Close, Content: wsoverhttp.CloseContent(1000, "bye")})
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, event := range answer.Events {
		said = append(said, event.Type.String()+" "+string(event.Content))
	}
	want := []string{"TEXT hello", "PONG p", "CLOSE \x03\xe8bye"}
	if !slices.Equal(said, want) {
		t.Errorf("events %q, want %q", said, want)
	}

	bad := request(t, t.Context(), "POST", "http://x/ws", "TEXT zz\r\n")
	bad.Header = http.Header{"Content-Type": {wsoverhttp.ContentType}}
	response, err := testPool(t, "").RoundTrip(bad)
	if err != nil || response.StatusCode != 400 || !strings.Contains(readAll(t, response), "bad events") {
		t.Errorf("bad events: %v, %v", response, err)
	}
	if _, _, _, err := testPool(t, "").DialWebSocket(t.Context(), request(t, t.Context(), "GET", "http://x/ws", "")); err == nil || errors.Is(err, origin.ErrConnect) {
		t.Errorf("DialWebSocket = %v, want an error that does not ask for more", err)
	}
}
