package hub_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// client is a Receiver that remembers what it was handed.
type client struct {
	sub hub.Subscriber

	mu      sync.Mutex
	got     []string
	runs    int
	notices []string
	wake    chan struct{}
}

func newClient(h *hub.Hub, shard int, manner hub.Manner) *client {
	c := &client{wake: make(chan struct{}, 1)}
	h.Join(&c.sub, c, shard, manner)
	return c
}

func (c *client) Deliver(run *hub.Run) int {
	b, n := run.Stream()
	if n > 0 {
		c.mu.Lock()
		c.got = append(c.got, string(b))
		c.runs++
		c.mu.Unlock()
	}
	c.signal()
	return n
}

func (c *client) Notify(notice hub.Notice, channel string) {
	c.mu.Lock()
	c.notices = append(c.notices, fmt.Sprintf("%d %s", notice, channel))
	c.mu.Unlock()
	c.signal()
}

func (c *client) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *client) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.got, "")
}

func (c *client) wait(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(patience)
	for c.text() != want {
		select {
		case <-c.wake:
		case <-deadline:
			t.Fatalf("got %q, want %q", c.text(), want)
		}
	}
}

func (c *client) subscribe(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := c.sub.Subscribe(context.Background(), name); err != nil {
			t.Fatal(err)
		}
	}
}

func newHub(t *testing.T, opts hub.Options) (*hub.Hub, pubsub.Bus) {
	t.Helper()
	if opts.Bus == nil {
		bus := &pubsub.Memory{}
		t.Cleanup(func() { bus.Close() })
		opts.Bus = bus
	}
	opts.Frame = func(m *grip.MessageItem, deflated bool) []byte { return m.Content }
	h := hub.New(opts)
	t.Cleanup(h.Close)
	return h, opts.Bus
}

func publish(t *testing.T, bus pubsub.Bus, channel, content string) {
	t.Helper()
	item := &grip.Item{Channel: channel, Stream: &grip.StreamItem{Content: []byte(content)}}
	if err := bus.Publish(context.Background(), channel, item.AppendJSON(nil)); err != nil {
		t.Fatal(err)
	}
}

var stream = hub.Manner{Format: hub.FormatStream}

func TestItemsReachSubscribersOfTheirChannelInOrder(t *testing.T) {
	h, bus := newHub(t, hub.Options{Shards: 3})
	var clients []*client
	for i := range 7 {
		c := newClient(h, i, stream)
		c.subscribe(t, "room", "room") // twice is once
		clients = append(clients, c)
	}
	other := newClient(h, 0, stream)
	other.subscribe(t, "other")
	var want strings.Builder
	for i := range 500 {
		text := fmt.Sprintf("%d,", i)
		want.WriteString(text)
		publish(t, bus, "room", text)
	}
	publish(t, bus, "other", "x")
	for _, c := range clients {
		c.wait(t, want.String())
	}
	other.wait(t, "x")
}

func TestItemsThatWaitTogetherAreHandedOverTogether(t *testing.T) {
	h, bus := newHub(t, hub.Options{Shards: 1})
	slow := newClient(h, 0, stream)
	slow.subscribe(t, "room")
	var want strings.Builder
	slow.mu.Lock() // its first delivery blocks the shard until all have been published
	for i := range 100 {
		text := fmt.Sprintf("%d,", i)
		want.WriteString(text)
		publish(t, bus, "room", text)
	}
	time.Sleep(20 * time.Millisecond) // the bus hands them over on its own time
	slow.mu.Unlock()
	slow.wait(t, want.String())
	if slow.runs > 10 {
		t.Errorf("100 items came in %d runs, want few", slow.runs)
	}
}

func TestUnsubscribedAndLeftHearNothingMore(t *testing.T) {
	h, bus := newHub(t, hub.Options{})
	a, b := newClient(h, 0, stream), newClient(h, 0, stream)
	a.subscribe(t, "one", "two")
	b.subscribe(t, "one", "two")
	a.sub.Unsubscribe("one")
	publish(t, bus, "one", "1")
	b.wait(t, "1")
	publish(t, bus, "two", "2")
	a.wait(t, "2")
	b.wait(t, "12")
	b.sub.Leave()
	b.sub.Leave()
	publish(t, bus, "two", "3")
	a.wait(t, "23")
	if got := b.text(); got != "12" {
		t.Errorf("after Leave: got %q, want %q", got, "12")
	}
	if err := b.sub.Subscribe(context.Background(), "two"); err != hub.ErrLeft {
		t.Errorf("Subscribe after Leave: got %v, want %v", err, hub.ErrLeft)
	}
}

func TestFirstSubscribersAreToldToAskAgain(t *testing.T) {
	h, _ := newHub(t, hub.Options{FirstUpdate: 50 * time.Millisecond})
	first := newClient(h, 0, hub.Manner{Format: hub.FormatResponse, Updates: true, Lingers: true})
	first.subscribe(t, "room")
	deadline := time.Now().Add(patience)
	for {
		first.mu.Lock()
		notices := strings.Join(first.notices, ";")
		first.mu.Unlock()
		if notices == "0 room" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("notices: got %q, want %q", notices, "0 room")
		}
		time.Sleep(time.Millisecond)
	}
	// The channel lingers, so the next one's is not the first subscription.
	first.sub.Leave()
	second := newClient(h, 1, hub.Manner{Format: hub.FormatResponse, Updates: true, Lingers: true})
	second.subscribe(t, "room")
	time.Sleep(150 * time.Millisecond) // nothing may come
	second.mu.Lock()
	defer second.mu.Unlock()
	if len(second.notices) > 0 {
		t.Errorf("notices of a lingering channel: got %q, want none", second.notices)
	}
}

func TestMalformedItemStopsNothing(t *testing.T) {
	h, bus := newHub(t, hub.Options{})
	c := newClient(h, 0, stream)
	c.subscribe(t, "room")
	for _, bad := range []string{"", "{", `{"formats":{"http-stream":{}}}`, "\xff\xfe"} {
		if err := bus.Publish(context.Background(), "room", []byte(bad)); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, bus, "room", "good")
	c.wait(t, "good")
}

func publishID(t *testing.T, bus pubsub.Bus, id, prev, content string, noSeq bool) {
	t.Helper()
	item := &grip.Item{Channel: "room", ID: id, PrevID: prev, NoSeq: noSeq, Stream: &grip.StreamItem{Content: []byte(content)}}
	if err := bus.Publish(context.Background(), "room", item.AppendJSON(nil)); err != nil {
		t.Fatal(err)
	}
}

func TestItemsWithIDsArePutInOrderAndComeOnce(t *testing.T) {
	h, bus := newHub(t, hub.Options{MessageWait: 200 * time.Millisecond})
	c := newClient(h, 0, stream)
	c.subscribe(t, "room")
	publishID(t, bus, "1", "0", "1", false) // no last id yet
	publishID(t, bus, "4", "3", "4", false)
	publishID(t, bus, "3", "2", "3", false)
	publishID(t, bus, "9", "x", "(unordered)", true)
	publishID(t, bus, "2", "1", "2", false)
	publishID(t, bus, "2", "1", "twice", false)
	c.wait(t, "1(unordered)234")
	if id, ok := h.LastID("room"); id != "4" || !ok {
		t.Errorf("last id: got %q, %v; want 4", id, ok)
	}

	// What is before 6 never comes.
	start := time.Now()
	publishID(t, bus, "7", "6", "7", false)
	publishID(t, bus, "6", "5", "6", false)
	c.wait(t, "1(unordered)23467")
	if took := time.Since(start); took < 150*time.Millisecond {
		t.Errorf("waited %v for the missing item, want 200ms", took)
	}

	// An item without id begins anew.
	publish(t, bus, "room", "a")
	publishID(t, bus, "100", "99", "b", false)
	c.wait(t, "1(unordered)23467ab")
}

func TestComingAndGoingWhileDeliveringLosesNobody(t *testing.T) {
	h, bus := newHub(t, hub.Options{Shards: 2})
	stay := newClient(h, 0, stream)
	stay.subscribe(t, "room")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c := newClient(h, rand.N(2), stream)
				c.subscribe(t, "room", "x")
				if rand.N(2) == 0 {
					c.sub.Unsubscribe("room")
					c.subscribe(t, "room")
				}
				c.sub.Leave()
			}
		})
	}
	var want strings.Builder
	for i := range 2000 {
		text := fmt.Sprintf("%d,", i)
		want.WriteString(text)
		publish(t, bus, "room", text)
	}
	stay.wait(t, want.String())
	close(stop)
	wg.Wait()
	// Whoever comes now is the second member, whatever the others left behind.
	last := newClient(h, 0, stream)
	last.subscribe(t, "room")
	publish(t, bus, "room", "end")
	last.wait(t, "end")
	stay.wait(t, want.String()+"end")
}

func BenchmarkDeliver(b *testing.B) {
	for _, subscribers := range []int{1, 1000, 10000} {
		b.Run(fmt.Sprintf("subscribers=%d", subscribers), func(b *testing.B) {
			bus := &pubsub.Memory{}
			defer bus.Close()
			h := hub.New(hub.Options{Bus: bus})
			defer h.Close()
			var wg sync.WaitGroup
			for i := range subscribers {
				c := &counter{wg: &wg}
				h.Join(&c.sub, c, i, stream)
				if err := c.sub.Subscribe(context.Background(), "room"); err != nil {
					b.Fatal(err)
				}
			}
			item := (&grip.Item{Channel: "room", Stream: &grip.StreamItem{Content: make([]byte, 100)}}).AppendJSON(nil)
			b.ReportAllocs()
			for b.Loop() {
				wg.Add(subscribers)
				if err := bus.Publish(context.Background(), "room", item); err != nil {
					b.Fatal(err)
				}
				wg.Wait()
			}
		})
	}
}

type counter struct {
	sub hub.Subscriber
	wg  *sync.WaitGroup
}

func (c *counter) Deliver(run *hub.Run) int {
	_, n := run.Chunks()
	c.wg.Add(-n)
	return n
}

func (c *counter) Notify(hub.Notice, string) {}

// slowBus takes no subscription until it may.
type slowBus struct {
	pubsub.Bus
	may chan struct{}
}

func (b *slowBus) Subscribe(ctx context.Context, channel string, r pubsub.Receiver) (pubsub.Subscription, error) {
	select {
	case <-b.may:
		return b.Bus.Subscribe(ctx, channel, r)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestWhoIsFirstWaitsNoLongerThanItWants: for a bus that is away, like those who come
// to the same channel after it.
func TestWhoIsFirstWaitsNoLongerThanItWants(t *testing.T) {
	memory := pubsub.NewMemory()
	defer memory.Close()
	bus := &slowBus{memory, make(chan struct{})}
	h, _ := newHub(t, hub.Options{Bus: bus, FirstUpdate: -1})
	first, second := newClient(h, 0, hub.Manner{Format: hub.FormatStream}), newClient(h, 0, hub.Manner{Format: hub.FormatStream})
	for _, c := range []*client{first, second} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := c.sub.Subscribe(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
		}
		cancel()
	}
	// One that waits longer has it when the bus is there, though the first has left.
	done := make(chan error)
	third := newClient(h, 1, hub.Manner{Format: hub.FormatStream})
	go func() { done <- third.sub.Subscribe(t.Context(), "a") }()
	time.Sleep(20 * time.Millisecond)
	close(bus.may)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	publish(t, memory, "a", "x")
	third.wait(t, "x")
	third.sub.Leave()
	first.subscribe(t, "a") // it is not what it was: a new subscription, or the old one
	publish(t, memory, "a", "y")
	first.wait(t, "y")
}
