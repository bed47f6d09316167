//go:build !race

package natsbus_test

const race = false
