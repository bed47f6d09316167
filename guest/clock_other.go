//go:build !linux

package guest

// readProcessorTime is unknown here.
func readProcessorTime() (t processorTime, known bool) { return t, false }
