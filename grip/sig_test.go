package grip_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gripway/gripway/grip"
)

// Keys and tokens of RFC 7515, appendix A. The tokens are in joe's name and
// expire at 1300819380.
const (
	rfcSecret = `{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}`
	rfcEC     = `{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}`

	rfcHS256 = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	rfcES256 = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"

	// Made by @fanoutio/grip 4.3.0 for iss=realm&key=base64:c2VjcmV0; expires
	// at 1795230510.
	jsToken = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJyZWFsbSIsImV4cCI6MTc5NTIzMDUxMH0.ddgNrT5bYuXnT51hLxgaFO1NwcIoOkjTwD51wmiSMGg"
)

func mustKey(t testing.TB, s string) grip.Key {
	t.Helper()
	key, err := grip.ParseKey(s, "")
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func pemOf(t testing.TB, kind string, der []byte, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// pairs are private and public halves, in every spelling.
func pairs(t testing.TB) map[string][2]string {
	t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8 := func(key any) string {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		return pemOf(t, "PRIVATE KEY", der, err)
	}
	spki := func(key any) string {
		der, err := x509.MarshalPKIXPublicKey(key)
		return pemOf(t, "PUBLIC KEY", der, err)
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	ecPEM := "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + pemOf(t, "EC PRIVATE KEY", sec1, err)
	certificate, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, &ec.PublicKey, ec)
	ecCertificate := pemOf(t, "CERTIFICATE", certificate, err)

	b64 := base64.RawURLEncoding.EncodeToString
	rsaJWK := func(private bool) string {
		jwk := map[string]string{"kty": "RSA", "alg": "RS256", "n": b64(rs.N.Bytes()), "e": b64(big.NewInt(int64(rs.E)).Bytes())}
		if private {
			jwk["d"], jwk["p"], jwk["q"] = b64(rs.D.Bytes()), b64(rs.Primes[0].Bytes()), b64(rs.Primes[1].Bytes())
		}
		data, _ := json.Marshal(jwk)
		return string(data)
	}
	point, err := ec.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	ecJWK := fmt.Sprintf(`{"kty":"EC","crv":"P-256","x":"%s","y":"%s"}`, b64(point[1:33]), b64(point[33:]))

	return map[string][2]string{
		"ES256 PKCS #8 and SPKI":       {pkcs8(ec), spki(&ec.PublicKey)},
		"ES256 SEC 1 and certificate":  {ecPEM, ecCertificate},
		"ES256 base64 of PEM, and JWK": {"base64:" + base64.StdEncoding.EncodeToString([]byte(pkcs8(ec))), ecJWK},
		"RS256 PKCS #8 and SPKI":       {pkcs8(rs), spki(&rs.PublicKey)},
		"RS256 PKCS #1":                {pemOf(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rs), nil), pemOf(t, "RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&rs.PublicKey), nil)},
		"RS256 JWK":                    {rsaJWK(true), rsaJWK(false)},
		"HS256 plain and base64":       {"changeme", "base64:Y2hhbmdlbWU"},
		"HS256 JWK in base64":          {"base64:" + base64.StdEncoding.EncodeToString([]byte(`{"kty":"oct","k":"Y2hhbmdlbWU"}`)), "changeme"},
	}
}

func TestTokensOfOthersAreVerified(t *testing.T) {
	for _, tc := range []struct {
		name, key, iss, token string
		exp                   int64
	}{
		{"RFC 7515 A.1", rfcSecret, "joe", rfcHS256, 1300819380},
		{"RFC 7515 A.3", rfcEC, "joe", rfcES256, 1300819380},
		{"js-grip", "base64:c2VjcmV0", "realm", jsToken, 1795230510},
		{"any issuer", "secret", "", jsToken, 1795230510},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := grip.NewVerifier(tc.iss, mustKey(t, tc.key))
			if err := v.Verify(tc.token, time.Unix(tc.exp-1, 0)); err != nil {
				t.Errorf("a second before it expires: %v", err)
			}
			if err := v.Verify(tc.token, time.Unix(tc.exp+1, 0)); !errors.Is(err, jwt.ErrTokenExpired) {
				t.Errorf("a second after it expired: %v, want ErrTokenExpired", err)
			}
			if err := grip.NewVerifier("somebody", mustKey(t, tc.key)).Verify(tc.token, time.Unix(tc.exp-1, 0)); !errors.Is(err, jwt.ErrTokenInvalidIssuer) {
				t.Errorf("another issuer: %v, want ErrTokenInvalidIssuer", err)
			}
		})
	}
}

func TestSignerAndVerifierAgreeOnEveryKindOfKey(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for name, pair := range pairs(t) {
		t.Run(name, func(t *testing.T) {
			private, public := mustKey(t, pair[0]), mustKey(t, pair[1])
			if want := name[:5]; private.Alg() != want || public.Alg() != want {
				t.Fatalf("algorithms %s and %s, want %s", private.Alg(), public.Alg(), want)
			}
			if !private.CanSign() || public.CanSign() != (public.Alg() == "HS256") {
				t.Errorf("CanSign = %v, %v", private.CanSign(), public.CanSign())
			}
			token, err := grip.NewSigner("gripway", private).Sign(now)
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range []grip.Key{private, public} {
				if err := grip.NewVerifier("gripway", mustKey(t, "other"), key).Verify(token, now); err != nil {
					t.Errorf("%v: %v", key, err)
				}
			}
			header, claims := decodeToken(t, token)
			if len(header) != 2 || header["typ"] != "JWT" || header["alg"] != private.Alg() {
				t.Errorf("header %v", header)
			}
			if len(claims) != 2 || claims["iss"] != "gripway" || claims["exp"] != float64(now.Unix()+3600) {
				t.Errorf("claims %v, want iss and exp in an hour", claims)
			}
			if _, err := grip.NewSigner("", public).Sign(now); !public.CanSign() && !errors.Is(err, grip.ErrPublicKey) {
				t.Errorf("signing with the public half: %v, want ErrPublicKey", err)
			}
		})
	}
}

func decodeToken(t *testing.T, token string) (header, claims map[string]any) {
	t.Helper()
	parts := strings.Split(token, ".")
	for i, into := range []*map[string]any{&header, &claims} {
		data, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatal(err)
		}
	}
	return header, claims
}

func TestForgedTokensAreRefused(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	pair := pairs(t)["ES256 PKCS #8 and SPKI"]
	public := mustKey(t, pair[1])
	good := jwt.MapClaims{"exp": now.Unix() + 60, "iss": "gripway"}
	sign := func(method jwt.SigningMethod, claims jwt.MapClaims, key any) string {
		token, err := jwt.NewWithClaims(method, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	valid, err := grip.NewSigner("gripway", mustKey(t, pair[0])).Sign(now)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, token string
		key         grip.Key
	}{
		{"nothing", "", public},
		{"garbage", "total-garbage", public},
		{"without algorithm", sign(jwt.SigningMethodNone, good, jwt.UnsafeAllowNoneSignatureType), public},
		{"with the public key for a secret", sign(jwt.SigningMethodHS256, good, []byte(pair[1])), public},
		{"with another algorithm of the family", sign(jwt.SigningMethodHS512, good, []byte("changeme")), mustKey(t, "changeme")},
		{"with another secret", sign(jwt.SigningMethodHS256, good, []byte("changed")), mustKey(t, "changeme")},
		{"without an expiry", sign(jwt.SigningMethodHS256, jwt.MapClaims{"iss": "gripway"}, []byte("changeme")), mustKey(t, "changeme")},
		{"with an expiry in words", sign(jwt.SigningMethodHS256, jwt.MapClaims{"exp": "tomorrow", "iss": "gripway"}, []byte("changeme")), mustKey(t, "changeme")},
		{"for later", sign(jwt.SigningMethodHS256, jwt.MapClaims{"exp": now.Unix() + 60, "nbf": now.Unix() + 30, "iss": "gripway"}, []byte("changeme")), mustKey(t, "changeme")},
		{"of nobody", sign(jwt.SigningMethodHS256, jwt.MapClaims{"exp": now.Unix() + 60}, []byte("changeme")), mustKey(t, "changeme")},
		{"with a bit turned", valid[:len(valid)-2] + "A" + valid[len(valid)-1:], public},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.token == valid {
				t.Skip("the bit was that way already")
			}
			if err := grip.NewVerifier("gripway", tc.key).Verify(tc.token, now); err == nil {
				t.Error("believed")
			}
		})
	}
}

func TestLongTokensAreNotLookedAt(t *testing.T) {
	v := grip.NewVerifier("", mustKey(t, "changeme"))
	if err := v.Verify(strings.Repeat(".", grip.TokenBytesMax+1), time.Now()); !errors.Is(err, grip.ErrTokenTooLong) {
		t.Errorf("Verify = %v, want ErrTokenTooLong", err)
	}
}

func TestWithoutAKeyNothingIsSignedAndNothingBelieved(t *testing.T) {
	key := mustKey(t, "")
	if !key.IsZero() || key.Alg() != "" || key.CanSign() {
		t.Errorf("ParseKey of nothing = %v", key)
	}
	if _, err := grip.NewSigner("gripway", key).Sign(time.Now()); !errors.Is(err, grip.ErrNoKey) {
		t.Errorf("Sign = %v, want ErrNoKey", err)
	}
	if err := grip.NewVerifier("", key).Verify(jsToken, time.Unix(0, 0)); !errors.Is(err, grip.ErrNoKey) {
		t.Errorf("Verify = %v, want ErrNoKey", err)
	}
}

func TestTokenIsMadeOnceASecond(t *testing.T) {
	private := mustKey(t, pairs(t)["ES256 PKCS #8 and SPKI"][0]) // ES256 signs differently every time
	s := grip.NewSigner("gripway", private)
	start := time.Unix(1_700_000_000, 0)
	tokens := make([]string, 8)
	var wg sync.WaitGroup
	for i := range tokens {
		wg.Go(func() { tokens[i], _ = s.Sign(start.Add(time.Duration(i) * time.Millisecond)) })
	}
	wg.Wait()
	for i, token := range tokens {
		if token == "" || token != tokens[0] {
			t.Errorf("token %d differs within a second", i)
		}
	}
	if next, err := s.Sign(start.Add(time.Second)); err != nil || next == tokens[0] {
		t.Errorf("the next second's token is the same, %v", err)
	}
	if n := testing.AllocsPerRun(100, func() { s.Sign(start.Add(time.Second)) }); n != 0 {
		t.Errorf("%v allocations for a token that is there, want none", n)
	}
}

func TestKeysComeFromFiles(t *testing.T) {
	dir := t.TempDir()
	pair := pairs(t)["ES256 PKCS #8 and SPKI"]
	for name, content := range map[string]string{
		"key.pem": pair[0], "key.jwk": rfcEC + "\n", "key.hex": hex.EncodeToString([]byte("changeme")) + "\n",
		"key.txt": "changeme", "empty": "", "big": strings.Repeat("00", 64<<10),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, alg := range map[string]string{"key.pem": "ES256", "key.jwk": "ES256", "key.hex": "HS256"} {
		key, err := grip.ParseKey("file:"+name, dir)
		if err != nil || key.Alg() != alg {
			t.Errorf("%s: %v, %v, want %s", name, key, err, alg)
		}
		if _, err := grip.ParseKey("file:"+filepath.Join(dir, name), "/nowhere"); err != nil {
			t.Errorf("%s by its whole path: %v", name, err)
		}
	}
	for _, name := range []string{"key.txt", "empty", "big", "missing"} {
		key, err := grip.ParseKey("file:"+name, dir)
		if err == nil || !key.IsZero() || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, %v, want an error that names the file", name, key, err)
		}
	}
	hexKey, _ := grip.ParseKey("file:key.hex", dir)
	token, err := grip.NewSigner("", mustKey(t, "changeme")).Sign(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := grip.NewVerifier("", hexKey).Verify(token, time.Now()); err != nil {
		t.Errorf("the secret in hex is another: %v", err)
	}
}

func TestKeysThatMayNotBeUsedAreRefusedByName(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(p384)
	p384PEM := pemOf(t, "PRIVATE KEY", der, err)
	small := base64.RawURLEncoding.EncodeToString(append([]byte{0x80}, make([]byte, 127)...))
	for _, tc := range []struct{ name, key, want string }{
		{"base64 that is none", "base64:%%%", "not base64"},
		{"base64 of nothing", "base64:", "not base64"},
		{"another curve", p384PEM, "P-384, want P-256"},
		{"another curve in JWK", `{"kty":"EC","crv":"P-384"}`, `"P-384", want P-256`},
		{"another type of JWK", `{"kty":"OKP","crv":"Ed25519"}`, `"OKP", want oct, EC or RSA`},
		{"a point that is not on the curve", `{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"}`, "not on P-256"},
		{"a coordinate that is short", `{"kty":"EC","crv":"P-256","x":"AQ","y":"AQ"}`, "'x' has 1 bytes, want 32"},
		{"a d of another point", strings.Replace(rfcEC, `"d":"jps`, `"d":"aps`, 1), "'d' does not belong"},
		{"oct without k", `{"kty":"oct"}`, "'k' is missing"},
		{"RSA of 1024 bits", `{"kty":"RSA","n":"` + small + `","e":"AQAB"}`, "1024 bits, want at least 2048"},
		{"RSA with an even exponent", `{"kty":"RSA","n":"` + small + `","e":"BA"}`, "exponent out of range"},
		{"a member of a wrong type", `{"kty":"oct","k":5}`, "wrong type"},
		{"PEM without a key", "-----BEGIN X-----\nAA==\n-----END X-----\n", "PEM holds no key"},
		{"PEM that is broken", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "PEM PUBLIC KEY cannot be read"},
		{"PEM that never ends", "-----BEGIN PUBLIC KEY-----\nAAAA\n", "PEM holds no key"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			key, err := grip.ParseKey(tc.key, "")
			if err == nil || !strings.Contains(err.Error(), tc.want) || !key.IsZero() {
				t.Errorf("ParseKey = %v, %v, want an error that says %q", key, err, tc.want)
			}
		})
	}
}

func TestKeysDoNotShowThemselves(t *testing.T) {
	key := mustKey(t, "changeme")
	e, err := grip.ParseEndpoint("http://h?iss=a&key=changeme")
	if err != nil {
		t.Fatal(err)
	}
	e.Token, e.Password = "changeme", "changeme"
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(format+format, key, e); strings.Contains(got, "changeme") || strings.Contains(got, "99") {
			t.Errorf("%s prints %s", format, got)
		}
	}
}

func TestFastlysKeyIsTheOneThatItPublishes(t *testing.T) {
	// The same key as PEM, from the same source.
	pemKey := "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAECKo5A1ebyFcnmVV8SE5On+8G81Jy\nBjSvcrx4VLetWCjuDAmppTo3xM/zz763COTCgHfp/6lPdCyYjjqc+GM7sw==\n-----END PUBLIC KEY-----"
	block, _ := pem.Decode([]byte(pemKey))
	var jwk struct{ X, Y string }
	if err := json.Unmarshal([]byte(grip.FastlyKey), &jwk); err != nil {
		t.Fatal(err)
	}
	x, _ := base64.RawURLEncoding.DecodeString(jwk.X)
	y, _ := base64.RawURLEncoding.DecodeString(jwk.Y)
	if !strings.HasSuffix(string(block.Bytes), string(x)+string(y)) {
		t.Error("the JWK and the PEM are different keys")
	}
	if key := mustKey(t, grip.FastlyKey); key.Alg() != "ES256" || key.CanSign() {
		t.Errorf("FastlyKey is %v", key)
	}
}

func TestRequestsAreVerifiedByTheirGripSig(t *testing.T) {
	key := mustKey(t, "changeme")
	v := grip.NewVerifier("gripway", key)
	r, _ := http.NewRequest("GET", "/", nil)
	if err := v.VerifyRequest(r); !errors.Is(err, grip.ErrNoSignature) || grip.IsGrip(r) {
		t.Errorf("without Grip-Sig: %v, IsGrip %v", err, grip.IsGrip(r))
	}
	r.Header.Set("Grip-Sig", "bogus")
	if err := v.VerifyRequest(r); err == nil || errors.Is(err, grip.ErrNoSignature) || !grip.IsGrip(r) {
		t.Errorf("with a bogus one: %v", err)
	}
	token, err := grip.NewSigner("gripway", key).Sign(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Grip-Sig", token)
	if err := v.VerifyRequest(r); err != nil {
		t.Errorf("with a good one: %v", err)
	}
}

func TestFeaturesAreListed(t *testing.T) {
	r, _ := http.NewRequest("GET", "/", nil)
	r.Header.Set("Grip-Feature", grip.Feature)
	for feature, want := range map[string]bool{"status": true, "link:gone": true, "filter:http-modify": true, "link": false, "": false} {
		if got := grip.HasFeature(r, feature); got != want {
			t.Errorf("HasFeature(%q) = %v, want %v", feature, got, want)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	for _, name := range []string{"HS256 plain and base64", "ES256 PKCS #8 and SPKI", "RS256 PKCS #8 and SPKI"} {
		pair := pairs(b)[name]
		s := grip.NewSigner("gripway", mustKey(b, pair[0]))
		now := time.Unix(1_700_000_000, 0)
		b.Run(name[:5]+"/every=call", func(b *testing.B) {
			for b.Loop() {
				now = now.Add(time.Second)
				s.Sign(now)
			}
		})
		b.Run(name[:5]+"/every=second", func(b *testing.B) {
			for b.Loop() {
				s.Sign(now)
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, name := range []string{"HS256 plain and base64", "ES256 PKCS #8 and SPKI", "RS256 PKCS #8 and SPKI"} {
		pair := pairs(b)[name]
		now := time.Unix(1_700_000_000, 0)
		token, err := grip.NewSigner("gripway", mustKey(b, pair[0])).Sign(now)
		if err != nil {
			b.Fatal(err)
		}
		v := grip.NewVerifier("gripway", mustKey(b, pair[1]))
		b.Run(name[:5], func(b *testing.B) {
			for b.Loop() {
				if err := v.Verify(token, now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
