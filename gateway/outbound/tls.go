package outbound

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gripway/gripway/guest"
)

// tlsSessionsMax is how many TLS sessions with one backend can be resumed.
const tlsSessionsMax = 64

// tlsConfig is nil for a backend without TLS.
func tlsConfig(o *guest.BackendOptions, host string) (*tls.Config, error) {
	if !o.TLS {
		return nil, nil
	}
	certificateHost := cmp.Or(o.CertificateHost, host)
	config := &tls.Config{
		ServerName: cmp.Or(o.SNI, certificateHost),
		MinVersion: o.TLSMin, MaxVersion: o.TLSMax,
		ClientSessionCache: tls.NewLRUClientSessionCache(tlsSessionsMax),
	}
	if config.MinVersion == 0 && config.MaxVersion != 0 {
		config.MinVersion = min(config.MaxVersion, tls.VersionTLS12)
	}
	if o.NoSNI {
		config.ServerName = "0.0.0.0" // an address is not asked for by name (RFC 6066, section 3)
	}
	if o.CA != nil {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(o.CA) {
			return nil, errors.New("CA: no certificate in PEM")
		}
	}
	if len(o.ClientCert) > 0 || len(o.ClientKey) > 0 {
		certificate, err := tls.X509KeyPair(o.ClientCert, o.ClientKey)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{certificate}
	}
	if o.Ciphers != "" {
		suites, err := cipherSuites(o.Ciphers)
		if err != nil {
			return nil, fmt.Errorf("ciphers %q: %w", o.Ciphers, err)
		}
		config.CipherSuites = suites
	}
	if config.ServerName != certificateHost {
		// The name that is asked for is not the one to be checked.
		config.InsecureSkipVerify = true
		config.VerifyConnection = func(state tls.ConnectionState) error {
			check := x509.VerifyOptions{DNSName: certificateHost, Roots: config.RootCAs, Intermediates: x509.NewCertPool()}
			for _, c := range state.PeerCertificates[1:] {
				check.Intermediates.AddCert(c)
			}
			if _, err := state.PeerCertificates[0].Verify(check); err != nil {
				return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
			}
			return nil
		}
	}
	return config, nil
}

// suite is a cipher suite as OpenSSL calls it, and by which words it is found in a
// list of ciphers. Those of TLS 1.3 are always there: Go does not let one choose.
type suite struct {
	id    uint16
	name  string
	words string
}

var suites = []suite{
	{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE EECDH kECDHE kEECDH ECDSA aECDSA AES AES256 AESGCM HIGH SHA384 TLSv1.2"},
	{tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE EECDH kECDHE kEECDH aRSA AES AES256 AESGCM HIGH SHA384 TLSv1.2"},
	{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE EECDH kECDHE kEECDH ECDSA aECDSA CHACHA20 HIGH SHA256 TLSv1.2"},
	{tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-RSA-CHACHA20-POLY1305", "ECDHE EECDH kECDHE kEECDH aRSA CHACHA20 HIGH SHA256 TLSv1.2"},
	{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE EECDH kECDHE kEECDH ECDSA aECDSA AES AES128 AESGCM HIGH SHA256 TLSv1.2"},
	{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE EECDH kECDHE kEECDH aRSA AES AES128 AESGCM HIGH SHA256 TLSv1.2"},
	{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256, "ECDHE-ECDSA-AES128-SHA256", "ECDHE EECDH kECDHE kEECDH ECDSA aECDSA AES AES128 HIGH SHA256 TLSv1.2"},
	{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256, "ECDHE-RSA-AES128-SHA256", "ECDHE EECDH kECDHE kEECDH aRSA AES AES128 HIGH SHA256 TLSv1.2"},
	{tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, "ECDHE-ECDSA-AES256-SHA", "ECDHE EECDH kECDHE kEECDH ECDSA aECDSA AES AES256 HIGH SHA SHA1 TLSv1"},
	{tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA, "ECDHE-RSA-AES256-SHA", "ECDHE EECDH kECDHE kEECDH aRSA AES AES256 HIGH SHA SHA1 TLSv1"},
	{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, "ECDHE-ECDSA-AES128-SHA", "ECDHE EECDH kECDHE kEECDH ECDSA aECDSA AES AES128 HIGH SHA SHA1 TLSv1"},
	{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, "ECDHE-RSA-AES128-SHA", "ECDHE EECDH kECDHE kEECDH aRSA AES AES128 HIGH SHA SHA1 TLSv1"},
	{tls.TLS_RSA_WITH_AES_256_GCM_SHA384, "AES256-GCM-SHA384", "RSA kRSA aRSA AES AES256 AESGCM HIGH SHA384 TLSv1.2"},
	{tls.TLS_RSA_WITH_AES_128_GCM_SHA256, "AES128-GCM-SHA256", "RSA kRSA aRSA AES AES128 AESGCM HIGH SHA256 TLSv1.2"},
	{tls.TLS_RSA_WITH_AES_128_CBC_SHA256, "AES128-SHA256", "RSA kRSA aRSA AES AES128 HIGH SHA256 TLSv1.2"},
	{tls.TLS_RSA_WITH_AES_256_CBC_SHA, "AES256-SHA", "RSA kRSA aRSA AES AES256 HIGH SHA SHA1 SSLv3"},
	{tls.TLS_RSA_WITH_AES_128_CBC_SHA, "AES128-SHA", "RSA kRSA aRSA AES AES128 HIGH SHA SHA1 SSLv3"},
	{tls.TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA, "ECDHE-RSA-DES-CBC3-SHA", "ECDHE EECDH kECDHE kEECDH aRSA 3DES MEDIUM SHA SHA1 TLSv1"},
	{tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA, "DES-CBC3-SHA", "RSA kRSA aRSA 3DES MEDIUM SHA SHA1 SSLv3"},
}

// has says whether a word of a cipher list means the suite; words joined by "+"
// all have to.
func (s *suite) has(words string) bool {
	if words == s.name || words == "ALL" || words == "COMPLEMENTOFDEFAULT" && strings.Contains(s.words, "3DES") {
		return true
	}
	if words == "DEFAULT" {
		return !strings.Contains(s.words, "3DES")
	}
	own := strings.Fields(s.words)
	for word := range strings.SplitSeq(words, "+") {
		if !slices.Contains(own, word) {
			return false
		}
	}
	return true
}

// cipherSuites reads a list of ciphers as OpenSSL has it: names and words that add,
// "!" and "-" before those that take away. Their order does not matter to Go, nor
// do "+" and "@". A name that is not known here is an error, unless it takes away.
func cipherSuites(list string) ([]uint16, error) {
	var chosen []uint16
	never := make(map[uint16]bool)
	for item := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ':' || r == ',' || r == ' ' || r == ';' }) {
		switch {
		case strings.HasPrefix(item, "@"), strings.HasPrefix(item, "+"), strings.HasPrefix(item, "TLS_"):
			continue
		case item[0] == '!' || item[0] == '-':
			for i := range suites {
				if s := &suites[i]; s.has(item[1:]) {
					never[s.id] = never[s.id] || item[0] == '!'
					chosen = slices.DeleteFunc(chosen, func(id uint16) bool { return id == s.id })
				}
			}
			continue
		}
		found := false
		for i := range suites {
			if s := &suites[i]; s.has(item) {
				found = true
				if !never[s.id] && !slices.Contains(chosen, s.id) {
					chosen = append(chosen, s.id)
				}
			}
		}
		if !found {
			return nil, fmt.Errorf("%q is not known", item)
		}
	}
	if len(chosen) == 0 && !strings.Contains(list, "TLS_") {
		return nil, errors.New("nothing is left")
	}
	return chosen, nil
}
