package grip_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"runtime"
	"strconv"
	"testing"

	"github.com/gripway/gripway/grip"
)

func TestPublishBodiesMeanWhatOthersMeanByThem(t *testing.T) {
	check(t, "publish_valid.txtar", publishVector)
}

func TestBadPublishBodiesAreRefusedInPushpinsWords(t *testing.T) {
	check(t, "publish_invalid.txtar", publishVector)
}

func publishVector(v *vector) (lines []string, err error) {
	items, err := grip.ParseItems([]byte(v.input))
	var refused *grip.PublishError
	if errors.As(err, &refused) && v.item != "" && strconv.Itoa(refused.Item) != v.item {
		return nil, fmt.Errorf("item %d refused", refused.Item)
	}
	for _, item := range items {
		lines = append(lines, string(item.AppendJSON(nil)))
	}
	return lines, err
}

func parseOne(t *testing.T, data string) *grip.Item {
	t.Helper()
	item, err := grip.ParseItem([]byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return item
}

func TestItemsAreReadIntoFields(t *testing.T) {
	body := []byte(`{"items":[{"channel":"a","id":"2","prev-id":"1","no-seq":true,"size":5,"meta":{"sender":"ann"},"formats":{
		"http-response":{"code":"404","headers":{"x-a":"b"},"body":"gone\n"},
		"http-stream":{"content-filters":["var-subst"],"content":"hi %(user)s"},
		"ws-message":{"type":"ping","content-bin":"AP8="}}}]}`)
	items, err := grip.ParseItems(body)
	if err != nil || len(items) != 1 {
		t.Fatalf("ParseItems = %v, %v", items, err)
	}
	got := items[0]
	if got.Channel != "a" || got.ID != "2" || got.PrevID != "1" || !got.NoSeq || got.Size != 5 || got.Meta["sender"] != "ann" {
		t.Errorf("item %+v", got)
	}
	wantResponse := &grip.ResponseItem{Code: 404, Reason: "Not Found", Header: http.Header{"X-A": {"b"}}, Body: []byte("gone\n")}
	if !reflect.DeepEqual(got.Response, wantResponse) {
		t.Errorf("response %+v, want %+v", got.Response, wantResponse)
	}
	wantStream := &grip.StreamItem{Content: []byte("hi %(user)s"), ContentFilters: []string{"var-subst"}, HasContentFilters: true}
	if !reflect.DeepEqual(got.Stream, wantStream) {
		t.Errorf("stream %+v, want %+v", got.Stream, wantStream)
	}
	wantMessage := &grip.MessageItem{Type: grip.Ping, Content: []byte{0, 255}}
	if !reflect.DeepEqual(got.Message, wantMessage) {
		t.Errorf("message %+v, want %+v", got.Message, wantMessage)
	}
}

func TestRawItemCanBePassedOnUnread(t *testing.T) {
	raw := `{ "channel":"a", "x-new":1, "formats":{"http-stream":{"content":"x"}} }`
	items, err := grip.ParseItems([]byte(`{"items": [` + raw + `, ` + raw + `]}`))
	if err != nil || len(items) != 2 {
		t.Fatalf("ParseItems = %v, %v", items, err)
	}
	for i, item := range items {
		if string(item.Raw()) != raw {
			t.Errorf("item %d: Raw = %s, want %s", i, item.Raw(), raw)
		}
		// Whoever appends to it must not write into the next item.
		if c := cap(item.Raw()); c != len(raw) {
			t.Errorf("item %d: cap(Raw) = %d, want %d", i, c, len(raw))
		}
	}
	if raw := (&grip.Item{Channel: "a"}).Raw(); raw != nil {
		t.Errorf("Raw of an item that was not parsed = %q, want nil", raw)
	}
}

func TestItemFromTheBusNeedsNoChannel(t *testing.T) {
	item := parseOne(t, `{"formats":{"ws-message":{"content":"x"}}}`)
	if item.Channel != "" || string(item.Message.Content) != "x" {
		t.Errorf("item %+v", item)
	}
}

func TestRefusedItemIsNamedWithoutTheBodysWords(t *testing.T) {
	for _, tc := range []struct{ name, data, want string }{
		{"not JSON", `{`, "publish item is not valid JSON"},
		{"a number", `5`, "publish item object is not an object"},
		{"a channel of a wrong type", `{"channel":5}`, "publish item object contains 'channel' with wrong type"},
		{"a format of a wrong type", `{"ws-message":5}`, "'ws-message' is not an object"},
		{"a close code that is for nobody to send", `{"ws-message":{"action":"close","code":1006}}`, "'ws-message' contains 'code' 1006, which no Close frame can carry"},
		{"a close code out of range", `{"ws-message":{"action":"close","code":999}}`, "'ws-message' contains 'code' 999, which no Close frame can carry"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := grip.ParseItem([]byte(tc.data))
			var refused *grip.PublishError
			if !errors.As(err, &refused) || err.Error() != tc.want {
				t.Errorf("error %v, want %s", err, tc.want)
			}
		})
	}
}

func TestZeroItemsMeanWhatTheirCommentsSay(t *testing.T) {
	item := &grip.Item{
		Channel:  "a",
		Response: &grip.ResponseItem{Body: []byte("hi")},
		Stream:   &grip.StreamItem{Content: []byte("hi")},
		Message:  &grip.MessageItem{Content: []byte("hi")},
	}
	want := `{"channel":"a","formats":{"http-response":{"body":"hi"},"http-stream":{"content":"hi"},"ws-message":{"content":"hi"}}}`
	if got := string(item.AppendJSON(nil)); got != want {
		t.Errorf("AppendJSON =\n%s, want\n%s", got, want)
	}
	again := parseOne(t, want)
	if again.Response.Code != 200 || again.Response.Reason != "OK" || again.Message.Type != grip.Text || again.Stream.Action != grip.ActionSend {
		t.Errorf("read again: %+v %+v %+v", again.Response, again.Message, again.Stream)
	}
}

func TestNamesThatAreNotUTF8AreWrittenAsJSONAllTheSame(t *testing.T) {
	item := &grip.Item{Channel: "a\xff", Meta: map[string]string{"\xfe": "\xfd"}, Message: &grip.MessageItem{Action: grip.ActionClose, Reason: "\xff"}}
	again := parseOne(t, string(item.AppendJSON(nil)))
	if again.Channel != "a\uFFFD" || again.Meta["\uFFFD"] != "\uFFFD" || again.Message.Reason != "\uFFFD" {
		t.Errorf("read again: %+v %+v", again, again.Message)
	}
}

func TestItemsGoThroughEncodingJSON(t *testing.T) {
	data := []byte(`{"channel":"a","formats":{"ws-message":{"content-bin":"AP8="}}}`)
	var item grip.Item
	if err := json.Unmarshal(data, &item); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(&item)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("Marshal = %s, %v, want %s", got, err, data)
	}
	clear(data)
	if string(item.Message.Content) != "\x00\xff" || !json.Valid(item.Raw()) {
		t.Error("the item changed with the data it was read from")
	}
}

func TestAppendJSONAllocatesNothingIfThereIsRoom(t *testing.T) {
	item := &grip.Item{Channel: "room", ID: "2", PrevID: "1", Message: &grip.MessageItem{Content: []byte("hello \"you\"\n")}}
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() { buf = item.AppendJSON(buf[:0]) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func TestContentOfAParsedItemIsNotCopied(t *testing.T) {
	data := []byte(`{"channel":"a","formats":{"http-stream":{"content":"` + string(bytes.Repeat([]byte("x"), 100_000)) + `"}}}`)
	const runs = 100
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		if _, err := grip.ParseItem(data); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) / runs; n > 10_000 {
		t.Errorf("%d bytes allocated for an item of %d, want under 10000", n, len(data))
	}
}

func TestActionsAndTypesHaveTheirNames(t *testing.T) {
	for _, tc := range []struct{ got, want string }{
		{grip.ActionSend.String(), "send"}, {grip.ActionRefresh.String(), "refresh"}, {grip.Action(-1).String(), "unknown"},
		{grip.Text.String(), "text"}, {grip.Pong.String(), "pong"}, {grip.MessageType(9).String(), "unknown"},
	} {
		if tc.got != tc.want {
			t.Errorf("%q, want %q", tc.got, tc.want)
		}
	}
}
