package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/gripway/gripway/integration/harness"
)

// This test gives Pushpin, as Debian has it, and the gateway by the name of pushpin the
// same pushpin.conf and the same routes, holds the same conversations with both,
// and compares what was said on all sides: to the client, and to the origin.

// sideConf is the pushpin.conf of both. Only ports and folders differ.
const sideConf = `[global]
include={libdir}/internal.conf
rundir=%[1]s
ipc_prefix=s-
port_offset=0
stats_connection_ttl=120
[runner]
services=condure,zurl,pushpin-proxy,pushpin-handler
http_port=127.0.0.1:%[2]d
logdir=%[1]s
log_level=2
client_buffer_size=8192
client_maxconn=1000
[proxy]
routesfile=routes
debug=false
zurl_out_specs=ipc://%[1]s/s-zurl-in
zurl_out_stream_specs=ipc://%[1]s/s-zurl-in-stream
zurl_in_specs=ipc://%[1]s/s-zurl-out
auto_cross_origin=false
set_x_forwarded_protocol=proto-only
accept_pushpin_route=true
sig_iss=pushpin
sig_key=changeme
[handler]
push_in_spec=tcp://127.0.0.1:%[4]d
push_in_sub_specs=tcp://127.0.0.1:%[5]d
push_in_http_addr=127.0.0.1
push_in_http_port=%[3]d
push_in_http_max_headers_size=10000
push_in_http_max_body_size=1000000
stats_spec=ipc://%[1]s/s-stats
command_spec=tcp://127.0.0.1:%[6]d
message_rate=2500
message_hwm=25000
message_wait=5000
id_cache_ttl=60
connection_subscription_max=20
subscription_linger=60
stats_report_interval=10
stats_format=tnetstring
`

// sideRoutes are the routes of both; %s is the origin.
const sideRoutes = `* %[1]s,over_http
*,path_beg=/plain-ws %[1]s
*,path_beg=/prefixed,prefix=px- %[1]s
*,path_beg=/raw,no_grip %[1]s
*,path_beg=/beg,replace_beg=/new,as_host=as.example,header=X-Route:yes %[1]s,host=to.example
*,path_beg=/sub %[1]s,over_http,sub=implicit
*,path_beg=/away 127.0.0.1:1
*,path_beg=/next-target 127.0.0.1:1 %[1]s
id=by-id,path_beg=/by-id %[1]s
`

// side is one of the two: the gateway under test, or the peer.
type side struct {
	*harness.Gateway
	origin  *httptest.Server
	command string
	end     func() error // ends the gateway; again is harmless

	mu   sync.Mutex
	said map[string][]string // by conversation: what was said
	saw  map[string][]string // by path: what the origin was told
}

// say notes a line of a conversation.
func (s *side) say(topic, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said[topic] = append(s.said[topic], fmt.Sprintf(format, args...))
}

// unlike are headers that differ for reasons of their own: of the connection, of the
// time, or named in README.md.
var unlike = map[string]bool{
	"Date": true, "Connection": true, "Transfer-Encoding": true, "Content-Length": true, "Host": true,
	"Accept-Encoding": true, "Accept": true, "User-Agent": true, "Grip-Sig": true, "Grip-Feature": true,
	"Connection-Id": true, "Sec-Websocket-Key": true, "Sec-Websocket-Accept": true, "Upgrade": true, "Keep-Alive": true,
}

// header writes a header in one way.
func header(h http.Header) string {
	var lines []string
	for name, values := range h {
		if !unlike[name] {
			lines = append(lines, fmt.Sprintf("%s: %q", strings.ToLower(name), values))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, ", ")
}

// serveSide is the origin of both.
func (s *side) serveSide(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	events := r.Header.Get("Content-Type") == "application/websocket-events"
	if r.URL.Path != harness.PeerReady {
		s.mu.Lock()
		s.saw[r.URL.Path] = append(s.saw[r.URL.Path], fmt.Sprintf("%s %s %s %s signed=%t", r.Method, r.RequestURI, header(r.Header), harness.Quote(body), r.Header.Get("Grip-Sig") != ""))
		s.mu.Unlock()
	}
	h := w.Header()
	h.Set("X-App", "side")
	h.Set("Content-Type", "text/plain")
	hold := func(mode, channel string) {
		h.Set("Grip-Hold", mode)
		h.Set("Grip-Channel", channel)
	}
	switch path := r.URL.Path; {
	case events:
		s.serveEvents(w, body)
	case r.Header.Get("Upgrade") != "":
		nativeEcho(w, r)
	case path == harness.PeerReady:
		if r.Method == http.MethodGet {
			hold("stream", "harness-ready")
		}
	case path == "/stream":
		hold("stream", "room")
		io.WriteString(w, "hello\n")
	case path == "/prefixed":
		hold("stream", "s1")
		io.WriteString(w, "hello\n")
	case path == "/raw":
		hold("stream", "raw")
		io.WriteString(w, "not held\n")
	case path == "/sub/stream":
		hold("stream", "other")
		io.WriteString(w, "hello\n")
	case path == "/poll":
		hold("response", "polled")
		io.WriteString(w, "nothing new\n")
	case path == "/short":
		hold("response", "never")
		h.Set("Grip-Timeout", "5")
		h.Set("Grip-Status", "203")
		h.Set("Grip-Expose-Headers", "X-App")
		io.WriteString(w, "nothing new\n")
	case path == "/instruct":
		h.Set("Content-Type", "application/grip-instruct")
		io.WriteString(w, `{"response":{"code":404,"reason":"Gone Fishing","headers":{"X-J":"1"},"body":"none\n"}}`)
	case path == "/bad-instruct":
		hold("sideways", "room")
	case path == "/status":
		h.Set("Grip-Status", "201")
		io.WriteString(w, "made\n")
	case path == "/redirect":
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	case path == "/reliable":
		h.Set("Grip-Hold", "stream")
		h.Set("Grip-Channel", "rel; prev-id=1")
		h.Set("Grip-Link", "</reliable-next>; rel=next; timeout=100")
		io.WriteString(w, "first\n")
	case path == "/reliable-next":
		h.Set("Grip-Hold", "stream")
		h.Set("Grip-Channel", "rel; prev-id=9")
		h.Set("Grip-Link", "</reliable-next>; rel=next; timeout=100")
		io.WriteString(w, "recovered "+r.Header.Get("Grip-Last")+"\n")
	default:
		fmt.Fprintf(w, "%s %s %d bytes\n", r.Method, r.RequestURI, len(body))
	}
}

func (s *side) serveEvents(w http.ResponseWriter, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/websocket-events")
	text := func(content string) string { return fmt.Sprintf("TEXT %x\r\n%s\r\n", len(content), content) }
	switch {
	case bytes.HasPrefix(body, []byte("OPEN")):
		h.Set("Sec-WebSocket-Extensions", "grip")
		h.Set("Set-Meta-User", "ann")
		io.WriteString(w, "OPEN\r\n"+text(`c:{"type":"subscribe","channel":"ws-room"}`)+text("m:welcome"))
	case bytes.Contains(body, []byte("bye")):
		io.WriteString(w, "CLOSE 5\r\n\x0f\xa0bye\r\n")
	case bytes.Contains(body, []byte("break")):
		w.WriteHeader(http.StatusInternalServerError)
	case bytes.HasPrefix(body, []byte("CLOSE")):
		w.Write(body)
	case bytes.HasPrefix(body, []byte("TEXT")):
		io.WriteString(w, text("m:heard"))
	}
}

// startSide starts one of the two.
func startSide(t *testing.T, program string, peer bool) *side {
	t.Helper()
	s := &side{said: map[string][]string{}, saw: map[string][]string{}}
	s.origin = httptest.NewServer(http.HandlerFunc(s.serveSide))
	t.Cleanup(s.origin.Close)
	dir, err := os.MkdirTemp("", "gw-side-") // short: Unix sockets are made in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var ports [5]int
	for i := range ports {
		if ports[i], err = harness.FreePort(); err != nil {
			t.Fatal(err)
		}
	}
	conf := fmt.Sprintf(sideConf, dir, ports[0], ports[1], ports[2], ports[3], ports[4])
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "pushpin.conf"), []byte(conf), 0o600),
		os.WriteFile(filepath.Join(dir, "routes"), fmt.Appendf(nil, sideRoutes, s.origin.Listener.Addr()), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	address := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	s.command = "tcp://" + address(4)
	s.Gateway, err = harness.StartGateway(harness.GatewayOptions{
		Program: program, Peer: peer, Dir: dir, Pushpin: filepath.Join(dir, "pushpin.conf"), Addr: address(0), ControlAddr: address(1),
	})
	if s.Gateway != nil {
		s.end = sync.OnceValue(s.Gateway.Close)
		t.Cleanup(func() {
			s.end()
			if t.Failed() {
				t.Logf("log:\n%s", tail(s.Log(), logLines))
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// answer asks and notes what is answered.
func (s *side) answer(topic, method, target, body string, headers ...string) {
	request, err := http.NewRequest(method, "http://"+s.Addr+target, strings.NewReader(body))
	if err != nil {
		s.say(topic, "%v", err)
		return
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		s.say(topic, "%s %s: no answer", method, target)
		return
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	s.say(topic, "%s %s: %s, %s, %s, %v", method, target, response.Status, header(response.Header), harness.Quote(text), err)
}

// publish publishes and notes what is answered.
func (s *side) publish(topic, body string) {
	response, err := http.Post("http://"+s.ControlAddr+"/publish/", "application/json", strings.NewReader(body))
	if err != nil {
		s.say(topic, "publish: %v", err)
		return
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	s.say(topic, "publish: %d %s", response.StatusCode, text)
}

// stream reads a held stream: each call of read notes what came of so many bytes.
func (s *side) stream(topic, target string) (read func(bytes int), end func()) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + s.Addr + target)
	if err != nil {
		s.say(topic, "%s: %v", target, err)
		return func(int) {}, func() {}
	}
	s.say(topic, "%s: %s, %s", target, response.Status, header(response.Header))
	timer := time.AfterFunc(40*time.Second, func() { response.Body.Close() })
	read = func(n int) {
		b := make([]byte, n)
		m, err := io.ReadFull(response.Body, b)
		s.say(topic, "%q %v", b[:m], err)
	}
	end = func() {
		rest, err := io.ReadAll(response.Body)
		s.say(topic, "then %q, %v", rest, err)
		timer.Stop()
		response.Body.Close()
	}
	return read, end
}

// conversations are held with each side, each by itself.
var conversations = map[string]func(s *side, topic string){
	"plain": func(s *side, topic string) {
		s.answer(topic, "GET", "/x?a=1&b=%20", "", "X-Forwarded-For", "9.9.9.9", "X-Forwarded-Proto", "https", "Grip-Sig", "forged", "X-A", "1")
		s.answer(topic, "POST", "/y", "some text")
		s.answer(topic, "PUT", "/z", strings.Repeat("x", 200_000))
		s.answer(topic, "GET", "/redirect", "")
		s.answer(topic, "GET", "/status", "")
		s.answer(topic, "GET", "/instruct", "")
		s.answer(topic, "GET", "/bad-instruct", "")
	},
	"routes": func(s *side, topic string) {
		s.answer(topic, "GET", "/away", "")
		s.answer(topic, "GET", "/next-target", "")
		s.answer(topic, "GET", "/beg/x?q=1", "", "X-Route", "no")
		s.answer(topic, "GET", "/raw", "")
		s.answer(topic, "GET", "/by-id/x", "", "Pushpin-Route", "by-id")
		s.answer(topic, "POST", "/x", "OPEN\r\n", "Content-Type", "application/websocket-events")
	},
	"publish": func(s *side, topic string) {
		for _, body := range []string{
			``, `[]`, `{}`, `{"items":{}}`, `{"items":[]}`, `{"items":[{}]}`, `{"items":[{"channel":"c"}]}`, `{"items":[{"channel":"c","formats":{}}]}`,
			`{"items":[{"channel":"c","formats":{"http-stream":{}}}]}`, `{"items":[{"channel":"c","formats":{"ws-message":{"content":"x","type":"odd"}}}]}`,
			`{"items":[{"channel":"c","http-stream":{"content":"x"}}]}`, `{"items":[{"channel":"c","formats":{"unknown":{}}}]}`,
			`{"items":[{"channel":"c","meta":{"x":1},"formats":{"http-stream":{"content":"x"}}}]}`,
		} {
			s.publish(topic, body)
		}
	},
	"stream": func(s *side, topic string) {
		read, end := s.stream(topic, "/stream")
		read(len("hello\n"))
		s.publish(topic, `{"items":[{"channel":"room","formats":{"http-stream":{"content":"one\n"}}},{"channel":"room","formats":{"http-stream":{"content-bin":"AP8="}}}]}`)
		read(len("one\n") + 2)
		s.publish(topic, `{"items":[{"channel":"room","formats":{"ws-message":{"content":"no"},"http-response":{"body":"no"}}}]}`)
		s.publish(topic, `{"items":[{"channel":"room","formats":{"http-stream":{"action":"close"}}}]}`)
		end()
	},
	"prefix and sub": func(s *side, topic string) {
		read, end := s.stream(topic, "/prefixed")
		read(len("hello\n"))
		s.publish(topic, `{"items":[{"channel":"s1","formats":{"http-stream":{"content":"no\n"}}},{"channel":"px-s1","formats":{"http-stream":{"content":"yes\n"}}}]}`)
		read(len("yes\n"))
		s.publish(topic, `{"items":[{"channel":"px-s1","formats":{"http-stream":{"action":"close"}}}]}`)
		end()
		read, end = s.stream(topic, "/sub/stream")
		read(len("hello\n"))
		s.publish(topic, `{"items":[{"channel":"implicit","formats":{"http-stream":{"content":"yes\n"}}}]}`)
		read(len("yes\n")) // items of two channels come in any order
		s.publish(topic, `{"items":[{"channel":"other","formats":{"http-stream":{"action":"close"}}}]}`)
		end()
	},
	"poll": func(s *side, topic string) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.answer(topic, "GET", "/poll", "")
		}()
		// A long poll shows to nobody that it is held: it is published to until it is answered.
		for answered := false; !answered; {
			response, err := http.Post("http://"+s.ControlAddr+"/publish/", "application/json", strings.NewReader(
				`{"items":[{"channel":"polled","formats":{"http-response":{"code":201,"reason":"Told","headers":{"X-P":"1"},"body":"news\n"}}}]}`))
			if err == nil {
				response.Body.Close()
			}
			select {
			case <-done:
				answered = true
			case <-time.After(100 * time.Millisecond):
			}
		}
		begin := time.Now()
		s.answer(topic, "GET", "/short", "")
		took := time.Since(begin)
		s.say(topic, "at least five seconds: %t", took > 4500*time.Millisecond)
	},
	"reliable": func(s *side, topic string) {
		read, end := s.stream(topic, "/reliable")
		read(len("first\n"))
		// Both ask the next link once the first subscription stands, after a second.
		read(len("recovered rel; last-id=1\n"))
		s.publish(topic, `{"items":[{"channel":"rel","id":"10","prev-id":"9","formats":{"http-stream":{"content":"ten\n"}}},{"channel":"rel","id":"12","prev-id":"11","formats":{"http-stream":{"content":"twelve\n"}}},{"channel":"rel","id":"11","prev-id":"10","formats":{"http-stream":{"content":"eleven\n"}}},{"channel":"rel","id":"11","prev-id":"10","formats":{"http-stream":{"content":"again\n"}}}]}`)
		read(len("ten\neleven\ntwelve\n"))
		s.publish(topic, `{"items":[{"channel":"rel","id":"13","prev-id":"12","formats":{"http-stream":{"action":"close"}}}]}`)
		end()
	},
	"WebSocket": func(s *side, topic string) {
		for _, last := range []string{"bye", "close", "break", "publish"} {
			s.webSocket(topic, last)
		}
	},
	"native WebSocket": func(s *side, topic string) {
		ws, response, err := websocket.DefaultDialer.Dial("ws://"+s.Addr+"/plain-ws", http.Header{"X-A": {"1"}})
		if err != nil {
			s.say(topic, "%v", err)
			return
		}
		defer ws.Close()
		s.say(topic, "%s", response.Status)
		ws.SetReadDeadline(time.Now().Add(20 * time.Second))
		for _, text := range []string{"hello", "", "bin\x00"} {
			ws.WriteMessage(websocket.BinaryMessage, []byte(text))
			s.hear(topic, ws)
		}
		ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4002, "done"), time.Now().Add(time.Second))
		s.hear(topic, ws)
	},
	"commands": func(s *side, topic string) {
		z, err := harness.DialZMQ("REQ", s.command)
		if err != nil {
			s.say(topic, "%v", err)
			return
		}
		defer z.Close()
		for _, command := range []string{
			`{"id":"1","method":"conncheck","args":{"ids":["nobody"]}}`, `{"id":"2","method":"refresh","args":{"cid":"nobody"}}`,
			`{"id":"3","method":"refresh","args":{}}`, `{"id":"4","method":"recover","args":{}}`, `{"id":"5","method":"report","args":{}}`,
			`{"id":"6","method":"publish","args":{"items":[{"channel":"nobody","formats":{"http-stream":{"content":"x"}}}]}}`,
		} {
			var value any
			json.Unmarshal([]byte(command), &value)
			z.Send(nil, []byte(tnetstring(value)))
			err := z.Seen.Wait(20*time.Second, func(pending []harness.Seen[[][]byte]) ([]harness.Seen[[][]byte], bool, error) {
				if len(pending) == 0 {
					return pending, false, nil
				}
				answer := pending[0].What[len(pending[0].What)-1]
				for _, part := range []string{"7:success,4:true!", "11:bad-request,", "14:item-not-found,", "16:method-not-found,", "5:value,0:]"} {
					if bytes.Contains(answer, []byte(part)) {
						s.say(topic, "%s: %s", command, part)
					}
				}
				return pending[1:], true, nil
			})
			if err != nil {
				s.say(topic, "%s: %v", command, err)
			}
		}
	},
}

// webSocket is a conversation of a WebSocket over HTTP, with one of several ends.
func (s *side) webSocket(topic, last string) {
	ws, response, err := websocket.DefaultDialer.Dial("ws://"+s.Addr+"/chat?last="+last, http.Header{"Cookie": {"k=v"}, "Meta-User": {"forged"}})
	if err != nil {
		s.say(topic, "%v", err)
		return
	}
	defer ws.Close()
	s.say(topic, "%s %s", response.Status, header(response.Header))
	ws.SetReadDeadline(time.Now().Add(20 * time.Second))
	s.hear(topic, ws)
	ws.WriteMessage(websocket.TextMessage, []byte("hello"))
	s.hear(topic, ws)
	// The peer's subscription may stand a moment after its answer.
	time.Sleep(500 * time.Millisecond)
	s.publish(topic, `{"items":[{"channel":"ws-room","formats":{"ws-message":{"content":"text"}}},{"channel":"ws-room","formats":{"ws-message":{"content-bin":"AP8="}}}]}`)
	s.hear(topic, ws)
	s.hear(topic, ws)
	switch last {
	case "close":
		ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4002, "done"), time.Now().Add(time.Second))
	case "publish":
		s.publish(topic, `{"items":[{"channel":"ws-room","formats":{"ws-message":{"action":"close","code":4009}}}]}`)
	default:
		ws.WriteMessage(websocket.TextMessage, []byte(last))
	}
	s.hear(topic, ws)
}

// hear notes the next message, or the end.
func (s *side) hear(topic string, ws *websocket.Conn) {
	kind, message, err := ws.ReadMessage()
	var closed *websocket.CloseError
	switch {
	case err == nil:
		s.say(topic, "%d %q", kind, message)
	case errors.As(err, &closed):
		s.say(topic, "close %d %q", closed.Code, closed.Text)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		s.say(topic, "end")
	default:
		var timeout net.Error
		s.say(topic, "nothing (timeout %t)", errors.As(err, &timeout) && timeout.Timeout())
	}
}

// attemptsMax is how often all is said again if something differs: the peer loses
// answers and items on a busy machine, and what really differs does so each time.
const attemptsMax = 3

func TestPushpinAndGripwaySideBySide(t *testing.T) {
	installed, err := exec.LookPath("pushpin")
	if err != nil {
		t.Skipf("SKIPPED, nothing is compared: no pushpin here (Debian: pushpin): %v", err)
	}
	path, peer, err := program()
	if err != nil {
		t.Fatal(err)
	}
	if peer {
		t.Skip("the peer is compared with itself")
	}
	for attempt := 1; ; attempt++ {
		differences := compareOnce(t, path, installed)
		if len(differences) == 0 {
			return
		}
		for _, difference := range differences {
			if attempt < attemptsMax {
				t.Logf("attempt %d: %s", attempt, difference)
			} else {
				t.Error(difference)
			}
		}
		if attempt == attemptsMax {
			return
		}
	}
}

// compareOnce holds all conversations with both and returns what differs.
func compareOnce(t *testing.T, path, installed string) (differences []string) {
	ours, theirs := startSide(t, path, false), startSide(t, installed, true)
	defer theirs.end()
	defer ours.end()
	var talking sync.WaitGroup
	for _, s := range []*side{ours, theirs} {
		for topic, converse := range conversations {
			talking.Go(func() { converse(s, topic) })
		}
	}
	talking.Wait()
	for _, s := range []*side{ours, theirs} {
		s.mu.Lock() // an origin may still be told of the last client
		defer s.mu.Unlock()
	}
	compare := func(topic string, ours, theirs []string) {
		if slices.Equal(ours, theirs) {
			t.Logf("%s: %d lines, the same", topic, len(ours))
			return
		}
		at := func(lines []string, i int) string {
			if i < len(lines) {
				return lines[i]
			}
			return "(nothing)"
		}
		for i := range max(len(ours), len(theirs)) {
			if a, b := at(ours, i), at(theirs, i); a != b {
				differences = append(differences, fmt.Sprintf("%s, line %d:\n gripway %s\n pushpin %s", topic, i+1, a, b))
			}
		}
	}
	for topic := range conversations {
		compare(topic, ours.said[topic], theirs.said[topic])
	}
	paths := slices.Collect(maps.Keys(theirs.saw))
	for path := range ours.saw {
		if theirs.saw[path] == nil {
			paths = append(paths, path)
		}
	}
	for _, path := range paths {
		a, b := ours.saw[path], theirs.saw[path]
		if path == "/poll" || path == "/chat" || path == "/short" { // how often, and in which batches, is a matter of the moment
			a, b = a[:min(1, len(a))], b[:min(1, len(b))]
		}
		compare("the origin at "+path, a, b)
	}
	return differences
}
