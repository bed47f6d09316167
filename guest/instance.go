package guest

import (
	"context"
	"fmt"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/gripway/gripway/guest/internal/wasm"
)

// instance is a module with a memory, of one sandbox at a time. What it costs to make
// is its tables, for which wazero evaluates thousands of expressions; so it is
// used again, after its memory and its globals have been made what they were at
// first. Of a module whose code changes anything else, it is not.
type instance struct {
	program *Program
	module  api.Module
	memory  *memory // nil: it has none
	globals []api.MutableGlobal
	uses    int
}

// newInstance makes an instance of a program.
func newInstance(ctx context.Context, p *Program) (*instance, error) {
	i := &instance{program: p}
	if p.prepared.Memory {
		m, err := newMemory(p.first, uint64(p.opts.Limits.MemoryBytes))
		if err != nil {
			return nil, err
		}
		i.memory = m
		ctx = experimental.WithMemoryAllocator(ctx, allocator{m})
	}
	module, err := p.abi.runtime.InstantiateModule(ctx, p.compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		if i.memory != nil {
			i.memory.free()
		}
		return nil, fmt.Errorf("instance: %w", err)
	}
	i.module = module
	for _, g := range p.prepared.Globals {
		global, ok := module.ExportedGlobal(g.Export).(api.MutableGlobal)
		if !ok {
			i.close()
			return nil, fmt.Errorf("instance: global %q is not there", g.Export)
		}
		i.globals = append(i.globals, global)
	}
	return i, nil
}

// reset makes the instance as new. False: that cannot be done.
func (i *instance) reset() bool {
	p := i.program.prepared
	if p.Fresh != "" {
		return false
	}
	if i.memory != nil {
		if i.memory.reset() != nil || !resize(i.module.Memory(), uint64(p.MemoryMin)*wasm.PageBytes) {
			return false
		}
	}
	for n, g := range i.globals {
		g.Set(p.Globals[n].Value)
	}
	return true
}

// close frees the instance and its memory.
func (i *instance) close() { i.module.Close(context.Background()) }
