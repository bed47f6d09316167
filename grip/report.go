package grip

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// reportBytesMax is how much of a report is read: that of a thousand items.
const reportBytesMax = 4 << 20

// Report is what became of items, as far as the nodes of a gateway could say in
// the time they were given.
type Report struct {
	Accepted   int `json:"accepted"`   // items
	Duplicates int `json:"duplicates"` // items that somebody had had already
	Counts         // of all items

	Nodes    int      `json:"nodes"`             // of the gateway, as it knows them
	Answered int      `json:"answered"`          // of them, in time
	Missing  []string `json:"missing,omitempty"` // names of the others

	Items []ItemReport `json:"items"`
}

// ItemReport is what became of one item.
type ItemReport struct {
	ID       string   `json:"id,omitempty"`
	Channels []string `json:"channels"`
	Counts

	// Unknown says that the item was for one receiver, and that it is not known
	// whether somebody took it.
	Unknown bool `json:"unknown,omitempty"`
}

// Counts are clients.
type Counts struct {
	Receivers int            `json:"receivers"` // who follow a channel with a kind of client the item has something for
	Delivered int            `json:"delivered"` // written to the client's socket, or taken by its queue
	Queued    int            `json:"queued"`    // those of Delivered for whom something still waits in the queue
	Waiting   int            `json:"waiting"`   // for whom it is not decided yet
	Dropped   map[string]int `json:"dropped"`   // who do not get it, by reason
}

// PublishAndReport is Publish that waits until the gateway knows what became of the
// items, up to a time: whole seconds or more are what every clock agrees on, and a
// minute is the most. It returns a report for each gateway that accepted all items.
// Gateways that cannot say (Pushpin) accept, and their report is nil.
func (p *Publisher) PublishAndReport(ctx context.Context, wait time.Duration, items ...*Item) ([]*Report, error) {
	if p.closed.Load() {
		return nil, ErrClosed
	}
	if len(items) == 0 {
		return nil, nil
	}
	body, err := p.encode(items)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout+wait)
	defer cancel()
	reports, errs := make([]*Report, len(p.endpoints)), make([]error, len(p.endpoints))
	var wg sync.WaitGroup
	for i := range p.endpoints {
		wg.Go(func() {
			e := p.endpoints[i]
			sign := "?"
			if strings.Contains(e.PublishURL, "?") {
				sign = "&"
			}
			e.PublishURL += sign + "wait=" + wait.String()
			var text []byte
			if text, errs[i] = p.post(ctx, &e, body, reportBytesMax); errs[i] != nil || !strings.HasPrefix(string(text), "{") {
				return
			}
			report := new(Report)
			if err := json.Unmarshal(text, report); err != nil {
				errs[i] = fmt.Errorf("grip: publish to %s: what became of it cannot be read: %w", e.String(), err)
				return
			}
			reports[i] = report
		})
	}
	wg.Wait()
	return reports, errors.Join(errs...)
}
