package natsbus_test

import (
	"fmt"

	"github.com/gripway/gripway/pubsub/natsbus"
)

// What a program that speaks NATS has to publish to.
func ExampleSubject() {
	fmt.Println(natsbus.Subject("", "news.sport"))
	fmt.Println(natsbus.Subject("", "user:17"))
	fmt.Println(natsbus.Subject("staging", ">"))
	// Output:
	// gripway.item.news.sport
	// gripway.item.user%3A17
	// staging.item.%3E
}
