package wasi

import "bytes"

// LineMax bounds the bytes of a line that a guest writes. What is longer becomes
// several lines.
const LineMax = 16 << 10

// Lines is a writer that gives whole lines to a function, without their end. The
// bytes are valid until the function returns.
type Lines struct {
	Line func(line []byte)

	begun []byte
}

// Write is io.Writer.
func (l *Lines) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		if room := LineMax - len(l.begun); len(line) > room {
			line, rest, whole = b[:room], b[room:], true
		}
		b = rest
		if !whole {
			l.begun = append(l.begun, line...)
			break
		}
		if len(l.begun) > 0 {
			l.begun = append(l.begun, line...)
			line = l.begun
		}
		l.Line(bytes.TrimSuffix(line, []byte("\r")))
		l.begun = l.begun[:0]
	}
	return n, nil
}

// Flush gives what has begun and has no end.
func (l *Lines) Flush() {
	if len(l.begun) > 0 {
		l.Line(l.begun)
		l.begun = l.begun[:0]
	}
}
