package integration

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gripway/gripway/integration/harness"
)

// certificatePatience is how long a change of files may take to be seen on a busy machine.
const certificatePatience = 30 * time.Second

// TestCertificatesAreReplacedWithoutDroppingAnyone has the files of a certificate change
// under a client that is held, and the private API over TLS beside it.
func TestCertificatesAreReplacedWithoutDroppingAnyone(t *testing.T) {
	binary, peer, err := program()
	if err != nil {
		t.Fatal(err)
	}
	if peer {
		t.Skip("the peer has no TLS of its own")
	}
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	renew := func() *harness.Certificate {
		t.Helper()
		c, err := harness.NewCertificate()
		if err == nil {
			err = errors.Join(os.WriteFile(cert, c.CertPEM, 0o600), os.WriteFile(key, c.KeyPEM, 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := renew()
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", "room")
		io.WriteString(w, "hello\n")
	}))
	defer origin.Close()
	var ports [2]int
	for i := range ports {
		if ports[i], err = harness.FreePort(); err != nil {
			t.Fatal(err)
		}
	}
	clients, private := fmt.Sprintf("localhost:%d", ports[0]), fmt.Sprintf("localhost:%d", ports[1])
	gateway, err := harness.StartGateway(harness.GatewayOptions{
		Program: binary, Routes: []string{"* " + origin.Listener.Addr().String()}, Dir: dir,
		Flags: []string{"--listen-tls", clients, "--control-listen-tls", private, "--tls-cert", cert, "--tls-key", key},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer gateway.Close()

	// get asks with a connection of its own, trusting one certificate.
	get := func(c *harness.Certificate, method, url, body string) (*http.Response, error) {
		transport := &http.Transport{TLSClientConfig: c.ClientConfig(), ForceAttemptHTTP2: true}
		request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		return transport.RoundTrip(request)
	}
	held, err := get(first, http.MethodGet, "https://"+clients+"/", "")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Body.Close()
	next := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(held.Body, got); err != nil || string(got) != want {
			t.Fatalf("the held client got %q, %v; want %q", got, err, want)
		}
	}
	next("hello\n")
	publish := func(c *harness.Certificate, text string) {
		t.Helper()
		response, err := get(c, http.MethodPost, "https://"+private+"/publish/", fmt.Sprintf(`{"items":[{"channel":"room","http-stream":{"content":%q}}]}`, text))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK || response.ProtoMajor != 2 {
			t.Fatalf("publish: %s by %s", response.Status, response.Proto)
		}
		next(text)
	}
	publish(first, "one\n")

	// Half a renewal: the key is another's. What there was stays.
	second, err := harness.NewCertificate()
	if err == nil {
		err = os.WriteFile(cert, second.CertPEM, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gateway.WaitLog(regexp.MustCompile("certificates not loaded: what there was stays"), certificatePatience); err != nil {
		t.Fatal(err)
	}
	publish(first, "two\n")
	if err := os.WriteFile(key, second.KeyPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := gateway.WaitLog(regexp.MustCompile("certificates loaded"), certificatePatience); err != nil {
		t.Fatal(err)
	}
	publish(second, "three\n")
	if _, err := get(first, http.MethodGet, "https://"+clients+"/", ""); !errors.As(err, new(*tls.CertificateVerificationError)) {
		t.Errorf("who trusts the first certificate only: %v", err)
	}

	// At once, and for whoever renews in place.
	third := renew()
	if err := gateway.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(certificatePatience); ; time.Sleep(20 * time.Millisecond) {
		response, err := get(third, http.MethodGet, "https://"+private+"/metrics", "")
		if err == nil {
			text, err := io.ReadAll(response.Body)
			response.Body.Close()
			expires := regexp.MustCompile(`(?m)^gripway_tls_certificate_expires_timestamp_seconds (\S+)$`).FindSubmatch(text)
			var at float64
			if err == nil && expires != nil {
				fmt.Sscan(string(expires[1]), &at)
			}
			if got := time.Unix(int64(at), 0).Sub(third.TLS.Leaf.NotAfter).Abs(); got > time.Second {
				t.Errorf("the metric of the end is off by %v", got)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	publish(third, "four\n")
}
