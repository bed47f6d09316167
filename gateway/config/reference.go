package config

import (
	"fmt"
	"strings"
)

// Reference is every setting of the gateway as Markdown: a table for each group
// with key, default and meaning. Flags and variables are called as the keys are.
func Reference() string {
	var b strings.Builder
	for i, group := range groups {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "**%s**\n\n| key | value | default | |\n|---|---|---|---|\n", group.title)
		for j := range settings {
			s := &settings[j]
			if s.group != group.key {
				continue
			}
			def := ""
			if s.def != "" {
				def = "`" + s.def + "`"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", s.key, s.word(), def, strings.ReplaceAll(s.help, "|", "\\|"))
		}
	}
	return b.String()
}

// word says in a word or two what the setting takes.
func (s *setting) word() string {
	word := ""
	switch s.kind {
	case "text":
		word = "text"
	case "bool":
		word = "true, false"
	case "choice":
		word = strings.Join(s.oneof, ", ")
	case "forwarded":
		word = "rule"
	case "nats", "peer":
		word = "URL"
	case "zmq":
		word = "endpoint"
	case "mode":
		word = "octal"
	case "bytes":
		word = "size"
	case "token":
		word = "name"
	case "secret":
		word = "key"
	default:
		word = s.kind // address, file, count, duration, route
	}
	if s.list {
		word = "list of " + word
	}
	return word
}
