// Package httpcache has the rules of HTTP for a cache of guests (package cache): what
// may be stored and for how long (RFC 9111, RFC 5861), how it is revalidated, and how
// it is delivered. It does what Fastly documents where that says more than the RFCs,
// and is both a set of functions, for guests that drive the cache themselves, and a
// Fetcher, for requests that pass through it.
//
// # Where Fastly departs from RFC 9111, we do
//
// Only the statuses 200, 203, 300, 301, 302, 404 and 410 are stored. What says
// nothing about its freshness is fresh for two minutes. Surrogate-Control comes before
// Cache-Control, and lets be stored what Cache-Control: no-store keeps from browsers.
// What sets a cookie is not stored. Directives of requests are not obeyed: a client
// cannot make a shared cache ask the origin.
//
// # What is not done
//
// Parts are not stored: a request for a range fetches all, and gets its part from
// what is stored. Of several ranges in one request all is answered. A Range is served as
// a part only if the length is known; otherwise all is.
package httpcache
