package gateway

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gripway/gripway/gateway/hold"
	"github.com/gripway/gripway/grip"
)

func TestCrossOriginHeadersAreAddedWhereTheOriginIsSilent(t *testing.T) {
	const methods = "OPTIONS, HEAD, GET, POST, PUT, DELETE"
	for _, test := range []struct {
		name                string
		request, from, want http.Header // want is without what is always there
	}{
		{"a page of nowhere", http.Header{}, http.Header{"X-A": {"1"}, "Etag": {"x"}, "Content-Type": {"a/b"}, "Set-Cookie": {"a=1"}, "Date": nil},
			http.Header{"Access-Control-Allow-Methods": {methods}, "Access-Control-Expose-Headers": {"Etag, X-A"}, "Access-Control-Allow-Origin": {"*"}, "Vary": {"Origin"}}},
		{"a preflight", http.Header{"Origin": {"https://x"}, "Access-Control-Request-Method": {"PUT"}, "Access-Control-Request-Headers": {"x-a", "x-b"}}, http.Header{"Vary": {"Accept"}},
			http.Header{"Access-Control-Allow-Methods": {"PUT"}, "Access-Control-Allow-Headers": {"x-a, x-b"}, "Access-Control-Allow-Origin": {"https://x"}, "Vary": {"Accept", "Origin"}}},
		{"an origin with its own mind", http.Header{"Origin": {"https://x"}}, http.Header{"Access-Control-Allow-Origin": {"https://y"}, "Access-Control-Allow-Methods": {"GET"}},
			http.Header{"Access-Control-Allow-Methods": {"GET"}, "Access-Control-Allow-Origin": {"https://y"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cors := newCrossOrigin(test.request)
			got := test.from.Clone()
			cors.add(got)
			once := got.Clone()
			if cors.add(got); !maps.EqualFunc(got, once, func(a, b []string) bool { return strings.Join(a, "|") == strings.Join(b, "|") }) {
				t.Errorf("added twice: %v, once: %v", got, once)
			}
			want := test.from.Clone()
			maps.Copy(want, test.want)
			want["Access-Control-Allow-Credentials"], want["Access-Control-Max-Age"] = []string{"true"}, []string{"3600"}
			if !maps.EqualFunc(got, want, func(a, b []string) bool { return strings.Join(a, "|") == strings.Join(b, "|") }) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		})
	}
}

func TestAQueryBecomesARequest(t *testing.T) {
	named := JSONP{Basic: true, Callback: "fn", Body: "with", DefaultCallback: "mine", DefaultMethod: "PUT"}
	for _, test := range []struct {
		name    string
		options JSONP
		target  string
		want    string // method, target, body, function; or the error
	}{
		{"only a function", JSONP{}, "/a?callback=f", "GET /a  f"},
		{"what is left keeps its spelling", JSONP{}, "/a?x=%20+&callback=f&&y", "GET /a?x=%20+&&y  f"},
		{"a name in disguise", JSONP{}, "/a?%63allback=f", "GET /a  f"},
		{"the first of two", JSONP{}, "/a?callback=f&callback=g", "GET /a  f"},
		{"all of it", JSONP{}, "/a?callback=f&_method=PATCH&_body=a%2Bb+c", "PATCH /a a+b+c f"},
		{"basic", JSONP{Basic: true}, "/a?callback=f", "POST /a  f"},
		{"names of its own", named, "/a?with=1", "PUT /a 1 mine"},
		{"ordinary: no function", JSONP{}, "/a?_body=1", "GET /a?_body=1  -"},
		{"ordinary: another name", named, "/a?callback=f&_body=1", "GET /a?callback=f&_body=1  -"},
		{"no name", JSONP{}, "/a?callback", "Invalid callback parameter."},
		{"a name that does something", JSONP{}, "/a?callback=alert(1)", "Invalid callback parameter."},
		{"a name with half an escape", JSONP{}, "/a?callback=f%2", "Invalid callback parameter."},
		{"a name without end", JSONP{}, "/a?callback=" + strings.Repeat("f", callbackBytesMax+1), "Invalid callback parameter."},
		{"a method of two lines", JSONP{}, "/a?callback=f&_method=GET%0d%0aX:", "Invalid _method parameter."},
		{"headers of two lines", JSONP{}, "/a?callback=f&_headers=%7B%22a%22%3A%22b%5Cnc%22%7D", "Invalid _headers parameter."},
		{"headers of nothing", JSONP{}, "/a?callback=f&_headers=null", "Invalid _headers parameter."},
		{"no body", JSONP{}, "/a?callback=f&_body=", "Invalid _body parameter."},
		{"no body by its own name", named, "/a?with=", "Invalid body parameter."},
	} {
		t.Run(test.name, func(t *testing.T) {
			asked, script, err := test.options.read(httptest.NewRequest("GET", test.target, nil))
			if err != nil {
				if err.Error() != test.want {
					t.Errorf("got error %q, want %q", err, test.want)
				}
				return
			}
			callback := "-"
			if script != nil {
				callback = script.callback
			}
			body, _ := io.ReadAll(asked.Body)
			if got := strings.Join([]string{asked.Method, asked.RequestURI, string(body), callback}, " "); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if asked.ContentLength != int64(len(body)) || asked.URL.RequestURI() != asked.RequestURI {
				t.Errorf("length %d, URL %q, want those of %q", asked.ContentLength, asked.URL, test.want)
			}
		})
	}
}

func TestAQuerySetsNoHeaderThatOthersVouchFor(t *testing.T) {
	r := httptest.NewRequest("GET", `/a?callback=f&_headers=%7B%22x-a%22:%221%22,%22HOST%22:%22h%22,%22content-length%22:%229%22,`+
		`%22x-forwarded-for%22:%22::1%22,%22pushpin-route%22:%22id%22,%22grip-sig%22:%22s%22,%22sec-x%22:%22s%22%7D`, nil)
	r.Header = http.Header{"X-A": {"0"}, "Accept": {"text/x"}, "Accept-Encoding": {"gzip"}, "Cookie": {"c"}}
	var options JSONP
	asked, _, err := options.read(r)
	if err != nil {
		t.Fatal(err)
	}
	want := http.Header{"X-A": {"1"}, "Accept": {"*/*"}, "Cookie": {"c"}}
	if len(asked.Header) != len(want) || asked.Header.Get("X-A") != "1" || asked.Header.Get("Accept") != "*/*" || asked.Header.Get("Cookie") != "c" {
		t.Errorf("got %v, want %v", asked.Header, want)
	}
	if r.Header.Get("X-A") != "0" {
		t.Errorf("the client's own request has changed: %v", r.Header)
	}
}

func TestScriptsSayWhatAnswersSay(t *testing.T) {
	const failed = `/**/f({"code": 502, "reason": "Bad Gateway", "headers": {"Content-Type":"text/plain"}, "body": "Error while proxying to origin.\n"});` + "\n"
	rest := func(body string) io.ReadCloser { return io.NopCloser(strings.NewReader(body)) }
	for _, test := range []struct {
		name   string
		basic  bool
		answer hold.Answer
		want   string
	}{
		{"all of an answer", false, hold.Answer{Status: 203, Reason: "Yo", Header: http.Header{"X-A": {"1", "2"}, "Content-Length": {"9"}, "Set-Cookie": {"a=1"}, "Cache-Control": {"no-store"}}, Body: []byte("a"), Rest: rest("\"b<\u2028")},
			`/**/f({"code": 203, "reason": "Yo", "headers": {"Cache-Control":"no-store","X-A":"1, 2"}, "body": "a\"b<\u2028"});` + "\n"},
		{"nothing", false, hold.Answer{Status: 204}, `/**/f({"code": 204, "reason": "No Content", "headers": {}, "body": ""});` + "\n"},
		{"the body alone", true, hold.Answer{Status: 404, Body: []byte("{}\r\n")}, "/**/f({});\n"},
		{"no text", false, hold.Answer{Status: 200, Body: []byte{0xff}}, failed},
		{"coded", false, hold.Answer{Status: 200, Header: http.Header{"Content-Encoding": {"gzip"}}, Body: []byte("x")}, failed},
		{"too large", false, hold.Answer{Status: 200, Rest: rest(strings.Repeat("x", scriptBytesMax+1))}, failed},
		{"cut", false, hold.Answer{Status: 200, Rest: io.NopCloser(io.MultiReader(strings.NewReader("x"), broken{}))}, failed},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer := test.answer
			(&dress{jsonp: &jsonp{"f", test.basic}}).finish(&answer)
			if answer.Status != 200 || answer.Reason != "" || answer.Rest != nil || string(answer.Body) != test.want {
				t.Errorf("got  %d %q\nwant 200 %q", answer.Status, answer.Body, test.want)
			}
			if answer.Header.Get("Content-Type") != "application/javascript" || answer.Header.Get("Cache-Control") != test.answer.Header.Get("Cache-Control") || answer.Header.Get("X-A") != "" {
				t.Errorf("got header %v", answer.Header)
			}
		})
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestStreamsAreNoScripts(t *testing.T) {
	answer := hold.Answer{Status: 200, Header: http.Header{}, Body: []byte("x"), Instruction: &grip.Instruction{Hold: grip.HoldStream}}
	(&dress{jsonp: &jsonp{callback: "f"}}).finish(&answer)
	if !bytes.Equal(answer.Body, []byte("x")) || answer.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("got %q with %v", answer.Body, answer.Header)
	}
}
