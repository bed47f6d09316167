package grip_test

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// vector is one case of a file in testdata/vectors. The files are txtar, one
// case in each of its parts, written as lines of
//
//	source: where the case or its outcome comes from; every case has one
//	input: what is read             or input-quoted: the same as a Go string
//	status:, header:, body:         for instructions, instead of input
//	want: what it means             as often as needed
//	error: the text of the error    or this
//	item: index of the refused item
type vector struct {
	name, source, input, body string
	status                    int
	header                    http.Header
	want                      []string
	err                       string
	item                      string
}

// vectors reads a file.
func vectors(t testing.TB, file string) []*vector {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "vectors", file))
	if err != nil {
		t.Fatal(err)
	}
	var all []*vector
	for _, line := range strings.Split(string(data), "\n") {
		if name, ok := strings.CutPrefix(line, "-- "); ok {
			all = append(all, &vector{name: strings.TrimSuffix(name, " --"), status: 200, header: http.Header{}})
			continue
		}
		if len(all) == 0 || line == "" {
			continue
		}
		v := all[len(all)-1]
		key, value, ok := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case !ok:
			t.Fatalf("%s, %s: not a vector's line: %q", file, v.name, line)
		case key == "source":
			v.source = value
		case key == "input":
			v.input = value
		case key == "input-quoted":
			if v.input, err = strconv.Unquote(value); err != nil {
				t.Fatalf("%s, %s: %v", file, v.name, err)
			}
		case key == "status":
			v.status, _ = strconv.Atoi(value)
		case key == "header":
			name, value, _ := strings.Cut(value, ":")
			v.header.Add(name, strings.TrimSpace(value))
		case key == "body":
			v.body = value
		case key == "want":
			v.want = append(v.want, value)
		case key == "error":
			v.err = value
		case key == "item":
			v.item = value
		default:
			t.Fatalf("%s, %s: unknown key %q", file, v.name, key)
		}
	}
	return all
}

// check runs read on every case of a file.
func check(t *testing.T, file string, read func(v *vector) ([]string, error)) {
	for _, v := range vectors(t, file) {
		t.Run(v.name, func(t *testing.T) {
			if v.source == "" {
				t.Error("no source")
			}
			got, err := read(v)
			switch {
			case err != nil && err.Error() != v.err:
				t.Errorf("error\n%q, want\n%q", err, v.err)
			case err == nil && v.err != "":
				t.Errorf("got\n%s\nwant error %q", strings.Join(got, "\n"), v.err)
			case err == nil && !slices.Equal(got, v.want):
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(v.want, "\n"))
			}
		})
	}
}
