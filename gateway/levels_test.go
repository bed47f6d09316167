package gateway_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/gripway/gripway/gateway"
)

func TestARouteMayHaveALogLevelOfItsOwn(t *testing.T) {
	var out bytes.Buffer
	levels := gateway.NewLevels(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}), slog.LevelInfo)
	log := slog.New(levels)
	lines := func() string {
		out.Reset()
		for _, route := range []string{"loud", "quiet", "other"} {
			log.Debug("d-"+route, "route", route)
			log.Warn("w-"+route, "conn", 1, "route", route)
		}
		log.Debug("d-none")
		log.Info("i-none")
		log.With("route", "loud").WithGroup("g").Debug("d-with")
		var said []string
		for line := range strings.Lines(out.String()) {
			_, rest, _ := strings.Cut(line, "msg=")
			name, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
			said = append(said, name)
		}
		return strings.Join(said, " ")
	}
	if got, want := lines(), "w-loud w-quiet w-other i-none"; got != want {
		t.Errorf("without levels: got %s, want %s", got, want)
	}
	levels.Set(map[string]slog.Level{"loud": slog.LevelDebug, "quiet": slog.LevelError})
	if got, want := lines(), "d-loud w-loud w-other i-none d-with"; got != want {
		t.Errorf("with levels: got %s, want %s", got, want)
	}
	levels.Set(nil)
	if got, want := lines(), "w-loud w-quiet w-other i-none"; got != want {
		t.Errorf("without levels again: got %s, want %s", got, want)
	}
	if log.Enabled(t.Context(), slog.LevelDebug) {
		t.Error("debug lines are made although nobody wants them")
	}
}
