package control

import (
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/gripway/gripway/gateway/access"
)

// servicePath makes the path of Fastly's API, /service/{id}/publish, the one of
// ours. Any other path, and an id that is not this gateway's, stays as it is, and
// is found nowhere.
func (c *Control) servicePath(path string) string {
	rest, ok := strings.CutPrefix(path, "/service/")
	id, ok2 := strings.CutSuffix(rest, "/publish")
	if !ok || !ok2 || id == "" || strings.Contains(id, "/") || c.serviceID != "" && id != c.serviceID {
		return path
	}
	return "/publish"
}

// needsKey reports whether a path is only for those with a key. What is not
// listed is, so that nothing that is added later is open by mistake.
func (c *Control) needsKey(path string) bool {
	switch path {
	case "/", "/healthz", "/readyz":
		return false
	case "/metrics":
		return c.metricsKey
	}
	return true
}

// admit returns whose the request is, or answers it.
func (c *Control) admit(w http.ResponseWriter, r *http.Request, path string) (key *access.Key, ok bool) {
	if c.loopbackOpen && fromLoopback(r) && !access.Shows(r) {
		return nil, true
	}
	key, err := c.access.Admit(r)
	if err == nil {
		return key, true
	}
	reason, status, why := refusedUnauthorized, http.StatusUnauthorized, ""
	switch {
	case errors.Is(err, access.ErrMissing):
		why = "Unauthorized: a key is needed, as Authorization: Bearer or Basic, or as Fastly-Key."
	case errors.Is(err, access.ErrMalformed):
		why = "Unauthorized: this is no Authorization that is known here: want one, of Bearer or Basic."
	case errors.Is(err, access.ErrTooLong):
		why = "Unauthorized: the key is too long."
	case errors.Is(err, access.ErrExpired):
		why = "Unauthorized: the token is not valid at this time: look at its exp and nbf, and at the clocks."
	case errors.Is(err, access.ErrNoExpiry):
		why = "Unauthorized: the token has no exp, and would be valid for ever."
	case errors.Is(err, access.ErrKeysAway):
		reason, status = refusedKeysAway, http.StatusServiceUnavailable
		why = "The keys of the token's issuer cannot be read at present."
	default:
		why = "Unauthorized: the key is none of this gateway's."
	}
	if status == http.StatusUnauthorized {
		w.Header()["Www-Authenticate"] = c.access.Challenge(err)
	} else {
		w.Header().Set("Retry-After", retryAfter)
	}
	if path == "/publish/" || path == "/publish" {
		c.stats.refused[reason].Inc()
	}
	c.warnKey(r, err)
	if 0 < r.ContentLength && r.ContentLength <= int64(c.publishBytes) {
		drain(w, r) // of whoever could have published, were it not for the key
	}
	answer(w, status, why)
	return nil, false
}

// fromLoopback reports whether a request comes from this machine. A proxy on it
// comes from there as well, whoever is behind it.
func fromLoopback(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	ip := net.ParseIP(host)
	return err == nil && ip != nil && ip.IsLoopback()
}

// warnKey logs that somebody was not admitted, at most once a second. What was
// shown is not for the log.
func (c *Control) warnKey(r *http.Request, err error) {
	now, last := time.Now().Unix(), c.warnedKeys.Load()
	if now == last || !c.warnedKeys.CompareAndSwap(last, now) {
		return
	}
	path := r.URL.Path
	if len(path) > pathLogged {
		path = path[:pathLogged]
	}
	c.log.Warn("not admitted to the private API", "remote", r.RemoteAddr, "path", path, "error", err)
}

// pathLogged is how much of a stranger's path is worth logging, in bytes.
const pathLogged = 100
