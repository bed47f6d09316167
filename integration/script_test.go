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
			if condition == "peer" {
				return peer, nil
			}
			return false, fmt.Errorf("unknown condition %q", condition)
		},
		Cmds: commands(),
	})
}

// scenarios are the numbers of the reference's conformance list that the suite
// answers for.
var scenarios = []span{{1, 8}, {10, 18}, {22, 99}, {101, 101}}

type span struct{ first, last int }

// scenarioLine is a script's second line, where it answers for scenarios.
var scenarioLine = regexp.MustCompile(`^# scenarios: (\d+(?:, \d+)*)$`)

func TestEveryScenarioHasItsScript(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	table := map[int][]string{}
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
		for number := range strings.SplitSeq(match[1], ", ") {
			n, err := strconv.Atoi(number)
			if err != nil {
				t.Fatal(err)
			}
			table[n] = append(table[n], filepath.Base(file))
		}
	}
	for _, span := range scenarios {
		for n := span.first; n <= span.last; n++ {
			if len(table[n]) == 0 {
				t.Errorf("scenario %d has no script", n)
			}
			t.Logf("%3d  %s", n, strings.Join(table[n], " "))
		}
	}
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
