package origin_test

import (
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/origin"
)

// mute returns an address that leaves SYNs unanswered: a listener that accepts
// nobody and whose queue is full.
func mute(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for range 16 {
		conn, err := net.DialTimeout("tcp", addr, 50*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Skip("this system's queues do not fill: nothing times out")
	return ""
}

func TestTargetThatDoesNotAcceptIsGivenUp(t *testing.T) {
	first := mute(t)
	second := newRawOrigin(t, func(r *rawRequest) bool { return ok(r, "second") })
	network := origin.NewNetwork(origin.NetworkOptions{DialTimeout: 50 * time.Millisecond, TLSTimeout: 50 * time.Millisecond})
	accepts := newRawOrigin(t, func(*rawRequest) bool { return false }) // and says nothing, as it waits for a line
	for _, target := range []origin.Target{{Addr: first}, {Addr: first, TLS: true}, {Addr: accepts.addr, TLS: true}} {
		pool := newPool(t, origin.Options{Targets: []origin.Target{target, {Addr: second.addr}}, Network: network})
		begin := time.Now()
		response, err := pool.RoundTrip(request(t, t.Context(), "GET", "http://x/", ""))
		if err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, response); got != "second" || time.Since(begin) > patience {
			t.Errorf("%q after %v", got, time.Since(begin))
		}
	}
}
