// Command fanout-forward is a guest: a program for Fastly Compute that leaves its
// clients to Fanout. It looks at each request once, and has gone while the client
// stays.
package main

import (
	"context"
	"io"
	"log"

	"github.com/fastly/compute-sdk-go/fsthttp"
)

// backend is the origin's name in fastly.toml.
const backend = "origin"

func main() { fsthttp.ServeFunc(serve) }

func serve(ctx context.Context, w fsthttp.ResponseWriter, r *fsthttp.Request) {
	if goesToFanout(r) {
		if err := r.HandoffFanout(backend); err != nil {
			failed(w, err)
		}
		return
	}
	// All else is proxied, and may be cached on the way.
	response, err := r.Send(ctx, backend)
	if err != nil {
		failed(w, err)
		return
	}
	w.Header().Reset(response.Header)
	w.WriteHeader(response.StatusCode)
	io.Copy(w, response.Body)
}

// goesToFanout says which requests the origin may want to be held. An app would
// know by the path, or by a header.
func goesToFanout(r *fsthttp.Request) bool {
	return r.Method == "GET" || r.Method == "HEAD" // WebSockets begin with a GET
}

func failed(w fsthttp.ResponseWriter, err error) {
	log.Println("the origin was not asked:", err)
	fsthttp.Error(w, "the origin was not asked", fsthttp.StatusBadGateway)
}
