package guest_test

import (
	"net/http"
	"testing"

	"github.com/gripway/gripway/guest"
)

func TestHopsAreCountedThoughAGuestMakesItsRequestAnew(t *testing.T) {
	first := &http.Request{Header: http.Header{"Cdn-Loop": {"other; v=1.0"}}}
	if n := guest.Hops(first.Header); n != 0 {
		t.Fatalf("of a client's request: got %d hops", n)
	}
	again := func(r *http.Request, anew bool) *http.Request {
		h := make(http.Header)
		if !anew {
			h = r.Header.Clone()
		}
		guest.CountHop(h, r)
		return &http.Request{Header: h}
	}
	second := again(first, false)
	third := again(second, true)
	fourth := again(third, false)
	for n, r := range []*http.Request{first, second, third, fourth} {
		if got := guest.Hops(r.Header); got != n {
			t.Errorf("request %d: got %d hops, of %q", n, got, r.Header["Cdn-Loop"])
		}
		for m, of := range []*http.Request{first, second, third, fourth} {
			if got := guest.Behind(r, guest.LoopID(of)); got != (m < n) {
				t.Errorf("request %d is behind request %d: got %v, want %v", n, m, got, m < n)
			}
		}
	}
	if guest.Behind(nil, guest.LoopID(first)) {
		t.Error("nobody's request is behind one")
	}
	nobodys := make(http.Header)
	guest.CountHop(nobodys, nil)
	if got := guest.Hops(nobodys); got != 1 {
		t.Errorf("of nobody's: got %d hops", got)
	}
}

func TestHopsOfWhatIsNoMark(t *testing.T) {
	for _, value := range []string{"", ",", "gripway-guests", ";id=1", "x; id=gripway-guest", "gripway"} {
		if got := guest.Hops(http.Header{"Cdn-Loop": {value}}); got != 0 {
			t.Errorf("%q: got %d hops", value, got)
		}
	}
	for _, value := range []string{"gripway-guest; id=", "gripway-guest;id=zz", "gripway-guest; id=0", "gripway-guest ;id=ffffffffffffffffff"} {
		r := &http.Request{Header: http.Header{"Cdn-Loop": {value}}}
		if got := guest.Hops(r.Header); got != 1 {
			t.Errorf("%q: got %d hops", value, got)
		}
		if guest.Behind(r, guest.LoopID(r)) {
			t.Errorf("%q: it is behind itself", value)
		}
	}
}
