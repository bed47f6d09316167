// Origin is slow, and counts how often it was asked.
package main

import (
	"cmp"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// thinking is how long an answer takes.
const thinking = 300 * time.Millisecond

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:"+cmp.Or(os.Getenv("PORT"), "8000"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("origin: http://%s\n", listener.Addr())
	var asked atomic.Int64
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		n := asked.Add(1)
		time.Sleep(thinking)
		switch r.URL.Path {
		case "/tea", "/tea/green", "/coffee":
			w.Header().Set("ETag", `"1"`)
			w.Header().Set("Cache-Control", "max-age=60")
			fmt.Fprintf(w, "%s, answer %d\n", r.URL.Path[1:], n)
		case "/me":
			w.Header().Set("Cache-Control", "private")
			fmt.Fprintf(w, "you, answer %d\n", n)
		default:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprintf(w, "nothing here, answer %d\n", n)
		}
	})
	log.Fatal(http.Serve(listener, nil))
}
