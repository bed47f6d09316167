package origin_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/origin"
)

// patience bounds every wait of a test for something that must happen.
const patience = 20 * time.Second

// rawOrigin is a TCP server that sees requests byte for byte.
type rawOrigin struct {
	addr string
	ln   net.Listener

	mu       sync.Mutex
	conns    []net.Conn
	accepted int
}

// rawRequest is what a rawOrigin read: the head as it came, and what carries on.
type rawRequest struct {
	head string // up to and with the empty line
	conn net.Conn
	*bufio.Reader
	number int // of the connection, from 1
}

// line returns the request line.
func (r *rawRequest) line() string { line, _, _ := strings.Cut(r.head, "\r\n"); return line }

// header returns a header's values, joined by "|"; names are compared exactly as
// they are on the wire, but for case.
func (r *rawRequest) header(name string) string {
	var values []string
	for _, line := range strings.Split(r.head, "\r\n")[1:] {
		if n, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(n, name) {
			values = append(values, strings.TrimSpace(v))
		}
	}
	return strings.Join(values, "|")
}

// newRawOrigin serves each request with answer, which returns whether the
// connection goes on.
func newRawOrigin(t testing.TB, answer func(*rawRequest) bool) *rawOrigin {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &rawOrigin{addr: ln.Addr().String(), ln: ln}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			o.mu.Lock()
			o.conns = append(o.conns, conn)
			o.accepted++
			number := o.accepted
			o.mu.Unlock()
			serving.Go(func() {
				defer conn.Close()
				reader := bufio.NewReader(conn)
				for {
					var head strings.Builder
					for {
						line, err := reader.ReadString('\n')
						if err != nil {
							return
						}
						head.WriteString(line)
						if line == "\r\n" {
							break
						}
					}
					if !answer(&rawRequest{head.String(), conn, reader, number}) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		o.mu.Lock()
		for _, conn := range o.conns {
			conn.Close()
		}
		o.mu.Unlock()
		serving.Wait()
	})
	return o
}

func (o *rawOrigin) connections() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.accepted
}

// ok answers 200 with a body.
func ok(r *rawRequest, body string) bool {
	fmt.Fprintf(r.conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	return true
}

// unused returns an address that refuses connections.
func unused(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func newPool(t testing.TB, opts origin.Options) *origin.Pool {
	t.Helper()
	pool, err := origin.NewPool(opts)
	if err != nil {
		t.Fatalf("NewPool: %v", err)
	}
	t.Cleanup(func() { pool.Close() })
	return pool
}

func poolOf(t testing.TB, addrs ...string) *origin.Pool {
	t.Helper()
	var targets []origin.Target
	for _, addr := range addrs {
		targets = append(targets, origin.Target{Addr: addr})
	}
	return newPool(t, origin.Options{Targets: targets})
}

// received waits for a value.
func received[T any](t testing.TB, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s within %v", what, patience)
		panic("not reached")
	}
}

// readAll reads and closes an answer.
func readAll(t testing.TB, response *http.Response) string {
	t.Helper()
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("answer's body: %v, after %q", err, body)
	}
	return string(body)
}

// request makes an outgoing one.
func request(t testing.TB, ctx context.Context, method, target, body string) *http.Request {
	t.Helper()
	var from io.Reader
	if body != "" {
		from = bytes.NewReader([]byte(body))
	}
	req, err := http.NewRequestWithContext(ctx, method, target, from)
	if err != nil {
		t.Fatal(err)
	}
	return req
}
