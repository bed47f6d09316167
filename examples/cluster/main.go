// Command cluster publishes to a cluster of gateways as a program does that has
// NATS at hand: without HTTP, and without knowing how many gateways there are.
//
//	go run . CHANNEL TEXT
package main

import (
	"cmp"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub/natsbus"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: cluster CHANNEL TEXT")
		os.Exit(2)
	}
	channel, text := os.Args[1], os.Args[2]
	if err := publish(cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL), channel, text); err != nil {
		log.Fatal(err)
	}
	fmt.Println("sent to", natsbus.Subject("", channel))
}

func publish(url, channel, text string) error {
	conn, err := nats.Connect(url)
	if err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	defer conn.Close()

	// What travels is the JSON of an item, as in the body of POST /publish/. The
	// subject names the channel, so the item need not.
	item := &grip.Item{
		Stream:  &grip.StreamItem{Content: []byte("data: " + strings.ReplaceAll(text, "\n", "\ndata: ") + "\n\n")},
		Message: &grip.MessageItem{Content: []byte(text)},
	}
	data, err := item.MarshalJSON()
	if err != nil {
		return err
	}
	if err := conn.Publish(natsbus.Subject("", channel), data); err != nil {
		return err
	}
	return conn.Flush() // NATS has it; nobody says who got it
}
