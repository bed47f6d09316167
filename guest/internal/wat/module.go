package wat

import (
	"encoding/binary"
	"slices"
	"unicode/utf8"

	"github.com/gripway/gripway/guest/internal/wasm"
)

// assembler fills a module.
type assembler struct {
	m     wasm.Module
	names [kindCount]map[string]uint32
	count [kindCount]uint32 // of what has been named, and then of what has been written
	types map[string]uint32 // the first type of each shape

	defined bool // something that is not imported has been declared
}

// module reads a text: (module …), or what is in one.
func (a *assembler) module(list []node) {
	if len(list) == 1 && list[0].head() == "module" {
		list = list[0].list[1:]
		if len(list) > 0 && list[0].isID() {
			a.m.Name, list = list[0].text[1:], list[1:]
		}
		if len(list) > 0 && (list[0].word() == "binary" || list[0].word() == "quote") {
			fail(&list[0], "(module %s …) is for scripts of tests, and no module", list[0].text)
		}
	}
	for i := range kindCount {
		a.names[i] = make(map[string]uint32)
	}
	for i := range list {
		a.declare(&list[i])
	}
	clear(a.count[:])
	for i := range list {
		a.field(&list[i])
	}
}

// fieldKinds are the words that fields begin with, but for export and start.
var fieldKinds = map[string]byte{
	"func": wasm.KindFunc, "table": wasm.KindTable, "memory": wasm.KindMemory, "global": wasm.KindGlobal,
	"type": kindType, "elem": kindElem, "data": kindData,
}

// declare gives a field its index, so that others can name it before it is there.
func (a *assembler) declare(f *node) {
	head := f.head()
	if head == "export" || head == "start" {
		return
	}
	what, imported := f, head == "import"
	if imported {
		if len(f.list) != 4 {
			fail(f, `want (import "module" "name" (func …))`)
		}
		what = &f.list[3]
	}
	kind, ok := fieldKinds[what.head()]
	if !ok || imported && kind > wasm.KindGlobal {
		fail(what, "field %s is unknown", what)
	}
	rest := what.list[1:]
	if len(rest) > 0 && rest[0].isID() {
		a.name(kind, &rest[0], a.count[kind])
		rest = rest[1:]
	}
	a.count[kind]++
	if kind == kindType {
		a.explicitType(what, rest)
		return
	}
	for !imported && kind <= wasm.KindGlobal && len(rest) > 0 && rest[0].head() == "export" {
		rest = rest[1:]
	}
	switch {
	case imported || kind <= wasm.KindGlobal && len(rest) > 0 && rest[0].head() == "import":
		if a.defined {
			fail(f, "an import comes after what is not imported")
		}
	case kind <= wasm.KindGlobal:
		a.defined = true
	}
	// A table or a memory may bring a segment.
	switch {
	case kind == wasm.KindTable && len(rest) > 0 && rest[len(rest)-1].head() == "elem":
		a.count[kindElem]++
	case kind == wasm.KindMemory && len(rest) > 0 && rest[len(rest)-1].head() == "data":
		a.count[kindData]++
	}
}

// name gives an index a name.
func (a *assembler) name(kind byte, id *node, index uint32) {
	if _, taken := a.names[kind][id.text]; taken {
		fail(id, "there are two of %s %s", kindNames[kind], id.text)
	}
	a.names[kind][id.text] = index
}

// index reads a name or a number.
func (a *assembler) index(kind byte, n *node) uint32 {
	if n.isID() {
		i, ok := a.names[kind][n.text]
		if !ok {
			fail(n, "there is no %s %s", kindNames[kind], n.text)
		}
		return i
	}
	v, ok := unsigned(n.word(), 32)
	if !ok {
		fail(n, "want the name or the number of a %s, got %s", kindNames[kind], n)
	}
	return uint32(v)
}

// use reads (kind x), which may be left out.
func (a *assembler) use(kind byte, list []node) (index uint32, there bool, rest []node) {
	if len(list) == 0 || list[0].head() != kindNames[kind] {
		return 0, false, list
	}
	if len(list[0].list) != 2 {
		fail(&list[0], "want (%s x)", kindNames[kind])
	}
	return a.index(kind, &list[0].list[1]), true, list[1:]
}

// text reads a string.
func text(n *node) string {
	if !n.isString {
		fail(n, "want a string, got %s", n)
	}
	return n.text
}

// name reads a string that is a name of an import or export.
func name(n *node) string {
	s := text(n)
	if !utf8.ValidString(s) {
		fail(n, "%s is not UTF-8", n)
	}
	return s
}

var valueTypes = map[string]byte{
	"i32": wasm.I32, "i64": wasm.I64, "f32": wasm.F32, "f64": wasm.F64, "v128": wasm.V128, "funcref": wasm.FuncRef, "externref": wasm.ExternRef,
}

func valueType(n *node) byte {
	t, ok := valueTypes[n.word()]
	if !ok {
		fail(n, "%s is no type of a value", n)
	}
	return t
}

// isRefType tells whether a token is the type of a reference.
func isRefType(n *node) bool { return n.word() == "funcref" || n.word() == "externref" }

// valuesOf reads (param …), (result …) or (local …): one value with a name, or any
// number without.
func (a *assembler) valuesOf(n *node, to []byte, named bool) []byte {
	list := n.list[1:]
	if named && len(list) > 0 && list[0].isID() {
		if len(list) != 2 {
			fail(n, "want (%s $name type)", n.head())
		}
		a.name(kindLocal, &list[0], uint32(len(to)))
		list = list[1:]
	}
	for i := range list {
		to = append(to, valueType(&list[i]))
	}
	return to
}

// signature reads parameters and results. Names of parameters become those of locals
// if they are wanted.
func (a *assembler) signature(list []node, named bool) (t wasm.FuncType, rest []node) {
	for len(list) > 0 && list[0].head() == "param" {
		t.Params = a.valuesOf(&list[0], t.Params, named)
		list = list[1:]
	}
	for len(list) > 0 && list[0].head() == "result" {
		t.Results = a.valuesOf(&list[0], t.Results, false)
		list = list[1:]
	}
	return t, list
}

// explicitType adds (func …) to the types.
func (a *assembler) explicitType(f *node, list []node) {
	if len(list) != 1 || list[0].head() != "func" {
		fail(f, "want (type (func …))")
	}
	clear(a.names[kindLocal])
	t, rest := a.signature(list[0].list[1:], true)
	if len(rest) > 0 {
		fail(&rest[0], "%s cannot be in a type", &rest[0])
	}
	a.addType(t)
}

func (a *assembler) addType(t wasm.FuncType) uint32 {
	i := uint32(len(a.m.Types))
	a.m.Types = append(a.m.Types, t)
	if _, there := a.types[t.String()]; !there {
		a.types[t.String()] = i
	}
	return i
}

// typeUse reads (type x), parameters and results: all of it may be left out.
func (a *assembler) typeUse(list []node, named bool) (index uint32, explicit bool, rest []node) {
	first := list
	if named {
		clear(a.names[kindLocal])
	}
	index, explicit, list = a.use(kindType, list)
	t, rest := a.signature(list, named)
	if !explicit {
		return a.typeOf(t), false, rest
	}
	if int(index) >= len(a.m.Types) {
		fail(&first[0], "there is no type %d", index)
	}
	if said := len(rest) < len(list); said && a.m.Types[index].String() != t.String() {
		fail(&list[0], "%s is not what type %d is, %s", t, index, a.m.Types[index])
	}
	return index, true, rest
}

// typeOf is the index of a type, which is added if there is none.
func (a *assembler) typeOf(t wasm.FuncType) uint32 {
	if i, there := a.types[t.String()]; there {
		return i
	}
	return a.addType(t)
}

// field writes a field.
func (a *assembler) field(f *node) {
	switch f.head() {
	case "import":
		module, field := name(&f.list[1]), name(&f.list[2])
		what := &f.list[3]
		rest := what.list[1:]
		if len(rest) > 0 && rest[0].isID() {
			rest = rest[1:]
		}
		a.imports(what, fieldKinds[what.head()], module, field, rest)
		return
	case "export":
		a.export(f)
		return
	case "start":
		if len(f.list) != 2 || a.m.Start != nil {
			fail(f, "want (start x), once")
		}
		i := a.index(wasm.KindFunc, &f.list[1])
		a.m.Start = &i
		return
	}
	kind := fieldKinds[f.head()]
	index := a.count[kind]
	rest := f.list[1:]
	id := ""
	if len(rest) > 0 && rest[0].isID() {
		id, rest = rest[0].text[1:], rest[1:]
	}
	for kind <= wasm.KindGlobal && len(rest) > 0 && rest[0].head() == "export" {
		if len(rest[0].list) != 2 {
			fail(&rest[0], `want (export "name")`)
		}
		a.m.Exports = append(a.m.Exports, wasm.Export{Name: name(&rest[0].list[1]), Kind: kind, Index: index})
		rest = rest[1:]
	}
	if kind <= wasm.KindGlobal && len(rest) > 0 && rest[0].head() == "import" {
		from := rest[0].list
		if len(from) != 3 {
			fail(&rest[0], `want (import "module" "name")`)
		}
		a.imports(f, kind, name(&from[1]), name(&from[2]), rest[1:])
		return
	}
	a.count[kind]++
	switch kind {
	case wasm.KindFunc:
		if id != "" {
			a.m.FuncNames = append(a.m.FuncNames, wasm.FuncName{Index: index, Name: id})
		}
		a.function(rest)
	case wasm.KindTable:
		a.table(f, rest, index)
	case wasm.KindMemory:
		a.memory(f, rest, index)
	case wasm.KindGlobal:
		t, rest := globalType(f, rest)
		a.m.Globals = append(a.m.Globals, wasm.Global{GlobalType: t, Init: a.constant(f, rest)})
	case kindElem:
		a.elem(f, rest)
	case kindData:
		a.data(f, rest)
	}
}

// imports adds an import; list is what describes it.
func (a *assembler) imports(f *node, kind byte, module, field string, list []node) {
	i := wasm.Import{Module: module, Name: field, Kind: kind}
	switch kind {
	case wasm.KindFunc:
		i.Type, _, list = a.typeUse(list, true)
		if len(f.list) > 1 && f.list[1].isID() {
			id := &f.list[1]
			a.m.FuncNames = append(a.m.FuncNames, wasm.FuncName{Index: a.count[kind], Name: id.text[1:]})
		}
	case wasm.KindTable:
		i.Table, list = tableType(f, list)
	case wasm.KindMemory:
		i.Memory, list = limits(f, list)
	case wasm.KindGlobal:
		i.Global, list = globalType(f, list)
	}
	if len(list) > 0 {
		fail(&list[0], "%s cannot be in an import", &list[0])
	}
	a.count[kind]++
	a.m.Imports = append(a.m.Imports, i)
}

func (a *assembler) export(f *node) {
	if len(f.list) != 3 || len(f.list[2].list) != 2 {
		fail(f, `want (export "name" (func x))`)
	}
	what := &f.list[2]
	kind, ok := fieldKinds[what.head()]
	if !ok || kind > wasm.KindGlobal {
		fail(what, "%s cannot be exported", what)
	}
	a.m.Exports = append(a.m.Exports, wasm.Export{Name: name(&f.list[1]), Kind: kind, Index: a.index(kind, &what.list[1])})
}

// limits reads a minimum, and a maximum that may be left out.
func limits(f *node, list []node) (l wasm.Limits, rest []node) {
	var n [2]uint32
	i := 0
	for i < 2 && i < len(list) {
		v, ok := unsigned(list[i].word(), 32)
		if !ok {
			break
		}
		n[i] = uint32(v)
		i++
	}
	if i == 0 {
		fail(f, "want the least size, and perhaps the largest, of 32 bits")
	}
	return wasm.Limits{Min: n[0], Max: n[1], HasMax: i == 2}, list[i:]
}

func tableType(f *node, list []node) (t wasm.Table, rest []node) {
	t.Limits, rest = limits(f, list)
	if len(rest) == 0 || !isRefType(&rest[0]) {
		fail(f, "want funcref or externref after the size of a table")
	}
	t.Type = valueType(&rest[0])
	return t, rest[1:]
}

func globalType(f *node, list []node) (t wasm.GlobalType, rest []node) {
	if len(list) == 0 {
		fail(f, "want the type of a global")
	}
	of := &list[0]
	if of.head() == "mut" && len(of.list) == 2 {
		t.Mutable, of = true, &of.list[1]
	}
	t.Type = valueType(of)
	return t, list[1:]
}

func (a *assembler) table(f *node, list []node, index uint32) {
	if len(list) == 2 && isRefType(&list[0]) && list[1].head() == "elem" {
		e := wasm.Elem{Table: index, Type: valueType(&list[0]), Offset: wasm.Expr{Op: wasm.OpI32Const}}
		a.elements(&e, list[1].list[1:])
		size := uint32(max(len(e.Funcs), len(e.Exprs)))
		a.m.Tables = append(a.m.Tables, wasm.Table{Type: e.Type, Limits: wasm.Limits{Min: size, Max: size, HasMax: true}})
		a.m.Elems = append(a.m.Elems, e)
		a.count[kindElem]++
		return
	}
	t, rest := tableType(f, list)
	if len(rest) > 0 {
		fail(&rest[0], "%s cannot be in a table", &rest[0])
	}
	a.m.Tables = append(a.m.Tables, t)
}

func (a *assembler) memory(f *node, list []node, index uint32) {
	if len(list) == 1 && list[0].head() == "data" {
		d := wasm.Data{Offset: wasm.Expr{Op: wasm.OpI32Const}, Bytes: texts(list[0].list[1:])}
		pages := uint32((len(d.Bytes) + wasm.PageBytes - 1) / wasm.PageBytes)
		a.m.Memories = append(a.m.Memories, wasm.Limits{Min: pages, Max: pages, HasMax: true})
		a.m.Datas = append(a.m.Datas, d)
		a.count[kindData]++
		return
	}
	l, rest := limits(f, list)
	if len(rest) > 0 {
		fail(&rest[0], "%s cannot be in a memory", &rest[0])
	}
	a.m.Memories = append(a.m.Memories, l)
}

// offset reads where a segment begins: (offset …) or one instruction in parentheses.
func (a *assembler) offset(f *node, list []node) (e wasm.Expr, rest []node) {
	if list[0].head() == "offset" {
		return a.constant(f, list[0].list[1:]), list[1:]
	}
	return a.constant(f, list[:1]), list[1:]
}

func (a *assembler) elem(f *node, list []node) {
	e := wasm.Elem{Type: wasm.FuncRef, Mode: wasm.ElemPassive}
	switch {
	case len(list) > 0 && list[0].word() == "declare":
		e.Mode, list = wasm.ElemDeclarative, list[1:]
	case len(list) > 0 && list[0].isList:
		e.Mode = wasm.ElemActive
		e.Table, _, list = a.use(wasm.KindTable, list)
		if len(list) == 0 || !list[0].isList {
			fail(f, "want where the segment begins, like (i32.const 0)")
		}
		e.Offset, list = a.offset(f, list)
	}
	a.elements(&e, list)
	a.m.Elems = append(a.m.Elems, e)
}

// elements reads what is in an element segment: functions, or constants of a type.
func (a *assembler) elements(e *wasm.Elem, list []node) {
	if len(list) > 0 && isRefType(&list[0]) {
		e.Type, e.Exprs = valueType(&list[0]), []wasm.Expr{}
		list = list[1:]
	} else if len(list) > 0 && list[0].isList {
		e.Exprs = []wasm.Expr{} // of a table that has told its type
	}
	if e.Exprs != nil {
		for i := range list {
			n := &list[i]
			if n.head() == "item" {
				e.Exprs = append(e.Exprs, a.constant(n, n.list[1:]))
			} else {
				e.Exprs = append(e.Exprs, a.constant(n, list[i:i+1]))
			}
		}
		if e.Type != wasm.FuncRef || slices.ContainsFunc(e.Exprs, func(x wasm.Expr) bool { return x.Op != wasm.OpRefFunc }) {
			return
		}
		for _, x := range e.Exprs { // functions have a shorter form
			e.Funcs = append(e.Funcs, uint32(x.Value))
		}
		e.Exprs = nil
		return
	}
	if len(list) > 0 && list[0].word() == "func" {
		list = list[1:]
	} else if e.Mode != wasm.ElemActive && len(list) > 0 {
		fail(&list[0], "want func or a type of references before what is in a segment")
	}
	for i := range list {
		e.Funcs = append(e.Funcs, a.index(wasm.KindFunc, &list[i]))
	}
}

func (a *assembler) data(f *node, list []node) {
	d := wasm.Data{Passive: true}
	if len(list) > 0 && list[0].isList {
		d.Passive = false
		var memory uint32
		memory, _, list = a.use(wasm.KindMemory, list)
		if memory != 0 {
			fail(f, "there is one memory, number 0")
		}
		if len(list) == 0 || !list[0].isList {
			fail(f, "want where the segment begins, like (i32.const 0)")
		}
		d.Offset, list = a.offset(f, list)
	}
	d.Bytes = texts(list)
	a.m.Datas = append(a.m.Datas, d)
}

// texts joins strings.
func texts(list []node) (b []byte) {
	for i := range list {
		b = append(b, text(&list[i])...)
	}
	return b
}

// constant reads a constant expression: one instruction.
func (a *assembler) constant(f *node, list []node) wasm.Expr {
	if len(list) == 1 && list[0].isList {
		f, list = &list[0], list[0].list
	}
	if len(list) == 0 {
		fail(f, "want a constant like (i32.const 1)")
	}
	op, args := &list[0], list[1:]
	if op.word() == "v128.const" {
		b, rest := vector(op, args)
		if len(rest) > 0 {
			fail(&rest[0], "%s is too much", &rest[0])
		}
		return wasm.Expr{Op: wasm.OpVector, Bytes: b}
	}
	in, known := instructions()[op.word()]
	if !known || len(args) != 1 {
		fail(op, "want a constant of one instruction, like (i32.const 1)")
	}
	switch arg := &args[0]; op.text {
	case "i32.const":
		return wasm.Expr{Op: in.code[0], Value: uint64(signExtended(integer(arg, 32), 32))}
	case "i64.const":
		return wasm.Expr{Op: in.code[0], Value: integer(arg, 64)}
	case "f32.const":
		return wasm.Expr{Op: in.code[0], Bytes: binary.LittleEndian.AppendUint32(nil, uint32(float(arg, 32)))}
	case "f64.const":
		return wasm.Expr{Op: in.code[0], Bytes: binary.LittleEndian.AppendUint64(nil, float(arg, 64))}
	case "global.get":
		return wasm.Expr{Op: in.code[0], Value: uint64(a.index(wasm.KindGlobal, arg))}
	case "ref.func":
		return wasm.Expr{Op: in.code[0], Value: uint64(a.index(wasm.KindFunc, arg))}
	case "ref.null":
		return wasm.Expr{Op: in.code[0], Value: uint64(heapType(arg))}
	}
	fail(op, "%s is not constant", op)
	return wasm.Expr{}
}

// heapType reads what a reference refers to.
func heapType(n *node) byte {
	switch n.word() {
	case "func":
		return wasm.FuncRef
	case "extern":
		return wasm.ExternRef
	}
	fail(n, "want func or extern, got %s", n)
	return 0
}
