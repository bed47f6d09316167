package origin

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Rules say what happens to the requests of a route on the way to its origin.
// The zero value relays them unsigned. Rules are read-only once in use, and may
// then be used concurrently.
type Rules struct {
	// AsHost takes the place of the host, with or without a port.
	AsHost string

	// PathBeg is what the encoded paths of the route begin with. It matters only
	// with ReplaceBeg, which takes its place; PathRem, otherwise, is how many
	// bytes of the encoded path are cut.
	PathBeg    string
	PathRem    int
	ReplaceBeg *string

	// Header holds names and values to be set, in this order, in the place of what
	// the client sent; an empty value only removes. Reserved names and those of
	// one connection cannot be set.
	Header [][2]string

	// OrigHeaders sends all of a client's headers a second time as they were, their
	// names marked. A trusted gateway has done that already.
	OrigHeaders bool

	// NoGrip neither signs nor lists features: answers will be passed on as they
	// are.
	NoGrip bool

	// Feature is the value of Grip-Feature; empty for none.
	Feature string

	// Signer returns a Grip-Sig, such as (*grip.Signer).Sign. Nil for none.
	Signer func(now time.Time) (string, error)

	// Verifier returns nil for the Grip-Sig of a gateway that is trusted, such as
	// (*grip.Verifier).Verify. If it is nil, none is.
	Verifier func(token string, now time.Time) error

	// XForwardedProto says which headers tell the origin that the client came over
	// TLS. AcceptXForwardedProto believes a client that says so itself.
	XForwardedProto       ForwardedProto
	AcceptXForwardedProto bool

	// What happens to X-Forwarded-For, and to that of trusted gateways. The zero
	// value relays it.
	XForwardedFor        ForwardedFor
	XForwardedForTrusted ForwardedFor

	// CDNLoop is appended to CDN-Loop (RFC 8586). Empty relays the header.
	CDNLoop string
}

// ForwardedProto says how an origin is told that its client came over TLS. It is
// never told that one did not.
type ForwardedProto int

const (
	// ForwardedProtoOnly sets X-Forwarded-Proto.
	ForwardedProtoOnly ForwardedProto = iota

	// ForwardedProtoBoth sets X-Forwarded-Protocol as well, for old origins.
	ForwardedProtoBoth

	// ForwardedProtoNone sets neither, and relays the client's unless they are
	// believed.
	ForwardedProtoNone
)

// ForwardedFor says what happens to X-Forwarded-For.
type ForwardedFor struct {
	Truncate bool // keeps the last Keep addresses only
	Keep     int
	Append   bool // appends the address of the peer
}

// ParseForwardedFor reads rules as settings write them: "truncate:N" and
// "append". Truncating comes first, wherever it stands.
func ParseForwardedFor(rules []string) (ForwardedFor, error) {
	var f ForwardedFor
	for _, rule := range rules {
		rule = strings.TrimSpace(rule)
		number, truncate := strings.CutPrefix(rule, "truncate:")
		switch {
		case truncate:
			keep, err := strconv.Atoi(number)
			if err != nil || keep < 0 {
				return ForwardedFor{}, fmt.Errorf("rule %q: a number of addresses to keep is expected after truncate:", rule)
			}
			f.Truncate, f.Keep = true, keep
		case rule == "append":
			f.Append = true
		case rule != "":
			return ForwardedFor{}, fmt.Errorf("rule %q is neither truncate:N nor append", rule)
		}
	}
	return f, nil
}

// SignHeader sets Grip-Sig and Grip-Feature, in the place of what is there: what
// goes to an origin more than once is signed anew each time. The error is the
// Signer's.
func (rules *Rules) SignHeader(h http.Header) error {
	if rules.NoGrip {
		return nil
	}
	if rules.Feature != "" {
		h["Grip-Feature"] = []string{rules.Feature}
	}
	if rules.Signer == nil {
		return nil
	}
	token, err := rules.Signer(time.Now())
	if err != nil {
		return fmt.Errorf("signing the request: %w", err)
	}
	h["Grip-Sig"] = []string{token}
	return nil
}

// TLS says whether the client's connection counts as TLS: it is, or the client
// says so and is believed.
func (rules *Rules) TLS(r *http.Request) bool {
	return r.TLS != nil || rules.AcceptXForwardedProto && SaysTLS(r.Header)
}

// SaysTLS says whether X-Forwarded-Proto or X-Forwarded-Protocol claims TLS.
func SaysTLS(h http.Header) bool {
	for _, name := range [...]string{"X-Forwarded-Proto", "X-Forwarded-Protocol"} {
		if values := h[name]; len(values) > 0 && (strings.EqualFold(values[0], "https") || strings.EqualFold(values[0], "wss")) {
			return true
		}
	}
	return false
}

// Trusts says whether a request comes from a gateway that is trusted. One that
// is signs once.
func (rules *Rules) Trusts(r *http.Request) bool {
	if rules.Verifier == nil {
		return false
	}
	tokens := r.Header["Grip-Sig"]
	return len(tokens) == 1 && rules.Verifier(tokens[0], time.Now()) == nil
}
