package access

import (
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
)

// patternBytesMax bounds a pattern: no channel's name is longer.
const patternBytesMax = 1024

// Pattern stands for some channels. It may be used concurrently.
type Pattern []atom

// atom is one step of a pattern.
type atom struct {
	any     bool      // *
	not     bool      // [^…]
	ranges  [][2]rune // [a-z] and single characters; nil and not any: ?
	literal bool      // char alone
	char    rune
}

// ParsePattern reads a pattern in the manner of path.Match:
//
//   - any characters, none as well
//     ?        one character
//     [a-z_]   one of these characters; [^a-z_] one that is not among them
//     \*       the character *, and so for every other
//
// All else stands for itself, and a pattern stands for whole names. Two things
// differ from path.Match: no character is special in a channel's name, so that
// * goes past dots and slashes, and an empty pattern is a mistake.
func ParsePattern(text string) (Pattern, error) {
	switch {
	case text == "":
		return nil, errors.New("an empty pattern: want a name like \"news\", or \"*\" for all")
	case len(text) > patternBytesMax:
		return nil, fmt.Errorf("a pattern of %d bytes: want at most %d, which is as long as names are", len(text), patternBytesMax)
	case !utf8.ValidString(text):
		return nil, errors.New("the pattern is not UTF-8")
	}
	var p Pattern
	rest := []rune(text)
	take := func() (r rune, escaped bool, err error) {
		if len(rest) == 0 {
			return 0, false, errors.New("[ is not closed")
		}
		r, rest = rest[0], rest[1:]
		if r == '\\' {
			if len(rest) == 0 {
				return 0, false, errors.New("nothing after the last backslash")
			}
			r, rest = rest[0], rest[1:]
			return r, true, nil
		}
		return r, false, nil
	}
	for len(rest) > 0 {
		r, escaped, err := take()
		switch {
		case err != nil:
			return nil, err
		case escaped:
			p = append(p, atom{literal: true, char: r})
		case r == '*':
			if len(p) == 0 || !p[len(p)-1].any {
				p = append(p, atom{any: true})
			}
		case r == '?':
			p = append(p, atom{})
		case r == '[':
			a := atom{}
			if len(rest) > 0 && rest[0] == '^' {
				a.not, rest = true, rest[1:]
			}
			for {
				low, escaped, err := take()
				if err != nil {
					return nil, err
				}
				if low == ']' && !escaped {
					break
				}
				high := low
				if len(rest) > 1 && rest[0] == '-' && rest[1] != ']' {
					rest = rest[1:]
					if high, _, err = take(); err != nil {
						return nil, err
					}
				}
				if high < low {
					return nil, fmt.Errorf("[%c-%c] is empty: want the smaller first", low, high)
				}
				a.ranges = append(a.ranges, [2]rune{low, high})
			}
			if a.ranges == nil {
				return nil, errors.New("[] is empty: want the characters in it, like [a-z]")
			}
			p = append(p, a)
		default:
			p = append(p, atom{literal: true, char: r})
		}
	}
	return p, nil
}

// Match reports whether p stands for the channel.
func (p Pattern) Match(channel string) bool {
	// Where to go on if it does not fit: after the last *, one character later.
	// An earlier * need not be tried again, so this is at worst as long as the
	// pattern times the name.
	star, from := -1, 0
	i, at := 0, 0
	for at < len(channel) {
		r, size := utf8.DecodeRuneInString(channel[at:])
		switch {
		case i < len(p) && p[i].any:
			star, from = i, at
			i++
		case i < len(p) && p[i].fits(r):
			i++
			at += size
		case star >= 0:
			_, size = utf8.DecodeRuneInString(channel[from:])
			from += size
			i, at = star+1, from
		default:
			return false
		}
	}
	for i < len(p) && p[i].any {
		i++
	}
	return i == len(p)
}

func (a *atom) fits(r rune) bool {
	switch {
	case a.literal:
		return r == a.char
	case a.ranges == nil:
		return true
	}
	in := slices.ContainsFunc(a.ranges, func(part [2]rune) bool { return part[0] <= r && r <= part[1] })
	return in != a.not
}
