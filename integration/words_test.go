package integration

import (
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/testscript"
)

// words are the arguments of one verb, read from left to right. What is not as
// it should be ends the script.
type words struct {
	ts   *testscript.TestScript
	verb string
	args []string
}

func (w *words) more() bool { return len(w.args) > 0 }

// next is the next word; what says what it should have been.
func (w *words) next(what string) string {
	if !w.more() {
		w.ts.Fatalf("%s: a word is missing: %s", w.verb, what)
	}
	word := w.args[0]
	w.args = w.args[1:]
	return word
}

// skip takes the next word if it is this one.
func (w *words) skip(word string) bool {
	if w.more() && w.args[0] == word {
		w.args = w.args[1:]
		return true
	}
	return false
}

func (w *words) number(what string) int {
	word := w.next(what)
	n, err := strconv.Atoi(word)
	if err != nil {
		w.ts.Fatalf("%s: %s: %q is not a number", w.verb, what, word)
	}
	return n
}

func (w *words) duration(what string) time.Duration {
	word := w.next(what)
	d, err := time.ParseDuration(word)
	if err != nil {
		w.ts.Fatalf("%s: %s: %v", w.verb, what, err)
	}
	return d
}

func (w *words) pattern(what string) *regexp.Regexp {
	word := w.next(what)
	re, err := regexp.Compile(word)
	if err != nil {
		w.ts.Fatalf("%s: %s: %v", w.verb, what, err)
	}
	return re
}

// content is the next word as bytes: 'text\n' with Go's escapes, @file of the
// script's archive as it is, hex:00ff, or 9*x for xxxxxxxxx.
func (w *words) content() []byte {
	word := w.next("a content")
	b, err := content(word, w.ts.MkAbs)
	if err != nil {
		w.ts.Fatalf("%s: content %q: %v", w.verb, word, err)
	}
	return b
}

var repeated = regexp.MustCompile(`(?s)^(\d+)\*(.+)$`)

func content(word string, path func(string) string) ([]byte, error) {
	if name, ok := strings.CutPrefix(word, "@"); ok {
		return os.ReadFile(path(name))
	}
	if digits, ok := strings.CutPrefix(word, "hex:"); ok {
		return hex.DecodeString(digits)
	}
	if match := repeated.FindStringSubmatch(word); match != nil {
		n, err := strconv.Atoi(match[1])
		if err != nil {
			return nil, err
		}
		return []byte(strings.Repeat(match[2], n)), nil
	}
	b := []byte{}
	for rest := word; rest != ""; {
		r, multibyte, tail, err := strconv.UnquoteChar(rest, 0)
		if err != nil {
			return nil, fmt.Errorf("bad escape at %q", rest)
		}
		if rest = tail; multibyte || r < utf8.RuneSelf {
			b = utf8.AppendRune(b, r)
		} else {
			b = append(b, byte(r)) // \xff is a byte
		}
	}
	return b, nil
}

// fits says whether a header's value is as a script wants it: the very text, or
// a regular expression for all of it.
func fits(want, got string) bool {
	if want == got {
		return true
	}
	re, err := regexp.Compile(`^(?:` + want + `)$`)
	return err == nil && re.MatchString(got)
}

// isHeader says whether a word is written as 'Name: value', and isNoHeader as '!Name'.
var (
	isHeader   = regexp.MustCompile(`^[A-Za-z0-9!#$%&'*+.^_|~-]+:( |$)`)
	isNoHeader = regexp.MustCompile(`^![A-Za-z0-9-]+\*?$`)
	isStatus   = regexp.MustCompile(`^\d{3}$`)
)
