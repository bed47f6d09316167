package hold_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/hold"
	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/grip"
)

// one waits for the channel's only client.
func (h *house) one(t *testing.T, channel string) hub.Client {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if clients := h.hub.Clients(channel); len(clients) == 1 {
			return clients[0]
		} else if time.Now().After(deadline) {
			t.Fatalf("clients of %q: got %d, want 1", channel, len(clients))
		}
	}
}

func (h *house) wantGone(t *testing.T, id string) {
	t.Helper()
	for deadline := time.Now().Add(patience); h.keeper.Client(id) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s is still there", id)
		}
	}
}

func TestAStreamIsFoundAndEndedAsIfItWereComplete(t *testing.T) {
	eachTransport(t, func(t *testing.T, tls bool) {
		h := newHouse(t, hold.Options{}, tls, func(*http.Request) hold.Call {
			call := streamCall("a")
			call.Instruction.Meta = map[string]string{"user": "ann"}
			return call
		})
		response := h.get(t)
		client := h.one(t, "p-a")
		if got := h.keeper.Client(client.ID()); got != client {
			t.Fatalf("by its id %s: got %v, want %v", client.ID(), got, client)
		}
		if got := h.keeper.ClientsOf("ann"); len(got) != 1 || got[0] != client {
			t.Fatalf("by its user: got %v", got)
		}
		for _, id := range []string{"", "http-", "http-1", "http-0000000000000000", client.ID() + "0", "x" + client.ID()} {
			if got := h.keeper.Client(id); got != nil {
				t.Errorf("by %q: got %v", id, got)
			}
		}
		if client.Refresh() {
			t.Error("a stream says that it refreshed")
		}
		if !client.End(0, "") || client.End(0, "") {
			t.Error("want it to end once")
		}
		if body, err := io.ReadAll(response.Body); string(body) != "first\n" || err != nil {
			t.Errorf("got %q, %v", body, err)
		}
		h.wantGone(t, client.ID())
		if got := h.keeper.ClientsOf("ann"); len(got) != 0 {
			t.Errorf("the user still has %d", len(got))
		}
	})
}

func TestALongPollKeepsItsIDAsAStream(t *testing.T) {
	eachTransport(t, func(t *testing.T, tls bool) {
		h := newHouse(t, hold.Options{}, tls, func(*http.Request) hold.Call {
			call := streamCall("a")
			call.Instruction.Hold = grip.HoldResponse
			call.Again = func(context.Context, []hold.Last) (*hold.Answer, error) {
				again := streamCall("b").Answer
				again.Instruction.Meta = map[string]string{"user": "ann"}
				return &again, nil
			}
			return call
		})
		response := make(chan *http.Response, 1)
		go func() { response <- h.get(t) }()
		poll := h.one(t, "p-a")
		h.publish(t, &grip.Item{Channel: "p-a", Response: &grip.ResponseItem{Action: grip.ActionHint}})
		stream := h.one(t, "p-b")
		if poll.ID() != stream.ID() || poll.Format() != hub.FormatResponse || stream.Format() != hub.FormatStream {
			t.Errorf("got %s and %s, %s and %s", poll.ID(), stream.ID(), poll.Format(), stream.Format())
		}
		if got := h.keeper.ClientsOf("ann"); len(got) != 1 || got[0] != stream {
			t.Errorf("by its user: got %v", got)
		}
		if got := h.keeper.Client(poll.ID()); got != stream {
			t.Errorf("by its id: got %v, want the stream", got)
		}
		if poll.End(0, "") || !stream.End(0, "") {
			t.Error("want only the stream to end")
		}
		if body, err := io.ReadAll((<-response).Body); string(body) != "first\n" || err != nil {
			t.Errorf("got %q, %v", body, err)
		}
		h.wantGone(t, stream.ID())
	})
}

func TestALongPollThatIsEndedIsAnsweredAsIfItsTimeWereUp(t *testing.T) {
	eachTransport(t, func(t *testing.T, tls bool) {
		h := newHouse(t, hold.Options{}, tls, func(*http.Request) hold.Call {
			call := streamCall("a")
			call.Instruction.Hold = grip.HoldResponse
			return call
		})
		response := make(chan *http.Response, 1)
		go func() { response <- h.get(t) }()
		poll := h.one(t, "p-a")
		if !poll.End(0, "") || poll.End(0, "") {
			t.Error("want it to end once")
		}
		if body, err := io.ReadAll((<-response).Body); string(body) != "first\n" || err != nil {
			t.Errorf("got %q, %v", body, err)
		}
		h.wantGone(t, poll.ID())
	})
}
