package grip

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

// comparableItem makes items equal that mean the same: what they were parsed from
// and whether no content is nil or empty is of no account.
func comparableItem(item *Item) Item {
	c := *item
	c.raw = nil
	if c.Response != nil {
		r := *c.Response
		r.Body = append([]byte{}, r.Body...)
		c.Response = &r
	}
	if c.Stream != nil {
		s := *c.Stream
		s.Content = append([]byte{}, s.Content...)
		c.Stream = &s
	}
	if c.Message != nil {
		m := *c.Message
		m.Content = append([]byte{}, m.Content...)
		c.Message = &m
	}
	return c
}

func FuzzParseItems(f *testing.F) {
	for _, seed := range seeds(f, "input") {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		items, err := ParseItems(body)
		if !bytes.Equal(body, before) {
			t.Fatal("the body was changed")
		}
		if err != nil {
			var refused *PublishError
			if !errors.As(err, &refused) || refused.Text == "" || items != nil {
				t.Fatalf("error %#v with items %v", err, items)
			}
			return
		}
		for _, item := range items {
			again, err := ParseItem(item.AppendJSON(nil))
			if err != nil {
				t.Fatalf("what we wrote is refused: %v: %s", err, item.AppendJSON(nil))
			}
			if got, want := comparableItem(again), comparableItem(item); !reflect.DeepEqual(got, want) {
				t.Fatalf("written and read again:\n%+v, want\n%+v", got, want)
			}
			raw, err := ParseItem(item.Raw())
			if err != nil {
				t.Fatalf("the raw item is refused: %v: %s", err, item.Raw())
			}
			if len(item.Channels) > 0 { // these are left out
				if raw.Channel != "" || raw.Channels != nil {
					t.Fatalf("the raw item still has channels: %s", item.Raw())
				}
				raw.Channel, raw.Channels = item.Channel, item.Channels
			}
			if got, want := comparableItem(raw), comparableItem(item); !reflect.DeepEqual(got, want) {
				t.Fatalf("read again:\n%+v, want\n%+v", got, want)
			}
		}
	})
}
