package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gripway/gripway/integration/harness"
)

// The verbs of those who speak ZeroMQ.
func init() {
	verbs["zmq"] = (*script).zmq
	verbs["zmq-send"] = (*script).zmqSend
	verbs["zmq-expect"] = (*script).zmqExpect
}

// zmq NAME TYPE ENDPOINT
func (s *script) zmq(w *words, neg bool) error {
	name, kind := w.next("the socket's name"), w.next("its type")
	z, err := harness.DialZMQ(strings.ToUpper(kind), w.next("the endpoint"))
	if err != nil {
		return err
	}
	s.add(name, z)
	return nil
}

// zmq-send NAME PART…
func (s *script) zmqSend(w *words, neg bool) error {
	z := party[*harness.ZMQ](s, w, w.next("the socket"))
	return z.Send(w.parts()...)
}

// zmq-expect NAME PART… | until PART… | has C… | silent D
func (s *script) zmqExpect(w *words, neg bool) error {
	z := party[*harness.ZMQ](s, w, w.next("the socket"))
	if w.skip("silent") {
		return silent(&z.Seen, w.duration("how long"))
	}
	until, has := w.skip("until"), w.skip("has")
	want := w.parts()
	fits := func(got [][]byte) bool {
		if !has {
			return slices.EqualFunc(got, want, bytes.Equal)
		}
		last := got[len(got)-1]
		return !slices.ContainsFunc(want, func(part []byte) bool { return !bytes.Contains(last, part) })
	}
	return z.Seen.Wait(s.wait(w), func(pending []harness.Seen[[][]byte]) ([]harness.Seen[[][]byte], bool, error) {
		if s.peer { // what its readiness was probed with is subscribed for a while
			pending = slices.DeleteFunc(pending, func(seen harness.Seen[[][]byte]) bool {
				return bytes.HasSuffix(seen.What[0], []byte("harness-ready"))
			})
		}
		for until && len(pending) > 0 && !fits(pending[0].What) {
			pending = pending[1:]
		}
		if len(pending) == 0 {
			return pending, false, nil
		}
		if got := pending[0].What; !fits(got) {
			return pending, false, fmt.Errorf("got %q, want %q", got, want)
		}
		s.last = pending[0].At
		return pending[1:], true, nil
	})
}

// parts are contents, or tnet:JSON for what that is as a tnetstring.
func (w *words) parts() [][]byte {
	parts := [][]byte{}
	for w.more() {
		prefix, text, ok := strings.Cut(w.args[0], "tnet:")
		if !ok {
			parts = append(parts, w.content())
			continue
		}
		w.next("a part")
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		var value any
		if err := decoder.Decode(&value); err != nil {
			w.ts.Fatalf("%s: %q: %v", w.verb, text, err)
		}
		parts = append(parts, []byte(prefix+tnetstring(value)))
	}
	return parts
}

// tnetstring writes a value of JSON, the members of an object in their order.
func tnetstring(value any) string {
	kind, text := "", ""
	switch v := value.(type) {
	case nil:
		kind = "~"
	case string:
		kind, text = ",", v
	case bool:
		kind, text = "!", fmt.Sprint(v)
	case json.Number:
		kind, text = "#", v.String()
		if strings.ContainsAny(text, ".eE") {
			kind = "^"
		}
	case []any:
		kind = "]"
		for _, element := range v {
			text += tnetstring(element)
		}
	case map[string]any:
		kind = "}"
		for _, name := range slices.Sorted(maps.Keys(v)) {
			text += tnetstring(name) + tnetstring(v[name])
		}
	}
	return fmt.Sprintf("%d:%s%s", len(text), text, kind)
}
