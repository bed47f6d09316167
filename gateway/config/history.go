package config

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/gripway/gripway/gateway/access"
)

// History says of which channels items are kept, and how many. It is plain data.
type History struct {
	Line  string // in one line, whatever way it was written
	Where string // "--history", "gripway.toml:12: history"

	Channels string // a pattern
	Items    int    // of one channel; 0 = 100
	Bytes    int    // of one channel; 0 = 1 MiB
	Age      time.Duration
}

// String is Line.
func (h History) String() string { return h.Line }

// MarshalText is Line.
func (h History) MarshalText() ([]byte, error) { return []byte(h.Line), nil }

// historyOptions are all options there are; none is refused.
var historyOptions = map[string]bool{"channels": false, "items": false, "bytes": false, "age": false}

// readHistory decodes one element of the key history, and reports all that is
// wrong.
func readHistory(v *value) (History, []error) {
	var s section
	var wrong []error
	if v.kind == unstable.InlineTable {
		for _, f := range v.fields {
			_, mine := historyOptions[f.key]
			switch {
			case !mine && findSetting(f.key) != nil:
				wrong = append(wrong, &optionError{f.line, f.key + " is no option of a history: the gateway's own keys stand before the first [[history]]"})
			case f.value.kind == unstable.Bool:
				wrong = append(wrong, &optionError{f.line, "option " + f.key + ": want a text or a number, not " + f.value.text})
			default:
				if err := s.add(f, true); err != nil {
					wrong = append(wrong, &optionError{f.line, err.Error()})
				}
			}
		}
	} else {
		sections, err := parseLine(v.text)
		switch {
		case err != nil:
			return History{}, []error{err}
		case len(sections) != 1:
			return History{}, []error{errors.New("want a pattern and options by commas, without blanks, like news.*,items=1000,age=5m")}
		}
		s = sections[0]
	}

	h := History{Channels: s.value, Line: formatLine([]section{s}, false)}
	said := make(map[string]bool)
	for _, o := range s.options {
		if said[o.name] {
			wrong = append(wrong, &optionError{o.line, "option " + o.name + ": said twice"})
			continue
		}
		said[o.name] = true
		if err := h.readOption(o); err != nil {
			wrong = append(wrong, &optionError{o.line, err.Error()})
		}
	}
	if len(wrong) == 0 {
		if _, err := access.ParsePattern(h.Channels); err != nil {
			wrong = append(wrong, fmt.Errorf("channels: %w", err))
		}
	}
	return h, wrong
}

func (h *History) readOption(o option) (err error) {
	if _, known := historyOptions[o.name]; !known {
		return unknownOption(o.name, historyOptions, nil, "")
	}
	if o.value == "" {
		return fmt.Errorf("option %s needs a value", o.name)
	}
	switch o.name {
	case "channels":
		if h.Channels != "" {
			return fmt.Errorf("channels: it is %q already", h.Channels)
		}
		h.Channels = o.value
	case "items":
		if h.Items, err = strconv.Atoi(o.value); err != nil || h.Items < 1 {
			return fmt.Errorf("items %q: want a number of items, like 100", o.value)
		}
	case "bytes":
		if h.Bytes, err = decodeBytes(o.value); err != nil || h.Bytes < 1 {
			return fmt.Errorf("bytes %q: want a size, like 1MiB", o.value)
		}
	case "age":
		if h.Age, err = time.ParseDuration(o.value); err != nil || h.Age <= 0 {
			return fmt.Errorf("age %q: want a duration, like 5m", o.value)
		}
	}
	return nil
}

// Histories finds the history of a channel: the first whose pattern fits, or nil.
// What is wrong with one is Validate's to tell.
func (c *Config) Histories() func(channel string) *History {
	if len(c.History) == 0 {
		return nil
	}
	patterns := make([]access.Pattern, len(c.History))
	for i, h := range c.History {
		patterns[i], _ = access.ParsePattern(h.Channels)
	}
	histories := c.History
	return func(channel string) *History {
		for i, pattern := range patterns {
			if pattern.Match(channel) {
				return &histories[i]
			}
		}
		return nil
	}
}
