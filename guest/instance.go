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
	saved   *saved // what it was when it first wanted a request; nil: that was not kept
}

// saved is an instance at a point in time.
type saved struct {
	image   *image
	size    uint64
	globals []uint64
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
	if i.saved != nil {
		i.saved.image.close()
		i.saved = nil
		if i.memory != nil && i.memory.begin(i.program.first) != nil {
			return false
		}
	}
	if !i.resetMemory(uint64(p.MemoryMin) * wasm.PageBytes) {
		return false
	}
	for n, g := range i.globals {
		g.Set(p.Globals[n].Value)
	}
	return true
}

func (i *instance) resetMemory(size uint64) bool {
	return i.memory == nil || i.memory.reset() == nil && resize(i.module.Memory(), size)
}

// save keeps what the instance is now.
func (i *instance) save() error {
	v := &saved{}
	var b []byte
	if i.memory != nil {
		v.size = i.memory.size
		b, _ = i.module.Memory().Read(0, uint32(v.size))
	}
	var err error
	if v.image, err = newImage(b); err != nil {
		return err
	}
	if i.memory != nil {
		if err = i.memory.begin(v.image); err != nil {
			v.image.close()
			return err
		}
	}
	for _, g := range i.globals {
		v.globals = append(v.globals, g.Get())
	}
	i.saved = v
	return nil
}

// restore makes the instance what it was when it was saved. False: that cannot be
// done.
func (i *instance) restore() bool {
	if !i.resetMemory(i.saved.size) {
		return false
	}
	for n, g := range i.globals {
		g.Set(i.saved.globals[n])
	}
	return true
}

// close frees the instance and its memory.
func (i *instance) close() {
	if i.saved != nil {
		i.saved.image.close()
	}
	i.module.Close(context.Background())
}
