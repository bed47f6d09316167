package hold_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/hold"
	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/gateway/wire"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
)

const patience = 20 * time.Second

// house holds every request the way test says.
type house struct {
	keeper *hold.Keeper
	hub    *hub.Hub
	bus    pubsub.Bus
	addr   string
	client *http.Client
	scheme string
}

// newHouse serves over plain HTTP/1, or over TLS (and so HTTP/2).
func newHouse(t *testing.T, opts hold.Options, tls bool, call func(r *http.Request) hold.Call) *house {
	t.Helper()
	group, err := wire.NewGroup(wire.GroupOptions{QueueBytes: 256 << 10, StallMax: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(group.Close)
	bus := pubsub.NewMemory()
	t.Cleanup(func() { bus.Close() })
	opts.Group = group
	opts.Hub = hub.New(hub.Options{Bus: bus, FirstUpdate: 100 * time.Millisecond})
	t.Cleanup(opts.Hub.Close)
	h := &house{keeper: hold.NewKeeper(opts), hub: opts.Hub, bus: bus, scheme: "http"}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := call(r)
		c.W, c.R = w, r
		h.keeper.Serve(c)
	})
	server := httptest.NewUnstartedServer(handler)
	l := wire.Listen(server.Listener)
	server.Listener = l
	server.Config.BaseContext = func(net.Listener) context.Context { return l.Context(context.Background()) }
	if tls {
		server.EnableHTTP2 = true
		server.StartTLS()
		h.scheme = "https"
	} else {
		server.Start()
	}
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	h.addr = l.Addr().String()
	h.client = server.Client()
	return h
}

func eachTransport(t *testing.T, test func(t *testing.T, tls bool)) {
	t.Run("HTTP/1", func(t *testing.T) { test(t, false) })
	t.Run("HTTP/2", func(t *testing.T) { test(t, true) })
}

func (h *house) get(t *testing.T) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	r, _ := http.NewRequestWithContext(ctx, "GET", h.scheme+"://"+h.addr+"/", nil)
	response, err := h.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

func (h *house) publish(t *testing.T, item *grip.Item) {
	t.Helper()
	if err := h.bus.Publish(context.Background(), item.Channel, item.AppendJSON(nil)); err != nil {
		t.Fatal(err)
	}
}

// waitHeld waits until n responses are held and their channels are followed.
func (h *house) waitHeld(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(patience); h.keeper.Len() != n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("held: got %d, want %d", h.keeper.Len(), n)
		}
	}
	time.Sleep(20 * time.Millisecond) // for a moment a held long poll has no channels yet, and nothing shows it
}

func streamCall(channels ...string) hold.Call {
	in := &grip.Instruction{Hold: grip.HoldStream}
	for _, name := range channels {
		in.Channels = append(in.Channels, grip.Channel{Name: name})
	}
	return hold.Call{Prefix: "p-", Answer: hold.Answer{
		Status: 200, Header: http.Header{"Content-Type": {"text/plain"}}, Body: []byte("first\n"), Instruction: in,
	}}
}

func readString(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v; want %q", got[:n], err, want)
	}
}

func streamItem(channel, content string) *grip.Item {
	return &grip.Item{Channel: channel, Stream: &grip.StreamItem{Content: []byte(content)}}
}

func TestStreamIsAppendedToUntilItIsClosed(t *testing.T) {
	eachTransport(t, func(t *testing.T, tls bool) {
		h := newHouse(t, hold.Options{}, tls, func(*http.Request) hold.Call { return streamCall("a", "b", "a") })
		response := h.get(t)
		readString(t, response.Body, "first\n")
		h.publish(t, streamItem("p-a", "1\n"))
		readString(t, response.Body, "1\n")
		h.publish(t, streamItem("p-b", ""))
		h.publish(t, streamItem("p-b", "2\n"))
		readString(t, response.Body, "2\n")
		h.publish(t, streamItem("a", "not ours"))
		h.publish(t, &grip.Item{Channel: "p-a", Stream: &grip.StreamItem{Action: grip.ActionClose}})
		if rest, err := io.ReadAll(response.Body); err != nil || len(rest) > 0 {
			t.Fatalf("after close: got %q, %v; want a clean end", rest, err)
		}
		h.waitHeld(t, 0)
	})
}

func TestStreamWithALongFirstBody(t *testing.T) {
	eachTransport(t, func(t *testing.T, tls bool) {
		long := strings.Repeat("0123456789", 100_000)
		h := newHouse(t, hold.Options{}, tls, func(*http.Request) hold.Call {
			c := streamCall("a")
			c.Rest = io.NopCloser(strings.NewReader(long))
			return c
		})
		response := h.get(t)
		readString(t, response.Body, "first\n"+long)
		h.waitHeld(t, 1)
		h.publish(t, streamItem("p-a", "next"))
		readString(t, response.Body, "next")
	})
}

func TestQuietStreamIsKeptAlive(t *testing.T) {
	eachTransport(t, func(t *testing.T, tls bool) {
		h := newHouse(t, hold.Options{}, tls, func(*http.Request) hold.Call {
			c := streamCall("a")
			c.Instruction.KeepAlive = &grip.KeepAlive{Content: []byte(":\n"), Timeout: 50 * time.Millisecond}
			return c
		})
		response := h.get(t)
		readString(t, response.Body, "first\n:\n:\n")
	})
}

func TestSlowStreamIsCutAndCounted(t *testing.T) {
	h := newHouse(t, hold.Options{}, false, func(*http.Request) hold.Call { return streamCall("a") })
	response := h.get(t)
	readString(t, response.Body, "first\n")
	content := strings.Repeat("x", 100_000)
	for range 300 {
		h.publish(t, streamItem("p-a", content))
	}
	h.waitHeld(t, 0)
	if _, err := io.Copy(io.Discard, response.Body); err == nil {
		t.Error("the slow client's response ended as if it were whole")
	}
}

func TestHTTP10StreamHasNoChunks(t *testing.T) {
	h := newHouse(t, hold.Options{}, false, func(*http.Request) hold.Call { return streamCall("a") })
	nc, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(patience))
	io.WriteString(nc, "GET / HTTP/1.0\r\n\r\n")
	br := bufio.NewReader(nc)
	var head strings.Builder
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "\r\n" {
			break
		}
		head.WriteString(line)
	}
	if strings.Contains(head.String(), "chunked") {
		t.Errorf("head of an HTTP/1.0 answer: %q", head.String())
	}
	readString(t, br, "first\n")
	h.publish(t, streamItem("p-a", "1\n"))
	h.publish(t, &grip.Item{Channel: "p-a", Stream: &grip.StreamItem{Action: grip.ActionClose}})
	rest, err := io.ReadAll(br)
	if err != nil || string(rest) != "1\n" {
		t.Fatalf("got %q, %v; want %q", rest, err, "1\n")
	}
}

func pollCall(timeout time.Duration) hold.Call {
	return hold.Call{
		Answer: hold.Answer{
			Status: 202, Header: http.Header{"X-A": {"a"}, "X-B": {"b"}}, Body: []byte(`{"a":1}` + "\n"),
			Instruction: &grip.Instruction{Hold: grip.HoldResponse, Timeout: timeout, Channels: []grip.Channel{{Name: "a"}}},
		},
		Again: func(context.Context, []hold.Last) (*hold.Answer, error) {
			return nil, fmt.Errorf("not asked for")
		},
	}
}

func TestLongPollIsAnsweredInTimeByWhatIsPublished(t *testing.T) {
	eachTransport(t, func(t *testing.T, tls bool) {
		h := newHouse(t, hold.Options{}, tls, func(*http.Request) hold.Call { return pollCall(time.Minute) })
		go func() {
			h.waitHeld(t, 1)
			h.publish(t, streamItem("a", "not for a poll"))
			h.publish(t, &grip.Item{Channel: "a", Response: &grip.ResponseItem{
				Code: 201, Reason: "Yo", Header: http.Header{"X-B": {"B"}, "Grip-Foo": {"x"}}, Body: []byte("answer"),
			}})
		}()
		response := h.get(t)
		body, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != 201 || string(body) != "answer" || response.ContentLength != 6 {
			t.Fatalf("got %d %q (length %d), %v", response.StatusCode, body, response.ContentLength, err)
		}
		for name, want := range map[string]string{"X-A": "a", "X-B": "B", "Grip-Foo": ""} {
			if got := response.Header.Get(name); got != want {
				t.Errorf("%s: got %q, want %q", name, got, want)
			}
		}
		h.waitHeld(t, 0)
	})
}

// A long poll is never answered before its time, and within 50 ms of it. A busy
// machine can be late, but not every time: the best of a few tries counts.
func TestLongPollTimesOutExactly(t *testing.T) {
	const timeout, late, tries = 300 * time.Millisecond, 50 * time.Millisecond, 10
	eachTransport(t, func(t *testing.T, tls bool) {
		h := newHouse(t, hold.Options{}, tls, func(*http.Request) hold.Call { return pollCall(timeout) })
		best := time.Hour
		for range tries {
			start := time.Now()
			response := h.get(t)
			body, _ := io.ReadAll(response.Body)
			took := time.Since(start)
			if response.StatusCode != 202 || string(body) != `{"a":1}`+"\n" {
				t.Fatalf("got %d %q", response.StatusCode, body)
			}
			if took < timeout {
				t.Fatalf("took %v, want %v at least", took, timeout)
			}
			if best = min(best, took); best <= timeout+late {
				return
			}
		}
		t.Errorf("took %v at best of %d tries, want %v and %v more at most", best, tries, timeout, late)
	})
}

func TestLongPollConnectionIsUsedAgain(t *testing.T) {
	h := newHouse(t, hold.Options{}, false, func(*http.Request) hold.Call { return pollCall(20 * time.Millisecond) })
	nc, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(patience))
	br := bufio.NewReader(nc)
	for range 10 {
		io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		response, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(response.Body); err != nil || len(body) == 0 {
			t.Fatal(err)
		}
	}
}

func TestPatchOfAHeldDocument(t *testing.T) {
	h := newHouse(t, hold.Options{}, false, func(*http.Request) hold.Call { return pollCall(time.Minute) })
	go func() {
		h.waitHeld(t, 1)
		h.publish(t, &grip.Item{Channel: "a", Response: &grip.ResponseItem{Code: 200, Patch: []byte(`[{"op":"replace","path":"/a","value":2}]`)}})
	}()
	response := h.get(t)
	if body, _ := io.ReadAll(response.Body); string(body) != `{"a":2}`+"\n" {
		t.Errorf("got %q", body)
	}
}

func TestFirstPollOfAChannelIsAskedAgain(t *testing.T) {
	eachTransport(t, func(t *testing.T, tls bool) {
		var asked atomic.Int32
		h := newHouse(t, hold.Options{}, tls, func(*http.Request) hold.Call {
			c := pollCall(time.Minute)
			c.Instruction.Channels[0].PrevID = "7"
			c.Again = func(_ context.Context, last []hold.Last) (*hold.Answer, error) {
				if len(last) != 1 || last[0] != (hold.Last{Channel: "a", ID: "7"}) {
					t.Errorf("last ids: got %v", last)
				}
				if asked.Add(1) == 1 {
					again := pollCall(time.Minute).Answer
					again.Instruction.Channels[0].PrevID = "7"
					again.Body = []byte("again")
					return &again, nil
				}
				return &hold.Answer{Status: 200, Header: http.Header{}, Rest: io.NopCloser(strings.NewReader("from the origin"))}, nil
			}
			return c
		})
		go func() {
			for asked.Load() < 1 {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(50 * time.Millisecond) // its answer is held again
			h.publish(t, &grip.Item{Channel: "a", Response: &grip.ResponseItem{Action: grip.ActionHint}})
		}()
		response := h.get(t)
		if body, err := io.ReadAll(response.Body); err != nil || string(body) != "from the origin" {
			t.Errorf("got %q, %v", body, err)
		}
	})
}

func TestDrainAnswersPollsAndEndsStreams(t *testing.T) {
	eachTransport(t, func(t *testing.T, tls bool) {
		first := true
		h := newHouse(t, hold.Options{}, tls, func(*http.Request) hold.Call {
			if first {
				first = false
				return streamCall("a")
			}
			return pollCall(time.Minute)
		})
		stream := h.get(t)
		readString(t, stream.Body, "first\n")
		done := make(chan error, 1)
		go func() {
			h.waitHeld(t, 2)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			done <- h.keeper.Drain(ctx)
		}()
		poll := h.get(t)
		if poll.StatusCode != 202 {
			t.Errorf("poll: got %d, want 202", poll.StatusCode)
		}
		io.Copy(io.Discard, poll.Body)
		if _, err := io.ReadAll(stream.Body); err != nil {
			t.Errorf("stream: %v", err)
		}
		stream.Body.Close()
		h.client.CloseIdleConnections()
		if err := <-done; err != nil {
			t.Errorf("Drain: %v", err)
		}
	})
}
