package wasm

// Opcodes that matter here; the others are known by what follows them.
const (
	OpBlock        byte = 0x02
	OpLoop         byte = 0x03
	OpIf           byte = 0x04
	OpElse         byte = 0x05
	OpEnd          byte = 0x0b
	OpBr           byte = 0x0c
	OpBrIf         byte = 0x0d
	OpReturn       byte = 0x0f
	OpCall         byte = 0x10
	OpCallIndirect byte = 0x11
	OpUnreachable  byte = 0x00
	OpLocalGet     byte = 0x20
	OpLocalSet     byte = 0x21
	OpLocalTee     byte = 0x22
	OpGlobalGet    byte = 0x23
	OpGlobalSet    byte = 0x24
	OpTableSet     byte = 0x26
	OpMemorySize   byte = 0x3f
	OpI32Const     byte = 0x41
	OpI64Const     byte = 0x42
	OpF32Const     byte = 0x43
	OpF64Const     byte = 0x44
	OpRefNull      byte = 0xd0
	OpRefFunc      byte = 0xd2
	OpMisc         byte = 0xfc // and a number
	OpVector       byte = 0xfd // and a number
)

// Numbers after OpMisc and OpVector.
const (
	miscMemoryInit = 8
	miscDataDrop   = 9
	miscMemoryCopy = 10
	miscMemoryFill = 11
	miscTableInit  = 12
	miscElemDrop   = 13
	miscTableCopy  = 14
	miscTableGrow  = 15
	miscTableFill  = 17

	vectorConst   = 12
	vectorShuffle = 13
)

// DepthMax bounds how deep blocks are nested in a function.
const DepthMax = 100000

// Instruction is one of a function's instructions.
type Instruction struct {
	Op    byte
	Sub   uint32 // after OpMisc and OpVector
	Index uint32 // of call, ref.func, global.get, memory.init, …: its first index
	At    int    // where it begins in the body
	Next  int    // where the next one begins
	Depth int    // how many blocks it is in; that of a block or an End is outside
}

// Walk calls visit for each instruction of a body, which is valid until visit
// returns. Blocks are balanced: the last
// one is the End of the function, at depth 0.
func (c *Code) Walk(visit func(in *Instruction)) (err error) {
	r := &reader{b: c.Body, end: len(c.Body)}
	defer func() {
		switch e := recover().(type) {
		case nil:
		case *Error:
			e.Offset += c.offset
			err = e
		default:
			panic(e)
		}
	}()
	depth := 0
	var in Instruction // one for all, since it escapes
	for {
		in = Instruction{At: r.at, Depth: depth}
		r.instruction(&in)
		in.Next = r.at
		switch in.Op {
		case OpBlock, OpLoop, OpIf:
			if depth++; depth > DepthMax {
				r.failf("more than %d blocks are in one another", DepthMax)
			}
		case OpElse:
			if depth == 0 {
				r.failf("else is outside of a block")
			}
			in.Depth--
		case OpEnd:
			if depth == 0 {
				if r.at != r.end {
					r.failf("code goes on after its end")
				}
				visit(&in)
				return nil
			}
			depth--
			in.Depth--
		}
		visit(&in)
	}
}

// instruction reads one instruction and what belongs to it.
func (r *reader) instruction(in *Instruction) {
	op := r.byte()
	in.Op = op
	switch { // what there is most of comes first
	case op >= 0x45 && op <= 0xc4: // numbers
	case op == OpCall || op >= OpLocalGet && op <= OpTableSet || op == OpRefFunc:
		in.Index = r.u32()
	case op == OpI32Const:
		r.signed(32)
	case op >= 0x28 && op <= 0x3e: // loads and stores
		r.u32()
		r.u32()
	case op == OpUnreachable || op == 0x01 || op == OpElse || op == OpEnd || op == OpReturn || op == 0x1a || op == 0x1b:
	case op == OpBlock || op == OpLoop || op == OpIf:
		r.signed(33)
	case op == OpBr || op == OpBrIf:
		r.u32()
	case op == 0x0e: // br_table
		r.vector(func() { r.u32() })
		r.u32()
	case op == OpCallIndirect:
		in.Index = r.u32()
		r.u32()
	case op == 0x1c: // select of a type
		r.vector(func() { r.valueType() })
	case op == OpMemorySize || op == 0x40: // and memory.grow
		r.u32()
	case op == OpI64Const:
		r.signed(64)
	case op == OpF32Const:
		r.bytes(4)
	case op == OpF64Const:
		r.bytes(8)
	case op == OpRefNull:
		r.refType()
	case op == 0xd1: // ref.is_null
	case op == OpMisc:
		in.Sub = r.u32()
		switch {
		case in.Sub < miscMemoryInit: // saturating conversions
		case in.Sub == miscDataDrop || in.Sub == miscMemoryFill || in.Sub == miscElemDrop || in.Sub >= miscTableGrow && in.Sub <= miscTableFill:
			in.Index = r.u32()
		case in.Sub < miscTableGrow:
			in.Index = r.u32()
			r.u32()
		default:
			r.failf("instruction fc %x is unknown", in.Sub)
		}
	case op == OpVector:
		in.Sub = r.u32()
		r.vectorInstruction(in.Sub)
	default:
		r.failf("instruction %#x is unknown: it is not WebAssembly 2.0", op)
	}
}

// vectorInstruction reads what follows the number of a vector instruction.
func (r *reader) vectorInstruction(sub uint32) {
	switch {
	case sub < vectorConst || sub == 92 || sub == 93: // loads and stores
		r.u32()
		r.u32()
	case sub == vectorConst || sub == vectorShuffle:
		r.bytes(16)
	case sub >= 21 && sub <= 34: // lanes
		r.byte()
	case sub >= 84 && sub <= 91: // loads and stores of lanes
		r.u32()
		r.u32()
		r.byte()
	case sub > 255:
		r.failf("instruction fd %x is unknown: it is not WebAssembly 2.0", sub)
	}
}
