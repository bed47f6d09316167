package wire

import (
	"crypto/tls"
	"sync/atomic"
	"time"
)

// Certificates are those that TLS listeners show. They may be replaced while clients
// come: who is there stays, and whoever comes then sees the new ones. It may be used
// concurrently.
type Certificates struct {
	now atomic.Pointer[[]tls.Certificate]
}

// Set replaces them. all is the Certificates' own from then on.
func (c *Certificates) Set(all []tls.Certificate) { c.now.Store(&all) }

// Expires is when the first of them expires; zero without any.
func (c *Certificates) Expires() time.Time {
	var first time.Time
	if all := c.now.Load(); all != nil {
		for i := range *all {
			if leaf := (*all)[i].Leaf; leaf != nil && (first.IsZero() || leaf.NotAfter.Before(first)) {
				first = leaf.NotAfter
			}
		}
	}
	return first
}

// Config is for a server with them.
func (c *Certificates) Config() *tls.Config { return &tls.Config{GetCertificate: c.choose} }

// choose takes the first that is for the name that the client asks for, and that it
// can read; the first of all if there is none.
func (c *Certificates) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	all := *c.now.Load()
	for i := range all {
		if hello.SupportsCertificate(&all[i]) == nil {
			return &all[i], nil
		}
	}
	return &all[0], nil
}
