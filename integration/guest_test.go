package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Guests of the conversations are Go programs of testdata/guests, with the SDK that
// Fastly publishes: each has a module of its own, so that the gateway's does not
// depend on that.

// guestTimeout is how long building a guest may take: the first one on a machine
// compiles the standard library for it.
const guestTimeout = 5 * time.Minute

// guestCache is where compiled guests are kept for all scripts.
func guestCache() string { return filepath.Join(filepath.Dir(built.program), "guests") }

var guestBuilds sync.Map // sync.OnceValues by name

// buildGuest builds a guest, compiles it for the gateway, and returns its module.
func buildGuest(name, program string) (string, error) {
	build, _ := guestBuilds.LoadOrStore(name, sync.OnceValues(func() (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), guestTimeout)
		defer cancel()
		module := filepath.Join(filepath.Dir(built.program), name+".wasm")
		cmd := exec.CommandContext(ctx, "go", "build", "-o", module, ".")
		cmd.Dir = filepath.Join("testdata", "guests", name)
		cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=-mod=readonly", "GOWORK=off")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("guest %s: go build: %w\n%s", name, err, out.Bytes())
		}
		// So that no gateway has to while a script waits for it.
		check := exec.CommandContext(ctx, program, "check", "--guest", name+",file="+module, "--route", "*,guest="+name, "--guest-cache", guestCache())
		for _, pair := range os.Environ() {
			if !strings.HasPrefix(pair, "GRIPWAY_") { // a setting, or for us
				check.Env = append(check.Env, pair)
			}
		}
		if text, err := check.CombinedOutput(); err != nil {
			return "", fmt.Errorf("guest %s: %w\n%s", name, err, text)
		}
		return module, nil
	}))
	return build.(func() (string, error))()
}

// noSDK says whether an error is that of a machine without a way to the SDK.
func noSDK(err error) bool {
	for _, text := range []string{"dial tcp", "no such host", "Forbidden", "module lookup disabled", "connection refused", "i/o timeout"} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

// guest NAME
func (s *script) guest(w *words, _ bool) error {
	name := w.next("the guest's name")
	module, err := buildGuest(name, s.program)
	if err != nil {
		return err
	}
	w.ts.Setenv(name, module)
	w.ts.Setenv("guest_cache", guestCache())
	return nil
}
