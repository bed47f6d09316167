package config_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/config"
	"github.com/gripway/gripway/guest"
	"github.com/gripway/gripway/guest/store"
)

// pair makes a certificate and its key, as PEM.
func pair(t *testing.T) (cert, key string) {
	t.Helper()
	certFile, keyFile := certificate(t, t.TempDir(), "example.com", time.Hour)
	for _, of := range []struct {
		path string
		into *string
	}{{certFile, &cert}, {keyFile, &key}} {
		data, err := os.ReadFile(of.path)
		if err != nil {
			t.Fatal(err)
		}
		*of.into = string(data)
	}
	return cert, key
}

// manifest writes a fastly.toml.
func manifest(t *testing.T, text string) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "fastly.toml"), text)
}

func TestManifestWithoutLocalServerSaysNothing(t *testing.T) {
	f, problems := config.ReadFastly(manifest(t, `
manifest_version = 3
name = "app"
service_id = "abc"
[scripts]
build = "go build"
[setup.backends.origin]
address = "example.com"
`))
	wantProblems(t, problems)
	if f.Name != "app" || f.ServiceID != "abc" || f.Backends != nil || !reflect.DeepEqual(f.Stores, store.Options{}) || f.Pushpin.Said {
		t.Errorf("got %+v, want the names and nothing else", f)
	}
}

func TestManifestSaysEverything(t *testing.T) {
	t.Chdir(t.TempDir())
	cert, key := pair(t)
	for name, text := range map[string]string{
		"ca.pem": cert, "client.pem": cert, "client.key": key,
		"config.json": `{"a": "1"}`, "acl.json": `{"entries": [{"op": "create", "prefix": "192.0.2.0/24", "action": "BLOCK"}]}`,
		"value.bin": "\x00\x01", "kv.json": `{"plain": "x", "more": {"data": "y", "metadata": "m"}, "file": {"file": "value.bin"}}`,
		"secrets.json": `{"s": "t"}`,
	} {
		write(t, name, text)
	}
	t.Setenv("A_SECRET", "from the environment")
	f, problems := config.ReadFastly(manifest(t, fmt.Sprintf(`
manifest_version = "0.1.0"
[local_server]
viceroy_version = "0.20.2"
fake_valid_fastly_keys = ["k1", "k2"]
backends.dotted.url = "http://localhost:8000/base/"
acls.short = "acl.json"
acls.long = { file = "./acl.json" }

[local_server.backends."plain"]
url = "http://example.com"

[local_server.backends.tls]
url = "https://[::1]:8443"
override_host = "example.com"
cert_host = "cert.example.com"
use_sni = false
grpc = true
first_byte_timeout_ms = 1500
between_bytes_timeout_ms = 250
health = "Unhealthy"
ca_certificate = [{ file = "ca.pem" }, { value = '''%[1]s''' }, '''%[1]s''']
[local_server.backends.tls.client_certificate]
certificate_file = "client.pem"
key_file = "client.key"

[local_server.config_stores.inline]
format = "inline-toml"
[local_server.config_stores.inline.contents]
"a.b" = "1"
c = ""

[local_server.dictionaries.json]
format = "json"
file = "config.json"

[local_server.kv_stores]
empty = []
json = { file = "kv.json", format = "json" }
[[local_server.kv_stores.items]]
key = "hello"
data = "world"
metadata = "meta"
[[local_server.kv_stores.items]]
key = "file"
path = "value.bin"

[local_server.object_stores]
old = [{ key = "a", file = "value.bin" }]
kept = { backend = "file", path = "kept.db", items = [{ key = "a", data = "1" }] }
[local_server.object_store]
older = []
shared = { backend = "jetstream", bucket = "b-1", replicas = 3 }

[local_server.secret_stores]
json = { file = "secrets.json", format = "json" }
inline = [{ key = "a", data = "1" }, { key = "b", file = "value.bin" }, { key = "c", env = "A_SECRET" }]

[local_server.geolocation]
use_default_loopback = false
format = "inline-toml"
[local_server.geolocation.addresses."2001:db8::1"]
city = "Springfield"
latitude = 1.5
as_number = 64_496

[local_server.device_detection]
format = "inline-toml"
[local_server.device_detection.user_agents."a; b.c"]
device = { name = "phone", is_mobile = true }

[local_server.shielding_sites]
"pdx-or-us" = "Local"
"bfi-wa-us".unencrypted = "http://localhost"
"bfi-wa-us".encrypted = "https://localhost"

[local_server.pushpin]
enable = true
pushpin_path = "/usr/bin/pushpin"
proxy_port = 1234
`, cert)))
	wantProblems(t, problems)
	if f.Warnings != nil {
		t.Errorf("got warnings %v, want none", f.Warnings)
	}
	ca := []byte(cert + "\n" + cert + "\n" + cert + "\n")
	if want := []guest.BackendOptions{
		{Name: "dotted", Address: "localhost:8000", PathPrefix: "/base"},
		{Name: "plain", Address: "example.com:80"},
		{Name: "tls", Address: "[::1]:8443", TLS: true, HostOverride: "example.com", CertificateHost: "cert.example.com", NoSNI: true, GRPC: true,
			FirstByteTimeout: 1500 * time.Millisecond, BetweenBytesTimeout: 250 * time.Millisecond, Health: guest.HealthUnhealthy,
			CA: ca, ClientCert: []byte(cert), ClientKey: []byte(key)},
	}; !reflect.DeepEqual(f.Backends, want) {
		t.Errorf("backends: got %+v, want %+v", f.Backends, want)
	}
	got := f.Stores
	for _, check := range []struct {
		name      string
		got, want any
	}{
		{"keys", f.Keys, []string{"k1", "k2"}},
		{"pushpin", f.Pushpin, config.FastlyPushpin{Said: true, Enable: true, Path: "/usr/bin/pushpin", ProxyPort: 1234, PublishPort: 5561}},
		{"config stores", got.Configs, map[string]store.ConfigOptions{
			"inline": {Items: map[string]string{"a.b": "1", "c": ""}}, "json": {File: "config.json"}}},
		{"acls", got.ACLs, map[string]string{"short": "acl.json", "long": "./acl.json"}},
		{"secrets", got.Secrets, map[string]map[string]store.Secret{
			"json": {"s": []byte("t")}, "inline": {"a": []byte("1"), "b": []byte("\x00\x01"), "c": []byte("from the environment")}}},
		{"geolocation", got.Geo, store.GeoOptions{NoDefaultLoopback: true, Addresses: map[netip.Addr]json.RawMessage{
			netip.MustParseAddr("2001:db8::1"): json.RawMessage(`{"as_number":64496,"city":"Springfield","latitude":1.5}`)}}},
		{"devices", got.Devices, store.DeviceOptions{UserAgents: map[string]json.RawMessage{
			"a; b.c": json.RawMessage(`{"device":{"is_mobile":true,"name":"phone"}}`)}}},
		{"shields", got.Shields, map[string]store.Shield{"pdx-or-us": {Local: true}, "bfi-wa-us": {Plain: "http://localhost", TLS: "https://localhost"}}},
		{"kv empty", got.KV["empty"], store.KVOptions{}},
		{"kv items", got.KV["items"], store.KVOptions{Items: []store.KVItem{
			{Key: "hello", Body: []byte("world"), Metadata: "meta"}, {Key: "file", Body: []byte("\x00\x01")}}}},
		{"kv old", got.KV["old"], store.KVOptions{Items: []store.KVItem{{Key: "a", Body: []byte("\x00\x01")}}}},
		{"kv older", got.KV["older"], store.KVOptions{}},
		{"kv kept", got.KV["kept"], store.KVOptions{Backend: store.KVFile, File: "kept.db", Items: []store.KVItem{{Key: "a", Body: []byte("1")}}}},
		{"kv shared", got.KV["shared"], store.KVOptions{Backend: store.KVJetStream, Bucket: "b-1", Replicas: 3}},
	} {
		if !reflect.DeepEqual(check.got, check.want) {
			t.Errorf("%s: got %v, want %v", check.name, check.got, check.want)
		}
	}
	items := make(map[string]store.KVItem)
	for _, item := range got.KV["json"].Items {
		items[item.Key] = item
	}
	if want := map[string]store.KVItem{
		"plain": {Key: "plain", Body: []byte("x")}, "more": {Key: "more", Body: []byte("y"), Metadata: "m"}, "file": {Key: "file", Body: []byte("\x00\x01")},
	}; !reflect.DeepEqual(items, want) {
		t.Errorf("kv json: got %v, want %v", items, want)
	}
	if shown := fmt.Sprintf("%v %+v %#v %s", got.Secrets, f, got.Secrets, got.Secrets); strings.Contains(shown, "environment") {
		t.Errorf("a printed manifest shows a secret: %s", shown)
	}
}

func TestManifestMistakesAreNamed(t *testing.T) {
	t.Chdir(t.TempDir())
	cert, _ := pair(t)
	_, other := pair(t)
	write(t, "cert.pem", cert)
	write(t, "other.key", other)
	for name, text := range map[string]string{
		"text.json": `{"a": "b"}`, "number.json": "{\n\"a\": 1}", "broken.json": "{\n\n\"a\": }", "list.json": `[1]`, "empty.json": ``, "null.json": `null`,
		"object.json":  `{"192.0.2.1": {"city": "x"}}`,
		"longkey.json": `{"` + strings.Repeat("k", 257) + `": ""}`, "longvalue.json": `{"k": "` + strings.Repeat("v", 8001) + `"}`,
		"kvboth.json": `{"k": {"data": "", "file": "x"}}`, "kvnone.json": `{"k": {"metadata": ""}}`, "kvother.json": `{"k": {"data": "", "colour": "x"}}`,
		"kvkey.json": `{"a#b": "x"}`, "kvfile.json": `{"k": {"file": "gone"}}`,
		"aclprefix.json": `{"entries": [{"prefix": "192.0.2.0/24", "action": "BLOCK"}, {"prefix": "192.0.2.0", "action": "BLOCK"}]}`,
		"aclaction.json": `{"entries": [{"prefix": "192.0.2.0/24"}]}`, "acldelete.json": `{"entries": [{"op": "delete", "prefix": "192.0.2.0/24", "action": "BLOCK"}]}`,
		"aclzero.json": `{"entries": [{"prefix": "0.0.0.0/0", "action": "BLOCK"}]}`, "aclempty.json": `{}`,
		"secretname.json": `{"a b": "x"}`,
	} {
		write(t, name, text)
	}
	local := "[local_server]\n"
	backend := "[local_server.backends.o]\nurl = \"http://a\"\n"
	for _, c := range []struct {
		text string // what is wrong is in its last line
		want string // after the line
	}{
		{"manifest_version = 4", `manifest_version "4": want a number up to 3`},
		{"manifest_version = true", `manifest_version "true": want a number`},
		{"local_server = 1", `local_server "1": want a table`},
		{local + "fake_valid_fastly_keys = \"k\"", `want a list of texts`},
		{local + "fake_valid_fastly_keys = [\"k\", 1]", `fake_valid_fastly_keys "1": want a list of texts`},

		{local + "backends = \"x\"", `local_server.backends "x": want a table`},
		{local + "backends.o = \"http://a\"", `local_server.backends.o "http://a": want a table`},
		{local + "backends.o = {}", `local_server.backends.o: want a url`},
		{local + "backends.\"a b\" = {}", `local_server.backends."a b": want a url`},
		{local + "backends.o.url = 1", `backends.o.url "1": want a text in quotes`},
		{local + "backends.o.url = \"\"", `backends.o.url: it is empty`},
		{local + "backends.o.url = \"ftp://a\"", `backends.o.url "ftp://a": want a URL like https://`},
		{local + "backends.o.url = \"http:///x\"", `want a URL like https://`},
		{local + "backends.o.url = \"http://a b\"", `want a URL like https://`},
		{local + "backends.o.url = \"http://a:0\"", `a port is a number`},
		{local + "backends.o.url = \"http://a:70000\"", `a port is a number`},
		{local + "backends.o.url = \"http://u:hunter2@a\"", `backends.o.url "http://xxxxx@a": want a URL`},
		{local + "backends.o.url = \"http://a/?q\"", `without ? and #`},
		{backend + "shrimp = true", `local_server.backends.o.shrimp: unknown key`},
		{backend + "override_host = 3", `override_host "3": want a text`},
		{backend + "override_host = \" \"", `override_host: it is empty`},
		{backend + "override_host = \"a.com\\n\"", `override_host "a.com·": want a host name`},
		{backend + "cert_host = \"\"", `cert_host: it is empty`},
		{backend + "use_sni = \"yes\"", `use_sni "yes": want true or false, without quotes`},
		{backend + "grpc = 1", `grpc "1": want true or false`},
		{backend + "first_byte_timeout_ms = -1", `first_byte_timeout_ms "-1": want a whole number from 0`},
		{backend + "between_bytes_timeout_ms = \"5\"", `between_bytes_timeout_ms "5": want a whole number from 0`},
		{backend + "health = \"sick\"", `health "sick": want healthy, unhealthy or unknown`},
		{backend + "health = true", `health "true": want a text`},
		{backend + "ca_certificate = 1", `ca_certificate "1": want a certificate as text`},
		{backend + "ca_certificate = \"x\"", `ca_certificate: there is no certificate in it`},
		{backend + "ca_certificate = {}", `ca_certificate: want value, or file`},
		{backend + "ca_certificate = {file = \"gone.pem\"}", `ca_certificate.file "gone.pem": the file cannot be read: no such file or directory; tried `},
		{backend + "ca_certificate = {file = \"cert.pem\", x = 1}", `ca_certificate.x: unknown key`},
		{backend + "client_certificate = true", `client_certificate "true": want a table`},
		{backend + "client_certificate = {key = \"x\"}", `client_certificate: want certificate, or certificate_file`},
		{backend + "client_certificate.certificate_file = \"cert.pem\"", `client_certificate: want key, or key_file`},
		{backend + "client_certificate = {certificate_file = \"cert.pem\", key_file = \"other.key\"}", `private key does not match`},
		{backend + "client_certificate = {certificate = \"x\", certificate_file = \"cert.pem\", key = \"y\"}", `certificate and certificate_file: want one of them`},

		{local + "dictionaries.d = \"x\"", `local_server.dictionaries.d "x": want a table`},
		{local + "config_stores.d = {}", `config_stores.d: want format`},
		{local + "config_stores.d = {format = \"foo\", contents = {}}", `format "foo": want one of inline-toml, json`},
		{local + "config_stores.d = {format = 3}", `format "3": want a text`},
		{local + "config_stores.d = {format = \"\"}", `format: it is empty`},
		{local + "config_stores.d = {format = \"inline-toml\"}", `want contents, a table`},
		{local + "config_stores.d = {format = \"inline-toml\", contents = \"x\"}", `contents "x": want a table`},
		{local + "config_stores.d = {format = \"inline-toml\", contents = {a = 1}}", `config_stores.d.contents.a "1": want a text`},
		{local + "config_stores.d = {format = \"inline-toml\", contents = {a = \"" + strings.Repeat("v", 8001) + "\"}}", `key "a": its value has 8001 characters: want at most 8000`},
		{local + "config_stores.d = {format = \"json\"}", `want file, the name of a JSON file`},
		{local + "config_stores.d = {format = \"json\", file = 3}", `file "3": want a text`},
		{local + "config_stores.d = {format = \"json\", file = \"\"}", `file: it is empty`},
		{local + "config_stores.d = {format = \"json\", file = \"text.json\", shrimp = true}", `shrimp: unknown key`},
		{local + "config_stores.d = {format = \"json\", file = \"gone.json\"}", `file "gone.json": the file cannot be read`},
		{local + "config_stores.d = {format = \"json\", file = \"number.json\"}", `file "number.json": key "a": want a text`},
		{local + "config_stores.d = {format = \"json\", file = \"broken.json\"}", `file "broken.json": line 3: invalid character`},
		{local + "config_stores.d = {format = \"json\", file = \"list.json\"}", `want a JSON object: it is of type array`},
		{local + "config_stores.d = {format = \"json\", file = \"null.json\"}", `want a JSON object, not null`},
		{local + "config_stores.d = {format = \"json\", file = \"empty.json\"}", `unexpected end of JSON`},
		{local + "config_stores.d = {format = \"json\", file = \"longkey.json\"}", `it has 257 characters: want at most 256`},
		{local + "config_stores.d = {format = \"json\", file = \"longvalue.json\"}", `its value has 8001 characters`},
		{local + "config_stores.d = {format = \"json\", file = \"text.json\"}\ndictionaries.d = {format = \"json\", file = \"text.json\"}", `dictionaries.d: there is one of that name`},

		{local + "kv_stores.k = \"x\"", `kv_stores.k "x": want a list of items`},
		{local + "kv_stores.k = {}", `want a list of items, or file and format`},
		{local + "kv_stores.k = {file = \"text.json\"}", `kv_stores.k: want format`},
		{local + "kv_stores.k = {format = \"json\"}", `want file, the name of a JSON file`},
		{local + "kv_stores.k = {file = \"text.json\", format = \"yaml\"}", `format "yaml": want one of json`},
		{local + "kv_stores.k = [1]", `kv_stores.k[0] "1": want a table`},
		{local + "kv_stores.k = [{data = \"x\"}]", `kv_stores.k[0]: want a key`},
		{local + "kv_stores.k = [{key = 3, data = \"x\"}]", `kv_stores.k[0].key: want a text`},
		{local + "kv_stores.k = [{key = \"\", data = \"x\"}]", `a key is not empty`},
		{local + "kv_stores.k = [{key = \"a\"}]", `want one of data, file, path`},
		{local + "kv_stores.k = [{key = \"a\", data = \"x\", file = \"text.json\"}]", `data and file: want one of them`},
		{local + "kv_stores.k = [{key = \"a\", data = 3}]", `kv_stores.k[0].data: want a text`},
		{local + "kv_stores.k = [{key = \"a\", file = 3}]", `kv_stores.k[0].file "3": want a text`},
		{local + "kv_stores.k = [{key = \"a\", file = \"gone\"}]", `file "gone": the file cannot be read`},
		{local + "kv_stores.k = [{key = \"a\", data = \"x\", metadata = 3}]", `metadata: want a text`},
		{local + "config_stores.d = {format = \"json\", file = \"text.json\", contents = {a = \"b\"}}", `contents: it does not go with the other keys here`},
		{local + "kv_stores.k = [{key = \"a/../b\", data = \"x\"}]", `key "a/../b": a key has no part . or ..`},
		{local + "kv_stores.k = [{key = \"a?\", data = \"x\"}]", `a key does not contain '?'`},
		{local + "kv_stores.k = [{key = \".well-known/acme-challenge/x\", data = \"x\"}]", `a key does not begin with .well-known`},
		{local + "kv_stores.k = [{key = \"" + strings.Repeat("k", 1025) + "\", data = \"x\"}]", `at most 1024 bytes, not 1025`},
		{local + "kv_stores.k = {file = \"number.json\", format = \"json\"}", `key "a": want a text, or an object of texts`},
		{local + "kv_stores.k = {file = \"kvboth.json\", format = \"json\"}", `key "k": data and file: want one of them`},
		{local + "kv_stores.k = {file = \"kvnone.json\", format = \"json\"}", `key "k": want data or file`},
		{local + "kv_stores.k = {file = \"kvother.json\", format = \"json\"}", `unknown key "colour"`},
		{local + "kv_stores.k = {file = \"kvkey.json\", format = \"json\"}", `key "a#b": a key does not contain '#'`},
		{local + "kv_stores.k = {file = \"kvfile.json\", format = \"json\"}", `key "k": file "gone" cannot be read`},
		{local + "kv_stores.k = {backend = \"redis\"}", `backend "redis": want one of memory, file, jetstream`},
		{local + "kv_stores.k = {backend = \"file\"}", `want path, the file`},
		{local + "kv_stores.k = {backend = \"jetstream\", bucket = \"a.b\"}", `bucket "a.b": want a name`},
		{local + "kv_stores.\"a b\" = {backend = \"jetstream\"}", `want bucket, a name`},
		{local + "kv_stores.k = {backend = \"jetstream\", replicas = 6}", `replicas "6": want a whole number from 1 to 5`},
		{local + "kv_stores.k = []\nobject_stores.k = []", `object_stores.k: there is one of that name`},

		{local + "secret_stores.\"a b\" = []", `secret_stores."a b": want a name of letters`},
		{local + "secret_stores.s = \"hunter2\"", `secret_stores.s: want a list of secrets`},
		{local + "secret_stores.s = [\"hunter2\"]", `secret_stores.s[0]: want a table`},
		{local + "secret_stores.s = [{data = \"hunter2\"}]", `want a key`},
		{local + "secret_stores.s = [{key = \"a b\", data = \"hunter2\"}]", `secret_stores.s[0].key "a b": want a name of letters`},
		{local + "secret_stores.s = [{key = \"" + strings.Repeat("k", 256) + "\", data = \"hunter2\"}]", `the name has 256 bytes`},
		{local + "secret_stores.s = [{key = \"a\", data = \"hunter2\"}, {key = \"a\", data = \"hunter2\"}]", `it is there twice`},
		{local + "secret_stores.s = [{key = \"a\"}]", `want one of data, file, env`},
		{local + "secret_stores.s = [{key = \"a\", data = \"hunter2\", env = \"A\"}]", `data and env: want one of them`},
		{local + "secret_stores.s = [{key = \"a\", data = 4711}]", `data: want a text`},
		{local + "secret_stores.s = [{key = \"a\", data = \"" + strings.Repeat("x", 64<<10+1) + "\"}]", `it has 65537 bytes`},
		{local + "secret_stores.s = {file = \"number.json\", format = \"json\"}", `secret "a": want a text`},
		{local + "secret_stores.s = {file = \"secretname.json\", format = \"json\"}", `file "a b": want a name of letters`},
		{local + "secret_stores.s = {file = \"text.json\"}", `want format`},

		{local + "acls.a = 1", `acls.a "1": want the name of a JSON file`},
		{local + "acls.a = {}", `acls.a: want file`},
		{local + "acls.a = \"gone.json\"", `acls.a.file "gone.json": the file cannot be read`},
		{local + "acls.a = \"aclempty.json\"", `want {"entries": [`},
		{local + "acls.a = \"aclprefix.json\"", `entry 1: prefix "192.0.2.0": want an address and a length`},
		{local + "acls.a = \"aclzero.json\"", `want a length of at least 1`},
		{local + "acls.a = \"aclaction.json\"", `entry 0: want an action`},
		{local + "acls.a = \"acldelete.json\"", `op "delete": want create or update`},

		{local + "geolocation = 1", `geolocation "1": want a table`},
		{local + "geolocation.use_default_loopback = 1", `want true or false`},
		{local + "geolocation.file = \"x\"", `geolocation: want format, one of inline-toml, json, maxmind`},
		{local + "geolocation.addresses = {}", `geolocation: want format`},
		{local + "device_detection.user_agents = {}", `device_detection: want format, one of inline-toml, json`},
		{local + "geolocation.format = \"x\"", `format "x": want one of inline-toml, json, maxmind`},
		{local + "geolocation.format = \"inline-toml\"", `geolocation: want addresses`},
		{local + "geolocation = {format = \"inline-toml\", addresses = 1}", `addresses "1": want a table`},
		{local + "geolocation = {format = \"inline-toml\", addresses = {\"198.51.100\" = {}}}", `geolocation.addresses."198.51.100": want an address`},
		{local + "geolocation = {format = \"inline-toml\", addresses = {\"::1\" = 1}}", `want a table`},
		{local + "geolocation = {format = \"inline-toml\", addresses = {\"::1\" = {city = [1]}}}", `want a text, a number, true or false`},
		{local + "geolocation = {format = \"inline-toml\", addresses = {\"::1\" = {latitude = nan}}}", `JSON has no such number`},
		{local + "geolocation.format = \"json\"", `want file`},
		{local + "geolocation = {format = \"json\", file = \"text.json\"}", `address "a": want one like 192.0.2.1`},
		{local + "geolocation.format = \"maxmind\"", `want file, the name of a .mmdb file`},
		{local + "geolocation = {format = \"maxmind\", file = \"text.json\"}", `want a MaxMind database`},
		{local + "geolocation = {format = \"maxmind\", file = [\"gone.mmdb\"]}", `"gone.mmdb": the file cannot be read`},

		{local + "device_detection.format = \"xml\"", `format "xml": want one of inline-toml, json`},
		{local + "device_detection.format = \"inline-toml\"", `want user_agents`},
		{local + "device_detection = {format = \"inline-toml\", user_agents = {x = 1}}", `user_agents.x "1": want a table`},
		{local + "device_detection = {format = \"json\", file = \"text.json\"}", `user agent "a": want an object`},

		{local + "shielding_sites.a = \"remote\"", `shielding_sites.a "remote": want "Local", or`},
		{local + "shielding_sites.a = {encrypted = \"https://a\"}", `want unencrypted, a URL`},
		{local + "shielding_sites.a = {encrypted = \"https://a\", unencrypted = \"b\"}", `unencrypted "b": want a URL`},

		{local + "pushpin = true", `pushpin "true": want a table`},
		{local + "pushpin.enable = \"yes\"", `want true or false`},
		{local + "pushpin.proxy_port = 70000", `proxy_port "70000": want a whole number from 1 to 65535`},
	} {
		path := manifest(t, "\n# comment\n"+c.text+"\n")
		_, problems := config.ReadFastly(path)
		got := problems.Error()
		place := fmt.Sprintf("%s:%d: ", path, strings.Count(c.text, "\n")+3)
		if len(problems) != 1 || !strings.HasPrefix(got, place) || !strings.Contains(got, c.want) {
			t.Errorf("%.200s:\ngot  %s\nwant %s…%s", c.text, got, place, c.want)
		}
		if strings.Contains(got, "hunter2") || strings.Contains(got, "4711") {
			t.Errorf("%s: the problem shows a secret: %s", c.text, got)
		}
	}
}

// A manifest is made for Viceroy and for Fastly's command line as well. Viceroy is strict
// with backends and config stores only.
func TestWhatIsForOthersInAManifestIsIgnoredWithAWarning(t *testing.T) {
	f, problems := config.ReadFastly(manifest(t, `
[local_server]
address = "127.0.0.1:7676"
bakcends = {}
pushpin.prot = 1
rate_counter.x = {}
kv_stores.k = [{key = "a", data = "x", colour = 3}, {key = "a", data = "y"}]
secret_stores.s = [{key = "a", data = "x", note = "mine"}]
geolocation = {format = "inline-toml", addresses = {}, use_nothing = true}
shielding_sites.a = {encrypted = "https://a", unencrypted = "http://a", x = 1}
`))
	if len(problems) > 0 {
		t.Errorf("got problems\n%v", problems)
	}
	got := regexp.MustCompile(`(?m)^.*?fastly\.toml`).ReplaceAllString(f.Warnings.Error(), "")
	want := `:3: local_server.address: unknown key: it is ignored
:4: local_server.bakcends: unknown key; did you mean backends?: it is ignored
:6: local_server.rate_counter: unknown key: it is ignored`
	for _, line := range append(strings.Split(want, "\n"), ":5: local_server.pushpin.prot: unknown key", ":7: local_server.kv_stores.k[0].colour: unknown key",
		`:7: local_server.kv_stores.k[1].key "a": the key is there twice: the last one counts`, ":8: local_server.secret_stores.s[0].note: unknown key",
		":9: local_server.geolocation.use_nothing: unknown key", ":10: local_server.shielding_sites.a.x: unknown key") {
		if !strings.Contains(got, line) {
			t.Errorf("there is no warning %s in\n%s", line, got)
		}
	}
	if n := strings.Count(got, "\n") + 1; n != 9 {
		t.Errorf("got %d warnings, want 9:\n%s", n, got)
	}
	if items := f.Stores.KV["k"].Items; len(items) != 1 || string(items[0].Body) != "y" {
		t.Errorf("got items %v", items)
	}
}

func TestManifestTellsAllItsProblems(t *testing.T) {
	_, problems := config.ReadFastly(manifest(t, `
[local_server.backends.a]
url = "ftp://x"
grpc = 1
[local_server.backends.b]
colour = "red"
[local_server.kv_stores]
k = [{key = "a#"}]
`))
	if got := strings.Count(problems.Error(), "\n") + 1; got != 6 {
		t.Errorf("got %d problems, want 6:\n%s", got, problems.Error())
	}
}

func TestManifestThatIsNoTOMLHasItsPlace(t *testing.T) {
	for text, want := range map[string]string{
		"[local_server\n":                      ":1:",
		"a = 1\na = 2\n":                       ":2:",
		"[local_server.x]\n[local_server.x]\n": ":2:",
	} {
		path := manifest(t, text)
		_, problems := config.ReadFastly(path)
		if len(problems) != 1 || !strings.HasPrefix(problems.Error(), path+want) {
			t.Errorf("%q: got %v, want a problem at %s", text, problems, want)
		}
	}
	if _, problems := config.ReadFastly(filepath.Join(t.TempDir(), "fastly.toml")); len(problems) != 1 || !strings.Contains(problems.Error(), "no such file") {
		t.Errorf("got %v, want no such file", problems)
	}
}

func TestFilesOfAManifestStartAtTheWorkingDirectory(t *testing.T) {
	away := t.TempDir()
	path := write(t, filepath.Join(away, "fastly.toml"), "[local_server]\nacls.a = \"acl.json\"\n")
	write(t, filepath.Join(away, "acl.json"), `{"entries": []}`)
	here := t.TempDir()
	t.Chdir(here)
	_, problems := config.ReadFastly(path)
	here, _ = os.Getwd()
	if got := problems.Error(); len(problems) != 1 || !strings.Contains(got, "tried "+filepath.Join(here, "acl.json")) || !strings.Contains(got, "not at "+away) {
		t.Errorf("got %s, want where it was looked for, and that there is one beside the manifest", got)
	}
	t.Chdir(away)
	_, problems = config.ReadFastly(path)
	wantProblems(t, problems)
}

func TestASecretOfAnAbsentVariableIsWarnedAbout(t *testing.T) {
	path := manifest(t, "[local_server]\nsecret_stores.s = [{key = \"a\", env = \"GRIPWAY_TEST_ABSENT\"}]\n")
	f, problems := config.ReadFastly(path)
	wantProblems(t, problems)
	if want := path + `:2: local_server.secret_stores.s[0].env "GRIPWAY_TEST_ABSENT": there is no such variable`; len(f.Warnings) != 1 || !strings.HasPrefix(f.Warnings.Error(), want) {
		t.Errorf("got %v, want %s…", f.Warnings, want)
	}
}

// FuzzFastly: any text is read or refused, at one of its lines.
func FuzzFastly(f *testing.F) {
	f.Add("[local_server]\nbackends.a.url = \"x\"\n[[local_server.kv_stores.k]]\nkey = \"a\"\n")
	f.Add("local_server.secret_stores = {a = [{key = 1}], b = {format = \"json\"}}\n[local_server.geolocation]\nformat = \"inline-toml\"\naddresses = {\"::1\" = {a = {b.c = 1}}}")
	path := filepath.Join(f.TempDir(), "fastly.toml")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "file") || strings.Contains(text, "path") || strings.Contains(text, "acls") {
			return // no reading of files that the fuzzer names
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, problems := config.ReadFastly(path)
		for _, problem := range problems {
			if !strings.HasPrefix(problem.Error(), path) {
				t.Errorf("%q: got %q without its place", text, problem.Error())
			}
		}
	})
}
