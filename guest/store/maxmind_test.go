package store_test

import (
	"encoding/binary"
	"encoding/json"
	"log/slog"
	"maps"
	"math"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gripway/gripway/guest/store"
)

// mmdb writes a MaxMind database that knows one network
// (https://maxmind.github.io/MaxMind-DB/, version 2.0).
func mmdb(t *testing.T, kind, network string, data map[string]any) string {
	t.Helper()
	prefix := netip.MustParsePrefix(network)
	addr, version := prefix.Addr().AsSlice(), 4
	if prefix.Addr().Is6() {
		version = 6
	}
	var file []byte
	nodes := uint32(prefix.Bits())
	put := func(n uint32) { file = append(file, byte(n>>16), byte(n>>8), byte(n)) }
	for i := range nodes {
		next := i + 1
		if next == nodes {
			next = nodes + 16 // the first byte of the data section
		}
		if addr[i/8]>>(7-i%8)&1 == 0 {
			put(next)
			put(nodes)
		} else {
			put(nodes)
			put(next)
		}
	}
	file = append(file, make([]byte, 16)...)
	file = field(t, file, data)
	file = append(file, "\xab\xcd\xefMaxMind.com"...)
	file = field(t, file, map[string]any{
		"node_count": nodes, "record_size": uint16(24), "ip_version": uint16(version), "database_type": kind, "languages": []any{"en"},
		"binary_format_major_version": uint16(2), "binary_format_minor_version": uint16(0), "build_epoch": uint64(1), "description": map[string]any{"en": kind},
	})
	return write(t, filepath.Join(t.TempDir(), kind+".mmdb"), string(file))
}

// field appends a value in MaxMind's encoding.
func field(t *testing.T, to []byte, value any) []byte {
	head := func(kind, size int) []byte {
		first := kind << 5
		if kind > 7 {
			first = 0
		}
		var b []byte
		if size < 29 {
			b = append(b, byte(first|size))
		} else {
			b = append(b, byte(first|29))
		}
		if kind > 7 {
			b = append(b, byte(kind-7))
		}
		if size >= 29 {
			b = append(b, byte(size-29))
		}
		return b
	}
	switch v := value.(type) {
	case string:
		return append(append(to, head(2, len(v))...), v...)
	case float64:
		return binary.BigEndian.AppendUint64(append(to, head(3, 8)...), math.Float64bits(v))
	case uint16:
		return binary.BigEndian.AppendUint16(append(to, head(5, 2)...), v)
	case uint32:
		return binary.BigEndian.AppendUint32(append(to, head(6, 4)...), v)
	case uint64:
		return binary.BigEndian.AppendUint64(append(to, head(9, 8)...), v)
	case bool:
		size := 0
		if v {
			size = 1
		}
		return append(to, head(14, size)...)
	case []any:
		to = append(to, head(11, len(v))...)
		for _, item := range v {
			to = field(t, to, item)
		}
		return to
	case map[string]any:
		to = append(to, head(7, len(v))...)
		for _, key := range slices.Sorted(maps.Keys(v)) {
			to = field(t, field(t, to, key), v[key])
		}
		return to
	}
	t.Fatalf("no encoding of %T", value)
	return nil
}

func TestMaxMindFillsFastlysDocument(t *testing.T) {
	city := mmdb(t, "GeoLite2-City", "192.0.2.0/24", map[string]any{
		"city":      map[string]any{"names": map[string]any{"de": "Wien", "en": "Vienna"}},
		"continent": map[string]any{"code": "EU"},
		"country":   map[string]any{"iso_code": "AT", "names": map[string]any{"en": "Austria"}},
		"location":  map[string]any{"latitude": 48.2, "longitude": 16.37, "metro_code": uint16(5), "time_zone": "Asia/Kolkata"}, // has no summer time
		"postal":    map[string]any{"code": "1010"}, "subdivisions": []any{map[string]any{"iso_code": "9"}},
	})
	asn := mmdb(t, "GeoLite2-ASN", "192.0.2.0/25", map[string]any{"autonomous_system_number": uint32(64496), "autonomous_system_organization": "Example"})
	more := mmdb(t, "GeoIP2-Connection-Type", "192.0.2.0/25", map[string]any{"connection_type": "Cellular", "is_tor_exit_node": true})
	geo, err := store.NewGeo(store.GeoOptions{MaxMind: []string{city, asn, more}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	got := geo.Lookup(netip.MustParseAddr("::ffff:192.0.2.1"))
	want := `{"as_name":"Example","as_number":64496,"area_code":0,"city":"Vienna","conn_speed":"mobile","conn_type":"mobile","continent":"EU",` +
		`"country_code":"AT","country_code3":"AUT","country_name":"Austria","latitude":48.2,"longitude":16.37,"metro_code":5,"postal_code":"1010",` +
		`"proxy_description":"tor-exit","proxy_type":"anonymous","region":"9","utc_offset":530}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var half struct {
		City string
		AS   int `json:"as_number"`
	}
	if err := json.Unmarshal(geo.Lookup(netip.MustParseAddr("192.0.2.200")), &half); err != nil || half.City != "Vienna" || half.AS != 0 {
		t.Errorf("got %+v, %v, want what one of the databases knows", half, err)
	}
	if got := geo.Lookup(netip.MustParseAddr("198.51.100.1")); got != nil {
		t.Errorf("got %s, want nothing", got)
	}
	if got := geo.Lookup(netip.MustParseAddr("2001:db8::1")); got != nil {
		t.Errorf("IPv6 in a database of IPv4: got %s, want nothing", got)
	}
	if got := string(geo.Lookup(netip.MustParseAddr("127.0.0.1"))); !strings.Contains(got, "San Francisco") {
		t.Errorf("got %s, want the default", got)
	}
	if _, err := store.NewGeo(store.GeoOptions{MaxMind: []string{write(t, filepath.Join(t.TempDir(), "x.mmdb"), "no database")}}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "want a MaxMind database") {
		t.Errorf("got %v", err)
	}
}
