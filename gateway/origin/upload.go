package origin

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
)

// copyBytes is what is read at once from one side to be written to the other.
const copyBytes = 32 << 10

// copies are buffers for bodies.
var copies = sync.Pool{New: func() any { b := make([]byte, copyBytes); return &b }}

// upload writes a request's body to the origin while the answer is awaited. It
// ends when the body does, and at the latest soon after the connection is closed
// and the body returns from Read: net/http's server sees to that when the
// client's handler has returned.
type upload struct {
	conn  *conn
	req   *http.Request
	limit time.Duration // for the answer's head, from the end of the body on; zero: none

	answered atomic.Bool // the answer's head is there

	// err is written before broken is set. The connection is closed then: half a
	// request must not look like a whole one.
	err    error
	broken atomic.Bool

	done chan struct{} // closed by run
	sent bool          // all of it was; read after done
}

func (u *upload) run() {
	defer close(u.done)
	defer u.req.Body.Close()
	err := u.write()
	switch {
	case errors.Is(err, ErrBody):
		u.err = err
		u.broken.Store(true)
		u.conn.Close()
	case err != nil:
		// The origin takes no more. It may have said why: that is being read.
	default:
		u.sent = true
		if u.limit > 0 && !u.answered.Load() {
			u.conn.SetReadDeadline(time.Now().Add(u.limit))
			if u.answered.Load() {
				u.conn.SetReadDeadline(time.Time{})
			}
		}
	}
}

// over says whether run has returned.
func (u *upload) over() bool {
	select {
	case <-u.done:
		return true
	default:
		return false
	}
}

// ended says whether the whole body was sent, and waits a little for that.
func (u *upload) ended() bool {
	grace := time.NewTimer(uploadGrace)
	defer grace.Stop()
	select {
	case <-u.done:
		return u.sent
	case <-grace.C:
		return false
	}
}

// write writes the body. The error is ErrBody if that is at fault.
func (u *upload) write() error {
	buf := copies.Get().(*[]byte)
	defer copies.Put(buf)
	if framing(u.req) == inChunks {
		return u.writeChunks(*buf)
	}
	for left := u.req.ContentLength; left > 0; {
		n, err := u.req.Body.Read((*buf)[:min(left, copyBytes)])
		left -= int64(n)
		if n > 0 {
			if _, err := u.conn.Write((*buf)[:n]); err != nil {
				return err
			}
		}
		if err != nil && left > 0 {
			if err == io.EOF {
				err = fmt.Errorf("ends %d bytes early: %w", left, io.ErrUnexpectedEOF)
			}
			return fmt.Errorf("%w: %w", ErrBody, err)
		}
	}
	return nil
}

// writeChunks writes what each Read returns as a chunk of its own:
//
//	4\r\n
//	wiki\r\n
//	0\r\n            at the end, with the trailers
//	\r\n
func (u *upload) writeChunks(buf []byte) error {
	const sizeBytes = len("8000\r\n") // of the largest chunk
	for {
		n, err := u.req.Body.Read(buf[sizeBytes : len(buf)-len("\r\n0\r\n")])
		if err != nil && err != io.EOF {
			return fmt.Errorf("%w: %w", ErrBody, err)
		}
		chunk := buf[sizeBytes:sizeBytes]
		if n > 0 {
			size := strconv.AppendUint(make([]byte, 0, sizeBytes), uint64(n), 16)
			size = append(size, "\r\n"...)
			from := sizeBytes - len(size)
			copy(buf[from:], size)
			chunk = append(buf[from:sizeBytes+n], "\r\n"...)
		}
		if err == io.EOF {
			chunk = append(chunk, "0\r\n"...)
			for name, values := range u.req.Trailer {
				for _, value := range values {
					// The names were checked, the values came only now.
					if httpguts.ValidHeaderFieldName(name) && httpguts.ValidHeaderFieldValue(value) {
						chunk = appendField(chunk, name, value)
					}
				}
			}
			chunk = append(chunk, "\r\n"...)
		}
		if len(chunk) > 0 {
			if _, werr := u.conn.Write(chunk); werr != nil {
				return werr
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}
