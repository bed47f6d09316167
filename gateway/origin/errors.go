package origin

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
)

var (
	// ErrConnect says that no connection to any target could be made: no byte of
	// the request was sent.
	ErrConnect = errors.New("unable to connect to any targets")

	// ErrBlocked says that an untrusted target's address is private. Further
	// targets are not tried. No byte of the request was sent.
	ErrBlocked = errors.New("origin host or IP blocked")

	// ErrAnswer says that what came back is no HTTP, or not an answer to what was
	// asked.
	ErrAnswer = errors.New("origin's answer cannot be used")

	// ErrBody says that the request's body could not be read, or is not as long as
	// announced: the client is at fault, not the origin.
	ErrBody = errors.New("request body")
)

// ConnectError is ErrConnect with its particulars.
type ConnectError struct {
	Tried  []string // the targets' addresses, in order
	Causes []error  // what was wrong with each
}

// Error is the sentence that clients of a debug route read.
func (e *ConnectError) Error() string {
	return "Unable to connect to any targets. Tried: " + strings.Join(e.Tried, ", ")
}

// Is makes every ConnectError an ErrConnect.
func (e *ConnectError) Is(target error) bool { return target == ErrConnect }

// Unwrap returns what was wrong with each target.
func (e *ConnectError) Unwrap() []error { return e.Causes }

// NotSent says that the request may be sent again: nothing of it was.
func (e *ConnectError) NotSent() bool { return true }

// BlockedError is ErrBlocked with its particulars.
type BlockedError struct{ Addr string }

// Error is the sentence that clients of a debug route read: it keeps the address
// to itself.
func (e *BlockedError) Error() string { return "Error: Origin host/IP blocked." }

// Is makes every BlockedError an ErrBlocked.
func (e *BlockedError) Is(target error) bool { return target == ErrBlocked }

// NotSent says that the request may be sent again: nothing of it was.
func (e *BlockedError) NotSent() bool { return true }

// dialFailure is why a connection could not be made; the values are those of the
// metric.
type dialFailure string

const (
	dialRefused dialFailure = "refused"
	dialTimeout dialFailure = "timeout"
	dialLookup  dialFailure = "lookup"
	dialTLS     dialFailure = "tls"
	dialBlocked dialFailure = "blocked"
	dialOther   dialFailure = "other"
)

// dialError says that a connection could not be made.
type dialError struct {
	why dialFailure
	err error
}

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// failedDial wraps what a dialer or a TLS handshake returned.
func failedDial(err error, handshake bool) *dialError {
	why := dialOther
	var lookup *net.DNSError
	var timeout net.Error
	switch {
	case errors.Is(err, ErrBlocked):
		why = dialBlocked
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		why = dialTimeout
	case handshake:
		why = dialTLS
	case errors.As(err, &lookup):
		why = dialLookup
	case errors.Is(err, syscall.ECONNREFUSED):
		why = dialRefused
	}
	return &dialError{why, err}
}
