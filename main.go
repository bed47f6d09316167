// Command gripway is a real-time gateway: it holds WebSocket and long-lived HTTP
// clients in front of plain HTTP servers. See README.md, and gripway --help.
//
// This file is the only place where all rooms meet: settings become a bus, a
// gateway, routes and listeners, in this order, and end in the reverse one.
package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gripway/gripway/gateway"
	"github.com/gripway/gripway/gateway/access"
	"github.com/gripway/gripway/gateway/cluster"
	"github.com/gripway/gripway/gateway/config"
	"github.com/gripway/gripway/gateway/control"
	"github.com/gripway/gripway/gateway/demo"
	"github.com/gripway/gripway/gateway/guests"
	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/gateway/origin"
	"github.com/gripway/gripway/gateway/socket"
	"github.com/gripway/gripway/gateway/watch"
	"github.com/gripway/gripway/gateway/wire"
	"github.com/gripway/gripway/gateway/zmq"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/pubsub/natsbus"
)

// version is set by the linker: -ldflags "-X main.version=1.2.3".
var version = ""

const (
	// headerTimeout bounds how long a client may take to send a request's header.
	headerTimeout = 30 * time.Second

	// idleTimeout bounds how long a connection may wait for its next request.
	idleTimeout = 2 * time.Minute

	// streamsMax bounds the requests at once on one HTTP/2 connection.
	streamsMax = 1000

	// metricsHeaderBytes bounds a request for prometheus_port, as Pushpin does.
	metricsHeaderBytes = 8192

	// askTimeout bounds the wait for other nodes when a ZeroMQ command asks them.
	askTimeout = 2 * time.Second

	// publishTimeout bounds the commands publish and close.
	publishTimeout = 30 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, config.Args(os.Args), os.Environ()))
}

// run does what the command line says and returns the exit code.
func run(ctx context.Context, args, environ []string) int {
	command, err := config.Parse(args, environ, config.Output{Version: versionText()})
	if errors.Is(err, config.ErrShown) {
		return 0
	}
	if err == nil {
		switch c := command.(type) {
		case *config.ServeCommand:
			err = serve(ctx, &c.Config, role{})
		case *config.DemoCommand:
			err = serve(ctx, &c.Config, role{demo: demo.New})
		case *config.GuestCommand:
			err = serve(ctx, &c.Config, role{guest: c})
		case *config.PushpinCommand:
			err = servePushpin(ctx, c)
		case *config.RunCommand:
			return guests.Run(ctx, c, newLog(&c.Config, os.Stderr))
		case *config.CheckCommand:
			err = check(&c.Config)
		case *config.PublishCommand:
			err = publish(ctx, c)
		case *config.CloseCommand:
			err = closeClients(ctx, c)
		case *config.SubscribeCommand:
			err = subscribe(ctx, c)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gripway:", err)
		var usage *config.UsageError
		if errors.As(err, &usage) {
			return 2
		}
		return 1
	}
	return 0
}

// versionText is what --version prints.
func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// role is what a command adds to serve; the zero value is serve itself.
type role struct {
	demo    func(demo.Options) (*demo.Demo, error)
	pushpin *pushpin
	guest   *config.GuestCommand
}

// serve runs the gateway until ctx ends, and then until it has drained.
func serve(ctx context.Context, c *config.Config, role role) error {
	newDemo, pushpin := role.demo, role.pushpin
	if problems := c.Validate(); len(problems) > 0 {
		return problems
	}
	log := newLog(c, pushpin.logOutput())
	adopt(log)
	for _, warning := range c.Warnings() {
		log.Warn(warning.Error())
	}
	registry := metrics.New()
	bus, err := natsbus.Open(busOptions(c, log))
	if err != nil {
		return c.NoBus(err)
	}
	defer bus.Close()
	watchBus(registry, bus)
	intake, err := zmq.New(zmq.Options{
		Bus: bus, Pull: c.ZMQPull, Sub: c.ZMQSub, SubConnect: c.ZMQSubConnect, Command: c.ZMQCommand, Mode: c.IPCMode(), Metrics: registry, Log: log,
	})
	if err != nil {
		return err
	}

	watched, err := newWatching(c, bus, registry, log)
	if err != nil {
		return err
	}
	network := origin.NewNetwork(origin.NetworkOptions{Metrics: registry, Log: log})
	options := gatewayOptions(c, intake.Bus(), registry, log)
	options.Network = network
	if watched != nil {
		options.Watch = watched.watch
	}
	if options.LinkRules, err = newRules(c, config.Route{}); err != nil {
		return err
	}
	g, err := gateway.New(options)
	if err != nil {
		return err
	}
	defer g.Close()

	var publishers *access.List // nil: nobody is asked
	if all := c.Publishers(); len(all) > 0 {
		if publishers, err = access.New(access.Options{Publishers: all, Log: log}); err != nil {
			return err
		}
		defer publishers.Close()
	}

	listeners, err := listen(c, role.guest, log)
	if err != nil {
		return err
	}
	defer listeners.close()
	listeners.headerBytes = pushpin.publishHeaderBytes()
	stopMetrics, err := pushpin.startMetrics(registry, g.Held, log)
	if err != nil {
		return err
	}
	defer stopMetrics()

	hello := func() {}
	if newDemo != nil {
		api := addr(listeners.control)
		if publishers != nil {
			api = "" // the demo has no key, and publishes to the bus
		}
		d, err := newDemo(demo.Options{Log: log, ControlAddr: api, Bus: bus})
		if err != nil {
			return err
		}
		defer d.Close()
		line := fmt.Sprintf("* %s,over_http", d.Addr())
		if c.Route, _ = config.ParseRoutes("demo", line); len(c.Route) == 0 {
			return fmt.Errorf("demo: route %q is refused", line)
		}
		hello = func() { d.Hello(os.Stdout, addr(listeners.clients[0].Listener), api) }
	}

	of := guests.Options{
		Config: c, Gateway: g, Network: network, Bus: bus, Clients: listeners.clientAddrs(), Metrics: registry, Log: log,
		Rules: func() (*origin.Rules, error) { return newRules(c, config.Route{}) },
	}
	if listeners.control != nil {
		of.Control = listeners.control.Addr()
	}
	if role.guest != nil {
		of.Developer = &role.guest.GuestFlags
	}
	programs := guests.New(of)
	defer programs.Close()
	if err := programs.Load(ctx); err != nil {
		return err
	}

	routes := &routes{config: c, gateway: g, network: network, guests: programs, log: log}
	if err := routes.load(); err != nil {
		return err
	}
	defer routes.close()
	watching, stopWatching := context.WithCancel(ctx)
	var background sync.WaitGroup
	background.Go(func() { routes.watch(watching) })
	background.Go(func() { programs.Watch(watching) })
	if len(c.TLSCert) > 0 {
		background.Go(watchCertificates(watching, c, &listeners.certificates, registry, log))
	}
	defer background.Wait()
	defer stopWatching()

	all := cluster.New(bus)
	all.Serve(g)
	api := control.New(control.Options{
		Bus: intake.Bus(), Cluster: all, Recover: g.Recover, PublishBytes: c.PublishBodyBytes, Metrics: registry, Log: log,
		Access: publishers, LoopbackOpen: c.PublishLoopbackOpen, MetricsKey: c.MetricsAuth, ServiceID: c.ServiceID,
		Purge: programs.Purge, PurgesGuest: programs.Known,
		Ready: func() error {
			if ctx.Err() != nil {
				return errors.New("draining")
			}
			if !bus.Stats().Connected {
				return errors.New("no connection to NATS")
			}
			return nil
		},
	})
	programs.SetAPI(api)
	if err := intake.Start(zmq.Actions{
		Recover: g.Recover,
		Alive: func(ids []string) []string {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			alive, _, err := all.Alive(ctx, ids)
			if err != nil {
				log.Warn("conncheck: nodes cannot be asked", "error", err)
				return g.Alive(ids)
			}
			return alive
		},
		Refresh: func(id string) bool {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			refreshed, err := all.Refresh(ctx, cluster.Who{Connection: id})
			if err != nil {
				log.Warn("refresh: nodes cannot be asked", "error", err)
			}
			return refreshed.Refreshed > 0
		},
	}); err != nil {
		return err
	}
	defer intake.Close()
	stopWatched, err := watched.start(pushpin, log)
	if err != nil {
		return err
	}
	defer stopWatched()
	bus.Serve("publish", control.RequestBusy, api.Request)
	servers := startServers(c, listeners, g, programs, api, registry, log)
	for _, line := range listeners.lines(bus) {
		fmt.Println(line)
	}
	for _, endpoint := range append(intake.Endpoints(), watched.endpoints()...) {
		fmt.Printf("listening for ZeroMQ on %s (%s)\n", endpoint.URL, endpoint.Socket)
	}
	if role.guest != nil {
		for _, client := range listeners.clients {
			if !client.handoffs {
				fmt.Printf("Listening on %s://%s\n", client.scheme(), client.Addr()) // what those who know Viceroy wait for
			}
		}
	}
	fmt.Println("ready")
	hello()
	pushpin.started()

	select {
	case <-ctx.Done():
		err = nil
	case err = <-servers.failed:
	}
	stopWatching()
	return errors.Join(err, drain(c, servers, g, api, watched, log))
}

// watching is who is told that clients come and go; nil if nobody is.
type watching struct {
	watch  *watch.Watch
	stats  *watch.Stats // nil without zmq-stats, and so is pub
	pub    *zmq.Pub
	events []*watch.Events
}

// nodeName is what this node is called.
func nodeName(c *config.Config) string {
	if c.Node != "" {
		return c.Node
	}
	host, err := os.Hostname()
	if err != nil {
		host = "gripway"
	}
	return fmt.Sprintf("%s_%d", host, os.Getpid())
}

func newWatching(c *config.Config, bus pubsub.Bus, registry *metrics.Registry, log *slog.Logger) (*watching, error) {
	if c.ZMQStats == "" && len(c.Events) == 0 {
		return nil, nil
	}
	w := &watching{}
	var listeners []watch.Listener
	node := nodeName(c)
	if c.ZMQStats != "" {
		pub, err := zmq.NewPub(zmq.PubOptions{Endpoint: c.ZMQStats, Mode: c.IPCMode(), Metrics: registry, Log: log})
		if err != nil {
			return nil, err
		}
		asJSON := c.ZMQStatsFormat == "json"
		linger := c.SubscriptionLinger
		w.pub = pub
		w.stats = watch.NewStats(watch.StatsOptions{
			Send: func(kind string, value map[string]any) {
				if pub.Heard() {
					pub.Send(zmq.AppendMessage(nil, kind, value, asJSON))
				}
			},
			Heard: pub.Heard, From: node, Connections: c.ZMQStatsConnections, ConnectionTTL: c.ZMQStatsConnectionTTL,
			SubscriptionTTL: c.ZMQStatsSubscriptionTTL, ReportEvery: c.ZMQStatsReportInterval, Linger: linger,
		})
		listeners = append(listeners, w.stats)
	}
	rules, err := newRules(c, config.Route{})
	if err != nil {
		return nil, err
	}
	for _, line := range c.Events {
		options := watch.EventsOptions{
			Name: cmp.Or(line.Name, line.Channel, line.URL.String()), Node: node, Channel: line.Channel, Publish: bus.Publish,
			URL: line.URL.Reveal(), Sign: rules.Signer, Kinds: line.Types, Routes: line.Routes, Metrics: registry, Log: log,
		}
		for _, kind := range line.Kinds {
			format, _ := watch.ParseFormat(kind) // Parse has read it
			options.Formats = append(options.Formats, format)
		}
		events := watch.NewEvents(options)
		w.events = append(w.events, events)
		listeners = append(listeners, events)
	}
	w.watch = watch.New(listeners...)
	return w, nil
}

// start opens what there is to open; stop ends it.
func (w *watching) start(pushpin *pushpin, log *slog.Logger) (stop func(), err error) {
	if w == nil {
		return func() {}, nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	if w.pub != nil {
		if err := w.pub.Start(); err != nil {
			// The file that comes with Pushpin asks for them, below a folder that may not
			// be there: nobody who came to publish is to be turned away for that.
			if pushpin == nil {
				cancel()
				return nil, err
			}
			log.Warn("there are no statistics over ZeroMQ", "error", err)
		}
		running.Go(func() { w.stats.Run(ctx) })
	}
	for _, events := range w.events {
		running.Go(func() { events.Run(ctx) })
	}
	return func() {
		cancel()
		if w.pub != nil {
			w.pub.Close()
		}
		running.Wait()
	}, nil
}

func (w *watching) endpoints() []zmq.Endpoint {
	if w == nil || w.pub == nil {
		return nil
	}
	return w.pub.Endpoints()
}

// flush waits until all that has happened is told, or ctx ends.
func (w *watching) flush(ctx context.Context) {
	if w == nil {
		return
	}
	for _, events := range w.events {
		events.Flush(ctx)
	}
}

// newLog returns the logger that the settings ask for.
func newLog(c *config.Config, out io.Writer) *slog.Logger {
	var level slog.Level
	level.UnmarshalText([]byte(c.LogLevel)) // Validate has read it
	options := &slog.HandlerOptions{Level: slog.LevelDebug}
	var handler slog.Handler = slog.NewTextHandler(out, options)
	if c.LogFormat == "json" {
		handler = slog.NewJSONHandler(out, options)
	}
	return slog.New(gateway.NewLevels(handler, level)) // routes may have levels of their own
}

// adopt has what packages print with the standard library's logger, as net/http does of
// origins that send what nobody asked for, go the way of all that is logged.
func adopt(to *slog.Logger) {
	stdlog.SetFlags(0)
	stdlog.SetOutput(slog.NewLogLogger(to.Handler(), slog.LevelDebug).Writer())
}

func busOptions(c *config.Config, log *slog.Logger) natsbus.Options {
	options := natsbus.Options{Name: nodeName(c), URL: c.NATS.Reveal(), CredsFile: c.NATSCreds, LaneBytes: c.ItemQueueBytes, Log: log}
	if options.URL == "" {
		options.Embedded = natsbus.Embedded{
			Listen: c.NATSListen, ClusterListen: c.NATSClusterListen, ClusterName: c.NATSClusterName, StoreDir: c.NATSStoreDir,
		}
		for _, peer := range c.NATSPeer {
			options.Embedded.Peers = append(options.Embedded.Peers, peer.Reveal())
		}
		if c.NATSClusterListen == "" && len(c.NATSPeer) == 0 {
			options.Embedded.ClusterName = ""
		}
	}
	return options
}

// watchBus shows how the bus is.
func watchBus(registry *metrics.Registry, bus *natsbus.Bus) {
	for _, m := range []struct {
		name, help string
		value      func(natsbus.Stats) float64
	}{
		{"bus_connected", "1 while this node is connected to the bus.", func(s natsbus.Stats) float64 {
			if s.Connected {
				return 1
			}
			return 0
		}},
		{"bus_peers", "Other nodes connected to the NATS server inside.", func(s natsbus.Stats) float64 { return float64(s.Peers) }},
		{"bus_nodes", "Other nodes that are known.", func(s natsbus.Stats) float64 { return float64(s.Nodes) }},
		{"bus_published_items", "Items the bus accepted here.", func(s natsbus.Stats) float64 { return float64(s.Published) }},
		{"bus_refused_items", "Items the bus refused because this node was busy.", func(s natsbus.Stats) float64 { return float64(s.Refused) }},
		{"bus_lost_items", "Items from other nodes that were dropped because this node was busy.", func(s natsbus.Stats) float64 { return float64(s.Lost) }},
		{"bus_reconnects", "Connections to the bus that were made again.", func(s natsbus.Stats) float64 { return float64(s.Reconnects) }},
	} {
		registry.Func(m.name, m.help, func() float64 { return m.value(bus.Stats()) })
	}
}

func gatewayOptions(c *config.Config, bus pubsub.Bus, registry *metrics.Registry, log *slog.Logger) gateway.Options {
	options := gateway.Options{
		Bus:                   bus,
		AcceptPushpinRoute:    c.AcceptPushpinRoute,
		CrossOrigin:           c.AutoCrossOrigin,
		AcceptXForwardedProto: c.AcceptXForwardedProtocol,
		HeaderBytes:           c.HeaderBytes,
		SockJSURL:             c.SockJSURL,
		HoldsMax:              c.HoldsMax,
		QueueBytes:            c.ClientQueueBytes,
		ItemQueueBytes:        c.ItemQueueBytes,
		WebSocketBytes:        c.WebSocketMessageBytes,
		WebSocketCompression:  c.WebSocketCompression,
		WebSocketDrop:         c.WebSocketDrop,
		Subscriptions:         c.SubscriptionsPerConnection,
		TimeoutMin:            c.ResponseTimeoutMin,
		Linger:                c.SubscriptionLinger,
		MessageWait:           c.MessageWait,
		IDTTL:                 c.IDTTL,
		Metrics:               registry,
		Log:                   log,
	}
	if histories := c.Histories(); histories != nil {
		options.History = func(channel string) *hub.History {
			h := histories(channel)
			if h == nil {
				return nil
			}
			return &hub.History{Items: h.Items, Bytes: h.Bytes, Age: h.Age}
		}
	}
	if !c.UpdateOnFirstSubscription {
		options.FirstUpdate = -1
	}
	if options.Linger == 0 {
		options.Linger = -1
	}
	if options.IDTTL == 0 {
		options.IDTTL = -1
	}
	return options
}

// routes are the gateway's routes as the settings say, again when they change.
type routes struct {
	config  *config.Config
	gateway *gateway.Gateway
	network *origin.Network
	guests  *guests.Guests
	log     *slog.Logger
	file    *config.RoutesFile // nil without one

	mu    sync.Mutex
	pools []*origin.Pool // of the routes in use
}

// load reads the routes for the first time.
func (r *routes) load() error {
	var fromFile []config.Route
	if r.config.Routes != "" {
		r.file = config.NewRoutesFile(r.config.Routes)
		var problems []error
		if fromFile, problems = r.file.Load(); len(problems) > 0 {
			return errors.Join(problems...)
		}
	}
	return r.set(fromFile)
}

// routeLevels are what the numbers of log_level mean.
var routeLevels = []slog.Level{slog.LevelError, slog.LevelWarn, slog.LevelInfo, slog.LevelDebug}

// set gives the gateway the settings' routes and those of the file.
func (r *routes) set(fromFile []config.Route) error {
	all, duplicates := config.CombineRoutes(r.config.Route, fromFile)
	for _, err := range duplicates {
		r.log.Warn("route left out", "error", err)
	}
	all, unknown := r.config.CheckRouteGuests(all)
	for _, err := range unknown {
		r.log.Error("route left out", "error", err)
	}
	for _, line := range all {
		if len(line.Ignored) > 0 {
			r.log.Warn("options of a route have no effect here", "where", line.Where, "options", strings.Join(line.Ignored, ", "))
		}
	}
	var live []*gateway.Route
	var pools []*origin.Pool
	logLevels := make(map[string]slog.Level)
	for _, line := range all {
		route, err := newRoute(r.config, line, r.network, r.guests)
		if err != nil {
			for _, pool := range pools {
				pool.Close()
			}
			return fmt.Errorf("%s: %w", line.Where, err)
		}
		live = append(live, route)
		if pool, ok := route.Pool.(*origin.Pool); ok {
			pools = append(pools, pool)
		}
		if line.LogLevel != nil {
			logLevels[route.Name()] = routeLevels[min(*line.LogLevel, len(routeLevels)-1)]
		}
	}
	r.gateway.SetRoutes(live)
	if handler, ok := r.log.Handler().(*gateway.Levels); ok {
		handler.Set(logLevels)
	}
	r.mu.Lock()
	old := r.pools
	r.pools = pools
	r.mu.Unlock()
	for _, pool := range old {
		pool.Close()
	}
	return nil
}

// newRules makes the rules of a route's line for requests to its origin.
func newRules(c *config.Config, line config.Route) (*origin.Rules, error) {
	rules := &origin.Rules{
		AsHost: line.AsHost, PathBeg: line.PathBeg, PathRem: line.PathRem, ReplaceBeg: line.ReplaceBeg,
		Header: line.Header, OrigHeaders: line.OrigHeaders, NoGrip: line.NoGrip, Feature: gateway.Feature,
		AcceptXForwardedProto: c.AcceptXForwardedProtocol, CDNLoop: c.CDNLoop,
	}
	switch c.SetXForwardedProtocol {
	case "true":
		rules.XForwardedProto = origin.ForwardedProtoBoth
	case "false":
		rules.XForwardedProto = origin.ForwardedProtoNone
	}
	var err error
	if rules.XForwardedFor, err = origin.ParseForwardedFor(c.XForwardedFor); err != nil {
		return nil, fmt.Errorf("x-forwarded-for: %w", err)
	}
	if rules.XForwardedForTrusted, err = origin.ParseForwardedFor(c.XForwardedForTrusted); err != nil {
		return nil, fmt.Errorf("x-forwarded-for-trusted: %w", err)
	}
	key, err := grip.ParseKey(cmp.Or(line.SigKey, c.SigKey).Reveal(), "")
	if err != nil {
		return nil, fmt.Errorf("sig-key: %w", err)
	}
	if !key.IsZero() {
		rules.Signer = grip.NewSigner(cmp.Or(line.SigIss, c.SigIss), key).Sign
	}
	upstream, err := grip.ParseKey(c.UpstreamKey.Reveal(), "")
	if err != nil {
		return nil, fmt.Errorf("upstream-key: %w", err)
	}
	if !upstream.IsZero() {
		rules.Verifier = grip.NewVerifier("", upstream).Verify
	}
	return rules, nil
}

// newRoute makes a route of its line.
func newRoute(c *config.Config, line config.Route, network *origin.Network, programs *guests.Guests) (*gateway.Route, error) {
	rules, err := newRules(c, line)
	if err != nil {
		return nil, err
	}
	route := &gateway.Route{
		ID: line.ID, Domain: line.Domain, PathBeg: line.PathBeg, Proto: line.Proto, TLS: line.SSL,
		SockJS: line.SockJS, SockJSAs: line.SockJSAsPath, Replies: socket.NewReplies(line.AutoReply),
		Prefix: line.Prefix, Debug: c.Debug || line.Debug, NoGrip: line.NoGrip, Rules: rules,
		CrossOrigin: c.AutoCrossOrigin || line.AutoCrossOrigin,
		JSONP: gateway.JSONP{
			Basic: line.JSONPBasic, Callback: line.JSONPCallback, Body: line.JSONPBody,
			DefaultCallback: line.JSONPDefaultCallback, DefaultMethod: line.JSONPDefaultMethod,
		},
	}
	if line.Guest != "" {
		route.Guest = programs.Find(line.Guest)
		return route, nil
	}
	options := origin.Options{PathBeg: line.PathBeg, Network: network}
	for _, target := range line.Targets {
		options.Targets = append(options.Targets, origin.Target{
			Addr: target.Addr, TLS: target.TLS, Insecure: target.Insecure, TrustConnectHost: target.TrustConnectHost,
			OverHTTP: target.OverHTTP || target.Test, Untrusted: target.Untrusted, OneEvent: target.OneEvent, Test: target.Test, Host: target.Host,
			Sub: target.Sub, ClientCert: target.ClientCert, ClientKey: target.ClientKey,
		})
	}
	pool, err := origin.NewPool(options)
	if err != nil {
		return nil, err
	}
	route.UsePool(pool)
	return route, nil
}

// watch follows the file until ctx ends; SIGHUP reads it at once.
func (r *routes) watch(ctx context.Context) {
	if r.file == nil {
		return
	}
	changed := func(fromFile []config.Route, problems []error) {
		for _, problem := range problems {
			r.log.Error("routes file", "error", problem)
		}
		if fromFile == nil {
			return // it could not be read: what there is stays
		}
		if err := r.set(fromFile); err != nil {
			r.log.Error("routes file", "error", err)
			return
		}
		level := slog.LevelInfo
		if len(fromFile) == 0 { // it may be meant so; more likely it has been cut short
			level = slog.LevelWarn
		}
		r.log.Log(ctx, level, "routes loaded", "file", r.config.Routes, "routes", len(fromFile))
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	var watcher sync.WaitGroup
	watcher.Go(func() { r.file.Watch(ctx, changed) })
	defer watcher.Wait()
	for {
		select {
		case <-hangup:
			changed(r.file.Load())
		case <-ctx.Done():
			return
		}
	}
}

func (r *routes) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, pool := range r.pools {
		pool.Close()
	}
}

// check reports all that is wrong with the settings, and what would work but is
// doubtful.
func check(c *config.Config) error {
	problems := c.Validate()
	for _, warning := range c.Warnings() {
		fmt.Println("warning:", warning)
	}
	if len(problems) > 0 {
		return problems
	}
	if err := guests.Check(c, newLog(c, os.Stderr)); err != nil {
		return err
	}
	fmt.Println("ok")
	return nil
}

// watchCertificates returns what reads certificates again when their files change, and at
// SIGHUP, until ctx ends. Certificates that cannot be read leave those there are.
func watchCertificates(ctx context.Context, c *config.Config, to *wire.Certificates, registry *metrics.Registry, log *slog.Logger) func() {
	reloads := registry.Counters("tls_reloads_total", "Certificates read again because their files had changed, or at SIGHUP, by what came of it.", "result", "ok", "failed")
	registry.Func("tls_certificate_expires_timestamp_seconds", "When the first certificate of tls-cert expires, Unix time.", func() float64 {
		return float64(to.Expires().Unix())
	})
	read := func() {
		all, err := c.Certificates()
		if err != nil {
			reloads["failed"].Inc()
			log.Error("certificates not loaded: what there was stays", "error", err)
			return
		}
		to.Set(all)
		reloads["ok"].Inc()
		log.Info("certificates loaded", "certificates", len(all), "expires", to.Expires())
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	return func() {
		defer signal.Stop(hangup)
		var watcher sync.WaitGroup
		watcher.Go(func() { config.WatchFiles(ctx, slices.Concat(c.TLSCert, c.TLSKey), read) })
		defer watcher.Wait()
		for {
			select {
			case <-hangup:
				read()
			case <-ctx.Done():
				return
			}
		}
	}
}

// listeners are where the gateway is reached.
type listeners struct {
	clients    []clientListener
	control    net.Listener // nil without
	controlTLS net.Listener // nil without

	certificates wire.Certificates // of those with TLS

	headerBytes int // bounds a request's header at control
}

type clientListener struct {
	*wire.Listener
	tls      bool
	handoffs bool // of guests elsewhere, that name a backend
}

func (l *clientListener) scheme() string {
	if l.tls {
		return "https"
	}
	return "http"
}

// clientAddrs are where clients come to.
func (l *listeners) clientAddrs() []net.Addr {
	var all []net.Addr
	for _, client := range l.clients {
		if !client.handoffs {
			all = append(all, client.Addr())
		}
	}
	return all
}

// listen opens all ports, or none. Where a guest is developed there may be one for
// handoffs, and nobody asked for the private API's: that may be somebody else's.
func listen(c *config.Config, guest *config.GuestCommand, log *slog.Logger) (*listeners, error) {
	l := &listeners{}
	open := func(address string, tls, handoffs bool) error {
		inner, err := net.Listen("tcp", address)
		if err == nil {
			l.clients = append(l.clients, clientListener{wire.Listen(inner), tls, handoffs})
		}
		return err
	}
	certificates, err := c.Certificates()
	l.certificates.Set(certificates)
	for _, address := range c.Listen {
		err = errors.Join(err, c.Unopened("listen", address, open(address, false, false)))
	}
	for _, address := range c.ListenTLS {
		err = errors.Join(err, c.Unopened("listen-tls", address, open(address, true, false)))
	}
	mayLack := false
	if guest != nil {
		mayLack = guest.QuietControl
		if guest.HandoffListen != "" {
			e := open(guest.HandoffListen, false, true)
			if errors.Is(e, syscall.EADDRINUSE) { // what this gateway hands off needs no port
				log.Warn("no port for handoffs of others: the address is in use, perhaps by another gateway", "address", guest.HandoffListen, "key", "local_server.pushpin.proxy_port")
				e = nil
			}
			err = errors.Join(err, e)
		}
	}
	if c.ControlListen != "" {
		var e error
		l.control, e = net.Listen("tcp", c.ControlListen)
		if mayLack && errors.Is(e, syscall.EADDRINUSE) {
			log.Warn("no port for publishers: the address is in use, perhaps by another gateway", "address", c.ControlListen)
			e = nil
		}
		e = c.Unopened("control-listen", c.ControlListen, e)
		if e != nil && guest != nil && guest.Fastly.Pushpin.Said {
			e = fmt.Errorf("%w; it is local_server.pushpin.publish_port of %s", e, guest.Manifest)
		}
		err = errors.Join(err, e)
	}
	if c.ControlListenTLS != "" {
		var e error
		l.controlTLS, e = net.Listen("tcp", c.ControlListenTLS)
		err = errors.Join(err, c.Unopened("control-listen-tls", c.ControlListenTLS, e))
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *listeners) close() {
	for _, client := range l.clients {
		client.Close()
	}
	for _, control := range []net.Listener{l.control, l.controlTLS} {
		if control != nil {
			control.Close()
		}
	}
}

func (l *listeners) lines(bus *natsbus.Bus) []string {
	var lines []string
	for _, client := range l.clients {
		if client.handoffs {
			lines = append(lines, fmt.Sprintf("listening for handoffs on %s", client.Addr()))
			continue
		}
		lines = append(lines, fmt.Sprintf("listening for clients on %s (%s)", client.Addr(), client.scheme()))
	}
	if l.control != nil {
		lines = append(lines, fmt.Sprintf("listening for publishers and operators on %s", l.control.Addr()))
	}
	if l.controlTLS != nil {
		lines = append(lines, fmt.Sprintf("listening for publishers and operators on %s (https)", l.controlTLS.Addr()))
	}
	if a := bus.ClientAddr(); a != "" {
		lines = append(lines, fmt.Sprintf("listening for NATS clients on %s", a))
	}
	if a := bus.ClusterAddr(); a != "" {
		lines = append(lines, fmt.Sprintf("listening for other nodes on %s", a))
	}
	return lines
}

func addr(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}

// servers are the HTTP servers at the listeners.
type servers struct {
	all     []*http.Server
	control []*http.Server          // those of all that are the private API's
	clients wire.Unserved           // of the clients' servers
	stop    context.CancelCauseFunc // ends requests of clients
	failed  chan error              // takes the first that fails
}

func startServers(c *config.Config, l *listeners, g, programs, api http.Handler, registry *metrics.Registry, log *slog.Logger) *servers {
	s := &servers{failed: make(chan error, 1)}
	requests, stop := context.WithCancelCause(context.Background())
	s.stop = stop
	malformed := registry.Counter("requests_malformed_total", "Connections of clients that ended with a request that was malformed, too long or not finished.")
	s.clients.Refused = func(r wire.Refusal) {
		malformed.Inc()
		log.Info("request malformed, too long or not finished", "client", r.Client, "sent", r.Sent, "error", r.Why)
	}
	errorLog := slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	start := func(server *http.Server, serve func() error) {
		server.ErrorLog = errorLog
		server.ReadHeaderTimeout = headerTimeout
		server.IdleTimeout = idleTimeout
		s.all = append(s.all, server)
		go func() {
			if err := serve(); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				select {
				case s.failed <- err:
				default:
				}
			}
		}()
	}
	for _, client := range l.clients {
		var protocols http.Protocols
		protocols.SetHTTP1(true)
		protocols.SetHTTP2(client.tls)
		protocols.SetUnencryptedHTTP2(!client.tls)
		handler := g
		if client.handoffs {
			handler = programs
		}
		server := &http.Server{
			Handler: s.clients.Handler(handler), Protocols: &protocols, MaxHeaderBytes: c.HeaderBytes,
			HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: streamsMax, MaxDecoderHeaderTableSize: wire.HeaderTableBytes},
			ConnState:   s.clients.State,
			ConnContext: s.clients.Context,
			BaseContext: func(net.Listener) context.Context { return client.Context(requests) },
		}
		serveTLS := func() error { return server.ServeTLS(client, "", "") }
		if len(c.Guest) > 0 {
			// Guests may ask what their client really said.
			serveTLS = func() error { return wire.ServeTLS(server, client) }
			server.ConnContext = func(ctx context.Context, nc net.Conn) context.Context {
				return wire.ContextSeen(s.clients.Context(ctx, nc), nc)
			}
		}
		if client.tls {
			server.TLSConfig = l.certificates.Config()
			start(server, serveTLS)
			continue
		}
		start(server, func() error { return server.Serve(client) })
	}
	private := func() *http.Server {
		server := &http.Server{Handler: api, MaxHeaderBytes: l.headerBytes}
		s.control = append(s.control, server)
		return server
	}
	if l.control != nil {
		server := private()
		start(server, func() error { return server.Serve(l.control) })
	}
	if l.controlTLS != nil {
		server := private()
		server.TLSConfig = l.certificates.Config()
		start(server, func() error { return server.ServeTLS(l.controlTLS, "", "") })
	}
	return s
}

// endWait is how long, after the drain, clients may take for the word that it is over.
const endWait = time.Second

// drain ends what runs: clients stop coming, those that are held are told,
// requests in progress end, and publishers may go on until then.
func drain(c *config.Config, s *servers, g *gateway.Gateway, api *control.Control, watched *watching, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), c.DrainTimeout)
	defer cancel()
	log.Info("draining", "held", g.Held(), "timeout", c.DrainTimeout)
	var wg sync.WaitGroup
	shutdown := func(server *http.Server) {
		wg.Go(func() {
			if server.Shutdown(ctx) == nil {
				return
			}
			// Who still waits for an origin is told.
			s.stop(gateway.ErrEnding)
			last, cancel := context.WithTimeout(context.Background(), endWait)
			defer cancel()
			if server.Shutdown(last) != nil {
				server.Close()
			}
		})
	}
	for _, server := range s.all {
		if !slices.Contains(s.control, server) {
			shutdown(server)
		}
	}
	s.clients.Close()
	if err := g.Drain(ctx); err != nil {
		log.Warn("clients had to be dropped", "error", err)
	}
	wg.Wait()
	watched.flush(ctx)
	// Last, since an origin may publish that a client has left.
	api.Close()
	for _, server := range s.control {
		shutdown(server)
	}
	wg.Wait()
	return nil
}

// publish is the command publish.
func publish(ctx context.Context, c *config.PublishCommand) error {
	gripURL, err := c.GripURL()
	if err != nil {
		return err
	}
	publisher, err := grip.NewPublisher(gripURL)
	if err != nil {
		return err
	}
	defer publisher.Close()
	err = c.Items(os.Stdin, func(item *grip.Item) error {
		ctx, cancel := context.WithTimeout(ctx, publishTimeout+c.Wait)
		defer cancel()
		if c.Wait == 0 {
			return publisher.Publish(ctx, item)
		}
		reports, err := publisher.PublishAndReport(ctx, c.Wait, item)
		for _, report := range reports {
			if report != nil {
				line, _ := json.Marshal(report)
				fmt.Printf("%s\n", line)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	if c.Wait == 0 {
		fmt.Println("Published")
	}
	return nil
}

// closeClients is the command close.
func closeClients(ctx context.Context, c *config.CloseCommand) error {
	gripURL, err := c.GripURL()
	if err != nil {
		return err
	}
	client, err := control.NewClient(gripURL)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	line, err := client.Close(ctx, cluster.Who{Connection: c.Connection, User: c.ForUser, Channel: c.Channel}, c.Code, c.Reason)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n", line)
	return nil
}

// subscribe is the command subscribe.
func subscribe(ctx context.Context, c *config.SubscribeCommand) error {
	gripURL, err := c.GripURL()
	if err != nil {
		return err
	}
	client, err := control.NewClient(gripURL)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	err = client.Subscribe(ctx, c.Channels, func(line json.RawMessage) error {
		out.Write(line)
		out.WriteByte('\n')
		return out.Flush()
	})
	if ctx.Err() != nil || errors.Is(err, control.ErrShutdown) {
		return nil
	}
	return err
}

// servePushpin is the command pushpin: serve, and what only Pushpin has.
func servePushpin(ctx context.Context, c *config.PushpinCommand) error {
	p := &pushpin{command: c, log: os.Stderr}
	// SIGHUP never ends Pushpin, whether it has a routes file to read again or not.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	if c.LogFile != "" {
		file := &logFile{path: c.LogFile}
		if err := file.open(); err != nil {
			return fmt.Errorf("--logfile: %w", err)
		}
		defer file.close()
		p.log = file
		var reopening sync.WaitGroup
		ended := make(chan struct{}) // closed before we wait
		reopening.Go(func() {
			for {
				select {
				case <-hangup:
					file.open() // if it fails the log goes on where it was
				case <-ended:
					return
				}
			}
		})
		defer reopening.Wait()
		defer close(ended)
	}
	return serve(ctx, &c.Config, role{pushpin: p})
}

// logFile is a file that may be moved away and opened anew. It may be used
// concurrently.
type logFile struct {
	path string

	// Guarded by mu.
	mu   sync.Mutex
	file *os.File
}

// open opens the file that has the name now.
func (f *logFile) open() error {
	file, err := os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file != nil {
		f.file.Close()
	}
	f.file = file
	return nil
}

func (f *logFile) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.file.Close()
}

func (f *logFile) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.file.Write(b)
}

// pushpin is what the command pushpin adds to serve; nil is serve itself.
type pushpin struct {
	command *config.PushpinCommand
	log     io.Writer
}

// logOutput is where the log goes.
func (p *pushpin) logOutput() io.Writer {
	if p == nil {
		return os.Stderr
	}
	return p.log
}

// publishHeaderBytes bounds the header of a request to the private API.
func (p *pushpin) publishHeaderBytes() int {
	if p == nil {
		return control.HeaderBytesMax
	}
	return cmp.Or(p.command.PublishHeaderBytes, control.HeaderBytesMax)
}

// startMetrics opens the listeners of prometheus_port. stop closes them.
func (p *pushpin) startMetrics(registry *metrics.Registry, held func() int, log *slog.Logger) (stop func(), err error) {
	if p == nil || len(p.command.Metrics) == 0 {
		return func() {}, nil
	}
	view := metrics.NewPushpin(registry, held)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	var servers []*http.Server
	stop = func() {
		cancel()
		for _, server := range servers {
			server.Close()
		}
		running.Wait()
	}
	running.Go(func() { view.Run(ctx) })
	for _, at := range p.command.Metrics {
		listener, err := net.Listen("tcp", at.Addr)
		if err != nil {
			stop()
			return nil, fmt.Errorf("prometheus_port: %w", err)
		}
		server := &http.Server{
			Handler: view.Handler(at.Prefix), MaxHeaderBytes: metricsHeaderBytes,
			ReadTimeout: headerTimeout, WriteTimeout: headerTimeout, IdleTimeout: idleTimeout,
			ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		}
		servers = append(servers, server)
		running.Go(func() {
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				log.Error("prometheus_port", "error", err)
			}
		})
		fmt.Printf("listening for Prometheus on %s\n", listener.Addr())
	}
	return stop, nil
}

// started tells those who wait for Pushpin: the Fastly CLI goes on after a line
// that ends so.
func (p *pushpin) started() {
	if p != nil {
		fmt.Println("started")
	}
}
