package wasm

import "encoding/binary"

// Encode writes the module.
func (m *Module) Encode() []byte {
	size := 1 << 12
	for i := range m.Codes {
		size += len(m.Codes[i].Body) + 8
	}
	for i := range m.Datas {
		size += len(m.Datas[i].Bytes) + 8
	}
	w := writer(make([]byte, 0, size))
	w = append(w, Magic+"\x01\x00\x00\x00"...)
	section(&w, sectionType, len(m.Types), func(w *writer, i int) {
		w.byte(0x60)
		w.name(string(m.Types[i].Params))
		w.name(string(m.Types[i].Results))
	})
	section(&w, sectionImport, len(m.Imports), func(w *writer, i int) {
		w.name(m.Imports[i].Module)
		w.name(m.Imports[i].Name)
		w.byte(m.Imports[i].Kind)
		switch m.Imports[i].Kind {
		case KindFunc:
			w.u32(m.Imports[i].Type)
		case KindTable:
			w.table(m.Imports[i].Table)
		case KindMemory:
			w.limits(m.Imports[i].Memory)
		case KindGlobal:
			w.globalType(m.Imports[i].Global)
		}
	})
	section(&w, sectionFunction, len(m.Funcs), func(w *writer, i int) { w.u32(m.Funcs[i]) })
	section(&w, sectionTable, len(m.Tables), func(w *writer, i int) { w.table(m.Tables[i]) })
	section(&w, sectionMemory, len(m.Memories), func(w *writer, i int) { w.limits(m.Memories[i]) })
	section(&w, sectionGlobal, len(m.Globals), func(w *writer, i int) {
		w.globalType(m.Globals[i].GlobalType)
		w.expr(m.Globals[i].Init)
	})
	section(&w, sectionExport, len(m.Exports), func(w *writer, i int) {
		w.name(m.Exports[i].Name)
		w.byte(m.Exports[i].Kind)
		w.u32(m.Exports[i].Index)
	})
	if m.Start != nil {
		var s writer
		s.u32(*m.Start)
		w.byte(sectionStart)
		w.name(string(s))
	}
	section(&w, sectionElement, len(m.Elems), func(w *writer, i int) { w.elem(&m.Elems[i]) })
	if m.DataCount {
		var s writer
		s.u32(uint32(len(m.Datas)))
		w.byte(sectionDataCount)
		w.name(string(s))
	}
	section(&w, sectionCode, len(m.Codes), func(w *writer, i int) {
		var head writer
		head.u32(uint32(len(m.Codes[i].Locals)))
		for _, l := range m.Codes[i].Locals {
			head.u32(l.Count)
			head.byte(l.Type)
		}
		w.u32(uint32(len(head) + len(m.Codes[i].Body)))
		*w = append(append(*w, head...), m.Codes[i].Body...)
	})
	section(&w, sectionData, len(m.Datas), func(w *writer, i int) {
		if m.Datas[i].Passive {
			w.byte(1)
		} else {
			w.byte(0)
			w.expr(m.Datas[i].Offset)
		}
		w.name(string(m.Datas[i].Bytes))
	})
	if m.Name != "" || len(m.FuncNames) > 0 {
		w.names(m)
	}
	return w
}

// section writes a section of n elements; none if there are none.
func section(w *writer, id byte, n int, write func(w *writer, i int)) {
	if n == 0 {
		return
	}
	w.byte(id)
	w.sized(func() {
		w.u32(uint32(n))
		for i := range n {
			write(w, i)
		}
	})
}

func (w *writer) names(m *Module) {
	w.byte(sectionCustom)
	w.sized(func() {
		w.name("name")
		if m.Name != "" {
			w.byte(0)
			w.sized(func() { w.name(m.Name) })
		}
		if len(m.FuncNames) > 0 {
			w.byte(1)
			w.sized(func() {
				w.u32(uint32(len(m.FuncNames)))
				for _, f := range m.FuncNames {
					w.u32(f.Index)
					w.name(f.Name)
				}
			})
		}
	})
}

// writer is bytes being written.
type writer []byte

func (w *writer) byte(b byte)  { *w = append(*w, b) }
func (w *writer) u32(v uint32) { *w = binary.AppendUvarint(*w, uint64(v)) }

// sized writes what write writes, after its length, which takes five bytes.
func (w *writer) sized(write func()) {
	at := len(*w)
	*w = append(*w, 0, 0, 0, 0, 0)
	write()
	n := len(*w) - at - 5
	for i := range 5 {
		b := byte(n>>(7*i)) & 0x7f
		if i < 4 {
			b |= 0x80
		}
		(*w)[at+i] = b
	}
}

func (w *writer) signed(v int64) {
	for {
		b := byte(v & 0x7f)
		v >>= 7
		if v == 0 && b&0x40 == 0 || v == -1 && b&0x40 != 0 {
			w.byte(b)
			return
		}
		w.byte(b | 0x80)
	}
}

func (w *writer) name(s string) {
	w.u32(uint32(len(s)))
	*w = append(*w, s...)
}

func (w *writer) limits(l Limits) {
	if !l.HasMax {
		w.byte(0)
		w.u32(l.Min)
		return
	}
	w.byte(1)
	w.u32(l.Min)
	w.u32(l.Max)
}

func (w *writer) table(t Table) {
	w.byte(t.Type)
	w.limits(t.Limits)
}

func (w *writer) globalType(g GlobalType) {
	w.byte(g.Type)
	if g.Mutable {
		w.byte(1)
	} else {
		w.byte(0)
	}
}

func (w *writer) expr(e Expr) {
	w.byte(e.Op)
	switch e.Op {
	case OpI32Const, OpI64Const:
		w.signed(int64(e.Value))
	case OpVector:
		w.u32(vectorConst)
		*w = append(*w, e.Bytes...)
	case OpF32Const, OpF64Const:
		*w = append(*w, e.Bytes...)
	case OpRefNull:
		w.byte(byte(e.Value))
	default:
		w.u32(uint32(e.Value))
	}
	w.byte(OpEnd)
}

func (w *writer) elem(e *Elem) {
	flags := uint32(0)
	switch {
	case e.Mode == ElemPassive:
		flags = 1
	case e.Mode == ElemDeclarative:
		flags = 3
	case e.Table != 0 || e.Type != FuncRef:
		flags = 2
	}
	if e.Exprs != nil {
		flags |= 4
	}
	w.u32(flags)
	if e.Mode == ElemActive {
		if flags&2 != 0 {
			w.u32(e.Table)
		}
		w.expr(e.Offset)
	}
	if flags&3 != 0 {
		if e.Exprs != nil {
			w.byte(e.Type)
		} else {
			w.byte(0)
		}
	}
	if e.Exprs != nil {
		w.u32(uint32(len(e.Exprs)))
		for _, x := range e.Exprs {
			w.expr(x)
		}
		return
	}
	w.u32(uint32(len(e.Funcs)))
	for _, f := range e.Funcs {
		w.u32(f)
	}
}
