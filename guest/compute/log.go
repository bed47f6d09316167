package compute

import (
	"bytes"
	"io"
	"log/slog"
	"strings"

	"github.com/gripway/gripway/guest"
)

var logCalls = map[string]hostcall{
	"endpoint_get": logEndpoint,
	"write":        logWrite,
}

// logLineMax bounds one line in the log. What is longer is cut, and says so.
const logLineMax = 64 << 10

// endpointsMax bounds the endpoints that a guest asks for.
const endpointsMax = 256

// endpointNameMax bounds their names.
const endpointNameMax = 1024

// logEndpoint gives the guest an endpoint by name. There is any, but for those that
// Fastly keeps to itself.
func logEndpoint(c *call) status {
	b, st := c.bytes(0)
	if st != statusOK {
		return st
	}
	name := strings.ToValidUTF8(string(b), "\uFFFD")
	lower := strings.ToLower(name)
	switch {
	case lower == "stdout", lower == "stderr", strings.HasPrefix(lower, "fst_managed_"), len(name) > endpointNameMax:
		return statusInvalid
	}
	for h, known := range c.endpoints {
		if known == name {
			return c.put32(2, uint32(h))
		}
	}
	if len(c.endpoints) >= endpointsMax {
		return statusLimit
	}
	c.endpoints = append(c.endpoints, name)
	return c.put32(2, uint32(len(c.endpoints)-1))
}

// logWrite logs a message.
func logWrite(c *call) status {
	if c.u32(0) >= uint32(len(c.endpoints)) {
		return statusBadHandle
	}
	message, st := c.bytes(1)
	if st != statusOK {
		return st
	}
	// One newline is where a message ends; a message of nothing else is none.
	if text := bytes.TrimSuffix(message, []byte("\n")); len(text) > 0 {
		c.logLine(c.endpoints[c.u32(0)], text)
	}
	return c.put32(3, uint32(len(message)))
}

// logLine writes a line of the guest's to the log.
func (b *sandbox) logLine(endpoint string, message []byte) {
	to := b.service.Log
	if to == nil {
		return
	}
	attributes := []any{"guest", b.Program.Name(), "endpoint", endpoint}
	if b.current != nil {
		attributes = append(attributes, "request", b.current.id)
	}
	if len(message) > logLineMax {
		attributes = append(attributes, "bytes", len(message))
		message = message[:logLineMax]
	}
	level := slog.LevelInfo
	if endpoint == "stderr" {
		level = slog.LevelWarn
	}
	to.Log(b.Context(), level, strings.ToValidUTF8(string(message), "\uFFFD"), attributes...)
}

// output is where what a guest prints goes: to a writer, if there is one, or to the
// log.
func (b *sandbox) output(to io.Writer, endpoint string) io.Writer {
	if to != nil {
		return to
	}
	if b.service.Log == nil {
		return nil
	}
	lines := &guest.Lines{Line: func(line []byte) {
		if line = bytes.TrimSuffix(line, []byte("\r")); len(line) > 0 { // empty ones are between the parts of a stack trace
			b.logLine(endpoint, line)
		}
	}}
	b.printed = append(b.printed, lines)
	return lines
}
