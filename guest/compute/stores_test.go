package compute

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gripway/gripway/guest"
	"github.com/gripway/gripway/guest/store"
)

// withStores runs a tester that has stores, and waits for it.
func withStores(t *testing.T, opts store.Options, run func(g *tester)) *store.Stores {
	t.Helper()
	stores, err := store.Open(opts, store.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stores.Close() })
	withService(t, &Service{Stores: stores}, run)
	return stores
}

func withService(t *testing.T, service *Service, run func(g *tester)) {
	t.Helper()
	ran := make(chan struct{})
	_, err := serve(t, service, nil, func(g *tester) {
		defer close(ran)
		run(g)
	})
	<-ran
	if err != nil && !errors.Is(err, guest.ErrUndecided) {
		t.Error(err)
	}
}

// name is the address and length of a text, and then other parameters.
func (g *tester) name(text string, more ...uint32) []uint32 {
	at, n := g.put(text)
	return append([]uint32{at, n}, more...)
}

// handle opens something by its name.
func (g *tester) handle(call, name string) uint32 {
	g.Helper()
	return g.result(call, g.name(name)...)
}

// buffered makes a hostcall whose last parameters are a buffer, its size, and where
// the number of bytes goes.
func (g *tester) buffered(size uint32, call string, params ...uint32) (text string, n uint32, st status) {
	g.Helper()
	at, written := g.room(int(size)), g.room(4)
	st = g.call(call, append(params, at, size, written)...)
	n = g.get32(written)
	return g.text(at, min(n, size)), n, st
}

// outside is an address that is not in the memory.
const outside = 0xffff_fff0

func TestConfigStoreAnswersByName(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.json")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"k": "first"}`)
	withStores(t, store.Options{Configs: map[string]store.ConfigOptions{
		"inline": {Items: map[string]string{"k": "välue", "empty": ""}}, "file": {File: file},
	}}, func(g *tester) {
		for _, module := range []string{"config_store", "dictionary"} {
			h := g.handle(module+".open", "inline")
			if again := g.handle(module+".open", "inline"); again != h {
				g.Errorf("%s: opened again it is %d, want %d", module, again, h)
			}
			if text, n, st := g.buffered(100, module+".get", append([]uint32{h}, g.name("k")...)...); text != "välue" || n != 6 || st != statusOK {
				g.Errorf("%s: got %q, %d, status %d", module, text, n, st)
			}
			if text, n, st := g.buffered(0, module+".get", append([]uint32{h}, g.name("empty")...)...); text != "" || n != 0 || st != statusOK {
				g.Errorf("%s: an empty value: got %q, %d, status %d", module, text, n, st)
			}
			if _, n, st := g.buffered(3, module+".get", append([]uint32{h}, g.name("k")...)...); n != 6 || st != statusBufferLen {
				g.Errorf("%s: a short buffer: got %d, status %d, want 6 and %d", module, n, st, statusBufferLen)
			}
			_, _, st := g.buffered(10, module+".get", append([]uint32{h}, g.name("x")...)...)
			_, _, stHandle := g.buffered(10, module+".get", append([]uint32{h + 9}, g.name("k")...)...)
			if st != statusNone || stHandle != statusBadHandle {
				g.Errorf("%s: got %d and %d, want none and a bad handle", module, st, stHandle)
			}
			g.want(statusBadHandle, module+".open", g.name("other", g.room(4))...)
			g.want(statusInvalid, module+".open", g.name("inline", outside)...)
			g.want(statusBadAlign, module+".open", g.name("inline", g.room(8)+1)...)
			g.want(statusInvalid, module+".open", outside, 100, g.room(4))
			g.want(statusInvalid, module+".open", g.name("\xff", g.room(4))...)
			g.want(statusInvalid, module+".get", append(append([]uint32{h}, g.name("k")...), outside, 100, g.room(4))...)
		}
		h := g.handle("config_store.open", "file")
		for _, want := range []string{"first", "again"} {
			if text, _, st := g.buffered(100, "config_store.get", append([]uint32{h}, g.name("k")...)...); text != want || st != statusOK {
				g.Errorf("got %q, status %d, want %q", text, st, want)
			}
			write(`{"k": "again"}`)
		}
	})
}

func TestSecretsAreForTheGuestAlone(t *testing.T) {
	var log bytes.Buffer
	stores, err := store.Open(store.Options{Secrets: map[string]map[string]store.Secret{"s": {"a": []byte("hunter2"), "empty": {}}}}, store.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer stores.Close()
	service := &Service{Stores: stores, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	withService(t, service, func(g *tester) {
		s := g.handle("secret_store.open", "s")
		get := func(name string) []uint32 { return append([]uint32{s}, g.name(name)...) }
		a := g.result("secret_store.get", get("a")...)
		if again := g.result("secret_store.get", get("a")...); again != a {
			g.Errorf("got handles %d and %d, want one", a, again)
		}
		if text, n, st := g.buffered(100, "secret_store.plaintext", a); text != "hunter2" || n != 7 || st != statusOK {
			g.Errorf("got %q, %d, status %d", text, n, st)
		}
		if text, n, st := g.buffered(3, "secret_store.plaintext", a); strings.Trim(text, "\x00") != "" || n != 7 || st != statusBufferLen {
			g.Errorf("a short buffer: got %q, %d, status %d", text, n, st)
		}
		at, n := g.put("made\x00here")
		made := g.result("secret_store.from_bytes", at, n)
		if text, _, st := g.buffered(100, "secret_store.plaintext", made); text != "made\x00here" || st != statusOK {
			g.Errorf("got %q, status %d", text, st)
		}
		g.want(statusNone, "secret_store.open", g.name("other", g.room(4))...)
		g.want(statusNone, "secret_store.get", append(get("b"), g.room(4))...)
		g.want(statusBadHandle, "secret_store.get", append(append([]uint32{s + 1}, g.name("a")...), g.room(4))...)
		_, _, st := g.buffered(100, "secret_store.plaintext", 99)
		if st != statusBadHandle {
			g.Errorf("got status %d, want a bad handle", st)
		}
		g.want(statusInvalid, "secret_store.from_bytes", outside, 100, g.room(4))
		g.want(statusLimit, "secret_store.from_bytes", g.room(store.SecretBytesMax+1), store.SecretBytesMax+1, g.room(4))
	})
	if strings.Contains(log.String(), "hunter2") {
		t.Errorf("the log has it: %s", log.String())
	}
}

func TestACLAnswersWithJSON(t *testing.T) {
	file := filepath.Join(t.TempDir(), "acl.json")
	text := `{"entries": [{"prefix": "192.0.2.0/24", "action": "BLOCK"}, {"prefix": "2001:db8::/32", "action": "ALLOW"}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	withStores(t, store.Options{ACLs: map[string]string{"l": file}}, func(g *tester) {
		h := g.handle("acl.open", "l")
		for _, c := range []struct{ addr, want string }{
			{"192.0.2.7", `{"prefix":"192.0.2.0/24","action":"BLOCK"}`}, {"2001:db8::1", `{"prefix":"2001:db8::/32","action":"ALLOW"}`}, {"198.51.100.1", ""},
		} {
			at, n := g.put(string(netip.MustParseAddr(c.addr).AsSlice()))
			body, found := g.room(4), g.room(4)
			g.must("acl.lookup", h, at, n, body, found)
			if c.want == "" {
				if got := g.get32(found); got != aclNoContent {
					g.Errorf("%s: got %d, want %d", c.addr, got, aclNoContent)
				}
				continue
			}
			if got, st := g.read(g.get32(body)); got != c.want || st != statusOK || g.get32(found) != aclFound {
				g.Errorf("%s: got %s, status %d, want %s", c.addr, got, st, c.want)
			}
		}
		g.want(statusNone, "acl.open", g.name("other", g.room(4))...)
		g.want(statusInvalid, "acl.lookup", h, g.room(8), 5, g.room(4), g.room(4))
		g.want(statusInvalid, "acl.lookup", h, outside, 16, g.room(4), g.room(4))
		g.want(statusBadHandle, "acl.lookup", h+1, g.room(4), 4, g.room(4), g.room(4))
		at, n := g.put("\xc0\x00\x02\x01")
		g.want(statusInvalid, "acl.lookup", h, at, n, outside, g.room(4))
	})
}

func TestGeoAndDevicesAnswerWithDocuments(t *testing.T) {
	withStores(t, store.Options{
		Geo:     store.GeoOptions{Addresses: map[netip.Addr]json.RawMessage{netip.MustParseAddr("192.0.2.1"): json.RawMessage(`{"city":"x"}`)}},
		Devices: store.DeviceOptions{UserAgents: map[string]json.RawMessage{"UA": json.RawMessage(`{"device":{}}`)}},
	}, func(g *tester) {
		for addr, want := range map[string]string{"192.0.2.1": `{"city":"x"}`, "192.0.2.2": "", "::1": `"city":"San Francisco"`} {
			at, n := g.put(string(netip.MustParseAddr(addr).AsSlice()))
			if got, _, st := g.buffered(1000, "geo.lookup", at, n); st != statusOK || !strings.Contains(got, want) || want == "" && got != "" {
				g.Errorf("%s: got %q, status %d, want %q", addr, got, st, want)
			}
		}
		at, _ := g.put("\xc0\x00\x02\x01")
		if _, n, st := g.buffered(5, "geo.lookup", at, 4); n != 12 || st != statusBufferLen {
			g.Errorf("got %d, status %d", n, st)
		}
		g.want(statusInvalid, "geo.lookup", at, 3, g.room(8), 8, g.room(4))
		if got, _, st := g.buffered(100, "device_detection.lookup", g.name("UA")...); got != `{"device":{}}` || st != statusOK {
			g.Errorf("got %q, status %d", got, st)
		}
		if _, _, st := g.buffered(100, "device_detection.lookup", g.name("ua")...); st != statusNone {
			g.Errorf("got status %d, want none", st)
		}
	})
}

func TestRatesAreSharedByAllSandboxes(t *testing.T) {
	stores, err := store.Open(store.Options{}, store.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer stores.Close()
	service := &Service{Stores: stores}
	check := func(g *tester, delta, limit uint32) uint32 {
		params := append(g.name("c"), g.name("entry", delta, 60, limit)...)
		return g.result("erl.check_rate", append(append(params, g.name("box")...), 60)...)
	}
	withService(t, service, func(g *tester) {
		g.must("erl.ratecounter_increment", append(g.name("c"), g.name("entry", 600)...)...)
		if got := check(g, 0, 10); got != 0 {
			g.Errorf("got %d, want not blocked", got)
		}
	})
	withService(t, service, func(g *tester) {
		if got := g.result("erl.ratecounter_lookup_rate", append(g.name("c"), g.name("entry", 60)...)...); got != 10 {
			g.Errorf("got a rate of %d, want 10", got)
		}
		if got := g.result("erl.ratecounter_lookup_count", append(g.name("c"), g.name("entry", 60)...)...); got != 600 {
			g.Errorf("got a count of %d, want 600", got)
		}
		if got := check(g, 1, 10); got != 1 {
			g.Errorf("got %d, want blocked", got)
		}
	})
	withService(t, service, func(g *tester) {
		if got := g.result("erl.penaltybox_has", append(g.name("box"), g.name("entry")...)...); got != 1 {
			g.Errorf("got %d, want it in the box", got)
		}
		if got := g.result("erl.penaltybox_has", append(g.name("box"), g.name("other")...)...); got != 0 {
			g.Errorf("got %d, want it not in the box", got)
		}
		g.must("erl.penaltybox_add", append(g.name("box"), g.name("other", 120)...)...)
		if got := g.result("erl.penaltybox_has", append(g.name("box"), g.name("other")...)...); got != 1 {
			g.Errorf("got %d, want it in the box", got)
		}
		g.want(statusInvalid, "erl.penaltybox_add", append(g.name("box"), g.name("other", 30)...)...)
		g.want(statusInvalid, "erl.ratecounter_increment", append(g.name("c"), g.name("entry", 1001)...)...)
		g.want(statusInvalid, "erl.ratecounter_lookup_rate", append(g.name("c"), g.name("entry", 5, g.room(4))...)...)
		g.want(statusInvalid, "erl.ratecounter_lookup_count", append(g.name("c"), g.name("entry", 5, g.room(4))...)...)
		g.want(statusInvalid, "erl.ratecounter_increment", outside, 100, g.room(4), 4, 1)
	})
}

func TestHeapAndCPUAreTheGuests(t *testing.T) {
	withStores(t, store.Options{}, func(g *tester) {
		if got := g.result("compute_runtime.get_heap_mib"); got != 4 { // 64 pages
			g.Errorf("got %d MiB, want 4", got)
		}
		at := g.room(8)
		g.must("compute_runtime.get_vcpu_ms", at)
		before := g.get64(at)
		g.b.Wait(func() { time.Sleep(200 * time.Millisecond) }) // as long as that, which does not count
		g.must("compute_runtime.get_vcpu_ms", at)
		if after := g.get64(at); after-before > 150 {
			g.Errorf("got %d ms while the guest waited", after-before)
		}
		for _, product := range []string{"domain_inspector", "image_optimizer", "origin_inspector"} {
			if got := g.result("compute_runtime.has_" + product); got != 0 {
				g.Errorf("%s: got %d, want 0: there is none", product, got)
			}
		}
		g.want(statusBadAlign, "compute_runtime.get_vcpu_ms", at+4)
		g.want(statusInvalid, "compute_runtime.get_heap_mib", outside)
	})
}

// purges records what it is asked.
type purges []string

func (p *purges) Purge(key string, softly bool) int {
	*p = append(*p, fmt.Sprint(key, " ", softly))
	return 1
}

func TestPurgesGoToTheCache(t *testing.T) {
	var asked purges
	withService(t, &Service{Purge: &asked}, func(g *tester) {
		g.must("purge.purge_surrogate_key", g.name("hard", 0, 0)...)
		g.must("purge.purge_surrogate_key", g.name("soft", purgeSoft, 0)...)
		record, buffer, written := g.room(12), g.room(200), g.room(4)
		g.memory.WriteUint32Le(record, buffer)
		g.memory.WriteUint32Le(record+4, 5)
		g.memory.WriteUint32Le(record+8, written)
		g.want(statusBufferLen, "purge.purge_surrogate_key", g.name("told", purgeReturn, record)...)
		g.memory.WriteUint32Le(record+4, g.get32(written))
		g.must("purge.purge_surrogate_key", g.name("told", purgeReturn, record)...)
		var answer struct{ Status, ID string }
		if err := json.Unmarshal([]byte(g.text(buffer, g.get32(written))), &answer); err != nil || answer.Status != "ok" || answer.ID == "" {
			g.Errorf("got %+v, %v", answer, err)
		}
		g.want(statusInvalid, "purge.purge_surrogate_key", g.name("two words", 0, 0)...)
		g.want(statusInvalid, "purge.purge_surrogate_key", g.name("", 0, 0)...)
		g.want(statusInvalid, "purge.purge_surrogate_key", g.name("x", 4, 0)...)
		g.want(statusInvalid, "purge.purge_surrogate_key", g.name("x", purgeReturn, outside)...)
		g.want(statusBadAlign, "purge.purge_surrogate_key", g.name("x", purgeReturn, record+1)...)
	})
	if want := "[hard false soft true told false]"; fmt.Sprint(asked) != want {
		t.Errorf("got %v, want %s", asked, want)
	}
	withService(t, &Service{}, func(g *tester) { // there is always one
		g.must("purge.purge_surrogate_key", g.name("x", 0, 0)...)
	})
}

// kvs are all kinds of KV stores that need nothing.
func kvs(t *testing.T) map[string]store.Options {
	items := []store.KVItem{{Key: "seed", Body: []byte("value"), Metadata: "meta"}}
	return map[string]store.Options{
		"memory": {KV: map[string]store.KVOptions{"s": {Items: items}}},
		"file":   {KV: map[string]store.KVOptions{"s": {Items: items, Backend: store.KVFile, File: filepath.Join(t.TempDir(), "kv.db")}}},
	}
}

// insertRecord is the options of an insert.
func (g *tester) insertRecord(mode uint32, metadata string, ttl uint32, generation uint64) uint32 {
	r := make([]byte, kvInsertBytes)
	at, n := g.put(metadata)
	binary.LittleEndian.PutUint32(r, mode)
	binary.LittleEndian.PutUint32(r[8:], at)
	binary.LittleEndian.PutUint32(r[12:], n)
	binary.LittleEndian.PutUint32(r[16:], ttl)
	binary.LittleEndian.PutUint64(r[24:], generation)
	to := g.room(kvInsertBytes)
	g.memory.Write(to, r)
	return to
}

// bodyWith makes a body of a text.
func (g *tester) bodyWith(text string) uint32 {
	h := g.result("http_body.new")
	if st := g.write(h, text); st != statusOK {
		g.Errorf("write: status %d", st)
	}
	return h
}

// insert stores a text and waits.
func (g *tester) insert(s uint32, key, text string, mask, record uint32) kvError {
	g.Helper()
	params := append(append([]uint32{s}, g.name(key)...), g.bodyWith(text), mask, record)
	return g.result("kv_store.insert_wait", g.result("kv_store.insert", params...))
}

// lookup looks a key up and waits.
func (g *tester) lookup(s uint32, key string) (text, metadata string, generation uint64, err kvError) {
	g.Helper()
	h := g.result("kv_store.lookup", append(append([]uint32{s}, g.name(key)...), 0, 0)...)
	body, buffer, n, gen, result := g.room(4), g.room(2000), g.room(4), g.room(8), g.room(4)
	g.must("kv_store.lookup_wait_v2", h, body, buffer, 2000, n, gen, result)
	if err = g.get32(result); err != kvOK {
		return "", "", 0, err
	}
	text, st := g.read(g.get32(body))
	if st != statusOK {
		g.Errorf("read: status %d", st)
	}
	return text, g.text(buffer, g.get32(n)), g.get64(gen), err
}

func TestKVStoreKeepsWhatGuestsInsert(t *testing.T) {
	for name, opts := range kvs(t) {
		t.Run(name, func(t *testing.T) {
			withStores(t, opts, func(g *tester) {
				s := g.handle("kv_store.open", "s")
				if text, metadata, _, err := g.lookup(s, "seed"); text != "value" || metadata != "meta" || err != kvOK {
					g.Errorf("got %q, %q, %d", text, metadata, err)
				}
				if _, _, _, err := g.lookup(s, "none"); err != kvNotFound {
					g.Errorf("got %d, want %d", err, kvNotFound)
				}
				plain := g.insertRecord(0, "", 0, 0)
				if err := g.insert(s, "k", "1", 0, plain); err != kvOK {
					g.Errorf("got %d", err)
				}
				for _, c := range []struct {
					mode uint32
					text string
					err  kvError
					want string
				}{{1, "x", kvPreconditionFailed, "1"}, {2, "2", kvOK, "12"}, {3, "0", kvOK, "012"}, {0, "new", kvOK, "new"}} {
					if err := g.insert(s, "k", c.text, kvInsertBackground, g.insertRecord(c.mode, "", 0, 0)); err != c.err {
						g.Errorf("mode %d: got %d, want %d", c.mode, err, c.err)
					}
					if text, _, _, _ := g.lookup(s, "k"); text != c.want {
						g.Errorf("mode %d: got %q, want %q", c.mode, text, c.want)
					}
				}
				_, _, generation, _ := g.lookup(s, "k")
				if err := g.insert(s, "k", "x", kvInsertIf, g.insertRecord(0, "", 0, generation+1)); err != kvPreconditionFailed {
					g.Errorf("another generation: got %d", err)
				}
				if err := g.insert(s, "k", "y", kvInsertIf|kvInsertMetadata, g.insertRecord(0, "mètadata", 0, generation)); err != kvOK {
					g.Errorf("the generation: got %d", err)
				}
				if text, metadata, _, _ := g.lookup(s, "k"); text != "y" || metadata != "mètadata" {
					g.Errorf("got %q, %q", text, metadata)
				}
				for range 2 { // what is not there can be deleted as well
					h := g.result("kv_store.delete", append(append([]uint32{s}, g.name("k")...), 0, 0)...)
					if err := g.result("kv_store.delete_wait", h); err != kvOK {
						g.Errorf("got %d", err)
					}
				}
				if _, _, _, err := g.lookup(s, "k"); err != kvNotFound {
					g.Errorf("got %d, want %d", err, kvNotFound)
				}
			})
		})
	}
}

func TestKVLookupComesAgainForItsMetadata(t *testing.T) {
	withStores(t, kvs(t)["memory"], func(g *tester) {
		s := g.handle("kv_store.open", "s")
		h := g.result("kv_store.lookup", append(append([]uint32{s}, g.name("seed")...), 0, 0)...)
		body, buffer, n, gen, result := g.room(4), g.room(8), g.room(4), g.room(8), g.room(4)
		g.want(statusBufferLen, "kv_store.lookup_wait", h, body, buffer, 3, n, gen, result)
		if g.get32(n) != 4 {
			g.Errorf("got %d bytes, want 4", g.get32(n))
		}
		g.memory.WriteUint64Le(gen, ^uint64(0))
		g.must("kv_store.lookup_wait", h, body, buffer, 4, n, gen, result)
		if got := g.get64(gen); got != 0xffffffff_00000000 {
			g.Errorf("got generation %x, want 32 bits of 0", got)
		}
		g.want(statusBadHandle, "kv_store.lookup_wait", h, body, buffer, 4, n, gen, result)
	})
}

func TestValuesThatNobodyReadsCount(t *testing.T) {
	withStores(t, kvs(t)["memory"], func(g *tester) {
		s := g.handle("kv_store.open", "s")
		lookup := func(want status) uint32 {
			h := g.result("kv_store.lookup", append(append([]uint32{s}, g.name("seed")...), 0, 0)...)
			body := g.room(4)
			g.want(want, "kv_store.lookup_wait", h, body, g.room(8), 8, g.room(4), g.room(8), g.room(4))
			return g.get32(body)
		}
		h := lookup(statusOK)
		if g.b.held != len("value") {
			g.Errorf("got %d bytes held, want 5", g.b.held)
		}
		g.b.held = heldBytesMax - 4
		lookup(statusLimit)
		g.b.held = len("value")
		if got, st := g.read(h); got != "value" || st != statusOK || g.b.held != 0 {
			g.Errorf("got %q, %d, and %d held", got, st, g.b.held)
		}
	})
}

func TestKVLists(t *testing.T) {
	for name, opts := range kvs(t) {
		t.Run(name, func(t *testing.T) {
			withStores(t, opts, func(g *tester) {
				s := g.handle("kv_store.open", "s")
				for i := range 7 {
					g.insert(s, fmt.Sprintf("p/%d", i), "", 0, g.insertRecord(0, "", 0, 0))
				}
				record := func(mode uint32, cursor string, limit uint32, prefix string) uint32 {
					at := g.room(kvListBytes)
					cursorAt, cursorN := g.put(cursor)
					prefixAt, prefixN := g.put(prefix)
					for i, v := range []uint32{mode, cursorAt, cursorN, limit, prefixAt, prefixN} {
						g.memory.WriteUint32Le(at+4*uint32(i), v)
					}
					return at
				}
				list := func(mask, record uint32) (page struct {
					Data []string
					Meta struct {
						Limit      int
						Prefix     string
						NextCursor string `json:"next_cursor"`
					}
				}, err kvError) {
					h := g.result("kv_store.list", s, mask, record)
					body, result := g.room(4), g.room(4)
					g.must("kv_store.list_wait", h, body, result)
					if err = g.get32(result); err == kvOK {
						text, _ := g.read(g.get32(body))
						if err := json.Unmarshal([]byte(text), &page); err != nil {
							g.Error(err)
						}
					}
					return page, err
				}
				var all []string
				cursor, mask := "", uint32(kvListLimit|kvListPrefix)
				for {
					page, err := list(mask, record(1, cursor, 3, "p/"))
					if err != kvOK || page.Meta.Limit != 3 || page.Meta.Prefix != "p/" {
						g.Fatalf("got %+v, %d", page, err)
					}
					all = append(all, page.Data...)
					if cursor = page.Meta.NextCursor; cursor == "" {
						break
					}
					mask |= kvListCursor
				}
				if got := strings.Join(all, " "); got != "p/0 p/1 p/2 p/3 p/4 p/5 p/6" {
					g.Errorf("got %s", got)
				}
				if page, err := list(0, record(0, "", 0, "")); err != kvOK || len(page.Data) != 8 || page.Meta.Limit != store.KVListDefault {
					g.Errorf("got %+v, %d", page, err)
				}
				if _, err := list(kvListCursor, record(0, "?", 0, "")); err != kvBadRequest {
					g.Errorf("a cursor that is none: got %d", err)
				}
				if _, err := list(kvListLimit, record(0, "", 0, "")); err != kvBadRequest {
					g.Errorf("a limit of 0: got %d", err)
				}
				g.want(statusInvalid, "kv_store.list", s, kvListPrefix, record(0, "", 0, ""), g.room(4))
				g.want(statusInvalid, "kv_store.list", s, kvListPrefix, record(0, "", 0, "\xff"), g.room(4))
				g.want(statusInvalid, "kv_store.list", s, 16, record(0, "", 0, ""), g.room(4))
				g.want(statusInvalid, "kv_store.list", s, 0, record(2, "", 0, ""), g.room(4))
				g.want(statusBadAlign, "kv_store.list", s, 0, record(0, "", 0, "")+1, g.room(4))
				g.want(statusBadHandle, "kv_store.list", s+1, 0, record(0, "", 0, ""), g.room(4))
			})
		})
	}
}

func TestKVStoreAnswersMistakesWithAStatus(t *testing.T) {
	withStores(t, kvs(t)["memory"], func(g *tester) {
		s := g.handle("kv_store.open", "s")
		out := g.room(8)
		plain := g.insertRecord(0, "", 0, 0)
		key := func(h uint32, text string, more ...uint32) []uint32 {
			return append(append([]uint32{h}, g.name(text)...), more...)
		}
		body := g.bodyWith("x")
		for _, c := range []struct {
			want   status
			name   string
			params []uint32
		}{
			{statusInvalid, "kv_store.open", g.name("other", out)},
			{statusInvalid, "object_store.open", g.name("other", out)},
			{statusInvalid, "kv_store.open", g.name("s", outside)},
			{statusBadHandle, "kv_store.lookup", key(s+1, "k", 0, 0, out)},
			{statusInvalid, "kv_store.lookup", key(s, "", 0, 0, out)},
			{statusInvalid, "kv_store.lookup", key(s, "a#", 0, 0, out)},
			{statusInvalid, "kv_store.lookup", key(s, "\xff", 0, 0, out)},
			{statusInvalid, "kv_store.lookup", key(s, "k", 2, 0, out)},
			{statusBadAlign, "kv_store.lookup", key(s, "k", 0, 0, out+1)},
			{statusInvalid, "kv_store.lookup", key(s, "k", 0, 0, outside)},
			{statusInvalid, "kv_store.lookup", []uint32{s, outside, 100, 0, 0, out}},
			{statusBadHandle, "kv_store.delete", key(s+1, "k", 0, 0, out)},
			{statusInvalid, "kv_store.delete", key(s, "..", 0, 0, out)},
			{statusInvalid, "kv_store.delete", key(s, "k", 8, 0, out)},
			{statusInvalid, "kv_store.insert", key(s, "a#", body, 0, plain, out)},
			{statusInvalid, "kv_store.insert", key(s, "k", body, 64, plain, out)},
			{statusInvalid, "kv_store.insert", key(s, "k", body, 0, g.insertRecord(4, "", 0, 0), out)},
			{statusInvalid, "kv_store.insert", key(s, "k", body, kvInsertMetadata, plain, out)},
			{statusInvalid, "kv_store.insert", key(s, "k", body, kvInsertMetadata, g.insertRecord(0, "\xff", 0, 0), out)},
			{statusInvalid, "kv_store.insert", key(s, "k", body, kvInsertTTL, plain, out)},
			{statusBadAlign, "kv_store.insert", key(s, "k", body, 0, plain+4, out)},
			{statusInvalid, "kv_store.insert", key(s, "k", body, 0, outside&^7, out)},
			{statusBadHandle, "kv_store.insert", key(s+1, "k", body, 0, plain, out)},
			{statusBadHandle, "kv_store.insert", key(s, "k", 99, 0, plain, out)},
			{statusBadHandle, "kv_store.insert_wait", []uint32{99, out}},
			{statusBadHandle, "kv_store.insert_wait", []uint32{body, out}},
			{statusBadHandle, "kv_store.list_wait", []uint32{body, out, out}},
			{statusBadHandle, "object_store.insert", key(s, "k", 99)},
			{statusBadHandle, "object_store.pending_lookup_wait", []uint32{99, out}},
		} {
			if got := g.call(c.name, c.params...); got != c.want {
				g.Errorf("%s%v: got status %d, want %d", c.name, c.params, got, c.want)
			}
		}
		// None of them used the body up.
		if text, st := g.read(body); text != "x" || st != statusOK {
			g.Errorf("got %q, status %d", text, st)
		}
		// A call of one kind is none of another.
		h := g.result("kv_store.lookup", key(s, "seed", 0, 0)...)
		g.want(statusBadHandle, "kv_store.delete_wait", h, out)
		g.want(statusBadHandle, "object_store.pending_insert_wait", h)
		g.want(statusInvalid, "kv_store.lookup_wait_v2", h, outside, g.room(10), 10, g.room(4), g.room(8), g.room(4))
	})
}

func TestObjectStoreIsTheSameStore(t *testing.T) {
	for name, opts := range kvs(t) {
		t.Run(name, func(t *testing.T) {
			withStores(t, opts, func(g *tester) {
				s := g.handle("object_store.open", "s")
				if kv := g.handle("kv_store.open", "s"); kv != s {
					g.Errorf("got handles %d and %d, want one", kv, s)
				}
				key := func(text string, more ...uint32) []uint32 {
					return append(append([]uint32{s}, g.name(text)...), more...)
				}
				if text, _ := g.read(g.result("object_store.lookup", key("seed")...)); text != "value" {
					g.Errorf("got %q", text)
				}
				if h := g.result("object_store.lookup", key("none")...); h != noHandle {
					g.Errorf("got handle %d, want none", h)
				}
				g.must("object_store.insert", key("k", g.bodyWith("1"))...)
				g.must("object_store.pending_insert_wait", g.result("object_store.insert_async", key("l", g.bodyWith("2"))...))
				for k, want := range map[string]string{"k": "1", "l": "2"} {
					h := g.result("object_store.lookup_async", key(k)...)
					if text, _ := g.read(g.result("object_store.pending_lookup_wait", h)); text != want {
						g.Errorf("%s: got %q, want %q", k, text, want)
					}
				}
				h := g.result("object_store.lookup_async", key("none")...)
				if body := g.result("object_store.pending_lookup_wait", h); body != noHandle {
					g.Errorf("got handle %d, want none", body)
				}
				g.must("object_store.pending_delete_wait", g.result("object_store.delete_async", key("k")...))
				g.want(statusNone, "object_store.pending_delete_wait", g.result("object_store.delete_async", key("k")...))
				g.want(statusInvalid, "object_store.lookup", key("a?", g.room(4))...)
			})
		})
	}
}

// gate is a shelf whose calls wait until it is open.
type gate struct {
	store.Shelf
	open  chan struct{}
	began atomic.Int32
}

func (s *gate) wait(ctx context.Context) error {
	s.began.Add(1)
	select {
	case <-s.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *gate) Get(ctx context.Context, key string) ([]byte, uint64, bool, error) {
	if err := s.wait(ctx); err != nil {
		return nil, 0, false, err
	}
	return s.Shelf.Get(ctx, key)
}

func (s *gate) Put(ctx context.Context, key string, data []byte, expires time.Time) error {
	if err := s.wait(ctx); err != nil {
		return err
	}
	return s.Shelf.Put(ctx, key, data, expires)
}

// gated are stores of which s waits.
func gated(t *testing.T) (*store.Stores, *gate) {
	t.Helper()
	g := &gate{Shelf: store.NewMemory(0), open: make(chan struct{})}
	stores, err := store.Open(store.Options{KV: map[string]store.KVOptions{"s": {Backend: store.KVJetStream, Bucket: "b"}}}, store.OpenOptions{
		Shelves: &store.Shelves{JetStream: func(bucket string, _ int) (store.Shelf, bool, error) {
			if bucket != "b" {
				t.Errorf("got bucket %q", bucket)
			}
			return g, true, nil
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return stores, g
}

func TestKVCallsAreWaitedForWithAsyncIO(t *testing.T) {
	stores, shelf := gated(t)
	withService(t, &Service{Stores: stores}, func(g *tester) {
		s := g.handle("kv_store.open", "s")
		h := g.result("kv_store.lookup", append(append([]uint32{s}, g.name("k")...), 0, 0)...)
		if got := g.result("async_io.is_ready", h); got != 0 {
			g.Error("it is ready before it can be")
		}
		at, n := g.list(h)
		if got := g.result("async_io.select", at, n, 10); got != noIndex {
			g.Errorf("got %d, want a timeout", got)
		}
		close(shelf.open)
		if got := g.result("async_io.select", at, n, 0); got != 0 {
			g.Errorf("got %d, want the first", got)
		}
		result := g.room(4)
		g.must("kv_store.lookup_wait_v2", h, g.room(4), g.room(4), 4, g.room(4), g.room(8), result)
		if got := g.get32(result); got != kvNotFound {
			g.Errorf("got %d, want %d", got, kvNotFound)
		}
	})
}

func TestWhatAGuestStoresOfAStreamIsThereForIt(t *testing.T) {
	for name, opts := range kvs(t) {
		t.Run(name, func(t *testing.T) {
			withStores(t, opts, func(g *tester) {
				s := g.handle("kv_store.open", "s")
				key := func(text string, more ...uint32) []uint32 {
					return append(append([]uint32{s}, g.name(text)...), more...)
				}
				plain := g.insertRecord(0, "", 0, 0)
				r, w := io.Pipe()
				stream, _ := g.b.items.add(bodyFrom(r, -1, nil))
				first := g.result("kv_store.insert", key("k", stream, 0, plain)...)
				found := g.result("kv_store.lookup", key("k", 0, 0)...)
				second := g.result("kv_store.insert", key("k", g.bodyWith("second"), 0, plain)...)
				again := g.result("kv_store.lookup", key("k", 0, 0)...)
				deleted := g.result("kv_store.delete", key("k", 0, 0)...)
				list := g.result("kv_store.list", s, 0, g.room(kvListBytes))
				if got := g.result("kv_store.insert_wait", g.result("kv_store.insert", key("other", g.bodyWith("x"), 0, plain)...)); got != kvOK {
					g.Errorf("another key has to wait: error %d", got)
				}
				for _, h := range []uint32{first, found, second, again, deleted, list} {
					if g.result("async_io.is_ready", h) != 0 {
						g.Error("it is done before the body has come")
					}
				}
				go func() {
					w.Write([]byte("first"))
					w.Close()
				}()
				value := func(h uint32) string {
					at := g.room(24)
					g.must("kv_store.lookup_wait_v2", h, at, at+4, 0, at+8, at+16, at+4)
					text, _ := g.read(g.get32(at))
					return text
				}
				if a, b := value(found), value(again); a != "first" || b != "second" {
					g.Errorf("got %q and %q, want what was stored before each", a, b)
				}
				for call, h := range map[string]uint32{"insert": first, "insert ": second, "delete": deleted} {
					if got := g.result("kv_store."+strings.TrimSpace(call)+"_wait", h); got != kvOK {
						g.Errorf("%s: error %d", call, got)
					}
				}
				at := g.room(8)
				g.must("kv_store.list_wait", list, at, at+4)
				if text, _ := g.read(g.get32(at)); !strings.Contains(text, `"other"`) || strings.Contains(text, `"k"`) {
					g.Errorf("got %s, want a list of what was there after all", text)
				}
			})
		})
	}
}

func TestWhatAGuestStoresOfAStreamIsKeptThoughItEnds(t *testing.T) {
	ended := make(chan struct{})
	stores := withStores(t, store.Options{KV: map[string]store.KVOptions{"s": {}}}, func(g *tester) {
		defer close(ended)
		s := g.handle("kv_store.open", "s")
		for i := range 2 * kvReadingMax { // more than are read at once
			r, w := io.Pipe()
			go func() {
				<-ended
				time.Sleep(10 * time.Millisecond) // the sandbox has time to end
				w.Write([]byte("late"))
				w.Close()
			}()
			stream, _ := g.b.items.add(bodyFrom(r, -1, nil))
			g.must("kv_store.insert", append(append([]uint32{s}, g.name(fmt.Sprint("k", i))...), stream, 0, g.insertRecord(0, "", 0, 0), g.room(4))...)
		}
	})
	withService(t, &Service{Stores: stores}, func(g *tester) {
		s := g.handle("kv_store.open", "s")
		for i := range 2 * kvReadingMax {
			h := g.result("object_store.lookup", append([]uint32{s}, g.name(fmt.Sprint("k", i))...)...)
			if text, _ := g.read(h); text != "late" {
				g.Errorf("k%d: got %q", i, text)
			}
		}
	})
}

func TestKVCallsUnderWayAreLimited(t *testing.T) {
	stores, shelf := gated(t)
	withService(t, &Service{Stores: stores}, func(g *tester) {
		s := g.handle("kv_store.open", "s")
		key := append([]uint32{s}, g.name("k")...)
		var handles []uint32
		for range kvPendingMax {
			handles = append(handles, g.result("kv_store.delete", append(key, 0, 0)...))
		}
		over := g.result("kv_store.delete", append(key, 0, 0)...)
		if got := g.result("kv_store.delete_wait", over); got != kvTooManyRequests {
			g.Errorf("got %d, want %d", got, kvTooManyRequests)
		}
		close(shelf.open)
		for _, h := range handles {
			if got := g.result("kv_store.delete_wait", h); got != kvOK {
				g.Errorf("got %d", got)
			}
		}
		again := g.result("kv_store.delete", append(key, 0, 0)...)
		if got := g.result("kv_store.delete_wait", again); got != kvOK {
			g.Errorf("got %d after the others ended", got)
		}
		list := g.result("kv_store.list", s, 0, g.room(kvListBytes))
		g.must("kv_store.list_wait", list, g.room(4), g.room(4))
		if held := g.b.kvHeld.Load(); held != 0 {
			g.Errorf("%d bytes of a list that was taken are still counted", held)
		}
	})
}

// Values that were looked up and not taken are the host's memory, as bodies are.
func TestKVResultsThatAreNotTakenAreLimited(t *testing.T) {
	for name, opts := range kvs(t) {
		t.Run(name, func(t *testing.T) {
			stores := withStores(t, opts, func(g *tester) {
				s := g.handle("kv_store.open", "s")
				value, _ := g.b.items.add(bodyOf(make([]byte, store.KVValueMax)))
				insert := g.result("kv_store.insert", append(append([]uint32{s}, g.name("k")...), value, 0, g.insertRecord(0, "", 0, 0))...)
				if got := g.result("kv_store.insert_wait", insert); got != kvOK {
					g.Fatalf("insert: error %d", got)
				}
			})
			withService(t, &Service{Stores: stores}, func(g *tester) {
				s := g.handle("kv_store.open", "s")
				lookup := func() uint32 {
					return g.result("kv_store.lookup", append(append([]uint32{s}, g.name("k")...), 0, 0)...)
				}
				at := g.room(24)
				wait := func(h uint32) (st status, err kvError) {
					g.memory.WriteUint32Le(at+4, 99)
					st = status(g.call("kv_store.lookup_wait_v2", h, at, at+8, 0, at+12, at+16, at+4))
					return st, g.get32(at + 4)
				}
				const fit = heldBytesMax / store.KVValueMax
				var handles []uint32
				for range fit {
					handles = append(handles, lookup())
				}
				for _, h := range handles { // all that were begun have come
					list, n := g.list(h)
					g.must("async_io.select", list, n, 0, g.room(4))
				}
				if _, err := wait(lookup()); err != kvTooManyRequests {
					g.Errorf("one more: got %d, want %d", err, kvTooManyRequests)
				}
				// What the guest takes counts with its bodies, and no more here.
				for _, h := range handles {
					if st, err := wait(h); st != statusOK || err != kvOK {
						g.Fatalf("got %v, error %d", st, err)
					}
				}
				late := lookup()
				if st, _ := wait(late); st != statusLimit {
					g.Errorf("one more body: got %v, want %v", st, statusLimit)
				}
				g.must("http_body.close", g.get32(at))
				if st, err := wait(late); st != statusOK || err != kvOK {
					g.Errorf("with room for it: got %v, error %d", st, err)
				}
				if held := g.b.kvHeld.Load(); held != 0 {
					g.Errorf("%d bytes are still counted", held)
				}
			})
		})
	}
}

func TestAnInsertIsFinishedWithoutItsGuest(t *testing.T) {
	stores, shelf := gated(t)
	withService(t, &Service{Stores: stores}, func(g *tester) {
		s := g.handle("kv_store.open", "s")
		g.result("kv_store.insert", append(append([]uint32{s}, g.name("k")...), g.bodyWith("kept"), 0, g.insertRecord(0, "", 0, 0))...)
		g.result("kv_store.lookup", append(append([]uint32{s}, g.name("k")...), 0, 0)...) // nobody waits for it
	})
	close(shelf.open)
	kv := stores.KV["s"]
	if err := stores.Close(); err != nil { // waits
		t.Fatal(err)
	}
	if value, err := kv.Lookup(t.Context(), "k"); err != nil || string(value.Body) != "kept" {
		t.Errorf("got %q, %v, want what was inserted", value.Body, err)
	}
}

// piece is a reader that hands out a text and then an error.
type piece struct {
	text string
	end  error
}

func (p *piece) Read(b []byte) (int, error) {
	if p.text == "" {
		return 0, p.end
	}
	n := copy(b, p.text)
	p.text = p.text[n:]
	return n, nil
}
func (p *piece) Close() error { return nil }

func TestABodyThatBreaksOffIsNotStored(t *testing.T) {
	for name, opts := range kvs(t) {
		t.Run(name, func(t *testing.T) {
			withStores(t, opts, func(g *tester) {
				s := g.handle("kv_store.open", "s")
				insert := func(key string, end error) kvError {
					h, st := g.b.items.add(bodyFrom(&piece{"read", end}, -1, nil))
					if st != statusOK {
						g.Fatal(st)
					}
					params := append(append([]uint32{s}, g.name(key)...), h, 0, g.insertRecord(0, "", 0, 0))
					return g.result("kv_store.insert_wait", g.result("kv_store.insert", params...))
				}
				if err := insert("broken", errors.New("broken off")); err != kvBadRequest {
					g.Errorf("got %d, want %d", err, kvBadRequest)
				}
				if _, _, _, err := g.lookup(s, "broken"); err != kvNotFound {
					g.Errorf("got %d, want nothing stored", err)
				}
				if err := insert("whole", io.EOF); err != kvOK {
					g.Errorf("got %d", err)
				}
				if text, _, _, _ := g.lookup(s, "whole"); text != "read" {
					g.Errorf("got %q", text)
				}
			})
		})
	}
}

// broken is a shelf that always fails.
type broken struct{ store.Shelf }

func (broken) Get(context.Context, string) ([]byte, uint64, bool, error) {
	return nil, 0, false, errors.New("the disk is gone")
}

func TestAStoreThatFailsIsTold(t *testing.T) {
	var log bytes.Buffer
	failed := 0
	stores, err := store.Open(store.Options{KV: map[string]store.KVOptions{"s": {Backend: store.KVJetStream}}}, store.OpenOptions{
		Shelves: &store.Shelves{JetStream: func(string, int) (store.Shelf, bool, error) { return broken{store.NewMemory(0)}, true, nil }},
		Log:     slog.New(slog.NewTextHandler(&log, nil)),
		Failed:  func() { failed++ },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stores.Close()
	withService(t, &Service{Stores: stores}, func(g *tester) {
		s := g.handle("kv_store.open", "s")
		if _, _, _, err := g.lookup(s, "k"); err != kvInternal {
			g.Errorf("got %d, want %d", err, kvInternal)
		}
		g.want(statusError, "object_store.lookup", append(append([]uint32{s}, g.name("k")...), g.room(4))...)
	})
	if failed != 2 || !strings.Contains(log.String(), "the disk is gone") {
		t.Errorf("got %d failures and the log %q", failed, log.String())
	}
}

func TestManySandboxesShareTheStores(t *testing.T) {
	opts := kvs(t)["file"]
	opts.KV["m"] = store.KVOptions{}
	opts.Configs = map[string]store.ConfigOptions{"c": {Items: map[string]string{"k": "v"}}}
	stores, err := store.Open(opts, store.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer stores.Close()
	service := &Service{Stores: stores}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			withService(t, service, func(g *tester) {
				c := g.handle("config_store.open", "c")
				for _, name := range []string{"s", "m"} {
					s := g.handle("kv_store.open", name)
					for range 5 {
						if err := g.insert(s, "k", "x", 0, g.insertRecord(2, "", 0, 0)); err != kvOK {
							g.Errorf("%s: got %d", name, err)
						}
						g.lookup(s, "k")
						g.buffered(10, "config_store.get", append([]uint32{c}, g.name("k")...)...)
						g.must("erl.ratecounter_increment", append(g.name("c"), g.name("e", 1)...)...)
					}
				}
			})
		})
	}
	all.Wait()
	for _, name := range []string{"s", "m"} {
		if value, err := stores.KV[name].Lookup(t.Context(), "k"); err != nil || len(value.Body) != 20 {
			t.Errorf("%s: got %q, %v, want 20 letters", name, value.Body, err)
		}
	}
}
