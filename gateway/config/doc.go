// Package config is everything an operator can say: flags, environment,
// gripway.toml and routes, turned into plain data with every mistake named.
//
// It is for main, and for nobody else: the rooms of the gateway take an Options
// struct each and do not know where its values came from.
//
//	command, err := config.Parse(os.Args[1:], os.Environ(), config.Output{...})
//	switch command := command.(type) {
//	case *config.ServeCommand:
//		if problems := command.Validate(); problems != nil { … print all, exit 1 }
//
// # Saying a setting
//
// A setting is one field of Config. Its key is written the same in three places;
// the first of these that says anything wins:
//
//	flag          --drain-timeout 30s         repeat the flag for a list
//	environment   GRIPWAY_DRAIN_TIMEOUT=30s   a list by commas or lines; routes by ; or lines
//	gripway.toml  drain-timeout = "30s"       a list as an array
//	default       10s
//
// A layer that says a list replaces the whole list of the layers below. An empty
// variable in the environment counts as absent; an empty flag or an empty string
// in the file is an empty value. Relative file names in gripway.toml start at
// the folder of gripway.toml, elsewhere at the working directory.
//
// # Routes
//
// Routes are written in the syntax of Pushpin's routes file, in three places
// that add up: route (a list of lines), [[route]] tables in gripway.toml, and
// the file that the key routes names, which is watched:
//
//	route = ["* localhost:8000,over_http", "example.com,path_beg=/b localhost:9000"]
//
//	[[route]]                      # instead of the list: TOML has one of both
//	domain = "*"
//	path_beg = "/chat"             # options are spelled as in the routes file
//	header = ["X-Edge: gripway"]   # those that repeat take a list
//	debug = true                   # those without a value take true or false
//	target = ["localhost:8000,over_http"]
//
//	[[route.target]]               # or a table for each target, instead of the list
//	address = "localhost:8000"
//	over_http = true
//
//	routes = "routes"              # a file, not a list
//
// # Pushpin's files
//
// The command pushpin reads a pushpin.conf in place of gripway.toml, and has the
// flags of Pushpin's own command. Each key that is a setting here becomes one,
// with the place where it was said; the order of flag, environment, file and
// default is the same, the defaults are Pushpin's.
//
// # Publishers
//
// A publisher is a table in gripway.toml, or a line of the same options: the name
// first, the others by commas.
//
//	[[publisher]]
//	name = "newsroom"
//	token = "…"                      # or jwt-key and perhaps iss, or jwks and iss, or user and password
//	channels = ["news.*", "room-?"]  # absent: all; [] (in a line, channels alone): none
//	rate = 100                       # items a second
//	burst = 500
//
//	newsroom,token=…,channels=news.*,channels=room-?,rate=100,burst=500
//
// # Fastly's files
//
// ReadFastly reads the table [local_server] of a fastly.toml: backends, stores
// and what else Fastly's own local server takes, under all names they have had.
// Keys that are unknown there are refused. The names of its files start at the
// working directory, as they do for Fastly's. Further than Fastly's go
//
//	kv_stores.NAME = { backend = "file", path = "NAME.db" }         # outlives the process; also items = […]
//	kv_stores.NAME = { backend = "jetstream", bucket = "NAME" }     # shared by all nodes
//	geolocation = { format = "maxmind", file = "GeoLite2-City.mmdb" } # or a list of files
//
// # Events
//
// Who is told that clients come and go is a table as well, or a line of the same
// options.
//
//	[[events]]
//	url = "http://localhost:8000/events"  # or channel = "events"
//	type = ["connect", "disconnect"]      # absent: all
//	kind = "websocket"                    # websocket, stream, response; absent: all
//	route = "chat"                        # ids of routes; absent: all
//
// # Looks wrong, is not
//
//   - Validate is not called Validate() error: that would make the command line
//     parser call it, before file and environment were read.
//   - Nothing here has kong's own default tag: kong only collects the words of
//     the command line, and one decoder reads flags, environment and file alike,
//     so that a mistake reads the same wherever it was made.
package config
