package compute

import (
	"net/http"
	"slices"
	"strings"

	"github.com/gripway/gripway/guest"
)

// header is a head's or a trailer's fields as a guest sees them: names in lower case,
// in the order in which they first came, each with its values in order. The zero
// value is empty.
type header struct {
	fields []field
	index  map[string]int // of fields by name, once there are many
	bytes  int            // what it takes in a head, about
}

// fieldBytes is what a value takes besides itself and its name: colon, space, CR LF.
const fieldBytes = 4

type field struct {
	name   string
	values []string // may be shared: only appended to if the capacity is ours
}

// headerIndexMin is how many names are looked up faster by a map.
const headerIndexMin = 48

// headerOf makes a header of one of net/http, and more fields that it keeps
// elsewhere. Where the client's own lines are known their order is kept; other names
// come in the alphabet's.
func headerOf(from http.Header, order []guest.Field, more ...field) header {
	h := header{fields: make([]field, 0, len(from)+len(more))}
	found := 0 // names of from
	for _, line := range order {
		name := lower(line.Name)
		values, there := from[http.CanonicalHeaderKey(line.Name)]
		for _, f := range more {
			if f.name == name {
				values = f.values
			}
		}
		if len(values) > 0 && h.find(name) < 0 {
			h.add(name, values[:len(values):len(values)])
			if there {
				found++
			}
		}
	}
	for _, f := range more {
		if len(f.values) > 0 && h.find(f.name) < 0 {
			h.add(f.name, f.values[:len(f.values):len(f.values)])
		}
	}
	if found == len(from) {
		return h
	}
	rest := len(h.fields)
	before := h.fields[:rest]
	for name, values := range from {
		name := lower(name)
		if len(values) > 0 && !slices.ContainsFunc(before, func(f field) bool { return f.name == name }) {
			h.add(name, values[:len(values):len(values)])
		}
	}
	if added := h.fields[rest:]; len(added) > 1 {
		slices.SortFunc(added, func(a, b field) int { return strings.Compare(a.name, b.name) })
		if h.index != nil {
			h.reindex()
		}
	}
	return h
}

// http makes one of net/http.
func (h *header) http() http.Header {
	to := make(http.Header, len(h.fields))
	for _, f := range h.fields {
		name := http.CanonicalHeaderKey(f.name)
		to[name] = f.values[:len(f.values):len(f.values)]
	}
	return to
}

// addTo adds all fields to one of net/http.
func (h *header) addTo(to http.Header) {
	for _, f := range h.fields {
		name := http.CanonicalHeaderKey(f.name)
		to[name] = append(to[name], f.values...)
	}
}

// clone is a header that can be changed without changing h.
func (h *header) clone() header {
	c := header{fields: slices.Clone(h.fields), bytes: h.bytes}
	for i := range c.fields {
		values := c.fields[i].values
		c.fields[i].values = values[:len(values):len(values)]
	}
	if h.index != nil {
		c.reindex()
	}
	return c
}

// find is where a name is, or -1.
func (h *header) find(name string) int {
	if h.index != nil {
		if i, ok := h.index[name]; ok {
			return i
		}
		return -1
	}
	for i := range h.fields {
		if h.fields[i].name == name {
			return i
		}
	}
	return -1
}

// findBytes is find of a name as a guest wrote it. It does not allocate but for names
// of a length that nobody uses.
func (h *header) findBytes(name []byte) int {
	var short [128]byte
	if len(name) > len(short) {
		return h.find(strings.ToLower(string(name)))
	}
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		short[i] = c
	}
	name = short[:len(name)]
	if h.index != nil {
		if i, ok := h.index[string(name)]; ok {
			return i
		}
		return -1
	}
	for i := range h.fields {
		if h.fields[i].name == string(name) {
			return i
		}
	}
	return -1
}

// add adds a name that is not there.
func (h *header) add(name string, values []string) {
	h.fields = append(h.fields, field{name, values})
	h.bytes += sizeOf(name, values)
	switch {
	case h.index != nil:
		h.index[name] = len(h.fields) - 1
	case len(h.fields) >= headerIndexMin:
		h.reindex()
	}
}

func sizeOf(name string, values []string) int {
	n := 0
	for _, v := range values {
		n += len(name) + len(v) + fieldBytes
	}
	return n
}

func (h *header) reindex() {
	h.index = make(map[string]int, 2*len(h.fields))
	for i, f := range h.fields {
		h.index[f.name] = i
	}
}

// get is the first value of a name.
func (h *header) get(name string) (string, bool) {
	if i := h.find(name); i >= 0 {
		return h.fields[i].values[0], true
	}
	return "", false
}

// set replaces all values of a name, in its place. None removes it.
func (h *header) set(name string, values ...string) {
	i := h.find(name)
	switch {
	case len(values) == 0:
		h.remove(name)
	case i >= 0:
		h.bytes += sizeOf(name, values) - sizeOf(name, h.fields[i].values)
		h.fields[i].values = values
	default:
		h.add(name, values)
	}
}

// append adds a value after those that there are.
func (h *header) append(name, value string) {
	if i := h.find(name); i >= 0 {
		h.fields[i].values = append(h.fields[i].values, value)
		h.bytes += len(name) + len(value) + fieldBytes
		return
	}
	h.add(name, []string{value})
}

// remove removes a name, and says whether it was there.
func (h *header) remove(name string) bool {
	i := h.find(name)
	if i < 0 {
		return false
	}
	h.bytes -= sizeOf(name, h.fields[i].values)
	h.fields = slices.Delete(h.fields, i, i+1)
	switch {
	case h.index == nil:
	case i == len(h.fields):
		delete(h.index, name)
	default:
		h.reindex()
	}
	return true
}

// lower is a header's name in lower case. Common ones need no memory.
func lower(name string) string {
	if l, ok := commonNames[name]; ok {
		return l
	}
	return strings.ToLower(name)
}

// commonNames are names as net/http writes them, and as guests do.
var commonNames = func() map[string]string {
	names := make(map[string]string)
	for name := range strings.FieldsSeq(`accept accept-encoding accept-language accept-ranges age authorization cache-control
		connection content-encoding content-length content-type cookie date etag expires grip-channel grip-hold grip-sig host
		if-modified-since if-none-match last-modified location origin pragma range referer sec-fetch-dest sec-fetch-mode
		sec-fetch-site sec-fetch-user sec-websocket-extensions sec-websocket-key sec-websocket-protocol sec-websocket-version server
		set-cookie surrogate-control surrogate-key te trailer transfer-encoding upgrade upgrade-insecure-requests user-agent vary
		via x-forwarded-for x-forwarded-host x-forwarded-proto`) {
		names[http.CanonicalHeaderKey(name)] = name
	}
	return names
}()

// equalFold is strings.EqualFold of what stands in a header, spaces around it aside.
func equalFold(value, word string) bool { return strings.EqualFold(strings.TrimSpace(value), word) }
