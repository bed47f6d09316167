package watch

import (
	"context"
	"sync"
	"time"

	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/grip"
)

const (
	// activityEvery is how often activity, counts and messages are told.
	activityEvery = 500 * time.Millisecond

	// messageEvery is for how long the deliveries of one item are added up.
	messageEvery = 50 * time.Millisecond

	// messagesMax bounds the items whose deliveries are being added up.
	messagesMax = 100_000

	// renewEvery is how often it is looked for what is to be told again. What has a
	// time to live is told again when three quarters of it have passed.
	renewEvery = time.Second
)

// StatsOptions describe Stats.
type StatsOptions struct {
	// Send takes a message of statistics; it must not block. Heard says whether
	// anybody listens.
	Send  func(kind string, value map[string]any)
	Heard func() bool

	From            string        // who tells
	Connections     bool          // tell of each connection
	ConnectionTTL   time.Duration // zero means 120 s
	SubscriptionTTL time.Duration // zero means 60 s
	ReportEvery     time.Duration // zero means 10 s
	Linger          time.Duration // how long a channel of long polls is told after the last
}

// Stats tells what happens on this node in Pushpin's way:
//
//	conn      {id, type: http|ws, peer-address, ssl, ttl} when a client is held, and again
//	          before ttl has passed; {id, unavailable: true} at its end
//	sub       {mode: response|stream|ws, channel, subscribers, ttl} for each channel that
//	          is followed, and again; {mode, channel, unavailable: true} at its end
//	message   {channel, item-id, transport, count}: count clients have an item
//	activity  {count}: requests, and messages of WebSocket clients
//	counts    {requests-received}
//	report    {connections, minutes, received, sent, http-response-sent,
//	          client-messages-received, client-messages-sent, duration}
//
// All have from; what is of a route that was given an id has route.
type Stats struct {
	opts StatsOptions
	w    *Watch

	// Guarded by mu.
	mu       sync.Mutex
	conns    map[string]*conn
	subs     map[followed]*subscribed
	messages map[messageKey]int
	order    []messageKey // of messages
	activity map[string]int
	requests int
	reports  map[string]*report // by route; "" for what has none
	last     time.Time
}

type conn struct {
	about   hub.About
	since   time.Time
	told    time.Time
	minutes int // counted already
}

type subscribed struct {
	count  int
	told   time.Time
	linger time.Time // when nobody follows it any more; zero while somebody does
}

type messageKey struct {
	channel string
	item    *grip.Item
	format  hub.Format
}

// report is what one report adds up.
type report struct {
	open, most   int // connections now, and at most
	minutes      int
	received     int
	sent         int
	responses    int
	fromClients  int
	toWebSockets int
}

// NewStats returns Stats that tell nothing by themselves before Run runs.
func NewStats(opts StatsOptions) *Stats {
	if opts.ConnectionTTL == 0 {
		opts.ConnectionTTL = 120 * time.Second
	}
	if opts.SubscriptionTTL == 0 {
		opts.SubscriptionTTL = 60 * time.Second
	}
	if opts.ReportEvery == 0 {
		opts.ReportEvery = 10 * time.Second
	}
	return &Stats{
		opts: opts, conns: make(map[string]*conn), subs: make(map[followed]*subscribed),
		messages: make(map[messageKey]int), activity: make(map[string]int),
		reports: map[string]*report{"": {}}, last: time.Now(),
	}
}

// Run tells what is told in its own time, until ctx ends.
func (s *Stats) Run(ctx context.Context) {
	activity := time.NewTicker(activityEvery)
	defer activity.Stop()
	messages := time.NewTicker(messageEvery)
	defer messages.Stop()
	renew := time.NewTicker(renewEvery)
	defer renew.Stop()
	reports := time.NewTicker(s.opts.ReportEvery)
	defer reports.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-messages.C:
			s.tellMessages()
		case <-activity.C:
			s.tellActivity()
		case now := <-renew.C:
			s.renew(now)
		case now := <-reports.C:
			s.tellReports(now)
		}
	}
}

// sendLocked sends a message, if anybody listens.
func (s *Stats) sendLocked(kind, route string, value map[string]any) {
	value["from"] = s.opts.From
	if route != "" {
		value["route"] = route
	}
	s.opts.Send(kind, value)
}

func (s *Stats) reportLocked(route string) *report {
	r := s.reports[route]
	if r == nil {
		r = &report{}
		s.reports[route] = r
	}
	return r
}

// Event implements Listener.
func (s *Stats) Event(e *Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e.Kind {
	case Connect:
		c := &conn{about: e.Client, since: e.Time}
		s.conns[e.Client.ID] = c
		r := s.reportLocked(e.Client.Route)
		r.open++
		r.most = max(r.most, r.open)
		s.tellConnLocked(c, e.Time)
	case Disconnect:
		c := s.conns[e.Client.ID]
		if c == nil {
			return
		}
		delete(s.conns, e.Client.ID)
		r := s.reportLocked(c.about.Route)
		r.open--
		r.minutes += c.passed(e.Time)
		if s.opts.Connections {
			s.sendLocked("conn", "", map[string]any{"id": c.about.ID, "unavailable": true})
		}
	case Subscribe, Unsubscribe:
		f := followed{e.Client.Format, e.Channel}
		sub := s.subs[f]
		if sub == nil {
			sub = &subscribed{}
			s.subs[f] = sub
		}
		sub.count = e.Subscribers
		switch {
		case sub.count > 0:
			if fresh := sub.told.IsZero(); fresh || !sub.linger.IsZero() {
				s.tellSubLocked(f, sub, e.Time)
			}
			sub.linger = time.Time{}
		case f.format == hub.FormatResponse && s.opts.Linger > 0:
			sub.linger = e.Time // the next poll usually comes at once
		default:
			s.endSubLocked(f)
		}
	}
}

// passed returns the minutes that were begun and not counted.
func (c *conn) passed(now time.Time) int {
	n := int(now.Sub(c.since)/time.Minute) + 1 - c.minutes
	c.minutes += n
	return n
}

func (s *Stats) tellConnLocked(c *conn, now time.Time) {
	c.told = now
	if !s.opts.Connections {
		return
	}
	kind := "http"
	if c.about.Format == hub.FormatMessage {
		kind = "ws"
	}
	value := map[string]any{"id": c.about.ID, "type": kind, "peer-address": c.about.Client, "ttl": int(s.opts.ConnectionTTL / time.Second)}
	if c.about.TLS {
		value["ssl"] = true
	}
	s.sendLocked("conn", c.about.Route, value)
}

// modes are the words of Pushpin for formats.
var modes = [...]string{hub.FormatResponse: "response", hub.FormatStream: "stream", hub.FormatMessage: "ws"}

func (s *Stats) tellSubLocked(f followed, sub *subscribed, now time.Time) {
	sub.told = now
	s.sendLocked("sub", "", map[string]any{
		"mode": modes[f.format], "channel": f.channel, "subscribers": sub.count, "ttl": int(s.opts.SubscriptionTTL / time.Second),
	})
}

func (s *Stats) endSubLocked(f followed) {
	delete(s.subs, f)
	s.sendLocked("sub", "", map[string]any{"mode": modes[f.format], "channel": f.channel, "unavailable": true})
}

// renew tells again what would be forgotten, and ends what nobody followed again.
func (s *Stats) renew(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		if now.Sub(c.told) >= s.opts.ConnectionTTL*3/4 {
			s.tellConnLocked(c, now)
		}
	}
	for f, sub := range s.subs {
		switch {
		case !sub.linger.IsZero() && now.Sub(sub.linger) >= s.opts.Linger:
			s.endSubLocked(f)
		case now.Sub(sub.told) >= s.opts.SubscriptionTTL*3/4:
			s.tellSubLocked(f, sub, now)
		}
	}
}

// Counts implements Listener.
func (s *Stats) Counts() bool { return s.opts.Heard() }

// Received implements Listener.
func (s *Stats) Received(string, *grip.Item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports[""].received++
}

// Delivered implements Listener.
func (s *Stats) Delivered(channel string, item *grip.Item, format hub.Format, clients int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.reports[""]
	r.sent += clients
	switch format {
	case hub.FormatResponse:
		r.responses += clients
	case hub.FormatMessage:
		r.toWebSockets += clients
	}
	key := messageKey{channel, item, format}
	if _, known := s.messages[key]; !known {
		if len(s.messages) == messagesMax || !s.opts.Heard() {
			return
		}
		s.order = append(s.order, key)
	}
	s.messages[key] += clients
}

// tellMessages tells how many clients have which item.
func (s *Stats) tellMessages() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range s.order {
		value := map[string]any{"channel": key.channel, "count": s.messages[key], "transport": key.format.String()}
		if key.item.ID != "" {
			value["item-id"] = key.item.ID
		}
		s.sendLocked("message", "", value)
	}
	if s.order != nil {
		s.order = nil
		clear(s.messages)
	}
}

// Spoke implements Listener.
func (s *Stats) Spoke(route string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.activity[route]++
	s.reportLocked(route).fromClients++
}

// Requested implements Listener.
func (s *Stats) Requested(route string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.activity[route]++
	s.requests++
}

func (s *Stats) tellActivity() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for route, count := range s.activity {
		s.sendLocked("activity", route, map[string]any{"count": count})
	}
	clear(s.activity)
	if s.requests > 0 {
		s.sendLocked("counts", "", map[string]any{"requests-received": s.requests})
		s.requests = 0
	}
}

// tellReports adds up what was since the last ones.
func (s *Stats) tellReports(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		s.reportLocked(c.about.Route).minutes += c.passed(now)
	}
	duration := int(now.Sub(s.last) / time.Millisecond)
	s.last = now
	for route, r := range s.reports {
		value := map[string]any{
			"connections": r.most, "minutes": r.minutes, "client-messages-received": r.fromClients, "duration": duration,
		}
		if route == "" { // an item is of no route
			value["received"], value["sent"] = r.received, r.sent
			value["http-response-sent"], value["client-messages-sent"] = r.responses, r.toWebSockets
		}
		s.sendLocked("report", route, value)
		s.reports[route] = &report{open: r.open, most: r.open}
		if route != "" && r.open == 0 && r.most == 0 && r.fromClients == 0 && r.minutes == 0 {
			delete(s.reports, route)
		}
	}
}
