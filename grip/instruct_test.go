package grip_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gripway/gripway/grip"
)

func TestAnswersAskForWhatOthersReadInThem(t *testing.T) {
	check(t, "instruct_valid.txtar", instructVector)
}

func TestBadInstructionsAreRefusedInPushpinsWords(t *testing.T) {
	check(t, "instruct_invalid.txtar", instructVector)
}

func instructVector(v *vector) ([]string, error) {
	if !grip.IsInstruction(v.header) {
		return nil, errors.New("not taken for an instruction")
	}
	in, err := grip.ParseInstruction(v.status, v.header, []byte(v.body))
	if err != nil {
		return nil, err
	}
	return describe(in), nil
}

// describe says what an instruction asks for, leaving out what it does not.
func describe(in *grip.Instruction) (lines []string) {
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if in.Hold != grip.HoldNone {
		say("hold %s", in.Hold)
	}
	for _, channel := range in.Channels {
		line := fmt.Sprintf("channel %q", channel.Name)
		if channel.Pattern {
			line = fmt.Sprintf("pattern %q", channel.Name)
		}
		if channel.PrevID != "" {
			line += fmt.Sprintf(" prev-id %q", channel.PrevID)
		}
		if channel.Filters != nil {
			line += fmt.Sprintf(" filters %q", channel.Filters)
		}
		lines = append(lines, line)
	}
	if in.Timeout == grip.AtOnce {
		say("timeout at once")
	} else if in.Timeout != 0 {
		say("timeout %v", in.Timeout)
	}
	if k := in.KeepAlive; k != nil {
		say("keep-alive %q %s %v", k.Content, k.Mode, k.Timeout)
	}
	for _, name := range slices.Sorted(maps.Keys(in.Meta)) {
		say("meta %q = %q", name, in.Meta[name])
	}
	if in.Next != nil && in.Next.Timeout == grip.AtOnce {
		say("next %q at once", in.Next.URI)
	} else if in.Next != nil {
		say("next %q %v", in.Next.URI, in.Next.Timeout)
	}
	if in.Gone != nil {
		say("gone %q", in.Gone.URI)
	}
	if in.Status != 0 {
		say("status %d %s", in.Status, in.Reason)
	}
	if in.ExposeHeaders != nil {
		say("expose %q", in.ExposeHeaders)
	}
	if r := in.Response; r != nil {
		say("response %d %s", r.Code, r.Reason)
		for _, name := range slices.Sorted(maps.Keys(r.Header)) {
			for _, value := range r.Header[name] {
				say("response header %s: %s", name, value)
			}
		}
		if len(r.Body) > 0 {
			say("response body %q", r.Body)
		}
	}
	return lines
}

func TestAnyGripHeaderMakesAnInstruction(t *testing.T) {
	for _, tc := range []struct {
		name, header, value string
		want                bool
	}{
		{"a hold", "Grip-Hold", "stream", true},
		{"a header nobody knows", "Grip-Foo", "", true},
		{"in lower case, as a guest may set it", "grip-foo", "", true},
		{"the JSON form", "Content-Type", "application/grip-instruct", true},
		{"the JSON form with a parameter", "Content-Type", "application/grip-instruct ; charset=utf-8", true},
		{"the JSON form in capitals, which Pushpin does not know", "Content-Type", "Application/Grip-Instruct", false},
		{"a name that only begins alike", "Gripping", "x", false},
		{"JSON", "Content-Type", "application/json", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := grip.IsInstruction(http.Header{tc.header: {tc.value}}); got != tc.want {
				t.Errorf("IsInstruction = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestStripHeaderLeavesNoGripHeader(t *testing.T) {
	h := http.Header{"Grip-Hold": {"x"}, "grip-sig": {"x"}, "GRIP-": {"x"}, "Grip": {"x"}, "X-Grip-Hold": {"x"}}
	grip.StripHeader(h)
	if len(h) != 2 || h["Grip"] == nil || h["X-Grip-Hold"] == nil {
		t.Errorf("left: %v", h)
	}
}

func TestOnlyTheJSONFormHasAResponse(t *testing.T) {
	h := http.Header{"Grip-Hold": {"stream"}}
	in, err := grip.ParseInstruction(404, h, []byte("{"))
	if err != nil || in.Response != nil {
		t.Errorf("headers: %+v, %v", in, err)
	}
	h.Set("Content-Type", grip.InstructType)
	in, err = grip.ParseInstruction(200, h, []byte("{}"))
	if err != nil || in.Response == nil || in.Hold != grip.HoldStream {
		t.Errorf("JSON: %+v, %v", in, err)
	}
}

func TestInstructionKeepsNothingOfTheBody(t *testing.T) {
	body := []byte(`{"hold":{"mode":"stream","channels":[{"name":"a"}],"keep-alive":{"content":"kkk"}},"response":{"body":"bbb"}}`)
	in, err := grip.ParseInstruction(200, http.Header{"Content-Type": {grip.InstructType}}, body)
	if err != nil {
		t.Fatal(err)
	}
	clear(body)
	if in.Channels[0].Name != "a" || string(in.KeepAlive.Content) != "kkk" || string(in.Response.Body) != "bbb" {
		t.Errorf("changed with the body: %+v", in)
	}
}

// A hold with a hundred thousand channels must not cost their square.
func TestManyChannelsAreMergedInTime(t *testing.T) {
	var names strings.Builder
	for i := range 200_000 {
		fmt.Fprintf(&names, "c%d,", i%100_000)
	}
	start := time.Now()
	in, err := grip.ParseInstruction(200, http.Header{"Grip-Channel": {names.String()}}, nil)
	if err != nil || len(in.Channels) != 100_000 {
		t.Fatalf("%d channels, %v", len(in.Channels), err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestInstructionIsWrittenAsHeaders(t *testing.T) {
	h := http.Header{"Grip-Hold": {"response"}, "Grip-Timeout": {"5"}, "Content-Type": {"text/plain"}, "Grip-Foo": {"1"}}
	err := (&grip.Instruction{
		Hold:          grip.HoldStream,
		Channels:      []grip.Channel{{Name: "a b", PrevID: "7"}, {Name: "é", PrevID: `x"y`, Filters: []string{"skip-self"}}},
		KeepAlive:     &grip.KeepAlive{Content: []byte(" ;\n\t\\"), Mode: grip.KeepAliveInterval},
		Meta:          map[string]string{"user": "ann", "greeting": "hello, you"},
		Next:          &grip.Link{URI: "/next?a=1,2", Timeout: 1500 * time.Millisecond},
		Gone:          &grip.Link{URI: "/gone"},
		Status:        304,
		ExposeHeaders: []string{"X-A", "X-B"},
	}).WriteHeader(h)
	if err != nil {
		t.Fatal(err)
	}
	want := http.Header{
		"Content-Type":        {"text/plain"},
		"Grip-Foo":            {"1"},
		"Grip-Hold":           {"stream"},
		"Grip-Channel":        {"a b; prev-id=7", `é; prev-id="x\"y"; filter=skip-self`},
		"Grip-Keep-Alive":     {`\x20\x3b\n\x09\\; format=cstring; timeout=55; mode=interval`},
		"Grip-Set-Meta":       {`greeting="hello, you"`, "user=ann"},
		"Grip-Link":           {"</next?a=1,2>; rel=next; timeout=2", "</gone>; rel=gone"},
		"Grip-Status":         {"304"},
		"Grip-Expose-Headers": {"X-A, X-B"},
	}
	for name := range want {
		if !slices.Equal(h[name], want[name]) {
			t.Errorf("%s: %q, want %q", name, h[name], want[name])
		}
	}
	if len(h) != len(want) {
		t.Errorf("headers %v, want %v", h, want)
	}
}

func TestWhatNoHeaderCanSayIsAnErrorAndWritesNothing(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   grip.Instruction
	}{
		{"a comma in a channel", grip.Instruction{Channels: []grip.Channel{{Name: "a,b"}}}},
		{"a semicolon in a channel", grip.Instruction{Channels: []grip.Channel{{Name: "a;b"}}}},
		{"space around a channel", grip.Instruction{Channels: []grip.Channel{{Name: " a"}}}},
		{"a line end in a channel", grip.Instruction{Channels: []grip.Channel{{Name: "a\r\nX: y"}}}},
		{"a line end in an id", grip.Instruction{Channels: []grip.Channel{{Name: "a", PrevID: "a\nb"}}}},
		{"a line end in a filter", grip.Instruction{Channels: []grip.Channel{{Name: "a", Filters: []string{"\n"}}}}},
		{"a channel without a name", grip.Instruction{Channels: []grip.Channel{{}}}},
		{"bytes that are not UTF-8", grip.Instruction{Channels: []grip.Channel{{Name: "\xff"}}}},
		{"an equals sign in a meta name", grip.Instruction{Meta: map[string]string{"a=b": "c"}}},
		{"a line end in meta", grip.Instruction{Meta: map[string]string{"a": "b\n"}}},
		{"a bracket in a link", grip.Instruction{Next: &grip.Link{URI: "/a>b"}}},
		{"a link to nowhere", grip.Instruction{Gone: &grip.Link{}}},
		{"a keep-alive of nothing", grip.Instruction{KeepAlive: &grip.KeepAlive{}}},
		{"a reason of two lines", grip.Instruction{Status: 200, Reason: "a\r\nb"}},
		{"a status of four digits", grip.Instruction{Status: 1000}},
		{"a header name with a comma", grip.Instruction{ExposeHeaders: []string{"a,b"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := http.Header{}
			tc.in.Hold = grip.HoldStream
			if err := tc.in.WriteHeader(h); !errors.Is(err, grip.ErrNotForHeader) || len(h) != 0 {
				t.Errorf("WriteHeader = %v and %v, want ErrNotForHeader and nothing", err, h)
			}
		})
	}
}

func TestAnswerSaysInJSONWhatHeadersCannot(t *testing.T) {
	w := httptest.NewRecorder()
	err := grip.Answer(w, &grip.Instruction{
		Hold:      grip.HoldStream,
		Channels:  []grip.Channel{{Name: "a,b;c", PrevID: "1", Filters: []string{"f"}}},
		Timeout:   grip.AtOnce,
		KeepAlive: &grip.KeepAlive{Content: []byte{255}, Timeout: 20 * time.Second},
		Meta:      map[string]string{"a": "b"},
		Next:      &grip.Link{URI: "/next", Timeout: grip.AtOnce},
		Response:  &grip.Response{Code: 201, Header: http.Header{"X-A": {"1", "2"}}, Body: []byte("hi\n")},
	})
	if err != nil {
		t.Fatal(err)
	}
	wantBody := `{"hold":{"mode":"stream","channels":[{"name":"a,b;c","prev-id":"1","filters":["f"]}],"timeout":0,` +
		`"keep-alive":{"content-bin":"/w==","timeout":20,"mode":"idle"},"meta":{"a":"b"}},` +
		`"response":{"code":201,"headers":[["X-A","1"],["X-A","2"]],"body":"hi\n"}}`
	if got := w.Body.String(); got != wantBody || !json.Valid(w.Body.Bytes()) {
		t.Errorf("body\n%s, want\n%s", got, wantBody)
	}
	in, err := grip.ParseInstruction(w.Code, w.Header(), w.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`hold stream`, `channel "a,b;c" prev-id "1" filters ["f"]`, `timeout at once`, `keep-alive "\xff" idle 20s`,
		`meta "a" = "b"`, `next "/next" at once`, `response 201 Created`, `response header X-A: 1`, `response header X-A: 2`, `response body "hi\n"`}
	if got := describe(in); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Every instruction that can be read can be written and read again; what no
// header can say goes through JSON.
func TestVectorsSurviveBeingWritten(t *testing.T) {
	for _, v := range vectors(t, "instruct_valid.txtar") {
		t.Run(v.name, func(t *testing.T) {
			in, err := grip.ParseInstruction(v.status, v.header, []byte(v.body))
			if err != nil {
				t.Fatal(err)
			}
			h := http.Header{}
			var body []byte
			if in.Response == nil && in.WriteHeader(h) == nil {
				body = nil
			} else {
				w := httptest.NewRecorder()
				if err := grip.Answer(w, in); err != nil {
					t.Fatal(err)
				}
				h, body = w.Header(), w.Body.Bytes()
			}
			again, err := grip.ParseInstruction(200, h, body)
			if err != nil {
				t.Fatal(err)
			}
			if again.Response != nil && in.Response == nil {
				again.Response = nil
			}
			if got, want := describe(again), describe(in); !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

func TestReasonsAreTheStandardOnes(t *testing.T) {
	for code, want := range map[int]string{200: "OK", 304: "Not Modified", 299: "Undefined Reason", 0: "Undefined Reason"} {
		if got := grip.Reason(code); got != want {
			t.Errorf("Reason(%d) = %q, want %q", code, got, want)
		}
	}
}

func TestLastIDsTravelFromGatewayToOrigin(t *testing.T) {
	h := http.Header{}
	grip.AddLast(h, "news", "7")
	grip.AddLast(h, "a b", `x "y"`)
	want := []string{"news; last-id=7", `a b; last-id="x \"y\""`}
	if got := h["Grip-Last"]; !slices.Equal(got, want) {
		t.Errorf("Grip-Last: %q, want %q", got, want)
	}
	h.Add("Grip-Last", "c; last-id=1, d; last-id=, e")
	last := grip.Last(h)
	if len(last) != 4 || last["news"] != "7" || last["a b"] != `x "y"` || last["c"] != "1" {
		t.Errorf("Last = %q", last)
	}
	if last := grip.Last(http.Header{"Grip-Last": {`a; last-id="x`}}); last != nil {
		t.Errorf("Last of a quote that is never closed = %q, want nil", last)
	}
}

func TestModesHaveTheirNames(t *testing.T) {
	for _, tc := range []struct{ got, want string }{
		{grip.HoldNone.String(), ""}, {grip.HoldResponse.String(), "response"}, {grip.HoldStream.String(), "stream"},
		{grip.KeepAliveIdle.String(), "idle"}, {grip.KeepAliveInterval.String(), "interval"}, {grip.HoldMode(-1).String(), "unknown"},
	} {
		if tc.got != tc.want {
			t.Errorf("%q, want %q", tc.got, tc.want)
		}
	}
}

// answerHeader is that of an origin's answer with a stream hold.
func answerHeader() http.Header {
	return http.Header{
		"Content-Type": {"text/event-stream"}, "Date": {"now"}, "Server": {"x"}, "Cache-Control": {"no-cache"},
		"Grip-Hold": {"stream"}, "Grip-Channel": {"news; prev-id=7, chat; filter=skip-self"},
		"Grip-Keep-Alive": {`:\n\n; format=cstring; timeout=20`}, "Grip-Link": {"</news?after=7>; rel=next"},
	}
}

func BenchmarkParseInstruction(b *testing.B) {
	h := answerHeader()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := grip.ParseInstruction(200, h, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// Every proxied answer pays for this.
func BenchmarkIsInstruction(b *testing.B) {
	h := answerHeader()
	grip.StripHeader(h)
	b.ReportAllocs()
	for b.Loop() {
		if grip.IsInstruction(h) {
			b.Fatal("taken for an instruction")
		}
	}
}
