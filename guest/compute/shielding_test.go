package compute

import (
	"testing"

	"github.com/gripway/gripway/guest/store"
)

func TestShieldsLeadToTheirSites(t *testing.T) {
	stores, err := store.Open(store.Options{Shields: map[string]store.Shield{
		"here": {Local: true}, "there": {Plain: "http://there.example", TLS: "https://there.example:8443/base/"},
	}}, store.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer stores.Close()
	backends := &fakeBackends{}
	withService(t, &Service{Stores: stores, Backends: backends}, func(g *tester) {
		if info, n, st := g.buffered(100, "shielding.shield_info", g.name("here")...); info != "\x01\x00\x00" || n != 3 || st != statusOK {
			g.Errorf("got %q, %d, status %d", info, n, st)
		}
		const want = "\x00http://there.example/\x00https://there.example:8443/base/\x00"
		if info, _, st := g.buffered(100, "shielding.shield_info", g.name("there")...); info != want || st != statusOK {
			g.Errorf("got %q, status %d, want %q", info, st, want)
		}
		if _, n, st := g.buffered(5, "shielding.shield_info", g.name("there")...); int(n) != len(want) || st != statusBufferLen {
			g.Errorf("a short buffer: got %d, status %d", n, st)
		}
		if _, _, st := g.buffered(100, "shielding.shield_info", g.name("nowhere")...); st != statusInvalid {
			g.Errorf("got status %d, want invalid", st)
		}

		record := g.room(shieldRecordBytes)
		g.memory.WriteUint32Le(record+8, 1500)
		g.memory.WriteUint32Le(record+12, 250)
		options := func(name string, mask uint32) []uint32 { return g.name(name, mask, record) }
		if _, _, st := g.buffered(3, "shielding.backend_for_shield", options("there", 0)...); st != statusBufferLen || len(backends.opened) != 0 {
			g.Errorf("a short buffer: got status %d and %d backends, want none", st, len(backends.opened))
		}
		name, _, st := g.buffered(200, "shielding.backend_for_shield", options("there", shieldFirstByte|shieldBetweenBytes)...)
		if st != statusOK || len(backends.opened) != 1 {
			g.Fatalf("got %q, status %d, %d backends", name, st, len(backends.opened))
		}
		o := backends.opened[0].options
		if o.Address != "there.example:8443" || o.PathPrefix != "/base" || !o.TLS || !o.Dynamic || o.FirstByteTimeout.Milliseconds() != 1500 || o.BetweenBytesTimeout.Milliseconds() != 250 {
			g.Errorf("got %+v", o)
		}
		if again, _, st := g.buffered(200, "shielding.backend_for_shield", options("https://there.example:8443/base/", 0)...); again != name || st != statusOK || len(backends.opened) != 1 {
			g.Errorf("by its URL: got %q, status %d, %d backends, want the same one", again, st, len(backends.opened))
		}
		if got := g.result("backend.exists", g.name(name)...); got != 1 {
			g.Error("there is no backend of that name")
		}
		for _, text := range []string{"here", "nowhere", "ftp://a", "https://"} {
			if _, _, st := g.buffered(200, "shielding.backend_for_shield", options(text, 0)...); st != statusInvalid {
				g.Errorf("%s: got status %d, want invalid", text, st)
			}
		}
		if _, _, st := g.buffered(200, "shielding.backend_for_shield", options("there", 1)...); st != statusInvalid {
			g.Errorf("got status %d, want invalid", st)
		}
		if _, _, st := g.buffered(200, "shielding.backend_for_shield", g.name("there", shieldFirstByte, outside)...); st != statusInvalid {
			g.Errorf("got status %d, want invalid", st)
		}
	})
}
