package config

import (
	"log/slog"
	"net/url"
	"strings"
)

// hidden is what is printed in place of a secret.
const hidden = "(hidden)"

// Secret is a value that must not be printed: String, fmt verbs, JSON and slog
// all show "(hidden)". A file: reference is no secret and is shown.
type Secret string

// Reveal returns the value for the one who uses it.
func (s Secret) Reveal() string { return string(s) }

func (s Secret) String() string {
	if s == "" || strings.HasPrefix(string(s), "file:") {
		return string(s)
	}
	return hidden
}

// GoString is String: %#v must not reveal either.
func (s Secret) GoString() string { return s.String() }

// MarshalText is String: a printed configuration must not reveal either.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue is String, for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// URL is an address that may carry a user and password; printed, the password
// and query are hidden. It may be a comma-separated list, as NATS clients take.
type URL string

// Reveal returns the address with its password.
func (u URL) Reveal() string { return string(u) }

func (u URL) String() string {
	if u == "" {
		return ""
	}
	parts := strings.Split(string(u), ",")
	for i, part := range parts {
		parts[i] = redactURL(part)
	}
	return strings.Join(parts, ",")
}

// redactURL hides what may be secret. What cannot be read as an address is
// hidden whole, for it may be a password with an unfortunate character.
func redactURL(text string) string {
	if !strings.ContainsAny(text, "@?") {
		return text // there is neither
	}
	parsed, err := url.Parse(strings.TrimSpace(text))
	if err != nil {
		return hidden
	}
	if parsed.User != nil {
		// A NATS token stands where the user name would be.
		parsed.User = url.User("xxxxx")
	}
	if parsed.RawQuery != "" {
		parsed.RawQuery = "xxxxx"
	}
	return parsed.String()
}

// GoString is String: %#v must not reveal either.
func (u URL) GoString() string { return u.String() }

// MarshalText is String: a printed configuration must not reveal either.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// LogValue is String, for slog.
func (u URL) LogValue() slog.Value { return slog.StringValue(u.String()) }
