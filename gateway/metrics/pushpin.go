package metrics

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// pushpinStep is how often the held clients are counted for connection_minute:
// a client that stays shorter falls between two looks.
const pushpinStep = time.Second

// Pushpin shows five numbers of a gateway under the names that Pushpin has for
// them, for dashboards that were made for it:
//
//	request_received      requests of clients
//	connection_connected  clients that are held now
//	connection_minute     one for each request, and the minutes that clients were held
//	message_received      items that came over the private API
//	message_sent          items handed to clients
//
// Pushpin rounds the minutes of each connection up; here the first minute of a
// held client may count twice. It may be used concurrently.
type Pushpin struct {
	registry *Registry
	held     func() int

	// Guarded by mu.
	mu      sync.Mutex
	minutes float64 // that clients were held
}

// NewPushpin returns the view of what registry counts; held tells how many
// clients are held. Nothing is added to minutes unless Run runs.
func NewPushpin(registry *Registry, held func() int) *Pushpin {
	return &Pushpin{registry: registry, held: held}
}

// Run counts the time that clients are held, until ctx ends.
func (p *Pushpin) Run(ctx context.Context) {
	ticker := time.NewTicker(pushpinStep)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			p.add(now.Sub(last))
			last = now
		}
	}
}

// add counts that those who are held now were held for d.
func (p *Pushpin) add(d time.Duration) {
	minutes := float64(p.held()) * d.Minutes()
	p.mu.Lock()
	p.minutes += minutes
	p.mu.Unlock()
}

// Handler shows the numbers on any path; prefix stands before each name, as
// Pushpin's prometheus_prefix.
func (p *Pushpin) Handler(prefix string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests := p.registry.Sum("requests_total")
		p.mu.Lock()
		minutes := p.minutes
		p.mu.Unlock()
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		for _, m := range []struct {
			name, kind, help string
			value            float64
		}{
			{"request_received", "counter", "Requests of clients.", requests},
			{"connection_connected", "gauge", "Clients that are held.", float64(p.held())},
			{"connection_minute", "counter", "Minutes that clients were connected.", float64(int(requests + minutes))},
			{"message_received", "counter", "Items that came over the private API.", p.registry.Sum("published_items_total")},
			{"message_sent", "counter", "Items handed to clients.", p.registry.Sum("items_delivered_total")},
		} {
			name := prefix + m.name
			fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n%s %s\n", name, m.help, name, m.kind, name, strconv.FormatFloat(m.value, 'f', -1, 64))
		}
	})
}

// Sum adds up the counters or gauges called gripway_<name>, whatever their
// labels; 0 if there are none.
func (r *Registry) Sum(name string) float64 {
	if r == nil {
		return 0
	}
	families, _ := r.reg.Gather() // what can be gathered; a broken collector elsewhere is no matter of ours
	sum := 0.0
	for _, family := range families {
		if family.GetName() != namespace+"_"+name {
			continue
		}
		for _, m := range family.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}
