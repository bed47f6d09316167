package socket

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/gateway/wire"
	"github.com/gripway/gripway/wsoverhttp"
)

// pendingMax bounds how often an origin may leave a handshake pending.
const pendingMax = 1000

// Call is one client's handshake on its way to an origin.
type Call struct {
	W http.ResponseWriter
	R *http.Request

	// ID names the connection to the origin and in logs.
	ID string

	// Terms are those of its route. Client is who it is for their Asker, which alone
	// understands it.
	Terms  *Terms
	Client string

	// About is what a watcher is told of the client; the Keeper adds id and format. Nil
	// where there is no watcher.
	About *hub.About

	// Failed answers a client whose origin could not be asked or answered wrong.
	Failed func(err error)

	// Reject passes on the origin's refusal.
	Reject func(status int, header http.Header, body []byte)
}

// Terms are what the clients of a route have in common. They do not change, and are kept
// for as long as one of them stays: make one for all.
type Terms struct {
	// Route is the route's name in logs, Prefix precedes its channels, Channels
	// are those it subscribes by itself (unprefixed).
	Route    string
	Prefix   string
	Channels []string

	// Replies are answered by the gateway from the beginning.
	Replies *Replies

	// Asker asks URLs for filters; nil if none can be asked.
	Asker Asker
}

// Asker asks URLs about items on behalf of clients.
type Asker interface {
	Ask(ctx context.Context, client string, q *hub.Question) (content []byte, deliver bool, err error)
}

// Serve asks the origin by HTTP whether it accepts the client and, if so, keeps
// the client. It returns when the client is kept or refused; w and r may not be
// used afterwards.
func (k *Keeper) Serve(call Call, client *wsoverhttp.Client) {
	ctx := call.R.Context()
	answer, err := client.Open(ctx)
	for tries := 0; err == nil && !answer.Opened; tries++ {
		// The origin has not decided: it is asked again when it said.
		if tries == pendingMax {
			err = errors.New("handshake left pending too often")
			break
		}
		timer := time.NewTimer(answer.KeepAlive)
		select {
		case <-timer.C:
			answer, err = client.Send(ctx)
		case <-ctx.Done():
			timer.Stop()
			k.abandon(client)
			k.refused.Inc()
			return
		}
	}
	if err != nil {
		k.refused.Inc()
		var rejection *wsoverhttp.Rejection
		if errors.As(err, &rejection) {
			call.Reject(rejection.Status, rejection.Header, rejection.Body)
			return
		}
		call.Failed(err)
		return
	}
	s := &session{
		keeper: k, id: client.ID(), terms: call.Terms, client: call.Client,
		up: overHTTP{client}, grip: answer.Extension.On, marker: answer.Extension.MessagePrefix,
	}
	if err := k.keep(s, call, answer.Header, answer); err != nil {
		k.refused.Inc()
		k.log.Debug("WebSocket handshake", "conn", call.ID, "error", err)
		k.abandon(client)
	}
}

// abandon tells an origin that the client it accepted is not there.
func (k *Keeper) abandon(client *wsoverhttp.Client) {
	ctx, cancel := context.WithTimeout(k.ctx, abandonTimeout)
	defer cancel()
	if _, err := client.Send(ctx, wsoverhttp.Event{Type: wsoverhttp.Disconnect}); err != nil {
		k.log.Debug("origin was not told of a lost client", "error", err)
	}
}

const abandonTimeout = 10 * time.Second

// keep upgrades the client and begins its session. The 101 leaves after the
// channels of the origin's first answer are subscribed: a client that sees it
// will hear what it then publishes.
func (k *Keeper) keep(s *session, call Call, header http.Header, answer *wsoverhttp.Answer) error {
	nc, head, buffered, err := upgrade(call.W, call.R, header, k.opts.Compression)
	if err != nil {
		return err
	}
	s.deflated = strings.Contains(head, "\r\nSec-WebSocket-Extensions: permessage-deflate")
	s.conn, err = k.opts.Group.Adopt(nc, wire.Options{Handler: s, Buffered: buffered})
	if err != nil {
		return err
	}
	s.replies.Store(s.terms.Replies)
	k.opts.Hub.Join(&s.sub, s, s.conn.Loop(), hub.Manner{Format: hub.FormatMessage})
	if !k.add(s, call.About) {
		s.originDone = true // whoever called tells the origin
		s.conn.Abort()
		return errors.New("the gateway is shutting down")
	}
	for _, name := range s.terms.Channels {
		s.follow(name)
	}
	// Nobody else asks the origin before its first answer has been acted on.
	s.mu.Lock()
	s.exchanging = true
	s.mu.Unlock()
	if answer != nil {
		events := answer.Events
		answer.Events = nil
		s.answered(answer) // what else it says
		for len(events) > 0 && isControl(s, events[0]) {
			s.fromOrigin(events[0])
			events = events[1:]
		}
		s.conn.Start([]byte(head))
		for _, event := range events {
			if !s.fromOrigin(event) {
				break
			}
		}
		s.settle()
	} else {
		s.conn.Start([]byte(head))
	}
	s.exchange(nil)
	return nil
}

// isControl says whether an event changes the session and shows the client nothing.
func isControl(s *session, event wsoverhttp.Event) bool {
	return s.grip && event.Type == wsoverhttp.Text && strings.HasPrefix(string(event.Content), "c:")
}

// overHTTP is an origin that is asked by HTTP. A pointer and no more: it takes no memory
// of its own as an upstream.
type overHTTP struct{ *wsoverhttp.Client }

func (o overHTTP) Close() {}

// upgrade takes the client from its HTTP server and returns the answer to its
// handshake, which has not been sent, and what the client has sent already.
func upgrade(w http.ResponseWriter, r *http.Request, header http.Header, compress bool) (nc net.Conn, head string, buffered []byte, err error) {
	up := &upgrading{ResponseWriter: w}
	header = header.Clone()
	header.Del("Sec-Websocket-Extensions") // the gateway's own business
	upgrader := websocket.Upgrader{
		ReadBufferSize: 1, WriteBufferSize: framerBuffer, // gorilla's Conn is not used
		EnableCompression: compress,
		CheckOrigin:       func(*http.Request) bool { return true }, // the origin decides, and sees Origin
	}
	if _, err := upgrader.Upgrade(up, r, header); err != nil {
		if up.nc != nil {
			up.nc.Close()
		}
		return nil, "", nil, err
	}
	return up.nc, string(up.head), up.buffered, nil
}

// upgrading catches what gorilla's Upgrader writes to a client.
type upgrading struct {
	http.ResponseWriter
	nc       net.Conn
	head     []byte
	buffered []byte
}

func (u *upgrading) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := http.NewResponseController(u.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	u.nc = nc
	if n := rw.Reader.Buffered(); n > 0 {
		u.buffered, _ = rw.Reader.Peek(n)
	}
	caught := &caughtConn{Conn: nc, up: u}
	return caught, bufio.NewReadWriter(bufio.NewReaderSize(caught, 16), bufio.NewWriterSize(caught, 16)), nil
}

type caughtConn struct {
	net.Conn
	up *upgrading
}

func (c *caughtConn) Write(p []byte) (int, error) {
	c.up.head = append(c.up.head, p...)
	return len(p), nil
}

// validKey says whether a handshake's key is 16 bytes in base64.
func validKey(values []string) bool {
	if len(values) != 1 {
		return false
	}
	key, err := base64.StdEncoding.DecodeString(values[0])
	return err == nil && len(key) == 16
}
