package grip_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/gripway/gripway/grip"
)

type meta = map[string]string

func TestFiltersDropAndRewrite(t *testing.T) {
	ids := meta{"room": "7", "b)": "8", "": ""}
	for _, tc := range []struct {
		name     string
		filters  string
		sub, pub meta
		in, want string // want "-" = dropped, "!…" = an error that says …
	}{
		{"no filter", "", nil, nil, "x", "x"},
		{"an unknown filter is ignored", "x-new", nil, nil, "x", "x"},

		{"skip-self, own", "skip-self", meta{"user": "ann"}, meta{"sender": "ann"}, "x", "-"},
		{"skip-self, another's", "skip-self", meta{"user": "ann"}, meta{"sender": "bob"}, "x", "x"},
		{"skip-self, nobody's", "skip-self", meta{"user": ""}, meta{"sender": ""}, "x", "x"},

		{"skip-users, listed", "skip-users", meta{"user": "ann"}, meta{"skip_users": "bob , ann"}, "x", "-"},
		{"skip-users, only similar", "skip-users", meta{"user": "ann"}, meta{"skip_users": "anna,an"}, "x", "x"},
		{"skip-users, nobody", "skip-users", nil, meta{"skip_users": "ann,,"}, "x", "x"},

		{"require-sub, subscribed", "require-sub", nil, meta{"require_sub": "room"}, "x", "x"},
		{"require-sub, not subscribed", "require-sub", nil, meta{"require_sub": "other"}, "x", "-"},
		{"require-sub, nothing required", "require-sub", nil, nil, "x", "x"},

		{"var-subst", "var-subst", meta{"user": "ann", "a)b": "c"}, nil, "%(user)s is 100%% %(a\\)b)s", "ann is 100% c"},
		{"var-subst, an empty value", "var-subst", meta{"user": ""}, nil, "[%(user)s]", "[]"},
		{"var-subst, an unknown variable", "var-subst", nil, nil, "%(user)s", `!no such variable "user"`},
		{"var-subst, a stray percent", "var-subst", nil, nil, "100% of", `!unknown directive ' ' at position 3`},
		{"var-subst, a percent at the end", "var-subst", nil, nil, "100%", `!nothing behind the % at position 3`},
		{"var-subst, never closed", "var-subst", nil, nil, "%(user", `!unfinished directive at position 0`},
		{"var-subst, no directive", "var-subst", nil, nil, "%(user)", `!unfinished directive at position 0`},
		{"var-subst, no argument", "var-subst", nil, nil, "%s", `!needs an argument`},
		{"var-subst, another directive", "var-subst", meta{"user": "ann"}, nil, "%(user)d", `!unknown directive 'd'`},

		{"build-id", "build-id", meta{"id_format": "v%(room)s-%(b\\))s"}, nil, "id: %I %%\n", "id: v7-8 %\n"},
		{"build-id of a text", "build-id", meta{"id_format": ""}, nil, "%(abc)I%()I", "abc"},
		{"build-id in hex", "build-id", meta{"id_format": "%(room)s", "id_encoding": "hex"}, nil, "%I %(abc)I", "37 616263"},
		{"build-id in an encoding nobody knows", "build-id", meta{"id_format": "", "id_encoding": "rot13"}, nil, "", "!unsupported encoding"},
		{"build-id without a format", "build-id", nil, nil, "x", "!no sub meta 'id_format'"},
		{"build-id of an unknown channel", "build-id", meta{"id_format": "%(x)s"}, nil, "x", `!no such variable "x"`},

		{"one after the other", "build-id,var-subst", meta{"id_format": "%%(user)s", "user": "ann"}, nil, "%I", "ann"},
		{"a drop ends it", "skip-self,var-subst", meta{"user": "ann"}, meta{"sender": "ann"}, "%(x)s", "-"},
		{"http-check without a way to ask", "http-check", nil, nil, "x", "!no way to ask"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx := &grip.FilterContext{SubMeta: tc.sub, PubMeta: tc.pub, PrevIDs: ids, Subscribed: func(channel string) bool { return channel == "room" }}
			out, deliver, err := grip.NewChain(strings.Split(tc.filters, ",")).Apply(ctx, []byte(tc.in))
			got := string(out)
			switch {
			case err != nil:
				if want, isError := strings.CutPrefix(tc.want, "!"); isError && strings.Contains(err.Error(), want) {
					return
				}
				got = "!" + err.Error()
			case !deliver:
				got = "-"
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestFirstAnswerHasNoIDsButTexts(t *testing.T) {
	chain := grip.NewChain([]string{"skip-self", "build-id", "var-subst"})
	ctx := &grip.FilterContext{SubMeta: meta{"id_format": "%(room)s"}}
	out, err := chain.Response(ctx, []byte("id: %(abc)I\n"))
	if err != nil || string(out) != "id: abc\n" {
		t.Errorf("Response = %q, %v", out, err)
	}
	if out, err := chain.Response(ctx, []byte("id: %I\n")); err == nil {
		t.Errorf("Response of a bare %%I = %q, want an error", out)
	}
	if !chain.RewritesResponse() {
		t.Error("RewritesResponse = false")
	}
	out, err = grip.NewChain([]string{"var-subst"}).Response(ctx, []byte("%I"))
	if err != nil || string(out) != "%I" {
		t.Errorf("var-subst touched an answer: %q, %v", out, err)
	}
}

func TestChainKnowsWhetherFramesCanBeShared(t *testing.T) {
	for names, want := range map[string]bool{"": false, "skip-self,skip-users,require-sub,http-check,x": false, "build-id": true, "var-subst": true, "http-modify": true} {
		if got := grip.NewChain(strings.Split(names, ",")).RewritesContent(); got != want {
			t.Errorf("RewritesContent of %q = %v, want %v", names, got, want)
		}
	}
	if chain := grip.NewChain([]string{"x"}); chain != nil {
		t.Errorf("NewChain of unknown filters = %v, want nil", chain)
	}
}

func TestContentFiltersMustMatchExactly(t *testing.T) {
	chain := grip.NewChain([]string{"skip-self", "build-id", "x", "var-subst"})
	for want, ok := range map[string]bool{"build-id,var-subst": true, "var-subst,build-id": false, "build-id": false, "build-id,var-subst,x": false} {
		if got := chain.HasContentFilters(strings.Split(want, ",")); got != ok {
			t.Errorf("HasContentFilters(%s) = %v, want %v", want, got, ok)
		}
	}
	if !grip.Chain(nil).HasContentFilters(nil) {
		t.Error("no filters do not match no filters")
	}
}

func TestHTTPFiltersAskWhomTheyAreGiven(t *testing.T) {
	ctx := &grip.FilterContext{HTTP: func(filter grip.Filter, content []byte) ([]byte, bool, error) {
		switch string(content) {
		case "drop":
			return nil, false, nil
		case "fail":
			return nil, false, errors.New("no answer")
		}
		return append([]byte(filter.String()+" "), content...), true, nil
	}}
	chain := grip.NewChain([]string{"http-modify"})
	if out, deliver, err := chain.Apply(ctx, []byte("x")); string(out) != "http-modify x" || !deliver || err != nil {
		t.Errorf("Apply = %q, %v, %v", out, deliver, err)
	}
	if out, deliver, err := chain.Apply(ctx, []byte("drop")); out != nil || deliver || err != nil {
		t.Errorf("Apply = %q, %v, %v", out, deliver, err)
	}
	if _, deliver, err := chain.Apply(ctx, []byte("fail")); deliver || err == nil || !strings.Contains(err.Error(), "http-modify") {
		t.Errorf("Apply = %v, %v", deliver, err)
	}
}
