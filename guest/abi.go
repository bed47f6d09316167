package guest

import (
	"context"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// ABI is a platform that guests are written for: what one has to import and
// export, and how it is driven.
type ABI interface {
	// Name is what logs and the configuration call it.
	Name() string

	// Recognise says whether a module was written for it.
	Recognise(m *Module) bool

	// Define adds all that its guests import to a wazero runtime of its own, but for
	// WASI, which is there. Host functions find their sandbox with FromContext.
	Define(ctx context.Context, runtime wazero.Runtime) error

	// Open makes the ABI's side of a sandbox. The module is not there yet.
	Open(s *Sandbox) Instance
}

// Instance is the ABI's side of one sandbox. All but Close is called by the one
// goroutine that the guest runs in.
type Instance interface {
	// Configure says what the guest sees of its system: arguments, environment,
	// where its output goes.
	Configure(system *System)

	// Run drives the guest until it ends. It is called once for an instance, of which
	// there may be several sandboxes one after another if guests are started from
	// snapshots. The first host function that needs the
	// exchange calls Sandbox.Next, which waits for one. The module is of this sandbox
	// until Run returns, and of another afterwards: nothing may touch its memory then.
	Run(ctx context.Context, module api.Module) error

	// Close lets go of all that the sandbox held, after Run has returned: what it
	// sent and nobody waits for is cancelled, bodies it did not finish are broken off.
	Close()
}

// Finisher is an Instance that may have something left to do when its guest has
// ended, before it is closed. Waiting for it is the guest's.
type Finisher interface{ Finish() }

// Keeper is an Instance that hands on what its guest held when a snapshot was taken of
// it: guests that are started from it believe that they hold the same.
type Keeper interface {
	// Keep returns what the guest holds. It has not asked for a request yet.
	Keep() any

	// Kept is given what Keep returned, in place of what the guest's own start would
	// have made. Others are given the same.
	Kept(held any)
}

// Parker is an ABI whose guests can be started from a snapshot.
type Parker interface {
	// Parks says whether a host function may be the first to call Sandbox.Next.
	Parks(module, name string) bool
}

// Module is what can be seen of a guest before it runs.
type Module struct {
	Imports []Import
	Exports []string // functions
	Unknown []Import // those of Imports that are not known here
}

// Import is one function that a module imports.
type Import struct{ Module, Name string }

// Imported says whether the module imports the function; an empty name is any of
// the module's.
func (m *Module) Imported(module, name string) bool {
	for _, i := range m.Imports {
		if i.Module == module && (name == "" || i.Name == name) {
			return true
		}
	}
	return false
}

// Exported says whether the module exports a function of that name.
func (m *Module) Exported(name string) bool {
	for _, e := range m.Exports {
		if e == name {
			return true
		}
	}
	return false
}
