package wsoverhttp_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/gripway/gripway/wsoverhttp"
)

// vector is one file of testdata/vectors: bytes, and what they mean.
//
//	Why the vector is here.
//	source: who writes or reads such bytes
//	-- wire --       the bytes, as Go strings, to be joined
//	-- events --     what they are: TYPE, or TYPE "content"
//	-- error --      or: how the error ends
//	-- lenient --    what a gateway makes of the wrong bytes all the same
//	-- encoded --    what the events are written as, if not as wire
type vector struct {
	name     string
	source   string
	sections map[string]string
}

func vectors(t testing.TB) []vector {
	t.Helper()
	files, err := filepath.Glob("testdata/vectors/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	var all []vector
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		v := vector{name: strings.TrimSuffix(filepath.Base(file), ".txtar"), sections: map[string]string{}}
		section := ""
		for line := range strings.Lines(string(text)) {
			if name, ok := strings.CutPrefix(line, "-- "); ok {
				section = strings.TrimSuffix(name, " --\n")
				v.sections[section] = ""
				continue
			}
			v.sections[section] += line
		}
		_, source, ok := strings.Cut(v.sections[""], "source: ")
		if !ok {
			t.Fatalf("%s: no source: line", file)
		}
		v.source = source
		all = append(all, v)
	}
	return all
}

func (v vector) has(section string) bool { _, ok := v.sections[section]; return ok }

// bytes joins a section's Go strings.
func (v vector) bytes(t testing.TB, section string) []byte {
	t.Helper()
	joined := []byte{}
	for line := range strings.Lines(v.sections[section]) {
		s, err := strconv.Unquote(strings.TrimSuffix(line, "\n"))
		if err != nil {
			t.Fatalf("%s: %s: %q: %v", v.name, section, line, err)
		}
		joined = append(joined, s...)
	}
	return joined
}

// show writes events as the vectors do.
func show(events []wsoverhttp.Event) string {
	var b strings.Builder
	for _, event := range events {
		b.WriteString(event.Type.String())
		if event.Content != nil {
			b.WriteString(" " + strconv.Quote(string(event.Content)))
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestEventsAreReadAndWrittenAsOthersDo(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.name, func(t *testing.T) {
			wire := v.bytes(t, "wire")
			events, err := wsoverhttp.Decode(wire)
			lenient, lenientErr := wsoverhttp.DecodeLenient(wire)

			if v.has("error") {
				want := strings.TrimSpace(v.sections["error"])
				if err == nil || !strings.HasSuffix(err.Error(), want) {
					t.Errorf("Decode(%q) = %v, want an error that ends %q", wire, err, want)
				}
				if v.has("lenient") {
					if got, want := show(lenient), v.sections["lenient"]; lenientErr != nil || got != want {
						t.Errorf("lenient(%q) = %s, %v, want %s", wire, got, lenientErr, want)
					}
				} else if lenientErr == nil {
					t.Errorf("lenient(%q) = %s, want an error", wire, show(lenient))
				}
				return
			}

			want := v.sections["events"]
			if got := show(events); err != nil || got != want {
				t.Fatalf("Decode(%q) = %s, %v, want %s", wire, got, err, want)
			}
			if got := show(lenient); lenientErr != nil || got != want {
				t.Errorf("lenient(%q) = %s, %v, want %s", wire, got, lenientErr, want)
			}
			if v.has("encoded") {
				wire = v.bytes(t, "encoded")
			}
			if got := wsoverhttp.AppendEvents([]byte{}, events...); !bytes.Equal(got, wire) {
				t.Errorf("AppendEvents = %q, want %q", got, wire)
			}
		})
	}
}

func TestDecodeTellsErrorsApart(t *testing.T) {
	for _, c := range []struct {
		why, body string
		want      error
	}{
		{"line without an end", "OPEN", wsoverhttp.ErrNoLineEnd},
		{"size that is no number", "TEXT x\r\n", wsoverhttp.ErrBadSize},
		{"content shorter than its size", "TEXT a\r\nhi\r\n", wsoverhttp.ErrTruncated},
		{"content longer than its size", "TEXT 1\r\nhi\r\n", wsoverhttp.ErrNoContentEnd},
	} {
		t.Run(c.why, func(t *testing.T) {
			if _, err := wsoverhttp.Decode([]byte(c.body)); !errors.Is(err, c.want) {
				t.Errorf("Decode(%q) = %v, want %v", c.body, err, c.want)
			}
		})
	}
}

func TestErrorsShowLittleOfALongBody(t *testing.T) {
	_, err := wsoverhttp.Decode(bytes.Repeat([]byte("x"), 1_000_000))
	if err == nil || len(err.Error()) > 200 {
		t.Errorf("Decode of a million bytes without a line end = %.300v, want a short error", err)
	}
}

func TestAnEventWithoutTypeIsOurMistake(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("AppendEvents of the zero Event did not panic")
		}
	}()
	wsoverhttp.AppendEvents(nil, wsoverhttp.Event{})
}

func TestDecodedContentDoesNotGrowIntoTheNextEvent(t *testing.T) {
	body := []byte("TEXT 2\r\nhi\r\nTEXT 2\r\nho\r\n")
	events, err := wsoverhttp.Decode(body)
	if err != nil {
		t.Fatal(err)
	}
	_ = append(events[0].Content, "!!!!"...)
	if got := string(body); got != "TEXT 2\r\nhi\r\nTEXT 2\r\nho\r\n" {
		t.Errorf("appending to content changed the body to %q", got)
	}
}

func TestCloseContentIsWhatACloseFrameCarries(t *testing.T) {
	for _, c := range []struct {
		why    string
		code   int
		reason string
		want   string
	}{
		{"code and reason", 1000, "bye", "\x03\xe8bye"},
		{"code alone", 4002, "", "\x0f\xa2"},
		{"no code, so no reason either", 0, "bye", ""},
		{"code of three bytes", 65536, "bye", ""},
		{"reason that is not UTF-8", 1000, "a\xffb", "\x03\xe8a\uFFFDb"},
		{"reason at the limit", 1000, strings.Repeat("x", 123), "\x03\xe8" + strings.Repeat("x", 123)},
		{"reason cut", 1000, strings.Repeat("x", 124), "\x03\xe8" + strings.Repeat("x", 123)},
		{"reason cut at a rune", 1000, strings.Repeat("x", 122) + "é", "\x03\xe8" + strings.Repeat("x", 122)},
	} {
		t.Run(c.why, func(t *testing.T) {
			got := wsoverhttp.CloseContent(c.code, c.reason)
			if string(got) != c.want {
				t.Errorf("CloseContent(%d, %q) = %q, want %q", c.code, c.reason, got, c.want)
			}
			if c.want == "" {
				return
			}
			if code, _, ok := wsoverhttp.ParseClose(got); code != c.code || !ok {
				t.Errorf("ParseClose(%q) = %d, %t, want %d, true", got, code, ok, c.code)
			}
		})
	}
}

func TestACloseShorterThanACodeHasNone(t *testing.T) {
	for _, content := range [][]byte{nil, {}, {3}} {
		if code, reason, ok := wsoverhttp.ParseClose(content); ok || code != 0 || reason != "" {
			t.Errorf("ParseClose(%q) = %d, %q, %t, want none", content, code, reason, ok)
		}
	}
}

func TestCodesThatNoFrameMayCarry(t *testing.T) {
	for code, want := range map[int]bool{
		0: false, 999: false, 1000: true, 1003: true, 1004: false, 1005: false, 1006: false, 1007: true, 1014: true,
		1015: false, 1016: false, 2999: false, 3000: true, 4999: true, 5000: false, 65535: false,
	} {
		if got := wsoverhttp.ValidCloseCode(code); got != want {
			t.Errorf("ValidCloseCode(%d) = %t, want %t", code, got, want)
		}
	}
}

// What decodes, encodes to bytes that decode to the same, and a lenient reader
// agrees with a strict one.
func FuzzDecode(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.bytes(f, "wire"))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		lenient, lenientErr := wsoverhttp.DecodeLenient(body)
		events, err := wsoverhttp.Decode(body)
		if err != nil {
			return
		}
		if got, want := show(lenient), show(events); lenientErr != nil || got != want {
			t.Fatalf("lenient = %s, %v, want %s", got, lenientErr, want)
		}
		encoded := wsoverhttp.AppendEvents(nil, events...)
		again, err := wsoverhttp.Decode(encoded)
		if got, want := show(again), show(events); err != nil || got != want {
			t.Fatalf("decoded again = %s, %v, want %s", got, err, want)
		}
		if got, want := wsoverhttp.EncodedLen(events...), len(encoded); got != want {
			t.Fatalf("EncodedLen = %d, want %d", got, want)
		}
	})
}

func FuzzClose(f *testing.F) {
	f.Add(1000, "bye")
	f.Add(65536, "\xff\xff")
	f.Fuzz(func(t *testing.T, code int, reason string) {
		content := wsoverhttp.CloseContent(code, reason)
		if len(content) > 125 {
			t.Fatalf("CloseContent(%d, %q) has %d bytes, which no Close frame carries", code, reason, len(content))
		}
		got, text, ok := wsoverhttp.ParseClose(content)
		if ok != (0 < code && code < 65536) || ok && got != code {
			t.Fatalf("ParseClose(CloseContent(%d)) = %d, %t", code, got, ok)
		}
		if again := wsoverhttp.CloseContent(got, text); ok && !bytes.Equal(again, content) {
			t.Fatalf("CloseContent again = %q, want %q", again, content)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	for _, n := range []int{1, 16} {
		body := bytes.Repeat([]byte("TEXT 64\r\n"+strings.Repeat("x", 100)+"\r\n"), n)
		b.Run("events="+strconv.Itoa(n), func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := wsoverhttp.Decode(body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendEvents(b *testing.B) {
	event := wsoverhttp.Event{Type: wsoverhttp.Text, Content: bytes.Repeat([]byte("x"), 100)}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = wsoverhttp.AppendEvents(dst[:0], event)
	}
}
