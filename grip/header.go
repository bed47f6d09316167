package grip

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// headerParsers are in the order in which Pushpin finds errors.
var headerParsers = []func(*Instruction, http.Header) error{
	(*Instruction).parseHold,
	(*Instruction).parseChannels,
	(*Instruction).parseTimeout,
	(*Instruction).parseExposeHeaders,
	(*Instruction).parseKeepAlive,
	(*Instruction).parseMeta,
	(*Instruction).parseStatus,
	(*Instruction).parseLinks,
}

// parseHeader reads all but the JSON form.
func (in *Instruction) parseHeader(h http.Header) error {
	for _, parse := range headerParsers {
		if err := parse(in, h); err != nil {
			return err
		}
	}
	return nil
}

func (in *Instruction) parseHold(h http.Header) error {
	values := h["Grip-Hold"]
	if values == nil {
		return nil
	}
	switch strings.Trim(values[0], space) {
	case "response":
		in.Hold = HoldResponse
	case "stream":
		in.Hold = HoldStream
	default:
		return instructError("Grip-Hold must be set to either 'response' or 'stream'")
	}
	return nil
}

// parseChannels reads
//
//	Grip-Channel: news; prev-id=7, chat; filter=skip-self; filter=var-subst, sport.*; pattern
func (in *Instruction) parseChannels(h http.Header) error {
	for _, value := range h["Grip-Channel"] {
		for _, element := range splitList(value) {
			name, params, ok := parseParams(element)
			if !ok {
				return instructError("failed to parse Grip-Channel")
			}
			channel := Channel{Name: validUTF8(name), PrevID: validUTF8(params.get("prev-id")), Pattern: params.has("pattern")}
			for _, p := range params {
				if strings.EqualFold(p.name, "filter") {
					channel.Filters = append(channel.Filters, validUTF8(p.value))
				}
			}
			if err := in.addChannel(channel); err != nil {
				return err
			}
		}
	}
	return nil
}

func (in *Instruction) parseTimeout(h http.Header) error {
	values := h["Grip-Timeout"]
	if values == nil {
		return nil
	}
	n, ok := atoi(values[0])
	if !ok {
		return instructError("failed to parse Grip-Timeout")
	}
	if n < 0 {
		return instructError("Grip-Timeout has invalid value")
	}
	in.Timeout = seconds(n)
	return nil
}

func (in *Instruction) parseExposeHeaders(h http.Header) error {
	for _, value := range h["Grip-Expose-Headers"] {
		in.ExposeHeaders = append(in.ExposeHeaders, splitList(value)...)
	}
	return nil
}

// parseKeepAlive reads
//
//	Grip-Keep-Alive: \n; format=cstring; timeout=20; mode=interval
//
// Only the first such header counts, and commas do not split it.
func (in *Instruction) parseKeepAlive(h http.Header) error {
	value := strings.Trim(h.Get("Grip-Keep-Alive"), space)
	if value == "" {
		return nil
	}
	data, params, ok := parseParams(value)
	if !ok {
		return instructError("failed to parse Grip-Keep-Alive")
	}
	if data == "" {
		return instructError("Grip-Keep-Alive cannot be empty")
	}
	keepAlive := &KeepAlive{Timeout: KeepAliveTimeoutDefault}

	switch mode := params.get("mode"); mode {
	case "", "idle":
	case "interval":
		keepAlive.Mode = KeepAliveInterval
	default:
		return instructError(fmt.Sprintf("no such Grip-Keep-Alive mode '%s'", validUTF8(mode)))
	}

	if params.has("timeout") {
		n, ok := atoi(params.get("timeout"))
		if !ok {
			return instructError("failed to parse Grip-Keep-Alive timeout value")
		}
		if n < 0 {
			return instructError("Grip-Keep-Alive timeout has invalid value")
		}
		keepAlive.Timeout = seconds(max(n, 1))
	}

	switch format := params.get("format"); format {
	case "", "raw":
		keepAlive.Content = []byte(data)
	case "cstring":
		content, ok := unescapeCString(data)
		if !ok || len(content) == 0 {
			return instructError("failed to parse Grip-Keep-Alive cstring format")
		}
		keepAlive.Content = content
	case "base64":
		keepAlive.Content = decodeBase64([]byte(data))
		if len(keepAlive.Content) == 0 { // not one digit of base64; Pushpin then sends nothing, for ever
			return instructError("Grip-Keep-Alive cannot be empty")
		}
	default:
		return instructError(fmt.Sprintf("no such Grip-Keep-Alive format '%s'", validUTF8(format)))
	}
	in.KeepAlive = keepAlive
	return nil
}

// parseMeta reads
//
//	Grip-Set-Meta: user=ann, greeting="hello, you"
func (in *Instruction) parseMeta(h http.Header) error {
	for _, value := range h["Grip-Set-Meta"] {
		for _, element := range splitList(value) {
			params, ok := parseParamList(element)
			if !ok {
				return instructError("failed to parse Grip-Set-Meta")
			}
			if params[0].name == "" {
				return instructError("Grip-Set-Meta cannot be empty")
			}
			if in.Meta == nil {
				in.Meta = make(map[string]string)
			}
			in.Meta[validUTF8(params[0].name)] = validUTF8(params[0].value)
		}
	}
	return nil
}

// parseStatus reads
//
//	Grip-Status: 304 Not Modified
func (in *Instruction) parseStatus(h http.Header) error {
	value := strings.Trim(h.Get("Grip-Status"), space)
	if value == "" {
		return nil
	}
	code, reason, _ := strings.Cut(value, " ")
	n, ok := atoi(code)
	if !ok || n < 0 || n > statusMax || !validHeaderValue(reason) {
		return instructError("Grip-Status contains invalid status code")
	}
	if in.Status = n; n == 0 {
		return nil
	}
	if in.Reason = strings.Trim(reason, space); in.Reason == "" {
		in.Reason = Reason(n)
	}
	return nil
}

// parseLinks reads
//
//	Grip-Link: </more?after=7>; rel=next; timeout=30, </gone>; rel=gone
//
// Unlike Pushpin it takes commas and semicolons within the <…> as part of the
// URI.
func (in *Instruction) parseLinks(h http.Header) error {
	for _, value := range h["Grip-Link"] {
		for _, element := range splitLinks(value) {
			target, rest := cutLink(element)
			params, ok := parseParamList(rest)
			if !ok {
				return instructError("failed to parse Grip-Link value")
			}
			if len(params) == 0 {
				continue // without rel it is none of ours
			}
			if len(target) <= 2 || target[0] != '<' || target[len(target)-1] != '>' {
				return instructError("failed to parse Grip-Link value")
			}
			uri := target[1 : len(target)-1]
			if _, err := url.Parse(uri); err != nil || !utf8.ValidString(uri) {
				return instructError("Grip-Link contains invalid link")
			}
			switch params.get("rel") {
			case "next":
				link := &Link{URI: uri, Timeout: LinkTimeoutDefault}
				if params.has("timeout") {
					n, ok := atoi(params.get("timeout"))
					if !ok {
						return instructError("failed to parse Grip-Link timeout value")
					}
					if n < 0 {
						return instructError("Grip-Link timeout has invalid value")
					}
					link.Timeout = seconds(n)
				}
				in.Next = link
			case "gone":
				in.Gone = &Link{URI: uri}
			}
		}
	}
	return nil
}

// WriteHeader sets the Grip-* headers that ask for the instruction and removes
// others of the same names. Response is not part of it, see MarshalJSON. The
// error is ErrNotForHeader with the name or value it is about; h is unchanged
// then.
func (in *Instruction) WriteHeader(h http.Header) error {
	set := make(http.Header)
	if in.Hold != HoldNone {
		set.Set("Grip-Hold", in.Hold.String())
	}
	for _, channel := range in.Channels {
		value, err := channel.header()
		if err != nil {
			return err
		}
		set.Add("Grip-Channel", value)
	}
	if in.Timeout != 0 {
		set.Set("Grip-Timeout", strconv.Itoa(inSeconds(in.Timeout)))
	}
	if in.KeepAlive != nil {
		if len(in.KeepAlive.Content) == 0 {
			return notForHeader("keep-alive", "")
		}
		set.Set("Grip-Keep-Alive", in.KeepAlive.header())
	}
	for _, name := range slices.Sorted(maps.Keys(in.Meta)) {
		value, err := metaHeader(name, in.Meta[name])
		if err != nil {
			return err
		}
		set.Add("Grip-Set-Meta", value)
	}
	for _, link := range []struct {
		rel string
		*Link
	}{{"next", in.Next}, {"gone", in.Gone}} {
		if link.Link == nil {
			continue
		}
		value, err := link.header(link.rel)
		if err != nil {
			return err
		}
		set.Add("Grip-Link", value)
	}
	if in.Status != 0 {
		value := strconv.Itoa(in.Status)
		if in.Reason != "" && in.Reason != Reason(in.Status) {
			value += " " + in.Reason
		}
		if in.Status < 0 || in.Status > statusMax || !validHeaderValue(value) {
			return notForHeader("status", value)
		}
		set.Set("Grip-Status", value)
	}
	if len(in.ExposeHeaders) > 0 {
		for _, name := range in.ExposeHeaders {
			if !validHeaderName(name) {
				return notForHeader("exposed header", name)
			}
		}
		set.Set("Grip-Expose-Headers", strings.Join(in.ExposeHeaders, ", "))
	}
	for _, name := range instructionHeaders {
		if delete(h, name); set[name] != nil {
			h[name] = set[name]
		}
	}
	return nil
}

// instructionHeaders are those that WriteHeader is in charge of.
var instructionHeaders = []string{
	"Grip-Hold", "Grip-Channel", "Grip-Timeout", "Grip-Keep-Alive",
	"Grip-Set-Meta", "Grip-Link", "Grip-Status", "Grip-Expose-Headers",
}

// header writes a channel. The name is read back literally, so nothing in it
// can be escaped.
func (c Channel) header() (string, error) {
	value := c.Name
	if c.Pattern {
		value += "; pattern"
	}
	if c.PrevID != "" {
		value += "; prev-id=" + quote(c.PrevID)
	}
	for _, filter := range c.Filters {
		value += "; filter=" + quote(filter)
	}
	elements := splitList(value)
	if len(elements) != 1 || !validHeaderValue(value) || !utf8.ValidString(value) {
		return "", notForHeader("channel", c.Name)
	}
	if name, params, ok := parseParams(elements[0]); !ok || name != c.Name || params.get("prev-id") != c.PrevID {
		return "", notForHeader("channel", c.Name)
	}
	return value, nil
}

// header writes text as cstring and anything else as base64.
func (k *KeepAlive) header() string {
	var value string
	if utf8.Valid(k.Content) {
		value = escapeCString(k.Content) + "; format=cstring"
	} else {
		value = base64.StdEncoding.EncodeToString(k.Content) + "; format=base64"
	}
	timeout := k.Timeout
	if timeout == 0 {
		timeout = KeepAliveTimeoutDefault
	}
	value += "; timeout=" + strconv.Itoa(max(inSeconds(timeout), 1))
	if k.Mode == KeepAliveInterval {
		value += "; mode=interval"
	}
	return value
}

func metaHeader(name, value string) (string, error) {
	header := name + "=" + quote(value)
	elements := splitList(header)
	if len(elements) == 1 && validHeaderValue(header) && utf8.ValidString(header) {
		if params, ok := parseParamList(elements[0]); ok && len(params) == 1 && params[0] == (param{name, value}) {
			return header, nil
		}
	}
	return "", notForHeader("meta", name+"="+value)
}

func (l *Link) header(rel string) (string, error) {
	_, err := url.Parse(l.URI)
	if err != nil || l.URI == "" || strings.Contains(l.URI, ">") || !validHeaderValue(l.URI) || !utf8.ValidString(l.URI) {
		return "", notForHeader("link", l.URI)
	}
	value := "<" + l.URI + ">; rel=" + rel
	if rel == "next" && l.Timeout != 0 {
		value += "; timeout=" + strconv.Itoa(inSeconds(l.Timeout))
	}
	return value, nil
}

func notForHeader(what, value string) error {
	return fmt.Errorf("%s %q: %w", what, value, ErrNotForHeader)
}

// param is one "name=value" behind a semicolon.
type param struct{ name, value string }

type params []param

// get returns the first value of a parameter, "" if there is none.
func (p params) get(name string) string {
	for i := range p {
		if strings.EqualFold(p[i].name, name) {
			return p[i].value
		}
	}
	return ""
}

func (p params) has(name string) bool {
	return slices.ContainsFunc(p, func(p param) bool { return strings.EqualFold(p.name, name) })
}

// splitList splits a header's value at commas that are not in quotes. Empty
// elements are dropped (RFC 9110 5.6.1). A quote that is never closed keeps the
// rest together.
func splitList(value string) []string {
	var elements []string
	for value != "" {
		end := nextOutside(value)
		if element := strings.Trim(value[:end], space); element != "" {
			elements = append(elements, element)
		}
		value = value[min(end+1, len(value)):]
	}
	return elements
}

// splitLinks is splitList for values that begin with a <URI>, in which commas
// may stand as well.
func splitLinks(value string) []string {
	var elements []string
	for value != "" {
		value = strings.TrimLeft(value, space+",")
		end := 0
		if strings.HasPrefix(value, "<") {
			end = strings.IndexByte(value, '>') + 1 // 0 if it is not closed
		}
		size := end + nextOutside(value[end:])
		if element := strings.Trim(value[:size], space); element != "" {
			elements = append(elements, element)
		}
		value = value[size:]
	}
	return elements
}

// cutLink separates <URI> and parameters.
func cutLink(element string) (target, rest string) {
	end := 0
	if strings.HasPrefix(element, "<") {
		end = strings.IndexByte(element, '>') + 1
	}
	if i := strings.IndexByte(element[end:], ';'); i >= 0 {
		return strings.Trim(element[:end+i], space), element[end+i+1:]
	}
	return strings.Trim(element, space), ""
}

// nextOutside returns the index of the next comma outside of quotes, or
// len(value).
func nextOutside(value string) int {
	quoted := false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++
		case c == ',' && !quoted:
			return i
		}
	}
	return len(value)
}

// parseParams reads what comes before the first semicolon literally, quotes
// and all, and what follows as parameters.
func parseParams(element string) (first string, rest params, ok bool) {
	first, tail, _ := strings.Cut(element, ";")
	rest, ok = parseParamList(tail)
	return strings.Trim(first, space), rest, ok
}

// parseParamList reads "a=b; c="d"; e". A quoted value may have backslash
// escapes; what stands between its closing quote and the next semicolon is
// passed over. It is not ok if a quote is never closed.
func parseParamList(in string) (list params, ok bool) {
	for in != "" {
		end := strings.IndexAny(in, "=;")
		if end < 0 {
			return append(list, param{name: strings.Trim(in, space)}), true
		}
		p := param{name: strings.Trim(in[:end], space)}
		valued := in[end] == '='
		in = in[end+1:]
		if valued {
			if strings.HasPrefix(in, `"`) {
				if p.value, in, ok = unquote(in); !ok {
					return nil, false
				}
				_, in, _ = strings.Cut(in, ";")
			} else {
				p.value, in, _ = strings.Cut(in, ";")
				p.value = strings.Trim(p.value, space)
			}
		}
		list = append(list, p)
	}
	return list, true
}

// unquote reads a quoted string at the beginning of in.
func unquote(in string) (value, rest string, ok bool) {
	var out strings.Builder
	for i := 1; i < len(in); i++ {
		switch in[i] {
		case '"':
			return out.String(), in[i+1:], true
		case '\\':
			if i++; i == len(in) {
				return "", "", false
			}
		}
		out.WriteByte(in[i])
	}
	return "", "", false
}

// quote writes a value bare if it can, as the libraries do.
func quote(value string) string {
	bare := value != ""
	for i := range len(value) {
		bare = bare && isToken(value[i])
	}
	if bare {
		return value
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`
}

// unescapeCString reads \\, \n, \r, \t and \xHH. Any other escape vanishes, as
// in Pushpin, where \t does too although js-grip writes it.
func unescapeCString(in string) (out []byte, ok bool) {
	for i := 0; i < len(in); i++ {
		if in[i] != '\\' {
			out = append(out, in[i])
			continue
		}
		if i++; i == len(in) {
			return nil, false
		}
		switch in[i] {
		case '\\':
			out = append(out, '\\')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'x':
			if len(in)-i < 3 {
				return nil, false
			}
			high, ok1 := unhex(in[i+1])
			low, ok2 := unhex(in[i+2])
			if !ok1 || !ok2 {
				return nil, false
			}
			out = append(out, high<<4|low)
			i += 2
		}
	}
	return out, true
}

// escapeCString escapes what a header could not carry, what would end the
// value, and space at its ends, which would be trimmed.
func escapeCString(in []byte) string {
	var out strings.Builder
	for i, c := range in {
		switch {
		case c == '\\':
			out.WriteString(`\\`)
		case c == '\n':
			out.WriteString(`\n`)
		case c == '\r':
			out.WriteString(`\r`)
		case c < 0x20, c == 0x7f, c == ';', c == ' ' && (i == 0 || i == len(in)-1):
			fmt.Fprintf(&out, `\x%02x`, c)
		default:
			out.WriteByte(c)
		}
	}
	return out.String()
}

// validUTF8 makes names comparable to those in JSON.
func validUTF8(s string) string {
	return strings.ToValidUTF8(s, "\uFFFD")
}

// AddLast adds a Grip-Last header: the last item of a channel that the client
// of a request has. Gateways send it when they ask an origin again.
func AddLast(h http.Header, channel, id string) {
	h.Add("Grip-Last", channel+"; last-id="+quote(id))
}

// Last returns the last id per channel that a request names, nil if none.
// Values that cannot be read are passed over.
func Last(h http.Header) map[string]string {
	var last map[string]string
	for _, value := range h["Grip-Last"] {
		for _, element := range splitList(value) {
			channel, params, ok := parseParams(element)
			if !ok || !params.has("last-id") {
				continue
			}
			if last == nil {
				last = make(map[string]string)
			}
			last[validUTF8(channel)] = validUTF8(params.get("last-id"))
		}
	}
	return last
}
