package socket_test

import (
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
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/gateway/socket"
	"github.com/gripway/gripway/gateway/wire"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/wsoverhttp"
)

const patience = 20 * time.Second

// house is a gateway of one route, in small.
type house struct {
	keeper *socket.Keeper
	hub    *hub.Hub
	bus    pubsub.Bus
	url    string

	mu   sync.Mutex
	seen [][]wsoverhttp.Event // one for each request to the origin
	more chan struct{}
}

// newHouse serves WebSocket clients; answer is the origin.
func newHouse(t *testing.T, opts socket.Options, answer func(h http.Header, events []wsoverhttp.Event) string) *house {
	t.Helper()
	h := &house{more: make(chan struct{}, 1000)}
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		events, err := wsoverhttp.Decode(body)
		if err != nil {
			t.Errorf("gateway sent %q: %v", body, err)
		}
		h.mu.Lock()
		h.seen = append(h.seen, events)
		h.mu.Unlock()
		h.more <- struct{}{}
		w.Header().Set("Content-Type", "application/websocket-events")
		w.Header().Set("Sec-WebSocket-Extensions", "grip")
		io.WriteString(w, answer(r.Header, events))
	}))
	t.Cleanup(origin.Close)
	group, err := wire.NewGroup(wire.GroupOptions{QueueBytes: 256 << 10, StallMax: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(group.Close)
	bus := pubsub.NewMemory()
	t.Cleanup(func() { bus.Close() })
	opts.Group = group
	opts.Hub = hub.New(hub.Options{Bus: bus, Frame: socket.Frame, MessageWait: 20 * time.Millisecond})
	t.Cleanup(opts.Hub.Close)
	h.bus, h.hub = bus, opts.Hub
	h.keeper = socket.NewKeeper(opts)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !socket.CheckHandshake(w, r) {
			return
		}
		h.keeper.Serve(socket.Call{
			W: w, R: r, ID: "id", Terms: &socket.Terms{}, Failed: func(err error) { http.Error(w, err.Error(), 502) },
			Reject: func(status int, header http.Header, body []byte) { w.WriteHeader(status); w.Write(body) },
		}, wsoverhttp.NewClient(wsoverhttp.ClientOptions{URL: origin.URL + r.RequestURI, Header: r.Header}))
	}))
	t.Cleanup(server.Close)
	h.url = "ws" + strings.TrimPrefix(server.URL, "http") + "/"
	return h
}

func (h *house) dial(t *testing.T, dialer *websocket.Dialer) *websocket.Conn {
	t.Helper()
	if dialer == nil {
		dialer = websocket.DefaultDialer
	}
	ws, _, err := dialer.Dial(h.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadDeadline(time.Now().Add(patience))
	t.Cleanup(func() { ws.Close() })
	return ws
}

// saw waits until the origin was told an event like want.
func (h *house) saw(t *testing.T, want wsoverhttp.EventType, content string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		h.mu.Lock()
		for _, events := range h.seen {
			for _, e := range events {
				if e.Type == want && string(e.Content) == content {
					h.mu.Unlock()
					return
				}
			}
		}
		seen := fmt.Sprint(h.seen)
		h.mu.Unlock()
		select {
		case <-h.more:
		case <-deadline:
			t.Fatalf("origin saw %s, want %s %q", seen, want, content)
		}
	}
}

func (h *house) publish(t *testing.T, channel string, m *grip.MessageItem) {
	t.Helper()
	item := &grip.Item{Channel: channel, Message: m}
	if err := h.bus.Publish(context.Background(), channel, item.AppendJSON(nil)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, ws *websocket.Conn, want string) {
	t.Helper()
	_, got, err := ws.ReadMessage()
	if err != nil || string(got) != want {
		t.Fatalf("got %.100q, %v; want %.100q", got, err, want)
	}
}

func readClose(t *testing.T, ws *websocket.Conn, code int) {
	t.Helper()
	_, got, err := ws.ReadMessage()
	if closed, ok := err.(*websocket.CloseError); !ok || closed.Code != code {
		t.Fatalf("got %.100q, %v; want close %d", got, err, code)
	}
}

func text(s string) string { return fmt.Sprintf("TEXT %x\r\n%s\r\n", len(s), s) }

// echo accepts, subscribes the channel room and says again what it is told.
func echo(h http.Header, events []wsoverhttp.Event) string {
	var b strings.Builder
	for _, e := range events {
		switch e.Type {
		case wsoverhttp.Open:
			b.WriteString("OPEN\r\n" + text(`c:{"type":"subscribe","channel":"room"}`))
		case wsoverhttp.Text:
			b.WriteString(text("m:" + string(e.Content)))
		case wsoverhttp.Binary:
			fmt.Fprintf(&b, "BINARY %x\r\nm:%s\r\n", len(e.Content)+2, e.Content)
		case wsoverhttp.Close:
			b.Write(wsoverhttp.AppendEvents(nil, e))
		}
	}
	return b.String()
}

func TestClientTalksWithOriginAndHearsPublications(t *testing.T) {
	for _, deflate := range []bool{false, true} {
		t.Run(fmt.Sprintf("deflate=%v", deflate), func(t *testing.T) {
			h := newHouse(t, socket.Options{Compression: deflate}, echo)
			ws := h.dial(t, &websocket.Dialer{EnableCompression: deflate})
			for _, message := range []string{"hello", "", strings.Repeat("ä", 50_000)} {
				if err := ws.WriteMessage(websocket.TextMessage, []byte(message)); err != nil {
					t.Fatal(err)
				}
				read(t, ws, message)
			}
			h.publish(t, "room", &grip.MessageItem{Content: []byte("published")})
			read(t, ws, "published")
			ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4001, "bye"), time.Now().Add(patience))
			readClose(t, ws, 4001)
			h.saw(t, wsoverhttp.Close, "\x0f\xa1bye")
		})
	}
}

func TestFragmentsAndPingsBetweenThem(t *testing.T) {
	h := newHouse(t, socket.Options{}, echo)
	ws := h.dial(t, nil)
	pongs := make(chan string, 1)
	ws.SetPongHandler(func(data string) error { pongs <- data; return nil })
	nc := ws.NetConn()
	// Masks of zero, so that the payload can be read here; one byte a write.
	stream := "\x01\x83\x00\x00\x00\x00abc" + "\x89\x82\x00\x00\x00\x00hi" + "\x00\x80\x00\x00\x00\x00" + "\x80\x82\x00\x00\x00\x00de"
	for i := range len(stream) {
		io.WriteString(nc, stream[i:i+1])
	}
	read(t, ws, "abcde")
	select {
	case got := <-pongs:
		if got != "hi" {
			t.Errorf("pong: got %q, want %q", got, "hi")
		}
	default:
		t.Error("the ping between fragments was not answered before the message")
	}
}

func TestBrokenFramesAreRefused(t *testing.T) {
	for _, test := range []struct {
		name, bytes string
		code        int
	}{
		{"not masked", "\x81\x01a", 1002},
		{"reserved bit", "\xc1\x81\x00\x00\x00\x00a", 1002},
		{"reserved opcode", "\x83\x81\x00\x00\x00\x00a", 1002},
		{"reserved control opcode", "\x8b\x80\x00\x00\x00\x00", 1002},
		{"fragmented ping", "\x09\x81\x00\x00\x00\x00a", 1002},
		{"long ping", "\x89\xfe\x00\x7e\x00\x00\x00\x00", 1002},
		{"continuation of nothing", "\x80\x81\x00\x00\x00\x00a", 1002},
		{"unfinished continuation of nothing", "\x00\x81\x00\x00\x00\x00a", 1002},
		{"text within a message", "\x01\x81\x00\x00\x00\x00a\x81\x81\x00\x00\x00\x00b", 1002},
		{"invalid UTF-8", "\x81\x82\x00\x00\x00\x00\xc3\x28", 1007},
		{"too big", "\x81\xff\x00\x00\x00\x00\x7f\xff\xff\xff", 1009},
		{"length with its highest bit", "\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00", 1009},
		{"half a close code", "\x88\x81\x00\x00\x00\x00\x03", 1002},
		{"close code 1005", "\x88\x82\x00\x00\x00\x00\x03\xed", 1002},
		{"close reason that is not UTF-8", "\x88\x84\x00\x00\x00\x00\x03\xe8\xc3\x28", 1002},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel() // each waits for its connection's linger
			h := newHouse(t, socket.Options{}, echo)
			ws := h.dial(t, nil)
			io.WriteString(ws.NetConn(), test.bytes)
			readClose(t, ws, test.code)
			h.saw(t, wsoverhttp.Disconnect, "")
		})
	}
}

func TestDeflateBombIsRefused(t *testing.T) {
	h := newHouse(t, socket.Options{Compression: true}, echo)
	ws := h.dial(t, &websocket.Dialer{EnableCompression: true})
	ws.WriteMessage(websocket.TextMessage, make([]byte, 20<<20))
	readClose(t, ws, 1009)
}

// TestReservedBitWhereNoMessageBegins: with compression negotiated the bit has a
// meaning, but on a message's first frame only (RFC 7692, section 6).
func TestReservedBitWhereNoMessageBegins(t *testing.T) {
	masked := func(first byte, payload string) []byte {
		return append([]byte{first, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
	}
	for _, test := range []struct {
		name   string
		frames []byte
	}{
		{"continuation", append(masked(0x01, "a"), masked(0xc0, "b")...)},
		{"continuation that says nothing", append(masked(0x01, "a"), masked(0x40, "")...)},
		{"ping", masked(0xc9, "")},
		{"close", masked(0xc8, "\x03\xe8")},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHouse(t, socket.Options{Compression: true}, echo)
			ws := h.dial(t, &websocket.Dialer{EnableCompression: true})
			if _, err := ws.NetConn().Write(test.frames); err != nil {
				t.Fatal(err)
			}
			readClose(t, ws, 1002)
		})
	}
}

// TestRefusedControlMessagesAreOneLine: an answer may have thousands of them.
func TestRefusedControlMessagesAreOneLine(t *testing.T) {
	var log lockedBuffer
	h := newHouse(t, socket.Options{Subscriptions: 3, Log: slog.New(slog.NewTextHandler(&log, nil))}, func(header http.Header, events []wsoverhttp.Event) string {
		if events[0].Type != wsoverhttp.Text {
			return echo(header, events)
		}
		var b strings.Builder
		for i := range 100 {
			b.WriteString(text(`c:{"type":"nonsense"}`) + text(fmt.Sprintf(`c:{"type":"subscribe","channel":"c%d"}`, i)))
		}
		return b.String() + echo(header, events)
	})
	ws := h.dial(t, nil)
	ws.WriteMessage(websocket.TextMessage, []byte("hello"))
	read(t, ws, "hello")
	ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(patience))
	readClose(t, ws, 1000) // the answer before has been acted on
	for _, want := range []string{
		` route="" count=100 error=`,
		` route="" count=98 channel=c2 limit=3`,
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log: got %s, want %s", log.String(), want)
		}
	}
	if got := strings.Count(log.String(), "level=WARN"); got != 2 {
		t.Errorf("warnings: got %d, want 2", got)
	}
}

// lockedBuffer is a buffer that is written while it is read.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestEventsThatComeMeanwhileLeaveTogether(t *testing.T) {
	release := make(chan struct{})
	h := newHouse(t, socket.Options{}, func(header http.Header, events []wsoverhttp.Event) string {
		if events[0].Type == wsoverhttp.Text && string(events[0].Content) == "0" {
			<-release
		}
		return echo(header, events)
	})
	ws := h.dial(t, nil)
	ws.WriteMessage(websocket.TextMessage, []byte("0"))
	h.saw(t, wsoverhttp.Text, "0")
	for i := 1; i < 6; i++ {
		ws.WriteMessage(websocket.TextMessage, fmt.Append(nil, i))
	}
	ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(patience))
	ponged := make(chan struct{})
	ws.SetPongHandler(func(string) error { close(ponged); return nil })
	go func() {
		<-ponged // the gateway has read all there was before it
		close(release)
	}()
	for i := range 6 {
		read(t, ws, fmt.Sprint(i))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.seen) != 3 || len(h.seen[2]) != 5 {
		t.Errorf("requests: got %v, want OPEN, one event, five events", h.seen)
	}
}

func TestClientThatOutrunsItsOriginIsPausedNotDropped(t *testing.T) {
	release := make(chan struct{})
	h := newHouse(t, socket.Options{}, func(header http.Header, events []wsoverhttp.Event) string {
		if events[0].Type != wsoverhttp.Open {
			<-release
		}
		return echo(header, events)
	})
	ws := h.dial(t, nil)
	const messages, size = 100, 50_000
	written := make(chan error, 1)
	go func() {
		for i := range messages {
			if err := ws.WriteMessage(websocket.BinaryMessage, fmt.Appendf(make([]byte, 0, size), "%*d", size, i)); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	time.Sleep(50 * time.Millisecond) // let it pile up
	close(release)
	for i := range messages {
		read(t, ws, fmt.Sprintf("%*d", size, i))
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
}

func TestSlowClientIsClosedNotSkipped(t *testing.T) {
	h := newHouse(t, socket.Options{}, echo)
	ws := h.dial(t, nil)
	item := &grip.MessageItem{Content: make([]byte, 10_000), Type: grip.Binary}
	for i := range 3000 {
		copy(item.Content, fmt.Sprintf("%5d", i))
		h.publish(t, "room", item)
	}
	h.saw(t, wsoverhttp.Disconnect, "")
	next := 0
	for {
		_, got, err := ws.ReadMessage()
		if err != nil {
			// It took nothing for so long that the Close frame had to go as well, or
			// the end is a reset.
			var reset *net.OpError
			if !websocket.IsCloseError(err, websocket.CloseTryAgainLater, websocket.CloseAbnormalClosure) && !errors.As(err, &reset) {
				t.Errorf("got %v, want close 1013", err)
			}
			break
		}
		if want := fmt.Sprintf("%5d", next); string(got[:5]) != want {
			t.Fatalf("got item %q, want %q: there is a hole", got[:5], want)
		}
		next++
	}
	if next >= 3000 {
		t.Error("the client was not slow")
	}
}

func TestFailingOriginClosesItsClientOnly(t *testing.T) {
	h := newHouse(t, socket.Options{}, func(header http.Header, events []wsoverhttp.Event) string {
		if events[0].Type == wsoverhttp.Text && string(events[0].Content) == "fail" {
			return "TEXT xyz\r\n"
		}
		return echo(header, events)
	})
	good, bad := h.dial(t, nil), h.dial(t, nil)
	bad.WriteMessage(websocket.TextMessage, []byte("fail"))
	readClose(t, bad, 1011)
	good.WriteMessage(websocket.TextMessage, []byte("hello"))
	read(t, good, "hello")
}

func TestPublishedCloseAndDetach(t *testing.T) {
	h := newHouse(t, socket.Options{}, func(header http.Header, events []wsoverhttp.Event) string {
		if events[0].Type == wsoverhttp.Text {
			return text(`c:{"type":"detach"}`)
		}
		return echo(header, events)
	})
	ws := h.dial(t, nil)
	ws.WriteMessage(websocket.TextMessage, []byte("detach"))
	h.saw(t, wsoverhttp.Close, "")
	ws.WriteMessage(websocket.TextMessage, []byte("dropped"))
	h.publish(t, "room", &grip.MessageItem{Content: []byte("still here")})
	read(t, ws, "still here")
	h.publish(t, "room", &grip.MessageItem{Action: grip.ActionClose, Code: 4009, Reason: "enough"})
	readClose(t, ws, 4009)
	time.Sleep(20 * time.Millisecond) // nothing more may reach the origin
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.seen) != 3 {
		t.Errorf("requests: got %v, want three", h.seen)
	}
}

func TestAClientIsFoundAndClosedFromOutside(t *testing.T) {
	h := newHouse(t, socket.Options{}, func(header http.Header, events []wsoverhttp.Event) string {
		answer := echo(header, events)
		if len(events) > 0 && events[0].Type == wsoverhttp.Open {
			answer += text(`c:{"type":"set-meta","name":"user","value":"ann"}`)
		} else if len(events) == 0 {
			answer += text(`c:{"type":"set-meta","name":"user","value":"bob"}`) + text("m:asked")
		}
		return answer
	})
	ws := h.dial(t, nil)
	ws.WriteMessage(websocket.TextMessage, []byte("hello"))
	read(t, ws, "hello") // and all before it has been acted on
	clients := h.hub.Clients("room")
	if len(clients) != 1 {
		t.Fatalf("by its channel: got %v", clients)
	}
	client := clients[0]
	id := client.ID()
	if got := h.keeper.Client(id); got != client || client.Format() != hub.FormatMessage || h.keeper.Client("x"+id) != nil {
		t.Fatalf("by its id: got %v", got)
	}
	if got := h.keeper.ClientsOf("ann"); len(got) != 1 || got[0] != client {
		t.Fatalf("by its user: got %v", got)
	}
	if !client.Refresh() {
		t.Error("it does not refresh")
	}
	read(t, ws, "asked")
	if got := h.keeper.ClientsOf("ann"); len(got) != 0 {
		t.Errorf("by the user it was: got %v", got)
	}
	if got := h.keeper.ClientsOf("bob"); len(got) != 1 || got[0] != client {
		t.Errorf("by the user it has become: got %v", got)
	}
	if !client.End(4010, "moved") || client.End(4010, "moved") {
		t.Error("want it to end once")
	}
	readClose(t, ws, 4010)
	h.saw(t, wsoverhttp.Close, "")
	for deadline := time.Now().Add(patience); h.keeper.Client(id) != nil || len(h.keeper.ClientsOf("bob")) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is still there")
		}
	}
	if client.Refresh() || client.End(0, "") {
		t.Error("a client that has gone says that it did something")
	}
}

// TestTheOriginDoesNotChangeTheCode: the origin, which is told at once of a
// client that is closed from outside, answers with a code of its own, perhaps
// before the client's has been sent; and the client closes meanwhile.
func TestTheOriginDoesNotChangeTheCode(t *testing.T) {
	h := newHouse(t, socket.Options{}, echo)
	const clients = 50
	var wg sync.WaitGroup
	for i := range clients {
		ws := h.dial(t, nil)
		ws.WriteMessage(websocket.TextMessage, []byte("hello"))
		read(t, ws, "hello") // it is subscribed
		if i%2 == 1 {
			wg.Go(func() {
				ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4001, ""), time.Now().Add(patience))
			})
		}
		for _, client := range h.hub.Clients("room") {
			client.End(4010, "moved")
		}
		ws.SetReadDeadline(time.Now().Add(patience))
		_, _, err := ws.ReadMessage()
		if !websocket.IsCloseError(err, 4010) && (i%2 == 0 || !websocket.IsCloseError(err, 4001)) {
			t.Fatalf("client %d: got %v, want close 4010", i, err)
		}
		ws.Close()
		for deadline := time.Now().Add(patience); len(h.hub.Clients("room")) > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("client %d is still there", i)
			}
		}
	}
	wg.Wait()
}

func TestDrainSays1001AndTellsTheOrigin(t *testing.T) {
	h := newHouse(t, socket.Options{}, echo)
	ws := h.dial(t, nil)
	done := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		done <- h.keeper.Drain(ctx)
	}()
	readClose(t, ws, 1001)
	if err := <-done; err != nil {
		t.Fatalf("Drain: %v", err)
	}
	h.saw(t, wsoverhttp.Close, "\x03\xe9")
}

func TestWrongHandshakesAreRefusedBeforeTheOriginIsAsked(t *testing.T) {
	h := newHouse(t, socket.Options{}, echo)
	for _, test := range []struct {
		name, head string
		want       int
	}{
		{"version 8", "Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", 426},
		{"no version", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", 426},
		{"short key", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n", 400},
		{"no key", "Sec-WebSocket-Version: 13\r\n", 400},
	} {
		t.Run(test.name, func(t *testing.T) {
			nc, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(h.url, "ws://"), "/"))
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			fmt.Fprintf(nc, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n%s\r\n", test.head)
			var proto string
			var status int
			fmt.Fscan(nc, &proto, &status)
			if status != test.want {
				t.Errorf("got %d, want %d", status, test.want)
			}
		})
	}
	if len(h.seen) > 0 {
		t.Errorf("the origin was asked: %v", h.seen)
	}
}
