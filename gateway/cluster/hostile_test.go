package cluster_test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/cluster"
	"github.com/gripway/gripway/pubsub"
)

// answers is a bus whose other nodes say what the test says.
type answers struct {
	pubsub.Bus
	candidates []string      // what they have, as they write it
	silent     bool          // one more says nothing
	offered    chan struct{} // takes a token for each item that is offered; each is taken
}

func (a *answers) Answer(string, func(context.Context, []byte) []byte) {}

func (a *answers) Ask(ctx context.Context, _ string, _ []byte) (got pubsub.Answers, err error) {
	for i, text := range a.candidates {
		got.Nodes = append(got.Nodes, pubsub.NodeAnswer{Node: string(rune('a' + i)), Data: []byte(`{"candidates":` + text + `}`)})
	}
	if a.silent {
		<-ctx.Done()
		got.Missing = []string{"dead"}
	}
	return got, nil
}

func (a *answers) AskNode(ctx context.Context, _, _ string, _ []byte) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, pubsub.ErrNoAnswer
	}
	a.offered <- struct{}{}
	return []byte(`{"taken":true}`), nil
}

// Whoever speaks NATS can answer for a node.
func TestCandidatesThatCannotBeAreNone(t *testing.T) {
	most := "9223372036854775807"
	if math.MaxInt == math.MaxInt32 {
		most = "2147483647"
	}
	for _, candidates := range [][]string{{"-5", "3"}, {"3", "-5"}, {"-1"}, {most, most, "1"}, {most, "5"}} {
		bus := &answers{candidates: candidates, offered: make(chan struct{}, 1)}
		all := cluster.New(bus)
		for range 20 {
			report, err := all.PublishAndCount(t.Context(), within(t, patience), items(t, one))
			if err != nil || report.Receivers < 0 || report.Delivered != len(bus.offered) {
				t.Errorf("candidates %v: got %+v, %v", candidates, report, err)
			}
			for len(bus.offered) > 0 {
				<-bus.offered
			}
		}
	}
}

// A node that died a moment ago is still known, and does not answer.
func TestOneOfAllReachesOthersWhenANodeIsSilent(t *testing.T) {
	bus := &answers{candidates: []string{"1"}, silent: true, offered: make(chan struct{}, 1)}
	report, err := cluster.New(bus).PublishAndCount(t.Context(), within(t, 2*time.Second), items(t, one))
	if err != nil || report.Delivered != 1 || report.Items[0].Unknown || len(report.Missing) != 1 {
		t.Fatalf("got %+v, %v; want it delivered although a node is missing", report, err)
	}
}
