package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/gripway/gripway/examples/internal/browser"
	"github.com/gripway/gripway/examples/internal/readme"
)

// guestPort is where those who develop guests expect them.
const guestPort = 7676

// open starts the README with a manifest that names the port where the test has the
// origin.
func open(t *testing.T) *readme.README {
	t.Helper()
	readme.Need(t, "curl")
	manifest := filepath.Join(t.TempDir(), "fastly.toml")
	r := readme.Open(t, readme.Options{Ports: []int{guestPort}, Replace: []string{"-C go/fastly.toml", "-C " + manifest}})
	text, err := os.ReadFile("go/fastly.toml")
	if err == nil {
		err = os.WriteFile(manifest, []byte(strings.ReplaceAll(string(text), "localhost:8000", r.Addr(readme.Origin))), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWhatTheREADMESaysIsTrue(t *testing.T) {
	r := open(t)
	r.Type("Start")
	ann, _, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+r.Addr(guestPort)+"/rooms/lobby?name=ann", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ann.Close()
	hears := func(want string) {
		t.Helper()
		ann.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, got, err := ann.ReadMessage(); string(got) != want {
			t.Fatalf("ann hears: got %q, %v, want %q", got, err, want)
		}
	}
	hears("welcome, ann")
	ann.WriteMessage(websocket.TextMessage, []byte("hello"))
	hears("ann: hello")
	r.Type("Talk")
	hears("The kitchen closes at ten.")
	r.Type("Streams")
}

func TestThePageTalks(t *testing.T) {
	r := open(t)
	window := browser.Open(t)
	r.Type("Start")
	window.Visit("http://" + r.Addr(guestPort) + "/?name=ann&room=kitchen")
	window.Shows("welcome, ann")
	window.Types("input", "Is there tea?\n")
	window.Shows("ann: Is there tea?")
	r.Skip("Talk", "Streams")
}

func TestThePageShowsTheNews(t *testing.T) {
	r := open(t)
	window := browser.Open(t)
	r.Type("Start")
	r.Skip("Talk")
	r.Type("Streams")
	window.Visit("http://" + r.Addr(guestPort) + "/")
	window.Shows("welcome")
	window.Types("input", "Is there tea?\n")
	window.Shows("Is there tea?")
}
