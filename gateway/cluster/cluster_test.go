package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/cluster"
	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/pubsub/natsbus"
)

const patience = 20 * time.Second

// node is a gateway that does what the test says.
type node struct {
	mu         sync.Mutex
	candidates int
	takes      bool
	hangs      chan bool // nil: it does not
	given      []string
	became     []hub.Receipt
	ended      []string
}

func (n *node) Became(_ context.Context, asked hub.Receipt) hub.Counts {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.became = append(n.became, asked)
	return hub.Counts{Receivers: 2, Delivered: 1, Dropped: hub.Dropped{Slow: 1}}
}

func (n *node) Candidates(string, hub.Formats, string) (int, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.candidates, false
}

// set says what the node has, and does.
func (n *node) set(candidates int, takes bool, hangs chan bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.candidates, n.takes, n.hangs = candidates, takes, hangs
}

func (n *node) DeliverOne(_ context.Context, channel string, item *grip.Item, behind bool) bool {
	n.mu.Lock()
	n.given = append(n.given, fmt.Sprintf("%s %s %v", channel, item.Stream.Content, behind))
	takes, hangs := n.takes, n.hangs
	n.mu.Unlock()
	if hangs != nil {
		<-hangs
	}
	return takes
}

func (n *node) End(who cluster.Who, code int, reason string) cluster.Ended {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ended = append(n.ended, fmt.Sprintf("%v %d %s", who, code, reason))
	return cluster.Ended{WebSockets: 1, Streams: 2, Responses: 3}
}

func (n *node) Refresh(cluster.Who) int { return 2 }

func (n *node) Alive(ids []string) []string { return ids[:1] }

func (n *node) got() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.given)
}

// three are nodes that are a cluster.
func three(t *testing.T) ([]*cluster.Cluster, []*node) {
	t.Helper()
	var clusters []*cluster.Cluster
	var nodes []*node
	var buses []*natsbus.Bus
	for i := range 3 {
		options := natsbus.Options{Embedded: natsbus.Embedded{ClusterListen: "127.0.0.1:0"}}
		if i > 0 {
			options.Embedded.Peers = []string{buses[0].ClusterAddr()}
		}
		bus, err := natsbus.Open(options)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { bus.Close() })
		buses, nodes, clusters = append(buses, bus), append(nodes, new(node)), append(clusters, cluster.New(bus))
		clusters[i].Serve(nodes[i])
	}
	for _, bus := range buses {
		for end := time.Now().Add(patience); bus.Stats().Nodes != 2; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("a node knows %d others, want 2", bus.Stats().Nodes)
			}
		}
	}
	return clusters, nodes
}

func items(t *testing.T, texts ...string) []*grip.Item {
	t.Helper()
	all, err := grip.ParseItems([]byte(`{"items":[` + strings.Join(texts, ",") + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func within(t *testing.T, wait time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	t.Cleanup(cancel)
	return ctx
}

const one = `{"channel":"a","deliver":"one","http-stream":{"content":"x"}}`

func TestOneOfAllGoesToNodesByWhatTheyHave(t *testing.T) {
	clusters, nodes := three(t)
	for i, candidates := range []int{1, 3, 0} {
		nodes[i].set(candidates, true, nil)
	}
	for range 40 {
		if err := clusters[2].Publish(t.Context(), items(t, one)[0]); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []int{10, 30, 0} {
		if got := nodes[i].got(); got != want {
			t.Errorf("node %d got %d, want %d", i, got, want)
		}
	}
}

func TestOneOfAllIsOfferedUntilSomebodyTakesIt(t *testing.T) {
	clusters, nodes := three(t)
	for _, n := range nodes {
		n.set(1, false, nil)
	}
	report, err := clusters[0].PublishAndCount(t.Context(), within(t, patience), items(t, one))
	if err != nil || report.Receivers != 3 || report.Delivered != 0 || report.Items[0].Unknown {
		t.Fatalf("nobody takes it: got %+v, %v", report, err)
	}
	for i, n := range nodes {
		n.mu.Lock()
		got := fmt.Sprint(n.given)
		n.mu.Unlock()
		if got != "[a x false a x false a x true]" {
			t.Errorf("node %d was offered %s, want it thrice: to those who are not behind, again a moment later, then to all", i, got)
		}
	}
	nodes[1].set(1, true, nil)
	report, err = clusters[0].PublishAndCount(t.Context(), within(t, patience), items(t, one))
	if err != nil || report.Receivers != 3 || report.Delivered != 1 || report.Nodes.Answered != 3 {
		t.Fatalf("one takes it: got %+v, %v", report, err)
	}
}

// Bytes wait for a moment for everybody who is written to.
func TestOneOfAllWaitsAMomentForSomebodyWhoIsNotBehind(t *testing.T) {
	clusters, nodes := three(t)
	nodes[1].set(2, false, nil)
	var given sync.WaitGroup
	given.Go(func() {
		for end := time.Now().Add(patience); nodes[1].got() == 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		nodes[1].set(2, true, nil) // it was just being written to
	})
	report, err := clusters[0].PublishAndCount(t.Context(), within(t, patience), items(t, one))
	given.Wait()
	nodes[1].mu.Lock()
	got := nodes[1].given
	nodes[1].mu.Unlock()
	// A busy machine may find out later, but never without asking again.
	if err != nil || report.Delivered != 1 || len(got) < 2 || got[1] != "a x false" {
		t.Errorf("got %v, %+v, %v; want it offered again to those who are not behind", got, report, err)
	}
}

// Somebody may have it: nobody else is tried.
func TestOneOfAllIsAtMostOnce(t *testing.T) {
	clusters, nodes := three(t)
	hang := make(chan bool)
	defer close(hang)
	for _, n := range nodes {
		n.set(1, true, hang)
	}
	report, err := clusters[0].PublishAndCount(t.Context(), within(t, 2*time.Second), items(t, one))
	if err != nil || report.Delivered != 0 || !report.Items[0].Unknown {
		t.Fatalf("got %+v, %v; want it to be unknown", report, err)
	}
	if got := nodes[0].got() + nodes[1].got() + nodes[2].got(); got != 1 {
		t.Errorf("%d nodes were offered it", got)
	}
}

func TestCountsAreOfAllNodesAndChannels(t *testing.T) {
	clusters, nodes := three(t)
	// As long as names can be: one question would be more than a server takes.
	var names []string
	for i := range 700 {
		names = append(names, fmt.Sprintf("%q", fmt.Sprintf("%d-%s", i, strings.Repeat("n", 1000))))
	}
	all := items(t, `{"channel":"a","id":"7","http-stream":{"content":"x"}}`, `{"channels":[`+strings.Join(names, ",")+`],"ws-message":{"content":"x"}}`)
	report, err := clusters[1].PublishAndCount(t.Context(), within(t, patience), all)
	if err != nil {
		t.Fatal(err)
	}
	if report.Accepted != 2 || report.Receivers != 3*701*2 || report.Delivered != 3*701 || report.Dropped.Slow != 3*701 || report.Nodes.Answered != 3 {
		t.Errorf("got %+v, %+v", report.Counts, report.Nodes)
	}
	if first, second := report.Items[0], report.Items[1]; first.ID != "7" || first.Receivers != 6 || second.Receivers != 3*700*2 || len(second.Channels) != 700 {
		t.Errorf("items: got %+v and %+v", first.Counts, second.Counts)
	}
	for i, n := range nodes {
		n.mu.Lock()
		asked := len(n.became)
		n.mu.Unlock()
		if asked != 701 {
			t.Errorf("node %d was asked about %d, want 701", i, asked)
		}
	}
	closed, err := clusters[2].Close(within(t, patience), cluster.Who{User: "ann"}, 4000, "bye")
	if err != nil || closed.Closed != 18 || closed.WebSockets != 3 || closed.Streams != 6 || closed.Responses != 9 || closed.Answered != 3 {
		t.Errorf("close: got %+v, %v", closed, err)
	}
	nodes[0].mu.Lock()
	got := fmt.Sprint(nodes[0].ended)
	nodes[0].mu.Unlock()
	if got != "[{ ann } 4000 bye]" {
		t.Errorf("close: a node was told %s", got)
	}
	if refreshed, err := clusters[0].Refresh(within(t, patience), cluster.Who{Channel: "a"}); err != nil || refreshed.Refreshed != 6 {
		t.Errorf("refresh: got %+v, %v", refreshed, err)
	}
	if alive, _, err := clusters[0].Alive(within(t, patience), []string{"a", "b"}); err != nil || fmt.Sprint(alive) != "[a]" {
		t.Errorf("alive: got %v, %v", alive, err)
	}
}

// mute is a bus that carries items and nothing else.
type mute struct{ pubsub.Bus }

func TestABusThatCannotAskSaysSoBeforeAnythingIsPublished(t *testing.T) {
	memory := pubsub.NewMemory()
	defer memory.Close()
	all := cluster.New(mute{memory})
	all.Serve(new(node))
	if _, err := all.PublishAndCount(t.Context(), within(t, patience), items(t, `{"channel":"a","http-stream":{"content":"x"}}`)); !errors.Is(err, cluster.ErrCannotAsk) {
		t.Errorf("got %v, want %v", err, cluster.ErrCannotAsk)
	}
	if err := all.Publish(t.Context(), items(t, one)[0]); !errors.Is(err, cluster.ErrCannotAsk) {
		t.Errorf("got %v, want %v", err, cluster.ErrCannotAsk)
	}
	if err := all.Publish(t.Context(), items(t, `{"channels":["a","b"],"http-stream":{"content":"x"}}`)[0]); err != nil {
		t.Error(err)
	}
	if _, err := all.Close(t.Context(), cluster.Who{Channel: "a"}, 0, ""); !errors.Is(err, cluster.ErrCannotAsk) {
		t.Errorf("got %v, want %v", err, cluster.ErrCannotAsk)
	}
}
