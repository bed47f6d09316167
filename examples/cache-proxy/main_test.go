package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gripway/gripway/examples/internal/readme"
)

// guestPort is where those who develop guests expect them.
const guestPort = 7676

func TestWhatTheREADMESaysIsTrue(t *testing.T) {
	readme.Need(t, "curl")
	// The manifest names the origin's port, which is another one here.
	manifest := filepath.Join(t.TempDir(), "fastly.toml")
	r := readme.Open(t, readme.Options{Ports: []int{guestPort}, Replace: []string{"guest/fastly.toml", manifest}})
	text, err := os.ReadFile("guest/fastly.toml")
	if err != nil {
		t.Fatal(err)
	}
	here := strings.ReplaceAll(string(text), "localhost:8000", r.Addr(readme.Origin))
	if err := os.WriteFile(manifest, []byte(here), 0o600); err != nil {
		t.Fatal(err)
	}
	r.TypeAll()
}
