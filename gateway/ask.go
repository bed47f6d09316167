package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gripway/gripway/gateway/hold"
	"github.com/gripway/gripway/gateway/hub"
	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/grip"
)

const (
	// askTimeout bounds a filter's request, the wait for its turn included.
	askTimeout = 10 * time.Second

	// askBytesMax bounds the content that an answer gives an item instead of its own.
	askBytesMax = 100_000

	// askEvery and askBurst are how often one URL is asked: a hundred times a second,
	// ten of them at once.
	askEvery = time.Second / 100
	askBurst = 10

	// askURLsMax bounds the URLs that are kept in mind; those not asked for a second
	// are forgotten. Beyond that a question is an error.
	askURLsMax = 10_000

	// asksMax bounds the questions to one URL under way at once. Those to others do not
	// wait for it: an origin that hangs is its own clients' trouble.
	asksMax = 64
)

// Outcomes of a filter's question.
const (
	askedDelivered = "delivered"
	askedDropped   = "dropped"
	askedLimited   = "limited"
	askedFailed    = "failed"
)

// errAskedTooOften says that an item cannot be asked about within askTimeout.
var errAskedTooOften = fmt.Errorf("URL is asked too often: more than %d times a second", time.Second/askEvery)

// asks is what all questions of filters share.
type asks struct {
	outcomes map[string]metrics.Counter

	mu   sync.Mutex
	urls map[string]*askedURL
}

// askedURL is a URL that is asked now and then.
type askedURL struct {
	next   time.Time     // when it may be asked again, bursts aside; guarded by asks.mu
	places chan struct{} // has a token for each question under way
}

func newAsks(m *metrics.Registry) *asks {
	return &asks{
		outcomes: m.Counters("filter_questions_total", "Items about which filters asked a URL, by outcome.", "outcome",
			askedDelivered, askedDropped, askedLimited, askedFailed),
		urls: make(map[string]*askedURL),
	}
}

// turn takes a turn to ask the URL and returns how long it is until then.
func (a *asks) turn(url string, now time.Time) (*askedURL, time.Duration, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked := a.urls[url]
	if asked == nil {
		if len(a.urls) >= askURLsMax {
			maps.DeleteFunc(a.urls, func(_ string, old *askedURL) bool { return len(old.places) == 0 && now.Sub(old.next) > time.Second })
		}
		if len(a.urls) >= askURLsMax {
			return nil, 0, fmt.Errorf("more than %d URLs are asked", askURLsMax)
		}
		asked = &askedURL{places: make(chan struct{}, asksMax)}
		a.urls[url] = asked
	}
	next := asked.next
	if earliest := now.Add(-askBurst * askEvery); next.Before(earliest) {
		next = earliest
	}
	next = next.Add(askEvery)
	wait := next.Sub(now)
	if wait > askTimeout {
		return nil, 0, errAskedTooOften
	}
	asked.next = next
	return asked, max(wait, 0), nil
}

// ask asks a URL whether the client is to get an item (http-check), and what of
// it (http-modify):
//
//	POST /check                                  200 OK
//	Sub-Meta: {"user":"ann","url":"/check"}      Action: drop
//	Pub-Meta: {"sender":"bob"}
//	Grip-Last: room; last-id=3
func (c *linkClient) ask(ctx context.Context, base *url.URL, q *hub.Question) ([]byte, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	content, deliver, err := c.askURL(ctx, base, q)
	outcome := askedDelivered
	switch {
	case errors.Is(err, errAskedTooOften):
		outcome = askedLimited
	case err != nil:
		outcome = askedFailed
	case !deliver:
		outcome = askedDropped
	}
	if err != nil && ctx.Err() != context.Canceled { // else the client has gone
		c.g.log.Info("item skipped: its filter's URL gave no answer", "route", c.route.name(), "filter", q.Filter.String(), "url", q.URL, "error", err)
	}
	c.g.asks.outcomes[outcome].Inc()
	return content, deliver, err
}

func (c *linkClient) askURL(ctx context.Context, base *url.URL, q *hub.Question) ([]byte, bool, error) {
	if q.URL == "" {
		return nil, false, errors.New("no sub meta 'url'")
	}
	uri, err := base.Parse(q.URL)
	if err != nil {
		return nil, false, err
	}
	asked, wait, err := c.g.asks.turn(uri.String(), time.Now())
	if err != nil {
		return nil, false, err
	}
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
	select {
	case asked.places <- struct{}{}:
		defer func() { <-asked.places }()
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}

	header := http.Header{"Sub-Meta": {metaJSON(q.SubMeta)}, "Pub-Meta": {metaJSON(q.PubMeta)}}
	var last []hold.Last
	for _, channel := range slices.Sorted(maps.Keys(q.Last)) {
		last = append(last, hold.Last{Channel: channel, ID: q.Last[channel]})
	}
	var body []byte
	if q.Filter == grip.HTTPModify {
		body = q.Content
	}
	response, _, err := c.do(ctx, http.MethodPost, uri, last, header, body)
	if err != nil {
		return nil, false, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, askBytesMax+1))
	switch {
	case err != nil:
		return nil, false, err
	case response.StatusCode != http.StatusOK && response.StatusCode != http.StatusNoContent:
		return nil, false, fmt.Errorf("answered %d", response.StatusCode)
	case strings.EqualFold(strings.TrimSpace(response.Header.Get("Action")), "drop"):
		return nil, false, nil
	case q.Filter != grip.HTTPModify || response.StatusCode == http.StatusNoContent:
		return q.Content, true, nil
	case len(content) > askBytesMax:
		return nil, false, fmt.Errorf("answered with more than %d bytes", askBytesMax)
	}
	return content, true, nil
}

// metaJSON writes meta as an object in one line, which a header can carry:
// what is not ASCII is escaped.
func metaJSON(meta map[string]string) string {
	if meta == nil {
		return "{}"
	}
	object, err := json.Marshal(meta)
	if err != nil {
		panic(err) // strings in a map can always be written
	}
	var b bytes.Buffer
	for _, r := range string(object) {
		switch {
		case r < 0x80:
			b.WriteRune(r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		}
	}
	return b.String()
}

// socketAsker asks for the WebSocket clients of a route.
type socketAsker struct {
	g     *Gateway
	route *Route
}

// askingClient is what a linkClient needs to know of a WebSocket client, in one
// string: a session keeps it for as long as the client stays.
//
//	s example.com        s: TLS, i: its route was chosen by id, else -
//	/chat?room=1
//	192.0.2.1:5678
func (g *Gateway) askingClient(r *http.Request) string {
	flags := ""
	if g.isTLS(r) {
		flags = "s"
	}
	if g.opts.AcceptPushpinRoute && r.Header.Get("Pushpin-Route") != "" {
		flags += "i"
	}
	return flags + " " + r.Host + "\n" + r.RequestURI + "\n" + r.RemoteAddr
}

// Ask implements socket.Asker.
func (a *socketAsker) Ask(ctx context.Context, client string, q *hub.Question) ([]byte, bool, error) {
	first, rest, _ := strings.Cut(client, "\n")
	target, remote, _ := strings.Cut(rest, "\n")
	flags, host, _ := strings.Cut(first, " ")
	base, err := url.ParseRequestURI(target)
	if err != nil {
		return nil, false, err
	}
	c := &linkClient{
		g: a.g, route: a.route, chosen: strings.Contains(flags, "i"), host: host, secure: strings.Contains(flags, "s"),
		remote: remote, untrusted: a.route.Untrusted,
	}
	base.Scheme, base.Host = "http", host
	if c.secure {
		base.Scheme, c.tls = "https", secured
	}
	return c.ask(ctx, base, q)
}
