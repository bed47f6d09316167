//go:build linux

package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test binary be the tool's own children.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == childFlag {
		if err := runChild(os.Args[2], os.Args[3:]); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	stopAll()
	os.Exit(code)
}

func TestEveryScenarioThatNeedsNoOriginRunsAgainstTheYardsticks(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: runs every scenario, which takes seconds")
	}
	tiny := settings{runs: 1, clients: 20, held: 40, budget: 20 * time.Millisecond, idle: 20 * time.Millisecond, settle: time.Second}
	b := &bench{settings: tiny, figures: allFigures(tiny), dir: t.TempDir(), log: io.Discard, results: results{}}
	for _, name := range []string{"floor", "naive"} {
		kinds, err := chooseTargets(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range scenarios {
			if s.needOrigin || (name == "naive" && s.name != kindStream && s.name != kindWS) {
				continue
			}
			if err := b.measure(s, kinds[0]); err != nil {
				t.Errorf("%s: %s: %v", name, s.name, err)
			}
			for _, f := range b.figures {
				if f.scenario == s.name && len(b.results.at(f.name, name).Runs) != 1 {
					t.Errorf("%s: %s has no value", name, f.name)
				}
			}
		}
	}
	if len(b.remarks) > 0 {
		t.Errorf("remarks: %q", b.remarks)
	}
}

// A gateway that doubles or alters messages must not get a figure for it.
func TestWrongDeliveriesAreNoFigure(t *testing.T) {
	tests := []struct {
		name   string
		change func([]byte) []byte
		want   string
	}{
		{"none", func(b []byte) []byte { return b }, ""},
		{"doubled", func(b []byte) []byte { return append(b, b...) }, "deliver: "},
		{"altered", func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("x"), []byte("y")) }, "arrived as"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l, err := startLoader(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer l.process.stop()
			gateway := flawedGateway(t, test.change)
			target := &target{front: gateway, control: gateway, pids: []int{os.Getpid()}}
			if err := l.aim(target); err != nil {
				t.Fatal(err)
			}
			if _, err := l.open(kindStream, 3, oneChannel); err != nil {
				t.Fatal(err)
			}
			result, err := l.ask(order{Do: "deliver", Kind: kindStream, Items: 2, Rounds: 4}, time.Minute)
			switch {
			case test.want == "" && (err != nil || result.Units != 4*2*3 || len(result.Latencies) != 4):
				t.Errorf("got %+v, error %v; want 24 deliveries in 4 rounds", result, err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

// flawedGateway serves streams and passes on what is published after changing it.
func flawedGateway(t *testing.T, change func([]byte) []byte) (addr string) {
	queues := make(chan chan []byte, 10) // never closed; one queue for each stream
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			body, _ := io.ReadAll(r.Body)
			var out []byte
			for {
				content, rest, ok := quoted(body, `"content":"`)
				if !ok {
					break
				}
				out, body = append(out, change(content)...), rest
			}
			for range len(queues) {
				queue := <-queues
				queue <- out
				queues <- queue
			}
			return
		}
		w.(http.Flusher).Flush()
		queue := make(chan []byte, 100) // never closed
		queues <- queue
		for {
			select {
			case b := <-queue:
				w.Write(b)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return
			}
		}
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.Listener.Addr().String()
}
