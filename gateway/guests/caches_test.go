package guests

import (
	"context"
	"io"
	"log/slog"
	"reflect"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/config"
	"github.com/gripway/gripway/gateway/control"
	"github.com/gripway/gripway/guest/cache"
	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/pubsub/natsbus"
)

// keep puts an object into a guest's part.
func keep(t *testing.T, s *caches, guest string, keys ...string) {
	t.Helper()
	w, err := s.guest(guest, false).space.Insert([]byte("key"), cache.Keep{MaxAge: time.Hour, SurrogateKeys: keys}, nil)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "kept")
	w.Close()
}

// kept says whether there still is one.
func kept(t *testing.T, s *caches, guest string) bool {
	t.Helper()
	hit, err := s.memory.Space(guest).Lookup([]byte("key"), cache.LookupOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if hit != nil {
		hit.Close()
	}
	return hit != nil
}

func TestAPurgeIsOfAGuestOrOfAll(t *testing.T) {
	var bus pubsub.Memory
	defer bus.Close()
	s := newCaches(new(config.Config), &bus, nil, slog.New(slog.DiscardHandler))
	defer s.close()
	for _, guest := range []string{"a", "b", "c"} {
		keep(t, s, guest, "key", "other")
	}
	purge := func(p control.Purge) int {
		t.Helper()
		purged, err := s.purge(t.Context(), p)
		if err != nil || purged.Nodes != 1 || len(purged.Missing) > 0 {
			t.Errorf("got %+v, %v", purged, err)
		}
		return purged.Objects
	}
	is := func() [3]bool { return [3]bool{kept(t, s, "a"), kept(t, s, "b"), kept(t, s, "c")} }
	if n, got := purge(control.Purge{Guest: "a", Keys: []string{"key"}}), is(); n != 1 || got != [3]bool{false, true, true} {
		t.Errorf("of one guest: %d, left %v", n, got)
	}
	if n, got := purge(control.Purge{Keys: []string{"key", "other"}, Soft: true}), is(); n != 4 || got != [3]bool{false, true, true} {
		t.Errorf("softly, of all: %d, left %v", n, got)
	}
	if n := (guestPurger{s, "b"}).Purge("other", false); n != 1 || is() != [3]bool{false, false, true} {
		t.Errorf("by a guest: %d, left %v", n, is())
	}
	if n := purge(control.Purge{All: true}); n != 1 || is() != [3]bool{} {
		t.Errorf("all: %d, left %v", n, is())
	}
	if !s.known("a") || s.known("z") {
		t.Errorf("known: a %v, z %v", s.known("a"), s.known("z"))
	}
	// Without the others, here at least.
	keep(t, s, "a", "key")
	bus.Close()
	if _, err := s.purge(t.Context(), control.Purge{All: true}); err == nil {
		t.Error("a purge of all nodes without a bus went well")
	}
	if n := (guestPurger{s, "a"}).Purge("key", false); n != 1 || kept(t, s, "a") {
		t.Errorf("by a guest, without a bus: %d", n)
	}
}

func TestAPurgeReachesAllNodes(t *testing.T) {
	open := func(name string, options natsbus.Options) (*natsbus.Bus, *caches) {
		t.Helper()
		options.Name = name
		bus, err := natsbus.Open(options)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { bus.Close() })
		s := newCaches(new(config.Config), bus, nil, slog.New(slog.DiscardHandler))
		t.Cleanup(s.close)
		return bus, s
	}
	busA, a := open("a", natsbus.Options{Embedded: natsbus.Embedded{ClusterListen: "127.0.0.1:0"}})
	_, b := open("b", natsbus.Options{Embedded: natsbus.Embedded{ClusterListen: "127.0.0.1:0", Peers: []string{busA.ClusterAddr()}}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// Nodes that have joined just now do not know each other yet.
	for {
		keep(t, a, "app", "key")
		keep(t, b, "app", "key")
		purged, err := b.purge(ctx, control.Purge{Guest: "app", Keys: []string{"key"}})
		if err != nil {
			t.Fatal(err)
		}
		if want := (control.Purged{Objects: 2, Nodes: 2}); reflect.DeepEqual(purged, want) {
			break
		}
	}
	if kept(t, a, "app") || kept(t, b, "app") {
		t.Error("it is still there")
	}
}
