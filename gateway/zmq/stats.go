package zmq

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
)

// Value is what a message of statistics says: names and values, each a text, a
// number or a bool.
type Value map[string]any

// AppendMessage writes a message of statistics as Pushpin does: its type, a blank,
// T and a tnetstring, or J and JSON.
func AppendMessage(dst []byte, kind string, value Value, asJSON bool) []byte {
	dst = append(append(dst, kind...), ' ')
	if !asJSON {
		return appendTnetstring(append(dst, letterTnetstring), dict(value))
	}
	dst = append(dst, "J{"...)
	for i, name := range slices.Sorted(maps.Keys(value)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(strconv.AppendQuote(dst, name), ':')
		text, err := json.Marshal(value[name])
		if err != nil {
			panic("zmq: " + err.Error()) // a value that is none of ours
		}
		dst = append(dst, text...)
	}
	return append(dst, '}')
}
