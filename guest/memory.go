package guest

import (
	"reflect"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/gripway/gripway/guest/internal/wasm"
)

// image is what the memory of a new instance holds: the guest's data, or all that
// it has after its start. On Linux it is a file in memory that instances map and
// copy by the page as they write; elsewhere it is copied.
//
// newImage, close, newMemory, and memory's free and reset are in memory_linux.go and
// memory_other.go.

// memory is an instance's linear memory. It is an experimental.LinearMemory.
type memory struct {
	max  uint64 // bytes; more is refused
	size uint64 // bytes that the guest has now

	// refused: the guest asked for more than max since the last reset. Owned by the
	// guest's goroutine.
	refused bool

	region
}

// Reallocate is LinearMemory.Reallocate.
func (m *memory) Reallocate(size uint64) []byte {
	if size > m.max {
		m.refused = true
		return nil
	}
	b := m.grow(size)
	if b == nil {
		m.refused = true
		return nil
	}
	m.size = size
	return b
}

// Free is LinearMemory.Free.
func (m *memory) Free() { m.free() }

// allocator gives one memory to one instance.
type allocator struct{ memory *memory }

var _ experimental.MemoryAllocator = allocator{}

// Allocate is MemoryAllocator.Allocate.
func (a allocator) Allocate(uint64, uint64) experimental.LinearMemory { return a.memory }

// resize has wazero see a memory of size bytes, which its own methods can only make
// larger: its length is set by reflection to a page less, through a field that
// is exported, and then it is grown by a page, which asks the allocator. False: that is not
// possible, and the instance cannot be used again.
func resize(m api.Memory, size uint64) bool {
	if uint64(m.Size()) == size {
		return true
	}
	if size < wasm.PageBytes {
		return false
	}
	v := reflect.ValueOf(m)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return false
	}
	buffer := v.Elem().FieldByName("Buffer")
	if !buffer.IsValid() || !buffer.CanSet() || buffer.Type() != reflect.TypeFor[[]byte]() {
		return false
	}
	below := size - wasm.PageBytes
	if b := buffer.Bytes(); below <= uint64(len(b)) {
		buffer.SetBytes(b[:below:below])
	} else {
		return false
	}
	_, ok := m.Grow(1)
	return ok && uint64(m.Size()) == size
}
