// Command sdk is a guest of Fastly's SDK for Go that does a bit of everything, by
// path. The tests of package compute build and run it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/fastly/compute-sdk-go/fsthttp"
	"github.com/fastly/compute-sdk-go/rtlog"
)

// audit is opened before there is a request, as many programs do.
var audit = rtlog.Open("audit")

// served counts the requests of this instance.
var served int

func main() {
	if os.Getenv("MANY") != "" {
		fsthttp.ServeMany(serve, &fsthttp.ServeManyOptions{NextTimeout: 5 * time.Second, MaxRequests: 3})
		return
	}
	fsthttp.ServeFunc(serve)
}

func serve(ctx context.Context, w fsthttp.ResponseWriter, r *fsthttp.Request) {
	served++
	switch r.URL.Path {
	case "/request":
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s %v\n", r.Method, r.URL, r.RemoteAddr, body, err)
		keys := r.Header.Keys()
		slices.Sort(keys)
		for _, key := range keys {
			fmt.Fprintf(w, "%s: %s\n", key, strings.Join(r.Header.Values(key), "|"))
		}
	case "/served":
		fmt.Fprint(w, served)
	case "/ids":
		meta, err := r.FastlyMeta()
		if err != nil {
			panic(err)
		}
		fmt.Fprint(w, served, meta.RequestID == os.Getenv("FASTLY_TRACE_ID"))
	case "/forward":
		out := r.CloneWithBody(r.Body)
		out.Header.Set("X-Edge", "1")
		out.CacheOptions.Pass = true
		response, err := out.Send(ctx, "b")
		if err != nil {
			w.WriteHeader(fsthttp.StatusBadGateway)
			var detail fsthttp.SendError
			fmt.Fprintf(w, "%v %t", err, errors.As(err, &detail))
			return
		}
		w.Header().Reset(response.Header)
		w.WriteHeader(response.StatusCode)
		w.Append(response.Body)
	case "/parallel":
		answers := make(chan string, 4)
		for i := range 4 {
			go func() {
				out, _ := fsthttp.NewRequest("GET", fmt.Sprintf("http://b/%d", i), nil)
				out.CacheOptions.Pass = true
				response, err := out.Send(ctx, "b")
				if err != nil {
					answers <- err.Error()
					return
				}
				content, _ := io.ReadAll(response.Body)
				answers <- string(content)
			}()
		}
		var all []string
		for range 4 {
			all = append(all, <-answers)
		}
		slices.Sort(all)
		fmt.Fprint(w, strings.Join(all, " "))
	case "/stream":
		for i := range 3 {
			fmt.Fprintf(w, "part %d\n", i)
			time.Sleep(5 * time.Millisecond)
		}
	case "/upload":
		reader, writer := io.Pipe()
		go func() {
			for i := range 100 {
				fmt.Fprintf(writer, "%08d", i)
			}
			writer.Close()
		}()
		out, _ := fsthttp.NewRequest("POST", "http://b/", reader)
		out.CacheOptions.Pass = true
		response, err := out.Send(ctx, "b")
		if err != nil {
			fmt.Fprint(w, err)
			return
		}
		w.Append(response.Body)
	case "/log":
		fmt.Fprintln(audit, "to the endpoint")
		fmt.Println("to stdout")
		fmt.Fprint(os.Stderr, "to stderr")
		fmt.Fprint(w, os.Getenv("FASTLY_HOSTNAME"), " ", os.Getenv("FASTLY_SERVICE_ID"), " ", len(os.Getenv("FASTLY_TRACE_ID")), " ", os.Args[0])
	case "/handoff":
		if err := r.HandoffFanout("origin"); err != nil {
			fmt.Fprint(w, err)
		}
	case "/websocket":
		if err := r.HandoffWebsocket("origin"); err != nil {
			fmt.Fprint(w, err)
		}
	case "/panic":
		panic("as it was asked to")
	case "/half":
		fmt.Fprint(w, "half of the answer")
		os.Exit(3)
	}
}
