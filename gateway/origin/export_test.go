package origin

import (
	"net/http"
	"net/netip"
)

// IsPrivate is for tests: the table of addresses has no other way out.
func IsPrivate(s string) bool { return isPrivate(netip.MustParseAddr(s)) }

// IdleConns returns how many unused connections to target 1 are kept.
func IdleConns(p *Pool) int {
	e := p.members[0].endpoint.dialer.(*plain)
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.idle)
}

// AppendRequest returns the bytes that a request leaves with, or an error if it
// would not leave.
func AppendRequest(req *http.Request, host string) ([]byte, error) {
	if err := checkRequest(req); err != nil {
		return nil, err
	}
	return appendRequest(nil, req, host, "")
}
