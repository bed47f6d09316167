package config_test

import (
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/config"
)

func TestHistoryTablesSayWhatLinesSay(t *testing.T) {
	path := file(t, `
[[history]]
channels = "news.*"
items = 1_000
bytes = "2MiB"
age = "10m"

[[history]]
channels = "*"
`)
	for _, args := range [][]string{
		{"--config", path},
		{"--history", "news.*,items=1000,bytes=2MiB,age=10m", "--history", "*"},
	} {
		c := parse(t, nil, append(args, "--route", oneRoute)...)
		wantProblems(t, c.Validate())
		find := c.Histories()
		if got := find("news.sport"); got == nil || got.Items != 1000 || got.Bytes != 2<<20 || got.Age != 10*time.Minute {
			t.Errorf("%q: news.sport has %+v", args, got)
		}
		if got := find("room"); got == nil || got.Channels != "*" || got.Items != 0 {
			t.Errorf("%q: room has %+v", args, got)
		}
	}
	if find := parse(t, nil, "--history", "a", "--route", oneRoute).Histories(); find("b") != nil {
		t.Error("a channel that no pattern fits has a history")
	}
	var none config.Config
	if none.Histories() != nil {
		t.Error("there is a history without one being asked for")
	}
}

func TestWrongHistoriesAreToldWithTheirPlace(t *testing.T) {
	for _, test := range []struct {
		args []string
		want []string
	}{
		{[]string{"--history", "a,itms=3"}, []string{`--history "a,itms=3": unknown option "itms"; did you mean items?`}},
		{[]string{"--history", "a,items=0,bytes=x,age=-1s"}, []string{
			`--history "a,items=0,bytes=x,age=-1s": items "0": want a number…`,
			`--history "a,items=0,bytes=x,age=-1s": bytes "x": want a size…`,
			`--history "a,items=0,bytes=x,age=-1s": age "-1s": want a duration…`}},
		{[]string{"--history", "a b"}, []string{`--history "a b": want a pattern and options…`}},
		{[]string{"--history", "[a"}, []string{`--history "[a": channels: [ is not closed`}},
		{[]string{"--history", "items=3"}, []string{`--history "items=3": channels: an empty pattern…`}},
		{[]string{"--history", "a,items=3,items=4"}, []string{`--history "a,items=3,items=4": option items: said twice`}},
	} {
		wantProblems(t, parse(t, nil, append(test.args, "--route", oneRoute)...).Validate(), test.want...)
	}
	path := file(t, "[[history]]\nchannels = \"a\"\nitems = true\nservice-id = \"x\"\n")
	wantProblems(t, parse(t, nil, "--config", path, "--route", oneRoute).Validate(),
		path+`:3: history: option items: want a text or a number, not true`,
		path+`:4: history: service-id is no option of a history…`)
}
