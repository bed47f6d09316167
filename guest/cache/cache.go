package cache

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Options bound a Cache. Zero values are the defaults that are named.
type Options struct {
	// Bytes bounds all that is kept: bodies, and what belongs to them. Zero means
	// 256 MiB.
	Bytes int64

	// ObjectBytes bounds the body of one object. Zero means 100 MB, Fastly's number;
	// it is never more than Bytes. What becomes longer is passed on to those who read
	// it already, and not kept.
	ObjectBytes int64
}

// Defaults of Options.
const (
	BytesDefault       = 256 << 20
	ObjectBytesDefault = 100_000_000
)

// KeyBytesMax bounds a key: the number of bytes that Fastly accepts, and one to tell
// keys of one kind from another.
const KeyBytesMax = 8135 + 1

// VaryRulesMax bounds the rules of Vary of one key, Fastly's number. The rule that
// was used least recently gives way, with its objects.
const VaryRulesMax = 8

// VaryNamesMax bounds the names of one rule.
const VaryNamesMax = 64

// SurrogateKeysMax bounds the surrogate keys of one object, and SurrogateKeyBytesMax
// one of them: Fastly's number for one, and for all of them together (16 384 bytes)
// about what the shortest keys add up to.
const (
	SurrogateKeysMax     = 4096
	SurrogateKeyBytesMax = 1024
)

// What a caller may want to tell apart.
var (
	ErrKeyTooLong    = fmt.Errorf("cache: key is longer than %d bytes", KeyBytesMax)
	ErrNotObliged    = errors.New("cache: this transaction need not provide an object, or has done so")
	ErrNothingToKeep = errors.New("cache: there is no object that could be freshened")
	ErrIncomplete    = fmt.Errorf("cache: the body was broken off: %w", io.ErrUnexpectedEOF)
	ErrLength        = fmt.Errorf("cache: the body is not as long as was said: %w", io.ErrUnexpectedEOF)
	ErrTooLarge      = fmt.Errorf("cache: the body is longer than may be kept, and nobody reads it fast enough: %w", io.ErrUnexpectedEOF)
	ErrClosed        = errors.New("cache: closed")
	ErrRange         = errors.New("cache: the range ends before it begins")
)

// Cache is bounded memory for objects. It may be used concurrently.
type Cache struct {
	// Fixed.
	opts Options

	// Guarded by mu, which is held for a few lookups in maps at a time: a guest takes
	// thousands of times longer to start than its lookups do.
	mu      sync.Mutex
	entries map[string]*entry // by space and key
	queue   queue             // of objects that are complete, for eviction
	bytes   int64             // of all objects, those that are being written included
	objects int64
	index   map[surrogate]map[*Object]struct{}
	clock   uint64         // counts purges
	purges  []purgeRecord  // the last ones, oldest first
	stats   Stats          // but for bytes and objects
	leaders map[uint64]int // transactions that are obliged, by the clock they began at
}

// New makes a Cache.
func New(opts Options) *Cache {
	if opts.Bytes <= 0 {
		opts.Bytes = BytesDefault
	}
	if opts.ObjectBytes <= 0 {
		opts.ObjectBytes = ObjectBytesDefault
	}
	opts.ObjectBytes = min(opts.ObjectBytes, opts.Bytes)
	return &Cache{
		opts: opts, entries: make(map[string]*entry),
		index: make(map[surrogate]map[*Object]struct{}), leaders: make(map[uint64]int),
	}
}

// Options are those in use, defaults filled in.
func (c *Cache) Options() Options { return c.opts }

// Stats are what a Cache has done, and what is in it.
type Stats struct {
	Bytes, Objects int64  // at present
	Hits           uint64 // lookups that found what they can use
	Misses         uint64 // lookups that found nothing
	Collapsed      uint64 // lookups that waited for another's object
	Passed         uint64 // lookups of what is known not to be kept
	Inserted       uint64 // objects, and what of them was broken off
	Broken         uint64
	Evicted        uint64 // objects that gave way to others
	Purged         uint64 // objects that were purged, softly or not
}

// Stats are a snapshot.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Bytes, s.Objects = c.bytes, c.objects
	return s
}

// Space is the part of a Cache that one service sees: keys and surrogate keys of
// two spaces have nothing to do with each other, the memory is one. It may be
// copied and used concurrently.
type Space struct {
	cache *Cache
	name  string
}

// Space returns the space of a name, which must not contain NUL.
func (c *Cache) Space(name string) Space {
	return Space{c, strings.ReplaceAll(name, "\x00", "")}
}

// Cache is what the space is a part of.
func (s Space) Cache() *Cache { return s.cache }

// Request tells what a request says about the names that responses vary by. It must
// not change while a transaction has it. http.Header is one.
type Request interface{ Values(name string) []string }

// LookupOptions describe a lookup.
type LookupOptions struct {
	// Request is what responses may vary by. Nil has no headers.
	Request Request

	// Insist has a transaction that finds a mark that nothing is kept be obliged all the
	// same: it may provide an object, and nobody waits for it. Without, it finds nothing.
	Insist bool

	// Owner is whoever begins it, for Transaction.LedBy.
	Owner any

	// Notify is called once a transaction that had to wait has something to say. It
	// must not block, nor call the cache.
	Notify func()
}

// appendKey appends what an entry is found by.
func (s Space) appendKey(to, key []byte) []byte {
	to = append(to, s.name...)
	to = append(to, 0)
	return append(to, key...)
}

// entryKeyBytes is the space for most keys on a stack.
const entryKeyBytes = 256

// Lookup looks without taking part in collapsing. Nil: there is nothing that can be
// used. What it returns has to be closed.
func (s Space) Lookup(key []byte, opts LookupOptions) (*Hit, error) {
	if len(key) > KeyBytesMax {
		return nil, ErrKeyTooLong
	}
	var room [entryKeyBytes]byte
	c := s.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[string(s.appendKey(room[:0], key))]
	if e == nil {
		c.stats.Misses++
		return nil, nil
	}
	o := e.best(opts.Request, time.Now()).usable
	if o == nil || o.pass {
		c.stats.Misses++
		return nil, nil
	}
	c.stats.Hits++
	return c.hit(o), nil
}

// Invalidate removes all objects of a key.
func (s Space) Invalidate(key []byte) {
	var room [entryKeyBytes]byte
	c := s.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[string(s.appendKey(room[:0], key))]; e != nil {
		for _, r := range e.rules {
			for _, o := range r.variants {
				c.remove(o)
			}
		}
	}
}
