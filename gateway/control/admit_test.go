package control_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/access"
	"github.com/gripway/gripway/gateway/control"
	"github.com/gripway/gripway/gateway/metrics"
	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/pubsub"
)

func admitted(t *testing.T, publishers ...access.Publisher) *access.List {
	t.Helper()
	l, err := access.New(access.Options{Publishers: publishers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// app may do all, with the token s3cret.
var app = access.Publisher{Name: "app", Tokens: []string{"s3cret"}}

func TestOnlySomePathsAreOpenWhenThereAreKeys(t *testing.T) {
	recovered := 0
	options := control.Options{
		Access: admitted(t, app, access.Publisher{Name: "user", User: "me", Password: "pw"}), Recover: func() { recovered++ }, Metrics: metrics.New(),
	}
	_, url := api(t, options)
	for _, test := range []struct {
		method, path, body string
		without, with      int
	}{
		{"POST", "/publish/", oneItem, 401, 200},
		{"POST", "/publish", oneItem, 401, 200},
		{"POST", "//publish//", oneItem, 401, 200},
		{"POST", "/%70ublish/", oneItem, 401, 200},
		{"POST", "/service/abc/publish/", oneItem, 401, 200},
		{"POST", "/service/abc/publish", oneItem, 401, 200},
		{"POST", "//service//abc//publish", oneItem, 401, 200},
		{"GET", "/publish/", "", 401, 405},
		{"OPTIONS", "/publish/", "", 401, 405},
		{"POST", "/recover/", "", 401, 200},
		{"GET", "/api/subscribe", "", 401, 400},
		{"GET", "/api/whatever/comes", "", 401, 404},
		{"GET", "/api", "", 401, 404},
		{"POST", "/service//publish/", oneItem, 401, 404},
		{"POST", "/service/a/b/publish/", oneItem, 401, 404},
		{"POST", "/service/a%2Fb/publish/", oneItem, 401, 404},
		{"POST", "/service/abc/", oneItem, 401, 404},
		{"POST", "/service/abc/publish/x", oneItem, 401, 404},
		{"GET", "/x", "", 401, 404},
		{"GET", "/healthz", "", 200, 200},
		{"GET", "/readyz/", "", 200, 200},
		{"GET", "/metrics", "", 200, 200},
		{"GET", "/", "", 200, 200},
	} {
		answer, body := ask(t, test.method, url+test.path, test.body)
		if answer.StatusCode != test.without {
			t.Errorf("%s %s without a key: got %d %q, want %d", test.method, test.path, answer.StatusCode, body, test.without)
		}
		if challenge := answer.Header["Www-Authenticate"]; (answer.StatusCode == 401) != (len(challenge) == 2) {
			t.Errorf("%s %s: got WWW-Authenticate %q with status %d", test.method, test.path, challenge, answer.StatusCode)
		}
		for _, key := range []string{"Authorization: Bearer s3cret", "Fastly-Key: s3cret", "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("me:pw"))} {
			if answer, body := ask(t, test.method, url+test.path, test.body, key); answer.StatusCode != test.with {
				t.Errorf("%s %s with %s: got %d %q, want %d", test.method, test.path, key, answer.StatusCode, body, test.with)
			}
		}
	}
	if recovered != 3 {
		t.Errorf("recovered %d times, want once for each key", recovered)
	}

	options.MetricsKey = true
	_, url = api(t, options)
	if answer, _ := ask(t, "GET", url+"/metrics/", ""); answer.StatusCode != 401 {
		t.Errorf("metrics with MetricsKey: got %d, want 401", answer.StatusCode)
	}
	if answer, _ := ask(t, "GET", url+"/metrics", "", "Authorization: Bearer s3cret"); answer.StatusCode != 200 {
		t.Errorf("metrics with MetricsKey and a key: got %d, want 200", answer.StatusCode)
	}
}

func TestRefusalsSayWhyAndAreCounted(t *testing.T) {
	expired, err := grip.NewSigner("realm", mustKey(t, "realm")).Sign(time.Now().Add(-2 * time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	_, url := api(t, control.Options{Metrics: metrics.New(), Access: admitted(t, app,
		access.Publisher{Name: "realm", Key: mustKey(t, "realm"), Iss: "realm"},
		access.Publisher{Name: "away", JWKS: "no such file", Iss: "away"},
	)})
	away, _ := grip.NewSigner("away", mustKey(t, newKey(t))).Sign(time.Now())
	for _, test := range []struct {
		name, header string
		status       int
		want         string
	}{
		{"nothing", "X: y", 401, "Unauthorized: a key is needed, as Authorization: Bearer or Basic, or as Fastly-Key.\n"},
		{"empty, as go-pubcontrol", "Authorization: ", 401, "Unauthorized: a key is needed, as Authorization: Bearer or Basic, or as Fastly-Key.\n"},
		{"as pubcontrol on Python 3", "Authorization: Basic b'eDp5'", 401, "Unauthorized: this is no Authorization that is known here: want one, of Bearer or Basic.\n"},
		{"wrong", "Authorization: Bearer wrong", 401, "Unauthorized: the key is none of this gateway's.\n"},
		{"expired", "Authorization: Bearer " + expired, 401, "Unauthorized: the token is not valid at this time: look at its exp and nbf, and at the clocks.\n"},
		{"too long", "Authorization: Bearer " + strings.Repeat("x", 10000), 401, "Unauthorized: the key is too long.\n"},
		{"the issuer is away", "Authorization: Bearer " + away, 503, "The keys of the token's issuer cannot be read at present.\n"},
	} {
		answer, body := ask(t, "POST", url+"/publish/", oneItem, test.header)
		if answer.StatusCode != test.status || body != test.want {
			t.Errorf("%s: got %d %q, want %d %q", test.name, answer.StatusCode, body, test.status, test.want)
		}
		if again := answer.Header.Get("Retry-After"); (test.status == 503) != (again != "") {
			t.Errorf("%s: got Retry-After %q", test.name, again)
		}
	}
	ask(t, "POST", url+"/recover/", "")
	waitMetric(t, url, `gripway_publish_refused_total{reason="unauthorized"} 6`)
	waitMetric(t, url, `gripway_publish_refused_total{reason="keys_away"} 1`)
	waitMetric(t, url, `gripway_publish_refused_total{reason="forbidden"} 0`)
	waitMetric(t, url, `gripway_publish_refused_total{reason="rate"} 0`)
}

// newKey is a private key of no one, as PEM.
func newKey(t *testing.T) string {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func mustKey(t *testing.T, text string) grip.Key {
	t.Helper()
	k, err := grip.ParseKey(text, "")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestNothingIsPublishedIfOneItemIsForbidden(t *testing.T) {
	bus := pubsub.NewMemory()
	defer bus.Close()
	h := hear(t, bus, "news.a", "other", "end")
	_, url := api(t, control.Options{Bus: bus, Metrics: metrics.New(), Access: admitted(t, app,
		access.Publisher{Name: "news", Tokens: []string{"news"}, Channels: []string{"news.*"}})})
	item := func(channel string) string { return `{"channel":"` + channel + `","http-stream":{"content":"x"}}` }
	answer, body := ask(t, "POST", url+"/publish/", `{"items":[`+item("news.a")+`,`+item("other")+`]}`, "Authorization: Bearer news")
	if want := "Not published: the key \"news\" is not for channel \"other\". No item was published.\n"; answer.StatusCode != 403 || body != want {
		t.Errorf("got %d %q, want 403 %q", answer.StatusCode, body, want)
	}
	if answer, body := ask(t, "POST", url+"/publish/", `{"items":[`+item("news.a")+`]}`, "Authorization: Bearer news"); answer.StatusCode != 200 {
		t.Errorf("got %d %q, want 200", answer.StatusCode, body)
	}
	if answer, body := ask(t, "POST", url+"/publish/", `{"items":[`+item("end")+`]}`, "Authorization: Bearer s3cret"); answer.StatusCode != 200 {
		t.Errorf("got %d %q, want 200", answer.StatusCode, body)
	}
	if got := h.wait(t, 2); len(got) != 2 || got[0] != item("news.a") || got[1] != item("end") {
		t.Errorf("got %q, want what was allowed", got)
	}
	waitMetric(t, url, `gripway_publish_refused_total{reason="forbidden"} 1`)

	answer, body = ask(t, "GET", url+"/api/subscribe?channel=news.a&channel=other", "", "Authorization: Bearer news")
	if want := "Not subscribed: the key \"news\" is not for channel \"other\".\n"; answer.StatusCode != 403 || body != want {
		t.Errorf("listening: got %d %q, want 403 %q", answer.StatusCode, body, want)
	}
}

// It has the clients of all channels ask their origins, at once.
func TestRecoveryNeedsAKeyForAllChannels(t *testing.T) {
	recovered := 0
	_, url := api(t, control.Options{
		Recover: func() { recovered++ },
		Access:  admitted(t, app, access.Publisher{Name: "news", Tokens: []string{"news"}, Channels: []string{"news.*"}}),
	})
	for token, want := range map[string]int{"news": 403, "s3cret": 200} {
		if answer, body := ask(t, "POST", url+"/recover/", "", "Authorization: Bearer "+token); answer.StatusCode != want {
			t.Errorf("%s: got %d %q, want %d", token, answer.StatusCode, body, want)
		}
	}
	if recovered != 1 {
		t.Errorf("recovered %d times, want 1", recovered)
	}
}

func TestOverTheRateIsToldWhenToComeAgain(t *testing.T) {
	_, url := api(t, control.Options{Metrics: metrics.New(), Access: admitted(t,
		access.Publisher{Name: "slow", Tokens: []string{"slow"}, Rate: 0.01, Burst: 2})})
	two := `{"items":[{"channel":"a","http-stream":{"content":"1"}},{"channel":"a","http-stream":{"content":"2"}}]}`
	three := strings.Replace(two, `{"items":[`, `{"items":[{"channel":"a","http-stream":{"content":"0"}},`, 1)
	for _, test := range []struct {
		body   string
		status int
		again  string
		want   string
	}{
		{three, 400, "", "Not published: 3 items at once, and the key \"slow\" may publish 2.\n"},
		{two, 200, "", "Published\n"},
		{oneItem, 429, "100", "Not published: the key \"slow\" has published as much as it may. No item was published.\n"},
		{`{"items":[]}`, 200, "", "Published\n"},
	} {
		answer, body := ask(t, "POST", url+"/publish/", test.body, "Fastly-Key: slow")
		if answer.StatusCode != test.status || body != test.want || answer.Header.Get("Retry-After") != test.again {
			t.Errorf("got %d %q %q, want %d %q %q", answer.StatusCode, answer.Header.Get("Retry-After"), body, test.status, test.again, test.want)
		}
	}
	waitMetric(t, url, `gripway_publish_refused_total{reason="rate"} 2`)
}

func TestLoopbackIsOpenOnlyIfItIsSaidAndNoKeyIsShown(t *testing.T) {
	for _, test := range []struct {
		name   string
		open   bool
		remote string
		header string
		status int
	}{
		{"as it is", false, "127.0.0.1:1", "", 401},
		{"open", true, "127.0.0.1:1", "", 200},
		{"open, IPv6", true, "[::1]:1", "", 200},
		{"open, IPv4 in IPv6", true, "[::ffff:127.0.0.1]:1", "", 200},
		{"open, empty Authorization", true, "127.0.0.1:1", "Authorization: ", 200},
		{"open, a wrong key", true, "127.0.0.1:1", "Authorization: Bearer wrong", 401},
		{"open, a key that is not for it", true, "127.0.0.1:1", "Authorization: Bearer none", 403},
		{"open, from elsewhere", true, "10.0.0.1:1", "", 401},
		{"open, from elsewhere that says it is here", true, "10.0.0.1:1", "X-Forwarded-For: 127.0.0.1", 401},
		{"open, no address", true, "@", "", 401},
	} {
		bus := pubsub.NewMemory()
		c := control.New(control.Options{Bus: bus, LoopbackOpen: test.open, Access: admitted(t, app,
			access.Publisher{Name: "none", Tokens: []string{"none"}, Channels: []string{}})})
		r := httptest.NewRequest("POST", "/publish/", strings.NewReader(oneItem))
		r.RemoteAddr = test.remote
		if name, value, ok := strings.Cut(test.header, ": "); ok {
			r.Header.Set(name, value)
		}
		w := httptest.NewRecorder()
		c.ServeHTTP(w, r)
		if w.Code != test.status {
			t.Errorf("%s: got %d %q, want %d", test.name, w.Code, w.Body, test.status)
		}
		c.Close()
		bus.Close()
	}
}

func TestTheServiceIDIsTheOnlyOne(t *testing.T) {
	_, url := api(t, control.Options{ServiceID: "abc", Access: admitted(t, app)})
	for path, want := range map[string]int{
		"/service/abc/publish/": 200, "/service/abc/publish": 200, "/publish/": 200,
		"/service/ABC/publish/": 404, "/service/abcd/publish/": 404, "/service/*/publish/": 404,
	} {
		if answer, _ := ask(t, "POST", url+path, oneItem, "Fastly-Key: s3cret"); answer.StatusCode != want {
			t.Errorf("%s: got %d, want %d", path, answer.StatusCode, want)
		}
	}
	_, url = api(t, control.Options{})
	if answer, _ := ask(t, "POST", url+"/service/any/publish/", oneItem); answer.StatusCode != 200 {
		t.Errorf("without keys and an id: got %d, want 200", answer.StatusCode)
	}
}

func TestNothingSecretIsLogged(t *testing.T) {
	var mu sync.Mutex
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(writer(func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return out.Write(b)
	}), &slog.HandlerOptions{Level: slog.LevelDebug}))
	_, url := api(t, control.Options{Access: admitted(t, app), Log: log})
	for _, header := range []string{"Authorization: Bearer hunter2", "Authorization: Basic hunter2", "Fastly-Key: hunter2"} {
		ask(t, "POST", url+"/publish/?key=hunter2", oneItem, header)
		time.Sleep(1100 * time.Millisecond) // it is logged once a second
	}
	mu.Lock()
	defer mu.Unlock()
	if text := out.String(); strings.Contains(text, "hunter2") || strings.Count(text, "not admitted") < 2 {
		t.Errorf("got %s", text)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

// A publisher that writes all of its body before it reads gets its 401, and the
// connection lives.
func TestARefusedPublisherReadsItsAnswer(t *testing.T) {
	_, url := api(t, control.Options{Access: admitted(t, app)})
	for range 3 {
		answer, _ := ask(t, "POST", url+"/publish/", strings.Repeat("x", 1_000_000))
		if answer.StatusCode != http.StatusUnauthorized || answer.Close {
			t.Errorf("got %d, close %t, want 401 on a connection that is kept", answer.StatusCode, answer.Close)
		}
	}
}

// What the libraries of this project send is what is taken.
func TestOurPublisherAndListenerAreAdmitted(t *testing.T) {
	_, url := api(t, control.Options{Access: admitted(t, app,
		access.Publisher{Name: "realm", Key: mustKey(t, "base64:aGVsbG8="), Iss: "realm"},
		access.Publisher{Name: "user", User: "me", Password: "pw"})})
	for _, spec := range []string{
		url + "?key=s3cret", url + "/service/abc?key=s3cret", url + "?iss=realm&key=base64:aGVsbG8=",
		strings.Replace(url, "://", "://me:pw@", 1),
	} {
		p, err := grip.NewPublisher(spec)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Publish(t.Context(), &grip.Item{Channel: "a", Stream: &grip.StreamItem{Content: []byte("x")}}); err != nil {
			t.Errorf("%s: %v", spec, err)
		}
		p.Close()
	}
}
