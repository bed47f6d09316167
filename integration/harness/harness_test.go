package harness_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gripway/gripway/integration/harness"
)

// The examples of RFC 6455 5.7, unmasked ones as bytes, masked ones read back.
func TestFramesAreThoseOfTheRFC(t *testing.T) {
	for _, test := range []struct {
		name  string
		frame harness.Frame
		wire  string
	}{
		{"text", harness.Frame{Fin: true, Op: harness.OpText, Payload: []byte("Hello")}, "\x81\x05Hello"},
		{"first piece", harness.Frame{Op: harness.OpText, Payload: []byte("Hel")}, "\x01\x03Hel"},
		{"last piece", harness.Frame{Fin: true, Op: harness.OpContinuation, Payload: []byte("lo")}, "\x80\x02lo"},
		{"ping", harness.Frame{Fin: true, Op: harness.OpPing, Payload: []byte("Hello")}, "\x89\x05Hello"},
		{"256 bytes", harness.Frame{Fin: true, Op: harness.OpBinary, Payload: make([]byte, 256)}, "\x82\x7e\x01\x00" + strings.Repeat("\x00", 256)},
		{"65536 bytes", harness.Frame{Fin: true, Op: harness.OpBinary, Payload: make([]byte, 65536)}, "\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00" + strings.Repeat("\x00", 65536)},
		{"reserved bit", harness.Frame{Fin: true, RSV: 4, Op: harness.OpText, Payload: []byte{}}, "\xc1\x00"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.frame.Append(nil); string(got) != test.wire {
				t.Errorf("got %s, want %s", harness.Quote(got), harness.Quote([]byte(test.wire)))
			}
			masked := test.frame
			masked.Masked = true
			got, err := harness.ReadFrame(bufio.NewReader(bytes.NewReader(masked.Append(nil))))
			if err != nil || got.String() != masked.String() || !got.Masked {
				t.Errorf("masked: got %v, %v, want %v", got, err, masked)
			}
		})
	}
	got, err := harness.ReadFrame(bufio.NewReader(strings.NewReader("\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58")))
	if err != nil || string(got.Payload) != "Hello" {
		t.Errorf("masked of the RFC: got %v, %v, want Hello", got, err)
	}
}

func TestEventsAreReadStrictly(t *testing.T) {
	events, err := harness.ReadEvents([]byte("OPEN\r\nTEXT 5\r\nhello\r\nTEXT 0\r\n\r\nCLOSE\r\n"))
	if got := fmt.Sprintf("%q %v", events, err); got != `[{"OPEN" ""} {"TEXT" "hello"} {"TEXT" ""} {"CLOSE" ""}] <nil>` {
		t.Errorf("got %s", got)
	}
	if events[2].Content == nil || events[3].Content != nil {
		t.Error("empty and no content are the same")
	}
	for _, bad := range []string{"TEXT 6\r\nhello\r\n", "TEXT 4\r\nhello\r\n", "TEXT x\r\nhello\r\n", "TEXT"} {
		if _, err := harness.ReadEvents([]byte(bad)); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}

func TestAFeedWaitsAndGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var feed harness.Feed[string]
		go func() {
			time.Sleep(time.Second)
			feed.Put("one")
			time.Sleep(time.Second)
			feed.Put("two")
		}()
		start := time.Now()
		both := func(pending []harness.Seen[string]) ([]harness.Seen[string], bool, error) {
			return pending, len(pending) == 2, nil
		}
		if err := feed.Wait(5*time.Second, both); err != nil || time.Since(start) != 2*time.Second {
			t.Errorf("got %v after %v, want both after 2s", err, time.Since(start))
		}
		never := func(pending []harness.Seen[string]) ([]harness.Seen[string], bool, error) {
			return pending[1:], false, nil
		}
		if err := feed.Wait(time.Second, never); !errors.Is(err, harness.ErrSilence) {
			t.Errorf("got %v, want %v", err, harness.ErrSilence)
		}
		if got := len(feed.Pending()); got != 0 {
			t.Errorf("got %d pending, want what look left: none", got)
		}
	})
}

func TestHTTP2ClientsShareAConnection(t *testing.T) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	addrs := make(chan string, 2) // never closed
	release := make(chan struct{})
	server := &http.Server{Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		addrs <- r.RemoteAddr
		fmt.Fprintf(w, "%s %s", r.Proto, r.Header.Get("X-A"))
		w.(http.Flusher).Flush()
		<-release
	})}
	port, err := harness.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	server.Addr = fmt.Sprintf("127.0.0.1:%d", port)
	served := make(chan error, 1)
	go func() { served <- server.ListenAndServe() }()
	defer func() { server.Close(); <-served }()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) { // until the server listens
		conn, err := harness.DialClient(server.Addr, nil, false)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}

	one := harness.NewH2Client(server.Addr, nil, true, nil)
	defer one.Close()
	two := harness.NewH2Client(server.Addr, nil, false, one)
	defer two.Close()
	for _, client := range []*harness.Client{one, two} {
		if err := client.Send(harness.Ask{Method: "GET", Target: "/", Header: harness.Header{{Name: "X-A", Value: "1"}}}); err != nil {
			t.Fatal(err)
		}
		err := client.Seen.Wait(5*time.Second, func(pending []harness.Seen[harness.ClientEvent]) ([]harness.Seen[harness.ClientEvent], bool, error) {
			if len(pending) < 2 {
				return pending, false, nil
			}
			if got := string(pending[1].What.Data); pending[0].What.Head.Status != 200 || got != "HTTP/2.0 1" {
				return pending, false, fmt.Errorf("got %v and %q", pending[0].What, got)
			}
			return nil, true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if a, b := <-addrs, <-addrs; a != b {
		t.Errorf("got connections from %s and %s, want one", a, b)
	}
	close(release)
}
