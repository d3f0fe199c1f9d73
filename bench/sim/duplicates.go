package sim

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/partition/schedfile"
)

// cheap is the cost in seconds below which a vertex of an instance, which says nothing
// of what it does, is taken to be a copy: its result is the same everywhere.
const cheap = 1

// Bind returns p with the rule for what several nodes may execute: vertices that several
// targets need are executed once by "never", and the dear ones by "reproducible", with
// what travels with them.
func Bind(p partition.Problem, rule string) (partition.Problem, error) {
	r, err := plan.ParseDuplicates(rule)
	if err != nil {
		return p, err
	}
	p.Vertices = slices.Clone(p.Vertices)
	targets := make([]map[int]bool, len(p.Vertices))
	for t, target := range p.Targets {
		todo := []partition.VertexID{target.Root}
		for len(todo) > 0 {
			v := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			if targets[v] == nil {
				targets[v] = map[int]bool{}
			}
			if !targets[v][t] {
				targets[v][t] = true
				todo = append(todo, p.Vertices[v].Inputs...)
			}
		}
	}
	for v := range p.Vertices {
		x := &p.Vertices[v]
		above := len(x.Inputs) > 0 && p.Vertices[x.Inputs[0]].Once
		x.Once = r != plan.DuplicatesAny && len(targets[v]) > 1 && (r == plan.DuplicatesNever || x.Cost >= cheap || above)
	}
	for v := len(p.Vertices) - 1; v >= 0; v-- {
		if in := p.Vertices[v].Inputs; p.Vertices[v].Once && len(in) > 0 {
			p.Vertices[in[0]].Once = true
		}
	}
	return p, nil
}

// compareDuplicates prints what the rules cost at several bandwidths.
func (f settings) compareDuplicates(ctx context.Context, instances []schedfile.Instance, s partition.Strategy, w io.Writer) error {
	rules := []plan.Duplicates{plan.DuplicatesAny, plan.DuplicatesReproducible, plan.DuplicatesNever}
	for _, text := range strings.Split(f.bandwidths, ",") {
		bandwidth, err := strconv.ParseFloat(text, 64)
		if err != nil || !(bandwidth > 0) {
			return fmt.Errorf("bandwidth %q is not a number of bytes per second", text)
		}
		sums := map[plan.Duplicates]float64{}
		for _, in := range instances {
			var base float64
			for _, rule := range rules {
				p, err := Bind(in.Problem, string(rule))
				if err != nil {
					return err
				}
				p.Network.Bandwidth = bandwidth
				made, err := s.Plan(ctx, p, f.options)
				if err != nil {
					return fmt.Errorf("%s: %w", in.Name, err)
				}
				makespan := float64(made.Schedule.Makespan)
				if rule == plan.DuplicatesAny {
					base = makespan
				}
				ratio := makespan / base
				sums[rule] += math.Log(ratio)
				if rule != plan.DuplicatesAny && ratio > 1.05 {
					fmt.Fprintf(w, "  %-40s %-12s %8.2f s, any %8.2f s: %.3f\n", in.Name, rule, makespan, base, ratio)
				}
			}
		}
		fmt.Fprintf(w, "%s B/s, %d instances:", text, len(instances))
		for _, rule := range rules[1:] {
			fmt.Fprintf(w, " %s/any %.4f", rule, math.Exp(sums[rule]/float64(len(instances))))
		}
		fmt.Fprintln(w)
	}
	return nil
}
