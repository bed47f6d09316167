package harness

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Client is one HTTP client on one connection: HTTP/1.x spoken byte by byte, or
// HTTP/2. It may be used for one request after the other.
type Client struct {
	// Seen is what came back.
	Seen Feed[ClientEvent]

	// Fixed after start.
	conn    net.Conn // HTTP/1.x only
	h2      *h2conn  // HTTP/2 only
	raw     net.Conn // what is below a TLS; nil for an HTTP/2 client before it has dialled
	addr    string   // of the gateway, host:port
	secure  bool     // TLS
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	// Guarded by mu.
	mu      sync.Mutex
	methods []string // of requests that were not answered yet, HTTP/1.x only

	stall stall
}

// ClientEvent is one thing a Client saw; exactly one field is set.
type ClientEvent struct {
	Head    *Response // without Body
	Data    []byte
	Trailer Header
	End     bool  // the response is complete
	Cut     error // it never will be
	Closed  error // the connection ended between responses; io.EOF if in order
}

func (e ClientEvent) String() string {
	switch {
	case e.Head != nil:
		return fmt.Sprintf("head %s %d %s\n%s", e.Head.Proto, e.Head.Status, e.Head.Reason, e.Head.Header)
	case e.Data != nil:
		return "data " + Quote(e.Data)
	case e.Trailer != nil:
		return fmt.Sprintf("trailer %s", e.Trailer)
	case e.End:
		return "end of the response"
	case e.Cut != nil:
		return fmt.Sprintf("cut within the response (%v)", e.Cut)
	}
	return fmt.Sprintf("end of connection (%v)", e.Closed)
}

// Ask is one request.
type Ask struct {
	Method, Target string
	Proto          string // "" is HTTP/1.1
	Header         Header // Host and Content-Length are added unless they are there
	Body           []byte // nil: none
	Chunked        bool
	Trailer        Header
}

// DialClient connects an HTTP/1.x client.
func DialClient(addr string, tlsConfig *tls.Config, small bool) (*Client, error) {
	if tlsConfig != nil {
		tlsConfig = tlsConfig.Clone()
		tlsConfig.NextProtos = []string{"http/1.1"}
	}
	raw, conn, err := dial(addr, tlsConfig, small)
	if err != nil {
		return nil, err
	}
	c := &Client{conn: conn, raw: raw, addr: addr, secure: tlsConfig != nil}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.running.Go(c.read)
	return c, nil
}

// h2conn is a connection that several HTTP/2 clients may share.
type h2conn struct {
	transport *http.Transport
	mu        sync.Mutex
	conns     []net.Conn
}

// smallWindow is the flow control window of an HTTP/2 client that is to be
// slow: the least that the protocol starts with.
const smallWindow = 64 << 10

// NewH2Client makes an HTTP/2 client, with prior knowledge on clear text or by
// ALPN on TLS. It shares the connection of over, if that is not nil.
func NewH2Client(addr string, tlsConfig *tls.Config, small bool, over *Client) *Client {
	c := &Client{addr: addr, secure: tlsConfig != nil}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if over != nil {
		c.h2, c.secure = over.h2, over.secure
		return c
	}
	c.h2 = &h2conn{}
	var protocols http.Protocols
	protocols.SetHTTP2(tlsConfig != nil)
	protocols.SetUnencryptedHTTP2(tlsConfig == nil)
	c.h2.transport = &http.Transport{
		Protocols:          &protocols,
		TLSClientConfig:    tlsConfig,
		DisableCompression: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			raw, _, err := dial(addr, nil, small)
			if err == nil {
				c.h2.mu.Lock()
				c.h2.conns = append(c.h2.conns, raw)
				c.h2.mu.Unlock()
			}
			return raw, err
		},
	}
	if small {
		c.h2.transport.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: smallWindow}
	}
	return c
}

// Send writes a request and returns; what comes back is Seen.
func (c *Client) Send(ask Ask) error {
	if c.h2 != nil {
		return c.sendH2(ask)
	}
	header := Header{}
	if !ask.Header.Has("Host") {
		header = append(header, Field{"Host", c.addr})
	}
	for _, field := range ask.Header {
		if field.Value != "" || !strings.EqualFold(field.Name, "Host") {
			header = append(header, field)
		}
	}
	var body bytes.Buffer
	switch {
	case ask.Chunked:
		header = append(header, Field{"Transfer-Encoding", "chunked"})
		if len(ask.Body) > 0 {
			fmt.Fprintf(&body, "%x\r\n%s\r\n", len(ask.Body), ask.Body)
		}
		fmt.Fprintf(&body, "0\r\n%s\r\n", ask.Trailer.wire())
	case ask.Body != nil:
		if !header.Has("Content-Length") {
			header = append(header, Field{"Content-Length", fmt.Sprint(len(ask.Body))})
		}
		body.Write(ask.Body)
	}
	proto := ask.Proto
	if proto == "" {
		proto = "HTTP/1.1"
	}
	head := fmt.Sprintf("%s %s %s\r\n%s\r\n", ask.Method, ask.Target, proto, header.wire())
	return c.SendBytes(ask.Method, append([]byte(head), body.Bytes()...))
}

// SendBytes writes bytes that need not be a request. method says how an answer
// to it is to be read; "" adds to a request that has begun already.
func (c *Client) SendBytes(method string, b []byte) error {
	if c.conn == nil {
		return errors.New("only an HTTP/1.x client can send bytes")
	}
	if method != "" {
		c.mu.Lock()
		c.methods = append(c.methods, method)
		c.mu.Unlock()
	}
	c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := c.conn.Write(b)
	return err
}

func (c *Client) sendH2(ask Ask) error {
	scheme := "http"
	if c.secure {
		scheme = "https"
	}
	var body io.Reader
	if ask.Body != nil {
		body = bytes.NewReader(ask.Body)
	}
	if ask.Chunked {
		body = struct{ io.Reader }{body} // hides its length
	}
	request, err := http.NewRequestWithContext(c.ctx, ask.Method, scheme+"://"+c.addr+ask.Target, body)
	if err != nil {
		return err
	}
	for _, field := range ask.Header {
		if strings.EqualFold(field.Name, "Host") {
			request.Host = field.Value
			continue
		}
		request.Header[field.Name] = append(request.Header[field.Name], field.Value)
	}
	for _, field := range ask.Trailer {
		if request.Trailer == nil {
			request.Trailer = http.Header{}
		}
		request.Trailer.Add(field.Name, field.Value)
	}
	c.running.Go(func() {
		response, err := c.h2.transport.RoundTrip(request)
		if err != nil {
			c.Seen.Put(ClientEvent{Closed: err})
			return
		}
		defer response.Body.Close()
		head := &Response{Proto: response.Proto, Status: response.StatusCode}
		for name, values := range response.Header {
			for _, value := range values {
				head.Header = append(head.Header, Field{name, value})
			}
		}
		c.Seen.Put(ClientEvent{Head: head})
		r := c.stall.reader(response.Body)
		for {
			buf := make([]byte, 32<<10)
			n, err := r.Read(buf)
			if n > 0 {
				c.Seen.Put(ClientEvent{Data: buf[:n]})
			}
			switch {
			case err == io.EOF:
				for name, values := range response.Trailer {
					for _, value := range values {
						c.Seen.Put(ClientEvent{Trailer: Header{{name, value}}})
					}
				}
				c.Seen.Put(ClientEvent{End: true})
				return
			case err != nil:
				c.Seen.Put(ClientEvent{Cut: err})
				return
			}
		}
	})
	return nil
}

// read reads answers until the connection ends.
func (c *Client) read() {
	r := bufio.NewReader(c.stall.reader(c.conn))
	for {
		head, err := readResponseHead(r)
		if err != nil {
			c.Seen.Put(ClientEvent{Closed: err})
			return
		}
		c.Seen.Put(ClientEvent{Head: head})
		if head.Status < 200 {
			continue
		}
		method := "GET"
		c.mu.Lock()
		if len(c.methods) > 0 {
			method, c.methods = c.methods[0], c.methods[1:]
		}
		c.mu.Unlock()
		chunked, length := framing(method, head)
		trailer, err := readBody(r, chunked, length, func(piece []byte) { c.Seen.Put(ClientEvent{Data: piece}) })
		if err != nil {
			c.Seen.Put(ClientEvent{Cut: err})
			return
		}
		if len(trailer) > 0 {
			c.Seen.Put(ClientEvent{Trailer: trailer})
		}
		c.Seen.Put(ClientEvent{End: true})
	}
}

// Stall stops reading until Resume.
func (c *Client) Stall() { c.stall.set(true) }

// Resume reads again.
func (c *Client) Resume() { c.stall.set(false) }

// Cancel gives up the requests under way: a stream reset for HTTP/2, the end of
// the connection for HTTP/1.x.
func (c *Client) Cancel() {
	c.cancel()
	if c.conn != nil {
		c.conn.Close()
	}
	c.Resume()
}

// Drop resets the connection.
func (c *Client) Drop() {
	if c.raw != nil {
		reset(c.raw)
	}
	if c.h2 != nil {
		c.h2.mu.Lock()
		for _, conn := range c.h2.conns {
			reset(conn)
		}
		c.h2.mu.Unlock()
	}
	c.Resume()
}

// Close drops the connection and waits for the reader.
func (c *Client) Close() {
	c.Drop()
	c.cancel()
	c.running.Wait()
}
