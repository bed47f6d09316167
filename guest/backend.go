package guest

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Backends are the named origins that a guest may use. They may be used
// concurrently.
type Backends interface {
	// Lookup returns a backend by its name, or nil.
	Lookup(name string) Backend

	// Open makes a backend that a guest described itself; it is closed with the
	// sandbox. Errors name the option that is wrong.
	Open(options BackendOptions) (Backend, error)
}

// Backend is one origin. RoundTrip takes requests whose URL has been made by the
// guest: where they go is the backend's business, and so is the Host they carry.
// It follows no redirects, decodes nothing and adds nothing. Its errors are those
// of net, crypto/tls and net/http, wrapped; ABIs tell guests what they mean.
//
// Its requests' contexts know on whose behalf they are made: see [CauseOf].
type Backend interface {
	http.RoundTripper

	// Options are what the backend was made of.
	Options() BackendOptions

	// Health is what is known of it.
	Health() Health

	// Close ends it: requests under way go on.
	Close() error
}

// Health is what is known of a backend.
type Health uint8

// The states of a backend.
const (
	HealthUnknown Health = iota
	HealthHealthy
	HealthUnhealthy
)

// BackendOptions describe a backend. Zero values are the defaults that are named.
type BackendOptions struct {
	// Name is what the guest calls it.
	Name string

	// Address is host:port.
	Address string

	// PathPrefix precedes the path of every request. Empty: nothing.
	PathPrefix string

	// HostOverride is the Host header of every request. Empty leaves the guest's.
	HostOverride string

	// TLS and what belongs to it. CertificateHost is the name that the certificate
	// must have, empty means the host of Address; SNI the one that is asked for,
	// empty means CertificateHost; NoSNI asks for none. Versions are those of crypto/tls.
	TLS             bool
	CertificateHost string
	SNI             string
	NoSNI           bool
	CA              []byte // PEM; nil: the system's
	ClientCert      []byte // PEM, with ClientKey
	ClientKey       []byte
	TLSMin, TLSMax  uint16
	Ciphers         string // OpenSSL's names, by colons

	// Timeouts; zero means the gateway's own.
	ConnectTimeout, FirstByteTimeout, BetweenBytesTimeout time.Duration

	// Connections. A negative KeepAlive closes them after each request.
	KeepAlive          time.Duration // idle time until one is closed; 0: the gateway's own
	NoPool             bool          // one connection for each request
	ConnectionsMax     int           // 0: the gateway's own
	ConnectionUsesMax  int           // requests over one; 0: any number
	ConnectionAgeMax   time.Duration // 0: any
	TCPKeepAlive       bool
	TCPKeepAliveTime   time.Duration
	TCPKeepAliveEvery  time.Duration
	TCPKeepAliveProbes int
	PreferIPv4         bool
	GRPC               bool // HTTP/2, without TLS as well

	// Health is what it is said to be; HealthUnknown: asked if there is a Check.
	Health Health
	Check  *HealthCheck

	// Dynamic: the guest made it.
	Dynamic bool
}

// HealthCheck asks a backend how it is. Zero values are the defaults of Fastly's
// health checks.
type HealthCheck struct {
	Every, Timeout     time.Duration
	Host, Method, Path string
	Status             int // that is healthy
	Window, Threshold  int // of the last Window answers, Threshold must be healthy
	Initial            int // healthy answers assumed at the start; negative is none
}

// ErrUnhealthy answers a request to a backend whose health check fails: none is sent, as
// at Fastly.
var ErrUnhealthy = errors.New("guest: the backend's health check fails")

type causeKey struct{}

// WithCause marks the context of a request for a backend with the client's request that
// the guest is about.
func WithCause(ctx context.Context, client *http.Request) context.Context {
	return context.WithValue(ctx, causeKey{}, client)
}

// CauseOf is the request that ctx was marked with, or nil. A guest cannot change it,
// whatever it sends.
func CauseOf(ctx context.Context) *http.Request {
	r, _ := ctx.Value(causeKey{}).(*http.Request)
	return r
}
