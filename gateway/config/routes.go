package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"github.com/gripway/gripway/grip"
)

// Route is one line of a routes file: which requests it takes, what happens to
// them on the way, and where they go. It is plain data.
type Route struct {
	// Line is the route as a line of a routes file, in one spelling whatever
	// way it was written; sig_key and the values of header are hidden.
	Line string
	// Where it was written: "routes:3", "--route", "gripway.toml:12: route".
	Where string

	// The condition. Domain is a name in lower case, "*" for any, or "" for a
	// route that is reached by its ID only. Rules of an exact domain hide those
	// of "*" completely.
	Domain  string
	ID      string // "" = none; may be shared by lines that have a domain
	PathBeg string // bytes the encoded path begins with
	Proto   string // "http", "ws", or "" for both
	SSL     *bool  // whether the client came over TLS; nil = either

	// What happens to requests and answers.
	Prefix      string // before every channel the origin names; not before Target.Sub
	SigIss      string // "" = the gateway's
	SigKey      Secret // "" = the gateway's; a file: reference has its folder
	Debug       bool
	NoGrip      bool
	OrigHeaders bool
	Header      [][2]string // name and value; set in the request to the origin; an empty value only removes
	AutoReply   [][2]string // texts of WebSocket clients, and the texts that answer them
	AsHost      string
	PathRem     int     // bytes to cut from the beginning of the encoded path
	ReplaceBeg  *string // nil = not given; takes the place of PathBeg, and PathRem is not used then
	// AutoCrossOrigin adds CORS headers to answers, and makes scripts of them (JSON-P)
	// for clients that ask so.
	AutoCrossOrigin      bool   // option aco
	JSONPBasic           bool   // jsonp_mode=basic: the body alone
	JSONPCallback        string // jsonp_cb: the parameter that names the function; "" = callback
	JSONPBody            string // jsonp_body: the parameter of a JSON body; "" = _body, of any
	JSONPDefaultCallback string // jsonp_defcb: the function if there is only a body; "" = none
	JSONPDefaultMethod   string // jsonp_defmethod; "" = GET, or POST in basic mode

	SockJS       string // option sockjs: the path below which clients speak SockJS, without a slash at its end; "" = none
	SockJSAsPath string // sockjs_as_path: their path for the origin; "" = SockJS

	// Ignored are options of Pushpin that ask for nothing here, like "session".
	Ignored []string

	LogLevel *int // 0 errors, 1 warnings, 2 informational, 3 debug; nil = the gateway's

	// Guest is the name of the program that decides about requests; "" = none.
	Guest string

	// Targets are tried in this order. At least one, and none with a Guest: it has
	// backends.
	Targets []Target
}

// String is Line: a printed route must not reveal what Line hides.
func (r Route) String() string { return r.Line }

// GoString is Line.
func (r Route) GoString() string { return r.Line }

// MarshalText is Line.
func (r Route) MarshalText() ([]byte, error) { return []byte(r.Line), nil }

// Target is one origin of a route.
type Target struct {
	Addr             string   // host:port; empty for Test
	TLS              bool     // option ssl
	Insecure         bool     // does not check the origin's certificate
	TrustConnectHost bool     // checks it against Addr instead of the request's host
	OverHTTP         bool     // WebSockets as HTTP requests
	Untrusted        bool     // refuses private and loopback addresses
	OneEvent         bool     // one WebSocket event a request
	Test             bool     // the built-in test origin
	Host             string   // Host of the request; "" = as it is
	Sub              []string // channels every client of this target follows
	ClientCert       string   // PEM files, with their folder
	ClientKey        string
	Ignored          []string // as of Route
}

// ParseRoutes reads a routes file: one route a line, its condition first, then
// its targets, options by commas; # begins a comment. It returns every good line,
// as Pushpin does, and an error of the form "name:line: what" for every bad one.
// Files that options name are looked for in the folder of name, and read.
func ParseRoutes(name, text string) ([]Route, []error) {
	var routes []Route
	var problems []error
	dir := filepath.Dir(name)
	number := 0
	for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		number++
		where := fmt.Sprintf("%s:%d", name, number)
		sections, err := parseLine(strings.TrimRight(line, "\r\n"))
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", where, err))
			continue
		}
		if len(sections) == 0 {
			continue
		}
		route, wrong := buildRoute(sections, dir)
		if len(wrong) > 0 {
			for _, w := range wrong {
				problems = append(problems, fmt.Errorf("%s: %w", where, w))
			}
			continue
		}
		route.Where = where
		routes = append(routes, route)
	}
	routes, duplicates := CombineRoutes(routes)
	return routes, append(problems, duplicates...)
}

// CombineRoutes puts lists of routes together. A route that can never be chosen
// is left out and named in an error: its condition was there before, or it has
// only an id and another route has it too.
func CombineRoutes(lists ...[]Route) ([]Route, []error) {
	type condition struct{ domain, pathBeg, proto, ssl string }
	first := make(map[condition]string)
	ids := make(map[string]int)
	for _, list := range lists {
		for _, route := range list {
			ids[route.ID]++
		}
	}

	all := []Route{} // not nil: "no routes" is something to say
	var problems []error
	for _, list := range lists {
		for _, route := range list {
			if route.Domain == "" {
				if ids[route.ID] > 1 {
					problems = append(problems, fmt.Errorf("%s: id %q: another route has this id too, and this one has no domain: it can never be chosen", route.Where, route.ID))
					continue
				}
				all = append(all, route)
				continue
			}
			c := condition{domain: route.Domain, pathBeg: route.PathBeg, proto: route.Proto}
			if route.SSL != nil {
				c.ssl = strconv.FormatBool(*route.SSL)
			}
			if where, ok := first[c]; ok {
				problems = append(problems, fmt.Errorf("%s: the same condition as %s: domain, path_beg, proto and ssl must differ in something", route.Where, where))
				continue
			}
			first[c] = route.Where
			all = append(all, route)
		}
	}
	return all, problems
}

// A section is a condition or a target: a value and its options.
//
//	example.com,path_beg=/chat,debug
//	value       option         option without a value
type section struct {
	value   string
	options []option
}

type option struct {
	name, value string
	bare        bool // had no "="
	line        int  // in a file of tables; 0 where the line is known otherwise
}

// parseLine splits a line into its sections; none for a blank line or a comment.
func parseLine(line string) ([]section, error) {
	var sections []section
	rest := line
	for {
		rest = strings.TrimLeft(rest, " \t")
		if rest == "" || rest[0] == '#' {
			return sections, nil
		}
		var s section
		for first, more := true, true; more; first = false {
			word, after, err := parseWord(rest)
			if err != nil {
				return nil, err
			}
			more = after != "" && after[0] == ','
			if more {
				after = after[1:]
			}
			rest = after

			name, value, valued := strings.Cut(word, "=")
			switch {
			case first && !valued:
				s.value = word
			case word == "":
				return nil, fmt.Errorf("an option is expected after a comma")
			case name == "":
				return nil, fmt.Errorf("option %q has no name", word)
			default:
				s.options = append(s.options, option{name: name, value: value, bare: !valued})
			}
		}
		sections = append(sections, s)
	}
}

// parseWord reads up to a comma, blank or comment, and takes quotes away:
//
//	a"b, \"c\""d,…      is ab, "c"d and ,…
func parseWord(text string) (word, rest string, err error) {
	var b strings.Builder
	quoted := false
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quoted && c == '\\':
			i++
			if i == len(text) {
				return "", "", fmt.Errorf("a backslash at the end of the line: want \\\" or \\\\")
			}
			if text[i] != '"' && text[i] != '\\' {
				return "", "", fmt.Errorf("unknown escape \\%c: within quotes, only \\\" and \\\\ are known", text[i])
			}
			b.WriteByte(text[i])
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == ' ' || c == '\t' || c == '#'):
			return b.String(), text[i:], nil
		default:
			b.WriteByte(c)
		}
	}
	if quoted {
		return "", "", fmt.Errorf("a quote is not closed")
	}
	return b.String(), "", nil
}

// formatLine is the inverse of parseLine, secrets hidden unless they are wanted.
func formatLine(sections []section, reveal bool) string {
	var b strings.Builder
	for i, s := range sections {
		if i > 0 {
			b.WriteByte(' ')
		}
		comma := false
		switch {
		case s.value == "" && len(s.options) == 0:
			b.WriteString(`""`)
		case s.value != "", s.options[0].bare:
			b.WriteString(quoteWord(s.value))
			comma = true
		}
		for _, o := range s.options {
			if comma {
				b.WriteByte(',')
			}
			comma = true
			b.WriteString(quoteWord(o.name))
			if o.bare {
				continue
			}
			b.WriteByte('=')
			b.WriteString(quoteWord(o.shown(reveal)))
		}
	}
	return b.String()
}

func (o option) shown(reveal bool) string {
	if reveal {
		return o.value
	}
	switch o.name {
	case "sig_key", "token", "jwt-key", "password":
		return Secret(o.value).String()
	case "jwks", "url":
		if strings.Contains(o.value, "://") {
			return URL(o.value).String()
		}
	case "header":
		name, _, _ := strings.Cut(o.value, ":")
		return name + ": " + hidden
	case "env":
		name, _, _ := strings.Cut(o.value, "=")
		return name + "=" + hidden
	}
	return o.value
}

// quoteWord quotes only where it is needed. An empty first word of a line needs
// nothing: the comma or the option after it tells.
func quoteWord(word string) string {
	if !strings.ContainsAny(word, "\", \t#") {
		return word
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(word) + `"`
}

// conditionOptions and targetOptions are all options there are; true for those
// that have no effect: session asks for a service of Pushpin's that nobody has, and
// ipc_file_mode is of targets that speak ZeroMQ, which are refused.
var conditionOptions = map[string]bool{
	"path_beg": false, "proto": false, "ssl": false, "id": false, "prefix": false,
	"sig_iss": false, "sig_key": false, "debug": false, "no_grip": false, "header": false, "auto_reply": false,
	"as_host": false, "path_rem": false, "replace_beg": false, "log_level": false, "orig_headers": false,
	"aco": false, "guest": false, "jsonp_mode": false, "jsonp_cb": false, "jsonp_body": false, "jsonp_defcb": false, "jsonp_defmethod": false,
	"sockjs": false, "sockjs_as_path": false, "session": true,
}

var targetOptions = map[string]bool{
	"over_http": false, "ssl": false, "insecure": false, "trust_connect_host": false, "host": false,
	"sub": false, "untrusted": false, "one_event": false, "client_cert": false, "client_key": false,
	"ipc_file_mode": true,
}

// optionError is a mistake in an option, with its line if it has one of its own.
type optionError struct {
	line int
	text string
}

func (e *optionError) Error() string { return e.text }

// buildRoute gives sections their meaning. It reports all that is wrong.
func buildRoute(sections []section, dir string) (Route, []error) {
	guest := len(sections) > 0 && slices.ContainsFunc(sections[0].options, func(o option) bool { return o.name == "guest" })
	if len(sections) < 2 && !guest {
		return Route{}, []error{errors.New("want a condition and at least one target, like \"* localhost:8000,over_http\"")}
	}
	route := Route{Line: formatLine(sections, false)}
	wrong := route.readCondition(sections[0], dir)
	if guest && len(sections) > 1 {
		wrong = append(wrong, fmt.Errorf("guest=%s and a target: want one of them; a guest has its own backends", route.Guest))
	}
	for _, s := range sections[1:] {
		target, w := readTarget(s, dir)
		wrong = append(wrong, w...)
		route.Ignored = append(route.Ignored, target.Ignored...)
		route.Targets = append(route.Targets, target)
	}
	return route, wrong
}

func (route *Route) readCondition(s section, dir string) []error {
	var wrong []error
	domain, err := readDomain(s.value)
	if err != nil {
		wrong = append(wrong, err)
	}
	route.Domain = domain
	for _, o := range s.options {
		if err := route.readOption(o, dir); err != nil {
			wrong = append(wrong, &optionError{o.line, err.Error()})
		}
	}
	if s.value == "" && route.ID == "" {
		wrong = append(wrong, errors.New("no domain and no id: want a domain, * for any, or id=…"))
	}
	return wrong
}

func readDomain(text string) (string, error) {
	switch {
	case text == "", text == "*":
		return text, nil
	case strings.Contains(text, "*"):
		return "", fmt.Errorf("domain %q: want a whole name, or * alone for any", text)
	case strings.Contains(text, "/"):
		return "", fmt.Errorf("domain %q: want a host name only; a path goes to path_beg=", text)
	case strings.Contains(text, ":") && net.ParseIP(text) == nil:
		return "", fmt.Errorf("domain %q: a request's host is compared without its port: want a host name only", text)
	}
	return strings.ToLower(text), nil
}

func (route *Route) readOption(o option, dir string) error {
	ignored, known := conditionOptions[o.name]
	switch {
	case !known:
		return unknownOption(o.name, conditionOptions, targetOptions, "a target")
	case ignored:
		route.Ignored = append(route.Ignored, o.name)
		return nil
	}
	switch o.name {
	case "debug":
		return readFlag(o, &route.Debug)
	case "aco":
		return readFlag(o, &route.AutoCrossOrigin)
	case "no_grip":
		return readFlag(o, &route.NoGrip)
	case "orig_headers":
		return readFlag(o, &route.OrigHeaders)
	case "replace_beg": // empty is meaningful: cut path_beg, put nothing in its place
		value := o.value
		route.ReplaceBeg = &value
		return nil
	case "prefix":
		route.Prefix = o.value
		return nil
	case "sig_iss":
		route.SigIss = o.value
		return nil
	}
	if o.value == "" {
		return fmt.Errorf("option %s needs a value", o.name)
	}
	switch o.name {
	case "path_beg":
		if o.value[0] != '/' {
			return fmt.Errorf("path_beg %q: a path begins with /", o.value)
		}
		route.PathBeg = o.value
	case "proto":
		if o.value != "http" && o.value != "ws" {
			return fmt.Errorf("proto %q: want http or ws", o.value)
		}
		route.Proto = o.value
	case "ssl":
		if o.value != "yes" && o.value != "no" {
			return fmt.Errorf("ssl %q: want yes or no", o.value)
		}
		yes := o.value == "yes"
		route.SSL = &yes
	case "sockjs", "sockjs_as_path":
		if o.value[0] != '/' || strings.ContainsAny(o.value, "?# ") {
			return fmt.Errorf("%s %q: want a path, like /sockjs", o.name, o.value)
		}
		if o.name == "sockjs_as_path" {
			route.SockJSAsPath = o.value
			return nil
		}
		route.SockJS = strings.TrimRight(o.value, "/")
		if route.SockJS == "" {
			return fmt.Errorf("sockjs %q: want a path of its own, like /sockjs", o.value)
		}
	case "id":
		route.ID = o.value
	case "guest":
		route.Guest = o.value
	case "sig_key":
		key := Secret(resolveKey(o.value, dir))
		if _, err := grip.ParseKey(key.Reveal(), ""); err != nil {
			return fmt.Errorf("sig_key: %w", err)
		}
		route.SigKey = key
	case "header":
		name, value, ok := strings.Cut(o.value, ":")
		value = strings.TrimLeft(value, " ")
		if !ok || !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("header: want name:value")
		}
		if !httpguts.ValidHeaderFieldValue(value) {
			return fmt.Errorf("header %s: the value has characters that no header can carry", name)
		}
		route.Header = append(route.Header, [2]string{name, value})
	case "auto_reply":
		match, text, ok := strings.Cut(o.value, "=")
		if !ok || match == "" {
			return fmt.Errorf("auto_reply %q: want a client's text, = and the answer, like ping=pong", o.value)
		}
		switch {
		case len(match) > grip.AutoReplyBytesMax || len(text) > grip.AutoReplyBytesMax:
			return fmt.Errorf("auto_reply %.40q: want at most %d bytes on each side", o.value, grip.AutoReplyBytesMax)
		case len(route.AutoReply) == grip.AutoRepliesMax:
			return fmt.Errorf("auto_reply: want at most %d", grip.AutoRepliesMax)
		case !utf8.ValidString(o.value):
			return fmt.Errorf("auto_reply %q: want UTF-8", o.value)
		}
		route.AutoReply = append(route.AutoReply, [2]string{match, text})
	case "as_host":
		route.AsHost = o.value
		return readHost(o)
	case "path_rem":
		n, err := strconv.ParseUint(o.value, 10, 16)
		if err != nil {
			return fmt.Errorf("path_rem %q: want a number of bytes", o.value)
		}
		route.PathRem = int(n)
	case "jsonp_mode":
		if o.value != "basic" && o.value != "extended" {
			return fmt.Errorf("jsonp_mode %q: want basic or extended", o.value)
		}
		route.JSONPBasic = o.value == "basic"
	case "jsonp_cb":
		route.JSONPCallback = o.value
	case "jsonp_body":
		route.JSONPBody = o.value
	case "jsonp_defcb":
		route.JSONPDefaultCallback = o.value
	case "jsonp_defmethod":
		if !httpguts.ValidHeaderFieldName(o.value) { // both are tokens
			return fmt.Errorf("jsonp_defmethod %q: want a method, like POST", o.value)
		}
		route.JSONPDefaultMethod = o.value
	case "log_level":
		n, err := strconv.ParseUint(o.value, 10, 8)
		if err != nil {
			return fmt.Errorf("log_level %q: want a number: 0 errors, 1 warnings, 2 informational, 3 debug", o.value)
		}
		level := int(n)
		route.LogLevel = &level
	}
	return nil
}

func readTarget(s section, dir string) (Target, []error) {
	var target Target
	var wrong []error
	switch {
	case s.value == "test":
		target.Test = true
	case strings.HasPrefix(s.value, "zhttp/"), strings.HasPrefix(s.value, "zhttpreq/"):
		wrong = append(wrong, fmt.Errorf("target %q: an origin that speaks ZHTTP over ZeroMQ (zhttp, zhttpreq) is not supported: have it speak HTTP, and want host:port", s.value))
	default:
		if err := checkTarget(s.value); err != nil {
			wrong = append(wrong, err)
		}
		target.Addr = s.value
	}
	for _, o := range s.options {
		if err := target.readOption(o, dir); err != nil {
			wrong = append(wrong, &optionError{o.line, fmt.Sprintf("target %q: %s", s.value, err)})
		}
	}
	switch {
	case (target.ClientCert == "") != (target.ClientKey == ""):
		wrong = append(wrong, fmt.Errorf("target %q: client_cert and client_key belong together: want both or neither", s.value))
	case target.ClientCert != "":
		if _, err := tls.LoadX509KeyPair(target.ClientCert, target.ClientKey); err != nil {
			wrong = append(wrong, fmt.Errorf("target %q: client_cert and client_key: %w", s.value, err))
		}
	}
	return target, wrong
}

func checkTarget(addr string) error {
	const like = "want host:port, like localhost:8000 or [::1]:8000"
	if scheme, _, ok := strings.Cut(addr, "://"); ok {
		hint := ""
		if scheme == "https" || scheme == "wss" {
			hint = ", and the option ssl"
		}
		return fmt.Errorf("target %q: a target is no URL: %s%s", addr, like, hint)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || strings.ContainsAny(host, "/@") {
		return fmt.Errorf("target %q: %s", addr, like)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("target %q: the port must be a number from 1 to 65535", addr)
	}
	return nil
}

func (target *Target) readOption(o option, dir string) error {
	ignored, known := targetOptions[o.name]
	switch {
	case !known:
		return unknownOption(o.name, targetOptions, conditionOptions, "the condition")
	case ignored:
		target.Ignored = append(target.Ignored, o.name)
		return nil
	}
	switch o.name {
	case "over_http":
		return readFlag(o, &target.OverHTTP)
	case "ssl":
		return readFlag(o, &target.TLS)
	case "insecure":
		return readFlag(o, &target.Insecure)
	case "trust_connect_host":
		return readFlag(o, &target.TrustConnectHost)
	case "untrusted":
		return readFlag(o, &target.Untrusted)
	case "one_event":
		return readFlag(o, &target.OneEvent)
	}
	if o.value == "" {
		return fmt.Errorf("option %s needs a value", o.name)
	}
	switch o.name {
	case "host":
		target.Host = o.value
		return readHost(o)
	case "sub":
		target.Sub = append(target.Sub, o.value)
	case "client_cert":
		target.ClientCert = resolveFile(o.value, dir)
	case "client_key":
		target.ClientKey = resolveFile(o.value, dir)
	}
	return nil
}

// readFlag reads an option that is on by being there. Pushpin does not look at
// its value, so that debug=no would switch debug on: such a line is refused.
func readFlag(o option, flag *bool) error {
	if !o.bare {
		if on, err := decodeBool(o.value); err != nil || !on {
			return fmt.Errorf("option %s is on by being there: leave out %q, or leave out the option to have it off", o.name, "="+o.value)
		}
	}
	*flag = true
	return nil
}

// readSwitch reads an option that is on until it says otherwise.
func readSwitch(o option, on *bool) error {
	*on = true
	if o.bare {
		return nil
	}
	v, err := decodeBool(o.value)
	if err != nil {
		return fmt.Errorf("option %s: %w", o.name, err)
	}
	*on = v
	return nil
}

func readHost(o option) error {
	if strings.ContainsAny(o.value, "/ ") || !httpguts.ValidHostHeader(o.value) {
		return fmt.Errorf("%s %q: want a host name, with a port if need be", o.name, o.value)
	}
	return nil
}

func unknownOption(name string, mine, other map[string]bool, place string) error {
	if _, ok := other[name]; ok {
		return fmt.Errorf("option %s belongs to %s, not here", name, place)
	}
	return fmt.Errorf("unknown option %q%s", name, didYouMean(name, slices.Sorted(maps.Keys(mine))))
}

// resolveFile gives a relative file name its folder.
func resolveFile(name, dir string) string {
	if name == "" || dir == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

// resolveKey does the same for a key that is a reference to a file.
func resolveKey(key, dir string) string {
	if name, ok := strings.CutPrefix(key, "file:"); ok {
		return "file:" + resolveFile(name, dir)
	}
	return key
}
