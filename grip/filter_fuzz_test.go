package grip

import (
	"bytes"
	"strings"
	"testing"
)

func FuzzFilters(f *testing.F) {
	f.Add("build-id,var-subst", []byte("%I %(text)I %(a\\)b)s %%"), "id_format=%(room)s", "room=7")
	f.Add("skip-self,skip-users,require-sub", []byte(""), "user=ann", "sender=ann,skip_users=bob")
	f.Add("var-subst", []byte("%"), "", "")
	f.Fuzz(func(t *testing.T, names string, content []byte, subMeta, pubMeta string) {
		meta := func(s string) map[string]string {
			m := make(map[string]string)
			for pair := range strings.SplitSeq(s, ",") {
				name, value, _ := strings.Cut(pair, "=")
				m[name] = value
			}
			return m
		}
		before := bytes.Clone(content)
		ctx := &FilterContext{SubMeta: meta(subMeta), PubMeta: meta(pubMeta), PrevIDs: meta(pubMeta)}
		chain := NewChain(strings.Split(names, ","))
		out, deliver, err := chain.Apply(ctx, content)
		if !bytes.Equal(content, before) {
			t.Fatal("the content was changed")
		}
		if (err != nil || !deliver) && out != nil || err != nil && deliver {
			t.Fatalf("Apply = %q, %v, %v", out, deliver, err)
		}
		if deliver && !chain.RewritesContent() && !bytes.Equal(out, content) {
			t.Fatalf("a chain that does not rewrite made %q of %q", out, content)
		}
		if out, err := chain.Response(ctx, content); err != nil && out != nil {
			t.Fatalf("Response = %q, %v", out, err)
		}
	})
}
