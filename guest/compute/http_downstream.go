package compute

import (
	"crypto/subtle"
	"crypto/tls"
	"encoding/pem"
	"net/netip"
	"strconv"
	"strings"
)

var downstreamCalls = map[string]hostcall{
	"next_request":         downstreamNext,
	"next_request_wait":    downstreamNextWait,
	"next_request_abandon": downstreamNextAbandon,

	"downstream_original_header_names":         func(c *call) status { return c.ofRequest(downstreamOriginalNames) },
	"downstream_original_header_count":         func(c *call) status { return c.ofRequest(downstreamOriginalCount) },
	"downstream_client_ip_addr":                func(c *call) status { return c.ofRequest(downstreamClientIP) },
	"downstream_server_ip_addr":                func(c *call) status { return c.ofRequest(downstreamServerIP) },
	"downstream_client_h2_fingerprint":         func(c *call) status { return c.ofRequest(downstreamHTTP2) },
	"downstream_client_request_id":             func(c *call) status { return c.ofRequest(downstreamRequestID) },
	"downstream_client_oh_fingerprint":         func(c *call) status { return c.ofRequest(downstreamAbsent) },
	"downstream_client_ddos_detected":          func(c *call) status { return c.ofRequest(downstreamDDoS) },
	"downstream_tls_cipher_openssl_name":       func(c *call) status { return c.ofRequest(downstreamTLSCipher) },
	"downstream_tls_protocol":                  func(c *call) status { return c.ofRequest(downstreamTLSProtocol) },
	"downstream_tls_client_hello":              func(c *call) status { return c.ofRequest(downstreamTLSHello) },
	"downstream_tls_raw_client_certificate":    func(c *call) status { return c.ofRequest(downstreamTLSCertificate) },
	"downstream_tls_client_cert_verify_result": func(c *call) status { return c.ofRequest(downstreamTLSVerified) },
	"downstream_tls_client_servername":         func(c *call) status { return c.ofRequest(downstreamTLSName) },
	"downstream_tls_ja3_md5":                   func(c *call) status { return c.ofRequest(downstreamJA3) },
	"downstream_tls_ja4":                       func(c *call) status { return c.ofRequest(downstreamJA4) },
	"downstream_compliance_region":             func(c *call) status { return c.ofRequest(downstreamRegion) },
	"fastly_key_is_valid":                      func(c *call) status { return c.ofRequest(downstreamKeyIsValid) },

	"downstream_bot_analyzed":      func(c *call) status { return c.ofRequest(downstreamBotAnalyzed) },
	"downstream_bot_detected":      func(c *call) status { return c.ofRequest(downstreamBotDetected) },
	"downstream_bot_name":          func(c *call) status { return c.ofRequest(downstreamBotName) },
	"downstream_bot_category":      func(c *call) status { return c.ofRequest(downstreamBotCategory) },
	"downstream_bot_category_kind": func(c *call) status { return c.ofRequest(downstreamBotKind) },
	"downstream_bot_verified":      func(c *call) status { return c.ofRequest(downstreamBotVerified) },

	"downstream_resvpnproxy_is_anonymous":         func(c *call) status { return c.ofRequest(downstreamAbsent) },
	"downstream_resvpnproxy_is_anonymous_vpn":     func(c *call) status { return c.ofRequest(downstreamAbsent) },
	"downstream_resvpnproxy_is_hosting_provider":  func(c *call) status { return c.ofRequest(downstreamAbsent) },
	"downstream_resvpnproxy_is_proxy_over_vpn":    func(c *call) status { return c.ofRequest(downstreamAbsent) },
	"downstream_resvpnproxy_is_public_proxy":      func(c *call) status { return c.ofRequest(downstreamAbsent) },
	"downstream_resvpnproxy_is_relay_proxy":       func(c *call) status { return c.ofRequest(downstreamAbsent) },
	"downstream_resvpnproxy_is_residential_proxy": func(c *call) status { return c.ofRequest(downstreamAbsent) },
	"downstream_resvpnproxy_is_smart_dns_proxy":   func(c *call) status { return c.ofRequest(downstreamAbsent) },
	"downstream_resvpnproxy_is_tor_exit_node":     func(c *call) status { return c.ofRequest(downstreamAbsent) },
	"downstream_resvpnproxy_is_vpn_datacenter":    func(c *call) status { return c.ofRequest(downstreamAbsent) },
	"downstream_resvpnproxy_vpn_service_name":     func(c *call) status { return c.ofRequest(downstreamAbsent) },

	// downstream_visits_* are unsupported, as they are with Viceroy.
}

// A downstreamFact answers a question about a request from a client. Where its
// results go begins at parameter i.
type downstreamFact func(c *call, d *downstream, i int) status

// ofRequest asks about the request that parameter 0 is a handle of. It may have been
// used up since.
func (c *call) ofRequest(fact downstreamFact) status {
	c.arrived()
	d := c.downstreams[c.u32(0)]
	if d == nil {
		return statusBadHandle
	}
	return fact(c, d, 1)
}

// ofFirst asks about the request there is: the deprecated calls name none.
func (c *call) ofFirst(fact downstreamFact) status { return fact(c, c.arrived(), 0) }

// downstreamAbsent is for what is not known here.
func downstreamAbsent(*call, *downstream, int) status { return statusNone }

// originalNames are those of the client's header, line by line: as the client wrote
// them, or at least in lower case and some order.
func (d *downstream) originalNames() []string {
	var names []string
	if lines := d.exchange.Client.Header; lines != nil {
		for _, line := range lines {
			names = append(names, line.Name)
		}
		return names
	}
	h := originalHeader(d.exchange)
	for _, f := range h.fields {
		for range f.values {
			names = append(names, f.name)
		}
	}
	return names
}

func downstreamOriginalNames(c *call, d *downstream, i int) status {
	names := d.originalNames()
	return c.fillList(i, len(names), func(at int) string { return names[at] })
}

func downstreamOriginalCount(c *call, d *downstream, i int) status {
	return c.put32(i, uint32(len(d.originalNames())))
}

// putKnown writes an address. SDKs give up where there is none, so that one that is
// not known, like that of a client on a Unix socket, is 0.0.0.0.
func (c *call) putKnown(i int, a netip.AddrPort) status {
	if !a.IsValid() {
		return c.putAddress(i, netip.IPv4Unspecified())
	}
	return c.putAddress(i, a.Addr())
}

func downstreamClientIP(c *call, d *downstream, i int) status {
	return c.putKnown(i, d.exchange.Client.Remote)
}

func downstreamServerIP(c *call, d *downstream, i int) status {
	return c.putKnown(i, d.exchange.Client.Local)
}

func downstreamRequestID(c *call, d *downstream, i int) status { return c.fillText(i, d.id) }

func downstreamDDoS(c *call, _ *downstream, i int) status { return c.put32(i, 0) }

// opensslNames are what OpenSSL calls cipher suites whose name it does not share
// with the standard.
var opensslNames = map[uint16]string{
	tls.TLS_RSA_WITH_AES_128_CBC_SHA:                  "AES128-SHA",
	tls.TLS_RSA_WITH_AES_256_CBC_SHA:                  "AES256-SHA",
	tls.TLS_RSA_WITH_AES_128_CBC_SHA256:               "AES128-SHA256",
	tls.TLS_RSA_WITH_AES_128_GCM_SHA256:               "AES128-GCM-SHA256",
	tls.TLS_RSA_WITH_AES_256_GCM_SHA384:               "AES256-GCM-SHA384",
	tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA:                 "DES-CBC3-SHA",
	tls.TLS_RSA_WITH_RC4_128_SHA:                      "RC4-SHA",
	tls.TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA:           "ECDHE-RSA-DES-CBC3-SHA",
	tls.TLS_ECDHE_RSA_WITH_RC4_128_SHA:                "ECDHE-RSA-RC4-SHA",
	tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA:              "ECDHE-ECDSA-RC4-SHA",
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA:          "ECDHE-ECDSA-AES128-SHA",
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA:          "ECDHE-ECDSA-AES256-SHA",
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256:       "ECDHE-ECDSA-AES128-SHA256",
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:       "ECDHE-ECDSA-AES128-GCM-SHA256",
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:       "ECDHE-ECDSA-AES256-GCM-SHA384",
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: "ECDHE-ECDSA-CHACHA20-POLY1305",
	tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA:            "ECDHE-RSA-AES128-SHA",
	tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA:            "ECDHE-RSA-AES256-SHA",
	tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256:         "ECDHE-RSA-AES128-SHA256",
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:         "ECDHE-RSA-AES128-GCM-SHA256",
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:         "ECDHE-RSA-AES256-GCM-SHA384",
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:   "ECDHE-RSA-CHACHA20-POLY1305",
}

func downstreamTLSCipher(c *call, d *downstream, i int) status {
	state := d.exchange.Client.TLS
	if state == nil {
		return statusNone
	}
	name, ok := opensslNames[state.CipherSuite]
	if !ok {
		name = tls.CipherSuiteName(state.CipherSuite)
	}
	return c.fillText(i, name)
}

func downstreamTLSProtocol(c *call, d *downstream, i int) status {
	state := d.exchange.Client.TLS
	if state == nil {
		return statusNone
	}
	name := "TLSv1"
	if state.Version > tls.VersionTLS10 {
		name += "." + strconv.Itoa(int(state.Version-tls.VersionTLS10))
	}
	return c.fillText(i, name)
}

// absentOverTLS is for what is not known of a client over TLS. The Go SDK asks for
// everything at once and gives up where there is none, so that it is empty: a client may
// name no server, and where the gateway itself asks again for a held client there is
// no connection at hand.
func absentOverTLS(c *call, d *downstream, i int) status {
	if d.exchange.Client.TLS == nil {
		return statusNone
	}
	return c.fillText(i, "")
}

func downstreamTLSHello(c *call, d *downstream, i int) status {
	if len(d.exchange.Client.Hello) == 0 {
		return absentOverTLS(c, d, i)
	}
	return c.fill(i, d.exchange.Client.Hello)
}

func downstreamTLSName(c *call, d *downstream, i int) status {
	state := d.exchange.Client.TLS
	if state == nil {
		return statusNone
	}
	return c.fillText(i, state.ServerName)
}

// downstreamTLSCertificate writes the client's certificate, PEM.
func downstreamTLSCertificate(c *call, d *downstream, i int) status {
	state := d.exchange.Client.TLS
	if state == nil || len(state.PeerCertificates) == 0 {
		return statusNone
	}
	return c.fill(i, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: state.PeerCertificates[0].Raw}))
}

// What became of a client's certificate.
const (
	certificateOK      = 0
	certificateMissing = 5
	certificateUnknown = 6
)

func downstreamTLSVerified(c *call, d *downstream, i int) status {
	state := d.exchange.Client.TLS
	switch {
	case state == nil:
		return statusNone
	case len(state.PeerCertificates) == 0:
		return c.put32(i, certificateMissing)
	case len(state.VerifiedChains) == 0:
		return c.put32(i, certificateUnknown)
	}
	return c.put32(i, certificateOK)
}

func downstreamHTTP2(c *call, d *downstream, i int) status {
	if d.exchange.Client.HTTP2 == "" {
		return statusNone
	}
	return c.fillText(i, d.exchange.Client.HTTP2)
}

func (d *downstream) fingerprint() *fingerprint {
	if d.print == nil {
		d.print = fingerprintOf(d.exchange.Client.Hello)
	}
	return d.print
}

func downstreamJA3(c *call, d *downstream, i int) status {
	f := d.fingerprint()
	if !f.ok {
		if d.exchange.Client.TLS == nil {
			return statusNone
		}
		return c.put32(i+1, 0)
	}
	into, st := c.at(c.u32(i), uint32(len(f.ja3)))
	if st != statusOK {
		return st
	}
	copy(into, f.ja3[:])
	return c.put32(i+1, uint32(len(f.ja3)))
}

func downstreamJA4(c *call, d *downstream, i int) status {
	f := d.fingerprint()
	if !f.ok {
		return absentOverTLS(c, d, i)
	}
	return c.fillText(i, f.ja4)
}

// complianceRegion is what Fastly says where there is none.
const complianceRegion = "none"

func downstreamRegion(c *call, _ *downstream, i int) status { return c.fillText(i, complianceRegion) }

// downstreamKeyIsValid says whether the client sent a key that the service knows.
func downstreamKeyIsValid(c *call, d *downstream, i int) status {
	key, _ := d.original("Fastly-Key")
	valid := uint32(0)
	for _, known := range c.service.FastlyKeys {
		if key != "" && subtle.ConstantTimeCompare([]byte(key), []byte(known)) == 1 {
			valid = 1
		}
	}
	return c.put32(i, valid)
}

// bot is what a header says that Fastly's bot management would have found out. Only
// where a guest is tried locally it may be said by the client.
func (c *call) bot(d *downstream, name string) (string, bool) {
	if !c.service.Local {
		return "", false
	}
	return d.original("X-Fastly-Bot-" + name)
}

func (c *call) putFlag(i int, is bool) status {
	if is {
		return c.put32(i, 1)
	}
	return c.put32(i, 0)
}

func downstreamBotAnalyzed(c *call, d *downstream, i int) status {
	v, _ := c.bot(d, "Analyzed")
	return c.putFlag(i, v == "true")
}

func downstreamBotDetected(c *call, d *downstream, i int) status {
	v, _ := c.bot(d, "Detected")
	return c.putFlag(i, v == "true")
}

func downstreamBotVerified(c *call, d *downstream, i int) status {
	v, ok := c.bot(d, "Verified")
	if !ok {
		return statusNone
	}
	return c.putFlag(i, v == "true")
}

func downstreamBotName(c *call, d *downstream, i int) status {
	v, ok := c.bot(d, "Name")
	if !ok {
		return statusNone
	}
	return c.fillText(i, v)
}

func downstreamBotCategory(c *call, d *downstream, i int) status {
	v, ok := c.bot(d, "Category")
	if !ok {
		return statusNone
	}
	return c.fillText(i, v)
}

// botKinds are the categories by number.
var botKinds = []string{
	"none", "suspected", "accessibility", "ai-crawler", "ai-fetcher", "content-fetcher", "monitoring-site-tools", "online-marketing",
	"page-preview", "platform-integration", "research", "search-engine-crawler", "search-engine-optimization", "security-tools", "headless",
}

func downstreamBotKind(c *call, d *downstream, i int) status {
	v, ok := c.bot(d, "Category")
	if !ok {
		return statusNone
	}
	for n, kind := range botKinds {
		if strings.EqualFold(kind, v) {
			return c.put32(i, uint32(n))
		}
	}
	n, err := strconv.ParseUint(v, 10, 32)
	if err != nil {
		return statusNone
	}
	return c.put32(i, uint32(n))
}
