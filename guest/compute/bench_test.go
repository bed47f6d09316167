package compute

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/gripway/gripway/guest"
)

// inBenchmark runs a tester for a benchmark, or to measure.
func inBenchmark(b testing.TB, service *Service, x *guest.Exchange, run func(g *tester)) {
	b.Helper()
	t := new(testing.T) // the tester's; what it says is lost
	runtime, err := guest.NewRuntime(guest.RuntimeOptions{ABIs: []guest.ABI{testABI{t: t, run: run}}})
	if err != nil {
		b.Fatal(err)
	}
	defer runtime.Close()
	program, err := runtime.Load(context.Background(), nothing, guest.LoadOptions{Name: "bench", Service: service, Parked: -1})
	if err != nil {
		b.Fatal(err)
	}
	program.Serve(context.Background(), x)
}

// calls is hostcalls ready to be made again and again.
type calls struct {
	g     *tester
	do    []hostcall
	stack [][]uint64
	work  []uint64
}

func (c *calls) add(name string, params ...uint32) {
	module, function, _ := strings.Cut(name, ".")
	stack := make([]uint64, max(len(params), 1))
	for i, p := range params {
		stack[i] = uint64(p)
	}
	c.do, c.stack = append(c.do, implemented["fastly_"+module][function]), append(c.stack, stack)
	c.work = make([]uint64, 16)
}

func (c *calls) make(b testing.TB) {
	call := &c.g.b.call
	call.ctx, call.memory = c.g.b.Context(), c.g.memory
	for i, do := range c.do {
		call.stack = c.work[:copy(c.work, c.stack[i])]
		if st := do(call); st != statusOK {
			b.Fatalf("call %d: got status %d", i, st)
		}
	}
}

func manyHeaders(n int) *guest.Exchange {
	x := clientRequest("GET", "http://example.com/path", "")
	for i := range n {
		name := "X-Header-" + strconv.Itoa(i)
		x.Request.Header[name] = []string{"a value of some length"}
		x.Client.Header = append(x.Client.Header, guest.Field{Name: name})
	}
	return x
}

// headerCalls are what an SDK does to read a head: names, then each one's values.
func headerCalls(g *tester, n int) *calls {
	r, _ := g.downstream()
	c := &calls{g: g}
	buffer, next, written := g.room(16<<10), g.room(8), g.room(4)
	c.add("http_req.header_names_get", r, buffer, 16<<10, 0, next, written)
	for i := range n {
		at, size := g.put("X-Header-" + strconv.Itoa(i))
		c.add("http_req.header_values_get", r, at, size, buffer, 1024, 0, next, written)
	}
	return c
}

func BenchmarkReadHead(b *testing.B) {
	for _, n := range []int{10, 100} {
		b.Run("headers="+strconv.Itoa(n), func(b *testing.B) {
			inBenchmark(b, &Service{}, manyHeaders(n), func(g *tester) {
				c := headerCalls(g, n)
				b.ReportAllocs()
				b.ResetTimer()
				for range b.N {
					c.make(b)
				}
			})
		})
	}
}

// BenchmarkArrive is what a request costs before the guest has read anything of it.
func BenchmarkArrive(b *testing.B) {
	for _, n := range []int{10, 100} {
		b.Run("headers="+strconv.Itoa(n), func(b *testing.B) {
			inBenchmark(b, &Service{}, manyHeaders(n), func(g *tester) {
				d := g.b.arrived()
				b.ReportAllocs()
				b.ResetTimer()
				for range b.N {
					g.b.arrive(d.exchange, firstDownstream, firstDownstream)
				}
			})
		})
	}
}

// BenchmarkStream writes an answer while it is read.
func BenchmarkStream(b *testing.B) {
	for _, size := range []int{64, 4096, 65536} {
		b.Run("bytes="+strconv.Itoa(size), func(b *testing.B) {
			inBenchmark(b, &Service{}, clientRequest("GET", "http://x/", ""), func(g *tester) {
				w, r := newStream(g.b, nil)
				h, _ := g.b.items.add(w)
				read := make(chan struct{})
				go func() {
					defer close(read)
					buffer := make([]byte, 32<<10)
					io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, buffer)
				}()
				c := &calls{g: g}
				c.add("http_body.write", h, 4096, uint32(size), writeBack, g.room(4))
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.ResetTimer()
				for range b.N {
					c.make(b)
				}
				b.StopTimer()
				w.finish()
				<-read
			})
		})
	}
}

// endless is a body that does not end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
func (endless) Close() error               { return nil }

// BenchmarkReadBody reads what a backend sends.
func BenchmarkReadBody(b *testing.B) {
	for _, size := range []int{512, 8192, 32768} {
		b.Run("bytes="+strconv.Itoa(size), func(b *testing.B) {
			inBenchmark(b, &Service{}, clientRequest("GET", "http://x/", ""), func(g *tester) {
				h, _ := g.b.items.add(bodyFrom(endless{}, -1, nil))
				c := &calls{g: g}
				c.add("http_body.read", h, 4096, uint32(size), g.room(4))
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.ResetTimer()
				for range b.N {
					c.make(b)
				}
			})
		})
	}
}

// BenchmarkSend asks a backend that answers at once.
func BenchmarkSend(b *testing.B) {
	answer := http.Header{"Content-Type": {"text/plain"}}
	service := backends(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Header: answer, Body: http.NoBody}, nil
	})
	inBenchmark(b, service, clientRequest("GET", "http://x/", ""), func(g *tester) {
		name, n := g.put("b")
		out := g.room(8)
		b.ReportAllocs()
		for b.Loop() {
			r := g.result("http_req.new")
			body := g.result("http_body.new")
			g.must("http_req.send", r, body, name, n, out, out+4)
			g.must("http_resp.close", g.get32(out))
			g.must("http_body.close", g.get32(out+4))
			g.used = out + 8
		}
	})
}

func TestReadingAndStreamingDoNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	ran := false
	inBenchmark(t, &Service{}, manyHeaders(50), func(g *tester) {
		ran = true
		c := headerCalls(g, 50)
		if got := testing.AllocsPerRun(100, func() { c.make(t) }); got > 0 {
			t.Errorf("reading a head: got %.1f allocations, want none", got)
		}
		w, r := newStream(g.b, nil)
		h, _ := g.b.items.add(w)
		write := &calls{g: g}
		write.add("http_body.write", h, 4096, 1000, writeBack, g.room(4))
		buffer := make([]byte, 1000)
		if got := testing.AllocsPerRun(100, func() {
			write.make(t)
			r.Read(buffer)
		}); got > 0 {
			t.Errorf("streaming: got %.1f allocations, want none", got)
		}
	})
	if !ran {
		t.Fatal("nothing was measured")
	}
}
