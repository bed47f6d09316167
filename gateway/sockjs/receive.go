package sockjs

import (
	"context"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// dress is how a transport writes frames.
type dress struct {
	contentType string
	begin       string // before the first frame
	before      string
	after       string
	quoted      bool // the frame is a text in a script
	streams     bool // many frames a response
}

// dresses of the transports that need no function's name.
var dresses = map[string]dress{
	transportXHR:       {contentType: "application/javascript; charset=UTF-8", after: "\n"},
	transportStreaming: {contentType: "application/javascript; charset=UTF-8", begin: strings.Repeat("h", 2048) + "\n", after: "\n", streams: true},
	transportEventSource: {
		contentType: "text/event-stream; charset=UTF-8", begin: "\r\n", before: "data: ", after: "\r\n\r\n", streams: true,
	},
}

// htmlPage is what a page of the transport htmlfile begins with. Old browsers run
// no script before a kilobyte has come.
const htmlPage = `<!doctype html>
<html><head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
</head><body><h2>Don't panic!</h2>
  <script>
    document.domain = document.domain;
    var c = parent.%s;
    c.start();
    function p(d) {c.message(d);};
    window.onload = function() {c.stop();};
  </script>
`

// htmlPageBytes is how long a page begins at least.
const htmlPageBytes = 1024

// callbackBytesMax bounds the name of a function.
const callbackBytesMax = 256

// dress finds how the transport's frames are to look; false means that the client
// has been told why not.
func (c *client) dress(transport string) (dress, bool) {
	if d, ok := dresses[transport]; ok {
		return d, true
	}
	_, query, _ := strings.Cut(c.r.RequestURI, "?")
	values, _ := url.ParseQuery(query)
	callback := values.Get("c")
	if callback == "" {
		callback = values.Get("callback")
	}
	switch {
	case callback == "":
		c.server.refused[refusedCallback].Inc()
		c.plain(http.StatusInternalServerError, `"callback" parameter required`)
		return dress{}, false
	case len(callback) > callbackBytesMax || strings.ContainsFunc(callback, notInCallback):
		c.server.refused[refusedCallback].Inc()
		c.plain(http.StatusInternalServerError, `invalid "callback" parameter`)
		return dress{}, false
	}
	if transport == transportJSONP {
		return dress{contentType: "application/javascript; charset=UTF-8", before: "/**/" + callback + "(", after: ");\r\n", quoted: true}, true
	}
	page := fmt.Sprintf(htmlPage, template.HTMLEscapeString(callback))
	page += strings.Repeat(" ", max(0, htmlPageBytes-len(page))) + "\r\n\r\n"
	return dress{contentType: "text/html; charset=UTF-8", begin: page, before: "<script>\np(", after: ");\n</script>\r\n", quoted: true, streams: true}, true
}

// notInCallback tells what cannot stand in a function's name: it becomes a script
// in a page that trusts us.
func notInCallback(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_$.", r))
}

// receive gives a client its next frames, and begins a session if there is none.
func (c *client) receive(transport string) {
	d, ok := c.dress(transport)
	if !ok {
		return
	}
	s := c.server.find(c.id)
	first := s == nil
	switch {
	case first:
		if s = c.newSession(c.call.Base, func() { c.refusePoll(d) }); s == nil {
			return
		}
	case !s.attach():
		c.refusePoll(d)
		return
	}
	cut, released := true, false
	defer func() {
		if !released {
			s.release()
		}
		s.left(cut)
	}()
	h := c.head()
	if first {
		for _, cookie := range s.header["Set-Cookie"] {
			h.Add("Set-Cookie", cookie)
		}
	}
	if !d.streams {
		frame := []byte(frameOpen)
		if !first {
			var err error
			if frame, _, err = s.next(c.r.Context()); err != nil {
				return
			}
		}
		if c.r.Context().Err() != nil {
			return
		}
		// The client may come again as soon as it has the answer, and before we know.
		s.release()
		released = true
		cut = c.poll(d, frame) != nil
		return
	}
	out := c.begin(d)
	if first && out.write([]byte(frameOpen)) != nil {
		return
	}
	cut = c.stream(s, out)
}

// refusePoll tells a client that it has another poll open.
func (c *client) refusePoll(d dress) {
	c.server.refused[refusedOpen].Inc()
	c.head()
	frame := []byte(closeFrame(codeSecond, "Another connection still open"))
	if !d.streams {
		c.poll(d, frame)
		return
	}
	c.begin(d).write(frame)
}

// poll answers with one frame.
func (c *client) poll(d dress, frame []byte) error {
	b := d.append(nil, frame)
	h := c.w.Header()
	h.Set("Content-Type", d.contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	c.w.WriteHeader(http.StatusOK)
	return c.write(b)
}

// write writes and sees to it that it leaves. A client that does not read has
// writeTimeout; the connection has no deadline afterwards, it may be used again.
func (c *client) write(b []byte) error {
	rc := http.NewResponseController(c.w)
	rc.SetWriteDeadline(time.Now().Add(writeTimeout)) // not every server has one
	if _, err := c.w.Write(b); err != nil {
		return err
	}
	if err := rc.Flush(); err != nil {
		return err
	}
	rc.SetWriteDeadline(time.Time{})
	return nil
}

// append appends a frame as the transport writes it.
func (d *dress) append(b, frame []byte) []byte {
	b = append(b, d.before...)
	switch {
	case d.quoted && strings.HasPrefix(d.contentType, "text/html"):
		// A text in a script in a page: the page's reader comes first.
		b = append(b, inPage.Replace(string(appendQuoted(nil, frame)))...)
	case d.quoted:
		b = appendQuoted(b, frame)
	default:
		b = append(b, frame...)
	}
	return append(b, d.after...)
}

var inPage = strings.NewReplacer("<", `\u003c`, ">", `\u003e`)

// stream writes frames until there is no more, or enough; it returns whether the
// client has gone before.
func (c *client) stream(s *session, out *output) (cut bool) {
	for out.bytes < streamBytesMax {
		frame, last, err := s.next(c.r.Context())
		if err != nil || out.write(frame) != nil {
			return true
		}
		if last {
			return false
		}
	}
	return false
}

// output is a response that frames are written to.
type output struct {
	c     *client
	d     dress
	ctx   context.Context
	bytes int // of frames
}

// begin writes the head, and what comes before the first frame.
func (c *client) begin(d dress) *output {
	h := c.w.Header()
	h.Set("Content-Type", d.contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	c.w.WriteHeader(http.StatusOK)
	if d.begin != "" {
		c.write([]byte(d.begin)) // the first frame sees if it did not arrive
	}
	return &output{c: c, d: d, ctx: c.r.Context()}
}

// write writes one frame and sees to it that it leaves.
func (o *output) write(frame []byte) error {
	b := o.d.append(nil, frame)
	o.bytes += len(b)
	if err := o.c.write(b); err != nil {
		return err
	}
	return o.ctx.Err()
}
