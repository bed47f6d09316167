package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/gripway/gripway/integration/harness"
	"github.com/gripway/gripway/wsoverhttp"
)

const (
	// burstItems of burstBytes are published as fast as can be; Pushpin 1.36 loses three
	// quarters of them without a word.
	burstItems = 2000
	burstBytes = 10_000

	// burstBatch is how many of them are in one request.
	burstBatch = 10

	// burstPatience is how long all of it may take on a busy machine.
	burstPatience = 3 * time.Minute
)

// TestNothingOfABurstIsLostWithoutASignal is the promise that a publisher or a
// reader always knows: an item is accepted, or refused with 503 and Retry-After; a reader
// has every accepted item in order, or is closed.
func TestNothingOfABurstIsLostWithoutASignal(t *testing.T) {
	binary, peer, err := program()
	if err != nil {
		t.Fatal(err)
	}
	if peer {
		t.Skip("the peer loses items")
	}
	items := burstItems
	if testing.Short() {
		items /= 10
	}
	for name, c := range map[string]struct {
		flags []string
		busy  bool // the publisher is told to wait at least once
	}{
		"as it comes":          {},
		"with little room":     {[]string{"--item-queue-bytes=30KiB"}, true},
		"with slow ones early": {[]string{"--client-queue-bytes=64KiB"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			items := items
			if c.busy {
				items /= 4 // most of them are refused a few times
			}
			burst(t, binary, items, c.flags, c.busy)
		})
	}
}

func burst(t *testing.T, binary string, items int, flags []string, busy bool) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Method == http.MethodGet {
			w.Header().Set("Grip-Hold", "stream")
			w.Header().Set("Grip-Channel", "room")
			return
		}
		w.Header().Set("Content-Type", "application/websocket-events")
		w.Header().Set("Sec-WebSocket-Extensions", "grip")
		if bytes.HasPrefix(body, []byte("OPEN")) {
			w.Write(wsoverhttp.AppendEvents(nil, wsoverhttp.Event{Type: wsoverhttp.Open},
				wsoverhttp.Event{Type: wsoverhttp.Text, Content: []byte(`c:{"type":"subscribe","channel":"room"}`)}))
		}
	}))
	defer origin.Close()
	gateway, err := harness.StartGateway(harness.GatewayOptions{
		Program: binary, Dir: t.TempDir(), Routes: []string{"* " + origin.Listener.Addr().String() + ",over_http"},
		Flags: append([]string{"--drain-timeout=2s"}, flags...),
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, gateway.Log())
	}
	defer gateway.Close()

	readers := make([]*burstReader, 50)
	var reading sync.WaitGroup
	for i := range readers {
		r := &burstReader{pace: burstPaces[i/2%len(burstPaces)], over: make(chan struct{}), resume: make(chan struct{})}
		readers[i] = r
		if i%2 == 0 {
			err = r.stream(gateway.Addr)
		} else {
			err = r.socket(gateway.Addr)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer r.conn.Close()
		reading.Go(r.read)
	}

	accepted, refused := burstPublish(t, gateway.ControlAddr, items)
	t.Logf("%d requests were refused with 503", refused)
	if busy && refused == 0 {
		t.Error("the publisher was never told to wait")
	}
	last, open := burstLast(t, gateway.ControlAddr, len(accepted))
	for _, r := range readers {
		close(r.resume) // who has stalled reads what there is
	}
	deadline := time.AfterFunc(burstPatience, func() {
		for _, r := range readers {
			r.conn.Close()
		}
	})
	reading.Wait()
	deadline.Stop()

	whole, cut := 0, 0
	for i, r := range readers {
		for n, id := range r.got {
			if n >= len(accepted)+1 || n < len(accepted) && id != accepted[n] || n == len(accepted) && id != last {
				t.Fatalf("reader %d (%s): item %d is %d, which is not what was accepted there", i, r.pace.name, n, id)
			}
		}
		switch {
		case len(r.got) == len(accepted)+1:
			whole++
		case r.err == nil:
			t.Errorf("reader %d (%s): it has %d of %d items, and is still connected", i, r.pace.name, len(r.got), len(accepted)+1)
		case r.complete:
			t.Errorf("reader %d (%s): it has %d of %d items, and was told that this is all", i, r.pace.name, len(r.got), len(accepted)+1)
		default:
			cut++
		}
	}
	t.Logf("%d readers have all of %d items, %d were closed", whole, len(accepted), cut)
	if len(accepted) != items {
		t.Errorf("%d items were accepted, want %d in the end", len(accepted), items)
	}
	if whole == 0 || open < whole {
		t.Errorf("%d readers have all, and the publisher was told of %d", whole, open)
	}
	// A client is counted when the last of its connection has gone, which is after it has seen it.
	got, end := 0, time.Now().Add(time.Minute)
	for ; time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		got = burstMetric(t, gateway.ControlAddr, `gripway_websockets_closed_total{reason="slow"}`) + burstMetric(t, gateway.ControlAddr, `gripway_holds_ended_total{reason="slow"}`)
		if got == cut {
			return
		}
	}
	t.Errorf("%d readers were closed, and %d are counted as slow", cut, got)
}

// burstPace is how a reader reads.
type burstPace struct {
	name  string
	pause time.Duration // after each 50 items
	stall bool          // it does not read until all is over
}

var burstPaces = []burstPace{{name: "quick"}, {name: "quick"}, {name: "slow", pause: 20 * time.Millisecond}, {name: "very slow", pause: time.Second}, {name: "stalled", stall: true}}

// burstReader is one client.
type burstReader struct {
	pace   burstPace
	conn   net.Conn
	next   func() ([]byte, error)
	over   chan struct{}
	resume chan struct{}

	// Owned by read.
	got      []int
	err      error // why it ended; nil if it had the last item
	complete bool  // the end was one that says that all has come
}

func (r *burstReader) dial(addr string) (err error) {
	r.conn, err = net.Dial("tcp", addr)
	if err == nil && (r.pace.pause > 0 || r.pace.stall) {
		err = r.conn.(*net.TCPConn).SetReadBuffer(16 << 10)
	}
	return err
}

func (r *burstReader) stream(addr string) error {
	if err := r.dial(addr); err != nil {
		return err
	}
	fmt.Fprintf(r.conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	response, err := http.ReadResponse(bufio.NewReader(r.conn), nil)
	if err != nil {
		return err
	}
	lines := bufio.NewReaderSize(response.Body, 2*burstBytes)
	r.next = func() ([]byte, error) {
		line, err := lines.ReadSlice('\n')
		r.complete = err == io.EOF
		return bytes.TrimSuffix(line, []byte("\n")), err
	}
	return nil
}

func (r *burstReader) socket(addr string) error {
	if err := r.dial(addr); err != nil {
		return err
	}
	dialer := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return r.conn, nil }}
	ws, _, err := dialer.Dial("ws://"+addr+"/", nil)
	if err != nil {
		return err
	}
	r.next = func() ([]byte, error) {
		_, message, err := ws.ReadMessage()
		var closed *websocket.CloseError
		r.complete = errors.As(err, &closed) && closed.Code == websocket.CloseNormalClosure
		return message, err
	}
	return nil
}

func (r *burstReader) read() {
	for {
		if r.pace.stall && len(r.got) == 1 {
			<-r.resume
		}
		text, err := r.next()
		if err != nil {
			r.err = err
			return
		}
		number, rest, _ := strings.Cut(string(text), " ")
		id, err := strconv.Atoi(number)
		if err != nil || len(rest) != burstBytes {
			r.err = fmt.Errorf("item %.40q has %d bytes: it is not what was published", text, len(rest))
			r.complete = true // and that is no signal
			return
		}
		r.got = append(r.got, id)
		if id == burstLastID {
			return
		}
		if len(r.got)%50 == 0 {
			time.Sleep(r.pace.pause)
		}
	}
}

// burstLastID is the number of the item after the burst.
const burstLastID = 1_000_000

func burstItem(id int) string {
	content := fmt.Sprintf("%d %s", id, strings.Repeat("x", burstBytes))
	return fmt.Sprintf(`{"channel":"room","formats":{"http-stream":{"content":"%s\n"},"ws-message":{"content":"%s"}}}`, content, content)
}

var burstRefusal = regexp.MustCompile(`(\d+) of \d+ items were accepted before it`)

// burstPublish publishes as fast as it can, again what was refused, and returns what
// was accepted, in order.
func burstPublish(t *testing.T, addr string, items int) (accepted []int, refused int) {
	t.Helper()
	deadline := time.Now().Add(burstPatience)
	for len(accepted) < items {
		var texts []string
		first := len(accepted)
		for id := first; id < min(first+burstBatch, items); id++ {
			texts = append(texts, burstItem(id))
		}
		response, err := http.Post("http://"+addr+"/publish/", "application/json", strings.NewReader(`{"items":[`+strings.Join(texts, ",")+`]}`))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		n := len(texts)
		switch response.StatusCode {
		case http.StatusOK:
		case http.StatusServiceUnavailable:
			refused++
			found := burstRefusal.FindSubmatch(body)
			if found == nil || response.Header.Get("Retry-After") == "" {
				t.Fatalf("503 that does not say enough: %v %q", response.Header, body)
			}
			n, _ = strconv.Atoi(string(found[1]))
			time.Sleep(time.Millisecond) // sooner than asked to: as fast as can be
		default:
			t.Fatalf("got %s: %q", response.Status, body)
		}
		for id := first; id < first+n; id++ {
			accepted = append(accepted, id)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d items are accepted after %v", len(accepted), burstPatience)
		}
	}
	return accepted, refused
}

// burstLast publishes the last item and returns its number, and how many have it.
func burstLast(t *testing.T, addr string, before int) (id, delivered int) {
	t.Helper()
	for {
		response, err := http.Post("http://"+addr+"/publish/?wait=30s", "application/json", strings.NewReader(`{"items":[`+burstItem(burstLastID)+`]}`))
		if err != nil {
			t.Fatal(err)
		}
		var report struct{ Receivers, Delivered, Waiting, Answered int }
		err = json.NewDecoder(response.Body).Decode(&report)
		response.Body.Close()
		if response.StatusCode == http.StatusServiceUnavailable {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if err != nil || response.StatusCode != 200 || report.Answered != 1 || report.Waiting != 0 {
			t.Fatalf("the last item: %s, %+v, %v", response.Status, report, err)
		}
		return burstLastID, report.Delivered
	}
}

func burstMetric(t *testing.T, addr, name string) int {
	t.Helper()
	response, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			n, err := strconv.Atoi(value)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return 0
}
