package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// parseTree reads TOML with all its tables as one tree: tables within tables,
// however they are written, and the line of each key. A file that is not TOML is
// one problem and no tree.
func parseTree(path string, data []byte) (*value, Problems) {
	// As in parseTOML: the decoder refuses, the parser has the lines.
	if err := toml.Unmarshal(data, &map[string]any{}); err != nil {
		where := path
		var decode *toml.DecodeError
		if errors.As(err, &decode) {
			line, column := decode.Position()
			where = fmt.Sprintf("%s:%d:%d", path, line, column)
		}
		return nil, Problems{{Where: where, What: strings.TrimPrefix(err.Error(), "toml: ")}}
	}
	var (
		p     unstable.Parser
		lines = lineCounter{data: data}
		root  = &value{kind: unstable.InlineTable, line: 1}
	)
	current := root
	p.Reset(data)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind == unstable.Comment {
			continue
		}
		keys, at := undotted(e.Key(), &lines)
		if e.Kind == unstable.KeyValue {
			current.insert(keys, at, e.Value(), &lines)
		} else {
			current = root.begin(keys, at, e.Kind == unstable.ArrayTable)
		}
	}
	return root, nil
}

// begin is the table that a line in brackets names, as [keys] or as [[keys]].
func (v *value) begin(keys []string, at []int, double bool) *value {
	if !double {
		return v.descend(keys, at)
	}
	last := len(keys) - 1
	within := v.descend(keys[:last], at)
	f := within.find(keys[last])
	if f == nil {
		within.fields = append(within.fields, field{keys[last], at[last], &value{kind: unstable.Array, line: at[last]}})
		f = &within.fields[len(within.fields)-1]
	}
	one := &value{kind: unstable.InlineTable, line: at[last]}
	f.value.items = append(f.value.items, one)
	return one
}

// insert adds a key, and the tables that its dots make.
func (v *value) insert(keys []string, at []int, n *unstable.Node, lines *lineCounter) {
	last := len(keys) - 1
	within := v.descend(keys[:last], at)
	within.fields = append(within.fields, field{keys[last], at[last], readTree(n, at[last], lines)})
}

// undotted are the parts of a key and their lines.
func undotted(it unstable.Iterator, lines *lineCounter) (keys []string, at []int) {
	for it.Next() {
		keys = append(keys, string(it.Node().Data))
		at = append(at, lines.at(it.Node().Raw.Offset))
	}
	return keys, at
}

// descend finds the table that keys name, and makes what is missing. Of an array
// of tables it is the last one.
func (v *value) descend(keys []string, at []int) *value {
	for i, key := range keys {
		f := v.find(key)
		if f == nil {
			v.fields = append(v.fields, field{key, at[i], &value{kind: unstable.InlineTable, line: at[i]}})
			f = &v.fields[len(v.fields)-1]
		}
		v = f.value
		if v.kind == unstable.Array && len(v.items) > 0 {
			v = v.items[len(v.items)-1]
		}
	}
	return v
}

// find returns a table's field, or nil.
func (v *value) find(key string) *field {
	for i := range v.fields {
		if v.fields[i].key == key {
			return &v.fields[i]
		}
	}
	return nil
}

// readTree is readValue with the tables that dotted keys make.
func readTree(n *unstable.Node, line int, lines *lineCounter) *value {
	v := readValue(n, line, lines)
	switch n.Kind {
	case unstable.Array:
		v.items = nil
		for it := n.Children(); it.Next(); {
			if it.Node().Kind != unstable.Comment {
				v.items = append(v.items, readTree(it.Node(), line, lines))
			}
		}
	case unstable.InlineTable:
		v.fields = nil
		for it := n.Children(); it.Next(); {
			if it.Node().Kind == unstable.KeyValue {
				keys, at := undotted(it.Node().Key(), lines)
				v.insert(keys, at, it.Node().Value(), lines)
			}
		}
	}
	return v
}

// table is a table being read: it is asked for the keys that there may be, and
// whatever is left over is a problem.
type table struct {
	*reading
	name  string // "local_server.backends.origin"
	line  int
	value *value
	taken map[string]bool
}

// reading is what all tables of one file share.
type reading struct {
	path     string // of the file
	dir      string // where relative names of files start; empty: the working directory
	foreign  bool   // it is made for others as well, who know keys that are unknown here
	problems Problems
	warnings Problems // what is allowed, and perhaps not meant
}

// warn notes what someone may not have meant.
func (r *reading) warn(line int, key, shown, what string) {
	r.warnings = append(r.warnings, Problem{Where: fmt.Sprintf("%s:%d: %s", r.path, line, key), Value: shown, What: what})
}

// refuse notes what is wrong with a key at a line.
func (r *reading) refuse(line int, key, shown, format string, args ...any) {
	where := fmt.Sprintf("%s:%d", r.path, line)
	if key != "" {
		where += ": " + key
	}
	r.problems = append(r.problems, Problem{Where: where, Value: shown, What: fmt.Sprintf(format, args...)})
}

// open makes a table of a field. What is no table is a problem, and then nil.
func (r *reading) open(name string, f *field) *table {
	if f.value.kind != unstable.InlineTable {
		r.refuse(f.line, name, f.value.text, "want a table")
		return nil
	}
	return &table{reading: r, name: name, line: f.line, value: f.value, taken: make(map[string]bool)}
}

// in is the full name of a key.
func (t *table) in(key string) string { return dot(t.name, key) }

// dot joins names as TOML would write them.
func dot(table, key string) string {
	if checkToken(key) != nil || strings.Contains(key, ".") || key == "" {
		key = strconv.Quote(key)
	}
	if table == "" {
		return key
	}
	return table + "." + key
}

// take returns the field of a key, or nil if it was not said.
func (t *table) take(key string) *field {
	t.taken[key] = true
	return t.value.find(key)
}

// table is a table within this one, nil if there is none.
func (t *table) table(key string) *table {
	f := t.take(key)
	if f == nil {
		return nil
	}
	return t.open(t.in(key), f)
}

// each calls fn for every table within this one.
func (t *table) each(fn func(name string, t *table)) {
	for i := range t.value.fields {
		f := &t.value.fields[i]
		if within := t.open(t.in(f.key), f); within != nil {
			fn(f.key, within)
		}
	}
}

// text is a text that is not empty, "" if there is none.
func (t *table) text(key string) string {
	f := t.take(key)
	switch {
	case f == nil:
		return ""
	case f.value.kind != unstable.String:
		t.refuse(f.line, t.in(key), f.value.text, "want a text in quotes")
	case strings.TrimSpace(f.value.text) == "":
		t.refuse(f.line, t.in(key), "", "it is empty: want a value, or leave it out")
	default:
		return f.value.text
	}
	return ""
}

// said tells whether there is a key.
func (t *table) said(key string) bool { return t.value.find(key) != nil }

// lineOf is the line of a key, or of the table if it is not there.
func (t *table) lineOf(key string) int {
	if f := t.value.find(key); f != nil {
		return f.line
	}
	return t.line
}

// wrong notes what is wrong with the value of a key.
func (t *table) wrong(key, shown, format string, args ...any) {
	t.refuse(t.lineOf(key), t.in(key), shown, format, args...)
}

// bool is true or false; def if it was not said.
func (t *table) bool(key string, def bool) bool {
	f := t.take(key)
	switch {
	case f == nil:
		return def
	case f.value.kind != unstable.Bool:
		t.refuse(f.line, t.in(key), f.value.text, "want true or false, without quotes")
		return def
	}
	return f.value.text == "true"
}

// count is a whole number within limits; def if it was not said.
func (t *table) count(key string, def, least, most int) int {
	f := t.take(key)
	if f == nil {
		return def
	}
	n, err := strconv.Atoi(f.value.text)
	if f.value.kind != unstable.Integer || err != nil || n < least || n > most {
		t.refuse(f.line, t.in(key), f.value.text, "want a whole number from %d to %d", least, most)
		return def
	}
	return n
}

// choice is one of the words; def if it was not said.
func (t *table) choice(key, def string, words ...string) string {
	text := t.text(key)
	if text == "" {
		return def
	}
	for _, word := range words {
		if text == word {
			return word
		}
	}
	t.wrong(key, text, "want one of %s%s", strings.Join(words, ", "), didYouMean(text, words))
	return def
}

// file is the name of a file, as it can be opened; "" if there is none.
func (t *table) file(key string) string {
	name := t.text(key)
	if name == "" {
		return ""
	}
	return resolveFile(name, t.dir)
}

// content is what a file holds, nil if it cannot be read.
func (r *reading) content(line int, key, name string, read func(string) ([]byte, error)) []byte {
	data, err := read(name)
	if err != nil {
		r.refuse(line, key, name, "the file cannot be read: %s%s", err, r.tried(name))
		return nil
	}
	if data == nil {
		data = []byte{}
	}
	return data
}

// tried says where a relative name was looked for, and whether it would have
// been found beside the file that says it.
func (r *reading) tried(name string) string {
	if filepath.IsAbs(name) || r.dir != "" {
		return ""
	}
	full, err := filepath.Abs(name)
	if err != nil {
		return ""
	}
	hint := "; tried " + full + ": relative names start at the working directory"
	beside := filepath.Join(filepath.Dir(r.path), name)
	if _, err := readBounded(beside); err == nil && filepath.Dir(r.path) != "." {
		hint += ", not at " + filepath.Dir(r.path) + ", where there is one"
	}
	return hint
}

// done refuses the keys that nobody took. In a file that is foreign they may be somebody
// else's: they are told of. Others are those that are known where the table says
// something else.
func (t *table) done(others ...string) { t.leave(t.foreign, others) }

// doneStrictly refuses them in any file, as Viceroy does.
func (t *table) doneStrictly(others ...string) { t.leave(false, others) }

func (t *table) leave(ignore bool, others []string) {
	known := others
	for key := range t.taken {
		known = append(known, key)
	}
	for _, f := range t.value.fields {
		switch {
		case t.taken[f.key]:
		case slices.Contains(others, f.key):
			t.refuse(f.line, t.in(f.key), "", "it does not go with the other keys here")
		case ignore:
			t.warn(f.line, t.in(f.key), "", "unknown key"+didYouMean(f.key, known)+": it is ignored")
		default:
			t.refuse(f.line, t.in(f.key), "", "unknown key%s", didYouMean(f.key, known))
		}
	}
}

// twice tells of a key of a store that is there twice. Viceroy takes the last one.
func (t *table) twice(line int, name, key string) {
	if t.foreign {
		t.warn(line, name, key, "the key is there twice: the last one counts")
		return
	}
	t.refuse(line, name, key, "the key is there twice")
}
