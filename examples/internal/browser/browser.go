// Package browser drives Chromium for the examples' tests: what their pages do
// is checked where it happens.
package browser

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

const (
	// timeout bounds all that a test does with its window.
	timeout = 90 * time.Second

	// actionTimeout bounds each thing it does.
	actionTimeout = 20 * time.Second

	// pollInterval is how often a page is looked at.
	pollInterval = 20 * time.Millisecond
)

// Window is a page that a test looks at.
type Window struct {
	t   *testing.T
	ctx context.Context
}

// Open opens a window, for as long as the test runs. It skips the test, loudly,
// where there is no Chromium.
func Open(t *testing.T) *Window {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("SKIPPED, what pages do is not checked: no chromium here")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path))
	for _, flag := range []string{
		"headless", "disable-gpu", "disable-quic", "no-first-run",
		"disable-background-networking", "disable-component-update", "disable-sync",
	} {
		options = append(options, chromedp.Flag(flag, true))
	}
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium has none for root
	}
	ctx, cancelTimeout := context.WithTimeout(context.Background(), timeout)
	ctx, cancelBrowser := chromedp.NewExecAllocator(ctx, options...)
	ctx, cancelWindow := chromedp.NewContext(ctx)
	if err := chromedp.Do(ctx); err != nil { // starts it
		t.Fatal(err)
	}
	t.Cleanup(func() {
		chromedp.Cancel(ctx) // waits until it has gone
		cancelWindow()
		cancelBrowser()
		cancelTimeout()
	})
	return &Window{t, ctx}
}

// Visit goes to a page.
func (w *Window) Visit(url string) {
	w.t.Helper()
	w.do("visit "+url, chromedp.Navigate(url))
}

// Types types into what a selector finds; \n is the key Enter.
func (w *Window) Types(selector, text string) {
	w.t.Helper()
	w.do("type "+text, chromedp.SendKeys(chromedp.CSS(selector), text))
}

// Clicks clicks what a selector finds.
func (w *Window) Clicks(selector string) {
	w.t.Helper()
	w.do("click "+selector, chromedp.Click(chromedp.CSS(selector)))
}

// Shows waits until the page shows a text.
func (w *Window) Shows(text string) {
	w.t.Helper()
	w.do("wait for "+text, chromedp.PollFunction[chromedp.Void](
		"text => document.body.innerText.includes(text)", chromedp.WithPollingInterval(pollInterval), chromedp.WithPollingArgs(text)))
}

func (w *Window) do(what string, action chromedp.Action[chromedp.Void]) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, actionTimeout)
	defer cancel()
	if err := chromedp.Do(ctx, action); err != nil {
		shown, _ := chromedp.Run(w.ctx, chromedp.Evaluate[string]("document.body.innerText"))
		w.t.Fatalf("%s: %v\nthe page shows\n%s", what, err, shown)
	}
}
