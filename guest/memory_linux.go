package guest

import (
	"bytes"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// image is a file that lives in memory.
type image struct {
	file  int // a descriptor; -1: there is nothing in it
	bytes int // of whole pages of the machine
}

// newImage makes an image of bytes.
func newImage(b []byte) (*image, error) {
	if len(b) == 0 {
		return &image{file: -1}, nil
	}
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	page := os.Getpagesize()
	i := &image{fd, (len(b) + page - 1) / page * page}
	if err := unix.Ftruncate(fd, int64(i.bytes)); err != nil {
		i.close()
		return nil, os.NewSyscallError("ftruncate", err)
	}
	zeros := make([]byte, page)
	for at := 0; at < len(b); {
		// Pages of zeros are left out: a hole costs nothing.
		end := at
		for end < len(b) && !bytes.Equal(b[end:min(end+page, len(b))], zeros[:min(page, len(b)-end)]) {
			end += page
		}
		end = min(end, len(b))
		if end == at {
			at += page
			continue
		}
		n, err := unix.Pwrite(fd, b[at:end], int64(at))
		if err != nil {
			i.close()
			return nil, os.NewSyscallError("pwrite", err)
		}
		at += n
	}
	return i, nil
}

// close gives the file back. Memories that are mapped keep it.
func (i *image) close() {
	if i.file >= 0 {
		unix.Close(i.file)
	}
}

// region is address space for a whole memory.
type region struct {
	all   []byte
	image int // bytes at the beginning that are mapped from an image
}

// newMemory reserves a memory of max bytes that begins with the image. What is not
// touched costs nothing.
func newMemory(i *image, max uint64) (*memory, error) {
	if max == 0 {
		return &memory{}, nil
	}
	all, err := unix.Mmap(-1, 0, int(max), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("memory of %d bytes: %w", max, os.NewSyscallError("mmap", err))
	}
	m := &memory{max: max, region: region{all: all}}
	// A huge page would cost its 2 MB with the first byte.
	unix.Madvise(all, unix.MADV_NOHUGEPAGE)
	if err := m.begin(i); err != nil {
		m.free()
		return nil, err
	}
	return m, nil
}

// begin maps the image over the beginning, in place of what was there.
func (m *memory) begin(i *image) error {
	if i.bytes < m.image { // more was mapped before
		if err := remap(m.all[i.bytes:m.image], -1, unix.MAP_ANON); err != nil {
			return err
		}
	}
	m.image = i.bytes
	if i.bytes == 0 {
		return nil
	}
	return remap(m.all[:i.bytes], i.file, 0)
}

// remap replaces what is mapped at b by a private mapping.
func remap(b []byte, file, flags int) error {
	_, err := unix.MmapPtr(file, 0, unsafe.Pointer(unsafe.SliceData(b)), uintptr(len(b)), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_FIXED|unix.MAP_NORESERVE|flags)
	return os.NewSyscallError("mmap", err)
}

func (m *memory) grow(size uint64) []byte { return m.all[:size:size] }

// reset makes the memory what it was at first: pages that were written are given
// back, and come again from the image, or as zeros.
func (m *memory) reset() error {
	if m.size == 0 {
		return nil
	}
	m.refused = false
	return os.NewSyscallError("madvise", unix.Madvise(m.all[:m.size], unix.MADV_DONTNEED))
}

func (m *memory) free() {
	if m.all != nil {
		unix.Munmap(m.all)
		m.all = nil
	}
}
