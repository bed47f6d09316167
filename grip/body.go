package grip

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// parseBody reads the JSON form over what the headers said:
//
//	{
//	  "hold": {
//	    "mode": "stream",
//	    "channels": [{"name": "news", "prev-id": "7", "filters": ["skip-self"]}],
//	    "timeout": 55,
//	    "keep-alive": {"content": "\n", "timeout": 20, "mode": "idle"},
//	    "meta": {"user": "ann"}
//	  },
//	  "response": {"code": 200, "reason": "OK", "headers": {"Content-Type": "text/plain"}, "body": "hello\n"}
//	}
//
// Channels and meta of both count; what is there once only is taken from here.
func (in *Instruction) parseBody(body []byte) error {
	body = trimSpace(body)
	whole := kindOf(body)
	if whole != object && whole != list || !validJSON(body) {
		return instructError("failed to parse application/grip-instruct content as JSON")
	}
	if whole == list {
		return instructError("instruct must be an object")
	}
	var hold, response []byte
	r := read(body)
	for r.enter(); ; {
		name, ok := r.member()
		if !ok {
			break
		}
		value := r.value()
		switch string(name) {
		case "hold":
			hold = value
		case "response":
			response = value
		}
	}

	switch kindOf(hold) {
	case absent:
	case object:
		if err := in.parseHoldObject(hold); err != nil {
			return asInstructError(err)
		}
	default:
		return asInstructError(wrongType("instruct", "hold"))
	}

	switch kindOf(response) {
	case absent:
		response = []byte("{}")
	case object:
	default: // Pushpin's text is empty here
		return asInstructError(wrongType("instruct", "response"))
	}
	return asInstructError(in.parseResponseObject(response))
}

// asInstructError gives errors of shared members the type that callers expect.
func asInstructError(err error) error {
	var known *InstructError
	if err == nil || errors.As(err, &known) {
		return err
	}
	return instructError(err.Error())
}

func (in *Instruction) parseHoldObject(value []byte) (err error) {
	const parent = "hold"
	var mode, channels, timeout, keepAlive, meta []byte
	r := read(value)
	for r.enter(); ; {
		name, ok := r.member()
		if !ok {
			break
		}
		value := r.value()
		switch string(name) {
		case "mode":
			mode = value
		case "channels":
			channels = value
		case "timeout":
			timeout = value
		case "keep-alive":
			keepAlive = value
		case "meta":
			meta = value
		}
	}

	switch kindOf(mode) {
	case absent, null:
		in.Hold = HoldResponse
	case text:
		switch string(stringValue(mode)) {
		case "response":
			in.Hold = HoldResponse
		case "stream":
			in.Hold = HoldStream
		default:
			return errors.New("hold 'mode' must be set to either 'response' or 'stream'")
		}
	default:
		return wrongType(parent, "mode")
	}

	switch kindOf(channels) {
	case list:
	case absent:
		return fmt.Errorf("%s does not contain 'channels'", parent)
	default:
		return wrongType(parent, "channels")
	}
	list := read(channels)
	for list.enter(); list.element(); {
		channel, err := parseChannelObject(list.value())
		if err != nil {
			return err
		}
		if err := in.addChannel(channel); err != nil {
			return err
		}
	}

	if timeout != nil {
		n, err := naturalNumber(parent, "timeout", timeout)
		if err != nil {
			return err
		}
		in.Timeout = seconds(n)
	}

	switch kindOf(keepAlive) {
	case absent, null:
	case object:
		if err := in.parseKeepAliveObject(keepAlive); err != nil {
			return err
		}
	default:
		return wrongType(parent, "keep-alive")
	}

	more, err := optionalMeta(parent, meta)
	if err != nil {
		return err
	}
	if in.Meta == nil {
		in.Meta = more
		return nil
	}
	for name, value := range more {
		in.Meta[name] = value
	}
	return nil
}

func parseChannelObject(value []byte) (channel Channel, err error) {
	const parent = "channel"
	if kindOf(value) != object {
		return channel, fmt.Errorf("%s is not an object", parent)
	}
	var channelName, pattern, prevID, filters []byte
	r := read(value)
	for r.enter(); ; {
		name, ok := r.member()
		if !ok {
			break
		}
		value := r.value()
		switch string(name) {
		case "name":
			channelName = value
		case "pattern":
			pattern = value
		case "prev-id":
			prevID = value
		case "filters":
			filters = value
		}
	}
	if channel.Name, err = requiredString(parent, "name", channelName); err != nil {
		return channel, err
	}
	if channel.Pattern, err = optionalBool(parent, "pattern", pattern); err != nil {
		return channel, err
	}
	if channel.PrevID, err = optionalString(parent, "prev-id", prevID); err != nil {
		return channel, err
	}
	channel.Filters, err = optionalFilters(parent, filters)
	return channel, err
}

// parseKeepAliveObject reads a keep-alive. Without a mode it is an interval:
// Pushpin knows no mode here and never starts the time anew. "mode" is ours.
func (in *Instruction) parseKeepAliveObject(value []byte) (err error) {
	const parent = "keep-alive"
	var content, contentBin, timeout, mode []byte
	r := read(value)
	for r.enter(); ; {
		name, ok := r.member()
		if !ok {
			break
		}
		value := r.value()
		switch string(name) {
		case "content":
			content = value
		case "content-bin":
			contentBin = value
		case "timeout":
			timeout = value
		case "mode":
			mode = value
		}
	}
	keepAlive := KeepAlive{Mode: KeepAliveInterval}
	if in.KeepAlive != nil { // a header said something
		keepAlive = *in.KeepAlive
	}

	switch {
	case kindOf(contentBin) == text:
		keepAlive.Content = decodeBase64(stringValue(contentBin))
	case kindOf(contentBin) == null:
		keepAlive.Content = nil
	case contentBin != nil:
		return wrongType(parent, "content-bin")
	case kindOf(content) == text:
		keepAlive.Content = bytes.Clone(stringValue(content))
	case content != nil:
		return wrongType(parent, "content")
	}

	keepAlive.Timeout = KeepAliveTimeoutDefault
	if timeout != nil {
		n, err := naturalNumber(parent, "timeout", timeout)
		if err != nil {
			return err
		}
		keepAlive.Timeout = seconds(max(n, 1))
	}

	name, err := optionalString(parent, "mode", mode)
	if err != nil {
		return err
	}
	switch name {
	case "":
	case "idle":
		keepAlive.Mode = KeepAliveIdle
	case "interval":
		keepAlive.Mode = KeepAliveInterval
	default:
		return fmt.Errorf("no such keep-alive mode '%s'", name)
	}

	in.KeepAlive = nil
	if len(keepAlive.Content) > 0 {
		in.KeepAlive = &keepAlive
	}
	return nil
}

// parseResponseObject reads the answer. A code in it wins over Grip-Status.
func (in *Instruction) parseResponseObject(value []byte) (err error) {
	const parent = "response"
	var code, reason, headers, body, bodyBin []byte
	r := read(value)
	for r.enter(); ; {
		name, ok := r.member()
		if !ok {
			break
		}
		value := r.value()
		switch string(name) {
		case "code":
			code = value
		case "reason":
			reason = value
		case "headers":
			headers = value
		case "body":
			body = value
		case "body-bin":
			bodyBin = value
		}
	}
	response := &Response{}
	if code == nil && in.Status != 0 {
		code = strconv.AppendInt(nil, int64(in.Status), 10)
		if kindOf(reason) == absent {
			reason = appendName(nil, in.Reason)
		}
	}
	if response.Code, response.Reason, err = parseStatus(parent, code, reason); err != nil {
		return err
	}
	if response.Header, err = parseHeaders(parent, headers); err != nil {
		return err
	}
	switch {
	case kindOf(bodyBin) == text:
		response.Body = decodeBase64(stringValue(bodyBin))
	case kindOf(bodyBin) == null:
	case bodyBin != nil:
		return wrongType(parent, "body-bin")
	case kindOf(body) == text:
		response.Body = bytes.Clone(stringValue(body))
	case body != nil:
		return wrongType(parent, "body")
	}
	in.Status, in.Reason, in.Response = 0, "", response
	return nil
}

// optionalFilters reads a list of names that may be absent or null.
func optionalFilters(parent string, value []byte) ([]string, error) {
	switch kindOf(value) {
	case absent, null:
		return nil, nil
	case list:
		filters, ok := stringList(value)
		if !ok {
			return nil, errors.New("filters contains value with wrong type")
		}
		return filters, nil
	}
	return nil, wrongType(parent, "filters")
}

// MarshalJSON writes the JSON form. It has no place for ExposeHeaders, Next and
// Gone: they remain headers, see Answer. Without Response, an instruction in
// this form asks for an empty answer with Status.
func (in *Instruction) MarshalJSON() ([]byte, error) {
	dst := []byte{'{'}
	if in.Hold != HoldNone {
		dst = append(in.appendHold(dst), ',')
	}
	response := in.Response
	if response == nil && in.Status != 0 {
		response = &Response{Code: in.Status, Reason: in.Reason}
	}
	if response != nil {
		dst = append(response.appendJSON(dst), ',')
	}
	return closeObject(dst), nil
}

func (in *Instruction) appendHold(dst []byte) []byte {
	dst = append(dst, `"hold":{"mode":"`...)
	dst = append(append(dst, in.Hold.String()...), `","channels":[`...)
	for i, channel := range in.Channels {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"name":`...)
		dst = append(appendName(dst, channel.Name), ',')
		if channel.Pattern {
			dst = append(dst, `"pattern":true,`...)
		}
		if channel.PrevID != "" {
			dst = append(dst, `"prev-id":`...)
			dst = append(appendName(dst, channel.PrevID), ',')
		}
		if len(channel.Filters) > 0 {
			dst = append(dst, `"filters":`...)
			dst = append(appendStrings(dst, channel.Filters), ',')
		}
		dst = closeObject(dst)
	}
	dst = append(dst, "],"...)
	if in.Timeout != 0 {
		dst = append(appendSeconds(dst, in.Timeout), ',')
	}
	if in.KeepAlive != nil {
		dst = append(in.KeepAlive.appendJSON(dst), ',')
	}
	if len(in.Meta) > 0 {
		dst = append(dst, `"meta":`...)
		dst = append(appendMap(dst, in.Meta), ',')
	}
	return closeObject(dst)
}

func appendSeconds(dst []byte, timeout time.Duration) []byte {
	dst = append(dst, `"timeout":`...)
	return strconv.AppendInt(dst, int64(inSeconds(timeout)), 10)
}

func (k *KeepAlive) appendJSON(dst []byte) []byte {
	dst = append(dst, `"keep-alive":{`...)
	dst = append(appendContent(dst, "content", k.Content), ',')
	if k.Timeout != 0 {
		dst = append(appendSeconds(dst, k.Timeout), ',')
	}
	dst = append(dst, `"mode":"`...)
	return append(append(dst, k.Mode.String()...), `"}`...)
}

func (r *Response) appendJSON(dst []byte) []byte {
	dst = append(dst, `"response":{`...)
	if r.Code != 0 && r.Code != http.StatusOK {
		dst = append(dst, `"code":`...)
		dst = append(strconv.AppendInt(dst, int64(r.Code), 10), ',')
	}
	dst = appendReason(dst, statusOrOK(r.Code), r.Reason)
	dst = appendHeaders(dst, r.Header)
	if len(r.Body) > 0 {
		dst = append(appendContent(dst, "body", r.Body), ',')
	}
	return closeObject(dst)
}
