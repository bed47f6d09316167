package main_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/gripway/gripway/examples/internal/browser"
	"github.com/gripway/gripway/examples/internal/readme"
)

// guestPort is where those who develop guests expect them.
const guestPort = 7676

func open(t *testing.T) *readme.README {
	t.Helper()
	readme.Need(t, "curl")
	return readme.Open(t, readme.Options{Ports: []int{guestPort}})
}

func TestWhatTheREADMESaysIsTrue(t *testing.T) {
	r := open(t)
	r.Type("Start")
	ann := join(t, r, "ann")
	ann.hears("welcome, ann")
	bob := join(t, r, "bob")
	bob.hears("welcome, bob")
	bob.says("hello")
	ann.hears("bob: hello")
	bob.hears("bob: hello")
	r.Type("Talk")
	ann.hears("The edge closes at ten.")
	bob.conn.Close()
	ann.hears("bob has left")
}

func TestThePageTalks(t *testing.T) {
	r := open(t)
	window := browser.Open(t)
	r.Type("Start")
	window.Visit("http://" + r.Addr(guestPort) + "/?name=ann")
	window.Shows("welcome, ann")
	window.Types("input", "Is there tea?\n")
	window.Shows("ann: Is there tea?")
	r.Skip("Talk")
}

// client is somebody who has logged in.
type client struct {
	t    *testing.T
	conn *websocket.Conn
}

func join(t *testing.T, r *readme.README, name string) *client {
	t.Helper()
	response, err := http.PostForm("http://"+r.Addr(guestPort)+"/login", url.Values{"name": {name}})
	if err != nil {
		t.Fatal(err)
	}
	token, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil || response.StatusCode != 200 {
		t.Fatalf("%s logs in: got %d %q, %v", name, response.StatusCode, token, err)
	}
	conn, _, err := websocket.DefaultDialer.DialContext(t.Context(),
		"ws://"+r.Addr(guestPort)+"/chat?token="+url.QueryEscape(strings.TrimSpace(string(token))), nil)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{t, conn}
}

func (c *client) says(text string) {
	c.t.Helper()
	if err := c.conn.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		c.t.Fatal(err)
	}
}

// hears is what comes next.
func (c *client) hears(want string) {
	c.t.Helper()
	c.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, got, err := c.conn.ReadMessage()
	if err != nil || string(got) != want {
		c.t.Fatalf("got %q, %v, want %q", got, err, want)
	}
}
