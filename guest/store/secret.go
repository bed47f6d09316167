package store

import (
	"encoding/json"
	"fmt"
	"log/slog"
)

// Secret is a value that is never printed: fmt, JSON and slog show "(hidden)".
type Secret []byte

// hidden is what is shown of a secret.
const hidden = "(hidden)"

// Reveal returns the value for the one who uses it. It must not be changed.
func (s Secret) Reveal() []byte { return s }

// Format is fmt.Formatter: no verb reveals it.
func (s Secret) Format(f fmt.State, _ rune) { f.Write([]byte(hidden)) }

// MarshalText is for everything that prints whole configurations.
func (s Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// LogValue is for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// secretNameMax bounds names of secret stores and of secrets, in bytes. It is
// Fastly's number.
const secretNameMax = 255

// SecretBytesMax bounds one secret, in bytes. It is Fastly's number.
const SecretBytesMax = 64 << 10

// CheckSecretName says what is wrong with the name of a secret or a secret store.
func CheckSecretName(name string) error {
	if name == "" {
		return fmt.Errorf("want a name")
	}
	if len(name) > secretNameMax {
		return fmt.Errorf("the name has %d bytes: want at most %d", len(name), secretNameMax)
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-', c == '_', c == '.':
		default:
			return fmt.Errorf("want a name of letters, digits and - _ . only")
		}
	}
	return nil
}

// ReadSecrets reads secrets from a JSON object of texts. Its errors do not show
// them.
func ReadSecrets(data []byte) (map[string]Secret, error) {
	object, err := readObject(data)
	if err != nil {
		return nil, err
	}
	secrets := make(map[string]Secret, len(object))
	for name, raw := range object {
		var value *string
		if err := json.Unmarshal(raw, &value); err != nil || value == nil {
			return nil, fmt.Errorf("secret %q: want a text", name)
		}
		secrets[name] = Secret(*value)
	}
	return secrets, nil
}
