package compute

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/gripway/gripway/guest"
)

// fakeBackends are backends in memory.
type fakeBackends struct {
	static map[string]*fakeBackend

	mu     sync.Mutex
	opened []*fakeBackend
}

func (f *fakeBackends) Lookup(name string) guest.Backend {
	if b := f.static[name]; b != nil {
		return b
	}
	return nil
}

func (f *fakeBackends) Open(o guest.BackendOptions) (guest.Backend, error) {
	if strings.Contains(o.Address, "\x00") {
		return nil, errors.New("no address")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	b := &fakeBackend{options: o}
	f.opened = append(f.opened, b)
	return b, nil
}

type fakeBackend struct {
	options guest.BackendOptions
	health  guest.Health
	answer  func(r *http.Request) (*http.Response, error)
	closed  bool
}

func (b *fakeBackend) Options() guest.BackendOptions { return b.options }
func (b *fakeBackend) Health() guest.Health          { return b.health }
func (b *fakeBackend) Close() error                  { b.closed = true; return nil }

// RoundTrip answers, by default with what the request was.
func (b *fakeBackend) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.answer != nil {
		return b.answer(r)
	}
	content, err := io.ReadAll(r.Body)
	r.Body.Close()
	if err != nil {
		return nil, err
	}
	return answerOf(200, http.Header{"X-Seen": {r.Method + " " + r.RequestURI + " " + r.Host}}, string(content)), nil
}

func answerOf(status int, header http.Header, content string) *http.Response {
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header,
		Body: io.NopCloser(strings.NewReader(content)), ContentLength: int64(len(content)),
	}
}
