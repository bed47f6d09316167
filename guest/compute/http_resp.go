package compute

import (
	"net/http"
	"net/netip"
	"strconv"

	"github.com/gripway/gripway/guest"
)

var responseCalls = map[string]hostcall{
	"new":   responseNew,
	"close": responseClose,

	"header_names_get":  func(c *call) status { return c.onResponse((*call).responseNames) },
	"header_value_get":  func(c *call) status { return c.onResponse((*call).responseValue) },
	"header_values_get": func(c *call) status { return c.onResponse((*call).responseValues) },
	"header_values_set": func(c *call) status { return c.onResponse((*call).responseValuesSet) },
	"header_insert":     func(c *call) status { return c.onResponse((*call).responseInsert) },
	"header_append":     func(c *call) status { return c.onResponse((*call).responseAppend) },
	"header_remove":     func(c *call) status { return c.onResponse((*call).responseRemove) },
	"status_get":        func(c *call) status { return c.onResponse((*call).responseStatus) },
	"status_set":        func(c *call) status { return c.onResponse((*call).responseStatusSet) },
	"version_get":       func(c *call) status { return c.onResponse((*call).responseVersion) },
	"version_set":       func(c *call) status { return c.onResponse((*call).responseVersionSet) },

	"framing_headers_mode_set": func(c *call) status { return c.onResponse((*call).responseFramingSet) },
	"http_keepalive_mode_set":  func(c *call) status { return c.onResponse((*call).responseKeepAliveSet) },
	"get_addr_dest_ip":         func(c *call) status { return c.onResponse((*call).responseIP) },
	"get_addr_dest_port":       func(c *call) status { return c.onResponse((*call).responsePort) },

	"send_downstream":         responseSend,
	"send_downstream_pending": responseSendPending,
}

// response is the head of a response that a guest has.
type response struct {
	status  int
	version uint32
	header  header
	framing bool           // Content-Length and Transfer-Encoding are the guest's
	close   bool           // the client's connection afterwards
	from    netip.AddrPort // whom it came from; zero: the guest, or not known
}

// onResponse does something with the response that parameter 0 is a handle of.
func (c *call) onResponse(do func(*call, *response) status) status {
	r, st := c.responses.get(c.u32(0))
	if st != statusOK {
		return st
	}
	return do(c, r)
}

func (c *call) responseNames(r *response) status     { return c.fillNames(1, &r.header) }
func (c *call) responseValue(r *response) status     { return c.fieldGet(1, &r.header) }
func (c *call) responseValues(r *response) status    { return c.fieldValuesGet(1, &r.header) }
func (c *call) responseValuesSet(r *response) status { return c.fieldValuesSet(1, &r.header) }
func (c *call) responseInsert(r *response) status    { return c.fieldInsert(1, &r.header) }
func (c *call) responseAppend(r *response) status    { return c.fieldAppend(1, &r.header) }
func (c *call) responseRemove(r *response) status    { return c.fieldRemove(1, &r.header) }
func (c *call) responseStatus(r *response) status    { return c.put16(1, uint16(r.status)) }
func (c *call) responseVersion(r *response) status   { return c.put32(1, r.version) }

func (c *call) responseStatusSet(r *response) status {
	code := c.u32(1)
	if code < 100 || code > 999 {
		return statusInvalid
	}
	r.status = int(code)
	return statusOK
}

func (c *call) responseVersionSet(r *response) status {
	if c.u32(1) > http3 {
		return statusInvalid
	}
	r.version = c.u32(1)
	return statusOK
}

func (c *call) responseFramingSet(r *response) status {
	if c.u32(1) > 1 {
		return statusInvalid
	}
	r.framing = c.u32(1) == 1
	return statusOK
}

func (c *call) responseKeepAliveSet(r *response) status {
	if c.u32(1) > 1 {
		return statusInvalid
	}
	r.close = c.u32(1) == 1
	return statusOK
}

func (c *call) responseIP(r *response) status {
	if !r.from.IsValid() {
		return statusNone
	}
	return c.putAddress(1, r.from.Addr())
}

func (c *call) responsePort(r *response) status {
	if !r.from.IsValid() {
		return statusNone
	}
	return c.put16(1, r.from.Port())
}

// putAddress writes an address's 4 or 16 bytes, and how many they are.
func (c *call) putAddress(i int, address netip.Addr) status {
	octets := address.Unmap().AsSlice()
	into, st := c.at(c.u32(i), uint32(len(octets)))
	if st != statusOK {
		return st
	}
	copy(into, octets)
	return c.put32(i+1, uint32(len(octets)))
}

func responseNew(c *call) status {
	h, st := c.responses.add(&response{status: http.StatusOK, version: http11})
	if st != statusOK {
		return st
	}
	return c.put32(0, h)
}

func responseClose(c *call) status {
	_, st := c.responses.remove(c.u32(0))
	return st
}

// addResponse gives the guest a response and its body: their handles go to
// parameters i and i+1.
func (c *call) addResponse(i int, r *response, b *body) status {
	if !c.holdHead(r.header.memory()) {
		b.close()
		return statusLimit
	}
	h, st := c.responses.add(r)
	if st == statusOK {
		st = c.put32(i, h)
	}
	if st != statusOK {
		b.close()
		return st
	}
	return c.addBody(i+1, b)
}

// responseSend answers the client. What it takes is used up, also if it fails; the
// body of an answer that streams stays, to be written. Of early hints all stays: the Go
// SDK makes the answer of the same response and body.
func responseSend(c *call) status {
	d := c.arrived()
	r, st := c.responses.get(c.u32(0))
	if st != statusOK {
		return st
	}
	if r.status == http.StatusEarlyHints {
		if _, st := itemOf[*body](c.sandbox, c.u32(1)); st != statusOK {
			return st
		}
		return c.early(d, r)
	}
	c.responses.remove(c.u32(0))
	if c.u32(2) != 1 {
		b, st := c.takeBody(1)
		if st != statusOK {
			return st
		}
		return c.answer(d, r, wholeOf(b))
	}
	b, st := itemOf[*body](c.sandbox, c.u32(1))
	if st != statusOK {
		return st
	}
	w, reader := newStream(c.sandbox, b)
	c.items.set(c.u32(1), w)
	return c.answer(d, r, content{reader: reader, length: -1})
}

// trailing is a body that something may follow.
type trailing interface {
	Read(p []byte) (int, error)
	Close() error
	Trailer() http.Header
}

// content is a body on its way out.
type content struct {
	reader  trailing
	length  int64       // -1: not known
	trailer http.Header // as far as it is known by now
}

// wholeOf is a body that a guest has done with. Only chunks can be followed by
// something, so its length is not told then.
func wholeOf(b *body) content {
	c := content{length: b.length()}
	if len(b.trailer.fields) > 0 {
		c.length, c.trailer = -1, b.trailer.http()
	}
	c.reader = b.reader()
	return c
}

// early sends hints before the answer.
func (b *sandbox) early(d *downstream, r *response) status {
	switch {
	case d.decided():
		return statusError
	case d.exchange.Early != nil:
		d.exchange.Early(r.status, r.header.http())
	}
	return statusOK
}

// answer decides about a request.
func (b *sandbox) answer(d *downstream, r *response, content content) status {
	if r.status < 200 {
		content.reader.Close()
		return statusInvalid
	}
	if d.decide(guest.Outcome{Response: d.outward(r, content)}) != nil {
		content.reader.Close()
		return statusError
	}
	return statusOK
}

// outward makes an answer for the gateway.
func (d *downstream) outward(r *response, content content) *http.Response {
	answer := &http.Response{
		StatusCode: r.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Close: r.close, Request: d.exchange.Request,
		Header: r.header.http(), ContentLength: content.length, Trailer: content.trailer,
	}
	length, chunked, manual := framing(&r.header)
	switch {
	case manual && r.framing && !chunked && (content.length < 0 || content.length == length):
		answer.ContentLength = length
	case manual && r.framing && chunked:
		answer.ContentLength = -1
		delete(answer.Header, "Transfer-Encoding")
	case d.exchange.Request != nil && d.exchange.Request.Method == http.MethodHead && manual && !chunked:
		answer.ContentLength = length // there is no body that could say otherwise
		delete(answer.Header, "Transfer-Encoding")
	default:
		delete(answer.Header, "Content-Length")
		delete(answer.Header, "Transfer-Encoding")
	}
	answer.Body = &answerBody{trailing: content.reader, answer: answer}
	return answer
}

// answerBody puts what follows the body where net/http looks for it.
type answerBody struct {
	trailing
	answer *http.Response
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.trailing.Read(p)
	if err != nil {
		for name, values := range b.Trailer() {
			if b.answer.Trailer == nil {
				b.answer.Trailer = make(http.Header)
			}
			b.answer.Trailer[name] = values
		}
	}
	return n, err
}

// Whole says whether all of the body is there already.
func (b *answerBody) Whole() bool {
	whole, ok := b.trailing.(interface{ Whole() bool })
	return ok && whole.Whole()
}

// framing is what a guest's own headers say about the length of a body: ok if they
// say it once and in a way that can be followed.
func framing(h *header) (length int64, chunked, ok bool) {
	lengths, encodings := h.find("content-length"), h.find("transfer-encoding")
	switch {
	case lengths >= 0 && encodings >= 0, lengths < 0 && encodings < 0:
		return 0, false, false
	case encodings >= 0:
		values := h.fields[encodings].values
		return 0, true, len(values) == 1 && equalFold(values[0], "chunked")
	}
	values := h.fields[lengths].values
	n, err := strconv.ParseUint(values[0], 10, 63)
	return int64(n), false, len(values) == 1 && err == nil
}

// responseSendPending answers the client with what a backend is going to answer.
func responseSendPending(c *call) status {
	d := c.arrived()
	p, st := takeItem[*pending](c.sandbox, c.u32(0))
	if st != statusOK {
		return st
	}
	if !d.claim() {
		p.drop(c.sandbox)
		return statusError
	}
	c.forward(d, p)
	return statusOK
}
