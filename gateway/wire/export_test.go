package wire

import "unsafe"

// ConnBytes is what an idle connection takes, without its handler.
const ConnBytes = unsafe.Sizeof(Conn{})
