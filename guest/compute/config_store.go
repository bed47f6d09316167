package compute

import "unicode/utf8"

// Config stores, and dictionaries, which is what they were called before: the
// handles are the same.

var configStoreCalls = map[string]hostcall{
	"open": configStoreOpen,
	"get":  configStoreGet,
}

var dictionaryCalls = configStoreCalls

// configStoreOpen finds a store by its name.
func configStoreOpen(c *call) status {
	return openNamed(c, c.stores().Configs, &c.configs, statusBadHandle)
}

// configStoreGet looks a value up, in what the store is at this moment.
func configStoreGet(c *call) status {
	store, st := c.configs.get(c.u32(0))
	if st != statusOK {
		return st
	}
	key, st := c.bytes(1)
	if st == statusOK && !utf8.Valid(key) {
		st = statusInvalid
	}
	if st != statusOK {
		return st
	}
	if c.spent.configLookups++; !c.within(LimitConfigLookups, c.spent.configLookups, c.service.Limits.ConfigLookups) {
		return statusLimit
	}
	value, ok := store.Items()[string(key)]
	if !ok {
		return statusNone
	}
	return c.fillText(3, value)
}
