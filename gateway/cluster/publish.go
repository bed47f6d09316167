package cluster

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
)

// Report is what became of items.
type Report struct {
	Accepted   int `json:"accepted"`   // items that the bus accepted
	Duplicates int `json:"duplicates"` // items that somebody would have had and that were dropped as doubles
	hub.Counts     // of all items
	Nodes
	Items []ItemReport `json:"items"`
}

// ItemReport is what became of one item, in all its channels.
type ItemReport struct {
	ID       string   `json:"id,omitempty"`
	Channels []string `json:"channels"`
	hub.Counts

	// Unknown says that a node was given the item for one receiver and did not say
	// in time whether somebody took it.
	Unknown bool `json:"unknown,omitempty"`
}

// PublishError says which item a bus did not take, and how many it had taken before.
type PublishError struct {
	Channel  string
	Accepted int // items all of whose channels were accepted
	Err      error
}

func (e *PublishError) Error() string { return fmt.Sprintf("channel %q: %v", e.Channel, e.Err) }

// Unwrap returns the bus's error.
func (e *PublishError) Unwrap() error { return e.Err }

// Publish gives an item to each of its channels. The errors are those of
// pubsub.Bus, and ErrReceipt; with several channels it is a *PublishError, and those
// before the one that it names have the item.
func (c *Cluster) Publish(ctx context.Context, item *grip.Item) error {
	if len(item.Channels) == 0 && !item.One && item.Receipt == "" {
		return c.bus.Publish(ctx, item.Channel, item.Raw()) // nearly all are such
	}
	if item.Receipt != "" {
		return ErrReceipt
	}
	if item.One {
		ctx, cancel := context.WithTimeout(ctx, oneWait)
		defer cancel()
		_, _, err := c.publishOne(ctx, item)
		return err
	}
	for _, name := range item.Names() {
		if err := c.bus.Publish(ctx, name, item.Raw()); err != nil {
			return &PublishError{Channel: name, Err: err}
		}
	}
	return nil
}

type becameQuestion struct {
	Items []hub.Receipt `json:"items"`
}

type becameAnswer struct {
	Items []hub.Counts `json:"items"`
}

// PublishAndCount publishes items and returns what became of them at all nodes that
// say so before asked ends. An error is a *PublishError: items before it were
// published, and nobody was asked about them.
func (c *Cluster) PublishAndCount(ctx, asked context.Context, items []*grip.Item) (*Report, error) {
	return c.PublishThenCount(ctx, asked, items, func() {})
}

// PublishThenCount is PublishAndCount; accepted is called when the bus has all items, and
// only the counting is left.
func (c *Cluster) PublishThenCount(ctx, asked context.Context, items []*grip.Item, accepted func()) (*Report, error) {
	report := &Report{Items: make([]ItemReport, len(items))}
	if c.asker == nil && len(items) > 0 {
		return nil, &PublishError{Channel: items[0].Channel, Err: ErrCannotAsk}
	}
	var question becameQuestion
	var of []int // items of question
	base := rand.Text()
	for i, item := range items {
		r := &report.Items[i]
		r.ID, r.Channels = item.ID, item.Names()
		refused := func(channel string, err error) (*Report, error) {
			return nil, &PublishError{Channel: channel, Accepted: i, Err: err}
		}
		if item.Receipt != "" {
			return refused(r.Channels[0], ErrReceipt)
		}
		if item.One {
			one, nodes, err := c.publishOne(asked, item)
			if err != nil {
				return refused(r.Channels[0], err)
			}
			r.Counts, r.Unknown = one.Counts, one.Unknown
			report.Nodes = worse(report.Nodes, nodes)
			continue
		}
		for _, name := range r.Channels {
			receipt := receiptName(base, len(of))
			if err := c.bus.Publish(ctx, name, grip.AppendReceipt(nil, item.Raw(), receipt)); err != nil {
				return refused(name, err)
			}
			question.Items = append(question.Items, hub.Receipt{Name: receipt, Channel: name, Formats: hub.FormatsOf(item)})
			of = append(of, i)
		}
	}
	accepted()
	for _, part := range c.askParts(asked, question.Items) {
		report.Nodes = worse(report.Nodes, part.nodes)
		for _, a := range part.answers {
			for j := range min(len(a.what.Items), part.size) {
				report.Items[of[part.first+j]].Counts.Add(a.what.Items[j])
			}
		}
	}
	report.Accepted = len(items)
	for i := range report.Items {
		report.Counts.Add(report.Items[i].Counts)
		if report.Items[i].Dropped.Duplicate > 0 {
			report.Duplicates++
		}
	}
	return report, nil
}

// part is some of what nodes are asked about, and what they said. If none could be
// asked it has no answers.
type part struct {
	first, size int
	answers     []said[becameAnswer]
	nodes       Nodes
}

// questionBytes is about how long a question may be: less than a NATS server takes
// that was not told otherwise.
const questionBytes = 400_000

// askParts asks what became of items, in as many questions as it takes.
func (c *Cluster) askParts(ctx context.Context, items []hub.Receipt) []*part {
	var parts []*part
	bytes := 0
	for i, item := range items {
		text, _ := json.Marshal(item)
		if bytes += len(text); len(parts) == 0 || bytes > questionBytes {
			parts = append(parts, &part{first: i})
			bytes = len(text)
		}
		parts[len(parts)-1].size++
	}
	var asking sync.WaitGroup
	for _, p := range parts {
		asking.Go(func() {
			question := becameQuestion{items[p.first : p.first+p.size]}
			answers, nodes, err := ask[becameAnswer](ctx, c, kindBecame, question)
			if err == nil {
				p.answers, p.nodes = answers, nodes
			}
		})
	}
	asking.Wait()
	return parts
}

// worse returns those of two askings in which more did not answer.
func worse(a, b Nodes) Nodes {
	if len(a.Missing) > len(b.Missing) || b.Nodes == 0 {
		return a
	}
	return b
}

type candidatesQuestion struct {
	Channel string      `json:"channel"`
	Formats hub.Formats `json:"formats"`
	ID      string      `json:"id,omitempty"`
}

type candidatesAnswer struct {
	Candidates int  `json:"candidates"`
	Seen       bool `json:"seen,omitempty"`
}

type oneQuestion struct {
	Channel string          `json:"channel"`
	Behind  bool            `json:"behind"`
	Item    json.RawMessage `json:"item"`
}

type oneAnswer struct {
	Taken bool `json:"taken"`
}

// publishOne gives an item to one of those who follow its channels. With several
// channels, the first that has somebody to take it has it.
func (c *Cluster) publishOne(ctx context.Context, item *grip.Item) (report ItemReport, nodes Nodes, err error) {
	formats := hub.FormatsOf(item)
	for _, name := range item.Names() {
		if err := pubsub.CheckChannel(ctx, name); err != nil {
			return report, nodes, err
		}
		answers, asked, err := c.askCandidates(ctx, candidatesQuestion{name, formats, item.ID})
		if err != nil {
			return report, nodes, err
		}
		nodes = worse(nodes, asked)
		total, seen := 0, false
		for i := range answers {
			what := &answers[i].what
			what.Candidates = min(max(what.Candidates, 0), candidatesMax)
			total += what.Candidates
			seen = seen || what.Seen
		}
		report.Receivers += total
		if seen {
			report.Dropped.Duplicate += total
			return report, nodes, nil
		}
		taken, unknown, err := c.offer(ctx, name, item, c.inTurn(name, answers, total), total > 1)
		if err != nil {
			return report, nodes, err
		}
		if taken {
			report.Delivered = 1
		}
		if report.Unknown = unknown; taken || unknown {
			return report, nodes, nil
		}
	}
	return report, nodes, nil
}

// candidatesMax is how many candidates of a node count. It holds no more clients;
// whoever speaks NATS could say so, and sums of such numbers would not be sums.
const candidatesMax = 1_000_000

// askCandidates asks the nodes how many they have. It takes half of the time at most: a
// node that has died and is not missed yet does not answer, and the others still have to
// be offered the item.
func (c *Cluster) askCandidates(ctx context.Context, question candidatesQuestion) ([]said[candidatesAnswer], Nodes, error) {
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, end.Add(-time.Until(end)/2))
		defer cancel()
	}
	return ask[candidatesAnswer](ctx, c, kindCandidates, question)
}

// inTurn returns the nodes that have candidates, whose turn it is first.
func (c *Cluster) inTurn(channel string, answers []said[candidatesAnswer], total int) (ids []string) {
	if total == 0 {
		return nil
	}
	// They answer in any order, and have their turns in one.
	slices.SortFunc(answers, func(a, b said[candidatesAnswer]) int { return strings.Compare(a.node, b.node) })
	turn := &c.turns[maphash.String(c.seed, channel)%turnsCount]
	if turn.Load() == 0 { // nodes must not all begin with the same
		turn.CompareAndSwap(0, mathrand.Uint32())
	}
	at := int(turn.Add(1) % uint32(total))
	first := 0
	for at >= answers[first].what.Candidates {
		at -= answers[first].what.Candidates
		first++
	}
	for i := range answers {
		if a := answers[(first+i)%len(answers)]; a.what.Candidates > 0 {
			ids = append(ids, a.node)
		}
	}
	return ids
}

// behindWait is how long an item waits if nobody takes it who is not behind: who was just
// being written to, for whom bytes wait for a moment, is not to be passed over for
// somebody who does not read at all.
const behindWait = 10 * time.Millisecond

// offer offers an item to nodes until one has somebody who takes it. Several is whether
// there is a choice.
func (c *Cluster) offer(ctx context.Context, channel string, item *grip.Item, ids []string, several bool) (taken, unknown bool, err error) {
	rounds := []bool{false, false, true} // whether those who are behind may have it
	if !several {
		rounds = rounds[1:]
	}
	for i, behind := range rounds {
		if i > 0 && !behind && !sleep(ctx, behindWait) {
			return false, false, nil
		}
		question, err := json.Marshal(oneQuestion{channel, behind, item.Raw()})
		if err != nil {
			return false, false, err
		}
		for _, id := range ids {
			data, err := c.asker.AskNode(ctx, id, kindOne, question)
			switch {
			case err != nil && ctx.Err() != nil:
				return false, true, nil // somebody may have it
			case errors.Is(err, pubsub.ErrNoAnswer):
				continue // and nobody there will have it
			case err != nil:
				return false, false, err
			}
			var a oneAnswer
			if json.Unmarshal(data, &a) != nil {
				return false, true, nil
			}
			if a.Taken {
				return true, false, nil
			}
		}
	}
	return false, false, nil
}

// sleep returns false if ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
