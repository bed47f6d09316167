package guesttest_test

import (
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"

	"github.com/gripway/gripway/guest/guesttest"
)

func TestTextBecomesAModuleThatRuns(t *testing.T) {
	b := guesttest.WAT(t, `(module ;; a comment (; and another ;)
		(memory (export "memory") 1 2)
		(table 2 funcref) (elem (i32.const 0) $double $f)
		(global $count (mut i32) (i32.const 40))
		(data (i32.const 8) "ab\00\ff" "\n")
		(func $double (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2)))
		(func $f (export "f") (param $n i32) (result i32) (local $i i32) (local $sum i64)
			(loop $again
				(local.set $sum (i64.add (local.get $sum) (i64.extend_i32_u (local.get $i))))
				local.get $i
				i32.const 1
				i32.add
				local.tee $i
				local.get $n
				i32.lt_u
				br_if $again)
			(global.set $count (i32.add (global.get $count) (i32.load8_u offset=8 (i32.const 3))))
			(if (result i32) (i32.eq (local.get $n) (i32.const 4))
				(then (i32.add (i32.wrap_i64 (local.get $sum)) (call_indirect (param i32) (result i32) (global.get $count) (i32.const 0))))
				(else (i32.const -1)))))`)
	runtime := wazero.NewRuntime(t.Context())
	defer runtime.Close(t.Context())
	m, err := runtime.Instantiate(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.ExportedFunction("f").Call(t.Context(), 4)
	if err != nil || got[0] != 6+2*(40+255) {
		t.Errorf("got %v, %v, want %d", got, err, 6+2*(40+255))
	}
}

func TestTextThatIsWrongIsToldWithItsLine(t *testing.T) {
	for _, c := range []struct{ why, text, want string }{
		{"unknown instruction", "(module\n(func (i32.frobnicate)))", `wat line 2: instruction "i32.frobnicate" is unknown`},
		{"unknown function", "(module (func call $g))", "wat line 1: there is no func $g"},
		{"unclosed", "(module", "wat line 1: it ends too early"},
		{"missing immediate", "(module (func i32.const))", "wat line 1: i32.const wants more"},
		{"number out of range", "(module (func (i32.const 4294967296)))", "is not an integer of 32 bits"},
	} {
		_, err := guesttest.Assemble(c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.why, err, c.want)
		}
	}
}
