package compute

import (
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
)

var requestCalls = map[string]hostcall{
	"body_downstream_get": requestDownstream,

	"new":               requestNew,
	"close":             requestClose,
	"header_names_get":  func(c *call) status { return c.onRequest((*call).requestNames) },
	"header_value_get":  func(c *call) status { return c.onRequest((*call).requestValue) },
	"header_values_get": func(c *call) status { return c.onRequest((*call).requestValues) },
	"header_values_set": func(c *call) status { return c.onRequest((*call).requestValuesSet) },
	"header_insert":     func(c *call) status { return c.onRequest((*call).requestInsert) },
	"header_append":     func(c *call) status { return c.onRequest((*call).requestAppend) },
	"header_remove":     func(c *call) status { return c.onRequest((*call).requestRemove) },
	"method_get":        requestMethodGet,
	"method_set":        requestMethodSet,
	"uri_get":           requestURIGet,
	"uri_set":           requestURISet,
	"version_get":       requestVersionGet,
	"version_set":       requestVersionSet,

	"framing_headers_mode_set":     requestFramingSet,
	"auto_decompress_response_set": requestDecompressSet,
	"cache_override_set":           requestCacheOverride,
	"cache_override_v2_set":        requestCacheOverrideV2,
	"cache_override_v3_set":        requestCacheOverrideV3,

	"send":                  func(c *call) status { return c.sendAndWait(true, noDetail, 4) },
	"send_v2":               func(c *call) status { return c.sendAndWait(true, 4, 5) },
	"send_v3":               func(c *call) status { return c.sendAndWait(false, 4, 5) },
	"send_async":            func(c *call) status { return c.sendAsync(true, false, 4) },
	"send_async_v2":         requestSendAsyncV2,
	"send_async_streaming":  func(c *call) status { return c.sendAsync(true, true, 4) },
	"pending_req_poll":      func(c *call) status { return c.pendingPoll(noDetail, 1) },
	"pending_req_poll_v2":   func(c *call) status { return c.pendingPoll(1, 2) },
	"pending_req_wait":      func(c *call) status { return c.pendingWait(noDetail, 1) },
	"pending_req_wait_v2":   func(c *call) status { return c.pendingWait(1, 2) },
	"pending_req_select":    func(c *call) status { return c.pendingSelect(noDetail, 2) },
	"pending_req_select_v2": func(c *call) status { return c.pendingSelect(2, 3) },

	"pending_req_header_insert": pendingHeaderInsert,
	"pending_req_header_append": pendingHeaderAppend,
	"pending_req_header_remove": pendingHeaderRemove,

	"register_dynamic_backend": requestRegisterBackend,
	"inspect":                  requestInspect,

	"redirect_to_websocket_proxy":    func(c *call) status { return c.handOff(true, nil, 0) },
	"redirect_to_grip_proxy":         func(c *call) status { return c.handOff(false, nil, 0) },
	"redirect_to_websocket_proxy_v2": func(c *call) status { return c.handOffRequest(true) },
	"redirect_to_grip_proxy_v2":      func(c *call) status { return c.handOffRequest(false) },

	// As http_downstream has them, of the first request.
	"downstream_client_ip_addr":                func(c *call) status { return c.ofFirst(downstreamClientIP) },
	"downstream_server_ip_addr":                func(c *call) status { return c.ofFirst(downstreamServerIP) },
	"downstream_client_h2_fingerprint":         func(c *call) status { return c.ofFirst(downstreamHTTP2) },
	"downstream_client_request_id":             func(c *call) status { return c.ofFirst(downstreamRequestID) },
	"downstream_client_oh_fingerprint":         func(c *call) status { return c.ofFirst(downstreamAbsent) },
	"downstream_client_ddos_detected":          func(c *call) status { return c.ofFirst(downstreamDDoS) },
	"downstream_tls_cipher_openssl_name":       func(c *call) status { return c.ofFirst(downstreamTLSCipher) },
	"downstream_tls_protocol":                  func(c *call) status { return c.ofFirst(downstreamTLSProtocol) },
	"downstream_tls_client_hello":              func(c *call) status { return c.ofFirst(downstreamTLSHello) },
	"downstream_tls_raw_client_certificate":    func(c *call) status { return c.ofFirst(downstreamTLSCertificate) },
	"downstream_tls_client_cert_verify_result": func(c *call) status { return c.ofFirst(downstreamTLSVerified) },
	"downstream_tls_ja3_md5":                   func(c *call) status { return c.ofFirst(downstreamJA3) },
	"downstream_tls_ja4":                       func(c *call) status { return c.ofFirst(downstreamJA4) },
	"downstream_compliance_region":             func(c *call) status { return c.ofFirst(downstreamRegion) },
	"original_header_names_get":                func(c *call) status { return c.ofFirst(downstreamOriginalNames) },
	"original_header_count":                    func(c *call) status { return c.ofFirst(downstreamOriginalCount) },
	"fastly_key_is_valid":                      func(c *call) status { return c.ofFirst(downstreamKeyIsValid) },

	// upgrade_websocket and on_behalf_of are unsupported, as they are with Viceroy.
}

// Versions of HTTP, as the ABI counts them.
const (
	http09 = iota
	http10
	http11
	http2
	http3
)

// request is the head of a request that a guest has.
type request struct {
	method     string
	uri        string
	version    uint32
	header     header
	framing    bool // Content-Length and Transfer-Encoding are the guest's
	decompress bool // of the response
	cache      *cacheOverride
}

// cacheOverride is what a guest says about the caching of a response.
type cacheOverride struct {
	Pass, PCI            bool
	TTL                  uint32 // seconds, if HasTTL
	StaleWhileRevalidate uint32 // seconds, if HasStale
	HasTTL, HasStale     bool
	SurrogateKey         string // keys, by spaces
	LookupTimeout        uint32 // milliseconds that it waits for another's answer, if HasLookupTimeout
	HasLookupTimeout     bool
}

// uriMax bounds a URI, as Viceroy's HTTP library does.
const uriMax = 1<<16 - 2

// methodMax bounds a method: Fastly's published limit.
const methodMax = 8192

// requestOf is the request that parameter i is a handle of.
func (c *call) requestOf(i int) (*request, status) {
	h := c.u32(i)
	if h == firstDownstream {
		c.arrived() // hand-written guests know the number
	}
	return c.requests.get(h)
}

// onRequest does something with the request that parameter 0 is a handle of.
func (c *call) onRequest(do func(*call, *request) status) status {
	r, st := c.requestOf(0)
	if st != statusOK {
		return st
	}
	return do(c, r)
}

func (c *call) requestNames(r *request) status     { return c.fillNames(1, &r.header) }
func (c *call) requestValue(r *request) status     { return c.fieldGet(1, &r.header) }
func (c *call) requestValues(r *request) status    { return c.fieldValuesGet(1, &r.header) }
func (c *call) requestValuesSet(r *request) status { return c.fieldValuesSet(1, &r.header) }
func (c *call) requestInsert(r *request) status    { return c.fieldInsert(1, &r.header) }
func (c *call) requestAppend(r *request) status    { return c.fieldAppend(1, &r.header) }
func (c *call) requestRemove(r *request) status    { return c.fieldRemove(1, &r.header) }

// requestDownstream gives the guest what the client sent.
func requestDownstream(c *call) status {
	d := c.arrived()
	if st := c.put32(0, d.request); st != statusOK {
		return st
	}
	return c.put32(1, d.body)
}

func requestNew(c *call) status {
	h, st := c.requests.add(&request{method: "GET", uri: "/", version: http11})
	if st != statusOK {
		return st
	}
	return c.put32(0, h)
}

func requestClose(c *call) status {
	if _, st := c.requestOf(0); st != statusOK {
		return st
	}
	_, st := c.requests.remove(c.u32(0))
	return st
}

func requestMethodGet(c *call) status {
	r, st := c.requestOf(0)
	if st != statusOK {
		return st
	}
	return c.fillText(1, r.method)
}

func requestMethodSet(c *call) status {
	r, st := c.requestOf(0)
	if st != statusOK {
		return st
	}
	method, st := c.text(1)
	switch {
	case st != statusOK:
		return st
	case len(method) > methodMax || !validToken(method):
		return statusError
	}
	r.method = method
	return statusOK
}

func validToken(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf || !httpguts.IsTokenRune(rune(s[i])) {
			return false
		}
	}
	return s != ""
}

func requestURIGet(c *call) status {
	r, st := c.requestOf(0)
	if st != statusOK {
		return st
	}
	return c.fillText(1, r.uri)
}

func requestURISet(c *call) status {
	r, st := c.requestOf(0)
	if st != statusOK {
		return st
	}
	uri, st := c.text(1)
	if st != statusOK {
		return st
	}
	uri, _, _ = strings.Cut(uri, "#")
	if !c.within(LimitURLBytes, len(uri), c.service.Limits.URLBytes) {
		return statusLimit
	}
	if _, ok := parseURI(uri); !ok {
		return statusError
	}
	r.uri = uri
	return statusOK
}

// uriParts are a URI's, as it was written. Path includes the query; scheme and
// authority are empty for one that is only a path.
type uriParts struct{ scheme, authority, path string }

// parseURI takes a URI apart without changing a byte of it.
func parseURI(uri string) (u uriParts, ok bool) {
	if uri == "" || len(uri) > uriMax {
		return u, false
	}
	for i := range len(uri) {
		if uri[i] <= ' ' || uri[i] == 0x7f {
			return u, false
		}
	}
	if uri[0] == '/' || uri == "*" {
		return uriParts{path: uri}, true
	}
	scheme, rest, ok := strings.Cut(uri, "://")
	if !ok || !validScheme(scheme) {
		return u, false
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	authority, path := rest[:end], rest[end:]
	if _, host, ok := strings.Cut(authority, "@"); ok {
		authority = host // who asks is told in a header, if at all
	}
	if authority == "" || !httpguts.ValidHostHeader(authority) {
		return u, false
	}
	if path == "" || path[0] == '?' {
		path = "/" + path
	}
	return uriParts{scheme, authority, path}, true
}

func validScheme(scheme string) bool {
	for i := range len(scheme) {
		c := scheme[i] | 0x20
		if !('a' <= c && c <= 'z' || i > 0 && ('0' <= scheme[i] && scheme[i] <= '9' || strings.IndexByte("+-.", scheme[i]) >= 0)) {
			return false
		}
	}
	return scheme != ""
}

func requestVersionGet(c *call) status {
	r, st := c.requestOf(0)
	if st != statusOK {
		return st
	}
	return c.put32(1, r.version)
}

func requestVersionSet(c *call) status {
	r, st := c.requestOf(0)
	switch {
	case st != statusOK:
		return st
	case c.u32(1) > http3:
		return statusInvalid
	}
	r.version = c.u32(1)
	return statusOK
}

func requestFramingSet(c *call) status {
	r, st := c.requestOf(0)
	switch {
	case st != statusOK:
		return st
	case c.u32(1) > 1:
		return statusInvalid
	}
	r.framing = c.u32(1) == 1
	return statusOK
}

// encodingGzip is the only one there is.
const encodingGzip = 1

func requestDecompressSet(c *call) status {
	r, st := c.requestOf(0)
	switch {
	case st != statusOK:
		return st
	case c.u32(1)&^encodingGzip != 0:
		return statusInvalid
	}
	r.decompress = c.u32(1)&encodingGzip != 0
	return statusOK
}

// Bits of what a cache override says.
const (
	overridePass  = 1
	overrideTTL   = 2
	overrideStale = 4
	overridePCI   = 8
	overrideWait  = 16
)

// overrideBytes is the size of what cache_override_v3_set is given.
//
//	offset  0  ttl             u32  seconds
//	        4  stale           u32  seconds
//	        8  surrogate keys  u32  address, then length
//	       16  lookup timeout  u32  milliseconds
const overrideBytes = 20

func requestCacheOverride(c *call) status {
	return c.overrideCache(overridePCI, func(o *cacheOverride) status {
		o.TTL, o.StaleWhileRevalidate = c.u32(2), c.u32(3)
		return statusOK
	})
}

func requestCacheOverrideV2(c *call) status {
	return c.overrideCache(overridePCI, func(o *cacheOverride) status {
		keys, st := c.bytes(4)
		o.TTL, o.StaleWhileRevalidate, o.SurrogateKey = c.u32(2), c.u32(3), string(keys)
		return st
	})
}

func requestCacheOverrideV3(c *call) status {
	return c.overrideCache(overrideWait, func(o *cacheOverride) status {
		record, st := c.record(2, overrideBytes, 4)
		if st != statusOK {
			return st
		}
		keys, st := c.field(record, 8)
		o.TTL, o.StaleWhileRevalidate, o.SurrogateKey = little32(record, 0), little32(record, 4), string(keys)
		if c.u32(1)&overrideWait != 0 {
			o.HasLookupTimeout, o.LookupTimeout = true, little32(record, 16)
		}
		return st
	})
}

// overrideCache notes what read reads: parameter 1 says what of it counts, in bits up
// to the last one that the call knows.
func (c *call) overrideCache(last uint32, read func(*cacheOverride) status) status {
	r, st := c.requestOf(0)
	if st != statusOK {
		return st
	}
	tag := c.u32(1)
	o := &cacheOverride{
		Pass: tag&overridePass != 0, PCI: tag&overridePCI != 0, HasTTL: tag&overrideTTL != 0, HasStale: tag&overrideStale != 0,
	}
	st = read(o)
	switch {
	case st != statusOK:
		return st
	case tag >= last<<1, !httpguts.ValidHeaderFieldValue(o.SurrogateKey):
		return statusInvalid
	}
	r.cache = o
	return statusOK
}

// inspectVerdict is what the WAF that is not there says, as Viceroy does.
const inspectVerdict = `{"waf_response":200,"redirect_url":"","tags":[],"verdict":"allow","decision_ms":0}`

// Bits of what a guest says to inspect.
const (
	inspectCorp      = 1 << 1
	inspectWorkspace = 1 << 2
	inspectClientIP  = 1 << 3
)

// requestInspect would ask a firewall: everything is allowed.
func requestInspect(c *call) status {
	if _, st := c.requestOf(0); st != statusOK {
		return st
	}
	if _, st := itemOf[*body](c.sandbox, c.u32(1)); st != statusOK {
		return st
	}
	mask := c.u32(2)
	info, st := c.record(3, 24, 4)
	if st != statusOK {
		return st
	}
	if mask&^(inspectCorp|inspectWorkspace|inspectClientIP) != 0 || mask&inspectCorp == 0 || mask&inspectWorkspace == 0 {
		return statusInvalid
	}
	for _, at := range []int{0, 8} {
		name, st := c.field(info, at)
		if st != statusOK {
			return st
		}
		if len(name) == 0 || !utf8.Valid(name) {
			return statusInvalid
		}
	}
	if mask&inspectClientIP != 0 {
		address, st := c.field(info, 16)
		if st != statusOK {
			return st
		}
		if _, ok := netip.AddrFromSlice(address); !ok {
			return statusInvalid
		}
	}
	if len(inspectVerdict) > int(c.u32(5)) {
		return statusBufferLen
	}
	into, st := c.at(c.u32(4), uint32(len(inspectVerdict)))
	if st != statusOK {
		return st
	}
	copy(into, inspectVerdict)
	return c.put32(6, uint32(len(inspectVerdict)))
}
