package hub

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gripway/gripway/grip"
)

func newHistory(limits History) (*history, *atomic.Int64) {
	limits.defaults()
	total := new(atomic.Int64)
	return &history{limits: limits, total: total}, total
}

func historyItem(id, prev, content string) *grip.Item {
	return &grip.Item{ID: id, PrevID: prev, Stream: &grip.StreamItem{Content: []byte(content)}}
}

func TestAHistoryTellsOnlyWhatItHasWhole(t *testing.T) {
	now := time.Now()
	h, _ := newHistory(History{Items: 3})
	for _, ids := range [][2]string{{"2", "1"}, {"3", "2"}, {"4", "3"}, {"5", "4"}} {
		h.add(historyItem(ids[0], ids[1], "x"), now)
	}
	for _, c := range []struct {
		why, after, upTo, want string
		known                  bool
	}{
		{"from within", "3", "", "4 5", true},
		{"up to one", "3", "4", "4", true},
		{"from the one before the first", "2", "", "3 4 5", true},
		{"nothing is missing", "5", "", "", true},
		{"an item that was had already", "4", "3", "", true},
		{"from before all that is kept", "1", "", "", false},
		{"up to one that is not kept", "3", "9", "", false},
		{"from nowhere", "", "", "", false},
	} {
		items, known := h.between(c.after, c.upTo, now)
		var ids []string
		for _, item := range items {
			ids = append(ids, item.ID)
		}
		if got := strings.Join(ids, " "); got != c.want || known != c.known {
			t.Errorf("%s: got %q, %v, want %q, %v", c.why, got, known, c.want, c.known)
		}
	}
	h.add(historyItem("8", "7", "x"), now)
	if _, known := h.between("5", "", now); known {
		t.Error("a hole is passed over")
	}
	if items, known := h.between("7", "", now); !known || len(items) != 1 {
		t.Errorf("behind the hole: got %d items, %v, want 1, true", len(items), known)
	}
	h.add(historyItem("", "8", "x"), now)
	if _, known := h.between("7", "", now); known {
		t.Error("an item without an id is passed over")
	}
}

func TestAHistoryIsBounded(t *testing.T) {
	now := time.Now()
	h, total := newHistory(History{Items: 100, Bytes: 4 * (historyItemBytes + 100), Age: time.Minute})
	content := strings.Repeat("x", 100)
	prev := "0"
	for _, id := range strings.Fields("1 2 3 4 5 6 7 8") {
		h.add(historyItem(id, prev, content), now)
		prev = id
	}
	if items, known := h.between("4", "", now); !known || len(items) != 4 {
		t.Errorf("got %d items, %v, want 4, true", len(items), known)
	}
	if _, known := h.between("3", "", now); known {
		t.Error("more bytes are kept than may be")
	}
	if _, known := h.between("4", "", now.Add(61*time.Second)); known {
		t.Error("items are kept longer than they may be")
	}
	h.add(historyItem("9", "8", content), now)
	h.add(historyItem("10", "9", strings.Repeat("x", 10_000)), now)
	if _, known := h.between("9", "", now); known {
		t.Error("an item above the limit is kept")
	}
	h.end()
	if got := total.Load(); got != 0 {
		t.Errorf("%d bytes are counted as kept, want 0", got)
	}
	total.Store(historyBytesMax)
	h.add(historyItem("11", "10", content), now)
	if _, known := h.between("10", "", now); known {
		t.Error("more is kept than all channels may")
	}
}
