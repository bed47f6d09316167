package wat

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// node is a list, a string, or another token.
type node struct {
	text     string // of a string, what it stands for
	list     []node
	line     int
	isList   bool
	isString bool
}

// head is the word that a list begins with; "" is that of what is no list.
func (n *node) head() string {
	if !n.isList || len(n.list) == 0 {
		return ""
	}
	return n.list[0].word()
}

// word is the text of what is neither a list nor a string.
func (n *node) word() string {
	if n.isList || n.isString {
		return ""
	}
	return n.text
}

// isID tells whether it is a name, like $f.
func (n *node) isID() bool { return strings.HasPrefix(n.word(), "$") }

// String is how it begins, for people.
func (n *node) String() string {
	switch {
	case n.isList && n.head() != "":
		return "(" + n.head() + " …)"
	case n.isList:
		return "(…)"
	case n.isString:
		return strconv.Quote(n.text)
	default:
		return n.text
	}
}

// read takes a text apart.
func read(text string) []node {
	r := &reader{text: text, line: 1}
	if at := strings.IndexFunc(text, func(c rune) bool { return c == utf8.RuneError }); at >= 0 && !utf8.ValidString(text) {
		r.line += strings.Count(text[:at], "\n")
		r.fail("this is not UTF-8")
	}
	var list []node
	for r.space(); r.at < len(text); r.space() {
		list = r.node(list, 0)
	}
	return list
}

type reader struct {
	text string
	at   int
	line int
}

func (r *reader) fail(format string, args ...any) {
	panic(&Error{r.line, fmt.Sprintf(format, args...)})
}

// space passes over what is between tokens.
func (r *reader) space() {
	for r.at < len(r.text) {
		rest := r.text[r.at:]
		switch c := rest[0]; {
		case c == '\n':
			r.line++
			r.at++
		case c == ' ' || c == '\t' || c == '\r':
			r.at++
		case strings.HasPrefix(rest, ";;"):
			if end := strings.IndexByte(rest, '\n'); end >= 0 {
				r.at += end
			} else {
				r.at = len(r.text)
			}
		case strings.HasPrefix(rest, "(;"):
			r.comment()
		default:
			return
		}
	}
}

// comment passes over (; a comment (; with another in it ;) ;).
func (r *reader) comment() {
	begin := r.line
	depth := 0
	for r.at < len(r.text) {
		switch rest := r.text[r.at:]; {
		case strings.HasPrefix(rest, "(;"):
			depth++
			r.at += 2
		case strings.HasPrefix(rest, ";)"):
			depth--
			r.at += 2
			if depth == 0 {
				return
			}
		default:
			if rest[0] == '\n' {
				r.line++
			}
			r.at++
		}
	}
	r.line = begin
	r.fail("a comment has no end")
}

// node appends the next node to a list: none if it is an annotation.
func (r *reader) node(to []node, depth int) []node {
	n := node{line: r.line}
	switch c := r.text[r.at]; c {
	case ')':
		r.fail("there is a ) too many")
	case '(':
		if depth++; depth > NestingMax {
			r.fail("more than %d lists are in one another", NestingMax)
		}
		n.isList = true
		r.at++
		annotation := strings.HasPrefix(r.text[r.at:], "@")
		for r.space(); ; r.space() {
			if r.at >= len(r.text) {
				r.line = n.line
				r.fail("a ( has no )")
			}
			if r.text[r.at] == ')' {
				break
			}
			n.list = r.node(n.list, depth)
		}
		r.at++
		if annotation {
			return to
		}
		return append(to, n)
	case '"':
		n.isString, n.text = true, r.string()
	default:
		begin := r.at
		for r.at < len(r.text) && isWordByte(r.text[r.at]) {
			r.at++
		}
		n.text = r.text[begin:r.at]
		switch {
		case n.text == "":
			c, _ := utf8.DecodeRuneInString(r.text[r.at:])
			r.fail("%q cannot be here", c)
		case n.text == "$" && r.at < len(r.text) && r.text[r.at] == '"':
			n.text = "$" + r.string()
			if n.text == "$" {
				r.fail("a name is empty")
			}
		case n.text[0] == '$' && (n.text == "$" || strings.ContainsAny(n.text, ",[]{}")):
			r.fail("%q cannot be a name", n.text)
		}
	}
	if r.at < len(r.text) && (isWordByte(r.text[r.at]) || r.text[r.at] == '"') {
		r.fail("a blank is missing after %s", &n)
	}
	return append(to, n)
}

// isWordByte tells whether a byte may be in a token that is no string.
func isWordByte(c byte) bool { return c > ' ' && c < 0x7f && !strings.ContainsRune(`();"`, rune(c)) }

// string reads a string with its quotes.
func (r *reader) string() string {
	var b []byte
	for r.at++; r.at < len(r.text); r.at++ {
		switch c := r.text[r.at]; {
		case c == '"':
			r.at++
			return string(b)
		case c < ' ' || c == 0x7f:
			if c == '\n' {
				r.fail("a string has no end")
			}
			r.fail("a string contains the control character %#02x: write \\%02x", c, c)
		case c == '\\':
			b = r.escape(b)
		default:
			b = append(b, c)
		}
	}
	r.fail("a string has no end")
	return ""
}

// escape reads what begins with a backslash, up to its last character.
func (r *reader) escape(to []byte) []byte {
	rest := r.text[r.at+1:]
	if rest == "" {
		r.fail("a string has no end")
	}
	if i := strings.IndexByte(`nrt\"'`, rest[0]); i >= 0 {
		r.at++
		return append(to, "\n\r\t\\\"'"[i])
	}
	if code, ok := strings.CutPrefix(rest, "u{"); ok {
		code, _, ok = strings.Cut(code, "}")
		digits, good := digits(code, 16)
		v, err := strconv.ParseUint(digits, 16, 32)
		if !ok || !good || err != nil || !utf8.ValidRune(rune(v)) {
			r.fail("\\u{%.12s is no character: want one like \\u{1f600}", code)
		}
		r.at += len("u{}") + len(code)
		return utf8.AppendRune(to, rune(v))
	}
	v, err := strconv.ParseUint(rest[:min(2, len(rest))], 16, 8)
	if err != nil || len(rest) < 2 {
		r.fail("escape \\%c is unknown", rest[0])
	}
	r.at += 2
	return append(to, byte(v))
}
