package access_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"github.com/gripway/gripway/gateway/access"
	"github.com/gripway/gripway/grip"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func list(t *testing.T, publishers ...access.Publisher) *access.List {
	t.Helper()
	l, err := access.New(access.Options{Publishers: publishers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// request shows the headers, each "Name: value".
func request(headers ...string) *http.Request {
	r := httptest.NewRequest("POST", "/publish/", nil)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header[name] = append(r.Header[name], value)
	}
	return r
}

// who is the name of the one admitted, or the error.
func who(l *access.List, r *http.Request) string {
	key, err := l.Admit(r)
	if err != nil {
		return err.Error()
	}
	return key.Name()
}

func key(t *testing.T, text string) grip.Key {
	t.Helper()
	k, err := grip.ParseKey(text, "")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func pemOf(t *testing.T, public crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// signed is a token; header and claims are changed as set says before.
func signed(t *testing.T, method jwt.SigningMethod, key any, set func(header, claims map[string]any)) string {
	t.Helper()
	claims := jwt.MapClaims{"exp": time.Now().Add(10 * time.Minute).Unix()}
	token := jwt.NewWithClaims(method, claims)
	if set != nil {
		set(token.Header, claims)
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var (
	rsaKey, _   = rsa.GenerateKey(rand.Reader, 2048)
	rsaKey2, _  = rsa.GenerateKey(rand.Reader, 2048)
	ecKey, _    = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, edKey, _ = ed25519.GenerateKey(rand.Reader)
)

func TestWhatLibrariesSendIsUnderstood(t *testing.T) {
	l := list(t,
		access.Publisher{Name: "token", Tokens: []string{"s3cret", "old"}},
		access.Publisher{Name: "realm", Key: key(t, "base64:aGVsbG8="), Iss: "realm"},
		access.Publisher{Name: "both", Tokens: []string{"both"}, Key: key(t, "both")},
		access.Publisher{Name: "es", Key: key(t, pemOf(t, ecKey.Public()))},
		access.Publisher{Name: "rs", Key: key(t, pemOf(t, rsaKey.Public())), Iss: "rs"},
		access.Publisher{Name: "user", User: "me", Password: "p:w"},
	)
	iss := func(name string) func(header, claims map[string]any) {
		return func(_, claims map[string]any) { claims["iss"] = name }
	}
	realm := signed(t, jwt.SigningMethodHS256, []byte("hello"), iss("realm"))
	basic := func(text string) string {
		return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(text))
	}
	for _, test := range []struct {
		name string
		r    *http.Request
		want string
	}{
		{"Bearer", request("Authorization: Bearer s3cret"), "token"},
		{"its second token, for the change", request("Authorization: Bearer old"), "token"},
		{"scheme in lower case, blanks", request("Authorization: bearer   s3cret "), "token"},
		{"Fastly-Key", request("Fastly-Key: s3cret"), "token"},
		{"Fastly-Key with the empty Authorization of go-pubcontrol", request("Authorization: ", "Fastly-Key: s3cret"), "token"},
		{"JWT, as js-grip and pubcontrol make it", request("Authorization: Bearer " + realm), "realm"},
		{"a key that is a token too", request("Authorization: Bearer both"), "both"},
		{"and makes tokens", request("Authorization: Bearer " + signed(t, jwt.SigningMethodHS256, []byte("both"), iss("any"))), "both"},
		{"ES256", request("Authorization: Bearer " + signed(t, jwt.SigningMethodES256, ecKey, nil)), "es"},
		{"RS256", request("Authorization: Bearer " + signed(t, jwt.SigningMethodRS256, rsaKey, iss("rs"))), "rs"},
		{"Basic", request(basic("me:p:w")), "user"},

		{"nothing", request(), access.ErrMissing.Error()},
		{"empty", request("Authorization: "), access.ErrMissing.Error()},
		{"both empty", request("Authorization:  ", "Fastly-Key: "), access.ErrMissing.Error()},
		{"Basic of pubcontrol on Python 3", request("Authorization: Basic b'bWU6cDp3'"), access.ErrMalformed.Error()},
		{"Basic without a colon", request(basic("me")), access.ErrMalformed.Error()},
		{"another scheme", request("Authorization: Digest x"), access.ErrMalformed.Error()},
		{"a scheme alone", request("Authorization: Bearer"), access.ErrMalformed.Error()},
		{"no scheme", request("Authorization: s3cret"), access.ErrMalformed.Error()},
		{"two of them", request("Authorization: Bearer s3cret", "Authorization: Bearer s3cret"), access.ErrMalformed.Error()},
		{"a wrong token beside a right Fastly-Key", request("Authorization: Bearer x", "Fastly-Key: s3cret"), access.ErrUnknown.Error()},
		{"a wrong token", request("Authorization: Bearer s3cre"), access.ErrUnknown.Error()},
		{"a JWT as Fastly-Key", request("Fastly-Key: " + realm), access.ErrUnknown.Error()},
		{"wrong password", request(basic("me:p")), access.ErrUnknown.Error()},
		{"wrong user", request(basic("you:p:w")), access.ErrUnknown.Error()},
		{"empty user and password", request(basic(":")), access.ErrUnknown.Error()},
		{"a token as password", request(basic("token:s3cret")), access.ErrUnknown.Error()},
	} {
		if got := who(l, test.r); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

func TestHostileTokensAreRefused(t *testing.T) {
	l := list(t,
		access.Publisher{Name: "hs", Key: key(t, "secret"), Iss: "hs"},
		access.Publisher{Name: "rs", Key: key(t, pemOf(t, rsaKey.Public())), Iss: "rs"},
		access.Publisher{Name: "any", Key: key(t, pemOf(t, ecKey.Public()))},
	)
	hs := func(set func(header, claims map[string]any)) string {
		return signed(t, jwt.SigningMethodHS256, []byte("secret"), func(header, claims map[string]any) {
			claims["iss"] = "hs"
			if set != nil {
				set(header, claims)
			}
		})
	}
	encode := base64.RawURLEncoding.EncodeToString
	good := hs(nil)
	parts := strings.Split(good, ".")
	rsaIss := func(_, claims map[string]any) { claims["iss"] = "rs" }
	for _, test := range []struct {
		name, token string
		want        error
	}{
		{"nothing wrong with it", good, nil},
		{"alg none", encode([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".", access.ErrUnknown},
		{"alg None", encode([]byte(`{"alg":"None"}`)) + "." + parts[1] + "." + parts[2], access.ErrUnknown},
		{"alg none, made by the library", signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, rsaIss), access.ErrUnknown},
		{"no alg", encode([]byte(`{}`)) + "." + parts[1] + "." + parts[2], access.ErrUnknown},
		{"HS256 with the RSA public key", signed(t, jwt.SigningMethodHS256, []byte(pemOf(t, rsaKey.Public())), rsaIss), access.ErrUnknown},
		{"the same without the last line end", signed(t, jwt.SigningMethodHS256, []byte(strings.TrimSpace(pemOf(t, rsaKey.Public()))), rsaIss), access.ErrUnknown},
		{"HS384 with the right secret", signed(t, jwt.SigningMethodHS384, []byte("secret"), func(_, claims map[string]any) { claims["iss"] = "hs" }), access.ErrUnknown},
		{"the signature missing", parts[0] + "." + parts[1] + ".", access.ErrUnknown},
		{"another's signature", signed(t, jwt.SigningMethodRS256, rsaKey2, rsaIss), access.ErrUnknown},
		{"claims changed", parts[0] + "." + encode([]byte(`{"iss":"hs","exp":99999999999}`)) + "." + parts[2], access.ErrUnknown},
		{"expired", hs(func(_, claims map[string]any) { claims["exp"] = time.Now().Add(-time.Second).Unix() }), access.ErrExpired},
		{"expired, and not ours either", signed(t, jwt.SigningMethodHS256, []byte("guess"), func(_, claims map[string]any) { claims["exp"], claims["iss"] = 1, "hs" }), access.ErrUnknown},
		{"not valid yet", hs(func(_, claims map[string]any) { claims["nbf"] = time.Now().Add(time.Hour).Unix() }), access.ErrExpired},
		{"no exp", hs(func(_, claims map[string]any) { delete(claims, "exp") }), access.ErrNoExpiry},
		{"exp is a text", hs(func(_, claims map[string]any) { claims["exp"] = "tomorrow" }), access.ErrUnknown},
		{"exp is null", hs(func(_, claims map[string]any) { claims["exp"] = nil }), access.ErrUnknown},
		{"wrong iss", hs(func(_, claims map[string]any) { claims["iss"] = "other" }), access.ErrUnknown},
		{"no iss", hs(func(_, claims map[string]any) { delete(claims, "iss") }), access.ErrUnknown},
		{"iss is a list", hs(func(_, claims map[string]any) { claims["iss"] = []string{"hs"} }), access.ErrUnknown},
		{"iss twice, the first another's", parts[0] + "." + encode([]byte(`{"iss":"rs","iss":"hs","exp":99999999999}`)) + "." + parts[2], access.ErrUnknown},
		{"in another's name", signed(t, jwt.SigningMethodRS256, rsaKey, func(_, claims map[string]any) { claims["iss"] = "hs" }), access.ErrUnknown},
		{"crit", hs(func(header, _ map[string]any) { header["crit"] = []string{"exp"} }), access.ErrUnknown},
		{"its own key", hs(func(header, _ map[string]any) { header["jwk"] = map[string]string{"kty": "oct", "k": "eA"} }), nil}, // not looked at
		{"no JSON", "a.b.c", access.ErrUnknown},
		{"dots", "..", access.ErrUnknown},
		{"many dots", strings.Repeat(".", 8000), access.ErrUnknown},
		{"deep JSON", encode([]byte(strings.Repeat("[", 5000))) + ".e30.x", access.ErrUnknown},
		{"1 MB", strings.Repeat("x", 1<<20), access.ErrTooLong},
		{"1 MB with dots", strings.Repeat("x", 1<<19) + "." + strings.Repeat("x", 1<<19) + ".x", access.ErrTooLong},
		{"a byte too long", strings.Repeat("x", access.CredentialBytesMax+1), access.ErrTooLong},
	} {
		_, err := l.Admit(request("Authorization: Bearer " + test.token))
		if !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
	}
	if _, err := l.Admit(request("Fastly-Key: " + strings.Repeat("x", 1<<20))); !errors.Is(err, access.ErrTooLong) {
		t.Errorf("Fastly-Key of 1 MB: got %v, want ErrTooLong", err)
	}
}

func TestChallengesSayWhatThereIs(t *testing.T) {
	l := list(t, access.Publisher{Name: "a", Tokens: []string{"x"}})
	if got := fmt.Sprint(l.Challenge(access.ErrMissing)); got != `[Bearer realm="gripway"]` {
		t.Errorf("got %s", got)
	}
	l = list(t, access.Publisher{Name: "a", User: "me", Password: "pw"})
	if got := fmt.Sprint(l.Challenge(access.ErrUnknown)); got != `[Bearer realm="gripway", error="invalid_token" Basic realm="gripway", charset="UTF-8"]` {
		t.Errorf("got %s", got)
	}
}

func TestKeysAreForTheirChannels(t *testing.T) {
	l := list(t,
		access.Publisher{Name: "all", Tokens: []string{"all"}},
		access.Publisher{Name: "none", Tokens: []string{"none"}, Channels: []string{}},
		access.Publisher{Name: "some", Tokens: []string{"some"}, Channels: []string{"news.*", "room-?"}},
	)
	for _, test := range []struct {
		token, channel string
		want           bool
	}{
		{"all", "x", true}, {"all", "", true},
		{"none", "x", false}, {"none", "", false},
		{"some", "news.a", true}, {"some", "room-1", true}, {"some", "news", false}, {"some", "", false},
	} {
		key, err := l.Admit(request("Authorization: Bearer " + test.token))
		if err != nil {
			t.Fatal(err)
		}
		if got := key.May(test.channel); got != test.want {
			t.Errorf("%s may %q: got %t, want %t", test.token, test.channel, got, test.want)
		}
	}
	if !(*access.Key)(nil).May("x") {
		t.Error("nobody was asked, and the channel is refused")
	}
}

func TestRatesAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := list(t, access.Publisher{Name: "a", Tokens: []string{"x"}, Rate: 2, Burst: 10},
			access.Publisher{Name: "b", Tokens: []string{"y"}, Rate: 0.5})
		key, _ := l.Admit(request("Fastly-Key: x"))
		take := func(items int, wantWait time.Duration, want error) {
			t.Helper()
			wait, err := key.Take(items)
			if (wait-wantWait).Abs() > time.Microsecond || !errors.Is(err, want) {
				t.Errorf("%d items: got %v, %v, want %v, %v", items, wait, err, wantWait, want)
			}
		}
		take(8, 0, nil)
		take(3, 500*time.Millisecond, access.ErrTooFast)
		take(2, 0, nil) // what was refused was not counted
		take(0, 0, nil)
		take(11, 0, access.ErrTooMany)
		take(4, 2*time.Second, access.ErrTooFast)
		time.Sleep(2 * time.Second)
		take(4, 0, nil)
		take(1, 500*time.Millisecond, access.ErrTooFast)

		key, _ = l.Admit(request("Fastly-Key: y"))
		take(1, 0, nil)
		take(1, 2*time.Second, access.ErrTooFast)
		key = nil
		take(1000, 0, nil)
	})
}

func TestWrongPublishersAreRefused(t *testing.T) {
	secret := "hunter2"
	for _, test := range []struct {
		publisher access.Publisher
		want      string
	}{
		{access.Publisher{}, "no name"},
		{access.Publisher{Name: "a"}, "nothing to know him by"},
		{access.Publisher{Name: "a", Tokens: []string{secret}, User: "me", Password: secret}, "several ways"},
		{access.Publisher{Name: "a", Tokens: []string{""}}, "not empty"},
		{access.Publisher{Name: "a", Tokens: []string{secret + " x"}}, "without blanks"},
		{access.Publisher{Name: "a", Tokens: []string{strings.Repeat(secret, 2000)}}, "at most 8192"},
		{access.Publisher{Name: "a", User: "me"}, "belong together"},
		{access.Publisher{Name: "a", User: "m:e", Password: secret}, "colon"},
		{access.Publisher{Name: "a", JWKS: "https://host/keys"}, "needs iss"},
		{access.Publisher{Name: "a", JWKS: "http://host/keys", Iss: "i"}, "want https://"},
		{access.Publisher{Name: "a", JWKS: "https://me:hunter2@host/keys", Iss: "i"}, "without a user"},
		{access.Publisher{Name: "a", JWKS: "ftp://host/keys", Iss: "i"}, "not ftp:"},
		{access.Publisher{Name: "a", JWKS: "http://127.0.0.1.example.com/keys", Iss: "i"}, "want https://"},
		{access.Publisher{Name: "a", Tokens: []string{secret}, Iss: "i"}, "iss: it is for tokens that are signed"},
		{access.Publisher{Name: "a", Tokens: []string{secret}, Channels: []string{"[a"}}, "channels: \"[a\""},
		{access.Publisher{Name: "a", Tokens: []string{secret}, Rate: -1}, "rate"},
		{access.Publisher{Name: "a", Tokens: []string{secret}, Burst: 3}, "burst: it goes with rate"},
	} {
		err := test.publisher.Check()
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("got %v, want %q", err, test.want)
		}
		if _, err := access.New(access.Options{Publishers: []access.Publisher{test.publisher}}); err == nil {
			t.Errorf("%q: New takes it", test.want)
		}
	}
	for _, twice := range [][]access.Publisher{
		{{Name: "a", Tokens: []string{secret}}, {Name: "b", Tokens: []string{"x", secret}}},
		{{Name: "a", User: "me", Password: "x"}, {Name: "b", User: "me", Password: "y"}},
		{{Name: "a", Tokens: []string{"x"}}, {Name: "a", Tokens: []string{"y"}}},
	} {
		if _, err := access.New(access.Options{Publishers: twice}); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("got %v, want a refusal", err)
		}
	}
}

func BenchmarkAdmit(b *testing.B) {
	var publishers []access.Publisher
	for i := range 10 {
		name := fmt.Sprint("publisher-", i)
		k, _ := grip.ParseKey(name, "")
		publishers = append(publishers, access.Publisher{Name: name, Tokens: []string{name}, Key: k, Iss: name})
	}
	l, err := access.New(access.Options{Publishers: publishers})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	claims := jwt.MapClaims{"exp": time.Now().Add(time.Hour).Unix(), "iss": "publisher-9"}
	token, _ := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte("publisher-9"))
	for name, r := range map[string]*http.Request{
		"publishers=10/token": request("Authorization: Bearer publisher-9"),
		"publishers=10/HS256": request("Authorization: Bearer " + token),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.Admit(r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Whatever is shown, the answer is an error that has a name, or the owner.
func FuzzAdmit(f *testing.F) {
	k, _ := grip.ParseKey("secret", "")
	// The same in every process of the fuzzer.
	token, _ := grip.NewSigner("realm", k).Sign(time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC))
	l, err := access.New(access.Options{Publishers: []access.Publisher{
		{Name: "token", Tokens: []string{"s3cret"}}, {Name: "realm", Key: k, Iss: "realm"}, {Name: "user", User: "me", Password: "pw"},
		{Name: "set", JWKS: "access_test.go", Iss: "set"}, // which has no keys
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(l.Close)
	for _, seed := range []string{"Bearer s3cret", "Basic bWU6cHc=", "Basic b'eDp5'", "Bearer " + token, "Bearer eyJhbGciOiJub25lIn0.e30.", ""} {
		f.Add(seed, "")
		f.Add("", seed)
	}
	f.Fuzz(func(t *testing.T, authorization, fastly string) {
		r := request()
		r.Header["Authorization"], r.Header["Fastly-Key"] = []string{authorization}, []string{fastly}
		key, err := l.Admit(r)
		if err == nil {
			switch _, rest, _ := strings.Cut(strings.TrimSpace(authorization), " "); {
			case key.Name() == "token" && (strings.TrimSpace(rest) == "s3cret" || strings.TrimSpace(fastly) == "s3cret"):
			case key.Name() == "realm" && strings.HasPrefix(strings.TrimSpace(rest), token[:len(token)-1]):
			case key.Name() == "user" && strings.HasPrefix(strings.TrimSpace(rest), "bWU6cH"): // the last character has bits that do not count
			default:
				t.Errorf("%q, %q: got %q", authorization, fastly, key.Name())
			}
			return
		}
		for _, known := range []error{
			access.ErrMissing, access.ErrMalformed, access.ErrTooLong, access.ErrUnknown, access.ErrExpired, access.ErrNoExpiry, access.ErrKeysAway,
		} {
			if err == known {
				return
			}
		}
		t.Errorf("%q, %q: got %v, want one of the errors with a name", authorization, fastly, err)
	})
}

func FuzzParseJWKS(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQ","e":"AQAB"},{"kty":"EC","crv":"P-521","x":"AA","y":"AA"},{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Fuzz(func(t *testing.T, set []byte) {
		if n, err := access.ParseJWKS(set); (n == 0) != (err != nil) {
			t.Errorf("%q: got %d keys and %v", set, n, err)
		}
	})
}
