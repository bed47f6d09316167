package compute

import "time"

var computeRuntimeCalls = map[string]hostcall{
	"get_vcpu_ms":  runtimeVCPU,
	"get_heap_mib": runtimeHeap,

	// What may be bought besides is not here.
	"has_domain_inspector": func(c *call) status { return c.put32(0, 0) },
	"has_image_optimizer":  func(c *call) status { return c.put32(0, 0) },
	"has_origin_inspector": func(c *call) status { return c.put32(0, 0) },
}

// runtimeVCPU is how long the guest itself has run.
func runtimeVCPU(c *call) status {
	return c.put64(0, uint64(c.CPUTime()/time.Millisecond))
}

// mib is a mebibyte, in bytes.
const mib = 1 << 20

// runtimeHeap is its memory and what the host holds for it, rounded up.
func runtimeHeap(c *call) status {
	return c.put32(0, uint32((uint64(c.memory.Size())+uint64(c.held)+mib-1)/mib))
}
