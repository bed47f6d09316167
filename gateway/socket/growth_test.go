package socket

import (
	"testing"

	"github.com/gripway/gripway/gateway/wire"
)

// newReading is a session that is only read.
func newReading() *session {
	return &session{terms: &Terms{}, keeper: NewKeeper(Options{}), conn: (*wire.Conn)(nil)}
}

func TestEmptyFragmentsAreNotKept(t *testing.T) {
	s := newReading()
	s.Data(nil, []byte{0x01, 0x81, 0, 0, 0, 0, 'a'})
	before := len(s.unread.message)
	for range 10_000 {
		s.Data(nil, []byte{0x00, 0x80, 0, 0, 0, 0})
	}
	if got := len(s.unread.message); got != before {
		t.Fatalf("kept of an unfinished message: got %d bytes, want %d", got, before)
	}
}
