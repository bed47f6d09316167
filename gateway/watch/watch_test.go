package watch_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/gateway/watch"
	"github.com/gripway/gripway/grip"
)

var ann = hub.About{ID: "ann", Format: hub.FormatMessage, Route: "chat", Client: "192.0.2.7"}

// heard keeps what a Stats or an Events tells, as lines.
type heard struct {
	mu    sync.Mutex
	lines []string
}

func (h *heard) add(line string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, line)
}

// take returns what was heard that begins so.
func (h *heard) take(prefix string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var taken []string
	h.lines = slices.DeleteFunc(h.lines, func(line string) bool {
		if !strings.HasPrefix(line, prefix) {
			return false
		}
		taken = append(taken, line)
		return true
	})
	return taken
}

func (h *heard) send(kind string, value map[string]any) {
	text, _ := json.Marshal(value)
	h.add(kind + " " + string(text))
}

// newStats runs Stats in a bubble for as long as the test lasts.
func newStats(t *testing.T, h *heard) (*watch.Watch, func()) {
	stats := watch.NewStats(watch.StatsOptions{
		Send: h.send, Heard: func() bool { return true }, From: "here", Connections: true, Linger: 60 * time.Second,
	})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { stats.Run(ctx) })
	return watch.New(stats), func() { cancel(); running.Wait() }
}

func TestWhatHasATimeToLiveIsToldAgainBeforeItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &heard{}
		w, stop := newStats(t, h)
		defer stop()
		w.Came(ann)
		w.Followed("ann", hub.FormatMessage, "room")
		time.Sleep(200 * time.Second)
		if got := h.take("conn "); len(got) != 3 { // at 0, 90 and 180 s
			t.Errorf("got %d times conn in 200 s, want 3: %q", len(got), got)
		}
		if got := h.take("sub "); len(got) != 5 { // at 0, 45, 90, 135, 180 s
			t.Errorf("got %d times sub in 200 s, want 5: %q", len(got), got)
		}
		w.Left("ann", "gone")
		want := []string{`sub {"channel":"room","from":"here","mode":"ws","unavailable":true}`}
		if got := h.take("sub "); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		want = []string{`conn {"from":"here","id":"ann","unavailable":true}`}
		if got := h.take("conn "); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		time.Sleep(200 * time.Second)
		if got := append(h.take("conn "), h.take("sub ")...); len(got) > 0 {
			t.Errorf("got %q for nobody", got)
		}
	})
}

func TestAChannelOfLongPollsIsNotUnavailableBetweenTwoOfThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &heard{}
		w, stop := newStats(t, h)
		defer stop()
		for i := range 5 {
			id := fmt.Sprint("http-", i)
			w.Came(hub.About{ID: id, Format: hub.FormatResponse})
			w.Followed(id, hub.FormatResponse, "room")
			time.Sleep(20 * time.Second)
			w.Unfollowed(id, hub.FormatResponse, "room")
			w.Left(id, "timeout")
			time.Sleep(20 * time.Second)
		}
		for _, line := range h.take("sub ") {
			if strings.Contains(line, "unavailable") {
				t.Errorf("got %s while there are polls", line)
			}
		}
		time.Sleep(60 * time.Second)
		if got := h.take("sub "); !strings.Contains(strings.Join(got, ""), "unavailable") {
			t.Errorf("got %q after the last, want unavailable", got)
		}
	})
}

func TestReportsAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &heard{}
		w, stop := newStats(t, h)
		defer stop()
		item := &grip.Item{ID: "x"}
		w.Came(ann)
		w.Came(hub.About{ID: "bob", Format: hub.FormatStream})
		w.Left("bob", "gone")
		w.Requested("chat")
		w.Requested("")
		w.Spoke("ann")
		w.Received("room", item)
		w.Delivered("room", item, hub.FormatStream, 2)
		w.Delivered("room", item, hub.FormatStream, 3) // of another shard
		w.Delivered("room", item, hub.FormatResponse, 1)
		time.Sleep(11 * time.Second)
		want := []string{
			`message {"channel":"room","count":5,"from":"here","item-id":"x","transport":"http-stream"}`,
			`message {"channel":"room","count":1,"from":"here","item-id":"x","transport":"http-response"}`,
		}
		if got := h.take("message "); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		want = []string{`counts {"from":"here","requests-received":2}`}
		if got := h.take("counts "); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		want = []string{`activity {"count":1,"from":"here"}`, `activity {"count":2,"from":"here","route":"chat"}`}
		if got := h.take("activity "); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
			t.Errorf("got %q, want %q", got, want)
		}
		want = []string{
			`report {"client-messages-received":0,"client-messages-sent":0,"connections":1,"duration":10000,"from":"here","http-response-sent":1,"minutes":1,"received":1,"sent":6}`,
			`report {"client-messages-received":1,"connections":1,"duration":10000,"from":"here","minutes":1,"route":"chat"}`,
		}
		if got := h.take("report "); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
			t.Errorf("got %q, want %q", got, want)
		}
		time.Sleep(60 * time.Second)
		minutes := 0
		for _, line := range h.take("report ") {
			if strings.Contains(line, `"minutes":1,"route":"chat"`) {
				minutes++
			}
		}
		if minutes != 1 {
			t.Errorf("ann's second minute was counted %d times, want once", minutes)
		}
	})
}

// backend answers POSTs without a network.
type backend struct {
	heard
	answer func(n int) (int, error) // of the nth request
	n      int
}

func (b *backend) RoundTrip(r *http.Request) (*http.Response, error) {
	body, _ := io.ReadAll(r.Body)
	b.add(string(body))
	b.n++
	status, err := b.answer(b.n)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Body: http.NoBody, Header: http.Header{}}, nil
}

func runEvents(t *testing.T, opts watch.EventsOptions) (*watch.Watch, *watch.Events, func()) {
	events := watch.NewEvents(opts)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { events.Run(ctx) })
	return watch.New(events), events, func() { cancel(); running.Wait() }
}

func TestEventsAreToldAgainUntilTheyAreTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{answer: func(n int) (int, error) {
			switch n {
			case 1:
				return 0, errors.New("refused")
			case 2:
				return 503, nil
			}
			return 204, nil
		}}
		w, events, stop := runEvents(t, watch.EventsOptions{URL: "http://back/events", Client: &http.Client{Transport: b}})
		defer stop()
		w.Came(ann)
		w.Followed("ann", hub.FormatMessage, "room")
		events.Flush(t.Context())
		got := b.take("")
		if len(got) != 3 || got[0] != got[2] || strings.Count(got[0], `"type"`) != 2 {
			t.Errorf("got %q, want the same two events three times", got)
		}
		w.Left("ann", "gone")
		events.Flush(t.Context())
		if got := b.take(""); len(got) != 1 || !strings.Contains(got[0], `"type":"unsubscribe"`) || !strings.Contains(got[0], `"reason":"gone"`) {
			t.Errorf("got %q, want what came afterwards, once", got)
		}
	})
}

func TestWhatIsSecretInABackendsURLIsNotLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		b := &backend{answer: func(int) (int, error) { return 0, errors.New("refused") }}
		w, events, stop := runEvents(t, watch.EventsOptions{
			URL: "http://back/events?token=s3cret", Client: &http.Client{Transport: b}, Log: slog.New(slog.NewTextHandler(&log, nil)),
		})
		w.Came(ann)
		events.Flush(t.Context())
		stop()
		if text := log.String(); !strings.Contains(text, "refused") || strings.Contains(text, "s3cret") {
			t.Errorf("log: %s", text)
		}
	})
}

func TestABackendThatIsAwayHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{answer: func(int) (int, error) { return 500, nil }}
		w, events, stop := runEvents(t, watch.EventsOptions{URL: "http://back/events", Client: &http.Client{Transport: b}})
		defer stop()
		begin := time.Now()
		for i := range 30_000 {
			w.Came(hub.About{ID: fmt.Sprint(i)})
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("clients were held up for %v", took)
		}
		b.answer = func(int) (int, error) { return 200, nil }
		events.Flush(t.Context())
		taken := 0
		for _, body := range b.take("") {
			n := strings.Count(body, `"type"`)
			if n > 100 {
				t.Errorf("a batch of %d, want at most 100", n)
			}
			taken += n
		}
		if taken < 10_000 || taken > 10_200 {
			t.Errorf("got %d events, want the 10 000 that may wait", taken)
		}
	})
}

func TestWhatABackendWillNeverTakeIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{answer: func(int) (int, error) { return 410, nil }}
		w, events, stop := runEvents(t, watch.EventsOptions{URL: "http://back/events", Client: &http.Client{Transport: b}})
		defer stop()
		w.Came(ann)
		events.Flush(t.Context())
		if got := b.take(""); len(got) != 1 {
			t.Errorf("got %d requests, want one", len(got))
		}
	})
}

func TestOnlyWhatIsWantedIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &heard{}
		w, events, stop := runEvents(t, watch.EventsOptions{
			Channel: "events", Kinds: []string{"connect"}, Formats: []hub.Format{hub.FormatMessage}, Routes: []string{"chat"},
			Publish: func(_ context.Context, channel string, raw []byte) error {
				item, err := grip.ParseItem(raw)
				if err != nil {
					t.Error(err)
				}
				h.add(channel + " " + string(item.Message.Content))
				if got, want := string(item.Stream.Content), string(item.Message.Content)+"\n"; got != want {
					t.Errorf("stream: got %q, want %q", got, want)
				}
				return nil
			},
		})
		defer stop()
		w.Came(hub.About{ID: "bob", Format: hub.FormatStream, Route: "chat"})
		w.Came(hub.About{ID: "cat", Format: hub.FormatMessage})
		w.Came(ann)
		w.Left("ann", "gone")
		events.Flush(t.Context())
		got := h.take("")
		if len(got) != 1 || !strings.HasPrefix(got[0], `events {"type":"connect"`) || !strings.Contains(got[0], `"connection":"ann"`) {
			t.Errorf("got %q, want ann's connect", got)
		}
	})
}

func TestALongPollThatBecomesAStreamIsTheSameClient(t *testing.T) {
	h := &heard{}
	stats := watch.NewStats(watch.StatsOptions{Send: h.send, Heard: func() bool { return true }, Connections: true})
	w := watch.New(stats)
	w.Came(hub.About{ID: "http-1", Format: hub.FormatResponse})
	w.Followed("http-1", hub.FormatResponse, "room")
	w.Came(hub.About{ID: "http-1", Format: hub.FormatStream})
	w.Followed("http-1", hub.FormatStream, "room")
	w.Unfollowed("http-1", hub.FormatResponse, "room")
	if got := h.take("conn "); len(got) != 1 {
		t.Errorf("got %q, want one client", got)
	}
	w.Left("http-1", "gone")
	w.Followed("http-1", hub.FormatStream, "room") // too late
	if got := h.take("sub "); len(got) != 4 {
		t.Errorf("got %q, want both to begin and to end", got)
	}
}
