package config

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// pushpinFiles are where pushpin.conf is looked for when none is named, as
// Pushpin does.
var pushpinFiles = []string{"config/pushpin.conf", "pushpin.conf", "examples/config/pushpin.conf", "/etc/pushpin/pushpin.conf"}

const (
	// pushpinLibdir stands for {libdir} unless the file says another.
	pushpinLibdir = "/usr/lib/pushpin"

	// pushpinIDPorts is how far the ports of two instances with neighbouring --id
	// are apart.
	pushpinIDPorts = 10

	// pushpinIDMax keeps the ports of --id within 65535.
	pushpinIDMax = 6000
)

// PushpinCommand runs the gateway from a pushpin.conf and with the flags of the
// command pushpin. Where these say nothing the environment counts as for serve,
// and after it Pushpin's defaults.
type PushpinCommand struct {
	Config `kong:"-"`

	ConfigFile  string   `name:"config" placeholder:"FILE" help:"Read settings from this file. Default: the first that exists of config/pushpin.conf, pushpin.conf, examples/config/pushpin.conf, /etc/pushpin/pushpin.conf."`
	LogFile     string   `name:"logfile" placeholder:"FILE" help:"Append the log to this file. Default: standard error."`
	Levels      string   `name:"loglevel" placeholder:"N" help:"What to log: 0 errors, 1 warnings, 2 information, 3 everything. Default: 2."`
	Verbose     bool     `name:"verbose" help:"The same as --loglevel=3."`
	MergeOutput bool     `name:"merge-output" short:"m" help:"Accepted: there is one process, so its output is always in one place."`
	Ports       []string `name:"port" sep:"none" placeholder:"[ADDRESS:]PORT" help:"Accept clients here only, instead of at http_port and https_ports. May be repeated."`
	ID          *int     `name:"id" placeholder:"N" help:"Instance: moves the port for publishing by 10 times N, to run several."`
	RouteLines  []string `name:"route" sep:"none" placeholder:"LINE" help:"A route, instead of those in the routes file. May be repeated."`

	// Metrics are the listeners of prometheus_port.
	Metrics []PushpinMetrics `kong:"-"`
	// PublishHeaderBytes is push_in_http_max_headers_size; 0 if it was not given.
	PublishHeaderBytes int `kong:"-"`
}

// PushpinMetrics is a place where Pushpin's metrics are shown.
type PushpinMetrics struct {
	Addr   string
	Prefix string // of each name
}

func (*PushpinCommand) command() {}

// Help is shown by gripway pushpin --help.
func (*PushpinCommand) Help() string {
	return `Reads pushpin.conf and its routes file. The same as calling the program by the name pushpin.

Keys that mean nothing here are named in one warning; wrong values stop the start. Settings that pushpin.conf has no key for can be said in the environment, like GRIPWAY_NATS: see gripway serve --help. What the environment says goes before the file.`
}

// Args returns the words of a command line that follow the program's name. If
// that name is pushpin they are those of the command pushpin, and flags may be
// spelled with one hyphen, as Pushpin allows. If it is viceroy they are those of
// Viceroy.
func Args(argv []string) []string {
	if len(argv) == 0 {
		return nil
	}
	switch strings.TrimSuffix(filepath.Base(argv[0]), ".exe") {
	case "viceroy":
		return append([]string{asViceroy}, argv[1:]...)
	case "pushpin":
	default:
		return argv[1:]
	}
	args := []string{"pushpin"}
	for _, word := range argv[1:] {
		switch {
		case word == "-v":
			word = "--version"
		case len(word) > 2 && word[0] == '-' && word[1] >= 'a' && word[1] <= 'z':
			word = "-" + word
		}
		args = append(args, word)
	}
	return args
}

// pushpinSetting is how a key of pushpin.conf becomes a setting.
type pushpinSetting struct {
	key  string
	unit string // of a number that is a duration
}

// pushpinSettings are the keys that are settings here, by section/name.
var pushpinSettings = map[string]pushpinSetting{
	"runner/client_buffer_size":            {key: "header-bytes"},
	"runner/client_maxconn":                {key: "holds-max"},
	"runner/allow_compression":             {key: "websocket-compression"},
	"proxy/routesfile":                     {key: "routes"},
	"proxy/debug":                          {key: "debug"},
	"proxy/auto_cross_origin":              {key: "auto-cross-origin"},
	"proxy/accept_x_forwarded_protocol":    {key: "accept-x-forwarded-protocol"},
	"proxy/set_x_forwarded_protocol":       {key: "set-x-forwarded-protocol"},
	"proxy/x_forwarded_for":                {key: "x-forwarded-for"},
	"proxy/x_forwarded_for_trusted":        {key: "x-forwarded-for-trusted"},
	"proxy/accept_pushpin_route":           {key: "accept-pushpin-route"},
	"proxy/cdn_loop":                       {key: "cdn-loop"},
	"proxy/sockjs_url":                     {key: "sockjs-url"},
	"proxy/sig_iss":                        {key: "sig-iss"},
	"proxy/sig_key":                        {key: "sig-key"},
	"proxy/upstream_key":                   {key: "upstream-key"},
	"handler/push_in_http_max_body_size":   {key: "publish-body-bytes"},
	"handler/connection_subscription_max":  {key: "subscriptions-per-connection"},
	"handler/subscription_linger":          {key: "subscription-linger", unit: "s"},
	"handler/message_wait":                 {key: "message-wait", unit: "ms"},
	"handler/id_cache_ttl":                 {key: "id-ttl", unit: "s"},
	"handler/update_on_first_subscription": {key: "update-on-first-subscription"},
	"handler/stats_format":                 {key: "zmq-stats-format"},
	"handler/stats_report_interval":        {key: "zmq-stats-report-interval", unit: "s"},
	"handler/stats_subscription_ttl":       {key: "zmq-stats-subscription-ttl", unit: "s"},
	"handler/ipc_file_mode":                {key: "zmq-ipc-mode"},
	"global/stats_connection_ttl":          {key: "zmq-stats-connection-ttl", unit: "s"},
	"global/stats_connection_send":         {key: "zmq-stats-connections"},
}

// pushpinDefaults are Pushpin's, where they differ from ours.
var pushpinDefaults = map[string]string{
	"sig-iss":              "pushpin",
	"response-timeout-min": "5s",
	"header-bytes":         "8192",
	"holds-max":            "50000",
	"websocket-drop":       "true",
}

// Keys that fill itself reads.
const pushpinRead = " global/include global/libdir global/port_offset" +
	" runner/http_port runner/https_ports runner/log_level" +
	" proxy/prometheus_port proxy/prometheus_prefix handler/prometheus_port handler/prometheus_prefix" +
	" handler/push_in_http_addr handler/push_in_http_port handler/push_in_http_max_headers_size" +
	" handler/push_in_spec handler/push_in_sub_spec handler/push_in_sub_specs handler/push_in_sub_connect handler/command_spec handler/stats_spec "

// Keys that lose nothing by being ignored: this is one process, its log goes to
// one place, and its deliveries are not slowed down.
const pushpinNeedless = " global/rundir global/ipc_prefix runner/rundir runner/services runner/logdir" +
	" runner/condure_bin runner/connmgr_bin runner/mongrel2_bin runner/m2sh_bin runner/zurl_bin" +
	" proxy/workers proxy/updates_check proxy/organization_name proxy/ipc_file_mode" +
	" handler/message_rate handler/message_hwm "

// Keys of what is not there yet.
const pushpinMissing = " runner/local_ports" +
	" proxy/max_open_requests proxy/orig_headers_need_mark proxy/log_from proxy/log_user_agent" +
	" proxy/stats_connections_max_ttl proxy/stats_report_interval proxy/stats_spec" +
	" handler/state_spec" +
	" handler/message_block_size handler/share_all "

// among tells whether key is one of the words of list.
func among(list, key string) bool { return strings.Contains(list, " "+key+" ") }

// pushpinWire tells whether key names a socket between Pushpin's own processes.
func pushpinWire(key string) bool {
	section, name, _ := strings.Cut(key, "/")
	return (section == "proxy" || section == "handler") && (strings.HasSuffix(name, "_spec") || strings.HasSuffix(name, "_specs"))
}

// fill reads the file and sets every field.
func (p *PushpinCommand) fill(environ []string) {
	c := &p.Config
	c.command = "pushpin"
	env, _, problems := readEnviron(environ)
	c.unread = append(c.unread, problems...)

	r := pushpinReader{said: map[string]given{}}
	if path := p.find(&r); path != "" {
		p.ConfigFile = path
		r.read(path)
		p.mapKeys(&r)
	}
	flags := p.flags(&r)
	c.unread = append(c.unread, r.problems...)
	if warning := r.warning(); warning.What != "" {
		c.warned = append(c.warned, warning)
	}

	defaults := make(map[string]given)
	for key, text := range pushpinDefaults {
		defaults[key] = given{layer: layerDefault, values: []*value{{text: text}}}
	}
	c.setAll(flags, env, r.said, defaults)
}

// find returns the file to read, "" if there is none.
func (p *PushpinCommand) find(r *pushpinReader) string {
	if p.ConfigFile != "" {
		return p.ConfigFile
	}
	for _, path := range pushpinFiles {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	r.problems = append(r.problems, Problem{Where: "--config", What: "no file is named, and there is none of " + strings.Join(pushpinFiles, ", ")})
	return ""
}

// flags returns what the command line says. Those that are settings of another
// notation are checked here.
func (p *PushpinCommand) flags(r *pushpinReader) map[string]given {
	said := make(map[string]given)
	if len(p.Ports) > 0 {
		g := given{layer: layerFlag, name: "port"}
		for _, port := range p.Ports {
			g.values = append(g.values, &value{text: portAddress(port)})
		}
		said["listen"] = g
		for _, key := range []string{"listen-tls", "tls-cert", "tls-key"} {
			said[key] = given{layer: layerFlag, name: "port"}
		}
	}
	if len(p.RouteLines) > 0 {
		g := given{layer: layerFlag}
		for _, line := range p.RouteLines {
			g.values = append(g.values, &value{text: line})
		}
		said["route"] = g
		said["routes"] = given{layer: layerFlag, name: "route"}
	}
	levels := p.Levels
	if p.Verbose {
		levels = "3"
	}
	if levels != "" {
		level, err := pushpinLevel(strings.Split(levels, ","))
		if err != nil {
			r.problems = append(r.problems, Problem{Where: "--loglevel", Value: levels, What: err.Error()})
		}
		said["log-level"] = given{layer: layerFlag, name: "loglevel", values: []*value{{text: level}}}
	}
	return said
}

// portAddress completes a bare port to an address: all interfaces.
func portAddress(text string) string {
	if strings.Contains(text, ":") {
		return text
	}
	return ":" + text
}

// pushpinLevel is the level's name here. Levels of single processes, like
// proxy:3, mean nothing in one process.
func pushpinLevel(parts []string) (string, error) {
	level := 2
	for _, part := range parts {
		process, number, single := strings.Cut(strings.TrimSpace(part), ":")
		if !single {
			number = process
		}
		n, err := strconv.Atoi(number)
		if err != nil || n < 0 || single && process == "" {
			return "info", fmt.Errorf("want 0 (errors), 1 (warnings), 2 (information) or 3 (everything)")
		}
		if !single {
			level = n
		}
	}
	return []string{"error", "warn", "info", "debug"}[min(level, 3)], nil
}

// mapKeys gives the keys of the file their meaning.
func (p *PushpinCommand) mapKeys(r *pushpinReader) {
	for _, key := range slices.Sorted(maps.Keys(pushpinSettings)) {
		s := pushpinSettings[key]
		v, ok := r.values[key]
		if !ok || v.text == "" { // empty is as if absent for all of them
			continue
		}
		if s.unit != "" {
			if _, err := decodeCount(v.text); err != nil {
				r.refuse(v, "want a whole number, of "+s.unit)
				continue
			}
			v.text += s.unit
		}
		to := findSetting(s.key)
		switch to.kind {
		case "file":
			v.text = resolveFile(v.text, r.dir)
		case "secret":
			v.text = resolveKey(v.text, r.dir)
		case "bool", "choice":
			v.text = strings.ToLower(v.text)
		}
		if to.list {
			r.say(s.key, v, to.split(v.text, false)...)
			continue
		}
		r.say(s.key, v, v.text)
	}

	if v, ok := r.values["runner/http_port"]; ok {
		var addrs []string
		for _, item := range v.items {
			addrs = append(addrs, portAddress(item))
		}
		r.say("listen", v, addrs...)
	}
	if v := r.values["runner/https_ports"]; len(v.items) > 0 && len(p.Ports) == 0 {
		p.mapTLS(r, v)
	}
	if v := r.values["runner/log_level"]; len(v.items) > 0 {
		level, err := pushpinLevel(v.items)
		if err != nil {
			r.refuse(v, err.Error())
		}
		r.say("log-level", v, level)
	}
	p.mapPublish(r)
	for _, section := range []string{"proxy", "handler"} {
		v := r.values[section+"/prometheus_port"]
		if v.text == "" {
			continue
		}
		addr := portAddress(v.text)
		prefix := r.values[section+"/prometheus_prefix"]
		switch {
		case strings.HasPrefix(v.text, "ipc:"):
			r.refuse(v, "Unix sockets are not supported yet: want a port, like 9100 or 127.0.0.1:9100")
		case checkAddress(addr) != nil:
			r.refuse(v, "want a port, like 9100 or 127.0.0.1:9100")
		case strings.ContainsFunc(prefix.text, notInMetric):
			r.refuse(prefix, "want letters, digits, _ and : only")
		default:
			p.Metrics = append(p.Metrics, PushpinMetrics{addr, prefix.text})
		}
	}
}

// notInMetric tells what cannot stand in the name of a metric.
func notInMetric(r rune) bool {
	return r > 0x7f || r != ':' && (!isTokenByte(byte(r)) || r == '-' || r == '.')
}

// mapPublish opens the port for publishing where Pushpin would.
func (p *PushpinCommand) mapPublish(r *pushpinReader) {
	addr, port := "127.0.0.1", 5561
	place := r.values["handler/push_in_http_port"]
	if place.line > 0 {
		port = 0 // empty switches it off
		if n, err := strconv.ParseUint(place.text, 10, 16); err == nil {
			port = int(n)
		} else if place.text != "" {
			r.refuse(place, "want a port, like 5561")
		}
	}
	if v := r.values["handler/push_in_http_addr"]; v.text != "" {
		addr = strings.Trim(v.text, "[]")
		if place.line == 0 {
			place = v
		}
	}
	offset := p.portOffset(r)
	p.mapZMQ(r, offset)
	if port == 0 {
		r.say("control-listen", place)
	} else {
		if strings.Contains(addr, ":") {
			addr = "[" + addr + "]"
		}
		r.say("control-listen", place, fmt.Sprintf("%s:%d", addr, port+offset))
	}
	if v := r.values["handler/push_in_http_max_headers_size"]; v.text != "" {
		n, err := decodeBytes(v.text)
		if err != nil || n == 0 {
			r.refuse(v, "want bytes, like 10000")
		}
		p.PublishHeaderBytes = n
	}
}

// portOffset is what all ports for publishing are moved by.
func (p *PushpinCommand) portOffset(r *pushpinReader) int {
	offset := 0
	if v := r.values["global/port_offset"]; v.text != "" {
		n, err := decodeCount(v.text)
		if err != nil {
			r.refuse(v, "want a whole number")
		}
		offset = n
	}
	if p.ID != nil {
		if *p.ID < 0 || *p.ID > pushpinIDMax {
			r.problems = append(r.problems, Problem{Where: "--id", Value: strconv.Itoa(*p.ID), What: fmt.Sprintf("want a number from 0 to %d", pushpinIDMax)})
		} else if *p.ID > 0 {
			offset = *p.ID * pushpinIDPorts
		}
	}
	return offset
}

// mapZMQ opens the ZeroMQ sockets that the file names.
func (p *PushpinCommand) mapZMQ(r *pushpinReader, offset int) {
	sub := "zmq-sub"
	if connect, err := decodeBool(r.values["handler/push_in_sub_connect"].text); err == nil && connect {
		sub = "zmq-sub-connect"
	}
	for _, s := range []struct{ name, key string }{
		{"push_in_spec", "zmq-pull"}, {"push_in_sub_spec", sub}, {"push_in_sub_specs", sub}, {"command_spec", "zmq-command"}, {"stats_spec", "zmq-stats"},
	} {
		v := r.values["handler/"+s.name]
		if v.text == "" {
			continue
		}
		endpoints := []string{v.text}
		if findSetting(s.key).list {
			endpoints = v.items
		}
		for i, endpoint := range endpoints {
			addr, ok := zmqAddress(endpoint)
			host, port, err := net.SplitHostPort(addr)
			n, notPort := strconv.ParseUint(port, 10, 16)
			if ok && offset > 0 && s.key != "zmq-sub-connect" && err == nil && notPort == nil {
				endpoints[i] = "tcp://" + net.JoinHostPort(host, strconv.Itoa(int(n)+offset))
			}
		}
		r.say(s.key, v, endpoints...)
	}
}

// mapTLS finds the certificates of the HTTPS ports: in runner/certs beside the
// file default_<port>.crt and .key of each, and a pair for each further name.
func (p *PushpinCommand) mapTLS(r *pushpinReader, v iniValue) {
	dir := filepath.Join(r.dir, "runner", "certs")
	var addrs, certs, keys []string
	add := func(cert string) {
		certs = append(certs, cert)
		keys = append(keys, strings.TrimSuffix(cert, ".crt")+".key")
	}
	for _, item := range v.items {
		addr := portAddress(item)
		addrs = append(addrs, addr)
		cert := filepath.Join(dir, "default_"+addr[strings.LastIndexByte(addr, ':')+1:]+".crt")
		if _, err := os.Stat(cert); err != nil {
			r.refuse(v, fmt.Sprintf("port %s has no certificate: %s: %s", item, cert, bare(err)))
			continue
		}
		add(cert)
	}
	others, _ := filepath.Glob(filepath.Join(escapeGlob(dir), "*.crt")) // the pattern is well formed
	for _, cert := range others {
		if !strings.HasPrefix(filepath.Base(cert), "default_") {
			add(cert)
		}
	}
	r.say("listen-tls", v, addrs...)
	r.say("tls-cert", v, certs...)
	r.say("tls-key", v, keys...)
}

// escapeGlob makes a path a pattern that matches only itself.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// pushpinReader reads a pushpin.conf and keeps what it says.
type pushpinReader struct {
	path, dir string
	values    map[string]iniValue
	named     []iniValue // of the file itself and a file it includes, in order
	said      map[string]given
	problems  Problems
}

// read reads path and the file that it includes, whose values are the weaker ones.
func (r *pushpinReader) read(path string) {
	r.path, r.dir = path, filepath.Dir(path)
	data, err := readBounded(path)
	if err != nil {
		r.problems = append(r.problems, Problem{Where: "--config", Value: path, What: "the file cannot be read: " + err.Error()})
		return
	}
	r.values, r.problems = parseINI(path, data)

	include := r.values["global/include"]
	if include.text == "internal.conf" {
		include.text = "{libdir}/internal.conf"
	}
	// What Pushpin's own file has is sockets between its processes. It is not needed,
	// so it is not missed.
	if include.text != "" && include.text != "{libdir}/internal.conf" {
		file := resolveFile(r.substitute(include.text), r.dir)
		data, err := readBounded(file)
		if err != nil {
			r.refuse(include, "the file cannot be read: "+err.Error())
		}
		included, problems := parseINI(file, data)
		r.problems = append(r.problems, problems...)
		for key, v := range included {
			if _, ok := r.values[key]; !ok {
				r.values[key] = v
			}
		}
	}
	for key, v := range r.values {
		v.text = r.substitute(v.text)
		for i := range v.items {
			v.items[i] = r.substitute(v.items[i])
		}
		r.values[key] = v
		r.named = append(r.named, v)
	}
	slices.SortFunc(r.named, func(a, b iniValue) int {
		if a.file != b.file {
			return strings.Compare(a.file, b.file)
		}
		return a.line - b.line
	})
}

// substitute puts in what stands for {libdir}, {rundir} and {ipc_prefix}.
func (r *pushpinReader) substitute(text string) string {
	if !strings.Contains(text, "{") {
		return text
	}
	or := func(values ...string) string {
		for _, v := range values {
			if v != "" {
				return v
			}
		}
		return ""
	}
	return strings.NewReplacer(
		"{libdir}", or(r.values["global/libdir"].text, pushpinLibdir),
		"{rundir}", or(r.values["global/rundir"].text, r.values["runner/rundir"].text),
		"{ipc_prefix}", or(r.values["global/ipc_prefix"].text, "pushpin-"),
	).Replace(text)
}

// say keeps what a key of the file says about a setting.
func (r *pushpinReader) say(key string, v iniValue, texts ...string) {
	g := given{layer: layerPushpin, file: v.file, line: v.line, name: v.name()}
	if v.line == 0 { // Pushpin's default
		g.layer = layerDefault
	}
	for _, text := range texts {
		g.values = append(g.values, &value{text: text, line: v.line})
	}
	r.said[key] = g
}

// name is the key without its section.
func (v iniValue) name() string {
	_, name, _ := strings.Cut(v.key, "/")
	return name
}

func (r *pushpinReader) refuse(v iniValue, what string) {
	r.problems = append(r.problems, Problem{Where: fmt.Sprintf("%s:%d: %s", v.file, v.line, v.name()), Value: v.text, What: what})
}

// warning names the keys that have no effect.
func (r *pushpinReader) warning() Problem {
	var needless, missing, unknown []string
	for _, v := range r.named {
		_, setting := pushpinSettings[v.key]
		switch {
		case setting, among(pushpinRead, v.key):
		case among(pushpinNeedless, v.key):
			needless = append(needless, v.name())
		case among(pushpinMissing, v.key):
			if v.text != "" && v.text != "false" { // these ask for nothing
				missing = append(missing, v.name())
			}
		case pushpinWire(v.key):
		default:
			unknown = append(unknown, v.key+r.didYouMean(v.key))
		}
	}
	var parts []string
	for _, group := range []struct {
		title string
		names []string
	}{{"unknown keys", unknown}, {"not supported yet", missing}, {"without meaning here", needless}} {
		if len(group.names) > 0 {
			parts = append(parts, group.title+": "+strings.Join(group.names, ", "))
		}
	}
	return Problem{Where: r.path, What: strings.Join(parts, "; ")}
}

// didYouMean offers the key of another section, or one that is spelled alike.
func (r *pushpinReader) didYouMean(key string) string {
	known := strings.Fields(pushpinRead + pushpinNeedless + pushpinMissing)
	for k := range pushpinSettings {
		known = append(known, k)
	}
	slices.Sort(known)
	_, name, _ := strings.Cut(key, "/")
	for _, k := range known {
		if strings.HasSuffix(k, "/"+name) {
			return " (did you mean " + k + "?)"
		}
	}
	if near := didYouMean(key, known); near != "" {
		return " (" + strings.TrimPrefix(near, "; ") + ")"
	}
	return ""
}
