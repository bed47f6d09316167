package grip_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/gripway/gripway/grip"
)

func TestControlMessagesMeanWhatOthersMeanByThem(t *testing.T) {
	check(t, "control_valid.txtar", controlVector)
}

func TestBadControlMessagesAreRefused(t *testing.T) {
	check(t, "control_invalid.txtar", controlVector)
}

func controlVector(v *vector) ([]string, error) {
	control, err := grip.ParseControl([]byte(v.input))
	if err != nil {
		return nil, err
	}
	line, err := json.Marshal(control)
	return []string{string(line)}, err
}

func TestControlKeepsNothingOfTheMessage(t *testing.T) {
	data := []byte(`{"type":"keep-alive","content":"kkk","timeout":7}`)
	control, err := grip.ParseControl(data)
	if err != nil {
		t.Fatal(err)
	}
	clear(data)
	if string(control.Content) != "kkk" || !control.HasContent || control.Timeout != 7*time.Second {
		t.Errorf("changed with the message: %+v", control)
	}
}

func TestControlThatAsksForNothingIsNotWritten(t *testing.T) {
	for _, control := range []grip.Control{
		{Type: grip.ControlSubscribe},
		{Type: grip.ControlUnsubscribe},
		{Type: grip.ControlSetMeta},
		{Type: grip.ControlType(99)},
	} {
		if data, err := json.Marshal(control); err == nil {
			t.Errorf("%v: %s, want an error", control.Type, data)
		}
	}
}

func TestControlGoesThroughEncodingJSON(t *testing.T) {
	var control grip.Control
	if err := json.Unmarshal([]byte(`{"type":"subscribe","channel":"a"}`), &control); err != nil || control.Channel != "a" {
		t.Errorf("Unmarshal = %+v, %v", control, err)
	}
	if err := json.Unmarshal([]byte(`{"type":"subscribe"}`), &control); err == nil {
		t.Error("a subscribe without a channel is taken")
	}
	if got := grip.ControlFlushDelayed.String(); got != "flush-delayed" {
		t.Errorf("String = %q", got)
	}
}
