// Command stream is an origin that pushes Server-Sent Events: browsers read
// them with EventSource. It answers every request at once and keeps no
// connection: the gateway does, and hands out what is published.
package main

import (
	"cmp"
	_ "embed"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/gripway/gripway/grip"
)

// channel is where the news is published, and what readers are subscribed to.
const channel = "news"

// sayBytesMax is how long one piece of news may be.
const sayBytesMax = 10_000

//go:embed index.html
var page []byte

func main() {
	publisher, err := grip.PublisherFromEnv() // GRIP_URL, or http://localhost:5561
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { w.Write(page) })
	http.HandleFunc("GET /news", news)
	http.HandleFunc("POST /say", say(publisher))

	listener, err := net.Listen("tcp", "localhost:"+cmp.Or(os.Getenv("PORT"), "8000"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("origin: http://" + listener.Addr().String())
	log.Fatal(http.Serve(listener, nil))
}

// news answers a reader with the first event. The Grip-* headers, which only the
// gateway sees, tell it to keep the response open.
func news(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	err := grip.Hold(w, &grip.Instruction{
		Hold:     grip.HoldStream,
		Channels: []grip.Channel{{Name: channel}},
		// A comment in SSE. It keeps proxies from closing a connection on which
		// nothing happens, and shows which readers have gone.
		KeepAlive: &grip.KeepAlive{Content: []byte(":\n\n"), Timeout: 20 * time.Second},
	})
	if err != nil {
		http.Error(w, "no stream", http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, event("welcome"))
}

// say publishes what is posted to all who read.
func say(publisher *grip.Publisher) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, sayBytesMax))
		if err != nil {
			http.Error(w, "too long", http.StatusRequestEntityTooLarge)
			return
		}
		err = publisher.Publish(r.Context(), &grip.Item{
			Channel: channel,
			Stream:  &grip.StreamItem{Content: []byte(event(string(text)))},
		})
		if err != nil {
			log.Print(err)
			http.Error(w, "not published", http.StatusBadGateway)
			return
		}
		fmt.Fprintln(w, "said")
	}
}

// newLine is a line's end, in each of the ways EventSource knows. Text that is
// not ours could otherwise write fields and events of its own.
var newLine = strings.NewReplacer("\r\n", "\ndata: ", "\r", "\ndata: ", "\n", "\ndata: ")

// event writes a text as a Server-Sent Event.
func event(text string) string {
	return "data: " + newLine.Replace(text) + "\n\n"
}
