package config

import "time"

// Config is every setting of the gateway. Its tags are the reference: name is
// the key, def the default as an operator would write it, kind how it is read,
// help one sentence. The values are plain data; main turns them into live things.
//
// A Config comes from Parse. Call Validate before using one: Parse reads as much
// as it can and keeps what was wrong for Validate.
type Config struct {
	Listen           []string `name:"listen" kind:"address" def:":7999" placeholder:"ADDRESS" group:"listen" help:"Accept clients here: HTTP/1.1, and HTTP/2 without TLS (h2c)."`
	ListenTLS        []string `name:"listen-tls" kind:"address" placeholder:"ADDRESS" group:"listen" help:"Accept clients here over TLS: HTTP/2 and HTTP/1.1. Needs tls-cert and tls-key."`
	TLSCert          []string `name:"tls-cert" kind:"file" placeholder:"FILE" group:"listen" help:"PEM certificate chain; repeat for several names, the client's server name chooses. Watched: a new one counts from the next connection on."`
	TLSKey           []string `name:"tls-key" kind:"file" placeholder:"FILE" group:"listen" help:"PEM private key; the first belongs to the first tls-cert, and so on."`
	ControlListen    string   `name:"control-listen" kind:"address" def:"127.0.0.1:5561" placeholder:"ADDRESS" group:"listen" help:"Private API: publish, recover, metrics, health. It asks for a key only if there are some; empty switches the port off."`
	ControlListenTLS string   `name:"control-listen-tls" kind:"address" placeholder:"ADDRESS" group:"listen" help:"The private API over TLS, beside control-listen or instead of it. Needs tls-cert and tls-key."`

	PublishKey          []Secret    `name:"publish-key" kind:"secret" placeholder:"KEY" group:"publish" help:"Who has this may use the private API: as a token (Bearer or Fastly-Key), and as the key of a Bearer JWT. Written like sig-key; a key in a file, and one that is not a secret, is for JWTs only."`
	Publisher           []Publisher `name:"publisher" kind:"publisher" placeholder:"LINE" group:"publish" help:"The same with limits, like 'app,token=…,channels=news.*,rate=100'; in gripway.toml, tables [[publisher]] (see Keys for publishers)."`
	PublishLoopbackOpen bool        `name:"publish-loopback-open" kind:"bool" def:"false" negatable:"" group:"publish" help:"Ask for no key if a request comes from a loopback address and shows none. A proxy on this machine makes all requests such."`
	MetricsAuth         bool        `name:"metrics-auth" kind:"bool" def:"false" negatable:"" group:"publish" help:"Ask for a key at /metrics as well."`
	ServiceID           string      `name:"service-id" kind:"token" placeholder:"ID" group:"publish" help:"The only id that /service/ID/publish/ takes. Without it: any."`

	Route              []Route `name:"route" kind:"route" placeholder:"LINE" group:"route" help:"A route as in Pushpin's routes file, like '* localhost:8000,over_http'."`
	Routes             string  `name:"routes" kind:"file" placeholder:"FILE" group:"route" help:"A file of routes; it is watched, and read again when it changes or on SIGHUP."`
	AcceptPushpinRoute bool    `name:"accept-pushpin-route" kind:"bool" def:"false" negatable:"" group:"route" help:"Let a client choose the route by its id, with the header Pushpin-Route. Only for clients you trust."`
	AutoCrossOrigin    bool    `name:"auto-cross-origin" kind:"bool" def:"false" negatable:"" group:"route" help:"Let pages of other sites read answers: add CORS headers that the origin did not set, and answer JSON-P. The routes' own aco does it for one."`
	SockJSURL          string  `name:"sockjs-url" kind:"text" def:"https://cdn.jsdelivr.net/npm/sockjs-client@1/dist/sockjs.min.js" placeholder:"URL" group:"route" help:"The SockJS client that pages for iframes load, for routes with sockjs=."`
	Debug              bool    `name:"debug" kind:"bool" def:"false" negatable:"" group:"route" help:"Tell clients why an answer of the origin was refused. The routes' own debug does it for one."`

	Guest      []Guest `name:"guest" kind:"guest" placeholder:"LINE" group:"guest" help:"A program in WebAssembly, like 'app,file=app.wasm,manifest=fastly.toml'; routes name it: '*,guest=app'. In gripway.toml, tables [[guest]] (see Guests)."`
	GuestCache string  `name:"guest-cache" kind:"file" def:"user" placeholder:"FOLDER" group:"guest" help:"Where compiled guests are kept over restarts: user is the folder for such things of whoever runs this; empty keeps none."`

	SigKey      Secret `name:"sig-key" kind:"secret" placeholder:"KEY" group:"sign" help:"Sign requests to origins (Grip-Sig) with this: plain text, base64:…, or file:… (PEM, or hexadecimal). Empty signs nothing."`
	SigIss      string `name:"sig-iss" kind:"text" def:"gripway" placeholder:"NAME" group:"sign" help:"Issuer named in Grip-Sig."`
	UpstreamKey Secret `name:"upstream-key" kind:"secret" placeholder:"KEY" group:"sign" help:"Trust clients whose Grip-Sig this verifies: they are gateways themselves. Written like sig-key."`

	SetXForwardedProtocol    string   `name:"set-x-forwarded-protocol" kind:"choice" oneof:"proto-only|true|false" def:"proto-only" placeholder:"MODE" group:"forward" help:"Tell origins of TLS clients: X-Forwarded-Proto (proto-only), X-Forwarded-Protocol as well (true), or neither (false)."`
	AcceptXForwardedProtocol bool     `name:"accept-x-forwarded-protocol" kind:"bool" def:"false" negatable:"" group:"forward" help:"Believe a client that says it came over TLS. Only behind a proxy that sets the header."`
	XForwardedFor            []string `name:"x-forwarded-for" kind:"forwarded" placeholder:"RULES" group:"forward" help:"What to do with X-Forwarded-For: truncate:N keeps the last N addresses, append adds the client's. Without a rule it is relayed as it is."`
	XForwardedForTrusted     []string `name:"x-forwarded-for-trusted" kind:"forwarded" placeholder:"RULES" group:"forward" help:"The same for clients that upstream-key trusts."`
	CDNLoop                  string   `name:"cdn-loop" kind:"token" placeholder:"NAME" group:"forward" help:"Name to append to the header CDN-Loop (RFC 8586)."`

	ResponseTimeoutMin        time.Duration `name:"response-timeout-min" kind:"duration" def:"0s" placeholder:"DURATION" group:"hold" help:"Shortest time a response is held, whatever Grip-Timeout says. Pushpin never holds for less than 5s; set that if an origin relies on it."`
	UpdateOnFirstSubscription bool          `name:"update-on-first-subscription" kind:"bool" def:"true" negatable:"" group:"hold" help:"Ask the origin again once the first subscription of a channel stands, so that nothing published meanwhile is missed."`
	SubscriptionLinger        time.Duration `name:"subscription-linger" kind:"duration" def:"60s" placeholder:"DURATION" group:"hold" help:"How long a channel stays subscribed after its last held response has gone."`
	MessageWait               time.Duration `name:"message-wait" kind:"duration" def:"5s" placeholder:"DURATION" group:"hold" help:"How long an item waits for the one that its prev-id names."`
	IDTTL                     time.Duration `name:"id-ttl" kind:"duration" def:"60s" placeholder:"DURATION" group:"hold" help:"How long an item's id is remembered, so that the same item sent again is dropped; 0s for not at all."`
	History                   []History     `name:"history" kind:"history" placeholder:"LINE" group:"hold" help:"Keep the latest items of these channels, to fill gaps of clients without asking their origins, like 'news.*,items=100,bytes=1MiB,age=5m'; in gripway.toml, tables [[history]] (see Missing nothing)."`
	WebSocketDrop             bool          `name:"websocket-drop" kind:"bool" def:"false" negatable:"" group:"hold" help:"Drop the connection of a WebSocket client whose origin has failed, as Pushpin does, instead of closing it with 1011 or 1012."`
	WebSocketCompression      bool          `name:"websocket-compression" kind:"bool" def:"false" negatable:"" group:"hold" help:"Offer permessage-deflate to WebSocket clients."`
	DrainTimeout              time.Duration `name:"drain-timeout" kind:"duration" def:"10s" placeholder:"DURATION" group:"hold" help:"After SIGTERM, how long clients are given to finish or move on before they are closed."`

	HeaderBytes                int `name:"header-bytes" kind:"bytes" def:"16KiB" min:"1KiB" max:"1MiB" placeholder:"SIZE" group:"limit" help:"Longest request header of a client, request line included; longer is answered with 431. Twice what Pushpin takes: cookies have grown."`
	ClientQueueBytes           int `name:"client-queue-bytes" kind:"bytes" def:"1MiB" min:"1KiB" placeholder:"SIZE" group:"limit" help:"Bytes that may wait for one client before it is closed as slow."`
	ItemQueueBytes             int `name:"item-queue-bytes" kind:"bytes" def:"32MiB" min:"1KiB" placeholder:"SIZE" group:"limit" help:"Bytes of items that may wait at each of a few places on a node, on their way to its clients, before publishers are answered 503."`
	WebSocketMessageBytes      int `name:"websocket-message-bytes" kind:"bytes" def:"1MiB" min:"125" placeholder:"SIZE" group:"limit" help:"Longest WebSocket message of a client; a longer one closes it with 1009."`
	SubscriptionsPerConnection int `name:"subscriptions-per-connection" kind:"count" def:"20" min:"1" placeholder:"COUNT" group:"limit" help:"Channels one connection may follow; further ones are ignored, as Pushpin does."`
	CacheBytes                 int `name:"cache-bytes" kind:"bytes" def:"256MiB" min:"1KiB" placeholder:"SIZE" group:"limit" help:"Memory for what guests cache, all of them together; when it is full, what is asked for least gives way."`
	CacheObjectBytes           int `name:"cache-object-bytes" kind:"bytes" def:"100MB" min:"1KiB" placeholder:"SIZE" group:"limit" help:"Longest body that guests cache; a longer one is passed on and not kept."`
	PublishBodyBytes           int `name:"publish-body-bytes" kind:"bytes" def:"1MB" min:"1KiB" max:"64MiB" placeholder:"SIZE" group:"limit" help:"Longest publish request; a longer one is answered with 400."`
	HoldsMax                   int `name:"holds-max" kind:"count" def:"0" placeholder:"COUNT" group:"limit" help:"Held responses and WebSockets at once; one more is answered with 503. 0 leaves it to the limit on open files."`

	NATS              URL    `name:"nats" kind:"nats" placeholder:"URL" group:"nats" help:"Carry items between nodes over this NATS, several servers by commas. Absent: a server inside this process."`
	NATSCreds         string `name:"nats-creds" kind:"file" placeholder:"FILE" group:"nats" help:"Credentials file for nats."`
	NATSListen        string `name:"nats-listen" kind:"address" placeholder:"ADDRESS" group:"nats" help:"Let other programs speak NATS to the server inside. It asks for no password."`
	NATSClusterListen string `name:"nats-cluster-listen" kind:"address" placeholder:"ADDRESS" group:"nats" help:"Where the servers inside other nodes connect to this one."`
	NATSPeer          []URL  `name:"nats-peer" kind:"peer" placeholder:"URL" group:"nats" help:"Another node's nats-cluster-listen, like nats-route://node-a:6222; one is enough to find the rest."`
	NATSClusterName   string `name:"nats-cluster-name" kind:"token" def:"gripway" placeholder:"NAME" group:"nats" help:"Only nodes of one name form a cluster."`
	NATSStoreDir      string `name:"nats-store-dir" kind:"file" placeholder:"DIR" group:"nats" help:"Where the server inside keeps buckets of JetStream, for KV stores of guests that all nodes share. In a cluster, nats-peer then has to name all nodes. Without: there are none."`

	ZMQPull       []string `name:"zmq-pull" kind:"zmq" placeholder:"ENDPOINT" group:"zmq" help:"Take items in here with a PULL socket, like tcp://127.0.0.1:5560 or ipc:///run/pull. No ZeroMQ socket asks for a password."`
	ZMQSub        []string `name:"zmq-sub" kind:"zmq" placeholder:"ENDPOINT" group:"zmq" help:"Let publishers connect to a SUB socket here; each channel is subscribed while this node has a client for it."`
	ZMQSubConnect []string `name:"zmq-sub-connect" kind:"zmq" placeholder:"ENDPOINT" group:"zmq" help:"Connect a SUB socket to a publisher there. With several nodes, all of them have to be connected."`
	ZMQCommand    string   `name:"zmq-command" kind:"zmq" placeholder:"ENDPOINT" group:"zmq" help:"Answer commands here with a REP socket: publish, recover, refresh, conncheck, get-zmq-uris."`

	ZMQStats                string        `name:"zmq-stats" kind:"zmq" placeholder:"ENDPOINT" group:"zmq" help:"Tell who is held and who follows what here with a PUB socket, in Pushpin's way."`
	ZMQStatsFormat          string        `name:"zmq-stats-format" kind:"choice" oneof:"tnetstring|json" def:"tnetstring" placeholder:"FORMAT" group:"zmq" help:"How zmq-stats tells: tnetstring or json."`
	ZMQStatsConnections     bool          `name:"zmq-stats-connections" kind:"bool" def:"true" negatable:"" group:"zmq" help:"Let zmq-stats tell of each connection."`
	ZMQStatsConnectionTTL   time.Duration `name:"zmq-stats-connection-ttl" kind:"duration" def:"120s" placeholder:"DURATION" group:"zmq" help:"How long a connection counts as there since it was told of; before, it is told again."`
	ZMQStatsSubscriptionTTL time.Duration `name:"zmq-stats-subscription-ttl" kind:"duration" def:"60s" placeholder:"DURATION" group:"zmq" help:"The same for a channel that is followed."`
	ZMQStatsReportInterval  time.Duration `name:"zmq-stats-report-interval" kind:"duration" def:"10s" placeholder:"DURATION" group:"zmq" help:"How often zmq-stats tells what all added up to."`
	ZMQIPCMode              string        `name:"zmq-ipc-mode" kind:"mode" placeholder:"MODE" group:"zmq" help:"Permissions of the files of ipc:// endpoints, in octal."`

	Events []Events `name:"events" kind:"events" placeholder:"LINE" group:"events" help:"Tell a channel or a URL who comes and goes, like 'channel=events' or 'url=http://localhost:8000/events,type=disconnect'; in gripway.toml, tables [[events]] (see Who comes and goes)."`
	Node   string   `name:"node" kind:"text" placeholder:"NAME" group:"events" help:"What this node is called in events, statistics, other nodes' logs and answers that name it. Without it: the host's name and the process' number."`

	LogLevel  string `name:"log-level" kind:"choice" oneof:"debug|info|warn|error" def:"info" placeholder:"LEVEL" group:"log" help:"What to log: debug, info, warn or error, and all that is worse."`
	LogFormat string `name:"log-format" kind:"choice" oneof:"text|json" def:"text" placeholder:"FORMAT" group:"log" help:"How to log: text or json, a line each."`

	// Where each value came from, by key; for Validate.
	given map[string]given `kong:"-"`
	// What Parse could not read; Validate reports it first.
	unread Problems `kong:"-"`
	// There is a file, and nobody knows what it says.
	fileUnread bool `kong:"-"`
	// What reading found doubtful; Warnings reports it first.
	warned Problems `kong:"-"`

	// Names of guests of which something is wrong: routes to them are right.
	wrongGuests []string `kong:"-"`
	// The command the settings are for.
	command string `kong:"-"`
}

// groups are the headings of the settings, in the order they are shown.
var groups = []struct{ key, title string }{
	{"listen", "Listening"},
	{"publish", "Who may publish"},
	{"route", "Routes"},
	{"guest", "Guests"},
	{"sign", "Signing"},
	{"forward", "What origins are told"},
	{"hold", "Holding"},
	{"limit", "Limits"},
	{"nats", "Between nodes"},
	{"zmq", "ZeroMQ"},
	{"events", "Who comes and goes"},
	{"log", "Log"},
}
