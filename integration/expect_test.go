package integration

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gripway/gripway/integration/harness"
)

// expect NAME … waits for what NAME sees next. What it finds is taken away, so
// that the next expect sees what comes after.
func (s *script) expect(w *words, neg bool) error {
	name := w.next("who")
	if !w.more() {
		return errors.New("expect: what?")
	}
	found, ok := s.parties[name]
	if !ok {
		return fmt.Errorf("nobody is called %q", name)
	}
	var err error
	switch p := found.(type) {
	case *harness.Client:
		err = s.expectClient(w, p)
	case *harness.Origin:
		err = s.expectOrigin(w, p)
	case *harness.Feed[harness.NATSMessage]:
		err = s.expectNATS(w, p)
	case socket:
		err = s.expectSocket(w, p)
	default:
		err = fmt.Errorf("a %T sees nothing", found)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// expect CLIENT [STATUS] [reason R] [proto P] ['Name: value'] ['!Name'] [body C | body~ RE | body.len N] [data C | data~ RE | data.len N] [trailer 'Name: value'] [end | cut | eof | gone] [silent D]
func (s *script) expectClient(w *words, c *harness.Client) error {
	for w.more() {
		switch word := w.next("what"); {
		case isStatus.MatchString(word):
			want, _ := strconv.Atoi(word)
			if err := s.status(w, c, want); err != nil {
				return err
			}
		case word == "end" || word == "cut" || word == "eof":
			want := word
			err := s.clientEvent(w, c, "want "+want, func(e harness.ClientEvent) bool {
				return want == "end" && e.End || want == "cut" && e.Cut != nil || want == "eof" && e.Closed != nil
			})
			if err != nil {
				return err
			}
		case word == "gone":
			err := c.Seen.Wait(s.wait(w), func(pending []harness.Seen[harness.ClientEvent]) ([]harness.Seen[harness.ClientEvent], bool, error) {
				for i, e := range pending {
					if e.What.Cut != nil || e.What.Closed != nil {
						s.last = e.At
						return pending[i+1:], true, nil
					}
				}
				return pending, false, nil
			})
			if err != nil {
				return fmt.Errorf("want gone: %w; got so far:\n%s", err, list(c.Seen.Pending()))
			}
		case word == "silent":
			if err := silent(&c.Seen, w.duration("how long")); err != nil {
				return err
			}
		case strings.HasPrefix(word, "body"):
			whole, err := s.rest(w, c)
			if err != nil {
				return err
			}
			if err := compare(w, word, "body", whole); err != nil {
				return err
			}
		case word == "data":
			want := w.content()
			if _, err := s.bytes(w, c, len(want), want); err != nil {
				return err
			}
		case word == "data.len":
			if _, err := s.bytes(w, c, w.number("how many bytes"), nil); err != nil {
				return err
			}
		case word == "data~":
			if _, err := s.data(w, c, w.pattern("a pattern")); err != nil {
				return err
			}
		case word == "trailer":
			want, err := harness.ParseField(w.next("the trailer"))
			if err != nil {
				return err
			}
			err = s.clientEvent(w, c, fmt.Sprintf("want trailer %v", want), func(e harness.ClientEvent) bool {
				return e.Trailer != nil && slices.ContainsFunc(e.Trailer.Values(want.Name), func(got string) bool { return fits(want.Value, got) })
			})
			if err != nil {
				return err
			}
		default:
			head := s.heads[c]
			if head == nil {
				return fmt.Errorf("expect: %q, but no status was expected before", word)
			}
			if err := checkHead(w, word, head); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkHead looks at one property of a response's head.
func checkHead(w *words, word string, head *harness.Response) error {
	switch {
	case word == "reason":
		if want := w.next("the reason"); head.Reason != want {
			return fmt.Errorf("reason: got %q, want %q", head.Reason, want)
		}
	case word == "proto":
		if want := w.next("the version"); head.Proto != want {
			return fmt.Errorf("protocol: got %q, want %q", head.Proto, want)
		}
	case isHeader.MatchString(word) || isNoHeader.MatchString(word):
		return checkHeader(word, head.Header)
	default:
		return fmt.Errorf("expect: %q is nothing that can be expected here", word)
	}
	return nil
}

// checkHeader looks at 'Name: value' or '!Name', also '!Prefix-*'.
func checkHeader(word string, header harness.Header) error {
	if name, ok := strings.CutPrefix(word, "!"); ok {
		prefix, wild := strings.CutSuffix(strings.ToLower(name), "*")
		for _, field := range header {
			lower := strings.ToLower(field.Name)
			if lower == prefix || wild && strings.HasPrefix(lower, prefix) {
				return fmt.Errorf("got header line %s: %s, want none; all:\n%s", field.Name, field.Value, header)
			}
		}
		return nil
	}
	want, err := harness.ParseField(word)
	if err != nil {
		return err
	}
	values := header.Values(want.Name)
	if fits(want.Value, strings.Join(values, ", ")) || slices.ContainsFunc(values, func(got string) bool { return fits(want.Value, got) }) {
		return nil
	}
	return fmt.Errorf("header %s: got %q, want %q; all:\n%s", want.Name, values, want.Value, header)
}

// compare looks at a whole content: body C, body~ RE or body.len N.
func compare(w *words, word, name string, got []byte) error {
	switch word {
	case name:
		if want := w.content(); !bytes.Equal(got, want) {
			return fmt.Errorf("%s: got %s, want %s", name, harness.Quote(got), harness.Quote(want))
		}
	case name + "~":
		if want := w.pattern("a pattern"); !want.Match(got) {
			return fmt.Errorf("%s: got %s, want %s", name, harness.Quote(got), want)
		}
	case name + ".len":
		if want := w.number("how many bytes"); len(got) != want {
			return fmt.Errorf("%s: got %d bytes, want %d", name, len(got), want)
		}
	default:
		return fmt.Errorf("expect: %q is nothing that can be expected here", word)
	}
	return nil
}

// clientEvent takes the next event, if it is as wanted.
func (s *script) clientEvent(w *words, c *harness.Client, want string, is func(harness.ClientEvent) bool) error {
	err := c.Seen.Wait(s.wait(w), func(pending []harness.Seen[harness.ClientEvent]) ([]harness.Seen[harness.ClientEvent], bool, error) {
		if len(pending) == 0 {
			return pending, false, nil
		}
		if !is(pending[0].What) {
			return pending, false, fmt.Errorf("got %v", pending[0].What)
		}
		s.last = pending[0].At
		return pending[1:], true, nil
	})
	if err != nil {
		return fmt.Errorf("%w, %s", err, want)
	}
	return nil
}

// status takes the next response's head, and first what is left of the response
// before, if that is complete.
func (s *script) status(w *words, c *harness.Client, want int) error {
	if s.heads[c] != nil {
		err := c.Seen.Wait(s.wait(w), func(pending []harness.Seen[harness.ClientEvent]) ([]harness.Seen[harness.ClientEvent], bool, error) {
			for i, e := range pending {
				if e.What.End {
					return pending[i+1:], true, nil
				}
				if e.What.Data == nil && e.What.Trailer == nil {
					return pending, true, nil
				}
			}
			return pending, false, nil
		})
		if err != nil {
			return fmt.Errorf("the response before has no end: %w; got:\n%s", err, list(c.Seen.Pending()))
		}
	}
	return s.clientEvent(w, c, fmt.Sprintf("want status %d", want), func(e harness.ClientEvent) bool {
		if e.Head != nil && e.Head.Status == want {
			s.heads[c] = e.Head
			return true
		}
		return false
	})
}

// rest takes the whole body, to its end.
func (s *script) rest(w *words, c *harness.Client) ([]byte, error) {
	var body []byte
	err := c.Seen.Wait(s.wait(w), func(pending []harness.Seen[harness.ClientEvent]) ([]harness.Seen[harness.ClientEvent], bool, error) {
		body = body[:0]
		for i, e := range pending {
			switch {
			case e.What.Data != nil:
				body = append(body, e.What.Data...)
			case e.What.Trailer != nil:
			case e.What.End:
				s.last = e.At
				return pending[i+1:], true, nil
			default:
				return pending, false, fmt.Errorf("got %s and then %v, want the whole body", harness.Quote(body), e.What)
			}
		}
		return pending, false, nil
	})
	if errors.Is(err, harness.ErrSilence) {
		err = fmt.Errorf("body: got %s without an end: %w", harness.Quote(body), err)
	}
	return body, err
}

// bytes takes the next n bytes of a body; they are want, unless that is nil.
func (s *script) bytes(w *words, c *harness.Client, n int, want []byte) ([]byte, error) {
	var got []byte
	err := s.pieces(w, c, func(data []byte) (take int, err error) {
		got = data[:min(n, len(data))]
		if want != nil && !bytes.HasPrefix(want, got) {
			return 0, fmt.Errorf("data: got %s, want %s", harness.Quote(data), harness.Quote(want))
		}
		if len(got) < n {
			return -1, nil
		}
		return n, nil
	})
	if err != nil && want != nil && !strings.HasPrefix(err.Error(), "data:") {
		err = fmt.Errorf("data: got %s, want %s: %w", harness.Quote(got), harness.Quote(want), err)
	}
	return got, err
}

// data takes what pattern matches, which must be at the front of what comes.
func (s *script) data(w *words, c *harness.Client, pattern *regexp.Regexp) (string, error) {
	var got, all string
	err := s.pieces(w, c, func(data []byte) (take int, err error) {
		all = string(data)
		at := pattern.FindIndex(data)
		if at == nil {
			return -1, nil
		}
		got = string(data[at[0]:at[1]])
		return at[1], nil
	})
	if err != nil {
		err = fmt.Errorf("data: got %s, want %s: %w", harness.Quote([]byte(all)), pattern, err)
	}
	return got, err
}

// pieces shows look the data that is there, again whenever there is more, until
// it takes some; -1 is none yet.
func (s *script) pieces(w *words, c *harness.Client, look func(data []byte) (take int, err error)) error {
	return c.Seen.Wait(s.wait(w), func(pending []harness.Seen[harness.ClientEvent]) ([]harness.Seen[harness.ClientEvent], bool, error) {
		var data []byte
		n := 0
		for ; n < len(pending) && pending[n].What.Data != nil; n++ {
			data = append(data, pending[n].What.Data...)
		}
		take, err := look(data)
		if err != nil {
			return pending, false, err
		}
		if take < 0 {
			if n < len(pending) {
				return pending, false, fmt.Errorf("got %v", pending[n].What)
			}
			return pending, false, nil
		}
		for left := take; left > 0; {
			s.last = pending[0].At
			piece := pending[0].What.Data
			if len(piece) > left {
				pending[0].What.Data = piece[left:]
				break
			}
			left -= len(piece)
			pending = pending[1:]
		}
		return pending, true, nil
	})
}

// expect SOCKET open | STATUS ['Name: value'] ['!Name'] [body C]
// expect SOCKET [times N] text|binary C | text~ RE | text.len N
// expect SOCKET ping|pong C | close [CODE [REASON]] | frame fin=0,op=1 C | eof | gone | silent D
func (s *script) expectSocket(w *words, p socket) error {
	feed := seen(p)
	for w.more() {
		word := w.next("what")
		if word != "open" && !isStatus.MatchString(word) {
			if err := s.opened(w, p); err != nil {
				return err
			}
		}
		switch kind := strings.TrimSuffix(strings.TrimSuffix(word, "~"), ".len"); {
		case word == "open" || isStatus.MatchString(word):
			err := take(s, w, feed, "want "+word, func(e harness.SocketEvent) bool {
				switch {
				case e.Open != nil && (word == "open" || word == "101"):
					s.heads[p] = e.Open
					return true
				case e.Rejected != nil && strconv.Itoa(e.Rejected.Status) == word:
					s.heads[p] = e.Rejected
					return true
				}
				return false
			})
			if err != nil {
				return err
			}
		case word == "eof":
			err := take(s, w, feed, "want the end of the connection", func(e harness.SocketEvent) bool { return e.End != nil })
			if err != nil {
				return err
			}
		case word == "gone":
			for {
				ended := false
				if err := take(s, w, feed, "want the end of the connection", func(e harness.SocketEvent) bool { ended = e.End != nil; return true }); err != nil {
					return err
				}
				if ended {
					break
				}
			}
		case word == "silent":
			if err := silent(feed, w.duration("how long")); err != nil {
				return err
			}
		case word == "times":
			times, kind, want := w.number("how often"), w.next("text or binary"), w.content()
			for i := range times {
				message, err := s.message(w, p)
				if err != nil || message.Op != opcodes[kind] || !bytes.Equal(message.Payload, want) {
					return fmt.Errorf("message %d of %d: got %v (%v), want %s %s", i+1, times, message, err, kind, harness.Quote(want))
				}
			}
		case word == "close":
			if err := s.expectClose(w, feed); err != nil {
				return err
			}
		case word == "frame":
			fields := w.next("the frame's fields")
			want := w.content()
			err := take(s, w, feed, fmt.Sprintf("want frame %s %s", fields, harness.Quote(want)), func(e harness.SocketEvent) bool {
				if e.Frame == nil || !bytes.Equal(e.Frame.Payload, want) {
					return false
				}
				shown := map[string]string{"fin": bit(e.Frame.Fin), "op": strconv.Itoa(int(e.Frame.Op)), "rsv": strconv.Itoa(int(e.Frame.RSV))}
				for field := range strings.SplitSeq(fields, ",") {
					key, value, _ := strings.Cut(field, "=")
					if shown[key] != value {
						return false
					}
				}
				return true
			})
			if err != nil {
				return err
			}
		case kind == "text" || kind == "binary" || kind == "ping" || kind == "pong":
			message, err := s.message(w, p)
			if err != nil {
				return fmt.Errorf("%w, want %s %s", err, kind, strings.Join(w.args, " "))
			}
			if message.Op != opcodes[kind] {
				return fmt.Errorf("got %v, want %s %s", message, kind, strings.Join(w.args, " "))
			}
			if err := compare(w, word, kind, message.Payload); err != nil {
				return err
			}
		case strings.HasPrefix(word, "body"):
			if err := compare(w, word, "body", s.heads[p].Body); err != nil {
				return err
			}
		default:
			if s.heads[p] == nil {
				return fmt.Errorf("expect: %q is nothing that can be expected here", word)
			}
			if err := checkHead(w, word, s.heads[p]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *script) expectClose(w *words, feed *harness.Feed[harness.SocketEvent]) error {
	want := "want a close without a code"
	check := func(payload []byte) bool { return len(payload) == 0 }
	if w.more() && isCode.MatchString(w.args[0]) {
		code := w.number("the code")
		want = fmt.Sprintf("want close %d", code)
		check = func(payload []byte) bool { return bytes.HasPrefix(payload, harness.CloseContent(code, "")) }
		if w.more() && !isSocketWord[w.args[0]] {
			reason := w.next("the reason")
			want += fmt.Sprintf(" %q", reason)
			check = func(payload []byte) bool { return bytes.Equal(payload, harness.CloseContent(code, reason)) }
		}
	}
	return take(s, w, feed, want, func(e harness.SocketEvent) bool {
		return e.Frame != nil && e.Frame.Op == harness.OpClose && e.Frame.Fin && check(e.Frame.Payload)
	})
}

var (
	isCode       = regexp.MustCompile(`^\d{1,5}$`)
	isSocketWord = map[string]bool{"eof": true, "gone": true, "silent": true}
)

func bit(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// opened waits for the handshake, unless the script has looked at it.
func (s *script) opened(w *words, p socket) error {
	if s.heads[p] != nil {
		return nil
	}
	return take(s, w, seen(p), "want the handshake to succeed", func(e harness.SocketEvent) bool {
		s.heads[p] = e.Open
		return e.Open != nil
	})
}

// message takes the next frame, or the frames of the next message.
func (s *script) message(w *words, p socket) (harness.Frame, error) {
	var message harness.Frame
	err := seen(p).Wait(s.wait(w), func(pending []harness.Seen[harness.SocketEvent]) ([]harness.Seen[harness.SocketEvent], bool, error) {
		for i, e := range pending {
			frame := e.What.Frame
			switch {
			case frame == nil || frame.RSV != 0:
				return pending, false, fmt.Errorf("got %v", e.What)
			case i == 0:
				message = *frame
				message.Payload = slices.Clone(frame.Payload)
			case frame.Op != harness.OpContinuation:
				return pending, false, fmt.Errorf("got %v within a message", e.What)
			default:
				message.Payload = append(message.Payload, frame.Payload...)
			}
			if frame.Fin {
				s.last = e.At
				return pending[i+1:], true, nil
			}
		}
		return pending, false, nil
	})
	return message, err
}

// take takes the next event of a feed, if it is as wanted.
func take[E any](s *script, w *words, feed *harness.Feed[E], want string, is func(E) bool) error {
	err := feed.Wait(s.wait(w), func(pending []harness.Seen[E]) ([]harness.Seen[E], bool, error) {
		if len(pending) == 0 {
			return pending, false, nil
		}
		if !is(pending[0].What) {
			return pending, false, fmt.Errorf("got %v", pending[0].What)
		}
		s.last = pending[0].At
		return pending[1:], true, nil
	})
	if err != nil {
		return fmt.Errorf("%w, %s", err, want)
	}
	return nil
}

// silent wants nothing to come for a time.
func silent[E any](feed *harness.Feed[E], d time.Duration) error {
	err := feed.Wait(d, func(pending []harness.Seen[E]) ([]harness.Seen[E], bool, error) {
		if len(pending) > 0 {
			return pending, false, fmt.Errorf("got %v, want silence", pending[0].What)
		}
		return pending, false, nil
	})
	if errors.Is(err, harness.ErrSilence) {
		return nil
	}
	return err
}

// listMax is how much of a feed a failure shows: the last.
const listMax = 10

// list shows what a feed holds, one a line.
func list[E any](pending []harness.Seen[E]) string {
	if len(pending) == 0 {
		return "\tnothing\n"
	}
	var b strings.Builder
	if more := len(pending) - listMax; more > 0 {
		fmt.Fprintf(&b, "\t… %d before …\n", more)
		pending = pending[more:]
	}
	for _, e := range pending {
		fmt.Fprintf(&b, "\t%v\n", e.What)
	}
	return b.String()
}

// expect ORIGIN saw METHOD TARGET ['Name: value'] ['!Name'] [body C] [events E…] [signed KEY ISS] [trailer 'Name: value'] [keep VARIABLE HEADER]
// expect ORIGIN none METHOD TARGET
// expect ORIGIN silent D
func (s *script) expectOrigin(w *words, o *harness.Origin) error {
	switch word := w.next("what"); word {
	case "silent":
		return silent(&o.Requests, w.duration("how long"))
	case "none":
		method, target := w.next("the method"), w.next("the target")
		for _, e := range o.Requests.Pending() {
			if method == e.What.Method && harness.SameTarget(target, e.What.Target) {
				return fmt.Errorf("got a request, want none:\n%v", e.What)
			}
		}
		return nil
	case "saw":
	default:
		return fmt.Errorf("expect: %q: want saw, none or silent", word)
	}
	method, target := w.next("the method"), w.next("the target")
	var request harness.Request
	err := o.Requests.Wait(s.wait(w), func(pending []harness.Seen[harness.Request]) ([]harness.Seen[harness.Request], bool, error) {
		for i, e := range pending {
			if (method == "*" || method == e.What.Method) && harness.SameTarget(target, e.What.Target) {
				request, s.last = e.What, e.At
				return slices.Delete(pending, i, i+1), true, nil
			}
		}
		return pending, false, nil
	})
	if err != nil {
		return fmt.Errorf("want %s %s: %w; got:\n%s", method, target, err, list(o.Requests.Pending()))
	}
	for w.more() {
		if err := s.checkRequest(w, w.next("a property"), request); err != nil {
			return fmt.Errorf("%w\nthe request was:\n%v", err, request)
		}
	}
	return nil
}

func (s *script) checkRequest(w *words, word string, request harness.Request) error {
	switch {
	case word == "signed":
		return signed(request.Header.Values("Grip-Sig"), w.next("the key"), w.next("iss"))
	case word == "broken":
		if request.Err == nil {
			return errors.New("the request's body is complete, it should not be")
		}
		return nil
	case request.Err != nil:
		return fmt.Errorf("body: %w", request.Err)
	case word == "events":
		var want []byte
		for w.more() {
			want = harness.AppendEvent(want, w.event())
		}
		if !bytes.Equal(request.Body, want) {
			return fmt.Errorf("events: got %s, want %s", harness.Quote(request.Body), harness.Quote(want))
		}
		return nil
	case strings.HasPrefix(word, "body"):
		return compare(w, word, "body", request.Body)
	case word == "trailer":
		return checkHeader(w.next("the trailer"), request.Trailer)
	case word == "keep":
		variable, name := w.next("the variable"), w.next("the header")
		values := request.Header.Values(name)
		if len(values) != 1 {
			return fmt.Errorf("%s: got %d lines %q, want one to keep", name, len(values), values)
		}
		w.ts.Setenv(variable, values[0])
		return nil
	case isHeader.MatchString(word) || isNoHeader.MatchString(word):
		return checkHeader(word, request.Header)
	}
	return fmt.Errorf("expect: %q is nothing a request can be expected to have", word)
}

// signed wants one Grip-Sig as the reference has it in 1.3: HS256, the claims
// iss and exp only, exp an hour from now.
func signed(values []string, key, iss string) error {
	if len(values) != 1 {
		return fmt.Errorf("Grip-Sig: got %d lines %q, want one", len(values), values)
	}
	parts := strings.Split(values[0], ".")
	if len(parts) != 3 {
		return fmt.Errorf("Grip-Sig: got %q, want three parts", values[0])
	}
	var head, claims map[string]any
	for i, into := range []*map[string]any{&head, &claims} {
		data, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err == nil {
			err = json.Unmarshal(data, into)
		}
		if err != nil {
			return fmt.Errorf("Grip-Sig part %d: %w", i+1, err)
		}
	}
	if len(head) != 2 || head["typ"] != "JWT" || head["alg"] != "HS256" {
		return fmt.Errorf("Grip-Sig header: got %v, want typ JWT and alg HS256", head)
	}
	exp, _ := claims["exp"].(float64)
	if life := time.Until(time.Unix(int64(exp), 0)); len(claims) != 2 || claims["iss"] != iss || life < 3590*time.Second || life > 3605*time.Second {
		return fmt.Errorf("Grip-Sig claims: got %v, want iss %q and exp in an hour only", claims, iss)
	}
	if got, want := parts[2], signature(parts[0]+"."+parts[1], key); got != want {
		return fmt.Errorf("Grip-Sig signature: got %q, want %q", got, want)
	}
	return nil
}

// expect SUBSCRIBER message SUBJECT C | message~ SUBJECT RE | silent D
func (s *script) expectNATS(w *words, feed *harness.Feed[harness.NATSMessage]) error {
	word := w.next("what")
	if word == "silent" {
		return silent(feed, w.duration("how long"))
	}
	subject := w.next("the subject")
	var message harness.NATSMessage
	err := take(s, w, feed, "want a message on "+subject, func(m harness.NATSMessage) bool {
		message = m
		return m.Subject == subject
	})
	if err != nil {
		return err
	}
	return compare(w, word, "message", message.Data)
}
