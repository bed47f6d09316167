package express_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gripway/gripway/examples/internal/browser"
	"github.com/gripway/gripway/examples/internal/readme"
)

// open copies the app, so that what npm installs does not end up in the
// repository, and starts what the README starts.
func open(t *testing.T) *readme.README {
	t.Helper()
	readme.Need(t, "node", "npm", "curl")
	repository, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", "server.js", "client.js", "index.html"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return readme.Open(t, readme.Options{Dir: dir, Replace: []string{"../..", repository}})
}

func TestWhatTheREADMESaysIsTrue(t *testing.T) {
	open(t).TypeAll()
}

func TestThePageDoesAllThree(t *testing.T) {
	r := open(t)
	window := browser.Open(t)
	r.Type("Start")
	window.Visit("http://" + r.Addr(readme.Clients) + "/?name=ann")
	window.Shows("welcome\n")
	window.Shows("welcome, ann")
	window.Types("#say input", "Is there tea?\n")
	window.Shows("Is there tea?")
	window.Clicks("#count")
	window.Shows("1 +1")
	window.Types("#talk input", "Two cups, please.\n")
	window.Shows("ann: Two cups, please.")
	r.Skip("Server-Sent Events", "Long-polling", "WebSockets", "serve-grip 2.0.0 never really verifies")
}

func TestTheLockFileNamesNobodysRegistry(t *testing.T) {
	text, err := os.ReadFile("package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), `"resolved"`) {
		t.Error(`package-lock.json: got "resolved", want none: npm ci takes packages from whatever registry its user has (npm install --omit-lockfile-registry-resolved=true writes it so)`)
	}
}
