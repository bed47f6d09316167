package grip

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// SignatureLife is how long a Grip-Sig is valid: as long as Pushpin's,
	// because origins may have come to rely on it.
	SignatureLife = time.Hour

	// TokenBytesMax bounds a token before it is looked at. The longest we make,
	// with RSA of 4096 bits, has under 1 kB.
	TokenBytesMax = 8 << 10
)

// Signer makes the tokens that prove to an origin that a request came through
// a gateway. It may be used concurrently.
//
// Tokens made within the same second are the same token: signing with ES256 or
// RS256 costs more than the rest of a request.
type Signer struct {
	// Fixed after NewSigner.
	iss  string
	key  Key
	life time.Duration

	last atomic.Pointer[signed]
	mu   sync.Mutex // held while signing, so that it is done once a second
}

type signed struct {
	second int64 // Unix time
	token  string
}

// NewSigner signs as iss; "" leaves the claim out.
func NewSigner(iss string, key Key) *Signer {
	return &Signer{iss: iss, key: key, life: SignatureLife}
}

// Sign returns a token that expires SignatureLife from now. The errors are
// ErrNoKey and ErrPublicKey, or the library's.
func (s *Signer) Sign(now time.Time) (string, error) {
	second := now.Unix()
	if last := s.last.Load(); last != nil && last.second == second {
		return last.token, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := s.last.Load(); last != nil && last.second == second {
		return last.token, nil
	}
	token, err := s.sign(now)
	if err != nil {
		return "", err
	}
	s.last.Store(&signed{second: second, token: token})
	return token, nil
}

func (s *Signer) sign(now time.Time) (string, error) {
	switch {
	case s.key.IsZero():
		return "", ErrNoKey
	case !s.key.CanSign():
		return "", ErrPublicKey
	}
	claims := jwt.MapClaims{"exp": now.Add(s.life).Unix()} // and no nbf: libraries allow for no clock skew
	if s.iss != "" {
		claims["iss"] = s.iss
	}
	var key any = s.key.signer
	if s.key.secret != nil {
		key = s.key.secret
	}
	return jwt.NewWithClaims(jwt.GetSigningMethod(s.key.alg), claims).SignedString(key)
}

// Verifier tells whether a token was made by somebody who has one of its keys.
// It may be used concurrently.
type Verifier struct {
	iss  string
	keys []Key
}

// NewVerifier accepts tokens of any of keys, and of any issuer if iss is "".
// Several keys are for rotation: the next one is known before it is used. Zero
// keys are left out; a Verifier without keys accepts nothing.
func NewVerifier(iss string, keys ...Key) *Verifier {
	v := &Verifier{iss: iss}
	for _, key := range keys {
		if !key.IsZero() {
			v.keys = append(v.keys, key)
		}
	}
	return v
}

// Verify returns nil if one of the keys made token, with the algorithm that is
// the key's, and it has not expired. A token without an expiry is refused.
// There is no leeway.
func (v *Verifier) Verify(token string, now time.Time) error {
	if len(v.keys) == 0 {
		return ErrNoKey
	}
	if len(token) > TokenBytesMax {
		return fmt.Errorf("%d bytes: %w", len(token), ErrTokenTooLong)
	}
	var errs []error
	for _, key := range v.keys {
		err := verify(token, v.iss, key, now)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", key, err))
	}
	return errors.Join(errs...)
}

func verify(token, iss string, key Key, now time.Time) error {
	options := []jwt.ParserOption{
		jwt.WithValidMethods([]string{key.alg}),
		jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(func() time.Time { return now }),
	}
	if iss != "" {
		options = append(options, jwt.WithIssuer(iss))
	}
	_, err := jwt.NewParser(options...).Parse(token, func(*jwt.Token) (any, error) {
		if key.secret != nil {
			return key.secret, nil
		}
		return key.public, nil
	})
	return err
}

// VerifyRequest verifies a request's Grip-Sig. The error is ErrNoSignature if
// it has none, and Verify's otherwise.
func (v *Verifier) VerifyRequest(r *http.Request) error {
	token := r.Header.Get("Grip-Sig")
	if token == "" {
		return ErrNoSignature
	}
	return v.Verify(token, time.Now())
}
