//go:build linux

// The naive gateway: what an afternoon with net/http and gorilla gives. A
// goroutine or two for each client, a Go channel as its queue, no origin.

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"github.com/gorilla/websocket"
)

// naiveQueue is how many items wait for one client before it misses some.
const naiveQueue = 64

type naive struct {
	mu      sync.Mutex
	clients map[string]map[chan []byte]bool // queues by channel
}

// serveNaive serves until the process is killed.
func serveNaive(front, control string) error {
	n := &naive{clients: map[string]map[chan []byte]bool{}}
	doors := http.NewServeMux()
	doors.HandleFunc("GET /stream", n.stream)
	doors.HandleFunc("GET /ws", n.socket)
	publish := http.NewServeMux()
	publish.HandleFunc("POST /publish/", n.publish)
	ended := make(chan error, 2)
	for addr, handler := range map[string]http.Handler{front: doors, control: publish} {
		listener, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		go func() { ended <- http.Serve(listener, handler) }() // ends with the process
	}
	fmt.Println("ready")
	return <-ended
}

func (n *naive) subscribe(channel string) (queue chan []byte, leave func()) {
	queue = make(chan []byte, naiveQueue) // never closed
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.clients[channel] == nil {
		n.clients[channel] = map[chan []byte]bool{}
	}
	n.clients[channel][queue] = true
	return queue, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.clients[channel], queue)
	}
}

func (n *naive) stream(w http.ResponseWriter, r *http.Request) {
	queue, leave := n.subscribe(r.URL.Query().Get("c"))
	defer leave()
	flusher := w.(http.Flusher)
	w.Header().Set("Content-Type", "text/plain")
	flusher.Flush()
	for {
		select {
		case content := <-queue:
			if _, err := w.Write(content); err != nil {
				return
			}
			flusher.Flush()
		case <-r.Context().Done():
			return
		}
	}
}

func (n *naive) socket(w http.ResponseWriter, r *http.Request) {
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	queue, leave := n.subscribe(r.URL.Query().Get("c"))
	defer leave()
	gone := make(chan struct{}) // closed when the client went
	go func() {
		defer close(gone)
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
		}
	}()
	for {
		select {
		case content := <-queue:
			if conn.WriteMessage(websocket.TextMessage, content) != nil {
				conn.Close()
				<-gone
				return
			}
		case <-gone:
			return
		}
	}
}

func (n *naive) publish(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Items []struct {
			Channel string
			Formats map[string]struct{ Content string }
		}
	}
	b, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(b, &body)
	}
	if err != nil {
		http.Error(w, "bad items", http.StatusBadRequest)
		return
	}
	n.mu.Lock()
	for _, it := range body.Items {
		for _, format := range it.Formats {
			content := []byte(format.Content)
			for queue := range n.clients[it.Channel] {
				select {
				case queue <- content:
				default: // full: this client misses it
				}
			}
		}
	}
	n.mu.Unlock()
	io.WriteString(w, "Published\n")
}
