package outbound_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/origin"
	"github.com/gripway/gripway/gateway/outbound"
	"github.com/gripway/gripway/guest"
)

// echo answers with the request as it came.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s %s %s\n", r.Method, r.RequestURI, r.Host, body)
	for _, name := range []string{"User-Agent", "Accept-Encoding", "X-A", "Te", "X-Hop"} {
		if values, there := r.Header[name]; there {
			fmt.Fprintf(w, "%s: %s\n", name, strings.Join(values, "|"))
		}
	}
})

func open(t *testing.T, opts outbound.Options, o guest.BackendOptions) guest.Backend {
	t.Helper()
	b, err := outbound.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	if o.Name == "" {
		o.Name = "test"
	}
	backend, err := b.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { backend.Close() })
	return backend
}

func fetch(t *testing.T, b http.RoundTripper, method, target, host string, header http.Header, body string) (*http.Response, string, error) {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	r := &http.Request{Method: method, URL: u, Host: host, Header: header, ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body))}
	if r.Header == nil {
		r.Header = make(http.Header)
	}
	response, err := b.RoundTrip(r)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response, string(text), err
}

func TestWhatABackendMakesOfARequest(t *testing.T) {
	server := httptest.NewServer(echo)
	defer server.Close()
	addr := server.Listener.Addr().String()
	for _, test := range []struct {
		name                 string
		options              guest.BackendOptions
		method, target, host string
		header               http.Header
		body, want           string
	}{
		{"the guest's Host", guest.BackendOptions{}, "GET", "http://authority/a", "guest", nil, "", "GET /a guest \n"},
		{"that of the URL", guest.BackendOptions{}, "GET", "http://authority/a", "", nil, "", "GET /a authority \n"},
		{"that of the backend", guest.BackendOptions{}, "GET", "/a", "", nil, "", "GET /a " + addr + " \n"},
		{"an override", guest.BackendOptions{HostOverride: "over.ride"}, "GET", "http://authority/a", "guest", nil, "", "GET /a over.ride \n"},
		{"a prefix", guest.BackendOptions{PathPrefix: "/api/"}, "GET", "http://x/a?b=c", "", nil, "", "GET /api/a?b=c x \n"},
		{"bytes of the path", guest.BackendOptions{}, "GET", "http://x/a%2Fb//c%20d?e=%zz&f[]", "", nil, "", "GET /a%2Fb//c%20d?e=%zz&f[] x \n"},
		{"two slashes", guest.BackendOptions{}, "GET", "http://x//a/b", "", nil, "", "GET //a/b x \n"},
		{"a body", guest.BackendOptions{}, "PUT", "http://x/", "", nil, "hello", "PUT / x hello\n"},
		{"headers of the hop", guest.BackendOptions{}, "GET", "http://x/", "", http.Header{"Connection": {"X-Hop, close"}, "X-Hop": {"1"}, "Te": {"trailers, x"}, "X-A": {"1", "2"}, "Content-Length": {"7"}}, "",
			"GET / x \nX-A: 1|2\nTe: trailers\n"},
		{"an agent of its own", guest.BackendOptions{}, "GET", "http://x/", "", http.Header{"User-Agent": {"guest"}}, "", "GET / x \nUser-Agent: guest\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.options.Address = addr
			_, got, err := fetch(t, open(t, outbound.Options{}, test.options), test.method, test.target, test.host, test.header, test.body)
			if err != nil || got != test.want {
				t.Errorf("got  %q, %v\nwant %q", got, err, test.want)
			}
		})
	}
}

func TestAnswersAreLeftAlone(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "/elsewhere")
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		w.WriteHeader(302)
		w.Write([]byte("not really gzip"))
	}))
	defer server.Close()
	response, text, err := fetch(t, open(t, outbound.Options{}, guest.BackendOptions{Address: server.Listener.Addr().String()}), "GET", "http://x/", "", nil, "")
	if err != nil || response.StatusCode != 302 || text != "not really gzip" || response.Header.Get("Content-Encoding") != "gzip" || response.Header.Get("X-Hop") != "" {
		t.Errorf("got %v %q, %v", response, text, err)
	}
}

func TestWhatIsNoStatusIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r, _ := http.ReadRequest(bufio.NewReader(conn))
			fmt.Fprintf(conn, "HTTP/1.1 %s Odd\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", strings.TrimPrefix(r.URL.Path, "/"))
			conn.Close()
		}
	}()
	backend := open(t, outbound.Options{}, guest.BackendOptions{Address: l.Addr().String()})
	for status, fine := range map[string]bool{"000": false, "099": false, "200": true, "999": true} {
		response, _, err := fetch(t, backend, "GET", "http://x/"+status, "", nil, "")
		if (err == nil) != fine {
			t.Errorf("%s: got %v, %v", status, response, err)
		}
	}
}

func TestWrongOptionsAreNamed(t *testing.T) {
	b, _ := outbound.New(outbound.Options{})
	defer b.Close()
	for want, o := range map[string]guest.BackendOptions{
		`backend "b": address: address nowhere: missing port in address`:                         {Address: "nowhere"},
		`backend "b": address: port "http" is not a number from 1 to 65535`:                      {Address: "a:http"},
		`backend "b": CA: no certificate in PEM`:                                                 {Address: "a:443", TLS: true, CA: []byte("?")},
		`backend "b": ciphers "ECDHE-NONSENSE": "ECDHE-NONSENSE" is not known`:                   {Address: "a:443", TLS: true, Ciphers: "ECDHE-NONSENSE"},
		`backend "b": ciphers "AES128-SHA:!AES": nothing is left`:                                {Address: "a:443", TLS: true, Ciphers: "AES128-SHA:!AES"},
		`backend "b": the lowest version of TLS is above the highest`:                            {Address: "a:443", TLS: true, TLSMin: tls.VersionTLS13, TLSMax: tls.VersionTLS12},
		`backend "b": path prefix "a b" cannot begin a path`:                                     {Address: "a:80", PathPrefix: "a b"},
		`backend "b": client certificate: tls: failed to find any PEM data in certificate input`: {Address: "a:80", TLS: true, ClientCert: []byte("x"), ClientKey: []byte("y")},
	} {
		o.Name = "b"
		if _, err := b.Open(o); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	_, err := outbound.New(outbound.Options{Static: []guest.BackendOptions{{Name: "a", Address: "a:1"}, {Name: "a", Address: "b:1"}, {Name: "c", Address: "c"}}})
	if err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("got %v, want two errors", err)
	}
}

func TestTLSOptions(t *testing.T) {
	var seen atomic.Pointer[tls.ConnectionState]
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { seen.Store(r.TLS) }))
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
	server.Config.ErrorLog = nil
	server.StartTLS()
	defer server.Close()
	addr := server.Listener.Addr().String()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	key, _ := x509.MarshalPKCS8PrivateKey(server.TLS.Certificates[0].PrivateKey)
	clientKey := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})

	for _, test := range []struct {
		name    string
		options guest.BackendOptions
		check   func(s *tls.ConnectionState) bool
		refused string
	}{
		{"its own authority, by address", guest.BackendOptions{CA: ca}, func(s *tls.ConnectionState) bool { return s.ServerName == "" && s.NegotiatedProtocol == "h2" }, ""},
		{"another authority", guest.BackendOptions{}, nil, "certificate"},
		{"the name of the certificate", guest.BackendOptions{CA: ca, CertificateHost: "example.com"}, func(s *tls.ConnectionState) bool { return s.ServerName == "example.com" }, ""},
		{"another name", guest.BackendOptions{CA: ca, CertificateHost: "other.test"}, nil, "other.test"},
		{"a name to ask for that is not checked", guest.BackendOptions{CA: ca, CertificateHost: "example.com", SNI: "sni.test"}, func(s *tls.ConnectionState) bool { return s.ServerName == "sni.test" }, ""},
		{"a name to ask for, and a wrong one to check", guest.BackendOptions{CA: ca, CertificateHost: "other.test", SNI: "example.com"}, nil, "other.test"},
		{"no name", guest.BackendOptions{CA: ca, CertificateHost: "example.com", NoSNI: true}, func(s *tls.ConnectionState) bool { return s.ServerName == "" }, ""},
		{"at most 1.2", guest.BackendOptions{CA: ca, TLSMax: tls.VersionTLS12}, func(s *tls.ConnectionState) bool { return s.Version == tls.VersionTLS12 }, ""},
		{"at most 1.1", guest.BackendOptions{CA: ca, TLSMax: tls.VersionTLS11}, nil, "protocol version"},
		{"a cipher", guest.BackendOptions{CA: ca, TLSMax: tls.VersionTLS12, Ciphers: "ECDHE-RSA-AES256-GCM-SHA384"}, func(s *tls.ConnectionState) bool { return s.CipherSuite == tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 }, ""},
		{"ciphers by words", guest.BackendOptions{CA: ca, TLSMax: tls.VersionTLS12, Ciphers: "ECDHE+CHACHA20:!aNULL:@STRENGTH"}, func(s *tls.ConnectionState) bool {
			return s.CipherSuite == tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
		}, ""},
		{"who we are", guest.BackendOptions{CA: ca, ClientCert: ca, ClientKey: clientKey}, func(s *tls.ConnectionState) bool { return len(s.PeerCertificates) == 1 }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.options.Address, test.options.TLS = addr, true
			_, _, err := fetch(t, open(t, outbound.Options{}, test.options), "GET", "http://x/", "", nil, "")
			switch {
			case test.refused == "" && err != nil:
				t.Error(err)
			case test.refused == "" && !test.check(seen.Load()):
				t.Errorf("got %+v", seen.Load())
			case test.refused != "" && (err == nil || !strings.Contains(err.Error(), test.refused)):
				t.Errorf("got %v, want %s", err, test.refused)
			}
		})
	}
}

func TestTimeouts(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/late" {
			<-release
			return
		}
		io.WriteString(w, "first")
		w.(http.Flusher).Flush()
		<-release
	}))
	defer server.Close()
	defer close(release)
	o := guest.BackendOptions{Address: server.Listener.Addr().String(), FirstByteTimeout: 50 * time.Millisecond, BetweenBytesTimeout: 50 * time.Millisecond}
	b := open(t, outbound.Options{}, o)
	_, _, err := fetch(t, b, "GET", "http://x/late", "", nil, "")
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("first byte: got %v", err)
	}
	_, text, err := fetch(t, b, "GET", "http://x/stops", "", nil, "")
	if text != "first" || !errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), "no byte for 50ms") {
		t.Errorf("between bytes: got %q, %v", text, err)
	}
	// A connection that nobody accepts: the backlog of a listener is full, or the
	// address does not exist.
	b = open(t, outbound.Options{}, guest.BackendOptions{Address: "192.0.2.1:81", ConnectTimeout: 30 * time.Millisecond})
	if _, _, err = fetch(t, b, "GET", "http://x/", "", nil, ""); err == nil {
		t.Error("connected to nowhere")
	}
}

func TestConnections(t *testing.T) {
	var made atomic.Int32
	server := httptest.NewUnstartedServer(echo)
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			made.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	for _, test := range []struct {
		name    string
		options guest.BackendOptions
		want    func(n int32) bool
	}{
		{"one for all", guest.BackendOptions{}, func(n int32) bool { return n == 1 }},
		{"one for each", guest.BackendOptions{NoPool: true}, func(n int32) bool { return n == 6 }},
		{"none is kept", guest.BackendOptions{KeepAlive: -1}, func(n int32) bool { return n == 6 }},
		{"two requests over each", guest.BackendOptions{ConnectionUsesMax: 2}, func(n int32) bool { return n >= 3 }},
		{"none is young enough", guest.BackendOptions{ConnectionAgeMax: time.Nanosecond}, func(n int32) bool { return n >= 5 }},
		{"IPv4", guest.BackendOptions{PreferIPv4: true}, func(n int32) bool { return n == 1 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			made.Store(0)
			b, err := outbound.New(outbound.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			test.options.Address = server.Listener.Addr().String()
			for i := range 6 {
				// Each sandbox makes its own, of another name.
				test.options.Name = fmt.Sprint("b", i)
				backend, err := b.Open(test.options)
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err := fetch(t, backend, "GET", "http://x/", "", nil, ""); err != nil {
					t.Fatal(err)
				}
				backend.Close()
				time.Sleep(5 * time.Millisecond) // until the connection is idle again: nobody tells
			}
			if got := made.Load(); !test.want(got) {
				t.Errorf("%d connections for 6 requests", got)
			}
		})
	}
}

func TestGuestsMayBeKeptFromPrivateAddresses(t *testing.T) {
	server := httptest.NewServer(echo)
	defer server.Close()
	o := guest.BackendOptions{Name: "static", Address: server.Listener.Addr().String()}
	b, err := outbound.New(outbound.Options{DenyPrivate: true, Static: []guest.BackendOptions{o}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, _, err := fetch(t, b.Lookup("static"), "GET", "http://x/", "", nil, ""); err != nil {
		t.Errorf("static: %v", err)
	}
	dynamic, err := b.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer dynamic.Close()
	if _, _, err := fetch(t, dynamic, "GET", "http://x/", "", nil, ""); !errors.Is(err, origin.ErrBlocked) {
		t.Errorf("dynamic: got %v", err)
	}
}

func TestWhatIsInsideDoesNotLeave(t *testing.T) {
	b := open(t, outbound.Options{Inside: func(o *guest.BackendOptions, r *http.Request) http.RoundTripper {
		if o.Address != "api.test:443" {
			return nil
		}
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(r.Host + r.RequestURI))}, nil
		})
	}}, guest.BackendOptions{Address: "api.test:443", TLS: true, PathPrefix: "/v1"})
	if _, got, err := fetch(t, b, "POST", "http://x/publish/?a", "", nil, ""); got != "x/v1/publish/?a" {
		t.Errorf("got %q, %v", got, err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestHealth(t *testing.T) {
	var sick atomic.Bool
	var mu sync.Mutex
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.Method+" "+r.URL.Path+" "+r.Host)
		mu.Unlock()
		if sick.Load() {
			w.WriteHeader(500)
		}
	}))
	defer server.Close()
	o := guest.BackendOptions{Address: server.Listener.Addr().String()}
	if got := open(t, outbound.Options{}, o).Health(); got != guest.HealthUnknown {
		t.Errorf("without check: got %v", got)
	}
	o.Health = guest.HealthUnhealthy
	if got := open(t, outbound.Options{}, o).Health(); got != guest.HealthUnhealthy {
		t.Errorf("said: got %v", got)
	}
	o.Health, o.Check = 0, &guest.HealthCheck{Every: time.Second, Path: "/health", Host: "check.test", Window: 1, Threshold: 1, Initial: 1}
	b := open(t, outbound.Options{}, o)
	if got := b.Health(); got != guest.HealthHealthy {
		t.Errorf("at first: got %v", got)
	}
	sick.Store(true)
	for deadline := time.Now().Add(20 * time.Second); b.Health() != guest.HealthUnhealthy; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("still healthy")
		}
	}
	mu.Lock()
	before := len(asked)
	if asked[0] != "HEAD /health check.test" {
		t.Errorf("asked %q", asked)
	}
	mu.Unlock()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://a/of-a-guest", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if response, err := b.RoundTrip(r); !errors.Is(err, guest.ErrUnhealthy) {
		t.Errorf("sick: got %v, %v", response, err)
	}
	sick.Store(false)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		response, err := b.RoundTrip(r)
		if err == nil {
			response.Body.Close()
			break
		}
		if !errors.Is(err, guest.ErrUnhealthy) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if n := strings.Count(strings.Join(asked[before:], "\n"), "/of-a-guest"); n != 1 {
		t.Errorf("%d requests were sent, want the last one: %q", n, asked[before:])
	}
}

func TestNobodyAsksHowABackendIsThatNoGuestHas(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer server.Close()
	b, err := outbound.New(outbound.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	b.SetLinger(10 * time.Millisecond)
	backend, err := b.Open(guest.BackendOptions{
		Name: "test", Address: server.Listener.Addr().String(), Check: &guest.HealthCheck{Every: time.Second},
	})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); asked.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody asked")
		}
	}
	backend.Close()
	for deadline := time.Now().Add(20 * time.Second); b.Ways() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the backend is still asked how it is, and nobody has it")
		}
	}
	n := asked.Load()
	time.Sleep(1200 * time.Millisecond) // longer than it is between two questions
	if got := asked.Load(); got > n+1 { // one may have been under way
		t.Errorf("got %d questions after the backend was gone", got-n)
	}
}

func TestAnUpgradeIsTheCallers(t *testing.T) {
	for _, secure := range []bool{false, true} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			nc, rw, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer nc.Close()
			io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello\n")
			line, _ := rw.ReadString('\n')
			io.WriteString(nc, "you said "+line)
		}))
		o := guest.BackendOptions{TLS: secure}
		if secure {
			server.EnableHTTP2 = true
			server.StartTLS()
			o.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
		} else {
			server.Start()
		}
		defer server.Close()
		o.Address = server.Listener.Addr().String()
		u, _ := url.Parse("http://x/chat")
		response, err := open(t, outbound.Options{}, o).RoundTrip(&http.Request{Method: "GET", URL: u, Header: http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Key": {"x"},
		}})
		if err != nil {
			t.Fatal(err)
		}
		conn, ok := response.Body.(io.ReadWriteCloser)
		if !ok || response.StatusCode != 101 {
			t.Fatalf("got %d, %T", response.StatusCode, response.Body)
		}
		lines := bufio.NewReader(conn)
		if line, err := lines.ReadString('\n'); line != "hello\n" {
			t.Errorf("got %q, %v", line, err)
		}
		io.WriteString(conn, "hi\n")
		if line, err := lines.ReadString('\n'); line != "you said hi\n" {
			t.Errorf("got %q, %v", line, err)
		}
		conn.Close()
	}
}
