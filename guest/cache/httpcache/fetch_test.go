package httpcache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gripway/gripway/guest/cache"
	"github.com/gripway/gripway/guest/cache/httpcache"
)

// origin answers what answer says, and remembers what it was asked.
type origin struct {
	answer func(r *http.Request, n int) (*http.Response, error)
	mu     sync.Mutex
	asked  []*http.Request
}

func (o *origin) send(r *http.Request) (*http.Response, error) {
	o.mu.Lock()
	o.asked = append(o.asked, r)
	n := len(o.asked)
	o.mu.Unlock()
	return o.answer(r, n)
}

func (o *origin) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.asked)
}

func response(status int, body io.Reader, lines ...string) *http.Response {
	r := &http.Response{StatusCode: status, Header: header(lines...), Body: io.NopCloser(body), ContentLength: -1}
	if s, ok := body.(*strings.Reader); ok {
		r.ContentLength = s.Size()
	}
	return r
}

// always answers the same.
func always(status int, body string, lines ...string) *origin {
	return &origin{answer: func(*http.Request, int) (*http.Response, error) {
		return response(status, strings.NewReader(body), lines...), nil
	}}
}

func fetcher(t *testing.T) *httpcache.Fetcher {
	t.Helper()
	f := httpcache.NewFetcher(cache.New(cache.Options{ObjectBytes: 1 << 20}).Space("s"), nil)
	t.Cleanup(f.Close)
	return f
}

// ask fetches, and returns status, body and X-Cache in a line.
func ask(t *testing.T, f *httpcache.Fetcher, o *origin, override httpcache.Override, method, url string, lines ...string) string {
	t.Helper()
	r := httptest.NewRequest(method, url, nil)
	r.Header = header(lines...)
	got, err := f.Fetch(t.Context(), r, override, o.send)
	if err != nil {
		return "error: " + err.Error()
	}
	defer got.Body.Close()
	b, err := io.ReadAll(got.Body)
	if err != nil {
		return "broken: " + err.Error()
	}
	return fmt.Sprintf("%d %s %s", got.StatusCode, b, got.Header.Get("X-Cache"))
}

func wantAsk(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

var none httpcache.Override

func TestASecondRequestIsAnsweredFromTheCache(t *testing.T) {
	f, o := fetcher(t), always(200, "hello", `ETag: "t"`, "Surrogate-Key: k", "Surrogate-Control: max-age=60")
	wantAsk(t, "first", ask(t, f, o, none, "GET", "http://a/x?y"), "200 hello MISS")
	wantAsk(t, "second", ask(t, f, o, none, "GET", "http://a/x?y"), "200 hello HIT")
	wantAsk(t, "HEAD", ask(t, f, o, none, "HEAD", "http://a/x?y"), "200  HIT")
	wantAsk(t, "part", ask(t, f, o, none, "GET", "http://a/x?y", "Range: bytes=1-2"), "206 el HIT")
	wantAsk(t, "condition", ask(t, f, o, none, "GET", "http://a/x?y", `If-None-Match: "t"`), "304  HIT")
	if o.count() != 1 {
		t.Errorf("the origin was asked %d times, want 1", o.count())
	}
	r := httptest.NewRequest("GET", "http://a/x?y", nil)
	got, _ := f.Fetch(t.Context(), r, none, o.send)
	got.Body.Close()
	if got.Header.Get("Surrogate-Key")+got.Header.Get("Surrogate-Control") != "" || got.Header.Get("X-Cache-Hits") != "5" {
		t.Errorf("got %v", got.Header)
	}
	r.Header.Set("Fastly-Debug", "1")
	got, _ = f.Fetch(t.Context(), r, none, o.send)
	got.Body.Close()
	if got.Header.Get("Surrogate-Key") != "k" {
		t.Errorf("who debugs got %v", got.Header)
	}
	wantAsk(t, "another path", ask(t, f, o, none, "GET", "http://a/x"), "200 hello MISS")
	f.Space().Purge("k", false)
	wantAsk(t, "after a purge", ask(t, f, o, none, "GET", "http://a/x?y"), "200 hello MISS")
}

func TestWhatIsNotForTheCachePasses(t *testing.T) {
	f, o := fetcher(t), always(200, "hello")
	for what, ask := range map[string]func() string{
		"POST": func() string { return ask(t, f, o, none, "POST", "http://a/x") },
		"pass": func() string { return ask(t, f, o, httpcache.Override{Pass: true}, "GET", "http://a/x") },
		"an upgrade": func() string {
			return ask(t, f, o, none, "GET", "http://a/x", "Upgrade: websocket", "Connection: upgrade")
		},
	} {
		before := o.count()
		ask()
		ask()
		if o.count()-before != 2 {
			t.Errorf("%s: the origin was asked %d times, want 2", what, o.count()-before)
		}
	}
	wantAsk(t, "HEAD of what is not stored", ask(t, f, always(500, "oh"), none, "HEAD", "http://a/head"), "500  MISS")
	// A response that says so: each goes for itself, also those that come at once.
	o = always(200, "mine", "Cache-Control: private")
	for range 3 {
		wantAsk(t, "private", ask(t, f, o, none, "GET", "http://a/private"), "200 mine MISS")
	}
	if o.count() != 3 {
		t.Errorf("the origin was asked %d times, want 3", o.count())
	}
}

func TestAChangeForgetsWhatIsStored(t *testing.T) {
	f, o := fetcher(t), always(200, "hello")
	ask(t, f, o, none, "GET", "http://a/x")
	ask(t, f, o, none, "POST", "http://a/x")
	wantAsk(t, "after a POST", ask(t, f, o, none, "GET", "http://a/x"), "200 hello MISS")
	ask(t, f, always(500, ""), none, "DELETE", "http://a/x")
	wantAsk(t, "after a DELETE that failed", ask(t, f, o, none, "GET", "http://a/x"), "200 hello HIT")
}

func TestOverrides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, o := httpcache.NewFetcher(cache.New(cache.Options{}).Space("s"), nil), always(200, "hello", "Cache-Control: max-age=5", "Surrogate-Key: a")
		defer f.Close()
		ttl, swr := 10*time.Second, 20*time.Second
		override := httpcache.Override{TTL: &ttl, StaleWhileRevalidate: &swr, SurrogateKeys: "b a"}
		wantAsk(t, "first", ask(t, f, o, override, "GET", "http://a/x"), "200 hello MISS")
		time.Sleep(9 * time.Second)
		wantAsk(t, "fresh for longer", ask(t, f, o, override, "GET", "http://a/x"), "200 hello HIT")
		time.Sleep(9 * time.Second)
		wantAsk(t, "stale", ask(t, f, o, override, "GET", "http://a/x"), "200 hello HIT")
		synctest.Wait()
		if o.count() != 2 {
			t.Errorf("the origin was asked %d times, want 2: the second in the background", o.count())
		}
		for _, key := range []string{"a", "b"} {
			if n := f.Space().Purge(key, true); n != 1 {
				t.Errorf("purged %d by %q, want 1", n, key)
			}
		}
	})
}

func TestStaleIsRevalidated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := httpcache.NewFetcher(cache.New(cache.Options{}).Space("s"), nil)
		defer f.Close()
		o := &origin{answer: func(r *http.Request, n int) (*http.Response, error) {
			if r.Header.Get("If-None-Match") == `"t"` {
				return response(304, strings.NewReader(""), "Cache-Control: max-age=60", "N: 2"), nil
			}
			return response(200, strings.NewReader("hello"), "Cache-Control: max-age=5", `ETag: "t"`, "N: 1"), nil
		}}
		wantAsk(t, "first", ask(t, f, o, none, "GET", "http://a/x"), "200 hello MISS")
		time.Sleep(6 * time.Second)
		wantAsk(t, "stale, and still good", ask(t, f, o, none, "GET", "http://a/x"), "200 hello MISS")
		time.Sleep(50 * time.Second)
		wantAsk(t, "freshened", ask(t, f, o, none, "GET", "http://a/x"), "200 hello HIT")
		if o.count() != 2 {
			t.Errorf("the origin was asked %d times, want 2", o.count())
		}
	})
}

func TestStaleIsServedForAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := httpcache.NewFetcher(cache.New(cache.Options{}).Space("s"), nil)
		defer f.Close()
		o := &origin{answer: func(r *http.Request, n int) (*http.Response, error) {
			switch n {
			case 1:
				return response(200, strings.NewReader("hello"), "Cache-Control: max-age=5, stale-if-error=60"), nil
			case 2:
				return response(503, strings.NewReader("down")), nil
			case 4:
				return response(404, strings.NewReader("gone"), "Cache-Control: max-age=0, stale-if-error=60"), nil
			}
			return nil, io.ErrNoProgress
		}}
		wantAsk(t, "first", ask(t, f, o, none, "GET", "http://a/x"), "200 hello MISS")
		time.Sleep(6 * time.Second)
		wantAsk(t, "503", ask(t, f, o, none, "GET", "http://a/x"), "200 hello HIT")
		wantAsk(t, "no answer", ask(t, f, o, none, "GET", "http://a/x"), "200 hello HIT")
		wantAsk(t, "404 is an answer", ask(t, f, o, none, "GET", "http://a/x"), "404 gone MISS")
		time.Sleep(2 * time.Minute)
		wantAsk(t, "too late", ask(t, f, o, none, "GET", "http://a/x"), "error: "+io.ErrNoProgress.Error())
	})
}

func TestAWaitForAnothersAnswerMayBeBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := httpcache.NewFetcher(cache.New(cache.Options{}).Space("s"), nil)
		defer f.Close()
		o := always(200, "hello")
		slow := &origin{answer: func(r *http.Request, n int) (*http.Response, error) {
			time.Sleep(time.Second)
			return o.answer(r, n)
		}}
		var leader sync.WaitGroup
		begin := time.Now()
		leader.Go(func() {
			wantAsk(t, "who leads does not wait for another", ask(t, f, slow, waits(0), "GET", "http://a/x"), "200 hello MISS")
		})
		synctest.Wait()
		for _, wait := range []time.Duration{0, 400 * time.Millisecond} {
			got := ask(t, f, slow, waits(wait), "GET", "http://a/x")
			if want := "error: waiting for the response to another request: context deadline exceeded"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		if took := time.Since(begin); took != 400*time.Millisecond {
			t.Errorf("the two waited for %v", took)
		}
		wantAsk(t, "long enough", ask(t, f, slow, waits(time.Second), "GET", "http://a/x"), "200 hello HIT")
		wantAsk(t, "what is there is not waited for", ask(t, f, slow, waits(0), "GET", "http://a/x"), "200 hello HIT")
		leader.Wait()
		if slow.count() != 1 {
			t.Errorf("the origin was asked %d times, want 1", slow.count())
		}
	})
}

func waits(d time.Duration) httpcache.Override { return httpcache.Override{LookupTimeout: &d} }

func TestOneOfManyIsSent(t *testing.T) {
	for _, test := range []struct {
		why    string
		answer func(*http.Request, int) (*http.Response, error)
		want   string
		asked  int // of 20
	}{
		{"and stored", always(200, "hello").answer, "200 hello", 1},
		{"and varies", func(r *http.Request, n int) (*http.Response, error) {
			return response(200, strings.NewReader("hello"), "Vary: N"), nil
		}, "200 hello", 20},
		{"and fails: so it does for all", func(r *http.Request, n int) (*http.Response, error) {
			return nil, io.ErrNoProgress
		}, "error: " + io.ErrNoProgress.Error(), 1},
		{"and is not to be stored: all go their own way", always(200, "mine", "Cache-Control: no-store").answer, "200 mine", 20},
		{"and is an error of the origin's: all go their own way", always(500, "oh").answer, "500 oh", 20},
	} {
		t.Run(test.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := httpcache.NewFetcher(cache.New(cache.Options{}).Space("s"), nil)
				defer f.Close()
				o := &origin{answer: func(r *http.Request, n int) (*http.Response, error) {
					time.Sleep(time.Second)
					return test.answer(r, n)
				}}
				var all sync.WaitGroup
				begin := time.Now()
				for i := range 20 {
					all.Go(func() {
						got := ask(t, f, o, none, "GET", "http://a/x", fmt.Sprint("N: ", i))
						if !strings.HasPrefix(got, test.want) {
							t.Errorf("got %q, want %q", got, test.want)
						}
					})
				}
				all.Wait()
				if o.count() != test.asked {
					t.Errorf("the origin was asked %d times, want %d", o.count(), test.asked)
				}
				if took := time.Since(begin); took > 2*time.Second {
					t.Errorf("they went one after the other: %v", took)
				}
			})
		})
	}
}

func TestALeaderThatLeavesIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := httpcache.NewFetcher(cache.New(cache.Options{}).Space("s"), nil)
		defer f.Close()
		o := &origin{answer: func(r *http.Request, n int) (*http.Response, error) {
			select {
			case <-time.After(time.Minute):
				return response(200, strings.NewReader("hello")), nil
			case <-r.Context().Done():
				return nil, context.Cause(r.Context())
			}
		}}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := f.Fetch(ctx, httptest.NewRequest("GET", "http://a/x", nil), none, o.send); !errors.Is(err, context.Canceled) {
				t.Errorf("the leader: got %v", err)
			}
		})
		synctest.Wait()
		all.Go(func() { wantAsk(t, "follower", ask(t, f, o, none, "GET", "http://a/x"), "200 hello MISS") })
		synctest.Wait()
		cancel()
		all.Wait()
	})
}

func TestABodyIsFetchedToItsEndThoughItsReaderLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := httpcache.NewFetcher(cache.New(cache.Options{}).Space("s"), nil)
		defer f.Close()
		body, write := io.Pipe()
		o := &origin{answer: func(r *http.Request, n int) (*http.Response, error) {
			context.AfterFunc(r.Context(), func() { write.CloseWithError(context.Canceled) })
			return response(200, body), nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		got, err := f.Fetch(ctx, httptest.NewRequest("GET", "http://a/x", nil), none, o.send)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(write, "he")
		got.Body.Close()
		cancel()
		io.WriteString(write, "llo")
		write.Close()
		synctest.Wait()
		wantAsk(t, "later", ask(t, f, o, none, "GET", "http://a/x"), "200 hello HIT")
		// But not for ever.
		body, write = io.Pipe()
		got, _ = f.Fetch(ctx, httptest.NewRequest("GET", "http://a/slow", nil), none, o.send)
		if got != nil {
			t.Fatal("a request whose context has ended was answered")
		}
		got, err = f.Fetch(t.Context(), httptest.NewRequest("GET", "http://a/slow", nil), none, o.send)
		if err != nil {
			t.Fatal(err)
		}
		got.Body.Close()
		for range 100 {
			if _, err = io.WriteString(write, "x"); err != nil {
				break
			}
			time.Sleep(time.Second)
		}
		if err == nil {
			t.Error("a body is fetched for 100 s though nobody reads it")
		}
	})
}

func TestABodyThatBreaksOffBreaksOff(t *testing.T) {
	f := fetcher(t)
	o := &origin{answer: func(r *http.Request, n int) (*http.Response, error) {
		return response(200, io.MultiReader(strings.NewReader("he"), iotestError{})), nil
	}}
	for range 2 {
		wantAsk(t, "broken", ask(t, f, o, none, "GET", "http://a/x"), "broken: "+cache.ErrIncomplete.Error())
	}
	if o.count() != 2 {
		t.Errorf("the origin was asked %d times, want 2", o.count())
	}
}

type iotestError struct{}

func (iotestError) Read([]byte) (int, error) { return 0, io.ErrNoProgress }

func TestWhatIsTooLargePasses(t *testing.T) {
	f, o := fetcher(t), always(200, strings.Repeat("x", 2<<20))
	for range 2 {
		if got := ask(t, f, o, none, "GET", "http://a/x"); len(got) < 2<<20 || !strings.HasSuffix(got, "MISS") {
			t.Errorf("got %d bytes, %s", len(got), got[len(got)-4:])
		}
	}
	// Not told beforehand.
	o = &origin{answer: func(*http.Request, int) (*http.Response, error) {
		return response(200, io.LimitReader(zeros{}, 5<<20)), nil
	}}
	if got := ask(t, f, o, none, "GET", "http://a/y"); len(got) < 5<<20 {
		t.Errorf("got %.60q", got)
	}
	if st := f.Space().Cache().Stats(); st.Bytes > 64<<10 {
		t.Errorf("%d bytes are kept", st.Bytes)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestCloseEndsWhatGoesOn(t *testing.T) {
	f := httpcache.NewFetcher(cache.New(cache.Options{}).Space("s"), nil)
	body, write := io.Pipe()
	o := &origin{answer: func(r *http.Request, n int) (*http.Response, error) {
		context.AfterFunc(r.Context(), func() { write.CloseWithError(context.Canceled) })
		return response(200, body), nil
	}}
	got, err := f.Fetch(t.Context(), httptest.NewRequest("GET", "http://a/x", nil), none, o.send)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := io.ReadAll(got.Body); !errors.Is(err, cache.ErrIncomplete) {
		t.Errorf("got %v, want ErrIncomplete", err)
	}
}
