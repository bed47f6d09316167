package main_test

import (
	"testing"

	"github.com/gripway/gripway/examples/internal/readme"
)

func TestWhatTheREADMESaysIsTrue(t *testing.T) {
	readme.Need(t, "curl")
	r := readme.Open(t, readme.Options{Ports: []int{7998, 7997, 5562, 5563, 6222, 6223, 4222}})
	r.TypeAll()
}
