package compute

import "encoding/json"

var aclCalls = map[string]hostcall{
	"open":   aclOpen,
	"lookup": aclLookup,
}

// What a lookup in an ACL may find.
const (
	aclFound     = 1
	aclNoContent = 2
)

// aclOpen finds a list by its name.
func aclOpen(c *call) status {
	return openNamed(c, c.stores().ACLs, &c.acls, statusNone)
}

// aclLookup answers with the entry of an address's network, as a body of JSON.
func aclLookup(c *call) status {
	list, st := c.acls.get(c.u32(0))
	if st != statusOK {
		return st
	}
	addr, st := c.address(1)
	if st != statusOK {
		return st
	}
	entry, ok := list.Lookup(addr)
	if !ok {
		return c.put32(4, aclNoContent)
	}
	data, err := json.Marshal(struct {
		Prefix string `json:"prefix"`
		Action string `json:"action"`
	}{entry.Prefix.String(), entry.Action})
	if err != nil {
		return statusError
	}
	if st := c.put32(4, aclFound); st != statusOK {
		return st
	}
	return c.addBody(3, bodyOf(data))
}
