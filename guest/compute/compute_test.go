package compute

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestEveryHostcallIsOneOfTheABI(t *testing.T) {
	known := make(map[string]bool)
	count := 0
	for _, m := range abi {
		for _, f := range m.functions {
			known[m.name+"."+f.name] = true
			count++
		}
	}
	if count != 255 || len(aliases) != 50 {
		t.Errorf("got %d functions and %d aliases, want 255 and 50", count, len(aliases))
	}
	for module, functions := range implemented {
		for name := range functions {
			if !known[module+"."+name] {
				t.Errorf("%s.%s is implemented, but not of the ABI", module, name)
			}
		}
	}
	for _, a := range aliases {
		if !known[a.module+"."+a.function] {
			t.Errorf("%s: no function %s.%s", a.name, a.module, a.function)
		}
	}
}

// What the README of the guests says is unsupported is, and nothing else.
func TestUnsupportedCallsAreThoseOfTheREADME(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(readme), "| module | unsupported |")
	table, _, _ = strings.Cut(table, "\n\n")
	var said []string
	for line := range strings.Lines(table) {
		names := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(line, -1)
		for i := 1; i < len(names); i++ {
			said = append(said, names[0][1]+"."+names[i][1])
		}
	}
	var are []string
	for _, m := range abi {
		for _, f := range m.functions {
			if implemented[m.name][f.name] == nil {
				are = append(are, m.name+"."+f.name)
			}
		}
	}
	if slices.Sort(said); !slices.Equal(said, slices.Sorted(slices.Values(are))) {
		t.Errorf("the README says %q, but it is %q", said, are)
	}
}
