package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// OpenOptions are what stores need besides what the configuration says.
type OpenOptions struct {
	// Shelves opens what KV stores are kept in. Nil opens files alone, for these
	// stores alone.
	Shelves *Shelves

	// Owner is whose stores they are. What one has in memory (KV stores, rate counters,
	// penalty boxes) outlives them if it opens its stores again before these are closed:
	// new code finds what the old one wrote. Empty: it ends with them.
	Owner string

	// Log takes what nobody waits for. Nil discards.
	Log *slog.Logger

	// Failed hears of calls of KV stores that failed for a reason of the store's own.
	// Nil is fine.
	Failed func()
}

// Stores are all stores of a program. They may be used concurrently; the maps
// are not changed after Open.
type Stores struct {
	Configs map[string]*Config
	KV      map[string]*KV
	Secrets map[string]map[string]Secret
	ACLs    map[string]*ACL
	Geo     *Geo
	Devices *Devices
	Shields map[string]Shield
	Rates   *Rates

	log    *slog.Logger
	failed func()

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup // of Go
}

// openWait bounds how long a store may take to take its first items.
const openWait = 30 * time.Second

// Open opens all stores, or none: the error is everything that is wrong.
func Open(opts Options, with OpenOptions) (*Stores, error) {
	if with.Log == nil {
		with.Log = slog.New(slog.DiscardHandler)
	}
	if with.Shelves == nil {
		with.Shelves = &Shelves{}
	}
	s := &Stores{
		Configs: make(map[string]*Config), KV: make(map[string]*KV), Secrets: opts.Secrets, ACLs: make(map[string]*ACL),
		Shields: opts.Shields, Rates: with.Shelves.rates(with.Owner), log: with.Log, failed: with.Failed,
	}
	var errs []error
	wrong := func(kind, name string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %q: %w", kind, name, err))
		}
	}
	for name, o := range opts.Configs {
		c, err := NewConfig(o, with.Log)
		wrong("config store", name, err)
		s.Configs[name] = c
	}
	for name, path := range opts.ACLs {
		l, err := NewACL(path, with.Log)
		wrong("acl", name, err)
		s.ACLs[name] = l
	}
	var err error
	s.Geo, err = NewGeo(opts.Geo, with.Log)
	if err != nil {
		errs = append(errs, fmt.Errorf("geolocation: %w", err))
	}
	s.Devices, err = NewDevices(opts.Devices, with.Log)
	if err != nil {
		errs = append(errs, fmt.Errorf("device detection: %w", err))
	}
	if len(errs) == 0 {
		for name, o := range opts.KV {
			kv, err := openKV(name, o, with)
			wrong("kv store", name, err)
			if err == nil {
				s.KV[name] = kv
			}
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(append(errs, s.Close())...)
	}
	return s, nil
}

func openKV(name string, opts KVOptions, with OpenOptions) (*KV, error) {
	if opts.Backend == KVJetStream && opts.Bucket == "" {
		opts.Bucket = name
	}
	shelf, missing, err := with.Shelves.open(with.Owner, name, opts)
	if err != nil {
		return nil, err
	}
	kv := NewKV(shelf)
	kv.Local = opts.Backend == KVMemory || opts.Backend == ""
	if len(missing) == 0 {
		return kv, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), openWait)
	defer cancel()
	if err := kv.Seed(ctx, missing); err != nil {
		return nil, errors.Join(err, kv.Close())
	}
	return kv, nil
}

// callWait bounds a call of a KV store that goes on when the guest has ended.
const callWait = 30 * time.Second

// Go runs a call of a KV store that does not end with the guest that made it:
// what it wrote is to be there. ctx is bounded, and Close waits for it.
func (s *Stores) Go(call func(ctx context.Context)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("store: closed")
	}
	s.running.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), callWait)
		defer cancel()
		call(ctx)
	})
	return nil
}

// Failed logs and counts a call of a KV store that failed for a reason of the
// store's own.
func (s *Stores) Failed(err error) {
	s.log.Warn("a KV store failed", "error", err)
	if s.failed != nil {
		s.failed()
	}
}

// Close waits for calls that go on, and ends the stores.
func (s *Stores) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.running.Wait()
	var errs []error
	for _, kv := range s.KV {
		errs = append(errs, kv.Close())
	}
	return errors.Join(errs...)
}
