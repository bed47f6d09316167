package compute

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"

	"github.com/gripway/gripway/guest/cache"
)

var purgeCalls = map[string]hostcall{"purge_surrogate_key": purgeSurrogateKey}

// Purger takes responses out of caches.
type Purger interface {
	// Purge takes out what has a surrogate key; softly, it becomes stale instead.
	// count is how much that was.
	Purge(key string, softly bool) (count int)
}

// The options of a purge, and the size of their record.
const (
	purgeSoft   = 1 << 0
	purgeReturn = 1 << 1

	purgeOptionsBytes = 12
)

// purgeSurrogateKey purges what has a key. It may return what Fastly's API would.
func purgeSurrogateKey(c *call) status {
	key, st := c.text(0)
	if st != statusOK {
		return st
	}
	mask := c.u32(2)
	if mask&^(purgeSoft|purgeReturn) != 0 || cache.CheckSurrogateKey(key) != nil {
		return statusInvalid
	}
	if mask&purgeReturn != 0 {
		record, st := c.record(3, purgeOptionsBytes, 4)
		if st != statusOK {
			return st
		}
		answer, err := json.Marshal(map[string]string{"status": "ok", "id": rand.Text()})
		if err != nil {
			return statusError
		}
		// Written before anything is purged: a guest whose buffer is too short comes
		// again.
		if st := c.fillRecord(record, answer); st != statusOK {
			return st
		}
	}
	var count int
	c.Wait(func() { count = c.service.purge(key, mask&purgeSoft != 0) })
	c.Log.Debug("purged", "key", key, "soft", mask&purgeSoft != 0, "count", count)
	return statusOK
}

// purge purges what has a key, everywhere or here.
func (s *Service) purge(key string, softly bool) (count int) {
	if s.Purge != nil {
		return s.Purge.Purge(key, softly)
	}
	space := s.space()
	count = space.Purge(key, softly)
	if s.HTTPCache != nil && s.HTTPCache.Space() != space {
		count += s.HTTPCache.Space().Purge(key, softly)
	}
	return count
}

// fillRecord is fill to a buffer that a record names: address, size, and the
// address of the number of bytes written.
func (c *call) fillRecord(record, data []byte) status {
	address, size, written := binary.LittleEndian.Uint32(record), binary.LittleEndian.Uint32(record[4:]), binary.LittleEndian.Uint32(record[8:])
	switch {
	case written%4 != 0:
		return statusBadAlign
	case !c.memory.WriteUint32Le(written, uint32(len(data))):
		return statusInvalid
	case uint64(len(data)) > uint64(size):
		return statusBufferLen
	case !c.memory.Write(address, data):
		return statusInvalid
	}
	return statusOK
}
