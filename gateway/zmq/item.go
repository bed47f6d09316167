package zmq

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/gripway/gripway/grip"
)

// Letters before a message that say how it is written. Without one it is a
// tnetstring, which begins with a digit.
const (
	letterTnetstring = 'T'
	letterJSON       = 'J'
)

// readItem reads a message that is one item. Its Raw is the JSON that travels
// on the bus, whichever way it came. With keepChannel false, the channel of a
// tnetstring is left out of it.
func readItem(data []byte, keepChannel bool) (*grip.Item, error) {
	if len(data) == 0 {
		return nil, errors.New("the message is empty")
	}
	if data[0] == letterJSON {
		return grip.ParseItem(data[1:])
	}
	value, err := readTnetstring(bytes.TrimPrefix(data, []byte{letterTnetstring}))
	if err != nil {
		return nil, err
	}
	members, ok := value.(dict)
	if !ok {
		return nil, errors.New("the message is not a dictionary")
	}
	if !keepChannel {
		delete(members, "channel")
		delete(members, "channels")
	}
	item, err := itemToJSON(members)
	if err != nil {
		return nil, err
	}
	text, err := appendJSON(nil, item)
	if err != nil {
		return nil, err
	}
	return grip.ParseItem(text)
}

// readItems reads what the command publish is given. Error texts are those of a
// publisher over HTTP.
func readItems(value any) ([]*grip.Item, error) {
	list, ok := value.([]any)
	if !ok {
		return nil, errors.New("Invalid format: object contains 'items' with wrong type") //nolint:staticcheck // the publisher's text
	}
	converted := make([]any, len(list))
	for i, element := range list {
		converted[i] = element
		if members, ok := element.(dict); ok {
			item, err := itemToJSON(members)
			if err != nil {
				return nil, fmt.Errorf("Invalid format: item %d: %w", i, err) //nolint:staticcheck // the publisher's text
			}
			converted[i] = item
		} else if converted[i], ok = plain(element, false); !ok {
			return nil, fmt.Errorf("Invalid format: item %d: %w", i, errNotText) //nolint:staticcheck // the publisher's text
		}
	}
	text, err := appendJSON(nil, map[string]any{"items": converted})
	if err != nil {
		return nil, err
	}
	return grip.ParseItems(text)
}

var errNotText = errors.New("not UTF-8")

// itemToJSON returns what the item is in JSON. There bytes have to be text, so
// contents that are not go through the -bin members (base64), and other things
// that are not are refused: half a channel's name is another channel. What
// nobody here reads is kept as well as can be.
func itemToJSON(members dict) (map[string]any, error) {
	item := make(map[string]any, len(members))
	for name, value := range members {
		var err error
		switch name {
		case "http-response", "http-stream", "ws-message": // the legacy form
			item[name], err = formatToJSON(name, value)
		case "formats":
			item[name], err = formatsToJSON(value)
		case "channel", "channels", "deliver", "id", "prev-id", "meta", "size", "no-seq":
			item[name], err = text(name, value)
		default:
			item[strings.ToValidUTF8(name, "\uFFFD")], _ = plain(value, true)
		}
		if err != nil {
			return nil, err
		}
	}
	return item, nil
}

func formatsToJSON(value any) (any, error) {
	members, ok := value.(dict)
	if !ok {
		return text("formats", value)
	}
	formats := make(map[string]any, len(members))
	for name, value := range members {
		switch name {
		case "http-response", "http-stream", "ws-message":
			var err error
			if formats[name], err = formatToJSON(name, value); err != nil {
				return nil, err
			}
		default:
			formats[strings.ToValidUTF8(name, "\uFFFD")], _ = plain(value, true)
		}
	}
	return formats, nil
}

func formatToJSON(name string, value any) (any, error) {
	members, ok := value.(dict)
	if !ok {
		return text(name, value)
	}
	content := "content"
	if name == "http-response" {
		content = "body"
	}
	binary := content + "-bin"
	format := make(map[string]any, len(members)+1)
	for member, value := range members {
		raw, isBytes := value.([]byte)
		switch {
		case member == binary && name != "ws-message":
			// Only JSON has it: here body and content are bytes already.
		case member == binary && isBytes:
			format[member] = base64.StdEncoding.EncodeToString(raw)
		case member == content && isBytes && !utf8.Valid(raw):
			if _, both := members[binary]; both && name == "ws-message" {
				continue // that one wins
			}
			// A WebSocket message without a type becomes a binary one: as text, no
			// client could be sent it (RFC 6455, section 5.6).
			format[binary] = base64.StdEncoding.EncodeToString(raw)
		default:
			converted, err := text(name+" "+member, value)
			if err != nil {
				return nil, err
			}
			format[member] = converted
		}
	}
	return format, nil
}

// text is a value in JSON, or the error that some of it is not text.
func text(name string, value any) (any, error) {
	converted, ok := plain(value, false)
	if !ok {
		return nil, fmt.Errorf("%.40q: %w", name, errNotText)
	}
	return converted, nil
}

// plain is a value in JSON. What is not UTF-8 is made so, or else ok is false.
func plain(value any, lossy bool) (converted any, ok bool) {
	word := func(s string) (string, bool) {
		if utf8.ValidString(s) {
			return s, true
		}
		return strings.ToValidUTF8(s, "\uFFFD"), lossy
	}
	switch v := value.(type) {
	case []byte:
		return word(string(v))
	case []any:
		list := make([]any, len(v))
		for i, element := range v {
			if list[i], ok = plain(element, lossy); !ok {
				return nil, false
			}
		}
		return list, true
	case dict:
		object := make(map[string]any, len(v))
		for name, element := range v {
			if name, ok = word(name); !ok {
				return nil, false
			}
			if object[name], ok = plain(element, lossy); !ok {
				return nil, false
			}
		}
		return object, true
	}
	return value, true // numbers, truth values and nothing
}

// appendJSON writes what plain returns.
func appendJSON(dst []byte, value any) ([]byte, error) {
	buffer := bytes.NewBuffer(dst)
	encoder := json.NewEncoder(buffer)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return buffer.Bytes(), err
}
