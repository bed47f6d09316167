package hub

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gripway/gripway/grip"
)

const (
	historyItemsDefault = 100
	historyBytesDefault = 1 << 20
	historyAgeDefault   = 5 * time.Minute

	// historyBytesMax bounds what all channels keep together. Beyond it a channel
	// keeps its newest items only as far as it drops older ones.
	historyBytesMax = 256 << 20

	// historyItemBytes is what an item counts besides its content.
	historyItemBytes = 256
)

// History says how much of a channel is kept.
type History struct {
	Items int           // zero means 100
	Bytes int           // zero means 1 MiB
	Age   time.Duration // zero means 5 min; so long the channel stays subscribed after its last client has left
}

func (l *History) defaults() {
	if l.Items == 0 {
		l.Items = historyItemsDefault
	}
	if l.Bytes == 0 {
		l.Bytes = historyBytesDefault
	}
	if l.Age == 0 {
		l.Age = historyAgeDefault
	}
}

// history is the latest items of a channel, each of which names the one before it:
// there is no hole in it. It begins when this node hears the channel, and anew
// wherever an item does not follow the last.
type history struct {
	limits History
	total  *atomic.Int64 // bytes that all histories keep

	mu    sync.Mutex
	kept  []keptItem
	bytes int
	ended bool // what is still on its way when the channel is left is not kept
}

type keptItem struct {
	item *grip.Item
	at   time.Time
	size int
}

// add keeps an item that is being passed on.
func (h *history) add(item *grip.Item, now time.Time) {
	size := historyItemBytes
	if item.Stream != nil {
		size += len(item.Stream.Content)
	}
	if item.Message != nil {
		size += len(item.Message.Content)
	}
	if item.Response != nil {
		size += len(item.Response.Body)
	}
	size = max(size, historyItemBytes+len(item.Raw())) // meta, headers and the like count, too
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return
	}
	if n := len(h.kept); n > 0 && (item.ID == "" || item.PrevID != h.kept[n-1].item.ID) {
		h.dropLocked(n)
	}
	if item.ID == "" {
		return
	}
	h.kept = append(h.kept, keptItem{item, now, size})
	h.bytes += size
	h.total.Add(int64(size))
	over := 0
	for over < len(h.kept) && (len(h.kept)-over > h.limits.Items || h.bytes > h.limits.Bytes || h.total.Load() > historyBytesMax || h.oldLocked(over, now)) {
		h.bytes -= h.kept[over].size
		h.total.Add(-int64(h.kept[over].size))
		over++
	}
	h.kept = slices.Delete(h.kept, 0, over)
}

func (h *history) oldLocked(i int, now time.Time) bool { return now.Sub(h.kept[i].at) > h.limits.Age }

// dropLocked forgets the n oldest.
func (h *history) dropLocked(n int) {
	for _, k := range h.kept[:n] {
		h.bytes -= k.size
		h.total.Add(-int64(k.size))
	}
	h.kept = slices.Delete(h.kept, 0, n)
}

// end forgets all.
func (h *history) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	h.dropLocked(len(h.kept))
}

// between returns the items after one id, up to another and with it, or to the
// last if that is "". None are left out; known is false if the history does not
// have them all. If upTo is not after after, there are none.
func (h *history) between(after, upTo string, now time.Time) (items []*grip.Item, known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := 0
	for old < len(h.kept) && h.oldLocked(old, now) {
		old++
	}
	h.dropLocked(old)
	if len(h.kept) == 0 {
		return nil, false
	}
	from, to := h.placeLocked(after), len(h.kept)
	if upTo != "" {
		to = h.placeLocked(upTo)
	}
	if from < 0 || to < 0 {
		return nil, false
	}
	for _, k := range h.kept[min(from, to):to] {
		items = append(items, k.item)
	}
	return items, true
}

// placeLocked is how many items there are up to the one of that id, or -1. Nothing
// is before the first but the id it names.
func (h *history) placeLocked(id string) int {
	if id == "" {
		return -1
	}
	if i := slices.IndexFunc(h.kept, func(k keptItem) bool { return k.item.ID == id }); i >= 0 {
		return i + 1
	}
	if h.kept[0].item.PrevID == id {
		return 0
	}
	return -1
}

// Between returns the items of a channel after one id, up to another and with it,
// or to the last if upTo is "": none if upTo was before. known is false if this
// node has not kept all of them.
func (h *Hub) Between(channel, after, upTo string) (items []*grip.Item, known bool) {
	st := h.stripe(channel)
	st.mu.Lock()
	ch := st.channels[channel]
	st.mu.Unlock()
	if ch == nil || ch.history == nil {
		return nil, false
	}
	if items, known = ch.history.between(after, upTo, time.Now()); known {
		h.replayed.Add(float64(len(items)))
	}
	return items, known
}
