package guest

import (
	"crypto/tls"
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// ErrDecided answers a second decision about an exchange.
var ErrDecided = errors.New("guest: the request has been answered or handed off already")

// Exchange is one request as a guest sees it. What the gateway fills in is fixed
// before it is served.
type Exchange struct {
	// Request is what the client sent. Its body is read by the guest, or by the
	// gateway after a handoff.
	Request *http.Request

	// Client is whom it came from.
	Client Client

	// ID names the request in logs: 32 hexadecimal digits. Empty lets the program
	// count.
	ID string

	// Early sends the client an interim answer: 103, and its header. Nil drops it.
	Early func(status int, header http.Header)

	once    sync.Once
	decided chan struct{} // closed once outcome is set
	outcome Outcome

	// Set by Program.Serve.
	arrived time.Time
	pool    *pool
	ended   chan struct{} // closed once the sandbox that had it has ended, and err is set
	err     error
	endOnce sync.Once
	sandbox *Sandbox // that has it; guarded by the pool's mu
}

// Client is what is known of the connection that a request came over.
type Client struct {
	// Remote and Local are the connection's two ends. Zero: unknown.
	Remote, Local netip.AddrPort

	// TLS is nil for a plain connection.
	TLS *tls.ConnectionState

	// Hello is the client's TLS ClientHello, without record headers. Nil: unknown.
	Hello []byte

	// HTTP2 is how the client began to speak HTTP/2: its settings, window, priorities
	// and the order of its first pseudo-headers, as
	// 1:65536;2:0;4:6291456|15663105|0|m,a,s,p. Empty: unknown, or another protocol.
	HTTP2 string

	// Header is the request's header as it was sent: in order, in the client's own
	// case, over HTTP/2 without pseudo-headers. Nil: unknown.
	Header []Field
}

// Field is one line of a header.
type Field struct{ Name, Value string }

// NewExchange makes an exchange of a client's request.
func NewExchange(r *http.Request) *Exchange {
	return &Exchange{Request: r, decided: make(chan struct{})}
}

// Outcome is what a guest decided: one of the two is set.
type Outcome struct {
	// Response is the guest's own answer. Its body streams while the guest goes on
	// and has to be closed; it ends with an error if the guest broke it off.
	Response *http.Response

	// Handoff leaves the client to the gateway.
	Handoff *Handoff
}

// Handoff asks the gateway to go on with a request, at a backend.
type Handoff struct {
	// WebSocket passes bytes through to a backend that speaks WebSocket. Otherwise
	// the backend is a GRIP origin.
	WebSocket bool

	// Backend is the name of the backend.
	Backend string

	// Described is what the guest said of the backend; nil if it is one of the
	// service's.
	Described *BackendOptions

	// Request is the client's as the guest left it: method, URL and header are the
	// guest's, the body is the client's own. What of the header belongs to the client's
	// connection is the gateway's to put back.
	Request *http.Request
}

// Decide sets the outcome. The first decision counts; a later one is ErrDecided.
func (x *Exchange) Decide(outcome Outcome) error {
	err := ErrDecided
	x.once.Do(func() {
		x.outcome = outcome
		close(x.decided)
		err = nil
	})
	return err
}

// Decided says whether there is an outcome.
func (x *Exchange) Decided() bool {
	select {
	case <-x.decided:
		return true
	default:
		return false
	}
}
