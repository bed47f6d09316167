package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// iniValue is what a file of [sections] says about one key.
type iniValue struct {
	key   string   // "section/name"
	text  string   // the whole value
	items []string // the value divided at its commas, without empty ones
	file  string
	line  int
}

// parseINI reads sections of name=value as Pushpin's library for them (QSettings)
// does: a key said twice has its last value; # and ; begin a comment at the
// beginning of a line, and ; also after a value, unless within "…".
func parseINI(path string, data []byte) (map[string]iniValue, Problems) {
	said := make(map[string]iniValue)
	var problems Problems
	section, number := "", 0
	for line := range strings.Lines(strings.TrimPrefix(string(data), "\ufeff")) {
		number++
		refuse := func(name, what string) {
			where := fmt.Sprintf("%s:%d", path, number)
			if name != "" {
				where += ": " + name
			}
			problems = append(problems, Problem{Where: where, What: what})
		}
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if line[0] == '[' {
			name, _, ok := strings.Cut(line[1:], "]")
			if !ok {
				refuse("", "a section has no end: want [name]")
			}
			section = strings.TrimSpace(name)
			continue
		}
		name, text, ok := strings.Cut(line, "=")
		name = strings.TrimSpace(name)
		if !ok {
			refuse("", "want name=value, [section], or # before a comment") // not repeated: it may be a secret
			continue
		}
		items, err := parseINIValue(text)
		if err != nil {
			refuse(name, err.Error())
			continue
		}
		v := iniValue{key: section + "/" + name, text: strings.Join(items, ","), file: path, line: number}
		for _, item := range items {
			if item = strings.TrimSpace(item); item != "" {
				v.items = append(v.items, item)
			}
		}
		said[v.key] = v
	}
	return said, problems
}

// parseINIValue divides a value at commas outside of "…" and takes away quotes,
// escapes and a comment. There is always one piece at least.
func parseINIValue(text string) (pieces []string, err error) {
	var piece []byte
	kept := 0 // bytes of piece that trimming must leave: they were quoted or escaped
	end := func() {
		whole := string(piece)
		pieces = append(pieces, whole[:kept]+strings.TrimRight(whole[kept:], " \t"))
		piece, kept = nil, 0
	}
	quoted := false
	for i := 0; i < len(text); i++ {
		switch b := text[i]; {
		case b == '"':
			quoted = !quoted
			kept = len(piece)
		case b == '\\':
			i++
			if i == len(text) {
				return nil, errors.New(`a lone \ at the end: want \\ for the character itself`)
			}
			if text[i] == 'x' {
				digits := len(text[i+1:]) - len(strings.TrimLeft(text[i+1:], "0123456789abcdefABCDEF"))
				code, err := strconv.ParseUint(text[i+1:i+1+digits], 16, 21)
				if err != nil {
					return nil, errors.New(`want hexadecimal digits after \x`)
				}
				piece = append(piece, string(rune(code))...)
				i += digits
			} else {
				plain := strings.IndexByte(`abfnrtv"\`, text[i])
				if plain < 0 {
					return nil, fmt.Errorf(`unknown escape \%s: want \\ for the character itself`, strings.Map(printable, text[i:i+1]))
				}
				piece = append(piece, "\a\b\f\n\r\t\v\"\\"[plain])
			}
			kept = len(piece)
		case quoted:
			piece = append(piece, b)
			kept = len(piece)
		case b == ';':
			end()
			return pieces, nil
		case b == ',':
			end()
		case (b == ' ' || b == '\t') && len(piece) == 0:
		default:
			piece = append(piece, b)
		}
	}
	if quoted {
		return nil, errors.New(`a " has no end`)
	}
	end()
	return pieces, nil
}
