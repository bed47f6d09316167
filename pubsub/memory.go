package pubsub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/gripway/gripway/pubsub/internal/lanes"
)

// Memory is a Bus of one node, inside this process: for a gateway that stands
// alone, and for tests. Its zero value is ready to use; it starts its goroutines
// with the first call and needs Close to end them. It must not be copied.
type Memory struct {
	// Lanes is in how many parts, each in its own goroutine, items are taken to
	// receivers. Zero means one for each processor Go may use, from 2 to 16.
	// Not to be changed after the first call.
	Lanes int

	// LaneBytes is how many bytes may wait in one lane, each item counted with 64
	// bytes more; beyond that Publish returns [ErrBusy]. Zero means 32 MiB.
	// Not to be changed after the first call.
	LaneBytes int

	start sync.Once
	lanes *lanes.Set

	// Guarded by mu.
	mu      sync.Mutex
	answers map[string]func(ctx context.Context, question []byte) []byte
	asked   sync.WaitGroup
}

var (
	_ Bus   = (*Memory)(nil)
	_ Asker = (*Memory)(nil)
)

// NewMemory is new(Memory).
func NewMemory() *Memory { return new(Memory) }

func (m *Memory) set() *lanes.Set {
	m.start.Do(func() { m.lanes = lanes.New(m.Lanes, m.LaneBytes) })
	return m.lanes
}

// Publish is Bus.Publish; it never returns ErrDisconnected.
func (m *Memory) Publish(ctx context.Context, channel string, data []byte) error {
	if err := CheckChannel(ctx, channel); err != nil {
		return err
	}
	if err := CheckItem(channel, len(data), ItemBytesMax); err != nil {
		return err
	}
	set := m.set()
	if set.Closed() {
		return ErrClosed
	}
	lane := set.Lane(channel)
	heard, full := lane.Admit(channel, len(data))
	if full {
		return fmt.Errorf("channel %q: %w", channel, ErrBusy)
	}
	patterns := set.Matching(channel, PartsMax)
	if len(patterns) > 0 && lane.Full(len(data)) {
		return fmt.Errorf("channel %q: %w", channel, ErrBusy)
	}
	if heard == nil && len(patterns) == 0 {
		return nil
	}
	data = bytes.Clone(data)
	if heard != nil {
		lane.Put(heard, data)
	}
	for _, p := range patterns {
		lane.PutMatched(p, strings.Clone(channel), data)
	}
	return nil
}

// Subscribe is Bus.Subscribe; it never waits.
func (m *Memory) Subscribe(ctx context.Context, channel string, r Receiver) (Subscription, error) {
	if err := CheckChannel(ctx, channel); err != nil {
		return nil, err
	}
	// A name is often a piece of a whole request, which would be kept with it.
	added := m.set().Add(strings.Clone(channel), r)
	if added == nil {
		return nil, ErrClosed
	}
	return (*memorySubscription)(added), nil
}

// memoryNode is the id of the one node.
const memoryNode = "memory"

// Answer is Asker.Answer.
func (m *Memory) Answer(kind string, fn func(ctx context.Context, question []byte) []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.answers == nil {
		m.answers = make(map[string]func(context.Context, []byte) []byte)
	}
	m.answers[kind] = fn
}

// Ask is Asker.Ask.
func (m *Memory) Ask(ctx context.Context, kind string, question []byte) (Answers, error) {
	data, err := m.AskNode(ctx, memoryNode, kind, question)
	switch {
	case errors.Is(err, ErrNoAnswer):
		return Answers{Missing: []string{memoryNode}}, nil
	case err != nil:
		return Answers{}, err
	}
	return Answers{Nodes: []NodeAnswer{{memoryNode, data}}}, nil
}

// AskNode is Asker.AskNode.
func (m *Memory) AskNode(ctx context.Context, node, kind string, question []byte) ([]byte, error) {
	if err := CheckItem(kind, len(question), ItemBytesMax); err != nil {
		return nil, err
	}
	set := m.set()
	m.mu.Lock()
	fn := m.answers[kind]
	if set.Closed() {
		m.mu.Unlock()
		return nil, ErrClosed
	}
	if fn == nil || node != memoryNode {
		m.mu.Unlock()
		return nil, fmt.Errorf("node %q: %w", node, ErrNoAnswer)
	}
	m.asked.Add(1)
	m.mu.Unlock()
	defer m.asked.Done()
	ready, answer := make(chan bool), make(chan []byte, 1)
	set.After(func() { close(ready) })
	select {
	case <-ready:
	case <-ctx.Done():
		return nil, fmt.Errorf("node %q: %w", node, ErrNoAnswer)
	}
	m.asked.Go(func() {
		ctx, cancel := answering(ctx)
		defer cancel()
		answer <- fn(ctx, bytes.Clone(question))
	})
	select {
	case data := <-answer:
		if data != nil {
			return data, nil
		}
	case <-ctx.Done():
	}
	return nil, fmt.Errorf("node %q: %w", node, ErrNoAnswer)
}

// Close is Bus.Close.
func (m *Memory) Close() error {
	m.mu.Lock()
	set := m.set()
	m.mu.Unlock()
	set.Close()
	return nil
}

// SubscribePattern is Bus.SubscribePattern.
func (m *Memory) SubscribePattern(ctx context.Context, pattern string, r PatternReceiver) (Subscription, error) {
	if err := CheckPattern(ctx, pattern); err != nil {
		return nil, err
	}
	added := m.set().AddPattern(strings.Clone(pattern), memoryPattern{r})
	if added == nil {
		return nil, ErrClosed
	}
	return memoryPatternSubscription{added}, nil
}

// memoryPattern is a PatternReceiver whose keys are the channels.
type memoryPattern struct{ PatternReceiver }

func (p memoryPattern) ReceiveKey(key string, data []byte) { p.ReceiveFrom(key, data) }

type memoryPatternSubscription struct{ added *lanes.Pattern }

func (s memoryPatternSubscription) Unsubscribe() error {
	s.added.End()
	return nil
}

type memorySubscription lanes.Subscription

func (s *memorySubscription) Unsubscribe() error {
	added := (*lanes.Subscription)(s)
	if ended := added.End(); !ended {
		added.Channel().Forget()
	}
	return nil
}
