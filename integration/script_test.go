// Package integration looks at the gateway from outside: it builds the program,
// starts it, and holds the conversations written in testdata. README.md tells
// the verbs.
package integration

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/gripway/gripway/integration/harness"
)

// peerEnv names the program of the peer, to hold the same conversations with it.
const peerEnv = "GRIPWAY_PEER"

// raceEnv, if not empty, builds the gateway with the race detector.
const raceEnv = "GRIPWAY_RACE"

// parallelScripts is how many scripts run at once, whatever the number of cores:
// they wait far more than they work.
const parallelScripts = "12"

// certificate is what all TLS gateways and origins of this process show.
var certificate = sync.OnceValues(harness.NewCertificate)

func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", parallelScripts)
	}
	dir, err := os.MkdirTemp("", "gripway-integration-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	built.program = filepath.Join(dir, "gripway")
	os.Setenv("GOTMPDIR", dir) // where the script runner works; it leaves its folder behind when only some scripts run
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

var built struct {
	once    sync.Once
	program string
	err     error
}

// program returns the gateway's binary, built on first use, or the peer's.
func program() (path string, peer bool, err error) {
	if path := os.Getenv(peerEnv); path != "" {
		return path, true, nil
	}
	built.once.Do(func() {
		if err := lookAtSources(); err != nil {
			built.err = err
			return
		}
		args := []string{"build", "-o", built.program}
		if os.Getenv(raceEnv) != "" {
			args = append(args, "-race")
		}
		if out, err := exec.Command("go", append(args, "..")...).CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	return built.program, false, built.err
}

// lookAtSources looks at every file the program is built of. go test keeps the
// result of a test for as long as the files it looked at are the same, and does
// not see those that a go build of the test's own reads.
func lookAtSources() error {
	return filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "node_modules" || entry.Name() == ".git") {
			return filepath.SkipDir
		}
		if !entry.IsDir() {
			_, err = os.Stat(path)
		}
		return err
	})
}

func TestScript(t *testing.T) {
	path, peer, err := program()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			s := &script{
				program: path,
				peer:    peer,
				parties: map[string]any{},
				clocks:  map[string]time.Time{},
				heads:   map[any]*harness.Response{},
				done:    make(chan struct{}),
			}
			env.Setenv("gripway", path)
			env.Values[scriptKey{}] = s
			env.Defer(func() { s.close(env.T()) })
			return nil
		},
		Condition: func(condition string) (bool, error) {
			switch condition {
			case "peer":
				return peer, nil
			case "guests": // the SDK is there, or can be had
				if _, err := buildGuest("deeds", path); err != nil && noSDK(err) {
					return false, nil
				}
				return true, nil
			}
			return false, fmt.Errorf("unknown condition %q", condition)
		},
		Cmds: commands(),
	})
}

// scenariosMax is how many numbers the conformance list has.
const scenariosMax = 101

// scenarioLine is a script's second line, where it answers for scenarios.
var scenarioLine = regexp.MustCompile(`^# scenarios: (\d+(?:, \d+)*)$`)

// scenarioRow is a row of README.md: number, scenario, result, reason.
var scenarioRow = regexp.MustCompile(`(?m)^\| (\d+) \| ([^|]+) \| (pass|newer|deviation) \| (?:([^|]*) )?\|$`)

// differs matches what a script expects of one of the two only. That a client sees
// nothing for a moment is said to give the peer time.
var differs = regexp.MustCompile(`(?m)^\[!?peer\] (?:skip|stop|within|(?:zmq-)?expect \S+ (?:[^s\n]|s[^i\n])).*$`)

// scenario is what the conformance list asks for at one number.
type scenario struct {
	text, result, reason string
	files                []string
	differs              bool // one of the files expects something else of the peer
}

func TestEveryScenarioHasItsScript(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	table := make([]*scenario, scenariosMax+1)
	for _, row := range scenarioRow.FindAllStringSubmatch(string(readme), -1) {
		n, _ := strconv.Atoi(row[1])
		if n < 1 || n > scenariosMax || table[n] != nil {
			t.Fatalf("README.md: scenario %d is there twice, or should not be", n)
		}
		table[n] = &scenario{text: row[2], result: row[3], reason: row[4]}
		if (row[3] != "pass") != (row[4] != "") {
			t.Errorf("README.md: scenario %d: result %s with reason %q: what differs has one, what passes needs none", n, row[3], row[4])
		}
	}
	for n := 1; n <= scenariosMax; n++ {
		if table[n] == nil {
			t.Fatalf("README.md: scenario %d is not in the table", n)
		}
	}
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.SplitN(string(data), "\n", 3)
		if len(lines) < 3 || !strings.HasPrefix(lines[0], "# ") {
			t.Errorf("%s: the first line is to say which promise is kept: got %q", file, lines[0])
			continue
		}
		match := scenarioLine.FindStringSubmatch(lines[1])
		if match == nil {
			continue
		}
		other, told := differs.FindString(lines[2]), false
		for number := range strings.SplitSeq(match[1], ", ") {
			n, err := strconv.Atoi(number)
			if err != nil || n < 1 || n > scenariosMax {
				t.Fatalf("%s: there is no scenario %s", file, number)
			}
			s := table[n]
			s.files = append(s.files, filepath.Base(file))
			s.differs = s.differs || other != ""
			told = told || s.result != "pass"
		}
		if other != "" && !told {
			t.Errorf("%s: %q: README.md says that scenario %s is the same for the peer", file, other, match[1])
		}
	}
	count := make(map[string]int)
	for n, s := range table[1:] {
		n++
		if len(s.files) == 0 {
			t.Errorf("scenario %d has no script", n)
		}
		if s.result != "pass" && !s.differs {
			t.Errorf("scenario %d: README.md says %s, but the peer is expected to do the same in %s", n, s.result, strings.Join(s.files, ", "))
		}
		count[s.result]++
		t.Logf("%3d  %-9s  %s  (%s)", n, s.result, strings.Join(s.files, " "), s.text)
		if s.reason != "" {
			t.Logf("     %9s  %s", "", s.reason)
		}
	}
	t.Logf("%d scenarios: %d pass, %d as newer versions of the peer, %d deviate on purpose", scenariosMax, count["pass"], count["newer"], count["deviation"])
}

func TestTheReadmeTellsEveryVerb(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for verb := range verbs {
		if !regexp.MustCompile("(?m)^\\|.*`" + verb + "[ `]").Match(readme) {
			t.Errorf("README.md has no table row with `%s …`", verb)
		}
	}
}

// script is one running script: everybody it has named.
type script struct {
	program string
	peer    bool
	parties map[string]any // *harness.Gateway, *harness.Origin, …, by name
	clocks  map[string]time.Time
	last    time.Time                 // when what was last expected had happened
	heads   map[any]*harness.Response // of each client, the head last expected
	errs    []error

	running sync.WaitGroup // what verbs do in the background
	done    chan struct{}  // closed by close, to end it
	mu      sync.Mutex     // guards errs while something runs
}

// background runs do until the script ends; its error fails the script.
func (s *script) background(do func(done <-chan struct{}) error) {
	s.running.Go(func() {
		if err := do(s.done); err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.errs = append(s.errs, err)
		}
	})
}

type scriptKey struct{}

// add names a party; a name may be taken over by another client.
func (s *script) add(name string, party any) {
	if old, ok := s.parties[name]; ok {
		if err := end(old); err != nil {
			s.errs = append(s.errs, err)
		}
	}
	s.parties[name] = party
}

// close ends clients first, then gateways, then those the gateways ask. A
// gateway that does not end in order fails the script; what a gateway of a
// failed script logged is shown.
func (s *script) close(t testscript.T) {
	close(s.done)
	s.running.Wait()
	rank := func(name string) int {
		switch s.parties[name].(type) {
		case *harness.Client, *harness.Socket, *harness.Gorilla:
			return 0
		case *harness.Gateway:
			return 1
		}
		return 2
	}
	names := slices.Collect(maps.Keys(s.parties))
	slices.SortStableFunc(names, func(a, b string) int { return rank(a) - rank(b) })
	for _, name := range names {
		if err := end(s.parties[name]); err != nil {
			s.errs = append(s.errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	failed, ok := t.(testscript.TFailed)
	for _, name := range names {
		if g, is := s.parties[name].(*harness.Gateway); is && (len(s.errs) > 0 || ok && failed.Failed()) {
			t.Log(fmt.Sprintf("log of gateway %s:\n%s", name, tail(g.Log(), logLines)))
		}
	}
	if len(s.errs) > 0 {
		t.Fatal(errors.Join(s.errs...))
	}
}

// logLines is how much of a gateway's log a failure shows.
const logLines = 25

func tail(text string, lines int) string {
	all := strings.SplitAfter(text, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}

func end(party any) error {
	switch party := party.(type) {
	case interface{ Close() error }:
		return party.Close()
	case interface{ Close() }:
		party.Close()
	}
	return nil
}
