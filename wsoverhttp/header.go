package wsoverhttp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// ContentType is the media type of a body of events, in requests and answers,
// and never has parameters.
const ContentType = "application/websocket-events"

// Header names, as net/http spells them.
const (
	headerAccept        = "Accept"
	headerContentType   = "Content-Type"
	headerConnectionID  = "Connection-Id"
	headerExtensions    = "Sec-Websocket-Extensions"
	headerKeepAlive     = "Keep-Alive-Interval"
	headerBytesAccepted = "Content-Bytes-Accepted"
	headerBytesReplayed = "Content-Bytes-Replayed"
	headerLast          = "Grip-Last"
	headerUserAgent     = "User-Agent"

	prefixMeta    = "Meta-"
	prefixSetMeta = "Set-Meta-"
)

const (
	// extensionGrip is the name by which gateway and origin agree that messages
	// have a prefix and that others are instructions.
	extensionGrip = "grip"

	// messagePrefixDefault precedes messages if the origin names no prefix.
	messagePrefixDefault = "m:"

	// controlPrefix begins a text that is an instruction to the gateway.
	controlPrefix = "c:"
)

// GripExtension is what an origin answers to the gateway's
// "Sec-WebSocket-Extensions: grip". The zero GripExtension means that it did not
// take the offer: what it sends goes to the client as it is.
type GripExtension struct {
	// On tells that texts beginning with "c:" are instructions to the gateway,
	// and that other messages begin with MessagePrefix, to be taken off, or are
	// not for the client.
	On bool

	// MessagePrefix is "m:" unless the origin names another. It may be empty.
	MessagePrefix string
}

// String returns the extension as it is written in the header: "" if it is off.
func (e GripExtension) String() string {
	switch {
	case !e.On:
		return ""
	case e.MessagePrefix == messagePrefixDefault:
		return extensionGrip
	}
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	return extensionGrip + `; message-prefix="` + escape.Replace(e.MessagePrefix) + `"`
}

// ParseGripExtension looks for the extension in the values of a
// Sec-WebSocket-Extensions header (RFC 6455, section 9.1), among which there may
// be others. The prefix need not be quoted, whatever it contains. What follows
// the extension is not looked at.
//
//	grip
//	grip; message-prefix=""
//	permessage-deflate, grip; message-prefix="x,\"y\""
func ParseGripExtension(values []string) (GripExtension, error) {
	for _, value := range values {
		for rest := value; rest != ""; {
			element, after, err := cutUnquoted(rest, ',')
			if err != nil {
				return GripExtension{}, fmt.Errorf("Sec-WebSocket-Extensions %s: %w", excerpt(value), err)
			}
			rest = after
			name, params, _ := cutUnquoted(element, ';')
			if trim(name) != extensionGrip {
				continue
			}
			extension := GripExtension{On: true, MessagePrefix: messagePrefixDefault}
			for params != "" {
				var param string
				param, params, _ = cutUnquoted(params, ';')
				name, quoted, _ := strings.Cut(param, "=")
				if trim(name) != "message-prefix" {
					continue
				}
				prefix, err := unquote(trim(quoted))
				if err != nil {
					return GripExtension{}, fmt.Errorf("Sec-WebSocket-Extensions %s: message-prefix: %w", excerpt(value), err)
				}
				extension.MessagePrefix = prefix
			}
			return extension, nil
		}
	}
	return GripExtension{}, nil
}

var (
	errQuoteOpen  = errors.New("quoted string does not end")
	errQuoteAfter = errors.New("something follows the quoted string")
)

// parseLast reads Grip-Last headers; nil if there are none. What cannot be read is
// passed over.
//
//	Grip-Last: room; last-id=7
//	Grip-Last: a b; last-id="x \"y\"", room 2; last-id=8
func parseLast(values []string) (last map[string]string) {
	for _, value := range values {
		for rest := value; rest != ""; {
			element, after, err := cutUnquoted(rest, ',')
			if err != nil {
				break
			}
			rest = after
			channel, params, _ := cutUnquoted(element, ';')
			for params != "" {
				var param string
				param, params, _ = cutUnquoted(params, ';')
				name, quoted, _ := strings.Cut(param, "=")
				id, err := unquote(trim(quoted))
				if trim(name) != "last-id" || err != nil {
					continue
				}
				if last == nil {
					last = make(map[string]string)
				}
				last[trim(channel)] = id
			}
		}
	}
	return last
}

// cutUnquoted is strings.Cut at a separator that is not within quotes.
func cutUnquoted(s string, separator byte) (before, after string, err error) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++
		case c == separator && !quoted:
			return s[:i], s[i+1:], nil
		}
	}
	if quoted {
		return "", "", errQuoteOpen
	}
	return s, "", nil
}

// unquote reads a token or a quoted string (RFC 9110, section 5.6.4).
func unquote(s string) (string, error) {
	if !strings.HasPrefix(s, `"`) {
		return s, nil
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; c {
		case '"':
			if i+1 < len(s) {
				return "", errQuoteAfter
			}
			return b.String(), nil
		case '\\':
			if i++; i == len(s) {
				return "", errQuoteOpen
			}
			fallthrough
		default:
			b.WriteByte(s[i])
		}
	}
	return "", errQuoteOpen
}

func trim(s string) string { return strings.Trim(s, " \t") }

// keepAlive returns the interval that is in force after an answer: sticky, off
// for zero, negative and anything that is not a number of seconds.
func keepAlive(answer http.Header, before, least time.Duration) time.Duration {
	values, ok := answer[headerKeepAlive]
	if !ok || len(values) == 0 {
		return before
	}
	seconds, err := strconv.ParseInt(trim(values[0]), 10, 32)
	if err != nil || seconds <= 0 {
		return 0
	}
	return max(time.Duration(seconds)*time.Second, least)
}

// bytesAccepted reads how much of what was offered the origin took.
func bytesAccepted(answer http.Header, offered int) (n int, ok bool, err error) {
	values := answer[headerBytesAccepted]
	if len(values) == 0 {
		return offered, false, nil
	}
	n, err = strconv.Atoi(trim(values[0]))
	switch {
	case err != nil || n < 0:
		return 0, false, fmt.Errorf("%w: Content-Bytes-Accepted %s is not a number of bytes", ErrAccepted, excerpt(values[0]))
	case n > offered:
		return 0, false, fmt.Errorf("%w: Content-Bytes-Accepted %d, but %d were offered", ErrAccepted, n, offered)
	}
	return n, true, nil
}

// withheld tells which of a handshake's headers no request to the origin
// carries: those that are about the client's connection or its (absent) body,
// and those by which the gateway speaks to the origin. Meta_User counts as
// Meta-User, because to CGI's heirs both are HTTP_META_USER (RFC 3875, section
// 4.1.18).
func withheld(name string) bool {
	if strings.Contains(name, "_") {
		name = http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
	}
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade", "Expect", "Host", "Content-Length", "Content-Encoding", "Accept-Encoding",
		headerAccept, headerContentType, headerConnectionID, headerExtensions, headerBytesAccepted, headerBytesReplayed:
		return true
	}
	return hasPrefixFold(name, prefixMeta)
}

// private tells which of an answer's headers are not for the client whose
// handshake the answer grants.
func private(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
		"Content-Length", "Content-Encoding", "Sec-Websocket-Accept",
		headerContentType, headerExtensions, headerKeepAlive, headerBytesAccepted:
		return true
	}
	_, ok := setMetaName(name)
	return ok
}

// canonical returns the header with names as net/http spells them.
func canonical(header http.Header) http.Header {
	for name := range header {
		if http.CanonicalHeaderKey(name) == name {
			continue
		}
		respelled := make(http.Header, len(header))
		for name, values := range header {
			name = http.CanonicalHeaderKey(name)
			respelled[name] = append(respelled[name], values...)
		}
		return respelled
	}
	return header
}

// hop yields the names that the header's own Connection fields call private to
// one connection.
func hop(header http.Header) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, value := range header["Connection"] {
			for name := range strings.SplitSeq(value, ",") {
				if name = trim(name); name != "" && !yield(http.CanonicalHeaderKey(name)) {
					return
				}
			}
		}
	}
}

// setMetaName returns Name of Set-Meta-Name.
func setMetaName(header string) (name string, ok bool) {
	if !hasPrefixFold(header, prefixSetMeta) || len(header) == len(prefixSetMeta) {
		return "", false
	}
	return header[len(prefixSetMeta):], true
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// checkMeta tells whether name and value can be a header of every request.
func checkMeta(name, value string) error {
	if !isToken(name) {
		return fmt.Errorf("%w: name %s", ErrMeta, excerpt(name))
	}
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return fmt.Errorf("%w: %s has the value %s", ErrMeta, name, excerpt(value))
		}
	}
	return nil
}

// isToken tells whether s can be a header's name (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		alphanumeric := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !alphanumeric && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// packed is a list of strings in one: what a client holds while it is idle is
// one allocation, and nothing of it keeps the request alive that it came from.
//
//	05 A g e n t 04 c u r l          lengths are varints
type packed string

// next returns the first string and the others.
func (p packed) next() (string, packed) {
	length, shift, i := uint64(0), 0, 0
	for ; ; i++ {
		c := p[i]
		length |= uint64(c&0x7f) << shift
		if shift += 7; c < 0x80 {
			break
		}
	}
	p = p[i+1:]
	return string(p[:length]), p[length:]
}

// count is how many strings there are.
func (p packed) count() (n int) {
	for p != "" {
		_, p = p.next()
		n++
	}
	return n
}

func appendPacked(dst []byte, list ...string) []byte {
	for _, s := range list {
		dst = binary.AppendUvarint(dst, uint64(len(s)))
		dst = append(dst, s...)
	}
	return dst
}
