package config_test

import (
	"os"
	"strings"
	"testing"

	"github.com/gripway/gripway/gateway/config"
)

// readme is the project's front page.
const readme = "../../README.md"

// TestReadmeHasEverySetting keeps the table of the README the one that the
// program prints. GRIPWAY_WRITE_README=1 writes it.
func TestReadmeHasEverySetting(t *testing.T) {
	const begin, end = "<!-- settings: gripway serve --help has the same; a test compares -->\n", "<!-- end of settings -->"
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	table, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s: the marks around the settings are missing", readme)
	}
	want := "\n" + config.Reference() + "\n"
	if table == want {
		return
	}
	if os.Getenv("GRIPWAY_WRITE_README") == "" {
		t.Fatalf("%s: the settings are not those of the program; run this test with GRIPWAY_WRITE_README=1", readme)
	}
	if err := os.WriteFile(readme, []byte(before+begin+want+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
