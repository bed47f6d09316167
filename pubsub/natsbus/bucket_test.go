package natsbus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/pubsub/natsbus"
)

func openBuckets(t *testing.T, o natsbus.Options) (*natsbus.Bus, *natsbus.Buckets) {
	t.Helper()
	bus, err := natsbus.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bus.Close() })
	buckets, err := bus.Buckets()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(buckets.Close)
	return bus, buckets
}

func openBucket(t *testing.T, buckets *natsbus.Buckets) *natsbus.Bucket {
	t.Helper()
	bucket, _, err := buckets.Open(t.Context(), "test", 1)
	if err != nil {
		t.Fatal(err)
	}
	return bucket
}

func TestABucketKeepsRevisions(t *testing.T) {
	_, buckets := openBuckets(t, natsbus.Options{Embedded: natsbus.Embedded{StoreDir: t.TempDir()}})
	b := openBucket(t, buckets)
	ctx := t.Context()
	get := func(key string) (string, uint64, bool) {
		t.Helper()
		data, revision, found, err := b.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		return string(data), revision, found
	}
	swap := func(key, text string, revision uint64) bool {
		t.Helper()
		ok, err := b.Swap(ctx, key, []byte(text), time.Time{}, revision)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	const key = "any bytes: > * . \x00 ключ"
	if _, _, found := get(key); found {
		t.Error("found before it was put")
	}
	if swap(key, "x", 1) {
		t.Error("swapped a revision of nothing")
	}
	if !swap(key, "1", 0) || swap(key, "2", 0) {
		t.Error("want the first to create it, and the second not")
	}
	text, first, found := get(key)
	if text != "1" || first == 0 || !found {
		t.Errorf("got %q, %d, %v", text, first, found)
	}
	if !swap(key, "2", first) || swap(key, "3", first) {
		t.Error("want the revision to be taken once")
	}
	if err := b.Put(ctx, key, nil, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if text, revision, found := get(key); text != "" || revision <= first || !found {
		t.Errorf("got %q, %d, %v", text, revision, found)
	}
	for _, want := range []bool{true, false} {
		if found, err := b.Delete(ctx, key); found != want || err != nil {
			t.Errorf("delete: got %v, %v, want %v", found, err, want)
		}
	}
	if _, _, found := get(key); found {
		t.Error("found after it was deleted")
	}
	if !swap(key, "again", 0) {
		t.Error("a key that was deleted cannot be created")
	}
	big := make([]byte, pubsub.ItemBytesMax)
	if err := b.Put(ctx, key, big, time.Time{}); !errors.Is(err, pubsub.ErrItemTooLong) {
		t.Errorf("got %v, want ErrItemTooLong", err)
	}
	if _, err := b.Swap(ctx, key, big, time.Time{}, 0); !errors.Is(err, pubsub.ErrItemTooLong) {
		t.Errorf("got %v, want ErrItemTooLong", err)
	}
}

func TestABucketListsWhatHasNotEnded(t *testing.T) {
	_, buckets := openBuckets(t, natsbus.Options{Embedded: natsbus.Embedded{StoreDir: t.TempDir()}})
	b := openBucket(t, buckets)
	var want []string
	for i := range 300 {
		key := fmt.Sprintf("key/%03d", i)
		want = append(want, key)
		if err := b.Put(t.Context(), key, []byte("x"), time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Put(t.Context(), "ends", []byte("x"), time.Now()); err != nil {
		t.Fatal(err)
	}
	if ok, err := b.Swap(t.Context(), "ends too", []byte("x"), time.Now(), 0); !ok || err != nil {
		t.Fatal(ok, err)
	}
	deadline := time.Now().Add(30 * time.Second) // the server's seconds
	for {
		var got []string
		if err := b.Each(t.Context(), func(key string) { got = append(got, key) }); err != nil {
			t.Fatal(err)
		}
		slices.Sort(got)
		if slices.Equal(got, want) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %d keys, want %d: %v", len(got), len(want), got)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestBucketsOutliveTheProcess(t *testing.T) {
	dir := t.TempDir()
	for i := range 2 {
		bus, buckets := openBuckets(t, natsbus.Options{Embedded: natsbus.Embedded{StoreDir: dir}})
		b, isNew, err := buckets.Open(t.Context(), "test", 1)
		if err != nil || isNew != (i == 0) {
			t.Fatal(isNew, err)
		}
		data, _, _, err := b.Get(t.Context(), "k")
		if err != nil || i == 1 && !bytes.Equal(data, []byte("kept")) {
			t.Errorf("got %q, %v", data, err)
		}
		if err := b.Put(t.Context(), "k", []byte("kept"), time.Time{}); err != nil {
			t.Fatal(err)
		}
		buckets.Close()
		bus.Close()
	}
}

func TestWithoutAStoreDirThereIsNoJetStream(t *testing.T) {
	_, buckets := openBuckets(t, natsbus.Options{})
	if _, _, err := buckets.Open(t.Context(), "test", 1); !errors.Is(err, natsbus.ErrNoJetStream) {
		t.Errorf("got %v, want ErrNoJetStream", err)
	}
	_, buckets = openBuckets(t, natsbus.Options{Embedded: natsbus.Embedded{StoreDir: t.TempDir()}})
	if _, _, err := buckets.Open(t.Context(), "not a name", 1); err == nil {
		t.Error("got a bucket that has no name")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := buckets.Open(ctx, "test", 1); err == nil {
		t.Error("got a bucket after the end")
	}
}
