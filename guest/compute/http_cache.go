package compute

import (
	"encoding/binary"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gripway/gripway/guest"
	"github.com/gripway/gripway/guest/cache"
	"github.com/gripway/gripway/guest/cache/httpcache"
)

// A guest that drives the cache of HTTP itself asks is_request_cacheable first. Once
// that does not answer that it is unsupported, the SDKs go on with all the others:
// there are all of these, or none (Service.HTTPCache is nil).
var httpCacheCalls = map[string]hostcall{
	"is_request_cacheable":                ifHTTPCache(httpCacheIsCacheable),
	"get_suggested_cache_key":             ifHTTPCache(httpCacheKey),
	"lookup":                              ifHTTPCache(httpCacheLookup),
	"transaction_lookup":                  ifHTTPCache(httpCacheTransactionLookup),
	"transaction_insert":                  ifHTTPCache(httpCacheInsert),
	"transaction_insert_and_stream_back":  ifHTTPCache(httpCacheInsertAndStreamBack),
	"transaction_update":                  ifHTTPCache(httpCacheUpdate),
	"transaction_update_and_return_fresh": ifHTTPCache(httpCacheUpdateAndReturnFresh),
	"transaction_choose_stale":            ifHTTPCache(httpCacheChooseStale),
	"transaction_record_not_cacheable":    ifHTTPCache(httpCacheRecordNotCacheable),
	"transaction_abandon":                 ifHTTPCache(httpCacheAbandon),
	"close":                               ifHTTPCache(func(c *call) status { return c.closeEntry(httpEntry) }),
	"get_suggested_backend_request":       ifHTTPCache(httpCacheBackendRequest),
	"get_suggested_cache_options":         ifHTTPCache(httpCacheSuggestedOptions),
	"prepare_response_for_storage":        ifHTTPCache(httpCachePrepare),
	"get_found_response":                  ifHTTPCache(httpCacheFoundResponse),

	"get_state":                     ofHTTPEntry((*call).entryState),
	"get_length":                    ofHTTPHit((*call).hitLength),
	"get_max_age_ns":                ofHTTPHit((*call).hitMaxAge),
	"get_stale_while_revalidate_ns": ofHTTPHit((*call).hitStaleWhileRevalidate),
	"get_stale_if_error_ns": ofHTTPHit(func(c *call, hit *cache.Hit) status {
		return c.put64(1, uint64(hit.Keep().StaleIfError))
	}),
	"get_age_ns": ofHTTPHit((*call).hitAge),
	"get_hits":   ofHTTPHit((*call).hitHits),
	"get_sensitive_data": ofHTTPHit(func(c *call, hit *cache.Hit) status {
		if hit.Keep().Sensitive {
			return c.put32(1, 1)
		}
		return c.put32(1, 0)
	}),
	"get_surrogate_keys": ofHTTPHit(func(c *call, hit *cache.Hit) status {
		return c.fillText(1, strings.Join(hit.Keep().SurrogateKeys, " "))
	}),
	"get_vary_rule": ofHTTPHit(func(c *call, hit *cache.Hit) status {
		return c.fillText(1, varyText(hit.Keep()))
	}),
}

// ifHTTPCache is a hostcall that there is where the cache of HTTP is used.
func ifHTTPCache(do hostcall) hostcall {
	return func(c *call) status {
		if c.service.HTTPCache == nil {
			return statusUnsupported
		}
		return do(c)
	}
}

func ofHTTPEntry(do func(*call, *cacheEntry) status) hostcall {
	return ifHTTPCache(func(c *call) status { return c.onEntry(httpEntry, do) })
}

func ofHTTPHit(do func(*call, *cache.Hit) status) hostcall {
	return ifHTTPCache(func(c *call) status { return c.onHit(httpEntry, do) })
}

// fetch gets the answer to a request from a backend, or from a cache in front of it:
// override is what the guest says about that, nil if the guest manages caching
// itself and wants none. It is called by a goroutine of its own; body is the
// request's.
func (b *sandbox) fetch(r *http.Request, backend guest.Backend, cached bool, override *cacheOverride) (*http.Response, error) {
	own, isOwn := ownKey(r.Header[keyHeader])
	delete(r.Header, keyHeader)
	through := b.service.HTTPCache
	if through == nil || !cached {
		return backend.RoundTrip(r)
	}
	o := override.of()
	if isOwn {
		o.Key = &own
	}
	return through.Fetch(r.Context(), r, o, backend.RoundTrip)
}

// keyHeader is where SDKs say what the answer to a request is to be found by, as 64
// digits. It is no header of the request: nobody else may say or see it.
const (
	keyHeader = "Fastly-Xqd-Cache-Key"
	keyField  = "fastly-xqd-cache-key"
)

// ownKey is what the header says; anything else than a key is not heeded.
func ownKey(values []string) (key [httpcache.KeyBytes]byte, ok bool) {
	if len(values) != 1 || len(values[0]) != 2*len(key) {
		return key, false
	}
	_, err := hex.Decode(key[:], []byte(values[0]))
	return key, err == nil
}

// of is what a guest says, for the cache.
func (o *cacheOverride) of() (to httpcache.Override) {
	if o == nil {
		return to
	}
	to = httpcache.Override{Pass: o.Pass, SurrogateKeys: o.SurrogateKey, Sensitive: o.PCI}
	if o.HasTTL {
		ttl := time.Duration(o.TTL) * time.Second
		to.TTL = &ttl
	}
	if o.HasStale {
		stale := time.Duration(o.StaleWhileRevalidate) * time.Second
		to.StaleWhileRevalidate = &stale
	}
	if o.HasLookupTimeout {
		wait := time.Duration(o.LookupTimeout) * time.Millisecond
		to.LookupTimeout = &wait
	}
	return to
}

func httpCacheIsCacheable(c *call) status {
	r, st := c.requestOf(0)
	switch {
	case st != statusOK:
		return st
	case httpcache.Cacheable(r.method):
		return c.put32(1, 1)
	}
	return c.put32(1, 0)
}

// cacheKey is what the answer to a request is found by, unless the guest says
// something else.
func (r *request) cacheKey() ([httpcache.KeyBytes]byte, status) {
	if at := r.header.find(keyField); at >= 0 {
		if own, ok := ownKey(r.header.fields[at].values); ok {
			return own, statusOK
		}
	}
	u, ok := parseURI(r.uri)
	if !ok {
		return [httpcache.KeyBytes]byte{}, statusInvalid
	}
	host, ok := r.header.get("host")
	if !ok {
		host = u.authority
	}
	return httpcache.Key(host, u.path), statusOK
}

func httpCacheKey(c *call) status {
	r, st := c.requestOf(0)
	if st != statusOK {
		return st
	}
	key, st := r.cacheKey()
	if st != statusOK {
		return st
	}
	return c.fill(1, key[:])
}

// Bits of the options of a lookup, and the size of their record.
const (
	httpLookupKey     = 1 << 1
	httpLookupBackend = 1 << 2

	httpLookupBytes = 16
)

// httpLookup is the request that parameter 0 is a handle of, as it is now, and what it
// is looked up by: the options are parameters 1 and 2.
func (c *call) httpLookup() (r *request, hash [httpcache.KeyBytes]byte, st status) {
	asked, st := c.requestOf(0)
	if st != statusOK {
		return nil, hash, st
	}
	mask := c.u32(1)
	if mask&^1&^(httpLookupKey|httpLookupBackend) != 0 {
		return nil, hash, statusUnsupported
	}
	if !c.holdHead(asked.header.memory()) {
		return nil, hash, statusLimit
	}
	copied := *asked
	copied.header = asked.header.clone()
	if mask&httpLookupKey != 0 {
		record, st := c.record(2, httpLookupBytes, 4)
		if st != statusOK {
			return nil, hash, st
		}
		own, st := c.field(record, 0)
		switch {
		case st != statusOK:
			return nil, hash, st
		case len(own) != httpcache.KeyBytes:
			return nil, hash, statusInvalid
		}
		copy(hash[:], own)
	} else if hash, st = asked.cacheKey(); st != statusOK {
		return nil, hash, st
	}
	return &copied, hash, statusOK
}

func httpCacheLookup(c *call) status {
	r, hash, st := c.httpLookup()
	if st != statusOK {
		return st
	}
	hit, err := c.service.HTTPCache.Space().Lookup(httpcache.AppendKey(nil, hash), cache.LookupOptions{Request: &varied{r.header}})
	if err != nil {
		return statusOfCache(err)
	}
	return c.addEntry(3, &cacheEntry{kind: httpEntry, hit: hit, request: r, hash: hash})
}

// httpCacheTransactionLookup does not wait: whatever is asked about the handle does.
func httpCacheTransactionLookup(c *call) status {
	r, hash, st := c.httpLookup()
	if st != statusOK {
		return st
	}
	// Insist: SDKs whose lookup finds neither a response nor an obligation send the
	// request without the program's hooks, and what those add would be missing.
	t, err := c.service.HTTPCache.Space().Begin(httpcache.AppendKey(nil, hash), cache.LookupOptions{
		Request: &varied{r.header}, Notify: c.signal, Owner: c.sandbox, Insist: true,
	})
	if err != nil {
		return statusOfCache(err)
	}
	return c.addEntry(3, &cacheEntry{kind: httpEntry, transaction: t, request: r, hash: hash})
}

// Bits of the options of a write, and the size of their record.
const (
	httpWriteVary         = 1 << 1
	httpWriteAge          = 1 << 2
	httpWriteStale        = 1 << 3
	httpWriteKeys         = 1 << 4
	httpWriteLength       = 1 << 5
	httpWriteSensitive    = 1 << 6
	httpWriteStaleIfError = 1 << 7

	httpWriteBytes = 56
)

// httpWriteSize is the size of the record that belongs to a mask. The last field came
// later than the others: of SDKs that do not know it, what stands there is not part of
// the record.
func httpWriteSize(mask uint32) uint32 {
	if mask&httpWriteStaleIfError == 0 {
		return httpWriteBytes - 8
	}
	return httpWriteBytes
}

// httpWriteOptions reads the mask that parameter i is and the record that i+1 is.
// Surrogate keys that are none are left out, as they are in headers.
func (c *call) httpWriteOptions(i int) (keep cache.Keep, st status) {
	mask := c.u32(i)
	record, st := c.record(i+1, httpWriteSize(mask), 8)
	switch {
	case st != statusOK:
		return keep, st
	case mask&^(httpWriteStaleIfError<<1-1) != 0:
		return keep, statusUnsupported
	}
	keep.MaxAge = nanoseconds(record)
	if mask&httpWriteVary != 0 {
		if keep.Vary, keep.VaryText, st = c.varyRule(record, 8); st != statusOK {
			return keep, st
		}
	}
	if mask&httpWriteAge != 0 {
		keep.InitialAge = nanoseconds(record[16:])
	}
	if mask&httpWriteStale != 0 {
		keep.StaleWhileRevalidate = nanoseconds(record[24:])
	}
	if mask&httpWriteKeys != 0 {
		keys, st := c.field(record, 32)
		if st != statusOK {
			return keep, st
		}
		keep.SurrogateKeys = cache.SurrogateKeys(string(keys))
	}
	if mask&httpWriteLength != 0 {
		length := binary.LittleEndian.Uint64(record[40:])
		if length > 1<<62 {
			return keep, statusInvalid
		}
		keep.Length, keep.HasLength = int64(length), true
	}
	keep.Sensitive = mask&httpWriteSensitive != 0
	if mask&httpWriteStaleIfError != 0 {
		keep.StaleIfError = nanoseconds(record[48:])
	}
	return keep, statusOK
}

// httpWrite is what a write begins with: the entry that parameter 0 is a handle of,
// and how the response is kept that parameter 1 is one of. That should be used up, and
// is not: the JavaScript SDK looks at it again when it changes the body. The options
// are parameters 2 and 3.
func (c *call) httpWrite() (*cacheEntry, cache.Keep, status) {
	e, st := c.obligedOf(httpEntry)
	if st != statusOK {
		return nil, cache.Keep{}, st
	}
	keep, st := c.httpWriteOptions(2)
	if st != statusOK {
		return nil, cache.Keep{}, st
	}
	r, st := c.responses.get(c.u32(1))
	if st != statusOK {
		return nil, cache.Keep{}, st
	}
	head := r.head()
	keep.Value, keep.ValueBytes = head, head.Bytes()
	return e, keep, statusOK
}

// head is the response for the cache.
func (r *response) head() *httpcache.Head {
	return &httpcache.Head{Status: r.status, Header: r.header.http()}
}

func httpCacheInsert(c *call) status {
	e, keep, st := c.httpWrite()
	if st != statusOK {
		return st
	}
	w, err := e.transaction.Insert(keep)
	if err != nil {
		return statusOfCache(err)
	}
	return c.insertBody(4, w)
}

func httpCacheInsertAndStreamBack(c *call) status {
	e, keep, st := c.httpWrite()
	if st != statusOK {
		return st
	}
	w, hit, err := e.transaction.InsertAndRead(keep)
	if err != nil {
		return statusOfCache(err)
	}
	if st := c.insertBody(4, w); st != statusOK {
		hit.Close()
		return st
	}
	return c.addEntry(5, &cacheEntry{kind: httpEntry, hit: hit, request: e.request, hash: e.hash})
}

// httpUpdate freshens what is stored.
func (c *call) httpUpdate() (*cacheEntry, *cache.Hit, status) {
	e, keep, st := c.httpWrite()
	if st != statusOK {
		return nil, nil, st
	}
	keep.HasLength = false // the body is the one that is stored
	hit, err := e.transaction.Update(keep)
	return e, hit, statusOfCache(err)
}

func httpCacheUpdate(c *call) status {
	_, hit, st := c.httpUpdate()
	if st == statusOK {
		hit.Close()
	}
	return st
}

func httpCacheUpdateAndReturnFresh(c *call) status {
	e, hit, st := c.httpUpdate()
	if st != statusOK {
		return st
	}
	return c.addEntry(4, &cacheEntry{kind: httpEntry, hit: hit, request: e.request, hash: e.hash})
}

func httpCacheChooseStale(c *call) status {
	e, st := c.obligedOf(httpEntry)
	if st != statusOK {
		return st
	}
	return statusOfCache(e.transaction.ChooseStale())
}

func httpCacheRecordNotCacheable(c *call) status {
	e, st := c.obligedOf(httpEntry)
	if st != statusOK {
		return st
	}
	keep, st := c.httpWriteOptions(1)
	if st != statusOK {
		return st
	}
	return statusOfCache(e.transaction.Pass(keep))
}

func httpCacheAbandon(c *call) status {
	e, st := c.obligedOf(httpEntry)
	if st != statusOK {
		return st
	}
	return statusOfCache(e.transaction.Cancel())
}

// staleHead is the response that is stored and might be freshened, or nil.
func (e *cacheEntry) staleHead() *httpcache.Head {
	if e.transaction == nil {
		return nil
	}
	return httpcache.HeadOf(e.transaction.Stale())
}

// httpCacheBackendRequest makes the request to send for what was looked up.
func httpCacheBackendRequest(c *call) status {
	e, st := c.entryOf(httpEntry)
	if st != statusOK {
		return st
	}
	r := *e.request
	method, wanted := httpcache.BackendRequest(r.method, r.header.http(), e.staleHead())
	r.method, r.header = method, e.request.header.clone()
	r.header.become(wanted)
	if !c.holdHead(r.header.memory()) {
		return statusLimit
	}
	h, st := c.requests.add(&r)
	if st != statusOK {
		return st
	}
	return c.put32(1, h)
}

// become makes a header say what another does. What stays keeps its place.
func (h *header) become(wanted http.Header) {
	for _, f := range slices.Clone(h.fields) {
		if len(wanted[http.CanonicalHeaderKey(f.name)]) == 0 {
			h.remove(f.name)
		}
	}
	as := headerOf(wanted, nil)
	for _, f := range as.fields {
		h.set(f.name, f.values...)
	}
}

// httpCachePrepare says what should become of a response, and makes another one of it:
// what should be stored. The first stays the guest's; the Rust SDK closes it.
func httpCachePrepare(c *call) status {
	e, st := c.entryOf(httpEntry)
	if st != statusOK {
		return st
	}
	r, st := c.responses.get(c.u32(1))
	if st != statusOK {
		return st
	}
	action, head := httpcache.Prepare(e.request.header.http(), r.head(), e.staleHead())
	prepared := *r
	prepared.status, prepared.header = head.Status, r.header.clone()
	prepared.header.become(head.Header)
	if !c.holdHead(prepared.header.memory()) {
		return statusLimit
	}
	h, st := c.responses.add(&prepared)
	if st != statusOK {
		return st
	}
	if st := c.put32(2, uint32(action)); st != statusOK {
		return st
	}
	return c.put32(3, h)
}

// httpCacheFoundResponse gives the guest what was found: as it is stored, or as the
// client wants it.
func httpCacheFoundResponse(c *call) status {
	e, st := c.entryOf(httpEntry)
	if st != statusOK {
		return st
	}
	hit := e.found()
	if hit == nil {
		return statusNone
	}
	stored := httpcache.HeadOf(hit.Keep())
	if stored == nil {
		return statusNone // a key of another kind can not be found here
	}
	d := httpcache.Delivery{Head: *stored, Range: cache.All}
	if c.u32(1) != 0 {
		d = httpcache.Deliver(e.request.method, e.request.header.http(), hit)
	}
	b := &body{}
	if !d.Empty {
		if b, st = openHit(hit, d.Range, false); st != statusOK {
			return st
		}
	}
	return c.addResponse(2, &response{status: d.Status, version: http11, header: headerOf(d.Header, nil)}, b)
}

// httpCacheSuggestedOptions says how a response is to be kept. The guest asks for what
// its mask names; lists go to the buffers that its record names. If one is too short,
// its length becomes the one it needs.
func httpCacheSuggestedOptions(c *call) status {
	e, st := c.entryOf(httpEntry)
	if st != statusOK {
		return st
	}
	r, st := c.responses.get(c.u32(1))
	if st != statusOK {
		return st
	}
	mask := c.u32(2)
	if mask&^(httpWriteStaleIfError<<1-1) != 0 {
		return statusUnsupported
	}
	in, st := c.record(3, httpWriteSize(mask), 8)
	if st != statusOK {
		return st
	}
	out, st := c.record(5, httpWriteSize(mask), 8)
	if st != statusOK {
		return st
	}
	keep := httpcache.Freshness(r.head())
	keys := append([]string{httpcache.SurrogateKey(e.hash)}, keep.SurrogateKeys...) // by which the one response can be purged
	var record [httpWriteBytes]byte
	binary.LittleEndian.PutUint64(record[0:], uint64(keep.MaxAge))
	given, short := uint32(0), false
	list := func(bit uint32, at int, text string) status {
		if mask&bit == 0 {
			return statusOK
		}
		copy(record[at:at+4], in[at:]) // the address is the guest's
		binary.LittleEndian.PutUint32(record[at+4:], uint32(len(text)))
		if text == "" {
			return statusOK
		}
		given |= bit
		if uint64(len(text)) > uint64(binary.LittleEndian.Uint32(in[at+4:])) {
			short = true
			return statusOK
		}
		into, st := c.at(binary.LittleEndian.Uint32(in[at:]), uint32(len(text)))
		copy(into, text)
		return st
	}
	number := func(bit uint32, at int, n uint64) {
		if mask&bit != 0 {
			given |= bit
			binary.LittleEndian.PutUint64(record[at:], n)
		}
	}
	if st := list(httpWriteVary, 8, varyText(&keep)); st != statusOK {
		return st
	}
	if st := list(httpWriteKeys, 32, strings.Join(keys, " ")); st != statusOK {
		return st
	}
	number(httpWriteAge, 16, uint64(keep.InitialAge))
	number(httpWriteStale, 24, uint64(keep.StaleWhileRevalidate))
	number(httpWriteStaleIfError, 48, uint64(keep.StaleIfError))
	if keep.HasLength {
		number(httpWriteLength, 40, uint64(keep.Length))
	}
	copy(out, record[:])
	if st := c.put32(4, given); st != statusOK {
		return st
	}
	if short {
		return statusBufferLen
	}
	return statusOK
}
