package wire_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/gripway/gripway/gateway/wire"
)

func TestHeadsAreSeenAsTheyWereSent(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := wire.Listen(inner)
	var unserved wire.Unserved
	server := &http.Server{
		Handler: unserved.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var lines []string
			for _, line := range wire.HeadFrom(r) {
				lines = append(lines, line.Name+"="+line.Value)
			}
			io.Copy(io.Discard, r.Body)
			io.WriteString(w, strings.Join(lines, " "))
		})),
		ConnState: unserved.State,
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			return wire.ContextSeen(unserved.Context(ctx, nc), nc)
		},
	}
	go server.Serve(listener)
	defer server.Close()

	nc, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	answers := bufio.NewReader(nc)
	for i, test := range []struct{ request, want string }{
		{"GET /a HTTP/1.1\r\nHost: x\r\nx-B: 1\r\nX-a:2\r\nx-b:  3 \r\n\r\n", "Host=x x-B=1 X-a=2 x-b=3"},
		{"POST /b HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello", "host=x content-length=5"},
		{"GET /c HTTP/1.1\r\nHOST: x\r\nLong: " + strings.Repeat("y", 5_000) + "\r\n\r\n", "HOST=x Long=" + strings.Repeat("y", 5_000)},
		{"GET /lf HTTP/1.1\nHost: x\nb: 1\n\n", "Host=x b=1"},
		{"POST /lf HTTP/1.1\nHost: x\nContent-Length: 3\r\n\na\nb", "Host=x Content-Length=3"},
		// The second of two in one packet.
		{"GET /d HTTP/1.1\r\nHost: x\r\nfirst: 1\r\n\r\nGET /e HTTP/1.1\r\nHost: x\r\nsecond: 1\r\n\r\n", "Host=x first=1"},
		{"", "Host=x second=1"},
	} {
		fmt.Fprint(nc, test.request)
		response, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(response.Body)
		if string(got) != test.want {
			t.Errorf("request %d: got %.80q, want %.80q", i, got, test.want)
		}
	}
}

// TestHTTP2MayReadWhileItIsIdle is for the race detector: the connection's state
// changes in another goroutine than it is read in.
func TestHTTP2MayReadWhileItIsIdle(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := wire.Listen(inner)
	var unserved wire.Unserved
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler: unserved.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {})), Protocols: &protocols,
		ConnState: unserved.State,
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			return wire.ContextSeen(unserved.Context(ctx, nc), nc)
		},
	}
	go server.Serve(listener)
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{Protocols: &protocols}}
	defer client.CloseIdleConnections()
	for range 200 {
		response, err := client.Get("http://" + inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
}
