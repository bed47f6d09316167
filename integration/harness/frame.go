package harness

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
)

// Opcodes of RFC 6455 5.2.
const (
	OpContinuation = 0x0
	OpText         = 0x1
	OpBinary       = 0x2
	OpClose        = 0x8
	OpPing         = 0x9
	OpPong         = 0xA
)

// Frame is one WebSocket frame, legal or not.
//
//	FIN RSV1-3 opcode | MASK length(7, 16 or 64 bits) | mask key | payload
type Frame struct {
	Fin     bool
	RSV     byte // three bits, RSV1 is 4
	Op      byte
	Masked  bool
	Payload []byte
}

func (f Frame) String() string {
	return fmt.Sprintf("frame fin=%t rsv=%d op=%d %s", f.Fin, f.RSV, f.Op, Quote(f.Payload))
}

// Append adds the frame's bytes to dst, under a random mask if it is masked.
func (f Frame) Append(dst []byte) []byte {
	first := f.RSV<<4 | f.Op
	if f.Fin {
		first |= 0x80
	}
	var mask byte
	if f.Masked {
		mask = 0x80
	}
	switch n := len(f.Payload); {
	case n < 126:
		dst = append(dst, first, mask|byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, first, mask|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, first, mask|127), uint64(n))
	}
	if !f.Masked {
		return append(dst, f.Payload...)
	}
	var key [4]byte
	binary.BigEndian.PutUint32(key[:], rand.Uint32())
	dst = append(dst, key[:]...)
	for i, b := range f.Payload {
		dst = append(dst, b^key[i%4])
	}
	return dst
}

// ReadFrame reads one frame, whatever it says. A frame beyond 64 MiB is refused.
func ReadFrame(r *bufio.Reader) (Frame, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Frame{}, err
	}
	frame := Frame{Fin: head[0]&0x80 != 0, RSV: head[0] >> 4 & 7, Op: head[0] & 0xF, Masked: head[1]&0x80 != 0}
	length := uint64(head[1] & 0x7F)
	if wide := map[uint64]int{126: 2, 127: 8}[length]; wide > 0 {
		var field [8]byte
		if _, err := io.ReadFull(r, field[8-wide:]); err != nil {
			return frame, err
		}
		length = binary.BigEndian.Uint64(field[:])
	}
	if length > 64<<20 {
		return frame, fmt.Errorf("frame of %d bytes", length)
	}
	var key [4]byte
	if frame.Masked {
		if _, err := io.ReadFull(r, key[:]); err != nil {
			return frame, err
		}
	}
	frame.Payload = make([]byte, length)
	if _, err := io.ReadFull(r, frame.Payload); err != nil {
		return frame, err
	}
	if frame.Masked {
		for i := range frame.Payload {
			frame.Payload[i] ^= key[i%4]
		}
	}
	return frame, nil
}

// CloseContent is the payload of a Close frame: two bytes of code and the reason.
func CloseContent(code int, reason string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...)
}

// Quote shows bytes in a failure: all of a short text, both ends of a long one.
func Quote(b []byte) string {
	const most = 300
	if len(b) <= most {
		return fmt.Sprintf("%q", b)
	}
	return fmt.Sprintf("%q…%q (%d bytes)", b[:most/2], b[len(b)-most/2:], len(b))
}
