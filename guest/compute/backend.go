package compute

import (
	"crypto/tls"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"github.com/gripway/gripway/guest"
)

var backendCalls = map[string]hostcall{
	"exists":                       backendExists,
	"is_healthy":                   func(c *call) status { return c.onBackend((*call).backendHealthy) },
	"is_dynamic":                   func(c *call) status { return c.onBackend((*call).backendDynamic) },
	"get_host":                     func(c *call) status { return c.onBackend((*call).backendHost) },
	"get_override_host":            func(c *call) status { return c.onBackend((*call).backendOverrideHost) },
	"get_port":                     func(c *call) status { return c.onBackend((*call).backendPort) },
	"get_connect_timeout_ms":       func(c *call) status { return c.onTimedBackend((*call).backendConnectTimeout) },
	"get_first_byte_timeout_ms":    func(c *call) status { return c.onTimedBackend((*call).backendFirstByteTimeout) },
	"get_between_bytes_timeout_ms": func(c *call) status { return c.onTimedBackend((*call).backendBetweenBytesTimeout) },
	"get_http_keepalive_time":      func(c *call) status { return c.onKeptBackend((*call).backendKeepAlive) },
	"get_tcp_keepalive_enable":     func(c *call) status { return c.onKeptBackend((*call).backendTCPKeepAlive) },
	"get_tcp_keepalive_interval":   func(c *call) status { return c.onKeptBackend((*call).backendTCPKeepAliveEvery) },
	"get_tcp_keepalive_probes":     func(c *call) status { return c.onKeptBackend((*call).backendTCPKeepAliveProbes) },
	"get_tcp_keepalive_time":       func(c *call) status { return c.onKeptBackend((*call).backendTCPKeepAliveTime) },
	"is_ssl":                       func(c *call) status { return c.onBackend((*call).backendTLS) },
	"get_ssl_min_version":          func(c *call) status { return c.onTimedBackend((*call).backendTLSMin) },
	"get_ssl_max_version":          func(c *call) status { return c.onTimedBackend((*call).backendTLSMax) },
}

// onBackend tells about the backend that parameters 0 and 1 name.
func (c *call) onBackend(tell func(c *call, b guest.Backend, o *guest.BackendOptions) status) status {
	name, st := c.text(0)
	if st != statusOK {
		return st
	}
	b := c.backend(name)
	if b == nil {
		return statusInvalid
	}
	o := b.Options()
	return tell(c, b, &o)
}

// onTimedBackend and onKeptBackend are onBackend for what Viceroy does not tell, but
// says is unsupported, or zero. Where a guest is tried out locally it is not told here
// either: programs, and the SDKs' own tests, know what to expect there.
func (c *call) onTimedBackend(tell func(c *call, b guest.Backend, o *guest.BackendOptions) status) status {
	if c.service.Local {
		tell = func(*call, guest.Backend, *guest.BackendOptions) status { return statusUnsupported }
	}
	return c.onBackend(tell)
}

func (c *call) onKeptBackend(tell func(c *call, b guest.Backend, o *guest.BackendOptions) status) status {
	if c.service.Local {
		tell = func(c *call, _ guest.Backend, _ *guest.BackendOptions) status { return c.put32(2, 0) }
	}
	return c.onBackend(tell)
}

func backendExists(c *call) status {
	name, st := c.text(0)
	if st != statusOK {
		return st
	}
	return c.putFlag(2, c.backend(name) != nil)
}

func (c *call) backendHealthy(b guest.Backend, _ *guest.BackendOptions) status {
	return c.put32(2, uint32(b.Health()))
}

func (c *call) backendDynamic(_ guest.Backend, o *guest.BackendOptions) status {
	return c.putFlag(2, o.Dynamic)
}

func (c *call) backendHost(_ guest.Backend, o *guest.BackendOptions) status {
	host, _, err := net.SplitHostPort(o.Address)
	if err != nil {
		host = o.Address
	}
	return c.fillText(2, host)
}

func (c *call) backendOverrideHost(_ guest.Backend, o *guest.BackendOptions) status {
	if o.HostOverride == "" {
		return statusNone
	}
	return c.fillText(2, o.HostOverride)
}

func (c *call) backendPort(_ guest.Backend, o *guest.BackendOptions) status {
	_, text, _ := net.SplitHostPort(o.Address)
	port, _ := strconv.ParseUint(text, 10, 16)
	return c.put16(2, uint16(port))
}

// Fastly's defaults of what a backend's options leave open.
const (
	connectTimeoutDefault      = time.Second
	firstByteTimeoutDefault    = 15 * time.Second
	betweenBytesTimeoutDefault = 10 * time.Second
)

// putMillis writes a time, or the default.
func (c *call) putMillis(i int, d, otherwise time.Duration) status {
	if d == 0 {
		d = otherwise
	}
	return c.put32(i, uint32(d.Milliseconds()))
}

func (c *call) backendConnectTimeout(_ guest.Backend, o *guest.BackendOptions) status {
	return c.putMillis(2, o.ConnectTimeout, connectTimeoutDefault)
}

func (c *call) backendFirstByteTimeout(_ guest.Backend, o *guest.BackendOptions) status {
	return c.putMillis(2, o.FirstByteTimeout, firstByteTimeoutDefault)
}

func (c *call) backendBetweenBytesTimeout(_ guest.Backend, o *guest.BackendOptions) status {
	return c.putMillis(2, o.BetweenBytesTimeout, betweenBytesTimeoutDefault)
}

func (c *call) backendKeepAlive(_ guest.Backend, o *guest.BackendOptions) status {
	if o.KeepAlive == 0 {
		return statusNone
	}
	return c.putMillis(2, max(o.KeepAlive, 0), 0)
}

func (c *call) backendTCPKeepAlive(_ guest.Backend, o *guest.BackendOptions) status {
	return c.putFlag(2, o.TCPKeepAlive)
}

func (c *call) putSeconds(i int, o *guest.BackendOptions, d time.Duration) status {
	if !o.TCPKeepAlive || d == 0 {
		return statusNone
	}
	return c.put32(i, uint32(d/time.Second))
}

func (c *call) backendTCPKeepAliveEvery(_ guest.Backend, o *guest.BackendOptions) status {
	return c.putSeconds(2, o, o.TCPKeepAliveEvery)
}

func (c *call) backendTCPKeepAliveTime(_ guest.Backend, o *guest.BackendOptions) status {
	return c.putSeconds(2, o, o.TCPKeepAliveTime)
}

func (c *call) backendTCPKeepAliveProbes(_ guest.Backend, o *guest.BackendOptions) status {
	if !o.TCPKeepAlive || o.TCPKeepAliveProbes == 0 {
		return statusNone
	}
	return c.put32(2, uint32(o.TCPKeepAliveProbes))
}

func (c *call) backendTLS(_ guest.Backend, o *guest.BackendOptions) status {
	return c.putFlag(2, o.TLS)
}

func (c *call) putTLSVersion(o *guest.BackendOptions, version uint16) status {
	if !o.TLS || version == 0 {
		return statusNone
	}
	return c.put32(2, uint32(version-tls.VersionTLS10))
}

func (c *call) backendTLSMin(_ guest.Backend, o *guest.BackendOptions) status {
	return c.putTLSVersion(o, o.TLSMin)
}

func (c *call) backendTLSMax(_ guest.Backend, o *guest.BackendOptions) status {
	return c.putTLSVersion(o, o.TLSMax)
}

// dynamicMax bounds the backends that a guest describes: Fastly's number for a
// service.
const dynamicMax = 200

// Bits of what a guest says about a backend.
const (
	backendReserved = 1 << iota
	backendHostOverride
	backendConnect
	backendFirstByte
	backendBetweenBytes
	backendUseTLS
	backendMinTLS
	backendMaxTLS
	backendCertificateHost
	backendCA
	backendCiphers
	backendSNI
	backendDontPool
	backendClientCertificate
	backendGRPC
	backendHTTPKeepAlive
	backendPooling
	backendIPv4
	backendHealthCheck
	backendBits
)

// Sizes of its records, and of what they may name.
const (
	backendRecordBytes = 108
	healthRecordBytes  = 56
	backendTextMax     = 1024
	backendCiphersMax  = 16 << 10 // all names that OpenSSL has ever known
	backendPEMMax      = 64 << 10
)

// requestRegisterBackend makes a backend that the guest describes. It lasts as long
// as the sandbox.
func requestRegisterBackend(c *call) status {
	name, st := c.text(0)
	if st != statusOK {
		return st
	}
	target, st := c.text(2)
	if st != statusOK {
		return st
	}
	mask := c.u32(4)
	if mask&backendReserved != 0 || mask >= backendBits {
		return statusInvalid
	}
	record, st := c.record(5, backendRecordBytes, 4)
	if st != statusOK {
		return st
	}
	r := backendRecord{c, record, mask, statusOK}
	o := r.options()
	if r.failed != statusOK {
		return r.failed
	}
	if name == "" || target == "" {
		return statusInvalid
	}
	if o.Name, o.Dynamic = name, true; c.backend(name) != nil {
		return statusError
	}
	if o.Address = target; !hasPort(target) {
		port := "80"
		if o.TLS {
			port = "443"
		}
		host := strings.Trim(target, "[]")
		if _, err := netip.ParseAddr(host); err != nil && strings.Contains(host, ":") {
			return statusInvalid // neither a host and a port nor an address
		}
		o.Address = net.JoinHostPort(host, port)
	}
	return c.addBackend(o)
}

// addBackend opens a backend that the guest described.
func (c *call) addBackend(o guest.BackendOptions) status {
	switch {
	case c.service.Backends == nil:
		return statusUnsupported
	case len(c.dynamic) >= dynamicMax:
		return statusLimit
	}
	if err := c.describe(o); err != nil {
		c.Log.Warn("the guest describes a backend that cannot be", "error", err)
		return statusInvalid
	}
	return statusOK
}

// describe makes a backend of the sandbox's own.
func (b *sandbox) describe(o guest.BackendOptions) error {
	backend, err := b.service.Backends.Open(o)
	if err != nil {
		return err
	}
	if b.dynamic == nil {
		b.dynamic = make(map[string]guest.Backend)
	}
	b.dynamic[o.Name] = backend
	return nil
}

func hasPort(address string) bool {
	_, port, err := net.SplitHostPort(address)
	return err == nil && port != ""
}

// backendRecord reads what a guest says about a backend. The first thing that is
// wrong stays.
type backendRecord struct {
	*call
	record []byte
	mask   uint32
	failed status
}

func (r *backendRecord) has(bit uint32) bool { return r.mask&bit != 0 }

// fail notes a status, if it is the first that is not ok.
func (r *backendRecord) fail(st status) {
	if r.failed == statusOK {
		r.failed = st
	}
}

// data is what the record names, at most n bytes and at least one.
func (r *backendRecord) data(record []byte, at, n int) []byte {
	b, st := r.field(record, at)
	switch {
	case st != statusOK:
		r.fail(st)
	case len(b) == 0, len(b) > n:
		r.fail(statusInvalid)
	}
	return b
}

// word is data that is text, at most n bytes.
func (r *backendRecord) word(record []byte, at, n int) string {
	b := r.data(record, at, n)
	if !utf8.Valid(b) {
		r.fail(statusInvalid)
	}
	return string(b)
}

func (r *backendRecord) millis(at int) time.Duration {
	return time.Duration(little32(r.record, at)) * time.Millisecond
}

func (r *backendRecord) seconds(at int) time.Duration {
	return time.Duration(little32(r.record, at)) * time.Second
}

func (r *backendRecord) tlsVersion(at int) uint16 {
	v := little32(r.record, at)
	if v > 3 {
		r.fail(statusInvalid)
		return 0
	}
	return tls.VersionTLS10 + uint16(v)
}

func (r *backendRecord) options() guest.BackendOptions {
	o := guest.BackendOptions{TLS: r.has(backendUseTLS), NoPool: r.has(backendDontPool), GRPC: r.has(backendGRPC), PreferIPv4: r.has(backendIPv4)}
	if r.has(backendHostOverride) {
		if o.HostOverride = r.word(r.record, 0, backendTextMax); !httpguts.ValidHostHeader(o.HostOverride) {
			r.fail(statusInvalid)
		}
	}
	if r.has(backendConnect) {
		o.ConnectTimeout = r.millis(8)
	}
	if r.has(backendFirstByte) {
		o.FirstByteTimeout = r.millis(12)
	}
	if r.has(backendBetweenBytes) {
		o.BetweenBytesTimeout = r.millis(16)
	}
	if r.has(backendMinTLS) {
		o.TLSMin = r.tlsVersion(20)
	}
	if r.has(backendMaxTLS) {
		o.TLSMax = r.tlsVersion(24)
	}
	if r.has(backendMinTLS) && r.has(backendMaxTLS) && o.TLSMin > o.TLSMax {
		r.fail(statusInvalid)
	}
	if r.has(backendCertificateHost) {
		o.CertificateHost = r.word(r.record, 28, backendTextMax)
	}
	if r.has(backendCA) {
		o.CA = append([]byte(nil), r.data(r.record, 36, backendPEMMax)...)
	}
	if r.has(backendCiphers) {
		o.Ciphers = r.word(r.record, 44, backendCiphersMax)
	}
	if r.has(backendSNI) {
		if little32(r.record, 56) == 0 {
			o.NoSNI = true
		} else {
			o.SNI = r.word(r.record, 52, backendTextMax)
		}
	}
	if r.has(backendClientCertificate) {
		o.ClientCert = append([]byte(nil), r.data(r.record, 60, backendPEMMax)...)
		key, ok := r.secretValue(little32(r.record, 68))
		if !ok {
			r.fail(statusBadHandle)
		}
		o.ClientKey = key
	}
	if r.has(backendHTTPKeepAlive) {
		if o.KeepAlive = r.millis(72); o.KeepAlive == 0 {
			o.KeepAlive = -1
		}
		o.TCPKeepAlive = little32(r.record, 76) != 0
		o.TCPKeepAliveEvery = r.seconds(80)
		o.TCPKeepAliveProbes = int(little32(r.record, 84))
		o.TCPKeepAliveTime = r.seconds(88)
	}
	if r.has(backendPooling) {
		o.ConnectionsMax = int(little32(r.record, 92))
		o.ConnectionUsesMax = int(little32(r.record, 96))
		o.ConnectionAgeMax = r.millis(100)
	}
	if r.has(backendHealthCheck) {
		o.Check = r.check()
	}
	return o
}

// healthMillisMax bounds the times of a health check: a day.
const healthMillisMax = 24 * 60 * 60 * 1000

// check reads the record of a health check that the record names.
func (r *backendRecord) check() *guest.HealthCheck {
	address := little32(r.record, 104)
	if address%8 != 0 {
		r.fail(statusBadAlign)
		return nil
	}
	record, st := r.at(address, healthRecordBytes)
	if st != statusOK {
		r.fail(st)
		return nil
	}
	millis := func(at int) time.Duration {
		return time.Duration(min(little64(record, at), healthMillisMax)) * time.Millisecond
	}
	h := &guest.HealthCheck{
		Every: millis(0), Timeout: millis(8),
		Status: int(little32(record, 40)), Window: int(little32(record, 44)), Threshold: int(little32(record, 48)), Initial: int(little32(record, 52)),
	}
	if h.Window > 0 && h.Initial == 0 {
		h.Initial = -1 // SDKs fill in defaults themselves
	}
	for at, into := range map[int]*string{16: &h.Host, 24: &h.Method, 32: &h.Path} {
		if little32(record, at+4) > 0 {
			*into = r.word(record, at, backendTextMax)
		}
	}
	if h.Threshold > h.Window && h.Window > 0 || h.Method != "" && !validToken(h.Method) || h.Path != "" && h.Path[0] != '/' {
		r.fail(statusInvalid)
	}
	return h
}
