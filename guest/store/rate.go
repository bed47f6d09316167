package store

import (
	"container/heap"
	"container/list"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Limits of rate counters and penalty boxes. Names, entries, delta and times are
// Fastly's numbers.
const (
	RateNameMax  = 64        // characters of a counter's, a box's or an entry's name
	RateDeltaMax = 1000      // events that one call may count
	PenaltyMin   = 1 * 60    // seconds
	PenaltyMax   = 60 * 60   // seconds
	entriesMax   = 1 << 16   // of all counters of a program, or all its boxes: about 20 MB
	slots        = 60 + 1    // seconds that a counter remembers, and the one under way
	slotBytes    = slots * 4 // so that the number above can be checked
)

// ErrRate answers a number or name that a rate counter does not take.
var ErrRate = errors.New("store: a rate counter or penalty box does not take that")

// Rates are the rate counters and penalty boxes of a program. They may be used
// concurrently; the zero value is empty.
type Rates struct {
	mu       sync.Mutex
	counters map[entryName]*list.Element // of *counter
	recent   list.List                   // the most recently incremented first
	boxes    map[entryName]*penalty
	soonest  penalties

	// now is the clock; nil is the real one.
	now func() time.Time
	// max is entriesMax; zero is that.
	max int
}

// entryName is an entry of a counter or a box.
type entryName struct{ of, entry string }

// counter counts an entry's events by the second.
type counter struct {
	name   entryName
	second int64 // of the newest slot, since 1970
	counts [slots]uint32
}

// penalty is an entry of a penalty box.
type penalty struct {
	name  entryName
	until time.Time
	place int // in soonest
}

// penalties are by the time they end.
type penalties []*penalty

func (p penalties) Len() int           { return len(p) }
func (p penalties) Less(i, j int) bool { return p[i].until.Before(p[j].until) }
func (p penalties) Swap(i, j int) {
	p[i], p[j] = p[j], p[i]
	p[i].place, p[j].place = i, j
}
func (p *penalties) Push(x any) {
	one := x.(*penalty)
	one.place = len(*p)
	*p = append(*p, one)
}
func (p *penalties) Pop() any {
	last := (*p)[len(*p)-1]
	(*p)[len(*p)-1] = nil
	*p = (*p)[:len(*p)-1]
	return last
}

func (r *Rates) clock() time.Time {
	if r.now != nil {
		return r.now()
	}
	return time.Now()
}

func (r *Rates) limit() int {
	if r.max != 0 {
		return r.max
	}
	return entriesMax
}

// checkNames says what no counter, box or entry can be called.
func checkNames(names ...string) error {
	for _, name := range names {
		if name == "" || len([]rune(name)) > RateNameMax {
			return fmt.Errorf("%w: a name of %d bytes", ErrRate, len(name))
		}
	}
	return nil
}

// Increment counts events of an entry.
func (r *Rates) Increment(name, entry string, delta uint32) error {
	if err := checkNames(name, entry); err != nil {
		return err
	}
	if delta > RateDeltaMax {
		return fmt.Errorf("%w: delta %d", ErrRate, delta)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.increment(entryName{name, entry}, delta)
	return nil
}

func (r *Rates) increment(name entryName, delta uint32) *counter {
	at := r.counters[name]
	if at == nil {
		if r.counters == nil {
			r.counters = make(map[entryName]*list.Element)
		}
		for len(r.counters) >= r.limit() {
			oldest := r.recent.Remove(r.recent.Back()).(*counter)
			delete(r.counters, oldest.name)
		}
		at = r.recent.PushFront(&counter{name: name})
		r.counters[name] = at
	} else {
		r.recent.MoveToFront(at)
	}
	c := at.Value.(*counter)
	c.advance(r.clock().Unix())
	c.counts[c.second%slots] += delta
	return c
}

// advance empties the slots of the seconds that nothing happened in.
func (c *counter) advance(second int64) {
	if second-c.second >= slots {
		c.counts = [slots]uint32{}
		c.second = second
	}
	for c.second < second {
		c.second++
		c.counts[c.second%slots] = 0
	}
}

// since is how many events there have been from a second on.
func (c *counter) since(from int64) (n uint64) {
	for second := max(from, c.second-slots+1); second <= c.second; second++ {
		n += uint64(c.counts[second%slots])
	}
	return n
}

// rate is the events in the window that ends now, by which the second that the
// window begins in counts for the part of it that is within.
func (c *counter) rate(now time.Time, window int64) float64 {
	c.advance(now.Unix())
	first := now.Unix() - window
	whole := c.since(first + 1)
	part := c.since(first) - whole
	return float64(whole) + float64(part)*(1-float64(now.Nanosecond())/1e9)
}

// CheckWindow says which windows there are, in seconds.
func CheckWindow(window uint32) error {
	if window != 1 && window != 10 && window != 60 {
		return fmt.Errorf("%w: a window of %d s: want 1, 10 or 60", ErrRate, window)
	}
	return nil
}

// Rate is the events a second of an entry within the last 1, 10 or 60 seconds.
func (r *Rates) Rate(name, entry string, window uint32) (uint32, error) {
	if err := errors.Join(checkNames(name, entry), CheckWindow(window)); err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at := r.counters[entryName{name, entry}]
	if at == nil {
		return 0, nil
	}
	return uint32(at.Value.(*counter).rate(r.clock(), int64(window)) / float64(window)), nil
}

// Count is the events of an entry in the last 10, 20, … 60 seconds, in buckets
// that begin at full tens of a second's number: the newest is not over yet.
func (r *Rates) Count(name, entry string, duration uint32) (uint32, error) {
	if err := checkNames(name, entry); err != nil {
		return 0, err
	}
	if duration == 0 || duration%10 != 0 || duration > 60 {
		return 0, fmt.Errorf("%w: a duration of %d s: want 10, 20, 30, 40, 50 or 60", ErrRate, duration)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at := r.counters[entryName{name, entry}]
	if at == nil {
		return 0, nil
	}
	c := at.Value.(*counter)
	second := r.clock().Unix()
	c.advance(second)
	return uint32(min(c.since(second-second%10-int64(duration)+10), 1<<32-1)), nil
}

// Punish puts an entry into a penalty box, or changes how long it stays there:
// 1 to 60 minutes, cut to whole ones.
func (r *Rates) Punish(box, entry string, seconds uint32) error {
	if err := checkNames(box, entry); err != nil {
		return err
	}
	if seconds < PenaltyMin || seconds > PenaltyMax {
		return fmt.Errorf("%w: a penalty of %d s: want %d to %d", ErrRate, seconds, PenaltyMin, PenaltyMax)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.punish(entryName{box, entry}, seconds)
	return nil
}

func (r *Rates) punish(name entryName, seconds uint32) {
	until := r.clock().Add(time.Duration(seconds/60*60) * time.Second)
	if p := r.boxes[name]; p != nil {
		p.until = until
		heap.Fix(&r.soonest, p.place)
		return
	}
	if r.boxes == nil {
		r.boxes = make(map[entryName]*penalty)
	}
	for len(r.boxes) >= r.limit() {
		delete(r.boxes, heap.Pop(&r.soonest).(*penalty).name)
	}
	p := &penalty{name: name, until: until}
	r.boxes[name] = p
	heap.Push(&r.soonest, p)
}

// Punished tells whether an entry is in a penalty box.
func (r *Rates) Punished(box, entry string) (bool, error) {
	if err := checkNames(box, entry); err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.punished(entryName{box, entry}), nil
}

func (r *Rates) punished(name entryName) bool {
	now := r.clock()
	for len(r.soonest) > 0 && !now.Before(r.soonest[0].until) {
		delete(r.boxes, heap.Pop(&r.soonest).(*penalty).name)
	}
	return r.boxes[name] != nil
}

// Check counts events of an entry, and tells whether it is to be blocked: it is
// in the penalty box, or its rate within the window is over limit events a
// second, for which it is put there.
func (r *Rates) Check(name, entry string, delta, window, limit uint32, box string, seconds uint32) (blocked bool, err error) {
	if err := errors.Join(checkNames(name, entry, box), CheckWindow(window)); err != nil {
		return false, err
	}
	if delta > RateDeltaMax || seconds < PenaltyMin || seconds > PenaltyMax {
		return false, fmt.Errorf("%w: delta %d, a penalty of %d s", ErrRate, delta, seconds)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.increment(entryName{name, entry}, delta)
	if r.punished(entryName{box, entry}) {
		return true, nil
	}
	if c.rate(r.clock(), int64(window)) > float64(limit)*float64(window) {
		r.punish(entryName{box, entry}, seconds)
		return true, nil
	}
	return false, nil
}
