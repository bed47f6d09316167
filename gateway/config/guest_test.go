package config_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/config"
	"github.com/gripway/gripway/guest"
	"github.com/gripway/gripway/guest/compute"
)

// writeIn writes a file in a folder of the test's own.
func writeIn(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// module is the shortest there is.
const module = "\x00asm\x01\x00\x00\x00"

func TestAGuestIsATableOrALine(t *testing.T) {
	dir := t.TempDir()
	writeIn(t, dir, "app.wasm", module)
	writeIn(t, dir, "fastly.toml", "[local_server.backends.app]\nurl = 'http://app.test/v1'\n")
	file := writeIn(t, dir, "gripway.toml", `
[[guest]]
name = "app"
file = "app.wasm"
manifest = "fastly.toml"
memory = "64MiB"
log-rate = "32KiB"
limits = "fastly"
backend-requests = 0
url-bytes = "4KiB"
cpu = "2s"
wall = "1m"
env = ["A=b=c", "SECRET=hush"]
publish = "publish.test"
snapshot = true

[[guest.backend]]
name = "self"
url = "https://self.test"
self = true

[[guest.backend]]
name = "api"
url = "http://api.test:81"
override_host = "other.test"

[[route]]
domain = "*"
guest = "app"
`)
	command, err := config.Parse([]string{"serve", "--config", file}, nil, config.Output{})
	if err != nil {
		t.Fatal(err)
	}
	c := command.(*config.ServeCommand)
	if problems := c.Validate(); len(problems) > 0 {
		t.Fatal(problems)
	}
	g := c.Guest[0]
	if g.Name != "app" || g.File != filepath.Join(dir, "app.wasm") || g.Memory != 64<<20 || g.CPU != 2*time.Second || g.Wall != time.Minute || !g.Snapshot || g.Private {
		t.Errorf("got %#v", g)
	}
	if want := (compute.Limits{ConfigLookups: 32, HeaderBytes: 69 << 10, URLBytes: 4 << 10}); g.Limits != want {
		t.Errorf("limits: got %+v, want %+v", g.Limits, want)
	}
	if g.LogRate != 32<<10 {
		t.Errorf("got a log rate of %d, want 32 KiB", g.LogRate)
	}
	if want := [][2]string{{"A", "b=c"}, {"SECRET", "hush"}}; !reflect.DeepEqual(g.Env, want) || strings.Contains(g.String(), "hush") {
		t.Errorf("env: got %q, shown as %s", g.Env, g)
	}
	if !reflect.DeepEqual(g.Self, []string{"self"}) || !reflect.DeepEqual(g.Publish, []string{"publish.test"}) {
		t.Errorf("got self %q, publish %q", g.Self, g.Publish)
	}
	_, manifest, problems := g.Read()
	if len(problems) > 0 || len(manifest.Backends) != 3 || manifest.Backends[0].PathPrefix != "/v1" || !manifest.Backends[1].TLS || manifest.Backends[2].HostOverride != "other.test" {
		t.Errorf("got %+v, %v", manifest.Backends, problems)
	}
	if c.Route[0].Guest != "app" || len(c.Route[0].Targets) != 0 {
		t.Errorf("got %+v", c.Route[0])
	}

	line := "app,file=" + filepath.Join(dir, "app.wasm") + ",self=self,private"
	command, _ = config.Parse([]string{"serve", "--guest", line, "--route", "*,guest=app"}, nil, config.Output{})
	if g := command.(*config.ServeCommand).Guest[0]; g.Name != "app" || !g.Private || !reflect.DeepEqual(g.Publish, []string{"api.fastly.com"}) {
		t.Errorf("got %#v", g)
	}
}

func TestABackendOfTheGatewaysOwnFileHasAllOptions(t *testing.T) {
	dir := t.TempDir()
	writeIn(t, dir, "app.wasm", module)
	file := writeIn(t, dir, "gripway.toml", `
[[guest]]
name = "app"
file = "app.wasm"

[[guest.backend]]
name = "api"
url = "https://api.test"
connect_timeout_ms = 1500
keepalive_time_ms = 2000
max_conn = 3
max_use = 4
max_lifetime_ms = 5000
prefer_ipv4 = true
min_tls_version = "1.2"
max_tls_version = "1.3"
ssl_ciphers = "ECDHE-RSA-AES256-GCM-SHA384"
ssl_sni_hostname = "sni.test"
healthcheck = {check_interval = 1000, timeout = 200, host = "h.test", method = "GET", path = "/up", expected_response = 204, window = 6, threshold = 2, initial = 1}
`)
	command, err := config.Parse([]string{"serve", "--config", file}, nil, config.Output{})
	if err != nil {
		t.Fatal(err)
	}
	got := command.(*config.ServeCommand).Guest[0].Backends
	want := []guest.BackendOptions{{
		Name: "api", Address: "api.test:443", TLS: true, ConnectTimeout: 1500 * time.Millisecond, KeepAlive: 2 * time.Second,
		ConnectionsMax: 3, ConnectionUsesMax: 4, ConnectionAgeMax: 5 * time.Second, PreferIPv4: true,
		TLSMin: tls.VersionTLS12, TLSMax: tls.VersionTLS13, Ciphers: "ECDHE-RSA-AES256-GCM-SHA384", SNI: "sni.test",
		Check: &guest.HealthCheck{
			Every: time.Second, Timeout: 200 * time.Millisecond, Host: "h.test", Method: "GET", Path: "/up", Status: 204, Window: 6, Threshold: 2, Initial: 1,
		},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestWhatIsWrongWithGuestsHasItsLine(t *testing.T) {
	dir := t.TempDir()
	writeIn(t, dir, "app.wasm", module)
	writeIn(t, dir, "text.wat", "(module\n(frob))")
	writeIn(t, dir, "text.wasm", "hello")
	writeIn(t, dir, "component.wasm", "\x00asm\x0d\x00\x01\x00")
	writeIn(t, dir, "bad.toml", "[local_server.backends.app]\nurl = 'ftp://a'\n")
	for _, test := range []struct{ name, text, want string }{
		{"no such option", "[[guest]]\nname = 'a'\nfile = 'app.wasm'\nmemry = '1MiB'", `gripway.toml:4: guest: unknown option "memry"; did you mean memory?`},
		{"no name", "[[guest]]\nfile = 'app.wasm'", "gripway.toml:1: guest: it has no name: routes say guest=NAME"},
		{"no file", "[[guest]]\nname = 'a'", `gripway.toml:1: guest: guest "a": want file, a module of WebAssembly`},
		{"not there", "[[guest]]\nname = 'a'\nfile = 'b.wasm'", `the module cannot be read: no such file or directory`},
		{"text", "[[guest]]\nname = 'a'\nfile = 'text.wat'", `gripway.toml:1: guest "text.wat": line 2: field (frob …) is unknown`},
		{"no module", "[[guest]]\nname = 'a'\nfile = 'text.wasm'", "this is not WebAssembly: it begins neither with"},
		{"a switch", "[[guest]]\nname = 'a'\nfile = 'app.wasm'\ntrap-unknown = 'perhaps'", `gripway.toml:4: guest: option trap-unknown: want true or false`},
		{"a component", "[[guest]]\nname = 'a'\nfile = 'component.wasm'", "it is a component"},
		{"limits", "[[guest]]\nname = 'a'\nfile = 'app.wasm'\nlimits = 'all'", `gripway.toml:4: guest: limits "all": want fastly`},
		{"number", "[[guest]]\nname = 'a'\nfile = 'app.wasm'\nbackend-requests = 'many'", `gripway.toml:4: guest: backend-requests "many": want a number, or 0 for no limit`},
		{"log rate", "[[guest]]\nname = 'a'\nfile = 'app.wasm'\nlog-rate = '1KiB'", `gripway.toml:4: guest: log-rate "1KiB": want 16KiB (a second) or more, or 0 for no limit`},
		{"memory", "[[guest]]\nname = 'a'\nfile = 'app.wasm'\nmemory = '1kB'", `gripway.toml:4: guest: memory "1kB": want 1MiB to 4GiB`},
		{"time", "[[guest]]\nname = 'a'\nfile = 'app.wasm'\ncpu = '0s'", `gripway.toml:4: guest: cpu "0s": want more than nothing`},
		{"the manifest", "[[guest]]\nname = 'a'\nfile = 'app.wasm'\nmanifest = 'bad.toml'", `bad.toml:2: local_server.backends.app.url`},
		{"a backend's timeout", "[[guest]]\nname = 'a'\nfile = 'app.wasm'\n[[guest.backend]]\nname = 'b'\nurl = 'http://b'\nconnect_timeout_ms = 0", `gripway.toml:7: guest: guest.backend.connect_timeout_ms "0": want a whole number from 1 to`},
		{"a backend's TLS", "[[guest]]\nname = 'a'\nfile = 'app.wasm'\n[[guest.backend]]\nname = 'b'\nurl = 'http://b'\nmin_tls_version = '1.2'", `gripway.toml:7: guest: guest.backend.min_tls_version: the url is not https`},
		{"a version of TLS", "[[guest]]\nname = 'a'\nfile = 'app.wasm'\n[[guest.backend]]\nname = 'b'\nurl = 'https://b'\nmin_tls_version = '2'", `gripway.toml:7: guest: guest.backend.min_tls_version "2": want 1.0, 1.1, 1.2 or 1.3`},
		{"a health check", "[[guest]]\nname = 'a'\nfile = 'app.wasm'\n[[guest.backend]]\nname = 'b'\nurl = 'http://b'\nhealthcheck = {pth = '/'}", `unknown key`},
		{"a backend", "[[guest]]\nname = 'a'\nfile = 'app.wasm'\n[[guest.backend]]\nname = 'b'\nurl = 'http://b'\nhealth = 'fine'", `gripway.toml:7: guest: guest.backend.health "fine": want healthy, unhealthy or unknown`},
		{"self", "[[guest]]\nname = 'a'\nfile = 'app.wasm'\nself = 'me'", `"me": self names a backend that there is not`},
		{"twice", "[[guest]]\nname = 'a'\nfile = 'app.wasm'\n[[guest]]\nname = 'a'\nfile = 'app.wasm'", `a guest of this name is at`},
		{"a route to none", "[[guest]]\nname = 'app'\nfile = 'app.wasm'\n[[route]]\ndomain = '*'\nguest = 'apq'", `guest "apq": there is no guest of this name; did you mean app?`},
		{"a route with both", "[[route]]\ndomain = '*'\nguest = 'a'\ntarget = 'localhost:1'", `guest=a and a target: want one of them`},
		{"not a list", "[guest]\nname = 'a'", "want [[guest]], in double brackets"},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := writeIn(t, dir, "gripway.toml", test.text)
			args := []string{"serve", "--config", file}
			if !strings.Contains(test.text, "route") {
				args = append(args, "--route", "* localhost:1")
			}
			command, err := config.Parse(args, nil, config.Output{})
			if err != nil {
				t.Fatal(err)
			}
			problems := command.(*config.ServeCommand).Validate()
			if got := strings.ReplaceAll(problems.Error(), dir+"/", ""); !strings.Contains(got, test.want) {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestTheCommandLineOfViceroy(t *testing.T) {
	dir := t.TempDir()
	wasm := writeIn(t, dir, "app.wasm", module)
	manifest := writeIn(t, dir, "fastly.toml", "name = 'x'\n[local_server.pushpin]\nenable = true\npublish_port = 5599\n")
	bare := writeIn(t, dir, "bare.toml", "name = 'x'\n")
	for _, test := range []struct {
		name  string
		args  []string
		check func(g *config.GuestCommand) bool
	}{
		{"alone", []string{wasm}, func(g *config.GuestCommand) bool {
			return g.Listen[0] == "127.0.0.1:7676" && g.ControlListen == "127.0.0.1:5561" && g.QuietControl && g.SigIss == "viceroy" &&
				g.SigKey.Reveal() == "viceroy_dev_signing_key_dont_use_in_production" && g.LogLevel == "warn" && g.Config.Guest[0].Private && g.Config.Guest[0].TrapUnknown && len(g.Warnings()) == 0
		}},
		{"as the Fastly CLI calls it", []string{"-v", "-C", manifest, "--addr", "127.0.0.1:23456", wasm, "--debug", "--profile=guest,dir"}, func(g *config.GuestCommand) bool {
			return g.Listen[0] == "127.0.0.1:23456" && g.ControlListen == "127.0.0.1:5599" && g.HandoffListen == "127.0.0.1:7677" && !g.QuietControl && g.LogLevel == "info" && g.Debug &&
				len(g.Warnings()) == 1 && g.Config.Guest[0].Manifest == manifest
		}},
		{"with a Pushpin", []string{"serve", "-C", bare, "--local-pushpin-proxy-port=7677", wasm}, func(g *config.GuestCommand) bool {
			return g.ControlListen == "" && g.ProxyPort == 7677 && g.HandoffListen == ""
		}},
		{"flags of ours", []string{"serve", "--listen", ":8000", "--sig-iss", "me", wasm, "--env", "A=b", "--env=C=d,e", "--unknown-import-behavior=link-error", "-vv"}, func(g *config.GuestCommand) bool {
			env := g.Config.Guest[0].Env
			return g.Listen[0] == ":8000" && g.SigIss == "me" && len(env) == 2 && env[1][1] == "d,e" && !g.Config.Guest[0].TrapUnknown && g.LogLevel == "debug"
		}},
		{"features of Viceroy's engine", []string{"--wasm-gc", wasm, "--wasm-of-tomorrow=true", "--adapt"}, func(g *config.GuestCommand) bool {
			warnings := g.Warnings().Error()
			return len(g.Warnings()) == 3 && strings.Contains(warnings, "--wasm-gc: ") && strings.Contains(warnings, "--wasm-of-tomorrow=true: ") && strings.Contains(warnings, "--adapt: ")
		}},
		{"the long name of -C", []string{"serve", "--config", manifest, wasm}, func(g *config.GuestCommand) bool { return g.Config.Guest[0].Manifest == manifest }},
	} {
		t.Run(test.name, func(t *testing.T) {
			command, err := config.Parse(test.args, nil, config.Output{})
			if err != nil {
				t.Fatal(err)
			}
			g, ok := command.(*config.GuestCommand)
			if !ok {
				t.Fatalf("got %T", command)
			}
			if problems := g.Validate(); len(problems) > 0 {
				t.Fatal(problems)
			}
			if g.Route[0].Guest != "app" || !test.check(g) {
				t.Errorf("got %+v", g)
			}
		})
	}

	command, err := config.Parse([]string{"run", "-C", manifest, wasm, "-test.v", "--addr", "x"}, nil, config.Output{})
	if err != nil {
		t.Fatal(err)
	}
	if r := command.(*config.RunCommand); r.Manifest != manifest || !reflect.DeepEqual(r.Args, []string{"-test.v", "--addr", "x"}) {
		t.Errorf("run: got %+v", r)
	}
	command, err = config.Parse([]string{"run", "--wasm-gc", wasm, "--wasm-exceptions"}, nil, config.Output{})
	if r, ok := command.(*config.RunCommand); err != nil || !ok || !reflect.DeepEqual(r.Args, []string{"--wasm-exceptions"}) || len(r.Warnings()) != 1 {
		t.Errorf("run with features: got %+v, %v", command, err)
	}
	if _, err = config.Parse([]string{"adapt", wasm}, nil, config.Output{}); err == nil || !strings.Contains(err.Error(), "components do not run here") {
		t.Errorf("adapt: got %v", err)
	}

	for _, args := range [][]string{{"serve", "--guest", "a,file=app.wasm", "--route", "*,guest=a"}, {"serve", "--config", "gripway.toml"}, {"check", "app.wasm"}, {"publish", "room", "app.wasm"}} {
		if command, _ := config.Parse(args, nil, config.Output{}); command != nil {
			if _, ok := command.(*config.GuestCommand); ok {
				t.Errorf("%q is taken for Viceroy's", args)
			}
		}
	}

	var out bytes.Buffer
	_, err = config.Parse(config.Args([]string{"/usr/bin/viceroy", "--version"}), nil, config.Output{Stdout: &out, Version: "ours"})
	if !errors.Is(err, config.ErrShown) || !strings.HasPrefix(out.String(), "viceroy 0.") {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

func TestChangesOfFilesAreToldOnceTheyRest(t *testing.T) {
	dir := t.TempDir()
	path := writeIn(t, dir, "a", "one")
	ctx, cancel := context.WithCancel(context.Background())
	changed := make(chan string, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		config.WatchFiles(ctx, []string{path, filepath.Join(dir, "none")}, func() {
			text, _ := os.ReadFile(path)
			changed <- string(text)
		})
	}()
	// The watcher may take its first look at any moment: what is written is new each time.
	for i := 0; ; i++ {
		writeIn(t, dir, "a", strings.Repeat("two", i%3+1))
		select {
		case got := <-changed:
			if !strings.HasPrefix(got, "two") {
				t.Errorf("got %q", got)
			}
			cancel()
			<-done
			return
		case <-time.After(time.Second):
		}
		if i == 30 {
			t.Fatal("no change was told")
		}
	}
}
