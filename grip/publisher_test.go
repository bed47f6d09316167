package grip_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gripway/gripway/grip"
)

// control stands in for a gateway's publish port.
type control struct {
	*httptest.Server

	mu       sync.Mutex
	requests []*http.Request
	bodies   []string
}

// newControl answers with handle, or with what Pushpin answers if that is nil.
func newControl(t *testing.T, handle http.HandlerFunc) *control {
	c := &control{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		c.mu.Lock()
		c.requests = append(c.requests, r)
		c.bodies = append(c.bodies, string(body))
		c.mu.Unlock()
		if handle != nil {
			handle(w, r)
			return
		}
		if _, err := grip.ParseItems(body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		io.WriteString(w, "Published\n")
	}))
	t.Cleanup(c.Close)
	return c
}

// with returns the control's URL with credentials, a path and a query.
func (c *control) with(user, rest string) string {
	return strings.Replace(c.URL, "http://", "http://"+user, 1) + rest
}

func message(channel, content string) *grip.Item {
	return &grip.Item{Channel: channel, Message: &grip.MessageItem{Content: []byte(content)}}
}

func mustPublisher(t *testing.T, gripURLs ...string) *grip.Publisher {
	t.Helper()
	p, err := grip.NewPublisher(gripURLs...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestPublishSendsAllItemsInOneRequest(t *testing.T) {
	c := newControl(t, nil)
	p := mustPublisher(t, c.URL+"/")
	if err := p.Publish(t.Context(), message("a", "1"), message("b", "2")); err != nil {
		t.Fatal(err)
	}
	want := `{"items":[{"channel":"a","formats":{"ws-message":{"content":"1"}}},{"channel":"b","formats":{"ws-message":{"content":"2"}}}]}`
	if len(c.bodies) != 1 || c.bodies[0] != want {
		t.Errorf("bodies %q, want %q", c.bodies, want)
	}
	r := c.requests[0]
	if r.Method != "POST" || r.RequestURI != "/publish/" || r.Header.Get("Content-Type") != "application/json" || r.ContentLength != int64(len(want)) {
		t.Errorf("request %s %s, %v, length %d", r.Method, r.RequestURI, r.Header, r.ContentLength)
	}
	if auth, ok := r.Header["Authorization"]; ok {
		t.Errorf("Authorization: %q, want none", auth)
	}
}

func TestPublishAuthorisesAsTheURLSays(t *testing.T) {
	for _, tc := range []struct {
		name, user, rest string
		uri, want        string // want begins Authorization; "JWT" = a token of realm and the secret "sec+ret?"
	}{
		{"open", "", "", "/publish/", ""},
		{"a slash too many", "", "/base//", "/base/publish/", ""},
		{"other parameters are kept", "", "/base/?x=%2f&key=k&y=a+b", "/base/publish/?x=%2f&y=a+b", "Bearer k"},
		{"a path with an escape", "", "/a%2Fb/", "/a%2Fb/publish/", ""},
		{"a token", "", "?key=abc%20d", "/publish/", "Bearer abc d"},
		{"a token in base64 stays so", "", "?key=base64:c2VjK3JldD8=", "/publish/", "Bearer base64:c2VjK3JldD8="},
		{"a signed token", "", "?iss=realm&key=sec%2Bret%3F", "/publish/", "JWT"},
		{"a secret in base64", "", "?iss=realm&key=base64:c2VjK3JldD8=", "/publish/", "JWT"},
		{"a secret in base64, escaped", "", "?iss=realm&key=base64%3Ac2VjK3JldD8%3D", "/publish/", "JWT"},
		{"user and password", "ann:pa%20ss@", "", "/publish/", "Basic YW5uOnBhIHNz"},
		{"a key wins over a user", "ann:pass@", "?key=k", "/publish/", "Bearer k"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newControl(t, nil)
			p := mustPublisher(t, c.with(tc.user, tc.rest))
			if err := p.Publish(t.Context(), message("a", "1")); err != nil {
				t.Fatal(err)
			}
			r := c.requests[0]
			if r.RequestURI != tc.uri {
				t.Errorf("URI %s, want %s", r.RequestURI, tc.uri)
			}
			got := r.Header.Get("Authorization")
			if tc.want != "JWT" {
				if got != tc.want {
					t.Errorf("Authorization: %s, want %s", got, tc.want)
				}
				return
			}
			token, ok := strings.CutPrefix(got, "Bearer ")
			v := grip.NewVerifier("realm", mustKey(t, "sec+ret?"))
			if err := v.Verify(token, time.Now().Add(9*time.Minute)); !ok || err != nil {
				t.Errorf("Authorization: %s: %v", got, err)
			}
			if err := v.Verify(token, time.Now().Add(11*time.Minute)); err == nil {
				t.Error("the token lives longer than ten minutes")
			}
		})
	}
}

// A plus in base64 is a plus, although in a query it means a space.
func TestPlusInAKeySurvivesTheQuery(t *testing.T) {
	secret := "\xfb\xef\xbe" // "++++" in base64
	token, err := grip.NewSigner("realm", mustKey(t, secret)).Sign(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"base64:++++", "base64:%2B%2B%2B%2B", "base64:----", "base64:%20%20%20%20"} {
		e, err := grip.ParseEndpoint("http://localhost/?iss=realm&key=" + key)
		if err != nil {
			t.Fatal(err)
		}
		if err := grip.NewVerifier("", e.VerifyKey).Verify(token, time.Now()); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestBadURLsAreRefusedWithoutShowingTheirKey(t *testing.T) {
	for _, tc := range []struct{ name, gripURL string }{
		{"nothing", ""},
		{"no scheme", "localhost:5561?key=hush"},
		{"another scheme", "tcp://localhost:5560?key=hush"},
		{"no host", "http:///?key=hush"},
		{"a bad port", "http://user:hush@localhost:x/?key=hush"},
		{"a bad escape", "http://localhost?key=%zzhush"},
		{"an issuer without a key", "http://localhost?iss=hush"},
		{"a key that cannot sign", "http://localhost?iss=hush&key=" + url.QueryEscape(grip.FastlyKey)},
		{"a key from a file", "http://localhost?iss=a&key=file:hush"},
		{"base64 that is none", "http://localhost?iss=a&key=base64:!hush"},
		{"a verify-key that is broken", "http://localhost?verify-key=base64:!hush"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := grip.NewPublisher(tc.gripURL)
			if err == nil || p != nil || strings.Contains(err.Error(), "hush") {
				t.Errorf("NewPublisher = %v, %v, want an error that shows nothing", p, err)
			}
		})
	}
	if _, err := grip.NewPublisher(); err == nil {
		t.Error("a publisher without a URL")
	}
}

func TestRefusalCarriesStatusAndWords(t *testing.T) {
	c := newControl(t, func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "Invalid format: no formats specified", http.StatusBadRequest)
	})
	err := mustPublisher(t, c.URL+"?key=hush&x=hush").Publish(t.Context(), message("a", "1"))
	var refused *grip.ResponseError
	if !errors.As(err, &refused) || refused.Status != 400 || string(refused.Body) != "Invalid format: no formats specified\n" {
		t.Fatalf("error %#v", err)
	}
	want := "grip: publish to " + c.URL + "/publish/: 400 Bad Request: Invalid format: no formats specified"
	if err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
}

func TestLongRefusalIsCut(t *testing.T) {
	c := newControl(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(500)
		io.WriteString(w, strings.Repeat("x", 1_000_000))
	})
	err := mustPublisher(t, c.URL).Publish(t.Context(), message("a", "1"))
	var refused *grip.ResponseError
	if !errors.As(err, &refused) || len(refused.Body) != 4096 {
		t.Errorf("error with %d bytes, want 4096", len(refused.Body))
	}
}

// A 301 would turn the POST into a GET and the publish into nothing.
func TestRedirectIsARefusal(t *testing.T) {
	c := newControl(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere/", 301) })
	err := mustPublisher(t, c.URL).Publish(t.Context(), message("a", "1"))
	var refused *grip.ResponseError
	if !errors.As(err, &refused) || refused.Status != 301 || len(c.requests) != 1 {
		t.Errorf("error %v after %d requests, want a 301 after one", err, len(c.requests))
	}
}

func TestEveryGatewayGetsEveryItemAndOneRefusalHidesNoOther(t *testing.T) {
	good, bad := newControl(t, nil), newControl(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
	also := newControl(t, nil)
	err := mustPublisher(t, bad.URL, good.URL, also.URL, "http://127.0.0.1:1").Publish(t.Context(), message("a", "1"))
	var refused *grip.ResponseError
	if !errors.As(err, &refused) || refused.Status != 503 || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("error %v, want both", err)
	}
	if len(good.bodies) != 1 || len(also.bodies) != 1 || len(bad.bodies) != 1 {
		t.Errorf("requests %d %d %d, want one each", len(good.bodies), len(also.bodies), len(bad.bodies))
	}
}

func TestPublishEndsWithItsContextOrItsTimeout(t *testing.T) {
	release := make(chan struct{})
	c := newControl(t, func(w http.ResponseWriter, r *http.Request) { <-release })
	t.Cleanup(func() { close(release) }) // before the server is closed
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if err := mustPublisher(t, c.URL).Publish(ctx, message("a", "1")); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	p, err := grip.PublisherOptions{Timeout: 20 * time.Millisecond}.New(c.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Publish(t.Context(), message("a", "1")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want context.DeadlineExceeded", err)
	}
}

func TestItemsThatNobodyCouldGetAreNotSent(t *testing.T) {
	c := newControl(t, nil)
	p := mustPublisher(t, c.URL)
	if err := p.Publish(t.Context()); err != nil {
		t.Errorf("no items: %v", err)
	}
	if err := p.Publish(t.Context(), message("a", "1"), message("", "2")); !errors.Is(err, grip.ErrNoChannel) || !strings.Contains(err.Error(), "item 1") {
		t.Errorf("error %v, want ErrNoChannel for item 1", err)
	}
	if err := p.Publish(t.Context(), &grip.Item{Channel: "a"}); !errors.Is(err, grip.ErrNoFormat) {
		t.Errorf("error %v, want ErrNoFormat", err)
	}
	p.Close()
	if err := p.Publish(t.Context(), message("a", "1")); !errors.Is(err, grip.ErrClosed) {
		t.Errorf("error %v, want ErrClosed", err)
	}
	if len(c.requests) != 0 {
		t.Errorf("%d requests, want none", len(c.requests))
	}
}

func TestPrefixStandsBeforeEveryChannel(t *testing.T) {
	c := newControl(t, nil)
	p, err := grip.PublisherOptions{Prefix: "px-", Client: c.Client()}.New(c.URL)
	if err != nil {
		t.Fatal(err)
	}
	item := message("a", "1")
	if err := p.Publish(t.Context(), item); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(c.bodies[0], `"channel":"px-a"`) || item.Channel != "a" {
		t.Errorf("body %s, item's channel %q", c.bodies[0], item.Channel)
	}
}

func TestPublisherTellsItsGatewaysFromOthers(t *testing.T) {
	now := time.Now()
	sign := func(iss, key string) string {
		token, err := grip.NewSigner(iss, mustKey(t, key)).Sign(now)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	for _, tc := range []struct {
		name, token string
		gripURLs    []string
		want        string // "" = believed
	}{
		{"key and issuer verify as well", sign("other", "changeme"), []string{"http://h?iss=realm&key=changeme"}, ""},
		{"another secret", sign("other", "changed"), []string{"http://h?iss=realm&key=changeme"}, "signature is invalid"},
		{"a verify-key of its own", sign("pushpin", "v"), []string{"http://h?iss=realm&key=changeme&verify-key=v&verify-iss=pushpin"}, ""},
		{"then the key does not verify", sign("pushpin", "changeme"), []string{"http://h?iss=realm&key=changeme&verify-key=v"}, "signature is invalid"},
		{"another issuer", sign("other", "v"), []string{"http://h?verify-key=v&verify-iss=pushpin"}, "invalid issuer"},
		{"one of several", sign("pushpin", "v"), []string{"http://a", "http://b?verify-key=w", "http://c?verify-key=v"}, ""},
		{"no key to verify with", sign("pushpin", "v"), []string{"http://a?key=token"}, grip.ErrNoKey.Error()},
		{"no token", "", []string{"http://a?verify-key=v"}, grip.ErrNoSignature.Error()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			if tc.token != "" {
				r.Header.Set("Grip-Sig", tc.token)
			}
			err := mustPublisher(t, tc.gripURLs...).VerifyRequest(r)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("VerifyRequest = %v, want %q", err, tc.want)
			}
		})
	}
}

func TestEnvironmentNamesTheGateway(t *testing.T) {
	c := newControl(t, nil)
	t.Setenv("GRIP_URL", c.URL+"?iss=realm&key=changeme&verify-key=w")
	t.Setenv("GRIP_VERIFY_KEY", "base64:dg==")
	p, err := grip.PublisherFromEnv()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Publish(t.Context(), message("a", "1")); err != nil || len(c.requests) != 1 {
		t.Errorf("Publish = %v after %d requests", err, len(c.requests))
	}
	token, _ := grip.NewSigner("x", mustKey(t, "v")).Sign(time.Now())
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Grip-Sig", token)
	if err := p.VerifyRequest(r); err != nil {
		t.Errorf("GRIP_VERIFY_KEY is not what verifies: %v", err)
	}
	t.Setenv("GRIP_URL", "nonsense")
	if _, err := grip.PublisherFromEnv(); err == nil {
		t.Error("nonsense in GRIP_URL is taken")
	}
}

func TestJSGripsURLsMeanTheSame(t *testing.T) {
	// publishUri and the parsed parts of @fanoutio/grip 4.3.0. The space that
	// it makes of a plus it turns back when it decodes.
	for _, tc := range []struct{ gripURL, publishURL, iss, token string }{
		{"http://localhost:5561/", "http://localhost:5561/publish/", "", ""},
		{"http://localhost:5561/base/?iss=realm&key=base64:c2VjcmV0+w==&x=1&verify-iss=a", "http://localhost:5561/base/publish/?x=1", "realm", ""},
		{"https://host/?key=a+b", "https://host/publish/", "", "a b"},
	} {
		e, err := grip.ParseEndpoint(tc.gripURL)
		if err != nil || e.PublishURL != tc.publishURL || e.Iss != tc.iss || e.Token != tc.token {
			t.Errorf("%s: %q, iss %q, token %q, %v", tc.gripURL, e.PublishURL, e.Iss, e.Token, err)
		}
	}
}
