package wat

import (
	"encoding/binary"
	"math/bits"

	"github.com/gripway/gripway/guest/internal/wasm"
)

// body is a function's code being written.
type body struct {
	a      *assembler
	b      []byte
	blocks []block // open ones
}

// block is one that is open.
type block struct {
	label     string
	op        string // block, loop, if; else after that
	elseBegin int    // where it is in the code; 0: there is none
}

// function writes a function; list is what follows its name and its exports.
func (a *assembler) function(list []node) {
	t, _, list := a.typeUse(list, true)
	locals := a.m.Types[t].Params[:len(a.m.Types[t].Params):len(a.m.Types[t].Params)]
	params := len(locals)
	for len(list) > 0 && list[0].head() == "local" {
		locals = a.valuesOf(&list[0], locals, true)
		list = list[1:]
	}
	var code wasm.Code
	for _, t := range locals[params:] {
		if last := len(code.Locals) - 1; last >= 0 && code.Locals[last].Type == t {
			code.Locals[last].Count++
		} else {
			code.Locals = append(code.Locals, wasm.Local{Count: 1, Type: t})
		}
	}
	c := &body{a: a}
	c.sequence(list)
	code.Body = append(c.b, wasm.OpEnd)
	a.m.Funcs = append(a.m.Funcs, t)
	a.m.Codes = append(a.m.Codes, code)
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

// sequence writes instructions, flat ones and those in parentheses.
func (c *body) sequence(list []node) {
	outside := len(c.blocks)
	all := list
	for len(list) > 0 {
		if list[0].isList {
			c.folded(&list[0])
			list = list[1:]
			continue
		}
		n := &list[0]
		switch op := n.word(); op {
		case "block", "loop", "if":
			list = c.open(op, list[1:])
		case "else", "end":
			if len(c.blocks) == outside {
				fail(n, "%s belongs to no block", op)
			}
			last := &c.blocks[len(c.blocks)-1]
			if list = list[1:]; len(list) > 0 && list[0].isID() {
				if list[0].text != last.label {
					fail(&list[0], "%s ends a block that is called %q", &list[0], last.label)
				}
				list = list[1:]
			}
			if op == "end" {
				c.close()
				continue
			}
			if last.op != "if" {
				fail(n, "else belongs to no if")
			}
			c.otherwise()
		default:
			list = c.plain(list)
		}
	}
	if len(c.blocks) > outside {
		fail(&all[len(all)-1], "a block has no end")
	}
}

// folded writes (op immediates operands…).
func (c *body) folded(n *node) {
	if len(n.list) == 0 {
		fail(n, "an instruction is missing")
	}
	switch op := n.head(); op {
	case "block", "loop":
		c.sequence(c.open(op, n.list[1:]))
		c.close()
		return
	case "if":
		c.foldedIf(n)
		return
	}
	// Operands come after immediates in the text, and before the instruction.
	before := c.b
	c.b = nil
	operands := c.plain(n.list)
	code := c.b
	c.b = before
	for i := range operands {
		if !operands[i].isList {
			fail(&operands[i], "%s is too much", &operands[i])
		}
		c.folded(&operands[i])
	}
	c.b = append(c.b, code...)
}

// foldedIf writes (if condition… (then …) (else …)).
func (c *body) foldedIf(n *node) {
	before := c.b
	c.b = nil
	rest := c.open("if", n.list[1:])
	head, opened := c.b, c.blocks[len(c.blocks)-1]
	c.b, c.blocks = before, c.blocks[:len(c.blocks)-1]
	for len(rest) > 0 && rest[0].isList && rest[0].head() != "then" {
		c.folded(&rest[0])
		rest = rest[1:]
	}
	if len(rest) == 0 || len(rest) > 2 || rest[0].head() != "then" || len(rest) == 2 && rest[1].head() != "else" {
		fail(n, "want (if condition (then …) (else …))")
	}
	c.b, c.blocks = append(c.b, head...), append(c.blocks, opened)
	c.sequence(rest[0].list[1:])
	if len(rest) == 2 {
		c.otherwise()
		c.sequence(rest[1].list[1:])
	}
	c.close()
}

// open begins a block: its label and its type are read.
func (c *body) open(op string, list []node) (rest []node) {
	opened := block{op: op}
	if len(list) > 0 && list[0].isID() {
		opened.label, list = list[0].text, list[1:]
	}
	c.blocks = append(c.blocks, opened)
	c.b = append(c.b, map[string]byte{"block": wasm.OpBlock, "loop": wasm.OpLoop, "if": wasm.OpIf}[op])
	shape, after := c.a.signature(list, false)
	if len(list) > 0 && list[0].head() == "type" {
		var t uint32
		t, _, after = c.a.typeUse(list, false)
		shape = c.a.m.Types[t]
	}
	switch {
	case len(shape.Params) > 0 || len(shape.Results) > 1:
		t, _, _ := c.a.typeUse(list, false)
		c.signed(int64(t))
	case len(shape.Results) == 1:
		c.b = append(c.b, shape.Results[0])
	default:
		c.b = append(c.b, 0x40)
	}
	return after
}

// otherwise begins the second part of an if.
func (c *body) otherwise() {
	c.b = append(c.b, wasm.OpElse)
	last := &c.blocks[len(c.blocks)-1]
	last.op, last.elseBegin = "else", len(c.b)
}

func (c *body) close() {
	last := &c.blocks[len(c.blocks)-1]
	if last.elseBegin == len(c.b) { // it is empty, as if it were not there
		c.b = c.b[:len(c.b)-1]
	}
	c.blocks = c.blocks[:len(c.blocks)-1]
	c.b = append(c.b, wasm.OpEnd)
}

// label reads the name of an open block, or how far out it is.
func (c *body) label(n *node) uint32 {
	if n.isID() {
		for i := len(c.blocks) - 1; i >= 0; i-- {
			if c.blocks[i].label == n.text {
				return uint32(len(c.blocks) - 1 - i)
			}
		}
		fail(n, "there is no label %s", n.text)
	}
	v, ok := unsigned(n.word(), 32)
	if !ok {
		fail(n, "want the name or the number of a label, got %s", n)
	}
	return uint32(v)
}

// isIndex tells whether the next token is a name or a number.
func isIndex(list []node) bool {
	if len(list) == 0 {
		return false
	}
	_, number := unsigned(list[0].word(), 32)
	return number || list[0].isID()
}

// plain writes the instruction at the head of list and returns what follows it.
func (c *body) plain(list []node) (rest []node) {
	n := &list[0]
	rest = list[1:]
	in, ok := instructions()[n.word()]
	if !ok {
		fail(n, "instruction %s is unknown", n)
	}
	// next is the next immediate.
	next := func() *node {
		if len(rest) == 0 || rest[0].isList {
			fail(n, "%s wants more after it", n)
		}
		rest = rest[1:]
		return &list[len(list)-len(rest)-1]
	}
	c.b = append(c.b, in.code...)
	switch in.takes {
	case takesLabel:
		c.u32(c.label(next()))
	case takesLabels:
		labels := []uint32{c.label(next())}
		for isIndex(rest) {
			labels = append(labels, c.label(next()))
		}
		c.u32(uint32(len(labels) - 1))
		for _, l := range labels {
			c.u32(l)
		}
	case takesFunc:
		c.u32(c.a.index(wasm.KindFunc, next()))
	case takesGlobal:
		c.u32(c.a.index(wasm.KindGlobal, next()))
	case takesLocal:
		c.u32(c.a.index(kindLocal, next()))
	case takesType:
		table := c.optional(wasm.KindTable, &rest)
		var t uint32
		t, _, rest = c.a.typeUse(rest, false)
		c.u32(t)
		c.u32(table)
	case takesResult:
		// With types it is another instruction.
		t, after := c.a.signature(rest, false)
		if len(t.Params) > 0 {
			fail(n, "%s has no parameters", n)
		}
		if len(after) < len(rest) {
			c.b[len(c.b)-1]++
			c.u32(uint32(len(t.Results)))
			c.b = append(c.b, t.Results...)
			rest = after
		}
	case takesTable:
		c.u32(c.optional(wasm.KindTable, &rest))
	case takesTables:
		to, from := uint32(0), uint32(0)
		if isIndex(rest) {
			to, from = c.a.index(wasm.KindTable, next()), c.a.index(wasm.KindTable, next())
		}
		c.u32(to)
		c.u32(from)
	case takesElem:
		c.u32(c.a.index(kindElem, next()))
	case takesElemTable: // the table comes first in the text, and may be left out
		first, table := next(), uint32(0)
		if isIndex(rest) {
			table, first = c.a.index(wasm.KindTable, first), next()
		}
		c.u32(c.a.index(kindElem, first))
		c.u32(table)
	case takesData, takesDataMemory:
		c.a.m.DataCount = true // whoever reads the code has to know
		c.u32(c.a.index(kindData, next()))
		if in.takes == takesDataMemory {
			c.b = append(c.b, 0)
		}
	case takesMemory:
		c.memoryArgument(&in, &rest)
	case takesMemoryLane:
		c.memoryArgument(&in, &rest)
		c.b = append(c.b, lane(next()))
	case takesLane:
		c.b = append(c.b, lane(next()))
	case takesLanes:
		for range 16 {
			c.b = append(c.b, lane(next()))
		}
	case takesI32:
		c.signed(signExtended(integer(next(), 32), 32))
	case takesI64:
		c.signed(int64(integer(next(), 64)))
	case takesF32:
		c.b = binary.LittleEndian.AppendUint32(c.b, uint32(float(next(), 32)))
	case takesF64:
		c.b = binary.LittleEndian.AppendUint64(c.b, float(next(), 64))
	case takesV128:
		var b []byte
		b, rest = vector(n, rest)
		c.b = append(c.b, b...)
	case takesHeap:
		c.b = append(c.b, heapType(next()))
	}
	return rest
}

// optional reads an index that may be left out: it is 0 then.
func (c *body) optional(kind byte, rest *[]node) (index uint32) {
	if isIndex(*rest) {
		index = c.a.index(kind, &(*rest)[0])
		*rest = (*rest)[1:]
	}
	return index
}

// memoryArgument reads offset= and align=, which may be left out.
func (c *body) memoryArgument(in *instruction, rest *[]node) {
	align, offset := in.align, uint32(0)
	for i, key := range []string{"offset=", "align="} {
		if len(*rest) == 0 {
			break
		}
		n := &(*rest)[0]
		word := n.word()
		if len(word) < len(key) || word[:len(key)] != key {
			continue
		}
		v, ok := unsigned(word[len(key):], 32)
		if !ok || i == 1 && bits.OnesCount64(v) != 1 {
			fail(n, "%s: want a number of 32 bits, and of align a power of two", n)
		}
		if i == 0 {
			offset = uint32(v)
		} else {
			align = uint32(bits.TrailingZeros64(v))
		}
		*rest = (*rest)[1:]
	}
	c.u32(align)
	c.u32(offset)
}

// lane reads the number of a vector's lane.
func lane(n *node) byte {
	v, ok := unsigned(n.word(), 8)
	if !ok {
		fail(n, "%s is no number of a lane", n)
	}
	return byte(v)
}

// shapes are those of vectors: how many bits a lane has, and whether it is a float.
var shapes = map[string]struct {
	size  int
	float bool
}{"i8x16": {8, false}, "i16x8": {16, false}, "i32x4": {32, false}, "i64x2": {64, false}, "f32x4": {32, true}, "f64x2": {64, true}}

// vector reads a shape and its lanes.
func vector(op *node, list []node) (b []byte, rest []node) {
	if len(list) == 0 {
		fail(op, "want a shape like i32x4, and its lanes")
	}
	shape, ok := shapes[list[0].word()]
	if !ok || len(list) < 1+128/shape.size {
		fail(&list[0], "want a shape like i32x4, and all its lanes")
	}
	for list = list[1:]; len(b) < 16; list = list[1:] {
		v := uint64(0)
		if shape.float {
			v = float(&list[0], shape.size)
		} else {
			v = integer(&list[0], shape.size)
		}
		b = append(b, binary.LittleEndian.AppendUint64(nil, v)[:shape.size/8]...)
	}
	return b, list
}
