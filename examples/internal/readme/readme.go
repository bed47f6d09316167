// Package readme types the commands of an example's README.md and looks whether
// they show what it says, so that what newcomers type stays true.
//
// A block of type console is a terminal:
//
//	```console reader
//	$ curl -N http://localhost:7999/news
//	data: welcome
//	…
//	```
//
// A line that begins with $ is typed, by bash, in the example's folder; a
// backslash at its end continues it. The lines below it are what it must show,
// neither more nor less; blank ones do not count, nor does what goes to standard
// error. How they end says what becomes of the command:
//
//   - usually it ends, and well, before anything else is typed;
//   - with … as the last line it runs on, in silence, or shows more until it ends
//     by itself. The next block is another terminal, unless it has the same name,
//     which is the word after console: then its lines are what the command shows
//     next, in time. ^C as a line interrupts it.
//
// … elsewhere is any number of lines; within a line, any text.
//
// READMEs name the gateway's usual ports, and 8000 for the origin. Each is
// replaced by a free one in all that is typed and shown, and by the environment
// (GRIPWAY_LISTEN, GRIPWAY_CONTROL_LISTEN, GRIP_URL, PORT) where a README leaves
// it to the defaults. What "go install" installs is found by later commands.
package readme

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The ports that READMEs name.
const (
	Clients   = 7999 // the gateway, for clients
	Publisher = 5561 // the gateway, for publishers
	Origin    = 8000
)

const (
	// showTimeout is how long a line may take to show: a cold compiler on a busy
	// machine has to be through by then.
	showTimeout = time.Minute

	// endTimeout is how long a command without a line may take. The first go
	// install on a machine compiles everything.
	endTimeout = 5 * time.Minute

	// holdPause is given to a command that only waits. It is a sleep, since a
	// request that is held shows to nobody; a README must hold without it too.
	holdPause = 300 * time.Millisecond
)

// Options say where a README is typed.
type Options struct {
	// Ports are further ports to be replaced.
	Ports []int

	// Dir is where commands are typed. Empty means the folder of the test.
	Dir string

	// Replace is old, new, old, new in all that is typed and shown.
	Replace []string
}

// README is one that is being typed.
type README struct {
	t         *testing.T
	blocks    []block // not yet typed
	env       []string
	dir       string
	ports     map[int]int
	replace   *strings.Replacer
	terminals []*terminal // in the order they were opened
	named     map[string]*terminal
}

// Open reads the README.md in the test's folder. When the test ends, what still
// runs is ended, and the test fails if a block was not typed.
func Open(t *testing.T, options Options) *README {
	t.Helper()
	Need(t, "bash")
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	r, err := open(t, string(text), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(r.screens())
		} else if len(r.blocks) > 0 && !t.Skipped() {
			t.Errorf("README.md:%d: block is never typed", r.blocks[0].line)
		}
	})
	return r
}

// Need skips the test, loudly, if a program is missing.
func Need(t *testing.T, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("SKIPPED, what the README says is not checked: no %s here: %v", program, err)
		}
	}
}

func open(t *testing.T, text string, options Options) (*README, error) {
	r := &README{t: t, dir: options.Dir, ports: make(map[int]int), named: make(map[string]*terminal)}
	for _, port := range append([]int{Clients, Publisher, Origin}, options.Ports...) {
		free, err := freePort(r.ports)
		if err != nil {
			return nil, err
		}
		r.ports[port] = free
	}
	// The test stays on loopback, so the gateway says another address than a reader's.
	r.replace = strings.NewReplacer(append(options.Replace, fmt.Sprintf("[::]:%d", Clients), fmt.Sprintf("127.0.0.1:%d", Clients))...)
	var err error
	if r.blocks, err = parse(text); err != nil {
		return nil, err
	}

	bin := t.TempDir()
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		switch {
		case strings.HasPrefix(name, "GRIP"), name == "PORT", name == "GOBIN":
		case name == "PATH":
			r.env = append(r.env, "PATH="+bin+string(filepath.ListSeparator)+value)
		default:
			r.env = append(r.env, variable)
		}
	}
	r.env = append(r.env, "GOBIN="+bin)
	for _, variable := range []string{
		"GRIPWAY_LISTEN=" + r.address(Clients), "GRIPWAY_CONTROL_LISTEN=" + r.address(Publisher),
		"GRIP_URL=http://" + r.address(Publisher), "PORT=" + strconv.Itoa(r.ports[Origin]),
	} {
		r.env = append(r.env, variable)
	}
	if os.Getenv("GRIPWAY_RACE") != "" {
		r.env = append(r.env, "GOFLAGS=-race")
	}
	return r, nil
}

// Addr is where a port of the README is: host:port.
func (r *README) Addr(port int) string {
	r.t.Helper()
	if _, known := r.ports[port]; !known {
		r.t.Fatalf("README.md: port %d is not one of the options", port)
	}
	return r.address(port)
}

func (r *README) address(port int) string { return "localhost:" + strconv.Itoa(r.ports[port]) }

// Type types the blocks below a heading, up to the next. Headings are to be
// typed in their order, and none be left out.
func (r *README) Type(heading string) {
	r.t.Helper()
	if len(r.blocks) == 0 || r.blocks[0].heading != heading {
		next := "none"
		if len(r.blocks) > 0 {
			next = strconv.Quote(r.blocks[0].heading)
		}
		r.t.Fatalf("README.md: heading %q has no block, or it is not its turn; next is %s", heading, next)
	}
	for len(r.blocks) > 0 && r.blocks[0].heading == heading {
		next := r.blocks[0]
		r.blocks = r.blocks[1:]
		if err := r.typeBlock(next); err != nil {
			r.t.Fatalf("README.md:%v", err)
		}
	}
}

// Skip leaves out headings: another test types them.
func (r *README) Skip(headings ...string) {
	r.t.Helper()
	for len(r.blocks) > 0 && slices.Contains(headings, r.blocks[0].heading) {
		r.blocks = r.blocks[1:]
	}
}

// TypeAll types all blocks that are left.
func (r *README) TypeAll() {
	r.t.Helper()
	for len(r.blocks) > 0 {
		r.Type(r.blocks[0].heading)
	}
}

// typeBlock does what one block says.
func (r *README) typeBlock(b block) error {
	term := r.named[b.name]
	if term == nil {
		term = &terminal{name: b.name, dir: r.dir, env: r.env}
		r.terminals = append(r.terminals, term)
		if b.name != "" {
			r.named[b.name] = term
		}
	}
	for _, s := range b.steps {
		if err := r.typeStep(term, s); err != nil {
			return fmt.Errorf("%d: %w", s.line, err)
		}
	}
	return nil
}

func (r *README) typeStep(term *terminal, s step) error {
	if s.command != "" {
		if term.running() {
			return errors.New("the terminal is busy with the command before")
		}
		command := r.rewrite(s.command)
		if strings.Contains(command, "GOARCH=wasm") {
			command = "export GOFLAGS=; " + command // the race detector does not know it
		}
		if err := term.start(command); err != nil {
			return err
		}
	} else if term.cmd == nil {
		return errors.New("lines without a command, in a terminal of its own")
	}
	show := make([]string, len(s.show))
	for i, line := range s.show {
		show[i] = r.rewrite(line)
	}
	if s.interrupt {
		if err := term.show(show, showTimeout); err != nil {
			return err
		}
		return term.interrupt()
	}
	if s.runsOn {
		if len(show) == 0 {
			time.Sleep(holdPause)
			return nil
		}
		return term.show(show, showTimeout)
	}
	timeout := showTimeout
	if len(show) == 0 {
		timeout = endTimeout
	}
	if err := term.show(show, timeout); err != nil {
		return err
	}
	return term.end(timeout)
}

// port is a number that could be a port.
var port = regexp.MustCompile(`\b[0-9]{4,5}\b`)

// rewrite puts in what is different here.
func (r *README) rewrite(text string) string {
	return port.ReplaceAllStringFunc(r.replace.Replace(text), func(digits string) string {
		number, _ := strconv.Atoi(digits)
		if free, ok := r.ports[number]; ok {
			return strconv.Itoa(free)
		}
		return digits
	})
}

// close ends what runs, the last that was started first, but gateways before
// all: they tell origins of clients that go, and try for a while if there is none.
func (r *README) close() error {
	last := slices.Clone(r.terminals)
	slices.Reverse(last)
	slices.SortStableFunc(last, func(a, b *terminal) int { return b.gateway() - a.gateway() })
	var errs []error
	for _, term := range last {
		errs = append(errs, term.check())
	}
	for _, term := range last {
		errs = append(errs, term.close())
	}
	return errors.Join(errs...)
}

// screens is what all terminals showed, for whoever reads a failure.
func (r *README) screens() string {
	var b strings.Builder
	for _, term := range r.terminals {
		b.WriteString(term.screen())
	}
	return b.String()
}
