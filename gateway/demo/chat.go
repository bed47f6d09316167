package demo

import (
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/wsoverhttp"
)

// The channels of the chat. What is published on chatChannel by somebody else is
// shown too, be it JSON or a line of text.
const (
	chatChannel     = "chat"
	presenceChannel = "presence" // who is here, and who is typing
)

const (
	// connectionsMax bounds the WebSockets; the next one is refused with 503.
	connectionsMax = 500

	// peopleShownMax bounds the list of who is here; the rest is a number.
	peopleShownMax = 48

	// historyMax is how many messages somebody who joins is sent.
	historyMax = 50

	// textRunesMax bounds a message: one thought, and a line of the page.
	textRunesMax = 500

	// messageBytesMax bounds what a client sends at once, before it is read.
	messageBytesMax = 4 << 10

	// tagBytesMax bounds what a window calls its own message by.
	tagBytesMax = 32

	// marksMax bounds the combining marks on one letter. Writing needs a few;
	// dozens climb over other people's messages.
	marksMax = 4

	// A connection may say sayBurst things at once and then one per sayEvery; ask
	// what it missed syncBurst times, then one per syncEvery; and one typing per
	// typingEvery counts.
	sayBurst, sayEvery   = 5, 700 * time.Millisecond
	syncBurst, syncEvery = 4, 2 * time.Second
	typingEvery          = time.Second

	// aliveEvery is how often the gateway asks for a quiet connection; it does so
	// every 20 seconds at most. The answer is a ping for the client.
	aliveEvery = 20 * time.Second

	// silenceMax is how long a client may say nothing, not even a pong, until it
	// is taken to be gone: three pings, and a little for a slow network.
	silenceMax = 3*aliveEvery + 5*time.Second
)

// person is who somebody is to the others. A window has a secret that it keeps
// while it lives; all of a person follows from its hash, so any process of the
// origin that sees the connection's meta knows who it is.
type person struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Hue  int    `json:"hue"` // degrees
}

// chat is what is said and who is here.
type chat struct {
	// Fixed after newChat.
	instance string
	outlet   *outlet
	log      *slog.Logger

	mu        sync.Mutex
	conns     map[string]*presence // by Connection-Id; at most connectionsMax
	version   int64                // of who is here
	rosterDue bool                 // a roster waits in the outlet, and will be the newest
	said      int64                // messages so far
	history   []saying             // at most historyMax
}

// presence is one connection. It is gone silenceMax after the last sign of life.
type presence struct {
	person person
	since  int64 // orders the list: version when it came
	seen   time.Time
	say    bucket
	sync   bucket
	typing time.Time // last that counted
}

// saying is a message as everybody gets it.
type saying struct {
	Type string `json:"type"` // "said"
	N    int64  `json:"n"`    // counts from 1
	Time int64  `json:"t"`    // Unix milliseconds
	From person `json:"from"`
	Text string `json:"text"`
	Tag  string `json:"tag,omitempty"` // the sender's own word for it
}

// roster is who is here.
type roster struct {
	Type    string    `json:"type"` // "roster"
	Version int64     `json:"version"`
	Total   int       `json:"total"`
	People  []present `json:"people"` // in the order in which they came; at most peopleShownMax
}

type present struct {
	person
	Windows int `json:"windows"`
}

// welcome is the first message on a connection.
type welcome struct {
	Type     string   `json:"type"`     // "welcome"
	Instance string   `json:"instance"` // another one than before: all numbers begin again
	You      person   `json:"you"`
	Roster   roster   `json:"roster"`
	History  []saying `json:"history"`
	TextMax  int      `json:"textMax"` // runes
}

// synced answers a sync: what the client has missed.
type synced struct {
	Type     string   `json:"type"` // "synced"
	Asked    float64  `json:"asked"`
	Now      float64  `json:"now"` // Unix milliseconds, for the client to tell how far its clock is off
	Roster   *roster  `json:"roster,omitempty"`
	Messages []saying `json:"messages,omitempty"`
}

// refused tells a client that what it sent has not happened.
type refused struct {
	Type string `json:"type"` // "refused"
	Tag  string `json:"tag,omitempty"`
	Why  string `json:"why"`
}

// typing tells that somebody writes.
type typing struct {
	Type string `json:"type"` // "typing"
	From person `json:"from"`
}

func newChat(instance string, outlet *outlet, log *slog.Logger) *chat {
	return &chat{instance: instance, outlet: outlet, log: log, conns: map[string]*presence{}}
}

// handler answers the gateway on behalf of the WebSockets.
func (c *chat) handler() http.Handler {
	return &wsoverhttp.Handler{
		Open:       c.open,
		Message:    c.message,
		Pong:       func(conn *wsoverhttp.Conn, _ []byte) { c.alive(conn) },
		Close:      func(conn *wsoverhttp.Conn, _ int, _ string) { c.leave(conn) },
		Disconnect: c.leave,
		Refresh:    c.refresh,
		Log:        c.log,
	}
}

// open lets a window in, subscribes it and tells it what there is.
func (c *chat) open(conn *wsoverhttp.Conn) {
	who := windowPerson(conn)
	noteWho(conn.Request, who)
	c.mu.Lock()
	if c.join(conn.ID, who) == nil {
		c.mu.Unlock()
		conn.Refuse(http.StatusServiceUnavailable, "The chat is full.\n")
		return
	}
	hello := welcome{
		Type: "welcome", Instance: c.instance, You: who, Roster: c.roster(),
		History: append([]saying{}, c.history...), TextMax: textRunesMax,
	}
	c.mu.Unlock()

	conn.SetMeta("Person", who.ID)
	conn.KeepAliveInterval(aliveEvery)
	conn.SetGripMeta("user", who.ID)
	conn.Subscribe(chatChannel)
	conn.Subscribe(presenceChannel, grip.SkipSelf.String())
	conn.SendText(string(compact(hello)))
}

// join notes a connection and tells everybody; nil if there is no room. mu is
// held.
func (c *chat) join(id string, who person) *presence {
	p := c.conns[id]
	if p == nil {
		if len(c.conns) >= connectionsMax {
			return nil
		}
		c.version++
		p = &presence{since: c.version}
		c.conns[id] = p
		c.announce()
	}
	p.person, p.seen = who, time.Now()
	return p
}

// present returns the connection of somebody who has just given a sign of life. If
// it is not known (the origin began anew, or took it for gone) it joins again.
func (c *chat) present(conn *wsoverhttp.Conn) *presence {
	who := metaPerson(conn)
	noteWho(conn.Request, who)
	return c.join(conn.ID, who)
}

// alive notes a sign of life.
func (c *chat) alive(conn *wsoverhttp.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.present(conn)
}

// refresh is the gateway's question whether there is anything for a quiet
// connection. That the gateway asks says nothing of the client: a ping does.
func (c *chat) refresh(conn *wsoverhttp.Conn) {
	noteWho(conn.Request, metaPerson(conn))
	conn.Ping(nil)
}

// leave forgets a connection at once.
func (c *chat) leave(conn *wsoverhttp.Conn) {
	noteWho(conn.Request, metaPerson(conn))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(conn.ID)
}

func (c *chat) forget(id string) {
	if _, ok := c.conns[id]; ok {
		delete(c.conns, id)
		c.version++
		c.announce()
	}
}

// sweep forgets those who have said nothing for too long.
func (c *chat) sweep(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, p := range c.conns {
		if now.Sub(p.seen) > silenceMax {
			c.forget(id)
		}
	}
}

// announce publishes who is here. Several changes in a row are one roster: it is
// written when it leaves. mu is held.
func (c *chat) announce() {
	if c.rosterDue {
		return
	}
	// Without room in the outlet, clients hear of it at their next sync.
	c.rosterDue = c.outlet.offer(panelChat, func() *grip.Item {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.rosterDue = false
		return messageItem(presenceChannel, c.roster())
	})
}

// roster lists who is here. mu is held.
func (c *chat) roster() roster {
	type entry struct {
		present
		since int64
	}
	byID := map[string]*entry{}
	for _, p := range c.conns {
		e := byID[p.person.ID]
		if e == nil {
			e = &entry{present{person: p.person}, p.since}
			byID[p.person.ID] = e
		}
		e.Windows++
		e.since = min(e.since, p.since)
	}
	entries := slices.SortedFunc(maps.Values(byID), func(a, b *entry) int { return int(a.since - b.since) })
	r := roster{Type: "roster", Version: c.version, Total: len(entries), People: []present{}}
	for _, e := range entries[:min(len(entries), peopleShownMax)] {
		r.People = append(r.People, e.present)
	}
	return r
}

// message is what a client sends: an object with a type, or else a line of text,
// so that one can take part from a terminal.
func (c *chat) message(conn *wsoverhttp.Conn, m wsoverhttp.Message) {
	var in struct {
		Type    string
		Text    string  // say
		Tag     string  // say
		Last    int64   // sync: n of the last message the client has
		Version int64   // sync: of the roster it has
		T       float64 // sync: comes back
	}
	answer := func(v any) { conn.SendText(string(compact(v))) }
	switch {
	case m.Binary:
		answer(refused{Type: "refused", Why: "Only text, please."})
		return
	case len(m.Content) > messageBytesMax:
		answer(refused{Type: "refused", Why: "That is too long."})
		return
	case len(m.Content) == 0 || m.Content[0] != '{':
		in.Type, in.Text = "say", string(m.Content)
	case json.Unmarshal(m.Content, &in) != nil:
		answer(refused{Type: "refused", Why: "That is not JSON."})
		return
	}
	if len(in.Tag) > tagBytesMax {
		in.Tag = ""
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	p := c.present(conn)
	if p == nil {
		conn.Close(1013, "the chat is full")
		return
	}
	switch in.Type {
	case "say":
		if why := c.say(p, now, in.Text, in.Tag); why != "" {
			answer(refused{"refused", in.Tag, why})
		}
	case "typing":
		if now.Sub(p.typing) >= typingEvery {
			p.typing = now
			item := messageItem(presenceChannel, typing{"typing", p.person})
			item.Meta = map[string]string{"sender": p.person.ID} // for the filter skip-self
			c.outlet.offer(panelChat, func() *grip.Item { return item })
		}
	case "sync":
		// Who asks too often is answered too: the client takes silence for a dead
		// connection.
		s := synced{Type: "synced", Asked: in.T, Now: milliseconds(now)}
		if p.sync.take(now, syncBurst, syncEvery) {
			c.addMissed(&s, in.Last, in.Version)
		}
		answer(s)
	default:
		answer(refused{"refused", in.Tag, "There is no such type of message."})
	}
}

// say publishes a message, or returns why not. mu is held: messages are published
// in the order of their numbers.
func (c *chat) say(p *presence, now time.Time, text, tag string) (why string) {
	text, why = clean(text)
	if why != "" {
		return why
	}
	if !p.say.take(now, sayBurst, sayEvery) {
		return "A little slower, please."
	}
	m := saying{"said", c.said + 1, now.UnixMilli(), p.person, text, tag}
	item := messageItem(chatChannel, m)
	if !c.outlet.offer(panelChat, func() *grip.Item { return item }) {
		return "Too much is being said at once. Try again."
	}
	c.said++
	p.typing = time.Time{} // what is typed now is the next message
	if len(c.history) == historyMax {
		c.history = slices.Delete(c.history, 0, 1)
	}
	m.Tag = ""
	c.history = append(c.history, m)
	return ""
}

// addMissed adds what somebody does not have who has the messages up to last and a
// version of the roster: items that were published between an answer and the
// subscription it asked for, or that were lost. mu is held.
func (c *chat) addMissed(s *synced, last, version int64) {
	if version != c.version {
		r := c.roster()
		s.Roster = &r
	}
	for _, m := range c.history {
		if m.N > last {
			s.Messages = append(s.Messages, m)
		}
	}
}

// messageItem is an item for WebSockets.
func messageItem(channel string, v any) *grip.Item {
	return &grip.Item{Channel: channel, Message: &grip.MessageItem{Content: compact(v)}}
}

// clean makes a text fit to be shown to others: one line of bounded length, without
// what cannot be seen or climbs out of its line. It need not be safe as HTML, the
// page never treats it so.
func clean(text string) (cleaned, why string) {
	var b strings.Builder
	runes, marks, visible := 0, 0, false
	for _, r := range strings.TrimSpace(strings.ToValidUTF8(text, "\uFFFD")) {
		switch {
		case unicode.IsSpace(r):
			r = ' '
		case r == '\u200c' || r == '\u200d':
			// Some scripts and emoji are written with them; alone they are nothing.
		case unicode.Is(unicode.M, r):
			if marks++; marks > marksMax {
				continue
			}
		case !unicode.IsPrint(r):
			continue // controls, directions, zero widths
		default:
			marks = 0
			visible = visible || r != ' '
		}
		if runes++; runes > textRunesMax {
			return "", "That is too long."
		}
		b.WriteRune(r)
	}
	if !visible {
		return "", "There is nothing to say."
	}
	return b.String(), ""
}

// bucket limits a rate: burst at once, then one per every. The zero bucket is full.
type bucket struct {
	full time.Time // when it is full again
}

func (b *bucket) take(now time.Time, burst int, every time.Duration) bool {
	full := b.full
	if full.Before(now) {
		full = now
	}
	if full.Sub(now) > time.Duration(burst-1)*every {
		return false
	}
	b.full = full.Add(every)
	return true
}
