// Package grip is the GRIP protocol, for gateways and for the origins behind
// them.
//
// A gateway holds the connections of clients; an origin, which only ever
// answers plain HTTP, decides. It does so with an [Instruction] in the headers
// of its answer:
//
//	HTTP/1.1 200 OK
//	Content-Type: text/event-stream
//	Grip-Hold: stream                                      keep this response open
//	Grip-Channel: news; prev-id=7, chat; filter=skip-self  append what is published here
//	Grip-Keep-Alive: :\n\n; format=cstring; timeout=20     and this when it is quiet
//	Grip-Link: </news?after=7>; rel=next                   ask here if something was missed
//	Grip-Set-Meta: user=ann                                what filters know of the client
//
//	data: hello\n\n                                        what the client sees at once
//
// or, which is the same in JSON, in the body of an answer of type
// application/grip-instruct. In a WebSocket message it is a [Control]:
//
//	c:{"type":"subscribe","channel":"news"}
//
// A channel may be a pattern for many, if it is said to be one, and a WebSocket may
// be subscribed from an id on, as a stream may (Gripway only):
//
//	Grip-Channel: news.*; pattern
//	c:{"type":"subscribe","channel":"news.*","pattern":true}
//	c:{"type":"subscribe","channel":"news","prev-id":"7"}
//
// Anybody who may then publishes an [Item] to the gateway, with a body for each
// kind of client:
//
//	POST /publish/
//
//	{"items":[{"channel":"news","id":"8","prev-id":"7","formats":{
//	  "http-response": {"code":200,"headers":{"Content-Type":"text/plain"},"body":"hello\n"},
//	  "http-stream":   {"content":"data: hello\n\n"},
//	  "ws-message":    {"content":"hello"}}}]}
//
// Requests carry a token in Grip-Sig by which the origin can tell that they
// came through its gateway: a [Signer] makes it, a [Verifier] believes it.
//
// An origin needs three things of this package:
//
//	publisher, err := grip.NewPublisher(os.Getenv("GRIP_URL"))
//
//	func news(w http.ResponseWriter, r *http.Request) {
//		if publisher.VerifyRequest(r) != nil {
//			http.Error(w, "come through the gateway", http.StatusForbidden)
//			return
//		}
//		grip.Hold(w, &grip.Instruction{Hold: grip.HoldStream, Channels: []grip.Channel{{Name: "news"}}})
//	}
//
//	err = publisher.Publish(ctx, &grip.Item{Channel: "news", Stream: &grip.StreamItem{Content: []byte("hello\n")}})
//
// A gateway needs the other halves: [ParseInstruction], [ParseItems],
// [ParseControl], [Chain] and [Signer].
//
// What is not here: holding connections, delivery, sequence and retries, which
// are the gateway's; WebSocket-over-HTTP, which is a package of its own;
// Pushpin's route files and its ZeroMQ inputs.
//
// # Looks wrong, is not
//
//   - A keep-alive in the JSON form is by default an interval, in a header it is
//     by default idle. Pushpin does so, and origins are written to it.
//   - Quotes around a channel's name are part of the name: "a,b" in quotes is a
//     way to have a comma in it, and the quotes come with it.
//   - The words of a [PublishError] and an [InstructError] are Pushpin's, to the
//     letter, since publishers compare them.
//   - A timeout of zero is read as [AtOnce]: the zero value of a field means that
//     none was given.
//   - Of two subscriptions to one channel the last replaces the first, filters
//     and all.
//
// # Where it differs from Pushpin
//
// It says what was wrong where Pushpin answers an empty reason (an unknown
// action, a "response" that is no object). It refuses header names and values
// that would break out of their line, numbers in strings that are none, a
// status of "true", and parameters with a quote that is never closed, which
// Pushpin drops with all that belongs to them. It takes commas and semicolons
// within the <…> of a Grip-Link, \t in a cstring, and both alphabets of base64.
// A status of 0 is 200.
//
// The protocol is described at https://pushpin.org/docs/protocols/grip/.
package grip
