package store

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

// KVMemoryMax bounds a KV store that is kept in memory, in bytes: it is for
// trying things, and for what a manifest says.
const KVMemoryMax = 256 << 20

// entryBytes is what an entry costs besides its key and data, about.
const entryBytes = 128

// memory is a Shelf that is gone with the process.
type memory struct {
	max int

	mu       sync.Mutex
	entries  map[string]entry
	bytes    int
	revision uint64
}

type entry struct {
	data     []byte
	expires  time.Time
	revision uint64
}

// NewMemory makes a shelf in memory of at most max bytes; 0 means KVMemoryMax.
func NewMemory(max int) Shelf {
	if max == 0 {
		max = KVMemoryMax
	}
	// Revisions of an earlier process are not to be mistaken for this one's.
	return &memory{max: max, entries: make(map[string]entry), revision: uint64(time.Now().UnixNano())}
}

func (m *memory) Get(_ context.Context, key string) (data []byte, revision uint64, found bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, found := m.live(key)
	return e.data, e.revision, found, nil
}

// live is an entry that has not ended; one that has is taken away.
func (m *memory) live(key string) (entry, bool) {
	e, found := m.entries[key]
	if found && expired(e.expires) {
		m.drop(key, e)
		return entry{}, false
	}
	return e, found
}

func (m *memory) drop(key string, e entry) {
	m.bytes -= entryBytes + len(key) + len(e.data)
	delete(m.entries, key)
}

func (m *memory) Put(_ context.Context, key string, data []byte, expires time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.put(key, data, expires)
}

func (m *memory) put(key string, data []byte, expires time.Time) error {
	old, found := m.live(key)
	need := entryBytes + len(key) + len(data)
	if found {
		need -= entryBytes + len(key) + len(old.data)
	}
	if m.bytes+need > m.max {
		for key := range m.entries {
			m.live(key)
		}
		if m.bytes+need > m.max {
			return ErrFull
		}
	}
	m.revision++
	m.bytes += need
	m.entries[key] = entry{data, expires, m.revision}
	return nil
}

func (m *memory) Swap(_ context.Context, key string, data []byte, expires time.Time, revision uint64) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, _ := m.live(key); e.revision != revision {
		return false, nil
	}
	return true, m.put(key, data, expires)
}

func (m *memory) Delete(_ context.Context, key string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, found := m.live(key)
	if found {
		m.drop(key, e)
	}
	return found, nil
}

func (m *memory) Keys(_ context.Context, prefix, after string, limit int) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	first := FirstKeys{Prefix: prefix, After: after, Limit: limit}
	for key, e := range m.entries {
		if !expired(e.expires) {
			first.Add(key)
		}
	}
	return first.Sorted(), nil
}

func (m *memory) Close() error { return nil }

// FirstKeys are the first of many keys, in the order of their bytes. They are cut
// whenever they have grown to twice what is wanted, so that neither memory nor time
// is that of all keys sorted.
type FirstKeys struct {
	Prefix, After string
	Limit         int

	keys []string
}

// Add adds a key, if it may be one of them.
func (f *FirstKeys) Add(key string) {
	if key <= f.After || !strings.HasPrefix(key, f.Prefix) {
		return
	}
	if f.keys = append(f.keys, key); len(f.keys) >= 2*f.Limit+64 {
		f.Sorted()
	}
}

// Sorted returns them.
func (f *FirstKeys) Sorted() []string {
	slices.Sort(f.keys)
	f.keys = f.keys[:min(f.Limit, len(f.keys))]
	return f.keys
}
