package zmq_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/gateway/zmq"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
	"github.com/gripway/gripway/pubsub/bustest"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

const anyPort = "tcp://127.0.0.1:0"

// python finds an interpreter that has libzmq.
var python = sync.OnceValue(func() string {
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(name, "-c", "import zmq").Run() == nil {
			return name
		}
	}
	return ""
})

// peer is a socket of libzmq in a process of its own.
type peer struct {
	endpoint string
	in       io.WriteCloser
	lines    chan string // closed when the process has closed its output
	cmd      *exec.Cmd
}

func startPeer(t *testing.T, kind, way, endpoint string, options ...string) *peer {
	t.Helper()
	if python() == "" {
		t.Skip("SKIPPED: no python3 with the module zmq (Debian: python3-zmq), so ZeroMQ itself is not here to talk to")
	}
	p := &peer{cmd: exec.Command(python(), append([]string{"testdata/peer.py", kind, way, endpoint}, options...)...), lines: make(chan string, 1000)}
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	p.cmd.Stderr = &stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the process
		defer close(p.lines)
		scanner := bufio.NewScanner(out)
		scanner.Buffer(nil, 64<<20)
		for scanner.Scan() {
			p.lines <- scanner.Text()
		}
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() && stderr.Len() > 0 {
			t.Logf("%s peer: %s", kind, stderr.String())
		}
	})
	p.endpoint = p.line(t)
	return p
}

func (p *peer) kill() {
	p.cmd.Process.Kill()
	for range p.lines {
	}
	p.cmd.Wait()
}

func (p *peer) send(t *testing.T, parts ...string) {
	t.Helper()
	for i, part := range parts {
		parts[i] = hex.EncodeToString([]byte(part))
	}
	if _, err := fmt.Fprintln(p.in, strings.Join(parts, ",")); err != nil {
		t.Fatal(err)
	}
}

func (p *peer) line(t *testing.T) string {
	t.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			t.Fatal("the peer has ended")
		}
		return line
	case <-time.After(patience):
		t.Fatal("the peer says nothing")
		return ""
	}
}

// want waits for a message.
func (p *peer) want(t *testing.T, parts ...string) {
	t.Helper()
	var got []string
	for part := range strings.SplitSeq(p.line(t), ",") {
		data, err := hex.DecodeString(part)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(data))
	}
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", parts) {
		t.Fatalf("got %q, want %q", got, parts)
	}
}

// world is an intake with a bus of its own.
type world struct {
	*zmq.Intake
	bus      *pubsub.Memory
	registry *metrics.Registry
	log      *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// start starts an intake; nothing of it may be left at the test's end.
func start(t *testing.T, options zmq.Options, actions zmq.Actions) *world {
	t.Helper()
	before := goleak.IgnoreCurrent()
	w := &world{bus: pubsub.NewMemory(), registry: metrics.New(), log: &lockedBuffer{}}
	if options.Bus == nil {
		options.Bus = w.bus
	}
	options.Metrics, options.Log = w.registry, slog.New(slog.NewTextHandler(w.log, nil))
	var err error
	if w.Intake, err = zmq.New(options); err != nil {
		t.Fatal(err)
	}
	if err := w.Start(actions); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.Close()
		w.Bus().Close()
		goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("os/exec.(*Cmd).watchCtx"))
		if t.Failed() {
			t.Log(w.log)
		}
	})
	return w
}

func (w *world) url(t *testing.T, kind string) string {
	t.Helper()
	for _, endpoint := range w.Endpoints() {
		if endpoint.Socket == kind {
			return endpoint.URL
		}
	}
	t.Fatalf("nothing is bound for %s", kind)
	return ""
}

// metric waits until a metric has a value.
func (w *world) metric(t *testing.T, name, want string) {
	t.Helper()
	line := regexp.MustCompile("(?m)^gripway_" + regexp.QuoteMeta(name) + " (.*)$")
	got := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) { // a poll: metrics do not tell
		recorder := httptest.NewRecorder()
		w.registry.Handler().ServeHTTP(recorder, httptest.NewRequest("GET", "/", nil))
		if match := line.FindStringSubmatch(recorder.Body.String()); match != nil {
			if got = match[1]; got == want {
				return
			}
		}
	}
	t.Fatalf("%s: got %q, want %q", name, got, want)
}

// tnet writes a tnetstring of what tests need.
func tnet(value any) string {
	switch v := value.(type) {
	case string:
		return fmt.Sprintf("%d:%s,", len(v), v)
	case bool:
		return fmt.Sprintf("%d:%v!", len(fmt.Sprint(v)), v)
	case []any: // a list
		inner := ""
		for _, element := range v {
			inner += tnet(element)
		}
		return fmt.Sprintf("%d:%s]", len(inner), inner)
	case pairs:
		inner := ""
		for _, element := range v {
			inner += tnet(element)
		}
		return fmt.Sprintf("%d:%s}", len(inner), inner)
	}
	return "0:~"
}

type pairs []any

// stream is an item with content for streams.
func stream(channel, content string) string {
	item := pairs{"formats", pairs{"http-stream", pairs{"content", content}}}
	if channel != "" {
		item = append(pairs{"channel", channel}, item...)
	}
	return tnet(item)
}

// ear hears the contents for streams.
type ear struct{ bustest.Recorder }

func (e *ear) want(t *testing.T, want string) {
	t.Helper()
	call := e.Next(t)
	item, err := grip.ParseItem(call.Data)
	if err != nil {
		t.Fatalf("%+v: %v", call, err)
	}
	if got := string(item.Stream.Content); got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func hear(t *testing.T, bus pubsub.Bus, channel string) (*ear, pubsub.Subscription) {
	t.Helper()
	e := &ear{}
	return e, bustest.Subscribe(t, bus, channel, e)
}

func TestWhatIsPushedIsPublished(t *testing.T) {
	w := start(t, zmq.Options{Pull: []string{anyPort}}, zmq.Actions{})
	e, _ := hear(t, w.bus, "room")
	p := startPeer(t, "PUSH", "connect", w.url(t, "PULL"))
	long := strings.Repeat("x", 100_000)
	p.send(t, stream("room", "one"))
	p.send(t, "T"+stream("room", "two"))
	p.send(t, `J{"channel":"room","http-stream":{"content":"three"}}`)
	p.send(t, "garbage")
	p.send(t, stream("room", "in two parts"), "")
	p.send(t, stream("", "without a channel"))
	p.send(t, "")
	p.send(t, stream("room", long))
	for _, want := range []string{"one", "two", "three", long} {
		e.want(t, want)
	}
	w.metric(t, `zmq_items_total{socket="PULL"}`, "4")
	w.metric(t, `zmq_refused_total{reason="invalid"}`, "3")
	w.metric(t, `zmq_refused_total{reason="parts"}`, "1")
	w.metric(t, `zmq_connections{socket="PULL"}`, "1")
	if !strings.Contains(w.log.String(), "message skipped") {
		t.Error("nothing was logged of what was skipped")
	}
}

func TestWhatPushpinPublishSendsIsPublished(t *testing.T) {
	program, err := exec.LookPath("pushpin-publish")
	if err != nil {
		t.Skip("SKIPPED: no pushpin-publish (Debian: pushpin), which speaks the real thing")
	}
	w := start(t, zmq.Options{Pull: []string{anyPort}}, zmq.Actions{})
	e := bustest.Record()
	bustest.Subscribe(t, w.bus, "room", e)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--spec="+w.url(t, "PULL"), "--id=2", "--prev-id=1", "--code=201", "-HX-A: b", "-Mk=v", "--", "room", "hällo")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	item, err := grip.ParseItem(e.Next(t).Data)
	if err != nil {
		t.Fatal(err)
	}
	got := string(item.AppendJSON(nil))
	want := `{"channel":"room","id":"2","prev-id":"1","meta":{"k":"v"},"formats":{"http-response":{"code":201,"headers":{"X-A":"b"},"body":"hällo\n"},` +
		`"http-stream":{"content":"hällo\n"},"ws-message":{"content":"hällo"}}}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAMessageThatIsTooLargeIsPassedOver(t *testing.T) {
	w := start(t, zmq.Options{Pull: []string{anyPort}, MessageBytes: 1000}, zmq.Actions{})
	e, _ := hear(t, w.bus, "room")
	p := startPeer(t, "PUSH", "connect", w.url(t, "PULL"))
	p.send(t, stream("room", strings.Repeat("x", 5000)))
	p.send(t, strings.Repeat("x", 600), strings.Repeat("x", 600), "end")
	p.send(t, stream("room", "small"))
	e.want(t, "small")
	w.metric(t, `zmq_refused_total{reason="too_large"}`, "2")
}

// busyBus refuses a few times.
type busyBus struct {
	pubsub.Bus
	mu    sync.Mutex
	times int
}

func (b *busyBus) Publish(ctx context.Context, channel string, data []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.times > 0 {
		b.times--
		return fmt.Errorf("test: %w", pubsub.ErrBusy)
	}
	return b.Bus.Publish(ctx, channel, data)
}

func TestABusyBusIsWaitedFor(t *testing.T) {
	bus := &busyBus{Bus: pubsub.NewMemory(), times: 5}
	w := start(t, zmq.Options{Bus: bus, Pull: []string{anyPort}}, zmq.Actions{})
	e, _ := hear(t, bus, "room")
	p := startPeer(t, "PUSH", "connect", w.url(t, "PULL"))
	for i := range 10 {
		p.send(t, stream("room", fmt.Sprint(i)))
	}
	for i := range 10 {
		e.want(t, fmt.Sprint(i))
	}
	w.metric(t, "zmq_waiting", "0")
	w.metric(t, `zmq_refused_total{reason="bus"}`, "0")
}

func TestPublishersSeeWhatIsSubscribed(t *testing.T) {
	w := start(t, zmq.Options{Sub: []string{anyPort}}, zmq.Actions{})
	before, gone := hear(t, w.Bus(), "early")
	p := startPeer(t, "XPUB", "connect", w.url(t, "SUB"), "XPUB_VERBOSE=1")
	p.want(t, "\x01early")
	e, first := hear(t, w.Bus(), "fc")
	p.want(t, "\x01fc")
	_, second := hear(t, w.Bus(), "fc") // is not told again
	all, _ := hear(t, w.Bus(), "")      // is never told

	p.send(t, "fcother", stream("fc", "another channel"))
	p.send(t, "fc", stream("elsewhere", "its own channel does not count"))
	p.send(t, "fc", `J{"channel":"elsewhere","http-stream":{"content":"in JSON"}}`)
	p.send(t, "fc", "garbage")
	p.send(t, "fc", stream("", "three"), "parts")
	p.send(t, "early", "T"+stream("", "early"))
	e.want(t, "its own channel does not count")
	e.want(t, "in JSON")
	before.want(t, "early")
	w.metric(t, "zmq_unheard_total", "1")
	w.metric(t, `zmq_refused_total{reason="invalid"}`, "1")
	w.metric(t, `zmq_refused_total{reason="parts"}`, "1")
	if n := all.Len(); n != 0 {
		t.Errorf("the channel without a name heard %d items", n)
	}

	second.Unsubscribe()
	second.Unsubscribe()
	gone.Unsubscribe()
	p.want(t, "\x00early")
	first.Unsubscribe()
	p.want(t, "\x00fc")
}

func TestWhatASubSocketHearsDoesNotGoToTheBus(t *testing.T) {
	w := start(t, zmq.Options{Sub: []string{anyPort}}, zmq.Actions{})
	elsewhere := bustest.Record() // another node
	bustest.Subscribe(t, w.bus, "fc", elsewhere)
	here, _ := hear(t, w.Bus(), "fc")
	p := startPeer(t, "XPUB", "connect", w.url(t, "SUB"))
	p.want(t, "\x01fc")
	p.send(t, "fc", stream("", "over ZeroMQ"))
	here.want(t, "over ZeroMQ")
	bustest.Publish(t, w.Bus(), "fc", "over the bus")
	elsewhere.Want(t, "over the bus")
	here.Want(t, "over the bus")
}

func TestASubSocketConnectsAgainAndTellsOfTheHole(t *testing.T) {
	p := startPeer(t, "XPUB", "bind", anyPort)
	w := start(t, zmq.Options{SubConnect: []string{p.endpoint}}, zmq.Actions{})
	w.metric(t, `zmq_connections{socket="SUB"}`, "1")
	e, _ := hear(t, w.Bus(), "fc")
	p.want(t, "\x01fc")
	p.send(t, "fc", stream("", "before"))
	// A word of a hole may come first: the channel may have been there first.
	for {
		if call := e.Next(t); call.Data != nil {
			break
		}
	}
	p.kill()
	again := startPeer(t, "XPUB", "bind", p.endpoint)
	again.want(t, "\x01fc")
	if call := e.Next(t); call.Lost != 0 {
		t.Errorf("got %+v, want word of a hole", call)
	}
	again.send(t, "fc", stream("", "after"))
	e.want(t, "after")
}

func TestAPublisherOfManyChannelsIsToldThemAll(t *testing.T) {
	const channels = 3000
	w := start(t, zmq.Options{Sub: []string{anyPort}}, zmq.Actions{})
	want := map[string]bool{}
	e := &ear{}
	for i := range channels {
		name := fmt.Sprintf("%d-%s", i, strings.Repeat("x", i%400))
		bustest.Subscribe(t, w.Bus(), name, e)
		want[name] = true
	}
	p := startPeer(t, "XPUB", "connect", w.url(t, "SUB"))
	for range channels {
		data, err := hex.DecodeString(p.line(t))
		if err != nil {
			t.Fatal(err)
		}
		delete(want, string(data[1:]))
	}
	if len(want) > 0 {
		t.Errorf("%d channels were not told", len(want))
	}
}

// ask sends a command and returns its answer.
func ask(t *testing.T, p *peer, method string, args any) string {
	t.Helper()
	p.send(t, tnet(pairs{"id", "7", "method", method, "args", args}))
	data, err := hex.DecodeString(p.line(t))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestCommandsAreAnswered(t *testing.T) {
	recovered := 0
	w := start(t, zmq.Options{Pull: []string{anyPort}, Sub: []string{anyPort}, Command: anyPort}, zmq.Actions{
		Recover: func() { recovered++ },
		Alive: func(ids []string) []string {
			var alive []string
			for _, id := range ids {
				if id == "here" {
					alive = append(alive, id)
				}
			}
			return alive
		},
		Refresh: func(id string) bool { return id == "here" },
	})
	success := func(value any) string { return tnet(pairs{"id", "7", "success", true, "value", value}) }
	refused := func(condition string, why ...any) string {
		answer := pairs{"condition", condition, "id", "7", "success", false}
		if len(why) > 0 {
			answer = append(answer, "value", why[0])
		}
		return tnet(answer)
	}
	room, _ := hear(t, w.bus, "room")
	item := pairs{"channel", "room", "formats", pairs{"http-stream", pairs{"content", "x"}}}
	p := startPeer(t, "REQ", "connect", w.url(t, "REP"))
	for _, test := range []struct {
		name, method string
		args         any
		want         string
	}{
		{"those that are there", "conncheck", pairs{"ids", []any{"gone", "here"}}, success([]any{"here"})},
		{"nobody is there", "conncheck", pairs{"ids", []any{"gone"}}, success([]any{})},
		{"no ids", "conncheck", pairs{}, refused("bad-request", "conncheck has ids, a list of at most 100000")},
		{"where to publish", "get-zmq-uris", pairs{}, success(pairs{
			"command", w.url(t, "REP"), "publish-pull", w.url(t, "PULL"), "publish-sub", w.url(t, "SUB")})},
		{"recover", "recover", nil, success(nil)},
		{"refresh a connection", "refresh", pairs{"cid", "here"}, success(nil)},
		{"refresh one that is not there", "refresh", pairs{"cid", "gone"}, refused("item-not-found")},
		{"refresh nothing", "refresh", pairs{}, refused("bad-request", "refresh has a cid or a channel")},
		{"refresh a channel", "refresh", pairs{"channel", "refreshed"}, success(nil)},
		{"publish", "publish", pairs{"items", []any{item}}, success(nil)},
		{"publish nothing", "publish", pairs{"items", []any{}}, success(nil)},
		{"publish no list", "publish", pairs{}, refused("bad-request", "Invalid format: object contains 'items' with wrong type")},
		{"one bad item and none is published", "publish", pairs{"items", []any{item, pairs{"channel", "room"}}},
			refused("bad-request", "Invalid format: no formats specified")},
		{"a method that is not there", "report", pairs{}, refused("method-not-found")},
	} {
		if got := ask(t, p, test.method, test.args); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
	room.want(t, "x")
	if room.Len() != 0 || recovered != 1 {
		t.Errorf("%d items too many, recovered %d times, want 1", room.Len(), recovered)
	}

	p.send(t, "garbage")
	if data, _ := hex.DecodeString(p.line(t)); !strings.Contains(string(data), tnet("bad-request")) {
		t.Errorf("got %q for garbage", data)
	}
	// A DEALER, and proxies, have a way back of several parts.
	d := startPeer(t, "DEALER", "connect", w.url(t, "REP"))
	d.send(t, "no way back")
	d.send(t, "way", "back", "", tnet(pairs{"id", "8", "method", "recover"}))
	d.want(t, "way", "back", "", tnet(pairs{"id", "8", "success", true, "value", nil}))
}

func TestRefreshOfAChannelIsAnItem(t *testing.T) {
	w := start(t, zmq.Options{Command: anyPort}, zmq.Actions{})
	e := bustest.Record()
	bustest.Subscribe(t, w.bus, "room", e)
	p := startPeer(t, "REQ", "connect", w.url(t, "REP"))
	ask(t, p, "refresh", pairs{"channel", "room"})
	item, err := grip.ParseItem(e.Next(t).Data)
	if err != nil || item.Message == nil || item.Message.Action != grip.ActionRefresh {
		t.Errorf("got %+v, %v", item, err)
	}
	if got := ask(t, p, "conncheck", pairs{"ids", []any{}}); !strings.Contains(got, "method-not-found") {
		t.Errorf("conncheck without a gateway that can: got %q", got)
	}
}

func TestPingsAreAnswered(t *testing.T) {
	w := start(t, zmq.Options{Pull: []string{anyPort}}, zmq.Actions{})
	e, _ := hear(t, w.bus, "room")
	// ZeroMQ cuts a peer that does not answer in time, and would connect again.
	p := startPeer(t, "PUSH", "connect", w.url(t, "PULL"), "HEARTBEAT_IVL=50", "HEARTBEAT_TIMEOUT=1000")
	p.send(t, stream("room", "one"))
	e.want(t, "one")
	time.Sleep(1500 * time.Millisecond) // time is what it is about
	p.send(t, stream("room", "two"))
	e.want(t, "two")
	w.metric(t, `zmq_connections{socket="PULL"}`, "1")
	w.metric(t, `zmq_connections_cut_total{reason="broken"}`, "0")
}

func TestAUnixSocketIsAnEndpoint(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pull")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close() // its file stays, as a dead process's does
	w := start(t, zmq.Options{Pull: []string{"ipc://" + path}}, zmq.Actions{})
	e, _ := hear(t, w.bus, "room")
	p := startPeer(t, "PUSH", "connect", "ipc://"+path)
	p.send(t, stream("room", "one"))
	e.want(t, "one")

	other, err := zmq.New(zmq.Options{Bus: w.bus, Pull: []string{anyPort, "ipc://" + path}})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(zmq.Actions{}); err == nil || len(other.Endpoints()) > 0 {
		t.Errorf("got %v with %v bound, want a refusal: somebody listens there", err, other.Endpoints())
	}
	other.Close()
}

func TestABadEndpointIsRefused(t *testing.T) {
	for _, endpoint := range []string{"", "127.0.0.1:5560", "tcp://127.0.0.1", "udp://127.0.0.1:1", "ipc://", "inproc://x"} {
		if _, err := zmq.New(zmq.Options{Bus: pubsub.NewMemory(), Pull: []string{endpoint}}); !errors.Is(err, zmq.ErrEndpoint) {
			t.Errorf("%q: got %v, want %v", endpoint, err, zmq.ErrEndpoint)
		}
	}
}

func TestWithoutSubSocketTheBusIsTheBus(t *testing.T) {
	bus := pubsub.NewMemory()
	defer bus.Close()
	intake, err := zmq.New(zmq.Options{Bus: bus})
	if err != nil {
		t.Fatal(err)
	}
	if intake.Bus() != pubsub.Bus(bus) {
		t.Error("got a bus around the bus")
	}
}

func TestTheBusBesideASubSocketIsABus(t *testing.T) {
	bustest.Run(t, func(t *testing.T) pubsub.Bus {
		intake, err := zmq.New(zmq.Options{Bus: pubsub.NewMemory(), Sub: []string{anyPort}})
		if err != nil {
			t.Fatal(err)
		}
		return intake.Bus()
	})
}
