package cache

import (
	"io"
	"sync"
	"time"
)

// body is bytes that are appended to and read at the same time. Chunks are filled by
// the one writer, outside of the lock; what was published is never written again, so
// readers copy outside of it as well.
type body struct {
	mu      sync.Mutex
	chunks  [][]byte // full but for the last; the length of each is what may be read
	first   int64    // where the first chunk begins: those before were let go
	size    int64    // what may be read
	err     error    // why it is over: io.EOF if it is complete
	spill   bool     // only for those who read it now
	readers map[*Reader]struct{}
	moved   chan struct{} // of the writer that waits for readers; else nil

	// Guarded by the cache's mu.
	owner    *Object // that it is found by; nil: it cannot be
	finished bool    // nothing will be appended
	charged  int64   // what its chunks weigh; nothing once it is finished and cannot be found
}

// Chunks grow with the body, so that a short one does not take more than it needs
// and a long one does not take many.
const (
	chunkBytesMin = 512
	chunkBytesMax = 64 << 10
)

// spillBytes is by how much readers may be behind the writer of a body that is not
// kept. spillWait is for how long none of them may move then.
const (
	spillBytes = 1 << 20
	spillWait  = 10 * time.Second
)

// claim returns the length of a body that is complete, or -1 and a reader at its
// beginning that keeps it from being forgotten.
func (b *body) claim() (length int64, r *Reader) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == io.EOF {
		return b.size, nil
	}
	return -1, b.add(&Reader{body: b, to: -1})
}

// complete returns the length of a body that is complete, else -1.
func (b *body) complete() (length int64, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == io.EOF {
		return b.size, true
	}
	return -1, false
}

// kept says whether it is complete, or can still become so.
func (b *body) kept() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.spill && (b.err == nil || b.err == io.EOF)
}

// open reads a part: to is the last byte, or -1. If fixed, the body must be that long.
func (b *body) open(from, to int64, fixed bool) *Reader {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &Reader{body: b, at: from, to: to, fixed: fixed}
	if b.err == nil {
		b.add(r)
	}
	return r
}

// add registers a reader of a body that is not complete. The lock is held.
func (b *body) add(r *Reader) *Reader {
	if b.err == nil {
		if b.readers == nil {
			b.readers = make(map[*Reader]struct{})
		}
		r.wake = make(chan struct{}, 1)
		b.readers[r] = struct{}{}
	}
	return r
}

// tell wakes all readers. The lock is held.
func (b *body) tell() {
	for r := range b.readers {
		select {
		case r.wake <- struct{}{}:
		default:
		}
		if r.notify != nil {
			r.notify()
		}
	}
}

// end is the end of the body: err is io.EOF, or what readers get once they have read
// what is there.
func (b *body) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
		b.tell()
		b.readers = nil
	}
}

// slowest is where the reader is that is furthest behind; size if there is none. The
// lock is held.
func (b *body) slowest() (at int64, any bool) {
	at = b.size
	for r := range b.readers {
		at, any = min(at, r.at), true
	}
	return at, any
}

// release lets go of chunks that all have read, of a body that is not kept, and
// returns how much they weighed.
func (b *body) release() (freed int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at, _ := b.slowest()
	for len(b.chunks) > 1 && b.first+int64(len(b.chunks[0])) <= at {
		freed += int64(cap(b.chunks[0]))
		b.first += int64(len(b.chunks[0]))
		b.chunks[0] = nil
		b.chunks = b.chunks[1:]
	}
	return freed
}

// Reader reads a body, also while it is written. Its methods may be used by one
// goroutine at a time, but for Close.
type Reader struct {
	body  *body
	to    int64 // the last byte, or -1
	fixed bool  // a body that ends before is an error

	// Guarded by the body's mu.
	at     int64
	chunk  int // where at was, as a hint
	begin  int64
	closed bool
	notify func()
	wake   chan struct{} // of a body that was being written; never closed
}

// Notify has f called when there is more to read, or the end: it must not block. It
// may be called when there is nothing.
func (r *Reader) Notify(f func()) {
	r.body.mu.Lock()
	defer r.body.mu.Unlock()
	r.notify = f
}

// Ready says whether Next would return without waiting.
func (r *Reader) Ready() bool {
	r.body.mu.Lock()
	defer r.body.mu.Unlock()
	b := r.body
	return r.closed || b.err != nil || r.at < b.size || r.to >= 0 && r.at > r.to
}

// Next returns the bytes that come next, at most limit and at least one, or why there
// are none: io.EOF at the end. They are the cache's: they stay as they are and must
// not be written to. It waits until there are some.
func (r *Reader) Next(limit int) ([]byte, error) {
	b := r.body
	for {
		b.mu.Lock()
		part, err := r.next(limit)
		moved := b.moved
		b.mu.Unlock()
		if len(part) > 0 && moved != nil {
			select {
			case moved <- struct{}{}:
			default:
			}
		}
		if len(part) > 0 || err != nil {
			return part, err
		}
		<-r.wake
	}
}

// next is Next that does not wait: neither bytes nor an error. The lock is held.
func (r *Reader) next(limit int) ([]byte, error) {
	b := r.body
	switch {
	case r.closed:
		return nil, ErrClosed
	case r.to >= 0 && r.at > r.to:
		return nil, io.EOF
	case r.at < b.size && r.at >= b.first:
		if r.begin < b.first || r.chunk >= len(b.chunks) || b.first > 0 {
			r.chunk, r.begin = 0, b.first
		}
		for r.at >= r.begin+int64(len(b.chunks[r.chunk])) {
			r.begin += int64(len(b.chunks[r.chunk]))
			r.chunk++
		}
		part := b.chunks[r.chunk][r.at-r.begin:]
		if r.to >= 0 {
			part = part[:min(int64(len(part)), r.to+1-r.at)]
		}
		part = part[:min(len(part), limit)]
		r.at += int64(len(part))
		return part[:len(part):len(part)], nil
	case r.at < b.first:
		return nil, ErrIncomplete // cannot be: a claim keeps what is before it
	case b.err == io.EOF && r.fixed && (r.to >= 0 || r.at > b.size):
		return nil, ErrLength
	case b.err != nil:
		return nil, b.err
	}
	return nil, nil
}

// Rest is all that Next would return, if the body is complete: nothing has to be
// waited for. It is the cache's as well.
func (r *Reader) Rest() (parts [][]byte, ok bool) {
	b := r.body
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != io.EOF || r.closed || r.fixed || r.at < b.first {
		return nil, false
	}
	for {
		part, err := r.next(int(^uint(0) >> 1))
		if err != nil {
			return parts, err == io.EOF
		}
		parts = append(parts, part)
	}
}

// Stop ends a Next that waits, as Close does.
func (r *Reader) Stop() { r.Close() }

// Read is io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	part, err := r.Next(len(p))
	return copy(p, part), err
}

// WriteTo is io.WriterTo: nothing is copied on the way.
func (r *Reader) WriteTo(w io.Writer) (n int64, err error) {
	for {
		part, err := r.Next(chunkBytesMax)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		m, err := w.Write(part)
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
}

// Close ends reading, also for one that waits.
func (r *Reader) Close() error {
	b := r.body
	b.mu.Lock()
	r.closed, r.notify = true, nil
	delete(b.readers, r)
	moved, wake := b.moved, r.wake
	b.mu.Unlock()
	for _, told := range []chan struct{}{moved, wake} {
		if told != nil {
			select {
			case told <- struct{}{}:
			default:
			}
		}
	}
	return nil
}

// Writer writes the body of an object. It ends with Close or Abort. Its methods may
// be used by one goroutine at a time.
type Writer struct {
	cache  *Cache
	body   *body
	length int64 // that was said, or -1
	ended  bool
	lone   time.Time // since when nobody reads; zero: somebody does
}

// Write appends to the body. An error means that it is broken off.
func (w *Writer) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		room, err := w.room(len(p))
		if err != nil {
			w.fail(err)
			return n, err
		}
		m := copy(room, p)
		w.publish(m)
		p, n = p[m:], n+m
	}
	return n, nil
}

// ReadFrom is io.ReaderFrom: it reads into the place where the bytes will stay.
func (w *Writer) ReadFrom(r io.Reader) (n int64, err error) {
	for {
		room, err := w.room(chunkBytesMin)
		if err != nil {
			w.fail(err)
			return n, err
		}
		m, err := r.Read(room)
		w.publish(m)
		n += int64(m)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// room is where the next bytes go: at least one, of about as many as are wanted.
func (w *Writer) room(want int) ([]byte, error) {
	b := w.body
	if w.ended {
		return nil, ErrClosed
	}
	b.mu.Lock()
	if b.err != nil {
		b.mu.Unlock()
		return nil, b.err
	}
	size, spill := b.size, b.spill
	if last := len(b.chunks) - 1; last >= 0 && len(b.chunks[last]) < cap(b.chunks[last]) {
		room := b.chunks[last][len(b.chunks[last]):cap(b.chunks[last])]
		b.mu.Unlock()
		return room, nil
	}
	b.mu.Unlock()
	n := int(min(max(int64(want), size, chunkBytesMin), chunkBytesMax))
	switch {
	case w.length > size:
		n = int(min(w.length-size, chunkBytesMax))
	case w.length >= 0:
		n = chunkBytesMin // it will be an error, unless nothing comes
	}
	if !spill && (size+int64(n) > w.cache.opts.ObjectBytes || !w.cache.charge(b, int64(n))) {
		spill = true
		w.cache.spill(b)
	} else if !spill {
		return w.add(n), nil
	}
	if err := w.waitForReaders(); err != nil {
		return nil, err
	}
	w.cache.chargeAlways(b, int64(n))
	return w.add(n), nil
}

// add adds an empty chunk of n bytes, and returns its place.
func (w *Writer) add(n int) []byte {
	b := w.body
	chunk := make([]byte, 0, n)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.chunks = append(b.chunks, chunk)
	return chunk[:n]
}

// publish makes n bytes of the last room readable.
func (w *Writer) publish(n int) {
	if n == 0 {
		return
	}
	b := w.body
	b.mu.Lock()
	defer b.mu.Unlock()
	last := len(b.chunks) - 1
	b.chunks[last] = b.chunks[last][:len(b.chunks[last])+n]
	b.size += int64(n)
	b.tell()
}

// waitForReaders waits until all who read a body that is not kept are near its end.
func (w *Writer) waitForReaders() error {
	b := w.body
	b.mu.Lock()
	if b.moved == nil {
		b.moved = make(chan struct{}, 1)
	}
	b.mu.Unlock()
	var timer *time.Timer
	for was := int64(-1); ; {
		w.cache.charge(b, -b.release())
		b.mu.Lock()
		at, any := b.slowest()
		behind := b.size - at
		b.mu.Unlock()
		switch {
		case !any:
			return ErrTooLarge
		case behind < spillBytes:
			return nil
		}
		if timer == nil {
			timer = time.NewTimer(spillWait)
			defer timer.Stop()
		} else if at > was {
			timer.Reset(spillWait)
		}
		was = at
		select {
		case <-b.moved:
		case <-timer.C:
			return ErrTooLarge
		}
	}
}

// Lone is for how long nobody has been reading.
func (w *Writer) Lone() time.Duration {
	b := w.body
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case len(b.readers) > 0:
		w.lone = time.Time{}
		return 0
	case w.lone.IsZero():
		w.lone = time.Now()
	}
	return time.Since(w.lone)
}

// Close ends a body that is complete. If it is not as long as was said, it is broken
// off, and that is the error.
func (w *Writer) Close() error {
	if w.ended {
		return nil
	}
	b := w.body
	b.mu.Lock()
	size := b.size
	b.mu.Unlock()
	if w.length >= 0 && size != w.length {
		w.fail(ErrLength)
		return ErrLength
	}
	w.ended = true
	w.trim()
	b.end(io.EOF)
	w.cache.finish(b)
	return nil
}

// trim lets go of the rest of the last chunk, if it is worth the copy.
func (w *Writer) trim() {
	b := w.body
	last := len(b.chunks) - 1
	if last < 0 {
		return
	}
	chunk := b.chunks[last]
	if rest := cap(chunk) - len(chunk); rest > chunkBytesMin && rest > len(chunk)/4 {
		shorter := append(make([]byte, 0, len(chunk)), chunk...)
		b.mu.Lock()
		b.chunks[last] = shorter
		b.mu.Unlock()
		w.cache.charge(b, -int64(rest))
	}
}

// Abort breaks the body off: readers get ErrIncomplete, and it is found no more.
func (w *Writer) Abort() { w.fail(ErrIncomplete) }

// fail ends the body with an error.
func (w *Writer) fail(err error) {
	if w.ended {
		return
	}
	w.ended = true
	if err != ErrTooLarge && err != ErrLength {
		err = ErrIncomplete
	}
	w.body.end(err)
	w.cache.broken(w.body)
}

// weight is what the chunks weigh.
func (b *body) weight() (n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, chunk := range b.chunks {
		n += int64(cap(chunk))
	}
	return n
}
