package guests

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/guest/store"
	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/pubsub/natsbus"
)

// node is a bus with JetStream and the stores of a guest on it.
func node(t *testing.T, embedded natsbus.Embedded, kv store.KVOptions) (*natsbus.Bus, *store.KV) {
	t.Helper()
	bus, err := natsbus.Open(natsbus.Options{Embedded: embedded})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bus.Close() })
	s := newStores(bus, nil, slog.New(slog.DiscardHandler))
	t.Cleanup(s.close)
	opened, err := s.open("app", store.Options{KV: map[string]store.KVOptions{"kv": kv}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { opened.Close() })
	return bus, opened.KV["kv"]
}

func TestABucketIsAStore(t *testing.T) {
	opts := store.KVOptions{Backend: store.KVJetStream, Items: []store.KVItem{{Key: "seed", Body: []byte("x"), Metadata: "m"}}}
	_, kv := node(t, natsbus.Embedded{StoreDir: t.TempDir()}, opts)
	ctx := t.Context()
	want := func(key, body, metadata string) uint64 {
		t.Helper()
		value, err := kv.Lookup(ctx, key)
		if err != nil || string(value.Body) != body || value.Metadata != metadata {
			t.Errorf("%s: got %q, %q, %v, want %q, %q", key, value.Body, value.Metadata, err, body, metadata)
		}
		return value.Generation
	}
	insert := func(in store.KVInsert, wanted error) {
		t.Helper()
		if err := kv.Insert(ctx, "k", in); !errors.Is(err, wanted) {
			t.Errorf("got %v, want %v", err, wanted)
		}
	}
	want("seed", "x", "m")
	insert(store.KVInsert{Body: []byte("1"), Mode: store.KVAdd, TTL: time.Hour}, nil)
	insert(store.KVInsert{Body: []byte("2"), Mode: store.KVAdd}, store.ErrPrecondition)
	insert(store.KVInsert{Body: []byte("2"), Mode: store.KVAppend}, nil)
	generation := want("k", "12", "")
	insert(store.KVInsert{Body: []byte("3"), IfGeneration: &generation}, nil)
	insert(store.KVInsert{Body: []byte("4"), IfGeneration: &generation}, store.ErrPrecondition)
	insert(store.KVInsert{Body: make([]byte, pubsub.ItemBytesMax)}, store.ErrTooLarge)
	want("k", "3", "")
	for i := range 20 {
		if err := kv.Insert(ctx, fmt.Sprintf("p/%02d", i), store.KVInsert{}); err != nil {
			t.Fatal(err)
		}
	}
	list := store.KVList{Prefix: "p/", Limit: 15}
	page, err := kv.List(ctx, list)
	if err != nil || len(page.Keys) != 15 || page.Keys[14] != "p/14" {
		t.Errorf("got %v, %v", page.Keys, err)
	}
	list.Cursor = page.Cursor
	if page, err = kv.List(ctx, list); err != nil || len(page.Keys) != 5 || page.Cursor != "" {
		t.Errorf("got %v, %v", page.Keys, err)
	}
	for _, wanted := range []error{nil, store.ErrNotFound} {
		if err := kv.Delete(ctx, "k"); !errors.Is(err, wanted) {
			t.Errorf("delete: got %v, want %v", err, wanted)
		}
	}
	insert(store.KVInsert{Body: []byte("again"), Mode: store.KVAdd, TTL: time.Millisecond}, nil)
	time.Sleep(2 * time.Millisecond) // the store's own clock is exact, the server's is in seconds
	insert(store.KVInsert{Body: []byte("new"), Mode: store.KVAdd}, nil)
	want("k", "new", "")
}

func TestNodesShareABucket(t *testing.T) {
	opts := store.KVOptions{Backend: store.KVJetStream, Bucket: "shared", Replicas: 3}
	var buses []*natsbus.Bus
	var peers []string // all three, itself included: JetStream wants to know how many there are
	for range 3 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		peers = append(peers, listener.Addr().String())
		listener.Close()
	}
	for _, listen := range peers {
		bus, err := natsbus.Open(natsbus.Options{Embedded: natsbus.Embedded{
			StoreDir: t.TempDir(), ClusterListen: listen, Peers: peers, ClusterSecret: "secret",
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { bus.Close() })
		buses = append(buses, bus)
	}
	var all []*store.KV
	for _, bus := range buses {
		s := newStores(bus, nil, slog.New(slog.DiscardHandler))
		t.Cleanup(s.close)
		opened, err := s.open("app", store.Options{KV: map[string]store.KVOptions{"kv": opts}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { opened.Close() })
		all = append(all, opened.KV["kv"])
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i, kv := range all {
		if err := kv.Insert(ctx, "k", store.KVInsert{Body: []byte{byte('a' + i)}, Mode: store.KVAppend}); err != nil {
			t.Fatalf("node %d: %v", i, err)
		}
	}
	for i, kv := range all {
		if value, err := kv.Lookup(ctx, "k"); err != nil || string(value.Body) != "abc" {
			t.Errorf("node %d: got %q, %v, want abc", i, value.Body, err)
		}
	}
}

func TestABucketWantsJetStream(t *testing.T) {
	bus, err := natsbus.Open(natsbus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	s := newStores(bus, nil, slog.New(slog.DiscardHandler))
	defer s.close()
	_, err = s.open("app", store.Options{KV: map[string]store.KVOptions{"kv": {Backend: store.KVJetStream}}})
	if err == nil || !strings.Contains(err.Error(), `guest "app": kv store "kv": bucket "kv"`) || !strings.Contains(err.Error(), "want nats-store-dir") {
		t.Errorf("got %v", err)
	}
}
