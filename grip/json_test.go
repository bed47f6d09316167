package grip

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestJSONNestedTooDeepIsRefusedNotRecursed(t *testing.T) {
	deep := func(n int) []byte {
		return []byte(strings.Repeat("[", n) + strings.Repeat("]", n))
	}
	if !validJSON(deep(nestingMax)) {
		t.Errorf("validJSON of %d levels = false, want true", nestingMax)
	}
	if validJSON(deep(nestingMax + 1)) {
		t.Errorf("validJSON of %d levels = true, want false", nestingMax+1)
	}
	if validJSON([]byte(strings.Repeat(`{"a":[`, 1e6))) {
		t.Error("validJSON of a million open levels = true, want false")
	}
}

// FuzzJSON holds our reader against encoding/json: they accept the same, and
// what the walk hands out means the same.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{
		`{}`, `[]`, ` [ 1 , -0.5e+3 , "a" ] `, `{"a":{"b":[{}]},"a":null}`, `"\ud83d\ude00 \ud83d \u00e9\/"`,
		`{"a\"b":"\\"}`, `01`, `-`, `1.`, `1e`, `tru`, `"` + "\x01" + `"`, `"a`, `{"a"}`, `[1,]`, `{,}`, "\"\xff\"",
		`"eight bytes and a quote: \" and more of it"`, "\"a tab\tin it, after eight bytes\"", `""`, ``, `{"a":1`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got := validJSON(data)
		want := json.Valid(data) && utf8.Valid(data)
		if got != want {
			if want && nesting(data) > nestingMax {
				return // ours to refuse
			}
			t.Fatalf("validJSON(%q) = %v, encoding/json says %v", data, got, want)
		}
		if !got {
			return
		}
		var wantValue any
		if err := json.Unmarshal(data, &wantValue); err != nil {
			return // a number beyond float64
		}
		if gotValue := walk(t, trimSpace(data)); !reflect.DeepEqual(gotValue, wantValue) {
			t.Fatalf("walk(%q) = %#v, encoding/json says %#v", data, gotValue, wantValue)
		}
	})
}

// walk builds what encoding/json builds, with our reader: it goes into some
// values and cuts out others.
func walk(t *testing.T, value []byte) any {
	r := read(value)
	got := walkReader(t, &r)
	if r.i != len(value) {
		t.Fatalf("walk(%q) stopped at %d", value, r.i)
	}
	return got
}

func walkReader(t *testing.T, r *reader) any {
	switch r.kind() {
	case object:
		m := map[string]any{}
		for r.enter(); ; {
			name, ok := r.member()
			if !ok {
				return m
			}
			if len(m)%2 == 0 {
				m[string(name)] = walkReader(t, r)
			} else {
				m[string(name)] = walk(t, r.value())
			}
		}
	case list:
		l := []any{}
		for r.enter(); r.element(); {
			if len(l)%2 == 0 {
				l = append(l, walkReader(t, r))
			} else {
				l = append(l, walk(t, r.value()))
			}
		}
		return l
	}
	return scalar(t, r.value())
}

func scalar(t *testing.T, value []byte) any {
	switch kindOf(value) {
	case text:
		s := stringValue(value)
		var back string
		if err := json.Unmarshal(appendString(nil, s), &back); err != nil || back != string(s) {
			t.Fatalf("appendString(%q) reads back as %q, %v", s, back, err)
		}
		return string(s)
	case boolean:
		return value[0] == 't'
	case null:
		return nil
	}
	var f float64
	if err := json.Unmarshal(value, &f); err != nil {
		t.Fatalf("number %q: %v", value, err)
	}
	return f
}

// nesting counts levels, brackets within strings included.
func nesting(data []byte) int {
	deepest, depth := 0, 0
	for _, c := range data {
		switch c {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		deepest = max(deepest, depth)
	}
	return deepest
}
