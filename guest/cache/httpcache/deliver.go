package httpcache

import (
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gripway/gripway/guest/cache"
)

// Delivery is a response made of one that is stored.
type Delivery struct {
	Head
	Range cache.Range // of the body
	Empty bool        // no body goes with it: its length may be told nevertheless
}

// Deliver makes the response to a request of what is stored: a 304 for those who have
// it, a part for those who ask for one. Nothing stored is changed.
func Deliver(method string, request http.Header, hit *cache.Hit) Delivery {
	stored := HeadOf(hit.Keep())
	d := Delivery{Head: Head{stored.Status, maps.Clone(stored.Header)}, Range: cache.All, Empty: method == http.MethodHead}
	d.Header["Age"] = []string{strconv.FormatInt(int64(hit.Age()/time.Second), 10)}
	length, known := hit.Length()
	if known {
		d.Header["Content-Length"] = []string{strconv.FormatInt(length, 10)}
	}
	switch {
	case stored.Status != http.StatusOK:
	case notModified(request, stored.Header):
		d.Status, d.Empty = http.StatusNotModified, true
		for name := range d.Header {
			if strings.HasPrefix(name, "Content-") && name != "Content-Location" {
				delete(d.Header, name)
			}
		}
	case method == http.MethodGet && known && rangeApplies(request, stored.Header):
		d.part(request, length)
	}
	return d
}

// part makes it the part that is asked for, if that is one that can be served.
func (d *Delivery) part(request http.Header, length int64) {
	from, to, ok := parseRange(request.Get("Range"), length)
	switch {
	case !ok:
	case from > to: // nothing of it is there
		d.Status, d.Empty = http.StatusRequestedRangeNotSatisfiable, true
		d.Header["Content-Range"] = []string{fmt.Sprintf("bytes */%d", length)}
		d.Header["Content-Length"] = []string{"0"}
	default:
		d.Status, d.Range = http.StatusPartialContent, cache.Range{From: from, To: to}
		d.Header["Content-Range"] = []string{fmt.Sprintf("bytes %d-%d/%d", from, to, length)}
		d.Header["Content-Length"] = []string{strconv.FormatInt(to-from+1, 10)}
	}
}

// parseRange reads a request for one range of bytes. from is greater than to if it is
// beyond the end. What is not understood, and more than one range, is not ok: it may
// be ignored (RFC 9110, 14.2).
func parseRange(s string, length int64) (from, to int64, ok bool) {
	spec, is := strings.CutPrefix(strings.TrimSpace(s), "bytes=")
	first, last, is2 := strings.Cut(strings.TrimSpace(spec), "-")
	if !is || !is2 || strings.Contains(spec, ",") {
		return 0, 0, false
	}
	number := func(s string) (int64, bool) {
		if s == "" || strings.Trim(s, "0123456789") != "" {
			return 0, false
		}
		n, err := strconv.ParseInt(s, 10, 64)
		return n, err == nil
	}
	first, last = strings.TrimSpace(first), strings.TrimSpace(last)
	if first == "" {
		n, ok := number(last)
		if !ok {
			return 0, 0, false
		}
		return max(0, length-n), length - 1, true
	}
	from, ok = number(first)
	if !ok {
		return 0, 0, false
	}
	to = length - 1
	if last != "" {
		n, ok := number(last)
		if !ok || n < from {
			return 0, 0, false
		}
		to = min(to, n)
	}
	return from, to, true
}

// rangeApplies says whether a Range is to be looked at: there is one, and If-Range
// is about what is stored (RFC 9110, 13.1.5).
func rangeApplies(request, stored http.Header) bool {
	if request.Get("Range") == "" {
		return false
	}
	condition := request.Get("If-Range")
	switch {
	case condition == "":
		return true
	case strings.HasPrefix(condition, `"`):
		return condition == stored.Get("Etag")
	case strings.HasPrefix(condition, "W/"):
		return false
	}
	return condition == stored.Get("Last-Modified")
}

// notModified says whether a client has what is stored.
func notModified(request, stored http.Header) bool {
	if tags := request["If-None-Match"]; len(tags) > 0 {
		own := strings.TrimPrefix(stored.Get("Etag"), "W/")
		for _, line := range tags {
			for line != "" {
				var tag string
				tag, line = cutTag(line)
				if tag == "*" || own != "" && strings.TrimPrefix(tag, "W/") == own {
					return true
				}
			}
		}
		return false // If-Modified-Since does not count then
	}
	since, err := http.ParseTime(request.Get("If-Modified-Since"))
	if err != nil {
		return false
	}
	// Without Last-Modified, Date or when it was stored tell (RFC 9111, 4.3.2): Date.
	for _, name := range []string{"Last-Modified", "Date"} {
		if modified, err := http.ParseTime(stored.Get(name)); err == nil {
			return !modified.After(since)
		}
	}
	return false
}

// cutTag takes the first tag of a list. Tags may have commas in them.
func cutTag(s string) (tag, rest string) {
	s = strings.TrimLeft(s, " \t,")
	start := strings.IndexByte(s, '"')
	if start >= 0 && strings.TrimSpace(strings.TrimPrefix(s[:start], "W/")) == "" {
		if end := strings.IndexByte(s[start+1:], '"'); end >= 0 {
			return s[:start+end+2], s[start+end+2:]
		}
	}
	tag, rest, _ = strings.Cut(s, ",")
	return strings.TrimSpace(tag), rest
}
