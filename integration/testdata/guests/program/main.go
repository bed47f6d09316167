// Command program is the guest of the conversation guest_run: it tells what it was
// run with.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/fastly/compute-sdk-go/configstore"
	"github.com/fastly/compute-sdk-go/fsthttp"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "exit":
			os.Exit(3)
		case "trap":
			nothing()
		}
	}
	fmt.Println("args", os.Args)
	input, _ := io.ReadAll(os.Stdin)
	fmt.Printf("input %q\n", input)
	fmt.Println("A=" + os.Getenv("A"))
	fmt.Fprintln(os.Stderr, "complained")
	if store, err := configstore.Open("texts"); err == nil {
		value, _ := store.Get("greeting")
		fmt.Println(value)
	}
	fsthttp.ServeFunc(func(ctx context.Context, w fsthttp.ResponseWriter, r *fsthttp.Request) {
		fmt.Println(r.Method, r.URL, "from", r.RemoteAddr)
		fmt.Fprintln(w, "nobody reads this")
	})
}

//go:wasmimport nowhere nothing
func nothing()
