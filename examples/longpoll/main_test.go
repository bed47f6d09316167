package main_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/examples/internal/readme"
)

func TestWhatTheREADMESaysIsTrue(t *testing.T) {
	readme.Need(t, "curl")
	r := readme.Open(t, readme.Options{})
	r.Type("Start")
	r.Type("Ask")
	r.Type("Change")

	t.Run("every poll of a value that changes without a pause is answered with a later one", func(t *testing.T) {
		pollWhileItChanges(t, "http://"+r.Addr(readme.Clients)+"/counter")
	})
}

func pollWhileItChanges(t *testing.T, url string) {
	defer http.DefaultClient.CloseIdleConnections() // or the gateway waits for them when it ends
	const changes = 300
	known := poll(t, url, -1)
	last := known + changes
	changed := make(chan error, 1)
	go func() {
		for range changes {
			answer, err := http.Post(url, "", nil)
			if err != nil {
				changed <- err
				return
			}
			answer.Body.Close()
		}
		changed <- nil
	}()
	polls := 0
	for ; known != last; polls++ {
		next := poll(t, url, known)
		if next <= known || next > last {
			t.Fatalf("poll of a client that knows %d: got %d, want more, up to %d", known, next, last)
		}
		known = next
	}
	if err := <-changed; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d changes, %d polls", changes, polls)
}

// pollMax is how long a poll may take that is willing to wait for a minute: a
// change that was missed shows by it.
const pollMax = 10 * time.Second

// poll asks for another value than the one that is known, -1 for none.
func poll(t *testing.T, url string, known int) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pollMax)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if known >= 0 {
		request.Header.Set("If-None-Match", fmt.Sprintf(`"%d"`, known))
		request.Header.Set("Prefer", "wait=60")
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatalf("a change after %d was missed: %v", known, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	value, err := strconv.Atoi(strings.TrimSpace(string(body)))
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("poll after %d: got %s %q, want 200 and a number", known, answer.Status, body)
	}
	if got, want := answer.Header.Get("ETag"), fmt.Sprintf(`"%d"`, value); got != want {
		t.Fatalf("ETag of %d: got %s, want %s", value, got, want)
	}
	return value
}
