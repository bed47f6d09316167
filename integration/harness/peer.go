package harness

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// PeerReady is a route to an origin of our own. Only we ask it, until it
// answers: the peer loses answers while its processes have not found each other.
const PeerReady = "/harness-ready"

// peerKeys are the flags of serve that the peer has a key for.
var peerKeys = map[string]string{
	"--sig-key":                   "sig_key",
	"--sig-iss":                   "sig_iss",
	"--upstream-key":              "upstream_key",
	"--accept-pushpin-route":      "accept_pushpin_route",
	"--auto-cross-origin":         "auto_cross_origin",
	"--debug":                     "debug",
	"--zmq-pull":                  "push_in_spec",
	"--zmq-sub":                   "push_in_sub_specs",
	"--zmq-command":               "command_spec",
	"--zmq-stats":                 "stats_spec",
	"--zmq-stats-format":          "stats_format",
	"--zmq-stats-report-interval": "stats_report_interval",
}

// preparePeer writes a configuration of Pushpin that says what the flags say.
// What a running gateway keeps apart by ports, it keeps apart by Unix sockets in
// a directory of its own.
func (g *Gateway) preparePeer(options GatewayOptions) error {
	keys := map[string]string{"sig_iss": "gripway", "sig_key": "", "upstream_key": "", "accept_pushpin_route": "false", "auto_cross_origin": "false", "debug": "false"}
	for i := 0; i < len(options.Flags); i++ {
		flag, value, hasValue := strings.Cut(options.Flags[i], "=")
		key, ok := peerKeys[flag]
		switch {
		case !ok:
			return fmt.Errorf("the peer has nothing like flag %s", flag)
		case hasValue:
		case keys[key] == "false":
			value = "true"
		case i+1 == len(options.Flags):
			return fmt.Errorf("flag %s has no value", flag)
		default:
			i++
			value = options.Flags[i]
		}
		keys[key] = value
	}
	dir, err := shortDir("peer")
	if err != nil {
		return err
	}
	g.dir = dir
	if g.probe, err = StartOrigin(nil); err != nil {
		return err
	}
	g.probe.On(Reply{Method: "POST", Target: PeerReady, Status: 200})
	g.probe.On(Reply{Method: "GET", Target: PeerReady, Status: 200, Header: Header{{"Grip-Hold", "stream"}, {"Grip-Channel", "harness-ready"}}})
	routes, text := filepath.Join(dir, "routes"), []byte(strings.Join(options.Routes, "\n")+"\n")
	if options.RoutesFile != "" {
		routes = filepath.Join(options.Dir, options.RoutesFile)
		if text, err = os.ReadFile(routes); err != nil {
			return err
		}
	}
	text = fmt.Appendf(text, "*,path_beg=%s %s\n", PeerReady, g.probe.Addr())
	if err := os.WriteFile(routes, text, 0o600); err != nil {
		return err
	}
	_, port, _ := strings.Cut(g.Addr, ":")
	_, tlsPort, _ := strings.Cut(g.TLSAddr, ":")
	_, controlPort, _ := strings.Cut(g.ControlAddr, ":")
	secure := ""
	if options.TLS != nil {
		secure = "https_ports=" + tlsPort
		certs := filepath.Join(dir, "runner", "certs")
		err := errors.Join(
			os.MkdirAll(certs, 0o700),
			os.WriteFile(filepath.Join(certs, "default_"+tlsPort+".crt"), options.TLS.CertPEM, 0o600),
			os.WriteFile(filepath.Join(certs, "default_"+tlsPort+".key"), options.TLS.KeyPEM, 0o600))
		if err != nil {
			return err
		}
	}
	config := fmt.Sprintf(`[global]
include={libdir}/internal.conf
rundir=%[1]s
ipc_prefix=p-
[runner]
services=condure,zurl,pushpin-proxy,pushpin-handler
http_port=127.0.0.1:%[2]s
%[3]s
logdir=%[1]s
log_level=2
client_buffer_size=8192
client_maxconn=1000
[proxy]
routesfile=%[4]s
zurl_out_specs=ipc://%[1]s/p-zurl-in
zurl_out_stream_specs=ipc://%[1]s/p-zurl-in-stream
zurl_in_specs=ipc://%[1]s/p-zurl-out
sig_iss=%[6]s
sig_key=%[7]s
upstream_key=%[8]s
accept_pushpin_route=%[9]s
auto_cross_origin=%[10]s
debug=%[11]s
set_x_forwarded_protocol=proto-only
[handler]
push_in_spec=%[12]s
push_in_sub_specs=%[13]s
push_in_http_addr=127.0.0.1
push_in_http_port=%[5]s
push_in_http_max_headers_size=10000
push_in_http_max_body_size=1000000
stats_spec=%[15]s
stats_format=%[16]s
stats_report_interval=%[17]s
command_spec=%[14]s
message_rate=2500
message_hwm=25000
message_wait=5000
id_cache_ttl=60
connection_subscription_max=20
subscription_linger=60
`, dir, port, secure, routes, controlPort,
		keys["sig_iss"], keys["sig_key"], keys["upstream_key"], keys["accept_pushpin_route"], keys["auto_cross_origin"], keys["debug"],
		cmp.Or(keys["push_in_spec"], "ipc://"+dir+"/pull"), cmp.Or(keys["push_in_sub_specs"], "ipc://"+dir+"/sub"),
		cmp.Or(keys["command_spec"], "ipc://"+dir+"/command"),
		cmp.Or(keys["stats_spec"], "ipc://"+dir+"/stats"), cmp.Or(keys["stats_format"], "tnetstring"),
		strings.TrimSuffix(cmp.Or(keys["stats_report_interval"], "10"), "s"))
	path := filepath.Join(dir, "pushpin.conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return err
	}
	g.cmd = exec.Command(options.Program, "--config="+path, "--merge-output")
	return nil
}

const (
	// probeTimeout is how long one probe may take before another is made.
	probeTimeout = 300 * time.Millisecond

	// probeBytes is more than the peer passes on in one piece.
	probeBytes = 250_000
)

// probePeer returns once requests have gone all ways that there are between the
// peer's processes: in pieces to the origin, and into a stream that is held.
func (g *Gateway) probePeer() error {
	deadline := time.Now().Add(startTimeout)
	for _, method := range []string{"POST", "GET"} {
		for {
			err := g.probeOnce(method)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s %s: %w", method, PeerReady, err)
			}
		}
	}
	return nil
}

func (g *Gateway) probeOnce(method string) error {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	var body io.Reader = http.NoBody
	if method == "POST" {
		body = bytes.NewReader(make([]byte, probeBytes))
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+g.Addr+PeerReady, body)
	if err != nil {
		return err
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != 200 {
		return fmt.Errorf("status %d", response.StatusCode)
	}
	return nil
}
