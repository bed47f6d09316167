//go:build !linux

// Command bench measures what a gateway costs. It needs Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: needs Linux: it stands on epoll, /proc and process CPU clocks")
	os.Exit(1)
}
