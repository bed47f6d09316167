package access

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// jwksBytesMax is how long a key set may be. Those of large identity
	// providers have some 10 kB.
	jwksBytesMax = 256 << 10

	// jwksKeysMax bounds the keys of a set.
	jwksKeysMax = 100

	// jwksTimeout bounds one reading of a set, and with it how long a request
	// waits for one.
	jwksTimeout = 5 * time.Second

	// jwksEvery is how often a set is fetched; issuers show a new key for longer
	// than that before they use it.
	jwksEvery = 10 * time.Minute

	// jwksFileEvery is how often a file is read, which costs nobody anything.
	jwksFileEvery = time.Minute

	// jwksUnknownEvery is how often a kid that is not in the set has it read
	// again. Whoever sends tokens with invented kids gets no more out of us.
	jwksUnknownEvery = time.Minute

	// jwksRetryMin and jwksRetryMax are the pauses after readings that failed.
	jwksRetryMin = time.Second
	jwksRetryMax = time.Minute

	// jwksStaleMax is how long a set serves that cannot be read again: longer than
	// an outage, and not for ever, because keys are withdrawn as well.
	jwksStaleMax = 24 * time.Hour

	// RSA keys, in bits: RFC 7518 3.3 wants the least, and verifying with more
	// than the most is work for us.
	rsaBitsMin = 2048
	rsaBitsMax = 8192
)

// checkJWKS accepts where a set may be read from.
func checkJWKS(at string) error {
	if !strings.Contains(at, "://") {
		if strings.TrimPrefix(at, "file:") == "" {
			return errors.New("want an https:// URL or a file's name")
		}
		return nil
	}
	u, err := url.Parse(at)
	switch {
	case err != nil || u.Host == "":
		return errors.New("want an https:// URL or a file's name")
	case u.User != nil:
		return errors.New("want a URL without a user: a key set is public")
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	case u.Scheme == "http":
		return errors.New("whoever is on the way could put in keys: want https://, or http:// at a loopback address")
	}
	return fmt.Errorf("want https://, not %s:", u.Scheme)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// keySet is the keys of one place. It is one publisher's or several's, and its
// keys are found nowhere else: kids of two places are never mixed.
type keySet struct {
	// Fixed after newKeySet.
	shown string // the place, for the log
	read  func(context.Context) ([]byte, error)
	every time.Duration
	log   *slog.Logger
	wake  chan struct{} // has room for one; never closed

	// Guarded by mu.
	mu      sync.Mutex
	keys    []publicKey
	loaded  time.Time     // when keys were read; zero before
	reading bool          // a reading is under way, or will be at once
	round   chan struct{} // closed when it has ended, and then replaced
	asked   time.Time     // when a kid had the set read again
}

// publicKey is one key of a set.
type publicKey struct {
	kid  string
	algs []string // it is for these, and no others
	key  crypto.PublicKey
}

func newKeySet(at string, log *slog.Logger) *keySet {
	s := &keySet{log: log, wake: make(chan struct{}, 1), reading: true, round: make(chan struct{})}
	if strings.Contains(at, "://") {
		u, _ := url.Parse(at) // Check has
		s.shown, s.every = u.Host+u.Path, jwksEvery
		s.read = func(ctx context.Context) ([]byte, error) { return fetch(ctx, at) }
		return s
	}
	name := strings.TrimPrefix(at, "file:")
	s.shown, s.every = name, jwksFileEvery
	s.read = func(context.Context) ([]byte, error) { return readFile(name) }
	return s
}

// run reads the set now and then, until ctx ends.
func (s *keySet) run(ctx context.Context) {
	retry, failing := jwksRetryMin, false
	for {
		s.mu.Lock()
		s.reading = true
		select {
		case <-s.wake: // whoever asked gets this reading
		default:
		}
		s.mu.Unlock()

		reading, cancel := context.WithTimeout(ctx, jwksTimeout)
		data, err := s.read(reading)
		cancel()
		var keys []publicKey
		if err == nil {
			keys, err = parseJWKS(data)
		}
		wait := s.every
		switch {
		case ctx.Err() != nil:
		case err != nil:
			if !failing {
				s.log.Warn("the keys of an issuer cannot be read", "from", s.shown, "error", err)
			}
			failing, wait = true, retry
			retry = min(2*retry, jwksRetryMax)
		default:
			if failing {
				s.log.Info("the keys of an issuer can be read again", "from", s.shown)
			}
			failing, retry = false, jwksRetryMin
		}

		s.mu.Lock()
		if err == nil {
			s.keys, s.loaded = keys, time.Now()
		}
		s.reading = false
		close(s.round)
		s.round = make(chan struct{})
		s.mu.Unlock()

		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-s.wake:
			timer.Stop()
		}
	}
}

// verify returns nil if a key of the set has made the token in iss's name.
func (s *keySet) verify(ctx context.Context, c claim, iss string, now time.Time) error {
	keys, err := s.find(ctx, c)
	if err != nil {
		return err
	}
	refusal := ErrUnknown
	for _, key := range keys {
		parser := jwt.NewParser(
			jwt.WithValidMethods(key.algs), jwt.WithIssuer(iss), jwt.WithExpirationRequired(),
			jwt.WithTimeFunc(func() time.Time { return now }),
		)
		_, err := parser.Parse(c.token, func(*jwt.Token) (any, error) { return key.key, nil })
		if err = sortOut(err); err == nil {
			return nil
		}
		if refusal == ErrUnknown {
			refusal = err
		}
	}
	return refusal
}

// find returns the keys that can have made the token. If there is none, the set
// may be old: it is read again, but seldom.
func (s *keySet) find(ctx context.Context, c claim) ([]publicKey, error) {
	if !slices.Contains(algsKnown, c.alg) {
		return nil, ErrUnknown // no reading can help it
	}
	for again := false; ; again = true {
		s.mu.Lock()
		now := time.Now()
		usable := !s.loaded.IsZero() && now.Sub(s.loaded) < jwksStaleMax
		var found []publicKey
		if usable {
			found = fitting(s.keys, c)
		}
		if len(found) > 0 {
			s.mu.Unlock()
			return found, nil
		}
		if !again && !s.reading && now.Sub(s.asked) >= jwksUnknownEvery {
			s.asked, s.reading = now, true
			select {
			case s.wake <- struct{}{}:
			default:
			}
		}
		wait, round := s.reading && !again, s.round
		s.mu.Unlock()
		switch {
		case !wait && !usable:
			return nil, ErrKeysAway
		case !wait:
			return nil, ErrUnknown
		}
		select {
		case <-round:
		case <-time.After(2 * jwksTimeout): // the set's owner is gone
			return nil, ErrKeysAway
		case <-ctx.Done():
			return nil, ErrKeysAway
		}
	}
}

// fitting are the keys for the token's alg and kid. Without a kid it must be
// clear which.
func fitting(keys []publicKey, c claim) []publicKey {
	var found []publicKey
	for _, key := range keys {
		if (c.kid == "" || c.kid == key.kid) && slices.Contains(key.algs, c.alg) {
			found = append(found, key)
		}
	}
	if c.kid == "" && len(found) > 1 {
		return nil
	}
	return found
}

// client fetches key sets. It follows no redirect: the place that was configured
// is the place.
var client = &http.Client{
	Transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: jwksTimeout}).DialContext,
		TLSHandshakeTimeout:    jwksTimeout,
		ResponseHeaderTimeout:  jwksTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		DisableKeepAlives:      true, // one request in ten minutes
	},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func fetch(ctx context.Context, at string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, errors.New("not a URL")
	}
	r.Header.Set("Accept", "application/jwk-set+json, application/json")
	answer, err := client.Do(r)
	if err != nil {
		var with *url.Error
		if errors.As(err, &with) {
			err = with.Err // the URL's query may be secret
		}
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d, want 200", answer.StatusCode)
	}
	return readBounded(answer.Body)
}

// CheckFile reports what is wrong with a file that is to be a Publisher's JWKS;
// nil for a URL, which may be away for a while without being wrong.
func CheckFile(jwks string) error {
	if strings.Contains(jwks, "://") {
		return nil
	}
	data, err := readFile(strings.TrimPrefix(jwks, "file:"))
	if err == nil {
		_, err = parseJWKS(data)
	}
	return err
}

func readFile(name string) ([]byte, error) {
	if info, err := os.Stat(name); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file") // opening a pipe could last
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f)
}

func readBounded(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, jwksBytesMax+1))
	if err == nil && len(data) > jwksBytesMax {
		err = fmt.Errorf("longer than %d bytes", jwksBytesMax)
	}
	return data, err
}

// algsRSA are what an RSA key may be for; a key of another kind is for one.
var algsRSA = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}

var algsKnown = append(slices.Clone(algsRSA), "ES256", "ES384", "ES512", "EdDSA")

// curves are those of RFC 7518 6.2.1.1.
var curves = map[string]struct {
	curve elliptic.Curve
	bytes int // of a coordinate
	alg   string
}{
	"P-256": {elliptic.P256(), 32, "ES256"},
	"P-384": {elliptic.P384(), 48, "ES384"},
	"P-521": {elliptic.P521(), 66, "ES512"},
}

// parseJWKS reads a set (RFC 7517 5). Keys that are not for verifying signatures,
// of a kind we do not know, or wrong in themselves are left out, as the RFC wants
// it; secrets (oct) are as well, for who can read the set could sign with them. A
// set of which nothing is left is an error.
func parseJWKS(data []byte) ([]publicKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil || set.Keys == nil {
		return nil, errors.New("not a key set: want a JSON object with the list keys")
	}
	if len(set.Keys) > jwksKeysMax {
		return nil, fmt.Errorf("%d keys, want at most %d", len(set.Keys), jwksKeysMax)
	}
	var keys []publicKey
	why := errors.New("there are none")
	for _, member := range set.Keys {
		key, err := parseJWK(member)
		if err != nil {
			why = err
			continue
		}
		keys = append(keys, key)
	}
	if keys == nil {
		return nil, fmt.Errorf("no key in the set can verify: %w", why)
	}
	return keys, nil
}

func parseJWK(data []byte) (publicKey, error) {
	var jwk struct {
		Kty, Crv, X, Y, N, E string
		Kid, Use, Alg        string
		KeyOps               []string `json:"key_ops"`
	}
	if err := json.Unmarshal(data, &jwk); err != nil {
		return publicKey{}, errors.New("a member has a wrong type")
	}
	if jwk.Use != "" && jwk.Use != "sig" || jwk.KeyOps != nil && !slices.Contains(jwk.KeyOps, "verify") {
		return publicKey{}, errors.New("it is not for signatures")
	}
	var err error
	number := func(text string) []byte {
		value, e := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
		if e != nil || len(value) == 0 {
			err = errors.New("a number is missing or not base64url")
		}
		return value
	}
	key := publicKey{kid: jwk.Kid}
	switch jwk.Kty {
	case "RSA":
		n, e := new(big.Int).SetBytes(number(jwk.N)), new(big.Int).SetBytes(number(jwk.E))
		switch bits := n.BitLen(); {
		case err != nil:
		case bits < rsaBitsMin || bits > rsaBitsMax:
			err = fmt.Errorf("RSA with %d bits, want %d to %d", bits, rsaBitsMin, rsaBitsMax)
		case !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 || e.Bit(0) == 0:
			err = errors.New("RSA exponent out of range")
		default:
			key.key, key.algs = &rsa.PublicKey{N: n, E: int(e.Int64())}, algsRSA
		}
	case "EC":
		c, known := curves[jwk.Crv]
		if !known {
			return publicKey{}, fmt.Errorf("unknown curve %.20q", jwk.Crv)
		}
		x, y := number(jwk.X), number(jwk.Y)
		if err == nil && (len(x) != c.bytes || len(y) != c.bytes) {
			err = fmt.Errorf("coordinates of %d and %d bytes, want %d", len(x), len(y), c.bytes)
		}
		if err == nil {
			var point *ecdsa.PublicKey
			point, err = ecdsa.ParseUncompressedPublicKey(c.curve, slices.Concat([]byte{4}, x, y))
			key.key, key.algs = point, []string{c.alg}
		}
	case "OKP":
		x := number(jwk.X)
		switch {
		case err != nil:
		case jwk.Crv != "Ed25519" || len(x) != ed25519.PublicKeySize:
			err = fmt.Errorf("curve %.20q with %d bytes, want Ed25519 with %d", jwk.Crv, len(x), ed25519.PublicKeySize)
		default:
			key.key, key.algs = ed25519.PublicKey(x), []string{"EdDSA"}
		}
	default:
		err = fmt.Errorf("unknown kind %.20q", jwk.Kty)
	}
	if err != nil {
		return publicKey{}, err
	}
	if jwk.Alg != "" {
		if !slices.Contains(key.algs, jwk.Alg) {
			return publicKey{}, fmt.Errorf("alg %.20q is not for a key of its kind", jwk.Alg)
		}
		key.algs = []string{jwk.Alg}
	}
	return key, nil
}
