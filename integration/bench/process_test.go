//go:build linux

package main

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCPUTimeGrowsWithWork(t *testing.T) {
	self := []int{os.Getpid()}
	before, err := cpuTime(self)
	if err != nil {
		t.Fatal(err)
	}
	for begun := time.Now(); time.Since(begun) < 30*time.Millisecond; {
		strings.Repeat("work", 1000)
	}
	after, err := cpuTime(self)
	if err != nil || after <= before {
		t.Errorf("from %v to %v, error %v", before, after, err)
	}
	// The fallback is the same account, in coarser units and read later.
	ticks, err := statTicks(self[0])
	if err != nil || ticks < after-5*clockTick {
		t.Errorf("ticks say %v, the clock %v, error %v", ticks, after, err)
	}
}

func TestResidentMemoryIsReadFromEitherFile(t *testing.T) {
	for _, status := range []string{
		"00400000-7fff r-xp\nRss:                1234 kB\nPss: 99 kB\n",
		"Name:\tx\nVmHWM:\t 9999 kB\nVmRSS:\t    1234 kB\n",
	} {
		if got, err := residentField([]byte(status)); got != 1234 || err != nil {
			t.Errorf("%q: got %d, %v; want 1234", status, got, err)
		}
	}
	if bytes, err := residentBytes([]int{os.Getpid()}); bytes < 1<<20 || err != nil {
		t.Errorf("this process has %d bytes, error %v", bytes, err)
	}
	if _, err := residentBytes([]int{-1}); err == nil {
		t.Error("no error for a process that does not exist")
	}
}

func TestStoppedChildrenAndTheirChildrenAreGone(t *testing.T) {
	if _, err := os.Stat("/bin/sh"); err != nil {
		t.Skip("SKIPPED: needs /bin/sh")
	}
	// The shell ignores SIGTERM and so does its child: both must be killed.
	c, err := spawn("stubborn", t.TempDir(), false, os.Environ(), "/bin/sh", "-c", "trap '' TERM; (exec sleep 60) & wait; sleep 60")
	if err != nil {
		t.Fatal(err)
	}
	pid := c.cmd.Process.Pid
	deadline := time.Now().Add(20 * time.Second)
	for len(family(pid)) < 2 && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond) // until the shell has forked; nothing tells
	}
	members := family(pid)
	if len(members) < 2 || !slices.Contains(members, pid) {
		t.Fatalf("family of %d is %v", pid, members)
	}
	c.patience = 50 * time.Millisecond
	c.stop()
	deadline = time.Now().Add(20 * time.Second)
	for _, member := range members {
		for birth(member) != "" {
			if time.Now().After(deadline) {
				t.Fatalf("process %d of %v is still there", member, members)
			}
			time.Sleep(5 * time.Millisecond) // until the kernel has taken it away
		}
	}
}
