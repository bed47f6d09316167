package demo

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"strconv"
)

// pageFiles are served as they are: what one reads here is what runs in the
// browser.
//
//go:embed page
var pageFiles embed.FS

// pagePolicy lets the page load what is here and nothing else, run no script that
// stands in a document, and (Trusted Types) turn no text into HTML.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
	"require-trusted-types-for 'script'; trusted-types 'none'"

// pageTypes are the types by extension; the system's table may have others.
var pageTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// file is one file of the page.
type file struct {
	content []byte
	kind    string
	tag     string // ETag
}

// newPage serves the files. Browsers ask each time and are told if theirs is the
// same, so the page is never older than the origin it speaks to.
func newPage() http.Handler {
	files := map[string]file{}
	fs.WalkDir(pageFiles, "page", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			panic(err) // they are in the program
		}
		if entry.IsDir() {
			return nil
		}
		content, err := pageFiles.ReadFile(name)
		if err != nil {
			panic(err)
		}
		hash := sha256.Sum256(content)
		files[name[len("page"):]] = file{content, pageTypes[path.Ext(name)], `"` + hex.EncodeToString(hash[:8]) + `"`}
		return nil
	})
	files["/"] = files["/index.html"]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
			return
		}
		f, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		h := w.Header()
		h.Set("Content-Type", f.kind)
		h.Set("Content-Security-Policy", pagePolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache")
		h.Set("Etag", f.tag)
		if r.Header.Get("If-None-Match") == f.tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		h.Set("Content-Length", strconv.Itoa(len(f.content)))
		w.Write(f.content)
	})
}
