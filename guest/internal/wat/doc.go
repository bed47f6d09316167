// Package wat assembles modules that are written in WebAssembly's text format: all of
// chapter 6 of the core specification 2.0, vectors included. Annotations, (@name …),
// are passed over.
package wat

import (
	"bytes"
	"fmt"

	"github.com/gripway/gripway/guest/internal/wasm"
)

// Error is what is wrong with a text, and where.
type Error struct {
	Line int // from 1 on
	Text string
}

func (e *Error) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Text) }

// NestingMax bounds how deep lists are in one another.
const NestingMax = 10000

// IsText tells whether a file is a module as text: whatever is in front of it, it
// begins with a parenthesis, which no binary module does.
func IsText(file []byte) bool {
	for {
		file = bytes.TrimLeft(file, " \t\r\n")
		if !bytes.HasPrefix(file, []byte(";;")) {
			return bytes.HasPrefix(file, []byte("("))
		}
		_, file, _ = bytes.Cut(file, []byte("\n"))
	}
}

// Assemble turns text into a binary module. Whether the code is valid is not looked
// at: who compiles it does. Errors are *Error.
func Assemble(text []byte) (b []byte, err error) {
	defer caught(&b, &err)
	return assemble(read(string(text))), nil
}

func assemble(list []node) []byte {
	a := &assembler{types: make(map[string]uint32)}
	a.module(list)
	return a.m.Encode()
}

// caught makes an error of what fail has thrown.
func caught(b *[]byte, err *error) {
	switch e := recover().(type) {
	case nil:
	case *Error:
		*b, *err = nil, e
	default:
		panic(e)
	}
}

// fail ends the assembly.
func fail(n *node, format string, args ...any) {
	panic(&Error{n.line, fmt.Sprintf(format, args...)})
}

// Kinds of what has an index, beside those of imports and exports.
const (
	kindType byte = wasm.KindGlobal + 1 + iota
	kindElem
	kindData
	kindLocal
	kindCount
)

// kindNames are for people, and the words of the text.
var kindNames = [kindCount]string{
	wasm.KindFunc: "func", wasm.KindTable: "table", wasm.KindMemory: "memory", wasm.KindGlobal: "global",
	kindType: "type", kindElem: "elem", kindData: "data", kindLocal: "local",
}
