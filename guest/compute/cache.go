package compute

import (
	"cmp"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/gripway/gripway/guest/cache"
	"github.com/gripway/gripway/guest/cache/httpcache"
)

var cacheCalls = map[string]hostcall{
	"lookup":                             cacheLookup,
	"insert":                             cacheInsert,
	"transaction_lookup":                 cacheTransactionLookup,
	"transaction_lookup_async":           cacheTransactionLookupAsync,
	"cache_busy_handle_wait":             cacheBusyWait,
	"transaction_insert":                 cacheTransactionInsert,
	"transaction_insert_and_stream_back": cacheTransactionInsertAndStreamBack,
	"transaction_update":                 cacheTransactionUpdate,
	"transaction_cancel":                 cacheTransactionCancel,
	"close_busy":                         cacheCloseBusy,
	"close":                              cacheClose,

	"get_state":                     func(c *call) status { return c.onEntry(coreEntry, (*call).entryState) },
	"get_user_metadata":             func(c *call) status { return c.onHit(coreEntry, (*call).hitMetadata) },
	"get_body":                      func(c *call) status { return c.onEntry(coreEntry, (*call).entryBody) },
	"get_length":                    func(c *call) status { return c.onHit(coreEntry, (*call).hitLength) },
	"get_max_age_ns":                func(c *call) status { return c.onHit(coreEntry, (*call).hitMaxAge) },
	"get_stale_while_revalidate_ns": func(c *call) status { return c.onHit(coreEntry, (*call).hitStaleWhileRevalidate) },
	"get_age_ns":                    func(c *call) status { return c.onHit(coreEntry, (*call).hitAge) },
	"get_hits":                      func(c *call) status { return c.onHit(coreEntry, (*call).hitHits) },

	"replace":                               cacheReplace,
	"replace_insert":                        cacheReplaceInsert,
	"replace_get_state":                     func(c *call) status { return c.onEntry(replaceEntry, (*call).entryState) },
	"replace_get_body":                      func(c *call) status { return c.onEntry(replaceEntry, (*call).entryBody) },
	"replace_get_hits":                      func(c *call) status { return c.onHit(replaceEntry, (*call).hitHits) },
	"replace_get_length":                    func(c *call) status { return c.onHit(replaceEntry, (*call).hitLength) },
	"replace_get_age_ns":                    func(c *call) status { return c.onHit(replaceEntry, (*call).hitAge) },
	"replace_get_max_age_ns":                func(c *call) status { return c.onHit(replaceEntry, (*call).hitMaxAge) },
	"replace_get_stale_while_revalidate_ns": func(c *call) status { return c.onHit(replaceEntry, (*call).hitStaleWhileRevalidate) },
	"replace_get_user_metadata":             func(c *call) status { return c.onHit(replaceEntry, (*call).hitMetadata) },
}

// entryKind is whose handle it is: a guest must not use one for another.
type entryKind uint8

const (
	coreEntry entryKind = iota
	replaceEntry
	httpEntry
)

// cacheEntry is what a lookup came to, or is about to.
type cacheEntry struct {
	kind        entryKind
	transaction *cache.Transaction // nil: a plain lookup, or what was written just now
	hit         *cache.Hit         // without a transaction: what is found; may be nil
	exact       bool               // ranges are to be exact

	// body is the last one that was opened: it has to be gone before the next.
	body    uint32
	hasBody bool

	// Of the HTTP cache.
	request *request // that was looked up
	hash    [httpcache.KeyBytes]byte
}

// headMemory is what its copy of a request's header takes.
func (e *cacheEntry) headMemory() int {
	switch {
	case e == nil:
		return 0
	case e.request != nil:
		return e.request.header.memory()
	case e.transaction != nil:
		if by, ok := e.transaction.Request().(*varied); ok {
			return by.header.memory()
		}
	}
	return 0
}

// ready is item.ready.
func (e *cacheEntry) ready(*sandbox) bool { return e.transaction == nil || e.transaction.Ready() }

// awaitEntry waits for a lookup. If it is the guest itself that it would wait for, which
// can do nothing meanwhile, it goes ahead: it is obliged as well.
func (b *sandbox) awaitEntry(e *cacheEntry) {
	if e.ready(b) {
		return
	}
	b.waitUntil(0, func() bool {
		if !e.ready(b) && e.transaction.LedBy(b.waitsForUs) {
			e.transaction.GoAhead()
		}
		return e.ready(b)
	})
}

// waitsForUs says whether the owner of a lookup cannot go on before the guest has: it is
// the guest itself, or one whose request to its own gateway this one is about.
func (b *sandbox) waitsForUs(owner any) bool {
	return owner == any(b) || b.current != nil && httpcache.LedFor(owner, b.current.exchange.Request)
}

// LoopID is what [guest.LoopID] is of the request that the sandbox is about. Any
// goroutine may ask.
func (b *sandbox) LoopID() uint64 { return b.loopID.Load() }

// drop is item.drop: an obligation goes to whoever waits.
func (e *cacheEntry) drop(*sandbox) {
	if e.transaction != nil {
		e.transaction.Close()
	}
	if e.hit != nil {
		e.hit.Close()
	}
}

// found is the object that may be used, or nil.
func (e *cacheEntry) found() *cache.Hit {
	if e.transaction != nil {
		return e.transaction.Found()
	}
	return e.hit
}

// state is what there is to be done.
func (e *cacheEntry) state() cache.State {
	switch {
	case e.transaction != nil:
		return e.transaction.State()
	case e.hit == nil:
		return 0
	case e.hit.Fresh():
		return cache.Found | cache.Usable
	}
	return cache.Found | cache.Usable | cache.Stale
}

// cacheBusy is a lookup that a guest has not waited for. Its entry is nil once it has.
type cacheBusy struct{ entry *cacheEntry }

func (y *cacheBusy) ready(b *sandbox) bool { return y.entry == nil || y.entry.ready(b) }

func (y *cacheBusy) drop(b *sandbox) {
	if y.entry != nil {
		y.entry.drop(b)
	}
}

// coreKind sets keys of the core cache apart from others of the space.
const coreKind = 'c'

// space is where the service's objects are.
func (s *Service) space() cache.Space {
	s.ownCache.Do(func() {
		if s.Cache == (cache.Space{}) {
			s.Cache = cache.New(cache.Options{}).Space("")
		}
	})
	return s.Cache
}

// cacheKey is the key that parameters i and i+1 are.
func (c *call) cacheKey(i int) ([]byte, status) {
	key, st := c.bytes(i)
	switch {
	case st != statusOK:
		return nil, st
	case len(key) > cache.KeyBytesMax-1:
		return nil, statusInvalid
	}
	return append([]byte{coreKind}, key...), statusOK
}

// statusOfCache is what an error of the cache is for a guest.
func statusOfCache(err error) status {
	switch {
	case err == nil:
		return statusOK
	case errors.Is(err, cache.ErrNotObliged), errors.Is(err, cache.ErrNothingToKeep):
		return statusBadHandle
	}
	return statusInvalid
}

// varied is a request's header, for Vary. It is a copy: a guest may change the
// request while the lookup lives.
type varied struct{ header header }

// Values is cache.Request.
func (v *varied) Values(name string) []string {
	if i := v.header.find(name); i >= 0 {
		return v.header.fields[i].values
	}
	return nil
}

// Bits of the options of a lookup and of a replacement, and the sizes of their
// records.
const (
	lookupRequest = 1 << 1
	lookupService = 1 << 2
	lookupExact   = 1 << 3

	replaceRequest  = 1 << 1
	replaceStrategy = 1 << 2
	replaceService  = 1 << 3
	replaceExact    = 1 << 4

	lookupBytes  = 12
	replaceBytes = 16
)

// variedBy is the header of the request whose handle is at the start of a record.
func (c *call) variedBy(record []byte) (cache.Request, status) {
	r, st := c.requestByHandle(binary.LittleEndian.Uint32(record))
	if st != statusOK {
		return nil, st
	}
	if !c.holdHead(r.header.memory()) {
		return nil, statusLimit
	}
	return &varied{r.header.clone()}, statusOK
}

// requestByHandle is requestOf of a handle that is not a parameter.
func (c *call) requestByHandle(h uint32) (*request, status) {
	if h == firstDownstream {
		c.arrived()
	}
	return c.requests.get(h)
}

// lookupOptions reads the mask that parameter i is and the record that i+1 is.
func (c *call) lookupOptions(i int) (opts cache.LookupOptions, exact bool, st status) {
	opts.Notify, opts.Owner = c.signal, c.sandbox
	mask := c.u32(i)
	switch {
	case mask&^1&^(lookupRequest|lookupService|lookupExact) != 0, mask&lookupService != 0:
		return opts, false, statusUnsupported // of another service there is nothing here
	case mask&lookupRequest != 0:
		record, st := c.record(i+1, lookupBytes, 4)
		if st != statusOK {
			return opts, false, st
		}
		if opts.Request, st = c.variedBy(record); st != statusOK {
			return opts, false, st
		}
	}
	return opts, mask&lookupExact != 0, statusOK
}

// Bits of the options of a write, and the size of their record.
const (
	writeRequest   = 1 << 1
	writeVary      = 1 << 2
	writeAge       = 1 << 3
	writeStale     = 1 << 4
	writeKeys      = 1 << 5
	writeLength    = 1 << 6
	writeMetadata  = 1 << 7
	writeSensitive = 1 << 8
	writeEdgeAge   = 1 << 9
	writeService   = 1 << 10

	writeBytes = 80
)

// metadataMax bounds what a guest keeps with an object. It counts as the object's.
const metadataMax = 1 << 20

// nanoseconds is a time that is 8 bytes of a record: longer than a duration can be
// is as long as one can be.
func nanoseconds(record []byte) time.Duration {
	return time.Duration(min(binary.LittleEndian.Uint64(record), math.MaxInt64))
}

// writeOptions reads the mask that parameter i is and the record that i+1 is. The
// request may only be given outside of a transaction.
func (c *call) writeOptions(i int, mayVary bool) (keep cache.Keep, by cache.Request, st status) {
	mask := c.u32(i)
	record, st := c.record(i+1, writeBytes, 8)
	switch {
	case st != statusOK:
		return keep, nil, st
	case mask&^(writeService<<1-1) != 0, mask&writeService != 0:
		return keep, nil, statusUnsupported
	case mask&writeRequest != 0 && !mayVary:
		return keep, nil, statusInvalid
	}
	keep.MaxAge = nanoseconds(record)
	if mask&writeRequest != 0 {
		if by, st = c.variedBy(record[8:]); st != statusOK {
			return keep, nil, st
		}
	}
	if mask&writeVary != 0 {
		if keep.Vary, _, st = c.varyRule(record, 12); st != statusOK {
			return keep, nil, st
		}
	}
	if mask&writeAge != 0 {
		keep.InitialAge = nanoseconds(record[24:])
	}
	if mask&writeStale != 0 {
		keep.StaleWhileRevalidate = nanoseconds(record[32:])
	}
	if mask&writeKeys != 0 {
		keys, st := c.field(record, 40)
		if st != statusOK {
			return keep, nil, st
		}
		keep.SurrogateKeys = strings.Fields(string(keys))
		slices.Sort(keep.SurrogateKeys)
		keep.SurrogateKeys = slices.Compact(keep.SurrogateKeys)
	}
	if mask&writeLength != 0 {
		length := binary.LittleEndian.Uint64(record[48:])
		if length > math.MaxInt64 {
			return keep, nil, statusInvalid
		}
		keep.Length, keep.HasLength = int64(length), true
	}
	if mask&writeMetadata != 0 {
		metadata, st := c.field(record, 56)
		switch {
		case st != statusOK:
			return keep, nil, st
		case len(metadata) > metadataMax:
			return keep, nil, statusLimit
		}
		keep.Value, keep.ValueBytes = append([]byte(nil), metadata...), int64(len(metadata))
	}
	keep.Sensitive = mask&writeSensitive != 0
	if mask&writeEdgeAge != 0 && nanoseconds(record[64:]) > keep.MaxAge {
		return keep, nil, statusInvalid // there is one node here: nothing else comes of it
	}
	return keep, by, statusOK
}

// varyRule reads a list of names whose address is in a record. They are divided by
// spaces; programs that hand on what they find in a header Vary have commas as well.
func (c *call) varyRule(record []byte, at int) (names []string, text string, st status) {
	list, st := c.field(record, at)
	if st != statusOK {
		return nil, "", st
	}
	text = string(list)
	for name := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }) {
		if checkName([]byte(name)) != statusOK {
			return nil, "", statusInvalid
		}
		names = append(names, lower(name))
	}
	return names, text, statusOK
}

// varyText is a list of names as whoever stored it wrote it.
func varyText(keep *cache.Keep) string {
	return cmp.Or(keep.VaryText, strings.Join(keep.Vary, " "))
}

// addEntry gives the guest a handle of an entry: it goes to parameter i.
func (c *call) addEntry(i int, e item) status {
	h, st := c.items.add(e)
	if st == statusOK {
		st = c.put32(i, h)
	} else {
		e.drop(c.sandbox)
	}
	return st
}

func cacheLookup(c *call) status {
	key, st := c.cacheKey(0)
	if st != statusOK {
		return st
	}
	opts, exact, st := c.lookupOptions(2)
	if st != statusOK {
		return st
	}
	hit, err := c.service.space().Lookup(key, opts)
	if err != nil {
		return statusOfCache(err)
	}
	return c.addEntry(4, &cacheEntry{hit: hit, exact: exact})
}

// beginTransaction begins what parameters 0 to 3 say.
func (c *call) beginTransaction() (*cacheEntry, status) {
	key, st := c.cacheKey(0)
	if st != statusOK {
		return nil, st
	}
	opts, exact, st := c.lookupOptions(2)
	if st != statusOK {
		return nil, st
	}
	t, err := c.service.space().Begin(key, opts)
	if err != nil {
		return nil, statusOfCache(err)
	}
	return &cacheEntry{transaction: t, exact: exact}, statusOK
}

func cacheTransactionLookup(c *call) status {
	e, st := c.beginTransaction()
	if st != statusOK {
		return st
	}
	// It has its handle before it waits: if the guest is stopped meanwhile, it is
	// let go with all others.
	h, st := c.items.add(e)
	if st != statusOK {
		e.drop(c.sandbox)
		return st
	}
	c.awaitEntry(e)
	return c.put32(4, h)
}

func cacheTransactionLookupAsync(c *call) status {
	e, st := c.beginTransaction()
	if st != statusOK {
		return st
	}
	return c.addEntry(4, &cacheBusy{e})
}

// cacheBusyWait waits for a lookup. Its handle stays, to be closed; what was found has
// a new one.
func cacheBusyWait(c *call) status {
	busy, st := itemOf[*cacheBusy](c.sandbox, c.u32(0))
	if st != statusOK || busy.entry == nil {
		return statusBadHandle
	}
	c.awaitEntry(busy.entry)
	e := busy.entry
	busy.entry = nil
	return c.addEntry(1, e)
}

// insertBody gives the guest the write end of an object's body: its handle goes to
// parameter i.
func (c *call) insertBody(i int, w *cache.Writer) status {
	s, r := newStream(c.sandbox, nil)
	s.stored = make(chan struct{})
	h, st := c.items.add(s)
	if st != statusOK {
		w.Abort()
		return st
	}
	// It ends with the stream, which ends with the sandbox at the latest, or once
	// what the guest appended to it has been read: that goes on without the guest.
	go func() {
		defer s.wake()
		defer close(s.stored)
		defer r.Close()
		if _, err := w.ReadFrom(r); err != nil {
			w.Abort()
			return
		}
		w.Close()
	}()
	return c.put32(i, h)
}

func cacheInsert(c *call) status {
	key, st := c.cacheKey(0)
	if st != statusOK {
		return st
	}
	keep, by, st := c.writeOptions(2, true)
	if st != statusOK {
		return st
	}
	w, err := c.service.space().Insert(key, keep, by)
	if err != nil {
		return statusOfCache(err)
	}
	return c.insertBody(4, w)
}

// entryOf is the entry that parameter 0 is a handle of. It waits for it.
func (c *call) entryOf(kind entryKind) (*cacheEntry, status) {
	e, st := itemOf[*cacheEntry](c.sandbox, c.u32(0))
	if st != statusOK || e.kind != kind {
		return nil, statusBadHandle
	}
	c.awaitEntry(e)
	return e, statusOK
}

// obligedOf is entryOf of a transaction.
func (c *call) obligedOf(kind entryKind) (*cacheEntry, status) {
	e, st := c.entryOf(kind)
	if st == statusOK && e.transaction == nil {
		return nil, statusBadHandle
	}
	return e, st
}

func cacheTransactionInsert(c *call) status {
	return c.insertInto(coreEntry)
}

func (c *call) insertInto(kind entryKind) status {
	e, st := c.obligedOf(kind)
	if st != statusOK {
		return st
	}
	keep, _, st := c.writeOptions(1, false)
	if st != statusOK {
		return st
	}
	w, err := e.transaction.Insert(keep)
	if err != nil {
		return statusOfCache(err)
	}
	return c.insertBody(3, w)
}

func cacheTransactionInsertAndStreamBack(c *call) status {
	e, st := c.obligedOf(coreEntry)
	if st != statusOK {
		return st
	}
	keep, _, st := c.writeOptions(1, false)
	if st != statusOK {
		return st
	}
	w, hit, err := e.transaction.InsertAndRead(keep)
	if err != nil {
		return statusOfCache(err)
	}
	if st := c.insertBody(3, w); st != statusOK {
		hit.Close()
		return st
	}
	return c.addEntry(4, &cacheEntry{hit: hit, exact: e.exact})
}

func cacheTransactionUpdate(c *call) status {
	e, st := c.obligedOf(coreEntry)
	if st != statusOK {
		return st
	}
	keep, _, st := c.writeOptions(1, false)
	switch {
	case st != statusOK:
		return st
	case e.found() == nil:
		return statusBadHandle
	}
	hit, err := e.transaction.Update(keep)
	if err != nil {
		return statusOfCache(err)
	}
	hit.Close()
	return statusOK
}

func cacheTransactionCancel(c *call) status {
	e, st := c.obligedOf(coreEntry)
	if st != statusOK {
		return st
	}
	return statusOfCache(e.transaction.Cancel())
}

func cacheCloseBusy(c *call) status {
	busy, st := takeItem[*cacheBusy](c.sandbox, c.u32(0))
	if st == statusOK {
		busy.drop(c.sandbox)
	}
	return st
}

// cacheClose is also for replacements: there is no other way to give one up.
func cacheClose(c *call) status { return c.closeEntry(coreEntry, replaceEntry) }

// closeEntry lets go of the entry that parameter 0 is a handle of.
func (c *call) closeEntry(kinds ...entryKind) status {
	e, st := itemOf[*cacheEntry](c.sandbox, c.u32(0))
	if st != statusOK || !slices.Contains(kinds, e.kind) {
		return statusBadHandle
	}
	c.items.remove(c.u32(0))
	e.drop(c.sandbox)
	return statusOK
}

// onEntry does something with the entry that parameter 0 is a handle of.
func (c *call) onEntry(kind entryKind, do func(*call, *cacheEntry) status) status {
	e, st := c.entryOf(kind)
	if st != statusOK {
		return st
	}
	return do(c, e)
}

// onHit does something with what was found; statusNone: nothing was.
func (c *call) onHit(kind entryKind, do func(*call, *cache.Hit) status) status {
	e, st := c.entryOf(kind)
	switch {
	case st != statusOK:
		return st
	case e.found() == nil:
		return statusNone
	}
	return do(c, e.found())
}

func (c *call) entryState(e *cacheEntry) status { return c.put32(1, uint32(e.state())) }

func (c *call) hitMetadata(hit *cache.Hit) status {
	metadata, _ := hit.Keep().Value.([]byte)
	return c.fill(1, metadata)
}

func (c *call) hitLength(hit *cache.Hit) status {
	n, ok := hit.Length()
	if !ok {
		return statusNone
	}
	return c.put64(1, uint64(n))
}

func (c *call) hitMaxAge(hit *cache.Hit) status { return c.put64(1, uint64(hit.Keep().MaxAge)) }
func (c *call) hitAge(hit *cache.Hit) status    { return c.put64(1, uint64(hit.Age())) }
func (c *call) hitHits(hit *cache.Hit) status   { return c.put64(1, hit.Hits()) }

func (c *call) hitStaleWhileRevalidate(hit *cache.Hit) status {
	return c.put64(1, uint64(hit.Keep().StaleWhileRevalidate))
}

// Bits of the options of a body, and the size of their record.
const (
	bodyFromBit = 1 << 1
	bodyToBit   = 1 << 2

	bodyOptionsBytes = 16
)

// entryBody gives the guest the body of what was found, or a part of it. The last one
// has to be closed before.
func (c *call) entryBody(e *cacheEntry) status {
	mask, part := c.u32(1), cache.All
	switch {
	case mask&^1&^(bodyFromBit|bodyToBit) != 0:
		return statusUnsupported
	case mask&(bodyFromBit|bodyToBit) != 0:
		record, st := c.record(2, bodyOptionsBytes, 8)
		if st != statusOK {
			return st
		}
		// Beyond what can be is beyond the end.
		from := int64(min(binary.LittleEndian.Uint64(record), math.MaxInt64))
		to := int64(min(binary.LittleEndian.Uint64(record[8:]), math.MaxInt64))
		switch {
		case mask&bodyFromBit == 0:
			part = cache.Range{From: -1, To: to}
		case mask&bodyToBit == 0:
			part = cache.Range{From: from, To: -1}
		default:
			part = cache.Range{From: from, To: to}
		}
	}
	hit := e.found()
	if hit == nil {
		return statusNone
	}
	if e.hasBody {
		if _, st := itemOf[*body](c.sandbox, e.body); st == statusOK {
			return statusBadHandle
		}
	}
	b, st := openHit(hit, part, e.exact)
	if st != statusOK {
		return st
	}
	h, st := c.items.add(b)
	if st != statusOK {
		b.close()
		return st
	}
	e.body, e.hasBody = h, true
	return c.put32(3, h)
}

// openHit makes a body of an object's: of its own bytes if they are complete, so that
// nothing is copied and nobody has to read.
func openHit(hit *cache.Hit, span cache.Range, exact bool) (*body, status) {
	reader, err := hit.Open(span, exact)
	if err != nil {
		return nil, statusInvalid
	}
	chunks, ok := reader.Rest()
	if !ok {
		length := int64(-1)
		if n, known := hit.Length(); known && span == cache.All {
			length = n
		}
		return bodyFrom(reader, length, nil), statusOK
	}
	reader.Close()
	return bodyOfParts(chunks), statusOK
}

// cacheReplace begins the replacement of an object.
func cacheReplace(c *call) status {
	key, st := c.cacheKey(0)
	if st != statusOK {
		return st
	}
	opts, strategy, mask := cache.LookupOptions{Notify: c.signal, Owner: c.sandbox}, cache.ReplaceImmediate, c.u32(2)
	switch {
	case mask&^1&^(replaceRequest|replaceStrategy|replaceService|replaceExact) != 0, mask&replaceService != 0:
		return statusUnsupported
	case mask&(replaceRequest|replaceStrategy) != 0:
		record, st := c.record(3, replaceBytes, 4)
		if st != statusOK {
			return st
		}
		if mask&replaceRequest != 0 {
			if opts.Request, st = c.variedBy(record); st != statusOK {
				return st
			}
		}
		if mask&replaceStrategy != 0 {
			strategy = cache.Strategy(binary.LittleEndian.Uint32(record[4:]))
		}
		if strategy < cache.ReplaceImmediate || strategy > cache.ReplaceWait {
			return statusInvalid
		}
	}
	t, err := c.service.space().Replace(key, strategy, opts)
	if err != nil {
		return statusOfCache(err)
	}
	return c.addEntry(4, &cacheEntry{kind: replaceEntry, transaction: t, exact: mask&replaceExact != 0})
}

func cacheReplaceInsert(c *call) status { return c.insertInto(replaceEntry) }
