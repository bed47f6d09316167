package wire

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"unsafe"
)

// ConnBytes is what an idle connection takes, without its handler.
const ConnBytes = unsafe.Sizeof(Conn{})

// StreamsUnder are the requests of r's connection that are followed, and the bytes of
// those that nobody has asked about.
func StreamsUnder(r *http.Request) (n, size int) {
	t := r.Context().Value(talkKey{}).(*talk)
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.streams.under), t.streams.bytes
}

// Follow reads an HTTP/2 client's bytes after its preface, and its server's, in pieces
// of so many, and says what is known then. It panics if that is more than may be.
func Follow(client, server []byte, piece int) string {
	s := newStreams()
	for p := range slices.Chunk(client, piece) {
		s.heard(p)
		size := 0
		for _, o := range s.under {
			if o.asked != nil {
				size += o.asked.bytes
			}
		}
		switch {
		case size != s.bytes, size > streamsBytesMax, len(s.under) > streamsMax, s.lost && len(s.under) > 0,
			!slices.IsSortedFunc(s.under, func(a, b stream) int { return cmp.Compare(a.id, b.id) }):
			panic(fmt.Sprintf("%d streams, %d bytes, counted as %d, lost %t", len(s.under), size, s.bytes, s.lost))
		}
	}
	for p := range slices.Chunk(server, piece) {
		s.said(p)
	}
	text := fmt.Sprintf("lost %t, last %d, %s\n", s.lost, s.last, s.print.text)
	for _, o := range s.under {
		text += fmt.Sprintf("%d %+v\n", o.id, o.asked)
	}
	return text
}
