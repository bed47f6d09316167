package wat

import (
	"math"
	"math/bits"
	"regexp"
	"strconv"
	"strings"
)

// digits takes underscores out of digits of base 10 or 16: one may be between two of
// them.
func digits(s string, base int) (string, bool) {
	digit := false
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= '0' && c <= '9' || base == 16 && (c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'):
			digit = true
		case c == '_' && digit:
			digit = false
		default:
			return "", false
		}
	}
	return strings.ReplaceAll(s, "_", ""), digit
}

// unsigned reads a number without a sign.
func unsigned(s string, size int) (v uint64, ok bool) {
	base := 10
	if hex, is := strings.CutPrefix(s, "0x"); is {
		s, base = hex, 16
	}
	s, ok = digits(s, base)
	if !ok {
		return 0, false
	}
	v, err := strconv.ParseUint(s, base, size)
	return v, err == nil
}

// integer reads an integer of so many bits, with a sign or not, as bits.
func integer(n *node, size int) uint64 {
	s := n.word()
	minus := strings.HasPrefix(s, "-")
	v, ok := unsigned(strings.TrimPrefix(strings.TrimPrefix(s, "-"), "+"), size)
	if !ok || minus && v > 1<<(size-1) || strings.HasPrefix(s, "-+") {
		fail(n, "%s is no integer of %d bits", n, size)
	}
	if minus {
		v = -v
	}
	return v << (64 - size) >> (64 - size)
}

// signExtended is an integer of so many bits with all others like its highest.
func signExtended(v uint64, size int) int64 { return int64(v<<(64-size)) >> (64 - size) }

var (
	decimalFloat = regexp.MustCompile(`^[0-9](_?[0-9])*(\.([0-9](_?[0-9])*)?)?([eE][+-]?[0-9](_?[0-9])*)?$`)
	hexFloat     = regexp.MustCompile(`^0x[0-9a-fA-F](_?[0-9a-fA-F])*(\.([0-9a-fA-F](_?[0-9a-fA-F])*)?)?([pP][+-]?[0-9](_?[0-9])*)?$`)
)

// float reads a floating-point number of 32 or 64 bits, as bits.
func float(n *node, size int) uint64 {
	s := n.word()
	sign := uint64(0)
	if strings.HasPrefix(s, "-") {
		sign = 1 << (size - 1)
	}
	if sign != 0 || strings.HasPrefix(s, "+") {
		s = s[1:]
	}
	mantissa := map[int]int{32: 23, 64: 52}[size]
	infinite := uint64(1)<<(size-1) - 1<<mantissa // every bit of the exponent
	if payload, ok := strings.CutPrefix(s, "nan:"); ok {
		v, ok := unsigned(payload, 64)
		if !ok || !strings.HasPrefix(payload, "0x") || v == 0 || bits.Len64(v) > mantissa {
			fail(n, "%s is no NaN of %d bits: want nan:0x and 1 to %d bits that are not all 0", n, size, mantissa)
		}
		return sign | infinite | v
	}
	switch {
	case s == "inf":
		return sign | infinite
	case s == "nan":
		return sign | infinite | 1<<(mantissa-1)
	case hexFloat.MatchString(s):
		if !strings.ContainsAny(s, "pP") {
			s += "p0"
		}
	case !decimalFloat.MatchString(s):
		fail(n, "%s is no number", n)
	}
	v, err := strconv.ParseFloat(strings.ReplaceAll(s, "_", ""), size)
	if err != nil {
		fail(n, "%s is too large for %d bits", n, size)
	}
	if size == 32 {
		return sign | uint64(math.Float32bits(float32(v)))
	}
	return sign | math.Float64bits(v)
}
