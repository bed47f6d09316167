package hub

import (
	"strconv"
	"sync"

	"github.com/gripway/gripway/grip"
)

// Publication is one item on its way to many. It may be used concurrently.
type Publication struct {
	Item    *grip.Item
	channel string // of an item that came by a pattern
	frame   func(m *grip.MessageItem, deflated bool) []byte

	// receipt is nil unless somebody wants to know what becomes of the item.
	receipt *receipt

	chunk    lazy
	frames   lazy
	deflated lazy
}

// lazy is bytes that are made on first use.
type lazy struct {
	once sync.Once
	b    []byte
}

func (l *lazy) get(make func() []byte) []byte {
	l.once.Do(func() { l.b = make() })
	return l.b
}

// special says that the item asks for more than to be sent, in some format, or
// that it is asked about.
func (p *Publication) special() bool {
	it := p.Item
	return p.receipt != nil || it.Response != nil && (it.Response.Action != grip.ActionSend || it.Response.HasContentFilters) ||
		it.Stream != nil && (it.Stream.Action != grip.ActionSend || it.Stream.HasContentFilters) ||
		it.Message != nil && (it.Message.Action != grip.ActionSend || it.Message.HasContentFilters)
}

// size is how long what is written to a client is. weight is how much memory it takes
// while it waits: an answer of a long poll, meta and headers count, too.
func (p *Publication) size() int {
	n := 0
	if p.Item.Stream != nil {
		n = len(p.Item.Stream.Content)
	}
	if p.Item.Message != nil {
		n = max(n, len(p.Item.Message.Content))
	}
	return n
}

func (p *Publication) weight() int { return max(p.size(), len(p.Item.Raw())) }

// streamChunk is the content as a chunk of the chunked transfer coding (RFC
// 9112, section 7.1). Empty content is no chunk: that would end the response.
func (p *Publication) streamChunk() []byte {
	return p.chunk.get(func() []byte { return AppendChunk(nil, p.Item.Stream.Content) })
}

func (p *Publication) messageFrame(deflated bool) []byte {
	l := &p.frames
	if deflated {
		l = &p.deflated
	}
	return l.get(func() []byte { return p.frame(p.Item.Message, deflated) })
}

// AppendChunk appends content as one chunk, and nothing if it is empty.
func AppendChunk(dst, content []byte) []byte {
	if len(content) == 0 {
		return dst
	}
	dst = strconv.AppendInt(dst, int64(len(content)), 16)
	dst = append(dst, "\r\n"...)
	dst = append(dst, content...)
	return append(dst, "\r\n"...)
}

// Run is one or more items of a channel, in order. An item that asks for
// something else than to be sent to all comes alone. It is only valid during Receiver.Deliver; the bytes it returns are
// shared, stay valid, and must not be changed.
type Run struct {
	Channel string
	*run
}

// run is what a Run shares with all who receive it; owned by the shard.
type run struct {
	pubs []*Publication

	raw, chunks, frames, deflated encoded
}

type encoded struct {
	done bool
	b    []byte
	n    int
}

// Len is the number of items.
func (r *run) Len() int { return len(r.pubs) }

// One says that this is an item that only one client is offered at a time.
func (r *run) One() bool { return len(r.pubs) == 1 && r.pubs[0].Item.One }

// Item returns the item at i.
func (r *run) Item(i int) *grip.Item { return r.pubs[i].Item }

// Stream returns the contents for a stream, one after the other, and how many
// items they are from.
func (r *run) Stream() ([]byte, int) {
	return r.raw.join(r.pubs, streams, func(p *Publication) []byte { return p.Item.Stream.Content })
}

// Chunks is Stream in the chunked transfer coding.
func (r *run) Chunks() ([]byte, int) {
	return r.chunks.join(r.pubs, streams, (*Publication).streamChunk)
}

// Frames returns the WebSocket frames and how many items they are from.
func (r *run) Frames(deflated bool) ([]byte, int) {
	if deflated {
		return r.deflated.join(r.pubs, messages, func(p *Publication) []byte { return p.messageFrame(true) })
	}
	return r.frames.join(r.pubs, messages, func(p *Publication) []byte { return p.messageFrame(false) })
}

// Single returns the frame of the item at i, which must have a message.
func (r *run) Single(i int, deflated bool) []byte { return r.pubs[i].messageFrame(deflated) }

// SingleChunk returns the chunk of the item at i, which must have a stream part.
func (r *run) SingleChunk(i int) []byte { return r.pubs[i].streamChunk() }

func streams(p *Publication) bool {
	return p.Item.Stream != nil && p.Item.Stream.Action == grip.ActionSend
}

func messages(p *Publication) bool {
	return p.Item.Message != nil && p.Item.Message.Action == grip.ActionSend
}

// join puts together, once, what encode makes of the publications that have it.
func (e *encoded) join(pubs []*Publication, has func(*Publication) bool, encode func(*Publication) []byte) ([]byte, int) {
	if e.done {
		return e.b, e.n
	}
	e.done = true
	size := 0
	var only []byte
	for _, p := range pubs {
		if has(p) {
			e.n++
			only = encode(p)
			size += len(only)
		}
	}
	if e.n <= 1 {
		e.b = only
		return e.b, e.n
	}
	e.b = make([]byte, 0, size)
	for _, p := range pubs {
		if has(p) {
			e.b = append(e.b, encode(p)...)
		}
	}
	return e.b, e.n
}
