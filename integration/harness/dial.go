package harness

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"time"
)

const (
	dialTimeout  = 5 * time.Second
	writeTimeout = 10 * time.Second

	// smallBuffer is the receive buffer of a client that is to be slow: it is full
	// after little, where the kernel's own choice holds megabytes, and yet takes a
	// segment of loopback whole: with less, a client that resumes waits for probes.
	smallBuffer = 128 << 10
)

// dial connects; raw is the TCP connection below conn.
func dial(addr string, tlsConfig *tls.Config, small bool) (raw, conn net.Conn, err error) {
	raw, err = net.DialTimeout("tcp", addr, dialTimeout)
	if err != nil {
		return nil, nil, err
	}
	if small {
		raw.(*net.TCPConn).SetReadBuffer(smallBuffer)
	}
	if tlsConfig == nil {
		return raw, raw, nil
	}
	secured := tls.Client(raw, tlsConfig)
	secured.SetDeadline(time.Now().Add(dialTimeout))
	if err := secured.Handshake(); err != nil {
		raw.Close()
		return nil, nil, err
	}
	secured.SetDeadline(time.Time{})
	return raw, secured, nil
}

// stall holds back the reads of one connection. Its zero value lets them pass.
type stall struct {
	mu   sync.Mutex
	free chan struct{} // nil: not stalled; closed when reads may go on
}

func (s *stall) set(stalled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case stalled && s.free == nil:
		s.free = make(chan struct{})
	case !stalled && s.free != nil:
		close(s.free)
		s.free = nil
	}
}

func (s *stall) reader(r io.Reader) io.Reader { return &stallReader{s, r} }

type stallReader struct {
	stall *stall
	r     io.Reader
}

func (r *stallReader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	// Held back after the read: one that was waiting when the script said stall
	// takes what comes first, and no more.
	r.stall.mu.Lock()
	free := r.stall.free
	r.stall.mu.Unlock()
	if free != nil {
		<-free
	}
	return n, err
}
