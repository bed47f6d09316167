package hub

import (
	"context"
	"sync"

	"github.com/gripway/gripway/grip"
)

const (
	// lineItemsMax and lineBytesMax bound what waits for one client while a URL is
	// asked about an item: ten seconds of items at the rate at which a URL is asked,
	// and as much as may wait for a client that does not read.
	lineItemsMax = 1000
	lineBytesMax = 1 << 20
)

// Question is what a filter asks a URL about an item, on behalf of a client.
type Question struct {
	Filter  grip.Filter       // HTTPCheck or HTTPModify
	URL     string            // as the connection's meta names it: it may be relative
	SubMeta map[string]string // the connection's
	PubMeta map[string]string // the item's
	Last    map[string]string // ids of what the client has, by channel without prefix
	Content []byte            // what it would be sent
}

// Ask asks it: what the client is to be sent, and whether it is to be sent
// anything.
type Ask func(ctx context.Context, q *Question) (content []byte, deliver bool, err error)

// line does one thing after the other for a client whose items cannot be passed
// at once. Its goroutine exists only while there is something to do. The zero
// value is ready to use; end ends it.
type line struct {
	mu      sync.Mutex
	waiting []step
	bytes   int           // of waiting
	idle    chan struct{} // closed when nothing is being done; nil if nothing is
	ended   bool
	cancel  context.CancelFunc // ends what is being done; nil if nothing is
}

type step struct {
	bytes int
	do    func(ctx context.Context)
}

// do has something done after all that waits; ctx ends with the line. It returns
// false, and nothing will be done, if too much waits. After end nothing is done.
func (l *line) do(bytes int, do func(ctx context.Context)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return true
	}
	if len(l.waiting) >= lineItemsMax || len(l.waiting) > 0 && l.bytes+bytes > lineBytesMax {
		return false
	}
	l.waiting = append(l.waiting, step{bytes, do})
	l.bytes += bytes
	if l.idle == nil {
		l.idle = make(chan struct{})
		ctx, cancel := context.WithCancel(context.Background())
		l.cancel = cancel
		go l.run(ctx)
	}
	return true
}

func (l *line) run(ctx context.Context) {
	for {
		l.mu.Lock()
		if len(l.waiting) == 0 {
			l.cancel()
			close(l.idle)
			l.waiting, l.idle, l.cancel = nil, nil, nil
			l.mu.Unlock()
			return
		}
		next := l.waiting[0]
		l.waiting[0] = step{}
		l.waiting = l.waiting[1:]
		l.bytes -= next.bytes
		l.mu.Unlock()
		next.do(ctx)
	}
}

// busy says whether something is being done, or waits.
func (l *line) busy() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.idle != nil
}

// wait returns when nothing is being done and nothing waits, or done is closed.
func (l *line) wait(done <-chan struct{}) {
	l.mu.Lock()
	idle := l.idle
	l.mu.Unlock()
	if idle == nil {
		return
	}
	select {
	case <-idle:
	case <-done:
	}
}

// end forgets what waits, and has what is being done give up. It does not wait.
func (l *line) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.waiting, l.bytes = nil, 0
	if l.cancel != nil {
		l.cancel()
	}
}
