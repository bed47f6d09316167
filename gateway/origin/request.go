package origin

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// What cannot be taken to an origin.
var (
	// ErrMethod: CONNECT asks for a tunnel, and TRACE would show the client the
	// signature that is meant for the origin. The answer is 405.
	ErrMethod = errors.New("method is not relayed")

	// ErrTarget: the request's target is neither a path nor, for OPTIONS, "*". The
	// answer is 400.
	ErrTarget = errors.New("request target is not a path")
)

// Call is what is particular about one request.
type Call struct {
	// WebSocket says that the request is a handshake: no body, no compression of
	// answers, and extensions are a matter between gateway and origin.
	WebSocket bool

	// Hints is told what the origin says before its answer (103 Early Hints). Nil
	// drops that. Set it for HTTP/2 clients: others seldom expect it.
	Hints http.ResponseWriter
}

// Prepare makes the request that goes to the origin of one that a server
// received, and tells whether that came from a trusted gateway. r is left as it
// is, but its body and the values of its headers become the new request's, too.
//
// Path and query are those of r.RequestURI, byte for byte, unless r.URL says
// otherwise; the new request has them in RequestURI as well, and Pool relies on
// that rather than on URL.
//
// The error is ErrMethod, ErrTarget, or the Signer's.
func (rules *Rules) Prepare(r *http.Request, call Call) (out *http.Request, trusted bool, err error) {
	if r.Method == http.MethodConnect || r.Method == http.MethodTrace {
		return nil, false, ErrMethod
	}
	trusted = rules.Trusts(r)
	grips := !trusted && !rules.NoGrip

	ctx := r.Context()
	if call.Hints != nil {
		ctx = context.WithValue(ctx, hintsKey{}, &hints{w: call.Hints, stripGrip: grips})
	}
	out = r.WithContext(ctx)
	out.Close, out.Form, out.PostForm, out.MultipartForm = false, nil, nil, nil
	out.TLS, out.Response, out.Pattern, out.RemoteAddr = nil, nil, "", ""
	out.Proto, out.ProtoMajor, out.ProtoMinor = "HTTP/1.1", 1, 1
	if rules.AsHost != "" {
		out.Host = rules.AsHost
	}
	if err := rules.setTarget(out, r); err != nil {
		return nil, trusted, err
	}
	rules.setBody(out, r, call)
	if err := rules.setHeader(out, r, call, trusted); err != nil {
		return nil, trusted, err
	}
	return out, trusted, nil
}

// setTarget sets URL and RequestURI.
func (rules *Rules) setTarget(out, r *http.Request) error {
	target := clientTarget(r)
	path, query, hasQuery := strings.Cut(target, "?")
	if path == "" || path[0] != '/' {
		if path != "*" || r.Method != http.MethodOptions {
			return ErrTarget
		}
		out.RequestURI, out.URL = "*", &url.URL{Scheme: "http", Host: out.Host, Path: "*"}
		return nil
	}
	changed := path
	switch {
	case rules.ReplaceBeg != nil:
		rest, begins := strings.CutPrefix(path, rules.PathBeg)
		if begins {
			changed = *rules.ReplaceBeg + rest
		}
	case rules.PathRem > 0:
		changed = path[min(rules.PathRem, len(path)):]
	}
	if changed == "" || changed[0] != '/' {
		changed = "/" + changed
	}
	if changed != path {
		target = changed
		if hasQuery {
			target += "?" + query
		}
	}
	to := &url.URL{Scheme: "http", Host: out.Host, RawQuery: query, ForceQuery: hasQuery && query == ""}
	if changed == path && r.URL != nil && r.URL.Path != "" {
		to.Path, to.RawPath = r.URL.Path, r.URL.RawPath
	} else if plain, err := url.PathUnescape(changed); err == nil {
		to.Path = plain
		if to.EscapedPath() != changed {
			to.RawPath = changed
		}
	} else {
		to.Path = changed // an escape was cut in half; RequestURI has it as it is
	}
	out.RequestURI, out.URL = target, to
	return nil
}

// clientTarget returns path and query as the client wrote them, without scheme
// and host, if r.URL still says the same. Bytes that would end the target are
// escaped: HTTP/2 lets a client send a space, HTTP/1 would take what follows for
// something else.
func clientTarget(r *http.Request) string {
	target := r.RequestURI
	if target != "" && target[0] != '/' && target != "*" {
		if _, rest, absolute := strings.Cut(target, "://"); absolute {
			if i := strings.IndexAny(rest, "/?"); i >= 0 {
				target = rest[i:]
			} else {
				target = "/"
			}
			if target[0] == '?' {
				target = "/" + target
			}
		}
	}
	if r.URL != nil && !says(r.URL, target) {
		target = r.URL.RequestURI()
	}
	return escapeEnds(target)
}

// says tells whether u is what net/url makes of target.
func says(u *url.URL, target string) bool {
	path, query, _ := strings.Cut(target, "?")
	if query != u.RawQuery {
		return false
	}
	if u.RawPath != "" {
		return path == u.RawPath
	}
	return path == u.EscapedPath() || path == "/" && u.Path == ""
}

func escapeEnds(target string) string {
	ends := func(c byte) bool { return c <= ' ' || c == 0x7f }
	for i := range len(target) {
		if !ends(target[i]) {
			continue
		}
		escaped := []byte(target[:i])
		for j := i; j < len(target); j++ {
			if c := target[j]; ends(c) {
				escaped = append(escaped, '%', "0123456789ABCDEF"[c>>4], "0123456789ABCDEF"[c&15])
			} else {
				escaped = append(escaped, c)
			}
		}
		return string(escaped)
	}
	return target
}

// chunked is shared by requests whose length is not known. Nobody changes it.
var chunked = []string{"chunked"}

// setBody sets body, length and trailers. A server knows a request without body
// by its length of 0.
func (rules *Rules) setBody(out, r *http.Request, call Call) {
	out.Trailer, out.TransferEncoding, out.GetBody = nil, nil, nil
	if call.WebSocket || r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		out.Body, out.ContentLength = http.NoBody, 0
		return
	}
	if r.ContentLength > 0 {
		return
	}
	// Chunked, said outright: net/http would wait for a first byte of a GET's.
	out.TransferEncoding = chunked
	connection := r.Header["Connection"]
	out.Trailer = make(http.Header, len(r.Trailer))
	for name := range r.Trailer {
		if trailing(name) && !hasToken(connection, name) {
			out.Trailer[name] = nil
		}
	}
	out.Body = &trailedBody{ReadCloser: r.Body, from: r, to: out.Trailer, connection: connection}
}

// trailedBody hands the trailers over when the body has ended: only then has the
// server read them.
type trailedBody struct {
	io.ReadCloser
	from       *http.Request
	to         http.Header
	connection []string
}

func (b *trailedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		for name, values := range b.from.Trailer {
			if trailing(name) && !hasToken(b.connection, name) && !slices.ContainsFunc(values, invalidValue) {
				b.to[name] = values
			}
		}
	}
	return n, err
}

func invalidValue(value string) bool { return !httpguts.ValidHeaderFieldValue(value) }

// Values that many requests share. A slice's capacity is its length, so adding
// to one copies it.
var (
	gzipOnly     = []string{"gzip"}
	trailersOnly = []string{"trailers"}
	gripOnly     = []string{"grip"}
)

// setHeader follows the order of Pushpin: what a later step removes cannot have
// been put there by an earlier one.
func (rules *Rules) setHeader(out, r *http.Request, call Call, trusted bool) error {
	grips := !trusted && !rules.NoGrip
	removeProto := rules.XForwardedProto != ForwardedProtoNone || rules.AcceptXForwardedProto
	connection := r.Header["Connection"]
	size := len(r.Header) + len(rules.Header) + 4 // Grip-Sig, Grip-Feature, X-Forwarded-*
	if rules.OrigHeaders {
		size *= 2
	}
	header := make(http.Header, size)
	for name, values := range r.Header {
		var keep bool
		switch kindOf(name) {
		case endToEnd:
			keep = true
		case cdnLoop:
			keep = name == "Cdn-Loop" // and in no other spelling
		case forwardedFor:
			keep = name == "X-Forwarded-For"
		case reserved:
			keep = trusted
		case marked:
			keep = trusted && rules.OrigHeaders
		case acceptEncoding:
			// What is passed on unread may be coded as the client likes; of a GRIP
			// answer's codings the gateway can undo one.
			keep = !grips && !call.WebSocket && name == "Accept-Encoding"
			if grips && !call.WebSocket && acceptsGzip(values) {
				header["Accept-Encoding"] = gzipOnly
			}
		case forwardedProto:
			keep = !removeProto
		case extensions:
			// The gateway frames messages anew: of all extensions one can pass.
			if call.WebSocket && trusted && offersGrip(values) {
				header["Sec-Websocket-Extensions"] = gripOnly
			}
		}
		if keep && len(values) > 0 && (len(connection) == 0 || !hasToken(connection, name)) {
			header[name] = values[:len(values):len(values)]
		}
	}
	if !call.WebSocket && hasToken(r.Header["Te"], "trailers") {
		header["Te"] = trailersOnly
	}

	routeSaysProto := rules.setRouteHeader(header)
	if rules.OrigHeaders && !trusted {
		for name, values := range r.Header {
			switch kindOf(name) {
			case marked, reserved, routing: // not even as a quotation
			default:
				header[http.CanonicalHeaderKey(markPrefix+name)] = values[:len(values):len(values)]
			}
		}
	}
	if rules.CDNLoop != "" {
		header["Cdn-Loop"] = []string{strings.Join(append(slices.Clone(header["Cdn-Loop"]), rules.CDNLoop), ", ")}
	}
	if grips {
		if err := rules.SignHeader(header); err != nil {
			return err
		}
		if call.WebSocket {
			header["Sec-Websocket-Extensions"] = gripOnly
		}
	}
	if rules.XForwardedProto != ForwardedProtoNone && !routeSaysProto && rules.TLS(r) {
		proto := []string{"https"}
		if call.WebSocket {
			proto[0] = "wss"
		}
		header["X-Forwarded-Proto"] = proto
		if rules.XForwardedProto == ForwardedProtoBoth {
			header["X-Forwarded-Protocol"] = slices.Clone(proto)
		}
	}
	if trusted {
		rules.XForwardedForTrusted.apply(header, r.RemoteAddr)
	} else {
		rules.XForwardedFor.apply(header, r.RemoteAddr)
	}
	out.Header = header
	return nil
}

// setRouteHeader sets what the route says, and tells whether the route itself
// says that the client came over TLS.
func (rules *Rules) setRouteHeader(header http.Header) (saysProto bool) {
	for _, field := range rules.Header {
		name, value := http.CanonicalHeaderKey(field[0]), field[1]
		switch kindOf(name) {
		case hopByHop, reserved, routing, extensions:
			continue
		case forwardedProto:
			saysProto = true
		}
		if value == "" {
			delete(header, name)
		} else {
			header[name] = []string{value}
		}
	}
	return saysProto
}

// acceptsGzip says whether an Accept-Encoding takes gzip.
func acceptsGzip(values []string) bool {
	others := false // a "*" takes codings that are not listed
	for _, value := range values {
		for element := range strings.SplitSeq(value, ",") {
			coding, params, _ := strings.Cut(element, ";")
			coding = strings.TrimSpace(coding)
			switch {
			case strings.EqualFold(coding, "gzip"):
				return !weighsNothing(params)
			case coding == "*":
				others = !weighsNothing(params)
			}
		}
	}
	return others
}

// weighsNothing says whether parameters are a q of 0, 0.0 and so on.
func weighsNothing(params string) bool {
	name, weight, ok := strings.Cut(params, "=")
	if !ok || !strings.EqualFold(strings.TrimSpace(name), "q") {
		return false
	}
	weight = strings.TrimSpace(weight)
	return strings.HasPrefix(weight, "0") && strings.Trim(weight, "0.") == ""
}

// offersGrip says whether a Sec-WebSocket-Extensions offers the grip extension.
func offersGrip(values []string) bool {
	for _, value := range values {
		for element := range strings.SplitSeq(value, ",") {
			name, _, _ := strings.Cut(element, ";")
			if strings.TrimSpace(name) == "grip" {
				return true
			}
		}
	}
	return false
}

// apply changes X-Forwarded-For; remote is the peer's address and port.
func (f ForwardedFor) apply(header http.Header, remote string) {
	if !f.Truncate && !f.Append {
		return
	}
	var addresses []string
	for _, value := range header["X-Forwarded-For"] {
		for element := range strings.SplitSeq(value, ",") {
			if element = strings.TrimSpace(element); element != "" {
				addresses = append(addresses, element)
			}
		}
	}
	if f.Truncate {
		addresses = addresses[max(len(addresses)-f.Keep, 0):]
	}
	if peer, err := netip.ParseAddrPort(remote); f.Append && err == nil {
		addresses = append(addresses, peer.Addr().Unmap().WithZone("").String())
	}
	if len(addresses) == 0 {
		delete(header, "X-Forwarded-For")
		return
	}
	header["X-Forwarded-For"] = []string{strings.Join(addresses, ", ")}
}

// hints relays what an origin says before its answer.
type hints struct {
	w         http.ResponseWriter
	stripGrip bool
}

type hintsKey struct{}

// relay passes on a head of 1xx. 100 answers an Expect that the gateway answers
// itself, 101 is no hint.
func (h *hints) relay(status int, header http.Header) {
	if status <= http.StatusSwitchingProtocols || status > 199 {
		return
	}
	CleanHeader(header)
	to := h.w.Header()
	before := maps.Clone(to)
	for name, values := range header {
		if !h.stripGrip || kindOf(name) != reserved {
			to[name] = values
		}
	}
	h.w.WriteHeader(status)
	clear(to)
	maps.Copy(to, before)
}
