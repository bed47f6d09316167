package gateway

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/gateway/origin"
	"github.com/gripway/gripway/guest"
)

// This file passes WebSockets through to backends that speak it, when a guest says
// so: no GRIP, no signature, bytes both ways until either side ends.

// tunnelBytes is the buffer of one direction. A tunnel keeps two of them, and two
// goroutines, as long as it lives.
const tunnelBytes = 8 << 10

// tunnelWriteMax bounds how long either side may take for what the other said:
// afterwards it counts as gone.
const tunnelWriteMax = 30 * time.Second

// passThrough takes a request to a backend and, if that agrees to a WebSocket, the
// client's bytes. With raw the backend is one that speaks WebSocket, otherwise the
// guest's Proxy.
func (g *Gateway) passThrough(w http.ResponseWriter, r *http.Request, route *Route, h *guest.Handoff, raw bool) {
	name := h.Backend
	var backend http.RoundTripper
	if !raw {
		backend = route.Guest.Proxy(name)
	} else if h.Described != nil {
		b, err := route.Guest.Backends.Open(*h.Described)
		if err != nil {
			g.originFailed(w, r, route, err)
			return
		}
		defer b.Close()
		backend = b
	} else if b := route.Guest.Backends.Lookup(name); b != nil {
		backend = b
	} else {
		g.log.Error("guest hands off to a backend that does not exist", "guest", route.Guest.Name, "backend", name, "path", encodedPath(r))
		text := "The service failed."
		if route.Debug {
			text = fmt.Sprintf("Backend %q not found", name)
		}
		g.refuse(w, r, refusedGuest, http.StatusInternalServerError, text)
		return
	}
	if g.full() {
		g.refuse(w, r, refusedFull, http.StatusServiceUnavailable, "Too many clients are held.")
		return
	}
	upgrade := isWebSocket(r)
	plain := *route.Rules
	plain.NoGrip, plain.Verifier, plain.Signer = true, nil, nil
	request, _, err := plain.Prepare(r, origin.Call{WebSocket: upgrade})
	if err != nil {
		g.prepareFailed(w, r, route, err)
		return
	}
	if upgrade {
		// The handshake is between client and backend, extensions and all.
		request.Header["Connection"], request.Header["Upgrade"] = []string{"Upgrade"}, r.Header["Upgrade"]
		for _, name := range []string{"Sec-Websocket-Extensions", "Accept-Encoding"} {
			if values, there := r.Header[name]; there {
				request.Header[name] = values
			}
		}
	}
	response, err := backend.RoundTrip(request)
	if err != nil {
		g.originFailed(w, r, route, err)
		return
	}
	conn, ok := response.Body.(io.ReadWriteCloser)
	if response.StatusCode != http.StatusSwitchingProtocols {
		if err := origin.Relay(w, r, response); err != nil {
			panic(http.ErrAbortHandler) // the client must see that it is not whole
		}
		return
	}
	if !ok || !upgrade {
		response.Body.Close()
		g.originFailed(w, r, route, fmt.Errorf("backend %q: 101 to a request that did not ask for it", name))
		return
	}
	defer conn.Close()
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		g.log.Error("client cannot be handed off", "guest", route.Guest.Name, "backend", name, "error", err)
		g.refuse(w, r, refusedGuest, http.StatusInternalServerError, "The service failed.")
		return
	}
	defer client.Close()
	client.SetDeadline(time.Time{})
	if err := writeAgreement(client, response); err != nil {
		return
	}
	if !g.tunnels.add(client) {
		return // the gateway is about to end
	}
	defer g.tunnels.remove(client)
	tunnel(client, buffered.Reader, conn)
}

// writeAgreement writes a backend's 101 to the client.
func writeAgreement(client net.Conn, response *http.Response) error {
	header := maps.Clone(response.Header)
	delete(header, "Content-Length")
	delete(header, "Transfer-Encoding")
	w := bufio.NewWriter(client)
	fmt.Fprintf(w, "HTTP/1.1 %s\r\n", response.Status)
	header.Write(w)
	w.WriteString("\r\n")
	client.SetWriteDeadline(time.Now().Add(tunnelWriteMax))
	return w.Flush()
}

// tunnel copies both ways until either side ends, and closes both.
func tunnel(client net.Conn, from io.Reader, backend io.ReadWriteCloser) {
	var both sync.WaitGroup
	both.Go(func() {
		io.CopyBuffer(onlyWriter{backend}, onlyReader{from}, make([]byte, tunnelBytes))
		backend.Close()
	})
	both.Go(func() {
		io.CopyBuffer(patientWriter{client}, onlyReader{backend}, make([]byte, tunnelBytes))
		client.Close()
	})
	both.Wait()
}

// onlyReader and onlyWriter keep io.CopyBuffer to the buffer it was given.
type onlyReader struct{ io.Reader }
type onlyWriter struct{ io.Writer }

// patientWriter gives each write its time.
type patientWriter struct{ net.Conn }

func (w patientWriter) Write(p []byte) (int, error) {
	w.SetWriteDeadline(time.Now().Add(tunnelWriteMax))
	return w.Conn.Write(p)
}

// tunnels are the clients that are passed through.
type tunnels struct {
	open metrics.Gauge

	// Guarded by mu.
	mu       sync.Mutex
	clients  map[net.Conn]struct{}
	draining bool
}

func newTunnels(open metrics.Gauge) *tunnels {
	return &tunnels{open: open, clients: make(map[net.Conn]struct{})}
}

// add registers a client; false means that the gateway drains.
func (t *tunnels) add(client net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.draining {
		return false
	}
	t.clients[client] = struct{}{}
	t.open.Inc()
	return true
}

func (t *tunnels) remove(client net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.clients, client)
	t.open.Dec()
}

func (t *tunnels) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.clients)
}

// drain ends all tunnels. Nobody here speaks their protocol: there are no words.
func (t *tunnels) drain() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draining = true
	for client := range t.clients {
		client.Close()
	}
}
