package store

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"unicode/utf8"
)

// Limits of a config store's items, in characters. They are Fastly's numbers.
const (
	ConfigKeyMax   = 256
	ConfigValueMax = 8000
)

// Config is one config store. It may be used concurrently.
type Config struct {
	items map[string]string
	file  *live[map[string]string]
}

// NewConfig opens a config store.
func NewConfig(opts ConfigOptions, log *slog.Logger) (*Config, error) {
	if opts.File == "" {
		return &Config{items: opts.Items}, CheckConfig(opts.Items)
	}
	file, err := newLive(opts.File, log, ReadConfig)
	return &Config{file: file}, err
}

// Items are all that is in it now. They must not be changed.
func (c *Config) Items() map[string]string {
	if c.file != nil {
		return c.file.get()
	}
	return c.items
}

// ReadConfig reads the items of a config store from JSON.
func ReadConfig(data []byte) (map[string]string, error) {
	object, err := readObject(data)
	if err != nil {
		return nil, err
	}
	items := make(map[string]string, len(object))
	for key, raw := range object {
		var value *string
		if err := json.Unmarshal(raw, &value); err != nil || value == nil {
			return nil, fmt.Errorf("key %q: want a text as its value", key)
		}
		items[key] = *value
	}
	return items, CheckConfig(items)
}

// CheckConfig says which item is too long.
func CheckConfig(items map[string]string) error {
	for key, value := range items {
		if n := utf8.RuneCountInString(key); n > ConfigKeyMax {
			return fmt.Errorf("key %.40q…: it has %d characters: want at most %d", key, n, ConfigKeyMax)
		}
		if n := utf8.RuneCountInString(value); n > ConfigValueMax {
			return fmt.Errorf("key %q: its value has %d characters: want at most %d", key, n, ConfigValueMax)
		}
	}
	return nil
}
