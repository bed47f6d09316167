package wasm

import (
	"errors"
	"fmt"
)

// Value and reference types.
const (
	I32       byte = 0x7f
	I64       byte = 0x7e
	F32       byte = 0x7d
	F64       byte = 0x7c
	V128      byte = 0x7b
	FuncRef   byte = 0x70
	ExternRef byte = 0x6f
)

// Kinds of imports and exports.
const (
	KindFunc   byte = 0
	KindTable  byte = 1
	KindMemory byte = 2
	KindGlobal byte = 3
)

// PageBytes is the unit of a memory's size.
const PageBytes = 65536

// ErrComponent answers a component, which is not a core module: wazero runs none.
var ErrComponent = errors.New("this is a component (WebAssembly component model), and only core modules run here: " +
	"build the program for a core target like wasm32-wasip1, or take the core module out of the component")

// Magic is what every module begins with; the version after it tells modules from
// components.
const Magic = "\x00asm"

// ErrNotWasm answers what does not begin as WebAssembly does.
var ErrNotWasm = errors.New("this is not WebAssembly: it begins neither with \\0asm nor, as text, with a parenthesis")

// Error is what is wrong with a module, and where.
type Error struct {
	Offset int // of the module's bytes
	Text   string
}

func (e *Error) Error() string { return fmt.Sprintf("byte %#x: %s", e.Offset, e.Text) }

// Module is a core module. Byte slices in it are parts of what was parsed.
type Module struct {
	Types     []FuncType
	Imports   []Import
	Funcs     []uint32 // the types of the functions that are not imported
	Tables    []Table
	Memories  []Limits
	Globals   []Global
	Exports   []Export
	Start     *uint32
	Elems     []Elem
	DataCount bool
	Codes     []Code // as many as Funcs
	Datas     []Data

	Name      string // of the module; it may be empty
	FuncNames []FuncName

	counts [4]int // of imports, by kind
}

// FuncType is the type of a function.
type FuncType struct{ Params, Results []byte }

// String is the type as text: (i32 i64)->(i32).
func (t FuncType) String() string {
	return "(" + typeNames(t.Params) + ")->(" + typeNames(t.Results) + ")"
}

func typeNames(types []byte) string {
	names := map[byte]string{I32: "i32", I64: "i64", F32: "f32", F64: "f64", V128: "v128", FuncRef: "funcref", ExternRef: "externref"}
	text := ""
	for i, t := range types {
		if i > 0 {
			text += " "
		}
		text += names[t]
	}
	return text
}

// Import is what a module wants from outside.
type Import struct {
	Module, Name string
	Kind         byte
	Type         uint32 // of a function
	Table        Table
	Memory       Limits
	Global       GlobalType
}

// Limits are those of a table or a memory.
type Limits struct {
	Min    uint32
	Max    uint32 // if HasMax
	HasMax bool
}

// Table is a table's type.
type Table struct {
	Type   byte
	Limits Limits
}

// GlobalType is a global's type.
type GlobalType struct {
	Type    byte
	Mutable bool
}

// Global is a global and what it begins with.
type Global struct {
	GlobalType
	Init Expr
}

// Expr is a constant expression of one instruction; End is not part of it.
type Expr struct {
	Op    byte   // i32.const, i64.const, …; OpVector is v128.const
	Value uint64 // of i32.const and i64.const (sign-extended); the index of global.get and ref.func; the type of ref.null
	Bytes []byte // of f32.const, f64.const and v128.const
}

// Export is what a module offers.
type Export struct {
	Name  string
	Kind  byte
	Index uint32
}

// Modes of element segments.
const (
	ElemActive      byte = 0
	ElemPassive     byte = 1
	ElemDeclarative byte = 2
)

// Elem is an element segment.
type Elem struct {
	Mode   byte
	Table  uint32
	Offset Expr // of an active one
	Type   byte
	Funcs  []uint32 // function indexes; nil if there are Exprs
	Exprs  []Expr
}

// Code is a function's body.
type Code struct {
	Locals []Local
	Body   []byte // with its End
	offset int    // of Body in the module
}

// Local is a number of locals of one type.
type Local struct {
	Count uint32
	Type  byte
}

// Data is a data segment.
type Data struct {
	Passive bool
	Offset  Expr
	Bytes   []byte
}

// FuncName is a function's name, for people.
type FuncName struct {
	Index uint32
	Name  string
}

// Imported is how many imports there are of a kind.
func (m *Module) Imported(kind byte) int { return m.counts[kind] }

// FuncCount is how many functions there are, imported ones included.
func (m *Module) FuncCount() int { return m.counts[KindFunc] + len(m.Funcs) }

// TypeOf is the type of a function.
func (m *Module) TypeOf(function uint32) FuncType {
	n := uint32(m.counts[KindFunc])
	if function >= n {
		return m.Types[m.Funcs[function-n]]
	}
	for i := range m.Imports {
		if m.Imports[i].Kind != KindFunc {
			continue
		}
		if function == 0 {
			return m.Types[m.Imports[i].Type]
		}
		function--
	}
	panic("wasm: no such function")
}
