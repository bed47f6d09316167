package compute_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gripway/gripway/guest"
	"github.com/gripway/gripway/guest/compute"
	"github.com/gripway/gripway/guest/guesttest"
)

// benchGuest is a guest that answers hello: of the Go SDK, or the module that the
// environment variable GUEST names, like one of another SDK.
func benchGuest(b *testing.B) []byte {
	if file := os.Getenv("GUEST"); file != "" {
		wasm, err := os.ReadFile(file)
		if err != nil {
			b.Fatal(err)
		}
		return wasm
	}
	return guesttest.Build(b, "testdata/hello")
}

func benchLoad(b *testing.B, cache string, wasm []byte, opts guest.LoadOptions) (*guest.Runtime, *guest.Program) {
	b.Helper()
	runtime, err := guest.NewRuntime(guest.RuntimeOptions{ABIs: []guest.ABI{compute.ABI{}}, CacheDir: cache})
	if err != nil {
		b.Fatal(err)
	}
	opts.Name, opts.Service = "bench", &compute.Service{Stderr: os.Stderr}
	program, err := runtime.Load(context.Background(), wasm, opts)
	if err != nil {
		b.Fatal(err)
	}
	return runtime, program
}

// BenchmarkLoad is from a module's bytes to a program.
func BenchmarkLoad(b *testing.B) {
	wasm := benchGuest(b)
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			runtime, _ := benchLoad(b, "", wasm, guest.LoadOptions{})
			runtime.Close()
		}
	})
	b.Run("cached", func(b *testing.B) {
		cache := b.TempDir()
		runtime, _ := benchLoad(b, cache, wasm, guest.LoadOptions{})
		runtime.Close()
		for b.Loop() {
			runtime, _ := benchLoad(b, cache, wasm, guest.LoadOptions{})
			runtime.Close()
		}
	})
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// hello has the guest answer a request and reads the answer.
func hello(b *testing.B, program *guest.Program) {
	x := guest.NewExchange(httptest.NewRequest(http.MethodGet, "http://example.com/", http.NoBody))
	x.Client.Remote, x.Client.Local = netip.MustParseAddrPort("127.0.0.1:50000"), netip.MustParseAddrPort("127.0.0.1:80")
	outcome, err := program.Serve(context.Background(), x)
	if err != nil {
		b.Fatal(err)
	}
	body, err := io.ReadAll(outcome.Response.Body)
	if err != nil || !strings.HasPrefix(string(body), "hello") {
		b.Fatalf("got %q, %v", body, err)
	}
	outcome.Response.Body.Close()
}

// BenchmarkHello is an empty request: how long one client waits for its answer
// (p50-µs, best-µs), and what it costs the process (cpu-µs/op), sandboxes that are
// started meanwhile included.
func BenchmarkHello(b *testing.B) {
	wasm, cache := benchGuest(b), b.TempDir()
	for _, c := range []struct {
		name string
		opts guest.LoadOptions
	}{{"fresh", guest.LoadOptions{Parked: -1}}, {"parked", guest.LoadOptions{}}, {"snapshot", guest.LoadOptions{Snapshot: true}}} {
		for _, clients := range []int{1, 8} {
			b.Run(fmt.Sprintf("way=%s/clients=%d", c.name, clients), func(b *testing.B) {
				runtime, program := benchLoad(b, cache, wasm, c.opts)
				defer runtime.Close()
				for range 20 {
					hello(b, program)
				}
				var mu sync.Mutex
				var took []time.Duration
				var all sync.WaitGroup
				left := make(chan struct{}, b.N)
				for range b.N {
					left <- struct{}{}
				}
				close(left)
				b.ResetTimer()
				cpu := cpuTime()
				for range clients {
					all.Go(func() {
						for range left {
							if clients == 1 && c.name == "parked" { // between requests there is time
								for end := time.Now().Add(time.Second); program.Stats().Parked == 0 && time.Now().Before(end); {
									time.Sleep(100 * time.Microsecond)
								}
							}
							begin := time.Now()
							hello(b, program)
							d := time.Since(begin)
							mu.Lock()
							took = append(took, d)
							mu.Unlock()
						}
					})
				}
				all.Wait()
				b.StopTimer()
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "p50-µs")
				b.ReportMetric(float64(took[0].Nanoseconds())/1000, "best-µs")
				b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

// BenchmarkIdle is the memory of the process for each sandbox that is parked.
func BenchmarkIdle(b *testing.B) {
	wasm, cache := benchGuest(b), b.TempDir()
	best := math.Inf(1)
	for b.Loop() {
		const n = 64
		runtime, program := benchLoad(b, cache, wasm, guest.LoadOptions{Parked: n})
		hello(b, program)
		debug.FreeOSMemory()
		before := resident()
		var all sync.WaitGroup
		for program.Stats().Parked < n {
			for range n {
				all.Go(func() { hello(b, program) })
			}
			all.Wait()
			time.Sleep(200 * time.Millisecond)
		}
		debug.FreeOSMemory()
		best = min(best, float64(resident()-before)/n)
		runtime.Close()
	}
	b.ReportMetric(best, "bytes/sandbox")
}

func resident() int {
	var pages, resident int
	b, _ := os.ReadFile("/proc/self/statm")
	fmt.Sscan(string(b), &pages, &resident)
	return resident * os.Getpagesize()
}
