package access_test

import (
	"path"
	"strings"
	"testing"

	"github.com/gripway/gripway/gateway/access"
)

func TestPatternsStandForWholeNames(t *testing.T) {
	for _, test := range []struct {
		pattern, fits, not string // names by blanks
	}{
		{"news", "news", "new newss xnews News"},
		{"news.*", "news. news.a news.a.b news.a/b news.*", "news newsx x.news.a"},
		{"*", "a a.b a/b *", ""},
		{"room-?", "room-1 room-ä room-?", "room- room-12"},
		{"room-[0-9]", "room-0 room-9", "room-a room- room-10"},
		{"room-[^0-9]", "room-a room-^", "room-1 room-"},
		{"[a-cx_]*", "a b1 c x_ _", "d 1"},
		{"[ab-]", "a b -", "c"},
		{"[\\]]", "]", "\\ a"},
		{"a*b*c", "abc aXbXc abbc aabbcc abcbc", "ab acb abcX"},
		{"*a*", "a xax", "x"},
		{`\*`, "*", "a \\*"},
		{`a\?`, "a?", "ab"},
		{"**", "a ab", ""},
		{"ä?ö", "äxö ä€ö", "äö"},
	} {
		p, err := access.ParsePattern(test.pattern)
		if err != nil {
			t.Errorf("%q: %v", test.pattern, err)
			continue
		}
		for _, name := range strings.Fields(test.fits) {
			if !p.Match(name) {
				t.Errorf("%q does not stand for %q", test.pattern, name)
			}
		}
		for _, name := range strings.Fields(test.not) {
			if p.Match(name) {
				t.Errorf("%q stands for %q", test.pattern, name)
			}
		}
	}
	if p, _ := access.ParsePattern("*"); !p.Match("") {
		t.Error("* does not stand for the empty name")
	}
	if p, _ := access.ParsePattern("?"); p.Match("") {
		t.Error("? stands for the empty name")
	}
	if p, _ := access.ParsePattern("a?b"); !p.Match("a\xffb") {
		t.Error("? does not stand for a byte that is no character")
	}
}

func TestWrongPatternsAreRefused(t *testing.T) {
	for _, pattern := range []string{"", "[", "[a", "[]", "[^]", "[z-a]", `a\`, `[a\`, "\xff", strings.Repeat("a", 1025)} {
		if _, err := access.ParsePattern(pattern); err == nil {
			t.Errorf("%.20q is taken", pattern)
		}
	}
}

func TestAPatternOfManyStarsIsNotSlow(t *testing.T) {
	p, err := access.ParsePattern(strings.Repeat("*a", 500) + "b")
	if err != nil {
		t.Fatal(err)
	}
	if p.Match(strings.Repeat("a", 1024)) { // trying every way would not end
		t.Error("got a match, want none")
	}
}

// Names without a slash are where both say the same.
func FuzzPatternsAreThoseOfPathMatch(f *testing.F) {
	f.Add("news.*", "news.a")
	f.Add("[^a-c]?\\*", "dx*")
	f.Add("a*b*c", "aXbXc")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		p, err := access.ParsePattern(pattern)
		if err != nil || strings.Contains(name, "/") || strings.Contains(pattern, "/") || strings.Contains(pattern, "[") {
			return
		}
		want, wrong := path.Match(pattern, name)
		if wrong != nil {
			t.Fatalf("%q: path.Match refuses it: %v", pattern, wrong)
		}
		if strings.ToValidUTF8(name, "") != name || strings.Contains(pattern, "\ufffd") {
			return // path.Match compares bytes
		}
		if got := p.Match(name); got != want {
			t.Errorf("%q, %q: got %t, want %t", pattern, name, got, want)
		}
	})
}
