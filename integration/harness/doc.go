// Package harness starts what the conversation scripts talk about, and nothing
// else: gateways (this repository's program, or the peer it is compared with),
// scripted origins, clients that show every byte and frame, and a NATS server.
//
// Everything here writes what it sees into a [Feed], in order and with the time
// of arrival, so that a script can say what it expects without ever sleeping.
// Nothing here judges: the verbs of the scripts do, see ../README.md.
//
// Every Start function gives something with a Close that ends it and waits for
// its goroutines.
package harness
