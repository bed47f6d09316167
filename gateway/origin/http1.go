package origin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// readBufferBytes holds most answers' heads and what came with them.
	readBufferBytes = 8 << 10

	// inlineBytesMax is how long a body in memory may be to be written together
	// with the head. A longer one might wait for an origin that waits for us to
	// read its answer.
	inlineBytesMax = 64 << 10

	// headKeepMax is how large a buffer for heads may have grown to be used again.
	headKeepMax = inlineBytesMax + readBufferBytes

	// uploadGrace is how long, after the end of an answer, the end of the request
	// is waited for. The origin usually had it before it answered.
	uploadGrace = 50 * time.Millisecond

	// keepAliveMargin is how much earlier than the origin an unused connection is
	// closed here, so that no request meets its closing.
	keepAliveMargin = time.Second
)

// plain speaks HTTP/1.1 to one address over TCP.
//
// It writes the request in the caller's goroutine, and reads the answer there
// with net/http's parser. Only a body that comes from elsewhere gets a goroutine,
// because the origin may answer before it has it all. An unused connection has
// neither goroutine nor buffer: that the origin has closed it is found out when
// it is wanted again.
type plain struct {
	network   *Network
	addr      string
	untrusted bool

	mu    sync.Mutex
	idle  []*conn     // the one used last is the last; at most IdleConnsMax
	sweep *time.Timer // set while idle is not empty
}

// conn is a connection to an origin, with at most one request on it.
type conn struct {
	net.Conn
	abort func() // closes the connection; made once, for context.AfterFunc

	// To find out whether the origin has closed it; nil if that cannot be done.
	raw   syscall.RawConn
	peek  func(fd uintptr) bool
	quiet bool // what peek saw

	used  bool      // has carried an answer
	until time.Time // when it is unused for too long

	// For the answer's head.
	headLeft int64 // how many bytes it may still have; negative: no head is being read
	got      bool  // some of it came
}

func newConn(nc net.Conn) *conn {
	c := &conn{Conn: nc, headLeft: -1}
	c.abort = func() { nc.Close() }
	c.watch()
	return c
}

var errHeadTooLarge = fmt.Errorf("%w: head exceeds %d bytes", ErrAnswer, answerHeadBytesMax)

// Read bounds the head: net/http's parser does not.
func (c *conn) Read(p []byte) (int, error) {
	if c.headLeft < 0 {
		return c.Conn.Read(p)
	}
	if c.headLeft == 0 {
		return 0, errHeadTooLarge
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), c.headLeft)])
	c.headLeft -= int64(n)
	c.got = c.got || n > 0
	return n, err
}

// take returns an unused connection that the origin has not closed, or nil.
func (e *plain) take() *conn {
	for {
		e.mu.Lock()
		last := len(e.idle) - 1
		if last < 0 {
			e.mu.Unlock()
			return nil
		}
		c := e.idle[last]
		e.idle[last] = nil
		e.idle = e.idle[:last]
		e.mu.Unlock()
		if time.Now().Before(c.until) && c.alive() {
			return c
		}
		c.Close()
	}
}

// put keeps a connection for the next request.
func (e *plain) put(c *conn, keepFor time.Duration) {
	c.used = true
	c.until = time.Now().Add(keepFor)
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.idle) >= e.network.opts.IdleConnsMax {
		c.Close()
		return
	}
	e.idle = append(e.idle, c)
	if e.sweep == nil {
		e.sweep = time.AfterFunc(e.network.opts.IdleTimeout/4, e.closeExpired)
	}
}

// closeExpired closes what is unused for too long, now and as long as there is
// something.
func (e *plain) closeExpired() {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.sweep == nil {
		return // closeIdle was faster
	}
	kept := e.idle[:0]
	for _, c := range e.idle {
		if now.Before(c.until) {
			kept = append(kept, c)
		} else {
			c.Close()
		}
	}
	clear(e.idle[len(kept):])
	e.idle = kept
	if len(kept) == 0 {
		e.sweep = nil
		return
	}
	e.sweep.Reset(e.network.opts.IdleTimeout / 4)
}

func (e *plain) closeIdle() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.idle {
		c.Close()
	}
	e.idle = nil
	if e.sweep != nil {
		e.sweep.Stop()
		e.sweep = nil
	}
}

func (e *plain) dialUpgrade(ctx context.Context, _ string) (net.Conn, error) {
	return e.network.dial(ctx, e.addr, e.untrusted)
}

// errStale says that the origin had closed a connection before it saw the
// request, which may be sent again.
var errStale = errors.New("origin closed an idle connection")

func (e *plain) roundTrip(req *http.Request, host string) (*http.Response, error) {
	c := e.take()
	for {
		if c == nil {
			nc, err := e.network.dial(req.Context(), e.addr, e.untrusted)
			if err != nil {
				if req.Context().Err() != nil {
					closeBody(req)
				}
				return nil, err
			}
			c = newConn(nc)
		}
		x := &exchange{conn: c, ctx: req.Context(), home: e}
		response, err := x.do(req, host, "")
		if err == errStale {
			e.network.stale.Inc()
			c = nil // others are probably stale, too
			continue
		}
		if err == nil {
			x.deliver(response)
		}
		return response, err
	}
}

// heads are buffers for what is written first.
var heads = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// readers are buffers for what is read; one belongs to a connection while an
// answer comes.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, readBufferBytes) }}

// exchange is one request and its answer on a connection, and the body of that
// answer.
type exchange struct {
	// Fixed after do.
	conn    *conn
	ctx     context.Context
	home    *plain      // where the connection goes when all is well; nil if nowhere
	stop    func() bool // ends the watch over ctx; nil if that never ends
	upload  *upload     // nil if the request has no body, or one that left with the head
	limit   time.Duration
	chunked bool          // how the body is framed
	keepFor time.Duration // how long the connection may be unused; zero: it is closed

	// Owned by who reads the body.
	reader *bufio.Reader
	body   io.Reader // net/http's: it knows where the answer ends

	state atomic.Int32 // open, then whole or cut
}

const (
	open  = iota
	whole // the body was read to its end; the connection is not ours any more
	cut   // the connection is closed
)

// do writes the request and reads the head of the answer; extra is added to the
// request's. With an error the connection is closed, and so is the body, except
// with errStale, when it was not read either.
func (x *exchange) do(req *http.Request, host, extra string) (*http.Response, error) {
	c := x.conn
	if x.ctx.Done() != nil {
		x.stop = context.AfterFunc(x.ctx, c.abort)
	}
	if x.home != nil {
		x.limit = x.home.network.opts.ResponseHeaderTimeout
	}
	buf := heads.Get().(*[]byte)
	head, err := appendRequest((*buf)[:0], req, host, extra)
	sent := 0
	if err == nil {
		sent, err = c.Write(head)
	}
	if *buf = head; cap(head) <= headKeepMax {
		heads.Put(buf)
	}
	if err != nil {
		if c.used && sent == 0 && x.ctx.Err() == nil && isClosed(err) {
			x.drop()
			return nil, errStale
		}
		return nil, x.fail(req, err)
	}

	c.got, c.headLeft = false, answerHeadBytesMax
	streams := framing(req) >= streamed
	if streams {
		x.upload = &upload{conn: c, req: req, limit: x.limit, done: make(chan struct{})}
		go x.upload.run()
	} else if x.limit > 0 {
		c.SetReadDeadline(time.Now().Add(x.limit))
	}
	x.reader = readers.Get().(*bufio.Reader)
	x.reader.Reset(c)
	response, err := x.readHead(req, extra != "")
	if err != nil {
		if c.used && !c.got && !streams && x.ctx.Err() == nil && isClosed(err) && repeatable(req.Method) {
			x.drop()
			return nil, errStale
		}
		return nil, x.fail(req, err)
	}
	c.headLeft = -1
	if x.limit > 0 {
		if x.upload != nil {
			x.upload.answered.Store(true)
		}
		c.SetReadDeadline(time.Time{})
	}
	if !streams {
		closeBody(req)
	}
	return response, nil
}

// repeatable says whether a request may be sent again although the origin may
// have seen it (RFC 9110, section 9.2.2, without the methods that change things).
func repeatable(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// isClosed says whether an error tells that the other side had closed.
func isClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// readHead reads the head of the answer and relays what comes before it.
func (x *exchange) readHead(req *http.Request, upgrade bool) (*http.Response, error) {
	for {
		response, err := http.ReadResponse(x.reader, req)
		switch {
		case err != nil:
			return nil, err
		case response.StatusCode >= http.StatusOK, response.StatusCode == http.StatusSwitchingProtocols && upgrade:
			return response, nil
		case response.StatusCode <= http.StatusSwitchingProtocols && response.StatusCode != http.StatusContinue:
			return nil, fmt.Errorf("status %d", response.StatusCode)
		}
		if h, ok := x.ctx.Value(hintsKey{}).(*hints); ok {
			h.relay(response.StatusCode, response.Header)
		}
	}
}

// deliver makes the exchange the body of the answer, unless that has none.
func (x *exchange) deliver(response *http.Response) {
	if x.home != nil && !response.Close && !response.Request.Close {
		x.keepFor = keepFor(response.Header["Keep-Alive"], x.home.network.opts.IdleTimeout)
	}
	if response.Body == http.NoBody {
		x.finish()
		return
	}
	x.chunked = response.ContentLength < 0
	x.body = response.Body
	response.Body = x
}

// keepFor is how long a connection may be unused: less than the origin keeps it,
// if it says how long that is (Keep-Alive: timeout=5).
func keepFor(keepAlive []string, idleTimeout time.Duration) time.Duration {
	for _, value := range keepAlive {
		for parameter := range strings.SplitSeq(value, ",") {
			name, number, _ := strings.Cut(strings.TrimSpace(parameter), "=")
			seconds, err := strconv.Atoi(number)
			if err != nil || !strings.EqualFold(name, "timeout") || seconds < 0 || seconds > int(idleTimeout/time.Second) {
				continue
			}
			timeout := time.Duration(seconds) * time.Second
			return min(idleTimeout, max(timeout-keepAliveMargin, timeout/2))
		}
	}
	return idleTimeout
}

// Read implements io.Reader for the answer's body.
func (x *exchange) Read(p []byte) (int, error) {
	switch x.state.Load() {
	case whole:
		return 0, io.EOF
	case cut:
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := x.body.Read(p)
	if err == io.EOF {
		x.finish()
	} else if err != nil {
		err = x.reason(err)
		x.Close()
	}
	return n, err
}

// Close implements io.Closer for the answer's body: what is left of the answer
// is not wanted. It may be called while another goroutine reads.
func (x *exchange) Close() error {
	if x.state.CompareAndSwap(open, cut) {
		if x.stop != nil {
			x.stop()
		}
		x.conn.Close() // the reader stays with whoever reads
	}
	return nil
}

// waiting says whether more of the body is there already, after a Read that
// filled its buffer.
func (x *exchange) waiting() bool {
	if x.state.Load() != open {
		return false
	}
	// In a chunked body, bytes may be there that are none of the content's.
	return !x.chunked && x.reader.Buffered() > 0 || x.conn.readable()
}

// finish is called at the end of the answer, by who read it.
func (x *exchange) finish() {
	if !x.state.CompareAndSwap(open, whole) {
		return
	}
	mine := x.stop == nil || x.stop() // else ctx has ended, and the connection is being closed
	clean := x.reader.Buffered() == 0 // else the origin said something unasked
	x.release()
	switch {
	case !mine || !clean || x.keepFor == 0:
		x.conn.Close()
	case x.upload == nil || x.upload.over():
		x.keep()
	default:
		go x.keep() // for uploadGrace at most: the end of the answer must not wait
	}
}

// keep gives the connection back when the request has left it, too.
func (x *exchange) keep() {
	if x.upload == nil || x.upload.ended() {
		x.home.put(x.conn, x.keepFor)
	} else {
		x.conn.Close()
	}
}

// drop closes the connection before there is an answer.
func (x *exchange) drop() {
	if x.stop != nil {
		x.stop()
	}
	x.conn.Close()
	if x.reader != nil {
		x.release()
	}
}

func (x *exchange) release() {
	x.reader.Reset(nil)
	readers.Put(x.reader)
	x.reader = nil
}

// fail closes everything and says why.
func (x *exchange) fail(req *http.Request, err error) error {
	err = x.reason(err)
	if x.conn.got && x.ctx.Err() == nil && !isTimeout(err) && !errors.Is(err, ErrAnswer) && !errors.Is(err, ErrBody) {
		err = fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	x.drop()
	if x.upload == nil {
		closeBody(req)
	}
	return err
}

// reason says why reading or writing went wrong.
func (x *exchange) reason(err error) error {
	switch {
	case x.upload != nil && x.upload.broken.Load():
		return x.upload.err
	case x.ctx.Err() != nil:
		return context.Cause(x.ctx)
	}
	return fmt.Errorf("origin %s: %w", x.conn.RemoteAddr(), err)
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// Framings of a request's body.
const (
	bodyless = iota
	inline   // in memory, short: leaves with the head
	streamed // of known length
	inChunks
)

func framing(req *http.Request) int {
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		return bodyless
	case req.ContentLength <= 0 || len(req.TransferEncoding) > 0:
		return inChunks
	case req.GetBody != nil && req.ContentLength <= inlineBytesMax:
		return inline
	}
	return streamed
}

// appendRequest appends the head, and the body if that is inline. Its parts have
// been checked (checkRequest).
func appendRequest(dst []byte, req *http.Request, host, extra string) ([]byte, error) {
	dst = append(dst, req.Method...)
	dst = append(dst, ' ')
	dst = append(dst, requestTarget(req)...)
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = append(dst, host...)
	dst = append(dst, "\r\n"...)
	for name, values := range req.Header {
		switch name {
		case "Host", "Connection", "Content-Length", "Transfer-Encoding", "Trailer":
			continue // said once, by what follows
		}
		for _, value := range values {
			dst = appendField(dst, name, value)
		}
	}
	dst = append(dst, extra...)
	if extra == "" {
		_, te := req.Header["Te"]
		switch {
		case te && req.Close:
			dst = append(dst, "Connection: TE, close\r\n"...)
		case te:
			dst = append(dst, "Connection: TE\r\n"...)
		case req.Close:
			dst = append(dst, "Connection: close\r\n"...)
		}
	}
	kind := framing(req)
	switch kind {
	case bodyless:
		switch req.Method {
		case http.MethodPost, http.MethodPut, http.MethodPatch:
			dst = append(dst, "Content-Length: 0\r\n"...)
		}
	case inline, streamed:
		dst = append(dst, "Content-Length: "...)
		dst = strconv.AppendInt(dst, req.ContentLength, 10)
		dst = append(dst, "\r\n"...)
	case inChunks:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
		for name := range req.Trailer {
			dst = appendField(dst, "Trailer", name)
		}
	}
	dst = append(dst, "\r\n"...)
	if kind != inline {
		return dst, nil
	}
	body, err := req.GetBody()
	if err != nil {
		return dst, fmt.Errorf("%w: %w", ErrBody, err)
	}
	defer body.Close()
	at, length := len(dst), int(req.ContentLength)
	dst = append(dst, make([]byte, length)...)
	if _, err := io.ReadFull(body, dst[at:]); err != nil {
		return dst, fmt.Errorf("%w: %w", ErrBody, err)
	}
	return dst, nil
}

func appendField(dst []byte, name, value string) []byte {
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	dst = append(dst, value...)
	return append(dst, "\r\n"...)
}
