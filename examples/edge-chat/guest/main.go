// Command guest is a chat that needs no server: the program at the edge lets clients
// in, hands them off to Fanout with itself as the origin, and is asked as that by
// Fanout from then on.
//
//	client ── WebSocket ──► guest: who is it? ── hands off to "self" ──► Fanout
//	                        guest: what was said? ◄── one request each ────┘
//	                          └── publishes ──► Fanout ──► everybody in the room
package main

import (
	"context"
	_ "embed"
	"fmt"
	"log"
	"net/http"
	"strings"
	"time"

	"github.com/fastly/compute-sdk-go/fsthttp"
	"github.com/fastly/compute-sdk-go/secretstore"
	"github.com/golang-jwt/jwt/v5"

	"github.com/gripway/gripway/grip"
	"github.com/gripway/gripway/wsoverhttp"
)

const (
	// loginFor is how long a token lets its owner in.
	loginFor = 12 * time.Hour

	// nameBytesMax and textBytesMax bound what a client may say.
	nameBytesMax = 40
	textBytesMax = 4_000

	// channel is where everybody is.
	channel = "edge-chat"
)

//go:embed index.html
var page []byte

func main() { fsthttp.ServeFunc(serve) }

func serve(ctx context.Context, w fsthttp.ResponseWriter, r *fsthttp.Request) {
	keys, err := readKeys()
	if err != nil {
		log.Println(err)
		fsthttp.Error(w, "not configured", fsthttp.StatusInternalServerError)
		return
	}
	switch {
	case r.Header.Get("Grip-Sig") != "":
		// From Fanout, or so it says: it is asked for more than its word.
		fsthttp.Adapt(origin(keys)).ServeHTTP(ctx, w, r)
	case r.URL.Path == "/" && r.Method == "GET":
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write(page)
	case r.URL.Path == "/login" && r.Method == "POST":
		fsthttp.Adapt(http.HandlerFunc(keys.login)).ServeHTTP(ctx, w, r)
	case r.URL.Path == "/chat":
		if _, err := keys.whoIs(r.URL.Query().Get("token")); err != nil {
			fsthttp.Error(w, "log in first", fsthttp.StatusUnauthorized)
			return
		}
		if err := r.HandoffFanout("self"); err != nil {
			log.Println(err)
			fsthttp.Error(w, "no Fanout here", fsthttp.StatusInternalServerError)
		}
	default:
		fsthttp.NotFound(w, r)
	}
}

// keys are what is secret.
type keys struct {
	loginKey []byte // signs the tokens of those who have logged in
	gripURL  string // where to publish, and whose signature to believe
}

// readKeys reads the secret store.
func readKeys() (*keys, error) {
	store, err := secretstore.Open("keys")
	if err != nil {
		return nil, fmt.Errorf("secret store keys: %w", err)
	}
	read := func(name string) []byte {
		secret, e := store.Get(name)
		var text []byte
		if e == nil {
			text, e = secret.Plaintext()
		}
		if e != nil && err == nil {
			err = fmt.Errorf("secret %s: %w", name, e)
		}
		return text
	}
	k := &keys{loginKey: read("login"), gripURL: string(read("grip-url"))}
	return k, err
}

// login gives out tokens. This one believes everybody; yours would not.
func (k *keys) login(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimSpace(r.FormValue("name"))
	if name == "" || len(name) > nameBytesMax {
		http.Error(w, fmt.Sprintf("want a name of at most %d bytes", nameBytesMax), http.StatusBadRequest)
		return
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{
		Subject: name, ExpiresAt: jwt.NewNumericDate(time.Now().Add(loginFor)),
	}).SignedString(k.loginKey)
	if err != nil {
		http.Error(w, "no token", http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, token)
}

// whoIs returns whose token it is.
func (k *keys) whoIs(token string) (name string, err error) {
	var claims jwt.RegisteredClaims
	_, err = jwt.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return k.loginKey, nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired())
	return claims.Subject, err
}

// origin answers what Fanout asks about the WebSockets it holds.
func origin(k *keys) http.Handler {
	publisher, err := grip.PublisherOptions{Client: &http.Client{Transport: fsthttp.NewTransport("fastly")}}.New(k.gripURL)
	if err != nil {
		log.Println(err)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "not configured", http.StatusInternalServerError)
		})
	}
	say := func(c *wsoverhttp.Conn, line string) {
		item := &grip.Item{Channel: channel, Message: &grip.MessageItem{Content: []byte(line)}}
		if err := publisher.Publish(c.Request.Context(), item); err != nil {
			log.Println("publish:", err)
		}
	}
	sockets := &wsoverhttp.Handler{
		Open: func(c *wsoverhttp.Conn) {
			name, err := k.whoIs(c.Request.URL.Query().Get("token"))
			if err != nil {
				c.Refuse(http.StatusUnauthorized, "log in first\n")
				return
			}
			c.SetMeta("name", name)
			c.Subscribe(channel)
			c.SendText("welcome, " + name)
		},
		Message: func(c *wsoverhttp.Conn, m wsoverhttp.Message) {
			if m.Binary || len(m.Content) > textBytesMax {
				c.Close(1003, "want a short text")
				return
			}
			say(c, c.Meta("name")+": "+m.String())
		},
		Close:      func(c *wsoverhttp.Conn, code int, reason string) { say(c, c.Meta("name")+" has left") },
		Disconnect: func(c *wsoverhttp.Conn) { say(c, c.Meta("name")+" has left") },
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := publisher.VerifyRequest(r); err != nil {
			log.Println("Grip-Sig:", err)
			http.Error(w, "come through Fanout", http.StatusForbidden)
			return
		}
		sockets.ServeHTTP(w, r)
	})
}
