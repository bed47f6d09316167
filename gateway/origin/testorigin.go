package origin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/gripway/gripway/wsoverhttp"
)

// testOrigin answers here, for those who want to try a gateway before they have
// an origin:
//
//	/              a greeting
//	/response      holds a long poll
//	/stream        holds a stream
//	/ws            takes WebSockets, says everything again
//
// The last three follow the channels that the query names (?channel=), or "test".
type testOrigin struct {
	pathBeg string // of the route; not part of the paths above
}

// testBodyBytesMax bounds a body of WebSocket events, as origins do.
const testBodyBytesMax = 1_000_000

func (testOrigin) closeIdle() {}

func (testOrigin) dialUpgrade(context.Context, string) (net.Conn, error) {
	return nil, errors.New("the test origin takes WebSockets over HTTP only")
}

func (o testOrigin) roundTrip(req *http.Request, host string) (*http.Response, error) {
	defer closeBody(req)
	path, query, _ := strings.Cut(requestTarget(req), "?")
	if rest, ok := strings.CutPrefix(path, strings.TrimSuffix(o.pathBeg, "/")); ok && (rest == "" || rest[0] == '/') {
		path = rest
	}
	if path != "/" {
		path = strings.TrimSuffix(path, "/")
	}
	params, _ := url.ParseQuery(query) // what can be read of it
	channels := params["channel"]
	if len(channels) == 0 {
		channels = []string{"test"}
	}

	header := http.Header{"Content-Type": {"text/plain"}}
	hold := func(mode string) {
		header["Grip-Hold"] = []string{mode}
		header["Grip-Channel"] = channels
	}
	switch path {
	case "", "/":
		return testAnswer(req, http.StatusOK, header, []byte("Hello from the Gripway test origin!\n")), nil
	case "/response":
		hold("response")
		return testAnswer(req, http.StatusOK, header, []byte("nothing for now\n")), nil
	case "/stream":
		hold("stream")
		return testAnswer(req, http.StatusOK, header, []byte("[stream opened]\n")), nil
	case "/ws":
		if req.Method == http.MethodPost && req.Header.Get("Content-Type") == wsoverhttp.ContentType {
			return testEvents(req, channels)
		}
	}
	return testAnswer(req, http.StatusNotFound, header, []byte("no such test resource\n")), nil
}

func testEvents(req *http.Request, channels []string) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(io.LimitReader(req.Body, testBodyBytesMax+1)); err != nil {
			return nil, err
		}
	}
	events, err := wsoverhttp.Decode(body)
	if err != nil || len(body) > testBodyBytesMax {
		return testAnswer(req, http.StatusBadRequest, http.Header{"Content-Type": {"text/plain"}}, []byte("bad events\n")), nil
	}
	header := http.Header{"Content-Type": {wsoverhttp.ContentType}}
	var said []wsoverhttp.Event
	for _, event := range events {
		switch event.Type {
		case wsoverhttp.Open:
			header["Sec-Websocket-Extensions"] = []string{`grip; message-prefix=""`}
			said = append(said, event)
			for _, channel := range channels {
				control, _ := json.Marshal(map[string]string{"type": "subscribe", "channel": channel}) // strings can be marshalled
				said = append(said, wsoverhttp.Event{Type: wsoverhttp.Text, Content: append([]byte("c:"), control...)})
			}
		case wsoverhttp.Text:
			if !bytes.HasPrefix(event.Content, []byte("c:")) { // without a prefix that would be an instruction
				said = append(said, event)
			}
		case wsoverhttp.Binary, wsoverhttp.Close:
			said = append(said, event)
		case wsoverhttp.Ping:
			said = append(said, wsoverhttp.Event{Type: wsoverhttp.Pong, Content: event.Content})
		}
	}
	return testAnswer(req, http.StatusOK, header, wsoverhttp.AppendEvents(nil, said...)), nil
}

func testAnswer(req *http.Request, status int, header http.Header, body []byte) *http.Response {
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	response := &http.Response{
		StatusCode: status, Status: strconv.Itoa(status) + " " + http.StatusText(status),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, ContentLength: int64(len(body)), Request: req, Body: http.NoBody,
	}
	if req.Method != http.MethodHead {
		response.Body = io.NopCloser(bytes.NewReader(body))
	}
	return response
}
