package config_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gripway/gripway/gateway/config"
	"github.com/gripway/gripway/grip"
)

// published runs a publish command and returns its items as JSON.
func published(t *testing.T, stdin string, args ...string) ([]string, error) {
	t.Helper()
	command, err := config.Parse(append([]string{"publish"}, args...), nil, config.Output{})
	if err != nil {
		t.Fatal(err)
	}
	var items []string
	err = command.(*config.PublishCommand).Items(strings.NewReader(stdin), func(item *grip.Item) error {
		items = append(items, string(item.AppendJSON(nil)))
		return nil
	})
	return items, err
}

func TestPublishHasTheOptionsOfPushpinPublish(t *testing.T) {
	dir := t.TempDir()
	content := write(t, filepath.Join(dir, "content"), "from a file")
	binary := write(t, filepath.Join(dir, "binary"), "\xff\x00")
	for _, test := range []struct {
		name, stdin string
		args        []string
		want        string // a publish body's items
	}{
		{"plain", "", []string{"ch", "hello"},
			`{"channel":"ch","formats":{"http-response":{"code":200,"body":"hello\n"},"http-stream":{"content":"hello\n"},"ws-message":{"content":"hello"}}}`},
		{"all options", "", []string{"--id", "2", "--prev-id=1", "--sender", "me", "--code", "201", "-H", "X-A: 1, 2", "-H", "X-B:3", "-M", "k=v=w", "--meta=l=", "--no-seq", "--no-eol", "ch", "hello"},
			`{"channel":"ch","id":"2","prev-id":"1","no-seq":true,"meta":{"sender":"me","k":"v=w","l":""},"formats":{"http-response":{"code":201,"headers":{"X-A":"1, 2","X-B":"3"},"body":"hello"},"http-stream":{"content":"hello"},"ws-message":{"content":"hello"}}}`},
		{"hint", "", []string{"ch", "--hint"},
			`{"channel":"ch","formats":{"http-response":{"action":"hint"},"http-stream":{"action":"hint"}}}`},
		{"close", "", []string{"ch", "--close"},
			`{"channel":"ch","formats":{"http-stream":{"action":"close"},"ws-message":{"action":"close"}}}`},
		{"patch", "", []string{"ch", "--patch", `[{"op":"remove","path":"/a"}]`},
			`{"channel":"ch","formats":{"http-response":{"body-patch":[{"op":"remove","path":"/a"}]}}}`},
		{"a file is what it is", "", []string{"ch", "@" + content},
			`{"channel":"ch","formats":{"http-response":{"body":"from a file"},"http-stream":{"content":"from a file"},"ws-message":{"content":"from a file"}}}`},
		{"a binary file", "", []string{"ch", "@" + binary},
			`{"channel":"ch","formats":{"http-response":{"body-bin":"/wA="},"http-stream":{"content-bin":"/wA="},"ws-message":{"content-bin":"/wA="}}}`},
		{"lines", "one\r\ntwo\n\nlast", []string{"ch", "-", "--no-eol"},
			`{"channel":"ch","formats":{"http-response":{"body":"one"},"http-stream":{"content":"one"},"ws-message":{"content":"one"}}},
			 {"channel":"ch","formats":{"http-response":{"body":"two"},"http-stream":{"content":"two"},"ws-message":{"content":"two"}}},
			 {"channel":"ch","formats":{"http-response":{"body":""},"http-stream":{"content":""},"ws-message":{"content":""}}},
			 {"channel":"ch","formats":{"http-response":{"body":"last"},"http-stream":{"content":"last"},"ws-message":{"content":"last"}}}`},
		{"empty content", "", []string{"ch", ""},
			`{"channel":"ch","formats":{"http-response":{"body":"\n"},"http-stream":{"content":"\n"},"ws-message":{"content":""}}}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := published(t, test.stdin, test.args...)
			if err != nil {
				t.Fatal(err)
			}
			// Compared as the gateway would read them.
			if g, w := canonical(t, strings.Join(got, ",")), canonical(t, test.want); g != w {
				t.Errorf("got  %s\nwant %s", g, w)
			}
		})
	}
}

func canonical(t *testing.T, items string) string {
	t.Helper()
	parsed, err := grip.ParseItems([]byte(`{"items":[` + items + `]}`))
	if err != nil {
		t.Fatalf("%s: %v", items, err)
	}
	var b strings.Builder
	for _, item := range parsed {
		b.Write(item.AppendJSON(nil))
		b.WriteByte('\n')
	}
	return b.String()
}

func TestWrongPublishCommands(t *testing.T) {
	for _, test := range []struct {
		name, args, want string
	}{
		{"no content", "ch", "no content"},
		{"content and hint", "ch x --hint", "leave it out"},
		{"hint and close", "ch --hint --close", "want one of them"},
		{"code", "ch x --code 1000", "want a number from 0 to 999"},
		{"header", "ch x -H X", `--header "X": want NAME: VALUE`},
		{"meta", "ch x -M X", `--meta "X": want NAME=VALUE`},
		{"patch", "ch {} --patch", "a JSON array"},
		{"patch null", "ch null --patch", "a JSON array"},
		{"file", "ch @/nowhere", "the file cannot be read: no such file"},
		{"id for every line", "ch - --id 1", "every line would have the same"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if items, err := published(t, "a\n", strings.Fields(test.args)...); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %q and %v, want %s", items, err, test.want)
			}
		})
	}
	if _, err := published(t, "short\n"+strings.Repeat("x", 2_000_000), "ch", "-"); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %v for a line without an end, want its limit", err)
	}
}

func TestPublishingEndsAtTheFirstError(t *testing.T) {
	command, _ := config.Parse([]string{"publish", "ch", "-"}, nil, config.Output{})
	refused := errors.New("refused")
	calls := 0
	err := command.(*config.PublishCommand).Items(strings.NewReader("a\nb\nc\n"), func(*grip.Item) error {
		calls++
		if calls == 2 {
			return refused
		}
		return nil
	})
	if !errors.Is(err, refused) || !strings.HasPrefix(err.Error(), "line 2: ") || calls != 2 {
		t.Errorf("got %v after %d calls, want line 2 refused", err, calls)
	}
}

func TestGripURLs(t *testing.T) {
	for _, test := range []struct {
		name, args, env, want string // want beginning with "error:" is part of an error
	}{
		{"default", "", "", "http://localhost:5561"},
		{"environment", "", "http://h:1/?iss=x&key=y", "http://h:1/?iss=x&key=y"},
		{"flag beats environment", "--spec http://f:1", "http://h:1", "http://f:1"},
		{"user", "-u me:pass:word --spec https://h", "", "https://me:pass%3Aword@h"},
		{"bearer", "-B a/b+c --spec https://h/x?y=1", "", "https://h/x?key=a%2Fb%2Bc&y=1"},
		{"bearer on this machine", "-B t --spec http://127.0.0.1:1", "", "http://127.0.0.1:1?key=t"},
		{"both", "-B t -u a:b", "", "error:want one of them"},
		{"bearer and key", "-B t", "https://h?key=x", "error:want one of them"},
		{"readable on the way", "-B t --spec http://example.com", "", "error:want https://"},
		{"ZeroMQ", "--spec tcp://localhost:5560", "", "error:ZeroMQ is not spoken here"},
		{"no scheme", "--spec localhost:5561", "", "error:want http:// or https://"},
		{"no host", "--spec http:///x", "", "error:no host"},
	} {
		t.Run(test.name, func(t *testing.T) {
			command, err := config.Parse(append([]string{"subscribe", "a", "b"}, strings.Fields(test.args)...), []string{"GRIP_URL=" + test.env}, config.Output{})
			if err != nil {
				t.Fatal(err)
			}
			subscribe := command.(*config.SubscribeCommand)
			if fmt.Sprint(subscribe.Channels) != "[a b]" {
				t.Errorf("got channels %q, want a and b", subscribe.Channels)
			}
			got, err := subscribe.GripURL()
			if want, wrong := strings.CutPrefix(test.want, "error:"); wrong {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, %v, want error %s", got, err, want)
				}
			} else if got != want || err != nil {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	}
}
