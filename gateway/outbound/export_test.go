package outbound

import "time"

// SetLinger replaces wayLinger. It is called before the first backend is opened.
func (b *Backends) SetLinger(linger time.Duration) { b.linger = linger }

// Ways is how many ways there are.
func (b *Backends) Ways() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.ways)
}
