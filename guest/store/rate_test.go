package store

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// rates are counters with a clock of their own.
func rates() (*Rates, *time.Time) {
	now := time.Date(2026, 1, 1, 12, 0, 3, 0, time.UTC)
	return &Rates{now: func() time.Time { return now }}, &now
}

func TestARateIsThatOfItsWindow(t *testing.T) {
	r, now := rates()
	add := func(n uint32) {
		t.Helper()
		if err := r.Increment("c", "a", n); err != nil {
			t.Fatal(err)
		}
	}
	want := func(window, want uint32) {
		t.Helper()
		if got, err := r.Rate("c", "a", window); err != nil || got != want {
			t.Errorf("%s, window %d: got %d, %v, want %d", now.Format("05.0"), window, got, err, want)
		}
	}
	want(1, 0)
	add(600)
	want(1, 600)
	want(10, 60)
	want(60, 10)
	*now = now.Add(1500 * time.Millisecond) // half of the second that counted is within
	want(1, 300)
	want(10, 60)
	*now = now.Add(7 * time.Second)
	want(1, 0)
	want(10, 60)
	*now = now.Add(2 * time.Second)
	want(10, 30)
	*now = now.Add(time.Second)
	want(10, 0)
	want(60, 10)
	*now = now.Add(50*time.Second - 500*time.Millisecond)
	want(60, 0)
	add(60)
	want(60, 1)
	*now = now.Add(time.Hour)
	want(60, 0)
}

func TestACountIsOfFullTens(t *testing.T) {
	r, now := rates() // 12:00:03
	for i := range 7 {
		if err := r.Increment("c", "a", uint32(i)+1); err != nil {
			t.Fatal(err)
		}
		*now = now.Add(10 * time.Second)
	}
	*now = now.Add(-10 * time.Second) // 12:01:03, with 7 in the newest bucket
	for duration, want := range map[uint32]uint32{10: 7, 20: 13, 30: 18, 40: 22, 50: 25, 60: 27} {
		if got, err := r.Count("c", "a", duration); err != nil || got != want {
			t.Errorf("%d s: got %d, %v, want %d", duration, got, err, want)
		}
	}
	if got, err := r.Count("c", "b", 60); err != nil || got != 0 {
		t.Errorf("another entry: got %d, %v, want 0", got, err)
	}
}

func TestWhoIsTooFastIsBlockedForAWhile(t *testing.T) {
	r, now := rates()
	check := func(delta uint32) bool {
		t.Helper()
		blocked, err := r.Check("c", "a", delta, 10, 10, "box", 119)
		if err != nil {
			t.Fatal(err)
		}
		return blocked
	}
	if check(100) {
		t.Error("blocked at the limit")
	}
	if !check(1) {
		t.Error("not blocked over the limit")
	}
	if in, err := r.Punished("box", "a"); err != nil || !in {
		t.Errorf("got %v, %v, want in the box", in, err)
	}
	if in, err := r.Punished("other", "a"); err != nil || in {
		t.Errorf("got %v, %v, want not in another box", in, err)
	}
	*now = now.Add(59 * time.Second)
	if !check(0) {
		t.Error("not blocked while in the box")
	}
	*now = now.Add(time.Second) // 119 s are one whole minute
	if check(0) {
		t.Error("blocked after its time")
	}
	if err := r.Punish("box", "a", 3600); err != nil {
		t.Fatal(err)
	}
	if err := r.Punish("box", "a", 60); err != nil {
		t.Fatal(err)
	}
	*now = now.Add(time.Minute)
	if in, _ := r.Punished("box", "a"); in {
		t.Error("a second penalty does not replace the first")
	}
}

func TestRateCountersAndBoxesHaveALimit(t *testing.T) {
	r, _ := rates()
	r.max = 10
	for i := range 20 {
		entry := fmt.Sprint(i)
		if err := errors.Join(r.Increment("c", "kept", 1), r.Increment("c", entry, 1), r.Punish("b", entry, uint32(60*(60-i)))); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.counters) != 10 || r.recent.Len() != 10 || len(r.boxes) != 10 || len(r.soonest) != 10 {
		t.Errorf("got %d and %d counters, %d and %d penalties, want 10", len(r.counters), r.recent.Len(), len(r.boxes), len(r.soonest))
	}
	if n, _ := r.Count("c", "kept", 60); n != 20 {
		t.Errorf("the one that is used most went: got %d, want 20", n)
	}
	if n, _ := r.Count("c", "0", 60); n != 0 {
		t.Errorf("the one that was used least recently is there: got %d", n)
	}
	if in, _ := r.Punished("b", "0"); !in {
		t.Error("the longest penalty went before a shorter one")
	}
	if entriesMax*(slotBytes+128) > 32<<20 {
		t.Errorf("the counters may take %d bytes", entriesMax*(slotBytes+128))
	}
}

func TestRateCountersRefuse(t *testing.T) {
	r, _ := rates()
	long := strings.Repeat("n", RateNameMax+1)
	_, window := r.Rate("c", "a", 5)
	_, duration := r.Count("c", "a", 15)
	_, zero := r.Count("c", "a", 0)
	_, check := r.Check("c", "a", 1, 2, 10, "b", 60)
	_, ttl := r.Check("c", "a", 1, 1, 10, "b", 59)
	_, box := r.Check("c", "a", 1, 1, 10, "", 60)
	_, in := r.Punished(long, "a")
	for name, err := range map[string]error{
		"window": window, "duration": duration, "no duration": zero, "check's window": check, "check's ttl": ttl, "no box": box, "long box": in,
		"delta": r.Increment("c", "a", 1001), "no name": r.Increment("", "a", 1), "no entry": r.Increment("c", "", 1), "long entry": r.Increment("c", long, 1),
		"short": r.Punish("b", "a", 59), "forever": r.Punish("b", "a", 3601),
	} {
		if !errors.Is(err, ErrRate) {
			t.Errorf("%s: got %v, want ErrRate", name, err)
		}
	}
}

func TestRateCountersAreShared(t *testing.T) {
	r := &Rates{}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 100 {
				if err := errors.Join(r.Increment("c", "a", 1), r.Increment("c", fmt.Sprint(i), 1), r.Punish("b", fmt.Sprint(i), 60)); err != nil {
					t.Error(err)
				}
				r.Punished("b", "7")
			}
		})
	}
	all.Wait()
	if n, err := r.Count("c", "a", 60); err != nil || n != 800 {
		t.Errorf("got %d, %v, want 800", n, err)
	}
}
