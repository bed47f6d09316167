package gateway

import (
	"errors"
	"net/http"
	"slices"

	"github.com/gripway/gripway/gateway/origin"
)

// This file is about routes whose targets differ in how clients are held: one
// speaks WebSocket and the next is asked by HTTP, or they subscribe clients to
// different channels. Such a route has a part for each run of targets that are alike,
// and a client belongs to the part whose target took it.

// UsePool gives the route the pool of its targets, and sets what those say.
func (r *Route) UsePool(pool *origin.Pool) {
	r.Pool = pool
	targets := pool.Targets()
	r.hold(&targets[0])
	r.Parts = nil
	begin := 0
	for i := 1; i <= len(targets); i++ {
		if i < len(targets) && alike(&targets[begin], &targets[i]) {
			continue
		}
		part := *r
		part.Pool = pool.Part(begin, i)
		part.hold(&targets[begin])
		r.Parts = append(r.Parts, &part)
		begin = i
	}
	if len(r.Parts) == 1 {
		r.Parts = nil
		return
	}
	for i := range targets {
		r.OverHTTP = r.OverHTTP || targets[i].OverHTTP
	}
}

// hold sets how the target has clients held.
func (r *Route) hold(t *origin.Target) {
	r.OverHTTP, r.OneEvent, r.Untrusted = t.OverHTTP, t.OneEvent, t.Untrusted
	r.Channels = nil
	for _, channel := range t.Sub {
		if !slices.Contains(r.Channels, channel) {
			r.Channels = append(r.Channels, channel)
		}
	}
}

// alike says whether two targets have clients held in the same way.
func alike(a, b *origin.Target) bool {
	return a.OverHTTP == b.OverHTTP && a.OneEvent == b.OneEvent && a.Untrusted == b.Untrusted && slices.Equal(a.Sub, b.Sub)
}

// roundTrip takes a request to the route's origin, and returns the part of the
// route that answered: the route itself where there are no parts.
func (r *Route) roundTrip(request *http.Request) (*http.Response, *Route, error) {
	pool, ok := r.Pool.(*origin.Pool)
	if len(r.Parts) == 0 || !ok {
		response, err := r.Pool.RoundTrip(request)
		return response, r, err
	}
	response, target, err := pool.Do(request)
	if err != nil {
		return nil, r, err
	}
	for _, part := range r.Parts {
		if part.Pool.(*origin.Pool).Has(target) {
			return response, part, nil
		}
	}
	return response, r, nil
}

// eachPart calls serve with the parts of the route in their order, until one does
// not fail because none of its targets can be connected to. For a failure serve
// calls the function it is given, and answers nothing itself.
func (r *Route) eachPart(serve func(part *Route, failed func(error)), failed func(error)) {
	if len(r.Parts) == 0 {
		serve(r, failed)
		return
	}
	for i, part := range r.Parts {
		next := false
		serve(part, func(err error) {
			var unreachable *origin.ConnectError
			if next = errors.As(err, &unreachable) && i+1 < len(r.Parts); !next {
				failed(err)
			}
		})
		if !next {
			return
		}
	}
}
