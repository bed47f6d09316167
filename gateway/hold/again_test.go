package hold_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/hold"
	"github.com/gripway/gripway/grip"
)

// The origin's last answer has no next link any more while something still
// wanted one to be fetched.
func TestStreamGoesOnWithoutNextLinkThoughOneWasWanted(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	h := newHouse(t, hold.Options{}, false, func(*http.Request) hold.Call {
		call := streamCall("a")
		call.Instruction.Next = &grip.Link{URI: "/next", Timeout: time.Hour}
		call.URI = &url.URL{Scheme: "http", Host: "x", Path: "/"}
		call.Fetch = func(context.Context, *url.URL, []hold.Last) (*hold.Answer, error) {
			close(asked)
			<-answer
			return &hold.Answer{Status: 200, Body: []byte("next\n"), Instruction: &grip.Instruction{
				Hold: grip.HoldStream, Channels: []grip.Channel{{Name: "a"}},
			}}, nil
		}
		return call
	})
	response := h.get(t)
	readString(t, response.Body, "first\n")
	hint := &grip.Item{Channel: "p-a", Stream: &grip.StreamItem{Action: grip.ActionHint}}
	h.publish(t, hint)
	<-asked
	h.publish(t, hint)
	time.Sleep(50 * time.Millisecond) // for the hint to be delivered, which nothing shows
	close(answer)
	readString(t, response.Body, "next\n")
	time.Sleep(150 * time.Millisecond) // the next fetch would be begun meanwhile
	h.publish(t, streamItem("p-a", "1\n"))
	readString(t, response.Body, "1\n")
}

// raw sends a request and returns the connection.
func (h *house) raw(t *testing.T, request string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	io.WriteString(nc, request)
	return nc
}

// An answer that has no body must not look as if it had an empty one: the
// client's next answer on the connection would begin with its end.
func TestOriginAskedAgainAnswersWithoutABody(t *testing.T) {
	for _, c := range []struct {
		method string
		status int
	}{{"GET", 204}, {"GET", 304}, {"HEAD", 200}} {
		t.Run(c.method+" "+http.StatusText(c.status), func(t *testing.T) {
			h := newHouse(t, hold.Options{}, false, func(*http.Request) hold.Call {
				call := responseCall("a")
				call.Again = func(context.Context, []hold.Last) (*hold.Answer, error) {
					return &hold.Answer{Status: c.status, Header: http.Header{}, Rest: io.NopCloser(strings.NewReader(""))}, nil
				}
				return call
			})
			nc := h.raw(t, c.method+" / HTTP/1.1\r\nHost: x\r\n\r\n")
			h.waitHeld(t, 1)
			h.publish(t, &grip.Item{Channel: "p-a", Response: &grip.ResponseItem{Action: grip.ActionHint}})
			r := bufio.NewReader(nc)
			request, _ := http.NewRequest(c.method, "/", nil)
			response, err := http.ReadResponse(r, request)
			if err != nil {
				t.Fatal(err)
			}
			if len(response.TransferEncoding) > 0 && c.status != 200 {
				t.Errorf("got Transfer-Encoding %q, want none", response.TransferEncoding)
			}
			nc.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			if rest, _ := io.ReadAll(r); len(rest) > 0 {
				t.Errorf("after the answer: got %q, want nothing", rest)
			}
		})
	}
}

func responseCall(channels ...string) hold.Call {
	call := streamCall(channels...)
	call.Instruction.Hold = grip.HoldResponse
	call.Instruction.Timeout = time.Minute
	return call
}

// A client that leaves while its long poll becomes a stream is forgotten.
func TestClientLeavesWhileItsLongPollBecomesAStream(t *testing.T) {
	for range 30 {
		asked := make(chan net.Conn, 1)
		var nc net.Conn
		h := newHouse(t, hold.Options{}, false, func(*http.Request) hold.Call {
			call := responseCall("a")
			call.Again = func(context.Context, []hold.Last) (*hold.Answer, error) {
				(<-asked).(*net.TCPConn).SetLinger(0)
				nc.Close()
				in := &grip.Instruction{Hold: grip.HoldStream, Channels: []grip.Channel{{Name: "b"}}}
				return &hold.Answer{Status: 200, Header: http.Header{}, Instruction: in}, nil
			}
			return call
		})
		nc = h.raw(t, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		h.waitHeld(t, 1)
		asked <- nc
		h.publish(t, &grip.Item{Channel: "p-a", Response: &grip.ResponseItem{Action: grip.ActionHint}})
		h.waitHeld(t, 0)
	}
}

// cut is a body that breaks off.
type cut struct{ io.Reader }

func (cut) Close() error { return nil }

func broken(text string) io.ReadCloser {
	return cut{io.MultiReader(strings.NewReader(text), brokenOff{})}
}

type brokenOff struct{}

func (brokenOff) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// What the origin broke off must not look whole.
func TestBodyThatBreaksOffIsNotWhole(t *testing.T) {
	eachTransport(t, func(t *testing.T, tls bool) {
		t.Run("first body of a stream", func(t *testing.T) {
			h := newHouse(t, hold.Options{}, tls, func(*http.Request) hold.Call {
				call := streamCall("a")
				call.Rest = broken("more")
				return call
			})
			response := h.get(t)
			if got, err := io.ReadAll(response.Body); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %q, %v; want it to break off", got, err)
			}
		})
		t.Run("origin asked again", func(t *testing.T) {
			h := newHouse(t, hold.Options{}, tls, func(*http.Request) hold.Call {
				call := responseCall("a")
				call.Again = func(context.Context, []hold.Last) (*hold.Answer, error) {
					return &hold.Answer{Status: 200, Header: http.Header{}, Rest: broken("more")}, nil
				}
				return call
			})
			go func() {
				h.waitHeld(t, 1)
				h.publish(t, &grip.Item{Channel: "p-a", Response: &grip.ResponseItem{Action: grip.ActionHint}})
			}()
			response, err := h.client.Get(h.scheme + "://" + h.addr + "/")
			if err != nil {
				return // it broke off before anything was sent
			}
			defer response.Body.Close()
			if got, err := io.ReadAll(response.Body); err == nil {
				t.Errorf("got %q, whole; want it to break off", got)
			}
		})
	})
}

// What closes a stream may come before its head has been sent.
func TestHoldThatBeginsWhileTheGatewayDrainsIsAWholeAnswer(t *testing.T) {
	for _, mode := range []grip.HoldMode{grip.HoldStream, grip.HoldResponse} {
		t.Run(mode.String(), func(t *testing.T) {
			h := newHouse(t, hold.Options{}, false, func(*http.Request) hold.Call {
				call := streamCall("a")
				call.Instruction.Hold = mode
				return call
			})
			if err := h.keeper.Drain(context.Background()); err != nil {
				t.Fatal(err)
			}
			response := h.get(t)
			if got, err := io.ReadAll(response.Body); err != nil || string(got) != "first\n" {
				t.Fatalf("got %q, %v; want the first body, whole", got, err)
			}
		})
	}
}
