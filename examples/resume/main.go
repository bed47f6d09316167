// Command resume is an origin whose streams and WebSockets miss nothing: each entry
// of a log reaches each reader once and in order, though publishes get lost,
// gateways are restarted, and readers lose their connection and come back.
//
// The origin keeps the log. What is published only makes it fast; whenever
// something is missing, a reader or the gateway asks for the rest.
package main

import (
	"cmp"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/wsoverhttp"
)

// channel is where entries are published.
const channel = "log"

const (
	// entryBytesMax is how long an entry may be.
	entryBytesMax = 10_000

	// entriesMax is how many entries are kept. Who has been away for longer gets
	// those there are.
	entriesMax = 10_000

	// answerBytesMax is how much a WebSocket is told at once: gateways take answers
	// of up to a megabyte.
	answerBytesMax = 500_000
)

// entries is the log. One that outlives the program would be in a database.
type entries struct {
	publisher *grip.Publisher
	started   int64 // in Unix nanoseconds

	mu   sync.Mutex
	last int      // number of the last entry; the first is 1
	kept []string // the last is number last
}

func main() {
	publisher, err := grip.PublisherFromEnv() // GRIP_URL, or http://localhost:5561
	if err != nil {
		log.Fatal(err)
	}
	e := &entries{publisher: publisher, started: time.Now().UnixNano()}
	http.HandleFunc("GET /log", e.read)
	http.HandleFunc("POST /log", e.write)
	http.Handle("POST /socket", &wsoverhttp.Handler{
		Open:    func(c *wsoverhttp.Conn) { e.tell(c, number(c.Request.URL.Query().Get("after"))) },
		Recover: func(c *wsoverhttp.Conn, last map[string]string) { e.tell(c, entry(last[channel])) },
	})

	listener, err := net.Listen("tcp", "localhost:"+cmp.Or(os.Getenv("PORT"), "8000"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("origin: http://" + listener.Addr().String())
	log.Fatal(http.Serve(listener, nil))
}

// read answers with what the reader does not have yet, and then: keep this open,
// the last entry in it is this one, and if the next that is published is not the
// one after it, ask there.
func (e *entries) read(w http.ResponseWriter, r *http.Request) {
	events, last := e.after(e.known(r))
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	err := grip.Hold(w, &grip.Instruction{
		Hold:      grip.HoldStream,
		Channels:  []grip.Channel{{Name: channel, PrevID: e.id(last)}},
		Next:      &grip.Link{URI: "/log?after=" + strconv.Itoa(last)},
		KeepAlive: &grip.KeepAlive{Content: []byte(":\n\n"), Timeout: 20 * time.Second},
	})
	if err != nil {
		http.Error(w, "no stream", http.StatusInternalServerError)
		return
	}
	io.WriteString(w, strings.Join(events, ""))
}

// known is the number of the last entry that whoever asks has.
func (e *entries) known(r *http.Request) int {
	if id := grip.Last(r.Header)[channel]; id != "" {
		return entry(id) // the gateway, asking on behalf of a reader
	}
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		return number(id) // EventSource, connecting again
	}
	return number(r.URL.Query().Get("after")) // a new reader, from where it likes
}

// tell sends a WebSocket what it does not have yet, and tells the gateway where it
// stands then. The gateway asks for more (Recover) if the next that is published
// is not the one after it.
func (e *entries) tell(c *wsoverhttp.Conn, known int) {
	missing, last := e.after(known)
	bytes := 0
	for i, event := range missing {
		if bytes += len(event); bytes > answerBytesMax {
			last -= len(missing) - i // the gateway will ask for the rest
			break
		}
		c.SendText(event)
	}
	c.SubscribeFrom(channel, e.id(last))
}

// number is 0 for what is none.
func number(text string) int {
	n, _ := strconv.Atoi(text)
	return n
}

// entry is the number in an entry's id.
func entry(id string) int {
	_, text, _ := strings.Cut(id, "-")
	return number(text)
}

// after returns the entries after one, and the number of the last.
func (e *entries) after(known int) (events []string, last int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if known > e.last {
		known = 0 // of a log before this one
	}
	first := e.last - len(e.kept) // the number before the first that is kept
	return slices.Clone(e.kept[max(known-first, 0):]), e.last
}

// write adds an entry and tells the readers.
func (e *entries) write(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, entryBytesMax))
	if err != nil {
		http.Error(w, "too long", http.StatusRequestEntityTooLarge)
		return
	}
	number, event := e.add(string(text))
	fmt.Fprintf(w, "entry %d\n", number)
	if r.URL.Query().Has("lose") {
		return // as if the publish had got lost: see the README
	}
	err = e.publisher.Publish(r.Context(), &grip.Item{
		Channel: channel,
		ID:      e.id(number),
		PrevID:  e.id(number - 1),
		Stream:  &grip.StreamItem{Content: []byte(event)},
		Message: &grip.MessageItem{Content: []byte(event)},
	})
	if err != nil {
		log.Print(err) // and no harm done
	}
}

// add adds an entry and returns it as a Server-Sent Event.
func (e *entries) add(text string) (number int, event string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last++
	event = fmt.Sprintf("id: %d\n", e.last)
	for line := range strings.Lines(strings.ReplaceAll(text, "\r", "\n")) {
		event += "data: " + strings.TrimSuffix(line, "\n") + "\n"
	}
	event += "\n"
	if len(e.kept) == entriesMax {
		e.kept = slices.Delete(e.kept, 0, 1)
	}
	e.kept = append(e.kept, event)
	return e.last, event
}

// id names an entry for the gateway, which drops an id that it has seen within a
// minute: a log that begins anew needs new ones.
func (e *entries) id(number int) string { return fmt.Sprintf("%x-%d", e.started, number) }
