// Package wasi is what guests of every ABI see of WASI preview 1: arguments, an
// environment, clocks, randomness, three streams and an end. There are no files and
// no sockets.
//
// wazero has a WASI of its own. This one differs where guests of a gateway do: a
// guest that sleeps is waiting, which its time does not count and which ends when the
// guest is to be stopped; proc_exit ends the guest and leaves the instance as it is,
// so that it can be used again; one sandbox's arguments are not its instance's.
package wasi

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"runtime"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"
)

// Module is what guests import it as.
const Module = "wasi_snapshot_preview1"

// System is what one guest sees. Its owner fills it before the guest runs; the guest's
// goroutine reads it.
type System struct {
	// Args and Env are as of a process; Env has lines like NAME=value.
	Args, Env []string

	// Stdin is what the guest reads; nil is empty. Stdout and Stderr take what it
	// writes; nil discards.
	Stdin          io.Reader
	Stdout, Stderr io.Writer

	// Random fills what the guest asks for; nil is the system's randomness. Now and
	// Monotonic are its clocks, in nanoseconds; nil are the system's.
	Random         io.Reader
	Now, Monotonic func() int64

	// CPU is how long it has run; nil is never.
	CPU func() time.Duration

	// Exit is told when the guest exits, and may not return; otherwise the guest is
	// ended with a *sys.ExitError. Nil: nobody is told.
	Exit func(code uint32)

	// Wait runs a function that waits, Stopped ends when the guest is to be stopped.
	// Either may be nil.
	Wait    func(func())
	Stopped func() context.Context
}

// Errors of the interface.
type errno = uint32

const (
	ok        errno = 0
	badf      errno = 8
	fault     errno = 21
	inval     errno = 28
	ioError   errno = 29
	nosys     errno = 52
	notsup    errno = 58
	isPipe    errno = 70
	notcapabl errno = 76
)

// start is when the monotonic clock began.
var start = time.Now()

func (s *System) now() int64 {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now().UnixNano()
}

func (s *System) monotonic() int64 {
	if s.Monotonic != nil {
		return s.Monotonic()
	}
	return int64(time.Since(start)) + 1 // Go guests take 0 for broken
}

func (s *System) wait(f func()) {
	if s.Wait == nil {
		f()
		return
	}
	s.Wait(f)
}

// call is one call of the guest's.
type call struct {
	*System
	memory api.Memory
	stack  []uint64
}

func (c *call) u32(i int) uint32 { return uint32(c.stack[i]) }
func (c *call) u64(i int) uint64 { return c.stack[i] }

func (c *call) put32(at, v uint32) errno { return written(c.memory.WriteUint32Le(at, v)) }

func (c *call) put64(at uint32, v uint64) errno { return written(c.memory.WriteUint64Le(at, v)) }

func written(ok bool) errno {
	if !ok {
		return fault
	}
	return 0
}

// function is one of the interface, with its parameters: i is an i32, l an i64.
type function struct {
	name, params string
	do           func(c *call) errno
}

// functions are all of preview 1. What there are no files and no sockets for is
// there, and says so.
var functions = []function{
	{"args_get", "ii", func(c *call) errno { return c.strings(c.Args) }},
	{"args_sizes_get", "ii", func(c *call) errno { return c.sizes(c.Args) }},
	{"environ_get", "ii", func(c *call) errno { return c.strings(c.Env) }},
	{"environ_sizes_get", "ii", func(c *call) errno { return c.sizes(c.Env) }},
	{"clock_res_get", "ii", clockResGet},
	{"clock_time_get", "ili", clockTimeGet},
	{"fd_advise", "illi", stream(isPipe)},
	{"fd_allocate", "ill", stream(isPipe)},
	{"fd_close", "i", stream(ok)},
	{"fd_datasync", "i", stream(inval)},
	{"fd_fdstat_get", "ii", fdFdstatGet},
	{"fd_fdstat_set_flags", "ii", stream(ok)},
	{"fd_fdstat_set_rights", "ill", stream(ok)},
	{"fd_filestat_get", "ii", fdFilestatGet},
	{"fd_filestat_set_size", "il", stream(inval)},
	{"fd_filestat_set_times", "illi", stream(inval)},
	{"fd_pread", "iiili", stream(isPipe)},
	{"fd_prestat_get", "ii", fixed(badf)},
	{"fd_prestat_dir_name", "iii", fixed(badf)},
	{"fd_pwrite", "iiili", stream(isPipe)},
	{"fd_read", "iiii", fdRead},
	{"fd_readdir", "iiili", fixed(badf)},
	{"fd_renumber", "ii", stream(notsup)},
	{"fd_seek", "ilii", stream(isPipe)},
	{"fd_sync", "i", stream(inval)},
	{"fd_tell", "ii", stream(isPipe)},
	{"fd_write", "iiii", fdWrite},
	{"path_create_directory", "iii", fixed(badf)},
	{"path_filestat_get", "iiiii", fixed(badf)},
	{"path_filestat_set_times", "iiiilli", fixed(badf)},
	{"path_link", "iiiiiii", fixed(badf)},
	{"path_open", "iiiiillii", fixed(badf)},
	{"path_readlink", "iiiiii", fixed(badf)},
	{"path_remove_directory", "iii", fixed(badf)},
	{"path_rename", "iiiiii", fixed(badf)},
	{"path_symlink", "iiiii", fixed(badf)},
	{"path_unlink_file", "iii", fixed(badf)},
	{"poll_oneoff", "iiii", pollOneoff},
	{"proc_raise", "i", fixed(nosys)},
	{"random_get", "ii", randomGet},
	{"sched_yield", "", func(*call) errno { runtime.Gosched(); return ok }},
	{"sock_accept", "iii", fixed(badf)},
	{"sock_recv", "iiiiii", fixed(badf)},
	{"sock_send", "iiiii", fixed(badf)},
	{"sock_shutdown", "ii", fixed(badf)},
}

// Define adds the interface to a runtime. system finds what a call's guest sees.
func Define(ctx context.Context, r wazero.Runtime, system func(ctx context.Context) *System) error {
	b := r.NewHostModuleBuilder(Module)
	for _, f := range functions {
		params := make([]api.ValueType, len(f.params))
		for i := range params {
			params[i] = api.ValueTypeI32
			if f.params[i] == 'l' {
				params[i] = api.ValueTypeI64
			}
		}
		do := f.do
		b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(ctx context.Context, m api.Module, stack []uint64) {
			c := call{system(ctx), m.Memory(), stack}
			if c.memory == nil {
				stack[0] = uint64(fault)
				return
			}
			stack[0] = uint64(do(&c))
		}), params, []api.ValueType{api.ValueTypeI32}).Export(f.name)
	}
	b.NewFunctionBuilder().WithGoFunction(api.GoFunc(func(ctx context.Context, stack []uint64) {
		if s := system(ctx); s.Exit != nil {
			s.Exit(uint32(stack[0]))
		}
		panic(sys.NewExitError(uint32(stack[0])))
	}), []api.ValueType{api.ValueTypeI32}, nil).Export("proc_exit")
	_, err := b.Instantiate(ctx)
	return err
}

// fixed always answers the same.
func fixed(e errno) func(*call) errno { return func(*call) errno { return e } }

// stream answers the same about the three streams.
func stream(e errno) func(*call) errno {
	return func(c *call) errno {
		if c.u32(0) > 2 {
			return badf
		}
		return e
	}
}

// strings writes strings, each ended by NUL, to parameter 1 and their addresses to
// parameter 0.
func (c *call) strings(list []string) errno {
	addresses, at := c.u32(0), c.u32(1)
	for i, s := range list {
		if c.put32(addresses+4*uint32(i), at) != ok || !c.memory.WriteString(at, s) || !c.memory.WriteByte(at+uint32(len(s)), 0) {
			return fault
		}
		at += uint32(len(s)) + 1
	}
	return ok
}

func (c *call) sizes(list []string) errno {
	n := 0
	for _, s := range list {
		n += len(s) + 1
	}
	if e := c.put32(c.u32(0), uint32(len(list))); e != ok {
		return e
	}
	return c.put32(c.u32(1), uint32(n))
}

// Clocks.
const (
	clockRealtime = iota
	clockMonotonic
	clockProcess
	clockThread
)

func (c *call) clock(id uint32) (int64, errno) {
	switch id {
	case clockRealtime:
		return c.now(), ok
	case clockMonotonic:
		return c.monotonic(), ok
	case clockProcess, clockThread:
		if c.CPU == nil {
			return 0, ok
		}
		return int64(c.CPU()), ok
	}
	return 0, inval
}

func clockResGet(c *call) errno {
	if c.u32(0) > clockThread {
		return inval
	}
	return c.put64(c.u32(1), 1)
}

func clockTimeGet(c *call) errno {
	v, e := c.clock(c.u32(0))
	if e != ok {
		return e
	}
	return c.put64(c.u32(2), uint64(v))
}

const characterDevice = 2 // a file type

func fdFdstatGet(c *call) errno {
	fd := c.u32(0)
	if fd > 2 {
		return badf
	}
	b, there := c.memory.Read(c.u32(1), 24)
	if !there {
		return fault
	}
	clear(b)
	b[0] = characterDevice
	rights := uint64(1 << 6) // fd_write
	if fd == 0 {
		rights = 1 << 1 // fd_read
	} else {
		b[2] = 1 // append
	}
	binary.LittleEndian.PutUint64(b[8:], rights|1<<27) // and poll_fd_readwrite
	return ok
}

func fdFilestatGet(c *call) errno {
	if c.u32(0) > 2 {
		return badf
	}
	b, there := c.memory.Read(c.u32(1), 64)
	if !there {
		return fault
	}
	clear(b)
	b[16] = characterDevice
	return ok
}

// vectors calls do with each of a list of buffers until it says to stop.
func (c *call) vectors(list, n uint32, do func(b []byte) (more bool)) errno {
	b, there := c.memory.Read(list, 8*n)
	if !there || n > math.MaxUint32/8 {
		return fault
	}
	for ; len(b) > 0; b = b[8:] {
		size := binary.LittleEndian.Uint32(b[4:])
		if size == 0 {
			continue
		}
		buffer, there := c.memory.Read(binary.LittleEndian.Uint32(b), size)
		if !there {
			return fault
		}
		if !do(buffer) {
			break
		}
	}
	return ok
}

func fdRead(c *call) errno {
	if c.u32(0) != 0 {
		return badf
	}
	total := uint32(0)
	var failed error
	e := c.vectors(c.u32(1), c.u32(2), func(b []byte) bool {
		if c.Stdin == nil {
			return false
		}
		n, err := 0, error(nil)
		c.wait(func() { n, err = c.Stdin.Read(b) })
		total += uint32(n)
		if err != nil && !errors.Is(err, io.EOF) {
			failed = err
		}
		return err == nil && n == len(b)
	})
	if e == ok && failed != nil && total == 0 {
		e = ioError
	}
	if e != ok {
		return e
	}
	return c.put32(c.u32(3), total)
}

func fdWrite(c *call) errno {
	var to io.Writer
	switch c.u32(0) {
	case 1:
		to = c.Stdout
	case 2:
		to = c.Stderr
	default:
		return badf
	}
	total := uint32(0)
	var failed error
	e := c.vectors(c.u32(1), c.u32(2), func(b []byte) bool {
		n := len(b)
		if to != nil {
			n, failed = to.Write(b)
		}
		total += uint32(n)
		return failed == nil
	})
	if e == ok && failed != nil && total == 0 {
		e = ioError
	}
	if e != ok {
		return e
	}
	return c.put32(c.u32(3), total)
}

func randomGet(c *call) errno {
	b, there := c.memory.Read(c.u32(0), c.u32(1))
	if !there {
		return fault
	}
	from := c.Random
	if from == nil {
		from = rand.Reader
	}
	if _, err := io.ReadFull(from, b); err != nil {
		return ioError
	}
	return ok
}

// subscriptionsMax bounds what a guest waits for at once: there are three streams
// and it has one thread.
const subscriptionsMax = 1024

// pollOneoff waits for the first of a list of clocks and streams. Streams are always
// ready: reading is what waits.
//
//	subscription (48 bytes): userdata u64@0, kind u8@8, clock u32@16, timeout u64@24, flags u16@40
//	                                                    or fd u32@16
//	event (32 bytes): userdata u64@0, error u16@8, kind u8@10
func pollOneoff(c *call) errno {
	n := c.u32(2)
	if n == 0 || n > subscriptionsMax {
		return inval
	}
	in, there := c.memory.Read(c.u32(0), 48*n)
	if !there {
		return fault
	}
	subscriptions := append([]byte(nil), in...) // events may be written over them
	wait := int64(math.MaxInt64)
	due := make([]int64, n) // of clocks, from now
	errs := make([]errno, n)
	for i := range due {
		s := subscriptions[48*i:]
		switch s[8] {
		case 0:
			due[i], errs[i] = c.due(s)
		default:
			if binary.LittleEndian.Uint32(s[16:]) > 2 || s[8] > 2 {
				errs[i] = badf
			}
		}
		wait = min(wait, due[i])
	}
	if wait > 0 {
		c.sleep(time.Duration(wait))
	}
	events := uint32(0)
	for i := range due {
		if due[i] > wait {
			continue
		}
		b, there := c.memory.Read(c.u32(1)+32*events, 32)
		if !there {
			return fault
		}
		clear(b)
		copy(b, subscriptions[48*i:48*i+8])
		binary.LittleEndian.PutUint16(b[8:], uint16(errs[i]))
		b[10] = subscriptions[48*i+8]
		events++
	}
	return c.put32(c.u32(3), events)
}

// due is how long it is until a clock's time, in nanoseconds.
func (c *call) due(subscription []byte) (int64, errno) {
	timeout := int64(min(binary.LittleEndian.Uint64(subscription[24:]), math.MaxInt64))
	now, e := c.clock(binary.LittleEndian.Uint32(subscription[16:]))
	if e != ok {
		return 0, e
	}
	if binary.LittleEndian.Uint16(subscription[40:])&1 != 0 { // a time, not a duration
		timeout -= now
	}
	return max(timeout, 0), ok
}

// sleep waits. A guest that is to be stopped meanwhile does not return from it.
func (c *call) sleep(d time.Duration) {
	c.wait(func() {
		var stopped <-chan struct{}
		if c.Stopped != nil {
			stopped = c.Stopped().Done()
		}
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-stopped:
		}
	})
	if c.Stopped != nil {
		if ctx := c.Stopped(); ctx.Err() != nil {
			panic(context.Cause(ctx)) // wazero unwinds the guest with it
		}
	}
}
