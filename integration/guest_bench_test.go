package integration

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/gripway/gripway/integration/harness"
)

// BenchmarkGuest is what a request costs through the whole program, with a guest in
// Go between client and backend and without, one client after the other and eight
// at once:
//
//	go test ./integration -run '^$' -bench Guest
func BenchmarkGuest(b *testing.B) {
	path, peer, err := program()
	if err != nil {
		b.Fatal(err)
	}
	if peer {
		b.Skip("Pushpin has no guests")
	}
	module, err := buildGuest("deeds", path)
	if err != nil {
		if noSDK(err) {
			b.Skip("SKIPPED: the SDK of guests cannot be had here")
		}
		b.Fatal(err)
	}
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 1<<10)) }))
	defer app.Close()
	dir := b.TempDir()
	manifest := filepath.Join(dir, "fastly.toml")
	if err := os.WriteFile(manifest, []byte("[local_server.backends.app]\nurl = \""+app.URL+"\"\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	g, err := harness.StartGateway(harness.GatewayOptions{
		Program: path, Dir: dir,
		Routes: []string{"*,guest=deeds", "snapshot.test,guest=snapshot", "*,path_beg=/direct " + app.Listener.Addr().String()},
		Flags: []string{
			"--guest", "deeds,cache=false,file=" + module + ",manifest=" + manifest,
			"--guest", "snapshot,snapshot,cache=false,file=" + module + ",manifest=" + manifest,
			"--guest-cache", guestCache(), "--sig-key", "secret", "--log-level", "error",
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	for _, test := range []struct{ name, path, host string }{
		{"without", "/direct", ""},
		{"answer", "/answer", ""},
		{"fetch", "/fetch/app/x", ""},
		{"handoff", "/handoff/app/x", ""},
		{"answer,snapshot", "/answer", "snapshot.test"},
		{"fetch,snapshot", "/fetch/app/x", "snapshot.test"},
		{"handoff,snapshot", "/handoff/app/x", "snapshot.test"},
	} {
		for _, clients := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/clients=%d", test.name, clients), func(b *testing.B) {
				client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
				defer client.CloseIdleConnections()
				b.SetParallelism(max(clients/2, 1)) // times the processors
				ask := func() {
					r, err := http.NewRequest(http.MethodGet, "http://"+g.Addr+test.path, nil)
					if err != nil {
						b.Error(err)
						return
					}
					r.Host = test.host
					response, err := client.Do(r)
					if err != nil {
						b.Error(err)
						return
					}
					io.Copy(io.Discard, response.Body)
					response.Body.Close()
					if response.StatusCode > 299 {
						b.Errorf("got %d", response.StatusCode)
					}
				}
				if clients == 1 {
					for b.Loop() {
						ask()
					}
					return
				}
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						ask()
					}
				})
			})
		}
	}
}
