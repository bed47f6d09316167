package readme

import "strings"

// etc stands for any number of lines, or within a line for any text.
const etc = "…"

// match compares what was shown with what should be. used is how many lines of
// got want takes, n how many of want were found; n < len(want) means that
// got[used:] does not continue it, or ended too early (used == len(got)).
func match(want, got []string) (n, used int) {
	skip := false
	for n < len(want) {
		if want[n] == etc {
			skip = true
			n++
			continue
		}
		at := used
		for at < len(got) && !matchLine(want[n], got[at]) {
			if !skip {
				return n, used
			}
			at++
		}
		if at == len(got) {
			return n, at
		}
		used = at + 1
		skip = false
		n++
	}
	return n, used
}

// matchLine is for one line.
func matchLine(want, got string) bool {
	parts := strings.Split(want, etc)
	if len(parts) == 1 {
		return want == got
	}
	rest, ok := strings.CutPrefix(got, parts[0])
	if !ok {
		return false
	}
	last := parts[len(parts)-1]
	for _, part := range parts[1 : len(parts)-1] {
		if _, rest, ok = strings.Cut(rest, part); !ok {
			return false
		}
	}
	return strings.HasSuffix(rest, last)
}
