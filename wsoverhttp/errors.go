package wsoverhttp

import (
	"errors"
	"fmt"
	"net"
	"net/http"
)

// What can be wrong with a body of events; see Decode.
var (
	ErrNoLineEnd    = errors.New("event line does not end in CRLF")
	ErrBadSize      = errors.New("size is not a hexadecimal number")
	ErrTruncated    = errors.New("content is shorter than its size")
	ErrNoContentEnd = errors.New("content is not followed by CRLF")
)

// What else can be wrong with an origin's answer; a *ResponseError wraps one of
// these or of the above.
var (
	// ErrStatus: the answer to a later request is not a 200.
	ErrStatus = errors.New("status is not 200")

	// ErrContentType: the answer's Content-Type is not exactly ContentType.
	ErrContentType = errors.New("content type is not " + ContentType)

	// ErrEncoded: the answer is compressed although no request asks for that.
	ErrEncoded = errors.New("answer has a content encoding")

	// ErrTooLarge: the answer's body exceeds ClientOptions.ResponseBytesMax or,
	// if it is a rejection, RejectBytesMax.
	ErrTooLarge = errors.New("answer is too large")

	// ErrNotOpened: the answer to OPEN neither begins with OPEN nor is empty with
	// a keep-alive interval.
	ErrNotOpened = errors.New("answer to OPEN does not begin with OPEN")

	// ErrControl: a PING, PONG or CLOSE has more content than a control frame.
	ErrControl = errors.New("control event is too large")

	// ErrMeta: a Set-Meta header cannot be sent back, or the connection's meta
	// exceeds metaBytesMax.
	ErrMeta = errors.New("meta cannot be kept")

	// ErrExtension: the answer's Sec-WebSocket-Extensions cannot be read.
	ErrExtension = errors.New("extensions cannot be read")

	// ErrAccepted: the answer's Content-Bytes-Accepted cannot be true.
	ErrAccepted = errors.New("accepted bytes cannot be true")

	// ErrStalled: a request was full, and the origin accepted nothing of it.
	ErrStalled = errors.New("nothing of a full request was accepted")
)

// What Send returns without having asked the origin, or having tried to.
var (
	// ErrNotSent says that nothing of the request reached the origin: the same
	// call may be made again. A RoundTripper tells by an error with the method
	// NotSent() bool; net's own dial errors are known to mean it.
	ErrNotSent = errors.New("request was not sent")

	// ErrPendingFull says that the origin held back so much that no more can be
	// kept for it; see ClientOptions.PendingBytesMax.
	ErrPendingFull = errors.New("too much is pending")

	// ErrOpened says that Open was called on an open WebSocket.
	ErrOpened = errors.New("already open")
)

// Rejection is an origin's refusal of a WebSocket: an answer to the first request
// that is not 200 or not of ContentType. It is for the client, as plain HTTP.
type Rejection struct {
	Status int

	// Header is as the origin sent it, hop-by-hop fields and all.
	Header http.Header

	Body []byte
}

func (r *Rejection) Error() string {
	return fmt.Sprintf("origin refused the WebSocket: %d %s", r.Status, http.StatusText(r.Status))
}

// ResponseError says that the origin answered, and wrongly. It may have acted on
// the events; sending them again may make it act twice.
type ResponseError struct {
	Status int

	// Err is, or wraps, one of this package's errors.
	Err error
}

func (e *ResponseError) Error() string {
	return fmt.Sprintf("origin's answer (%d): %v", e.Status, e.Err)
}

func (e *ResponseError) Unwrap() error { return e.Err }

// tripError makes a RoundTripper's error tell whether anything was sent.
func tripError(err error) error {
	var told interface{ NotSent() bool }
	if errors.As(err, &told) {
		if told.NotSent() {
			return fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		return fmt.Errorf("request to origin: %w", err)
	}
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	return fmt.Errorf("request to origin: %w", err)
}
