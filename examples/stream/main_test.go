package main_test

import (
	"testing"

	"github.com/gripway/gripway/examples/internal/browser"
	"github.com/gripway/gripway/examples/internal/readme"
)

func TestWhatTheREADMESaysIsTrue(t *testing.T) {
	readme.Need(t, "curl")
	r := readme.Open(t, readme.Options{})
	r.TypeAll()
}

func TestThePageShowsTheNews(t *testing.T) {
	r := readme.Open(t, readme.Options{})
	window := browser.Open(t)
	r.Type("Start")
	window.Visit("http://" + r.Addr(readme.Clients) + "/")
	window.Shows("welcome")
	window.Types("input", "Is there tea?\n")
	window.Shows("Is there tea?")
	r.Skip("Read", "Push", "The end")
}
