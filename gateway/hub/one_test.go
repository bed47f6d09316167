package hub_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
)

// standing is a client that says how it stands.
type standing struct {
	*client
	mu     sync.Mutex
	stand  hub.Stand
	refuse bool // as if a filter kept all away
	asked  int  // how often Stand was called
}

func newStanding(h *hub.Hub, shard int, format hub.Format) *standing {
	s := &standing{client: &client{wake: make(chan struct{}, 1)}}
	h.Join(&s.client.sub, s, shard, hub.Manner{Format: format})
	return s
}

func (s *standing) set(stand hub.Stand, refuse bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stand, s.refuse = stand, refuse
}

func (s *standing) Deliver(run *hub.Run) int {
	s.mu.Lock()
	refuse := s.refuse || s.stand >= hub.StandSlow
	s.mu.Unlock()
	if refuse {
		return 0
	}
	return s.client.Deliver(run)
}

func (s *standing) Stand(string) hub.Stand {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	return s.stand
}

func (s *standing) End(int, string) bool { return false }
func (s *standing) Refresh() bool        { return false }
func (s *standing) ID() string           { return "" }
func (s *standing) Format() hub.Format   { return hub.FormatStream }

func (s *standing) count() int {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	return len(s.got)
}

func job(content, id string) *grip.Item {
	return &grip.Item{Channel: "a", ID: id, One: true, Stream: &grip.StreamItem{Content: []byte(content)}}
}

func TestOneOfAllIsInTurnAcrossShards(t *testing.T) {
	h, _ := newHub(t, hub.Options{Shards: 3, FirstUpdate: -1})
	var clients []*standing
	for i := range 7 {
		c := newStanding(h, i*i, hub.FormatStream) // not evenly spread
		c.subscribe(t, "a")
		clients = append(clients, c)
	}
	other := newStanding(h, 0, hub.FormatMessage)
	other.subscribe(t, "a")
	// The turn passes over the one that has nothing for it: its turn goes to a neighbour.
	const rounds = 5
	for range rounds * (len(clients) + 1) {
		if !h.DeliverOne(t.Context(), "a", job("x", ""), false) {
			t.Fatal("nobody took it")
		}
	}
	all := 0
	for i, c := range clients {
		all += c.count()
		if c.count() < rounds || c.count() > 2*rounds {
			t.Errorf("client %d got %d, want from %d to %d", i, c.count(), rounds, 2*rounds)
		}
	}
	if want := rounds * (len(clients) + 1); all != want || other.count() != 0 {
		t.Errorf("%d items came %d times, and %d to one they are not for", want, all, other.count())
	}
}

func TestOneOfAllPassesOverWhoCannotTakeIt(t *testing.T) {
	h, _ := newHub(t, hub.Options{Shards: 2, FirstUpdate: -1})
	if h.DeliverOne(t.Context(), "a", job("x", ""), true) {
		t.Fatal("somebody took it, and nobody is there")
	}
	var clients [4]*standing
	for i := range clients {
		clients[i] = newStanding(h, i, hub.FormatStream)
		clients[i].subscribe(t, "a")
	}
	clients[0].set(hub.StandClosed, false)
	clients[1].set(hub.StandReady, true)
	clients[2].set(hub.StandLater, false)
	clients[3].set(hub.StandBehind, false)
	for range 8 {
		if h.DeliverOne(t.Context(), "a", job("x", ""), false) {
			t.Fatal("somebody took it")
		}
	}
	for range 8 {
		if !h.DeliverOne(t.Context(), "a", job("y", ""), true) {
			t.Fatal("the one that is behind did not take it")
		}
	}
	for i, want := range []int{0, 0, 0, 8} {
		if got := clients[i].count(); got != want {
			t.Errorf("client %d got %d, want %d", i, got, want)
		}
	}
}

func TestOneOfAllIsOnceForAnID(t *testing.T) {
	h, bus := newHub(t, hub.Options{FirstUpdate: -1})
	c := newStanding(h, 0, hub.FormatStream)
	c.subscribe(t, "a")
	c.set(hub.StandReady, true)
	if h.DeliverOne(t.Context(), "a", job("x", "1"), true) {
		t.Fatal("somebody took it")
	}
	if n, seen := h.Candidates("a", 1<<hub.FormatStream, "1"); n != 1 || seen {
		t.Errorf("what nobody took: got %d candidates, seen %v", n, seen)
	}
	c.set(hub.StandReady, false)
	for range 3 {
		h.DeliverOne(t.Context(), "a", job("x", "1"), true)
	}
	if _, seen := h.Candidates("a", 1<<hub.FormatStream, "1"); !seen || c.count() != 1 {
		t.Errorf("got it %d times, seen %v", c.count(), seen)
	}
	// It does not come the way of all others, and nobody is left out of theirs.
	if err := bus.Publish(t.Context(), "a", job("z", "").AppendJSON(nil)); err != nil {
		t.Fatal(err)
	}
	publish(t, bus, "a", "y")
	c.wait(t, "xy")
}

func TestOneOfAllWithManyAtOnceIsOnceEach(t *testing.T) {
	h, bus := newHub(t, hub.Options{Shards: 4, FirstUpdate: -1})
	var clients []*standing
	for i := range 20 {
		c := newStanding(h, i, hub.FormatStream)
		c.subscribe(t, "a")
		clients = append(clients, c)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	taken := 0
	for worker := range 8 {
		wg.Go(func() {
			for i := range 200 {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				if i%7 == 0 { // some give up, maybe before somebody took it
					ctx, cancel = context.WithTimeout(ctx, time.Duration(i)*time.Microsecond)
				}
				if h.DeliverOne(ctx, "a", job(fmt.Sprintf("%d.%d ", worker, i), ""), true) {
					mu.Lock()
					taken++
					mu.Unlock()
				}
				cancel()
			}
		})
		wg.Go(func() {
			for range 100 {
				publish(t, bus, "b", "x")
				c := newStanding(h, worker, hub.FormatStream)
				c.set(hub.StandClosed, false) // or it would be given some
				c.subscribe(t, "a")
				c.client.sub.Leave()
			}
		})
	}
	wg.Wait()
	got := 0
	for _, c := range clients {
		got += c.count()
	}
	if got != taken {
		t.Errorf("%d were taken, and came %d times", taken, got)
	}
}

func became(t *testing.T, h *hub.Hub, item *grip.Item) hub.Counts {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	return h.Became(ctx, hub.Receipt{Name: item.Receipt, Channel: item.Channel, Formats: hub.FormatsOf(item)})
}

func TestWhatBecameOfAnItem(t *testing.T) {
	h, bus := newHub(t, hub.Options{Shards: 2, FirstUpdate: -1, MessageWait: time.Minute})
	bus.(pubsub.Asker).Answer("sync", func(context.Context, []byte) []byte { return []byte{} })
	stands := []hub.Stand{hub.StandReady, hub.StandReady, hub.StandBehind, hub.StandEnding, hub.StandLater, hub.StandSlow, hub.StandClosed, hub.StandReady}
	var clients []*standing
	for i, stand := range stands {
		c := newStanding(h, i, hub.FormatStream)
		c.subscribe(t, "a")
		c.set(stand, i == len(stands)-1 || stand == hub.StandLater)
		clients = append(clients, c)
	}
	other := newStanding(h, 0, hub.FormatMessage)
	other.subscribe(t, "a")

	n := 0
	give := func(item grip.Item) hub.Counts {
		t.Helper()
		n++
		item.Channel, item.Receipt, item.Stream = "a", fmt.Sprint("r", n), &grip.StreamItem{Content: []byte("x")}
		if err := bus.Publish(t.Context(), "a", item.AppendJSON(nil)); err != nil {
			t.Fatal(err)
		}
		if _, err := bus.(pubsub.Asker).Ask(t.Context(), "sync", nil); err != nil { // whoever asks, asks behind the items
			t.Fatal(err)
		}
		return became(t, h, &item)
	}
	// Who is ending takes nothing here.
	all := hub.Counts{Receivers: 8, Delivered: 3, Queued: 1, Waiting: 1, Dropped: hub.Dropped{Slow: 1, Closed: 2, Filtered: 1}}
	if got := give(grip.Item{}); got != all {
		t.Errorf("got  %+v\nwant %+v", got, all)
	}
	if got := give(grip.Item{ID: "1"}); got != all {
		t.Errorf("with an id:\ngot  %+v\nwant %+v", got, all)
	}
	if got, want := give(grip.Item{ID: "1"}), (hub.Counts{Receivers: 8, Dropped: hub.Dropped{Duplicate: 8}}); got != want {
		t.Errorf("again:\ngot  %+v\nwant %+v", got, want)
	}
	if got, want := give(grip.Item{ID: "3", PrevID: "2"}), (hub.Counts{Receivers: 8, Waiting: 8}); got != want {
		t.Errorf("too early:\ngot  %+v\nwant %+v", got, want)
	}
	if got, want := give(grip.Item{ID: "4", PrevID: "2"}), (hub.Counts{Receivers: 8, Dropped: hub.Dropped{Duplicate: 8}}); got != want {
		t.Errorf("too early, after the same:\ngot  %+v\nwant %+v", got, want)
	}
	missed := grip.Item{Channel: "a", Receipt: "never published", Stream: &grip.StreamItem{}}
	if got, want := became(t, h, &missed), (hub.Counts{Receivers: 8, Dropped: hub.Dropped{Lost: 8}}); got != want {
		t.Errorf("one that did not come:\ngot  %+v\nwant %+v", got, want)
	}
	missed.Channel = "nobody's"
	if got := became(t, h, &missed); got != (hub.Counts{}) {
		t.Errorf("nobody is there:\ngot  %+v", got)
	}
}

func TestItemsThatNobodyAsksAboutAreNotCounted(t *testing.T) {
	h, bus := newHub(t, hub.Options{FirstUpdate: -1})
	c := newStanding(h, 0, hub.FormatStream)
	c.subscribe(t, "a")
	for range 100 {
		publish(t, bus, "a", "x")
	}
	c.wait(t, strings.Repeat("x", 100))
	if got := h.Receipts(); got != 0 || c.asked != 0 {
		t.Errorf("%d receipts, and the client was asked %d times how it stands", got, c.asked)
	}
}

// Receipts that nobody asks for must not stay for ever.
func TestReceiptsAreBounded(t *testing.T) {
	h, bus := newHub(t, hub.Options{FirstUpdate: -1})
	c := newStanding(h, 0, hub.FormatStream)
	c.subscribe(t, "a")
	item := &grip.Item{Channel: "a", Stream: &grip.StreamItem{Content: []byte("x")}}
	for i := range 25_000 {
		item.Receipt = fmt.Sprint(i)
		if err := bus.Publish(t.Context(), "a", item.AppendJSON(nil)); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(patience); c.count() < 25_000; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %d", c.count())
		}
	}
	if got := h.Receipts(); got > 10_000 {
		t.Errorf("%d are kept", got)
	}
	if got := became(t, h, item); got.Delivered != 1 { // it has come: all before it have
		t.Errorf("the last one: got %+v", got)
	}
}
