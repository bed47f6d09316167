package pubsub

import (
	"context"
	"errors"
	"time"
)

// ErrNoAnswer: a node did not answer a question, because it is gone, busy, does not
// know the kind of question, or was not given the time.
var ErrNoAnswer = errors.New("node did not answer")

// Asker is a Bus that can ask its nodes questions, which are no items: what became
// of an item, who is there, or to do something. A question and its answer are bytes
// that the bus does not look into, each as long as an item may be.
type Asker interface {
	// Answer has fn answer a kind of question on this node, until Close. It is
	// called once for a kind, before anybody asks. Calls of fn come at once, each in a
	// goroutine of its own, a bounded number of them; ctx ends shortly before nobody waits
	// for the answer any more (see [AnswerMargin]). A nil answer means that there is none.
	Answer(kind string, fn func(ctx context.Context, question []byte) []byte)

	// Ask asks every node, this one included, and returns when all that are known have
	// answered, or when ctx ends, with what there is then. What was published here
	// before, each node's receivers have taken before it is asked, so that a question can
	// be about it. A node that joined within the last second may not be known yet.
	// Errors: ErrClosed, ErrItemTooLong; a node that does not answer is none.
	Ask(ctx context.Context, kind string, question []byte) (Answers, error)

	// AskNode asks one node, by the id that its answers have. Errors: those of
	// Ask, and ErrNoAnswer.
	AskNode(ctx context.Context, node, kind string, question []byte) ([]byte, error)
}

// AnswerMargin is how much earlier than its asker a node that was given so much time
// stops: its answer has a way to go, maybe through busy machines.
func AnswerMargin(wait time.Duration) time.Duration { return min(wait/5, 500*time.Millisecond) }

// answering is ctx as who answers has it.
func answering(ctx context.Context) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, end.Add(-AnswerMargin(time.Until(end))))
}

// Answers are what the nodes said.
type Answers struct {
	Nodes   []NodeAnswer // this node's is among them
	Missing []string     // names of nodes that are known and did not answer
}

// NodeAnswer is what one node said.
type NodeAnswer struct {
	Node string // its id: new with every start
	Data []byte
}
