package control_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gripway/gripway/gateway/control"
	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/pubsub"
)

// nowhere is a ResponseWriter that costs nothing.
type nowhere struct {
	header http.Header
	status int
}

func (w *nowhere) Header() http.Header         { return w.header }
func (w *nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (w *nowhere) WriteHeader(status int)      { w.status = status }

// unheard is a Receiver that costs nothing.
type unheard struct{}

func (unheard) Receive([]byte, bool) {}
func (unheard) Lost(int)             {}

// publishBody has items of about 250 bytes with all formats, as libraries send.
func publishBody(items int) []byte {
	var b strings.Builder
	b.WriteString(`{"items":[`)
	for i := range items {
		if i > 0 {
			b.WriteByte(',')
		}
		text := strings.Repeat("x", 60)
		fmt.Fprintf(&b, `{"channel":"room-%d","id":"%d","prev-id":"%d","formats":{"http-stream":{"content":"%s\n"},"ws-message":{"content":"%s"}}}`, i, i+1, i, text, text)
	}
	b.WriteString(`]}`)
	return []byte(b.String())
}

func benchmarkBus(b *testing.B, items int) *pubsub.Memory {
	bus := pubsub.NewMemory()
	b.Cleanup(func() { bus.Close() })
	for i := range items {
		if _, err := bus.Subscribe(b.Context(), fmt.Sprintf("room-%d", i), unheard{}); err != nil {
			b.Fatal(err)
		}
	}
	return bus
}

// The handler alone: no connection, a bus in memory with one receiver a channel.
func BenchmarkPublish(b *testing.B) {
	for _, items := range []int{1, 10} {
		body := publishBody(items)
		for _, subscribed := range []bool{true, false} {
			b.Run(fmt.Sprintf("items=%d/subscribed=%t", items, subscribed), func(b *testing.B) {
				bus := benchmarkBus(b, items*btoi(subscribed))
				c := control.New(control.Options{Bus: bus, Metrics: metrics.New()})
				defer c.Close()
				r := httptest.NewRequest("POST", "/publish/", nil)
				r.ContentLength = int64(len(body))
				r.Header.Set("Content-Type", "application/json")
				reader := bytes.NewReader(body)
				r.Body = io.NopCloser(reader)
				w := &nowhere{header: make(http.Header)}
				b.ReportAllocs()
				b.SetBytes(int64(len(body)))
				for b.Loop() {
					reader.Reset(body)
					c.ServeHTTP(w, r)
					if w.status != 0 {
						b.Fatalf("answered %d", w.status)
					}
				}
			})
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// The whole way: one publisher after the other over a loopback connection that
// is kept alive. The client's share is in it.
func BenchmarkPublishLoopback(b *testing.B) {
	for _, items := range []int{1, 10} {
		body := publishBody(items)
		b.Run(fmt.Sprintf("items=%d", items), func(b *testing.B) {
			c := control.New(control.Options{Bus: benchmarkBus(b, items), Metrics: metrics.New()})
			defer c.Close()
			server := httptest.NewServer(c)
			defer server.Close()
			client := server.Client()
			b.ReportAllocs()
			for b.Loop() {
				answer, err := client.Post(server.URL+"/publish/", "application/json", bytes.NewReader(body))
				if err != nil {
					b.Fatal(err)
				}
				io.Copy(io.Discard, answer.Body)
				answer.Body.Close()
				if answer.StatusCode != 200 {
					b.Fatalf("answered %d", answer.StatusCode)
				}
			}
		})
	}
}
