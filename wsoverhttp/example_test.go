package wsoverhttp_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/gripway/gripway/wsoverhttp"
)

// An origin: a chat room whose members the gateway keeps.
func ExampleHandler() {
	chat := &wsoverhttp.Handler{
		Open: func(c *wsoverhttp.Conn) {
			user, err := c.Request.Cookie("user")
			if err != nil {
				c.Refuse(http.StatusUnauthorized, "Who are you?")
				return
			}
			c.SetMeta("User", user.Value)
			c.Subscribe("room")
			c.SendText("Welcome, " + user.Value + ".")
		},
		Message: func(c *wsoverhttp.Conn, m wsoverhttp.Message) {
			// A real one would publish this to the room.
			c.SendText(c.Meta("User") + " says " + m.String())
		},
	}
	server := httptest.NewServer(chat)
	defer server.Close()

	// What a gateway would do for one client:
	ctx := context.Background()
	ann := wsoverhttp.NewClient(wsoverhttp.ClientOptions{URL: server.URL, Header: http.Header{"Cookie": {"user=ann"}}})
	answer, err := ann.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, event := range answer.Events {
		fmt.Printf("%s %s\n", event.Type, event.Content)
	}
	answer, err = ann.Send(ctx, wsoverhttp.Event{Type: wsoverhttp.Text, Content: []byte("hello")})
	if err != nil {
		log.Fatal(err)
	}
	for _, event := range answer.Events {
		fmt.Printf("%s %s\n", event.Type, event.Content)
	}
	// Output:
	// TEXT c:{"type":"subscribe","channel":"room"}
	// TEXT m:Welcome, ann.
	// TEXT m:ann says hello
}

// A gateway: asking an origin, and what to do with its answer.
func ExampleClient() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", wsoverhttp.ContentType)
		fmt.Fprint(w, "OPEN\r\nTEXT 5\r\nhello\r\nCLOSE 2\r\n\x03\xe8\r\nTEXT 4\r\nlate\r\n")
	}))
	defer server.Close()

	client := wsoverhttp.NewClient(wsoverhttp.ClientOptions{URL: server.URL})
	answer, err := client.Open(context.Background())
	var rejection *wsoverhttp.Rejection
	switch {
	case errors.As(err, &rejection):
		fmt.Println("tell the client, as plain HTTP:", rejection.Status)
		return
	case errors.Is(err, wsoverhttp.ErrNotSent):
		fmt.Println("try again, or 502")
		return
	case err != nil:
		fmt.Println("502:", err)
		return
	case !answer.Opened:
		fmt.Println("ask again in", answer.KeepAlive)
		return
	}
	for _, event := range answer.Events {
		switch event.Type {
		case wsoverhttp.Close:
			code, reason, _ := wsoverhttp.ParseClose(event.Content)
			fmt.Printf("close with %d %q\n", code, reason)
		case wsoverhttp.Disconnect, wsoverhttp.Open:
			fmt.Println("drop the client")
		default:
			fmt.Printf("send a %s: %s\n", event.Type, event.Content)
		}
	}
	// Output:
	// send a TEXT: hello
	// close with 1000 ""
}

func ExampleAppendEvents() {
	body := wsoverhttp.AppendEvents(nil,
		wsoverhttp.Event{Type: wsoverhttp.Open},
		wsoverhttp.Event{Type: wsoverhttp.Text, Content: []byte("hello, world")},
		wsoverhttp.Event{Type: wsoverhttp.Close, Content: wsoverhttp.CloseContent(1000, "bye")},
	)
	fmt.Printf("%q\n", body)
	// Output:
	// "OPEN\r\nTEXT c\r\nhello, world\r\nCLOSE 5\r\n\x03\xe8bye\r\n"
}

func ExampleDecode() {
	events, err := wsoverhttp.Decode([]byte("TEXT 5\r\nhello\r\nPING\r\n"))
	for _, event := range events {
		fmt.Printf("%s %q %t\n", event.Type, event.Content, event.Content == nil)
	}
	fmt.Println(err)

	_, err = wsoverhttp.Decode([]byte("PING\r\nTEXT 5\r\nhell"))
	fmt.Println(err)
	// Output:
	// TEXT "hello" false
	// PING "" true
	// <nil>
	// event 2 at byte 6: content is shorter than its size: 4 bytes of 5
}

// An origin that reads lines, in whatever pieces the client sends them.
func ExampleHandler_stream() {
	lines := &wsoverhttp.Handler{
		Stream: func(c *wsoverhttp.Conn, data []byte) int {
			taken := 0
			for i, b := range data {
				if b == '\n' {
					fmt.Printf("line %q\n", data[taken:i])
					taken = i + 1
				}
			}
			return taken
		},
	}
	server := httptest.NewServer(lines)
	defer server.Close()

	ctx := context.Background()
	client := wsoverhttp.NewClient(wsoverhttp.ClientOptions{URL: server.URL})
	if _, err := client.Open(ctx); err != nil {
		log.Fatal(err)
	}
	for _, piece := range []string{"one\ntw", "o\n", "thr"} {
		if _, err := client.Send(ctx, wsoverhttp.Event{Type: wsoverhttp.Binary, Content: []byte(piece)}); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Printf("still waiting: %q\n", client.Pending()[0].Content)
	// Output:
	// line "one"
	// line "two"
	// still waiting: "thr"
}
