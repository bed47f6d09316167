package wasm

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// HostModule is the module of the functions that prepared code calls, and the
// prefix of what is exported for the host.
const HostModule = "gripway"

// Host functions, by name: each is there only if the module needs it.
const (
	HostCheck   = "check"   // ()->(i32): the budget is used up; returns a new one
	HostUnknown = "unknown" // (i32)->(): an unknown import was called, this one of Prepared.Unknown
	HostPark    = "park"    // ()->(i32): a function of Options.Park is about to be called; it is, when this returns other than 0
	HostOver    = "over"    // ()->(): with Options.Park, _start is about to return
)

// TableMax bounds the elements of a table: Viceroy's number.
const TableMax = 98765

// Options say how a module is prepared.
type Options struct {
	// Known returns the type of a host function. An import that it does not know
	// becomes a trap.
	Known func(module, name string) (FuncType, bool)

	// Park are functions that ask HostPark before each call.
	Park func(module, name string) bool

	// MemoryMax bounds the pages that the memory may begin with. Zero means all that
	// WebAssembly has, 65536.
	MemoryMax uint32

	// NoChecks leaves out the checks, to measure what they cost.
	NoChecks bool
}

// Prepared is a module ready to be compiled, and what was taken out of it.
type Prepared struct {
	Wasm []byte

	// Imports are the functions it imported, Unknown those of them that are not
	// known.
	Imports, Unknown []Import

	// Exports are its own functions, by name.
	Exports []string

	// Memory says whether it has one, MemoryMin is its size in pages, and Image what
	// it begins with: the rest is zeros.
	Memory    bool
	MemoryMin uint32
	Image     []byte

	// Start is what the start function is exported as. Empty: there is none.
	Start string

	// Parks says whether there are functions that ask HostPark.
	Parks bool

	// Globals are those that may change, exported by these names, with their types.
	Globals []SavedGlobal

	// Fresh says why an instance cannot be made as new by resetting its memory and
	// its Globals. Empty: it can.
	Fresh string
}

// SavedGlobal is a global that may change.
type SavedGlobal struct {
	Export string
	Type   byte
	Value  uint64 // that it begins with, as wazero's api has it
}

// Prepare changes a module so that the host can run it: it can be interrupted, its
// memory comes from outside, unknown imports are traps.
func Prepare(b []byte, opts Options) (*Prepared, error) {
	m, err := Parse(b)
	if err != nil {
		return nil, err
	}
	return m.Prepare(opts)
}

// Prepare is the function Prepare of a module that has been parsed, and is used up.
func (m *Module) Prepare(opts Options) (*Prepared, error) {
	p := &Prepared{}
	for _, e := range m.Exports {
		if strings.HasPrefix(e.Name, HostModule+":") {
			return nil, fmt.Errorf("export %q: names that begin with %q are the host's own", e.Name, HostModule+":")
		}
		if e.Kind == KindFunc {
			p.Exports = append(p.Exports, e.Name)
		}
	}
	for i := range m.Tables {
		t := &m.Tables[i].Limits
		if t.Min > TableMax {
			return nil, fmt.Errorf("table %d has %d elements, %d may be", i, t.Min, TableMax)
		}
		if !t.HasMax || t.Max > TableMax {
			t.Max, t.HasMax = TableMax, true
		}
	}
	// Functions: imports that are known, the host's, the module's own, ours.
	if opts.MemoryMax == 0 {
		opts.MemoryMax = 65536
	}
	if len(m.Memories) == 0 {
		// Every address is outside of an empty one, and host functions need not ask
		// whether there is any.
		m.Memories = []Limits{{HasMax: true}}
	}
	for _, l := range m.Memories {
		if l.Min > opts.MemoryMax {
			return nil, fmt.Errorf("the memory begins with %d pages, %d may be", l.Min, opts.MemoryMax)
		}
	}
	var imports []Import
	functions := make([]uint32, 0, m.FuncCount())
	var unknown, parked []int // places in functions
	for _, i := range m.Imports {
		if i.Kind != KindFunc {
			kind := [...]string{"", "a table", "a memory", "a global"}[i.Kind]
			return nil, fmt.Errorf("import %q %q is %s: only functions can be imported", i.Module, i.Name, kind)
		}
		known := false
		if i.Module != HostModule {
			var t FuncType
			if t, known = opts.Known(i.Module, i.Name); known && t.String() != m.Types[i.Type].String() {
				return nil, fmt.Errorf("import %q %q has type %s, the guest wants %s", i.Module, i.Name, t, m.Types[i.Type])
			}
		}
		p.Imports = append(p.Imports, i)
		if !known {
			unknown = append(unknown, len(functions))
			p.Unknown = append(p.Unknown, i)
			functions = append(functions, 0)
			continue
		}
		if opts.Park != nil && opts.Park(i.Module, i.Name) {
			parked = append(parked, len(functions))
		}
		functions = append(functions, uint32(len(imports)))
		imports = append(imports, i)
	}
	host := func(name string, params, results []byte) uint32 {
		imports = append(imports, Import{Module: HostModule, Name: name, Kind: KindFunc, Type: m.typeIndex(params, results)})
		return uint32(len(imports) - 1)
	}
	types := len(m.Types)
	r := &rewriter{m: m, globals: uint32(len(m.Globals)), budget: uint32(len(m.Globals)), noChecks: opts.NoChecks}
	if !opts.NoChecks {
		r.check = host(HostCheck, nil, []byte{I32})
	}
	var unknownFunction, parkFunction uint32
	if len(unknown) > 0 {
		unknownFunction = host(HostUnknown, []byte{I32}, nil)
	}
	var overFunction uint32
	if len(parked) > 0 {
		parkFunction = host(HostPark, nil, []byte{I32})
		overFunction = host(HostOver, nil, nil)
	}
	own := uint32(len(imports))
	for i := range m.Funcs {
		functions = append(functions, own+uint32(i))
	}
	added := own + uint32(len(m.Funcs))
	var extra []Code
	var extraTypes []uint32
	add := func(t uint32, c Code) uint32 {
		extra, extraTypes = append(extra, c), append(extraTypes, t)
		added++
		return added - 1
	}
	importType := func(i int) uint32 { return m.Imports[i].Type } // only functions are imported
	for n, i := range unknown {
		var w writer
		w.byte(OpI32Const)
		w.signed(int64(n))
		w.byte(OpCall)
		w.u32(unknownFunction)
		w = append(w, OpUnreachable, OpEnd)
		functions[i] = add(importType(i), Code{Body: w})
	}
	for _, i := range parked {
		var w writer
		w = append(w, OpLoop, 0x40, OpCall)
		w.u32(parkFunction)
		w = append(w, 0x45 /* i32.eqz */, OpBrIf, 0, OpEnd)
		for p := range m.Types[importType(i)].Params {
			w.byte(OpLocalGet)
			w.u32(uint32(p))
		}
		w.byte(OpCall)
		w.u32(functions[i])
		w.byte(OpEnd)
		functions[i] = add(importType(i), Code{Body: w})
	}
	begin, over, overIndex := 0, Code{}, uint32(0)
	if len(parked) > 0 {
		begin = slices.IndexFunc(m.Exports, func(e Export) bool { return e.Name == "_start" && e.Kind == KindFunc })
		if begin >= 0 && m.TypeOf(m.Exports[begin].Index).String() == "()->()" {
			var w writer
			w.byte(OpCall)
			w.u32(functions[m.Exports[begin].Index])
			w.byte(OpCall)
			w.u32(overFunction)
			w.byte(OpEnd)
			over = Code{Body: w}
			overIndex = add(m.typeIndex(nil, nil), over)
		}
		p.Parks = true
	}
	if !opts.NoChecks && m.counts[KindMemory]+len(m.Memories) > 0 {
		three := m.typeIndex([]byte{I32, I32, I32}, nil)
		r.copy = add(three, r.copyCode(false))
		r.fill = add(three, r.copyCode(true))
	}
	r.functions = functions
	// The module's own types are all that its code may name.
	all := m.Types
	m.Types = m.Types[:types]
	for i := range m.Codes {
		if err := r.function(i); err != nil {
			return nil, err
		}
	}
	m.Types = all
	p.Fresh = r.fresh
	if !r.usesData { // nobody can see passive segments, and the count is for their users
		m.DataCount = false
	}
	m.Codes, m.Funcs = append(m.Codes, extra...), append(m.Funcs, extraTypes...)
	m.Imports = imports
	m.counts[KindFunc] = len(imports)
	m.renumber(functions)
	if over.Body != nil {
		m.Exports[begin].Index = overIndex
	}
	if m.Start != nil {
		p.Start = HostModule + ":start"
		m.Exports = append(m.Exports, Export{p.Start, KindFunc, *m.Start})
		m.Start = nil
	}
	p.globals(m)
	if !opts.NoChecks {
		m.Globals = append(m.Globals, Global{GlobalType{I32, true}, Expr{Op: OpI32Const, Value: Budget}})
		name := HostModule + ":budget"
		m.Exports = append(m.Exports, Export{name, KindGlobal, r.budget})
		p.Globals = append(p.Globals, SavedGlobal{name, I32, Budget})
	}
	if err := p.image(m); err != nil {
		return nil, err
	}
	p.Wasm = m.Encode()
	return p, nil
}

// typeIndex finds or adds a type.
func (m *Module) typeIndex(params, results []byte) uint32 {
	want := FuncType{params, results}
	for i, t := range m.Types {
		if string(t.Params) == string(params) && string(t.Results) == string(results) {
			return uint32(i)
		}
	}
	m.Types = append(m.Types[:len(m.Types):len(m.Types)], want)
	return uint32(len(m.Types) - 1)
}

// renumber gives functions their new indexes, outside of code.
func (m *Module) renumber(functions []uint32) {
	expr := func(e *Expr) {
		if e.Op == OpRefFunc {
			e.Value = uint64(functions[e.Value])
		}
	}
	for i := range m.Globals {
		expr(&m.Globals[i].Init)
	}
	for i := range m.Exports {
		if e := &m.Exports[i]; e.Kind == KindFunc {
			e.Index = functions[e.Index]
		}
	}
	if m.Start != nil {
		start := functions[*m.Start]
		m.Start = &start
	}
	for i := range m.Elems {
		e := &m.Elems[i]
		for j := range e.Funcs {
			e.Funcs[j] = functions[e.Funcs[j]]
		}
		for j := range e.Exprs {
			expr(&e.Exprs[j])
		}
	}
	names := m.FuncNames[:0]
	for _, f := range m.FuncNames {
		if uint64(f.Index) < uint64(len(functions)) {
			f.Index = functions[f.Index]
			names = append(names, f)
		}
	}
	// They have to be in order, each once; those of unknown imports are at the end now.
	slices.SortStableFunc(names, func(a, b FuncName) int { return cmp.Compare(a.Index, b.Index) })
	m.FuncNames = slices.CompactFunc(names, func(a, b FuncName) bool { return a.Index == b.Index })
}

// globals exports those that may change.
func (p *Prepared) globals(m *Module) {
	for i := range m.Globals {
		g := &m.Globals[i]
		if !g.Mutable {
			continue
		}
		s := SavedGlobal{fmt.Sprintf("%s:global%d", HostModule, i), g.Type, g.Init.Value}
		switch g.Init.Op {
		case OpI32Const:
			s.Value = uint64(uint32(g.Init.Value))
		case OpF32Const, OpF64Const:
			s.Value = 0
			for n, b := range g.Init.Bytes {
				s.Value |= uint64(b) << (8 * n)
			}
		case OpI64Const:
		default:
			p.Fresh = "it has a global that can only be set at its birth"
			continue
		}
		m.Exports = append(m.Exports, Export{s.Export, KindGlobal, uint32(i)})
		p.Globals = append(p.Globals, s)
	}
}

// image takes the active data segments out.
func (p *Prepared) image(m *Module) error {
	p.Memory = len(m.Memories) == 1
	if !p.Memory {
		if len(m.Datas) > 0 {
			return fmt.Errorf("there are data segments and no memory")
		}
		return nil
	}
	p.MemoryMin = m.Memories[0].Min
	size := uint64(p.MemoryMin) * PageBytes
	end := uint64(0)
	for i := range m.Datas {
		d := &m.Datas[i]
		if d.Passive {
			continue
		}
		if d.Offset.Op != OpI32Const {
			return fmt.Errorf("data segment %d: its address is not a constant", i)
		}
		to := uint64(uint32(d.Offset.Value)) + uint64(len(d.Bytes))
		if to > size {
			return fmt.Errorf("data segment %d ends at %d, beyond the memory of %d bytes", i, to, size)
		}
		end = max(end, to)
	}
	p.Image = make([]byte, end)
	passive := m.Datas[:0]
	for i := range m.Datas {
		d := m.Datas[i]
		if !d.Passive {
			copy(p.Image[uint32(d.Offset.Value):], d.Bytes)
			d = Data{Passive: true} // which is what becomes of it once it has been copied
		}
		if m.DataCount {
			passive = append(passive, d)
		}
	}
	m.Datas = passive
	return nil
}
