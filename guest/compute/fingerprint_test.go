package compute

import (
	"encoding/binary"
	"encoding/hex"
	"testing"
)

// hello builds a ClientHello, from its handshake type on.
func hello(version uint16, ciphers []uint16, extensions ...[]byte) []byte {
	var body []byte
	body = binary.BigEndian.AppendUint16(body, version)
	body = append(body, make([]byte, 32)...) // random
	body = append(body, 0)                   // session
	body = binary.BigEndian.AppendUint16(body, uint16(2*len(ciphers)))
	for _, c := range ciphers {
		body = binary.BigEndian.AppendUint16(body, c)
	}
	body = append(body, 1, 0) // compression
	if len(extensions) > 0 {
		var all []byte
		for _, e := range extensions {
			all = append(all, e...)
		}
		body = binary.BigEndian.AppendUint16(body, uint16(len(all)))
		body = append(body, all...)
	}
	return append([]byte{1, 0, byte(len(body) >> 8), byte(len(body))}, body...)
}

func extension(id uint16, data ...byte) []byte {
	e := binary.BigEndian.AppendUint16(nil, id)
	e = binary.BigEndian.AppendUint16(e, uint16(len(data)))
	return append(e, data...)
}

// list is numbers after their length in n octets.
func list(n int, numbers ...uint16) []byte {
	b := make([]byte, n)
	for _, v := range numbers {
		b = binary.BigEndian.AppendUint16(b, v)
	}
	if n == 1 {
		b[0] = byte(len(b) - 1)
	} else {
		binary.BigEndian.PutUint16(b, uint16(len(b)-2))
	}
	return b
}

// The example of the description of JA3 (github.com/salesforce/ja3): an old client,
// without GREASE.
func TestJA3(t *testing.T) {
	f := fingerprintOf(hello(769, []uint16{47, 53, 5, 10, 49161, 49162, 49171, 49172, 50, 56, 19, 4},
		extension(extServerName, 0, 0), extension(extSupportedGroups, list(2, 23, 24, 25)...), extension(extPointFormats, 1, 0)))
	if got, want := hex.EncodeToString(f.ja3[:]), "ada70206e40642a3e4461f35503241d5"; !f.ok || got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// chrome is the client of the description's example of JA4 (github.com/FoxIO-LLC/ja4),
// its extensions in an order of their own, with GREASE as Chrome sends it.
func chrome() []byte {
	ciphers := []uint16{0x2a2a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c, 0x009d, 0x002f, 0x0035}
	return hello(0x0303, ciphers,
		extension(0x1a1a), extension(0x001b, 2, 0, 2), extension(extServerName, 0, 0), extension(0x0033), extension(extALPN, 0, 12, 2, 'h', '2', 8, 'h', 't', 't', 'p', '/', '1', '.', '1'),
		extension(0x4469), extension(0x0017), extension(0x002d, 1, 1), extension(extSignatureAlgorithms, list(2, 0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601)...),
		extension(0x0005), extension(0x0023), extension(0x0012), extension(extSupportedVersions, list(1, 0x3a3a, 0x0304, 0x0303)...), extension(0xff01, 0),
		extension(extPointFormats, 1, 0), extension(extSupportedGroups, list(2, 0x4a4a, 29, 23, 24)...), extension(0x0015), extension(0x5a5a))
}

func TestJA4(t *testing.T) {
	for _, c := range []struct {
		name  string
		hello []byte
		want  string
	}{
		{"the description's example", chrome(), "t13d1516h2_8daaf6152771_e5627efa2ab1"},
		{"no extensions, no name", hello(0x0301, []uint16{0x2f}), "t10i010000_" + shortHash("002f") + "_000000000000"},
		{"no ciphers, a strange protocol", hello(0x0303, nil, extension(extALPN, 0, 3, 2, 0xab, 0xcd)), "t12i0001ad_000000000000_000000000000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := fingerprintOf(c.hello); !got.ok || got.ja4 != c.want {
				t.Errorf("got %s, want %s", got.ja4, c.want)
			}
		})
	}
}

func TestHalfAHelloHasNoFingerprint(t *testing.T) {
	whole := chrome()
	for n := range len(whole) {
		if fingerprintOf(whole[:n]).ok {
			t.Fatalf("%d of %d octets have a fingerprint", n, len(whole))
		}
	}
}

func FuzzHello(f *testing.F) {
	f.Add(chrome())
	f.Fuzz(func(t *testing.T, b []byte) {
		if print := fingerprintOf(b); print.ok && len(print.ja4) != len("t13d1516h2_8daaf6152771_e5627efa2ab1") {
			t.Errorf("got %q", print.ja4)
		}
	})
}
