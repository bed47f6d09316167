package store

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits of a KV store's items, in bytes. They are Fastly's numbers.
const (
	KVKeyMax      = 1024
	KVValueMax    = 25 << 20
	KVMetadataMax = 2000
)

// CheckKey says what is wrong with a key of a KV store.
func CheckKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("a key is not empty")
	case len(key) > KVKeyMax:
		return fmt.Errorf("a key has at most %d bytes, not %d", KVKeyMax, len(key))
	case !utf8.ValidString(key):
		return fmt.Errorf("a key is UTF-8")
	case strings.HasPrefix(key, ".well-known/acme-challenge"):
		return fmt.Errorf("a key does not begin with .well-known/acme-challenge")
	case key == "." || key == ".." || strings.Contains(key, "./") || strings.HasSuffix(key, "/.") || strings.HasSuffix(key, "/.."):
		return fmt.Errorf("a key has no part . or .. and no ./")
	}
	if i := strings.IndexAny(key, "\r\n#;?^|"); i >= 0 {
		return fmt.Errorf("a key does not contain %q", key[i])
	}
	if r, n := utf8.DecodeRuneInString(key); n == len(key) && (r <= ' ' || r == 0xfffe || r == 0xffff) {
		return fmt.Errorf("a key is not a single %q", r)
	}
	return nil
}

// KVFileItem is an item of a KV store's JSON file: its body is Data, or what is
// in File.
type KVFileItem struct {
	Key, Data, File, Metadata string
}

// ReadKV reads the items of a KV store from JSON: an object with a text for each
// key, or an object of data or file, and metadata.
func ReadKV(data []byte) ([]KVFileItem, error) {
	object, err := readObject(data)
	if err != nil {
		return nil, err
	}
	items := make([]KVFileItem, 0, len(object))
	for key, raw := range object {
		item := KVFileItem{Key: key}
		if json.Unmarshal(raw, &item.Data) != nil || string(raw) == "null" {
			var said map[string]*string
			if err := json.Unmarshal(raw, &said); err != nil || said == nil {
				return nil, fmt.Errorf("key %q: want a text, or an object of texts: data or file, and metadata", key)
			}
			for name, value := range said {
				if value == nil {
					return nil, fmt.Errorf("key %q: %s: want a text", key, name)
				}
				switch name {
				case "data":
					item.Data = *value
				case "file":
					item.File = *value
				case "metadata":
					item.Metadata = *value
				default:
					return nil, fmt.Errorf("key %q: unknown key %q: want data or file, and metadata", key, name)
				}
			}
			switch {
			case said["data"] != nil && said["file"] != nil:
				return nil, fmt.Errorf("key %q: data and file: want one of them", key)
			case said["data"] == nil && said["file"] == nil:
				return nil, fmt.Errorf("key %q: want data or file", key)
			case said["file"] != nil && item.File == "":
				return nil, fmt.Errorf("key %q: file: want the name of a file", key)
			}
		}
		items = append(items, item)
	}
	return items, nil
}

// CheckItem says what is wrong with an item of a KV store.
func CheckItem(item KVItem) error {
	if err := CheckKey(item.Key); err != nil {
		return err
	}
	switch {
	case len(item.Body) > KVValueMax:
		return fmt.Errorf("its value has %d bytes: want at most %d", len(item.Body), KVValueMax)
	case len(item.Metadata) > KVMetadataMax:
		return fmt.Errorf("its metadata has %d bytes: want at most %d", len(item.Metadata), KVMetadataMax)
	}
	return nil
}
