package wire_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/wire"
)

func certificateFor(t *testing.T, name string, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: until.Add(-time.Hour), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func TestTheNameThatAClientAsksForChoosesItsCertificate(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	var certificates wire.Certificates
	if got := certificates.Expires(); !got.IsZero() {
		t.Errorf("without any: expires %v", got)
	}
	config := certificates.Config()
	shown := func(name string) string {
		t.Helper()
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		go tls.Server(a, config).Handshake() // the client sees whether it fails
		client := tls.Client(b, &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err := client.Handshake(); err != nil {
			t.Fatal(err)
		}
		return client.ConnectionState().PeerCertificates[0].DNSNames[0]
	}
	certificates.Set([]tls.Certificate{certificateFor(t, "a.test", now.Add(3*time.Hour)), certificateFor(t, "b.test", now.Add(2*time.Hour))})
	for name, want := range map[string]string{"a.test": "a.test", "b.test": "b.test", "c.test": "a.test", "": "a.test"} {
		if got := shown(name); got != want {
			t.Errorf("%q sees the certificate of %s, want %s", name, got, want)
		}
	}
	if got := certificates.Expires(); !got.Equal(now.Add(2 * time.Hour)) {
		t.Errorf("expires %v, want the earlier end", got)
	}
	certificates.Set([]tls.Certificate{certificateFor(t, "c.test", now.Add(time.Hour))})
	if got := shown("a.test"); got != "c.test" {
		t.Errorf("after a change: %s", got)
	}
}
