//go:build fsthttp_guest_cache

package main

import "github.com/fastly/compute-sdk-go/fsthttp"

// look sees each response before it is kept: here the program drives the cache. What
// is not there is looked for again soon.
func look(o *fsthttp.CacheOptions) {
	o.AfterSend = func(response *fsthttp.CandidateResponse) error {
		if status, err := response.Status(); err != nil || status != fsthttp.StatusNotFound {
			return err
		}
		response.SetTTL(1)
		return response.SetHeader("X-Looked-At", "by the guest")
	}
}
