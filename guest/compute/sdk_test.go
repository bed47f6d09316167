package compute

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gripway/gripway/guest"
	"github.com/gripway/gripway/guest/guesttest"
)

// log is what guests logged.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// eventually waits for what a guest logs after it has answered.
func (l *log) eventually(t *testing.T, want string) {
	t.Helper()
	for range 1000 {
		if strings.Contains(l.String(), want) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("got log\n%s\nwant %q in it", l, want)
}

// sdkGuest is a guest of Fastly's SDK for Go, see testdata/sdk.
func sdkGuest(t *testing.T, runtime *guest.Runtime, service *Service) *guest.Program {
	t.Helper()
	program, err := runtime.Load(t.Context(), guesttest.Build(t, "testdata/sdk"), guest.LoadOptions{
		Name: "sdk", Service: service, Limits: guest.Limits{CPU: time.Minute},
	})
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// get asks a guest, and reads its answer.
func get(ctx context.Context, program *guest.Program, x *guest.Exchange) (*http.Response, string, error) {
	outcome, err := program.Serve(ctx, x)
	if err != nil {
		return nil, "", err
	}
	if outcome.Handoff != nil {
		return nil, "", errors.New("handed off")
	}
	content, err := io.ReadAll(outcome.Response.Body)
	outcome.Response.Body.Close()
	return outcome.Response, string(content), err
}

func TestAGuestOfFastlysSDK(t *testing.T) {
	var logged log
	service := backends(func(r *http.Request) (*http.Response, error) {
		content, err := io.ReadAll(r.Body)
		r.Body.Close()
		switch {
		case err != nil:
			return nil, err
		case r.Header.Get("X-Fail") != "":
			return nil, fmt.Errorf("backend: %w", io.ErrUnexpectedEOF)
		}
		text := fmt.Sprintf("%s%s+%d", r.Method, r.RequestURI, len(content))
		return answerOf(203, http.Header{"X-Edge": r.Header["X-Edge"], "Set-Cookie": {"a=1", "b=2"}}, text), nil
	})
	service.Log = slog.New(slog.NewTextHandler(&logged, nil))
	service.Env = map[string]string{"FASTLY_SERVICE_ID": "service-1"}
	runtime, err := guest.NewRuntime(guest.RuntimeOptions{ABIs: []guest.ABI{ABI{}}, Log: service.Log})
	if err != nil {
		t.Fatal(err)
	}
	defer runtime.Close()
	program := sdkGuest(t, runtime, service)
	exchange := func(method, path, body string, header ...string) *guest.Exchange {
		r := httptest.NewRequest(method, "http://example.com"+path, strings.NewReader(body))
		for i := 0; i < len(header); i += 2 {
			r.Header.Add(header[i], header[i+1])
		}
		x := guest.NewExchange(r)
		x.Client.Remote = netip.MustParseAddrPort("192.0.2.1:50000")
		return x
	}

	for _, c := range []struct {
		name   string
		x      *guest.Exchange
		status int
		want   string // contained
	}{
		{"sees the request", exchange("POST", "/request?a=%20b", "hello", "X-A", "1", "X-A", "2"), 200,
			"POST http://example.com/request?a=%20b 192.0.2.1 hello <nil>\nHost: example.com\nX-A: 1|2\n"},
		{"is new for each request", exchange("GET", "/served", ""), 200, "1"},
		{"is new for each request, again", exchange("GET", "/served", ""), 200, "1"},
		{"passes a request on", exchange("PUT", "/forward", "12345"), 203, "PUT/forward+5"},
		{"hears why there is no answer", exchange("GET", "/forward", "", "X-Fail", "1"), 502, "true"},
		{"waits for many at once", exchange("GET", "/parallel", ""), 200, "GET/0+0 GET/1+0 GET/2+0 GET/3+0"},
		{"streams", exchange("GET", "/stream", ""), 200, "part 0\npart 1\npart 2\n"},
		{"streams to a backend", exchange("GET", "/upload", ""), 200, "POST/+800"},
		{"knows where it is", exchange("GET", "/log", ""), 200, "localhost service-1 32 compute-app"},
	} {
		t.Run(c.name, func(t *testing.T) {
			response, content, err := get(t.Context(), program, c.x)
			if err != nil {
				t.Fatalf("%v\n%s", err, &logged)
			}
			if response.StatusCode != c.status || !strings.Contains(content, c.want) {
				t.Errorf("got %d %q, want %d %q", response.StatusCode, content, c.status, c.want)
			}
			if c.status == 203 && (response.Header.Get("X-Edge") != "1" || len(response.Header["Set-Cookie"]) != 2) {
				t.Errorf("got %v", response.Header)
			}
		})
	}
	if t.Failed() {
		return
	}
	for _, want := range []string{`msg="to the endpoint" guest=sdk endpoint=audit`, `msg="to stdout" guest=sdk endpoint=stdout`, `msg="to stderr" guest=sdk endpoint=stderr`} {
		logged.eventually(t, want)
	}

	for _, webSocket := range []bool{false, true} {
		path := map[bool]string{false: "/handoff", true: "/websocket"}[webSocket]
		outcome, err := program.Serve(t.Context(), exchange("GET", path, ""))
		if err != nil || outcome.Handoff == nil || outcome.Handoff.Backend != "origin" || outcome.Handoff.WebSocket != webSocket {
			t.Errorf("%s: got %+v, %v", path, outcome, err)
		}
	}

	var fault *guest.Fault
	if _, _, err := get(t.Context(), program, exchange("GET", "/panic", "")); !errors.As(err, &fault) {
		t.Errorf("got %v, want a Fault", err)
	}
	logged.eventually(t, "panic: as it was asked to")
	if _, content, err := get(t.Context(), program, exchange("GET", "/half", "")); content != "half of the answer" || err != errBrokenOff {
		t.Errorf("got %q, %v, want an answer that is broken off", content, err)
	}
	t.Run("holds what it has opened when it is started from a snapshot", func(t *testing.T) { startsFromSnapshot(t, runtime) })
	t.Run("serves many requests, where it asks for them", func(t *testing.T) { servesMany(t, runtime) })
}

// servesMany loads the guest once more: that it was compiled already saves the test
// most of its time.
func servesMany(t *testing.T, runtime *guest.Runtime) {
	program := sdkGuest(t, runtime, &Service{Env: map[string]string{"MANY": "1"}})
	for range 50 {
		_, content, err := get(t.Context(), program, clientRequest("GET", "http://example.com/ids", ""))
		if err != nil {
			t.Fatal(err)
		}
		var served int
		var named bool // the request as the instance: only the first
		if _, err := fmt.Sscan(content, &served, &named); err != nil || served > 3 || named != (served == 1) {
			t.Fatalf("got %q, %v, want a number up to 3, and true for 1", content, err)
		}
		if served > 1 {
			return
		}
		time.Sleep(20 * time.Millisecond) // until it asks for one more; more than one try in any case
	}
	t.Error("no instance was given a second request")
}

// startsFromSnapshot logs to an endpoint that was opened before the snapshot.
func startsFromSnapshot(t *testing.T, runtime *guest.Runtime) {
	var logged log
	var snapshots atomic.Int32
	program, err := runtime.Load(t.Context(), guesttest.Build(t, "testdata/sdk"), guest.LoadOptions{
		Name: "sdk", Service: &Service{Log: slog.New(slog.NewTextHandler(&logged, nil))}, Limits: guest.Limits{CPU: time.Minute}, Snapshot: true, Parked: 1,
		Observer: &guest.Observer{Started: func(way guest.Way, _ time.Duration) {
			if way == guest.WaySnapshot {
				snapshots.Add(1)
			}
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for ; asked < 50 && snapshots.Load() < 2; asked++ {
		if _, _, err := get(t.Context(), program, clientRequest("GET", "http://example.com/log", "")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond) // until an instance is parked again; more than one try in any case
	}
	if snapshots.Load() == 0 {
		t.Fatal("nothing was started from a snapshot")
	}
	if got := strings.Count(logged.String(), "endpoint=audit"); got != asked {
		t.Errorf("got %d lines of the endpoint, want %d\n%s", got, asked, &logged)
	}
}
