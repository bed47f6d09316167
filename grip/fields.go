package grip

// Members that items, instructions and control messages have in common. Error
// texts are what publishers and origins of Pushpin already read, word for word;
// parent names the object they are in.

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// space is what Pushpin trims around names and values.
const space = " \t\n\v\f\r"

// Reason returns the standard reason of a status, or "Undefined Reason".
func Reason(code int) string {
	if reason := http.StatusText(code); reason != "" {
		return reason
	}
	return "Undefined Reason"
}

func statusOrOK(code int) int {
	if code == 0 {
		return http.StatusOK
	}
	return code
}

func wrongType(parent, name string) error {
	return fmt.Errorf("%s contains '%s' with wrong type", parent, name)
}

func invalidValue(parent, name string) error {
	return fmt.Errorf("%s contains '%s' with invalid value", parent, name)
}

// optionalString reads a string that may be absent or null.
func optionalString(parent, name string, value []byte) (string, error) {
	switch kindOf(value) {
	case absent, null:
		return "", nil
	case text:
		return string(stringValue(value)), nil
	}
	return "", wrongType(parent, name)
}

// optionalBool is false if there is none.
func optionalBool(parent, name string, value []byte) (bool, error) {
	switch kindOf(value) {
	case absent, null:
		return false, nil
	case boolean:
		return value[0] == 't', nil
	}
	return false, wrongType(parent, name)
}

// requiredString reads a string that must be there.
func requiredString(parent, name string, value []byte) (string, error) {
	switch kindOf(value) {
	case absent:
		return "", fmt.Errorf("%s does not contain '%s'", parent, name)
	case text:
		return string(stringValue(value)), nil
	}
	return "", wrongType(parent, name)
}

// optionalMeta reads names with values, nil if there are none.
func optionalMeta(parent string, value []byte) (map[string]string, error) {
	switch kindOf(value) {
	case absent, null:
		return nil, nil
	case object:
	default:
		return nil, wrongType(parent, "meta")
	}
	var meta map[string]string
	r := read(value)
	for r.enter(); ; {
		name, ok := r.member()
		if !ok {
			return meta, nil
		}
		value := r.value()
		if kindOf(value) != text {
			return nil, fmt.Errorf("'meta' contains '%s' with wrong type", name)
		}
		if meta == nil {
			meta = make(map[string]string)
		}
		meta[string(name)] = string(stringValue(value))
	}
}

// naturalNumber reads a number that is not negative.
func naturalNumber(parent, name string, value []byte) (int, error) {
	n, ok := intValue(value)
	if !ok {
		return 0, wrongType(parent, name)
	}
	if n < 0 {
		return 0, invalidValue(parent, name)
	}
	return n, nil
}

// parseStatus reads code and reason and fills in what is absent. A code of 0,
// which Pushpin takes and no status line can carry, counts as absent.
func parseStatus(parent string, codeValue, reasonValue []byte) (code int, reason string, err error) {
	if codeValue != nil {
		if code, err = naturalNumber(parent, "code", codeValue); err != nil {
			return 0, "", err
		}
		if code > statusMax {
			return 0, "", invalidValue(parent, "code")
		}
	}
	code = statusOrOK(code)
	if reason, err = optionalString(parent, "reason", reasonValue); err != nil {
		return 0, "", err
	}
	if !validHeaderValue(reason) {
		return 0, "", invalidValue(parent, "reason")
	}
	if reason == "" {
		reason = Reason(code)
	}
	return code, reason, nil
}

// statusMax is the largest status that three digits can say.
const statusMax = 999

// parseHeaders reads {"name":"value"} or [["name","value"]]. Unlike Pushpin it
// refuses names and values that would break out of their line.
func parseHeaders(parent string, value []byte) (http.Header, error) {
	switch kindOf(value) {
	case absent:
		return nil, nil
	case object:
		return parseHeaderObject(value)
	case list:
		return parseHeaderList(value)
	}
	return nil, wrongType(parent, "headers")
}

// parseHeaderObject takes the last of two members with one name, as for every
// object; two names that differ in case only are two headers.
func parseHeaderObject(value []byte) (header http.Header, err error) {
	var names []string
	values := make(map[string][]byte)
	r := read(value)
	for r.enter(); ; {
		name, ok := r.member()
		if !ok {
			break
		}
		value := r.value()
		if kindOf(value) != text {
			return nil, fmt.Errorf("headers contains '%s' with wrong type", name)
		}
		if _, seen := values[string(name)]; !seen {
			names = append(names, string(name))
		}
		values[string(name)] = stringValue(value)
	}
	for _, name := range names {
		if header, err = addHeader(header, name, values[name]); err != nil {
			return nil, err
		}
	}
	return header, nil
}

func parseHeaderList(value []byte) (header http.Header, err error) {
	r := read(value)
	for r.enter(); r.element(); {
		if r.kind() != list {
			return nil, errors.New("headers contains element with wrong type")
		}
		var pair [][]byte
		for r.enter(); r.element(); {
			pair = append(pair, r.value())
		}
		switch {
		case len(pair) != 2:
			return nil, errors.New("headers contains list with wrong number of elements")
		case kindOf(pair[0]) != text:
			return nil, errors.New("header contains name element with wrong type")
		case kindOf(pair[1]) != text:
			return nil, errors.New("header contains value element with wrong type")
		}
		if header, err = addHeader(header, string(stringValue(pair[0])), stringValue(pair[1])); err != nil {
			return nil, err
		}
	}
	return header, nil
}

func addHeader(header http.Header, name string, value []byte) (http.Header, error) {
	if !validHeaderName(name) || !validHeaderValue(string(value)) {
		quoted := strconv.Quote(name) // a name may be anything
		return nil, fmt.Errorf("headers contains '%s' with invalid value", quoted[1:len(quoted)-1])
	}
	if header == nil {
		header = make(http.Header)
	}
	header.Add(name, string(value))
	return header, nil
}

// validHeaderName tells a token of RFC 9110 5.6.2.
func validHeaderName(name string) bool {
	for i := range len(name) {
		if !isToken(name[i]) {
			return false
		}
	}
	return name != ""
}

func isToken(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// validHeaderValue tells what may stand in one line: no control characters but
// the tab.
func validHeaderValue(value string) bool {
	for i := range len(value) {
		if c := value[i]; c < 0x20 && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func parseMessageType(parent, name string, value []byte) (MessageType, error) {
	typeName := stringValue(value)
	for i, known := range messageTypeNames {
		if string(typeName) == known {
			return MessageType(i), nil
		}
	}
	return 0, fmt.Errorf("%s contains '%s' with unknown value", parent, name)
}

// stringList reads a list of which all elements are strings.
func stringList(value []byte) (list []string, ok bool) {
	r := read(value)
	for r.enter(); r.element(); {
		if r.kind() != text {
			return nil, false
		}
		list = append(list, string(stringValue(r.value())))
	}
	return list, true
}

// decodeBase64 decodes leniently, as Pushpin does: padding is optional and what
// is not in the alphabet is passed over. Unlike Pushpin it knows the alphabet
// of RFC 4648 5 (- and _) too.
func decodeBase64(in []byte) []byte {
	out := make([]byte, base64.StdEncoding.DecodedLen(len(in)))
	if n, err := base64.StdEncoding.Decode(out, in); err == nil {
		return out[:n]
	}
	out = out[:0]
	var bits uint32
	held := 0 // bits of it that are not yet in out
	for _, c := range in {
		switch {
		case 'A' <= c && c <= 'Z':
			c -= 'A'
		case 'a' <= c && c <= 'z':
			c -= 'a' - 26
		case '0' <= c && c <= '9':
			c += 52 - '0'
		case c == '+' || c == '-':
			c = 62
		case c == '/' || c == '_':
			c = 63
		default:
			continue
		}
		bits = bits<<6 | uint32(c)
		if held += 6; held >= 8 {
			held -= 8
			out = append(out, byte(bits>>held))
		}
	}
	return out
}
