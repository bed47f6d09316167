package config

import "strings"

// Problem is one thing that is wrong, for the one who wrote it.
type Problem struct {
	// Where is the flag, the variable, or file, line and key; empty when What
	// begins with it.
	Where string
	// Value is what was written there; secrets are hidden; empty when there is
	// no single value to show.
	Value string
	// What is wrong, and what would be right.
	What string
}

func (p Problem) Error() string {
	if p.Where == "" { // What names its place
		return p.What
	}
	var b strings.Builder
	b.WriteString(p.Where)
	if p.Value != "" {
		b.WriteString(" ")
		b.WriteString(quote(p.Value))
	}
	b.WriteString(": ")
	b.WriteString(p.What)
	return b.String()
}

// Problems is all that is wrong; nil when nothing is. As an error it is one line
// for each.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.Error()
	}
	return strings.Join(lines, "\n")
}

// valueShownMax bounds how much of a wrong value is repeated, in bytes: enough
// to find it, not a screenful.
const valueShownMax = 120

func quote(value string) string {
	if len(value) > valueShownMax {
		value = strings.ToValidUTF8(value[:valueShownMax], "") + "…"
	}
	return "\"" + strings.Map(printable, value) + "\""
}

// printable keeps control characters of a wrong value out of the terminal.
func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return '·'
	}
	return r
}
