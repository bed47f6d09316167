package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/gripway/gripway/gateway/hold"
	"github.com/gripway/gripway/gateway/origin"
	"github.com/gripway/gripway/grip"
)

// goneBodyMax bounds what is read of the answer to a gone link, which should be
// empty.
const goneBodyMax = 4 << 10

// linkClient follows the links of an answer in the name of its client: those to
// where the client's request went take a route like it, others go where they
// point.
type linkClient struct {
	g         *Gateway
	route     *Route // the client's own
	chosen    bool   // by its id (Pushpin-Route), not by where the request went
	host      string
	secure    bool // the client's connection counts as TLS
	tls       *tls.ConnectionState
	remote    string
	untrusted bool // the route's target may not be private, so links may not either
}

// linked says whether an instruction needs a linkClient: it names links, or ids,
// which need one, or filters that ask URLs.
func linked(in *grip.Instruction) bool {
	return in.Next != nil || in.Gone != nil || slices.ContainsFunc(in.Channels, func(ch grip.Channel) bool {
		return ch.PrevID != "" || grip.NewChain(ch.Filters).Asks()
	})
}

// secured stands for the TLS of a client whose connection is not at hand.
var secured = new(tls.ConnectionState)

// requestURI is where a client's request went, for links to be relative to.
func requestURI(r *http.Request, secure bool) *url.URL {
	uri := *r.URL
	uri.Scheme, uri.Host = "http", r.Host
	if secure {
		uri.Scheme = "https"
	}
	return &uri
}

// fetch gets a next link.
func (c *linkClient) fetch(ctx context.Context, uri *url.URL, last []hold.Last) (*hold.Answer, error) {
	response, grips, err := c.do(ctx, http.MethodGet, uri, last, nil, nil)
	if err != nil {
		return nil, err
	}
	if !grips || !grip.IsInstruction(response.Header) {
		header := response.Header
		origin.CleanHeader(header)
		return &hold.Answer{Status: response.StatusCode, Header: header, Rest: response.Body}, nil
	}
	status := response.StatusCode
	answer, err := readAnswer(response)
	if err == nil {
		answer.Status = status // Grip-Status is for a first answer
	}
	return answer, err
}

// post tells a gone link.
func (c *linkClient) post(ctx context.Context, uri *url.URL) error {
	response, _, err := c.do(ctx, http.MethodPost, uri, nil, nil, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, goneBodyMax))
	switch {
	case err != nil:
		return err
	case response.StatusCode < 200 || response.StatusCode > 299:
		return fmt.Errorf("answered %d", response.StatusCode)
	case len(body) > 0:
		return fmt.Errorf("answered with a body: %.40q", body)
	}
	return nil
}

// do makes a request that no client sent, and tells whether its answer may
// instruct the gateway.
func (c *linkClient) do(ctx context.Context, method string, uri *url.URL, last []hold.Last, header http.Header, body []byte) (*http.Response, bool, error) {
	r := (&http.Request{
		Method: method, URL: uri, RequestURI: uri.RequestURI(), Host: uri.Host, RemoteAddr: c.remote,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: make(http.Header), Body: http.NoBody,
	}).WithContext(ctx)
	maps.Copy(r.Header, header)
	if len(body) > 0 {
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	pool, rules := http.RoundTripper(nil), (*origin.Rules)(nil)
	grips := true
	if uri.Host == c.host && (uri.Scheme == "https") == c.secure {
		r.TLS = c.tls
		path := encodedPath(r)
		route := c.g.routes.Load().find(uri.Host, path, "http", c.secure)
		if c.chosen {
			route = nil
			if strings.HasPrefix(path, c.route.PathBeg) {
				route = c.route
			}
		}
		if route != nil && route.Guest != nil {
			if method == http.MethodPost && len(body) == 0 {
				r.Header.Set("Content-Length", "0")
			}
			response, _, grips, err := c.g.askOrigin(r, route, last)
			return response, grips, err
		}
		if route != nil {
			pool, rules, grips = route.Pool, route.Rules, !route.NoGrip
		}
	}
	if pool == nil {
		outside, err := c.outside(uri)
		if err != nil {
			return nil, false, err
		}
		defer outside.Close() // requests under way go on
		pool, rules = outside, c.g.opts.LinkRules
		if rules == nil {
			rules = &origin.Rules{Feature: Feature}
		}
	}
	request, _, err := rules.Prepare(r, origin.Call{})
	if err != nil {
		return nil, false, err
	}
	for _, l := range last {
		grip.AddLast(request.Header, l.Channel, l.ID)
	}
	if method == http.MethodPost && len(body) == 0 {
		request.Header.Set("Content-Length", "0")
	}
	response, err := pool.RoundTrip(request)
	return response, grips, err
}

// outside is a pool for a link that points elsewhere.
func (c *linkClient) outside(uri *url.URL) (*origin.Pool, error) {
	port := uri.Port()
	switch {
	case uri.Scheme != "http" && uri.Scheme != "https" || uri.Hostname() == "":
		return nil, fmt.Errorf("link %q: want http or https and a host", uri)
	case port == "" && uri.Scheme == "https":
		port = "443"
	case port == "":
		port = "80"
	}
	return origin.NewPool(origin.Options{
		Network: c.g.opts.Network,
		Targets: []origin.Target{{Addr: net.JoinHostPort(uri.Hostname(), port), TLS: uri.Scheme == "https", Untrusted: c.untrusted}},
	})
}
