package config_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/config"
)

const oneRoute = "* localhost:8000,over_http"

// parse reads a serve command that must be readable.
func parse(t *testing.T, environ []string, args ...string) *config.ServeCommand {
	t.Helper()
	command, err := config.Parse(append([]string{"serve"}, args...), environ, config.Output{})
	if err != nil {
		t.Fatal(err)
	}
	return command.(*config.ServeCommand)
}

// file writes a gripway.toml and returns its path.
func file(t *testing.T, text string) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "gripway.toml"), text)
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// keys are the tags of all settings.
func keys() []reflect.StructField {
	var all []reflect.StructField
	for field := range reflect.TypeFor[config.Config]().Fields() {
		if field.IsExported() {
			all = append(all, field)
		}
	}
	return all
}

func TestDefaultsAreValid(t *testing.T) {
	c := parse(t, nil, "--route", oneRoute)
	if problems := c.Validate(); problems != nil {
		t.Errorf("got problems %v, want none", problems)
	}
	got := c.Config
	for _, check := range []struct {
		key       string
		got, want any
	}{
		{"listen", got.Listen, []string{":7999"}},
		{"control-listen", got.ControlListen, "127.0.0.1:5561"},
		{"sig-iss", got.SigIss, "gripway"},
		{"client-queue-bytes", got.ClientQueueBytes, 1 << 20},
		{"item-queue-bytes", got.ItemQueueBytes, 32 << 20},
		{"websocket-message-bytes", got.WebSocketMessageBytes, 1 << 20},
		{"subscriptions-per-connection", got.SubscriptionsPerConnection, 20},
		{"publish-body-bytes", got.PublishBodyBytes, 1000000},
		{"header-bytes", got.HeaderBytes, 16384},
		{"response-timeout-min", got.ResponseTimeoutMin, time.Duration(0)},
		{"drain-timeout", got.DrainTimeout, 10 * time.Second},
		{"update-on-first-subscription", got.UpdateOnFirstSubscription, true},
		{"subscription-linger", got.SubscriptionLinger, time.Minute},
		{"websocket-drop", got.WebSocketDrop, false},
		{"websocket-compression", got.WebSocketCompression, false},
		{"set-x-forwarded-protocol", got.SetXForwardedProtocol, "proto-only"},
		{"log-format", got.LogFormat, "text"},
	} {
		if !reflect.DeepEqual(check.got, check.want) {
			t.Errorf("%s: got %v, want %v", check.key, check.got, check.want)
		}
	}
}

// sample is a value that is right for the setting and not its default, as text
// and as TOML.
func sample(t *testing.T, field reflect.StructField) (text, toml string) {
	t.Helper()
	quoted := func(s string) (string, string) { return s, fmt.Sprintf("%q", s) }
	switch kind := field.Tag.Get("kind"); kind {
	case "address":
		return quoted("127.0.0.1:4242")
	case "file":
		return quoted("/etc/hostname")
	case "route":
		return quoted("example.com,path_beg=/x localhost:1,over_http")
	case "publisher":
		return quoted("app,token=x,channels=news.*,channels=b,rate=0.5,burst=3")
	case "guest":
		return quoted("app,file=/app.wasm,memory=64MiB,env=A=b,env=C=d,private")
	case "secret", "text", "token":
		return quoted("other")
	case "history":
		return quoted("news.*,items=3")
	case "mode":
		return quoted("660")
	case "events":
		return quoted("presence,url=http://back/events,type=connect,kind=stream,route=a")
	case "zmq":
		return quoted("tcp://127.0.0.1:5560")
	case "nats":
		return quoted("nats://example.com:4222,nats://example.org:4222")
	case "peer":
		return quoted("nats-route://node-a:6222")
	case "bool":
		if field.Tag.Get("def") == "true" {
			return "false", "false"
		}
		return "true", "true"
	case "choice":
		choices := strings.Split(field.Tag.Get("oneof"), "|")
		i := slices.Index(choices, field.Tag.Get("def"))
		return quoted(choices[(i+1)%len(choices)])
	case "bytes":
		return "2000", "2_000"
	case "count":
		return "7", "7"
	case "duration":
		return quoted("1m30s")
	case "forwarded":
		return quoted("truncate:2")
	default:
		t.Fatalf("%s: no sample for kind %q", field.Name, kind)
		return "", ""
	}
}

func TestEverySettingIsAFlagAVariableAndAKey(t *testing.T) {
	for _, field := range keys() {
		key := field.Tag.Get("name")
		t.Run(key, func(t *testing.T) {
			text, toml := sample(t, field)
			if field.Type.Kind() == reflect.Slice {
				toml = "[" + toml + "]"
			}
			get := func(c *config.ServeCommand) any {
				if problems := c.Config.Problems(); problems != nil {
					t.Errorf("got problems %v, want none", problems)
				}
				routes, _ := reflect.ValueOf(c.Config).FieldByName(field.Name).Interface().([]config.Route)
				if routes != nil {
					return routes[0].Line
				}
				guests, _ := reflect.ValueOf(c.Config).FieldByName(field.Name).Interface().([]config.Guest)
				if guests != nil {
					return fmt.Sprintf("%s %d %q %t", guests[0], guests[0].Memory, guests[0].Env, guests[0].Private)
				}
				publishers, _ := reflect.ValueOf(c.Config).FieldByName(field.Name).Interface().([]config.Publisher)
				if publishers != nil {

					return fmt.Sprintf("%s %s %q", publishers[0], publishers[0].Token.Reveal(), publishers[0].Channels)
				}
				histories, _ := reflect.ValueOf(c.Config).FieldByName(field.Name).Interface().([]config.History)
				if histories != nil {
					return histories[0].Line
				}
				if events, _ := reflect.ValueOf(c.Config).FieldByName(field.Name).Interface().([]config.Events); events != nil {
					return fmt.Sprint(events[0].URL.Reveal(), events[0].Types, events[0].Kinds, events[0].Routes)
				}
				return reflect.ValueOf(c.Config).FieldByName(field.Name).Interface()
			}
			def := get(parse(t, nil))
			flag := get(parse(t, nil, "--"+key+"="+text))
			env := get(parse(t, []string{"GRIPWAY_" + strings.ToUpper(strings.ReplaceAll(key, "-", "_")) + "=" + text}))
			file := get(parse(t, nil, "--config", file(t, key+" = "+toml+"\n")))
			if reflect.DeepEqual(flag, def) {
				t.Errorf("the flag changed nothing: %v", flag)
			}
			if !reflect.DeepEqual(env, flag) || !reflect.DeepEqual(file, flag) {
				t.Errorf("got %v by flag, %v by environment, %v by file, want the same", flag, env, file)
			}
		})
	}
}

func TestFieldsAreCalledAsTheirKeys(t *testing.T) {
	order := []string{}
	for _, field := range keys() {
		key := strings.ReplaceAll(field.Tag.Get("name"), "-", "")
		if strings.ToLower(field.Name) != key {
			t.Errorf("the field of %s is %s", field.Tag.Get("name"), field.Name)
		}
		if help := field.Tag.Get("help"); !strings.HasSuffix(help, ".") {
			t.Errorf("the help of %s is no sentence: %q", field.Tag.Get("name"), help)
		}
		if group := field.Tag.Get("group"); len(order) == 0 || order[len(order)-1] != group {
			if slices.Contains(order, group) {
				t.Errorf("%s stands apart from its group %s", field.Tag.Get("name"), group)
			}
			order = append(order, group)
		}
	}
}

func TestHelpAndReferenceAreComplete(t *testing.T) {
	var out bytes.Buffer
	_, err := config.Parse([]string{"serve", "--help"}, nil, config.Output{Stdout: &out})
	if !errors.Is(err, config.ErrShown) {
		t.Fatalf("got error %v, want ErrShown", err)
	}
	help := strings.Join(strings.Fields(out.String()), " ")
	reference := config.Reference()
	for _, field := range keys() {
		key, def := field.Tag.Get("name"), field.Tag.Get("def")
		if !strings.Contains(help, key) || !strings.Contains(help, strings.Join(strings.Fields(field.Tag.Get("help")), " ")) {
			t.Errorf("serve --help lacks %s or its help", key)
		}
		if def != "" && def != "false" && !strings.Contains(help, "Default: "+def+".") {
			t.Errorf("serve --help lacks the default of %s", key)
		}
		row := ""
		for line := range strings.Lines(reference) {
			if strings.HasPrefix(line, "| `"+key+"` |") {
				row = line
			}
		}
		if !strings.Contains(row, def) || strings.Count(row, " | ") != 3 {
			t.Errorf("the reference's row of %s is %q", key, row)
		}
	}
}

func TestFlagBeatsEnvironmentBeatsFile(t *testing.T) {
	path := file(t, `
sig-iss = "file"
log-level = "error"
drain-timeout = "3s"
listen = [":1", ":2"]
`)
	environ := []string{"GRIPWAY_SIG_ISS=env", "GRIPWAY_LOG_LEVEL=debug", "GRIPWAY_LISTEN=:3,:4", "GRIPWAY_CONFIG=" + path, "GRIPWAY_DEBUG=", "HOME=/"}
	c := parse(t, environ, "--sig-iss", "flag", "--listen", ":5", "--listen", ":6,:7", "--route", oneRoute)
	if problems := c.Validate(); problems != nil {
		t.Errorf("got problems %v, want none", problems)
	}
	if c.ConfigFile != path {
		t.Errorf("got file %q, want that of the environment", c.ConfigFile)
	}
	if c.SigIss != "flag" || c.LogLevel != "debug" || c.DrainTimeout != 3*time.Second {
		t.Errorf("got %s, %s, %s, want flag, debug, 3s", c.SigIss, c.LogLevel, c.DrainTimeout)
	}
	if want := []string{":5", ":6", ":7"}; !slices.Equal(c.Listen, want) {
		t.Errorf("a list replaces the lists below: got %q, want %q", c.Listen, want)
	}
}

func TestRoutesInTheEnvironmentAreDividedBySemicolons(t *testing.T) {
	c := parse(t, []string{`GRIPWAY_ROUTE=a.test,header="X: 1;2" localhost:1; b.test localhost:2
c.test localhost:3`})
	var domains []string
	for _, route := range c.Route {
		domains = append(domains, route.Domain)
	}
	if want := []string{"a.test", "b.test", "c.test"}; !slices.Equal(domains, want) {
		t.Errorf("got %q, want %q; problems: %v", domains, want, c.Validate())
	}
}

func TestAnEmptyFlagEmptiesAList(t *testing.T) {
	c := parse(t, []string{"GRIPWAY_LISTEN=:1"}, "--listen=", "--route", oneRoute)
	if len(c.Listen) != 0 {
		t.Errorf("got %q, want none", c.Listen)
	}
	wantProblems(t, c.Validate(), `--listen: no address for clients: want listen or listen-tls`)
}

// wantProblems compares problems with their texts; a text may end with … for
// the rest of the line.
func wantProblems(t *testing.T, got config.Problems, want ...string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "", ""
		if i < len(got) {
			g = got[i].Error()
		}
		if i < len(want) {
			w = want[i]
		}
		if beginning, cut := strings.CutSuffix(w, "…"); g == w || cut && strings.HasPrefix(g, beginning) {
			continue
		}
		t.Errorf("problem %d:\n got %s\nwant %s", i, g, w)
	}
}

func TestEveryMistakeIsReportedAtOnce(t *testing.T) {
	dir := t.TempDir()
	path := write(t, filepath.Join(dir, "gripway.toml"), `# a file full of mistakes
listen = [":7999", "7998",
  "nohost"]
lissten = ":7999"
drain-timeout = 10
header-bytes = "16 K"
debug = "yes"
sig-iss = ["a", "b"]
nats-creds = "missing.creds"
log-level = "warning"
subscriptions-per-connection = 0
control-listen = 5561
route = ["* localhost", { domain = "*", target = "localhost:8000", debgu = true },
  "example.com,path_rem=x localhost:8000"]
max-things = 1

[limits]
holds-max = 3
`)
	c := parse(t, []string{"GRIPWAY_LISTN=:1", "GRIPWAY_SUBSCRIPTION_LINGER=60", "GRIPWAY_SERVICE_HOST=10.0.0.1", "GRIPWAY_PORT_7999_TCP_ADDR=10.0.0.1"},
		"--config", path, "--nats", "nats//host", "--cdn-loop", "a b", "--holds-max=-1")
	at := func(line int) string { return fmt.Sprintf("%s:%d", path, line) }
	wantProblems(t, c.Validate(),
		`GRIPWAY_LISTN: no setting is called so; did you mean GRIPWAY_LISTEN?`,
		at(17)+`: unknown table [limits]: the only tables are [[route]], [[route.target]], [[publisher]], [[history]], [[events]], [[guest]], [[guest.backend]] and those of a guest's stores, like [guest.kv_stores]; all other keys stand before them`,
		at(4)+`: unknown key "lissten"; did you mean listen?`,
		at(8)+`: sig-iss: want one value, not a list`,
		at(15)+`: unknown key "max-things"`,
		at(2)+`: listen "7998": a port needs its colon: want ":7998"`,
		at(3)+`: listen "nohost": want host and port, like ":7999", "127.0.0.1:7999" or "[::1]:7999"`,
		at(12)+`: control-listen "5561": want a text in quotes`,
		at(13)+`: route "* localhost": target "localhost": want host:port, like localhost:8000 or [::1]:8000`,
		at(13)+`: route: unknown option "debgu"; did you mean debug?`,
		at(14)+`: route "example.com,path_rem=x localhost:8000": path_rem "x": want a number of bytes`,
		at(7)+`: debug "yes": want true or false, without quotes`,
		`--cdn-loop "a b": want a name of letters, digits and - . _ only`,
		`GRIPWAY_SUBSCRIPTION_LINGER "60": which unit? want a duration like 60s, 500ms or 1m30s`,
		at(5)+`: drain-timeout "10": which unit? want a duration like "10s"`,
		at(6)+`: header-bytes "16 K": want bytes, like 65536, 64KiB, 1MiB or 1MB`,
		at(11)+`: subscriptions-per-connection "0": too small: want at least 1`,
		`--holds-max "-1": want a whole number, like 20`,
		`--nats "nats//host": want a URL like nats://host:port`,
		at(10)+`: log-level "warning": want one of debug, info, warn, error`,
		at(9)+`: nats-creds "`+dir+`/missing.creds": credentials are for nats, which is not set`,
		at(9)+`: nats-creds "`+dir+`/missing.creds": the file cannot be read: no such file or directory`,
	)
}

func TestAFileThatIsNoTOMLIsRefusedWithItsLine(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"not closed", "listen = [\n\":1\"\n", ""},
		{"said twice", "debug = true\ndebug = false\n", ":2:"},
		{"no value", "a\n", ":1:"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := file(t, test.text)
			problems := parse(t, nil, "--config", path, "--route", oneRoute).Validate()
			if len(problems) != 1 || !strings.HasPrefix(problems[0].Error(), path+test.want) {
				t.Errorf("got %v, want one problem at %s%s", problems, path, test.want)
			}
		})
	}
	problems := parse(t, nil, "--config", "/nowhere/gripway.toml", "--route", oneRoute).Validate()
	wantProblems(t, problems, `--config "/nowhere/gripway.toml": the file cannot be read: no such file or directory`)
}

func TestRelativeNamesInTheFileStartAtItsFolder(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "routes"), "* localhost:8000\n")
	write(t, filepath.Join(dir, "key"), "6b6579\n")
	path := write(t, filepath.Join(dir, "gripway.toml"), "routes = \"routes\"\nsig-key = \"file:key\"\n")
	c := parse(t, nil, "--config", path)
	if c.Routes != filepath.Join(dir, "routes") || c.SigKey.Reveal() != "file:"+filepath.Join(dir, "key") {
		t.Errorf("got %q and %q, want both in %s", c.Routes, c.SigKey, dir)
	}
	if problems := c.Validate(); problems != nil {
		t.Errorf("got problems %v, want none", problems)
	}
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	const secret = "hunter2"
	path := file(t, `
sig-key = "`+secret+`"
route = ["*,sig_key=`+secret+`,header=\"Authorization: `+secret+`\" localhost:1", "*,sig_key=base64:`+secret+`%,x=`+secret+`\" localhost:1", "b.test,sig_key=`+secret+` bad"]
`)
	c := parse(t, []string{"GRIPWAY_UPSTREAM_KEY=base64:%" + secret}, "--config", path,
		"--publish-key", secret, "--publish-key", "base64:%"+secret, "--publisher", "a,token="+secret, "--publisher", "b,user=me,password="+secret,
		"--publisher", "c,jwt-key="+secret+",burst=x", "--publisher", "d,iss=x,jwks=https://h/?key="+secret, "--publisher", "e,token="+secret+" x",
		"--nats", "nats://me:"+secret+"@host:4222,nats://"+secret+"@other:4222", "--nats-peer", "http://me:"+secret+"@host")
	problems := c.Validate()
	if len(problems) == 0 {
		t.Fatal("want problems to look at")
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "%v %+v %#v %s\n", c.Config, c.Config, c.Config, problems)
	fmt.Fprintln(&out, c.Config.SigKey, c.Config.NATS, c.Config.UpstreamKey)
	slog.New(slog.NewTextHandler(&out, nil)).Info("start", "config", c.Config, "key", c.SigKey, "nats", c.NATS)
	if err := json.NewEncoder(&out).Encode(c.Config); err != nil {
		t.Fatal(err)
	}
	for rest := out.String(); ; {
		before, after, printed := strings.Cut(rest, secret)
		if !printed {
			break
		}
		t.Errorf("the secret is printed after %q", before[max(0, len(before)-60):])
		rest = after
	}
}

func TestTwoListenersCannotShareAPort(t *testing.T) {
	c := parse(t, nil, "--listen", "127.0.0.1:80", "--listen", "127.0.0.2:80", "--listen", ":81", "--listen", ":0", "--listen", ":0", "--control-listen", "[::1]:81", "--route", oneRoute)
	wantProblems(t, c.Validate(), `--control-listen "[::1]:81": listen is at ":81" already: want another port`)
}

func TestNATSInsideAndOutsideExcludeEachOther(t *testing.T) {
	c := parse(t, nil, "--nats", "nats://h:4222", "--nats-listen", ":4222", "--nats-peer", "a:6222", "--route", oneRoute)
	wantProblems(t, c.Validate(),
		`--nats-listen: with nats there is no server inside this process: want one of the two`,
		`--nats-peer: with nats there is no server inside this process: want one of the two`)
	c = parse(t, nil, "--nats-peer", "a:6222", "--route", oneRoute)
	wantProblems(t, c.Validate(), `--nats-peer: the other nodes have to reach this one too: want nats-cluster-listen, like :6222`)
	if got := c.NATSPeer[0].Reveal(); got != "nats-route://a:6222" {
		t.Errorf("got peer %q, want it completed to a URL", got)
	}
}

func TestZeroMQEndpointsAreChecked(t *testing.T) {
	c := parse(t, nil, "--zmq-pull", "127.0.0.1:5560", "--zmq-pull", "tcp://h", "--zmq-sub", "ipc://", "--route", oneRoute)
	wantProblems(t, c.Validate(), `--zmq-pull "127.0.0.1:5560": want an endpoint like…`, `--zmq-pull "tcp://h": want host and port…`, `--zmq-sub "ipc://": want an endpoint like…`)
	c = parse(t, nil, "--zmq-pull", "tcp://*:5561", "--zmq-sub", "ipc:///run/sub", "--zmq-sub-connect", "tcp://*:1", "--zmq-command", "tcp://10.0.0.1:5563", "--route", oneRoute)
	wantProblems(t, c.Validate(),
		`--zmq-pull ":5561": control-listen is at "127.0.0.1:5561" already: want another port`,
		`--zmq-sub-connect "tcp://*:1": want the publisher's host and port…`)
	wantProblems(t, c.Warnings(), `--zmq-pull ":5561": whoever…`, `--zmq-command "10.0.0.1:5563": whoever…`)
}

func TestOpenPortsAreWarnedOf(t *testing.T) {
	c := parse(t, nil, "--control-listen", ":5561", "--nats-listen", "127.0.0.1:4222", "--nats-cluster-listen", "10.0.0.1:6222", "--route", oneRoute)
	wantProblems(t, c.Validate())
	wantProblems(t, c.Warnings(), `--control-listen ":5561": whoever…`, `--nats-cluster-listen "10.0.0.1:6222": whoever…`)
}

func TestServeWithoutRoutesSaysHowToGiveThem(t *testing.T) {
	wantProblems(t, parse(t, nil).Validate(), `route: no routes: want --route '* localhost:8000,over_http'…`)
}

func TestDemoTakesNoRoutes(t *testing.T) {
	command, err := config.Parse([]string{"demo", "--listen", ":1", "--route", oneRoute}, nil, config.Output{})
	if err != nil {
		t.Fatal(err)
	}
	demo := command.(*config.DemoCommand)
	if !slices.Equal(demo.Listen, []string{":1"}) {
		t.Errorf("got %q, want the flag's", demo.Listen)
	}
	wantProblems(t, demo.Validate(), `--route: demo has its own route and origin: want serve for yours`)
	command, _ = config.Parse([]string{"demo"}, nil, config.Output{})
	wantProblems(t, command.(*config.DemoCommand).Validate())
}

func TestCheckReadsWhatServeReads(t *testing.T) {
	command, err := config.Parse([]string{"check", "--config", file(t, "debug = 1\n"), "--route", oneRoute}, nil, config.Output{})
	if err != nil {
		t.Fatal(err)
	}
	if problems := command.(*config.CheckCommand).Validate(); len(problems) != 1 {
		t.Errorf("got %v, want one problem", problems)
	}
}

func TestWrongCommandLines(t *testing.T) {
	for _, test := range []struct {
		name, args, want, hint string
	}{
		{"unknown command", "top", "unexpected argument top", "gripway --help"},
		{"near a command", "servr", `did you mean "serve"?`, "gripway --help"},
		{"unknown flag", "serve --lisen=:1", `did you mean "--listen"?`, "gripway serve --help"},
		{"flag without value", "serve --listen", "--listen", "gripway serve --help"},
		{"argument missing", "publish", `expected "<channel>`, "gripway publish --help"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := config.Parse(strings.Fields(test.args), nil, config.Output{})
			var usage *config.UsageError
			if !errors.As(err, &usage) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.hint) {
				t.Errorf("got %v, want %s and %s", err, test.want, test.hint)
			}
		})
	}
}

func TestVersionIsPrinted(t *testing.T) {
	for _, args := range [][]string{{"--version"}, {"serve", "--version"}} {
		var out bytes.Buffer
		_, err := config.Parse(args, nil, config.Output{Stdout: &out, Version: "gripway 1.2.3"})
		if !errors.Is(err, config.ErrShown) || out.String() != "gripway 1.2.3\n" {
			t.Errorf("%q: got %q and %v, want the version and ErrShown", args, out.String(), err)
		}
	}
}

func TestNoArgumentsShowHelp(t *testing.T) {
	var out bytes.Buffer
	_, err := config.Parse(nil, nil, config.Output{Stdout: &out})
	if !errors.Is(err, config.ErrShown) || !strings.Contains(out.String(), "demo") {
		t.Errorf("got %q and %v, want help and ErrShown", out.String(), err)
	}
}

func TestSizesAndDurations(t *testing.T) {
	for _, test := range []struct {
		flag string
		want string // "" = right
	}{
		{"--client-queue-bytes=1024", ""},
		{"--client-queue-bytes=64KiB", ""},
		{"--client-queue-bytes=64 kB", ""},
		{"--client-queue-bytes=1GB", ""},
		{"--client-queue-bytes=1M", "want bytes"},
		{"--client-queue-bytes=1.5MiB", "want bytes"},
		{"--client-queue-bytes=-1", "want bytes"},
		{"--client-queue-bytes=9999999999GiB", "too large"},
		{"--client-queue-bytes=", "want bytes"},
		{"--header-bytes=2MiB", "want at most 1MiB"},
		{"--drain-timeout=0", ""},
		{"--drain-timeout=1h2m3s4ms", ""},
		{"--drain-timeout=10", "which unit?"},
		{"--drain-timeout=-1s", "want a duration"},
		{"--drain-timeout=1d", "want a duration"},
		{"--drain-timeout=", "want a duration"},
	} {
		problems := parse(t, nil, test.flag, "--route", oneRoute).Validate()
		if test.want == "" && problems != nil || test.want != "" && (len(problems) != 1 || !strings.Contains(problems[0].Error(), test.want)) {
			t.Errorf("%s: got %v, want %q", test.flag, problems, test.want)
		}
	}
}

// Whatever stands in the file, it is read or refused; and what is refused names
// the file.
func FuzzFile(f *testing.F) {
	for _, seed := range []string{
		"listen = [\":1\", 2]\nroute = [\"* a:1\", {domain = \"*\", target = [{address = \"a:1\", sub = [1, true]}]}]",
		"[[route]]\nid.x = 1\n[[route.target]]\naddress = '''test'''\n[route]\n",
		"[[publisher]]\nname = \"a\"\ntoken = 1\nchannels = []\nrate = 0.5\nburst = [1]\n[[publisher]]\njwks.x = true\n",
		"debug = 1_000\nheader-bytes = 0x10\ndrain-timeout = 1979-05-27\n\"sig-key\" = [[]] # x\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, problem := range config.ReadText("nowhere/gripway.toml", []byte(text)) {
			if !strings.HasPrefix(problem.Error(), "nowhere/gripway.toml:") {
				t.Errorf("%q: got %q, want the file's name", text, problem)
			}
		}
	})
}
