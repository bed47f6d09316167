// Package guesttest makes guests for tests, without a foreign toolchain: small ones
// from WebAssembly's text form (WAT), real ones from Go sources (Build).
package guesttest

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// builds are the guests built by this process, by folder.
var builds sync.Map // of *build

type build struct {
	once sync.Once
	wasm []byte
	err  string
}

// Build compiles the Go program in a folder to a guest (GOOS=wasip1). A folder with
// a go.mod of its own is built as that module. Each is built once in a process.
func Build(t testing.TB, dir string) []byte {
	t.Helper()
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	v, _ := builds.LoadOrStore(dir, &build{})
	b := v.(*build)
	b.once.Do(func() {
		out, err := os.MkdirTemp("", "guest")
		if err != nil {
			b.err = err.Error()
			return
		}
		defer os.RemoveAll(out)
		to := filepath.Join(out, "guest.wasm")
		command := exec.Command("go", "build", "-o", to, ".")
		command.Dir = dir
		command.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOWORK=off")
		if text, err := command.CombinedOutput(); err != nil {
			b.err = err.Error() + "\n" + string(text)
			return
		}
		if b.wasm, err = os.ReadFile(to); err != nil {
			b.err = err.Error()
		}
	})
	if b.err != "" {
		t.Fatalf("guest in %s: %s", dir, b.err)
	}
	return b.wasm
}
