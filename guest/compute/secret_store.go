package compute

import (
	"bytes"
	"strconv"

	"github.com/gripway/gripway/guest/store"
)

var secretStoreCalls = map[string]hostcall{
	"open":       secretStoreOpen,
	"get":        secretStoreGet,
	"plaintext":  secretStorePlaintext,
	"from_bytes": secretStoreFromBytes,
}

// secretStoreOpen finds a store by its name.
func secretStoreOpen(c *call) status {
	return openNamed(c, c.stores().Secrets, &c.secretStores, statusNone)
}

// secretStoreGet finds a secret in a store.
func secretStoreGet(c *call) status {
	h := c.u32(0)
	from, st := c.secretStores.get(h)
	if st != statusOK {
		return st
	}
	name, st := c.text(1)
	if st != statusOK {
		return st
	}
	secret, ok := from[name]
	if !ok {
		return statusNone
	}
	h, st = c.secrets.open(strconv.Itoa(int(h))+"\x00"+name, secret)
	if st != statusOK {
		return st
	}
	return c.put32(3, h)
}

// secretStorePlaintext reveals a secret to the guest.
func secretStorePlaintext(c *call) status {
	secret, st := c.secrets.get(c.u32(0))
	if st != statusOK {
		return st
	}
	return c.fill(1, secret.Reveal())
}

// secretStoreFromBytes makes a secret of the guest's own: where the ABI wants one,
// as for the key of a client certificate.
func secretStoreFromBytes(c *call) status {
	b, st := c.bytes(0)
	if st != statusOK {
		return st
	}
	if len(b) > store.SecretBytesMax || c.held+len(b) > heldBytesMax {
		return statusLimit
	}
	h, st := c.secrets.add(bytes.Clone(b))
	if st != statusOK {
		return st
	}
	c.held += len(b) // it stays with the sandbox
	return c.put32(2, h)
}

// secretValue is the secret that a handle stands for.
func (b *sandbox) secretValue(h uint32) ([]byte, bool) {
	secret, st := b.secrets.get(h)
	if st != statusOK {
		return nil, false
	}
	return bytes.Clone(secret.Reveal()), true
}
