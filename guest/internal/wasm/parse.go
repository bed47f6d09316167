package wasm

import (
	"fmt"
	"unicode/utf8"
)

// LocalsMax bounds the locals of one function: engines agree on it.
const LocalsMax = 50000

// Section ids.
const (
	sectionCustom byte = iota
	sectionType
	sectionImport
	sectionFunction
	sectionTable
	sectionMemory
	sectionGlobal
	sectionExport
	sectionStart
	sectionElement
	sectionCode
	sectionData
	sectionDataCount
)

// sectionOrder is the place of each section in a module.
var sectionOrder = [...]int{sectionType: 1, sectionImport: 2, sectionFunction: 3, sectionTable: 4, sectionMemory: 5, sectionGlobal: 6,
	sectionExport: 7, sectionStart: 8, sectionElement: 9, sectionDataCount: 10, sectionCode: 11, sectionData: 12}

// Parse reads a module. What it returns shares b. Errors are *Error, ErrComponent
// or ErrNotWasm.
func Parse(b []byte) (m *Module, err error) {
	if len(b) < 8 || string(b[:4]) != Magic {
		return nil, ErrNotWasm
	}
	switch string(b[4:8]) {
	case "\x01\x00\x00\x00":
	case "\x0d\x00\x01\x00":
		return nil, ErrComponent
	default:
		return nil, &Error{4, fmt.Sprintf("version % x is unknown, 01 00 00 00 is known", b[4:8])}
	}
	defer func() {
		switch e := recover().(type) {
		case nil:
		case *Error:
			m, err = nil, e
		default:
			panic(e)
		}
	}()
	r := &reader{b: b, at: 8, end: len(b)}
	m = &Module{}
	last := 0
	funcs := -1
	dataCount, datas := -1, 0
	for r.at < r.end {
		id := r.byte()
		n := r.u32()
		s := r.sub(int(n))
		if id == sectionCustom {
			m.custom(s)
			continue
		}
		if int(id) >= len(sectionOrder) {
			r.failf("section %d is unknown", id)
		}
		if sectionOrder[id] <= last {
			r.failf("section %d is out of order or there twice", id)
		}
		last = sectionOrder[id]
		switch id {
		case sectionType:
			m.types(s)
		case sectionImport:
			m.imports(s)
		case sectionFunction:
			s.vector(func() { m.Funcs = append(m.Funcs, s.index(len(m.Types), "type")) })
		case sectionTable:
			s.vector(func() { m.Tables = append(m.Tables, s.table()) })
		case sectionMemory:
			s.vector(func() { m.Memories = append(m.Memories, s.limits()) })
		case sectionGlobal:
			s.vector(func() {
				m.Globals = append(m.Globals, Global{GlobalType: s.globalType()})
				m.Globals[len(m.Globals)-1].Init = s.expr(m)
			})
		case sectionExport:
			m.exports(s)
		case sectionStart:
			start := s.index(m.FuncCount(), "function")
			m.Start = &start
		case sectionElement:
			s.vector(func() { m.Elems = append(m.Elems, s.elem(m)) })
		case sectionDataCount:
			dataCount = int(s.u32())
			m.DataCount = true
		case sectionCode:
			s.vector(func() { m.Codes = append(m.Codes, s.code()) })
			funcs = len(m.Codes)
		case sectionData:
			s.vector(func() { m.Datas = append(m.Datas, s.data(m)) })
			datas = len(m.Datas)
		}
		if s.at != s.end {
			s.failf("section %d has %d bytes too many", id, s.end-s.at)
		}
	}
	if funcs < 0 {
		funcs = 0
	}
	if funcs != len(m.Funcs) {
		r.failf("%d functions are declared and %d have code", len(m.Funcs), funcs)
	}
	if dataCount >= 0 && dataCount != datas {
		r.failf("%d data segments are declared and %d are there", dataCount, datas)
	}
	if n := m.counts[KindMemory] + len(m.Memories); n > 1 {
		r.failf("there are %d memories, one may be", n)
	}
	return m, nil
}

func (m *Module) types(s *reader) {
	s.vector(func() {
		if form := s.byte(); form != 0x60 {
			s.failf("type of form %#x is unknown, functions are 0x60", form)
		}
		m.Types = append(m.Types, FuncType{s.valueTypes(), s.valueTypes()})
	})
}

func (m *Module) imports(s *reader) {
	s.vector(func() {
		i := Import{Module: s.name(), Name: s.name(), Kind: s.byte()}
		switch i.Kind {
		case KindFunc:
			i.Type = s.index(len(m.Types), "type")
		case KindTable:
			i.Table = s.table()
		case KindMemory:
			i.Memory = s.limits()
		case KindGlobal:
			i.Global = s.globalType()
		default:
			s.failf("import %q %q is of unknown kind %d", i.Module, i.Name, i.Kind)
		}
		m.counts[i.Kind]++
		m.Imports = append(m.Imports, i)
	})
}

func (m *Module) exports(s *reader) {
	seen := make(map[string]bool)
	s.vector(func() {
		e := Export{Name: s.name(), Kind: s.byte()}
		if seen[e.Name] {
			s.failf("export %q is there twice", e.Name)
		}
		seen[e.Name] = true
		switch e.Kind {
		case KindFunc:
			e.Index = s.index(m.FuncCount(), "function")
		case KindTable:
			e.Index = s.index(m.counts[KindTable]+len(m.Tables), "table")
		case KindMemory:
			e.Index = s.index(m.counts[KindMemory]+len(m.Memories), "memory")
		case KindGlobal:
			e.Index = s.index(m.counts[KindGlobal]+len(m.Globals), "global")
		default:
			s.failf("export %q is of unknown kind %d", e.Name, e.Kind)
		}
		m.Exports = append(m.Exports, e)
	})
}

// custom reads a custom section. Only names matter; a name section that is broken
// is not the module's fault, and is as if it were not there.
func (m *Module) custom(s *reader) {
	if s.name() != "name" {
		return
	}
	defer func() {
		if e := recover(); e != nil {
			if _, ok := e.(*Error); !ok {
				panic(e)
			}
			m.FuncNames = nil
		}
	}()
	for s.at < s.end {
		id := s.byte()
		sub := s.sub(int(s.u32()))
		switch id {
		case 0:
			m.Name = sub.name()
		case 1:
			m.FuncNames = nil
			sub.vector(func() { m.FuncNames = append(m.FuncNames, FuncName{sub.u32(), sub.name()}) })
		}
	}
}

// reader reads bytes. It panics with an *Error.
type reader struct {
	b       []byte
	at, end int
}

func (r *reader) failf(format string, args ...any) {
	panic(&Error{r.at, fmt.Sprintf(format, args...)})
}

func (r *reader) byte() byte {
	if r.at >= r.end {
		r.failf("it ends too early")
	}
	r.at++
	return r.b[r.at-1]
}

// sub is a reader of the next n bytes, which are passed over.
func (r *reader) sub(n int) *reader {
	r.bytes(n)
	return &reader{r.b, r.at - n, r.at}
}

func (r *reader) bytes(n int) []byte {
	if n > r.end-r.at {
		r.failf("%d bytes are announced and %d are there", n, r.end-r.at)
	}
	r.at += n
	return r.b[r.at-n : r.at : r.at]
}

// unsigned reads a LEB128 of so many bits.
func (r *reader) unsigned(bits uint) uint64 {
	var v uint64
	for shift := uint(0); ; shift += 7 {
		b := r.byte()
		if left := bits - shift; left < 7 && b>>left != 0 {
			r.failf("integer is longer than %d bits", bits)
		}
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
}

// signed reads a signed LEB128 of so many bits.
func (r *reader) signed(bits uint) int64 {
	var v int64
	for shift := uint(0); ; shift += 7 {
		b := r.byte()
		left := bits - shift
		if left < 7 {
			top := int8(b<<1) >> left // the sign bit and what is above it
			if b >= 0x80 || top != 0 && top != -1 {
				r.failf("integer is longer than %d bits", bits)
			}
		}
		v |= int64(b&0x7f) << shift
		if b < 0x80 {
			if shift+7 < 64 && b&0x40 != 0 {
				v |= -1 << (shift + 7)
			}
			return v
		}
		if left <= 7 {
			r.failf("integer is longer than %d bits", bits)
		}
	}
}

func (r *reader) u32() uint32 { return uint32(r.unsigned(32)) }

// index reads an index of something there are n of.
func (r *reader) index(n int, what string) uint32 {
	i := r.u32()
	if uint64(i) >= uint64(n) {
		r.failf("there is no %s %d", what, i)
	}
	return i
}

// vector calls read for each element of a vector. Every element has at least one
// byte, so a length that is too large is found out before anything grows.
func (r *reader) vector(read func()) {
	n := r.u32()
	if uint64(n) > uint64(r.end-r.at) {
		r.failf("%d elements do not fit into %d bytes", n, r.end-r.at)
	}
	for range n {
		read()
	}
}

func (r *reader) name() string {
	n := r.u32()
	b := r.bytes(int(n))
	if !utf8.Valid(b) {
		r.failf("name %q is not UTF-8", b)
	}
	return string(b)
}

func (r *reader) valueType() byte {
	t := r.byte()
	switch t {
	case I32, I64, F32, F64, V128, FuncRef, ExternRef:
	default:
		r.failf("value type %#x is unknown", t)
	}
	return t
}

func (r *reader) refType() byte {
	t := r.byte()
	if t != FuncRef && t != ExternRef {
		r.failf("reference type %#x is unknown", t)
	}
	return t
}

func (r *reader) valueTypes() []byte {
	n := int(r.u32())
	b := r.bytes(n)
	check := &reader{r.b, r.at - n, r.at}
	for range b {
		check.valueType()
	}
	return b
}

func (r *reader) limits() Limits {
	switch flag := r.byte(); flag {
	case 0:
		return Limits{Min: r.u32()}
	case 1:
		l := Limits{Min: r.u32(), Max: r.u32(), HasMax: true}
		if l.Max < l.Min {
			r.failf("maximum %d is below minimum %d", l.Max, l.Min)
		}
		return l
	default:
		r.failf("limits of kind %d are unknown: shared and 64-bit memories are not WebAssembly 2.0", flag)
		return Limits{}
	}
}

func (r *reader) table() Table { return Table{r.refType(), r.limits()} }

func (r *reader) globalType() GlobalType {
	t := r.valueType()
	m := r.byte()
	if m > 1 {
		r.failf("mutability %d is unknown", m)
	}
	return GlobalType{t, m == 1}
}

// expr reads a constant expression.
func (r *reader) expr(m *Module) Expr {
	e := Expr{Op: r.byte()}
	switch e.Op {
	case OpI32Const:
		e.Value = uint64(r.signed(32))
	case OpI64Const:
		e.Value = uint64(r.signed(64))
	case OpF32Const:
		e.Bytes = r.bytes(4)
	case OpF64Const:
		e.Bytes = r.bytes(8)
	case OpVector:
		if op := r.u32(); op != vectorConst {
			r.failf("instruction fd %x is not constant", op)
		}
		e.Bytes = r.bytes(16)
	case OpGlobalGet:
		e.Value = uint64(r.index(m.counts[KindGlobal]+len(m.Globals), "global"))
	case OpRefFunc:
		e.Value = uint64(r.index(m.FuncCount(), "function"))
	case OpRefNull:
		e.Value = uint64(r.refType())
	default:
		r.failf("instruction %#x is not constant", e.Op)
	}
	if op := r.byte(); op != OpEnd {
		r.failf("constant expression goes on with %#x", op)
	}
	return e
}

// elem reads an element segment. Bit 0 of what it begins with: passive or
// declarative; bit 1: declarative, or with a table index; bit 2: expressions.
func (r *reader) elem(m *Module) Elem {
	flags := r.u32()
	if flags > 7 {
		r.failf("element segment of kind %d is unknown", flags)
	}
	e := Elem{Type: FuncRef}
	switch {
	case flags&1 == 0:
		if flags&2 != 0 {
			e.Table = r.index(m.counts[KindTable]+len(m.Tables), "table")
		}
		e.Offset = r.expr(m)
	case flags&2 != 0:
		e.Mode = ElemDeclarative
	default:
		e.Mode = ElemPassive
	}
	if flags&3 != 0 { // it tells what its elements are
		if flags&4 != 0 {
			e.Type = r.refType()
		} else if kind := r.byte(); kind != 0 {
			r.failf("elements of kind %d are unknown", kind)
		}
	}
	if flags&4 != 0 {
		e.Exprs = []Expr{}
		r.vector(func() { e.Exprs = append(e.Exprs, r.expr(m)) })
	} else {
		r.vector(func() { e.Funcs = append(e.Funcs, r.index(m.FuncCount(), "function")) })
	}
	return e
}

func (r *reader) code() Code {
	s := r.sub(int(r.u32()))
	c := Code{}
	total := uint64(0)
	s.vector(func() {
		l := Local{s.u32(), s.valueType()}
		if total += uint64(l.Count); total > LocalsMax {
			s.failf("a function has more than %d locals", LocalsMax)
		}
		c.Locals = append(c.Locals, l)
	})
	c.offset = s.at
	c.Body = s.bytes(s.end - s.at)
	return c
}

func (r *reader) data(m *Module) Data {
	d := Data{}
	switch kind := r.u32(); kind {
	case 0:
		d.Offset = r.expr(m)
	case 1:
		d.Passive = true
	case 2:
		r.index(m.counts[KindMemory]+len(m.Memories), "memory")
		d.Offset = r.expr(m)
	default:
		r.failf("data segment of kind %d is unknown", kind)
	}
	d.Bytes = r.bytes(int(r.u32()))
	return d
}
