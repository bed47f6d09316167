package integration

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/gripway/gripway/integration/harness"
)

// The cases below ask the gateway what RFC 6455 asks of a server, in the groups
// that the Autobahn test suite made customary. Each is asked twice: with an
// origin that is asked over HTTP, and with one that speaks WebSocket itself.

// deed is one thing a conformance case does, or wants to see.
type deed func(c *conversation) error

// conversation is one client of one case.
type conversation struct {
	socket *harness.Socket
	gone   bool // the gateway has closed: what cannot be sent any more is no failure
}

// wsCase is one case. peer says what the reference implementation does else.
type wsCase struct {
	group, name string
	deeds       []deed
	peer        string
}

func frame(op byte, payload string) deed { return piece(true, op, payload) }

func piece(fin bool, op byte, payload string) deed {
	return sendFrame(harness.Frame{Fin: fin, Op: op, Masked: true, Payload: []byte(payload)})
}

func sendFrame(f harness.Frame) deed {
	return func(c *conversation) error { return c.sent(c.socket.SendFrame(f)) }
}

// chopped writes frames in pieces of n bytes.
func chopped(n int, frames ...harness.Frame) deed {
	return func(c *conversation) error {
		var all []byte
		for _, f := range frames {
			all = f.Append(all)
		}
		for len(all) > 0 {
			m := min(n, len(all))
			if err := c.sent(c.socket.SendBytes(all[:m])); err != nil {
				return err
			}
			all = all[m:]
		}
		return nil
	}
}

func masked(fin bool, op byte, payload string) harness.Frame {
	return harness.Frame{Fin: fin, Op: op, Masked: true, Payload: []byte(payload)}
}

// sent forgives a write that fails because the gateway has closed already.
func (c *conversation) sent(err error) error {
	if err != nil {
		c.gone = true
	}
	return nil
}

func sendClose(code int, reason string) deed {
	return frame(harness.OpClose, string(harness.CloseContent(code, reason)))
}

// conformanceWait is how long a case waits for one answer.
const conformanceWait = 15 * time.Second

// next takes the next message or control frame.
func (c *conversation) next() (*harness.Frame, error) {
	var message *harness.Frame
	err := c.socket.Seen.Wait(conformanceWait, func(pending []harness.Seen[harness.SocketEvent]) ([]harness.Seen[harness.SocketEvent], bool, error) {
		var whole []byte
		for i, e := range pending {
			f := e.What.Frame
			if f == nil {
				return pending, false, fmt.Errorf("got %v", e.What)
			}
			if f.Op >= harness.OpClose && i > 0 {
				continue // between the pieces of a message: taken when the message is
			}
			whole = append(whole, f.Payload...)
			if i == 0 {
				first := *f
				message = &first
			}
			if f.Fin {
				message.Payload = whole
				var rest []harness.Seen[harness.SocketEvent]
				for _, between := range pending[1:max(i, 1)] {
					if between.What.Frame.Op >= harness.OpClose {
						rest = append(rest, between)
					}
				}
				return append(rest, pending[i+1:]...), true, nil
			}
		}
		return pending, false, nil
	})
	return message, err
}

func gets(op byte, payload string) deed {
	return func(c *conversation) error {
		f, err := c.next()
		if err != nil {
			return fmt.Errorf("%w, want op %d %s", err, op, harness.Quote([]byte(payload)))
		}
		if f.Op != op || string(f.Payload) != payload {
			return fmt.Errorf("got %v, want op %d %s", f, op, harness.Quote([]byte(payload)))
		}
		return nil
	}
}

// may takes what gets would, if that is what comes: an answer that is on its way
// when the connection fails may or may not be seen.
func may(op byte, payload string) deed {
	return func(c *conversation) error {
		return c.socket.Seen.Wait(conformanceWait, func(pending []harness.Seen[harness.SocketEvent]) ([]harness.Seen[harness.SocketEvent], bool, error) {
			if len(pending) == 0 {
				return pending, false, nil
			}
			if f := pending[0].What.Frame; f != nil && f.Op == op && string(f.Payload) == payload {
				pending = pending[1:]
			}
			return pending, true, nil
		})
	}
}

// closed wants a Close with one of the codes, 0 meaning none, and then the end.
func closed(codes ...int) deed {
	return func(c *conversation) error {
		f, err := c.next()
		if err != nil {
			return fmt.Errorf("%w, want close %v", err, codes)
		}
		fits := false
		for _, code := range codes {
			if code == 0 {
				fits = fits || len(f.Payload) == 0
			} else {
				fits = fits || bytes.HasPrefix(f.Payload, harness.CloseContent(code, ""))
			}
		}
		if f.Op != harness.OpClose || !fits {
			return fmt.Errorf("got %v, want close %v", f, codes)
		}
		c.socket.Send(harness.OpClose, f.Payload) // in return, if it was not ours that was answered
		return ended(c)
	}
}

// ended wants the end of the connection, and no frame before.
func ended(c *conversation) error {
	return c.socket.Seen.Wait(conformanceWait, func(pending []harness.Seen[harness.SocketEvent]) ([]harness.Seen[harness.SocketEvent], bool, error) {
		if len(pending) == 0 {
			return pending, false, nil
		}
		if pending[0].What.End == nil {
			return pending, false, fmt.Errorf("got %v, want the end", pending[0].What)
		}
		return pending[1:], true, nil
	})
}

const (
	cont   = harness.OpContinuation
	text   = harness.OpText
	binary = harness.OpBinary
	ping   = harness.OpPing
	pong   = harness.OpPong
)

const (
	tolerates = "relays it"
	drops     = "drops the connection without a Close"
	stalls    = "stalls on large answers"
)

func conformanceCases() []wsCase {
	var cases []wsCase
	add := func(group, name, peer string, deeds ...deed) {
		cases = append(cases, wsCase{group, name, deeds, peer})
	}
	echo := func(group, name, peer string, op byte, payload string) {
		add(group, name, peer, frame(op, payload), gets(op, payload))
	}

	// 1: messages come back as they were.
	for _, n := range []int{0, 1, 125, 126, 127, 128, 65535, 65536, 131072} {
		peer := ""
		if n > 30000 {
			peer = stalls
		}
		echo("1", fmt.Sprintf("text of %d bytes", n), peer, text, strings.Repeat("*", n))
		echo("1", fmt.Sprintf("binary of %d bytes", n), peer, binary, strings.Repeat("\xfe", n))
	}
	add("1", "text of 65536 bytes in writes of 997", stalls, chopped(997, masked(true, text, strings.Repeat("*", 65536))), gets(text, strings.Repeat("*", 65536)))
	add("1", "text byte by byte", "", chopped(1, masked(true, text, "hello")), gets(text, "hello"))
	add("1", "header of a long frame byte by byte", "", chopped(1, masked(true, binary, strings.Repeat("x", 300))), gets(binary, strings.Repeat("x", 300)))

	// 2: pings are answered with their content, pongs are not answered.
	add("2", "ping without content", "", frame(ping, ""), gets(pong, ""))
	add("2", "ping with text", "", frame(ping, "hello"), gets(pong, "hello"))
	add("2", "ping with bytes", "", frame(ping, "\x00\xff\xfe\xfd"), gets(pong, "\x00\xff\xfe\xfd"))
	add("2", "ping with 125 bytes", "", frame(ping, strings.Repeat("\xfe", 125)), gets(pong, strings.Repeat("\xfe", 125)))
	add("2", "ping with 126 bytes", drops, frame(ping, strings.Repeat("\xfe", 126)), closed(1002))
	add("2", "ping byte by byte", "", chopped(1, masked(true, ping, "hello")), gets(pong, "hello"))
	add("2", "pong nobody asked for", "", frame(pong, ""), frame(pong, "hello"), frame(ping, "now"), gets(pong, "now"))
	many, manyBytes := []deed{}, []harness.Frame{}
	for i := range 10 {
		many = append(many, frame(ping, fmt.Sprint(i)))
		manyBytes = append(manyBytes, masked(true, ping, fmt.Sprint(i)))
	}
	wants := []deed{}
	for i := range 10 {
		wants = append(wants, gets(pong, fmt.Sprint(i)))
	}
	add("2", "ten pings", "", append(many, wants...)...)
	add("2", "ten pings byte by byte", "", append([]deed{chopped(1, manyBytes...)}, wants...)...)

	// 3: reserved bits mean nothing yet.
	for rsv := byte(1); rsv <= 7; rsv++ {
		for _, op := range []byte{text, binary, ping, harness.OpClose} {
			add("3", fmt.Sprintf("reserved bits %03b, opcode %d", rsv, op), "differs by bit and opcode",
				sendFrame(harness.Frame{Fin: true, RSV: rsv, Op: op, Masked: true, Payload: []byte("\x03\xe8")}), closed(1002))
		}
	}
	add("3", "reserved bit after a good message", drops, frame(text, "hello"),
		sendFrame(harness.Frame{Fin: true, RSV: 2, Op: text, Masked: true, Payload: []byte("*")}), frame(ping, ""), may(text, "hello"), closed(1002))

	// 4: reserved opcodes mean nothing either.
	for _, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		add("4", fmt.Sprintf("opcode %d without content", op), drops, frame(op, ""), closed(1002))
		add("4", fmt.Sprintf("opcode %d with content", op), drops, frame(op, "reserved"), closed(1002))
		add("4", fmt.Sprintf("opcode %d after a good message", op), drops, frame(text, "hello"), frame(op, ""), frame(ping, ""), may(text, "hello"), closed(1002))
	}

	// 5: fragments.
	add("5", "ping in two pieces", drops, piece(false, ping, "hel"), piece(true, cont, "lo"), closed(1002))
	add("5", "pong in two pieces", drops, piece(false, pong, "hel"), piece(true, cont, "lo"), closed(1002))
	add("5", "text in two pieces", "", piece(false, text, "hel"), piece(true, cont, "lo"), gets(text, "hello"))
	add("5", "text in two pieces in one write", "", chopped(1000, masked(false, text, "hel"), masked(true, cont, "lo")), gets(text, "hello"))
	add("5", "text in two pieces byte by byte", "", chopped(1, masked(false, text, "hel"), masked(true, cont, "lo")), gets(text, "hello"))
	add("5", "binary in pieces with empty ones", "", piece(false, binary, ""), piece(false, cont, "a"), piece(false, cont, ""), piece(true, cont, ""), gets(binary, "a"))
	add("5", "text in empty pieces", "", piece(false, text, ""), piece(false, cont, ""), piece(true, cont, ""), gets(text, ""))
	add("5", "ping between pieces", drops, piece(false, text, "hel"), frame(ping, "now"), gets(pong, "now"), piece(true, cont, "lo"), gets(text, "hello"))
	add("5", "ping between pieces, all in one write", drops, chopped(1000, masked(false, text, "hel"), masked(true, ping, "now"), masked(true, cont, "lo")), gets(pong, "now"), gets(text, "hello"))
	add("5", "ping between pieces, byte by byte", drops, chopped(1, masked(false, text, "hel"), masked(true, ping, "now"), masked(true, cont, "lo")), gets(pong, "now"), gets(text, "hello"))
	for _, fin := range []bool{true, false} {
		add("5", fmt.Sprintf("continuation of nothing, fin %t", fin), drops, piece(fin, cont, "what"), frame(text, "hello"), closed(1002))
		add("5", fmt.Sprintf("continuation after a whole message, fin %t", fin), drops, frame(text, "hello"), piece(fin, cont, "what"), may(text, "hello"), closed(1002))
		add("5", fmt.Sprintf("continuation of nothing byte by byte, fin %t", fin), drops, chopped(1, masked(fin, cont, "what"), masked(true, text, "hello")), closed(1002))
	}
	add("5", "text within a text", drops, piece(false, text, "hel"), frame(text, "lo"), closed(1002))
	add("5", "binary within a text", drops, piece(false, text, "hel"), piece(false, binary, "lo"), closed(1002))
	add("5", "five pieces with two pings", drops,
		piece(false, text, "1"), piece(false, cont, "2"), frame(ping, "one"), gets(pong, "one"),
		piece(false, cont, "3"), piece(false, cont, "4"), frame(ping, "two"), gets(pong, "two"), piece(true, cont, "5"), gets(text, "12345"))
	add("5", "close within a message", drops, piece(false, text, "hel"), sendClose(1000, ""), closed(1000))

	// 6: text is UTF-8.
	const cosmos = "κόσμε" // with a combining accent, as Autobahn has it
	valid := []struct{ name, text string }{
		{"Greek", cosmos},
		{"first of each length", "\x00 \u0080 \u0800 \U00010000"},
		{"last of each length", "\x7f \u07ff \uffff \U0010ffff"},
		{"around the surrogates", "\ud7ff \ue000 \ufffd"},
		{"noncharacters", "\ufffe \uffff \U0001fffe \U0010fffe"},
		{"all kinds", "Hello-µ@ßöäüàá-UTF-8!!"},
	}
	for _, v := range valid {
		echo("6", v.name, "", text, v.text)
		pieces := []deed{piece(false, text, "")}
		for i := range len(v.text) {
			pieces = append(pieces, piece(false, cont, v.text[i:i+1]))
		}
		add("6", v.name+" in pieces of a byte", "", append(pieces, piece(true, cont, ""), gets(text, v.text))...)
		add("6", v.name+" byte by byte", "", chopped(1, masked(true, text, v.text)), gets(text, v.text))
	}
	invalid := []struct{ name, text string }{
		{"continuation byte alone", "\x80"},
		{"last continuation byte alone", "\xbf"},
		{"two continuation bytes", "\x80\xbf"},
		{"start of two alone", "\xc3 "},
		{"start of three alone", "\xe0 "},
		{"start of four alone", "\xf0 "},
		{"two without its last", "\xdf"},
		{"three without its last", "\xef\xbf"},
		{"four without its last", "\xf7\xbf\xbf"},
		{"four cut", "\xf0\x90\x80"},
		{"five bytes", "\xf8\x88\x80\x80\x80"},
		{"six bytes", "\xfc\x84\x80\x80\x80\x80"},
		{"fe", "\xfe"},
		{"ff", "\xff"},
		{"overlong slash of two", "\xc0\xaf"},
		{"overlong slash of three", "\xe0\x80\xaf"},
		{"overlong slash of four", "\xf0\x80\x80\xaf"},
		{"overlong greatest of one", "\xc1\xbf"},
		{"overlong greatest of two", "\xe0\x9f\xbf"},
		{"overlong greatest of three", "\xf0\x8f\xbf\xbf"},
		{"overlong nul", "\xc0\x80"},
		{"first surrogate", "\xed\xa0\x80"},
		{"last surrogate", "\xed\xbf\xbf"},
		{"surrogate pair", "\xed\xa0\x80\xed\xb0\x80"},
		{"beyond the last character", "\xf4\x90\x80\x80"},
		{"good, bad, good", cosmos + "\xed\xa0\x80edited"},
	}
	for _, v := range invalid {
		add("6", "not UTF-8: "+v.name, tolerates, frame(text, v.text), closed(1007))
		half := len(v.text) / 2
		add("6", "not UTF-8 in pieces: "+v.name, tolerates, piece(false, text, cosmos+v.text[:half]), piece(false, cont, v.text[half:]), piece(true, cont, ""), closed(1007))
	}
	add("6", "not UTF-8, told before the message is whole or after", tolerates, piece(false, text, cosmos+"\xf4\x90\x80\x80"), piece(false, cont, "edited"), piece(true, cont, "."), closed(1007))
	echo("6", "binary may be anything", "", binary, "\xed\xa0\x80")

	// 7: closing.
	add("7", "close without content", "", frame(harness.OpClose, ""), closed(0, 1000))
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		add("7", fmt.Sprintf("close %d", code), "", sendClose(code, ""), closed(code))
	}
	add("7", "close with a reason", "", sendClose(1000, "bye"), closed(1000))
	add("7", "close with the longest reason", "", sendClose(1000, strings.Repeat("*", 123)), closed(1000))
	add("7", "close with a longer reason", drops, sendClose(1000, strings.Repeat("*", 124)), closed(1002))
	add("7", "close with one byte", tolerates, frame(harness.OpClose, "a"), closed(1002))
	add("7", "close with a reason that is not UTF-8", tolerates, sendClose(1000, "\xce\xba\xed\xa0\x80"), closed(1002, 1007))
	for _, code := range []int{0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		add("7", fmt.Sprintf("close %d may not be sent", code), tolerates, sendClose(code, ""), closed(1002))
	}
	add("7", "message after a close", "", chopped(1000, masked(true, harness.OpClose, "\x03\xe8"), masked(true, text, "hello")), closed(1000))
	add("7", "ping after a close", "", chopped(1000, masked(true, harness.OpClose, "\x03\xe8"), masked(true, ping, "hello")), closed(1000))
	add("7", "two closes", "", chopped(1000, masked(true, harness.OpClose, "\x03\xe8"), masked(true, harness.OpClose, "\x03\xe9")), closed(1000))
	add("7", "close after a message", "", frame(text, "hello"), gets(text, "hello"), sendClose(1000, ""), closed(1000))

	// 10: many pieces.
	fragments := []deed{}
	const large = 65536
	for sent := 0; sent < large; sent += 1300 {
		op := byte(cont)
		if sent == 0 {
			op = text
		}
		fragments = append(fragments, piece(sent+1300 >= large, op, strings.Repeat("*", min(1300, large-sent))))
	}
	add("10", "65536 bytes in pieces of 1300", stalls, append(fragments, gets(text, strings.Repeat("*", large)))...)

	// What no group has: frames that are not masked, lengths that lie.
	add("11", "frame without a mask", tolerates, sendFrame(harness.Frame{Fin: true, Op: text, Payload: []byte("hello")}), closed(1002))
	add("11", "length with its highest bit", drops, func(c *conversation) error {
		return c.sent(c.socket.SendBytes([]byte("\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00")))
	}, closed(1002, 1009))
	return cases
}

func TestWebSocketConformance(t *testing.T) {
	path, peer, err := program()
	if err != nil {
		t.Fatal(err)
	}
	woh, err := harness.StartOrigin(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(woh.Close)
	woh.On(harness.Reply{Method: "POST", Target: "/woh", Status: 200, Header: harness.Header{{Name: "Content-Type", Value: eventsType}}, Steps: []harness.Step{{Do: harness.Echo}}})
	native := httptest.NewServer(http.HandlerFunc(nativeEcho))
	t.Cleanup(native.Close)
	gateway, err := harness.StartGateway(harness.GatewayOptions{Program: path, Peer: peer, Dir: t.TempDir(), Routes: []string{
		"*,path_beg=/woh " + woh.Addr() + ",over_http",
		"*,path_beg=/native " + native.Listener.Addr().String(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := gateway.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, target := range []string{"woh", "native"} {
		for _, test := range conformanceCases() {
			t.Run(target+"/"+test.group+"/"+test.name, func(t *testing.T) {
				t.Parallel()
				if peer && test.peer != "" {
					t.Skipf("the peer %s", test.peer)
				}
				if peer && target == "native" && test.group == "2" {
					t.Skip("the peer loses the content of pings to origins that speak WebSocket")
				}
				socket, err := harness.DialSocket(gateway.Addr, nil, "/"+target, nil, false)
				if err != nil {
					t.Fatal(err)
				}
				defer socket.Close()
				if err := handshake(socket); err != nil {
					t.Fatal(err)
				}
				c := &conversation{socket: socket}
				for i, do := range test.deeds {
					if err := do(c); err != nil {
						t.Fatalf("step %d: %v", i+1, err)
					}
				}
			})
		}
	}
}

func handshake(socket *harness.Socket) error {
	return socket.Seen.Wait(conformanceWait, func(pending []harness.Seen[harness.SocketEvent]) ([]harness.Seen[harness.SocketEvent], bool, error) {
		if len(pending) == 0 {
			return pending, false, nil
		}
		if pending[0].What.Open == nil {
			return pending, false, fmt.Errorf("handshake: got %v", pending[0].What)
		}
		return pending[1:], true, nil
	})
}

// nativeEcho is an origin that speaks WebSocket itself.
func nativeEcho(w http.ResponseWriter, r *http.Request) {
	var upgrader websocket.Upgrader
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	for {
		op, data, err := conn.ReadMessage()
		if err != nil {
			return
		}
		if err := conn.WriteMessage(op, data); err != nil {
			return
		}
	}
}
