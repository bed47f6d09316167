//go:build !unix

package origin

// watch: there is no way to look at a socket without reading here. A request on
// a connection that the origin has closed is sent again if that is safe.
func (c *conn) watch() {}

func (c *conn) alive() bool { return true }

func (c *conn) readable() bool { return false }
