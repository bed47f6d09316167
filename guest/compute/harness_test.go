package compute

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero/api"

	"github.com/gripway/gripway/guest"
)

// tester is a guest written in Go: it makes hostcalls as a guest would, from the
// guest's goroutine and with a memory of a real instance, without a line of
// WebAssembly.
type tester struct {
	*testing.T
	b      *sandbox
	memory api.Memory
	used   uint32 // of the memory
}

// testABI runs a tester in place of a guest.
type testABI struct {
	ABI
	t   *testing.T
	run func(g *tester)
}

type testInstance struct {
	*sandbox
	abi testABI
}

func (a testABI) Open(s *guest.Sandbox) guest.Instance {
	return testInstance{a.ABI.Open(s).(*sandbox), a}
}

func (i testInstance) Run(ctx context.Context, module api.Module) error {
	i.abi.run(&tester{T: i.abi.t, b: i.sandbox, memory: module.Memory(), used: 1024})
	i.sandbox.awaitForwarded()
	return nil
}

// nothing is (module (import "fastly_abi" "init" (func (param i64) (result i32)))
// (memory (export "memory") 64) (func (export "_start"))).
var nothing = []byte("\x00asm\x01\x00\x00\x00" +
	"\x01\x09\x02\x60\x01\x7e\x01\x7f\x60\x00\x00" +
	"\x02\x13\x01\x0afastly_abi\x04init\x00\x00" +
	"\x03\x02\x01\x01" + "\x05\x04\x01\x00\xc0\x00" +
	"\x07\x13\x02\x06memory\x02\x00\x06_start\x00\x01" +
	"\x0a\x04\x01\x02\x00\x0b")

// serve has a tester decide about an exchange. Nil options are defaults.
func serve(t *testing.T, service *Service, x *guest.Exchange, run func(g *tester)) (guest.Outcome, error) {
	t.Helper()
	return serveContext(t.Context(), t, service, x, run)
}

func serveContext(ctx context.Context, t *testing.T, service *Service, x *guest.Exchange, run func(g *tester)) (guest.Outcome, error) {
	t.Helper()
	runtime, err := guest.NewRuntime(guest.RuntimeOptions{ABIs: []guest.ABI{testABI{t: t, run: run}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { runtime.Close() })
	if service == nil {
		service = &Service{}
	}
	program, err := runtime.Load(t.Context(), nothing, guest.LoadOptions{Name: "tester", Service: service, Parked: -1})
	if err != nil {
		t.Fatal(err)
	}
	if x == nil {
		x = guest.NewExchange(httptest.NewRequest("GET", "http://example.com/", nil))
	}
	return program.Serve(ctx, x)
}

// inSandbox runs a tester that decides nothing, and waits for it.
func inSandbox(t *testing.T, run func(g *tester)) {
	t.Helper()
	ran := make(chan struct{})
	_, err := serve(t, nil, nil, func(g *tester) {
		defer close(ran)
		run(g)
	})
	<-ran
	if err != nil && !errors.Is(err, guest.ErrUndecided) {
		t.Error(err)
	}
}

// call makes a hostcall, "module.function" without the module's fastly_.
func (g *tester) call(name string, params ...uint32) status {
	stack := make([]uint64, max(len(params), 1))
	for i, p := range params {
		stack[i] = uint64(p)
	}
	return g.callStack(name, stack)
}

func (g *tester) callStack(name string, stack []uint64) status {
	module, function, _ := strings.Cut(name, ".")
	do := implemented["fastly_"+module][function]
	if do == nil {
		g.Fatalf("no hostcall %s", name)
	}
	c := &g.b.call
	c.ctx, c.memory, c.stack = g.b.Context(), g.memory, stack
	return do(c)
}

// must is call of what must be ok.
func (g *tester) must(name string, params ...uint32) {
	g.Helper()
	g.want(statusOK, name, params...)
}

// want is call of what must return a status.
func (g *tester) want(want status, name string, params ...uint32) {
	g.Helper()
	if got := g.call(name, params...); got != want {
		g.Errorf("%s: got status %d, want %d", name, got, want)
	}
}

// room is the address of n bytes of memory that nothing else uses.
func (g *tester) room(n int) uint32 {
	at := (g.used + 7) &^ 7
	g.used = at + uint32(n)
	if uint64(g.used) > uint64(g.memory.Size()) {
		g.Fatal("the tester's memory is full")
	}
	return at
}

// put puts text into the memory: its address and length.
func (g *tester) put(text string) (at, n uint32) {
	at = g.room(len(text))
	g.memory.WriteString(at, text)
	return at, uint32(len(text))
}

func (g *tester) get32(at uint32) uint32 {
	v, _ := g.memory.ReadUint32Le(at)
	return v
}

func (g *tester) get64(at uint32) uint64 {
	v, _ := g.memory.ReadUint64Le(at)
	return v
}

func (g *tester) text(at, n uint32) string {
	b, _ := g.memory.Read(at, n)
	return string(b)
}

// result makes a hostcall whose last parameter is where a u32 goes.
func (g *tester) result(name string, params ...uint32) uint32 {
	g.Helper()
	at := g.room(4)
	g.must(name, append(params, at)...)
	return g.get32(at)
}

// read reads a body to its end.
func (g *tester) read(h uint32) (string, status) {
	var all strings.Builder
	at, n := g.room(4096), g.room(4)
	for {
		if st := g.call("http_body.read", h, at, 4096, n); st != statusOK {
			return all.String(), st
		}
		if g.get32(n) == 0 {
			return all.String(), statusOK
		}
		all.WriteString(g.text(at, g.get32(n)))
	}
}

// write writes to the end of a body.
func (g *tester) write(h uint32, text string) status {
	used := g.used
	defer func() { g.used = used }()
	at, n := g.put(text)
	return g.call("http_body.write", h, at, n, writeBack, g.room(4))
}

// list puts handles into the memory.
func (g *tester) list(handles ...uint32) (at, n uint32) {
	at = g.room(4 * len(handles))
	for i, h := range handles {
		g.memory.WriteUint32Le(at+4*uint32(i), h)
	}
	return at, uint32(len(handles))
}

// lines are values that end with a NUL each.
func lines(list string) []string { return strings.Split(strings.TrimSuffix(list, "\x00"), "\x00") }

// contextWithStop is a context, and what ends it.
func contextWithStop(t *testing.T) (context.Context, func()) {
	ctx, cancel := context.WithCancel(t.Context())
	return ctx, cancel
}
