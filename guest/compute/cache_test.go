package compute

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gripway/gripway/guest"
	"github.com/gripway/gripway/guest/cache"
	"github.com/gripway/gripway/guest/cache/httpcache"
)

// together runs testers in sandboxes of their own, at the same time, that share a
// service.
func together(t *testing.T, service *Service, runs ...func(g *tester)) {
	t.Helper()
	var all sync.WaitGroup
	for _, run := range runs {
		all.Go(func() {
			ran := make(chan struct{})
			if _, err := serve(t, service, nil, func(g *tester) {
				defer close(ran)
				run(g)
			}); err != nil && !errors.Is(err, guest.ErrUndecided) {
				t.Error(err)
			}
			<-ran
		})
	}
	all.Wait()
}

// record puts a record of n bytes into the memory, of what is set in it.
func (g *tester) record(n int, set func(r []byte)) uint32 {
	at := g.room(n)
	r, _ := g.memory.Read(at, uint32(n))
	clear(r)
	set(r)
	return at
}

func put32(r []byte, at int, v uint32)          { binary.LittleEndian.PutUint32(r[at:], v) }
func put64(r []byte, at int, v uint64)          { binary.LittleEndian.PutUint64(r[at:], v) }
func putTime(r []byte, at int, d time.Duration) { put64(r, at, uint64(d)) }
func (g *tester) putText(r []byte, at int, s string) {
	address, n := g.put(s)
	put32(r, at, address)
	put32(r, at+4, n)
}

// write is the options of a write to the core cache.
func (g *tester) write80(maxAge time.Duration, set func(r []byte)) uint32 {
	return g.record(writeBytes, func(r []byte) {
		putTime(r, 0, maxAge)
		if set != nil {
			set(r)
		}
	})
}

// results makes a hostcall whose last two parameters are where u32s go.
func (g *tester) results(name string, params ...uint32) (uint32, uint32) {
	g.Helper()
	a, b := g.room(4), g.room(4)
	g.must(name, append(params, a, b)...)
	return g.get32(a), g.get32(b)
}

// result64 makes a hostcall whose last parameter is where a u64 goes.
func (g *tester) result64(name string, params ...uint32) uint64 {
	g.Helper()
	at := g.room(8)
	g.must(name, append(params, at)...)
	return g.get64(at)
}

// filled makes a hostcall that fills a buffer.
func (g *tester) filled(name string, params ...uint32) string {
	g.Helper()
	at, n := g.room(4096), g.room(4)
	g.must(name, append(params, at, 4096, n)...)
	return g.text(at, g.get32(n))
}

// cached inserts into the core cache.
func (g *tester) cached(key, body string, maxAge time.Duration) {
	g.Helper()
	at, n := g.put(key)
	h := g.result("cache.insert", at, n, 0, g.write80(maxAge, nil))
	g.write(h, body)
	g.must("http_body.close", h)
}

// lookedUp looks in the core cache, without options.
func (g *tester) lookedUp(call, key string) uint32 {
	g.Helper()
	at, n := g.put(key)
	return g.result("cache."+call, at, n, 0, 0)
}

// bodyOfEntry reads what an entry found.
func (g *tester) bodyOfEntry(call string, h uint32) string {
	g.Helper()
	b := g.result(call, h, 0, 0)
	text, st := g.read(b)
	if st != statusOK {
		g.Errorf("reading: status %d", st)
	}
	g.must("http_body.close", b)
	return text
}

func (g *tester) wantState(what, call string, h uint32, want cache.State) {
	g.Helper()
	if got := cache.State(g.result(call, h)); got != want {
		g.Errorf("%s: state %05b, want %05b", what, got, want)
	}
}

const fresh = cache.Found | cache.Usable

// eventually waits for something that goes on beside the guest.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after 20 s", what)
		}
	}
}

func TestCoreCacheKeepsWhatAnotherSandboxInserted(t *testing.T) {
	service := &Service{}
	together(t, service, func(g *tester) {
		key, n := g.put("key")
		options := g.write80(time.Hour, func(r []byte) {
			putTime(r, 24, time.Minute)
			putTime(r, 32, 2*time.Minute)
			g.putText(r, 40, "k1 k2 k1")
			put64(r, 48, 5)
			g.putText(r, 56, "meta")
		})
		h := g.result("cache.insert", key, n, writeAge|writeStale|writeKeys|writeLength|writeMetadata, options)
		g.write(h, "hello")
		g.must("http_body.close", h)
	})
	together(t, service, func(g *tester) {
		g.wantState("nothing", "cache.get_state", g.lookedUp("lookup", "other"), 0)
		g.want(statusNone, "cache.get_length", g.lookedUp("lookup", "other"), g.room(8))
		g.want(statusNone, "cache.get_body", g.lookedUp("lookup", "other"), 0, 0, g.room(4))
		h := g.lookedUp("lookup", "key")
		g.wantState("found", "cache.get_state", h, fresh)
		if got := g.filled("cache.get_user_metadata", h); got != "meta" {
			g.Errorf("metadata %q", got)
		}
		if n, max, swr := g.result64("cache.get_length", h), g.result64("cache.get_max_age_ns", h), g.result64("cache.get_stale_while_revalidate_ns", h); n != 5 ||
			time.Duration(max) != time.Hour || time.Duration(swr) != 2*time.Minute {
			g.Errorf("length %d, max age %v, stale %v", n, time.Duration(max), time.Duration(swr))
		}
		if age := time.Duration(g.result64("cache.get_age_ns", h)); age < time.Minute || age > 2*time.Minute {
			g.Errorf("age %v", age)
		}
		if hits := g.result64("cache.get_hits", h); hits != 1 {
			g.Errorf("%d hits, want 1", hits)
		}
		// The metadata needs four bytes.
		at, size := g.room(4), g.room(4)
		g.want(statusBufferLen, "cache.get_user_metadata", h, at, 3, size)
		if g.get32(size) != 4 {
			g.Errorf("needs %d, want 4", g.get32(size))
		}
		// One body at a time.
		b := g.result("cache.get_body", h, 0, 0)
		g.want(statusBadHandle, "cache.get_body", h, 0, 0, g.room(4))
		if got, _ := g.read(b); got != "hello" {
			g.Errorf("body %q", got)
		}
		g.must("http_body.close", b)
		part := g.record(bodyOptionsBytes, func(r []byte) { put64(r, 0, 1); put64(r, 8, 3) })
		b = g.result("cache.get_body", h, bodyFromBit|bodyToBit, part)
		if got, _ := g.read(b); got != "ell" {
			g.Errorf("part %q", got)
		}
		g.must("http_body.close", b)
		back := g.record(bodyOptionsBytes, func(r []byte) { put64(r, 0, 3); put64(r, 8, 1) })
		g.want(statusInvalid, "cache.get_body", h, bodyFromBit|bodyToBit, back, g.room(4))
		b = g.result("cache.get_body", h, bodyToBit, back)
		if got, _ := g.read(b); got != "o" {
			g.Errorf("the last byte %q", got)
		}
		g.must("cache.close", h)
		g.want(statusBadHandle, "cache.get_state", h, g.room(4))
		if got := service.space().Purge("k2", false); got != 1 {
			g.Errorf("purged %d, want 1", got)
		}
	})
}

func TestABodyOfTheCacheCanBeWrittenTo(t *testing.T) {
	service := &Service{}
	together(t, service, func(g *tester) {
		g.cached("key", "hello", time.Hour)
		if n := g.result64("cache.get_length", g.lookedUp("lookup", "key")); n != 5 {
			g.Errorf("length %d right after it was closed, want 5", n)
		}
		for range 2 { // and what is stored stays as it is
			b := g.result("cache.get_body", g.lookedUp("lookup", "key"), 0, 0)
			g.write(b, " world")
			if got, _ := g.read(b); got != "hello world" {
				g.Errorf("got %q", got)
			}
		}
	})
}

func TestOneSandboxLeadsAndTheOthersFollow(t *testing.T) {
	service := &Service{}
	leading, waiting := make(chan struct{}), make(chan struct{})
	follow := func(g *tester) {
		<-leading
		key, n := g.put("key")
		busy := g.result("cache.transaction_lookup_async", key, n, 0, 0)
		if got := g.result("async_io.is_ready", busy); got != 0 {
			g.Error("a follower need not wait")
		}
		waiting <- struct{}{}
		h := g.result("cache.cache_busy_handle_wait", busy)
		g.want(statusBadHandle, "cache.cache_busy_handle_wait", busy, g.room(4))
		g.must("cache.close_busy", busy)
		g.wantState("follower", "cache.get_state", h, fresh)
		if got := g.bodyOfEntry("cache.get_body", h); got != "from the leader" {
			g.Errorf("got %q", got)
		}
		g.want(statusBadHandle, "cache.transaction_insert", h, 0, g.write80(time.Hour, nil), g.room(4))
		g.want(statusBadHandle, "cache.transaction_cancel", h)
	}
	together(t, service, follow, follow, func(g *tester) {
		h := g.lookedUp("transaction_lookup", "key")
		g.wantState("leader", "cache.get_state", h, cache.MustInsert)
		close(leading)
		<-waiting
		<-waiting
		w, back := g.results("cache.transaction_insert_and_stream_back", h, 0, g.write80(time.Hour, nil))
		g.wantState("leader, then", "cache.get_state", h, 0)
		g.write(w, "from the ")
		g.write(w, "leader")
		g.must("http_body.close", w)
		if got := g.bodyOfEntry("cache.get_body", back); got != "from the leader" {
			g.Errorf("stream back: %q", got)
		}
	})
	if st := service.space().Cache().Stats(); st.Misses != 1 || st.Collapsed != 2 {
		t.Errorf("got %+v", st)
	}
}

func TestALeaderWhoseSandboxEndsIsFollowed(t *testing.T) {
	service := &Service{}
	leading, waiting := make(chan struct{}), make(chan struct{})
	together(t, service, func(g *tester) {
		g.wantState("leader", "cache.get_state", g.lookedUp("transaction_lookup", "key"), cache.MustInsert)
		close(leading)
		<-waiting
	}, func(g *tester) {
		<-leading
		key, n := g.put("key")
		busy := g.result("cache.transaction_lookup_async", key, n, 0, 0)
		close(waiting)
		list, count := g.list(busy)
		if got := g.result("async_io.select", list, count, 0); got != 0 {
			g.Errorf("selected %d", got)
		}
		h := g.result("cache.cache_busy_handle_wait", busy)
		g.wantState("the next", "cache.get_state", h, cache.MustInsert)
		g.must("cache.transaction_cancel", h)
		g.want(statusBadHandle, "cache.transaction_cancel", h)
	})
}

func TestAGuestDoesNotWaitForItself(t *testing.T) {
	service := withHTTPCache(t, nil)
	together(t, service, func(g *tester) {
		first, second := g.lookedUp("transaction_lookup", "key"), g.lookedUp("transaction_lookup", "key")
		g.wantState("the first", "cache.get_state", first, cache.MustInsert)
		g.wantState("the second", "cache.get_state", second, cache.MustInsert)
		w := g.result("cache.transaction_insert", second, 0, g.write80(time.Hour, nil))
		g.must("http_body.close", w)
		g.must("cache.transaction_cancel", first)
		g.wantState("the third", "cache.get_state", g.lookedUp("transaction_lookup", "key"), fresh)
		// Nor if it can be told that it would have to.
		r := g.requestTo("GET", "http://example.com/")
		first, second = g.result("http_cache.transaction_lookup", r, 0, 0), g.result("http_cache.transaction_lookup", r, 0, 0)
		if g.result("async_io.is_ready", second) != 0 {
			g.Error("the second is ready")
		}
		g.wantState("the first, of HTTP", "http_cache.get_state", first, cache.MustInsert)
		g.wantState("the second, of HTTP", "http_cache.get_state", second, cache.MustInsert)
	})
}

func TestABodyThatASandboxDidNotFinishIsIncomplete(t *testing.T) {
	for why, end := range map[string]func(g *tester, w uint32){
		"abandoned":       func(g *tester, w uint32) { g.must("http_body.abandon", w) },
		"the guest ended": func(g *tester, w uint32) {},
	} {
		t.Run(why, func(t *testing.T) {
			service := &Service{}
			inserted, reading := make(chan struct{}), make(chan struct{})
			together(t, service, func(g *tester) {
				key, n := g.put("key")
				w := g.result("cache.insert", key, n, 0, g.write80(time.Hour, nil))
				g.write(w, "half")
				close(inserted)
				<-reading
				end(g, w)
			}, func(g *tester) {
				<-inserted
				h := g.lookedUp("lookup", "key")
				g.want(statusNone, "cache.get_length", h, g.room(8))
				b := g.result("cache.get_body", h, 0, 0)
				close(reading)
				got, st := g.read(b)
				if got != "half" || st != statusIncomplete {
					g.Errorf("got %q, status %d; want half, %d", got, st, statusIncomplete)
				}
				g.wantState("afterwards", "cache.get_state", g.lookedUp("lookup", "key"), 0)
			})
		})
	}
}

func TestCoreCacheVaries(t *testing.T) {
	service := &Service{}
	together(t, service, func(g *tester) {
		request := func(value string) uint32 {
			r := g.result("http_req.new")
			name, n := g.put("X-Test")
			v, m := g.put(value)
			g.must("http_req.header_insert", r, name, n, v, m)
			return r
		}
		key, n := g.put("key")
		options := g.write80(time.Hour, func(r []byte) {
			put32(r, 8, request("a"))
			g.putText(r, 12, "x-test")
		})
		w := g.result("cache.insert", key, n, writeRequest|writeVary, options)
		g.write(w, "for a")
		g.must("http_body.close", w)
		for value, want := range map[string]cache.State{"a": fresh, "b": 0} {
			by := g.record(lookupBytes, func(r []byte) { put32(r, 0, request(value)) })
			h := g.result("cache.lookup", key, n, lookupRequest, by)
			g.wantState(value, "cache.get_state", h, want)
		}
		g.wantState("without", "cache.get_state", g.lookedUp("lookup", "key"), 0)
		// A transaction has the request that it began with: no other.
		t := g.lookedUp("transaction_lookup", "key2")
		g.want(statusInvalid, "cache.transaction_insert", t, writeRequest, options, g.room(4))
		// The first request has the number 0, also for who has not asked for it.
		g.must("cache.lookup", key, n, lookupRequest, g.record(lookupBytes, func([]byte) {}), g.room(4))
	})
}

func TestCoreCacheStaleAndPurge(t *testing.T) {
	service := &Service{}
	together(t, service, func(g *tester) {
		key, n := g.put("key")
		options := g.write80(0, func(r []byte) { putTime(r, 32, time.Hour); g.putText(r, 40, "a b") })
		w := g.result("cache.insert", key, n, writeStale|writeKeys, options)
		g.write(w, "stale")
		g.must("http_body.close", w)
		h := g.lookedUp("transaction_lookup", "key")
		g.wantState("one", "cache.get_state", h, fresh|cache.Stale|cache.MustInsert)
		g.wantState("another", "cache.get_state", g.lookedUp("transaction_lookup", "key"), fresh|cache.Stale)
		g.must("cache.transaction_update", h, writeKeys, g.write80(time.Hour, func(r []byte) { g.putText(r, 40, "b") }))
		h = g.lookedUp("lookup", "key")
		g.wantState("freshened", "cache.get_state", h, fresh)
		if got := g.bodyOfEntry("cache.get_body", h); got != "stale" {
			g.Errorf("got %q", got)
		}
		purge := func(key string, soft uint32) {
			at, n := g.put(key)
			g.must("purge.purge_surrogate_key", at, n, soft, 0)
		}
		purge("a", 0)
		g.wantState("another key", "cache.get_state", g.lookedUp("lookup", "key"), fresh)
		purge("b", 1)
		g.wantState("softly", "cache.get_state", g.lookedUp("lookup", "key"), fresh|cache.Stale)
		purge("b", 0)
		g.wantState("purged", "cache.get_state", g.lookedUp("lookup", "key"), 0)
		h = g.lookedUp("transaction_lookup", "key")
		g.want(statusBadHandle, "cache.transaction_update", h, 0, g.write80(time.Hour, nil))
	})
}

func TestCoreCacheReplace(t *testing.T) {
	service := &Service{}
	together(t, service, func(g *tester) {
		g.cached("key", "old", time.Hour)
		key, n := g.put("key")
		replace := func(strategy cache.Strategy) uint32 {
			options := g.record(replaceBytes, func(r []byte) { put32(r, 4, uint32(strategy)) })
			return g.result("cache.replace", key, n, replaceStrategy, options)
		}
		h := replace(cache.ReplaceWait)
		g.wantState("what is there", "cache.replace_get_state", h, fresh|cache.MustInsert)
		if got := g.bodyOfEntry("cache.replace_get_body", h); got != "old" {
			g.Errorf("got %q", got)
		}
		if hits, max := g.result64("cache.replace_get_hits", h), g.result64("cache.replace_get_max_age_ns", h); hits != 0 || time.Duration(max) != time.Hour {
			g.Errorf("hits %d, max age %v", hits, time.Duration(max))
		}
		second := replace(cache.ReplaceWait)
		if g.result("async_io.is_ready", second) != 0 {
			g.Error("the second does not wait")
		}
		w := g.result("cache.replace_insert", h, 0, g.write80(time.Hour, nil))
		g.write(w, "new")
		g.must("http_body.close", w)
		if got := g.bodyOfEntry("cache.replace_get_body", second); got != "new" {
			g.Errorf("the second replaces %q", got)
		}
		g.must("cache.close", second)
		none := g.result("cache.replace", key, 1, 0, 0)
		g.wantState("nothing is there", "cache.replace_get_state", none, cache.MustInsert) // the Rust SDK asks first
		g.want(statusNone, "cache.replace_get_length", none, g.room(8))
		bad := g.record(replaceBytes, func(r []byte) { put32(r, 4, 4) })
		g.want(statusInvalid, "cache.replace", key, n, replaceStrategy, bad, g.room(4))
		g.want(statusBadHandle, "cache.get_state", h, g.room(4))
	})
}

func TestCoreCacheRefusesWhatIsWrong(t *testing.T) {
	together(t, &Service{}, func(g *tester) {
		key, n := g.put("key")
		long := g.room(cache.KeyBytesMax)
		out := g.room(8)
		options := g.write80(time.Hour, nil)
		at := func(set func(r []byte)) uint32 { return g.write80(time.Hour, set) }
		for _, test := range []struct {
			why    string
			want   status
			call   string
			params []uint32
		}{
			{"a key that is too long", statusInvalid, "lookup", []uint32{long, 8136, 0, 0, out}},
			{"a key outside of the memory", statusInvalid, "lookup", []uint32{0xfffffff0, 100, 0, 0, out}},
			{"a bit that is not known", statusUnsupported, "lookup", []uint32{key, n, 1 << 9, options, out}},
			{"another service", statusUnsupported, "transaction_lookup", []uint32{key, n, lookupService, options, out}},
			{"a request that is none", statusBadHandle, "lookup", []uint32{key, n, lookupRequest, g.record(12, func(r []byte) { put32(r, 0, 99) }), out}},
			{"a record that is not aligned", statusBadAlign, "insert", []uint32{key, n, 0, options + 4, out}},
			{"a record outside of the memory", statusInvalid, "insert", []uint32{key, n, 0, 0xfffffff0, out}},
			{"a bit of a write that is not known", statusUnsupported, "insert", []uint32{key, n, 1 << 12, options, out}},
			{"another service's write", statusUnsupported, "insert", []uint32{key, n, writeService, options, out}},
			{"vary by what is no name", statusInvalid, "insert", []uint32{key, n, writeVary, at(func(r []byte) { g.putText(r, 12, "a b:c") }), out}},
			{"vary outside of the memory", statusInvalid, "insert", []uint32{key, n, writeVary, at(func(r []byte) { put32(r, 12, 0xfffffff0); put32(r, 16, 99) }), out}},
			{"a surrogate key that is none", statusInvalid, "insert", []uint32{key, n, writeKeys, at(func(r []byte) { g.putText(r, 40, "ä") }), out}},
			{"a length that cannot be", statusInvalid, "insert", []uint32{key, n, writeLength, at(func(r []byte) { put64(r, 48, 1<<63) }), out}},
			{"metadata that is too long", statusLimit, "insert", []uint32{key, n, writeMetadata, at(func(r []byte) { put32(r, 56, 1024); put32(r, 60, metadataMax+1) }), out}},
			{"an edge that is older than the object", statusInvalid, "insert", []uint32{key, n, writeEdgeAge, at(func(r []byte) { putTime(r, 64, 2*time.Hour) }), out}},
			{"a handle of nothing", statusBadHandle, "get_state", []uint32{99, out}},
			{"a handle of a body", statusBadHandle, "get_state", []uint32{g.result("http_body.new"), out}},
			{"an unknown busy handle", statusBadHandle, "close_busy", []uint32{99}},
			{"an insert of a plain lookup", statusBadHandle, "transaction_insert", []uint32{g.lookedUp("lookup", "key"), 0, options, out}},
			{"a body bit that is not known", statusUnsupported, "get_body", []uint32{g.lookedUp("lookup", "key"), 8, options, out}},
		} {
			if got := g.call("cache."+test.call, test.params...); got != test.want {
				g.Errorf("%s: got status %d, want %d", test.why, got, test.want)
			}
		}
		g.must("cache.lookup", long, 8135, 0, 0, out)
		// As long as it can be, for ever.
		h := g.result("cache.insert", key, n, writeStale, at(func(r []byte) { put64(r, 0, 1<<64-1); put64(r, 32, 1<<64-1) }))
		g.must("http_body.close", h)
		g.wantState("for ever", "cache.get_state", g.lookedUp("lookup", "key"), fresh)
	})
}

func TestWithoutHTTPCacheAllOfItIsUnsupported(t *testing.T) {
	together(t, &Service{}, func(g *tester) {
		for _, m := range abi {
			if m.name != "fastly_http_cache" {
				continue
			}
			if len(m.functions) != len(httpCacheCalls) {
				g.Errorf("%d of %d functions", len(httpCacheCalls), len(m.functions))
			}
			for _, f := range m.functions {
				g.want(statusUnsupported, "http_cache."+f.name, make([]uint32, len(f.params))...)
			}
		}
		if len(cacheCalls) != 29 {
			g.Errorf("%d functions of the core cache, want 29", len(cacheCalls))
		}
	})
}

// withHTTPCache is a service whose requests pass through a cache.
func withHTTPCache(t *testing.T, backends guest.Backends) *Service {
	space := cache.New(cache.Options{}).Space("s")
	service := &Service{Cache: space, HTTPCache: httpcache.NewFetcher(space, nil), Backends: backends}
	t.Cleanup(service.HTTPCache.Close)
	return service
}

// requestTo makes a request with a header.
func (g *tester) requestTo(method, uri string, lines ...string) uint32 {
	g.Helper()
	r := g.result("http_req.new")
	at, n := g.put(method)
	g.must("http_req.method_set", r, at, n)
	at, n = g.put(uri)
	g.must("http_req.uri_set", r, at, n)
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		at, n := g.put(name)
		v, m := g.put(value)
		g.must("http_req.header_append", r, at, n, v, m)
	}
	return r
}

// responseOf makes a response with a header.
func (g *tester) responseOf(code uint32, lines ...string) uint32 {
	g.Helper()
	r := g.result("http_resp.new")
	g.must("http_resp.status_set", r, code)
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		at, n := g.put(name)
		v, m := g.put(value)
		g.must("http_resp.header_append", r, at, n, v, m)
	}
	return r
}

// valueOf is a header's first value; "-" if there is none.
func (g *tester) valueOf(module string, h uint32, name string) string {
	g.Helper()
	at, n := g.put(name)
	to, size := g.room(1024), g.room(4)
	if g.call(module+".header_value_get", h, at, n, to, 1024, size) != statusOK {
		return "-"
	}
	return g.text(to, g.get32(size))
}

func (g *tester) statusOf(r uint32) uint32 {
	at := g.room(8)
	g.must("http_resp.status_get", r, at)
	return g.get32(at) & 0xffff
}

// write56 is the options of a write to the HTTP cache.
func (g *tester) write56(maxAge time.Duration, set func(r []byte)) uint32 {
	return g.record(httpWriteBytes, func(r []byte) {
		putTime(r, 0, maxAge)
		if set != nil {
			set(r)
		}
	})
}

// found is what an entry of the HTTP cache answers: status and body.
func (g *tester) found(h, transform uint32) string {
	g.Helper()
	r, b := g.results("http_cache.get_found_response", h, transform)
	body, st := g.read(b)
	if st != statusOK {
		g.Errorf("reading: status %d", st)
	}
	return fmt.Sprintf("%d %s", g.statusOf(r), body)
}

func TestAGuestDrivesTheHTTPCache(t *testing.T) {
	service := withHTTPCache(t, nil)
	together(t, service, func(g *tester) {
		r := g.requestTo("GET", "http://example.com/a?b", "Range: bytes=1-2", `If-None-Match: "x"`, "Accept: y")
		if got := g.result("http_cache.is_request_cacheable", r); got != 1 {
			g.Errorf("cacheable: %d, want 1", got)
		}
		if got := g.result("http_cache.is_request_cacheable", g.requestTo("POST", "http://example.com/a?b")); got != 0 {
			g.Errorf("POST cacheable: %d, want 0", got)
		}
		key := g.filled("http_cache.get_suggested_cache_key", r)
		if want := httpcache.Key("example.com", "/a?b"); key != string(want[:]) {
			g.Errorf("key %x, want %x", key, want)
		}
		h := g.result("http_cache.transaction_lookup", r, 0, 0)
		g.wantState("miss", "http_cache.get_state", h, cache.MustInsert)
		g.want(statusNone, "http_cache.get_found_response", h, 1, g.room(4), g.room(4))
		g.want(statusNone, "http_cache.get_hits", h, g.room(8))
		out := g.result("http_cache.get_suggested_backend_request", h)
		if got := g.valueOf("http_req", out, "range") + g.valueOf("http_req", out, "if-none-match") + g.valueOf("http_req", out, "accept"); got != "--y" {
			g.Errorf("suggested request has %q", got)
		}
		if got := g.filled("http_req.uri_get", out); got != "http://example.com/a?b" {
			g.Errorf("suggested request is to %q", got)
		}
		answer := g.responseOf(200, "Cache-Control: max-age=60, stale-while-revalidate=7, stale-if-error=8", `ETag: "t"`, "Vary: Accept, B", "Surrogate-Key: k1 k2",
			"Age: 5", "Content-Length: 5", "Connection: close")
		action, prepared := g.results("http_cache.prepare_response_for_storage", h, answer)
		if action != uint32(httpcache.Insert) || g.valueOf("http_resp", prepared, "connection") != "-" {
			g.Errorf("action %d, connection %q", action, g.valueOf("http_resp", prepared, "connection"))
		}
		g.must("http_resp.close", answer) // as the Rust SDK does

		// The Rust SDK knows nothing of the last field: where it would be is something else.
		mask, suggested := g.room(4), g.record(httpWriteBytes, func(r []byte) { put64(r, 48, 4711) })
		g.must("http_cache.get_suggested_cache_options", h, prepared, httpWriteStale, g.write56(0, nil), mask, suggested)
		if got := g.get64(suggested + 48); got != 4711 {
			g.Errorf("the memory behind a record of 48 bytes has changed to %d", got)
		}

		// The buffers are too short, the second time they are not.
		all := uint32(httpWriteStaleIfError<<1 - 1)
		in := g.write56(0, func(r []byte) { put32(r, 8, g.room(4)); put32(r, 12, 4); put32(r, 32, g.room(4)); put32(r, 36, 4) })
		g.want(statusBufferLen, "http_cache.get_suggested_cache_options", h, prepared, all, in, mask, suggested)
		if vary, keys := g.get32(suggested+12), g.get32(suggested+36); vary != 8 || keys != 70 || g.get32(mask)&(httpWriteVary|httpWriteKeys) != httpWriteVary|httpWriteKeys {
			g.Errorf("needs %d and %d, mask %b", vary, keys, g.get32(mask))
		}
		in = g.write56(0, func(r []byte) { put32(r, 8, g.room(8)); put32(r, 12, 8); put32(r, 32, g.room(70)); put32(r, 36, 70) })
		g.must("http_cache.get_suggested_cache_options", h, prepared, all, in, mask, suggested)
		text := func(at uint32) string { return g.text(g.get32(suggested+at), g.get32(suggested+at+4)) }
		own := fmt.Sprintf("%X", key) // of this one response
		if text(8) != "accept b" || text(32) != own+" k1 k2" {
			g.Errorf("vary %q, keys %q", text(8), text(32))
		}
		for at, want := range map[uint32]uint64{0: 60e9, 16: 5e9, 24: 7e9, 40: 5, 48: 8e9} {
			if got := g.get64(suggested + at); got != want {
				g.Errorf("at %d: %d, want %d", at, got, want)
			}
		}
		if got := g.get32(mask); got != httpWriteVary|httpWriteAge|httpWriteStale|httpWriteKeys|httpWriteLength|httpWriteStaleIfError {
			g.Errorf("mask %b", got)
		}

		w, back := g.results("http_cache.transaction_insert_and_stream_back", h, prepared, g.get32(mask)|httpWriteSensitive, suggested)
		g.write(w, "hello")
		g.must("http_body.close", w)
		if got := g.found(back, 0); got != "200 hello" {
			g.Errorf("stream back: %q", got)
		}
		if got := g.found(back, 1); got != "206 el" && got != "200 hello" { // as its length is known by then, or was said
			g.Errorf("stream back, for the client: %q", got)
		}
		g.must("http_cache.close", back)
		g.must("http_cache.close", h)
	})
	together(t, service, func(g *tester) {
		lookup := func(lines ...string) uint32 {
			return g.result("http_cache.transaction_lookup", g.requestTo("GET", "http://example.com/a?b", lines...), 0, 0)
		}
		h := lookup("Accept: y")
		g.wantState("hit", "http_cache.get_state", h, fresh)
		if got := g.found(h, 1); got != "200 hello" {
			g.Errorf("hit: %q", got)
		}
		if got := g.filled("http_cache.get_surrogate_keys", h) + "|" + g.filled("http_cache.get_vary_rule", h); !strings.HasSuffix(got, " k1 k2|accept b") {
			g.Errorf("got %q", got)
		}
		if max, swr, sie, n, hits := g.result64("http_cache.get_max_age_ns", h), g.result64("http_cache.get_stale_while_revalidate_ns", h),
			g.result64("http_cache.get_stale_if_error_ns", h), g.result64("http_cache.get_length", h), g.result64("http_cache.get_hits", h); max != 60e9 ||
			swr != 7e9 || sie != 8e9 || n != 5 || hits != 1 {
			g.Errorf("got %d, %d, %d, %d, %d", max, swr, sie, n, hits)
		}
		if age := time.Duration(g.result64("http_cache.get_age_ns", h)); age < 5*time.Second || age > time.Minute {
			g.Errorf("age %v", age)
		}
		if got := g.result("http_cache.get_sensitive_data", h); got != 1 {
			g.Errorf("sensitive: %d", got)
		}
		if got := g.found(lookup("Accept: y", "Range: bytes=1-2"), 1); got != "206 el" {
			g.Errorf("part: %q", got)
		}
		if got := g.found(lookup("Accept: y", `If-None-Match: "t"`), 1); got != "304 " {
			g.Errorf("condition: %q", got)
		}
		g.wantState("another variant", "http_cache.get_state", lookup("Accept: z"), cache.MustInsert)
		plain := g.result("http_cache.lookup", g.requestTo("GET", "http://example.com/a?b", "Accept: y"), 0, 0)
		g.wantState("plain lookup", "http_cache.get_state", plain, fresh)
		g.want(statusBadHandle, "http_cache.transaction_abandon", plain)
		g.want(statusBadHandle, "cache.get_state", plain, g.room(4))

		// Another key than the suggested one.
		own := g.record(httpLookupBytes, func(r []byte) { g.putText(r, 0, strings.Repeat("k", httpcache.KeyBytes)) })
		h = g.result("http_cache.transaction_lookup", g.requestTo("GET", "http://example.com/a?b"), httpLookupKey, own)
		g.wantState("another key", "http_cache.get_state", h, cache.MustInsert)
		short := g.record(httpLookupBytes, func(r []byte) { g.putText(r, 0, "short") })
		g.want(statusInvalid, "http_cache.transaction_lookup", g.requestTo("GET", "http://example.com/a?b"), httpLookupKey, short, g.room(4))
		g.want(statusUnsupported, "http_cache.transaction_lookup", g.requestTo("GET", "http://example.com/a?b"), 1<<7, short, g.room(4))

		// Names to vary by, as a program finds them in a header. It gets them back so.
		varied := func(agent string) uint32 {
			return g.result("http_cache.transaction_lookup", g.requestTo("GET", "http://example.com/vary", "Accept: y", "User-Agent: "+agent), 0, 0)
		}
		options := g.write56(60e9, func(r []byte) { g.putText(r, 8, "Accept, user-agent") })
		w := g.result("http_cache.transaction_insert", varied("one"), g.responseOf(200), httpWriteVary, options)
		g.must("http_body.close", w)
		h = varied("one")
		g.wantState("the same agent", "http_cache.get_state", h, fresh)
		if got := g.filled("http_cache.get_vary_rule", h); got != "Accept, user-agent" {
			g.Errorf("vary %q", got)
		}
		g.wantState("another agent", "http_cache.get_state", varied("two"), cache.MustInsert)
	})
}

func TestAGuestRevalidatesAndChoosesStale(t *testing.T) {
	service := withHTTPCache(t, nil)
	together(t, service, func(g *tester) {
		lookup := func() uint32 {
			return g.result("http_cache.transaction_lookup", g.requestTo("GET", "http://example.com/"), 0, 0)
		}
		h := lookup()
		w := g.result("http_cache.transaction_insert", h, g.responseOf(200, `ETag: "t"`, "A: 1"), httpWriteStaleIfError, g.write56(0, func(r []byte) { putTime(r, 48, time.Hour) }))
		g.write(w, "stored")
		g.must("http_body.close", w)

		// There is an error.
		h = lookup()
		second := lookup()
		g.wantState("stale", "http_cache.get_state", h, cache.Stale|cache.MustInsert|cache.UsableIfError)
		g.want(statusNone, "http_cache.get_found_response", h, 1, g.room(4), g.room(4))
		g.must("http_cache.transaction_choose_stale", h)
		g.wantState("chosen", "http_cache.get_state", h, fresh|cache.Stale|cache.UsableIfError)
		g.wantState("who waited", "http_cache.get_state", second, fresh|cache.Stale|cache.UsableIfError)
		if got := g.found(second, 1); got != "200 stored" {
			g.Errorf("got %q", got)
		}

		// It is still good.
		h = lookup()
		out := g.result("http_cache.get_suggested_backend_request", h)
		if got := g.valueOf("http_req", out, "if-none-match"); got != `"t"` {
			g.Errorf("it is not asked whether it is still good: %q", got)
		}
		action, prepared := g.results("http_cache.prepare_response_for_storage", h, g.responseOf(304, "A: 2"))
		if action != uint32(httpcache.Update) || g.statusOf(prepared) != 200 || g.valueOf("http_resp", prepared, "a") != "2" || g.valueOf("http_resp", prepared, "etag") != `"t"` {
			g.Errorf("action %d, status %d", action, g.statusOf(prepared))
		}
		back := g.result("http_cache.transaction_update_and_return_fresh", h, prepared, 0, g.write56(time.Hour, nil))
		if got := g.found(back, 0); got != "200 stored" {
			g.Errorf("freshened: %q", got)
		}
		g.wantState("then", "http_cache.get_state", lookup(), fresh)

		// It is not to be stored.
		other := func() uint32 {
			return g.result("http_cache.transaction_lookup", g.requestTo("GET", "http://example.com/other"), 0, 0)
		}
		h, second = other(), other()
		action, _ = g.results("http_cache.prepare_response_for_storage", h, g.responseOf(200, "Cache-Control: private"))
		if action != uint32(httpcache.RecordUncacheable) {
			g.Errorf("action %d", action)
		}
		g.must("http_cache.transaction_record_not_cacheable", h, 0, g.write56(time.Hour, nil))
		g.wantState("who waited", "http_cache.get_state", second, cache.MustInsert)
		third := other()
		if g.result("async_io.is_ready", third) != 1 {
			g.Error("who comes has to wait")
		}
		g.wantState("who comes", "http_cache.get_state", third, cache.MustInsert)
		g.want(statusBadHandle, "http_cache.transaction_abandon", h)
		h = g.result("http_cache.transaction_lookup", g.requestTo("GET", "http://example.com/third"), 0, 0)
		g.must("http_cache.transaction_abandon", h)
		g.want(statusBadHandle, "http_cache.transaction_update", h, g.responseOf(200), 0, g.write56(0, nil))
	})
}

// counted is a backend that counts.
type counted struct {
	guest.Backend
	mu     sync.Mutex
	count  int
	answer func(r *http.Request) *http.Response
}

func (c *counted) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	c.count++
	c.mu.Unlock()
	if r.Body != nil {
		r.Body.Close()
	}
	return c.answer(r), nil
}

func (c *counted) Lookup(name string) guest.Backend {
	if name == "origin" {
		return c
	}
	return nil
}

func (c *counted) Open(guest.BackendOptions) (guest.Backend, error) {
	return nil, errors.ErrUnsupported
}

// sent sends a request to the backend, and returns status, body and X-Cache.
func (g *tester) sent(call string, request uint32) string {
	g.Helper()
	b := g.result("http_body.new")
	name, n := g.put("origin")
	params := []uint32{request, b, name, n}
	if call != "send" {
		params = append(params, g.record(20, func([]byte) {}))
	}
	r, got := g.results("http_req."+call, params...)
	body, st := g.read(got)
	if st != statusOK {
		g.Errorf("reading: status %d", st)
	}
	return fmt.Sprintf("%d %s %s", g.statusOf(r), body, g.valueOf("http_resp", r, "x-cache"))
}

func TestRequestsPassThroughTheCache(t *testing.T) {
	origin := &counted{answer: func(r *http.Request) *http.Response {
		return &http.Response{StatusCode: 200, Header: http.Header{"Cache-Control": {"max-age=60"}}, ContentLength: 5, Body: io.NopCloser(strings.NewReader("hello"))}
	}}
	count := func(want int, what string) {
		t.Helper()
		if origin.count != want {
			t.Errorf("%s: the origin was asked %d times, want %d", what, origin.count, want)
		}
	}
	service := withHTTPCache(t, origin)
	ask := func(call string, override func(g *tester, r uint32), want string) {
		t.Helper()
		together(t, service, func(g *tester) {
			r := g.requestTo("GET", "http://example.com/a")
			if override != nil {
				override(g, r)
			}
			if got := g.sent(call, r); got != want {
				g.Errorf("%s: got %q, want %q", call, got, want)
			}
		})
	}
	ask("send", nil, "200 hello MISS")
	ask("send", nil, "200 hello HIT")
	ask("send_v2", nil, "200 hello HIT")
	count(1, "cached")
	ask("send_v3", nil, "200 hello -")
	count(2, "send_v3")
	ask("send", func(g *tester, r uint32) { g.must("http_req.cache_override_set", r, overridePass, 0, 0) }, "200 hello -")
	count(3, "pass")
	// Without a cache it is as with Viceroy.
	service = &Service{Backends: origin}
	ask("send", nil, "200 hello -")
	ask("send", nil, "200 hello -")
	count(5, "without a cache")
	// What the guest says.
	service = withHTTPCache(t, origin)
	override := func(g *tester, r uint32) {
		keys, n := g.put("mine")
		g.must("http_req.cache_override_v2_set", r, overrideTTL, 3600, 0, keys, n)
	}
	ask("send", override, "200 hello MISS")
	if n := service.Cache.Purge("mine", false); n != 1 {
		t.Errorf("purged %d by the guest's key, want 1", n)
	}
	ask("send", func(g *tester, r uint32) { g.must("http_req.cache_override_set", r, overrideTTL, 0, 0) }, "200 hello MISS")
	ask("send", nil, "200 hello MISS")
}

// TestAGuestMaySayTheKey: by the header in which SDKs put it, which goes no further.
func TestAGuestMaySayTheKey(t *testing.T) {
	origin := &counted{answer: func(r *http.Request) *http.Response {
		if values, there := r.Header[keyHeader]; there {
			t.Errorf("the backend sees %q", values)
		}
		return &http.Response{StatusCode: 200, Header: http.Header{"Cache-Control": {"max-age=60"}}, ContentLength: 5, Body: io.NopCloser(strings.NewReader("hello"))}
	}}
	service := withHTTPCache(t, origin)
	one, two := strings.Repeat("AB", 32), strings.Repeat("0F", 32)
	for _, test := range []struct{ call, url, key, want string }{
		{"send", "/a", one, "200 hello MISS"},
		{"send", "/a", two, "200 hello MISS"},
		{"send", "/a", "", "200 hello MISS"},
		{"send", "/b", one, "200 hello HIT"},
		{"send", "/b", strings.ToLower(two), "200 hello HIT"},
		{"send", "/c", one[2:], "200 hello MISS"}, // no key: the URL's own
		{"send", "/c", "x" + one[1:], "200 hello HIT"},
		{"send_v3", "/a", one, "200 hello -"},
	} {
		together(t, service, func(g *tester) {
			r := g.requestTo("GET", "http://example.com"+test.url)
			if test.key != "" {
				g.must("http_req.header_insert", g.named([]uint32{r}, keyField, test.key)...)
			}
			if got := g.sent(test.call, r); got != test.want {
				t.Errorf("%s %s with key %.4s: got %q, want %q", test.call, test.url, test.key, got, test.want)
			}
		})
	}
	// Who drives the cache finds the same.
	together(t, service, func(g *tester) {
		r := g.requestTo("GET", "http://example.com/b")
		g.must("http_req.header_insert", g.named([]uint32{r}, keyField, one)...)
		h := g.result("http_cache.transaction_lookup", r, 0, 0)
		g.wantState("by the key", "http_cache.get_state", h, fresh)
	})
	// A client cannot say it for a guest that passes its request on.
	x := clientRequest("GET", "http://example.com/a", "")
	x.Request.Header = http.Header{keyHeader: {one}, "A": {"b"}}
	outcomeOf(t, service, x, func(g *tester) {
		request, _ := g.downstream()
		if got := g.fields("http_req.header_names_get", 64, request); !slices.Equal(got, []string{"a", "host"}) && !slices.Equal(got, []string{"host", "a"}) {
			t.Errorf("the guest sees %q of the client's", got)
		}
		g.respond(204, g.bodyOf(""), 0)
	})
}

func TestSandboxesShareOneRequest(t *testing.T) {
	arrived, answer := make(chan struct{}), make(chan struct{})
	origin := &counted{answer: func(r *http.Request) *http.Response {
		close(arrived)
		<-answer
		return &http.Response{StatusCode: 200, Header: http.Header{}, ContentLength: 5, Body: io.NopCloser(strings.NewReader("hello"))}
	}}
	service := withHTTPCache(t, origin)
	ask := func(g *tester) {
		if got := g.sent("send", g.requestTo("GET", "http://example.com/a")); !strings.HasPrefix(got, "200 hello") {
			g.Errorf("got %q", got)
		}
	}
	follow := func(g *tester) {
		<-arrived
		ask(g)
	}
	together(t, service, ask, follow, follow, func(*tester) {
		eventually(t, "followers wait", func() bool { return service.Cache.Cache().Stats().Collapsed == 2 })
		close(answer)
	})
	if origin.count != 1 {
		t.Errorf("the origin was asked %d times, want 1", origin.count)
	}
}
