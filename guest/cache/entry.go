package cache

import (
	"slices"
	"time"
)

// entry is all objects of one key, and the transactions about them. It is guarded by
// the cache's mu.
type entry struct {
	key     string
	rules   []*rule        // the one that an object came with last, first
	pending []*Transaction // that are obliged, oldest first
	waiting []*Transaction // in the order in which they came
}

// entry returns the entry of a key, which is made if there is none.
func (c *Cache) entry(key []byte) *entry {
	e := c.entries[string(key)]
	if e == nil {
		e = &entry{key: string(key)}
		c.entries[e.key] = e
	}
	return e
}

// tidy forgets an entry that nothing is in.
func (c *Cache) tidy(e *entry) {
	if len(e.pending) > 0 || len(e.waiting) > 0 {
		return
	}
	for _, r := range e.rules {
		if len(r.variants) > 0 {
			return
		}
	}
	delete(c.entries, e.key)
}

// found is what an entry has for a request.
type found struct {
	usable *Object // fresh, or stale and to be revalidated; may be a mark that it is not kept
	fresh  bool
	stale  *Object // not usable, but might be freshened, or used if an error comes
}

// best looks for what suits a request: what is fresh before what is usable, what
// came with the more recent rule first.
func (e *entry) best(request Request, now time.Time) (f found) {
	for _, r := range e.rules {
		var room [variantBytes]byte
		o := r.variants[string(r.appendVariant(room[:0], request))]
		switch {
		case o == nil:
		case o.fresh(now):
			return found{usable: o, fresh: true}
		case o.pass:
		case o.usable(now):
			if f.usable == nil {
				f.usable = o
			}
		case f.stale == nil || !f.stale.usableIfError(now) && o.usableIfError(now):
			f.stale = o
		}
	}
	return f
}

// predicted is the rule that the next object is thought to come with.
func (e *entry) predicted() *rule {
	if len(e.rules) > 0 {
		return e.rules[0]
	}
	return noRule
}

// noRule is that of objects that suit everybody. It has none of them.
var noRule = newRule(nil)

// variantOf is which variant of the predicted rule a transaction is about.
func (t *Transaction) variantOf(r *rule) string {
	if t.rule != r {
		var room [variantBytes]byte
		t.rule, t.variant = r, string(r.appendVariant(room[:0], t.request))
	}
	return t.variant
}

// leader is who is about to provide what a transaction is likely to want; nil if
// nobody is.
func (e *entry) leader(t *Transaction) *Transaction {
	if len(e.pending) == 0 {
		return nil
	}
	r := e.predicted()
	variant := t.variantOf(r)
	for _, p := range e.pending {
		if p.variantOf(r) == variant {
			return p
		}
	}
	return nil
}

// decide settles a transaction, or has it wait. Transactions that do are asked again
// by settle.
func (c *Cache) decide(t *Transaction, now time.Time) {
	e := t.entry
	f := e.best(t.request, now)
	if t.replace {
		if t.strategy == ReplaceWait && e.leader(t) != nil {
			return
		}
		if f.usable != nil && !f.usable.pass {
			t.show(f.usable, now)
		}
		if t.strategy == ReplaceForceMiss {
			if f.usable != nil {
				c.remove(f.usable)
			}
			if f.stale != nil {
				c.remove(f.stale)
			}
		}
		t.oblige(t.strategy != ReplaceImmediate)
		t.done()
		return
	}
	switch leader := e.leader(t); {
	case f.usable != nil && f.usable.pass:
		t.passed()
	case f.fresh, f.usable != nil && leader != nil:
		c.stats.Hits++
		t.found, t.state = c.hit(f.usable), Found|Usable
		if !f.fresh {
			t.state |= Stale
		}
		t.done()
	case f.usable != nil:
		c.stats.Hits++
		t.found, t.state = c.hit(f.usable), Found|Usable|Stale
		t.stale = f.usable
		t.oblige(true)
		t.done()
	case leader == nil:
		c.stats.Misses++
		if t.stale = f.stale; t.stale != nil {
			t.state |= Stale
			if t.stale.usableIfError(now) {
				t.state |= UsableIfError
			}
		}
		t.oblige(true)
		t.done()
	}
}

// settle asks all that wait whether they still have to.
func (c *Cache) settle(e *entry) {
	waiting, now := e.waiting, time.Now()
	e.waiting = nil
	for _, t := range waiting {
		c.decide(t, now)
		if !t.settled {
			e.waiting = append(e.waiting, t)
		}
	}
	c.tidy(e)
}

// put makes an object findable, and the one by which its body is found. The object
// that it replaces is gone.
func (c *Cache) put(e *entry, o *Object, request Request) {
	r := newRule(o.keep.Vary)
	at := slices.IndexFunc(e.rules, func(have *rule) bool { return slices.Equal(have.names, r.names) })
	if at >= 0 {
		r = e.rules[at]
		e.rules = slices.Delete(e.rules, at, at+1)
	}
	e.rules = slices.Insert(e.rules, 0, r)
	o.entry, o.rule, o.listed = e, r, true
	o.variant = string(r.appendVariant(nil, request))
	if old := r.variants[o.variant]; old != nil {
		c.remove(old)
	}
	r.variants[o.variant] = o
	c.objects++
	c.indexObject(o)
	if len(e.rules) > VaryRulesMax {
		last := e.rules[VaryRulesMax]
		for _, old := range last.variants {
			c.remove(old)
		}
		e.rules = e.rules[:VaryRulesMax]
	}
	c.entries[e.key] = e // it may have been empty in between
	c.bytes += o.base()
	if o.body.owner = o; o.body.finished {
		o.body.charged = o.body.weight()
		c.bytes += o.body.charged
		c.queue.push(o)
	}
	c.evict()
}

// base is what an object weighs besides its body.
func (o *Object) base() int64 {
	n := objectBytes + o.keep.ValueBytes + int64(len(o.entry.key)+len(o.variant)+len(o.keep.VaryText))
	for _, key := range o.keep.SurrogateKeys {
		n += int64(len(key)) + 64 // its place in the index
	}
	return n
}

// remove makes an object be found no more. What it weighs is free once it is
// complete: until then its body may go on growing, for those who read it.
func (c *Cache) remove(o *Object) {
	if !o.listed {
		return
	}
	o.listed = false
	c.objects--
	if o.rule.variants[o.variant] == o {
		delete(o.rule.variants, o.variant)
	}
	c.unindexObject(o)
	if o.queued {
		c.queue.remove(o)
	}
	c.bytes -= o.base()
	if o.body.owner == o {
		if o.body.owner = nil; o.body.finished {
			c.free(o.body)
		}
	}
	c.tidy(o.entry)
}

// free takes back what is charged for a body.
func (c *Cache) free(b *body) {
	c.bytes -= b.charged
	b.charged = 0
}

// evict makes room. What is being written is not in the queue, and stays.
func (c *Cache) evict() {
	if c.bytes <= c.opts.Bytes {
		return
	}
	now := time.Now()
	dead := func(o *Object) bool { return o.dead(now) }
	for c.bytes > c.opts.Bytes {
		o := c.queue.victim(dead)
		if o == nil {
			return
		}
		c.stats.Evicted++
		c.remove(o)
	}
}

// charge adds to what a body weighs. False: there is no room, even after all has been
// evicted that can be.
func (c *Cache) charge(b *body, n int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > 0 && c.bytes+n > c.opts.Bytes {
		c.bytes += n // so much is wanted
		c.evict()
		c.bytes -= n
		if c.bytes+n > c.opts.Bytes {
			return false
		}
	}
	b.charged += n
	c.bytes += n
	return true
}

// chargeAlways is charge for a body that is not kept, but has readers: little.
func (c *Cache) chargeAlways(b *body, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b.charged += n
	c.bytes += n
	c.evict()
}

// spill has a body be only for those who read it now.
func (c *Cache) spill(b *body) {
	b.mu.Lock()
	b.spill = true
	b.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.owner != nil {
		c.remove(b.owner)
	}
}

// finish puts the object of a body that is complete where it can be evicted.
func (c *Cache) finish(b *body) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b.finished = true
	if b.owner == nil {
		c.free(b)
		return
	}
	c.queue.push(b.owner)
	c.evict()
}

// broken removes the object of a body that was broken off.
func (c *Cache) broken(b *body) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Broken++
	b.finished = true
	if b.owner != nil {
		c.remove(b.owner)
	}
	c.free(b)
}
