package grip

import (
	"bytes"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
)

// ControlPrefix begins a WebSocket text message that is for the gateway and
// not for the client. What follows is the JSON of a Control.
const ControlPrefix = "c:"

// Control is an instruction that an origin hid in a WebSocket message.
type Control struct {
	Type ControlType

	Channel string   // Subscribe, Unsubscribe; not ""
	Pattern bool     // Subscribe, Unsubscribe: Channel is a pattern
	Filters []string // Subscribe; at most FiltersMax, which the gateway enforces
	PrevID  string   // Subscribe: id of the last item the client has; "" = not kept track of

	Match string // AutoReply: the text of the client that is answered; not ""

	Name   string // SetMeta; not ""
	Value  string // SetMeta
	Delete bool   // SetMeta: there is no value, forget the name

	// KeepAlive, SendDelayed and AutoReply. A keep-alive without content turns
	// keep-alives off, an auto-reply without content forgets Match; empty content is
	// content.
	Content     []byte
	HasContent  bool
	MessageType MessageType
	Timeout     time.Duration // not of AutoReply; filled in once parsed; 0 = the type's default when written
	Mode        KeepAliveMode // KeepAlive
}

// ControlType says what a Control asks for.
type ControlType int

const (
	ControlSubscribe    ControlType = iota
	ControlUnsubscribe              // leave a channel
	ControlDetach                   // go on without the origin
	ControlSetMeta                  // set or delete what filters know of the connection
	ControlKeepAlive                // send something now and then
	ControlSendDelayed              // send a message later, unless another takes its place
	ControlFlushDelayed             // send it now
	ControlAutoReply                // answer a text of the client without the origin
)

var controlNames = []string{"subscribe", "unsubscribe", "detach", "set-meta", "keep-alive", "send-delayed", "flush-delayed", "auto-reply"}

// String returns the name in the protocol.
func (t ControlType) String() string { return nameOf(controlNames, int(t)) }

// ParseControl reads what stands behind ControlPrefix. The error is a
// *ControlError. Type "session", which needs a service that only Pushpin has,
// is an error like any unknown type. The Control keeps no reference to data.
func ParseControl(data []byte) (Control, error) {
	data = trimSpace(data)
	if !validJSON(data) {
		return Control{}, &ControlError{Text: "grip control packet is not valid JSON"}
	}
	if kindOf(data) != object {
		return Control{}, &ControlError{Text: "grip control packet is not an object"}
	}
	control, err := parseControl(data)
	if err != nil {
		return Control{}, &ControlError{Text: err.Error()}
	}
	return control, nil
}

// controlValue is a control message, not yet read.
type controlValue struct {
	controlType, channel, pattern, filters, prevID, match, name, value []byte

	messageType, content, contentBin, timeout, mode []byte
}

const controlParent = "grip control object"

func parseControl(data []byte) (control Control, err error) {
	var v controlValue
	r := read(data)
	for r.enter(); ; {
		name, ok := r.member()
		if !ok {
			break
		}
		value := r.value()
		switch string(name) {
		case "type":
			v.controlType = value
		case "channel":
			v.channel = value
		case "pattern":
			v.pattern = value
		case "filters":
			v.filters = value
		case "prev-id":
			v.prevID = value
		case "match":
			v.match = value
		case "name":
			v.name = value
		case "value":
			v.value = value
		case "message-type":
			v.messageType = value
		case "content":
			v.content = value
		case "content-bin":
			v.contentBin = value
		case "timeout":
			v.timeout = value
		case "mode":
			v.mode = value
		}
	}
	if control.Type, err = v.readType(); err != nil {
		return control, err
	}
	switch control.Type {
	case ControlSubscribe:
		if control.Channel, err = nonEmpty("channel", v.channel); err == nil {
			control.Pattern, err = optionalBool(controlParent, "pattern", v.pattern)
		}
		if err == nil {
			control.Filters, err = optionalFilters(controlParent, v.filters)
		}
		if err == nil {
			control.PrevID, err = optionalString(controlParent, "prev-id", v.prevID)
		}
	case ControlUnsubscribe:
		if control.Channel, err = nonEmpty("channel", v.channel); err == nil {
			control.Pattern, err = optionalBool(controlParent, "pattern", v.pattern)
		}
	case ControlSetMeta:
		if control.Name, err = nonEmpty("name", v.name); err == nil {
			control.Value, err = optionalString(controlParent, "value", v.value)
			control.Delete = kindOf(v.value) == absent || kindOf(v.value) == null
		}
	case ControlKeepAlive:
		err = v.readKeepAlive(&control)
	case ControlSendDelayed:
		err = v.readContent(&control, SendDelayedTimeoutDefault)
	case ControlAutoReply:
		if control.Match, err = nonEmpty("match", v.match); err == nil {
			v.timeout = nil
			err = v.readContent(&control, 0)
		}
	}
	return control, err
}

func (v *controlValue) readType() (ControlType, error) {
	name, err := requiredString(controlParent, "type", v.controlType)
	if err != nil {
		return 0, err
	}
	for i, known := range controlNames {
		if name == known {
			return ControlType(i), nil
		}
	}
	return 0, fmt.Errorf("'type' contains unknown value: %.40q", name)
}

func nonEmpty(name string, value []byte) (string, error) {
	s, err := requiredString(controlParent, name, value)
	if err == nil && s == "" {
		err = invalidValue(controlParent, name)
	}
	return s, err
}

func (v *controlValue) readKeepAlive(control *Control) error {
	if err := v.readContent(control, KeepAliveTimeoutDefault); err != nil {
		return err
	}
	mode, err := optionalString(controlParent, "mode", v.mode)
	if err == nil && mode == "interval" { // any other is idle
		control.Mode = KeepAliveInterval
	}
	return err
}

// readContent reads content, its type and timeout. The type is text unless it
// is named, for content-bin too.
func (v *controlValue) readContent(control *Control, timeoutDefault time.Duration) (err error) {
	switch kindOf(v.messageType) {
	case absent, null:
	case text:
		if control.MessageType, err = parseMessageType(controlParent, "message-type", v.messageType); err != nil {
			return err
		}
	default:
		return wrongType(controlParent, "message-type")
	}

	switch {
	case kindOf(v.contentBin) == text:
		control.Content, control.HasContent = decodeBase64(stringValue(v.contentBin)), true
	case v.contentBin != nil:
		return wrongType(controlParent, "content-bin")
	case kindOf(v.content) == text:
		control.Content, control.HasContent = bytes.Clone(stringValue(v.content)), true
	case v.content != nil:
		return wrongType(controlParent, "content")
	default:
		return nil
	}

	control.Timeout = timeoutDefault
	if v.timeout != nil {
		n, err := naturalNumber(controlParent, "timeout", v.timeout)
		if err != nil {
			return err
		}
		if n > 0 { // zero is the default here, unlike in instructions
			control.Timeout = time.Duration(n) * time.Second
		}
	}
	return nil
}

// MarshalJSON writes what ParseControl reads.
func (control Control) MarshalJSON() ([]byte, error) {
	if control.Type < 0 || int(control.Type) >= len(controlNames) {
		return nil, errors.New("grip: unknown control type")
	}
	dst := append([]byte(`{"type":"`), control.Type.String()...)
	dst = append(dst, `",`...)
	switch control.Type {
	case ControlSubscribe, ControlUnsubscribe:
		if control.Channel == "" {
			return nil, fmt.Errorf("%s: %w", control.Type, ErrNoChannel)
		}
		dst = append(dst, `"channel":`...)
		dst = append(appendName(dst, control.Channel), ',')
		if control.Pattern {
			dst = append(dst, `"pattern":true,`...)
		}
		if control.Type == ControlSubscribe && len(control.Filters) > 0 {
			dst = append(dst, `"filters":`...)
			dst = append(appendStrings(dst, control.Filters), ',')
		}
		if control.Type == ControlSubscribe && control.PrevID != "" {
			dst = append(dst, `"prev-id":`...)
			dst = append(appendName(dst, control.PrevID), ',')
		}
	case ControlSetMeta:
		if control.Name == "" {
			return nil, errors.New("grip: set-meta without a name")
		}
		dst = append(dst, `"name":`...)
		dst = append(appendName(dst, control.Name), ',')
		if !control.Delete {
			dst = append(dst, `"value":`...)
			dst = append(appendName(dst, control.Value), ',')
		}
	case ControlKeepAlive, ControlSendDelayed, ControlAutoReply:
		if control.Type == ControlAutoReply {
			if control.Match == "" {
				return nil, errors.New("grip: auto-reply without a match")
			}
			dst = append(dst, `"match":`...)
			dst = append(appendName(dst, control.Match), ',')
		}
		if control.HasContent {
			dst = control.appendContent(dst)
		}
		if control.Type == ControlKeepAlive && control.Mode == KeepAliveInterval {
			dst = append(dst, `"mode":"interval",`...)
		}
	}
	return closeObject(dst), nil
}

func (control *Control) appendContent(dst []byte) []byte {
	if control.MessageType != Text {
		dst = append(dst, `"message-type":"`...)
		dst = append(append(dst, control.MessageType.String()...), `",`...)
	}
	if control.MessageType == Binary || !utf8.Valid(control.Content) {
		dst = appendBase64(dst, "content-bin", control.Content)
	} else {
		dst = appendContent(dst, "content", control.Content)
	}
	dst = append(dst, ',')
	if control.Timeout != 0 {
		dst = append(appendSeconds(dst, control.Timeout), ',')
	}
	return dst
}

// UnmarshalJSON is ParseControl for encoding/json.
func (control *Control) UnmarshalJSON(data []byte) error {
	parsed, err := ParseControl(data)
	if err != nil {
		return err
	}
	*control = parsed
	return nil
}
