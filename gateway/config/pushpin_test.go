package config_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/config"
)

// parsePushpin parses a command line for a pushpin.conf of this text.
func parsePushpin(t *testing.T, conf string, args ...string) (p *config.PushpinCommand, dir string) {
	t.Helper()
	dir = t.TempDir()
	path := filepath.Join(dir, "pushpin.conf")
	writeFile(t, path, conf)
	writeFile(t, filepath.Join(dir, "routes"), "* test\n")
	return parsePushpinArgs(t, nil, append([]string{"--config", path}, args...)...), dir
}

func parsePushpinArgs(t *testing.T, environ []string, args ...string) *config.PushpinCommand {
	t.Helper()
	command, err := config.Parse(config.Args(append([]string{"/usr/bin/pushpin"}, args...)), environ, config.Output{Stdout: &bytes.Buffer{}})
	if err != nil {
		t.Fatal(err)
	}
	return command.(*config.PushpinCommand)
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// fastlyConf is what the Fastly CLI writes for compute serve, without its
// comments; the three names of files are those of one run.
const fastlyConf = `[global]
include={libdir}/internal.conf
rundir=/tmp/pushpin-0badcafe
ipc_prefix=
port_offset=0
stats_connection_ttl=120
stats_connection_send=true

[runner]
services=connmgr,proxy,handler
http_port=7677
#https_ports=443
#local_ports={rundir}/{ipc_prefix}server
logdir=/srv/app/pushpin-logs
log_level=2
client_buffer_size=8192
client_maxconn=50000
allow_compression=false
mongrel2_bin=mongrel2
m2sh_bin=m2sh
zurl_bin=zurl

[proxy]
routesfile=ROUTES
debug=false
auto_cross_origin=false
accept_x_forwarded_protocol=false
set_x_forwarded_protocol=proto-only
x_forwarded_for=
x_forwarded_for_trusted=
orig_headers_need_mark=
accept_pushpin_route=true
cdn_loop=
log_from=false
log_user_agent=false
sig_iss=viceroy
sig_key=viceroy_dev_signing_key_dont_use_in_production
upstream_key=
sockjs_url=http://cdn.jsdelivr.net/sockjs/0.3.4/sockjs.min.js
updates_check=report
organization_name=

[handler]
#ipc_file_mode=777
push_in_spec=tcp://127.0.0.1:5562
push_in_sub_specs=tcp://127.0.0.1:5563
push_in_sub_connect=false
push_in_http_addr=0.0.0.0
push_in_http_port=5561
push_in_http_max_headers_size=8192
push_in_http_max_body_size=65536
stats_spec=ipc://{rundir}/{ipc_prefix}stats
command_spec=tcp://127.0.0.1:5564
message_rate=2500
message_hwm=25000
#message_block_size=
message_wait=5000
id_cache_ttl=60
update_on_first_subscription=true
connection_subscription_max=20
subscription_linger=60
stats_subscription_ttl=60
stats_report_interval=10
stats_format=tnetstring
`

func TestTheFileOfTheFastlyCLIIsServed(t *testing.T) {
	dir := t.TempDir()
	routes := filepath.Join(dir, "pushpin-routes-0badcafe")
	writeFile(t, routes, "id=self 127.0.0.1:7676,over_http\nid=origin,replace_beg=/p example.com:443,over_http,ssl,host=x.example\n")
	path := filepath.Join(dir, "pushpin-0badcafe.conf")
	writeFile(t, path, strings.ReplaceAll(fastlyConf, "ROUTES", routes))
	p := parsePushpinArgs(t, nil, "--config="+path, "--verbose")

	if problems := p.Validate(); problems != nil {
		t.Fatalf("got problems\n%v", problems)
	}
	type settings struct {
		Listen             []string
		Control            string
		Routes             string
		AcceptPushpinRoute bool
		Iss, Key, Level    string
		TimeoutMin         time.Duration
		Linger             time.Duration
		Header, Body, Push int
		Holds, Channels    int
		FirstUpdate        bool
		Forwarded          string
	}
	got := settings{
		p.Listen, p.ControlListen, p.Routes, p.AcceptPushpinRoute, p.SigIss, p.SigKey.Reveal(), p.Config.LogLevel,
		p.ResponseTimeoutMin, p.SubscriptionLinger, p.HeaderBytes, p.PublishBodyBytes, p.PublishHeaderBytes,
		p.HoldsMax, p.SubscriptionsPerConnection, p.UpdateOnFirstSubscription, p.SetXForwardedProtocol,
	}
	want := settings{
		[]string{":7677"}, "0.0.0.0:5561", routes, true, "viceroy", "viceroy_dev_signing_key_dont_use_in_production", "debug",
		5 * time.Second, time.Minute, 8192, 65536, 8192, 50000, 20, true, "proto-only",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	if zmq := append(append(p.ZMQPull, p.ZMQSub...), p.ZMQCommand); !reflect.DeepEqual(zmq, []string{"tcp://127.0.0.1:5562", "tcp://127.0.0.1:5563", "tcp://127.0.0.1:5564"}) {
		t.Errorf("got %v for ZeroMQ", zmq)
	}
	warnings := p.Warnings()
	if len(warnings) != 2 { // the second: whoever reaches 0.0.0.0:5561 can publish
		t.Fatalf("got %d warnings, want 2:\n%v", len(warnings), warnings)
	}
	for _, name := range []string{"message_rate", "services", "logdir"} {
		if !strings.Contains(warnings[0].Error(), name) {
			t.Errorf("the warning does not name %s: %v", name, warnings[0])
		}
	}
	if strings.Contains(warnings[0].Error(), "unknown") {
		t.Errorf("nothing in this file is unknown: got %v", warnings[0])
	}
}

func TestTheFileThatDebianInstallsIsUnderstood(t *testing.T) {
	const path = "/etc/pushpin/pushpin.conf"
	if _, err := os.Stat(path); err != nil {
		t.Skipf("pushpin is not installed here: %v", err)
	}
	p := parsePushpinArgs(t, nil, "--config", path)
	if problems := p.Validate(); problems != nil {
		t.Errorf("got problems\n%v", problems)
	}
	for _, warning := range p.Warnings() {
		if strings.Contains(warning.Error(), "unknown") {
			t.Errorf("got %v, want no key to be unknown", warning)
		}
	}
	if got, want := p.Routes, "/etc/pushpin/routes"; got != want {
		t.Errorf("routes: got %q, want %q", got, want)
	}
}

func TestPushpinKeysBecomeSettings(t *testing.T) {
	for _, test := range []struct {
		name, conf string
		args       []string
		got        func(*config.PushpinCommand) any
		want       any
	}{
		{"the port is Pushpin's", "", nil, func(p *config.PushpinCommand) any { return p.Listen }, []string{":7999"}},
		{"publishing is private", "", nil, func(p *config.PushpinCommand) any { return p.ControlListen }, "127.0.0.1:5561"},
		{"the issuer is Pushpin's", "", nil, func(p *config.PushpinCommand) any { return p.SigIss }, "pushpin"},
		{"polls are held for 5 s at least", "", nil, func(p *config.PushpinCommand) any { return p.ResponseTimeoutMin }, 5 * time.Second},
		{"several ports, with and without an address", "[runner]\nhttp_port=80, 127.0.0.1:81,[::1]:82", nil,
			func(p *config.PushpinCommand) any { return p.Listen }, []string{":80", "127.0.0.1:81", "[::1]:82"}},
		{"--port is instead of all ports of the file", "[runner]\nhttp_port=80\nhttps_ports=443", []string{"--port", "81", "--port=127.0.0.1:82"},
			func(p *config.PushpinCommand) any { return append(p.Listen, p.ListenTLS...) }, []string{":81", "127.0.0.1:82"}},
		{"no HTTP port", "[runner]\nhttp_port=", nil, func(p *config.PushpinCommand) any { return len(p.Listen) }, 0},
		{"port_offset moves publishing, not clients", "[global]\nport_offset=100\n[runner]\nhttp_port=80", nil,
			func(p *config.PushpinCommand) any { return append(p.Listen, p.ControlListen) }, []string{":80", "127.0.0.1:5661"}},
		{"--id takes the place of port_offset", "[global]\nport_offset=100", []string{"--id", "3"},
			func(p *config.PushpinCommand) any { return p.ControlListen }, "127.0.0.1:5591"},
		{"publishing can be off", "[handler]\npush_in_http_port=", nil, func(p *config.PushpinCommand) any { return p.ControlListen }, ""},
		{"a publisher to connect to", "[handler]\npush_in_sub_specs=tcp://a:1,tcp://b:2\npush_in_sub_connect=true", nil, func(p *config.PushpinCommand) any { return strings.Join(p.ZMQSubConnect, " ") }, "tcp://a:1 tcp://b:2"},
		{"ZeroMQ of a further instance", "[handler]\npush_in_spec=tcp://*:5560", []string{"--id=2"}, func(p *config.PushpinCommand) any { return p.ZMQPull[0] }, "tcp://:5580"},
		{"publishing on IPv6", "[handler]\npush_in_http_addr=::1", nil, func(p *config.PushpinCommand) any { return p.ControlListen }, "[::1]:5561"},
		{"forwarding rules are a list", "[proxy]\nx_forwarded_for=\"truncate:0,append\"", nil,
			func(p *config.PushpinCommand) any { return p.XForwardedFor }, []string{"truncate:0", "append"}},
		{"forwarding rules without quotes", "[proxy]\nx_forwarded_for=truncate:0,append", nil,
			func(p *config.PushpinCommand) any { return p.XForwardedFor }, []string{"truncate:0", "append"}},
		{"seconds", "[handler]\nsubscription_linger=5", nil, func(p *config.PushpinCommand) any { return p.SubscriptionLinger }, 5 * time.Second},
		{"seconds of ids", "[handler]\nid_cache_ttl=0", nil, func(p *config.PushpinCommand) any { return p.IDTTL }, time.Duration(0)},
		{"milliseconds", "[handler]\nmessage_wait=250", nil, func(p *config.PushpinCommand) any { return p.MessageWait }, 250 * time.Millisecond},
		{"clients of a failed origin are dropped", "", nil, func(p *config.PushpinCommand) any { return p.WebSocketDrop }, true},
		{"compression", "[runner]\nallow_compression=true", nil, func(p *config.PushpinCommand) any { return p.WebSocketCompression }, true},
		{"a name for CDN-Loop", "[proxy]\ncdn_loop=edge", nil, func(p *config.PushpinCommand) any { return p.CDNLoop }, "edge"},
		{"levels: fewer", "[runner]\nlog_level=0", nil, func(p *config.PushpinCommand) any { return p.LogLevel }, "error"},
		{"levels: those of single processes are passed over", "[runner]\nlog_level=1,proxy:3", nil, func(p *config.PushpinCommand) any { return p.LogLevel }, "warn"},
		{"levels: the flag before the file", "[runner]\nlog_level=0", []string{"--loglevel", "3"}, func(p *config.PushpinCommand) any { return p.LogLevel }, "debug"},
		{"one hyphen is enough", "", []string{"-loglevel=1", "-m"}, func(p *config.PushpinCommand) any { return p.LogLevel }, "warn"},
		{"--route is instead of the file, and may contain commas", "[proxy]\nroutesfile=missing", []string{"--route", "* test", "--route=*,id=b test"},
			func(p *config.PushpinCommand) any { return p.Routes + p.Route[0].Line + "|" + p.Route[1].Line }, "* test|*,id=b test"},
		{"metrics of two processes", "[proxy]\nprometheus_port=9100\n[handler]\nprometheus_port=127.0.0.1:9101\nprometheus_prefix=pp_", nil,
			func(p *config.PushpinCommand) any { return p.Metrics }, []config.PushpinMetrics{{":9100", ""}, {"127.0.0.1:9101", "pp_"}}},

		// What the library does that reads Pushpin's file; seen on Pushpin 1.36.
		{"a semicolon ends a value", "[proxy]\nsig_iss=a;b", nil, func(p *config.PushpinCommand) any { return p.SigIss }, "a"},
		{"not in quotes", "[proxy]\nsig_iss=\"a,b;c\"", nil, func(p *config.PushpinCommand) any { return p.SigIss }, "a,b;c"},
		{"an escape; a # within a line is no comment", "[proxy]\nsig_iss=a\\x41 # b", nil, func(p *config.PushpinCommand) any { return p.SigIss }, "aA # b"},
		{"space around", "[proxy]\nsig_iss = sp ace  ", nil, func(p *config.PushpinCommand) any { return p.SigIss }, "sp ace"},
		{"what is said last counts", "[proxy]\nsig_iss=a\n[runner]\n[proxy]\nsig_iss=b", nil, func(p *config.PushpinCommand) any { return p.SigIss }, "b"},
		{"lines of Windows", "[proxy]\r\nsig_iss=a\r\n", nil, func(p *config.PushpinCommand) any { return p.SigIss }, "a"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, _ := parsePushpin(t, test.conf, test.args...)
			for _, problem := range p.Problems() {
				t.Errorf("got problem %v", problem)
			}
			if got := test.got(p); !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %#v, want %#v", got, test.want)
			}
		})
	}
}

func TestWrongValuesOfPushpinConfAreNamedWithTheirLine(t *testing.T) {
	for _, test := range []struct{ name, conf, want string }{
		{"a number", "[runner]\n\nclient_maxconn=many", `pushpin.conf:3: client_maxconn "many": want a whole number`},
		{"a port", "[runner]\nhttp_port=http", `pushpin.conf:2: http_port ":http": the port must be a number`},
		{"a yes", "[proxy]\ndebug=maybe", `pushpin.conf:2: debug "maybe": want true or false`},
		{"seconds with a unit", "[handler]\nsubscription_linger=60s", `pushpin.conf:2: subscription_linger "60s": want a whole number, of s`},
		{"a port without a certificate", "[runner]\nhttps_ports=443", `pushpin.conf:2: https_ports "443": port 443 has no certificate`},
		{"a key that is no key, hidden", "[proxy]\nsig_key=base64:!!!", `pushpin.conf:2: sig_key "(hidden)"`},
		{"a routes file that is missing", "[proxy]\nroutesfile=nowhere", `pushpin.conf:2: routesfile: `},
		{"metrics on a Unix socket", "[handler]\nprometheus_port=ipc:///tmp/x", `pushpin.conf:2: prometheus_port "ipc:///tmp/x": Unix sockets are not supported yet`},
		{"a prefix that is no name", "[handler]\nprometheus_port=1\nprometheus_prefix=a-", `pushpin.conf:3: prometheus_prefix "a-"`},
		{"publish port", "[handler]\npush_in_http_port=x", `pushpin.conf:2: push_in_http_port "x": want a port`},
		{"level", "[runner]\nlog_level=loud", `pushpin.conf:2: log_level "loud": want 0`},
		{"an include that is missing", "[global]\ninclude=more.conf", `pushpin.conf:2: include`},
		{"no key", "[proxy]\nsig_key", `pushpin.conf:2: want name=value`},
		{"no end of a section", "[proxy\n", `pushpin.conf:1: a section has no end`},
		{"no end of a quote", "[proxy]\nsig_iss=\"a", `pushpin.conf:2: sig_iss: a " has no end`},
		{"a stray escape", "[proxy]\nsig_iss=a\\q", `pushpin.conf:2: sig_iss: unknown escape \q`},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, _ := parsePushpin(t, test.conf)
			problems := p.Validate()
			if !slices.ContainsFunc(problems, func(problem config.Problem) bool { return strings.Contains(problem.Error(), test.want) }) {
				t.Errorf("got\n%v\nwant a line with\n%s", problems, test.want)
			}
		})
	}
}

func TestWrongFlagsOfPushpinAreNamed(t *testing.T) {
	p, _ := parsePushpin(t, "", "--loglevel", "x", "--id=-1", "--port", "x", "--route", "* test,no_such")
	for _, want := range []string{`--loglevel "x"`, `--id "-1"`, `--port ":x"`, `--route "* test,no_such"`} {
		if !strings.Contains(p.Validate().Error(), want) {
			t.Errorf("got\n%v\nwant a line with %s", p.Validate(), want)
		}
	}
}

func TestOneWarningNamesWhatHasNoEffect(t *testing.T) {
	p, dir := parsePushpin(t, `[global]
include={libdir}/internal.conf
rundir=/run
[proxy]
routesfile=routes
handler_accept_spec=ipc://x
no_such_key=1
message_rate=1
sockjs_url=
[handler]
state_spec=json
message_hwm=25000
`)
	want := filepath.Join(dir, "pushpin.conf") + ": unknown keys: proxy/no_such_key, proxy/message_rate (did you mean handler/message_rate?); " +
		"not supported yet: state_spec; without meaning here: rundir, message_hwm"
	if got := p.Warnings().Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestRelativeNamesStartAtTheFolderOfPushpinConf(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "conf", "pushpin.conf"), "[global]\nrundir=run\ninclude=../more.conf\n[proxy]\nroutesfile=routes\nsig_key=file:key\n")
	writeFile(t, filepath.Join(dir, "more.conf"), "[proxy]\nroutesfile=weaker\nupstream_key={rundir}/{ipc_prefix}x\n")
	p := parsePushpinArgs(t, nil, "--config", filepath.Join(dir, "conf", "pushpin.conf"))
	if got, want := p.Routes, filepath.Join(dir, "conf", "routes"); got != want {
		t.Errorf("routes: got %q, want %q", got, want)
	}
	if got, want := p.SigKey.Reveal(), "file:"+filepath.Join(dir, "conf", "key"); got != want {
		t.Errorf("sig_key: got %q, want %q", got, want)
	}
	if got, want := p.UpstreamKey.Reveal(), "run/pushpin-x"; got != want {
		t.Errorf("upstream_key, of the included file: got %q, want %q", got, want)
	}
}

func TestCertificatesAreThoseBesidePushpinConf(t *testing.T) {
	dir := t.TempDir()
	certs := filepath.Join(dir, "runner", "certs")
	for _, name := range []string{"default_443.crt", "default_8443.crt", "a.example.crt", "default_1.crt"} {
		writeFile(t, filepath.Join(certs, name), "")
	}
	writeFile(t, filepath.Join(dir, "pushpin.conf"), "[runner]\nhttps_ports=443,127.0.0.1:8443\n")
	p := parsePushpinArgs(t, nil, "--config", filepath.Join(dir, "pushpin.conf"))
	if want := []string{":443", "127.0.0.1:8443"}; !slices.Equal(p.ListenTLS, want) {
		t.Errorf("listen-tls: got %q, want %q", p.ListenTLS, want)
	}
	var got []string
	for i, cert := range p.TLSCert {
		got = append(got, strings.TrimPrefix(cert, certs+"/")+" "+strings.TrimPrefix(p.TLSKey[i], certs+"/"))
	}
	want := []string{"default_443.crt default_443.key", "default_8443.crt default_8443.key", "a.example.crt a.example.key"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTheEnvironmentGoesBeforePushpinConf(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "pushpin.conf"), "[proxy]\nsig_iss=file\ndebug=true\n")
	p := parsePushpinArgs(t, []string{"GRIPWAY_SIG_ISS=env", "GRIPWAY_NATS=nats://n:4222"}, "--config", filepath.Join(dir, "pushpin.conf"))
	if got, want := p.SigIss+" "+p.NATS.Reveal(), "env nats://n:4222"; got != want || !p.Debug {
		t.Errorf("got %q and debug %v, want %q and true", got, p.Debug, want)
	}
}

func TestWithoutConfigThePlacesThatWereTriedAreNamed(t *testing.T) {
	if _, err := os.Stat("/etc/pushpin/pushpin.conf"); err == nil {
		t.Chdir(t.TempDir())
		if got, want := parsePushpinArgs(t, nil).ConfigFile, "/etc/pushpin/pushpin.conf"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		writeFile(t, "pushpin.conf", "")
		if got, want := parsePushpinArgs(t, nil).ConfigFile, "pushpin.conf"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		return
	}
	t.Chdir(t.TempDir())
	if got, want := parsePushpinArgs(t, nil).Validate().Error(), "config/pushpin.conf, pushpin.conf"; !strings.Contains(got, want) {
		t.Errorf("got %q, want it to name %s", got, want)
	}
}

func TestTheProgramsNameChoosesTheCommand(t *testing.T) {
	for _, test := range []struct{ argv, want []string }{
		{[]string{"/usr/bin/pushpin", "--config=a"}, []string{"pushpin", "--config=a"}},
		{[]string{"pushpin", "-v"}, []string{"pushpin", "--version"}},
		{[]string{"pushpin.exe", "-config", "a", "-m", "-1"}, []string{"pushpin", "--config", "a", "-m", "-1"}},
		{[]string{"./gripway", "-x", "serve"}, []string{"-x", "serve"}},
		{nil, nil},
	} {
		if got := config.Args(test.argv); !slices.Equal(got, test.want) {
			t.Errorf("%q: got %q, want %q", test.argv, got, test.want)
		}
	}
}
