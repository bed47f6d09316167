package grip

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
)

// rsaBitsMin is what RFC 7518 3.3 demands of a key for RS256.
const rsaBitsMin = 2048

// keyFileBytesMax is larger than any key, and keeps a wrong path from being
// read into memory whole.
const keyFileBytesMax = 64 << 10

// Key signs or verifies. The zero Key is no key: the feature it is for is off.
// A Key may be used concurrently, and never prints its secret.
type Key struct {
	alg    string           // "" = no key
	secret []byte           // HS256
	signer crypto.Signer    // ES256, RS256; nil if only the public half is known
	public crypto.PublicKey // ES256, RS256
}

// ParseKey reads a key as configurations and GRIP_URL name it:
//
//	                                  no key
//	changeme                          a secret, as it stands there
//	base64:aGVsbG8                    a secret in base64 (or base64url), or PEM or JWK in base64
//	file:key.pem                      PEM, JWK, or a secret in hex; relative to dir
//	-----BEGIN PUBLIC KEY-----…       PEM: PKCS #8, PKCS #1, SEC 1, SPKI or a certificate
//	{"kty":"EC","crv":"P-256",…}      JWK: oct, EC or RSA
//
// A secret makes HS256, a key on P-256 ES256, an RSA key RS256; nothing else is
// taken. Errors never hold what was to be a key.
func ParseKey(s, dir string) (Key, error) {
	if path, ok := strings.CutPrefix(s, "file:"); ok {
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		return readKey(path)
	}
	if encoded, ok := strings.CutPrefix(s, "base64:"); ok {
		data, err := decodeKeyBase64(encoded)
		if err != nil || len(data) == 0 {
			return Key{}, errors.New("grip: key: not base64 behind base64:")
		}
		return parseKeyData(data)
	}
	if s == "" {
		return Key{}, nil
	}
	return parseKeyData([]byte(s))
}

// decodeKeyBase64 takes both alphabets, with or without padding. A space was a
// plus before somebody decoded a form. Anything else is a typo in a key, and an
// error.
func decodeKeyBase64(s string) ([]byte, error) {
	s = strings.NewReplacer(" ", "+", "-", "+", "_", "/").Replace(strings.Trim(s, "\r\n\t"))
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
}

func readKey(path string) (Key, error) {
	if info, err := os.Stat(path); err != nil {
		return Key{}, fmt.Errorf("grip: key: %w", err)
	} else if info.Size() > keyFileBytesMax {
		return Key{}, fmt.Errorf("grip: key file %q has more than %d bytes", path, keyFileBytesMax)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return Key{}, fmt.Errorf("grip: key: %w", err)
	}
	data = bytes.TrimSpace(data)
	key, err := Key{}, error(nil)
	switch {
	case isPEM(data) || isJWK(data):
		key, err = parseKeyData(data)
	default:
		secret, hexErr := hex.DecodeString(string(data))
		if hexErr != nil || len(secret) == 0 {
			return Key{}, fmt.Errorf("grip: key file %q is neither PEM, JWK nor a secret in hex", path)
		}
		key = secretKey(secret)
	}
	if err != nil {
		return Key{}, fmt.Errorf("%w (file %q)", err, path)
	}
	return key, nil
}

func isPEM(data []byte) bool { return bytes.HasPrefix(data, []byte("-----BEGIN ")) }

// isJWK tells an object with "kty" from a secret that happens to begin with a
// brace.
func isJWK(data []byte) bool {
	var jwk struct {
		Kty string `json:"kty"`
	}
	return bytes.HasPrefix(data, []byte("{")) && json.Unmarshal(data, &jwk) == nil && jwk.Kty != ""
}

func parseKeyData(data []byte) (Key, error) {
	switch {
	case isPEM(data):
		return parsePEM(data)
	case isJWK(data):
		return parseJWK(data)
	}
	return secretKey(data), nil
}

func secretKey(secret []byte) Key {
	return Key{alg: "HS256", secret: bytes.Clone(secret)}
}

func parsePEM(data []byte) (Key, error) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return Key{}, errors.New("grip: key: PEM holds no key")
		}
		var parsed any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			parsed, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "PUBLIC KEY":
			parsed, err = x509.ParsePKIXPublicKey(block.Bytes)
		case "RSA PUBLIC KEY":
			parsed, err = x509.ParsePKCS1PublicKey(block.Bytes)
		case "CERTIFICATE":
			var certificate *x509.Certificate
			if certificate, err = x509.ParseCertificate(block.Bytes); err == nil {
				parsed = certificate.PublicKey
			}
		default: // such as EC PARAMETERS, which openssl writes before the key
			continue
		}
		if err != nil {
			return Key{}, fmt.Errorf("grip: key: PEM %s cannot be read", block.Type)
		}
		return asymmetricKey(parsed)
	}
}

// asymmetricKey takes what may be used and refuses the rest by name.
func asymmetricKey(parsed any) (Key, error) {
	switch k := parsed.(type) {
	case *ecdsa.PrivateKey:
		key, err := asymmetricKey(&k.PublicKey)
		if err == nil {
			key.signer = k
		}
		return key, err
	case *rsa.PrivateKey:
		key, err := asymmetricKey(&k.PublicKey)
		if err == nil {
			key.signer = k
		}
		return key, err
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return Key{}, fmt.Errorf("grip: key: curve %s, want P-256", k.Curve.Params().Name)
		}
		return Key{alg: "ES256", public: k}, nil
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < rsaBitsMin {
			return Key{}, fmt.Errorf("grip: key: RSA with %d bits, want at least %d", bits, rsaBitsMin)
		}
		return Key{alg: "RS256", public: k}, nil
	}
	return Key{}, fmt.Errorf("grip: key: %T, want EC or RSA", parsed)
}

// parseJWK reads the members of RFC 7518 6 that matter here.
func parseJWK(data []byte) (Key, error) {
	var jwk struct {
		Kty, Crv           string
		K, X, Y, N, E, D   string
		P, Q, Dp, Dq, Qi   string
		Oth                json.RawMessage
		Alg, Use, Kid, Ext json.RawMessage // of no account
	}
	if err := json.Unmarshal(data, &jwk); err != nil {
		return Key{}, errors.New("grip: key: JWK with a member of a wrong type")
	}
	members := jwkMembers{}
	switch jwk.Kty {
	case "oct":
		secret := members.bytes("k", jwk.K)
		if members.err != nil {
			return Key{}, members.err
		}
		return secretKey(secret), nil
	case "EC":
		if jwk.Crv != "P-256" {
			return Key{}, fmt.Errorf("grip: key: JWK curve %.20q, want P-256", jwk.Crv)
		}
		point := append([]byte{4}, members.coordinate("x", jwk.X)...)
		point = append(point, members.coordinate("y", jwk.Y)...)
		if members.err != nil {
			return Key{}, members.err
		}
		public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
		if err != nil {
			return Key{}, errors.New("grip: key: JWK point is not on P-256")
		}
		if jwk.D == "" {
			return asymmetricKey(public)
		}
		private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), members.coordinate("d", jwk.D))
		if members.err != nil || err != nil || !private.PublicKey.Equal(public) {
			return Key{}, errors.New("grip: key: JWK 'd' does not belong to its point")
		}
		return asymmetricKey(private)
	case "RSA":
		e := members.number("e", jwk.E)
		public := rsa.PublicKey{N: members.number("n", jwk.N), E: int(e.Int64())}
		if members.err != nil {
			return Key{}, members.err
		}
		if !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 || e.Bit(0) == 0 {
			return Key{}, errors.New("grip: key: JWK exponent out of range")
		}
		if jwk.D == "" {
			return asymmetricKey(&public)
		}
		private := &rsa.PrivateKey{PublicKey: public, D: members.number("d", jwk.D)}
		private.Primes = []*big.Int{members.number("p", jwk.P), members.number("q", jwk.Q)}
		if members.err != nil {
			return Key{}, members.err
		}
		if jwk.Oth != nil || private.Validate() != nil {
			return Key{}, errors.New("grip: key: JWK is no valid RSA key of two primes")
		}
		private.Precompute()
		return asymmetricKey(private)
	}
	return Key{}, fmt.Errorf("grip: key: JWK type %.20q, want oct, EC or RSA", jwk.Kty)
}

// jwkMembers decodes members and remembers the first that could not be.
type jwkMembers struct{ err error }

func (m *jwkMembers) bytes(name, value string) []byte {
	data, err := decodeKeyBase64(value)
	if (err != nil || len(data) == 0) && m.err == nil {
		m.err = fmt.Errorf("grip: key: JWK '%s' is missing or not base64url", name)
	}
	return data
}

func (m *jwkMembers) number(name, value string) *big.Int {
	return new(big.Int).SetBytes(m.bytes(name, value))
}

// coordinate must have the full length of P-256 (RFC 7518 6.2.1.2).
func (m *jwkMembers) coordinate(name, value string) []byte {
	data := m.bytes(name, value)
	if len(data) != 32 && m.err == nil {
		m.err = fmt.Errorf("grip: key: JWK '%s' has %d bytes, want 32", name, len(data))
	}
	return data
}

// Alg returns the algorithm of tokens made with the key: HS256, ES256, RS256,
// or "" for no key.
func (k Key) Alg() string { return k.alg }

// IsZero reports whether there is no key.
func (k Key) IsZero() bool { return k.alg == "" }

// CanSign reports whether the key has the half that signs.
func (k Key) CanSign() bool { return k.secret != nil || k.signer != nil }

// String returns the kind of key, without anything of it.
func (k Key) String() string {
	switch {
	case k.IsZero():
		return "no key"
	case k.secret != nil:
		return k.alg + " secret"
	case k.signer != nil:
		return k.alg + " private key"
	}
	return k.alg + " public key"
}

// GoString keeps %#v from printing the secret.
func (k Key) GoString() string { return "grip.Key(" + k.String() + ")" }
