package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/pubsub/bustest"
	"github.com/gripway/gripway/pubsub/natsbus"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestANodeThatNobodyElseReachesIsABus(t *testing.T) {
	bustest.Run(t, func(t *testing.T) pubsub.Bus { return open(t, natsbus.Options{}) })
}

func TestANodeThatOthersMayConnectToIsABus(t *testing.T) {
	bustest.Run(t, func(t *testing.T) pubsub.Bus { return open(t, listening) })
}

func TestTwoNodesOnAServerElsewhereAreABus(t *testing.T) {
	url := elsewhere(t, nil).ClientURL()
	bustest.Run(t, func(t *testing.T) pubsub.Bus {
		return &pair{publisher: open(t, natsbus.Options{URL: url}), Bus: open(t, natsbus.Options{URL: url})}
	})
}

func TestTwoNodesThatAreTheClusterAreABus(t *testing.T) {
	bustest.Run(t, func(t *testing.T) pubsub.Bus {
		nodes := cluster(t, 2)
		return &pair{publisher: nodes[0], Bus: nodes[1], interest: true}
	})
}

// listening is a server inside this process that others may connect to.
var listening = natsbus.Options{Embedded: natsbus.Embedded{Listen: "127.0.0.1:0"}}

func open(t *testing.T, o natsbus.Options) *natsbus.Bus {
	t.Helper()
	bus, err := natsbus.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bus.Close() })
	return bus
}

// elsewhere is a NATS server that no bus started.
func elsewhere(t *testing.T, options *server.Options) *server.Server {
	t.Helper()
	if options == nil {
		options = new(server.Options)
	}
	if options.Port == 0 {
		options.Port = server.RANDOM_PORT
	}
	options.Host, options.NoLog, options.NoSigs = "127.0.0.1", true, true
	s, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		t.Fatal("the NATS server does not become ready")
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

// cluster opens up to three nodes that know of the first one only, and waits until
// each sees all.
func cluster(t *testing.T, size int) []*natsbus.Bus {
	t.Helper()
	var nodes []*natsbus.Bus
	for range size {
		e := natsbus.Embedded{ClusterListen: "127.0.0.1:0", ClusterSecret: "between us"}
		switch len(nodes) { // a peer may be written in two ways
		case 1:
			e.Peers = []string{nodes[0].ClusterAddr()}
		case 2:
			e.Peers = []string{"nats-route://" + nodes[0].ClusterAddr()}
		}
		nodes = append(nodes, open(t, natsbus.Options{Embedded: e}))
	}
	for _, node := range nodes {
		eventually(t, "all nodes see each other", func() bool { return node.Stats().Peers == size-1 })
	}
	// Routes come several to a peer, now and then one too many, and each is told of
	// as a break.
	for calm := 0; calm < 5; calm++ {
		for _, node := range nodes {
			eventually(t, "all routes are told of", func() bool {
				if node.RoutesTold() == natsbus.RoutesToAPeer*(size-1) {
					return true
				}
				calm = 0
				return false
			})
		}
		time.Sleep(10 * time.Millisecond) // twice as long as a look at the routes takes
	}
	return nodes
}

// pair publishes on one node and does all else on another.
type pair struct {
	pubsub.Bus
	publisher *natsbus.Bus
	interest  bool // Subscribe waits until the publisher's server has heard of it
}

func (p *pair) Publish(ctx context.Context, channel string, data []byte) error {
	return p.publisher.Publish(ctx, channel, data)
}

func (p *pair) Subscribe(ctx context.Context, channel string, r pubsub.Receiver) (pubsub.Subscription, error) {
	s, err := p.Bus.Subscribe(ctx, channel, r)
	for end := time.Now().Add(patience); err == nil && p.interest && !p.publisher.Knows(channel); {
		if time.Now().After(end) {
			return nil, errors.New("the interest does not reach the other node")
		}
		time.Sleep(100 * time.Microsecond) // nothing tells that it has
	}
	return s, err
}

func (p *pair) SubscribePattern(ctx context.Context, pattern string, r pubsub.PatternReceiver) (pubsub.Subscription, error) {
	s, err := p.Bus.SubscribePattern(ctx, pattern, r)
	some := strings.NewReplacer("*", "x", ">", "x").Replace(pattern)
	for end := time.Now().Add(patience); err == nil && p.interest && !p.publisher.Knows(some); {
		if time.Now().After(end) {
			return nil, errors.New("the interest does not reach the other node")
		}
		time.Sleep(100 * time.Microsecond) // nothing tells that it has
	}
	return s, err
}

// Close closes first whom a break would be told: that the other leaves is one.
func (p *pair) Close() error { return errors.Join(p.Bus.Close(), p.publisher.Close()) }

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func TestThreeNodesHearEachOther(t *testing.T) {
	nodes := cluster(t, 3)
	receivers := make([]*bustest.Recorder, len(nodes))
	for i, node := range nodes {
		receivers[i] = bustest.Record()
		bustest.Subscribe(t, node, "room", receivers[i])
	}
	// The first items may meet a node that does not know of all yet.
	for i, from := range nodes {
		for j, r := range receivers {
			eventually(t, fmt.Sprintf("node %d hears node %d", j, i), func() bool {
				bustest.Publish(t, from, "room", fmt.Sprint("probe of ", i))
				for {
					call, ok := r.Within(20 * time.Millisecond)
					if !ok || string(call.Data) == fmt.Sprint("probe of ", i) {
						return ok
					}
				}
			})
		}
	}
	const items = 500
	for i, from := range nodes {
		for n := range items {
			bustest.Publish(t, from, "room", fmt.Sprintf("%d/%d", i, n))
		}
	}
	for j, r := range receivers {
		next := make([]int, len(nodes))
		for received := 0; received < items*len(nodes); {
			call := r.Next(t)
			if call.Lost >= 0 || strings.HasPrefix(string(call.Data), "probe") {
				continue // of the cluster's beginning
			}
			var from, n int
			if _, err := fmt.Sscanf(string(call.Data), "%d/%d", &from, &n); err != nil {
				t.Fatal(err)
			}
			if n != next[from] {
				t.Fatalf("node %d: got item %d of node %d, want %d", j, n, from, next[from])
			}
			next[from]++
			received++
		}
	}
}

func TestAPeerThatLeavesOrComesIsToldAsAHole(t *testing.T) {
	nodes := cluster(t, 2)
	r := bustest.Record()
	bustest.Subscribe(t, nodes[0], "room", r)
	for { // the first joining may still be told of
		call, ok := r.Within(100 * time.Millisecond) // routes are looked at every 5 ms here
		if !ok {
			break
		}
		if call.Lost < 0 {
			t.Errorf("got item %q", call.Data)
		}
	}
	breaks := nodes[0].Stats().Breaks
	nodes[1].Close()
	if call := r.Next(t); call.Lost != 0 {
		t.Errorf("after a node left: got %+v, want Lost(0)", call)
	}
	eventually(t, "the node has left", func() bool { return nodes[0].Stats().Peers == 0 })
	open(t, natsbus.Options{Embedded: natsbus.Embedded{
		ClusterListen: "127.0.0.1:0", ClusterSecret: "between us", Peers: []string{nodes[0].ClusterAddr()},
	}})
	if call := r.Next(t); call.Lost != 0 {
		t.Errorf("after a node came: got %+v, want Lost(0)", call)
	}
	if got := nodes[0].Stats().Breaks; got < breaks+2 {
		t.Errorf("got %d breaks, want at least %d", got, breaks+2)
	}
}

func TestANodeWithoutTheSecretStaysOutside(t *testing.T) {
	inside := open(t, natsbus.Options{Embedded: natsbus.Embedded{ClusterListen: "127.0.0.1:0", ClusterSecret: "between us"}})
	for _, secret := range []string{"", "wrong"} {
		outside := open(t, natsbus.Options{Embedded: natsbus.Embedded{
			ClusterListen: "127.0.0.1:0", ClusterSecret: secret, Peers: []string{inside.ClusterAddr()},
		}})
		time.Sleep(300 * time.Millisecond) // what must not happen takes 80 ms otherwise
		if got := inside.Stats().Peers + outside.Stats().Peers; got != 0 {
			t.Errorf("with the secret %q: %d peers, want 0", secret, got)
		}
		outside.Close()
	}
}

func TestThePortAClusterForcesOpenTakesNobody(t *testing.T) {
	node := open(t, natsbus.Options{Embedded: natsbus.Embedded{ClusterListen: "127.0.0.1:0"}})
	if got := node.ClientAddr(); got != "" {
		t.Errorf("got address %q for programs, want none", got)
	}
	conn, err := nats.Connect("nats://" + node.ServerAddr())
	if !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("got %v, want %v", err, nats.ErrAuthorization)
	}
	if err == nil {
		conn.Close()
	}
}

func TestAProgramThatSpeaksOnlyNATS(t *testing.T) {
	node := open(t, natsbus.Options{Embedded: natsbus.Embedded{Listen: "127.0.0.1:0", Token: "let me in"}})
	if conn, err := nats.Connect("nats://" + node.ClientAddr()); err == nil {
		conn.Close()
		t.Error("connected without the token")
	}
	program, err := nats.Connect("nats://"+node.ClientAddr(), nats.Token("let me in"))
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()

	// What it publishes comes.
	r := bustest.Record()
	bustest.Subscribe(t, node, "news.sport", r)
	item := `{"formats":{"ws-message":{"content":"goal"}}}`
	if err := program.Publish("gripway.item.news.sport", []byte(item)); err != nil {
		t.Fatal(err)
	}
	r.Want(t, item)

	// What the gateway publishes, it hears, and a wildcard of NATS means what it does there.
	heard, err := program.SubscribeSync("gripway.item.news.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Flush(); err != nil {
		t.Fatal(err)
	}
	bustest.Publish(t, node, "news.user:17", "hello")
	m, err := heard.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	if channel, err := natsbus.Channel("", m.Subject); channel != "news.user:17" || err != nil {
		t.Errorf("got channel %q, %v", channel, err)
	}
}

func TestTheServerInsideHasNoOtherDoors(t *testing.T) {
	node := open(t, listening)
	if got := node.OtherDoors(); len(got) != 0 {
		t.Errorf("it listens for %v, too", got)
	}
}

// Every name is subscribed alone on a real server while everything is published:
// a name that became a wildcard would hear the others.
func TestANodeThatNobodyElseReachesOpensNoPort(t *testing.T) {
	node := open(t, natsbus.Options{})
	if got := node.ServerAddr(); got != "" {
		t.Errorf("its server listens on %s", got)
	}
	if got := node.OtherDoors(); len(got) != 0 {
		t.Errorf("it listens for %v, too", got)
	}
}

// What another room of the process says by NATS goes the way of all others, and so
// does what it hears.
func TestARoomNextDoorHasAConnectionOfItsOwn(t *testing.T) {
	url := elsewhere(t, &server.Options{Username: "ann", Password: "geheim"}).ClientURL()
	for name, o := range map[string]natsbus.Options{
		"nobody else may connect": {},
		"others may connect":      {Embedded: natsbus.Embedded{Listen: "127.0.0.1:0", Token: "geheim"}},
		"a server elsewhere":      {URL: url, User: "ann", Password: "geheim"},
	} {
		t.Run(name, func(t *testing.T) {
			bus := open(t, o)
			conn, err := bus.Connect(nats.Name("next door"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			heard, err := conn.SubscribeSync(natsbus.Subject("", "room"))
			if err != nil {
				t.Fatal(err)
			}
			if err := conn.Flush(); err != nil {
				t.Fatal(err)
			}
			bustest.Publish(t, bus, "room", "from the bus")
			m, err := heard.NextMsg(patience)
			if err != nil || string(m.Data) != "from the bus" {
				t.Fatalf("got %v, %v", m, err)
			}
			r := bustest.Record()
			bustest.Subscribe(t, bus, "room", r)
			if err := conn.Publish(natsbus.Subject("", "room"), []byte("from next door")); err != nil {
				t.Fatal(err)
			}
			r.Want(t, "from next door")
		})
	}
	bus := open(t, natsbus.Options{})
	bus.Close()
	if _, err := bus.Connect(); !errors.Is(err, pubsub.ErrClosed) {
		t.Errorf("got %v, want %v", err, pubsub.ErrClosed)
	}
}

func TestNoChannelHearsAnother(t *testing.T) {
	node := open(t, listening)
	program, err := nats.Connect("nats://" + node.ClientAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, name := range bustest.Names {
		r := bustest.Record()
		joined := bustest.Subscribe(t, node, name, r)
		for _, other := range bustest.Names {
			if err := program.Publish(natsbus.Subject("", other), []byte("for "+other)); err != nil {
				t.Fatal(err)
			}
		}
		for _, subject := range []string{"gripway.item.x", "gripway.item.x.y", "gripway", "gripway.item", "other.item.a"} {
			if err := program.Publish(subject, []byte("for nobody")); err != nil {
				t.Fatal(err)
			}
		}
		if err := program.Publish(natsbus.Subject("", name), []byte("end")); err != nil {
			t.Fatal(err)
		}
		r.Want(t, "for "+name)
		r.Want(t, "end")
		if err := joined.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestGatewaysWithDifferentPrefixesShareAServer(t *testing.T) {
	url := elsewhere(t, nil).ClientURL()
	one := open(t, natsbus.Options{URL: url, SubjectPrefix: "shop.one"})
	two := open(t, natsbus.Options{URL: url, SubjectPrefix: "shop.two"})
	first, second := bustest.Record(), bustest.Record()
	bustest.Subscribe(t, one, "room", first)
	bustest.Subscribe(t, two, "room", second)
	bustest.Publish(t, one, "room", "of one")
	bustest.Publish(t, two, "room", "of two")
	first.Want(t, "of one")
	second.Want(t, "of two")
}

func TestABrokenConnectionIsMadeAgainAndTold(t *testing.T) {
	first := elsewhere(t, nil)
	port := first.Addr().(*net.TCPAddr).Port
	node := open(t, natsbus.Options{URL: first.ClientURL()})
	busy, quiet := bustest.Record(), bustest.Record()
	bustest.Subscribe(t, node, "busy", busy)
	bustest.Subscribe(t, node, "quiet", quiet)

	first.Shutdown()
	first.WaitForShutdown()
	eventually(t, "the node knows it is disconnected", func() bool { return !node.Stats().Connected })
	if err := node.Publish(t.Context(), "busy", []byte("x")); !errors.Is(err, pubsub.ErrDisconnected) {
		t.Errorf("publish: got %v, want %v", err, pubsub.ErrDisconnected)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := node.Subscribe(short, "new", busy); !errors.Is(err, pubsub.ErrDisconnected) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("subscribe: got %v, want %v and %v", err, pubsub.ErrDisconnected, context.DeadlineExceeded)
	}
	patient := bustest.Record()
	subscribed := make(chan bool)
	go func() {
		defer close(subscribed)
		bustest.Subscribe(t, node, "patient", patient)
	}()

	second := elsewhere(t, &server.Options{Port: port})
	eventually(t, "the node is connected again", func() bool { return node.Stats().Connected })
	for name, r := range map[string]*bustest.Recorder{"busy": busy, "quiet": quiet} {
		if call := r.Next(t); call.Lost != 0 {
			t.Errorf("channel %s: got %+v, want Lost(0)", name, call)
		}
	}
	<-subscribed
	program, err := nats.Connect(second.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for channel, r := range map[string]*bustest.Recorder{"busy": busy, "quiet": quiet, "patient": patient} {
		if err := program.Publish(natsbus.Subject("", channel), []byte("from elsewhere")); err != nil {
			t.Fatal(err)
		}
		r.Want(t, "from elsewhere")
		bustest.Publish(t, node, channel, "from here")
		r.Want(t, "from here")
	}
	if got := node.Stats(); got.Reconnects != 1 || got.Channels != 3 {
		t.Errorf("got %+v, want 1 reconnect, 3 channels", got)
	}
}

// A server may end a connection with an error that nats.go does not know; it
// then gives up for good.
func TestAConnectionThatTheClientGaveUpIsMadeAgain(t *testing.T) {
	behind := elsewhere(t, nil)
	front := newProxy(t, behind.Addr().String())
	node := open(t, natsbus.Options{URL: "nats://" + front.listener.Addr().String()})
	r := bustest.Record()
	bustest.Subscribe(t, node, "room", r)
	front.say("-ERR 'Something New'\r\n")
	if call := r.Next(t); call.Lost != 0 {
		t.Errorf("got %+v, want Lost(0)", call)
	}
	program, err := nats.Connect(behind.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	if err := program.Publish("gripway.item.room", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	r.Want(t, "hello")
	bustest.Publish(t, node, "room", "from here")
	r.Want(t, "from here")
	if got := node.Stats(); got.Reconnects != 1 || !got.Connected {
		t.Errorf("got %+v, want 1 reconnect and connected", got)
	}
}

func TestAServerThatHangsIsGivenUpByClose(t *testing.T) {
	front := newProxy(t, elsewhere(t, nil).Addr().String())
	node := open(t, natsbus.Options{URL: "nats://" + front.listener.Addr().String()})
	front.hang()
	waiting := make(chan error)
	go func() {
		_, err := node.Subscribe(context.Background(), "room", bustest.Record())
		waiting <- err
	}()
	time.Sleep(20 * time.Millisecond) // so that it is waiting
	begin := time.Now()
	node.Close()
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("Close took %v", took)
	}
	if err := <-waiting; !errors.Is(err, pubsub.ErrClosed) {
		t.Errorf("subscribe: got %v, want %v", err, pubsub.ErrClosed)
	}
}

func TestWhatTheServerDeniesIsAnError(t *testing.T) {
	s := elsewhere(t, &server.Options{Users: []*server.User{{
		Username: "gateway", Password: "pw",
		Permissions: &server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"gripway.item.secret.>"}}},
	}}})
	node := open(t, natsbus.Options{URL: s.ClientURL(), User: "gateway", Password: "pw"})
	var working sync.WaitGroup
	for i := range 20 { // in one round trip or several
		working.Go(func() {
			if _, err := node.Subscribe(t.Context(), fmt.Sprint("secret.", i), bustest.Record()); !errors.Is(err, pubsub.ErrDenied) {
				t.Errorf("secret.%d: got %v, want %v", i, err, pubsub.ErrDenied)
			}
		})
		working.Go(func() {
			if _, err := node.Subscribe(t.Context(), fmt.Sprint("open.", i), bustest.Record()); err != nil {
				t.Errorf("open.%d: %v", i, err)
			}
		})
	}
	working.Wait()
	if got := node.Stats().Channels; got != 20 {
		eventually(t, "denied channels are forgotten", func() bool { return node.Stats().Channels == 20 })
	}
}

func TestAServerThatIsFullIsAnError(t *testing.T) {
	s := elsewhere(t, &server.Options{MaxSubs: 2})
	node := open(t, natsbus.Options{URL: s.ClientURL()})
	var denied int
	for i := range 4 {
		_, err := node.Subscribe(t.Context(), fmt.Sprint("room-", i), bustest.Record())
		if err != nil && !errors.Is(err, pubsub.ErrDenied) {
			t.Fatalf("got %v, want %v", err, pubsub.ErrDenied)
		}
		if err != nil {
			denied++
		}
	}
	if denied == 0 {
		t.Error("four subscriptions on a server that takes two")
	}
}

func TestAnItemOverTheServersLimitSaysSo(t *testing.T) {
	s := elsewhere(t, &server.Options{MaxPayload: 1000})
	node := open(t, natsbus.Options{URL: s.ClientURL()})
	err := node.Publish(t.Context(), "room", make([]byte, 1001))
	if !errors.Is(err, pubsub.ErrItemTooLong) || !strings.Contains(err.Error(), "1001") || !strings.Contains(err.Error(), "1000 ") {
		t.Errorf("got %v, want %v with both numbers", err, pubsub.ErrItemTooLong)
	}
	if err := node.Publish(t.Context(), "room", make([]byte, 1000)); err != nil {
		t.Error(err)
	}
}

func TestAThousandSubscribesNeedFewRoundTrips(t *testing.T) {
	s := elsewhere(t, nil)
	node := open(t, natsbus.Options{URL: s.ClientURL()})
	var working sync.WaitGroup
	begin := time.Now()
	for i := range 1000 {
		working.Go(func() { bustest.Subscribe(t, node, fmt.Sprint("room-", i), bustest.Record()) })
	}
	working.Wait()
	t.Logf("%d round trips, %v", node.Confirms(), time.Since(begin))
	if got := node.Confirms(); got > 100 {
		t.Errorf("%d round trips for 1000 subscriptions at once, want at most 100", got)
	}
	if got := s.NumSubscriptions(); got < 1000 {
		t.Errorf("the server knows of %d subscriptions, want 1000", got)
	}
}

func TestLeavingTellsTheServer(t *testing.T) {
	s := elsewhere(t, nil)
	node := open(t, natsbus.Options{URL: s.ClientURL()})
	bustest.Subscribe(t, node, "another", bustest.Record())
	before := s.NumSubscriptions()
	first := bustest.Subscribe(t, node, "room", bustest.Record())
	second := bustest.Subscribe(t, node, "room", bustest.Record())
	if got := s.NumSubscriptions() - before; got != 1 {
		t.Errorf("two receivers of a channel: %d subscriptions, want 1", got)
	}
	first.Unsubscribe()
	second.Unsubscribe()
	eventually(t, "the server has no subscription left", func() bool { return s.NumSubscriptions() == before })
	if got := node.Stats().Channels; got != 1 {
		t.Errorf("%d channels left, want 1", got)
	}
}

// The subject of a publish lies in a buffer that is used again at once: if
// anybody kept it, items would go astray here.
func TestItemsGoWhereTheyShould(t *testing.T) {
	url := elsewhere(t, nil).ClientURL()
	from, to := open(t, natsbus.Options{URL: url}), open(t, natsbus.Options{URL: url})
	const channels, publishers, items = 50, 4, 2000
	var all [channels]*bustest.Recorder
	for i := range all {
		all[i] = bustest.Record()
		bustest.Subscribe(t, to, fmt.Sprint("room-", i), all[i])
	}
	var publishing sync.WaitGroup
	for p := range publishers {
		publishing.Go(func() {
			for n := range items {
				channel := fmt.Sprint("room-", (n*7+p)%channels)
				bustest.Publish(t, from, channel, channel)
			}
		})
	}
	publishing.Wait()
	for i, r := range all {
		for range publishers * items / channels {
			r.Want(t, fmt.Sprint("room-", i))
		}
	}
}

func TestPublishToOthersDoesNotAllocate(t *testing.T) {
	if race {
		t.Skip("the race detector allocates")
	}
	node := open(t, listening)
	data := make([]byte, 200)
	got := testing.AllocsPerRun(1000, func() {
		if err := node.Publish(context.Background(), "news.user-17", data); err != nil {
			t.Fatal(err)
		}
	})
	if got >= 2 { // the server, in this process, has one for each item, and others a few of their own
		t.Errorf("got %v allocations an item, want none but the server's", got)
	}
}

func TestWhatIsWrongIsNamed(t *testing.T) {
	taken := elsewhere(t, nil).Addr().String()
	for why, c := range map[string]struct {
		o    natsbus.Options
		want string
	}{
		"a server that is not there":         {natsbus.Options{URL: "nats://user:geheim@127.0.0.1:1"}, `"nats://xxxxx@127.0.0.1:1"`},
		"both kinds of server":               {natsbus.Options{URL: "nats://127.0.0.1:1", Embedded: listening.Embedded}, "only one"},
		"a wildcard in the prefix":           {natsbus.Options{SubjectPrefix: "a.>"}, `'>'`},
		"an empty part in the prefix":        {natsbus.Options{SubjectPrefix: "a..b"}, "empty part"},
		"a port that is taken":               {natsbus.Options{Embedded: natsbus.Embedded{Listen: taken}}, "address already in use"},
		"a cluster port that is taken":       {natsbus.Options{Embedded: natsbus.Embedded{ClusterListen: taken}}, "address already in use"},
		"an address without a port":          {natsbus.Options{Embedded: natsbus.Embedded{Listen: "localhost"}}, `listen address "localhost"`},
		"peers but no listener":              {natsbus.Options{Embedded: natsbus.Embedded{Peers: []string{"a:1"}}}, "without a cluster listener"},
		"a peer without a port":              {natsbus.Options{Embedded: natsbus.Embedded{ClusterListen: "127.0.0.1:0", Peers: []string{"a"}}}, `peer address "a"`},
		"a peer of another kind":             {natsbus.Options{Embedded: natsbus.Embedded{ClusterListen: "127.0.0.1:0", Peers: []string{"http://a:geheim@b:1"}}}, `peer "http://xxxxx@b:1"`},
		"two ways to say who":                {natsbus.Options{URL: "nats://127.0.0.1:1", Token: "a", User: "b"}, "only one"},
		"a creds file that is not there":     {natsbus.Options{URL: "nats://" + taken, CredsFile: "/nowhere.creds"}, "/nowhere.creds"},
		"an nkey file that is not there":     {natsbus.Options{URL: "nats://" + taken, NKeyFile: "/nowhere.nk"}, "/nowhere.nk"},
		"a CA that is not there":             {natsbus.Options{URL: "nats://" + taken, TLS: natsbus.TLS{CA: "/nowhere.pem"}}, "/nowhere.pem"},
		"half a certificate":                 {natsbus.Options{URL: "nats://" + taken, TLS: natsbus.TLS{Cert: "a.pem"}}, `"a.pem"`},
		"TLS without a certificate":          {natsbus.Options{Embedded: natsbus.Embedded{Listen: "127.0.0.1:0", TLS: natsbus.TLS{Insecure: true}}}, "needs a certificate"},
		"embedded options, nothing embedded": {natsbus.Options{Embedded: natsbus.Embedded{ClusterSecret: "x"}}, "without a listener"},
	} {
		bus, err := natsbus.Open(c.o)
		if err == nil {
			bus.Close()
			t.Errorf("%s: no error", why)
			continue
		}
		if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: got %q, want %q in it and no password", why, err, c.want)
		}
	}
}

// proxy stands between a node and a server.
type proxy struct {
	listener net.Listener
	behind   string
	copying  sync.WaitGroup

	mu     sync.Mutex
	client net.Conn
	server net.Conn
	hung   bool
}

func newProxy(t *testing.T, behind string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, behind: behind}
	p.copying.Go(p.accept)
	t.Cleanup(func() {
		listener.Close()
		p.mu.Lock()
		p.client.Close()
		p.server.Close()
		p.mu.Unlock()
		p.copying.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.behind)
		if err != nil {
			client.Close()
			return
		}
		p.mu.Lock()
		p.client, p.server = client, server
		p.mu.Unlock()
		p.copying.Go(func() { p.copy(server, client) })
		p.copying.Go(func() { p.copy(client, server) })
	}
}

func (p *proxy) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		if !p.hung {
			to.Write(buffer[:n])
		}
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// say has the server say something to the node.
func (p *proxy) say(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	io.WriteString(p.client, line)
}

// hang lets nothing through any more.
func (p *proxy) hang() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hung = true
}
