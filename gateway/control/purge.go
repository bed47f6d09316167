package control

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gripway/gripway/gateway/access"
)

// Purge is what is to be taken out of the caches of guests.
type Purge struct {
	Guest string   // "" = of all guests
	Keys  []string // surrogate keys
	All   bool     // everything, whatever its keys
	Soft  bool     // it stays, and is stale
}

// Purged is what became of a Purge.
type Purged struct {
	Objects int      // taken out, or made stale, on all nodes that answered
	Nodes   int      // that answered
	Missing []string // nodes that did not
}

// purgeKeysMax bounds the surrogate keys of one request: Fastly's number.
const purgeKeysMax = 256

// purgeBytes bounds the body of a request to purge: purgeKeysMax keys that are as
// long as may be, in JSON.
const purgeBytes = purgeKeysMax*1032 + 100

// purgeWait is for how long the other nodes may take.
const purgeWait = 5 * time.Second

// purgePath is whose what is to be purged, if the path is one of Fastly's API:
// /service/{id}/purge, /service/{id}/purge/{key} or /service/{id}/purge_all.
func (c *Control) purgePath(path string) (p Purge, ok bool) {
	rest, ok := strings.CutPrefix(path, "/service/")
	id, what, ok2 := strings.Cut(rest, "/")
	if !ok || !ok2 || id == "" {
		return p, false
	}
	switch known := c.purgesGuest != nil && c.purgesGuest(id); {
	case known:
		p.Guest = id
	case c.serviceID != "" && id != c.serviceID:
		return p, false
	}
	switch key, isKey := strings.CutPrefix(what, "purge/"); {
	case isKey && key != "":
		p.Keys = []string{key}
	case what == "purge_all":
		p.All = true
	case what != "purge":
		return p, false
	}
	return p, true
}

// purgeCaches takes objects out of the caches of guests, on all nodes.
func (c *Control) purgeCaches(w http.ResponseWriter, r *http.Request, p Purge, key *access.Key) {
	switch {
	case r.Method != http.MethodPost:
		notAllowed(w, r, "POST")
		return
	case c.purge == nil:
		answer(w, http.StatusNotImplemented, "There are no caches here.")
		return
	case !key.MayAll():
		answer(w, http.StatusForbidden, fmt.Sprintf("Not purged: the key %q is for some channels only.", key.Name()))
		return
	}
	single := len(p.Keys) == 1
	if soft := r.Header.Get("Fastly-Soft-Purge"); soft != "" && soft != "0" {
		p.Soft = true
	}
	if !p.All && !single {
		keys, err := purgeKeys(w, r)
		if err != "" {
			answer(w, http.StatusBadRequest, "Not purged: "+err)
			return
		}
		p.Keys = keys
	}
	ctx, cancel := context.WithTimeout(c.ctx, purgeWait)
	defer cancel()
	purged, err := c.purge(ctx, p)
	if err != nil {
		c.log.Warn("not purged", "remote", r.RemoteAddr, "guest", p.Guest, "keys", p.Keys, "all", p.All, "error", err)
		w.Header().Set("Retry-After", retryAfter)
		answer(w, http.StatusServiceUnavailable, "Not purged: "+refusalOf(err).why+".")
		return
	}
	if len(purged.Missing) > 0 {
		c.log.Warn("some nodes have not purged", "guest", p.Guest, "keys", p.Keys, "all", p.All, "nodes", purged.Missing)
	}
	c.log.Info("purged", "remote", r.RemoteAddr, "guest", p.Guest, "keys", p.Keys, "all", p.All, "soft", p.Soft, "objects", purged.Objects, "nodes", purged.Nodes)
	said := make(map[string]any, len(p.Keys)+3)
	if p.All || single {
		said["status"], said["id"] = "ok", rand.Text()
		said["objects"], said["nodes"] = purged.Objects, purged.Nodes
	} else { // an id for each, and no room for anything else
		for _, key := range p.Keys {
			said[key] = rand.Text()
		}
	}
	status := http.StatusOK
	if len(purged.Missing) > 0 {
		status = http.StatusAccepted // not everywhere yet, and nobody will try again
	}
	body, _ := json.Marshal(said) // strings and numbers
	w.Header()["Content-Type"] = headerJSON
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

// purgeKeys are the surrogate keys that a request names, in its header or its body.
// A text says what is wrong.
func purgeKeys(w http.ResponseWriter, r *http.Request) (keys []string, wrong string) {
	keys = strings.Fields(strings.Join(r.Header["Surrogate-Key"], " "))
	if len(keys) == 0 {
		var body struct {
			Keys []string `json:"surrogate_keys"`
		}
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyWait)) // not every server has one
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, purgeBytes)).Decode(&body); err != nil {
			return nil, `it names no keys: want a header Surrogate-Key, or a body {"surrogate_keys":["…"]}.`
		}
		keys = body.Keys
	}
	switch {
	case len(keys) == 0:
		return nil, "it names no keys."
	case len(keys) > purgeKeysMax:
		return nil, fmt.Sprintf("%d keys at once, at most %d.", len(keys), purgeKeysMax)
	}
	return keys, ""
}
