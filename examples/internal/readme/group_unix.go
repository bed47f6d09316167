//go:build unix

package readme

import (
	"os/exec"
	"syscall"
)

// inGroup puts the command and all that it starts into a process group.
func inGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// signalGroup signals the group. There may be nobody left in it.
func signalGroup(cmd *exec.Cmd, signal syscall.Signal) { syscall.Kill(-cmd.Process.Pid, signal) }
