package guest_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"go.uber.org/goleak"

	"github.com/gripway/gripway/guest"
	"github.com/gripway/gripway/guest/guesttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tiny is an ABI of a few functions:
//
//	next() -> i32     the next request: its length, at least 1; 0 if there is none
//	further(ms) -> i32  the same, waiting so long
//	answer(status)    answers the request
//	sleep(ms)         waits
//	stall(ms)         waits without a word, as if another program had the processor
//	note(i32)         is remembered
//	starts() -> i32   how often it has been called, and notes 0
type tiny struct {
	mu    sync.Mutex
	notes []uint32
	live  int
	most  int
}

type tinyInstance struct {
	*guest.Sandbox
	abi     *tiny
	current *guest.Exchange
}

func (*tiny) Name() string { return "tiny" }

func (*tiny) Recognise(m *guest.Module) bool { return m.Imported("tiny", "") }

func (*tiny) Parks(module, name string) bool { return module == "tiny" && name == "next" }

func (t *tiny) Define(ctx context.Context, r wazero.Runtime) error {
	b := r.NewHostModuleBuilder("tiny")
	i32 := api.ValueTypeI32
	add := func(name string, params, results []api.ValueType, f func(i *tinyInstance, m api.Module, stack []uint64)) {
		b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(ctx context.Context, m api.Module, stack []uint64) {
			f(guest.FromContext(ctx).Instance().(*tinyInstance), m, stack)
		}), params, results).Export(name)
	}
	one := []api.ValueType{i32}
	next := func(i *tinyInstance, x *guest.Exchange, stack []uint64) {
		i.current, stack[0] = x, 0
		if x != nil {
			stack[0] = uint64(uint32(max(x.Request.ContentLength, 1)))
		}
	}
	add("next", nil, one, func(i *tinyInstance, _ api.Module, stack []uint64) {
		x, _ := i.Next(i.Context())
		next(i, x, stack)
	})
	add("further", one, one, func(i *tinyInstance, _ api.Module, stack []uint64) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(uint32(stack[0]))*time.Millisecond)
		defer cancel()
		var x *guest.Exchange
		i.Wait(func() { x, _ = i.Next(ctx) })
		next(i, x, stack)
	})
	add("answer", one, nil, func(i *tinyInstance, _ api.Module, stack []uint64) {
		i.current.Decide(guest.Outcome{Response: &http.Response{StatusCode: int(uint32(stack[0])), Body: http.NoBody}})
	})
	add("sleep", one, nil, func(i *tinyInstance, _ api.Module, stack []uint64) {
		i.Wait(func() {
			select {
			case <-time.After(time.Duration(uint32(stack[0])) * time.Millisecond):
			case <-i.Context().Done():
			}
		})
		if i.Context().Err() != nil {
			panic(context.Cause(i.Context()))
		}
	})
	add("note", one, nil, func(i *tinyInstance, _ api.Module, stack []uint64) { t.note(uint32(stack[0])) })
	add("starts", nil, one, func(i *tinyInstance, _ api.Module, stack []uint64) {
		t.note(0)
		stack[0] = uint64(len(t.noted()))
	})
	add("stall", one, nil, func(_ *tinyInstance, _ api.Module, stack []uint64) {
		stall(time.Duration(uint32(stack[0])) * time.Millisecond)
	})
	add("nothing", nil, nil, func(*tinyInstance, api.Module, []uint64) {})
	add("break", nil, nil, func(*tinyInstance, api.Module, []uint64) { panic("a host function's own fault") })
	_, err := b.Instantiate(ctx)
	return err
}

func (t *tiny) note(v uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.notes = append(t.notes, v)
}

func (t *tiny) noted() []uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.notes)
}

func (t *tiny) Open(s *guest.Sandbox) guest.Instance {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.live++
	t.most = max(t.most, t.live)
	return &tinyInstance{Sandbox: s, abi: t}
}

func (i *tinyInstance) Configure(system *guest.System) {
	system.Args, system.Env = []string{"tiny", "b"}, []string{"NAME=value"}
	system.Stdout = &guest.Lines{Line: func(line []byte) { i.Log.Info("guest", "line", string(line)) }}
}

func (i *tinyInstance) Run(ctx context.Context, m api.Module) error {
	_, err := m.ExportedFunction("_start").Call(ctx)
	return err
}

func (i *tinyInstance) Close() {
	i.abi.mu.Lock()
	defer i.abi.mu.Unlock()
	i.abi.live--
}

const imports = `
	(import "tiny" "next" (func $next (result i32)))
	(import "tiny" "further" (func $further (param i32) (result i32)))
	(import "tiny" "answer" (func $answer (param i32)))
	(import "tiny" "sleep" (func $sleep (param i32)))
	(import "tiny" "stall" (func $stall (param i32)))
	(import "tiny" "note" (func $note (param i32)))
	(import "tiny" "break" (func $break))
	(import "tiny" "starts" (func $starts (result i32)))
	(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
	`

// load makes a program of the fields of a module that imports tiny.
func load(t testing.TB, text string, opts guest.LoadOptions) (*guest.Program, *tiny) {
	t.Helper()
	abi := &tiny{}
	runtime, err := guest.NewRuntime(guest.RuntimeOptions{ABIs: []guest.ABI{abi}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := runtime.Close(); err != nil {
			t.Error(err)
		}
		if abi.live != 0 {
			t.Errorf("%d instances were not closed", abi.live)
		}
	})
	opts.Name = "test"
	p, err := runtime.Load(t.Context(), guesttest.WAT(t, "(module"+imports+text+")"), opts)
	if err != nil {
		t.Fatal(err)
	}
	return p, abi
}

func request() *guest.Exchange {
	return guest.NewExchange(httptest.NewRequest("GET", "http://example.com/", nil))
}

// status serves a request: what it was answered with, and the error.
func status(t testing.TB, p *guest.Program) (int, error) {
	t.Helper()
	outcome, err := p.Serve(t.Context(), request())
	if err != nil {
		return 0, err
	}
	return outcome.Response.StatusCode, nil
}

// until waits for a condition.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// dirty is a guest that counts in its memory and in a global, grows its memory, and
// tells by its answer what it found. Everything has to be new each time.
const dirty = `
	(memory (export "memory") 1 8)
	(global $count (mut i32) (i32.const 7))
	(data (i32.const 10) "\03")
	(func (export "_start") (local $found i32)
		(drop (call $next))
		(local.set $found (i32.add (memory.size) (i32.add (i32.load8_u (i32.const 10)) (i32.add (i32.load (i32.const 60000)) (global.get $count)))))
		(i32.store8 (i32.const 10) (i32.const 50))
		(i32.store (i32.const 60000) (i32.const 100))
		(global.set $count (i32.const 1000))
		(if (i32.ne (memory.grow (i32.const 2)) (i32.const 1)) (then unreachable))
		(local.set $found (i32.add (local.get $found) (i32.load (i32.const 150000))))
		(i32.store (i32.const 150000) (i32.const 10000))
		(call $answer (local.get $found)))`

func TestEveryRequestHasAMemoryOfItsOwn(t *testing.T) {
	for _, c := range []struct {
		name string
		opts guest.LoadOptions
	}{{"fresh", guest.LoadOptions{Parked: -1}}, {"parked", guest.LoadOptions{}}, {"snapshot", guest.LoadOptions{Snapshot: true}}} {
		t.Run(c.name, func(t *testing.T) {
			p, _ := load(t, dirty, c.opts)
			for range 30 {
				if got, err := status(t, p); err != nil || got != 1+3+7 {
					t.Fatalf("got %d, %v, want 11: something was left of another request", got, err)
				}
				if c.name != "fresh" {
					until(t, "a parked sandbox", func() bool { return p.Stats().Parked > 0 })
				}
			}
			got := p.Stats().Starts
			switch c.name {
			case "parked":
				if got[guest.WayParked] < 20 {
					t.Errorf("got %v, want most to have been parked", got)
				}
			case "fresh":
				until(t, "a spare instance", func() bool { return p.Stats().Spare > 0 }) // so they are used again
			case "snapshot":
				if got[guest.WaySnapshot] < 20 {
					t.Errorf("got %v, want most from the snapshot", got)
				}
			}
		})
	}
}

// What a guest does before it asks for its request is done once, and what it does
// afterwards leaves nothing: neither in memory, nor in globals, nor on its stack.
func TestASnapshotIsWhereItAskedForItsRequest(t *testing.T) {
	for _, c := range []struct{ name, end, start string }{
		{"exit", `(call $exit (i32.const 0))`, ""},
		{"exit with a code", `(call $exit (i32.const 9))`, ""},
		{"return", ``, ""},
		{"further", `(drop (call $further (i32.const 1)))`, ""},
		{"start function", ``, `(start $s)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, abi := load(t, `(memory 1 8) (global $count (mut i32) (i32.const 0)) (data (i32.const 10) "\01")
				(func $s (call $note (i32.const 77))) `+c.start+`
				(func $serve (param $on i32) (result i32)
					(drop (call $next))
					(local.get $on))
				(func $deep (param $n i32) (result i32) (local $keep i32)
					(local.set $keep (i32.mul (local.get $n) (i32.const 3)))
					(if (result i32) (local.get $n)
						(then (i32.add (i32.sub (local.get $keep) (local.get $keep)) (call $deep (i32.sub (local.get $n) (i32.const 1)))))
						(else (call $serve (i32.const 40)))))
				(func (export "_start") (local $mine i32)
					(call $note (i32.const 1))
					(global.set $count (i32.const 100))
					(i32.store8 (i32.const 10) (i32.const 60))
					(if (i32.ne (memory.grow (i32.const 1)) (i32.const 1)) (then unreachable))
					(i32.store8 (i32.const 100000) (i32.const 5))
					(local.set $mine (call $deep (i32.const 500)))
					(call $answer (i32.add (i32.add (local.get $mine) (global.get $count))
						(i32.add (i32.load8_u (i32.const 10)) (i32.add (i32.load8_u (i32.const 100000)) (memory.size)))))
					(global.set $count (i32.const 0))
					(i32.store8 (i32.const 10) (i32.const 0))
					(i32.store8 (i32.const 100000) (i32.const 0))
					(drop (memory.grow (i32.const 2)))
					`+c.end+`)`, guest.LoadOptions{Snapshot: true, Parked: 1})
			for i := range 50 {
				if got, err := status(t, p); err != nil || got != 40+100+60+5+2 {
					t.Fatalf("request %d: got %d, %v, want 207", i, got, err)
				}
				until(t, "it to be parked again", func() bool { return p.Stats().Parked == 1 && p.Stats().Sandboxes == 1 })
			}
			starts := 0
			for _, n := range abi.noted() {
				if n == 1 {
					starts++
				}
			}
			if starts > 3 {
				t.Errorf("the guest's own start was run %d times", starts)
			}
			if got := p.Stats().Starts[guest.WaySnapshot]; got < 40 {
				t.Errorf("got %v", p.Stats().Starts)
			}
			if code := p.Stats().Faults[guest.FaultExit]; c.name == "exit with a code" && code < 49 {
				t.Errorf("got %d exits", code)
			}
		})
	}
}

func TestAfterATrapASnapshotIsMadeAnew(t *testing.T) {
	p, _ := load(t, `(memory 1) (func (export "_start")
		(i32.store (i32.const 0) (i32.const 200)) (drop (call $next)) (call $answer (i32.load (i32.const 0))) unreachable)`, guest.LoadOptions{Snapshot: true})
	for range 5 {
		if got, err := status(t, p); err != nil || got != 200 {
			t.Fatalf("got %d, %v", got, err)
		}
	}
	until(t, "five faults", func() bool { return p.Stats().Faults[guest.FaultAbort] == 5 })
}

func TestAnInstanceThatCannotBeResetIsNotUsedAgain(t *testing.T) {
	p, _ := load(t, `(table 1 funcref) (elem (i32.const 0) $next) (func (export "_start") (drop (call $next))
		(call $answer (i32.add (i32.const 200) (ref.is_null (table.get 0 (i32.const 0)))))
		(table.set 0 (i32.const 0) (ref.null func)))`, guest.LoadOptions{Parked: -1})
	for range 3 {
		if got, err := status(t, p); err != nil || got != 200 {
			t.Fatalf("got %d, %v, want 200", got, err)
		}
	}
	until(t, "the sandboxes' end", func() bool { return p.Stats().Sandboxes == 0 })
	if got := p.Stats().Spare; got != 0 {
		t.Errorf("got %d spare instances, want none", got)
	}
}

func TestWhatBecomesOfAGuestIsSaid(t *testing.T) {
	limits := guest.Limits{CPU: 50 * time.Millisecond, Wall: time.Minute, MemoryBytes: 4 << 16}
	for _, c := range []struct {
		name, text string
		want       guest.FaultKind
		says       string
	}{
		{"a loop", `(func (export "_start") (drop (call $next)) (loop $l (br $l)))`, guest.FaultCPU, "more than 50ms"},
		{"a loop that is found", `(func $spin (loop $l (br $l))) (func $begin (export "_start") (call $spin))`, guest.FaultCPU, "\nwasm stack trace:\n\t.spin()\n\t.begin()"},
		{"a loop before its request", `(func (export "_start") (loop $l (br $l)))`, guest.FaultCPU, ""},
		{"a recursion", `(func $f (param i32) (result i32) (if (result i32) (local.get 0)
			(then (i32.add (call $f (i32.sub (local.get 0) (i32.const 1))) (call $f (i32.sub (local.get 0) (i32.const 1))))) (else i32.const 0)))
			(func (export "_start") (drop (call $f (i32.const 60))))`, guest.FaultCPU, ""},
		{"copies", `(memory 4) (func (export "_start") (loop $l (memory.copy (i32.const 0) (i32.const 1) (i32.const 262143)) (br $l)))`, guest.FaultCPU, ""},
		{"a wait", `(func (export "_start") (drop (call $next)) (call $sleep (i32.const 1000000)))`, guest.FaultWall, "longer than 300ms"},
		{"a trap", `(func (export "_start") (drop (i32.div_u (i32.const 1) (i32.const 0))))`, guest.FaultTrap, "divide by zero"},
		{"outside of its memory", `(memory 1) (func (export "_start") (drop (i32.load (i32.const 65536))))`, guest.FaultTrap, "out of bounds"},
		{"deep recursion", `(func $f (call $f)) (func (export "_start") (call $f))`, guest.FaultTrap, "stack overflow"},
		{"unreachable", `(func (export "_start") unreachable)`, guest.FaultAbort, "unreachable"},
		{"an exit", `(func (export "_start") (call $exit (i32.const 3)))`, guest.FaultExit, "exited with code 3"},
		{"too much memory", `(memory 1) (func (export "_start") (if (i32.eq (memory.grow (i32.const 4)) (i32.const -1)) (then unreachable)))`, guest.FaultMemory, "more than its 262144 bytes"},
		{"an unknown import", `(import "tiny" "gone" (func $gone)) (func $begin (export "_start") (call $gone))`, guest.FaultImport, "the import \"tiny\" \"gone\" was called, which is not known here\nwasm stack trace:\n\t.gone()\n\t.begin()"},
		{"a host function", `(func (export "_start") (call $break))`, guest.FaultHost, "a host function's own fault"},
		{"a start function", `(func $s unreachable) (start $s) (func (export "_start"))`, guest.FaultAbort, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			limits := limits
			switch c.want {
			case guest.FaultTrap: // also of deep recursion, whose stack is copied as it grows
				limits.CPU = time.Minute
			case guest.FaultWall:
				limits.Wall = 300 * time.Millisecond
			}
			p, _ := load(t, c.text, guest.LoadOptions{Limits: limits})
			_, err := status(t, p)
			var fault *guest.Fault
			if !errors.As(err, &fault) || fault.Kind != c.want || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("got %v, want %s, and %q", err, c.want, c.says)
			}
			until(t, "the count", func() bool { return p.Stats().Faults[c.want] == 1 })
		})
	}
	t.Run("nothing", func(t *testing.T) {
		p, _ := load(t, `(func (export "_start") (drop (call $next)) (call $exit (i32.const 0)))`, guest.LoadOptions{})
		if _, err := status(t, p); !errors.Is(err, guest.ErrUndecided) {
			t.Errorf("got %v, want ErrUndecided", err)
		}
	})
}

func TestAModuleWithoutMemoryHasNoAddresses(t *testing.T) {
	p, _ := load(t, `(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
		(func (export "_start") (drop (call $next)) (call $answer (i32.add (i32.const 200) (call $random (i32.const 0) (i32.const 4)))))`, guest.LoadOptions{})
	const fault = 21 // of WASI
	if got, err := status(t, p); err != nil || got != 200+fault {
		t.Errorf("got %d, %v, want %d", got, err, 200+fault)
	}
}

func TestAMemoryMayBeAsLargeAsThereAre(t *testing.T) {
	p, _ := load(t, `(memory 1) (func (export "_start") (drop (call $next))
		(if (i32.eq (memory.grow (i32.const 65534)) (i32.const -1)) (then (call $answer (i32.const 500)) (return)))
		(i32.store8 (i32.const 0xfffeffff) (i32.const 204))
		(if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then (call $answer (i32.const 501)) (return)))
		(call $answer (i32.load8_u (i32.const 0xfffeffff))))`, guest.LoadOptions{Limits: guest.Limits{MemoryBytes: 4 << 30}})
	if got, err := status(t, p); err != nil || got != 204 {
		t.Errorf("got %d, %v, want 204", got, err)
	}
}

// What host functions do for a guest is its own time: it must not be able to have them
// work for ever.
func TestWorkOfHostFunctionsIsTheGuests(t *testing.T) {
	p, _ := load(t, `(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32))) (memory 32)
		(func (export "_start") (loop $l (drop (call $random (i32.const 0) (i32.const 2000000))) (br $l)))`,
		guest.LoadOptions{Limits: guest.Limits{CPU: 50 * time.Millisecond, MemoryBytes: 32 << 16}})
	began := time.Now()
	_, err := status(t, p)
	var fault *guest.Fault
	if !errors.As(err, &fault) || fault.Kind != guest.FaultCPU {
		t.Errorf("got %v, want %s", err, guest.FaultCPU)
	}
	if took := time.Since(began); took > 20*time.Second { // without a look at the clock it is minutes
		t.Errorf("it was stopped after %v", took)
	}
}

// A guest spins; meanwhile others are served and the garbage is collected.
func TestASpinningGuestStallsNobody(t *testing.T) {
	p, abi := load(t, `(func (export "_start") (drop (call $next)) (call $note (i32.const 1)) (loop $l (br $l)))`,
		guest.LoadOptions{Limits: guest.Limits{CPU: time.Minute}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 8)
	for range cap(ended) {
		go func() {
			_, err := p.Serve(ctx, request())
			ended <- err
		}()
	}
	until(t, "all to spin", func() bool { return len(abi.noted()) == cap(ended) })
	other, _ := load(t, `(func (export "_start") (drop (call $next)) (call $answer (i32.const 200)))`, guest.LoadOptions{})
	begin := time.Now()
	for range 20 {
		if got, err := status(t, other); err != nil || got != 200 {
			t.Fatal(got, err)
		}
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("20 requests took %v beside spinning guests", took)
	}
	cancel()
	for range cap(ended) {
		var fault *guest.Fault
		if err := <-ended; !errors.As(err, &fault) || fault.Kind != guest.FaultEnded {
			t.Errorf("got %v, want it ended with its client", err)
		}
	}
}

func TestWaitingIsNotCounted(t *testing.T) {
	p, _ := load(t, `(func (export "_start") (drop (call $next)) (call $sleep (i32.const 300)) (call $answer (i32.const 200)))`,
		guest.LoadOptions{Limits: guest.Limits{CPU: 200 * time.Millisecond}})
	if got, err := status(t, p); err != nil || got != 200 {
		t.Errorf("got %d, %v", got, err)
	}
}

func TestAGuestGoesOnAfterItsAnswer(t *testing.T) {
	p, abi := load(t, `(func (export "_start") (drop (call $next)) (call $answer (i32.const 200)) (call $sleep (i32.const 50)) (call $note (i32.const 5)))`, guest.LoadOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := p.Serve(ctx, request()); err != nil {
		t.Fatal(err)
	}
	cancel()
	until(t, "the note", func() bool { return len(abi.noted()) == 1 })
}

func TestBeyondTheLimitOfSandboxesIsBusy(t *testing.T) {
	p, abi := load(t, `(func (export "_start") (drop (call $next)) (call $note (i32.const 1)) (call $sleep (i32.const 1000000)))`,
		guest.LoadOptions{Parked: -1, Limits: guest.Limits{Sandboxes: 2}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 2 {
		go p.Serve(ctx, request())
	}
	until(t, "two to run", func() bool { return len(abi.noted()) == 2 })
	_, err := status(t, p)
	var fault *guest.Fault
	if !errors.As(err, &fault) || fault.Kind != guest.FaultBusy {
		t.Errorf("got %v, want busy", err)
	}
	cancel()
	until(t, "their end", func() bool { return p.Stats().Sandboxes == 0 })
}

// again is a guest that asks for further requests, and counts them.
const again = `(memory 1) (global $n (mut i32) (i32.const 200))
	(func (export "_start")
		(drop (call $next))
		(loop $l
			(call $answer (global.get $n))
			(global.set $n (i32.add (global.get $n) (i32.const 1)))
			(br_if $l (call $further (i32.const 20000))))
		(call $note (global.get $n)))`

func TestASandboxIsGivenFurtherRequests(t *testing.T) {
	p, abi := load(t, again, guest.LoadOptions{Parked: -1})
	for i := range 6 {
		ctx, cancel := context.WithCancel(t.Context())
		outcome, err := p.Serve(ctx, request())
		cancel() // which does not end the sandbox
		if err != nil || outcome.Response.StatusCode != 200+i {
			t.Fatalf("request %d: got %+v, %v", i, outcome.Response, err)
		}
		if i < 5 {
			until(t, "it to ask for more", func() bool { return p.Stats().Waiting == 1 })
		}
	}
	until(t, "its end after 5 further ones", func() bool { return slices.Equal(abi.noted(), []uint32{206}) })
	if got := p.Stats().Starts; got[guest.WayFresh] != 1 || got[guest.WayFurther] != 5 {
		t.Errorf("got %v", got)
	}
}

func TestOnlySoManySandboxesWait(t *testing.T) {
	p, abi := load(t, again, guest.LoadOptions{Parked: -1})
	var wait sync.WaitGroup
	for range 13 { // more than two sandboxes may have
		wait.Go(func() { p.Serve(context.Background(), request()) })
	}
	wait.Wait()
	until(t, "those that may not wait to end", func() bool { return p.Stats().Sandboxes == p.Stats().Waiting })
	if got := p.Stats().Waiting; got > 5 || got < 1 {
		t.Errorf("got %d waiting, want 1 to 5", got)
	}
	p.Close()
	if got := p.Stats().Sandboxes; got != 0 {
		t.Errorf("got %d sandboxes after Close", got)
	}
	for _, n := range abi.noted() {
		if n > 206 {
			t.Errorf("a sandbox had %d requests", n-200)
		}
	}
}

func TestCloseBreaksOffAndWaits(t *testing.T) {
	p, abi := load(t, `(func (export "_start") (drop (call $next)) (call $note (i32.const 1)) (loop $l (br $l)))`, guest.LoadOptions{})
	ended := make(chan error)
	go func() {
		_, err := p.Serve(context.Background(), request())
		ended <- err
	}()
	until(t, "it to run", func() bool { return len(abi.noted()) == 1 })
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if got := p.Stats().Sandboxes; got != 0 {
		t.Errorf("got %d sandboxes after Close", got)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("got %v, want that the program has been closed", err)
	}
	if _, err := status(t, p); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("got %v after Close", err)
	}
}

// A guest whose start fails is started for those who ask, and given up for parking.
func TestAGuestThatCannotStartIsNotParked(t *testing.T) {
	p, abi := load(t, `(func (export "_start")
		(if (i32.gt_u (call $starts) (i32.const 1)) (then unreachable))
		(drop (call $next)) (call $answer (i32.const 200)))`, guest.LoadOptions{Parked: 8})
	if _, err := status(t, p); err != nil {
		t.Fatal(err)
	}
	const requests = 30
	for range requests {
		var fault *guest.Fault
		if _, err := status(t, p); !errors.As(err, &fault) || fault.Kind != guest.FaultAbort {
			t.Fatalf("got %v, want what its start failed with", err)
		}
	}
	until(t, "all to end", func() bool { return p.Stats().Sandboxes == 0 })
	// Three failures, of which up to eight may have been under way, and a little patience
	// for a machine on which all this took longer than the rest.
	if early := len(abi.noted()) - 1 - requests; early > 3+8+8 {
		t.Errorf("%d starts that nobody asked for", early)
	}
}

func TestAProgramThatIsRunIsStartedOnce(t *testing.T) {
	p, abi := load(t, `(func (export "_start") (call $note (i32.const 1)) (drop (call $next)) (call $answer (i32.const 200))
		(call $sleep (i32.const 50)) (call $exit (i32.const 4)))`, guest.LoadOptions{})
	err := p.Run(t.Context(), request())
	var fault *guest.Fault
	if !errors.As(err, &fault) || fault.Kind != guest.FaultExit || fault.Code != 4 {
		t.Errorf("got %v, want exit code 4", err)
	}
	if got := abi.noted(); len(got) != 1 {
		t.Errorf("got %d starts", len(got))
	}
}

func TestUnknownImportsAreNamed(t *testing.T) {
	abi := &tiny{}
	runtime, err := guest.NewRuntime(guest.RuntimeOptions{ABIs: []guest.ABI{abi}})
	if err != nil {
		t.Fatal(err)
	}
	defer runtime.Close()
	module := func(text string) []byte { return guesttest.WAT(t, "(module "+text+")") }
	gone := `(import "tiny" "next" (func (result i32))) (import "elsewhere" "f" (func)) (func (export "_start"))`
	p, err := runtime.Load(t.Context(), module(gone), guest.LoadOptions{Name: "g"})
	if err != nil || fmt.Sprint(p.Module().Unknown) != "[{elsewhere f}]" {
		t.Fatalf("got %v, %v", p, err)
	}
	if _, err := runtime.Load(t.Context(), module(`(func (export "_start"))`), guest.LoadOptions{Name: "g", Assume: "tiny"}); err != nil {
		t.Errorf("a program with no sign of any platform: %v", err)
	}
	for _, c := range []struct {
		wasm []byte
		opts guest.LoadOptions
		want string
	}{
		{module(gone), guest.LoadOptions{Name: "g", StrictImports: true}, `guest "g": imports that are not known here: elsewhere.f`},
		{module(`(import "tiny" "next" (func (param i32)))`), guest.LoadOptions{}, `import "tiny" "next" has type ()->(i32), the guest wants (i32)->()`},
		{module(`(func (export "proxy_abi_version_0_2_1"))`), guest.LoadOptions{}, "a proxy-wasm filter, which is not supported yet"},
		{module(`(import "gcore:fastedge/dictionary" "get" (func))`), guest.LoadOptions{}, "a FastEdge app, which is not supported yet"},
		{module(`(import "env" "hostcall_init" (func))`), guest.LoadOptions{}, "a Terrarium guest, which is not supported yet"},
		{module(`(func)`), guest.LoadOptions{}, "it exports no _start, as programs do: no platform known here"},
		{module(`(func (export "_initialize"))`), guest.LoadOptions{}, "this is a library: it exports _initialize, and no _start"},
		{module(`(func (export "_start"))`), guest.LoadOptions{}, "no platform known here"},
		{module(`(import "tiny" "next" (func (result i32))) (memory 3000)`), guest.LoadOptions{}, "the memory begins with 3000 pages, 2048 may be"},
		{module(`(import "tiny" "next" (func (result i32))) (func (export "_start") (i32.add (i32.const 1)))`), guest.LoadOptions{}, "invalid"},
		{[]byte("\x00asm\x0d\x00\x01\x00"), guest.LoadOptions{}, "this is a component"},
		{module(`(import "wasi_snapshot_preview1" "sched_yield" (func (result i32))) (func (export "_start"))`), guest.LoadOptions{}, "it imports nothing of an edge platform: no platform known here"},
		{module(`(import "env" "hostcall_init" (func)) (func (export "_start"))`), guest.LoadOptions{Assume: "tiny"}, "a Terrarium guest, which is not supported yet"},
		{module(`(func)`), guest.LoadOptions{Assume: "tiny"}, "it exports no _start"},
		{module(`(func (export "_start"))`), guest.LoadOptions{Assume: "nobody's"}, "no platform known here"},
	} {
		if _, err := runtime.Load(t.Context(), c.wasm, c.opts); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}
