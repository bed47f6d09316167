// Command chat is an origin for WebSockets: rooms in which everybody hears what
// anybody says. It has no WebSocket library and holds no connection. The gateway
// posts it what happens on a WebSocket, and does what the answer says; so any
// process of this program may answer for any of them.
package main

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/wsoverhttp"
)

const (
	// nameBytesMax is how long a name may be.
	nameBytesMax = 40

	// textBytesMax is how long a message may be.
	textBytesMax = 4_000

	// pingAfter is how long a WebSocket may be silent: proxies tend to close what
	// has been silent for a minute.
	pingAfter = 30 * time.Second
)

//go:embed index.html
var page []byte

func main() {
	publisher, err := grip.PublisherFromEnv() // GRIP_URL
	if err != nil {
		log.Fatal(err)
	}
	chat := &chat{publisher: publisher}
	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { w.Write(page) })
	// Clients open a WebSocket at this path; what reaches us are the gateway's POSTs.
	http.Handle("POST /rooms/{room}", throughGateway(publisher, &wsoverhttp.Handler{
		Open:       chat.open,
		Message:    chat.message,
		Close:      func(c *wsoverhttp.Conn, code int, reason string) { chat.left(c) },
		Disconnect: chat.left,
	}))

	listener, err := net.Listen("tcp", "localhost:"+cmp.Or(os.Getenv("PORT"), "8000"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("origin: http://" + listener.Addr().String())
	log.Fatal(http.Serve(listener, nil))
}

// throughGateway lets pass what the gateway has signed. Whoever else could reach
// us could speak for any client.
func throughGateway(publisher *grip.Publisher, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := publisher.VerifyRequest(r); err != nil {
			log.Printf("%s %s: %v", r.Method, r.URL.Path, err)
			http.Error(w, "come through the gateway", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// chat has no list of who is in which room: the gateway knows who has subscribed.
type chat struct {
	publisher *grip.Publisher
}

// open is called when a client wants a WebSocket. The request has its cookies
// and all: this is where to find out who it is, and to refuse.
func (chat *chat) open(c *wsoverhttp.Conn) {
	name := c.Request.URL.Query().Get("name")
	if !fit(name) {
		c.Refuse(http.StatusBadRequest, fmt.Sprintf("want a name of at most %d bytes, as in ?name=ann\n", nameBytesMax))
		return
	}
	c.SetMeta("name", name) // comes back with every request of this WebSocket
	// Who comes in is announced to the others: an item of a sender skips the one
	// whose user it is. Our answer and the item travel apart, so that without it
	// the newcomer would hear of itself or not, whichever is quicker.
	c.SetGripMeta("user", c.ID)
	c.Subscribe(channel(c), "skip-self")
	c.KeepAlive(wsoverhttp.KeepAlive{Event: wsoverhttp.Event{Type: wsoverhttp.Ping}, Timeout: pingAfter})
	c.SendText("welcome, " + name)
	chat.publishFrom(c, c.ID, name+" is here")
}

// message is called with what a client says.
func (chat *chat) message(c *wsoverhttp.Conn, m wsoverhttp.Message) {
	name, text := c.Meta("name"), strings.TrimSpace(m.String())
	if m.Binary || len(text) > textBytesMax {
		c.Close(1003, fmt.Sprintf("want a text of at most %d bytes", textBytesMax))
		return
	}
	if other, ok := strings.CutPrefix(text, "/name "); ok {
		if !fit(other) {
			c.SendText(fmt.Sprintf("want a name of at most %d bytes", nameBytesMax))
			return
		}
		c.SetMeta("name", other)
		chat.publish(c, name+" is now "+other)
		return
	}
	if !chat.publish(c, name+": "+text) {
		c.SendText("(nobody heard that, try again)")
	}
}

// left is called when a client closes, or is gone.
func (chat *chat) left(c *wsoverhttp.Conn) {
	chat.publish(c, c.Meta("name")+" has left")
}

// publish sends a line to all in the room, and reports whether it could.
func (chat *chat) publish(c *wsoverhttp.Conn, line string) bool { return chat.publishFrom(c, "", line) }

// publishFrom sends a line to all in the room but the sender; "" skips nobody.
func (chat *chat) publishFrom(c *wsoverhttp.Conn, sender, line string) bool {
	// The line is said even if the client hangs up meanwhile.
	ctx := context.WithoutCancel(c.Request.Context())
	var meta map[string]string
	if sender != "" {
		meta = map[string]string{"sender": sender}
	}
	err := chat.publisher.Publish(ctx, &grip.Item{
		Channel: channel(c),
		Meta:    meta,
		Message: &grip.MessageItem{Content: []byte(line)},
	})
	if err != nil {
		log.Print(err)
	}
	return err == nil
}

// channel is where a room's lines are published.
func channel(c *wsoverhttp.Conn) string { return "room-" + c.Request.PathValue("room") }

// fit tells whether a name can be one. Meta travels in headers.
func fit(name string) bool {
	return name != "" && len(name) <= nameBytesMax && utf8.ValidString(name) &&
		!strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f })
}
