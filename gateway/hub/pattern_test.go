package hub_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/grip"
)

func (c *client) subscribePattern(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := c.sub.SubscribePattern(context.Background(), name); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnItemComesOnceByWhateverNames(t *testing.T) {
	h, bus := newHub(t, hub.Options{FirstUpdate: -1})
	for _, c := range []struct {
		why  string
		join func(c *client)
	}{
		{"the name first", func(c *client) { c.subscribe(t, "a.b"); c.subscribePattern(t, "a.*") }},
		{"the pattern first", func(c *client) { c.subscribePattern(t, "a.*"); c.subscribe(t, "a.b") }},
		{"two patterns", func(c *client) { c.subscribePattern(t, "a.*", ">") }},
		{"everything", func(c *client) {
			c.subscribePattern(t, ">", "*.b")
			c.subscribe(t, "a.b")
			c.subscribePattern(t, "a.>", "a.*")
		}},
		{"a pattern that was left", func(c *client) {
			c.subscribePattern(t, "a.*")
			c.subscribe(t, "a.b")
			c.sub.UnsubscribePattern("a.*")
		}},
		{"a pattern that was left and joined again", func(c *client) {
			c.subscribePattern(t, "a.*")
			c.subscribe(t, "a.b")
			c.sub.UnsubscribePattern("a.*")
			c.subscribePattern(t, "a.*")
		}},
		{"a name that was left", func(c *client) {
			c.subscribe(t, "a.b")
			c.subscribePattern(t, "a.*")
			c.sub.Unsubscribe("a.b")
		}},
	} {
		c.join(func() *client {
			one := newClient(h, 0, hub.Manner{Format: hub.FormatStream})
			t.Cleanup(func() {
				one.wait(t, "123")
				one.sub.Leave()
				if one.sub.Len() != 0 {
					t.Errorf("%s: it follows %d after it left", c.why, one.sub.Len())
				}
			})
			return one
		}())
	}
	for _, text := range []string{"1", "2", "3"} {
		publish(t, bus, "a.b", text)
	}
}

func TestALeftPatternAndALeftNameAreSilent(t *testing.T) {
	h, bus := newHub(t, hub.Options{FirstUpdate: -1, Metrics: metrics.New()})
	c, fence := newClient(h, 0, hub.Manner{Format: hub.FormatStream}), newClient(h, 0, hub.Manner{Format: hub.FormatStream})
	fence.subscribe(t, "a.b")
	c.subscribePattern(t, "a.*")
	c.subscribe(t, "a.b", "x")
	if got, want := c.sub.Channels(), []string{"x", "a.b"}; !slices.Equal(got, want) {
		t.Errorf("channels: got %q, want %q", got, want)
	}
	if got, want := c.sub.Patterns(), []string{"a.*"}; !slices.Equal(got, want) {
		t.Errorf("patterns: got %q, want %q", got, want)
	}
	if !c.sub.Subscribed("a.b") || c.sub.Subscribed("a.c") {
		t.Error("Subscribed is of names, not of what a pattern matches")
	}
	c.sub.Unsubscribe("a.b")
	publish(t, bus, "a.b", "by the pattern")
	c.wait(t, "by the pattern")
	c.sub.UnsubscribePattern("a.*")
	publish(t, bus, "a.b", "late")
	fence.wait(t, "by the patternlate")
	if got := c.text(); got != "by the pattern" {
		t.Errorf("after it left both: got %q", got)
	}
	if got := c.sub.Len(); got != 1 {
		t.Errorf("it follows %d, want 1", got)
	}
}

func TestAPatternKeepsTheOrderOfEachChannel(t *testing.T) {
	h, bus := newHub(t, hub.Options{FirstUpdate: -1, Shards: 1})
	c := newClient(h, 0, hub.Manner{Format: hub.FormatStream})
	c.subscribePattern(t, "room.*")
	ids := func(channel, id, prev, content string) {
		t.Helper()
		raw := fmt.Sprintf(`{"channel":%q,"id":%q,"prev-id":%q,"formats":{"http-stream":{"content":%q}}}`, channel, id, prev, content)
		if err := bus.Publish(context.Background(), channel, []byte(raw)); err != nil {
			t.Fatal(err)
		}
	}
	ids("room.a", "1", "0", "a1 ")
	c.wait(t, "a1 ")
	ids("room.a", "3", "2", "a3 ")
	ids("room.b", "3", "2", "b3 ")
	c.wait(t, "a1 b3 ")
	ids("room.a", "2", "1", "a2 ")
	ids("room.a", "2", "1", "a2 ")
	c.wait(t, "a1 b3 a2 a3 ")
}

func TestPatternsOfARouteStayWithinItsPrefix(t *testing.T) {
	for _, c := range []struct{ prefix, pattern, want string }{
		{"", ">", ">"},
		{"mine.", "*.x", "mine.*.x"},
		{"mine.", ">", "mine.>"},
		{"mine-", "news.*", "mine-news.*"},
		{"mine-", "*.x", ""},
		{"mine-", ">", ""},
		{"*.", "news.>", ""},
		{"a.>.", "news.>", ""},
		{"mine.", "new*", ""},
		{"", "news", ""},
	} {
		got, err := hub.Pattern(c.prefix, c.pattern)
		if c.want == "" && err == nil || c.want != "" && (err != nil || got != c.want) {
			t.Errorf("prefix %q, pattern %q: got %q, %v, want %q", c.prefix, c.pattern, got, err, c.want)
		}
	}
}

func TestPatternsAreBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("ten thousand subscriptions")
	}
	h, _ := newHub(t, hub.Options{FirstUpdate: -1})
	c := newClient(h, 0, hub.Manner{Format: hub.FormatStream})
	other := newClient(h, 1, hub.Manner{Format: hub.FormatStream})
	var err error
	n := 0
	for ; err == nil && n < 20_000; n++ {
		if n == 5000 {
			c, other = other, c // each finds its place among those it has
		}
		err = c.sub.SubscribePattern(context.Background(), fmt.Sprintf("%d.*", n))
	}
	if err == nil || !strings.Contains(err.Error(), "10000 patterns") {
		t.Errorf("after %d patterns: got %v, want a refusal", n, err)
	}
	other.sub.Leave()
	if err := c.sub.SubscribePattern(context.Background(), "one.more.*"); err != nil {
		t.Errorf("after others have left: %v", err)
	}
}

// A client that follows a channel by its name and hears it by a pattern is told what
// others are told who follow it.
func TestAChannelHeardByAPatternIsLookedAtAgain(t *testing.T) {
	h, bus := newHub(t, hub.Options{FirstUpdate: 50 * time.Millisecond})
	c := newClient(h, 0, hub.Manner{Format: hub.FormatStream})
	defer c.sub.Leave()
	c.subscribePattern(t, "a.*")
	c.sub.WantUpdates()
	c.subscribe(t, "a.b")
	told := func(why string) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			c.mu.Lock()
			notices := slices.Clone(c.notices)
			c.mu.Unlock()
			if slices.Contains(notices, fmt.Sprintf("%d a.b", hub.NoticeUpdate)) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s: notices: got %q, want one of a.b", why, notices)
			}
		}
		c.mu.Lock()
		c.notices = nil
		c.mu.Unlock()
	}
	told("the first subscription")
	item := &grip.Item{Channel: "a.b", ID: "7", Stream: &grip.StreamItem{Content: []byte("x")}}
	if err := bus.Publish(t.Context(), "a.b", item.AppendJSON(nil)); err != nil {
		t.Fatal(err)
	}
	c.wait(t, "x")
	if id, known := h.LastID("a.b"); id != "7" || !known {
		t.Errorf("last id: got %q, %v; want 7", id, known)
	}
	h.Update()
	told("all are to look again")
	if id, known := h.LastID("a.b"); known {
		t.Errorf("last id: got %q, want none", id)
	}
}
