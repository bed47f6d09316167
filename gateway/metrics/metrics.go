// Package metrics is the gateway's one door to Prometheus: counters, gauges and
// histograms that the rooms create when they are built and that the private API
// shows.
//
// A room asks its Registry for what it counts, once, at construction. Every
// value of an enumerated label is named then, so a reason that never happened
// still shows as zero. A nil *Registry counts into nothing and is ready to use.
package metrics

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// namespace precedes every metric's name.
const namespace = "gripway"

// Registry holds the metrics of one gateway. It may be used concurrently.
type Registry struct {
	reg *prometheus.Registry
}

// Counter only goes up. It may be used concurrently.
type Counter = prometheus.Counter

// Gauge goes up and down. It may be used concurrently.
type Gauge = prometheus.Gauge

// Histogram counts observations, in seconds unless its name says otherwise.
type Histogram = prometheus.Observer

// New returns a Registry that also reports the Go runtime and the process.
func New() *Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &Registry{reg: reg}
}

// Handler shows all metrics in Prometheus' text format.
func (r *Registry) Handler() http.Handler {
	if r == nil {
		return http.NotFoundHandler()
	}
	return promhttp.HandlerFor(r.reg, promhttp.HandlerOpts{})
}

// Counter returns a counter called gripway_<name>. Asking twice for a name
// returns the same counter.
func (r *Registry) Counter(name, help string) Counter {
	return register(r, prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}))
}

// Counters returns one counter for each of values, labelled label=value.
func (r *Registry) Counters(name, help, label string, values ...string) map[string]Counter {
	vec := register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, []string{label}))
	counters := make(map[string]Counter, len(values))
	for _, value := range values {
		counters[value] = vec.WithLabelValues(value)
	}
	return counters
}

// Gauge returns a gauge called gripway_<name>.
func (r *Registry) Gauge(name, help string) Gauge {
	return register(r, prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}))
}

// Gauges returns one gauge for each of values, labelled label=value.
func (r *Registry) Gauges(name, help, label string, values ...string) map[string]Gauge {
	vec := register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, []string{label}))
	gauges := make(map[string]Gauge, len(values))
	for _, value := range values {
		gauges[value] = vec.WithLabelValues(value)
	}
	return gauges
}

// Func shows what value returns at the moment of asking, as a gauge.
func (r *Registry) Func(name, help string, value func() float64) {
	register(r, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, value))
}

// Histogram returns a histogram with the given upper bounds.
func (r *Registry) Histogram(name, help string, bounds ...float64) Histogram {
	return register(r, prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: bounds}))
}

// register adds c, or returns what already stands under its name.
func register[C prometheus.Collector](r *Registry, c C) C {
	if r == nil {
		return c
	}
	err := r.reg.Register(c)
	if err == nil {
		return c
	}
	if already, ok := err.(prometheus.AlreadyRegisteredError); ok {
		if existing, ok := already.ExistingCollector.(C); ok {
			return existing
		}
	}
	panic("metrics: " + err.Error()) // two metrics of one name and different kinds: a mistake in this program
}
