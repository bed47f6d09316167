package main

import (
	"strings"
	"unsafe"
)

// The SDK has no function for the names of the client's header as they were sent.

//go:wasmimport fastly_http_req original_header_names_get
//go:noescape
func originalHeaderNamesGet(names unsafe.Pointer, size, cursor uint32, next, written unsafe.Pointer) uint32

//go:wasmimport fastly_http_req original_header_count
//go:noescape
func originalHeaderCount(count unsafe.Pointer) uint32

// originalNames are as many as there are said to be.
func originalNames() []string {
	var names []string
	var buffer [64]byte
	for next := int64(0); next >= 0; {
		var written uint32
		if status := originalHeaderNamesGet(unsafe.Pointer(&buffer), uint32(len(buffer)), uint32(next), unsafe.Pointer(&next), unsafe.Pointer(&written)); status != 0 {
			panic(status)
		}
		for name := range strings.SplitSeq(strings.TrimSuffix(string(buffer[:written]), "\x00"), "\x00") {
			names = append(names, name)
		}
	}
	var count uint32
	if status := originalHeaderCount(unsafe.Pointer(&count)); status != 0 || int(count) != len(names) {
		panic("the count is another")
	}
	return names
}
