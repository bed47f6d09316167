package grip

import (
	"bytes"
	"testing"
)

func TestAReceiptIsTheFirstAndGoesAsItCame(t *testing.T) {
	for _, raw := range []string{
		`{"channel":"a","formats":{"http-stream":{"content":"x"}}}`,
		`{ "x" : 1 ,"http-stream":{"content":"x"}}`,
		`{"gripway-receipt":"theirs","channel":"a","formats":{"http-stream":{"content":"x"}}}`,
	} {
		with := AppendReceipt(nil, []byte(raw), "ours-7")
		item, err := ParseItem(with)
		if err != nil || item.Receipt != "ours-7" {
			t.Errorf("%s: got receipt %q, %v", with, item.Receipt, err)
		}
		if got := WithoutReceipt(with); !bytes.Equal(got, []byte(raw)) {
			t.Errorf("without it: got %s, want %s", got, raw)
		}
	}
	for _, raw := range []string{`{}`, ``, `{"gripway-receipt":"x"}`, `{"gripway-receipt":5,"a":1}`, `[1]`} {
		if got := WithoutReceipt([]byte(raw)); string(got) != raw {
			t.Errorf("got %s, want %s as it was", got, raw)
		}
	}
}
