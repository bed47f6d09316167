package main_test

import (
	"testing"

	"github.com/gripway/gripway/examples/internal/readme"
)

func TestWhatTheREADMESaysIsTrue(t *testing.T) {
	readme.Need(t, "curl")
	readme.Open(t, readme.Options{}).TypeAll()
}
