package compute

import (
	"errors"
	"io"
)

var bodyCalls = map[string]hostcall{
	"append":             bodyAppend,
	"new":                bodyNew,
	"read":               bodyRead,
	"write":              bodyWrite,
	"close":              bodyClose,
	"abandon":            bodyAbandon,
	"trailer_append":     bodyTrailerAppend,
	"trailer_names_get":  bodyTrailerNamesGet,
	"trailer_value_get":  bodyTrailerValueGet,
	"trailer_values_get": bodyTrailerValuesGet,
	"known_length":       bodyKnownLength,
}

// addBody gives the guest a body: parameter i is where its handle goes.
func (c *call) addBody(i int, b *body) status {
	h, st := c.items.add(b)
	if st == statusOK {
		st = c.put32(i, h)
	} else {
		b.drop(c.sandbox)
	}
	return st
}

// addHeldBody is addBody of bytes that nobody else remembers.
func (c *call) addHeldBody(i int, data []byte) status {
	b := bodyOf(data)
	if st := c.hold(b, len(data)); st != statusOK {
		return st
	}
	return c.addBody(i, b)
}

// takeBody takes the body that parameter i is a handle of from the guest. It is the
// caller's to close.
func (c *call) takeBody(i int) (*body, status) {
	b, st := takeItem[*body](c.sandbox, c.u32(i))
	if st == statusOK {
		b.leave(c.sandbox)
	}
	return b, st
}

// statusOfRead is what an error of a body's reader is for a guest.
func statusOfRead(err error) status {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, errBrokenOff) {
		return statusIncomplete
	}
	return statusError
}

// bodyNew makes an empty body.
func bodyNew(c *call) status { return c.addBody(0, &body{}) }

// bodyAppend moves all of a body to the end of another.
func bodyAppend(c *call) status {
	into, st := c.items.get(c.u32(0))
	if st != statusOK {
		return st
	}
	switch into := into.(type) {
	case *body:
		if c.u32(0) == c.u32(1) {
			return statusInvalid
		}
		from, st := itemOf[*body](c.sandbox, c.u32(1))
		if st == statusOK {
			st = into.append(c.sandbox, from)
		}
		if st == statusOK {
			c.items.remove(c.u32(1))
		}
		return st
	case *stream:
		from, st := itemOf[*body](c.sandbox, c.u32(1))
		switch {
		case st != statusOK:
			return st
		case !c.mayGive(from.held):
			return statusLimit
		}
		c.items.remove(c.u32(1))
		if into.append(c.sandbox, from) != nil {
			return statusError
		}
		return statusOK
	}
	return statusBadHandle
}

// bodyRead reads what is there into the guest's memory: 0 bytes are the end.
func bodyRead(c *call) status {
	b, st := itemOf[*body](c.sandbox, c.u32(0))
	if st != statusOK {
		return st
	}
	into, st := c.bytes(1)
	if st != statusOK {
		return st
	}
	n, err := b.read(c.sandbox, into)
	if err != nil {
		return statusOfRead(err)
	}
	return c.put32(3, uint32(n))
}

// The two ends that bytes are written to.
const (
	writeBack  = 0
	writeFront = 1
)

// bodyWrite writes all of a buffer.
func bodyWrite(c *call) status {
	data, st := c.bytes(1)
	if st != statusOK {
		return st
	}
	end := c.u32(3)
	if end > writeFront {
		return statusInvalid
	}
	into, st := c.items.get(c.u32(0))
	if st != statusOK {
		return st
	}
	switch into := into.(type) {
	case *body:
		if st := into.write(c.sandbox, data, end == writeFront); st != statusOK {
			return st
		}
	case *stream:
		if end == writeFront {
			return statusBadHandle
		}
		if into.write(c.sandbox, data) != nil {
			return statusError
		}
	default:
		return statusBadHandle
	}
	return c.put32(4, uint32(len(data)))
}

// bodyClose is done with a body: a stream ends well.
func bodyClose(c *call) status { return c.endBody((*stream).finish) }

// bodyAbandon is done with a body: a stream is broken off.
func bodyAbandon(c *call) status { return c.endBody((*stream).abandon) }

func (c *call) endBody(end func(*stream)) status {
	i, st := c.items.get(c.u32(0))
	if st != statusOK {
		return st
	}
	switch i := i.(type) {
	case *body:
		i.drop(c.sandbox)
	case *stream:
		end(i)
		c.items.remove(c.u32(0))
		i.waitStored(c.sandbox)
		return statusOK
	default:
		return statusBadHandle
	}
	c.items.remove(c.u32(0))
	return statusOK
}

// bodyTrailerAppend adds a field to what follows the body.
func bodyTrailerAppend(c *call) status {
	i, st := c.items.get(c.u32(0))
	if st != statusOK {
		return st
	}
	name, st := c.fieldName(1)
	if st != statusOK {
		return st
	}
	value, st := c.fieldValue(3)
	if st != statusOK {
		return st
	}
	switch i := i.(type) {
	case *body:
		return i.trailer.appendBounded(name, value)
	case *stream:
		i.mu.Lock()
		defer i.mu.Unlock()
		return i.trailer.appendBounded(name, value)
	}
	return statusBadHandle
}

// trailerOf is the trailer of a body that was read to its end. Of a stream nobody
// but its reader reads.
func (c *call) trailerOf() (*header, status) {
	i, st := c.items.get(c.u32(0))
	if st != statusOK {
		return nil, st
	}
	switch i := i.(type) {
	case *body:
		if !i.ended {
			return nil, statusAgain
		}
		return &i.trailer, statusOK
	case *stream:
		return nil, statusInvalid
	}
	return nil, statusBadHandle
}

func bodyTrailerNamesGet(c *call) status {
	h, st := c.trailerOf()
	if st != statusOK {
		return st
	}
	return c.fillNames(1, h)
}

func bodyTrailerValueGet(c *call) status {
	h, st := c.trailerOf()
	if st != statusOK {
		return st
	}
	return c.fieldGet(1, h)
}

func bodyTrailerValuesGet(c *call) status {
	h, st := c.trailerOf()
	if st != statusOK {
		return st
	}
	return c.fieldValuesGet(1, h)
}

// bodyKnownLength is how much is left to be read, if that is known.
func bodyKnownLength(c *call) status {
	i, st := c.items.get(c.u32(0))
	if st != statusOK {
		return st
	}
	switch i := i.(type) {
	case *body:
		if n := i.length(); n >= 0 {
			return c.put64(1, uint64(n))
		}
		return statusNone
	case *stream:
		return statusNone
	}
	return statusBadHandle
}
