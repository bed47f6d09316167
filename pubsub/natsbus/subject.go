package natsbus

import (
	"errors"
	"fmt"
	"strings"

	"github.com/gripway/gripway/pubsub"
)

// A channel's subject is
//
//	gripway.item.news.sport        channel news.sport
//	gripway.item.user%3A17         channel user:17
//	gripway.item.%3E               channel >   (no wildcard)
//	gripway.item.a.%.b             channel a..b   (an empty part is a lone %)
//
// that is: prefix, "item", and the channel percent-encoded as in a URL (all bytes but
// RFC 3986's unreserved ones become %XX, XX in capitals), where a dot goes on
// separating parts, since then the permissions and wildcards of NATS can
// speak of a part of the channels. NATS has no empty parts, so those get a name
// that no encoding can have.
//
// Each channel has one subject and each subject at most one channel. Only
// A-Z a-z 0-9 - _ ~ % and dots between parts are ever written, so that
// no subject is a wildcard or ends a line of the protocol, whatever the channel.

const (
	// PrefixDefault is what subjects begin with unless Options say otherwise.
	PrefixDefault = "gripway"

	// partsMax is how many parts a subject may have for its channel. Each costs the
	// server some 500 bytes, and a step of a recursion per item; the dots that
	// would begin more are written %2E.
	partsMax = pubsub.PartsMax

	// prefixBytesMax keeps prefix, "item" and the longest encoded channel within a
	// line of the protocol; see pubsub.ChannelBytesMax.
	prefixBytesMax = 128

	itemPart = ".item."
)

// ErrSubject: no channel has this subject.
var ErrSubject = errors.New("not the subject of a channel")

// Subject is the NATS subject of a channel's items under a prefix ("" means
// "gripway"), for programs that speak NATS themselves.
func Subject(prefix, channel string) string {
	return string(appendSubject(nil, prefixOr(prefix)+itemPart, channel))
}

// Channel is the channel whose [Subject] it is. Error: ErrSubject, also for what
// merely looks alike, such as %61 for a.
func Channel(prefix, subject string) (string, error) {
	begin := prefixOr(prefix) + itemPart
	if !strings.HasPrefix(subject, begin) {
		return "", fmt.Errorf("subject %.100q: %w: it does not begin with %q", subject, ErrSubject, begin)
	}
	channel, ok := channelOf(begin, subject)
	if !ok {
		return "", fmt.Errorf("subject %.100q: %w: its channel would be written otherwise", subject, ErrSubject)
	}
	return channel, nil
}

// channelOf is Channel for subjects that begin so.
func channelOf(begin, subject string) (string, bool) {
	encoded, ok := strings.CutPrefix(subject, begin)
	if !ok {
		return "", false
	}
	channel := make([]byte, 0, len(encoded))
	for i := 0; i < len(encoded); i++ {
		c := encoded[i]
		if c != '%' {
			channel = append(channel, c)
			continue
		}
		if i+2 < len(encoded) {
			if high, low := unhex(encoded[i+1]), unhex(encoded[i+2]); high >= 0 && low >= 0 {
				channel = append(channel, byte(high<<4|low))
				i += 2
			}
		}
		// Otherwise the % must stand for an empty part; the check below sees to it.
	}
	// One way of writing, and one place that knows it.
	name := string(channel)
	var buffer [256]byte
	return name, string(appendSubject(buffer[:0], begin, name)) == subject
}

// appendPattern appends begin and the subject of a pattern, for which
// pubsub.CheckPattern holds: its wildcards are those of NATS.
func appendPattern(dst []byte, begin, pattern string) []byte {
	for i, part := range strings.Split(pattern, ".") {
		if i > 0 {
			begin = "."
		}
		if part == "*" || part == ">" {
			dst = append(append(dst, begin...), part...)
			continue
		}
		dst = appendSubject(dst, begin, part)
	}
	return dst
}

// appendSubject appends begin (prefix and "item") and the channel, encoded.
func appendSubject(dst []byte, begin, channel string) []byte {
	const hex = "0123456789ABCDEF"
	dst = append(dst, begin...)
	parts, atPart := 1, true
	for i := range len(channel) {
		switch c := channel[i]; {
		case plain[c]:
			dst = append(dst, c)
			atPart = false
		case c == '.' && parts < partsMax:
			if atPart {
				dst = append(dst, '%')
			}
			dst = append(dst, '.')
			parts, atPart = parts+1, true
		default:
			dst = append(dst, '%', hex[c>>4], hex[c&15])
			atPart = false
		}
	}
	if atPart {
		dst = append(dst, '%')
	}
	return dst
}

// checkPrefix refuses what would make a subject something else.
func checkPrefix(prefix string) error {
	if len(prefix) > prefixBytesMax {
		return fmt.Errorf("subject prefix %.40q…: %d bytes, at most %d", prefix, len(prefix), prefixBytesMax)
	}
	for part := range strings.SplitSeq(prefix, ".") {
		if part == "" {
			return fmt.Errorf("subject prefix %q: it has an empty part", prefix)
		}
		for i := range len(part) {
			if !plain[part[i]] {
				return fmt.Errorf("subject prefix %q: %q is not a letter, digit, - _ ~ or dot", prefix, part[i])
			}
		}
	}
	return nil
}

func prefixOr(prefix string) string {
	if prefix == "" {
		return PrefixDefault
	}
	return prefix
}

// plain are the unreserved bytes of RFC 3986, section 2.3, except the dot.
var plain = func() (set [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~") {
		set[c] = true
	}
	return set
}()

// unhex takes capitals only; -1 = not a digit.
func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
