package demo

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"regexp"

	"github.com/gripway/gripway/wsoverhttp"
)

// What people are called. 40 by 40 makes it unlikely that two in a room have one
// name; their ids differ anyway.
var (
	firstNames = [...]string{
		"Amber", "Azure", "Brave", "Bright", "Calm", "Clever", "Copper", "Coral", "Cosmic", "Crimson",
		"Curious", "Dapper", "Eager", "Fabled", "Gentle", "Golden", "Happy", "Hidden", "Honest", "Indigo",
		"Ivory", "Jade", "Jolly", "Keen", "Lively", "Lucky", "Lunar", "Mellow", "Merry", "Nimble",
		"Noble", "Opal", "Quiet", "Rapid", "Ruby", "Silver", "Sunny", "Velvet", "Vivid", "Witty",
	}
	lastNames = [...]string{
		"Badger", "Beaver", "Bison", "Crane", "Cricket", "Dolphin", "Falcon", "Ferret", "Finch", "Fox",
		"Gecko", "Hare", "Hedgehog", "Heron", "Ibis", "Jay", "Kestrel", "Koala", "Lark", "Lemur",
		"Lynx", "Magpie", "Marten", "Moose", "Newt", "Ocelot", "Otter", "Owl", "Panda", "Pelican",
		"Puffin", "Raven", "Robin", "Seal", "Sparrow", "Stoat", "Swift", "Tapir", "Toucan", "Wren",
	}
)

// windowID is what a window may call itself: long enough not to be guessed.
var windowID = regexp.MustCompile(`^[0-9A-Za-z_-]{16,64}$`)

// personID is a person's id, as it comes back in a connection's meta.
var personID = regexp.MustCompile(`^[0-9a-f]{12}$`)

// windowPerson is who opens a connection: the window that it names in ?who=, or
// somebody new.
func windowPerson(conn *wsoverhttp.Conn) person {
	secret := conn.Request.URL.Query().Get("who")
	if !windowID.MatchString(secret) {
		secret = conn.ID
	}
	hash := sha256.Sum256([]byte("gripway demo\n" + secret))
	return personWith(hex.EncodeToString(hash[:6]))
}

// metaPerson is who opened the connection earlier.
func metaPerson(conn *wsoverhttp.Conn) person {
	if id := conn.Meta("Person"); personID.MatchString(id) {
		return personWith(id)
	}
	return windowPerson(conn)
}

// personWith is the person with an id that personID matches.
func personWith(id string) person {
	hash := sha256.Sum256([]byte(id))
	first := firstNames[int(hash[0])%len(firstNames)]
	last := lastNames[int(hash[1])%len(lastNames)]
	// Steps of 20 degrees: hues that are closer look alike.
	return person{ID: id, Name: first + " " + last, Hue: int(binary.BigEndian.Uint16(hash[2:])) % 18 * 20}
}
