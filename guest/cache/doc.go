// Package cache keeps what programs fetch or work out, so that it need not be done
// again. It is one engine for all caches a guest may know: Fastly's core cache,
// its HTTP cache, and the one that a request to a backend passes through (package
// httpcache has the rules of HTTP).
//
//	c := cache.New(cache.Options{Bytes: 256 << 20})
//	s := c.Space("my-service")
//	t, err := s.Begin([]byte("key"), cache.LookupOptions{})
//	err = t.Wait(ctx)
//	switch {
//	case t.State()&cache.Found != 0: // read it: t.Found().Open(cache.All)
//	case t.State()&cache.MustInsert != 0: // all others wait: t.Insert(…), or t.Cancel()
//	}
//
// It is not a store: anything may be gone at any time. It is of one process.
//
// # Words
//
// An object is what is kept: a body, a value of its owner's (a head), and for how
// long it is good. An entry is all objects of one key; which of them suits a request
// is told by the rules of Vary, the most recent first. A transaction is a lookup
// that takes part in collapsing: of those that find nothing one is the leader, obliged
// to provide an object, and the others wait for its head, not for its body. A space
// is what one service sees.
//
// # Promises
//
// No lock is held while bytes are copied: a body is a list of chunks that are only
// appended to, and readers follow the writer. A body that is broken off is an error
// to all who read it, and is not found any more.
//
// A leader that cancels, fails or is gone hands its obligation to the next who waits.
//
// What was purged after a leader set out is not kept when it comes back: a slow
// fetch does not outrun a purge.
//
// # Why not a library
//
// The caches there are in Go (otter, ristretto, theine) keep values whose weight is
// known when they are put. Here objects grow while they are read, belong to an entry
// with others, and are purged by the keys they carry; a library would own the smallest
// part, which object to evict, and that is queue.go.
package cache
