package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
)

// ACL is one access list. It may be used concurrently.
type ACL struct{ file *live[*networks] }

// NewACL opens a list. Its file is read again when it changes.
func NewACL(path string, log *slog.Logger) (*ACL, error) {
	file, err := newLive(path, log, readNetworks)
	return &ACL{file}, err
}

// ACLEntry is a network and what to do with it.
type ACLEntry struct {
	Prefix netip.Prefix
	Action string // ALLOW, BLOCK, or another word
}

// Lookup returns the entry of the smallest network that addr is in.
func (l *ACL) Lookup(addr netip.Addr) (ACLEntry, bool) { return l.file.get().lookup(addr) }

// networks are the entries of a list by their prefix, and the lengths there are.
type networks struct {
	actions      map[netip.Prefix]string
	bits4, bits6 []int // descending
}

func (n *networks) lookup(addr netip.Addr) (ACLEntry, bool) {
	addr = addr.WithZone("")
	lengths := n.bits6
	if addr.Is4() {
		lengths = n.bits4
	}
	for _, bits := range lengths {
		prefix, err := addr.Prefix(bits)
		if err != nil {
			continue
		}
		if action, ok := n.actions[prefix]; ok {
			return ACLEntry{prefix, action}, true
		}
	}
	return ACLEntry{}, false
}

// CheckACL says what is wrong with the file of a list.
func CheckACL(data []byte) error {
	_, err := readNetworks(data)
	return err
}

// readNetworks reads a list in the form of Fastly's API. Its op (create, update)
// says nothing here; delete would.
func readNetworks(data []byte) (*networks, error) {
	var list struct {
		Entries *[]struct{ Op, Prefix, Action string } `json:"entries"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, jsonError(data, err)
	}
	if list.Entries == nil {
		return nil, errors.New(`want {"entries": [{"prefix": "192.0.2.0/24", "action": "BLOCK"}]}`)
	}
	n := &networks{actions: make(map[netip.Prefix]string)}
	var has4, has6 [129]bool
	for i, entry := range *list.Entries {
		prefix, err := netip.ParsePrefix(entry.Prefix)
		switch {
		case err != nil:
			return nil, fmt.Errorf("entry %d: prefix %q: want an address and a length, like 192.0.2.0/24", i, entry.Prefix)
		case prefix.Bits() == 0:
			return nil, fmt.Errorf("entry %d: prefix %q: want a length of at least 1", i, entry.Prefix)
		case entry.Action == "":
			return nil, fmt.Errorf("entry %d: want an action, like BLOCK or ALLOW", i)
		case entry.Op == "delete":
			return nil, fmt.Errorf("entry %d: op %q: want create or update; what is not in the file is deleted", i, entry.Op)
		}
		action := entry.Action
		if upper := strings.ToUpper(action); upper == "ALLOW" || upper == "BLOCK" {
			action = upper
		}
		n.actions[prefix.Masked()] = action // the last one of a prefix counts
		if prefix.Addr().Is4() {
			has4[prefix.Bits()] = true
		} else {
			has6[prefix.Bits()] = true
		}
	}
	for bits := 128; bits > 0; bits-- {
		if has4[bits] {
			n.bits4 = append(n.bits4, bits)
		}
		if has6[bits] {
			n.bits6 = append(n.bits6, bits)
		}
	}
	return n, nil
}
