package cache_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gripway/gripway/guest/cache"
)

// insert puts a complete object.
func insert(t testing.TB, s cache.Space, key, body string, keep cache.Keep, request cache.Request) {
	t.Helper()
	w, err := s.Insert([]byte(key), keep, request)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, body)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// get reads what is found; "" if nothing is.
func get(t testing.TB, s cache.Space, key string, request cache.Request) string {
	t.Helper()
	hit, err := s.Lookup([]byte(key), cache.LookupOptions{Request: request})
	if err != nil {
		t.Fatal(err)
	}
	if hit == nil {
		return ""
	}
	defer hit.Close()
	return read(t, hit)
}

func read(t testing.TB, hit *cache.Hit) string {
	t.Helper()
	r, err := hit.Open(cache.All, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Errorf("reading: %v", err)
	}
	return string(b)
}

func begin(t testing.TB, s cache.Space, key string, request cache.Request) *cache.Transaction {
	t.Helper()
	x, err := s.Begin([]byte(key), cache.LookupOptions{Request: request})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.Close)
	return x
}

// state is what a transaction has come to; "waits" if to nothing.
func state(x *cache.Transaction) string {
	if !x.Ready() {
		return "waits"
	}
	var words []string
	for bit, word := range map[cache.State]string{
		cache.Found: "found", cache.Stale: "stale", cache.MustInsert: "must insert", cache.UsableIfError: "if error",
	} {
		if x.State()&bit != 0 {
			words = append(words, word)
		}
	}
	if (x.State()&cache.Found != 0) != (x.State()&cache.Usable != 0) || (x.State()&cache.Found != 0) != (x.Found() != nil) {
		return fmt.Sprintf("contradiction: %b, %v", x.State(), x.Found())
	}
	if len(words) == 0 {
		return "nothing"
	}
	// In the order of the bits.
	var ordered []string
	for _, word := range []string{"found", "stale", "must insert", "if error"} {
		for _, w := range words {
			if w == word {
				ordered = append(ordered, w)
			}
		}
	}
	return strings.Join(ordered, ", ")
}

func wantState(t testing.TB, what string, x *cache.Transaction, want string) {
	t.Helper()
	if got := state(x); got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func space() cache.Space { return cache.New(cache.Options{}).Space("service") }

func header(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

const hour = time.Hour

func TestWhatIsInsertedIsFoundUntilItIsStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := space()
		insert(t, s, "k", "hello", cache.Keep{MaxAge: time.Minute, InitialAge: 10 * time.Second}, nil)
		if got := get(t, s, "k", nil); got != "hello" {
			t.Errorf("got %q, want hello", got)
		}
		time.Sleep(20 * time.Second)
		hit, _ := s.Lookup([]byte("k"), cache.LookupOptions{})
		if hit.Age() != 30*time.Second || hit.Hits() != 2 || !hit.Fresh() {
			t.Errorf("age %v, hits %d, fresh %v; want 30s, 2, true", hit.Age(), hit.Hits(), hit.Fresh())
		}
		if n, ok := hit.Length(); n != 5 || !ok {
			t.Errorf("length %d, %v; want 5, true", n, ok)
		}
		time.Sleep(30 * time.Second)
		if got := get(t, s, "k", nil); got != "" {
			t.Errorf("stale: got %q, want nothing", got)
		}
	})
}

func TestSpacesHaveNothingToDoWithEachOther(t *testing.T) {
	c := cache.New(cache.Options{})
	a, b := c.Space("a"), c.Space("b")
	insert(t, a, "k", "of a", cache.Keep{MaxAge: hour, SurrogateKeys: []string{"key"}}, nil)
	insert(t, b, "k", "of b", cache.Keep{MaxAge: hour, SurrogateKeys: []string{"key"}}, nil)
	if n := a.Purge("key", false); n != 1 {
		t.Errorf("purged %d, want 1", n)
	}
	if got := get(t, a, "k", nil) + "|" + get(t, b, "k", nil); got != "|of b" {
		t.Errorf("got %q, want |of b", got)
	}
	if n := b.PurgeAll(false); n != 1 || c.Stats().Objects != 0 || c.Stats().Bytes != 0 {
		t.Errorf("purged %d, left %+v", n, c.Stats())
	}
}

func TestReadersFollowTheWriter(t *testing.T) {
	s := space()
	x := begin(t, s, "k", nil)
	w, hit, err := x.InsertAndRead(cache.Keep{MaxAge: hour})
	if err != nil {
		t.Fatal(err)
	}
	defer hit.Close()
	var all bytes.Buffer
	var readers sync.WaitGroup
	got := make([][]byte, 4)
	for i := range got {
		hit, err := s.Lookup([]byte("k"), cache.LookupOptions{})
		if err != nil || hit == nil {
			t.Fatalf("a body that is being written is not found: %v", err)
		}
		if _, ok := hit.Length(); ok {
			t.Error("its length is known before its end")
		}
		r, _ := hit.Open(cache.All, false)
		readers.Go(func() {
			defer hit.Close()
			defer r.Close()
			if i%2 == 0 {
				got[i], err = io.ReadAll(r)
			} else {
				var b bytes.Buffer
				_, err = r.WriteTo(&b)
				got[i] = b.Bytes()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		part := bytes.Repeat([]byte{byte(random.IntN(256))}, random.IntN(5000))
		all.Write(part)
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	tail := strings.Repeat("tail ", 40000)
	all.WriteString(tail)
	if n, err := w.ReadFrom(strings.NewReader(tail)); n != int64(len(tail)) || err != nil {
		t.Fatalf("got %d, %v", n, err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	readers.Wait()
	for i := range got {
		if !bytes.Equal(got[i], all.Bytes()) {
			t.Errorf("reader %d: got %d bytes, want %d", i, len(got[i]), all.Len())
		}
	}
	if got := read(t, hit); got != all.String() {
		t.Errorf("read back: %d bytes, want %d", len(got), all.Len())
	}
}

func TestABrokenBodyIsAnErrorToItsReadersAndIsGone(t *testing.T) {
	for _, test := range []struct {
		why  string
		keep cache.Keep
		end  func(*cache.Writer)
		want error
	}{
		{"aborted", cache.Keep{MaxAge: hour}, (*cache.Writer).Abort, cache.ErrIncomplete},
		{"shorter than was said", cache.Keep{MaxAge: hour, Length: 9, HasLength: true}, func(w *cache.Writer) { w.Close() }, cache.ErrLength},
		{"longer than was said", cache.Keep{MaxAge: hour, Length: 3, HasLength: true}, func(w *cache.Writer) { w.Close() }, cache.ErrLength},
	} {
		t.Run(test.why, func(t *testing.T) {
			s := space()
			w, err := s.Insert([]byte("k"), test.keep, nil)
			if err != nil {
				t.Fatal(err)
			}
			hit, _ := s.Lookup([]byte("k"), cache.LookupOptions{})
			r, _ := hit.Open(cache.All, false)
			io.WriteString(w, "hello")
			test.end(w)
			got, err := io.ReadAll(r)
			if string(got) != "hello" || !errors.Is(err, test.want) {
				t.Errorf("got %q, %v; want hello, %v", got, err, test.want)
			}
			hit.Close()
			if got := get(t, s, "k", nil); got != "" {
				t.Errorf("it is found: %q", got)
			}
			if st := s.Cache().Stats(); st.Bytes != 0 || st.Objects != 0 || st.Broken != 1 {
				t.Errorf("left %+v", st)
			}
		})
	}
}

func TestRanges(t *testing.T) {
	const all, body = "hello beautiful world", "hello beautiful world"
	for _, test := range []struct {
		why      string
		keep     cache.Keep
		finished bool
		exact    bool
		r        cache.Range
		want     string
		err      error
	}{
		{"in the middle", cache.Keep{}, true, false, cache.Range{From: 6, To: 14}, "beautiful", nil},
		{"to the end", cache.Keep{}, true, false, cache.Range{From: 6, To: -1}, "beautiful world", nil},
		{"the last bytes", cache.Keep{}, true, false, cache.Range{From: -1, To: 4}, "orld", nil},
		{"of a length that is not known", cache.Keep{}, false, false, cache.Range{From: 6, To: 14}, all, nil},
		{"exact, of a length that is not known", cache.Keep{}, false, true, cache.Range{From: 6, To: 14}, "beautiful", nil},
		{"of a length that was said", cache.Keep{Length: 21, HasLength: true}, false, false, cache.Range{From: 6, To: 14}, "beautiful", nil},
		{"from after the end", cache.Keep{}, true, true, cache.Range{From: 21, To: -1}, all, nil},
		{"to after the end", cache.Keep{}, true, true, cache.Range{From: 4, To: 21}, all, nil},
		{"the last none", cache.Keep{}, true, true, cache.Range{From: -1, To: 0}, all, nil},
		{"exact, and shorter in the end", cache.Keep{}, false, true, cache.Range{From: 4, To: 21}, "o beautiful world", cache.ErrLength},
	} {
		t.Run(test.why, func(t *testing.T) {
			s := space()
			test.keep.MaxAge = hour
			w, _ := s.Insert([]byte("k"), test.keep, nil)
			if test.finished {
				io.WriteString(w, body)
				w.Close()
			}
			hit, _ := s.Lookup([]byte("k"), cache.LookupOptions{})
			defer hit.Close()
			r, err := hit.Open(test.r, test.exact)
			if err != nil {
				t.Fatal(err)
			}
			if !test.finished {
				io.WriteString(w, body)
				w.Close()
			}
			got, err := io.ReadAll(r)
			if string(got) != test.want || !errors.Is(err, test.err) {
				t.Errorf("got %q, %v; want %q, %v", got, err, test.want, test.err)
			}
			if _, err := hit.Open(cache.Range{From: 6, To: 4}, test.exact); !errors.Is(err, cache.ErrRange) {
				t.Errorf("a range that ends before it begins: got %v", err)
			}
		})
	}
}

func TestOneLeadsAndTheOthersWaitForTheHead(t *testing.T) {
	s := space()
	leader := begin(t, s, "k", nil)
	wantState(t, "leader", leader, "must insert")
	var told int
	var waiting []*cache.Transaction
	for range 3 {
		x, err := s.Begin([]byte("k"), cache.LookupOptions{Notify: func() { told++ }})
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		wantState(t, "follower", x, "waits")
		waiting = append(waiting, x)
	}
	w, err := leader.Insert(cache.Keep{MaxAge: hour})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range waiting {
		wantState(t, "at the head", x, "found")
	}
	if told != 3 {
		t.Errorf("%d were told, want 3", told)
	}
	wantState(t, "leader, done", leader, "nothing")
	if _, err := leader.Insert(cache.Keep{}); !errors.Is(err, cache.ErrNotObliged) {
		t.Errorf("a second insert: got %v", err)
	}
	io.WriteString(w, "body")
	w.Close()
	if got := read(t, waiting[2].Found()); got != "body" {
		t.Errorf("got %q, want body", got)
	}
	if st := s.Cache().Stats(); st.Misses != 1 || st.Hits != 3 || st.Collapsed != 3 || st.Inserted != 1 {
		t.Errorf("got %+v", st)
	}
}

func TestALeaderThatGivesUpIsFollowedByTheNext(t *testing.T) {
	for why, give := range map[string]func(*cache.Transaction){
		"cancel": func(x *cache.Transaction) { x.Cancel() },
		"close":  func(x *cache.Transaction) { x.Close() },
	} {
		t.Run(why, func(t *testing.T) {
			s := space()
			a, b, gone, c := begin(t, s, "k", nil), begin(t, s, "k", nil), begin(t, s, "k", nil), begin(t, s, "k", nil)
			gone.Close()
			give(a)
			wantState(t, "next", b, "must insert")
			wantState(t, "the one after it", c, "waits")
			give(b)
			wantState(t, "the one after it, then", c, "must insert")
			if err := a.Cancel(); !errors.Is(err, cache.ErrNotObliged) {
				t.Errorf("cancelled twice: got %v", err)
			}
			give(c)
			wantState(t, "a newcomer", begin(t, s, "k", nil), "must insert")
		})
	}
}

func TestStaleIsServedToAllAndOneRevalidates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := space()
		insert(t, s, "k", "old", cache.Keep{MaxAge: time.Minute, StaleWhileRevalidate: time.Minute}, nil)
		time.Sleep(90 * time.Second)
		a, b, c := begin(t, s, "k", nil), begin(t, s, "k", nil), begin(t, s, "k", nil)
		wantState(t, "first", a, "found, stale, must insert")
		wantState(t, "second", b, "found, stale")
		wantState(t, "third", c, "found, stale")
		if got := read(t, b.Found()); got != "old" {
			t.Errorf("got %q, want old", got)
		}
		a.Cancel()
		d := begin(t, s, "k", nil)
		wantState(t, "after the first gave up", d, "found, stale, must insert")
		hit, err := d.Update(cache.Keep{MaxAge: time.Minute, InitialAge: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, hit); got != "old" || hit.Age() != time.Second {
			t.Errorf("freshened: %q, age %v", got, hit.Age())
		}
		hit.Close()
		wantState(t, "after it was freshened", begin(t, s, "k", nil), "found")
		if st := s.Cache().Stats(); st.Objects != 1 {
			t.Errorf("%d objects, want 1", st.Objects)
		}
		time.Sleep(3 * time.Minute)
		e, f := begin(t, s, "k", nil), begin(t, s, "k", nil)
		wantState(t, "too stale", e, "stale, must insert")
		wantState(t, "too stale, second", f, "waits")
		if e.Stale() == nil {
			t.Error("it cannot be freshened any more")
		}
	})
}

func TestStaleIfErrorIsForThoseWhoWaitedForTheError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := space()
		insert(t, s, "k", "old", cache.Keep{MaxAge: time.Minute, StaleIfError: hour}, nil)
		time.Sleep(2 * time.Minute)
		if got := get(t, s, "k", nil); got != "" {
			t.Errorf("found %q without an error", got)
		}
		a, b := begin(t, s, "k", nil), begin(t, s, "k", nil)
		wantState(t, "leader", a, "stale, must insert, if error")
		wantState(t, "follower", b, "waits")
		if err := a.ChooseStale(); err != nil {
			t.Fatal(err)
		}
		wantState(t, "leader, then", a, "found, stale, if error")
		wantState(t, "follower, then", b, "found, stale, if error")
		if got := read(t, b.Found()); got != "old" {
			t.Errorf("got %q, want old", got)
		}
		wantState(t, "the next", begin(t, s, "k", nil), "stale, must insert, if error")
		time.Sleep(2 * hour)
		c := begin(t, s, "other", nil)
		if err := c.ChooseStale(); !errors.Is(err, cache.ErrNothingToKeep) {
			t.Errorf("nothing to choose: got %v", err)
		}
	})
}

func TestWhatIsNotKeptIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := space()
		a, b, c := begin(t, s, "k", nil), begin(t, s, "k", nil), begin(t, s, "k", nil)
		if err := a.Pass(cache.Keep{MaxAge: time.Minute}); err != nil {
			t.Fatal(err)
		}
		for _, x := range []*cache.Transaction{a, b, c, begin(t, s, "k", nil)} {
			wantState(t, "passed", x, "nothing")
		}
		if got := get(t, s, "k", nil); got != "" {
			t.Errorf("found %q", got)
		}
		time.Sleep(time.Minute)
		d, e := begin(t, s, "k", nil), begin(t, s, "k", nil)
		wantState(t, "a minute later", d, "must insert")
		wantState(t, "a minute later, second", e, "waits")
		d.Pass(cache.Keep{})
		wantState(t, "who waited, of a mark for no time", e, "nothing")
	})
}

func TestWhoInsistsIsObligedThoughNothingIsKept(t *testing.T) {
	s := space()
	insist := func() *cache.Transaction {
		x, err := s.Begin([]byte("k"), cache.LookupOptions{Insist: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(x.Close)
		return x
	}
	a, b := insist(), insist()
	a.Pass(cache.Keep{MaxAge: hour})
	c, d := insist(), begin(t, s, "k", nil)
	wantState(t, "who waited", b, "must insert")
	wantState(t, "who comes", c, "must insert")
	wantState(t, "who does not insist", d, "nothing")
	w, err := c.Insert(cache.Keep{MaxAge: hour})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	wantState(t, "after it was kept", begin(t, s, "k", nil), "found")
}

func TestWhoWouldWaitForItselfGoesAhead(t *testing.T) {
	s := space()
	mine := func(owner string) *cache.Transaction {
		x, err := s.Begin([]byte("k"), cache.LookupOptions{Owner: owner})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(x.Close)
		return x
	}
	a, b, c := mine("me"), mine("me"), mine("you")
	is := func(who string) func(any) bool { return func(owner any) bool { return owner == who } }
	if a.LedBy(is("me")) || !b.LedBy(is("me")) || !c.LedBy(is("me")) || c.LedBy(is("you")) {
		t.Errorf("led: %v %v %v %v", a.LedBy(is("me")), b.LedBy(is("me")), c.LedBy(is("me")), c.LedBy(is("you")))
	}
	b.GoAhead()
	wantState(t, "who went ahead", b, "must insert")
	wantState(t, "who did not", c, "waits")
	b.GoAhead() // again
	w, err := b.Insert(cache.Keep{MaxAge: hour})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	wantState(t, "who did not, then", c, "found")
	wantState(t, "the leader", a, "must insert")
}

func TestALeaderMayLetAllGo(t *testing.T) {
	s := space()
	a, b, c := begin(t, s, "k", nil), begin(t, s, "k", nil), begin(t, s, "k", nil)
	if err := a.Release(io.ErrNoProgress); err != nil {
		t.Fatal(err)
	}
	for _, x := range []*cache.Transaction{b, c} {
		if wantState(t, "who waited", x, "nothing"); x.Err() != io.ErrNoProgress {
			t.Errorf("got %v", x.Err())
		}
	}
	wantState(t, "a newcomer", begin(t, s, "k", nil), "must insert")
}

func TestVaryChoosesAmongObjects(t *testing.T) {
	s := space()
	insert(t, s, "k", "hello", cache.Keep{MaxAge: hour, Vary: []string{"X-1"}}, header("X-1", "test"))
	insert(t, s, "k", "world", cache.Keep{MaxAge: hour, Vary: []string{"x-2"}}, header("X-2", "assert"))
	insert(t, s, "k", "goodbye", cache.Keep{MaxAge: hour, Vary: []string{"x-3"}}, nil)
	for _, test := range []struct {
		why  string
		h    http.Header
		want string
	}{
		{"all suit: the most recent", header("X-2", "assert", "X-1", "test"), "goodbye"},
		{"only the first does", header("X-1", "test", "X-3", "v"), "hello"},
		{"nothing is said", nil, "goodbye"},
		{"none does", header("X-3", "v", "X-1", "other"), ""},
		{"two values are not one", header("X-3", "v", "X-1", "test", "X-1", ""), ""},
	} {
		if got := get(t, s, "k", test.h); got != test.want {
			t.Errorf("%s: got %q, want %q", test.why, got, test.want)
		}
	}
	// The ninth rule drives the oldest away, with its objects.
	for i := range cache.VaryRulesMax {
		insert(t, s, "k", "more", cache.Keep{MaxAge: hour, Vary: []string{fmt.Sprint("y-", i)}}, header(fmt.Sprint("Y-", i), "1"))
	}
	if got := get(t, s, "k", header("X-1", "test", "X-3", "v")); got != "" {
		t.Errorf("the oldest rule is still there: %q", got)
	}
	if n := s.Cache().Stats().Objects; n != cache.VaryRulesMax {
		t.Errorf("%d objects, want %d", n, cache.VaryRulesMax)
	}
}

func TestCollapsingAndVary(t *testing.T) {
	foo, bar, baz := header("A", "foo"), header("A", "bar"), header("A", "baz")
	varied := cache.Keep{MaxAge: hour, Vary: []string{"a"}}
	finish := func(t *testing.T, x *cache.Transaction, keep cache.Keep, body string) {
		t.Helper()
		w, err := x.Insert(keep)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, body)
		w.Close()
	}
	t.Run("nobody knew that it varies", func(t *testing.T) {
		s := space()
		x1, x2, x3, x4 := begin(t, s, "k", foo), begin(t, s, "k", bar), begin(t, s, "k", bar), begin(t, s, "k", baz)
		wantState(t, "second", x2, "waits")
		finish(t, x1, varied, "for foo")
		wantState(t, "another variant leads", x2, "must insert")
		wantState(t, "the same variant waits for it", x3, "waits")
		wantState(t, "a third one leads as well", x4, "must insert")
		finish(t, x2, varied, "for bar")
		if got := read(t, x3.Found()); got != "for bar" {
			t.Errorf("got %q, want for bar", got)
		}
		wantState(t, "the third still does", x4, "must insert")
	})
	t.Run("it is known to vary", func(t *testing.T) {
		s := space()
		insert(t, s, "k", "", cache.Keep{Vary: []string{"a"}}, foo) // stale at once
		x1, x2, x3 := begin(t, s, "k", foo), begin(t, s, "k", bar), begin(t, s, "k", bar)
		wantState(t, "foo", x1, "stale, must insert")
		wantState(t, "bar", x2, "must insert")
		wantState(t, "bar again", x3, "waits")
	})
	// https://github.com/fastly/Viceroy/issues/626
	t.Run("it no longer varies", func(t *testing.T) {
		s := space()
		insert(t, s, "k", "", cache.Keep{Vary: []string{"a"}}, foo)
		insert(t, s, "k", "", cache.Keep{Vary: []string{"a"}}, bar)
		x1, x2, x3 := begin(t, s, "k", foo), begin(t, s, "k", bar), begin(t, s, "k", bar)
		wantState(t, "third", x3, "waits")
		finish(t, x1, cache.Keep{MaxAge: hour}, "for all")
		wantState(t, "third, of what suits all", x3, "found")
		x2.Cancel()
		wantState(t, "a newcomer", begin(t, s, "k", baz), "found")
	})
	t.Run("a mark that it is not kept is of its variant", func(t *testing.T) {
		s := space()
		x1, x2 := begin(t, s, "k", foo), begin(t, s, "k", bar)
		x1.Pass(varied)
		wantState(t, "bar", x2, "must insert")
		wantState(t, "foo", begin(t, s, "k", foo), "nothing")
	})
	t.Run("two rules, both stale", func(t *testing.T) {
		s := space()
		insert(t, s, "k", "", cache.Keep{Vary: []string{"a"}}, foo)
		insert(t, s, "k", "", cache.Keep{Vary: []string{"b"}}, header("B", "1"))
		x2, x1 := begin(t, s, "k", header("A", "foo", "B", "1")), begin(t, s, "k", foo)
		wantState(t, "both suit", x2, "stale, must insert")
		wantState(t, "one suits, and the newer rule says it is another", x1, "stale, must insert")
	})
}

func TestPurge(t *testing.T) {
	s := space()
	keep := func(keys ...string) cache.Keep { return cache.Keep{MaxAge: hour, SurrogateKeys: keys} }
	insert(t, s, "1", "one", keep("a", "b"), nil)
	insert(t, s, "2", "two", keep("a"), nil)
	insert(t, s, "3", "three", keep("b"), nil)
	if n := s.Purge("b", true); n != 2 {
		t.Errorf("purged %d softly, want 2", n)
	}
	for key, want := range map[string]string{"1": "found, stale, must insert", "2": "found", "3": "found, stale, must insert"} {
		wantState(t, key, begin(t, s, key, nil), want)
	}
	if n := s.Purge("a", false); n != 2 {
		t.Errorf("purged %d, want 2", n)
	}
	for key, want := range map[string]string{"1": "", "2": "", "3": "three"} {
		if got := get(t, s, key, nil); got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
	if n := s.Purge("nothing", false); n != 0 {
		t.Errorf("purged %d of nothing", n)
	}
}

func TestAPurgeReachesWhatIsOnItsWay(t *testing.T) {
	s := space()
	keep := cache.Keep{MaxAge: hour, SurrogateKeys: []string{"key"}}
	t.Run("while it is written", func(t *testing.T) {
		w, _ := s.Insert([]byte("written"), keep, nil)
		hit, _ := s.Lookup([]byte("written"), cache.LookupOptions{})
		defer hit.Close()
		if n := s.Purge("key", false); n != 1 {
			t.Errorf("purged %d, want 1", n)
		}
		io.WriteString(w, "whole")
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if got := get(t, s, "written", nil); got != "" {
			t.Errorf("found %q after the purge", got)
		}
		if got := read(t, hit); got != "whole" {
			t.Errorf("who read it already got %q", got)
		}
	})
	for _, softly := range []bool{false, true} {
		t.Run(fmt.Sprintf("while it is fetched, softly %v", softly), func(t *testing.T) {
			key := fmt.Sprint("fetched", softly)
			x, y := begin(t, s, key, nil), begin(t, s, key, nil)
			s.Purge("key", softly)
			w, _ := x.Insert(keep)
			io.WriteString(w, "from before")
			w.Close()
			wantState(t, "who waited", y, "found")
			want := "must insert"
			if softly {
				want = "found, stale, must insert"
			}
			wantState(t, "who comes now", begin(t, s, key, nil), want)
		})
	}
	t.Run("only of that key", func(t *testing.T) {
		x := begin(t, s, "other", nil)
		s.Purge("another", false)
		w, _ := x.Insert(keep)
		w.Close()
		wantState(t, "who comes now", begin(t, s, "other", nil), "found")
	})
	if st := s.Cache().Stats(); st.Bytes > 4000 {
		t.Errorf("%d bytes are still charged", st.Bytes)
	}
}

func TestReplace(t *testing.T) {
	s := space()
	insert(t, s, "k", "1", cache.Keep{MaxAge: hour}, nil)
	replace := func(strategy cache.Strategy) *cache.Transaction {
		t.Helper()
		x, err := s.Replace([]byte("k"), strategy, cache.LookupOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(x.Close)
		return x
	}
	a := replace(cache.ReplaceWait)
	wantState(t, "the first", a, "found, must insert")
	b := replace(cache.ReplaceWait)
	wantState(t, "the second", b, "waits")
	w, _ := a.Insert(cache.Keep{MaxAge: hour})
	io.WriteString(w, "2")
	w.Close()
	wantState(t, "the second, then", b, "found, must insert")
	if got := read(t, b.Found()); got != "2" {
		t.Errorf("the second replaces %q, want 2", got)
	}
	c := replace(cache.ReplaceImmediate)
	wantState(t, "one that does not wait", c, "found, must insert")
	wantState(t, "who looks meanwhile", begin(t, s, "k", nil), "found")
	d := replace(cache.ReplaceForceMiss)
	wantState(t, "one that forces a miss", d, "found, must insert")
	e := begin(t, s, "k", nil)
	wantState(t, "who looks then", e, "waits")
	w, _ = d.Insert(cache.Keep{MaxAge: hour})
	io.WriteString(w, "4")
	w.Close()
	if got := read(t, e.Found()); got != "4" {
		t.Errorf("got %q, want 4", got)
	}
	// Whoever does not wait may come home to an entry that was forgotten meanwhile.
	b.Close()
	s.Invalidate([]byte("k"))
	w, _ = c.Insert(cache.Keep{MaxAge: hour})
	io.WriteString(w, "3")
	w.Close()
	if got := get(t, s, "k", nil); got != "3" {
		t.Errorf("got %q, want 3", got)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	c := cache.New(cache.Options{Bytes: 1 << 20})
	s := c.Space("s")
	body := strings.Repeat("x", 10_000)
	insert(t, s, "dear", body, cache.Keep{MaxAge: hour}, nil)
	for i := range 1000 {
		insert(t, s, fmt.Sprint(i), body, cache.Keep{MaxAge: hour, SurrogateKeys: []string{"all"}}, nil)
		if get(t, s, "dear", nil) == "" {
			t.Fatalf("after %d others, what is used gave way to what is not", i)
		}
		if st := c.Stats(); st.Bytes > 1<<20 {
			t.Fatalf("%d bytes", st.Bytes)
		}
	}
	st := c.Stats()
	if st.Objects < 80 || st.Evicted < 800 {
		t.Errorf("got %+v", st)
	}
	if n := s.PurgeAll(false); int64(n) != st.Objects || c.Stats().Bytes != 0 {
		t.Errorf("purged %d of %d, %d bytes left", n, st.Objects, c.Stats().Bytes)
	}
}

func TestWhatIsTooLargeIsPassedOnAndNotKept(t *testing.T) {
	c := cache.New(cache.Options{Bytes: 64 << 20, ObjectBytes: 2 << 20})
	s := c.Space("s")
	x, follower := begin(t, s, "k", nil), begin(t, s, "k", nil)
	w, hit, err := x.InsertAndRead(cache.Keep{MaxAge: hour})
	if err != nil {
		t.Fatal(err)
	}
	const size = 10 << 20
	part := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	var readers sync.WaitGroup
	for _, hit := range []*cache.Hit{hit, follower.Found()} {
		r, _ := hit.Open(cache.All, false)
		readers.Go(func() {
			defer r.Close()
			n := 0
			for {
				got, err := r.Next(1 << 20)
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Error(err)
					break
				}
				if want := part[n%len(part):][:len(got)]; !bytes.Equal(got, want) {
					t.Errorf("at %d: other bytes", n)
					break
				}
				n += len(got)
			}
			if n != size {
				t.Errorf("got %d bytes, want %d", n, size)
			}
		})
	}
	for n := 0; n < size; n += len(part) {
		if _, err := w.Write(part); err != nil {
			t.Fatalf("at %d: %v", n, err)
		}
		if got := c.Stats().Bytes; got > 4<<20 {
			t.Fatalf("at %d: %d bytes are kept", n, got)
		}
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	readers.Wait()
	if st := c.Stats(); st.Bytes != 0 || st.Objects != 0 {
		t.Errorf("left: %+v", st)
	}
	wantState(t, "who comes now", begin(t, s, "k", nil), "must insert")
}

func TestNobodyReadsWhatIsTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := cache.New(cache.Options{ObjectBytes: 1 << 20}).Space("s")
		w, _ := s.Insert([]byte("k"), cache.Keep{MaxAge: hour}, nil)
		if _, err := w.Write(make([]byte, 2<<20)); !errors.Is(err, cache.ErrTooLarge) {
			t.Errorf("got %v, want ErrTooLarge", err)
		}
		// And if somebody has it, but does not read.
		w, _ = s.Insert([]byte("k"), cache.Keep{MaxAge: hour}, nil)
		hit, _ := s.Lookup([]byte("k"), cache.LookupOptions{})
		r, _ := hit.Open(cache.All, false)
		if _, err := w.Write(make([]byte, 4<<20)); !errors.Is(err, cache.ErrTooLarge) {
			t.Errorf("got %v, want ErrTooLarge", err)
		}
		if _, err := io.ReadAll(r); !errors.Is(err, cache.ErrTooLarge) {
			t.Errorf("the reader: got %v, want ErrTooLarge", err)
		}
		if st := s.Cache().Stats(); st.Bytes != 0 {
			t.Errorf("left: %+v", st)
		}
	})
}

func TestAStaleBodyThatIsStillWrittenCanBeFreshened(t *testing.T) {
	s := space()
	w, _ := s.Insert([]byte("k"), cache.Keep{}, nil)
	io.WriteString(w, "half ")
	x := begin(t, s, "k", nil)
	hit, err := x.Update(cache.Keep{MaxAge: hour})
	if err != nil {
		t.Fatal(err)
	}
	defer hit.Close()
	io.WriteString(w, "and half")
	w.Close()
	if got := get(t, s, "k", nil); got != "half and half" {
		t.Errorf("got %q", got)
	}
	s.PurgeAll(false)
	if st := s.Cache().Stats(); st.Bytes != 0 || st.Objects != 0 {
		t.Errorf("left: %+v", st)
	}
}

func TestBadArgumentsAreRefused(t *testing.T) {
	s := space()
	long := make([]byte, cache.KeyBytesMax+1)
	if _, err := s.Lookup(long, cache.LookupOptions{}); !errors.Is(err, cache.ErrKeyTooLong) {
		t.Errorf("lookup: got %v", err)
	}
	if _, err := s.Begin(long, cache.LookupOptions{}); !errors.Is(err, cache.ErrKeyTooLong) {
		t.Errorf("begin: got %v", err)
	}
	if _, err := s.Insert(long, cache.Keep{}, nil); !errors.Is(err, cache.ErrKeyTooLong) {
		t.Errorf("insert: got %v", err)
	}
	insert(t, s, string(long[1:]), "the longest key", cache.Keep{MaxAge: hour}, nil)
	for why, keep := range map[string]cache.Keep{
		"names of vary":       {Vary: make([]string, cache.VaryNamesMax+1)},
		"surrogate keys":      {SurrogateKeys: make([]string, cache.SurrogateKeysMax+1)},
		"an empty key":        {SurrogateKeys: []string{""}},
		"a key with a space":  {SurrogateKeys: []string{"a b"}},
		"a key that is long":  {SurrogateKeys: []string{strings.Repeat("x", cache.SurrogateKeyBytesMax+1)}},
		"a key of other text": {SurrogateKeys: []string{"ä"}},
	} {
		if _, err := s.Insert([]byte("k"), keep, nil); err == nil {
			t.Errorf("%s: accepted", why)
		}
		x := begin(t, s, "k", nil)
		if _, err := x.Insert(keep); err == nil || errors.Is(err, cache.ErrNotObliged) {
			t.Errorf("%s, in a transaction: got %v", why, err)
		}
		x.Close()
	}
}

// Many at once, with everything that can happen: nothing is lost, nobody waits for
// ever, and all that was charged is given back.
func TestManyAtOnce(t *testing.T) {
	c := cache.New(cache.Options{Bytes: 1 << 20, ObjectBytes: 100 << 10})
	s := c.Space("s")
	var all sync.WaitGroup
	for worker := range 16 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 7))
			for range 300 {
				key := []byte(fmt.Sprint(random.IntN(8)))
				request := header("A", fmt.Sprint(random.IntN(3)))
				keep := cache.Keep{MaxAge: time.Duration(random.IntN(3)) * time.Millisecond, StaleWhileRevalidate: time.Millisecond,
					SurrogateKeys: []string{string(key)}}
				if random.IntN(2) == 0 {
					keep.Vary = []string{"a"}
				}
				x, err := s.Begin(key, cache.LookupOptions{Request: request})
				if err != nil {
					t.Error(err)
					return
				}
				if random.IntN(20) == 0 {
					x.Close() // without waiting
					continue
				}
				if err := x.Wait(t.Context()); err != nil {
					t.Error(err)
				}
				if hit := x.Found(); hit != nil {
					r, _ := hit.Open(cache.All, false)
					b, err := io.ReadAll(r)
					r.Close()
					if err == nil && (len(b) == 0 || b[0] != key[0]) {
						t.Errorf("of %s: got %.10q", key, b)
					}
				}
				if x.State()&cache.MustInsert != 0 {
					switch random.IntN(6) {
					case 0:
						x.Cancel()
					case 1:
						x.Pass(keep)
					case 2:
						s.Purge(string(key), random.IntN(2) == 0)
					default:
						w, err := x.Insert(keep)
						if err != nil {
							t.Error(err)
							break
						}
						w.Write(bytes.Repeat(key, 1+random.IntN(120<<10)))
						if random.IntN(5) == 0 {
							w.Abort()
						} else {
							w.Close()
						}
					}
				}
				x.Close()
			}
		})
	}
	all.Wait()
	s.PurgeAll(false)
	if st := c.Stats(); st.Bytes != 0 || st.Objects != 0 {
		t.Errorf("left: %+v", st)
	}
}
