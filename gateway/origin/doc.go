// Package origin takes a client's request to whoever answers it and brings the
// answer back.
//
// Rules make the origin's request of the client's: where it goes, what is left
// out, what is added and signed. A Pool is an http.RoundTripper that tries the
// targets of a route in order. Relay gives the answer to the client.
//
//	request, trusted, err := rules.Prepare(r, origin.Call{})
//	response, err := pool.RoundTrip(request)
//	err = origin.Relay(w, r, response)
//
// Nobody here looks for Grip-* in an answer: that is the gateway's business.
//
// # Promises
//
//   - A request goes to the next target only if the connection to the one before
//     could not be made: no byte of it was sent, none of its body was read.
//   - The bytes of path and query reach the origin as the client wrote them.
//   - Nothing is invented: no User-Agent, no Accept-Encoding.
//   - What a client says in the gateway's name (Grip-*, Meta-*, Connection-Id,
//     Pushpin-Route, eb9bf0f5-*) is left out, as header and as trailer, in any
//     spelling that an origin may take for it, and a client cannot name away
//     what the gateway adds by listing it in Connection.
//
// # Looks wrong, is not
//
//   - Plain TCP has its own small client and TLS uses http.Transport. The small
//     one parses with net/http too, needs no goroutine for a request without body or
//     an idle connection, and a third less CPU time; Transport knows HTTP/2.
//   - A request's Content-Encoding is relayed. Pushpin takes it away and leaves
//     the origin with bytes it cannot read.
//   - The host a certificate is checked against is the request's, not the
//     target's: that is what the client asked for (see Target.TrustConnectHost).
//   - Header names are compared with every sign that is neither letter nor digit
//     taken as "-": to a CGI-like origin Grip_Sig and Grip-Sig are one variable.
package origin
