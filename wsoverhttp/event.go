package wsoverhttp

import (
	"encoding/binary"
	"math"
	"strings"
	"unicode/utf8"
)

// Event is one thing that happened on a WebSocket.
type Event struct {
	Type EventType

	// Content is a message, a ping's or pong's payload, or for Close what
	// CloseContent makes. Nil means none, which on the wire differs from empty;
	// to whoever reads the message they are the same.
	Content []byte
}

// EventType tells events apart. The zero EventType is none of them.
type EventType int

const (
	// Open asks for a WebSocket (gateway) or grants it (origin).
	Open EventType = iota + 1

	// Text and Binary are whole messages; fragments have been put together.
	Text
	Binary

	// Ping and Pong are control frames as the client sent or shall see them.
	Ping
	Pong

	// Close is a Close frame: the connection ends politely.
	Close

	// Disconnect says that the connection is gone without a Close frame, or,
	// from the origin, that it shall go that way.
	Disconnect
)

var eventNames = [...]string{
	Open: "OPEN", Text: "TEXT", Binary: "BINARY", Ping: "PING", Pong: "PONG", Close: "CLOSE", Disconnect: "DISCONNECT",
}

// String returns the name on the wire, or "" for what is not an event.
func (t EventType) String() string {
	if t < Open || t > Disconnect {
		return ""
	}
	return eventNames[t]
}

// isControl tells whether the event becomes a control frame.
func (t EventType) isControl() bool { return t == Ping || t == Pong || t == Close }

const (
	// controlBytesMax is what a WebSocket control frame can carry (RFC 6455,
	// section 5.5).
	controlBytesMax = 125

	// closeReasonBytesMax is what the code leaves of it.
	closeReasonBytesMax = controlBytesMax - 2
)

// CloseContent returns a Close event's content: the code, then the reason.
//
//	03 e8 b y e        1000, "bye"
//
// A code that two bytes cannot hold means none, as does zero, and returns nil:
// the reason cannot travel without a code. The reason is made valid UTF-8 and cut at a rune to what a
// Close frame can carry, 123 bytes.
func CloseContent(code int, reason string) []byte {
	if code <= 0 || code > math.MaxUint16 {
		return nil
	}
	reason = strings.ToValidUTF8(reason, "\uFFFD")
	if len(reason) > closeReasonBytesMax {
		end := closeReasonBytesMax
		for !utf8.RuneStart(reason[end]) {
			end--
		}
		reason = reason[:end]
	}
	content := make([]byte, 2, 2+len(reason))
	binary.BigEndian.PutUint16(content, uint16(code))
	return append(content, reason...)
}

// ParseClose reads a Close event's content as it was sent: the code may be one
// that no Close frame may carry (see ValidCloseCode), the reason may not be
// UTF-8. ok is false if there is no code, be the content absent or too short.
func ParseClose(content []byte) (code int, reason string, ok bool) {
	if len(content) < 2 {
		return 0, "", false
	}
	return int(binary.BigEndian.Uint16(content)), string(content[2:]), true
}

// ValidCloseCode tells whether a Close frame may carry code. Origins send others
// too: a library's close() without a code is 0, which a gateway must turn into a
// Close frame without a code, or browsers report 1006.
func ValidCloseCode(code int) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014, code >= 3000 && code <= 4999:
		return true
	}
	return false
}
