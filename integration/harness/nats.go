package harness

import (
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// NATS is a server of its own on a free port of loopback, and one client of it:
// the program that speaks only NATS.
type NATS struct {
	server *server.Server
	url    string
	port   int
	conn   *nats.Conn
}

// NATSMessage is what a subscription received.
type NATSMessage struct {
	Subject string
	Data    []byte
}

// StartNATS starts the server and connects the client.
func StartNATS() (*NATS, error) {
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	n := &NATS{port: port, url: fmt.Sprintf("nats://127.0.0.1:%d", port)}
	if err := n.Up(); err != nil {
		return nil, err
	}
	n.conn, err = nats.Connect(n.url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		n.Down()
		return nil, err
	}
	return n, nil
}

// Up starts the server again after Down.
func (n *NATS) Up() error {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: n.port, NoLog: true, NoSigs: true})
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(dialTimeout) {
		s.Shutdown()
		return fmt.Errorf("NATS server is not ready after %v", dialTimeout)
	}
	n.server = s
	return nil
}

// Down ends the server; its clients try to reach it again.
func (n *NATS) Down() {
	n.server.Shutdown()
	n.server.WaitForShutdown()
}

// URL is what a gateway connects to.
func (n *NATS) URL() string { return n.url }

// Publish sends data and returns once the server has it. reply is where an answer
// is wanted, if not "".
func (n *NATS) Publish(subject, reply string, data []byte) error {
	if err := n.conn.PublishMsg(&nats.Msg{Subject: subject, Reply: reply, Data: data}); err != nil {
		return err
	}
	return n.conn.FlushTimeout(dialTimeout)
}

// Subscribe returns a feed of what is published, once the server knows of it.
func (n *NATS) Subscribe(subject string) (*Feed[NATSMessage], error) {
	feed := &Feed[NATSMessage]{}
	_, err := n.conn.Subscribe(subject, func(m *nats.Msg) { feed.Put(NATSMessage{m.Subject, m.Data}) })
	if err != nil {
		return nil, err
	}
	return feed, n.conn.FlushTimeout(dialTimeout)
}

// Interest waits until the server has as many subscriptions to subject as count
// says, 0 meaning none is left.
func (n *NATS) Interest(subject string, count int, timeout time.Duration) error {
	for deadline := time.Now().Add(timeout); ; time.Sleep(10 * time.Millisecond) { // a poll: the server does not tell
		got := 0
		zone, err := n.server.Subsz(&server.SubszOptions{Subscriptions: true, Test: subject, Limit: 1 << 16})
		if err != nil {
			return err
		}
		got = len(zone.Subs)
		if got == count {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("subscriptions to %q: got %d, want %d", subject, got, count)
		}
	}
}

// Close ends both.
func (n *NATS) Close() {
	n.conn.Close()
	n.Down()
}
