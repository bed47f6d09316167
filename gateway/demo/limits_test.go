package demo

// What only shows from inside: how long things last, and how many there may be.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gripway/gripway/grip"
)

// sink takes what is published.
type sink struct {
	items []*grip.Item
	err   error
}

func (s *sink) Publish(_ context.Context, items ...*grip.Item) error {
	s.items = append(s.items, items...)
	return s.err
}

// quiet is an outlet that nobody empties.
func quiet() *outlet {
	s := &sink{}
	return &outlet{log: slog.New(slog.DiscardHandler), public: s, private: s, queue: make(chan job, outletMax), close: func() {}}
}

// empty publishes what waits in an outlet.
func (o *outlet) empty() (items []*grip.Item) {
	for {
		select {
		case job := <-o.queue:
			items = append(items, job.item())
		default:
			return items
		}
	}
}

// ask is a gateway's request to the chat.
func ask(c *chat, id, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/chat", strings.NewReader(body))
	r.Header.Set("Accept", "application/websocket-events")
	r.Header.Set("Content-Type", "application/websocket-events")
	r.Header.Set("Sec-WebSocket-Extensions", "grip")
	r.Header.Set("Connection-Id", id)
	w := httptest.NewRecorder()
	c.handler().ServeHTTP(w, r)
	return w
}

func newQuietChat() *chat { return newChat("test", quiet(), slog.New(slog.DiscardHandler)) }

func TestWhoSaysNothingIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newQuietChat()
		ask(c, "silent", "OPEN\r\n")
		ask(c, "alive", "OPEN\r\n")
		for range 4 {
			time.Sleep(aliveEvery)
			// The gateway asks for both, which proves nothing; one client answers.
			ask(c, "silent", "")
			ask(c, "alive", "")
			ask(c, "alive", "PONG\r\n")
			c.sweep(time.Now())
		}
		if _, ok := c.conns["alive"]; !ok || len(c.conns) != 1 {
			t.Errorf("after %v: %d connections, want the one that answered its pings", 4*aliveEvery, len(c.conns))
		}
		ask(c, "silent", "PONG\r\n")
		if len(c.conns) != 2 {
			t.Error("who answers after all is not here again")
		}
	})
}

func TestChatHasRoomForSoMany(t *testing.T) {
	c := newQuietChat()
	for i := range connectionsMax {
		if w := ask(c, fmt.Sprint(i), "OPEN\r\n"); w.Code != 200 {
			t.Fatalf("connection %d: %d %s", i, w.Code, w.Body)
		}
	}
	if w := ask(c, "one more", "OPEN\r\n"); w.Code != 503 || w.Body.String() != "The chat is full.\n" {
		t.Errorf("one more: got %d %q", w.Code, w.Body)
	}
	if w := ask(c, "unknown", "TEXT 2\r\nhi\r\n"); !strings.Contains(w.Body.String(), "CLOSE ") {
		t.Errorf("a message on a connection there is no room for: got %q, want CLOSE", w.Body)
	}
	r := c.roster()
	if r.Total != connectionsMax || len(r.People) != peopleShownMax {
		t.Errorf("roster: %d of %d people, want %d of %d", len(r.People), r.Total, peopleShownMax, connectionsMax)
	}
	if got := len(c.outlet.queue); got != 1 {
		t.Errorf("%d rosters wait to be published, want the newest only", got)
	}
	ask(c, "0", "DISCONNECT\r\n")
	if w := ask(c, "one more", "OPEN\r\n"); w.Code != 200 {
		t.Errorf("after somebody left: got %d", w.Code)
	}
}

func TestWhatCannotBePublishedIsNotSaid(t *testing.T) {
	c := newQuietChat()
	ask(c, "c1", "OPEN\r\n")
	for len(c.outlet.queue) < outletMax {
		c.outlet.offer(panelChat, func() *grip.Item { return nil })
	}
	if w := ask(c, "c1", "TEXT 2\r\nhi\r\n"); !strings.Contains(w.Body.String(), "Too much is being said at once.") {
		t.Errorf("got %q", w.Body)
	}
	if len(c.history) != 0 || c.said != 0 {
		t.Errorf("history: %v", c.history)
	}
	q := newQuestion("test", c.outlet)
	form := httptest.NewRequest("POST", "/poll", strings.NewReader("choice=0&who=0123456789abcdef"))
	form.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	q.vote(w, form)
	if w.Code != 429 || q.counts[0] != 0 || q.version != 1 || len(q.voters) != 0 || !q.over.IsZero() {
		t.Errorf("answer: got %d and %+v, want 429 and nothing changed", w.Code, q.counts)
	}
}

func TestQuestionStandsUntilItWasAnsweredAndThenAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuestion("test", quiet())
		time.Sleep(24 * time.Hour)
		q.tick(time.Now())
		if q.asked != 1 {
			t.Error("a question that nobody answered is over")
		}
		form := httptest.NewRequest("POST", "/poll", strings.NewReader("choice=0"))
		form.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		q.vote(httptest.NewRecorder(), form)
		time.Sleep(questionLife - time.Second)
		q.tick(time.Now())
		if q.asked != 1 {
			t.Error("a question is over before its time")
		}
		time.Sleep(time.Second)
		q.tick(time.Now())
		if q.asked != 2 || q.counts[0] != 0 {
			t.Errorf("question %d with %v, want the second, unanswered", q.asked, q.counts)
		}
		items := q.outlet.empty()
		if len(items) != 2 || items[0].ID != "test-2" || items[1].PrevID != "test-2" || items[1].ID != "test-3" {
			t.Errorf("published: got %v, want two in a row", items)
		}
		for i := range 3 * len(questions) {
			q.over = time.Now()
			q.tick(time.Now())
			q.outlet.empty()
			if q.asked != int64(3+i) {
				t.Fatalf("question %d is followed by %d", 2+i, q.asked)
			}
		}
	})
}

func TestVotersAreBounded(t *testing.T) {
	q := newQuestion("test", quiet())
	for i := range votersMax {
		q.voters[voter{byte(i), byte(i >> 8), 1}] = 0
	}
	form := httptest.NewRequest("POST", "/poll", strings.NewReader("choice=0&who=0123456789abcdef"))
	form.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	if q.vote(w, form); w.Code != 429 || len(q.voters) != votersMax {
		t.Errorf("got %d and %d voters", w.Code, len(q.voters))
	}
}

func TestTickerForgetsAndStaysInSight(t *testing.T) {
	ticker := newTicker("test", quiet(), newTap())
	for i := range 100_000 {
		p := ticker.next(time.Unix(int64(i), 0))
		if p.Value < 1 || p.Value > 1000 {
			t.Fatalf("point %d is %v", p.N, p.Value)
		}
	}
	if len(ticker.points) != pointsKept || cap(ticker.points) > 4*pointsKept {
		t.Errorf("%d points kept in room for %d, want %d", len(ticker.points), cap(ticker.points), pointsKept)
	}
}

func TestRecordsAreBoundedInNumberAndSize(t *testing.T) {
	tap := newTap()
	huge := strings.Repeat("x", 1<<20)
	for range 3 * pendingMax {
		r := record{Panel: panelChat, Kind: kindExchange}
		body := &taken{}
		body.take([]byte(huge))
		header := httptest.NewRecorder().Header()
		for i := range 100 {
			header.Set(fmt.Sprintf("Grip-X%d", i), huge)
		}
		r.Request = newHalf("GET /"+huge[:100], header, body)
		tap.add(r)
	}
	if len(tap.pending) != pendingMax || len(tap.past) != pastMax {
		t.Errorf("%d pending and %d past, want %d and %d", len(tap.pending), len(tap.past), pendingMax, pastMax)
	}
	if got := len(tap.pending[0]); got > 8<<10 {
		t.Errorf("a record of huge things has %d bytes", got)
	}
	if got := len(tap.before()); got > firstBytesMax+64*pastMax {
		t.Errorf("what is shown first has %d bytes", got)
	}
	batches := 0
	for batch := tap.take(); len(batch) > 0; batch = tap.take() {
		batches++
		if len(batch) > batchBytesMax+1<<10 {
			t.Errorf("a batch has %d bytes", len(batch))
		}
	}
	if batches < 2 || len(tap.pending) != 0 {
		t.Errorf("%d batches, %d records left", batches, len(tap.pending))
	}
}

func TestTickerAloneDoesNotPushOutThePast(t *testing.T) {
	tap := newTap()
	tap.add(record{Panel: panelChat, Kind: kindExchange})
	for range 10 * pastMax {
		tap.add(record{Panel: panelTicker, Kind: kindPublish})
	}
	if !strings.Contains(string(tap.before()), `"panel":"chat"`) || len(tap.past) != 2 {
		t.Errorf("past: %d records, want what was said and the newest tick", len(tap.past))
	}
}

func TestEventsAreShownAsFarAsTheyCanBe(t *testing.T) {
	body := &taken{}
	body.take([]byte("OPEN\r\nTEXT 2\r\nhi\r\nBINARY 3\r\n\x00\xff\x01\r\nCLOSE 5\r\n\x03\xe8bye\r\nTEXT 0\r\n\r\nDISCONNECT\r\n"))
	header := httptest.NewRecorder().Header()
	header.Set("Content-Type", "application/websocket-events")
	got := fmt.Sprint(newHalf("", header, body).Events)
	const want = "[{OPEN -1 } {TEXT 2 hi} {BINARY 3 00 ff 01} {CLOSE 5 1000 bye} {TEXT 0 } {DISCONNECT -1 }]"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	broken := &taken{}
	broken.take([]byte("TEXT zz\r\n"))
	if h := newHalf("", header, broken); h.Events != nil || h.Body != "TEXT zz\r\n" {
		t.Errorf("a body that is no events: got %+v, want it as it is", h)
	}
	many := &taken{}
	many.take([]byte(strings.Repeat("PING\r\n", 100)))
	if h := newHalf("", header, many); len(h.Events) != eventsShownMax || h.More != 100-eventsShownMax {
		t.Errorf("100 events: got %d and %d more", len(h.Events), h.More)
	}
}

func TestPublishingThatFailsIsToldOnceAndAgainWhenItWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told atomic.Int32
		s := &sink{err: errors.New("refused")}
		o := quiet()
		o.public = s
		o.log = slog.New(counting{slog.DiscardHandler, &told})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			o.run(ctx)
		}()
		tick := func(n int) {
			for range n {
				o.offer(panelTicker, func() *grip.Item { return &grip.Item{} })
				time.Sleep(time.Second)
			}
		}
		tick(4)
		if got := told.Load(); got != 0 {
			t.Errorf("told %d times within %v", got, complainAfter)
		}
		tick(20)
		if got := told.Load(); got != 1 {
			t.Errorf("told %d times in 24 s, want once", got)
		}
		synctest.Wait()
		s.err = nil
		tick(5)
		if got := told.Load(); got != 2 {
			t.Errorf("told %d times, want once more when it works again", got)
		}
		cancel()
		<-done
	})
}

// counting counts what is logged.
type counting struct {
	slog.Handler
	count *atomic.Int32
}

func (c counting) Enabled(context.Context, slog.Level) bool { return true }

func (c counting) Handle(context.Context, slog.Record) error {
	c.count.Add(1)
	return nil
}

func TestBucketHoldsItsBurstAndItsRate(t *testing.T) {
	var b bucket
	now := time.Unix(1000, 0)
	taken := 0
	for range 100 {
		if b.take(now, 5, time.Second) {
			taken++
		}
	}
	for range 100 {
		now = now.Add(100 * time.Millisecond)
		if b.take(now, 5, time.Second) {
			taken++
		}
	}
	if taken != 15 {
		t.Errorf("took %d in ten seconds, want the burst of 5 and 10", taken)
	}
}
