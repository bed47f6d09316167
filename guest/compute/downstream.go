package compute

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gripway/gripway/guest"
)

// firstDownstream is the handle of the first request from a client, and of its
// body. Guests that were written by hand rely on it.
const firstDownstream = 0

// downstream is a request from a client: the one that a guest was started for, or
// one that it asked for afterwards.
type downstream struct {
	exchange *guest.Exchange
	id       string
	request  uint32 // handles; that of the request stays its name when it is used up
	body     uint32
	print    *fingerprint
	claimed  bool // an answer is on its way, or a decision made
}

// arrived is the request that the guest is to decide about. The first hostcall that
// needs it waits for it.
func (b *sandbox) arrived() *downstream {
	if b.current == nil {
		x, err := b.Next(b.Context())
		if err == nil && x == nil {
			err = context.Canceled
		}
		if err != nil {
			panic(fmt.Errorf("compute: no request came: %w", err)) // ends the guest: it has nothing to do
		}
		b.arrive(x, firstDownstream, firstDownstream)
	}
	return b.current
}

// arrive makes an exchange the one that the guest is to decide about.
func (b *sandbox) arrive(x *guest.Exchange, head, content uint32) {
	r := x.Request
	d := &downstream{exchange: x, id: x.ID, request: head, body: content}
	switch {
	case d.id != "":
	case b.current == nil:
		d.id = b.trace
	default:
		d.id = newID()
	}
	if b.current != nil { // what it did before the first belongs to that
		b.spent = spent{}
	}
	b.current = d
	b.loopID.Store(guest.LoopID(r))
	if b.downstreams == nil {
		b.downstreams = make(map[uint32]*downstream, 1)
	}
	b.downstreams[head] = d
	b.requests.set(head, &request{
		method: r.Method, uri: originalURI(x), version: versionOf(r.ProtoMajor, r.ProtoMinor), header: originalHeader(x),
	})
	length := r.ContentLength
	b.items.set(content, bodyFrom(r.Body, length, func() http.Header { return r.Trailer }))
}

// original is a field of the request as it came.
func (d *downstream) original(name string) (string, bool) {
	values := d.exchange.Request.Header[name]
	if len(values) == 0 {
		return "", false
	}
	return values[0], true
}

func versionOf(major, minor int) uint32 {
	switch {
	case major == 0:
		return http09
	case major == 1 && minor == 0:
		return http10
	case major == 2:
		return http2
	case major == 3:
		return http3
	}
	return http11
}

// originalURI is the URI that a client asked for. Paths stay as they were written. Who
// names no host, over HTTP/1.0, has come to this machine's address (RFC 9110, 7.1).
func originalURI(x *guest.Exchange) string {
	r := x.Request
	target := r.RequestURI
	if target == "" {
		target = r.URL.RequestURI()
	}
	target, _, _ = strings.Cut(target, "#")
	if strings.Contains(target, "://") && target[0] != '/' {
		return target
	}
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	if target == "" || target[0] != '/' { // CONNECT names a host, OPTIONS may say *
		target = "/"
	}
	host := r.Host
	if host == "" && x.Client.Local.IsValid() {
		host = x.Client.Local.String()
	}
	return scheme + cmp.Or(host, "localhost") + target
}

// originalHeader is what the client sent, Host included, which net/http keeps
// elsewhere.
func originalHeader(x *guest.Exchange) header {
	r := x.Request
	more := make([]field, 0, 2)
	if r.Host != "" {
		more = append(more, field{"host", []string{r.Host}})
	}
	if len(r.TransferEncoding) > 0 {
		more = append(more, field{"transfer-encoding", r.TransferEncoding})
	}
	h := headerOf(r.Header, x.Client.Header, more...)
	h.remove(keyField) // or a client would say what guests that pass its request on cache
	return h
}

// decided says whether there can be no other decision.
func (d *downstream) decided() bool { return d.claimed || d.exchange.Decided() }

// claim is decided, and makes it so.
func (d *downstream) claim() bool {
	if d.decided() {
		return false
	}
	d.claimed = true
	return true
}

// decide makes the decision.
func (d *downstream) decide(outcome guest.Outcome) error {
	if !d.claim() {
		return guest.ErrDecided
	}
	return d.exchange.Decide(outcome)
}

// promise is a further request that a guest waits for.
type promise struct{ *future[*guest.Exchange] }

// drop is item.drop.
func (p *promise) drop(b *sandbox) {
	p.future.drop(b)
	b.promised = false
}

// nextTimeoutMax bounds how long a guest may be parked until it gets a further
// request, and is the default, as it is with Viceroy.
const nextTimeoutMax = 10 * time.Second

// nextTimeout is the bit of the option.
const nextTimeout = 1 << 1

// downstreamNext asks for a further request.
func downstreamNext(c *call) status {
	c.arrived()
	mask := c.u32(0)
	if mask&^nextTimeout != 0 {
		return statusInvalid
	}
	timeout := nextTimeoutMax
	if mask&nextTimeout != 0 {
		record, st := c.record(1, 8, 8)
		if st != statusOK {
			return st
		}
		timeout = time.Duration(min(little64(record, 0), uint64(nextTimeoutMax.Milliseconds()))) * time.Millisecond
	}
	if c.promised {
		return statusLimit
	}
	b := c.sandbox
	p := &promise{start(b, func(ctx context.Context) (*guest.Exchange, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		x, err := b.Next(ctx)
		if ctx.Err() != nil && x == nil {
			return nil, nil
		}
		return x, err
	}, b.returned)}
	h, st := c.items.add(p)
	if st != statusOK {
		p.drop(b)
		return st
	}
	c.promised = true
	return c.put32(2, h)
}

// returned gives a request back that the guest does not want any more.
func (b *sandbox) returned(x *guest.Exchange) {
	if x != nil {
		b.Return(x)
	}
}

// downstreamNextWait waits for it.
func downstreamNextWait(c *call) status {
	p, st := itemOf[*promise](c.sandbox, c.u32(0))
	if st != statusOK {
		return st
	}
	if !c.current.decided() {
		return statusUnsupported // one after the other
	}
	c.items.remove(c.u32(0))
	x, err := p.wait(c.sandbox)
	c.promised = false
	switch {
	case err != nil:
		return statusError
	case x == nil:
		return statusNone
	}
	head, st := c.requests.add(nil)
	if st != statusOK {
		c.Return(x)
		return st
	}
	content, st := c.items.add(&body{})
	if st != statusOK {
		c.requests.remove(head)
		c.Return(x)
		return st
	}
	c.arrive(x, head, content)
	if st := c.put32(1, head); st != statusOK {
		return st
	}
	return c.put32(2, content)
}

// downstreamNextAbandon does without it.
func downstreamNextAbandon(c *call) status {
	p, st := takeItem[*promise](c.sandbox, c.u32(0))
	if st != statusOK {
		return st
	}
	p.drop(c.sandbox)
	return statusOK
}
