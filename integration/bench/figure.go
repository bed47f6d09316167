// The figures: what each is called, its unit, and the goal it is held against.

package main

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// settings are how much of everything a run does.
type settings struct {
	runs    int           // how often each timed figure is taken
	clients int           // subscribers where a thousand are meant
	held    int           // subscribers where as many as possible are meant
	budget  time.Duration // how long one run of a timed figure lasts
	idle    time.Duration // how long idleness is watched
	settle  time.Duration // how long memory may take to settle
}

var (
	defaultSettings = settings{runs: 3, clients: 1000, held: 10_000, budget: 1500 * time.Millisecond, idle: 5 * time.Second, settle: 12 * time.Second}
	quickSettings   = settings{runs: 1, clients: 1000, held: 2000, budget: 300 * time.Millisecond, idle: 2 * time.Second, settle: 4 * time.Second}
)

const (
	batchItems    = 8   // items in one POST that wait for the same clients
	channelItems  = 10  // items in one POST for as many channels
	publishersMax = 8   // POSTs at once where more than one is under way
	manyInFlight  = 64  // requests or exchanges at once
	openInFlight  = 16  // handshakes at once
	pollClients   = 200 // long polls answered together
	oneRate       = 50  // items a second to the lone subscriber
)

// figure is one line of the table.
type figure struct {
	name     string
	title    string
	unit     string
	scenario string // the scenario that measures it

	// The goal for Gripway: an absolute figure, or a multiple of the floor's.
	// Zero values mean that there is none.
	atMost  float64
	ofFloor float64
}

const (
	perMillion = "CPU s per million"
	perRequest = "CPU µs"
	millis     = "ms"
)

// idleCPUMax is what counts as no CPU at all, in per cent of one core: the
// runtime of a language may look at its clock now and then.
const idleCPUMax = 0.1

// allFigures are the lines of the table, in its order.
func allFigures(s settings) []figure {
	some, held := grouped(int64(s.clients)), grouped(int64(s.held))
	figures := []figure{}
	kinds := []struct {
		kind, plural                 string
		heldOfFloor, heldLastOfFloor float64
		idleBytesAtMost, openAtMost  float64
	}{
		{kindStream, "streams", 0, 0, 1000, 200},
		{kindWS, "WebSockets", 1.3, 1.3, 2000, 250},
	}
	for _, k := range kinds {
		name, scenario := k.kind, k.kind
		figures = append(figures,
			figure{name: name + "-deliver", scenario: scenario, unit: perMillion, ofFloor: 1.15, title: "deliver, " + some + " " + k.plural},
			figure{name: name + "-deliver-p50", scenario: scenario, unit: millis, title: "  to the last of them, p50"},
			figure{name: name + "-deliver-p99", scenario: scenario, unit: millis, title: "  to the last of them, p99"},
			figure{name: name + "-batch", scenario: scenario, unit: perMillion, atMost: 1.2, title: fmt.Sprintf("  %d items in one POST", batchItems)},
		)
	}
	for _, k := range kinds {
		name, scenario := "held-"+k.kind, "held-"+k.kind
		figures = append(figures,
			figure{name: name + "-deliver", scenario: scenario, unit: perMillion, ofFloor: k.heldOfFloor, title: "deliver, " + held + " " + k.plural},
			figure{name: name + "-deliver-p50", scenario: scenario, unit: millis, title: "  to the last of them, p50"},
			figure{name: name + "-deliver-p99", scenario: scenario, unit: millis, ofFloor: k.heldLastOfFloor, title: "  to the last of them, p99"},
			figure{name: name + "-open", scenario: scenario, unit: perRequest, atMost: k.openAtMost, title: "  to open one, origin asked"},
			figure{name: name + "-bytes", scenario: scenario, unit: "bytes", atMost: k.idleBytesAtMost, title: "  memory of an idle one"},
			figure{name: name + "-idle", scenario: scenario, unit: "CPU %", atMost: idleCPUMax, title: "  idle, all held"},
		)
	}
	return append(figures,
		figure{name: "channels-single", scenario: "channels", unit: perMillion, atMost: 45, title: some + " channels × 1 WebSocket, one POST each"},
		figure{name: "channels-batch", scenario: "channels", unit: perMillion, atMost: 15, title: fmt.Sprintf("  %d items a POST", channelItems)},
		figure{name: "one", scenario: "one", unit: millis, ofFloor: 1.2, title: fmt.Sprintf("one item, one WebSocket, %d/s, p50", oneRate)},
		figure{name: "proxy-many", scenario: "proxy", unit: perRequest, atMost: 80, title: fmt.Sprintf("plain proxy 1 KiB, %d in flight", manyInFlight)},
		figure{name: "proxy-one", scenario: "proxy", unit: perRequest, atMost: 140, title: "plain proxy 1 KiB, 1 in flight"},
		figure{name: "exchange-many", scenario: "exchange-many", unit: perRequest, atMost: 150, title: fmt.Sprintf("WebSocket-over-HTTP round trip, %d clients", manyInFlight)},
		figure{name: "exchange-one", scenario: "exchange-one", unit: perRequest, atMost: 300, title: "WebSocket-over-HTTP round trip, 1 client"},
		figure{name: "poll", scenario: "poll", unit: perRequest, atMost: 200, title: fmt.Sprintf("long poll, %d answered together, cycle and client", pollClients)},
		figure{name: "intake", scenario: "intake", unit: perRequest, title: "publish to no subscriber, an item"},
		figure{name: "intake-rate", scenario: "intake", unit: "POSTs/s", title: "  POSTs a second"},
		figure{name: "intake-batch", scenario: "intake", unit: perRequest, title: fmt.Sprintf("  %d items a POST, an item", channelItems)},
	)
}

// choose keeps the figures that a comma-separated list of names, scenarios or
// patterns names; an empty list keeps all.
func choose(figures []figure, list string) ([]figure, error) {
	if list == "" {
		return figures, nil
	}
	chosen := map[string]bool{}
	for pattern := range strings.SplitSeq(list, ",") {
		found := false
		for _, f := range figures {
			byName, err := path.Match(pattern, f.name)
			if err != nil {
				return nil, fmt.Errorf("-only: %q: %w", pattern, err)
			}
			byScenario, _ := path.Match(pattern, f.scenario)
			if byName || byScenario {
				chosen[f.name], found = true, true
			}
		}
		if !found {
			return nil, fmt.Errorf("-only: no figure or scenario is called %q (see -list)", pattern)
		}
	}
	return slices.DeleteFunc(slices.Clone(figures), func(f figure) bool { return !chosen[f.name] }), nil
}

// goal is the largest value that meets it, given the floor's; ok is false if
// there is none, or the floor it depends on was not measured.
func (f figure) goal(floor float64, haveFloor bool) (limit float64, ok bool) {
	switch {
	case f.atMost > 0:
		return f.atMost, true
	case f.ofFloor > 0 && haveFloor:
		return f.ofFloor * floor, true
	}
	return 0, false
}

// goalText is how the table states it.
func (f figure) goalText(floor float64, haveFloor bool) string {
	limit, ok := f.goal(floor, haveFloor)
	switch {
	case f.ofFloor > 0 && ok:
		return fmt.Sprintf("≤ %s (%s×floor)", digits(limit), trimmed(f.ofFloor))
	case f.ofFloor > 0:
		return fmt.Sprintf("≤ %s×floor", trimmed(f.ofFloor))
	case ok:
		return "≤ " + digits(limit)
	}
	return ""
}

func trimmed(v float64) string { return fmt.Sprintf("%g", v) }
