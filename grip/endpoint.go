package grip

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// FastlyKey is the public key, as JWK, with which Fastly Fanout signs for
// every service; what tells services apart is the issuer, "fastly:" and the
// service's id. Fastly publishes it with its libraries (js-grip,
// src/fastly-fanout/keys.ts).
const FastlyKey = `{"kty":"EC","crv":"P-256","x":"CKo5A1ebyFcnmVV8SE5On-8G81JyBjSvcrx4VLetWCg","y":"7gwJqaU6N8TP88--twjkwoB36f-pT3QsmI46nPhjO7M"}`

// Endpoint is one gateway as an origin knows it: where to publish, how to be
// let in, and how to tell that a request came through it.
type Endpoint struct {
	// PublishURL is where items are posted. It holds no credentials.
	PublishURL string

	// One of these authorises a publish, the first that is set: a token signed
	// with Key in Iss's name, a token as it is, a user with a password.
	Iss            string
	Key            Key
	Token          string
	User, Password string

	// VerifyKey verifies Grip-Sig, and VerifyIss must be its issuer; "" = any.
	VerifyIss string
	VerifyKey Key
}

// ParseEndpoint reads what GRIP_URL holds in every GRIP library:
//
//	http://localhost:5561                                  open
//	https://example.com/realm?iss=realm&key=base64:c2VjcmV0   JWT; the secret verifies Grip-Sig as well
//	https://api.fastly.com/service/ID?key=TOKEN&verify-iss=fastly:ID&verify-key={"kty":…}
//	https://user:password@example.com                      Basic
//
// Keys are as in ParseKey, but for files. Other parameters stay in the URL. A
// plus in a base64 key is a plus, although in a query it means a space.
func ParseEndpoint(gripURL string) (Endpoint, error) {
	return parseEndpoint(gripURL, "")
}

// parseEndpoint takes a verify-key from elsewhere, which wins over the URL's.
func parseEndpoint(gripURL, verifyKey string) (Endpoint, error) {
	u, err := url.Parse(gripURL)
	if err != nil {
		// url.Error repeats the URL, and that may hold a key.
		var urlErr *url.Error
		if errors.As(err, &urlErr) {
			err = urlErr.Err
		}
		return Endpoint{}, fmt.Errorf("grip: GRIP_URL: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return Endpoint{}, errors.New("grip: GRIP_URL: want http://host… or https://host…")
	}

	var e Endpoint
	if u.User != nil {
		e.User = u.User.Username()
		e.Password, _ = u.User.Password()
		u.User = nil
	}
	q, err := takeParams(u)
	if err != nil {
		return Endpoint{}, err
	}
	if verifyKey != "" {
		q.verifyKey = verifyKey
	}

	switch {
	case q.iss != "":
		e.Iss = q.iss
		if e.Key, err = inlineKey("key", q.key); err != nil {
			return Endpoint{}, err
		}
		if !e.Key.CanSign() {
			return Endpoint{}, errors.New("grip: GRIP_URL: iss needs a key that can sign")
		}
		if q.verifyKey == "" && e.Key.secret != nil {
			e.VerifyKey = e.Key
		}
	case q.key != "":
		e.Token = q.key
	}
	e.VerifyIss = q.verifyIss
	if q.verifyKey != "" {
		if e.VerifyKey, err = inlineKey("verify-key", q.verifyKey); err != nil {
			return Endpoint{}, err
		}
	}

	u.Fragment, u.RawFragment = "", ""
	u.Path = strings.TrimRight(u.Path, "/") + "/publish/"
	if u.RawPath != "" {
		u.RawPath = strings.TrimRight(u.RawPath, "/") + "/publish/"
	}
	e.PublishURL = u.String()
	return e, nil
}

// inlineKey does not read files: a URL may come from where files should not be
// named.
func inlineKey(name, value string) (Key, error) {
	if strings.HasPrefix(value, "file:") {
		return Key{}, fmt.Errorf("grip: GRIP_URL: %s: no files here", name)
	}
	key, err := ParseKey(value, "")
	if err != nil {
		return Key{}, fmt.Errorf("grip: GRIP_URL: %s: %w", name, err)
	}
	return key, nil
}

// endpointParams are the parameters of GRIP_URL that are not the gateway's.
type endpointParams struct {
	iss, key, verifyIss, verifyKey string
}

// takeParams cuts the known parameters out of u's query and leaves the others
// untouched, byte for byte. Of several with one name the first counts.
func takeParams(u *url.URL) (p endpointParams, err error) {
	var kept []string
	seen := make(map[string]bool)
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		name, value, _ := strings.Cut(pair, "=")
		var field *string
		switch name {
		case "iss":
			field = &p.iss
		case "key":
			field = &p.key
		case "verify-iss":
			field = &p.verifyIss
		case "verify-key":
			field = &p.verifyKey
		default:
			if pair != "" {
				kept = append(kept, pair)
			}
			continue
		}
		if seen[name] {
			continue
		}
		seen[name] = true
		if *field, err = unescapeParam(value); err != nil {
			return p, fmt.Errorf("grip: GRIP_URL: %s: not a query parameter", name)
		}
	}
	u.RawQuery = strings.Join(kept, "&")
	return p, nil
}

func unescapeParam(value string) (string, error) {
	unescaped, err := url.PathUnescape(value)
	if err == nil && strings.HasPrefix(unescaped, "base64:") {
		return unescaped, nil
	}
	return url.QueryUnescape(value)
}

// String returns the URL without its query, and none of the credentials.
func (e Endpoint) String() string {
	name, _, _ := strings.Cut(e.PublishURL, "?")
	return name
}

// GoString keeps %#v from printing the credentials.
func (e Endpoint) GoString() string { return "grip.Endpoint(" + e.String() + ")" }
