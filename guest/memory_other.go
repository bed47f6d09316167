//go:build !linux

package guest

import "bytes"

// image is the bytes themselves.
type image struct{ b []byte }

func newImage(b []byte) (*image, error) { return &image{bytes.Clone(b)}, nil }

func (i *image) close() {}

// region is a memory of the Go heap.
type region struct {
	all   []byte
	image []byte
}

func newMemory(i *image, max uint64) (*memory, error) {
	m := &memory{max: max}
	return m, m.begin(i)
}

func (m *memory) begin(i *image) error {
	m.image = i.b
	return nil
}

// grow copies what there is, as much again ahead: guests grow in small steps.
func (m *memory) grow(size uint64) []byte {
	if size > uint64(cap(m.all)) {
		first := m.all == nil
		grown := make([]byte, size, min(max(size, 2*uint64(cap(m.all))), m.max))
		copy(grown, m.all)
		if first {
			copy(grown, m.image)
		}
		m.all = grown
	}
	old := len(m.all)
	m.all = m.all[:size]
	if int(size) > old {
		clear(m.all[old:])
	}
	return m.all[:size:size]
}

func (m *memory) reset() error {
	m.refused = false
	clear(m.all)
	copy(m.all, m.image)
	return nil
}

func (m *memory) free() { m.all = nil }
