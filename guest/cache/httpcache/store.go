package httpcache

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/gripway/gripway/guest/cache"
)

// Action is what becomes of a response. The numbers are those of Fastly's interface.
type Action uint32

// What may become of it.
const (
	Insert            Action = 0
	Update            Action = 1 // it freshens what is stored
	DoNotStore        Action = 2
	RecordUncacheable Action = 3 // and tell the others that the next one will not be either
)

// Cacheable says whether the answer to a request may come from a cache.
func Cacheable(method string) bool { return method == http.MethodGet || method == http.MethodHead }

// KeyBytes is the length of a key.
const KeyBytes = sha256.Size

// Key is what the answer to a request is found by: host, path and query. The method
// is not part of it, nor the backend, as at Fastly.
func Key(host, pathAndQuery string) [KeyBytes]byte {
	return sha256.Sum256([]byte(strings.ToLower(host) + "\x00" + pathAndQuery))
}

// SurrogateKey is what a response can be purged by that has no surrogate key of its
// own: one of its key, as Fastly's has.
func SurrogateKey(key [KeyBytes]byte) string { return fmt.Sprintf("%X", key) }

// KeyOf is Key of a request.
func KeyOf(r *http.Request) [KeyBytes]byte {
	host, path := r.Host, r.RequestURI
	if host == "" {
		host = r.URL.Host
	}
	if !strings.HasPrefix(path, "/") { // as it was written, if that is known
		path = r.URL.RequestURI()
	}
	return Key(host, path)
}

// conditional are the headers that ask for a part, or for nothing if nothing changed.
// They are for the client; what is stored is the whole.
var conditional = []string{"If-None-Match", "If-Modified-Since", "If-Range", "Range"}

// BackendRequest makes the request to fetch with of the one that was looked up: for
// all of the body, and if there is something stale, for a 304 if that is still good.
// The method becomes GET: what is stored serves HEAD too. Only method and header are new.
func BackendRequest(method string, header http.Header, stale *Head) (string, http.Header) {
	h := maps.Clone(header)
	for _, name := range conditional {
		delete(h, name)
	}
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if stale != nil {
		if tag := stale.Header.Get("Etag"); tag != "" {
			h["If-None-Match"] = []string{tag}
		}
		if date := stale.Header.Get("Last-Modified"); date != "" {
			h["If-Modified-Since"] = []string{date}
		}
	}
	return method, h
}

// storable are the statuses that are stored.
var storable = map[int]bool{200: true, 203: true, 300: true, 301: true, 302: true, 404: true, 410: true}

// Prepare says what should become of a response, and returns it as it is to be
// stored. header is that of the request, stale what is stored already, or nil. A 304
// becomes what is stored, freshened.
func Prepare(header http.Header, response, stale *Head) (Action, *Head) {
	if response.Status == http.StatusNotModified {
		if stale == nil {
			return DoNotStore, response
		}
		return Update, freshen(stale, response)
	}
	if !storable[response.Status] {
		return DoNotStore, response
	}
	h := response.Header
	p := policyOf(h)
	switch {
	case p.forbids(),
		len(h["Set-Cookie"]) > 0 && !named(p.control, "private", "set-cookie") && !named(p.control, "no-cache", "set-cookie"),
		len(header["Authorization"]) > 0 && !p.invites(),
		slices.Contains(vary(h), "*"):
		return RecordUncacheable, response
	}
	return Insert, &Head{response.Status, storedHeader(h, p.control)}
}

// named says whether a directive like private="set-cookie" names a header.
func named(d directives, directive, name string) bool {
	for listed := range strings.SplitSeq(d[directive], ",") {
		if strings.EqualFold(strings.TrimSpace(listed), name) {
			return true
		}
	}
	return false
}

// hopByHop are the headers of one connection (RFC 9110, 7.6.1; RFC 9111, 3.1).
var hopByHop = []string{
	"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authentication-Info",
	"Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// storedHeader is a header without what is not to be stored: what is of the
// connection, and what no-cache and private name.
func storedHeader(h http.Header, control directives) http.Header {
	h = maps.Clone(h)
	drop := func(list string) {
		for name := range strings.SplitSeq(list, ",") {
			if name = strings.TrimSpace(name); name != "" {
				delete(h, http.CanonicalHeaderKey(name))
			}
		}
	}
	for _, line := range h["Connection"] {
		drop(line)
	}
	drop(control["no-cache"])
	drop(control["private"])
	for _, name := range hopByHop {
		delete(h, name)
	}
	return h
}

// kept are the headers that a 304 does not change: they are about the body that is
// stored (RFC 9111, 3.2).
var kept = []string{"Content-Length", "Content-Encoding", "Content-Range", "Content-Md5", "Digest"}

// freshen is what is stored with the headers of a 304.
func freshen(stale, response *Head) *Head {
	h := maps.Clone(stale.Header)
	delete(h, "Age") // of a response that is older
	for name, values := range storedHeader(response.Header, policyOf(response.Header).control) {
		if !slices.Contains(kept, name) {
			h[name] = values
		}
	}
	return &Head{stale.Status, h}
}

// HeadOf is the head that an object is kept with; nil if there is none.
func HeadOf(keep *cache.Keep) *Head {
	if keep == nil {
		return nil
	}
	head, _ := keep.Value.(*Head)
	return head
}
