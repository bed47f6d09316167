// What is told at the end: the table, and the same as JSON.

package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// noisySpread marks figures whose runs lie further apart than this share of
	// their median.
	noisySpread = 0.15

	// busyLoad, for each core, is from where on others disturb the figures.
	busyLoad = 0.4
)

// results are measured values by figure and target.
type results map[string]map[string]*result

// result is one cell of the table.
type result struct {
	Value  float64   // the median of Runs, or Pooled
	Pooled *float64  `json:",omitempty"` // a quantile over the samples of all runs
	Runs   []float64 // one value a run
}

func (r results) at(figure, target string) *result {
	if r[figure] == nil {
		r[figure] = map[string]*result{}
	}
	if r[figure][target] == nil {
		r[figure][target] = &result{}
	}
	return r[figure][target]
}

// machine is where it was measured.
type machine struct {
	System string
	Go     string
	Cores  int
	Load   float64 // average of the last minute, at the start
}

func (m machine) String() string {
	return fmt.Sprintf("%s, %s, %d cores, load %.2f", m.System, m.Go, m.Cores, m.Load)
}

func (m machine) busy() bool { return m.Load > busyLoad*float64(m.Cores) }

// report is everything, ready to be written.
type report struct {
	When     time.Time
	Took     string
	Machine  machine
	Runs     int
	Targets  []string
	Lines    []line
	Remarks  []string `json:",omitempty"`
	Failures []string `json:",omitempty"`
}

// line is one figure of a report.
type line struct {
	Name    string
	Title   string // indented if it belongs to the one above
	Unit    string
	Results map[string]*result `json:",omitempty"` // by target; absent if it was not measured
	Goal    string             `json:",omitempty"`
	Met     *bool              `json:",omitempty"` // by Gripway; absent if there is no goal or no figure
}

func (r results) report(figures []figure, targets []string) report {
	out := report{Targets: targets}
	for _, f := range figures {
		l := line{Name: f.name, Title: f.title, Unit: f.unit, Results: map[string]*result{}}
		for target, cell := range r[f.name] {
			if len(cell.Runs) == 0 {
				continue
			}
			cell.Value = median(cell.Runs)
			if cell.Pooled != nil {
				cell.Value = *cell.Pooled
			}
			l.Results[target] = cell
		}
		floor, haveFloor := 0.0, l.Results["floor"] != nil
		if haveFloor {
			floor = l.Results["floor"].Value
		}
		l.Goal = f.goalText(floor, haveFloor)
		if limit, ok := f.goal(floor, haveFloor); ok && l.Results["gripway"] != nil {
			met := l.Results["gripway"].Value <= limit
			l.Met = &met
		}
		out.Lines = append(out.Lines, l)
	}
	return out
}

// write prints the table.
func (r report) write(w io.Writer) {
	rows := [][]string{append(append([]string{"figure", "unit"}, r.Targets...), "goal", "")}
	noisy := false
	for _, l := range r.Lines {
		row := []string{l.Title, l.Unit}
		for _, target := range r.Targets {
			cell := l.Results[target]
			if cell == nil {
				row = append(row, "–")
				continue
			}
			text := digits(cell.Value)
			if spread(cell.Runs) > noisySpread {
				text, noisy = "~"+text, true
			}
			row = append(row, text)
		}
		verdict := ""
		if l.Met != nil {
			verdict = map[bool]string{true: "met", false: "missed"}[*l.Met]
		}
		rows = append(rows, append(row, l.Goal, verdict))
	}
	fmt.Fprintln(w)
	writeColumns(w, rows, 2, 2+len(r.Targets))
	fmt.Fprintf(w, "\n%s; %s, %d runs each", r.Machine, r.Took, r.Runs)
	if noisy {
		fmt.Fprintf(w, "; ~ runs more than %.0f %% apart", 100*noisySpread)
	}
	fmt.Fprintln(w)
	for _, remark := range r.Remarks {
		fmt.Fprintln(w, "note:", remark)
	}
	for _, failure := range r.Failures {
		fmt.Fprintln(w, "FAILED:", failure)
	}
}

// writeColumns aligns the columns from and to (excluded) to the right, the
// others to the left.
func writeColumns(w io.Writer, rows [][]string, from, to int) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i >= from && i < to {
				b.WriteString(padding + cell + "  ")
			} else {
				b.WriteString(cell + padding + "  ")
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}
