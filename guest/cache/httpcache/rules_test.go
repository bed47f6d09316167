package httpcache_test

import (
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/guest/cache"
	"github.com/gripway/gripway/guest/cache/httpcache"
)

// header reads lines like "Name: value".
func header(lines ...string) http.Header {
	h := http.Header{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	return h
}

func TestFreshness(t *testing.T) {
	date := "Date: Sun, 06 Nov 1994 08:49:37 GMT"
	for _, test := range []struct {
		why              string
		header           []string
		ttl, swr, sie    time.Duration
		age              time.Duration
		vary, surrogates []string
	}{
		{"nothing is said", nil, 120 * time.Second, 0, 0, 0, nil, nil},
		{"max-age", []string{"Cache-Control: max-age=5"}, 5 * time.Second, 0, 0, 0, nil, nil},
		{"s-maxage before max-age", []string{"Cache-Control: max-age=5, s-maxage=6"}, 6 * time.Second, 0, 0, 0, nil, nil},
		{"Surrogate-Control before both", []string{"Cache-Control: max-age=5, s-maxage=6", "Surrogate-Control: max-age=7"}, 7 * time.Second, 0, 0, 0, nil, nil},
		{"max-age before Expires", []string{date, "Expires: Sun, 06 Nov 1994 08:50:37 GMT", "Cache-Control: max-age=5"}, 5 * time.Second, 0, 0, 0, nil, nil},
		{"Expires counts from Date", []string{date, "Expires: Sun, 06 Nov 1994 08:50:37 GMT"}, time.Minute, 0, 0, 0, nil, nil},
		{"Expires before Date", []string{date, "Expires: Sun, 06 Nov 1994 08:48:37 GMT"}, 0, 0, 0, 0, nil, nil},
		{"Expires in the old format", []string{date, "Expires: Sunday, 06-Nov-94 08:50:37 GMT"}, time.Minute, 0, 0, 0, nil, nil},
		{"Expires of C", []string{date, "Expires: Sun Nov  6 08:50:37 1994"}, time.Minute, 0, 0, 0, nil, nil},
		{"Expires that is no date", []string{date, "Expires: 0"}, 0, 0, 0, 0, nil, nil},
		{"Expires that only looks like a date", []string{date, "Expires: Sun, 06 Nov 1994 8:50:37 GMT"}, 0, 0, 0, 0, nil, nil},
		{"Expires twice", []string{date, "Expires: Sun, 06 Nov 1994 08:50:37 GMT", "Expires: Sun, 06 Nov 1994 08:50:37 GMT"}, 0, 0, 0, 0, nil, nil},
		{"max-age that is no number", []string{"Cache-Control: max-age=5.5"}, 0, 0, 0, 0, nil, nil},
		{"max-age that is negative", []string{"Cache-Control: max-age=-5"}, 0, 0, 0, 0, nil, nil},
		{"max-age in quotes", []string{`Cache-Control: max-age="5"`}, 5 * time.Second, 0, 0, 0, nil, nil},
		{"max-age in capitals, with spaces", []string{"Cache-Control: public , MAX-AGE=5 "}, 5 * time.Second, 0, 0, 0, nil, nil},
		{"max-age twice: the first", []string{"Cache-Control: max-age=5", "Cache-Control: max-age=6"}, 5 * time.Second, 0, 0, 0, nil, nil},
		{"max-age within quotes of another", []string{`Cache-Control: a="max-age=9, \"x", max-age=5`}, 5 * time.Second, 0, 0, 0, nil, nil},
		{"max-age of for ever", []string{"Cache-Control: max-age=99999999999999999999"}, 1 << 31 * time.Second, 0, 0, 0, nil, nil},
		{"no-cache is stored, and asked about each time", []string{"Cache-Control: no-cache, max-age=5, stale-if-error=9"}, 0, 0, 0, 0, nil, nil},
		{"no-cache of a header is of that header", []string{`Cache-Control: no-cache="x", max-age=5`}, 5 * time.Second, 0, 0, 0, nil, nil},
		{"stale times", []string{"Cache-Control: max-age=5, stale-while-revalidate=6, stale-if-error=7"}, 5 * time.Second, 6 * time.Second, 7 * time.Second, 0, nil, nil},
		{"stale times of Surrogate-Control", []string{"Cache-Control: stale-while-revalidate=6, stale-if-error=7", "Surrogate-Control: max-age=5, stale-while-revalidate=8"},
			5 * time.Second, 8 * time.Second, 7 * time.Second, 0, nil, nil},
		{"must-revalidate forbids what is stale", []string{"Cache-Control: max-age=5, must-revalidate, stale-while-revalidate=6, stale-if-error=7"}, 5 * time.Second, 0, 0, 0, nil, nil},
		{"CDN-Cache-Control instead of Cache-Control and Expires", []string{date, "Expires: 0", "Cache-Control: no-store", "CDN-Cache-Control: max-age=5"}, 5 * time.Second, 0, 0, 0, nil, nil},
		{"Age is what it comes with", []string{"Cache-Control: max-age=5", "Age: 3"}, 5 * time.Second, 0, 0, 3 * time.Second, nil, nil},
		{"Age that is no number", []string{"Cache-Control: max-age=5", "Age: x"}, 5 * time.Second, 0, 0, 0, nil, nil},
		{"Age twice: the first", []string{"Age: 3, 4"}, 120 * time.Second, 0, 0, 3 * time.Second, nil, nil},
		{"Vary", []string{"Vary: Accept-Encoding, a", "Vary: A,b"}, 120 * time.Second, 0, 0, 0, []string{"accept-encoding", "a", "b"}, nil},
		{"Surrogate-Key", []string{"Surrogate-Key: a  b\ta", "Surrogate-Key: ü c"}, 120 * time.Second, 0, 0, 0, nil, []string{"a", "b", "c"}},
	} {
		t.Run(test.why, func(t *testing.T) {
			keep := httpcache.Freshness(&httpcache.Head{Status: 200, Header: header(test.header...)})
			if keep.MaxAge != test.ttl || keep.StaleWhileRevalidate != test.swr || keep.StaleIfError != test.sie || keep.InitialAge != test.age {
				t.Errorf("got ttl %v, swr %v, sie %v, age %v; want %v, %v, %v, %v",
					keep.MaxAge, keep.StaleWhileRevalidate, keep.StaleIfError, keep.InitialAge, test.ttl, test.swr, test.sie, test.age)
			}
			if !reflect.DeepEqual(keep.Vary, test.vary) || !reflect.DeepEqual(keep.SurrogateKeys, test.surrogates) {
				t.Errorf("got vary %q, keys %q; want %q, %q", keep.Vary, keep.SurrogateKeys, test.vary, test.surrogates)
			}
		})
	}
}

func TestWhatIsStored(t *testing.T) {
	const insert, update, not, record = httpcache.Insert, httpcache.Update, httpcache.DoNotStore, httpcache.RecordUncacheable
	for _, test := range []struct {
		why      string
		request  []string
		status   int
		response []string
		want     httpcache.Action
	}{
		{"a plain response", nil, 200, nil, insert},
		{"203", nil, 203, nil, insert}, {"300", nil, 300, nil, insert}, {"301", nil, 301, nil, insert}, {"302", nil, 302, nil, insert},
		{"404", nil, 404, nil, insert}, {"410", nil, 410, nil, insert},
		{"another status, whatever it says", nil, 201, []string{"Cache-Control: max-age=9"}, not},
		{"a part", nil, 206, nil, not},
		{"an error", nil, 500, nil, not},
		{"307", nil, 307, nil, not},
		{"private", nil, 200, []string{"Cache-Control: private, max-age=9"}, record},
		{"private in spite of Surrogate-Control", nil, 200, []string{"Cache-Control: private", "Surrogate-Control: max-age=9"}, record},
		{"private of one header", nil, 200, []string{`Cache-Control: private="x"`}, insert},
		{"no-store", nil, 200, []string{"Cache-Control: no-store, max-age=9"}, record},
		{"no-store for browsers", nil, 200, []string{"Cache-Control: no-store", "Surrogate-Control: max-age=9"}, insert},
		{"no-store for caches", nil, 200, []string{"Surrogate-Control: no-store", "Cache-Control: max-age=9"}, record},
		{"no-store of a status that is understood", nil, 200, []string{"Cache-Control: no-store, must-understand"}, insert},
		{"no-cache", nil, 200, []string{"Cache-Control: no-cache"}, insert},
		{"a cookie", nil, 200, []string{"Set-Cookie: a=b", "Cache-Control: max-age=9"}, record},
		{"a cookie that is private", nil, 200, []string{"Set-Cookie: a=b", `Cache-Control: max-age=9, private="x, Set-Cookie"`}, insert},
		{"varies by all", nil, 200, []string{"Vary: a, *"}, record},
		{"authorised", []string{"Authorization: x"}, 200, []string{"Cache-Control: max-age=9"}, record},
		{"authorised, and public", []string{"Authorization: x"}, 200, []string{"Cache-Control: public"}, insert},
		{"authorised, with s-maxage", []string{"Authorization: x"}, 200, []string{"Cache-Control: s-maxage=9"}, insert},
		{"authorised, and must-revalidate", []string{"Authorization: x"}, 200, []string{"Cache-Control: must-revalidate"}, insert},
		{"authorised, with Surrogate-Control", []string{"Authorization: x"}, 200, []string{"Surrogate-Control: max-age=9"}, insert},
		{"a 304 of nothing", nil, 304, nil, not},
	} {
		t.Run(test.why, func(t *testing.T) {
			got, head := httpcache.Prepare(header(test.request...), &httpcache.Head{Status: test.status, Header: header(test.response...)}, nil)
			if got != test.want || head.Status != test.status {
				t.Errorf("got %v, status %d; want %v, %d", got, head.Status, test.want, test.status)
			}
		})
	}
	t.Run("a 304 freshens what is stored", func(t *testing.T) {
		stale := &httpcache.Head{Status: 200, Header: header("A: old", "B: old", "Content-Length: 5", "Content-Encoding: gzip", "Age: 7")}
		before := stale.Clone()
		got, head := httpcache.Prepare(nil, &httpcache.Head{Status: 304, Header: header("A: new", "Content-Length: 0", "Content-Encoding: br", "Connection: c", "C: hop", "D: new")}, stale)
		want := &httpcache.Head{Status: 200, Header: header("A: new", "B: old", "Content-Length: 5", "Content-Encoding: gzip", "D: new")}
		if got != update || !reflect.DeepEqual(head, want) {
			t.Errorf("got %v, %v; want %v, %v", got, head, update, want)
		}
		if !reflect.DeepEqual(stale, before) {
			t.Errorf("what was stored was changed: %v", stale)
		}
	})
	t.Run("what is of the connection, or named, is not stored", func(t *testing.T) {
		response := header("Connection: close, x", "X: hop", "Keep-Alive: 5", "Transfer-Encoding: chunked", "Set-Cookie: a=b",
			`Cache-Control: private="set-cookie", no-cache="y, z"`, "Y: 1", "Z: 2", "Kept: 3")
		_, head := httpcache.Prepare(nil, &httpcache.Head{Status: 200, Header: response}, nil)
		want := header(`Cache-Control: private="set-cookie", no-cache="y, z"`, "Kept: 3")
		if !reflect.DeepEqual(head.Header, want) {
			t.Errorf("got %v, want %v", head.Header, want)
		}
	})
}

func TestBackendRequestIsForAllOfIt(t *testing.T) {
	asked := header("Range: bytes=0-1", "If-Range: \"x\"", "If-None-Match: \"x\"", "If-Modified-Since: y", "Accept: z", "If-Match: \"m\"")
	before := asked.Clone()
	method, h := httpcache.BackendRequest("HEAD", asked, nil)
	if want := header("Accept: z", "If-Match: \"m\""); method != "GET" || !reflect.DeepEqual(h, want) {
		t.Errorf("got %s %v, want GET %v", method, h, want)
	}
	stale := &httpcache.Head{Status: 200, Header: header("ETag: W/\"own\"", "Last-Modified: then")}
	_, h = httpcache.BackendRequest("GET", asked, stale)
	if want := header("Accept: z", "If-Match: \"m\"", "If-None-Match: W/\"own\"", "If-Modified-Since: then"); !reflect.DeepEqual(h, want) {
		t.Errorf("got %v, want %v", h, want)
	}
	if !reflect.DeepEqual(asked, before) {
		t.Errorf("the request was changed: %v", asked)
	}
}

func TestDeliver(t *testing.T) {
	const all = "0123456789"
	plain := []string{`ETag: "tag"`, "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", "Content-Type: text/plain", "Vary: a"}
	for _, test := range []struct {
		why     string
		status  int
		stored  []string
		method  string
		request []string
		want    int
		body    string
		header  []string // that the response must have; "Name: " if it must not
	}{
		{"as it is", 200, plain, "GET", nil, 200, all, []string{"Content-Length: 10", "Age: 3", `ETag: "tag"`}},
		{"HEAD", 200, plain, "HEAD", nil, 200, "", []string{"Content-Length: 10", "Age: 3"}},
		{"the client has it", 200, plain, "GET", []string{`If-None-Match: "tag"`}, 304, "", []string{"Content-Length: ", "Content-Type: ", "Vary: a", "Age: 3"}},
		{"the client has it, weakly, among others", 200, plain, "HEAD", []string{`If-None-Match: "a,b", W/"tag"`}, 304, "", nil},
		{"the client has any", 200, plain, "GET", []string{"If-None-Match: *"}, 304, "", nil},
		{"the client has another", 200, plain, "GET", []string{`If-None-Match: "tag2"`, "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"}, 200, all, nil},
		{"a tag without quotes is none of ours", 200, plain, "GET", []string{"If-None-Match: tag"}, 200, all, nil},
		{"not modified since", 200, plain, "GET", []string{"If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"}, 304, "", nil},
		{"modified since", 200, plain, "GET", []string{"If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT"}, 200, all, nil},
		{"not modified since, by Date", 200, []string{"Date: Sun, 06 Nov 1994 08:49:37 GMT"}, "GET", []string{"If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"}, 304, "", nil},
		{"since some nonsense", 200, plain, "GET", []string{"If-Modified-Since: x"}, 200, all, nil},
		{"a condition on what is no 200", 404, plain, "GET", []string{`If-None-Match: "tag"`}, 404, all, nil},
		{"a part", 200, plain, "GET", []string{"Range: bytes=2-4"}, 206, "234", []string{"Content-Range: bytes 2-4/10", "Content-Length: 3"}},
		{"a part to the end", 200, plain, "GET", []string{"Range: bytes=7-"}, 206, "789", []string{"Content-Range: bytes 7-9/10"}},
		{"a part beyond the end", 200, plain, "GET", []string{"Range: bytes=7-100"}, 206, "789", []string{"Content-Range: bytes 7-9/10"}},
		{"the last bytes", 200, plain, "GET", []string{"Range: bytes=-4"}, 206, "6789", []string{"Content-Range: bytes 6-9/10"}},
		{"more than all", 200, plain, "GET", []string{"Range: bytes=-40"}, 206, all, []string{"Content-Range: bytes 0-9/10"}},
		{"a part after the end", 200, plain, "GET", []string{"Range: bytes=10-"}, 416, "", []string{"Content-Range: bytes */10", "Content-Length: 0"}},
		{"the last none", 200, plain, "GET", []string{"Range: bytes=-0"}, 416, "", []string{"Content-Range: bytes */10"}},
		{"two parts", 200, plain, "GET", []string{"Range: bytes=0-1,3-4"}, 200, all, []string{"Content-Range: "}},
		{"a part backwards", 200, plain, "GET", []string{"Range: bytes=4-2"}, 200, all, nil},
		{"another unit", 200, plain, "GET", []string{"Range: lines=1-2"}, 200, all, nil},
		{"no numbers", 200, plain, "GET", []string{"Range: bytes=a-b"}, 200, all, nil},
		{"a part of a HEAD", 200, plain, "HEAD", []string{"Range: bytes=2-4"}, 200, "", []string{"Content-Length: 10"}},
		{"a part of what is no 200", 404, plain, "GET", []string{"Range: bytes=2-4"}, 404, all, nil},
		{"a part if it is still that", 200, plain, "GET", []string{"Range: bytes=2-4", `If-Range: "tag"`}, 206, "234", nil},
		{"a part if it is still that, by date", 200, plain, "GET", []string{"Range: bytes=2-4", "If-Range: Sun, 06 Nov 1994 08:49:37 GMT"}, 206, "234", nil},
		{"a part if it is still another", 200, plain, "GET", []string{"Range: bytes=2-4", `If-Range: "old"`}, 200, all, nil},
		{"a part if it is weakly that", 200, []string{`ETag: W/"tag"`}, "GET", []string{"Range: bytes=2-4", `If-Range: W/"tag"`}, 200, all, nil},
		{"a part of what the client has", 200, plain, "GET", []string{"Range: bytes=2-4", `If-None-Match: "tag"`}, 304, "", nil},
	} {
		t.Run(test.why, func(t *testing.T) {
			s := cache.New(cache.Options{}).Space("s")
			head := &httpcache.Head{Status: test.status, Header: header(test.stored...)}
			keep := httpcache.Freshness(head)
			keep.InitialAge = 3 * time.Second
			w, err := s.Insert([]byte("k"), keep, nil)
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(w, all)
			w.Close()
			hit, _ := s.Lookup([]byte("k"), cache.LookupOptions{})
			defer hit.Close()
			d := httpcache.Deliver(test.method, header(test.request...), hit)
			body := ""
			if !d.Empty {
				r, err := hit.Open(d.Range, false)
				if err != nil {
					t.Fatal(err)
				}
				b, _ := io.ReadAll(r)
				body = string(b)
			}
			if d.Status != test.want || body != test.body {
				t.Errorf("got %d %q, want %d %q", d.Status, body, test.want, test.body)
			}
			for _, line := range test.header {
				name, value, _ := strings.Cut(line, ": ")
				if got := d.Header.Get(name); got != value {
					t.Errorf("%s: got %q, want %q", name, got, value)
				}
			}
			if !reflect.DeepEqual(head.Header, header(test.stored...)) {
				t.Errorf("what is stored was changed: %v", head.Header)
			}
		})
	}
}

func TestKeysAreOfHostAndPath(t *testing.T) {
	if httpcache.Key("Example.com", "/a?b") != httpcache.Key("example.com", "/a?b") {
		t.Error("the host's case counts")
	}
	for _, other := range [][2]string{{"example.com", "/A?b"}, {"example.com", "/a"}, {"example.org", "/a?b"}} {
		if httpcache.Key("example.com", "/a?b") == httpcache.Key(other[0], other[1]) {
			t.Errorf("%v has the same key", other)
		}
	}
	if !httpcache.Cacheable("GET") || !httpcache.Cacheable("HEAD") || httpcache.Cacheable("POST") || httpcache.Cacheable("get") {
		t.Error("GET and HEAD are looked up, nothing else")
	}
}
