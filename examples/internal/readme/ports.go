package readme

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
)

// Ports come from below the range that Linux gives to outgoing connections
// (32768), so that none of those takes one before the program listens.
const (
	portFirst = 12000
	portLast  = 32000

	// portTries is how many are looked at: it would take a strange machine for
	// so many in a row to be in use.
	portTries = 100
)

// freePort returns a TCP port that nobody listens on, and that is not one of
// those that are taken.
func freePort(taken map[int]int) (int, error) {
	for range portTries {
		port := portFirst + rand.IntN(portLast-portFirst)
		if slices.Contains(slices.Collect(maps.Values(taken)), port) {
			continue
		}
		listener, err := net.Listen("tcp", net.JoinHostPort("localhost", strconv.Itoa(port)))
		if err == nil {
			return port, listener.Close()
		}
	}
	return 0, fmt.Errorf("no free port between %d and %d in %d tries", portFirst, portLast, portTries)
}
