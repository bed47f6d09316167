package zmq

import (
	"reflect"
	"strings"
	"testing"

	"github.com/gripway/gripway/grip"
)

// pushpinPublished is what pushpin-publish 1.36 sends for
// --patch room '[{"op":"add","path":"/a","value":1.5}]'.
const pushpinPublished = "124:7:channel,4:room,7:formats,93:13:http-response,72:4:code,3:200#10:body-patch,41:37:4:path,2:/a,5:value,3:1.5^2:op,3:add,}]}}}"

func TestAnItemIsTheSameInJSONAndAsATnetstring(t *testing.T) {
	binary := []byte("\xff\x00")
	tnet := func(value any) string { return string(appendTnetstring(nil, value)) }
	for _, test := range []struct {
		name, message, json string
	}{
		{"what pushpin-publish sends", pushpinPublished,
			`{"channel":"room","formats":{"http-response":{"code":200,"body-patch":[{"op":"add","path":"/a","value":1.5}]}}}`},
		{"with a T before it", "T" + pushpinPublished,
			`{"channel":"room","formats":{"http-response":{"code":200,"body-patch":[{"op":"add","path":"/a","value":1.5}]}}}`},
		{"JSON with a J before it", `J{"channel":"room","http-stream":{"content":"x"}}`,
			`{"channel":"room","http-stream":{"content":"x"}}`},
		{"all that an item has", tnet(dict{
			"channel": "room", "id": "2", "prev-id": "1", "no-seq": true, "size": 7, "meta": dict{"k": "v"},
			"formats": dict{
				"http-response": dict{"code": 201, "reason": "Yo", "headers": []any{[]any{"X-A", "b"}}, "body": "<hällo>"},
				"http-stream":   dict{"content": "s", "content-filters": []any{"f"}},
				"ws-message":    dict{"content": "m", "type": "ping"},
			}}),
			`{"channel":"room","id":"2","prev-id":"1","no-seq":true,"size":7,"meta":{"k":"v"},"formats":{` +
				`"http-response":{"code":201,"reason":"Yo","headers":[["X-A","b"]],"body":"<hällo>"},` +
				`"http-stream":{"content":"s","content-filters":["f"]},"ws-message":{"content":"m","type":"ping"}}}`},
		{"formats in the item itself", tnet(dict{"channel": "c", "http-stream": dict{"action": "close"}}),
			`{"channel":"c","http-stream":{"action":"close"}}`},
		{"content that is not text", tnet(dict{"channel": "c", "formats": dict{
			"http-response": dict{"body": binary}, "http-stream": dict{"content": binary}, "ws-message": dict{"content": binary}}}),
			`{"channel":"c","formats":{"http-response":{"body-bin":"/wA="},"http-stream":{"content-bin":"/wA="},` +
				`"ws-message":{"content-bin":"/wA="}}}`},
		{"a binary message is raw bytes", tnet(dict{"channel": "c", "formats": dict{"ws-message": dict{"content-bin": "/wA="}}}),
			`{"channel":"c","formats":{"ws-message":{"content-bin":"L3dBPQ=="}}}`},
		{"binary wins", tnet(dict{"channel": "c", "formats": dict{"ws-message": dict{"content-bin": "b", "content": binary}}}),
			`{"channel":"c","formats":{"ws-message":{"content-bin":"Yg=="}}}`},
		{"-bin means nothing over HTTP", tnet(dict{"channel": "c", "formats": dict{
			"http-stream": dict{"content": "x", "content-bin": "Yg=="}}}),
			`{"channel":"c","formats":{"http-stream":{"content":"x"}}}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := readItem([]byte(test.message), true)
			if err != nil {
				t.Fatal(err)
			}
			want, err := grip.ParseItem([]byte(test.json))
			if err != nil {
				t.Fatal(err)
			}
			if g, w := string(got.AppendJSON(nil)), string(want.AppendJSON(nil)); g != w {
				t.Errorf("got  %s\nwant %s", g, w)
			}
			if !reflect.DeepEqual(got.Message, want.Message) {
				t.Errorf("got %+v, want %+v", got.Message, want.Message)
			}
		})
	}
}

func TestAFormatThatNobodyKnowsIsKept(t *testing.T) {
	item, err := readItem(appendTnetstring(nil, dict{"channel": "c", "formats": dict{"fax": dict{"page": []byte("a\xff")}}}), true)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(item.Raw()), "{\"channel\":\"c\",\"formats\":{\"fax\":{\"page\":\"a\uFFFD\"}}}"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestWhatIsNoItemIsRefused(t *testing.T) {
	tnet := func(value any) string { return string(appendTnetstring(nil, value)) }
	for _, test := range []struct{ name, message, want string }{
		{"an empty message", "", "empty"},
		{"garbage", "hello", "not a tnetstring"},
		{"JSON without its letter", `{"channel":"c"}`, "not a tnetstring"},
		{"a list", "0:]", "not a dictionary"},
		{"no JSON", "J{", "not valid JSON"},
		{"no formats", tnet(dict{"channel": "c"}), "no formats"},
		{"a format without content", tnet(dict{"channel": "c", "formats": dict{"http-stream": dict{}}}), "does not contain 'content'"},
		{"a channel that is a number", tnet(dict{"channel": 1, "http-stream": dict{"content": ""}}), "'channel'"},
		{"a channel that is not UTF-8", tnet(dict{"channel": []byte("\xff"), "http-stream": dict{"content": ""}}), "not UTF-8"},
		{"a header that is not UTF-8", tnet(dict{"channel": "c", "http-response": dict{"body": "", "headers": dict{"A": []byte("\xff")}}}), "not UTF-8"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := readItem([]byte(test.message), true); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want something with %q", err, test.want)
			}
		})
	}
}

func BenchmarkReadItem(b *testing.B) {
	for _, form := range []struct{ name, message string }{
		{"tnetstring", pushpinPublished},
		{"json", `J{"channel":"room","formats":{"http-response":{"code":200,"body-patch":[{"op":"add","path":"/a","value":1.5}]}}}`},
	} {
		b.Run("form="+form.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := readItem([]byte(form.message), true); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
