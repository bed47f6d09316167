package origin_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/origin"
)

// parse reads a request as a server does.
func parse(t *testing.T, wire string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(wire)))
	if err != nil {
		t.Fatalf("request %.60q: %v", wire, err)
	}
	r.RemoteAddr = "192.0.2.7:50000"
	return r
}

// get makes a request as a server would have received it.
func get(target string) *http.Request { return httptest.NewRequest(http.MethodGet, target, nil) }

// prepare prepares a GET with the given header lines.
func prepare(t *testing.T, rules *origin.Rules, call origin.Call, lines ...string) (*http.Request, bool) {
	t.Helper()
	r := parse(t, "GET /x HTTP/1.1\r\nHost: example.com\r\n"+strings.Join(append(lines, ""), "\r\n")+"\r\n")
	out, trusted, err := rules.Prepare(r, call)
	if err != nil {
		t.Fatalf("Prepare: %v", err)
	}
	return out, trusted
}

func signer(time.Time) (string, error) { return "signed", nil }

// upstream trusts one token.
func upstream(token string, _ time.Time) error {
	if token != "upstream" {
		return errors.New("unknown token")
	}
	return nil
}

func TestRouteChangesPathAndHost(t *testing.T) {
	empty, slash, fresh := "", "/", "/new/"
	for _, c := range []struct {
		name   string
		rules  origin.Rules
		target string
		want   string // request target
		host   string
	}{
		{"nothing is changed", origin.Rules{}, "/a/b?q=1", "/a/b?q=1", "example.com:7999"},
		{"as_host takes the port along", origin.Rules{AsHost: "inner.example"}, "/a", "/a", "inner.example"},
		{"as_host with a port", origin.Rules{AsHost: "inner.example:81"}, "/a", "/a", "inner.example:81"},
		{"path_rem cuts bytes of the encoded path", origin.Rules{PathRem: 4}, "/cut/%2Fa?b=/cut/", "/%2Fa?b=/cut/", "example.com:7999"},
		{"path_rem leaves no path", origin.Rules{PathRem: 4}, "/cut", "/", "example.com:7999"},
		{"path_rem is longer than the path", origin.Rules{PathRem: 40}, "/cut?x", "/?x", "example.com:7999"},
		{"path_rem takes the slash", origin.Rules{PathRem: 5}, "/cut/a", "/a", "example.com:7999"},
		{"path_rem cuts an escape in half", origin.Rules{PathRem: 2}, "/%2Fa", "/2Fa", "example.com:7999"},
		{"replace_beg in the place of path_beg", origin.Rules{PathBeg: "/api/", ReplaceBeg: &fresh}, "/api/x?q=1", "/new/x?q=1", "example.com:7999"},
		{"replace_beg without path_beg precedes", origin.Rules{ReplaceBeg: &fresh}, "/x", "/new//x", "example.com:7999"},
		{"replace_beg with nothing", origin.Rules{PathBeg: "/api", ReplaceBeg: &empty}, "/api/x", "/x", "example.com:7999"},
		{"replace_beg leaves no path", origin.Rules{PathBeg: "/api", ReplaceBeg: &empty}, "/api?q", "/?q", "example.com:7999"},
		{"replace_beg and not path_rem", origin.Rules{PathBeg: "/api/", ReplaceBeg: &slash, PathRem: 3}, "/api/x", "/x", "example.com:7999"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := parse(t, "GET "+c.target+" HTTP/1.1\r\nHost: example.com:7999\r\n\r\n")
			out, _, err := c.rules.Prepare(r, origin.Call{})
			if err != nil {
				t.Fatalf("Prepare: %v", err)
			}
			if out.RequestURI != c.want || out.Host != c.host {
				t.Errorf("Prepare = %q at %q, want %q at %q", out.RequestURI, out.Host, c.want, c.host)
			}
			if got := out.URL.RequestURI(); got != c.want {
				t.Errorf("URL says %q, want %q", got, c.want)
			}
		})
	}
}

func TestTargetIsThatOfTheURLIfSomebodyChangedIt(t *testing.T) {
	r := parse(t, "GET /as/the%2Fclient?wrote HTTP/1.1\r\nHost: x\r\n\r\n")
	r.URL, _ = url.Parse("http://x/as/a%2Fguest?likes")
	out, _, err := (&origin.Rules{}).Prepare(r, origin.Call{})
	if want := "/as/a%2Fguest?likes"; err != nil || out.RequestURI != want {
		t.Errorf("Prepare = %q, %v, want %q", out.RequestURI, err, want)
	}
}

func TestSpaceCannotEndTheRequestTarget(t *testing.T) {
	// HTTP/2 carries the target in a field of its own, where a space is a byte like others.
	r := httptest.NewRequest("GET", "/", nil)
	r.RequestURI = "/a b HTTP/1.1?x y"
	r.URL = &url.URL{Path: "/a b HTTP/1.1", RawPath: "/a b HTTP/1.1", RawQuery: "x y"}
	out, _, err := (&origin.Rules{}).Prepare(r, origin.Call{})
	if want := "/a%20b%20HTTP/1.1?x%20y"; err != nil || out.RequestURI != want {
		t.Errorf("Prepare = %q, %v, want %q", out.RequestURI, err, want)
	}
}

func TestWhatIsNoPathIsRefused(t *testing.T) {
	for _, c := range []struct {
		name, line string
		want       error
	}{
		{"a tunnel", "CONNECT example.com:443 HTTP/1.1", origin.ErrMethod},
		{"TRACE would show the signature", "TRACE / HTTP/1.1", origin.ErrMethod},
		{"* is for OPTIONS", "GET * HTTP/1.1", origin.ErrTarget},
		{"OPTIONS *", "OPTIONS * HTTP/1.1", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, _, err := (&origin.Rules{}).Prepare(parse(t, c.line+"\r\nHost: x\r\n\r\n"), origin.Call{})
			if !errors.Is(err, c.want) {
				t.Fatalf("Prepare = %v, want %v", err, c.want)
			}
			if c.want == nil && out.RequestURI != "*" {
				t.Errorf("Prepare = %q, want *", out.RequestURI)
			}
		})
	}
}

func TestClientCannotSpeakInTheGatewaysName(t *testing.T) {
	names := []string{
		"Grip-Sig", "GRIP-LAST", "grip-feature", "Grip-", "Grip-Anything", "Grip_Sig", "Grip.Sig", "grip-SIG",
		"Meta-User", "META_USER", "Connection-Id", "Connection_Id", "Pushpin-Route", "Pushpin_Route", "eb9bf0f5-Cookie", "EB9BF0F5_Cookie",
	}
	lines := []string{"X-Fine: yes", "Gripe: yes", "Metal: yes", "Connection-Idea: yes"}
	for _, name := range names {
		lines = append(lines, name+": forged")
	}
	for _, noGrip := range []bool{false, true} {
		out, _ := prepare(t, &origin.Rules{NoGrip: noGrip, OrigHeaders: noGrip, Verifier: upstream}, origin.Call{}, lines...)
		for name, values := range out.Header {
			if slices.Contains(values, "forged") {
				t.Errorf("NoGrip %t: the origin sees %s: %q", noGrip, name, values)
			}
		}
		for _, name := range []string{"X-Fine", "Gripe", "Metal", "Connection-Idea"} {
			if out.Header.Get(name) != "yes" {
				t.Errorf("NoGrip %t: %s is missing", noGrip, name)
			}
		}
	}
}

func TestRequestsAreSignedUnlessTheRouteHasNoGrip(t *testing.T) {
	rules := &origin.Rules{Signer: signer, Feature: "status, session"}
	out, _ := prepare(t, rules, origin.Call{}, "Grip-Sig: forged", "Grip-Sig: twice", "Connection: grip-sig, Grip-Feature, X-Hop", "X-Hop: yes")
	if got := out.Header["Grip-Sig"]; !slices.Equal(got, []string{"signed"}) {
		t.Errorf("Grip-Sig = %q, want ours alone", got)
	}
	if got := out.Header["Grip-Feature"]; !slices.Equal(got, []string{"status, session"}) {
		t.Errorf("Grip-Feature = %q", got)
	}
	if _, there := out.Header["X-Hop"]; there {
		t.Errorf("X-Hop is relayed although Connection lists it")
	}
	rules.NoGrip = true
	out, _ = prepare(t, rules, origin.Call{})
	if len(out.Header) != 0 {
		t.Errorf("no_grip adds %v", out.Header)
	}
}

func TestSigningThatFailsIsAnError(t *testing.T) {
	broken := errors.New("no key")
	rules := &origin.Rules{Signer: func(time.Time) (string, error) { return "", broken }}
	if _, _, err := rules.Prepare(get("/"), origin.Call{}); !errors.Is(err, broken) {
		t.Errorf("Prepare = %v, want %v", err, broken)
	}
}

func TestTrustedGatewayIsPassedOn(t *testing.T) {
	rules := &origin.Rules{Signer: signer, Feature: "all", Verifier: upstream, XForwardedForTrusted: origin.ForwardedFor{Append: true}}
	lines := []string{
		"Grip-Last: room; last-id=1", "Meta-User: u", "Connection-Id: c", "Pushpin-Route: r", "eb9bf0f5-Cookie: c",
		"Accept-Encoding: br", "X-Forwarded-For: 198.51.100.1",
	}
	out, trusted := prepare(t, rules, origin.Call{}, append(lines, "Grip-Sig: upstream")...)
	want := http.Header{
		"Grip-Sig": {"upstream"}, "Grip-Last": {"room; last-id=1"}, "Meta-User": {"u"}, "Connection-Id": {"c"},
		"Accept-Encoding": {"br"}, "X-Forwarded-For": {"198.51.100.1, 192.0.2.7"},
	}
	if !trusted || !maps.EqualFunc(out.Header, want, slices.Equal) {
		t.Errorf("trusted %t, header\n%v, want\n%v", trusted, out.Header, want)
	}

	for _, sig := range [][]string{{"Grip-Sig: other"}, {"Grip-Sig: upstream", "Grip-Sig: other"}, {"Grip_Sig: upstream"}, nil} {
		out, trusted := prepare(t, rules, origin.Call{}, append(lines, sig...)...)
		if trusted || out.Header.Get("Grip-Sig") != "signed" || out.Header.Get("Grip-Last") != "" || out.Header.Get("Meta-User") != "" {
			t.Errorf("%q: trusted %t, header %v", sig, trusted, out.Header)
		}
	}
}

func TestHeadersOfTheClientsConnectionStayThere(t *testing.T) {
	out, _ := prepare(t, &origin.Rules{NoGrip: true}, origin.Call{},
		"Connection: close, X-Private", "X-Private: yes", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "Upgrade: h2c",
		"Http2-Settings: AAMA", "Te: trailers, deflate", "Trailer: X-T", "Expect: 100-continue", "Proxy: http://evil", "Proxy-Authorization: Basic x",
		"Transfer_Encoding: chunked", "Content-Encoding: br", "Cookie: a=b")
	want := http.Header{"Te": {"trailers"}, "Content-Encoding": {"br"}, "Cookie": {"a=b"}}
	if !maps.EqualFunc(out.Header, want, slices.Equal) {
		t.Errorf("header\n%v, want\n%v", out.Header, want)
	}
	out, _ = prepare(t, &origin.Rules{NoGrip: true}, origin.Call{}, "X_Forwarded_For: 1.1.1.1", "X_Forwarded_Proto: https", "CDN_Loop: x", "Accept_Encoding: br")
	if len(out.Header) != 0 {
		t.Errorf("in another spelling: header %v, want none", out.Header)
	}
	if out.Close {
		t.Error("the client's Connection: close closes the origin's, too")
	}
}

func TestAnswersMayComeInACodingThatCanBeUndone(t *testing.T) {
	for _, c := range []struct {
		name, accept string
		want         []string
		wantNoGrip   []string
	}{
		{"gzip among others", "Accept-Encoding: deflate, GZIP;q=0.5, br", []string{"gzip"}, []string{"deflate, GZIP;q=0.5, br"}},
		{"gzip refused", "Accept-Encoding: gzip;q=0, br", nil, []string{"gzip;q=0, br"}},
		{"gzip refused to three places", "Accept-Encoding: gzip; q=0.000, *", nil, []string{"gzip; q=0.000, *"}},
		{"anything", "Accept-Encoding: *", []string{"gzip"}, []string{"*"}},
		{"nothing else", "Accept-Encoding: identity, *;q=0", nil, []string{"identity, *;q=0"}},
		{"nothing said", "X: y", nil, nil},
		{"only br", "Accept-Encoding: br, zstd", nil, []string{"br, zstd"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, _ := prepare(t, &origin.Rules{}, origin.Call{}, c.accept)
			if got := out.Header["Accept-Encoding"]; !slices.Equal(got, c.want) {
				t.Errorf("Accept-Encoding = %q, want %q", got, c.want)
			}
			out, _ = prepare(t, &origin.Rules{NoGrip: true}, origin.Call{}, c.accept)
			if got := out.Header["Accept-Encoding"]; !slices.Equal(got, c.wantNoGrip) {
				t.Errorf("no_grip: Accept-Encoding = %q, want %q", got, c.wantNoGrip)
			}
			out, _ = prepare(t, &origin.Rules{}, origin.Call{WebSocket: true}, c.accept)
			if got := out.Header["Accept-Encoding"]; got != nil {
				t.Errorf("WebSocket: Accept-Encoding = %q", got)
			}
		})
	}
}

func TestRouteSetsHeadersAndRemovesThem(t *testing.T) {
	rules := &origin.Rules{Signer: signer, Header: [][2]string{
		{"x-route", "yes"}, {"Cookie", ""}, {"X-Twice", "1"}, {"X-Twice", "2"},
		{"Grip-Sig", "route's"}, {"Connection", "close"}, {"Transfer-Encoding", "chunked"}, {"Host", "x"},
	}}
	out, _ := prepare(t, rules, origin.Call{}, "X-Route: client", "X-Route: client again", "Cookie: a=b", "X-Other: o")
	want := http.Header{"X-Route": {"yes"}, "X-Twice": {"2"}, "X-Other": {"o"}, "Grip-Sig": {"signed"}}
	if !maps.EqualFunc(out.Header, want, slices.Equal) || out.Host != "example.com" {
		t.Errorf("host %q, header\n%v, want\n%v", out.Host, out.Header, want)
	}
}

func TestOriginIsToldOfTLSAsTheSettingsSay(t *testing.T) {
	for _, c := range []struct {
		name           string
		rules          origin.Rules
		tls, websocket bool
		line           string
		proto, old     string
	}{
		{"plain", origin.Rules{}, false, false, "X-Forwarded-Proto: https", "", ""},
		{"old name, too", origin.Rules{}, false, false, "X-Forwarded-Protocol: https", "", ""},
		{"TLS", origin.Rules{}, true, false, "X-Forwarded-Proto: http", "https", ""},
		{"WebSocket over TLS", origin.Rules{}, true, true, "X: y", "wss", ""},
		{"both names", origin.Rules{XForwardedProto: origin.ForwardedProtoBoth}, true, false, "X: y", "https", "https"},
		{"neither", origin.Rules{XForwardedProto: origin.ForwardedProtoNone}, true, false, "X-Forwarded-Proto: what", "what", ""},
		{"believed", origin.Rules{AcceptXForwardedProto: true}, false, false, "X-Forwarded-Proto: wss", "https", ""},
		{"believed by its old name", origin.Rules{AcceptXForwardedProto: true}, false, false, "X-Forwarded-Protocol: HTTPS", "https", ""},
		{"believed, plain", origin.Rules{AcceptXForwardedProto: true}, false, false, "X-Forwarded-Proto: http", "", ""},
		{"believed, not told", origin.Rules{AcceptXForwardedProto: true, XForwardedProto: origin.ForwardedProtoNone}, true, false, "X-Forwarded-Proto: https", "", ""},
		{"the route says so", origin.Rules{Header: [][2]string{{"X-Forwarded-Proto", "https"}}}, false, false, "X-Forwarded-Proto: http", "https", ""},
		{"the route says no", origin.Rules{Header: [][2]string{{"X-Forwarded-Proto", ""}}}, true, false, "X-Forwarded-Proto: http", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := parse(t, "GET /x HTTP/1.1\r\nHost: x\r\n"+c.line+"\r\n\r\n")
			if c.tls {
				r.TLS = &tls.ConnectionState{}
			}
			out, _, err := c.rules.Prepare(r, origin.Call{WebSocket: c.websocket})
			if err != nil {
				t.Fatal(err)
			}
			proto, old := out.Header.Get("X-Forwarded-Proto"), out.Header.Get("X-Forwarded-Protocol")
			if proto != c.proto || old != c.old {
				t.Errorf("X-Forwarded-Proto %q, -Protocol %q, want %q, %q", proto, old, c.proto, c.old)
			}
		})
	}
}

func TestForwardedForFollowsItsRules(t *testing.T) {
	for _, c := range []struct {
		name  string
		rules []string
		lines []string
		peer  string
		want  []string
	}{
		{"relayed as it is", nil, []string{"X-Forwarded-For: 1.1.1.1,2.2.2.2", "X-Forwarded-For: 3.3.3.3"}, "192.0.2.7:1", []string{"1.1.1.1,2.2.2.2", "3.3.3.3"}},
		{"nothing is appended unasked", nil, nil, "192.0.2.7:1", nil},
		{"appended", []string{"append"}, []string{"X-Forwarded-For: 1.1.1.1,2.2.2.2", "X-Forwarded-For: 3.3.3.3"}, "192.0.2.7:1", []string{"1.1.1.1, 2.2.2.2, 3.3.3.3, 192.0.2.7"}},
		{"the first", []string{"append"}, nil, "[2001:db8::1%eth0]:1", []string{"2001:db8::1"}},
		{"in one spelling", []string{"append"}, nil, "[::ffff:192.0.2.7]:1", []string{"192.0.2.7"}},
		{"all dropped", []string{"truncate:0"}, []string{"X-Forwarded-For: 1.1.1.1"}, "192.0.2.7:1", nil},
		{"dropped and appended", []string{"truncate:0", "append"}, []string{"X-Forwarded-For: 1.1.1.1"}, "192.0.2.7:1", []string{"192.0.2.7"}},
		{"the last two", []string{"truncate:2"}, []string{"X-Forwarded-For: 1.1.1.1, 2.2.2.2", "X-Forwarded-For: 3.3.3.3"}, "192.0.2.7:1", []string{"2.2.2.2, 3.3.3.3"}},
		{"more than there are", []string{" truncate:9 "}, []string{"X-Forwarded-For: 1.1.1.1"}, "192.0.2.7:1", []string{"1.1.1.1"}},
		{"no peer's address", []string{"append"}, nil, "@", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			rule, err := origin.ParseForwardedFor(c.rules)
			if err != nil {
				t.Fatal(err)
			}
			r := parse(t, "GET /x HTTP/1.1\r\nHost: x\r\n"+strings.Join(append(c.lines, ""), "\r\n")+"\r\n")
			r.RemoteAddr = c.peer
			out, _, err := (&origin.Rules{XForwardedFor: rule}).Prepare(r, origin.Call{})
			if err != nil {
				t.Fatal(err)
			}
			if got := out.Header["X-Forwarded-For"]; !slices.Equal(got, c.want) {
				t.Errorf("X-Forwarded-For = %q, want %q", got, c.want)
			}
		})
	}
	for _, bad := range []string{"truncate:", "truncate:-1", "truncate:x", "prepend"} {
		if _, err := origin.ParseForwardedFor([]string{bad}); err == nil || !strings.Contains(err.Error(), `"`+bad+`"`) {
			t.Errorf("ParseForwardedFor(%q) = %v, want an error that names it", bad, err)
		}
	}
}

func TestCDNLoopGrows(t *testing.T) {
	out, _ := prepare(t, &origin.Rules{CDNLoop: "gripway"}, origin.Call{}, "CDN-Loop: a, b", "Cdn-Loop: c")
	if got := out.Header["Cdn-Loop"]; !slices.Equal(got, []string{"a, b, c, gripway"}) {
		t.Errorf("CDN-Loop = %q", got)
	}
	out, _ = prepare(t, &origin.Rules{}, origin.Call{}, "CDN-Loop: a", "CDN-Loop: b")
	if got := out.Header["Cdn-Loop"]; !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("without a name of ours, CDN-Loop = %q", got)
	}
}

func TestOriginalHeadersAreMarked(t *testing.T) {
	rules := &origin.Rules{NoGrip: true, OrigHeaders: true, Verifier: upstream, Header: [][2]string{{"Cookie", "route's"}}}
	out, _ := prepare(t, rules, origin.Call{}, "Cookie: client's", "eb9bf0f5-Cookie: forged", "Grip-Sig: forged", "X-A: 1", "X-A: 2")
	want := http.Header{"Cookie": {"route's"}, "X-A": {"1", "2"}, "Eb9bf0f5-Cookie": {"client's"}, "Eb9bf0f5-X-A": {"1", "2"}}
	if !maps.EqualFunc(out.Header, want, slices.Equal) {
		t.Errorf("header\n%v, want\n%v", out.Header, want)
	}
	// A trusted gateway has marked them already.
	out, _ = prepare(t, rules, origin.Call{}, "Cookie: changed", "eb9bf0f5-Cookie: first", "Grip-Sig: upstream")
	want = http.Header{"Cookie": {"route's"}, "Eb9bf0f5-Cookie": {"first"}, "Grip-Sig": {"upstream"}}
	if !maps.EqualFunc(out.Header, want, slices.Equal) {
		t.Errorf("trusted: header\n%v, want\n%v", out.Header, want)
	}
}

func TestExtensionsAreBetweenGatewayAndOrigin(t *testing.T) {
	const deflate, both = "Sec-WebSocket-Extensions: permessage-deflate", "Sec-WebSocket-Extensions: permessage-deflate, grip; x=y"
	websocket := origin.Call{WebSocket: true}
	for _, c := range []struct {
		name  string
		rules origin.Rules
		lines []string
		want  []string
	}{
		{"grip is offered", origin.Rules{}, []string{deflate}, []string{"grip"}},
		{"not without GRIP", origin.Rules{NoGrip: true}, []string{both}, nil},
		{"a trusted gateway offers it or not", origin.Rules{Verifier: upstream}, []string{"Grip-Sig: upstream", both}, []string{"grip"}},
		{"not", origin.Rules{Verifier: upstream}, []string{"Grip-Sig: upstream", deflate}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, _ := prepare(t, &c.rules, websocket, append(c.lines,
				"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Protocol: soup", "Sec-WebSocket-Key: k", "Te: trailers")...)
			if got := out.Header["Sec-Websocket-Extensions"]; !slices.Equal(got, c.want) {
				t.Errorf("extensions %q, want %q", got, c.want)
			}
			for name, want := range map[string]string{"Upgrade": "", "Te": "", "Sec-Websocket-Protocol": "soup", "Sec-Websocket-Key": "k"} {
				if got := out.Header.Get(name); got != want {
					t.Errorf("%s = %q, want %q", name, got, want)
				}
			}
		})
	}
}

func TestClientsRequestIsLeftAsItIs(t *testing.T) {
	r := parse(t, "POST /cut/x?q HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\nX-A: 1\r\nGrip-Sig: forged\r\nX-Forwarded-For: 1.1.1.1\r\nContent-Length: 2\r\n\r\nhi")
	before, header := *r, r.Header.Clone()
	target := *r.URL
	rules := &origin.Rules{
		AsHost: "other", PathRem: 4, Signer: signer, OrigHeaders: true, CDNLoop: "x", Header: [][2]string{{"X-A", "2"}},
		XForwardedFor: origin.ForwardedFor{Append: true},
	}
	out, _, err := rules.Prepare(r, origin.Call{})
	if err != nil {
		t.Fatal(err)
	}
	out.Header.Add("X-A", "3")
	out.Header.Add("X-Forwarded-For", "3")
	if !maps.EqualFunc(r.Header, header, slices.Equal) || r.Host != before.Host || *r.URL != target || r.RequestURI != before.RequestURI || r.ContentLength != 2 {
		t.Errorf("the client's request was changed: %v, want %v", r.Header, header)
	}
}

func TestTrailersAreHandedOverWhenTheBodyHasEnded(t *testing.T) {
	r := parse(t, "POST /x HTTP/1.1\r\nHost: x\r\nConnection: X-Private\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Grip-Sig, X-Private\r\n\r\n"+
		"2\r\nhi\r\n0\r\nX-Sum: 5\r\nGrip-Sig: forged\r\nMeta_User: forged\r\nX-Late: yes\r\nX-Private: no\r\nHost: y\r\nContent-Length: 4\r\nAuthorization: Basic x\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n")
	out, _, err := (&origin.Rules{}).Prepare(r, origin.Call{})
	if err != nil {
		t.Fatal(err)
	}
	if _, announced := out.Trailer["X-Sum"]; !announced || len(out.Trailer) != 1 {
		t.Errorf("announced %v, want X-Sum", out.Trailer)
	}
	if body, err := io.ReadAll(out.Body); err != nil || string(body) != "hi" {
		t.Fatalf("body %q, %v", body, err)
	}
	want := http.Header{"X-Sum": {"5"}, "X-Late": {"yes"}}
	if !maps.EqualFunc(out.Trailer, want, slices.Equal) {
		t.Errorf("trailers %v, want %v", out.Trailer, want)
	}
}

func TestSignatureCanBeRenewed(t *testing.T) {
	count := 0
	rules := &origin.Rules{Feature: "all", Signer: func(time.Time) (string, error) { count++; return strings.Repeat("s", count), nil }}
	header := http.Header{}
	for range 2 {
		if err := rules.SignHeader(header); err != nil {
			t.Fatal(err)
		}
	}
	want := http.Header{"Grip-Sig": {"ss"}, "Grip-Feature": {"all"}}
	if !maps.EqualFunc(header, want, slices.Equal) {
		t.Errorf("header %v, want %v", header, want)
	}
}

func TestContextIsTheClients(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out, _, err := (&origin.Rules{}).Prepare(get("/").WithContext(ctx), origin.Call{Hints: httptest.NewRecorder()})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if out.Context().Err() == nil {
		t.Error("the origin's request goes on without the client")
	}
}
