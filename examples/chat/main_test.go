package main_test

import (
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/gripway/gripway/examples/internal/browser"
	"github.com/gripway/gripway/examples/internal/readme"
)

func TestWhatTheREADMESaysIsTrue(t *testing.T) {
	readme.Need(t, "curl")
	r := readme.Open(t, readme.Options{Ports: []int{8001}})
	r.Type("Start")

	ann := join(t, r, "lobby", "ann")
	ann.hears("welcome, ann")
	bob := join(t, r, "lobby", "bob")
	bob.hears("welcome, bob")
	ann.hears("bob is here")
	cook := join(t, r, "kitchen", "cook")
	cook.hears("welcome, cook")

	r.Type("Talk")
	ann.hears("The kitchen closes at ten.")
	bob.hears("The kitchen closes at ten.")
	bob.says("hello")
	ann.hears("bob: hello")
	bob.hears("bob: hello")
	ann.says("/name eve")
	ann.hears("ann is now eve")
	bob.hears("ann is now eve")

	r.Type("Another process")
	ann.says("still here")
	ann.hears("eve: still here")
	bob.hears("eve: still here")
	bob.leaves()
	ann.hears("bob has left")
	cook.says("anybody?")
	cook.hears("cook: anybody?") // and nothing of the lobby before
}

func TestThePageTalks(t *testing.T) {
	readme.Need(t, "curl")
	r := readme.Open(t, readme.Options{Ports: []int{8001}})
	window := browser.Open(t)
	r.Type("Start")
	window.Visit("http://" + r.Addr(readme.Clients) + "/?name=ann&room=kitchen")
	window.Shows("welcome, ann")
	window.Types("input", "Is there tea?\n")
	window.Shows("ann: Is there tea?")
	r.Skip("Talk", "Another process")
}

// client is somebody in a room.
type client struct {
	t    *testing.T
	name string
	conn *websocket.Conn
}

func join(t *testing.T, r *readme.README, room, name string) *client {
	t.Helper()
	conn, _, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+r.Addr(readme.Clients)+"/rooms/"+room+"?name="+name, nil)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{t, name, conn}
}

func (c *client) says(text string) {
	c.t.Helper()
	if err := c.conn.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		c.t.Fatalf("%s says %q: %v", c.name, text, err)
	}
}

// hears is what comes next.
func (c *client) hears(want string) {
	c.t.Helper()
	c.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, got, err := c.conn.ReadMessage()
	if err != nil || string(got) != want {
		c.t.Fatalf("%s hears: got %q, %v, want %q", c.name, got, err, want)
	}
}

// leaves closes politely and waits for the answer.
func (c *client) leaves() {
	c.t.Helper()
	goodbye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	if err := c.conn.WriteMessage(websocket.CloseMessage, goodbye); err != nil {
		c.t.Fatalf("%s leaves: %v", c.name, err)
	}
	c.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		if _, _, err := c.conn.ReadMessage(); websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			return
		} else if err != nil {
			c.t.Fatalf("%s leaves: got %v, want a close with 1000", c.name, err)
		}
	}
}
