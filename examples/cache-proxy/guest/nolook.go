//go:build !fsthttp_guest_cache

package main

import "github.com/fastly/compute-sdk-go/fsthttp"

// look would need the build tag fsthttp_guest_cache.
func look(*fsthttp.CacheOptions) {}
