package grip

import "errors"

// What a caller may want to tell apart. Errors of this package wrap them, with
// the value that was wrong.
var (
	// ErrNoKey is returned where a key is needed to sign or to verify and none
	// was given.
	ErrNoKey = errors.New("grip: no key")

	// ErrPublicKey is returned by a Signer whose key can only verify.
	ErrPublicKey = errors.New("grip: a public key cannot sign")

	// ErrNoSignature is returned for a request without Grip-Sig: it did not
	// come through a gateway.
	ErrNoSignature = errors.New("grip: no Grip-Sig")

	// ErrTokenTooLong is returned for a token beyond TokenBytesMax.
	ErrTokenTooLong = errors.New("grip: token too long")

	// ErrNotForHeader is returned for a name or a value that the Grip-* headers
	// have no way to write; the JSON form of an instruction has.
	ErrNotForHeader = errors.New("grip: cannot be written in a header")

	// ErrNoChannel is returned for an item that is published to no channel.
	ErrNoChannel = errors.New("grip: item without a channel")

	// ErrNoFormat is returned for an item that has nothing for anybody.
	ErrNoFormat = errors.New("grip: item without a format")

	// ErrClosed is returned by a Publisher after Close.
	ErrClosed = errors.New("grip: publisher closed")
)

// PublishError says why a publish body was refused.
type PublishError struct {
	// Item is the index in "items" of the item that was refused, or -1 if the
	// body as a whole was.
	Item int

	// Text is the line for the publisher, word for word what Pushpin answers,
	// without a line end.
	Text string
}

func (e *PublishError) Error() string { return e.Text }

// InstructError says why an origin's answer is no instruction. Clients are told
// nothing of it; a route with debug shows the text, which is Pushpin's, behind
// "Failed to parse accept instructions: ".
type InstructError struct {
	Text string
}

func (e *InstructError) Error() string { return e.Text }

// ControlError says why a control message was refused. GRIP has no way to
// answer one, so it is for logs.
type ControlError struct {
	Text string
}

func (e *ControlError) Error() string { return e.Text }
