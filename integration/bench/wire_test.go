package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// feedIn gives the bytes to feed in pieces of n.
func feedIn(n int, wire string, feed func([]byte)) {
	for piece := range slices.Chunk([]byte(wire), n) {
		feed(slices.Clone(piece)) // feeders must not keep what they were lent
	}
}

func TestResponsesAreReadInPiecesOfAnySize(t *testing.T) {
	tests := []struct {
		name, wire string
		status     int
		body, rest string
		last       bool
	}{
		{"with a length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", "", false},
		{"without a body", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, "", "", false},
		{"length of zero, oddly written", "HTTP/1.1 200 OK\r\nContent-Length: 00\r\n\r\n", 200, "", "", false},
		{"chunked, with an extension and a trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nX: y\r\n\r\n", 200, "hello world", "", false},
		{"closing the connection", "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", 404, "x", "", true},
		{"of HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, "x", "", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for n := 1; n <= len(test.wire); n++ {
				var body []byte
				r := response{tape: &body}
				dones := 0
				feedIn(n, test.wire, func(b []byte) {
					rest, done, err := r.feed(b)
					if err != nil || len(rest) > 0 {
						t.Fatalf("pieces of %d: rest %q, error %v", n, rest, err)
					}
					if done {
						dones++
					}
				})
				if dones != 1 || r.status != test.status || string(body) != test.body || r.last != test.last {
					t.Fatalf("pieces of %d: done %d times, status %d, body %q, last %t; want once, %d, %q, %t",
						n, dones, r.status, body, r.last, test.status, test.body, test.last)
				}
			}
		})
	}
}

func TestBytesBehindAResponseAreHandedBack(t *testing.T) {
	var r response
	rest, done, err := r.feed([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1"))
	if string(rest) != "HTTP/1.1" || !done || err != nil {
		t.Errorf("got %q, %t, %v; want the next response's bytes, true, nil", rest, done, err)
	}
}

func TestAResponseWithoutLengthEndsWithItsConnection(t *testing.T) {
	var body []byte
	r := response{tape: &body}
	_, done, err := r.feed([]byte("HTTP/1.1 200 OK\r\n\r\nsome"))
	if done || err != nil || !r.ended() || !r.last || string(body) != "some" {
		t.Errorf("done %t, error %v, ended %t, last %t, body %q", done, err, r.ended(), r.last, body)
	}
}

func TestBrokenResponsesAreErrors(t *testing.T) {
	for name, wire := range map[string]string{
		"no HTTP":                     "SSH-2.0-OpenSSH\r\n\r\n",
		"bad length":                  "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"bad chunk size":              "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"chunk longer than its size":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
		"head that does not end":      "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 4000),
		"chunk line that has no end":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("0", headBytesMax+1),
		"chunk size beyond all reach": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
	} {
		var r response
		if _, done, err := r.feed([]byte(wire)); err == nil {
			t.Errorf("%s: done %t without an error", name, done)
		}
	}
}

func TestRequestsAreTakenOneByOneWhenComplete(t *testing.T) {
	const first = "POST /ws?c=room HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
	const second = "POST /publish/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
	wire := []byte(first + second)
	for n := range len(first) {
		if _, used, err := takeRequest(wire[:n]); used != 0 || err != nil {
			t.Fatalf("%d bytes: used %d, error %v; want to wait", n, used, err)
		}
	}
	r, used, err := takeRequest(wire)
	if err != nil || used != len(first) || string(r.method) != "POST" || r.path() != "/ws" || r.channelOf() != "room" || string(r.body) != "body" {
		t.Errorf("first: %q %q %q %q, used %d, error %v", r.method, r.path(), r.channelOf(), r.body, used, err)
	}
	r, used, err = takeRequest(wire[used:])
	if err != nil || used != len(second) || string(r.body) != "hi" || r.channelOf() != "" {
		t.Errorf("second: body %q, channel %q, used %d, error %v", r.body, r.channelOf(), used, err)
	}
}

func TestHeaderFieldsCompareWithoutCase(t *testing.T) {
	h := head("HTTP/1.1 101 Switching\r\nX-Sec: no\r\nsec-websocket-ACCEPT:  yes \r\n\r\n")
	if got := h.field("Sec-WebSocket-Accept"); got != "yes" {
		t.Errorf("got %q, want yes", got)
	}
	if got := h.field("Sec"); got != "" {
		t.Errorf("a prefix of a name matched: %q", got)
	}
	if h.status() != 101 {
		t.Errorf("status %d, want 101", h.status())
	}
}

func TestFramesAreCountedInPiecesOfAnySize(t *testing.T) {
	wire := string(frame(opText, []byte(message(1)))) +
		string(frame(opPing, []byte("are you there"))) +
		"\x01\x03abc" + // a message in two frames, with a ping between them
		string(frame(opPing, nil)) +
		"\x80\x03def" +
		string(frame(opText, []byte(strings.Repeat("y", 300)))) +
		string(frame(opText, nil)) +
		string(frame(opClose, []byte{3, 232}))
	for n := 1; n <= len(wire); n++ {
		var tape, replies []byte
		f := frames{tape: &tape}
		total, closes := 0, 0
		feedIn(n, wire, func(b []byte) {
			messages, reply, closed, err := f.feed(b)
			if err != nil {
				t.Fatalf("pieces of %d: %v", n, err)
			}
			total += messages
			replies = append(replies, reply...)
			if closed {
				closes++
			}
		})
		want := message(1) + "abcdef" + strings.Repeat("y", 300)
		if total != 4 || string(tape) != want || closes != 1 {
			t.Fatalf("pieces of %d: %d messages, %d bytes, closed %d times; want 4, %d, once", n, total, len(tape), closes, len(want))
		}
		pongs := string(maskedFrame(opPong, []byte("are you there"))) + string(maskedFrame(opPong, nil))
		if string(replies) != pongs {
			t.Fatalf("pieces of %d: replies % x, want % x", n, replies, pongs)
		}
	}
}

func TestBrokenFramesAreErrors(t *testing.T) {
	for name, wire := range map[string]string{
		"masked by the server": string(maskedFrame(opText, []byte("x"))),
		"reserved bit":         "\xc1\x00",
		"of a terabyte":        "\x81\x7f\x00\x00\x01\x00\x00\x00\x00\x00",
		"length with its sign": "\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
	} {
		var f frames
		if _, _, _, err := f.feed([]byte(wire)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestMaskedFrameIsThatOfTheSpecification(t *testing.T) {
	// RFC 6455 section 5.7 shows "Hello" masked; with our own mask the content
	// must come back under the same exclusive or.
	b := maskedFrame(opText, []byte("Hello"))
	if b[0] != 0x81 || b[1] != 0x85 {
		t.Fatalf("header % x, want 81 85", b[:2])
	}
	for i := range 5 {
		b[6+i] ^= b[2+i%4]
	}
	if string(b[6:]) != "Hello" {
		t.Errorf("unmasked %q, want Hello", b[6:])
	}
}

func TestEventsAreReadAsTheSpecificationWritesThem(t *testing.T) {
	tests := []struct {
		name, wire string
		want       []event
	}{
		{"open and text", "OPEN\r\nTEXT 5\r\nhello\r\n", []event{{"OPEN", nil}, {"TEXT", []byte("hello")}}},
		{"size in hexadecimal, either case", "TEXT A\r\n0123456789\r\nTEXT a\r\n0123456789\r\n", []event{{"TEXT", []byte("0123456789")}, {"TEXT", []byte("0123456789")}}},
		{"text without size", "TEXT\r\n", []event{{"TEXT", nil}}},
		{"nothing", "", nil},
	}
	for _, test := range tests {
		got, err := takeEvents([]byte(test.wire))
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		same := slices.EqualFunc(got, test.want, func(a, b event) bool { return a.kind == b.kind && string(a.content) == string(b.content) })
		if !same {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
	for name, wire := range map[string]string{
		"cut short": "TEXT 5\r\nhel", "no line end": "OPEN", "bad size": "TEXT x\r\n\r\n", "negative": "TEXT -1\r\n\r\n",
	} {
		if got, err := takeEvents([]byte(wire)); err == nil {
			t.Errorf("%s: got %q without an error", name, got)
		}
	}
}

func TestAppendedEventsComeBack(t *testing.T) {
	wire := appendEvent(appendEvent(appendEvent(nil, "OPEN", nil), "TEXT", []byte("0123456789abcdef")), "TEXT", []byte{})
	if want := "OPEN\r\nTEXT 10\r\n0123456789abcdef\r\nTEXT 0\r\n\r\n"; string(wire) != want {
		t.Errorf("got %q, want %q", wire, want)
	}
}

func TestPublishBodiesAreItemsOfTheirFormat(t *testing.T) {
	for format, field := range map[string]string{"http-stream": "content", "ws-message": "content", "http-response": "body"} {
		var body struct {
			Items []struct {
				Channel string
				Formats map[string]map[string]string
			}
		}
		if err := json.Unmarshal(publishBody(format, item{"a", 1}, item{"b", 2}), &body); err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		if len(body.Items) != 2 || body.Items[1].Channel != "b" || body.Items[1].Formats[format][field] != message(2) {
			t.Errorf("%s: got %+v", format, body)
		}
	}
}

func TestMessagesAreOfOneSizeWithOneMarker(t *testing.T) {
	for _, seq := range []int{0, 1, 999_999_999} {
		m := message(seq)
		if len(m) != messageBytes || strings.Count(m, string(rune(marker))) != 1 || m[messageBytes-1] != marker {
			t.Errorf("message %d is %q", seq, m)
		}
	}
	if message(1) == message(2) {
		t.Error("two messages are alike")
	}
}
