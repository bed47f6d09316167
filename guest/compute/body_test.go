package compute

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/guest"
)

func TestABodyIsWrittenAtBothEndsAndReadOnce(t *testing.T) {
	inSandbox(t, func(g *tester) {
		h := g.result("http_body.new")
		g.write(h, "middle")
		at, n := g.put("front ")
		g.must("http_body.write", h, at, n, writeFront, g.room(4))
		g.write(h, " back")
		length := g.room(8)
		g.must("http_body.known_length", h, length)
		if got := g.get64(length); got != 17 {
			t.Errorf("got a length of %d, want 17", got)
		}
		if got, st := g.read(h); got != "front middle back" || st != statusOK {
			t.Errorf("got %q, %d", got, st)
		}
		if g.b.held != 0 {
			t.Errorf("got %d bytes held after all were read, want 0", g.b.held)
		}
		g.must("http_body.close", h)
		g.want(statusBadHandle, "http_body.close", h)
		g.want(statusBadHandle, "http_body.read", h, 0, 0, g.room(4))
	})
}

func TestAppendMovesReadersWithoutReadingThem(t *testing.T) {
	inSandbox(t, func(g *tester) {
		r, w := io.Pipe()
		from := bodyFrom(r, -1, func() http.Header { return http.Header{"X-Sum": {"7"}} })
		source, _ := g.b.items.add(from)
		into := g.result("http_body.new")
		g.write(into, "head ")
		g.must("http_body.append", into, source)
		g.want(statusBadHandle, "http_body.close", source)
		g.write(into, " tail")
		g.want(statusNone, "http_body.known_length", into, g.room(8))
		g.want(statusAgain, "http_body.trailer_names_get", into, g.room(64), 64, 0, g.room(8), g.room(4))
		go func() {
			io.WriteString(w, "of the reader")
			w.Close()
		}()
		if got, st := g.read(into); got != "head of the reader tail" || st != statusOK {
			t.Errorf("got %q, %d", got, st)
		}
		buffer, next, n := g.room(64), g.room(8), g.room(4)
		g.must("http_body.trailer_names_get", into, buffer, 64, 0, next, n)
		if got := g.text(buffer, g.get32(n)); got != "x-sum\x00" || g.get64(next) != ^uint64(0) {
			t.Errorf("got trailers %q, cursor %d", got, int64(g.get64(next)))
		}
	})
}

func TestAReaderThatFailsIsNotAnEnd(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want status
	}{
		{"broken off", io.ErrUnexpectedEOF, statusIncomplete},
		{"anything else", errors.New("reset"), statusError},
	} {
		t.Run(c.name, func(t *testing.T) {
			inSandbox(t, func(g *tester) {
				r, w := io.Pipe()
				h, _ := g.b.items.add(bodyFrom(r, -1, nil))
				go func() {
					io.WriteString(w, "half")
					w.CloseWithError(c.err)
				}()
				got, st := g.read(h)
				if got != "half" || st != c.want {
					t.Errorf("got %q, %d, want half, %d", got, st, c.want)
				}
			})
		})
	}
}

func TestAStreamMakesItsWriterWait(t *testing.T) {
	inSandbox(t, func(g *tester) {
		w, r := newStream(g.b, bodyOf([]byte("begin ")))
		h, _ := g.b.items.add(w)
		ready := g.room(4)
		block := strings.Repeat("x", 8192)
		written := len("begin ")
		for {
			g.must("async_io.is_ready", h, ready)
			if g.get32(ready) == 0 {
				break
			}
			if st := g.write(h, block); st != statusOK {
				t.Fatal(st)
			}
			if written += len(block); written > 2*streamBytesMax {
				t.Fatalf("%d bytes were taken that nobody reads", written)
			}
		}
		read := make(chan string, 1)
		go func() {
			all, err := io.ReadAll(r)
			if err != nil {
				t.Error(err)
			}
			read <- string(all)
		}()
		list, n := g.list(h)
		g.must("async_io.select", list, n, 0, g.room(4))
		g.write(h, "end")
		g.must("http_body.close", h)
		got := <-read
		if len(got) != written+3 || !strings.HasPrefix(got, "begin x") || !strings.HasSuffix(got, "xend") {
			t.Errorf("got %d bytes, want %d", len(got), written+3)
		}
	})
}

func TestAWriteLongerThanAStreamIsTakenAsItIsRead(t *testing.T) {
	inSandbox(t, func(g *tester) {
		w, r := newStream(g.b, nil)
		h, _ := g.b.items.add(w)
		read := make(chan int64, 1)
		go func() {
			n, _ := io.Copy(io.Discard, r)
			read <- n
		}()
		if st := g.write(h, strings.Repeat("y", 5*streamBytesMax)); st != statusOK {
			t.Error(st)
		}
		g.must("http_body.close", h)
		if n := <-read; n != 5*streamBytesMax {
			t.Errorf("got %d bytes, want %d", n, 5*streamBytesMax)
		}
	})
}

func TestAStreamThatIsNotFinishedIsBrokenOff(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(g *tester, h uint32)
		want error
	}{
		{"closed", func(g *tester, h uint32) { g.must("http_body.close", h) }, nil},
		{"abandoned", func(g *tester, h uint32) { g.must("http_body.abandon", h) }, errBrokenOff},
		{"left at the end of the sandbox", func(*tester, uint32) {}, errBrokenOff},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r *streamReader
			inSandbox(t, func(g *tester) {
				var w *stream
				w, r = newStream(g.b, nil)
				h, _ := g.b.items.add(w)
				g.write(h, "half")
				c.end(g, h)
			})
			all, err := io.ReadAll(r)
			if string(all) != "half" || err != c.want {
				t.Errorf("got %q, %v, want %v", all, err, c.want)
			}
		})
	}
}

func TestAWriterHearsThatNobodyReads(t *testing.T) {
	inSandbox(t, func(g *tester) {
		w, r := newStream(g.b, nil)
		h, _ := g.b.items.add(w)
		source, closed := io.Pipe()
		from, _ := g.b.items.add(bodyFrom(source, -1, nil))
		g.must("http_body.append", h, from)
		go func() {
			time.Sleep(10 * time.Millisecond) // so that one of the writes may wait; either way is right
			r.Close()
		}()
		for g.write(h, strings.Repeat("z", 8192)) == statusOK {
		}
		g.want(statusError, "http_body.write", h, 0, 1, writeBack, g.room(4))
		if _, err := closed.Write([]byte("more")); err == nil {
			t.Error("the reader of an appended body was not closed")
		}
	})
}

func TestABodyCannotHoldMoreThanItsShare(t *testing.T) {
	inSandbox(t, func(g *tester) {
		h := g.result("http_body.new")
		g.b.held = heldBytesMax - 3
		if st := g.write(h, "four"); st != statusLimit {
			t.Errorf("got %d, want %d", st, statusLimit)
		}
		if st := g.write(h, "thr"); st != statusOK {
			t.Errorf("got %d, want ok", st)
		}
		g.must("http_body.close", h)
		if g.b.held != heldBytesMax-3 {
			t.Errorf("got %d bytes held, want %d", g.b.held, heldBytesMax-3)
		}
	})
}

func TestManySmallPartsOfABodyCountAsMore(t *testing.T) {
	inSandbox(t, func(g *tester) {
		all := g.result("http_body.new")
		for range 100 {
			one := g.result("http_body.new")
			g.write(one, "1")
			g.must("http_body.append", all, one)
		}
		if want := 100 * (1 + partBytes); g.b.held != want {
			t.Errorf("got %d bytes held, want %d", g.b.held, want)
		}
		one := g.result("http_body.new")
		g.write(one, "1")
		at, n := g.put("front")
		before := g.b.held
		g.b.held = heldBytesMax - partBytes + 1
		g.want(statusLimit, "http_body.append", all, one)
		g.want(statusLimit, "http_body.write", all, at, n, writeFront, g.room(4))
		g.b.held = before
		g.must("http_body.close", one) // it is still the guest's
		if got, st := g.read(all); got != strings.Repeat("1", 100) || st != statusOK || g.b.held != 0 {
			t.Errorf("got %d bytes, %d, and %d held", len(got), st, g.b.held)
		}
	})
}

// A backend that reads nothing must not have the gateway remember what a guest sends
// again and again.
func TestWhatOthersDoNotReadIsBounded(t *testing.T) {
	hangs := make(chan struct{})
	service := backends(func(r *http.Request) (*http.Response, error) {
		<-hangs
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
		return answerOf(200, nil, ""), nil
	})
	withService(t, service, func(g *tester) {
		const size = 1 << 20
		big := func() uint32 {
			h := g.result("http_body.new")
			for range size / (64 << 10) {
				g.write(h, strings.Repeat("x", 64<<10))
			}
			return h
		}
		p := g.result("http_req.send_async", g.send(g.request("POST", "http://x/"), big(), "b")...)
		stream := big()
		q := g.result("http_req.send_async_streaming", g.send(g.request("POST", "http://x/"), stream, "b")...)
		if got := g.b.given.Load(); got != 2*size {
			t.Errorf("got %d bytes given, want %d", got, 2*size)
		}
		g.b.given.Add(heldBytesMax - 3*size + 1)
		more := big()
		g.want(statusLimit, "http_req.send_async", append(g.send(g.request("POST", "http://x/"), more, "b"), g.room(4))...)
		g.want(statusBadHandle, "http_body.close", more) // used up, as by every send
		more = big()
		g.want(statusLimit, "http_body.append", stream, more)
		g.must("http_body.close", more)
		g.b.given.Add(-(heldBytesMax - 3*size + 1))
		close(hangs)
		g.must("http_body.close", stream)
		for _, h := range []uint32{p, q} {
			g.must("http_req.pending_req_wait", h, g.room(4), g.room(4))
		}
		if held, given := g.b.held, g.b.given.Load(); held != 0 || given != 0 {
			t.Errorf("got %d bytes held and %d given after all were read, want none", held, given)
		}
	})
}

// Every request to a backend may have a connection, and so may every answer whose
// body nobody has read.
func TestRequestsToBackendsAreBounded(t *testing.T) {
	hangs := make(chan struct{})
	service := backends(func(r *http.Request) (*http.Response, error) {
		r.Body.Close()
		if r.URL.Path == "/hangs" {
			<-hangs
		}
		return answerOf(200, nil, "body"), nil
	})
	withService(t, service, func(g *tester) {
		send := func(uri string) []uint32 {
			return append(g.send(g.request("GET", uri), g.result("http_body.new"), "b"), g.room(4))
		}
		const underWay = 2
		for range underWay {
			g.must("http_req.send_async", send("http://x/hangs")...)
		}
		var bodies []uint32
		for range exchangesMax - underWay {
			_, body := g.results("http_req.send", g.send(g.request("GET", "http://x/"), g.result("http_body.new"), "b")...)
			bodies = append(bodies, body)
		}
		refused := send("http://x/")
		g.want(statusLimit, "http_req.send_async", refused...)
		g.want(statusBadHandle, "http_body.close", refused[1]) // used up, as by every send
		g.read(bodies[0])                                      // to its end
		g.must("http_body.close", bodies[1])
		p := g.result("http_req.send_async", g.send(g.request("GET", "http://x/"), g.result("http_body.new"), "b")...)
		g.must("http_req.pending_req_wait", p, g.room(4), g.room(4))
		g.must("http_req.send_async", send("http://x/hangs")...)
		g.want(statusLimit, "http_req.send_async", send("http://x/")...)
		close(hangs)
	})
}

func TestAllHeadsTogetherAreBounded(t *testing.T) {
	inSandbox(t, func(g *tester) {
		name, m := g.put("x")
		value, n := g.put(strings.Repeat("v", 1<<20-64))
		made, st := []uint32(nil), statusOK
		for st == statusOK && len(made) < 200 {
			made = append(made, g.result("http_req.new"))
			st = g.call("http_req.header_insert", made[len(made)-1], name, m, value, n)
		}
		if st != statusLimit || len(made) < 120 || len(made) > 129 {
			t.Errorf("got %d after %d heads of 1 MiB, want %d after 128", st, len(made), statusLimit)
		}
		g.must("http_req.close", made[0]) // there is room again
		g.must("http_req.header_insert", made[len(made)-1], name, m, value, n)
		g.want(statusLimit, "http_req.header_insert", g.result("http_req.new"), name, m, value, n)
	})
}

// TestHeadsOfLookupsAreBounded: each lookup keeps a copy of what the request said.
func TestHeadsOfLookupsAreBounded(t *testing.T) {
	for _, name := range []string{"http_cache.transaction_lookup", "cache.transaction_lookup_async"} {
		t.Run(name, func(t *testing.T) {
			together(t, withHTTPCache(t, nil), func(g *tester) {
				r := g.requestTo("GET", "http://x/")
				value, n := g.put("v")
				for i := range 1000 {
					field, m := g.put(fmt.Sprintf("x%d", i))
					g.must("http_req.header_insert", r, field, m, value, n)
				}
				out := g.room(4)
				args := []uint32{r, 0, 0, out}
				if name != "http_cache.transaction_lookup" {
					key, m := g.put("key")
					args = []uint32{key, m, lookupRequest, g.record(lookupBytes, func(b []byte) { put32(b, 0, r) }), out}
				}
				made, st := 0, statusOK
				for ; st == statusOK && made < 3000; made++ {
					st = g.call(name, args...)
				}
				if st != statusLimit || made < 1000 || made > 1700 {
					t.Errorf("got %d after %d lookups with 1000 fields, want %d after about 1500", st, made, statusLimit)
				}
			})
		})
	}
}

func TestHandlesAreBounded(t *testing.T) {
	inSandbox(t, func(g *tester) {
		at := g.room(4)
		for range handlesMax {
			g.must("http_body.new", at)
		}
		g.want(statusLimit, "http_body.new", at)
		g.must("http_body.close", 7)
		g.must("http_body.new", at)
		if got := g.get32(at); got != handlesMax+1 {
			t.Errorf("got handle %d, want a new number, %d", got, handlesMax+1)
		}
	})
}

func TestSelectTakesTheFirstThatIsReady(t *testing.T) {
	inSandbox(t, func(g *tester) {
		at := g.room(4)
		g.want(statusInvalid, "async_io.select", 0, 0, 0, at)
		g.must("async_io.select", 0, 0, 1, at)
		if got := g.get32(at); got != noIndex {
			t.Errorf("got index %d of no handles, want that of a timeout", got)
		}
		r, w := io.Pipe()
		waits, _ := g.b.items.add(bodyFrom(r, -1, nil))
		full := g.result("http_body.new")
		list, n := g.list(waits, full)
		if got := g.result("async_io.select", list, n, 0); got != 1 {
			t.Errorf("got index %d, want 1: an empty body is at its end", got)
		}
		if got := g.result("async_io.select", list, 1, 5); got != noIndex {
			t.Errorf("got index %d, want that of a timeout", got)
		}
		go w.Write([]byte("now"))
		if got := g.result("async_io.select", list, 1, 0); got != 0 {
			t.Errorf("got index %d, want 0", got)
		}
		g.want(statusBadHandle, "async_io.is_ready", 99, at)
		bad, n := g.list(waits, 99)
		g.want(statusBadHandle, "async_io.select", bad, n, 0, at)
		g.want(statusInvalid, "async_io.select", 1<<31, 2, 0, at)
		g.want(statusBadAlign, "async_io.select", list+1, 1, 0, at)
		g.want(statusInvalid, "async_io.select", list, 1<<30, 0, at)
		w.Close()
	})
}

func TestAGuestThatWaitsIsStopped(t *testing.T) {
	x := guest.NewExchange(nil)
	waiting := make(chan *sandbox, 1)
	type answer struct{ err error }
	answered := make(chan answer, 1)
	ctx, stop := contextWithStop(t)
	go func() {
		_, err := serveContext(ctx, t, nil, x, func(g *tester) {
			r, w := io.Pipe()
			defer w.Close()
			h, _ := g.b.items.add(bodyFrom(r, -1, nil))
			list, n := g.list(h)
			waiting <- g.b
			defer func() { answered <- answer{recover().(error)} }()
			g.call("async_io.select", list, n, 0, g.room(4))
		})
		if !errors.Is(err, guest.ErrUndecided) {
			t.Error(err)
		}
	}()
	<-waiting
	stop()
	if got := <-answered; got.err == nil {
		t.Error("the guest went on")
	}
}
