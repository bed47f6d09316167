// Package wasm reads core WebAssembly modules and writes them again, changed: it
// is what a guest goes through before it is compiled.
//
// What may be in a module is WebAssembly 2.0, which is what wazero compiles
// (CoreFeaturesV2). Lengths, indexes and opcodes are checked as far as a module is
// touched here; whether its code is valid is the compiler's to say.
//
//	module.go   a module and its sections      code.go     instructions
//	parse.go    bytes to a module              prepare.go  what guests need changed
//	encode.go   a module to bytes              check.go    code that can be interrupted
package wasm
