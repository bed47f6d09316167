package compute

var geoCalls = map[string]hostcall{"lookup": geoLookup}

// geoLookup answers with the document about an address. Of one that nothing is
// known of it is empty, as on Fastly; SDKs tell that from an error.
func geoLookup(c *call) status {
	addr, st := c.address(0)
	if st != statusOK {
		return st
	}
	return c.fill(2, c.stores().Geo.Lookup(addr))
}
