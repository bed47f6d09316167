package httpcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gripway/gripway/guest"
	"github.com/gripway/gripway/guest/cache"
)

// Override is what a guest says about a request instead of the response.
type Override struct {
	Pass                 bool           // it does not go through the cache
	TTL                  *time.Duration // for how long it is fresh
	StaleWhileRevalidate *time.Duration
	SurrogateKeys        string // in addition to those of the response
	Sensitive            bool
	LookupTimeout        *time.Duration  // for how long it waits for a response that another one asked for
	Key                  *[KeyBytes]byte // what its response is found by; nil: KeyOf
}

// key is what the response to a request is found by.
func (o *Override) key(r *http.Request) []byte {
	if o.Key != nil {
		return AppendKey(nil, *o.Key)
	}
	return AppendKey(nil, KeyOf(r))
}

// keep is Freshness with an override.
func (o *Override) keep(head *Head) cache.Keep {
	keep := Freshness(head)
	if o.TTL != nil {
		keep.MaxAge = *o.TTL
	}
	if o.StaleWhileRevalidate != nil {
		keep.StaleWhileRevalidate = *o.StaleWhileRevalidate
	}
	if o.SurrogateKeys != "" {
		keep.SurrogateKeys = mergeKeys(keep.SurrogateKeys, cache.SurrogateKeys(o.SurrogateKeys))
	}
	keep.Sensitive = o.Sensitive
	return keep
}

// wait waits for what a lookup comes to.
func (o *Override) wait(ctx context.Context, x *cache.Transaction) error {
	if o.LookupTimeout == nil || x.Ready() {
		return x.Wait(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, *o.LookupTimeout)
	defer cancel()
	if err := x.Wait(ctx); err != nil {
		return fmt.Errorf("waiting for the response to another request: %w", err)
	}
	return nil
}

func mergeKeys(a, b []string) []string {
	have := make(map[string]bool, len(a))
	for _, key := range a {
		have[key] = true
	}
	for _, key := range b {
		if !have[key] && len(a) < cache.SurrogateKeysMax {
			a = append(a, key)
		}
	}
	return a
}

// loneMax is for how long a body is fetched to its end though nobody reads it.
const loneMax = 30 * time.Second

// revalidationsMax bounds the requests that go on in the background because something
// stale was served meanwhile. If there are as many, what is stale is served on.
const revalidationsMax = 64

// Fetcher lets requests pass through a cache. It may be used concurrently.
type Fetcher struct {
	// Fixed.
	space  cache.Space
	log    *slog.Logger
	ctx    context.Context // ends all that it does in the background
	cancel context.CancelFunc
	slots  chan struct{} // one for each revalidation

	// Guarded by mu.
	mu     sync.Mutex
	closed bool
	going  sync.WaitGroup // all that goes on in the background
}

// NewFetcher makes a Fetcher. A nil log is silent.
func NewFetcher(space cache.Space, log *slog.Logger) *Fetcher {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	f := &Fetcher{space: space, log: log, slots: make(chan struct{}, revalidationsMax)}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

// Space is what it fills.
func (f *Fetcher) Space() cache.Space { return f.space }

// Close breaks off what goes on in the background, and waits for its end. Requests
// then no longer pass through the cache.
func (f *Fetcher) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.cancel()
	f.going.Wait()
}

// background runs something until it is done, or Close. False: it has been closed.
func (f *Fetcher) background(do func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.going.Go(do)
	return true
}

// Send makes a request. It may be called after Fetch has returned, in the background;
// its context is the request's.
type Send func(*http.Request) (*http.Response, error)

// keyKind sets keys of HTTP apart from others of the space.
const keyKind = 'h'

// AppendKey appends what an entry for HTTP is found by in a space.
func AppendKey(to []byte, key [KeyBytes]byte) []byte { return append(append(to, keyKind), key[:]...) }

// Fetch answers a request from the cache, or has it sent and stores the response if
// it may be. Of many that want the same, one is sent. The request must not change
// until the response's body is closed, nor may its header after that.
func (f *Fetcher) Fetch(ctx context.Context, r *http.Request, o Override, send Send) (*http.Response, error) {
	if o.Pass || !Cacheable(r.Method) || r.Header.Get("Upgrade") != "" || r.Body != nil && r.Body != http.NoBody {
		return f.pass(ctx, r, o, send)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	cause := guest.CauseOf(ctx)
	x, err := f.space.Begin(o.key(r), cache.LookupOptions{Request: r.Header, Owner: cause})
	if err != nil {
		return nil, err
	}
	if cause != nil && !x.Ready() && x.LedBy(func(owner any) bool { return LedFor(owner, cause) }) {
		x.GoAhead() // the leader's response is to be made of this one
	}
	if err := o.wait(ctx, x); err != nil {
		x.Close()
		return nil, err
	}
	switch state := x.State(); {
	case state&cache.Found != 0:
		response, err := deliver(ctx, r, x.Found(), true)
		if state&cache.MustInsert == 0 || !f.revalidate(x, r, o, send) {
			x.Close()
		}
		return response, err
	case state&cache.MustInsert != 0:
		defer x.Close()
		return f.lead(ctx, x, r, o, send)
	case x.Err() != nil:
		err := x.Err()
		x.Close()
		return nil, err
	}
	x.Close()
	return f.pass(ctx, r, o, send)
}

// LedFor says whether a transaction's owner cannot provide what it is to before the
// client's request is answered, which has come back of the owner's to the same gateway.
// Owners are those of Fetch, and what has a LoopID.
func LedFor(owner any, client *http.Request) bool {
	switch leader := owner.(type) {
	case *http.Request:
		return leader != nil && guest.Behind(client, guest.LoopID(leader))
	case interface{ LoopID() uint64 }:
		return guest.Behind(client, leader.LoopID())
	}
	return false
}

// pass sends a request as it is. What it changes at the origin is no longer good here
// (RFC 9111, 4.4).
func (f *Fetcher) pass(ctx context.Context, r *http.Request, o Override, send Send) (*http.Response, error) {
	response, err := send(r.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
	default:
		if response.StatusCode >= 200 && response.StatusCode < 400 {
			f.space.Invalidate(o.key(r))
		}
	}
	if !o.Pass {
		mark(r, response.Header, 0)
	}
	return response, nil
}

// mark says where a response is from, as Fastly's SDKs do, and takes away what is
// for caches, unless somebody debugs.
func mark(r *http.Request, h http.Header, hits uint64) {
	what := "MISS"
	if hits > 0 {
		what = "HIT"
	}
	h["X-Cache"] = []string{what}
	h["X-Cache-Hits"] = []string{strconv.FormatUint(hits, 10)}
	if r.Header.Get("Fastly-Ff") == "" && r.Header.Get("Fastly-Debug") == "" {
		delete(h, "Surrogate-Key")
		delete(h, "Surrogate-Control")
	}
}

// deliver makes a response of an object.
// The body ends with ctx, at the latest.
func deliver(ctx context.Context, r *http.Request, hit *cache.Hit, stored bool) (*http.Response, error) {
	d := Deliver(r.Method, r.Header, hit)
	hits := uint64(0)
	if stored {
		hits = hit.Hits()
	}
	mark(r, d.Header, hits)
	response := &http.Response{
		Status:     strconv.Itoa(d.Status) + " " + http.StatusText(d.Status),
		StatusCode: d.Status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: d.Header, ContentLength: -1, Body: http.NoBody, Request: r,
	}
	if n, ok := contentLength(d.Header); ok {
		response.ContentLength = n
	}
	if d.Empty {
		return response, nil
	}
	reader, err := hit.Open(d.Range, false)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, reader.Stop)
	response.Body = &storedBody{reader, stop}
	return response, nil
}

// lead fetches for all who want the same.
func (f *Fetcher) lead(ctx context.Context, x *cache.Transaction, r *http.Request, o Override, send Send) (*http.Response, error) {
	response, hit, err := f.fetch(ctx, x, r, o, send)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx) // who asked has gone: the next one leads
	}
	if staleIfError(response, err) && x.State()&cache.UsableIfError != 0 {
		if chosen := x.ChooseStale(); chosen == nil {
			if response != nil {
				response.Body.Close()
			}
			f.log.Debug("stale served for an error", "url", r.URL.String(), "error", err)
			return deliver(ctx, r, x.Found(), true)
		}
	}
	switch {
	case err != nil:
		x.Release(err)
		return nil, err
	case hit != nil:
		defer hit.Close()
		return deliver(ctx, r, hit, false)
	}
	x.Release(nil)
	mark(r, response.Header, 0)
	return response, nil
}

// staleIfError says whether what came is an error of those that RFC 5861 names.
func staleIfError(response *http.Response, err error) bool {
	if err != nil {
		return true
	}
	switch {
	case response == nil:
		return false
	case response.StatusCode == 500, response.StatusCode == 502, response.StatusCode == 503, response.StatusCode == 504:
		return true
	}
	return false
}

// revalidate freshens what is stale, in the background. The transaction is its own
// then; false: it could not be begun.
func (f *Fetcher) revalidate(x *cache.Transaction, r *http.Request, o Override, send Send) bool {
	select {
	case f.slots <- struct{}{}:
	default:
		return false
	}
	r = r.Clone(f.ctx) // nothing of whoever asked goes on
	begun := f.background(func() {
		defer func() { <-f.slots }()
		defer x.Close()
		response, hit, err := f.fetch(f.ctx, x, r, o, send)
		switch {
		case err != nil:
			f.log.Debug("not revalidated", "url", r.URL.String(), "error", err)
		case hit != nil:
			hit.Close()
		default:
			response.Body.Close()
		}
	})
	if !begun {
		<-f.slots
	}
	return begun
}

// fetch has the request sent and stores what comes, if it may be: a Hit. Otherwise it
// returns the response as it came, and the obligation is as it was, unless the response
// says that the next one will not be stored either.
func (f *Fetcher) fetch(ctx context.Context, x *cache.Transaction, r *http.Request, o Override, send Send) (*http.Response, *cache.Hit, error) {
	stale := HeadOf(x.Stale())
	out := *r
	out.Method, out.Header = BackendRequest(r.Method, r.Header, stale)
	// The body goes on to be fetched when whoever asked is gone.
	fetching, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	stop := context.AfterFunc(ctx, cancel)
	response, err := send(out.WithContext(fetching))
	if err != nil {
		stop()
		cancel()
		return nil, nil, err
	}
	action, head := Prepare(r.Header, &Head{response.StatusCode, response.Header}, stale)
	if action == Insert && response.Uncompressed {
		action = DoNotStore // it is not what the header says
	}
	keep := o.keep(head)
	switch action {
	case Update:
		response.Body.Close()
		stop()
		cancel()
		keep.HasLength = false // of the body that is stored
		hit, err := x.Update(keep)
		return nil, hit, err
	case Insert:
		if keep.HasLength = response.ContentLength >= 0; keep.HasLength {
			keep.Length = response.ContentLength
		}
		if keep.Length > f.space.Cache().Options().ObjectBytes {
			x.Pass(keep) // it would not be kept
			break
		}
		w, hit, err := x.InsertAndRead(keep)
		if err != nil {
			response.Body.Close()
			stop()
			cancel()
			return nil, nil, err
		}
		stop()
		stopAll := context.AfterFunc(f.ctx, cancel)
		if !f.background(func() {
			defer cancel()
			defer stopAll()
			f.fill(w, response)
		}) {
			stopAll()
			w.Abort()
			response.Body.Close()
			cancel()
		}
		return nil, hit, nil
	case RecordUncacheable:
		x.Pass(keep)
	}
	response.Body = &endedBody{response.Body, func() { stop(); cancel() }}
	if r.Method == http.MethodHead { // which became a GET
		response.Body.Close()
		response.Body = http.NoBody
	}
	return response, nil, nil
}

// fill writes a response's body to the cache.
func (f *Fetcher) fill(w *cache.Writer, response *http.Response) {
	defer response.Body.Close()
	_, err := w.ReadFrom(&attended{response.Body, w})
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		w.Abort()
		f.log.Debug("a body was broken off", "error", err)
	}
}

// errLone ends what is fetched for nobody.
var errLone = errors.New("httpcache: nobody reads it, and it takes long")

// attended reads as long as somebody is interested.
type attended struct {
	from io.Reader
	to   *cache.Writer
}

func (a *attended) Read(p []byte) (int, error) {
	if a.to.Lone() > loneMax {
		return 0, errLone
	}
	return a.from.Read(p)
}

// storedBody reads what is stored, until the request's context ends.
type storedBody struct {
	*cache.Reader
	stop func() bool
}

func (b *storedBody) Close() error {
	b.stop()
	return b.Reader.Close()
}

// endedBody lets go of the request's context with the body.
type endedBody struct {
	io.ReadCloser
	end func()
}

func (b *endedBody) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}

// Clone is a header that can be changed without changing h.
func (h *Head) Clone() *Head { return &Head{h.Status, maps.Clone(h.Header)} }
