package wat

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gripway/gripway/guest/internal/wasm"
)

// The tests of the specification come with wazero's source: each script beside what
// the reference tools made of the modules in it.

// specScripts are the folders of scripts.
func specScripts(t *testing.T) []string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/tetratelabs/wazero").Output()
	if err != nil {
		t.Fatal(err)
	}
	scripts, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "internal/integration_test/spectest/v2/testdata/*.json"))
	if err != nil || len(scripts) < 100 {
		t.Fatalf("%d scripts, %v", len(scripts), err)
	}
	return scripts
}

// command is one of a script's.
type command struct {
	Type       string
	Line       int
	Filename   string
	ModuleType string `json:"module_type"`
	Text       string
}

// modulesOf are those commands that have a module, and the text of each.
func modulesOf(t *testing.T, script string) (commands []command, texts []node) {
	t.Helper()
	b, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	var said struct{ Commands []command }
	if err := json.Unmarshal(b, &said); err != nil {
		t.Fatal(err)
	}
	for _, c := range said.Commands {
		if c.Filename != "" {
			commands = append(commands, c)
		}
	}
	if b, err = os.ReadFile(strings.TrimSuffix(script, ".json") + ".wast"); err != nil {
		t.Fatal(err)
	}
	forms := read(string(b))
	for _, form := range forms {
		if form.head() == "module" {
			texts = append(texts, form)
		}
		for _, n := range form.list[1:] {
			if form.head() != "module" && n.head() == "module" {
				texts = append(texts, n)
			}
		}
	}
	if len(texts) == 0 && len(commands) == 1 { // the script is what is in a module
		texts = []node{{isList: true, list: append([]node{{text: "module"}}, forms...)}}
	}
	if len(commands) != len(texts) {
		t.Fatalf("%s: %d modules by the tools, %d in the text", script, len(commands), len(texts))
	}
	return commands, texts
}

func TestModulesOfTheSpecificationAreThoseOfItsTools(t *testing.T) {
	same, refused := 0, 0
	for _, script := range specScripts(t) {
		commands, texts := modulesOf(t, script)
		for i, c := range commands {
			n, inside := texts[i], texts[i].list[1:]
			if len(inside) > 0 && inside[0].isID() {
				inside = inside[1:]
			}
			if len(inside) > 0 && (inside[0].word() == "binary" || inside[0].word() == "quote") || c.ModuleType == "text" {
				continue
			}
			got, err := func() (b []byte, err error) {
				defer caught(&b, &err)
				return assemble([]node{n}), nil
			}()
			if err != nil {
				if c.Type == "assert_invalid" {
					refused++
					continue
				}
				t.Errorf("%s line %d: %v", filepath.Base(script), c.Line, err)
				continue
			}
			want, err := os.ReadFile(filepath.Join(filepath.Dir(script), c.Filename))
			if err != nil {
				t.Fatal(err)
			}
			a, errGot := plain(got)
			b, errWant := plain(want)
			switch {
			case errGot != nil && errWant != nil:
				refused++
			case errGot != nil || errWant != nil:
				t.Errorf("%s line %d: got error %v, want %v", filepath.Base(script), c.Line, errGot, errWant)
			case c.Type == "assert_invalid" && bytes.Contains(got, []byte{0x1c, 0, wasm.OpEnd}):
				refused++ // (select (result)), which the tools write as if it were select
			case !bytes.Equal(a, b):
				t.Errorf("%s line %d (%s): got\n%x\nwant\n%x", filepath.Base(script), c.Line, c.Filename, a, b)
			default:
				same++
			}
		}
	}
	t.Logf("%d modules are the same, %d are refused", same, refused)
	if same < 3000 {
		t.Errorf("%d modules were compared", same)
	}
}

// plain is a module without what the tools leave out, or write otherwise.
func plain(b []byte) ([]byte, error) {
	m, err := wasm.Parse(b)
	if err != nil {
		return nil, err
	}
	m.Name, m.FuncNames, m.DataCount = "", nil, false
	return m.Encode(), nil
}

func TestTextsThatTheSpecificationRefusesAreRefused(t *testing.T) {
	refused := 0
	for _, script := range specScripts(t) {
		commands, _ := modulesOf(t, script)
		for _, c := range commands {
			if c.ModuleType != "text" || c.Type != "assert_malformed" {
				continue
			}
			text, err := os.ReadFile(filepath.Join(filepath.Dir(script), c.Filename))
			if err != nil {
				t.Fatal(err)
			}
			b, err := Assemble(text)
			if err == nil {
				_, err = wasm.Parse(b) // an index that is too large
			}
			if err == nil {
				t.Errorf("%s line %d is taken, want it refused (%s):\n%s", filepath.Base(script), c.Line, c.Text, text)
				continue
			}
			refused++
		}
	}
	t.Logf("%d texts are refused", refused)
	if refused < 1000 {
		t.Errorf("%d texts were tried", refused)
	}
}
