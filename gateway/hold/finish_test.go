package hold_test

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/hold"
)

func TestFinishHasTheLastWord(t *testing.T) {
	finish := func(answer *hold.Answer) {
		answer.Status = 299
		answer.Header.Set("X-Finished", "yes")
		answer.Body = append([]byte("finished: "), answer.Body...)
	}
	eachTransport(t, func(t *testing.T, tls bool) {
		poll := pollCall(50 * time.Millisecond)
		poll.Finish = finish
		before := poll.Header.Clone()
		h := newHouse(t, hold.Options{}, tls, func(*http.Request) hold.Call { return poll })
		r := h.get(t)
		body, err := io.ReadAll(r.Body)
		if want := "finished: " + string(poll.Body); r.StatusCode != 299 || r.Header.Get("X-Finished") != "yes" || string(body) != want || err != nil {
			t.Errorf("poll: got %d %v %q (%v), want 299 and %q", r.StatusCode, r.Header, body, err, want)
		}
		if len(poll.Header) != len(before) {
			t.Errorf("the stored answer's header has changed to %v", poll.Header)
		}

		stream := streamCall("room")
		stream.Finish = finish
		h = newHouse(t, hold.Options{}, tls, func(*http.Request) hold.Call { return stream })
		r = h.get(t)
		if r.StatusCode != 299 || r.Header.Get("X-Finished") != "yes" {
			t.Errorf("stream: got %d %v", r.StatusCode, r.Header)
		}
		readString(t, r.Body, "finished: "+string(stream.Body))
	})
}
