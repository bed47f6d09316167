package store

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
)

// Shelves opens what KV stores are kept in, each once: a program that is loaded
// again has its files open twice for a while, and several programs may use one
// store. The zero value is ready, and has no JetStream. It may be used concurrently.
type Shelves struct {
	// JetStream opens a bucket, and says whether it is new. Nil: there is none, and
	// stores that want it are refused.
	JetStream func(bucket string, replicas int) (shelf Shelf, isNew bool, err error)

	mu       sync.Mutex
	live     map[string]*sharedShelf
	counters map[string]*Rates // by owner
}

// sharedShelf is a shelf that is open for several stores.
type sharedShelf struct {
	Shelf
	of   *Shelves
	name string

	// Guarded by of.mu.
	uses  int
	items []KVItem // of one in memory: what its manifest said last
}

// use is one store's part of it.
type use struct {
	*sharedShelf
	once sync.Once
}

// Close ends this use, and the shelf with the last one.
func (u *use) Close() (err error) {
	u.once.Do(func() {
		s := u.of
		s.mu.Lock()
		defer s.mu.Unlock()
		if u.uses--; u.uses == 0 {
			delete(s.live, u.name)
			err = u.Shelf.Close()
		}
	})
	return err
}

// rates are an owner's: it has the same again each time. Owners are programs by name,
// of which there are few.
func (s *Shelves) rates(owner string) *Rates {
	if owner == "" {
		return &Rates{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.counters[owner]
	if r == nil {
		r = &Rates{}
		if s.counters == nil {
			s.counters = make(map[string]*Rates)
		}
		s.counters[owner] = r
	}
	return r
}

// open returns a shelf of an owner's store, and which of its first items are to be put
// there: all in a new one, none in one that was there. In memory, where a manifest is
// all there is to edit, those that it has not had before.
func (s *Shelves) open(owner, store string, opts KVOptions) (shelf Shelf, missing []KVItem, err error) {
	var name string
	create := func() (Shelf, bool, error) { return NewMemory(0), true, nil }
	inMemory := false
	switch opts.Backend {
	case KVMemory, "":
		if owner == "" {
			return NewMemory(0), opts.Items, nil
		}
		inMemory, name = true, fmt.Sprintf("%s %q %q", KVMemory, owner, store)
	case KVFile:
		path, err := filepath.Abs(opts.File)
		if err != nil {
			return nil, nil, err
		}
		name = string(KVFile) + " " + path
		create = func() (Shelf, bool, error) { return OpenFile(opts.File) }
	case KVJetStream:
		if s.JetStream == nil {
			return nil, nil, errors.New("there is no JetStream here")
		}
		name = string(KVJetStream) + " " + opts.Bucket
		create = func() (Shelf, bool, error) { return s.JetStream(opts.Bucket, max(opts.Replicas, 1)) }
	default:
		return nil, nil, fmt.Errorf("there is no backend %q", opts.Backend)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	shared := s.live[name]
	switch {
	case shared == nil:
		shared = &sharedShelf{of: s, name: name}
		var isNew bool
		if shared.Shelf, isNew, err = create(); err != nil {
			return nil, nil, err
		}
		if s.live == nil {
			s.live = make(map[string]*sharedShelf)
		}
		s.live[name] = shared
		if isNew {
			missing = opts.Items
		}
	case inMemory:
		for _, item := range opts.Items {
			if !slices.ContainsFunc(shared.items, func(had KVItem) bool {
				return had.Key == item.Key && had.Metadata == item.Metadata && bytes.Equal(had.Body, item.Body)
			}) {
				missing = append(missing, item)
			}
		}
	}
	if inMemory {
		shared.items = opts.Items
	}
	shared.uses++
	return &use{sharedShelf: shared}, missing, nil
}
