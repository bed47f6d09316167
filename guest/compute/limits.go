package compute

// Limits are bounds that a service may be held to besides those of [guest.Limits]:
// Fastly's, or others. Zero is no limit. What goes beyond one fails with the status
// "limit exceeded", and is logged once for each request of a client.
type Limits struct {
	BackendRequests int // requests to backends, for one request of a client
	ConfigLookups   int // in config stores and dictionaries, for one request of a client
	HeaderBytes     int // of one value that the guest gives to a header, with its name
	URLBytes        int // of a URL that the guest gives to a request
}

// FastlyLimits are the ones that Fastly publishes:
// https://docs.fastly.com/products/compute-resource-limits.
var FastlyLimits = Limits{BackendRequests: 32, ConfigLookups: 32, HeaderBytes: 69 << 10, URLBytes: 8192}

// Names of limits, as the settings have them.
const (
	LimitBackendRequests = "backend-requests"
	LimitConfigLookups   = "config-lookups"
	LimitHeaderBytes     = "header-bytes"
	LimitURLBytes        = "url-bytes"
)

// LimitNames are all of them.
var LimitNames = []string{LimitBackendRequests, LimitConfigLookups, LimitHeaderBytes, LimitURLBytes}

// spent is what a sandbox has used up for the request that it is about.
type spent struct {
	backendRequests, configLookups int
	told                           bool // of a limit
}

// within says whether n is within a limit, and tells if it is not.
func (b *sandbox) within(name string, n, limit int) bool {
	if limit == 0 || n <= limit {
		return true
	}
	if b.service.Limited != nil {
		b.service.Limited(name)
	}
	if !b.spent.told {
		b.spent.told = true
		b.Log.Warn("the guest is beyond a limit", "limit", name, "most", limit, "wanted", n)
	}
	return false
}

// fits says whether a value of a header is within its limit.
func (b *sandbox) fits(name, value string) bool {
	return b.within(LimitHeaderBytes, len(name)+len(value), b.service.Limits.HeaderBytes)
}
