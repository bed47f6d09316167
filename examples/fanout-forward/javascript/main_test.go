package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gripway/gripway/examples/internal/browser"
	"github.com/gripway/gripway/examples/internal/readme"
)

// guestPort is where those who develop guests expect them.
const guestPort = 7676

// open copies the guest, so that what is built does not end up in the repository,
// and starts what the README starts.
func open(t *testing.T) *readme.README {
	t.Helper()
	if os.Getenv("GRIPWAY_LONG") == "" {
		t.Skip("SKIPPED: npm and the SDK have to be fetched: set GRIPWAY_LONG=1")
	}
	readme.Need(t, "node", "npm", "curl")
	repository, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r := readme.Open(t, readme.Options{
		Dir: dir, Ports: []int{guestPort},
		Replace: []string{"../../chat", filepath.Join(repository, "examples/chat"), "../../stream", filepath.Join(repository, "examples/stream"), "../../..", repository, "go install ", "go -C " + repository + " install ", "go run ", "go -C " + repository + " run "},
	})
	for _, name := range []string{"package.json", "fastly.toml", "src/index.js"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if name == "fastly.toml" {
			text = []byte(strings.ReplaceAll(string(text), "localhost:8000", r.Addr(readme.Origin)))
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func TestWhatTheREADMESaysIsTrue(t *testing.T) {
	r := open(t)
	r.Type("Start")
	window := browser.Open(t) // now: its time is limited, and building may take longer
	window.Visit("http://" + r.Addr(guestPort) + "/?name=ann")
	window.Shows("welcome, ann")
	window.Types("input", "Is there tea?\n")
	window.Shows("ann: Is there tea?")
	r.Type("Talk")
	window.Shows("The kitchen closes at ten.")
	r.Type("Streams")
	window.Visit("http://" + r.Addr(guestPort) + "/")
	window.Shows("welcome")
	window.Types("input", "Is there coffee?\n")
	window.Shows("Is there coffee?")
}
