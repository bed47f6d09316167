package sockjs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Frames without content.
const (
	frameOpen      = "o"
	frameHeartbeat = "h"
)

// appendMessages appends the frame of messages: a["…","…"].
func appendMessages(b []byte, messages [][]byte) []byte {
	b = append(b, "a["...)
	for i, message := range messages {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendQuoted(b, message)
	}
	return append(b, ']')
}

// closeFrame is the frame that ends a session.
func closeFrame(code int, reason string) string {
	return string(append(appendQuoted(fmt.Appendf(nil, "c[%d,", code), []byte(reason)), ']'))
}

// appendQuoted appends a text as JSON in which all characters are escaped that
// some browser loses or mistakes on its way (SockJS, "escaping").
func appendQuoted(b, text []byte) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, '\\', 'n')
		case r == '\r':
			b = append(b, '\\', 'r')
		case r == '\t':
			b = append(b, '\\', 't')
		case fragile(r):
			b = append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
		default:
			b = append(b, text[:size]...)
		}
		text = text[size:]
	}
	return append(b, '"')
}

// fragile says which characters do not arrive everywhere.
func fragile(r rune) bool {
	switch {
	case r < 0x20, r == 0x7f:
	case r >= 0x200c && r <= 0x200f:
	case r >= 0x2028 && r <= 0x202f:
	case r >= 0x2060 && r <= 0x206f:
	case r >= 0xfff0 && r <= 0xffff:
	default:
		return false
	}
	return true
}

var errPayload = errors.New("want a list of texts")

// readMessages reads what a client says: a list of texts.
func readMessages(payload []byte) ([]string, error) {
	var messages []string
	if !bytes.HasPrefix(bytes.TrimLeft(payload, " \t\r\n"), []byte("[")) {
		return nil, errPayload // null is not one
	}
	var raw []any
	if err := json.Unmarshal(payload, &raw); err != nil {
		return nil, errPayload
	}
	for _, element := range raw {
		text, ok := element.(string)
		if !ok {
			return nil, errPayload
		}
		messages = append(messages, text)
	}
	return messages, nil
}

// readSocketMessages reads what a client with a WebSocket says: a list of texts,
// or one.
func readSocketMessages(payload []byte) ([]string, error) {
	if len(payload) > 0 && payload[0] == '"' {
		var text string
		if err := json.Unmarshal(payload, &text); err != nil {
			return nil, errPayload
		}
		return []string{text}, nil
	}
	return readMessages(payload)
}
