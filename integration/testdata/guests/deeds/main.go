// Command deeds is the guest of the conversations called guest_*: it does what the
// first part of the path says.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/fastly/compute-sdk-go/acl"
	"github.com/fastly/compute-sdk-go/cache/simple"
	"github.com/fastly/compute-sdk-go/configstore"
	"github.com/fastly/compute-sdk-go/erl"
	"github.com/fastly/compute-sdk-go/fsthttp"
	"github.com/fastly/compute-sdk-go/geo"
	"github.com/fastly/compute-sdk-go/kvstore"
	"github.com/fastly/compute-sdk-go/purge"
	"github.com/fastly/compute-sdk-go/rtlog"
	"github.com/fastly/compute-sdk-go/secretstore"
)

func main() { fsthttp.ServeFunc(serve) }

func serve(ctx context.Context, w fsthttp.ResponseWriter, r *fsthttp.Request) {
	deed, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch deed {
	case "answer":
		w.Header().Set("X-Seen", r.Header.Get("X-A"))
		w.Header().Set("X-Client", r.RemoteAddr)
		w.WriteHeader(201)
		fmt.Fprintf(w, "%s %s %s\n", r.Method, r.URL, r.Host)
	case "echo":
		io.Copy(w, r.Body)
	case "fetch", "cached": // fetch/BACKEND/path
		backend, path, _ := strings.Cut(rest, "/")
		r.URL.Path = "/" + path
		r.CacheOptions.Pass = deed == "fetch"
		r.CacheOptions.OverrideKey = r.Header.Get("X-Key")
		response, err := r.Send(ctx, backend)
		if err != nil {
			fsthttp.Error(w, err.Error(), 502)
			return
		}
		w.Header().Reset(response.Header)
		w.WriteHeader(response.StatusCode)
		if _, err := io.Copy(w, response.Body); err != nil {
			panic(err) // what is not whole must not look so
		}
	case "around": // around/BACKEND
		around(ctx, w, r, rest, false)
	case "around-cached":
		around(ctx, w, r, rest, true)
	case "around-once": // around-once/BACKEND: what it keeps is to come from itself
		kept, err := simple.GetOrSet([]byte("around"), func() (simple.CacheEntry, error) {
			around(ctx, w, r, rest, false)
			return simple.CacheEntry{Body: strings.NewReader(""), TTL: time.Second}, nil
		})
		if err != nil {
			fsthttp.Error(w, err.Error(), 500)
			return
		}
		kept.Close()
	case "once": // once/KEY
		kept, err := simple.GetOrSet([]byte(rest), func() (simple.CacheEntry, error) {
			text := time.Now().Format(time.RFC3339Nano)
			return simple.CacheEntry{Body: strings.NewReader(text), TTL: time.Hour}, nil
		})
		if err != nil {
			fsthttp.Error(w, err.Error(), 500)
			return
		}
		io.Copy(w, kept)
	case "look": // look/KIND/NAME
		kind, name, _ := strings.Cut(rest, "/")
		text, err := look(kind, name, r)
		if err != nil {
			text = err.Error()
		}
		fmt.Fprintln(w, text)
	case "purge": // purge/KEY
		if err := purge.PurgeSurrogateKey(rest, purge.PurgeOptions{}); err != nil {
			fsthttp.Error(w, err.Error(), 500)
		}
	case "handoff": // handoff/BACKEND/path: the backend sees another path, and a header
		backend, _, _ := strings.Cut(rest, "/")
		if len(r.Header.Get("X-Read")) > 0 {
			body := make([]byte, 3)
			io.ReadFull(r.Body, body)
			fmt.Printf("read %q\n", body)
		}
		if err := r.HandoffFanout(backend); err != nil {
			fsthttp.Error(w, err.Error(), 500)
			return
		}
		fmt.Println("second:", r.HandoffFanout(backend))
	case "described": // described/ADDRESS/path: a backend of the guest's own
		address, _, _ := strings.Cut(rest, "/")
		if err := r.HandoffFanout(describe(address)); err != nil {
			fsthttp.Error(w, err.Error(), 500)
		}
	case "websocket-described":
		if err := r.HandoffWebsocket(describe(rest)); err != nil {
			fsthttp.Error(w, err.Error(), 500)
		}
	case "times": // times/N/KIND: how often it works
		count, kind, _ := strings.Cut(rest, "/")
		n, _ := strconv.Atoi(count)
		done, err := 0, error(nil)
		for done < n && err == nil {
			if kind == "config" {
				_, err = look(kind, "greeting", r)
			} else {
				err = ask(ctx, "/", "")
			}
			if err == nil {
				done++
			}
		}
		fmt.Fprintln(w, done, err)
	case "long": // long/N/KIND: a value of N bytes
		count, kind, _ := strings.Cut(rest, "/")
		n, _ := strconv.Atoi(count)
		path, value := "/", strings.Repeat("a", n)
		if kind == "url" {
			path, value = "/"+value, ""
		}
		fmt.Fprintln(w, ask(ctx, path, value))
	case "websocket":
		if err := r.HandoffWebsocket(rest); err != nil {
			fsthttp.Error(w, err.Error(), 500)
		}
	case "self":
		self(ctx, w, r)
	case "publish":
		publish(ctx, w, rest)
	case "log":
		rtlog.Open("audit").Write([]byte("a line\nand another"))
		fmt.Println("said")
		fmt.Fprintln(os.Stderr, "complained")
	case "chatter":
		for range 20_000 {
			fmt.Println(strings.Repeat("la ", 30))
		}
	case "empty":
		os.Exit(0)
	case "exit":
		os.Exit(3)
	case "panic":
		panic("out of tea")
	case "spin":
		for i := uint(0); ; i++ {
			spun = i
		}
	case "hog":
		var all [][]byte
		for {
			b := make([]byte, 8<<20)
			for i := range b {
				b[i] = 1
			}
			all = append(all, b)
		}
	case "sleep":
		time.Sleep(time.Hour)
	case "client":
		t := r.TLSInfo
		fmt.Fprintf(w, "%s %s hello=%d ja3=%x ja4=%s\n", t.Protocol, t.CipherOpenSSLName, len(t.ClientHello), t.JA3MD5, t.JA4)
	case "header":
		meta, err := r.FastlyMeta()
		if err != nil {
			fsthttp.Error(w, err.Error(), 500)
			return
		}
		names := originalNames()
		fmt.Fprintf(w, "%d %s h2=%s oh=%s\n", len(names), strings.Join(names, " "), meta.H2, meta.OH)
	case "version":
		fmt.Fprintln(w, "one")
	default:
		fsthttp.Error(w, "no such deed", 404)
	}
}

var spun uint

// ask asks the backend app.
func ask(ctx context.Context, path, value string) error {
	r, err := fsthttp.NewRequest("GET", "http://app.test"+path, nil)
	if err != nil {
		return err
	}
	r.Header.Set("X-Value", value)
	r.CacheOptions.Pass = true
	response, err := r.Send(ctx, "app")
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// describe makes a backend of an address, and returns its name.
func describe(address string) string {
	options := fsthttp.NewBackendOptions().FirstByteTimeout(5 * time.Second).HostOverride("described.test")
	if _, err := fsthttp.RegisterDynamicBackend("mine", address, options); err != nil {
		panic(err)
	}
	return "mine"
}

// around asks a backend for the same again, in a request of its own.
func around(ctx context.Context, w fsthttp.ResponseWriter, r *fsthttp.Request, backend string, cached bool) {
	again, err := fsthttp.NewRequest("GET", r.URL.String(), nil)
	if err != nil {
		fsthttp.Error(w, err.Error(), 500)
		return
	}
	again.CacheOptions.Pass = !cached
	if sig := r.Header.Get("Grip-Sig"); sig != "" { // as the gateway asks it
		again.Header.Set("Grip-Sig", sig)
	}
	response, err := again.Send(ctx, backend)
	if err != nil {
		fsthttp.Error(w, err.Error(), 502)
		return
	}
	w.WriteHeader(response.StatusCode)
	io.Copy(w, response.Body)
}

// self is a guest that is its own origin.
func self(ctx context.Context, w fsthttp.ResponseWriter, r *fsthttp.Request) {
	if r.Header.Get("Grip-Sig") == "" || strings.HasSuffix(r.URL.Path, "/again") {
		if err := r.HandoffFanout("self"); err != nil {
			fsthttp.Error(w, err.Error(), 500)
		}
		return
	}
	if strings.HasSuffix(r.URL.Path, "/around") {
		around(ctx, w, r, "self", false)
		return
	}
	if r.Header.Get("Content-Type") != "application/websocket-events" {
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", "room")
		fmt.Fprintf(w, "from %s\n", r.URL.Path)
		return
	}
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "application/websocket-events")
	w.Header().Set("Sec-WebSocket-Extensions", "grip; message-prefix=\"\"")
	events := string(body)
	for events != "" {
		line, after, _ := strings.Cut(events, "\r\n")
		kind, size, _ := strings.Cut(line, " ")
		content := ""
		if size != "" {
			var n int
			fmt.Sscanf(size, "%x", &n)
			content, after = after[:n], strings.TrimPrefix(after[n:], "\r\n")
		}
		events = after
		switch kind {
		case "OPEN":
			subscribe := `c:{"type":"subscribe","channel":"room"}`
			fmt.Fprintf(w, "OPEN\r\nTEXT %x\r\n%s\r\n", len(subscribe), subscribe)
		case "TEXT":
			answer := "you said " + content
			fmt.Fprintf(w, "TEXT %x\r\n%s\r\n", len(answer), answer)
		case "CLOSE":
			fmt.Fprintf(w, "CLOSE %x\r\n%s\r\n", len(content), content)
		}
	}
}

// publish publishes to a channel as apps of Fastly do.
func publish(ctx context.Context, w fsthttp.ResponseWriter, channel string) {
	items := `{"items":[{"channel":"` + channel + `","formats":{"http-stream":{"content":"published by a guest\n"},"ws-message":{"content":"published by a guest"}}}]}`
	r, err := fsthttp.NewRequest("POST", "https://api.fastly.com/service/1234/publish/", strings.NewReader(items))
	if err != nil {
		fsthttp.Error(w, err.Error(), 500)
		return
	}
	r.Header.Set("Fastly-Key", "token")
	r.CacheOptions.Pass = true
	response, err := r.Send(ctx, "fastly")
	if err != nil {
		fsthttp.Error(w, err.Error(), 502)
		return
	}
	w.WriteHeader(response.StatusCode)
	io.Copy(w, response.Body)
}

// look looks a name up in a store.
func look(kind, name string, r *fsthttp.Request) (string, error) {
	switch kind {
	case "config":
		store, err := configstore.Open("settings")
		if err != nil {
			return "", err
		}
		return store.Get(name)
	case "secret":
		store, err := secretstore.Open("secrets")
		if err != nil {
			return "", err
		}
		secret, err := store.Get(name)
		if err != nil {
			return "", err
		}
		text, err := secret.Plaintext()
		return string(text), err
	case "kv", "put": // of a request with a body, it is appended
		store, err := kvstore.Open("items")
		if err != nil {
			return "", err
		}
		if kind == "put" {
			return "put", store.InsertWithConfig(name, r.Body, &kvstore.InsertConfig{Mode: kvstore.InsertModeAppend, Metadata: []byte("from " + r.Method)})
		}
		entry, err := store.Lookup(name)
		if err != nil {
			return "", err
		}
		return entry.String() + " " + string(entry.Meta()), nil
	case "acl":
		list, err := acl.Open("people")
		if err != nil {
			return "", err
		}
		found, err := list.Lookup(net.ParseIP(name))
		return found.Action + " " + found.Prefix, err
	case "geo":
		where, err := geo.Lookup(net.ParseIP(name))
		if err != nil {
			return "", err
		}
		return where.City + ", " + where.CountryCode3, nil
	case "rate":
		limiter := erl.NewRateLimiter(erl.OpenRateCounter("requests"), erl.OpenPenaltyBox("box"))
		blocked, err := limiter.CheckRate(name, 1, &erl.Policy{RateWindow: erl.RateWindow60s, MaxRate: 10, PenaltyBoxDuration: time.Minute})
		count, err2 := erl.OpenRateCounter("requests").LookupCount(name, erl.CounterDuration60s)
		return fmt.Sprint(blocked, " ", count), errors.Join(err, err2)
	}
	return "", errors.New("nothing of that kind")
}
