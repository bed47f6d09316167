package compute

import (
	"errors"

	"github.com/gripway/gripway/guest/store"
)

// The first form of KV stores, of SDKs until 2023. Stores, handles and calls under
// way are those of kv_store.go; errors are statuses.

var objectStoreCalls = map[string]hostcall{
	"open":                kvOpen,
	"lookup":              objectLookup,
	"lookup_async":        objectLookupAsync,
	"pending_lookup_wait": objectLookupWait,
	"insert":              objectInsert,
	"insert_async":        objectInsertAsync,
	"pending_insert_wait": objectInsertWait,
	"delete_async":        objectDeleteAsync,
	"pending_delete_wait": objectDeleteWait,
}

// objectStatus is what an error of a store is here.
func objectStatus(err error) status {
	switch kvErrorOf(err) {
	case kvOK:
		return statusOK
	case kvNotFound:
		return statusNone
	case kvInternal:
		return statusError
	case kvTooManyRequests:
		return statusLimit
	}
	return statusInvalid
}

// putObject gives the guest a value's body. Of a key that is not there it gets no
// handle and is told that all is well: SDKs look at the handle.
func putObject(c *call, i int, value store.KVValue, err error) status {
	if errors.Is(err, store.ErrNotFound) {
		return c.put32(i, noHandle)
	}
	if err != nil {
		return objectStatus(err)
	}
	return c.addHeldBody(i, value.Body)
}

func objectLookup(c *call) status {
	kv, key, st := kvKey(c)
	if st != statusOK {
		return st
	}
	f := kvLookupOf(c, kv, key)()
	value, err := f.wait(c.sandbox)
	f.drop(c.sandbox)
	c.kvTell(err)
	return putObject(c, 3, value, err)
}

func objectLookupAsync(c *call) status {
	kv, key, st := kvKey(c)
	if st != statusOK {
		return st
	}
	return kvStart(c, 3, kv, kvLookupOf(c, kv, key))
}

func objectLookupWait(c *call) status {
	p, value, err, st := kvWait[store.KVValue](c)
	if st != statusOK {
		return st
	}
	kvTake(c, p)
	return putObject(c, 1, value, err)
}

func objectInsert(c *call) status {
	kv, key, st := kvKey(c)
	if st != statusOK {
		return st
	}
	body, st := c.takeBody(3)
	if st != statusOK {
		return st
	}
	_, err := kvInsertOf(c, kv, key, store.KVInsert{}, body)().wait(c.sandbox)
	c.kvTell(err)
	return objectStatus(err)
}

func objectInsertAsync(c *call) status {
	kv, key, st := kvKey(c)
	if st != statusOK {
		return st
	}
	body, st := c.takeBody(3)
	if st != statusOK {
		return st
	}
	return kvStart(c, 4, kv, kvInsertOf(c, kv, key, store.KVInsert{}, body))
}

func objectInsertWait(c *call) status {
	p, _, err, st := kvWait[kvInserted](c)
	if st != statusOK {
		return st
	}
	kvTake(c, p)
	return objectStatus(err)
}

func objectDeleteAsync(c *call) status {
	kv, key, st := kvKey(c)
	if st != statusOK {
		return st
	}
	return kvStart(c, 3, kv, kvDeleteOf(c, kv, key))
}

func objectDeleteWait(c *call) status {
	p, _, err, st := kvWait[kvDeleted](c)
	if st != statusOK {
		return st
	}
	kvTake(c, p)
	return objectStatus(err)
}
