package httpcache_test

import (
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gripway/gripway/guest/cache"
	"github.com/gripway/gripway/guest/cache/httpcache"
)

// A request that is answered from the cache, read to its end.
func BenchmarkFetchHit(b *testing.B) {
	for _, size := range []int{100, 100_000} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			f := httpcache.NewFetcher(cache.New(cache.Options{}).Space("s"), nil)
			defer f.Close()
			o := always(200, strings.Repeat("x", size), "Content-Type: text/html", `ETag: "t"`, "Cache-Control: max-age=3600", "Vary: Accept-Encoding", "Server: x", "Date: y")
			r := httptest.NewRequest("GET", "http://example.com/path?query", nil)
			r.Header = header("Accept: text/html", "Accept-Encoding: gzip, br", "User-Agent: x", "Accept-Language: en")
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				answer, err := f.Fetch(b.Context(), r, none, o.send)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, answer.Body); err != nil {
					b.Fatal(err)
				}
				answer.Body.Close()
			}
		})
	}
}
