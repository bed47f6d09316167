package guest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tetratelabs/wazero/sys"

	"github.com/gripway/gripway/guest/internal/wasm"
)

// FaultKind is why a guest ended before its time.
type FaultKind string

// What may become of a guest.
const (
	FaultTrap   FaultKind = "trap"   // it did what WebAssembly forbids
	FaultAbort  FaultKind = "abort"  // it gave up: unreachable, which is what a panic compiles to
	FaultExit   FaultKind = "exit"   // it exited with a code other than 0
	FaultCPU    FaultKind = "cpu"    // it ran longer than it may
	FaultWall   FaultKind = "wall"   // it took longer than it may, waiting included
	FaultMemory FaultKind = "memory" // it wanted more memory than it may have
	FaultImport FaultKind = "import" // it called an import that is not known here
	FaultHost   FaultKind = "host"   // a host function panicked: our fault
	FaultEnded  FaultKind = "ended"  // whoever asked has gone
	FaultBusy   FaultKind = "busy"   // it was not run: too many are
)

// FaultKinds are all there are.
var FaultKinds = []FaultKind{FaultTrap, FaultAbort, FaultExit, FaultCPU, FaultWall, FaultMemory, FaultImport, FaultHost, FaultEnded, FaultBusy}

// Fault is the error of a guest that failed.
type Fault struct {
	Kind FaultKind
	Code uint32 // of FaultExit
	Text string // what went wrong, with the guest's stack if there is one
}

func (f *Fault) Error() string {
	if f.Kind == FaultExit {
		return fmt.Sprintf("guest exited with code %d", f.Code)
	}
	return fmt.Sprintf("guest failed (%s): %s", f.Kind, f.Text)
}

// stackBegin is what wazero puts before the guest's stack in an error.
const stackBegin = "\nwasm stack trace:"

// at is the fault with the guest's stack, if err has one: it tells where a guest spins
// that was stopped.
func (f *Fault) at(err error) *Fault {
	_, stack, found := strings.Cut(err.Error(), stackBegin)
	if !found || strings.Contains(f.Text, stackBegin) {
		return f
	}
	if own, rest, _ := strings.Cut(strings.TrimPrefix(stack, "\n"), "\n"); strings.HasPrefix(own, "\t"+wasm.HostModule+".") {
		stack = "\n" + rest // the guest did not call that: it was put there
	}
	return &Fault{Kind: f.Kind, Code: f.Code, Text: f.Text + stackBegin + stack}
}

// classify makes a Fault of what a call of a guest's function returned; nil for
// one that ended well. The context decides before the exit code does: a guest can
// exit with any.
func classify(ctx context.Context, err error) *Fault {
	if err == nil {
		return nil
	}
	var fault *Fault
	if errors.As(err, &fault) {
		return fault.at(err)
	}
	if cause := context.Cause(ctx); cause != nil {
		if errors.As(cause, &fault) {
			return fault.at(err)
		}
		return &Fault{Kind: FaultEnded, Text: cause.Error()}
	}
	var exit *sys.ExitError
	text := err.Error()
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == 0:
		return nil
	case errors.As(err, &exit):
		return &Fault{Kind: FaultExit, Code: exit.ExitCode(), Text: text}
	case strings.Contains(text, "wasm error: unreachable"): // wazero has no name for it
		return &Fault{Kind: FaultAbort, Text: text}
	case strings.Contains(text, "(recovered by wazero)") && !strings.Contains(text, "wasm error: "):
		return &Fault{Kind: FaultHost, Text: text}
	}
	return &Fault{Kind: FaultTrap, Text: text}
}
