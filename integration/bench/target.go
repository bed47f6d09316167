//go:build linux

// What is measured: Gripway, Pushpin, and two yardsticks of our own.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// startPatience is how long a target may take until it answers.
	startPatience = 20 * time.Second

	// buildPatience is how long compiling Gripway may take, cold.
	buildPatience = 5 * time.Minute
)

// target is a running gateway.
type target struct {
	name           string
	front, control string
	pids           []int
	process        *child
}

// targetKind is one that can be started.
type targetKind struct {
	name string
	// asksOrigin is false for those that answer out of themselves: they take
	// part only where the origin does not matter.
	asksOrigin bool
	// prepare runs once, before the first start.
	prepare func(*bench) error
	command func(b *bench, dir, front, control, origin string) (args []string, err error)
}

var targetKinds = []targetKind{
	{name: "gripway", asksOrigin: true, prepare: buildGripway, command: gripwayCommand},
	{name: "pushpin", asksOrigin: true, prepare: findPushpin, command: pushpinCommand},
	{name: "floor", command: ownCommand("floor")},
	{name: "naive", command: ownCommand("naive")},
}

// start runs a target in front of the origin and returns once it answers.
func (b *bench) start(kind targetKind, dir, origin string, l *loader) (*target, error) {
	front, control, err := freePorts()
	if err != nil {
		return nil, err
	}
	args, err := kind.command(b, dir, front, control, origin)
	if err != nil {
		return nil, err
	}
	process, err := spawn(kind.name, dir, false, plainEnvironment(), args...)
	if err != nil {
		return nil, err
	}
	t := &target{name: kind.name, front: front, control: control, process: process}
	deadline := time.Now().Add(startPatience)
	for {
		err = b.answers(kind, t, l)
		if err == nil {
			break
		}
		if t.process.hasEnded() {
			err = errors.New("it ended by itself")
		} else if time.Now().Before(deadline) {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		words := t.process.lastWords()
		t.process.stop()
		return nil, fmt.Errorf("%s does not answer: %w; its last output:\n%s", kind.name, err, indented(words))
	}
	t.pids = family(t.process.cmd.Process.Pid)
	return t, l.aim(t)
}

// answers asks the target on both its doors.
func (b *bench) answers(kind targetKind, t *target, l *loader) error {
	for _, door := range []string{t.front, t.control} {
		conn, err := net.DialTimeout("tcp", door, time.Second)
		if err != nil {
			return err
		}
		conn.Close()
	}
	if !kind.asksOrigin {
		return nil
	}
	t.pids = []int{t.process.cmd.Process.Pid}
	if err := l.aim(t); err != nil {
		return err
	}
	_, err := l.ask(order{Do: "probe"}, startPatience)
	return err
}

// freePorts finds two ports of 127.0.0.1 that nobody listens on now.
func freePorts() (front, control string, err error) {
	var addrs []string
	for range 2 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", "", err
		}
		defer listener.Close() // only when both are known, so that they differ
		addrs = append(addrs, listener.Addr().String())
	}
	return addrs[0], addrs[1], nil
}

// plainEnvironment keeps settings of the caller's own gateways out.
func plainEnvironment() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool {
		return strings.HasPrefix(entry, "GRIPWAY_") || strings.HasPrefix(entry, "GRIP_URL=")
	})
}

// ownCommand is this program in another role.
func ownCommand(role string) func(*bench, string, string, string, string) ([]string, error) {
	return func(_ *bench, _, front, control, _ string) ([]string, error) {
		self, err := os.Executable()
		return []string{self, childFlag, role, front, control}, err
	}
}

// buildGripway compiles the module this tool is run in.
func buildGripway(b *bench) error {
	if b.gripway != "" {
		path, err := filepath.Abs(b.gripway)
		b.gripway = path
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), buildPatience)
	defer cancel()
	module, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("go env GOMOD: %w", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(module)))
	b.gripway = filepath.Join(b.dir, "gripway.bin")
	build := exec.CommandContext(ctx, "go", "build", "-o", b.gripway, ".")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build in %s: %w\n%s", root, err, indented(strings.TrimSpace(string(out))))
	}
	return nil
}

// gripwayCommand signs requests to the origin, as Pushpin does by default, and
// logs no ordinary request, as Pushpin does here.
func gripwayCommand(b *bench, _, front, control, origin string) ([]string, error) {
	return []string{
		b.gripway, "serve",
		"--listen", front,
		"--control-listen", control,
		"--route", "* " + origin + ",over_http",
		"--sig-key", signingKey,
		"--log-level", "warn",
	}, nil
}

const signingKey = "changeme"

func findPushpin(b *bench) error {
	path, err := exec.LookPath(b.pushpin)
	if err != nil {
		return fmt.Errorf("%w: install it (Debian: apt install pushpin) or leave it out with -target", err)
	}
	b.pushpin = path
	return nil
}

// pushpinCommand writes a configuration in which nothing but the work limits
// it: delivery rate and queue far above what it can reach, room for every
// client, warnings only in the log. All the rest is what Debian ships.
func pushpinCommand(b *bench, dir, front, control, origin string) ([]string, error) {
	const unlimited = 100_000_000
	run := filepath.Join(dir, "run")
	if err := os.MkdirAll(run, 0o700); err != nil {
		return nil, err
	}
	_, controlPort, err := net.SplitHostPort(control)
	if err != nil {
		return nil, err
	}
	ipc := func(name string) string { return "ipc://" + filepath.Join(run, name) }
	config := fmt.Sprintf(`[global]
include={libdir}/internal.conf
rundir=%[1]s
ipc_prefix=b-
port_offset=0

[runner]
services=condure,zurl,pushpin-proxy,pushpin-handler
http_port=%[2]s
logdir=%[3]s
log_level=1
client_buffer_size=8192
client_maxconn=%[4]d

[proxy]
routesfile=routes
sig_iss=pushpin
sig_key=%[5]s
updates_check=off
zurl_out_specs=%[6]s
zurl_out_stream_specs=%[7]s
zurl_in_specs=%[8]s

[handler]
push_in_spec=%[9]s
push_in_sub_specs=%[10]s
push_in_http_addr=127.0.0.1
push_in_http_port=%[11]s
stats_spec=%[12]s
command_spec=%[13]s
message_rate=-1
message_hwm=%[14]d
id_cache_ttl=60
connection_subscription_max=20
subscription_linger=60
`, run, front, dir, b.fileLimit-fileReserve, signingKey,
		ipc("b-zurl-in"), ipc("b-zurl-in-stream"), ipc("b-zurl-out"),
		ipc("push"), ipc("sub"), controlPort, ipc("stats"), ipc("command"), unlimited)
	path := filepath.Join(dir, "pushpin.conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return nil, err
	}
	route := fmt.Sprintf("* %s,over_http\n", origin)
	if err := os.WriteFile(filepath.Join(dir, "routes"), []byte(route), 0o600); err != nil {
		return nil, err
	}
	return []string{b.pushpin, "--config=" + path, "--merge-output"}, nil
}

func indented(text string) string {
	return "    " + strings.ReplaceAll(text, "\n", "\n    ")
}
