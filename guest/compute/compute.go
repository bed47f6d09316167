// Package compute is the ABI of Fastly Compute: guests built with one of its SDKs
// run unmodified.
//
// A guest is a module with a function _start and imports from modules called
// fastly_*. It runs once for each request, asks for the request by hostcalls, and
// answers, or hands off to Fanout, by others. All functions of the ABI are defined;
// those that are not implemented answer that they are unsupported, which SDKs know
// how to deal with. What there is, is in the tables of calls at the head of each
// file, one file for each module.
//
//	compute.go   the ABI and a sandbox        call.go    parameters and results
//	abi.go       all functions there are      status.go  what they return
//	handles.go   what guests hold             async.go   what they wait for
//	body.go      what they read and write     header.go  heads
//	downstream.go requests from clients       send.go    requests to backends
//	handoff.go   what is left to the gateway
//	stores.go    what they look up by a name
package compute

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/gripway/gripway/guest"
	"github.com/gripway/gripway/guest/cache"
	"github.com/gripway/gripway/guest/cache/httpcache"
	"github.com/gripway/gripway/guest/store"
)

// Name is what the configuration calls this ABI.
const Name = "fastly-compute"

// ABI is guest.ABI for Compute.
type ABI struct{}

var _ guest.ABI = ABI{}

// Service is what belongs to one program and is shared by its sandboxes. It is
// guest.LoadOptions.Service.
type Service struct {
	// Backends are the origins it may use. Nil: none.
	Backends guest.Backends

	// Stores are config stores, KV stores and the like. Nil: none.
	Stores *store.Stores

	// Cache is where the core cache keeps objects. The zero value is one that only
	// this service has, of the default size.
	Cache cache.Space

	// HTTPCache lets requests pass through the cache, and guests drive it. Nil: they go
	// to the backends each time, and guests are told that it is unsupported, as with
	// Viceroy.
	HTTPCache *httpcache.Fetcher

	// Purge takes objects out of caches by their surrogate keys. Nil does so in Cache
	// and HTTPCache.
	Purge Purger

	// Limits are those of Fastly that it is held to.
	Limits Limits

	// Limited is told of each time that a guest is beyond one, with its name. Nil:
	// nobody is.
	Limited func(limit string)

	// FastlyKeys are the API keys that fastly_key_is_valid knows.
	FastlyKeys []string

	// Local says that the service is tried out: clients may say by X-Fastly-Bot-*
	// what bot management would.
	Local bool

	// Args follow the guest's name where it is run as a program.
	Args []string

	// Env replaces what Fastly sets in the environment, or is added to it.
	Env map[string]string

	// Log takes what the guest logs, with the name of the endpoint. Nil discards.
	Log *slog.Logger

	// Stdin is what the guest reads where it is run as a program; nil is empty.
	Stdin io.Reader

	// Stdout and Stderr take what the guest writes there, as it is. Nil: Log does,
	// line by line, as endpoints of these names.
	Stdout, Stderr io.Writer

	ownCache sync.Once // of Cache, if there is none
}

// Name is ABI.Name.
func (ABI) Name() string { return Name }

// Recognise is ABI.Recognise.
func (ABI) Recognise(m *guest.Module) bool {
	if !m.Exported("_start") {
		return false
	}
	for _, i := range m.Imports {
		if strings.HasPrefix(i.Module, "fastly_") || i.Module == "env" && strings.HasPrefix(i.Name, "xqd_") {
			return true
		}
	}
	return false
}

// Parks is guest.Parker.
func (ABI) Parks(module, name string) bool {
	return module == "fastly_http_req" && name == "body_downstream_get" || module == "env" && name == "xqd_req_body_downstream_get"
}

// implemented are the hostcalls there are, by module and name. All others of the
// ABI answer statusUnsupported.
var implemented = map[string]map[string]hostcall{
	"fastly_abi":              {"init": abiInit},
	"fastly_acl":              aclCalls,
	"fastly_cache":            cacheCalls,
	"fastly_http_cache":       httpCacheCalls,
	"fastly_compute_runtime":  computeRuntimeCalls,
	"fastly_config_store":     configStoreCalls,
	"fastly_device_detection": deviceDetectionCalls,
	"fastly_dictionary":       dictionaryCalls,
	"fastly_erl":              erlCalls,
	"fastly_geo":              geoCalls,
	"fastly_kv_store":         kvStoreCalls,
	"fastly_object_store":     objectStoreCalls,
	"fastly_purge":            purgeCalls,
	"fastly_shielding":        shieldingCalls,
	"fastly_secret_store":     secretStoreCalls,
	"fastly_async_io":         asyncCalls,
	"fastly_backend":          backendCalls,
	"fastly_http_body":        bodyCalls,
	"fastly_http_downstream":  downstreamCalls,
	"fastly_http_req":         requestCalls,
	"fastly_http_resp":        responseCalls,
	"fastly_log":              logCalls,
}

// abiVersion is the only one there has been.
const abiVersion = 1

// abiInit is what an SDK calls first, if it does.
func abiInit(c *call) status {
	if c.u64(0) != abiVersion {
		return statusError
	}
	return statusOK
}

// Define is ABI.Define.
func (ABI) Define(ctx context.Context, runtime wazero.Runtime) error {
	env := runtime.NewHostModuleBuilder("env")
	for _, m := range abi {
		builder := runtime.NewHostModuleBuilder(m.name)
		for _, f := range m.functions {
			do := implemented[m.name][f.name]
			if do == nil {
				do = func(*call) status { return statusUnsupported }
			}
			params := lowered(f.params)
			function := func(ctx context.Context, module api.Module, stack []uint64) {
				s := guest.FromContext(ctx)
				s.Called()
				b := s.Instance().(*sandbox)
				c := &b.call
				c.ctx, c.memory, c.stack = b.Context(), module.Memory(), stack
				stack[0] = uint64(do(c))
			}
			results := []api.ValueType{api.ValueTypeI32}
			builder.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(function), params, results).Export(f.name)
			for _, a := range aliases {
				if a.module == m.name && a.function == f.name {
					env.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(function), params, results).Export(a.name)
				}
			}
		}
		if _, err := builder.Instantiate(ctx); err != nil {
			return fmt.Errorf("module %s: %w", m.name, err)
		}
	}
	_, err := env.Instantiate(ctx)
	return err
}

// lowered are the types of a signature's parameters.
func lowered(params string) []api.ValueType {
	types := make([]api.ValueType, len(params))
	for i := range params {
		types[i] = api.ValueTypeI32
		if params[i] == 'l' {
			types[i] = api.ValueTypeI64
		}
	}
	return types
}

// sandbox is what belongs to one instance of a guest. It is owned by the guest's
// goroutine, but for what says otherwise.
type sandbox struct {
	*guest.Sandbox
	service *Service
	call    call

	// Requests from clients. Current is the one to be decided about; nil until the
	// guest has asked for it.
	current     *downstream
	downstreams map[uint32]*downstream // by the handle of the request
	promised    bool                   // a further one is waited for
	loopID      atomic.Uint64          // of the current request; for others
	trace       string                 // FASTLY_TRACE_ID: the id of the first, if it has no other

	// What the guest has handles of.
	requests  table[*request]
	responses table[*response]
	items     table[item]
	endpoints []string // of logs

	// What it sends.
	dynamic        map[string]guest.Backend // that it described, by name
	forwarded      []*pending               // for the client, whenever they are answered
	wantsAddresses bool                     // of who answers

	printed []*guest.Lines

	// What it opened of the service's stores.
	configs      opened[*store.Config]
	kvStores     opened[*store.KV]
	secretStores opened[map[string]store.Secret]
	secrets      opened[store.Secret]
	acls         opened[*store.ACL]
	kvPending    int           // calls of KV stores, at most kvPendingMax
	kvHeld       atomic.Int64  // bytes of their results that the guest has not taken, at most heldBytesMax
	kvUnread     []kvUnread    // calls that wait for bodies
	kvReading    chan struct{} // has one for each body that is read for an insert; made with the first

	// Waiting.
	wake     chan struct{} // of capacity 1: something may have become ready; never closed
	selected []item        // of the list that is waited for

	heads     int          // bytes in heads, or more; at most headsBytesMax
	held      int          // bytes in bodies, at most heldBytesMax
	exchanges atomic.Int32 // requests to backends under way, and answers not closed; at most exchangesMax

	spent spent // by the current request

	given atomic.Int64 // bytes of them that others have been given and not read, at most as many
}

// Open is ABI.Open.
func (ABI) Open(s *guest.Sandbox) guest.Instance {
	b := &sandbox{Sandbox: s, service: s.Program.Service().(*Service), wake: make(chan struct{}, 1)}
	b.call.sandbox = b
	b.requests.next, b.items.next = firstDownstream+1, firstDownstream+1
	m := s.Program.Module()
	b.wantsAddresses = m.Imported("fastly_http_resp", "get_addr_dest_ip") || m.Imported("fastly_http_resp", "get_addr_dest_port")
	return b
}

// held is what a guest holds before it has asked for a request, if it is to be held by
// others as well: what it opened by name, and the backends that it described.
type held struct {
	endpoints    []string
	configs      opened[*store.Config]
	kvStores     opened[*store.KV]
	secretStores opened[map[string]store.Secret]
	secrets      opened[store.Secret]
	acls         opened[*store.ACL]
	dynamic      []guest.BackendOptions

	// The next handles. What there was of requests, responses and bodies is gone, and
	// must not be taken for what comes.
	requests, responses, items uint32
}

// Keep is guest.Keeper.
func (b *sandbox) Keep() any {
	h := &held{
		endpoints: slices.Clone(b.endpoints), configs: b.configs.clone(), kvStores: b.kvStores.clone(), secretStores: b.secretStores.clone(),
		secrets: b.secrets.clone(), acls: b.acls.clone(), requests: b.requests.next, responses: b.responses.next, items: b.items.next,
	}
	for _, backend := range b.dynamic {
		h.dynamic = append(h.dynamic, backend.Options())
	}
	return h
}

// Kept is guest.Keeper.
func (b *sandbox) Kept(what any) {
	h, ok := what.(*held)
	if !ok {
		return
	}
	b.endpoints, b.configs, b.kvStores, b.secretStores = slices.Clone(h.endpoints), h.configs.clone(), h.kvStores.clone(), h.secretStores.clone()
	b.secrets, b.acls = h.secrets.clone(), h.acls.clone()
	b.requests.next, b.responses.next, b.items.next = h.requests, h.responses, h.items
	for _, options := range h.dynamic {
		if err := b.describe(options); err != nil {
			b.Log.Warn("a backend of the guest cannot be any more", "error", err)
		}
	}
}

// environment is what Fastly sets, with the values of a service that is tried out
// locally. Programs know by FASTLY_HOSTNAME that they are.
var environment = []struct{ name, value string }{
	{"FASTLY_CACHE_GENERATION", "0"},
	{"FASTLY_CUSTOMER_ID", "0000000000000000000000"},
	{"FASTLY_HOSTNAME", "localhost"},
	{"FASTLY_IS_STAGING", "0"},
	{"FASTLY_POP", "XXX"},
	{"FASTLY_REGION", "Somewhere"},
	{"FASTLY_SERVICE_ID", "0000000000000000000000"},
	{"FASTLY_SERVICE_VERSION", "0"},
}

// idCount names requests, and sandboxes after the first they get.
var idCount atomic.Uint64

// newID is a name that no other request of this process has.
func newID() string { return fmt.Sprintf("%032x", idCount.Add(1)) }

// Configure is guest.Instance.Configure.
func (b *sandbox) Configure(system *guest.System) {
	system.Args = append([]string{"compute-app"}, b.service.Args...)
	system.Stdin = b.service.Stdin
	env := make(map[string]string, len(environment)+len(b.service.Env)+1)
	for _, e := range environment {
		env[e.name] = e.value
	}
	b.trace = newID()
	env["FASTLY_TRACE_ID"] = b.trace
	maps.Copy(env, b.service.Env)
	for _, name := range slices.Sorted(maps.Keys(env)) {
		system.Env = append(system.Env, name+"="+env[name])
	}
	system.Stdout = b.output(b.service.Stdout, "stdout")
	system.Stderr = b.output(b.service.Stderr, "stderr")
}

// Run is guest.Instance.Run.
func (b *sandbox) Run(ctx context.Context, module api.Module) error {
	_, err := module.ExportedFunction("_start").Call(ctx)
	return err
}

// Finish is guest.Finisher.
func (b *sandbox) Finish() {
	b.awaitForwarded()
	b.awaitUnread()
}

// Close is guest.Instance.Close.
func (b *sandbox) Close() {
	for _, i := range b.items.live {
		i.drop(b)
	}
	for _, backend := range b.dynamic {
		backend.Close()
	}
	for _, lines := range b.printed {
		lines.Flush()
	}
}
