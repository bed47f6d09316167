package compute

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/gripway/gripway/guest/store"
)

// A call of a KV store is two: one that begins it, and a wait for its result. The
// result of a wait is a kvError of its own; its status is about the call.

var kvStoreCalls = map[string]hostcall{
	"open":           kvOpen,
	"lookup":         kvLookup,
	"lookup_wait":    kvLookupWait,
	"lookup_wait_v2": kvLookupWaitV2,
	"insert":         kvInsert,
	"insert_wait":    kvInsertWait,
	"delete":         kvDelete,
	"delete_wait":    kvDeleteWait,
	"list":           kvList,
	"list_wait":      kvListWait,
}

// kvPendingMax bounds the calls under way, and their results that nobody took, of
// stores that are not in memory: a result may have KVValueMax bytes. More are
// answered with kvTooManyRequests.
const kvPendingMax = 100

// kvReadingMax bounds the bodies that are read at once for inserts of a sandbox, each
// of KVValueMax bytes at most. Further ones wait for their turn.
const kvReadingMax = 8

// kvError is how a call of a KV store ended.
type kvError = uint32

const (
	kvOK                 kvError = 1
	kvBadRequest         kvError = 2
	kvNotFound           kvError = 3
	kvPreconditionFailed kvError = 4
	kvPayloadTooLarge    kvError = 5
	kvInternal           kvError = 6
	kvTooManyRequests    kvError = 7
)

// kvErrorOf is what an error of a store is for a guest.
func kvErrorOf(err error) kvError {
	switch {
	case err == nil:
		return kvOK
	case errors.Is(err, store.ErrRequest), errors.Is(err, store.ErrKey):
		return kvBadRequest
	case errors.Is(err, store.ErrNotFound):
		return kvNotFound
	case errors.Is(err, store.ErrPrecondition):
		return kvPreconditionFailed
	case errors.Is(err, store.ErrTooLarge):
		return kvPayloadTooLarge
	case errors.Is(err, store.ErrBusy):
		return kvTooManyRequests
	}
	return kvInternal
}

// kvPending is a call of a KV store under way. T tells what call it is.
type kvPending[T any] struct {
	*future[T]
	counted bool // in the sandbox's kvPending
}

// Results of calls that have none.
type (
	kvInserted struct{}
	kvDeleted  struct{}
)

// drop is item.drop.
func (p *kvPending[T]) drop(b *sandbox) {
	p.future.drop(b)
	p.uncount(b)
}

func (p *kvPending[T]) uncount(b *sandbox) {
	if p.counted {
		p.counted = false
		b.kvPending--
	}
}

// kvStart begins a call; its handle goes to parameter i. What needs no time is done
// at once.
func kvStart[T any](c *call, i int, kv *store.KV, begin func() *future[T]) status {
	p := &kvPending[T]{}
	var none T
	switch {
	case kv.Local:
		p.future = begin()
	case c.kvPending >= kvPendingMax:
		p.future = settled(none, fmt.Errorf("%d calls: %w", c.kvPending, store.ErrBusy))
	default:
		p.counted = true
		c.kvPending++
		p.future = begin()
	}
	h, st := c.items.add(p)
	if st != statusOK {
		p.drop(c.sandbox)
		return st
	}
	return c.put32(i, h)
}

// kvUnread is a call that waits for a body to be read: its own, or that of one before.
type kvUnread struct {
	kv      *store.KV
	key     string
	changes bool
	done    <-chan struct{} // closed once it has ended
}

// kvBefore are the calls for a key, or for all if that is "", that were begun and wait
// for bodies. What is called for the key now comes after them: the JavaScript SDK says
// that a stream is stored as soon as its insert has begun, and what was looked for
// before a change is what was there before it.
func (b *sandbox) kvBefore(kv *store.KV, key string) (before []<-chan struct{}) {
	b.kvUnread = slices.DeleteFunc(b.kvUnread, func(u kvUnread) bool {
		select {
		case <-u.done:
			return true
		default:
			return false
		}
	})
	for _, u := range b.kvUnread {
		if u.kv == kv && (key == "" || key == u.key) {
			before = append(before, u.done)
		}
	}
	return before
}

// kvAwait waits for what kvBefore returned.
func kvAwait(ctx context.Context, before []<-chan struct{}) error {
	for _, done := range before {
		select {
		case <-done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// awaitUnread waits for the changes that wait for bodies: the guest has ended, and they
// are not lost by it.
func (b *sandbox) awaitUnread() {
	ctx := b.Context()
	for _, u := range b.kvUnread {
		if u.changes {
			b.Wait(func() { kvAwait(ctx, []<-chan struct{}{u.done}) })
		}
	}
}

// kvRead is a call that changes nothing: it ends with the guest. size is how many bytes
// its result holds until the guest takes it.
func kvRead[T any](b *sandbox, kv *store.KV, key string, size func(T) int, do func(ctx context.Context) (T, error)) *future[T] {
	before := b.kvBefore(kv, key)
	read := func(ctx context.Context) (value T, err error) {
		if err := kvAwait(ctx, before); err != nil {
			return value, err
		}
		if value, err = do(ctx); err != nil {
			return value, err
		}
		if n := int64(size(value)); b.kvHeld.Add(n) > heldBytesMax {
			b.kvHeld.Add(-n)
			var none T
			return none, fmt.Errorf("%d bytes that the guest has not taken: %w", heldBytesMax, store.ErrBusy)
		}
		return value, nil
	}
	taken := func(value T) { b.kvHeld.Add(-int64(size(value))) }
	if kv.Local && before == nil {
		f := settled(read(b.Context()))
		f.discard = taken
		return f
	}
	f := start(b, read, taken)
	if before != nil && key != "" { // a list holds nobody up
		b.kvUnread = append(b.kvUnread, kvUnread{kv, key, false, f.done})
	}
	return f
}

// kvWrite is a call that changes something: once begun it is finished, also if the
// guest has gone.
func kvWrite[T any](b *sandbox, kv *store.KV, key string, do func(ctx context.Context) (T, error)) *future[T] {
	if before := b.kvBefore(kv, key); before != nil {
		return kvLater(b, kv, key, func(ctx context.Context) (func(context.Context) (T, error), error) {
			return do, kvAwait(ctx, before)
		})
	}
	if kv.Local {
		return settled(do(b.Context()))
	}
	f := &future[T]{cancel: func() {}, done: make(chan struct{})}
	err := b.stores().Go(func(ctx context.Context) {
		f.value, f.err = do(ctx)
		close(f.done)
		b.signal()
	})
	if err != nil {
		return settled(f.value, err)
	}
	return f
}

// kvLater is a kvWrite that has to be got ready first, while the guest goes on.
func kvLater[T any](b *sandbox, kv *store.KV, key string, ready func(ctx context.Context) (func(context.Context) (T, error), error)) *future[T] {
	f := start(b, func(ctx context.Context) (value T, err error) {
		do, err := ready(ctx)
		if err != nil {
			return value, err
		}
		ended := make(chan struct{})
		if err := b.stores().Go(func(ctx context.Context) {
			defer close(ended)
			value, err = do(ctx)
		}); err != nil {
			return value, err
		}
		<-ended
		return value, err
	}, nil)
	b.kvUnread = append(b.kvUnread, kvUnread{kv, key, true, f.done})
	return f
}

// kvWait waits for a call that parameter 0 is the handle of.
func kvWait[T any](c *call) (p *kvPending[T], value T, err error, st status) {
	p, st = itemOf[*kvPending[T]](c.sandbox, c.u32(0))
	if st == statusOK {
		value, err = p.wait(c.sandbox)
		c.kvTell(err)
	}
	return p, value, err, st
}

// kvTell tells the operator of an error that is the store's own.
func (c *call) kvTell(err error) {
	if kvErrorOf(err) == kvInternal {
		c.stores().Failed(err)
	}
}

// kvTake uses the handle of a wait up.
func kvTake[T any](c *call, p *kvPending[T]) {
	c.items.remove(c.u32(0))
	p.drop(c.sandbox)
}

// kvOpen finds a store by its name.
func kvOpen(c *call) status {
	return openNamed(c, c.stores().KV, &c.kvStores, statusInvalid)
}

// kvKey are the store and the key that parameters 0 to 2 are.
func kvKey(c *call) (kv *store.KV, key string, st status) {
	kv, st = c.kvStores.get(c.u32(0))
	if st != statusOK {
		return nil, "", st
	}
	key, st = c.text(1)
	if st == statusOK && store.CheckKey(key) != nil {
		st = statusInvalid
	}
	return kv, key, st
}

// kvReserved is the bit of masks that never meant anything.
const kvReserved = 1 << 0

// kvLookup begins to look a key up. There are no options: other bits of the mask are
// of a later version.
func kvLookup(c *call) status {
	kv, key, st := kvKey(c)
	if st != statusOK {
		return st
	}
	if c.u32(3)&^kvReserved != 0 {
		return statusInvalid
	}
	return kvStart(c, 5, kv, kvLookupOf(c, kv, key))
}

func kvLookupOf(c *call, kv *store.KV, key string) func() *future[store.KVValue] {
	return func() *future[store.KVValue] {
		return kvRead(c.sandbox, kv, key, kvValueBytes, func(ctx context.Context) (store.KVValue, error) { return kv.Lookup(ctx, key) })
	}
}

func kvValueBytes(value store.KVValue) int { return len(value.Body) + len(value.Metadata) }

// kvPageBytes counts keys and what a string costs besides.
func kvPageBytes(page store.KVPage) int {
	n := len(page.Prefix) + len(page.Cursor)
	for _, key := range page.Keys {
		n += len(key) + 16
	}
	return n
}

// kvLookupWait is the first version, whose generation has 32 bits and is always 0.
func kvLookupWait(c *call) status {
	return kvLookupEnd(c, func(uint64) status { return c.put32(5, 0) })
}

// kvLookupWaitV2 waits for a value: its body, metadata and generation.
func kvLookupWaitV2(c *call) status {
	return kvLookupEnd(c, func(generation uint64) status { return c.put64(5, generation) })
}

// kvLookupEnd ends a lookup. If the buffer for the metadata is too short, the guest
// may come again.
func kvLookupEnd(c *call, put func(generation uint64) status) status {
	p, value, err, st := kvWait[store.KVValue](c)
	if st != statusOK {
		return st
	}
	if err != nil {
		kvTake(c, p)
		return c.put32(6, kvErrorOf(err))
	}
	if c.held+len(value.Body) > heldBytesMax {
		return statusLimit // once the guest holds less, it may come again
	}
	if st := c.fillText(2, value.Metadata); st == statusBufferLen {
		return st
	} else if st != statusOK {
		kvTake(c, p)
		return st
	}
	kvTake(c, p)
	if st := put(value.Generation); st != statusOK {
		return st
	}
	if st := c.put32(6, kvOK); st != statusOK {
		return st
	}
	return c.addHeldBody(1, value.Body)
}

// The options of an insert, and the size and alignment of their record.
const (
	kvInsertBackground = 1 << 1 // all it asks is that others may see the change later
	kvInsertGeneration = 1 << 2 // of 32 bits, which was never checked
	kvInsertMetadata   = 1 << 3
	kvInsertTTL        = 1 << 4
	kvInsertIf         = 1 << 5
	kvInsertKnown      = kvReserved | kvInsertBackground | kvInsertGeneration | kvInsertMetadata | kvInsertTTL | kvInsertIf

	kvInsertBytes = 32
)

// kvInsertOptions reads the options that parameters i and i+1 are.
//
//	mode@0  -@4  metadata@8 length@12  ttl, seconds@16  generation@24
func (c *call) kvInsertOptions(i int) (in store.KVInsert, st status) {
	mask := c.u32(i)
	r, st := c.record(i+1, kvInsertBytes, 8)
	if st != statusOK {
		return in, st
	}
	mode := binary.LittleEndian.Uint32(r)
	if mask&^kvInsertKnown != 0 || mode > uint32(store.KVPrepend) {
		return in, statusInvalid
	}
	in.Mode = store.KVMode(mode)
	if mask&kvInsertMetadata != 0 {
		if in.Metadata, st = c.optionText(r[8:]); st != statusOK {
			return in, st
		}
	}
	if mask&kvInsertTTL != 0 {
		if in.TTL = time.Duration(binary.LittleEndian.Uint32(r[16:])) * time.Second; in.TTL == 0 {
			return in, statusInvalid
		}
	}
	if mask&kvInsertIf != 0 {
		generation := binary.LittleEndian.Uint64(r[24:])
		in.IfGeneration = &generation
	}
	return in, statusOK
}

// optionText is a text that a record names. The ABI wants one that is not empty.
func (c *call) optionText(r []byte) (string, status) {
	n := binary.LittleEndian.Uint32(r[4:])
	b, st := c.at(binary.LittleEndian.Uint32(r), n)
	if st == statusOK && (n == 0 || !utf8.Valid(b)) {
		st = statusInvalid
	}
	return string(b), st
}

// kvInsert begins to store a body, which is used up.
func kvInsert(c *call) status {
	kv, key, st := kvKey(c)
	if st != statusOK {
		return st
	}
	in, st := c.kvInsertOptions(4)
	if st != statusOK {
		return st
	}
	body, st := c.takeBody(3)
	if st != statusOK {
		return st
	}
	return kvStart(c, 6, kv, kvInsertOf(c, kv, key, in, body))
}

// kvInsertOf stores a body once it has been read. A body that was not read whole is
// not stored.
func kvInsertOf(c *call, kv *store.KV, key string, in store.KVInsert, body *body) func() *future[kvInserted] {
	b := c.sandbox
	insert := func(ctx context.Context) (kvInserted, error) { return kvInserted{}, kv.Insert(ctx, key, in) }
	return func() *future[kvInserted] {
		if body.length() >= 0 && body.atHand() {
			var err error
			if in.Body, err = kvReadBody(b.Context(), body); err != nil {
				return settled(kvInserted{}, err)
			}
			return kvWrite(b, kv, key, insert)
		}
		before := b.kvBefore(kv, key)
		if b.kvReading == nil {
			b.kvReading = make(chan struct{}, kvReadingMax)
		}
		return kvLater(b, kv, key, func(ctx context.Context) (func(context.Context) (kvInserted, error), error) {
			err := kvAwait(ctx, before)
			if err == nil {
				err = b.kvTurn(ctx)
			}
			if err != nil {
				body.close()
				return nil, err
			}
			if in.Body, err = kvReadBody(ctx, body); err != nil {
				<-b.kvReading
				return nil, err
			}
			return func(ctx context.Context) (kvInserted, error) {
				defer func() { <-b.kvReading }()
				return insert(ctx)
			}, nil
		})
	}
}

// kvTurn waits until another body may be read.
func (b *sandbox) kvTurn(ctx context.Context) error {
	select {
	case b.kvReading <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// atHand says whether all of a body is in memory.
func (b *body) atHand() bool {
	for _, p := range b.parts {
		if p.from != nil {
			return false
		}
	}
	return true
}

// kvReadBody reads a body whole, unless ctx ends.
func kvReadBody(ctx context.Context, body *body) ([]byte, error) {
	from := body.reader()
	defer from.Close()
	defer context.AfterFunc(ctx, func() { from.Close() })()
	data, err := io.ReadAll(io.LimitReader(from, store.KVValueMax+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: its body broke off: %w", store.ErrRequest, err)
	case len(data) > store.KVValueMax:
		return nil, store.ErrTooLarge
	}
	return data, nil
}

// kvInsertWait waits for an insert.
func kvInsertWait(c *call) status { return kvEnd[kvInserted](c) }

// kvEnd ends a call whose result is whether it went well.
func kvEnd[T any](c *call) status {
	p, _, err, st := kvWait[T](c)
	if st != statusOK {
		return st
	}
	kvTake(c, p)
	return c.put32(1, kvErrorOf(err))
}

// kvDelete begins to take a key away.
func kvDelete(c *call) status {
	kv, key, st := kvKey(c)
	if st != statusOK {
		return st
	}
	if c.u32(3)&^kvReserved != 0 {
		return statusInvalid
	}
	return kvStart(c, 5, kv, kvDeleteOf(c, kv, key))
}

func kvDeleteOf(c *call, kv *store.KV, key string) func() *future[kvDeleted] {
	return func() *future[kvDeleted] {
		return kvWrite(c.sandbox, kv, key, func(ctx context.Context) (kvDeleted, error) { return kvDeleted{}, kv.Delete(ctx, key) })
	}
}

// kvDeleteWait waits for a delete. What was not there is gone as well, which is
// what was asked for.
func kvDeleteWait(c *call) status {
	p, _, err, st := kvWait[kvDeleted](c)
	if st != statusOK {
		return st
	}
	kvTake(c, p)
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return c.put32(1, kvErrorOf(err))
}

// The options of a list, and the size of their record.
const (
	kvListCursor = 1 << 1
	kvListLimit  = 1 << 2
	kvListPrefix = 1 << 3
	kvListKnown  = kvReserved | kvListCursor | kvListLimit | kvListPrefix

	kvListEventual = 1 // of two modes, 0 is strong: stores here are
	kvListBytes    = 24
)

// kvList begins to list keys.
//
//	mode@0  cursor@4 length@8  limit@12  prefix@16 length@20
func kvList(c *call) status {
	kv, st := c.kvStores.get(c.u32(0))
	if st != statusOK {
		return st
	}
	mask := c.u32(1)
	r, st := c.record(2, kvListBytes, 4)
	if st != statusOK {
		return st
	}
	if mask&^kvListKnown != 0 || binary.LittleEndian.Uint32(r) > kvListEventual {
		return statusInvalid
	}
	var list store.KVList
	if mask&kvListCursor != 0 {
		if list.Cursor, st = c.optionText(r[4:]); st != statusOK {
			return st
		}
	}
	if mask&kvListPrefix != 0 {
		if list.Prefix, st = c.optionText(r[16:]); st != statusOK {
			return st
		}
	}
	if mask&kvListLimit != 0 {
		if list.Limit = int(binary.LittleEndian.Uint32(r[12:])); list.Limit == 0 {
			list.Limit = -1 // which the store refuses, as Fastly does
		}
	}
	return kvStart(c, 3, kv, func() *future[store.KVPage] {
		return kvRead(c.sandbox, kv, "", kvPageBytes, func(ctx context.Context) (store.KVPage, error) { return kv.List(ctx, list) })
	})
}

// kvListWait waits for a list: a body of JSON.
func kvListWait(c *call) status {
	p, page, err, st := kvWait[store.KVPage](c)
	if st != statusOK {
		return st
	}
	kvTake(c, p)
	var data []byte
	if err == nil {
		data, err = json.Marshal(page)
	}
	if st := c.put32(2, kvErrorOf(err)); st != statusOK || err != nil {
		return st
	}
	return c.addHeldBody(1, data)
}
