package origin_test

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/gripway/gripway/gateway/origin"
)

// FuzzOneRequestStaysOne: whatever a client writes that net/http takes for a
// request, what leaves is one request with the same method and body, signed by us
// alone.
func FuzzOneRequestStaysOne(f *testing.F) {
	for _, seed := range []string{
		"GET /a%2F//b?c=d HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET http://h/p?q HTTP/1.1\r\nHost: x\r\nConnection: Grip-Sig, close\r\nGrip-Sig: f\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nGET \r\n0\r\nGrip_Sig: f\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 44\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nGrip-Sig: forged\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: x\r\nTe: trailers\r\nX: \x80\r\n\r\n",
		"GET /\xff#\"<> HTTP/1.0\r\nGRIP_SIG: f\r\nMeta.x: y\r\n\r\n",
	} {
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, wire []byte, websocket bool) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(wire)))
		if err != nil {
			return
		}
		r.RemoteAddr = "192.0.2.7:1"
		rules := &origin.Rules{Signer: signer, Feature: "all", OrigHeaders: true, XForwardedFor: origin.ForwardedFor{Append: true}}
		out, trusted, err := rules.Prepare(r, origin.Call{WebSocket: websocket})
		if trusted {
			t.Fatal("trusted without a verifier")
		}
		if err != nil {
			return
		}
		body, err := io.ReadAll(out.Body)
		if err != nil {
			return
		}
		trailer := out.Trailer
		out.Body, out.TransferEncoding, out.Trailer, out.ContentLength = http.NoBody, nil, nil, 0
		if len(body) > 0 {
			out.ContentLength = int64(len(body))
			out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
			out.Body, _ = out.GetBody()
		}
		sent, err := origin.AppendRequest(out, "x")
		if err != nil {
			return // not sent at all
		}
		reader := bufio.NewReader(bytes.NewReader(sent))
		arrived, err := http.ReadRequest(reader)
		if err != nil {
			t.Fatalf("%q makes %q: %v", wire, sent, err)
		}
		got, err := io.ReadAll(arrived.Body)
		rest, _ := io.ReadAll(reader)
		if err != nil && len(body) <= 64<<10 || len(rest) > 0 || arrived.Method != r.Method || len(body) <= 64<<10 && !bytes.Equal(got, body) {
			t.Fatalf("%q makes %q: %s, body %q, %v, and %q", wire, sent, arrived.Method, got, err, rest)
		}
		for _, header := range []http.Header{arrived.Header, trailer} {
			for name, values := range header {
				plain := strings.ToLower(strings.NewReplacer("_", "-", ".", "-").Replace(name))
				switch {
				case plain == "grip-sig" && len(values) == 1 && values[0] == "signed", plain == "grip-feature" && values[0] == "all":
				case strings.HasPrefix(plain, "grip-"), strings.HasPrefix(plain, "meta-"), plain == "connection-id", plain == "pushpin-route":
					t.Fatalf("%q: the origin sees %s: %q", wire, name, values)
				}
			}
		}
	})
}
