package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/pelletier/go-toml/v2/unstable"
)

// envPrefix begins every setting's name in the environment.
const envPrefix = "GRIPWAY_"

// Command is what the command line asked for: *ServeCommand, *DemoCommand,
// *CheckCommand, *PushpinCommand, *PublishCommand, *CloseCommand, *SubscribeCommand,
// *GuestCommand or *RunCommand.
type Command interface{ command() }

// ServeCommand runs the gateway.
type ServeCommand struct {
	Config     `embed:""`
	ConfigFile string `name:"config" placeholder:"FILE" help:"Read settings from this file, gripway.toml by habit. In the environment: GRIPWAY_CONFIG."`
}

// DemoCommand runs the gateway with an origin of its own. It has the settings of
// serve, except those of routes.
type DemoCommand struct {
	Config `embed:""`
}

// CheckCommand validates what serve would be given, and ends.
type CheckCommand struct {
	Config     `embed:""`
	ConfigFile string `name:"config" placeholder:"FILE" help:"The file to check, gripway.toml by habit. In the environment: GRIPWAY_CONFIG."`
}

func (*ServeCommand) command()     {}
func (*DemoCommand) command()      {}
func (*CheckCommand) command()     {}
func (*PublishCommand) command()   {}
func (*CloseCommand) command()     {}
func (*SubscribeCommand) command() {}

const sayings = `Every setting is a flag, a key in gripway.toml, and a variable in the environment; the first of flag, variable, file and default that says something wins:

    --drain-timeout 30s   drain-timeout = "30s"   GRIPWAY_DRAIN_TIMEOUT=30s

Repeat a flag for a list. Sizes are bytes or like 64KiB, 1MiB, 1MB; durations are like 500ms, 10s, 1m30s.`

// Help is shown by gripway serve --help.
func (*ServeCommand) Help() string { return sayings }

// Help is shown by gripway check --help.
func (*CheckCommand) Help() string {
	return "Reads settings, routes, keys and certificates as serve would, and prints every problem. The exit code is 0 if there is none.\n\n" + sayings
}

// Help is shown by gripway demo --help.
func (*DemoCommand) Help() string {
	return "Everything in one process: the gateway, NATS, an origin, and a page to try it with. Every flag of serve works here too, except those for routes and the file."
}

// Output is where help goes, and what --version prints.
type Output struct {
	Stdout  io.Writer // nil is os.Stdout
	Version string
}

// ErrShown is returned after help or the version was printed: nothing is left to do,
// and nothing went wrong.
var ErrShown = errors.New("help or version was printed")

// UsageError says that the command line itself was wrong; the text has the
// command to type for help.
type UsageError struct {
	err  error
	hint string
}

func (e *UsageError) Error() string { return e.err.Error() + "\n" + e.hint }
func (e *UsageError) Unwrap() error { return e.err }

type grammar struct {
	Version   kong.VersionFlag `name:"version" help:"Print the version and end."`
	Serve     ServeCommand     `cmd:"" help:"Run the gateway."`
	Demo      DemoCommand      `cmd:"" help:"Run the gateway with a demo origin: nothing else is needed."`
	Publish   PublishCommand   `cmd:"" help:"Publish to a channel."`
	Close     CloseCommand     `cmd:"" help:"Close connections of clients."`
	Subscribe SubscribeCommand `cmd:"" help:"Print what is published to channels, as JSON lines."`
	Check     CheckCommand     `cmd:"" help:"Validate configuration, routes and keys without serving."`
	Pushpin   PushpinCommand   `cmd:"" help:"Run the gateway in Pushpin's place, from its pushpin.conf."`
	Run       RunCommand       `cmd:"" help:"Run a guest once, as a program. To serve one: gripway [serve] -C fastly.toml app.wasm."`
}

// Parse reads the command line (without the program's name), and for commands
// with settings the environment (in the form of os.Environ) and the file.
//
// The error is ErrShown, or a *UsageError. Wrong settings are no error here:
// Validate of the command reports them, all at once.
func Parse(args, environ []string, output Output) (command Command, err error) {
	if output.Stdout == nil {
		output.Stdout = os.Stdout
	}
	if rest, asked := guestArgs(args); asked {
		return parseGuest(rest, environ, output)
	}
	var g grammar
	said := make(map[string]given) // by flags, by key
	options := []kong.Option{
		kong.Name("gripway"),
		kong.Description("A real-time gateway: clients hold WebSockets and HTTP streams here, origins stay plain HTTP (GRIP)."),
		kong.Vars{"version": output.Version},
		kong.Writers(output.Stdout, output.Stdout),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.ValueFormatter(describe),
		kong.Exit(func(int) { panic(ErrShown) }),
	}
	for _, group := range groups {
		options = append(options, kong.Groups{group.key: group.title})
	}
	for _, c := range []*Config{&g.Serve.Config, &g.Demo.Config, &g.Check.Config} {
		options = append(options, c.collect(said)...)
	}
	parser, err := kong.New(&g, options...)
	if err != nil {
		panic("config: " + err.Error()) // a tag is wrong: a mistake in this program
	}
	shortenDemo(parser.Model.Node)

	defer func() { // from kong.Exit above
		if r := recover(); r == ErrShown {
			command, err = nil, ErrShown
		} else if r != nil {
			panic(r)
		}
	}()
	if len(args) == 0 {
		args = []string{"--help"}
	}
	ctx, err := parser.Parse(args)
	if err != nil {
		return nil, &UsageError{err, hint(err)}
	}

	switch ctx.Selected().Name {
	case "serve":
		g.Serve.Config.fill("serve", said, environ, &g.Serve.ConfigFile)
		return &g.Serve, nil
	case "check":
		g.Check.Config.fill("check", said, environ, &g.Check.ConfigFile)
		return &g.Check, nil
	case "demo":
		g.Demo.Config.fill("demo", said, environ, nil)
		return &g.Demo, nil
	case "pushpin":
		g.Pushpin.fill(environ)
		return &g.Pushpin, nil
	case "publish":
		g.Publish.fill(environ)
		return &g.Publish, nil
	case "close":
		g.Close.fill(environ)
		return &g.Close, nil
	case "subscribe":
		g.Subscribe.fill(environ)
		return &g.Subscribe, nil
	case "run":
		return &g.Run, nil
	}
	panic("config: no such command: " + ctx.Selected().Name)
}

func hint(err error) string {
	var parse *kong.ParseError
	command := "gripway"
	if errors.As(err, &parse) && parse.Context != nil && parse.Context.Selected() != nil {
		command += " " + parse.Context.Selected().Name
	}
	return fmt.Sprintf("for help, type: %s --help", command)
}

// describe is the help of a value: its sentence, its unit and default.
func describe(v *kong.Value) string {
	text := v.Help
	if def := v.Tag.Get("def"); def != "" && def != "false" {
		text += " Default: " + def + "."
	} else if v.HasDefault && v.Default != "" {
		text += " Default: " + v.Default + "."
	}
	return text
}

// demoShown are the settings that the help of demo shows.
var demoShown = map[string]bool{"listen": true, "control-listen": true, "nats": true, "log-level": true, "log-format": true}

func shortenDemo(root *kong.Node) {
	for _, node := range root.Children {
		if node.Name != "demo" {
			continue
		}
		for _, flag := range node.Flags {
			if findSetting(flag.Name) != nil && !demoShown[flag.Name] {
				flag.Hidden = true
			}
		}
	}
}

// collector keeps the words of a flag as they are; decoding is done for flags,
// environment and file in one place.
type collector struct {
	setting *setting
	said    map[string]given
}

// collect has kong keep what flags say of the settings.
func (c *Config) collect(said map[string]given) []kong.Option {
	var options []kong.Option
	v := reflect.ValueOf(c).Elem()
	for i := range settings {
		options = append(options, kong.ValueMapper(v.Field(settings[i].field).Addr().Interface(), &collector{&settings[i], said}))
	}
	return options
}

// IsBool tells kong that the flag may stand alone.
func (c *collector) IsBool() bool { return c.setting.kind == "bool" }

// Decode takes the next word.
func (c *collector) Decode(ctx *kong.DecodeContext, _ reflect.Value) error {
	text := "true"
	if !c.IsBool() || ctx.Scan.Peek().Type == kong.FlagValueToken {
		token, err := ctx.Scan.PopValue(strings.ToLower(c.setting.placeholder))
		if err != nil {
			return err
		}
		text = fmt.Sprint(token.Value)
	}
	g := c.said[c.setting.key]
	g.layer = layerFlag
	if !c.setting.list {
		g.values = nil // said again: the last one counts
	}
	pieces := c.setting.split(text, false)
	if !c.setting.list {
		pieces = []string{text}
	}
	for _, piece := range pieces {
		g.values = append(g.values, &value{text: piece})
	}
	c.said[c.setting.key] = g
	return nil
}

// The layers, the strongest first.
type layer int

const (
	layerFlag layer = iota + 1
	layerEnv
	layerFile
	layerPushpin // pushpin.conf
	layerDefault
)

// given is what one layer says about one setting.
type given struct {
	layer  layer
	values []*value // none: said to be empty
	file   string   // layerFile, layerPushpin
	line   int      // layerFile, layerPushpin: of the key
	name   string   // what the setting is called there; "" is its key
}

// where names the place for the one who wrote it; line is a value's own line.
func (g given) where(s *setting, line int) string {
	name := cmp.Or(g.name, s.key)
	switch g.layer {
	case layerFlag:
		return "--" + name
	case layerEnv:
		return s.env()
	case layerFile, layerPushpin:
		if line == 0 {
			line = g.line
		}
		return fmt.Sprintf("%s:%d: %s", g.file, line, name)
	}
	return "the default of " + name
}

// folder is where relative file names start; "" is the working directory. Those of
// pushpin.conf were completed when it was read.
func (g given) folder() string {
	if g.layer == layerFile {
		return filepath.Dir(g.file)
	}
	return ""
}

func findSetting(key string) *setting {
	for i := range settings {
		if settings[i].key == key {
			return &settings[i]
		}
	}
	return nil
}

// fill sets every field from the strongest layer that says something.
// file is nil for a command that has no --config.
func (c *Config) fill(command string, flags map[string]given, environ []string, file *string) {
	c.command = command

	env, configFile, problems := readEnviron(environ)
	c.unread = append(c.unread, problems...)
	var fromFile map[string]given
	if file != nil {
		if *file == "" {
			*file = configFile
		}
		if *file != "" {
			fromFile, problems = readFile(*file)
			c.unread = append(c.unread, problems...)
			c.fileUnread = fromFile == nil
		}
	}

	c.setAll(flags, env, fromFile)
}

// setAll sets every field from the first of the layers that says something, or
// its default.
func (c *Config) setAll(layers ...map[string]given) {
	c.given = make(map[string]given, len(settings))
	fields := reflect.ValueOf(c).Elem()
	for i := range settings {
		s := &settings[i]
		g := given{layer: layerDefault}
		if s.def != "" {
			g.values = []*value{{text: s.def}}
		}
		for _, layer := range layers {
			if said, ok := layer[s.key]; ok {
				g = said
				break
			}
		}
		c.given[s.key] = g
		c.set(s, g, fields.Field(s.field))
	}
}

// set decodes what was given into the setting's field.
func (c *Config) set(s *setting, g given, field reflect.Value) {
	field.SetZero()
	refuse := func(v *value, err error) {
		c.unread = append(c.unread, Problem{Where: g.where(s, v.line), Value: s.show(v.text), What: err.Error()})
	}
	for _, v := range g.values {
		if g.layer == layerFile {
			if want := s.typeWanted(v); want != "" {
				refuse(v, errors.New(want))
				continue
			}
		}
		if s.isLine() {
			c.setLine(s, g, v)
			continue
		}
		decoded, err := s.decode(v.text)
		if err != nil {
			refuse(v, err)
			continue
		}
		switch s.kind {
		case "file":
			if s.key != "guest-cache" || v.text != userCache {
				decoded = resolveFile(v.text, g.folder())
			}
		case "secret":
			decoded = Secret(resolveKey(v.text, g.folder()))
		}
		if s.list {
			field.Set(reflect.Append(field, reflect.ValueOf(decoded)))
			continue
		}
		field.Set(reflect.ValueOf(decoded))
	}
}

// setLine reads what may be a table: a route, a publisher, a history, a guest,
// or who is told events.
func (c *Config) setLine(s *setting, g given, v *value) {
	var wrong []error
	switch s.kind {
	case "guest":
		var program Guest
		if program, wrong = readGuest(v, g.file, g.folder()); len(wrong) == 0 {
			program.Where = g.where(s, v.line)
			c.Guest = append(c.Guest, program)
		} else {
			c.wrongGuests = append(c.wrongGuests, program.Name)
		}
	case "events":
		var events Events
		if events, wrong = readEvents(v); len(wrong) == 0 {
			events.Where = g.where(s, v.line)
			c.Events = append(c.Events, events)
		}
	case "publisher":
		var publisher Publisher
		if publisher, wrong = readPublisher(v, g.folder()); len(wrong) == 0 {
			publisher.Where = g.where(s, v.line)
			c.Publisher = append(c.Publisher, publisher)
		}
	case "history":
		var history History
		if history, wrong = readHistory(v); len(wrong) == 0 {
			history.Where = g.where(s, v.line)
			c.History = append(c.History, history)
		}
	default:
		var route Route
		if route, wrong = readRoute(v, g.folder()); len(wrong) == 0 {
			route.Where = g.where(s, v.line)
			c.Route = append(c.Route, route)
		}
	}
	for _, err := range wrong {
		line := v.line
		var o *optionError
		if errors.As(err, &o) && o.line > 0 {
			line = o.line
		}
		problem := Problem{Where: g.where(s, line), What: err.Error()}
		if v.kind != unstable.InlineTable {
			problem.Value = s.show(v.text)
		}
		c.unread = append(c.unread, problem)
	}
}

// show is the value as a problem may repeat it.
func (s *setting) show(text string) string {
	switch s.kind {
	case "secret":
		return Secret(text).String()
	case "nats", "peer":
		return URL(text).String()
	case "route", "publisher", "history", "events", "guest":
		sections, err := parseLine(text)
		if err != nil {
			return "" // what is secret in it cannot be told
		}
		return formatLine(sections, false)
	}
	return text
}

// serviceLink matches the variables that Kubernetes puts into every container
// for each service of the namespace: with a service called gripway they begin
// like ours.
var serviceLink = regexp.MustCompile(`_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$`)

// readEnviron returns what the environment says, by key, and GRIPWAY_CONFIG.
// Variables that begin like ours and mean nothing are problems.
func readEnviron(environ []string) (said map[string]given, configFile string, problems Problems) {
	said = make(map[string]given)
	byEnv := make(map[string]*setting)
	names := []string{envPrefix + "CONFIG"}
	for i := range settings {
		byEnv[settings[i].env()] = &settings[i]
		names = append(names, settings[i].env())
	}
	for _, variable := range environ {
		name, text, _ := strings.Cut(variable, "=")
		s := byEnv[name]
		switch {
		case !strings.HasPrefix(name, envPrefix), text == "", serviceLink.MatchString(name):
		case name == envPrefix+"CONFIG":
			configFile = text
		case s == nil:
			problems = append(problems, Problem{Where: name, What: "no setting is called so" + didYouMean(name, names)})
		default:
			g := given{layer: layerEnv}
			for _, piece := range s.split(text, true) {
				g.values = append(g.values, &value{text: piece})
			}
			said[s.key] = g
		}
	}
	return said, configFile, problems
}
