package control_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/gripway/gripway/gateway/access"
	"github.com/gripway/gripway/gateway/control"
	"github.com/gripway/gripway/pubsub"
)

func TestPurgesAreAsFastlysAPIHasThem(t *testing.T) {
	var got []control.Purge
	var fails error
	var missing []string
	_, url := api(t, control.Options{
		ServiceID: "abc",
		Purge: func(_ context.Context, p control.Purge) (control.Purged, error) {
			got = append(got, p)
			return control.Purged{Objects: 3, Nodes: 2, Missing: missing}, fails
		},
		PurgesGuest: func(name string) bool { return name == "app" },
	})
	many := strings.TrimSpace(strings.Repeat("k ", 257))
	for _, test := range []struct {
		why, method, path, header, body string
		status                          int
		want                            *control.Purge // nil: nothing is purged
		answers                         string         // keys of the JSON, in order
	}{
		{"a key", "POST", "/service/abc/purge/k1", "", "", 200, &control.Purge{Keys: []string{"k1"}}, "id nodes objects status"},
		{"a key with a slash", "POST", "/service/abc/purge/a/b", "", "", 200, &control.Purge{Keys: []string{"a/b"}}, "id nodes objects status"},
		{"softly", "POST", "/service/abc/purge/k1", "Fastly-Soft-Purge: 1", "", 200, &control.Purge{Keys: []string{"k1"}, Soft: true}, "id nodes objects status"},
		{"not softly", "POST", "/service/abc/purge/k1", "Fastly-Soft-Purge: 0", "", 200, &control.Purge{Keys: []string{"k1"}}, "id nodes objects status"},
		{"all", "POST", "/service/abc/purge_all", "", "", 200, &control.Purge{All: true}, "id nodes objects status"},
		{"keys in the header", "POST", "/service/abc/purge", "Surrogate-Key: k1  k2", "", 200, &control.Purge{Keys: []string{"k1", "k2"}}, "k1 k2"},
		{"keys in the body", "POST", "/service/abc/purge/", "", `{"surrogate_keys":["k1","k2"]}`, 200, &control.Purge{Keys: []string{"k1", "k2"}}, "k1 k2"},
		{"of a guest", "POST", "/service/app/purge/k1", "", "", 200, &control.Purge{Guest: "app", Keys: []string{"k1"}}, "id nodes objects status"},
		{"of another service", "POST", "/service/xyz/purge/k1", "", "", 404, nil, ""},
		{"of nobody", "POST", "/service//purge/k1", "", "", 404, nil, ""},
		{"something else", "POST", "/service/abc/purge_most", "", "", 404, nil, ""},
		{"no keys", "POST", "/service/abc/purge", "", "", 400, nil, ""},
		{"no keys in the body", "POST", "/service/abc/purge", "", `{"surrogate_keys":[]}`, 400, nil, ""},
		{"a body that is none", "POST", "/service/abc/purge", "", `["k1"]`, 400, nil, ""},
		{"too many keys", "POST", "/service/abc/purge", "Surrogate-Key: " + many, "", 400, nil, ""},
		{"GET", "GET", "/service/abc/purge/k1", "", "", 405, nil, ""},
	} {
		t.Run(test.why, func(t *testing.T) {
			got = nil
			r, err := http.NewRequest(test.method, url+test.path, strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			if name, value, ok := strings.Cut(test.header, ": "); ok {
				r.Header.Set(name, value)
			}
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			body, _ := io.ReadAll(answer.Body)
			if answer.StatusCode != test.status {
				t.Errorf("got %d %s, want %d", answer.StatusCode, body, test.status)
			}
			switch {
			case test.want == nil && got != nil:
				t.Errorf("purged %v", got)
			case test.want != nil && (len(got) != 1 || !reflect.DeepEqual(got[0], *test.want)):
				t.Errorf("purged %+v, want %+v", got, *test.want)
			case test.want != nil:
				var said map[string]any
				if err := json.Unmarshal(body, &said); err != nil {
					t.Fatalf("%s: %v", body, err)
				}
				for name := range strings.FieldsSeq(test.answers) {
					if said[name] == nil {
						t.Errorf("%s: no %q", body, name)
					}
				}
				if len(said) != len(strings.Fields(test.answers)) {
					t.Errorf("%s: want %s", body, test.answers)
				}
			}
		})
	}
	fails = fmt.Errorf("purge: %w", pubsub.ErrDisconnected)
	if answer, body := ask(t, "POST", url+"/service/abc/purge/k", ""); answer.StatusCode != 503 || !strings.Contains(body, "the connection to the other nodes is down") {
		t.Errorf("got %d %s", answer.StatusCode, body)
	}
	fails, missing = nil, []string{"b"}
	if answer, body := ask(t, "POST", url+"/service/abc/purge/k", ""); answer.StatusCode != 202 {
		t.Errorf("not everywhere: got %d %s, want 202", answer.StatusCode, body)
	}
}

func TestPurgesNeedAKeyForAllChannels(t *testing.T) {
	purged := 0
	_, url := api(t, control.Options{
		Access: admitted(t, app, access.Publisher{Name: "some", Tokens: []string{"little"}, Channels: []string{"a"}}),
		Purge: func(context.Context, control.Purge) (control.Purged, error) {
			purged++
			return control.Purged{}, nil
		},
	})
	for token, want := range map[string]int{"": 401, "little": 403, "s3cret": 200} {
		r, _ := http.NewRequest("POST", url+"/service/any/purge_all", nil)
		if token != "" {
			r.Header.Set("Fastly-Key", token)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%q: got %d, want %d", token, answer.StatusCode, want)
		}
	}
	if purged != 1 {
		t.Errorf("purged %d times, want 1", purged)
	}
}

func TestWithoutCachesThereIsNothingToPurge(t *testing.T) {
	_, url := api(t, control.Options{})
	if answer, _ := ask(t, "POST", url+"/service/any/purge_all", ""); answer.StatusCode != 501 {
		t.Errorf("got %d, want 501", answer.StatusCode)
	}
}
