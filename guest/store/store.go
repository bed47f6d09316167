// Package store is what guests look up by a name: config stores, KV stores,
// secrets, access lists, geolocation, devices, rate counters and penalty boxes.
//
// It belongs to no ABI: each translates its own calls to these. What there is of
// one program is an Options, plain data as a manifest says it, and after Open a
// Stores, shared by all sandboxes of the program.
//
//	config.go  names and values          kv.go     keys and values that change
//	secret.go  values nobody may print   acl.go    networks and what to do with them
//	geo.go     where an address is       device.go what a User-Agent is
//	file.go    files that are edited while they are used
package store

import (
	"encoding/json"
	"net/netip"
)

// Options are all stores of a program, as its configuration says them. The zero
// value has none.
type Options struct {
	// Configs are config stores (old name: dictionaries), by name.
	Configs map[string]ConfigOptions

	// KV are key-value stores (old name: object stores), by name.
	KV map[string]KVOptions

	// Secrets are secret stores, by name, and their secrets by name.
	Secrets map[string]map[string]Secret

	// ACLs are files of access lists, by the list's name.
	ACLs map[string]string

	Geo     GeoOptions
	Devices DeviceOptions

	// Shields are the shielding sites, by name.
	Shields map[string]Shield
}

// ConfigOptions say where a config store's items are.
type ConfigOptions struct {
	// Items are its contents, unless there is a File.
	Items map[string]string

	// File is a JSON object of strings. It is read again when it changes.
	File string
}

// KVOptions say what a KV store is made of.
type KVOptions struct {
	// Items are there from the beginning. In a store that outlives the process
	// they are added only if there never was anything in it.
	Items []KVItem

	// Backend is where it is kept; empty is memory.
	Backend KVBackend

	// File is the database of KVFile.
	File string

	// Bucket is the name of the bucket of KVJetStream; empty is the store's. Replicas
	// is how many nodes have it, if it is new; 0 means one.
	Bucket   string
	Replicas int
}

// KVBackend is where a KV store is kept.
type KVBackend string

// Where a KV store may be kept.
const (
	KVMemory    KVBackend = "memory"    // gone with the process
	KVFile      KVBackend = "file"      // a file of this machine, for one process
	KVJetStream KVBackend = "jetstream" // NATS JetStream, shared by all nodes
)

// KVItem is one key of a KV store and what it has.
type KVItem struct {
	Key      string
	Body     []byte
	Metadata string
}

// GeoOptions say where addresses are.
type GeoOptions struct {
	// NoDefaultLoopback leaves loopback addresses unknown. Otherwise they are in
	// San Francisco, as in Fastly's own local server.
	NoDefaultLoopback bool

	// Addresses are documents by address, unless there is a File.
	Addresses map[netip.Addr]json.RawMessage

	// File is a JSON object of documents by address. It is read again when it
	// changes.
	File string

	// MaxMind are databases (.mmdb) that are asked about all other addresses, each
	// for what the ones before do not know. They are read again when they change.
	MaxMind []string
}

// DeviceOptions say what User-Agents are.
type DeviceOptions struct {
	// UserAgents are documents by User-Agent, unless there is a File.
	UserAgents map[string]json.RawMessage

	// File is a JSON object of documents by User-Agent. It is read again when it
	// changes.
	File string
}

// Shield is one shielding site.
type Shield struct {
	// Local: this is where the program runs.
	Local bool

	// Plain and TLS are the site's URLs, unless it is Local.
	Plain, TLS string
}
