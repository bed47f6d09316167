package wsoverhttp

import "errors"

// What can be wrong with a body of events; see Decode.
var (
	ErrNoLineEnd    = errors.New("event line does not end in CRLF")
	ErrBadSize      = errors.New("size is not a hexadecimal number")
	ErrTruncated    = errors.New("content is shorter than its size")
	ErrNoContentEnd = errors.New("content is not followed by CRLF")
)
