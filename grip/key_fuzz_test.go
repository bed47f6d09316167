package grip

import (
	"strings"
	"testing"
)

func FuzzParseKey(f *testing.F) {
	for _, seed := range []string{
		"", "changeme", "base64:aGVsbG8", "base64:", FastlyKey, `{"kty":"oct","k":"aGVsbG8"}`,
		`{"kty":"RSA","n":"AQAB","e":"AQAB","d":"AQ","p":"AQ","q":"AQ"}`,
		"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAECKo5A1ebyFcnmVV8SE5On+8G81Jy\nBjSvcrx4VLetWCjuDAmppTo3xM/zz763COTCgHfp/6lPdCyYjjqc+GM7sw==\n-----END PUBLIC KEY-----",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.HasPrefix(s, "file:") {
			return
		}
		key, err := ParseKey(s, "")
		if (err != nil || s == "") != key.IsZero() {
			t.Fatalf("ParseKey(%q) = %v, %v", s, key, err)
		}
		if len(key.secret) >= 8 && err == nil && strings.Contains(key.String(), string(key.secret)) {
			t.Fatalf("%v shows its secret", key)
		}
	})
}
