package cache_test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/gripway/gripway/guest/cache"
)

// A hit of a transaction, read to its end.
func BenchmarkHit(b *testing.B) {
	for _, size := range []int{100, 10_000, 1_000_000} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			s := space()
			insert(b, s, "key", strings.Repeat("x", size), cache.Keep{MaxAge: hour}, nil)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					x, err := s.Begin([]byte("key"), cache.LookupOptions{})
					if err != nil {
						b.Fatal(err)
					}
					r, err := x.Found().Open(cache.All, false)
					if err != nil {
						b.Fatal(err)
					}
					if n, err := r.WriteTo(io.Discard); n != int64(size) || err != nil {
						b.Fatal(n, err)
					}
					r.Close()
					x.Close()
				}
			})
		})
	}
}

// A lookup among variants, with a rule of two names.
func BenchmarkHitVary(b *testing.B) {
	for _, variants := range []int{1, 100} {
		b.Run(fmt.Sprintf("variants=%d", variants), func(b *testing.B) {
			s := space()
			keep := cache.Keep{MaxAge: hour, Vary: []string{"accept-encoding", "accept-language"}}
			for i := range variants {
				insert(b, s, "key", "x", keep, header("Accept-Encoding", "gzip, br", "Accept-Language", fmt.Sprint("x-", i)))
			}
			request := header("Accept-Encoding", "gzip, br", "Accept-Language", "x-0")
			b.ReportAllocs()
			for b.Loop() {
				hit, _ := s.Lookup([]byte("key"), cache.LookupOptions{Request: request})
				hit.Close()
			}
		})
	}
}

// A miss that is filled, with evictions once the cache is full.
func BenchmarkFill(b *testing.B) {
	for _, size := range []int{100, 10_000, 1_000_000} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			s := cache.New(cache.Options{Bytes: 64 << 20}).Space("s")
			body := strings.Repeat("x", size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				x, err := s.Begin(fmt.Append(nil, "key", i), cache.LookupOptions{})
				if err != nil {
					b.Fatal(err)
				}
				w, err := x.Insert(cache.Keep{MaxAge: hour})
				if err != nil {
					b.Fatal(err)
				}
				io.WriteString(w, body)
				w.Close()
				x.Close()
			}
		})
	}
}

func TestAHitAllocatesLittle(t *testing.T) {
	s := space()
	insert(t, s, "key", "hello", cache.Keep{MaxAge: hour}, nil)
	key := []byte("key")
	got := testing.AllocsPerRun(100, func() {
		x, _ := s.Begin(key, cache.LookupOptions{})
		r, _ := x.Found().Open(cache.All, false)
		r.Close()
		x.Close()
	})
	// The transaction, the hit and the reader.
	if got > 3 {
		t.Errorf("got %v allocations, want 3 at most", got)
	}
}
