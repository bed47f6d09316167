package watch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/grip"
)

const (
	// queueMax bounds the events that wait for one outlet. What comes beyond is
	// dropped and counted: nobody's client waits for a backend that is away.
	queueMax = 10_000

	// batchMax bounds the events of one request.
	batchMax = 100

	// gatherFor is how long the first event of a request waits for others.
	gatherFor = 50 * time.Millisecond

	// postTimeout bounds one request.
	postTimeout = 10 * time.Second

	// answerBytesMax bounds what is read of an answer, which says nothing.
	answerBytesMax = 4 << 10

	// retriesMax, retryFirst and retryMost are how often and how soon a request is
	// made again: after 1, 2, 4, 8, 16, 30, 30 s, give or take a fifth. Then its
	// events are dropped and counted.
	retriesMax = 7
	retryFirst = time.Second
	retryMost  = 30 * time.Second

	// publishRetries and publishWait are how often and how soon an event is published
	// again that a busy bus did not take.
	publishRetries = 10
	publishWait    = 100 * time.Millisecond
)

// EventsOptions describe Events. One of Publish and URL is needed.
type EventsOptions struct {
	Name string // in logs
	Node string // who tells

	// Publish takes an item for Channel.
	Channel string
	Publish func(ctx context.Context, channel string, item []byte) error

	// URL takes batches by POST: {"events": […]}. An answer of 200 to 299 is yes, any
	// other means once more, but 400 and 410 to 422 mean never.
	URL    string
	Client *http.Client                        // nil is one of its own
	Sign   func(now time.Time) (string, error) // makes Grip-Sig; nil signs nothing

	// Kinds, Formats and Routes say which events; empty is all.
	Kinds   []string
	Formats []hub.Format
	Routes  []string

	Metrics *metrics.Registry
	Log     *slog.Logger
}

// Events tells what happens to clients: as items in a channel, or to a URL. An event is
//
//	{"type": "subscribe", "time": "2026-11-28T09:30:00.123Z", "node": "a", "connection": "…",
//	 "kind": "websocket", "route": "chat", "client": "192.0.2.7", "tls": true,
//	 "channel": "room", "subscribers": 2}
//
// with kind websocket, stream or response; a disconnect has reason and seconds, and
// connect and disconnect have connections: how many are held on the node now.
type Events struct {
	opts     EventsOptions
	log      *slog.Logger
	outcomes map[string]metrics.Counter

	mu      sync.Mutex
	queue   [][]byte
	dropped int // since it was last logged
	wake    chan struct{}
	idle    bool // nothing is on its way
}

// Outcomes of events.
const (
	outcomeSent    = "sent"    // the bus or the URL has it
	outcomeDropped = "dropped" // the queue was full
	outcomeFailed  = "failed"  // it was tried in vain
)

// NewEvents returns Events that tell nothing before Run runs.
func NewEvents(opts EventsOptions) *Events {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Client == nil {
		opts.Client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return &Events{
		opts: opts, log: opts.Log, wake: make(chan struct{}, 1), idle: true,
		outcomes: opts.Metrics.Counters("events_total", "Events of clients that come and go, by outcome.", "outcome", outcomeSent, outcomeDropped, outcomeFailed),
	}
}

// formats are the words for formats.
var formats = [...]string{hub.FormatResponse: "response", hub.FormatStream: "stream", hub.FormatMessage: "websocket"}

// Formats are the words for the kinds of clients.
func Formats() []string { return formats[:] }

// ParseFormat reads one of Formats.
func ParseFormat(text string) (hub.Format, bool) {
	i := slices.Index(formats[:], text)
	return hub.Format(i), i >= 0
}

// wanted says whether the event is one that is told.
func (ev *Events) wanted(e *Event) bool {
	o := &ev.opts
	return (len(o.Kinds) == 0 || slices.Contains(o.Kinds, e.Kind.String())) &&
		(len(o.Formats) == 0 || slices.Contains(o.Formats, e.Client.Format)) &&
		(len(o.Routes) == 0 || slices.Contains(o.Routes, e.Client.Route))
}

// Event implements Listener.
func (ev *Events) Event(e *Event) {
	if !ev.wanted(e) {
		return
	}
	b := appendEvent(nil, e, ev.opts.Node)
	ev.mu.Lock()
	defer ev.mu.Unlock()
	if len(ev.queue) >= queueMax {
		ev.dropped++
		ev.outcomes[outcomeDropped].Inc()
		return
	}
	ev.queue = append(ev.queue, b)
	ev.idle = false
	select {
	case ev.wake <- struct{}{}:
	default:
	}
}

// Counts implements Listener.
func (ev *Events) Counts() bool { return false }

// Received implements Listener; it is no event.
func (ev *Events) Received(string, *grip.Item) {}

// Delivered implements Listener; it is no event.
func (ev *Events) Delivered(string, *grip.Item, hub.Format, int) {}

// Spoke implements Listener; it is no event.
func (ev *Events) Spoke(string) {}

// Requested implements Listener; it is no event.
func (ev *Events) Requested(string) {}

// appendEvent writes an event.
func appendEvent(b []byte, e *Event, node string) []byte {
	text := func(name, value string) {
		b = append(append(append(b, `,"`...), name...), `":`...)
		quoted, _ := json.Marshal(value) // a string can be written; what is not UTF-8 is replaced
		b = append(b, quoted...)
	}
	b = append(b, `{"type":"`...)
	b = append(append(b, e.Kind.String()...), '"')
	text("time", e.Time.UTC().Format("2006-01-02T15:04:05.000Z07:00"))
	text("node", node)
	text("connection", e.Client.ID)
	text("kind", formats[e.Client.Format])
	if e.Client.Route != "" {
		text("route", e.Client.Route)
	}
	text("client", e.Client.Client)
	if e.Client.TLS {
		b = append(b, `,"tls":true`...)
	}
	switch e.Kind {
	case Connect, Disconnect:
		if e.Kind == Disconnect {
			text("reason", e.Reason)
			b = strconv.AppendFloat(append(b, `,"seconds":`...), e.Duration.Seconds(), 'f', 3, 64)
		}
		b = strconv.AppendInt(append(b, `,"connections":`...), int64(e.Clients), 10)
	case Subscribe, Unsubscribe:
		text("channel", e.Channel)
		b = strconv.AppendInt(append(b, `,"subscribers":`...), int64(e.Subscribers), 10)
	}
	return append(b, '}')
}

// Run tells events until ctx ends.
func (ev *Events) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			ev.giveUp()
			return
		case <-ev.wake:
		}
		if ev.opts.URL != "" {
			sleep(ctx, gatherFor)
		}
		for batch := ev.take(); len(batch) > 0; batch = ev.take() {
			n := len(batch)
			if ev.opts.URL != "" {
				ev.post(ctx, batch)
			} else {
				n = ev.publish(ctx, batch)
			}
			if ctx.Err() != nil {
				ev.outcomes[outcomeFailed].Add(float64(len(batch) - n))
				ev.giveUp()
				return
			}
		}
	}
}

// giveUp counts what will not be told.
func (ev *Events) giveUp() {
	ev.mu.Lock()
	defer ev.mu.Unlock()
	ev.outcomes[outcomeFailed].Add(float64(len(ev.queue)))
	ev.queue, ev.idle = nil, true
}

// Flush waits until all that has happened is told, or ctx ends.
func (ev *Events) Flush(ctx context.Context) {
	for {
		ev.mu.Lock()
		idle := ev.idle
		ev.mu.Unlock()
		if idle || !sleep(ctx, gatherFor/2) {
			return
		}
	}
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

// take returns the next events, at most batchMax.
func (ev *Events) take() [][]byte {
	ev.mu.Lock()
	defer ev.mu.Unlock()
	if ev.dropped > 0 {
		ev.log.Warn("events dropped: their outlet is behind", "events", ev.opts.Name, "count", ev.dropped, "waiting", len(ev.queue))
		ev.dropped = 0
	}
	n := min(len(ev.queue), batchMax)
	batch := ev.queue[:n:n]
	if ev.queue = ev.queue[n:]; len(ev.queue) == 0 {
		ev.queue = nil
	}
	ev.idle = n == 0
	return batch
}

// publish publishes each event as an item, and returns how many were tried.
func (ev *Events) publish(ctx context.Context, batch [][]byte) int {
	for i, event := range batch {
		item := &grip.Item{
			Channel: ev.opts.Channel,
			Stream:  &grip.StreamItem{Content: append(slices.Clip(event), '\n')},
			Message: &grip.MessageItem{Type: grip.Text, Content: event},
		}
		raw := item.AppendJSON(nil)
		err := ev.opts.Publish(ctx, ev.opts.Channel, raw)
		for try := 0; err != nil && try < publishRetries && sleep(ctx, publishWait); try++ {
			err = ev.opts.Publish(ctx, ev.opts.Channel, raw)
		}
		switch {
		case ctx.Err() != nil:
			return i
		case err != nil:
			ev.outcomes[outcomeFailed].Inc()
			ev.log.Warn("an event could not be published", "events", ev.opts.Name, "channel", ev.opts.Channel, "error", err)
		default:
			ev.outcomes[outcomeSent].Inc()
		}
	}
	return len(batch)
}

// post hands a batch to the URL, for as long as it may help.
func (ev *Events) post(ctx context.Context, batch [][]byte) {
	body := append([]byte(`{"events":[`), bytes.Join(batch, []byte(","))...)
	body = append(body, "]}\n"...)
	wait := retryFirst
	for try := 0; ; try++ {
		err := ev.postOnce(ctx, body)
		if err == nil {
			ev.outcomes[outcomeSent].Add(float64(len(batch)))
			return
		}
		var never *neverError
		if errors.As(err, &never) || try == retriesMax || ctx.Err() != nil {
			ev.outcomes[outcomeFailed].Add(float64(len(batch)))
			ev.log.Warn("events were not taken", "events", ev.opts.Name, "count", len(batch), "tries", try+1, "error", err)
			return
		}
		ev.log.Info("events were not taken, will try again", "events", ev.opts.Name, "count", len(batch), "after", wait, "error", err)
		sleep(ctx, wait-wait/5+rand.N(2*wait/5))
		wait = min(2*wait, retryMost)
	}
}

// neverError is an answer that will not change.
type neverError struct{ status int }

func (e *neverError) Error() string { return fmt.Sprintf("answered %d", e.status) }

func (ev *Events) postOnce(ctx context.Context, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, postTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, ev.opts.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "gripway")
	if ev.opts.Sign != nil {
		token, err := ev.opts.Sign(time.Now())
		if err != nil {
			return err
		}
		request.Header.Set("Grip-Sig", token)
	}
	response, err := ev.opts.Client.Do(request)
	if err != nil {
		var with *url.Error
		if errors.As(err, &with) {
			err = with.Err // the URL may hold a secret, which is not for the log
		}
		return err
	}
	defer response.Body.Close()
	io.Copy(io.Discard, io.LimitReader(response.Body, answerBytesMax))
	switch status := response.StatusCode; {
	case status >= 200 && status < 300:
		return nil
	case status == http.StatusBadRequest, status >= http.StatusGone && status <= http.StatusUnprocessableEntity:
		return &neverError{status}
	default:
		return fmt.Errorf("answered %d", status)
	}
}
