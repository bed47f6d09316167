package guesttest

import "strings"

// instruction is an instruction's bytes and what follows it in the text.
type instruction struct {
	code  []byte
	takes string
	align uint32 // of loads and stores: the natural one, as a power of two
}

// instructions are all but those of vectors and blocks.
var instructions = makeInstructions()

func makeInstructions() map[string]instruction {
	all := make(map[string]instruction)
	add := func(first byte, takes, names string) {
		for i, name := range strings.Fields(names) {
			if name != "-" {
				all[name] = instruction{code: []byte{first + byte(i)}, takes: takes}
			}
		}
	}
	add(0x00, "", "unreachable nop")
	add(0x0c, "label", "br br_if")
	add(0x0e, "labels", "br_table")
	add(0x0f, "", "return")
	add(0x10, "func", "call")
	add(0x11, "type", "call_indirect")
	add(0x1a, "", "drop select")
	add(0x20, "local", "local.get local.set local.tee")
	add(0x23, "global", "global.get global.set")
	add(0x25, "index", "table.get table.set")
	add(0x28, "memory", `i32.load i64.load f32.load f64.load i32.load8_s i32.load8_u i32.load16_s i32.load16_u
		i64.load8_s i64.load8_u i64.load16_s i64.load16_u i64.load32_s i64.load32_u
		i32.store i64.store f32.store f64.store i32.store8 i32.store16 i64.store8 i64.store16 i64.store32`)
	all["memory.size"] = instruction{code: []byte{0x3f, 0}}
	all["memory.grow"] = instruction{code: []byte{0x40, 0}}
	add(0x41, "i32", "i32.const")
	add(0x42, "i64", "i64.const")
	add(0x43, "f32", "f32.const")
	add(0x44, "f64", "f64.const")
	integers := func(t string) string {
		names := "clz ctz popcnt add sub mul div_s div_u rem_s rem_u and or xor shl shr_s shr_u rotl rotr"
		return t + "." + strings.ReplaceAll(names, " ", " "+t+".")
	}
	compare := func(t string) string {
		names := "eqz eq ne lt_s lt_u gt_s gt_u le_s le_u ge_s ge_u"
		return t + "." + strings.ReplaceAll(names, " ", " "+t+".")
	}
	floats := func(t string) string {
		names := "abs neg ceil floor trunc nearest sqrt add sub mul div min max copysign"
		return t + "." + strings.ReplaceAll(names, " ", " "+t+".")
	}
	add(0x45, "", compare("i32"))
	add(0x50, "", compare("i64"))
	add(0x5b, "", "f32.eq f32.ne f32.lt f32.gt f32.le f32.ge f64.eq f64.ne f64.lt f64.gt f64.le f64.ge")
	add(0x67, "", integers("i32"))
	add(0x79, "", integers("i64"))
	add(0x8b, "", floats("f32"))
	add(0x99, "", floats("f64"))
	add(0xa7, "", `i32.wrap_i64 i32.trunc_f32_s i32.trunc_f32_u i32.trunc_f64_s i32.trunc_f64_u i64.extend_i32_s i64.extend_i32_u
		i64.trunc_f32_s i64.trunc_f32_u i64.trunc_f64_s i64.trunc_f64_u f32.convert_i32_s f32.convert_i32_u f32.convert_i64_s
		f32.convert_i64_u f32.demote_f64 f64.convert_i32_s f64.convert_i32_u f64.convert_i64_s f64.convert_i64_u f64.promote_f32
		i32.reinterpret_f32 i64.reinterpret_f64 f32.reinterpret_i32 f64.reinterpret_i64
		i32.extend8_s i32.extend16_s i64.extend8_s i64.extend16_s i64.extend32_s`)
	add(0xd0, "heap", "ref.null")
	add(0xd1, "", "ref.is_null")
	add(0xd2, "func", "ref.func")
	misc := func(name, takes string, code ...byte) {
		all[name] = instruction{code: append([]byte{0xfc}, code...), takes: takes}
	}
	for i, name := range strings.Fields(`i32.trunc_sat_f32_s i32.trunc_sat_f32_u i32.trunc_sat_f64_s i32.trunc_sat_f64_u
		i64.trunc_sat_f32_s i64.trunc_sat_f32_u i64.trunc_sat_f64_s i64.trunc_sat_f64_u`) {
		misc(name, "", byte(i))
	}
	misc("memory.init", "index0", 8)
	misc("data.drop", "index", 9)
	misc("memory.copy", "", 10, 0, 0)
	misc("memory.fill", "", 11, 0)
	misc("elem.drop", "index", 13)
	misc("table.copy", "", 14, 0, 0)
	misc("table.grow", "index", 15)
	misc("table.size", "index", 16)
	misc("table.fill", "index", 17)
	for name, in := range all {
		if in.takes != "memory" {
			continue
		}
		size, _, _ := strings.Cut(strings.TrimLeft(name[strings.IndexByte(name, '.')+1:], "loadstre"), "_")
		if size == "" {
			size = name[1:3]
		}
		in.align = map[string]uint32{"8": 0, "16": 1, "32": 2, "64": 3}[size]
		all[name] = in
	}
	return all
}
