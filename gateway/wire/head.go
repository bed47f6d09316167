package wire

import (
	"bytes"
	"net/http"
	"strconv"
	"sync"
)

// headBytesMax bounds what is kept of a request's head; a longer one is not seen.
const headBytesMax = 64 << 10

// head is a request's head as its client sent it: in order, in its own case, which
// net/http does not tell. It is kept where ContextSeen was asked for it.
type head struct {
	mu    sync.Mutex
	sent  []byte
	done  bool   // it is all there, or will not be
	body  int64  // bytes that follow it; negative: unknown
	after []byte // what came after these: the next one's, read while this is answered
}

var headEnd = []byte("\r\n\r\n")

// take keeps what was read of it.
func (h *head) take(p []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		h.follow(p)
		return
	}
	h.add(p)
}

// add looks for the head's end.
func (h *head) add(p []byte) {
	from := max(len(h.sent)-len(headEnd)+1, 0)
	h.sent = append(h.sent, p...)
	switch end := bytes.Index(h.sent[from:], headEnd); {
	case end >= 0:
		end += from + len(headEnd)
		rest := h.sent[end:]
		h.sent, h.done = h.sent[:end:end], true
		h.body = bodyAfter(h.sent)
		h.follow(rest)
	case len(h.sent) > headBytesMax:
		h.sent, h.done, h.body = nil, true, -1
	}
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
	for line := range bytes.SplitSeq(sent, []byte("\r\n")) {
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

// next makes room for the connection's next request.
func (h *head) next() {
	h.mu.Lock()
	defer h.mu.Unlock()
	after := h.after
	h.sent, h.done, h.body, h.after = nil, false, 0, nil
	if len(after) > 0 {
		h.add(after)
	}
}

// Line is one line of a head.
type Line struct{ Name, Value string }

// HeadFrom returns the header of a request as it was sent; nil if it is not known.
// Its server has ContextSeen for connections.
func HeadFrom(r *http.Request) []Line {
	c, _ := r.Context().Value(headKey{}).(*head)
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	first, rest, ok := bytes.Cut(c.sent, []byte("\r\n"))
	// With requests one after the other in one packet, it is another's.
	if !ok || !c.done || string(first) != r.Method+" "+r.RequestURI+" "+r.Proto {
		return nil
	}
	lines := make([]Line, 0, len(r.Header)+1)
	for {
		line, after, ok := bytes.Cut(rest, []byte("\r\n"))
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

type headKey struct{}
