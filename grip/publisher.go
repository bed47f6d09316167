package grip

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// publishTokenLife is js-grip's. A token is made for each second with a
	// publish, so it only has to outlast the request.
	publishTokenLife = 10 * time.Minute

	// answerBytesMax is how much of a gateway's answer is read; what is kept of
	// it goes into errors.
	answerBytesMax = 4 << 10
)

// PublisherOptions say how to reach the gateways.
type PublisherOptions struct {
	// Client sends the requests. Redirects are not followed whatever it says: a
	// publish that became a GET is lost. Nil means one that connects within 5 s
	// and keeps connections open.
	Client *http.Client

	// Timeout is for one request from connect to the end of the answer, in
	// addition to the context's. Zero means 10 s.
	Timeout time.Duration

	// Prefix is put before every channel of every item.
	Prefix string

	// Endpoints are published to in addition to those that are given as URLs.
	Endpoints []Endpoint
}

// Publisher sends items to one or more gateways, each of which gets all of
// them: gateways that are not one cluster do not tell each other. It may be
// used concurrently.
type Publisher struct {
	// Fixed after NewPublisher.
	client    http.Client
	timeout   time.Duration
	prefix    string
	endpoints []endpoint
	ownClient bool

	closed atomic.Bool
}

type endpoint struct {
	Endpoint
	signer   *Signer   // nil = no token to be signed
	verifier *Verifier // nil = no key to verify with
}

// NewPublisher publishes to the gateways that GRIP_URLs name, see
// ParseEndpoint. There must be at least one.
func NewPublisher(gripURLs ...string) (*Publisher, error) {
	return PublisherOptions{}.New(gripURLs...)
}

// PublisherFromEnv is NewPublisher with the URL in GRIP_URL, or
// http://localhost:5561 if that is empty. A key in GRIP_VERIFY_KEY takes the
// place of the URL's verify-key, for keys that would make it too long.
func PublisherFromEnv() (*Publisher, error) {
	gripURL := os.Getenv("GRIP_URL")
	if gripURL == "" {
		gripURL = "http://localhost:5561"
	}
	e, err := parseEndpoint(gripURL, os.Getenv("GRIP_VERIFY_KEY"))
	if err != nil {
		return nil, err
	}
	return PublisherOptions{Endpoints: []Endpoint{e}}.New()
}

// New is NewPublisher with options.
func (options PublisherOptions) New(gripURLs ...string) (*Publisher, error) {
	endpoints := options.Endpoints
	for _, gripURL := range gripURLs {
		e, err := ParseEndpoint(gripURL)
		if err != nil {
			return nil, err
		}
		endpoints = append(endpoints[:len(endpoints):len(endpoints)], e)
	}
	if len(endpoints) == 0 {
		return nil, errors.New("grip: a publisher needs a GRIP_URL")
	}

	p := &Publisher{timeout: options.Timeout, prefix: options.Prefix}
	if p.timeout == 0 {
		p.timeout = 10 * time.Second
	}
	if options.Client != nil {
		p.client = *options.Client
	} else {
		p.ownClient = true
		p.client.Transport = &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSHandshakeTimeout: 5 * time.Second,
			ForceAttemptHTTP2:   true,
			MaxIdleConnsPerHost: 16, // std's 2 would open a connection for most publishes of a busy origin
			IdleConnTimeout:     90 * time.Second,
		}
	}
	p.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

	for _, e := range endpoints {
		ready := endpoint{Endpoint: e}
		if e.Iss != "" {
			ready.signer = NewSigner(e.Iss, e.Key)
			ready.signer.life = publishTokenLife
		}
		if !e.VerifyKey.IsZero() {
			ready.verifier = NewVerifier(e.VerifyIss, e.VerifyKey)
		}
		p.endpoints = append(p.endpoints, ready)
	}
	return p, nil
}

// Publish sends items, in one request, to every gateway at once, and returns
// when all have answered. Nil means that all accepted all items, not that
// anybody received them. Otherwise the error joins one for each gateway that
// did not: a *ResponseError if it answered. Nothing is sent twice by itself;
// who sends again should give items an ID, by which gateways drop doubles.
func (p *Publisher) Publish(ctx context.Context, items ...*Item) error {
	if p.closed.Load() {
		return ErrClosed
	}
	if len(items) == 0 {
		return nil
	}
	body, err := p.encode(items)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	errs := make([]error, len(p.endpoints))
	var wg sync.WaitGroup
	for i := 1; i < len(p.endpoints); i++ {
		wg.Go(func() { _, errs[i] = p.post(ctx, &p.endpoints[i], body, answerBytesMax) })
	}
	_, errs[0] = p.post(ctx, &p.endpoints[0], body, answerBytesMax) // the first, and mostly only, needs no goroutine
	wg.Wait()
	return errors.Join(errs...)
}

// encode makes a publish body.
func (p *Publisher) encode(items []*Item) ([]byte, error) {
	body := []byte(`{"items":[`)
	for i, item := range items {
		if item.Channel == "" && len(item.Channels) == 0 {
			return nil, fmt.Errorf("item %d: %w", i, ErrNoChannel)
		}
		if item.Response == nil && item.Stream == nil && item.Message == nil && item.unknown == nil {
			return nil, fmt.Errorf("item %d: %w", i, ErrNoFormat)
		}
		if i > 0 {
			body = append(body, ',')
		}
		body = item.appendJSON(body, p.prefix)
	}
	return append(body, "]}"...), nil
}

// post sends a body to one gateway and returns its answer, as far as it is wanted.
func (p *Publisher) post(ctx context.Context, e *endpoint, body []byte, answerMax int64) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.PublishURL, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("grip: publish: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	authorization, err := e.authorization(time.Now())
	if err != nil {
		return nil, fmt.Errorf("grip: publish to %s: %w", e.String(), err)
	}
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	answer, err := p.client.Do(r)
	if err != nil {
		// url.Error repeats the URL, and a query may hold a secret.
		var urlErr *url.Error
		if errors.As(err, &urlErr) {
			err = urlErr.Err
		}
		return nil, fmt.Errorf("grip: publish to %s: %w", e.String(), err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, answerMax))
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return nil, &ResponseError{URL: e.String(), Status: answer.StatusCode, Body: text[:min(len(text), answerBytesMax)]}
	}
	if err != nil {
		return nil, fmt.Errorf("grip: publish to %s: answer broke off: %w", e.String(), err)
	}
	return text, nil
}

// authorization returns the header's value, "" for none.
func (e *endpoint) authorization(now time.Time) (string, error) {
	switch {
	case e.signer != nil:
		token, err := e.signer.Sign(now)
		return "Bearer " + token, err
	case e.Token != "":
		return "Bearer " + e.Token, nil
	case e.User != "":
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(e.User+":"+e.Password)), nil
	}
	return "", nil
}

// Close closes the connections that the Publisher opened itself. Requests that
// are under way go on.
func (p *Publisher) Close() error {
	p.closed.Store(true)
	if p.ownClient {
		p.client.CloseIdleConnections()
	}
	return nil
}

// VerifyRequest returns nil if one of the gateways signed the request. The
// error is ErrNoSignature for a request that did not come through a gateway
// and ErrNoKey if no GRIP_URL gave a key to verify with: then IsGrip is all one
// can know.
func (p *Publisher) VerifyRequest(r *http.Request) error {
	token := r.Header.Get("Grip-Sig")
	if token == "" {
		return ErrNoSignature
	}
	now := time.Now()
	var errs []error
	for i := range p.endpoints {
		verifier := p.endpoints[i].verifier
		if verifier == nil {
			continue
		}
		err := verifier.Verify(token, now)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	if errs == nil {
		return ErrNoKey
	}
	return errors.Join(errs...)
}

// ResponseError is a gateway's refusal of a publish.
type ResponseError struct {
	URL    string // without its query
	Status int
	Body   []byte // at most 4096 bytes of it
}

func (e *ResponseError) Error() string {
	return fmt.Sprintf("grip: publish to %s: %d %s: %s", e.URL, e.Status, Reason(e.Status), bytes.TrimSpace(e.Body))
}
