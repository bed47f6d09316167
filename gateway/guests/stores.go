package guests

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/guest/store"
	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/pubsub/natsbus"
)

// bucketWait bounds how long a bucket may take until it is there: nodes of a
// cluster that starts have to find each other first.
const bucketWait = 30 * time.Second

// stores opens those of guests. What they are kept in is open once, and buckets are
// in the NATS that carries the items.
type stores struct {
	shelves  store.Shelves
	failures metrics.Counter
	log      *slog.Logger

	// Guarded by mu.
	mu      sync.Mutex
	buckets *natsbus.Buckets // nil before the first
}

// newStores makes what opens stores. Without a bus there are no buckets.
func newStores(bus *natsbus.Bus, registry *metrics.Registry, log *slog.Logger) *stores {
	s := &stores{log: log}
	s.failures = registry.Counter("guest_store_failures_total", "Calls of guests' KV stores that failed for a reason of the store's own.")
	if bus != nil {
		s.shelves.JetStream = func(name string, replicas int) (store.Shelf, bool, error) { return s.bucket(bus, name, replicas) }
	}
	return s
}

// open opens the stores of a guest. The caller closes them.
func (s *stores) open(guest string, opts store.Options) (*store.Stores, error) {
	opened, err := store.Open(opts, store.OpenOptions{Shelves: &s.shelves, Owner: guest, Log: s.log.With("guest", guest), Failed: s.failures.Inc})
	if err != nil {
		return nil, fmt.Errorf("guest %q: %w", guest, err)
	}
	return opened, nil
}

func (s *stores) bucket(bus *natsbus.Bus, name string, replicas int) (store.Shelf, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.buckets == nil {
		buckets, err := bus.Buckets()
		if err != nil {
			return nil, false, err
		}
		s.buckets = buckets
	}
	ctx, cancel := context.WithTimeout(context.Background(), bucketWait)
	defer cancel()
	bucket, isNew, err := s.buckets.Open(ctx, name, replicas)
	if errors.Is(err, natsbus.ErrNoJetStream) {
		err = fmt.Errorf("%w: want nats-store-dir, or a NATS that has it", err)
	}
	if err != nil {
		return nil, false, err
	}
	return bucketShelf{bucket}, isNew, nil
}

// close ends the connection that buckets share; their stores are to be closed
// before.
func (s *stores) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.buckets != nil {
		s.buckets.Close()
	}
}

// bucketShelf is a bucket as a store sees it.
type bucketShelf struct{ *natsbus.Bucket }

var _ store.Shelf = bucketShelf{}

// Put implements store.Shelf.
func (b bucketShelf) Put(ctx context.Context, key string, data []byte, expires time.Time) error {
	return tooLarge(b.Bucket.Put(ctx, key, data, expires))
}

// Swap implements store.Shelf.
func (b bucketShelf) Swap(ctx context.Context, key string, data []byte, expires time.Time, revision uint64) (bool, error) {
	ok, err := b.Bucket.Swap(ctx, key, data, expires, revision)
	return ok, tooLarge(err)
}

// tooLarge has a store know an error of NATS.
func tooLarge(err error) error {
	if errors.Is(err, pubsub.ErrItemTooLong) {
		return fmt.Errorf("%w: %w", store.ErrTooLarge, err)
	}
	return err
}

// Keys implements store.Shelf.
func (b bucketShelf) Keys(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	first := store.FirstKeys{Prefix: prefix, After: after, Limit: limit}
	err := b.Each(ctx, first.Add)
	return first.Sorted(), err
}

// Close implements store.Shelf: the bucket stays, for others.
func (b bucketShelf) Close() error { return nil }
