package compute

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"syscall"

	"github.com/gripway/gripway/guest"
)

// detail is why a request got no answer, as SDKs make typed errors of it.
//
//	offset  0  tag         u32
//	        4  mask        u32  which of the following the guest knows, then which are set
//	        8  DNS rcode   u16
//	       10  DNS info    u16
//	       12  TLS alert   u8
//	       13  h2 frame    u8
//	       16  h2 error    u32
type detail struct {
	tag   uint32
	mask  uint32
	rcode uint16
	alert uint8
	frame uint8
	code  uint32
}

const detailBytes = 20

// Tags of a detail.
const (
	detailUninitialized = iota
	detailOK
	detailDNSTimeout
	detailDNSError
	detailNotFound
	detailUnavailable
	detailUnroutable
	detailConnectionRefused
	detailTerminated
	detailConnectionTimeout
	detailLimit
	detailCertificate
	detailTLSConfiguration
	detailIncomplete
	detailHeadTooLarge
	detailBodyTooLarge
	detailResponseTimeout
	detailStatusInvalid
	detailUpgradeFailed
	detailProtocol
	detailCacheKey
	detailURI
	detailInternal
	detailTLSAlert
	detailTLSProtocol
	detailHTTP2
)

// Bits of its mask.
const (
	detailHasRcode = 1 << 1
	detailHasInfo  = 1 << 2
	detailHasAlert = 1 << 3
	detailHasHTTP2 = 1 << 4
)

// Response codes of DNS.
const (
	rcodeServerFailure = 2
	rcodeNoSuchName    = 3
)

// Types of HTTP/2 frames that end streams and connections.
const (
	frameReset  = 3
	frameGoAway = 7
)

// http2StreamError is what net/http makes of its own error of this shape when it is
// asked for it with errors.As.
type http2StreamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (http2StreamError) Error() string { return "the backend reset the stream" }

// http2Codes are the names of errors in HTTP/2, by their code (RFC 9113, section 7).
var http2Codes = []string{
	"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR",
	"REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
}

// detailOf finds out what an error of a backend means. What has a type is told by
// it; much of net/http has only its text.
func detailOf(err error) detail {
	var lookup *net.DNSError
	var op *net.OpError
	var stream http2StreamError
	var unverified *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	var timeout net.Error
	text := err.Error()
	switch {
	case errors.Is(err, errUnknownBackend):
		return detail{tag: detailNotFound}
	case errors.Is(err, guest.ErrUnhealthy):
		return detail{tag: detailUnavailable}
	case errors.Is(err, errURI):
		return detail{tag: detailURI}
	case errors.As(err, &lookup) && lookup.IsTimeout:
		return detail{tag: detailDNSTimeout}
	case errors.As(err, &lookup):
		d := detail{tag: detailDNSError, mask: detailHasRcode, rcode: rcodeServerFailure}
		if lookup.IsNotFound {
			d.rcode = rcodeNoSuchName
		}
		return d
	case errors.As(err, &unverified), errors.As(err, &unknown), errors.As(err, &name), errors.As(err, &invalid),
		strings.Contains(text, "x509: "):
		return detail{tag: detailCertificate}
	case errors.As(err, &op) && op.Op == "remote error": // a TLS alert came
		d := detail{tag: detailTLSAlert}
		if alert := reflect.ValueOf(op.Err); alert.Kind() == reflect.Uint8 { // crypto/tls keeps the type to itself
			d.mask, d.alert = detailHasAlert, uint8(alert.Uint())
		}
		return d
	case errors.As(err, &op) && op.Op == "local error", errors.As(err, &record), strings.Contains(text, "tls: "):
		return detail{tag: detailTLSProtocol}
	case errors.As(err, &op) && op.Op == "dial" && op.Timeout(), strings.Contains(text, "TLS handshake timeout"):
		return detail{tag: detailConnectionTimeout}
	case errors.Is(err, syscall.ECONNREFUSED):
		return detail{tag: detailConnectionRefused}
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return detail{tag: detailUnroutable}
	case errors.As(err, &op) && op.Op == "dial":
		return detail{tag: detailUnavailable}
	case errors.As(err, &stream):
		return detail{tag: detailHTTP2, mask: detailHasHTTP2, frame: frameReset, code: stream.Code}
	case strings.Contains(text, "server sent GOAWAY"):
		return detail{tag: detailHTTP2, mask: detailHasHTTP2, frame: frameGoAway, code: http2Code(text)}
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return detail{tag: detailResponseTimeout}
	case strings.Contains(text, "malformed HTTP status code"), strings.Contains(text, "malformed HTTP response"):
		return detail{tag: detailStatusInvalid}
	case strings.Contains(text, "response headers exceeded"), strings.Contains(text, "header list larger than"):
		return detail{tag: detailHeadTooLarge}
	case strings.Contains(text, "malformed "), strings.Contains(text, "http2: "), strings.Contains(text, "invalid "):
		return detail{tag: detailProtocol}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return detail{tag: detailIncomplete}
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), strings.Contains(text, "server closed"),
		strings.Contains(text, "connection broken"), errors.Is(err, net.ErrClosed):
		return detail{tag: detailTerminated}
	}
	return detail{tag: detailInternal}
}

// http2Code is the code whose name a text has after ErrCode=.
func http2Code(text string) uint32 {
	_, name, _ := strings.Cut(text, "ErrCode=")
	for code, known := range http2Codes {
		if n, _, _ := strings.Cut(name, ","); n == known {
			return uint32(code)
		}
	}
	return 0
}

// status is what calls without details return for the same.
func (d detail) status(err error) status {
	switch d.tag {
	case detailNotFound:
		return statusInvalid
	case detailURI:
		return statusHTTPUser
	case detailStatusInvalid, detailProtocol:
		return statusHTTPInvalid
	case detailHeadTooLarge:
		return statusHeadTooLarge
	case detailIncomplete:
		return statusIncomplete
	case detailTerminated:
		if errors.Is(err, io.EOF) || strings.Contains(err.Error(), "server closed") {
			return statusIncomplete
		}
	}
	return statusError
}

// sendFailed tells a guest that its request got no answer: what it is told at
// parameter i, if that is not noDetail, and the status.
func (c *call) sendFailed(err error, i int) status {
	d := detailOf(err)
	if i != noDetail {
		if st := c.putDetail(i, d); st != statusOK {
			return st
		}
	}
	c.Log.Debug("request of the guest failed", "error", err)
	return d.status(err)
}

// putDetail writes what of a detail the guest knows of.
func (c *call) putDetail(i int, d detail) status {
	into, st := c.record(i, detailBytes, 4)
	if st != statusOK {
		return st
	}
	set := d.mask & little32(into, 4)
	binary.LittleEndian.PutUint32(into, d.tag)
	binary.LittleEndian.PutUint32(into[4:], set)
	if set&detailHasRcode != 0 {
		binary.LittleEndian.PutUint16(into[8:], d.rcode)
	}
	if set&detailHasAlert != 0 {
		into[12] = d.alert
	}
	if set&detailHasHTTP2 != 0 {
		into[13] = d.frame
		binary.LittleEndian.PutUint32(into[16:], d.code)
	}
	return statusOK
}
