// Package wsoverhttp carries WebSockets to web applications as ordinary HTTP
// requests: WebSocket-over-HTTP, the protocol by which GRIP gateways (Pushpin,
// Fastly Fanout, Gripway) talk to origins.
//
// A gateway holds the client's connection and asks the origin when something
// happens on it. The origin answers and forgets. To gateways it is a [Client] for
// each WebSocket, to origins a [Handler]:
//
//	http.Handle("/chat", &wsoverhttp.Handler{
//		Open:    func(c *wsoverhttp.Conn) { c.Subscribe("room") },
//		Message: func(c *wsoverhttp.Conn, m wsoverhttp.Message) { c.SendText("you said " + m.String()) },
//	})
//
// # The protocol
//
// Client and gateway shake hands; the gateway asks the origin first:
//
//	POST /chat?room=7 HTTP/1.1                        the client's URL
//	Cookie: user=ann                                  the client's headers
//	Sec-WebSocket-Version: 13
//	Sec-WebSocket-Extensions: grip                    instructions are understood
//	Connection-Id: b5ea0e11                           the same in every request
//	Accept: application/websocket-events
//	Content-Type: application/websocket-events
//	Content-Length: 6
//
//	OPEN\r\n
//
//	HTTP/1.1 200 OK
//	Content-Type: application/websocket-events        exactly this, or it is a refusal
//	Sec-WebSocket-Extensions: grip; message-prefix="m:"
//	Set-Meta-User: ann                                to be sent with every request
//	Keep-Alive-Interval: 60                           ask when idle for 60 s, at least 20
//	Sec-WebSocket-Protocol: chat                      all others: for the client
//
//	OPEN\r\n
//	TEXT 2a\r\n                                       2a is hexadecimal: 42 bytes
//	c:{"type":"subscribe","channel":"friends"}\r\n    for the gateway, no prefix
//	TEXT 4\r\n
//	m:hi\r\n                                          for the client, who gets "hi"
//
// From then on each request has what happened since the last one, in order, and
// each answer has what the client shall see:
//
//	POST /chat?room=7 HTTP/1.1                        and all headers as above
//	Meta-User: ann
//
//	TEXT 5\r\n
//	hello\r\n
//	PING\r\n
//
// The events:
//
//	             from the gateway           from the origin
//	OPEN         may there be a WebSocket   yes; a second one drops the client
//	TEXT n       the client said            say
//	BINARY n
//	PING [n]
//	PONG [n]
//	CLOSE [n]    the client closes          close; n is 2 bytes of code, and a reason
//	DISCONNECT   the client is gone         drop the client
//
// An event without a size has no content, which to a reader is the same as empty
// content ("TEXT\r\n" and "TEXT 0\r\n\r\n"). A body without events means "still
// there" in both directions. At most one request of a WebSocket is on its way.
//
// The origin refuses by any other answer to OPEN, which the client sees as plain
// HTTP. An empty answer with a Keep-Alive-Interval leaves the client waiting, and
// OPEN is sent again. A wrong answer later on ends the connection.
//
// An origin that has not enough to go on takes only the first bytes of the content
// it was offered; the others come again when there is more:
//
//	TEXT b\r\n[foo][hello\r\n                         11 bytes are offered
//
//	Content-Bytes-Accepted: 5
//
//	Content-Bytes-Replayed: 6                         6 of 13 were offered before
//
//	TEXT 6\r\n[hello\r\n
//	TEXT 7\r\n world]\r\n
//
// CLOSE's content counts last, and what comes before it can only be held back
// together with it.
//
// A client that is to miss nothing of a channel is subscribed with the id of the
// last item it has (Conn.SubscribeFrom; Gripway only). Where an item does not name
// that one as the one before it, it and what follows wait, and the origin is asked
// (Handler.Recover) by a request without events:
//
//	Grip-Last: room; last-id=7                        what the client has
//
//	TEXT 7\r\nm:eight\r\n                             what it lacks
//	TEXT 35\r\n
//	c:{"type":"subscribe","channel":"room","prev-id":"8"}   and where it stands then
//
// An answer that does not subscribe the client anew is asked for again: after 1, 2,
// 4, 8 and 16 seconds, and then the client is closed with 1011. An item that was
// only suspected to be missing (the channel is new to the gateway, its bus was
// away) needs no answer.
//
// # What this package is not
//
// It knows no WebSocket frames, no channels and no publishing. It retries nothing:
// [ErrNotSent] tells when that is safe. It does not verify Grip-Sig. It reads no
// instructions (what follows "c:"), it only writes some for origins.
//
// # Looks wrong, is not
//
//   - A Client writes empty messages without a size although Event can tell empty
//     from absent: Pushpin does, so origins have met it. Origins must take both.
//   - A Client takes content that is cut short; Decode and Handler do not. Origins
//     written by hand miscount, and have always got away with it. There is Strict.
//   - Header values cross an answer in spelling and order of net/http, not of the
//     origin: names are case-insensitive, order between names has no meaning.
//   - The body of a request is not from a pool. Its answer may arrive while
//     net/http still writes it.
//
// # Words
//
//   - The handshake is the client's request for a WebSocket, and its headers.
//   - Meta is what an origin binds to a connection by Set-Meta-<Name>, to get it
//     back with each request. Grip meta is what it tells the gateway's filters.
//   - Keep-alive interval: when to ask an idle client's origin. Keep-alive: what
//     the gateway sends an idle client.
//   - Pending is what a Client has been given and the origin has not taken.
package wsoverhttp
