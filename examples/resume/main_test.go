package main_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gripway/gripway/examples/internal/readme"
)

func TestWhatTheREADMESaysIsTrue(t *testing.T) {
	readme.Need(t, "curl")
	readme.Open(t, readme.Options{}).TypeAll()
}

// Every seventh publish is lost, and of the readers one stays, one connects again
// now and then, and one comes late: each must see every entry, once and in order.
func TestEveryEntryReachesEveryReader(t *testing.T) {
	const count = 300
	r := readme.Open(t, readme.Options{})
	r.Type("Start")
	r.Skip("Read", "Lose", "Leave and come back")
	url := "http://" + r.Addr(readme.Clients) + "/log"
	defer http.DefaultClient.CloseIdleConnections()

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var readers sync.WaitGroup
	half := make(chan struct{}) // closed when half of the entries are there
	readers.Go(func() {
		if known, err := listen(ctx, r.Addr(readme.Clients), count); err != nil {
			t.Errorf("one with a WebSocket, after entry %d: %v", known, err)
		}
	})
	for _, reader := range []struct {
		name  string
		stay  int // entries after which it connects again
		begin <-chan struct{}
	}{
		{"one that stays", count, nil},
		{"one that connects again and again", 20, nil},
		{"one that comes late", count, half},
	} {
		readers.Go(func() {
			if reader.begin != nil {
				select {
				case <-reader.begin:
				case <-ctx.Done():
				}
			}
			for known := 0; known < count; {
				next, err := read(ctx, url, known, min(known+reader.stay, count))
				if err != nil {
					t.Errorf("%s, after entry %d: %v", reader.name, next, err)
					return
				}
				known = next
			}
		})
	}
	for number := 1; number <= count; number++ {
		address := url
		if number%7 == 0 {
			address += "?lose"
		}
		answer, err := http.Post(address, "text/plain", strings.NewReader(fmt.Sprint("entry ", number)))
		if err != nil {
			t.Error(err)
			break
		}
		answer.Body.Close()
		if number == count/2 {
			close(half)
		}
	}
	readers.Wait()
}

// read reads entries from known on to last and returns the number of the last it
// saw. Any other than the next is an error.
func read(ctx context.Context, url string, known, last int) (int, error) {
	ctx, cancel := context.WithCancel(ctx) // hangs up
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return known, err
	}
	request.Header.Set("Last-Event-ID", fmt.Sprint(known))
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return known, err
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	for known < last && lines.Scan() {
		id, ok := strings.CutPrefix(lines.Text(), "id: ")
		if !ok {
			continue
		}
		if want := fmt.Sprint(known + 1); id != want {
			return known, fmt.Errorf("got entry %s, want %s", id, want)
		}
		known++
	}
	return known, lines.Err()
}

// listen is read over a WebSocket, from the first entry on.
func listen(ctx context.Context, addr string, last int) (known int, err error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	fmt.Fprintf(conn, "GET /socket?after=0 HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", addr)
	reader := bufio.NewReader(conn)
	answer, err := http.ReadResponse(reader, nil)
	if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
		return 0, fmt.Errorf("handshake: %v, %v", answer, err)
	}
	for known < last {
		// A frame of the gateway: two bytes, and as much content as the second says
		// (RFC 6455, section 5.2); entries here are short.
		var head [2]byte
		if _, err := io.ReadFull(reader, head[:]); err != nil {
			return known, err
		}
		content := make([]byte, head[1])
		if _, err := io.ReadFull(reader, content); err != nil {
			return known, err
		}
		if want := fmt.Sprintf("id: %d\n", known+1); !strings.HasPrefix(string(content), want) {
			return known, fmt.Errorf("got %q, want %q", content, want)
		}
		known++
	}
	return known, nil
}
