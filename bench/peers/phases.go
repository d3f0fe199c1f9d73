package peers

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/dbake/dbake/bench/real"
)

// Phase is a part of the time of a build.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	// CPU is the processor time of the client in it, in seconds.
	CPU float64 `json:"cpu_seconds"`
}

// phaseRow matches a row of the table that dbake prints with --timings.
var phaseRow = regexp.MustCompile(`^(\S.*?)  +([0-9.]+)s +[0-9]+% +([0-9.]+)s$`)

// parsePhases returns the phases that a build printed at its end; nil when it did not.
func parsePhases(text string) []Phase {
	at := strings.LastIndex(text, "\nPHASE ")
	if at < 0 {
		return nil
	}
	var list []Phase
	for line := range strings.Lines(text[at+1:]) {
		m := phaseRow.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil {
			continue
		}
		p := Phase{Name: m[1]}
		var err error
		if p.Seconds, err = strconv.ParseFloat(m[2], 64); err != nil {
			continue // not a number after all
		}
		if p.CPU, err = strconv.ParseFloat(m[3], 64); err != nil {
			continue // as above
		}
		list = append(list, p)
	}
	return list
}

// writePhases prints a Markdown table of the phases of each contender that says where its time
// went.
func writePhases(w io.Writer, runs []Run) error {
	fmt.Fprintf(w, "\n| project | scenario | contender | phase | seconds | processor seconds |\n|---|---|---|---|---|---|\n")
	base := baseline(runs)
	for _, p := range order(runs, func(r Run) string { return r.Project }) {
		for _, s := range scenarios {
			for _, c := range ranking(runs) {
				if err := collect(runs, p, s, c, base).writePhases(w, fmt.Sprintf("| %s | %s | %s ", p, s, c)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// writePhases prints the medians of the phases of a cell, in their order.
func (c cell) writePhases(w io.Writer, head string) error {
	var names []string
	seconds, cpu := map[string][]float64{}, map[string][]float64{}
	for _, r := range c.runs {
		for _, p := range r.Phases {
			if !slices.Contains(names, p.Name) {
				names = append(names, p.Name)
			}
			seconds[p.Name], cpu[p.Name] = append(seconds[p.Name], p.Seconds), append(cpu[p.Name], p.CPU)
		}
	}
	for _, name := range names {
		if _, err := fmt.Fprintf(w, "%s| %s | %.3f | %.3f |\n", head, name, real.Median(seconds[name]), real.Median(cpu[name])); err != nil {
			return err
		}
	}
	return nil
}
