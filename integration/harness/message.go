package harness

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Header is a message's header as it stood on the wire: order, repetitions and
// letter case kept.
type Header []Field

// Field is one line of a Header.
type Field struct{ Name, Value string }

// ParseField reads "Name: value".
func ParseField(line string) (Field, error) {
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		return Field{}, fmt.Errorf("header line %q has no colon", line)
	}
	return Field{name, strings.TrimSpace(value)}, nil
}

// Values returns the values of all lines called name, in any letter case.
func (h Header) Values(name string) []string {
	var values []string
	for _, field := range h {
		if strings.EqualFold(field.Name, name) {
			values = append(values, field.Value)
		}
	}
	return values
}

// Get returns the first value of name, or "".
func (h Header) Get(name string) string {
	if values := h.Values(name); len(values) > 0 {
		return values[0]
	}
	return ""
}

// Has says whether there is a line called name.
func (h Header) Has(name string) bool { return len(h.Values(name)) > 0 }

func (h Header) String() string {
	var b strings.Builder
	for _, field := range h {
		fmt.Fprintf(&b, "%s: %s\n", field.Name, field.Value)
	}
	return b.String()
}

// wire is the header as bytes, without the empty line that ends it.
func (h Header) wire() string {
	return strings.ReplaceAll(h.String(), "\n", "\r\n")
}

// readLine reads up to a line feed and drops the line's end.
func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		if err == io.EOF && line != "" {
			err = io.ErrUnexpectedEOF
		}
		return "", err
	}
	return strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), nil
}

// readHead reads a first line and the header that follows it.
func readHead(r *bufio.Reader) (first string, header Header, err error) {
	if first, err = readLine(r); err != nil {
		return "", nil, err
	}
	header, err = readHeader(r)
	return first, header, err
}

// readHeader reads lines up to the empty one; it also reads trailers.
func readHeader(r *bufio.Reader) (Header, error) {
	var header Header
	for {
		line, err := readLine(r)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil || line == "" {
			return header, err
		}
		field, err := ParseField(line)
		if err != nil {
			return header, err
		}
		header = append(header, field)
	}
}

// readBody gives every piece of a message's body to piece, as it comes, and
// returns the trailer. length is the Content-Length; -1 means up to the end of
// the connection.
func readBody(r *bufio.Reader, chunked bool, length int64, piece func([]byte)) (Header, error) {
	if chunked {
		return readChunks(r, piece)
	}
	buf := make([]byte, 32<<10)
	for length != 0 {
		window := buf
		if length > 0 && length < int64(len(window)) {
			window = window[:length]
		}
		n, err := r.Read(window)
		if n > 0 {
			piece(append([]byte(nil), window[:n]...))
		}
		if length > 0 {
			length -= int64(n)
		}
		switch {
		case err == io.EOF && length < 0:
			return nil, nil
		case err == io.EOF && length > 0:
			return nil, io.ErrUnexpectedEOF
		case err != nil && length != 0:
			return nil, err
		}
	}
	return nil, nil
}

func readChunks(r *bufio.Reader, piece func([]byte)) (Header, error) {
	for {
		line, err := readLine(r)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		digits, _, _ := strings.Cut(line, ";")
		size, err := strconv.ParseUint(strings.TrimSpace(digits), 16, 31)
		if err != nil {
			return nil, fmt.Errorf("chunk size %q: %w", line, err)
		}
		if size == 0 {
			return readHeader(r)
		}
		if _, err := readBody(r, false, int64(size), piece); err != nil {
			return nil, err
		}
		if line, err = readLine(r); err != nil {
			return nil, err
		}
		if line != "" {
			return nil, fmt.Errorf("chunk of %d bytes is followed by %q, not by an end of line", size, line)
		}
	}
}
