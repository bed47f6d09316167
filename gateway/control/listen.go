package control

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/gripway/gripway/gateway/access"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
)

const (
	// listenerBytesDefault is how much may wait for one listener: a burst of a
	// thousand items of 1 kB.
	listenerBytesDefault = 1 << 20

	// lineOverhead is what a waiting line is counted with beyond its bytes, so that
	// many empty items are bounded as well.
	lineOverhead = 64

	// heartbeatDefault is Options.Heartbeat.
	heartbeatDefault = 15 * time.Second

	// listenersMax bounds the listeners: the API is for a few people with a
	// terminal, not for clients.
	listenersMax = 100

	// listenChannelsMax bounds the channels of one listener.
	listenChannelsMax = 1000

	// lineWait is how long a batch of lines may take to be written before the
	// listener is given up: it reads nothing at all.
	lineWait = 10 * time.Second
)

// Why listeners end.
const (
	leftGone     = "gone"     // hung up, or stopped reading altogether
	leftSlow     = "slow"     // read less than was published
	leftShutdown = "shutdown" // Close
)

// subscribe writes every item of some channels as a line of JSON, until the
// client hangs up.
//
//	{"channel":"a","formats":{…}}              an item, as it was published
//	{"channel":"a","error":"lost","items":3}   a hole: the bus dropped items (0: nobody knows how many)
//	{"channel":"a","error":"unreadable"}       what came over the bus was no JSON object
//	                                           a blank line: nothing happened for a while
//	{"error":"slow"}                           the last line: the client could not keep up
//	{"error":"shutdown"}                       the last line: the node ends
func (c *Control) subscribe(w http.ResponseWriter, r *http.Request, key *access.Key) {
	if r.Method != http.MethodGet {
		notAllowed(w, r, "GET")
		return
	}
	channels := slices.Compact(slices.Sorted(slices.Values(r.URL.Query()["channel"])))
	switch {
	case len(channels) == 0:
		answer(w, http.StatusBadRequest, "No channel: want /api/subscribe?channel=NAME, repeated for several.")
		return
	case len(channels) > listenChannelsMax:
		answer(w, http.StatusBadRequest, "Too many channels: want at most "+strconv.Itoa(listenChannelsMax)+".")
		return
	}
	for _, channel := range channels {
		if !key.May(channel) {
			answer(w, http.StatusForbidden, "Not subscribed: the key "+strconv.Quote(key.Name())+" is not for channel "+strconv.Quote(channel)+".")
			return
		}
	}
	if why := c.beginListening(); why != "" {
		w.Header().Set("Retry-After", retryAfter)
		answer(w, http.StatusServiceUnavailable, why)
		return
	}
	defer c.endListening()

	ctx, cancel := context.WithCancel(r.Context()) // of the client, and of Close
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()

	l := &listener{bytesMax: c.listenerBytes, wake: make(chan struct{}, 1)}
	for _, channel := range channels {
		subscription, err := c.bus.Subscribe(ctx, channel, &ear{l, channel})
		if err != nil {
			c.warnBus(channel, err)
			refusal := refusalOf(err)
			answer(w, refusal.status, "Not subscribed: channel "+strconv.Quote(channel)+": "+refusal.why+".")
			return
		}
		defer subscription.Unsubscribe() //nolint:errcheck // the bus is closed then, and so is the subscription
	}
	c.stats.left[c.writeLines(w, r, l)].Inc()
}

// beginListening returns why not, if not.
func (c *Control) beginListening() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return "This node is shutting down."
	case c.listening >= listenersMax:
		return "Too many listeners: want at most " + strconv.Itoa(listenersMax) + "."
	}
	c.listening++
	c.listeners.Add(1)
	c.stats.listened.Inc()
	return ""
}

func (c *Control) endListening() {
	c.mu.Lock()
	c.listening--
	c.mu.Unlock()
	c.stats.listened.Dec()
	c.listeners.Done()
}

// writeLines writes until something ends it, and returns what.
func (c *Control) writeLines(w http.ResponseWriter, r *http.Request, l *listener) (reason string) {
	connection := http.NewResponseController(w)
	h := w.Header()
	h["Content-Type"] = []string{"application/x-ndjson"}
	h["Cache-Control"] = []string{"no-store"}
	if r.ProtoMajor < 2 {
		// The connection keeps its last write deadline, which is right for the
		// end of this answer and would cut the next one.
		h["Connection"] = []string{"close"}
	}
	write := func(text []byte) bool {
		_ = connection.SetWriteDeadline(time.Now().Add(lineWait)) // not every server has one
		_, err := w.Write(text)
		return err == nil && connection.Flush() == nil
	}
	if !write([]byte("\n")) { // tells the client that it is subscribed
		return leftGone
	}
	heartbeat := time.NewTimer(c.heartbeat)
	defer heartbeat.Stop()
	var text []byte
	for {
		text = text[:0]
		select {
		case <-r.Context().Done():
			return leftGone
		case <-c.ctx.Done():
			write([]byte("{\"error\":\"shutdown\"}\n"))
			return leftShutdown
		case <-heartbeat.C:
			text = append(text, '\n')
		case <-l.wake:
			lines, slow := l.take()
			if slow {
				write([]byte("{\"error\":\"slow\"}\n"))
				return leftSlow
			}
			for _, line := range lines {
				text = line.append(text)
			}
		}
		if !write(text) {
			return leftGone
		}
		heartbeat.Reset(c.heartbeat)
	}
}

// listener is what waits for one reader.
type listener struct {
	// Fixed after creation.
	bytesMax int
	wake     chan struct{} // has room for one; never closed

	// Guarded by mu.
	mu    sync.Mutex
	lines []line
	bytes int
	slow  bool // for good
}

// line is something to tell: an item, or a hole if data is nil.
type line struct {
	channel string
	data    []byte // not ours to change
	lost    int
}

// add never waits: the bus is in a hurry.
func (l *listener) add(added line) {
	l.mu.Lock()
	l.bytes += len(added.data) + lineOverhead
	if l.bytes > l.bytesMax {
		l.slow, l.lines = true, nil
	}
	if !l.slow {
		l.lines = append(l.lines, added)
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *listener) take() (lines []line, slow bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines = l.lines
	l.lines, l.bytes = nil, 0
	return lines, l.slow
}

// ear is a listener on one channel; it is a pubsub.Receiver.
type ear struct {
	*listener
	channel string
}

var _ pubsub.Receiver = (*ear)(nil)

// Receive takes an item.
func (e *ear) Receive(data []byte, _ bool) {
	if data == nil {
		data = []byte{}
	}
	data = grip.WithoutReceipt(data)
	e.add(line{channel: e.channel, data: data})
}

// Lost takes a hole.
func (e *ear) Lost(items int) { e.add(line{channel: e.channel, lost: items}) }

// append writes the line. An item is passed on as it was published, with all
// that we do not know in it; only the channel is put right, because on the bus
// an item need not say where it is going.
func (l line) append(to []byte) []byte {
	channel, _ := json.Marshal(l.channel)
	if l.data == nil {
		to = append(append(to, `{"channel":`...), channel...)
		to = strconv.AppendInt(append(to, `,"error":"lost","items":`...), int64(l.lost), 10)
		return append(to, "}\n"...)
	}
	var members map[string]json.RawMessage
	var said string
	switch err := json.Unmarshal(l.data, &members); {
	case err != nil || members == nil:
		to = append(append(to, `{"channel":`...), channel...)
		return append(to, `,"error":"unreadable"}`+"\n"...)
	case members["channel"] == nil:
		to = append(append(to, `{"channel":`...), channel...)
		if len(members) > 0 {
			to = append(to, ',')
		}
		return append(append(to, compact(l.data)[1:]...), '\n')
	case json.Unmarshal(members["channel"], &said) == nil && said == l.channel:
		return append(append(to, compact(l.data)...), '\n')
	}
	members["channel"] = channel
	item, _ := json.Marshal(members)
	return append(append(to, item...), '\n')
}

// compact takes line ends and blanks out of valid JSON.
func compact(data []byte) []byte {
	var b bytes.Buffer
	_ = json.Compact(&b, data)
	return b.Bytes()
}
