package demo_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// shotsEnv names a folder; if it is set, pictures of the page are put there. (Names
// that begin with GRIPWAY_ are settings of the program.)
const shotsEnv = "DEMO_SHOTS"

// patience is how long the page may take to show something. It is far more than it
// needs: machines that build and test at once are slow.
const patience = 30 * time.Second

func TestTwoWindowsSeeEachOther(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the program and a browser; not with -short")
	}
	gateway := startGateway(t)
	browser := startBrowser(t)
	one := browser.window(t, gateway.page)
	one.sees("#chat-status", "live")
	one.sees("#ticker-status", "live")
	one.sees("#count", "only you")

	two := browser.window(t, gateway.page)
	two.sees("#chat-status", "live")

	t.Run("the second window appears in the first", func(t *testing.T) {
		one, two := one.at(t), two.at(t)
		one.sees("#count", "2 here")
		two.sees("#count", "2 here")
		one.sees("#messages .event", "is here")
	})

	t.Run("what one says the other reads", func(t *testing.T) {
		one, two := one.at(t), two.at(t)
		one.says("Hello from the first window")
		two.sees("#messages .other .text", "Hello from the first window")
		one.sees("#messages .own .text", "Hello from the first window")
		one.measures("#chat-trip")
		two.says("And hello back")
		one.sees("#messages .other .text", "And hello back")
	})

	t.Run("markup is text", func(t *testing.T) {
		one, two := one.at(t), two.at(t)
		const markup = `<img src=x onerror="document.title='broken'"><script>document.title='broken'</script>`
		one.says(markup)
		two.sees("#messages .other .text", markup)
		two.holds(`document.querySelector("#messages img, #messages script, #records img") === null && document.title === "Gripway demo"`)
	})

	t.Run("the other sees that one is typing", func(t *testing.T) {
		one, two := one.at(t), two.at(t)
		two.types("hm")
		one.sees("#typing", "is typing")
		two.says("…")
		one.holds(`document.querySelector("#typing").textContent === ""`)
	})

	t.Run("the ticker moves", func(t *testing.T) {
		one := one.at(t)
		one.sees("#ticker-count", "events")
		before := one.reads("#ticker-count")
		one.holds(fmt.Sprintf(`document.querySelector("#ticker-count").textContent !== %q`, before))
		one.holds(`document.querySelector("#line").getAttribute("d").length > 100`)
		one.measures("#ticker-trip")
	})

	t.Run("an answer in one window is counted in the other", func(t *testing.T) {
		one, two := one.at(t), two.at(t)
		two.do(chromedp.Click(chromedp.CSS("#options button:nth-child(2)")))
		one.sees("#options button:nth-child(2) .votes", "1")
		two.sees("#options button:nth-child(2) .votes", "1")
		two.measures("#poll-trip")
		one.do(chromedp.Click(chromedp.CSS("#options button:nth-child(1)")))
		two.sees("#options button:nth-child(1) .votes", "1")
		one.sees("#poll-left", "Next question in")
	})

	t.Run("the wire shows the exchanges behind it", func(t *testing.T) {
		one := one.at(t)
		one.sees("#records .record[data-panel=chat]", "POST /chat")
		one.sees("#records .record[data-panel=chat]", "Hello from the first window")
		one.sees("#records .record[data-kind=publish][data-panel=chat]", "POST /publish/")
		one.sees("#records .record[data-panel=ticker]", "Grip-Hold: stream")
		one.sees("#records .record[data-panel=poll]", "Grip-Hold: response")
		one.do(chromedp.Click(chromedp.CSS(`#wire-pause`)), chromedp.Click(chromedp.CSS(`[data-filter=poll]`)))
		one.sees("#wire-note", "Paused.")
		one.holds(`[...document.querySelectorAll("#records .record")].every((r) => r.hidden === (r.dataset.panel !== "poll"))`)
		one.do(chromedp.Click(chromedp.CSS(`#records .record[data-panel=poll] summary`)))
		one.sees("#records .record[data-panel=poll] .full", "Content-Type")
		one.do(chromedp.Click(chromedp.CSS(`#records .record[data-panel=poll] summary`)))
		one.do(chromedp.Click(chromedp.CSS(`#wire-pause`)), chromedp.Click(chromedp.CSS(`[data-filter=all]`)))
		one.holds(`/Press a line|came too fast/.test(document.querySelector("#wire-note").textContent)`) // the latter on a busy machine
	})

	t.Run("three windows take all of the browser's connections, and an answer still arrives", func(t *testing.T) {
		one, three := one.at(t), browser.window(t, gateway.page)
		defer three.close()
		three.sees("#chat-status", "live")
		three.sees("#ticker-status", "live")
		three.holds(`document.querySelectorAll("#options button").length > 0`)
		three.do(chromedp.Click(chromedp.CSS("#options button:nth-child(3)")))
		one.sees("#options button:nth-child(3) .votes", "1")
		three.sees("#options button:nth-child(3) .votes", "1")
	})

	t.Run("what is published by hand appears", func(t *testing.T) {
		one, two := one.at(t), two.at(t)
		gateway.publish(t, "chat", "from a terminal")
		one.sees("#messages .by-hand .text", "from a terminal")
		two.sees("#messages .by-hand .text", "from a terminal")
		gateway.publish(t, "ticker", "data: mind the gap\n")
		one.sees("#ticker-note", "mind the gap")
	})

	t.Run("a window that nobody sees keeps only its WebSocket", func(t *testing.T) {
		one := one.at(t)
		one.seen(false)
		for _, status := range []string{"#ticker-status", "#wire-status", "#poll-status"} {
			one.sees(status, "paused while hidden")
		}
		one.says("can you see me?")
		one.sees("#messages .own .text", "can you see me?")
		one.seen(true)
		for _, status := range []string{"#ticker-status", "#wire-status", "#poll-status"} {
			one.sees(status, "live")
		}
	})

	t.Run("it fits phones and desktops, in the light and in the dark", func(t *testing.T) {
		one := one.at(t)
		for _, size := range []struct {
			name          string
			width, height int64
		}{{"desktop", 1280, 900}, {"tablet", 820, 1180}, {"phone", 390, 844}} {
			for _, scheme := range []string{"light", "dark"} {
				one.do(chromedp.EmulateViewport(size.width, size.height), preferring(scheme))
				one.holds(`document.documentElement.scrollWidth <= innerWidth`)
				one.shoot(size.name + "-" + scheme + ".png")
			}
		}
	})

	t.Run("a window that is closed disappears", func(t *testing.T) {
		one, two := one.at(t), two.at(t)
		name := strings.TrimSuffix(two.reads("#people .self .name"), " (you)")
		two.close()
		one.sees("#count", "only you")
		one.sees("#messages .event", name+" left")
	})

	t.Run("the page has nothing to complain about", func(t *testing.T) {
		for _, complaint := range browser.complaints() {
			t.Error(complaint)
		}
	})
}

func TestWindowsComeBackAfterTheGateway(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the program and a browser; not with -short")
	}
	gateway := startGateway(t)
	browser := startBrowser(t)
	one := browser.window(t, gateway.page)
	one.sees("#chat-status", "live")
	one.sees("#people .self .name", "(you)")
	before := one.reads("#people .self .name")

	gateway.stop(t)
	for _, status := range []string{"#chat-status", "#ticker-status", "#poll-status"} {
		one.sees(status, "again in")
	}
	gateway.start(t)
	for _, status := range []string{"#chat-status", "#ticker-status", "#poll-status"} {
		one.sees(status, "live")
	}
	one.says("still here")
	one.sees("#messages .own .text", "still here")
	if after := one.reads("#people .self .name"); after != before {
		t.Errorf("the window is called %q after the gateway came back, was %q", after, before)
	}
}

// built is the program, once a test has asked for it.
var built struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// gateway is gripway demo, built from this checkout.
type gateway struct {
	page            string // URL
	client, control string // addresses

	process *exec.Cmd
	ended   chan struct{} // closed when the process has ended
}

func startGateway(t *testing.T) *gateway {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "gripway-demo"); built.err != nil {
			return
		}
		build := exec.Command("go", "build", "-o", built.dir+string(filepath.Separator), "github.com/gripway/gripway")
		if out, err := build.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	g := &gateway{client: "127.0.0.1:0", control: "127.0.0.1:0"}
	g.start(t)
	t.Cleanup(func() { g.stop(t) })
	return g
}

// start runs the program, on the ports it had before if there are any.
func (g *gateway) start(t *testing.T) {
	t.Helper()
	g.process = exec.Command(filepath.Join(built.dir, "gripway"), "demo",
		"--listen", g.client, "--control-listen", g.control, "--drain-timeout", "1s")
	g.process.Stderr = os.Stderr
	out, err := g.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.process.Start(); err != nil {
		t.Fatal(err)
	}
	g.ended = make(chan struct{})
	ready := make(chan struct{})
	process, ended := g.process, g.ended
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			words := strings.Fields(lines.Text())
			switch {
			case strings.HasPrefix(lines.Text(), "listening for clients on "):
				g.client = words[4]
			case strings.HasPrefix(lines.Text(), "listening for publishers and operators on "):
				g.control = words[6]
			case lines.Text() == "ready":
				close(ready)
			}
		}
		process.Wait()
	}()
	select {
	case <-ready:
		g.page = "http://" + g.client + "/"
	case <-ended:
		t.Fatal("gripway demo ended before it was ready")
	case <-time.After(patience):
		process.Process.Kill()
		t.Fatal("gripway demo is not ready")
	}
}

// stop asks the program to end, and waits until it has.
func (g *gateway) stop(t *testing.T) {
	t.Helper()
	g.process.Process.Signal(syscall.SIGTERM)
	select {
	case <-g.ended:
	case <-time.After(patience):
		g.process.Process.Kill()
		t.Error("gripway demo did not end")
		<-g.ended
	}
}

// publish is what a person would type.
func (g *gateway) publish(t *testing.T, channel, content string) {
	t.Helper()
	out, err := exec.Command(filepath.Join(built.dir, "gripway"), "publish", "--spec", "http://"+g.control, channel, content).CombinedOutput()
	if err != nil {
		t.Fatalf("gripway publish: %v\n%s", err, out)
	}
}

// browser is one Chromium; its windows share their connections.
type browser struct {
	ctx context.Context

	mu   sync.Mutex
	said []string // what the pages complained about
}

func startBrowser(t *testing.T) *browser {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("SKIPPED: no browser here, the page is not tested. Install the package chromium.")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("no-proxy-server", true), chromedp.WindowSize(1280, 900),
	)
	allocated, end := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, _ := chromedp.NewContext(allocated)
	b := &browser{ctx: ctx}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("the console:", strings.Join(b.complaints(), "\n"))
		}
		chromedp.Cancel(ctx) // waits until the browser has ended, so that its folder can be removed
		end()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("browser: %v", err)
	}
	return b
}

// complaints are exceptions, refusals by the page's policy, and whatever else went
// to the console as an error or a warning.
func (b *browser) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.said)
}

// window is one page.
type window struct {
	t     *testing.T
	ctx   context.Context
	close context.CancelFunc
}

func (b *browser) window(t *testing.T, url string) *window {
	t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx)
	t.Cleanup(cancel)
	console := chromedp.Console(ctx)
	go func() {
		for message, err := range console {
			if err != nil {
				return // the window was closed
			}
			switch message.Type {
			case chromedp.ConsoleWarning, chromedp.ConsoleError, chromedp.ConsoleException:
				b.mu.Lock()
				b.said = append(b.said, fmt.Sprintf("%s: %s (%s:%d)", message.Type, message.Text, message.URL, message.Line))
				b.mu.Unlock()
			}
		}
	}()
	w := &window{t: t, ctx: ctx, close: cancel}
	w.do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(url))
	return w
}

// at is the window in a part of the test.
func (w *window) at(t *testing.T) *window {
	return &window{t, w.ctx, w.close}
}

func (w *window) do(actions ...chromedp.Action[chromedp.Void]) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		w.t.Fatal(err)
	}
}

// preferring makes the page light or dark.
func preferring(scheme string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		return err
	})
}

// holds waits until an expression is true. It asks from outside: what waits within
// the page would need eval, which the page's policy forbids.
func (w *window) holds(expression string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	for {
		switch is, err := chromedp.Run(ctx, chromedp.Evaluate[bool](expression)); {
		case ctx.Err() != nil:
			w.t.Fatalf("not within %v: %s", patience, expression)
		case err != nil:
			w.t.Fatalf("%s: %v", expression, err)
		case is:
			return
		}
		time.Sleep(30 * time.Millisecond) // between two questions
	}
}

// sees waits until one of the elements contains a text.
func (w *window) sees(selector, text string) {
	w.t.Helper()
	w.holds(fmt.Sprintf(`[...document.querySelectorAll(%q)].some((e) => e.textContent.includes(%q))`, selector, text))
}

// reads returns the text of an element.
func (w *window) reads(selector string) string {
	w.t.Helper()
	text, err := chromedp.Run(w.ctx, chromedp.TextContent(chromedp.CSS(selector)))
	if err != nil {
		w.t.Fatal(err)
	}
	return text
}

// seen makes the page believe that it is seen or not.
func (w *window) seen(is bool) {
	w.t.Helper()
	state := "hidden"
	if is {
		state = "visible"
	}
	w.holds(fmt.Sprintf(`Object.defineProperty(document, "visibilityState", {value: %q, configurable: true}),
		document.dispatchEvent(new Event("visibilitychange"))`, state))
}

// measures waits until an element shows a duration.
func (w *window) measures(selector string) {
	w.t.Helper()
	w.holds(fmt.Sprintf(`/^\d+(\.\d)? (µs|ms|s)/.test(document.querySelector(%q).textContent)`, selector))
}

func (w *window) types(text string) {
	w.t.Helper()
	w.do(chromedp.SendKeys(chromedp.CSS("#say"), text))
}

func (w *window) says(text string) {
	w.t.Helper()
	w.types(text + "\r")
}

// shoot takes a picture, if somebody wants one.
func (w *window) shoot(name string) {
	w.t.Helper()
	dir := os.Getenv(shotsEnv)
	if dir == "" {
		return
	}
	w.do(chromedp.Sleep(500 * time.Millisecond)) // styles and dots come to rest, for the picture only
	picture, err := chromedp.Run(w.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), picture, 0o666); err != nil {
		w.t.Error(err)
	}
}
