package readme

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// typed types all of a README and returns what was wrong with it.
func typed(t *testing.T, text string) error {
	t.Helper()
	Need(t, "bash")
	r, err := open(t, text, Options{Ports: []int{4222}, Dir: t.TempDir()})
	if err != nil {
		return err
	}
	for _, block := range r.blocks {
		if err = r.typeBlock(block); err != nil {
			break
		}
	}
	return errors.Join(err, r.close())
}

// console makes blocks of lines; a line that begins with ``` begins the next.
func console(lines ...string) string {
	text := "# heading\n"
	for i, line := range lines {
		if strings.HasPrefix(line, "```") {
			if i > 0 {
				text += "```\n"
			}
		}
		text += line + "\n"
	}
	return text + "```\n"
}

func TestAREADMEThatIsTruePasses(t *testing.T) {
	for _, test := range []struct{ name, text string }{
		{"what is shown, blank lines aside", console("```console", "$ printf 'a\\n\\nb\\n'; echo not this >&2", "a", "b")},
		{"commands one after the other", console("```console", "$ echo a > f", "$ cat f", "a")},
		{"a command of two lines", console("```console", `$ echo a \`, `  b`, "a b")},
		{"any lines, any text", console("```console", "$ seq 9; echo took 12 ms", "1", "…", "9", "took … ms")},
		{"more lines at the end", console("```console", "$ seq 9", "1", "…")},
		{"blocks of another type", console("```", "$ false", "```sh", "$ false")},
		{
			"a command that runs on and shows more later",
			console("```console a", "$ echo ready; until test -e f; do sleep 0.01; done; echo seen; sleep 60", "ready", "…",
				"```console", "$ touch f",
				"```console a", "seen", "…"),
		},
		{
			"Ctrl-C",
			console("```console a", "$ trap 'echo bye; exit 1' INT; echo ready; while :; do sleep 0.01; done", "ready", "…",
				"```console a", "^C",
				"```console a", "$ echo again", "again"),
		},
		{"ports are replaced, in both", console("```console", "$ echo 4222 14222; echo $PORT", "4222 14222", "8000")},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if err := typed(t, test.text); err != nil {
				t.Errorf("got %v, want nothing wrong", err)
			}
		})
	}
}

func TestAREADMEThatIsNotTrueFails(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"another line", console("```console", "$ echo a", "b"), "showed\n    a\nwant\n    b"},
		{"a line too many", console("```console", "$ echo a; echo b", "a"), "showed more than the README says:\n    b"},
		{"a line too few", console("```console", "$ echo a", "a", "b"), "want"},
		{"a line that any lines do not lead to", console("```console", "$ seq 9", "1", "…", "10"), "want"},
		{"a command that fails", console("```console", "$ echo no >&2; exit 3"), "exit status 3\n    no"},
		{"a command that shows what it should and fails", console("```console", "$ echo a; exit 3", "a"), "exit status 3"},
		{"a command that should run on and fails", console("```console", "$ echo a; exit 3", "a", "…", "```console", "$ sleep 0.2"), "ended by itself: exit status 3"},
		{"a command that runs on and says too much", console("```console", "$ echo a; echo b; sleep 60", "a", "…", "```console", "$ sleep 0.2"), "showed more than the README says:\n    b"},
		{"a busy terminal", console("```console a", "$ sleep 60", "…", "```console a", "$ echo a", "a"), "the terminal is busy"},
		{"lines of nothing", console("```console", "a"), "lines without a command"},
		{"a command after one that runs on", console("```console", "$ sleep 60", "…", "$ echo a"), "README.md:5: a command is typed after one that runs on"},
		{"lines after Ctrl-C", console("```console", "$ sleep 60", "^C", "a"), "README.md:5: nothing is shown after ^C"},
		{"a block without an end", "```console\n$ true\n", "no end"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := typed(t, test.text)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q in it", err, test.want)
			}
		})
	}
}

func TestNothingThatWasTypedStays(t *testing.T) {
	dir := t.TempDir()
	alive := filepath.Join(dir, "alive")
	text := console("```console", "$ (while :; do touch "+alive+"; sleep 0.01; done) & echo ready; sleep 60", "ready", "…")
	if err := typed(t, text); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(alive); err != nil {
		t.Fatal(err)
	}
	if err := typed(t, console("```console", "$ sleep 0.2")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(alive); !os.IsNotExist(err) {
		t.Errorf("what a command started in the background still runs: %v", err)
	}
}

func TestPortsAreTheSameEverywhere(t *testing.T) {
	r, err := open(t, "", Options{Ports: []int{4222}, Replace: []string{"../..", "/elsewhere"}})
	if err != nil {
		t.Fatal(err)
	}
	_, clients, _ := strings.Cut(r.Addr(Clients), ":")
	_, nats, _ := strings.Cut(r.Addr(4222), ":")
	if got, want := r.rewrite("localhost:7999 [::]:7999 x7999 79990 4222 ../.."), "localhost:"+clients+" 127.0.0.1:"+clients+" x7999 79990 "+nats+" /elsewhere"; got != want {
		t.Errorf("rewrite: got %q, want %q", got, want)
	}
	for _, want := range []string{"GRIPWAY_LISTEN=localhost:" + clients, "GRIP_URL=http://" + r.Addr(Publisher)} {
		if !strings.Contains(strings.Join(r.env, "\n"), want) {
			t.Errorf("environment lacks %s", want)
		}
	}
}
