package compute_test

import (
	"errors"
	"net/http/httptest"
	"testing"

	"github.com/gripway/gripway/guest"
	"github.com/gripway/gripway/guest/compute"
)

// empty is (module (import "fastly_abi" "init" (func (param i64) (result i32)))
// (memory (export "memory") 1) (func (export "_start"))).
var empty = []byte("\x00asm\x01\x00\x00\x00" +
	"\x01\x09\x02\x60\x01\x7e\x01\x7f\x60\x00\x00" +
	"\x02\x13\x01\x0afastly_abi\x04init\x00\x00" +
	"\x03\x02\x01\x01" + "\x05\x03\x01\x00\x01" +
	"\x07\x13\x02\x06memory\x02\x00\x06_start\x00\x01" +
	"\x0a\x04\x01\x02\x00\x0b")

func TestAGuestThatSaysNothingIsUndecided(t *testing.T) {
	runtime, err := guest.NewRuntime(guest.RuntimeOptions{ABIs: []guest.ABI{compute.ABI{}}})
	if err != nil {
		t.Fatal(err)
	}
	defer runtime.Close()
	program, err := runtime.Load(t.Context(), empty, guest.LoadOptions{Name: "empty", Service: &compute.Service{}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = program.Serve(t.Context(), guest.NewExchange(httptest.NewRequest("GET", "http://example.com/", nil)))
	if !errors.Is(err, guest.ErrUndecided) {
		t.Errorf("got %v, want ErrUndecided", err)
	}
}
