package httpcache

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gripway/gripway/guest/cache"
)

// ttlDefault is for how long a response is fresh that does not say it: Fastly's number.
const ttlDefault = 2 * time.Minute

// secondsMax is the longest time a directive may name; more is cut to it (RFC 9111,
// 1.2.2).
const secondsMax = 1 << 31

// directives are those of Cache-Control or Surrogate-Control, names in lower case.
// The first of a name counts.
type directives map[string]string

// parseDirectives reads all lines of a header.
func parseDirectives(lines []string) directives {
	var d directives
	for _, line := range lines {
		for line != "" {
			var name, value string
			name, value, line = cutDirective(line)
			if name == "" {
				continue
			}
			if d == nil {
				d = make(directives)
			}
			if _, ok := d[name]; !ok {
				d[name] = value
			}
		}
	}
	return d
}

// cutDirective takes the first directive of a list: name, or name=value, where the
// value may be quoted.
func cutDirective(s string) (name, value, rest string) {
	end := strings.IndexAny(s, ",=")
	if end < 0 {
		return strings.ToLower(strings.TrimSpace(s)), "", ""
	}
	name, rest = strings.ToLower(strings.TrimSpace(s[:end])), s[end+1:]
	if s[end] == ',' {
		return name, "", rest
	}
	rest = strings.TrimLeft(rest, " \t")
	if !strings.HasPrefix(rest, `"`) {
		value, rest, _ = strings.Cut(rest, ",")
		return name, strings.TrimSpace(value), rest
	}
	var b strings.Builder
	i := 1
	for ; i < len(rest) && rest[i] != '"'; i++ {
		if rest[i] == '\\' && i+1 < len(rest) {
			i++
		}
		b.WriteByte(rest[i])
	}
	_, rest, _ = strings.Cut(rest[min(i, len(rest)):], ",")
	return name, b.String(), rest
}

// has says whether a directive is there, with a value or without.
func (d directives) has(name string) bool { _, ok := d[name]; return ok }

// seconds is the time that a directive names. What is no number is no time at all: a
// response whose freshness cannot be read is stale.
func (d directives) seconds(name string) (t time.Duration, ok bool) {
	value, ok := d[name]
	if !ok {
		return 0, false
	}
	return parseSeconds(value), true
}

func parseSeconds(s string) time.Duration {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > secondsMax {
		n = secondsMax
	}
	return time.Duration(n) * time.Second
}

// Head is a response without its body: what is kept as an object's value. It is not
// changed once it is stored.
type Head struct {
	Status int
	Header http.Header
}

// Bytes is about what it weighs.
func (h *Head) Bytes() (n int64) {
	for name, values := range h.Header {
		n += int64(len(name)) + 48
		for _, value := range values {
			n += int64(len(value)) + 16
		}
	}
	return n
}

// policy is what a response says about caching. What is said to caches like this one
// comes before what is said to all: Surrogate-Control, or CDN-Cache-Control (RFC 9213),
// of which the former is Fastly's and does not replace the latter as a whole.
type policy struct {
	surrogate directives // Surrogate-Control
	control   directives // CDN-Cache-Control, else Cache-Control
	targeted  bool       // it is CDN-Cache-Control: Expires does not count
}

func policyOf(h http.Header) policy {
	p := policy{surrogate: parseDirectives(h["Surrogate-Control"])}
	if p.control = parseDirectives(h["Cdn-Cache-Control"]); p.control != nil {
		p.targeted = true
		return p
	}
	p.control = parseDirectives(h["Cache-Control"])
	return p
}

// lifetime is for how long a response is fresh, counted from when it was made.
func (p policy) lifetime(h http.Header) time.Duration {
	if t, ok := p.surrogate.seconds("max-age"); ok {
		return t
	}
	if p.control.has("no-cache") && p.control["no-cache"] == "" {
		return 0
	}
	if t, ok := p.control.seconds("s-maxage"); ok {
		return t
	}
	if t, ok := p.control.seconds("max-age"); ok {
		return t
	}
	if values := h["Expires"]; len(values) > 0 && !p.targeted {
		expires, ok := parseDate(values[0])
		if !ok || len(values) > 1 {
			return 0
		}
		date, ok := parseDate(h.Get("Date"))
		if !ok {
			date = time.Now()
		}
		return max(0, expires.Sub(date))
	}
	return ttlDefault
}

// parseDate reads a date as HTTP writes it (RFC 9110, 5.6.7), and nothing that only
// looks like it: what is wrong in Expires means that a response has expired.
func parseDate(s string) (time.Time, bool) {
	for _, layout := range []string{http.TimeFormat, time.RFC850, time.ANSIC} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, strings.EqualFold(t.Format(layout), s)
		}
	}
	return time.Time{}, false
}

// Freshness is how a response says it is to be kept. Its value is head.
func Freshness(head *Head) cache.Keep {
	h := head.Header
	p := policyOf(h)
	keep := cache.Keep{
		MaxAge: p.lifetime(h), InitialAge: age(h), Vary: vary(h),
		SurrogateKeys: cache.SurrogateKeys(strings.Join(h["Surrogate-Key"], " ")),
		Value:         head, ValueBytes: head.Bytes(),
	}
	keep.StaleWhileRevalidate, keep.StaleIfError = p.stale("stale-while-revalidate"), p.stale("stale-if-error")
	if n, ok := contentLength(h); ok {
		keep.Length, keep.HasLength = n, true
	}
	return keep
}

// stale is for how long something that is not fresh may be used.
func (p policy) stale(directive string) time.Duration {
	if t, ok := p.surrogate.seconds(directive); ok {
		return t
	}
	// Who forbids what is stale (RFC 9111, 5.2.2) means it.
	if p.control.has("must-revalidate") || p.control.has("proxy-revalidate") || p.control.has("no-cache") {
		return 0
	}
	t, _ := p.control.seconds(directive)
	return t
}

// forbids says whether a response must not be stored: by its status it could be.
func (p policy) forbids() bool {
	switch {
	case p.control.has("private") && p.control["private"] == "",
		p.surrogate.has("no-store"), p.surrogate.has("private"):
		return true
	}
	// Who understands the status need not obey no-store then (RFC 9111, 5.2.2.3).
	return p.control.has("no-store") && !p.surrogate.has("max-age") && !p.control.has("must-understand")
}

// invites says whether it may be stored although it answers an authorised request
// (RFC 9111, 3.5).
func (p policy) invites() bool {
	return p.surrogate.has("max-age") || p.control.has("public") || p.control.has("s-maxage") || p.control.has("must-revalidate")
}

// age is how old a response was when it came.
func age(h http.Header) time.Duration {
	values := h["Age"]
	if len(values) == 0 {
		return 0
	}
	first, _, _ := strings.Cut(values[0], ",")
	return parseSeconds(strings.TrimSpace(first))
}

// vary are the names in Vary, in lower case and in order.
func vary(h http.Header) (names []string) {
	for _, line := range h["Vary"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.ToLower(strings.TrimSpace(name)); name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// contentLength is what a response says about its length.
func contentLength(h http.Header) (int64, bool) {
	values := h["Content-Length"]
	if len(values) != 1 {
		return 0, false
	}
	n, err := strconv.ParseInt(values[0], 10, 64)
	return n, err == nil && n >= 0
}
