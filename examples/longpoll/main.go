// Command longpoll is an origin whose clients ask for a counter and get the
// answer when there is one: at once if it is another than they know, else when
// it changes. Nothing waits in here: the gateway does.
package main

import (
	"cmp"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gripway/gripway/grip"
)

// channel is where changes are published.
const channel = "counter"

const (
	// waitDefault is how long a client waits that does not say. It is shorter
	// than the patience of what may be between us, which is often a minute.
	waitDefault = 25 * time.Second

	// waitMax bounds what clients may ask for.
	waitMax = 5 * time.Minute
)

// counter is what clients ask for. With more than one process of this origin it
// would be in a database: any of them may be asked.
type counter struct {
	publisher *grip.Publisher
	started   int64 // in Unix nanoseconds

	mu    sync.Mutex
	value int
}

func main() {
	publisher, err := grip.PublisherFromEnv() // GRIP_URL, or http://localhost:5561
	if err != nil {
		log.Fatal(err)
	}
	c := &counter{publisher: publisher, started: time.Now().UnixNano()}
	http.HandleFunc("GET /counter", c.get)
	http.HandleFunc("POST /counter", c.increment)

	listener, err := net.Listen("tcp", "localhost:"+cmp.Or(os.Getenv("PORT"), "8000"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("origin: http://" + listener.Addr().String())
	log.Fatal(http.Serve(listener, nil))
}

// get answers at once, always. If the client knows the value, the answer is 304
// Not Modified, and the gateway is asked to keep it back for a while: what is
// published to the channel meanwhile is sent in its place.
func (c *counter) get(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	value := c.value
	c.mu.Unlock()

	w.Header().Set("ETag", etag(value))
	w.Header().Set("Cache-Control", "no-store")
	if r.Header.Get("If-None-Match") != etag(value) {
		fmt.Fprintln(w, value)
		return
	}
	err := grip.Hold(w, &grip.Instruction{
		Hold: grip.HoldResponse,
		// PrevID closes the gap between reading the value and the hold: a gateway
		// that has seen a later id asks again instead of waiting.
		Channels: []grip.Channel{{Name: channel, PrevID: c.id(value)}},
		Timeout:  wait(r),
		Status:   http.StatusNotModified, // for the client; to the gateway it is a 200
	})
	if err != nil {
		http.Error(w, "cannot wait", http.StatusInternalServerError)
	}
}

// increment changes the value and tells who waits.
func (c *counter) increment(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.value++
	value := c.value
	c.mu.Unlock()

	err := c.publisher.Publish(r.Context(), &grip.Item{
		Channel: channel,
		ID:      c.id(value),
		PrevID:  c.id(value - 1),
		Response: &grip.ResponseItem{
			Header: http.Header{"Etag": {etag(value)}},
			Body:   fmt.Appendln(nil, value),
		},
	})
	if err != nil {
		// The value has changed all the same: who waits learns it with the next poll.
		log.Print(err)
	}
	fmt.Fprintln(w, value)
}

// id names a value for the gateway, which drops an id that it has seen within a
// minute: a counter that begins anew needs new ones.
func (c *counter) id(value int) string { return fmt.Sprintf("%x-%d", c.started, value) }

// etag names a value, so that a client can say which it knows.
func etag(value int) string { return fmt.Sprintf(`"%d"`, value) }

// wait is how long the client wants to wait: "Prefer: wait=SECONDS" (RFC 7240,
// section 4.3).
func wait(r *http.Request) time.Duration {
	for preference := range strings.SplitSeq(r.Header.Get("Prefer"), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(preference), "=")
		seconds, err := strconv.Atoi(value)
		if strings.EqualFold(name, "wait") && err == nil && seconds > 0 {
			return min(time.Duration(seconds)*time.Second, waitMax)
		}
	}
	return waitDefault
}
