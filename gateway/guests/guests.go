// Package guests is where guests meet the gateway: settings become programs, their
// backends, stores and caches, and the routes that they hand off to.
//
//	guests.go   programs, backends, routes, and their files   run.go      the commands check and run
//	stores.go   what stores are kept in                       caches.go   what guests cache, and purges
//
// Only main enters this room. It is a room of its own for its size, and the one
// beside main that knows the settings.
package guests

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gripway/gripway/gateway"
	"github.com/gripway/gripway/gateway/config"
	"github.com/gripway/gripway/gateway/control"
	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/gateway/origin"
	"github.com/gripway/gripway/gateway/outbound"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/guest"
	"github.com/gripway/gripway/guest/compute"
	"github.com/gripway/gripway/guest/store"
	"github.com/gripway/gripway/pubsub/natsbus"
)

// oldCodeLinger is how long a program that was replaced may finish what it has
// begun: as long as a guest may take for a request, if nothing else is said.
const oldCodeLinger = 2 * time.Minute

// Options describe Guests. All are needed, but for what is said.
type Options struct {
	Config  *config.Config
	Gateway *gateway.Gateway
	Network *origin.Network
	Bus     *natsbus.Bus

	// Rules makes the rules for requests to a backend that is handed off to.
	Rules func() (*origin.Rules, error)

	// Clients are where clients come to, Control is the private API's address; nil
	// without one.
	Clients []net.Addr
	Control net.Addr

	// Developer is what the guest's developer typed; nil where it serves others.
	Developer *config.GuestFlags

	Metrics *metrics.Registry
	Log     *slog.Logger
}

// Guests are those of the settings, live.
type Guests struct {
	opts   Options
	log    *slog.Logger
	api    http.Handler // the private API; set before requests come
	caches *caches
	stores *stores

	runtime *guest.Runtime
	reloads map[string]metrics.Counter
	limited func(limit string) // counts a limit that a guest is beyond
	all     map[string]*liveGuest
	old     sync.WaitGroup // code that was replaced
	ended   chan struct{}  // closed by Close
}

// New makes what guests share. Load reads them.
func New(opts Options) *Guests {
	if opts.Developer != nil && opts.Config.LogFormat != "json" {
		opts.Log = slog.New(stacks{opts.Log.Handler(), os.Stderr})
	}
	return &Guests{
		opts: opts, log: opts.Log,
		caches: newCaches(opts.Config, opts.Bus, opts.Metrics, opts.Log), stores: newStores(opts.Bus, opts.Metrics, opts.Log),
	}
}

// SetAPI says who takes what guests publish. It is called before requests come.
func (all *Guests) SetAPI(api http.Handler) { all.api = api }

// Purge purges what guests have cached, on all nodes.
func (all *Guests) Purge(ctx context.Context, p control.Purge) (control.Purged, error) {
	return all.caches.purge(ctx, p)
}

// Known says whether there is a guest of that name.
func (all *Guests) Known(name string) bool { return all.caches.known(name) }

// liveGuest is one of them. What it is made of is replaced as a whole.
type liveGuest struct {
	of     *Guests
	config config.Guest
	guest  *gateway.Guest
	cache  guestCache
	logs   *logBudget // nil: it may log as much as it likes
	now    atomic.Pointer[code]
}

// code is a guest's module and manifest as they were read.
type code struct {
	program  *guest.Program
	backends *outbound.Backends
	stores   *store.Stores
	routes   map[string]*gateway.Route // of backends that are handed off to
	pools    []*origin.Pool

	mu        sync.Mutex
	described map[string]*gateway.Route // of those that the guest described, by all that it said; at most describedMax
}

// Load compiles all guests. Errors are all that is wrong with any.
func (all *Guests) Load(ctx context.Context) error {
	if len(all.opts.Config.Guest) == 0 {
		return nil
	}
	var err error
	if all.runtime, err = guest.NewRuntime(runtimeOptions(all.opts.Config, all.log)); err != nil {
		return err
	}
	limits := all.opts.Metrics.Counters("guest_limits_total", "Times that a guest was beyond a limit of Fastly's that it is held to, by limit.", "limit", compute.LimitNames...)
	all.limited = func(limit string) { limits[limit].Inc() }
	all.reloads = all.opts.Metrics.Counters("guest_reloads_total", "Guests read again because their files had changed, by what came of it.", "result", "ok", "failed")
	all.all = make(map[string]*liveGuest)
	all.ended = make(chan struct{})
	var errs []error
	for _, c := range all.opts.Config.Guest {
		live := &liveGuest{of: all, config: c, cache: all.caches.guest(c.Name, c.Cache)}
		if all.opts.Developer == nil { // who wants to see all of it
			live.logs = all.newLogBudget(&c)
		}
		live.guest = &gateway.Guest{Name: c.Name, Handoff: live.handoff, Backends: live}
		if live.guest.Verifier, err = all.verifier(); err != nil {
			return err
		}
		if d := all.opts.Developer; d != nil && d.ProxyPort != 0 {
			live.guest.Proxy = pushpinProxy(d.ProxyPort)
		}
		if err := live.load(ctx); err != nil {
			errs = append(errs, err)
			continue
		}
		all.all[c.Name] = live
	}
	return errors.Join(errs...)
}

// runtimeOptions are those of every runtime; each ABI is named here.
func runtimeOptions(c *config.Config, log *slog.Logger) guest.RuntimeOptions {
	return guest.RuntimeOptions{ABIs: []guest.ABI{compute.ABI{}}, CacheDir: c.CompiledDir(), Log: log}
}

// verifier knows requests that this gateway has signed; nil if it signs none.
func (all *Guests) verifier() (func(string, time.Time) error, error) {
	key, err := grip.ParseKey(all.opts.Config.SigKey.Reveal(), "")
	if err != nil {
		return nil, fmt.Errorf("sig-key: %w", err)
	}
	if key.IsZero() {
		return nil, nil
	}
	return grip.NewVerifier(all.opts.Config.SigIss, key).Verify, nil
}

// Find returns the guest of a route.
func (all *Guests) Find(name string) *gateway.Guest {
	if live := all.all[name]; live != nil {
		return live.guest
	}
	return nil
}

// load reads the guest's files and, if they are right, takes requests to what they
// say.
func (l *liveGuest) load(ctx context.Context) error {
	module, manifest, problems := l.config.Read()
	if len(problems) > 0 {
		return problems
	}
	all := l.of
	if all.opts.Developer == nil { // who was told at the start
		for _, warning := range manifest.Warnings {
			all.log.Warn(warning.Error(), "guest", l.config.Name)
		}
	}
	made := &code{routes: make(map[string]*gateway.Route)}
	var err error
	made.backends, err = outbound.New(outbound.Options{
		Static: manifest.Backends, DenyPrivate: !l.config.Private, Inside: l.inside, Metrics: all.opts.Metrics, Log: all.log.With("guest", l.config.Name),
	})
	if err != nil {
		return fmt.Errorf("guest %q: %w", l.config.Name, err)
	}
	for _, o := range manifest.Backends {
		route, pool, err := l.newRoute(o, made.backends)
		if err != nil {
			made.close()
			return fmt.Errorf("guest %q: backend %q: %w", l.config.Name, o.Name, err)
		}
		made.routes[o.Name] = all.opts.Gateway.Backend(route, func() *gateway.Route { return l.route(route.ID) })
		if pool != nil {
			made.pools = append(made.pools, pool)
		}
	}
	if made.stores, err = all.stores.open(l.config.Name, manifest.Stores); err != nil {
		made.close()
		return err
	}
	options := loadOptions(&l.config, manifest, made.backends, made.stores, all.log, all.opts.Developer)
	service := options.Service.(*compute.Service)
	service.Cache, service.HTTPCache, service.Purge = l.cache.space, l.cache.fetcher, guestPurger{all.caches, l.config.Name}
	service.Limited = all.limited
	if l.logs != nil {
		service.Log = slog.New(limitedLog{all.log.Handler(), l.logs})
	}
	options.Observer = all.observer()
	made.program, err = all.runtime.Load(ctx, module, options)
	if err != nil {
		made.close()
		return err
	}
	l.guest.SetProgram(made.program)
	if before := l.now.Swap(made); before != nil {
		all.old.Go(func() { // ends with all
			select {
			case <-time.After(oldCodeLinger):
			case <-all.ended:
			}
			before.close()
		})
	}
	return nil
}

// loadOptions are what a program is made of. developer is what its developer typed;
// nil where it serves others.
func loadOptions(c *config.Guest, manifest *config.Fastly, backends guest.Backends, stores *store.Stores, log *slog.Logger, developer *config.GuestFlags) guest.LoadOptions {
	env := make(map[string]string, len(c.Env))
	if manifest.ServiceID != "" {
		env["FASTLY_SERVICE_ID"] = manifest.ServiceID
	}
	service := &compute.Service{
		Backends: backends, Stores: stores, Limits: c.Limits, FastlyKeys: manifest.Keys, Local: developer != nil, Env: env, Log: log,
	}
	if developer == nil {
		// Libraries take localhost for the developer's machine, and believe a key there
		// that everybody knows.
		env["FASTLY_HOSTNAME"] = hostname()
	} else {
		service.Log = slog.New(endpointLines{os.Stdout})
		if !developer.LogStdout {
			service.Stdout = os.Stdout
		}
		if !developer.LogStderr {
			service.Stderr = os.Stderr
		}
	}
	for _, pair := range c.Env {
		env[pair[0]] = pair[1]
	}
	options := guest.LoadOptions{
		Name:     c.Name,
		Service:  service,
		Limits:   guest.Limits{MemoryBytes: int64(c.Memory), CPU: c.CPU, Wall: c.Wall},
		Snapshot: c.Snapshot, StrictImports: !c.TrapUnknown,
	}
	if developer != nil || c.Manifest != "" { // which is Compute's
		options.Assume = compute.Name
	}
	return options
}

// hostname is this machine's, whatever it is called.
func hostname() string {
	name, err := os.Hostname()
	if err != nil || name == "localhost" {
		return "gripway"
	}
	return name
}

// endpointLines writes what guests log as their developers expect it:
//
//	endpoint :: message
type endpointLines struct{ out io.Writer }

// Enabled implements slog.Handler.
func (endpointLines) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (l endpointLines) Handle(_ context.Context, record slog.Record) error {
	endpoint := ""
	record.Attrs(func(a slog.Attr) bool {
		if a.Key == "endpoint" {
			endpoint = a.Value.String()
		}
		return endpoint == ""
	})
	_, err := fmt.Fprintf(l.out, "%s :: %s\n", endpoint, strings.NewReplacer("\n", "\\n", "\r", "\\r").Replace(record.Message))
	return err
}

// WithAttrs and WithGroup implement slog.Handler: there is only one thing to tell.
func (l endpointLines) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l endpointLines) WithGroup(string) slog.Handler      { return l }

// observer counts what happens to sandboxes.
func (all *Guests) observer() *guest.Observer {
	var ways, ends []string
	for _, way := range guest.Ways {
		ways = append(ways, string(way))
	}
	for _, kind := range guest.FaultKinds {
		ends = append(ends, string(kind))
	}
	starts := all.opts.Metrics.Counters("guest_starts_total", "Requests that guests have got, by how a sandbox came to them.", "way", ways...)
	ended := all.opts.Metrics.Counters("guest_sandboxes_ended_total", "Sandboxes of guests that ended, by how.", "how", append(ends, endedWell)...)
	seconds := all.opts.Metrics.Histogram("guest_start_seconds", "From a request to a guest having it.",
		.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5)
	return &guest.Observer{
		Started: func(way guest.Way, after time.Duration) {
			starts[string(way)].Inc()
			seconds.Observe(after.Seconds())
		},
		Ended: func(kind guest.FaultKind) { ended[cmp.Or(string(kind), endedWell)].Inc() },
	}
}

// endedWell is the end of a sandbox that did not fail.
const endedWell = "well"

func (c *code) close() {
	if c.program != nil {
		c.program.Close()
	}
	c.backends.Close()
	if c.stores != nil {
		c.stores.Close()
	}
	for _, pool := range c.pools {
		pool.Close()
	}
}

// newRoute makes the route that requests take which are handed off to a backend. A
// pool that is returned belongs to the caller.
func (l *liveGuest) newRoute(o guest.BackendOptions, backends *outbound.Backends) (*gateway.Route, *origin.Pool, error) {
	all := l.of
	rules, err := all.opts.Rules()
	if err != nil {
		return nil, nil, err
	}
	route := &gateway.Route{ID: o.Name, OverHTTP: true, Debug: all.opts.Config.Debug, Rules: rules}
	switch {
	case l.isSelf(&o):
		route.Pool = all.opts.Gateway.Origin(l.guest)
	case o.Dynamic:
		route.Pool = describedBackend{l, o}
	case o.TLS || o.GRPC || o.ConnectTimeout != 0 || o.FirstByteTimeout != 0 || o.BetweenBytesTimeout != 0 || o.KeepAlive != 0 || o.ConnectionsMax != 0 || o.ConnectionUsesMax != 0 ||
		o.ConnectionAgeMax != 0 || o.PreferIPv4 || o.Check != nil:
		route.Pool = backends.Lookup(o.Name)
	default:
		// Plain HTTP of which nothing more is said has its own, lighter way.
		if prefix := o.PathPrefix; prefix != "" {
			rules.ReplaceBeg = &prefix
		}
		pool, err := origin.NewPool(origin.Options{Network: all.opts.Network, Targets: []origin.Target{{Addr: o.Address, Host: o.HostOverride, OverHTTP: true}}})
		if err != nil {
			return nil, nil, err
		}
		route.Pool = pool
		return route, pool, nil
	}
	return route, nil, nil
}

// route finds where a request goes that is handed off.
func (l *liveGuest) route(name string) *gateway.Route {
	if now := l.now.Load(); now != nil {
		return now.routes[name]
	}
	return nil
}

// describedMax bounds the routes to backends that a guest describes which are kept for
// the next who is handed off to one, so that clients share them.
const describedMax = 256

// handoff finds where a request goes that the guest hands off.
func (l *liveGuest) handoff(h *guest.Handoff) *gateway.Route {
	now := l.now.Load()
	switch {
	case now == nil:
		return nil
	case h.Described == nil:
		return now.routes[h.Backend]
	}
	o := *h.Described
	key := fmt.Sprintf("%#v", o)
	if check := o.Check; check != nil {
		o.Check = nil
		key = fmt.Sprintf("%#v %#v", o, *check)
		o.Check = check
	}
	now.mu.Lock()
	defer now.mu.Unlock()
	if route := now.described[key]; route != nil {
		return route
	}
	made, _, err := l.newRoute(o, now.backends)
	if err != nil {
		l.of.log.Warn("guest hands off to a backend that cannot be", "guest", l.config.Name, "backend", o.Name, "error", err)
		return nil
	}
	route := l.of.opts.Gateway.Backend(made, nil)
	if now.described == nil || len(now.described) >= describedMax {
		now.described = make(map[string]*gateway.Route) // who is held keeps what it has
	}
	now.described[key] = route
	return route
}

// describedBackend reaches a backend that a guest described, as long as there are
// clients who were handed off to it.
type describedBackend struct {
	backends guest.Backends
	options  guest.BackendOptions
}

// RoundTrip implements http.RoundTripper.
func (d describedBackend) RoundTrip(r *http.Request) (*http.Response, error) {
	backend, err := d.backends.Open(d.options)
	if err != nil {
		return nil, err
	}
	defer backend.Close() // the request goes on, and the connection lingers for the next
	return backend.RoundTrip(r)
}

// Lookup and Open make the guest's backends of the moment guest.Backends.
func (l *liveGuest) Lookup(name string) guest.Backend { return l.now.Load().backends.Lookup(name) }

// Open implements guest.Backends.
func (l *liveGuest) Open(o guest.BackendOptions) (guest.Backend, error) {
	return l.now.Load().backends.Open(o)
}

// isSelf says whether a backend is the service itself.
func (l *liveGuest) isSelf(o *guest.BackendOptions) bool {
	return !o.Dynamic && slices.Contains(l.config.Self, o.Name) || l.isHere(o)
}

// isHere says whether a backend's address is one where clients come to.
func (l *liveGuest) isHere(o *guest.BackendOptions) bool {
	return slices.ContainsFunc(l.of.opts.Clients, func(a net.Addr) bool { return leadsTo(o.Address, a) })
}

// leadsTo says whether an address, as it is written, is a listener's.
func leadsTo(address string, listener net.Addr) bool {
	tcp, ok := listener.(*net.TCPAddr)
	host, port, err := net.SplitHostPort(address)
	if !ok || err != nil || port != strconv.Itoa(tcp.Port) {
		return false
	}
	if host == "localhost" {
		return tcp.IP.IsUnspecified() || tcp.IP.IsLoopback()
	}
	ip := net.ParseIP(host)
	return ip != nil && (ip.Equal(tcp.IP) || tcp.IP.IsUnspecified() && ip.IsLoopback())
}

// inside answers what guests send to their own gateway: publishing ends in the
// private API, and what was handed off comes back as to an origin. All else that is
// sent here comes in as from any client. Both are counted on the way.
func (l *liveGuest) inside(o *guest.BackendOptions, r *http.Request) http.RoundTripper {
	host, _, _ := net.SplitHostPort(o.Address)
	publish := slices.Contains(l.config.Publish, strings.ToLower(host)) || l.of.opts.Control != nil && leadsTo(o.Address, l.of.opts.Control)
	if publish && isPublish(r) {
		return handlerTripper{l.of.api, int64(l.of.opts.Config.PublishBodyBytes)}
	}
	if !l.isSelf(o) {
		return nil
	}
	guest.CountHop(r.Header, guest.CauseOf(r.Context()))
	tokens := r.Header["Grip-Sig"]
	if verify := l.guest.Verifier; len(tokens) == 1 && verify != nil && verify(tokens[0], time.Now()) == nil &&
		(slices.Contains(l.config.Self, o.Name) || l.of.opts.Gateway.Guest(r, o.TLS) == l.guest) {
		return l.of.opts.Gateway.Origin(l.guest)
	}
	return nil
}

// isPublish says whether a request publishes; see package control for the paths.
func isPublish(r *http.Request) bool {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	return r.Method == http.MethodPost && strings.HasSuffix(strings.TrimRight(path, "/"), "/publish")
}

// publishAnswerMax bounds the private API's answer to a publish, in bytes: a line.
const publishAnswerMax = 64 << 10

// handlerTripper asks a handler that answers shortly, and wants to know how long a
// body is.
type handlerTripper struct {
	handler   http.Handler
	bodyBytes int64 // the longest that it takes
}

// RoundTrip implements http.RoundTripper.
func (t handlerTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body == nil {
		req.Body = http.NoBody
	}
	defer req.Body.Close()
	req = req.WithContext(req.Context()) // whose body may be replaced
	length := req.ContentLength
	if length < 0 { // Fastly does not ask, and SDKs stream what they send
		whole, err := io.ReadAll(io.LimitReader(req.Body, t.bodyBytes+1))
		if err != nil {
			return nil, err
		}
		req.Body, length = io.NopCloser(bytes.NewReader(whole)), int64(len(whole))
	}
	w := &answerWriter{response: http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: make(http.Header), Request: req,
	}}
	r := req.WithContext(req.Context())
	r.ContentLength = length
	path, _, _ := strings.Cut(req.RequestURI, "?")
	u := *req.URL
	u.Path, u.RawPath, u.Opaque = path, "", ""
	r.URL = &u
	t.handler.ServeHTTP(w, r)
	w.response.Body, w.response.ContentLength = io.NopCloser(&w.body), int64(w.body.Len())
	return &w.response, nil
}

// answerWriter keeps an answer.
type answerWriter struct {
	response http.Response
	wrote    bool
	body     bytes.Buffer
}

func (w *answerWriter) Header() http.Header { return w.response.Header }

func (w *answerWriter) WriteHeader(status int) {
	if status >= 200 && !w.wrote {
		w.wrote = true
		w.response.StatusCode, w.response.Status = status, fmt.Sprintf("%d %s", status, http.StatusText(status))
		w.response.Header = w.response.Header.Clone()
	}
}

func (w *answerWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.body.Len()+len(p) > publishAnswerMax {
		return 0, errors.New("the answer is too long")
	}
	return w.body.Write(p)
}

// ServeHTTP serves requests as a Pushpin beside Viceroy does: they have been handed
// off elsewhere, and Pushpin-Route names the backend.
func (all *Guests) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.Header.Get("Pushpin-Route")
	for _, live := range all.all { // there is one
		if route := live.route(name); route != nil {
			all.opts.Gateway.ServeBackend(w, r, route)
			return
		}
	}
	http.Error(w, "Route not found", http.StatusBadGateway)
}

// Watch follows the guests' files until ctx ends.
func (all *Guests) Watch(ctx context.Context) {
	var watching sync.WaitGroup
	defer watching.Wait()
	for _, live := range all.all {
		files := []string{live.config.File}
		if live.config.Manifest != "" {
			files = append(files, live.config.Manifest)
		}
		watching.Go(func() {
			config.WatchFiles(ctx, files, func() {
				if err := live.load(ctx); err != nil {
					if ctx.Err() == nil {
						all.reloads["failed"].Inc()
						all.log.Error("guest not loaded: what there was stays", "guest", live.config.Name, "error", err)
					}
					return
				}
				all.reloads["ok"].Inc()
				all.log.Info("guest loaded", "guest", live.config.Name)
			})
		})
	}
}

// Close ends all programs, and lets go of what they share. Requests should not come
// any more.
func (all *Guests) Close() {
	if all.ended != nil {
		close(all.ended)
	}
	all.old.Wait()
	for _, live := range all.all {
		if now := live.now.Load(); now != nil {
			now.close()
		}
	}
	if all.runtime != nil {
		all.runtime.Close()
	}
	all.stores.close()
	all.caches.close()
}

// pushpinProxy takes handoffs to a Pushpin on this machine, by the backend's name.
func pushpinProxy(port int) func(backend string) http.RoundTripper {
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	backends, err := outbound.New(outbound.Options{Static: []guest.BackendOptions{{Name: "pushpin", Address: address, HostOverride: address, FirstByteTimeout: pushpinPatience}}})
	if err != nil {
		panic(err) // a port is a number
	}
	pushpin := backends.Lookup("pushpin")
	return func(backend string) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			r.Header.Set("Pushpin-Route", backend)
			return pushpin.RoundTrip(r)
		})
	}
}

// pushpinPatience bounds the wait for an answer of a Pushpin, which holds polls.
const pushpinPatience = 24 * time.Hour

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
