package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/pubsub/bustest"
	"github.com/gripway/gripway/pubsub/natsbus"
)

// everyCluster runs test with three nodes that know each other.
func everyCluster(t *testing.T, test func(t *testing.T, nodes []*natsbus.Bus)) {
	wait := func(t *testing.T, nodes []*natsbus.Bus) {
		for _, node := range nodes {
			eventually(t, "all nodes know each other", func() bool { return node.Stats().Nodes == len(nodes)-1 })
		}
	}
	t.Run("embedded", func(t *testing.T) {
		nodes := cluster(t, 3)
		wait(t, nodes)
		test(t, nodes)
	})
	t.Run("a server elsewhere", func(t *testing.T) {
		url := elsewhere(t, nil).ClientURL()
		var nodes []*natsbus.Bus
		for i := range 3 {
			nodes = append(nodes, open(t, natsbus.Options{URL: url, Name: fmt.Sprint("node-", i)}))
		}
		wait(t, nodes)
		test(t, nodes)
	})
}

func ask(t *testing.T, node *natsbus.Bus, wait time.Duration, kind, question string) pubsub.Answers {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	answers, err := node.Ask(ctx, kind, []byte(question))
	if err != nil {
		t.Fatal(err)
	}
	return answers
}

func TestEveryNodeIsAskedAfterTheItemsBefore(t *testing.T) {
	everyCluster(t, func(t *testing.T, nodes []*natsbus.Bus) {
		var taken [3]atomic.Int64
		for i, node := range nodes {
			node.Answer("taken", func(_ context.Context, question []byte) []byte {
				return fmt.Appendf(nil, "%s: %d", question, taken[i].Load())
			})
			bustest.Subscribe(t, node, "room", count{&taken[i]})
		}
		eventually(t, "all hear the channel", func() bool {
			bustest.Publish(t, nodes[0], "room", "x")
			return taken[0].Load() > 0 && taken[1].Load() > 0 && taken[2].Load() > 0
		})
		ask(t, nodes[0], patience, "taken", "")
		for i := range taken {
			taken[i].Store(0)
		}
		for round := range 20 {
			for range 50 {
				bustest.Publish(t, nodes[round%3], "room", "x")
			}
			answers := ask(t, nodes[round%3], patience, "taken", "round")
			if len(answers.Nodes) != 3 || len(answers.Missing) != 0 {
				t.Fatalf("got %+v, want three answers", answers)
			}
			want := fmt.Sprintf("round: %d", (round+1)*50)
			ids := map[string]bool{}
			for _, answer := range answers.Nodes {
				ids[answer.Node] = true
				if string(answer.Data) != want {
					t.Fatalf("got %q, want %q", answer.Data, want)
				}
				data, err := nodes[0].AskNode(t.Context(), answer.Node, "taken", []byte("round"))
				if string(data) != want || err != nil {
					t.Fatalf("asked alone: got %q, %v; want %q", data, err, want)
				}
			}
			if len(ids) != 3 {
				t.Fatalf("the answers are of %v", ids)
			}
		}
	})
}

func TestANodeThatDoesNotAnswerIsNamed(t *testing.T) {
	everyCluster(t, func(t *testing.T, nodes []*natsbus.Bus) {
		stay := make(chan bool)
		defer close(stay)
		for i, node := range nodes {
			node.Answer("ping", func(context.Context, []byte) []byte {
				if i == 1 {
					<-stay
				}
				return []byte("pong")
			})
		}
		answers := ask(t, nodes[0], 2*time.Second, "ping", "")
		if len(answers.Nodes) != 2 || len(answers.Missing) != 1 {
			t.Fatalf("got %+v, want two answers and one missing", answers)
		}
		// One that says that it goes is not waited for.
		nodes[2].Close()
		eventually(t, "the node is forgotten", func() bool { return nodes[0].Stats().Nodes == 1 })
		if answers := ask(t, nodes[0], 2*time.Second, "ping", ""); len(answers.Nodes) != 1 || len(answers.Missing) != 1 {
			t.Errorf("got %+v, want one answer and one missing", answers)
		}
		// A kind that it does not know it says so at once.
		nodes[0].Answer("new", func(context.Context, []byte) []byte { return []byte("yes") })
		begin := time.Now()
		if answers := ask(t, nodes[0], patience, "new", ""); len(answers.Nodes) != 1 || len(answers.Missing) != 1 || time.Since(begin) > patience/2 {
			t.Errorf("got %+v after %v, want one answer and one missing at once", answers, time.Since(begin))
		}
	})
}

func TestADeadNodeIsWaitedForOnce(t *testing.T) {
	url := elsewhere(t, nil).ClientURL()
	a := open(t, natsbus.Options{URL: url, Name: "a"})
	a.Answer("ping", func(context.Context, []byte) []byte { return []byte("pong") })
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.SubscribeSync("gripway.ask"); err != nil { // or the server would say that nobody is there
		t.Fatal(err)
	}
	hello := func() {
		if err := conn.Publish("gripway.hello", []byte(`{"node":"ghost","name":"b"}`)); err != nil {
			t.Fatal(err)
		}
		conn.Flush()
	}
	hello()
	eventually(t, "b is known", func() bool { return a.Stats().Nodes == 1 })
	missing := func(wait time.Duration) (took time.Duration) {
		t.Helper()
		began := time.Now()
		if answers := ask(t, a, wait, "ping", ""); len(answers.Nodes) != 1 || !slices.Equal(answers.Missing, []string{"b"}) {
			t.Errorf("got %+v, want an answer, and b missing", answers)
		}
		return time.Since(began)
	}
	const wait = 1200 * time.Millisecond
	missing(10 * time.Millisecond) // which is too short to say that it is dead
	if took := missing(wait); took < wait {
		t.Errorf("b was not waited for: it took %v", took)
	}
	if took := missing(patience); took > patience/2 {
		t.Errorf("b was waited for again: it took %v", took)
	}
	// It is heard again, and then by its answer, which comes too late.
	hello()
	eventually(t, "b is waited for", func() bool { return missing(wait) >= wait })
	missing(wait)
	if err := conn.Publish("gripway.answer."+a.ID()+".1", []byte("ghost ok\npong")); err != nil {
		t.Fatal(err)
	}
	conn.Flush()
	eventually(t, "b is waited for once more", func() bool { return missing(wait) >= wait })
}

func TestWithoutAConnectionOnlyThisNodeAnswers(t *testing.T) {
	s := elsewhere(t, nil)
	a, b := open(t, natsbus.Options{URL: s.ClientURL(), Name: "a"}), open(t, natsbus.Options{URL: s.ClientURL(), Name: "b"})
	eventually(t, "they know each other", func() bool { return a.Stats().Nodes == 1 && b.Stats().Nodes == 1 })
	a.Answer("ping", func(context.Context, []byte) []byte { return []byte("pong") })
	s.Shutdown()
	eventually(t, "the connection is lost", func() bool { return !a.Stats().Connected })
	answers := ask(t, a, patience, "ping", "")
	if len(answers.Nodes) != 1 || !slices.Equal(answers.Missing, []string{"b"}) {
		t.Errorf("got %+v, want an answer, and b missing", answers)
	}
}

func TestOneNodeTakesARequest(t *testing.T) {
	everyCluster(t, func(t *testing.T, nodes []*natsbus.Bus) {
		var taken [3]atomic.Int64
		for i, node := range nodes {
			node.Serve("publish", []byte("busy"), func(_ context.Context, request []byte, _ bool) []byte {
				taken[i].Add(1)
				return append([]byte("took "), request...)
			})
		}
		conn, err := nodes[0].Connect(nats.RetryOnFailedConnect(false))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		// This connection may come to the server before what the node says that it serves.
		eventually(t, "a node serves", func() bool {
			_, err := conn.Request("gripway.publish", []byte("it"), patience)
			return err == nil
		})
		before := taken[0].Load() + taken[1].Load() + taken[2].Load()
		for range 30 {
			m, err := conn.Request("gripway.publish", []byte("it"), patience)
			if err != nil || string(m.Data) != "took it" {
				t.Fatalf("got %v, %v", m, err)
			}
		}
		if got := taken[0].Load() + taken[1].Load() + taken[2].Load() - before; got != 30 {
			t.Errorf("30 requests were taken %d times", got)
		}
	})
}

// Whoever speaks NATS can send anything to the subjects of nodes.
func TestWhatNodesDoNotSayIsPassedOver(t *testing.T) {
	node := open(t, listening)
	node.Answer("ping", func(context.Context, []byte) []byte { return []byte("pong") })
	conn, err := node.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, subject := range []string{"gripway.ask", "gripway.hello", "gripway.answer." + node.ID() + ".1", "gripway.answer." + node.ID() + ".x"} {
		for _, text := range []string{"", "\n", "ping\n", "ping x\nq", "ping -1\nq", "ping 99999999999999999999\nq", "{", "{}", `{"node":""}`, "a ok\n", "a\n", "ok"} {
			if err := conn.PublishRequest(subject, "nowhere", []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 3000 {
		conn.Publish("gripway.hello", fmt.Appendf(nil, `{"node":"n%d","name":"a"}`, i))
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a bounded number of nodes is known", func() bool { return node.Stats().Nodes == 1000 })
	answers := ask(t, node, 2*time.Second, "ping", "")
	if len(answers.Nodes) != 1 || len(answers.Missing) != 1000 {
		t.Errorf("got %d answers and %d missing, want 1 and 1000", len(answers.Nodes), len(answers.Missing))
	}
	if _, err := node.AskNode(t.Context(), node.ID(), "pong", nil); !errors.Is(err, pubsub.ErrNoAnswer) {
		t.Errorf("got %v, want %v", err, pubsub.ErrNoAnswer)
	}
}

// If it said hello to each that it has no room for, two crowds of nodes would greet
// each other without end.
func TestANodeDoesNotGreetThoseItHasNoRoomFor(t *testing.T) {
	node := open(t, listening)
	node.Answer("ping", func(context.Context, []byte) []byte { return []byte("pong") })
	conn, err := node.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i := range 1000 {
		conn.Publish("gripway.hello", fmt.Appendf(nil, `{"node":"n%d","name":"a"}`, i))
	}
	eventually(t, "no room is left", func() bool { return node.Stats().Nodes == 1000 })
	var greeted atomic.Int64
	if _, err := conn.Subscribe("gripway.hello", func(m *nats.Msg) {
		if strings.Contains(string(m.Data), node.ID()) {
			greeted.Add(1)
		}
	}); err != nil {
		t.Fatal(err)
	}
	for i := range 5000 {
		conn.Publish("gripway.hello", fmt.Appendf(nil, `{"node":"m%d","name":"a"}`, i))
	}
	for range 2 { // behind all that, and then behind what came of it
		if _, err := conn.Request("gripway.ask", fmt.Appendf(nil, "ping %d\n", patience.Milliseconds()), patience); err != nil {
			t.Fatal(err)
		}
	}
	if n := greeted.Load(); n > 2500 { // some are from before, and some are said every now and then
		t.Errorf("it said hello %d times", n)
	}
}

func TestAnAnswerCountsOnceAndOfThoseWhoAreAsked(t *testing.T) {
	node := open(t, listening)
	hold := make(chan struct{})
	node.Answer("ping", func(context.Context, []byte) []byte { <-hold; return []byte("pong") })
	conn, err := node.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Publish("gripway.hello", []byte(`{"node":"other","name":"other"}`))
	eventually(t, "the other is known", func() bool { return node.Stats().Nodes == 1 })
	if _, err := conn.Subscribe("gripway.ask", func(m *nats.Msg) {
		for range 10 {
			conn.Publish(m.Reply, []byte("other ok\nlie"))
		}
		for i := range 3000 {
			conn.Publish(m.Reply, fmt.Appendf(nil, "n%d ok\nlie", i))
		}
		conn.FlushTimeout(patience)
		close(hold)
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Subscribe("gripway.ask.other", func(m *nats.Msg) {
		conn.Publish(m.Reply, []byte("another ok\nlie"))
		conn.Publish(m.Reply, []byte("other ok\ntruth"))
	}); err != nil {
		t.Fatal(err)
	}
	conn.FlushTimeout(patience)
	answers := ask(t, node, patience, "ping", "")
	said := map[string]int{}
	for _, answer := range answers.Nodes {
		said[answer.Node]++
	}
	if said["other"] != 1 || said[node.ID()] != 1 || len(answers.Nodes) > 1010 || len(answers.Missing) != 0 {
		t.Errorf("got %d answers, of which the other's %d and its own %d", len(answers.Nodes), said["other"], said[node.ID()])
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if got, err := node.AskNode(ctx, "other", "ping", nil); err != nil || string(got) != "truth" {
		t.Errorf("one node: got %q, %v", got, err)
	}
}

type count struct{ n *atomic.Int64 }

func (c count) Receive([]byte, bool) { c.n.Add(1) }
func (c count) Lost(int)             {}
