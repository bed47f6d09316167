package natsbus

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/gripway/gripway/pubsub"
)

// Nodes speak to each other, besides items, on
//
//	gripway.ask              a question to all     kind SP milliseconds LF question
//	gripway.ask.NODE         a question to one
//	gripway.answer.NODE.N    an answer             node SP "ok" LF answer, or node SP "no" LF
//	gripway.hello            who is there          {"node":"…","name":"…","gone":false}
//	gripway.NAME             a request of a program that speaks NATS, which one node takes
//
// A node says hello when it comes, every helloEvery, and to one it did not know; it
// says that it is gone when it is closed. Who is not heard for helloMax is forgotten,
// and for one that has not answered nobody waits until it is heard again, whatever it says.
// Questions come over the connection that the items come over, and behind them, so
// that a node that is asked about an item has had it.

const (
	askPart, answerPart, helloPart = ".ask", ".answer.", ".hello"

	// helloMax is how long a node that says nothing counts as there.
	helloMax = 16 * time.Second

	// vainAfter is how long a node has to have been waited for in vain, to be waited for
	// no more.
	vainAfter = time.Second

	// nameMax bounds what a node is called, in bytes: a longer name is cut. Others do not
	// believe a hello whose names are longer than namesMax together.
	nameMax, namesMax = 200, 300

	// nodesMax bounds the nodes that are known: whoever speaks NATS can say hello.
	nodesMax = 1000

	// askedMax bounds the questions that are worked on at once; further ones are
	// refused, which their askers see at once.
	askedMax = 1024

	// servedMax bounds the requests that Serve works on at once.
	servedMax = 128
)

// helloEvery is how often a node says that it is there. Tests cannot wait so long.
var helloEvery = 5 * time.Second

var _ pubsub.Asker = (*Bus)(nil)

// talk is what a node says and hears besides items.
type talk struct {
	// Fixed after newTalk.
	bus    *Bus
	prefix string
	id     string
	name   string // for people
	alone  bool   // nobody else can be there
	ctx    context.Context
	cancel context.CancelFunc
	places chan struct{} // has a token for each question that is worked on; never closed
	serves chan struct{} // the same of Serve

	// Guarded by mu.
	mu       sync.Mutex
	working  sync.WaitGroup // Add only under mu and before closed
	closed   bool
	handlers map[string]handler // by kind
	servers  map[string]serving // by subject
	asks     map[uint64]*asking
	last     uint64
	nodes    map[string]*node // without this one
}

type handler func(ctx context.Context, question []byte) []byte

type serving struct {
	fn   func(ctx context.Context, request []byte, wanted bool) (answer []byte)
	busy []byte
}

// node is another node.
type node struct {
	name   string
	heard  time.Time
	failed time.Time // when it last was waited for in vain
}

// counts says whether a question waits for the node.
func (n *node) counts(now time.Time) bool {
	return now.Sub(n.heard) <= helloMax && !n.failed.After(n.heard)
}

// asking is a question that is out.
type asking struct {
	node    string          // who is asked; "" is all
	dead    []string        // ids of those who count as missing unless they answer
	need    map[string]bool // ids of those who have not answered
	said    map[string]bool // ids of those who have; some of them were not known yet
	answers []pubsub.NodeAnswer
	silent  []string      // ids of those who answered that they do not
	done    chan struct{} // closed when need is empty
}

func newTalk(b *Bus, o Options) *talk {
	t := &talk{
		bus: b, prefix: prefixOr(o.SubjectPrefix), id: strings.ToLower(rand.Text()[:12]), name: o.Name,
		alone:  o.URL == "" && o.Embedded.unreachable(),
		places: make(chan struct{}, askedMax), serves: make(chan struct{}, servedMax),
		handlers: make(map[string]handler), servers: make(map[string]serving),
		asks: make(map[uint64]*asking), nodes: make(map[string]*node),
	}
	if t.name == "" {
		host, _ := os.Hostname()
		t.name = fmt.Sprintf("%s/%s", host, t.id)
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// begin makes itself heard; the link is there.
func (t *talk) begin() {
	if t.alone {
		return
	}
	t.hello(false)
	t.working.Go(func() {
		tick := time.NewTicker(helloEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				t.hello(false)
			case <-t.ctx.Done():
				return
			}
		}
	})
}

// subscribe has the connection hear what nodes say.
func (t *talk) subscribe(conn *nats.Conn, arrived chan *nats.Msg) {
	subjects := []string{t.prefix + askPart, t.prefix + askPart + "." + t.id, t.prefix + answerPart + t.id + ".*", t.prefix + helloPart}
	if t.alone {
		subjects = nil
	}
	t.mu.Lock()
	for subject := range t.servers {
		t.serve(conn, subject, arrived)
	}
	t.mu.Unlock()
	for _, subject := range subjects {
		// It fails only on a connection that is closed, which is replaced.
		_, _ = conn.ChanSubscribe(subject, arrived)
	}
}

func (t *talk) serve(conn *nats.Conn, subject string, arrived chan *nats.Msg) {
	_, _ = conn.ChanQueueSubscribe(subject, t.prefix, arrived)
}

// take acts on what is no item. It is called by nats.go's reader and does not wait.
func (t *talk) take(m *nats.Msg) {
	part, ok := strings.CutPrefix(m.Subject, t.prefix)
	switch {
	case !ok:
	case part == helloPart:
		t.heard(m.Data)
	case part == askPart, part == askPart+"."+t.id:
		t.asked(m)
	case strings.HasPrefix(part, answerPart):
		t.answered(part, m)
	default:
		t.request(m)
	}
}

type helloText struct {
	Node string `json:"node"`
	Name string `json:"name"`
	Gone bool   `json:"gone,omitempty"`
}

func (t *talk) hello(gone bool) {
	text, _ := json.Marshal(helloText{t.id, t.name, gone})
	_ = t.bus.link.publish(t.prefix+helloPart, text) // the next one may get through
}

func (t *talk) heard(data []byte) {
	var text helloText
	if json.Unmarshal(data, &text) != nil || text.Node == "" || text.Node == t.id || len(text.Node)+len(text.Name) > namesMax {
		return
	}
	now := time.Now()
	t.mu.Lock()
	known := t.nodes[text.Node]
	switch {
	case text.Gone:
		delete(t.nodes, text.Node)
		for _, a := range t.asks { // nobody waits for one that said that it goes
			a.silentLocked(text.Node)
		}
	case known != nil:
		known.heard = now
	case len(t.nodes) < nodesMax:
		t.nodes[text.Node] = &node{name: text.Name, heard: now}
		if !t.closed {
			t.working.Go(func() { t.hello(false) }) // not in the reader, which the server may be waiting for
		}
	}
	for id, n := range t.nodes {
		if now.Sub(n.heard) > helloMax {
			delete(t.nodes, id)
		}
	}
	t.mu.Unlock()
}

// aliveLocked notes that a node is heard.
func (t *talk) aliveLocked(id string) {
	if n := t.nodes[id]; n != nil {
		n.heard = time.Now()
	}
}

// others is how many other nodes are known.
func (t *talk) others() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.nodes)
}

// asked answers a question that came from elsewhere, once what came before it has
// been taken.
func (t *talk) asked(m *nats.Msg) {
	head, question, ok := bytes.Cut(m.Data, []byte{'\n'})
	kind, milliseconds, ok2 := strings.Cut(string(head), " ")
	wait, err := strconv.ParseUint(milliseconds, 10, 31)
	if !ok || !ok2 || err != nil || m.Reply == "" {
		return
	}
	asker, _, _ := strings.Cut(strings.TrimPrefix(m.Reply, t.prefix+answerPart), ".")
	t.mu.Lock()
	t.aliveLocked(asker)
	fn := t.handlers[kind]
	t.mu.Unlock()
	respond := func(answer []byte) {
		word := " ok\n"
		if answer == nil {
			word = " no\n"
		}
		_ = t.bus.link.publish(m.Reply, append(append([]byte(t.id), word...), answer...)) // the asker sees that it is missing
	}
	given := time.Duration(wait) * time.Millisecond
	end := time.Now().Add(given - pubsub.AnswerMargin(given))
	if fn == nil || !t.begins(t.places) {
		t.work(func() { respond(nil) })
		return
	}
	t.bus.lanes.After(func() {
		if !t.work(func() {
			defer func() { <-t.places }()
			ctx, cancel := context.WithDeadline(t.ctx, end)
			defer cancel()
			respond(fn(ctx, question))
		}) {
			<-t.places
		}
	})
}

// begins takes a place, if there is one.
func (t *talk) begins(places chan struct{}) bool {
	select {
	case places <- struct{}{}:
		return true
	default:
		return false
	}
}

// work does fn in a goroutine, unless it is too late for that.
func (t *talk) work(fn func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.working.Go(fn)
	return true
}

// noResponders is the status with which a server says that nobody hears a question.
const noResponders = "503"

// answered takes the answer of a node.
func (t *talk) answered(part string, m *nats.Msg) {
	n, err := strconv.ParseUint(part[strings.LastIndexByte(part, '.')+1:], 10, 64)
	head, answer, ok := bytes.Cut(m.Data, []byte{'\n'})
	node, word, ok2 := strings.Cut(string(head), " ")
	nobody := len(m.Data) == 0 && m.Header.Get("Status") == noResponders
	if err != nil || !nobody && (!ok || !ok2) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.aliveLocked(node)
	a := t.asks[n]
	switch {
	case a == nil: // too late
	case nobody:
		for id := range a.need {
			if id != t.id {
				a.silentLocked(id)
			}
		}
	case word == "ok":
		a.sayLocked(node, answer)
	default:
		a.silentLocked(node)
	}
}

// sayLocked takes an answer. The first of a node counts, and of those who are not asked
// none: whoever speaks NATS can send any number.
func (a *asking) sayLocked(node string, answer []byte) {
	if a.said[node] || !a.need[node] && (a.node != "" || len(a.answers) > nodesMax) {
		return
	}
	a.said[node] = true
	a.answers = append(a.answers, pubsub.NodeAnswer{Node: node, Data: answer})
	a.tickLocked(node)
}

func (a *asking) silentLocked(node string) {
	if a.need[node] {
		a.silent = append(a.silent, node)
		a.tickLocked(node)
	}
}

func (a *asking) tickLocked(node string) {
	if a.need[node] {
		delete(a.need, node)
		if len(a.need) == 0 {
			close(a.done)
		}
	}
}

// Answer is Asker.Answer.
func (b *Bus) Answer(kind string, fn func(ctx context.Context, question []byte) []byte) {
	b.talk.mu.Lock()
	defer b.talk.mu.Unlock()
	b.talk.handlers[kind] = fn
}

// Ask is Asker.Ask.
func (b *Bus) Ask(ctx context.Context, kind string, question []byte) (pubsub.Answers, error) {
	t := b.talk
	t.mu.Lock()
	need := make(map[string]bool, len(t.nodes)+1)
	need[t.id] = true
	var dead []string
	now := time.Now()
	for id, n := range t.nodes {
		switch {
		case n.counts(now):
			need[id] = true
		case now.Sub(n.heard) <= helloMax:
			dead = append(dead, id)
		}
	}
	t.mu.Unlock()
	return t.ask(ctx, &asking{need: need, dead: dead}, kind, question)
}

// AskNode is Asker.AskNode.
func (b *Bus) AskNode(ctx context.Context, node, kind string, question []byte) ([]byte, error) {
	answers, err := b.talk.ask(ctx, &asking{node: node, need: map[string]bool{node: true}}, kind, question)
	switch {
	case err != nil:
		return nil, err
	case len(answers.Nodes) == 0:
		return nil, fmt.Errorf("node %q: %w", node, pubsub.ErrNoAnswer)
	}
	return answers.Nodes[0].Data, nil
}

// ask asks a.node, or all if that is "", and waits for those that need to answer.
func (t *talk) ask(ctx context.Context, a *asking, kind string, question []byte) (pubsub.Answers, error) {
	if err := pubsub.CheckItem(kind, len(question), pubsub.ItemBytesMax-1000); err != nil {
		return pubsub.Answers{}, err
	}
	node := a.node
	a.said, a.done = make(map[string]bool, len(a.need)), make(chan struct{})
	names := make(map[string]string, len(a.need))
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return pubsub.Answers{}, pubsub.ErrClosed
	}
	nameLocked := func(id string) {
		names[id] = id
		if n := t.nodes[id]; n != nil {
			names[id] = n.name
		}
	}
	for id := range a.need {
		nameLocked(id)
	}
	for _, id := range a.dead {
		nameLocked(id)
	}
	names[t.id] = t.name
	t.last++
	n, began := t.last, time.Now()
	t.asks[n] = a
	fn := t.handlers[kind]
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		delete(t.asks, n)
		t.mu.Unlock()
	}()

	if node != t.id && !t.alone {
		wait := time.Hour
		if end, ok := ctx.Deadline(); ok {
			wait = max(time.Until(end), 0)
		}
		subject := t.prefix + askPart
		if node != "" {
			subject += "." + node
		}
		text := fmt.Appendf(nil, "%s %d\n", kind, wait.Milliseconds())
		err := t.bus.link.request(subject, fmt.Sprintf("%s%s%s.%d", t.prefix, answerPart, t.id, n), append(text, question...))
		if errors.Is(err, pubsub.ErrItemTooLong) {
			return pubsub.Answers{}, err
		} else if err != nil {
			t.mu.Lock() // only this node can be asked
			for id := range a.need {
				if id != t.id {
					a.silentLocked(id)
				}
			}
			t.mu.Unlock()
		}
	}
	if t.alone && node != "" && node != t.id {
		t.mu.Lock() // there is nobody else
		a.silentLocked(node)
		t.mu.Unlock()
	}
	if node == "" || node == t.id {
		t.askSelf(ctx, a, fn, question)
	}

	select {
	case <-a.done:
	case <-ctx.Done():
	case <-t.ctx.Done():
		return pubsub.Answers{}, pubsub.ErrClosed
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	answers := pubsub.Answers{Nodes: slices.Clone(a.answers)}
	for _, id := range a.silent {
		answers.Missing = append(answers.Missing, names[id])
	}
	for id := range a.need {
		answers.Missing = append(answers.Missing, names[id])
		if n := t.nodes[id]; n != nil && time.Since(began) >= vainAfter {
			n.failed = time.Now()
		}
	}
	for _, id := range a.dead {
		if !a.said[id] {
			answers.Missing = append(answers.Missing, names[id])
		}
	}
	slices.Sort(answers.Missing)
	return answers, nil
}

// askSelf asks this node.
func (t *talk) askSelf(ctx context.Context, a *asking, fn handler, question []byte) {
	tell := func(data []byte) {
		t.mu.Lock()
		defer t.mu.Unlock()
		if data == nil {
			a.silentLocked(t.id)
			return
		}
		a.sayLocked(t.id, data)
	}
	if fn == nil || !t.begins(t.places) {
		tell(nil)
		return
	}
	question = bytes.Clone(question)
	t.bus.lanes.After(func() {
		if !t.work(func() {
			defer func() { <-t.places }()
			ctx := ctx
			if end, ok := ctx.Deadline(); ok {
				var cancel context.CancelFunc
				ctx, cancel = context.WithDeadline(ctx, end.Add(-pubsub.AnswerMargin(time.Until(end))))
				defer cancel()
			}
			tell(fn(ctx, question))
		}) {
			<-t.places
		}
	})
}

// Serve has one node of the cluster take each request that a program sends to the
// subject NAME under the prefix ("gripway." and name), and answers it if the program
// wants that. While too many are worked on, busy is the answer. It is called once for
// a name, which is not one that nodes speak on.
func (b *Bus) Serve(name string, busy []byte, fn func(ctx context.Context, request []byte, wanted bool) (answer []byte)) {
	t := b.talk
	subject := t.prefix + "." + name
	t.mu.Lock()
	t.servers[subject] = serving{fn, busy}
	t.mu.Unlock()
	t.serve(b.link.conn.Load(), subject, b.link.arrived)
}

func (t *talk) request(m *nats.Msg) {
	t.mu.Lock()
	s, ok := t.servers[m.Subject]
	t.mu.Unlock()
	if !ok {
		return
	}
	respond := func(answer []byte) {
		if m.Reply != "" {
			_ = t.bus.link.publish(m.Reply, answer) // it will ask again
		}
	}
	if !t.begins(t.serves) {
		t.work(func() { respond(s.busy) })
		return
	}
	if !t.work(func() {
		defer func() { <-t.serves }()
		respond(s.fn(t.ctx, m.Data, m.Reply != ""))
	}) {
		<-t.serves
	}
}

// close says goodbye; the link is still there.
func (t *talk) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	if !t.alone && t.bus.link != nil {
		t.hello(true)
	}
	t.cancel()
	t.working.Wait()
}
