package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gripway/gripway/gateway/access"
	"github.com/gripway/gripway/gateway/cluster"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
)

// publish reads a body, checks all its items, and then gives them to the bus one
// after the other.
func (c *Control) publish(w http.ResponseWriter, r *http.Request, key *access.Key) {
	begun := time.Now()
	format := negotiate(r.Header)
	if format == formatNone {
		c.stats.refused[refusedUnacceptable].Inc()
		c.unacceptable(w)
		return
	}
	if r.Method != http.MethodPost {
		c.stats.refused[refusedMethod].Inc()
		notAllowed(w, r, "POST")
		return
	}
	refused := func(reason string, status int, line string) {
		c.stats.refused[reason].Inc()
		c.log.Info("publish refused", "publisher", r.RemoteAddr, "status", status, "error", line)
		answer(w, status, line)
	}
	if r.ContentLength < 0 || r.ContentLength == 0 && r.ProtoMajor < 2 && r.Header["Content-Length"] == nil {
		refused(refusedNoLength, http.StatusLengthRequired, "Request requires Content-Length.")
		return
	}
	if r.ContentLength > int64(c.publishBytes) {
		drain(w, r)
		refused(refusedTooLarge, http.StatusBadRequest, "Request body too large.")
		return
	}
	wait, preferred, err := waitOf(r)
	if err != nil {
		drain(w, r)
		refused(refusedInvalid, http.StatusBadRequest, "Not published: "+err.Error()+".")
		return
	}
	if wait > 0 {
		select {
		case c.waiters <- struct{}{}:
			defer func() { <-c.waiters }()
		default:
			w.Header().Set("Retry-After", retryAfter)
			drain(w, r)
			refused(refusedBusy, http.StatusServiceUnavailable, "Not published: too many publish requests wait for their report.")
			return
		}
	}
	if !c.takeTurn(r.Context()) {
		w.Header().Set("Retry-After", retryAfter)
		refused(refusedBusy, http.StatusServiceUnavailable, "Not published: too many publish requests at once.")
		return
	}
	endTurn := sync.OnceFunc(c.endTurn) // whoever waits for a report is not worked on
	defer endTurn()

	body := takeBody(int(r.ContentLength))
	defer body.release()
	if err := readBody(w, r, body.bytes); err != nil {
		refused(refusedCutShort, http.StatusBadRequest, "Request body did not arrive.")
		return
	}
	items, err := grip.ParseItems(body.bytes)
	if err != nil {
		refused(refusedInvalid, http.StatusBadRequest, err.Error()) // its text is Pushpin's, for the publisher
		return
	}
	publications, over := overLimit(items, wait > 0)
	if over != "" {
		refused(refusedInvalid, http.StatusBadRequest, over)
		return
	}
	if channel, ok := allowed(key, items); !ok {
		refused(refusedForbidden, http.StatusForbidden,
			fmt.Sprintf("Not published: the key %q is not for channel %q. No item was published.", key.Name(), channel))
		return
	}
	switch wait, err := key.Take(publications); {
	case errors.Is(err, access.ErrTooMany):
		refused(refusedRate, http.StatusBadRequest,
			fmt.Sprintf("Not published: %d items at once, and the key %q may publish %d.", publications, key.Name(), key.Burst()))
		return
	case err != nil:
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
		refused(refusedRate, http.StatusTooManyRequests,
			fmt.Sprintf("Not published: the key %q has published as much as it may. No item was published.", key.Name()))
		return
	}
	accepted, report, err := c.spread(items, wait, endTurn)
	c.stats.items.Add(float64(accepted))
	if err != nil {
		channel := ""
		var which *cluster.PublishError
		if errors.As(err, &which) {
			channel = which.Channel
		}
		c.warnBus(channel, err)
		refusal := refusalOf(err)
		if refusal.again {
			w.Header().Set("Retry-After", retryAfter)
		}
		refused(refusedByBus, refusal.status, fmt.Sprintf("Not published: channel %q: %s. %d of %d items were accepted before it.",
			channel, refusal.why, accepted, len(items)))
		return
	}
	c.stats.intake.Observe(time.Since(begun).Seconds())
	if report == nil {
		published.write(w, format)
		return
	}
	if preferred {
		w.Header().Set("Preference-Applied", fmt.Sprintf("wait=%d", int(wait.Seconds())))
	}
	answerJSON(w, report)
}

// spread gives the items to the bus, and returns how many it accepted and, if the
// publisher waits, what became of them: all is called before that, when it has accepted
// all. The error is a *cluster.PublishError.
func (c *Control) spread(items []*grip.Item, wait time.Duration, all func()) (accepted int, report *cluster.Report, err error) {
	if wait > 0 {
		ctx, cancel := context.WithTimeout(c.ctx, wait)
		defer cancel()
		report, err := c.cluster.PublishThenCount(c.ctx, ctx, items, all)
		var which *cluster.PublishError
		if errors.As(err, &which) {
			return which.Accepted, nil, err
		}
		return len(items), report, err
	}
	for i, item := range items {
		if err := c.cluster.Publish(c.ctx, item); err != nil {
			var which *cluster.PublishError
			if errors.As(err, &which) {
				which.Accepted = i
				return i, nil, which
			}
			return i, nil, &cluster.PublishError{Channel: item.Channel, Accepted: i, Err: err}
		}
	}
	return len(items), nil, nil
}

// allowed returns a channel that the key is not for, if there is one.
func allowed(key *access.Key, items []*grip.Item) (channel string, ok bool) {
	if key.MayAll() {
		return "", true
	}
	for _, item := range items {
		for _, name := range item.Names() {
			if !key.May(name) {
				return name, false
			}
		}
	}
	return "", true
}

// requestWait is how long a publisher over NATS is kept waiting for an answer that
// counts.
const requestWait = 2 * time.Second

// RequestBusy answers publish requests over NATS while too many are worked on.
var RequestBusy = []byte(`{"error":"Not published: too many publish requests at once."}`)

// Request is publish for a program that speaks NATS: body is a publish request's, and
// the answer, if one is wanted, is what ?wait=2s answers, or {"error":"…"}.
func (c *Control) Request(_ context.Context, body []byte, wanted bool) (answer []byte) {
	refused := func(reason, line string) []byte {
		c.stats.refused[reason].Inc()
		c.log.Info("publish refused", "publisher", "NATS", "error", line)
		text, _ := json.Marshal(map[string]string{"error": line})
		return text
	}
	if len(body) > c.publishBytes {
		return refused(refusedTooLarge, "Request body too large.")
	}
	items, err := grip.ParseItems(body)
	if err != nil {
		return refused(refusedInvalid, err.Error())
	}
	wait := time.Duration(0)
	if wanted {
		wait = requestWait
	}
	if _, over := overLimit(items, wanted); over != "" {
		return refused(refusedInvalid, over)
	}
	accepted, report, err := c.spread(items, wait, func() {})
	c.stats.items.Add(float64(accepted))
	if err != nil {
		c.warnBus("", err)
		return refused(refusedByBus, fmt.Sprintf("Not published: %s. %d of %d items were accepted before it.", refusalOf(err).why, accepted, len(items)))
	}
	if report == nil {
		return nil
	}
	text, err := json.Marshal(report)
	if err != nil {
		panic(err) // a type of ours
	}
	return text
}

// takeTurn waits for a place among those that are worked on.
func (c *Control) takeTurn(ctx context.Context) bool {
	select {
	case c.publishing <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(publishingWait)
	defer timer.Stop()
	select {
	case c.publishing <- struct{}{}:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

func (c *Control) endTurn() { <-c.publishing }

// body is the memory of one request. The bus keeps no reference to what it is
// given, so it can be used again.
type body struct {
	bytes []byte
	whole []byte
}

// bodyKept is the largest memory that is kept for the next request, in bytes.
// Larger ones are rare, and would stay for as long as the process.
const bodyKept = 64 << 10

var bodies = sync.Pool{New: func() any { return new(body) }}

func takeBody(length int) *body {
	b := bodies.Get().(*body)
	if cap(b.whole) < length {
		b.whole = make([]byte, max(length, 4<<10))
	}
	b.bytes = b.whole[:length]
	return b
}

func (b *body) release() {
	if cap(b.whole) > bodyKept {
		b.whole = nil
	}
	b.bytes = nil
	bodies.Put(b)
}

// readBody fills into. A sender has bodyWait for it. The deadline is left
// standing: the server sets its own for the next request.
func readBody(w http.ResponseWriter, r *http.Request, into []byte) error {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyWait)) // not every server has one
	_, err := io.ReadFull(r.Body, into)
	return err
}

// drain reads what a client is writing before it will read its answer.
func drain(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength > bodyDrained || r.Header.Get("Expect") != "" {
		return // the latter waits for the answer, and has not begun
	}
	if http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyWait)) == nil {
		_, _ = io.Copy(io.Discard, r.Body)
	}
}

// overLimit says which item no bus takes, "" if none: it is refused before
// anything is published. It counts what is published, an item for each of its
// channels.
func overLimit(items []*grip.Item, counted bool) (publications int, over string) {
	for _, item := range items {
		publications += max(len(item.Channels), 1)
		if len(item.Channels) > 0 && item.Channel != "" {
			publications++
		}
		tooLong := len(item.Channel) > pubsub.ChannelBytesMax
		for _, name := range item.Channels {
			tooLong = tooLong || len(name) > pubsub.ChannelBytesMax
		}
		switch {
		case tooLong:
			return 0, fmt.Sprintf("Invalid format: 'channel' is longer than %d bytes", pubsub.ChannelBytesMax)
		case len(item.Raw()) > pubsub.ItemBytesMax-receiptBytes:
			return 0, fmt.Sprintf("Invalid format: publish item is longer than %d bytes", pubsub.ItemBytesMax-receiptBytes)
		case item.Receipt != "":
			return 0, "Invalid format: " + cluster.ErrReceipt.Error()
		}
	}
	switch {
	case publications > publicationsMax:
		return 0, fmt.Sprintf("Invalid format: %d items and channels of theirs in all, and at most %d can be", publications, publicationsMax)
	case counted && publications > countedMax:
		return 0, fmt.Sprintf("Not published: %d items and channels of theirs in all, and one can wait for at most %d.", publications, countedMax)
	}
	return publications, ""
}

// receiptBytes is what a receipt adds to an item, at most.
const receiptBytes = 100

// refusal is what a publisher is told when the bus did not accept an item.
type refusal struct {
	status int
	why    string
	again  bool // trying again may help
}

func refusalOf(err error) refusal {
	switch {
	case errors.Is(err, pubsub.ErrBusy):
		return refusal{http.StatusServiceUnavailable, "too many items are waiting", true}
	case errors.Is(err, pubsub.ErrDisconnected):
		return refusal{http.StatusServiceUnavailable, "the connection to the other nodes is down", true}
	case errors.Is(err, pubsub.ErrClosed), errors.Is(err, context.Canceled):
		return refusal{http.StatusServiceUnavailable, "this node is shutting down", true}
	case errors.Is(err, cluster.ErrCannotAsk):
		return refusal{http.StatusNotImplemented, "nodes cannot be asked here what became of it", false}
	case errors.Is(err, pubsub.ErrDenied):
		return refusal{http.StatusForbidden, "the bus does not allow this channel", false}
	case errors.Is(err, pubsub.ErrChannelTooLong):
		return refusal{http.StatusBadRequest, "the bus takes no name as long", false}
	case errors.Is(err, pubsub.ErrItemTooLong):
		return refusal{http.StatusBadRequest, "the bus takes no item as long", false}
	}
	return refusal{http.StatusServiceUnavailable, "the bus did not accept it", true}
}
