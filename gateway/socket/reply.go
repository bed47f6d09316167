package socket

import (
	"fmt"
	"maps"

	"github.com/gorilla/websocket"

	"github.com/gripway/gripway/grip"
)

// Replies are texts of a client that are answered here, without a request to the
// origin: by text, the frame of the answer. Nil answers nothing. They do not
// change.
type Replies map[string][]byte

// NewReplies makes Replies of texts and the texts that answer them, of which the
// last counts.
func NewReplies(texts [][2]string) *Replies {
	if len(texts) == 0 {
		return nil
	}
	r := make(Replies, len(texts))
	for _, pair := range texts {
		r[pair[0]] = frame(websocket.TextMessage, []byte(pair[1]), false)
	}
	return &r
}

// reply answers a text of the client if it is one of those.
func (s *session) reply(content []byte) bool {
	replies := s.replies.Load()
	if replies == nil {
		return false
	}
	answer, ok := (*replies)[string(content)]
	if ok {
		s.keeper.replied.Inc()
		s.send(answer)
	}
	return ok
}

// setReply begins, changes or ends the answer to a text.
func (s *session) setReply(c grip.Control) {
	var replies Replies
	if before := s.replies.Load(); before != nil {
		replies = maps.Clone(*before)
	}
	if !c.HasContent {
		delete(replies, c.Match)
	} else {
		if replies == nil {
			replies = make(Replies)
		}
		_, known := replies[c.Match]
		if !known && len(replies) >= grip.AutoRepliesMax || len(c.Match) > grip.AutoReplyBytesMax || len(c.Content) > grip.AutoReplyBytesMax {
			s.keeper.badControl.Inc()
			s.keeper.log.Warn("auto-reply beyond the limits ignored", "conn", s.id, "route", s.terms.Route, "match", fmt.Sprintf("%.40q", c.Match),
				"limit", grip.AutoRepliesMax, "bytes", grip.AutoReplyBytesMax)
			return
		}
		answer := s.controlFrame(c)
		if answer == nil {
			s.keeper.badControl.Inc()
			s.keeper.log.Warn("auto-reply that cannot be sent ignored", "conn", s.id, "route", s.terms.Route, "match", fmt.Sprintf("%.40q", c.Match))
			return
		}
		replies[c.Match] = answer
	}
	if len(replies) == 0 {
		s.replies.Store(nil)
		return
	}
	s.replies.Store(&replies)
}
