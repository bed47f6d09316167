package compute

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/guest"
	"github.com/gripway/gripway/guest/guesttest"
)

// overNetwork is a service whose backend is a transport of net/http that goes to an
// address.
func overNetwork(t *testing.T, url string, transport *http.Transport) *Service {
	t.Helper()
	t.Cleanup(transport.CloseIdleConnections)
	return backends(func(r *http.Request) (*http.Response, error) {
		out := r.WithContext(r.Context()) // its trailer is that of r: a clone would miss what comes
		out.RequestURI = ""
		to := *r.URL
		to.Scheme, to.Host, _ = strings.Cut(url, "://")
		out.URL = &to
		return transport.RoundTrip(out)
	})
}

// tell is a server that reads a request's head and says what it likes.
func tell(t *testing.T, answer string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 4096))
			io.WriteString(c, answer)
			c.Close()
		}
	}()
	return "http://" + l.Addr().String()
}

// What net/http really returns, of which much is only a text.
func TestErrorsOfTheNetworkAreToldApart(t *testing.T) {
	refused, _ := net.Listen("tcp", "127.0.0.1:0")
	refused.Close()
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer slow.Close()
	abort := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	self := httptest.NewTLSServer(abort)
	defer self.Close()
	h2 := httptest.NewUnstartedServer(abort)
	h2.EnableHTTP2 = true
	h2.StartTLS()
	defer h2.Close()
	picky := httptest.NewUnstartedServer(abort)
	picky.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}
	picky.StartTLS()
	defer picky.Close()
	plain := httptest.NewServer(abort)
	defer plain.Close()

	trusting := &tls.Config{InsecureSkipVerify: true}
	for _, c := range []struct {
		name      string
		url       string
		transport *http.Transport
		tag       uint32
		status    status
		octets    [2]byte // TLS alert, or type of frame; with its code
	}{
		{"refused", "http://" + refused.Addr().String(), &http.Transport{}, detailConnectionRefused, statusError, [2]byte{}},
		{"no such host", "http://nobody.invalid", &http.Transport{}, detailDNSError, statusError, [2]byte{}},
		{"no first byte", slow.URL, &http.Transport{ResponseHeaderTimeout: 10 * time.Millisecond}, detailResponseTimeout, statusError, [2]byte{}},
		{"unknown authority", self.URL, &http.Transport{}, detailCertificate, statusError, [2]byte{}},
		{"alert", picky.URL, &http.Transport{TLSClientConfig: trusting}, detailTLSAlert, statusError, [2]byte{40}},
		{"TLS to who does not speak it", strings.Replace(plain.URL, "http:", "https:", 1), &http.Transport{TLSClientConfig: trusting}, detailTLSProtocol, statusError, [2]byte{}},
		{"stream reset", h2.URL, &http.Transport{TLSClientConfig: trusting, ForceAttemptHTTP2: true}, detailHTTP2, statusError, [2]byte{frameReset, 2}},
		{"closed", tell(t, ""), &http.Transport{}, detailTerminated, statusIncomplete, [2]byte{}},
		{"half a head", tell(t, "HTTP/1.1 200 OK\r\nX-A: b"), &http.Transport{}, detailIncomplete, statusIncomplete, [2]byte{}},
		{"not HTTP", tell(t, "SSH-2.0-x\r\n\r\n"), &http.Transport{}, detailStatusInvalid, statusHTTPInvalid, [2]byte{}},
		{"no status", tell(t, "HTTP/1.1 abc OK\r\n\r\n"), &http.Transport{}, detailStatusInvalid, statusHTTPInvalid, [2]byte{}},
		{"a header that is none", tell(t, "HTTP/1.1 200 OK\r\nbad header\r\n\r\n"), &http.Transport{}, detailProtocol, statusHTTPInvalid, [2]byte{}},
		{"head too large", tell(t, "HTTP/1.1 200 OK\r\nX-A: "+strings.Repeat("x", 9000)+"\r\n\r\n"), &http.Transport{MaxResponseHeaderBytes: 4096}, detailHeadTooLarge, statusHeadTooLarge, [2]byte{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inSandboxOf(t, overNetwork(t, c.url, c.transport), func(g *tester) {
				detail, out := g.room(detailBytes), g.room(8)
				g.memory.WriteUint32Le(detail+4, ^uint32(0))
				st := g.call("http_req.send_v2", append(g.send(g.request("GET", "http://x/"), g.bodyOf(""), "b"), detail, out, out+4)...)
				record, _ := g.memory.Read(detail, detailBytes)
				got := [2]byte{record[12] + record[13], record[16]}
				if st != c.status || g.get32(detail) != c.tag || got != c.octets {
					t.Errorf("got status %d, tag %d, %v, want %d, %d, %v", st, g.get32(detail), got, c.status, c.tag, c.octets)
				}
			})
		})
	}
}

func TestTrailersAndBrokenAnswersOfARealBackend(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, err := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%s %v %s", content, err, r.Trailer.Get("X-T"))
		if r.URL.Path == "/broken" {
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("X-Sum", "7")
	}))
	defer server.Close()
	service := overNetwork(t, server.URL, &http.Transport{})
	inSandboxOf(t, service, func(g *tester) {
		body := g.bodyOf("one ")
		p := g.result("http_req.send_async_streaming", g.send(g.request("POST", "http://x/whole"), body, "b")...)
		g.write(body, "two")
		g.must("http_body.trailer_append", g.named([]uint32{body}, "x-t", "end")...)
		g.must("http_body.close", body)
		out := g.room(8)
		g.must("http_req.pending_req_wait", p, out, out+4)
		answer := g.get32(out + 4)
		g.want(statusAgain, "http_body.trailer_names_get", answer, out, 8, 0, out, out)
		if got, st := g.read(answer); got != "one two <nil> end" || st != statusOK {
			t.Errorf("got %q, %d", got, st)
		}
		if got := g.fields("http_body.trailer_values_get", 64, g.named([]uint32{answer}, "X-Sum")...); !slices.Equal(got, []string{"7"}) {
			t.Errorf("got trailer %q", got)
		}
		g.must("http_req.send", append(g.send(g.request("GET", "http://x/broken"), g.bodyOf(""), "b"), out, out+4)...)
		if got, st := g.read(g.get32(out + 4)); st != statusIncomplete {
			t.Errorf("got %q, status %d of half an answer, want %d", got, st, statusIncomplete)
		}
	})
}

func TestWhoAnsweredIsToldOfWhatNoCacheHas(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	port := uint16(server.Listener.Addr().(*net.TCPAddr).Port)
	inSandboxOf(t, overNetwork(t, server.URL, &http.Transport{}), func(g *tester) {
		g.b.wantsAddresses = true // as if the guest imported the calls
		for _, c := range []struct {
			call string
			pass uint32
			want status
		}{
			{"send_v2", 0, statusNone}, {"send_v2", overridePass, statusOK}, {"send_v3", 0, statusOK},
		} {
			r := g.request("GET", "http://x/")
			g.must("http_req.cache_override_set", r, c.pass, 0, 0)
			out := g.room(8)
			g.must("http_req."+c.call, append(g.send(r, g.bodyOf(""), "b"), 0, out, out+4)...)
			at := g.room(16)
			g.want(c.want, "http_resp.get_addr_dest_port", g.get32(out), at)
			if got, _ := g.memory.ReadUint16Le(at); c.want == statusOK && got != port {
				t.Errorf("got port %d, want %d", got, port)
			}
			g.want(c.want, "http_resp.get_addr_dest_ip", g.get32(out), at, at+8)
			if c.want == statusOK && (g.get32(at+8) != 4 || g.text(at, 4) != "\x7f\x00\x00\x01") {
				t.Errorf("got address %q", g.text(at, 4))
			}
		}
	})
}

func TestARequestThatIsBrokenOffIsNotWhole(t *testing.T) {
	seen := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		seen <- err
	}))
	defer server.Close()
	inSandboxOf(t, overNetwork(t, server.URL, &http.Transport{}), func(g *tester) {
		body := g.bodyOf("half")
		p := g.result("http_req.send_async_streaming", g.send(g.request("POST", "http://x/"), body, "b")...)
		g.must("http_body.abandon", body)
		out := g.room(8)
		if st := g.call("http_req.pending_req_wait", p, out, out+4); st == statusOK {
			t.Error("got an answer")
		}
	})
	select {
	case err := <-seen:
		if err == nil {
			t.Error("the backend took it for whole")
		}
	case <-time.After(time.Minute): // nothing was sent: that is right as well
	}
}

// A guest written by hand, with the names of SDKs before 2021, through wazero.
func TestOldNamesAreTheSameFunctions(t *testing.T) {
	runtime, err := guest.NewRuntime(guest.RuntimeOptions{ABIs: []guest.ABI{ABI{}}})
	if err != nil {
		t.Fatal(err)
	}
	defer runtime.Close()
	program, err := runtime.Load(t.Context(), guesttest.WAT(t, `(module
		(import "env" "xqd_req_body_downstream_get" (func $request (param i32 i32) (result i32)))
		(import "env" "xqd_resp_new" (func $new (param i32) (result i32)))
		(import "env" "xqd_resp_status_set" (func $status (param i32 i32) (result i32)))
		(import "fastly_http_resp" "send_downstream" (func $send (param i32 i32 i32) (result i32)))
		(import "fastly_uap" "parse" (func $parse (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
		(memory (export "memory") 1)
		(func (export "_start")
			(drop (call $request (i32.const 0) (i32.const 4)))
			(drop (call $new (i32.const 8)))
			(drop (call $status (i32.load (i32.const 8))
				(i32.add (i32.const 200) (call $parse (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
					(i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)))))
			(drop (call $send (i32.load (i32.const 8)) (i32.load (i32.const 4)) (i32.const 0)))))`),
		guest.LoadOptions{Name: "old", Service: &Service{}})
	if err != nil {
		t.Fatal(err)
	}
	response, content, err := get(t.Context(), program, clientRequest("POST", "http://x/", "echo"))
	if err != nil || content != "echo" || response.StatusCode != 200+int(statusUnsupported) {
		t.Errorf("got %v, %q, %v, want 205 and echo", response, content, err)
	}
}

func TestAGuestThatIsDoneLetsGoOfFurtherRequests(t *testing.T) {
	x := clientRequest("GET", "http://x/", "")
	_, _, err := outcomeOf(t, nil, x, func(g *tester) {
		g.downstream()
		options := g.room(8)
		g.memory.WriteUint64Le(options, 1)
		g.want(statusInvalid, "http_downstream.next_request", 4, options, options)
		p := g.result("http_downstream.next_request", nextTimeout, options)
		g.want(statusLimit, "http_downstream.next_request", nextTimeout, options, options)
		g.want(statusUnsupported, "http_downstream.next_request_wait", p, options, options)
		g.must("http_downstream.next_request_abandon", p)
		g.want(statusBadHandle, "http_downstream.next_request_abandon", p)
		p = g.result("http_downstream.next_request", nextTimeout, options)
		g.respond(200, g.bodyOf(""), 0)
		g.want(statusNone, "http_downstream.next_request_wait", p, options, options) // nobody asks within a millisecond
	})
	if err != nil && !errors.Is(err, guest.ErrUndecided) {
		t.Error(err)
	}
}
