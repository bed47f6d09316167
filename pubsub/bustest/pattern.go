package bustest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gripway/gripway/pubsub"
)

// patterned is a PatternReceiver that keeps what it was called with, as
// "channel: data", or "lost".
type patterned struct {
	mu    sync.Mutex
	calls []string
	some  chan struct{} // of size 1
}

func newPatterned() *patterned { return &patterned{some: make(chan struct{}, 1)} }

func (p *patterned) ReceiveFrom(channel string, data []byte) { p.add(channel + ": " + string(data)) }
func (p *patterned) Lost(int)                                { p.add("lost") }

func (p *patterned) add(call string) {
	p.mu.Lock()
	p.calls = append(p.calls, call)
	p.mu.Unlock()
	select {
	case p.some <- struct{}{}:
	default:
	}
}

// until waits for a call and returns all up to it, without it.
func (p *patterned) until(t *testing.T, last string) []string {
	t.Helper()
	end := time.After(patience)
	for {
		p.mu.Lock()
		if i := slices.Index(p.calls, last); i >= 0 {
			before := p.calls[:i:i]
			p.calls = p.calls[i+1:]
			p.mu.Unlock()
			return before
		}
		all := slices.Clone(p.calls)
		p.mu.Unlock()
		select {
		case <-p.some:
		case <-end:
			t.Fatalf("got %q, want %q", all, last)
		}
	}
}

func subscribePattern(t *testing.T, bus pubsub.Bus, pattern string, r pubsub.PatternReceiver) pubsub.Subscription {
	t.Helper()
	s, err := bus.SubscribePattern(within(t), pattern, r)
	if err != nil {
		t.Fatalf("SubscribePattern(%q): %v", pattern, err)
	}
	return s
}

func testPatterns(t *testing.T, bus pubsub.Bus) {
	many := strings.Repeat("a.", pubsub.PartsMax-1)
	channels := []string{
		"news", "news.sport", "news.sport.tennis", "news.", "news..x", "old.sport", "", ".", "*", "news.*", ">", "news.>",
		"a b.c", "a b.c.d", "ü.ß", "news.%2A", many + "b", many + "b.c", many + "b.c.d",
	}
	patterns := []string{"news.*", "*.sport", "news.>", ">", "*", "*.*", "a b.*", "ü.*", "news.*.tennis", many + "*", "*." + many[2:] + "b", "nothing.>"}
	for _, name := range Names {
		if !slices.Contains(channels, name) && len(name) < 200 {
			channels = append(channels, name)
		}
	}
	var all []*patterned
	for _, pattern := range patterns {
		r := newPatterned()
		all = append(all, r)
		subscribePattern(t, bus, pattern, r)
	}
	// The two kinds of receivers do not see each other.
	named := Record()
	Subscribe(t, bus, "news.sport", named)
	literal := Record()
	Subscribe(t, bus, "news.*", literal)
	for _, channel := range channels {
		Publish(t, bus, channel, "x")
	}
	named.Want(t, "x")
	literal.Want(t, "x")
	for i, pattern := range patterns {
		var want []string
		for _, channel := range channels {
			if pubsub.Match(pattern, channel) {
				want = append(want, channel+": x")
			}
		}
		slices.Sort(want)
		var got []string
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			all[i].mu.Lock()
			got = slices.Clone(all[i].calls)
			all[i].mu.Unlock()
			if len(got) >= len(want) || time.Now().After(end) {
				break
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("pattern %q got\n%q, want\n%q", pattern, got, want)
		}
	}
	if named.Len()+literal.Len() > 0 {
		t.Errorf("receivers of one channel got %d and %d calls too many", named.Len(), literal.Len())
	}
}

func testPatternOrder(t *testing.T, bus pubsub.Bus) {
	const count = 500
	r, same := newPatterned(), newPatterned()
	subscribePattern(t, bus, "room.*", r)
	subscribePattern(t, bus, "room.*", same)
	for i := range count {
		for _, channel := range []string{"room.a", "room.b", "room.c"} {
			Publish(t, bus, channel, fmt.Sprint(i))
		}
	}
	for _, r := range []*patterned{r, same} {
		next := map[string]int{}
		var ends int
		for end := time.Now().Add(patience); ends < 3 && time.Now().Before(end); time.Sleep(time.Millisecond) {
			r.mu.Lock()
			calls := r.calls
			r.calls = nil
			r.mu.Unlock()
			for _, call := range calls {
				channel, data, _ := strings.Cut(call, ": ")
				if want := fmt.Sprint(next[channel]); data != want {
					t.Fatalf("channel %s: got %s, want %s", channel, data, want)
				}
				if next[channel]++; next[channel] == count {
					ends++
				}
			}
		}
		if ends != 3 {
			t.Fatalf("got %v, want %d of each channel", next, count)
		}
	}
}

func testPatternUnsubscribe(t *testing.T, bus pubsub.Bus) {
	fence := newPatterned()
	subscribePattern(t, bus, "room.>", fence)
	for i := range 50 {
		leaving := newPatterned()
		s := subscribePattern(t, bus, "room.*", leaving)
		Publish(t, bus, "room.a", fmt.Sprint("early ", i))
		leaving.until(t, fmt.Sprint("room.a: early ", i))
		if err := s.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		Publish(t, bus, "room.a", fmt.Sprint("late ", i))
		fence.until(t, fmt.Sprint("room.a: late ", i))
		leaving.mu.Lock()
		if len(leaving.calls) > 0 {
			t.Errorf("after Unsubscribe came %q", leaving.calls)
		}
		leaving.mu.Unlock()
		if err := s.Unsubscribe(); err != nil {
			t.Fatalf("again: %v", err)
		}
	}
}

func testPatternRefused(t *testing.T, bus pubsub.Bus) {
	for _, pattern := range []string{"", "news", "new*", "a.b>", "*a", ">.a", "a.>.b", "**", strings.Repeat("a.", pubsub.PartsMax) + "*"} {
		if _, err := bus.SubscribePattern(within(t), pattern, newPatterned()); !errors.Is(err, pubsub.ErrPattern) {
			t.Errorf("pattern %q: got %v, want %v", pattern, err, pubsub.ErrPattern)
		}
	}
	if _, err := bus.SubscribePattern(within(t), strings.Repeat("a", pubsub.ChannelBytesMax)+".*", newPatterned()); !errors.Is(err, pubsub.ErrChannelTooLong) {
		t.Errorf("a pattern that is too long: got %v, want %v", err, pubsub.ErrChannelTooLong)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := bus.SubscribePattern(ended, "a.*", newPatterned()); !errors.Is(err, context.Canceled) {
		t.Errorf("after its context: got %v, want %v", err, context.Canceled)
	}
	bus.Close()
	if _, err := bus.SubscribePattern(within(t), "a.*", newPatterned()); !errors.Is(err, pubsub.ErrClosed) {
		t.Errorf("after Close: got %v, want %v", err, pubsub.ErrClosed)
	}
}

// testPatternHoles overloads a pattern's receiver.
func testPatternHoles(t *testing.T, bus pubsub.Bus) {
	const size = 64 << 10
	entered, release, done := make(chan bool), make(chan bool), make(chan bool)
	var once, end sync.Once
	var received, accepted, refused int
	var told atomic.Bool // Lost may be called several times at once
	subscribePattern(t, bus, "room.*", patternFunc{
		receive: func(_ string, data []byte) {
			once.Do(func() { close(entered); <-release })
			if len(data) < size {
				end.Do(func() { close(done) })
				return
			}
			received++
		},
		lost: func(int) { told.Store(true) },
	})
	item := make([]byte, size)
	for range overloadBytes / size {
		switch err := bus.Publish(t.Context(), "room.a", item); {
		case err == nil:
			accepted++
		case errors.Is(err, pubsub.ErrBusy):
			refused++
		default:
			t.Fatal(err)
		}
	}
	wait(t, entered, "the first item")
	time.Sleep(300 * time.Millisecond) // as testHoles
	close(release)
	for ended := false; !ended; {
		Publish(t, bus, "room.a", "end")
		select {
		case <-done:
			ended = true
		case <-time.After(10 * time.Millisecond):
		}
	}
	bus.Close()
	if refused == 0 && !told.Load() {
		t.Error("nothing was refused or lost: the bus has no limit for patterns")
	}
	if received < accepted && !told.Load() {
		t.Errorf("%d accepted, %d received, and nobody was told", accepted, received)
	}
}

type patternFunc struct {
	receive func(channel string, data []byte)
	lost    func(items int)
}

func (f patternFunc) ReceiveFrom(channel string, data []byte) { f.receive(channel, data) }
func (f patternFunc) Lost(items int)                          { f.lost(items) }
