package access

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"

	"github.com/gripway/gripway/grip"
)

// CredentialBytesMax is how long what is behind Bearer, Basic or Fastly-Key may
// be. Longer is refused before it is looked at.
const CredentialBytesMax = grip.TokenBytesMax

// Why a request is not admitted, or not for so much.
var (
	// ErrMissing: the request shows nothing. An empty header shows nothing.
	ErrMissing = errors.New("access: no credentials")

	// ErrMalformed: what it shows is neither Bearer nor Basic, or not readable
	// as such, or there are several of them.
	ErrMalformed = errors.New("access: malformed credentials")

	// ErrTooLong: it is longer than CredentialBytesMax.
	ErrTooLong = errors.New("access: credentials too long")

	// ErrUnknown: it is nobody's.
	ErrUnknown = errors.New("access: unknown credentials")

	// ErrExpired: a token that was right once, or will be (nbf).
	ErrExpired = errors.New("access: token is not valid at this time")

	// ErrNoExpiry: a token that would be right for ever.
	ErrNoExpiry = errors.New("access: token has no expiry")

	// ErrKeysAway: a token of an issuer whose keys cannot be read at present.
	ErrKeysAway = errors.New("access: the keys of the issuer cannot be read")

	// ErrTooMany: more items at once than the burst; waiting does not help.
	ErrTooMany = errors.New("access: more items than the burst")

	// ErrTooFast: more items than the rate; waiting helps.
	ErrTooFast = errors.New("access: more items than the rate")
)

// Publisher is one who may use the private API, in the words of settings.
type Publisher struct {
	// Name is what refusals and logs call him. Required, and his alone.
	Name string

	// What he shows: Tokens, Key, JWKS, or User. The first two go together.

	Tokens []string // any of them, as it is
	Key    grip.Key // verifies his JWTs, with the key's own algorithm
	JWKS   string   // where the keys are that verify his JWTs: see New
	Iss    string   // issuer of his JWTs; for a Key "" is any, for JWKS it is required

	User, Password string

	// Channels are the patterns (see ParsePattern) of the channels he may publish
	// to and listen to. Nil is all; empty is none.
	Channels []string

	// Rate is how many items he may publish a second on this node. Zero is any.
	Rate float64

	// Burst is how many of them at once. Zero means Rate, rounded up.
	Burst int
}

// Options are for New.
type Options struct {
	Publishers []Publisher
	Log        *slog.Logger // nil discards
}

// List is all who may use the private API. It may be used concurrently.
type List struct {
	// Fixed after New.
	keys  []*Key
	basic bool // somebody has a password
	sets  []*keySet

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Key is one publisher of a List. It may be used concurrently. A nil Key may do
// everything: it stands for nobody having been asked.
type Key struct {
	name     string
	tokens   [][sha256.Size]byte
	user     [sha256.Size]byte
	password [sha256.Size]byte
	isUser   bool

	alg      string // of verifier
	iss      string
	verifier *grip.Verifier
	set      *keySet // nil without

	all      bool
	patterns []Pattern
	limiter  *rate.Limiter // nil without
}

// Check reports all that is wrong with the publisher, without reading or
// fetching anything. The errors say which setting, and never what secret.
func (p *Publisher) Check() error {
	var wrong []error
	refuse := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if p.Name == "" {
		refuse("no name: want name = \"…\"")
	}
	ways := 0
	for _, way := range []bool{p.Tokens != nil || !p.Key.IsZero(), p.JWKS != "", p.User != "" || p.Password != ""} {
		if way {
			ways++
		}
	}
	switch {
	case ways == 0:
		refuse("nothing to know him by: want token, jwt-key, jwks, or user and password")
	case ways > 1:
		refuse("several ways to know him by: want one of token, jwt-key, jwks, or user and password")
	}
	for _, token := range p.Tokens {
		switch {
		case token == "":
			refuse("token: want one that is not empty")
		case len(token) > CredentialBytesMax:
			refuse("token: %d bytes, want at most %d", len(token), CredentialBytesMax)
		case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
			refuse("token: no header carries it: want visible ASCII characters, without blanks")
		}
	}
	switch {
	case (p.User == "") != (p.Password == ""):
		refuse("user and password belong together: want both or neither")
	case strings.Contains(p.User, ":"):
		refuse("user: want a name without a colon, which ends it in the header")
	case len(p.User)+len(p.Password) > CredentialBytesMax/2:
		refuse("user and password: %d bytes, want at most %d", len(p.User)+len(p.Password), CredentialBytesMax/2)
	}
	if p.JWKS != "" {
		if err := checkJWKS(p.JWKS); err != nil {
			refuse("jwks: %w", err)
		}
		if p.Iss == "" {
			refuse("jwks: it needs iss, the issuer of the tokens: one set may serve several")
		}
	}
	if p.Iss != "" && p.JWKS == "" && p.Key.IsZero() {
		refuse("iss: it is for tokens that are signed: want jwt-key or jwks with it")
	}
	for _, channel := range p.Channels {
		if _, err := ParsePattern(channel); err != nil {
			refuse("channels: %q: %w", channel, err)
		}
	}
	if p.Rate < 0 || math.IsNaN(p.Rate) || math.IsInf(p.Rate, 0) || p.Rate > math.MaxInt32 {
		refuse("rate: want items a second, like 100 or 0.5")
	}
	if p.Burst < 0 || p.Burst > math.MaxInt32 {
		refuse("burst: want a number of items")
	}
	if p.Burst > 0 && p.Rate == 0 {
		refuse("burst: it goes with rate, which is not set")
	}
	return errors.Join(wrong...)
}

// CheckAll is Check of each, and whether they can be told apart.
func CheckAll(publishers []Publisher) error {
	names := make(map[string]bool)
	shown := make(map[string]string) // what one shows, by kind
	for i := range publishers {
		p := &publishers[i]
		if err := p.Check(); err != nil {
			return fmt.Errorf("publisher %q: %w", p.Name, err)
		}
		if names[p.Name] {
			return fmt.Errorf("publisher %q: there is another of this name", p.Name)
		}
		names[p.Name] = true
		var shows []string
		for _, token := range p.Tokens {
			shows = append(shows, "token "+token)
		}
		if p.User != "" {
			shows = append(shows, "user "+p.User)
		}
		for _, what := range shows {
			if other, ok := shown[what]; ok {
				return fmt.Errorf("publisher %q: publisher %q has the same token or user", p.Name, other)
			}
			shown[what] = p.Name
		}
	}
	return nil
}

// New returns the list; Close ends it. Sets of keys are read in the background,
// from https:// URLs, from http:// at a loopback address, or from files; they are
// read again every ten minutes (files every minute), and once a minute at most
// if a token names a key that is not in its set. If reading fails, what was read
// serves on for a day.
func New(options Options) (*List, error) {
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	if err := CheckAll(options.Publishers); err != nil {
		return nil, err
	}
	l := &List{}
	sets := make(map[string]*keySet)
	for i := range options.Publishers {
		p := &options.Publishers[i]
		k := &Key{name: p.Name, all: p.Channels == nil, iss: p.Iss}
		for _, token := range p.Tokens {
			k.tokens = append(k.tokens, sha256.Sum256([]byte(token)))
		}
		if p.User != "" {
			k.isUser, l.basic = true, true
			k.user, k.password = sha256.Sum256([]byte(p.User)), sha256.Sum256([]byte(p.Password))
		}
		if !p.Key.IsZero() {
			k.alg, k.verifier = p.Key.Alg(), grip.NewVerifier(p.Iss, p.Key)
		}
		if p.JWKS != "" {
			if sets[p.JWKS] == nil {
				sets[p.JWKS] = newKeySet(p.JWKS, options.Log)
				l.sets = append(l.sets, sets[p.JWKS])
			}
			k.set = sets[p.JWKS]
		}
		for _, channel := range p.Channels {
			pattern, _ := ParsePattern(channel) // Check has read it
			k.patterns = append(k.patterns, pattern)
		}
		if p.Rate > 0 {
			burst := p.Burst
			if burst == 0 {
				burst = max(1, int(math.Ceil(p.Rate)))
			}
			k.limiter = rate.NewLimiter(rate.Limit(p.Rate), burst)
		}
		l.keys = append(l.keys, k)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	for _, set := range l.sets {
		l.wg.Go(func() { set.run(ctx) })
	}
	return l, nil
}

// Close ends the reading of key sets. What was read keeps serving.
func (l *List) Close() {
	l.cancel()
	l.wg.Wait()
}

// Challenge is the WWW-Authenticate of an answer to err, which came from Admit.
func (l *List) Challenge(err error) []string {
	bearer := `Bearer realm="gripway"`
	if !errors.Is(err, ErrMissing) { // RFC 6750 3.1
		bearer += `, error="invalid_token"`
	}
	if l.basic {
		return []string{bearer, `Basic realm="gripway", charset="UTF-8"`}
	}
	return []string{bearer}
}

// Shows reports whether the request shows anything at all.
func Shows(r *http.Request) bool {
	_, err := shown(r)
	return !errors.Is(err, ErrMissing)
}

// Admit returns whose the request is. The error is one of ErrMissing,
// ErrMalformed, ErrTooLong, ErrUnknown, ErrExpired, ErrNoExpiry and ErrKeysAway.
// It may wait some seconds for an issuer's keys, or until the request's context
// ends.
func (l *List) Admit(r *http.Request) (*Key, error) {
	said, err := shown(r)
	switch {
	case err != nil:
		return nil, err
	case said.basic:
		return l.byPassword(said.user, said.password)
	}
	if key := l.byToken(said.token); key != nil {
		return key, nil
	}
	if !said.bearer || strings.Count(said.token, ".") != 2 {
		return nil, ErrUnknown
	}
	return l.byJWT(r.Context(), said.token, time.Now())
}

// credentials are what a request shows.
type credentials struct {
	token          string
	bearer         bool // the token is behind Authorization, not Fastly-Key
	basic          bool
	user, password string
}

// shown reads the headers. Authorization comes first; an empty one is none,
// for go-pubcontrol always sends it.
func shown(r *http.Request) (said credentials, err error) {
	one := func(name string) (string, error) {
		value := ""
		for _, v := range r.Header[name] {
			v = strings.TrimSpace(v)
			switch {
			case v == "":
			case value != "":
				return "", ErrMalformed
			case len(v) > CredentialBytesMax+len("Bearer "):
				return "", ErrTooLong
			default:
				value = v
			}
		}
		return value, nil
	}
	authorization, err := one("Authorization")
	if err != nil {
		return said, err
	}
	if authorization == "" {
		said.token, err = one("Fastly-Key")
		switch {
		case err != nil:
		case said.token == "":
			err = ErrMissing
		case len(said.token) > CredentialBytesMax:
			err = ErrTooLong
		}
		return said, err
	}
	scheme, rest, _ := strings.Cut(authorization, " ")
	rest = strings.TrimLeft(rest, " ")
	switch {
	case rest == "":
		return said, ErrMalformed
	case len(rest) > CredentialBytesMax:
		return said, ErrTooLong
	case strings.EqualFold(scheme, "Bearer"):
		said.token, said.bearer = rest, true
		return said, nil
	case strings.EqualFold(scheme, "Basic"):
		text, err := base64.StdEncoding.DecodeString(rest)
		if err != nil {
			return said, ErrMalformed
		}
		user, password, ok := strings.Cut(string(text), ":")
		if !ok {
			return said, ErrMalformed
		}
		said.basic, said.user, said.password = true, user, password
		return said, nil
	}
	return said, ErrMalformed
}

func (l *List) byToken(token string) *Key {
	sum := sha256.Sum256([]byte(token))
	var found *Key
	for _, key := range l.keys {
		for i := range key.tokens {
			if subtle.ConstantTimeCompare(sum[:], key.tokens[i][:]) == 1 {
				found = key // and go on: as long as for any other
			}
		}
	}
	return found
}

func (l *List) byPassword(user, password string) (*Key, error) {
	userSum, passwordSum := sha256.Sum256([]byte(user)), sha256.Sum256([]byte(password))
	var found *Key
	for _, key := range l.keys {
		same := subtle.ConstantTimeCompare(userSum[:], key.user[:]) & subtle.ConstantTimeCompare(passwordSum[:], key.password[:])
		if same == 1 && key.isUser {
			found = key
		}
	}
	if found == nil {
		return nil, ErrUnknown
	}
	return found, nil
}

// byJWT verifies with those keys that the token says it could be of. The first
// that it is of has it.
func (l *List) byJWT(ctx context.Context, token string, now time.Time) (*Key, error) {
	claim, err := readClaim(token)
	if err != nil {
		return nil, ErrUnknown
	}
	refusal := ErrUnknown
	for _, key := range l.keys {
		if key.iss != "" && key.iss != claim.iss {
			continue
		}
		err := ErrUnknown
		switch {
		case key.verifier != nil && key.alg == claim.alg:
			err = sortOut(key.verifier.Verify(token, now))
		case key.set != nil:
			err = key.set.verify(ctx, claim, key.iss, now)
		}
		if err == nil {
			return key, nil
		}
		if refusal == ErrUnknown {
			refusal = err
		}
	}
	return nil, refusal
}

// claim is what a token says of itself. Nothing of it is known to be true: it
// chooses what the token is verified with.
type claim struct {
	token         string
	alg, kid, iss string
}

func readClaim(token string) (claim, error) {
	var claims jwt.MapClaims
	parsed, _, err := jwt.NewParser().ParseUnverified(token, &claims)
	if err != nil {
		return claim{}, err
	}
	if _, critical := parsed.Header["crit"]; critical { // RFC 7515 4.1.11: we know none of them
		return claim{}, ErrUnknown
	}
	c := claim{token: token}
	c.alg, _ = parsed.Header["alg"].(string)
	c.kid, _ = parsed.Header["kid"].(string)
	c.iss, _ = claims["iss"].(string)
	return c, nil
}

// sortOut says which of our errors a verifier's is. The library looks at the
// claims after it has verified the signature.
func sortOut(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return ErrNoExpiry
	case errors.Is(err, jwt.ErrTokenExpired), errors.Is(err, jwt.ErrTokenNotValidYet):
		return ErrExpired
	}
	return ErrUnknown
}

// Name is the publisher's; "" for nil.
func (k *Key) Name() string {
	if k == nil {
		return ""
	}
	return k.name
}

// May reports whether the key is for the channel.
func (k *Key) May(channel string) bool {
	if k == nil || k.all {
		return true
	}
	for _, p := range k.patterns {
		if p.Match(channel) {
			return true
		}
	}
	return false
}

// MayAll reports whether the key is for every channel, and so for what is of none.
func (k *Key) MayAll() bool { return k == nil || k.all }

// Take counts items against the rate. If the error is ErrTooFast, none are
// counted, and wait is how long until there is room for them. The other error is
// ErrTooMany.
func (k *Key) Take(items int) (wait time.Duration, err error) {
	if k == nil || k.limiter == nil || items == 0 {
		return 0, nil
	}
	now := time.Now()
	reserved := k.limiter.ReserveN(now, items)
	if !reserved.OK() {
		return 0, ErrTooMany
	}
	if wait = reserved.DelayFrom(now); wait > 0 {
		reserved.CancelAt(now)
		return wait, ErrTooFast
	}
	return 0, nil
}

// Burst is how many items Take takes at most; 0 is any number.
func (k *Key) Burst() int {
	if k == nil || k.limiter == nil {
		return 0
	}
	return k.limiter.Burst()
}
