package origin

import (
	"net/netip"
	"syscall"
)

// private are the addresses that an untrusted target may not have: what Pushpin
// blocks, and what else leads to this host or its neighbours (RFC 6890).
var private = prefixes(
	"127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16",
	"::1/128", "fc00::/7", "fe80::/10",

	"0.0.0.0/8",      // this host: Linux connects 0.0.0.0 to itself
	"100.64.0.0/10",  // carriers' NAT, and many a cloud's inner services
	"192.0.0.0/24",   // protocol assignments
	"198.18.0.0/15",  // test networks
	"224.0.0.0/3",    // multicast, reserved, broadcast
	"::/128",         // this host
	"fec0::/10",      // site-local, before fc00::/7
	"ff00::/8",       // multicast
	"64:ff9b:1::/48", // local NAT64
	"2001:0000::/32", // Teredo: the IPv4 address is hidden in it
)

// embedding are networks of IPv6 whose addresses carry one of IPv4 from byte at.
var embedding = []struct {
	netip.Prefix
	at int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, // NAT64
	{netip.MustParsePrefix("2002::/16"), 2},     // 6to4
	{netip.MustParsePrefix("::/96"), 12},        // IPv4-compatible
}

func prefixes(list ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, len(list))
	for i, s := range list {
		parsed[i] = netip.MustParsePrefix(s)
	}
	return parsed
}

// isPrivate says whether an address is one that an untrusted target may not have,
// in whatever form it is written.
func isPrivate(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	for _, p := range private {
		if p.Contains(addr) {
			return true
		}
	}
	for _, e := range embedding {
		if e.Contains(addr) {
			bytes := addr.As16()
			return isPrivate(netip.AddrFrom4([4]byte(bytes[e.at : e.at+4])))
		}
	}
	return false
}

// BlockPrivate refuses a connection before it is made. It is asked with the
// address that the name was resolved to, so a name cannot change its mind between
// check and use.
func BlockPrivate(network, address string, _ syscall.RawConn) error {
	addr, err := netip.ParseAddrPort(address)
	if err != nil || isPrivate(addr.Addr()) {
		return &BlockedError{Addr: address}
	}
	return nil
}
