package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/gripway/gripway/guest"
	"github.com/gripway/gripway/guest/store"
)

// Fastly is what a fastly.toml says about running a program here: its table
// [local_server]. It is plain data.
type Fastly struct {
	// Path is the file.
	Path string

	// Name is the package's name, ServiceID its service's; empty if there is none.
	Name, ServiceID string

	// Backends are in the order of the file.
	Backends []guest.BackendOptions

	// Stores are all named data.
	Stores store.Options

	// Keys are what fastly_key_is_valid calls valid.
	Keys []string

	// Warnings are things that are allowed and that someone may not have meant.
	Warnings Problems

	// Pushpin says whether handoffs to Fanout are expected to work, and where.
	Pushpin FastlyPushpin
}

// FastlyPushpin is the table [local_server.pushpin]. Fastly's command line starts
// a Pushpin for it; here it is the gateway's ports.
type FastlyPushpin struct {
	// Said: there is the table.
	Said bool

	// Enable starts it.
	Enable bool

	// Path is the program that Fastly's command line would start.
	Path string

	// ProxyPort and PublishPort are its ports; 7677 and 5561 if they are not said.
	ProxyPort, PublishPort int
}

// manifestVersionMax is the newest form of fastly.toml that is known.
const manifestVersionMax = 3

// ReadFastly reads a fastly.toml. Problems are all that is wrong with it and the
// files it names, each with its line; the rest is there nevertheless. A file
// without [local_server] is right, and says nothing.
func ReadFastly(path string) (*Fastly, Problems) {
	f := &Fastly{Path: path, Pushpin: FastlyPushpin{ProxyPort: 7677, PublishPort: 5561}}
	data, err := readBounded(path)
	if err != nil {
		return f, Problems{{Where: "fastly.toml", Value: path, What: "the file cannot be read: " + err.Error()}}
	}
	root, problems := parseTree(path, data)
	if root == nil {
		return f, problems
	}
	r := &reading{path: path, foreign: true}
	f.read(r.open("", &field{value: root}))
	f.Warnings = r.warnings
	return f, r.problems
}

func (f *Fastly) read(top *table) {
	// All other keys at the root are for Fastly's command line.
	f.Name = top.label("name")
	f.ServiceID = top.label("service_id")
	if v := top.take("manifest_version"); v != nil {
		// It was a text like "0.1.0" in the beginning.
		first, _, _ := strings.Cut(v.value.text, ".")
		n, err := strconv.Atoi(first)
		if err != nil || n < 0 || n > manifestVersionMax || v.value.kind != unstable.Integer && v.value.kind != unstable.String {
			top.refuse(v.line, "manifest_version", v.value.text, "want a number up to %d: newer forms are not known here", manifestVersionMax)
		}
	}
	local := top.table("local_server")
	if local == nil {
		return
	}
	if t := local.table("backends"); t != nil {
		f.Backends = readBackends(t)
	}
	readStores(local, &f.Stores)
	if v := local.take("fake_valid_fastly_keys"); v != nil {
		f.Keys = local.texts("fake_valid_fastly_keys", v)
	}
	if t := local.table("pushpin"); t != nil {
		f.Pushpin.Said = true
		f.Pushpin.Enable = t.bool("enable", false)
		f.Pushpin.Path = t.text("pushpin_path")
		f.Pushpin.ProxyPort = t.count("proxy_port", f.Pushpin.ProxyPort, 1, math.MaxUint16)
		f.Pushpin.PublishPort = t.count("publish_port", f.Pushpin.PublishPort, 1, math.MaxUint16)
		t.done()
	}
	// For Fastly's command line.
	local.take("viceroy_version")
	local.take("websockets_passthrough")
	local.done()
}

// label is a text that may be anything.
func (t *table) label(key string) string {
	if f := t.take(key); f != nil && f.value.kind == unstable.String {
		return f.value.text
	}
	return ""
}

// texts is a list of texts.
func (t *table) texts(key string, f *field) []string {
	if f.value.kind != unstable.Array {
		t.wrong(key, f.value.text, "want a list of texts, like [\"a\", \"b\"]")
		return nil
	}
	var all []string
	for _, v := range f.value.items {
		if v.kind != unstable.String || v.text == "" {
			t.refuse(v.line, t.in(key), v.text, "want a list of texts, like [\"a\", \"b\"]")
			continue
		}
		all = append(all, v.text)
	}
	return all
}

// readBackends reads tables of backends, by name.
func readBackends(t *table) []guest.BackendOptions {
	var all []guest.BackendOptions
	t.each(func(name string, t *table) { all = append(all, readBackend(guest.BackendOptions{Name: name}, t)) })
	return all
}

// timeoutMax bounds a timeout of a backend, in milliseconds.
const timeoutMax = int(24 * time.Hour / time.Millisecond)

// readBackend adds what a manifest says to what is known of a backend.
func readBackend(b guest.BackendOptions, t *table) guest.BackendOptions {
	if b.Name == "" {
		t.refuse(t.line, t.name, "", "a backend has a name")
	}
	if text := t.text("url"); text != "" {
		if err := readBackendURL(&b, text); err != nil {
			t.wrong("url", redactURL(text), "%s", err)
		}
	} else if !t.said("url") {
		t.refuse(t.line, t.name, "", "want a url, like \"https://example.com\"")
	}
	b.HostOverride = t.text("override_host")
	if strings.ContainsFunc(b.HostOverride, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		t.wrong("override_host", b.HostOverride, "want a host name, like \"example.com\"")
	}
	b.CertificateHost = t.text("cert_host")
	b.NoSNI = !t.bool("use_sni", true)
	b.GRPC = t.bool("grpc", false)
	b.FirstByteTimeout = time.Duration(t.count("first_byte_timeout_ms", 0, 0, timeoutMax)) * time.Millisecond
	b.BetweenBytesTimeout = time.Duration(t.count("between_bytes_timeout_ms", 0, 0, timeoutMax)) * time.Millisecond
	switch health := t.text("health"); strings.ToLower(health) {
	case "", "unknown":
	case "healthy":
		b.Health = guest.HealthHealthy
	case "unhealthy":
		b.Health = guest.HealthUnhealthy
	default:
		t.wrong("health", health, "want healthy, unhealthy or unknown")
	}
	if f := t.take("ca_certificate"); f != nil {
		b.CA = t.authorities("ca_certificate", f.value)
	}
	if t := t.table("client_certificate"); t != nil {
		b.ClientCert, b.ClientKey = readClientCertificate(t)
	}
	t.doneStrictly()
	return b
}

// readBackendURL divides a URL into what a backend knows.
func readBackendURL(b *guest.BackendOptions, text string) error {
	const like = "want a URL like https://example.com:8443/path"
	whole := text
	if !strings.Contains(whole, "://") {
		whole = "http://" + whole // host:port alone
	}
	u, err := url.Parse(whole)
	var why *url.Error
	switch {
	case errors.As(err, &why) && !strings.Contains(text, "@"): // it may have a part of it
		return fmt.Errorf("%s: %w", like, why.Err)
	case err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("%s", like)
	case u.User != nil:
		return fmt.Errorf("%s: a backend takes no user name", like)
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("%s, without ? and #", like)
	}
	port := u.Port()
	b.TLS = u.Scheme == "https"
	switch n, err := strconv.ParseUint(port, 10, 16); {
	case port == "" && b.TLS:
		port = "443"
	case port == "":
		port = "80"
	case err != nil || n == 0:
		return fmt.Errorf("%s: a port is a number up to 65535", like)
	}
	b.Address = net.JoinHostPort(u.Hostname(), port)
	b.PathPrefix = strings.TrimRight(u.EscapedPath(), "/")
	return nil
}

// authorities reads certificates of authorities: PEM, {file}, {value}, or a list.
func (t *table) authorities(key string, v *value) []byte {
	switch v.kind {
	case unstable.String:
		return t.certificates(v.line, key, []byte(v.text))
	case unstable.Array:
		var all []byte
		for _, item := range v.items {
			all = append(all, t.authorities(key, item)...)
		}
		return all
	case unstable.InlineTable:
		within := t.open(t.in(key), &field{key, v.line, v})
		value, file := within.text("value"), within.file("file")
		within.doneStrictly()
		switch {
		case value != "" && file != "":
			t.refuse(v.line, t.in(key), "", "value and file: want one of them")
		case file != "":
			if data := t.content(within.lineOf("file"), within.in("file"), file, readBounded); data != nil {
				return t.certificates(within.lineOf("file"), key, data)
			}
		case value != "":
			return t.certificates(within.lineOf("value"), key, []byte(value))
		case !within.said("value") && !within.said("file"):
			t.refuse(v.line, t.in(key), "", "want value, or file")
		}
		return nil
	}
	t.refuse(v.line, t.in(key), v.text, "want a certificate as text (PEM), {file = \"…\"}, {value = \"…\"}, or a list of them")
	return nil
}

// certificates checks PEM, and ends it with a line.
func (t *table) certificates(line int, key string, data []byte) []byte {
	count := 0
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			t.refuse(line, t.in(key), "", "certificate %d: %s", count+1, strings.TrimPrefix(err.Error(), "x509: "))
			return nil
		}
		count++
	}
	if count == 0 {
		t.refuse(line, t.in(key), "", "there is no certificate in it: want PEM, -----BEGIN CERTIFICATE-----")
		return nil
	}
	return append(data[:len(data):len(data)], '\n')
}

// readClientCertificate reads a certificate and its key, as text or in files.
func readClientCertificate(t *table) (cert, key []byte) {
	either := func(name string) []byte {
		text, file := t.text(name), t.file(name+"_file")
		switch {
		case text != "" && file != "":
			t.wrong(name, "", "%s and %s_file: want one of them", name, name)
		case text != "":
			return []byte(text)
		case file != "":
			return t.content(t.lineOf(name+"_file"), t.in(name+"_file"), file, readBounded)
		case !t.said(name) && !t.said(name+"_file"):
			t.refuse(t.line, t.name, "", "want %s, or %s_file", name, name)
		}
		return nil
	}
	cert, key = either("certificate"), either("key")
	t.doneStrictly()
	if cert != nil && key != nil {
		if _, err := tls.X509KeyPair(cert, key); err != nil {
			t.refuse(t.line, t.name, "", "%s", strings.TrimPrefix(err.Error(), "tls: "))
		}
	}
	return cert, key
}
