package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/gripway/gripway/guest/store"
)

// storeTables are the tables that readStores knows.
var storeTables = map[string]bool{
	"config_stores": true, "dictionaries": true, "kv_stores": true, "object_stores": true, "object_store": true, "secret_stores": true,
	"acls": true, "geolocation": true, "device_detection": true, "shielding_sites": true,
}

// readStores reads the tables of named data within one: those of [local_server]
// in a fastly.toml, and of a [[guest]] in a gripway.toml, in the same words.
func readStores(t *table, into *store.Options) {
	for _, name := range []string{"config_stores", "dictionaries"} {
		if t := t.table(name); t != nil {
			t.each(func(name string, t *table) {
				if opts, ok := readConfigStore(t); ok {
					add(t, &into.Configs, name, opts)
				}
			})
		}
	}
	for _, name := range []string{"kv_stores", "object_stores", "object_store"} {
		if t := t.table(name); t != nil {
			for i := range t.value.fields {
				f := &t.value.fields[i]
				if opts, ok := readKVStore(t, f); ok {
					add(t.sub(f), &into.KV, f.key, opts)
				}
			}
		}
	}
	if t := t.table("secret_stores"); t != nil {
		for i := range t.value.fields {
			f := &t.value.fields[i]
			if err := store.CheckSecretName(f.key); err != nil {
				t.refuse(f.line, t.in(f.key), "", "%s", err)
				continue
			}
			add(t.sub(f), &into.Secrets, f.key, readSecretStore(t, f))
		}
	}
	if t := t.table("acls"); t != nil {
		for i := range t.value.fields {
			f := &t.value.fields[i]
			if file := readACL(t, f); file != "" {
				add(t.sub(f), &into.ACLs, f.key, file)
			}
		}
	}
	if t := t.table("geolocation"); t != nil {
		readGeolocation(t, &into.Geo)
	}
	if t := t.table("device_detection"); t != nil {
		readDeviceDetection(t, &into.Devices)
	}
	if t := t.table("shielding_sites"); t != nil {
		for i := range t.value.fields {
			f := &t.value.fields[i]
			if site, ok := readShield(t, f); ok {
				add(t.sub(f), &into.Shields, f.key, site)
			}
		}
	}
}

// sub is a field of any kind, for problems with it.
func (t *table) sub(f *field) *table {
	return &table{reading: t.reading, name: t.in(f.key), line: f.line}
}

// add puts a store into a map that may be nil.
func add[T any](t *table, all *map[string]T, name string, one T) {
	if *all == nil {
		*all = make(map[string]T)
	}
	if _, twice := (*all)[name]; twice {
		t.refuse(t.line, t.name, "", "there is one of that name under another name of this kind")
		return
	}
	(*all)[name] = one
}

// readChecked reads a file of a store and has it checked.
func (t *table) readChecked(key string, check func([]byte) error) string {
	name := t.file(key)
	if name == "" {
		if !t.said(key) {
			t.refuse(t.line, t.name, "", "want %s, the name of a JSON file", key)
		}
		return ""
	}
	data := t.content(t.lineOf(key), t.in(key), name, store.ReadFile)
	if data == nil {
		return ""
	}
	if err := check(data); err != nil {
		t.wrong(key, name, "%s", err)
		return ""
	}
	return name
}

// format is the key that says how a store is written.
func (t *table) format(words ...string) string {
	if !t.said("format") {
		t.refuse(t.line, t.name, "", "want format, one of %s", strings.Join(words, ", "))
	}
	return t.choice("format", "", words...)
}

func readConfigStore(t *table) (opts store.ConfigOptions, ok bool) {
	before := len(t.problems)
	switch t.format("inline-toml", "json") {
	case "inline-toml":
		opts.Items = make(map[string]string)
		contents := t.table("contents")
		if contents == nil {
			if !t.said("contents") {
				t.refuse(t.line, t.name, "", "want contents, a table of texts")
			}
			break
		}
		for _, f := range contents.value.fields {
			if f.value.kind != unstable.String {
				t.refuse(f.line, contents.in(f.key), f.value.text, "want a text in quotes")
				continue
			}
			if err := store.CheckConfig(map[string]string{f.key: f.value.text}); err != nil {
				t.refuse(f.line, contents.name, "", "%s", err)
			}
			opts.Items[f.key] = f.value.text
		}
	case "json":
		opts.File = t.readChecked("file", func(data []byte) error { _, err := store.ReadConfig(data); return err })
	default:
		t.take("contents")
		t.take("file")
	}
	t.doneStrictly("contents", "file")
	return opts, len(t.problems) == before
}

// readKVStore reads a list of items, {file, format}, or a table with a backend.
func readKVStore(t *table, f *field) (opts store.KVOptions, ok bool) {
	before := len(t.problems)
	name := t.in(f.key)
	seen := make(map[string]bool)
	switch f.value.kind {
	case unstable.Array:
		opts.Items = readKVItems(t, name, f, seen)
	case unstable.InlineTable:
		t := t.open(name, f)
		opts.Backend = store.KVBackend(t.choice("backend", "", string(store.KVMemory), string(store.KVFile), string(store.KVJetStream)))
		switch opts.Backend {
		case store.KVFile:
			if opts.File = t.file("path"); opts.File == "" && !t.said("path") {
				t.refuse(t.line, t.name, "", "want path, the file that the store is kept in")
			}
		case store.KVJetStream:
			if opts.Bucket = t.text("bucket"); opts.Bucket != "" && (checkToken(opts.Bucket) != nil || strings.Contains(opts.Bucket, ".")) {
				t.wrong("bucket", opts.Bucket, "want a name of letters, digits, - and _ only")
			} else if opts.Bucket == "" && (checkToken(f.key) != nil || strings.Contains(f.key, ".")) {
				t.refuse(t.line, t.name, "", "want bucket, a name of letters, digits, - and _ only: the store's cannot be one")
			}
			opts.Replicas = t.count("replicas", 0, 1, 5)
		}
		if items := t.take("items"); items != nil && items.value.kind == unstable.Array {
			opts.Items = readKVItems(t, t.in("items"), items, seen)
		} else if items != nil {
			t.wrong("items", items.value.text, "want a list of tables, like [{key = \"a\", data = \"1\"}]")
		}
		if t.said("file") || t.said("format") {
			if t.format("json") == "json" {
				for _, item := range readKVFile(t) {
					if seen[item.Key] {
						t.twice(t.lineOf("file"), t.in("file"), item.Key)
						opts.Items = slices.DeleteFunc(opts.Items, func(had store.KVItem) bool { return had.Key == item.Key })
					}
					seen[item.Key] = true
					opts.Items = append(opts.Items, item)
				}
			} else {
				t.take("file")
			}
		} else if !t.said("backend") && !t.said("items") {
			t.refuse(t.line, t.name, "", "want a list of items, or file and format = \"json\"")
		}
		t.done("file", "format", "path", "bucket", "replicas")
	default:
		t.refuse(f.line, name, f.value.text, "want a list of items, like [{key = \"a\", data = \"1\"}], or {file = \"…\", format = \"json\"}")
	}
	return opts, len(t.problems) == before
}

func readKVItems(t *table, name string, f *field, seen map[string]bool) []store.KVItem {
	var items []store.KVItem
	for i, v := range f.value.items {
		t := t.open(fmt.Sprintf("%s[%d]", name, i), &field{line: v.line, value: v})
		if t == nil {
			continue
		}
		item := store.KVItem{Key: t.anyText("key"), Metadata: t.anyText("metadata")}
		if !t.said("key") {
			t.refuse(t.line, t.name, "", "want a key")
		}
		item.Body = t.source("data", "file", "path")
		t.done()
		if t.said("key") && seen[item.Key] {
			t.twice(t.lineOf("key"), t.in("key"), item.Key)
			items = slices.DeleteFunc(items, func(had store.KVItem) bool { return had.Key == item.Key })
		}
		seen[item.Key] = true
		if err := store.CheckItem(item); err != nil && t.said("key") {
			t.wrong("key", item.Key, "%s", err)
		}
		items = append(items, item)
	}
	return items
}

// anyText is a text that may be empty.
func (t *table) anyText(key string) string {
	f := t.take(key)
	if f == nil {
		return ""
	}
	if f.value.kind != unstable.String {
		t.refuse(f.line, t.in(key), "", "want a text in quotes") // not repeated: it may be a secret
	}
	return f.value.text
}

// source is a value that is said in one of several ways: data as text; file and
// path as a file's name; env as a variable's.
func (t *table) source(ways ...string) (content []byte) {
	var said []string
	for _, way := range ways {
		if t.said(way) {
			said = append(said, way)
		}
		t.take(way)
	}
	if len(said) != 1 {
		what := "want one of " + strings.Join(ways, ", ")
		if len(said) > 1 {
			what = strings.Join(said, " and ") + ": want one of them"
		}
		t.refuse(t.line, t.name, "", "%s", what)
		return nil
	}
	switch way := said[0]; way {
	case "data":
		return []byte(t.anyText("data"))
	case "env":
		if name := t.text("env"); name != "" {
			value, set := os.LookupEnv(name)
			if !set { // it is empty then, as for Fastly
				t.warn(t.lineOf(way), t.in(way), name, "there is no such variable: the value is empty")
			}
			return []byte(value)
		}
	default:
		if name := t.file(way); name != "" {
			return t.content(t.lineOf(way), t.in(way), name, store.ReadFile)
		}
	}
	return nil
}

func readKVFile(t *table) (items []store.KVItem) {
	t.readChecked("file", func(data []byte) error {
		read, err := store.ReadKV(data)
		if err != nil {
			return err
		}
		for _, from := range read {
			item := store.KVItem{Key: from.Key, Body: []byte(from.Data), Metadata: from.Metadata}
			if from.File != "" {
				name := resolveFile(from.File, t.dir)
				if item.Body, err = store.ReadFile(name); err != nil {
					return fmt.Errorf("key %q: file %q cannot be read: %w%s", from.Key, name, err, t.tried(name))
				}
			}
			if err := store.CheckItem(item); err != nil {
				return fmt.Errorf("key %q: %w", from.Key, err)
			}
			items = append(items, item)
		}
		return nil
	})
	return items
}

// readSecretStore reads a list of secrets, or {file, format}. No value is ever
// part of a problem.
func readSecretStore(t *table, f *field) map[string]store.Secret {
	name := t.in(f.key)
	secrets := make(map[string]store.Secret)
	put := func(line int, where, key string, value []byte) {
		_, twice := secrets[key]
		err := store.CheckSecretName(key)
		switch {
		case err != nil:
			t.refuse(line, where, key, "%s", err)
		case twice:
			t.refuse(line, where, key, "it is there twice")
		case len(value) > store.SecretBytesMax:
			t.refuse(line, where, key, "it has %d bytes: want at most %d", len(value), store.SecretBytesMax)
		}
		secrets[key] = value
	}
	switch f.value.kind {
	case unstable.Array:
		for i, v := range f.value.items {
			where := fmt.Sprintf("%s[%d]", name, i)
			if v.kind != unstable.InlineTable {
				t.refuse(v.line, where, "", "want a table, like {key = \"a\", data = \"…\"}")
				continue
			}
			t := t.open(where, &field{line: v.line, value: v})
			key := t.anyText("key")
			if !t.said("key") {
				t.refuse(t.line, t.name, "", "want a key")
			}
			value := t.source("data", "file", "env")
			t.done()
			if t.said("key") {
				put(t.lineOf("key"), t.in("key"), key, value)
			}
		}
	case unstable.InlineTable:
		t := t.open(name, f)
		if t.format("json") == "json" {
			t.readChecked("file", func(data []byte) error {
				read, err := store.ReadSecrets(data)
				for key, value := range read {
					put(t.lineOf("file"), t.in("file"), key, value)
				}
				return err
			})
		}
		t.take("file")
		t.done()
	default:
		t.refuse(f.line, name, "", "want a list of secrets, like [{key = \"a\", env = \"A\"}], or {file = \"…\", format = \"json\"}")
	}
	return secrets
}

// readACL reads the name of a file, or {file}.
func readACL(t *table, f *field) string {
	switch f.value.kind {
	case unstable.String:
		// As if it were {file = …}, so that there is one way.
		f = &field{f.key, f.line, &value{kind: unstable.InlineTable, line: f.line, fields: []field{{"file", f.line, f.value}}}}
	case unstable.InlineTable:
	default:
		t.refuse(f.line, t.in(f.key), f.value.text, "want the name of a JSON file, or {file = \"…\"}")
		return ""
	}
	within := t.open(t.in(f.key), f)
	file := within.readChecked("file", store.CheckACL)
	within.done()
	return file
}

func readGeolocation(t *table, into *store.GeoOptions) {
	into.NoDefaultLoopback = !t.bool("use_default_loopback", true)
	switch t.someFormat("addresses", "inline-toml", "json", "maxmind") {
	case "inline-toml":
		addresses := t.required("addresses")
		if addresses == nil {
			break
		}
		into.Addresses = make(map[netip.Addr]json.RawMessage)
		for i := range addresses.value.fields {
			f := &addresses.value.fields[i]
			addr, err := netip.ParseAddr(f.key)
			if err != nil {
				t.refuse(f.line, addresses.in(f.key), "", "want an address, like \"192.0.2.1\" or \"2001:db8::1\"")
				continue
			}
			into.Addresses[addr] = addresses.document(f)
		}
	case "json":
		into.File = t.readChecked("file", func(data []byte) error { _, err := store.ReadGeo(data); return err })
	case "maxmind":
		f := t.take("file")
		switch {
		case f == nil:
			t.refuse(t.line, t.name, "", "want file, the name of a .mmdb file, or a list of them")
		case f.value.kind == unstable.String:
			into.MaxMind = []string{t.file("file")}
		default:
			for _, name := range t.texts("file", f) {
				into.MaxMind = append(into.MaxMind, resolveFile(name, t.dir))
			}
		}
		for _, name := range into.MaxMind {
			if err := store.CheckMaxMind(name); err != nil && name != "" {
				t.wrong("file", name, "%s%s", err, t.tried(name))
			}
		}
	}
	t.take("addresses")
	t.take("file")
	t.done()
}

func readDeviceDetection(t *table, into *store.DeviceOptions) {
	switch t.someFormat("user_agents", "inline-toml", "json") {
	case "inline-toml":
		userAgents := t.required("user_agents")
		if userAgents == nil {
			break
		}
		into.UserAgents = make(map[string]json.RawMessage)
		for i := range userAgents.value.fields {
			f := &userAgents.value.fields[i]
			into.UserAgents[f.key] = userAgents.document(f)
		}
	case "json":
		into.File = t.readChecked("file", func(data []byte) error { _, err := store.ReadDevices(data); return err })
	}
	t.take("user_agents")
	t.take("file")
	t.done()
}

// someFormat is which of several forms the data of a table has: "" if there is none, in
// a file or in the table of that name.
func (t *table) someFormat(inline string, words ...string) string {
	if !t.said("format") && (t.said("file") || t.said(inline)) {
		t.refuse(t.line, t.name, "", "want format, one of %s", strings.Join(words, ", "))
	}
	return t.choice("format", "", words...)
}

// required is a table that has to be there.
func (t *table) required(key string) *table {
	if !t.said(key) {
		t.refuse(t.line, t.name, "", "want %s, a table", key)
		return nil
	}
	return t.table(key)
}

// document is a table as JSON.
func (t *table) document(f *field) json.RawMessage {
	if f.value.kind != unstable.InlineTable {
		t.refuse(f.line, t.in(f.key), f.value.text, "want a table")
		return nil
	}
	data, err := json.Marshal(t.plain(t.in(f.key), f.value))
	if err != nil { // it is made of maps, texts and numbers only
		t.refuse(f.line, t.in(f.key), "", "%s", err)
	}
	return data
}

// plain is a value as encoding/json takes it.
func (t *table) plain(name string, v *value) any {
	switch v.kind {
	case unstable.String:
		return v.text
	case unstable.Bool:
		return v.text == "true"
	case unstable.Integer:
		return json.Number(v.text)
	case unstable.Float:
		x, err := strconv.ParseFloat(strings.ReplaceAll(v.text, "_", ""), 64)
		if err == nil && !math.IsInf(x, 0) && !math.IsNaN(x) {
			return x
		}
		t.refuse(v.line, name, v.text, "JSON has no such number")
		return nil
	case unstable.InlineTable:
		object := make(map[string]any)
		for _, f := range v.fields {
			object[f.key] = t.plain(dot(name, f.key), f.value)
		}
		return object
	}
	t.refuse(v.line, name, v.text, "want a text, a number, true or false, or a table")
	return nil
}

func readShield(t *table, f *field) (site store.Shield, ok bool) {
	if f.value.kind == unstable.String && strings.EqualFold(f.value.text, "local") {
		return store.Shield{Local: true}, true
	}
	if f.value.kind != unstable.InlineTable {
		t.refuse(f.line, t.in(f.key), f.value.text, "want \"Local\", or {encrypted = \"https://…\", unencrypted = \"http://…\"}")
		return site, false
	}
	within := t.open(t.in(f.key), f)
	before := len(t.problems)
	for _, of := range []struct {
		key  string
		into *string
	}{{"encrypted", &site.TLS}, {"unencrypted", &site.Plain}} {
		text := within.text(of.key)
		if !within.said(of.key) {
			t.refuse(within.line, within.name, "", "want %s, a URL", of.key)
			continue
		}
		u, err := url.Parse(text)
		if text != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
			within.wrong(of.key, text, "want a URL, like https://example.com")
			continue
		}
		*of.into = text
	}
	within.done()
	return site, len(t.problems) == before
}

// mergeStores adds stores to those of a manifest. What is in both is a problem.
func mergeStores(into *store.Options, more store.Options, where, manifest string) (problems Problems) {
	twice := func(kind string) {
		problems = append(problems, Problem{Where: where, What: kind + " is in " + manifest + " as well"})
	}
	merge(&into.Configs, more.Configs, "config store", twice)
	merge(&into.KV, more.KV, "KV store", twice)
	merge(&into.Secrets, more.Secrets, "secret store", twice)
	merge(&into.ACLs, more.ACLs, "ACL", twice)
	merge(&into.Shields, more.Shields, "shielding site", twice)
	if geo := more.Geo; geo.NoDefaultLoopback || geo.Addresses != nil || geo.File != "" || geo.MaxMind != nil {
		if have := into.Geo; have.Addresses != nil || have.File != "" || have.MaxMind != nil {
			twice("geolocation")
		}
		into.Geo = geo
	}
	if devices := more.Devices; devices.UserAgents != nil || devices.File != "" {
		if have := into.Devices; have.UserAgents != nil || have.File != "" {
			twice("device_detection")
		}
		into.Devices = devices
	}
	return problems
}

func merge[T any](into *map[string]T, more map[string]T, kind string, twice func(string)) {
	for _, name := range slices.Sorted(maps.Keys(more)) {
		if *into == nil {
			*into = make(map[string]T)
		}
		if _, there := (*into)[name]; there {
			twice(kind + " " + strconv.Quote(name))
		}
		(*into)[name] = more[name]
	}
}
