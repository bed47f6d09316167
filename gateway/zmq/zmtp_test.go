package zmq_test

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/zmq"
)

// hello is what a PUSH socket of libzmq 4.3.4 begins with, byte by byte.
const hello = "\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x01NULL\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

const ready = "\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH"

// ours is what we answer.
const ours = "\xff\x00\x00\x00\x00\x00\x00\x00\x00\x7f\x03\x00NULL\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x04PULL"

func dial(t *testing.T, w *world) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.url(t, "PULL"), "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

func TestAHandshakeIsTheseBytes(t *testing.T) {
	w := start(t, zmq.Options{Pull: []string{anyPort}}, zmq.Actions{})
	e, _ := hear(t, w.bus, "room")
	conn := dial(t, w)
	io.WriteString(conn, hello+ready)
	got := make([]byte, len(ours))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != ours {
		t.Fatalf("got %q, %v\nwant %q", got, err, ours)
	}
	item := stream("room", "x")
	io.WriteString(conn, "\x00"+string(rune(len(item)))+item)
	e.want(t, "x")
	io.WriteString(conn, "\x04\x09\x04PING\x00\x01hi")
	pong := make([]byte, 9)
	if _, err := io.ReadFull(conn, pong); err != nil || string(pong) != "\x04\x07\x04PONGhi" {
		t.Errorf("got %q, %v", pong, err)
	}
}

func TestWhoDoesNotSpeakZMTPIsCut(t *testing.T) {
	for _, test := range []struct{ name, bytes string }{
		{"a browser", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
		{"version 2", hello[:10] + "\x02\x00"},
		{"another mechanism", hello[:12] + "PLAIN" + strings.Repeat("\x00", 47)},
		{"a socket that PULL does not talk to", hello + "\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x04PULL"},
		{"READY cut short", hello + "\x04\x07\x05READY\x0b"},
		{"a property longer than READY", hello + "\x04\x1a\x05READY\x0bSocket-Type\xff\xff\xff\xffPUSH"},
		{"a message before READY", hello + "\x00\x01x"},
		{"a command that takes all memory", hello + "\x06\x7f\xff\xff\xff\xff\xff\xff\xff"},
		{"a message that takes all memory", hello + ready + "\x02\x3f\xff\xff\xff\xff\xff\xff\xff"},
		{"a message of a length that overflows", hello + ready + "\x02\xff\xff\xff\xff\xff\xff\xff\xff"},
		{"reserved flags", hello + ready + "\x80\x01x"},
		{"a command in two parts", hello + ready + "\x05\x05\x04PING"},
		{"a command without a name", hello + ready + "\x04\x00"},
		{"an error", hello + ready + "\x04\x0b\x05ERROR\x04oops"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := start(t, zmq.Options{Pull: []string{anyPort}}, zmq.Actions{})
			conn := dial(t, w)
			io.WriteString(conn, test.bytes)
			if _, err := io.Copy(io.Discard, conn); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Errorf("the connection does not end: %v", err)
			}
			w.metric(t, `zmq_connections_cut_total{reason="protocol"}`, "1")
		})
	}
}

func TestASilentPeerKeepsNobodyWaiting(t *testing.T) {
	w := start(t, zmq.Options{Pull: []string{anyPort}}, zmq.Actions{})
	e, _ := hear(t, w.bus, "room")
	dial(t, w)
	conn := dial(t, w)
	item := stream("room", "x")
	io.WriteString(conn, hello+ready+"\x00"+string(rune(len(item)))+item)
	e.want(t, "x")
}
