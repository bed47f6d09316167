package guest

import "context"

// park is called before each function that may be the first to want a request.
func park(ctx context.Context, stack []uint64) { stack[0] = 1 }
