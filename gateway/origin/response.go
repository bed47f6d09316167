package origin

import (
	"io"
	"net/http"
	"strings"
	"sync"
)

// quietBytes is the buffer for bodies that come in small pieces, and slowly: it
// is held all the time.
const quietBytes = 4 << 10

var quiets = sync.Pool{New: func() any { b := make([]byte, quietBytes); return &b }}

// pieceBytesMin is how long a body of known length must be for its head to leave
// before the body's first byte is there. A shorter one is as good as there.
const pieceBytesMin = 64 << 10

// Relay gives an origin's answer to the client and closes it. What the origin
// sends arrives at once: whenever it pauses, what came is flushed.
//
// An error says that the client did not get all of the answer, because the origin
// or the client stopped. The status has been sent by then, so the caller should
// panic with http.ErrAbortHandler: else what was cut would look whole.
func Relay(w http.ResponseWriter, r *http.Request, response *http.Response) error {
	defer response.Body.Close()
	header := w.Header()
	connection := response.Header["Connection"]
	for name, values := range response.Header {
		if !answerHopByHop(name) && !(len(connection) > 0 && hasToken(connection, name)) {
			header[name] = values
		}
	}
	if _, ok := header["Content-Type"]; !ok {
		header["Content-Type"] = nil // else net/http guesses one
	}
	trailers := announce(header, response.Trailer)
	w.WriteHeader(response.StatusCode)
	if trailers {
		// net/http would send a short body with its length and leave trailers out.
		http.NewResponseController(w).Flush()
	}
	if r.Method != http.MethodHead {
		if err := CopyBody(w, response); err != nil {
			return err
		}
	}
	relayTrailer(header, response.Trailer)
	return nil
}

// announce names the trailers that will follow, and says whether there are any.
func announce(header, trailer http.Header) bool {
	var names []string
	for name := range trailer {
		if isTrailer(name) {
			names = append(names, name)
		}
	}
	if names == nil {
		return false
	}
	header["Trailer"] = []string{strings.Join(names, ", ")}
	return true
}

// relayTrailer sets the trailers after the body. Those that the origin did not
// announce need a prefix for net/http.
func relayTrailer(header, trailer http.Header) {
	announced := header["Trailer"]
	for name, values := range trailer {
		switch {
		case !isTrailer(name):
		case hasToken(announced, name):
			header[name] = values
		default:
			header[http.TrailerPrefix+name] = values
		}
	}
}

// isTrailer says whether a trailer is for the client. GRIP knows no trailers, and
// nobody would take them out later.
func isTrailer(name string) bool {
	return !answerHopByHop(name) && name != "Content-Length" && !begins(name, "grip-")
}

// CopyBody copies an answer's body to the client, after WriteHeader, and flushes
// what came whenever the origin pauses. It does not close the body. With an error
// what came before has been flushed.
func CopyBody(w http.ResponseWriter, response *http.Response) error {
	body := response.Body
	if body == nil || body == http.NoBody {
		return nil
	}
	flush := flusher(w)
	buffers := &copies
	if response.ContentLength < 0 && strings.HasPrefix(response.Header.Get("Content-Type"), "text/event-stream") {
		buffers = &quiets
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)

	waits, known := body.(interface{ waiting() bool })
	if known {
		if !waits.waiting() {
			flush()
		}
	} else if response.ContentLength < 0 || response.ContentLength > pieceBytesMin {
		flush()
	}
	for {
		n, err := body.Read(*buf)
		if n > 0 {
			if _, werr := w.Write((*buf)[:n]); werr != nil {
				return werr
			}
		}
		switch {
		case err == io.EOF:
			return nil // the server flushes, and may do so together with what follows
		case err != nil:
			flush()
			return err
		case known && waits.waiting():
			// More is there. Writing it takes what is left of this along.
		default:
			flush()
		}
	}
}

// flusher returns w's Flush, also that of a writer it wraps.
func flusher(w http.ResponseWriter) func() {
	if f, ok := w.(http.Flusher); ok {
		return f.Flush
	}
	controller := http.NewResponseController(w)
	return func() { controller.Flush() }
}
