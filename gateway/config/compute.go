package config

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// This file is the command line of Viceroy, Fastly's local server, which users and
// the Fastly CLI type:
//
//	gripway [serve] [-C fastly.toml] [--addr ADDRESS] app.wasm
//	gripway run [-C fastly.toml] app.wasm [args…]

// viceroyVersion is which Viceroy's behaviour this is: the Fastly CLI compares it
// with what it needs.
const viceroyVersion = "0.20.2"

// The key that a handed-off request is signed with where developers work: what
// Fastly's CLI gives the Pushpin that it starts. Libraries know it, and believe it
// only on this machine.
const (
	developerIss = "viceroy"
	developerKey = "viceroy_dev_signing_key_dont_use_in_production"
)

// developerListen is where Viceroy listens.
const developerListen = "127.0.0.1:7676"

// developerHeaderBytes is the longest header of a request there: Fastly takes 69 kB
// in each.
const developerHeaderBytes = "128KiB"

// developerCPU bounds what a guest computes there for one request: Viceroy has no
// limit, and programs that were not compiled to be fast take ten times as long.
const developerCPU = 2 * time.Minute

// GuestFlags are what whoever develops a guest types: Viceroy's flags.
type GuestFlags struct {
	Manifest     string   `name:"config" short:"C" placeholder:"FILE" help:"A fastly.toml; its table [local_server] has backends, stores and the like."`
	LogStdout    bool     `name:"log-stdout" help:"Treat the guest's standard output as a log endpoint: each line begins with its name."`
	LogStderr    bool     `name:"log-stderr" help:"The same for standard error."`
	Env          []string `name:"env" sep:"none" placeholder:"NAME=VALUE" help:"Add to the guest's environment. May be repeated."`
	Unknown      string   `name:"unknown-import-behavior" enum:"link-error,trap" default:"trap" placeholder:"WHAT" help:"What becomes of a guest that imports what is not known here: trap (the default) fails it when it calls that, link-error refuses it."`
	ProxyPort    int      `name:"local-pushpin-proxy-port" placeholder:"PORT" help:"Hand off to the Pushpin there. Without: to this gateway itself."`
	Verbose      int      `name:"verbose" short:"v" type:"counter" help:"Log more: -v informs, -vv has everything."`
	Profile      string   `name:"profile" placeholder:"STRATEGY" help:"Not supported: a warning."`
	Experimental []string `name:"experimental_modules" hidden:""`
	Adapt        bool     `name:"adapt" hidden:""`

	// Features are the flags that begin with --wasm-.
	Features []string `kong:"-"`
}

// GuestCommand serves one guest where developers work.
type GuestCommand struct {
	Config     `embed:""`
	GuestFlags `embed:""`

	Addr   string `name:"addr" placeholder:"ADDRESS" help:"Accept clients here, the same as listen. Default: 127.0.0.1:7676."`
	Cache  bool   `name:"cache" help:"Cache answers of backends, as Fastly does. Viceroy does not."`
	Module string `arg:"" name:"module" help:"The guest: a module of WebAssembly."`

	// Fastly is what the manifest says.
	Fastly *Fastly `kong:"-"`

	// HandoffListen is where requests come that were handed off elsewhere, as to the
	// Pushpin that the manifest asks for; "" is nowhere.
	HandoffListen string `kong:"-"`

	// QuietControl lets the gateway do without control-listen if something else has
	// that port: nobody asked for it.
	QuietControl bool `kong:"-"`
}

// RunCommand runs a guest once.
type RunCommand struct {
	// Config is what the environment says: there are no flags for it.
	Config     `kong:"-"`
	GuestFlags `embed:""`
	Module     string `arg:"" name:"module" help:"The guest: a module of WebAssembly. All that follows is what it is called with."`

	// Args are the words after the module.
	Args []string `kong:"-"`
}

func (*GuestCommand) command() {}
func (*RunCommand) command()   {}

// Help is shown by gripway -C fastly.toml app.wasm --help.
func (*GuestCommand) Help() string {
	return `Serves a Compute guest with its fastly.toml. Handoffs to Fanout end in this gateway, and so does publishing to api.fastly.com; the port for publishers is that of [local_server.pushpin], 5561 if that says nothing. The module and the manifest are watched: a change counts from the next request on.

All settings of gripway serve can be said as well, as flags or in the environment.`
}

// asViceroy marks a command line that was typed for Viceroy.
const asViceroy = "\x00viceroy"

type guestGrammar struct {
	Version kong.VersionFlag `name:"version" help:"Print the version and end."`
	Serve   GuestCommand     `cmd:"" default:"withargs" help:"Serve a guest."`
	Run     RunCommand       `cmd:"" help:"Run a guest once, as a program."`
}

// guestArgs tells whether a command line is one of Viceroy's: it names a module, or
// a manifest by -C.
func guestArgs(args []string) (rest []string, asked bool) {
	if len(args) == 0 {
		return args, false
	}
	if args[0] == asViceroy || args[0] == "run" || args[0] == "adapt" {
		return args, true
	}
	first := 0
	if args[0] == "serve" {
		first = 1
	} else if !strings.HasPrefix(args[0], "-") && !isModule(args[0]) {
		return args, false // another command
	}
	for i := first; i < len(args); i++ {
		word := args[i]
		switch {
		case word == "--":
			return args, false
		case strings.HasPrefix(word, "-C"):
			return args, true
		case strings.HasPrefix(word, "-"):
			name, _, valued := strings.Cut(strings.TrimPrefix(word, "--"), "=")
			if s := findSetting(name); s != nil && s.kind != "bool" && !valued {
				i++ // its value
			}
		case isModule(word):
			return args, true
		}
	}
	return args, false
}

func isModule(word string) bool {
	ext := filepath.Ext(word)
	return ext == ".wasm" || ext == ".wat"
}

// parseGuest is Parse for Viceroy's command line.
func parseGuest(args, environ []string, output Output) (command Command, err error) {
	var g guestGrammar
	said := make(map[string]given)
	version := output.Version
	if args[0] == asViceroy {
		args, version = args[1:], "viceroy "+viceroyVersion
	}
	options := append(g.Serve.Config.collect(said),
		kong.Name("gripway"),
		kong.Description("Serve a Compute guest, or run it once."),
		kong.Vars{"version": version},
		kong.Writers(output.Stdout, output.Stdout),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.ValueFormatter(describe),
		kong.Exit(func(int) { panic(ErrShown) }),
	)
	for _, group := range groups {
		options = append(options, kong.Groups{group.key: group.title})
	}
	parser, err := kong.New(&g, options...)
	if err != nil {
		panic("config: " + err.Error()) // a tag is wrong: a mistake in this program
	}
	for _, node := range parser.Model.Node.Children {
		for _, flag := range node.Flags {
			if findSetting(flag.Name) != nil {
				flag.Hidden = true
			}
		}
	}
	defer func() { // from kong.Exit above
		if r := recover(); r == ErrShown {
			command, err = nil, ErrShown
		} else if r != nil {
			panic(r)
		}
	}()
	if len(args) > 0 && args[0] == "adapt" {
		return nil, &UsageError{errors.New("adapt makes a component of a module: components do not run here, and modules need no adapting"), "for help, type: gripway app.wasm --help"}
	}
	args, g.Run.Args = programArgs(args)
	args, features := wasmFeatures(args)
	g.Serve.Features, g.Run.Features = features, features
	ctx, err := parser.Parse(args)
	if err != nil {
		return nil, &UsageError{err, "for help, type: gripway app.wasm --help"}
	}
	if strings.HasPrefix(ctx.Command(), "run") {
		g.Run.fill(environ)
		return &g.Run, nil
	}
	g.Serve.fill(said, environ)
	return &g.Serve, nil
}

// wasmFeatures takes out what turns features of Viceroy's engine on and off, like
// --wasm-gc: which of them there are changes with its versions.
func wasmFeatures(args []string) (rest, features []string) {
	for i, word := range args {
		switch {
		case word == "--":
			return append(rest, args[i:]...), features
		case strings.HasPrefix(word, "--wasm-"):
			features = append(features, word)
		default:
			rest = append(rest, word)
		}
	}
	return rest, features
}

// programArgs divides the words of run after the module: whatever follows it is the
// guest's, flags as well.
func programArgs(args []string) (ours, guests []string) {
	if len(args) == 0 || args[0] != "run" {
		return args, nil
	}
	for i := 1; i < len(args); i++ {
		switch args[i] {
		case "-C", "--config", "--env", "--unknown-import-behavior", "--local-pushpin-proxy-port", "--profile", "--experimental_modules":
			i++ // its value
			continue
		}
		if !strings.HasPrefix(args[i], "-") {
			guests = args[i+1:]
			if len(guests) > 0 && guests[0] == "--" {
				guests = guests[1:]
			}
			return args[:i+1], guests
		}
	}
	return args, nil
}

// fill makes settings of the flags: one guest, one route to it, and what Fastly's
// CLI gives a Pushpin beside it.
func (g *GuestCommand) fill(said map[string]given, environ []string) {
	c := &g.Config
	c.command = "serve"
	program, problems := g.guest(g.Module)
	program.Cache = g.Cache
	manifest := &Fastly{}
	if g.Manifest != "" {
		manifest, _ = ReadFastly(g.Manifest) // its problems are the guest's
	} else {
		manifest.Pushpin = FastlyPushpin{ProxyPort: 7677, PublishPort: 5561}
	}
	g.Fastly = manifest

	def := func(text string) given { return given{layer: layerDefault, values: []*value{{text: text}}} }
	level := "warn"
	switch {
	case g.Verbose == 1:
		level = "info"
	case g.Verbose > 1:
		level = "debug"
	}
	defaults := map[string]given{
		"listen": def(developerListen), "sig-iss": def(developerIss), "sig-key": def(developerKey), "header-bytes": def(developerHeaderBytes),
		"log-level": def(level), "control-listen": def(fmt.Sprintf("127.0.0.1:%d", manifest.Pushpin.PublishPort)),
	}
	if manifest.Pushpin.Enable && g.ProxyPort == 0 {
		g.HandoffListen = fmt.Sprintf("127.0.0.1:%d", manifest.Pushpin.ProxyPort)
	}
	if g.ProxyPort != 0 || manifest.Pushpin.Said && !manifest.Pushpin.Enable {
		defaults["control-listen"] = given{layer: layerDefault}
	}
	env, _, wrong := readEnviron(environ)
	c.unread = append(append(c.unread, wrong...), problems...)
	for _, b := range manifest.Backends {
		// Called so, it is what is run here, whatever port the manifest says.
		if host, _, err := net.SplitHostPort(b.Address); b.Name == "self" && err == nil && loopback(host) {
			program.Self = append(program.Self, b.Name)
		}
	}
	if g.Addr != "" {
		said["listen"] = given{layer: layerFlag, name: "addr", values: append(said["listen"].values, &value{text: g.Addr})}
	}
	_, inFlags := said["control-listen"]
	_, inEnv := env["control-listen"]
	g.QuietControl = !inFlags && !inEnv && !manifest.Pushpin.Enable
	c.setAll(said, env, defaults)
	c.Guest = append(c.Guest, program)
	if _, there := said["route"]; !there {
		c.Route = []Route{{Line: "*,guest=" + quoteWord(program.Name), Where: g.Module, Domain: "*", Guest: program.Name}}
		c.given["route"] = given{layer: layerFlag, values: []*value{{text: c.Route[0].Line}}}
	}
	c.warned = append(append(c.warned, g.ignored()...), manifest.Warnings...)
}

// ignored are the flags that are taken and do nothing.
func (f *GuestFlags) ignored() (warnings Problems) {
	if f.Profile != "" {
		warnings = append(warnings, Problem{Where: "--profile", Value: f.Profile, What: "profiles are not supported here: it is ignored"})
	}
	if len(f.Experimental) > 0 {
		warnings = append(warnings, Problem{Where: "--experimental_modules", Value: strings.Join(f.Experimental, ","), What: "it has no meaning here, and is ignored"})
	}
	if f.Adapt {
		warnings = append(warnings, Problem{Where: "--adapt", What: "core modules run here as they are: it is ignored"})
	}
	for _, feature := range f.Features {
		warnings = append(warnings, Problem{Where: feature, What: "WebAssembly 2.0 is what runs here, whatever is turned on: it is ignored"})
	}
	return warnings
}

// guest is the guest that the flags describe.
func (f *GuestFlags) guest(module string) (Guest, Problems) {
	program := Guest{
		Name: strings.TrimSuffix(filepath.Base(module), filepath.Ext(module)), Where: module, File: module, Manifest: f.Manifest,
		Publish: publishHosts, Private: true, TrapUnknown: f.Unknown == "trap", CPU: developerCPU,
	}
	program.Line = program.Name + ",file=" + quoteWord(module)
	var problems Problems
	for _, text := range f.Env {
		pair, err := readEnvironment(text)
		if err != nil {
			problems = append(problems, Problem{Where: "--env", What: err.Error()})
			continue
		}
		program.Env = append(program.Env, pair)
	}
	return program, problems
}

// fill makes settings of the flags, and the guest to be run.
func (r *RunCommand) fill(environ []string) {
	c := &r.Config
	c.command = "run"
	program, problems := r.guest(r.Module)
	level := "warn"
	switch {
	case r.Verbose == 1:
		level = "info"
	case r.Verbose > 1:
		level = "debug"
	}
	env, _, wrong := readEnviron(environ)
	c.unread = append(wrong, problems...)
	c.setAll(env, map[string]given{"log-level": {layer: layerDefault, values: []*value{{text: level}}}})
	c.Guest = []Guest{program}
	c.warned = r.ignored()
}

// Problems is all that is wrong with the settings of a run.
func (r *RunCommand) Problems() Problems { return r.unread }
