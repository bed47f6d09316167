package access_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gripway/gripway/gateway/access"
)

// jwk is a public key as a member of a set; more is pairs of name and value.
func jwk(t *testing.T, public crypto.PublicKey, kid string, more ...string) map[string]any {
	t.Helper()
	encode := base64.RawURLEncoding.EncodeToString
	member := map[string]any{"kid": kid}
	switch k := public.(type) {
	case *rsa.PublicKey:
		member["kty"], member["n"], member["e"] = "RSA", encode(k.N.Bytes()), encode(big.NewInt(int64(k.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		half := (len(point) - 1) / 2
		member["kty"], member["crv"], member["x"], member["y"] = "EC", k.Params().Name, encode(point[1:1+half]), encode(point[1+half:])
	case ed25519.PublicKey:
		member["kty"], member["crv"], member["x"] = "OKP", "Ed25519", encode(k)
	default:
		t.Fatalf("%T", public)
	}
	for i := 0; i < len(more); i += 2 {
		member[more[i]] = more[i+1]
	}
	return member
}

func jwks(members ...map[string]any) string {
	text, _ := json.Marshal(map[string]any{"keys": members})
	return string(text)
}

// issuer serves a set of keys and counts who asks.
type issuer struct {
	*httptest.Server
	set   atomic.Pointer[string]
	asked atomic.Int32
}

func newIssuer(t *testing.T, set string) *issuer {
	t.Helper()
	i := &issuer{}
	i.set.Store(&set)
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.asked.Add(1)
		io.WriteString(w, *i.set.Load())
	}))
	t.Cleanup(i.Close)
	return i
}

// from is what makes a token name its issuer and key.
func from(iss, kid string) func(header, claims map[string]any) {
	return func(header, claims map[string]any) {
		claims["iss"] = iss
		if kid != "" {
			header["kid"] = kid
		}
	}
}

func bearer(token string) *http.Request { return request("Authorization: Bearer " + token) }

func TestKeySetsVerifyWithEveryKindOfKey(t *testing.T) {
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	one := newIssuer(t, jwks(
		jwk(t, rsaKey.Public(), "rsa"), jwk(t, rsaKey2.Public(), "only384", "alg", "RS384", "use", "sig"),
		jwk(t, ecKey.Public(), "p256"), jwk(t, p384.Public(), "p384"), jwk(t, p521.Public(), "p521"),
		jwk(t, edKey.Public(), "ed"), jwk(t, ecKey.Public(), "enc", "use", "enc"),
		map[string]any{"kty": "oct", "kid": "oct", "k": "c2VjcmV0"}, map[string]any{"kty": "new", "kid": "new"},
	))
	l := list(t, access.Publisher{Name: "app", JWKS: one.URL + "/keys", Iss: "me"})
	for _, test := range []struct {
		name   string
		method jwt.SigningMethod
		key    any
		kid    string
		want   string
	}{
		{"RS256", jwt.SigningMethodRS256, rsaKey, "rsa", "app"},
		{"RS512", jwt.SigningMethodRS512, rsaKey, "rsa", "app"},
		{"PS256", jwt.SigningMethodPS256, rsaKey, "rsa", "app"},
		{"ES256", jwt.SigningMethodES256, ecKey, "p256", "app"},
		{"ES384", jwt.SigningMethodES384, p384, "p384", "app"},
		{"ES512", jwt.SigningMethodES512, p521, "p521", "app"},
		{"EdDSA", jwt.SigningMethodEdDSA, edKey, "ed", "app"},
		{"the alg the key says", jwt.SigningMethodRS384, rsaKey2, "only384", "app"},
		{"no kid, and one key can have made it", jwt.SigningMethodES384, p384, "", "app"},
		{"no kid, and several can", jwt.SigningMethodRS384, rsaKey, "", access.ErrUnknown.Error()},
		{"not the alg the key says", jwt.SigningMethodRS256, rsaKey2, "only384", access.ErrUnknown.Error()},
		{"another key's kid", jwt.SigningMethodRS256, rsaKey2, "rsa", access.ErrUnknown.Error()},
		{"a key for something else", jwt.SigningMethodES256, ecKey, "enc", access.ErrUnknown.Error()},
		{"a secret that stands in the set", jwt.SigningMethodHS256, []byte("secret"), "oct", access.ErrUnknown.Error()},
		{"HS256 with the RSA public key", jwt.SigningMethodHS256, []byte(pemOf(t, rsaKey.Public())), "rsa", access.ErrUnknown.Error()},
		{"alg none", jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "rsa", access.ErrUnknown.Error()},
	} {
		if got := who(l, bearer(signed(t, test.method, test.key, from("me", test.kid)))); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
	for _, set := range []func(header, claims map[string]any){
		func(_, claims map[string]any) { delete(claims, "exp") },
		func(_, claims map[string]any) { claims["exp"] = 1 },
		func(_, claims map[string]any) { claims["iss"] = "you" },
		func(_, claims map[string]any) { delete(claims, "iss") },
	} {
		token := signed(t, jwt.SigningMethodRS256, rsaKey, func(header, claims map[string]any) {
			from("me", "rsa")(header, claims)
			set(header, claims)
		})
		if _, err := l.Admit(bearer(token)); err == nil {
			t.Errorf("%s is admitted", token)
		}
	}
}

// Centrifugo's GHSA-g6vg-wj8f-48cj: a cache by kid alone mixes issuers.
func TestTheSameKidOfTwoIssuersAreTwoKeys(t *testing.T) {
	a, b := newIssuer(t, jwks(jwk(t, rsaKey.Public(), "1"))), newIssuer(t, jwks(jwk(t, rsaKey2.Public(), "1")))
	l := list(t,
		access.Publisher{Name: "a", JWKS: a.URL, Iss: "a"},
		access.Publisher{Name: "b", JWKS: b.URL, Iss: "b"},
		access.Publisher{Name: "c", JWKS: b.URL, Iss: "c"}, // one place, two issuers
	)
	for _, test := range []struct {
		iss  string
		key  *rsa.PrivateKey
		want string
	}{
		{"a", rsaKey, "a"}, {"b", rsaKey2, "b"}, {"c", rsaKey2, "c"},
		{"a", rsaKey2, access.ErrUnknown.Error()}, {"b", rsaKey, access.ErrUnknown.Error()}, {"d", rsaKey, access.ErrUnknown.Error()},
		{"a", rsaKey, "a"}, {"b", rsaKey2, "b"},
	} {
		if got := who(l, bearer(signed(t, jwt.SigningMethodRS256, test.key, from(test.iss, "1")))); got != test.want {
			t.Errorf("iss %s: got %q, want %q", test.iss, got, test.want)
		}
	}
}

// Centrifugo's CVE-2026-32301: a URL made of what a token says.
func TestNoTokenHasAnythingFetched(t *testing.T) {
	elsewhere := newIssuer(t, jwks(jwk(t, rsaKey2.Public(), "1")))
	mine := newIssuer(t, jwks(jwk(t, rsaKey.Public(), "1")))
	l := list(t, access.Publisher{Name: "a", JWKS: mine.URL, Iss: "a"})
	for _, iss := range []string{elsewhere.URL, elsewhere.URL + "/../x", "a"} {
		token := signed(t, jwt.SigningMethodRS256, rsaKey2, func(header, claims map[string]any) {
			from(iss, elsewhere.URL)(header, claims)
			header["jku"], header["x5u"], claims["aud"] = elsewhere.URL, elsewhere.URL, elsewhere.URL
			header["jwk"] = jwk(t, rsaKey2.Public(), "1")
		})
		if got := who(l, bearer(token)); got != access.ErrUnknown.Error() {
			t.Errorf("iss %q: got %q, want it refused", iss, got)
		}
	}
	if n := elsewhere.asked.Load(); n != 0 {
		t.Errorf("fetched %d times from where a token says", n)
	}
}

func TestAnIssuerThatMisbehavesIsNotTrusted(t *testing.T) {
	good := jwks(jwk(t, rsaKey.Public(), "1"))
	other := newIssuer(t, good)
	for name, answer := range map[string]http.HandlerFunc{
		"an error":   func(w http.ResponseWriter, r *http.Request) { http.Error(w, good, 500) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, 302) },
		"no JSON":    func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>") },
		"no keys":    func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"keys":[]}`) },
		"a megabyte": func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, strings.Repeat(" ", 1<<20)+good) },
		"a very long head": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
			io.WriteString(w, good)
		},
		"cut in the middle": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "9999")
			io.WriteString(w, good)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bad := httptest.NewServer(answer)
			defer bad.Close()
			l := list(t, access.Publisher{Name: "a", JWKS: bad.URL, Iss: "a"})
			if got := who(l, bearer(signed(t, jwt.SigningMethodRS256, rsaKey, from("a", "1")))); got != access.ErrKeysAway.Error() {
				t.Errorf("got %q, want ErrKeysAway", got)
			}
		})
	}
	if n := other.asked.Load(); n != 0 {
		t.Errorf("a redirect was followed %d times", n)
	}
}

func TestHostileKeySetsAreRefused(t *testing.T) {
	with := func(kind string, more ...string) map[string]any {
		member := map[string]any{"kty": kind}
		for i := 0; i < len(more); i += 2 {
			member[more[i]] = more[i+1]
		}
		return member
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	huge := base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("\xff", 2000)))
	off := jwk(t, ecKey.Public(), "1")
	off["y"] = off["x"]
	for name, set := range map[string]string{
		"nothing":               ``,
		"a list":                `[]`,
		"keys is an object":     `{"keys":{}}`,
		"keys is null":          `{"keys":null}`,
		"a number among them":   `{"keys":[1]}`,
		"kty is a number":       `{"keys":[{"kty":1}]}`,
		"a secret":              jwks(with("oct", "k", "c2VjcmV0")),
		"none":                  jwks(with("none")),
		"RSA without numbers":   jwks(with("RSA")),
		"RSA of 1024 bits":      jwks(jwk(t, small.Public(), "1")),
		"RSA of 16000 bits":     jwks(with("RSA", "n", huge, "e", "AQAB")),
		"exponent 1":            jwks(with("RSA", "n", huge[:342], "e", "AQ")),
		"exponent beyond bound": jwks(with("RSA", "n", huge[:342], "e", huge)),
		"not on the curve":      jwks(off),
		"P-256 too short":       jwks(with("EC", "crv", "P-256", "x", "AA", "y", "AA")),
		"unknown curve":         jwks(with("EC", "crv", "secp256k1", "x", "AA", "y", "AA")),
		"Ed448":                 jwks(with("OKP", "crv", "Ed448", "x", "AA")),
		"alg of another kind":   jwks(jwk(t, rsaKey.Public(), "1", "alg", "HS256")),
		"alg none":              jwks(jwk(t, rsaKey.Public(), "1", "alg", "none")),
		"too many":              `{"keys":[` + strings.Repeat(`{},`, 100) + `{}]}`,
	} {
		if n, err := access.ParseJWKS([]byte(set)); err == nil {
			t.Errorf("%s: got %d keys, want an error", name, n)
		}
	}
	if n, err := access.ParseJWKS([]byte(jwks(with("oct"), jwk(t, rsaKey.Public(), "1"), with("new")))); n != 1 || err != nil {
		t.Errorf("one good key among others: got %d, %v, want 1", n, err)
	}
}

func TestAFileOfKeysIsReadAgain(t *testing.T) {
	name := filepath.Join(t.TempDir(), "keys.json")
	write := func(set string) {
		if err := os.WriteFile(name, []byte(set), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(jwks(jwk(t, rsaKey.Public(), "1")))
	l := list(t, access.Publisher{Name: "a", JWKS: name, Iss: "a"})
	if got := who(l, bearer(signed(t, jwt.SigningMethodRS256, rsaKey, from("a", "1")))); got != "a" {
		t.Errorf("got %q, want a", got)
	}
	write(jwks(jwk(t, rsaKey2.Public(), "2")))
	if got := who(l, bearer(signed(t, jwt.SigningMethodRS256, rsaKey2, from("a", "2")))); got != "a" {
		t.Errorf("after the change: got %q, want a: the kid is new, so the file is read", got)
	}
	if got := who(l, bearer(signed(t, jwt.SigningMethodRS256, rsaKey, from("a", "1")))); got != access.ErrUnknown.Error() {
		t.Errorf("got %q, want the key that was withdrawn refused", got)
	}
	l = list(t, access.Publisher{Name: "a", JWKS: t.TempDir(), Iss: "a"})
	if got := who(l, bearer(signed(t, jwt.SigningMethodRS256, rsaKey, from("a", "1")))); got != access.ErrKeysAway.Error() {
		t.Errorf("got %q, want ErrKeysAway", got)
	}
}

// distant is an issuer without a network, so that time can be fake.
type distant struct {
	asked   atomic.Int32
	set     atomic.Pointer[string]
	takes   time.Duration
	failing atomic.Bool
}

func (d *distant) publish(set string) { d.set.Store(&set) }

func (d *distant) RoundTrip(r *http.Request) (*http.Response, error) {
	d.asked.Add(1)
	select {
	case <-time.After(d.takes):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if d.failing.Load() {
		return nil, errors.New("no route")
	}
	return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(*d.set.Load())), Request: r}, nil
}

// inTime runs a story with a distant issuer, whose publisher is app.
func inTime(t *testing.T, d *distant, story func(t *testing.T, l *access.List)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		before := access.Client.Transport
		access.Client.Transport = d
		defer func() { access.Client.Transport = before }()
		l, err := access.New(access.Options{Publishers: []access.Publisher{{Name: "app", JWKS: "https://issuer.test/keys", Iss: "me"}}})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		story(t, l)
	})
}

func TestInventedKidsHaveASetReadOnceAMinute(t *testing.T) {
	d := &distant{}
	d.publish(jwks(jwk(t, rsaKey.Public(), "1")))
	inTime(t, d, func(t *testing.T, l *access.List) {
		synctest.Wait()
		if n := d.asked.Load(); n != 1 {
			t.Errorf("asked %d times at the start, want once", n)
		}
		for i := range 100 { // over 50 s
			token := signed(t, jwt.SigningMethodRS256, rsaKey2, from("me", fmt.Sprint("invented-", i)))
			if got := who(l, bearer(token)); got != access.ErrUnknown.Error() {
				t.Fatalf("got %q, want it refused", got)
			}
			time.Sleep(500 * time.Millisecond)
		}
		synctest.Wait()
		if n := d.asked.Load(); n != 2 {
			t.Errorf("asked %d times, want once more for all kids within a minute", n)
		}
		for range 3 { // which no set can help
			who(l, bearer(signed(t, jwt.SigningMethodHS256, []byte("x"), from("me", "x"))))
			who(l, bearer(signed(t, jwt.SigningMethodRS256, rsaKey2, from("me", "1"))))
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		if n := d.asked.Load(); n != 2 {
			t.Errorf("asked %d times, want no reading for a wrong alg or signature", n)
		}
		d.publish(jwks(jwk(t, rsaKey2.Public(), "2")))
		if got := who(l, bearer(signed(t, jwt.SigningMethodRS256, rsaKey2, from("me", "2")))); got != "app" || d.asked.Load() != 3 {
			t.Errorf("got %q after %d readings, want the new key at once", got, d.asked.Load())
		}
	})
}

func TestASetIsReadInTheBackground(t *testing.T) {
	d := &distant{}
	d.publish(jwks(jwk(t, rsaKey.Public(), "1")))
	inTime(t, d, func(t *testing.T, l *access.List) {
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		if n := d.asked.Load(); n != 7 {
			t.Errorf("asked %d times in an hour, want every ten minutes", n)
		}
	})
}

func TestAnIssuerThatIsAwayIsBorneForADay(t *testing.T) {
	d := &distant{}
	d.publish(jwks(jwk(t, rsaKey.Public(), "1")))
	inTime(t, d, func(t *testing.T, l *access.List) {
		good := func() string { return who(l, bearer(signed(t, jwt.SigningMethodRS256, rsaKey, from("me", "1")))) }
		synctest.Wait()
		d.failing.Store(true)
		time.Sleep(23 * time.Hour)
		synctest.Wait()
		if got := good(); got != "app" {
			t.Errorf("got %q, want what was read to serve on", got)
		}
		if n := d.asked.Load(); n > 24*60 {
			t.Errorf("asked %d times in a day, want once a minute at most", n)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if got := good(); got != access.ErrKeysAway.Error() {
			t.Errorf("got %q, want ErrKeysAway after a day", got)
		}
		d.failing.Store(false)
		time.Sleep(2 * time.Minute)
		if got := good(); got != "app" {
			t.Errorf("got %q, want it to work again", got)
		}
	})
}

func TestASlowIssuerHoldsARequestForSecondsOnly(t *testing.T) {
	d := &distant{takes: time.Hour}
	inTime(t, d, func(t *testing.T, l *access.List) {
		token := signed(t, jwt.SigningMethodRS256, rsaKey, from("me", "1"))
		begun := time.Now()
		if got := who(l, bearer(token)); got != access.ErrKeysAway.Error() {
			t.Errorf("got %q, want ErrKeysAway", got)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("it took %v, want a few seconds", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun = time.Now()
		who(l, bearer(token).WithContext(ctx))
		if took := time.Since(begun); took > time.Second {
			t.Errorf("it took %v, want the end of the request to end it", took)
		}
	})
}
