package metrics

import (
	"net/http/httptest"
	"testing"
	"time"
)

func TestPushpinsNamesShowWhatThisGatewayCounts(t *testing.T) {
	registry := New()
	requests := registry.Counters("requests_total", "Requests.", "kind", "http", "websocket")
	requests["http"].Add(3)
	requests["websocket"].Inc()
	registry.Counter("published_items_total", "Items.").Add(1_500_000)
	registry.Counters("items_delivered_total", "Items.", "format", "http-stream")["http-stream"].Add(7)
	view := NewPushpin(registry, func() int { return 2 })
	view.add(90 * time.Second)

	answer := httptest.NewRecorder()
	view.Handler("pp_").ServeHTTP(answer, httptest.NewRequest("GET", "/any/path", nil))

	want := `# HELP pp_request_received Requests of clients.
# TYPE pp_request_received counter
pp_request_received 4
# HELP pp_connection_connected Clients that are held.
# TYPE pp_connection_connected gauge
pp_connection_connected 2
# HELP pp_connection_minute Minutes that clients were connected.
# TYPE pp_connection_minute counter
pp_connection_minute 7
# HELP pp_message_received Items that came over the private API.
# TYPE pp_message_received counter
pp_message_received 1500000
# HELP pp_message_sent Items handed to clients.
# TYPE pp_message_sent counter
pp_message_sent 7
`
	if got := answer.Body.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestANilRegistryHasNoNumbers(t *testing.T) {
	var registry *Registry
	if got := registry.Sum("requests_total"); got != 0 {
		t.Errorf("got %v, want 0", got)
	}
}
