package lanes_test

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/gripway/gripway/pubsub/internal/lanes"
)

// notes writes down its calls; hold, if not nil, is waited for in each Receive.
type notes struct {
	hold chan bool

	mu   sync.Mutex
	seen []string
}

func (n *notes) Receive(data []byte, _ bool) {
	if n.hold != nil {
		<-n.hold
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen = append(n.seen, string(data))
}

func (n *notes) Lost(items int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen = append(n.seen, fmt.Sprint("lost ", items))
}

func (n *notes) want(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Equal(n.seen, want) {
		t.Errorf("got calls %q, want %q", n.seen, want)
	}
	n.seen = nil
}

func TestABreakIsToldBeforeTheNextItemAndOnlyOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := lanes.New(1, 1<<20)
		defer set.Close()
		busy, quiet := new(notes), new(notes)
		set.Add("busy", busy)
		set.Add("quiet", quiet)
		lane := set.Lane("busy")

		lane.Push("busy", []byte("before"))
		busy.want(t, "before")
		set.Break()
		busy.want(t)
		lane.Push("busy", []byte("after"))
		busy.want(t, "lost 0", "after")
		quiet.want(t)

		set.Mend(set.Generation())
		busy.want(t)
		quiet.want(t, "lost 0")
		set.Mend(set.Generation())
		busy.want(t)
		quiet.want(t)

		fresh := new(notes)
		set.Add("fresh", fresh)
		set.Mend(set.Generation())
		fresh.want(t)
	})
}

func TestABreakWhileTheLastIsBeingToldIsToldToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := lanes.New(1, 1<<20)
		defer set.Close()
		n := &notes{hold: make(chan bool)}
		set.Add("room", n)
		set.Lane("room").Push("room", []byte("holds the lane"))
		synctest.Wait()
		set.Break()
		first := set.Generation()
		set.Break()
		set.Mend(first)
		close(n.hold)
		n.want(t, "holds the lane", "lost 0")
		set.Mend(set.Generation())
		n.want(t, "lost 0")
	})
}

func TestAHoleIsMarkedWhereItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const itemCost = 1000 + 64
		set := lanes.New(1, 2*itemCost)
		defer set.Close()
		n, other := &notes{hold: make(chan bool)}, new(notes)
		set.Add("room", n)
		set.Add("other", other)
		lane := set.Lane("room")
		item := func(name string) []byte { return []byte(fmt.Sprintf("%-1000s", name)) }

		for i, wantDropped := range []bool{false, false, true, true} {
			if got := lane.Push("room", item(fmt.Sprint(i))); got != wantDropped {
				t.Errorf("item %d: dropped %v, want %v", i, got, wantDropped)
			}
			synctest.Wait()
		}
		if got := lane.Push("other", item("x")); !got {
			t.Error("an item of another channel fitted into a full lane")
		}
		n.hold <- true // the first one leaves: there is room for one
		synctest.Wait()
		if lane.Push("room", item("4")) {
			t.Error("dropped though there was room")
		}
		if !lane.Push("room", item("5")) {
			t.Error("not dropped though there was none")
		}
		close(n.hold)
		n.want(t, string(item("0")), string(item("1")), "lost 2", string(item("4")), "lost 1")
		other.want(t, "lost 1")
		if got := set.Counts(); got.Lost != 4 || got.Received != 3 || got.Channels != 2 {
			t.Errorf("got %+v, want 4 lost, 3 received, 2 channels", got)
		}
	})
}

func TestAChannelIsForgottenOnlyWithoutReceivers(t *testing.T) {
	set := lanes.New(1, 1<<20)
	defer set.Close()
	first := set.Add("room", new(notes))
	second := set.Add("room", new(notes))
	channel := first.Channel()
	if second.Channel() != channel {
		t.Fatal("two channels for one key")
	}
	first.End()
	if channel.Forget() {
		t.Error("forgotten with a receiver left")
	}
	second.End()
	if !second.End() {
		t.Error("ended twice")
	}
	third := set.Add("room", new(notes)) // before Forget: takes up the old one
	if third.Channel() != channel || channel.Forget() {
		t.Error("a channel with a new receiver was given up")
	}
	third.End()
	if !channel.Forget() || set.Counts().Channels != 0 {
		t.Error("not forgotten without receivers")
	}
	if set.Add("room", new(notes)).Channel() == channel {
		t.Error("a forgotten channel came back")
	}
}

func TestAChannelCostsUnder300Bytes(t *testing.T) {
	const channels = 50_000
	keys := make([]string, channels)
	for i := range keys {
		keys[i] = fmt.Sprint("user-", i)
	}
	set := lanes.New(2, 1<<20)
	defer set.Close()
	r := new(notes)
	before := heap()
	for _, key := range keys {
		set.Add(key, r)
	}
	perChannel := int(heap()-before) / channels
	t.Logf("%d bytes a channel, its name not counted", perChannel)
	if perChannel > 300 {
		t.Errorf("a channel costs %d bytes, want at most 300", perChannel)
	}
	runtime.KeepAlive(keys)
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
