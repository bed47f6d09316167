package compute

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gripway/gripway/guest"
)

// fields are the values that calls like header_values_get write, from a cursor on
// with a buffer of a size.
func (g *tester) fields(name string, size uint32, params ...uint32) []string {
	g.Helper()
	var all []string
	buffer, next, n := g.room(int(size)), g.room(8), g.room(4)
	cursor := uint32(0)
	for range 1000 {
		g.must(name, append(slices.Clone(params), buffer, size, cursor, next, n)...)
		if written := g.get32(n); written > 0 {
			all = append(all, lines(g.text(buffer, written))...)
		}
		if int64(g.get64(next)) < 0 {
			return all
		}
		cursor = uint32(g.get64(next))
	}
	g.Fatalf("%s: the cursor does not end", name)
	return nil
}

// string is a text that a call writes, first without room for it.
func (g *tester) string(name string, params ...uint32) string {
	g.Helper()
	n := g.room(4)
	g.want(statusBufferLen, name, append(slices.Clone(params), 0, 0, n)...)
	size := g.get32(n)
	buffer := g.room(int(size))
	g.must(name, append(slices.Clone(params), buffer, size, n)...)
	return g.text(buffer, g.get32(n))
}

// downstream is the request from the client.
func (g *tester) downstream() (request, body uint32) {
	g.Helper()
	at := g.room(8)
	g.must("http_req.body_downstream_get", at, at+4)
	return g.get32(at), g.get32(at + 4)
}

// named is call's parameters: handles, then texts.
func (g *tester) named(handles []uint32, texts ...string) []uint32 {
	params := slices.Clone(handles)
	for _, t := range texts {
		at, n := g.put(t)
		params = append(params, at, n)
	}
	return params
}

// request makes one to a URI.
func (g *tester) request(method, uri string) uint32 {
	g.Helper()
	h := g.result("http_req.new")
	g.must("http_req.method_set", g.named([]uint32{h}, method)...)
	g.must("http_req.uri_set", g.named([]uint32{h}, uri)...)
	return h
}

// bodyOf makes a body.
func (g *tester) bodyOf(text string) uint32 {
	h := g.result("http_body.new")
	g.write(h, text)
	return h
}

// respond answers the client.
func (g *tester) respond(code uint32, body uint32, streaming uint32) {
	g.Helper()
	h := g.result("http_resp.new")
	g.must("http_resp.status_set", h, code)
	g.must("http_resp.send_downstream", h, body, streaming)
}

// outcomeOf serves and reads the answer.
func outcomeOf(t *testing.T, service *Service, x *guest.Exchange, run func(g *tester)) (*http.Response, string, error) {
	t.Helper()
	ran := make(chan struct{})
	outcome, err := serve(t, service, x, func(g *tester) {
		defer close(ran)
		run(g)
	})
	if err != nil || outcome.Response == nil {
		t.Fatalf("got %v, %v, want a response", outcome, err)
	}
	content, err := io.ReadAll(outcome.Response.Body)
	outcome.Response.Body.Close()
	<-ran
	return outcome.Response, string(content), err
}

func clientRequest(method, target, body string) *guest.Exchange {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	return guest.NewExchange(r)
}

func TestAGuestSeesTheRequestAsItWasSent(t *testing.T) {
	x := clientRequest("POST", "http://example.com/a%2Fb//c?x=%zz&y", "hello")
	x.Request.RequestURI = "/a%2Fb//c?x=%zz&y"
	x.Request.Header = http.Header{"X-Two": {"1", "2"}, "Accept": {"*/*"}, "Cookie": {"a=b"}}
	x.Client.Header = []guest.Field{{Name: "X-TWO", Value: "1"}, {Name: "host", Value: "example.com"}, {Name: "Cookie", Value: "a=b"}, {Name: "x-two", Value: "2"}}
	_, _, err := outcomeOf(t, nil, x, func(g *tester) {
		request, body := g.downstream()
		if request != 0 || body != 0 {
			t.Errorf("got handles %d, %d, want 0, 0", request, body)
		}
		if again, _ := g.downstream(); again != 0 {
			t.Errorf("got handle %d the second time, want 0", again)
		}
		if got := g.string("http_req.uri_get", request); got != "http://example.com/a%2Fb//c?x=%zz&y" {
			t.Errorf("got URI %q", got)
		}
		if got := g.string("http_req.method_get", request); got != "POST" {
			t.Errorf("got method %q", got)
		}
		if got := g.result("http_req.version_get", request); got != http11 {
			t.Errorf("got version %d", got)
		}
		want := []string{"x-two", "host", "cookie", "accept"}
		for _, size := range []uint32{8, 64} {
			if got := g.fields("http_req.header_names_get", size, request); !slices.Equal(got, want) {
				t.Errorf("got names %q, want %q", got, want)
			}
		}
		if got := g.fields("http_req.header_values_get", 2, g.named([]uint32{request}, "X-Two")...); !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("got values %q", got)
		}
		if got := g.string("http_req.header_value_get", g.named([]uint32{request}, "HOST")...); got != "example.com" {
			t.Errorf("got host %q", got)
		}
		if got := g.fields("http_req.original_header_names_get", 64); !slices.Equal(got, []string{"X-TWO", "host", "Cookie", "x-two"}) {
			t.Errorf("got original names %q", got)
		}
		if got := g.result("http_downstream.downstream_original_header_count", request); got != 4 {
			t.Errorf("got %d original headers, want 4", got)
		}
		buffer, next, n := g.room(4), g.room(8), g.room(4)
		g.want(statusBufferLen, "http_req.header_names_get", request, buffer, 3, 0, next, n)
		if g.get32(n) != 6 || int64(g.get64(next)) != cursorEnd {
			t.Errorf("got %d, %d of a buffer that is too small, want 6, -1", g.get32(n), int64(g.get64(next)))
		}
		if got, st := g.read(body); got != "hello" || st != statusOK {
			t.Errorf("got body %q, %d", got, st)
		}
		g.respond(204, g.bodyOf(""), 0)
	})
	if err != nil {
		t.Error(err)
	}
}

func TestHeadersAreChangedInTheirPlace(t *testing.T) {
	for _, kind := range []string{"http_req", "http_resp"} {
		t.Run(kind, func(t *testing.T) {
			inSandbox(t, func(g *tester) {
				h := []uint32{g.result(kind + ".new")}
				g.must(kind+".header_append", g.named(h, "A", "1")...)
				g.must(kind+".header_append", g.named(h, "b", "2")...)
				g.must(kind+".header_append", g.named(h, "a", "3")...)
				g.must(kind+".header_insert", g.named(h, "B", "4")...)
				g.must(kind+".header_values_set", g.named(h, "c", "x\x00y\x00")...)
				if got := g.fields(kind+".header_names_get", 64, h[0]); !slices.Equal(got, []string{"a", "b", "c"}) {
					t.Errorf("got %q", got)
				}
				if got := g.fields(kind+".header_values_get", 64, g.named(h, "a")...); !slices.Equal(got, []string{"1", "3"}) {
					t.Errorf("got %q", got)
				}
				if got := g.fields(kind+".header_values_get", 64, g.named(h, "c")...); !slices.Equal(got, []string{"x", "y"}) {
					t.Errorf("got %q", got)
				}
				g.must(kind+".header_values_set", g.named(h, "c", "")...)
				g.must(kind+".header_remove", g.named(h, "A")...)
				g.want(statusInvalid, kind+".header_remove", g.named(h, "a")...)
				g.want(statusInvalid, kind+".header_value_get", append(g.named(h, "c"), 0, 0, g.room(4))...)
				if got := g.fields(kind+".header_names_get", 64, h[0]); !slices.Equal(got, []string{"b"}) {
					t.Errorf("got %q", got)
				}
				g.want(statusError, kind+".header_append", g.named(h, "no good", "v")...)
				g.want(statusError, kind+".header_append", g.named(h, "x", "a\r\nb")...)
				g.want(statusError, kind+".header_append", g.named(h, "", "v")...)
				g.want(statusInvalid, kind+".header_append", h[0], 1<<31, 4, 0, 0)
				g.want(statusHeadTooLarge, kind+".header_append", g.named(h, "x", strings.Repeat("v", headBytesMax))...)
				g.must(kind+".close", h[0])
				g.want(statusBadHandle, kind+".header_append", g.named(h, "a", "1")...)
			})
		})
	}
}

func TestWhatARequestCannotBe(t *testing.T) {
	inSandbox(t, func(g *tester) {
		h := []uint32{g.result("http_req.new")}
		for _, uri := range []string{"", "example.com/", "http:///x", "http://a b/", "http://x/\x7f", "1http://x/"} {
			g.want(statusError, "http_req.uri_set", g.named(h, uri)...)
		}
		g.want(statusInvalid, "http_req.uri_set", g.named(h, "http://x/\xff")...)
		g.want(statusError, "http_req.method_set", g.named(h, "GE T")...)
		g.want(statusInvalid, "http_req.version_set", h[0], 5)
		g.want(statusInvalid, "http_req.framing_headers_mode_set", h[0], 2)
		g.want(statusInvalid, "http_req.auto_decompress_response_set", h[0], 2)
		g.want(statusInvalid, "http_req.cache_override_set", h[0], 16, 0, 0)
		g.must("http_req.cache_override_v2_set", g.named([]uint32{h[0], 2, 30, 0}, "one two")...)
		r, _ := g.b.requests.get(h[0])
		if want := (cacheOverride{HasTTL: true, TTL: 30, SurrogateKey: "one two"}); *r.cache != want {
			t.Errorf("got %+v, want %+v", *r.cache, want)
		}
		record := g.record(overrideBytes, func(r []byte) { put32(r, 0, 40); put32(r, 4, 50); g.putText(r, 8, "one two"); put32(r, 16, 60) })
		g.must("http_req.cache_override_v3_set", h[0], overrideTTL|overrideStale|overrideWait, record)
		if want := (cacheOverride{
			HasTTL: true, TTL: 40, HasStale: true, StaleWhileRevalidate: 50, SurrogateKey: "one two", HasLookupTimeout: true, LookupTimeout: 60,
		}); *r.cache != want {
			t.Errorf("got %+v, want %+v", *r.cache, want)
		}
		g.must("http_req.cache_override_v3_set", h[0], 0, g.record(overrideBytes, func([]byte) {})) // keys at no address
		g.want(statusInvalid, "http_req.cache_override_v3_set", h[0], 32, record)
		g.want(statusInvalid, "http_req.cache_override_v3_set", h[0], 0, g.record(overrideBytes, func(r []byte) { g.putText(r, 8, "a\nb") }))
		g.want(statusInvalid, "http_req.cache_override_v3_set", h[0], 0, outside)
		response := g.result("http_resp.new")
		g.want(statusInvalid, "http_resp.status_set", response, 99)
		g.want(statusInvalid, "http_resp.status_set", response, 1000)
	})
}

func TestAnAnswerStreamsWhileTheGuestGoesOn(t *testing.T) {
	read := make(chan struct{})
	outcome, err := serve(t, nil, clientRequest("GET", "http://example.com/", ""), func(g *tester) {
		body := g.bodyOf("first ")
		g.respond(200, body, 1)
		<-read
		g.write(body, "second")
		at, n := g.put("X-End")
		value, vn := g.put("yes")
		g.must("http_body.trailer_append", body, at, n, value, vn)
		g.must("http_body.close", body)
	})
	if err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 64)
	n, _ := outcome.Response.Body.Read(buffer)
	if got := string(buffer[:n]); got != "first " {
		t.Errorf("got %q before the guest went on", got)
	}
	close(read)
	rest, err := io.ReadAll(outcome.Response.Body)
	if string(rest) != "second" || err != nil {
		t.Errorf("got %q, %v", rest, err)
	}
	if outcome.Response.ContentLength != -1 || outcome.Response.Trailer.Get("X-End") != "yes" {
		t.Errorf("got length %d, trailer %v", outcome.Response.ContentLength, outcome.Response.Trailer)
	}
}

func TestAnAnswerIsSentOnce(t *testing.T) {
	var early []string
	x := clientRequest("GET", "http://example.com/", "")
	x.Early = func(status int, header http.Header) { early = append(early, fmt.Sprint(status, header["Link"])) }
	response, content, err := outcomeOf(t, nil, x, func(g *tester) {
		for _, link := range []string{"<a>", "<b>"} {
			h := g.result("http_resp.new")
			g.must("http_resp.status_set", h, 103)
			g.must("http_resp.header_insert", g.named([]uint32{h}, "link", link)...)
			g.must("http_resp.send_downstream", h, g.bodyOf(""), 0)
		}
		h := g.result("http_resp.new")
		g.must("http_resp.status_set", h, 102)
		g.want(statusInvalid, "http_resp.send_downstream", h, g.bodyOf(""), 0)
		h = g.result("http_resp.new")
		g.must("http_resp.header_insert", g.named([]uint32{h}, "content-length", "77")...)
		g.must("http_resp.send_downstream", h, g.bodyOf("done"), 0)
		g.want(statusBadHandle, "http_resp.send_downstream", h, g.bodyOf("done"), 0)
		again := g.result("http_resp.new")
		body := g.bodyOf("again")
		g.want(statusError, "http_resp.send_downstream", again, body, 0)
		g.want(statusBadHandle, "http_body.close", body)
		at, n := g.put("b")
		g.want(statusError, "http_req.redirect_to_grip_proxy", at, n)
	})
	if err != nil || content != "done" || response.StatusCode != 200 || response.ContentLength != 4 || response.Header["Content-Length"] != nil {
		t.Errorf("got %d %q %v, length %d %v", response.StatusCode, content, err, response.ContentLength, response.Header)
	}
	if want := []string{"103 [<a>]", "103 [<b>]"}; !slices.Equal(early, want) {
		t.Errorf("got %q, want %q", early, want)
	}
}

// As the Go SDK does it: WriteHeader(103), and then all else.
func TestAfterEarlyHintsTheAnswerIsMadeOfTheSame(t *testing.T) {
	hints := 0
	x := clientRequest("GET", "http://example.com/", "")
	x.Early = func(int, http.Header) { hints++ }
	response, content, err := outcomeOf(t, nil, x, func(g *tester) {
		h, body := g.result("http_resp.new"), g.bodyOf("")
		g.must("http_resp.status_set", h, 103)
		g.must("http_resp.send_downstream", h, body, 0)
		g.must("http_resp.send_downstream", h, body, 0)
		g.want(statusBadHandle, "http_resp.send_downstream", h, noHandle, 0)
		g.must("http_resp.status_set", h, 201)
		g.must("http_resp.send_downstream", h, body, 1)
		g.write(body, "all else")
		g.must("http_body.close", body)
	})
	if err != nil || hints != 2 || response.StatusCode != 201 || content != "all else" {
		t.Errorf("got %d hints, then %d %q %v", hints, response.StatusCode, content, err)
	}
}

func TestFramingIsTheGuestsIfItMakesSense(t *testing.T) {
	for _, c := range []struct {
		name    string
		method  string
		mode    uint32
		headers []string
		length  int64
		kept    bool
	}{
		{"automatic", "GET", 0, []string{"content-length", "9"}, 4, false},
		{"manual", "GET", 1, []string{"content-length", "4"}, 4, true},
		{"manual, not that of the body", "GET", 1, []string{"content-length", "9"}, 4, false},
		{"manual, of what HEAD does not get", "HEAD", 1, []string{"content-length", "9"}, 9, true},
		{"manual, chunked", "GET", 1, []string{"transfer-encoding", "chunked"}, -1, false},
		{"manual, both", "GET", 1, []string{"transfer-encoding", "chunked", "content-length", "9"}, 4, false},
		{"manual, no number", "GET", 1, []string{"content-length", "9x"}, 4, false},
		{"manual, nothing", "GET", 1, nil, 4, false},
		{"the length of what HEAD does not get", "HEAD", 0, []string{"content-length", "9"}, 9, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			response, _, _ := outcomeOf(t, nil, clientRequest(c.method, "http://example.com/", ""), func(g *tester) {
				h := g.result("http_resp.new")
				g.must("http_resp.framing_headers_mode_set", h, c.mode)
				for i := 0; i < len(c.headers); i += 2 {
					g.must("http_resp.header_insert", g.named([]uint32{h}, c.headers[i], c.headers[i+1])...)
				}
				g.must("http_resp.send_downstream", h, g.bodyOf("four"), 0)
			})
			if response.ContentLength != c.length || (response.Header["Content-Length"] != nil) != c.kept || response.Header["Transfer-Encoding"] != nil {
				t.Errorf("got %d, %v", response.ContentLength, response.Header)
			}
		})
	}
}

// backends are a service with one backend, b.
func backends(answer func(r *http.Request) (*http.Response, error)) *Service {
	return &Service{Backends: &fakeBackends{static: map[string]*fakeBackend{
		"b": {options: guest.BackendOptions{Name: "b", Address: "b.example:443", TLS: true}, answer: answer},
	}}}
}

// send is the parameters of a send.
func (g *tester) send(request, body uint32, backend string) []uint32 {
	return g.named([]uint32{request, body}, backend)
}

func TestARequestIsSentAndItsAnswerPassedOn(t *testing.T) {
	service := backends(func(r *http.Request) (*http.Response, error) {
		content, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			return nil, err
		}
		what := fmt.Sprintf("%s %s host=%s length=%d two=%v body=%s", r.Method, r.RequestURI, r.Host, r.ContentLength, r.Header["X-Two"], content)
		return answerOf(201, http.Header{"X-A": {"1", "2"}, "Content-Length": {"7"}}, what), nil
	})
	response, content, err := outcomeOf(t, service, clientRequest("PUT", "http://example.com/p", "of the client"), func(g *tester) {
		_, body := g.downstream()
		r := g.request("POST", "https://other.example/x%2Fy?q")
		g.must("http_req.header_append", g.named([]uint32{r}, "x-two", "1")...)
		g.must("http_req.header_append", g.named([]uint32{r}, "x-two", "2")...)
		g.must("http_req.header_insert", g.named([]uint32{r}, "host", "named.example")...)
		out := g.room(8)
		g.must("http_req.send", append(g.send(r, body, "b"), out, out+4)...)
		g.want(statusBadHandle, "http_req.close", r)
		g.want(statusBadHandle, "http_body.close", body)
		answer, content := g.get32(out), g.get32(out+4)
		code := g.room(4)
		g.must("http_resp.status_get", answer, code)
		if got := g.get32(code); got != 201 {
			t.Errorf("got status %d, want 201", got)
		}
		if got := g.fields("http_resp.header_values_get", 64, g.named([]uint32{answer}, "x-a")...); !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("got %q", got)
		}
		g.must("http_resp.send_downstream", answer, content, 0)
	})
	want := "POST /x%2Fy?q host=named.example length=13 two=[1 2] body=of the client"
	if content != want || err != nil || response.StatusCode != 201 {
		t.Errorf("got %d %q, %v, want %q", response.StatusCode, content, err, want)
	}
}

func TestASendThatFailsUsesUpWhatItWasGiven(t *testing.T) {
	inSandboxOf(t, &Service{}, func(g *tester) {
		r, body := g.request("GET", "http://x/"), g.bodyOf("x")
		detail, out := g.room(20), g.room(8)
		g.memory.WriteUint32Le(detail+4, 0xffffffff)
		g.want(statusInvalid, "http_req.send_v2", append(g.send(r, body, "nobody"), detail, out, out+4)...)
		if got := g.get32(detail); got != detailNotFound {
			t.Errorf("got tag %d, want %d", got, detailNotFound)
		}
		g.want(statusBadHandle, "http_req.close", r)
		g.want(statusBadHandle, "http_body.close", body)
	})
}

// inSandboxOf is inSandbox with a service.
func inSandboxOf(t *testing.T, service *Service, run func(g *tester)) {
	t.Helper()
	ran := make(chan struct{})
	if _, err := serve(t, service, nil, func(g *tester) {
		defer close(ran)
		run(g)
	}); err != nil && !errors.Is(err, guest.ErrUndecided) {
		t.Error(err)
	}
	<-ran
}

func TestAStreamingRequestIsReadWhileItIsWritten(t *testing.T) {
	got := make(chan string)
	service := backends(func(r *http.Request) (*http.Response, error) {
		buffer := make([]byte, 64)
		for {
			n, err := r.Body.Read(buffer)
			if n > 0 {
				got <- string(buffer[:n])
			}
			if err != nil {
				r.Body.Close()
				return answerOf(200, http.Header{"X-Trailer": r.Trailer["X-T"], "X-Err": {fmt.Sprint(err)}}, ""), nil
			}
		}
	})
	inSandboxOf(t, service, func(g *tester) {
		body := g.bodyOf("one")
		p := g.result("http_req.send_async_streaming", g.send(g.request("POST", "http://x/"), body, "b")...)
		if first := <-got; first != "one" {
			t.Errorf("got %q", first)
		}
		done := g.room(12)
		g.must("http_req.pending_req_poll", p, done, done+4, done+8)
		if g.get32(done) != 0 || g.get32(done+4) != noHandle {
			t.Error("got an answer to half a request")
		}
		g.write(body, "two")
		if second := <-got; second != "two" {
			t.Errorf("got %q", second)
		}
		g.must("http_body.trailer_append", g.named([]uint32{body}, "x-t", "end")...)
		g.must("http_body.close", body)
		list, n := g.list(p)
		g.must("async_io.select", list, n, 0, g.room(4))
		out := g.room(12)
		g.must("http_req.pending_req_select", list, n, out, out+4, out+8)
		if g.get32(out) != 0 {
			t.Errorf("got index %d, want 0", g.get32(out))
		}
		if v := g.string("http_resp.header_value_get", g.named([]uint32{g.get32(out + 4)}, "x-trailer")...); v != "end" {
			t.Errorf("got trailer %q", v)
		}
		g.want(statusBadHandle, "http_req.pending_req_wait", p, out, out+4)
	})
}

func TestWhatIsNotFinishedIsBrokenOffAndCancelled(t *testing.T) {
	ended := make(chan error, 2)
	service := backends(func(r *http.Request) (*http.Response, error) {
		go func() { <-r.Context().Done(); ended <- r.Context().Err() }()
		_, err := io.ReadAll(r.Body)
		ended <- err
		return nil, err
	})
	inSandboxOf(t, service, func(g *tester) {
		g.result("http_req.send_async_streaming", g.send(g.request("POST", "http://x/"), g.bodyOf("half"), "b")...)
	})
	for range 2 {
		if err := <-ended; err == nil {
			t.Error("got a request that looks complete")
		}
	}
}

func TestTheClientsAnswerOutlivesTheGuest(t *testing.T) {
	reader, writer := io.Pipe()
	service := backends(func(r *http.Request) (*http.Response, error) {
		go func() {
			<-r.Context().Done()
			writer.CloseWithError(r.Context().Err())
		}()
		a := answerOf(200, http.Header{}, "")
		a.Body, a.ContentLength = reader, -1
		return a, nil
	})
	ran := make(chan struct{})
	outcome, err := serve(t, service, clientRequest("GET", "http://x/", ""), func(g *tester) {
		defer close(ran)
		out := g.room(8)
		g.must("http_req.send_v3", append(g.send(g.request("GET", "http://x/"), g.bodyOf(""), "b"), 0, out, out+4)...)
		body := g.bodyOf("head ")
		g.respond(200, body, 1)
		g.must("http_body.append", body, g.get32(out+4))
		g.must("http_body.close", body)
	})
	if err != nil {
		t.Fatal(err)
	}
	<-ran
	time.Sleep(20 * time.Millisecond) // its sandbox ends; if that came later the test would just say less
	go func() {
		io.WriteString(writer, "of the backend")
		writer.Close()
	}()
	content, err := io.ReadAll(outcome.Response.Body)
	if string(content) != "head of the backend" || err != nil {
		t.Errorf("got %q, %v", content, err)
	}
	outcome.Response.Body.Close()
}

func TestAPendingAnswerGoesToTheClientByItself(t *testing.T) {
	for _, c := range []struct {
		name    string
		err     error
		status  int
		headers string
	}{
		{"answered", nil, 200, "any;response"},
		{"timed out", os.ErrDeadlineExceeded, 504, "any;error"},
		{"refused", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, 503, "any;error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer := make(chan struct{})
			service := backends(func(r *http.Request) (*http.Response, error) {
				<-answer
				if c.err != nil {
					return nil, c.err
				}
				return answerOf(200, http.Header{"X-Gone": {"1"}}, "content"), nil
			})
			response, _, err := outcomeOf(t, service, clientRequest("GET", "http://x/", ""), func(g *tester) {
				p := g.result("http_req.send_async", g.send(g.request("GET", "http://x/"), g.bodyOf(""), "b")...)
				g.must("http_req.pending_req_header_insert", append(g.named([]uint32{p}, "x-any", "any"), forAny)...)
				g.must("http_req.pending_req_header_append", append(g.named([]uint32{p}, "x-any", "response"), forResponse)...)
				g.must("http_req.pending_req_header_append", append(g.named([]uint32{p}, "x-any", "error"), forError)...)
				g.must("http_req.pending_req_header_remove", append(g.named([]uint32{p}, "x-gone"), forAny)...)
				g.want(statusInvalid, "http_req.pending_req_header_remove", append(g.named([]uint32{p}, "x-gone"), 3)...)
				g.must("http_resp.send_downstream_pending", p)
				g.want(statusBadHandle, "http_resp.send_downstream_pending", p)
				g.want(statusError, "http_resp.send_downstream", g.result("http_resp.new"), g.bodyOf(""), 0)
				close(answer)
			})
			if err != nil || response.StatusCode != c.status || strings.Join(response.Header["X-Any"], ";") != c.headers || response.Header["X-Gone"] != nil {
				t.Errorf("got %d, %v, %v", response.StatusCode, response.Header, err)
			}
		})
	}
}

func TestGzipIsTakenOffWhereAskedFor(t *testing.T) {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	io.WriteString(w, "plain text")
	w.Close()
	for _, c := range []struct {
		name, encoding string
		ask            uint32
		plain          bool
	}{
		{"asked", "gzip", 1, true},
		{"by its old name", "X-Gzip", 1, true},
		{"not asked", "gzip", 0, false},
		{"something else", "br", 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			service := backends(func(r *http.Request) (*http.Response, error) {
				return answerOf(200, http.Header{"Content-Encoding": {c.encoding}, "Content-Length": {"7"}}, zipped.String()), nil
			})
			inSandboxOf(t, service, func(g *tester) {
				r := g.request("GET", "http://x/")
				g.must("http_req.auto_decompress_response_set", r, c.ask)
				out := g.room(8)
				g.must("http_req.send", append(g.send(r, g.bodyOf(""), "b"), out, out+4)...)
				content, _ := g.read(g.get32(out + 4))
				names := g.fields("http_resp.header_names_get", 64, g.get32(out))
				if (content == "plain text") != c.plain || slices.Contains(names, "content-encoding") == c.plain || slices.Contains(names, "content-length") == c.plain {
					t.Errorf("got %q, %q", content, names)
				}
			})
		})
	}
}

func TestErrorsOfBackendsAreToldApart(t *testing.T) {
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for _, c := range []struct {
		name   string
		err    error
		tag    uint32
		status status
		set    uint32
	}{
		{"no such name", dial(&net.DNSError{IsNotFound: true}), detailDNSError, statusError, detailHasRcode},
		{"name server slow", &net.DNSError{IsTimeout: true}, detailDNSTimeout, statusError, 0},
		{"refused", dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), detailConnectionRefused, statusError, 0},
		{"no route", dial(os.NewSyscallError("connect", syscall.ENETUNREACH)), detailUnroutable, statusError, 0},
		{"connecting takes long", dial(os.ErrDeadlineExceeded), detailConnectionTimeout, statusError, 0},
		{"anything else before there is a connection", dial(errors.New("?")), detailUnavailable, statusError, 0},
		{"certificate", fmt.Errorf("backend: %w", &tls.CertificateVerificationError{Err: errors.New("x")}), detailCertificate, statusError, 0},
		{"alert", &net.OpError{Op: "remote error", Err: tls.AlertError(40)}, detailTLSAlert, statusError, detailHasAlert},
		{"not TLS", tls.RecordHeaderError{Msg: "first record"}, detailTLSProtocol, statusError, 0},
		{"no first byte", fmt.Errorf("x: %w", os.ErrDeadlineExceeded), detailResponseTimeout, statusError, 0},
		{"deadline", context.DeadlineExceeded, detailResponseTimeout, statusError, 0},
		{"closed", io.EOF, detailTerminated, statusIncomplete, 0},
		{"reset", &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, detailTerminated, statusError, 0},
		{"half an answer", io.ErrUnexpectedEOF, detailIncomplete, statusIncomplete, 0},
		{"not HTTP", errors.New(`malformed HTTP response "x"`), detailStatusInvalid, statusHTTPInvalid, 0},
		{"head too large", errors.New("net/http: server response headers exceeded 1 bytes; aborted"), detailHeadTooLarge, statusHeadTooLarge, 0},
		{"goaway", errors.New("http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=ENHANCE_YOUR_CALM, debug=\"\""), detailHTTP2, statusError, detailHasHTTP2},
		{"whatever", errors.New("?"), detailInternal, statusError, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			service := backends(func(r *http.Request) (*http.Response, error) { return nil, c.err })
			inSandboxOf(t, service, func(g *tester) {
				p := g.result("http_req.send_async", g.send(g.request("GET", "http://x/"), g.bodyOf(""), "b")...)
				detail, out := g.room(20), g.room(8)
				g.memory.WriteUint32Le(detail+4, ^uint32(detailHasInfo))
				g.want(c.status, "http_req.pending_req_wait_v2", p, detail, out, out+4)
				if g.get32(detail) != c.tag || g.get32(detail+4) != c.set {
					t.Errorf("got tag %d, mask %d, want %d, %d", g.get32(detail), g.get32(detail+4), c.tag, c.set)
				}
				record, _ := g.memory.Read(detail, detailBytes)
				if c.set == detailHasAlert && record[12] != 40 || c.set == detailHasRcode && record[8] != rcodeNoSuchName ||
					c.set == detailHasHTTP2 && (record[13] != frameGoAway || record[16] != 11) {
					t.Errorf("got %x", record)
				}
				// One that did not fail comes with select: which one it was is a result.
				p = g.result("http_req.send_async", g.send(g.request("GET", "http://x/"), g.bodyOf(""), "b")...)
				list, n := g.list(p)
				index := g.room(12)
				g.memory.WriteUint32Le(detail+4, 0)
				g.must("http_req.pending_req_select_v2", list, n, detail, index, index+4, index+8)
				if g.get32(index) != 0 || g.get32(index+4) != noHandle || g.get32(detail) != c.tag || g.get32(detail+4) != 0 {
					t.Errorf("got %d, %d, tag %d, mask %d", g.get32(index), g.get32(index+4), g.get32(detail), g.get32(detail+4))
				}
			})
		})
	}
}

// The number is the SDKs', which look whether they have got a handle: of another one they
// think that it is theirs, and close it.
func TestTheHandleOfNothingIsTheSDKs(t *testing.T) {
	const invalid = 0xfffffffe
	release := make(chan struct{})
	service := backends(func(r *http.Request) (*http.Response, error) {
		<-release
		return nil, errors.New("?")
	})
	inSandboxOf(t, service, func(g *tester) {
		p := g.result("http_req.send_async", g.send(g.request("GET", "http://x/"), g.bodyOf(""), "b")...)
		out := g.room(12)
		g.must("http_req.pending_req_poll", p, out, out+4, out+8)
		if g.get32(out) != 0 || g.get32(out+4) != invalid || g.get32(out+8) != invalid {
			t.Errorf("poll: got %d, %#x, %#x", g.get32(out), g.get32(out+4), g.get32(out+8))
		}
		close(release)
		list, n := g.list(p)
		g.must("http_req.pending_req_select", list, n, out, out+4, out+8)
		if g.get32(out) != 0 || g.get32(out+4) != invalid || g.get32(out+8) != invalid {
			t.Errorf("select: got %d, %#x, %#x", g.get32(out), g.get32(out+4), g.get32(out+8))
		}
	})
}

func TestFactsAboutTheClient(t *testing.T) {
	x := clientRequest("GET", "https://example.com/", "")
	x.ID = "0123456789abcdef0123456789abcdef"
	x.Request.Header.Set("Fastly-Key", "secret")
	x.Request.Header.Set("X-Fastly-Bot-Name", "crawly")
	x.Request.Header.Set("X-Fastly-Bot-Category", "page-preview")
	x.Request.Header.Set("X-Fastly-Bot-Analyzed", "true")
	x.Client.Remote, x.Client.Local = netip.MustParseAddrPort("192.0.2.7:1234"), netip.MustParseAddrPort("[2001:db8::1]:443")
	x.Client.TLS = &tls.ConnectionState{Version: tls.VersionTLS12, CipherSuite: tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, ServerName: "example.com"}
	x.Client.Hello = helloOf(t)
	x.Client.HTTP2 = "1:65536;2:0;4:6291456|15663105|0|m,a,s,p"
	service := &Service{FastlyKeys: []string{"other", "secret"}, Local: true}
	outcomeOf(t, service, x, func(g *tester) {
		r, _ := g.downstream()
		for name, want := range map[string]string{
			"downstream_client_request_id":       x.ID,
			"downstream_tls_cipher_openssl_name": "ECDHE-RSA-AES128-GCM-SHA256",
			"downstream_tls_protocol":            "TLSv1.2",
			"downstream_tls_client_servername":   "example.com",
			"downstream_tls_client_hello":        string(x.Client.Hello),
			"downstream_client_h2_fingerprint":   x.Client.HTTP2,
			"downstream_compliance_region":       "none",
			"downstream_bot_name":                "crawly",
			"downstream_bot_category":            "page-preview",
		} {
			if got := g.string("http_downstream."+name, r); got != want {
				t.Errorf("%s: got %q, want %q", name, got, want)
			}
			if requestCalls[name] != nil {
				if got := g.string("http_req." + name); got != want {
					t.Errorf("http_req.%s: got %q, want %q", name, got, want)
				}
			}
		}
		for name, want := range map[string]uint32{
			"fastly_key_is_valid": 1, "downstream_bot_analyzed": 1, "downstream_bot_detected": 0, "downstream_bot_category_kind": 8,
			"downstream_client_ddos_detected": 0, "downstream_tls_client_cert_verify_result": certificateMissing,
		} {
			if got := g.result("http_downstream."+name, r); got != want {
				t.Errorf("%s: got %d, want %d", name, got, want)
			}
		}
		for name, want := range map[string]string{"downstream_client_ip_addr": "192.0.2.7", "downstream_server_ip_addr": "2001:db8::1"} {
			octets := g.room(16)
			n := g.result("http_downstream."+name, r, octets)
			b, _ := g.memory.Read(octets, n)
			if a, _ := netip.AddrFromSlice(b); a.String() != want {
				t.Errorf("%s: got %s, want %s", name, a, want)
			}
		}
		at := g.room(16)
		for _, name := range []string{"downstream_client_oh_fingerprint", "downstream_resvpnproxy_vpn_service_name", "downstream_tls_raw_client_certificate"} {
			g.want(statusNone, "http_downstream."+name, r, at, 16, at)
		}
		g.want(statusNone, "http_downstream.downstream_bot_verified", r, at)
		g.want(statusBadHandle, "http_downstream.downstream_bot_detected", r+1, at)
		// A request that was sent keeps its facts.
		g.must("http_req.close", r)
		g.must("http_downstream.downstream_client_ip_addr", r, at, g.room(4))
		g.respond(200, g.bodyOf(""), 0)
	})
}

// The Go SDK asks for all of these of a client over TLS before a guest has its request,
// and ends the guest where there is none.
func TestWhatIsUnknownOfTLSIsEmpty(t *testing.T) {
	for _, state := range []*tls.ConnectionState{nil, {Version: tls.VersionTLS13}} {
		x := clientRequest("GET", "https://192.0.2.1/", "")
		x.Client.TLS = state
		want := statusNone
		if state != nil {
			want = statusOK
		}
		outcomeOf(t, nil, x, func(g *tester) {
			r, _ := g.downstream()
			at, n := g.room(16), g.room(4)
			for _, name := range []string{"downstream_tls_client_hello", "downstream_tls_client_servername", "downstream_tls_ja4"} {
				g.memory.WriteUint32Le(n, 99)
				g.want(want, "http_downstream."+name, r, at, 16, n)
				if got := g.get32(n); state != nil && got != 0 {
					t.Errorf("%s: got %d octets, want none", name, got)
				}
			}
			g.memory.WriteUint32Le(n, 99)
			g.want(want, "http_downstream.downstream_tls_ja3_md5", r, at, n)
			if got := g.get32(n); state != nil && got != 0 {
				t.Errorf("JA3: got %d octets, want none", got)
			}
			g.respond(200, g.bodyOf(""), 0)
		})
	}
}

// Each line has its name in the list, and counts, whether or not the client's own lines
// are known.
func TestOriginalNamesAreAsManyAsTheirLines(t *testing.T) {
	for _, test := range []struct {
		name  string
		lines []guest.Field
		want  []string
	}{
		{"the client's lines are known", []guest.Field{{Name: "x-b", Value: "1"}, {Name: "A", Value: ""}, {Name: "x-b", Value: "2"}}, []string{"x-b", "A", "x-b"}},
		{"its header was empty", []guest.Field{}, nil},
		{"they are not known", nil, []string{"host", "a", "x-b", "x-b"}},
	} {
		x := clientRequest("GET", "http://example.com/", "")
		x.Request.Header = http.Header{"X-B": {"1", "2"}, "A": {""}}
		x.Client.Header = test.lines
		outcomeOf(t, nil, x, func(g *tester) {
			r, _ := g.downstream()
			if got := g.fields("http_downstream.downstream_original_header_names", 64, r); !slices.Equal(got, test.want) {
				t.Errorf("%s: got %q, want %q", test.name, got, test.want)
			}
			if got := g.result("http_downstream.downstream_original_header_count", r); int(got) != len(test.want) {
				t.Errorf("%s: got %d lines, want %d", test.name, got, len(test.want))
			}
			// SDKs take a fingerprint that is absent for a request of another protocol.
			at := g.room(16)
			g.want(statusNone, "http_downstream.downstream_client_h2_fingerprint", r, at, 16, at)
			g.respond(200, g.bodyOf(""), 0)
		})
	}
}

func TestBotsAreNotWhatClientsSayTheyAre(t *testing.T) {
	x := clientRequest("GET", "http://example.com/", "")
	x.Request.Header.Set("X-Fastly-Bot-Verified", "true")
	outcomeOf(t, &Service{}, x, func(g *tester) {
		r, _ := g.downstream()
		g.want(statusNone, "http_downstream.downstream_bot_verified", r, g.room(4))
		g.respond(200, g.bodyOf(""), 0)
	})
}

// helloOf is a ClientHello of crypto/tls, without the record's header.
func helloOf(t *testing.T) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		tls.Client(client, &tls.Config{ServerName: "example.com", NextProtos: []string{"h2", "http/1.1"}}).Handshake()
		client.Close()
	}()
	head := make([]byte, 5)
	io.ReadFull(server, head)
	hello := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(server, hello); err != nil {
		t.Fatal(err)
	}
	return hello
}

func TestAHandoffIsTheClientsRequestButForWhatTheGuestChanged(t *testing.T) {
	for _, c := range []struct {
		name, call       string
		webSocket, other bool
	}{
		{"grip", "redirect_to_grip_proxy", false, false},
		{"grip v2", "redirect_to_grip_proxy_v2", false, true},
		{"websocket", "redirect_to_websocket_proxy", true, false},
		{"websocket v2", "redirect_to_websocket_proxy_v2", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := clientRequest("GET", "http://example.com/first?a", "client's")
			x.Request.RequestURI = "/first?a"
			x.Request.Header = http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "X-Keep": {"client"}, "Sec-Websocket-Key": {"k"}}
			outcome, err := serve(t, nil, x, func(g *tester) {
				r, _ := g.downstream()
				var h []uint32
				if c.other {
					h = []uint32{r}
					g.must("http_req.method_set", g.named(h, "POST")...)
					g.must("http_req.uri_set", g.named(h, "http://elsewhere.example/sec%2Fond?b")...)
					g.must("http_req.header_insert", g.named(h, "x-keep", "guest")...)
					g.must("http_req.header_insert", g.named(h, "upgrade", "h2c")...)
					g.must("http_req.header_insert", g.named(h, "host", "elsewhere.example")...)
					g.must("http_req.header_insert", g.named(h, "pushpin-route", "x")...)
				}
				g.want(statusInvalid, "http_req."+c.call, g.named(h, "")...)
				g.must("http_req."+c.call, g.named(h, "origin")...)
				g.want(statusError, "http_req."+c.call, g.named(h, "origin")...)
				g.want(statusError, "http_resp.send_downstream", g.result("http_resp.new"), g.bodyOf(""), 0)
			})
			if err != nil || outcome.Handoff == nil {
				t.Fatal(outcome, err)
			}
			got := outcome.Handoff
			content, _ := io.ReadAll(got.Request.Body)
			if got.WebSocket != c.webSocket || got.Backend != "origin" || string(content) != "client's" || got.Request.Host != "example.com" {
				t.Errorf("got %+v, host %q, body %q", got, got.Request.Host, content)
			}
			// What belongs to the client's connection is put back by the gateway.
			method, uri, keep, upgrade := "GET", "/first?a", "client", "websocket"
			if c.other {
				method, uri, keep, upgrade = "POST", "/sec%2Fond?b", "guest", "h2c"
			}
			r := got.Request
			if r.Method != method || r.RequestURI != uri || r.URL.RequestURI() != uri || r.Header.Get("X-Keep") != keep {
				t.Errorf("got %s %s (%s) %v", r.Method, r.RequestURI, r.URL.RequestURI(), r.Header)
			}
			if r.Header.Get("Upgrade") != upgrade {
				t.Errorf("got %v", r.Header)
			}
		})
	}
}

func TestADynamicBackendHasAllThatWasSaidOfIt(t *testing.T) {
	service := backends(nil)
	inSandboxOf(t, service, func(g *tester) {
		record := g.room(backendRecordBytes)
		text := func(at uint32, s string) {
			address, n := g.put(s)
			g.memory.WriteUint32Le(record+at, address)
			g.memory.WriteUint32Le(record+at+4, n)
		}
		for at := uint32(0); at < backendRecordBytes; at += 4 {
			g.memory.WriteUint32Le(record+at, at)
		}
		for at, s := range map[uint32]string{0: "host.example", 28: "cert.example", 36: "ca", 44: "ECDHE-RSA-AES128-GCM-SHA256", 52: "sni.example", 60: "cert"} {
			text(at, s)
		}
		g.memory.WriteUint32Le(record+20, 2)
		g.memory.WriteUint32Le(record+24, 3)
		key := g.result("secret_store.from_bytes", g.named(nil, "key")...)
		g.memory.WriteUint32Le(record+68, key)
		check := g.room(healthRecordBytes)
		for at := uint32(0); at < healthRecordBytes; at += 4 {
			g.memory.WriteUint32Le(check+at, 0)
		}
		g.memory.WriteUint64Le(check, 5000)
		g.memory.WriteUint32Le(check+40, 204)
		g.memory.WriteUint32Le(record+104, check)
		register := func(want status, name, target string, mask uint32) {
			t.Helper()
			g.want(want, "http_req.register_dynamic_backend", append(g.named(nil, name, target), mask, record)...)
		}
		const all = backendBits - 1 - backendReserved
		register(statusInvalid, "d", "d.example", all|backendReserved)
		register(statusInvalid, "d", "d.example", backendBits)
		register(statusInvalid, "", "d.example", 0)
		register(statusError, "b", "d.example", 0)
		register(statusOK, "d", "d.example", all)
		register(statusError, "d", "d.example", 0)
		register(statusOK, "plain", "[::1]:8080", 0)
		register(statusOK, "bare", "::1", 0)
		register(statusInvalid, "e", "127.0.0.1:8080:22", 0)
		g.memory.WriteUint32Le(record+68, 77)
		register(statusBadHandle, "e", "d.example", backendClientCertificate)
		g.memory.WriteUint32Le(record+20, 4)
		register(statusInvalid, "e", "d.example", backendMinTLS)
		g.memory.WriteUint32Le(record+4, 0)
		register(statusInvalid, "e", "d.example", backendHostOverride)
		g.memory.WriteUint32Le(record+4, 1<<30)
		register(statusInvalid, "e", "d.example", backendHostOverride)
		g.memory.WriteUint32Le(record+104, check+4)
		register(statusBadAlign, "e", "d.example", backendHealthCheck)

		exists := g.named(nil, "d")
		if g.result("backend.exists", exists...) != 1 || g.result("backend.is_dynamic", exists...) != 1 || g.result("backend.is_ssl", exists...) != 1 {
			t.Error("got no dynamic backend")
		}
		if got := g.string("backend.get_host", exists...); got != "d.example" {
			t.Errorf("got host %q", got)
		}
		if got := g.string("backend.get_override_host", exists...); got != "host.example" {
			t.Errorf("got host %q", got)
		}
		for name, want := range map[string]uint32{
			"get_port": 443, "get_connect_timeout_ms": 8, "get_first_byte_timeout_ms": 12, "get_between_bytes_timeout_ms": 16,
			"get_http_keepalive_time": 72, "get_tcp_keepalive_enable": 1, "get_tcp_keepalive_interval": 80, "get_tcp_keepalive_probes": 84,
			"get_tcp_keepalive_time": 88, "get_ssl_min_version": 2, "get_ssl_max_version": 3, "is_healthy": 0,
		} {
			if got := g.result("backend."+name, exists...); got != want {
				t.Errorf("%s: got %d, want %d", name, got, want)
			}
		}
		static := g.named(nil, "b")
		if g.result("backend.is_dynamic", static...) != 0 {
			t.Error("b is not dynamic")
		}
		g.want(statusNone, "backend.get_ssl_min_version", append(static, g.room(4))...)
		g.want(statusInvalid, "backend.get_port", append(g.named(nil, "nobody"), g.room(4))...)
	})
	opened := service.Backends.(*fakeBackends).opened
	if len(opened) != 3 || !opened[0].closed || !opened[1].closed {
		t.Fatalf("got %d backends, want three that were closed with the sandbox", len(opened))
	}
	o := opened[0].options
	if o.Address != "d.example:443" || o.SNI != "sni.example" || o.CertificateHost != "cert.example" || string(o.CA) != "ca" || string(o.ClientKey) != "key" ||
		!o.GRPC || !o.NoPool || !o.PreferIPv4 || o.ConnectionsMax != 92 || o.ConnectionUsesMax != 96 || o.ConnectionAgeMax != 100*time.Millisecond ||
		o.Check == nil || o.Check.Every != 5*time.Second || o.Check.Status != 204 {
		t.Errorf("got %+v", o)
	}
	if opened[1].options.Address != "[::1]:8080" || opened[1].options.TLS {
		t.Errorf("got %+v", opened[1].options)
	}
}

func TestLocallyABackendTellsWhatViceroyTells(t *testing.T) {
	service := backends(nil)
	service.Local = true
	inSandboxOf(t, service, func(g *tester) {
		b := g.named(nil, "b")
		if got := g.result("backend.get_port", b...); got != 443 {
			t.Errorf("got port %d", got)
		}
		for name := range backendCalls {
			switch {
			case strings.Contains(name, "keepalive"):
				if got := g.result("backend."+name, b...); got != 0 {
					t.Errorf("%s: got %d, want 0", name, got)
				}
			case strings.Contains(name, "timeout"), strings.Contains(name, "version"):
				g.want(statusUnsupported, "backend."+name, append(b, g.room(4))...)
			default:
				continue
			}
			g.want(statusInvalid, "backend."+name, append(g.named(nil, "nobody"), g.room(4))...)
		}
	})
}

func TestAFirewallThatIsNotThereAllowsEverything(t *testing.T) {
	outcomeOf(t, nil, clientRequest("GET", "http://x/", ""), func(g *tester) {
		r, b := g.downstream()
		info := g.room(24)
		for i, s := range []string{"corp", "workspace"} {
			at, n := g.put(s)
			g.memory.WriteUint32Le(info+8*uint32(i), at)
			g.memory.WriteUint32Le(info+8*uint32(i)+4, n)
		}
		buffer := g.room(200)
		n := g.result("http_req.inspect", r, b, inspectCorp|inspectWorkspace, info, buffer, 200)
		if got := g.text(buffer, n); !strings.Contains(got, `"verdict":"allow"`) {
			t.Errorf("got %s", got)
		}
		g.want(statusInvalid, "http_req.inspect", r, b, inspectCorp, info, buffer, 200, buffer)
		g.want(statusBufferLen, "http_req.inspect", r, b, inspectCorp|inspectWorkspace, info, buffer, 2, buffer)
		g.respond(200, b, 0)
	})
}

func TestWhoNamesNoHostHasComeToThisMachine(t *testing.T) {
	for _, test := range []struct {
		local netip.AddrPort
		want  string
	}{
		{netip.MustParseAddrPort("192.0.2.1:7999"), "http://192.0.2.1:7999/head?a=b"},
		{netip.AddrPort{}, "http://localhost/head?a=b"},
	} {
		x := clientRequest("GET", "http://example.com/head?a=b", "")
		x.Request.Host, x.Request.RequestURI, x.Request.ProtoMinor = "", "/head?a=b", 0
		x.Client.Local = test.local
		if got := originalURI(x); got != test.want {
			t.Errorf("got %s, want %s", got, test.want)
		}
	}
}
