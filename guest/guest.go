package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
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
	opts  RuntimeOptions
	cache wazero.CompilationCache
	abis  []*abiRuntime
}

// abiRuntime is an ABI and its host functions: two ABIs may want modules of one
// name, so each has a wazero runtime of its own.
type abiRuntime struct {
	abi     ABI
	runtime wazero.Runtime
}

// NewRuntime makes a Runtime.
func NewRuntime(opts RuntimeOptions) (*Runtime, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	r := &Runtime{opts: opts, cache: wazero.NewCompilationCache()}
	if opts.CacheDir != "" {
		cache, err := wazero.NewCompilationCacheWithDir(opts.CacheDir)
		if err != nil {
			return nil, fmt.Errorf("guest cache %q: %w", opts.CacheDir, err)
		}
		r.cache = cache
	}
	ctx := context.Background()
	for _, abi := range opts.ABIs {
		config := wazero.NewRuntimeConfig().WithCompilationCache(r.cache).WithCloseOnContextDone(true).
			WithCoreFeatures(api.CoreFeaturesV2)
		a := &abiRuntime{abi, wazero.NewRuntimeWithConfig(ctx, config)}
		r.abis = append(r.abis, a)
		if err := abi.Define(ctx, a.runtime); err != nil {
			r.Close()
			return nil, fmt.Errorf("host functions of %s: %w", abi.Name(), err)
		}
	}
	return r, nil
}

// Close ends all programs and frees what they hold.
func (r *Runtime) Close() error {
	var errs []error
	for _, a := range r.abis {
		errs = append(errs, a.runtime.Close(context.Background()))
	}
	return errors.Join(append(errs, r.cache.Close(context.Background()))...)
}

// LoadOptions describe a Program.
type LoadOptions struct {
	// Name is what logs call it.
	Name string

	// ABI is the name of the ABI; empty finds out.
	ABI string

	// Service is what the ABI has to know of it, like a *compute.Service.
	Service any

	Limits Limits
}

// Limits bound one sandbox. Zero values are the defaults that are named.
type Limits struct {
	// MemoryBytes bounds the linear memory. Zero means 128 MiB, Fastly's number.
	MemoryBytes int64

	// CPU bounds the time a guest runs for one request, waiting not counted. Zero
	// means 10 s; Fastly allows 50 ms.
	CPU time.Duration

	// Wall bounds the time a guest may take for one request. Zero means 2 min,
	// Fastly's number.
	Wall time.Duration
}

// Program is a compiled guest and its instances. It may be used concurrently.
type Program struct {
	opts     LoadOptions
	log      *slog.Logger
	abi      *abiRuntime
	compiled wazero.CompiledModule
	module   Module
}

// ErrUnknownABI answers a module that no ABI recognises.
var ErrUnknownABI = errors.New("no platform known here has these imports and exports")

// Load compiles a module.
func (r *Runtime) Load(ctx context.Context, wasm []byte, opts LoadOptions) (*Program, error) {
	var last error = ErrUnknownABI
	for _, a := range r.abis {
		if opts.ABI != "" && opts.ABI != a.abi.Name() {
			continue
		}
		compiled, err := a.runtime.CompileModule(ctx, wasm)
		if err != nil {
			return nil, fmt.Errorf("guest %q: %w", opts.Name, err)
		}
		p := &Program{opts: opts, log: r.opts.Log.With("guest", opts.Name), abi: a, compiled: compiled}
		for _, f := range compiled.ImportedFunctions() {
			module, name, _ := f.Import()
			p.module.Imports = append(p.module.Imports, Import{module, name})
		}
		for name := range compiled.ExportedFunctions() {
			p.module.Exports = append(p.module.Exports, name)
		}
		if a.abi.Recognise(&p.module) {
			return p, nil
		}
		compiled.Close(ctx)
	}
	return nil, fmt.Errorf("guest %q: %w", opts.Name, last)
}

// Name is what logs call the program.
func (p *Program) Name() string { return p.opts.Name }

// Service is what LoadOptions said.
func (p *Program) Service() any { return p.opts.Service }

// Module is what the guest imports and exports.
func (p *Program) Module() *Module { return &p.module }

// Close ends the program: requests under way are broken off.
func (p *Program) Close() error { return p.compiled.Close(context.Background()) }

// Serve has a guest decide about a request. It returns with the decision, while
// the guest may go on; ctx is that of the whole exchange, until the answer's body
// is closed. The error of a guest that ended without a decision is a *Fault, or
// ErrUndecided if it just ended.
func (p *Program) Serve(ctx context.Context, x *Exchange) (Outcome, error) {
	ended := make(chan error, 1)
	go func() { ended <- p.run(ctx, x) }()
	select {
	case <-x.decided:
		return x.outcome, nil
	case err := <-ended:
		if x.Decided() {
			return x.outcome, nil
		}
		if err == nil {
			err = ErrUndecided
		}
		return Outcome{}, err
	}
}

// ErrUndecided: the guest ended well and said nothing.
var ErrUndecided = errors.New("guest: ended without an answer")

// run runs one sandbox to its end.
func (p *Program) run(ctx context.Context, x *Exchange) error {
	s := &Sandbox{Program: p, Log: p.log, first: x, started: time.Now()}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	defer s.cancel(nil)
	s.ctx = context.WithValue(s.ctx, sandboxKey{}, s)
	s.instance = p.abi.abi.Open(s)
	defer s.instance.Close()
	config := s.instance.Configure(wazero.NewModuleConfig().WithName("").WithStartFunctions())
	module, err := p.abi.runtime.InstantiateModule(s.ctx, p.compiled, config)
	if err == nil {
		defer module.Close(context.Background())
		s.module = module
		err = s.instance.Run(s.ctx, module)
	}
	if fault := classify(s.ctx, err); fault != nil {
		p.log.Error("guest failed", "reason", fault.Kind, "error", fault)
		return fault
	}
	return nil
}
