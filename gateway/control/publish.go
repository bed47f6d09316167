package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gripway/gripway/gateway/access"
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
	if !c.takeTurn(r.Context()) {
		w.Header().Set("Retry-After", retryAfter)
		refused(refusedBusy, http.StatusServiceUnavailable, "Not published: too many publish requests at once.")
		return
	}
	defer c.endTurn()

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
	if over := overLimit(items); over != "" {
		refused(refusedInvalid, http.StatusBadRequest, over)
		return
	}
	for _, item := range items {
		if !key.May(item.Channel) {
			refused(refusedForbidden, http.StatusForbidden,
				fmt.Sprintf("Not published: the key %q is not for channel %q. No item was published.", key.Name(), item.Channel))
			return
		}
	}
	switch wait, err := key.Take(len(items)); {
	case errors.Is(err, access.ErrTooMany):
		refused(refusedRate, http.StatusBadRequest,
			fmt.Sprintf("Not published: %d items at once, and the key %q may publish %d.", len(items), key.Name(), key.Burst()))
		return
	case err != nil:
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
		refused(refusedRate, http.StatusTooManyRequests,
			fmt.Sprintf("Not published: the key %q has published as much as it may. No item was published.", key.Name()))
		return
	}
	for i, item := range items {
		if err := c.bus.Publish(c.ctx, item.Channel, item.Raw()); err != nil {
			c.stats.items.Add(float64(i))
			c.warnBus(item.Channel, err)
			refusal := refusalOf(err)
			if refusal.again {
				w.Header().Set("Retry-After", retryAfter)
			}
			refused(refusedByBus, refusal.status, fmt.Sprintf("Not published: channel %q: %s. %d of %d items were accepted before it.",
				item.Channel, refusal.why, i, len(items)))
			return
		}
	}
	c.stats.items.Add(float64(len(items)))
	c.stats.intake.Observe(time.Since(begun).Seconds())
	published.write(w, format)
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
// anything is published.
func overLimit(items []*grip.Item) string {
	for _, item := range items {
		switch {
		case len(item.Channel) > pubsub.ChannelBytesMax:
			return fmt.Sprintf("Invalid format: 'channel' is longer than %d bytes", pubsub.ChannelBytesMax)
		case len(item.Raw()) > pubsub.ItemBytesMax:
			return fmt.Sprintf("Invalid format: publish item is longer than %d bytes", pubsub.ItemBytesMax)
		}
	}
	return ""
}

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
	case errors.Is(err, pubsub.ErrDenied):
		return refusal{http.StatusForbidden, "the bus does not allow this channel", false}
	case errors.Is(err, pubsub.ErrChannelTooLong):
		return refusal{http.StatusBadRequest, "the bus takes no name as long", false}
	case errors.Is(err, pubsub.ErrItemTooLong):
		return refusal{http.StatusBadRequest, "the bus takes no item as long", false}
	}
	return refusal{http.StatusServiceUnavailable, "the bus did not accept it", true}
}
