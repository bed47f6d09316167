package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

// fileBytesMax bounds a file of a store that is read whole: what is in it stays
// in memory.
const fileBytesMax = 64 << 20

// settled is how long ago a file must have been written for its time and size to
// tell the next change: file systems count in ticks, and two changes may be one.
const settled = 2 * time.Second

// largeBytes is how long a file may be to be read at every use until it is settled.
// A longer one, a database, is looked at again once it is.
const largeBytes = 1 << 20

// live is a file that is read again when it changes. It may be used concurrently.
type live[T any] struct {
	// Fixed.
	path string
	max  int64 // bytes
	read func(data []byte) (T, error)
	log  *slog.Logger

	mu     sync.Mutex
	value  T
	err    error // why there is no value at all
	stamp  time.Time
	size   int64
	readAt time.Time
}

// newLive reads the file for the first time. What is wrong with it then is the
// error; later the last good contents stay, and the log says why.
func newLive[T any](path string, log *slog.Logger, read func([]byte) (T, error)) (*live[T], error) {
	return newLiveOf(path, fileBytesMax, log, read)
}

// newLiveOf is newLive of a file of at most max bytes.
func newLiveOf[T any](path string, max int64, log *slog.Logger, read func([]byte) (T, error)) (*live[T], error) {
	f := &live[T]{path: path, max: max, read: read, log: log}
	f.get()
	return f, f.err
}

// get returns what the file says now.
func (f *live[T]) get() T {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err == nil && info.ModTime().Equal(f.stamp) && info.Size() == f.size &&
		(f.readAt.Sub(f.stamp) > settled || f.size > largeBytes && time.Since(f.readAt) < settled) {
		return f.value
	}
	first := f.readAt.IsZero()
	readAt := time.Now()
	var data []byte
	if err == nil {
		data, err = readUpTo(f.path, f.max)
	}
	var value T
	if err == nil {
		value, err = f.read(data)
	}
	switch {
	case err == nil:
		f.value = value
	case first:
		f.err = fmt.Errorf("file %q: %w", f.path, err)
	case info == nil || !info.ModTime().Equal(f.stamp) || info.Size() != f.size:
		f.log.Warn("file not read again, what it said before stays", "file", f.path, "error", err)
	}
	f.readAt = readAt
	if info != nil {
		f.stamp, f.size = info.ModTime(), info.Size()
	} else {
		f.stamp, f.size = time.Time{}, 0
	}
	return f.value
}

// ReadFile reads a file of a store whole. Errors do not repeat the path.
func ReadFile(path string) ([]byte, error) { return readUpTo(path, fileBytesMax) }

func readUpTo(path string, max int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, bare(err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, max+1))
	if err != nil {
		return nil, bare(err)
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("it is longer than %d bytes", max)
	}
	return data, nil
}

// bare takes operation and path away from an error of the file system.
func bare(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// readObject reads a JSON object whose values are kept as they are.
func readObject(data []byte) (map[string]json.RawMessage, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil {
		return nil, jsonError(data, err)
	}
	if object == nil {
		return nil, errors.New("want a JSON object, not null")
	}
	return object, nil
}

// jsonError names the line of a mistake.
func jsonError(data []byte, err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	offset := int64(-1)
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &kind):
		offset = kind.Offset
		want := "a JSON object"
		switch {
		case kind.Type.Kind().String() == "string":
			want = "a text"
		case kind.Type.Kind().String() == "slice":
			want = "a list"
		}
		err = fmt.Errorf("want %s: it is of type %s", want, kind.Value)
		if kind.Field != "" {
			err = fmt.Errorf("%s: %w", kind.Field, err)
		}
	}
	if offset < 0 || offset > int64(len(data)) {
		return err
	}
	line := 1
	for _, b := range data[:offset] {
		if b == '\n' {
			line++
		}
	}
	return fmt.Errorf("line %d: %w", line, err)
}
