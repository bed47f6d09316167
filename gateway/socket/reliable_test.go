package socket_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/socket"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/wsoverhttp"
)

// journal is an origin that knows how many items there are: the n-th says n.
type journal struct {
	mu   sync.Mutex
	last int
}

// answer sends what a client lacks, and says where it stands then.
func (j *journal) answer(h http.Header, events []wsoverhttp.Event) string {
	j.mu.Lock()
	last := j.last
	j.mu.Unlock()
	var b strings.Builder
	known := last
	switch {
	case len(events) > 0 && events[0].Type == wsoverhttp.Open:
		b.WriteString("OPEN\r\n")
	case len(events) == 0:
		id, err := strconv.Atoi(grip.Last(h)["journal"])
		if err != nil {
			return ""
		}
		known = id
	default:
		return ""
	}
	for n := known + 1; n <= last; n++ {
		text := fmt.Sprintf("m:%d", n)
		fmt.Fprintf(&b, "TEXT %x\r\n%s\r\n", len(text), text)
	}
	subscribe := fmt.Sprintf(`c:{"type":"subscribe","channel":"journal","prev-id":"%d"}`, last)
	fmt.Fprintf(&b, "TEXT %x\r\n%s\r\n", len(subscribe), subscribe)
	return b.String()
}

func TestNoItemIsMissedAndNoneComesTwice(t *testing.T) {
	const items, clients = 600, 3
	j := &journal{last: 1}
	h := newHouse(t, socket.Options{}, j.answer)
	var waiting sync.WaitGroup
	for range clients {
		ws := h.dial(t, nil)
		ws.SetReadDeadline(time.Now().Add(time.Minute))
		waiting.Go(func() {
			for want := 2; want <= items; want++ {
				_, got, err := ws.ReadMessage()
				if err != nil || string(got) != strconv.Itoa(want) {
					t.Errorf("got %q, %v; want %d", got, err, want)
					return
				}
			}
		})
	}
	// Items are lost, late, and come twice; the last is not, since nothing would show
	// that it is missing.
	var late []int
	publish := func(n int) {
		item := &grip.Item{Channel: "journal", ID: strconv.Itoa(n), PrevID: strconv.Itoa(n - 1),
			Message: &grip.MessageItem{Content: []byte(strconv.Itoa(n))}}
		if err := h.bus.Publish(context.Background(), "journal", item.AppendJSON(nil)); err != nil {
			t.Error(err)
		}
	}
	for n := 2; n <= items; n++ {
		j.mu.Lock()
		j.last = n
		j.mu.Unlock()
		switch chance := rand.N(100); {
		case n == items:
			publish(n)
		case chance < 5: // lost
		case chance < 15:
			late = append(late, n)
		case chance < 20:
			publish(n)
			publish(n)
		default:
			publish(n)
		}
		if len(late) > 0 && rand.N(4) == 0 {
			publish(late[0])
			late = late[1:]
		}
		if rand.N(20) == 0 {
			time.Sleep(time.Duration(rand.N(30)) * time.Millisecond) // the load comes in bursts
		}
	}
	waiting.Wait()
}
