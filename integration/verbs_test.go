package integration

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/gripway/gripway/integration/harness"
)

const (
	// waitDefault is how long an expectation waits, unless the script sets WAIT.
	// Much longer than anything takes: the machine may be busy with other scripts.
	waitDefault = 15 * time.Second

	// probeEvery is how often a verb publishes again until somebody is subscribed.
	probeEvery = 50 * time.Millisecond
)

// verbs by the names that scripts use, in the order of README.md.
var verbs = map[string]func(s *script, w *words, neg bool) error{
	"gateway":        (*script).gateway,
	"pushpin":        (*script).pushpin,
	"origin":         (*script).origin,
	"on":             (*script).on,
	"forget":         (*script).forget,
	"down":           (*script).down,
	"up":             (*script).up,
	"open":           (*script).open,
	"nats":           (*script).nats,
	"port":           (*script).port,
	"nats-publish":   (*script).natsPublish,
	"nats-subscribe": (*script).natsSubscribe,
	"nats-interest":  (*script).natsInterest,
	"http":           (*script).http,
	"ws":             (*script).ws,
	"await":          (*script).await,
	"send":           (*script).send,
	"stall":          (*script).stall,
	"resume":         (*script).resume,
	"drop":           (*script).drop,
	"close":          (*script).closeParty,
	"publish":        (*script).publish,
	"guest":          (*script).guest,
	"subscribed":     (*script).subscribed,
	"expect":         (*script).expect,
	"metric":         (*script).metric,
	"log":            (*script).log,
	"signal":         (*script).signal,
	"exits":          (*script).exits,
	"clock":          (*script).clock,
	"within":         (*script).within,
	"sign":           (*script).sign,
	"expand":         (*script).expand,
}

// commands makes commands of the script runner from the verbs: an error ends the
// script with its line.
func commands() map[string]func(*testscript.TestScript, bool, []string) {
	all := map[string]func(*testscript.TestScript, bool, []string){}
	for name, do := range verbs {
		all[name] = func(ts *testscript.TestScript, neg bool, args []string) {
			s := ts.Value(scriptKey{}).(*script)
			if neg && !negated[name] {
				ts.Fatalf(`%s cannot be negated with "!"`, name)
			}
			if err := do(s, &words{ts: ts, args: args, verb: name}, neg); err != nil {
				ts.Fatalf("%v", err)
			}
		}
	}
	return all
}

// negated are the verbs that "!" may stand before.
var negated = map[string]bool{"gateway": true, "pushpin": true, "log": true}

// party finds who is called name.
func party[P any](s *script, w *words, name string) P {
	var none P
	found, ok := s.parties[name]
	if !ok {
		w.ts.Fatalf("nobody is called %q", name)
	}
	p, ok := found.(P)
	if !ok {
		w.ts.Fatalf("%q is a %T, not a %T", name, found, none)
	}
	return p
}

func (s *script) wait(w *words) time.Duration {
	text := w.ts.Getenv("WAIT")
	if text == "" {
		return waitDefault
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		w.ts.Fatalf("WAIT: %v", err)
	}
	return d
}

// gateway NAME [ROUTE…] [tls] [--flag…]
func (s *script) gateway(w *words, neg bool) error {
	name := w.next("the gateway's name")
	options := harness.GatewayOptions{Program: s.program, Peer: s.peer, Dir: w.ts.MkAbs(".")}
	for w.more() && !strings.HasPrefix(w.args[0], "-") {
		if w.skip("tls") {
			c, err := certificate()
			if err != nil {
				return err
			}
			options.TLS = c
			continue
		}
		options.Routes = append(options.Routes, w.next("a route"))
	}
	for w.more() {
		flag := w.next("a flag")
		if flag == "--routes" && s.peer {
			options.RoutesFile = w.next("the routes file")
			continue
		}
		options.Flags = append(options.Flags, flag)
	}
	return s.start(w, name, options, neg)
}

// start starts a gateway, or with neg wants it to refuse.
func (s *script) start(w *words, name string, options harness.GatewayOptions, neg bool) error {
	g, err := harness.StartGateway(options)
	if g != nil {
		s.add(name, g)
		w.ts.Setenv(name, g.Addr)
		w.ts.Setenv(name+"_port", g.Addr[strings.LastIndexByte(g.Addr, ':')+1:])
		w.ts.Setenv(name+"_control", g.ControlAddr)
	}
	if neg {
		if err == nil {
			return errors.New("the gateway started: it should have refused to")
		}
		if g == nil {
			return err
		}
		code, waitErr := g.Wait(s.wait(w))
		if waitErr == nil && code == 0 {
			waitErr = errors.New("exit code: got 0, want another")
		}
		return waitErr
	}
	if err != nil && g != nil {
		return fmt.Errorf("%w\n%s", err, tail(g.Log(), logLines))
	}
	return err
}

// pushpin NAME FILE [tls] [--flag…]
func (s *script) pushpin(w *words, neg bool) error {
	name, file := w.next("the gateway's name"), w.next("the pushpin.conf")
	path := w.ts.MkAbs(file)
	options := harness.GatewayOptions{Program: s.program, Dir: w.ts.MkAbs("."), Pushpin: file}
	for _, port := range []struct {
		variable string
		addr     *string
	}{{name + "_port", &options.Addr}, {name + "_tls_port", &options.TLSAddr}, {name + "_control_port", &options.ControlAddr}} {
		free, err := harness.FreePort()
		if err != nil {
			return err
		}
		*port.addr = fmt.Sprintf("127.0.0.1:%d", free)
		w.ts.Setenv(port.variable, strconv.Itoa(free))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(os.Expand(string(text), w.ts.Getenv)), 0o600); err != nil {
		return err
	}
	if w.skip("tls") {
		c, err := certificate()
		if err != nil {
			return err
		}
		certs := filepath.Join(filepath.Dir(path), "runner", "certs")
		pair := filepath.Join(certs, "default_"+w.ts.Getenv(name+"_tls_port"))
		err = errors.Join(os.MkdirAll(certs, 0o700), os.WriteFile(pair+".crt", c.CertPEM, 0o600), os.WriteFile(pair+".key", c.KeyPEM, 0o600))
		if err != nil {
			return err
		}
	}
	for w.more() {
		options.Flags = append(options.Flags, w.next("a flag"))
	}
	return s.start(w, name, options, neg)
}

// address of GATEWAY, GATEWAY/tls, GATEWAY/control, of an origin, or host:port.
func (s *script) address(w *words) (addr string, tlsConfig *tls.Config) {
	word := w.next("a gateway")
	if strings.Contains(word, ":") {
		return word, nil
	}
	name, port, _ := strings.Cut(word, "/")
	if o, ok := s.parties[name].(*harness.Origin); ok {
		return o.Addr(), nil
	}
	g := party[*harness.Gateway](s, w, name)
	switch port {
	case "":
		return g.Addr, nil
	case "control":
		return g.ControlAddr, nil
	case "tls":
		c, err := certificate()
		if err != nil || g.TLSAddr == "" {
			w.ts.Fatalf("gateway %s has no TLS (%v)", name, err)
		}
		return g.TLSAddr, c.ClientConfig()
	}
	w.ts.Fatalf("%s: a gateway has /tls and /control", word)
	return "", nil
}

// origin NAME [tls [client]]
func (s *script) origin(w *words, neg bool) error {
	name := w.next("the origin's name")
	var shown *tls.Certificate
	if w.skip("tls") {
		c, err := certificate()
		if err != nil {
			return err
		}
		shown = &c.TLS
	}
	o, err := harness.StartOrigin(shown)
	if err != nil {
		return err
	}
	if shown != nil && w.skip("client") {
		o.WantCertificate()
		c, _ := certificate() // it has been made
		err := errors.Join(os.WriteFile(w.ts.MkAbs(name+".crt"), c.CertPEM, 0o600), os.WriteFile(w.ts.MkAbs(name+".key"), c.KeyPEM, 0o600))
		if err != nil {
			return err
		}
	}
	s.add(name, o)
	w.ts.Setenv(name, o.Addr())
	return nil
}

// on ORIGIN [once | times N] METHOD TARGET [has TEXT] [STATUS] [reason R] ['Name: value'…] STEP…
func (s *script) on(w *words, neg bool) error {
	o := party[*harness.Origin](s, w, w.next("the origin"))
	reply := harness.Reply{Status: 200}
	switch {
	case w.skip("once"):
		reply.Times = 1
	case w.skip("times"):
		reply.Times = w.number("how often")
	}
	reply.Method, reply.Target = w.next("the method"), w.next("the target")
	if w.skip("has") {
		reply.Has = string(w.content())
	}
	step := func(step harness.Step) { reply.Steps = append(reply.Steps, step) }
	typed := ""
	for w.more() {
		switch word := w.next("a step"); {
		case isStatus.MatchString(word):
			reply.Status, _ = strconv.Atoi(word)
		case word == "reason":
			reply.Reason = w.next("the reason")
		case word == "body":
			step(harness.Step{Do: harness.Body, Bytes: w.content()})
		case word == "chunk":
			step(harness.Step{Do: harness.Chunk, Bytes: w.content()})
		case word == "raw":
			step(harness.Step{Do: harness.Raw, Bytes: w.content()})
		case word == "echo":
			typed = eventsType
			step(harness.Step{Do: harness.Echo})
		case word == "wait":
			step(harness.Step{Do: harness.Pause, Wait: w.duration("how long")})
		case word == "gate":
			step(harness.Step{Do: harness.Gate, Gate: w.next("the gate's name")})
		case word == "cut":
			step(harness.Step{Do: harness.Cut})
		case word == "hangup":
			step(harness.Step{Do: harness.Hangup})
		case word == "silence":
			step(harness.Step{Do: harness.Silence})
		case word == "ws":
			socket := harness.NewServerSocket()
			s.add(w.next("the name of the origin's end"), socket)
			reply.Times = 1
			step(harness.Step{Do: harness.Upgrade, Socket: socket})
		case word == "events":
			typed = eventsType
			body := []byte{}
			for w.more() {
				body = harness.AppendEvent(body, w.event())
			}
			step(harness.Step{Do: harness.Body, Bytes: body})
		case isHeader.MatchString(word):
			field, err := harness.ParseField(word)
			if err != nil {
				return err
			}
			reply.Header = append(reply.Header, field)
		default:
			return fmt.Errorf("on: %q is neither a status, a header, nor a step", word)
		}
	}
	if typed != "" && !reply.Header.Has("Content-Type") {
		reply.Header = append(reply.Header, harness.Field{Name: "Content-Type", Value: typed})
	}
	o.On(reply)
	return nil
}

const eventsType = "application/websocket-events"

// event is the next word as an event: 'TEXT hello', OPEN, 'CLOSE 4000 bye', or
// subscribe=room for the control message that subscribes.
func (w *words) event() harness.Event {
	word := w.next("an event")
	if channel, ok := strings.CutPrefix(word, "subscribe="); ok {
		return harness.Event{Type: "TEXT", Content: fmt.Appendf(nil, `c:{"type":"subscribe","channel":%q}`, channel)}
	}
	kind, rest, hasContent := strings.Cut(word, " ")
	event := harness.Event{Type: kind}
	if !hasContent {
		return event
	}
	if kind == "CLOSE" {
		digits, reason, _ := strings.Cut(rest, " ")
		if code, err := strconv.Atoi(digits); err == nil {
			event.Content = harness.CloseContent(code, reason)
			return event
		}
	}
	b, err := content(rest, w.ts.MkAbs)
	if err != nil {
		w.ts.Fatalf("event %q: %v", word, err)
	}
	event.Content = b
	return event
}

// forget ORIGIN
func (s *script) forget(w *words, neg bool) error {
	party[*harness.Origin](s, w, w.next("the origin")).Forget()
	return nil
}

// down ORIGIN|NATS
func (s *script) down(w *words, neg bool) error {
	party[interface{ Down() }](s, w, w.next("who")).Down()
	return nil
}

// up ORIGIN|NATS
func (s *script) up(w *words, neg bool) error {
	return party[interface{ Up() error }](s, w, w.next("who")).Up()
}

// open ORIGIN GATE
func (s *script) open(w *words, neg bool) error {
	party[*harness.Origin](s, w, w.next("the origin")).Open(w.next("the gate's name"))
	return nil
}

// nats NAME
func (s *script) nats(w *words, neg bool) error {
	name := w.next("the server's name")
	n, err := harness.StartNATS()
	if err != nil {
		return err
	}
	s.add(name, n)
	w.ts.Setenv(name, n.URL())
	return nil
}

// port VARIABLE finds a port of loopback that is free.
func (s *script) port(w *words, neg bool) error {
	name := w.next("the variable")
	port, err := harness.FreePort()
	w.ts.Setenv(name, fmt.Sprintf("127.0.0.1:%d", port))
	return err
}

// nats-publish NATS SUBJECT CONTENT
func (s *script) natsPublish(w *words, neg bool) error {
	n := party[*harness.NATS](s, w, w.next("the NATS server"))
	subject, reply := w.next("the subject"), ""
	if w.skip("reply") {
		reply = w.next("where the answer goes")
	}
	return n.Publish(subject, reply, w.content())
}

// nats-subscribe NATS NAME SUBJECT
func (s *script) natsSubscribe(w *words, neg bool) error {
	n := party[*harness.NATS](s, w, w.next("the NATS server"))
	name := w.next("the subscriber's name")
	feed, err := n.Subscribe(w.next("the subject"))
	if err != nil {
		return err
	}
	s.add(name, feed)
	return nil
}

// nats-interest NATS SUBJECT N
func (s *script) natsInterest(w *words, neg bool) error {
	n := party[*harness.NATS](s, w, w.next("the NATS server"))
	subject := w.next("the subject")
	return n.Interest(subject, w.number("how many"), s.wait(w))
}

// http NAME GATEWAY METHOD TARGET ['Name: value'…] [header NAME C] [body C | chunked C] [trailer 'Name: value'] [1.0] [h2] [over CLIENT] [small] [new]
// http NAME GATEWAY raw C [new]
func (s *script) http(w *words, neg bool) error {
	name := w.next("the client's name")
	addr, tlsConfig := s.address(w)
	ask := harness.Ask{Method: w.next("the method")}
	var raw []byte
	if ask.Method == "raw" {
		raw = w.content()
	} else {
		ask.Target = w.next("the target")
	}
	small, h2, fresh := false, false, false
	var over *harness.Client
	for w.more() {
		switch word := w.next("an option"); {
		case word == "body":
			ask.Body = w.content()
		case word == "chunked":
			ask.Body, ask.Chunked = w.content(), true
		case word == "1.0":
			ask.Proto = "HTTP/1.0"
		case word == "h2":
			h2 = true
		case word == "over":
			over, h2 = party[*harness.Client](s, w, w.next("a client")), true
		case word == "small":
			small = true
		case word == "header":
			name := w.next("the header's name")
			ask.Header = append(ask.Header, harness.Field{Name: name, Value: string(w.content())})
		case word == "new":
			fresh = true
		case word == "trailer":
			field, err := harness.ParseField(w.next("the trailer"))
			if err != nil {
				return err
			}
			ask.Trailer = append(ask.Trailer, field)
		case isHeader.MatchString(word):
			field, err := harness.ParseField(word)
			if err != nil {
				return err
			}
			ask.Header = append(ask.Header, field)
		default:
			return fmt.Errorf("http: %q is neither a header nor an option", word)
		}
	}
	client, again := s.parties[name].(*harness.Client)
	if !again || fresh {
		var err error
		if h2 {
			client = harness.NewH2Client(addr, tlsConfig, small, over)
		} else if client, err = harness.DialClient(addr, tlsConfig, small); err != nil {
			return err
		}
		s.add(name, client)
	}
	if raw != nil {
		method, _, _ := strings.Cut(string(raw), " ")
		return client.SendBytes(method, raw)
	}
	return client.Send(ask)
}

// socket is what a Socket and a Gorilla have in common.
type socket interface {
	Send(op byte, payload []byte) error
	Drop()
}

func seen(s socket) *harness.Feed[harness.SocketEvent] {
	switch s := s.(type) {
	case *harness.Socket:
		return &s.Seen
	case *harness.Gorilla:
		return &s.Seen
	}
	panic(fmt.Sprintf("a %T shows nothing", s))
}

// ws NAME GATEWAY TARGET ['Name: value'…] [gorilla [deflate]] [small]
func (s *script) ws(w *words, neg bool) error {
	name := w.next("the client's name")
	addr, tlsConfig := s.address(w)
	target := w.next("the target")
	var header harness.Header
	gorilla, deflate, small := false, false, false
	for w.more() {
		switch word := w.next("an option"); {
		case word == "gorilla":
			gorilla = true
		case word == "deflate":
			deflate = true
		case word == "small":
			small = true
		case isHeader.MatchString(word):
			field, err := harness.ParseField(word)
			if err != nil {
				return err
			}
			header = append(header, field)
		default:
			return fmt.Errorf("ws: %q is neither a header nor an option", word)
		}
	}
	if gorilla {
		client, err := harness.DialGorilla(addr, tlsConfig, target, header, deflate)
		if err != nil {
			return err
		}
		s.add(name, client)
		return nil
	}
	client, err := harness.DialSocket(addr, tlsConfig, target, header, small)
	if err != nil {
		return err
	}
	s.add(name, client)
	return nil
}

// opcodes by the names that scripts use.
var opcodes = map[string]byte{"text": harness.OpText, "binary": harness.OpBinary, "ping": harness.OpPing, "pong": harness.OpPong, "close": harness.OpClose, "continuation": harness.OpContinuation}

// send NAME text|binary|ping|pong C
// send NAME close [CODE [REASON]]
// send NAME frame fin=0,op=1,rsv=4,unmasked C
// send NAME bytes C
func (s *script) send(w *words, neg bool) error {
	name := w.next("who sends")
	if client, ok := s.parties[name].(*harness.Client); ok {
		if !w.skip("bytes") {
			return errors.New("an HTTP client sends bytes; a request is made by http")
		}
		return client.SendBytes("", w.content())
	}
	to := party[socket](s, w, name)
	if err := s.opened(w, to); err != nil {
		return err
	}
	switch kind := w.next("what"); kind {
	case "close":
		if !w.more() {
			return to.Send(harness.OpClose, nil)
		}
		code, reason := w.number("the code"), ""
		if w.more() {
			reason = w.next("the reason")
		}
		return to.Send(harness.OpClose, harness.CloseContent(code, reason))
	case "frame":
		raw, ok := to.(*harness.Socket)
		if !ok {
			return errors.New("only a raw client sends frames")
		}
		frame := harness.Frame{Fin: true, Op: harness.OpText, Masked: true}
		for field := range strings.SplitSeq(w.next("the frame's fields"), ",") {
			key, value, _ := strings.Cut(field, "=")
			n, err := strconv.ParseUint(value, 0, 4)
			if err != nil && key != "unmasked" {
				return fmt.Errorf("frame field %q: %w", field, err)
			}
			switch key {
			case "fin":
				frame.Fin = n == 1
			case "op":
				frame.Op = byte(n)
			case "rsv":
				frame.RSV = byte(n)
			case "unmasked":
				frame.Masked = false
			default:
				return fmt.Errorf("frame field %q: want fin, op, rsv or unmasked", field)
			}
		}
		frame.Payload = w.content()
		return raw.SendFrame(frame)
	case "bytes":
		raw, ok := to.(*harness.Socket)
		if !ok {
			return errors.New("only a raw client sends bytes")
		}
		return raw.SendBytes(w.content())
	default:
		op, ok := opcodes[kind]
		if !ok {
			return fmt.Errorf("send: %q: want text, binary, ping, pong, close, frame or bytes", kind)
		}
		return to.Send(op, w.content())
	}
}

func (s *script) stall(w *words, neg bool) error {
	party[interface{ Stall() }](s, w, w.next("who")).Stall()
	return nil
}

func (s *script) resume(w *words, neg bool) error {
	party[interface{ Resume() }](s, w, w.next("who")).Resume()
	return nil
}

func (s *script) drop(w *words, neg bool) error {
	party[interface{ Drop() }](s, w, w.next("who")).Drop()
	return nil
}

// close CLIENT
func (s *script) closeParty(w *words, neg bool) error {
	party[*harness.Client](s, w, w.next("an HTTP client")).Cancel()
	return nil
}

// post publishes a body of items and wants to be told that they are.
func post(g *harness.Gateway, body []byte) error {
	response, err := http.Post("http://"+g.ControlAddr+"/publish/", "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && (response.StatusCode != 200 || string(text) != "Published\n") {
		err = fmt.Errorf("publish: got %d %q, want 200 \"Published\\n\"", response.StatusCode, text)
	}
	return err
}

// batch is how many items publish … times N puts into one request.
const batch = 100

// publish GATEWAY CHANNEL [id I] [prev I] [noseq] [meta k=v] {response|stream|message C [code N] [reason R] ['H: v'] [action A] [type T] [bin]}… [times N] [until NAME] [every D]
func (s *script) publish(w *words, neg bool) error {
	g := party[*harness.Gateway](s, w, w.next("the gateway"))
	channel := w.next("the channel")
	formats := map[string]map[string]any{}
	item := map[string]any{"channel": channel, "formats": formats}
	var format map[string]any
	var key string
	var value []byte
	times, until := 1, ""
	var every time.Duration
	need := func() map[string]any {
		if format == nil {
			w.ts.Fatalf("publish: say response, stream or message first")
		}
		return format
	}
	for w.more() {
		switch word := w.next("a part of the item"); {
		case word == "id":
			item["id"] = w.next("the id")
		case word == "prev":
			item["prev-id"] = w.next("the previous id")
		case word == "one":
			item["deliver"] = "one"
		case word == "noseq":
			item["no-seq"] = true
		case word == "meta":
			name, text, _ := strings.Cut(w.next("k=v"), "=")
			meta, _ := item["meta"].(map[string]string)
			if meta == nil {
				meta = map[string]string{}
			}
			meta[name] = text
			item["meta"] = meta
		case word == "response" || word == "stream" || word == "message":
			name := map[string]string{"response": "http-response", "stream": "http-stream", "message": "ws-message"}[word]
			key = map[string]string{"response": "body", "stream": "content", "message": "content"}[word]
			format = map[string]any{}
			formats[name] = format
			if !w.skip("-") {
				value = w.content()
				format[key] = string(value)
			}
		case word == "bin":
			delete(need(), key)
			format[key+"-bin"] = base64.StdEncoding.EncodeToString(value)
		case word == "code":
			need()["code"] = w.number("the code")
		case word == "reason", word == "action", word == "type":
			need()[word] = w.next("the " + word)
		case word == "patch":
			need()["body-patch"] = json.RawMessage(w.next("a JSON patch"))
		case word == "times":
			times = w.number("how often")
		case word == "until":
			until = w.next("who is to see it")
		case word == "every":
			every = w.duration("how often")
		case isHeader.MatchString(word):
			field, err := harness.ParseField(word)
			if err != nil {
				return err
			}
			lines, _ := need()["headers"].([][2]string)
			format["headers"] = append(lines, [2]string{field.Name, field.Value})
		default:
			return fmt.Errorf("publish: %q is no part of an item", word)
		}
	}
	if until != "" {
		body, err := json.Marshal(map[string]any{"items": []any{item}})
		if err != nil {
			return err
		}
		for deadline := time.Now().Add(s.wait(w)); ; {
			if err := post(g, body); err != nil {
				return err
			}
			if s.stirs(w, until, probeEvery) {
				return nil
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("publish: %s saw nothing in %v", until, s.wait(w))
			}
		}
	}
	one, err := json.Marshal(item)
	if err != nil {
		return err
	}
	if every > 0 {
		s.background(func(done <-chan struct{}) error {
			for {
				if err := post(g, fmt.Appendf(nil, `{"items":[%s]}`, one)); err != nil {
					return err
				}
				select {
				case <-done:
					return nil
				case <-time.After(every): // the script asked for this pace
				}
			}
		})
		return nil
	}
	for done := 0; done < times; {
		var items [][]byte
		for ; done < times && len(items) < batch; done++ {
			items = append(items, bytes.ReplaceAll(one, []byte("%d"), []byte(strconv.Itoa(done+1))))
		}
		if err := post(g, fmt.Appendf(nil, `{"items":[%s]}`, bytes.Join(items, []byte(",")))); err != nil {
			return err
		}
	}
	return nil
}

// stirs says whether name sees something within timeout, and leaves it there.
func (s *script) stirs(w *words, name string, timeout time.Duration) bool {
	var err error
	switch p := s.parties[name].(type) {
	case *harness.Client:
		err = stir(&p.Seen, timeout)
	case *harness.Origin:
		err = stir(&p.Requests, timeout)
	case socket:
		err = stir(seen(p), timeout)
	default:
		w.ts.Fatalf("%q is a %T, which sees nothing", name, p)
	}
	return err == nil
}

func stir[E any](feed *harness.Feed[E], timeout time.Duration) error {
	return feed.Wait(timeout, func(pending []harness.Seen[E]) ([]harness.Seen[E], bool, error) {
		return pending, len(pending) > 0, nil
	})
}

// subscribed GATEWAY CHANNEL CLIENT returns once the client receives what is
// published to the channel: it publishes probes, and takes them away again.
func (s *script) subscribed(w *words, neg bool) error {
	g := party[*harness.Gateway](s, w, w.next("the gateway"))
	channel, name := w.next("the channel"), w.next("the client")
	number := 0
	probe := func() error {
		number++
		text := fmt.Sprintf("probe %d\n", number)
		body, err := json.Marshal(map[string]any{"items": []any{map[string]any{"channel": channel, "formats": map[string]any{
			"http-stream": map[string]string{"content": text}, "ws-message": map[string]string{"content": text}}}}})
		if err != nil {
			return err
		}
		return post(g, body)
	}
	if to, ok := s.parties[name].(socket); ok {
		if err := s.opened(w, to); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(s.wait(w)); ; {
		if err := probe(); err != nil {
			return err
		}
		if s.stirs(w, name, probeEvery) {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("subscribed: %s received none of %d probes of channel %q", name, number, channel)
		}
	}
	// One more, now that there is a subscription: after it none is under way.
	if err := probe(); err != nil {
		return err
	}
	last := fmt.Sprintf("probe %d\n", number)
	switch p := s.parties[name].(type) {
	case *harness.Client:
		for {
			line, err := s.data(w, p, regexp.MustCompile(`^probe \d+\n`))
			if err != nil || line == last {
				return err
			}
		}
	case socket:
		for {
			message, err := s.message(w, p)
			if err != nil || string(message.Payload) == last {
				return err
			}
			if !strings.HasPrefix(string(message.Payload), "probe ") {
				return fmt.Errorf("got %v, want a probe", message)
			}
		}
	}
	return fmt.Errorf("subscribed: %s is not a client", name)
}

// metric GATEWAY name{label="v"} [>=|<=|==] VALUE
func (s *script) metric(w *words, neg bool) error {
	g := party[*harness.Gateway](s, w, w.next("the gateway"))
	name, op := w.next("the metric"), "=="
	if w.more() && strings.ContainsAny(w.args[0], "=<>") {
		op = w.next("the comparison")
	}
	want, err := strconv.ParseFloat(w.next("the value"), 64)
	if err != nil {
		return err
	}
	var got string
	for deadline := time.Now().Add(s.wait(w)); ; time.Sleep(20 * time.Millisecond) { // a poll: metrics are asked for, they do not tell
		text, err := scrape(g)
		if err != nil {
			return err
		}
		got = "none"
		for line := range strings.Lines(text) {
			if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
				got = value
			}
		}
		if n, err := strconv.ParseFloat(got, 64); err == nil && (op == "==" && n == want || op == ">=" && n >= want || op == "<=" && n <= want) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("metric %s: got %s, want %s %v", name, got, op, want)
		}
	}
}

func scrape(g *harness.Gateway) (string, error) {
	response, err := http.Get("http://" + g.ControlAddr + "/metrics")
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return string(text), err
}

// log GATEWAY PATTERN waits for a line; ! log looks once.
func (s *script) log(w *words, neg bool) error {
	g := party[*harness.Gateway](s, w, w.next("the gateway"))
	pattern := w.pattern("a pattern")
	if neg {
		if match := pattern.FindString(g.Log()); match != "" {
			return fmt.Errorf("log: got %q, want nothing like %s", match, pattern)
		}
		return nil
	}
	if match, err := g.WaitLog(pattern, s.wait(w)); err != nil {
		return fmt.Errorf("got %q, want %s: %w", match, pattern, err)
	}
	return nil
}

// await GATEWAY METHOD TARGET STATUS asks again and again, until that is the answer.
func (s *script) await(w *words, neg bool) error {
	addr, tlsConfig := s.address(w)
	ask := harness.Ask{Method: w.next("the method"), Target: w.next("the target")}
	want := w.number("the status")
	got := 0
	for deadline := time.Now().Add(s.wait(w)); ; time.Sleep(probeEvery) { // a poll: what changes within the gateway does not tell
		client, err := harness.DialClient(addr, tlsConfig, false)
		if err != nil {
			return err
		}
		if err = client.Send(ask); err == nil {
			err = client.Seen.Wait(s.wait(w), func(pending []harness.Seen[harness.ClientEvent]) ([]harness.Seen[harness.ClientEvent], bool, error) {
				if len(pending) > 0 && pending[0].What.Head != nil {
					got = pending[0].What.Head.Status
				}
				return pending, len(pending) > 0, nil
			})
		}
		client.Close()
		if s.last = time.Now(); got == want {
			return nil
		}
		if err != nil || time.Now().After(deadline) {
			return fmt.Errorf("%s %s: got %d, want %d (%v)", ask.Method, ask.Target, got, want, err)
		}
	}
}

// signal GATEWAY TERM|INT|HUP|KILL
func (s *script) signal(w *words, neg bool) error {
	g := party[*harness.Gateway](s, w, w.next("the gateway"))
	name := w.next("the signal")
	signal, ok := map[string]os.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP, "KILL": syscall.SIGKILL, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT}[name]
	if !ok {
		return fmt.Errorf("signal %q: want TERM, INT, HUP, KILL, STOP or CONT", name)
	}
	return g.Signal(signal)
}

// exits GATEWAY CODE
func (s *script) exits(w *words, neg bool) error {
	g := party[*harness.Gateway](s, w, w.next("the gateway"))
	want := w.number("the exit code")
	got, err := g.Wait(s.wait(w))
	if err == nil && got != want {
		err = fmt.Errorf("exit code: got %d, want %d", got, want)
	}
	s.last = time.Now()
	return err
}

// clock NAME [last] starts a clock now, or at what was last expected.
func (s *script) clock(w *words, neg bool) error {
	name := w.next("the clock's name")
	s.clocks[name] = time.Now()
	if w.skip("last") {
		s.clocks[name] = s.last
	}
	return nil
}

// within CLOCK MIN MAX looks at when the last expected thing had happened.
// clockSlack is how much earlier than its clock a thing may have happened: the
// clock starts when a verb has ended.
const clockSlack = 100 * time.Millisecond

func (s *script) within(w *words, neg bool) error {
	name := w.next("the clock")
	start, ok := s.clocks[name]
	if !ok {
		return fmt.Errorf("no clock is called %q", name)
	}
	least, most := w.duration("the least"), w.duration("the most")
	got := s.last.Sub(start)
	if got < 0 && got > -clockSlack {
		got = 0 // it came while the verb before was still being carried out
	}
	if got < least || got > most {
		return fmt.Errorf("after %s: got %v, want %v to %v", name, got.Round(time.Millisecond), least, most)
	}
	return nil
}

// sign VARIABLE KEY ISS|- EXPIRES|- puts a Grip-Sig into a variable.
func (s *script) sign(w *words, neg bool) error {
	name, key := w.next("the variable"), w.next("the key")
	claims := map[string]any{}
	if iss := w.next("iss"); iss != "-" {
		claims["iss"] = iss
	}
	if !w.skip("-") {
		claims["exp"] = time.Now().Add(w.duration("when it expires")).Unix()
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return err
	}
	signed := base64.RawURLEncoding.EncodeToString([]byte(`{"typ":"JWT","alg":"HS256"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload)
	w.ts.Setenv(name, signed+"."+signature(signed, key))
	return nil
}

func signature(signed, key string) string {
	mac := hmac.New(sha256.New, []byte(key))
	io.WriteString(mac, signed)
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// expand FILE… puts variables into files of the script's archive.
func (s *script) expand(w *words, neg bool) error {
	for w.more() {
		path := w.ts.MkAbs(w.next("a file"))
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(os.Expand(string(data), w.ts.Getenv)), 0o600); err != nil {
			return err
		}
	}
	return nil
}
