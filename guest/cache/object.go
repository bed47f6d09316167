package cache

import (
	"math"
	"slices"
	"strings"
	"time"
)

// Keep says how an object is to be kept. It is the owner's; what it points to must
// not change.
type Keep struct {
	// MaxAge is the age until which it is fresh, InitialAge the one that it comes with.
	MaxAge, InitialAge time.Duration

	// StaleWhileRevalidate is for how long after MaxAge it may be used while somebody
	// fetches anew, StaleIfError for how long it may be if that failed.
	StaleWhileRevalidate, StaleIfError time.Duration

	// Vary are the names that the request has to agree in. At most VaryNamesMax.
	Vary []string

	// VaryText is Vary as it was written, for who asks; "" is the names with spaces.
	VaryText string

	// SurrogateKeys are what it can be purged by.
	SurrogateKeys []string

	// Length is the body's, if HasLength.
	Length    int64
	HasLength bool

	// Value belongs to the object, and weighs ValueBytes.
	Value      any
	ValueBytes int64

	// Sensitive is remembered, and has no effect: nothing here touches a disk.
	Sensitive bool
}

// objectBytes is what an object weighs besides its bytes: about what is allocated
// for it, its entry, its rule and its place in the indexes.
const objectBytes = 512

// Object is what is kept. It may be used concurrently.
type Object struct {
	// Fixed once it is in an entry.
	cache   *Cache
	entry   *entry
	rule    *rule
	variant string // of the rule
	keep    Keep
	stored  time.Time
	pass    bool // it stands for what is not kept
	body    *body

	// Guarded by the cache's mu.
	listed       bool // it can be found
	softly       bool // purged softly: stale from then on
	hits         uint64
	queued       bool
	visited      bool // since the hand came by
	newer, older *Object
}

// age is how old it is.
func (o *Object) age(now time.Time) time.Duration {
	return saturate(o.keep.InitialAge, now.Sub(o.stored))
}

// saturate adds two durations that may be as long as there are.
func saturate(a, b time.Duration) time.Duration {
	if a > 0 && b > math.MaxInt64-a {
		return math.MaxInt64
	}
	return a + b
}

func (o *Object) fresh(now time.Time) bool { return !o.softly && o.age(now) < o.keep.MaxAge }

// usable says whether it may be served while somebody revalidates it. What was
// purged softly is, until it would have been stale too long anyway, as at Fastly.
func (o *Object) usable(now time.Time) bool {
	return o.age(now) < saturate(o.keep.MaxAge, o.keep.StaleWhileRevalidate)
}

func (o *Object) usableIfError(now time.Time) bool {
	return o.age(now) < saturate(o.keep.MaxAge, o.keep.StaleIfError)
}

// dead says whether it is of use only to be revalidated.
func (o *Object) dead(now time.Time) bool { return !o.usable(now) && !o.usableIfError(now) }

// Hit is an object that was found, as it was then. It has to be closed. Its methods
// may be used by one goroutine at a time.
type Hit struct {
	object *Object
	hits   uint64
	length int64 // that was known then, or -1
	fresh  bool
	claim  *Reader // of a body that is being written: it may not forget its beginning
}

// hit makes a Hit of an object, and counts it. The cache is locked.
func (c *Cache) hit(o *Object) *Hit {
	o.visited = true
	o.hits++
	return c.show(o, time.Now())
}

// show makes a Hit of an object. The cache is locked.
func (c *Cache) show(o *Object, now time.Time) *Hit {
	h := &Hit{object: o, hits: o.hits, length: -1, fresh: o.fresh(now)}
	h.length, h.claim = o.body.claim()
	if o.keep.HasLength {
		h.length = o.keep.Length
	}
	return h
}

// Keep is how the object is kept.
func (h *Hit) Keep() *Keep { return &h.object.keep }

// Fresh says whether it was.
func (h *Hit) Fresh() bool { return h.fresh }

// Age is how old it is now.
func (h *Hit) Age() time.Duration { return h.object.age(time.Now()) }

// Hits is how often it had been found, this time included.
func (h *Hit) Hits() uint64 { return h.hits }

// Length is that of the body, if it was known when it was found.
func (h *Hit) Length() (n int64, ok bool) { return h.length, h.length >= 0 }

// Range is a part of a body: the bytes from From to To, both included. A negative
// From means the last To bytes, a negative To all to the end.
type Range struct{ From, To int64 }

// All is the whole body.
var All = Range{0, -1}

// Open reads the body. If the length is known, a range that is not within it is the
// whole body; if it is not known, so is any range unless exact is set. An exact
// range of a body that turns out to be shorter is an error at its end. The reader has
// to be closed.
func (h *Hit) Open(r Range, exact bool) (*Reader, error) {
	if r.From >= 0 && r.To >= 0 && r.To < r.From {
		return nil, ErrRange
	}
	from, to, fixed := int64(0), int64(-1), false
	length := h.length
	if length < 0 && exact {
		length, _ = h.object.body.complete()
	}
	switch {
	case r == All:
	case length >= 0 && r.From < 0: // the last bytes
		if r.To > 0 && r.To < length {
			from = length - r.To
		}
	case length >= 0:
		if r.From < length && r.To < length {
			from, to = r.From, r.To
		}
	case exact && r.From >= 0:
		from, to, fixed = r.From, r.To, true
	}
	reader := h.object.body.open(from, to, fixed)
	h.Close() // a second reader of a body that is not kept may come too late
	return reader, nil
}

// Close lets go of it. Its readers go on, and Open may be called again.
func (h *Hit) Close() {
	if h.claim != nil {
		h.claim.Close()
		h.claim = nil
	}
}

// rule is a set of names that responses vary by, and the objects that came with it.
type rule struct {
	names    []string // lower case, sorted, each once
	variants map[string]*Object
}

// newRule makes a rule of names as they were written.
func newRule(names []string) *rule {
	r := &rule{variants: make(map[string]*Object)}
	for _, name := range names {
		if name != "" {
			r.names = append(r.names, strings.ToLower(name))
		}
	}
	slices.Sort(r.names)
	r.names = slices.Compact(r.names)
	return r
}

// variantBytes is the space for most variants on a stack.
const variantBytes = 256

// appendVariant appends what a request says about the rule's names: for each the
// number of its values, and each value with its length, so that no value can look
// like two. Values that are written in another way are another variant: that costs a
// fetch, and tells nobody what is not his.
func (r *rule) appendVariant(to []byte, request Request) []byte {
	for _, name := range r.names {
		var values []string
		if request != nil {
			values = request.Values(name)
		}
		to = appendNumber(to, len(values))
		for _, value := range values {
			to = appendNumber(to, len(value))
			to = append(to, value...)
		}
	}
	return to
}

func appendNumber(to []byte, n int) []byte {
	for ; n >= 0x80; n >>= 7 {
		to = append(to, byte(n)|0x80)
	}
	return append(to, byte(n))
}
