package compute

import (
	"encoding/binary"
	"net"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gripway/gripway/guest"
)

// A shield is another site of the service that requests go through. Sites are named
// in the configuration; one of them may be where the guest runs.

var shieldingCalls = map[string]hostcall{
	"shield_info":        shieldInfo,
	"backend_for_shield": shieldBackend,
}

// shieldInfo tells about a site:
//
//	1 byte  1: it is this one
//	        URL NUL   without TLS, empty for this one
//	        URL NUL   with TLS
func shieldInfo(c *call) status {
	name, st := c.text(0)
	if st != statusOK {
		return st
	}
	site, ok := c.stores().Shields[name]
	if !ok {
		return statusInvalid
	}
	info := []byte{0}
	if site.Local {
		info[0] = 1
	}
	info = append(append(info, siteURL(site.Plain)...), 0)
	info = append(append(info, siteURL(site.TLS)...), 0)
	return c.fill(2, info)
}

// siteURL is a site's URL as SDKs expect it: with a path.
func siteURL(text string) string {
	u, err := url.Parse(text)
	if err == nil && u.Host != "" && u.Path == "" {
		u.Path = "/"
		return u.String()
	}
	return text
}

// The options of a shield's backend, and the size of their record.
const (
	shieldCacheKey     = 1 << 1 // of the site's own cache: nothing here
	shieldFirstByte    = 1 << 2
	shieldBetweenBytes = 1 << 3
	shieldKnown        = shieldCacheKey | shieldFirstByte | shieldBetweenBytes

	shieldRecordBytes = 16
)

// shieldBackend answers with the name of a backend that leads to a site, which is
// named, or is one of the URLs of shieldInfo. It is made for the guest if it is not
// there.
//
//	cache key@0 length@4  first byte, ms@8  between bytes, ms@12
func shieldBackend(c *call) status {
	text, st := c.text(0)
	if st != statusOK {
		return st
	}
	mask := c.u32(2)
	if mask&^shieldKnown != 0 {
		return statusInvalid
	}
	o := guest.BackendOptions{Dynamic: true}
	if mask != 0 {
		r, st := c.record(3, shieldRecordBytes, 4)
		if st != statusOK {
			return st
		}
		if mask&shieldFirstByte != 0 {
			o.FirstByteTimeout = time.Duration(binary.LittleEndian.Uint32(r[8:])) * time.Millisecond
		}
		if mask&shieldBetweenBytes != 0 {
			o.BetweenBytesTimeout = time.Duration(binary.LittleEndian.Uint32(r[12:])) * time.Millisecond
		}
		if mask&shieldCacheKey != 0 {
			key, st := c.at(binary.LittleEndian.Uint32(r), binary.LittleEndian.Uint32(r[4:]))
			if st != statusOK || !utf8.Valid(key) {
				return statusInvalid
			}
		}
	}
	if site, ok := c.stores().Shields[text]; ok {
		text = site.TLS // empty for the local one
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return statusInvalid
	}
	o.TLS = u.Scheme == "https"
	port := u.Port()
	if port == "" {
		port = "80"
		if o.TLS {
			port = "443"
		}
	}
	o.Address, o.PathPrefix = net.JoinHostPort(u.Hostname(), port), strings.TrimRight(u.EscapedPath(), "/")
	o.Name = "shield " + siteURL(text)
	if uint64(len(o.Name)) <= uint64(c.u32(5)) && c.backend(o.Name) == nil {
		if st := c.addBackend(o); st != statusOK {
			return st
		}
	}
	return c.fillText(4, o.Name)
}
