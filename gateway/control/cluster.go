package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gripway/gripway/gateway/access"
	"github.com/gripway/gripway/gateway/cluster"
	"github.com/gripway/gripway/wsoverhttp"
)

const (
	// askWait is how long nodes are waited for when a command asks them something.
	askWait = 5 * time.Second

	// waitMax bounds what a publisher may wait for an answer that counts.
	waitMax = 60 * time.Second

	// countedMax bounds the publications, items times channels, of a request that
	// waits: each is asked about at each node.
	countedMax = 1000

	// publicationsMax bounds the publications, items times channels, of one request.
	publicationsMax = 100_000

	// commandBytesMax is how long the body of a command may be.
	commandBytesMax = 10_000

	// closeReasonMax is how long a WebSocket's close reason may be, in bytes
	// (RFC 6455, section 5.5).
	closeReasonMax = 123
)

// waitOf reads how long a publisher wants to wait for an answer that counts: the
// query's wait, as seconds or a duration, or Prefer: wait, as seconds (RFC 7240,
// section 4.3). Zero means that it does not.
func waitOf(r *http.Request) (wait time.Duration, preferred bool, err error) {
	if r.URL.RawQuery != "" {
		if text := r.URL.Query().Get("wait"); text != "" {
			seconds, err := strconv.ParseUint(text, 10, 31)
			wait = time.Duration(seconds) * time.Second
			if err != nil {
				wait, err = time.ParseDuration(text)
			}
			if err != nil || wait <= 0 || wait > waitMax {
				return 0, false, fmt.Errorf("wait %.40q is not a time up to %v, like 2s", text, waitMax)
			}
			return wait, false, nil
		}
	}
	for _, line := range r.Header["Prefer"] {
		for preference := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(preference, "=")
			if !strings.EqualFold(strings.TrimSpace(name), "wait") {
				continue
			}
			value, _, _ = strings.Cut(value, ";")
			seconds, err := strconv.ParseUint(strings.Trim(strings.TrimSpace(value), `"`), 10, 31)
			if err != nil || seconds == 0 || time.Duration(seconds)*time.Second > waitMax {
				return 0, false, nil // a preference that cannot be met is passed over (section 2)
			}
			return time.Duration(seconds) * time.Second, true, nil
		}
	}
	return 0, false, nil
}

// answerJSON writes a value.
func answerJSON(w http.ResponseWriter, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // a type of ours
	}
	h := w.Header()
	h["Content-Type"] = headerJSON
	h["Content-Length"] = []string{strconv.Itoa(len(text) + 1)}
	_, _ = w.Write(append(text, '\n')) // a client that is gone needs no answer
}

// command is the body of /api/close and /api/refresh.
type command struct {
	cluster.Who
	Code   int    `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// readCommand reads a command and answers one that is wrong, or that the key is
// not for.
func (c *Control) readCommand(w http.ResponseWriter, r *http.Request, key *access.Key, refreshes bool) (q command, ok bool) {
	refuse := func(status int, text string) (command, bool) {
		answer(w, status, text)
		return command{}, false
	}
	if r.Method != http.MethodPost {
		notAllowed(w, r, "POST")
		return q, false
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyWait)) // not every server has one
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, commandBytesMax))
	if err != nil {
		return refuse(http.StatusBadRequest, fmt.Sprintf("Request body did not arrive, or is longer than %d bytes.", commandBytesMax))
	}
	decoder := json.NewDecoder(strings.NewReader(string(body)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&q); err != nil {
		return refuse(http.StatusBadRequest, notCommand(err))
	}
	named := 0
	for _, name := range []string{q.Connection, q.User, q.Channel} {
		if name != "" {
			named++
		}
	}
	switch {
	case decoder.More():
		return refuse(http.StatusBadRequest, "Body has more than one value.")
	case refreshes && (named != 1 || q.User != ""):
		return refuse(http.StatusBadRequest, "Want one of 'connection' and 'channel'.")
	case named != 1:
		return refuse(http.StatusBadRequest, "Want one of 'connection', 'user' and 'channel'.")
	case refreshes && (q.Code != 0 || q.Reason != ""):
		return refuse(http.StatusBadRequest, "A refresh has neither 'code' nor 'reason'.")
	case q.Code != 0 && !wsoverhttp.ValidCloseCode(q.Code):
		return refuse(http.StatusBadRequest, fmt.Sprintf("No WebSocket may be closed with code %d: want 1000, or one from 3000 to 4999.", q.Code))
	case len(q.Reason) > closeReasonMax:
		return refuse(http.StatusBadRequest, fmt.Sprintf("'reason' is longer than %d bytes.", closeReasonMax))
	case q.Channel != "" && !key.May(q.Channel):
		return refuse(http.StatusForbidden, fmt.Sprintf("The key %q is not for channel %q.", key.Name(), q.Channel))
	case q.Channel == "" && !key.MayAll():
		return refuse(http.StatusForbidden, fmt.Sprintf("The key %q is only for some channels: it can name a channel, not a connection or user.", key.Name()))
	}
	return q, true
}

// close ends clients: a connection, a user's, or who follows a channel.
func (c *Control) close(w http.ResponseWriter, r *http.Request, key *access.Key) {
	q, ok := c.readCommand(w, r, key, false)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, askWait)
	defer cancel()
	closed, err := c.cluster.Close(ctx, q.Who, q.Code, q.Reason)
	if c.answerAsked(w, err) {
		c.log.Info("clients closed", "connection", q.Connection, "user", q.User, "channel", q.Channel, "code", q.Code, "closed", closed.Closed, "key", key.Name())
		answerJSON(w, closed)
	}
}

// refresh has WebSockets over HTTP ask their origins.
func (c *Control) refresh(w http.ResponseWriter, r *http.Request, key *access.Key) {
	q, ok := c.readCommand(w, r, key, true)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, askWait)
	defer cancel()
	refreshed, err := c.cluster.Refresh(ctx, q.Who)
	if c.answerAsked(w, err) {
		answerJSON(w, refreshed)
	}
}

// answerAsked answers if nodes could not be asked.
func (c *Control) answerAsked(w http.ResponseWriter, err error) (ok bool) {
	switch {
	case err == nil:
		return true
	case errors.Is(err, cluster.ErrCannotAsk):
		answer(w, http.StatusNotImplemented, "Nodes cannot be asked here.")
	default:
		w.Header().Set("Retry-After", retryAfter)
		answer(w, http.StatusServiceUnavailable, "Nodes cannot be asked now.")
	}
	return false
}

// notCommand says what is wrong with a command's body, in words of JSON.
func notCommand(err error) string {
	var typed *json.UnmarshalTypeError
	switch {
	case errors.As(err, &typed) && typed.Field == "":
		return "Body is not an object."
	case errors.As(err, &typed):
		return "Body contains '" + typed.Field[strings.LastIndexByte(typed.Field, '.')+1:] + "' with wrong type."
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "Body is not valid JSON."
	}
	return "Body is not what was expected: " + strings.TrimPrefix(err.Error(), "json: ") + "."
}
