package pubsub_test

import (
	"context"
	"fmt"

	"github.com/gripway/gripway/pubsub"
)

// printer shows what comes; a real receiver hands on and returns.
type printer struct{ done chan bool }

func (p printer) Receive(data []byte, more bool) {
	fmt.Printf("%s\n", data)
	close(p.done)
}

func (p printer) Lost(items int) { fmt.Println("there may be a hole before the next item") }

func Example() {
	var bus pubsub.Memory
	defer bus.Close()

	ctx := context.Background()
	p := printer{make(chan bool)}
	subscription, err := bus.Subscribe(ctx, "room", p)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer subscription.Unsubscribe()

	if err := bus.Publish(ctx, "room", []byte("hello")); err != nil {
		fmt.Println(err)
	}
	<-p.done
	// Output: hello
}
