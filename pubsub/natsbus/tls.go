package natsbus

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// TLS is paths of PEM files.
type TLS struct {
	CA       string // authorities the other side's certificate must come from; empty: the system's
	Cert     string // this side's certificate, with those between it and its authority
	Key      string // and its key
	Insecure bool   // to a server: believe any certificate. For trying out.
}

// client is nil if there is nothing to say.
func (t TLS) client() (*tls.Config, error) {
	if t == (TLS{}) {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: t.Insecure}
	return config, t.load("TLS", config, &config.RootCAs)
}

// server is nil if there is nothing to say. With a CA, clients need a certificate.
func (t TLS) server(what string) (*tls.Config, error) {
	if t == (TLS{}) {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if err := t.load(what+" TLS", config, &config.ClientCAs); err != nil {
		return nil, err
	}
	if len(config.Certificates) == 0 {
		return nil, fmt.Errorf("%s TLS: a server needs a certificate and a key", what)
	}
	if t.CA != "" {
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return config, nil
}

func (t TLS) load(what string, config *tls.Config, authorities **x509.CertPool) error {
	if (t.Cert == "") != (t.Key == "") {
		return fmt.Errorf("%s: certificate %q and key %q are needed together", what, t.Cert, t.Key)
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return fmt.Errorf("%s: certificate %q, key %q: %w", what, t.Cert, t.Key, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return fmt.Errorf("%s: CA: %w", what, err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s: CA %q: %w", what, t.CA, errNoCertificate)
		}
		*authorities = pool
	}
	return nil
}

var errNoCertificate = errors.New("no certificate in PEM form in it")
