// Package guesttest makes guests for tests, without a foreign toolchain: small ones
// from WebAssembly's text form (Assemble), real ones from Go sources (Build).
package guesttest

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/gripway/gripway/guest/internal/wasm"
)

// WAT is Assemble for tests: text that is wrong fails the test.
func WAT(t testing.TB, text string) []byte {
	t.Helper()
	b, err := Assemble(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Assemble turns WebAssembly's text form into a module. It knows a part of it, with
// flat and folded instructions:
//
//	(module
//	  (import "fastly_abi" "init" (func $init (param i64) (result i32)))
//	  (memory (export "memory") 1 2)
//	  (table 2 funcref) (elem (i32.const 0) $f $f)
//	  (global $count (export "count") (mut i32) (i32.const 0))
//	  (data (i32.const 8) "text \00\ff\n")
//	  (start $f)
//	  (func $f (export "_start") (param $a i32) (result i32) (local $i i32)
//	    (loop $again
//	      (local.set $i (i32.add (local.get $i) (i32.const 1)))
//	      (br_if $again (i32.lt_u (local.get $i) (local.get $a))))
//	    (if (result i32) (local.get $i) (then i32.const 1) (else i32.const 2))))
//
// Vectors are not known. Whether the code is valid is not looked at.
func Assemble(text string) (b []byte, err error) {
	defer func() {
		switch e := recover().(type) {
		case nil:
		case watError:
			b, err = nil, e
		default:
			panic(e)
		}
	}()
	p := &watParser{text: text, line: 1}
	node := p.node()
	if p.skip(); p.at != len(text) {
		p.fail("text after the module")
	}
	if node.head() != "module" {
		fail(node, "want (module …)")
	}
	a := &assembler{names: map[string]map[string]uint32{"func": {}, "global": {}, "type": {}}}
	// Imports first, then names, so that all can be named before they are there.
	for _, f := range node.list[1:] {
		if f.head() == "import" {
			a.imports(f)
		}
	}
	functions, globals := uint32(len(a.m.Imports)), uint32(0)
	for _, f := range node.list[1:] {
		switch f.head() {
		case "func":
			a.name("func", f, functions)
			functions++
		case "global":
			a.name("global", f, globals)
			globals++
		}
	}
	for _, f := range node.list[1:] {
		a.field(f)
	}
	return a.m.Encode(), nil
}

type watError struct {
	line int
	text string
}

func (e watError) Error() string { return fmt.Sprintf("wat line %d: %s", e.line, e.text) }

func fail(n *watNode, format string, args ...any) {
	panic(watError{n.line, fmt.Sprintf(format, args...)})
}

// watNode is a list, or an atom. Strings keep their opening quote.
type watNode struct {
	line   int
	atom   string
	isList bool
	list   []*watNode
}

func (n *watNode) head() string {
	if n.isList && len(n.list) > 0 {
		return n.list[0].atom
	}
	return ""
}

type watParser struct {
	text string
	at   int
	line int
}

func (p *watParser) fail(text string) { panic(watError{p.line, text}) }

func (p *watParser) skip() {
	for p.at < len(p.text) {
		switch rest := p.text[p.at:]; {
		case strings.HasPrefix(rest, ";;"):
			for p.at < len(p.text) && p.text[p.at] != '\n' {
				p.at++
			}
		case strings.HasPrefix(rest, "(;"):
			end := strings.Index(rest, ";)")
			if end < 0 {
				p.fail("comment has no end")
			}
			p.line += strings.Count(rest[:end], "\n")
			p.at += end + 2
		case rest[0] == '\n':
			p.line++
			p.at++
		case rest[0] == ' ' || rest[0] == '\t' || rest[0] == '\r':
			p.at++
		default:
			return
		}
	}
}

func (p *watParser) node() *watNode {
	p.skip()
	if p.at >= len(p.text) {
		p.fail("it ends too early")
	}
	n := &watNode{line: p.line}
	switch c := p.text[p.at]; c {
	case ')':
		p.fail("a ) too many")
	case '(':
		n.isList = true
		p.at++
		for {
			if p.skip(); p.at < len(p.text) && p.text[p.at] == ')' {
				p.at++
				return n
			}
			n.list = append(n.list, p.node())
		}
	case '"':
		n.atom = `"`
		for p.at++; ; p.at++ {
			if p.at >= len(p.text) || p.text[p.at] == '\n' {
				p.fail("string has no end")
			}
			c := p.text[p.at]
			if c == '"' {
				p.at++
				return n
			}
			if c != '\\' {
				n.atom += string(c)
				continue
			}
			p.at++
			rest := p.text[min(p.at, len(p.text)):]
			if rest == "" {
				p.fail("string has no end")
			}
			if i := strings.IndexByte(`nrt\"'`, rest[0]); i >= 0 {
				n.atom += string("\n\r\t\\\"'"[i])
				continue
			}
			if len(rest) < 2 {
				p.fail("string has no end")
			}
			v, err := strconv.ParseUint(rest[:2], 16, 8)
			if err != nil {
				p.fail("escape \\" + rest[:2] + " is unknown")
			}
			n.atom += string([]byte{byte(v)})
			p.at++
		}
	default:
		begin := p.at
		for p.at < len(p.text) && !strings.ContainsRune(" \t\r\n();\"", rune(p.text[p.at])) {
			p.at++
		}
		n.atom = p.text[begin:p.at]
		if n.atom == "" {
			p.fail(fmt.Sprintf("%q is unexpected", p.text[p.at]))
		}
	}
	return n
}

// assembler fills a module.
type assembler struct {
	m     wasm.Module
	names map[string]map[string]uint32
}

func (a *assembler) name(kind string, n *watNode, index uint32) {
	if len(n.list) > 1 && strings.HasPrefix(n.list[1].atom, "$") {
		a.names[kind][n.list[1].atom] = index
	}
}

// index is a number or a name.
func (a *assembler) index(kind string, n *watNode) uint32 {
	if i, ok := a.names[kind][n.atom]; ok {
		return i
	}
	v, err := strconv.ParseUint(n.atom, 0, 32)
	if err != nil {
		fail(n, "there is no %s %s", kind, n.atom)
	}
	return uint32(v)
}

func text(n *watNode) string {
	if !strings.HasPrefix(n.atom, `"`) {
		fail(n, "want a string")
	}
	return n.atom[1:]
}

func (a *assembler) imports(f *watNode) {
	if len(f.list) != 4 || f.list[3].head() != "func" {
		fail(f, "want (import \"module\" \"name\" (func …))")
	}
	a.name("func", f.list[3], uint32(len(a.m.Imports)))
	t, _, rest := a.signature(f.list[3].list[1:])
	if len(rest) > 0 {
		fail(f, "an import has no body")
	}
	a.m.Imports = append(a.m.Imports, wasm.Import{Module: text(f.list[1]), Name: text(f.list[2]), Kind: wasm.KindFunc, Type: t})
}

var valueTypes = map[string]byte{"i32": wasm.I32, "i64": wasm.I64, "f32": wasm.F32, "f64": wasm.F64, "funcref": wasm.FuncRef, "externref": wasm.ExternRef}

func valueType(n *watNode) byte {
	t, ok := valueTypes[n.atom]
	if !ok {
		fail(n, "type %q is unknown", n.atom)
	}
	return t
}

// signature reads an optional name, parameters and results.
func (a *assembler) signature(list []*watNode) (index uint32, locals map[string]uint32, rest []*watNode) {
	var t wasm.FuncType
	locals = make(map[string]uint32)
	for len(list) > 0 {
		n := list[0]
		switch {
		case strings.HasPrefix(n.atom, "$"):
		case n.head() == "param":
			for i, p := range n.list[1:] {
				if i == 0 && strings.HasPrefix(p.atom, "$") {
					locals[p.atom] = uint32(len(t.Params))
					continue
				}
				t.Params = append(t.Params, valueType(p))
			}
		case n.head() == "result":
			for _, p := range n.list[1:] {
				t.Results = append(t.Results, valueType(p))
			}
		default:
			return a.typeIndex(t), locals, list
		}
		list = list[1:]
	}
	return a.typeIndex(t), locals, nil
}

func (a *assembler) typeIndex(t wasm.FuncType) uint32 {
	for i, have := range a.m.Types {
		if have.String() == t.String() {
			return uint32(i)
		}
	}
	a.m.Types = append(a.m.Types, t)
	return uint32(len(a.m.Types) - 1)
}

// exports takes (export "name") out of what follows a field's name.
func (a *assembler) exports(list []*watNode, kind byte, index uint32) []*watNode {
	if len(list) > 0 && strings.HasPrefix(list[0].atom, "$") {
		list = list[1:]
	}
	for len(list) > 0 && list[0].head() == "export" {
		a.m.Exports = append(a.m.Exports, wasm.Export{Name: text(list[0].list[1]), Kind: kind, Index: index})
		list = list[1:]
	}
	return list
}

func (a *assembler) limits(f *watNode, list []*watNode) wasm.Limits {
	var l wasm.Limits
	for i, n := range list {
		v, err := strconv.ParseUint(n.atom, 0, 32)
		if err != nil || i > 1 {
			fail(f, "want a minimum, and perhaps a maximum")
		}
		if i == 0 {
			l.Min = uint32(v)
		} else {
			l.Max, l.HasMax = uint32(v), true
		}
	}
	return l
}

func (a *assembler) field(f *watNode) {
	switch f.head() {
	case "import":
	case "func":
		a.function(f)
	case "memory":
		list := a.exports(f.list[1:], wasm.KindMemory, 0)
		a.m.Memories = append(a.m.Memories, a.limits(f, list))
	case "table":
		list := a.exports(f.list[1:], wasm.KindTable, uint32(len(a.m.Tables)))
		if len(list) < 2 {
			fail(f, "want (table 1 funcref)")
		}
		last := len(list) - 1
		a.m.Tables = append(a.m.Tables, wasm.Table{Type: valueType(list[last]), Limits: a.limits(f, list[:last])})
	case "elem":
		if len(f.list) < 2 {
			fail(f, "want (elem (i32.const 0) $f)")
		}
		e := wasm.Elem{Type: wasm.FuncRef, Offset: a.constant(f.list[1])}
		for _, n := range f.list[2:] {
			e.Funcs = append(e.Funcs, a.index("func", n))
		}
		a.m.Elems = append(a.m.Elems, e)
	case "global":
		list := a.exports(f.list[1:], wasm.KindGlobal, uint32(len(a.m.Globals)))
		if len(list) != 2 {
			fail(f, "want (global i32 (i32.const 0))")
		}
		g := wasm.Global{}
		if list[0].head() == "mut" {
			g.Mutable, g.Type = true, valueType(list[0].list[1])
		} else {
			g.Type = valueType(list[0])
		}
		g.Init = a.constant(list[1])
		a.m.Globals = append(a.m.Globals, g)
	case "data":
		d := wasm.Data{Passive: true}
		list := f.list[1:]
		if len(list) > 0 && list[0].isList {
			d.Passive, d.Offset = false, a.constant(list[0])
			list = list[1:]
		}
		for _, n := range list {
			d.Bytes = append(d.Bytes, text(n)...)
		}
		a.m.DataCount = true
		a.m.Datas = append(a.m.Datas, d)
	case "start":
		i := a.index("func", f.list[1])
		a.m.Start = &i
	case "export":
		kinds := map[string]byte{"func": wasm.KindFunc, "memory": wasm.KindMemory, "global": wasm.KindGlobal, "table": wasm.KindTable}
		what := f.list[2]
		a.m.Exports = append(a.m.Exports, wasm.Export{Name: text(f.list[1]), Kind: kinds[what.head()], Index: a.index(what.head(), what.list[1])})
	default:
		fail(f, "field %q is unknown", f.head())
	}
}

func (a *assembler) constant(n *watNode) wasm.Expr {
	if !n.isList || len(n.list) != 2 {
		fail(n, "want a constant like (i32.const 1)")
	}
	arg := n.list[1]
	switch n.head() {
	case "i32.const":
		return wasm.Expr{Op: wasm.OpI32Const, Value: uint64(integer(arg, 32))}
	case "i64.const":
		return wasm.Expr{Op: wasm.OpI64Const, Value: uint64(integer(arg, 64))}
	case "f64.const":
		return wasm.Expr{Op: wasm.OpF64Const, Bytes: binary.LittleEndian.AppendUint64(nil, math.Float64bits(float(arg)))}
	case "global.get":
		return wasm.Expr{Op: wasm.OpGlobalGet, Value: uint64(a.index("global", arg))}
	case "ref.func":
		return wasm.Expr{Op: wasm.OpRefFunc, Value: uint64(a.index("func", arg))}
	case "ref.null":
		return wasm.Expr{Op: wasm.OpRefNull, Value: uint64(valueTypes[arg.atom+"ref"])}
	}
	fail(n, "%q is not a constant", n.head())
	return wasm.Expr{}
}

// integer is a number of so many bits, signed or not.
func integer(n *watNode, bits int) int64 {
	s := strings.ReplaceAll(n.atom, "_", "")
	if v, err := strconv.ParseInt(s, 0, bits); err == nil {
		return v
	}
	v, err := strconv.ParseUint(s, 0, bits)
	if err != nil {
		fail(n, "%q is not an integer of %d bits", n.atom, bits)
	}
	return int64(v<<(64-bits)) >> (64 - bits)
}

func float(n *watNode) float64 {
	v, err := strconv.ParseFloat(n.atom, 64)
	if err != nil {
		fail(n, "%q is not a number", n.atom)
	}
	return v
}

func (a *assembler) function(f *watNode) {
	index := uint32(len(a.m.Imports) + len(a.m.Funcs))
	list := a.exports(f.list[1:], wasm.KindFunc, index)
	if name := f.list[min(1, len(f.list)-1)].atom; strings.HasPrefix(name, "$") {
		a.m.FuncNames = append(a.m.FuncNames, wasm.FuncName{Index: index, Name: name[1:]})
	}
	t, locals, list := a.signature(list)
	c := &body{a: a, locals: locals}
	n := uint32(len(a.m.Types[t].Params))
	var code wasm.Code
	for len(list) > 0 && list[0].head() == "local" {
		for i, l := range list[0].list[1:] {
			if i == 0 && strings.HasPrefix(l.atom, "$") {
				locals[l.atom] = n
				continue
			}
			code.Locals = append(code.Locals, wasm.Local{Count: 1, Type: valueType(l)})
			n++
		}
		list = list[1:]
	}
	c.sequence(list)
	code.Body = append(c.b, wasm.OpEnd)
	a.m.Funcs = append(a.m.Funcs, t)
	a.m.Codes = append(a.m.Codes, code)
}

// body is a function's code being written.
type body struct {
	a      *assembler
	b      []byte
	locals map[string]uint32
	labels []string // of open blocks
}

func (c *body) u32(v uint32) { c.b = binary.AppendUvarint(c.b, uint64(v)) }

func (c *body) signed(v int64) {
	for {
		b := byte(v & 0x7f)
		v >>= 7
		if v == 0 && b&0x40 == 0 || v == -1 && b&0x40 != 0 {
			c.b = append(c.b, b)
			return
		}
		c.b = append(c.b, b|0x80)
	}
}

// sequence writes flat and folded instructions.
func (c *body) sequence(list []*watNode) {
	for len(list) > 0 {
		if list[0].isList {
			c.folded(list[0])
			list = list[1:]
			continue
		}
		list = c.plain(list)
	}
}

// folded writes (op immediates operands…).
func (c *body) folded(n *watNode) {
	if len(n.list) == 0 {
		fail(n, "an instruction is missing")
	}
	head, rest := n.list[0], n.list[1:]
	switch head.atom {
	case "block", "loop":
		rest = c.open(head, rest)
		c.sequence(rest)
		c.close()
		return
	case "if":
		label, kind, rest := c.blockHead(rest)
		for len(rest) > 0 && rest[0].head() != "then" {
			c.folded(rest[0])
			rest = rest[1:]
		}
		if len(rest) == 0 || len(rest) > 2 {
			fail(n, "want (if condition (then …) (else …))")
		}
		c.labels = append(c.labels, label)
		c.b = append(c.b, wasm.OpIf)
		c.b = append(c.b, kind...)
		c.sequence(rest[0].list[1:])
		if len(rest) == 2 {
			c.b = append(c.b, wasm.OpElse)
			c.sequence(rest[1].list[1:])
		}
		c.close()
		return
	}
	// Operands come after immediates in the text, and before the instruction.
	first := len(n.list)
	for i, x := range n.list {
		if x.isList && (head.atom != "call_indirect" || x.head() != "param" && x.head() != "result") {
			first = i
			break
		}
	}
	for _, x := range n.list[first:] {
		c.folded(x)
	}
	if left := c.plain(n.list[:first]); len(left) > 0 {
		fail(left[0], "%q is too much", left[0].atom)
	}
}

// blockHead reads a block's label and type.
func (c *body) blockHead(list []*watNode) (label string, kind []byte, rest []*watNode) {
	if len(list) > 0 && strings.HasPrefix(list[0].atom, "$") {
		label, list = list[0].atom, list[1:]
	}
	kind = []byte{0x40}
	if len(list) > 0 && list[0].head() == "result" {
		kind[0], list = valueType(list[0].list[1]), list[1:]
	}
	return label, kind, list
}

func (c *body) open(head *watNode, rest []*watNode) []*watNode {
	label, kind, rest := c.blockHead(rest)
	c.labels = append(c.labels, label)
	c.b = append(c.b, map[string]byte{"block": wasm.OpBlock, "loop": wasm.OpLoop, "if": wasm.OpIf}[head.atom])
	c.b = append(c.b, kind...)
	return rest
}

func (c *body) close() {
	c.labels = c.labels[:len(c.labels)-1]
	c.b = append(c.b, wasm.OpEnd)
}

func (c *body) label(n *watNode) uint32 {
	for i := len(c.labels) - 1; i >= 0; i-- {
		if c.labels[i] == n.atom {
			return uint32(len(c.labels) - 1 - i)
		}
	}
	v, err := strconv.ParseUint(n.atom, 10, 32)
	if err != nil {
		fail(n, "there is no label %s", n.atom)
	}
	return uint32(v)
}

// plain writes the flat instruction at the head of list and returns what follows.
func (c *body) plain(list []*watNode) []*watNode {
	n := list[0]
	next := func() *watNode {
		if list = list[1:]; len(list) == 0 || list[0].isList {
			fail(n, "%s wants more", n.atom)
		}
		return list[0]
	}
	switch n.atom {
	case "block", "loop", "if":
		return c.open(n, list[1:])
	case "else":
		c.b = append(c.b, wasm.OpElse)
		return list[1:]
	case "end":
		if len(c.labels) == 0 {
			fail(n, "end of no block")
		}
		c.close()
		return list[1:]
	}
	in, ok := instructions[n.atom]
	if !ok {
		fail(n, "instruction %q is unknown", n.atom)
	}
	c.b = append(c.b, in.code...)
	switch in.takes {
	case "":
	case "label":
		c.u32(c.label(next()))
	case "labels":
		var labels []uint32
		for len(list) > 1 && !list[1].isList {
			if _, ok := instructions[list[1].atom]; ok || list[1].atom == "end" {
				break
			}
			labels = append(labels, c.label(next()))
		}
		if len(labels) == 0 {
			fail(n, "br_table wants labels")
		}
		c.u32(uint32(len(labels) - 1))
		for _, l := range labels {
			c.u32(l)
		}
	case "func", "global":
		c.u32(c.a.index(in.takes, next()))
	case "local":
		x := next()
		if i, ok := c.locals[x.atom]; ok {
			c.u32(i)
		} else {
			c.u32(c.a.index("local", x))
		}
	case "type": // call_indirect (param …) (result …)
		t, rest := wasm.FuncType{}, list[1:]
		for len(rest) > 0 && (rest[0].head() == "param" || rest[0].head() == "result") {
			for _, p := range rest[0].list[1:] {
				if rest[0].head() == "param" {
					t.Params = append(t.Params, valueType(p))
				} else {
					t.Results = append(t.Results, valueType(p))
				}
			}
			rest = rest[1:]
		}
		c.u32(c.a.typeIndex(t))
		c.u32(0)
		return rest
	case "memory":
		align, offset := in.align, uint32(0)
		for len(list) > 1 {
			value, isOffset := strings.CutPrefix(list[1].atom, "offset=")
			if !isOffset {
				break
			}
			v, err := strconv.ParseUint(value, 0, 32)
			if err != nil {
				fail(list[1], "%q is not an offset", value)
			}
			offset = uint32(v)
			list = list[1:]
		}
		c.u32(align)
		c.u32(offset)
	case "i32":
		c.signed(integer(next(), 32))
	case "i64":
		c.signed(integer(next(), 64))
	case "f32":
		c.b = binary.LittleEndian.AppendUint32(c.b, math.Float32bits(float32(float(next()))))
	case "f64":
		c.b = binary.LittleEndian.AppendUint64(c.b, math.Float64bits(float(next())))
	case "index":
		c.u32(c.a.index("segment", next()))
	case "index0":
		c.u32(c.a.index("segment", next()))
		c.b = append(c.b, 0)
	case "heap":
		x := next()
		t, ok := valueTypes[x.atom+"ref"]
		if !ok {
			fail(x, "type %q is unknown", x.atom)
		}
		c.b = append(c.b, t)
	}
	return list[1:]
}
