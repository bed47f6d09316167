package grip

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// seeds are the values of a key in all vectors.
func seeds(f *testing.F, key string) (values []string) {
	files, err := filepath.Glob("testdata/vectors/*.txtar")
	if err != nil || files == nil {
		f.Fatalf("no vectors: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, line := range strings.Split(string(data), "\n") {
			if value, ok := strings.CutPrefix(line, key+": "); ok {
				values = append(values, value)
			}
		}
	}
	return values
}
