package wasi_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"

	"github.com/gripway/gripway/guest/guesttest"
	"github.com/gripway/gripway/guest/internal/wasi"
)

// start makes a module that exports each of the functions, as f.
func start(t *testing.T, s *wasi.System, functions ...string) api.Module {
	t.Helper()
	r := wazero.NewRuntime(t.Context())
	t.Cleanup(func() { r.Close(context.Background()) })
	if err := wasi.Define(t.Context(), r, func(context.Context) *wasi.System { return s }); err != nil {
		t.Fatal(err)
	}
	text := "(module "
	definitions := r.Module(wasi.Module).ExportedFunctionDefinitions()
	signature := func(name string) (params, results, gets string) {
		for i, p := range definitions[name].ParamTypes() {
			params += " " + api.ValueTypeName(p)
			gets += " (local.get " + string(rune('0'+i)) + ")"
		}
		for range definitions[name].ResultTypes() {
			results = "(result i32)"
		}
		return "(param" + params + ")", results, gets
	}
	for _, f := range functions {
		params, results, _ := signature(f)
		text += `(import "wasi_snapshot_preview1" "` + f + `" (func $` + f + " " + params + results + "))"
	}
	text += `(memory (export "memory") 1)`
	for _, f := range functions {
		params, results, gets := signature(f)
		text += `(func (export "` + f + `") ` + params + results + " (call $" + f + gets + "))"
	}
	m, err := r.InstantiateWithConfig(t.Context(), guesttest.WAT(t, text+")"), wazero.NewModuleConfig().WithStartFunctions())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func call(t *testing.T, m api.Module, name string, args ...uint64) uint32 {
	t.Helper()
	got, err := m.ExportedFunction(name).Call(t.Context(), args...)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return uint32(got[0])
}

func read(t *testing.T, m api.Module, at, n uint32) string {
	t.Helper()
	b, ok := m.Memory().Read(at, n)
	if !ok {
		t.Fatal("outside of the memory")
	}
	return string(b)
}

func TestArgumentsAndEnvironment(t *testing.T) {
	m := start(t, &wasi.System{Args: []string{"app", "", "two"}, Env: []string{"A=b", "LONG=value"}}, "args_get", "args_sizes_get", "environ_get", "environ_sizes_get")
	for _, c := range []struct{ name, want string }{{"args", "app\x00\x00two\x00"}, {"environ", "A=b\x00LONG=value\x00"}} {
		if e := call(t, m, c.name+"_sizes_get", 0, 4); e != 0 {
			t.Fatalf("%s: got error %d", c.name, e)
		}
		count, _ := m.Memory().ReadUint32Le(0)
		size, _ := m.Memory().ReadUint32Le(4)
		if int(count) != strings.Count(c.want, "\x00") || int(size) != len(c.want) {
			t.Errorf("%s: got %d of %d bytes", c.name, count, size)
		}
		if e := call(t, m, c.name+"_get", 16, 100); e != 0 {
			t.Fatalf("%s: got error %d", c.name, e)
		}
		if got := read(t, m, 100, size); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
		at := uint32(100)
		for i := range count {
			if got, _ := m.Memory().ReadUint32Le(16 + 4*i); got != at {
				t.Errorf("%s: address %d is %d, want %d", c.name, i, got, at)
			}
			at += uint32(strings.IndexByte(c.want[at-100:], 0)) + 1
		}
		if e := call(t, m, c.name+"_get", 16, 65530); e != 21 {
			t.Errorf("%s outside of the memory: got %d, want EFAULT", c.name, e)
		}
	}
}

func TestStreams(t *testing.T) {
	var out, errs bytes.Buffer
	m := start(t, &wasi.System{Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: &errs}, "fd_write", "fd_read", "fd_fdstat_get", "fd_prestat_get", "path_open", "fd_close")
	memory := m.Memory()
	memory.WriteString(100, "onetwo")
	for i, v := range []uint32{100, 3, 0, 0, 103, 3} { // an empty one between
		memory.WriteUint32Le(uint32(4*i), v)
	}
	for fd, want := range map[uint64]uint32{1: 0, 2: 0, 0: 8, 3: 8} {
		if e := call(t, m, "fd_write", fd, 0, 3, 64); e != want {
			t.Errorf("write to %d: got %d, want %d", fd, e, want)
		}
	}
	if n, _ := memory.ReadUint32Le(64); n != 6 || out.String() != "onetwo" || errs.String() != "onetwo" {
		t.Errorf("got %d, %q, %q", n, out.String(), errs.String())
	}
	var all string
	for range 3 {
		if e := call(t, m, "fd_read", 0, 0, 3, 64); e != 0 {
			t.Fatalf("read: got %d", e)
		}
		n, _ := memory.ReadUint32Le(64)
		all += read(t, m, 100, n)
	}
	if all != "hello" {
		t.Errorf("read %q", all)
	}
	for _, c := range []struct {
		name string
		args []uint64
		want uint32
	}{
		{"fd_write", []uint64{1, 65530, 9, 64}, 21}, {"fd_write", []uint64{1, 0, 1 << 30, 64}, 21}, {"fd_write", []uint64{1, 0, 1, 70000}, 21},
		{"fd_read", []uint64{1, 0, 1, 64}, 8}, {"fd_fdstat_get", []uint64{1, 200}, 0}, {"fd_fdstat_get", []uint64{3, 200}, 8},
		{"fd_fdstat_get", []uint64{0, 65530}, 21}, {"fd_prestat_get", []uint64{3, 200}, 8}, {"path_open", make([]uint64, 9), 8}, {"fd_close", []uint64{1}, 0},
	} {
		if e := call(t, m, c.name, c.args...); e != c.want {
			t.Errorf("%s %v: got %d, want %d", c.name, c.args, e, c.want)
		}
	}
}

func TestClocksAndRandomness(t *testing.T) {
	m := start(t, &wasi.System{CPU: func() time.Duration { return 42 }}, "clock_time_get", "clock_res_get", "random_get")
	times := make([]uint64, 3)
	for id := range times {
		if e := call(t, m, "clock_time_get", uint64(id), 0, 8); e != 0 {
			t.Fatalf("clock %d: got %d", id, e)
		}
		times[id], _ = m.Memory().ReadUint64Le(8)
	}
	if d := time.Since(time.Unix(0, int64(times[0]))); d < 0 || d > time.Minute {
		t.Errorf("the clock is %v behind", d)
	}
	if times[1] == 0 || times[2] != 42 {
		t.Errorf("got %v", times)
	}
	if e := call(t, m, "clock_time_get", 4, 0, 8); e != 28 {
		t.Errorf("clock 4: got %d, want EINVAL", e)
	}
	call(t, m, "random_get", 1000, 64)
	if read(t, m, 1000, 64) == strings.Repeat("\x00", 64) {
		t.Error("nothing is random")
	}
	if e := call(t, m, "random_get", 65000, 1000); e != 21 {
		t.Errorf("outside of the memory: got %d", e)
	}
}

// subscription is one of poll_oneoff's.
func subscription(userdata uint64, kind byte, what uint32, timeout uint64, flags uint16) []byte {
	b := make([]byte, 48)
	binary.LittleEndian.PutUint64(b, userdata)
	b[8] = kind
	binary.LittleEndian.PutUint32(b[16:], what)
	binary.LittleEndian.PutUint64(b[24:], timeout)
	binary.LittleEndian.PutUint16(b[40:], flags)
	return b
}

func TestASleepWaitsForTheFirstAndCountsAsWaiting(t *testing.T) {
	waited := time.Duration(0)
	m := start(t, &wasi.System{Wait: func(f func()) {
		begin := time.Now()
		f()
		waited += time.Since(begin)
	}}, "poll_oneoff", "clock_time_get")
	long := subscription(1, 0, 1, uint64(time.Hour), 0)
	short := subscription(2, 0, 1, uint64(20*time.Millisecond), 0)
	past := subscription(3, 0, 0, 1000, 1) // an absolute time
	stream := subscription(4, 2, 1, 0, 0)
	broken := subscription(5, 1, 7, 0, 0)
	for _, c := range []struct {
		name   string
		list   [][]byte
		events []uint64
		errno  byte
		waits  bool
	}{
		{"the shorter of two clocks", [][]byte{long, short}, []uint64{2}, 0, true},
		{"a time that is over", [][]byte{long, past}, []uint64{3}, 0, false},
		{"a stream is ready", [][]byte{long, stream}, []uint64{4}, 0, false},
		{"a stream that is not there", [][]byte{long, broken}, []uint64{5}, 8, false},
	} {
		waited = 0
		m.Memory().Write(0, bytes.Join(c.list, nil))
		if e := call(t, m, "poll_oneoff", 0, 1000, uint64(len(c.list)), 4000); e != 0 {
			t.Fatalf("%s: got %d", c.name, e)
		}
		n, _ := m.Memory().ReadUint32Le(4000)
		var got []uint64
		for i := range n {
			v, _ := m.Memory().ReadUint64Le(1000 + 32*i)
			got = append(got, v)
		}
		errno, _ := m.Memory().ReadByte(1008)
		if len(got) != 1 || got[0] != c.events[0] || errno != c.errno {
			t.Errorf("%s: got events %v, error %d", c.name, got, errno)
		}
		if c.waits != (waited >= 20*time.Millisecond) {
			t.Errorf("%s: waited %v", c.name, waited)
		}
	}
	for _, n := range []uint64{0, 2000} {
		if e := call(t, m, "poll_oneoff", 0, 1000, n, 4000); e != 28 {
			t.Errorf("%d subscriptions: got %d, want EINVAL", n, e)
		}
	}
}

func TestASleeperIsStopped(t *testing.T) {
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	m := start(t, &wasi.System{Stopped: func() context.Context { return ctx }}, "poll_oneoff")
	m.Memory().Write(0, subscription(1, 0, 1, uint64(time.Hour), 0))
	time.AfterFunc(10*time.Millisecond, func() { cancel(enough) })
	if _, err := m.ExportedFunction("poll_oneoff").Call(t.Context(), 0, 1000, 1, 4000); !errors.Is(err, enough) {
		t.Errorf("got %v, want it stopped", err)
	}
}

func TestAnExitLeavesTheInstance(t *testing.T) {
	m := start(t, &wasi.System{}, "proc_exit", "sched_yield")
	_, err := m.ExportedFunction("proc_exit").Call(t.Context(), 7)
	var exit *sys.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("got %v, want exit code 7", err)
	}
	if e := call(t, m, "sched_yield"); e != 0 || m.IsClosed() {
		t.Error("the instance is gone")
	}
}

func TestLinesAreWholeAndBounded(t *testing.T) {
	var got []string
	l := &wasi.Lines{Line: func(b []byte) { got = append(got, string(b)) }}
	for _, s := range []string{"one\ntw", "o\r\n\nthree", strings.Repeat("x", wasi.LineMax), "\nend"} {
		if n, err := l.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatal(n, err)
		}
	}
	l.Flush()
	want := []string{"one", "two", "", "three" + strings.Repeat("x", wasi.LineMax-5), "xxxxx", "end"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got %d lines %.200q, want %d", len(got), got, len(want))
	}
}
