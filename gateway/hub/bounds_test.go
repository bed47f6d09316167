package hub

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
)

func parsed(t *testing.T, text string) *grip.Item {
	t.Helper()
	item, err := grip.ParseItem([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return item
}

// A history that ends is left by its channel at once, and by the bus a moment later.
func TestWhatComesAfterAHistoryHasEndedIsNotKept(t *testing.T) {
	h, total := newHistory(History{})
	h.add(historyItem("1", "", "x"), time.Now())
	h.end()
	h.add(historyItem("2", "1", "x"), time.Now())
	if got := total.Load(); got != 0 || len(h.kept) != 0 {
		t.Errorf("%d bytes in %d items are kept for nobody, and count for all others", got, len(h.kept))
	}
}

var long = strings.Repeat("m", 3000)

func TestAHistoryCountsAllThatAnItemCarries(t *testing.T) {
	for _, text := range []string{
		`{"channel":"a","id":"%d","prev-id":"%d","meta":{"m":"` + long + `"},"http-stream":{"content":"x"}}`,
		`{"channel":"a","id":"%d","prev-id":"%d","http-response":{"headers":{"m":"` + long + `"},"body":"x"}}`,
	} {
		h, total := newHistory(History{Bytes: 10_000})
		for i := range 20 {
			h.add(parsed(t, fmt.Sprintf(text, i+1, i)), time.Now())
		}
		if len(h.kept) != 2 || total.Load() > 10_000 {
			t.Errorf("%d items of 3 kB are kept within 10 kB (%d are counted): %.60s…", len(h.kept), total.Load(), text)
		}
	}
}

func TestAShardCountsAllThatWaits(t *testing.T) {
	bus := pubsub.NewMemory()
	defer bus.Close()
	h := New(Options{Bus: bus, Shards: 1})
	defer h.Close()
	s := newShard(h, 0) // which nobody empties
	ch := &channel{hub: h, members: []members{{list: []*Subscriber{nil}}}}
	s.push(delivery{ch: ch, pub: &Publication{Item: parsed(t, `{"channel":"a","http-response":{"body":"`+long+`"}}`)}}, false)
	if s.bytes < len(long) {
		t.Errorf("an answer of %d bytes counts as %d", len(long), s.bytes)
	}
}

// The order of a channel that a pattern brings is forgotten to make room for others,
// also while an item of it is on its way.
func TestAnItemOfAChannelThatIsJustForgottenIsNotLost(t *testing.T) {
	bus := pubsub.NewMemory()
	defer bus.Close()
	h := New(Options{Bus: bus, Shards: 1})
	defer h.Close()
	ch := &channel{hub: h, name: "*", pattern: &pattern{sequences: make(map[string]*sequence)}, members: make([]members, 1)}
	q := ch.pattern.sequence(ch, "a", true)
	if !q.idle() {
		t.Fatal("it is not idle")
	}
	pub := &Publication{Item: parsed(t, `{"channel":"a","id":"1","http-stream":{"content":"x"}}`)}
	if q.take(pub, false) {
		t.Error("it was taken by an order that has ended")
	}
	delete(ch.pattern.sequences, "a")
	ch.takeMatched(pub, "a")
	if q := ch.pattern.sequences["a"]; q == nil || q.last != "1" {
		t.Error("the channel's order has not begun anew")
	}
}

func TestItemsThatCannotBeReadDoNotFillTheLog(t *testing.T) {
	bus := pubsub.NewMemory()
	defer bus.Close()
	var log bytes.Buffer
	h := New(Options{Bus: bus, Shards: 1, Log: slog.New(slog.NewTextHandler(&log, nil))})
	defer h.Close()
	ch := &channel{hub: h, name: "a", members: make([]members, 1)}
	begin := time.Now()
	for range 1000 {
		ch.Receive([]byte("{"), false)
		ch.Receive([]byte(`{"deliver":"one","http-stream":{"content":"x"}}`), false)
	}
	most := 2 + int(time.Since(begin)/time.Second)
	if lines := strings.Count(log.String(), "\n"); lines < 1 || lines > most {
		t.Errorf("got %d lines, want from 1 to %d", lines, most)
	}
}
