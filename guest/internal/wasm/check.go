package wasm

import "fmt"

// Code that can be interrupted: machine code made of WebAssembly runs until it
// ends, and neither the scheduler nor the garbage collector can stop it. So every
// loop, when it comes round, and every function that calls others, when it is
// entered, pays for what it is about to do from a budget. When that is used up, a
// host function is called: there the scheduler gets its turn, the guest may be
// stopped, and the budget is filled again.
//
//	budget -= weight
//	if budget < 0 { budget = check() }
//
// The budget is a global. The compiler keeps it in a register where it can, so this
// costs a subtraction, a store and a branch that is never taken.
//
// A weight is about the number of instructions there are until the next payment; a
// copy costs what it copies. Budget is small enough that the worst a unit can buy,
// a load that misses all caches, does not add up to a stall.

// Budget is how many instructions, about, a guest runs between two checks.
const Budget = 1 << 19

// What things cost. Long stretches are rarely run whole: beyond weightFull only each
// sixteenth instruction counts.
const (
	weightFull     = 64
	weightRest     = 16
	weightCall     = 4
	weightTable    = 128     // instructions on a whole table, which is small
	weightMax      = 1 << 20 // what three bytes of LEB128 hold, less one
	leafMax        = 48      // instructions of a function that need not pay
	copyBytesShift = 2       // a unit copies 4 bytes: the pages may be fresh ones, or far away
	copyChunk      = 1 << 20 // bytes copied in one go
)

func weight(instructions int) int {
	if instructions > weightFull {
		instructions = weightFull + (instructions-weightFull)/weightRest
	}
	return min(instructions, weightMax-1)
}

// rewriter is what functions are rewritten with.
type rewriter struct {
	m         *Module
	functions []uint32 // the new index of each function
	globals   uint32   // how many there were
	budget    uint32   // the global
	check     uint32   // functions
	copy      uint32
	fill      uint32
	noChecks  bool

	fresh    string // Prepared.Fresh
	usesData bool   // data segments are named in code

	out    writer
	blocks []int // for each open block, the loop it is as an index of loops, or -1
	loops  []payment
}

// payment is one place where a loop or a function pays.
type payment struct{ at, instructions int }

// paymentBytes is the length of a payment: indexes are up to five bytes long.
func (w *writer) payment(budget, check, local uint32) (at int) {
	w.byte(OpGlobalGet)
	w.u32(budget)
	w.byte(OpI32Const)
	at = len(*w)
	*w = append(*w, 0x80, 0x80, 0x00) // the weight comes later
	*w = append(*w, 0x6b)             // i32.sub
	w.byte(OpLocalTee)
	w.u32(local)
	w.byte(OpGlobalSet)
	w.u32(budget)
	w.checkIf(budget, check, local)
	return at
}

// checkIf calls the check if the local is negative.
func (w *writer) checkIf(budget, check, local uint32) {
	w.byte(OpLocalGet)
	w.u32(local)
	*w = append(*w, OpI32Const, 0, 0x48 /* i32.lt_s */, OpIf, 0x40)
	w.byte(OpCall)
	w.u32(check)
	w.byte(OpGlobalSet)
	w.u32(budget)
	w.byte(OpEnd)
}

func (w writer) setWeight(at, instructions int) {
	v := weight(instructions)
	w[at], w[at+1], w[at+2] = byte(v)|0x80, byte(v>>7)|0x80, byte(v>>14)&0x3f
}

// function rewrites a function: its calls have new indexes, and it pays.
func (r *rewriter) function(index int) error {
	m, c := r.m, &r.m.Codes[index]
	locals := uint64(len(m.Types[m.Funcs[index]].Params))
	for _, l := range c.Locals {
		locals += uint64(l.Count)
	}
	local := uint32(locals) // one more, of our own
	r.out, r.blocks, r.loops = r.out[:0], r.blocks[:0], r.loops[:0]
	entry := r.out.payment(r.budget, r.check, local)
	entryLen := len(r.out)
	own, calls := 0, false // instructions outside of loops
	loopFirst, straight := false, true
	count := &own
	from := 0
	var bad error
	err := c.Walk(func(in *Instruction) {
		*count++
		var limit uint64
		flush := func() {
			r.out = append(r.out, c.Body[from:in.At]...)
			from = in.Next
		}
		switch in.Op {
		case OpBlock, OpIf, OpLoop:
			if t, ok := c.blockType(in); ok && t >= uint64(len(m.Types)) {
				bad = c.errorf(in, "there is no type %d", t)
			}
			if in.Op != OpLoop {
				if in.Op == OpIf {
					straight = false
				}
				r.blocks = append(r.blocks, -1)
				break
			}
			loopFirst = loopFirst || straight
			straight = false
			r.blocks = append(r.blocks, len(r.loops))
			r.loops = append(r.loops, payment{})
			if !r.noChecks {
				r.out = append(r.out, c.Body[from:in.Next]...)
				from = in.Next
				r.loops[len(r.loops)-1].at = r.out.payment(r.budget, r.check, local)
			}
			count = &r.loops[len(r.loops)-1].instructions
		case OpEnd:
			if len(r.blocks) == 0 {
				break
			}
			if n := len(r.blocks) - 1; r.blocks[n] >= 0 {
				r.blocks = r.blocks[:n]
				count = &own
				for i := n - 1; i >= 0; i-- {
					if r.blocks[i] >= 0 {
						count = &r.loops[r.blocks[i]].instructions
						break
					}
				}
			} else {
				r.blocks = r.blocks[:n]
			}
		case OpBr, OpBrIf, 0x0e, OpReturn, OpUnreachable, OpElse:
			straight = false
		case OpCall, OpRefFunc:
			if uint64(in.Index) >= uint64(len(r.functions)) {
				bad = c.errorf(in, "there is no function %d", in.Index)
				return
			}
			flush()
			r.out.byte(in.Op)
			r.out.u32(r.functions[in.Index])
			if in.Op == OpCall {
				calls, straight = true, false
				*count += weightCall
			}
		case OpCallIndirect:
			calls, straight = true, false
			*count += weightCall
			limit = uint64(len(m.Types))
		case OpLocalGet, OpLocalSet, OpLocalTee:
			limit = locals
		case OpGlobalGet, OpGlobalSet:
			limit = uint64(r.globals)
		case OpMisc:
			switch in.Sub {
			case miscMemoryCopy, miscMemoryFill:
				if r.noChecks {
					break
				}
				calls = true
				flush()
				r.out.byte(OpCall)
				r.out.u32(map[bool]uint32{true: r.copy, false: r.fill}[in.Sub == miscMemoryCopy])
				*count += weightCall
			case miscTableCopy, miscTableFill, miscTableInit, miscTableGrow:
				*count += weightTable
				r.fresh = "its code changes tables"
			case miscElemDrop:
				r.fresh = "its code drops element segments"
			case miscMemoryInit:
				r.usesData = true
			case miscDataDrop:
				r.usesData = true
				r.fresh = "its code drops data segments"
			}
		case OpTableSet:
			r.fresh = "its code changes tables"
		}
		switch in.Op {
		case OpLocalGet, OpLocalSet, OpLocalTee, OpGlobalGet, OpGlobalSet, OpCallIndirect:
			if uint64(in.Index) >= limit {
				bad = c.errorf(in, "there is no %d for instruction %#x", in.Index, in.Op)
			}
		}
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return err
	}
	r.out = append(r.out, c.Body[from:]...)
	for _, l := range r.loops {
		if !r.noChecks {
			r.out.setWeight(l.at, l.instructions)
		}
	}
	// A loop that is run into straight away pays for the function as well, and a
	// short function that calls nobody is paid for by who calls it.
	enter := !r.noChecks && !(loopFirst || !calls && len(r.loops) == 0 && own <= leafMax)
	switch {
	case enter:
		r.out.setWeight(entry, own)
		c.Body = append([]byte(nil), r.out...)
	default:
		c.Body = append([]byte(nil), r.out[entryLen:]...)
	}
	if enter || !r.noChecks && len(r.loops) > 0 {
		if locals >= LocalsMax {
			return c.errorf(&Instruction{}, "a function has %d locals, and one more is needed", locals)
		}
		c.Locals = append(c.Locals[:len(c.Locals):len(c.Locals)], Local{1, I32})
	}
	return nil
}

// blockType is the type of a block, if it is an index.
func (c *Code) blockType(in *Instruction) (index uint64, ok bool) {
	r := &reader{b: c.Body, at: in.At + 1, end: len(c.Body)}
	t := r.signed(33)
	return uint64(t), t >= 0
}

func (c *Code) errorf(in *Instruction, format string, args ...any) error {
	return &Error{c.offset + in.At, fmt.Sprintf(format, args...)}
}

// copyCode is memory.copy that pays and can be interrupted; with fill, memory.fill.
// Parameters are destination 0, source or value 1, length 2.
//
//	budget -= length >> 4
//	if budget < 0 { budget = check() }
//	if length <= chunk || it does not fit { the instruction; return }
//	loop { check; one chunk }, from the end if that is where it must begin
func (r *rewriter) copyCode(fill bool) Code {
	const (
		length, local, at, size = 2, 3, 4, 5
	)
	var w writer
	get := func(i uint32) { w.byte(OpLocalGet); w.u32(i) }
	set := func(i uint32) { w.byte(OpLocalSet); w.u32(i) }
	constant := func(v int64) { w.byte(OpI32Const); w.signed(v) }
	op := func() {
		w.byte(OpMisc)
		if fill {
			w = append(w, miscMemoryFill, 0)
		} else {
			w = append(w, miscMemoryCopy, 0, 0)
		}
	}
	pay := func() {
		w.byte(OpGlobalGet)
		w.u32(r.budget)
		get(size)
		constant(copyBytesShift)
		w = append(w, 0x76, 0x6b) // i32.shr_u, i32.sub
		w.byte(OpLocalTee)
		w.u32(local)
		w.byte(OpGlobalSet)
		w.u32(r.budget)
		w.checkIf(r.budget, r.check, local)
	}
	extend := func(i uint32) { get(i); w.byte(0xad) } // i64.extend_i32_u
	outside := func(i uint32) {                       // whether i+length is outside of the memory
		extend(i)
		extend(length)
		w.byte(0x7c) // i64.add
		w = append(w, OpMemorySize, 0, 0xad, OpI64Const, 16, 0x86 /* i64.shl */, 0x56 /* i64.gt_u */)
	}
	// One go, if it is short or traps.
	constant(copyChunk)
	get(length)
	w.byte(0x4f) // i32.ge_u
	outside(0)
	w.byte(0x72) // i32.or
	if !fill {
		outside(1)
		w.byte(0x72)
	}
	w = append(w, OpIf, 0x40)
	get(length)
	constant(copyChunk)
	get(length)
	constant(copyChunk)
	w = append(w, 0x49, 0x1b) // i32.lt_u, select: a length that traps costs no more than a chunk
	set(size)
	pay()
	get(0)
	get(1)
	get(length)
	op()
	w = append(w, OpReturn, OpEnd)
	// Chunks. at is how much has been copied.
	w = append(w, OpLoop, 0x40)
	get(length)
	get(at)
	w.byte(0x6b)
	set(size)
	constant(copyChunk)
	get(size)
	constant(copyChunk)
	get(size)
	w = append(w, 0x49, 0x1b) // i32.lt_u, select
	set(size)
	pay()
	address := func(i uint32, backwards bool) {
		get(i)
		if backwards { // i + length - at - size
			get(length)
			w.byte(0x6a)
			get(at)
			w.byte(0x6b)
			get(size)
			w.byte(0x6b)
			return
		}
		get(at)
		w.byte(0x6a)
	}
	if fill {
		address(0, false)
		get(1)
		get(size)
		op()
	} else {
		get(0)
		get(1)
		w = append(w, 0x4b /* i32.gt_u */, OpIf, 0x40)
		address(0, true)
		address(1, true)
		get(size)
		op()
		w.byte(OpElse)
		address(0, false)
		address(1, false)
		get(size)
		op()
		w.byte(OpEnd)
	}
	get(at)
	get(size)
	w.byte(0x6a)
	w.byte(OpLocalTee)
	w.u32(at)
	get(length)
	w = append(w, 0x49, OpBrIf, 0, OpEnd, OpEnd) // i32.lt_u
	return Code{Locals: []Local{{3, I32}}, Body: w}
}
