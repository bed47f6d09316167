//go:build linux

// Processes under test: how they are started and ended, and what the operating
// system says they cost.

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// stopPatience is how long a child may take to end by itself.
	stopPatience = 5 * time.Second

	// logTailBytes is how much of a child's last output an error quotes.
	logTailBytes = 1500
)

// cpuTime is the user and system time the processes have used. It reads each
// process's CPU clock: the same account as utime and stime in /proc/<pid>/stat,
// threads that ended included, in nanoseconds instead of clock ticks.
func cpuTime(pids []int) (time.Duration, error) {
	var total time.Duration
	for _, pid := range pids {
		const clockSched = 2 // CPUCLOCK_SCHED of the whole process, as clock_getcpuclockid(3) builds it
		var ts unix.Timespec
		err := unix.ClockGettime(int32(^pid<<3|clockSched), &ts)
		if err == nil {
			total += time.Duration(ts.Nano())
			continue
		}
		ticks, err := statTicks(pid)
		if err != nil {
			return 0, fmt.Errorf("process %d has ended: %w", pid, err)
		}
		total += ticks
	}
	return total, nil
}

// clockTick is the unit of utime and stime; it is the same on every Linux this
// tool runs on (USER_HZ).
const clockTick = 10 * time.Millisecond

func statTicks(pid int) (time.Duration, error) {
	fields, err := statFields(pid)
	if err != nil {
		return 0, err
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * clockTick, err
}

// statFields are the fields of /proc/<pid>/stat behind the command's name:
// index 0 is field 3, the state.
func statFields(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 {
		return nil, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	return fields, nil
}

// residentBytes is the memory of the processes that is in RAM now.
func residentBytes(pids []int) (int64, error) {
	var total int64
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil || len(b) == 0 { // exact, but not everywhere
			if b, err = os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err != nil {
				return 0, fmt.Errorf("process %d has ended: %w", pid, err)
			}
		}
		kilobytes, err := residentField(b)
		if err != nil {
			return 0, fmt.Errorf("process %d: %w", pid, err)
		}
		total += kilobytes << 10
	}
	return total, nil
}

// residentField finds "Rss:" or "VmRSS:", both in kB.
func residentField(b []byte) (int64, error) {
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && (fields[0] == "Rss:" || fields[0] == "VmRSS:") {
			return strconv.ParseInt(fields[1], 10, 64)
		}
	}
	return 0, errors.New("no resident size in its status")
}

// family is a process and all its descendants.
func family(pid int) []int {
	parents := map[int]int{}
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, entry := range entries {
		child, err := strconv.Atoi(filepath.Base(entry))
		if err != nil {
			continue
		}
		if fields, err := statFields(child); err == nil {
			parents[child], _ = strconv.Atoi(fields[1])
		}
	}
	members := []int{pid}
	for i := 0; i < len(members); i++ {
		for child, parent := range parents {
			if parent == members[i] {
				members = append(members, child)
			}
		}
	}
	return members
}

// child is a process this tool started; it leads its own process group.
type child struct {
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader // nil if the output goes to the log
	log   string        // file with the output
	ended chan struct{} // closed when the process has ended

	patience time.Duration // how long it may take to end by itself
}

// children is every child not stopped yet, so that none outlives the tool.
var children = struct {
	sync.Mutex
	running map[*child]bool
}{running: map[*child]bool{}}

// spawn starts a program. With talk its standard input and output are ours;
// without, both streams of output go to the log file. It must be called from
// the main thread, whose end the kernel tells the child of.
func spawn(name, dir string, talk bool, environment []string, args ...string) (*child, error) {
	c := &child{name: name, cmd: exec.Command(args[0], args[1:]...), ended: make(chan struct{}), patience: stopPatience}
	c.log = filepath.Join(dir, name+".log")
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c.cmd.Dir, c.cmd.Env, c.cmd.Stderr, c.cmd.Stdout = dir, environment, log, log
	// SIGTERM, not SIGKILL: Pushpin's runner then ends its own children.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if talk {
		c.cmd.Stdout = nil
		pipe, err := c.cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		c.out = bufio.NewReaderSize(pipe, 1<<20)
		if c.in, err = c.cmd.StdinPipe(); err != nil {
			return nil, err
		}
	}
	children.Lock()
	defer children.Unlock()
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	children.running[c] = true
	go func() { // ends with the process
		c.cmd.Process.Wait()
		close(c.ended)
	}()
	return c, nil
}

// stop ends the child and all its descendants: politely first, then not.
func (c *child) stop() {
	children.Lock()
	delete(children.running, c)
	children.Unlock()
	if c.in != nil {
		c.in.Close()
	}
	members := family(c.cmd.Process.Pid)
	births := map[int]string{}
	for _, pid := range members {
		births[pid] = birth(pid)
	}
	c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.ended:
	case <-time.After(c.patience):
	}
	for _, pid := range members {
		if births[pid] != "" && birth(pid) == births[pid] { // still the same process, not a reused number
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	<-c.ended
}

// birth is when a process started, in ticks; "" if there is none.
func birth(pid int) string {
	fields, err := statFields(pid)
	if err != nil || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

// stopAll ends every child at once, for the tool's own end.
func stopAll() {
	children.Lock()
	var running []*child
	for c := range children.running {
		running = append(running, c)
	}
	children.Unlock()
	var all sync.WaitGroup
	for _, c := range running {
		all.Go(c.stop)
	}
	all.Wait()
}

// hasEnded tells whether the process is gone.
func (c *child) hasEnded() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// lastWords is the end of what the child wrote.
func (c *child) lastWords() string {
	b, err := os.ReadFile(c.log)
	if err != nil || len(b) == 0 {
		return "(it wrote nothing)"
	}
	return strings.TrimSpace(string(b[max(0, len(b)-logTailBytes):]))
}
