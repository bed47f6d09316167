package pubsub

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// PartsMax is how many parts a channel's name has for patterns, between dots; all
// that is behind the last of these dots is one part.
const PartsMax = 16

// ErrPattern: the pattern is none, or no bus can carry it.
var ErrPattern = errors.New("not a pattern")

// PatternReceiver is where the items of a pattern's channels go. Calls for one
// channel come one at a time and in order; calls for different channels may come
// at once. It hands on and returns, as a Receiver does.
type PatternReceiver interface {
	// ReceiveFrom takes one item of a channel that matches; see Receiver.Receive for
	// data.
	ReceiveFrom(channel string, data []byte)

	// Lost tells of a hole, as Receiver.Lost does: items of any of the channels may
	// have been missed. It may be called several times for one hole, also at once.
	Lost(items int)
}

// CheckPattern is what a Bus first asks of SubscribePattern: ctx still wanted, and
// a pattern that says what it means.
//
//	news.*       news.sport, not news.sport.tennis and not news
//	*.sport      news.sport
//	news.>       news.sport, news.sport.tennis, not news
//	>            all
//
// A part is anything between dots, nothing at all included. Only a part that is
// nothing but * or > is special, so "new*" is refused: it looks like what it is
// not. Channels that have such a part in their names are matched like all others
// but cannot be meant alone.
func CheckPattern(ctx context.Context, pattern string) error {
	if err := CheckChannel(ctx, pattern); err != nil {
		return err
	}
	parts := strings.Split(pattern, ".")
	wild := false
	for i, part := range parts {
		switch {
		case part == ">" && i < len(parts)-1:
			return fmt.Errorf("pattern %q: %w: > is only for the end", pattern, ErrPattern)
		case part == "*" || part == ">":
			wild = true
		case strings.ContainsAny(part, "*>"):
			return fmt.Errorf("pattern %q: %w: * and > stand for whole parts, between dots", pattern, ErrPattern)
		}
	}
	switch {
	case !wild:
		return fmt.Errorf("pattern %q: %w: it has neither * nor >, so it is a channel", pattern, ErrPattern)
	case len(parts) > PartsMax:
		return fmt.Errorf("pattern %q: %w: it has %d parts, at most %d", pattern, ErrPattern, len(parts), PartsMax)
	}
	return nil
}

// Match says whether a pattern, for which CheckPattern holds, matches a channel.
func Match(pattern, channel string) bool {
	for n := 1; ; n++ {
		part, restPattern, morePattern := strings.Cut(pattern, ".")
		if part == ">" {
			return true
		}
		name, rest, more := strings.Cut(channel, ".")
		if n == PartsMax {
			name, more = channel, false
		}
		if part != "*" && part != name || morePattern != more {
			return false
		}
		if !more {
			return true
		}
		pattern, channel = restPattern, rest
	}
}
