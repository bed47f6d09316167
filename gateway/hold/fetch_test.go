package hold_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/hold"
	"github.com/gripway/gripway/grip"
)

// chainCall is an answer without hold whose next link is fetched at once.
func chainCall(route, link string, fetch func(context.Context) (*hold.Answer, error)) hold.Call {
	call := streamCall()
	call.Route = route
	call.Instruction = &grip.Instruction{Next: &grip.Link{URI: link, Timeout: time.Hour}}
	call.URI = &url.URL{Scheme: "http", Host: "x", Path: "/"}
	call.Fetch = func(ctx context.Context, _ *url.URL, _ []hold.Last) (*hold.Answer, error) { return fetch(ctx) }
	return call
}

func next(text string) *hold.Answer { return &hold.Answer{Status: 200, Body: []byte(text)} }

// An origin that answers none of its next links takes no other origin's streams
// with it, however many wait for it.
func TestSlowNextLinksHoldUpNoOtherRoute(t *testing.T) {
	const slow = 100 // more than are fetched at once for a route
	release := make(chan struct{})
	defer close(release)
	var began, asked atomic.Int32
	h := newHouse(t, hold.Options{}, false, func(r *http.Request) hold.Call {
		if n := began.Add(1); r.URL.Path == "/slow" {
			return chainCall("slow", fmt.Sprintf("/slow/%d", n), func(ctx context.Context) (*hold.Answer, error) {
				asked.Add(1)
				select {
				case <-release:
				case <-ctx.Done():
				}
				return nil, context.Canceled
			})
		}
		return chainCall("quick", "/quick", func(context.Context) (*hold.Answer, error) { return next("quick\n"), nil })
	})
	for range slow {
		h.raw(t, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	for deadline := time.Now().Add(patience); asked.Load() < 64; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("next links asked for: got %d, want 64", asked.Load())
		}
	}
	response := h.get(t)
	readString(t, response.Body, "first\nquick\n")
	if n := asked.Load(); n != 64 {
		t.Errorf("next links of the slow route under way: got %d, want no more than 64", n)
	}
}

// Streams that want the same next link share one request; the one that began it
// may leave without taking it from the others.
func TestSharedNextLinkOutlivesTheStreamThatBeganIt(t *testing.T) {
	asked, release := make(chan struct{}, 2), make(chan struct{})
	h := newHouse(t, hold.Options{}, false, func(*http.Request) hold.Call {
		return chainCall("r", "/next", func(ctx context.Context) (*hold.Answer, error) {
			asked <- struct{}{}
			select {
			case <-release:
				return next("next\n"), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
	})
	first := h.raw(t, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-asked
	second := h.get(t)
	readString(t, second.Body, "first\n")
	h.waitHeld(t, 2)
	first.Close()
	h.waitHeld(t, 1)
	close(release)
	readString(t, second.Body, "next\n")
	if _, err := io.ReadAll(second.Body); err != nil {
		t.Errorf("end of the stream: %v", err)
	}
	if n := len(asked); n != 0 {
		t.Errorf("the next link was asked for %d times more", n)
	}
}

// endless is an origin's body that does not end before it is closed.
type endless struct{ closed chan struct{} }

func (endless) Read(p []byte) (int, error) { return len(p), nil }
func (e endless) Close() error             { close(e.closed); return nil }

// A client that does not read a long first body is given up, and its origin's
// answer with it.
func TestClientThatDoesNotReadTheFirstBodyIsCut(t *testing.T) {
	t.Cleanup(hold.SetCopyTimeout(200 * time.Millisecond))
	eachTransport(t, func(t *testing.T, tls bool) {
		body := endless{make(chan struct{})}
		h := newHouse(t, hold.Options{}, tls, func(*http.Request) hold.Call {
			call := streamCall("a")
			call.Rest = body
			return call
		})
		h.get(t)
		select {
		case <-body.closed:
		case <-time.After(patience - time.Second): // then the client hangs up
			t.Fatal("the origin's answer is still being read")
		}
	})
}
