package wire

import (
	"cmp"
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2/hpack"
)

// This file reads along with an HTTP/2 connection (RFC 9113): net/http sorts what
// a client sends into maps, and does not say which stream a request came over. What
// cannot be followed ends the reading, never the connection.

// preface is what an HTTP/2 client says first.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// HeaderTableBytes is the table for compressed headers (RFC 7541) that a server whose
// clients are seen has to offer: http.HTTP2Config.MaxDecoderHeaderTableSize. It is
// what the protocol begins with.
const HeaderTableBytes = 4096

const (
	// streamsMax bounds the requests of one connection that are followed: as many as
	// may be under way at once. The oldest gives way.
	streamsMax = 1000

	// streamsBytesMax bounds the headers of those that nobody has asked about yet: a
	// few hundred of browsers'. The oldest gives way, and is not known any more.
	streamsBytesMax = 256 << 10

	// settingsMax and prioritiesMax bound what goes into a fingerprint. net/http ends
	// a connection with more settings; browsers send up to six priorities.
	settingsMax   = 100
	prioritiesMax = 32
)

// Frames (RFC 9113, section 6) and their flags.
const (
	frameData         = 0
	frameHeaders      = 1
	framePriority     = 2
	frameReset        = 3
	frameSettings     = 4
	frameWindow       = 8
	frameContinuation = 9

	flagEndStream  = 0x01
	flagAck        = 0x01
	flagEndHeaders = 0x04
	flagPadded     = 0x08
	flagPriority   = 0x20
)

// frames cuts a connection's bytes into frames (section 4.1):
//
//	00 00 05   length of the payload
//	01 05      type and flags
//	00000001   stream; its first bit means nothing
type frames struct {
	head [9]byte
	have int // octets of head that are there
	left int // octets of the payload that are to come
}

// reader is told of frames as they come. One that is false wants no more.
type reader interface {
	begin(f *frames) bool
	payload(f *frames, p []byte) bool
	end(f *frames) bool
}

func (f *frames) length() int    { return int(f.head[0])<<16 | int(f.head[1])<<8 | int(f.head[2]) }
func (f *frames) kind() byte     { return f.head[3] }
func (f *frames) is(b byte) bool { return f.head[4]&b != 0 }
func (f *frames) stream() uint32 { return binary.BigEndian.Uint32(f.head[5:]) &^ (1 << 31) }

// cut reads on, and is false if to was.
func (f *frames) cut(p []byte, to reader) bool {
	for len(p) > 0 {
		if f.have < len(f.head) {
			n := copy(f.head[f.have:], p)
			f.have += n
			p = p[n:]
			if f.have < len(f.head) {
				return true
			}
			f.left = f.length()
			if !to.begin(f) {
				return false
			}
		}
		part := p[:min(f.left, len(p))]
		f.left -= len(part)
		p = p[len(part):]
		if len(part) > 0 && !to.payload(f, part) {
			return false
		}
		if f.left == 0 {
			f.have = 0
			if !to.end(f) {
				return false
			}
		}
	}
	return true
}

// stream is a request from its header's end until it is answered.
type stream struct {
	id    uint32
	sum   uint64 // equal for requests that differ in the order of their names only
	asked *asked // nil once it was told
}

// asked is what a client sent in a header.
type asked struct {
	method, path, authority string
	lines                   []Line
	bytes                   int // as the protocol counts a header's size
}

// streams are the requests of a connection that are under way.
type streams struct {
	client, server frames
	decoder        *hpack.Decoder
	begun          bool // the first frame, settings, has come
	lost           bool // it could not be followed; nothing is known from here on

	// The header block under way (section 4.3).
	open     bool
	id       uint32
	block    *asked
	sum      uint64
	trailer  bool // it belongs to a request that there was: only the decoder needs it
	long     bool // longer than headBytesMax
	fragment int  // octets of it that this frame still has
	before   []byte
	beforeN  int // octets before the fragment: length of padding, priority

	last  uint32   // the highest stream there was
	under []stream // way, by id
	bytes int      // of those that are not told

	print print
}

func newStreams() *streams {
	s := &streams{}
	s.decoder = hpack.NewDecoder(HeaderTableBytes, s.field)
	s.decoder.SetMaxStringLength(headBytesMax)
	return s
}

// heard takes what the client sent after its preface.
func (s *streams) heard(p []byte) {
	if !s.lost && !s.client.cut(p, (*fromClient)(s)) {
		s.lose()
	}
}

// said takes what the server sends: where it ends a stream, the request is over.
func (s *streams) said(p []byte) {
	if !s.lost && !s.server.cut(p, (*fromServer)(s)) {
		s.lose()
	}
}

// lose gives up.
func (s *streams) lose() {
	s.lost, s.decoder, s.under, s.bytes, s.block = true, nil, nil, 0, nil
}

// drop forgets a stream that has ended. If it was not told, another one like it may
// have been told in its stead, and has its turn.
func (s *streams) drop(id uint32) {
	at, found := slices.BinarySearchFunc(s.under, id, func(o stream, id uint32) int { return cmp.Compare(o.id, id) })
	if !found {
		return
	}
	if left := s.under[at]; left.asked != nil {
		for i, o := range s.under {
			if o.asked == nil && o.sum == left.sum {
				s.under[i].asked, s.under[at].asked = left.asked, nil
				break
			}
		}
	}
	s.remove(at)
}

func (s *streams) remove(at int) {
	s.forget(at)
	s.under = slices.Delete(s.under, at, at+1)
}

// forget leaves nothing of a stream's header.
func (s *streams) forget(at int) {
	if a := s.under[at].asked; a != nil {
		s.bytes -= a.bytes
		s.under[at].asked = nil
	}
}

// fromClient reads the client's frames.
type fromClient streams

func (c *fromClient) begin(f *frames) bool {
	s := (*streams)(c)
	first := !s.begun
	s.begun = true
	switch {
	case first && (f.kind() != frameSettings || f.is(flagAck)),
		s.open != (f.kind() == frameContinuation),
		s.open && f.stream() != s.id:
		return false
	}
	s.fragment, s.beforeN, s.before = 0, 0, s.before[:0]
	switch f.kind() {
	case frameHeaders:
		if f.stream()%2 == 0 {
			return false
		}
		s.open, s.long = true, false
		s.trailer = f.stream() <= s.last
		s.id, s.block, s.sum = f.stream(), new(asked), 0
		s.decoder.SetEmitEnabled(!s.trailer)
		if f.is(flagPadded) {
			s.beforeN++
		}
		if f.is(flagPriority) {
			s.beforeN += 5
		}
		s.fragment = f.length() - s.beforeN
	case frameContinuation:
		s.fragment = f.length()
	case frameReset:
		s.drop(f.stream())
	case frameSettings:
		if first && f.length() <= 6*settingsMax {
			s.beforeN = f.length()
		}
	case frameWindow:
		if f.length() == 4 && f.stream() == 0 && !s.print.done {
			s.beforeN = 4
		}
	case framePriority:
		if f.length() == 5 && !s.print.done {
			s.beforeN = 5
		}
	}
	return s.fragment >= 0
}

func (c *fromClient) payload(f *frames, p []byte) bool {
	s := (*streams)(c)
	n := min(s.beforeN-len(s.before), len(p))
	if n > 0 {
		s.before = append(s.before, p[:n]...)
		p = p[n:]
		if len(s.before) == s.beforeN && f.kind() == frameHeaders && f.is(flagPadded) {
			if s.fragment -= int(s.before[0]); s.fragment < 0 {
				return false
			}
		}
	}
	if n = min(s.fragment, len(p)); n > 0 {
		s.fragment -= n
		if _, err := s.decoder.Write(p[:n]); err != nil {
			return false
		}
	}
	return true
}

func (c *fromClient) end(f *frames) bool {
	s := (*streams)(c)
	switch f.kind() {
	case frameHeaders, frameContinuation:
		return !f.is(flagEndHeaders) || s.whole()
	case frameSettings:
		for b := s.before; len(b) >= 6; b = b[6:] {
			s.print.setting(binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:]))
		}
	case frameWindow:
		if len(s.before) == 4 && !s.print.updated {
			s.print.updated, s.print.window = true, binary.BigEndian.Uint32(s.before)&^(1<<31)
		}
	case framePriority:
		if len(s.before) == 5 {
			s.print.priority(f.stream(), binary.BigEndian.Uint32(s.before), s.before[4])
		}
	}
	return true
}

// field takes one of a header, from the decoder.
func (s *streams) field(f hpack.HeaderField) {
	b := s.block
	if b.bytes += int(f.Size()); b.bytes > headBytesMax {
		s.long = true
		s.decoder.SetEmitEnabled(false)
		return
	}
	if f.Name != "cookie" { // whose crumbs are one value
		s.sum += maphash.String(seed, f.Name) ^ bits.RotateLeft64(maphash.String(seed, f.Value), 1)
	}
	if !strings.HasPrefix(f.Name, ":") {
		b.lines = append(b.lines, Line{f.Name, f.Value})
		return
	}
	switch f.Name {
	case ":method":
		b.method = f.Value
	case ":path":
		b.path = f.Value
	case ":authority":
		b.authority = f.Value
	}
	s.print.pseudo(f.Name)
}

// whole is called where a header block ends.
func (s *streams) whole() bool {
	s.open = false
	if s.decoder.Close() != nil {
		return false
	}
	if s.trailer {
		return true
	}
	s.last = s.id
	s.print.finish()
	if s.long {
		return true
	}
	s.under, s.bytes = append(s.under, stream{s.id, s.sum, s.block}), s.bytes+s.block.bytes
	s.block = nil
	if len(s.under) > streamsMax {
		s.remove(0)
	}
	for at := 0; s.bytes > streamsBytesMax; at++ {
		s.forget(at)
	}
	return true
}

// seed is for sums.
var seed = maphash.MakeSeed()

// fromServer reads the server's frames, or rather where they end streams.
type fromServer streams

func (c *fromServer) begin(f *frames) bool {
	switch f.kind() {
	case frameReset:
		(*streams)(c).drop(f.stream())
	case frameData, frameHeaders:
		if f.is(flagEndStream) {
			(*streams)(c).drop(f.stream())
		}
	}
	return true
}

func (*fromServer) payload(*frames, []byte) bool { return true }
func (*fromServer) end(*frames) bool             { return true }

// tell is the header of a request, once. Requests that are under way together and
// alike but for their names' order may be told each other's.
func (s *streams) tell(r *http.Request) []Line {
	for at, o := range s.under {
		if o.asked != nil && o.asked.fits(r) {
			s.forget(at)
			if o.asked.lines == nil {
				return []Line{}
			}
			return o.asked.lines
		}
	}
	return nil
}

// fits says whether net/http has made r of what was asked: what it does to a header
// taken into account.
func (a *asked) fits(r *http.Request) bool {
	path := a.path
	if a.method == http.MethodConnect && path == "" {
		path = a.authority
	}
	if a.method != r.Method || path != r.RequestURI {
		return false
	}
	authority := a.authority
	at := make(map[string]int, len(r.Header)) // how many of a name's values were found
	var cookies []string
	for _, line := range a.lines {
		name := http.CanonicalHeaderKey(line.Name)
		values := r.Header[name]
		n := at[name]
		switch {
		case name == "Trailer": // has become r.Trailer
			continue
		case name == "Expect" && len(values) == 0:
			if !httpguts.HeaderValuesContainsToken([]string{line.Value}, "100-continue") {
				return false
			}
			continue
		case name == "Cookie": // comes in crumbs
			cookies = append(cookies, line.Value)
			continue
		case n == len(values) || values[n] != line.Value:
			return false
		case name == "Host" && authority == "":
			authority = line.Value
		}
		at[name] = n + 1
	}
	if authority != r.Host {
		return false
	}
	if len(cookies) > 0 {
		if values := r.Header["Cookie"]; len(values) != 1 || values[0] != strings.Join(cookies, "; ") {
			return false
		}
		at["Cookie"] = 1
	}
	for name, values := range r.Header {
		if at[name] != len(values) && name != ":protocol" {
			return false
		}
	}
	return true
}

// print tells clients apart by how they begin to speak HTTP/2, as Akamai proposed
// (Passive Fingerprinting of HTTP/2 Clients, 2017):
//
//	1:65536;4:131072;5:16384|12517377|3:0:0:201,5:0:0:101|m,p,a,s
//	|                        |        |                   first letters of the first request's pseudo-headers
//	|                        |        priorities before it: stream, exclusive, depends on, weight; or 0
//	|                        what the connection's window grew by; or 00
//	settings
type print struct {
	settings, priorities, order []byte
	n                           int // of priorities
	window                      uint32
	updated                     bool
	done                        bool // by the first request
	text                        string
}

func (p *print) setting(id uint16, value uint32) {
	if len(p.settings) > 0 {
		p.settings = append(p.settings, ';')
	}
	p.settings = strconv.AppendUint(p.settings, uint64(id), 10)
	p.settings = append(p.settings, ':')
	p.settings = strconv.AppendUint(p.settings, uint64(value), 10)
}

// priority takes a dependency with its first bit, exclusive, and a weight that is one
// more than it says.
func (p *print) priority(stream, on uint32, weight byte) {
	if p.n++; p.n > prioritiesMax {
		return
	}
	if p.n > 1 {
		p.priorities = append(p.priorities, ',')
	}
	for i, v := range [...]uint32{stream, on >> 31, on &^ (1 << 31), uint32(weight) + 1} {
		if i > 0 {
			p.priorities = append(p.priorities, ':')
		}
		p.priorities = strconv.AppendUint(p.priorities, uint64(v), 10)
	}
}

func (p *print) pseudo(name string) {
	switch name {
	case ":method", ":authority", ":scheme", ":path":
		if !p.done {
			if len(p.order) > 0 {
				p.order = append(p.order, ',')
			}
			p.order = append(p.order, name[1])
		}
	}
}

// finish makes the text.
func (p *print) finish() {
	if p.done {
		return
	}
	window, priorities := "00", "0"
	if p.updated {
		window = strconv.FormatUint(uint64(p.window), 10)
	}
	if p.n > 0 {
		priorities = string(p.priorities)
	}
	*p = print{done: true, text: strings.Join([]string{string(p.settings), window, priorities, string(p.order)}, "|")}
}
