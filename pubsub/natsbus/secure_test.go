package natsbus_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/gripway/gripway/pubsub/bustest"
	"github.com/gripway/gripway/pubsub/natsbus"
)

func TestAServerElsewhereWithTLS(t *testing.T) {
	files := certificates(t)
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	s := elsewhere(t, &server.Options{TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}, TLS: true})
	if _, err := natsbus.Open(natsbus.Options{URL: s.ClientURL()}); err == nil {
		t.Error("connected to a server whose authority nobody knows")
	}
	from := open(t, natsbus.Options{URL: s.ClientURL(), TLS: natsbus.TLS{CA: files.CA}})
	to := open(t, natsbus.Options{URL: s.ClientURL(), TLS: natsbus.TLS{Insecure: true}})
	r := bustest.Record()
	bustest.Subscribe(t, to, "room", r)
	big := strings.Repeat("x", 300_000) // of many TLS records
	for range 20 {
		bustest.Publish(t, from, "room", big)
		bustest.Publish(t, from, "room", "small")
	}
	for range 20 {
		r.Want(t, big)
		r.Want(t, "small")
	}
}

func TestAListenerWithTLSAsksForCertificates(t *testing.T) {
	files := certificates(t)
	node := open(t, natsbus.Options{Embedded: natsbus.Embedded{Listen: "127.0.0.1:0", TLS: files}})
	url := "tls://" + node.ClientAddr()
	if conn, err := nats.Connect(url, nats.RootCAs(files.CA)); err == nil {
		conn.Close()
		t.Error("connected without a certificate")
	}
	conn, err := nats.Connect(url, nats.RootCAs(files.CA), nats.ClientCert(files.Cert, files.Key))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := bustest.Record()
	bustest.Subscribe(t, node, "room", r)
	if err := conn.Publish("gripway.item.room", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	r.Want(t, "hello")
}

func TestAClusterWithTLS(t *testing.T) {
	files := certificates(t)
	first := open(t, natsbus.Options{Embedded: natsbus.Embedded{ClusterListen: "127.0.0.1:0", ClusterTLS: files}})
	plain := open(t, natsbus.Options{Embedded: natsbus.Embedded{ClusterListen: "127.0.0.1:0", Peers: []string{first.ClusterAddr()}}})
	second := open(t, natsbus.Options{Embedded: natsbus.Embedded{ClusterListen: "127.0.0.1:0", ClusterTLS: files, Peers: []string{first.ClusterAddr()}}})
	eventually(t, "the nodes with TLS see each other", func() bool { return first.Stats().Peers == 1 && second.Stats().Peers == 1 })
	if got := plain.Stats().Peers; got != 0 {
		t.Errorf("the node without TLS sees %d peers, want 0", got)
	}
}

func TestWhoThisNodeIs(t *testing.T) {
	dir := t.TempDir()

	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, _ := user.PublicKey()
	seed, _ := user.Seed()
	nkeyFile := write(t, dir, "user.nk", seed)
	keyed := elsewhere(t, &server.Options{Nkeys: []*server.NkeyUser{{Nkey: public}}})

	sworn, credsFile := swornServer(t, dir)

	for _, c := range []struct {
		why string
		o   natsbus.Options
	}{
		{"nkey", natsbus.Options{URL: keyed.ClientURL(), NKeyFile: nkeyFile}},
		{"creds", natsbus.Options{URL: sworn.ClientURL(), CredsFile: credsFile}},
		{"token", natsbus.Options{URL: elsewhere(t, &server.Options{Authorization: "secret"}).ClientURL(), Token: "secret"}},
		{"user", natsbus.Options{URL: elsewhere(t, &server.Options{Username: "me", Password: "secret"}).ClientURL(), User: "me", Password: "secret"}},
	} {
		t.Run(c.why, func(t *testing.T) {
			if bus, err := natsbus.Open(natsbus.Options{URL: c.o.URL}); err == nil {
				bus.Close()
				t.Error("connected as nobody")
			} else if !errors.Is(err, nats.ErrAuthorization) && !errors.Is(err, nats.ErrNkeysNotSupported) {
				t.Errorf("as nobody: got %v, want %v", err, nats.ErrAuthorization)
			}
			node := open(t, c.o)
			r := bustest.Record()
			bustest.Subscribe(t, node, "room", r)
			bustest.Publish(t, node, "room", "hello")
			r.Want(t, "hello")
		})
	}
}

// swornServer takes users that an account's JWT vouches for.
func swornServer(t *testing.T, dir string) (s *server.Server, credsFile string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	operator, err := nkeys.CreateOperator()
	must(err)
	account, err := nkeys.CreateAccount()
	must(err)
	user, err := nkeys.CreateUser()
	must(err)
	operatorKey, _ := operator.PublicKey()
	accountKey, _ := account.PublicKey()
	userKey, _ := user.PublicKey()

	accountJWT, err := jwt.NewAccountClaims(accountKey).Encode(operator)
	must(err)
	userJWT, err := jwt.NewUserClaims(userKey).Encode(account)
	must(err)
	seed, _ := user.Seed()
	creds, err := jwt.FormatUserConfig(userJWT, seed)
	must(err)

	resolver := new(server.MemAccResolver)
	must(resolver.Store(accountKey, accountJWT))
	s = elsewhere(t, &server.Options{
		TrustedKeys:     []string{operatorKey},
		AccountResolver: resolver,
	})
	return s, write(t, dir, "user.creds", creds)
}

// certificates are for 127.0.0.1, to serve and to be shown by clients.
func certificates(t *testing.T) natsbus.TLS {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certificate := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "test"},
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, certificate, certificate, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := write(t, dir, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return natsbus.TLS{
		CA:   cert,
		Cert: cert,
		Key:  write(t, dir, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})),
	}
}

func write(t *testing.T, dir, name string, content []byte) (path string) {
	t.Helper()
	path = filepath.Join(dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
