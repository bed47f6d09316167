package guest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"
)

// cacheBytesMax bounds the compiled modules on disk: some twenty of the largest.
// The oldest go when a Runtime is made.
const cacheBytesMax = 1 << 30

// compile compiles what was prepared, or takes it from the cache. A cache that is
// broken or cannot be written is no reason not to run: what is in it is thrown
// away, and then the module is compiled. wazero names the files, by a hash of the
// code, of its version and of the processor.
func (a *abiRuntime) compile(ctx context.Context, code []byte, r *Runtime) (wazero.CompiledModule, error) {
	ctx = experimental.WithCompilationWorkers(ctx, runtime.NumCPU())
	compiled, err := a.runtime.CompileModule(ctx, code)
	if err == nil || r.opts.CacheDir == "" {
		return compiled, err
	}
	if strings.Contains(err.Error(), "compilationcache: ") { // it says so of what it read
		r.opts.Log.Warn("guest cache is broken and emptied", "cache", r.opts.CacheDir, "error", err)
		for _, f := range cacheFiles(r.opts.CacheDir) {
			os.Remove(f.path)
		}
	} else if !isFileError(err) {
		return nil, err
	}
	compiled, again := a.runtime.CompileModule(ctx, code)
	if isFileError(again) { // it was compiled, and is in memory now
		r.opts.Log.Warn("guest cache cannot be written", "cache", r.opts.CacheDir, "error", again)
		compiled, again = a.runtime.CompileModule(ctx, code)
	}
	return compiled, again
}

// isFileError says whether an error is of the file system.
func isFileError(err error) bool {
	var path *fs.PathError
	var link *os.LinkError
	return errors.As(err, &path) || errors.As(err, &link)
}

type cacheFile struct {
	path  string
	bytes int64
	at    time.Time
}

// cacheFiles are the compiled modules in a directory, the oldest first.
func cacheFiles(dir string) []cacheFile {
	var list []cacheFile
	paths, _ := filepath.Glob(filepath.Join(dir, "wazero-*", "*"))
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			list = append(list, cacheFile{path, info.Size(), info.ModTime()})
		}
	}
	slices.SortFunc(list, func(a, b cacheFile) int { return a.at.Compare(b.at) })
	return list
}

// trimCache deletes the oldest compiled modules until no more than max bytes are left.
func trimCache(dir string, max int64) {
	files := cacheFiles(dir)
	total := int64(0)
	for _, f := range files {
		total += f.bytes
	}
	for _, f := range files {
		if total <= max {
			return
		}
		if os.Remove(f.path) == nil {
			total -= f.bytes
		}
	}
}
