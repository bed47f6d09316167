package wat

import (
	"strings"
	"sync"
)

// takes is what follows an instruction in the text.
type takes byte

const (
	takesNothing takes = iota
	takesLabel
	takesLabels
	takesFunc
	takesGlobal
	takesLocal
	takesType   // of call_indirect: a table that may be left out, and a type
	takesResult // of select
	takesTable  // that may be left out
	takesTables // two, or none
	takesElem
	takesElemTable
	takesData
	takesDataMemory
	takesMemory // offset= and align=
	takesMemoryLane
	takesLane
	takesLanes // 16
	takesI32
	takesI64
	takesF32
	takesF64
	takesV128
	takesHeap
)

// instruction is an instruction's bytes and what follows it in the text.
type instruction struct {
	code  []byte
	takes takes
	align uint32 // of loads and stores: the natural one, as a power of two
}

// instructions are all of WebAssembly 2.0 but blocks; most programs that have them need
// none.
var instructions = sync.OnceValue(makeInstructions)

func makeInstructions() map[string]instruction {
	all := make(map[string]instruction)
	// add names instructions whose codes follow one another; a name that is - leaves
	// one out, and one that begins with . is of the type before it.
	add := func(prefix []byte, first uint32, takes takes, names string) {
		of := ""
		for i, name := range strings.Fields(names) {
			if name == "-" {
				continue
			}
			if name[0] == '.' {
				name = of + name
			}
			of, _, _ = strings.Cut(name, ".")
			in := instruction{takes: takes}
			in.code = append(in.code, prefix...)
			code := first + uint32(i)
			if len(prefix) > 0 && code >= 0x80 {
				in.code = append(in.code, byte(code)|0x80, byte(code>>7))
			} else {
				in.code = append(in.code, byte(code))
			}
			all[name] = in
		}
	}
	op := func(first uint32, takes takes, names string) { add(nil, first, takes, names) }
	op(0x00, takesNothing, "unreachable nop")
	op(0x0c, takesLabel, "br br_if")
	op(0x0e, takesLabels, "br_table")
	op(0x0f, takesNothing, "return")
	op(0x10, takesFunc, "call")
	op(0x11, takesType, "call_indirect")
	op(0x1a, takesNothing, "drop")
	op(0x1b, takesResult, "select")
	op(0x20, takesLocal, "local.get .set .tee")
	op(0x23, takesGlobal, "global.get .set")
	op(0x25, takesTable, "table.get .set")
	op(0x28, takesMemory, `i32.load i64.load f32.load f64.load i32.load8_s .load8_u .load16_s .load16_u
		i64.load8_s .load8_u .load16_s .load16_u .load32_s .load32_u
		i32.store i64.store f32.store f64.store i32.store8 .store16 i64.store8 .store16 .store32`)
	add([]byte{0x3f}, 0, takesNothing, "memory.size")
	add([]byte{0x40}, 0, takesNothing, "memory.grow")
	op(0x41, takesI32, "i32.const")
	op(0x42, takesI64, "i64.const")
	op(0x43, takesF32, "f32.const")
	op(0x44, takesF64, "f64.const")
	const (
		integerTests = " .eq .ne .lt_s .lt_u .gt_s .gt_u .le_s .le_u .ge_s .ge_u"
		integers     = ".clz .ctz .popcnt .add .sub .mul .div_s .div_u .rem_s .rem_u .and .or .xor .shl .shr_s .shr_u .rotl .rotr"
		floatTests   = ".eq .ne .lt .gt .le .ge"
		floats       = ".abs .neg .ceil .floor .trunc .nearest .sqrt .add .sub .mul .div .min .max .copysign"
	)
	op(0x45, takesNothing, "i32.eqz"+integerTests+" i64.eqz"+integerTests+" f32"+floatTests+" f64"+floatTests)
	op(0x67, takesNothing, "i32"+integers+" i64"+integers+" f32"+floats+" f64"+floats)
	op(0xa7, takesNothing, `i32.wrap_i64 .trunc_f32_s .trunc_f32_u .trunc_f64_s .trunc_f64_u
		i64.extend_i32_s .extend_i32_u .trunc_f32_s .trunc_f32_u .trunc_f64_s .trunc_f64_u
		f32.convert_i32_s .convert_i32_u .convert_i64_s .convert_i64_u .demote_f64
		f64.convert_i32_s .convert_i32_u .convert_i64_s .convert_i64_u .promote_f32
		i32.reinterpret_f32 i64.reinterpret_f64 f32.reinterpret_i32 f64.reinterpret_i64
		i32.extend8_s .extend16_s i64.extend8_s .extend16_s .extend32_s`)
	op(0xd0, takesHeap, "ref.null")
	op(0xd1, takesNothing, "ref.is_null")
	op(0xd2, takesFunc, "ref.func")

	misc := []byte{0xfc}
	add(misc, 0, takesNothing, `i32.trunc_sat_f32_s .trunc_sat_f32_u .trunc_sat_f64_s .trunc_sat_f64_u
		i64.trunc_sat_f32_s .trunc_sat_f32_u .trunc_sat_f64_s .trunc_sat_f64_u`)
	add(misc, 8, takesDataMemory, "memory.init")
	add(misc, 9, takesData, "data.drop")
	add([]byte{0xfc, 10, 0}, 0, takesNothing, "memory.copy")
	add([]byte{0xfc, 11}, 0, takesNothing, "memory.fill")
	add(misc, 12, takesElemTable, "table.init")
	add(misc, 13, takesElem, "elem.drop")
	add(misc, 14, takesTables, "table.copy")
	add(misc, 15, takesTable, "table.grow .size .fill")

	v := []byte{0xfd}
	add(v, 0, takesMemory, `v128.load .load8x8_s .load8x8_u .load16x4_s .load16x4_u .load32x2_s .load32x2_u
		.load8_splat .load16_splat .load32_splat .load64_splat .store`)
	add(v, 12, takesV128, "v128.const")
	add(v, 13, takesLanes, "i8x16.shuffle")
	add(v, 14, takesNothing, "i8x16.swizzle i8x16.splat i16x8.splat i32x4.splat i64x2.splat f32x4.splat f64x2.splat")
	add(v, 21, takesLane, `i8x16.extract_lane_s .extract_lane_u .replace_lane i16x8.extract_lane_s .extract_lane_u .replace_lane
		i32x4.extract_lane .replace_lane i64x2.extract_lane .replace_lane f32x4.extract_lane .replace_lane f64x2.extract_lane .replace_lane`)
	add(v, 35, takesNothing, "i8x16.eq .ne .lt_s .lt_u .gt_s .gt_u .le_s .le_u .ge_s .ge_u "+
		"i16x8.eq .ne .lt_s .lt_u .gt_s .gt_u .le_s .le_u .ge_s .ge_u "+
		"i32x4.eq .ne .lt_s .lt_u .gt_s .gt_u .le_s .le_u .ge_s .ge_u f32x4"+floatTests+" f64x2"+floatTests)
	add(v, 77, takesNothing, "v128.not .and .andnot .or .xor .bitselect .any_true")
	add(v, 84, takesMemoryLane, "v128.load8_lane .load16_lane .load32_lane .load64_lane .store8_lane .store16_lane .store32_lane .store64_lane")
	add(v, 92, takesMemory, "v128.load32_zero .load64_zero")
	add(v, 94, takesNothing, `f32x4.demote_f64x2_zero f64x2.promote_low_f32x4
		i8x16.abs .neg .popcnt .all_true .bitmask .narrow_i16x8_s .narrow_i16x8_u f32x4.ceil .floor .trunc .nearest
		i8x16.shl .shr_s .shr_u .add .add_sat_s .add_sat_u .sub .sub_sat_s .sub_sat_u f64x2.ceil .floor
		i8x16.min_s .min_u .max_s .max_u f64x2.trunc i8x16.avgr_u i16x8.extadd_pairwise_i8x16_s .extadd_pairwise_i8x16_u
		i32x4.extadd_pairwise_i16x8_s .extadd_pairwise_i16x8_u
		i16x8.abs .neg .q15mulr_sat_s .all_true .bitmask .narrow_i32x4_s .narrow_i32x4_u
		.extend_low_i8x16_s .extend_high_i8x16_s .extend_low_i8x16_u .extend_high_i8x16_u
		.shl .shr_s .shr_u .add .add_sat_s .add_sat_u .sub .sub_sat_s .sub_sat_u f64x2.nearest i16x8.mul .min_s .min_u .max_s .max_u - .avgr_u
		.extmul_low_i8x16_s .extmul_high_i8x16_s .extmul_low_i8x16_u .extmul_high_i8x16_u
		i32x4.abs .neg - .all_true .bitmask - - .extend_low_i16x8_s .extend_high_i16x8_s .extend_low_i16x8_u .extend_high_i16x8_u
		.shl .shr_s .shr_u .add - - .sub - - - .mul .min_s .min_u .max_s .max_u .dot_i16x8_s -
		.extmul_low_i16x8_s .extmul_high_i16x8_s .extmul_low_i16x8_u .extmul_high_i16x8_u
		i64x2.abs .neg - .all_true .bitmask - - .extend_low_i32x4_s .extend_high_i32x4_s .extend_low_i32x4_u .extend_high_i32x4_u
		.shl .shr_s .shr_u .add - - .sub - - - .mul .eq .ne .lt_s .gt_s .le_s .ge_s
		.extmul_low_i32x4_s .extmul_high_i32x4_s .extmul_low_i32x4_u .extmul_high_i32x4_u
		f32x4.abs .neg - .sqrt .add .sub .mul .div .min .max .pmin .pmax
		f64x2.abs .neg - .sqrt .add .sub .mul .div .min .max .pmin .pmax
		i32x4.trunc_sat_f32x4_s .trunc_sat_f32x4_u f32x4.convert_i32x4_s .convert_i32x4_u
		i32x4.trunc_sat_f64x2_s_zero .trunc_sat_f64x2_u_zero f64x2.convert_low_i32x4_s .convert_low_i32x4_u`)

	for name, in := range all {
		if in.takes != takesMemory && in.takes != takesMemoryLane {
			continue
		}
		of, what, _ := strings.Cut(name, ".")
		what = strings.TrimPrefix(strings.TrimPrefix(what, "load"), "store")
		size, _, _ := strings.Cut(what, "_")
		switch {
		case size == "":
			size = strings.TrimLeft(of, "ifv")
		case strings.Contains(size, "x"): // half a vector, in lanes that are widened
			size = "64"
		}
		in.align = map[string]uint32{"8": 0, "16": 1, "32": 2, "64": 3, "128": 4}[size]
		all[name] = in
	}
	return all
}
