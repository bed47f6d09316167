package wasm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/gripway/gripway/guest/guesttest"
	"github.com/gripway/gripway/guest/internal/wasm"
)

// everything has what a module can have.
const everything = `(module
	(import "host" "add" (func $add (param i32 i32) (result i32)))
	(import "host" "gone" (func $gone (param i64) (result i32)))
	(memory (export "memory") 1 300)
	(table 4 funcref) (elem (i32.const 0) $twice $add $gone)
	(global $n (export "n") (mut i32) (i32.const 7))
	(global $f (mut f64) (f64.const 1.5))
	(global i64 (i64.const -5))
	(data (i32.const 16) "abc") (data (i32.const 17) "X") (data "passive")
	(func $begin (global.set $n (i32.const 8)))
	(start $begin)
	(func $twice (export "twice") (param i32) (result i32) (call $add (local.get 0) (local.get 0)))
	(func (export "through") (param i32) (result i32)
		(call_indirect (param i32 i32) (result i32) (local.get 0) (i32.const 5) (i32.const 1)))
	(func (export "gone") (result i32) (call $gone (i64.const 1)))
	(func (export "init") (memory.init 2 (i32.const 100) (i32.const 0) (i32.const 7)))
	(func (export "sum") (param $n i32) (result i32) (local $i i32) (local $s i32)
		(block $out (loop $l
			(br_if $out (i32.eq (local.get $i) (local.get $n)))
			(local.set $i (i32.add (local.get $i) (i32.const 1)))
			(local.set $s (call $add (local.get $s) (local.get $i)))
			(br $l)))
		(local.get $s))
	(func (export "spin") (loop $l (br $l)))
	(func $deep (export "deep") (param i32) (result i32)
		(if (result i32) (local.get 0)
			(then (i32.add (call $deep (i32.sub (local.get 0) (i32.const 1))) (call $deep (i32.sub (local.get 0) (i32.const 1)))))
			(else (i32.const 1))))
	(func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
	(func (export "copy") (param i32 i32 i32) (memory.copy (local.get 0) (local.get 1) (local.get 2)))
	(func (export "fill") (param i32 i32 i32) (memory.fill (local.get 0) (local.get 1) (local.get 2))))`

// machine runs prepared modules.
type machine struct {
	runtime wazero.Runtime
	checks  int
	budget  int32
	unknown []uint32
	stop    error
}

func newMachine(t testing.TB) *machine {
	k := &machine{runtime: wazero.NewRuntime(t.Context()), budget: wasm.Budget}
	t.Cleanup(func() { k.runtime.Close(context.Background()) })
	i32 := api.ValueTypeI32
	add := func(_ context.Context, stack []uint64) { stack[0] = uint64(uint32(stack[0]) + uint32(stack[1])) }
	check := func(_ context.Context, stack []uint64) {
		k.checks++
		if k.stop != nil {
			panic(k.stop)
		}
		stack[0] = uint64(uint32(k.budget))
	}
	unknown := func(_ context.Context, stack []uint64) { k.unknown = append(k.unknown, uint32(stack[0])) }
	_, err := k.runtime.NewHostModuleBuilder("host").
		NewFunctionBuilder().WithGoFunction(api.GoFunc(add), []api.ValueType{i32, i32}, []api.ValueType{i32}).Export("add").Instantiate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = k.runtime.NewHostModuleBuilder(wasm.HostModule).
		NewFunctionBuilder().WithGoFunction(api.GoFunc(check), nil, []api.ValueType{i32}).Export(wasm.HostCheck).
		NewFunctionBuilder().WithGoFunction(api.GoFunc(unknown), []api.ValueType{i32}, nil).Export(wasm.HostUnknown).Instantiate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func known(module, name string) (wasm.FuncType, bool) {
	if module == "host" && name == "add" {
		return wasm.FuncType{Params: []byte{wasm.I32, wasm.I32}, Results: []byte{wasm.I32}}, true
	}
	return wasm.FuncType{}, false
}

// start prepares and instantiates a module, as guest does.
func (k *machine) start(t testing.TB, text string) (api.Module, *wasm.Prepared) {
	t.Helper()
	p, err := wasm.Prepare(guesttest.WAT(t, text), wasm.Options{Known: known})
	if err != nil {
		t.Fatal(err)
	}
	m, err := k.runtime.InstantiateWithConfig(t.Context(), p.Wasm, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		t.Fatal(err)
	}
	if p.Memory && !m.Memory().Write(0, p.Image) {
		t.Fatal("the image does not fit")
	}
	return m, p
}

func call(t testing.TB, m api.Module, name string, args ...uint64) uint64 {
	t.Helper()
	got, err := m.ExportedFunction(name).Call(context.Background(), args...)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if len(got) == 0 {
		return 0
	}
	return got[0]
}

func TestAPreparedModuleDoesWhatItDid(t *testing.T) {
	k := newMachine(t)
	m, p := k.start(t, everything)
	if got := m.ExportedGlobal("n").Get(); got != 7 {
		t.Errorf("the start function ran already: got %d", got)
	}
	call(t, m, p.Start)
	if got := m.ExportedGlobal("n").Get(); got != 8 {
		t.Errorf("start: got %d, want 8", got)
	}
	if got := call(t, m, "twice", 21); got != 42 {
		t.Errorf("twice: got %d", got)
	}
	if got := call(t, m, "through", 4); got != 9 {
		t.Errorf("through the table: got %d, want 9", got)
	}
	if got := call(t, m, "sum", 1000); got != 500500 {
		t.Errorf("sum: got %d, want 500500", got)
	}
	call(t, m, "init")
	if got, _ := m.Memory().Read(100, 7); string(got) != "passive" {
		t.Errorf("memory.init: got %q", got)
	}
	if string(p.Image) != strings.Repeat("\x00", 16)+"aXc" {
		t.Errorf("image: got %q", p.Image)
	}
	if len(p.Unknown) != 1 || p.Unknown[0].Name != "gone" {
		t.Errorf("unknown: got %v", p.Unknown)
	}
	if _, err := m.ExportedFunction("gone").Call(t.Context()); err == nil || !strings.Contains(err.Error(), "unreachable") {
		t.Errorf("unknown import: got %v, want a trap", err)
	}
	if len(k.unknown) != 1 || k.unknown[0] != 0 {
		t.Errorf("unknown: got %v, want a call of number 0", k.unknown)
	}
	if p.Fresh != "" {
		t.Errorf("got %q, want that it can be reset", p.Fresh)
	}
	want := "gripway:global0=8 gripway:global1=4609434218613702656 gripway:budget="
	got := ""
	for _, g := range p.Globals {
		if g.Export != "gripway:budget" {
			got += fmt.Sprintf("%s=%d ", g.Export, m.ExportedGlobal(g.Export).Get())
		} else {
			got += g.Export + "="
		}
	}
	if got != want {
		t.Errorf("globals: got %s, want %s", got, want)
	}
}

func TestALoopAndARecursionAreInterrupted(t *testing.T) {
	for _, c := range []struct {
		function string
		args     []uint64
	}{{"spin", nil}, {"deep", []uint64{60}}} {
		k := newMachine(t)
		m, _ := k.start(t, everything)
		k.stop = errors.New("enough")
		_, err := m.ExportedFunction(c.function).Call(t.Context(), c.args...)
		if !errors.Is(err, k.stop) {
			t.Errorf("%s: got %v, want it stopped", c.function, err)
		}
	}
}

// The whole of a memory is copied and filled in pieces, with a check before each.
func TestLongCopiesAreInterrupted(t *testing.T) {
	k := newMachine(t)
	k.budget = 1
	m, _ := k.start(t, everything)
	call(t, m, "grow", 299)
	size := m.Memory().Size()
	random := rand.New(rand.NewSource(1))
	want := make([]byte, size)
	random.Read(want)
	m.Memory().Write(0, want)
	for _, c := range []struct{ to, from, n uint32 }{
		{0, 5 << 20, 12<<20 + 3}, {5 << 20, 0, 12<<20 + 3}, {7, 0, size - 7}, {0, 7, size - 7}, {1, 1, size - 1}, {100, 50, 100}, {size, 0, 0}, {0, 0, size},
	} {
		before := k.checks
		m.ExportedGlobal("gripway:budget").(api.MutableGlobal).Set(0)
		call(t, m, "copy", uint64(c.to), uint64(c.from), uint64(c.n))
		copy(want[c.to:], want[c.from:c.from+c.n])
		if got, _ := m.Memory().Read(0, size); !bytes.Equal(got, want) {
			t.Fatalf("copy of %d from %d to %d: memories differ", c.n, c.from, c.to)
		}
		if checks := k.checks - before; checks < int(c.n/(4<<20)) {
			t.Errorf("copy of %d: got %d checks", c.n, checks)
		}
	}
	call(t, m, "fill", 3, 0x1ff, uint64(size-3))
	for i := range want[3:] {
		want[3+i] = 0xff
	}
	if got, _ := m.Memory().Read(0, size); !bytes.Equal(got, want) {
		t.Error("fill: memories differ")
	}
	for _, c := range []struct {
		function   string
		a, b, size uint32
	}{
		{"copy", size - 1, 0, 2}, {"copy", 0, size - 1, 2}, {"copy", 1 << 31, 0, 1 << 31}, {"copy", 0, 100, size}, {"copy", 100, 0, size},
		{"fill", size, 0, 1}, {"fill", 1, 1, size}, {"fill", 0xffffffff, 0, 0xffffffff},
	} {
		_, err := m.ExportedFunction(c.function).Call(t.Context(), uint64(c.a), uint64(c.b), uint64(c.size))
		if err == nil || !strings.Contains(err.Error(), "out of bounds") {
			t.Errorf("%s of %d %d %d: got %v, want a trap", c.function, c.a, c.b, c.size, err)
		}
		if got, _ := m.Memory().Read(0, size); !bytes.Equal(got, want) {
			t.Errorf("%s of %d %d %d wrote before it trapped", c.function, c.a, c.b, c.size)
		}
	}
}

func TestWhatCannotBeResetIsSaid(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`(module (table 1 funcref) (func (table.set 0 (i32.const 0) (ref.null func))))`, "its code changes tables"},
		{`(module (memory 1) (data "x") (func (data.drop 0)))`, "its code drops data segments"},
		{`(module (global (mut funcref) (ref.null func)))`, "it has a global that can only be set at its birth"},
		{`(module (table 1 funcref) (func (drop (table.grow 0 (ref.null func) (i32.const 1)))))`, "its code changes tables"},
	} {
		p, err := wasm.Prepare(guesttest.WAT(t, c.text), wasm.Options{Known: known})
		if err != nil || p.Fresh != c.want {
			t.Errorf("%s: got %+v, %v, want %q", c.text, p, err, c.want)
		}
	}
}

func TestWhatCannotRunIsRefused(t *testing.T) {
	module := func(sections string) string { return "\x00asm\x01\x00\x00\x00" + sections }
	for _, c := range []struct{ why, wasm, want string }{
		{"empty", "", "this is not WebAssembly"},
		{"text", "(module)", "this is not WebAssembly"},
		{"component", "\x00asm\x0d\x00\x01\x00", "this is a component"},
		{"version 2", "\x00asm\x02\x00\x00\x00", "byte 0x4: version 02 00 00 00 is unknown"},
		{"section longer than the module", module("\x01\x05"), "byte 0xa: 5 bytes are announced and 0 are there"},
		{"sections out of order", module("\x03\x01\x00\x01\x01\x00"), "section 1 is out of order"},
		{"vector longer than its section", module("\x01\x02\xff\x01"), "255 elements do not fit"},
		{"function of no type", module("\x03\x02\x01\x00"), "there is no type 0"},
		{"function without code", module("\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00"), "1 functions are declared and 0 have code"},
		{"integer of 33 bits", module("\x01\xff\xff\xff\xff\x1f"), "integer is longer than 32 bits"},
		{"imported memory", module("\x02\x08\x01\x01a\x01b\x02\x00\x01"), `import "a" "b" is a memory: only functions can be imported`},
		{"shared memory", module("\x05\x04\x01\x03\x01\x01"), "shared and 64-bit memories are not WebAssembly 2.0"},
		{"wrong type of an import", string(guesttest.WAT(t, `(module (import "host" "add" (func)))`)), `import "host" "add" has type (i32 i32)->(i32), the guest wants ()->()`},
		{"our name", string(guesttest.WAT(t, `(module (func (export "gripway:budget")))`)), "are the host's own"},
		{"data outside", string(guesttest.WAT(t, `(module (memory 1) (data (i32.const 65535) "ab"))`)), "data segment 0 ends at 65537, beyond the memory of 65536 bytes"},
		{"huge memory", string(guesttest.WAT(t, `(module (memory 65537))`)), "the memory begins with 65537 pages, 65536 may be"},
		{"data without memory", string(guesttest.WAT(t, `(module (data (i32.const 0) "ab"))`)), "beyond the memory of 0 bytes"},
		{"huge table", string(guesttest.WAT(t, `(module (table 100000 funcref))`)), "table 0 has 100000 elements, 98765 may be"},
		// The host's own globals, functions and locals are not for the guest to name.
		{"a global that is not there yet", string(guesttest.WAT(t, `(module (func (global.set 0 (i32.const 1))))`)), "there is no 0 for instruction 0x24"},
		{"a function that is not there yet", string(guesttest.WAT(t, `(module (func (call 1)))`)), "there is no function 1"},
		{"a local that is not there yet", string(guesttest.WAT(t, `(module (func (loop (local.set 0 (i32.const 1)))))`)), "there is no 0 for instruction 0x21"},
	} {
		_, err := wasm.Prepare([]byte(c.wasm), wasm.Options{Known: known})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.why, err, c.want)
		}
	}
}

func TestWhatIsWrittenReadsTheSame(t *testing.T) {
	b := guesttest.WAT(t, everything)
	m, err := wasm.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Encode(); !bytes.Equal(got, b) {
		t.Errorf("got\n%x, want\n%x", got, b)
	}
}

// FuzzPrepare: nothing panics, and what is accepted is read again.
func FuzzPrepare(f *testing.F) {
	f.Add(guesttest.WAT(f, everything))
	f.Add([]byte("\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00\x0a\x0a\x01\x08\x00\xfd\x0c\x00\x00\x00\x00\x00\x0b"))
	f.Add([]byte("\x00asm\x0d\x00\x01\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := wasm.Parse(b); err == nil {
			if _, err := wasm.Parse(m.Encode()); err != nil {
				t.Errorf("what was written is not read: %v", err)
			}
		}
		p, err := wasm.Prepare(b, wasm.Options{Known: known, MemoryMax: 2048})
		if err != nil {
			return
		}
		if _, err := wasm.Parse(p.Wasm); err != nil {
			t.Errorf("what was prepared is not read: %v", err)
		}
	})
}
