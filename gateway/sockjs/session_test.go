package sockjs_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gripway/gripway/gateway/socket"
	"github.com/gripway/gripway/gateway/sockjs"
)

// behind is what lies behind a session: the gateway, which keeps a WebSocket.
type behind struct {
	t    *testing.T
	peer *socket.Peer
	saw  *http.Request
}

func (b *behind) open(w http.ResponseWriter, r *http.Request) {
	b.saw = r
	peer, err := socket.AcceptPeer(w, r, http.Header{"Set-Cookie": {"sid=1"}}, 1<<20)
	if err != nil {
		b.t.Error(err)
		return
	}
	b.peer = peer
}

func ask(s *sockjs.Server, open func(http.ResponseWriter, *http.Request), ctx context.Context, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, path, strings.NewReader(body))
	s.Serve(sockjs.Call{W: w, R: r, Path: path, Base: "/sj", Realm: "*", Open: open})
	return w
}

func TestAQuietPollIsAnsweredWithAHeartbeatAfter25Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := sockjs.New(sockjs.Options{}), &behind{t: t}
		if got := ask(s, b.open, t.Context(), "/sj/0/a/xhr", "").Body.String(); got != "o\n" {
			t.Fatalf("got %q, want o", got)
		}
		begin := time.Now()
		got := ask(s, b.open, t.Context(), "/sj/0/a/xhr", "").Body.String()
		if took := time.Since(begin); got != "h\n" || took != 25*time.Second {
			t.Errorf("got %q after %v, want h after 25s", got, took)
		}
		time.Sleep(6 * time.Second) // the client does not come again
		if _, _, err := b.peer.Read(); err == nil {
			t.Error("the session goes on without its client")
		}
	})
}

func TestASessionWaitsFiveSecondsForTheNextPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := sockjs.New(sockjs.Options{}), &behind{t: t}
		ask(s, b.open, t.Context(), "/sj/0/a/xhr", "")
		for range 3 {
			time.Sleep(4 * time.Second)
			b.peer.Write([]byte("hi"))
			if got := ask(s, b.open, t.Context(), "/sj/0/a/xhr", "").Body.String(); got != "a[\"hi\"]\n" {
				t.Fatalf("got %q", got)
			}
		}
		first := b.peer
		time.Sleep(6 * time.Second)
		if got := ask(s, b.open, t.Context(), "/sj/0/a/xhr", "").Body.String(); got != "o\n" || b.peer == first {
			t.Errorf("got %q, want a new session", got)
		}
		b.peer.Drop()
		first.Drop()
		time.Sleep(11 * time.Second) // until it is forgotten
	})
}

// eager is a client that comes again as soon as it has an answer, before whoever
// answered knows that it has.
type eager struct {
	*httptest.ResponseRecorder
	again func()
}

func (w eager) Flush() {
	w.ResponseRecorder.Flush()
	w.again()
}

func TestAClientMayComeAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := sockjs.New(sockjs.Options{}), &behind{t: t}
		var answers []string
		var poll func(n int)
		poll = func(n int) {
			w := eager{httptest.NewRecorder(), func() {
				if n > 0 {
					b.peer.Write([]byte("hi"))
					poll(n - 1)
				}
			}}
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/sj/0/a/xhr", nil)
			s.Serve(sockjs.Call{W: w, R: r, Path: r.URL.Path, Base: "/sj", Realm: "*", Open: b.open})
			answers = append(answers, w.Body.String())
		}
		poll(3)
		if got, want := strings.Join(answers, ""), "a[\"hi\"]\na[\"hi\"]\na[\"hi\"]\no\n"; got != want { // the last one ends first
			t.Errorf("got %q, want %q", got, want)
		}
		time.Sleep(4 * time.Second)
		go b.peer.Read()
		if got := ask(s, func(http.ResponseWriter, *http.Request) { t.Error("a new session") }, t.Context(), "/sj/0/a/xhr_send", `["x"]`); got.Code != http.StatusNoContent {
			t.Errorf("the session is not there any more: status %d", got.Code)
		}
		time.Sleep(2 * time.Second) // until it has expired
		if got := ask(s, b.open, t.Context(), "/sj/0/a/xhr_send", `["x"]`); got.Code != http.StatusNotFound {
			t.Errorf("it does not expire: status %d", got.Code)
		}
		b.peer.Drop()
		time.Sleep(11 * time.Second)
	})
}

func TestWhatWaitsForAClientIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := sockjs.New(sockjs.Options{QueueBytes: 1000}), &behind{t: t}
		ask(s, b.open, t.Context(), "/sj/0/a/xhr", "")
		sent := make(chan int, 1) // takes how many messages were taken before nobody took more
		go func() {
			n := 0
			for ; b.peer.Write(make([]byte, 400)) == nil; n++ {
			}
			sent <- n
		}()
		synctest.Wait()
		got := ask(s, b.open, t.Context(), "/sj/0/a/xhr", "").Body.String()
		if n := strings.Count(got, `"`) / 2; n != 2 {
			t.Errorf("got %d messages of 400 bytes at once, want 2", n)
		}
		time.Sleep(10 * time.Second)
		if n := <-sent; n > 8 {
			t.Errorf("%d messages were taken for a client that did not come", n)
		}
		b.peer.Drop()
		time.Sleep(11 * time.Second)
	})
}

func TestSessionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := sockjs.New(sockjs.Options{Sessions: 1}), &behind{t: t}
		ask(s, b.open, t.Context(), "/sj/0/a/xhr", "")
		w := ask(s, b.open, t.Context(), "/sj/0/b/xhr", "")
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("got %d %v, want 503 with Retry-After", w.Code, w.Header())
		}
		b.peer.Drop()
		time.Sleep(11 * time.Second)
		if got := ask(s, b.open, t.Context(), "/sj/0/b/xhr", "").Body.String(); got != "o\n" {
			t.Errorf("got %q, want o: the first has gone", got)
		}
		b.peer.Drop()
		time.Sleep(11 * time.Second)
	})
}

func TestAClientThatLeavesWhileTheOriginIsAskedLeavesNothing(t *testing.T) {
	s := sockjs.New(sockjs.Options{})
	gone := func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the server must be told")
			}
		}()
		ask(s, gone, t.Context(), "/sj/0/a/xhr", "")
	}()
	refuse := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, "no")
	}
	if w := ask(s, refuse, t.Context(), "/sj/0/a/xhr", ""); w.Code != 403 || w.Body.String() != "no" {
		t.Errorf("got %d %q, want the origin's 403: the name is free again", w.Code, w.Body)
	}
}

func TestTheOriginSeesAHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := sockjs.New(sockjs.Options{}), &behind{t: t}
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/sj/0/a/jsonp?c=take&t=1&callback=x&room=2", nil)
		r.Header.Set("Cookie", "k=v")
		s.Serve(sockjs.Call{W: w, R: r, Path: "/sj/0/a/jsonp", Base: "/sj", As: "/chat", Realm: "*", Open: b.open})
		if got := b.saw; got.Method != http.MethodGet || got.RequestURI != "/chat?t=1&room=2" || got.Header.Get("Cookie") != "k=v" || got.Header.Get("Upgrade") != "websocket" {
			t.Errorf("got %s %s %v", got.Method, got.RequestURI, got.Header)
		}
		if got := w.Header().Get("Set-Cookie"); got != "sid=1" {
			t.Errorf("Set-Cookie: got %q, want the origin's", got)
		}
		b.peer.Drop()
		time.Sleep(11 * time.Second)
	})
}

// stuck is a client that reads nothing.
type stuck struct {
	*httptest.ResponseRecorder
	deadline time.Time
}

func (w *stuck) SetWriteDeadline(at time.Time) error {
	w.deadline = at
	return nil
}

func (w *stuck) Write([]byte) (int, error) {
	if w.deadline.IsZero() {
		time.Sleep(24 * time.Hour)
	}
	time.Sleep(time.Until(w.deadline))
	return 0, os.ErrDeadlineExceeded
}

func TestAClientThatReadsNothingIsLeftAlone(t *testing.T) {
	for _, transport := range []string{"xhr", "xhr_streaming"} {
		synctest.Test(t, func(t *testing.T) {
			s, b := sockjs.New(sockjs.Options{}), &behind{t: t}
			ask(s, b.open, t.Context(), "/sj/0/a/xhr", "")
			b.peer.Write([]byte("hi"))
			synctest.Wait()
			begin := time.Now()
			path := "/sj/0/a/" + transport
			s.Serve(sockjs.Call{
				W: &stuck{ResponseRecorder: httptest.NewRecorder()}, R: httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, nil),
				Path: path, Base: "/sj", Realm: "*", Open: b.open,
			})
			if took := time.Since(begin); took > 2*time.Minute {
				t.Errorf("%s: it was waited for %v", transport, took)
			}
			if _, _, err := b.peer.Read(); err == nil {
				t.Errorf("%s: the session goes on without its client", transport)
			}
			time.Sleep(11 * time.Second) // until it is forgotten
		})
	}
}

func TestARefusalThatHasNoEndIsNotKept(t *testing.T) {
	written := 0
	got := ask(sockjs.New(sockjs.Options{}), func(w http.ResponseWriter, _ *http.Request) {
		for piece := make([]byte, 10_000); written < 10<<20; {
			n, err := w.Write(piece)
			if written += n; err != nil {
				return
			}
		}
	}, t.Context(), "/sj/0/a/xhr", "")
	if written > 100_000 || got.Code != http.StatusBadGateway || got.Body.Len() > 100 {
		t.Errorf("%d bytes were taken, and answered with %d and %d bytes", written, got.Code, got.Body.Len())
	}
}
