package main

import (
	"math"
	"strings"
	"testing"
)

func TestMedianIsTheMiddle(t *testing.T) {
	tests := []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{3, 1, 2}, 2},
		{[]float64{4, 1, 2, 3}, 2.5},
	}
	for _, test := range tests {
		if got := median(test.values); got != test.want {
			t.Errorf("median of %v is %v, want %v", test.values, got, test.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing is %v, want NaN", got)
	}
}

func TestQuantileIsAValueThatOccurred(t *testing.T) {
	var hundred []float64
	for i := range 100 {
		hundred = append(hundred, float64(100-i))
	}
	tests := []struct {
		values  []float64
		q, want float64
	}{
		{hundred, 0.5, 50},
		{hundred, 0.99, 99},
		{hundred, 1, 100},
		{hundred, 0, 1},
		{[]float64{7}, 0.99, 7},
		{[]float64{1, 9}, 0.99, 9},
	}
	for _, test := range tests {
		if got := quantile(test.values, test.q); got != test.want {
			t.Errorf("quantile %v of %d values is %v, want %v", test.q, len(test.values), got, test.want)
		}
	}
}

func TestSpreadIsAShareOfTheMedian(t *testing.T) {
	if got := spread([]float64{9, 10, 11}); got != 0.2 {
		t.Errorf("got %v, want 0.2", got)
	}
	for _, values := range [][]float64{nil, {5}, {0, 0}} {
		if got := spread(values); got != 0 {
			t.Errorf("spread of %v is %v, want 0", values, got)
		}
	}
}

func TestDigitsShowWhatMeansSomething(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.034: "0.03", 0.87: "0.87", 5.94: "5.9", 99.96: "100", 100.4: "100", 12345.6: "12 346", 1234567: "1 234 567", -1234: "-1 234",
	} {
		if got := digits(v); got != want {
			t.Errorf("%v is written %q, want %q", v, got, want)
		}
	}
	if got := digits(math.NaN()); got != "–" {
		t.Errorf("nothing is written %q, want –", got)
	}
}

func TestFiguresAreChosenByNameScenarioOrPattern(t *testing.T) {
	figures := allFigures(defaultSettings)
	tests := []struct {
		list string
		want string
	}{
		{"poll", "poll"},
		{"proxy", "proxy-many proxy-one"},
		{"one,poll", "one poll"},
		{"held-*-bytes", "held-stream-bytes held-ws-bytes"},
		{"channels-batch,channels", "channels-single channels-batch"},
	}
	for _, test := range tests {
		chosen, err := choose(figures, test.list)
		if err != nil {
			t.Errorf("%s: %v", test.list, err)
		}
		var names []string
		for _, f := range chosen {
			names = append(names, f.name)
		}
		if got := strings.Join(names, " "); got != test.want {
			t.Errorf("%s: got %s, want %s", test.list, got, test.want)
		}
	}
	if all, err := choose(figures, ""); len(all) != len(figures) || err != nil {
		t.Errorf("an empty list keeps %d of %d, error %v", len(all), len(figures), err)
	}
	for _, list := range []string{"nonsense", "poll,", "["} {
		if _, err := choose(figures, list); err == nil {
			t.Errorf("%q: no error", list)
		}
	}
}

func TestFigureNamesDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range allFigures(defaultSettings) {
		if seen[f.name] {
			t.Errorf("%s occurs twice", f.name)
		}
		seen[f.name] = true
	}
}

func TestTableHoldsGripwayAgainstItsGoals(t *testing.T) {
	figures := []figure{
		{name: "a", title: "of the floor", unit: "s", ofFloor: 1.5},
		{name: "b", title: "absolute", unit: "s", atMost: 10},
		{name: "c", title: "without a goal", unit: "s"},
		{name: "d", title: "not measured", unit: "s", atMost: 1},
	}
	r := results{}
	r.at("a", "floor").Runs = []float64{2, 2, 2}
	r.at("a", "gripway").Runs = []float64{2.9, 3.1, 9}
	r.at("b", "gripway").Runs = []float64{9}
	r.at("c", "gripway").Runs = []float64{1234}
	pooled := 8.0
	r.at("b", "floor").Pooled = &pooled
	r.at("b", "floor").Runs = []float64{1, 2}

	out := r.report(figures, []string{"gripway", "floor"})
	out.Remarks = []string{"a remark"}
	out.Failures = []string{"a failure"}
	var b strings.Builder
	out.write(&b)
	got := strings.Split(strings.TrimSpace(b.String()), "\n")
	want := []string{
		"figure          unit  gripway  floor  goal",
		"of the floor    s        ~3.1    2.0  ≤ 3.0 (1.5×floor)  missed",
		"absolute        s         9.0   ~8.0  ≤ 10.0             met",
		"without a goal  s       1 234      –",
		"not measured    s           –      –  ≤ 1.0",
	}
	for i, line := range want {
		if got[i] != line {
			t.Errorf("line %d:\n got %q\nwant %q", i, got[i], line)
		}
	}
	for _, text := range []string{"note: a remark", "FAILED: a failure", "~ runs more than 15 % apart"} {
		if !strings.Contains(b.String(), text) {
			t.Errorf("%q is missing from:\n%s", text, b.String())
		}
	}
}
