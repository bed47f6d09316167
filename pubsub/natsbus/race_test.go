//go:build race

package natsbus_test

// The race detector has sync.Pool forget on purpose.
const race = true
