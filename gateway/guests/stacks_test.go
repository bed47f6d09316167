package guests

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"
)

func TestStacksHaveLinesOfTheirOwn(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(stacks{slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}), &out}).With("guest", "app")
	log.Error("guest failed", "error", errors.New("guest failed (cpu): it ran for more than 1s\nwasm stack trace:\n\tapp.spin()\n\tapp.main()"), "reason", "cpu")
	log.Warn("something else", "error", "one\ntwo")
	want := "level=ERROR msg=\"guest failed\" guest=app error=\"guest failed (cpu): it ran for more than 1s\" reason=cpu\n\tapp.spin()\n\tapp.main()\n" +
		"level=WARN msg=\"something else\" guest=app error=\"one\\ntwo\"\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &out, want)
	}
}
