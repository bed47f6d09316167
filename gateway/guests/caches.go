package guests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/gripway/gripway/gateway/config"
	"github.com/gripway/gripway/gateway/control"
	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/guest/cache"
	"github.com/gripway/gripway/guest/cache/httpcache"
	"github.com/gripway/gripway/pubsub"
)

// caches are what guests keep: the memory is one, each guest has a part of it, and a
// purge goes to all nodes.
type caches struct {
	// Fixed.
	memory *cache.Cache
	bus    pubsub.Asker
	log    *slog.Logger

	// Guarded by mu.
	mu       sync.Mutex
	fetchers []*httpcache.Fetcher
	spaces   map[string]cache.Space // by the guest's name
}

// newCaches makes the memory. close ends what goes on in it.
func newCaches(c *config.Config, bus pubsub.Asker, registry *metrics.Registry, log *slog.Logger) *caches {
	s := &caches{
		memory: cache.New(cache.Options{Bytes: int64(c.CacheBytes), ObjectBytes: int64(c.CacheObjectBytes)}),
		bus:    bus, log: log, spaces: make(map[string]cache.Space),
	}
	watchCache(registry, s.memory)
	bus.Answer(purgeQuestion, s.answerPurge)
	return s
}

// watchCache shows how the cache is.
func watchCache(registry *metrics.Registry, memory *cache.Cache) {
	for _, m := range []struct {
		name, help string
		value      func(cache.Stats) float64
	}{
		{"cache_bytes", "Memory that guests' caches use.", func(s cache.Stats) float64 { return float64(s.Bytes) }},
		{"cache_objects", "Objects in guests' caches.", func(s cache.Stats) float64 { return float64(s.Objects) }},
		{"cache_hits", "Lookups of guests' caches that found what they could use.", func(s cache.Stats) float64 { return float64(s.Hits) }},
		{"cache_misses", "Lookups that found nothing.", func(s cache.Stats) float64 { return float64(s.Misses) }},
		{"cache_collapsed", "Lookups that waited for another's object.", func(s cache.Stats) float64 { return float64(s.Collapsed) }},
		{"cache_passed", "Lookups of what is known not to be stored.", func(s cache.Stats) float64 { return float64(s.Passed) }},
		{"cache_inserted", "Objects that were stored.", func(s cache.Stats) float64 { return float64(s.Inserted) }},
		{"cache_broken", "Objects that were broken off while they were stored.", func(s cache.Stats) float64 { return float64(s.Broken) }},
		{"cache_evicted", "Objects that gave way to others.", func(s cache.Stats) float64 { return float64(s.Evicted) }},
		{"cache_purged", "Objects that were purged.", func(s cache.Stats) float64 { return float64(s.Purged) }},
	} {
		registry.Func(m.name, m.help, func() float64 { return m.value(memory.Stats()) })
	}
}

// guestCache is a guest's part.
type guestCache struct {
	space   cache.Space
	fetcher *httpcache.Fetcher // nil: requests do not pass through
}

// guest makes the part of a guest.
func (s *caches) guest(name string, through bool) (g guestCache) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g.space = s.memory.Space(name)
	s.spaces[name] = g.space
	if through {
		g.fetcher = httpcache.NewFetcher(g.space, s.log.With("guest", name))
		s.fetchers = append(s.fetchers, g.fetcher)
	}
	return g
}

// known says whether a guest has a part.
func (s *caches) known(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.spaces[name]
	return ok
}

func (s *caches) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.fetchers {
		f.Close()
	}
}

// purgeQuestion is what nodes ask each other.
const purgeQuestion = "purge"

// purgeWord is a purge, and its answer, on the bus.
type purgeWord struct {
	Guest string   `json:"guest,omitempty"`
	Keys  []string `json:"keys,omitempty"`
	All   bool     `json:"all,omitempty"`
	Soft  bool     `json:"soft,omitempty"`

	Objects int `json:"objects"`
}

// here purges on this node.
func (s *caches) here(p control.Purge) (objects int) {
	s.mu.Lock()
	spaces := maps.Clone(s.spaces)
	s.mu.Unlock()
	for name, space := range spaces {
		if p.Guest != "" && p.Guest != name {
			continue
		}
		if p.All {
			objects += space.PurgeAll(p.Soft)
		}
		for _, key := range p.Keys {
			objects += space.Purge(key, p.Soft)
		}
	}
	return objects
}

// answerPurge purges for another node, or for this one.
func (s *caches) answerPurge(_ context.Context, question []byte) []byte {
	var word purgeWord
	if err := json.Unmarshal(question, &word); err != nil {
		s.log.Warn("a node's purge is not understood", "error", err)
		return nil
	}
	objects := s.here(control.Purge{Guest: word.Guest, Keys: word.Keys, All: word.All, Soft: word.Soft})
	answer, _ := json.Marshal(purgeWord{Objects: objects}) // a number
	return answer
}

// purge purges on all nodes.
func (s *caches) purge(ctx context.Context, p control.Purge) (purged control.Purged, err error) {
	question, err := json.Marshal(purgeWord{Guest: p.Guest, Keys: p.Keys, All: p.All, Soft: p.Soft})
	if err != nil {
		return purged, err
	}
	answers, err := s.bus.Ask(ctx, purgeQuestion, question)
	if err != nil {
		return purged, fmt.Errorf("purge: %w", err)
	}
	purged.Missing = answers.Missing
	for _, node := range answers.Nodes {
		var word purgeWord
		if err := json.Unmarshal(node.Data, &word); err != nil {
			purged.Missing = append(purged.Missing, node.Node)
			continue
		}
		purged.Nodes++
		purged.Objects += word.Objects
	}
	return purged, nil
}

// guestPurgeWait is how long a guest waits for the other nodes when it purges.
const guestPurgeWait = 2 * time.Second

// guestPurger is how a guest purges its own part.
type guestPurger struct {
	caches *caches
	guest  string
}

// Purge is compute.Purger: here in any case, elsewhere as far as the bus reaches.
func (g guestPurger) Purge(key string, softly bool) int {
	p := control.Purge{Guest: g.guest, Keys: []string{key}, Soft: softly}
	ctx, cancel := context.WithTimeout(context.Background(), guestPurgeWait)
	defer cancel()
	purged, err := g.caches.purge(ctx, p)
	if err == nil && purged.Nodes == 0 {
		err = errors.New("no node answered")
	}
	if err != nil {
		g.caches.log.Warn("purged on this node only", "guest", g.guest, "key", key, "error", err)
		return g.caches.here(p)
	}
	if len(purged.Missing) > 0 {
		g.caches.log.Warn("some nodes have not purged", "guest", g.guest, "key", key, "nodes", purged.Missing)
	}
	return purged.Objects
}
