//go:build linux

// The tool's side of its load generator.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// loader is a load generator's process and the talk with it. Not for
// concurrent use.
type loader struct {
	process *child
	orders  *json.Encoder
	results *json.Decoder
	origin  string // address of its origin
}

// startLoader starts a load generator with its origin.
func startLoader(dir string) (*loader, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	process, err := spawn("load", dir, true, plainEnvironment(), self, childFlag, "load")
	if err != nil {
		return nil, err
	}
	l := &loader{process: process, orders: json.NewEncoder(process.in), results: json.NewDecoder(process.out)}
	var first hello
	err = l.hear(&first, startPatience)
	if err == nil && first.Error != "" {
		err = errors.New(first.Error)
	}
	if err != nil {
		l.process.stop()
		return nil, fmt.Errorf("load generator: %w", err)
	}
	l.origin = first.Origin
	return l, nil
}

// hear decodes the next line; a load generator that says nothing in time is
// ended, and good for nothing afterwards.
func (l *loader) hear(into any, patience time.Duration) error {
	heard := make(chan error, 1)
	go func() { heard <- l.results.Decode(into) }() // ends with the line, or with the process
	select {
	case err := <-heard:
		if err != nil {
			return fmt.Errorf("%w; its last output:\n%s", err, indented(l.process.lastWords()))
		}
		return nil
	case <-time.After(patience):
		l.process.stop()
		<-heard
		return fmt.Errorf("no answer within %s", patience)
	}
}

// ask has one order carried out.
func (l *loader) ask(o order, patience time.Duration) (outcome, error) {
	if err := l.orders.Encode(o); err != nil {
		return outcome{}, fmt.Errorf("load generator: %w", err)
	}
	var result outcome
	if err := l.hear(&result, patience); err != nil {
		return outcome{}, fmt.Errorf("load generator: %s: %w", o.Do, err)
	}
	if result.Error != "" {
		return outcome{}, fmt.Errorf("%s: %s", o.Do, result.Error)
	}
	return result, nil
}

// aim points it at a target.
func (l *loader) aim(t *target) error {
	_, err := l.ask(order{Do: "aim", Front: t.front, Control: t.control, Pids: t.pids}, startPatience)
	return err
}

// open connects clients that stay.
func (l *loader) open(kind string, clients int, channels string) (outcome, error) {
	return l.ask(order{Do: "open", Kind: kind, Clients: clients, Channels: channels, InFlight: openInFlight}, orderSlack)
}
