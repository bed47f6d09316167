package outbound

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// dialer connects to one backend.
type dialer struct {
	net   net.Dialer
	ipv4  bool          // first
	count int           // requests over one connection; 0: any number
	age   time.Duration // of one connection; 0: any
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	var err error = errors.New("not tried")
	if d.ipv4 {
		conn, err = d.net.DialContext(ctx, "tcp4", address)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		conn, err = d.net.DialContext(ctx, network, address)
	}
	if err != nil || d.count == 0 && d.age == 0 {
		return conn, err
	}
	return &agingConn{Conn: conn, count: int64(d.count), age: d.age, born: time.Now()}, nil
}

// agingConn is a connection of which only so many requests may be sent, or for so
// long. It is closed when it has become idle afterwards. A request that was given
// it in that moment finds nothing written, and net/http sends it over another.
type agingConn struct {
	net.Conn
	count   int64
	age     time.Duration
	born    time.Time
	uses    atomic.Int64
	retired atomic.Bool
}

var errRetired = errors.New("the connection has served its time")

func (c *agingConn) Write(p []byte) (int, error) {
	if c.retired.Load() {
		return 0, errRetired
	}
	return c.Conn.Write(p)
}

// counted has a request's connection counted, if there is something to count.
func (b *Backend) counted(ctx context.Context) context.Context {
	if b.options.ConnectionUsesMax == 0 && b.options.ConnectionAgeMax == 0 {
		return ctx
	}
	var conn atomic.Pointer[agingConn]
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			nc := info.Conn
			if secure, ok := nc.(interface{ NetConn() net.Conn }); ok {
				nc = secure.NetConn()
			}
			if c, ok := nc.(*agingConn); ok {
				c.uses.Add(1)
				conn.Store(c)
			}
		},
		PutIdleConn: func(error) {
			c := conn.Load()
			if c != nil && (c.count > 0 && c.uses.Load() >= c.count || c.age > 0 && time.Since(c.born) > c.age) {
				c.retired.Store(true)
				c.Close()
			}
		},
	})
}

// url is where the transport connects to, and what it asks for there. Opaque
// carries the target untouched, except one that begins with "//", which net/url
// would take for a host.
func (b *Backend) url(target string) *url.URL {
	scheme := "http"
	if b.options.TLS {
		scheme = "https"
	}
	path, query, hasQuery := strings.Cut(target, "?")
	u := &url.URL{Scheme: scheme, Host: b.options.Address, RawQuery: query, ForceQuery: hasQuery && query == ""}
	if !strings.HasPrefix(path, "//") {
		u.Opaque = path
		return u
	}
	u.Path, u.RawPath = path, path
	if plain, err := url.PathUnescape(path); err == nil {
		u.Path = plain
	}
	return u
}

// answerBody is an answer's body whose bytes must come in time.
type answerBody struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
	limit  time.Duration // between bytes; 0: any
	name   string
}

// Read implements io.Reader. One goroutine reads.
func (b *answerBody) Read(p []byte) (int, error) {
	if b.limit == 0 {
		return b.ReadCloser.Read(p)
	}
	late := fmt.Errorf("backend %q: no byte for %s: %w", b.name, b.limit, os.ErrDeadlineExceeded)
	timer := time.AfterFunc(b.limit, func() { b.cancel(late) })
	n, err := b.ReadCloser.Read(p)
	if !timer.Stop() && err != nil && err != io.EOF {
		err = late
	}
	return n, err
}

// Close implements io.Closer.
func (b *answerBody) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
