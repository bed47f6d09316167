package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
)

const (
	// outletMax is how many items may wait to be published. One takes about a
	// millisecond; what is more than a moment late is better refused.
	outletMax = 256

	// publishTimeout bounds one publish, so that a gateway that hangs does not
	// hold the rest for long.
	publishTimeout = 5 * time.Second

	// complainAfter is how long publishing may fail before somebody is told:
	// while the gateway begins and ends it has to.
	complainAfter = 5 * time.Second
)

// publisher is a grip.Publisher, or something in its place.
type publisher interface {
	Publish(ctx context.Context, items ...*grip.Item) error
}

// outlet publishes items one after the other, in the order in which they were
// offered. Offering does not wait: an answer to the gateway is never late because
// the gateway is.
type outlet struct {
	// Fixed after newOutlet.
	log     *slog.Logger
	public  publisher // its requests are recorded
	private publisher // its are not: it publishes the records
	close   func()

	queue chan job // never closed

	// Owned by run.
	failing time.Time // since when; zero if it works
	told    bool      // of the failing
}

// job is one item to come.
type job struct {
	panel panel
	item  func() *grip.Item // called when it is published; may return nil for none
}

// newOutlet publishes to the private API, or to the bus if there is none.
func newOutlet(options Options, tap *tap) (*outlet, error) {
	o := &outlet{log: options.Log, queue: make(chan job, outletMax), close: func() {}}
	if options.ControlAddr == "" {
		if options.Bus == nil {
			return nil, errors.New("demo: neither a private API to publish to nor a bus")
		}
		o.private = busPublisher{options.Bus}
		o.public = &tappedPublisher{o.private, tap}
		return o, nil
	}
	host, port, err := net.SplitHostPort(options.ControlAddr)
	if err != nil {
		return nil, fmt.Errorf("demo: private API: %w", err)
	}
	if everywhere(host) {
		if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
			host = "::1"
		} else {
			host = "127.0.0.1"
		}
	}
	gripURL := "http://" + net.JoinHostPort(host, port)
	transport := &http.Transport{MaxIdleConnsPerHost: 2, IdleConnTimeout: 90 * time.Second}
	for _, p := range []struct {
		to        *publisher
		transport http.RoundTripper
	}{{&o.public, &tappedTransport{transport, tap}}, {&o.private, transport}} {
		made, err := grip.PublisherOptions{
			Client: &http.Client{Transport: p.transport}, Timeout: publishTimeout,
		}.New(gripURL)
		if err != nil {
			return nil, fmt.Errorf("demo: private API %q: %w", options.ControlAddr, err)
		}
		*p.to = made
	}
	o.close = transport.CloseIdleConnections
	return o, nil
}

// offer queues an item and reports whether there was room.
func (o *outlet) offer(panel panel, item func() *grip.Item) bool {
	select {
	case o.queue <- job{panel, item}:
		return true
	default:
		return false
	}
}

// run publishes until ctx ends.
func (o *outlet) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case job := <-o.queue:
			item := job.item()
			if item == nil {
				continue
			}
			err := o.public.Publish(withPanel(ctx, job.panel), item)
			if ctx.Err() != nil {
				return
			}
			o.note(err)
		}
	}
}

// publishRecords publishes without leaving a record.
func (o *outlet) publishRecords(ctx context.Context, item *grip.Item) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	return o.private.Publish(ctx, item)
}

// note logs when publishing has failed for a while, and when it works again.
func (o *outlet) note(err error) {
	switch {
	case err == nil:
		if o.told {
			o.log.Info("demo: publishing works again")
		}
		o.failing, o.told = time.Time{}, false
	case o.failing.IsZero():
		o.failing = time.Now()
	case !o.told && time.Since(o.failing) > complainAfter:
		o.log.Warn("demo: publishing does not work", "since", o.failing, "error", err)
		o.told = true
	}
}

// busPublisher publishes without a private API.
type busPublisher struct{ bus pubsub.Bus }

func (p busPublisher) Publish(ctx context.Context, items ...*grip.Item) error {
	for _, item := range items {
		if err := p.bus.Publish(ctx, item.Channel, item.AppendJSON(nil)); err != nil {
			return err
		}
	}
	return nil
}

// tappedPublisher records what is published on a bus.
type tappedPublisher struct {
	next publisher
	tap  *tap
}

func (p *tappedPublisher) Publish(ctx context.Context, items ...*grip.Item) error {
	begun := time.Now()
	err := p.next.Publish(ctx, items...)
	r := record{Panel: panelOf(ctx), Kind: kindPublish, Took: time.Since(begun).Microseconds()}
	body := compact(map[string]any{"items": items})
	r.Request = half{Line: "publish on the bus", Bytes: len(body), Body: shown(body)}
	r.Response.Line = "accepted"
	if err != nil {
		r.Response.Line = "not accepted"
	}
	p.tap.add(r)
	return err
}

// tappedTransport records the requests of a Publisher as they leave.
type tappedTransport struct {
	next http.RoundTripper
	tap  *tap
}

// RoundTrip is an http.RoundTripper's.
func (t *tappedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	var body []byte
	if r.Body != nil {
		var err error
		body, err = io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	begun := time.Now()
	response, err := t.next.RoundTrip(r)
	entry := record{Panel: panelOf(r.Context()), Kind: kindPublish, Took: time.Since(begun).Microseconds()}
	entry.Request = half{Line: requestLine(r), Header: shownHeader(r.Header), Bytes: len(body), Body: shown(body)}
	if err != nil {
		entry.Response.Line = "no answer"
	} else {
		entry.Response = half{Line: statusLine(response.StatusCode), Header: shownHeader(response.Header)}
	}
	t.tap.add(entry)
	return response, err
}
