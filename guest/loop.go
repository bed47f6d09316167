package guest

import (
	"hash/maphash"
	"net/http"
	"strconv"
	"strings"
)

// This file knows requests that guests send to the gateway they run in: each such hop
// leaves a mark in CDN-Loop (RFC 8586), so that loops end, and nobody waits for whoever
// waits for it.

// loopToken is this gateway in CDN-Loop. Its parameter id is [LoopID] of the client's
// request that the hop was made for.
const loopToken = "gripway-guest"

// hopsMax bounds the marks that one hop may add: more than any gateway lets pass.
const hopsMax = 64

// marks are the gateway's own elements of CDN-Loop.
func marks(h http.Header) (found []string) {
	for _, value := range h["Cdn-Loop"] {
		for element := range strings.SplitSeq(value, ",") {
			element = strings.TrimSpace(element)
			if token, _, _ := strings.Cut(element, ";"); strings.TrimSpace(token) == loopToken {
				found = append(found, element)
			}
		}
	}
	return found
}

// Hops is how often a request has come back to the gateway of the guests that sent it.
func Hops(h http.Header) int {
	if h["Cdn-Loop"] == nil {
		return 0
	}
	return len(marks(h))
}

// CountHop marks a request that a guest sends to its own gateway. The hops of cause,
// the client's request that it does so for, count as well, since a guest may make what it
// sends anew. A nil cause is a request of nobody's.
func CountHop(h http.Header, cause *http.Request) {
	values := h["Cdn-Loop"]
	values = values[:len(values):len(values)]
	mark := loopToken
	if cause != nil {
		mark += "; id=" + strconv.FormatUint(LoopID(cause), 16)
		before := marks(cause.Header)
		if known := len(marks(h)); known < len(before) {
			values = append(values, before[known:min(len(before), known+hopsMax)]...)
		}
	}
	h["Cdn-Loop"] = append(values, mark)
}

var loopSeed = maphash.MakeSeed()

// LoopID tells client's requests apart as long as they last. It is good in this process
// only; elsewhere it is a number.
func LoopID(client *http.Request) uint64 { return maphash.Comparable(loopSeed, client) }

// Behind says whether the client's request has come back from what was done for the
// request with that id, which cannot be finished before it: who waits for that waits
// for ever.
func Behind(client *http.Request, id uint64) bool {
	if client == nil || client.Header["Cdn-Loop"] == nil {
		return false
	}
	for _, mark := range marks(client.Header) {
		_, parameter, _ := strings.Cut(mark, ";")
		if text, ok := strings.CutPrefix(strings.TrimSpace(parameter), "id="); ok {
			if n, err := strconv.ParseUint(text, 16, 64); err == nil && n == id {
				return true
			}
		}
	}
	return false
}
