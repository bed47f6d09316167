// Package bustest holds what package pubsub promises of a Bus as tests. Whoever
// writes a Bus calls Run from a test of their own:
//
//	func TestMemoryIsABus(t *testing.T) {
//		bustest.Run(t, func(t *testing.T) pubsub.Bus { return new(pubsub.Memory) })
//	}
//
// A bus of several nodes passes it twice: on one node, and as a Bus that
// publishes on one node and subscribes on another.
package bustest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gripway/gripway/pubsub"
)

// patience is how long a test waits for what must come. Nothing here takes a
// hundredth of it on an idle machine.
const patience = 20 * time.Second

// overloadBytes is what is published at a receiver that does not return: more than
// a lane of the default size holds.
const overloadBytes = 48 << 20

// Run runs every test against a bus of its own that open returns and Run closes.
// It fails if a goroutine is left behind.
func Run(t *testing.T, open func(t *testing.T) pubsub.Bus) {
	tests := []struct {
		name string
		test func(t *testing.T, bus pubsub.Bus)
	}{
		{"what is published after Subscribe returned is heard", testHeardAtOnce},
		{"the items of a channel come in order", testOrder},
		{"several receivers of a channel each get every item", testSeveralReceivers},
		{"channels of any name hear their own items only", testNames},
		{"a name that is too long is refused", testNameTooLong},
		{"an item that is too long is refused", testItemTooLong},
		{"an empty item is an item", testEmptyItem},
		{"items do not change", testItemsDoNotChange},
		{"more says that another item follows", testMore},
		{"nothing published after Unsubscribe comes", testUnsubscribe},
		{"a channel can be left and joined again", testLeaveAndJoin},
		{"a receiver may use the bus", testReceiverUsesBus},
		{"a hole is always told of, where it is", testHoles},
		{"a context that has ended is obeyed", testContext},
		{"Close waits for running calls", testCloseWaits},
		{"a closed bus says so", testClosed},
		{"a pattern hears what it matches, once", testPatterns},
		{"a pattern's items of one channel come in order", testPatternOrder},
		{"nothing published after a pattern's Unsubscribe comes", testPatternUnsubscribe},
		{"what is no pattern is refused", testPatternRefused},
		{"a hole in a pattern is told of", testPatternHoles},
		{"everything at once", testEverythingAtOnce},
		{"a question comes after the items before it", testAsk},
		{"who does not answer is named", testNoAnswer},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			bus := open(t)
			test.test(t, bus)
			if err := bus.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			goleak.VerifyNone(t, before)
		})
	}
}

// Call is one call of a Receiver.
type Call struct {
	Data []byte // of Receive
	More bool   // of Receive
	Lost int    // of Lost, otherwise -1
}

// Recorder is a Receiver that keeps its calls. Its zero value is ready to use.
type Recorder struct {
	mu    sync.Mutex
	calls []Call
	some  chan struct{} // closed and gone once there is a call; nil = nobody waits
}

// Record is new(Recorder).
func Record() *Recorder { return new(Recorder) }

// Receive is Receiver.Receive.
func (r *Recorder) Receive(data []byte, more bool) { r.add(Call{data, more, -1}) }

// Lost is Receiver.Lost.
func (r *Recorder) Lost(items int) { r.add(Call{Lost: items}) }

func (r *Recorder) add(call Call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, call)
	if r.some != nil {
		close(r.some)
		r.some = nil
	}
}

// Len is how many calls were not taken yet.
func (r *Recorder) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.calls)
}

// Within waits for the next call for a while.
func (r *Recorder) Within(while time.Duration) (call Call, ok bool) {
	end := time.After(while)
	for {
		r.mu.Lock()
		if len(r.calls) > 0 {
			call, r.calls = r.calls[0], r.calls[1:]
			r.mu.Unlock()
			return call, true
		}
		if r.some == nil {
			r.some = make(chan struct{})
		}
		some := r.some
		r.mu.Unlock()
		select {
		case <-some:
		case <-end:
			return Call{}, false
		}
	}
}

// Next waits for the next call.
func (r *Recorder) Next(t *testing.T) Call {
	t.Helper()
	call, ok := r.Within(patience)
	if !ok {
		t.Fatal("the receiver was not called")
	}
	return call
}

// Want waits for the next call, which must be an item of these bytes.
func (r *Recorder) Want(t *testing.T, want string) {
	t.Helper()
	call := r.Next(t)
	if call.Lost >= 0 {
		t.Fatalf("got Lost(%d), want item %q", call.Lost, want)
	}
	if string(call.Data) != want {
		t.Fatalf("got item %.60q, want %.60q", call.Data, want)
	}
}

// receiver is a Receiver made of functions; a nil lost ignores the call.
type receiver struct {
	receive func(data []byte, more bool)
	lost    func(items int)
}

func (r receiver) Receive(data []byte, more bool) { r.receive(data, more) }

func (r receiver) Lost(items int) {
	if r.lost != nil {
		r.lost(items)
	}
}

// Subscribe subscribes or fails the test.
func Subscribe(t *testing.T, bus pubsub.Bus, channel string, r pubsub.Receiver) pubsub.Subscription {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	subscription, err := bus.Subscribe(ctx, channel, r)
	if err != nil {
		t.Fatalf("subscribe %.60q: %v", channel, err)
	}
	return subscription
}

// Publish publishes, again as long as the bus is busy, or fails the test. It
// may be called from any goroutine.
func Publish(t *testing.T, bus pubsub.Bus, channel, data string) {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		err := bus.Publish(context.Background(), channel, []byte(data))
		if err == nil {
			return
		}
		if !errors.Is(err, pubsub.ErrBusy) || time.Now().After(end) {
			t.Errorf("publish to %.60q: %v", channel, err)
			return
		}
		time.Sleep(time.Millisecond) // what ErrBusy asks of a publisher
	}
}

func testHeardAtOnce(t *testing.T, bus pubsub.Bus) {
	for i := range 200 {
		channel := fmt.Sprint("room-", i)
		r := Record()
		Subscribe(t, bus, channel, r)
		Publish(t, bus, channel, channel)
		r.Want(t, channel)
	}
}

func testOrder(t *testing.T, bus pubsub.Bus) {
	const publishers, items = 4, 2500
	shared := Record()
	Subscribe(t, bus, "shared", shared)
	var publishing sync.WaitGroup
	for p := range publishers {
		own := Record()
		Subscribe(t, bus, fmt.Sprint("own-", p), own)
		publishing.Go(func() {
			for i := range items {
				Publish(t, bus, "shared", fmt.Sprint(p, " ", i))
				Publish(t, bus, fmt.Sprint("own-", p), fmt.Sprint(i))
			}
		})
		defer func() {
			for i := range items {
				own.Want(t, fmt.Sprint(i))
			}
		}()
	}
	var next [publishers]int
	for range publishers * items {
		call := shared.Next(t)
		var p, i int
		if _, err := fmt.Sscan(string(call.Data), &p, &i); err != nil {
			t.Fatalf("got %+v: %v", call, err)
		}
		if i != next[p] {
			t.Fatalf("publisher %d: got item %d, want %d", p, i, next[p])
		}
		next[p]++
	}
	publishing.Wait()
}

func testSeveralReceivers(t *testing.T, bus pubsub.Bus) {
	var all []*Recorder
	var joined []pubsub.Subscription
	for i := range 5 {
		r := Record()
		joined = append(joined, Subscribe(t, bus, "room", r))
		all = append(all, r)
		Publish(t, bus, "room", fmt.Sprint("item ", i))
		for _, r := range all {
			r.Want(t, fmt.Sprint("item ", i))
		}
	}
	if err := joined[2].Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	Publish(t, bus, "room", "last")
	for i, r := range all {
		if i != 2 {
			r.Want(t, "last")
		}
	}
	if got := all[2].Len(); got != 0 {
		t.Errorf("the receiver that left got %d calls, want 0", got)
	}
}

// Names are channels that a careless bus mixes up: with wildcards, with each
// other, with what it puts around a name. They are all different.
var Names = []string{
	"", ".", "..", "...", "a", "a.", ".a", "a.b", "a..b", "a...b", ".a.", "a.b.c",
	">", "*", "a.>", "a.*", "*.b", "a.b.>", "%", "%%", "%25", "%2E", "%2e", "a%2Eb", "a%2eb", "%.%", "a%",
	" ", "a b", "a\tb", "a\r\nb", "a\n", "\x00", "\xff\xfe", "A", "a/b", "a:b", "user:1", "user=1&x", "~", "_", "-", "$SYS.>", "_INBOX.>",
	"größe", "gro\u0308ße", "频道", "🙂", "\"", "\\", "'", "{}", "gripway.item.a",
	strings.Repeat("a.", 100) + "a", strings.Repeat(".", 40), strings.Repeat(".", 41),
	strings.Repeat(">", pubsub.ChannelBytesMax), strings.Repeat("x", pubsub.ChannelBytesMax), strings.Repeat("ü", pubsub.ChannelBytesMax/2),
}

func testNames(t *testing.T, bus pubsub.Bus) {
	var all []*Recorder
	for _, name := range Names {
		r := Record()
		all = append(all, r)
		Subscribe(t, bus, name, r)
	}
	for i, name := range Names {
		Publish(t, bus, name, fmt.Sprintf("%d for %q", i, name))
	}
	for i, name := range Names {
		all[i].Want(t, fmt.Sprintf("%d for %q", i, name))
	}
	for i, name := range Names { // a second round: what came too much would come first
		Publish(t, bus, name, fmt.Sprintf("%d again for %q", i, name))
	}
	for i, name := range Names {
		all[i].Want(t, fmt.Sprintf("%d again for %q", i, name))
		if got := all[i].Len(); got != 0 {
			t.Errorf("channel %q: %d calls too many", name, got)
		}
	}
}

func testNameTooLong(t *testing.T, bus pubsub.Bus) {
	long := strings.Repeat("x", pubsub.ChannelBytesMax+1)
	if err := bus.Publish(t.Context(), long, nil); !errors.Is(err, pubsub.ErrChannelTooLong) {
		t.Errorf("publish: got %v, want %v", err, pubsub.ErrChannelTooLong)
	}
	if _, err := bus.Subscribe(t.Context(), long, Record()); !errors.Is(err, pubsub.ErrChannelTooLong) {
		t.Errorf("subscribe: got %v, want %v", err, pubsub.ErrChannelTooLong)
	}
}

func testItemTooLong(t *testing.T, bus pubsub.Bus) {
	r := Record()
	Subscribe(t, bus, "room", r)
	if err := bus.Publish(t.Context(), "room", make([]byte, pubsub.ItemBytesMax+1)); !errors.Is(err, pubsub.ErrItemTooLong) {
		t.Errorf("got %v, want %v", err, pubsub.ErrItemTooLong)
	}
	body := strings.Repeat("x", 1_000_000) // the largest publish body
	Publish(t, bus, "room", body)
	r.Want(t, body)
}

func testEmptyItem(t *testing.T, bus pubsub.Bus) {
	r := Record()
	Subscribe(t, bus, "room", r)
	for range 2 {
		if err := bus.Publish(t.Context(), "room", nil); err != nil {
			t.Fatal(err)
		}
		r.Want(t, "")
	}
}

func testItemsDoNotChange(t *testing.T, bus pubsub.Bus) {
	first, second := Record(), Record()
	Subscribe(t, bus, "room", first)
	Subscribe(t, bus, "room", second)
	buffer := make([]byte, 1000)
	for i := range 300 {
		for j := range buffer {
			buffer[j] = byte(i)
		}
		for {
			err := bus.Publish(t.Context(), "room", buffer)
			if err == nil {
				break
			}
			if !errors.Is(err, pubsub.ErrBusy) {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
	}
	clear(buffer)
	var kept []Call
	for range 300 {
		kept = append(kept, first.Next(t))
	}
	for i, call := range kept {
		want := strings.Repeat(string([]byte{byte(i)}), 1000)
		if string(call.Data) != want {
			t.Fatalf("item %d changed after it was received", i)
		}
		second.Want(t, want)
	}
}

func testMore(t *testing.T, bus pubsub.Bus) {
	const items = 50
	var got []bool
	entered, release, all, done := make(chan bool), make(chan bool), make(chan bool), make(chan bool)
	Subscribe(t, bus, "room", receiver{receive: func(data []byte, more bool) {
		switch string(data) {
		case "hold":
			close(entered)
			<-release
		case "end":
			close(done)
		default:
			if got = append(got, more); len(got) == items {
				close(all)
			}
		}
	}})
	Publish(t, bus, "room", "hold")
	wait(t, entered, "the first item")
	for i := range items {
		Publish(t, bus, "room", fmt.Sprint(i))
	}
	close(release)
	wait(t, all, "the items") // only then may the last flag be asked for
	Publish(t, bus, "room", "end")
	wait(t, done, "the last item")
	if len(got) != items {
		t.Fatalf("got %d items, want %d", len(got), items)
	}
	if got[items-1] {
		t.Error("the last item said that another one waits, and none came")
	}
	said := 0
	for _, more := range got {
		if more {
			said++
		}
	}
	if said < items/2 { // a bus that carries items one by one may not know of all
		t.Errorf("more was said %d times of %d while all were waiting", said, items-1)
	}
}

func testUnsubscribe(t *testing.T, bus pubsub.Bus) {
	fence := Record()
	Subscribe(t, bus, "room", fence)
	for i := range 100 {
		var left, late atomic.Bool
		leaving := Subscribe(t, bus, "room", receiver{receive: func(data []byte, _ bool) {
			if left.Load() && string(data) == fmt.Sprint("late ", i) {
				late.Store(true)
			}
		}})
		Publish(t, bus, "room", "early")
		if err := leaving.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		left.Store(true)
		Publish(t, bus, "room", fmt.Sprint("late ", i))
		fence.Want(t, "early")
		fence.Want(t, fmt.Sprint("late ", i))
		if late.Load() {
			t.Fatal("an item published after Unsubscribe came")
		}
		if err := leaving.Unsubscribe(); err != nil {
			t.Fatalf("again: %v", err)
		}
	}
}

// A node that leaves a channel and joins it again may tell the others of both late:
// what they publish in between reaches nobody, so it is published until it comes.
func testLeaveAndJoin(t *testing.T, bus pubsub.Bus) {
	for i := range 200 {
		r := Record()
		joined := Subscribe(t, bus, "room", r)
		want := fmt.Sprint(i)
		Publish(t, bus, "room", want)
		for begin := time.Now(); ; {
			call, ok := r.Within(100 * time.Millisecond)
			switch {
			case !ok && time.Since(begin) > patience:
				t.Fatalf("item %q does not come", want)
			case !ok:
				Publish(t, bus, "room", want)
				continue
			case string(call.Data) == "to nobody", string(call.Data) == fmt.Sprint(i-1): // on its way when we came
				continue
			case string(call.Data) != want || call.Lost >= 0:
				t.Fatalf("got %+v, want item %q", call, want)
			}
			break
		}
		if err := joined.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		Publish(t, bus, "room", "to nobody")
	}
}

func testReceiverUsesBus(t *testing.T, bus pubsub.Bus) {
	done := make(chan bool)
	var own pubsub.Subscription
	ready := make(chan bool)
	own = Subscribe(t, bus, "ping", receiver{receive: func([]byte, bool) {
		<-ready
		last := receiver{receive: func([]byte, bool) { close(done) }}
		if _, err := bus.Subscribe(context.Background(), "pong", last); err != nil {
			t.Errorf("subscribe: %v", err)
		}
		Publish(t, bus, "pong", "x")
		if err := own.Unsubscribe(); err != nil {
			t.Errorf("unsubscribe: %v", err)
		}
	}})
	close(ready)
	Publish(t, bus, "ping", "x")
	wait(t, done, "the item that a receiver published")
}

func testHoles(t *testing.T, bus pubsub.Bus) {
	const size = 64 << 10
	entered, release, done := make(chan bool), make(chan bool), make(chan bool)
	var once, end sync.Once
	var last, lost, received uint64 // of the lane's goroutine, until done
	var told, unknown bool
	Subscribe(t, bus, "room", receiver{
		receive: func(data []byte, _ bool) {
			once.Do(func() { close(entered); <-release })
			if len(data) < 8 {
				end.Do(func() { close(done) })
				return
			}
			received++
			number := binary.BigEndian.Uint64(data)
			if number != last+1 && !told {
				t.Errorf("item %d came after %d without a call of Lost between", number, last)
			}
			last, told = number, false
		},
		lost: func(items int) {
			told = true
			unknown = unknown || items == 0
			lost += uint64(items)
		},
	})
	other := Record()
	Subscribe(t, bus, "other", other)

	item := make([]byte, size)
	var accepted, refused uint64
	for range overloadBytes / size {
		binary.BigEndian.PutUint64(item, accepted+1)
		switch err := bus.Publish(t.Context(), "room", item); {
		case err == nil:
			accepted++
		case errors.Is(err, pubsub.ErrBusy):
			refused++
		default:
			t.Fatal(err)
		}
	}
	wait(t, entered, "the first item")
	time.Sleep(300 * time.Millisecond) // all is to meet a full lane, and nothing tells that it has
	close(release)
	for ended := false; !ended; {
		Publish(t, bus, "room", "end") // again: this, too, is dropped while there is no room
		select {
		case <-done:
			ended = true
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := bus.Close(); err != nil { // what was written by the lane may be read now
		t.Fatal(err)
	}
	t.Logf("%d accepted, %d refused, %d received, %d told lost", accepted, refused, received, lost)
	if refused == 0 && lost == 0 {
		t.Error("nothing was refused or lost: the bus has no limit, or the test is too small for it")
	}
	// Ends of ours may be among the lost, hence "at least".
	if !unknown && received+lost < accepted {
		t.Errorf("%d accepted, but only %d received and %d told lost", accepted, received, lost)
	}
}

func testContext(t *testing.T, bus pubsub.Bus) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := bus.Publish(ctx, "room", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("publish: got %v, want %v", err, context.Canceled)
	}
	if _, err := bus.Subscribe(ctx, "room", Record()); !errors.Is(err, context.Canceled) {
		t.Errorf("subscribe: got %v, want %v", err, context.Canceled)
	}
}

func testCloseWaits(t *testing.T, bus pubsub.Bus) {
	entered := make(chan bool)
	var returned atomic.Bool
	Subscribe(t, bus, "room", receiver{receive: func([]byte, bool) {
		close(entered)
		time.Sleep(50 * time.Millisecond) // a call that takes its time is what this is about
		returned.Store(true)
	}})
	Publish(t, bus, "room", "x")
	wait(t, entered, "the item")
	var closing sync.WaitGroup
	for range 3 {
		closing.Go(func() {
			if err := bus.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			if !returned.Load() {
				t.Error("Close returned before the running call of the receiver")
			}
		})
	}
	closing.Wait()
}

func testClosed(t *testing.T, bus pubsub.Bus) {
	r := Record()
	joined := Subscribe(t, bus, "room", r)
	if err := bus.Close(); err != nil {
		t.Fatal(err)
	}
	if err := bus.Publish(t.Context(), "room", nil); !errors.Is(err, pubsub.ErrClosed) {
		t.Errorf("publish: got %v, want %v", err, pubsub.ErrClosed)
	}
	if _, err := bus.Subscribe(t.Context(), "room", r); !errors.Is(err, pubsub.ErrClosed) {
		t.Errorf("subscribe: got %v, want %v", err, pubsub.ErrClosed)
	}
	if err := joined.Unsubscribe(); err != nil {
		t.Errorf("unsubscribe: %v", err)
	}
	if err := bus.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
	if got := r.Len(); got != 0 {
		t.Errorf("%d calls of the receiver, want 0", got)
	}
}

// testEverythingAtOnce looks for races and deadlocks more than for results.
func testEverythingAtOnce(t *testing.T, bus pubsub.Bus) {
	const workers, rounds, channels = 8, 60, 5
	steady := make([]*Recorder, channels)
	for c := range channels {
		steady[c] = Record()
		Subscribe(t, bus, fmt.Sprint("c", c), steady[c])
	}
	var working sync.WaitGroup
	for w := range workers {
		working.Go(func() {
			for i := range rounds {
				channel := fmt.Sprint("c", (w+i)%channels)
				check := receiver{receive: func(data []byte, _ bool) {
					if !bytes.HasPrefix(data, []byte(channel+" ")) {
						t.Errorf("channel %q got %q", channel, data)
					}
				}}
				joined := Subscribe(t, bus, channel, check)
				for j := range 5 {
					Publish(t, bus, channel, fmt.Sprint(channel, " ", j))
				}
				if err := joined.Unsubscribe(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	working.Wait()
	for c := range channels {
		for range workers * rounds / channels * 5 {
			if call := steady[c].Next(t); call.Lost >= 0 {
				t.Fatalf("channel c%d: got Lost(%d), want an item", c, call.Lost)
			}
		}
		if got := steady[c].Len(); got != 0 {
			t.Errorf("channel c%d: %d calls too many", c, got)
		}
	}
}

func wait(t *testing.T, done <-chan bool, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s did not come", what)
	}
}

// testAsk is for a Bus that is an Asker.
func testAsk(t *testing.T, bus pubsub.Bus) {
	asker, ok := bus.(pubsub.Asker)
	if !ok {
		t.Skip("it is no Asker")
	}
	const items, channels = 200, 8
	var taken atomic.Int64
	for i := range channels {
		Subscribe(t, bus, fmt.Sprint("room-", i), slowly{&taken})
	}
	asker.Answer("taken", func(_ context.Context, question []byte) []byte {
		return fmt.Appendf(nil, "%s %d", question, taken.Load())
	})
	for round := 1; round <= 3; round++ {
		for i := range items {
			Publish(t, bus, fmt.Sprint("room-", i%channels), "x")
		}
		answers, err := asker.Ask(within(t), "taken", []byte("how many:"))
		if err != nil || len(answers.Nodes) != 1 || len(answers.Missing) != 0 {
			t.Fatalf("got %+v, %v; want one answer", answers, err)
		}
		want := fmt.Sprint("how many: ", round*items)
		if got := string(answers.Nodes[0].Data); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		alone, err := asker.AskNode(within(t), answers.Nodes[0].Node, "taken", []byte("how many:"))
		if string(alone) != want || err != nil {
			t.Errorf("asked alone: got %q, %v; want %q", alone, err, want)
		}
	}
}

func testNoAnswer(t *testing.T, bus pubsub.Bus) {
	asker, ok := bus.(pubsub.Asker)
	if !ok {
		t.Skip("it is no Asker")
	}
	never := make(chan bool)
	defer close(never)
	asker.Answer("never", func(ctx context.Context, _ []byte) []byte {
		select {
		case <-ctx.Done():
		case <-never:
		}
		return nil
	})
	asker.Answer("nothing", func(context.Context, []byte) []byte { return nil })
	for _, kind := range []string{"never", "nothing", "unknown"} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		answers, err := asker.Ask(ctx, kind, nil)
		cancel()
		if err != nil || len(answers.Nodes) != 0 || len(answers.Missing) != 1 {
			t.Errorf("%s: got %+v, %v; want one missing", kind, answers, err)
		}
	}
	if _, err := asker.AskNode(within(t), "nobody", "nothing", nil); !errors.Is(err, pubsub.ErrNoAnswer) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a node that is not there: got %v, want %v", err, pubsub.ErrNoAnswer)
	}
	if _, err := asker.Ask(within(t), "nothing", make([]byte, pubsub.ItemBytesMax+1)); !errors.Is(err, pubsub.ErrItemTooLong) {
		t.Errorf("a question that is too long: got %v, want %v", err, pubsub.ErrItemTooLong)
	}
	bus.Close()
	if _, err := asker.Ask(within(t), "nothing", nil); !errors.Is(err, pubsub.ErrClosed) {
		t.Errorf("a bus that is closed: got %v, want %v", err, pubsub.ErrClosed)
	}
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// slowly is a receiver that takes its time.
type slowly struct{ taken *atomic.Int64 }

func (s slowly) Receive([]byte, bool) {
	time.Sleep(50 * time.Microsecond)
	s.taken.Add(1)
}

func (s slowly) Lost(int) {}
