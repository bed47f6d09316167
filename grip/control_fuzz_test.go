package grip

import (
	"errors"
	"reflect"
	"testing"
)

func FuzzParseControl(f *testing.F) {
	for _, seed := range seeds(f, "input") {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		control, err := ParseControl(data)
		if err != nil {
			var refused *ControlError
			if !errors.As(err, &refused) || refused.Text == "" {
				t.Fatalf("error %#v", err)
			}
			return
		}
		written, err := control.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseControl(written)
		if err != nil {
			t.Fatalf("what we wrote is refused: %v: %s", err, written)
		}
		if !control.HasContent { // then it is not said what would be sent how
			control.MessageType = Text
		}
		if !reflect.DeepEqual(again, control) {
			t.Fatalf("written and read again:\n%+v, want\n%+v", again, control)
		}
	})
}
