package guesttest

import (
	"testing"

	"github.com/gripway/gripway/guest/internal/wat"
)

// WAT assembles a module from WebAssembly's text form. Text that is wrong fails the
// test.
func WAT(t testing.TB, text string) []byte {
	t.Helper()
	b, err := wat.Assemble([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
