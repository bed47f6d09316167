package cache

import (
	"fmt"
	"slices"
	"strings"
)

// surrogate is a surrogate key of a space.
type surrogate struct{ space, key string }

// purgeRecord remembers a purge for as long as a transaction is under way that began
// before it. A key that is empty stands for all there are, a space that is for any.
type purgeRecord struct {
	clock  uint64
	of     surrogate
	softly bool
}

// purgesMax bounds the purges that are remembered. Who began before the oldest of
// them is taken to have missed one.
const purgesMax = 1024

// check refuses what cannot be kept.
func (k *Keep) check() error {
	switch {
	case len(k.Vary) > VaryNamesMax:
		return fmt.Errorf("cache: vary has %d names, more than %d", len(k.Vary), VaryNamesMax)
	case len(k.SurrogateKeys) > SurrogateKeysMax:
		return fmt.Errorf("cache: %d surrogate keys, more than %d", len(k.SurrogateKeys), SurrogateKeysMax)
	}
	for _, key := range k.SurrogateKeys {
		if err := CheckSurrogateKey(key); err != nil {
			return err
		}
	}
	return nil
}

// CheckSurrogateKey refuses what is no surrogate key: it is of printable ASCII without
// spaces.
func CheckSurrogateKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("cache: a surrogate key is empty")
	case len(key) > SurrogateKeyBytesMax:
		return fmt.Errorf("cache: a surrogate key of %d bytes, more than %d", len(key), SurrogateKeyBytesMax)
	}
	for i := range len(key) {
		if key[i] < 0x21 || key[i] > 0x7e {
			return fmt.Errorf("cache: surrogate key %q: byte %#02x is not printable ASCII", key, key[i])
		}
	}
	return nil
}

// SurrogateKeys splits a list as headers have it, at spaces. What is no surrogate key
// is left out, and so is what is there twice or too much.
func SurrogateKeys(list string) (keys []string) {
	for key := range strings.FieldsSeq(list) {
		if CheckSurrogateKey(key) == nil && len(keys) < SurrogateKeysMax && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// spaceOf is the space that an entry's key begins with.
func (e *entry) spaceOf() string {
	space, _, _ := strings.Cut(e.key, "\x00")
	return space
}

// indexObject makes an object be found by its surrogate keys.
func (c *Cache) indexObject(o *Object) {
	space := o.entry.spaceOf()
	for _, key := range o.keep.SurrogateKeys {
		of := surrogate{space, key}
		if c.index[of] == nil {
			c.index[of] = make(map[*Object]struct{})
		}
		c.index[of][o] = struct{}{}
	}
}

func (c *Cache) unindexObject(o *Object) {
	space := o.entry.spaceOf()
	for _, key := range o.keep.SurrogateKeys {
		of := surrogate{space, key}
		if objects := c.index[of]; objects != nil {
			if delete(objects, o); len(objects) == 0 {
				delete(c.index, of)
			}
		}
	}
}

// purgeBatch is how many objects are purged before others may use the cache.
const purgeBatch = 512

// Purge removes all objects of the space that carry a surrogate key, those that are
// being written and those that are being fetched included, and says how many were
// there. If softly, they stay, and are stale.
func (s Space) Purge(key string, softly bool) (n int) {
	c, of := s.cache, surrogate{s.name, key}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remember(of, softly)
	var list []*Object
	for o := range c.index[of] {
		list = append(list, o)
	}
	return c.purge(list, softly)
}

// PurgeAll removes all objects of the space.
func (s Space) PurgeAll(softly bool) (n int) {
	c := s.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remember(surrogate{space: s.name}, softly)
	var list []*Object
	for _, e := range c.entries {
		if e.spaceOf() != s.name {
			continue
		}
		for _, r := range e.rules {
			for _, o := range r.variants {
				list = append(list, o)
			}
		}
	}
	return c.purge(list, softly)
}

// purge does it, a batch at a time. The cache is locked.
func (c *Cache) purge(list []*Object, softly bool) (n int) {
	for i, o := range list {
		if i%purgeBatch == purgeBatch-1 {
			c.mu.Unlock() // let others in
			c.mu.Lock()
		}
		if o.listed {
			n++
			c.drop(o, softly)
		}
	}
	c.stats.Purged += uint64(n)
	return n
}

// drop purges one object.
func (c *Cache) drop(o *Object, softly bool) {
	if softly {
		o.softly = true
		return
	}
	c.remove(o)
}

// remember has a purge hold for objects that are under way.
func (c *Cache) remember(of surrogate, softly bool) {
	c.clock++
	if len(c.leaders) == 0 {
		return
	}
	c.purges = append(c.purges, purgeRecord{c.clock, of, softly})
	if len(c.purges) > purgesMax {
		c.purges = slices.Delete(c.purges, 0, len(c.purges)-purgesMax)
	}
}

// forgetPurges drops the records that nobody needs any more.
func (c *Cache) forgetPurges() {
	if len(c.purges) == 0 {
		return
	}
	oldest := c.clock
	for clock := range c.leaders {
		oldest = min(oldest, clock)
	}
	at := 0
	for at < len(c.purges) && c.purges[at].clock <= oldest {
		at++
	}
	c.purges = slices.Delete(c.purges, 0, at)
}

// outrun returns what has to be done to an object, after those who wait have got it,
// because it was purged while its transaction, which began at clock, fetched it.
func (c *Cache) outrun(o *Object, clock uint64) func() {
	space := o.entry.spaceOf()
	hit, softly := false, true
	// Of the purges since then, was the first one that is needed forgotten?
	if len(c.purges) == purgesMax && c.purges[0].clock > clock+1 {
		hit, softly = true, false
	}
	for _, p := range c.purges {
		if p.clock <= clock || p.of.space != space {
			continue
		}
		if p.of.key == "" || slices.Contains(o.keep.SurrogateKeys, p.of.key) {
			hit, softly = true, softly && p.softly
		}
	}
	return func() {
		if hit && o.listed {
			c.stats.Purged++
			c.drop(o, softly)
		}
	}
}
