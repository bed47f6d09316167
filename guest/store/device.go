package store

import (
	"encoding/json"
	"fmt"
	"log/slog"
)

// Devices says what User-Agents are. It may be used concurrently.
type Devices struct {
	userAgents map[string]json.RawMessage
	file       *live[map[string]json.RawMessage]
}

// NewDevices opens the documents.
func NewDevices(opts DeviceOptions, log *slog.Logger) (*Devices, error) {
	if opts.File == "" {
		return &Devices{userAgents: opts.UserAgents}, nil
	}
	file, err := newLive(opts.File, log, ReadDevices)
	return &Devices{file: file}, err
}

// Lookup returns the document about a User-Agent, nil if there is none.
func (d *Devices) Lookup(userAgent string) json.RawMessage {
	if d.file != nil {
		return d.file.get()[userAgent]
	}
	return d.userAgents[userAgent]
}

// ReadDevices reads documents by User-Agent from JSON.
func ReadDevices(data []byte) (map[string]json.RawMessage, error) {
	object, err := readObject(data)
	if err != nil {
		return nil, err
	}
	for userAgent, raw := range object {
		if raw[0] != '{' {
			return nil, fmt.Errorf("user agent %q: want an object", userAgent)
		}
	}
	return object, nil
}
