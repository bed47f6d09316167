package natsbus_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/pubsub/bustest"
	"github.com/gripway/gripway/pubsub/natsbus"
)

func TestAChannelIsWrittenAsTheDocumentationSays(t *testing.T) {
	for _, c := range []struct{ why, channel, subject string }{
		{"a plain name", "room", "gripway.item.room"},
		{"parts stay parts", "news.sport", "gripway.item.news.sport"},
		{"what a URL would escape", "user:17", "gripway.item.user%3A17"},
		{"unreserved bytes stay", "a-b_c~D9", "gripway.item.a-b_c~D9"},
		{"the wildcard of a part", "*", "gripway.item.%2A"},
		{"the wildcard of the rest", ">", "gripway.item.%3E"},
		{"wildcards among parts", "a.*.>", "gripway.item.a.%2A.%3E"},
		{"no name at all", "", "gripway.item.%"},
		{"a percent sign is not an empty part", "%", "gripway.item.%25"},
		{"an empty part in the middle", "a..b", "gripway.item.a.%.b"},
		{"empty parts at the ends", ".a.", "gripway.item.%.a.%"},
		{"UTF-8 byte by byte", "größe", "gripway.item.gr%C3%B6%C3%9Fe"},
		{"the end of a protocol line", "a\r\nPUB x 0", "gripway.item.a%0D%0APUB%20x%200"},
		{"not more than sixteen parts", strings.Repeat("a.", 16) + "b", "gripway.item." + strings.Repeat("a.", 15) + "a%2Eb"},
	} {
		if got := natsbus.Subject("", c.channel); got != c.subject {
			t.Errorf("%s: subject of %q: got %q, want %q", c.why, c.channel, got, c.subject)
		}
		if got, err := natsbus.Channel("", c.subject); got != c.channel || err != nil {
			t.Errorf("%s: channel of %q: got %q, %v, want %q", c.why, c.subject, got, err, c.channel)
		}
	}
	if got, want := natsbus.Subject("our.prefix", "a"), "our.prefix.item.a"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A program in another language may use what it has for URLs.
func TestAPartIsWrittenAsURLEncodersDo(t *testing.T) {
	for _, name := range bustest.Names {
		if name == "" || strings.Contains(name, ".") || strings.Contains(name, " ") { // QueryEscape writes + for a blank
			continue
		}
		want := "gripway.item." + url.QueryEscape(name)
		if got := natsbus.Subject("", name); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestWhatIsNotASubjectOfOursHasNoChannel(t *testing.T) {
	for why, subject := range map[string]string{
		"another prefix":             "other.item.a",
		"nothing behind the prefix":  "gripway.item.",
		"not even that":              "gripway.item",
		"an empty part":              "gripway.item.a..b",
		"a wildcard":                 "gripway.item.>",
		"a plain byte escaped":       "gripway.item.%61",
		"small digits":               "gripway.item.%3e",
		"a percent sign too many":    "gripway.item.a%",
		"half an escape":             "gripway.item.%3",
		"two empty parts in one":     "gripway.item.%%",
		"a blank":                    "gripway.item.a b",
		"a dot escaped without need": "gripway.item.a%2Eb",
		"too many parts":             "gripway.item." + strings.Repeat("a.", 16) + "a",
	} {
		if got, err := natsbus.Channel("", subject); !errors.Is(err, natsbus.ErrSubject) {
			t.Errorf("%s: channel of %q: got %q, %v, want %v", why, subject, got, err, natsbus.ErrSubject)
		}
	}
}

func TestTheLongestSubjectFitsAProtocolLine(t *testing.T) {
	const lineMax = 4096 // max_control_line of a NATS server that was not told otherwise
	prefix := strings.Repeat("p", natsbus.PrefixBytesMax)
	for _, channel := range []string{
		strings.Repeat("\x00", pubsub.ChannelBytesMax),
		strings.Repeat(".", pubsub.ChannelBytesMax),
	} {
		// The longest line is the one between servers: RMSG, account, subject, size.
		line := len("RMSG $G ") + len(natsbus.Subject(prefix, channel)) + len(" 4194304 4194304\r\n")
		if line > lineMax {
			t.Errorf("a line of %d bytes, at most %d", line, lineMax)
		}
	}
}

func TestSubjectOfAPlainNameDoesNotAllocate(t *testing.T) {
	buffer := make([]byte, 0, 100)
	if got := testing.AllocsPerRun(100, func() { buffer = natsbus.AppendSubject(buffer[:0], "gripway.item.", "news.user-17") }); got != 0 {
		t.Errorf("got %v allocations, want 0", got)
	}
}

// FuzzSubject is a security test: a channel that becomes a wildcard hears what
// others were sent.
func FuzzSubject(f *testing.F) {
	for _, name := range bustest.Names {
		f.Add(name, "gripway.item."+name)
	}
	f.Add("a%.b", natsbus.Subject("", "a..b"))
	f.Fuzz(func(t *testing.T, channel, subject string) {
		encoded := natsbus.Subject("", channel)
		parts := strings.Split(encoded, ".")
		if len(parts) < 3 || parts[0] != "gripway" || parts[1] != "item" || len(parts) > 2+16 {
			t.Fatalf("channel %q: subject %q has other parts", channel, encoded)
		}
		for _, part := range parts {
			if part == "" || strings.Trim(part, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~%") != "" ||
				strings.ContainsAny(part, "*> \t\r\n\x00") {
				t.Fatalf("channel %q: part %q of subject %q", channel, part, encoded)
			}
		}
		if back, err := natsbus.Channel("", encoded); back != channel || err != nil {
			t.Fatalf("channel %q became %q: %v", channel, back, err)
		}
		// The other way round: whatever is taken for a subject is the one of its channel.
		if name, err := natsbus.Channel("", subject); err == nil && natsbus.Subject("", name) != subject {
			t.Fatalf("subject %q gives channel %q, whose subject is %q", subject, name, natsbus.Subject("", name))
		}
	})
}

func BenchmarkSubject(b *testing.B) {
	buffer := make([]byte, 0, 200)
	for name, channel := range map[string]string{"plain": "news.user-17", "escaped": "user:größe:17"} {
		b.Run("name="+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				buffer = natsbus.AppendSubject(buffer[:0], "gripway.item.", channel)
			}
		})
	}
}
