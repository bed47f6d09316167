//go:build linux

// The scenarios: which orders, in which sequence, give which figures. Each runs
// in front of a fresh origin with a fresh gateway and fresh clients.

package main

import (
	"errors"
	"fmt"
	"time"
)

const (
	// warmClients are opened, served and closed before memory is measured: code
	// and tables that the first clients bring in are not the clients' memory.
	warmClients = 200

	// orderSlack is how long an order may take beyond its budget.
	orderSlack = 3 * time.Minute
)

// scenario fills some figures for one target.
type scenario struct {
	name       string
	needOrigin bool // only for targets that ask one
	run        func(*bench, *loader, *target) error
}

var scenarios = []scenario{
	{kindStream, false, func(b *bench, l *loader, t *target) error { return b.fanOut(l, t, kindStream) }},
	{kindWS, false, func(b *bench, l *loader, t *target) error { return b.fanOut(l, t, kindWS) }},
	{"held-" + kindStream, false, func(b *bench, l *loader, t *target) error { return b.hold(l, t, kindStream) }},
	{"held-" + kindWS, false, func(b *bench, l *loader, t *target) error { return b.hold(l, t, kindWS) }},
	{"channels", false, (*bench).manyChannels},
	{"one", false, (*bench).oneSubscriber},
	{"proxy", true, (*bench).plainProxy},
	{"exchange-many", true, func(b *bench, l *loader, t *target) error {
		return b.exchanges(l, t, "exchange-many", manyInFlight)
	}},
	{"exchange-one", true, func(b *bench, l *loader, t *target) error {
		return b.exchanges(l, t, "exchange-one", 1)
	}},
	{"poll", true, (*bench).longPolls},
	{"intake", false, (*bench).publishIntake},
}

// runs repeats an order that can be repeated and hands each outcome on. One
// failure in all is forgiven, but told.
func (b *bench) runs(l *loader, t *target, o order, take func(outcome)) error {
	forgiven := false
	var total outcome
	for done := 0; done < b.settings.runs; {
		result, err := l.ask(o, o.Budget+orderSlack)
		if err != nil {
			if forgiven || l.process.hasEnded() || t.process.hasEnded() {
				return err
			}
			forgiven = true
			b.remark("%s: %s was tried again after: %v", t.name, o.Do, err)
			continue
		}
		total.Dropped += result.Dropped
		total.Repeated += result.Repeated
		take(result)
		done++
	}
	switch {
	case total.Dropped > 0 && o.Do == "poll":
		b.remark("%s: %d long polls were answered with an error, and asked again", t.name, total.Dropped)
	case total.Dropped > 0:
		b.remark("%s: %d clients were dropped at their first item and opened again (%s %s)", t.name, total.Dropped, o.Do, o.Kind)
	}
	if total.Repeated > 0 {
		b.remark("%s: %d items were published again because a waiting long poll missed them", t.name, total.Repeated)
	}
	return nil
}

// delivery records what delivering cost, and how late the last was.
func (b *bench) delivery(l *loader, t *target, name string, o order) error {
	var all []float64
	err := b.runs(l, t, o, func(result outcome) {
		b.record(t, name, perUnit(result)) // µs each = s per million
		b.record(t, name+"-p50", quantile(result.Latencies, 0.50))
		b.record(t, name+"-p99", quantile(result.Latencies, 0.99))
		all = append(all, result.Latencies...)
	})
	b.settle(t, name+"-p50", quantile(all, 0.50))
	b.settle(t, name+"-p99", quantile(all, 0.99))
	return err
}

func (b *bench) fanOut(l *loader, t *target, kind string) error {
	if _, err := l.open(kind, b.settings.clients, oneChannel); err != nil {
		return err
	}
	var errs []error
	if b.wants(kind+"-deliver", kind+"-deliver-p50", kind+"-deliver-p99") {
		errs = append(errs, b.delivery(l, t, kind+"-deliver",
			order{Do: "deliver", Kind: kind, Items: 1, Budget: b.settings.budget, Rounds: 3}))
	}
	if b.wants(kind + "-batch") {
		errs = append(errs, b.runs(l, t, order{Do: "deliver", Kind: kind, Items: batchItems, Budget: b.settings.budget, Rounds: 3},
			func(result outcome) { b.record(t, kind+"-batch", perUnit(result)) }))
	}
	return errors.Join(errs...)
}

func (b *bench) hold(l *loader, t *target, kind string) error {
	name := "held-" + kind
	if _, err := l.open(kind, warmClients, oneChannel); err != nil {
		return fmt.Errorf("warming: %w", err)
	}
	for _, o := range []order{{Do: "deliver", Kind: kind, Items: 1, Rounds: 1}, {Do: "close"}, {Do: "rest", Budget: time.Second}} {
		if _, err := l.ask(o, orderSlack); err != nil {
			return fmt.Errorf("warming: %w", err)
		}
	}
	before, err := residentBytes(t.pids)
	if err != nil {
		return err
	}
	opened, err := l.open(kind, b.settings.held, oneChannel)
	if err != nil {
		return err
	}
	b.record(t, name+"-open", perUnit(opened))
	if b.wants(name+"-bytes", name+"-idle") {
		after, err := b.settledMemory(l, t)
		if err != nil {
			return err
		}
		b.record(t, name+"-bytes", float64(after-before)/float64(b.settings.held))
		idle, err := l.ask(order{Do: "rest", Budget: b.settings.idle}, b.settings.idle+orderSlack)
		if err != nil {
			return err
		}
		b.record(t, name+"-idle", 100*float64(idle.CPU)/float64(idle.Wall))
	}
	if b.wants(name+"-deliver", name+"-deliver-p50", name+"-deliver-p99") {
		return b.delivery(l, t, name+"-deliver",
			order{Do: "deliver", Kind: kind, Items: 1, Budget: 2 * b.settings.budget, Rounds: 3})
	}
	return nil
}

// settledMemory waits until memory does not shrink any more, within bounds.
func (b *bench) settledMemory(l *loader, t *target) (int64, error) {
	const (
		step   = time.Second
		calm   = 0.995 // a step that keeps more than this share has changed nothing
		leastN = 3
	)
	last, calmSteps := int64(0), 0
	for waited := time.Duration(0); waited < b.settings.settle && calmSteps < leastN; waited += step {
		if _, err := l.ask(order{Do: "rest", Budget: step}, orderSlack); err != nil {
			return 0, err
		}
		now, err := residentBytes(t.pids)
		if err != nil {
			return 0, err
		}
		if calmSteps++; float64(now) < calm*float64(last) {
			calmSteps = 0
		}
		last = now
	}
	return last, nil
}

func (b *bench) manyChannels(l *loader, t *target) error {
	if _, err := l.open(kindWS, b.settings.clients, channelEach); err != nil {
		return err
	}
	var errs []error
	for name, items := range map[string]int{"channels-single": 1, "channels-batch": channelItems} {
		if b.wants(name) {
			errs = append(errs, b.runs(l, t, order{Do: "channels", Kind: kindWS, Items: items, InFlight: publishersMax, Budget: b.settings.budget, Rounds: 2},
				func(result outcome) { b.record(t, name, perUnit(result)) }))
		}
	}
	return errors.Join(errs...)
}

func (b *bench) oneSubscriber(l *loader, t *target) error {
	if _, err := l.open(kindWS, 1, oneChannel); err != nil {
		return err
	}
	var all []float64
	err := b.runs(l, t, order{Do: "one", Kind: kindWS, Rate: oneRate, Budget: 2 * b.settings.budget, Rounds: 10}, func(result outcome) {
		b.record(t, "one", quantile(result.Latencies, 0.50))
		all = append(all, result.Latencies...)
	})
	b.settle(t, "one", quantile(all, 0.50))
	return err
}

func (b *bench) plainProxy(l *loader, t *target) error {
	var errs []error
	for _, work := range []struct {
		name     string
		inFlight int
	}{{"proxy-many", manyInFlight}, {"proxy-one", 1}} {
		if b.wants(work.name) {
			errs = append(errs, b.runs(l, t, order{Do: "proxy", InFlight: work.inFlight, Budget: b.settings.budget},
				func(result outcome) { b.record(t, work.name, perUnit(result)) }))
		}
	}
	return errors.Join(errs...)
}

func (b *bench) exchanges(l *loader, t *target, name string, clients int) error {
	if _, err := l.open(kindWS, clients, noChannel); err != nil {
		return err
	}
	return b.runs(l, t, order{Do: "exchange", Budget: b.settings.budget},
		func(result outcome) { b.record(t, name, perUnit(result)) })
}

func (b *bench) longPolls(l *loader, t *target) error {
	return b.runs(l, t, order{Do: "poll", Clients: pollClients, Budget: b.settings.budget, Rounds: 3}, func(result outcome) {
		b.record(t, "poll", perUnit(result))
	})
}

func (b *bench) publishIntake(l *loader, t *target) error {
	var errs []error
	if b.wants("intake", "intake-rate") {
		errs = append(errs, b.runs(l, t, order{Do: "intake", Items: 1, InFlight: publishersMax, Budget: b.settings.budget}, func(result outcome) {
			b.record(t, "intake", perUnit(result))
			b.record(t, "intake-rate", float64(result.Units)/result.Wall.Seconds())
		}))
	}
	if b.wants("intake-batch") {
		errs = append(errs, b.runs(l, t, order{Do: "intake", Items: channelItems, InFlight: publishersMax, Budget: b.settings.budget},
			func(result outcome) { b.record(t, "intake-batch", perUnit(result)) }))
	}
	return errors.Join(errs...)
}

// perUnit is CPU microseconds for each unit, which is also seconds per million.
func perUnit(result outcome) float64 { return microseconds(result.CPU) / float64(result.Units) }
