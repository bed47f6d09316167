package origin_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/origin"
)

// issued is a certificate with what it takes to use and to trust it.
type issued struct {
	tls.Certificate
	roots *x509.CertPool
	file  string // certificate and key as PEM
}

// issue makes a certificate for names and addresses, signed by itself.
func issue(t testing.TB, names ...string) issued {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	pem.Encode(&text, &pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	file := filepath.Join(t.TempDir(), "both.pem")
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(text.Bytes(), text.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(pair.Leaf)
	return issued{pair, roots, file}
}

// newSecureOrigin serves TLS with a certificate; HTTP/2 if h2.
func newSecureOrigin(t testing.TB, config *tls.Config, h2 bool, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = config
	server.EnableHTTP2 = h2
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// terminateTLS takes TLS away for a server without.
func terminateTLS(t *testing.T, to string, cert issued) string {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert.Certificate}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			inner, err := net.Dial("tcp", to)
			if err != nil {
				conn.Close()
				continue
			}
			go func() { io.Copy(inner, conn); inner.Close() }()
			go func() { io.Copy(conn, inner); conn.Close() }()
		}
	}()
	return ln.Addr().String()
}

func TestCertificateMustBeForTheHostThatIsAskedFor(t *testing.T) {
	forName, forAddr := issue(t, "app.example"), issue(t, "127.0.0.1")
	servers := map[string]string{}
	for name, cert := range map[string]issued{"name": forName, "address": forAddr} {
		server := newSecureOrigin(t, &tls.Config{Certificates: []tls.Certificate{cert.Certificate}}, true, func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, r.Host)
		})
		servers[name] = server.Listener.Addr().String()
	}
	roots := x509.NewCertPool()
	roots.AddCert(forName.Leaf)
	roots.AddCert(forAddr.Leaf)
	network := origin.NewNetwork(origin.NetworkOptions{RootCAs: roots})
	for _, c := range []struct {
		name, cert, host string
		target           origin.Target
		ok               bool
	}{
		{"the request's host", "name", "app.example:7999", origin.Target{}, true},
		{"in capitals", "name", "APP.example", origin.Target{}, true},
		{"another host", "name", "evil.example", origin.Target{}, false},
		{"the host again, after another failed", "name", "app.example", origin.Target{}, true},
		{"another host, after one was good", "name", "evil.example", origin.Target{}, false},
		{"the target's host=", "name", "evil.example", origin.Target{Host: "app.example"}, true},
		{"address, not asked for", "address", "app.example", origin.Target{}, false},
		{"address asked for", "address", "127.0.0.1:7999", origin.Target{}, true},
		{"trust_connect_host", "address", "app.example", origin.Target{TrustConnectHost: true}, true},
		{"trust_connect_host, certificate for a name", "name", "app.example", origin.Target{TrustConnectHost: true}, false},
		{"insecure", "name", "evil.example", origin.Target{Insecure: true}, true},
		{"insecure does not count for others", "name", "evil.example", origin.Target{}, false},
		{"no host", "address", "", origin.Target{}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.target.Addr, c.target.TLS = servers[c.cert], true
			pool := newPool(t, origin.Options{Targets: []origin.Target{c.target}, Network: network})
			req := get("/")
			req.Host = c.host
			out, _, err := (&origin.Rules{}).Prepare(req, origin.Call{})
			if err != nil {
				t.Fatal(err)
			}
			response, err := pool.RoundTrip(out)
			if !c.ok {
				if !errors.Is(err, origin.ErrConnect) {
					t.Errorf("RoundTrip = %v, want no connection", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := c.host
			if c.target.Host != "" {
				want = c.target.Host
			}
			if got := readAll(t, response); want != "" && got != want {
				t.Errorf("Host %q, want %q", got, want)
			}
		})
	}
}

func TestUnknownAuthorityIsRefused(t *testing.T) {
	cert := issue(t, "app.example")
	server := newSecureOrigin(t, &tls.Config{Certificates: []tls.Certificate{cert.Certificate}}, true, func(http.ResponseWriter, *http.Request) {})
	pool := newPool(t, origin.Options{Targets: []origin.Target{{Addr: server.Listener.Addr().String(), TLS: true, Host: "app.example"}}})
	_, err := pool.RoundTrip(request(t, t.Context(), "GET", "http://x/", ""))
	var unknown x509.UnknownAuthorityError
	if !errors.Is(err, origin.ErrConnect) || !errors.As(err, &unknown) {
		t.Errorf("RoundTrip = %v, want the authority unknown", err)
	}
}

func TestClientCertificateIsShown(t *testing.T) {
	cert, ours := issue(t, "127.0.0.1"), issue(t, "gateway")
	server := newSecureOrigin(t, &tls.Config{
		Certificates: []tls.Certificate{cert.Certificate}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ours.roots,
	}, true, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.TLS.PeerCertificates[0].DNSNames[0])
	})
	network := origin.NewNetwork(origin.NetworkOptions{RootCAs: cert.roots})
	target := origin.Target{Addr: server.Listener.Addr().String(), TLS: true, TrustConnectHost: true, ClientCert: ours.file}
	for _, key := range []string{"", ours.file} {
		target.ClientKey = key
		pool := newPool(t, origin.Options{Targets: []origin.Target{target}, Network: network})
		response, err := pool.RoundTrip(request(t, t.Context(), "GET", "http://x/", ""))
		if err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, response); got != "gateway" {
			t.Errorf("the origin sees %q", got)
		}
	}
	target.ClientCert, target.ClientKey = "", ""
	pool := newPool(t, origin.Options{Targets: []origin.Target{target}, Network: network})
	if response, err := pool.RoundTrip(request(t, t.Context(), "GET", "http://x/", "")); err == nil {
		t.Errorf("without certificate: answer %q", readAll(t, response))
	}
}

func TestOriginChoosesItsHTTP(t *testing.T) {
	cert := issue(t, "127.0.0.1")
	for _, h2 := range []bool{false, true} {
		var connections atomic.Int32
		config := &tls.Config{Certificates: []tls.Certificate{cert.Certificate}, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			connections.Add(1)
			return nil, nil
		}}
		server := newSecureOrigin(t, config, h2, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if _, there := r.Header["User-Agent"]; there || r.Header.Get("Accept-Encoding") != "" {
				t.Errorf("invented: %v", r.Header)
			}
			w.Header().Set("X-Proto", r.Proto)
			w.Write(body)
		})
		network := origin.NewNetwork(origin.NetworkOptions{RootCAs: cert.roots})
		pool := newPool(t, origin.Options{Targets: []origin.Target{{Addr: server.Listener.Addr().String(), TLS: true, TrustConnectHost: true}}, Network: network})
		for _, kind := range []string{"in memory", "streamed", "chunked", "none"} {
			body := "hello"
			if kind == "none" {
				body = ""
			}
			req := request(t, t.Context(), "POST", "http://x/", body)
			switch kind {
			case "streamed":
				req.GetBody = nil
			case "chunked":
				req.GetBody, req.ContentLength = nil, -1
			}
			counter := &closeCounter{Reader: strings.NewReader(body)}
			if kind == "streamed" || kind == "chunked" {
				req.Body = counter
			}
			response, err := pool.RoundTrip(req)
			if err != nil {
				t.Fatalf("h2 %t, body %s: %v", h2, kind, err)
			}
			want := "HTTP/1.1"
			if h2 {
				want = "HTTP/2.0"
			}
			if got := readAll(t, response); got != body || response.Header.Get("X-Proto") != want {
				t.Errorf("h2 %t, body %s: %q over %s", h2, kind, got, response.Header.Get("X-Proto"))
			}
			if req.Body == counter && counter.closed.Load() == 0 {
				t.Errorf("h2 %t, body %s was not closed", h2, kind)
			}
		}
		if n := connections.Load(); h2 && n != 1 {
			t.Errorf("h2: %d connections, want 1", n)
		}
	}
}

func TestNothingIsSentTwiceOverTLSIfTheOriginMayHaveSeenIt(t *testing.T) {
	cert := issue(t, "127.0.0.1")
	var requests atomic.Int32
	server := newSecureOrigin(t, &tls.Config{Certificates: []tls.Certificate{cert.Certificate}}, false, func(w http.ResponseWriter, r *http.Request) {
		io.ReadAll(r.Body)
		if requests.Add(1) > 1 {
			panic(http.ErrAbortHandler)
		}
	})
	second := newRawOrigin(t, func(r *rawRequest) bool { return ok(r, "second") })
	network := origin.NewNetwork(origin.NetworkOptions{RootCAs: cert.roots})
	pool := newPool(t, origin.Options{Targets: []origin.Target{{Addr: server.Listener.Addr().String(), TLS: true, TrustConnectHost: true}, {Addr: second.addr}}, Network: network})
	for i := range 2 {
		req := request(t, t.Context(), "POST", "http://x/", "hello")
		req.GetBody = nil
		response, err := pool.RoundTrip(req)
		if (err == nil) != (i == 0) {
			t.Fatalf("request %d: RoundTrip = %v", i+1, err)
		}
		if err == nil {
			readAll(t, response)
		} else if errors.Is(err, origin.ErrConnect) {
			t.Errorf("%v: not so", err)
		}
	}
	if requests.Load() != 2 || second.connections() != 0 {
		t.Errorf("%d requests, and %d connections to the next target", requests.Load(), second.connections())
	}
}

func TestClientThatLeavesEndsTheRequestOverTLS(t *testing.T) {
	cert := issue(t, "127.0.0.1")
	heard, gone := make(chan struct{}), make(chan struct{})
	server := newSecureOrigin(t, &tls.Config{Certificates: []tls.Certificate{cert.Certificate}}, true, func(w http.ResponseWriter, r *http.Request) {
		close(heard)
		<-r.Context().Done()
		close(gone)
	})
	network := origin.NewNetwork(origin.NetworkOptions{RootCAs: cert.roots})
	pool := newPool(t, origin.Options{Targets: []origin.Target{{Addr: server.Listener.Addr().String(), TLS: true, TrustConnectHost: true}}, Network: network})
	ctx, leave := context.WithCancel(t.Context())
	go func() { <-heard; leave() }()
	if _, err := pool.RoundTrip(request(t, ctx, "GET", "http://x/", "")); !errors.Is(err, context.Canceled) {
		t.Errorf("RoundTrip = %v, want it canceled", err)
	}
	received(t, gone, "end of the request")
}
