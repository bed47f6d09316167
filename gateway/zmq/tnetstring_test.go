package zmq

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// TestATnetstringIsReadAndWritten has values as the specification (tnetstrings.org)
// and Pushpin write them.
func TestATnetstringIsReadAndWritten(t *testing.T) {
	for _, test := range []struct {
		name, text string
		value      any
	}{
		{"nothing in a dictionary", "0:}", dict{}},
		{"nothing in a list", "0:]", []any{}},
		{"the specification's example", "51:5:hello,39:11:12345678901#4:this,4:true!0:~4:\x00\x00\x00\x00,]}",
			dict{"hello": []any{int64(12345678901), []byte("this"), true, nil, []byte("\x00\x00\x00\x00")}}},
		{"a whole number", "5:12345#", int64(12345)},
		{"a negative number", "2:-1#", int64(-1)},
		{"bytes", "12:this is cool,", []byte("this is cool")},
		{"no bytes", "0:,", []byte{}},
		{"nothing", "0:~", nil},
		{"true", "4:true!", true},
		{"false", "5:false!", false},
		{"a number that is not whole", "3:1.5^", 1.5},
		{"bytes that look like the end", "4:0:~,,", []byte("0:~,")},
		{"a list", "24:5:12345#5:67890#5:xxxxx,]", []any{int64(12345), int64(67890), []byte("xxxxx")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			value, err := readTnetstring([]byte(test.text))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(value, test.value) {
				t.Errorf("got %#v, want %#v", value, test.value)
			}
			if text := string(appendTnetstring(nil, test.value)); text != test.text {
				t.Errorf("written: got %q, want %q", text, test.text)
			}
		})
	}
}

func TestWhatIsNoTnetstringIsRefused(t *testing.T) {
	deep := "0:~"
	for range tnetDepthMax + 1 {
		deep = string(appendTnet(nil, deep, ']'))
	}
	for _, test := range []struct{ name, text string }{
		{"nothing at all", ""},
		{"no length", ":a,"},
		{"a length that does not end", "12"},
		{"a negative length", "-1:,"},
		{"a length that begins with 0", "01:a,"},
		{"a length of too many digits", "99999999999:a,"},
		{"content shorter than its length", "5:hell,"},
		{"no type", "5:hello"},
		{"unknown type", "1:a?"},
		{"bytes behind the value", "1:a,x"},
		{"a value that ends after its list", "4:3:ab,]"},
		{"a key without a value", "4:1:a,}"},
		{"a key that is a number", "8:1:1#1:a,}"},
		{"a number that is a word", "3:one#"},
		{"a number of more than 64 bits", "20:99999999999999999999#"},
		{"no number", "3:nan^"},
		{"endless", "3:inf^"},
		{"neither true nor false", "4:True!"},
		{"nothing that is something", "1:x~"},
		{"deeper than the limit", deep},
	} {
		t.Run(test.name, func(t *testing.T) {
			if value, err := readTnetstring([]byte(test.text)); !errors.Is(err, errTnetstring) {
				t.Errorf("got %#v, %v, want %v", value, err, errTnetstring)
			}
		})
	}
}

func FuzzTnetstring(f *testing.F) {
	for _, seed := range []string{"0:~", "24:5:12345#5:67890#5:xxxxx,]", "8:1:a,1:1#}", strings.Repeat("1:", 40), pushpinPublished} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		value, err := readTnetstring(data)
		if err != nil {
			return
		}
		once := appendTnetstring(nil, value)
		again, err := readTnetstring(once)
		if err != nil {
			t.Fatalf("%q was read, and written as %q: %v", data, once, err)
		}
		if twice := appendTnetstring(nil, again); !bytes.Equal(once, twice) {
			t.Fatalf("got %q, want %q", twice, once)
		}
		// Whatever it says, it is an item or an error.
		if item, err := readItem(data, true); err == nil && item.Raw() == nil {
			t.Fatalf("%q is an item without JSON", data)
		}
	})
}
