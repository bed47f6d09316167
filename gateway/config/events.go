package config

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// Events is who is told that clients come and go. It is plain data.
type Events struct {
	// Line is all in one line, whatever way it was written; what is secret in a URL is
	// hidden.
	Line string
	// Where it was written: "--events", "gripway.toml:12: events".
	Where string

	Name    string // in logs; "" = none
	Channel string // items are published there, or …
	URL     URL    // … batches are posted there
	Types   []string
	Kinds   []string
	Routes  []string
}

// String is Line.
func (e Events) String() string { return e.Line }

// GoString is Line.
func (e Events) GoString() string { return e.Line }

// MarshalText is Line.
func (e Events) MarshalText() ([]byte, error) { return []byte(e.Line), nil }

// IPCMode is zmq-ipc-mode; 0 if it was not given.
func (c *Config) IPCMode() uint32 {
	mode, _ := decodeMode(c.ZMQIPCMode) // Parse has read it
	return mode
}

// Words that events are chosen by.
var (
	eventTypes = []string{"connect", "disconnect", "subscribe", "unsubscribe"}
	eventKinds = []string{"websocket", "stream", "response"}
)

// eventsOptions are all options there are; none is refused.
var eventsOptions = map[string]bool{"name": false, "channel": false, "url": false, "type": false, "kind": false, "route": false}

// readEvents decodes one element of the key events, and reports all that is wrong.
func readEvents(v *value) (Events, []error) {
	var s section
	var wrong []error
	if v.kind == unstable.InlineTable {
		for _, f := range v.fields {
			if _, mine := eventsOptions[f.key]; !mine && findSetting(f.key) != nil && f.key != "route" {
				wrong = append(wrong, &optionError{f.line, f.key + " is no option of events: the gateway's own keys stand before the first [[events]]"})
				continue
			}
			if err := s.add(f, true); err != nil {
				wrong = append(wrong, &optionError{f.line, err.Error()})
			}
		}
	} else {
		sections, err := parseLine(v.text)
		switch {
		case err != nil:
			return Events{}, []error{err}
		case len(sections) != 1:
			return Events{}, []error{errors.New("want options by commas, without blanks, like channel=events or url=http://localhost:8000/events,type=disconnect")}
		}
		s = sections[0]
	}
	e := Events{Name: s.value, Line: formatLine([]section{s}, false)}
	for _, o := range s.options {
		if err := e.readOption(o); err != nil {
			wrong = append(wrong, &optionError{o.line, err.Error()})
		}
	}
	if len(wrong) == 0 && (e.Channel == "") == (e.URL == "") {
		wrong = append(wrong, errors.New("want channel or url, and an element of its own for each"))
	}
	return e, wrong
}

func (e *Events) readOption(o option) error {
	if _, known := eventsOptions[o.name]; !known {
		return unknownOption(o.name, eventsOptions, nil, "")
	}
	if o.value == "" {
		return fmt.Errorf("option %s needs a value", o.name)
	}
	among := func(words []string) error {
		if !slices.Contains(words, o.value) {
			return fmt.Errorf("%s %q: want one of %s%s", o.name, o.value, strings.Join(words, ", "), didYouMean(o.value, words))
		}
		return nil
	}
	switch o.name {
	case "name":
		e.Name = o.value
	case "channel":
		e.Channel = o.value
	case "url":
		u, err := url.Parse(o.value)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return errors.New("url: want http:// or https:// and a host")
		}
		e.URL = URL(o.value)
	case "type":
		e.Types = append(e.Types, o.value)
		return among(eventTypes)
	case "kind":
		e.Kinds = append(e.Kinds, o.value)
		return among(eventKinds)
	case "route":
		e.Routes = append(e.Routes, o.value)
	}
	return nil
}
