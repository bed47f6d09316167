package compute

import (
	"bytes"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// What calls about the fields of requests, responses and trailers share.

// fieldNameMax bounds the length of a field's name, as Viceroy does.
const fieldNameMax = 1<<16 - 1

// headBytesMax bounds the fields of one head that a guest makes: net/http accepts
// heads up to this, and so do most servers that are kind.
const headBytesMax = 1 << 20

// headsBytesMax bounds the memory of all heads that a sandbox has handles of, those of
// requests that it looks up in caches included: as much as its bodies.
const headsBytesMax = heldBytesMax

// fieldMemory is what a value takes in memory besides itself and its name, about.
const fieldMemory = 80

// memory is what it takes in memory, about.
func (h *header) memory() int {
	n := h.bytes
	for _, f := range h.fields {
		n += len(f.values) * fieldMemory
	}
	return n
}

// holdHead says whether there is room for n bytes more in heads. What heads have lost, or
// took with them, is only looked for when it seems that there is none.
func (b *sandbox) holdHead(n int) bool {
	if b.heads+n > headsBytesMax {
		b.heads = 0
		for _, r := range b.requests.live {
			if r != nil {
				b.heads += r.header.memory()
			}
		}
		for _, r := range b.responses.live {
			b.heads += r.header.memory()
		}
		for _, i := range b.items.live {
			switch i := i.(type) {
			case *cacheEntry:
				b.heads += i.headMemory()
			case *cacheBusy:
				b.heads += i.entry.headMemory()
			}
		}
		if b.heads+n > headsBytesMax {
			return false
		}
	}
	b.heads += n
	return true
}

// fieldName is the name that parameters i and i+1 are, in lower case.
func (c *call) fieldName(i int) (string, status) {
	b, st := c.bytes(i)
	if st == statusOK {
		st = checkName(b)
	}
	if st != statusOK {
		return "", st
	}
	return lower(string(b)), statusOK
}

// checkName says whether a name may be one.
func checkName(name []byte) status {
	if len(name) > fieldNameMax {
		return statusInvalid
	}
	for _, c := range name {
		if c >= 0x80 || !httpguts.IsTokenRune(rune(c)) {
			return statusError
		}
	}
	if len(name) == 0 {
		return statusError
	}
	return statusOK
}

// fieldValue is the value that parameters i and i+1 are.
func (c *call) fieldValue(i int) (string, status) {
	b, st := c.bytes(i)
	if st != statusOK {
		return "", st
	}
	value := string(b)
	if !httpguts.ValidHeaderFieldValue(value) {
		return "", statusError
	}
	return value, statusOK
}

// appendBounded is append, of a value that is not too much.
func (h *header) appendBounded(name, value string) status {
	if h.bytes+len(name)+len(value) > headBytesMax {
		return statusHeadTooLarge
	}
	h.append(name, value)
	return statusOK
}

// fillNames is fillValues of the names: parameter i and those that follow it.
func (c *call) fillNames(i int, h *header) status {
	return c.fillList(i, len(h.fields), func(at int) string { return h.fields[at].name })
}

// fieldGet writes the first value of the name that parameters i and i+1 are.
func (c *call) fieldGet(i int, h *header) status {
	name, st := c.bytes(i)
	if st == statusOK {
		st = checkName(name)
	}
	if st != statusOK {
		return st
	}
	at := h.findBytes(name)
	if at < 0 {
		return statusInvalid
	}
	return c.fillText(i+2, h.fields[at].values[0])
}

// fieldValuesGet writes all of its values, from a cursor on.
func (c *call) fieldValuesGet(i int, h *header) status {
	name, st := c.bytes(i)
	if st == statusOK {
		st = checkName(name)
	}
	if st != statusOK {
		return st
	}
	var values []string
	if at := h.findBytes(name); at >= 0 {
		values = h.fields[at].values
	}
	return c.fillValues(i+2, values)
}

// fieldValuesSet replaces all values of a name by a list of values, each ended by a
// NUL. None removes it.
func (c *call) fieldValuesSet(i int, h *header) status {
	name, st := c.fieldName(i)
	if st != statusOK {
		return st
	}
	list, st := c.bytes(i + 2)
	if st != statusOK {
		return st
	}
	var values []string
	for len(list) > 0 {
		value, rest, ended := bytes.Cut(list, []byte{0})
		if !ended {
			break // what follows the last NUL is no value
		}
		v := string(value)
		if !httpguts.ValidHeaderFieldValue(v) {
			return statusError
		}
		if !c.fits(name, v) {
			return statusLimit
		}
		values = append(values, v)
		list = rest
	}
	if h.bytes+int(c.u32(i+3))+len(values)*len(name) > headBytesMax {
		return statusHeadTooLarge
	}
	if !c.holdHead(int(c.u32(i+3)) + len(values)*(len(name)+fieldMemory)) {
		return statusLimit
	}
	h.set(name, values...)
	return statusOK
}

// fieldInsert replaces all values of a name by one.
func (c *call) fieldInsert(i int, h *header) status {
	name, st := c.fieldName(i)
	if st != statusOK {
		return st
	}
	value, st := c.fieldValue(i + 2)
	if st != statusOK {
		return st
	}
	if !c.fits(name, value) {
		return statusLimit
	}
	if h.bytes+len(name)+len(value) > headBytesMax {
		return statusHeadTooLarge
	}
	if !c.holdHead(len(name) + len(value) + fieldMemory) {
		return statusLimit
	}
	h.set(name, value)
	return statusOK
}

// fieldAppend adds a value.
func (c *call) fieldAppend(i int, h *header) status {
	name, st := c.fieldName(i)
	if st != statusOK {
		return st
	}
	value, st := c.fieldValue(i + 2)
	if st != statusOK {
		return st
	}
	if !c.fits(name, value) {
		return statusLimit
	}
	if !c.holdHead(len(name) + len(value) + fieldMemory) {
		return statusLimit
	}
	return h.appendBounded(name, value)
}

// fieldRemove removes a name, which has to be there.
func (c *call) fieldRemove(i int, h *header) status {
	name, st := c.bytes(i)
	if st == statusOK {
		st = checkName(name)
	}
	if st != statusOK {
		return st
	}
	if !h.remove(strings.ToLower(string(name))) {
		return statusInvalid
	}
	return statusOK
}
