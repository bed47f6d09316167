// Cache-proxy is a Compute program in front of a slow origin. Pages are kept by the
// cache that all its requests pass through; what it works out itself is in the simple
// cache.
package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/fastly/compute-sdk-go/cache/simple"
	"github.com/fastly/compute-sdk-go/fsthttp"
	"github.com/fastly/compute-sdk-go/purge"
)

func main() {
	fsthttp.ServeFunc(func(ctx context.Context, w fsthttp.ResponseWriter, r *fsthttp.Request) {
		var err error
		switch path := r.URL.Path; {
		case path == "/today":
			err = today(w)
		case strings.HasPrefix(path, "/forget/") && r.Method == "POST":
			err = forget(w, strings.TrimPrefix(path, "/forget/"))
		default:
			err = proxy(ctx, w, r)
		}
		if err != nil {
			w.WriteHeader(fsthttp.StatusBadGateway)
			fmt.Fprintln(w, err)
		}
	})
}

// proxy asks the origin. Pages about tea are kept for longer than the origin says,
// and can be purged together.
func proxy(ctx context.Context, w fsthttp.ResponseWriter, r *fsthttp.Request) error {
	if strings.HasPrefix(r.URL.Path, "/tea") {
		r.CacheOptions = fsthttp.CacheOptions{TTL: 3600, StaleWhileRevalidate: 60, SurrogateKey: "tea"}
	}
	look(&r.CacheOptions)
	answer, err := r.Send(ctx, "origin")
	if err != nil {
		return err
	}
	w.Header().Reset(answer.Header)
	w.WriteHeader(answer.StatusCode)
	_, err = io.Copy(w, answer.Body)
	return err
}

// today is worked out once a minute, by whichever request comes first; the others
// wait for it.
func today(w fsthttp.ResponseWriter) error {
	kept, err := simple.GetOrSet([]byte("today"), func() (simple.CacheEntry, error) {
		text := fmt.Sprintln("worked out at", time.Now().UTC().Format(time.RFC3339Nano))
		return simple.CacheEntry{Body: strings.NewReader(text), TTL: time.Minute}, nil
	})
	if err != nil {
		return err
	}
	defer kept.Close()
	_, err = io.Copy(w, kept)
	return err
}

// forget purges.
func forget(w fsthttp.ResponseWriter, key string) error {
	if err := purge.PurgeSurrogateKey(key, purge.PurgeOptions{}); err != nil {
		return err
	}
	fmt.Fprintln(w, "forgotten:", key)
	return nil
}
