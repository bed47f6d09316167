package compute

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/guest"
)

// interesting are parameters that are more likely to be wrong in a new way than
// others.
var interesting = []uint32{
	0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 64, 255, 256, 1024, 4096, 1 << 16, 1<<22 - 4, 1<<22 - 1, 1 << 22, 1 << 30, 1<<31 - 1, 1 << 31, 1<<32 - 4, 1<<32 - 1,
}

// TestNoHostcallPanics calls everything with anything. What is returned is one of the
// statuses; the memory outside of what a call was given is not looked at.
func TestNoHostcallPanics(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 30
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	// One that waits for the end of a body waits for a guest that may never end it.
	answer := func(r *http.Request) (*http.Response, error) {
		r.Body.Close()
		return answerOf(200, http.Header{"X-A": {"b"}}, "content"), nil
	}
	backends := &fakeBackends{static: map[string]*fakeBackend{"": {answer: answer}, "b": {answer: answer}}}
	service := &Service{Backends: backends, FastlyKeys: []string{"key"}, Local: true}
	request := httptest.NewRequest("POST", "http://example.com/path?q", strings.NewReader(strings.Repeat("body", 100)))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	ran := make(chan struct{})
	outcome, err := serveContext(ctx, t, service, guest.NewExchange(request), func(g *tester) {
		defer close(ran)
		memory, _ := g.memory.Read(0, 1<<16)
		for i := range memory {
			memory[i] = byte(random.IntN(4) * random.IntN(256))
		}
		for range rounds {
			for _, m := range abi {
				for _, f := range m.functions {
					if g.waits(m.name, f.name) || implemented[m.name][f.name] == nil {
						continue
					}
					stack := make([]uint64, max(len(f.params), 1))
					for i := range f.params {
						switch random.IntN(4) {
						case 0:
							stack[i] = uint64(interesting[random.IntN(len(interesting))])
						case 1:
							stack[i] = uint64(random.Uint32())
						default:
							stack[i] = uint64(random.IntN(64) * 4)
						}
						if f.params[i] == 'i' {
							stack[i] |= uint64(random.IntN(2)) << 40 // is not looked at
						}
					}
					g.checked(m.name+"."+f.name, stack)
				}
			}
		}
	})
	if err != nil && err != guest.ErrUndecided {
		t.Error(err)
	}
	if outcome.Response != nil {
		outcome.Response.Body.Close()
	}
	<-ran
}

// waits says whether a call with random handles may wait for what never comes.
func (g *tester) waits(module, name string) bool {
	return slices.Contains([]string{"select", "next_request_wait", "read", "cache_busy_handle_wait"}, name) && module != "fastly_http_body" ||
		strings.Contains(name, "transaction_")
}

// checked makes a call that must neither panic nor return what is no status.
func (g *tester) checked(name string, stack []uint64) {
	defer func() {
		if r := recover(); r != nil {
			g.Errorf("%s%v panicked: %v\n%s", name, stack, r, debug.Stack())
		}
	}()
	given := slices.Clone(stack)
	if st := g.callStack(strings.TrimPrefix(name, "fastly_"), stack); st > statusAgain {
		g.Errorf("%s%v: got status %d", name, given, st)
	}
}
