package grip

import (
	"net/http"
	"strings"
	"time"
)

// Defaults and limits of the protocol. The gateway applies them where a comment
// of Instruction says so.
const (
	// ResponseTimeoutDefault is how long a response is held if the origin does
	// not say.
	ResponseTimeoutDefault = 55 * time.Second

	// KeepAliveTimeoutDefault is the time between keep-alives if the origin
	// does not say.
	KeepAliveTimeoutDefault = 55 * time.Second

	// LinkTimeoutDefault is the time after which a next link is fetched again
	// if the origin does not say.
	LinkTimeoutDefault = 120 * time.Second

	// SendDelayedTimeoutDefault is how long a delayed message waits if the
	// origin does not say.
	SendDelayedTimeoutDefault = time.Second

	// FiltersMax is how many filters one subscription may have; each costs
	// work per item and subscriber.
	FiltersMax = 5

	// AutoRepliesMax and AutoReplyBytesMax bound what a gateway answers for a WebSocket
	// client's origin: how many texts, which are looked up with each message, and how
	// long each of them and its answer may be. The gateway applies them.
	AutoRepliesMax    = 16
	AutoReplyBytesMax = 4 << 10

	// AtOnce is what a timeout of zero seconds is read as, since zero means
	// that none was given. It is written as zero seconds again.
	AtOnce = time.Millisecond
)

// Feature is the value of Grip-Feature for a gateway that does all there is, in
// the order in which libraries expect it.
const Feature = "status, session, link:next, link:gone, " +
	"filter:skip-self, filter:skip-users, filter:require-sub, filter:build-id, filter:var-subst, " +
	"filter:http-check, filter:http-modify"

// InstructType is the Content-Type of an instruction in its JSON form.
const InstructType = "application/grip-instruct"

// HoldMode says what becomes of a response after the origin is done with it.
type HoldMode int

const (
	HoldNone     HoldMode = iota // send it
	HoldResponse                 // keep it back until an item or the timeout: long poll
	HoldStream                   // send it, keep it open and append items
)

var holdNames = []string{"", "response", "stream"}

// String returns the name in the protocol, "" for HoldNone.
func (m HoldMode) String() string { return nameOf(holdNames, int(m)) }

// Instruction is what an origin's answer asks the gateway to do. The zero
// Instruction asks for nothing.
type Instruction struct {
	Hold     HoldMode
	Channels []Channel // each name once, in the order they were first named

	// Timeout is how long a response is held; 0 = none given, see
	// ResponseTimeoutDefault. An explicit zero is AtOnce. Pushpin raises
	// anything below 5 s to 5 s; parsing does not.
	Timeout time.Duration

	KeepAlive *KeepAlive        // streams only; nil = none
	Meta      map[string]string // for filters; nil = none

	Next *Link // where the stream goes on; nil = nowhere
	Gone *Link // told when the client is gone; nil = nobody

	Status int    // replaces the answer's status; 0 = leave it
	Reason string // "" = Reason(Status). Parsed instructions have it filled in

	ExposeHeaders []string // the only headers the client may see; nil = all

	// Response replaces the answer's status, header and body. Only the JSON
	// form has it, and always: Status is 0 then.
	Response *Response
}

// Channel is a subscription.
type Channel struct {
	Name    string
	PrevID  string   // id of the last item the client has; "" = not kept track of
	Filters []string // at most FiltersMax

	// Pattern makes Name a pattern: all channels like it, by parts between dots, of
	// which * is any one and > all that follow. It has no PrevID.
	Pattern bool
}

// KeepAlive is what is sent to a client to show that the connection is alive.
type KeepAlive struct {
	Content []byte
	Timeout time.Duration // at least 1 s once parsed; 0 = KeepAliveTimeoutDefault when written
	Mode    KeepAliveMode
	Type    MessageType // WebSockets only
}

// KeepAliveMode says what the timeout is counted from.
type KeepAliveMode int

const (
	KeepAliveIdle     KeepAliveMode = iota // from the last that was sent to the client
	KeepAliveInterval                      // from the last keep-alive
)

var keepAliveModeNames = []string{"idle", "interval"}

// String returns the name in the protocol.
func (m KeepAliveMode) String() string { return nameOf(keepAliveModeNames, int(m)) }

// Link is another resource of the origin.
type Link struct {
	URI string // may be relative to the request's

	// Timeout is for next links: after how long it is fetched again although
	// nothing seems to be missing. Parsed links have it filled in; 0 =
	// LinkTimeoutDefault when written. An explicit zero is AtOnce.
	Timeout time.Duration
}

// Response is an answer within the JSON form.
type Response struct {
	Code   int    // 0 = 200. Parsed responses have it filled in
	Reason string // "" = Reason(Code). Parsed responses have it filled in
	Header http.Header
	Body   []byte
}

// IsInstruction reports whether an origin's answer is one to ParseInstruction
// rather than to relay: it has any Grip-* header, known or not, or the type of
// the JSON form.
func IsInstruction(h http.Header) bool {
	for name := range h {
		if isGripHeader(name) {
			return true
		}
	}
	return isInstructType(h)
}

// StripHeader removes every Grip-* header, in whatever case it is written.
func StripHeader(h http.Header) {
	for name := range h {
		if isGripHeader(name) {
			delete(h, name)
		}
	}
}

func isGripHeader(name string) bool {
	return len(name) >= 5 && name[4] == '-' && strings.EqualFold(name[:4], "Grip")
}

// isInstructType compares exactly, but for parameters behind a semicolon.
func isInstructType(h http.Header) bool {
	mediaType, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.Trim(mediaType, space) == InstructType
}

// ParseInstruction reads an origin's answer for which IsInstruction holds. The
// names in h are canonical, as net/http makes them. The body is read only for
// the JSON form, and may be nil otherwise. The error is an *InstructError.
func ParseInstruction(status int, h http.Header, body []byte) (*Instruction, error) {
	in := &Instruction{}
	if err := in.parseHeader(h); err != nil {
		return nil, err
	}
	if isInstructType(h) {
		if status != http.StatusOK {
			return nil, instructError("response code for application/grip-instruct content must be 200")
		}
		if err := in.parseBody(body); err != nil {
			return nil, err
		}
	}
	in.mergeChannels()
	return in, nil
}

// addChannel adds a subscription as it was found.
func (in *Instruction) addChannel(channel Channel) error {
	if len(channel.Filters) > FiltersMax {
		return instructError("too many filters for channel '" + channel.Name + "'")
	}
	if channel.Pattern && channel.PrevID != "" {
		return instructError("channel '" + channel.Name + "' is a pattern, which has no prev-id")
	}
	in.Channels = append(in.Channels, channel)
	return nil
}

// mergeChannels makes one of several subscriptions to one channel: the last
// counts, in the place of the first.
func (in *Instruction) mergeChannels() {
	if len(in.Channels) < 2 {
		return
	}
	merged := in.Channels[:0]
	type key struct {
		name    string
		pattern bool
	}
	places := make(map[key]int, len(in.Channels))
	for _, channel := range in.Channels {
		k := key{channel.Name, channel.Pattern}
		if place, ok := places[k]; ok {
			merged[place] = channel
			continue
		}
		places[k] = len(merged)
		merged = append(merged, channel)
	}
	in.Channels = merged
}

func instructError(text string) error { return &InstructError{Text: text} }

// seconds makes a timeout of what the protocol gives in seconds.
func seconds(n int) time.Duration {
	if n == 0 {
		return AtOnce
	}
	return time.Duration(n) * time.Second
}

// inSeconds is the other way; fractions are rounded up, but for AtOnce.
func inSeconds(d time.Duration) int {
	if d <= AtOnce {
		return 0
	}
	return int((d + time.Second - 1) / time.Second)
}
