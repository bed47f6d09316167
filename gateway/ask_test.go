package gateway

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestAURLIsAskedAHundredTimesASecond(t *testing.T) {
	a, now := newAsks(nil), time.Now()
	var last time.Duration
	for i := range 1000 {
		_, wait, err := a.turn("http://origin/check", now)
		if err != nil {
			t.Fatalf("question %d: %v", i, err)
		}
		if i < askBurst && wait != 0 {
			t.Errorf("question %d waits %v: the first %d should not", i, wait, askBurst)
		}
		if wait < last {
			t.Errorf("question %d waits %v, the one before %v", i, wait, last)
		}
		last = wait
	}
	if least, most := 9800*time.Millisecond, 10*time.Second; last < least || last > most {
		t.Errorf("the last of 1000 questions waits %v, want %v to %v", last, least, most)
	}
	refused := 0
	for range 2 * askBurst {
		if _, _, err := a.turn("http://origin/check", now); errors.Is(err, errAskedTooOften) {
			refused++
		}
	}
	if refused == 0 {
		t.Error("questions whose turn comes too late are not refused")
	}
	if _, wait, err := a.turn("http://origin/other", now); wait != 0 || err != nil {
		t.Errorf("another URL: got %v, %v, want its turn at once", wait, err)
	}
	if _, wait, err := a.turn("http://origin/check", now.Add(11*time.Second)); wait != 0 || err != nil {
		t.Errorf("after a while: got %v, %v, want its turn at once", wait, err)
	}
}

func TestURLsAreForgotten(t *testing.T) {
	a, now := newAsks(nil), time.Now()
	for i := range askURLsMax {
		if _, _, err := a.turn(fmt.Sprint(i), now); err != nil {
			t.Fatalf("URL %d: %v", i, err)
		}
	}
	if _, _, err := a.turn("one more", now); err == nil {
		t.Error("one URL too many was kept")
	}
	if _, _, err := a.turn("one more", now.Add(2*time.Second)); err != nil || len(a.urls) != 1 {
		t.Errorf("two seconds later: got %v with %d URLs kept, want only the new one", err, len(a.urls))
	}
}

func TestMetaFitsAHeader(t *testing.T) {
	got, want := metaJSON(map[string]string{"a": "ü\n😀\x00"}), `{"a":"\u00fc\n\ud83d\ude00\u0000"}`
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAURLThatHangsHoldsUpNoOther(t *testing.T) {
	a, now := newAsks(nil), time.Now()
	hanging, _, err := a.turn("http://hangs/", now)
	if err != nil {
		t.Fatal(err)
	}
	for range asksMax {
		hanging.places <- struct{}{}
	}
	other, _, err := a.turn("http://other/", now)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case other.places <- struct{}{}:
	default:
		t.Error("a URL has no place because of another")
	}
	select {
	case hanging.places <- struct{}{}:
		t.Error("one question too many has a place")
	default:
	}
}
