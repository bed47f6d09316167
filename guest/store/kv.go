package store

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// What may become of a call of a KV store.
var (
	ErrKey          = errors.New("store: not a key")
	ErrNotFound     = errors.New("store: no such key")
	ErrPrecondition = errors.New("store: the key is not what the caller took it for")
	ErrTooLarge     = errors.New("store: the value is too large")
	ErrFull         = errors.New("store: there is no room left")
	ErrBusy         = errors.New("store: others change the key all the time")
	ErrRequest      = errors.New("store: what is asked for cannot be")
)

// Limits of a KV store's items, in bytes. They are Fastly's numbers.
const (
	KVKeyMax      = 1024
	KVValueMax    = 25 << 20
	KVMetadataMax = 2000
)

// Limits of a list. They are Fastly's numbers.
const (
	KVListDefault = 100
	KVListMax     = 1000
)

// Shelf is where a KV store is kept: keys and bytes, each change with a revision
// that only grows. It may be used concurrently.
type Shelf interface {
	// Get returns what is at a key now, and its revision. The bytes must not be
	// changed.
	Get(ctx context.Context, key string) (data []byte, revision uint64, found bool, err error)

	// Put stores data, whatever is there. It may be forgotten after expires, unless
	// that is zero; the shelf keeps data.
	Put(ctx context.Context, key string, data []byte, expires time.Time) error

	// Swap is Put if the key's revision is the one that is given; 0: if there is no
	// such key. ok tells whether it was.
	Swap(ctx context.Context, key string, data []byte, expires time.Time, revision uint64) (ok bool, err error)

	// Delete takes a key away; found tells whether it was there.
	Delete(ctx context.Context, key string) (found bool, err error)

	// Keys are those with a prefix that come after another in the order of bytes, at
	// most limit of them, in that order.
	Keys(ctx context.Context, prefix, after string, limit int) ([]string, error)

	// Close ends it.
	Close() error
}

// KV is one KV store. It may be used concurrently.
type KV struct {
	shelf Shelf

	// Local: a call takes no longer than it takes to copy the value.
	Local bool
}

// NewKV makes a store of a shelf.
func NewKV(shelf Shelf) *KV { return &KV{shelf: shelf} }

// KVValue is what is at a key.
type KVValue struct {
	Body       []byte // must not be changed
	Metadata   string
	Generation uint64 // changes with every insert
}

// KVMode is what an insert does with a value that is there.
type KVMode uint8

// The modes of an insert.
const (
	KVOverwrite KVMode = iota // replaces it
	KVAdd                     // fails
	KVAppend                  // adds to its end
	KVPrepend                 // adds to its beginning
)

// KVInsert is an insert.
type KVInsert struct {
	Body []byte
	Mode KVMode

	// Metadata replaces what there was, and so does TTL. Append and prepend leave
	// both if there is none; an overwrite takes them away.
	Metadata string
	TTL      time.Duration

	// IfGeneration has the insert fail if the value is of another generation, or is
	// not there. Nil: no matter.
	IfGeneration *uint64
}

// attemptsMax bounds how often a change is tried again that others came before.
const attemptsMax = 16

// Lookup returns what is at a key.
func (kv *KV) Lookup(ctx context.Context, key string) (KVValue, error) {
	value, _, err := kv.get(ctx, key)
	return value, err
}

// get returns what is at a key and when that ends. A value that has ended is not
// there; its revision is.
func (kv *KV) get(ctx context.Context, key string) (value KVValue, expires time.Time, err error) {
	if err := CheckKey(key); err != nil {
		return value, expires, fmt.Errorf("%w: %w", ErrKey, err)
	}
	data, revision, found, err := kv.shelf.Get(ctx, key)
	if err != nil {
		return value, expires, err
	}
	if !found {
		return value, expires, ErrNotFound
	}
	value, expires, err = decodeKV(data)
	value.Generation = revision
	if err == nil && expired(expires) {
		return KVValue{Generation: revision}, expires, ErrNotFound
	}
	return value, expires, err
}

// Insert stores a value.
func (kv *KV) Insert(ctx context.Context, key string, in KVInsert) error {
	if err := CheckKey(key); err != nil {
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	if len(in.Body) > KVValueMax || len(in.Metadata) > KVMetadataMax {
		return ErrTooLarge
	}
	expires := time.Time{}
	if in.TTL > 0 {
		expires = time.Now().Add(in.TTL)
	}
	if in.Mode == KVOverwrite && in.IfGeneration == nil {
		return kv.shelf.Put(ctx, key, encodeKV(in.Metadata, expires, in.Body), expires)
	}
	for range attemptsMax {
		old, oldExpires, err := kv.get(ctx, key)
		there := err == nil
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if in.IfGeneration != nil && (!there || old.Generation != *in.IfGeneration) || in.Mode == KVAdd && there {
			return ErrPrecondition
		}
		parts := [][]byte{in.Body}
		metadata, until := in.Metadata, expires
		if there && (in.Mode == KVAppend || in.Mode == KVPrepend) {
			parts = [][]byte{old.Body, in.Body}
			if in.Mode == KVPrepend {
				parts = [][]byte{in.Body, old.Body}
			}
			if len(old.Body)+len(in.Body) > KVValueMax {
				return ErrTooLarge
			}
			if metadata == "" {
				metadata = old.Metadata
			}
			if until.IsZero() {
				until = oldExpires
			}
		}
		ok, err := kv.shelf.Swap(ctx, key, encodeKV(metadata, until, parts...), until, old.Generation)
		if ok || err != nil {
			return err
		}
		if in.IfGeneration != nil {
			return ErrPrecondition
		}
	}
	return ErrBusy
}

// Delete takes a key away.
func (kv *KV) Delete(ctx context.Context, key string) error {
	if _, _, err := kv.get(ctx, key); err != nil {
		return err
	}
	found, err := kv.shelf.Delete(ctx, key)
	if err == nil && !found {
		return ErrNotFound
	}
	return err
}

// KVList asks for keys.
type KVList struct {
	Prefix string

	// Cursor is the page before's; empty begins.
	Cursor string

	// Limit is how many keys a page has; zero means KVListDefault, and more than
	// KVListMax means that.
	Limit int
}

// KVPage is a part of a list of keys.
type KVPage struct {
	Keys   []string
	Prefix string
	Limit  int
	Cursor string // of the next page; empty: there is none
}

// List returns keys in the order of their bytes.
func (kv *KV) List(ctx context.Context, list KVList) (KVPage, error) {
	page := KVPage{Prefix: list.Prefix, Limit: list.Limit}
	if page.Limit == 0 {
		page.Limit = KVListDefault
	}
	page.Limit = min(page.Limit, KVListMax)
	after, err := base64.StdEncoding.DecodeString(list.Cursor)
	if err != nil || page.Limit < 0 || !utf8.Valid(after) {
		return page, ErrRequest
	}
	page.Keys, err = kv.shelf.Keys(ctx, list.Prefix, string(after), page.Limit+1)
	if err != nil {
		return page, err
	}
	if len(page.Keys) > page.Limit {
		page.Keys = page.Keys[:page.Limit]
		page.Cursor = base64.StdEncoding.EncodeToString([]byte(page.Keys[page.Limit-1]))
	}
	return page, nil
}

// MarshalJSON writes the page as Fastly's API does.
func (p KVPage) MarshalJSON() ([]byte, error) {
	type meta struct {
		Limit  int    `json:"limit"`
		Prefix string `json:"prefix,omitempty"`
		Cursor string `json:"next_cursor,omitempty"`
	}
	keys := p.Keys
	if keys == nil {
		keys = []string{}
	}
	return json.Marshal(struct {
		Data []string `json:"data"`
		Meta meta     `json:"meta"`
	}{keys, meta{p.Limit, p.Prefix, p.Cursor}})
}

// Seed stores items that are to be there from the beginning: those that are not, or, in a
// Local store, all.
func (kv *KV) Seed(ctx context.Context, items []KVItem) error {
	mode := KVAdd
	if kv.Local {
		mode = KVOverwrite
	}
	for _, item := range items {
		err := kv.Insert(ctx, item.Key, KVInsert{Body: item.Body, Metadata: item.Metadata, Mode: mode})
		if err != nil && !errors.Is(err, ErrPrecondition) {
			return fmt.Errorf("key %q: %w", item.Key, err)
		}
	}
	return nil
}

// Close ends the store.
func (kv *KV) Close() error { return kv.shelf.Close() }

// A value on a shelf:
//
//	1        version
//	8 bytes  when it ends, nanoseconds since 1970; 0: never
//	4 bytes  length of the metadata
//	         metadata, body
const (
	kvVersion = 1
	kvHead    = 13
)

func encodeKV(metadata string, expires time.Time, parts ...[]byte) []byte {
	n := kvHead + len(metadata)
	for _, part := range parts {
		n += len(part)
	}
	data := make([]byte, kvHead, n)
	data[0] = kvVersion
	if !expires.IsZero() {
		binary.BigEndian.PutUint64(data[1:], uint64(expires.UnixNano()))
	}
	binary.BigEndian.PutUint32(data[9:], uint32(len(metadata)))
	data = append(data, metadata...)
	for _, part := range parts {
		data = append(data, part...)
	}
	return data
}

// decodeKV reads a value; its body is part of data.
func decodeKV(data []byte) (value KVValue, expires time.Time, err error) {
	if len(data) < kvHead || data[0] != kvVersion || uint64(binary.BigEndian.Uint32(data[9:])) > uint64(len(data)-kvHead) {
		return value, expires, errors.New("store: what is there was not written by this version")
	}
	n := kvHead + int(binary.BigEndian.Uint32(data[9:]))
	value.Metadata, value.Body = string(data[kvHead:n]), data[n:]
	return value, kvExpires(data), nil
}

// kvExpires is when a value ends; zero: never.
func kvExpires(data []byte) time.Time {
	if len(data) < kvHead {
		return time.Time{}
	}
	if at := int64(binary.BigEndian.Uint64(data[1:])); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// expired tells whether that time has come.
func expired(expires time.Time) bool { return !expires.IsZero() && !time.Now().Before(expires) }

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
