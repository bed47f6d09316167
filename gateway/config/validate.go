package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/gripway/gripway/grip"
)

// Validate reports all that is wrong with the settings, the files they name and
// the routes; nil if nothing is. It reads files and opens no ports.
func (c *Config) Validate() Problems {
	problems := append(Problems(nil), c.unread...)
	for _, check := range []func() Problems{
		c.checkListeners, c.checkCertificates, c.checkRoutes, c.checkKeys, c.checkPublishers, c.checkNATS, c.checkZMQ, c.checkGuests,
	} {
		problems = append(problems, check()...)
	}
	return problems
}

// Warnings are things that are allowed and that someone may not have meant.
func (c *Config) Warnings() Problems {
	warnings := append(Problems(nil), c.warned...)
	for _, open := range []struct{ key, addr, what string }{
		{"control-listen", c.ControlListen, "whoever reaches this address can publish: it asks for no password; publish-key or publisher would have it ask"},
		{"control-listen-tls", c.ControlListenTLS, "whoever reaches this address can publish: it asks for no password; publish-key or publisher would have it ask"},
		{"nats-listen", c.NATSListen, "whoever reaches this address can publish and listen: it asks for no password"},
		{"nats-cluster-listen", c.NATSClusterListen, "whoever reaches this address can join the cluster: keep it within a private network"},
	} {
		host, _, err := net.SplitHostPort(open.addr)
		if strings.HasPrefix(open.key, "control-listen") && len(c.Publisher)+len(c.PublishKey) > 0 {
			continue
		}
		if err == nil && !loopback(host) {
			warnings = append(warnings, c.problem(open.key, open.addr, open.what))
		}
	}
	for _, open := range c.zmqBound() {
		host, _, err := net.SplitHostPort(open.addr)
		if err == nil && !loopback(host) {
			warnings = append(warnings, c.problem(open.key, open.addr, "whoever reaches this address can publish: it asks for no password"))
		}
	}
	for i := range min(len(c.TLSCert), len(c.TLSKey)) {
		pair, err := tls.LoadX509KeyPair(c.TLSCert[i], c.TLSKey[i])
		if err != nil {
			continue // Validate says so
		}
		if until := pair.Leaf.NotAfter; time.Now().After(until) {
			warnings = append(warnings, c.problem("tls-cert", c.TLSCert[i], "the certificate expired on "+until.Format(time.DateOnly)))
		}
	}
	return warnings
}

// problem names the place where the value of key came from.
func (c *Config) problem(key, shown, what string) Problem {
	s := findSetting(key)
	return Problem{Where: c.given[key].where(s, 0), Value: shown, What: what}
}

// Unopened says where an address comes from that could not be listened at, and
// what would help; nil if err is nil.
func (c *Config) Unopened(key, address string, err error) error {
	if err == nil {
		return nil
	}
	what := err.Error()
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		what = "the address is in use, perhaps by another gateway: want another, or end what has it"
	case errors.Is(err, syscall.EACCES):
		what = "a port that only a privileged program may open: want one from 1024 on, or the capability CAP_NET_BIND_SERVICE"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		what = "this machine has no such address"
	}
	return c.problem(key, address, what)
}

// NoBus says which setting err, the reason why there is no bus, comes from; nil if err
// is nil.
func (c *Config) NoBus(err error) error {
	if err == nil {
		return nil
	}
	what := strings.TrimPrefix(err.Error(), "natsbus: ")
	if c.NATS.Reveal() != "" {
		return c.problem("nats", "", what)
	}
	var file *fs.PathError
	if errors.As(err, &file) && c.NATSStoreDir != "" {
		return c.problem("nats-store-dir", c.NATSStoreDir, what)
	}
	// The server says which port it cannot have, in words of its own: ask again.
	for _, listener := range []struct{ key, address string }{{"nats-listen", c.NATSListen}, {"nats-cluster-listen", c.NATSClusterListen}} {
		if listener.address == "" {
			continue
		}
		l, opened := net.Listen("tcp", listener.address)
		if opened != nil {
			return c.Unopened(listener.key, listener.address, opened)
		}
		l.Close()
	}
	return err
}

// said tells whether key was set by anything but its default, to anything.
func (c *Config) said(key string) bool {
	g := c.given[key]
	return g.layer != layerDefault && len(g.values) > 0
}

func (c *Config) checkListeners() Problems {
	var problems Problems
	if len(c.Listen) == 0 && len(c.ListenTLS) == 0 && !c.said("listen") && !c.said("listen-tls") {
		problems = append(problems, c.problem("listen", "", "no address for clients: want listen or listen-tls"))
	}
	type listener struct{ key, addr, host, port string }
	var all []listener
	add := func(key string, addrs ...string) {
		for _, addr := range addrs {
			host, port, err := net.SplitHostPort(addr)
			if err != nil || port == "0" {
				continue // absent, or any free port
			}
			if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
				host = ""
			}
			for _, other := range all {
				if other.port == port && (other.host == host || other.host == "" || host == "") {
					problems = append(problems, c.problem(key, addr, fmt.Sprintf("%s is at %q already: want another port", other.key, other.addr)))
					break
				}
			}
			all = append(all, listener{key, addr, host, port})
		}
	}
	add("listen", c.Listen...)
	add("listen-tls", c.ListenTLS...)
	add("control-listen", c.ControlListen)
	add("control-listen-tls", c.ControlListenTLS)
	add("nats-listen", c.NATSListen)
	add("nats-cluster-listen", c.NATSClusterListen)
	for _, open := range c.zmqBound() {
		add(open.key, open.addr)
	}
	return problems
}

func (c *Config) checkCertificates() Problems {
	var problems Problems
	switch certs, keys := len(c.TLSCert), len(c.TLSKey); {
	case certs != keys:
		return append(problems, c.problem("tls-cert", "", fmt.Sprintf("%d of tls-cert and %d of tls-key: want one key for each certificate, in the same order", certs, keys)))
	case certs == 0 && len(c.ListenTLS) > 0:
		return append(problems, c.problem("listen-tls", c.ListenTLS[0], "no certificate: want tls-cert and tls-key"))
	case certs == 0 && c.ControlListenTLS != "":
		return append(problems, c.problem("control-listen-tls", c.ControlListenTLS, "no certificate: want tls-cert and tls-key"))
	case certs > 0 && !c.said("listen-tls") && !c.said("control-listen-tls"):
		return append(problems, c.problem("tls-cert", c.TLSCert[0], "nothing listens over TLS: want listen-tls, like :8443"))
	}
	for i, cert := range c.TLSCert {
		_, err := tls.LoadX509KeyPair(cert, c.TLSKey[i])
		var file *os.PathError
		switch {
		case err == nil:
		case errors.As(err, &file) && file.Path == c.TLSKey[i]:
			problems = append(problems, c.problem("tls-key", file.Path, "the file cannot be read: "+file.Err.Error()))
		case errors.As(err, &file):
			problems = append(problems, c.problem("tls-cert", file.Path, "the file cannot be read: "+file.Err.Error()))
		default:
			problems = append(problems, c.problem("tls-cert", cert, fmt.Sprintf("with tls-key %q: %s", c.TLSKey[i], err)))
		}
	}
	return problems
}

func (c *Config) checkRoutes() Problems {
	var problems Problems
	if c.command == "demo" {
		for _, key := range []string{"route", "routes"} {
			if c.said(key) {
				problems = append(problems, c.problem(key, "", "demo has its own route and origin: want serve for yours"))
			}
		}
		return problems
	}
	if !c.said("route") && !c.said("routes") {
		if c.fileUnread {
			return nil // they may be there
		}
		what := "no routes: want --route '* localhost:8000,over_http', --routes FILE, or --config FILE with route or routes in it"
		return append(problems, Problem{Where: "route", What: what})
	}
	var fromFile []Route
	if c.Routes != "" {
		routes, wrong := NewRoutesFile(c.Routes).Load()
		fromFile = routes
		if routes == nil {
			for _, err := range wrong {
				problems = append(problems, c.problem("routes", "", err.Error()))
			}
		} else {
			problems = append(problems, located(wrong)...)
		}
	}
	all, wrong := CombineRoutes(c.Route, fromFile)
	problems = append(problems, located(wrong)...)
	_, wrong = c.CheckRouteGuests(all)
	return append(problems, located(wrong)...)
}

// located are errors that name their place themselves.
func located(errs []error) Problems {
	var problems Problems
	for _, err := range errs {
		problems = append(problems, Problem{What: err.Error()})
	}
	return problems
}

func (c *Config) checkKeys() Problems {
	var problems Problems
	for _, key := range []struct {
		key   string
		value Secret
	}{{"sig-key", c.SigKey}, {"upstream-key", c.UpstreamKey}} {
		if key.value == "" {
			continue
		}
		if _, err := grip.ParseKey(key.value.Reveal(), ""); err != nil {
			problems = append(problems, c.problem(key.key, key.value.String(), err.Error()))
		}
	}
	return problems
}

func (c *Config) checkNATS() Problems {
	var problems Problems
	if c.NATS != "" {
		for _, key := range []string{"nats-listen", "nats-cluster-listen", "nats-peer", "nats-store-dir"} {
			if c.said(key) {
				problems = append(problems, c.problem(key, "", "with nats there is no server inside this process: want one of the two"))
			}
		}
	}
	if c.NATSCreds != "" {
		if c.NATS == "" {
			problems = append(problems, c.problem("nats-creds", c.NATSCreds, "credentials are for nats, which is not set"))
		}
		if _, err := readBounded(c.NATSCreds); err != nil {
			problems = append(problems, c.problem("nats-creds", c.NATSCreds, "the file cannot be read: "+err.Error()))
		}
	}
	if c.NATS == "" && len(c.NATSPeer) > 0 && !c.said("nats-cluster-listen") {
		problems = append(problems, c.problem("nats-peer", "", "the other nodes have to reach this one too: want nats-cluster-listen, like :6222"))
	}
	if c.NATSStoreDir != "" && c.NATSClusterListen != "" && len(c.NATSPeer) == 0 {
		problems = append(problems, c.problem("nats-store-dir", c.NATSStoreDir, "JetStream has to know all nodes: want nats-peer with all of them, the same list everywhere"))
	}
	if c.NATSClusterName == "" && c.said("nats-cluster-name") {
		problems = append(problems, c.problem("nats-cluster-name", "", "want a name"))
	}
	return problems
}

// zmqPort is an address that a ZeroMQ socket is bound to.
type zmqPort struct{ key, addr string }

// zmqBound are those that have a port.
func (c *Config) zmqBound() []zmqPort {
	var all []zmqPort
	add := func(key string, endpoints ...string) {
		for _, endpoint := range endpoints {
			if addr, ok := zmqAddress(endpoint); ok {
				all = append(all, zmqPort{key, addr})
			}
		}
	}
	add("zmq-pull", c.ZMQPull...)
	add("zmq-sub", c.ZMQSub...)
	add("zmq-command", c.ZMQCommand)
	add("zmq-stats", c.ZMQStats)
	return all
}

func (c *Config) checkZMQ() Problems {
	var problems Problems
	for _, endpoint := range c.ZMQSubConnect {
		addr, ok := zmqAddress(endpoint)
		if !ok {
			continue
		}
		if host, port, err := net.SplitHostPort(addr); err == nil && (host == "" || port == "0") {
			problems = append(problems, c.problem("zmq-sub-connect", endpoint, "want the publisher's host and port, like tcp://127.0.0.1:5562"))
		}
	}
	return problems
}

// Certificates reads the pairs of tls-cert and tls-key; the TLS stack chooses
// by the name the client asks for, and takes the first if none fits.
func (c *Config) Certificates() ([]tls.Certificate, error) {
	var all []tls.Certificate
	for i := range min(len(c.TLSCert), len(c.TLSKey)) {
		pair, err := tls.LoadX509KeyPair(c.TLSCert[i], c.TLSKey[i])
		if err != nil {
			return nil, fmt.Errorf("tls-cert %q: %w", c.TLSCert[i], err)
		}
		all = append(all, pair)
	}
	return all, nil
}
