//go:build !unix

package readme

import (
	"os/exec"
	"syscall"
)

// inGroup does nothing: there are no process groups.
func inGroup(*exec.Cmd) {}

// signalGroup ends the command. What it started may stay.
func signalGroup(cmd *exec.Cmd, _ syscall.Signal) { cmd.Process.Kill() }
