// Package cluster does what concerns all nodes, from whichever of them it is asked
// of: it gives items to those they are for, tells what became of them, and finds
// clients wherever they are held.
//
//	all := cluster.New(bus)
//	all.Serve(gateway)                                   // this node does its part
//	err := all.Publish(ctx, item)                        // to each of the item's channels
//	report, err := all.PublishAndCount(ctx, items)       // and what became of it
//	closed, err := all.Close(ctx, cluster.Who{User: "ann"}, 4000, "bye")
//
// It asks by the bus (pubsub.Asker) and keeps nothing itself. What is asked is JSON,
// in which a node passes over what it does not know, so that nodes of neighbouring
// versions can be one cluster.
//
// # One of all
//
// An item with "deliver":"one" is for one receiver. The node that it is published on
// asks all nodes how many they have, chooses one of them by that weight, in turn, and
// gives it the item; that node gives it to one of its own, in turn. Who is leaving, or
// who does not want it, is passed over, and so are at first those for whom bytes wait
// already. If a node does not say what became of it, nobody else is tried: the promise
// is at most once, and the report says that it is not known.
package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"hash/maphash"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
)

const (
	// oneWait bounds how long an item that is for one receiver is on its way, if the
	// publisher does not say.
	oneWait = 5 * time.Second

	// turnsCount is how many counters channels share that say whose turn it is among
	// the nodes.
	turnsCount = 256
)

// ErrReceipt: a publisher gave an item a receipt, which only nodes do.
var ErrReceipt = errors.New("'gripway-receipt' is for gateways only")

// Who names held clients, by one of these.
type Who struct {
	Connection string `json:"connection,omitempty"` // a WebSocket's Connection-Id, or the id of a held response
	User       string `json:"user,omitempty"`       // whose clients: the meta "user" that the origin gave them
	Channel    string `json:"channel,omitempty"`    // who follows it
}

// Ended counts clients that were ended, by kind.
type Ended struct {
	WebSockets int `json:"websockets"`
	Streams    int `json:"streams"`
	Responses  int `json:"responses"`
}

// Add adds other's counts.
func (e *Ended) Add(other Ended) {
	e.WebSockets += other.WebSockets
	e.Streams += other.Streams
	e.Responses += other.Responses
}

// Node is what a node does for all: a gateway.
type Node interface {
	Became(ctx context.Context, asked hub.Receipt) hub.Counts
	Candidates(channel string, formats hub.Formats, id string) (n int, seen bool)
	DeliverOne(ctx context.Context, channel string, item *grip.Item, behind bool) (taken bool)
	End(who Who, code int, reason string) Ended
	Refresh(who Who) int
	Alive(ids []string) []string
}

// Cluster is all nodes, as one of them sees them. It may be used concurrently.
type Cluster struct {
	// Fixed after New.
	bus   pubsub.Bus
	asker pubsub.Asker // nil: the bus cannot ask
	seed  maphash.Seed

	turns [turnsCount]atomic.Uint32
}

// New returns the cluster of a bus's nodes. The bus stays the caller's.
func New(bus pubsub.Bus) *Cluster {
	c := &Cluster{bus: bus, seed: maphash.MakeSeed()}
	c.asker, _ = bus.(pubsub.Asker)
	return c
}

// ErrCannotAsk: the bus has no way to ask nodes.
var ErrCannotAsk = errors.New("the bus cannot ask nodes")

// Kinds of questions.
const (
	kindBecame     = "became"
	kindCandidates = "candidates"
	kindOne        = "one"
	kindEnd        = "end"
	kindRefresh    = "refresh"
	kindAlive      = "alive"
)

// Serve has node answer for this one. It is called once, before others ask.
func (c *Cluster) Serve(node Node) {
	if c.asker == nil {
		return
	}
	answer(c, kindBecame, func(ctx context.Context, q becameQuestion) becameAnswer {
		counts := make([]hub.Counts, len(q.Items))
		for i, asked := range q.Items {
			counts[i] = node.Became(ctx, asked)
		}
		return becameAnswer{counts}
	})
	answer(c, kindCandidates, func(_ context.Context, q candidatesQuestion) (a candidatesAnswer) {
		a.Candidates, a.Seen = node.Candidates(q.Channel, q.Formats, q.ID)
		return a
	})
	answer(c, kindOne, func(ctx context.Context, q oneQuestion) (a oneAnswer) {
		item, err := grip.ParseItem(q.Item)
		if err != nil {
			return a // it was checked where it was published
		}
		a.Taken = node.DeliverOne(ctx, q.Channel, item, q.Behind)
		return a
	})
	answer(c, kindEnd, func(_ context.Context, q endQuestion) Ended { return node.End(q.Who, q.Code, q.Reason) })
	answer(c, kindRefresh, func(_ context.Context, q Who) refreshAnswer { return refreshAnswer{node.Refresh(q)} })
	answer(c, kindAlive, func(_ context.Context, q aliveText) aliveText { return aliveText{node.Alive(q.IDs)} })
}

// answer has fn answer a kind of question. What cannot be read has no answer.
func answer[Q, A any](c *Cluster, kind string, fn func(context.Context, Q) A) {
	c.asker.Answer(kind, func(ctx context.Context, question []byte) []byte {
		var q Q
		if json.Unmarshal(question, &q) != nil {
			return nil
		}
		text, err := json.Marshal(fn(ctx, q))
		if err != nil {
			return nil
		}
		return text
	})
}

// Nodes says who was asked.
type Nodes struct {
	Nodes    int      `json:"nodes"`             // that are known
	Answered int      `json:"answered"`          // in time
	Missing  []string `json:"missing,omitempty"` // names of the others
}

// said is a node's answer.
type said[A any] struct {
	node string
	what A
}

// ask asks all nodes.
func ask[A any](ctx context.Context, c *Cluster, kind string, question any) (answers []said[A], nodes Nodes, err error) {
	if c.asker == nil {
		return nil, nodes, ErrCannotAsk
	}
	text, err := json.Marshal(question)
	if err != nil {
		return nil, nodes, err
	}
	got, err := c.asker.Ask(ctx, kind, text)
	if err != nil {
		return nil, nodes, err
	}
	nodes.Missing = got.Missing
	for _, one := range got.Nodes {
		a := said[A]{node: one.Node}
		if json.Unmarshal(one.Data, &a.what) != nil {
			nodes.Missing = append(nodes.Missing, one.Node)
			continue
		}
		answers = append(answers, a)
	}
	nodes.Answered = len(answers)
	nodes.Nodes = nodes.Answered + len(nodes.Missing)
	return answers, nodes, nil
}

type endQuestion struct {
	Who
	Code   int    `json:"code"`
	Reason string `json:"reason"`
}

// Closed is what Close did.
type Closed struct {
	Closed int `json:"closed"`
	Ended
	Nodes
}

// Close ends those who are meant, on all nodes, and waits until ctx ends for nodes
// to say so; see hub.Client for how they end.
func (c *Cluster) Close(ctx context.Context, who Who, code int, reason string) (closed Closed, err error) {
	answers, nodes, err := ask[Ended](ctx, c, kindEnd, endQuestion{who, code, reason})
	if err != nil {
		return closed, err
	}
	closed.Nodes = nodes
	for _, a := range answers {
		closed.Ended.Add(a.what)
	}
	closed.Closed = closed.WebSockets + closed.Streams + closed.Responses
	return closed, nil
}

type refreshAnswer struct {
	Refreshed int `json:"refreshed"`
}

// Refreshed is what Refresh did.
type Refreshed struct {
	Refreshed int `json:"refreshed"`
	Nodes
}

// Refresh has the origins of the WebSockets over HTTP that are meant asked, on all
// nodes.
func (c *Cluster) Refresh(ctx context.Context, who Who) (refreshed Refreshed, err error) {
	answers, nodes, err := ask[refreshAnswer](ctx, c, kindRefresh, who)
	if err != nil {
		return refreshed, err
	}
	refreshed.Nodes = nodes
	for _, a := range answers {
		refreshed.Refreshed += a.what.Refreshed
	}
	return refreshed, nil
}

type aliveText struct {
	IDs []string `json:"ids"`
}

// Alive returns those of the ids that are held by any node, in the order of ids.
func (c *Cluster) Alive(ctx context.Context, ids []string) (alive []string, nodes Nodes, err error) {
	answers, nodes, err := ask[aliveText](ctx, c, kindAlive, aliveText{ids})
	if err != nil {
		return nil, nodes, err
	}
	held := make(map[string]bool)
	for _, a := range answers {
		for _, id := range a.what.IDs {
			held[id] = true
		}
	}
	alive = []string{}
	for _, id := range ids {
		if held[id] {
			alive = append(alive, id)
		}
	}
	return alive, nodes, nil
}

// receiptName names the index-th of what is published with a receipt.
func receiptName(base string, index int) string { return base + "-" + strconv.Itoa(index) }
