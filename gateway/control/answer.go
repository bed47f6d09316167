package control

import (
	"net/http"
	"strconv"
	"strings"
)

// format is what an answer to a publisher is written in.
type format int

const (
	formatText format = iota
	formatJSON
	formatNone // the client accepts neither
)

var (
	headerText = []string{"text/plain"}
	headerJSON = []string{"application/json"}
)

// reply is a good answer in both formats, ready to write: the usual answer to a
// publish allocates nothing of its own.
type reply struct {
	body   [2][]byte
	length [2][]string
}

var (
	published = newReply("Published")
	updated   = newReply("Updated")
)

func newReply(message string) *reply {
	var a reply
	a.body[formatText] = []byte(message + "\n")
	a.body[formatJSON] = []byte(`{"message":"` + message + `"}` + "\n")
	for i := range a.body {
		a.length[i] = []string{strconv.Itoa(len(a.body[i]))}
	}
	return &a
}

func (a *reply) write(w http.ResponseWriter, f format) {
	h := w.Header()
	h["Content-Type"] = headerText
	if f == formatJSON {
		h["Content-Type"] = headerJSON
	}
	h["Content-Length"] = a.length[f]
	_, _ = w.Write(a.body[f]) // a client that is gone needs no answer
}

// negotiate reads Accept as Pushpin does: of the entries that name a format,
// the last one wins.
func negotiate(h http.Header) format {
	accepts := h["Accept"]
	if len(accepts) == 0 || len(accepts) == 1 && accepts[0] == "*/*" {
		return formatText
	}
	chosen, said := formatNone, false
	for _, accept := range accepts {
		for entry := range strings.SplitSeq(accept, ",") {
			kind, _, _ := strings.Cut(entry, ";")
			switch kind = strings.TrimSpace(kind); kind {
			case "":
				continue
			case "text/plain", "text/*", "*/*", "*":
				chosen = formatText
			case "application/json", "application/*":
				chosen = formatJSON
			}
			said = true
		}
	}
	if !said {
		return formatText
	}
	return chosen
}

// answer writes a line of text.
func answer(w http.ResponseWriter, status int, line string) {
	h := w.Header()
	h["Content-Type"] = headerText
	h["Content-Length"] = []string{strconv.Itoa(len(line) + 1)}
	w.WriteHeader(status)
	_, _ = w.Write(append([]byte(line), '\n')) // a client that is gone needs no answer
}

func notAllowed(w http.ResponseWriter, r *http.Request, allow string) {
	w.Header().Set("Allow", allow)
	answer(w, http.StatusMethodNotAllowed, "Method not allowed: "+r.Method+".")
}

// reading lets GET and HEAD pass and answers everything else.
func reading(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return true
	}
	notAllowed(w, r, "GET, HEAD")
	return false
}

func (c *Control) unacceptable(w http.ResponseWriter) {
	answer(w, http.StatusNotAcceptable, "Not Acceptable. Supported formats are text/plain and application/json.")
}
