package store_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gripway/gripway/guest/store"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// shelves are all kinds of shelves.
var shelves = map[string]func(t *testing.T) store.Shelf{
	"memory": func(*testing.T) store.Shelf { return store.NewMemory(0) },
	"file": func(t *testing.T) store.Shelf {
		shelf, _, err := store.OpenFile(filepath.Join(t.TempDir(), "kv.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { shelf.Close() })
		return shelf
	},
}

// eachShelf runs a test with every kind of shelf.
func eachShelf(t *testing.T, test func(t *testing.T, kv *store.KV)) {
	for name, open := range shelves {
		t.Run(name, func(t *testing.T) { test(t, store.NewKV(open(t))) })
	}
}

func insert(t *testing.T, kv *store.KV, key string, in store.KVInsert) {
	t.Helper()
	if err := kv.Insert(t.Context(), key, in); err != nil {
		t.Fatalf("insert %q: %v", key, err)
	}
}

func wantValue(t *testing.T, kv *store.KV, key, body, metadata string) store.KVValue {
	t.Helper()
	value, err := kv.Lookup(t.Context(), key)
	if err != nil || string(value.Body) != body || value.Metadata != metadata {
		t.Fatalf("%q: got %q, %q, %v, want %q, %q", key, value.Body, value.Metadata, err, body, metadata)
	}
	return value
}

func TestKVModes(t *testing.T) {
	eachShelf(t, func(t *testing.T, kv *store.KV) {
		ctx := t.Context()
		if _, err := kv.Lookup(ctx, "a"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
		insert(t, kv, "a", store.KVInsert{Body: []byte("1"), Metadata: "m", Mode: store.KVAdd})
		first := wantValue(t, kv, "a", "1", "m")
		if err := kv.Insert(ctx, "a", store.KVInsert{Body: []byte("2"), Mode: store.KVAdd}); !errors.Is(err, store.ErrPrecondition) {
			t.Errorf("add again: got %v, want ErrPrecondition", err)
		}
		insert(t, kv, "a", store.KVInsert{Body: []byte("2"), Mode: store.KVAppend})
		insert(t, kv, "a", store.KVInsert{Body: []byte("0"), Mode: store.KVPrepend})
		second := wantValue(t, kv, "a", "012", "m")
		if first.Generation == second.Generation || first.Generation == 0 {
			t.Errorf("got generations %d and %d, want two", first.Generation, second.Generation)
		}
		if err := kv.Insert(ctx, "a", store.KVInsert{Body: []byte("x"), IfGeneration: &first.Generation}); !errors.Is(err, store.ErrPrecondition) {
			t.Errorf("an old generation: got %v, want ErrPrecondition", err)
		}
		if err := kv.Insert(ctx, "new", store.KVInsert{Body: []byte("x"), IfGeneration: &first.Generation}); !errors.Is(err, store.ErrPrecondition) {
			t.Errorf("a generation of nothing: got %v, want ErrPrecondition", err)
		}
		insert(t, kv, "a", store.KVInsert{Body: []byte("3"), IfGeneration: &second.Generation})
		wantValue(t, kv, "a", "3", "")
		insert(t, kv, "b", store.KVInsert{Body: nil, Mode: store.KVAppend})
		wantValue(t, kv, "b", "", "")
		if err := kv.Delete(ctx, "a"); err != nil {
			t.Error(err)
		}
		if err := kv.Delete(ctx, "a"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("delete again: got %v, want ErrNotFound", err)
		}
		if _, err := kv.Lookup(ctx, "a"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
		if err := kv.Insert(ctx, "a#", store.KVInsert{}); !errors.Is(err, store.ErrKey) {
			t.Errorf("got %v, want ErrKey", err)
		}
		if err := kv.Insert(ctx, "a", store.KVInsert{Metadata: strings.Repeat("m", store.KVMetadataMax+1)}); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("got %v, want ErrTooLarge", err)
		}
		if err := kv.Insert(ctx, "a", store.KVInsert{Body: make([]byte, store.KVValueMax+1)}); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("got %v, want ErrTooLarge", err)
		}
		insert(t, kv, "a", store.KVInsert{Body: make([]byte, store.KVValueMax)})
		if err := kv.Insert(ctx, "a", store.KVInsert{Body: []byte("x"), Mode: store.KVAppend}); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("append to a full value: got %v, want ErrTooLarge", err)
		}
	})
}

func TestKVValuesEnd(t *testing.T) {
	eachShelf(t, func(t *testing.T, kv *store.KV) {
		insert(t, kv, "a", store.KVInsert{Body: []byte("1"), TTL: 50 * time.Millisecond})
		insert(t, kv, "b", store.KVInsert{Body: []byte("1"), TTL: time.Hour})
		insert(t, kv, "b", store.KVInsert{Body: []byte("2"), Mode: store.KVAppend})
		old := wantValue(t, kv, "b", "12", "")
		deadline := time.Now().Add(10 * time.Second) // the clock is the store's own
		for {
			if _, err := kv.Lookup(t.Context(), "a"); errors.Is(err, store.ErrNotFound) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("it does not end")
			}
			time.Sleep(5 * time.Millisecond)
		}
		if page, err := kv.List(t.Context(), store.KVList{}); err != nil || len(page.Keys) != 1 {
			t.Errorf("got %v, %v, want one key", page.Keys, err)
		}
		if err := kv.Delete(t.Context(), "a"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
		insert(t, kv, "a", store.KVInsert{Body: []byte("2"), Mode: store.KVAdd})
		if again := wantValue(t, kv, "a", "2", ""); again.Generation <= old.Generation {
			t.Errorf("got generation %d after %d, want a newer one", again.Generation, old.Generation)
		}
	})
}

func TestKVListsByPages(t *testing.T) {
	eachShelf(t, func(t *testing.T, kv *store.KV) {
		var want []string
		for i := range 25 {
			key := fmt.Sprintf("p/%02d", i)
			want = append(want, key)
			insert(t, kv, key, store.KVInsert{})
			insert(t, kv, "o"+key, store.KVInsert{})
		}
		insert(t, kv, "q", store.KVInsert{})
		var got []string
		list := store.KVList{Prefix: "p/", Limit: 10}
		for pages := 1; ; pages++ {
			page, err := kv.List(t.Context(), list)
			if err != nil || page.Limit != 10 || page.Prefix != "p/" {
				t.Fatalf("got %+v, %v", page, err)
			}
			got = append(got, page.Keys...)
			if list.Cursor = page.Cursor; list.Cursor == "" {
				if pages != 3 {
					t.Errorf("got %d pages, want 3", pages)
				}
				break
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", got, want)
		}
		page, err := kv.List(t.Context(), store.KVList{Prefix: "p/", Limit: 25})
		if err != nil || page.Cursor != "" || len(page.Keys) != 25 {
			t.Errorf("got %d keys and the cursor %q, %v: want all of them and no cursor", len(page.Keys), page.Cursor, err)
		}
		for _, list := range []store.KVList{{Cursor: "?"}, {Limit: -1}, {Cursor: "/w=="}} {
			if _, err := kv.List(t.Context(), list); !errors.Is(err, store.ErrRequest) {
				t.Errorf("%+v: got %v, want ErrRequest", list, err)
			}
		}
		text, err := json.Marshal(store.KVPage{Limit: 100})
		if want := `{"data":[],"meta":{"limit":100}}`; err != nil || string(text) != want {
			t.Errorf("got %s, %v, want %s", text, err, want)
		}
	})
}

func TestKVKeepsWhatManyAppendAtOnce(t *testing.T) {
	eachShelf(t, func(t *testing.T, kv *store.KV) {
		var all sync.WaitGroup
		var mu sync.Mutex
		done := 0
		for range 8 {
			all.Go(func() {
				for range 10 {
					err := kv.Insert(context.Background(), "a", store.KVInsert{Body: []byte("x"), Mode: store.KVAppend})
					if err != nil && !errors.Is(err, store.ErrBusy) {
						t.Error(err)
					}
					if err == nil {
						mu.Lock()
						done++
						mu.Unlock()
					}
				}
			})
		}
		all.Wait()
		wantValue(t, kv, "a", strings.Repeat("x", done), "")
		if done == 0 {
			t.Error("not one of 80 came through")
		}
	})
}

func TestKVInMemoryHasALimit(t *testing.T) {
	kv := store.NewKV(store.NewMemory(1000))
	insert(t, kv, "old", store.KVInsert{Body: make([]byte, 400), TTL: time.Millisecond})
	insert(t, kv, "a", store.KVInsert{Body: make([]byte, 200)})
	if err := kv.Insert(t.Context(), "b", store.KVInsert{Body: make([]byte, 900)}); !errors.Is(err, store.ErrFull) {
		t.Errorf("got %v, want ErrFull", err)
	}
	time.Sleep(2 * time.Millisecond) // what has ended makes room
	insert(t, kv, "b", store.KVInsert{Body: make([]byte, 300)})
	insert(t, kv, "b", store.KVInsert{Body: make([]byte, 310)})
	if err := kv.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	insert(t, kv, "b", store.KVInsert{Body: make([]byte, 700)})
}

func TestKVFileOutlivesTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kv.db")
	opts := store.Options{KV: map[string]store.KVOptions{"s": {Backend: store.KVFile, File: path, Items: []store.KVItem{{Key: "a", Body: []byte("seed")}}}}}
	stores, err := store.Open(opts, store.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantValue(t, stores.KV["s"], "a", "seed", "")
	if _, err := store.Open(opts, store.OpenOptions{}); err == nil || !strings.Contains(err.Error(), "another process has it open") {
		t.Errorf("opened by others: got %v", err)
	}
	if err := stores.KV["s"].Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	insert(t, stores.KV["s"], "b", store.KVInsert{Body: []byte("kept"), Metadata: "m"})
	if err := stores.Close(); err != nil {
		t.Fatal(err)
	}
	if stores, err = store.Open(opts, store.OpenOptions{}); err != nil {
		t.Fatal(err)
	}
	defer stores.Close()
	wantValue(t, stores.KV["s"], "b", "kept", "m")
	if _, err := stores.KV["s"].Lookup(t.Context(), "a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a key that was deleted came back with the next start: %v", err)
	}
	write(t, path+"x", "no database")
	if _, _, err := store.OpenFile(path + "x"); err == nil || !strings.Contains(err.Error(), path+"x") {
		t.Errorf("got %v, want the file's name", err)
	}
}

func TestAFileIsOpenOnceForAllItsStores(t *testing.T) {
	opts := store.Options{KV: map[string]store.KVOptions{"s": {Backend: store.KVFile, File: filepath.Join(t.TempDir(), "kv.db"), Items: []store.KVItem{{Key: "a"}}}}}
	shelves := &store.Shelves{}
	var all []*store.Stores
	for range 2 {
		stores, err := store.Open(opts, store.OpenOptions{Shelves: shelves})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, stores)
	}
	insert(t, all[0].KV["s"], "k", store.KVInsert{Body: []byte("x")})
	for range 2 {
		if err := all[0].Close(); err != nil {
			t.Error(err)
		}
	}
	wantValue(t, all[1].KV["s"], "k", "x", "")
	if err := all[1].Close(); err != nil {
		t.Error(err)
	}
	again, err := store.Open(opts, store.OpenOptions{}) // nobody has it any more
	if err != nil {
		t.Fatal(err)
	}
	wantValue(t, again.KV["s"], "k", "x", "")
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

func TestWhatAProgramHasInMemoryOutlivesItsCode(t *testing.T) {
	shelves := &store.Shelves{}
	open := func(owner, a, b string) *store.Stores {
		t.Helper()
		items := []store.KVItem{{Key: "a", Body: []byte(a)}, {Key: "b", Body: []byte(b)}}
		stores, err := store.Open(store.Options{KV: map[string]store.KVOptions{"s": {Items: items}}}, store.OpenOptions{Shelves: shelves, Owner: owner})
		if err != nil {
			t.Fatal(err)
		}
		return stores
	}
	old := open("app", "1", "2")
	insert(t, old.KV["s"], "k", store.KVInsert{Body: []byte("x")})
	insert(t, old.KV["s"], "a", store.KVInsert{Body: []byte("changed")})
	if err := old.Rates.Increment("hits", "ann", 3); err != nil {
		t.Fatal(err)
	}
	if err := old.Rates.Punish("box", "ann", store.PenaltyMin); err != nil {
		t.Fatal(err)
	}

	// New code comes before the old one has gone. Its manifest says something else of b.
	code := open("app", "1", "3")
	wantValue(t, code.KV["s"], "k", "x", "")
	wantValue(t, code.KV["s"], "a", "changed", "")
	wantValue(t, code.KV["s"], "b", "3", "")
	if err := old.Close(); err != nil {
		t.Error(err)
	}
	insert(t, code.KV["s"], "k", store.KVInsert{Body: []byte("y")})
	wantValue(t, code.KV["s"], "k", "y", "")
	if n, err := code.Rates.Count("hits", "ann", 60); err != nil || n != 3 {
		t.Errorf("the counter is at %d, %v", n, err)
	}
	if is, err := code.Rates.Punished("box", "ann"); err != nil || !is {
		t.Errorf("the penalty is gone: %v, %v", is, err)
	}

	// It is nobody else's.
	other := open("other", "1", "2")
	defer other.Close()
	wantValue(t, other.KV["s"], "b", "2", "")
	if _, err := other.KV["s"].Lookup(t.Context(), "k"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another program's store: %v", err)
	}
	if is, err := other.Rates.Punished("box", "ann"); err != nil || is {
		t.Errorf("another program's box: %v, %v", is, err)
	}

	// With the last one it is gone.
	if err := code.Close(); err != nil {
		t.Error(err)
	}
	again := open("app", "1", "2")
	defer again.Close()
	if _, err := again.KV["s"].Lookup(t.Context(), "k"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a store that was closed: %v", err)
	}
}

func TestKeysThatAreNone(t *testing.T) {
	for _, key := range []string{"", ".", "..", "a/.", "a/..", "a/../b", "./a", "a./b", ".well-known/acme-challenge", "a\rb", "a\n", "#", "a;", "?", "^", "|",
		" ", "\x00", "\x1f", "\ufffe", "\uffff", "\xff", strings.Repeat("k", 1025)} {
		if store.CheckKey(key) == nil {
			t.Errorf("%q: got a key", key)
		}
	}
	for _, key := range []string{"a", "..a", "a.", "a b", "  ", "ключ", "a/b", strings.Repeat("k", 1024), ".well-known/x"} {
		if err := store.CheckKey(key); err != nil {
			t.Errorf("%q: got %v", key, err)
		}
	}
}

func TestFilesAreReadAgainWhenTheyChange(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "c.json"), `{"a": "1"}`)
	var log bytes.Buffer
	config, err := store.NewConfig(store.ConfigOptions{File: path}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if got := config.Items()["a"]; got != "1" {
		t.Errorf("got %q, want 1", got)
	}
	write(t, path, `{"a": "2"}`) // of the same size, perhaps within a tick
	if got := config.Items()["a"]; got != "2" {
		t.Errorf("got %q, want 2", got)
	}
	write(t, path, `{"a": `)
	for range 3 {
		if got := config.Items()["a"]; got != "2" {
			t.Errorf("half a file: got %q, want what was there", got)
		}
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), path) {
		t.Errorf("got %d warnings, want 1 with the file: %s", n, log.String())
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := config.Items()["a"]; got != "2" {
		t.Errorf("no file: got %q, want what was there", got)
	}
	write(t, path, `{"a": "3"}`)
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := config.Items()["a"]; got != "3" {
			t.Errorf("got %q, want 3", got)
		}
	}
}

func TestALargeFileIsNotReadAtEveryUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.json")
	items := make(map[string]string)
	for i := range 200 {
		items[fmt.Sprint(i)] = strings.Repeat("x", 8000)
	}
	text, err := json.Marshal(items)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, string(text))
	config, err := store.NewConfig(store.ConfigOptions{File: path}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { config.Items() }); n > 10 {
		t.Errorf("got %v allocations a lookup: it is read each time", n)
	}
	write(t, path, `{"a": "1"}`)
	if got := config.Items(); len(got) != 1 {
		t.Errorf("got %d items, want the one that there is now", len(got))
	}
}

func TestTheSmallestNetworkOfAnACLCounts(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "acl.json"), `{"entries": [
		{"op": "create", "prefix": "192.0.2.7/16", "action": "block"},
		{"op": "update", "prefix": "192.0.2.0/24", "action": "Allow"},
		{"op": "create", "prefix": "192.0.2.9/32", "action": "challenge"},
		{"op": "create", "prefix": "2001:db8::/32", "action": "BLOCK"},
		{"op": "create", "prefix": "2001:db8::/32", "action": "ALLOW"}]}`)
	acl, err := store.NewACL(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{
		"192.0.2.1": "192.0.2.0/24 ALLOW", "192.0.3.1": "192.0.0.0/16 BLOCK", "192.0.2.9": "192.0.2.9/32 challenge",
		"2001:db8::9": "2001:db8::/32 ALLOW", "198.51.100.1": "", "::ffff:192.0.2.1": "", "2001:db9::": "",
	} {
		got := ""
		if entry, ok := acl.Lookup(netip.MustParseAddr(addr)); ok {
			got = entry.Prefix.String() + " " + entry.Action
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", addr, got, want)
		}
	}
}

func TestLoopbackIsSomewhere(t *testing.T) {
	discard := slog.New(slog.DiscardHandler)
	geo, err := store.NewGeo(store.GeoOptions{Addresses: map[netip.Addr]json.RawMessage{netip.MustParseAddr("192.0.2.1"): json.RawMessage(`{"city":"x"}`)}}, discard)
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{"127.0.0.1": "San Francisco", "::1": "San Francisco", "192.0.2.1": "x", "::ffff:192.0.2.1": "x", "192.0.2.2": ""} {
		var document struct{ City string }
		if got := geo.Lookup(netip.MustParseAddr(addr)); want == "" && got != nil || want != "" && (json.Unmarshal(got, &document) != nil || document.City != want) {
			t.Errorf("%s: got %s, want %q", addr, got, want)
		}
	}
	geo, err = store.NewGeo(store.GeoOptions{NoDefaultLoopback: true}, discard)
	if got := geo.Lookup(netip.MustParseAddr("::1")); err != nil || got != nil {
		t.Errorf("got %s, %v, want nothing", got, err)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	secret := store.Secret("hunter2")
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", secret, "all", map[string]store.Secret{"a": secret})
	text, err := json.Marshal(secret)
	if err != nil {
		t.Fatal(err)
	}
	shown := fmt.Sprintf("%v %s %q %x %#v %d %+v %s %s", secret, secret, secret, secret, secret, secret, store.Options{Secrets: map[string]map[string]store.Secret{"s": {"a": secret}}}, text, log.String())
	for _, secret := range []string{"hunter2", "68756e74657232", "104 117"} {
		if strings.Contains(shown, secret) {
			t.Errorf("got %s", shown)
		}
	}
	if string(secret.Reveal()) != "hunter2" {
		t.Errorf("got %q", secret.Reveal())
	}
}

func TestStoresTellAllThatIsWrong(t *testing.T) {
	_, err := store.Open(store.Options{
		Configs: map[string]store.ConfigOptions{"c": {File: "gone"}}, ACLs: map[string]string{"a": "gone"},
		Geo: store.GeoOptions{MaxMind: []string{"gone"}}, Devices: store.DeviceOptions{File: "gone"},
	}, store.OpenOptions{})
	for _, want := range []string{`config store "c": file "gone"`, `acl "a"`, `geolocation`, `device detection`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	_, err = store.Open(store.Options{KV: map[string]store.KVOptions{"k": {Backend: store.KVJetStream}}}, store.OpenOptions{})
	if err == nil || !strings.Contains(err.Error(), `kv store "k": there is no JetStream`) {
		t.Errorf("got %v", err)
	}
}
