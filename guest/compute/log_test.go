package compute

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// Messages are those of Viceroy's write_entry: one newline ends a message, and nothing
// is none.
func TestMessagesEndWithOneNewline(t *testing.T) {
	var logged bytes.Buffer
	service := &Service{Log: slog.New(slog.NewTextHandler(&logged, nil))}
	inSandboxOf(t, service, func(g *tester) {
		e := g.handle("log.endpoint_get", "audit")
		for _, message := range []string{"one", "two\n", "\n", "", "three\n\n", "a\nb"} {
			at, n := g.put(message)
			if got := g.result("log.write", e, at, n); got != n {
				g.Errorf("%q: %d bytes were written", message, got)
			}
		}
	})
	var got []string
	for line := range strings.Lines(logged.String()) {
		_, message, _ := strings.Cut(line, "msg=")
		message, _, _ = strings.Cut(message, " guest=")
		got = append(got, message)
	}
	if want := `one two "three\n" "a\nb"`; strings.Join(got, " ") != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
