package natsbus

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/pubsub/internal/lanes"
)

const (
	// startMax is how long the server may take until it is ready; it takes
	// milliseconds.
	startMax = 10 * time.Second

	// startTick is how often it is asked meanwhile.
	startTick = time.Millisecond

	// routePingEvery, with pingsMax, notices within half a minute that a peer is
	// gone without a word.
	routePingEvery = 10 * time.Second

	// clusterUser is the name that goes with the cluster's secret.
	clusterUser = "gripway"
)

// watchEvery is how often the routes to peers are looked at. Tests cannot wait so long.
var watchEvery = 250 * time.Millisecond

// Embedded says who may connect to the NATS server in this process. Its zero
// value is nobody: it opens no port.
type Embedded struct {
	// Listen is host:port for programs that speak NATS themselves (port 0: any free
	// one). Empty means none may connect.
	Listen string

	// Token is what such programs have to show. Empty means nothing: whoever
	// reaches the port may publish and listen to every channel.
	Token string

	// StoreDir is where JetStream keeps what outlives this process ([Bus.Buckets]).
	// Empty means no JetStream. Each node needs a folder of its own; a node's name is
	// kept there too. In a cluster, Peers has to be the
	// same list of all nodes everywhere, this one included.
	StoreDir string

	// TLS of Listen: with Cert and Key, programs have to use TLS; with CA as well,
	// they need a certificate.
	TLS TLS

	// ClusterListen is host:port for the other nodes (port 0: any free one). Every
	// node must be able to reach every other: items travel one step, not two. Empty
	// means no cluster.
	ClusterListen string

	// Peers are the ClusterListen addresses of other nodes, host:port or
	// nats-route://host:port. One that answers is enough, the others become known
	// through it. This node itself may be among them, so that all can have one list.
	Peers []string

	// ClusterName must be the same on all nodes. Empty means "gripway".
	ClusterName string

	// ClusterAdvertise is the host:port that nodes give each other for this one, if
	// ClusterListen is not what they can reach. Empty means ClusterListen.
	ClusterAdvertise string

	// ClusterSecret must be the same on all nodes. Empty means none: whoever reaches
	// ClusterListen may become a node.
	ClusterSecret string

	// ClusterTLS of connections between nodes, Cert, Key and CA all together: each
	// shows its certificate and asks for the other's.
	ClusterTLS TLS
}

func (e *Embedded) isZero() bool { return e.StoreDir == "" && !e.saysWhom() }

// saysWhom: something is said about who may connect.
func (e *Embedded) saysWhom() bool {
	return e.Listen != "" || e.ClusterListen != "" || len(e.Peers) != 0 || e.Token != "" ||
		e.ClusterName != "" || e.ClusterAdvertise != "" || e.ClusterSecret != "" || e.TLS != (TLS{}) || e.ClusterTLS != (TLS{})
}

// unreachable: nobody else could connect.
func (e *Embedded) unreachable() bool {
	return e.Listen == "" && e.ClusterListen == "" && len(e.Peers) == 0
}

// embedded is the NATS server in this process.
type embedded struct {
	// Fixed after startEmbedded.
	server *server.Server
	token  string // what clients have to show, this node included
	open   bool   // programs may connect
	stop   context.CancelFunc
	watch  sync.WaitGroup

	told atomic.Int64 // routes of which follow has told the receivers
}

// startEmbedded returns once the server takes connections.
func startEmbedded(o Options) (*embedded, error) {
	options, err := o.Embedded.serverOptions(o.Name)
	if err != nil {
		return nil, err
	}
	natsServer, err := server.NewServer(options)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	log := &serverLog{log: o.Log, fatal: make(chan error, 1)}
	natsServer.SetLogger(log, false, false)
	natsServer.Start()

	end := time.After(startMax)
	for err == nil && !natsServer.ReadyForConnections(startTick) {
		select {
		case err = <-log.fatal:
		case <-end:
			err = fmt.Errorf("not ready after %v", startMax)
		case <-time.After(startTick):
		}
	}
	if err != nil {
		natsServer.Shutdown()
		natsServer.WaitForShutdown()
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	o.Embedded.warn(o.Log)
	e := &embedded{server: natsServer, token: options.Authorization, open: o.Embedded.Listen != ""}
	e.stop = func() {}
	return e, nil
}

// watchRoutes begins to look at the routes to peers, if there can be some.
func (e *embedded) watchRoutes(o Options, set *lanes.Set, talk *talk) {
	if o.Embedded.ClusterListen == "" {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	e.stop = cancel
	e.watch.Go(func() { e.follow(ctx, set, talk, o.Log) })
}

// streamMemoryBytes bounds what JetStream may be asked to keep in memory. Buckets
// are in files.
const streamMemoryBytes = 64 << 20

// nodeName is the file in StoreDir that has the node's name: the nodes of a cluster
// know by it who has which part of a bucket.
const nodeName = "node-name"

// serverName is a name that no other server has, for a node called name. NATS takes no
// blanks in it.
func serverName(name string) string {
	return strings.Join(strings.Fields(cmp.Or(name, "gripway")), "-") + "_" + strings.ToLower(rand.Text()[:8])
}

// nodeOf is the name of the node whose server has this name.
func nodeOf(server string) string {
	if i := strings.LastIndexByte(server, '_'); i > 0 {
		return server[:i]
	}
	return server
}

// keepName returns the name that this node's server had before, if it had one.
func (e *Embedded) keepName(name string) (string, error) {
	if err := os.MkdirAll(e.StoreDir, 0o700); err != nil {
		return "", err
	}
	path := filepath.Join(e.StoreDir, nodeName)
	data, err := os.ReadFile(path)
	if name := strings.TrimSpace(string(data)); err == nil && name != "" {
		return name, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	name = serverName(name)
	return name, os.WriteFile(path, []byte(name+"\n"), 0o600)
}

// serverOptions: JetStream only with a StoreDir, no monitoring, no WebSocket or MQTT listener (their
// ports are zero), no signal handlers.
func (e *Embedded) serverOptions(name string) (*server.Options, error) {
	options := &server.Options{
		ServerName: serverName(name),
		NoSigs:     true,
		MaxPayload: pubsub.ItemBytesMax,
	}
	if e.StoreDir != "" {
		options.JetStream, options.StoreDir, options.JetStreamMaxMemory = true, e.StoreDir, streamMemoryBytes
		var err error
		if options.ServerName, err = e.keepName(name); err != nil {
			return nil, fmt.Errorf("store dir: %w", err)
		}
	}
	if e.Listen != "" {
		host, port, err := hostPort("listen", e.Listen)
		if err != nil {
			return nil, err
		}
		options.Host, options.Port, options.Authorization = host, port, e.Token
		if options.TLSConfig, err = e.TLS.server("listen"); err != nil {
			return nil, err
		}
		options.TLS = options.TLSConfig != nil
		options.TLSVerify = options.TLS && e.TLS.CA != ""
	} else {
		// A server in a cluster does not become ready without a port for clients.
		// Nobody but this process is meant to use it, so it takes a secret that
		// nobody else knows, and the other nodes do not pass its address on.
		options.Host, options.Port, options.Authorization = "127.0.0.1", server.RANDOM_PORT, rand.Text()
		options.Cluster.NoAdvertise = true
		options.DontListen = e.unreachable()
	}
	if e.ClusterListen == "" {
		if len(e.Peers) > 0 {
			return nil, errors.New("peers without a cluster listener: the other nodes must be able to reach this one")
		}
		return options, nil
	}

	if e.StoreDir != "" && len(e.Peers) == 0 {
		return nil, errors.New("a store dir and a cluster without peers: JetStream has to know all nodes, itself included")
	}
	host, port, err := hostPort("cluster listen", e.ClusterListen)
	if err != nil {
		return nil, err
	}
	cluster := &options.Cluster
	cluster.Host, cluster.Port, cluster.Advertise = host, port, e.ClusterAdvertise
	cluster.Name = e.ClusterName
	if cluster.Name == "" {
		cluster.Name = "gripway"
	}
	cluster.PingInterval, cluster.MaxPingsOut = routePingEvery, pingsMax
	if e.ClusterSecret != "" {
		cluster.Username, cluster.Password = clusterUser, e.ClusterSecret
	}
	if e.ClusterTLS != (TLS{}) && (e.ClusterTLS.Cert == "" || e.ClusterTLS.CA == "") {
		return nil, errors.New("cluster TLS: certificate, key and CA are needed together")
	}
	if cluster.TLSConfig, err = e.ClusterTLS.server("cluster"); err != nil {
		return nil, err
	}
	if cluster.TLSConfig != nil {
		cluster.TLSConfig.RootCAs = cluster.TLSConfig.ClientCAs
	}
	for _, peer := range e.Peers {
		route, err := routeTo(peer, e.ClusterSecret)
		if err != nil {
			return nil, err
		}
		options.Routes = append(options.Routes, route)
	}
	return options, nil
}

// routeTo reads a peer: host:port, or nats-route://host:port, which may say as whom.
func routeTo(peer, secret string) (*url.URL, error) {
	route := &url.URL{Scheme: "nats-route", Host: peer}
	if strings.Contains(peer, "://") {
		var err error
		if route, err = url.Parse(peer); err != nil || route.Scheme != "nats-route" && route.Scheme != "nats" {
			return nil, fmt.Errorf("peer %q is not host:port or nats-route://host:port", redact(peer))
		}
	}
	if _, _, err := hostPort("peer", route.Host); err != nil {
		return nil, err
	}
	if route.User == nil && secret != "" {
		route.User = url.UserPassword(clusterUser, secret)
	}
	return route, nil
}

// warn names the doors that stand open to more than this machine.
func (e *Embedded) warn(log *slog.Logger) {
	if e.Listen != "" && e.Token == "" && e.TLS.CA == "" && !loopback(e.Listen) {
		log.Warn("NATS listener: whoever reaches it may publish and listen to every channel; give it a token or a CA", "listen", e.Listen)
	}
	if e.ClusterListen != "" && e.ClusterSecret == "" && e.ClusterTLS.CA == "" && !loopback(e.ClusterListen) {
		log.Warn("cluster listener: whoever reaches it may become a node; give the nodes a secret", "listen", e.ClusterListen)
	}
}

// follow tells all receivers of a hole when a route to a peer went or came: this
// node's own connection never breaks, so nobody else would.
func (e *embedded) follow(ctx context.Context, set *lanes.Set, talk *talk, log *slog.Logger) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	known := make(map[uint64]string) // peers' names by id of the route
	mend := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := e.routes()
		if maps.Equal(now, known) {
			if mend { // calm again, and a route that came has exchanged its interest
				set.Mend(set.Generation())
				talk.hello(false) // to who did not hear the first one
				mend = false
			}
			continue
		}
		set.Break()
		mend = true
		before, after := names(known), names(now)
		for _, name := range after {
			if !slices.Contains(before, name) {
				log.Info("node joined", "node", nodeOf(name), "peers", len(after))
			}
		}
		for _, name := range before {
			if !slices.Contains(after, name) {
				log.Warn("node left: its items are missed until it is back", "node", nodeOf(name), "peers", len(after))
			}
		}
		known = now
		e.told.Store(int64(len(known)))
	}
}

// routes are the peers' names by route; several routes lead to one peer.
func (e *embedded) routes() map[uint64]string {
	routes := make(map[uint64]string)
	list, err := e.server.Routez(nil)
	if err != nil {
		return routes // it is documented to be nil
	}
	for _, route := range list.Routes {
		if route.RemoteName != "" { // otherwise not a peer yet
			routes[route.Rid] = route.RemoteName
		}
	}
	return routes
}

func (e *embedded) peers() int { return len(names(e.routes())) }

func names(routes map[uint64]string) []string {
	return slices.Compact(slices.Sorted(maps.Values(routes)))
}

func (e *embedded) close() {
	e.stop()
	e.watch.Wait()
	e.server.Shutdown()
	e.server.WaitForShutdown()
}

// hostPort reads an address as NATS wants it: there, zero means the default port.
func hostPort(what, address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err == nil {
		port, err = strconv.Atoi(text)
	}
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("%s address %q is not host:port with a number for a port", what, address)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

func loopback(address string) bool {
	host, _, _ := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// serverLog is the server's Logger.
type serverLog struct {
	log   *slog.Logger
	fatal chan error // the first one; of size 1, never closed
}

func (s *serverLog) say(level slog.Level, format string, v []any) {
	if s.log.Enabled(context.Background(), level) {
		s.log.Log(context.Background(), level, "NATS server: "+fmt.Sprintf(format, v...))
	}
}

// Noticef is what an operator of NATS wants to read; for one of the gateway it is detail.
func (s *serverLog) Noticef(format string, v ...any) { s.say(slog.LevelDebug, format, v) }
func (s *serverLog) Debugf(format string, v ...any)  { s.say(slog.LevelDebug, format, v) }
func (s *serverLog) Tracef(format string, v ...any)  { s.say(slog.LevelDebug, format, v) }
func (s *serverLog) Warnf(format string, v ...any)   { s.say(slog.LevelWarn, format, v) }

// Errorf is a warning here: the server's errors are mostly those of its peers.
func (s *serverLog) Errorf(format string, v ...any) { s.say(slog.LevelWarn, format, v) }

// Fatalf ends the start, not the process.
func (s *serverLog) Fatalf(format string, v ...any) {
	select {
	case s.fatal <- fmt.Errorf(format, v...):
	default:
		s.say(slog.LevelError, format, v)
	}
}
