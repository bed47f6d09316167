package sockjs

import (
	"encoding/json"
	"slices"
	"testing"
)

func TestMessagesArriveAsTheyWere(t *testing.T) {
	for _, text := range []string{"", "hello", `"quoted" \ back`, "line\nline\r\ttab", "\x00\x1f\x7f", "ünï \u200c\u2028\u2060\ufff0\uffff", "\U0001f375", "</script>"} {
		frame := appendMessages(nil, [][]byte{[]byte(text), []byte("next")})
		var got []string
		if err := json.Unmarshal(frame[1:], &got); err != nil || frame[0] != 'a' || !slices.Equal(got, []string{text, "next"}) {
			t.Errorf("%q: got %q from %s, %v", text, got, frame, err)
		}
		for _, r := range string(frame) {
			if fragile(r) {
				t.Errorf("%q: %s has %q, which some browser loses", text, frame, r)
			}
		}
	}
}

func TestCloseFramesSayCodeAndReason(t *testing.T) {
	if got, want := closeFrame(3000, `Go "away"!`), `c[3000,"Go \"away\"!"]`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestOnlyListsOfTextsAreTaken(t *testing.T) {
	tests := []struct {
		name, payload string
		socket        bool
		want          []string
		refused       bool
	}{
		{"list", `["a","b"]`, false, []string{"a", "b"}, false},
		{"blank before", " \n[\"a\"]", false, []string{"a"}, false},
		{"empty list", `[]`, false, nil, false},
		{"a text alone", `"a"`, false, nil, true},
		{"a text alone from a WebSocket", `"a"`, true, []string{"a"}, false},
		{"half a text", `"a`, true, nil, true},
		{"null", `null`, false, nil, true},
		{"null within", `[null]`, false, nil, true},
		{"number", `[1]`, false, nil, true},
		{"object", `{"a":1}`, false, nil, true},
		{"cut", `["a`, false, nil, true},
		{"more behind", `["a"]x`, false, nil, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			read := readMessages
			if test.socket {
				read = readSocketMessages
			}
			got, err := read([]byte(test.payload))
			if (err != nil) != test.refused || !slices.Equal(got, test.want) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func FuzzReadMessages(f *testing.F) {
	for _, seed := range []string{`["a"]`, `"a"`, `[`, `[["a"]]`, "\"\\ud800\""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		messages, err := readSocketMessages(payload)
		if err != nil {
			return
		}
		raw := make([][]byte, len(messages))
		for i, message := range messages {
			raw[i] = []byte(message)
		}
		again, err := readMessages(appendMessages(nil, raw)[1:])
		if err != nil || !slices.Equal(again, messages) {
			t.Errorf("got %q, %v, want %q", again, err, messages)
		}
	})
}
