package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
)

// Shelves opens what KV stores are kept in, each once: a program that is loaded
// again has its files open twice for a while, and several programs may use one
// store. The zero value is ready, and has no JetStream. It may be used concurrently.
type Shelves struct {
	// JetStream opens a bucket, and says whether it is new. Nil: there is none, and
	// stores that want it are refused.
	JetStream func(bucket string, replicas int) (shelf Shelf, isNew bool, err error)

	mu   sync.Mutex
	live map[string]*sharedShelf
}

// sharedShelf is a shelf that is open for several stores.
type sharedShelf struct {
	Shelf
	of   *Shelves
	name string
	uses int // guarded by of.mu
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

// open returns a shelf, and whether it is new.
func (s *Shelves) open(opts KVOptions) (shelf Shelf, isNew bool, err error) {
	var name string
	switch opts.Backend {
	case KVMemory, "":
		return NewMemory(0), true, nil
	case KVFile:
		path, err := filepath.Abs(opts.File)
		if err != nil {
			return nil, false, err
		}
		name = string(KVFile) + " " + path
	case KVJetStream:
		if s.JetStream == nil {
			return nil, false, errors.New("there is no JetStream here")
		}
		name = string(KVJetStream) + " " + opts.Bucket
	default:
		return nil, false, fmt.Errorf("there is no backend %q", opts.Backend)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	shared := s.live[name]
	if shared == nil {
		shared = &sharedShelf{of: s, name: name}
		if opts.Backend == KVFile {
			shared.Shelf, isNew, err = OpenFile(opts.File)
		} else {
			shared.Shelf, isNew, err = s.JetStream(opts.Bucket, max(opts.Replicas, 1))
		}
		if err != nil {
			return nil, false, err
		}
		if s.live == nil {
			s.live = make(map[string]*sharedShelf)
		}
		s.live[name] = shared
	}
	shared.uses++
	return &use{sharedShelf: shared}, isNew, nil
}
