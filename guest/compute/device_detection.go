package compute

var deviceDetectionCalls = map[string]hostcall{"lookup": deviceDetectionLookup}

// deviceDetectionLookup answers with the document about a User-Agent.
func deviceDetectionLookup(c *call) status {
	userAgent, st := c.text(0)
	if st != statusOK {
		return st
	}
	document := c.stores().Devices.Lookup(userAgent)
	if document == nil {
		return statusNone
	}
	return c.fill(2, document)
}
