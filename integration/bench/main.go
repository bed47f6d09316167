//go:build linux

// Command bench measures what a gateway costs: CPU per delivery, memory per
// held connection, CPU per request, and how late the last subscriber is. It
// runs Gripway, Pushpin and two yardsticks on the same work and prints one
// table.
//
//	go run ./integration/bench
//
// README.md says how to read the table. Not a test: it never fails because a
// figure is high, only because something was lost or did not run.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// childFlag as the first argument makes this program one of its own children.
	childFlag = "-child"

	// fileReserve are the descriptors kept for all but the held clients: origin
	// connections, publishers, logs.
	fileReserve = 1000

	// wholePatience ends the tool and all it started, whatever happens.
	wholePatience = 40 * time.Minute
)

// bench is one run of the tool.
type bench struct {
	settings  settings
	figures   []figure
	targets   []targetKind
	dir       string // for logs, sockets, binaries; removed at the end
	gripway   string
	pushpin   string
	fileLimit int
	log       io.Writer // progress, for people

	results results
	remarks []string
}

func init() { runtime.LockOSThread() } // children are told of the end of the thread that started them

func main() {
	if len(os.Args) > 2 && os.Args[1] == childFlag {
		if err := runChild(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	err := run()
	stopAll()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	only := flag.String("only", "", "figures or scenarios to measure, comma-separated; * matches any (see -list)")
	targets := flag.String("target", "gripway,pushpin,floor", "what to measure, comma-separated: gripway, pushpin, floor, naive")
	quick := flag.Bool("quick", false, "one short run of everything, with fewer held connections: to see that it works")
	runs := flag.Int("n", 0, "how often each timed figure is taken; the median counts (default 3; 1 with -quick)")
	held := flag.Int("held", 0, "how many connections to hold (default 10000; 2000 with -quick)")
	asJSON := flag.Bool("json", false, "JSON on standard output; the table then goes to standard error")
	list := flag.Bool("list", false, "list figures and scenarios, and do nothing")
	keep := flag.Bool("keep", false, "keep the working directory, with every process's log")
	gripway := flag.String("gripway", "", "gripway binary to measure (default: built from this module)")
	pushpin := flag.String("pushpin", "pushpin", "pushpin binary to measure")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}

	b := &bench{settings: defaultSettings, gripway: *gripway, pushpin: *pushpin, log: os.Stderr, results: results{}}
	if *quick {
		b.settings = quickSettings
	}
	if *runs > 0 {
		b.settings.runs = *runs
	}
	if *held > 0 {
		b.settings.held = *held
	}
	if err := b.limitFiles(); err != nil {
		return err
	}
	var err error
	if b.figures, err = choose(allFigures(b.settings), *only); err != nil {
		return err
	}
	if *list {
		for _, f := range b.figures {
			fmt.Printf("%-16s %-22s %-18s %s\n", f.scenario, f.name, f.unit, strings.TrimSpace(f.title))
		}
		return nil
	}
	if b.targets, err = chooseTargets(*targets); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "gripway-bench-"); err != nil {
		return err
	}
	if *keep {
		fmt.Fprintln(b.log, "logs stay in", b.dir)
	} else {
		defer os.RemoveAll(b.dir)
	}
	b.endOnSignal(*keep)

	machine := thisMachine()
	fmt.Fprintln(b.log, machine)
	if machine.busy() {
		b.remark("the machine was busy at the start (load %.1f on %d cores): figures are too high, ratios to the floor mean more", machine.Load, machine.Cores)
	}
	begun := time.Now()
	failures := b.measureAll()
	names := make([]string, len(b.targets))
	for i, kind := range b.targets {
		names[i] = kind.name
	}
	report := b.results.report(b.figures, names)
	report.Machine, report.When, report.Took = machine, begun, time.Since(begun).Round(time.Second).String()
	report.Runs, report.Remarks = b.settings.runs, b.remarks
	for _, err := range failures {
		report.Failures = append(report.Failures, err.Error())
	}
	table := io.Writer(os.Stdout)
	if *asJSON {
		table = os.Stderr
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		if err := out.Encode(report); err != nil {
			return err
		}
	}
	report.write(table)
	if len(failures) > 0 {
		return fmt.Errorf("%d of the measurements failed", len(failures))
	}
	return nil
}

// measureAll goes scenario by scenario, so that what is compared is measured
// within the same minute.
func (b *bench) measureAll() (failures []error) {
	var usable []targetKind
	for _, kind := range b.targets {
		if kind.prepare != nil {
			fmt.Fprintf(b.log, "%s: preparing\n", kind.name)
			if err := kind.prepare(b); err != nil {
				failures = append(failures, fmt.Errorf("%s: %w", kind.name, err))
				continue
			}
		}
		usable = append(usable, kind)
	}
	for _, s := range scenarios {
		if !slices.ContainsFunc(b.figures, func(f figure) bool { return f.scenario == s.name }) {
			continue
		}
		for _, kind := range usable {
			if s.needOrigin && !kind.asksOrigin {
				continue
			}
			begun := time.Now()
			err := b.measure(s, kind)
			fmt.Fprintf(b.log, "%-14s %-8s %5.1f s", s.name, kind.name, time.Since(begun).Seconds())
			if err != nil {
				failures = append(failures, fmt.Errorf("%s: %s: %w", kind.name, s.name, err))
				fmt.Fprintf(b.log, "  FAILED: %v", err)
			}
			fmt.Fprintln(b.log)
		}
	}
	return failures
}

// measure runs one scenario against one target.
func (b *bench) measure(s scenario, kind targetKind) error {
	dir, err := os.MkdirTemp(b.dir, kind.name+"-")
	if err != nil {
		return err
	}
	l, err := startLoader(dir)
	if err != nil {
		return err
	}
	defer l.process.stop()
	t, err := b.start(kind, dir, l.origin, l)
	if err != nil {
		return err
	}
	defer t.process.stop()
	err = s.run(b, l, t)
	if err != nil && t.process.hasEnded() {
		err = fmt.Errorf("%w; %s has ended, its last output:\n%s", err, t.name, indented(t.process.lastWords()))
	}
	return err
}

// wants tells whether any of the figures was chosen.
func (b *bench) wants(names ...string) bool {
	return slices.ContainsFunc(b.figures, func(f figure) bool { return slices.Contains(names, f.name) })
}

// record adds one run's value to a figure.
func (b *bench) record(t *target, name string, value float64) {
	if b.wants(name) && !math.IsNaN(value) && !math.IsInf(value, 0) {
		b.results.at(name, t.name).Runs = append(b.results.at(name, t.name).Runs, value)
	}
}

// settle sets a figure whose value is not the median of its runs.
func (b *bench) settle(t *target, name string, value float64) {
	if b.wants(name) && !math.IsNaN(value) {
		b.results.at(name, t.name).Pooled = &value
	}
}

func (b *bench) remark(format string, args ...any) {
	b.remarks = append(b.remarks, fmt.Sprintf(format, args...))
}

// limitFiles raises the limit of open files as far as allowed, for the children
// too, and lowers the number of held clients to what fits.
func (b *bench) limitFiles() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	const enough = 1 << 20 // also what an unlimited one counts as
	b.fileLimit = int(min(limit.Max, enough))
	if most := b.fileLimit - fileReserve; b.settings.held > most {
		if most < b.settings.clients {
			return fmt.Errorf("only %d files may be open, and %d clients need %d: raise the hard limit (ulimit -Hn)", b.fileLimit, b.settings.clients, b.settings.clients+fileReserve)
		}
		b.remark("%d connections are held instead of %d: only %d files may be open", most, b.settings.held, b.fileLimit)
		b.settings.held = most
	}
	return nil
}

// endOnSignal takes the children along when the tool is told to end, or when it
// takes longer than anything could.
func (b *bench) endOnSignal(keep bool) {
	told := make(chan os.Signal, 1) // never closed
	signal.Notify(told, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() { // ends with the process
		select {
		case s := <-told:
			fmt.Fprintln(b.log, "ending on", s)
		case <-time.After(wholePatience):
			fmt.Fprintln(b.log, "ending after", wholePatience)
		}
		stopAll()
		if !keep {
			os.RemoveAll(b.dir)
		}
		os.Exit(1)
	}()
}

func chooseTargets(list string) ([]targetKind, error) {
	wanted := strings.Split(list, ",")
	var chosen []targetKind
	for _, kind := range targetKinds {
		if i := slices.Index(wanted, kind.name); i >= 0 {
			chosen = append(chosen, kind)
			wanted = slices.Delete(wanted, i, i+1)
		}
	}
	if len(wanted) > 0 {
		return nil, fmt.Errorf("-target: %q is none of gripway, pushpin, floor, naive", wanted[0])
	}
	if len(chosen) == 0 {
		return nil, errors.New("-target: empty")
	}
	return chosen, nil
}

// thisMachine is what a reader must know to compare.
func thisMachine() machine {
	m := machine{Cores: runtime.NumCPU(), Go: runtime.Version()}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.System = unix.ByteSliceToString(name.Sysname[:]) + " " + unix.ByteSliceToString(name.Release[:])
	}
	if b, err := os.ReadFile(filepath.Join("/proc", "loadavg")); err == nil {
		fmt.Sscan(string(b), &m.Load)
	}
	return m
}
