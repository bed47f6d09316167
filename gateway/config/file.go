package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// fileBytesMax bounds gripway.toml and a routes file: some megabytes are tens of
// thousands of routes, and more is another kind of file given by mistake.
const fileBytesMax = 16 << 20

// value is one TOML value with its line.
type value struct {
	kind   unstable.Kind
	text   string // of a scalar, decoded
	line   int
	items  []*value // of an array
	fields []field  // of a table
}

type field struct {
	key   string
	line  int
	value *value
}

// readFile returns what path says, by key of the settings. Keys that do not
// exist are problems; a file that is not TOML is one, and says nothing: nil.
func readFile(path string) (map[string]given, Problems) {
	data, err := readBounded(path)
	if err != nil {
		return nil, Problems{{Where: "--config", Value: path, What: "the file cannot be read: " + err.Error()}}
	}
	return readText(path, data)
}

// readText is readFile of what was read already.
func readText(path string, data []byte) (map[string]given, Problems) {
	fields, problems := parseTOML(path, data)
	if fields == nil && len(problems) > 0 {
		return nil, problems
	}
	said := make(map[string]given)
	for _, f := range fields {
		s := findSetting(f.key)
		if s == nil {
			problems = append(problems, Problem{Where: fmt.Sprintf("%s:%d", path, f.line), What: unknownKey(f.key)})
			continue
		}
		g := given{layer: layerFile, file: path, line: f.line}
		switch {
		case f.value.kind == unstable.Array && s.list:
			g.values = f.value.items
		case f.value.kind == unstable.Array:
			problems = append(problems, Problem{Where: fmt.Sprintf("%s:%d: %s", path, f.line, f.key), What: "want one value, not a list"})
			continue
		case f.value.text == "" && f.value.kind == unstable.String && s.list:
			// An empty text is an empty list, as everywhere.
		default:
			g.values = []*value{f.value}
		}
		said[f.key] = g
	}
	return said, problems
}

// readBounded reads a file whole. It may be a pipe, like /dev/stdin.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, bare(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, fileBytesMax+1))
	switch {
	case err != nil:
		return nil, bare(err)
	case len(data) > fileBytesMax:
		return nil, fmt.Errorf("it is longer than %d bytes", fileBytesMax)
	}
	return data, nil
}

// bare takes operation and path away from an error of the file system: the
// sentence around it has them already.
func bare(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

func unknownKey(key string) string {
	names := make([]string, len(settings))
	for i := range settings {
		names[i] = settings[i].key
	}
	return fmt.Sprintf("unknown key %q%s", key, didYouMean(key, names))
}

// parseTOML reads the fields at the root. Tables like [[route]], [[publisher]] and [[guest]]
// come as fields called so; every other table is a problem.
func parseTOML(path string, data []byte) ([]field, Problems) {
	// The decoder proper first: it refuses all that is not TOML, keys said
	// twice among it. The syntax tree after it has the lines, which the decoder
	// does not tell.
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
		p        unstable.Parser
		problems Problems
		lines    = lineCounter{data: data}
		top      = &value{}
		tables   = make(map[string]*value) // the lists of [[route]] and its like, once there is one
		current  = top                     // the table that keys belong to
		stored   bool                      // it is one of a guest's stores
	)
	p.Reset(data)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind == unstable.KeyValue {
			if keys, at := undotted(e.Key(), &lines); stored || program(tables) == current && storeTables[keys[0]] {
				current.insert(keys, at, e.Value(), &lines)
				continue
			}
			key, line := dotted(e.Key(), &lines)
			current.fields = append(current.fields, field{key, line, readValue(e.Value(), line, &lines)})
			continue
		}
		if e.Kind != unstable.Table && e.Kind != unstable.ArrayTable {
			continue
		}
		key, line := dotted(e.Key(), &lines)
		keys, at := undotted(e.Key(), &lines)
		if stored = len(keys) > 1 && keys[0] == "guest" && storeTables[keys[1]] && program(tables) != nil; stored {
			current = program(tables).begin(keys[1:], at[1:], e.Kind == unstable.ArrayTable)
			continue
		}
		current = &value{kind: unstable.InlineTable, line: line}
		switch {
		case e.Kind == unstable.ArrayTable && (key == "route" || key == "publisher" || key == "history" || key == "events" || key == "guest"):
			if tables[key] == nil {
				tables[key] = &value{kind: unstable.Array, line: line}
				top.fields = append(top.fields, field{key, line, tables[key]})
			}
			tables[key].items = append(tables[key].items, current)
		case e.Kind == unstable.ArrayTable && key == "route.target" && tables["route"] != nil:
			route := tables["route"].items[len(tables["route"].items)-1]
			route.fields = append(route.fields, field{"target", line, current})
		case e.Kind == unstable.ArrayTable && key == "guest.backend" && tables["guest"] != nil:
			list := program(tables).backend(line)
			list.items = append(list.items, current)
		case key == "route" || key == "route.target" || key == "publisher" || key == "history" || key == "events" || key == "guest" || key == "guest.backend":
			problems = append(problems, Problem{Where: fmt.Sprintf("%s:%d", path, line), What: fmt.Sprintf("want [[%s]], in double brackets", key)})
		default:
			problems = append(problems, Problem{Where: fmt.Sprintf("%s:%d", path, line),
				What: fmt.Sprintf("unknown table [%s]: the only tables are [[route]], [[route.target]], [[publisher]], [[history]], [[events]], [[guest]], [[guest.backend]] and those of a guest's stores, like [guest.kv_stores]; all other keys stand before them", key)})
		}
	}
	return top.fields, problems
}

// program is the last [[guest]], nil before the first.
func program(tables map[string]*value) *value {
	if tables["guest"] == nil {
		return nil
	}
	return tables["guest"].items[len(tables["guest"].items)-1]
}

// backend is the list of a guest's tables [[guest.backend]].
func (v *value) backend(line int) *value {
	for _, f := range v.fields {
		if f.key == "backend" && f.value.kind == unstable.Array {
			return f.value
		}
	}
	list := &value{kind: unstable.Array, line: line}
	v.fields = append(v.fields, field{"backend", line, list})
	return list
}

// readValue copies what the parser owns.
func readValue(n *unstable.Node, line int, lines *lineCounter) *value {
	if n.Raw.Length > 0 {
		line = lines.at(n.Raw.Offset)
	}
	v := &value{kind: n.Kind, line: line}
	switch n.Kind {
	case unstable.Array:
		for it := n.Children(); it.Next(); {
			if it.Node().Kind != unstable.Comment {
				v.items = append(v.items, readValue(it.Node(), line, lines))
			}
		}
	case unstable.InlineTable:
		for it := n.Children(); it.Next(); {
			if it.Node().Kind == unstable.KeyValue {
				key, keyLine := dotted(it.Node().Key(), lines)
				v.fields = append(v.fields, field{key, keyLine, readValue(it.Node().Value(), keyLine, lines)})
			}
		}
	case unstable.Integer:
		v.text = strings.ReplaceAll(string(n.Data), "_", "")
		if i, err := strconv.ParseInt(v.text, 0, 64); err == nil {
			v.text = strconv.FormatInt(i, 10)
		}
	default:
		v.text = string(n.Data)
	}
	return v
}

func dotted(it unstable.Iterator, lines *lineCounter) (key string, line int) {
	var parts []string
	for it.Next() {
		if line == 0 {
			line = lines.at(it.Node().Raw.Offset)
		}
		parts = append(parts, string(it.Node().Data))
	}
	return strings.Join(parts, "."), line
}

// lineCounter tells the line of an offset, counting on from the last one.
type lineCounter struct {
	data   []byte
	offset uint32
	line   int
}

func (c *lineCounter) at(offset uint32) int {
	if offset < c.offset {
		c.offset, c.line = 0, 0
	}
	c.line += bytes.Count(c.data[c.offset:offset], []byte("\n"))
	c.offset = offset
	return c.line + 1
}

// typeWanted says what TOML type a kind of setting takes, or "" if v has it.
func (s *setting) typeWanted(v *value) string {
	switch v.kind {
	case unstable.String:
		switch s.kind {
		case "bool":
			return "want true or false, without quotes"
		case "count":
			return "want a number, without quotes"
		}
		return ""
	case unstable.Integer:
		switch s.kind {
		case "bytes", "count":
			return ""
		case "duration":
			return fmt.Sprintf("which unit? want a duration like \"%ss\"", v.text)
		}
	case unstable.Bool:
		if s.kind == "bool" || s.kind == "choice" {
			return ""
		}
	case unstable.InlineTable:
		if s.isLine() {
			return ""
		}
		return "want one value, not a table"
	case unstable.Array:
		return "want one value, not a list"
	}
	switch s.kind {
	case "bool":
		return "want true or false"
	case "bytes", "count":
		return "want a whole number"
	}
	return "want a text in quotes"
}

// tableSections turns a [[route]] table into the sections of a line.
func tableSections(table *value) ([]section, []error) {
	var wrong []error
	refuse := func(line int, format string, args ...any) {
		wrong = append(wrong, &optionError{line, fmt.Sprintf(format, args...)})
	}
	condition := section{}
	sections := []section{{}}
	target := func(v *value) {
		switch v.kind {
		case unstable.String:
			targets, err := parseLine(v.text)
			switch {
			case err != nil:
				refuse(v.line, "target %q: %s", v.text, err)
			case len(targets) != 1:
				refuse(v.line, "target %q: want one target, like \"localhost:8000,over_http\"; several are a list", v.text)
			default:
				for i := range targets[0].options {
					targets[0].options[i].line = v.line
				}
				sections = append(sections, targets[0])
			}
		case unstable.InlineTable:
			s := section{}
			for _, f := range v.fields {
				if f.key == "address" && f.value.kind == unstable.String {
					s.value = f.value.text
					continue
				}
				if err := s.add(f, false); err != nil {
					refuse(f.line, "target: %s", err)
				}
			}
			sections = append(sections, s)
		default:
			refuse(v.line, "target: want a text like \"localhost:8000,over_http\", a list of them, or tables [[route.target]]")
		}
	}
	for _, f := range table.fields {
		switch {
		case f.key == "domain" && f.value.kind == unstable.String:
			condition.value = f.value.text
		case f.key == "domain":
			refuse(f.line, "domain: want a text, like \"example.com\" or \"*\"")
		case !known(f.key, true) && f.key != "target" && findSetting(f.key) != nil:
			refuse(f.line, "%s is no option of a route: the gateway's own keys stand before the first [[route]]", f.key)
		case f.key == "target" && f.value.kind == unstable.Array:
			for _, v := range f.value.items {
				target(v)
			}
		case f.key == "target":
			target(f.value)
		default:
			if err := condition.add(f, true); err != nil {
				refuse(f.line, "%s", err)
			}
		}
	}
	sections[0] = condition
	return sections, wrong
}

// add turns a field of a table into options. In the condition, ssl takes a value.
func (s *section) add(f field, condition bool) error {
	values := []*value{f.value}
	if f.value.kind == unstable.Array {
		values = f.value.items
	}
	for _, v := range values {
		switch v.kind {
		case unstable.Bool:
			yes := v.text == "true"
			switch {
			case condition && f.key == "ssl" && yes:
				s.options = append(s.options, option{name: f.key, value: "yes", line: f.line})
			case condition && f.key == "ssl":
				s.options = append(s.options, option{name: f.key, value: "no", line: f.line})
			case yes:
				s.options = append(s.options, option{name: f.key, bare: true, line: f.line})
			case !known(f.key, condition):
				// false leaves an option out, but not a mistake in its name.
				s.options = append(s.options, option{name: f.key, bare: true, line: f.line})
			}
		case unstable.String, unstable.Integer, unstable.Float:
			s.options = append(s.options, option{name: f.key, value: v.text, line: v.line})
		default:
			return fmt.Errorf("option %s: want a text, a number, true or false, or a list of texts", f.key)
		}
	}
	return nil
}

func known(name string, condition bool) bool {
	if condition {
		_, ok := conditionOptions[name]
		return ok
	}
	_, ok := targetOptions[name]
	return ok
}

// readRoute decodes one element of the key route.
func readRoute(v *value, dir string) (Route, []error) {
	if v.kind == unstable.InlineTable {
		sections, wrong := tableSections(v)
		route, more := buildRoute(sections, dir)
		return route, append(wrong, more...)
	}
	sections, err := parseLine(v.text)
	if err != nil {
		return Route{}, []error{err}
	}
	return buildRoute(sections, dir)
}
