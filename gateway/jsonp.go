package gateway

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"github.com/gripway/gripway/gateway/hold"
	"github.com/gripway/gripway/gateway/origin"
	"github.com/gripway/gripway/grip"
)

// This file makes answers scripts, for pages too old for CORS (JSON-P): the query
// of a GET names a function, and says what to ask the origin.
//
//	GET /poll?callback=take&_method=POST&_body=hi
//
//	/**/take({"code": 200, "reason": "OK", "headers": {…}, "body": "…"});     extended
//	/**/take(…);                                                              basic: the body

const (
	// callbackBytesMax bounds the name of a function: longer ones are no names.
	callbackBytesMax = 256

	// scriptBytesMax bounds the body of an answer that becomes a script, since it
	// is kept until it is whole.
	scriptBytesMax = 1_000_000
)

// JSONP are the ways in which clients of a route may ask for scripts. The zero
// value is what Pushpin's routes do by default.
type JSONP struct {
	// Basic makes a script of an answer's body alone, which must be JSON then, and
	// POST the default method.
	Basic bool

	// Callback is the parameter that names the function. Empty is "callback".
	Callback string

	// Body is the parameter of a JSON body. Empty is "_body", of any body.
	Body string

	// DefaultCallback is the function for a request that has a body parameter and
	// names none. Empty means that such a request is an ordinary one.
	DefaultCallback string

	// DefaultMethod is the origin's method if the query does not name one. Empty is
	// GET, or POST with Basic.
	DefaultMethod string
}

// jsonp is what one request asked for.
type jsonp struct {
	callback string
	basic    bool
}

// read returns the request that a query stands for, and how its answer is to look:
// nil, and r itself, if it stands for none. An error is for the client.
func (options *JSONP) read(r *http.Request) (*http.Request, *jsonp, error) {
	if r.Method != http.MethodGet || r.ContentLength != 0 {
		return r, nil, nil
	}
	callbackName := cmp.Or(options.Callback, "callback")
	bodyName := cmp.Or(options.Body, "_body")
	path, query, _ := strings.Cut(r.RequestURI, "?")
	values, rest := takeParameters(query, callbackName, bodyName, "_method", "_headers")

	callback, named := values[callbackName]
	body, hasBody := values[bodyName]
	switch {
	case named && !isCallback(callback):
		return nil, nil, errors.New("Invalid callback parameter.")
	case !named && (!hasBody || options.DefaultCallback == ""):
		return r, nil, nil
	case !named:
		callback = options.DefaultCallback
	}
	method := cmp.Or(options.DefaultMethod, http.MethodGet)
	if options.Basic {
		method = cmp.Or(options.DefaultMethod, http.MethodPost)
	}
	if m, ok := values["_method"]; ok {
		if !httpguts.ValidHeaderFieldName(m) { // both are tokens
			return nil, nil, errors.New("Invalid _method parameter.")
		}
		method = m
	}
	header := r.Header.Clone()
	header["Accept"] = []string{"*/*"}
	header.Del("Accept-Encoding") // a script needs the body as it is
	if text, ok := values["_headers"]; ok {
		var more map[string]string
		if json.Unmarshal([]byte(text), &more) != nil || more == nil {
			return nil, nil, errors.New("Invalid _headers parameter.")
		}
		for name, value := range more {
			if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
				return nil, nil, errors.New("Invalid _headers parameter.")
			}
			if name = http.CanonicalHeaderKey(name); !forbidden(name) {
				header[name] = []string{value}
			}
		}
	}
	if hasBody && body == "" {
		if options.Body != "" {
			return nil, nil, errors.New("Invalid body parameter.")
		}
		return nil, nil, errors.New("Invalid _body parameter.")
	}
	if hasBody && options.Body != "" {
		header["Content-Type"] = []string{"application/json"}
	}

	asked := r.WithContext(r.Context())
	uri := *r.URL
	uri.RawQuery = rest
	asked.URL, asked.RequestURI = &uri, path
	if rest != "" {
		asked.RequestURI += "?" + rest
	}
	asked.Method, asked.Header = method, header
	if hasBody {
		asked.Body, asked.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}
	return asked, &jsonp{callback, options.Basic}, nil
}

// takeParameters takes parameters out of a query. Of one that is there twice, the
// first counts. What is left stays as it is written.
func takeParameters(query string, names ...string) (values map[string]string, rest string) {
	values = make(map[string]string)
	var left []string
next:
	for part := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(part, "=")
		if n, err := url.PathUnescape(name); err == nil {
			for _, wanted := range names {
				if n != wanted {
					continue
				}
				if _, twice := values[n]; !twice {
					if v, err := url.PathUnescape(value); err == nil {
						value = v
					} else {
						value = "" // which none of them may be
					}
					values[n] = value
				}
				continue next
			}
		}
		left = append(left, part)
	}
	return values, strings.Join(left, "&")
}

// isCallback says whether text can be a function's name, and nothing but that: a
// script runs with the rights of the page that asks for it.
func isCallback(text string) bool {
	if text == "" || len(text) > callbackBytesMax || !utf8.ValidString(text) {
		return false
	}
	for _, c := range text {
		if !unicode.IsLetter(c) && !unicode.IsDigit(c) && !strings.ContainsRune("_$.[]", c) {
			return false
		}
	}
	return true
}

// forbidden says whether a query may not set a header: those that browsers do not
// let pages set (Fetch standard, forbidden request-header), those that proxies on
// the way vouch for, and those that say how the answer is to come.
func forbidden(name string) bool {
	switch name {
	case "Accept", "Accept-Charset", "Accept-Encoding", "Access-Control-Request-Headers", "Access-Control-Request-Method",
		"Connection", "Content-Length", "Cookie", "Cookie2", "Date", "Dnt", "Expect", "Host", "Keep-Alive", "Origin", "Referer",
		"Set-Cookie", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Via",
		"Cdn-Loop", "Forwarded", "Pushpin-Route", "X-Real-Ip":
		return true
	}
	for _, prefix := range []string{"Proxy-", "Sec-", "Grip-", "Meta-", "X-Forwarded-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// relay gives the client an origin's plain answer as a script.
func (c *outside) relay(response *http.Response) {
	header := response.Header
	origin.CleanHeader(header)
	c.write(&hold.Answer{Status: response.StatusCode, Header: header, Rest: response.Body})
}

// wrap makes an answer a script.
func (j *jsonp) wrap(answer *hold.Answer) {
	body, err := whole(answer)
	answer.Body, answer.Rest = body, nil
	if coding := answer.Header.Get("Content-Encoding"); err != nil || !utf8.Valid(body) || coding != "" && coding != "identity" {
		// What a script cannot say.
		*answer = hold.Answer{
			Status: http.StatusBadGateway, Header: http.Header{"Content-Type": {"text/plain"}},
			Body: []byte("Error while proxying to origin.\n"),
		}
	}
	header := http.Header{"Content-Type": {"application/javascript"}}
	if cache, ok := answer.Header["Cache-Control"]; ok {
		header["Cache-Control"] = cache
	}
	b := append([]byte("/**/"), j.callback...)
	b = append(b, '(')
	if j.basic {
		b = append(b, bytes.TrimSuffix(bytes.TrimSuffix(answer.Body, []byte("\n")), []byte("\r"))...)
	} else {
		headers := make(map[string]string)
		for name, values := range answer.Header {
			switch name {
			case "Connection", "Content-Length", "Trailer", "Transfer-Encoding":
				continue // of the connection to the origin
			case "Set-Cookie", "Set-Cookie2":
				continue // no page may read them
			}
			if len(values) > 0 {
				headers[name] = strings.Join(values, ", ")
			}
		}
		reason := cmp.Or(answer.Reason, grip.Reason(answer.Status))
		b = fmt.Appendf(b, `{"code": %d, "reason": %s, "headers": %s, "body": %s}`,
			answer.Status, asJSON(reason), asJSON(headers), asJSON(string(answer.Body)))
	}
	b = append(b, ");\n"...)
	*answer = hold.Answer{Status: http.StatusOK, Header: header, Body: b}
}

// whole reads an answer's body to its end.
func whole(answer *hold.Answer) ([]byte, error) {
	if answer.Rest == nil {
		return answer.Body, nil
	}
	defer answer.Rest.Close()
	more, err := io.ReadAll(io.LimitReader(answer.Rest, scriptBytesMax+1))
	body := append(answer.Body[:len(answer.Body):len(answer.Body)], more...)
	if err == nil && len(body) > scriptBytesMax {
		err = errors.New("body is too large for a script")
	}
	return body, err
}

// asJSON is a value as JSON that can stand in a script. It holds texts only.
func asJSON(value any) []byte {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
