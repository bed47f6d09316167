package grip_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/gripway/gripway/grip"
)

// itemOf is a WebSocket message of size bytes, as it is published.
func itemOf(size int) []byte {
	return fmt.Appendf(nil, `{"channel":"room-1","formats":{"ws-message":{"content":"%s"}}}`, strings.Repeat("x", size))
}

// escapedItemOf is the same with JSON for content, so that it is full of
// escapes, and with ids.
func escapedItemOf(size int) []byte {
	const content = `{\"from\":\"ann\",\"text\":\"hello\"}`
	return fmt.Appendf(nil, `{"channel":"room-1","id":"2","prev-id":"1","formats":{"ws-message":{"content":"%s"}}}`,
		strings.Repeat(content, size/len(content)+1))
}

func BenchmarkParseItem(b *testing.B) {
	for _, size := range []int{100, 10_000} {
		for name, data := range map[string][]byte{"plain": itemOf(size), "escaped": escapedItemOf(size)} {
			b.Run(fmt.Sprintf("message=%d/%s", size, name), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(data)))
				for b.Loop() {
					if _, err := grip.ParseItem(data); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkParseItems(b *testing.B) {
	for _, n := range []int{1, 10} {
		items := strings.TrimSuffix(strings.Repeat(string(itemOf(100))+",", n), ",")
		body := fmt.Appendf(nil, `{"items":[%s]}`, items)
		b.Run(fmt.Sprintf("items=%d/message=100", n), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if _, err := grip.ParseItems(body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	for _, size := range []int{100, 10_000} {
		item := &grip.Item{Channel: "room-1", Message: &grip.MessageItem{Content: bytes.Repeat([]byte("x"), size)}}
		b.Run(fmt.Sprintf("message=%d", size), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(size))
			var buf []byte
			for b.Loop() {
				buf = item.AppendJSON(buf[:0])
			}
		})
	}
}
