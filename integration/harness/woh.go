package harness

import (
	"bytes"
	"fmt"
	"strconv"
)

// Event is one WebSocket-over-HTTP event, written and read here by hand: the
// suite does not trust the code that it tests.
//
//	TEXT 5\r\n
//	hello\r\n          5 is hexadecimal; no size means no content
type Event struct {
	Type    string
	Content []byte // nil: none
}

// AppendEvent adds e's bytes to dst.
func AppendEvent(dst []byte, e Event) []byte {
	dst = append(dst, e.Type...)
	if e.Content != nil {
		dst = fmt.Appendf(dst, " %x\r\n", len(e.Content))
		dst = append(dst, e.Content...)
	}
	return append(dst, "\r\n"...)
}

// ReadEvents reads the events of a request's body.
func ReadEvents(body []byte) ([]Event, error) {
	var events []Event
	for len(body) > 0 {
		line, rest, ok := bytes.Cut(body, []byte("\r\n"))
		if !ok {
			return events, fmt.Errorf("event line %s does not end", Quote(body))
		}
		kind, digits, sized := bytes.Cut(line, []byte(" "))
		event := Event{Type: string(kind)}
		if sized {
			size, err := strconv.ParseUint(string(digits), 16, 31)
			if err != nil {
				return events, fmt.Errorf("event line %q: %w", line, err)
			}
			if uint64(len(rest)) < size+2 || string(rest[size:size+2]) != "\r\n" {
				return events, fmt.Errorf("event %q: content is shorter or longer than it says", line)
			}
			event.Content, rest = rest[:size:size], rest[size+2:]
		}
		events = append(events, event)
		body = rest
	}
	return events, nil
}

// echo answers events as a polite origin would: messages come back as they
// are, a ping as a pong, an end as an end.
func echo(events []Event) []byte {
	var answer []byte
	for _, event := range events {
		switch event.Type {
		case "OPEN", "TEXT", "BINARY", "CLOSE":
			answer = AppendEvent(answer, event)
		case "PING":
			answer = AppendEvent(answer, Event{"PONG", event.Content})
		}
	}
	return answer
}
