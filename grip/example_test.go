package grip_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/gripway/gripway/grip"
)

// An origin asks for its answer to be kept open and fed from a channel.
func ExampleHold() {
	news := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		if err := grip.Hold(w, &grip.Instruction{
			Hold:      grip.HoldStream,
			Channels:  []grip.Channel{{Name: "news"}},
			KeepAlive: &grip.KeepAlive{Content: []byte(":\n\n")},
		}); err != nil {
			http.Error(w, "no such channel", http.StatusInternalServerError)
			return
		}
		io.WriteString(w, "data: welcome\n\n")
	}

	answer := httptest.NewRecorder()
	news(answer, httptest.NewRequest("GET", "/news", nil))
	for _, name := range []string{"Grip-Hold", "Grip-Channel", "Grip-Keep-Alive"} {
		fmt.Printf("%s: %s\n", name, answer.Header().Get(name))
	}
	// Output:
	// Grip-Hold: stream
	// Grip-Channel: news
	// Grip-Keep-Alive: :\n\n; format=cstring; timeout=55
}

// Anybody may then publish, here to a gateway that only shows what it gets.
func ExamplePublisher() {
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Printf("%s %s\n%s\n", r.Method, r.URL, body)
	}))
	defer gateway.Close()

	publisher, err := grip.NewPublisher(gateway.URL) // or PublisherFromEnv
	if err != nil {
		fmt.Println(err)
		return
	}
	defer publisher.Close()
	err = publisher.Publish(context.Background(), &grip.Item{
		Channel: "news",
		Stream:  &grip.StreamItem{Content: []byte("data: hello\n\n")},
		Message: &grip.MessageItem{Content: []byte("hello")},
	})
	fmt.Println(err)
	// Output:
	// POST /publish/
	// {"items":[{"channel":"news","formats":{"http-stream":{"content":"data: hello\n\n"},"ws-message":{"content":"hello"}}}]}
	// <nil>
}

// A gateway reads what an origin asks for.
func ExampleParseInstruction() {
	header := http.Header{
		"Grip-Hold":    {"stream"},
		"Grip-Channel": {"news; prev-id=7, chat; filter=skip-self"},
		"Grip-Link":    {"</news?after=7>; rel=next"},
	}
	if !grip.IsInstruction(header) {
		return
	}
	in, err := grip.ParseInstruction(200, header, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(in.Hold, in.Channels, *in.Next)
	// Output: stream [{news 7 [] false} {chat  [skip-self] false}] {/news?after=7 2m0s}
}
