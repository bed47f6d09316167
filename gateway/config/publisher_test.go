package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/gripway/gripway/gateway/access"
	"github.com/gripway/gripway/gateway/config"
	"github.com/gripway/gripway/grip"
)

func TestPublisherTablesSayWhatLinesSay(t *testing.T) {
	lines := []string{
		`app,token=s3cret`,
		`realm,jwt-key=base64:aGVsbG8=,iss=realm,channels=news.*,channels=room-?,rate=100,burst=500`,
		`idp,jwks=https://idp.test/keys,iss=https://idp.test/,rate=0.5`,
		`me,user=ann,password="p,w #1",channels`,
	}
	var args []string
	for _, line := range lines {
		args = append(args, "--publisher", line)
	}
	byLine := parse(t, nil, append(args, "--route", oneRoute)...)
	byEnv := parse(t, []string{"GRIPWAY_PUBLISHER=" + strings.Join(lines, ";")}, "--route", oneRoute)
	byTable := parse(t, nil, "--route", oneRoute, "--config", file(t, `
service-id = "abc"
[[publisher]]
name = "app"
token = "s3cret"
[[publisher]]
name = "realm"
jwt-key = "base64:aGVsbG8="
iss = "realm"
channels = ["news.*", "room-?"]
rate = 100
burst = 500
[[publisher]]
name = "idp"
jwks = "https://idp.test/keys"
iss = "https://idp.test/"
rate = 0.5
[[publisher]]
name = "me"
user = "ann"
password = "p,w #1"
channels = []
`))
	want := []access.Publisher{
		{Name: "app", Tokens: []string{"s3cret"}},
		{Name: "realm", Key: key(t, "base64:aGVsbG8="), Iss: "realm", Channels: []string{"news.*", "room-?"}, Rate: 100, Burst: 500},
		{Name: "idp", JWKS: "https://idp.test/keys", Iss: "https://idp.test/", Rate: 0.5},
		{Name: "me", User: "ann", Password: "p,w #1", Channels: []string{}},
	}
	for name, c := range map[string]*config.ServeCommand{"lines": byLine, "environment": byEnv, "tables": byTable} {
		wantProblems(t, c.Validate())
		if got := c.Publishers(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v\nwant %+v", name, got, want)
		}
	}
}

func TestFilesOfPublishersStartAtTheFoldersFile(t *testing.T) {
	path := file(t, "[[publisher]]\nname = \"a\"\njwks = \"keys.json\"\niss = \"a\"\n[[publisher]]\nname = \"b\"\njwt-key = \"file:b.hex\"\n")
	write(t, filepath.Join(filepath.Dir(path), "b.hex"), "68656c6c6f")
	write(t, filepath.Join(filepath.Dir(path), "keys.json"), `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`)
	c := parse(t, nil, "--config", path, "--route", oneRoute)
	wantProblems(t, c.Validate())
	got := c.Publishers()
	if want := filepath.Join(filepath.Dir(path), "keys.json"); got[0].JWKS != want || got[1].Key.Alg() != "HS256" {
		t.Errorf("got %+v, want the folder of the file", got)
	}
}

func TestAPublishKeyIsATokenOnlyIfItIsASecret(t *testing.T) {
	_, pemFile := certificate(t, t.TempDir(), "a.test", 1)
	pem, err := os.ReadFile(pemFile)
	if err != nil {
		t.Fatal(err)
	}
	hex := write(t, filepath.Join(t.TempDir(), "key.hex"), "68656c6c6f")
	for _, test := range []struct {
		text   string
		alg    string
		tokens []string
	}{
		{"s3cret", "HS256", []string{"s3cret"}},
		{"base64:aGVsbG8=", "HS256", []string{"base64:aGVsbG8=", "hello"}},
		{"base64:AAEC", "HS256", []string{"base64:AAEC"}}, // no header carries its bytes
		{"a b", "HS256", nil},
		{"file:" + hex, "HS256", nil},
		{"file:" + pemFile, "ES256", nil},
		{string(pem), "ES256", nil},
	} {
		c := parse(t, nil, "--publish-key="+test.text, "--route", oneRoute)
		wantProblems(t, c.Validate())
		got := c.Publishers()
		if len(got) != 1 || got[0].Key.Alg() != test.alg || !reflect.DeepEqual(got[0].Tokens, test.tokens) {
			t.Errorf("%.20q: got %+v, want %s and tokens %q", test.text, got, test.alg, test.tokens)
		}
	}
	two := parse(t, []string{"GRIPWAY_PUBLISH_KEY=" + string(pem) + ";a,b"}, "--route", oneRoute).Publishers()
	if len(two) != 2 || two[1].Name != "publish-key-2" || fmt.Sprint(two[1].Tokens) != "[a,b]" {
		t.Errorf("got %+v, want two keys divided by a semicolon", two)
	}
}

func TestWrongPublishersAreToldWithTheirPlace(t *testing.T) {
	for _, test := range []struct {
		args []string
		want []string
	}{
		{[]string{"--publisher", "a"}, []string{`--publisher "a": nothing to know him by…`}},
		{[]string{"--publisher", "token=x"}, []string{`--publisher "token=(hidden)": no name…`}},
		{[]string{"--publisher", "a,tokn=x"}, []string{`--publisher "a,tokn=x": unknown option "tokn"; did you mean token?`}},
		{[]string{"--publisher", "a,token=x b,token=y"}, []string{`--publisher "a,token=(hidden) b,token=(hidden)": want a name…`}},
		{[]string{"--publisher", "a,token=x,token=y"}, []string{`--publisher "a,token=(hidden),token=(hidden)": option token: said twice`}},
		{[]string{"--publisher", "a,token=x,jwt-key=y"}, []string{`--publisher "a,token=(hidden),jwt-key=(hidden)": token and jwt-key: want one of them…`}},
		{[]string{"--publisher", "a,token=x,channels=[a,rate=0,burst=-1"}, []string{
			`--publisher "a,token=(hidden),channels=[a,rate=0,burst=-1": rate "0": want items a second…`,
			`--publisher "a,token=(hidden),channels=[a,rate=0,burst=-1": burst "-1": want a number…`}},
		{[]string{"--publisher", "a,token=x,channels=[a"}, []string{`--publisher "a,token=(hidden),channels=[a": channels: "[a": [ is not closed`}},
		{[]string{"--publisher", "a,jwks=http://idp.test/,iss=x"}, []string{`--publisher "a,jwks=http://idp.test/,iss=x": jwks: whoever is on the way…`}},
		{[]string{"--publisher", "a,jwks=https://idp.test/"}, []string{`--publisher "a,jwks=https://idp.test/": jwks: it needs iss…`}},
		{[]string{"--publisher", "a,jwks=missing.json,iss=x"}, []string{`--publisher "a,jwks=missing.json,iss=x": jwks "missing.json": no such file or directory`}},
		{[]string{"--publisher", "a,jwks=publisher.go,iss=x"}, []string{`--publisher "a,jwks=publisher.go,iss=x": jwks "publisher.go": not a key set…`}},
		{[]string{"--publisher", "a,token=x", "--publisher", "b,token=x"}, []string{`publisher "b": publisher "a" has the same token or user`}},
		{[]string{"--publish-key", "file:missing.pem"}, []string{`--publish-key "file:missing.pem": …`}},
		{[]string{"--publish-key="}, []string{`--publish-key: it is empty: want a key, or leave it out and nobody is asked for one`}},
		{[]string{"--metrics-auth", "--publish-loopback-open"}, []string{`--publish-loopback-open: there are no keys…`, `--metrics-auth: there are no keys…`}},
	} {
		wantProblems(t, parse(t, nil, append(test.args, "--route", oneRoute)...).Validate(), test.want...)
	}
	path := file(t, `
[[publisher]]
name = "a"
token = true
rate = [1, 2]
service-id = "x"
[publisher.x]
`)
	wantProblems(t, parse(t, nil, "--config", path, "--route", oneRoute).Validate(),
		path+`:7: unknown table [publisher.x]…`,
		path+`:4: publisher: option token: want a text or a number, not true`,
		path+`:6: publisher: service-id is no option of a publisher: the gateway's own keys stand before the first [[publisher]]`,
		path+`:5: publisher: option rate: said twice`)
}

func TestAnOpenAPIIsNotWarnedOfIfThereAreKeys(t *testing.T) {
	c := parse(t, nil, "--control-listen", ":5561", "--publish-key", "x", "--route", oneRoute)
	wantProblems(t, c.Validate())
	wantProblems(t, c.Warnings())
}

func key(t *testing.T, text string) grip.Key {
	t.Helper()
	k, err := grip.ParseKey(text, "")
	if err != nil {
		t.Fatal(err)
	}
	return k
}
