package socket

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"testing"
)

// deflatedFrame is a client's frame of a message that is deflated in a last
// block, with what follows it.
func deflatedFrame(content string, rest int) (raw []byte, payload int) {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestSpeed)
	w.Write([]byte(content))
	w.Close()
	b.Write(make([]byte, rest))
	raw = binary.BigEndian.AppendUint16([]byte{0xc1, 0xfe}, uint16(b.Len()))
	return append(append(raw, 0, 0, 0, 0), b.Bytes()...), b.Len()
}

// What a client hides behind the end of its deflated data must not reach the
// next client's messages, which the same framer may read (RFC 7692, section
// 7.2.3.4 allows such an end).
func TestDeflatedMessageThatEndsEarlyLeavesNothingBehind(t *testing.T) {
	raw, payload := deflatedFrame("hello", 20_000)
	next, nextPayload := deflatedFrame("next", 1)
	for range 20 {
		if _, got, _, err := readMessage(bytes.Clone(raw), payload, 1<<20, true); err != nil || string(got) != "hello" {
			t.Fatalf("got %q, %v; want hello", got, err)
		}
		if _, got, _, err := readMessage(bytes.Clone(next), nextPayload, 1<<20, true); err != nil || string(got) != "next" {
			t.Fatalf("the next client's message: got %q, %v; want next", got, err)
		}
	}
}
