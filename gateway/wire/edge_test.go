package wire_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/wire"
)

// Close waits for Start as Send does: what is said last never comes first.
func TestCloseBeforeStartFollowsTheHead(t *testing.T) {
	eachKind(t, func(t *testing.T, pair func(*testing.T) (net.Conn, net.Conn)) {
		group := newGroup(t, wire.GroupOptions{})
		server, client := pair(t)
		h := newRecorder()
		c, err := group.Adopt(server, wire.Options{Handler: h})
		if err != nil {
			t.Fatal(err)
		}
		c.Send([]byte("body "))
		c.Close([]byte("end"))
		go c.Start([]byte("head "))
		client.SetReadDeadline(time.Now().Add(patience))
		got, err := io.ReadAll(client)
		if string(got) != "head body end" || err != nil {
			t.Fatalf("got %q, %v; want head, body and end", got, err)
		}
		client.Close()
		h.waitClosed(t, wire.ErrClosed)
	})
}

// The socket becomes writable just when a write has found it full: nobody may
// believe that the other one goes on writing.
func TestNoBytesStayBehindWhenASocketFillsAndDrains(t *testing.T) {
	group := newGroup(t, wire.GroupOptions{Loops: 1, QueueBytes: 1 << 30, StallMax: patience})
	done := make(chan error)
	const clients, items = 4, 200
	for range clients {
		server, client := tcpPair(t)
		server.(*net.TCPConn).SetWriteBuffer(4 << 10)
		client.(*net.TCPConn).SetReadBuffer(4 << 10)
		h := newRecorder()
		c, err := group.Adopt(server, wire.Options{Handler: h})
		if err != nil {
			t.Fatal(err)
		}
		c.Start(nil)
		go func() {
			n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{client}, make([]byte, 3000))
			if err == nil && n != items*1000 {
				err = fmt.Errorf("got %d bytes, want %d", n, items*1000)
			}
			done <- err
		}()
		go func() {
			item := []byte(strings.Repeat("x", 1000))
			for range items {
				c.Send(item)
			}
			c.Close(nil)
		}()
	}
	for range clients {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A client that sends without end does not keep others from being read.
func TestClientThatSendsWithoutEndIsReadInTurns(t *testing.T) {
	group := newGroup(t, wire.GroupOptions{Loops: 1})
	adopt := func(onData func(c *wire.Conn, p []byte)) net.Conn {
		server, client := tcpPair(t)
		c, err := group.Adopt(server, wire.Options{Handler: quiet(onData)})
		if err != nil {
			t.Fatal(err)
		}
		c.Start(nil)
		return client
	}
	loud := adopt(func(*wire.Conn, []byte) { time.Sleep(time.Millisecond) })
	heard := make(chan struct{}, 1)
	other := adopt(func(*wire.Conn, []byte) { heard <- struct{}{} })
	go func() {
		flood := make([]byte, 1<<20)
		for {
			if _, err := loud.Write(flood); err != nil {
				return
			}
		}
	}()
	time.Sleep(200 * time.Millisecond) // for the flood to be there
	io.WriteString(other, "me too")
	select {
	case <-heard:
	case <-time.After(patience):
		t.Fatal("the other client was not read")
	}
}

// quiet is a Handler that only minds data.
type quiet func(c *wire.Conn, p []byte)

func (q quiet) Data(c *wire.Conn, p []byte) { q(c, p) }
func (quiet) Closed(*wire.Conn, error)      {}
