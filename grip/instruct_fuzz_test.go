package grip

import (
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

func FuzzParseInstruction(f *testing.F) {
	for _, seed := range seeds(f, "header") {
		f.Add(seed, []byte(nil))
	}
	for _, seed := range seeds(f, "body") {
		f.Add("Grip-Channel: a\nContent-Type: application/grip-instruct", []byte(seed))
	}
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		h := make(http.Header)
		for line := range strings.SplitSeq(header, "\n") {
			if name, value, ok := strings.Cut(line, ":"); ok {
				h.Add(name, strings.Trim(value, " \t\r"))
			}
		}
		in, err := ParseInstruction(200, h, body)
		if err != nil {
			var refused *InstructError
			if !errors.As(err, &refused) || refused.Text == "" || in != nil {
				t.Fatalf("error %#v with instruction %v", err, in)
			}
			return
		}
		inHeader := *in
		inHeader.Response = nil
		written := make(http.Header)
		if err := inHeader.WriteHeader(written); err == nil {
			again, err := ParseInstruction(200, written, nil)
			if err != nil {
				t.Fatalf("headers that we wrote are refused: %v: %v", err, written)
			}
			if !reflect.DeepEqual(again, &inHeader) {
				t.Fatalf("written as headers and read again:\n%+v, want\n%+v", again, &inHeader)
			}
		} else if !errors.Is(err, ErrNotForHeader) {
			t.Fatal(err)
		}
		if in.Response == nil || in.Hold == HoldNone {
			return
		}
		inBody := Instruction{Hold: in.Hold, Channels: in.Channels, Timeout: in.Timeout, KeepAlive: in.KeepAlive, Meta: in.Meta, Response: in.Response}
		writtenBody, err := inBody.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseInstruction(200, http.Header{"Content-Type": {InstructType}}, writtenBody)
		if err != nil {
			t.Fatalf("a body that we wrote is refused: %v: %s", err, writtenBody)
		}
		if len(inBody.Response.Body) == 0 {
			inBody.Response.Body, again.Response.Body = nil, nil
		}
		if !reflect.DeepEqual(again, &inBody) {
			t.Fatalf("written as a body and read again:\n%+v, want\n%+v", again, &inBody)
		}
	})
}
