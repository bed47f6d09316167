package readme

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// leaveTimeout is how long a command may take to end once it is told to. A
// gateway drains for up to 10 s, but nobody has to be waited for here.
const leaveTimeout = 15 * time.Second

// endPause is given to a command that has shown more than it was asked for: it is
// about to end, or wrong.
const endPause = 5 * time.Second

// terminal runs commands, one at a time.
type terminal struct {
	// Fixed after start.
	name string
	dir  string
	env  []string

	// The command that runs or ran last.
	cmd   *exec.Cmd
	typed string
	done  chan struct{} // closed once it has ended and all of its output is there
	err   error         // of its end; read after done
	told  bool          // its end was our wish, or has been reported

	out    output // standard output
	errOut output // standard error
	seen   int    // lines of out that the README has accounted for
	past   strings.Builder
}

// output is what a command wrote so far.
type output struct {
	mu    sync.Mutex
	bytes bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bytes.Write(p)
}

// text is all that was written.
func (o *output) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bytes.String()
}

// lines are those that are not blank, the last maybe not complete.
func (o *output) lines() []string {
	var lines []string
	for line := range strings.SplitSeq(o.text(), "\n") {
		if line = strings.TrimRight(line, " \r"); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// start types a command.
func (term *terminal) start(command string) error {
	if term.cmd != nil {
		term.past.WriteString(term.screenNow())
	}
	term.cmd = exec.Command("bash", "-c", command)
	term.cmd.Dir, term.cmd.Env = term.dir, term.env
	term.out, term.errOut = output{}, output{}
	term.cmd.Stdout, term.cmd.Stderr = &term.out, &term.errOut
	term.cmd.WaitDelay = leaveTimeout
	term.typed, term.seen, term.told = command, 0, false
	inGroup(term.cmd)
	if err := term.cmd.Start(); err != nil {
		term.cmd = nil
		return err
	}
	done, cmd := make(chan struct{}), term.cmd
	term.done = done
	go func() { // ends with the command, which close waits for
		term.err = cmd.Wait()
		close(done)
	}()
	return nil
}

func (term *terminal) running() bool {
	if term.cmd == nil {
		return false
	}
	select {
	case <-term.done:
		return false
	default:
		return true
	}
}

// gateway is 1 for a terminal in which a gateway runs, else 0.
func (term *terminal) gateway() int {
	if strings.HasPrefix(term.typed, "gripway serve ") {
		return 1
	}
	return 0
}

// show waits until the command has shown what it should.
func (term *terminal) show(want []string, timeout time.Duration) error {
	for deadline := time.Now().Add(timeout); ; {
		running := term.running() // before reading: what it wrote at its end counts
		got := term.out.lines()[term.seen:]
		n, used := match(want, got)
		if n == len(want) {
			term.seen += used
			return nil
		}
		// A line that has no end yet may still become the right one.
		complete := used < len(got)-1 || used < len(got) && strings.HasSuffix(term.out.text(), "\n")
		switch {
		case complete, !running:
			return fmt.Errorf("$ %s\nshowed\n%swant\n%s", term.typed, indent(got), indent(want))
		case time.Now().After(deadline):
			return fmt.Errorf("$ %s\nshowed within %v only\n%swant\n%s", term.typed, timeout, indent(got), indent(want))
		}
		select {
		case <-term.done:
		case <-time.After(5 * time.Millisecond): // a poll: there are three things to wait for, and nothing is urgent
		}
	}
}

// end waits until the command has ended, well, and shown nothing else.
func (term *terminal) end(timeout time.Duration) error {
	select {
	case <-term.done:
	case <-time.After(timeout):
		return fmt.Errorf("$ %s\nstill runs after %v", term.typed, timeout)
	}
	if term.err != nil {
		term.told = true // once is enough
		return fmt.Errorf("$ %s\n%w\n%s", term.typed, term.err, indent(term.errOut.lines()))
	}
	if rest := term.out.lines()[term.seen:]; len(rest) > 0 {
		return fmt.Errorf("$ %s\nshowed more than the README says:\n%s", term.typed, indent(rest))
	}
	return nil
}

// interrupt is Ctrl-C.
func (term *terminal) interrupt() error {
	term.told = true
	return term.leave(syscall.SIGINT)
}

// leave has the command end, and all that it started.
func (term *terminal) leave(signal syscall.Signal) error {
	signalGroup(term.cmd, signal)
	select {
	case <-term.done:
		signalGroup(term.cmd, syscall.SIGKILL) // whoever has let go of the output
		return nil
	case <-time.After(leaveTimeout):
	}
	signalGroup(term.cmd, syscall.SIGKILL)
	<-term.done
	return fmt.Errorf("$ %s\ndid not end within %v", term.typed, leaveTimeout)
}

// check looks at what was shown before anything is ended. A command whose … was for
// more lines ends by itself; one that runs on shows nothing but what the README says.
func (term *terminal) check() error {
	if term.cmd == nil || term.told {
		return nil
	}
	if len(term.out.lines()) > term.seen {
		select {
		case <-term.done:
		case <-time.After(endPause):
		}
	}
	running := term.running() // before reading: what it wrote at its end counts
	switch rest := term.out.lines()[term.seen:]; {
	case running && len(rest) > 0:
		term.told = true
		return fmt.Errorf("$ %s\nshowed more than the README says:\n%s", term.typed, indent(rest))
	case !running && term.err != nil:
		term.told = true
		return fmt.Errorf("$ %s\nended by itself: %w", term.typed, term.err)
	}
	return nil
}

// close ends what runs. What it shows by then may be of others that have ended.
func (term *terminal) close() error {
	if !term.running() {
		return nil
	}
	return term.leave(syscall.SIGTERM)
}

// screen is all that was typed and shown.
func (term *terminal) screen() string {
	past := term.past.String()
	if term.cmd != nil {
		past += term.screenNow()
	}
	return past
}

func (term *terminal) screenNow() string {
	return fmt.Sprintf("$ %s\n%s%s", term.typed, indent(term.out.lines()), indent(term.errOut.lines()))
}

func indent(lines []string) string {
	var b strings.Builder
	for _, line := range lines {
		b.WriteString("    " + line + "\n")
	}
	return b.String()
}
