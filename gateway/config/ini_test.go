package config_test

import (
	"strings"
	"testing"

	"github.com/gripway/gripway/gateway/config"
)

// FuzzINI: any file is read or refused, and what is refused has its line.
func FuzzINI(f *testing.F) {
	f.Add("[proxy]\nsig_iss=\"a,b;c\" ; x\n# c\nsig_key = a\\x41\\n,b\r\n")
	f.Add("[x\n=\n\\\n\"=\"\na=\\x\nb=\\\n\ufeff")
	f.Fuzz(func(t *testing.T, text string) {
		lines := strings.Count(text, "\n") + 1
		values, problems := config.ParseINI("f", []byte(text))
		for key, v := range values {
			if v.Line < 1 || v.Line > lines || !strings.Contains(key, "/") || len(v.Text) > len(text)*3 {
				t.Errorf("%q: got %+v, want a key of a section and a line of %d", key, v, lines)
			}
		}
		for _, problem := range problems {
			if !strings.HasPrefix(problem.Where, "f:") {
				t.Errorf("got %q without a place", problem.Error())
			}
		}
	})
}
