package wsoverhttp

import (
	"bytes"
	"fmt"
	"math/bits"
	"strconv"
)

// AppendEvents adds the events' bytes to dst.
//
//	TEXT 5\r\n
//	hello\r\n          5 is the size in hexadecimal, lower case
//	TEXT 0\r\n
//	\r\n               empty content
//	TEXT\r\n           no content
//
// It panics if an event has no type.
func AppendEvents(dst []byte, events ...Event) []byte {
	for _, event := range events {
		dst = appendEvent(dst, event)
	}
	return dst
}

// Decode reads the events of a body. Their contents alias it.
//
// Decode is strict: content is as long as its size says and followed by CRLF.
// Its errors name the event and its first byte, and are ErrNoLineEnd,
// ErrBadSize, ErrTruncated or ErrNoContentEnd. Events of unknown type are
// skipped, so that a later version of the protocol can add some; an empty line
// is one of them. Names are case-sensitive.
func Decode(body []byte) ([]Event, error) {
	found, err := check(body, true)
	if err != nil {
		return nil, err
	}
	return found.events(body), nil
}

// contents is what check found in a body.
type contents struct {
	first   EventType // of the first event, zero if that is unknown or there is none
	known   int       // events of known type
	unknown int       // events of unknown type
}

// empty tells whether there are no events, not even unknown ones.
func (c contents) empty() bool { return c.known+c.unknown == 0 }

// check walks over a body without keeping anything, so that events can allocate
// once. Unless strict, content may end with the body, and the two bytes after it
// may be any: this is how gateways have always read what origins answer.
func check(body []byte, strict bool) (found contents, err error) {
	for at := 0; at < len(body); {
		kind, _, next, err := scan(body, at, strict)
		if err != nil {
			return contents{}, fmt.Errorf("event %d at byte %d: %w", found.known+found.unknown+1, at, err)
		}
		if found.empty() {
			found.first = kind
		}
		if kind == 0 {
			found.unknown++
		} else {
			found.known++
		}
		at = next
	}
	return found, nil
}

// events returns the events of known type of a body that check has passed.
func (c contents) events(body []byte) []Event {
	if c.known == 0 {
		return nil
	}
	events := make([]Event, 0, c.known)
	for at := 0; at < len(body); {
		kind, content, next, _ := scan(body, at, false)
		if kind != 0 {
			events = append(events, Event{kind, content})
		}
		at = next
	}
	return events
}

// scan reads the event that begins at body[at]. next is where the following one
// begins, at most len(body); kind is zero for an unknown type.
func scan(body []byte, at int, strict bool) (kind EventType, content []byte, next int, err error) {
	end := bytes.Index(body[at:], crlf)
	if end < 0 {
		return 0, nil, 0, fmt.Errorf("%w: %s", ErrNoLineEnd, excerpt(body[at:]))
	}
	line := body[at : at+end]
	next = at + end + len(crlf)

	name, digits, sized := bytes.Cut(line, space)
	kind = eventType(name)
	if !sized {
		return kind, nil, next, nil
	}
	size, ok := parseSize(digits)
	if !ok {
		return 0, nil, 0, fmt.Errorf("%w: %s", ErrBadSize, excerpt(digits))
	}
	rest := body[next:]
	if size > uint64(len(rest)) {
		if strict {
			return 0, nil, 0, fmt.Errorf("%w: %d bytes of %d", ErrTruncated, len(rest), size)
		}
		return kind, rest[:len(rest):len(rest)], len(body), nil
	}
	n := int(size)
	content, rest = rest[:n:n], rest[n:]
	if strict {
		if len(rest) < len(crlf) {
			return 0, nil, 0, fmt.Errorf("%w: the line end after %d bytes is missing", ErrTruncated, n)
		}
		if !bytes.HasPrefix(rest, crlf) {
			return 0, nil, 0, fmt.Errorf("%w: after %d bytes comes %s", ErrNoContentEnd, n, excerpt(rest))
		}
	}
	return kind, content, min(next+n+len(crlf), len(body)), nil
}

var (
	crlf  = []byte("\r\n")
	space = []byte(" ")
)

func eventType(name []byte) EventType {
	switch string(name) {
	case "OPEN":
		return Open
	case "TEXT":
		return Text
	case "BINARY":
		return Binary
	case "PING":
		return Ping
	case "PONG":
		return Pong
	case "CLOSE":
		return Close
	case "DISCONNECT":
		return Disconnect
	}
	return 0
}

// parseSize reads hexadecimal digits of either case and nothing else: no sign,
// no prefix, no blanks, no more than 64 bits.
func parseSize(digits []byte) (size uint64, ok bool) {
	if len(digits) == 0 || len(digits) > 16 {
		return 0, false
	}
	for _, c := range digits {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		size = size<<4 | uint64(c)
	}
	return size, true
}

func appendEvent(dst []byte, event Event) []byte {
	name := event.Type.String()
	if name == "" {
		panic("wsoverhttp: event of type " + strconv.Itoa(int(event.Type)))
	}
	dst = append(dst, name...)
	if event.Content != nil {
		dst = append(dst, ' ')
		dst = strconv.AppendUint(dst, uint64(len(event.Content)), 16)
		dst = append(dst, crlf...)
		dst = append(dst, event.Content...)
	}
	return append(dst, crlf...)
}

// encodedLen is how many bytes appendEvent adds.
func encodedLen(event Event) int {
	n := len(event.Type.String()) + len(crlf)
	if event.Content != nil {
		digits := max(1, (bits.Len(uint(len(event.Content)))+3)/4)
		n += len(space) + digits + len(crlf) + len(event.Content)
	}
	return n
}

// excerptMax is how many bytes of a peer's an error shows.
const excerptMax = 40

func excerpt[T string | []byte](s T) string {
	if len(s) > excerptMax {
		return strconv.Quote(string(s[:excerptMax])) + "…"
	}
	return strconv.Quote(string(s))
}
