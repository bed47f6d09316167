package grip

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Filter is one filter of a subscription. Those of unknown names do not exist:
// they are ignored, as the protocol wants it.
type Filter int

const (
	SkipSelf   Filter = iota // drops what the subscriber sent himself
	SkipUsers                // drops what is not meant for the subscriber
	RequireSub               // drops what needs another subscription too
	BuildID                  // writes ids into the content
	VarSubst                 // writes the subscriber's meta into the content
	HTTPCheck                // asks a URL whether to deliver
	HTTPModify               // asks a URL what to deliver
)

var filterNames = []string{"skip-self", "skip-users", "require-sub", "build-id", "var-subst", "http-check", "http-modify"}

// String returns the name in the protocol.
func (f Filter) String() string { return nameOf(filterNames, int(f)) }

// Chain is the known filters of a subscription, in their order. A nil Chain
// delivers everything as it is. It may be used concurrently.
type Chain []Filter

// NewChain leaves out unknown names. It returns nil if nothing is left, so a
// caller can take the short way for most subscribers.
func NewChain(names []string) Chain {
	var chain Chain
	for _, name := range names {
		if i := slices.Index(filterNames, name); i >= 0 {
			chain = append(chain, Filter(i))
		}
	}
	return chain
}

// FilterContext is what filters know of an item and of one subscriber to it.
type FilterContext struct {
	SubMeta map[string]string // the connection's: Grip-Set-Meta, set-meta
	PubMeta map[string]string // the item's

	// Subscribed reports whether the connection is subscribed to a channel,
	// named without a route's prefix. Nil means to none.
	Subscribed func(channel string) bool

	// PrevIDs are the connection's channels, without a route's prefix, and the
	// last id of each. Nil where ids are not known.
	PrevIDs map[string]string

	// HTTP asks the URL of HTTPCheck and HTTPModify. Nil makes them an error:
	// what was to be checked is not delivered unchecked.
	HTTP func(filter Filter, content []byte) (out []byte, deliver bool, err error)
}

// Apply runs the filters over an item's content, one after the other, until
// one drops it. On an error the subscriber does not get the item. The content
// itself is never changed: out is it or new bytes.
func (chain Chain) Apply(ctx *FilterContext, content []byte) (out []byte, deliver bool, err error) {
	for _, filter := range chain {
		switch filter {
		case SkipSelf:
			user := ctx.SubMeta["user"]
			deliver = user == "" || user != ctx.PubMeta["sender"]
		case SkipUsers:
			deliver = !contains(ctx.PubMeta["skip_users"], ctx.SubMeta["user"])
		case RequireSub:
			channel := ctx.PubMeta["require_sub"]
			deliver = channel == "" || ctx.Subscribed != nil && ctx.Subscribed(channel)
		case BuildID:
			deliver = true
			content, err = buildID(ctx, content)
		case VarSubst:
			deliver = true
			content, err = varSubst(ctx.SubMeta, content)
		case HTTPCheck, HTTPModify:
			if ctx.HTTP == nil {
				err = errors.New("no way to ask")
				break
			}
			content, deliver, err = ctx.HTTP(filter, content)
		}
		if err != nil {
			return nil, false, fmt.Errorf("filter %s: %w", filter, err)
		}
		if !deliver {
			return nil, false, nil
		}
	}
	return content, true, nil
}

// Response runs those filters over an origin's answer that are meant for it:
// BuildID, once. ctx.PrevIDs is nil for a first answer.
func (chain Chain) Response(ctx *FilterContext, body []byte) ([]byte, error) {
	if !slices.Contains(chain, BuildID) {
		return body, nil
	}
	out, err := buildID(ctx, body)
	if err != nil {
		return nil, fmt.Errorf("filter %s: %w", BuildID, err)
	}
	return out, nil
}

// RewritesResponse reports whether Response needs the whole body.
func (chain Chain) RewritesResponse() bool { return slices.Contains(chain, BuildID) }

// RewritesContent reports whether Apply may return other bytes than it was
// given, so that frames cannot be shared.
func (chain Chain) RewritesContent() bool {
	return slices.ContainsFunc(chain, Filter.rewritesContent)
}

// Asks reports whether Apply asks a URL (HTTPCheck, HTTPModify), so that it may
// take seconds and needs FilterContext.HTTP.
func (chain Chain) Asks() bool {
	return slices.Contains(chain, HTTPCheck) || slices.Contains(chain, HTTPModify)
}

func (f Filter) rewritesContent() bool {
	return f == BuildID || f == VarSubst || f == HTTPModify
}

// HasContentFilters reports whether the filters that rewrite content are
// exactly those that a publisher asserts with "content-filters".
func (chain Chain) HasContentFilters(want []string) bool {
	i := 0
	for _, filter := range chain {
		if !filter.rewritesContent() {
			continue
		}
		if i >= len(want) || want[i] != filter.String() {
			return false
		}
		i++
	}
	return i == len(want)
}

// contains looks for a name in a list like "ann, bob".
func contains(list, name string) bool {
	if name == "" {
		return false
	}
	for list != "" {
		var element string
		element, list, _ = strings.Cut(list, ",")
		if strings.TrimSpace(element) == name {
			return true
		}
	}
	return false
}

// buildID replaces %I by the session's id, which sub meta id_format builds out
// of the channels' ids, and %(text)I by text; both in hex if sub meta
// id_encoding says so.
func buildID(ctx *FilterContext, content []byte) ([]byte, error) {
	idFormat, ok := ctx.SubMeta["id_format"]
	if !ok {
		return nil, errors.New("no sub meta 'id_format'")
	}
	encode := func(dst, id []byte) []byte { return append(dst, id...) }
	switch encoding, given := ctx.SubMeta["id_encoding"]; {
	case encoding == "hex":
		encode = hex.AppendEncode
	case given:
		return nil, fmt.Errorf("unsupported encoding: %.40q", encoding)
	}
	var id []byte // nil: there is none to speak of
	if len(ctx.PrevIDs) > 0 {
		var err error
		if id, err = varSubst(ctx.PrevIDs, []byte(idFormat)); err != nil {
			return nil, fmt.Errorf("id_format: %w", err)
		}
		id = append([]byte{}, id...)
	}
	return expand(content, func(dst []byte, directive byte, arg []byte) ([]byte, error) {
		switch {
		case directive != 'I':
			return nil, fmt.Errorf("unknown directive '%c'", directive)
		case arg != nil:
			return encode(dst, arg), nil
		case id == nil:
			return nil, errors.New("no id given and none known")
		}
		return encode(dst, id), nil
	})
}

// varSubst replaces %(name)s by a variable's value.
func varSubst(vars map[string]string, content []byte) ([]byte, error) {
	return expand(content, func(dst []byte, directive byte, arg []byte) ([]byte, error) {
		if directive != 's' {
			return nil, fmt.Errorf("unknown directive '%c'", directive)
		}
		if arg == nil {
			return nil, errors.New("directive 's' needs an argument")
		}
		value, ok := vars[string(arg)]
		if !ok {
			return nil, fmt.Errorf("no such variable %.40q", arg)
		}
		return append(dst, value...), nil
	})
}

// expand replaces %% by % and calls directive for each
//
//	%X  %(arg)X          X is one byte; within arg a backslash takes the next byte literally
//
// arg is nil if there is none. Content without any % is returned as it is.
func expand(content []byte, directive func(dst []byte, directive byte, arg []byte) ([]byte, error)) ([]byte, error) {
	next := bytes.IndexByte(content, '%')
	if next < 0 {
		return content, nil
	}
	out := make([]byte, 0, len(content)+32)
	i := 0
	for next >= 0 {
		out = append(out, content[i:i+next]...)
		at := i + next
		i = at + 1
		if i == len(content) {
			return nil, fmt.Errorf("nothing behind the %% at position %d", at)
		}
		var arg []byte
		if content[i] == '(' {
			var ok bool
			if arg, i, ok = argument(content, i+1); !ok || i == len(content) {
				return nil, fmt.Errorf("unfinished directive at position %d", at)
			}
		}
		c := content[i]
		i++
		switch {
		case c == '%' && arg == nil:
			out = append(out, '%')
		case arg == nil && !isLetter(c):
			return nil, fmt.Errorf("unknown directive %q at position %d", c, at)
		default:
			var err error
			if out, err = directive(out, c, arg); err != nil {
				return nil, fmt.Errorf("%w at position %d", err, at)
			}
		}
		next = bytes.IndexByte(content[i:], '%')
	}
	return append(out, content[i:]...), nil
}

// argument reads up to the closing parenthesis; end is behind it.
func argument(content []byte, i int) (arg []byte, end int, ok bool) {
	arg = []byte{}
	for ; i < len(content); i++ {
		switch content[i] {
		case ')':
			return arg, i + 1, true
		case '\\':
			if i++; i == len(content) {
				return nil, i, false
			}
		}
		arg = append(arg, content[i])
	}
	return nil, i, false
}

func isLetter(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
