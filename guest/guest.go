package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/gripway/gripway/guest/internal/wasi"
	"github.com/gripway/gripway/guest/internal/wasm"
)

// RuntimeOptions describe a Runtime.
type RuntimeOptions struct {
	// ABIs are tried in this order for each module.
	ABIs []ABI

	// CacheDir keeps compiled modules over restarts. Empty compiles each time.
	CacheDir string

	// Log; nil is silent.
	Log *slog.Logger
}

// Runtime compiles and runs guests. It may be used concurrently.
type Runtime struct {
	opts   RuntimeOptions
	cache  wazero.CompilationCache
	abis   []*abiRuntime
	crunch crunchers

	mu       sync.Mutex
	programs map[*Program]struct{} // those not closed
}

// abiRuntime is an ABI and its host functions: two ABIs may want modules of one
// name, so each has a wazero runtime of its own.
type abiRuntime struct {
	abi     ABI
	runtime wazero.Runtime

	mu    sync.Mutex
	known map[string]map[string]wasm.FuncType // host functions by module and name, as they are asked for
}

// NewRuntime makes a Runtime.
func NewRuntime(opts RuntimeOptions) (*Runtime, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	r := &Runtime{opts: opts, cache: wazero.NewCompilationCache(), programs: make(map[*Program]struct{})}
	r.crunch.init(max(1, runtime.GOMAXPROCS(0)-1))
	if opts.CacheDir != "" {
		cache, err := wazero.NewCompilationCacheWithDir(opts.CacheDir)
		if err != nil {
			return nil, fmt.Errorf("guest cache %q: %w", opts.CacheDir, err)
		}
		r.cache = cache
		trimCache(opts.CacheDir, cacheBytesMax)
	}
	ctx := context.Background()
	for _, abi := range opts.ABIs {
		config := wazero.NewRuntimeConfig().WithCompilationCache(r.cache).WithCoreFeatures(api.CoreFeaturesV2)
		a := &abiRuntime{abi: abi, runtime: wazero.NewRuntimeWithConfig(ctx, config), known: make(map[string]map[string]wasm.FuncType)}
		r.abis = append(r.abis, a)
		err := defineHost(ctx, a.runtime)
		if err == nil {
			err = wasi.Define(ctx, a.runtime, func(ctx context.Context) *System {
				s := FromContext(ctx)
				s.Called()
				return &s.System
			})
		}
		if err == nil {
			err = abi.Define(ctx, a.runtime)
		}
		if err != nil {
			r.Close()
			return nil, fmt.Errorf("host functions of %s: %w", abi.Name(), err)
		}
	}
	return r, nil
}

// Close ends all programs and frees what they hold.
func (r *Runtime) Close() error {
	r.mu.Lock()
	programs := make([]*Program, 0, len(r.programs))
	for p := range r.programs {
		programs = append(programs, p)
	}
	r.mu.Unlock()
	var errs []error
	for _, p := range programs {
		errs = append(errs, p.Close())
	}
	for _, a := range r.abis {
		errs = append(errs, a.runtime.Close(context.Background()))
	}
	return errors.Join(append(errs, r.cache.Close(context.Background()))...)
}

// function is the type of a host function.
func (a *abiRuntime) function(module, name string) (wasm.FuncType, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	functions, there := a.known[module]
	if !there {
		functions = make(map[string]wasm.FuncType)
		if m := a.runtime.Module(module); m != nil {
			for name, f := range m.ExportedFunctionDefinitions() {
				functions[name] = wasm.FuncType{Params: f.ParamTypes(), Results: f.ResultTypes()}
			}
		}
		a.known[module] = functions
	}
	t, there := functions[name]
	return t, there
}

// LoadOptions describe a Program.
type LoadOptions struct {
	// Name is what logs call it.
	Name string

	// Assume is the ABI of a program that shows no sign of any, as one that imports
	// nothing but WASI. Empty refuses such a program.
	Assume string

	// Service is what the ABI has to know of it, like a *compute.Service.
	Service any

	Limits Limits

	// StrictImports refuses a module that imports what is not known here. Otherwise
	// such an import is named in the log, and ends the guest if it is called.
	StrictImports bool

	// Parked is how many instances may wait, started and at the point where they need
	// their request. There are as many as requests have been coming at once. Zero
	// means twice the processors, negative none.
	Parked int

	// Snapshot starts requests from the memory that an instance has when it first
	// needs its request, instead of from the beginning. It is much faster, and what the
	// guest has by then is the same for all requests: what it drew at random, what
	// time it was, its environment.
	Snapshot bool

	// Observer is told what happens. Nil: nobody.
	Observer *Observer

	// NoChecks leaves out what keeps a guest from running for ever. It is for
	// measuring what that costs.
	NoChecks bool
}

// Limits bound one sandbox. Zero values are the defaults that are named.
type Limits struct {
	// MemoryBytes bounds the linear memory. Zero means 128 MiB, Fastly's number.
	MemoryBytes int64

	// CPU bounds the time a guest runs for one request, waiting not counted. Zero
	// means 10 s; Fastly allows 50 ms.
	CPU time.Duration

	// Wall bounds the time a guest may take for one request. Zero means 2 min,
	// Fastly's number. Negative: any time.
	Wall time.Duration

	// Sandboxes bounds how many there are at once, those that wait included; what is
	// asked of the program beyond fails with FaultBusy. Zero means 1000, which is
	// 3 to 4 GB for guests written in Go.
	Sandboxes int
}

// Program is a compiled guest and its instances. It may be used concurrently.
type Program struct {
	// Fixed after Load.
	opts     LoadOptions
	log      *slog.Logger
	runtime  *Runtime
	abi      *abiRuntime
	compiled wazero.CompiledModule
	prepared *wasm.Prepared
	module   Module
	first    *image // what memories begin with

	pool pool
	counts
}

// ErrUnknownABI answers a module that no ABI recognises.
var ErrUnknownABI = errors.New("no platform known here has these imports and exports")

// Load compiles a module. It takes seconds for a large one that is not in the cache;
// ctx does not break that off.
func (r *Runtime) Load(ctx context.Context, code []byte, opts LoadOptions) (*Program, error) {
	p, err := r.load(ctx, code, opts)
	if err != nil {
		return nil, fmt.Errorf("guest %q: %w", opts.Name, err)
	}
	r.mu.Lock()
	r.programs[p] = struct{}{}
	r.mu.Unlock()
	return p, nil
}

func (r *Runtime) load(ctx context.Context, code []byte, opts LoadOptions) (*Program, error) {
	opts.setDefaults()
	parsed, err := wasm.Parse(code)
	if err != nil {
		return nil, err
	}
	p := &Program{opts: opts, log: r.opts.Log.With("guest", opts.Name), runtime: r, module: describe(parsed)}
	if p.abi, err = r.abiOf(&p.module, &opts); err != nil {
		return nil, err
	}
	prepare := wasm.Options{Known: p.abi.function, MemoryMax: uint32(opts.Limits.MemoryBytes / wasm.PageBytes), NoChecks: opts.NoChecks}
	if parker, ok := p.abi.abi.(Parker); ok && opts.Snapshot {
		prepare.Park = parker.Parks
	}
	if p.prepared, err = parsed.Prepare(prepare); err != nil {
		return nil, err
	}
	p.module.Unknown = unknownImports(p.prepared)
	if len(p.module.Unknown) > 0 {
		names := make([]string, len(p.module.Unknown))
		for i, u := range p.module.Unknown {
			names[i] = u.Module + "." + u.Name
		}
		if opts.StrictImports {
			return nil, fmt.Errorf("imports that are not known here: %s", strings.Join(names, ", "))
		}
		p.log.Warn("guest imports what is not known here; it ends if it calls that", "imports", names)
	}
	if p.first, err = newImage(p.prepared.Image); err != nil {
		return nil, err
	}
	p.compiled, err = p.abi.compile(ctx, p.prepared.Wasm, r)
	p.prepared.Wasm, p.prepared.Image = nil, nil
	if err != nil {
		p.first.close()
		return nil, err
	}
	p.pool.init(p)
	return p, nil
}

func (o *LoadOptions) setDefaults() {
	if o.Limits.MemoryBytes <= 0 {
		o.Limits.MemoryBytes = 128 << 20
	}
	// wazero counts the bytes of a memory in 32 bits.
	o.Limits.MemoryBytes = min(o.Limits.MemoryBytes, 4<<30-wasm.PageBytes) &^ (wasm.PageBytes - 1)
	if o.Limits.CPU <= 0 {
		o.Limits.CPU = 10 * time.Second
	}
	if o.Limits.Wall == 0 {
		o.Limits.Wall = 2 * time.Minute
	}
	if o.Limits.Sandboxes <= 0 {
		o.Limits.Sandboxes = 1000
	}
	if o.Parked == 0 {
		o.Parked = 2 * runtime.GOMAXPROCS(0)
	}
	o.Parked = max(o.Parked, 0)
	if o.Observer == nil {
		o.Observer = &Observer{}
	}
}

// describe is what a module looks like from outside.
func describe(m *wasm.Module) Module {
	var d Module
	for _, i := range m.Imports {
		d.Imports = append(d.Imports, Import{i.Module, i.Name})
	}
	for _, e := range m.Exports {
		if e.Kind == wasm.KindFunc {
			d.Exports = append(d.Exports, e.Name)
		}
	}
	return d
}

func unknownImports(p *wasm.Prepared) []Import {
	var list []Import
	for _, i := range p.Unknown {
		list = append(list, Import{i.Module, i.Name})
	}
	return list
}

// abiOf finds out what ABI a module was written for.
func (r *Runtime) abiOf(m *Module, opts *LoadOptions) (*abiRuntime, error) {
	for _, a := range r.abis {
		if a.abi.Recognise(m) {
			return a, nil
		}
	}
	err := unknown(m)
	if err == nil {
		for _, a := range r.abis {
			if opts.Assume == a.abi.Name() {
				return a, nil
			}
		}
		err = fmt.Errorf("it imports nothing of an edge platform: %w", ErrUnknownABI)
	}
	return nil, err
}

// unknown says why no ABI took a module: of some platforms it is known what they look
// like, and nothing more. It is nil for a program that may be anybody's.
func unknown(m *Module) error {
	starts := func(prefix string) bool {
		for _, e := range m.Exports {
			if strings.HasPrefix(e, prefix) {
				return true
			}
		}
		return false
	}
	imports := func(module, prefix string) bool {
		for _, i := range m.Imports {
			if strings.HasPrefix(i.Module, module) && strings.HasPrefix(i.Name, prefix) {
				return true
			}
		}
		return false
	}
	platform := ""
	switch {
	case starts("proxy_abi_version") || imports("env", "proxy_"):
		platform = "a proxy-wasm filter"
	case starts("gcore:fastedge/") || imports("gcore:fastedge/", ""):
		platform = "a FastEdge app"
	case imports("env", "hostcall_"):
		platform = "a Terrarium guest"
	case starts("_initialize") && !starts("_start"):
		return fmt.Errorf("this is a library: it exports _initialize, and no _start: %w", ErrUnknownABI)
	case !starts("_start"):
		return fmt.Errorf("it exports no _start, as programs do: %w", ErrUnknownABI)
	default:
		return nil
	}
	return fmt.Errorf("this is %s, which is not supported yet: %w", platform, ErrUnknownABI)
}

// Name is what logs call the program.
func (p *Program) Name() string { return p.opts.Name }

// Service is what LoadOptions said.
func (p *Program) Service() any { return p.opts.Service }

// Module is what the guest imports and exports.
func (p *Program) Module() *Module { return &p.module }

// Limits are those that hold, defaults filled in.
func (p *Program) Limits() Limits { return p.opts.Limits }

// Close ends the program: requests under way are broken off, and Close waits for
// their sandboxes.
func (p *Program) Close() error {
	if !p.pool.close() {
		return nil
	}
	p.runtime.mu.Lock()
	delete(p.runtime.programs, p)
	p.runtime.mu.Unlock()
	p.first.close()
	return p.compiled.Close(context.Background())
}

// Serve has a guest decide about a request. It returns with the decision, while
// the guest may go on. If ctx ends before that, nobody will get the answer and the
// guest is ended, unless it has had other requests; afterwards ctx does not matter.
// The error of a guest that ended without a decision is a *Fault, or ErrUndecided if
// it just ended.
func (p *Program) Serve(ctx context.Context, x *Exchange) (Outcome, error) {
	x.arrived, x.ended = time.Now(), make(chan struct{})
	if err := p.pool.assign(x); err != nil {
		return Outcome{}, err
	}
	stop := context.AfterFunc(ctx, func() { x.abandon(context.Cause(ctx)) })
	defer stop()
	select {
	case <-x.decided:
		return x.outcome, nil
	case <-x.ended:
		if x.Decided() {
			return x.outcome, nil
		}
		return Outcome{}, x.err
	}
}

// Run runs a guest to its end, and throws away what it decides. The error is that
// of the guest, a *Fault; one that just ends has none. A program that is run so is
// started for nobody else: none is parked.
func (p *Program) Run(ctx context.Context, x *Exchange) error {
	p.pool.single()
	outcome, err := p.Serve(ctx, x)
	if err != nil {
		return ended(err)
	}
	if response := outcome.Response; response != nil && response.Body != nil {
		go func() { // ends with the guest
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}()
	}
	select {
	case <-x.ended:
		return ended(x.err)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ended is the error of a guest that need not decide.
func ended(err error) error {
	if errors.Is(err, ErrUndecided) {
		return nil
	}
	return err
}

// ErrUndecided: the guest ended well and said nothing.
var ErrUndecided = errors.New("guest: ended without an answer")

// errClosed is what ends sandboxes of a program that is closed.
var errClosed = errors.New("the program has been closed")
