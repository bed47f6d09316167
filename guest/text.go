package guest

import (
	"bytes"

	"github.com/gripway/gripway/guest/internal/wasm"
	"github.com/gripway/gripway/guest/internal/wat"
)

// Binary is the module in a file, as Load wants it: that of one in WebAssembly's text
// form (.wat) is assembled, and errors name its line. What is neither is refused.
func Binary(file []byte) ([]byte, error) {
	switch {
	case bytes.HasPrefix(file, []byte(wasm.Magic)):
		return file, nil
	case wat.IsText(file):
		return wat.Assemble(file)
	}
	return nil, wasm.ErrNotWasm
}
