package readme

import (
	"fmt"
	"strings"
)

// block is one terminal's next few steps.
type block struct {
	heading string // the last before it
	name    string // of the terminal; "" = one of its own
	line    int    // of the README, counted from 1
	steps   []step
}

// step is a command and what it shows, or, without one, what a running command
// shows next.
type step struct {
	line      int
	command   string // "" = none
	show      []string
	runsOn    bool // it ended with …
	interrupt bool // it ended with ^C
}

// parse finds the blocks of type console.
func parse(text string) ([]block, error) {
	var blocks []block
	var heading string
	var open *block
	fenced := false // within a block, of whatever type
	continued := false
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimRight(line, " \r")
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && fenced:
			if continued {
				return nil, fmt.Errorf("README.md:%d: the command is not continued", i+1)
			}
			if open != nil {
				blocks = append(blocks, *open)
			}
			fenced, open = false, nil
		case isFence:
			fenced = true
			if kind, name, _ := strings.Cut(fence, " "); kind == "console" {
				open = &block{heading: heading, name: strings.TrimSpace(name), line: i + 1}
			}
		case fenced && open != nil:
			if err := open.add(i+1, line, &continued); err != nil {
				return nil, fmt.Errorf("README.md:%d: %w", i+1, err)
			}
		case !fenced && strings.HasPrefix(line, "#"):
			heading = strings.TrimSpace(strings.TrimLeft(line, "#"))
		}
	}
	if fenced {
		return nil, fmt.Errorf("README.md: the last block has no end")
	}
	return blocks, nil
}

// add takes one line of the block.
func (b *block) add(number int, line string, continued *bool) error {
	if *continued {
		*continued = strings.HasSuffix(line, `\`)
		b.steps[len(b.steps)-1].command += "\n" + line
		return nil
	}
	if line == "" {
		return nil
	}
	if command, ok := strings.CutPrefix(line, "$ "); ok {
		if n := len(b.steps); n > 0 && b.steps[n-1].runsOn {
			return fmt.Errorf("a command is typed after one that runs on")
		}
		b.steps = append(b.steps, step{line: number, command: command})
		*continued = strings.HasSuffix(line, `\`)
		return nil
	}
	if len(b.steps) == 0 {
		b.steps = append(b.steps, step{line: number})
	}
	last := &b.steps[len(b.steps)-1]
	switch {
	case last.interrupt:
		return fmt.Errorf("nothing is shown after ^C")
	case line == "^C":
		last.interrupt, last.runsOn = true, false
		return nil
	case last.runsOn: // the … before was not the last line
		last.show = append(last.show, etc)
		last.runsOn = false
	}
	if line == etc {
		last.runsOn = true
		return nil
	}
	last.show = append(last.show, line)
	return nil
}
