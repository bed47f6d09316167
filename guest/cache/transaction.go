package cache

import (
	"context"
	"slices"
	"time"
)

// State is what a lookup came to. The bits are those of Fastly's interface.
type State uint32

// The bits of a State.
const (
	Found         State = 1 << iota // there is an object, and it is usable
	Usable                          // the same: programs ask for either
	Stale                           // it is not fresh
	MustInsert                      // this transaction has to provide an object
	UsableIfError                   // there is one for the case that nobody can, or nobody could
)

// Strategy is how a replacement goes together with others.
type Strategy uint32

// The strategies of Fastly's interface.
const (
	ReplaceImmediate Strategy = 1 // at once, whatever others do; the old object stays until the new one comes
	ReplaceForceMiss Strategy = 2 // at once, and the old object goes: others wait for the new one
	ReplaceWait      Strategy = 3 // after those who are at it
)

// Transaction is a lookup that takes part in collapsing. It has to be closed. But for
// Ready, its methods may be used by one goroutine at a time.
type Transaction struct {
	// Fixed.
	space    Space
	cache    *Cache
	request  Request
	notify   func()
	owner    any
	insist   bool
	replace  bool
	strategy Strategy
	ready    chan struct{} // closed once it is settled; nil: it was at once

	// Guarded by the cache's mu; but for entry, pending and obliged the owner's alone
	// once it is settled.
	entry   *entry
	settled bool
	state   State
	err     error // of the leader that it waited for
	found   *Hit
	stale   *Object // what can be freshened
	obliged bool
	pending bool   // others see that it is
	clock   uint64 // of purges, when it became obliged
	rule    *rule  // that variant was made by
	variant string
}

// Begin looks for an object, and becomes obliged to provide one if there is none that
// is fresh and nobody else is. Whoever has to wait for another learns it by Ready.
func (s Space) Begin(key []byte, opts LookupOptions) (*Transaction, error) {
	return s.begin(key, &Transaction{space: s, cache: s.cache, request: opts.Request, notify: opts.Notify, owner: opts.Owner, insist: opts.Insist})
}

// Replace begins a transaction that is obliged whatever there is: Found is what is
// to be replaced.
func (s Space) Replace(key []byte, strategy Strategy, opts LookupOptions) (*Transaction, error) {
	return s.begin(key, &Transaction{
		space: s, cache: s.cache, request: opts.Request, notify: opts.Notify, owner: opts.Owner, replace: true, strategy: strategy,
	})
}

func (s Space) begin(key []byte, t *Transaction) (*Transaction, error) {
	if len(key) > KeyBytesMax {
		return nil, ErrKeyTooLong
	}
	var room [entryKeyBytes]byte
	c := s.cache
	full := s.appendKey(room[:0], key)
	c.mu.Lock()
	defer c.mu.Unlock()
	t.entry = c.entry(full)
	c.decide(t, time.Now())
	if !t.settled {
		c.stats.Collapsed++
		t.ready = make(chan struct{})
		t.entry.waiting = append(t.entry.waiting, t)
	}
	c.tidy(t.entry)
	return t, nil
}

// done settles it. The cache is locked.
func (t *Transaction) done() {
	t.settled = true
	if t.ready != nil {
		close(t.ready)
		if t.notify != nil {
			t.notify()
		}
	}
}

// passed settles one that need not wait for others, as nothing is kept. The cache is
// locked.
func (t *Transaction) passed() {
	t.cache.stats.Passed++
	if t.insist {
		t.oblige(false)
	}
	t.done()
}

// show lets it have an object, whatever becomes of it. The cache is locked.
func (t *Transaction) show(o *Object, now time.Time) {
	t.found, t.state = t.cache.show(o, now), Found|Usable
	if !o.fresh(now) {
		t.state |= Stale
	}
	t.stale = o
}

// oblige makes it the one to provide an object; if others are to know, they wait. The
// cache is locked.
func (t *Transaction) oblige(known bool) {
	t.state |= MustInsert
	t.obliged, t.pending, t.clock = true, known, t.cache.clock
	t.cache.leaders[t.clock]++
	if known {
		t.cache.entries[t.entry.key] = t.entry // it may have become empty just now
		t.entry.pending = append(t.entry.pending, t)
	}
}

// home is the entry that an object of its goes to: the one it began with, unless that
// was forgotten in between because nobody knew of its obligation. The cache is locked.
func (t *Transaction) home() *entry {
	if e := t.cache.entries[t.entry.key]; e != nil {
		t.entry = e
	}
	return t.entry
}

// relieve ends an obligation. False: there was none. The cache is locked; settle has
// to follow.
func (t *Transaction) relieve() bool {
	if !t.obliged {
		return false
	}
	t.obliged = false
	t.state &^= MustInsert
	if t.cache.leaders[t.clock]--; t.cache.leaders[t.clock] == 0 {
		delete(t.cache.leaders, t.clock)
		t.cache.forgetPurges()
	}
	if t.pending {
		t.pending = false
		at := slices.Index(t.entry.pending, t)
		t.entry.pending = slices.Delete(t.entry.pending, at, at+1)
	}
	return true
}

// Ready says whether it is settled. It may be used concurrently.
func (t *Transaction) Ready() bool {
	if t.ready == nil {
		return true
	}
	select {
	case <-t.ready:
		return true
	default:
		return false
	}
}

// LedBy says whether it waits for a transaction of such an owner. The cache is locked
// meanwhile.
func (t *Transaction) LedBy(such func(owner any) bool) bool {
	t.cache.mu.Lock()
	defer t.cache.mu.Unlock()
	if t.settled {
		return false
	}
	leader := t.entry.leader(t)
	return leader != nil && such(leader.owner)
}

// GoAhead settles one that waits: it is obliged too, and nobody waits for it.
func (t *Transaction) GoAhead() {
	c := t.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.settled {
		return
	}
	at := slices.Index(t.entry.waiting, t)
	t.entry.waiting = slices.Delete(t.entry.waiting, at, at+1)
	now := time.Now()
	f := t.entry.best(t.request, now)
	switch {
	case t.replace && f.usable != nil && !f.usable.pass:
		t.show(f.usable, now)
	case f.stale != nil:
		t.stale, t.state = f.stale, t.state|Stale
		if f.stale.usableIfError(now) {
			t.state |= UsableIfError
		}
	}
	t.oblige(false)
	t.done()
}

// Wait waits until it is settled, or ctx ends.
func (t *Transaction) Wait(ctx context.Context) error {
	if t.ready == nil {
		return nil
	}
	select {
	case <-t.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// State is what it came to: it has to be settled, here and for all that follows.
func (t *Transaction) State() State { return t.state }

// Err is what the leader that it waited for was released with.
func (t *Transaction) Err() error { return t.err }

// Found is the object to use, or nil. It is the transaction's.
func (t *Transaction) Found() *Hit { return t.found }

// Stale is how an object is kept that may not be used, but freshened: nil if there
// is none.
func (t *Transaction) Stale() *Keep {
	if t.stale == nil {
		return nil
	}
	return &t.stale.keep
}

// Request is what it was begun with.
func (t *Transaction) Request() Request { return t.request }

// Space is where it was begun.
func (t *Transaction) Space() Space { return t.space }

// Insert provides an object: those who wait for it have it at once, and read while
// it is written.
func (t *Transaction) Insert(keep Keep) (*Writer, error) {
	w, hit, err := t.InsertAndRead(keep)
	if err == nil {
		hit.Close()
	}
	return w, err
}

// InsertAndRead is Insert that can read what is written. The Hit has to be closed.
func (t *Transaction) InsertAndRead(keep Keep) (*Writer, *Hit, error) {
	if err := keep.check(); err != nil {
		return nil, nil, err
	}
	c := t.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	if !t.obliged {
		return nil, nil, ErrNotObliged
	}
	w, o := c.insert(t.home(), keep, t.request)
	hit := c.show(o, o.stored)
	outrun := c.outrun(o, t.clock)
	t.relieve()
	c.settle(t.entry)
	outrun()
	return w, hit, nil
}

// insert puts an object whose body is yet to come. The cache is locked.
func (c *Cache) insert(e *entry, keep Keep, request Request) (*Writer, *Object) {
	o := &Object{cache: c, keep: keep, stored: time.Now(), body: new(body)}
	c.stats.Inserted++
	c.put(e, o, request)
	w := &Writer{cache: c, body: o.body, length: -1}
	if keep.HasLength {
		w.length = keep.Length
	}
	return w, o
}

// Insert provides an object to whoever comes, without a transaction.
func (s Space) Insert(key []byte, keep Keep, request Request) (*Writer, error) {
	if len(key) > KeyBytesMax {
		return nil, ErrKeyTooLong
	}
	if err := keep.check(); err != nil {
		return nil, err
	}
	var room [entryKeyBytes]byte
	c := s.cache
	full := s.appendKey(room[:0], key)
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entry(full)
	w, _ := c.insert(e, keep, request)
	c.settle(e)
	return w, nil
}

// Update freshens the stale object: its body stays. What is returned is the object
// as it is now, and has to be closed.
func (t *Transaction) Update(keep Keep) (*Hit, error) {
	if err := keep.check(); err != nil {
		return nil, err
	}
	c := t.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !t.obliged:
		return nil, ErrNotObliged
	case t.stale == nil || !t.stale.body.kept():
		return nil, ErrNothingToKeep
	}
	old := t.stale
	if !keep.HasLength {
		keep.Length, keep.HasLength = old.keep.Length, old.keep.HasLength
	}
	o := &Object{cache: c, keep: keep, stored: time.Now(), body: old.body, hits: old.hits}
	c.remove(old)
	c.put(t.home(), o, t.request)
	hit := c.show(o, o.stored)
	outrun := c.outrun(o, t.clock)
	t.relieve()
	c.settle(t.entry)
	outrun()
	return hit, nil
}

// ChooseStale lets this transaction, and all that wait for it, have the stale object:
// there is an error. What is in the cache stays as it is.
func (t *Transaction) ChooseStale() error {
	c := t.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	switch {
	case !t.obliged:
		return ErrNotObliged
	case t.stale == nil || !t.stale.usableIfError(now):
		return ErrNothingToKeep
	}
	e, r := t.entry, t.entry.predicted()
	variant := t.variantOf(r)
	t.relieve()
	waiting := e.waiting
	e.waiting = nil
	for _, w := range append(waiting, t) {
		suits := w == t || w.variantOf(r) == variant && !w.replace
		if !suits {
			e.waiting = append(e.waiting, w)
			continue
		}
		if w.found != nil {
			w.found.Close()
		}
		w.found, w.state = c.hit(t.stale), Found|Usable|Stale|UsableIfError
		if w != t {
			c.stats.Hits++
			w.done()
		}
	}
	c.settle(e)
	return nil
}

// Pass tells all who ask for this, for as long as MaxAge of keep says, that it is not
// kept: they do not wait for each other. Only Vary and MaxAge of keep count.
func (t *Transaction) Pass(keep Keep) error {
	if err := keep.check(); err != nil {
		return err
	}
	c := t.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	if !t.obliged {
		return ErrNotObliged
	}
	o := &Object{
		cache: c, keep: Keep{MaxAge: keep.MaxAge, Vary: keep.Vary}, stored: time.Now(), body: new(body), pass: true,
	}
	o.body.end(ErrIncomplete) // there is none
	o.body.finished = true
	c.put(t.home(), o, t.request)
	// Those who wait now do so no longer, be MaxAge nothing.
	e, r := t.entry, o.rule
	waiting := e.waiting
	e.waiting = nil
	for _, w := range waiting {
		var room [variantBytes]byte
		if w.replace || string(r.appendVariant(room[:0], w.request)) != o.variant {
			e.waiting = append(e.waiting, w)
			continue
		}
		w.passed()
	}
	t.relieve()
	c.settle(e)
	return nil
}

// Release ends the obligation, and lets all that wait for it go their own way, at
// once: they find nothing, need not provide anything, and Err tells them err. It is for
// what went wrong and would go wrong for each of them, one after the other.
func (t *Transaction) Release(err error) error {
	c := t.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	if !t.obliged {
		return ErrNotObliged
	}
	e, r := t.entry, t.entry.predicted()
	variant := t.variantOf(r)
	t.relieve()
	waiting := e.waiting
	e.waiting = nil
	for _, w := range waiting {
		if w.replace || w.variantOf(r) != variant {
			e.waiting = append(e.waiting, w)
			continue
		}
		w.err = err
		w.passed()
	}
	c.settle(e)
	return nil
}

// Cancel gives the obligation back: the next who waits gets it.
func (t *Transaction) Cancel() error {
	c := t.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	if !t.relieve() {
		return ErrNotObliged
	}
	c.settle(t.entry)
	return nil
}

// Close ends it. An obligation goes to the next, a place in the queue is left.
func (t *Transaction) Close() {
	c := t.cache
	c.mu.Lock()
	if !t.settled {
		t.settled = true
		if at := slices.Index(t.entry.waiting, t); at >= 0 {
			t.entry.waiting = slices.Delete(t.entry.waiting, at, at+1)
		}
		c.tidy(t.entry)
	}
	if t.relieve() {
		c.settle(t.entry)
	}
	found := t.found
	c.mu.Unlock()
	if found != nil {
		found.Close()
	}
}
