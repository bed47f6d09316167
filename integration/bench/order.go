// Orders are what the tool tells its load generator to do; outcomes are what
// came of them. They travel as JSON, one a line.

package main

import "time"

// order is one piece of work.
type order struct {
	Do string // one of the keys of orders in load.go

	// Aim: whom to load. The other orders keep it.
	Front   string `json:",omitempty"` // address clients connect to
	Control string `json:",omitempty"` // address of the publish endpoint
	Pids    []int  `json:",omitempty"` // whose CPU time counts

	Kind     string        `json:",omitempty"` // kindStream or kindWS
	Clients  int           `json:",omitempty"`
	Channels string        `json:",omitempty"` // oneChannel, channelEach or noChannel
	InFlight int           `json:",omitempty"` // handshakes, requests or POSTs at once
	Items    int           `json:",omitempty"` // items in one POST
	Budget   time.Duration `json:",omitempty"` // how long to repeat the work
	Rounds   int           `json:",omitempty"` // at least that many repetitions, whatever the budget
	Rate     int           `json:",omitempty"` // items a second
}

const (
	oneChannel  = "one"  // all clients on the same channel
	channelEach = "each" // every client on its own
	noChannel   = "none"
)

// outcome is what one order cost.
type outcome struct {
	Error string `json:",omitempty"`

	Units     int           // deliveries, requests, round trips, items or connections, as the order says
	CPU       time.Duration // of the processes under test, in the measured time
	Wall      time.Duration // the measured time
	Latencies []float64     `json:",omitempty"` // milliseconds, in the order they were taken
	Dropped   int           `json:",omitempty"` // clients or requests that the gateway failed, and that were tried again
	Repeated  int           `json:",omitempty"` // items published again because they missed someone
}

// hello is the load generator's first line.
type hello struct {
	Origin string
	Error  string `json:",omitempty"`
}
