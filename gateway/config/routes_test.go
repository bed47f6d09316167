package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/config"
)

func yes() *bool                         { b := true; return &b }
func no() *bool                          { b := false; return &b }
func text(s string) *string              { return &s }
func level(n int) *int                   { return &n }
func target(addr string) []config.Target { return []config.Target{{Addr: addr}} }

func TestRouteLines(t *testing.T) {
	for _, test := range []struct {
		name, line string
		want       config.Route
	}{
		{"any domain", "* localhost:8000,over_http",
			config.Route{Domain: "*", Targets: []config.Target{{Addr: "localhost:8000", OverHTTP: true}}}},
		{"comment and blanks", "  example.com \t  [::1]:80  # not,this",
			config.Route{Domain: "example.com", Targets: target("[::1]:80")}},
		{"comment without a blank", "example.com a:80#,over_http",
			config.Route{Domain: "example.com", Targets: target("a:80")}},
		{"host names have no case", "Example.COM a:80",
			config.Route{Domain: "example.com", Targets: target("a:80")}},
		{"whole condition", `example.com,path_beg=/chat,proto=ws,ssl=yes,id=chat,prefix=px-,sig_iss=me,sig_key=secret,debug,no_grip,orig_headers,as_host=other.test:81,path_rem=3,log_level=2,auto_reply=ping=pong,auto_reply="{\"a\": 1}=" a:80`,
			config.Route{Domain: "example.com", PathBeg: "/chat", Proto: "ws", SSL: yes(), ID: "chat", Prefix: "px-", SigIss: "me", SigKey: "secret",
				Debug: true, NoGrip: true, OrigHeaders: true, AsHost: "other.test:81", PathRem: 3, LogLevel: level(2), AutoReply: [][2]string{{"ping", "pong"}, {`{"a": 1}`, ""}}, Targets: target("a:80")}},
		{"ssl no", "*,ssl=no a:80", config.Route{Domain: "*", SSL: no(), Targets: target("a:80")}},
		{"id only", "id=backend,replace_beg=/p a:443,over_http,ssl,host=b.test",
			config.Route{ID: "backend", ReplaceBeg: text("/p"), Targets: []config.Target{{Addr: "a:443", OverHTTP: true, TLS: true, Host: "b.test"}}}},
		{"empty domain", ",id=backend a:80", config.Route{ID: "backend", Targets: target("a:80")}},
		{"replace_beg by nothing", "*,path_beg=/x,replace_beg= a:80",
			config.Route{Domain: "*", PathBeg: "/x", ReplaceBeg: text(""), Targets: target("a:80")}},
		{"headers repeat, quoted", `*,header="X-A: 1, \"2\"",header=X-B:\,header=X-C:,"header=X-D:   d d" a:80`,
			config.Route{Domain: "*", Header: [][2]string{{"X-A", `1, "2"`}, {"X-B", `\`}, {"X-C", ""}, {"X-D", "d d"}}, Targets: target("a:80")}},
		{"quotes within a word", `*,prefix=a"b#c\\"d a:80`,
			config.Route{Domain: "*", Prefix: `ab#c\d`, Targets: target("a:80")}},
		{"several targets with all options", "* a:1,ssl,insecure,trust_connect_host,one_event b:2,untrusted,sub=x,sub=y test,sub=z",
			config.Route{Domain: "*", Targets: []config.Target{
				{Addr: "a:1", TLS: true, Insecure: true, TrustConnectHost: true, OneEvent: true},
				{Addr: "b:2", Untrusted: true, Sub: []string{"x", "y"}},
				{Test: true, Sub: []string{"z"}}}}},
		{"flags with a value that means yes", "*,debug=1 a:1,ssl=yes", config.Route{Domain: "*", Debug: true, Targets: []config.Target{{Addr: "a:1", TLS: true}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, problems := config.ParseRoutes("routes", test.line)
			if problems != nil || len(got) != 1 {
				t.Fatalf("got %d routes and %v, want one", len(got), problems)
			}
			if got[0].Where != "routes:1" {
				t.Errorf("got place %q, want routes:1", got[0].Where)
			}
			line := got[0].Line
			got[0].Line, got[0].Where = "", ""
			if !reflect.DeepEqual(got[0], test.want) {
				t.Errorf("got  %#v %+v\nwant %#v", fields(got[0]), got[0].Targets, fields(test.want))
			}
			// Line is a line: it says the same, except what is hidden.
			again, problems := config.ParseRoutes("routes", line)
			if problems != nil || len(again) != 1 || again[0].Line != line {
				t.Errorf("Line %q parses to %v, %v", line, again, problems)
			}
		})
	}
}

// fields prints a route that would print itself as its line.
func fields(r config.Route) any {
	type plain config.Route
	return plain(r)
}

func TestWrongRouteLines(t *testing.T) {
	for _, test := range []struct{ name, line, want string }{
		{"no target", "*", "want a condition and at least one target"},
		{"no port", "* localhost", `target "localhost": want host:port`},
		{"port out of range", "* localhost:65536", "the port must be a number from 1 to 65535"},
		{"port nought", "* localhost:0", "the port must be a number from 1 to 65535"},
		{"URL as target", "* https://localhost:1", `a target is no URL: want host:port, like localhost:8000 or [::1]:8000, and the option ssl`},
		{"no domain, no id", ",debug a:1", "no domain and no id"},
		{"half a wildcard", "*.example.com a:1", "want a whole name, or * alone"},
		{"domain with port", "example.com:80 a:1", "compared without its port"},
		{"domain with path", "example.com/x a:1", "a path goes to path_beg="},
		{"quote open", `*,prefix="a a:1`, "a quote is not closed"},
		{"escape unknown", `*,prefix="\n" a:1`, `unknown escape \n`},
		{"escape at the end", `*,prefix="\`, "a backslash at the end"},
		{"comma at the end", "*, a:1", "an option is expected after a comma"},
		{"option without name", "*,=x a:1", `option "=x" has no name`},
		{"unknown option", "*,path_begin=/x a:1", `unknown option "path_begin"; did you mean path_beg?`},
		{"target's option in the condition", "*,over_http a:1", "option over_http belongs to a target, not here"},
		{"condition's option at a target", "* a:1,path_beg=/x", `target "a:1": option path_beg belongs to the condition, not here`},
		{"proto", "*,proto=wss a:1", `proto "wss": want http or ws`},
		{"ssl", "*,ssl=true a:1", `ssl "true": want yes or no`},
		{"ssl without a value", "*,ssl a:1", "option ssl needs a value"},
		{"path_beg empty", "*,path_beg= a:1", "option path_beg needs a value"},
		{"path_beg relative", "*,path_beg=x a:1", "a path begins with /"},
		{"path_rem", "*,path_rem=-1 a:1", "want a number of bytes"},
		{"auto_reply without an answer", "*,auto_reply=ping a:1", "want a client's text, = and the answer"},
		{"auto_reply to nothing", "*,auto_reply==pong a:1", "want a client's text, = and the answer"},
		{"auto_reply that is long", "*,auto_reply=ping=" + strings.Repeat("x", 4097) + " a:1", "want at most 4096 bytes on each side"},
		{"auto_reply, too many", "*" + strings.Repeat(",auto_reply=a=b", 17) + " a:1", "want at most 16"},
		{"header without colon", "*,header=X a:1", "header: want name:value"},
		{"header with a bad name", "*,header=\"X Y: 1\" a:1", "header: want name:value"},
		{"flag with a no", "*,debug=no a:1", `option debug is on by being there: leave out "=no"`},
		{"sub empty", "* a:1,sub=", `target "a:1": option sub needs a value`},
		{"host", "* a:1,host=a/b", "want a host name"},
		{"key", "*,sig_key=file:missing a:1", "missing"},
		{"certificate without key", "* a:1,client_cert=x", "client_cert and client_key belong together"},
		{"certificate missing", "* a:1,client_cert=x,client_key=y", "no such file"},
		{"sockjs", "*,sockjs=s a:1", `sockjs "s": want a path, like /sockjs`},
		{"sockjs everywhere", "*,sockjs=/ a:1", `sockjs "/": want a path of its own`},
		{"sockjs_as_path", "*,sockjs=/s,sockjs_as_path=/a?b a:1", `sockjs_as_path "/a?b": want a path`},
		{"aco with a no", "*,aco=false a:1", `option aco is on by being there: leave out "=false"`},
		{"jsonp_mode", "*,aco,jsonp_mode=short a:1", `jsonp_mode "short": want basic or extended`},
		{"jsonp_defmethod", "*,aco,jsonp_defmethod=\"A B\" a:1", `jsonp_defmethod "A B": want a method`},
		{"jsonp_cb empty", "*,aco,jsonp_cb= a:1", "option jsonp_cb needs a value"},
		{"zhttp", "* zhttp/tcp://127.0.0.1:1", "an origin that speaks ZHTTP over ZeroMQ (zhttp, zhttpreq) is not supported: have it speak HTTP"},
		{"zhttpreq", "* zhttpreq/tcp://127.0.0.1:1", "an origin that speaks ZHTTP over ZeroMQ (zhttp, zhttpreq) is not supported: have it speak HTTP"},
	} {
		t.Run(test.name, func(t *testing.T) {
			routes, problems := config.ParseRoutes("routes", "# first\n"+test.line+"\nlast.test a:1\n")
			if len(routes) != 1 || routes[0].Domain != "last.test" {
				t.Errorf("got routes %v, want the good one", routes)
			}
			if len(problems) != 1 || !strings.HasPrefix(problems[0].Error(), "routes:2: ") || !strings.Contains(problems[0].Error(), test.want) {
				t.Errorf("got  %v\nwant routes:2: … %s", problems, test.want)
			}
		})
	}
}

func TestRoutesMayServePagesOfOtherSites(t *testing.T) {
	routes, problems := config.ParseRoutes("routes", "*,aco,jsonp_mode=basic,jsonp_cb=fn,jsonp_body=with,jsonp_defcb=mine,jsonp_defmethod=PUT a:1\nx.test,jsonp_mode=extended a:1")
	if problems != nil || len(routes) != 2 {
		t.Fatalf("got %v, %v", routes, problems)
	}
	if r := routes[0]; !r.AutoCrossOrigin || !r.JSONPBasic || r.JSONPCallback != "fn" || r.JSONPBody != "with" || r.JSONPDefaultCallback != "mine" || r.JSONPDefaultMethod != "PUT" {
		t.Errorf("got %+v, want all of its options", []any{r.AutoCrossOrigin, r.JSONPBasic, r.JSONPCallback, r.JSONPBody, r.JSONPDefaultCallback, r.JSONPDefaultMethod})
	}
	if r := routes[1]; r.AutoCrossOrigin || r.JSONPBasic {
		t.Errorf("got %+v, want neither", []any{r.AutoCrossOrigin, r.JSONPBasic})
	}
}

func TestOptionsThatAskForNothingHereAreNamed(t *testing.T) {
	routes, problems := config.ParseRoutes("routes", "*,session a:1,ipc_file_mode=777")
	if len(problems) > 0 || len(routes) != 1 || !reflect.DeepEqual(routes[0].Ignored, []string{"session", "ipc_file_mode"}) {
		t.Errorf("got %+v, %v, want one route that names both", routes, problems)
	}
}

func TestAllThatIsWrongInALineIsTold(t *testing.T) {
	_, problems := config.ParseRoutes("routes", "*,proto=x,sockjs=s,sesion a,host= b")
	if len(problems) != 6 {
		t.Errorf("got %d problems, want 6: %v", len(problems), problems)
	}
}

func TestRoutesThatCanNeverBeChosenAreLeftOut(t *testing.T) {
	routes, problems := config.ParseRoutes("routes", `
a.test,path_beg=/x,id=one h:1
A.test,path_beg=/x,id=two h:2
a.test,path_beg=/x,proto=ws h:3
a.test,path_beg=/x,ssl=no h:4
id=one h:5
id=three h:6
id=four,path_beg=/ h:7
*,id=two h:8
`)
	var got []string
	for _, route := range routes {
		got = append(got, route.Targets[0].Addr)
	}
	if want := "h:1 h:3 h:4 h:6 h:7 h:8"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %s", got, want)
	}
	want := []string{
		`routes:3: the same condition as routes:2: domain, path_beg, proto and ssl must differ in something`,
		`routes:6: id "one": another route has this id too, and this one has no domain: it can never be chosen`,
	}
	for i := range want {
		if i >= len(problems) || problems[i].Error() != want[i] {
			t.Errorf("got %v, want %s", problems, want[i])
		}
	}
}

func TestRoutesMayComeFromWindows(t *testing.T) {
	routes, problems := config.ParseRoutes("routes", "\ufeff* a:1\r\n\r\nb.test b:1\r\n")
	if len(routes) != 2 || problems != nil {
		t.Errorf("got %v, %v, want two routes", routes, problems)
	}
}

func TestKeysAndCertificatesOfRoutesStartAtTheFilesFolder(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificate(t, dir, "client", time.Hour)
	write(t, filepath.Join(dir, "hex"), "00ff")
	routes, problems := config.ParseRoutes(filepath.Join(dir, "routes"), "*,sig_key=file:hex a:1,ssl,client_cert="+filepath.Base(cert)+",client_key="+filepath.Base(key))
	if problems != nil {
		t.Fatal(problems)
	}
	got := routes[0]
	if got.SigKey.Reveal() != "file:"+filepath.Join(dir, "hex") || got.Targets[0].ClientCert != cert || got.Targets[0].ClientKey != key {
		t.Errorf("got %s, %+v, want files in %s", got.SigKey, got.Targets[0], dir)
	}
}

// certificate writes a new pair for name, and returns its files.
func certificate(t *testing.T, dir, name string, valid time.Duration) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(valid)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile = write(t, filepath.Join(dir, name+".crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	keyFile = write(t, filepath.Join(dir, name+".key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	return certFile, keyFile
}

func TestRouteTablesSayWhatLinesSay(t *testing.T) {
	const line = `example.com,path_beg=/chat,ssl=no,debug,path_rem=2,header="X-A: 1",header=X-B:2 localhost:8000,over_http,sub=a,sub="b c" test`
	want, problems := config.ParseRoutes("routes", line)
	if problems != nil {
		t.Fatal(problems)
	}
	for _, test := range []struct{ name, toml string }{
		{"a line", `route = ['` + line + `']`},
		{"targets in a list", `
debug = false
[[route]]
domain = "example.com"
path_beg = "/chat"
ssl = false
debug = true
no_grip = false
path_rem = 2
header = ["X-A: 1", "X-B:2"]
target = ['localhost:8000,over_http,sub=a,sub="b c"', "test"]
`},
		{"targets as tables", `
[[route]]
domain = "example.com"
path_beg = "/chat"
ssl = "no"
debug = true
path_rem = 2
header = ["X-A: 1", "X-B:2"]
  [[route.target]]
  address = "localhost:8000"
  over_http = true
  insecure = false
  sub = ["a", "b c"]
  [[route.target]]
  address = "test"
`},
		{"inline", `route = [{ domain = "example.com", path_beg = "/chat", ssl = false, debug = true, path_rem = 2, header = ["X-A: 1", "X-B:2"],
  target = [{ address = "localhost:8000", over_http = true, sub = ["a", "b c"] }, "test"] }]`},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := parse(t, nil, "--config", file(t, test.toml))
			if problems := c.Validate(); problems != nil || len(c.Route) != 1 {
				t.Fatalf("got %d routes and %v, want one", len(c.Route), problems)
			}
			got, want := c.Route[0], want[0]
			if got.Line != want.Line {
				t.Errorf("got line  %s\nwant line %s", got.Line, want.Line)
			}
			got.Line, got.Where, want.Line, want.Where = "", "", "", ""
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", fields(got), fields(want))
			}
		})
	}
}

func TestWrongRouteTablesAreToldWithTheirLine(t *testing.T) {
	path := file(t, `
[[route]]
domain = 1
target = "a:1"

[[route]]
domain = "*"
no_grpi = false
listen = ":80"
target = ["a:1 b:2", 3]

[[route]]
domain = "b.test"
header = [["x"]]
[[route.target]]
address = "a:1"
ovr_http = true

[route.condition]
x = 1

[[route]]
domain = "c.test"
`)
	at := func(line string) string { return path + ":" + line + ": route" }
	wantProblems(t, parse(t, nil, "--config", path).Validate(),
		path+`:19: unknown table [route.condition]: the only tables are [[route]], [[route.target]], [[publisher]], [[history]], [[events]], [[guest]], [[guest.backend]] and those of a guest's stores, like [guest.kv_stores]; all other keys stand before them`,
		at("3")+`: domain: want a text, like "example.com" or "*"`,
		at("2")+`: no domain and no id: want a domain, * for any, or id=…`,
		at("9")+`: listen is no option of a route: the gateway's own keys stand before the first [[route]]`,
		at("10")+`: target "a:1 b:2": want one target, like "localhost:8000,over_http"; several are a list`,
		at("10")+`: target: want a text like "localhost:8000,over_http", a list of them, or tables [[route.target]]`,
		at("6")+`: want a condition and at least one target, like "* localhost:8000,over_http"`,
		at("14")+`: option header: want a text, a number, true or false, or a list of texts`,
		at("17")+`: target "a:1": unknown option "ovr_http"; did you mean over_http?`,
		at("22")+`: want a condition and at least one target, like "* localhost:8000,over_http"`,
	)
}

func TestRoutesOfAllPlacesAddUp(t *testing.T) {
	dir := t.TempDir()
	routes := write(t, filepath.Join(dir, "routes"), "a.test h:1\n* h:2\nbad\n")
	c := parse(t, nil, "--routes", routes, "--route", "* h:3")
	wantProblems(t, c.Validate(),
		routes+`:3: want a condition and at least one target, like "* localhost:8000,over_http"`,
		routes+`:2: the same condition as --route: domain, path_beg, proto and ssl must differ in something`)
	c = parse(t, nil, "--routes", filepath.Join(dir, "missing"))
	wantProblems(t, c.Validate(), "--routes: "+filepath.Join(dir, "missing")+": the routes file cannot be read: no such file or directory")
}

func TestCertificatesArePairedAndChecked(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificate(t, dir, "a.test", time.Hour)
	other, otherKey := certificate(t, dir, "b.test", -time.Hour)
	serve := func(args ...string) *config.ServeCommand {
		return parse(t, nil, append(args, "--route", oneRoute)...)
	}
	wantProblems(t, serve("--listen-tls", ":8443").Validate(), `--listen-tls ":8443": no certificate: want tls-cert and tls-key`)
	wantProblems(t, serve("--control-listen-tls", "localhost:8443").Validate(), `--control-listen-tls "localhost:8443": no certificate: want tls-cert and tls-key`)
	wantProblems(t, serve("--control-listen-tls", "localhost:8443", "--tls-cert", cert, "--tls-key", key).Validate())
	wantProblems(t, serve("--listen-tls", ":8443", "--tls-cert", cert).Validate(), `--tls-cert: 1 of tls-cert and 0 of tls-key: want one key for each certificate…`)
	wantProblems(t, serve("--tls-cert", cert, "--tls-key", key).Validate(), `--tls-cert "`+cert+`": nothing listens over TLS: want listen-tls, like :8443`)
	wantProblems(t, serve("--listen-tls", ":8443", "--tls-cert", cert, "--tls-key", otherKey).Validate(), `--tls-cert "`+cert+`": with tls-key "`+otherKey+`": …`)
	wantProblems(t, serve("--listen-tls", ":8443", "--tls-cert", cert, "--tls-key", dir+"/x").Validate(), `--tls-key "`+dir+`/x": the file cannot be read: no such file or directory`)

	c := serve("--listen=", "--listen-tls", ":8443", "--tls-cert", cert, "--tls-key", key, "--tls-cert", other, "--tls-key", otherKey)
	wantProblems(t, c.Validate())
	wantProblems(t, c.Warnings(), `--tls-cert "`+other+`": the certificate expired on …`)
	if pairs, err := c.Certificates(); err != nil || len(pairs) != 2 || pairs[1].Leaf.DNSNames[0] != "b.test" {
		t.Errorf("got %d certificates, %v, want both", len(pairs), err)
	}
}

// Whatever a line is, it is refused or it is a route whose Line is a line that
// says the same.
func FuzzParseRoutes(f *testing.F) {
	for _, seed := range []string{
		"* localhost:8000,over_http", `a.test,header="X: \"1\"" [::1]:1,sub="a b" test`, "id=x,replace_beg= a:1", `"" "=", ,#`, "*,sig_key=base64:AA== a:1", "\ufeff* a:1\r\n* b:1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		routes, _ := config.ParseRoutes("nowhere/routes", text)
		for _, route := range routes {
			again, problems := config.ParseRoutes("nowhere/routes", route.Line)
			if len(again) != 1 {
				t.Fatalf("%q has the line %q, which gives %v, %v", text, route.Line, again, problems)
			}
			if again[0].Line != route.Line {
				t.Fatalf("line %q became %q", route.Line, again[0].Line)
			}
		}
	})
}
