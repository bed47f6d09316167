package compute

import (
	"context"
	"encoding/binary"
	"unicode/utf8"

	"github.com/tetratelabs/wazero/api"
)

// hostcall is one function of the ABI. Its parameters are numbered as they are
// lowered: a string is two of them.
type hostcall func(c *call) status

// call is a hostcall under way. There is one for a sandbox, used again by each.
//
// Slices of the guest's memory are valid until the guest runs again, or its memory
// grows: a hostcall that waits must copy what it needs afterwards.
type call struct {
	*sandbox
	ctx    context.Context
	memory api.Memory
	stack  []uint64
}

// u32 is a parameter of type i32. The upper half of its place on the stack is
// not zero.
func (c *call) u32(i int) uint32 { return uint32(c.stack[i]) }

// u64 is a parameter of type i64.
func (c *call) u64(i int) uint64 { return c.stack[i] }

// bytes is the memory that parameters i and i+1, an address and a length, name.
func (c *call) bytes(i int) ([]byte, status) { return c.at(c.u32(i), c.u32(i+1)) }

// at is n bytes of the memory.
func (c *call) at(address, n uint32) ([]byte, status) {
	if n == 0 {
		return nil, statusOK // whatever the address
	}
	b, ok := c.memory.Read(address, n)
	if !ok {
		return nil, statusInvalid
	}
	return b, statusOK
}

// text is a copy of a string, which has to be UTF-8.
func (c *call) text(i int) (string, status) {
	b, st := c.bytes(i)
	if st == statusOK && !utf8.Valid(b) {
		st = statusInvalid
	}
	if st != statusOK {
		return "", st
	}
	return string(b), statusOK
}

// record is the memory of a record of n bytes that parameter i is the address of.
func (c *call) record(i int, n, align uint32) ([]byte, status) {
	address := c.u32(i)
	if address%align != 0 {
		return nil, statusBadAlign
	}
	return c.at(address, n)
}

// field is the memory that a record names: its address and length stand at an offset
// of the record.
func (c *call) field(record []byte, at int) ([]byte, status) {
	return c.at(binary.LittleEndian.Uint32(record[at:]), binary.LittleEndian.Uint32(record[at+4:]))
}

// little32 and little64 are numbers in a record.
func little32(record []byte, at int) uint32 { return binary.LittleEndian.Uint32(record[at:]) }
func little64(record []byte, at int) uint64 { return binary.LittleEndian.Uint64(record[at:]) }

// put32 writes a result to the address that parameter i is.
func (c *call) put32(i int, v uint32) status {
	address := c.u32(i)
	switch {
	case address%4 != 0:
		return statusBadAlign
	case !c.memory.WriteUint32Le(address, v):
		return statusInvalid
	}
	return statusOK
}

// put64 is put32 of 64 bits.
func (c *call) put64(i int, v uint64) status {
	address := c.u32(i)
	switch {
	case address%8 != 0:
		return statusBadAlign
	case !c.memory.WriteUint64Le(address, v):
		return statusInvalid
	}
	return statusOK
}

// put16 and put8 are for smaller results.
func (c *call) put16(i int, v uint16) status {
	address := c.u32(i)
	switch {
	case address%2 != 0:
		return statusBadAlign
	case !c.memory.WriteUint16Le(address, v):
		return statusInvalid
	}
	return statusOK
}

func (c *call) put8(i int, v uint8) status {
	if !c.memory.WriteByte(c.u32(i), v) {
		return statusInvalid
	}
	return statusOK
}

// fill writes data to a buffer: parameter i is its address, i+1 its size, and i+2
// the address of the number of bytes written. If the buffer is too short, that
// becomes the size it would need, and SDKs come again with it.
func (c *call) fill(i int, data []byte) status { return fill(c, i, data) }

// fillText is fill of a string.
func (c *call) fillText(i int, text string) status { return fill(c, i, text) }

func fill[T []byte | string](c *call, i int, data T) status {
	if uint64(len(data)) > uint64(c.u32(i+1)) {
		if st := c.put32(i+2, uint32(len(data))); st != statusOK {
			return st
		}
		return statusBufferLen
	}
	into, st := c.at(c.u32(i), uint32(len(data)))
	if st != statusOK {
		return st
	}
	copy(into, data)
	return c.put32(i+2, uint32(len(data)))
}

// cursorEnd is what a cursor becomes after the last value.
const cursorEnd = -1

// fillValues writes as many of the values as fit into a buffer, each ended by a
// NUL, from the one that the cursor names: parameter i is the buffer's address,
// i+1 its size, i+2 the cursor, i+3 the address of the next cursor (an i64), i+4 that of
// the number of bytes written. If not even one fits, that is what it would need.
func (c *call) fillValues(i int, values []string) status {
	return c.fillList(i, len(values), func(at int) string { return values[at] })
}

// fillList is fillValues of n values.
func (c *call) fillList(i, n int, value func(at int) string) status {
	size, from := uint64(c.u32(i+1)), uint64(c.u32(i+2))
	written, next := uint64(0), int64(cursorEnd)
	for at := from; at < uint64(n); at++ {
		text := value(int(at))
		need := uint64(len(text)) + 1
		if written+need > size {
			if written == 0 {
				if st := c.put64(i+3, ^uint64(0)); st != statusOK {
					return st
				}
				if st := c.put32(i+4, uint32(need)); st != statusOK {
					return st
				}
				return statusBufferLen
			}
			next = int64(at)
			break
		}
		into, st := c.at(c.u32(i)+uint32(written), uint32(need))
		if st != statusOK {
			return st
		}
		into[copy(into, text)] = 0
		written += need
	}
	if st := c.put64(i+3, uint64(next)); st != statusOK {
		return st
	}
	return c.put32(i+4, uint32(written))
}
