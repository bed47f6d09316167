package grip

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Item is a published message in each format it came in. A subscriber only
// ever sees the format of its own kind; an item without that format passes it
// by unseen.
//
// Items are immutable once parsed and may then be used concurrently. Contents
// of a parsed item are slices of the input, which must not change either.
type Item struct {
	Channel string // where it is published; "" in an item from the bus that does not repeat it

	// Channels are where it is published as well: each is as if it were Channel. At
	// most ItemChannelsMax.
	Channels []string

	// One asks for exactly one of all who hold its channels, instead of all: work, not
	// news. Such an item has no PrevID, and all its formats are to be sent.
	One bool

	ID     string // "" = none
	PrevID string // id of the item before it in the channel; "" = none
	NoSeq  bool   // deliver without waiting for PrevID
	Size   int    // bytes the publisher wants it accounted as; 0 = none given
	Meta   map[string]string

	Response *ResponseItem // nil = nothing for held responses
	Stream   *StreamItem   // nil = nothing for held streams
	Message  *MessageItem  // nil = nothing for WebSockets

	// Receipt is what nodes of a gateway name an item by when they ask each other what
	// became of it; "" = nobody asks. Publishers do not give it.
	Receipt string

	unknown []byte // formats we do not know, as members: "x":{…},"y":{…}
	raw     []byte // what it was parsed from
}

// ItemChannelsMax bounds the channels of one item: a list of those who are to be
// told something, not an address book. Who has more has a channel for all.
const ItemChannelsMax = 1000

// Names returns the channels that the item is published to, each once, Channel
// first.
func (item *Item) Names() []string {
	if len(item.Channels) == 0 {
		return []string{item.Channel}
	}
	names := make([]string, 0, 1+len(item.Channels))
	seen := make(map[string]bool, 1+len(item.Channels))
	if item.Channel != "" {
		names, seen[item.Channel] = append(names, item.Channel), true
	}
	for _, name := range item.Channels {
		if !seen[name] {
			names, seen[name] = append(names, name), true
		}
	}
	return names
}

// Action is what an item asks a gateway to do with those who hold its channel.
type Action int

const (
	ActionSend    Action = iota // deliver the content
	ActionClose                 // end the stream or the WebSocket
	ActionHint                  // ask the origin again now
	ActionRefresh               // send the origin an empty WebSocket-over-HTTP request
)

var actionNames = []string{"send", "close", "hint", "refresh"}

// String returns the name in the protocol.
func (a Action) String() string { return nameOf(actionNames, int(a)) }

// ResponseItem answers those whose response is held. Anything but Action has a
// meaning only for ActionSend.
type ResponseItem struct {
	Action Action
	Code   int         // status; 0 = 200. Parsed items have it filled in
	Reason string      // "" = Reason(Code). Parsed items have it filled in
	Header http.Header // replaces headers of the same name; names are canonical
	Body   []byte

	// Patch, if not nil, is a list of RFC 6902 operations to be applied to the
	// held response's JSON body, instead of Body.
	Patch json.RawMessage

	ContentFilters    []string // see HasContentFilters
	HasContentFilters bool     // only for subscribers with exactly these content filters
}

// StreamItem is appended to held streams.
type StreamItem struct {
	Action  Action
	Content []byte // only for ActionSend

	ContentFilters    []string // see HasContentFilters
	HasContentFilters bool     // only for subscribers with exactly these content filters
}

// MessageItem is sent to WebSockets.
type MessageItem struct {
	Action  Action
	Type    MessageType // only for ActionSend
	Content []byte      // only for ActionSend
	Code    int         // only for ActionClose; 0 = none given
	Reason  string      // only for ActionClose

	ContentFilters    []string // see HasContentFilters
	HasContentFilters bool     // only for subscribers with exactly these content filters
}

// MessageType is the kind of a WebSocket message.
type MessageType int

const (
	Text MessageType = iota
	Binary
	Ping
	Pong
)

var messageTypeNames = []string{"text", "binary", "ping", "pong"}

// String returns the name in the protocol.
func (t MessageType) String() string { return nameOf(messageTypeNames, int(t)) }

func nameOf(names []string, i int) string {
	if i < 0 || i >= len(names) {
		return "unknown"
	}
	return names[i]
}

// ParseItems reads a publish body, {"items":[…]}. All items are read before
// any is returned: one bad item refuses the body. The error is a *PublishError
// whose text is the line for the publisher.
//
// The items' contents are slices of body: whoever keeps one item keeps all of
// body.
func ParseItems(body []byte) ([]*Item, error) {
	refuse := func(text string) ([]*Item, error) {
		return nil, &PublishError{Item: -1, Text: text}
	}
	body = trimSpace(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))) // Qt, and so Pushpin, takes a byte order mark
	whole := kindOf(body)
	if whole != object && whole != list || !validJSON(body) {
		return refuse("Body is not valid JSON.")
	}
	if whole == list {
		return refuse("Invalid format.")
	}
	var items []*Item
	var err error
	found := absent
	r := read(body)
	for r.enter(); ; {
		name, ok := r.member()
		if !ok {
			break
		}
		if string(name) != "items" {
			r.value()
			continue
		}
		if found = r.kind(); found != list {
			r.value()
			continue
		}
		items, err = parseItemList(&r)
	}
	switch {
	case found == absent:
		return refuse("Invalid format: object does not contain 'items'")
	case found != list:
		return refuse("Invalid format: object contains 'items' with wrong type")
	case err != nil:
		return nil, err
	}
	return items, nil
}

// parseItemList reads on to the end of the list after an error as well, because
// of several members "items" the last counts.
func parseItemList(r *reader) (items []*Item, firstErr error) {
	items = []*Item{}
	for r.enter(); r.element(); {
		item, err := parseItem(r, true)
		if err != nil && firstErr == nil {
			firstErr = &PublishError{Item: len(items), Text: "Invalid format: " + err.Error()}
		}
		if firstErr == nil {
			items = append(items, item)
		}
	}
	if firstErr != nil {
		return nil, firstErr
	}
	return items, nil
}

// ParseItem reads one item, as it stands in a publish body or travels between
// nodes; it need not name a channel. The error is a *PublishError.
//
// The item's contents are slices of data.
func ParseItem(data []byte) (*Item, error) {
	data = trimSpace(data)
	if !validJSON(data) {
		return nil, &PublishError{Text: "publish item is not valid JSON"}
	}
	r := read(data)
	item, err := parseItem(&r, false)
	if err != nil {
		return nil, &PublishError{Text: err.Error()}
	}
	return item, nil
}

// Raw returns the JSON that the item was parsed from, so that it can be passed
// on without encoding it again, with all that we do not know in it. It names no
// channel if the item had "channels". It is nil for an item that was not parsed.
func (item *Item) Raw() []byte { return item.raw }

// itemValue is one item, of which the members are found but not judged: what
// is checked first decides which of several errors the publisher reads, so the
// order of judgement is Pushpin's and not that of writing.
type itemValue struct {
	channel, channels, deliver, receipt, id, prevID, meta, size, noSeq []byte

	formatsKind kind
	formats     formatValues
	legacy      formatValues // formats that stand in the item itself

	raw []byte
}

// readItem gathers an item's members. It passes over what is no object.
func (v *itemValue) readItem(r *reader) (ok bool) {
	if r.kind() != object {
		r.value()
		return false
	}
	start := r.i
	for r.enter(); ; {
		name, ok := r.member()
		if !ok {
			v.raw = r.data[start:r.i:r.i]
			return true
		}
		switch string(name) {
		case "channel":
			v.channel = r.value()
		case "channels":
			v.channels = r.value()
		case "deliver":
			v.deliver = r.value()
		case receiptMember:
			if value := r.value(); v.receipt == nil { // a gateway's own is the first
				v.receipt = value
			}
		case "id":
			v.id = r.value()
		case "prev-id":
			v.prevID = r.value()
		case "formats":
			v.formats = formatValues{}
			if v.formatsKind = r.kind(); v.formatsKind == object {
				v.formats.readFormats(r)
			} else {
				r.value()
			}
		case "meta":
			v.meta = r.value()
		case "size":
			v.size = r.value()
		case "no-seq":
			v.noSeq = r.value()
		default:
			if !v.legacy.readFormat(string(name), r) {
				r.value()
			}
		}
	}
}

// parseItem reads the item that comes next, to its end.
func parseItem(r *reader, needChannel bool) (*Item, error) {
	const parent = "publish item object"
	var v itemValue
	if !v.readItem(r) {
		return nil, fmt.Errorf("%s is not an object", parent)
	}
	item := &Item{raw: v.raw}
	var err error
	switch kindOf(v.channel) {
	case text:
		item.Channel = string(stringValue(v.channel))
	case absent:
		if needChannel && v.channels == nil {
			return nil, fmt.Errorf("%s does not contain 'channel'", parent)
		}
	default:
		return nil, wrongType(parent, "channel")
	}
	if v.channels != nil {
		if err = item.parseChannels(parent, v.channels); err != nil {
			return nil, err
		}
	}
	if item.ID, err = itemID(parent, "id", v.id); err != nil {
		return nil, err
	}
	if item.PrevID, err = itemID(parent, "prev-id", v.prevID); err != nil {
		return nil, err
	}

	if item.Receipt, err = optionalString(parent, receiptMember, v.receipt); err != nil {
		return nil, err
	}
	switch deliver, err := optionalString(parent, "deliver", v.deliver); {
	case err != nil:
		return nil, err
	case deliver == "one":
		item.One = true
	case deliver != "" && deliver != "all":
		return nil, fmt.Errorf("%s contains 'deliver' with unknown value %.40q", parent, deliver)
	}

	formats := &v.formats
	switch v.formatsKind {
	case object:
		item.unknown = formats.unknown
	case absent, null: // the legacy form
		formats = &v.legacy
		formats.dropNulls()
	default:
		return nil, wrongType(parent, "formats")
	}
	if formats.none() {
		return nil, errors.New("no formats specified")
	}
	if formats.response.kind != absent {
		if item.Response, err = formats.response.response(); err != nil {
			return nil, err
		}
	}
	if formats.stream.kind != absent {
		if item.Stream, err = formats.stream.stream(); err != nil {
			return nil, err
		}
	}
	if formats.message.kind != absent {
		if item.Message, err = formats.message.message(); err != nil {
			return nil, err
		}
	}

	if item.Meta, err = optionalMeta(parent, v.meta); err != nil {
		return nil, err
	}
	if v.size != nil {
		if item.Size, err = naturalNumber(parent, "size", v.size); err != nil {
			return nil, err
		}
	}
	switch kindOf(v.noSeq) {
	case absent:
	case boolean:
		item.NoSeq = v.noSeq[0] == 't'
	default:
		return nil, wrongType(parent, "no-seq")
	}
	if item.One {
		if err := item.checkOne(parent); err != nil {
			return nil, err
		}
	}
	return item, nil
}

// IDBytesMax bounds an item's id: gateways remember many of them, and name them in a
// header (Grip-Last), of which many servers take 8 kB in all.
const IDBytesMax = 4 << 10

// itemID reads an id. One that cannot stand in a header is refused while somebody can
// be told: whoever has it could not ask the origin for what comes after it.
func itemID(parent, name string, value []byte) (string, error) {
	id, err := optionalString(parent, name, value)
	switch {
	case err != nil:
		return "", err
	case len(id) > IDBytesMax:
		return "", fmt.Errorf("%s contains '%s' with %d bytes, and at most %d can be", parent, name, len(id), IDBytesMax)
	case strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "", fmt.Errorf("%s contains '%s' with a control character, which no header can have: %.40q", parent, name, id)
	}
	return id, nil
}

// receiptMember is where Item.Receipt stands.
const receiptMember = "gripway-receipt"

// AppendReceipt appends raw, an item's JSON, with a receipt.
func AppendReceipt(dst, raw []byte, receipt string) []byte {
	dst = append(appendName(append(dst, '{'), receiptMember), ':')
	dst = append(appendName(dst, receipt), ',')
	return append(dst, raw[1:]...) // no item is {}
}

// WithoutReceipt is an item's JSON without the receipt that a gateway put before it.
func WithoutReceipt(raw []byte) []byte {
	rest, ok := bytes.CutPrefix(raw, []byte(`{"`+receiptMember+`":"`))
	if !ok {
		return raw
	}
	end := bytes.Index(rest, []byte(`",`)) // there is nothing to escape in a gateway's
	if end < 0 {
		return raw
	}
	return append([]byte{'{'}, rest[end+2:]...)
}

// parseChannels reads the list of channels, and takes it out of what is passed on:
// a thousand names are not sent to a thousand channels.
func (item *Item) parseChannels(parent string, value []byte) error {
	if kindOf(value) != list {
		return wrongType(parent, "channels")
	}
	channels, ok := stringList(value)
	switch {
	case !ok:
		return fmt.Errorf("%s contains 'channels' with an element that is no string", parent)
	case len(channels) == 0 && item.Channel == "":
		return fmt.Errorf("%s contains 'channels' without any", parent)
	case len(channels) > ItemChannelsMax:
		return fmt.Errorf("%s contains 'channels' with %d, and at most %d can be", parent, len(channels), ItemChannelsMax)
	}
	if len(channels) == 0 {
		return nil
	}
	item.Channels = channels
	rest := make([]byte, 0, len(item.raw)-len(value))
	rest = append(rest, '{')
	r := read(item.raw)
	for r.enter(); ; {
		name, ok := r.member()
		if !ok {
			break
		}
		if string(name) == "channel" || string(name) == "channels" {
			r.value()
			continue
		}
		rest = append(appendString(rest, name), ':')
		rest = append(append(rest, r.value()...), ',')
	}
	item.raw = closeObject(rest)
	return nil
}

// checkOne refuses what cannot be for one of many.
func (item *Item) checkOne(parent string) error {
	if item.PrevID != "" {
		return fmt.Errorf("%s contains 'prev-id', and is to be delivered to one: no one else would know what follows it", parent)
	}
	if r := item.Response; r != nil && r.Action != ActionSend {
		return fmt.Errorf("'http-response' contains 'action' %q, and only what is sent can be delivered to one", r.Action)
	}
	if s := item.Stream; s != nil && s.Action != ActionSend {
		return fmt.Errorf("'http-stream' contains 'action' %q, and only what is sent can be delivered to one", s.Action)
	}
	if m := item.Message; m != nil && m.Action != ActionSend {
		return fmt.Errorf("'ws-message' contains 'action' %q, and only what is sent can be delivered to one", m.Action)
	}
	return nil
}

// formatValues are the formats of one item.
type formatValues struct {
	response, stream, message formatValue

	unknown []byte // members, written as "x":{…},"y":{…}
}

// readFormats gathers the members of "formats". Unknown ones are kept, so that
// encoding the item again loses nothing.
func (f *formatValues) readFormats(r *reader) {
	for r.enter(); ; {
		name, ok := r.member()
		if !ok {
			return
		}
		if f.readFormat(string(name), r) {
			continue
		}
		if f.unknown != nil {
			f.unknown = append(f.unknown, ',')
		}
		f.unknown = append(appendString(f.unknown, name), ':')
		f.unknown = append(f.unknown, r.value()...)
	}
}

// readFormat gathers one format if it is a known one.
func (f *formatValues) readFormat(name string, r *reader) (known bool) {
	switch name {
	case "http-response":
		f.response.read(r, "body", "body-bin")
	case "http-stream":
		f.stream.read(r, "content", "content-bin")
	case "ws-message":
		f.message.read(r, "content", "content-bin")
	default:
		return false
	}
	return true
}

func (f *formatValues) none() bool {
	return f.response.kind == absent && f.stream.kind == absent && f.message.kind == absent && f.unknown == nil
}

// dropNulls makes null formats absent. In the legacy form they count as such;
// within "formats" they do not.
func (f *formatValues) dropNulls() {
	for _, value := range []*formatValue{&f.response, &f.stream, &f.message} {
		if value.kind == null {
			value.kind = absent
		}
	}
}

// formatValue is one format, of which the members are found but not judged.
type formatValue struct {
	kind kind

	actionName, code, reason, headers, filters, messageType []byte

	plain, binary, patch []byte // body or content, body-bin or content-bin, body-patch
}

// read gathers the members of the format that comes next.
func (f *formatValue) read(r *reader, plain, binary string) {
	*f = formatValue{kind: r.kind()}
	if f.kind != object {
		r.value()
		return
	}
	for r.enter(); ; {
		name, ok := r.member()
		if !ok {
			return
		}
		value := r.value()
		switch string(name) {
		case "action":
			f.actionName = value
		case "code":
			f.code = value
		case "reason":
			f.reason = value
		case "headers":
			f.headers = value
		case "content-filters":
			f.filters = value
		case "type":
			f.messageType = value
		case "body-patch":
			f.patch = value
		case plain:
			f.plain = value
		case binary:
			f.binary = value
		}
	}
}

// action is what is judged first in every format.
func (f *formatValue) action(parent string) (Action, error) {
	if f.kind != object {
		return 0, fmt.Errorf("%s is not an object", parent)
	}
	switch kindOf(f.actionName) {
	case absent, null:
		return ActionSend, nil
	case text:
		name := stringValue(f.actionName)
		for i, known := range actionNames {
			if string(name) == known {
				return Action(i), nil
			}
		}
		// Pushpin's text is empty here.
		return 0, fmt.Errorf("%s contains 'action' with unknown value %.40q", parent, name)
	}
	return 0, wrongType(parent, "action")
}

func (f *formatValue) response() (*ResponseItem, error) {
	const parent = "'http-response'"
	action, err := f.action(parent)
	if err != nil {
		return nil, err
	}
	response := &ResponseItem{Action: action}
	if action != ActionSend {
		return response, nil
	}
	if response.Code, response.Reason, err = parseStatus(parent, f.code, f.reason); err != nil {
		return nil, err
	}
	if response.Header, err = parseHeaders(parent, f.headers); err != nil {
		return nil, err
	}
	if response.ContentFilters, response.HasContentFilters, err = f.contentFilters(parent); err != nil {
		return nil, err
	}
	switch {
	case f.binary != nil || f.plain != nil:
		response.Body, err = f.content(parent, "body", "body-bin")
	case kindOf(f.patch) == list:
		response.Patch = json.RawMessage(f.patch)
	case kindOf(f.patch) == null:
		response.Patch = json.RawMessage("[]")
	case f.patch != nil:
		err = wrongType(parent, "body-patch")
	default:
		err = fmt.Errorf("%s does not contain 'body', 'body-bin', or 'body-patch'", parent)
	}
	if err != nil {
		return nil, err
	}
	return response, nil
}

func (f *formatValue) stream() (*StreamItem, error) {
	const parent = "'http-stream'"
	action, err := f.action(parent)
	if err != nil {
		return nil, err
	}
	stream := &StreamItem{Action: action}
	if action != ActionSend {
		return stream, nil
	}
	if stream.ContentFilters, stream.HasContentFilters, err = f.contentFilters(parent); err != nil {
		return nil, err
	}
	if f.binary == nil && f.plain == nil {
		return nil, fmt.Errorf("%s does not contain 'content' or 'content-bin'", parent)
	}
	if stream.Content, err = f.content(parent, "content", "content-bin"); err != nil {
		return nil, err
	}
	return stream, nil
}

func (f *formatValue) message() (*MessageItem, error) {
	const parent = "'ws-message'"
	action, err := f.action(parent)
	if err != nil {
		return nil, err
	}
	message := &MessageItem{Action: action}
	switch action {
	case ActionSend:
		err = f.sending(parent, message)
	case ActionClose:
		err = f.closing(parent, message)
	}
	if err != nil {
		return nil, err
	}
	return message, nil
}

// controlContentMax is how long the content of a ping or pong may be, in bytes
// (RFC 6455, section 5.5).
const controlContentMax = 125

// sendable refuses what no WebSocket frame may carry (RFC 6455, sections 5.5 and
// 5.6): every subscriber's own library would end its connection.
func sendable(parent string, message *MessageItem) error {
	switch message.Type {
	case Text:
		if !utf8.Valid(message.Content) {
			return fmt.Errorf("%s contains text that is not UTF-8", parent)
		}
	case Ping, Pong:
		if len(message.Content) > controlContentMax {
			return fmt.Errorf("%s contains a %s of more than %d bytes", parent, message.Type, controlContentMax)
		}
	}
	return nil
}

// sending fills in what is to be sent.
func (f *formatValue) sending(parent string, message *MessageItem) (err error) {
	explicit := false
	switch kindOf(f.messageType) {
	case absent, null:
	case text:
		explicit = true
		if message.Type, err = parseMessageType(parent, "type", f.messageType); err != nil {
			return err
		}
	default:
		return wrongType(parent, "type")
	}
	if message.ContentFilters, message.HasContentFilters, err = f.contentFilters(parent); err != nil {
		return err
	}
	switch {
	case f.binary != nil || f.plain != nil:
		if !explicit && f.binary != nil {
			message.Type = Binary
		}
		// Unlike the other formats, a null here is not an empty content.
		if f.binary != nil && kindOf(f.binary) != text {
			return wrongType(parent, "content-bin")
		}
		if message.Content, err = f.content(parent, "content", "content-bin"); err != nil {
			return err
		}
		return sendable(parent, message)
	case message.Type == Text || message.Type == Binary:
		return fmt.Errorf("%s does not contain 'content' or 'content-bin'", parent)
	}
	return nil // pings and pongs may be empty
}

// closeCodeNone is the code that stands for none (RFC 6455, section 7.4.1).
const closeCodeNone = 1005

// validCloseCode tells whether a Close frame may carry a code (RFC 6455, section 7.4, and
// the IANA registry of close codes), as wsoverhttp does, which this package knows
// nothing of.
func validCloseCode(code int) bool {
	return code >= 1000 && code <= 1003 || code >= 1007 && code <= 1014 || code >= 3000 && code <= 4999
}

// closing fills in how a WebSocket is to be closed. Codes 0, as GRIP libraries send it,
// and closeCodeNone are none.
func (f *formatValue) closing(parent string, message *MessageItem) (err error) {
	if f.code != nil {
		if message.Code, err = naturalNumber(parent, "code", f.code); err != nil {
			return err
		}
		if message.Code != 0 && message.Code != closeCodeNone && !validCloseCode(message.Code) {
			return fmt.Errorf("%s contains 'code' %d, which no Close frame can carry", parent, message.Code)
		}
	}
	message.Reason, err = optionalString(parent, "reason", f.reason)
	return err
}

// content reads the body or content, of which at least one form is present;
// the binary one wins.
func (f *formatValue) content(parent, plain, binary string) ([]byte, error) {
	if f.binary != nil {
		switch kindOf(f.binary) {
		case text:
			return decodeBase64(stringValue(f.binary)), nil
		case null:
			return []byte{}, nil
		}
		return nil, wrongType(parent, binary)
	}
	if kindOf(f.plain) != text {
		return nil, wrongType(parent, plain)
	}
	return stringValue(f.plain), nil
}

func (f *formatValue) contentFilters(parent string) (filters []string, has bool, err error) {
	switch kindOf(f.filters) {
	case absent:
		return nil, false, nil
	case list:
		filters, ok := stringList(f.filters)
		if !ok {
			return nil, false, errors.New("content-filters contains element with wrong type")
		}
		return filters, true, nil
	}
	return nil, false, wrongType(parent, "content-filters")
}

// AppendJSON appends the item as ParseItem reads it. Content that is not UTF-8
// goes through the -bin members, so nothing is lost. Members of a parsed item
// that are not fields of Item are not written; Raw has them.
func (item *Item) AppendJSON(dst []byte) []byte {
	return item.appendJSON(dst, "")
}

// appendJSON puts prefix before the names of channels.
func (item *Item) appendJSON(dst []byte, prefix string) []byte {
	dst = append(dst, '{')
	if item.Receipt != "" {
		dst = append(appendName(dst, receiptMember), ':')
		dst = append(appendName(dst, item.Receipt), ',')
	}
	if item.Channel != "" {
		dst = append(dst, `"channel":`...)
		dst = append(appendName(dst, prefix+item.Channel), ',')
	}
	if len(item.Channels) > 0 {
		dst = append(dst, `"channels":[`...)
		for i, name := range item.Channels {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendName(dst, prefix+name)
		}
		dst = append(dst, "],"...)
	}
	if item.One {
		dst = append(dst, `"deliver":"one",`...)
	}
	if item.ID != "" {
		dst = append(dst, `"id":`...)
		dst = append(appendName(dst, item.ID), ',')
	}
	if item.PrevID != "" {
		dst = append(dst, `"prev-id":`...)
		dst = append(appendName(dst, item.PrevID), ',')
	}
	if item.NoSeq {
		dst = append(dst, `"no-seq":true,`...)
	}
	if item.Size != 0 {
		dst = append(dst, `"size":`...)
		dst = append(strconv.AppendInt(dst, int64(item.Size), 10), ',')
	}
	if len(item.Meta) > 0 {
		dst = append(dst, `"meta":`...)
		dst = append(appendMap(dst, item.Meta), ',')
	}
	dst = append(dst, `"formats":{`...)
	if item.Response != nil {
		dst = append(dst, `"http-response":`...)
		dst = append(item.Response.appendJSON(dst), ',')
	}
	if item.Stream != nil {
		dst = append(dst, `"http-stream":`...)
		dst = append(item.Stream.appendJSON(dst), ',')
	}
	if item.Message != nil {
		dst = append(dst, `"ws-message":`...)
		dst = append(item.Message.appendJSON(dst), ',')
	}
	if item.unknown != nil {
		dst = append(append(dst, item.unknown...), ',')
	}
	return append(closeObject(dst), '}')
}

// MarshalJSON is AppendJSON for encoding/json.
func (item *Item) MarshalJSON() ([]byte, error) {
	return item.AppendJSON(nil), nil
}

// UnmarshalJSON is ParseItem for encoding/json; the item gets its own copy of
// data.
func (item *Item) UnmarshalJSON(data []byte) error {
	parsed, err := ParseItem(bytes.Clone(data))
	if err != nil {
		return err
	}
	*item = *parsed
	return nil
}

func (r *ResponseItem) appendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	if r.Action != ActionSend {
		return closeObject(appendAction(dst, r.Action))
	}
	if r.Code != 0 && r.Code != http.StatusOK {
		dst = append(dst, `"code":`...)
		dst = append(strconv.AppendInt(dst, int64(r.Code), 10), ',')
	}
	dst = appendReason(dst, statusOrOK(r.Code), r.Reason)
	dst = appendHeaders(dst, r.Header)
	dst = appendContentFilters(dst, r.HasContentFilters, r.ContentFilters)
	if r.Patch != nil {
		dst = append(dst, `"body-patch":`...)
		return append(append(dst, r.Patch...), '}')
	}
	return append(appendContent(dst, "body", r.Body), '}')
}

func (s *StreamItem) appendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	if s.Action != ActionSend {
		return closeObject(appendAction(dst, s.Action))
	}
	dst = appendContentFilters(dst, s.HasContentFilters, s.ContentFilters)
	return append(appendContent(dst, "content", s.Content), '}')
}

func (m *MessageItem) appendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	switch m.Action {
	case ActionSend:
	case ActionClose:
		dst = appendAction(dst, m.Action)
		if m.Code != 0 {
			dst = append(dst, `"code":`...)
			dst = append(strconv.AppendInt(dst, int64(m.Code), 10), ',')
		}
		if m.Reason != "" {
			dst = append(dst, `"reason":`...)
			dst = append(appendName(dst, m.Reason), ',')
		}
		return closeObject(dst)
	default:
		return closeObject(appendAction(dst, m.Action))
	}
	dst = appendContentFilters(dst, m.HasContentFilters, m.ContentFilters)
	switch {
	case m.Type == Binary:
		return append(appendBase64(dst, "content-bin", m.Content), '}')
	case m.Type != Text:
		dst = append(dst, `"type":"`...)
		dst = append(append(dst, m.Type.String()...), `",`...)
		if len(m.Content) == 0 {
			return closeObject(dst)
		}
	case !utf8.Valid(m.Content): // content-bin alone would mean binary
		dst = append(dst, `"type":"text",`...)
	}
	return append(appendContent(dst, "content", m.Content), '}')
}

// closeObject closes an object behind whose last member there may be a comma.
func closeObject(dst []byte) []byte {
	if last := len(dst) - 1; dst[last] == ',' {
		dst[last] = '}'
		return dst
	}
	return append(dst, '}')
}

func appendAction(dst []byte, action Action) []byte {
	dst = append(dst, `"action":"`...)
	return append(append(dst, action.String()...), `",`...)
}

// appendContent writes bytes as text if they are text, else as base64.
func appendContent(dst []byte, name string, content []byte) []byte {
	if !utf8.Valid(content) {
		return appendBase64(dst, name+"-bin", content)
	}
	dst = append(append(append(dst, '"'), name...), `":`...)
	return appendString(dst, content)
}

func appendBase64(dst []byte, name string, content []byte) []byte {
	dst = append(append(append(dst, '"'), name...), `":"`...)
	return append(base64.StdEncoding.AppendEncode(dst, content), '"')
}

func appendContentFilters(dst []byte, has bool, filters []string) []byte {
	if !has {
		return dst
	}
	dst = append(dst, `"content-filters":`...)
	return append(appendStrings(dst, filters), ',')
}

func appendStrings(dst []byte, list []string) []byte {
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendName(dst, s)
	}
	return append(dst, ']')
}

func appendMap(dst []byte, m map[string]string) []byte {
	dst = append(dst, '{')
	for _, name := range slices.Sorted(maps.Keys(m)) {
		dst = append(appendName(dst, name), ':')
		dst = append(appendName(dst, m[name]), ',')
	}
	return closeObject(dst)
}

// appendReason leaves out the reason that reading it back would fill in.
func appendReason(dst []byte, code int, reason string) []byte {
	if reason == "" || reason == Reason(code) {
		return dst
	}
	dst = append(dst, `"reason":`...)
	return append(appendName(dst, reason), ',')
}

// appendHeaders writes an object if it can, as all publishers do, and a list
// of pairs if a name has several values.
func appendHeaders(dst []byte, header http.Header) []byte {
	if len(header) == 0 {
		return dst
	}
	names := slices.Sorted(maps.Keys(header))
	pairs := slices.ContainsFunc(names, func(name string) bool { return len(header[name]) != 1 })
	if !pairs {
		dst = append(dst, `"headers":{`...)
		for _, name := range names {
			dst = append(appendName(dst, name), ':')
			dst = append(appendName(dst, header[name][0]), ',')
		}
		return append(closeObject(dst), ',')
	}
	dst = append(dst, `"headers":[`...)
	for _, name := range names {
		for _, value := range header[name] {
			dst = append(appendName(append(dst, '['), name), ',')
			dst = append(appendName(dst, value), "],"...)
		}
	}
	if last := len(dst) - 1; dst[last] == ',' {
		dst = dst[:last]
	}
	return append(dst, "],"...)
}
