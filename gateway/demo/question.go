package demo

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gripway/gripway/grip"
)

// pollChannel carries the answers to those who wait for news of the question.
const pollChannel = "poll"

const (
	// pollTimeout is how long a long-poll without news is held. Some networks cut
	// what is quiet for 30 seconds.
	pollTimeout = 25 * time.Second

	// questionLife is how long a question stands after its first answer. One that
	// nobody answers stands for ever: it is no use asking the next.
	questionLife = 45 * time.Second

	// votersMax bounds the windows whose answer is remembered, per question.
	votersMax = 1000

	// voteBytesMax bounds the body of an answer.
	voteBytesMax = 4 << 10

	// Answers of all together: voteBurst at once, then one per voteEvery.
	voteBurst, voteEvery = 40, 50 * time.Millisecond
)

// questions are asked one after the other, and then again.
var questions = []struct {
	text    string
	options []string
}{
	{"Who should hold the connection?", []string{"The gateway", "My web server", "The browser alone"}},
	{"Tabs or spaces?", []string{"Tabs", "Spaces", "Whatever gofmt does"}},
	{"What is your build waiting for?", []string{"The network", "The tests", "Coffee", "Me"}},
	{"How do you like your updates?", []string{"Pushed", "Polled", "In the morning paper"}},
	{"Best number of cores?", []string{"2", "8", "64", "One more"}},
	{"Where does the bug live?", []string{"The cache", "DNS", "Time zones", "My side"}},
	{"Light or dark?", []string{"Light", "Dark", "As the system says"}},
	{"Long-poll in this century?", []string{"Yes, it works everywhere", "Only if I must"}},
}

// question is what is asked at the moment, and the answers so far. Every change
// has an id and names the one before it: a long-poll says which it has, and the
// gateway asks again if that is not the newest it knows. Nothing is missed between
// an answer and the next question.
type question struct {
	// Fixed after newQuestion.
	instance string
	outlet   *outlet

	mu      sync.Mutex
	version int64
	asked   int64         // counts from 1
	counts  []int         // by option
	voters  map[voter]int // option by window; at most votersMax
	over    time.Time     // when the next is asked; zero before the first answer
	votes   bucket        // of all
}

// voter is the hash of a window's secret.
type voter [sha256.Size]byte

// state is the question as the page gets it.
type state struct {
	ID       string   `json:"id"` // for ?after=
	Asked    int64    `json:"asked"`
	Question string   `json:"question"`
	Options  []option `json:"options"`
	Total    int      `json:"total"`
	Over     int64    `json:"over,omitempty"` // Unix milliseconds
	Now      int64    `json:"now"`            // Unix milliseconds
	Waited   bool     `json:"waited,omitempty"`
}

type option struct {
	Label string `json:"label"`
	Count int    `json:"count"`
}

func newQuestion(instance string, outlet *outlet) *question {
	q := &question{instance: instance, outlet: outlet, version: 1}
	q.ask()
	return q
}

// ask asks the next question. mu is held, or nobody else knows q.
func (q *question) ask() {
	q.asked++
	q.counts = make([]int, len(q.options()))
	q.voters = map[voter]int{}
	q.over = time.Time{}
}

func (q *question) options() []string { return questions[(q.asked-1)%int64(len(questions))].options }

// id names a version. mu is held.
func (q *question) id(version int64) string { return fmt.Sprintf("%s-%d", q.instance, version) }

// state is the newest version. mu is held.
func (q *question) state(now time.Time) state {
	s := state{
		ID: q.id(q.version), Asked: q.asked, Question: questions[(q.asked-1)%int64(len(questions))].text,
		Now: now.UnixMilli(),
	}
	for i, label := range q.options() {
		s.Options = append(s.Options, option{label, q.counts[i]})
		s.Total += q.counts[i]
	}
	if !q.over.IsZero() {
		s.Over = q.over.UnixMilli()
	}
	return s
}

// publish makes what q says now the next version, unless there is no room in the
// outlet. mu is held: versions are published in their order.
func (q *question) publish(now time.Time) bool {
	q.version++
	item := &grip.Item{
		Channel: pollChannel, ID: q.id(q.version), PrevID: q.id(q.version - 1),
		Response: &grip.ResponseItem{
			Header: http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}},
			Body:   append(compact(q.state(now)), '\n'),
		},
	}
	if !q.outlet.offer(panelPoll, func() *grip.Item { return item }) {
		q.version--
		return false
	}
	return true
}

// tick asks the next question when it is time.
func (q *question) tick(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.over.IsZero() || now.Before(q.over) {
		return
	}
	asked, counts, voters, over := q.asked, q.counts, q.voters, q.over
	q.ask()
	if !q.publish(now) {
		q.asked, q.counts, q.voters, q.over = asked, counts, voters, over // again at the next tick
	}
}

// serve is GET /poll: the question at once, or, to those who have it already
// (?after=ID) or want to wait (?wait), when it changes.
func (q *question) serve(w http.ResponseWriter, r *http.Request) {
	q.mu.Lock()
	s := q.state(time.Now())
	q.mu.Unlock()
	query := r.URL.Query()
	has := query.Get("after")
	if has == "" && query.Has("wait") {
		has = s.ID
	}
	if last, ok := grip.Last(r.Header)[pollChannel]; ok {
		has = last // the gateway asks again, for the same client
	}
	if has == s.ID {
		s.Waited = true // to be seen if nothing happens
		err := grip.Hold(w, &grip.Instruction{
			Hold: grip.HoldResponse, Timeout: pollTimeout,
			Channels: []grip.Channel{{Name: pollChannel, PrevID: s.ID}},
		})
		if err != nil {
			panic(err) // the names are ours
		}
	}
	answerJSON(w, http.StatusOK, s)
}

// vote is POST /poll: choice=INDEX, and if known question=NUMBER, who=SECRET. It
// is answered with the question as it is then. Who gives another answer takes the
// first back; who has no secret is counted each time.
func (q *question) vote(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, voteBytesMax)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "A form is expected, like choice=1.", http.StatusBadRequest)
		return
	}
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	choice, err := strconv.Atoi(r.PostForm.Get("choice"))
	if err != nil || choice < 0 || choice >= len(q.counts) {
		http.Error(w, fmt.Sprintf("choice must be from 0 to %d.", len(q.counts)-1), http.StatusBadRequest)
		return
	}
	if asked := r.PostForm.Get("question"); asked != "" && asked != strconv.FormatInt(q.asked, 10) {
		answerJSON(w, http.StatusConflict, q.state(now)) // it is over; this is the next
		return
	}
	if !q.votes.take(now, voteBurst, voteEvery) {
		tooMany(w)
		return
	}
	secret := r.PostForm.Get("who")
	known := windowID.MatchString(secret)
	id := voter(sha256.Sum256([]byte(secret)))
	before, again := q.voters[id]
	if known && again && before == choice {
		answerJSON(w, http.StatusOK, q.state(now))
		return
	}
	if known && !again && len(q.voters) == votersMax {
		tooMany(w)
		return
	}
	over := q.over
	if q.over.IsZero() {
		q.over = now.Add(questionLife)
	}
	q.counts[choice]++
	if again {
		q.counts[before]--
	}
	if !q.publish(now) {
		q.counts[choice]--
		if again {
			q.counts[before]++
		}
		q.over = over
		tooMany(w)
		return
	}
	if known {
		q.voters[id] = choice
	}
	answerJSON(w, http.StatusOK, q.state(now))
}

func tooMany(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	http.Error(w, "Too many answers at once. Try again.", http.StatusTooManyRequests)
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(append(compact(v), '\n'))
}
