package origin

import (
	"net/http"
	"strings"
)

// kind is what a header's name says about who may send it to whom.
type kind uint8

const (
	endToEnd kind = iota

	// hopByHop is about the connection it comes by, or is made anew for the next
	// one (RFC 9110, section 7.6.1), or must not pass a gateway (Proxy: an origin
	// that runs programs by CGI takes it for a setting).
	hopByHop

	// reserved is a gateway's word to an origin; a client may say it only if it is
	// a trusted gateway.
	reserved

	// routing chooses a route of this gateway, and is for nobody behind it.
	routing

	// marked is a client's header as it was before routes changed it.
	marked

	acceptEncoding
	cdnLoop
	extensions
	forwardedFor
	forwardedProto
)

// markPrefix begins the names of a client's headers as they were (orig_headers).
const markPrefix = "Eb9bf0f5-"

// kindOf tells by the first letter whether a name needs a closer look: it is
// asked for every header of every request.
func kindOf(name string) kind {
	if name == "" {
		return hopByHop
	}
	switch name[0] | 0x20 {
	case 'a':
		if same(name, "accept-encoding") {
			return acceptEncoding
		}
	case 'c':
		switch {
		case same(name, "connection"), same(name, "content-length"):
			return hopByHop
		case same(name, "connection-id"):
			return reserved
		case same(name, "cdn-loop"):
			return cdnLoop
		}
	case 'e':
		switch {
		case begins(name, "eb9bf0f5-"):
			return marked
		case same(name, "expect"):
			return hopByHop
		}
	case 'g':
		if begins(name, "grip-") {
			return reserved
		}
	case 'h':
		if same(name, "host") || same(name, "http2-settings") {
			return hopByHop
		}
	case 'k':
		if same(name, "keep-alive") {
			return hopByHop
		}
	case 'm':
		if begins(name, "meta-") {
			return reserved
		}
	case 'p':
		switch {
		case same(name, "proxy"), same(name, "proxy-connection"), same(name, "proxy-authenticate"), same(name, "proxy-authorization"):
			return hopByHop
		case same(name, "pushpin-route"):
			return routing
		}
	case 's':
		if same(name, "sec-websocket-extensions") {
			return extensions
		}
	case 't':
		if same(name, "te") || same(name, "trailer") || same(name, "transfer-encoding") {
			return hopByHop
		}
	case 'u':
		if same(name, "upgrade") {
			return hopByHop
		}
	case 'x':
		switch {
		case same(name, "x-forwarded-for"):
			return forwardedFor
		case same(name, "x-forwarded-proto"), same(name, "x-forwarded-protocol"):
			return forwardedProto
		}
	}
	return endToEnd
}

// same compares a header's name with one in lower case. What is neither letter
// nor digit counts as "-", because it does to many an origin.
func same(name, lower string) bool { return len(name) == len(lower) && begins(name, lower) }

func begins(name, lower string) bool {
	if len(name) < len(lower) {
		return false
	}
	for i := range len(lower) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		default:
			c = '-'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// answerHopByHop says whether an answer's header is about the origin's connection.
// Trailer is among them because it is announced anew.
func answerHopByHop(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// trailing says whether a field may come behind a body: not what frames or routes
// a message, tells who sent it or how to read it (RFC 9110, section 6.5.1), and
// nothing that the gateway decides about.
func trailing(name string) bool {
	if kindOf(name) != endToEnd {
		return false
	}
	switch name {
	case "Authorization", "Cache-Control", "Content-Encoding", "Content-Range", "Content-Type", "Cookie",
		"Max-Forwards", "Range", "Set-Cookie":
		return false
	}
	return true
}

// hasToken says whether a comma-separated list has a token, in any case of letters.
func hasToken(values []string, token string) bool {
	for _, value := range values {
		for value != "" {
			var element string
			element, value, _ = strings.Cut(value, ",")
			if strings.EqualFold(strings.Trim(element, " \t"), token) {
				return true
			}
		}
	}
	return false
}

// CleanHeader removes from an origin's header what is about the origin's
// connection only.
func CleanHeader(h http.Header) {
	connection := h["Connection"]
	for name := range h {
		if answerHopByHop(name) || hasToken(connection, name) {
			delete(h, name)
		}
	}
}
