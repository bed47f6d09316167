package wire

import (
	"bytes"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
)

// headBytesMax bounds what is kept of a request's head; a longer one is not seen.
const headBytesMax = 64 << 10

// talk is what a client says to its HTTP server, in order and in its own case, which
// net/http does not tell. It is kept where ContextSeen was asked for it.
type talk struct {
	two atomic.Bool // HTTP/2 is spoken

	mu      sync.Mutex
	over    bool     // it speaks HTTP no more
	greeted int      // octets of HTTP/2's preface there were; negative: it speaks HTTP/1
	head    head     // HTTP/1: of the request under way
	streams *streams // HTTP/2
}

// heard takes what the client sent.
func (t *talk) heard(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.over:
	case t.streams != nil:
		t.streams.heard(p)
	case t.greeted < 0:
		t.head.take(p)
	default:
		t.greet(p)
	}
}

// greet finds out what is spoken.
func (t *talk) greet(p []byte) {
	n := min(len(preface)-t.greeted, len(p))
	if string(p[:n]) != preface[t.greeted:t.greeted+n] {
		if t.greeted > 0 {
			t.head.take([]byte(preface[:t.greeted]))
		}
		t.greeted = -1
		t.head.take(p)
		return
	}
	if t.greeted += n; t.greeted == len(preface) {
		t.streams = newStreams()
		t.two.Store(true)
		t.streams.heard(p[n:])
	}
}

// said takes what the server sent.
func (t *talk) said(p []byte) {
	if !t.two.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.streams.said(p)
}

// next makes room for the connection's next request.
func (t *talk) next() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.head.next()
}

// end forgets it all: the connection is not the server's any more.
func (t *talk) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over, t.head = true, head{}
}

// head is a request's head of HTTP/1.
type head struct {
	sent  []byte
	done  bool   // it is all there, or will not be
	body  int64  // bytes that follow it; negative: unknown
	after []byte // what came after these: the next one's, read while this is answered
}

// take keeps what was read of it.
func (h *head) take(p []byte) {
	if h.done {
		h.follow(p)
		return
	}
	h.add(p)
}

// add looks for the head's end.
func (h *head) add(p []byte) {
	from := max(len(h.sent)-len("\n\r"), 0)
	h.sent = append(h.sent, p...)
	switch end := blankLine(h.sent[from:]); {
	case end >= 0:
		end += from
		rest := h.sent[end:]
		h.sent, h.done = h.sent[:end:end], true
		h.body = bodyAfter(h.sent)
		h.follow(rest)
	case len(h.sent) > headBytesMax:
		h.sent, h.done, h.body = nil, true, -1
	}
}

// blankLine is where the first one ends, after some line; negative: there is none.
// Lines may end in LF alone (RFC 9112, section 2.2).
func blankLine(b []byte) int {
	for at := 0; ; {
		lf := bytes.IndexByte(b[at:], '\n')
		if lf < 0 {
			return -1
		}
		at += lf + 1
		switch rest := b[at:]; {
		case bytes.HasPrefix(rest, []byte("\n")):
			return at + 1
		case bytes.HasPrefix(rest, []byte("\r\n")):
			return at + 2
		}
	}
}

// cutLine is the first line of a head, and the rest.
func cutLine(b []byte) (line, rest []byte, ok bool) {
	line, rest, ok = bytes.Cut(b, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r")), rest, ok
}

// follow takes what comes after the head.
func (h *head) follow(p []byte) {
	if h.body < 0 {
		return
	}
	skip := min(h.body, int64(len(p)))
	h.body -= skip
	p = p[skip:]
	h.after = append(h.after, p[:min(len(p), headBytesMax-len(h.after))]...)
}

// bodyAfter is how long the body after a head is; negative if that cannot be told.
func bodyAfter(sent []byte) int64 {
	length := int64(0)
	for line := range bytes.SplitSeq(sent, []byte("\n")) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			return -1
		case bytes.EqualFold(name, []byte("content-length")):
			n, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
			if err != nil {
				return -1
			}
			length = n
		}
	}
	return length
}

func (h *head) next() {
	after := h.after
	h.sent, h.done, h.body, h.after = nil, false, 0, nil
	if len(after) > 0 {
		h.add(after)
	}
}

// Line is one line of a head.
type Line struct{ Name, Value string }

// HeadFrom returns the header of a request as it was sent; nil if it is not known.
// Its server has ContextSeen for connections. Over HTTP/2 it is told once, without the
// pseudo-headers, and not to who asks when the client has gone.
func HeadFrom(r *http.Request) []Line {
	t, _ := r.Context().Value(talkKey{}).(*talk)
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case r.ProtoMajor == 1:
		return t.head.lines(r)
	case t.streams != nil && r.Context().Err() == nil: // its own is dropped by then; it would be told another's
		return t.streams.tell(r)
	}
	return nil
}

// FramesFrom returns how a request's client began to speak HTTP/2, as a fingerprint;
// empty if it is not known. Its server has ContextSeen for connections.
func FramesFrom(r *http.Request) string {
	t, _ := r.Context().Value(talkKey{}).(*talk)
	if t == nil || !t.two.Load() {
		return ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.streams.print.text
}

// lines are those of a request's head.
func (h *head) lines(r *http.Request) []Line {
	first, rest, ok := cutLine(h.sent)
	// With requests one after the other in one packet, it is another's.
	if !ok || !h.done || string(first) != r.Method+" "+r.RequestURI+" "+r.Proto {
		return nil
	}
	lines := make([]Line, 0, len(r.Header)+1)
	for {
		line, after, ok := cutLine(rest)
		if !ok || len(line) == 0 {
			return lines
		}
		rest = after
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || len(name) == 0 || name[0] == ' ' || name[0] == '\t' {
			return nil // folded, as nobody should
		}
		lines = append(lines, Line{string(name), string(bytes.Trim(value, " \t"))})
	}
}

type talkKey struct{}
