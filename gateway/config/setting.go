package config

import (
	"fmt"
	"math"
	"net"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// setting is one field of Config as its tags describe it.
type setting struct {
	key, def, help, placeholder, group string

	kind     string   // which decoder reads it
	oneof    []string // kind choice
	min, max string   // kinds bytes, count, duration; in the setting's own notation

	field int  // index in Config
	list  bool // may be said several times
}

// settings are all settings in the order of Config.
var settings = readSettings()

func readSettings() []setting {
	t := reflect.TypeFor[Config]()
	var all []setting
	for i := range t.NumField() {
		field := t.Field(i)
		if !field.IsExported() {
			continue
		}
		tag := field.Tag
		s := setting{
			key: tag.Get("name"), def: tag.Get("def"), help: tag.Get("help"), placeholder: tag.Get("placeholder"),
			group: tag.Get("group"), kind: tag.Get("kind"), min: tag.Get("min"), max: tag.Get("max"),
			field: i, list: field.Type.Kind() == reflect.Slice,
		}
		if oneof := tag.Get("oneof"); oneof != "" {
			s.oneof = strings.Split(oneof, "|")
		}
		all = append(all, s)
	}
	return all
}

// env is the setting's name in the environment.
func (s *setting) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(s.key, "-", "_"))
}

// split divides a list that was said in one text. Routes, publishers, guests and keys
// contain commas, and so do names of files that are given one by one.
func (s *setting) split(text string, fromEnv bool) []string {
	switch {
	case text == "":
		return nil
	case !s.list:
		return []string{text}
	case s.isLine() && fromEnv:
		return splitOutsideQuotes(text, ";\n")
	case s.kind == "secret" && fromEnv: // PEM has lines, JWK has commas
		return splitOutsideQuotes(text, ";")
	case s.isLine(), s.kind == "secret", s.kind == "file" && !fromEnv:
		return []string{text}
	}
	return splitOutsideQuotes(text, ",\n")
}

// isLine tells whether a value is a line with options, or a table.
func (s *setting) isLine() bool {
	return s.kind == "route" || s.kind == "publisher" || s.kind == "history" || s.kind == "events" || s.kind == "guest"
}

// splitOutsideQuotes cuts text at any of the separators, except within "…",
// trims the pieces and leaves out empty ones.
func splitOutsideQuotes(text, separators string) []string {
	var pieces []string
	start, quoted := 0, false
	piece := func(end int) {
		if p := strings.TrimSpace(text[start:end]); p != "" {
			pieces = append(pieces, p)
		}
		start = end + 1
	}
	for i := 0; i < len(text); i++ {
		switch {
		case quoted && text[i] == '\\':
			i++
		case text[i] == '"':
			quoted = !quoted
		case !quoted && strings.IndexByte(separators, text[i]) >= 0:
			piece(i)
		}
	}
	piece(len(text))
	return pieces
}

// decode reads one value as the setting's kind says. The error is what is wrong
// and what would be right, without the value.
func (s *setting) decode(text string) (any, error) {
	switch s.kind {
	case "text":
		return text, nil
	case "file":
		return text, nil
	case "secret":
		return Secret(text), nil
	case "bool":
		return decodeBool(text)
	case "choice":
		for _, choice := range s.oneof {
			if text == choice {
				return text, nil
			}
		}
		return nil, fmt.Errorf("want one of %s%s", strings.Join(s.oneof, ", "), didYouMean(text, s.oneof))
	case "count":
		n, err := decodeCount(text)
		return n, s.within(n, err, decodeCount)
	case "bytes":
		n, err := decodeBytes(text)
		return n, s.within(n, err, decodeBytes)
	case "duration":
		return decodeDuration(text)
	case "address":
		if text == "" {
			return "", nil
		}
		return text, checkAddress(text)
	case "token":
		return text, checkToken(text)
	case "nats":
		for part := range strings.SplitSeq(text, ",") {
			if err := checkURL(part, "nats", "tls", "ws", "wss"); text != "" && err != nil {
				return nil, err
			}
		}
		return URL(text), nil
	case "peer":
		return decodePeer(text)
	case "zmq":
		return text, checkEndpoint(text)
	case "mode":
		_, err := decodeMode(text)
		return text, err
	case "forwarded":
		return text, checkForwarded(text)
	}
	panic("config: setting " + s.key + " has the unknown kind " + s.kind)
}

func (s *setting) within(n int, err error, read func(string) (int, error)) error {
	if err != nil {
		return err
	}
	if s.min != "" {
		if least, _ := read(s.min); n < least {
			return fmt.Errorf("too small: want at least %s", s.min)
		}
	}
	if s.max != "" {
		if most, _ := read(s.max); n > most {
			return fmt.Errorf("too large: want at most %s", s.max)
		}
	}
	return nil
}

// decodeMode reads the permissions of a file; "" are none.
func decodeMode(text string) (uint32, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 8, 32)
	if err != nil || n == 0 || n > 0o777 {
		return 0, fmt.Errorf("want permissions in octal, like 660")
	}
	return uint32(n), nil
}

func decodeBool(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "true", "yes", "on", "1":
		return true, nil
	case "false", "no", "off", "0":
		return false, nil
	}
	return false, fmt.Errorf("want true or false")
}

func decodeCount(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("want a whole number, like 20")
	}
	return n, nil
}

// units of sizes. Those with i are powers of two.
var units = []struct {
	name  string
	bytes int
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9},
	{"B", 1}, {"", 1},
}

func decodeBytes(text string) (int, error) {
	for _, unit := range units {
		number, ok := strings.CutSuffix(text, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.Atoi(strings.TrimSpace(number))
		if err != nil || n < 0 {
			break
		}
		if n > math.MaxInt/unit.bytes {
			return 0, fmt.Errorf("too large to count")
		}
		return n * unit.bytes, nil
	}
	return 0, fmt.Errorf("want bytes, like 65536, 64KiB, 1MiB or 1MB")
}

func decodeDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if _, number := strconv.ParseFloat(text, 64); number == nil && text != "0" {
		return 0, fmt.Errorf("which unit? want a duration like %ss, 500ms or 1m30s", strings.TrimPrefix(text, "-"))
	}
	if err != nil || d < 0 {
		return 0, fmt.Errorf("want a duration, like 10s, 500ms or 1m30s")
	}
	return d, nil
}

// checkAddress accepts what a listener can be opened on.
func checkAddress(text string) error {
	const like = `like ":7999", "127.0.0.1:7999" or "[::1]:7999"`
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		if _, number := strconv.ParseUint(text, 10, 16); number == nil {
			return fmt.Errorf("a port needs its colon: want \":%s\"", text)
		}
		if strings.Contains(text, "://") {
			return fmt.Errorf("want a host and port, not a URL, %s", like)
		}
		return fmt.Errorf("want host and port, %s", like)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("the port must be a number from 0 to 65535, %s", like)
	}
	if strings.ContainsAny(host, " /@") {
		return fmt.Errorf("want host and port, %s", like)
	}
	return nil
}

func checkToken(text string) error {
	for i := range len(text) {
		if !isTokenByte(text[i]) {
			return fmt.Errorf("want a name of letters, digits and - . _ only")
		}
	}
	return nil
}

func isTokenByte(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b == '-' || b == '.' || b == '_'
}

func checkURL(text string, schemes ...string) error {
	want := fmt.Sprintf("want a URL like %s://host:port", schemes[0])
	parsed, err := url.Parse(strings.TrimSpace(text))
	if err != nil || parsed.Host == "" {
		return fmt.Errorf("%s", want)
	}
	for _, scheme := range schemes {
		if parsed.Scheme == scheme {
			return nil
		}
	}
	return fmt.Errorf("%s (or %s), not %s:", want, strings.Join(schemes[1:], ", "), parsed.Scheme)
}

// decodePeer completes a bare host:port to the URL that it stands for.
func decodePeer(text string) (URL, error) {
	if !strings.Contains(text, "://") {
		text = "nats-route://" + text
	}
	if err := checkURL(text, "nats-route", "nats", "tls"); err != nil {
		return "", err
	}
	if parsed, err := url.Parse(text); err != nil || parsed.Port() == "" {
		return "", fmt.Errorf("want host and port of the other node's nats-cluster-listen, like nats-route://node-a:6222")
	}
	return URL(text), nil
}

// checkEndpoint accepts what a ZeroMQ socket can be bound or connected to.
func checkEndpoint(text string) error {
	const like = `like "tcp://127.0.0.1:5560" or "ipc:///run/gripway/pull"`
	if path, ok := strings.CutPrefix(text, "ipc://"); ok && path != "" || text == "" {
		return nil
	}
	addr, ok := zmqAddress(text)
	if !ok {
		return fmt.Errorf("want an endpoint %s", like)
	}
	if err := checkAddress(addr); err != nil {
		return fmt.Errorf("want host and port, %s; host * is all addresses", like)
	}
	return nil
}

// zmqAddress is the host and port of an endpoint, ok false for one without.
func zmqAddress(endpoint string) (addr string, ok bool) {
	addr, ok = strings.CutPrefix(endpoint, "tcp://")
	return strings.TrimPrefix(addr, "*"), ok
}

func checkForwarded(rule string) error {
	if rule == "append" {
		return nil
	}
	if keep, ok := strings.CutPrefix(rule, "truncate:"); ok {
		if _, err := strconv.ParseUint(keep, 10, 15); err == nil {
			return nil
		}
	}
	return fmt.Errorf("want rules out of truncate:N and append, like truncate:0,append")
}

// didYouMean offers the nearest of the names, if one is near.
func didYouMean(text string, names []string) string {
	best, distance := "", 3 // more than two slips is another word
	if len(text) < 4 {
		distance = 2
	}
	plain := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "_", "-")) }
	for _, name := range names {
		if d := slips(plain(text), plain(name)); d < distance {
			best, distance = name, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// slips counts the letters to change, add or leave out between a and b.
func slips(a, b string) int {
	if len(a) > 64 || len(b) > 64 { // nobody's key; keep the table small
		return len(a) + len(b)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
