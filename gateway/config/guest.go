package config

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/gripway/gripway/guest"
	"github.com/gripway/gripway/guest/compute"
	"github.com/gripway/gripway/guest/store"
)

// Guest is a program in WebAssembly that decides about the requests of routes. It
// is plain data.
type Guest struct {
	// Line is the guest in one line, whatever way it was written; the values of
	// env are hidden.
	Line string
	// Where it was written: "--guest", "gripway.toml:12: guest".
	Where string

	Name     string
	File     string // the module, with its folder
	Manifest string // a fastly.toml, with its folder; "" = none

	Memory    int           // bytes of linear memory; 0 = 128 MiB
	CPU, Wall time.Duration // for a request; 0 = the runtime's
	LogRate   int           // bytes a second that it may log; 0 = as many as it likes

	// Limits are those of Fastly that it is held to.
	Limits compute.Limits

	Env [][2]string // name and value, added to what guests see

	// Backends are those of gripway.toml; the manifest's come first.
	Backends []guest.BackendOptions
	Self     []string // names of backends that are the service itself
	Publish  []string // hosts of backends where publishing ends in this gateway

	// Stores are those of gripway.toml, added to the manifest's.
	Stores store.Options

	// Private lets the guest describe backends at private addresses.
	Private bool

	// TrapUnknown lets a guest import what is not known here, and fails it when it
	// calls that. It is on unless the guest says trap-unknown=false.
	TrapUnknown bool

	// Snapshot starts each sandbox from the state in which the first one asked for
	// its request.
	Snapshot bool

	// Cache has answers of backends cached, as Fastly does. It is on unless the guest
	// says cache=false.
	Cache bool

	warned Problems // of its stores
}

// String is Line: a printed guest must not reveal what Line hides.
func (g Guest) String() string { return g.Line }

// GoString is Line.
func (g Guest) GoString() string { return g.Line }

// MarshalText is Line.
func (g Guest) MarshalText() ([]byte, error) { return []byte(g.Line), nil }

// publishHosts are where guests publish, if they are written for Fastly.
var publishHosts = []string{"api.fastly.com"}

// guestOptions are all options there are; none is refused.
var guestOptions = map[string]bool{
	"name": false, "file": false, "manifest": false, "memory": false, "cpu": false, "wall": false, "env": false,
	"self": false, "publish": false, "private": false, "trap-unknown": false, "snapshot": false, "cache": false,
	"log-rate": false, "limits": false,
	compute.LimitBackendRequests: false, compute.LimitConfigLookups: false, compute.LimitHeaderBytes: false, compute.LimitURLBytes: false,
}

// guestLogRate is LogRate unless the guest says another. One that logs a request or two
// of each client does not come near it; one that has gone wild fills a disk of 100 GB in
// a day and not in an hour.
const (
	guestLogRate    = 1 << 20
	guestLogRateMin = 16 << 10 // so that ten seconds' worth holds the longest line
)

// readGuest decodes one element of the key guest, and reports all that is wrong.
func readGuest(v *value, path, dir string) (Guest, []error) {
	var s section
	var wrong []error
	var backends []*value
	stores := &value{kind: unstable.InlineTable, line: v.line}
	if v.kind == unstable.InlineTable {
		for _, f := range v.fields {
			_, mine := guestOptions[f.key]
			switch {
			case storeTables[f.key]:
				stores.fields = append(stores.fields, f)
			case f.key == "backend" && f.value.kind == unstable.Array:
				backends = append(backends, f.value.items...)
			case f.key == "backend":
				backends = append(backends, f.value)
			case !mine && findSetting(f.key) != nil:
				wrong = append(wrong, &optionError{f.line, f.key + " is no option of a guest: the gateway's own keys stand before the first [[guest]]"})
			case !mine:
				wrong = append(wrong, &optionError{f.line, unknownOption(f.key, guestOptions, nil, "").Error()})
			default:
				if err := s.add(f, true); err != nil {
					wrong = append(wrong, &optionError{f.line, err.Error()})
				}
			}
		}
	} else {
		sections, err := parseLine(v.text)
		switch {
		case err != nil:
			return Guest{}, []error{err}
		case len(sections) != 1:
			return Guest{}, []error{errors.New("want a name and options by commas, without blanks, like app,file=app.wasm,manifest=fastly.toml")}
		}
		s = sections[0]
	}

	g := Guest{Name: s.value, Line: formatLine([]section{s}, false), Cache: true, TrapUnknown: true, LogRate: guestLogRate}
	said := make(map[string]bool)
	for _, o := range s.options {
		if said[o.name] && o.name != "env" && o.name != "self" && o.name != "publish" {
			wrong = append(wrong, &optionError{o.line, "option " + o.name + ": said twice"})
			continue
		}
		said[o.name] = true
		if err := g.readOption(o, dir); err != nil {
			wrong = append(wrong, &optionError{o.line, err.Error()})
		}
	}
	if !said["publish"] {
		g.Publish = publishHosts
	}
	if said["limits"] {
		g.holdToFastly(said)
	}
	for _, b := range backends {
		wrong = append(wrong, g.readBackend(b, path, dir)...)
	}
	r := &reading{path: path, dir: dir}
	readStores(r.open("guest", &field{"guest", v.line, stores}), &g.Stores)
	wrong = append(wrong, r.errors()...)
	g.warned = r.warnings
	switch {
	case len(wrong) > 0:
	case g.Name == "":
		wrong = append(wrong, errors.New("it has no name: routes say guest=NAME"))
	case g.File == "":
		wrong = append(wrong, fmt.Errorf("guest %q: want file, a module of WebAssembly", g.Name))
	}
	return g, wrong
}

// limitsFastly is the value of limits that stands for all that Fastly publishes
// (https://docs.fastly.com/products/compute-resource-limits).
const limitsFastly = "fastly"

// holdToFastly sets Fastly's limits where the guest says nothing else.
func (g *Guest) holdToFastly(said map[string]bool) {
	fastly := compute.FastlyLimits
	for _, limit := range []struct {
		key      string
		to, from *int
	}{
		{compute.LimitBackendRequests, &g.Limits.BackendRequests, &fastly.BackendRequests},
		{compute.LimitConfigLookups, &g.Limits.ConfigLookups, &fastly.ConfigLookups},
		{compute.LimitHeaderBytes, &g.Limits.HeaderBytes, &fastly.HeaderBytes},
		{compute.LimitURLBytes, &g.Limits.URLBytes, &fastly.URLBytes},
	} {
		if !said[limit.key] {
			*limit.to = *limit.from
		}
	}
	if !said["cpu"] {
		g.CPU = 50 * time.Millisecond
	}
	if !said["wall"] {
		g.Wall = 2 * time.Minute
	}
	if !said["memory"] {
		g.Memory = 128 << 20
	}
}

func (g *Guest) readOption(o option, dir string) error {
	if _, known := guestOptions[o.name]; !known {
		return unknownOption(o.name, guestOptions, nil, "")
	}
	switch o.name {
	case "private":
		return readFlag(o, &g.Private)
	case "snapshot":
		return readFlag(o, &g.Snapshot)
	case "cache":
		return readSwitch(o, &g.Cache)
	case "trap-unknown":
		return readSwitch(o, &g.TrapUnknown)
	case "publish":
		if o.value == "" { // none
			g.Publish = []string{}
			return nil
		}
	}
	if o.value == "" {
		return fmt.Errorf("option %s needs a value", o.name)
	}
	switch o.name {
	case "name":
		if g.Name != "" {
			return fmt.Errorf("name: it is %q already", g.Name)
		}
		g.Name = o.value
	case "file":
		g.File = resolveFile(o.value, dir)
	case "manifest":
		g.Manifest = resolveFile(o.value, dir)
	case "memory":
		n, err := decodeBytes(o.value)
		if err != nil {
			return fmt.Errorf("memory %q: %w", o.value, err)
		}
		if n < guestMemoryMin || n > guestMemoryMax {
			return fmt.Errorf("memory %q: want 1MiB to 4GiB", o.value)
		}
		g.Memory = n
	case "log-rate":
		n, err := decodeBytes(o.value)
		if err == nil && n != 0 && n < guestLogRateMin {
			err = errors.New("want 16KiB (a second) or more, or 0 for no limit")
		}
		if err != nil {
			return fmt.Errorf("log-rate %q: %w", o.value, err)
		}
		g.LogRate = n
	case "limits":
		if o.value != limitsFastly {
			return fmt.Errorf("limits %q: want %s", o.value, limitsFastly)
		}
	case compute.LimitBackendRequests, compute.LimitConfigLookups:
		n, err := strconv.Atoi(o.value)
		if err != nil || n < 0 {
			return fmt.Errorf("%s %q: want a number, or 0 for no limit", o.name, o.value)
		}
		if o.name == compute.LimitBackendRequests {
			g.Limits.BackendRequests = n
		} else {
			g.Limits.ConfigLookups = n
		}
	case compute.LimitHeaderBytes, compute.LimitURLBytes:
		n, err := decodeBytes(o.value)
		if err != nil {
			return fmt.Errorf("%s %q: %w", o.name, o.value, err)
		}
		if o.name == compute.LimitHeaderBytes {
			g.Limits.HeaderBytes = n
		} else {
			g.Limits.URLBytes = n
		}
	case "cpu", "wall":
		d, err := decodeDuration(o.value)
		if err == nil && d <= 0 {
			err = errors.New("want more than nothing, like 2s")
		}
		if err != nil {
			return fmt.Errorf("%s %q: %w", o.name, o.value, err)
		}
		if o.name == "cpu" {
			g.CPU = d
		} else {
			g.Wall = d
		}
	case "env":
		pair, err := readEnvironment(o.value)
		if err != nil {
			return err
		}
		g.Env = append(g.Env, pair)
	case "self":
		g.Self = append(g.Self, o.value)
	case "publish":
		if strings.ContainsAny(o.value, "/: ") {
			return fmt.Errorf("publish %q: want a host name, like api.fastly.com", o.value)
		}
		g.Publish = append(g.Publish, strings.ToLower(o.value))
	}
	return nil
}

// guestMemoryMin and guestMemoryMax bound a guest's memory in bytes: less than the
// one is no program, more than the other has no address.
const (
	guestMemoryMin = 1 << 20
	guestMemoryMax = 4 << 30
)

func readEnvironment(text string) ([2]string, error) {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return [2]string{}, fmt.Errorf("env %q: want NAME=VALUE", name)
	}
	return [2]string{name, value}, nil
}

// readBackend reads a table [[guest.backend]]: the keys of a backend in a
// fastly.toml, and name and self.
func (g *Guest) readBackend(v *value, path, dir string) []error {
	r := &reading{path: path, dir: dir}
	t := r.open("guest.backend", &field{"backend", v.line, v})
	if t != nil {
		name, self := t.text("name"), t.bool("self", false)
		if name == "" && !t.said("name") {
			t.refuse(t.line, t.name, "", "want a name")
		}
		b := guest.BackendOptions{Name: cmp.Or(name, "?")}
		readBackendMore(&b, t)
		b = readBackend(b, t)
		if !b.TLS {
			for _, key := range backendTLSKeys {
				if t.said(key) {
					t.wrong(key, "", "the url is not https")
				}
			}
		}
		g.Backends = append(g.Backends, b)
		if self {
			g.Self = append(g.Self, name)
		}
	}
	return r.errors()
}

// backendTLSKeys are those of readBackendMore that are about TLS.
var backendTLSKeys = []string{"min_tls_version", "max_tls_version", "ssl_ciphers", "ssl_sni_hostname"}

// tlsVersions are those of the values of min_tls_version and max_tls_version.
var tlsVersions = map[string]uint16{"1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// readBackendMore reads what a backend in gripway.toml may have besides the keys of a
// manifest, by the names that Fastly's API has for backends and health checks.
func readBackendMore(b *guest.BackendOptions, t *table) {
	milliseconds := func(t *table, key string) time.Duration {
		return time.Duration(t.count(key, 0, 1, timeoutMax)) * time.Millisecond
	}
	version := func(key string) uint16 {
		text := t.text(key)
		v, ok := tlsVersions[text]
		if !ok && t.said(key) {
			t.wrong(key, text, "want 1.0, 1.1, 1.2 or 1.3, as text")
		}
		return v
	}
	b.ConnectTimeout = milliseconds(t, "connect_timeout_ms")
	b.KeepAlive = milliseconds(t, "keepalive_time_ms")
	b.ConnectionsMax = t.count("max_conn", 0, 1, backendCountMax)
	b.ConnectionUsesMax = t.count("max_use", 0, 1, backendCountMax)
	b.ConnectionAgeMax = milliseconds(t, "max_lifetime_ms")
	b.PreferIPv4 = t.bool("prefer_ipv4", false)
	b.SNI, b.Ciphers = t.text("ssl_sni_hostname"), t.text("ssl_ciphers")
	b.TLSMin, b.TLSMax = version("min_tls_version"), version("max_tls_version")
	if b.TLSMin != 0 && b.TLSMax != 0 && b.TLSMin > b.TLSMax {
		t.wrong("min_tls_version", "", "it is above max_tls_version")
	}
	if t := t.table("healthcheck"); t != nil {
		b.Check = &guest.HealthCheck{
			Every: milliseconds(t, "check_interval"), Timeout: milliseconds(t, "timeout"),
			Host: t.text("host"), Method: t.text("method"), Path: t.text("path"), Status: t.count("expected_response", 0, 100, 599),
			Window: t.count("window", 0, 1, backendCountMax), Threshold: t.count("threshold", 0, 1, backendCountMax),
			Initial: t.count("initial", 0, 0, backendCountMax),
		}
		if t.said("initial") && b.Check.Initial == 0 {
			b.Check.Initial = -1 // 0 is the default
		}
		if path := b.Check.Path; path != "" && path[0] != '/' {
			t.wrong("path", path, "want a path, like /health")
		}
		t.done()
	}
}

// backendCountMax bounds numbers of a backend that are no times.
const backendCountMax = 1_000_000

// errors are the problems for who says the place itself.
func (r *reading) errors() []error {
	var wrong []error
	for _, p := range r.problems {
		// The place is said once, by whoever reports it.
		line, where := 0, strings.TrimPrefix(p.Where, r.path+":")
		fmt.Sscanf(where, "%d", &line)
		if _, key, ok := strings.Cut(where, ": "); ok {
			p.Where = key
		} else {
			p.Where = ""
		}
		wrong = append(wrong, &optionError{line, p.Error()})
	}
	return wrong
}

// Read reads the guest's module, and its manifest if it has one.
func (g *Guest) Read() (module []byte, manifest *Fastly, problems Problems) {
	module, err := readModule(g.File)
	if err != nil {
		problems = append(problems, Problem{Where: g.Where, Value: g.File, What: err.Error()})
	}
	manifest = &Fastly{}
	if g.Manifest != "" {
		var wrong Problems
		manifest, wrong = ReadFastly(g.Manifest)
		problems = append(problems, wrong...)
	}
	for _, b := range g.Backends {
		if slices.ContainsFunc(manifest.Backends, func(o guest.BackendOptions) bool { return o.Name == b.Name }) {
			what := fmt.Sprintf("backend %q is in %s as well: want it in one place", b.Name, g.Manifest)
			if slices.Contains(g.Self, b.Name) {
				what += fmt.Sprintf("; that it is the service itself says self = [%q] of the guest", b.Name)
			}
			problems = append(problems, Problem{Where: g.Where, Value: g.Name, What: what})
			continue
		}
		manifest.Backends = append(manifest.Backends, b)
	}
	problems = append(problems, mergeStores(&manifest.Stores, g.Stores, g.Where, g.Manifest)...)
	manifest.Warnings = append(manifest.Warnings, g.warned...)
	for _, self := range g.Self {
		if !slices.ContainsFunc(manifest.Backends, func(o guest.BackendOptions) bool { return o.Name == self }) {
			problems = append(problems, Problem{Where: g.Where, Value: self, What: "self names a backend that there is not"})
		}
	}
	return module, manifest, problems
}

// moduleBytesMax bounds a module: the largest known are a tenth of it.
const moduleBytesMax = 256 << 20

func readModule(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the module cannot be read: %w", bare(err))
	case info.IsDir():
		return nil, errors.New("it is a folder: want a module of WebAssembly")
	case info.Size() > moduleBytesMax:
		return nil, fmt.Errorf("it is longer than %d bytes", moduleBytesMax)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the module cannot be read: %w", bare(err))
	}
	if data, err = guest.Binary(data); err != nil {
		return nil, err
	}
	if len(data) >= 8 && data[6] != 0 {
		return nil, errors.New("it is a component: want a core module, which SDKs build for wasm32-wasip1")
	}
	return data, nil
}

// checkGuests reports guests that cannot be told apart, and routes to none.
func (c *Config) checkGuests() Problems {
	var problems Problems
	first := make(map[string]string)
	for _, g := range c.Guest {
		if where, there := first[g.Name]; there {
			problems = append(problems, Problem{Where: g.Where, Value: g.Name, What: "a guest of this name is at " + where})
			continue
		}
		first[g.Name] = g.Where
		_, manifest, wrong := g.Read()
		problems = append(problems, wrong...)
		for _, name := range slices.Sorted(maps.Keys(manifest.Stores.KV)) {
			if manifest.Stores.KV[name].Backend == store.KVJetStream && c.NATS == "" && c.NATSStoreDir == "" {
				problems = append(problems, Problem{Where: g.Where, Value: name, What: "this KV store wants JetStream: want nats-store-dir, or nats with one that has it"})
			}
		}
	}
	return problems
}

// CheckRouteGuests reports routes whose guest there is not, and returns the others.
func (c *Config) CheckRouteGuests(routes []Route) (right []Route, problems []error) {
	right = make([]Route, 0, len(routes))
	var names []string
	for _, g := range c.Guest {
		names = append(names, g.Name)
	}
	for _, route := range routes {
		if route.Guest != "" && !slices.Contains(names, route.Guest) && !slices.Contains(c.wrongGuests, route.Guest) {
			problems = append(problems, fmt.Errorf("%s: guest %q: there is no guest of this name%s", route.Where, route.Guest, didYouMean(route.Guest, names)))
			continue
		}
		right = append(right, route)
	}
	return right, problems
}

// userCache is the value of guest-cache that means the user's folder for caches.
const userCache = "user"

// CompiledDir is where compiled guests are kept; empty for nowhere.
func (c *Config) CompiledDir() string {
	if c.GuestCache != userCache {
		return c.GuestCache
	}
	dir, err := os.UserCacheDir()
	if err == nil {
		dir = filepath.Join(dir, "gripway", "guests")
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return "" // nobody's home, or not theirs to write to: a container, perhaps
	}
	return dir
}
