package grip

// The publish path reads JSON twice on every node, so it is read here without
// encoding/json's reflection: one pass says whether the bytes are JSON at all,
// and after that a walk hands out members as slices of the input. The first
// pass accepts what encoding/json accepts, less what RFC 8259 forbids and it
// lets through (bytes that are not UTF-8) and less nesting deeper than
// nestingMax; a fuzz test holds the two against each other.

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// nestingMax is how many objects and arrays may stand inside each other, in
// levels. Pushpin's parser stops there as well; it also bounds our stack.
const nestingMax = 1024

// validJSON reports whether data is one JSON value. Everything else in this
// file may be called only with what it accepted.
func validJSON(data []byte) bool {
	end, ok := validValue(data, skipSpace(data, 0), 0)
	return ok && skipSpace(data, end) == len(data) && utf8.Valid(data)
}

func skipSpace(data []byte, i int) int {
	for i < len(data) && (data[i] == ' ' || data[i] == '\n' || data[i] == '\t' || data[i] == '\r') {
		i++
	}
	return i
}

// validValue returns the index behind the value that begins at i.
func validValue(data []byte, i, depth int) (end int, ok bool) {
	if i >= len(data) {
		return i, false
	}
	switch c := data[i]; c {
	case '"':
		return validString(data, i+1)
	case '{':
		return validObject(data, i+1, depth+1)
	case '[':
		return validList(data, i+1, depth+1)
	case 't':
		return validWord(data, i, "true")
	case 'f':
		return validWord(data, i, "false")
	case 'n':
		return validWord(data, i, "null")
	default:
		return validNumber(data, i)
	}
}

// validObject begins behind the opening brace.
func validObject(data []byte, i, depth int) (end int, ok bool) {
	if depth > nestingMax {
		return i, false
	}
	i = skipSpace(data, i)
	if i < len(data) && data[i] == '}' {
		return i + 1, true
	}
	for i < len(data) && data[i] == '"' {
		if i, ok = validString(data, i+1); !ok {
			return i, false
		}
		i = skipSpace(data, i)
		if i >= len(data) || data[i] != ':' {
			return i, false
		}
		if i, ok = validValue(data, skipSpace(data, i+1), depth); !ok {
			return i, false
		}
		i = skipSpace(data, i)
		if i >= len(data) {
			return i, false
		}
		if data[i] == '}' {
			return i + 1, true
		}
		if data[i] != ',' {
			return i, false
		}
		i = skipSpace(data, i+1)
	}
	return i, false
}

// validList begins behind the opening bracket.
func validList(data []byte, i, depth int) (end int, ok bool) {
	if depth > nestingMax {
		return i, false
	}
	i = skipSpace(data, i)
	if i < len(data) && data[i] == ']' {
		return i + 1, true
	}
	for {
		if i, ok = validValue(data, i, depth); !ok {
			return i, false
		}
		i = skipSpace(data, i)
		if i >= len(data) {
			return i, false
		}
		if data[i] == ']' {
			return i + 1, true
		}
		if data[i] != ',' {
			return i, false
		}
		i = skipSpace(data, i+1)
	}
}

func validWord(data []byte, i int, word string) (end int, ok bool) {
	if len(data)-i < len(word) || string(data[i:i+len(word)]) != word {
		return i, false
	}
	return i + len(word), true
}

// validString begins behind the opening quote.
func validString(data []byte, i int) (end int, ok bool) {
	for {
		i = skipPlain(data, i)
		if i >= len(data) {
			return i, false
		}
		switch c := data[i]; {
		case c == '"':
			return i + 1, true
		case c != '\\' || i+1 >= len(data):
			return i, false // a control character, or nothing behind the backslash
		}
		switch data[i+1] {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			i += 2
		case 'u':
			if _, ok := hex4(data, i+2); !ok {
				return i, false
			}
			i += 6
		default:
			return i, false
		}
	}
}

// Eight bytes are looked at at once where most bytes are: message contents. In
// (x-ones)&^x&highs the lowest bit that is set tells the lowest byte of x that
// is zero; bits above it may be wrong.
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// skipPlain returns the index of the next quote, backslash or control
// character, or len(data).
func skipPlain(data []byte, i int) int {
	for len(data)-i >= 8 {
		x := binary.LittleEndian.Uint64(data[i:])
		quote := x ^ (ones * '"')
		slash := x ^ (ones * '\\')
		if found := ((x-ones*0x20)&^x | (quote-ones)&^quote | (slash-ones)&^slash) & highs; found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
		i += 8
	}
	for i < len(data) && data[i] >= 0x20 && data[i] != '"' && data[i] != '\\' {
		i++
	}
	return i
}

func validNumber(data []byte, i int) (end int, ok bool) {
	if i < len(data) && data[i] == '-' {
		i++
	}
	switch {
	case i >= len(data):
		return i, false
	case data[i] == '0':
		i++
	default:
		if i, ok = digits(data, i); !ok {
			return i, false
		}
	}
	if i < len(data) && data[i] == '.' {
		if i, ok = digits(data, i+1); !ok {
			return i, false
		}
	}
	if i < len(data) && (data[i] == 'e' || data[i] == 'E') {
		i++
		if i < len(data) && (data[i] == '+' || data[i] == '-') {
			i++
		}
		if i, ok = digits(data, i); !ok {
			return i, false
		}
	}
	return i, true
}

// digits skips at least one digit.
func digits(data []byte, i int) (end int, ok bool) {
	start := i
	for i < len(data) && '0' <= data[i] && data[i] <= '9' {
		i++
	}
	return i, i > start
}

// hex4 reads the four digits of a \u escape.
func hex4(data []byte, i int) (r rune, ok bool) {
	if len(data)-i < 4 {
		return 0, false
	}
	for _, c := range data[i : i+4] {
		digit, ok := unhex(c)
		if !ok {
			return 0, false
		}
		r = r<<4 | rune(digit)
	}
	return r, true
}

func unhex(c byte) (digit byte, ok bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// kind tells what a raw value is.
type kind byte

const (
	absent kind = iota
	object
	list
	text
	number
	boolean
	null
)

// kindOf looks at the first byte only. A nil value is absent.
func kindOf(value []byte) kind {
	if len(value) == 0 {
		return absent
	}
	switch value[0] {
	case '{':
		return object
	case '[':
		return list
	case '"':
		return text
	case 't', 'f':
		return boolean
	case 'n':
		return null
	}
	return number
}

// reader walks through valid JSON, every byte once: of a value it is told
// either to go into it or to cut it out. What it hands out are slices of the
// input.
type reader struct {
	data []byte
	i    int // at the beginning of a value, or where member or element go on
}

// read begins before a value.
func read(value []byte) reader { return reader{data: value} }

// kind tells what the value is that comes next.
func (r *reader) kind() kind { return kindOf(r.data[r.i:]) }

// enter goes into the object or list that comes next. All its members or
// elements have to be read.
func (r *reader) enter() { r.i = skipSpace(r.data, r.i+1) }

// member returns the next name in an object, in the order they are written; a
// name that is written twice comes twice. Its value comes next. It is not ok at
// the end of the object, and then stands behind it.
func (r *reader) member() (name []byte, ok bool) {
	if !r.more('}') {
		return nil, false
	}
	end := skipString(r.data, r.i)
	name = stringValue(r.data[r.i:end])
	r.i = skipSpace(r.data, skipSpace(r.data, end)+1)
	return name, true
}

// element reports whether another element of a list comes next. If not, it
// stands behind the list.
func (r *reader) element() bool { return r.more(']') }

// more passes over what stands between two values, or behind the last.
func (r *reader) more(end byte) bool {
	r.i = skipSpace(r.data, r.i)
	switch r.data[r.i] {
	case end:
		r.i++
		return false
	case ',':
		r.i = skipSpace(r.data, r.i+1)
	}
	return true
}

// value cuts out the value that comes next.
func (r *reader) value() []byte {
	start := r.i
	r.i = skipValue(r.data, start)
	return r.data[start:r.i:r.i]
}

// skipValue returns the index behind the value that begins at i.
func skipValue(data []byte, i int) int {
	switch data[i] {
	case '"':
		return skipString(data, i)
	case '{', '[':
		for depth := 0; ; {
			switch data[i] {
			case '"':
				i = skipString(data, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			i++
			if depth == 0 {
				return i
			}
		}
	}
	for i < len(data) {
		switch data[i] {
		case ',', '}', ']', ' ', '\n', '\t', '\r':
			return i
		}
		i++
	}
	return i
}

// skipString returns the index behind the closing quote of the string whose
// opening quote is at i.
func skipString(data []byte, i int) int {
	i++
	end := i + bytes.IndexByte(data[i:], '"')
	if data[end-1] != '\\' { // mostly, and this is the fastest way to know
		return end + 1
	}
	for {
		i = skipPlain(data, i)
		if data[i] == '"' {
			return i + 1
		}
		i += 2 // an escape is at least two bytes
	}
}

// trimSpace cuts the space around a value that stands alone.
func trimSpace(data []byte) []byte {
	return bytes.Trim(data, " \n\t\r")
}

// stringValue returns what a raw string means: a slice of the input if nothing
// in it is escaped, else new bytes. Half a surrogate pair becomes U+FFFD.
func stringValue(value []byte) []byte {
	in := value[1 : len(value)-1 : len(value)-1]
	first := bytes.IndexByte(in, '\\')
	if first < 0 {
		return in
	}
	out := make([]byte, len(in)) // no escape is shorter than what it means
	n := copy(out, in[:first])
	for i := first; i < len(in); {
		if len(in)-i >= 8 {
			x := binary.LittleEndian.Uint64(in[i:])
			binary.LittleEndian.PutUint64(out[n:], x)
			slash := x ^ (ones * '\\')
			plain := 8
			if found := (slash - ones) &^ slash & highs; found != 0 {
				plain = bits.TrailingZeros64(found) / 8
			}
			if i, n = i+plain, n+plain; plain == 8 {
				continue
			}
		}
		c := in[i]
		i++
		if c == '\\' {
			c = in[i]
			i++
			switch c {
			case 'b':
				c = '\b'
			case 'f':
				c = '\f'
			case 'n':
				c = '\n'
			case 'r':
				c = '\r'
			case 't':
				c = '\t'
			case 'u':
				r, _ := hex4(in, i)
				i += 4
				if utf16.IsSurrogate(r) {
					r, i = surrogate(r, in, i)
				}
				n += utf8.EncodeRune(out[n:], r)
				continue
			} // the quote, the slash and the backslash mean themselves
		}
		out[n] = c
		n++
	}
	return out[:n:n]
}

// surrogate joins a first half with the second that should be at i.
func surrogate(first rune, in []byte, i int) (r rune, end int) {
	if len(in)-i >= 6 && in[i] == '\\' && in[i+1] == 'u' {
		second, _ := hex4(in, i+2)
		if r := utf16.DecodeRune(first, second); r != utf8.RuneError {
			return r, i + 6
		}
	}
	return utf8.RuneError, i
}

// intValue reads a number, or a string that holds one: publishers of some
// languages send "code": "200". Fractions are rounded, as Pushpin does. Numbers
// beyond 32 bits are refused.
func intValue(value []byte) (n int, ok bool) {
	switch kindOf(value) {
	case text:
		return atoi(string(stringValue(value)))
	case number:
		if n, ok := atoi(string(value)); ok {
			return n, true
		}
		f, err := strconv.ParseFloat(string(value), 64)
		if f = math.Round(f); err != nil || f < math.MinInt32 || f > math.MaxInt32 {
			return 0, false
		}
		return int(f), true
	}
	return 0, false
}

// atoi reads a decimal number of 32 bits with space around it.
func atoi(s string) (n int, ok bool) {
	n64, err := strconv.ParseInt(strings.Trim(s, space), 10, 32)
	return int(n64), err == nil
}

// appendString appends s as a JSON string. s must be UTF-8.
func appendString[T string | []byte](dst []byte, s T) []byte {
	const hexDigits = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// appendName is appendString for what a program may have filled in: what is not
// UTF-8 becomes U+FFFD.
func appendName(dst []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return appendString(dst, s)
}
