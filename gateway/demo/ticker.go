package demo

import (
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gripway/gripway/grip"
)

// tickerChannel carries the ticker.
const tickerChannel = "ticker"

const (
	// pointsKept is how much of the past a window is shown: two minutes.
	pointsKept = 120

	// The price wanders about priceMean by priceStep a second, and is drawn back
	// by pricePull of its distance, so that it neither vanishes nor explodes.
	priceMean, priceStep, pricePull = 100.0, 0.9, 0.02
)

// ticker is a price that nobody pays, published every second whether somebody
// listens or not: to an origin, ten thousand listeners are as many as none.
type ticker struct {
	// Fixed after newTicker.
	instance string
	outlet   *outlet
	tap      *tap

	mu     sync.Mutex
	points []point // the newest is last; at most pointsKept
}

type point struct {
	N     int64   `json:"n"`
	Time  float64 `json:"t"` // Unix milliseconds
	Value float64 `json:"v"`
}

// past is the first event on a stream.
type past struct {
	Instance string  `json:"instance"`
	Points   []point `json:"points"`
}

func newTicker(instance string, outlet *outlet, tap *tap) *ticker {
	t := &ticker{instance: instance, outlet: outlet, tap: tap}
	// It has a past at once, so that there is something to see.
	now := time.Now()
	for i := range pointsKept {
		t.next(now.Add(time.Duration(i-pointsKept) * beat))
	}
	return t
}

// next adds a point. mu is held, or nobody else knows t.
func (t *ticker) next(now time.Time) point {
	p := point{N: 1, Time: milliseconds(now), Value: priceMean}
	if n := len(t.points); n > 0 {
		last := t.points[n-1]
		p.N = last.N + 1
		p.Value = last.Value + pricePull*(priceMean-last.Value) + priceStep*rand.NormFloat64()
		p.Value = math.Round(p.Value*100) / 100
	}
	if len(t.points) == pointsKept {
		t.points = slices.Delete(t.points, 0, 1)
	}
	t.points = append(t.points, p)
	return p
}

// tick publishes the next point.
func (t *ticker) tick(now time.Time) {
	t.mu.Lock()
	p := t.next(now)
	t.mu.Unlock()
	// Without room in the outlet the point is skipped; the next is a second away.
	t.outlet.offer(panelTicker, func() *grip.Item {
		return &grip.Item{Channel: tickerChannel, Stream: &grip.StreamItem{Content: appendEvent(nil, "", compact(p))}}
	})
}

// serve is GET /ticker. With ?with=wire the stream carries the records too: a
// browser opens only six HTTP connections to one address, all windows together.
func (t *ticker) serve(w http.ResponseWriter, r *http.Request) {
	t.mu.Lock()
	first := appendEvent(nil, "past", compact(past{t.instance, t.points}))
	t.mu.Unlock()
	if r.URL.Query().Get("with") == "wire" {
		holdStream(w, append(first, t.tap.before()...), tickerChannel, wireChannel)
		return
	}
	holdStream(w, first, tickerChannel)
}

// milliseconds is Unix time with its microseconds, since what is measured with it
// on one machine is less than a millisecond.
func milliseconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1000 }
