package compute

import "math"

// What a guest holds are numbers, handles, that it gets from hostcalls. Requests and
// responses have tables of their own. All else that a guest may wait for shares a
// table, so that async_io takes any of it: bodies, streaming bodies, pending
// requests, lookups of stores and caches, promises of further requests. A number is
// never used twice in a sandbox: what was closed stays closed.

// noHandle is the handle of nothing. SDKs compare with this number: it is not the
// greatest, which async_io gives as the index of nothing.
const noHandle = math.MaxUint32 - 1

// handlesMax bounds the live handles of each table, and with them what a guest can
// make the host remember. The busiest programs of the SDKs' suites hold a few
// hundred.
const handlesMax = 1 << 15

// table is the handles of one kind. The zero value is empty.
type table[T any] struct {
	next uint32
	live map[uint32]T

	// The entry asked for last: bodies are read and written many times in a row.
	last     uint32
	lastItem T
	lastOK   bool
}

// add gives a handle to v.
func (t *table[T]) add(v T) (uint32, status) {
	if len(t.live) >= handlesMax || t.next == noHandle {
		return noHandle, statusLimit
	}
	if t.live == nil {
		t.live = make(map[uint32]T, 4)
	}
	h := t.next
	t.next++
	t.live[h] = v
	t.last, t.lastItem, t.lastOK = h, v, true
	return h, statusOK
}

// get returns what a handle stands for.
func (t *table[T]) get(h uint32) (v T, st status) {
	if t.lastOK && t.last == h {
		return t.lastItem, statusOK
	}
	v, ok := t.live[h]
	if !ok {
		return v, statusBadHandle
	}
	t.last, t.lastItem, t.lastOK = h, v, true
	return v, statusOK
}

// set makes a handle stand for something, or something else.
func (t *table[T]) set(h uint32, v T) {
	if t.live == nil {
		t.live = make(map[uint32]T, 4)
	}
	t.live[h] = v
	t.last, t.lastItem, t.lastOK = h, v, true
}

// remove uses a handle up, and returns what it stood for.
func (t *table[T]) remove(h uint32) (v T, st status) {
	v, ok := t.live[h]
	if !ok {
		return v, statusBadHandle
	}
	delete(t.live, h)
	if t.last == h {
		var none T
		t.lastItem, t.lastOK = none, false
	}
	return v, statusOK
}

// itemOf is the item of one kind that a handle of the shared table stands for. What
// is of another kind is as good as nothing.
func itemOf[T item](b *sandbox, h uint32) (T, status) {
	i, st := b.items.get(h)
	if st == statusOK {
		if v, ok := i.(T); ok {
			return v, statusOK
		}
	}
	var none T
	return none, statusBadHandle
}

// takeItem is itemOf that uses the handle up.
func takeItem[T item](b *sandbox, h uint32) (T, status) {
	v, st := itemOf[T](b, h)
	if st == statusOK {
		b.items.remove(h)
	}
	return v, st
}
