package wat_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"

	"github.com/gripway/gripway/guest/internal/wat"
)

func TestTextBecomesAModuleThatRuns(t *testing.T) {
	b, err := wat.Assemble([]byte(`(module ;; a comment (; and another ;)
		(@custom "anything" [this, is] passed over)
		(memory (export "memory") 1 2)
		(table 2 funcref) (elem (i32.const 0) $double $"f: a name")
		(global $count (mut i32) (i32.const 40))
		(data (i32.const 8) "ab\00\ff" "\n")
		(func $double (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2)))
		(func $"f: a name" (export "f") (param $n i32) (result i32) (local $i i32) (local $sum i64)
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
				(else (i32.const -1)))))`))
	if err != nil {
		t.Fatal(err)
	}
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
	for _, c := range []struct {
		why, text string
		line      int
		want      string
	}{
		{"unknown instruction", "(module\n(func (i32.frobnicate)))", 2, `instruction i32.frobnicate is unknown`},
		{"unknown function", "(module (func call $g))", 1, "there is no func $g"},
		{"unknown label", "(module\n(func block $a br $b end))", 2, "there is no label $b"},
		{"unclosed list", "(module\n(func\n", 2, "a ( has no )"},
		{"unclosed comment", "(module\n(; a\n(; b ;)\n", 2, "a comment has no end"},
		{"unclosed string", "(module (data \"a\n\"))", 1, "a string has no end"},
		{"unclosed block", "(module (func\nblock\nnop))", 3, "a block has no end"},
		{"too many parentheses", "(module))", 1, "there is a ) too many"},
		{"another label", "(module (func block $a end $b))", 1, `$b ends a block that is called "$a"`},
		{"a missing immediate", "(module (func i32.const))", 1, "i32.const wants more"},
		{"a missing operand's place", "(module (func (i32.add i32.const)))", 1, "i32.const is too much"},
		{"number out of range", "(module (func (i32.const 4294967296)))", 1, "is no integer of 32 bits"},
		{"two of a name", "(module (func $f)\n(func $f))", 2, "there are two of func $f"},
		{"a late import", "(module (func)\n(import \"a\" \"b\" (func)))", 2, "an import comes after what is not imported"},
		{"an unknown field", "(module\n(frob))", 2, "field (frob …) is unknown"},
		{"another type", "(module (type (func)) (func (type 0) (param i32)))", 1, "(i32)->() is not what type 0 is, ()->()"},
		{"an escape", `(module (data "\q"))`, 1, `escape \q is unknown`},
		{"no UTF-8", "(module\n;; \xff\n)", 2, "this is not UTF-8"},
		{"glued together", `(module (data "a""b"))`, 1, `a blank is missing after "a"`},
		{"too deep", strings.Repeat("(", wat.NestingMax+1), 1, "more than 10000 lists are in one another"},
		{"text for scripts", `(module binary "")`, 1, "is for scripts of tests"},
		{"no module", "hello", 1, "field hello is unknown"},
	} {
		t.Run(c.why, func(t *testing.T) {
			_, err := wat.Assemble([]byte(c.text))
			var wrong *wat.Error
			if !errors.As(err, &wrong) || wrong.Line != c.line || !strings.Contains(wrong.Text, c.want) {
				t.Errorf("got %v, want line %d: %s", err, c.line, c.want)
			}
		})
	}
}

func TestTextIsToldFromWhatIsNone(t *testing.T) {
	for text, want := range map[string]bool{
		"(module)": true, " \r\n;; (a comment\n\t(module)": true, "(; a comment ;) (module)": true,
		"": false, "hello": false, "\x00asm\x01\x00\x00\x00": false, ";; nothing else": false, "\xef\xbb\xbf(module)": false,
	} {
		if got := wat.IsText([]byte(text)); got != want {
			t.Errorf("%q: got %v", text, got)
		}
	}
}

func FuzzAssemble(f *testing.F) {
	for _, text := range []string{
		`(module (func $f (export "f") (param i32) (result i32) (if (result i32) (local.get 0) (then (i32.const 1)) (else (i32.const 2)))))`,
		`(module (memory (data "a\u{1f600}")) (table funcref (elem $f)) (func $f block $a br_table 0 $a end))`,
		`(import "a" "b" (global (mut i64))) (elem declare func 0) (data $d "x") (func (memory.init $d (i32.const 0) (i32.const 0) (i32.const 0)))`,
		`(func (result v128) v128.const f32x4 0x1p-3 nan:0x1 -inf 1_0.5e3 i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)`,
		`(func (select (result i32)) (call_indirect 0 (type 0)) (table.copy 0 0) (v128.load8_lane offset=1 align=1 3))`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_, err := wat.Assemble([]byte(text))
		var wrong *wat.Error
		if err != nil && (!errors.As(err, &wrong) || wrong.Line < 1 || wrong.Line > 1+strings.Count(text, "\n")) {
			t.Errorf("%q: %v", text, err)
		}
	})
}
