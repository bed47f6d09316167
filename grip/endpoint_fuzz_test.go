package grip

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzParseEndpoint(f *testing.F) {
	for _, seed := range []string{
		"http://localhost:5561/", "http://localhost:5561/base//?iss=realm&key=base64:c2VjcmV0+w==&x=1&verify-iss=a",
		"https://user:pa%20ss@host/?key=a+b", "https://h/%2f/?&&verify-key=" + FastlyKey, "//", "http://h?key=%zz",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, gripURL string) {
		e, err := ParseEndpoint(gripURL)
		if err != nil {
			return
		}
		again, err := ParseEndpoint(strings.Replace(e.PublishURL, "/publish/", "/", 1))
		if utf8.ValidString(gripURL) && (err != nil || !strings.Contains(e.PublishURL, "/publish/")) {
			t.Fatalf("ParseEndpoint(%q).PublishURL = %q: %v", gripURL, e.PublishURL, err)
		}
		if again.Key.CanSign() || again.Token != "" || again.User != "" {
			t.Fatalf("PublishURL %q holds credentials", e.PublishURL)
		}
	})
}
