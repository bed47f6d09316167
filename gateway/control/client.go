package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gripway/gripway/gateway/cluster"
	"github.com/gripway/gripway/grip"
)

const (
	// clientLineMax is the longest line a Client reads: an item as long as any
	// bus carries, with room for the channel's name.
	clientLineMax = 8 << 20

	// silenceMax is how long a Client waits for a sign of life: three
	// heartbeats of a gateway that was not told otherwise.
	silenceMax = 3 * heartbeatDefault
)

// What ends a subscription of a Client.
var (
	// ErrSlow: this client read less than was published.
	ErrSlow = errors.New("the gateway closed the subscription: this reader is slower than what is published")

	// ErrShutdown: the gateway ended.
	ErrShutdown = errors.New("the gateway is shutting down")

	// ErrSilent: the gateway gave no sign of life.
	ErrSilent = errors.New("the gateway has gone silent")
)

// Client listens in through the private API of a gateway. It may be used
// concurrently.
type Client struct {
	// Ready is called once the gateway hears the channels of a Subscribe. May be nil.
	// Not to be changed after the first call.
	Ready func()

	// Fixed after NewClient.
	endpoint grip.Endpoint
	api      string // what paths begin with
	query    string // of all requests; "" without
	http     http.Client
}

// NewClient names the gateway in a form of GRIP_URL, credentials included.
func NewClient(gripURL string) (*Client, error) {
	endpoint, err := grip.ParseEndpoint(gripURL)
	if err != nil {
		return nil, err
	}
	at, query, _ := strings.Cut(endpoint.PublishURL, "?")
	c := &Client{endpoint: endpoint, api: strings.TrimSuffix(at, "publish/") + "api/", query: query}
	c.http.Transport = &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: 15 * time.Second,
		DisableKeepAlives:     true, // one request, for hours
	}
	return c, nil
}

func (c *Client) url(path, query string) string {
	if c.query != "" && query != "" {
		query = "&" + query
	}
	return c.api + path + "?" + c.query + query
}

// Close closes those who are meant, with the code and reason for WebSockets, and
// returns what the gateway says about it.
func (c *Client) Close(ctx context.Context, who cluster.Who, code int, reason string) (line json.RawMessage, err error) {
	body, err := json.Marshal(command{who, code, reason})
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url("close", ""), bytes.NewReader(body))
	if err != nil {
		return nil, bareURL(err)
	}
	if err := c.authorize(r); err != nil {
		return nil, err
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("close at %s: %w", r.URL.Host, bareURL(err))
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, clientLineMax))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, bytes.TrimSpace(text[:min(len(text), 1000)]))
	}
	if err != nil {
		return nil, fmt.Errorf("close at %s: %w", r.URL.Host, err)
	}
	return bytes.TrimSpace(text), nil
}

// Subscribe calls item with every line the gateway sends for the channels: an
// item, or with "error" in it a hole or something unreadable. The bytes are
// item's only until it returns. Subscribe returns item's error, ErrSlow,
// ErrShutdown, ErrSilent, that of ctx, or what went wrong on the way; never nil.
func (c *Client) Subscribe(ctx context.Context, channels []string, item func(line json.RawMessage) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url("subscribe", url.Values{"channel": channels}.Encode()), nil)
	if err != nil {
		return bareURL(err)
	}
	if err := c.authorize(r); err != nil {
		return err
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return fmt.Errorf("subscribe at %s: %w", r.URL.Host, bareURL(err))
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1000))
		return fmt.Errorf("subscribe at %s: %s: %s", r.URL.Host, answer.Status, bytes.TrimSpace(text))
	}

	silence := time.AfterFunc(silenceMax, func() { cancel(ErrSilent) })
	defer silence.Stop()
	ready := c.Ready
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, clientLineMax)
	for lines.Scan() {
		silence.Reset(silenceMax)
		if ready != nil {
			ready()
			ready = nil
		}
		line := lines.Bytes()
		if len(line) == 0 {
			continue
		}
		if err := lastWord(line); err != nil {
			return err
		}
		if err := item(line); err != nil {
			return err
		}
	}
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case lines.Err() != nil:
		return fmt.Errorf("subscribe at %s: %w", r.URL.Host, lines.Err())
	}
	return fmt.Errorf("subscribe at %s: %w", r.URL.Host, io.ErrUnexpectedEOF)
}

// lastWord returns the error that a last line stands for.
func lastWord(line []byte) error {
	if !bytes.HasPrefix(line, []byte(`{"error":`)) {
		return nil
	}
	var last struct{ Error string }
	if json.Unmarshal(line, &last) != nil {
		return nil
	}
	switch last.Error {
	case leftSlow:
		return ErrSlow
	case leftShutdown:
		return ErrShutdown
	}
	return errors.New("the gateway closed the subscription: " + last.Error)
}

func (c *Client) authorize(r *http.Request) error {
	e := &c.endpoint
	switch {
	case e.Iss != "":
		token, err := grip.NewSigner(e.Iss, e.Key).Sign(time.Now())
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+token)
	case e.Token != "":
		r.Header.Set("Authorization", "Bearer "+e.Token)
	case e.User != "":
		r.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(e.User+":"+e.Password)))
	}
	return nil
}

// bareURL takes the URL out of an error of net/http: its query may hold a
// secret.
func bareURL(err error) error {
	var with *url.Error
	if errors.As(err, &with) {
		return with.Err
	}
	return err
}
