package guest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"

	"github.com/gripway/gripway/guest/guesttest"
)

// silent is an ABI of nothing.
type silent struct{}

func (silent) Name() string                                 { return "silent" }
func (silent) Recognise(*Module) bool                       { return true }
func (silent) Define(context.Context, wazero.Runtime) error { return nil }
func (silent) Open(*Sandbox) Instance                       { return nil }

func loadCached(t *testing.T, dir string) error {
	t.Helper()
	r, err := NewRuntime(RuntimeOptions{ABIs: []ABI{silent{}}, CacheDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	_, err = r.Load(t.Context(), guesttest.WAT(t, `(module (memory 1) (func (export "_start") (loop $l (br $l))))`), LoadOptions{})
	return err
}

func TestACacheThatIsBrokenIsMadeAnew(t *testing.T) {
	dir := t.TempDir()
	if err := loadCached(t, dir); err != nil {
		t.Fatal(err)
	}
	files := cacheFiles(dir)
	if len(files) != 1 {
		t.Fatalf("got %d files in the cache, want 1", len(files))
	}
	whole, err := os.ReadFile(files[0].path)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 3, 20, len(whole) / 2, len(whole) - 10} {
		if err := os.WriteFile(files[0].path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := loadCached(t, dir); err != nil {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
		if got, err := os.ReadFile(files[0].path); err != nil || len(got) != len(whole) {
			t.Errorf("cut to %d bytes: it has not been made anew: %d bytes, %v", n, len(got), err)
		}
	}
}

func TestACacheThatCannotBeWrittenIsDoneWithout(t *testing.T) {
	dir := t.TempDir()
	r, err := NewRuntime(RuntimeOptions{ABIs: []ABI{silent{}}, CacheDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	folders, _ := filepath.Glob(filepath.Join(dir, "wazero-*"))
	if len(folders) != 1 || os.RemoveAll(folders[0]) != nil { // somebody cleans up
		t.Fatal(folders)
	}
	if _, err := r.Load(t.Context(), guesttest.WAT(t, `(module (memory 1) (func (export "_start")))`), LoadOptions{}); err != nil {
		t.Error(err)
	}
}

func TestTheOldestLeaveTheCache(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "wazero-x")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"c", "a", "b"} {
		path := filepath.Join(folder, name)
		os.WriteFile(path, make([]byte, 100), 0o600)
		at := time.Now().Add(time.Duration(i-10) * time.Hour)
		os.Chtimes(path, at, at)
	}
	trimCache(dir, 250)
	files := cacheFiles(dir)
	if len(files) != 2 || filepath.Base(files[0].path) != "a" || filepath.Base(files[1].path) != "b" {
		t.Errorf("got %v, want a and b left", files)
	}
}
