package config_test

import (
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/gripway/gripway/gateway/config"
	"github.com/gripway/gripway/guest/store"
)

// withGuest parses a gripway.toml with a guest called app, and a folder around it.
func withGuest(t *testing.T, manifest, tables string) (dir string, c *config.ServeCommand) {
	t.Helper()
	dir = t.TempDir()
	writeIn(t, dir, "app.wasm", module)
	writeIn(t, dir, "config.json", `{"a": "1"}`)
	writeIn(t, dir, "acl.json", `{"entries": []}`)
	said := ""
	if manifest != "" {
		writeIn(t, dir, "fastly.toml", manifest)
		said = "manifest = 'fastly.toml'\n"
	}
	file := writeIn(t, dir, "gripway.toml", "[[guest]]\nname = \"app\"\nfile = \"app.wasm\"\n"+said+tables)
	return dir, parse(t, nil, "--config", file, "--route", "*,guest=app")
}

func TestAGuestOfTheGatewayHasStores(t *testing.T) {
	dir, c := withGuest(t, "[local_server]\nkv_stores.old = []\nacls.a = '"+filepath.ToSlash(filepath.Join(t.TempDir(), "gone.json"))+"'\n", `
config_stores.dotted = { format = "inline-toml", contents = { k = "v" } }

[guest.kv_stores]
empty = []
kept = { backend = "file", path = "kept.db" }
[[guest.kv_stores.items]]
key = "a.b"
data = "1"
[[guest.kv_stores.items]]
key = "c"
data = "2"

[guest.config_stores.live]
format = "json"
file = "config.json"

[[guest.backend]]
name = "api"
url = "http://api.test"

[guest.acls]
b = "acl.json"
[guest.secret_stores]
s = [{ key = "k", env = "GRIPWAY_TEST_ABSENT" }]
[guest.geolocation]
use_default_loopback = false

[[guest]]
name = "other"
file = "app.wasm"
kv_stores.own = []
`)
	problems := c.Validate()
	if len(problems) != 1 || !strings.Contains(problems.Error(), "gone.json") {
		t.Errorf("got %v, want the manifest's one mistake", problems)
	}
	g := c.Guest[0]
	for _, check := range []struct {
		name      string
		got, want any
	}{
		{"configs", g.Stores.Configs, map[string]store.ConfigOptions{
			"dotted": {Items: map[string]string{"k": "v"}}, "live": {File: filepath.Join(dir, "config.json")}}},
		{"kv", g.Stores.KV, map[string]store.KVOptions{
			"empty": {}, "kept": {Backend: store.KVFile, File: filepath.Join(dir, "kept.db")},
			"items": {Items: []store.KVItem{{Key: "a.b", Body: []byte("1")}, {Key: "c", Body: []byte("2")}}}}},
		{"acls", g.Stores.ACLs, map[string]string{"b": filepath.Join(dir, "acl.json")}},
		{"geo", g.Stores.Geo, store.GeoOptions{NoDefaultLoopback: true}},
		{"backends", len(g.Backends), 1},
		{"the other's", c.Guest[1].Stores, store.Options{KV: map[string]store.KVOptions{"own": {}}}},
	} {
		if !reflect.DeepEqual(check.got, check.want) {
			t.Errorf("%s: got %+v, want %+v", check.name, check.got, check.want)
		}
	}
	_, manifest, _ := g.Read()
	if got := fmt.Sprint(len(manifest.Stores.KV), len(manifest.Stores.Configs), manifest.Stores.Geo.NoDefaultLoopback); got != "4 2 true" {
		t.Errorf("together: got %s, want 4 2 true", got)
	}
	if !strings.Contains(manifest.Warnings.Error(), "GRIPWAY_TEST_ABSENT") {
		t.Errorf("got warnings %v, want that a variable is not set", manifest.Warnings)
	}
}

func TestMistakesInStoresOfTheGatewayAreNamed(t *testing.T) {
	for _, c := range []struct{ manifest, tables, want string }{
		{"", "[guest.kv_stores]\nk = 1\n", `gripway.toml:5: guest: guest.kv_stores.k "1": want a list of items`},
		{"", "[[guest.kv_stores.k]]\nkey = \"a#\"\ndata = \"\"\n", `gripway.toml:5: guest: guest.kv_stores.k[0].key "a#": a key does not contain`},
		{"", "kv_store.k = []\n", `gripway.toml:4: guest: unknown option "kv_store.k"`},
		{"", "[guest.kv_store]\n", `gripway.toml:4: unknown table [guest.kv_store]`},
		{"", "acls.a = \"gone.json\"\n", `gripway.toml:4: guest: guest.acls.a.file`},
		{"[local_server]\nkv_stores.k = []\nshielding_sites.s = \"local\"\n", "kv_stores.k = []\nshielding_sites.s = \"local\"\n", `KV store "k" is in `},
		{"[local_server.geolocation]\nformat = \"inline-toml\"\naddresses = {}\n", "geolocation = {format = \"inline-toml\", addresses = {}}\n", `geolocation is in `},
	} {
		_, command := withGuest(t, c.manifest, c.tables)
		if got := command.Validate().Error(); !strings.Contains(got, c.want) {
			t.Errorf("%s: got %s, want %s", c.tables, got, c.want)
		}
	}
	_, command := withGuest(t, "", "kv_stores.shared = { backend = \"jetstream\" }\n")
	if got := command.Validate().Error(); !strings.Contains(got, `guest "shared": this KV store wants JetStream: want nats-store-dir`) {
		t.Errorf("got %s", got)
	}
	command.NATSStoreDir = t.TempDir()
	wantProblems(t, command.Validate())
	if _, problems := config.ReadFastly(writeIn(t, t.TempDir(), "fastly.toml", "[local_server]\n")); problems != nil {
		t.Error(problems)
	}
}
