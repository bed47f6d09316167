package compute

import (
	"maps"
	"net/netip"

	"github.com/gripway/gripway/guest/store"
)

// stores are those of the service; there always are some, if empty.
func (b *sandbox) stores() *store.Stores {
	if b.service.Stores != nil {
		return b.service.Stores
	}
	return noStores
}

// noStores are those of a service that has none. Nothing is ever written to them.
var noStores = func() *store.Stores {
	s, err := store.Open(store.Options{}, store.OpenOptions{})
	if err != nil {
		panic(err)
	}
	return s
}()

// opened are handles of what is opened by a name: opening it again gives the same
// handle, so that a sandbox that is used for many requests does not collect them.
type opened[T any] struct {
	table[T]
	byName map[string]uint32
}

// open returns the handle of a name.
func (o *opened[T]) open(name string, v T) (uint32, status) {
	if h, ok := o.byName[name]; ok {
		o.set(h, v)
		return h, statusOK
	}
	h, st := o.add(v)
	if st == statusOK {
		if o.byName == nil {
			o.byName = make(map[string]uint32)
		}
		o.byName[name] = h
	}
	return h, st
}

// clone is the same handles for another sandbox.
func (o *opened[T]) clone() opened[T] {
	return opened[T]{table[T]{next: o.next, live: maps.Clone(o.live)}, maps.Clone(o.byName)}
}

// openNamed is the hostcall open of a kind: the name is parameters 0 and 1, the
// handle goes to 2. absent is the answer if there is nothing of the name.
func openNamed[T any](c *call, of map[string]T, handles *opened[T], absent status) status {
	name, st := c.text(0)
	if st != statusOK {
		return st
	}
	v, ok := of[name]
	if !ok {
		return absent
	}
	h, st := handles.open(name, v)
	if st != statusOK {
		return st
	}
	return c.put32(2, h)
}

// address is what the bytes of parameters i and i+1 are: 4 or 16 of them.
func (c *call) address(i int) (netip.Addr, status) {
	if n := c.u32(i + 1); n != 4 && n != 16 {
		return netip.Addr{}, statusInvalid
	}
	b, st := c.bytes(i)
	if st != statusOK {
		return netip.Addr{}, st
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr, statusOK
}
