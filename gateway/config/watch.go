package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// pollInterval is how often a watched file is looked at. A change is taken once
// two looks agree, so that a file is not read while it is being written: after
// half a second at most. Looking is one system call and works on every file
// system; notifications do not (NFS, bind mounts, files replaced by rename).
const pollInterval = 250 * time.Millisecond

// RoutesFile is a routes file that may change. It may be used concurrently.
type RoutesFile struct {
	path string

	mu     sync.Mutex // held while the file is read, so that reads come one at a time
	last   []byte     // as read last
	seen   os.FileInfo
	failed bool // the last read ended with an error
}

// NewRoutesFile names the file; Load, to be called before Watch, reads it.
func NewRoutesFile(path string) *RoutesFile { return &RoutesFile{path: path} }

// Load reads the file: every good line, and an error for every bad one, as
// ParseRoutes. If the file cannot be read the routes are nil, for "no answer": keep what
// you have. A file without routes gives an empty list that is not nil.
func (f *RoutesFile) Load() ([]Route, []error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	routes, problems, _ := f.read(true)
	return routes, problems
}

// Watch calls changed after each change of the file's content since the last
// Load or call, within a second, with what Load would return; one call at a
// time. It returns when ctx ends. A file that has gone is told once, and its
// return is a change.
func (f *RoutesFile) Watch(ctx context.Context, changed func([]Route, []error)) {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	var before os.FileInfo
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		info, _ := os.Stat(f.path) // nil is a state like others: gone
		stable := same(info, before)
		before = info
		if !stable {
			continue
		}
		f.mu.Lock()
		var routes []Route
		var problems []error
		tell := false
		if !same(info, f.seen) || f.failed { // what failed is tried each time: a permission changes no time
			routes, problems, tell = f.read(false)
		}
		f.mu.Unlock()
		if tell {
			changed(routes, problems)
		}
	}
}

// read reads and parses; without force only if the content is new. The caller
// holds mu.
func (f *RoutesFile) read(force bool) (routes []Route, problems []error, news bool) {
	info, err := os.Stat(f.path)
	f.seen = info
	var data []byte
	switch {
	case err != nil:
		err = bare(err)
	case !info.Mode().IsRegular(): // a pipe would be empty the second time, or never end
		err = errors.New("it is no file")
	default:
		data, err = readBounded(f.path)
	}
	if err != nil {
		news = !f.failed
		f.failed = true
		return nil, []error{fmt.Errorf("%s: the routes file cannot be read: %w", f.path, err)}, news
	}
	if !force && !f.failed && bytes.Equal(data, f.last) {
		return nil, nil, false
	}
	f.last, f.failed = data, false
	routes, problems = ParseRoutes(f.path, string(data))
	return routes, problems, true
}

// same tells whether two looks at a file saw the same state.
func same(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// WatchFiles calls changed after changes of any of the files, once they have come to
// rest, within a second; one call at a time. It returns when ctx ends.
func WatchFiles(ctx context.Context, paths []string, changed func()) {
	look := func() []os.FileInfo {
		infos := make([]os.FileInfo, len(paths))
		for i, path := range paths {
			infos[i], _ = os.Stat(path) // nil is a state like others: gone
		}
		return infos
	}
	all := func(a, b []os.FileInfo) bool {
		return slices.EqualFunc(a, b, same)
	}
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	told := look()
	before := told
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := look()
		if all(now, before) && !all(now, told) {
			told = now
			changed()
		}
		before = now
	}
}
