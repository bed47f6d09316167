package compute

import "testing"

func TestEveryHostcallIsOneOfTheABI(t *testing.T) {
	known := make(map[string]bool)
	count := 0
	for _, m := range abi {
		for _, f := range m.functions {
			known[m.name+"."+f.name] = true
			count++
		}
	}
	if count != 251 || len(aliases) != 50 {
		t.Errorf("got %d functions and %d aliases, want 251 and 50", count, len(aliases))
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
