package compute

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// fingerprint tells clients apart by how they say hello in TLS.
//
//	JA3  md5 of version,ciphers,extensions,curves,point formats   github.com/salesforce/ja3
//	JA4  t13d1516h2_8daaf6152771_e5627efa2ab1                      github.com/FoxIO-LLC/ja4
//	     |||| | |    |            hash of extensions and signature algorithms
//	     |||| | |    hash of ciphers, sorted
//	     |||| | first and last letter of the first ALPN; counts of ciphers and extensions before it
//	     |||d a name is asked for, or i
//	     |13 version
//	     t TCP
//
// Values that clients make up so that servers stay tolerant (GREASE) are left out.
type fingerprint struct {
	ok  bool
	ja3 [md5.Size]byte
	ja4 string
}

// TLS extensions that matter here.
const (
	extServerName          = 0
	extSupportedGroups     = 10
	extPointFormats        = 11
	extSignatureAlgorithms = 13
	extALPN                = 16
	extSupportedVersions   = 43
)

func grease(v uint16) bool { return v&0x0f0f == 0x0a0a && v>>8 == v&0xff }

// clientHello is what of a ClientHello goes into fingerprints.
type clientHello struct {
	version                                 uint16
	ciphers, extensions, groups, algorithms []uint16
	versions                                []uint16
	points                                  []uint8
	alpn                                    string
	named                                   bool
}

// octets are what is left to be read. Each method says whether there was enough.
type octets []byte

func (o *octets) take(n int, into *octets) bool {
	if len(*o) < n {
		return false
	}
	*into, *o = (*o)[:n], (*o)[n:]
	return true
}

func (o *octets) number(n int, into *uint16) bool {
	var b octets
	if !o.take(n, &b) {
		return false
	}
	*into = 0
	for _, c := range b {
		*into = *into<<8 | uint16(c)
	}
	return true
}

// prefixed is what follows a length of n octets.
func (o *octets) prefixed(n int, into *octets) bool {
	var b octets
	if !o.take(n, &b) {
		return false
	}
	length := 0
	for _, c := range b {
		length = length<<8 | int(c)
	}
	return o.take(length, into)
}

// parseHello reads a ClientHello, from its handshake type on.
func parseHello(message []byte) (h clientHello, ok bool) {
	var kind uint16
	var body, random, session, ciphers, compression, extensions octets
	s := octets(message)
	if !s.number(1, &kind) || kind != 1 || !s.prefixed(3, &body) ||
		!body.number(2, &h.version) || !body.take(32, &random) || !body.prefixed(1, &session) ||
		!body.prefixed(2, &ciphers) || !body.prefixed(1, &compression) {
		return h, false
	}
	if h.ciphers, ok = numbers(ciphers); !ok {
		return h, false
	}
	if len(body) == 0 {
		return h, true
	}
	if !body.prefixed(2, &extensions) {
		return h, false
	}
	for len(extensions) > 0 {
		var id uint16
		var data octets
		if !extensions.number(2, &id) || !extensions.prefixed(2, &data) {
			return h, false
		}
		if grease(id) {
			continue
		}
		h.extensions = append(h.extensions, id)
		if !h.extension(id, data) {
			return h, false
		}
	}
	return h, true
}

// extension reads one that matters.
func (h *clientHello) extension(id uint16, data octets) (ok bool) {
	var list octets
	switch id {
	case extServerName:
		h.named = true
	case extSupportedGroups:
		if !data.prefixed(2, &list) {
			return false
		}
		h.groups, ok = numbers(list)
		return ok
	case extPointFormats:
		if !data.prefixed(1, &list) {
			return false
		}
		h.points = list
	case extSignatureAlgorithms:
		if !data.prefixed(2, &list) {
			return false
		}
		h.algorithms, ok = numbers(list)
		return ok
	case extALPN:
		var first octets
		if !data.prefixed(2, &list) || !list.prefixed(1, &first) {
			return false
		}
		h.alpn = string(first)
	case extSupportedVersions:
		if !data.prefixed(1, &list) {
			return false
		}
		h.versions, ok = numbers(list)
		return ok
	}
	return true
}

// numbers are those of a list, without GREASE.
func numbers(list octets) (n []uint16, ok bool) {
	for len(list) > 0 {
		var v uint16
		if !list.number(2, &v) {
			return nil, false
		}
		if !grease(v) {
			n = append(n, v)
		}
	}
	return n, true
}

func fingerprintOf(hello []byte) *fingerprint {
	h, ok := parseHello(hello)
	if !ok {
		return &fingerprint{}
	}
	return &fingerprint{ok: true, ja3: md5.Sum([]byte(h.ja3())), ja4: h.ja4()}
}

// ja3 is the text whose hash JA3 is.
func (h *clientHello) ja3() string {
	return strings.Join([]string{
		strconv.Itoa(int(h.version)), dashed(h.ciphers), dashed(h.extensions), dashed(h.groups), dashed(h.points),
	}, ",")
}

func dashed[T uint8 | uint16](list []T) string {
	var b []byte
	for i, v := range list {
		if i > 0 {
			b = append(b, '-')
		}
		b = strconv.AppendUint(b, uint64(v), 10)
	}
	return string(b)
}

func (h *clientHello) ja4() string {
	version := h.version
	if len(h.versions) > 0 {
		version = slices.Max(h.versions)
	}
	name, ok := map[uint16]string{0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3", 0x0002: "s2"}[version]
	if !ok {
		name = "00"
	}
	domain := "i"
	if h.named {
		domain = "d"
	}
	ciphers := slices.Sorted(slices.Values(h.ciphers))
	extensions := slices.DeleteFunc(slices.Sorted(slices.Values(h.extensions)), func(id uint16) bool {
		return id == extServerName || id == extALPN
	})
	what := hexed(extensions)
	if len(h.algorithms) > 0 {
		what += "_" + hexed(h.algorithms)
	}
	if len(extensions) == 0 {
		what = ""
	}
	return fmt.Sprintf("t%s%s%02d%02d%s_%s_%s", name, domain, min(len(h.ciphers), 99), min(len(h.extensions), 99), alpnLetters(h.alpn),
		shortHash(hexed(ciphers)), shortHash(what))
}

// alpnLetters are the first and the last of a protocol's name.
func alpnLetters(name string) string {
	if name == "" {
		return "00"
	}
	first, last := name[0], name[len(name)-1]
	if !alphanumeric(first) || !alphanumeric(last) {
		return hex.EncodeToString([]byte{first})[:1] + hex.EncodeToString([]byte{last})[1:]
	}
	return string([]byte{first, last})
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func hexed(list []uint16) string {
	var b strings.Builder
	for i, v := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%04x", v)
	}
	return b.String()
}

// shortHash is the first 12 digits of a hash, zeros for nothing.
func shortHash(text string) string {
	if text == "" {
		return "000000000000"
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])[:12]
}
