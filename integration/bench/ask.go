//go:build linux

// Clients that ask and are answered: plain requests, long polls, publishers.

package main

import (
	"errors"
	"fmt"
)

// asker sends the same request again and again on one connection.
type asker struct {
	peer     *peer
	request  []byte
	response response
	answered func(*response) (again bool)
}

// asker connects to the front. answered is called for each response and says
// whether to ask again at once.
func (l *load) asker(request []byte, answered func(*response) (again bool)) (*asker, error) {
	p, err := l.loop.dial(l.source(), l.front)
	if err != nil {
		return nil, err
	}
	a := &asker{peer: p, request: request, answered: answered}
	p.gone = func(err error) { l.fail(fmt.Errorf("connection closed on %.40q: %w", request, err)) }
	p.got = func(b []byte) {
		rest, done, err := a.response.feed(b)
		switch {
		case err != nil:
			l.fail(err)
		case len(rest) > 0:
			l.fail(fmt.Errorf("unasked bytes behind a response: %.100q", rest))
		case done && a.response.last:
			l.fail(fmt.Errorf("the connection is not kept alive after a %d", a.response.status))
		case done && a.answered(&a.response):
			a.ask()
		}
	}
	return a, nil
}

func (a *asker) ask()  { a.peer.write(a.request) }
func (a *asker) stop() { a.peer.close() }

// publisher posts to the control address, one POST at a time, on a kept
// connection where the server keeps it and a new one where it does not.
type publisher struct {
	load     *load
	peer     *peer // nil if there is no connection
	used     bool  // the connection has carried a POST before
	started  bool  // bytes of the answer have come
	request  []byte
	response response
	answered func() // nil when idle
}

// post sends the body; answered is called once the server took it.
func (p *publisher) post(body []byte, answered func()) {
	if p.answered != nil {
		panic("bench: a publisher was given a second POST while the first is in work")
	}
	p.request, p.answered = post("/publish/", benchHost, body), answered
	p.send()
}

func (p *publisher) send() {
	p.started = false
	if p.peer != nil {
		p.used = true
		p.peer.write(p.request)
		return
	}
	p.response, p.used = response{}, false
	peer, err := p.load.loop.dial(p.load.source(), p.load.control)
	if err != nil {
		p.load.fail(err)
		return
	}
	p.peer, peer.got, peer.gone = peer, p.got, p.gone
	peer.write(p.request)
}

func (p *publisher) got(b []byte) {
	p.started = true
	_, done, err := p.response.feed(b)
	if err != nil {
		p.load.fail(fmt.Errorf("publish: %w", err))
	}
	if done {
		p.finish()
	}
}

func (p *publisher) finish() {
	if p.response.last {
		p.drop()
	}
	answered := p.answered
	p.answered = nil
	if p.response.status != 200 {
		p.load.fail(fmt.Errorf("publish answered with %d", p.response.status))
		return
	}
	if answered != nil {
		answered()
	}
}

// gone: an idle connection may go any time. One that went just as a POST was
// sent on it is replaced, once: the server cannot have read that POST.
func (p *publisher) gone(err error) {
	p.peer = nil
	switch {
	case p.answered == nil:
	case p.response.ended():
		p.finish()
	case p.used && !p.started:
		p.send()
	default:
		p.load.fail(fmt.Errorf("publish: %w", errors.Join(errors.New("connection closed before the answer"), err)))
	}
}

func (p *publisher) drop() {
	if p.peer != nil {
		p.peer.close()
		p.peer = nil
	}
}
