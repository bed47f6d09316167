package zmq_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/gateway/zmq"
)

func startPub(t *testing.T, options zmq.PubOptions) *zmq.Pub {
	t.Helper()
	pub, err := zmq.NewPub(options)
	if err == nil {
		err = pub.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pub.Close() })
	return pub
}

// subscribe connects a SUB socket made of bytes, and returns once it is heard of.
func subscribe(t *testing.T, pub *zmq.Pub, prefix string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(pub.Endpoints()[0].URL, "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	greeting := "\xff" + strings.Repeat("\x00", 8) + "\x7f\x03\x00NULL" + strings.Repeat("\x00", 48)
	ready := "\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB"
	io.WriteString(conn, greeting+"\x04"+string([]byte{byte(len(ready))})+ready+"\x00"+string([]byte{byte(len(prefix) + 1)})+"\x01"+prefix)
	skip := make([]byte, 64+2+len(ready))
	if _, err := io.ReadFull(conn, skip); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestASubscriberGetsWhatItsPrefixSays(t *testing.T) {
	pub := startPub(t, zmq.PubOptions{Endpoint: anyPort})
	if pub.Heard() {
		t.Error("somebody is heard before there is anybody")
	}
	conn := subscribe(t, pub, "sub ")
	deadline := time.Now().Add(patience)
	// What it wants is known to the socket a moment after it has said so.
	got := make([]byte, 9)
	read := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(conn, got)
		read <- err
	}()
	for {
		pub.Send([]byte("conn one"))
		pub.Send([]byte("sub two"))
		select {
		case err := <-read:
			if err != nil || string(got) != "\x00\x07sub two" {
				t.Errorf("got %q, %v, want sub two only", got, err)
			}
			return
		case <-time.After(5 * time.Millisecond):
			if time.Now().After(deadline) {
				t.Fatal("nothing came")
			}
		}
	}
}

func TestASubscriberThatDoesNotReadHoldsUpNobody(t *testing.T) {
	registry := metrics.New()
	pub := startPub(t, zmq.PubOptions{Endpoint: anyPort, Metrics: registry})
	subscribe(t, pub, "")
	message := bytes.Repeat([]byte("x"), 64<<10)
	for deadline := time.Now().Add(patience); registry.Sum("zmq_stats_dropped_total") == 0; {
		for range 100 {
			pub.Send(message)
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was dropped for who does not read")
		}
	}
}

func TestTheFileOfAnEndpointHasItsMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stats")
	startPub(t, zmq.PubOptions{Endpoint: "ipc://" + path, Mode: 0o606})
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o606 {
		t.Errorf("got %v, %v, want mode 606", info.Mode(), err)
	}
}

func TestAMessageOfStatisticsIsAsPushpinWritesIt(t *testing.T) {
	value := zmq.Value{"id": "a", "ttl": 120, "unavailable": true}
	for _, test := range []struct {
		asJSON bool
		want   string
	}{
		{false, "conn T43:2:id,1:a,3:ttl,3:120#11:unavailable,4:true!}"},
		{true, `conn J{"id":"a","ttl":120,"unavailable":true}`},
	} {
		if got := string(zmq.AppendMessage(nil, "conn", value, test.asJSON)); got != test.want {
			t.Errorf("got %s, want %s", got, test.want)
		}
	}
}
