package config_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/gripway/gripway/gateway/config"
)

func TestEventTablesSayWhatLinesSay(t *testing.T) {
	lines := []string{
		`presence,channel="a b"`,
		`url=https://me:s3cret@back.example/events,type=connect,type=disconnect,kind=websocket,route=chat,route=news`,
	}
	byLine := parse(t, nil, "--route", oneRoute, "--events", lines[0], "--events", lines[1])
	byEnv := parse(t, []string{"GRIPWAY_EVENTS=" + strings.Join(lines, ";")}, "--route", oneRoute)
	byTable := parse(t, nil, "--route", oneRoute, "--config", file(t, `
[[events]]
name = "presence"
channel = "a b"
[[events]]
url = "https://me:s3cret@back.example/events"
type = ["connect", "disconnect"]
kind = "websocket"
route = ["chat", "news"]
`))
	want := []config.Events{
		{Name: "presence", Channel: "a b"},
		{
			URL: "https://me:s3cret@back.example/events", Types: []string{"connect", "disconnect"},
			Kinds: []string{"websocket"}, Routes: []string{"chat", "news"},
		},
	}
	for name, c := range map[string]*config.ServeCommand{"lines": byLine, "environment": byEnv, "tables": byTable} {
		wantProblems(t, c.Validate())
		for i := range c.Events {
			if strings.Contains(c.Events[i].String(), "s3cret") {
				t.Errorf("%s: a printed line shows a password: %v", name, c.Events[i])
			}
			c.Events[i].Line, c.Events[i].Where = "", ""
		}
		if !reflect.DeepEqual(c.Events, want) {
			t.Errorf("%s: got %#v\nwant %#v", name, c.Events, want)
		}
	}
}

func TestWhatIsWrongWithEventsIsTold(t *testing.T) {
	for _, test := range []struct{ name, line, want string }{
		{"nowhere", "type=connect", "want channel or url"},
		{"both", "channel=a,url=http://b/c", "want channel or url"},
		{"no URL", "url=localhost:8000", "url: want http:// or https:// and a host"},
		{"type", "channel=a,type=conect", `type "conect": want one of connect, disconnect, subscribe, unsubscribe`},
		{"kind", "channel=a,kind=http", `kind "http": want one of websocket, stream, response`},
		{"option", "chanel=a", `unknown option "chanel"`},
		{"empty", "channel=", "option channel needs a value"},
		{"two", "channel=a channel=b", "want options by commas"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := parse(t, nil, "--route", oneRoute, "--events", test.line).Validate()
			if len(got) == 0 || !strings.Contains(got.Error(), test.want) {
				t.Errorf("got %v, want %s", got, test.want)
			}
		})
	}
}

func TestTheModeOfSocketsIsOctal(t *testing.T) {
	if got := parse(t, nil, "--route", oneRoute, "--zmq-ipc-mode", "660").IPCMode(); got != 0o660 {
		t.Errorf("got %o, want 660", got)
	}
	for _, wrong := range []string{"rw", "888", "7777", "0"} {
		if got := parse(t, nil, "--route", oneRoute, "--zmq-ipc-mode", wrong).Validate(); len(got) == 0 {
			t.Errorf("%s is taken as a mode", wrong)
		}
	}
}
