package compute

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// A body is a queue of parts: bytes, and readers that are read when their turn
// comes. Appending one body to another moves its parts. There are two kinds of handle:
//
//	*body     all that is not being streamed; guests read it, and write to both ends
//	*stream   the write end of a body whose other end somebody reads meanwhile
//
// Who makes a body for a guest:
//
//	b.items.add(bodyOf(data))                      of bytes, which become the body's
//	b.items.add(bodyFrom(reader, length, trailer)) of a reader, which is closed with it
//	w, r := newStream(b, nil); b.items.add(w)      that a guest writes and r reads
//
// Who takes one from a guest calls c.takeBody, and reads it with reader().

// heldBytesMax bounds what a sandbox can have the host remember in bodies that it
// wrote or looked up, and nobody has read: as much again as its own memory may be. What
// it has sent to backends that do not read it is bounded by as much.
const heldBytesMax = 128 << 20

// partBytes is what a part of a body counts besides its bytes, where a guest may make
// many small ones.
const partBytes = 64

// streamBytesMax bounds what a guest may be ahead of the reader of a stream, and how
// much one write adds to that: about what a socket's buffers take. After that
// its writes wait.
const streamBytesMax = 256 << 10

// streamPartsMax is the same for bodies appended to a stream: each counts, however
// long it is.
const streamPartsMax = 64

// chunkBytes is how much is read of a reader at once.
const chunkBytes = 32 << 10

// errBrokenOff is the end of a body that was abandoned by who wrote it. It must not
// look complete to whoever reads it.
var errBrokenOff = errors.New("compute: the guest broke the body off")

// errGone answers writes to a stream that nobody reads any more.
var errGone = errors.New("compute: nobody reads the body any more")

// part is a piece of a body.
type part struct {
	bytes []byte  // the rest of it, if from is nil
	whole []byte  // the memory that a stream wrote it to, to be used again; nil: not a stream's
	from  *source // what reads it
}

// body is a body that is not being streamed. It is owned by the guest's goroutine
// while it has a handle, then by who took it.
type body struct {
	parts   []part
	trailer header
	ended   bool  // it has been read to its end, or never had a part: the trailers are known
	failed  error // and this is what reading it ended with, if not well

	// held is how much of the sandbox's heldBytesMax it uses.
	held int
}

// bodyOf makes a body of bytes, which must not change afterwards.
func bodyOf(data []byte) *body {
	b := &body{}
	if len(data) > 0 {
		b.parts = append(b.parts, part{bytes: data[:len(data):len(data)]})
	}
	return b
}

// bodyOfParts is bodyOf of bytes in several pieces.
func bodyOfParts(pieces [][]byte) *body {
	b := &body{parts: make([]part, len(pieces))}
	for i, piece := range pieces {
		b.parts[i].bytes = piece[:len(piece):len(piece)]
	}
	return b
}

// bodyFrom makes a body of what a reader returns: length bytes, -1 if that is not
// known. trailer is asked at its end; it may be nil, and so may what it returns. The
// reader is closed with the body. It need not be interruptible: it is read by a
// goroutine of its own, and an error that it returns breaks the body off.
func bodyFrom(from io.ReadCloser, length int64, trailer func() http.Header) *body {
	if from == nil || from == http.NoBody {
		return &body{}
	}
	return &body{parts: []part{{from: &source{reader: from, left: length, trailer: trailer}}}}
}

// length is how many bytes are left to be read, -1 if that is not known.
func (b *body) length() int64 {
	var n int64
	for _, p := range b.parts {
		switch {
		case p.from == nil:
			n += int64(len(p.bytes))
		case p.from.left < 0:
			return -1
		default:
			n += p.from.left
		}
	}
	return n
}

// source is a reader in a body.
type source struct {
	// Fixed.
	reader  io.ReadCloser
	trailer func() http.Header // may be nil

	// Owned by the body's owner.
	left    int64         // bytes not handed out; -1: not known
	buffer  *[]byte       // of chunks; nil before the first fetch
	chunk   []byte        // read ahead
	err     error         // after chunk
	fetched chan struct{} // of capacity 1: fetch is done; nil before the first
	pending bool          // fetch goes on, and owns buffer, chunk and err
}

var buffers = sync.Pool{New: func() any { b := make([]byte, chunkBytes); return &b }}

// poll says whether a chunk or the end is there, and has it fetched if not.
func (s *source) poll(b *sandbox) bool {
	if s.pending {
		select {
		case <-s.fetched:
			s.pending = false
		default:
			return false
		}
	}
	if len(s.chunk) > 0 || s.err != nil {
		return true
	}
	if s.fetched == nil {
		s.fetched = make(chan struct{}, 1)
		s.buffer = buffers.Get().(*[]byte)
	}
	s.pending = true
	go s.fetch(b)
	return false
}

// fetch reads a chunk.
func (s *source) fetch(b *sandbox) {
	n, err := 0, error(nil)
	for n == 0 && err == nil {
		n, err = s.reader.Read(*s.buffer)
	}
	s.chunk, s.err = (*s.buffer)[:n], err
	s.fetched <- struct{}{}
	b.signal()
}

// take copies what was read ahead.
func (s *source) take(p []byte) (int, error) {
	n := copy(p, s.chunk)
	s.chunk = s.chunk[n:]
	s.count(n)
	if len(s.chunk) == 0 {
		return n, s.err
	}
	return n, nil
}

func (s *source) count(n int) {
	if s.left >= 0 {
		s.left = max(s.left-int64(n), 0)
	}
}

// Read reads for an owner that may wait.
func (s *source) Read(p []byte) (int, error) {
	if s.pending {
		<-s.fetched
		s.pending = false
	}
	if len(s.chunk) > 0 || s.err != nil {
		return s.take(p)
	}
	n, err := s.reader.Read(p)
	s.count(n)
	s.err = err
	return n, err
}

// close closes the reader, also if it is being read: then once that has ended,
// because the readers of net/http would wait for it.
func (s *source) close() {
	if s.pending {
		s.stop()
		go func() {
			<-s.fetched
			s.release()
		}()
		return
	}
	s.release()
}

// stop ends a Read that waits, if the reader knows how.
func (s *source) stop() {
	if r, ok := s.reader.(interface{ Stop() }); ok {
		r.Stop()
	}
}

func (s *source) release() {
	s.reader.Close()
	if s.buffer != nil {
		buffers.Put(s.buffer)
		s.buffer, s.chunk = nil, nil
	}
}

// addTrailer adds what came after the source's last byte.
func (s *source) addTrailer(h *header) {
	if s.trailer == nil {
		return
	}
	came := headerOf(s.trailer(), nil)
	for _, f := range came.fields {
		for _, v := range f.values {
			h.append(f.name, v)
		}
	}
}

// ready is item.ready: there is something to be read, or the end.
func (b *body) ready(s *sandbox) bool {
	for len(b.parts) > 0 {
		p := b.parts[0]
		switch {
		case p.from == nil && len(p.bytes) > 0:
			return true
		case p.from == nil:
			b.parts = b.parts[1:]
		default:
			return p.from.poll(s)
		}
	}
	return true
}

// read reads what is ready: 0 and no error is the end.
func (b *body) read(s *sandbox, into []byte) (int, error) {
	if b.failed != nil {
		return 0, b.failed
	}
	for len(b.parts) > 0 && len(into) > 0 {
		p := &b.parts[0]
		if p.from == nil {
			n := copy(into, p.bytes)
			if p.bytes = p.bytes[n:]; len(p.bytes) == 0 {
				b.shift()
			}
			if n > 0 {
				n2 := min(n, b.held)
				b.held -= n2
				s.held -= n2
				return n, nil
			}
			continue
		}
		s.await(b)
		n, err := p.from.take(into)
		if err == io.EOF {
			p.from.addTrailer(&b.trailer)
		} else if err != nil {
			b.failed = err
		}
		if err != nil {
			p.from.close()
			b.shift()
		}
		if n > 0 {
			return n, nil
		}
		if b.failed != nil {
			return 0, b.failed
		}
	}
	if len(into) > 0 {
		b.ended = true
		b.leave(s)
	}
	return 0, nil
}

// shift forgets the first part.
func (b *body) shift() {
	b.parts[0] = part{}
	b.parts = b.parts[1:]
}

// write adds bytes to one end. All are taken, or none.
func (b *body) write(s *sandbox, data []byte, front bool) status {
	if len(data) == 0 {
		return statusOK
	}
	n := len(data)
	if front {
		n += partBytes
	}
	if st := s.hold(b, n); st != statusOK {
		return st
	}
	switch last := len(b.parts) - 1; {
	case front:
		b.parts = append(b.parts, part{})
		copy(b.parts[1:], b.parts)
		b.parts[0] = part{bytes: append([]byte(nil), data...)}
	case last >= 0 && b.parts[last].from == nil:
		b.parts[last].bytes = append(b.parts[last].bytes, data...)
	default:
		b.parts = append(b.parts, part{bytes: append([]byte(nil), data...)})
	}
	b.ended = false
	return statusOK
}

// hold counts n bytes more that the sandbox has the host remember in a body.
func (s *sandbox) hold(b *body, n int) status {
	if s.held+n > heldBytesMax {
		return statusLimit
	}
	s.held += n
	b.held += n
	return statusOK
}

// leave takes the body out of the sandbox's account: it belongs to somebody else.
func (b *body) leave(s *sandbox) {
	s.held -= b.held
	b.held = 0
}

// append moves all of another body to the end of this one, or nothing.
func (b *body) append(s *sandbox, other *body) status {
	if st := s.hold(b, partBytes*len(other.parts)); st != statusOK {
		return st
	}
	b.parts = append(b.parts, other.parts...)
	for _, f := range other.trailer.fields {
		for _, v := range f.values {
			b.trailer.append(f.name, v)
		}
	}
	b.held += other.held
	b.failed = errors.Join(b.failed, other.failed)
	b.ended = b.ended && len(other.parts) == 0
	*other = body{}
	return statusOK
}

// drop is item.drop.
func (b *body) drop(s *sandbox) {
	b.leave(s)
	b.close()
}

// close lets go of what it would have been read from.
func (b *body) close() {
	for _, p := range b.parts {
		if p.from != nil {
			p.from.close()
		}
	}
	b.parts = nil
}

// reader is the body for somebody else, who may read it in any goroutine and has to
// close it. The body must have been taken from its sandbox.
func (b *body) reader() *streamReader {
	s := &stream{wake: func() {}}
	s.begin(b)
	s.finish()
	return &streamReader{s}
}

// stream is the write end of a body that is read meanwhile. The guest's goroutine
// writes; one other reads, through a streamReader.
type stream struct {
	// Fixed.
	wake   func()        // the writer, if it waits
	stored chan struct{} // of an object's: closed once it is in the cache; else nil
	given  *atomic.Int64 // the sandbox's account of what others have not read; nil: not counted

	mu       sync.Mutex
	readable sync.Cond // guarded by mu: there is a part, or an end
	parts    []part
	bytes    int    // in parts
	counted  int    // of given: what was held when it came here, and has not been read
	spare    []byte // memory of a part that was read
	trailer  header
	end      error // io.EOF: finished; else broken off
	reading  bool  // the first part is a source and being read, without mu
	gone     bool  // nobody reads
}

// streamReader is the read end of a stream, or of a body that is complete.
type streamReader struct{ s *stream }

// newStream makes a body that the guest of b writes while it is read. It begins
// with what another body is so far; that may be nil.
func newStream(b *sandbox, begin *body) (*stream, *streamReader) {
	s := &stream{wake: b.signal, given: &b.given}
	if begin != nil {
		s.count(begin.held)
		begin.leave(b)
	}
	s.begin(begin)
	return s, &streamReader{s}
}

// count has the sandbox answer for n bytes until they are read, or nobody does any
// more.
func (s *stream) count(n int) {
	if s.given != nil {
		s.counted += n
		s.given.Add(int64(n))
	}
}

// uncount is for n bytes that were read.
func (s *stream) uncount(n int) {
	if n = min(n, s.counted); n > 0 {
		s.counted -= n
		s.given.Add(int64(-n))
	}
}

// mayGive says whether a sandbox may leave n bytes more to others.
func (b *sandbox) mayGive(n int) bool { return b.given.Load()+int64(n) <= heldBytesMax }

// begin makes the parts of a body the stream's first.
func (s *stream) begin(b *body) {
	s.readable.L = &s.mu
	if b == nil {
		return
	}
	s.parts, s.trailer, s.end = b.parts, b.trailer, b.failed
	for _, p := range s.parts {
		s.bytes += len(p.bytes)
	}
	*b = body{}
}

// ready is item.ready: a write would not wait.
func (s *stream) ready(*sandbox) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writable()
}

func (s *stream) writable() bool {
	return s.gone || s.end != nil || s.bytes < streamBytesMax && len(s.parts) < streamPartsMax
}

// write adds all of data, as there is room for it.
func (s *stream) write(b *sandbox, data []byte) error {
	for len(data) > 0 {
		s.mu.Lock()
		for !s.writable() {
			s.mu.Unlock()
			b.await(s)
			s.mu.Lock()
		}
		if s.gone || s.end != nil {
			s.mu.Unlock()
			return errGone
		}
		n := min(len(data), streamBytesMax) // ready promised not to wait, so there is room for one more
		s.add(data[:n])
		s.bytes += n
		data = data[n:]
		s.readable.Signal()
		s.mu.Unlock()
	}
	return nil
}

// add adds bytes to what is there.
func (s *stream) add(data []byte) {
	if last := len(s.parts) - 1; last >= 0 && s.parts[last].from == nil && len(s.parts[last].bytes) > 0 {
		p := &s.parts[last]
		grown := append(p.bytes, data...)
		if &grown[0] != &p.bytes[0] {
			p.whole = grown
		}
		p.bytes = grown
		return
	}
	p := append(s.spare[:0], data...)
	s.spare = nil
	s.parts = append(s.parts, part{bytes: p, whole: p})
}

// append moves a body to the end of the stream. It is read when its turn comes.
func (s *stream) append(b *sandbox, other *body) error {
	b.await(s)
	held := other.held
	other.leave(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone || s.end != nil {
		other.close()
		return errGone
	}
	s.count(held)
	s.parts = append(s.parts, other.parts...)
	for _, p := range other.parts {
		s.bytes += len(p.bytes)
	}
	for _, f := range other.trailer.fields {
		for _, v := range f.values {
			s.trailer.append(f.name, v)
		}
	}
	if other.failed != nil {
		s.end = other.failed
	}
	s.readable.Signal()
	return nil
}

// finish ends the stream well. What has been written is still read.
func (s *stream) finish() { s.finishWith(io.EOF) }

// abandon ends it so that its reader sees that something is missing.
func (s *stream) abandon() { s.finishWith(errBrokenOff) }

func (s *stream) finishWith(end error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end == nil {
		s.end = end
	}
	s.readable.Signal()
}

// waitStored waits until a body that was finished is in the cache: a guest that looks
// for it then finds all of it. What is still to come from elsewhere is not waited for.
func (s *stream) waitStored(b *sandbox) {
	if s.stored == nil {
		return
	}
	b.waitUntil(0, func() bool {
		select {
		case <-s.stored:
			return true
		default:
			return s.fromElsewhere()
		}
	})
}

// fromElsewhere says whether bytes of others are still to be read.
func (s *stream) fromElsewhere() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.parts {
		if p.from != nil {
			return true
		}
	}
	return false
}

// drop is item.drop: what was not finished is broken off.
func (s *stream) drop(*sandbox) { s.abandon() }

// Read is io.Reader. It returns what is there, and waits if that is nothing.
func (r *streamReader) Read(p []byte) (int, error) {
	s := r.s
	if len(p) == 0 {
		return 0, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for len(s.parts) == 0 && s.end == nil && !s.gone {
			s.readable.Wait()
		}
		switch {
		case s.gone:
			return 0, errGone
		case len(s.parts) == 0:
			return 0, s.end
		}
		n, err := 0, error(nil)
		if s.parts[0].from == nil {
			n = s.take(p)
		} else {
			n, err = s.takeFrom(s.parts[0].from, p)
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// take reads the first part, bytes.
func (s *stream) take(p []byte) int {
	first := &s.parts[0]
	n := copy(p, first.bytes)
	if first.bytes = first.bytes[n:]; len(first.bytes) == 0 {
		if cap(first.whole) > cap(s.spare) {
			s.spare = first.whole[:0]
		}
		s.shift()
	}
	s.bytes -= n
	s.uncount(n)
	if len(s.parts) == 0 {
		s.uncount(s.counted)
	}
	s.wake()
	return n
}

// takeFrom reads the first part, a source, while the guest goes on.
func (s *stream) takeFrom(from *source, p []byte) (int, error) {
	s.reading = true
	s.mu.Unlock()
	n, err := from.Read(p)
	s.mu.Lock()
	s.reading = false
	if err == nil && !s.gone {
		return n, nil
	}
	if err == io.EOF {
		from.addTrailer(&s.trailer)
		err = nil
	}
	from.close()
	switch {
	case s.gone:
		return 0, errGone
	case err != nil:
		s.end = err
	}
	s.shift()
	s.wake()
	if n > 0 {
		err = nil // it comes again
	}
	return n, err
}

// shift forgets the first part.
func (s *stream) shift() {
	copy(s.parts, s.parts[1:])
	s.parts[len(s.parts)-1] = part{}
	s.parts = s.parts[:len(s.parts)-1]
}

// Trailer is what follows the body, once Read has returned io.EOF.
func (r *streamReader) Trailer() http.Header {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	return r.s.trailer.http()
}

// Whole says whether all that Read will return is in memory.
func (r *streamReader) Whole() bool {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	for _, p := range r.s.parts {
		if p.from != nil {
			return false
		}
	}
	return r.s.end == io.EOF
}

// Close is io.Closer. It may be called while Read waits.
func (r *streamReader) Close() error {
	s := r.s
	s.mu.Lock()
	parts := s.parts
	if s.reading { // who reads it closes it
		parts[0].from.stop()
		parts = parts[1:]
	}
	s.bytes, s.gone = 0, true
	s.uncount(s.counted)
	if !s.reading {
		s.parts = nil
	}
	s.readable.Broadcast()
	s.mu.Unlock()
	for _, p := range parts {
		if p.from != nil {
			p.from.close()
		}
	}
	s.wake()
	return nil
}
