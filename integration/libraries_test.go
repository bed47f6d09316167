package integration

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/gripway/gripway/integration/harness"
)

// These tests hold the gateway to libraries that others have written: as they are
// in the registries, in versions that libraries/package-lock.json and
// libraries/requirements.txt name. Who has no node, npm or Python is told that the
// tests were left out.

// libraryWait is how long a program of libraries may take for one line.
const libraryWait = 60 * time.Second

// librariesDir has the programs of libraries with what npm installed for them.
var librariesDir = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp(filepath.Dir(built.program), "libraries-") // removed with it
	if err != nil {
		return "", err
	}
	if err := os.CopyFS(dir, os.DirFS("libraries")); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund")
	command.Dir = dir
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return dir, nil
})

// needPrograms skips a test, loudly, where a program is missing.
func needPrograms(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("SKIPPED, other people's libraries are not tried: no %s here: %v", name, err)
		}
	}
}

// talker is a program of libraries: it is told lines and says lines.
type talker struct {
	t     *testing.T
	in    io.WriteCloser
	lines chan string // closed at the program's end
	said  strings.Builder
}

// startNode runs a program of libraries.
func startNode(t *testing.T, env []string, args ...string) *talker {
	t.Helper()
	needPrograms(t, "node", "npm")
	dir, err := librariesDir()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command("node", args...)
	command.Dir = dir
	return startTalker(t, command, env)
}

func startTalker(t *testing.T, command *exec.Cmd, env []string) *talker {
	t.Helper()
	command.Env = append(os.Environ(), env...)
	in, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr := new(strings.Builder)
	command.Stderr = stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	p := &talker{t: t, in: in, lines: make(chan string, 1000)}
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(p.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.lines <- lines.Text()
		}
	})
	t.Cleanup(func() {
		in.Close()
		command.Process.Kill()
		for range p.lines { // so that it does not wait for us
		}
		reading.Wait()
		command.Wait()
		if t.Failed() {
			t.Logf("%v said:\n%s\nand on standard error:\n%s", command.Args, p.said.String(), tail(stderr.String(), logLines))
		}
	})
	return p
}

// tell writes a line for the program.
func (p *talker) tell(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

// says wants these lines, in this order and without others.
func (p *talker) says(want ...string) {
	p.t.Helper()
	for _, line := range want {
		got, err := p.next()
		if err != nil {
			p.t.Fatalf("%v, want %q", err, line)
		}
		if got != line {
			p.t.Fatalf("got %q, want %q", got, line)
		}
	}
}

func (p *talker) next() (string, error) {
	select {
	case line, ok := <-p.lines:
		if !ok {
			return "", errors.New("the program has ended")
		}
		p.said.WriteString(line + "\n")
		return line, nil
	case <-time.After(libraryWait):
		return "", fmt.Errorf("no line after %v", libraryWait)
	}
}

// startFor starts a gateway that a test has for itself.
func startFor(t *testing.T, options harness.GatewayOptions) *harness.Gateway {
	t.Helper()
	path, peer, err := program()
	if err != nil {
		t.Fatal(err)
	}
	options.Program, options.Peer = path, peer
	if options.Dir == "" {
		options.Dir = t.TempDir()
	}
	g, err := harness.StartGateway(options)
	if g != nil {
		t.Cleanup(func() {
			if err := g.Close(); err != nil {
				t.Error(err)
			}
			if t.Failed() {
				t.Logf("log of the gateway:\n%s", tail(g.Log(), logLines))
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// startOriginFor starts an origin that a test has for itself.
func startOriginFor(t *testing.T) *harness.Origin {
	t.Helper()
	o, err := harness.StartOrigin(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

func eventsReply(has string, header harness.Header, events ...harness.Event) harness.Reply {
	var body []byte
	for _, event := range events {
		body = harness.AppendEvent(body, event)
	}
	return harness.Reply{
		Method: "POST", Target: "/sock*", Has: has, Status: 200,
		Header: append(harness.Header{{Name: "Content-Type", Value: eventsType}}, header...),
		Steps:  []harness.Step{{Do: harness.Body, Bytes: body}},
	}
}

func TestTheSockJSClientTalksOnEachTransport(t *testing.T) {
	for _, transport := range []string{"websocket", "xhr-streaming", "xhr-polling", "eventsource"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			needPrograms(t, "node", "npm")
			origin := startOriginFor(t)
			origin.On(eventsReply("OPEN", harness.Header{{Name: "Sec-WebSocket-Extensions", Value: "grip"}},
				harness.Event{Type: "OPEN"}, harness.Event{Type: "TEXT", Content: []byte(`c:{"type":"subscribe","channel":"room"}`)}))
			origin.On(eventsReply("bye", nil, harness.Event{Type: "CLOSE", Content: harness.CloseContent(4000, "go")}))
			origin.On(eventsReply("hello", nil, harness.Event{Type: "TEXT", Content: []byte("m:hello back")}))
			origin.On(eventsReply("", nil))
			g := startFor(t, harness.GatewayOptions{Routes: []string{"*,sockjs=/sock " + origin.Addr() + ",over_http"}})
			if g.Peer && (transport == "xhr-streaming" || transport == "eventsource") {
				t.Skip("the peer has no " + transport)
			}
			client := startNode(t, nil, "sockjs.cjs", "http://"+g.Addr+"/sock", transport)
			client.says("open " + transport)
			client.tell("hello")
			client.says(`message "hello back"`)
			for i := range 3 {
				text := fmt.Sprintf("item %d \u2028 \u200d ünï", i)
				if err := post(g, fmt.Appendf(nil, `{"items":[{"channel":"room","formats":{"ws-message":{"content":%q}}}]}`, text)); err != nil {
					t.Fatal(err)
				}
				want := fmt.Sprintf("message \"%s\"", text)
				got, err := client.next()
				if err != nil || strings.NewReplacer(`\u2028`, "\u2028").Replace(got) != want {
					t.Fatalf("got %q, %v, want %q", got, err, want)
				}
			}
			client.tell("bye")
			client.says("close 4000 go")
		})
	}
}

// TestLibrariesPublishAndInstruct has an origin and publisher of each library talk
// through the gateway, with keys as GRIP_URL carries them.
func TestLibrariesPublishAndInstruct(t *testing.T) {
	const secret = "c2VjcmV0IHRoYXQgaXMgKy1sb25nZXIrIHRoYW4gb3RoZXJz" // base64
	for _, library := range []struct {
		name, program string
		keepAlive     bool // its /headers asks for one
	}{
		{"grip 1.6 and pubcontrol 1.3", "old.cjs", false},
		{"@fanoutio/grip 4.3", "new.mjs", true},
	} {
		t.Run(library.name, func(t *testing.T) {
			t.Parallel()
			needPrograms(t, "node", "npm")
			if os.Getenv(peerEnv) != "" {
				t.Skip("the peer asks publishers for nothing")
			}
			port, err := harness.FreePort()
			if err != nil {
				t.Fatal(err)
			}
			g := startFor(t, harness.GatewayOptions{
				Routes: []string{fmt.Sprintf("* 127.0.0.1:%d,over_http", port)},
				Flags:  []string{"--sig-key", "base64:" + secret, "--sig-iss", "gripway", "--publisher", "app,jwt-key=base64:" + secret + ",iss=app"},
			})
			key := "base64:" + secret
			gripURL := fmt.Sprintf("http://%s/?iss=app&key=%s&verify-iss=gripway&verify-key=%s", g.ControlAddr, key, key)
			if library.program == "old.cjs" { // it knows iss and key only, and wants plus signs escaped
				gripURL = fmt.Sprintf("http://%s/?iss=app&key=%s", g.ControlAddr, url.QueryEscape(key))
			}
			env := []string{fmt.Sprintf("PORT=%d", port), "VERIFY_KEY=" + string(decodeBase64(t, secret)), "GRIP_URL=" + gripURL}
			p := startNode(t, env, library.program)
			p.says("listening")
			speak(t, g, p, port, library.keepAlive)

			// Another key is refused, and the library says so.
			stranger := startNode(t, append(env, fmt.Sprintf("GRIP_URL=http://%s/?iss=app&key=another", g.ControlAddr), "PORT=0"), library.program)
			stranger.says("listening")
			stranger.tell("news stream no")
			stranger.says("published false 401")
		})
	}
}

func decodeBase64(t *testing.T, text string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// speak has clients of all kinds talk to the origin that p is.
func speak(t *testing.T, g *harness.Gateway, p *talker, port int, keepAlive bool) {
	t.Helper()
	// Who goes around the gateway has no signature that the library takes.
	response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/stream", port))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusForbidden {
		t.Errorf("around the gateway: got %d, want 403", response.StatusCode)
	}

	publish := func(line string) {
		t.Helper()
		p.tell(line)
		p.says("published true 200")
	}
	stream := openStream(t, g, "/stream")
	stream.says("hello")
	publish("news stream one")
	stream.says("one")
	publish("news close")
	stream.ends()

	stream = openStream(t, g, "/headers")
	stream.says("hello")
	publish("more stream two")
	if keepAlive {
		stream.until("alive")
	}
	publish("news stream three")
	stream.until("three")

	// A long poll shows to nobody that it is held: it is published to until it is answered.
	answered := make(chan *http.Response, 1)
	go func() {
		response, err := http.Get("http://" + g.Addr + "/poll")
		if err != nil {
			t.Error(err)
		}
		answered <- response
	}()
	for response = nil; response == nil; {
		publish("news response four")
		select {
		case response = <-answered:
		case <-time.After(50 * time.Millisecond):
		}
	}
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil || response.StatusCode != 201 || response.Header.Get("X-Push") == "" || string(body) != "four\n" {
		t.Errorf("poll: got %d %v %q, %v", response.StatusCode, response.Header, body, err)
	}

	ws, _, err := websocket.DefaultDialer.Dial("ws://"+g.Addr+"/chat", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	ws.SetReadDeadline(time.Now().Add(libraryWait))
	reads := func(want string) {
		t.Helper()
		_, message, err := ws.ReadMessage()
		if err != nil || string(message) != want {
			t.Fatalf("WebSocket: got %q, %v, want %q", message, err, want)
		}
	}
	reads("welcome")
	ws.WriteMessage(websocket.TextMessage, []byte("hi there"))
	reads("ann: hi there")
	publish("news message five")
	reads("five")
	ws.WriteMessage(websocket.TextMessage, []byte("bye"))
	_, _, err = ws.ReadMessage()
	if !websocket.IsCloseError(err, 4000) {
		t.Errorf("WebSocket: got %v, want close 4000", err)
	}
}

// lineStream is a held stream, line by line.
type lineStream struct {
	t     *testing.T
	lines *bufio.Scanner
}

func openStream(t *testing.T, g *harness.Gateway, path string) *lineStream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), libraryWait)
	t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.Addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != 200 {
		t.Fatalf("%s: got %d, want 200", path, response.StatusCode)
	}
	return &lineStream{t, bufio.NewScanner(response.Body)}
}

func (s *lineStream) says(want string) {
	s.t.Helper()
	if !s.lines.Scan() || s.lines.Text() != want {
		s.t.Fatalf("stream: got %q, %v, want %q", s.lines.Text(), s.lines.Err(), want)
	}
}

// until passes over what comes before a line.
func (s *lineStream) until(want string) {
	s.t.Helper()
	for s.lines.Scan() {
		if s.lines.Text() == want {
			return
		}
	}
	s.t.Fatalf("stream: %v, want %q", s.lines.Err(), want)
}

func (s *lineStream) ends() {
	s.t.Helper()
	if s.lines.Scan() || s.lines.Err() != nil {
		s.t.Fatalf("stream: got %q, %v, want its end", s.lines.Text(), s.lines.Err())
	}
}

func TestTheLockFileOfLibrariesNamesNobodysRegistry(t *testing.T) {
	text, err := os.ReadFile("libraries/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), `"resolved"`) {
		t.Error(`libraries/package-lock.json: got "resolved", want none (npm install --omit-lockfile-registry-resolved=true writes it so)`)
	}
}

// pythonDir has what pip installed for the programs of libraries.
var pythonDir = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp(filepath.Dir(built.program), "python-") // removed with it
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for _, words := range [][]string{
		{"python3", "-m", "venv", dir},
		{filepath.Join(dir, "bin", "pip"), "install", "--quiet", "--disable-pip-version-check", "-r", "libraries/requirements.txt"},
	} {
		if out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w\n%s", strings.Join(words, " "), err, out)
		}
	}
	return dir, nil
})

// startPython runs a program of libraries. Python is not asked of who works on the
// project: without it, or without its packages, the test is left out, loudly.
func startPython(t *testing.T, env []string, program string) *talker {
	t.Helper()
	needPrograms(t, "python3")
	dir, err := pythonDir()
	if err != nil {
		t.Skipf("SKIPPED, Python's libraries are not tried: %v", err)
	}
	command := exec.Command(filepath.Join(dir, "bin", "python"), "-W", "ignore", program)
	command.Dir = "libraries"
	return startTalker(t, command, append(env, "PYTHONDONTWRITEBYTECODE=1"))
}

func TestGripcontrolOfPythonPublishesAndInstructs(t *testing.T) {
	t.Parallel()
	if os.Getenv(peerEnv) != "" {
		t.Skip("the peer asks publishers for nothing")
	}
	port, err := harness.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	g := startFor(t, harness.GatewayOptions{
		Routes: []string{fmt.Sprintf("* 127.0.0.1:%d,over_http", port)},
		Flags:  []string{"--sig-key", "verify me, please", "--publisher", "app,jwt-key=publish-with-me,iss=app"},
	})
	env := []string{
		fmt.Sprintf("PORT=%d", port), "VERIFY_KEY=verify me, please",
		fmt.Sprintf("GRIP_URL=http://%s/?iss=app&key=publish-with-me", g.ControlAddr),
	}
	p := startPython(t, env, "old.py")
	p.says("listening")
	speak(t, g, p, port, false)
	stranger := startPython(t, append(env, fmt.Sprintf("GRIP_URL=http://%s/?iss=app&key=another", g.ControlAddr), "PORT=0"), "old.py")
	stranger.says("listening")
	stranger.tell("news stream no")
	stranger.says("published false 401")
}

// TestDjangoEventstreamMissesNothing has a browser's EventSource lose its
// connection, and wants it to have every event all the same.
func TestDjangoEventstreamMissesNothing(t *testing.T) {
	t.Parallel()
	port, err := harness.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	g := startFor(t, harness.GatewayOptions{
		Routes: []string{fmt.Sprintf("* 127.0.0.1:%d,over_http", port)}, Flags: []string{"--sig-key", "changeme", "--sig-iss", "gripway"},
	})
	env := []string{
		fmt.Sprintf("PORT=%d", port), "DATABASE=" + filepath.Join(t.TempDir(), "events.db"),
		fmt.Sprintf("GRIP_URL=http://%s?key=changeme&verify-iss=gripway&verify-key=changeme", g.ControlAddr),
	}
	p := startPython(t, env, "events.py")
	p.says("listening")
	send := func(text string) {
		t.Helper()
		p.tell(text)
		p.says("sent")
	}
	ctx, cancel := context.WithCancel(t.Context())
	first := openEvents(t, ctx, g, "")
	first.until("event: stream-open")
	send("one")
	first.until(`data: {"text": "one"}`)
	send("two")
	last := first.untilPrefix("id: ")
	first.until(`data: {"text": "two"}`)
	cancel()
	send("three, while nobody listens")
	again := openEvents(t, t.Context(), g, strings.TrimPrefix(last, "id: "))
	again.until(`data: {"text": "three, while nobody listens"}`)
	send("four")
	again.until(`data: {"text": "four"}`)
}

func openEvents(t *testing.T, ctx context.Context, g *harness.Gateway, lastID string) *lineStream {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, libraryWait)
	t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.Addr+"/events/", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", "text/event-stream")
	if lastID != "" {
		request.Header.Set("Last-Event-ID", lastID)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != 200 || !strings.HasPrefix(response.Header.Get("Content-Type"), "text/event-stream") {
		t.Fatalf("events: got %d %v", response.StatusCode, response.Header)
	}
	return &lineStream{t, bufio.NewScanner(response.Body)}
}

// untilPrefix passes over what comes before a line that begins so, and returns that.
func (s *lineStream) untilPrefix(want string) string {
	s.t.Helper()
	for s.lines.Scan() {
		if strings.HasPrefix(s.lines.Text(), want) {
			return s.lines.Text()
		}
	}
	s.t.Fatalf("stream: %v, want %q", s.lines.Err(), want)
	return ""
}
