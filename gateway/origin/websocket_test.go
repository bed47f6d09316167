package origin_test

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/origin"
)

// agree answers a handshake as RFC 6455 asks for, and says something at once.
func agree(r *rawRequest, extra, then string) {
	sum := sha1.Sum([]byte(r.header("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(r.conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Accept: %s\r\n%s\r\n%s",
		base64.StdEncoding.EncodeToString(sum[:]), extra, then)
}

// echo returns what it hears until the other side has gone.
func echo(r *rawRequest) bool {
	io.Copy(r.conn, r)
	return false
}

const handshakeHead = "GET /chat?q=1 HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: Y2xpZW50J3Mga2V5ISEhIQ==\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: soup, stew\r\nSec-WebSocket-Extensions: permessage-deflate\r\nCookie: a=b\r\nOrigin: http://page.example\r\n\r\n"

func TestNativeOriginGetsAHandshakeOfOurs(t *testing.T) {
	cert := issue(t, "example.com")
	heads := make(chan *rawRequest, 1)
	o := newRawOrigin(t, func(r *rawRequest) bool {
		heads <- r
		agree(r, "Sec-WebSocket-Protocol: stew\r\nSet-Cookie: c=d\r\n", "first")
		return echo(r)
	})
	for _, target := range []origin.Target{{Addr: o.addr}, {Addr: terminateTLS(t, o.addr, cert), TLS: true}} {
		pool := newPool(t, origin.Options{
			Targets: []origin.Target{{Addr: unused(t)}, target},
			Network: origin.NewNetwork(origin.NetworkOptions{RootCAs: cert.roots}),
		})
		out, _, err := (&origin.Rules{Signer: signer, Feature: "all"}).Prepare(parse(t, handshakeHead), origin.Call{WebSocket: true})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		response, conn, which, err := pool.DialWebSocket(ctx, out)
		if err != nil {
			t.Fatal(err)
		}
		cancel() // was for the handshake
		defer conn.Close()
		if which.Addr != target.Addr || response.StatusCode != 101 || response.Header.Get("Sec-Websocket-Protocol") != "stew" || response.Header.Get("Set-Cookie") != "c=d" {
			t.Errorf("answer %d from %s with %v", response.StatusCode, which, response.Header)
		}
		head := received(t, heads, "handshake")
		if head.line() != "GET /chat?q=1 HTTP/1.1" {
			t.Errorf("request line %q", head.line())
		}
		for name, want := range map[string]string{
			"Host": "example.com", "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Protocol": "soup, stew",
			"Sec-WebSocket-Extensions": "grip", "Cookie": "a=b", "Origin": "http://page.example", "Grip-Sig": "signed", "Content-Length": "",
		} {
			if got := head.header(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		key, err := base64.StdEncoding.DecodeString(head.header("Sec-WebSocket-Key"))
		if err != nil || len(key) != 16 || strings.Contains(string(key), "client") {
			t.Errorf("key %q, %v: want a fresh one of 16 bytes", key, err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		io.WriteString(conn, " second")
		got := make([]byte, len("first second"))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != "first second" {
			t.Errorf("connection says %q, %v", got, err)
		}
	}
}

func TestConnectionIsHandedOverAsItIsIfNothingWasReadAhead(t *testing.T) {
	o := newRawOrigin(t, func(r *rawRequest) bool { agree(r, "", ""); return echo(r) })
	_, conn, _, err := poolOf(t, o.addr).DialWebSocket(t.Context(), request(t, t.Context(), "GET", "http://x/", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, tcp := conn.(*net.TCPConn); !tcp {
		t.Errorf("connection is a %T", conn)
	}
}

func TestNativeOriginMayRefuse(t *testing.T) {
	o := newRawOrigin(t, func(r *rawRequest) bool {
		io.WriteString(r.conn, "HTTP/1.1 403 No Chat\r\nContent-Length: 7\r\nX-Why: mood\r\n\r\nnot now")
		return true
	})
	response, conn, _, err := poolOf(t, o.addr).DialWebSocket(t.Context(), request(t, t.Context(), "GET", "http://x/", ""))
	if err != nil || conn != nil {
		t.Fatalf("DialWebSocket = %v, %v", conn, err)
	}
	if got := readAll(t, response); response.StatusCode != 403 || response.Status != "403 No Chat" || got != "not now" || response.Header.Get("X-Why") != "mood" {
		t.Errorf("answer %s %q with %v", response.Status, got, response.Header)
	}
}

func TestAgreementMustBelongToTheHandshake(t *testing.T) {
	for _, c := range []struct{ name, answer string }{
		{"another key", "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"},
		{"no key", "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"},
		{"another protocol", "HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"},
		{"no Connection", "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n"},
		{"no HTTP", "hello\r\n\r\n"},
		{"nothing", ""},
	} {
		o := newRawOrigin(t, func(r *rawRequest) bool { io.WriteString(r.conn, c.answer); return false })
		_, conn, _, err := poolOf(t, o.addr).DialWebSocket(t.Context(), request(t, t.Context(), "GET", "http://x/", ""))
		if err == nil || conn != nil || c.answer != "" && !errors.Is(err, origin.ErrAnswer) || errors.Is(err, origin.ErrConnect) {
			t.Errorf("%s: DialWebSocket = %v, %v", c.name, conn, err)
		}
	}
}

func TestHandshakeEndsWithItsContext(t *testing.T) {
	heard, gone := make(chan struct{}), make(chan struct{})
	o := newRawOrigin(t, func(r *rawRequest) bool { close(heard); r.ReadByte(); close(gone); return false })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-heard; cancel() }()
	_, _, _, err := poolOf(t, o.addr).DialWebSocket(ctx, request(t, t.Context(), "GET", "http://x/", ""))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("DialWebSocket = %v, want it canceled", err)
	}
	received(t, gone, "end of the connection")
}

func TestHandshakeWithoutTargets(t *testing.T) {
	blocked := newPool(t, origin.Options{Targets: []origin.Target{{Addr: "127.0.0.1:1", Untrusted: true}}})
	if _, _, _, err := blocked.DialWebSocket(t.Context(), request(t, t.Context(), "GET", "http://x/", "")); !errors.Is(err, origin.ErrBlocked) {
		t.Errorf("DialWebSocket = %v, want ErrBlocked", err)
	}
	if _, _, _, err := poolOf(t, unused(t)).DialWebSocket(t.Context(), request(t, t.Context(), "GET", "http://x/", "")); !errors.Is(err, origin.ErrConnect) {
		t.Errorf("DialWebSocket = %v, want ErrConnect", err)
	}
}
