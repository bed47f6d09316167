package config_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/config"
)

// change is one call of a watcher.
type change struct {
	routes   []config.Route
	problems []error
}

// watch starts a watcher that ends with the test. Files are real here, and so is
// time: a fake clock does not move the times of files.
func watch(t *testing.T, path string) (*config.RoutesFile, <-chan change) {
	t.Helper()
	f := config.NewRoutesFile(path)
	f.Load()
	ctx, cancel := context.WithCancel(t.Context())
	changes := make(chan change, 16) // never closed
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Watch(ctx, func(routes []config.Route, problems []error) { changes <- change{routes, problems} })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return f, changes
}

// wantChange waits for a call; it must come within the promised second.
func wantChange(t *testing.T, changes <-chan change) change {
	t.Helper()
	select {
	case c := <-changes:
		return c
	case <-time.After(time.Second):
		t.Fatal("no change was noticed within a second")
		return change{}
	}
}

func TestChangesOfARoutesFileAreNoticedWithinASecond(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "routes"), "* a:1\n")
	_, changes := watch(t, path)

	write(t, path, "* a:1\nb.test b:1\n")
	if c := wantChange(t, changes); len(c.routes) != 2 || c.problems != nil {
		t.Errorf("got %v, %v, want two routes", c.routes, c.problems)
	}

	// As editors save: a new file takes the place of the old one.
	if err := os.Rename(write(t, path+".new", "* c:1\nbad\n"), path); err != nil {
		t.Fatal(err)
	}
	c := wantChange(t, changes)
	if len(c.routes) != 1 || c.routes[0].Targets[0].Addr != "c:1" || len(c.problems) != 1 {
		t.Errorf("got %v, %v, want the good route and one problem", c.routes, c.problems)
	}

	// Gone is not the same as empty.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if c := wantChange(t, changes); c.routes != nil || len(c.problems) != 1 {
		t.Errorf("got %v, %v, want nil for: keep what you have", c.routes, c.problems)
	}
	write(t, path, "")
	if c := wantChange(t, changes); c.routes == nil || len(c.routes) != 0 || c.problems != nil {
		t.Errorf("got %v, %v, want an empty list", c.routes, c.problems)
	}
}

func TestWhatDoesNotChangeIsNotTold(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "routes"), "* a:1\n")
	f, changes := watch(t, path)

	write(t, path, "* a:1\n") // new time, same content
	quiet := time.After(time.Second)
	select {
	case c := <-changes:
		t.Errorf("got %v, want silence: the content is the same", c.routes)
	case <-quiet:
	}

	write(t, path, "* b:1\n")
	if routes, _ := f.Load(); len(routes) != 1 || routes[0].Targets[0].Addr != "b:1" { // as on SIGHUP
		t.Errorf("got %v, want the new route at once", routes)
	}
	select {
	case c := <-changes:
		t.Errorf("got %v, want silence: Load told already", c.routes)
	case <-time.After(time.Second):
	}
}
