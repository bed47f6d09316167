package hub

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
)

// chainsMax is how many channels' filters are kept of one subscriber before
// those that it has left are forgotten.
const chainsMax = 64

// Filters are what a subscriber's items pass through, by channel. They do not
// change: a subscriber whose channels or meta change gets others. Nil Filters
// pass everything as it is.
type Filters struct {
	prefix     string // of the route's channels
	meta       map[string]string
	chains     map[string]grip.Chain // by channel, prefixed; only those with filters
	patterns   map[string]grip.Chain // by pattern, prefixed; only those with filters
	subscribed func(channel string) bool
	ids        func() map[string]string // of channels, without prefix; nil where none are known
	line       *line                    // nil if no filter asks a URL
	ask        Ask
}

// WithIDs returns f with what tells the last ids that the subscriber has, by
// channel without prefix.
func (f *Filters) WithIDs(ids func() map[string]string) *Filters {
	if f == nil {
		return nil
	}
	n := *f
	n.ids = ids
	return &n
}

// RewritesResponse says whether Response needs an answer's whole body.
func (f *Filters) RewritesResponse() bool {
	if f != nil {
		for chain := range f.all {
			if chain.RewritesResponse() {
				return true
			}
		}
	}
	return false
}

// Response runs the filters that are meant for an origin's answer over its body.
// A first answer knows no ids.
func (f *Filters) Response(body []byte, first bool) ([]byte, error) {
	if f == nil {
		return body, nil
	}
	for chain := range f.all {
		if chain.RewritesResponse() {
			return chain.Response(f.context(nil, !first), body)
		}
	}
	return body, nil
}

// context is what filters know of an item with this meta.
func (f *Filters) context(meta map[string]string, ids bool) *grip.FilterContext {
	ctx := &grip.FilterContext{SubMeta: f.meta, PubMeta: meta, Subscribed: f.subscribed}
	if ids && f.ids != nil {
		ctx.PrevIDs = f.ids()
	}
	return ctx
}

// NewFilters returns the filters of a subscriber to channels that a route's
// origin named without prefix, or nil if none of them has any.
func NewFilters(s *Subscriber, prefix string, channels []grip.Channel, meta map[string]string) *Filters {
	var f *Filters
	for _, ch := range channels {
		if grip.NewChain(ch.Filters) != nil {
			f = f.WithChannel(s, prefix, ch)
		}
	}
	if f != nil {
		f.meta = meta
	}
	return f
}

// WithChannel returns f with the filters of ch instead of those it had, if any.
func (f *Filters) WithChannel(s *Subscriber, prefix string, ch grip.Channel) *Filters {
	chain := grip.NewChain(ch.Filters)
	name := prefix + ch.Name
	if ch.Pattern {
		return f.withPattern(s, prefix, name, chain)
	}
	if f == nil && chain == nil {
		return nil
	}
	n := f.clone(s, prefix)
	delete(n.chains, name)
	if len(n.chains) >= chainsMax {
		// An origin that subscribes and unsubscribes in turn leaves many behind.
		maps.DeleteFunc(n.chains, func(name string, _ grip.Chain) bool { return !s.Subscribed(name) })
	}
	if chain != nil {
		n.chains[name] = chain
	}
	return n
}

// clone returns a copy of f that can be changed.
func (f *Filters) clone(s *Subscriber, prefix string) *Filters {
	n := &Filters{prefix: prefix, chains: make(map[string]grip.Chain), subscribed: func(channel string) bool {
		return s.Subscribed(prefix + channel)
	}}
	if f != nil {
		n.meta, n.ids, n.line, n.ask = f.meta, f.ids, f.line, f.ask
		maps.Copy(n.chains, f.chains)
		n.patterns = f.patterns
	}
	return n
}

// withPattern is WithChannel for a pattern.
func (f *Filters) withPattern(s *Subscriber, prefix, name string, chain grip.Chain) *Filters {
	if chain == nil && (f == nil || f.patterns[name] == nil) {
		return f
	}
	n := f.clone(s, prefix)
	if n.patterns = maps.Clone(n.patterns); n.patterns == nil {
		n.patterns = make(map[string]grip.Chain)
	}
	delete(n.patterns, name)
	if len(n.patterns) >= chainsMax {
		followed := s.Patterns()
		maps.DeleteFunc(n.patterns, func(name string, _ grip.Chain) bool { return !slices.Contains(followed, name) })
	}
	if chain != nil {
		n.patterns[name] = chain
	}
	return n
}

// chain is the filters of a channel's items: its own if it is followed by name, or
// those of the first pattern, by name, that matches and has some.
func (f *Filters) chain(channel string) grip.Chain {
	if f == nil {
		return nil
	}
	if chain := f.chains[channel]; chain != nil || len(f.patterns) == 0 || f.subscribed(strings.TrimPrefix(channel, f.prefix)) {
		return chain
	}
	first := ""
	for name := range f.patterns {
		if (first == "" || name < first) && pubsub.Match(name, channel) {
			first = name
		}
	}
	return f.patterns[first]
}

// all yields all chains.
func (f *Filters) all(yield func(grip.Chain) bool) {
	for _, chains := range [...]map[string]grip.Chain{f.chains, f.patterns} {
		for _, chain := range chains {
			if !yield(chain) {
				return
			}
		}
	}
}

// WithMeta returns f with another meta of the connection.
func (f *Filters) WithMeta(meta map[string]string) *Filters {
	if f == nil {
		return nil
	}
	n := *f
	n.meta = meta
	return &n
}

// WithAsk returns f with the way to ask URLs, if a filter asks any. Items wait in
// line for their turn, which the caller ends with the client.
func (f *Filters) WithAsk(ask Ask) *Filters {
	if f == nil || f.line != nil {
		return f
	}
	for chain := range f.all {
		if chain.Asks() {
			n := *f
			n.line, n.ask = new(line), ask
			return &n
		}
	}
	return f
}

// Any says whether items of the channel have to pass filters, or to wait for
// items that do.
func (f *Filters) Any(channel string) bool {
	return f != nil && (f.chain(channel) != nil || f.line != nil && f.line.busy())
}

// Asks says that what becomes of an item of the channel cannot be said at once: a
// filter asks a URL about it, or it has to wait for items about which one does.
func (f *Filters) Asks(channel string) bool {
	return f != nil && f.line != nil && (f.chain(channel).Asks() || f.line.busy())
}

// Later is Pass for items of channels that Asks: then is called with what Pass
// would return, in the item's turn, unless the client has gone. It returns false,
// and does nothing, if too many items wait.
func (f *Filters) Later(channel string, item *grip.Item, content []byte, asserted []string, asserts bool, then func(out []byte, ok bool, err error)) bool {
	chain := f.chain(channel)
	known := f.context(item.Meta, chain.Asks() || chain.RewritesResponse())
	return f.line.do(len(content), func(ctx context.Context) {
		if asserts && !chain.HasContentFilters(asserted) {
			then(nil, false, nil)
			return
		}
		if f.ask != nil {
			last := f.before(channel, item, known.PrevIDs)
			known.HTTP = func(filter grip.Filter, content []byte) ([]byte, bool, error) {
				return f.ask(ctx, &Question{
					Filter: filter, URL: known.SubMeta["url"], SubMeta: known.SubMeta, PubMeta: known.PubMeta, Last: last, Content: content,
				})
			}
		}
		out, ok, err := chain.Apply(known, content)
		if ctx.Err() == nil {
			then(out, ok, err)
		}
	})
}

// Busy says whether an item waits, or is being asked about.
func (f *Filters) Busy() bool { return f != nil && f.line != nil && f.line.busy() }

// Wait returns when no item waits for another any more, or done is closed.
func (f *Filters) Wait(done <-chan struct{}) {
	if f != nil && f.line != nil {
		f.line.wait(done)
	}
}

// End forgets items that wait.
func (f *Filters) End() {
	if f != nil && f.line != nil {
		f.line.end()
	}
}

// Turn does something else in its turn: after the items that wait. Like Later it
// may refuse.
func (f *Filters) Turn(then func()) bool { return f.line.do(0, func(context.Context) { then() }) }

// before is the ids that the subscriber had before the item, which it may not be
// given.
func (f *Filters) before(channel string, item *grip.Item, ids map[string]string) map[string]string {
	name := strings.TrimPrefix(channel, f.prefix)
	if _, tracked := ids[name]; !tracked || item.PrevID == "" {
		return ids
	}
	ids = maps.Clone(ids)
	ids[name] = item.PrevID
	return ids
}

// Pass returns what the subscriber is to get of an item's content, and whether
// it is to get it. If asserts is set, the publisher wants only subscribers whose
// content filters are just those of asserted.
func (f *Filters) Pass(channel string, item *grip.Item, content []byte, asserted []string, asserts bool) (out []byte, ok bool, err error) {
	chain := f.chain(channel)
	if asserts && !chain.HasContentFilters(asserted) {
		return nil, false, nil
	}
	if chain == nil {
		return content, true, nil
	}
	return chain.Apply(f.context(item.Meta, chain.RewritesResponse()), content)
}
